"""The minute table that every contender computes, and its checksum.

A tenth of the columns of a feature row (17 of 169), those that a plain aggregation can give. Rules
of this file: contenders add up in different orders and only ours sums exactly, so a value is
rounded to twelve significant digits, as rows hold it, and enters the checksum with nine, times a
number without an end, because sums of decimal prices like to stand right between two roundings.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from operators.formulas.elementary import round12

COLUMNS = (
    *("open", "high", "low", "close"),
    *("v_buy_m_1", "v_sell_m_1", "v_total_m_1", "trade_count_m_1", "cvd_delta_m_1"),
    "mid_close",
    *("oi_open", "oi_close", "oi_min", "oi_max", "oi_close_base", "mark_close", "funding_h_1"),
)
SIGNIFICANT = 9
STRETCH = math.pi

Table = dict[tuple[int, int], tuple[Any, ...]]  # (asset_uid, label) -> values of COLUMNS


def of_columns(columns: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the line of a row or bar of ours."""
    return tuple(columns[name] for name in COLUMNS)


def checksum(table: Table) -> str:
    """Return a short digest of a table; equal for contenders that agree."""
    digest = hashlib.sha256()
    for key in sorted(table):
        values = ",".join(f"{round12(value) * STRETCH:.{SIGNIFICANT}g}" for value in table[key])
        digest.update(f"{key[0]},{key[1]}:{values}\n".encode())
    return digest.hexdigest()[:16]
