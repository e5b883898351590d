"""The arrival clock, minute boundaries, holes and the roster come from the lines alone."""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import feed, wire
from operators.feed import FeedReader, FeedState, Hole, Item
from operators.lattice import MINUTE_MS
from operators.layout import contexts_of
from operators.records import Boundary, Ticks

M = 1_756_891_800_000  # 09:30:00
BTC = {"uid": 0, "coin": "BTC", "channels": ["trades", "bbo"]}
ETH = {"uid": 1, "coin": "ETH", "channels": ["trades", "bbo"]}


def line(at_ms: int, channel: str, data: object = None) -> bytes:
    """Return a log line."""
    body = {"channel": channel} if data is None else {"channel": channel, "data": data}
    return b"%d %b" % (at_ms * 1_000_000, json.dumps(body).encode())


def clock(at_ms: int) -> bytes:
    """Return a heartbeat."""
    return line(at_ms, "alpha.clock")


def clocks(start_ms: int, end_ms: int, every_ms: int = 1000) -> list[bytes]:
    """Return heartbeats from start to end."""
    return [clock(at) for at in range(start_ms, end_ms + 1, every_ms)]


def roster(at_ms: int, from_ms: int, *assets: dict[str, object]) -> bytes:
    """Return a roster record."""
    return line(at_ms, "alpha.roster", {"from_ms": from_ms, "assets": list(assets)})


def trade(at_ms: int, coin: str = "BTC", *, tid: int = 1, time_ms: int | None = None) -> bytes:
    """Return a frame of one print."""
    time_ms = at_ms - 300 if time_ms is None else time_ms
    entry = {"coin": coin, "side": "B", "px": "100", "sz": "1", "time": time_ms, "tid": tid}
    return line(at_ms, "trades", [entry])


def reader(state: FeedState | None = None) -> FeedReader:
    """Return a reader with the lattice of feature pack v1.0."""
    return FeedReader(
        state or FeedState(), lateness_ms=1500, grace_ms=3000, arrival_jump_gap_ms=5000
    )


