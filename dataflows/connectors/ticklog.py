"""The tick log: append-only `<arrival_ns> <raw frame>` lines, and the only input of the flow.

Rules of this file: a writer never reopens a segment, so whatever a crash left behind stays what it
is; a rotated segment becomes a zstd piece of the same name; a line counts only once its newline is
there; a position is (segment, byte offset in the uncompressed segment) and always points at the
start of a line. Design 2.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from threading import Thread
from typing import BinaryIO, Protocol

import msgspec
import zstandard

SEGMENT_BYTES_MAX = 64 << 20
LINE_BYTES_MAX = 8 << 20  # the largest real frame is 0.1 MB; a longer line is skipped and counted
RELIST_POLLS = 100
_READ_BYTES = 1 << 18
_FEW_BYTES = 4096
_ZSTD_LEVEL = 1
_SEGMENT = re.compile(r"ticks-(\d{13})-(\d{6})\.log(?:\.zst)?$")

FRAME_TOO_LARGE = "frame_too_large"
TORN_LINE = "torn_line"
CORRUPT_SEGMENT = "corrupt_segment"


class LogError(Exception):
    """The log cannot be opened; the message says what was expected and what was found."""


class Position(msgspec.Struct, frozen=True):
    """Start of the next unread line: segment name without `.zst`, offset in uncompressed bytes."""

    segment: str = ""
    offset: int = 0


class ByteStream(Protocol):
    """What reading needs of a plain, gzip or zstd file."""

    def read(self, size: int, /) -> bytes: ...

    def read1(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


# --- writing ---------------------------------------------------------------------------------


class TickLogWriter:
    """Appends lines to the open segment of a directory and rotates it into a zstd piece.

    Not thread-safe: one writer per directory, owned by one thread. `append` reaches the operating
    system at once (the reader of a live flow follows the file); `sync` makes it durable.
    """

    def __init__(self, directory: Path, *, segment_bytes_max: int = SEGMENT_BYTES_MAX) -> None:
        self._directory = directory
        self._segment_bytes_max = segment_bytes_max
        directory.mkdir(parents=True, exist_ok=True)
        self._sequence = 1 + max((_sequence_of(p) for p in _segments(directory)), default=0)
        self._file: BinaryIO | None = None
        self._path = directory
        self._size = 0
        self._compressing: Thread | None = None
        for left_behind in _segments(directory):
            if left_behind.suffix == ".log":
                _compress(left_behind)

    def append(self, arrival_ns: int, frame: bytes) -> None:
        """Write one line; newlines inside a frame would break the format and become spaces."""
        if b"\n" in frame:
            frame = frame.replace(b"\n", b" ")
        self.write_lines(arrival_ns, b"%d %b\n" % (arrival_ns, frame))

    def write_lines(self, first_arrival_ns: int, lines: bytes) -> None:
        """Write complete lines that are already in the log's format."""
        if self._file is None or self._size >= self._segment_bytes_max:
            self._rotate(first_arrival_ns)
        assert self._file is not None
        self._file.write(lines)
        self._size += len(lines)

    def sync(self) -> None:
        """Force what was written to stable storage."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the open segment as it is; the next writer compresses it."""
        self._close_segment()
        self._wait_for_compression()

    def _close_segment(self) -> None:
        if self._file is not None:
            self.sync()
            self._file.close()
            self._file = None

    def _wait_for_compression(self) -> None:
        if self._compressing is not None:
            self._compressing.join()
            self._compressing = None

    def _rotate(self, first_arrival_ns: int) -> None:
        full = self._path if self._file is not None else None
        self._close_segment()
        name = f"ticks-{first_arrival_ns // 1_000_000:013d}-{self._sequence:06d}.log"
        self._path = self._directory / name
        self._sequence += 1
        self._file = self._path.open("xb", buffering=0)
        self._size = 0
        if full is not None:  # beside the writer: compressing must not delay the next stamps
            self._wait_for_compression()
            self._compressing = Thread(target=_compress, args=(full,), name="compress")
            self._compressing.start()


def _compress(path: Path) -> None:
    """Replace a closed segment by its zstd piece; a crash in between leaves the plain file."""
    piece = path.with_name(path.name + ".zst")
    partial = path.with_name(path.name + ".zst.tmp")
    with path.open("rb") as source, partial.open("wb") as target:
        zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).copy_stream(source, target)
        target.flush()
        os.fsync(target.fileno())
    partial.replace(piece)
    path.unlink()


# --- reading ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    """The segment being read and its bytes that are not yet a complete line."""

    name: str
    stream: ByteStream
    tail: bytes = b""
    offset: int = 0  # of the first byte of `tail`
    skipped: int = 0  # bytes already dropped of a line that is too long, 0 outside one
    damaged: bool = False


