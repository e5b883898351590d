"""From sigma units to a severity of 0 to 100.

Rules of this file: pure functions, sums left to right as written; every weight, slope, bias and
half-life comes from the detector pack. A pack with bias 0 and decaying novelty is the build plan
verbatim.  Numerics 9, build plan 10.
"""

import math

from operators.formulas.elementary import LN2, exp, sigmoid

SEVERITY_MAX = 100


def clamp(z: float, *, lo: float, hi: float) -> float:
    """z limited to [lo, hi]; what is stored is never clamped, only what is scored.

    Numerics 8. For a magnitude clamp first, then take the absolute value.

    >>> clamp(3.6, lo=-3.1, hi=3.2)
    3.2
    """
    return min(max(z, lo), hi)


def breadth(shock_count: int, *, full_at: float) -> float:
    """Share of a full market shock in [0, 1], reached when `full_at` assets are shocked.

    Numerics 9, build plan 10.1.

    >>> breadth(3, full_at=6.0), breadth(9, full_at=6.0)
    (0.5, 1.0)
    """
    return min(1.0, shock_count / full_at)


def penalty(*, dq: float, illiquidity: float, w_dq: float, w_liq: float) -> float:
    """Reduction of the raw score for data or liquidity near a limit, in units of the score.

    dq, illiquidity : 0 or 1. Numerics 9, build plan 10.7.

    >>> penalty(dq=0.0, illiquidity=1.0, w_dq=0.6, w_liq=0.3)
    0.3
    """
    return w_dq * dq + w_liq * illiquidity


def raw_score(
    *,
    primary: float,
    secondary: float,
    breadth: float,
    novelty: float,
    penalty: float,
    w1: float,
    w2: float,
    w3: float,
) -> float:
    """Evidence before the sigmoid: weighted primary, support and breadth, novelty, penalties.

    primary, secondary : sigma units, already clamped; a negative secondary counts as 0.
    breadth : [0, 1]. Numerics 9, build plan 10.3.

    >>> raw_score(primary=3.0, secondary=-2.0, breadth=0.5, novelty=0.75, penalty=0.25,
    ...           w1=1.0, w2=0.5, w3=0.5)
    3.75
    """
    core = w1 * primary + w2 * max(0.0, secondary) + w3 * breadth
    return core + novelty - penalty


def severity(raw: float, *, a: float, b: float) -> int:
    """Severity 0 to 100: the sigmoid of slope a around bias b, rounded half up.

    Numerics 9, build plan 10.3.

    >>> severity(5.32, a=0.6, b=0.0), severity(5.32, a=0.97, b=4.53)
    (96, 68)
    """
    score = math.floor(100.0 * sigmoid(a * (raw - b)) + 0.5)
    return min(max(score, 0), SEVERITY_MAX)


def novelty_decaying(*, dt_s: float | None, boost: float, half_life_s: float) -> float:
    """Novelty that fades as boost * e^(-dt / half-life); all of it when dt_s is None (first).

    dt_s : seconds of exchange time since the last emission of the key, >= 0.
    Build plan 10.4 to the letter (detector pack v0.1).

    >>> novelty_decaying(dt_s=None, boost=0.8, half_life_s=120.0)
    0.8
    """
    if dt_s is None:
        return boost
    assert dt_s >= 0.0, f"time since the last emission must be >= 0 s, got {dt_s!r}"
    return boost * exp(-dt_s / half_life_s)


def novelty_recovering(*, dt_s: float | None, boost: float, half_life_s: float) -> float:
    """Novelty that returns as boost * (1 - 2^(-dt / half-life)); all of it when dt_s is None.

    dt_s : seconds of exchange time since the last emission of the key, >= 0.
    Numerics 9 (detector pack v0.2).

    >>> novelty_recovering(dt_s=0.0, boost=0.8, half_life_s=120.0)
    0.0
    """
    if dt_s is None:
        return boost
    assert dt_s >= 0.0, f"time since the last emission must be >= 0 s, got {dt_s!r}"
    return boost * (1.0 - exp(-LN2 * dt_s / half_life_s))
