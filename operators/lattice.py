"""Minute arithmetic: the time lattice everything is written on.

A minute is named by its close: the bar labelled 09:30:00 covers [09:29:00, 09:30:00). Build plan
2.1. All times are integer epoch milliseconds, UTC.
"""

from datetime import UTC, datetime
from functools import lru_cache

MINUTE_MS = 60_000
DAY_MS = 86_400_000
HOUR_MS = 3_600_000


def minute_of(time_ms: int) -> int:
    """Return the label (close) of the minute that covers an instant.

    >>> minute_of(0), minute_of(59_999), minute_of(60_000)
    (60000, 60000, 120000)
    """
    return (time_ms // MINUTE_MS + 1) * MINUTE_MS


def day_of(label_ms: int) -> int:
    """Return the day number a bar belongs to: the bar labelled 00:00 belongs to the day it closes.

    Numerics reference 5.

    >>> day_of(DAY_MS), day_of(DAY_MS + MINUTE_MS)
    (0, 1)
    """
    return (label_ms - 1) // DAY_MS


def seconds_to_next_hour(label_ms: int) -> int:
    """Return the time from a close to the next full hour, when funding is paid (design D11).

    >>> seconds_to_next_hour(HOUR_MS - MINUTE_MS), seconds_to_next_hour(HOUR_MS)
    (60, 3600)
    """
    return (HOUR_MS - label_ms % HOUR_MS) // 1000


@lru_cache(maxsize=64)  # a minute is asked for by each of its rows
def iso(time_ms: int) -> str:
    """Return RFC 3339 text in UTC, with milliseconds only where there are any.

    >>> iso(1756891800000), iso(1756891800142)
    ('2025-09-03T09:30:00Z', '2025-09-03T09:30:00.142Z')
    """
    seconds, millis = divmod(time_ms, 1000)
    day, second = divmod(seconds, 86_400)
    hour, second = divmod(second, 3600)
    text = f"{_date_of(day)}T{hour:02d}:{second // 60:02d}:{second % 60:02d}"
    return f"{text}.{millis:03d}Z" if millis else f"{text}Z"


@lru_cache(maxsize=8)  # a row asks for today
def _date_of(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
