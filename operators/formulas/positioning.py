"""Open interest, funding and basis from perp contexts.  Build plan 5.3, 5.4; design D1, D16.

A context carries no venue time, so it is dated by its arrival. Open interest is counted in coins;
levels are stored in quote currency, changes are taken in coins, so that a price move never looks
like positioning.
"""

from __future__ import annotations

from collections.abc import Sequence

from operators.kernel import change, rate_of_change
from operators.records import Context

__all__ = ["change", "newest_funding", "newest_sample", "rate_of_change"]


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
