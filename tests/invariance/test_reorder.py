"""Chunks, repetition and order of arrival: what they may change, by name, and nothing else."""

from __future__ import annotations

import random
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packs.loader import Packs
from tests.invariance.conftest import (
    CONTROL,
    DATED_BY_VENUE,
    FEW,
    IN_GRACE_MS,
    MINUTE_MS,
    START_MS,
    Log,
    Message,
    Outcome,
    Table,
    by_arrival,
    closes_ms,
    differences,
    first_difference,
    rough,
    run_lines,
    run_with,
    table,
    tardy,
    texts_of,
    without,
)

# Counters of what was dropped. A verdict may follow from them (`late`), but not in these logs.
COUNTERS = ("dropped_ticks", "duplicate_ticks")
# The receive delay of the whole feed: measured on messages, whichever they are.
SKEW = ("clock_skew_ms",)
# Where no book is subscribed, any frame confirms the quote: it is an age by arrival.
AGE = ("book_staleness_ms",)
# When the row was made: at the first line after the seal, or when it was amended.
MADE = ("ingest_ts", "ingest_lag_ms")
# Membership moves at the seal alone, not by an amendment (design D13, D14).
MEMBERSHIP = ("is_in_universe", "is_hot", "universe_rev", "frame.universe_rev")


