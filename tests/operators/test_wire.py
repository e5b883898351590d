"""Every documented frame decodes; everything else is one counted reason."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import wire
from operators.records import Book, Context, Quote, Trade

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "hyperliquid" / "ws"

TRADE = {
    "coin": "BTC",
    "side": "B",
    "px": "80639.0",
    "sz": "0.00022",
    "time": 1788490042052,
    "hash": "0x0",
    "tid": 1095884267920331,
    "users": ["0xa", "0xb"],
}


def frame(channel: str, data: object) -> bytes:
    """Return a frame as the venue sends it."""
    return json.dumps({"channel": channel, "data": data}).encode()


def test_a_trade_keeps_its_numbers_and_its_aggressor() -> None:
    """B is a taker buy; prices and sizes arrive as text."""
    message, bad = wire.decode(frame("trades", [TRADE, {**TRADE, "side": "A"}]))
    assert isinstance(message, wire.WireTrades)
    assert bad == 0
    buy, sell = (wire.trade_of(entry, 7) for entry in message.data)
    assert buy == Trade(7, 1788490042052, 80639.0, 0.00022, True, 1095884267920331)
    assert isinstance(sell, Trade)
    assert not sell.is_buy


def test_one_bad_entry_costs_only_itself() -> None:
    """A frame with a malformed print still delivers the others."""
    entries = [TRADE, {**TRADE, "px": {}}, {**TRADE, "tid": 2}, "junk"]
    message, bad = wire.decode(frame("trades", entries))
    assert isinstance(message, wire.WireTrades)
    assert [entry.tid for entry in message.data] == [TRADE["tid"], 2]
    assert bad == 2


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"channel":"\xb7bo"}',
        b'{"channel":"bbo","data":{"coin":"\xb7"}}',
        b'{"channel":"trades","data":[{"coin":"\xff"}]}',
        b'{"channel":"alpha.gap","data":{"start_ms":1,"cause":"\xff"}}',
        b"\xff",
    ],
)
def test_text_that_is_not_utf_8_is_rejected(damaged: bytes) -> None:
    """One damaged byte in a text must not end the flow, and every restart after it."""
    with pytest.raises(wire.Reject):
        wire.decode(damaged)


def test_a_print_that_is_not_utf_8_costs_only_itself() -> None:
    """The others of its frame are delivered."""
    text = frame("trades", [TRADE, {**TRADE, "coin": "?"}]).replace(b'"?"', b'"\xff"')
    message, bad = wire.decode(text)
    assert isinstance(message, wire.WireTrades)
    assert (len(message.data), bad) == (1, 1)


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("px", "-1", wire.BAD_PRICE),
        ("px", "0", wire.BAD_PRICE),
        ("px", "NaN", wire.BAD_PRICE),
        ("px", "inf", wire.BAD_PRICE),
        ("px", "1e13", wire.BAD_PRICE),
        ("sz", "-0.5", wire.BAD_SIZE),
        ("sz", "0", wire.BAD_SIZE),
        ("sz", "nan", wire.BAD_SIZE),
        ("side", "buy", wire.BAD_SIDE),
        ("time", -5, wire.BAD_TIME),
        ("time", 99999999999999, wire.BAD_TIME),
    ],
)
def test_impossible_trades_have_a_reason(member: str, value: object, reason: str) -> None:
    """Syntax is fine, meaning is not."""
    message, _ = wire.decode(frame("trades", [{**TRADE, member: value}]))
    assert isinstance(message, wire.WireTrades)
    assert wire.trade_of(message.data[0], 0) == reason


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", wire.NOT_JSON),
        (b"Websocket connection established.", wire.NOT_JSON),
        (b'{"channel":"trades","data":[', wire.NOT_JSON),
        (b"\x00\xff\xfe", wire.NOT_JSON),
        (b"[1,2]", wire.WRONG_SHAPE),
        (b"{}", wire.WRONG_SHAPE),
        (b'{"channel":7}', wire.WRONG_SHAPE),
        (b'{"channel":"user","data":{}}', wire.UNKNOWN_CHANNEL),
        (b'{"channel":"bbo","data":{"coin":"BTC"}}', wire.WRONG_SHAPE),
        (b'{"channel":"trades","data":{"coin":"BTC"}}', wire.WRONG_SHAPE),
        (b'{"channel":"trades","data":["x"]}', wire.WRONG_SHAPE),
        (b'{"channel":"trades"}', wire.WRONG_SHAPE),
        (b"[" * 5000, wire.WRONG_SHAPE),
        (b'{"channel":"trades","x":' + b"[" * 100_000, wire.WRONG_SHAPE),
        (b'{"channel":"pong","data":' + b'{"a":' * 100_000, wire.WRONG_SHAPE),
        (
            b'{"channel":"trades","data":[{"coin":' + b"[" * 99_999 + b"]" * 99_999 + b"}]}",
            "wrong_shape",
        ),
    ],
)
def test_what_is_not_a_frame_is_rejected_with_a_reason(raw: bytes, reason: str) -> None:
    """Each kind of damage has its own counter."""
    with pytest.raises(wire.Reject) as caught:
        wire.decode(raw)
    assert caught.value.reason == reason


@given(st.binary(max_size=200))
def test_property_no_bytes_raise_anything_but_a_reject(raw: bytes) -> None:
    """Whatever arrives, the reader lives."""
    with contextlib.suppress(wire.Reject):
        wire.decode(raw)


@pytest.mark.parametrize("tid", [-1, 1 << 63, 10**40, "1" + "0" * 40])
def test_an_id_that_no_snapshot_could_hold_is_malformed(tid: object) -> None:
    """State is kept in 64 bits; an impossible id must not reach it."""
    message, bad = wire.decode(frame("trades", [TRADE, {**TRADE, "tid": tid}]))
    assert isinstance(message, wire.WireTrades)
    assert (len(message.data), bad) == (1, 1)


def test_an_impossible_control_record_is_rejected() -> None:
    """A gap or roster that begins in the year 30000 is damage."""
    for channel, data in (
        ("alpha.gap", {"start_ms": 10**30, "cause": "x"}),
        ("alpha.roster", {"from_ms": -1, "assets": []}),
        ("alpha.roster", {"from_ms": 0, "assets": [{"uid": 10**30, "coin": "X"}]}),
    ):
        with pytest.raises(wire.Reject):
            wire.decode(frame(channel, data))


def test_an_empty_and_a_one_sided_book_are_states_not_errors() -> None:
    """A delisted coin has no book; a thin one may have half of one."""
    message, _ = wire.decode(frame("bbo", {"coin": "MATIC", "time": 5, "bbo": [None, None]}))
    assert isinstance(message, wire.WireBbo)
    assert wire.quote_of(message.data, 1) == Quote(1, 5, None, None, None, None)
    ask = {"px": "2.5", "sz": "3", "n": 1}
    message, _ = wire.decode(frame("bbo", {"coin": "X", "time": 5, "bbo": [None, ask]}))
    assert isinstance(message, wire.WireBbo)
    assert wire.quote_of(message.data, 1) == Quote(1, 5, None, None, 2.5, 3.0)


def test_a_book_keeps_five_levels() -> None:
    """The features need the top five, whatever the depth of the snapshot."""
    side = [{"px": str(100 - k), "sz": "1", "n": 1} for k in range(20)]
    other = [{"px": str(101 + k), "sz": "2", "n": 1} for k in range(20)]
    message, _ = wire.decode(frame("l2Book", {"coin": "X", "time": 5, "levels": [side, other]}))
    assert isinstance(message, wire.WireBook)
    book = wire.book_of(message.data, 1)
    assert isinstance(book, Book)
    assert book.bids[0] == (100.0, 1.0)
    assert len(book.bids) == len(book.asks) == 5


def test_a_context_without_a_book_carries_nulls() -> None:
    """Nulls stay NULL and never become zero."""
    ctx = {"funding": "0.0000125", "openInterest": "0.0", "oraclePx": "1", "markPx": None}
    data = {"coin": "MATIC", "ctx": ctx}
    message, _ = wire.decode(frame("activeAssetCtx", data))
    assert isinstance(message, wire.WireAssetCtx)
    assert wire.context_of(message.data.ctx, 9) == Context(9, 0.0, None, 1.0, 0.0000125)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/hyperliquid/ws")
def test_every_real_frame_that_the_venue_sends_decodes() -> None:
    """Captured frames of every channel; requests and private channels are rejected by name."""
    kinds: dict[str, int] = {}
    rejected: dict[str, int] = {}
    for line in (DATA / "ws_frames_by_channel.jsonl").read_text().splitlines():
        captured = json.loads(line)["frame"]
        raw = json.dumps(captured).encode()
        try:
            message, bad = wire.decode(raw)
        except wire.Reject as reject:
            rejected[reject.reason] = rejected.get(reject.reason, 0) + 1
            assert "method" in captured or captured["channel"] == "user"
            continue
        assert bad == 0
        kinds[type(message).__name__] = kinds.get(type(message).__name__, 0) + 1
    assert set(kinds) >= {
        "WireTrades",
        "WireBbo",
        "WireBook",
        "WireAssetCtx",
        "WireSpotCtx",
        "WireCandle",
        "WireMids",
        "WireAck",
        "WirePong",
        "WireError",
    }
    assert rejected == {wire.WRONG_SHAPE: 5, wire.UNKNOWN_CHANNEL: 1}
    whole = (DATA / "nautilus_allDexsAssetCtxs_2026-06.json").read_bytes()
    message, _ = wire.decode(whole)
    assert isinstance(message, wire.WireAllCtxs)
    assert [len(contexts) for _, contexts in message.data.ctxs][:2] == [230, 1]
