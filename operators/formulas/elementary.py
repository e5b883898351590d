"""Elementary functions that give the same bits on every machine.

Rules of this file: only frexp, ldexp, floor, sqrt and + - * / are used, in the order written; all
of them are exact or correctly rounded, so the results do not depend on a C library, a CPU or a
version. Within 4 ulp of the true value. Those of the inner loops are in operators/kernel.py, and
are found here too.  Numerics 2, 6, 11.
"""

import math
from collections.abc import Sequence

from operators.kernel import (
    LN2,
    asinh,
    exp,
    log,
    log1p,
    median,
    pow_3_8,
    round12,
    rounded,
    sigmoid,
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


def mean(values: Sequence[float]) -> float:
    """Correctly rounded sum of at least one value over their number.

    >>> mean([4.0, 1.0, 3.0, 2.0])
    2.5
    """
    assert values, "the mean of nothing"
    return math.fsum(values) / len(values)
