"""Open interest, funding and basis from perp contexts.  Build plan 5.3, 5.4; design D1, D16.

A context carries no venue time, so it is dated by its arrival. Open interest is counted in coins;
levels are stored in quote currency, changes are taken in coins, so that a price move never looks
like positioning.
"""

from __future__ import annotations

from collections.abc import Sequence

from operators.records import Context


def newest_sample(contexts: Sequence[Context], before: Context | None) -> Context | None:
    """Return the last context that says how much is open and at what mark, else `before`."""
    for context in reversed(contexts):
        if context.open_interest_base is not None and context.mark_px is not None:
            return context
    return before


def newest_funding(contexts: Sequence[Context], before: float | None) -> float | None:
    """Return the last funding rate that was announced, `before` if none of these has one."""
    for context in reversed(contexts):
        if context.funding_rate is not None:
            return context.funding_rate
    return before


def change(now: float | None, before: float | None) -> float | None:
    """Return now - before; NULL if either is."""
    return None if now is None or before is None else now - before


def rate_of_change(now: float | None, before: float | None) -> float | None:
    """Return the relative change of an amount; NULL if either is NULL or there was nothing.

    >>> rate_of_change(1010.0, 1000.0), rate_of_change(5.0, 0.0)
    (0.01, None)
    """
    if now is None or before is None or before <= 0.0:
        return None
    return (now - before) / before
