"""Price, return and volatility columns from prints and mids.  Build plan 5.1, Appendix A.2."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from operators.formulas.elementary import log


def simple_return(now: float | None, before: float | None) -> float | None:
    """Return the relative change (0.01 = 1 %); NULL if either price is missing or not positive.

    >>> simple_return(101.0, 100.0)
    0.01
    >>> simple_return(101.0, None) is None
    True
    """
    if now is None or before is None or before <= 0.0 or now <= 0.0:
        return None
    return (now - before) / before


def realized_volatility(mids: Sequence[float]) -> float | None:
    """Return sqrt(sum of squared log changes) over successive mids; NULL below two mids.

    Unscaled, dimensionless. Successive equal mids add nothing. Build plan 5.1 (rv_m_1).

    >>> realized_volatility([100.0, 100.0])
    0.0
    >>> realized_volatility([100.0]) is None
    True
    """
    if len(mids) < 2:
        return None
    total = 0.0
    before = mids[0]
    for mid in mids[1:]:
        if mid != before:
            change = log(mid / before)
            total += change * change
            before = mid
    return sqrt(total)


def range_ratio(high: float | None, low: float | None, mid: float | None) -> float | None:
    """Return (high - low) / mid; NULL if an input is.  Build plan 5.1 (atr_proxy_m_1)."""
    if high is None or low is None or mid is None or mid <= 0.0:
        return None
    return (high - low) / mid