def boundaries(items: Iterable[Item]) -> list[tuple[int, int, bool]]:
    """Return (minute, asset, final) of every boundary."""
    return [
        ((b.phase.minute_ms - M) // MINUTE_MS, uid, b.phase.final)
        for uid, b in items
        if isinstance(b, Boundary)
    ]


def gaps(items: Iterable[Item]) -> dict[int, str | None]:
    """Return the hole named at the seal of each minute of asset 0."""
    return {
        (b.phase.minute_ms - M) // MINUTE_MS: b.feed.gap
        for uid, b in items
        if isinstance(b, Boundary) and uid == 0 and not b.phase.final
    }


Health = tuple[str | None, bool, bool]


def health(items: Iterable[Item], *, final: bool = False) -> dict[int, Health]:
    """Return (hole, whether it covers the minute, whether one ended in it) of each minute."""
    return {
        (b.phase.minute_ms - M) // MINUTE_MS: (b.feed.gap, b.feed.outage, b.feed.resync)
        for uid, b in items
        if isinstance(b, Boundary) and uid == 0 and b.phase.final is final
    }


def test_a_minute_seals_after_lateness_and_is_final_after_grace() -> None:
    """09:30:01.499 is too early, 09:30:01.500 seals; 09:30:03 makes final."""
    r = reader()
    assert boundaries(r.read([roster(M - 60_000, M, BTC), clock(M + 1499)])) == []
    assert boundaries(r.read([clock(M + 1500)])) == [(0, 0, False)]
    assert boundaries(r.read([clock(M + 2999)])) == []
    assert boundaries(r.read([clock(M + 3000)])) == [(0, 0, True)]


def test_every_asset_gets_both_boundaries_in_asset_order() -> None:
    """An asset without any data still closes its minute."""
    r = reader()
    lines = [roster(M - 60_000, M, ETH, BTC), *clocks(M - 59_000, M + 4000)]
    assert boundaries(r.read(lines)) == [
        (0, 0, False),
        (0, 1, False),
        (0, 0, True),
        (0, 1, True),
    ]


def test_data_comes_before_the_boundary_that_its_arrival_precedes() -> None:
    """A print that arrives 1 ms before the seal is in front of it, one at the seal behind it."""
    r = reader()
    items = r.read(
        [
            roster(M - 60_000, M, BTC),
            *clocks(M - 59_000, M),
            trade(M + 1499, tid=1),
            trade(M + 1500, tid=2),
        ]
    )
    kinds = [type(item).__name__ for _, item in items]
    assert kinds == ["Ticks", "Boundary", "Ticks"]


def test_a_silent_jump_closes_every_minute_it_passes_and_marks_them() -> None:
    """A recorder that died for ten minutes leaves ten stale minutes, not a hole in the table."""
    r = reader()
    start = [roster(M - 60_000, M, BTC), *clocks(M - 59_000, M + 10_000)]
    items = r.read([*start, clock(M + 610_000), *clocks(M + 611_000, M + 680_000)])
    found = gaps(items)
    assert found[0] is None
    assert [found[k] for k in range(1, 11)] == [feed.GAP_SILENCE] * 10
    assert found[11] == feed.GAP_SILENCE  # 09:40-09:41 overlaps the jump that ended at 09:40:10
    assert health(items) == {
        0: (None, False, False),
        1: (feed.GAP_SILENCE, False, False),  # opens in it
        **dict.fromkeys(range(2, 11), (feed.GAP_SILENCE, True, False)),
        11: (feed.GAP_SILENCE, False, True),
    }


def test_the_minute_in_which_the_log_begins_is_incomplete() -> None:
    """What happened before the first line is unknown."""
    r = reader()
    lines = [roster(M - 30_000, M, BTC), *clocks(M - 29_000, M + 62_000)]
    found = health(r.read(lines))
    assert found == {0: (feed.GAP_START, False, True), 1: (None, False, False)}


def test_a_hole_marks_exactly_the_minutes_it_overlaps() -> None:
    """A drop inside one minute marks that minute only; its end is known from the record."""
    r = reader()
    gap = {"start_ms": M + 20_000, "end_ms": None, "cause": "disconnect"}
    lines = [
        roster(M - 60_000, M, BTC),
        *clocks(M - 59_000, M + 20_000),
        line(M + 20_500, "alpha.gap", gap),
        *clocks(M + 21_000, M + 40_000),
        line(M + 40_500, "alpha.gap", {**gap, "end_ms": M + 40_400}),
        *clocks(M + 41_000, M + 130_000),
    ]
    assert gaps(r.read(lines)) == {0: None, 1: "disconnect", 2: None}


def test_an_open_hole_marks_minutes_until_it_ends() -> None:
    """While the feed is away every minute is marked as it closes."""
    r = reader()
    gap = {"start_ms": M + 20_000, "end_ms": None, "cause": "disconnect"}
    lines = [roster(M - 60_000, M, BTC), *clocks(M - 59_000, M + 20_000)]
    lines += [line(M + 20_500, "alpha.gap", gap), *clocks(M + 21_000, M + 190_000)]
    assert gaps(r.read(lines)) == {0: None, 1: "disconnect", 2: "disconnect", 3: "disconnect"}


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        # opens in the minute [0, 60 s)
        (10_000, None, (True, False, False)),
        (59_999, None, (True, False, False)),
        (60_000, None, (False, False, False)),
        (10_000, 90_000, (True, False, False)),
        # ends in it
        (-5_000, 0, (False, False, False)),
        (-5_000, 1, (True, False, True)),
        (0, 59_999, (True, False, True)),
        (1, 60_000, (True, False, True)),
        (10_000, 40_000, (True, False, True)),
        (30_000, 30_000, (True, False, True)),
        # covers it
        (-5_000, None, (True, True, False)),
        (0, None, (True, True, False)),
        (0, 60_001, (True, True, False)),
        (-5_000, 60_000, (True, True, True)),
        (0, 60_000, (True, True, True)),
    ],
)
def test_how_a_hole_lies_in_a_minute(
    start: int, end: int | None, expected: tuple[bool, bool, bool]
) -> None:
    """A hole is half open as a minute is; it ends in the minute whose last instant it reaches."""
    hole = Hole(M + start, None if end is None else M + end, "stall")
    r = reader(FeedState(holes=[hole]))
    lines = [clock(M - 60_000), roster(M - 59_500, M, BTC), *clocks(M - 59_000, M + 63_000)]
    items = r.read(lines)
    wanted = ("stall" if expected[0] else None, *expected[1:])
    assert health(items)[1] == health(items, final=True)[1] == wanted


