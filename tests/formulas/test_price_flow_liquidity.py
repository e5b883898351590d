"""Formulas of one minute and of one cross-section against exact arithmetic."""

from __future__ import annotations

import math
import random
import statistics
from array import array
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import kernel
from operators.assemble import AssemblyState, Instants, Minute
from operators.formulas.crosssection import dispersion, lead_index
from operators.formulas.price import range_ratio, simple_return
from operators.kernel import BOOK_BYTES, CROSSED, DEPTH_LEVELS, QUOTE_BYTES, slope, take_states
from operators.layout import ticks_of
from operators.records import Book, Quote, Trade

ULP = Fraction(1, 2**52)  # one unit in the last place of 1.0
LEAST = Fraction(1, 2**1022)  # below it doubles lie no closer

prices = st.floats(1e-6, 1e6)


def close_to(found: float | None, exact: Fraction, *, ulps: int, scale: Fraction | int = 0) -> bool:
    """Return whether a result is within some ulps of the exact value (or of a larger scale)."""
    assert found is not None
    reach = max(abs(exact), Fraction(scale), LEAST)
    return abs(Fraction(found) - exact) <= ulps * ULP * reach


# --- price ---------------------------------------------------------------------------------------


@given(prices, prices)
def test_oracle_simple_return(now: float, before: float) -> None:
    """One subtraction and one division, each rounded once."""
    exact = (Fraction(now) - Fraction(before)) / Fraction(before)
    assert close_to(simple_return(now, before), exact, ulps=2)


@pytest.mark.parametrize(
    ("now", "before"), [(None, 100.0), (100.0, None), (None, None), (100.0, 0.0), (100.0, -1.0)]
)
def test_no_return_without_two_prices(now: float | None, before: float | None) -> None:
    """A missing or impossible price gives NULL, never 0."""
    assert simple_return(now, before) is None


@pytest.mark.parametrize("now", [0.0, -1.0])
def test_no_return_to_a_price_that_is_not_positive(now: float) -> None:
    """NULL if either price is not positive."""
    assert simple_return(now, 100.0) is None


def realized_volatility(mids: Sequence[float]) -> float | None:
    """Return it of some mids."""
    return kernel.realized_volatility(array("d", mids))


@given(st.lists(st.floats(1e-3, 1e5), min_size=2, max_size=60))
def test_oracle_realized_volatility(mids: list[float]) -> None:
    """The root of the summed squares of log changes, as the C library has them."""
    changes = [math.log(b / a) for a, b in pairwise(mids)]
    expected = math.sqrt(math.fsum(change * change for change in changes))
    found = realized_volatility(mids)
    assert found is not None
    assert math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(1.0, 2.0), st.integers(1, 4)), min_size=1, max_size=20))
def test_property_repeated_mids_add_no_volatility(runs: list[tuple[float, int]]) -> None:
    """A quote that is sent again does not move the price."""
    repeated = [mid for mid, times in runs for _ in range(times)] + [runs[-1][0]]
    once = [mid for mid, _ in runs] + [runs[-1][0]]
    assert realized_volatility(repeated) == realized_volatility(once)


@pytest.mark.parametrize(
    ("mids", "expected"), [([], None), ([100.0], None), ([100.0] * 2, 0.0), ([100.0] * 9, 0.0)]
)
def test_volatility_needs_two_mids(mids: list[float], expected: float | None) -> None:
    """No mid and one mid say nothing; two equal ones say that nothing moved."""
    assert realized_volatility(mids) == expected


@given(prices, prices, prices)
def test_oracle_range_ratio(one: float, other: float, mid: float) -> None:
    """The range of the minute in units of its mid."""
    high, low = max(one, other), min(one, other)
    exact = (Fraction(high) - Fraction(low)) / Fraction(mid)
    assert close_to(range_ratio(high, low, mid), exact, ulps=2)


@pytest.mark.parametrize(
    ("high", "low", "mid"),
    [(None, 1.0, 1.0), (1.0, None, 1.0), (1.0, 1.0, None), (1.0, 1.0, 0.0), (1.0, 1.0, -1.0)],
)
def test_no_range_without_its_inputs(
    high: float | None, low: float | None, mid: float | None
) -> None:
    """NULL where an input is."""
    assert range_ratio(high, low, mid) is None


def test_a_flat_minute_has_no_range() -> None:
    """Zero is a measurement here, not a missing one."""
    assert range_ratio(100.0, 100.0, 100.0) == 0.0


