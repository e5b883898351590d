"""The rows of a replay as columns, and what of the join depends on no detector.

    OUT/rows.ndjson -> OUT/.trial/: rows.arrow (a column per name of the pack), phases.msgpack

Rules of this file: it is made from the rows and can be thrown away; it is never the truth: rows
that matter are read from their own line again. It belongs to one digest of the rows, one feature
pack, one universe policy and one text of the program, and is read only if its files are those that
were written; else one sentence says why, and it is made anew. A file of the same size and time of
change is taken to be the same without reading it. One process at a time is at it.  Design 3.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache, reduce
from importlib import import_module
from importlib.resources import files
from itertools import groupby
from operator import or_
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson

from dataflows.connectors.column_files import File
from dataflows.connectors.columns import digest_of_texts, sha256_of
from operators import activity
from operators.context import LEADER_WINDOW_MIN, Context
from operators.context_state import ContextState
from operators.events import WINDOW_SEC
from operators.expressions import ColumnType
from operators.lattice import MINUTE_MS, iso
from operators.publish import frame_json
from operators.records import Columns, MarketPhase, Phase, Row, RowItem, RowItems
from operators.rotation import STEP_MS
from packs.loader import Packs
from packs.schema import COLUMN_TYPES, DEFAULT_TIER, MINUTE_TF, TIMEFRAMES, FeaturePack

FOLDER = ".trial"
ROWS = "rows.ndjson"
BATCH_ROWS = 20_000  # in memory while it is made, some 100 MB
READ_BYTES = 1 << 20  # of the rows at a time; by default three lines fill a read
IDENTITY = ("asset_uid", "symbol", "tf", "exchange_ts", "revision", "extras")
NO_READER = "a trial needs the package pyarrow: run `pip install pyarrow`"
# Columns of ours beside those of the pack; no pack can name one so.
UID, TF, OFFSET, VOLUME, STRENGTH = "<uid>", "<tf>", "<offset>", "<volume>", "<strength>"
_UNSEEN = ("flag", "membership")  # families that are not known before the join
_STAMP, _COLUMNS, _PHASES = "stamp.json", "rows.arrow", "phases.msgpack"
_FILES = (_COLUMNS, _PHASES)
# The text that makes a table: all that the join may run. A table of another text is made anew.
_PACKAGES = ("operators", "operators.formulas", "packs")
_SUFFIXES = (".py", ".pyx", ".pxd", ".pxi")
# What a row says, whatever the pack; a column of the pack may be NULL, but for `_NEVER_NULL`.
_Count = Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)]
_IDENTITY = {
    "asset_uid": Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)],
    "symbol": str,
    "exchange_ts": Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:00Z$")],
    "revision": _Count,
    "extras": dict[str, Any],
    "ingest_lag_ms": _Count,
}
_TYPES = {ColumnType.NUMBER: float, ColumnType.BOOLEAN: bool, ColumnType.TEXT: str}
_NEVER_NULL = ("dq_status", "rs_score_m_5")  # of what the join reads


class TableError(Exception):
    """The rows cannot be used; the message says why."""


class Entry(msgspec.Struct, array_like=True):
    """A phase with rows: the places of its rows, and what it says whatever is detected.

    frame : line of the 1m frame of a sealed minute, as if nothing was found. members, tiers : as
    they are from this phase on, None where nothing changed; tiers only those that are not the
    default.
    """

    minute_ms: int
    final: bool
    clock_ms: int
    first: int
    count: int
    frame: bytes = b""
    revision: int = 0
    members: list[int] | None = None
    tiers: dict[int, str] | None = None


class Seen(File, frozen=True):
    """A file as it was when it was read. mtime_ns : time of its last change."""

    mtime_ns: int


class Stamp(msgspec.Struct, frozen=True):
    """What a table was made of, and its files. program, features, universe : digests."""

    program: str
    features: str
    universe: str
    rows: Seen
    files: list[Seen] = []


class RowsTable:
    """An open table. phases : in order. column : by name of the pack, or of ours."""

    def __init__(self, folder: Path, arrow: Any) -> None:
        decode = msgspec.msgpack.Decoder(list[Entry]).decode
        self.phases = decode((folder / _PHASES).read_bytes())
        self._arrow = arrow
        self._mapped = arrow.memory_map(str(folder / _COLUMNS))
        self._table = arrow.ipc.open_file(self._mapped).read_all()
        self.names = frozenset(self._table.column_names)
        self._combined: dict[str, Any] = {}

    def column(self, name: str) -> Any:
        """Return a column as one array of Arrow."""
        if name not in self._combined:
            chunks = self._table.column(name)
            self._combined[name] = chunks.combine_chunks()
        return self._combined[name]

    def values(self, name: str, first: int, count: int) -> list[Any]:
        """Return some values of a column, None for NULL."""
        found: list[Any] = self.column(name).slice(first, count).to_pylist()
        return found


def arrow_of() -> Any:
    """Return pyarrow with what is used of it; it takes long to load, so not before it is used."""
    try:
        arrow = import_module("pyarrow")
        import_module("pyarrow.ipc")
        import_module("pyarrow.compute")
    except ModuleNotFoundError as error:
        raise TableError(NO_READER) from error
    return arrow


def table_of(
    directory: Path,
    packs: Packs,
    digests: tuple[str, str],
    sha256: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> RowsTable:
    """Return the table of a replay's directory, made now if there is none that fits.

    digests : of the feature pack and the universe policy. sha256 : that the rows must have, None if
    that is not known. on_progress : is told minutes, epoch ms, and how many rows were read since.
    say : is told in a sentence why a table is not used, and what is waited for. Raises TableError
    for rows that cannot be used.
    """
    arrow, folder, rows = arrow_of(), directory / FOLDER, directory / ROWS
    if not rows.is_file() or not rows.stat().st_size:
        raise TableError(f"{directory}: expected the output of `alpha replay`, found no rows in it")
    say = say or _say_nothing
    with _alone(directory, say):
        known = _stamp_of(folder)
        wanted = Stamp(program(), *digests, _rows_seen(rows, known, sha256))
        found = _looked_at(folder, known, wanted)
        if not isinstance(found, Stamp):
            if found:
                say(f"{folder}: not used: {found}; it is made anew")
            maker = _Maker(packs, arrow, rows, known_good=sha256 is not None)
            _make(folder, wanted, maker, on_progress)
        elif found != known:  # times of change alone
            _save(folder, found)
        return RowsTable(folder, arrow)


@cache
def program() -> str:
    """Return the digest of the text that makes a table of rows."""
    texts: dict[str, list[str]] = {"dataflows.connectors": ["rows_table.py"]}
    for package in _PACKAGES:
        names = [file.name for file in files(package).iterdir()]
        texts[package] = sorted(name for name in names if name.endswith(_SUFFIXES))
    return digest_of_texts(texts)


def _say_nothing(line: str) -> None:
    """Take a sentence that nobody asked for."""


@contextmanager
def _alone(directory: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other process is at a table; the lock ends with its process, however that ends,
    and what it had not finished has no stamp."""
    lock = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{directory / FOLDER}: waiting for another trial that makes or checks it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _rows_seen(rows: Path, known: Stamp | None, sha256: str | None) -> Seen:
    """Return what the rows are; raise if they are not those that are wanted."""
    found = _seen(rows, None if known is None else known.rows)
    if sha256 not in (None, found.sha256):
        raise TableError(
            f"{rows}: expected the rows of their replay, SHA-256 {sha256}, found {found.sha256}:"
            " rows that were changed, or of another replay; replay once more"
        )
    return found


