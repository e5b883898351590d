"""Lists of labelled events (pumps, spikes, drawdowns) as others publish them: their reader.

Rules of this file: columns are known by the names they have in the wild; a faulty header is one
error with every fault; a row that cannot be used is counted by its reason, never dropped in
silence. Which asset a label means is decided here too: a guess is no match.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from dataflows.importing.bars_parquet import NO_READER, is_parquet, parquet_rows
from dataflows.importing.reading import (
    BAD_TIME,
    MISSING_FIELD,
    Cells,
    ImportProblem,
    Probe,
    RowFault,
    Tally,
    probe,
    read_rows,
)
from dataflows.importing.texts import to_ns

END_BEFORE_BEGIN = "end_before_begin"
NOT_AN_EVENT = "not_an_event"
OTHER_EXCHANGE = "other_exchange"

UNKNOWN_SYMBOL = "unknown_symbol"
AMBIGUOUS_SYMBOL = "ambiguous_symbol"

# Names of a column, the first that a file has is taken; letters of any case.
SYMBOL = ("symbol", "coin", "pair", "ticker", "market", "currency")
TIME = ("time", "begin", "start", "timestamp", "datetime", "pump_date", "date", "time_ms")
END = ("end", "stop", "end_time", "time_end", "end_ms")
KIND = ("kind", "type", "class", "label", "success", "group")
_HOUR = ("hour",)  # a clock time beside a date
_EXCHANGE = ("exchange", "data_source", "venue")
_TRUTH = ("gt",)  # 1 where the row is an event, 0 where it is a counter-example
_ROLES = (SYMBOL, TIME, _HOUR, END, KIND, _EXCHANGE, _TRUTH)

_SEPARATORS = "/-_ "


class Label(msgspec.Struct, frozen=True, order=True):
    """Something that happened to a symbol between two instants, epoch ms; equal for a moment.

    kind : what the list calls it, "" if it says nothing.
    """

    symbol: str
    begin_ms: int
    end_ms: int
    kind: str


class Labels(msgspec.Struct, frozen=True):
    """The labels of a list in its order, and its rows that are none, by reason."""

    labels: tuple[Label, ...]
    rows: int
    left_out: dict[str, int]


def read_labels(path: Path, exchange: str | None = None) -> Labels:
    """Return a list of labels from CSV, NDJSON, a JSON array, or Parquet.

    exchange : only rows whose exchange starts with it, in letters of any case; rows that name none
    stay. Raises ImportProblem if there is no such file, if a column is missing or if no row can be
    used.
    """
    if not path.is_file():
        raise ImportProblem(f"{path}: expected a list of labels, found no file")
    tally = Tally()
    names, rows = _opened(path, tally)
    columns = _columns(path, names)
    labels: list[Label] = []
    for cells in rows(columns):
        try:
            labels.append(_label(columns, cells, exchange))
        except RowFault as fault:
            tally.reject(fault.reason)
    left_out = dict(sorted(tally.rejects.items()))
    if not labels:
        why = ", ".join(f"{name} {count}" for name, count in left_out.items()) or "no row"
        raise ImportProblem(f"{path}: expected labels, found none that can be used: {why}")
    return Labels(tuple(labels), tally.lines, left_out)


Columns = tuple[str | None, ...]


class _Rows:
    """The rows of a list; called with the columns that are wanted."""

    def __init__(self, path: Path, found: Probe, tally: Tally) -> None:
        self._path, self._found, self._tally = path, found, tally

    def __call__(self, wanted: Columns) -> Iterator[Cells]:
        if self._found.form == "parquet":
            as_csv = Probe("csv", self._found.names)
            return parquet_rows(self._path, as_csv, wanted, self._tally)
        if self._found.form == "array":
            return self._of_array(wanted)
        return read_rows(self._path, self._found, wanted, self._tally)

    def _of_array(self, wanted: Columns) -> Iterator[Cells]:
        for entry in _array(self._path):
            self._tally.lines += 1
            yield tuple(_text(entry.get(name or "")) for name in wanted)


def _opened(path: Path, tally: Tally) -> tuple[tuple[str, ...], _Rows]:
    """Return the names of the columns, and the rows."""
    if is_parquet(path):
        found = Probe("parquet", _parquet_names(path))
    elif path.read_bytes()[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
        entries = _array(path)
        found = Probe("array", tuple(dict.fromkeys(name for each in entries for name in each)))
    else:
        found = probe(path) or Probe("empty", ())
    if found.form in ("empty", "stamped", "unknown"):
        raise ImportProblem(f"{path}: expected a list of labels with a header, found no line of it")
    return found.names, _Rows(path, found, tally)


def _array(path: Path) -> list[dict[str, Any]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ImportProblem(f"{path}: expected a JSON array of objects: {error}") from error


def _parquet_names(path: Path) -> tuple[str, ...]:
    try:
        arrow = import_module("pyarrow")
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        raise ImportProblem(f"{path}: {NO_READER}") from None
    try:
        return tuple(parquet.read_schema(path).names)
    except (arrow.ArrowException, OSError) as error:
        raise ImportProblem(f"{path}: expected a Parquet file, found a damaged one") from error


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _columns(path: Path, names: Sequence[str]) -> Columns:
    """Return the column of each role; None where a file has none and needs none."""
    by_name = {name.lower(): name for name in reversed(names)}
    columns = tuple(next((by_name[n] for n in role if n in by_name), None) for role in _ROLES)
    faults = [
        f"expected a column with the {what} ({', '.join(role)})"
        for what, role, column in (("symbol", SYMBOL, columns[0]), ("time", TIME, columns[1]))
        if column is None
    ]
    if faults:
        raise ImportProblem(f"{path}: {' and '.join(faults)}; found {', '.join(names)}")
    return columns


def _label(columns: Columns, cells: Cells, exchange: str | None) -> Label:
    symbol, begin, hour, end, kind, where, truth = cells
    if truth and truth not in ("1", "1.0", "True", "true"):
        raise RowFault(NOT_AN_EVENT)
    if exchange and where and not where.lower().startswith(exchange.lower()):
        raise RowFault(OTHER_EXCHANGE)
    if not symbol or not begin:
        raise RowFault(MISSING_FIELD)
    begin_ms = _ms(f"{begin} {hour}" if hour else begin)
    end_ms = _ms(end) if end else begin_ms
    if end_ms < begin_ms:
        raise RowFault(END_BEFORE_BEGIN)
    if kind.isdecimal():
        kind = f"{columns[4]} {kind}"
    return Label(symbol, begin_ms, end_ms, kind)


def _ms(text: str) -> int:
    try:
        return to_ns(text, "auto" if text.replace(".", "").isdecimal() else "iso") // 1_000_000
    except ValueError:
        raise RowFault(BAD_TIME) from None


# --- whose label it is ---------------------------------------------------------------------------


class Symbols:
    """Finds the asset that a label means, among those of a run."""

    def __init__(self, symbols: Mapping[int, str]) -> None:
        self._exact = {symbol: uid for uid, symbol in symbols.items()}
        self._plain = _grouped((_plain(symbol), uid) for uid, symbol in symbols.items())
        self._base = _grouped((_base(symbol), uid) for uid, symbol in symbols.items())
        self._bare = {symbol.upper(): uid for uid, symbol in symbols.items() if _is_bare(symbol)}

    def find(self, text: str) -> int | str:
        """Return the id of the asset, else why there is none.

        The same name; or the same letters without separators and settlement (`BTC-USDT`, `BTCUSDT`,
        `BTC/USDT:USDT`); or a coin alone, where only one asset is of that coin.

        >>> symbols = Symbols({0: "BTC/USDT:USDT", 1: "NXS/BTC", 2: "ETH/BTC", 3: "ETH/USDT"})
        >>> [symbols.find(text) for text in ("BTC-USDT", "ethbtc", "NXS", "ETH", "XRP")]
        [0, 2, 1, 'ambiguous_symbol', 'unknown_symbol']
        """
        if text in self._exact:
            return self._exact[text]
        for found in (self._plain.get(_plain(text)), self._of_coin(text)):
            if found:
                return found[0] if len(found) == 1 else AMBIGUOUS_SYMBOL
        return UNKNOWN_SYMBOL

    def _of_coin(self, text: str) -> list[int] | None:
        if _is_bare(text):
            return self._base.get(text.upper())
        uid = self._bare.get(_base(text))  # the assets of a venue may be named by their coin
        return None if uid is None else [uid]


def _grouped(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for name, uid in pairs:
        groups.setdefault(name, []).append(uid)
    return groups


def _plain(symbol: str) -> str:
    pair = symbol.partition(":")[0].upper()
    return "".join(letter for letter in pair if letter not in _SEPARATORS)


def _base(symbol: str) -> str:
    for mark in _SEPARATORS:
        symbol = symbol.replace(mark, "/")
    return symbol.partition("/")[0].upper()


def _is_bare(symbol: str) -> bool:
    return not any(mark in symbol for mark in _SEPARATORS)
