"""Lines and cells of a recording, with everything that cannot be read counted by its reason.

Rules of this file: a file is read once, front to back, in bounded memory; a line is one record (a
quoted line break is not supported, so that one stray quote cannot swallow a file); a damaged file
gives what could be read before the damage. Nothing here knows what a trade is.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from io import BufferedIOBase
from operator import itemgetter
from pathlib import Path
from typing import cast

import msgspec
import zstandard

from dataflows.connectors.ticklog import LINE_BYTES_MAX, open_stream

_READ_BYTES = 1 << 18
_STAMPED = re.compile(rb"([0-9]{10,19}) (\{.*)")
_BOM = b"\xef\xbb\xbf"

BAD_NUMBER = "bad_number"
BAD_TIME = "bad_time"
BAD_LINE = "bad_line"
BAD_JSON = "bad_json"
DAMAGED_FILE = "damaged_file"
FIELD_COUNT = "field_count"
LINE_TOO_LONG = "line_too_long"
MISSING_FIELD = "missing_field"

Cells = tuple[str, ...]
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class ImportProblem(Exception):
    """Nothing was written; the message lists every fault with what was expected and found."""


class RowFault(Exception):
    """One row cannot be used; `reason` is the name it is counted under."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Tally:
    """Counts data lines read, and rows that were dropped by reason."""

    def __init__(self) -> None:
        self.lines = 0
        self.rejects: dict[str, int] = {}

    def reject(self, reason: str, rows: int = 1) -> None:
        """Count dropped rows."""
        self.rejects[reason] = self.rejects.get(reason, 0) + rows


class Probe(msgspec.Struct, frozen=True):
    """What the first data line says about a file.

    form : csv, ndjson (one object a line) or stamped (`<ns> <object>` lines).
    names : header columns, or the members of the first object.
    """

    form: str
    names: tuple[str, ...]


def probe(path: Path) -> Probe | None:
    """Look at the first line that is neither blank nor a `#` comment; None if there is none."""
    first = next(_content(path, Tally()), None)
    if first is None:
        return None
    stamped = _STAMPED.fullmatch(first)
    try:
        if stamped is not None:
            return Probe("stamped", tuple(_object.decode(stamped.group(2))))
        if first[:1] == b"{":
            return Probe("ndjson", tuple(_object.decode(first)))
        return Probe("csv", tuple(cell.strip() for cell in _cells(first)))
    except (msgspec.DecodeError, RowFault):
        return Probe("unknown", (repr(first[:60])[2:-1],))


def read_rows(
    path: Path, found: Probe, wanted: Sequence[str | None], tally: Tally
) -> Iterator[Cells]:
    """Yield the wanted cells of every row as stripped text, "" where a column is absent or null.

    JSON numbers keep the text they are written with.
    """
    if found.form == "csv":
        return _csv_rows(path, found.names, wanted, tally)
    return _json_rows(path, wanted, tally)


def read_objects(path: Path, tally: Tally) -> Iterator[dict[str, bytes]]:
    """Yield the members of every JSON line as the raw bytes of their values."""
    for line in _data(path, tally):
        try:
            yield {name: bytes(raw) for name, raw in _object.decode(line).items()}
        except msgspec.DecodeError:
            tally.reject(BAD_JSON)


def read_stamped(path: Path, tally: Tally) -> Iterator[tuple[str, bytes]]:
    """Yield (stamp, object) of every `<ns> <object>` line."""
    for line in _data(path, tally):
        match = _STAMPED.fullmatch(line)
        if match is None:
            tally.reject(BAD_LINE)
        else:
            yield match.group(1).decode(), match.group(2)


def text_of(raw: bytes) -> str:
    """Return a JSON value as text: strings unquoted, numbers as written, null as ""."""
    if raw[:1] == b'"':
        return msgspec.json.decode(raw, type=str)
    return "" if raw == b"null" else raw.decode()


def _csv_rows(
    path: Path, header: tuple[str, ...], wanted: Sequence[str | None], tally: Tally
) -> Iterator[Cells]:
    pick = cells_of(header, wanted)
    for line in csv_lines(path, tally):
        try:
            yield pick(line)
        except RowFault as fault:
            tally.reject(fault.reason)


def csv_lines(path: Path, tally: Tally) -> Iterator[bytes]:
    """Yield the lines of a CSV file below its header."""
    lines = _data(path, tally)
    if next(lines, None) is not None:
        tally.lines -= 1  # the header
    yield from lines


def cells_of(header: tuple[str, ...], wanted: Sequence[str | None]) -> Callable[[bytes], Cells]:
    """Return what gives the wanted cells of a line, as `read_rows`; it raises RowFault."""
    pick = _picker([header.index(name) if name in header else len(header) for name in wanted])

    def read(line: bytes) -> Cells:
        cells = _cells(line)
        if len(cells) != len(header):
            raise RowFault(FIELD_COUNT)
        cells.append("")
        return tuple(map(str.strip, pick(cells)))

    return read


def _picker(indices: list[int]) -> Callable[[list[str]], tuple[str, ...]]:
    if len(indices) == 1:
        return lambda cells: (cells[indices[0]],)
    return itemgetter(*indices)


def _json_rows(path: Path, wanted: Sequence[str | None], tally: Tally) -> Iterator[Cells]:
    for members in read_objects(path, tally):
        try:
            row = tuple(text_of(members.get(name or "", b"null")).strip() for name in wanted)
        except (msgspec.DecodeError, UnicodeDecodeError):
            tally.reject(BAD_JSON)
            continue
        yield row


def _cells(line: bytes) -> list[str]:
    try:
        text = line.decode()
        return next(csv.reader([text])) if '"' in text else text.split(",")
    except (UnicodeDecodeError, csv.Error):
        raise RowFault(BAD_LINE) from None


def _data(path: Path, tally: Tally) -> Iterator[bytes]:
    for line in _content(path, tally):
        tally.lines += 1
        yield line


def _content(path: Path, tally: Tally) -> Iterator[bytes]:
    for line in _lines(path, tally):
        stripped = line.strip()
        if stripped and stripped[:1] != b"#":
            yield stripped


def _lines(path: Path, tally: Tally) -> Iterator[bytes]:
    """Yield lines of a plain, gzip or zstd file; at most one line and one read are in memory."""
    tail, start, skipping = b"", True, False
    try:
        for data in _chunks(path):
            block = tail + data
            if start:
                block, start = block.removeprefix(_BOM), False
            *lines, tail = block.split(b"\n")
            if skipping and lines:
                lines, skipping = lines[1:], False
            yield from lines
            if skipping or len(tail) > LINE_BYTES_MAX:
                if not skipping:
                    tally.reject(LINE_TOO_LONG)
                tail, skipping = b"", True
    except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError):
        tally.reject(DAMAGED_FILE)
        return  # the line that was cut off is not one
    if tail:
        yield tail


def _chunks(path: Path) -> Iterator[bytes]:
    """Yield what each decompression gives; `read` would lose the data before a damaged place."""
    with cast(BufferedIOBase, open_stream(path)) as stream:
        while data := stream.read1(_READ_BYTES):
            yield data
