"""The top of book over a minute: which quote was in force when, and what it cost to cross it.

Build plan 5.5, Appendix A.6. A quote is a state: it holds from its time until the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import NamedTuple

from operators.records import Quote


class Span(NamedTuple):
    """A stretch [from_ms, to_ms) with one top of book; None where a side is missing."""

    from_ms: int
    to_ms: int
    bid: float | None
    ask: float | None

    @property
    def mid(self) -> float | None:
        """Mid price, NULL unless both sides are there."""
        return (self.bid + self.ask) / 2 if self.bid is not None and self.ask is not None else None


def is_crossed(quote: Quote) -> bool:
    """Return whether the quote contradicts itself (bid above ask)."""
    return quote.bid_px is not None and quote.ask_px is not None and quote.bid_px > quote.ask_px


def spans(carry: Quote | None, quotes: Sequence[Quote], start_ms: int, end_ms: int) -> list[Span]:
    """Cut [start_ms, end_ms) at every quote; `carry` is what held before, `quotes` time-sorted.

    Quotes of one instant all appear; all but the last are zero long. The time before the first
    known quote is not covered.
    """
    result: list[Span] = []
    now, at = carry, start_ms
    for quote in quotes:
        if now is not None:
            result.append(Span(at, quote.time_ms, now.bid_px, now.ask_px))
        now, at = quote, quote.time_ms
    if now is not None:
        result.append(Span(at, end_ms, now.bid_px, now.ask_px))
    return result


def mid_at(covered: Sequence[Span], at_ms: int) -> float | None:
    """Return the mid in force at an instant: that of the last quote at or before it."""
    found: float | None = None
    for span in covered:
        if span.from_ms > at_ms:
            break
        found = span.mid
    return found


def spread_columns(covered: Sequence[Span]) -> tuple[float | None, float | None]:
    """Return (time-weighted mean, time-weighted 95th percentile) of ask - bid in quote currency.

    The percentile is the smallest spread that held, with all smaller ones, for at least 95 % of
    the two-sided time. NULL when the book was never two-sided.
    """
    held = [
        (span.ask - span.bid, span.to_ms - span.from_ms)
        for span in covered
        if span.bid is not None and span.ask is not None and span.to_ms > span.from_ms
    ]
    total_ms = 0
    for _, ms in held:
        total_ms += ms
    if total_ms == 0:
        return None, None
    mean = fsum(spread * ms for spread, ms in held) / total_ms
    passed_ms = 0
    for spread, ms in sorted(held):
        passed_ms += ms
        if passed_ms * 100 >= total_ms * 95:
            return mean, spread
    raise AssertionError("the spreads of a minute cover all of its two-sided time")
