"""Elementary functions: exact values, distance from the C library, edges."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.formulas.elementary import (
    asinh,
    exp,
    log,
    log1p,
    median,
    pow_3_8,
    round12,
    sigmoid,
)

# function, argument, hex where the reference gives one, shortest decimal; numerics 12
ORACLES = """
dlog 0.5 -0x1.62e42fefa39efp-1 -0.6931471805599453
dlog 1.0 0x0.0p+0 0.0
dlog 2.0 0x1.62e42fefa39efp-1 0.6931471805599453
dlog 10.0 0x1.26bb1bbb55516p+1 2.302585092994046
dlog 1e-05 -0x1.7069e2aa2aa5bp+3 -11.512925464970229
dlog 123456.789 0x1.77281cad8a844p+3 11.723646487185881
dlog1p 0.0 0x0.0p+0 0.0
dlog1p 1e-08 0x1.5798ee0636111p-27 9.999999950000001e-09
dlog1p 0.1 0x1.8663f793c46c6p-4 0.09531017980432485
dlog1p 1.0 0x1.62e42fefa39efp-1 0.6931471805599453
dlog1p 1000000.0 0x1.ba18abb1dedc8p+3 13.815511557963774
dasinh -3.0 -1.8184464592320668
dasinh -0.5 -0.48121182505960347
dasinh 0.0 0.0
dasinh 0.001 0.0009999998333334083
dasinh 2.0 1.4436354751788103
p38 0.0001 0.0316227766016838
p38 0.0031 0.11462006098351923
p38 0.02 0.2306143078159937
dsigmoid -3.192 0.03946788932640206
dsigmoid 0.0 0.5
dsigmoid 0.5 0.6224593312018546
dsigmoid 3.192 0.9605321106735979
"""
FUNCTIONS: dict[str, Callable[[float], float]] = {
    "dlog": log,
    "dlog1p": log1p,
    "dasinh": asinh,
    "p38": pow_3_8,
    "dsigmoid": sigmoid,
}
ULPS = 4


def ulps(got: float, want: float) -> float:
    return abs(got - want) / math.ulp(want)


@pytest.mark.parametrize("line", ORACLES.strip().splitlines())
def test_oracle_value(line: str) -> None:
    """Every value of the reference is met to the last bit."""
    name, argument, *expected = line.split()
    got = FUNCTIONS[name](float(argument))
    assert repr(got) == expected[-1]
    if len(expected) == 2:
        assert got.hex() == expected[0]


@given(st.floats(1e-300, 1e300))
def test_property_log_is_within_4_ulp(x: float) -> None:
    """The logarithm agrees with the C library over the whole range."""
    assert ulps(log(x), math.log(x)) <= ULPS


@given(st.floats(0.0, 1e300))
def test_property_log1p_is_within_4_ulp(x: float) -> None:
    """log1p agrees with the C library, near zero too."""
    assert ulps(log1p(x), math.log1p(x)) <= ULPS


@given(st.floats(-1e150, 1e150))
def test_property_asinh_is_within_4_ulp_and_odd(x: float) -> None:
    """asinh agrees with the C library and mirrors exactly."""
    assert ulps(asinh(x), math.asinh(x)) <= ULPS
    assert asinh(-x) == -asinh(x)


@given(st.floats(-700.0, 709.0))
def test_property_exp_is_within_4_ulp(x: float) -> None:
    """exp agrees with the C library wherever the result is a normal number."""
    assert ulps(exp(x), math.exp(x)) <= ULPS


@given(st.floats(-30.0, 30.0))
def test_property_sigmoid_is_within_4_ulp_and_symmetric(x: float) -> None:
    """The sigmoid agrees with its definition and is symmetric around one half."""
    assert ulps(sigmoid(x), 1.0 / (1.0 + math.exp(-x))) <= ULPS
    assert sigmoid(x) + sigmoid(-x) == pytest.approx(1.0, abs=1e-15)


@given(st.floats(0.0, 1e6))
def test_property_pow_3_8_is_within_4_ulp(x: float) -> None:
    """Roots and one product agree with the C library's power."""
    assert ulps(pow_3_8(x), math.pow(x, 0.375)) <= ULPS


def test_exp_and_sigmoid_saturate() -> None:
    """Far out exp is 0 or inf, and the sigmoid 0 or 1, without an exception."""
    assert (exp(-745.1), exp(709.1)) == (0.0, math.inf)
    assert (sigmoid(-1e6), sigmoid(1e6)) == (0.0, 1.0)


@pytest.mark.parametrize("x", [0.0, -1.0, math.nan, math.inf])
def test_log_rejects_what_has_no_logarithm(x: float) -> None:
    """Zero, negatives, nan and inf stop the program instead of spreading."""
    with pytest.raises(AssertionError, match="log needs"):
        log(x)


def test_log1p_rejects_negatives() -> None:
    """A negative argument is a bug of the caller."""
    with pytest.raises(AssertionError, match="log1p needs"):
        log1p(-0.1)


@pytest.mark.parametrize(
    ("x", "stored"),
    [(1 / 3, 0.333333333333), (123456789012345.0, 123456789012000.0), (1e-300, 1e-300)],
)
def test_round12_keeps_twelve_digits(x: float, stored: float) -> None:
    """Twelve significant digits survive, at any magnitude."""
    assert round12(x) == stored


def test_round12_has_no_negative_zero() -> None:
    """Negative zero is stored as zero."""
    assert math.copysign(1.0, round12(-0.0)) == 1.0


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_property_round12_is_idempotent(x: float) -> None:
    """Rounding what was rounded changes nothing."""
    assert round12(round12(x)) == round12(x)


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf])
def test_round12_rejects_what_cannot_be_stored(x: float) -> None:
    """nan and inf never reach a stored column."""
    with pytest.raises(AssertionError, match="only finite"):
        round12(x)


@pytest.mark.parametrize(
    ("values", "middle"),
    [([7.0], 7.0), ([3.0, 1.0], 2.0), ([9.0, 1.0, 2.0], 2.0), ([4.0, 1.0, 3.0, 2.0], 2.5)],
)
def test_median_of_odd_and_even_counts(values: list[float], middle: float) -> None:
    """The middle value, or half the sum of the middle two; the input keeps its order."""
    before = list(values)
    assert median(values) == middle
    assert values == before


def test_median_of_nothing_is_a_bug() -> None:
    """An empty list has no median."""
    with pytest.raises(AssertionError, match="median of nothing"):
        median([])
