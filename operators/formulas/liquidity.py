"""The book over a minute: which quote was in force when, what crossing it cost, and the depth.

Build plan 5.5, Appendix A.6. A quote is a state: it holds from its time until the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import NamedTuple

from operators.formulas.elementary import median
from operators.records import Book, Quote


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
    found: Span | None = None
    for span in covered:
        if span.from_ms > at_ms:
            break
        found = span
    return None if found is None else found.mid


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
    left_ms = total_ms
    for spread, ms in sorted(held, reverse=True):
        left_ms -= ms
        if left_ms * 100 < total_ms * 95:
            return mean, spread
    raise AssertionError("the spreads of a minute cover all of its two-sided time")


# --- depth -----------------------------------------------------------------------------------

DEPTH_LEVELS = 5


class Depth(NamedTuple):
    """Both sides of a snapshot's top levels in quote currency."""

    time_ms: int
    bid: float
    ask: float


def depth_of(book: Book) -> Depth | None:
    """Return the depth of the best five levels; NULL (None) unless both sides are there (D23)."""
    if not book.bids or not book.asks:
        return None
    bid = fsum([px * sz for px, sz in book.bids[:DEPTH_LEVELS]])
    ask = fsum([px * sz for px, sz in book.asks[:DEPTH_LEVELS]])
    return Depth(book.time_ms, bid, ask)


def imbalance_mean(
    carry: Depth | None,
    snapshots: Sequence[tuple[int, Depth | None]],
    start_ms: int,
    end_ms: int,
) -> float | None:
    """Return the time-weighted mean of bid / (bid + ask) over [start_ms, end_ms).

    carry : the depth in force before. snapshots : (time_ms, depth) in time order; one without both
    sides ends the one before it and counts for nothing. NULL when nothing counts. Build plan 5.5.
    """
    parts: list[float] = []
    total_ms = 0
    now, at = carry, start_ms
    for time_ms, depth in [*snapshots, (end_ms, None)]:
        if now is not None and time_ms > at:
            parts.append(now.bid / (now.bid + now.ask) * (time_ms - at))
            total_ms += time_ms - at
        now, at = depth, time_ms
    return fsum(parts) / total_ms if total_ms else None


def depth_median(snapshots: Sequence[tuple[int, Depth | None]]) -> float | None:
    """Return the median over snapshots of the depth of both sides; NULL without any."""
    depths = [depth.bid + depth.ask for _, depth in snapshots if depth is not None]
    return median(depths) if depths else None


# --- microprice ------------------------------------------------------------------------------


def quote_at(carry: Quote | None, quotes: Sequence[Quote], at_ms: int) -> Quote | None:
    """Return the quote in force at an instant: the last one at or before it."""
    found = carry
    for quote in quotes:
        if quote.time_ms > at_ms:
            break
        found = quote
    return found


def microprice(quote: Quote | None) -> float | None:
    """Return the mid weighted by the opposite sizes; NULL unless both sides and sizes are there.

    Build plan 5.5 (microprice_drift_s_30).
    """
    if quote is None or quote.bid_px is None or quote.ask_px is None:
        return None
    if quote.bid_sz is None or quote.ask_sz is None or quote.bid_sz + quote.ask_sz <= 0.0:
        return None
    weighted = quote.ask_px * quote.bid_sz + quote.bid_px * quote.ask_sz
    return weighted / (quote.bid_sz + quote.ask_sz)
