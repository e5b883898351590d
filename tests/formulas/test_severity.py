"""Severity, novelty and penalties under both detector packs."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.formulas.severity import (
    breadth,
    clamp,
    novelty_decaying,
    novelty_recovering,
    penalty,
    raw_score,
    severity,
)

BOOST = 0.8
HALF_LIFE_S = 120.0


class Weights(NamedTuple):
    w1: float
    w2: float
    w3: float
    a: float
    b: float


class Inputs(NamedTuple):
    primary: float
    secondary: float
    breadth: float
    novelty: float
    penalty: float


PACKS = {
    ("v0.1", "spike"): Weights(1.0, 0.5, 0.4, 0.6, 0.0),
    ("v0.1", "shift"): Weights(0.7, 0.8, 0.2, 0.55, 0.0),
    ("v0.2", "spike"): Weights(1.0, 0.5, 0.4, 0.97, 4.53),
    ("v0.2", "shift"): Weights(0.7, 0.8, 0.2, 0.95, 3.66),
}
BOTH = penalty(dq=1.0, illiquidity=1.0, w_dq=0.6, w_liq=0.3)
INPUTS = {
    "worked example": Inputs(3.2, 2.1, 4 / 6, 0.8, 0.0),
    "z=3 bare": Inputs(3.0, 0.0, 0.0, 0.0, 0.0),
    "z=2 first": Inputs(2.0, 0.0, 0.0, 0.8, 0.0),
    "strong": Inputs(4.5, 3.5, 1.0, 0.8, 0.0),
    "with both penalties": Inputs(4.5, 3.5, 1.0, 0.8, BOTH),
}
# pack, class, inputs, severity; numerics 12
SEVERITIES = """
v0.1 spike worked example 96
v0.2 spike worked example 68
v0.1 spike z=3 bare 86
v0.2 spike z=3 bare 18
v0.1 shift z=2 first 77
v0.2 shift z=2 first 20
v0.2 spike strong 94
v0.2 spike with both penalties 88
"""
# dt in seconds, then both packs at 12 digits; numerics 12
NOVELTIES = """
novelty dt 0 v0.1 0.8 v0.2 0
novelty dt 60 v0.1 0.48522452777 v0.2 0.234314575051
novelty dt 120 v0.1 0.294303552937 v0.2 0.4
novelty dt 600 v0.1 0.00539035759927 v0.2 0.775
"""


def scored(inputs: Inputs, pack: Weights) -> int:
    raw = raw_score(**inputs._asdict(), w1=pack.w1, w2=pack.w2, w3=pack.w3)
    return severity(raw, a=pack.a, b=pack.b)


@pytest.mark.parametrize("line", SEVERITIES.strip().splitlines())
def test_oracle_severity(line: str) -> None:
    """Every severity of the reference is met."""
    pack, event_class, *name, expected = line.split()
    assert scored(INPUTS[" ".join(name)], PACKS[pack, event_class]) == int(expected)


@pytest.mark.parametrize("line", NOVELTIES.strip().splitlines())
def test_oracle_novelty(line: str) -> None:
    """Every novelty of the reference is met at twelve digits."""
    _, _, dt, _, decaying, _, recovering = line.split()
    args = {"dt_s": float(dt), "boost": BOOST, "half_life_s": HALF_LIFE_S}
    assert format(novelty_decaying(**args), ".12g") == decaying
    assert format(novelty_recovering(**args), ".12g") == recovering


def test_golden_worked_example_from_the_plan() -> None:
    """The plan's example, from the clamped z and the shock count to 96."""
    raw = raw_score(
        primary=clamp(3.6, lo=-3.2, hi=3.2),
        secondary=2.1,
        breadth=breadth(4, full_at=6.0),
        novelty=novelty_decaying(dt_s=None, boost=BOOST, half_life_s=HALF_LIFE_S),
        penalty=penalty(dq=0.0, illiquidity=0.0, w_dq=0.6, w_liq=0.3),
        w1=1.0,
        w2=0.5,
        w3=0.4,
    )
    assert raw == pytest.approx(5.3166666666, abs=1e-9)
    assert severity(raw, a=0.6, b=0.0) == 96


def test_the_first_emission_has_all_novelty() -> None:
    """Without an earlier emission both packs give the whole boost."""
    for novelty in (novelty_decaying, novelty_recovering):
        assert novelty(dt_s=None, boost=BOOST, half_life_s=HALF_LIFE_S) == BOOST


@given(st.floats(0.0, 1e6), st.floats(0.0, 1e6))
def test_property_novelty_fades_or_returns_with_time(a: float, b: float) -> None:
    """The plan's novelty never rises with time, the calibrated one never falls; both are bounded.

    One ulp of slack, for exp is not monotonic to the last bit.
    """
    early, late = sorted((a, b))
    args = {"boost": BOOST, "half_life_s": HALF_LIFE_S}
    fading = [novelty_decaying(dt_s=t, **args) for t in (early, late)]
    returning = [novelty_recovering(dt_s=t, **args) for t in (early, late)]
    assert fading[1] <= fading[0] + 1e-15
    assert returning[0] <= returning[1] + 1e-15
    assert all(0.0 <= x <= BOOST for x in fading + returning)


@pytest.mark.parametrize("novelty", [novelty_decaying, novelty_recovering])
def test_time_never_runs_backwards(novelty: object) -> None:
    """An emission in the future is a bug of the caller."""
    assert callable(novelty)
    with pytest.raises(AssertionError, match="must be >= 0 s"):
        novelty(dt_s=-1.0, boost=BOOST, half_life_s=HALF_LIFE_S)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.sampled_from(sorted(PACKS)))
def test_property_severity_is_bounded_and_monotonic(
    a: float, b: float, pack: tuple[str, str]
) -> None:
    """Any raw score maps to 0..100, and a larger one never to a smaller severity."""
    slope, bias = PACKS[pack].a, PACKS[pack].b
    low, high = (severity(raw, a=slope, b=bias) for raw in sorted((a, b)))
    assert 0 <= low <= high <= 100


def test_a_negative_secondary_does_not_count() -> None:
    """Support that points the other way is no support, not a reduction."""
    inputs = INPUTS["worked example"]
    pack = PACKS["v0.2", "spike"]
    assert scored(inputs._replace(secondary=-9.0), pack) == scored(
        inputs._replace(secondary=0.0), pack
    )


@pytest.mark.parametrize(
    ("dq", "illiquidity", "expected"), [(0.0, 0.0, 0.0), (1.0, 0.0, 0.6), (0.0, 1.0, 0.3)]
)
def test_penalties_add_by_weight(dq: float, illiquidity: float, expected: float) -> None:
    """Each soft issue costs its own weight."""
    assert penalty(dq=dq, illiquidity=illiquidity, w_dq=0.6, w_liq=0.3) == expected


def test_breadth_is_full_at_the_given_count() -> None:
    """Breadth rises in proportion and stops at one."""
    assert [breadth(k, full_at=6.0) for k in (0, 3, 6, 60)] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(("z", "scored_as"), [(-9.0, -4.0), (-4.0, -4.0), (0.5, 0.5), (9.0, 5.0)])
def test_clamp_limits_both_sides(z: float, scored_as: float) -> None:
    """Values beyond a bound count as the bound."""
    assert clamp(z, lo=-4.0, hi=5.0) == scored_as
