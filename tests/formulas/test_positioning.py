"""Open interest, funding and basis of a handful of contexts, against exact arithmetic."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import kernel
from operators.formulas.elementary import round12
from operators.kernel import change, rate_of_change
from operators.layout import pack_context, ticks_of
from operators.records import Context

ULP = Fraction(1, 2**52)  # one unit in the last place of 1.0
Number = float | None

prices = st.floats(1e-6, 1e9)


def context(
    oi: Number = 1.0, mark: Number = 1.0, oracle: Number = 1.0, funding: Number = 0.0
) -> Context:
    """Return perp state; when it arrived does not matter here."""
    return Context(0, oi, mark, oracle, funding)


def contexts_of(
    contexts: Sequence[Context],
) -> tuple[list[float], bytearray, float | None, float | None, bool]:
    """Return levels, newest sample and rate, basis, and whether there is an index."""
    return kernel.contexts_of(ticks_of(contexts=contexts).contexts)


# --- open interest -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("oi", "mark", "sample"),
    [(5.0, 2.0, True), (0.0, 2.0, True), (None, 2.0, False), (5.0, None, False)],
)
def test_a_sample_has_coins_and_a_mark(oi: Number, mark: Number, sample: bool) -> None:
    """The index and the rate may be missing; zero coins are a number."""
    for one in (context(oi, mark), context(oi, mark, None, None)):
        levels, newest, *_ = contexts_of([one])
        assert (len(levels), newest) == ((1, pack_context(one)) if sample else (0, b""))


@given(st.floats(0, 1e15), st.floats(1e-9, 1e12))
def test_oracle_open_interest_in_quote(oi: float, mark: float) -> None:
    """The exact product, rounded to a double and then to twelve digits."""
    (found,) = contexts_of([context(oi, mark)])[0]
    assert found == round12(float(Fraction(oi) * Fraction(mark)))
    assert str(found) != "-0.0"


def test_the_newest_sample_is_the_last_that_has_all() -> None:
    """A copy of its own, whole; nothing without any."""
    contexts = [context(oi=1.0), context(oi=2.0), context(oi=None), context(mark=None)]
    assert contexts_of(contexts)[:2] == ([1.0, 2.0], pack_context(contexts[1]))
    assert contexts_of(contexts[2:])[:2] == ([], b"")
    records = ticks_of(contexts=contexts).contexts
    sample = kernel.contexts_of(records)[1]
    records[:] = b""
    assert sample == pack_context(contexts[1])


# --- basis ---------------------------------------------------------------------------------------


def basis_bp(contexts: list[Context]) -> float | None:
    """Return the mean basis of a minute's contexts."""
    return contexts_of(contexts)[3]


pairs = st.tuples(st.none() | st.floats(50, 200), st.none() | st.floats(50, 200))


@settings(max_examples=80, deadline=None)
@given(st.lists(pairs, max_size=12), st.randoms(use_true_random=False))
def test_oracle_basis(given_pairs: list[tuple[Number, Number]], rng: random.Random) -> None:
    """The mean premium over those that have both prices, in any order the same bits."""
    contexts = [context(mark=mark, oracle=oracle) for mark, oracle in given_pairs]
    exact = [
        (Fraction(mark) - Fraction(oracle)) / Fraction(oracle) * 10_000
        for mark, oracle in given_pairs
        if mark is not None and oracle is not None
    ]
    found = basis_bp(contexts)
    if not exact:
        assert found is None
        return
    assert found is not None
    mean, scale = sum(exact, Fraction(0)) / len(exact), max(map(abs, exact))
    assert abs(Fraction(found) - mean) <= 6 * ULP * scale
    rng.shuffle(contexts)
    assert basis_bp(contexts) == found


@pytest.mark.parametrize(
    ("mark", "oracle", "expected"), [(100.5, 100.0, 50.0), (99.5, 100.0, -50.0), (7.0, 7.0, 0.0)]
)
def test_basis_of_one_context(mark: float, oracle: float, expected: float) -> None:
    """A mark above the index is a premium; a basis point is a ten-thousandth."""
    assert basis_bp([context(mark=mark, oracle=oracle)]) == expected