def _seen(path: Path, known: Seen | None) -> Seen:
    """Return what a file is, without reading it where size and time of change are those known."""
    state = path.stat()
    if known is not None and (known.size, known.mtime_ns) == (state.st_size, state.st_mtime_ns):
        return known
    return Seen(path.name, state.st_size, sha256_of(path), state.st_mtime_ns)


def _looked_at(folder: Path, known: Stamp | None, wanted: Stamp) -> Stamp | str:
    """Return the stamp of a table that can be used, with the times of its files as they are now;
    else say why not, "" if there is none."""
    if known is None:
        return "it was not finished, or another version made it" if folder.exists() else ""
    if known.program != wanted.program:
        return "another version of this program made it"
    if known.features != wanted.features:
        return "it is of another feature pack"
    if known.universe != wanted.universe:
        return "it is of another universe policy"
    if known.rows.sha256 != wanted.rows.sha256:
        return "it is of other rows"
    if [file.path for file in known.files] != [*_FILES]:
        return f"{_STAMP} is damaged"
    files = []
    for file in known.files:
        path = folder / file.path
        if not path.is_file():
            return f"{file.path} is gone"
        files.append(_seen(path, file))
        if files[-1].sha256 != file.sha256:
            return f"{file.path} is damaged"
    return msgspec.structs.replace(wanted, files=files)