def test_two_holes_that_meet_are_no_outage() -> None:
    """Between them the feed was back: the first gives the cause, the second its own end."""
    holes = [Hole(M - 5000, M + 30_000, "stall"), Hole(M + 30_000, M + 70_000, "disconnect")]
    r = reader(FeedState(holes=holes))
    lines = [clock(M - 60_000), roster(M - 59_500, M, BTC), *clocks(M - 59_000, M + 122_000)]
    assert health(r.read(lines)) == {
        0: ("stall", False, False),
        1: ("stall", False, True),
        2: ("disconnect", False, True),
    }


def test_the_end_of_a_hole_can_become_known_between_seal_and_final() -> None:
    """At 09:31:01.5 the feed is away; at 09:31:02 the recorder says it was back at 09:30:50."""
    r = reader()
    gap = {"start_ms": M - 20_000, "end_ms": None, "cause": "disconnect"}
    items = r.read(
        [
            roster(M - 60_000, M, BTC),
            *clocks(M - 59_000, M - 20_000),
            line(M - 19_000, "alpha.gap", gap),
            *clocks(M - 18_000, M + 61_500, 500),
            line(M + 62_000, "alpha.gap", {**gap, "end_ms": M + 50_000}),
            clock(M + 63_000),
        ]
    )
    assert health(items)[1] == ("disconnect", True, False)
    assert health(items, final=True)[1] == ("disconnect", False, True)


slots = st.integers(-13, 25).map(lambda k: M + 5000 * k)


@given(st.lists(st.tuples(slots, st.none() | st.integers(1, 20)), max_size=4))
def test_oracle_holes_by_the_slots_they_take(given_holes: list[tuple[int, int | None]]) -> None:
    """Cut into slots of five seconds, the flags of two minutes are those of a naive walk."""
    far = M + 10_000_000
    holes = [
        Hole(start, None if n is None else start + 5000 * n, f"h{k}")
        for k, (start, n) in enumerate(given_holes)
    ]
    taken = [set(range(h.start_ms, h.end_ms or far, 5000)) for h in holes]
    r = reader(FeedState(holes=list(holes)))
    lines = [clock(M - 60_000), roster(M - 59_500, M, BTC), *clocks(M - 59_000, M + 62_000)]
    found = health(r.read(lines))
    for minute, start in ((0, M - 60_000), (1, M)):
        whole = set(range(start, start + 60_000, 5000))
        inside = [(h, slots & whole) for h, slots in zip(holes, taken, strict=True)]
        hit = [h for h, part in inside if part]
        assert found[minute] == (
            hit[0].cause if hit else None,
            any(part == whole for _, part in inside),
            any(h.end_ms is not None and h.end_ms <= start + 60_000 for h in hit),
        )


def test_a_new_recorder_ends_the_hole_its_predecessor_left_open() -> None:
    """A crash during an outage must not leave the feed broken for ever."""
    r = reader()
    old = {"start_ms": M + 1000, "end_ms": None, "cause": "disconnect"}
    new = {"start_ms": M + 61_000, "end_ms": None, "cause": "start"}
    lines = [
        roster(M - 60_000, M, BTC),
        *clocks(M - 59_000, M),
        line(M + 1000, "alpha.gap", old),
        *clocks(M + 2000, M + 60_000),
        line(M + 61_000, "alpha.gap", new),
        line(M + 62_000, "alpha.gap", {**new, "end_ms": M + 62_000}),
        *clocks(M + 63_000, M + 190_000),
    ]
    assert health(r.read(lines)) == {
        0: (None, False, False),
        1: ("disconnect", False, False),
        2: ("disconnect", False, True),
        3: (None, False, False),
    }


def test_time_going_backwards_is_counted_and_changes_nothing() -> None:
    """The clock holds; the frame itself is used."""
    r = reader()
    items = r.read([roster(M, M + 60_000, BTC), clock(M + 5000), trade(M + 2000)])
    assert r.state.counts == {feed.CLOCK_BACKWARDS: 1}
    assert r.state.clock_ns == (M + 5000) * 1_000_000
    assert [type(item) for _, item in items] == [Ticks]


def test_one_damaged_stamp_does_not_open_a_thousand_empty_days() -> None:
    """A stamp years ahead is believed only if the next line confirms it."""
    r = reader()
    far = M + 3 * 365 * 86_400_000
    lines = [roster(M - 60_000, M, BTC), clock(far), *clocks(M - 59_000, M + 2000)]
    assert boundaries(r.read(lines)) == [(0, 0, False)]
    assert r.state.counts == {feed.CLOCK_JUMP: 1}


