"""Quantiles of a stream whose past fades: a histogram of 32 linear bins per power of two.

Rules of this file: the newest sample weighs most, each older one 1/growth of the next (the weight
of new samples grows, so old bins are never touched); sums are correctly rounded or run over sorted
keys, so no result depends on the order in which bins came into being.  Numerics 7.
"""

from bisect import bisect_left
from copy import copy

import msgspec

from operators import kernel
from operators.kernel import edges, key

__all__ = ["Sketch", "edges", "key"]


class Sketch(msgspec.Struct):
    """Decayed weights by bin. Bound: the bins in use, 100 to 650 in practice, thinned by prune.

    w : weight of the newest sample; t : total weight.
    keys : the bins in use, ascending; weights : what each of them holds, > 0, in the same order.
    """

    w: float = 1.0
    t: float = 0.0
    keys: list[int] = []
    weights: list[float] = []

    def add(self, x: float, growth: float, x_zero: float) -> None:
        """Count x, `growth` times as heavy as the sample before it."""
        self.add_at(key(x, x_zero), growth)

    def add_at(self, k: int, growth: float) -> None:
        """Count a sample of bin k, `growth` times as heavy as the sample before it."""
        kernel.add_at(self, k, growth)

    def weight_at(self, k: int) -> float | None:
        """Weight of bin k; None when it is not in use."""
        return kernel.weight_at(self, k)

    def put_at(self, k: int, weight: float | None) -> None:
        """Make bin k hold `weight`, None for not in use; the total is the caller's business."""
        keys = self.keys
        at = bisect_left(keys, k)
        used = at < len(keys) and keys[at] == k
        if weight is None:
            if used:
                del keys[at], self.weights[at]
        elif used:
            self.weights[at] = weight
        else:
            keys.insert(at, k)
            self.weights.insert(at, weight)

    def rank(self, x: float, x_zero: float) -> float | None:
        """Share of the weight below x, half of its own bin included; None when empty.

        In [0, 1]; values of one bin share one rank, so ties get the mid-rank.
        """
        return self.rank_at(key(x, x_zero))

    def rank_at(self, k: int) -> float | None:
        """Rank of a value of bin k, as `rank`."""
        return kernel.rank_at(self, k)

    def quantile(self, p: float) -> float | None:
        """Value below which the share p in [0, 1] lies, linear within a bin; None when empty."""
        return kernel.quantile(self, p)

    def lighter(self, share: float) -> list[tuple[int, float]]:
        """Bins that `prune` would drop, ascending, with their weights."""
        return kernel.lighter(self, share)

    def prune(self, share: float) -> None:
        """Drop bins lighter than `share` of the total; what is left is the new total."""
        kernel.prune(self, share)

    def copy(self) -> "Sketch":
        """An independent copy."""
        twin = copy(self)
        twin.keys = self.keys.copy()
        twin.weights = self.weights.copy()
        return twin
