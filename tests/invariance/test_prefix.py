"""No look-ahead: what is dated after a minute's close changes nothing that is labelled with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import kernel
from operators.records import MarketPhase, Published, Row
from packs.loader import Packs
from tests.invariance.conftest import (
    DATED_BY_VENUE,
    FEW,
    MINUTE_MS,
    PONG,
    START_MS,
    Key,
    Log,
    Message,
    Outcome,
    Output,
    Replay,
    by_arrival,
    differences,
    first_difference,
    rough,
    run_lines,
    run_with,
    small_scenario,
    table,
    texts_of,
    without,
)

# --- what could come instead -----------------------------------------------------------------

# From an entry (a print, a quote, a book, a context) to another; None drops it.
Spoil = Callable[[str, dict[str, Any]], dict[str, Any] | None]


def times(text: str | None, factor: float) -> str | None:
    """Return a number as the venue writes it, multiplied."""
    return None if text is None else f"{float(text) * factor:.10f}"


def level(old: dict[str, Any] | None, px: float, sz: float) -> dict[str, Any] | None:
    """Return a price level with price and size multiplied."""
    return None if old is None else {**old, "px": times(old["px"], px), "sz": times(old["sz"], sz)}


def wild(channel: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Prices threefold, sizes fiftyfold, 77 ms later; another open interest, premium, funding."""
    if "time" in entry:
        entry = {**entry, "time": entry["time"] + 77}
    if channel == "trades":
        return {**entry, "px": times(entry["px"], 3.0), "sz": times(entry["sz"], 50.0)}
    if channel == "bbo":
        bid, ask = entry["bbo"]
        return {**entry, "bbo": [level(bid, 3.0, 50.0), level(ask, 3.3, 0.02)]}
    if channel == "l2Book":
        bids, asks = entry["levels"]
        sides = [[level(b, 3.0, 50.0) for b in bids], [level(a, 3.3, 0.02) for a in asks]]
        return {**entry, "levels": sides}
    ctx = entry["ctx"]
    return {
        **entry,
        "ctx": {
            **ctx,
            "openInterest": times(ctx["openInterest"], 7.0),
            "markPx": times(ctx["markPx"], 3.0),
            "oraclePx": times(ctx["oraclePx"], 2.0),
            "funding": "0.25",
        },
    }


def broken(channel: str, entry: dict[str, Any]) -> dict[str, Any] | None:
    """No prints; crossed and one-sided quotes, empty books, contexts with nothing known."""
    if channel == "trades":
        return None
    if channel == "bbo":
        bid, ask = entry["bbo"]
        crossed = entry["time"] % 2 == 0
        return {**entry, "bbo": [level(bid, 1.5, 1.0), ask] if crossed else [None, ask]}
    if channel == "l2Book":
        return {**entry, "levels": [[], []]}
    return {**entry, "ctx": dict.fromkeys(entry["ctx"])}


def nothing(channel: str, entry: dict[str, Any]) -> None:
    """The venue is silent, the socket is alive."""


SPOILS: dict[str, Spoil] = {"wild": wild, "broken": broken, "nothing": nothing}
DATED = ("trades", "bbo", "l2Book", "activeAssetCtx")
CLOCK = {"channel": "alpha.clock"}


def spoilt(message: Message, from_ms: int, spoil: Spoil, *, idle: dict[str, Any] = PONG) -> Message:
    """Return a message with everything in it that is dated at or after an instant replaced.

    Contexts are dated by arrival (design D1). A message of which nothing is left becomes `idle`.
    """
    channel, data = message.channel, message.data
    if channel not in DATED:
        return message
    if channel != "trades":
        if message.time_ms < from_ms:
            return message
        other = spoil(channel, data)
        return Message(message.stamp_ns, idle) if other is None else message.saying(other)
    entries = [entry if entry["time"] < from_ms else spoil(channel, entry) for entry in data]
    left = [entry for entry in entries if entry is not None]
    return message.saying(left) if left else Message(message.stamp_ns, idle)


