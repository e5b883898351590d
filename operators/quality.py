"""The data-quality verdict of a minute, from reason codes.  Build plan 8, design D4, D21."""

from __future__ import annotations

from collections.abc import Iterable

from operators.records import DQ_OK, DQ_PARTIAL, DQ_STALE

# Every reason and the verdict it forces; the order is the order in which they are reported.
VERDICTS = {
    "gap": DQ_STALE,  # the minute overlaps a hole in the recording
    "no_data": DQ_STALE,  # neither a print nor a top of book is known
    "book_stale": DQ_STALE,  # the top of book was neither carried nor confirmed for too long
    "clock_stale": DQ_STALE,  # receive delay beyond belief
    "price_sanity": DQ_STALE,  # a one-minute return beyond the bound
    "quiet": DQ_PARTIAL,  # no print on a healthy feed
    "book_one_sided": DQ_PARTIAL,  # no mid at the close
    "oi_stale": DQ_PARTIAL,  # open interest is subscribed but old
    "book_missing": DQ_PARTIAL,  # depth is subscribed but no snapshot came in the minute
    "clock_late": DQ_PARTIAL,  # receive delay unusually large
}
_RANK = {DQ_OK: 0, DQ_PARTIAL: 1, DQ_STALE: 2}


def grade(reasons: Iterable[str]) -> tuple[str, list[str]]:
    """Return (verdict, reasons in their fixed order); `ok` without reasons.

    >>> grade(["quiet", "gap"])
    ('stale', ['gap', 'quiet'])
    >>> grade([])
    ('ok', [])
    """
    given = set(reasons)
    assert given <= VERDICTS.keys(), given
    ordered = [reason for reason in VERDICTS if reason in given]
    verdict = max((VERDICTS[r] for r in ordered), key=_RANK.__getitem__, default=DQ_OK)
    return verdict, ordered
