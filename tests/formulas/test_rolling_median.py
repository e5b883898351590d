"""Medians over completed days: against exact ones, completeness of the days, taking values back."""

import csv
import gzip
import math
import random
import statistics
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.formulas.rolling_median import X_MAX, DailyCounts, bin_of, edges

DAY_MINUTES = 1440

amounts = st.one_of(
    st.just(0.0), st.floats(1e-6, 1e9), st.sampled_from([1.0, 1.06, 2.0, 5e-324, 9e307])
)
additions = st.lists(st.tuples(amounts, st.integers(-2, 12)), max_size=60)


def filled(values: list[tuple[float, int]]) -> DailyCounts:
    counts = DailyCounts()
    for x, day in values:
        counts.add(x, day)
    return counts


def encoded(counts: DailyCounts) -> bytes:
    return msgspec.msgpack.encode(counts)


def lognormal(seed: int, minutes: int) -> list[float]:
    """Minute volumes around 60 000 of quote currency; one in fifty is empty."""
    source = random.Random(seed)
    return [
        0.0 if source.random() < 0.02 else math.exp(source.gauss(11.0, 1.5)) for _ in range(minutes)
    ]


# --- bins ------------------------------------------------------------------------------------


@given(st.floats(1e-300, X_MAX, exclude_max=True))
def test_property_a_value_lies_in_its_bin(x: float) -> None:
    """Bins are half open and at most an eighth wide."""
    low, high = edges(bin_of(x))
    assert low <= x < high
    assert 1.066 < high / low <= 1.125


@given(st.floats(5e-324, X_MAX, exclude_max=True), st.floats(5e-324, X_MAX, exclude_max=True))
def test_property_bins_sort_as_values(a: float, b: float) -> None:
    """A smaller value never has a larger bin."""
    low, high = sorted((a, b))
    assert bin_of(low) <= bin_of(high)


@given(st.floats(1e-300, 1e300))
def test_property_neighbouring_bins_touch(x: float) -> None:
    """There is no gap and no overlap between a bin and the next."""
    k = bin_of(x)
    assert edges(k)[1] == edges(k + 1)[0]


@pytest.mark.parametrize("x", [-1.0, -5e-324, math.nan, math.inf, X_MAX])
def test_what_cannot_be_counted_is_a_bug(x: float) -> None:
    """Negative, endless and undefined values stop the program before they are counted."""
    counts = DailyCounts()
    with pytest.raises(AssertionError, match="take values from 0"):
        counts.add(x, 1)
    assert counts == DailyCounts()


