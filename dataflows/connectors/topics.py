"""NDJSON topics: one canonical text a line, in files that are exact after a restart.

Rules of this file: a batch is one append and reaches the operating system at once; a snapshot is
the byte offset after forcing the file to stable storage, which a thread has mostly done by then, so
that the end of an epoch need not wait for the disk; a resume cuts the file there, so the repeated
epoch does not appear twice. Without a resume state a replay replaces the file and a live run
appends to it. Design 6, 7.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from operators.publish import (
    audit_json,
    dead_json,
    event_json,
    frame_json,
    row_json,
    suppression_json,
)
from operators.records import MarketPhase, Published

Offsets = dict[str, int]
_Item = TypeVar("_Item")
_State = TypeVar("_State")
Take = Callable[[_Item], Iterable[bytes]]  # the lines that a file takes of an item

_TAIL_BYTES = 1 << 16
SYNCS_AHEAD = 4  # of an epoch: a live one has few batches, a replay has hundreds


class TopicError(Exception):
    """A topic file does not fit the recovery state; the message says what to do."""


class Written:
    """Lines, bytes and SHA-256 of what was written to a file."""

    def __init__(self) -> None:
        self.lines = self.size = 0
        self.sha256 = hashlib.sha256()

    def add(self, text: bytes, lines: int) -> None:
        """Take the next lines, each with its newline."""
        self.lines += lines
        self.size += len(text)
        self.sha256.update(text)


class NdjsonFile:
    """An append-only file of lines.

    resume : offset of an earlier snapshot; the file is cut there. append : without `resume`, keep
    what an existing file holds (live) rather than replace it (replay). written : is told of the
    lines, but not of those that are there already.
    """

    def __init__(
        self,
        path: Path,
        resume: int | None = None,
        *,
        append: bool,
        written: Written | None = None,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        size = path.stat().st_size if path.exists() else 0
        if resume is not None and resume > size:
            raise TopicError(
                f"{path}: expected at least {resume} bytes, found {size}; put the file back, or"
                " remove the recovery store to start anew"
            )
        self._file = path.open("r+b" if path.exists() else "w+b")
        if resume is None:
            resume = self._end_of_lines(size) if append else 0
        self._written = written
        self._file.truncate(resume)
        self._file.seek(resume)
        self._end = resume
        self._synced: int | None = None  # up to where; it may have been cut

    def append(self, lines: Iterable[bytes]) -> None:
        """Write lines, given without newline, in their order."""
        given = [*lines, b""]
        text = b"\n".join(given)
        if text:
            self._file.write(text)
            self._file.flush()
            self._end += len(text)
            if self._written is not None:
                self._written.add(text, len(given) - 1)

    def sync(self) -> None:
        """Force to stable storage what was appended before the call; from any thread."""
        end = self._end
        if end != self._synced:
            os.fsync(self._file.fileno())
            self._synced = end

    def offset(self) -> int:
        """Return where the next line starts, with everything before it on stable storage."""
        self.sync()
        return self._end

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _end_of_lines(self, size: int) -> int:
        """Return the end of the last complete line: a kill may have left half of one."""
        end = size
        while end:
            start = max(0, end - _TAIL_BYTES)
            self._file.seek(start)
            newline = self._file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
        return 0


# --- the engine's side -------------------------------------------------------------------------


class OnePartitionSink(FixedPartitionedSink[_Item, _State]):
    """A sink with the one partition "0": all items pass through it, in order."""

    def list_parts(self) -> list[str]:
        return ["0"]

    def part_fn(self, item_key: str) -> int:
        return 0


class _Lines(StatefulSinkPartition[_Item, Offsets]):
    """Files by name, each with what it takes of an item."""

    def __init__(self, files: dict[str, NdjsonFile], takes: Mapping[str, Take[_Item]]) -> None:
        self._files = files
        self._takes = takes
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: list[Future[None]] = []
        self._left = 0  # syncs ahead of this epoch's end

    def write_batch(self, values: list[_Item]) -> None:
        for name, file in self._files.items():
            take = self._takes[name]
            file.append(line for value in values for line in take(value))
        if self._left:
            self._left -= 1
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "sync")
            self._ahead.append(self._thread.submit(self._sync))

    def snapshot(self) -> Offsets:
        self._wait()
        self._left = SYNCS_AHEAD
        return {name: file.offset() for name, file in self._files.items()}

    def close(self) -> None:
        self._wait()
        if self._thread is not None:
            self._thread.shutdown()
        for file in self._files.values():
            file.close()

    def _sync(self) -> None:
        for file in self._files.values():
            file.sync()

    def _wait(self) -> None:
        ahead, self._ahead = self._ahead, []
        for sync in ahead:
            sync.result()


class LinesSink(OnePartitionSink[_Item, Offsets]):
    """Appends lines of each item to some files; items are ("0", item).

    takes : the lines of an item by name. paths : by the same names, which are also those of the
    files' offsets in the recovery state; what has no path is not written. written : what is told of
    the lines, by the same names.
    """

    takes: Mapping[str, Take[_Item]]

    def __init__(
        self,
        paths: Mapping[str, Path],
        *,
        append: bool,
        written: Mapping[str, Written] | None = None,
    ) -> None:
        self._paths = paths
        self._append = append
        self._written = written or {}

    def build_part(
        self, step_id: str, for_part: str, resume_state: Offsets | None
    ) -> StatefulSinkPartition[_Item, Offsets]:
        at = resume_state or {}
        files = {
            name: NdjsonFile(
                path, at.get(name), append=self._append, written=self._written.get(name)
            )
            for name, path in self._paths.items()
        }
        return _Lines(files, self.takes)


MARKET_LINES: Mapping[str, Take[MarketPhase]] = {
    "rows": lambda phase: map(row_json, phase.rows),
    "frames": lambda phase: map(frame_json, phase.frames),
    "audit": audit_json,
}
PUBLISHED_LINES: Mapping[str, Take[Published]] = {
    "events": lambda item: map(event_json, item.events),
    "shadow": lambda item: map(event_json, item.shadow),
    "suppressed": lambda item: map(suppression_json, item.suppressed),
    "dlq": lambda item: map(dead_json, item.dead),
}
MARKET_PRODUCTS = tuple(MARKET_LINES)
EVENT_PRODUCTS = tuple(PUBLISHED_LINES)


class RowsAndFramesSink(LinesSink[MarketPhase]):
    """Appends rows, frames and the audit of the coverage to a file each; items are
    ("0", MarketPhase)."""

    takes = MARKET_LINES


class EventsSink(LinesSink[Published]):
    """Appends events, shadow events, suppressions and dead letters to a file each; items are
    ("0", Published)."""

    takes = PUBLISHED_LINES