class TickLogReader:
    """Reads complete lines from a log: a directory of segments, or one plain, gzip or zstd file.

    `on_reject(reason)` is told of every line that could not be delivered. `read` never waits: at
    the end of a log that is still being written it returns an empty list and later goes on.
    last : segment of a directory after which the log ends, whatever else there is.
    """

    def __init__(
        self,
        path: Path,
        position: Position | None = None,
        *,
        on_reject: Callable[[str], None] = lambda reason: None,
        follow: bool = False,
        last: str | None = None,
    ) -> None:
        if not path.exists() and not follow:
            raise LogError(f"{path}: expected a tick log (file or directory), found nothing")
        self._path = path
        self._on_reject = on_reject
        self._follow = follow
        self._last = last
        self._listed_ns = 0
        self._polls = 0
        self._open: _Open | None = None
        if position is not None and position.segment:
            self._open = self._open_segment(position.segment)
            _skip(self._open, position.offset)

    @property
    def position(self) -> Position:
        """Where the next unread line starts."""
        if self._open is None:
            return Position()
        return Position(self._open.name, self._open.offset)

    def read(self, lines_max: int) -> list[bytes]:
        """Return up to `lines_max` lines without newline; empty means nothing more for now."""
        return self.read_block(lines_max).split(b"\n")[:-1]

    def read_block(self, lines_max: int) -> bytes:
        """Return up to `lines_max` lines with their newlines; empty means nothing more for now."""
        blocks: list[bytes] = []
        left = lines_max
        while left:
            if self._open is None and not self._next_segment():
                break
            assert self._open is not None
            block, count = self._take(self._open, left)
            if block:
                blocks.append(block)
                left -= count
            elif not self._fill(self._open) and not self._finish_segment():
                break
        return b"".join(blocks)

    def close(self) -> None:
        """Release the file that is open."""
        if self._open is not None:
            self._open.stream.close()

    def __enter__(self) -> TickLogReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _take(self, segment: _Open, lines_max: int) -> tuple[bytes, int]:
        """Cut complete lines off the tail; drop what belongs to a line that is too long.

        Return the lines and how many they are.
        """
        if segment.skipped and not self._leave_long_line(segment):
            return b"", 0
        tail = segment.tail
        end = tail.rfind(b"\n") + 1
        count = tail.count(b"\n", 0, end)
        if count > lines_max:
            end, count = _end_of_lines(tail, lines_max), lines_max
        block, segment.tail = tail[:end], tail[end:]
        segment.offset += end
        if len(segment.tail) > LINE_BYTES_MAX and b"\n" not in segment.tail:
            segment.skipped = len(segment.tail)
            segment.tail = b""
        if len(block) <= LINE_BYTES_MAX:
            return block, count
        lines = [line + b"\n" for line in block.split(b"\n")[:-1]]
        kept = [line for line in lines if len(line) <= LINE_BYTES_MAX + 1]
        for _ in range(len(lines) - len(kept)):
            self._on_reject(FRAME_TOO_LARGE)
        return (b"".join(kept), len(kept)) if kept else self._take(segment, lines_max)

    def _leave_long_line(self, segment: _Open) -> bool:
        """Drop bytes up to the end of a line that is too long; the offset stays at its start."""
        end = segment.tail.find(b"\n")
        if end < 0:
            segment.skipped += len(segment.tail)
            segment.tail = b""
            return False
        segment.offset += segment.skipped + end + 1
        segment.tail = segment.tail[end + 1 :]
        segment.skipped = 0
        self._on_reject(FRAME_TOO_LARGE)
        return True

    def _fill(self, segment: _Open) -> bool:
        if segment.damaged:
            return False
        try:
            # read1: read would lose what it had decompressed when it meets the damage.
            data = segment.stream.read1(_READ_BYTES)
        except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError):
            # What could be decompressed before the damage was delivered.
            segment.damaged = True
            self._on_reject(CORRUPT_SEGMENT)
            return False
        segment.tail += data
        return bool(data)

    def _finish_segment(self) -> bool:
        """Leave the segment when a newer one exists; a tail without newline is then torn."""
        assert self._open is not None
        if not self._path.is_dir():
            if not self._follow:
                self._drop_torn_tail(self._open)
            return False
        if self._follow and self._is_unchanged():
            return False
        following = self._name_after(self._open.name)
        if following is None:
            return False
        self._listed_ns = 0
        # The writer may have appended between our last read and its rotation.
        if self._fill(self._open):
            return True
        self._drop_torn_tail(self._open)
        if self._last is not None and _order_of(self._open.name) >= _order_of(self._last):
            return False
        self._open.stream.close()
        self._open = self._open_segment(following)
        return True

    def _is_unchanged(self) -> bool:
        """Tell whether the directory can be taken as it was when no newer segment was in it.

        A live flow asks a thousand times a second; listing months of segments each time would
        cost more than the flow. The time of change is coarse, so every now and then it is listed
        all the same.
        """
        changed_ns = self._path.stat().st_mtime_ns
        self._polls += 1
        if changed_ns == self._listed_ns and self._polls % RELIST_POLLS:
            return True
        self._listed_ns = changed_ns
        return False

    def _drop_torn_tail(self, segment: _Open) -> None:
        left = len(segment.tail) + segment.skipped
        if left:
            self._on_reject(TORN_LINE)
            segment.offset += left
            segment.tail, segment.skipped = b"", 0

    def _next_segment(self) -> bool:
        if not self._path.exists():
            return False
        if not self._path.is_dir():
            self._open = self._open_segment(self._path.name)
            return True
        first = self._name_after("")
        if first is None:
            return False
        self._open = self._open_segment(first)
        return True

    def _name_after(self, name: str) -> str | None:
        names = _names(self._path)
        return next((n for n in names if not name or _order_of(n) > _order_of(name)), None)

    def _open_segment(self, name: str) -> _Open:
        if not self._path.is_dir():
            return _Open(name, open_stream(self._path))
        plain = self._path / name
        try:
            return _Open(name, plain.open("rb"))
        except FileNotFoundError:
            pass
        piece = plain.with_name(name + ".zst")
        if not piece.exists():
            raise LogError(f"{self._path}: expected segment {name}, found it gone")
        return _Open(name, open_stream(piece))


