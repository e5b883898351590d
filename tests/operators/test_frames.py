"""The fast reader of frames: what it reads it reads as the JSON decoder does, and no more."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.market import FrameOptions, Scenario, default_assets, lines
from operators import native
from operators.feed import FeedReader, FeedState, Item
from operators.layout import BOOK, CONTEXT, QUOTE, TRADE, quotes_of
from operators.records import Ticks

pytestmark = pytest.mark.skipif(
    native.compiled("frames") is None, reason="the fast reader is not compiled here"
)

START = 1_767_225_600_000
NS = 1_000_000


@pytest.fixture(scope="module")
def log() -> list[bytes]:
    """Return some minutes of a market with every kind of frame, thousands of lines."""
    options = FrameOptions(quote_ms=(1000, 2000, 4000, 6000), book_ms=3000, ctx_ms=3000)
    scenario = Scenario(7, START, 4, default_assets(5), frames=options)
    return [line.rstrip(b"\n") for line in lines(scenario)]


def reader(*, fast: bool, state: FeedState | None = None) -> FeedReader:
    """Return a reader, with or without what is tested here."""
    found = FeedReader(
        state or FeedState(), lateness_ms=1500, grace_ms=3000, arrival_jump_gap_ms=5000
    )
    if not fast:
        found._fast = None
    return found


def plainly(items: list[Item]) -> Iterator[Any]:
    """Yield items in a form that tells bits apart; micro-batches without anything are none."""
    for uid, item in items:
        if isinstance(item, Ticks):
            data = (item.trades, item.quotes, item.books, item.contexts)
            if any(data) or item.rejects:
                yield uid, *map(bytes, data), item.rejects
        else:
            yield uid, item


def outcome(given_lines: list[bytes], cuts: list[int], *, fast: bool) -> tuple[Any, bytes]:
    """Return what both ways of reading must agree on: items, and all that is remembered."""
    feed, items, at = reader(fast=fast), [], 0
    for cut in [*cuts, len(given_lines)]:
        items += list(plainly(feed.read(given_lines[at:cut])))
        at = cut
    return items, msgspec.msgpack.encode(feed.state)


def assert_same(given_lines: list[bytes], cuts: list[int]) -> None:
    """Read lines both ways."""
    assert outcome(given_lines, cuts, fast=True) == outcome(given_lines, cuts, fast=False)


def slow_lines(given_lines: list[bytes], monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the lines that the fast reader leaves to the other one."""
    left: list[bytes] = []
    whole = FeedReader._line

    def line(self: FeedReader, text: bytes, items: list[Item]) -> None:
        left.append(text)
        whole(self, text, items)

    monkeypatch.setattr(FeedReader, "_line", line)
    reader(fast=True).read(given_lines)
    return left


def test_a_market_is_read_alike(log: list[bytes]) -> None:
    """In one piece, and in pieces of any size."""
    assert_same(log, [])
    assert_same(log, list(range(1, len(log), 7)))


