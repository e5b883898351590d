"""Topics as a consumer reads them: the interface of a source, and the NDJSON topic file behind it.

Rules of this file: a line counts when its newline is there; what was handed out and where the next
record starts are one state; a file that was cut, replaced or copied away is read on without losing
a line that is still there, at the price of repeats, which the consumer drops by event id.
`connectors/topics.py` writes these files, and cuts one at the start of the epoch it repeats.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from dataflows.connectors.clock import Clock

READ_BYTES = 1 << 20
LINE_BYTES_MAX = 1 << 20
REWIND_BYTES = 1 << 20
_HEAD_BYTES = 4096
_LOOK_S = 0.2  # how often a file is looked at


class SourceError(Exception):
    """A topic cannot be read, or a state does not belong to it; the message says why."""


class Record(NamedTuple):
    """A message, and where it stood: partition and offset name it for ever."""

    value: bytes
    partition: int
    offset: int


class EventSource(Protocol):
    """A topic from which records are taken in order, per partition."""

    name: str

    def poll(self, timeout_s: float) -> list[Record]:
        """Return the next records, at least one unless the time is up."""

    def at_end(self) -> bool:
        """Tell whether everything that was there at the last poll has been handed out."""

    def notes(self) -> list[str]:
        """Return, once, what a user should know: the file was replaced, a broker is away."""

    def position(self) -> Any:
        """Return, as JSON values, where to go on after the records handed out so far."""

    def seek(self, position: Any) -> None:
        """Go on at an earlier position; before the first poll only. Raises SourceError."""

    def seek_end(self) -> None:
        """Leave out what is there already; before the first poll only."""

    def close(self) -> None:
        """Release everything."""


class TopicFile:
    """An NDJSON topic file that may still grow.

    A file that is not there yet is waited for. A new file under the name is read from its start,
    after the rest of the old one. A file that lost its end (a restarted writer cuts what it will
    write again) is read from REWIND_BYTES before the new end, because the next bytes may already
    be there; one that has another first line is another file.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.name = f"file:{path.absolute()}"
        self._clock = clock
        self._file: BinaryIO | None = None
        self._offset = 0
        self._head: str | None = None  # digest of the first line, up to _HEAD_BYTES
        self._skipping = False  # inside a line that was too long
        self._at_end = False
        self._from_end = False
        self._notes: list[str] = []

    def poll(self, timeout_s: float) -> list[Record]:
        """Return the next lines, without their newlines; empty ones are left out."""
        until_s = self._clock.monotonic_s() + timeout_s
        while True:
            records = self._read()
            left_s = until_s - self._clock.monotonic_s()
            if records or (self._at_end and left_s <= 0):
                return records
            if self._at_end:
                self._clock.sleep(min(_LOOK_S, left_s))

    def at_end(self) -> bool:
        """Tell whether the last look found no further complete line."""
        return self._at_end

    def notes(self) -> list[str]:
        """Return, once, what a user should know."""
        notes, self._notes = self._notes, []
        return notes

    def position(self) -> dict[str, Any]:
        """Return the offset and what tells the file from others of its name."""
        return {"offset": self._offset, "head": self._head}

    def seek(self, position: Any) -> None:
        """Go on at an earlier position; a file that is another one starts at its beginning."""
        try:
            offset, head = position["offset"], position["head"]
        except (KeyError, TypeError) as error:
            raise SourceError(f"{self.path}: no position of a file: {position!r:.80}") from error
        if not isinstance(offset, int) or offset < 0 or not isinstance(head, str | None):
            raise SourceError(f"{self.path}: no position of a file: {position!r:.80}")
        self._offset, self._head = offset, head

    def seek_end(self) -> None:
        """Leave out the complete lines that are there already."""
        self._from_end = True

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> list[Record]:
        """Return what one look finds."""
        if self._file is None and not self._open():
            self._at_end = True
            return []
        assert self._file is not None
        self._notice_changes(self._file)
        self._file.seek(self._offset)
        data = self._file.read(READ_BYTES)
        end = data.rfind(b"\n") + 1
        if end:
            return self._lines(data[:end])
        if len(data) >= LINE_BYTES_MAX:
            return self._piece(data)
        if self._replaced(self._file):
            self._notes.append(f"{self.path} was replaced: going on with the new file")
            self.close()
            self._start()
            return self._read()
        self._at_end = True
        return []

    def _lines(self, data: bytes) -> list[Record]:
        """Hand out complete lines."""
        self._at_end = False
        records = []
        for line in _split(data):
            if line.strip() and not self._skipping:
                records.append(Record(line.rstrip(b"\r\n"), 0, self._offset))
            self._skipping = False
            self._offset += len(line)
        return records

    def _piece(self, data: bytes) -> list[Record]:
        """Hand out the start of a line that is too long, and leave out the rest of it."""
        self._at_end = False
        record = Record(data, 0, self._offset)
        self._offset += len(data)
        first, self._skipping = not self._skipping, True
        return [record] if first else []

    def _open(self) -> bool:
        """Open the file if it is there; go on where the state says if it is the same."""
        try:
            self._file = self.path.open("rb")
        except FileNotFoundError:
            return False
        if self._from_end:
            self._from_end = False
            self._offset = _end_of_lines(self._file)
            self._head = _head(self._file)
        elif self._head is not None and _head(self._file) != self._head:
            self._notes.append(f"{self.path} is another file than last time: reading all of it")
            self._start()
        return True

    def _start(self) -> None:
        self._offset, self._head, self._skipping = 0, None, False

    def _notice_changes(self, file: BinaryIO) -> None:
        """Go back where a file was cut, and to the start of one that was written anew."""
        size = os.fstat(file.fileno()).st_size
        if size < self._offset or not self._between_lines(file):
            same = self._head is not None and _head(file) == self._head
            at = max(0, size - REWIND_BYTES) if same else 0
            self._notes.append(f"{self.path} was cut before byte {self._offset}: reading it again")
            if not same:
                self._start()
            self._offset, self._skipping = _start_of_line(file, at), False
        elif self._head is None:
            self._head = _head(file)
        elif _head(file) != self._head:
            self._notes.append(f"{self.path} was written anew: reading all of it")
            self._start()

    def _between_lines(self, file: BinaryIO) -> bool:
        """Tell whether a line starts where we are; not so where the file was cut and regrown."""
        if self._offset == 0 or self._skipping:
            return True
        file.seek(self._offset - 1)
        return file.read(1) == b"\n"

    def _replaced(self, file: BinaryIO) -> bool:
        """Tell whether the name now leads to another file, and this one was read to its end."""
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        here = os.fstat(file.fileno())
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)


def _split(data: bytes) -> list[bytes]:
    """Return lines with their newlines; a carriage return alone ends none."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def _head(file: BinaryIO) -> str | None:
    """Return the digest of the first line, or of the start of a long one; None without one."""
    file.seek(0)
    data = file.read(_HEAD_BYTES)
    end = data.find(b"\n")
    if end < 0 and len(data) < _HEAD_BYTES:
        return None
    return hashlib.sha256(data if end < 0 else data[:end]).hexdigest()[:32]


def _start_of_line(file: BinaryIO, at: int) -> int:
    """Return where the first whole line at or after `at` starts; 0 is one."""
    if at == 0:
        return 0
    file.seek(at - 1)
    return at - 1 + len(file.readline())


def _end_of_lines(file: BinaryIO) -> int:
    """Return the end of the last complete line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - READ_BYTES)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
