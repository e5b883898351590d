"""Elementary functions that give the same bits on every machine.

Rules of this file: only frexp, ldexp, floor, sqrt and + - * / are used, in the order written; all
of them are exact or correctly rounded, so the results do not depend on a C library, a CPU or a
version. Within 4 ulp of the true value.  Numerics 2, 6, 11.
"""

import math
from collections.abc import Sequence

LN2 = 0.6931471805599453
LN2_HI = 0.6931471803691238  # LN2 in two parts: k * LN2_HI is exact for every binary exponent k
LN2_LO = 1.9082149292705877e-10
SQRT_HALF = 0.7071067811865476


def _atanh2(h: float) -> float:
    """Return 2 atanh(h) for |h| <= 0.1716: the series 2h + 2h (h^2/3 + ... + h^24/25)."""
    t = h * h
    p = 1 / 25
    p = p * t + 1 / 23
    p = p * t + 1 / 21
    p = p * t + 1 / 19
    p = p * t + 1 / 17
    p = p * t + 1 / 15
    p = p * t + 1 / 13
    p = p * t + 1 / 11
    p = p * t + 1 / 9
    p = p * t + 1 / 7
    p = p * t + 1 / 5
    p = p * t + 1 / 3
    return 2.0 * h + 2.0 * h * (t * p)


def log(x: float) -> float:
    """Natural logarithm of a finite x > 0.

    Numerics 6.

    >>> log(10.0)
    2.302585092994046
    """
    assert 0.0 < x < math.inf, f"log needs a finite x > 0, got {x!r}"
    f, e = math.frexp(x)
    if f < SQRT_HALF:
        f *= 2.0
        e -= 1
    r = _atanh2((f - 1.0) / (f + 1.0))
    return e * LN2_HI + (e * LN2_LO + r)


def log1p(x: float) -> float:
    """log(1 + x) for a finite x >= 0, accurate near zero.

    Numerics 6.

    >>> log1p(1e-08)
    9.999999950000001e-09
    """
    assert x >= 0.0, f"log1p needs x >= 0, got {x!r}"
    if x < 0.25:
        return _atanh2(x / (2.0 + x))
    return log(1.0 + x)


def asinh(x: float) -> float:
    """Inverse hyperbolic sine, odd; linear near zero, logarithmic far out. |x| < 1e154.

    Numerics 6.

    >>> asinh(-3.0)
    -1.8184464592320668
    """
    w = abs(x)
    y = log1p(w + w * w / (1.0 + math.sqrt(1.0 + w * w)))
    return -y if x < 0.0 else y


def exp(x: float) -> float:
    """e to the x; 0 below -745, inf above 709.

    Numerics 6.

    >>> exp(-1.0)
    0.36787944117144233
    """
    if x < -745.0:
        return 0.0
    if x > 709.0:
        return math.inf
    k = math.floor(x / LN2 + 0.5)
    r = (x - k * LN2_HI) - k * LN2_LO
    p = 1.0
    for i in range(17, 0, -1):
        p = 1.0 + r * p / i
    return math.ldexp(p, k)


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x) in [0, 1], without overflow at either end.

    Numerics 6.

    >>> sigmoid(0.5)
    0.6224593312018546
    """
    if x >= 0.0:
        return 1.0 / (1.0 + exp(-x))
    t = exp(x)
    return t / (1.0 + t)


def pow_3_8(x: float) -> float:
    """x^(3/8) for x >= 0, which makes absolute returns nearly normal.

    Numerics 2: three correctly rounded roots and one product.

    >>> pow_3_8(0.02)
    0.2306143078159937
    """
    q = math.sqrt(math.sqrt(x))
    return q * math.sqrt(q)


def round12(x: float) -> float:
    """A finite x at 12 significant digits, as stored; negative zero becomes zero.

    Numerics 11.5.

    >>> round12(2 / 3), round12(-0.0)
    (0.666666666667, 0.0)
    """
    assert math.isfinite(x), f"only finite numbers are stored, got {x!r}"
    return float(format(x, ".12g")) + 0.0


def rounded(x: float | None) -> float | None:
    """Round as `round12` does; NULL stays NULL."""
    return None if x is None else round12(x)


def mean(values: Sequence[float]) -> float:
    """Correctly rounded sum of at least one value over their number.

    >>> mean([4.0, 1.0, 3.0, 2.0])
    2.5
    """
    assert values, "the mean of nothing"
    return math.fsum(values) / len(values)


def median(values: Sequence[float]) -> float:
    """Middle of at least one value, of an even count the mean of the middle two.

    Numerics 5.

    >>> median([4.0, 1.0, 3.0, 2.0])
    2.5
    """
    assert values, "the median of nothing"
    ordered = sorted(values)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    return 0.5 * (ordered[half - 1] + ordered[half])
