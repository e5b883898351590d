"""The flow's one input: a tick log read in chunks, live or recorded.

Rules of this file: one partition with a fixed name; a chunk never waits; the snapshot is the log
position together with what the reader knows, so a restart goes on with the next unread line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from dataflows.connectors.ticklog import Position, TickLogReader, newest_position
from operators.feed import FeedReader, FeedState, Hole
from operators.records import Boundary, Ticks, key_of
from packs.schema import FeaturePack

PARTITION = "log"
CHUNK_LINES = 2000
REPLAY_LINES = 20_000  # of a log that is all there: fewer, larger micro-batches

Item = tuple[str, Ticks | Boundary]


class SourceState(msgspec.Struct):
    """Where the log was left, and what had been learned from it."""

    position: Position
    feed: FeedState
    version: int = 1


class Recording(Protocol):
    """A writer that runs beside the source in a live flow."""

    def start(self) -> None:
        """Begin to record."""

    def stop(self) -> None:
        """Stop recording."""

    def raise_if_dead(self) -> None:
        """Raise if the recorder died."""


class HoleLog(Protocol):
    """Where the holes of the recording are noted."""

    def write(self, holes: list[Hole]) -> None:
        """Note holes that began or ended; those of lines read again come again."""

    def close(self) -> None:
        """Release what is open."""


@dataclass(frozen=True)
class LogSource(FixedPartitionedSource[Item, bytes]):
    """Reads a tick log (file or directory). `follow` keeps waiting at the end.

    on_chunk(state) is called after every chunk, for progress and counters. holes : is told of the
    holes of a chunk before a snapshot is behind it, so a restart tells it again.
    """

    path: Path
    features: FeaturePack
    chunk_lines: int = CHUNK_LINES
    follow: bool = False
    recording: Recording | None = None
    on_chunk: Callable[[SourceState], None] | None = None
    holes: HoleLog | None = None

    def list_parts(self) -> list[str]:
        """Return the one partition."""
        return [PARTITION]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> LogPartition:
        """Open the log at its start, or where a snapshot left it."""
        state = None
        if resume_state is not None:
            state = msgspec.msgpack.decode(resume_state, type=SourceState)
        return LogPartition(self, state)


def feed_reader(state: FeedState, features: FeaturePack) -> FeedReader:
    """Return a reader of lines that goes on from a state, with the closings of a pack."""
    lattice = features.lattice
    return FeedReader(
        state,
        lateness_ms=lattice.lateness_ms,
        grace_ms=lattice.grace_ms,
        arrival_jump_gap_ms=lattice.arrival_jump_gap_ms,
    )


def by_key(items: Iterable[tuple[int, Ticks | Boundary]]) -> list[Item]:
    """Return what a reader made of some lines by the engine's key."""
    return [(key_of(uid), item) for uid, item in items]


def note_holes(feed: FeedReader, holes: HoleLog | None) -> None:
    """Note the holes of the recording that the newest lines showed."""
    found = feed.take_holes()
    if found and holes is not None:
        holes.write(found)


class LogPartition(StatefulSourcePartition[Item, bytes]):
    """The open log and the reader of its lines."""

    def __init__(self, source: LogSource, state: SourceState | None) -> None:
        self._source = source
        if source.recording is not None:
            source.recording.start()
        if state is None:
            state = SourceState(self._beginning(), FeedState())
        self._feed = feed_reader(state.feed, source.features)
        self._log = TickLogReader(
            source.path, state.position, on_reject=state.feed.count, follow=source.follow
        )

    def _beginning(self) -> Position:
        """Begin a recording from its start, but a live flow with what is recorded from now on.

        A live flow that is to go on where it was left needs a recovery store.
        """
        return newest_position(self._source.path) if self._source.recording else Position()

    def next_batch(self) -> list[Item]:
        """Return the items of the next lines; ends with the log unless it is followed."""
        if self._source.recording is not None:
            self._source.recording.raise_if_dead()
        block = self._log.read_block(self._source.chunk_lines)
        if not block and not self._source.follow:
            self._report()
            raise StopIteration
        items = by_key(self._feed.read_block(block))
        note_holes(self._feed, self._source.holes)
        if block:
            self._report()
        return items

    def snapshot(self) -> bytes:
        """Return position and reader state."""
        return msgspec.msgpack.encode(self._state())

    def close(self) -> None:
        """Release the log, stop the recorder."""
        self._log.close()
        if self._source.holes is not None:
            self._source.holes.close()
        if self._source.recording is not None:
            self._source.recording.stop()

    def _state(self) -> SourceState:
        return SourceState(self._log.position, self._feed.state)

    def _report(self) -> None:
        if self._source.on_chunk is not None:
            self._source.on_chunk(self._state())
