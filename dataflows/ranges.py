"""Which stretch of a source is written, from where it is read, and how it is cut into parts.

Rules of this file: pure; a range is the minutes whose labels lie in (from, to]; a part is read from
`warmup` before its range, or from the source's start where that is later, and is exact then; parts
are cut at UTC midnights, or at full hours where a cut at midnights would leave a process idle.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from operators.lattice import DAY_MS, HOUR_MS, iso

# The gates of thin markets look at seven completed UTC days, and a day that is read from its middle
# is not complete; a baseline of hours is warm after 200 of them, 8 days and 8 hours. Of what was
# before, the baselines of a minute, which forget half within 12 or 24 hours, hold 0.2 % by then.
WARMUP_MS = 9 * DAY_MS


@dataclass(frozen=True)
class Part:
    """A range of minutes and where its reading begins; epoch ms.

    from_ms, to_ms : products of (from, to] are written; None: from the start, to the end.
    begin_ms : the first arrival that is read; None: from the source's start, which is exact.
    """

    from_ms: int | None = None
    to_ms: int | None = None
    begin_ms: int | None = None

    @property
    def exact(self) -> bool:
        """Whether it is read from the source's start, so that its bytes are those of the whole."""
        return self.begin_ms is None

    @property
    def whole(self) -> bool:
        """Whether nothing before its end is left out, neither of what is read nor written."""
        return self.from_ms is None and self.exact

    def holds(self, minute_ms: int) -> bool:
        """Tell whether the products of a minute are written.

        >>> part = Part(60_000, 120_000)
        >>> [part.holds(minute) for minute in (60_000, 120_000, 180_000)]
        [False, True, False]
        """
        return (self.from_ms is None or minute_ms > self.from_ms) and (
            self.to_ms is None or minute_ms <= self.to_ms
        )

    def as_json(self) -> dict[str, Any]:
        """Return the part as the summary has it; null: the source's start or end."""
        begin_ms = self.begin_ms
        return {
            "from": _iso(self.from_ms),
            "to": _iso(self.to_ms),
            "read_from": _iso(begin_ms),
            "warmup_sec": None if begin_ms is None else ((self.from_ms or 0) - begin_ms) // 1000,
            "approximate": not self.exact,
        }


WHOLE = Part()


def part_of(from_ms: int | None, to_ms: int | None, warmup_ms: int, first_ms: int) -> Part:
    """Return a range with its warm-up, of a source that starts at `first_ms`.

    >>> part_of(90_000, None, 60_000, 20_000)
    Part(from_ms=90000, to_ms=None, begin_ms=30000)
    >>> part_of(90_000, None, 70_000, 20_000).exact
    True
    """
    begin_ms = None if from_ms is None else from_ms - warmup_ms
    if begin_ms is not None and begin_ms <= first_ms:
        begin_ms = None
    return Part(from_ms, to_ms, begin_ms)


def cut(whole: Part, jobs: int, warmup_ms: int, first_ms: int, last_ms: int) -> list[Part]:
    """Return at most `jobs` parts that follow each other and together are the range.

    first_ms, last_ms : where the source starts and ends. The parts are as even as midnights allow
    in what has to be read, warm-up included; fewer than `jobs` where one more would not make the
    longest of them shorter.
    """
    start = first_ms if whole.from_ms is None else max(whole.from_ms, first_ms)
    end = last_ms if whole.to_ms is None else min(whole.to_ms, last_ms)
    best: list[int] = []
    shortest = _longest(start, end, best, warmup_ms, first_ms)
    for unit in (DAY_MS, HOUR_MS):
        lines = list(range((start // unit + 1) * unit, end, unit))
        found = _even(start, end, lines, jobs, warmup_ms, first_ms)
        longest = _longest(start, end, found, warmup_ms, first_ms)
        if longest < shortest:
            best, shortest = found, longest
        if len(best) + 1 == jobs:
            break
    edges = [whole.from_ms, *best, whole.to_ms]
    return [part_of(edges[k], edges[k + 1], warmup_ms, first_ms) for k in range(len(edges) - 1)]


def _even(
    start: int, end: int, lines: Sequence[int], jobs: int, warmup_ms: int, first_ms: int
) -> list[int]:
    """Return where to cut, out of `lines`, so that the longest reading is as short as it can be."""
    edges = [start, *lines, end]
    low, high = 0, max(0, end - first_ms)  # a reading of all there is always does
    while low < high:
        middle = (low + high) // 2
        if _filled(edges, middle, jobs, warmup_ms, first_ms) is None:
            low = middle + 1
        else:
            high = middle
    return _filled(edges, low, jobs, warmup_ms, first_ms) or []


def _filled(
    edges: Sequence[int], length: int, jobs: int, warmup_ms: int, first_ms: int
) -> list[int] | None:
    """Return cuts with no reading longer than `length`, None if that takes more than `jobs`."""
    cuts: list[int] = []
    at, last = 0, len(edges) - 1
    for _ in range(jobs):
        farthest = _begin(edges[at], warmup_ms, first_ms) + length
        reached = bisect_right(edges, farthest) - 1
        if reached <= at:
            return None
        if reached >= last:
            return cuts
        cuts.append(edges[reached])
        at = reached
    return None


def _longest(start: int, end: int, cuts: Sequence[int], warmup_ms: int, first_ms: int) -> int:
    edges = [start, *cuts, end]
    return max(edges[k + 1] - _begin(edges[k], warmup_ms, first_ms) for k in range(len(edges) - 1))


def _begin(at_ms: int, warmup_ms: int, first_ms: int) -> int:
    return max(at_ms - warmup_ms, first_ms)


def _iso(at_ms: int | None) -> str | None:
    return None if at_ms is None else iso(at_ms)
