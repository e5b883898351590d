"""Minute bars of other sources become one bars file.

Rules of this file: prices keep their text; a volume in base coins is turned into quote currency at
the bar's typical price (high + low + close) / 3 where the source has none in quote, and the report
says so; rows that a bars file may not hold are dropped and counted. The input may be in any order:
it is sorted outside memory. The same files give the same bytes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from dataflows.importing.bar_layouts import BAR_PRESETS, BarColumns, BarsFile
from dataflows.importing.bars import (
    DUPLICATE_KEY,
    OPTIONAL,
    REQUIRED,
    checked_bar,
    checked_symbol,
    close_of,
    finite,
)
from dataflows.importing.bars_parquet import is_parquet, parquet_layout, parquet_rows
from dataflows.importing.layouts import Layout, probed, recognise
from dataflows.importing.reading import (
    BAD_TIME,
    MISSING_FIELD,
    ImportProblem,
    Probe,
    RowFault,
    Tally,
    read_rows,
)
from dataflows.importing.texts import to_ns
from dataflows.importing.writing import is_directory, replacing, spool
from operators.lattice import MINUTE_MS

RUN_ROWS_MAX = 200_000  # bars sorted in memory at a time, about 50 MB; the rest waits in spools
NO_OPEN = "no_open"

_NS_PER_MS = 1_000_000
_STEPS_MIN = 10  # so many steps between bars tell their timeframe
_AFTER_LABEL_MS = {"start": MINUTE_MS, "close": 0, "last_ms": 1}


class BarsReport(msgspec.Struct):
    """What an import found.

    lines : data lines read, over all files.
    bars : how many were written, by symbol.
    rejects : rows that were dropped, by reason.
    span_ms : close of the first and last minute.
    notes : what the importer had to derive, and how.
    """

    files: int = 0
    lines: int = 0
    bars: dict[str, int] = {}
    rejects: dict[str, int] = {}
    span_ms: tuple[int, int] = (0, 0)
    notes: list[str] = []


class _Bar(NamedTuple):
    """A bar as text, with what it is sorted by. `values` are its columns from `open` on."""

    close_ms: int
    symbol: str
    values: str


class _BarPlan(NamedTuple):
    path: Path
    name: str
    found: Probe
    columns: BarColumns
    symbol: str | None
    parquet: bool


def import_bars(files: Sequence[BarsFile], out: Path) -> BarsReport:
    """Write the bars file of some sources and return what was found.

    out : a file, replaced if it exists; .gz and .zst are compressed. Of bars with the same symbol
        and minute the first counts, in the order of the files and their lines.

    Raises ImportProblem, having written nothing, if a file cannot be used or is not of minutes, or
    if there is not a single bar.
    """
    plans = _plans(files, out)
    report, tally = BarsReport(files=len(files), notes=_notes(plans)), Tally()
    optional = [name for name in OPTIONAL if any(_has(each, name) for each in plans)]
    with closing(_Sorter(out)) as sorter:
        for each in plans:
            for bar in _bars_of(each, optional, tally):
                sorter.add(bar)
        with replacing(out) as target:
            target.write(",".join((*REQUIRED, *optional)).encode() + b"\n")
            for bar in _distinct(sorter.in_order(), tally):
                target.write(f"{bar.symbol},{bar.close_ms},{bar.values}\n".encode())
                _count(bar, report)
            if not report.bars:
                raise ImportProblem(f"expected bars, found none; rejected: {tally.rejects}")
    report.lines, report.rejects = tally.lines, dict(sorted(tally.rejects.items()))
    report.bars = dict(sorted(report.bars.items()))
    return report


def _count(bar: _Bar, report: BarsReport) -> None:
    report.span_ms = (report.span_ms[0] or bar.close_ms, bar.close_ms)
    report.bars[bar.symbol] = report.bars.get(bar.symbol, 0) + 1


# --- checks ----------------------------------------------------------------------------------


def _plans(files: Sequence[BarsFile], out: Path) -> list[_BarPlan]:
    """Return how each file is read, or raise one problem that lists every fault."""
    planned = [_plan(file) for file in files]
    faults = [each for each in planned if isinstance(each, str)]
    if not files:
        faults.append("expected at least one file to import, found none")
    if is_directory(out):
        faults.append(f"{out}: expected the name of a file with a suffix")
    if faults:
        raise ImportProblem("\n".join(faults))
    return [each for each in planned if isinstance(each, _BarPlan)]


def _plan(file: BarsFile) -> _BarPlan | str:
    parquet = is_parquet(file.path)
    recognised = parquet_layout(file) if parquet else _text_layout(file)
    if isinstance(recognised, str):
        return recognised
    layout, found = recognised
    columns = layout.columns
    if columns.volume_quote is None and columns.volume_base is None:
        return f"{file.path}: expected a column with a volume, the layout names none"
    if columns.symbol in found.names:
        return _BarPlan(file.path, layout.name, found, columns, None, parquet)
    symbol = file.symbol or layout.coin_in(file.path)
    if symbol is None:
        return f"{file.path}: expected a symbol (no column for it, and none in the file name)"
    return _BarPlan(file.path, layout.name, found, columns, symbol, parquet)


def _text_layout(file: BarsFile) -> tuple[Layout[BarColumns], Probe] | str:
    layout = recognise(file.path, file.layout, BAR_PRESETS)
    return layout if isinstance(layout, str) else (layout, probed(file.path))


def _has(plan: _BarPlan, name: str) -> bool:
    """Tell whether a file can fill an optional column of the bars file."""
    columns = plan.columns
    sources = (columns.taker_buy_quote, columns.taker_buy_base, columns.taker_buy_share)
    if name == "trade_count":
        sources = (columns.trade_count, None, None)
    return any(source in plan.found.names for source in sources)


def _notes(plans: Sequence[_BarPlan]) -> list[str]:
    """Say once per layout what is derived."""
    notes: dict[str, None] = {}
    for each in plans:
        name, columns = each.name, each.columns
        if columns.volume_quote is None:
            notes[f"{name}: volume in base coins x (high + low + close) / 3 = volume_quote"] = None
        if columns.open is None:
            notes[f"{name}: open is not recorded, the close of the minute before is used"] = None
        if columns.taker_buy_quote is not None:
            continue
        if columns.taker_buy_base is not None:
            notes[f"{name}: taker buys in base coins are turned into quote like the volume"] = None
        elif columns.taker_buy_share is not None:
            notes[f"{name}: share of taker buys x volume_quote = taker_buy_quote"] = None
    return list(notes)


# --- rows ------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """The cells of a row, in the order of BarColumns.wanted."""

    symbol: str
    time: str
    open: str
    high: str
    low: str
    close: str
    volume_quote: str
    volume_base: str
    trade_count: str
    taker_buy_quote: str
    taker_buy_base: str
    taker_buy_share: str


class _History:
    """The newest bar of each symbol in a file: what an open or a timeframe is told from."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[int, str]] = {}
        self.steps = 0
        self.step_ms_min = 0

    def add(self, symbol: str, close_ms: int, close: str) -> str:
        """Remember a close; return that of the minute before, "" if it is not known."""
        before_ms, before = self._newest.get(symbol, (close_ms, ""))
        self._newest[symbol] = (close_ms, close)
        step_ms = close_ms - before_ms
        if step_ms > 0:
            self.steps += 1
            self.step_ms_min = min(step_ms, self.step_ms_min or step_ms)
        return before if step_ms == MINUTE_MS else ""