def test_a_log_may_begin_with_a_damaged_stamp() -> None:
    """A first stamp of 1970 is believed until two lines say otherwise."""
    r = reader()
    lines = [b'7 {"channel":"alpha.clock"}', clock(M - 60_000)]
    lines += [roster(M - 59_000, M, BTC), *clocks(M - 58_000, M + 2000)]
    assert boundaries(r.read(lines)) == [(0, 0, False)]
    assert r.state.counts[feed.CLOCK_JUMP] == 1


@pytest.mark.parametrize(("stamp_ns", "believed"), [((1 << 63) - 1, True), (1 << 63, False)])
def test_a_stamp_that_no_record_could_hold_is_no_stamp(stamp_ns: int, believed: bool) -> None:
    """Records have 64 bits for it; a first stamp beyond them must not stop the reader."""
    r = reader()
    _, _, frame = trade(M).partition(b" ")
    items = r.read([b"%d %s" % (stamp_ns, frame)])
    assert [type(item) for _, item in items] == [Ticks] * believed
    assert r.state.counts.get(feed.BAD_LINE, 0) == (not believed)


def test_a_confirmed_jump_of_weeks_re_anchors_the_lattice() -> None:
    """A log that was resumed after a month goes on, and says how many minutes it skipped."""
    r = reader()
    far = M + 30 * 86_400_000
    lines = [roster(M - 60_000, M, BTC), clock(M - 59_000), *clocks(far - 3000, far + 62_000)]
    found = boundaries(r.read(lines))
    assert found[0] == (30 * 1440, 0, False)
    assert r.state.counts[feed.CLOCK_JUMP] == 1
    assert r.state.counts["minutes_skipped"] == 30 * 1440


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"garbage",
        b"12x {}",
        b"-5 {}",
        b" {}",
        b"1" * 30 + b" {}",
        b"9" * 19 + b" {}",
        b"\xff\xfe\x00",
        b"123",
    ],
)
def test_lines_that_are_no_lines_are_counted(junk: bytes) -> None:
    """Nothing beside them is lost."""
    r = reader()
    items = r.read([roster(M, M + 60_000, BTC), junk, trade(M + 100)])
    assert r.state.counts == {feed.BAD_LINE: 1}
    assert len(items) == 1


def test_a_coin_outside_the_roster_is_counted() -> None:
    """With a roster, the roster decides."""
    r = reader()
    assert r.read([roster(M, M + 60_000, BTC), trade(M + 100, "DOGE")]) == []
    assert r.state.counts == {feed.UNKNOWN_COIN: 1}


def test_a_log_without_a_roster_gets_one_in_order_of_appearance() -> None:
    """Foreign recordings of raw frames replay too, under ids outside the venue's ranges."""
    r = reader()
    bbo = {"coin": "ETH", "time": M, "bbo": [None, None]}
    items = r.read([trade(M + 1, "ETH"), trade(M + 2, "BTC"), line(M + 3, "bbo", bbo)])
    base = feed.IMPLICIT_UID_BASE
    assert [uid for uid, _ in items] == [base, base + 1]
    assert r.state.roster[0].channels == ("bbo", "trades")
    assert r.state.roster[1].channels == ("trades",)


def test_a_roster_change_takes_effect_from_its_minute() -> None:
    """A listing at 09:31 gives no row for 09:31's predecessor."""
    r = reader()
    lines = [roster(M - 60_000, M, BTC), *clocks(M - 59_000, M - 1000)]
    lines += [roster(M - 500, M + 60_000, BTC, ETH), *clocks(M, M + 64_000)]
    found = boundaries(r.read(lines))
    assert found == [
        (0, 0, False),
        (0, 0, True),
        (1, 0, False),
        (1, 1, False),
        (1, 0, True),
        (1, 1, True),
    ]