# --- flow ----------------------------------------------------------------------------------------


def notional(prints: Sequence[Trade]) -> tuple[list[float], float, float, float]:
    """Return prices and sums of some prints."""
    prices, *sums = kernel.notional(ticks_of(trades=prints).trades)
    return list(prices), *sums


def trade(px: float, sz: float, *, buy: bool) -> Trade:
    """Return a print; only price, size and side matter here."""
    return Trade(0, 0, px, sz, buy, 1)


trades = st.lists(
    st.builds(trade, st.floats(1e-4, 1e5), st.floats(1e-4, 1e4), buy=st.booleans()), max_size=40
)


@settings(max_examples=40, deadline=None)
@given(trades)
def test_oracle_notional(prints: list[Trade]) -> None:
    """Each sum is the exact sum of the products, rounded once."""
    parts = [(Fraction(t.px * t.sz), t.is_buy) for t in prints]
    expected = (
        float(sum(part for part, is_buy in parts if is_buy)),
        float(sum(part for part, is_buy in parts if not is_buy)),
        float(sum(part for part, _ in parts)),
    )
    assert notional(prints) == ([t.px for t in prints], *expected)
    exact = sum((Fraction(t.px) * Fraction(t.sz) for t in prints), Fraction(0))
    assert close_to(notional(prints)[3], exact, ulps=2)


@settings(max_examples=40, deadline=None)
@given(trades, st.randoms(use_true_random=False))
def test_property_notional_has_no_order(prints: list[Trade], rng: random.Random) -> None:
    """The same prints in any order give the same bits."""
    shuffled = prints.copy()
    rng.shuffle(shuffled)
    assert notional(shuffled)[1:] == notional(prints)[1:]


def test_no_prints_is_no_volume() -> None:
    """Zero volume is known, not missing."""
    assert notional([]) == ([], 0.0, 0.0, 0.0)


def least_squares(levels: Sequence[Fraction]) -> Fraction:
    """Return the slope of a line through (0, levels[0]), (1, levels[1]), … by the textbook."""
    n = len(levels)
    sx, sy = Fraction(n * (n - 1), 2), sum(levels, Fraction(0))
    sxx = Fraction(sum(x * x for x in range(n)))
    sxy = sum((x * y for x, y in enumerate(levels)), Fraction(0))
    return (n * sxy - sx * sy) / (n * sxx - sx * sx)


def levels_of(deltas: Sequence[float]) -> list[Fraction]:
    """Return the running sums, exactly."""
    return [sum(map(Fraction, deltas[: k + 1]), Fraction(0)) for k in range(len(deltas))]


@given(st.lists(st.integers(-(2**30), 2**30), min_size=2, max_size=30))
def test_oracle_slope_of_whole_numbers_is_exact(deltas: list[int]) -> None:
    """Levels that a double holds exactly give the correctly rounded slope, up to the division."""
    exact = least_squares(levels_of(deltas))
    assert close_to(slope([float(delta) for delta in deltas]), exact, ulps=1)


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=30))
def test_oracle_slope(deltas: list[float]) -> None:
    """Of any numbers it is right relative to the levels it runs over."""
    levels = levels_of(deltas)
    scale = max(abs(level) for level in levels) + max(abs(Fraction(d)) for d in deltas)
    assert close_to(slope(deltas), least_squares(levels), ulps=2 * len(deltas), scale=scale)


@given(st.lists(st.integers(-1000, 1000), min_size=4, max_size=4), st.integers(-(10**6), 10**6))
def test_property_the_level_before_does_not_matter(deltas: list[int], anchor: int) -> None:
    """Only differences of levels count: the first delta, like the daily anchor, drops out."""
    assert slope([float(anchor), *map(float, deltas)]) == slope([0.0, *map(float, deltas)])


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [([7.0, 3.0], 3.0), ([0.0] * 5, 0.0), ([1.0] * 5, 1.0), ([-2.0] * 9, -2.0)],
)
def test_slope_of_simple_flows(deltas: list[float], expected: float) -> None:
    """Two bars, no flow, steady flow."""
    assert slope(deltas) == expected


@pytest.mark.parametrize("deltas", [[], [1.0]])
def test_one_bar_has_no_slope(deltas: list[float]) -> None:
    """Asking for it is a bug of the caller."""
    with pytest.raises(AssertionError):
        slope(deltas)