def _make(
    folder: Path, stamp: Stamp, maker: _Maker, on_progress: Callable[[int, int], None] | None
) -> None:
    """Make a table, in place of one that is there; nothing is left of one that fails."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        maker.make(folder, on_progress)
        made = [_seen(folder / name, None) for name in _FILES]
        _save(folder, msgspec.structs.replace(stamp, files=made))  # last: now it counts
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _save(folder: Path, stamp: Stamp) -> None:
    (folder / _STAMP).write_bytes(msgspec.json.encode(stamp))


def row_of(line: bytes) -> Row:
    """Return the row of a line of the rows topic, as it was published."""
    columns = orjson.loads(line)
    uid, symbol, tf, label, revision, extras = [columns.pop(name) for name in IDENTITY]
    return Row(uid, symbol, tf, _time_ms(label), revision, columns, extras)


_LABELS: dict[str, int] = {}


def _time_ms(label: str) -> int:
    """Return a label as epoch ms; those of one minute come together."""
    found = _LABELS.get(label)
    if found is None:
        _LABELS.clear()
        found = _LABELS[label] = int(datetime.fromisoformat(label).timestamp()) * 1000
    return found


def _stamp_of(folder: Path) -> Stamp | None:
    try:
        return msgspec.json.decode((folder / _STAMP).read_bytes(), type=Stamp)
    except (OSError, ValueError):
        return None


class _Maker:
    """Reads rows once, joins them without candidates, and writes the table."""

    def __init__(self, packs: Packs, arrow: Any, rows: Path, *, known_good: bool) -> None:
        """known_good : every byte of the rows is as their replay wrote it."""
        self._arrow = arrow
        self._rows = rows
        self._context = Context(packs)
        self._state: ContextState = self._context.initial()
        features = packs.features
        kinds = {
            ColumnType.NUMBER: arrow.float64(),
            ColumnType.BOOLEAN: arrow.bool_(),
            ColumnType.TEXT: arrow.string(),
        }
        seen = {
            column.name: kinds[COLUMN_TYPES[column.type]]
            for column in features.columns
            if column.status == "active"
            and column.family not in _UNSEEN
            and COLUMN_TYPES[column.type] in kinds
        }
        self._check = None if known_good else _check_of(features, list(seen))
        self._keys: dict[str, list[str]] = {
            tf: [name if tf == MINUTE_TF else features.names(tf).get(name, name) for name in seen]
            for tf in TIMEFRAMES
        }
        ours = {
            UID: arrow.int32(),
            TF: arrow.int8(),
            OFFSET: arrow.int64(),
            VOLUME: arrow.float64(),
            STRENGTH: arrow.float64(),
            "symbol": arrow.string(),
        }
        self._schema = arrow.schema(list((ours | seen).items()))
        self._waiting: list[tuple[Any, ...]] = []
        self._newest: tuple[int, bool] = (0, False)  # phase
        self._sealed_ms = 0
        self._members: list[int] | None = None
        self._tiers: dict[int, str] | None = None

    def make(self, folder: Path, on_progress: Callable[[int, int], None] | None) -> None:
        """Write the files of the table."""
        entries, first = list[Entry](), 0
        with (
            self._arrow.OSFile(str(folder / _COLUMNS), "wb") as sink,
            self._arrow.ipc.new_file(sink, self._schema) as writer,
        ):
            for (label, final), found in groupby(self._read(), key=_phase_of):
                batch = list(found)
                self._assert_next(label, batch, final=final)
                entries.append(self._entry(label, batch, first, final=final))
                first += len(batch)
                if len(self._waiting) >= BATCH_ROWS:
                    self._flush(writer)
                if on_progress is not None:
                    on_progress(label, len(batch))
            self._flush(writer)
        (folder / _PHASES).write_bytes(msgspec.msgpack.encode(entries))

    def _read(self) -> Iterator[tuple[int, Row]]:
        """Yield the rows of the file, each with the place of its line."""
        offset = 0
        with self._rows.open("rb", buffering=READ_BYTES) as stream:
            for line in stream:
                try:
                    if self._check is not None:  # a third of the time that reading takes
                        self._check(line)
                    row = row_of(line)
                except ValueError as error:
                    raise self._fault(offset, f"expected a feature row: {error}") from error
                if not line.endswith(b"\n"):
                    raise self._fault(offset, "expected a whole line, found no end of it")
                yield offset, row
                offset += len(line)

    def _assert_next(self, label: int, found: Sequence[tuple[int, Row]], *, final: bool) -> None:
        """Raise unless a phase may follow those before it."""
        offset = found[0][0]
        if (label, final) <= self._newest:
            newest = iso(self._newest[0])
            raise self._fault(
                offset, f"expected rows after those of {newest}, found {iso(label)}: two replays?"
            )
        self._newest = label, final
        if not final:
            self._sealed_ms = label
        seen = set[tuple[int, str]]()
        for offset, row in found:
            key = row.asset_uid, row.tf
            if key in seen:
                raise self._fault(offset, f"found a second {row.tf} row of asset {row.asset_uid}")
            seen.add(key)
            if final and row.tf == MINUTE_TF and label != self._sealed_ms:
                raise self._fault(offset, f"found an amended row, but no first of {iso(label)}")

    def _fault(self, offset: int, what: str) -> TableError:
        return TableError(f"{self._rows}: byte {offset}: {what}")

    def _flush(self, writer: Any) -> None:
        if not self._waiting:
            return
        columns = zip(*self._waiting, strict=True)
        try:
            arrays = [
                self._arrow.array(values, field.type)
                for values, field in zip(columns, self._schema, strict=True)
            ]
        except self._arrow.ArrowInvalid as error:  # a whole number that is no double
            place = self._schema.get_field_index(OFFSET)
            first, last = self._waiting[0][place], self._waiting[-1][place]
            what = f"expected columns of the pack up to byte {last}: {error}"
            raise self._fault(first, what) from error
        writer.write_batch(self._arrow.record_batch(arrays, schema=self._schema))
        self._waiting = []

    def _entry(
        self, label: int, found: Sequence[tuple[int, Row]], first: int, *, final: bool
    ) -> Entry:
        """Join a phase and remember its rows; return what is fixed of it."""
        clock_ms = label + found[0][1].columns["ingest_lag_ms"]
        by_asset: dict[int, list[Row]] = {}
        for _, row in found:
            by_asset.setdefault(row.asset_uid, []).append(row)
        phase = Phase(label, final, len(by_asset), clock_ms)
        market: MarketPhase | None = None
        items = [
            RowItem(phase, uid, tuple(rows), ((),) * len(rows)) for uid, rows in by_asset.items()
        ]
        for output in self._context.step(self._state, RowItems(phase, tuple(items))):
            if isinstance(output, MarketPhase):
                market = output
        assert market is not None, f"no frame of minute {label}"
        for offset, row in found:
            self._remember(offset, row)
        frame = b"" if final else frame_json(market.frames[0])
        entry = Entry(label, final, clock_ms, first, len(found), frame)
        entry.revision = self._state.universe.revision
        members = [u for u, m in self._state.universe.members.items() if m.since_ms]
        tiers = {
            uid: standing.tier
            for uid, standing in self._state.tiers.standings.items()
            if standing.tier != DEFAULT_TIER
        }
        if members != self._members:
            self._members = entry.members = members
        if tiers != self._tiers:
            self._tiers = entry.tiers = dict(tiers)
        return entry

    def _remember(self, offset: int, row: Row) -> None:
        """Keep a row's columns, with what its asset brings into a frame."""
        uid, label, tf = row.asset_uid, row.exchange_ts_ms, row.tf
        window_ms = max(LEADER_WINDOW_MIN * MINUTE_MS, 1000 * WINDOW_SEC[tf])
        volume = activity.volume_since(self._state.activity, uid, label - window_ms)
        strength: float | None = None
        if WINDOW_SEC[tf] * 1000 == STEP_MS:
            strength = self._state.rotation.assets[uid].steps[-1].rs
        get = row.columns.get
        values = map(get, self._keys[tf])
        place = TIMEFRAMES.index(tf)
        self._waiting.append((uid, place, offset, volume, strength, row.symbol, *values))