def test_nearly_all_lines_are_for_it(log: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left: control records, acknowledgements, pongs, and the line that closes a minute."""
    left = slow_lines(log, monkeypatch)
    channels = [line.split(b'"')[3] for line in left]
    ticks = [name for name in channels if name in (b"bbo", b"trades", b"l2Book", b"activeAssetCtx")]
    assert len(log) > 2000
    assert len(ticks) <= 10


def test_frames_as_the_venue_sent_them(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recorded frame of its channels is read here; each both ways alike."""
    path = shared_data / "hyperliquid" / "ws" / "ws_frames_by_channel.jsonl"
    frames = [line[line.index('"frame":') + 8 : -1] for line in path.read_text().splitlines()]
    coins = ("BTC", "SOL", "HYPE", "MATIC", "ETH")
    assets = [{"uid": uid, "coin": coin} for uid, coin in enumerate(coins)]
    roster = {"channel": "alpha.roster", "data": {"from_ms": 0, "assets": assets}}
    stamp = START * NS
    given_lines = [b"%d %b" % (stamp, json.dumps(roster).encode())]
    given_lines.append(b'%d {"channel":"alpha.clock"}' % stamp)
    given_lines += [b"%d %b" % (stamp + k, frame.encode()) for k, frame in enumerate(frames)]
    assert_same(given_lines, [])
    known = ('"bbo"', '"trades"', '"l2Book"', '"activeAssetCtx"')
    own = [f for f in frames if f.startswith(tuple('{"channel":' + name for name in known))]
    left = [line for line in slow_lines(given_lines, monkeypatch) if line[20:].decode() in own]
    assert len(own) >= 12
    assert left == []


@settings(max_examples=300)
@given(st.data())
def test_damaged_lines_are_read_alike(log: list[bytes], data: st.DataObject) -> None:
    """Bytes changed, left out, doubled or put elsewhere, anywhere in a stretch of lines."""
    start = data.draw(st.integers(1, len(log) - 40))
    stretch = [log[0], *log[1:30], *log[start : start + 30]]
    for _ in range(data.draw(st.integers(1, 12))):
        index = data.draw(st.integers(1, len(stretch) - 1))
        line = bytearray(stretch[index])
        at = data.draw(st.integers(0, max(0, len(line) - 1)))
        way = data.draw(st.sampled_from(("set", "drop", "double", "insert", "swap", "cut")))
        if way == "set" and line:
            line[at] = data.draw(st.integers(0, 255))
        elif way == "drop":
            del line[at : at + data.draw(st.integers(1, 4))]
        elif way == "double":
            line[at:at] = line[at : at + data.draw(st.integers(1, 30))]
        elif way == "insert":
            line[at:at] = data.draw(st.sampled_from(_PIECES))
        elif way == "cut":
            del line[at:]
        else:
            stretch[index], stretch[-1] = stretch[-1], stretch[index]
            continue
        stretch[index] = bytes(line)
    cut = data.draw(st.integers(0, len(stretch)))
    assert_same(stretch, [cut])


_PIECES = (
    *(b" ", b"0", b"-", b".", b"e5", b'"', b"null", b"true", b"\\u0041", b"\xc3\xa9", b"\xff"),
    *(b"9" * 20, b",", b"]", b"}", b'"px":"1"', b"1e400", b"NaN", b"\x00", b"\t", b'"coin":"BTC",'),
)


def quote_line(px: str, sz: str) -> bytes:
    """Return a line whose bid has a price and size as they are written."""
    frame = f'{{"channel":"bbo","data":{{"coin":"A","time":{START},"bbo":[{{"px":"{px}",'
    frame += f'"sz":"{sz}","n":1}},null]}}}}'
    return b"%d %b" % (START * NS + 1, frame.encode())


def opening(coin: str = "A") -> bytes:
    """Return a line that opens a log and makes a coin known."""
    frame = f'{{"channel":"bbo","data":{{"coin":"{coin}","time":{START},"bbo":[null,null]}}}}'
    return b"%d %b" % (START * NS, frame.encode())


numbers = st.one_of(
    st.from_regex(r"\A[0-9]{1,12}(\.[0-9]{1,9})?\Z"),
    st.from_regex(r"\A-?0?\.?[0-9]{0,17}\.?[0-9]{0,24}(e[-+]?[0-9]{1,3})?\Z"),
    st.floats(1e-12, 1e12).map(repr),
    st.sampled_from(("", ".", "1.", ".5", "00.1", "0", "-0.0", "1e5", "inf", "1_0", "+1", " 1")),
)


@settings(max_examples=500)
@given(numbers, numbers)
def test_oracle_decimals(px: str, sz: str) -> None:
    """The double next to the text, as `float` has it; text that is no decimal is read alike."""
    log = [opening(), quote_line(px, sz)]
    assert_same(log, [])
    feed = reader(fast=True)
    for _, item in feed.read(log):
        if isinstance(item, Ticks) and not item.rejects and len(item.quotes) > QUOTE.size:
            (_, found) = quotes_of(item.quotes)
            assert found.bid_px is not None
            assert struct.pack("<d", found.bid_px) == struct.pack("<d", float(px))


@pytest.mark.parametrize(
    ("stamp", "told"),
    [("9223372036854775808", True), ("18446744073709551616", True), ("0" * 20, True), ("", True)],
)
def test_stamps_that_are_none(stamp: str, told: bool) -> None:
    """Too long, too large, or not there: both ways say the same."""
    line = opening()
    odd = stamp.encode() + line[line.index(b" ") :]
    assert_same([line, odd, line], [])
    assert (odd == b"") is not told


@pytest.mark.parametrize(
    "context",
    [
        '{"openInterest":"1.5","markPx":"2.5","oraclePx":"0.0","funding":"-0.0000125"}',
        '{"openInterest":null,"markPx":null,"oraclePx":null,"funding":null}',
        '{"funding":"1","markPx":"2","markPx":"3"}',
        '{"funding":"0.1","prevDayPx":"1.0","impactPxs":["1","2"],"premium":null,"x":[[],1.5]}',
        '{"markPx":"-1"}',
        '{"markPx":"1e12"}',
        '{"openInterest":"-0.0"}',
        '{"openInterest":1.5}',
        "{}",
        '{"x":{"y":1}}',
        '{"x":[[[[[[1]]]]]]}',
    ],
)
def test_contexts_in_any_order_and_size(context: str) -> None:
    """Members that nobody reads are passed over; nulls, bounds and doubles as the decoder has."""
    frame = f'{{"channel":"activeAssetCtx","data":{{"coin":"A","ctx":{context}}}}}'
    line = b"%d %b" % (START * NS + 5, frame.encode())
    first = line.replace(b'"ctx":' + context.encode(), b'"ctx":{"markPx":"1"}')
    assert_same([first, line, line], [1])


def test_the_records_are_those_of_the_layout(log: list[bytes]) -> None:
    """Whole records only, with missing numbers as NaN."""
    sizes = {"trades": TRADE, "quotes": QUOTE, "books": BOOK, "contexts": CONTEXT}
    seen = dict.fromkeys(sizes, 0)
    for _, item in reader(fast=True).read(log):
        if isinstance(item, Ticks):
            for kind, layout in sizes.items():
                data = getattr(item, kind)
                assert len(data) % layout.size == 0
                seen[kind] += len(data) // layout.size
    assert min(seen.values()) > 50, seen
    (one,) = reader(fast=True).read([opening()])
    assert isinstance(one[1], Ticks)
    assert all(math.isnan(x) for x in QUOTE.unpack(one[1].quotes)[2:])