def segments(directory: Path) -> list[Path]:
    """Return the segments of a log in their order; of a segment and its piece, the segment."""
    found = {plain_name(path): path for path in sorted(_segments(directory), reverse=True)}
    return [found[name] for name in sorted(found, key=_order_of)]


def newest_position(directory: Path) -> Position:
    """Return the start of the newest segment of a log, where a recorder began last."""
    names = _names(directory)
    return Position(names[-1], 0) if names else Position()


def position_before(path: Path, time_ms: int) -> Position:
    """Return the start of the newest segment that begins before an arrival; of a file, its start.

    A segment's name carries its first arrival.
    """
    names = _names(path) if path.is_dir() else []
    earlier = [name for name in names if int(name.split("-")[1]) < time_ms]
    return Position(earlier[-1], 0) if earlier else Position()


def segments_before(directory: Path, name: str) -> list[Path]:
    """Return the files of the segments before one of a directory, in their order."""
    return [path for path in segments(directory) if _order_of(path.name) < _order_of(name)]


def open_stream(path: Path) -> ByteStream:
    """Open a plain, gzip or zstd file for reading, told apart by its first bytes."""
    with path.open("rb") as probe:
        magic = probe.read(4)
    if magic[:2] == b"\x1f\x8b":
        return gzip.open(path, "rb")
    if magic == b"\x28\xb5\x2f\xfd":
        return zstandard.ZstdDecompressor().stream_reader(
            path.open("rb"), read_across_frames=True, closefd=True
        )
    return path.open("rb")


def _end_of_lines(data: bytes, lines: int) -> int:
    """Return where that many lines end; there are more of them."""
    start, end = 0, len(data)
    while end - start > _FEW_BYTES:  # the bytes are counted twice at most, not cut into lines
        middle = (start + end) // 2
        before = data.count(b"\n", start, middle)
        if before >= lines:
            end = middle
        else:
            start, lines = middle, lines - before
    for _ in range(lines):
        start = data.index(b"\n", start) + 1
    return start


def _skip(segment: _Open, offset: int) -> None:
    """Advance a fresh segment to an offset of its uncompressed bytes."""
    if isinstance(segment.stream, BufferedReader):
        segment.stream.seek(offset)
    else:
        left = offset
        while left and (data := segment.stream.read1(min(left, _READ_BYTES))):
            left -= len(data)
    segment.offset = offset


def _segments(directory: Path) -> list[Path]:
    return [p for p in directory.iterdir() if _SEGMENT.search(p.name)]


def _names(directory: Path) -> list[str]:
    """Return the names of the segments in their order."""
    return [plain_name(path) for path in segments(directory)]


def plain_name(path: Path) -> str:
    """Return the name of a segment, also of one that was packed, as positions have it."""
    return path.name.removesuffix(".zst")


def _order_of(name: str) -> int:
    match = _SEGMENT.search(name)
    assert match is not None, name
    return int(match.group(2))


def _sequence_of(path: Path) -> int:
    return _order_of(path.name)
