"""A bars file as the flow's input: minute bars enter at normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from dataflows.connectors import own_thread
from dataflows.importing.bars import read_bars
from operators.bars import BarsState, close_minutes
from operators.records import BarItem, BarItems, key_of

PARTITION = "bars"
# A longer chunk gains nothing: its rows leave the caches before they are written.
CHUNK_MINUTES = 16


@dataclass
class BarsCount:
    """What was read: minutes closed, rows of the file that were skipped, by reason."""

    minutes: int = 0
    last_ms: int = 0
    minutes_skipped: int = 0
    rejects: dict[str, int] = field(default_factory=dict)

    def reject(self, reason: str) -> None:
        """Count a row that was skipped."""
        self.rejects[reason] = self.rejects.get(reason, 0) + 1


@dataclass(frozen=True)
class BarsSource(FixedPartitionedSource[tuple[str, BarItems], None]):
    """Reads a bars file from its start; a bars replay is not resumed."""

    path: Path
    count: BarsCount
    chunk_minutes: int = CHUNK_MINUTES
    on_chunk: Callable[[BarsCount], None] | None = None

    def list_parts(self) -> list[str]:
        """Return the one partition."""
        return [PARTITION]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> BarsPartition:
        """Open the file."""
        return BarsPartition(self)


class BarsPartition(StatefulSourcePartition[tuple[str, BarItems], None]):
    """The open file."""

    def __init__(self, source: BarsSource) -> None:
        own_thread.stay()  # its batches are small
        self._source = source
        self._state = BarsState()
        self._minutes = read_bars(source.path, on_reject=source.count.reject)

    def next_batch(self) -> list[tuple[str, BarItems]]:
        """Return the items of some more minutes, those of an asset as one."""
        count = self._source.count
        chunk = list(islice(self._minutes, self._source.chunk_minutes))
        if not chunk:
            raise StopIteration
        by_asset: dict[int, list[BarItem]] = {}
        for close_ms, bars in chunk:
            for item in close_minutes(self._state, close_ms, bars):
                by_asset.setdefault(item.asset_uid, []).append(item)
            count.last_ms = close_ms
        count.minutes += len(chunk)
        count.minutes_skipped = self._state.minutes_skipped
        if self._source.on_chunk is not None:
            self._source.on_chunk(count)
        return [(key_of(uid), BarItems(tuple(items))) for uid, items in by_asset.items()]

    def snapshot(self) -> None:
        """Return nothing: a bars replay starts again."""
