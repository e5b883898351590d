"""Open interest, funding and basis from perp contexts.  Build plan 5.3, 5.4; design D1, D16.

A context carries no venue time, so it is dated by its arrival. Open interest is counted in coins;
levels are stored in quote currency, changes are taken in coins, so that a price move never looks
like positioning.
"""

from __future__ import annotations

from collections.abc import Sequence

from operators.formulas.elementary import mean, round12
from operators.records import Context

BP = 10_000.0


def is_sample(context: Context) -> bool:
    """Tell whether a context says how much is open, and at what mark."""
    return context.open_interest_base is not None and context.mark_px is not None


def has_index(context: Context) -> bool:
    """Tell whether a context says where the index is."""
    return context.oracle_px is not None and context.oracle_px > 0.0


def open_interest_quote(context: Context) -> float:
    """Return a sample's open interest in quote currency: coins times its own mark."""
    assert context.open_interest_base is not None
    assert context.mark_px is not None
    return round12(context.open_interest_base * context.mark_px)


def basis_bp(contexts: Sequence[Context]) -> float | None:
    """Return the mean premium of the mark over the index in basis points.

    NULL when no context has both prices; an index at or below zero is none.  Build plan 5.4.
    """
    samples = [
        (context.mark_px - context.oracle_px) / context.oracle_px * BP
        for context in contexts
        if context.mark_px is not None and context.oracle_px is not None and context.oracle_px > 0.0
    ]
    return mean(samples) if samples else None


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
