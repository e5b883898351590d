"""Times as a user gives them: ISO text, UTC unless it says so."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import typer

_DURATION = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def instant_of(text: str) -> datetime:
    """Return the instant of an ISO time. Raises `ValueError`."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def given_instant(option: str, text: str | None) -> datetime | None:
    """Return the instant of an option, None where it was not given; a bad one is wrong usage."""
    if text is None:
        return None
    try:
        return instant_of(text)
    except ValueError:
        raise typer.BadParameter(
            f"{option}: expected a time such as 2026-09-22T00:51:00Z, found {text!r}"
        ) from None


def given_ms(option: str, text: str | None) -> int | None:
    """Return the instant of an option as epoch ms."""
    at = given_instant(option, text)
    return None if at is None else int(at.timestamp()) * 1000


def given_seconds(option: str, text: str, *, least: int = 1) -> int:
    """Return the seconds of a duration such as 90s, 30m, 24h or 8d; a bad one is wrong usage."""
    found = _DURATION.fullmatch(text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found is not None else -1
    if seconds < least:
        raise typer.BadParameter(
            f"{option}: expected a duration such as 90s, 30m, 24h, 8d, found {text!r}"
        )
    return seconds
