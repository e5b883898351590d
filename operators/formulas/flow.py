"""Volume and cumulative volume delta.  Build plan 5.2, Appendix A.3."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

from operators.records import Trade


def notional(trades: Sequence[Trade]) -> tuple[float, float, float]:
    """Return (taker buys, taker sells, total) in quote currency, each sum correctly rounded."""
    buys = [t.px * t.sz for t in trades if t.is_buy]
    sells = [t.px * t.sz for t in trades if not t.is_buy]
    return fsum(buys), fsum(sells), fsum([*buys, *sells])


def slope(deltas: Sequence[float]) -> float:
    """Return the least-squares slope per bar of the running sum of `deltas` (oldest first).

    With k bars and x = 0..k-1 the slope is sum((x - mean x) * level) / sum((x - mean x)^2); only
    differences of levels matter, so the daily anchor of the stored level does not. Build plan 5.2.

    >>> slope([5.0, 1.0, 1.0, 1.0, 1.0])
    1.0
    """
    count = len(deltas)
    assert count >= 2, count
    levels = []
    level = 0.0
    for delta in deltas:
        level += delta
        levels.append(level)
    middle = (count - 1) / 2
    weights = [index - middle for index in range(count)]
    covariance = fsum(w * y for w, y in zip(weights, levels, strict=True))
    return covariance / fsum(w * w for w in weights)
