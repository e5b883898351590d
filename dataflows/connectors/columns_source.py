"""A recorded log read from its columnar cache, and what came after that from the log.

Rules of this file: items are those that `LogSource` has of the same lines, or in their place the
bars that assembly makes of them; the holes of the recording are told before anything else; behind
the last part the log is read on with the state the cache ends in, and with the state of assembly
where that has seen bars alone; how many stretches go into a batch does not matter. A snapshot says
where in which cache, so a restart needs the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from dataflows.connectors.column_bars import read_bars, read_states
from dataflows.connectors.column_files import ColumnsError, read_part
from dataflows.connectors.columns import Columns, files_of, unchanged
from dataflows.connectors.source import (
    CHUNK_LINES,
    PARTITION,
    HoleLog,
    LogPartition,
    LogSource,
    SourceState,
)
from dataflows.connectors.ticklog import Position, plain_name
from operators.feed import FeedState
from operators.records import BarItem, Boundary, Handover, Ticks, key_of
from packs.schema import FeaturePack

BATCH_ITEMS = 2000  # fewer batches cost the engine less; of more it gains no more

Item = tuple[str, Ticks | Boundary | BarItem | Handover]


class ColumnsState(msgspec.Struct):
    """The next stretch to be read of a cache, of its bars or its ticks; log : the snapshot of the
    log behind it, if it is there already."""

    cache: str
    bars: bool
    part: int = 0
    stretch: int = 0
    log: bytes | None = None
    version: int = 2


@dataclass(frozen=True)
class ColumnsSource(FixedPartitionedSource[Item, bytes]):
    """Reads the cache of a log, which is to have been found usable, then the rest of the log.

    batch_items : so many are handed out at once or a few more, but never more than a part.
    on_chunk(state) is called after every stretch; until the end of the cache only the clock of the
    state is set. The other fields are those of `LogSource`.
    """

    path: Path
    features: FeaturePack
    columns: Columns
    chunk_lines: int = CHUNK_LINES
    on_chunk: Callable[[SourceState], None] | None = None
    holes: HoleLog | None = None
    batch_items: int = BATCH_ITEMS

    def list_parts(self) -> list[str]:
        """Return the one partition."""
        return [PARTITION]

    def build_part(
        self, step_id: str, for_part: str, resume_state: bytes | None
    ) -> ColumnsPartition:
        """Open the cache at its start, or where a snapshot left it or the log."""
        state = ColumnsState(self.columns.digest, self.columns.bars)
        if resume_state is not None:
            resumed = msgspec.msgpack.decode(resume_state, type=ColumnsState)
            same, state = (resumed.cache, resumed.bars) == (state.cache, state.bars), resumed
            if not same:
                raise ColumnsError(
                    f"{self.columns.directory}: expected the cache that the snapshot was taken of,"
                    " found one that was made anew; begin again"
                )
        return ColumnsPartition(self, state)


class ColumnsPartition(StatefulSourcePartition[Item, bytes]):
    """The open cache, or the log behind it."""

    def __init__(self, source: ColumnsSource, state: ColumnsState) -> None:
        self._source = source
        self._state = state
        self._keys: dict[int, str] = {}
        self._clock_ns = 0
        self._log: LogPartition | None = None
        if state.log is not None:
            self._log = self._rest().build_part("", PARTITION, state.log)
        self._batches = self._read(state.part, state.stretch)

    def next_batch(self) -> Sequence[Item]:
        """Return the items of the next stretches, or of the next lines of the log."""
        if self._log is None:
            state = self._state
            if state.part == state.stretch == 0 and self._source.holes is not None:
                self._source.holes.write(list(self._source.columns.manifest.holes))
            batch = next(self._batches, None)
            if batch is not None:
                return batch
            self._log = self._follow()
            if self._log is None:
                raise StopIteration
            if state.bars:
                return self._handovers()
        return self._log.next_batch()

    def snapshot(self) -> bytes:
        """Return the place in the cache, or in the log."""
        if self._log is not None:
            self._state.log = self._log.snapshot()
        return msgspec.msgpack.encode(self._state)

    def close(self) -> None:
        """Release the log."""
        if self._log is not None:
            self._log.close()
        elif self._source.holes is not None:
            self._source.holes.close()

    def _read(self, part: int, stretch: int) -> Iterator[list[Item]]:
        state, key = self._state, self._key
        for at in range(part, len(self._source.columns.manifest.parts)):
            batch: list[Item] = []
            for n, items in enumerate(self._stretches(at, stretch), stretch):
                if items and isinstance(newest := items[-1][1], Boundary | BarItem):
                    self._clock_ns = newest.phase.clock_ms * 1_000_000
                self._report(FeedState(clock_ns=self._clock_ns))
                batch += [(key(uid), item) for uid, item in items]
                if len(batch) >= self._source.batch_items:
                    state.part, state.stretch = at, n + 1
                    yield batch
                    batch = []
            if batch:
                state.part, state.stretch = at + 1, 0
                yield batch
            stretch = 0

    def _stretches(self, part: int, first: int) -> Iterator[list[tuple[int, Any]]]:
        """Yield the items of the stretches of a part from one on, by asset."""
        columns = self._source.columns
        bars = columns.manifest.bars
        if not columns.bars or bars is None:
            read = columns.manifest.parts[part]
            with unchanged(columns, list(read.files())):
                yield from islice(read_part(columns.directory, read), first, None)
            return
        with unchanged(columns, [bars.files[part]]):
            for items in read_bars(columns.directory, bars.files[part], first):
                yield [(item.asset_uid, item) for item in items]

    def _handovers(self) -> list[Item]:
        """Return what assembly would know behind the cache, had it seen the ticks."""
        columns = self._source.columns
        bars = columns.manifest.bars
        if bars is None or not bars.states:
            return []
        with unchanged(columns, bars.states[-1:]):
            states = read_states(columns.directory, bars.states[-1])
        return [(self._key(uid), Handover(known)) for uid, known in states.items()]

    def _follow(self) -> LogPartition | None:
        """Open the log behind the cache; None if nothing is there."""
        source, manifest = self._source, self._source.columns.manifest
        end = msgspec.json.decode(msgspec.json.encode(manifest.state), type=FeedState)
        names = [plain_name(path) for path in files_of(source.path)][len(manifest.segments) :]
        if names:
            state = SourceState(Position(names[0], 0), end)
            return self._rest().build_part("", PARTITION, msgspec.msgpack.encode(state))
        self._report(end)
        return None

    def _rest(self) -> LogSource:
        source = self._source
        return LogSource(
            source.path,
            source.features,
            source.chunk_lines,
            on_chunk=source.on_chunk,
            holes=source.holes,
        )

    def _report(self, state: FeedState) -> None:
        if self._source.on_chunk is not None:
            self._source.on_chunk(SourceState(Position(), state))

    def _key(self, uid: int) -> str:
        key = self._keys.get(uid)
        if key is None:
            key = self._keys[uid] = key_of(uid)
        return key