def _bars_of(plan: _BarPlan, optional: Sequence[str], tally: Tally) -> Iterator[_Bar]:
    """Yield the good bars of a file; raise ImportProblem if they are not of minutes."""
    history = _History()
    read = parquet_rows if plan.parquet else read_rows
    for cells in read(plan.path, plan.found, plan.columns.wanted(), tally):
        row = _Row(*cells)
        try:
            symbol = checked_symbol(plan.symbol or row.symbol)
            close_ms = _close_ms(row.time, plan.columns)
            before = history.add(symbol, close_ms, row.close)
            if plan.columns.open is None:
                row = row._replace(open=_known_open(before))
            values = _values(row, optional)
        except RowFault as fault:
            tally.reject(fault.reason)
            continue
        yield _Bar(close_ms, symbol, values)
    if history.steps >= _STEPS_MIN and history.step_ms_min > MINUTE_MS:
        minutes = history.step_ms_min // MINUTE_MS
        raise ImportProblem(f"{plan.path}: expected bars of 1 minute, found {minutes} minutes")


def _close_ms(text: str, columns: BarColumns) -> int:
    """Return the close of a row's minute."""
    try:
        label_ms = to_ns(text, columns.time.unit) // _NS_PER_MS
    except ValueError:
        raise RowFault(BAD_TIME if text else MISSING_FIELD) from None
    return close_of(str(label_ms + _AFTER_LABEL_MS[columns.labels]))