# --- liquidity -----------------------------------------------------------------------------------

START, END = 1000, 1040  # a short minute: the naive walk visits each of its milliseconds
Side = float | None


def quote(at_ms: int, bid: Side = 99.0, ask: Side = 101.0) -> Quote:
    """Return a top of book."""
    return Quote(0, at_ms, bid, None if bid is None else 1.0, ask, None if ask is None else 1.0)


def held(carry: Quote | None) -> bytearray:
    """Return what carries into a minute as it lies in memory."""
    return ticks_of(quotes=[] if carry is None else [carry]).quotes


def top_of_book(
    carry: Quote | None, quotes: Sequence[Quote], start: int, end: int, at_ms: int
) -> tuple[list[float], Instants, float | None, float | None]:
    """Return what a walk over some tops finds."""
    tops = ticks_of(quotes=quotes).quotes
    mids, *rest = kernel.top_of_book(held(carry), tops, start, end, at_ms)
    return list(mids), *rest


def in_force(carry: Quote | None, quotes: Sequence[Quote], at_ms: int) -> Quote | None:
    """Return the last quote at or before an instant, by looking at all of them."""
    known = [q for q in quotes if q.time_ms <= at_ms]
    return known[-1] if known else carry


def naive_mid(top: Quote | None) -> float | None:
    """Return the middle of a two-sided top."""
    if top is None or top.bid_px is None or top.ask_px is None:
        return None
    return (top.bid_px + top.ask_px) / 2


def naive_microprice(top: Quote | None) -> float | None:
    """Return the middle of a two-sided top, each side weighted by the size of the other."""
    if top is None or top.bid_px is None or top.ask_px is None:
        return None
    bid, bid_sz, ask, ask_sz = (Fraction(x or 0) for x in msgspec.structs.astuple(top)[2:])
    return float((ask * bid_sz + bid * ask_sz) / (bid_sz + ask_sz))


sides = st.none() | st.integers(0, 40)
tops = st.builds(
    lambda at, bid, ask: quote(
        at,
        None if bid is None else 100 - bid / 4,
        None if ask is None else 100 + ask / 4,
    ),
    st.integers(START, END - 1),
    sides,
    sides,
)
quote_lists = st.lists(tops, max_size=10).map(lambda qs: sorted(qs, key=lambda q: q.time_ms))
carries = st.none() | tops


def spreads(
    carry: Quote | None, quotes: list[Quote], start: int = START, end: int = END
) -> tuple[float | None, float | None]:
    """Return mean and 95th percentile of the spreads of a minute."""
    _, _, mean, p95 = top_of_book(carry, quotes, start, end, start)
    return mean, p95


@settings(max_examples=40, deadline=None)
@given(carries, quote_lists)
def test_oracle_a_mid_for_each_top_in_time_order(carry: Quote | None, quotes: list[Quote]) -> None:
    """What carried in comes first, also for no time; a one-sided top has none."""
    tops = quotes if carry is None else [carry, *quotes]
    expected = [found for top in tops if (found := naive_mid(top)) is not None]
    assert top_of_book(carry, quotes, START, END, START)[0] == expected


@settings(max_examples=40, deadline=None)
@given(carries, quote_lists)
def test_oracle_the_top_at_an_instant_and_at_the_end(
    carry: Quote | None, quotes: list[Quote]
) -> None:
    """The last quote at or before it, else the one that carried in; sizes tell them apart."""
    quotes = [
        Quote(0, top.time_ms, top.bid_px, float(k), top.ask_px, 1.0)
        for k, top in enumerate(quotes, 2)
    ]
    now = in_force(carry, quotes, END)
    for at_ms in range(START, END + 3):
        then = in_force(carry, quotes, at_ms)
        expected = (naive_mid(now), naive_microprice(now), naive_mid(then), naive_microprice(then))
        assert top_of_book(carry, quotes, START, END, at_ms)[1] == expected


@settings(max_examples=40, deadline=None)
@given(carries, quote_lists)
def test_oracle_spread_columns(carry: Quote | None, quotes: list[Quote]) -> None:
    """Mean and 95th percentile of the spreads of all milliseconds that have one, exactly."""
    each = []
    for ms in range(START, END):
        top = in_force(carry, quotes, ms)
        if top is not None and top.bid_px is not None and top.ask_px is not None:
            each.append(Fraction(top.ask_px) - Fraction(top.bid_px))
    mean, p95 = spreads(carry, quotes)
    if not each:
        assert (mean, p95) == (None, None)
        return
    enough = [s for s in each if sum(t <= s for t in each) * 100 >= 95 * len(each)]
    assert mean == float(sum(each, Fraction(0)) / len(each))
    assert p95 == float(min(enough))


