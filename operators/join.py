"""Collect one item per asset and phase: the heart of every cross-asset step."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from operators.records import Phase

T = TypeVar("T")

# Workers drift apart by at most one chunk of the log; the longest jump of the clock inside a chunk
# that still yields minutes is a week. Waiting for more than that is a stuck join: it must fail.
PENDING_PHASES_MAX = 2 * (7 * 1440 + 60)


class Join(msgspec.Struct, Generic[T]):
    """Items by phase and asset, until a phase has all of its own and none before it is pending.

    Keys order phases: twice the minute, plus one when final. `done` is the last that was returned.
    """

    pending: dict[int, dict[int, T]] = {}
    done: int = 0
    expected: dict[int, int] = {}

    def collect(self, phase: Phase, asset_uid: int, item: T, *, expected: int) -> list[list[T]]:
        """File an item; return the phases that are complete now, each in asset order.

        A phase needs `expected` items. Each asset sends its phases in order, so they complete in
        order, unless the roster shrinks: the assets that stay may complete the next phase before
        one that left has sent its last item. The next phase then waits.
        """
        key = 2 * phase.minute_ms + phase.final
        assert key > self.done, f"asset {asset_uid} sent {phase} after {self.done} was complete"
        collected = self.pending.setdefault(key, {})
        assert len(self.pending) <= PENDING_PHASES_MAX, f"join stuck since {min(self.pending)}"
        assert asset_uid not in collected, f"asset {asset_uid} sent {phase} twice"
        collected[asset_uid] = item
        self.expected[key] = expected
        complete: list[list[T]] = []
        if len(collected) < expected:  # nearly every item
            return complete
        while self.pending and self._is_complete(first := min(self.pending)):
            self.done = first
            del self.expected[first]
            found = self.pending.pop(first)
            complete.append([found[uid] for uid in sorted(found)])
        return complete

    def _is_complete(self, key: int) -> bool:
        return key in self.expected and len(self.pending[key]) >= self.expected[key]
