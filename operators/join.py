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
    """Items by phase and asset, until a phase has all of its own.

    Keys order phases: twice the minute, plus one when final. `done` is the last complete one.
    """

    pending: dict[int, dict[int, T]] = {}
    done: int = 0

    def collect(self, phase: Phase, asset_uid: int, item: T, *, expected: int) -> list[T] | None:
        """File an item; return all of its phase in asset order once `expected` are there.

        Each asset sends its phases in order, so they complete in order; anything else is a bug.
        """
        key = 2 * phase.minute_ms + phase.final
        assert key > self.done, f"asset {asset_uid} sent {phase} after {self.done} was complete"
        collected = self.pending.setdefault(key, {})
        assert len(self.pending) <= PENDING_PHASES_MAX, f"join stuck since {min(self.pending)}"
        assert asset_uid not in collected, f"asset {asset_uid} sent {phase} twice"
        collected[asset_uid] = item
        if len(collected) < expected:
            return None
        self.done = key
        del self.pending[key]
        return [collected[uid] for uid in sorted(collected)]