def test_basis_needs_no_open_interest() -> None:
    """Nor a rate."""
    assert basis_bp([context(None, 101.0, 100.0, None)]) == 100.0


@pytest.mark.parametrize(
    "contexts",
    [[], [context(mark=None)], [context(oracle=None)], [context(None, None, None, None)]],
)
def test_no_basis_without_both_prices(contexts: list[Context]) -> None:
    """NULL, never zero."""
    assert basis_bp(contexts) is None
    assert basis_bp([*contexts, context(mark=101.0, oracle=100.0), *contexts]) == 100.0


def test_an_index_of_zero_is_no_index() -> None:
    """The feed lets none through; a formula never raises on data."""
    assert basis_bp([context(mark=100.0, oracle=0.0)]) is None
    assert contexts_of([context(oracle=0.0), context(oracle=None)])[4] is False
    assert contexts_of([context(oracle=0.0), context(mark=None, oracle=1.0)])[4] is True


# --- funding -------------------------------------------------------------------------------------


def newest_funding(contexts: list[Context]) -> float | None:
    """Return the newest rate of a minute's contexts."""
    return contexts_of(contexts)[2]


@given(st.lists(st.none() | st.floats(-1, 1), max_size=9))
def test_oracle_newest_funding(rates: list[Number]) -> None:
    """The last that is there, NULL if none is."""
    expected = None
    for rate in rates:
        expected = expected if rate is None else rate
    assert newest_funding([context(funding=rate) for rate in rates]) == expected


def test_a_rate_needs_nothing_else() -> None:
    """Nor does what else there is need a rate."""
    assert newest_funding([context(None, None, None, 1e-4)]) == 1e-4


def test_a_rate_of_zero_is_a_rate() -> None:
    """It replaces the one before it."""
    assert newest_funding([context(funding=0.0)]) == 0.0
    assert newest_funding([context(funding=2e-4), context(funding=0.0)]) == 0.0


# --- what carries over ---------------------------------------------------------------------------

some = st.none() | st.floats(0, 200)
mixed = st.lists(st.builds(Context, st.integers(0, 9), some, some, some, some), max_size=9)


@given(mixed)
def test_oracle_what_a_minute_leaves_behind(contexts: list[Context]) -> None:
    """The last sample and the last rate, each wherever it is; as the whole minute has them."""
    samples = [c for c in contexts if None not in (c.open_interest_base, c.mark_px)]
    rates = [c.funding_rate for c in contexts if c.funding_rate is not None]
    sample, rate = kernel.newest_context(ticks_of(contexts=contexts).contexts)
    assert sample == ticks_of(contexts=samples[-1:]).contexts
    assert rate == (rates[-1] if rates else None)
    assert (sample, rate) == contexts_of(contexts)[1:3]


# --- changes -------------------------------------------------------------------------------------


@given(prices, prices)
def test_oracle_changes(now: float, before: float) -> None:
    """One subtraction, and one division, each rounded once."""
    exact = Fraction(now) - Fraction(before)
    difference, rate = change(now, before), rate_of_change(now, before)
    assert difference == float(exact)
    assert rate is not None
    assert abs(Fraction(rate) - exact / Fraction(before)) <= 2 * ULP * abs(exact / Fraction(before))


@pytest.mark.parametrize(
    ("now", "before", "difference", "rate"),
    [
        (None, 1.0, None, None),
        (1.0, None, None, None),
        (None, None, None, None),
        (5.0, 0.0, 5.0, None),
        (0.0, 0.0, 0.0, None),
        (5.0, -1.0, 6.0, None),
        (0.0, 5.0, -5.0, -1.0),
        (5.0, 5.0, 0.0, 0.0),
        (-1e-4, 1e-4, -2e-4, -2.0),
    ],
)
def test_changes_of_what_is_missing_or_nothing(
    now: Number, before: Number, difference: Number, rate: Number
) -> None:
    """A difference needs two numbers, a rate also something to start from."""
    assert change(now, before) == difference
    assert rate_of_change(now, before) == rate