def test_the_tops_of_a_minute() -> None:
    r"""What held before, then two quotes; the last one of an instant holds.

    START      +10           +40        END
      |- carry -|---- 98/102 -|-- 97/ -- |
                (99/101 for 0 ms)
    """
    carry = quote(START - 500, 95.0, 105.0)
    leaning = Quote(0, START + 10, 98.0, 3.0, 102.0, 1.0)
    quotes = [quote(START + 10), leaning, quote(START + 30, 97.0, None)]
    mids, instants, mean, p95 = top_of_book(carry, quotes, START, END, START + 10)
    assert mids == [100.0, 100.0, 100.0]
    assert instants == (None, None, 100.0, 101.0)
    assert (mean, p95) == ((10 * 10 + 20 * 4) / 30, 10.0)


def test_a_minute_that_nobody_quoted() -> None:
    """No mid, no top, no spread."""
    assert top_of_book(None, [], START, END, START) == ([], (None,) * 4, None, None)


def test_one_value_held_all_minute() -> None:
    """A book that never moves has one spread, also at the 95th percentile."""
    assert top_of_book(quote(0), [], START, END, END) == ([100.0], (100.0,) * 4, 2.0, 2.0)


@pytest.mark.parametrize(("wide_ms", "p95"), [(0, 2.0), (50, 2.0), (51, 6.0), (1000, 6.0)])
def test_the_percentile_is_reached_at_95_percent_of_the_time(wide_ms: int, p95: float) -> None:
    """A spread that held for 5 % of a second does not count, for a millisecond more it does."""
    quotes = [quote(2000 - wide_ms, 97.0, 103.0)]
    assert spreads(quote(0), quotes, 1000, 2000)[1] == p95


def test_a_locked_book_has_a_spread_of_zero() -> None:
    """Bid equal to ask is two-sided: zero is the spread, not a missing one."""
    assert spreads(quote(0, 100.0, 100.0), []) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("bid", "ask", "crossed"),
    [
        (99.0, 101.0, False),
        (100.0, 100.0, False),
        (101.0, 99.0, True),
        (None, 99.0, False),
        (101.0, None, False),
        (None, None, False),
    ],
)
def test_only_a_bid_above_the_ask_contradicts_itself(bid: Side, ask: Side, crossed: bool) -> None:
    """Locked and one-sided books are odd but possible, of quotes and of the best levels alike."""
    top = ticks_of(quotes=[quote(0, bid, ask)]).quotes
    levels = [() if px is None else ((px, 1.0), (100.0, 1.0)) for px in (bid, ask)]
    snapshot = ticks_of(books=[Book(0, 0, *levels)]).books
    for records, size in ((top, QUOTE_BYTES), (snapshot, BOOK_BYTES)):
        state = AssemblyState()
        take_states(state, records, size, 0, Minute)
        assert state.dropped == ({CROSSED: 1} if crossed else {})
        (minute,) = [Minute()] if crossed else state.minutes.values()
        assert minute.quotes + minute.books == (b"" if crossed else records)
        assert list(state.minutes) == ([] if crossed else [kernel.MINUTE_MS])


# --- depth ---------------------------------------------------------------------------------------

level_lists = st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6)), max_size=9).map(tuple)


def book(at_ms: int, bid: float | None = 1.0, ask: float | None = 1.0) -> Book:
    """Return a snapshot of one level a side, of so much quote currency."""
    return Book(
        0,
        at_ms,
        () if bid is None else ((1.0, bid),),
        () if ask is None else ((1.0, ask),),
    )


def depth_columns(
    carry: Book | None, books: Sequence[Book], start: int, end: int
) -> tuple[float | None, float | None]:
    """Return imbalance and depth of some snapshots."""
    before = ticks_of(books=[] if carry is None else [carry]).books
    return kernel.depth_columns(before, ticks_of(books=books).books, start, end)


