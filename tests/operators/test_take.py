"""Messages find their minutes: against one look at each of them, and however they were cut."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from operators import kernel
from operators.assemble import AssemblyState, Minute, Sealed
from operators.kernel import (
    BOOK_BYTES,
    CLOSED_KEYS_MAX,
    CROSSED,
    DUPLICATE,
    FUTURE,
    HISTORY,
    LATE,
    QUOTE_BYTES,
    TRADE_BYTES,
)
from operators.lattice import MINUTE_MS, minute_of
from operators.layout import (
    books_of,
    contexts_of,
    quotes_of,
    ticks_of,
    trades_of,
)
from operators.records import Book, Context, Feed, Quote, Trade

M = 1_756_891_800_000  # minutes up to here are closed; the one after it is sealed
SEALED = M + MINUTE_MS
FUTURE_MS = 5000


def state_of() -> AssemblyState:
    """Return an asset between a seal and its final."""
    state = AssemblyState(final_ms=M)
    state.sealed = Sealed(SEALED, {}, {}, Feed(), {})
    return state


# Times around the borders of four minutes: closed for long, closed, sealed, open.
dates = st.builds(
    lambda minute, inside: M + minute * MINUTE_MS + inside,
    st.integers(-3, 1),
    st.sampled_from([0, 1, 2, 30_000, 59_999]),
)
delays_ms = st.sampled_from([-5001, -5000, -4999, 0, 300, 60_000, 60_001, 119_999, 121_000])
numbers = st.none() | st.floats(90, 110)
trades = st.builds(
    lambda at, delay, tid: Trade((at + delay) * 1_000_000 + 999_999, at, 1.0, 1.0, True, tid),
    dates,
    delays_ms,
    st.integers(0, 3),
)
quotes = st.builds(
    lambda at, delay, bid, ask: Quote((at + delay) * 1_000_000, at, bid, 1.0, ask, 1.0),
    dates,
    delays_ms,
    numbers,
    numbers,
)
contexts = st.builds(lambda at: Context(at * 1_000_000 + 999_999, 1.0, 1.0, None, None), dates)


def book_of(quote: Quote) -> Book:
    """Return a snapshot with the sides of a quote, and a second level that is far off."""
    bids = () if quote.bid_px is None else ((quote.bid_px, 1.0), (1.0, 1.0))
    asks = () if quote.ask_px is None else ((quote.ask_px, 1.0), (1e9, 1.0))
    return Book(quote.arrival_ns, quote.time_ms, bids, asks)


def taken(state: AssemblyState, kind: str, records: Sequence[Any]) -> AssemblyState:
    """Return a state after it took in a batch of records of one kind."""
    data = getattr(ticks_of(**{kind: records}), kind)
    before = data.copy()
    if kind == "trades":
        kernel.take_trades(state, data, FUTURE_MS, Minute)
    elif kind == "contexts":
        kernel.take_contexts(state, data, Minute)
    else:
        size = QUOTE_BYTES if kind == "quotes" else BOOK_BYTES
        kernel.take_states(state, data, size, FUTURE_MS, Minute)
    assert data == before
    return state


def kept(state: AssemblyState, kind: str) -> dict[int, list[Any]]:
    """Return the records of each open minute that has any."""
    look = {
        "trades": trades_of,
        "quotes": quotes_of,
        "books": books_of,
        "contexts": contexts_of,
    }[kind]
    return {
        label: look(data)
        for label, minute in state.minutes.items()
        if (data := getattr(minute, kind))
    }


def packed(keys: Sequence[tuple[int, int]]) -> bytearray:
    """Return keys of prints as a state holds them."""
    return bytearray().join(struct.pack("<qq", *key) for key in keys)


@settings(max_examples=300, deadline=None)
@given(st.lists(trades, max_size=30), st.lists(st.tuples(dates, st.integers(0, 3)), max_size=3))
def test_oracle_prints(prints: list[Trade], closed: list[tuple[int, int]]) -> None:
    """Each looked at alone: too late, from the future, known, or new."""
    minutes: dict[int, list[Trade]] = {}
    dropped: Counter[str] = Counter()
    known, amended = list(closed), False
    for one in prints:
        label, key = minute_of(one.time_ms), (one.time_ms, one.tid)
        if label <= M:
            late = one.arrival_ns // 1_000_000 - label <= MINUTE_MS
            dropped[DUPLICATE if key in known else LATE if late else HISTORY] += 1
            known.append(key)
        elif one.time_ms > one.arrival_ns // 1_000_000 + FUTURE_MS:
            dropped[FUTURE] += 1
        elif key in [(t.time_ms, t.tid) for t in minutes.get(label, [])]:
            dropped[DUPLICATE] += 1
        else:
            minutes.setdefault(label, []).append(one)
            amended |= label == SEALED
    state = state_of()
    state.closed_keys = packed(closed)
    taken(state, "trades", prints)
    assert kept(state, "trades") == minutes
    assert state.dropped == dropped
    assert state.closed_keys == packed(known[-CLOSED_KEYS_MAX:])
    assert state.sealed is not None
    assert state.sealed.amended is amended
    for label, minute in state.minutes.items():
        assert minute.keys == {(t.time_ms, t.tid) for t in minutes[label]}


@settings(max_examples=300, deadline=None)
@given(st.lists(quotes, max_size=30), st.booleans())
def test_oracle_quotes_and_books(tops: list[Quote], with_levels: bool) -> None:
    """Each looked at alone: crossed, of a closed minute and perhaps the newest, or of an open
    one."""
    minutes: dict[int, list[Quote]] = {}
    dropped: Counter[str] = Counter()
    newest: Quote | None = None
    amended = False
    for one in tops:
        label = minute_of(one.time_ms)
        if one.bid_px is not None and one.ask_px is not None and one.bid_px > one.ask_px:
            dropped[CROSSED] += 1
        elif label <= M:
            if newest is None or one.time_ms >= newest.time_ms:
                newest, amended = one, True
        elif one.time_ms > one.arrival_ns // 1_000_000 + FUTURE_MS:
            dropped[FUTURE] += 1
        else:
            minutes.setdefault(label, []).append(one)
            amended |= label == SEALED
    state = state_of()
    if with_levels:
        taken(state, "books", [book_of(one) for one in tops])
        assert kept(state, "books") == {k: list(map(book_of, v)) for k, v in minutes.items()}
        assert books_of(state.book) == ([] if newest is None else [book_of(newest)])
        assert (kept(state, "quotes"), state.quote) == ({}, b"")
    else:
        taken(state, "quotes", tops)
        assert kept(state, "quotes") == minutes
        assert quotes_of(state.quote) == ([] if newest is None else [newest])
        assert (kept(state, "books"), state.book) == ({}, b"")
    assert state.dropped == dropped
    assert state.sealed is not None
    assert state.sealed.amended is amended


@given(st.lists(contexts, max_size=12))
def test_oracle_contexts(samples: list[Context]) -> None:
    """To the minute of their arrival, whatever it is: none is late, none amends."""
    minutes: dict[int, list[Context]] = {}
    for one in samples:
        minutes.setdefault(minute_of(one.arrival_ns // 1_000_000), []).append(one)
    state = taken(state_of(), "contexts", samples)
    assert kept(state, "contexts") == minutes
    assert state.dropped == {}
    assert state.sealed is not None
    assert not state.sealed.amended


@settings(max_examples=100, deadline=None)
@given(
    st.lists(trades, max_size=20),
    st.lists(quotes, max_size=20),
    st.lists(contexts, max_size=8),
    st.lists(st.integers(0, 20), max_size=4),
)
def test_property_cuts_leave_no_trace(
    prints: list[Trade], tops: list[Quote], samples: list[Context], cuts: list[int]
) -> None:
    """One batch, one by one, or in any pieces, empty ones among them: the same state."""
    depths = [book_of(one) for one in tops]
    for kind, records in (
        ("trades", prints),
        ("quotes", tops),
        ("books", depths),
        ("contexts", samples),
    ):
        whole, single, pieces = (state_of() for _ in range(3))
        taken(whole, kind, records)
        for one in records:
            taken(single, kind, [one])
        borders = [0, *sorted(cuts), len(records)]
        for start, end in pairwise(borders):
            taken(pieces, kind, records[start:end] if start <= end else [])
        assert whole == single == pieces


@given(st.lists(trades, max_size=20), st.integers(0, 20))
def test_property_prints_are_told_apart_also_after_a_restart(prints: list[Trade], cut: int) -> None:
    """What tells them apart is not stored, and is made again of what is."""
    state = taken(state_of(), "trades", prints[:cut])
    for minute in state.minutes.values():
        assert kernel.keys_of(minute.trades) == [
            (t.time_ms, t.tid) for t in trades_of(minute.trades)
        ]
        minute.keys = set()
    taken(state, "trades", prints[cut:])
    whole = taken(state_of(), "trades", prints)
    assert (kept(state, "trades"), state.dropped) == (kept(whole, "trades"), whole.dropped)


def test_a_minute_that_comes_back_goes_on_where_it_was() -> None:
    """Runs of one minute are moved as a whole; a drop in the middle leaves no hole and no copy."""
    at = [SEALED - 9, SEALED - 9, SEALED + 1, SEALED - 8, M - 1, SEALED - 7, SEALED + 2]
    prints = [Trade((t + 300) * 1_000_000, t, 1.0, 1.0, True, 7) for t in at]
    state = taken(state_of(), "trades", prints)
    found = {k: [t.time_ms for t in v] for k, v in kept(state, "trades").items()}
    assert found == {
        SEALED: [SEALED - 9, SEALED - 8, SEALED - 7],
        SEALED + MINUTE_MS: [SEALED + 1, SEALED + 2],
    }
    assert state.dropped == {DUPLICATE: 1, LATE: 1}
    assert len(state.minutes[SEALED].trades) == 3 * TRADE_BYTES
