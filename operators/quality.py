"""The data-quality verdict of a row, from reason codes.  Build plan 8, 15.3; design D4, D21."""

from __future__ import annotations

from collections.abc import Iterable

from operators import native
from operators.kernel import prices_at_odds
from operators.verdicts import DQ_OK, DQ_PARTIAL, DQ_STALE

__all__ = ["MEANINGS", "VERDICTS", "grade", "prices_at_odds"]

# Every reason with the verdict it forces and what it says, in the order in which they are reported.
_REASONS = {
    "gap": (DQ_STALE, "the minute overlaps a hole in the recording"),
    "outage": (DQ_STALE, "the hole covers all of the minute"),
    "resync": (DQ_STALE, "the recording came back within the minute"),
    "no_data": (DQ_STALE, "neither a print nor a top of book is known"),
    "minutes_missing": (DQ_STALE, "too many minutes of a longer bar are missing or stale"),
    "book_stale": (DQ_STALE, "the top of book was neither carried nor confirmed for too long"),
    "clock_stale": (DQ_STALE, "the receive delay is beyond belief"),
    "price_sanity": (DQ_STALE, "a one-minute return beyond the bound, or prices at odds"),
    "quiet": (DQ_PARTIAL, "no print on a healthy feed"),
    "late": (DQ_PARTIAL, "many prints came after their minute was final"),
    "book_one_sided": (DQ_PARTIAL, "no mid at the close"),
    "book_missing": (DQ_PARTIAL, "depth is subscribed but has no fresh snapshot in the minute"),
    "oi_stale": (DQ_PARTIAL, "open interest is tracked but old"),
    "index_missing": (DQ_PARTIAL, "perp contexts came without a usable index price"),
    "minutes_not_ok": (DQ_PARTIAL, "several minutes of a longer bar are not ok"),
    "clock_late": (DQ_PARTIAL, "the receive delay is unusually large"),
}
VERDICTS = {reason: verdict for reason, (verdict, _) in _REASONS.items()}
MEANINGS = {reason: meaning for reason, (_, meaning) in _REASONS.items()}
_RANK = {DQ_OK: 0, DQ_PARTIAL: 1, DQ_STALE: 2}


def grade(reasons: Iterable[str]) -> tuple[str, list[str]]:
    """Return (verdict, reasons in their fixed order); `ok` without reasons.

    >>> grade(["quiet", "gap"])
    ('stale', ['gap', 'quiet'])
    >>> grade([])
    ('ok', [])
    """
    given = set(reasons)
    if not given:
        return DQ_OK, []
    assert given <= VERDICTS.keys(), given
    ordered = [reason for reason in VERDICTS if reason in given]
    return max((VERDICTS[r] for r in ordered), key=_RANK.__getitem__), ordered


native.take_over("quality", globals())  # plain form only