@settings(max_examples=60, deadline=None)
@given(level_lists, level_lists)
def test_oracle_depth_of_a_snapshot(
    bids: tuple[tuple[float, float], ...], asks: tuple[tuple[float, float], ...]
) -> None:
    """Each side the exact sum of five products, rounded once; none without the other."""
    found = depth_columns(None, [Book(0, START, bids, asks)], START, END)
    if not bids or not asks:
        assert found == (None, None)
        return
    bid, ask = (float(sum(Fraction(px * sz) for px, sz in side[:5])) for side in (bids, asks))
    assert found == (bid / (bid + ask) * (END - START) / (END - START), bid + ask)


@pytest.mark.parametrize("levels", range(1, 9))
def test_the_sixth_level_does_not_count(levels: int) -> None:
    """Nor any after it; a book of fewer levels has what it has."""
    side = tuple((1.0, 1.0) for _ in range(levels))
    expected = float(min(levels, DEPTH_LEVELS)) + 2.0
    assert DEPTH_LEVELS == 5
    for one in (Book(0, START, side, ((2.0, 1.0),)), Book(0, START, ((2.0, 1.0),), side)):
        assert depth_columns(None, [one], START, END)[1] == expected


some_depth = st.none() | st.floats(1e-3, 1e9)
snapshots = st.builds(book, st.integers(START, END - 1), some_depth, some_depth)
snapshot_lists = st.lists(snapshots, max_size=10).map(lambda b: sorted(b, key=lambda s: s.time_ms))


@settings(max_examples=80, deadline=None)
@given(st.none() | snapshots, snapshot_lists)
def test_oracle_imbalance_mean(carry: Book | None, books: list[Book]) -> None:
    """The mean over all milliseconds of the share of what is in force there, if it is known."""
    shares = []
    for ms in range(START, END):
        held = [snapshot for snapshot in books if snapshot.time_ms <= ms]
        top = held[-1] if held else carry
        if top is not None and top.bids and top.asks:
            bid, ask = Fraction(top.bids[0][1]), Fraction(top.asks[0][1])
            shares.append(bid / (bid + ask))
    found, _ = depth_columns(carry, books, START, END)
    if shares:
        assert close_to(found, sum(shares, Fraction(0)) / len(shares), ulps=4)
        assert found is not None
        assert 0.0 <= found <= 1.0
    else:
        assert found is None


def test_imbalance_of_a_minute() -> None:
    r"""What held before, nothing for a while, then another; the last of an instant holds.

    START      +10          +30        END
      |-- 3/4 --|-- unknown -|-- 1/4 -- |
                             (1/2 for 0 ms)
    """
    books = [book(START + 10, None), book(START + 30, 2.0, 2.0), book(START + 30, 1.0, 3.0)]
    carry = book(0, 3.0, 1.0)
    assert depth_columns(carry, books, START, END)[0] == 0.5
    assert depth_columns(None, books, START, END)[0] == 0.25
    assert depth_columns(None, books[:1], START, END)[0] is None
    assert depth_columns(carry, [], START, END)[0] == 0.75


def test_of_one_instant_the_last_snapshot_counts() -> None:
    """One that was replaced at once has neither a share of the time nor of the median."""
    books = [book(START + 5, 1.0, 1.0), book(START + 5, None)]
    assert depth_columns(None, books, START, END) == (None, None)


@settings(max_examples=60, deadline=None)
@given(snapshot_lists)
def test_oracle_depth_median(books: list[Book]) -> None:
    """As the standard library has it, over the snapshots that are known; not what carried in."""
    by_time = {snapshot.time_ms: snapshot for snapshot in books}
    known = [b.bids[0][1] + b.asks[0][1] for b in by_time.values() if b.bids and b.asks]
    _, found = depth_columns(book(0, 5.0, 5.0), books, START, END)
    assert found == (statistics.median(known) if known else None)


# --- microprice ----------------------------------------------------------------------------------


def sized(bid: Side, ask: Side, bid_sz: Side, ask_sz: Side) -> Quote:
    """Return a top of book with sizes."""
    return Quote(0, 0, bid, bid_sz, ask, ask_sz)


def microprice(top: Quote | None) -> float | None:
    """Return the microprice of a top, as at the close and as at an instant before."""
    instants = [
        kernel.top_of_book(held(carry), held(quote), 0, END, START)[1]
        for carry, quote in ((top, None), (None, top))
    ]
    (found,) = {repr(instant[1::2]) for instant in instants}
    assert found == repr(instants[0][1:2] * 2)
    return instants[0][1]


