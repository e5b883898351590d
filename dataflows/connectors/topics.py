"""NDJSON topics: one canonical text a line, in files that are exact after a restart.

Rules of this file: a batch is one append and reaches the operating system at once; a snapshot is
the byte offset after forcing the file to stable storage; a resume cuts the file there, so the
repeated epoch does not appear twice. Without a resume state a replay replaces the file and a live
run appends to it. Design 6, 7.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
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

_TAIL_BYTES = 1 << 16


class TopicError(Exception):
    """A topic file does not fit the recovery state; the message says what to do."""


class NdjsonFile:
    """An append-only file of lines.

    resume : offset of an earlier snapshot; the file is cut there. append : without `resume`, keep
    what an existing file holds (live) rather than replace it (replay).
    """

    def __init__(self, path: Path, resume: int | None = None, *, append: bool) -> None:
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
        self._file.truncate(resume)
        self._file.seek(resume)

    def append(self, lines: Iterable[bytes]) -> None:
        """Write lines, given without newline, in their order."""
        text = b"".join(line + b"\n" for line in lines)
        if text:
            self._file.write(text)
            self._file.flush()

    def offset(self) -> int:
        """Return where the next line starts, with everything before it on stable storage."""
        os.fsync(self._file.fileno())
        return self._file.tell()

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


class _RowsAndFrames(StatefulSinkPartition[MarketPhase, Offsets]):
    def __init__(self, rows: NdjsonFile, frames: NdjsonFile, audit: NdjsonFile) -> None:
        self._rows = rows
        self._frames = frames
        self._audit = audit

    def write_batch(self, values: list[MarketPhase]) -> None:
        self._rows.append(row_json(row) for phase in values for row in phase.rows)
        self._frames.append(frame_json(frame) for phase in values for frame in phase.frames)
        self._audit.append(line for phase in values for line in audit_json(phase))

    def snapshot(self) -> Offsets:
        return {
            "rows": self._rows.offset(),
            "frames": self._frames.offset(),
            "audit": self._audit.offset(),
        }

    def close(self) -> None:
        self._rows.close()
        self._frames.close()
        self._audit.close()


class _Events(StatefulSinkPartition[Published, Offsets]):
    def __init__(self, events: NdjsonFile, suppressed: NdjsonFile, dead: NdjsonFile) -> None:
        self._events = events
        self._suppressed = suppressed
        self._dead = dead

    def write_batch(self, values: list[Published]) -> None:
        self._events.append(event_json(event) for item in values for event in item.events)
        self._suppressed.append(suppression_json(s) for item in values for s in item.suppressed)
        self._dead.append(dead_json(dead) for item in values for dead in item.dead)

    def snapshot(self) -> Offsets:
        return {
            "events": self._events.offset(),
            "suppressed": self._suppressed.offset(),
            "dlq": self._dead.offset(),
        }

    def close(self) -> None:
        self._events.close()
        self._suppressed.close()
        self._dead.close()


class _Suppressed(StatefulSinkPartition[Published, Offsets]):
    def __init__(self, suppressed: NdjsonFile) -> None:
        self._suppressed = suppressed

    def write_batch(self, values: list[Published]) -> None:
        self._suppressed.append(suppression_json(s) for item in values for s in item.suppressed)

    def snapshot(self) -> Offsets:
        return {"suppressed": self._suppressed.offset()}

    def close(self) -> None:
        self._suppressed.close()


class RowsAndFramesSink(OnePartitionSink[MarketPhase, Offsets]):
    """Appends rows, frames and the audit of the coverage to a file each.

    Items are ("0", MarketPhase). audit_path : `audit.ndjson` beside the rows where it is not given.
    """

    def __init__(
        self,
        rows_path: Path,
        frames_path: Path,
        audit_path: Path | None = None,
        *,
        append: bool,
    ) -> None:
        self._rows_path = rows_path
        self._frames_path = frames_path
        self._audit_path = audit_path or rows_path.with_name("audit.ndjson")
        self._append = append

    def build_part(
        self, step_id: str, for_part: str, resume_state: Offsets | None
    ) -> StatefulSinkPartition[MarketPhase, Offsets]:
        at = resume_state or {}
        return _RowsAndFrames(
            NdjsonFile(self._rows_path, at.get("rows"), append=self._append),
            NdjsonFile(self._frames_path, at.get("frames"), append=self._append),
            NdjsonFile(self._audit_path, at.get("audit"), append=self._append),
        )


class EventsSink(OnePartitionSink[Published, Offsets]):
    """Appends events, suppressions and dead letters to a file each; items are ("0", Published).

    dlq_path : of the dead letters; `dlq.ndjson` beside the events where it is not given.
    """

    def __init__(
        self,
        events_path: Path,
        suppressed_path: Path,
        dlq_path: Path | None = None,
        *,
        append: bool,
    ) -> None:
        self._events_path = events_path
        self._suppressed_path = suppressed_path
        self._dlq_path = dlq_path or events_path.with_name("dlq.ndjson")
        self._append = append

    def build_part(
        self, step_id: str, for_part: str, resume_state: Offsets | None
    ) -> StatefulSinkPartition[Published, Offsets]:
        at = resume_state or {}
        return _Events(
            NdjsonFile(self._events_path, at.get("events"), append=self._append),
            NdjsonFile(self._suppressed_path, at.get("suppressed"), append=self._append),
            NdjsonFile(self._dlq_path, at.get("dlq"), append=self._append),
        )


class SuppressedSink(OnePartitionSink[Published, Offsets]):
    """Appends suppressions to a file, where events go elsewhere; items are ("0", Published)."""

    def __init__(self, suppressed_path: Path, *, append: bool) -> None:
        self._suppressed_path = suppressed_path
        self._append = append

    def build_part(
        self, step_id: str, for_part: str, resume_state: Offsets | None
    ) -> StatefulSinkPartition[Published, Offsets]:
        at = resume_state or {}
        return _Suppressed(
            NdjsonFile(self._suppressed_path, at.get("suppressed"), append=self._append)
        )