# --- the check -------------------------------------------------------------------------------

REACH_MS = 125_000  # how long after the cut the logs go on: later rows could reach back
LABELS = [START_MS + (n + 1) * MINUTE_MS for n in range(small_scenario().minutes - 1)]
QUARTERS = [label for label in LABELS if label % (15 * MINUTE_MS) == 0]
CUTS = {
    "wild": sorted({*LABELS[::2], *QUARTERS}),
    "broken": sorted({*LABELS[1::4], *QUARTERS}),
    "nothing": LABELS[3::4],
}
# Counted when they arrive, "since the previous seal": a crossed quote of the next minute may come
# and be dropped before this one seals.  Nothing else may differ.
COUNTED_ON_ARRIVAL = ("dropped_ticks", "duplicate_ticks")

Found = dict[str, list[Key]]
Step = Callable[[list[Output]], list[Output]]


def untouched(outputs: list[Output]) -> list[Output]:
    """Take what the loop gives as it is."""
    return outputs


def changes(
    packs: Packs,
    log: Log,
    spoil: Spoil,
    cuts: list[int],
    *,
    label_ms: int = 0,
    then: Step = untouched,
) -> Found:
    """Return the columns that a different future changes, over many cuts, with examples.

    For every cut the log goes on twice from the same state, as it was and with all that is dated
    from the cut on spoilt. Rows, frames and published bytes (one column) labelled up to
    cut + label_ms are compared. then : a step behind the loop, for outputs of either.
    """
    found: Found = {}
    walk, at = Replay(packs), 0
    for cut in cuts:
        start = next(n for n, message in enumerate(log) if message.arrival_ms >= cut)
        walk.read([message.line for message in log[at:start]])
        at = start
        ahead = [m for m in log[start:] if m.arrival_ms < cut + REACH_MS]
        other = [spoilt(message, cut, spoil) for message in ahead]
        pair = [Outcome(then(walk.fork().read([m.line for m in a]))) for a in (ahead, other)]
        for name, keys in compared(pair[0], pair[1], cut + label_ms).items():
            found.setdefault(name, []).extend(keys)
    return {name: keys[:4] for name, keys in found.items()}


def compared(one: Outcome, other: Outcome, upto_ms: int) -> Found:
    """Return the columns in which two outcomes differ up to a label."""
    before, after = table(one, upto_ms=upto_ms), table(other, upto_ms=upto_ms)
    assert before
    found = differences(before, after)
    if published_upto(one, upto_ms) != published_upto(other, upto_ms):
        found["(published)"] = [(upto_ms,)]
    return found


def published_upto(outcome: Outcome, label_ms: int) -> list[bytes]:
    """Return the bytes of events and suppressions of the minutes up to a label."""
    return [
        text
        for output in outcome.outputs
        if isinstance(output, Published) and output.phase.minute_ms <= label_ms
        for text in texts_of(output)
    ]


# --- what is dated later ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", SPOILS)
def test_no_column_sees_what_is_dated_after_its_minute(
    rough_log: Log, quick_packs: Packs, kind: str
) -> None:
    """Cut at the minutes: a different future leaves all rows, frames and events as they were."""
    found = changes(quick_packs, rough_log, SPOILS[kind], CUTS[kind])
    assert without(found, *COUNTED_ON_ARRIVAL) == {}


@pytest.mark.slow
def test_no_column_sees_what_is_dated_after_its_minute_when_warm(
    long_log: Log, shipped_packs: Packs
) -> None:
    """The same past the warm-up of the shipped pack, where every z, quantile and gate is known."""
    first = long_log[0].arrival_ms + MINUTE_MS
    cuts = [first + n * MINUTE_MS for n in (214, 220, 227, 231, 237, 238, 247, 250)]
    log = rough(long_log)
    row = next(r for r in run_with(shipped_packs)(log).rows() if r.exchange_ts_ms == cuts[1])
    assert [name for name, z in row.columns.items() if name[:2] == "z_" and z is None] == []
    assert without(changes(shipped_packs, log, wild, cuts), *COUNTED_ON_ARRIVAL) == {}