@given(prices, prices, st.floats(1e-9, 1e9), st.floats(1e-9, 1e9))
def test_oracle_microprice(one: float, other: float, bid_sz: float, ask_sz: float) -> None:
    """Each price weighted by the size of the other side; it lies between them."""
    bid, ask = min(one, other), max(one, other)
    found = microprice(sized(bid, ask, bid_sz, ask_sz))
    b, a, bs, az = map(Fraction, (bid, ask, bid_sz, ask_sz))
    assert close_to(found, (a * bs + b * az) / (bs + az), ulps=6)
    assert found is not None
    assert bid * (1 - 1e-15) <= found <= ask * (1 + 1e-15)


def test_the_microprice_leans_away_from_the_larger_size() -> None:
    """Equal sizes give the mid; all of the size on the bid, the ask."""
    assert microprice(sized(99.0, 101.0, 2.0, 2.0)) == 100.0
    assert microprice(sized(99.0, 101.0, 3.0, 1.0)) == 100.5
    assert microprice(sized(99.0, 101.0, 1.0, 3.0)) == 99.5
    assert microprice(sized(99.0, 101.0, 1.0, 0.0)) == 101.0


@pytest.mark.parametrize(
    "top",
    [
        None,
        sized(None, 101.0, 1.0, 1.0),
        sized(99.0, None, 1.0, 1.0),
        sized(99.0, 101.0, None, 1.0),
        sized(99.0, 101.0, 1.0, None),
        sized(99.0, 101.0, 0.0, 0.0),
        sized(None, None, None, None),
    ],
)
def test_no_microprice_without_two_sides_and_sizes(top: Quote | None) -> None:
    """NULL, never the mid instead."""
    assert microprice(top) is None


# --- cross-section -------------------------------------------------------------------------------


@given(st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=60))
def test_oracle_dispersion(values: list[int]) -> None:
    """The population standard deviation as the standard library has it, in exact arithmetic."""
    expected = math.sqrt(statistics.pvariance([Fraction(value, 1024) for value in values]))
    found = dispersion([value / 1024 for value in values])
    assert found is not None
    assert math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-9)


@settings(max_examples=50)
@given(st.lists(st.floats(-1e3, 1e3), max_size=40), st.randoms(use_true_random=False))
def test_property_dispersion_has_no_order(values: list[float], rng: random.Random) -> None:
    """The same assets in any order give the same bits."""
    shuffled = values.copy()
    rng.shuffle(shuffled)
    assert dispersion(shuffled) == dispersion(values)


@pytest.mark.parametrize(
    ("values", "expected"), [([], None), ([3.0], None), ([3.0, 3.0], 0.0), ([-1.0, 1.0], 1.0)]
)
def test_dispersion_needs_two_assets(values: list[float], expected: float | None) -> None:
    """One asset does not differ from itself."""
    assert dispersion(values) == expected


def sign(value: float | None) -> int:
    """Return -1, 0 or 1; a missing value has no sign."""
    return 0 if value is None else (value > 0) - (value < 0)


@given(
    st.floats(-0.2, 0.2),
    st.floats(-9.0, 9.0),
    st.none() | st.just(0.0) | st.floats(-0.1, 0.1),
)
def test_oracle_lead_index(ret: float, z_vol: float, oi_roc: float | None) -> None:
    """Build plan 6.4, term by term."""
    agree = max(0, sign(ret) * sign(oi_roc))
    exact = abs(Fraction(ret)) * max(Fraction(z_vol), Fraction(0)) * (1 + Fraction(agree, 2))
    assert close_to(lead_index(ret, z_vol, oi_roc), exact, ulps=2, scale=Fraction(1, 2**1000))


@pytest.mark.parametrize(
    ("ret", "z_vol", "oi_roc", "expected"),
    [
        (0.5, 2.0, None, 1.0),
        (0.5, 2.0, 0.25, 1.5),
        (-0.5, 2.0, -0.25, 1.5),
        (0.5, 2.0, -0.25, 1.0),
        (0.5, 2.0, 0.0, 1.0),
        (0.0, 2.0, 0.25, 0.0),
        (0.5, -2.0, 0.25, 0.0),
    ],
)
def test_lead_needs_a_move_with_volume(
    ret: float, z_vol: float, oi_roc: float | None, expected: float
) -> None:
    """Quiet volume never leads; open interest helps only where it agrees."""
    assert lead_index(ret, z_vol, oi_roc) == expected