def _known_open(close_before: str) -> str:
    if not close_before:
        raise RowFault(NO_OPEN)
    return close_before


def _values(row: _Row, optional: Sequence[str]) -> str:
    """Return the columns from `open` on; prices, and what is not derived, keep their text."""
    if not (row.open and row.high and row.low and row.close):
        raise RowFault(MISSING_FIELD)
    volume = row.volume_quote or _times_typical(row.volume_base, row)
    prices = (row.open, row.high, row.low, row.close)
    taker = _taker_buy(row, volume)
    bar = checked_bar((*prices, volume, row.trade_count, taker))
    further = {
        "trade_count": "" if bar.trade_count is None else str(bar.trade_count),
        "taker_buy_quote": taker,
    }
    return ",".join((*prices, volume, *(further[name] for name in optional)))


def _taker_buy(row: _Row, volume_quote: str) -> str:
    if row.taker_buy_quote:
        return row.taker_buy_quote
    if row.taker_buy_base:
        return _times_typical(row.taker_buy_base, row)
    if row.taker_buy_share:
        return f"{finite(row.taker_buy_share) * finite(volume_quote):.12g}"
    return ""


def _times_typical(base: str, row: _Row) -> str:
    """Return an amount of base coins in quote currency, to 12 significant digits."""
    if not base:
        raise RowFault(MISSING_FIELD)
    typical = (finite(row.high) + finite(row.low) + finite(row.close)) / 3
    return f"{finite(base) * typical:.12g}"


# --- order -----------------------------------------------------------------------------------


class _Sorter:
    """Sorts bars by (close_ms, symbol), equal ones as they came, RUN_ROWS_MAX in memory."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._held: list[_Bar] = []
        self._runs: list[IO[bytes]] = []

    def add(self, bar: _Bar) -> None:
        """Take one bar."""
        self._held.append(bar)
        if len(self._held) >= RUN_ROWS_MAX:
            self._spill()

    def in_order(self) -> Iterator[_Bar]:
        """Yield all bars."""
        self._held.sort(key=_order)
        runs = [map(_loaded, run) for run in self._runs]
        return heapq.merge(*runs, self._held, key=_order)

    def close(self) -> None:
        """Give up the spools."""
        for run in self._runs:
            run.close()

    def _spill(self) -> None:
        run = spool(self._out)
        self._runs.append(run)
        self._held.sort(key=_order)
        run.writelines(f"{','.join(map(str, bar))}\n".encode() for bar in self._held)
        run.seek(0)
        self._held = []


def _order(bar: _Bar) -> tuple[int, str]:
    return bar.close_ms, bar.symbol


def _loaded(line: bytes) -> _Bar:
    close_ms, symbol, values = line.decode().rstrip("\n").split(",", 2)
    return _Bar(int(close_ms), symbol, values)


def _distinct(bars: Iterator[_Bar], tally: Tally) -> Iterator[_Bar]:
    """Keep the first of the bars with equal symbol and minute."""
    newest: tuple[int, str] | None = None
    for bar in bars:
        if _order(bar) == newest:
            tally.reject(DUPLICATE_KEY)
            continue
        newest = _order(bar)
        yield bar