def _check_of(features: FeaturePack, names: list[str]) -> Callable[[bytes], Any]:
    """Return what raises ValueError unless a line is a row of a pack, whole, with these columns."""
    stored = {column.name: column for column in features.columns}
    kinds: list[Any] = []
    for tf in TIMEFRAMES:
        fields: dict[str, Any] = {}
        for name, key in features.names(tf).items():
            if name in names:
                kind = _TYPES[COLUMN_TYPES[stored[name].type]]
                fields[key] = kind if name in _NEVER_NULL else kind | None
        kinds.append(
            msgspec.defstruct("row", list((fields | _IDENTITY).items()), tag_field="tf", tag=tf)
        )
    return msgspec.json.Decoder(reduce(or_, kinds)).decode


def _phase_of(found: tuple[int, Row]) -> tuple[int, bool]:
    """Return the phase that a row left in: amendments and longer rows are of the final one."""
    row = found[1]
    return row.exchange_ts_ms, row.tf != MINUTE_TF or row.revision > 0


def unmarked(row: Row, unseen: Sequence[str]) -> Row:
    """Return a row as it was before detection: without flags and membership."""
    columns: Columns = row.columns
    for name in unseen:
        if name in columns:
            columns[name] = None
    return row


def unseen_of(packs: Packs, tf: str) -> tuple[str, ...]:
    """Return the names of the columns that are filled in after normalisation."""
    names = {each: packs.features.names(each) for each in TIMEFRAMES}[tf]  # type: ignore[index]
    return tuple(
        names.get(column.name, column.name)
        for column in packs.features.columns
        if column.family in _UNSEEN
    )
