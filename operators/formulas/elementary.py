"""Elementary functions that give the same bits on every machine.

Rules of this file: only frexp, ldexp, floor, sqrt and + - * / are used, in the order written; all
of them are exact or correctly rounded, so the results do not depend on a C library, a CPU or a
version. Within 4 ulp of the true value. Those of the inner loops are in operators/kernel.py, and
are found here too.  Numerics 2, 6, 11.
"""

import math
from collections.abc import Sequence

from operators.kernel import (
    LN2_HI,
    LN2_LO,
    asinh,
    log,
    log1p,
    median,
    pow_3_8,
    round12,
    rounded,
)

__all__ = [
    "LN2",
    "asinh",
    "exp",
    "log",
    "log1p",
    "mean",
    "median",
    "pow_3_8",
    "round12",
    "rounded",
    "sigmoid",
]

LN2 = 0.6931471805599453


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


def mean(values: Sequence[float]) -> float:
    """Correctly rounded sum of at least one value over their number.

    >>> mean([4.0, 1.0, 3.0, 2.0])
    2.5
    """
    assert values, "the mean of nothing"
    return math.fsum(values) / len(values)
