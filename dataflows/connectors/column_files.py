"""Parts of a columnar cache: the ticks of an hour as Arrow IPC files, true columns each.

Rules of this file: what is read is what was written, to the bit (a number that was not there is
NaN, as in operators/layout.py); rows stand in the order (stretch, asset, arrival); a file is named
after the digest of its bytes and never changed, so two caches never mix; nothing here is done tick
by tick. numpy and pyarrow are loaded when a cache is met, not before.  Decision 16.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from operators.feed import Item
from operators.layout import BOOK, CONTEXT, LEVELS, QUOTE, TRADE
from operators.records import Asset, Boundary, Feed, Phase, Ticks
from operators.sharding import Share

NO_READER = (
    "the columnar cache needs the packages numpy and pyarrow:"
    " run `pip install 'alpha-detector[columnar]'`"
)
CLOSINGS = "closings"
BARS = "bars"  # dataflows/connectors/column_bars.py
INDEX = "index"
CODEC = "lz4"  # its files are a third larger than zstd's, and open in more programs

_WIDTH = 8  # bytes of every field of a record
_BATCH_ROWS = 1 << 16  # of a file that are unpacked at a time
_BLOCK_ROWS = 1024  # records that are put together at a time: they stay in the processor's cache
_SIDES = [f"{side}_{what}_{n}" for side in ("bid", "ask") for n in range(1, LEVELS + 1)
          for what in ("px", "sz")]  # fmt: skip
_FIELDS: dict[str, tuple[list[str], str, int]] = {
    "trades": (["arrival_ns", "time_ms", "px", "sz", "is_buy", "tid"], "qqddqq", TRADE.size),
    "quotes": (
        ["arrival_ns", "time_ms", "bid_px", "bid_sz", "ask_px", "ask_sz"],
        "qqdddd",
        QUOTE.size,
    ),
    "books": (["arrival_ns", "time_ms", *_SIDES], "qq" + 20 * "d", BOOK.size),
    "contexts": (
        ["arrival_ns", "open_interest_base", "mark_px", "oracle_px", "funding_rate"],
        "qdddd",
        CONTEXT.size,
    ),
}
KINDS = tuple(_FIELDS)
FOLDERS = (*KINDS, INDEX, CLOSINGS, BARS)


class ColumnsError(Exception):
    """A cache cannot be written or read; the message says what to do."""


class File(msgspec.Struct, frozen=True):
    """A file of a cache: path below its directory, bytes, digest."""

    path: str
    size: int
    sha256: str


class Part(msgspec.Struct, frozen=True):
    """What is cut off at closings: at most what arrived in one hour.

    hour_ms : of the arrival clock, when the part begins. number : of the part within the hour.
    shards : files by kind, for each shard. ticks : records of all kinds.
    """

    hour_ms: int
    number: int
    stretches: int
    ticks: int
    closings: File
    shards: list[dict[str, File]]

    def files(self) -> Iterator[File]:
        """Yield its files, but that of bars."""
        yield self.closings
        for shard in self.shards:
            yield from shard.values()


class Closing(msgspec.Struct, frozen=True, array_like=True):
    """A closing of a minute for the assets of a roster; `roster` counts those of the part."""

    phase: Phase
    feed: Feed
    roster: int


class Stretch(msgspec.Struct):
    """All that arrived between two closings, by asset, and the closings that end it."""

    ticks: dict[int, Ticks] = {}
    closings: list[Closing] = []


class Content(msgspec.Struct):
    """A part in memory."""

    stretches: list[Stretch] = []
    rosters: list[list[Asset]] = []


class _Closings(msgspec.Struct, frozen=True):
    rosters: list[list[Asset]]
    closings: list[list[Closing]]


def count_of(ticks: Ticks) -> int:
    """Return how many records of all kinds there are."""
    return sum(len(getattr(ticks, kind)) // _FIELDS[kind][2] for kind in KINDS)


def libraries() -> tuple[Any, Any]:
    """Return numpy and pyarrow, untyped as they come; raises `ColumnsError` without them."""
    try:
        import_module("pyarrow.ipc")
        return import_module("numpy"), import_module("pyarrow")
    except ImportError as error:
        raise ColumnsError(NO_READER) from error


# --- writing ---------------------------------------------------------------------------------


def write_part(directory: Path, hour_ms: int, number: int, shards: int, content: Content) -> Part:
    """Write the files of a part, each whole and forced to disk before it has its name."""
    label = label_of(hour_ms, number)
    files: list[dict[str, File]] = []
    ticks = 0
    for index in range(shards):
        share = Share(index, shards)
        rows = [
            (at, uid, stretch.ticks[uid])
            for at, stretch in enumerate(content.stretches)
            for uid in sorted(stretch.ticks)
            if share.holds(uid)
        ]
        stem = f"{label}-{index}of{shards}"
        made = {INDEX: write_file(directory, INDEX, stem, "arrow", _index(rows))} if rows else {}
        for kind in KINDS:
            records = b"".join([getattr(tick, kind) for _, _, tick in rows])
            if records:
                ticks += len(records) // _FIELDS[kind][2]
                made[kind] = write_file(directory, kind, stem, "arrow", _table(kind, records, rows))
        files.append(made)
    closings = _Closings(content.rosters, [stretch.closings for stretch in content.stretches])
    packed = msgspec.msgpack.encode(closings)
    file = write_file(directory, CLOSINGS, label, "msgpack", packed)
    return Part(hour_ms, number, len(content.stretches), ticks, file, files)


def label_of(hour_ms: int, number: int) -> str:
    """Return the name of a part.

    >>> label_of(1_790_002_800_000, 1)
    '20260921T15-01'
    """
    return datetime.fromtimestamp(hour_ms / 1000, UTC).strftime("%Y%m%dT%H") + f"-{number:02d}"


def temporary_of(path: Path) -> Path:
    """Return the name of a file while it is written; pyarrow's datasets pass over a leading dot.

    >>> temporary_of(Path("trades/a.arrow")).as_posix()
    'trades/.a.arrow.tmp'
    """
    return path.with_name(f".{path.name}.tmp")


def write_whole(path: Path, data: Any) -> None:
    """Put a file in place so that it is there whole or not at all, also after a power cut."""
    beside = temporary_of(path)
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_file(directory: Path, folder: str, stem: str, suffix: str, data: Any) -> File:
    """Write a file of a cache under a name with its digest."""
    digest = hashlib.sha256(data).hexdigest()
    path = directory / folder / f"{stem}-{digest[:12]}.{suffix}"
    path.parent.mkdir(exist_ok=True)
    write_whole(path, data)
    return File(f"{folder}/{path.name}", len(data), digest)


def _index(rows: list[tuple[int, int, Ticks]]) -> Any:
    """Return the table of who has how many records in which stretch."""
    _, arrow = libraries()
    columns = {
        "stretch": arrow.array([at for at, _, _ in rows], arrow.int32()),
        "asset_uid": arrow.array([uid for _, uid, _ in rows], arrow.int64()),
    }
    for kind in KINDS:
        size = _FIELDS[kind][2]
        counts = [len(getattr(tick, kind)) // size for _, _, tick in rows]
        columns[kind] = arrow.array(counts, arrow.int32())
    rejects = [_reject_text(tick.rejects) for _, _, tick in rows]
    columns["rejects"] = arrow.array(rejects, arrow.string())
    return _file(arrow, columns)


def _reject_text(rejects: dict[str, int]) -> str | None:
    if not rejects:
        return None
    return msgspec.json.encode(rejects, order="sorted").decode()


def _table(kind: str, records: bytes, rows: list[tuple[int, int, Ticks]]) -> Any:
    """Return the records of a kind as columns, each with its asset."""
    numpy, arrow = libraries()
    names, types, size = _FIELDS[kind]
    uids = numpy.array([uid for _, uid, _ in rows], "<i8")
    counts = [len(getattr(tick, kind)) // size for _, _, tick in rows]
    columns = {"asset_uid": arrow.array(numpy.repeat(uids, counts))}
    fields = numpy.frombuffer(records, "<i8").reshape(-1, size // _WIDTH)
    for at, (name, letter) in enumerate(zip(names, types, strict=True)):
        column = numpy.ascontiguousarray(fields[:, at])
        if name == "is_buy":
            column = column.astype(bool)
        columns[name] = arrow.array(column.view("<f8") if letter == "d" else column)
    return _file(arrow, columns)


def _file(arrow: Any, columns: dict[str, Any]) -> Any:
    table = arrow.table(columns)
    sink = arrow.BufferOutputStream()
    options = arrow.ipc.IpcWriteOptions(compression=CODEC, use_threads=False)
    with arrow.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=_BATCH_ROWS)
    return memoryview(sink.getvalue())


# --- reading ---------------------------------------------------------------------------------


def read_part(directory: Path, part: Part) -> Iterator[list[Item]]:
    """Yield the items of each stretch, by asset, and of the closings that end it: what a reader of
    the log makes of the same lines (operators/feed.py). The files are to have been checked."""
    edges = msgspec.msgpack.decode(bytes_of(directory, part.closings), type=_Closings)
    shards = [_Shard(directory, files) for files in part.shards if files]
    for at, closings in enumerate(edges.closings):
        items: list[Item] = []
        for shard in shards:
            shard.add(at, items)
        if len(shards) > 1:
            items.sort(key=_uid_of)
        yield items + _boundaries(closings, edges.rosters)


def items_of(content: Content) -> Iterator[list[Item]]:
    """Yield the same of a part that is still in memory."""
    for stretch in content.stretches:
        yield sorted(stretch.ticks.items()) + _boundaries(stretch.closings, content.rosters)


def _boundaries(closings: list[Closing], rosters: list[list[Asset]]) -> list[Item]:
    return [
        (asset.asset_uid, Boundary(closing.phase, asset, closing.feed))
        for closing in closings
        for asset in rosters[closing.roster]
    ]


def _uid_of(item: Item) -> int:
    return item[0]


class _Shard:
    """The records of a part's shard, handed out stretch by stretch."""

    def __init__(self, directory: Path, files: dict[str, File]) -> None:
        numpy, arrow = libraries()
        index = arrow.ipc.open_file(bytes_of(directory, files[INDEX])).read_all()
        self._records: list[memoryview] = []
        self._ends: list[list[int]] = []  # of the records of each row of the index, by kind
        for kind in KINDS:
            counts = index.column(kind).to_numpy()
            records = memoryview(b"")
            if kind in files:
                data = bytes_of(directory, files[kind])
                records = _records(numpy, arrow, kind, data, int(counts.sum()))
            self._records.append(records)
            self._ends.append([0, *(counts.cumsum() * _FIELDS[kind][2]).tolist()])
        self._stretches = [*index.column("stretch").to_pylist(), -1]
        self._uids = index.column("asset_uid").to_pylist()
        self._rejects = index.column("rejects").to_pylist()
        self._row = 0

    def add(self, stretch: int, items: list[Item]) -> None:
        """Add the ticks of the next stretch."""
        trades, quotes, books, contexts = self._records
        ends_t, ends_q, ends_b, ends_c = self._ends
        row = self._row
        while self._stretches[row] == stretch:
            after, rejects = row + 1, self._rejects[row]
            ticks = Ticks(
                bytearray(trades[ends_t[row] : ends_t[after]]),
                bytearray(quotes[ends_q[row] : ends_q[after]]),
                bytearray(books[ends_b[row] : ends_b[after]]),
                bytearray(contexts[ends_c[row] : ends_c[after]]),
                {} if rejects is None else msgspec.json.decode(rejects, type=dict[str, int]),
            )
            items.append((self._uids[row], ticks))
            row = after
        self._row = row


