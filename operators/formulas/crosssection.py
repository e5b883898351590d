"""Cross-asset statistics of one minute.  Build plan 6.

Every sum is correctly rounded (fsum), so the order of assets cannot matter; callers pass assets in
ascending asset_uid all the same (numerics 11.3).
"""

from __future__ import annotations

from math import fsum, sqrt

from operators.scans import squares


def dispersion(values: list[float]) -> float | None:
    """Return the standard deviation across assets (divisor n); NULL below two assets.

    Build plan 6.6.

    >>> dispersion([1.0, 3.0])
    1.0
    """
    count = len(values)
    if count < 2:
        return None
    mean = fsum(values) / count
    return sqrt(fsum(squares(values, mean)) / count)


def lead_index(ret_m_5: float, z_vol: float, oi_roc: float | None) -> float:
    """Return |ret_m_5| * max(z_vol, 0) * (1 + 0.5 where price and open interest agree).

    Build plan 6.4. Never negative.
    """
    agree = oi_roc is not None and (ret_m_5 > 0.0) == (oi_roc > 0.0)
    bonus = 0.5 if agree and ret_m_5 != 0.0 and oi_roc != 0.0 else 0.0
    return abs(ret_m_5) * max(z_vol, 0.0) * (1.0 + bonus)
