"""What can be known of a tick log without reading it: where it starts and where it ends."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from dataflows.cli.failures import INPUT, Problem
from dataflows.connectors.ticklog import TickLogReader, open_stream, segments

_PROBE_LINES = 200
_TAIL_BYTES = 1 << 20
_READ_BYTES = 1 << 20
_UNPACK_BYTES_MAX = 16 << 20  # a larger compressed file is not unpacked just to see its end
_STAMP_DIGITS_MAX = 19
_EXCERPT_BYTES = 60


class LogSpan(NamedTuple):
    """Arrival of the first line and, where it is cheap to know, of the last; epoch ms."""

    first_ms: int
    last_ms: int | None


def log_span(path: Path) -> LogSpan:
    """Return where a log starts and ends. Raises `Problem` if it holds no line of a log."""
    if path.is_dir() and not segments(path):
        raise Problem(f"{path}: expected segments ticks-*.log of a tick log, found none", INPUT)
    with TickLogReader(path) as log:
        lines = log.read(_PROBE_LINES)
    first_ns = next(_stamps(lines), None)
    if first_ns is None:
        found = _excerpt(lines[0]) if lines else "no line"
        raise Problem(
            f"{path}: expected lines `<arrival_ns> <frame>` of a tick log, found {found};\n"
            "minute bars need --bars, and `alpha import` takes other recordings",
            INPUT,
        )
    last_ns = last_arrival_ns(path)
    return LogSpan(first_ns // 1_000_000, None if last_ns is None else last_ns // 1_000_000)


def last_arrival_ns(path: Path) -> int | None:
    """Return the stamp of a log's last line; None if there is none, or it would take long."""
    for file in reversed(segments(path)) if path.is_dir() else [path]:
        tail = _tail(file)
        if tail is None:
            return None
        newest = next(_stamps(reversed(tail.split(b"\n")[:-1])), None)
        if newest is not None:
            return newest
    return None


def size_of(path: Path) -> int:
    """Return the bytes a log takes on disk."""
    files = segments(path) if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _tail(path: Path) -> bytes | None:
    """Return the end of a file as it is when unpacked."""
    with path.open("rb") as file:
        packed = file.read(4)[:2] in (b"\x1f\x8b", b"\x28\xb5")
        size = file.seek(0, os.SEEK_END)
        if not packed:
            file.seek(max(0, size - _TAIL_BYTES))
            return file.read()
    return _unpacked_tail(path) if size <= _UNPACK_BYTES_MAX else None


def _unpacked_tail(path: Path) -> bytes:
    tail = b""
    with closing(open_stream(path)) as stream:
        while data := stream.read(_READ_BYTES):
            tail = (tail + data)[-_TAIL_BYTES:]
    return tail


def _stamps(lines: Iterable[bytes]) -> Iterator[int]:
    for line in lines:
        stamp, _, frame = line.partition(b" ")
        if stamp.isdigit() and len(stamp) <= _STAMP_DIGITS_MAX and frame:
            yield int(stamp)


def _excerpt(line: bytes) -> str:
    return repr(line[:_EXCERPT_BYTES].decode("utf-8", "replace"))