def _records(numpy: Any, arrow: Any, kind: str, data: bytes, rows: int) -> memoryview:
    """Return the columns of a kind as records, one after the other."""
    names, _, size = _FIELDS[kind]
    file = _open(arrow, data, names)
    records = numpy.empty((rows, size // _WIDTH), "<i8")
    start = 0
    for number in range(file.num_record_batches):
        batch = file.get_batch(number)
        columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in names]
        columns = [c if c.dtype == bool else c.view("<i8") for c in columns]
        for row in range(0, batch.num_rows, _BLOCK_ROWS):
            block = records[start + row : start + min(row + _BLOCK_ROWS, batch.num_rows)]
            for at, column in enumerate(columns):
                block[:, at] = column[row : row + _BLOCK_ROWS]
        start += batch.num_rows
    return memoryview(records.reshape(-1).view("u1"))


def _open(arrow: Any, data: bytes, names: list[str]) -> Any:
    """Open a file for its named columns; the others are not unpacked."""
    schema = arrow.ipc.open_file(data).schema
    wanted = [schema.get_field_index(name) for name in names]
    options = arrow.ipc.IpcReadOptions(use_threads=False, included_fields=wanted)
    return arrow.ipc.open_file(data, options=options)


def bytes_of(directory: Path, file: File) -> bytes:
    """Return what is in a file of a cache; raises `ColumnsError` if it is gone."""
    try:
        return (directory / file.path).read_bytes()
    except FileNotFoundError as error:
        raise ColumnsError(
            f"{directory / file.path}: gone: the cache was made anew while it was read; run again"
        ) from error
