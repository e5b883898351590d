"""Numbers and instants as they stand in a recording: judged as text, never rounded.

Rules of this file: a number keeps its text, so that what was recorded is what is replayed; an
instant becomes integer nanoseconds without passing through a float.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

Unit = Literal["s", "ms", "us", "ns", "iso", "auto"]

INSTANT_NS_MAX = 2**63 - 1  # the year 2262

_NUMBER = re.compile(
    r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)",
    re.IGNORECASE,
)
_EPOCH = re.compile(r"([0-9]{1,19})(?:\.([0-9]*))?")
_ISO = re.compile(r"(.{10}[T ][0-9:]{5,8})(?:[.,]([0-9]+))?(Z|[+-][0-9:]{4,6}|)", re.ASCII)
_PLACES = {"s": 9, "ms": 6, "us": 3, "ns": 0}
_ISO_CACHE_MAX = 1024


def is_number(text: str) -> bool:
    """Tell whether a text is a decimal number; `nan` and `inf` are, by their syntax.

    >>> [is_number(t) for t in ("1", "-0.10", "1e-7", "NaN", "", "1,5", "0x1", "1 ")]
    [True, True, True, True, False, False, False, False]
    """
    return _NUMBER.fullmatch(text) is not None


def to_ns(text: str, unit: Unit) -> int:
    """Return epoch nanoseconds of an instant; digits finer than that are cut off.

    `auto` tells s, ms, us and ns apart by the number of whole digits, right from 2001 to 2262.
    ISO text without an offset is UTC. Raises ValueError on anything else.

    >>> to_ns("1756904112.5455544", "s"), to_ns("1756904112545", "ms")
    (1756904112545554400, 1756904112545000000)
    >>> to_ns("2025-09-03T12:55:12.5455544Z", "iso"), to_ns("1741046401272286", "auto")
    (1756904112545554400, 1741046401272286000)
    """
    if unit == "iso":
        return _iso_ns(text)
    match = _EPOCH.fullmatch(text)
    if match is None:
        raise ValueError(f"expected an epoch time, found {text!r}")
    whole, fraction = match.group(1), match.group(2) or ""
    places = _PLACES[_unit_of(whole) if unit == "auto" else unit]
    return _bounded(int(whole + fraction.ljust(places, "0")[:places]))


def _unit_of(whole: str) -> str:
    if len(whole) <= 11:
        return "s"
    if len(whole) <= 14:
        return "ms"
    return "us" if len(whole) <= 17 else "ns"


def _iso_ns(text: str) -> int:
    match = _ISO.fullmatch(text)
    if match is None:
        raise ValueError(f"expected an ISO time, found {text!r}")
    fraction = (match.group(2) or "").ljust(9, "0")[:9]
    return _bounded(_iso_seconds(match.group(1), match.group(3)) * 1_000_000_000 + int(fraction))


@lru_cache(_ISO_CACHE_MAX)
def _iso_seconds(instant: str, offset: str) -> int:
    """Return epoch seconds; rows of a recording share most of their seconds."""
    parsed = datetime.fromisoformat(instant + offset)
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())


def _bounded(instant_ns: int) -> int:
    if not 0 < instant_ns <= INSTANT_NS_MAX:
        raise ValueError(f"expected an instant before 2262, found {instant_ns} ns")
    return instant_ns
