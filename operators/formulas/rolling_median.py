"""Median of a value >= 0 over the last completed days, in a few kilobytes whatever comes.

Rules of this file: each UTC day is a histogram of whole counts, 8 linear bins per power of two and
one for zero; counts add and subtract exactly, so taking a value back leaves no trace. Nothing is
forgotten but on request.  Build plan 8.3.
"""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from math import ldexp

import msgspec

from operators.kernel import COUNTS_PER_OCTAVE as PER_OCTAVE
from operators.kernel import bin_of, count_in, count_today

__all__ = ["PER_OCTAVE", "X_MAX", "DailyCounts", "Day", "bin_of", "edges"]

X_MAX = 1e308  # from here on a bin may end beyond the last double


def edges(k: int) -> tuple[float, float]:
    """Bounds [low, high) of bin k, in units of x; high is 6.7 to 12.5 % above low.

    >>> edges(8), edges(15)
    ((1.0, 1.125), (1.875, 2.0))
    """
    e, i = divmod(k, PER_OCTAVE)
    return ldexp(0.5 + i / (2 * PER_OCTAVE), e), ldexp(0.5 + (i + 1) / (2 * PER_OCTAVE), e)


class Day(msgspec.Struct, array_like=True):
    """Counts of one day. day : UTC day number; zeros : values equal to zero.

    keys : the bins in use, ascending; counts : values in each of them, > 0, in the same order; both
    packed in a day that is over, as 4-byte integers.
    Bound: the bins in use, about 60 for the dollar volume of a day's minutes.
    """

    day: int
    zeros: int = 0
    keys: list[int] | bytes = []
    counts: list[int] | bytes = []

    def pack(self) -> None:
        """Take a third of the memory from now on."""
        if isinstance(self.keys, list) and isinstance(self.counts, list):
            self.keys, self.counts = (array("i", x).tobytes() for x in (self.keys, self.counts))

    def open(self) -> tuple[list[int], list[int]]:
        """Return bins and counts, to be changed."""
        self.keys, self.counts = list(ints(self.keys)), list(ints(self.counts))
        return self.keys, self.counts


def ints(held: list[int] | bytes) -> Sequence[int]:
    """Return the numbers of a day, packed or not."""
    return array("i", held) if isinstance(held, bytes) else held


class DailyCounts(msgspec.Struct, array_like=True):
    """Counts of the last days, oldest first; no day without a value.

    Bound: the days since the last `forget`; about 200 bytes a day in MessagePack.
    """

    days: list[Day] = []

    def add(self, x: float, day: int) -> None:
        """Count a value of a day. x : >= 0, below X_MAX; day : UTC day number."""
        assert 0.0 <= x < X_MAX, f"counts take values from 0 to {X_MAX}, got {x!r}"
        if count_today(self.days, x, day):
            return
        at = self._at(day)
        if at == len(self.days) or self.days[at].day != day:
            self.days.insert(at, Day(day))
        counted = self.days[at]
        if x == 0.0:
            counted.zeros += 1
        else:
            keys, counts = counted.open()
            count_in(keys, counts, x)

    def remove(self, x: float, day: int) -> None:
        """Take back a value that was added: the exact inverse of `add`, field by field."""
        at = self._at(day)
        found = at < len(self.days) and self.days[at].day == day
        assert found, f"nothing was added on day {day}"
        counted = self.days[at]
        if x == 0.0:
            assert counted.zeros > 0, f"no zero was added on day {day}"
            counted.zeros -= 1
        else:
            keys, counts = counted.open()
            k = bin_of(x)
            i = bisect_left(keys, k)
            found = i < len(keys) and keys[i] == k
            assert found, f"{x!r} was not added on day {day}"
            counts[i] -= 1
            if not counts[i]:
                del keys[i], counts[i]
        if not counted.zeros and not counted.keys:
            del self.days[at]

    def median(self, day: int, days: int) -> float | None:
        """Median over the `days` completed days before `day`, in units of x.

        NULL (None) unless each of those days has at least one value. It lies in the bin of the
        lower of the two middle values, which is 9 % wide on average, linear in the rank there.
        Changes only with the day, or with a value of a day that is over: ask once a day.
        """
        assert days > 0, days
        first = self._at(day - days)
        span = self.days[first : first + days]
        if len(span) < days or span[-1].day != day - 1:
            return None
        zeros = 0
        total = 0
        merged: dict[int, int] = {}
        for counted in span:
            zeros += counted.zeros
            for k, count in zip(ints(counted.keys), ints(counted.counts), strict=True):
                merged[k] = merged.get(k, 0) + count
                total += count
        total += zeros
        if 2 * zeros >= total:
            return 0.0
        below = zeros  # values in the bins passed; ranks are whole numbers, doubled
        for k in sorted(merged):
            count = merged[k]
            if 2 * (below + count) >= total:
                low, high = edges(k)
                return low + (high - low) * ((total - 2 * below) / (2 * count))
            below += count
        raise AssertionError("the bins hold all values that are not zero")

    def forget(self, before: int) -> None:
        """Drop the days before day number `before`, and pack the others: they are over.

        On day d a median over N days needs d - N and later. Keep one more, d - N - 1: then the
        first value of day d can still be taken back and the day before looks as it did.
        """
        del self.days[: self._at(before)]
        for counted in self.days:
            counted.pack()

    def _at(self, day: int) -> int:
        """Position of a day, or where it would be."""
        days = self.days
        at = len(days)
        while at and days[at - 1].day >= day:  # the newest days are what is asked for
            at -= 1
        return at
