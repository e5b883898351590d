"""Quantiles of a stream whose past fades: a histogram of 32 linear bins per power of two.

Rules of this file: the newest sample weighs most, each older one 1/growth of the next (the weight
of new samples grows, so old bins are never touched); sums are correctly rounded or run over sorted
keys, so no result depends on the order in which bins came into being.  Numerics 7.
"""

import math
from bisect import bisect_left, insort
from copy import copy

import msgspec

PER_OCTAVE = 32
EXPONENT_SHIFT = 1100  # above the smallest exponent frexp can return, so that keys of x > 0 are > 0
WEIGHT_MAX = 1099511627776.0  # 2^40
WEIGHT_SHRINK = 1.0 / WEIGHT_MAX  # a power of two: rescaling is exact


def key(x: float, x_zero: float) -> int:
    """Bin of x: 0 within x_zero of zero, else the sign and 1 + index of its linear sub-octave.

    Keys sort as the values do. Numerics 7.

    >>> key(1.5, 0.0), key(-1.5, 0.0), key(0.5, 1.0)
    (35249, -35249, 0)
    """
    w = abs(x)
    if w <= x_zero:
        return 0
    f, e = math.frexp(w)
    k = (e + EXPONENT_SHIFT) * PER_OCTAVE + int((f - 0.5) * (2 * PER_OCTAVE)) + 1
    return k if x > 0.0 else -k


def edges(k: int) -> tuple[float, float]:
    """Ascending bounds of bin k, in units of x; the one nearer to zero belongs to the bin.

    |k| below the last bin of doubles (|x| < 1e308). Numerics 7.

    >>> edges(35249), edges(-35249), edges(0)
    ((1.5, 1.53125), (-1.53125, -1.5), (0.0, 0.0))
    """
    if k == 0:
        return 0.0, 0.0
    octave, i = divmod(abs(k) - 1, PER_OCTAVE)
    e = octave - EXPONENT_SHIFT
    near = math.ldexp(0.5 + i / (2 * PER_OCTAVE), e)
    far = math.ldexp(0.5 + (i + 1) / (2 * PER_OCTAVE), e)
    return (near, far) if k > 0 else (-far, -near)


class Sketch(msgspec.Struct):
    """Decayed weights by bin. Bound: the bins in use, 100 to 650 in practice, thinned by prune.

    w : weight of the newest sample; t : total weight; bins : key -> weight > 0.
    order : the keys of bins, ascending; follows from bins and is kept so that rank need not sort.
    """

    w: float = 1.0
    t: float = 0.0
    bins: dict[int, float] = {}
    order: list[int] = []

    def __post_init__(self) -> None:
        self.order = sorted(self.bins)

    def add(self, x: float, growth: float, x_zero: float) -> None:
        """Count x, `growth` times as heavy as the sample before it."""
        w = self.w * growth
        if w >= WEIGHT_MAX:
            w *= WEIGHT_SHRINK
            self.t *= WEIGHT_SHRINK
            self.bins = {k: b * WEIGHT_SHRINK for k, b in self.bins.items()}
        k = key(x, x_zero)
        if k in self.bins:
            self.bins[k] += w
        else:
            self.bins[k] = w
            insort(self.order, k)
        self.t += w
        self.w = w

    def rank(self, x: float, x_zero: float) -> float | None:
        """Share of the weight below x, half of its own bin included; None when empty.

        In [0, 1]; values of one bin share one rank, so ties get the mid-rank.
        """
        bins = self.bins
        if not bins:
            return None
        k = key(x, x_zero)
        smaller = self.order[: bisect_left(self.order, k)]
        return (math.fsum(map(bins.__getitem__, smaller)) + 0.5 * bins.get(k, 0.0)) / self.t

    def quantile(self, p: float) -> float | None:
        """Value below which the share p in [0, 1] lies, linear within a bin; None when empty."""
        if not self.bins:
            return None
        target = p * self.t
        c = 0.0
        hi = 0.0
        for k in self.order:
            b = self.bins[k]
            lo, hi = edges(k)
            if c + b >= target:
                return lo + (hi - lo) * ((target - c) / b)
            c += b
        return hi  # the running sum may end a rounding error short of t

    def prune(self, share: float) -> None:
        """Drop bins lighter than `share` of the total; what is left is the new total."""
        least = share * self.t
        self.bins = {k: b for k, b in self.bins.items() if b >= least}
        self.order = sorted(self.bins)
        self.t = math.fsum(self.bins.values())

    def copy(self) -> "Sketch":
        """An independent copy."""
        twin = copy(self)
        twin.bins = self.bins.copy()
        twin.order = self.order.copy()
        return twin