def test_the_later_data_do_change_the_later_rows(small_log: Log, quick_packs: Packs) -> None:
    """The spoilt future is not ignored: the next minute's row shows it in all kinds of columns."""
    seen = changes(quick_packs, small_log, wild, [LABELS[20]], label_ms=MINUTE_MS)
    assert {"close", "v_total_m_1", "mid_close", "spread_mean_m_1", "ret_m_5"} <= seen.keys()
    assert {"oi_close_base", "mark_close", "basis_bp_m_1", "funding_h_1"} <= seen.keys()
    assert {"obi_top5_mean_m_1", "depth_top5_quote_median_m_1"} <= seen.keys()


@pytest.mark.parametrize("cut", LABELS[3::9])
def test_a_venue_clock_ahead_of_ours_shows_in_the_skew_alone(
    small_log: Log, small_run: Outcome, quick_packs: Packs, cut: int
) -> None:
    """Messages of the next minute that arrive before this one closes are not of this minute."""
    newest: dict[tuple[str, str], Message] = {}
    for message in small_log:
        if message.arrival_ms < cut and message.channel in DATED_BY_VENUE:
            newest[str(message.coin), message.channel] = message
    extra = []
    for number, message in enumerate(newest.values()):
        channel, data = message.channel, message.data
        if channel == "trades":
            entries = [wild(channel, {**entry, "time": cut + 50}) for entry in data]
            data = [{**entry, "tid": 7 + number * 100 + n} for n, entry in enumerate(entries)]
        else:
            data = wild(channel, {**data, "time": cut + 50})
        for arrival_ms in (cut - 100, cut + 700):
            extra.append(Message(arrival_ms * 1_000_000 + number, message.saying(data).frame))
    log = [message for message in small_log if message.arrival_ms < cut + 5000]
    found = compared(small_run, run_with(quick_packs)(by_arrival([*log, *extra])), cut)
    # The repetition at + 700 ms is counted when it arrives; the skew is measured by arrival, and
    # an event names it.
    assert without(found, "clock_skew_ms", "(published)", *COUNTED_ON_ARRIVAL) == {}
    assert "clock_skew_ms" in found


def test_a_frame_after_the_close_does_not_confirm_the_book_before_it(
    small_log: Log, quick_packs: Packs
) -> None:
    """The socket falls silent before the close: whether it speaks again after it is no matter."""
    cut, xrp, run = LABELS[6], 2, run_with(quick_packs)
    silent_ms = cut - 4000

    def muted(message: Message, *, again: bool) -> Message:
        speaks = message.arrival_ms < silent_ms or (again and message.arrival_ms >= cut)
        late = message.arrival_ms >= silent_ms and message.time_ms < cut
        return message if speaks and not late else Message(message.stamp_ns, CLOCK)

    log = [message for message in small_log if message.arrival_ms < cut + 5000]
    ages = [
        table(run([muted(message, again=again) for message in log]))[xrp, "1m", cut, 0]
        for again in (True, False)
    ]
    assert ages[0]["book_staleness_ms"] == ages[1]["book_staleness_ms"] >= 4000
    assert differences({(): ages[0]}, {(): ages[1]}) == {}


# --- what arrives later ----------------------------------------------------------------------


def test_a_log_cut_at_any_line_gives_the_products_up_to_there(
    rough_log: Log, rough_run: Outcome, quick_packs: Packs
) -> None:
    """Byte for byte, also around the lines that close a minute, and whatever comes instead."""
    closing = [n for n in range(1, len(rough_log)) if rough_run.after[n] > rough_run.after[n - 1]]

    @settings(FEW, max_examples=8)
    @given(st.one_of(st.integers(1, len(rough_log)), st.sampled_from(closing)), st.booleans())
    def check(cut: int, other_future: bool) -> None:
        kept = rough_log[:cut]
        future = [spoilt(m, 0, wild) for m in rough_log[cut : cut + 300]] if other_future else []
        outcome = run_lines(quick_packs, [m.line for m in [*kept, *future]], [cut])
        count = rough_run.after[cut - 1]
        assert outcome.after[cut - 1] == count
        assert first_difference(texts(outcome, count), texts(rough_run, count)) is None

    check()


