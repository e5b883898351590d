"""A row's verdict is that of its worst reason, and every reason says what it means."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.quality import MEANINGS, VERDICTS, grade, prices_at_odds
from operators.records import Columns
from operators.verdicts import DQ_OK, DQ_PARTIAL, DQ_STALE

# Build plan 8.1, 8.6, 15.3; design D4, D21, D23.
STALE = (
    *("gap", "outage", "resync", "no_data", "minutes_missing", "book_stale"),
    *("clock_stale", "price_sanity"),
)
PARTIAL = (
    *("quiet", "late", "book_one_sided", "book_missing", "oi_stale", "index_missing"),
    *("minutes_not_ok", "clock_late"),
)


def test_the_reasons_and_their_order() -> None:
    """The order is stored in rows: one that moves is another output."""
    assert tuple(VERDICTS) == STALE + PARTIAL


def test_every_reason_has_a_verdict_and_a_meaning() -> None:
    """A stale row is never used, a partial one with care."""
    assert {name for name, verdict in VERDICTS.items() if verdict == DQ_STALE} == set(STALE)
    assert {name for name, verdict in VERDICTS.items() if verdict == DQ_PARTIAL} == set(PARTIAL)
    assert tuple(MEANINGS) == tuple(VERDICTS)
    assert len(set(MEANINGS.values())) == len(MEANINGS)
    for meaning in MEANINGS.values():
        assert meaning[0].islower()
        assert not meaning.endswith(".")


def test_without_reasons_all_is_well() -> None:
    """Also where the reasons come from a generator, which is not empty to look at."""
    assert grade([]) == grade(iter(())) == (DQ_OK, [])


def test_each_call_gives_a_list_of_its_own() -> None:
    """A row may be changed without changing the next one."""
    grade([])[1].append("gap")
    assert grade([]) == (DQ_OK, [])


@pytest.mark.parametrize("reason", VERDICTS)
def test_one_reason_forces_its_verdict(reason: str) -> None:
    """Whatever it is."""
    assert grade([reason]) == (VERDICTS[reason], [reason])


def test_a_reason_nobody_declared_is_a_bug() -> None:
    """It would be stored without a verdict."""
    with pytest.raises(AssertionError, match="gone"):
        grade(["quiet", "gone"])


@given(st.lists(st.sampled_from(STALE + PARTIAL)), st.randoms(use_true_random=False))
def test_property_reasons_have_one_order_and_the_worst_verdict(
    given_reasons: list[str], rng: random.Random
) -> None:
    """However often and in whatever order they are given."""
    verdict, ordered = grade(given_reasons)
    shuffled = given_reasons.copy()
    rng.shuffle(shuffled)
    assert grade(shuffled) == (verdict, ordered)
    assert ordered == [reason for reason in STALE + PARTIAL if reason in given_reasons]
    if any(reason in STALE for reason in given_reasons):
        assert verdict == DQ_STALE
    else:
        assert verdict == (DQ_PARTIAL if given_reasons else DQ_OK)


def test_a_hole_explains_itself_first() -> None:
    """The three words of a hole stand together, before what follows from it."""
    for given_reasons in permutations(["no_data", "resync", "gap", "outage"]):
        assert grade(given_reasons)[1] == ["gap", "outage", "resync", "no_data"]


# --- prices --------------------------------------------------------------------------------------


def ohlc(
    opened: float | None, high: float | None, low: float | None, closed: float | None
) -> Columns:
    """Return the four prices of a minute."""
    return {"open": opened, "high": high, "low": low, "close": closed}


@pytest.mark.parametrize(
    ("columns", "odd"),
    [
        (ohlc(100.0, 103.0, 98.0, 101.0), False),
        (ohlc(100.0, 100.0, 100.0, 100.0), False),
        (ohlc(98.0, 103.0, 98.0, 103.0), False),
        (ohlc(103.0, 103.0, 98.0, 98.0), False),
        (ohlc(103.1, 103.0, 98.0, 100.0), True),
        (ohlc(97.9, 103.0, 98.0, 100.0), True),
        (ohlc(100.0, 103.0, 98.0, 103.1), True),
        (ohlc(100.0, 103.0, 98.0, 97.9), True),
        (ohlc(100.0, 98.0, 103.0, 100.0), True),
        (ohlc(100.0, 99.0, 101.0, 100.0), True),
    ],
)
def test_prices_must_lie_within_their_range(columns: Columns, odd: bool) -> None:
    """The ends belong to it; a range that is upside down holds nothing."""
    assert prices_at_odds(columns) is odd


@pytest.mark.parametrize("name", ["open", "high", "low", "close"])
def test_a_price_that_is_null_contradicts_nothing(name: str) -> None:
    """That it is missing is another reason."""
    assert prices_at_odds(ohlc(200.0, 98.0, 103.0, 1.0))
    assert not prices_at_odds(ohlc(200.0, 98.0, 103.0, 1.0) | {name: None})
    assert not prices_at_odds(ohlc(None, None, None, None))


levels = st.integers(-3, 3).map(float)


@given(levels, levels, levels, levels)
def test_oracle_four_prices_agree_when_the_range_holds_all(
    opened: float, high: float, low: float, closed: float
) -> None:
    """High is the highest of the four and low the lowest, or they are at odds."""
    four = (opened, high, low, closed)
    assert prices_at_odds(ohlc(*four)) is not (high == max(four) and low == min(four))
