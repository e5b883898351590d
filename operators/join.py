"""Collect one item per asset and phase: the heart of every cross-asset step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

import msgspec

from operators import native
from operators.records import Phase, RowItem, RowItems

T = TypeVar("T")

# Workers drift apart by at most one chunk of the log; the longest jump of the clock inside a chunk
# that still yields minutes is a week. Waiting for more than that is a stuck join: it must fail.
PENDING_PHASES_MAX = 2 * (7 * 1440 + 60)


class Join(msgspec.Struct, Generic[T]):
    """Items by phase and asset, until a phase has all of its own and is the next.

    Keys are the numbers of phases. `done` is the last that was returned; `expected` says how many
    items a pending phase needs, `follows` which one it comes after.
    """

    pending: dict[int, dict[int, T]] = {}
    done: int = 0
    expected: dict[int, int] = {}
    follows: dict[int, int] = {}

    def collect(self, phase: Phase, items: Mapping[int, T], *, expected: int) -> list[list[T]]:
        """File items by asset; return the phases that are complete now, each in asset order.

        A phase needs `expected` items. Each asset sends its phases in order, so they complete in
        order, unless the roster changes: the assets of the next phase may complete it before one
        that left has sent its last item. The next phase then waits, also for a phase of which
        nothing has come yet. The first phase that a join meets has nothing to wait for.
        """
        key = phase.number
        assert key > self.done, f"assets {[*items]} sent {phase} after {self.done} was complete"
        collected = self.pending.get(key)
        if collected is None:
            collected = self.pending[key] = {}
            self.expected[key], self.follows[key] = expected, phase.follows
            assert len(self.pending) <= PENDING_PHASES_MAX, f"join stuck since {min(self.pending)}"
        twice = collected.keys() & items.keys()
        assert not twice, f"assets {sorted(twice)} sent {phase} twice"
        collected.update(items)
        complete: list[list[T]] = []
        if len(collected) < expected:
            return complete
        while self.pending and self._is_next(first := min(self.pending)):
            self.done = first
            del self.expected[first], self.follows[first]
            found = self.pending.pop(first)
            complete.append([found[uid] for uid in sorted(found)])
        return complete

    def _is_next(self, key: int) -> bool:
        """Tell whether a phase is complete and none before it is missing."""
        if self.done and self.follows.get(key, 0) > self.done:
            return False
        return key in self.expected and len(self.pending[key]) >= self.expected[key]


def by_phase(items: Iterable[RowItem]) -> list[RowItems]:
    """Return items that came together, those of a phase as one, the oldest phase first: an asset
    that is new has only the later ones, and these must not be complete before the others."""
    found: dict[Phase, list[RowItem]] = {}
    phase, own = None, list[RowItem]()
    for item in items:
        if item.phase is not phase:
            phase = item.phase
            own = found.setdefault(phase, [])
        own.append(item)
    return [RowItems(phase, tuple(found[phase])) for phase in sorted(found)]


native.take_over("join", globals())  # plain form only
