"""The top of book of one instant.  Build plan 5.5, Appendix A.6.

What held over a minute is walked in operators/kernel.py (top_of_book, depth_columns).
"""

from __future__ import annotations

from operators.kernel import microprice, mid
from operators.records import Quote

__all__ = ["is_crossed", "microprice", "mid"]


def is_crossed(quote: Quote) -> bool:
    """Return whether the quote contradicts itself (bid above ask)."""
    return quote.bid_px is not None and quote.ask_px is not None and quote.bid_px > quote.ask_px