# --- chunks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [7, 2000])
def test_the_size_of_chunks_does_not_matter(
    rough_log: Log, rough_run: Outcome, quick_packs: Packs, size: int
) -> None:
    """The rows of one line at a time are those of any other size, byte for byte."""
    chunks = [size] * (len(rough_log) // size + 1)
    other = run_lines(quick_packs, [m.line for m in rough_log], chunks)
    assert first_difference(other.texts, rough_run.texts) is None


def test_cuts_anywhere_do_not_matter(
    rough_log: Log, rough_run: Outcome, quick_packs: Packs
) -> None:
    """The same with chunks of any mixture of sizes."""
    expected = rough_run.texts
    lines = [message.line for message in rough_log]

    @FEW
    @given(st.lists(st.one_of(st.integers(0, 9), st.integers(10, 3000)), max_size=60))
    def check(sizes: list[int]) -> None:
        assert first_difference(run_lines(quick_packs, lines, sizes).texts, expected) is None

    check()


# --- repetition ------------------------------------------------------------------------------


def repeated(log: Log, rng: random.Random, channels: tuple[str, ...], share: float) -> Log:
    """Return a log in which some frames of some channels come again, at once or up to 1 s later."""
    again = [
        message.at(message.stamp_ns + rng.choice((0, 40, 999)) * 1_000_000)
        for message in log
        if message.channel in channels and rng.random() < share
    ]
    return by_arrival([*log, *again])


def outside_gaps(log: Log, change: Log) -> Log:
    """Return a changed log without what it puts where the socket was down."""
    edges = [message.data for message in log if message.channel == "alpha.gap"]
    ends = [(edge["start_ms"], edge["end_ms"]) for edge in edges if edge["end_ms"] is not None]
    own = {id(message) for message in log}
    return [
        message
        for message in change
        if id(message) in own or not any(a <= message.arrival_ms < b for a, b in ends)
    ]


@pytest.mark.parametrize("channels", [("trades",), ("bbo",), ("trades", "bbo")])
def test_prints_and_quotes_that_come_twice_count_once(
    small_log: Log, small_run: Outcome, quick_packs: Packs, channels: tuple[str, ...]
) -> None:
    """Repeated frames of a print are counted as duplicates; a quote that holds still holds."""
    change = outside_gaps(small_log, repeated(small_log, random.Random(3), channels, 0.3))
    other = run_with(quick_packs)(change)
    found = differences(table(small_run), table(other))
    assert without(found, *COUNTERS, *SKEW, *MADE, *AGE) == {}
    assert ("duplicate_ticks" in found) == ("trades" in channels)


def test_contexts_that_come_twice_weigh_twice_in_the_mean_alone(
    small_log: Log, small_run: Outcome, quick_packs: Packs
) -> None:
    """Open interest, mark and funding are the same; the basis is a mean over samples."""
    again = [m.at(m.stamp_ns) for m in small_log if m.channel == "activeAssetCtx"][::3]
    other = run_with(quick_packs)(by_arrival([*small_log, *again]))
    assert differences(beside_basis(small_run), beside_basis(other)) == {}
    assert "basis_bp_m_1" in differences(table(small_run), table(other))


def beside_basis(outcome: Outcome) -> Table:
    """Return the table without the mean basis, its z, and what is said about its baseline."""
    return {
        key: {
            name: [x for x in value if x != "basis"] if name == "scale_floored" else value
            for name, value in flat.items()
            if "basis" not in name
        }
        for key, flat in table(outcome).items()
    }


def books_twice(log: Log) -> Log:
    """Return a log in which some snapshots come again, as after a reconnect."""
    return outside_gaps(log, repeated(log, random.Random(5), ("l2Book",), 0.3))


def test_snapshots_of_the_book_that_come_twice_hold_as_once(
    small_log: Log, small_run: Outcome, quick_packs: Packs
) -> None:
    """A book that is sent again with the same time changes nothing that is weighted by time."""
    other = run_with(quick_packs)(books_twice(small_log))
    found = differences(table(small_run), table(other))
    assert [name for name in without(found, *SKEW, *MADE, *AGE) if "depth_" not in name] == []


def test_snapshots_of_the_book_that_come_twice_count_once(
    small_log: Log, small_run: Outcome, quick_packs: Packs
) -> None:
    """A book that is sent again with the same time is the same book."""
    other = run_with(quick_packs)(books_twice(small_log))
    found = differences(table(small_run), table(other))
    assert without(found, *SKEW, *MADE, *AGE) == {}


def test_our_own_records_that_come_twice_count_once(
    small_log: Log, small_run: Outcome, quick_packs: Packs
) -> None:
    """Roster, gaps, heartbeats and acknowledgements repeated: nothing at all changes."""
    change = [m for message in small_log for m in [message] * (1 + (message.channel in CONTROL))]
    other = run_with(quick_packs)(change)
    assert first_difference(other.texts, small_run.texts) is None


def test_a_reconnect_that_replays_thirty_prints_changes_the_counters_alone(
    small_log: Log, small_run: Outcome, quick_packs: Packs
) -> None:
    """After a subscribe the venue repeats the last prints and the state of each book."""
    extra: Log = []
    for minute in (8, 15, 30):
        at_ms = START_MS + minute * MINUTE_MS + 20_000
        seen = [message for message in small_log if message.arrival_ms < at_ms]
        for number, coin in enumerate(("BTC", "ETH", "XRP", "PURR")):
            prints = [
                entry
                for message in seen
                if message.channel == "trades" and message.coin == coin
                for entry in message.data
            ]
            stamp_ns = at_ms * 1_000_000 + number
            extra.append(Message(stamp_ns, {"channel": "trades", "data": prints[-30:]}))
            quote = [m for m in seen if m.channel == "bbo" and m.coin == coin][-1]
            extra.append(quote.at(stamp_ns))
    found = differences(
        table(small_run), table(run_with(quick_packs)(by_arrival([*small_log, *extra])))
    )
    assert without(found, *COUNTERS, *SKEW) == {}
    assert "duplicate_ticks" in found


def test_everything_twice(rough_log: Log, rough_run: Outcome, quick_packs: Packs) -> None:
    """A log of which every line is there twice, as of two recorders, gives the same rows."""
    other = run_with(quick_packs)([m for message in rough_log for m in (message, message)])
    found = differences(table(rough_run), table(other))
    assert without(found, *COUNTERS, *SKEW) == {}


# --- order -----------------------------------------------------------------------------------

LATENESS_MS = 1500
WINDOW_MS = 550  # with the usual delay of at most 882 ms still before the seal


def shuffled(log: Log, rng: random.Random, *, window_ms: int = WINDOW_MS) -> Log:
    """Return a log whose dated frames are dealt out anew among the arrivals of each window.

    Contexts, our own records and what came late (after a reconnect) stay where they are; what a
    coin said on one channel at one instant keeps its order.
    """

    def window_of(message: Message) -> int:
        return message.arrival_ms // window_ms

    found: Log = []
    for _, group in groupby(log, key=window_of):
        window = list(group)
        slots = [n for n, message in enumerate(window) if is_fresh(message)]
        dealt = in_order([window[n] for n in rng.sample(slots, len(slots))], window)
        for n, message in zip(slots, dealt, strict=True):
            window[n] = message.at(window[n].stamp_ns)
            assert window[n].arrival_ms < closes_ms(message) + LATENESS_MS
        found += window
    return found


def is_fresh(message: Message) -> bool:
    """Tell whether a dated message came with the usual delay; its window lies before the seal."""
    delay_ms = message.arrival_ms - message.time_ms
    return message.channel in DATED_BY_VENUE and delay_ms + WINDOW_MS < LATENESS_MS


def in_order(dealt: Log, before: Log) -> Log:
    """Return messages with those of one coin, channel and instant in the order they had before."""
    place = {id(message): n for n, message in enumerate(before)}
    found = list(dealt)
    spots: dict[tuple[str, str | None, int], list[int]] = {}
    for n, message in enumerate(dealt):
        spots.setdefault((message.channel, message.coin, message.time_ms), []).append(n)
    for taken in spots.values():
        ordered = sorted((dealt[n] for n in taken), key=lambda message: place[id(message)])
        for n, message in zip(taken, ordered, strict=True):
            found[n] = message
    return found


def test_the_order_of_arrival_before_the_seal_does_not_matter(
    small_log: Log, small_run: Outcome, quick_packs: Packs
) -> None:
    """Messages are put in order by the venue's time; only the measured delay changes."""
    before = table(small_run)

    @FEW
    @given(st.integers(0, 1 << 30))
    def check(seed: int) -> None:
        after = table(run_with(quick_packs)(shuffled(small_log, random.Random(seed))))
        assert without(differences(before, after), *SKEW) == {}

    check()


@pytest.mark.slow
def test_the_order_of_arrival_does_not_matter_when_warm(
    long_log: Log, long_run: Outcome, shipped_packs: Packs
) -> None:
    """The same past the warm-up of the shipped pack, events and all."""
    other = run_with(shipped_packs)(shuffled(long_log, random.Random(1)))
    assert without(differences(table(long_run), table(other)), *SKEW) == {}
    assert [e["event_id"] for e in other.events()] == [e["event_id"] for e in long_run.events()]


def test_of_prints_of_one_instant_the_last_to_arrive_closes(
    small_log: Log, quick_packs: Packs
) -> None:
    """The venue's order decides among equal times: first and last price depend on it alone."""

    def paired(message: Message) -> Message:
        if message.channel != "trades":
            return message
        last = message.data[-1]
        twin = {**last, "px": f"{float(last['px']) * 1.001:.9f}", "tid": last["tid"] + (1 << 58)}
        return message.saying([*message.data, twin])

    run = run_with(quick_packs)
    log = [paired(message) for message in small_log]
    change = [m.saying(m.data[::-1]) if m.channel == "trades" else m for m in log]
    found = differences(table(run(log)), table(run(change)))
    assert found.keys() == {"open", "close"}


def test_of_quotes_of_one_instant_the_last_to_arrive_holds(
    small_log: Log, quick_packs: Packs
) -> None:
    """Which of two quotes of one time came last moves what is made of quotes, and no more."""

    def twin(message: Message) -> Message:
        bid, ask = message.data["bbo"]
        higher = {**ask, "px": f"{float(ask['px']) * 1.001:.9f}"}
        return message.saying({**message.data, "bbo": [bid, higher]})

    run = run_with(quick_packs)
    one = [m for old in small_log for m in ([old, twin(old)] if old.channel == "bbo" else [old])]
    other = [m for old in small_log for m in ([twin(old), old] if old.channel == "bbo" else [old])]
    found = differences(table(run(one)), table(run(other)))
    assert {"mid_close", "spread_mean_m_1", "ret_s_30"} <= found.keys()
    apart = ("v_", "cvd_", "trade_", "oi_", "mark_", "funding_", "basis_", "obi_", "depth_")
    assert [name for name in found if name.startswith((*apart, *COUNTERS, *SKEW, *MADE))] == []


# --- late, within grace ----------------------------------------------------------------------


def standing(outcome: Outcome) -> Table:
    """Return what stands in the end, without the last minute: no market goes on after that."""
    labels = [row.exchange_ts_ms for row in outcome.rows()]
    return table(outcome, last_revision=True, upto_ms=max(labels) - MINUTE_MS)


@pytest.mark.parametrize("every", [1, 4])
def test_what_comes_between_seal_and_final_counts_as_if_in_time(
    small_log: Log, small_run: Outcome, quick_packs: Packs, every: int
) -> None:
    """The amended row is the row of the log in which nothing was late, and so is the frame."""
    late = tardy(small_log, tail_ms=2500, every=every, after_ms=IN_GRACE_MS)
    other = run_with(quick_packs)(late)
    amended = [row for row in other.rows() if row.revision == 1]
    assert len(amended) >= 30 // every
    found = differences(standing(small_run), standing(other))
    assert without(found, *SKEW, *MADE, *MEMBERSHIP) == {}


def test_the_medians_of_the_gates_take_an_amended_minute_once(
    small_log: Log, touchy_packs: Packs
) -> None:
    """The running and the daily medians are those of the log in which nothing was late."""
    run = run_with(touchy_packs)
    late = tardy(small_log, tail_ms=2500, every=1, after_ms=IN_GRACE_MS)
    found = differences(standing(run(small_log)), standing(run(late)))
    assert without(found, *SKEW, *MADE, *MEMBERSHIP) == {}


@pytest.mark.slow
def test_what_comes_in_grace_counts_as_if_in_time_when_warm(
    long_log: Log, long_run: Outcome, shipped_packs: Packs
) -> None:
    """The same past the warm-up: baselines are taken back and moved once."""
    late = tardy(long_log, tail_ms=2500, every=1, after_ms=IN_GRACE_MS)
    other = run_with(shipped_packs)(late)
    assert [row for row in other.rows() if row.revision == 1]
    found = differences(standing(long_run), standing(other))
    assert without(found, *SKEW, *MADE, *MEMBERSHIP) == {}


def test_a_rough_log_is_rough(rough_log: Log, rough_run: Outcome, small_log: Log) -> None:
    """The rough log of these tests has amendments, drops and duplicates to speak of."""
    rows = [row.columns for row in rough_run.rows() if row.tf == "1m"]
    assert rough(small_log) == rough_log
    assert len([row for row in rough_run.rows() if row.revision == 1]) >= 20
    assert len([row for row in rows if row["dropped_ticks"] > row["duplicate_ticks"]]) >= 10
    assert len([text for output in rough_run.outputs for text in texts_of(output)]) > 200