# --- medians ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_oracle_median_of_seven_days_of_minutes(seed: int) -> None:
    """On smooth data the median is right within 2 %, day after day."""
    values = lognormal(seed, 12 * DAY_MINUTES)
    counts = DailyCounts()
    for i, x in enumerate(values):
        counts.add(x, 100 + i // DAY_MINUTES)
    for day in range(107, 113):
        until = (day - 100) * DAY_MINUTES
        exact = statistics.median(values[until - 7 * DAY_MINUTES : until])
        assert counts.median(day, 7) == pytest.approx(exact, rel=0.02)


def test_oracle_median_of_recorded_volumes(shared_data: Path) -> None:
    """A month of real minutes, holes among them: within a bin of the exact median each day."""
    (path,) = (shared_data / "market" / "bars_1m").glob("coinbase_btcusd_flow_minutes_*.csv.gz")
    by_day: dict[int, list[float]] = {}
    counts = DailyCounts()
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            day = int(row["minute_epoch"]) // DAY_MINUTES
            x = float(row["volume"] or 0.0) * float(row["close"])
            by_day.setdefault(day, []).append(x)
            counts.add(x, day)
    seen = 0
    for day in range(min(by_day), max(by_day) + 2):
        got = counts.median(day, 7)
        if any(past not in by_day for past in range(day - 7, day)):
            assert got is None
            continue
        values = [x for past in range(day - 7, day) for x in by_day[past]]
        assert got == pytest.approx(statistics.median(values), rel=0.125)
        seen += 1
    assert seen > 15


@given(st.lists(amounts, min_size=1, max_size=40), st.integers(1, 4))
def test_property_the_median_lies_in_the_bin_of_the_exact_one(
    values: list[float], days: int
) -> None:
    """It is zero with the lower middle value, else between the edges of that value's bin."""
    values = values + values[:1] * days
    counts = filled([(x, i % days) for i, x in enumerate(values)])
    got = counts.median(days, days)
    exact = statistics.median_low(values)
    if exact == 0.0:
        assert got == 0.0
    else:
        low, high = edges(bin_of(exact))
        assert got is not None
        assert low <= got <= high


@given(st.lists(st.floats(1.0, 1000.0), min_size=1, max_size=60))
def test_oracle_the_rank_within_a_bin_is_exact(values: list[float]) -> None:
    """The place within the bin is the exact fraction of its values below half of all."""
    counts = filled([(x, 3) for x in values])
    got = counts.median(4, 1)
    k = bin_of(statistics.median_low(values))
    low, high = edges(k)
    below = len([x for x in values if bin_of(x) < k])
    inside = len([x for x in values if bin_of(x) == k])
    share = float((Fraction(len(values), 2) - below) / inside)
    assert got == low + (high - low) * share


@given(additions, st.integers(0, 14), st.integers(1, 7), st.randoms(use_true_random=False))
def test_property_the_order_of_values_and_other_days_do_not_matter(
    values: list[tuple[float, int]], day: int, days: int, source: random.Random
) -> None:
    """Only the values of the days asked for count, in any order."""
    counts = filled(values)
    got = counts.median(day, days)
    shuffled = [(x, d) for x, d in values if day - days <= d < day]
    source.shuffle(shuffled)
    assert filled(shuffled).median(day, days) == got
    source.shuffle(values)
    assert filled(values) == counts


@given(additions, st.integers(0, 14), st.integers(1, 7))
def test_property_every_day_must_have_a_value(
    values: list[tuple[float, int]], day: int, days: int
) -> None:
    """The median is NULL exactly when one of the days has no value; zeros are values."""
    present = {d for _, d in values}
    complete = all(d in present for d in range(day - days, day))
    assert (filled(values).median(day, days) is not None) is complete


def test_today_does_not_count() -> None:
    """Values of the day itself, and of days to come, wait until it is over."""
    counts = filled([(1.0, 5), (1000.0, 6), (1000.0, 7)])
    assert counts.median(6, 1) == 1.0625
    assert counts.median(5, 1) is None
    assert counts.median(6, 2) is None


def test_half_zeros_make_the_median_zero() -> None:
    """Two of four values are zero, then two of five."""
    counts = filled([(0.0, 5), (0.0, 5), (3.0, 5), (4.0, 5)])
    assert counts.median(6, 1) == 0.0
    counts.add(3.0, 5)
    assert counts.median(6, 1) == pytest.approx(3.0, rel=0.125)


# --- taking back -----------------------------------------------------------------------------


@given(additions, amounts, st.integers(-2, 12))
def test_property_remove_undoes_add(values: list[tuple[float, int]], x: float, day: int) -> None:
    """Fields and bytes are those of before, also when the value opened a day."""
    counts = filled(values)
    before = encoded(counts)
    counts.add(x, day)
    assert encoded(counts) != before
    counts.remove(x, day)
    assert counts == filled(values)
    assert encoded(counts) == before


@given(additions, st.randoms(use_true_random=False))
def test_property_nothing_is_left_when_all_is_taken_back(
    values: list[tuple[float, int]], source: random.Random
) -> None:
    """In whatever order values are taken back, no day and no bin stays behind."""
    counts = filled(values)
    source.shuffle(values)
    for x, day in values:
        counts.remove(x, day)
    assert counts == DailyCounts()


@settings(max_examples=60)
@given(st.integers(2, 7), st.integers(1, 5), amounts, st.data())
def test_property_an_undone_first_minute_of_a_day_is_not_missed(
    days: int, ahead: int, x: float, data: st.DataObject
) -> None:
    """Opening a day, forgetting and taking back changes no median from the day before on."""
    values = data.draw(st.lists(st.tuples(amounts, st.integers(0, 9)), max_size=60))
    counts, untouched = filled([*values, (1.0, 9)]), filled([*values, (1.0, 9)])
    day = 9 + ahead
    counts.add(x, day)
    counts.forget(day - days - 1)
    assert len(counts.days) <= days + 2
    counts.remove(x, day)
    for later in range(day - 1, day + days + 1):
        assert counts.median(later, days) == untouched.median(later, days)


def test_what_was_never_added_cannot_be_removed() -> None:
    """A value, a zero or a day that is not there is a bug, and nothing changes."""
    counts = filled([(1.0, 5), (0.0, 6)])
    for x, day, reason in (
        (1.5, 5, "was not added"),
        (0.0, 5, "no zero"),
        (1.0, 4, "nothing was added"),
        (1.0, 7, "nothing was added"),
    ):
        with pytest.raises(AssertionError, match=reason):
            counts.remove(x, day)
    assert counts == filled([(1.0, 5), (0.0, 6)])


def test_forget_drops_the_days_before() -> None:
    """The day named stays; forgetting what is not there does nothing."""
    counts = filled([(1.0, day) for day in (3, 4, 6, 7)])
    counts.forget(3)
    assert [day.day for day in counts.days] == [3, 4, 6, 7]
    counts.forget(5)
    assert [day.day for day in counts.days] == [6, 7]
    counts.forget(100)
    assert counts == DailyCounts()


# --- bytes -----------------------------------------------------------------------------------


@given(additions)
def test_property_counts_survive_messagepack(values: list[tuple[float, int]]) -> None:
    """What is read back is what was written, down to the median."""
    counts = filled(values)
    again = msgspec.msgpack.decode(encoded(counts), type=DailyCounts)
    assert again == counts
    assert again.median(9, 2) == counts.median(9, 2)


def test_a_week_takes_two_kilobytes() -> None:
    """Nine days of minutes of heavy-tailed volumes in MessagePack."""
    values = lognormal(5, 9 * DAY_MINUTES)
    counts = filled([(x, 20_000 + i // DAY_MINUTES) for i, x in enumerate(values)])
    assert 1_500 < len(encoded(counts)) <= 2_500