def texts(outcome: Outcome, count: int) -> list[bytes]:
    """Return the bytes of the first so many outputs."""
    return [text for output in outcome.outputs[:count] for text in texts_of(output)]


# --- the check can fail ----------------------------------------------------------------------


def dated_earlier(data: bytearray, size: int, field: int, shift: int) -> bytearray:
    """Return records with one of their whole numbers lowered."""
    shifted = data.copy()
    fields = memoryview(shifted).cast("q")
    for at in range(field, len(fields), size // 8):
        fields[at] -= shift
    return shifted


def test_a_minute_cut_too_late_is_caught(
    rough_log: Log, quick_packs: Packs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that counts the first 400 ms of the next minute as its own leaks in many columns."""
    trades, states, contexts = kernel.take_trades, kernel.take_states, kernel.take_contexts

    def take_trades(state: Any, data: bytearray, *rest: Any) -> None:
        trades(state, dated_earlier(data, kernel.TRADE_BYTES, 1, 400), *rest)

    def take_states(state: Any, data: bytearray, size: int, *rest: Any) -> None:
        states(state, dated_earlier(data, size, 1, 400), size, *rest)

    def take_contexts(state: Any, data: bytearray, *rest: Any) -> None:
        earlier = dated_earlier(data, kernel.CONTEXT_BYTES, 0, 400 * kernel.NS_OF_MS)
        contexts(state, earlier, *rest)

    for late in (take_trades, take_states, take_contexts):
        monkeypatch.setattr(kernel, late.__name__, late)
    found = changes(quick_packs, rough_log, wild, LABELS[4:20:3])
    assert {"close", "v_total_m_1", "mid_close", "ret_s_30"} <= found.keys()
    assert {"oi_close_base", "obi_top5_mean_m_1"} <= found.keys()


def test_a_column_that_looks_one_bar_ahead_is_named(small_log: Log, quick_packs: Packs) -> None:
    """A batch that smooths volume with the bar that follows leaks in that one column."""

    def smooth(outputs: list[Output]) -> list[Output]:
        bars = {(r.asset_uid, r.exchange_ts_ms): r for r in Outcome(outputs).rows() if r.tf == "1m"}

        def smoothed(row: Row) -> Row:
            following = bars.get((row.asset_uid, row.exchange_ts_ms + MINUTE_MS))
            if row.tf != "1m" or following is None:
                return row
            total = row.columns["v_total_m_1"] + following.columns["v_total_m_1"]
            columns = {**row.columns, "v_total_m_1": total / 2}
            return msgspec.structs.replace(row, columns=columns)

        return [
            msgspec.structs.replace(output, rows=tuple(map(smoothed, output.rows)))
            if isinstance(output, MarketPhase)
            else output
            for output in outputs
        ]

    found = changes(quick_packs, small_log, wild, LABELS[4:8], then=smooth)
    assert found.keys() == {"v_total_m_1"}
    assert changes(quick_packs, small_log, wild, LABELS[4:8]) == {}


def test_a_fork_goes_on_as_its_original(
    rough_log: Log, rough_run: Outcome, quick_packs: Packs
) -> None:
    """What these tests go on from is the whole state, and a copy of it."""
    lines, half = [message.line for message in rough_log], len(rough_log) // 2
    walk = Replay(quick_packs)
    before = walk.read(lines[:half])
    for replay in (walk.fork(), walk):
        outcome = Outcome([*before, *replay.read(lines[half:])])
        assert first_difference(outcome.texts, rough_run.texts) is None