def test_positional_contexts_find_their_assets() -> None:
    """allDexsAssetCtxs names no coins: index in the dex's universe is the id."""
    r = reader()
    xyz = {"uid": 110_001, "coin": "xyz:GOLD", "channels": []}
    rosters = {"from_ms": M, "assets": [BTC, xyz], "dexes": ["", "xyz"]}
    ctxs = [["", [{"markPx": "5", "openInterest": "1"}]], ["xyz", [None, {"markPx": "7"}]]]
    items = r.read(
        [line(M, "alpha.roster", rosters), line(M + 1, "allDexsAssetCtxs", {"ctxs": ctxs})]
    )
    marks = {
        uid: contexts_of(item.contexts)[0].mark_px for uid, item in items if isinstance(item, Ticks)
    }
    assert marks == {0: 5.0, 110_001: 7.0}


def test_contexts_are_dated_by_the_arrival_clock() -> None:
    """Their line's stamp, or the clock where that stamp runs backwards: none is ever late."""
    r = reader()
    ctx = {"coin": "BTC", "ctx": {"markPx": "5", "openInterest": "1"}}
    lines = [roster(M - 60_000, M, BTC), *clocks(M - 59_000, M + 1400)]
    lines += [line(M - 1, "activeAssetCtx", ctx), line(M + 1450, "activeAssetCtx", ctx)]
    lines += [clock(M + 1500), line(M - 1, "activeAssetCtx", ctx)]
    items = r.read(lines)
    stamps = [
        [(c.arrival_ns // 1_000_000) - M for c in contexts_of(item.contexts)]
        if isinstance(item, Ticks)
        else []
        for _, item in items
    ]
    assert stamps == [[1000, 1450], [], [1500]]


def test_the_clock_is_judged_by_the_third_smallest_delay_of_the_minute() -> None:
    """One slow frame does not make a skewed clock, nor do two damaged times; three frames do."""
    delays = {1: [4000], 2: [4000, 250], 3: [4000, 250, -9000], 4: [4000, 250, -9000, 300]}
    found = {}
    for count, given_ms in delays.items():
        r = reader()
        lines = [roster(M - 60_000, M, BTC), *clocks(M - 59_000, M - 20_000)]
        for k, delay in enumerate(given_ms):
            lines.append(trade(M - 19_000 + k, time_ms=M - 19_000 + k - delay))
        items = r.read([*lines, *clocks(M - 17_000, M + 2000)])
        (found[count],) = (b.feed.clock_skew_ms for _, b in items if isinstance(b, Boundary))
    assert found == {1: 4000, 2: 4000, 3: 4000, 4: 300}


LINES = [
    roster(M - 30_000, M, BTC),
    *clocks(M - 29_000, M),
    trade(M + 100),
    b"junk",
    trade(M + 1600, tid=2),
    roster(M + 2000, M + 60_000, BTC, ETH),
    *clocks(M + 2100, M + 50_000),
    line(M + 50_500, "alpha.gap", {"start_ms": M + 50_000, "end_ms": None, "cause": "stall"}),
    clock(M + 60_000),
    clock(M + 100_000),
    clock(M + 99_000),
    line(M + 100_500, "user", {}),
    trade(M + 101_000, "ETH", tid=3),
    clock(M + 9_000_000_000),
    *clocks(M + 102_000, M + 125_000),
]


def merged(items: Iterable[Item]) -> list[object]:
    """Join consecutive micro-batches of an asset between boundaries: cuts leave no trace."""
    result: list[object] = []
    open_ticks: dict[int, Ticks] = {}
    for uid, item in items:
        if isinstance(item, Ticks):
            ticks = open_ticks.setdefault(uid, Ticks())
            ticks.trades += item.trades
            ticks.quotes += item.quotes
        else:
            result += sorted(open_ticks.items())
            open_ticks = {}
            result.append((uid, item))
    return [*result, *sorted(open_ticks.items())]


@given(st.lists(st.integers(1, 9), max_size=60))
def test_property_cuts_and_restarts_leave_no_trace(cuts: list[int]) -> None:
    """Any chunking, with the state saved and restored at every cut, gives the same items."""
    whole = reader()
    expected = merged(whole.read(LINES))
    items: list[Item] = []
    state, at = FeedState(), 0
    for size in [*cuts, len(LINES)]:
        r = reader(msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=FeedState))
        items += r.read(LINES[at : at + size])
        state, at = r.state, at + size
    assert merged(items) == expected
    assert state.counts == whole.state.counts
    assert state.counts[wire.UNKNOWN_CHANNEL] == 1
    assert state.holes == whole.state.holes == [Hole(M + 50_000, None, "stall")]
