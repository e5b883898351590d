"""A recording at a multiple of its own speed, for demonstrations and tests under load.

Rules of this file: only the moment at which a batch is handed on depends on the machine's clock;
what is in it, and its order, are those of the source.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from dataflows.connectors.clock import Clock
from operators.records import BarItem, BarItems, Boundary

_Item = tuple[str, Any]
_State = TypeVar("_State")
# What a paced source reads at once; the results do not depend on it.
PACED_LINES, PACED_MINUTES = 200, 1
_LOOK_S = 0.5  # the longest time between two looks at the clock, which may be set meanwhile


class Paced(FixedPartitionedSource[_Item, _State]):
    """Hands on what another source reads, no earlier than the feed's time says.

    speed : feed time over wall time, > 0. The closings of minutes are paced, to the batch; the data
    between two of them come as they are read. Time runs from the first closing after a start.
    from_ms : what closed before is handed on at once, e.g. a warm-up.
    """

    def __init__(
        self,
        source: FixedPartitionedSource[_Item, _State],
        speed: float,
        clock: Clock,
        *,
        from_ms: int = 0,
    ) -> None:
        assert speed > 0, speed
        self._source = source
        self._speed = speed
        self._clock = clock
        self._from_ms = from_ms

    def list_parts(self) -> list[str]:
        """Return those of the source."""
        return self._source.list_parts()

    def build_part(
        self, step_id: str, for_part: str, resume_state: _State | None
    ) -> PacedPartition[_State]:
        """Open a partition of the source."""
        inner = self._source.build_part(step_id, for_part, resume_state)
        return PacedPartition(inner, self._speed, self._clock, self._from_ms)


class PacedPartition(StatefulSourcePartition[_Item, _State]):
    """A partition with at most one batch that was read and is not due yet."""

    def __init__(
        self,
        inner: StatefulSourcePartition[_Item, _State],
        speed: float,
        clock: Clock,
        from_ms: int = 0,
    ) -> None:
        self._from_ms = from_ms
        self._inner = inner
        self._speed = speed
        self._clock = clock
        self._held: list[_Item] | None = None
        self._before = inner.snapshot()  # of the source, before it read what is held
        self._due_s = 0.0
        self._began: tuple[int, float] | None = None  # feed time (ms) and clock of the start

    def next_batch(self) -> list[_Item]:
        """Return the batch that is due; nothing while it is not."""
        if self._held is None:
            self._before = self._inner.snapshot()
            self._held = list(self._inner.next_batch())
            self._due_s = self._due(self._held)
        if self._clock.monotonic_s() < self._due_s:
            return []
        held, self._held = self._held, None
        return held

    def next_awake(self) -> datetime | None:
        """Return when the batch is due, or when to look again."""
        if self._held is None:
            return self._inner.next_awake()
        left_s = min(max(self._due_s - self._clock.monotonic_s(), 0.0), _LOOK_S)
        return datetime.fromtimestamp(self._clock.now_ns() / 1e9, UTC) + timedelta(seconds=left_s)

    def snapshot(self) -> _State:
        """Return the state behind what was handed on: a batch that is held is read again."""
        return self._inner.snapshot() if self._held is None else self._before

    def close(self) -> None:
        """Close the source."""
        self._inner.close()

    def _due(self, batch: list[_Item]) -> float:
        """Return the time of the clock for a batch: that of its newest closing."""
        closings = [clock_ms for _, item in batch for clock_ms in _closings(item)]
        if not closings or max(closings) < self._from_ms:
            return self._due_s
        if self._began is None:
            self._began = (min(closings), self._clock.monotonic_s())
        first_ms, began_s = self._began
        return began_s + (max(closings) - first_ms) / 1000 / self._speed


def _closings(item: object) -> list[int]:
    """Return the times of the closings in an item."""
    items = item.items if isinstance(item, BarItems) else (item,)
    return [each.phase.clock_ms for each in items if isinstance(each, Boundary | BarItem)]
