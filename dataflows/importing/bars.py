"""The bars file: one line per symbol and minute, and its reader.

Rules of this file: columns `symbol,close_ms,open,high,low,close,volume_quote` and optionally
`trade_count,taker_buy_quote`, in any order; sorted by close_ms; a minute is named by its close. A
faulty header is one error with every fault; a bad row is skipped and counted, never repaired.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path

import msgspec

from dataflows.importing.bars_parquet import is_parquet
from dataflows.importing.reading import (
    BAD_NUMBER,
    BAD_TIME,
    MISSING_FIELD,
    Cells,
    ImportProblem,
    Probe,
    RowFault,
    Tally,
    cells_of,
    csv_lines,
    probe,
)
from dataflows.importing.texts import is_number
from operators import native
from operators.lattice import MINUTE_MS

REQUIRED = ("symbol", "close_ms", "open", "high", "low", "close", "volume_quote")
OPTIONAL = ("trade_count", "taker_buy_quote")
COLUMNS = REQUIRED + OPTIONAL

# What reads nearly all lines (operators/lines.pyx), where that is compiled.
_LINES = native.compiled("lines")
CLOSE_MS_MIN, CLOSE_MS_MAX = 10**12, 10**13  # 2001 to 2286: a slip of a digit is not a date
_SHARE_SLACK = 1e-9  # a taker volume that was rounded may exceed its total by this share

BAD_COUNT = "bad_count"
BAD_SYMBOL = "bad_symbol"
BAD_TAKER_BUY = "bad_taker_buy"
DUPLICATE_KEY = "duplicate_key"
HIGH_BELOW_LOW = "high_below_low"
NEGATIVE_VOLUME = "negative_volume"
NOT_FINITE = "not_finite"
OFF_MINUTE = "off_minute"
PRICE_NOT_POSITIVE = "price_not_positive"
TIME_WENT_BACK = "time_went_back"


class BarRow(msgspec.Struct, frozen=True, gc=False):
    """One minute of one symbol; prices and volumes in quote currency, None where not recorded."""

    open: float
    high: float
    low: float
    close: float
    volume_quote: float
    trade_count: int | None = None
    taker_buy_quote: float | None = None


def read_bars(
    path: Path, *, on_reject: Callable[[str], None] = lambda reason: None
) -> Iterator[tuple[int, dict[str, BarRow]]]:
    """Return (close_ms, bars by symbol in order) minute by minute; one minute is in memory.

    `on_reject(reason)` is told of every row that is skipped. Minutes that the file does not have
    are not made up. Raises ImportProblem if the header is not that of a bars file.
    """
    return _minutes(path, _header(path), _Listening(on_reject))


def _minutes(path: Path, header: Probe, tally: Tally) -> Iterator[tuple[int, dict[str, BarRow]]]:
    minute_ms = 0
    bars: dict[str, BarRow] = {}
    cells, usual = cells_of(header.names, COLUMNS), _usual(header.names)
    fast = usual if _LINES is None else _fast(header.names)
    for line in csv_lines(path, tally):
        try:
            close_ms, symbol, bar = fast(line) or usual(line) or _row(cells(line))
            if close_ms < minute_ms:
                raise RowFault(TIME_WENT_BACK)
            if close_ms == minute_ms and symbol in bars:
                raise RowFault(DUPLICATE_KEY)
        except RowFault as fault:
            tally.reject(fault.reason)
            continue
        if close_ms > minute_ms and bars:
            yield minute_ms, dict(sorted(bars.items()))
            bars = {}
        minute_ms = close_ms
        bars[symbol] = bar
    if bars:
        yield minute_ms, dict(sorted(bars.items()))


class _Listening(Tally):
    """Tells a listener of each dropped row instead of counting it."""

    def __init__(self, on_reject: Callable[[str], None]) -> None:
        super().__init__()
        self._on_reject = on_reject

    def reject(self, reason: str, rows: int = 1) -> None:
        for _ in range(rows):
            self._on_reject(reason)


def _header(path: Path) -> Probe:
    """Return the header of a bars file, or raise one problem with every fault of it."""
    if is_parquet(path):
        advice = "make one of it with `alpha import bars FILE --out BARS.csv`"
        raise ImportProblem(f"{path}: expected a bars file (CSV), found Parquet; {advice}")
    found = probe(path) if path.is_file() else None
    if found is None:
        raise ImportProblem(f"{path}: expected a bars file with a header, found no line")
    faults = header_faults(found.names) if found.form == "csv" else ["expected CSV"]
    if faults:
        raise ImportProblem(f"{path}: not a bars file: {'; '.join(faults)}")
    return found


def header_faults(names: Sequence[str]) -> list[str]:
    """Return everything that is wrong with a header, in one sentence each."""
    missing = [name for name in REQUIRED if name not in names]
    unknown = [name for name in dict.fromkeys(names) if name not in COLUMNS]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    named = (("missing", missing), ("unknown", unknown), ("more than once", twice))
    return [f"{what}: {', '.join(map(repr, which))}" for what, which in named if which]


def _row(cells: Cells) -> tuple[int, str, BarRow]:
    symbol, close_text, *values = cells
    return close_of(close_text), checked_symbol(symbol), checked_bar(values)


def close_of(text: str) -> int:
    """Return a minute's close from its text; it must be whole milliseconds, on a minute."""
    if not text:
        raise RowFault(MISSING_FIELD)
    if not text.isdecimal() or not CLOSE_MS_MIN <= int(text) < CLOSE_MS_MAX:
        raise RowFault(BAD_TIME)
    if int(text) % MINUTE_MS:
        raise RowFault(OFF_MINUTE)
    return int(text)


def checked_symbol(symbol: str) -> str:
    """Return a symbol that can stand in a line of CSV as it is."""
    if not symbol or not symbol.isprintable() or any(mark in symbol for mark in ' ,"#'):
        raise RowFault(BAD_SYMBOL)
    return symbol


def checked_bar(values: Sequence[str]) -> BarRow:
    """Return the bar of seven texts, `open` to `taker_buy_quote`, or raise RowFault."""
    opened, high, low, close, volume = map(finite, values[:5])
    bar = BarRow(opened, high, low, close, volume, _count(values[5]), _optional(values[6]))
    return _sane(bar)


def _sane(bar: BarRow) -> BarRow:
    """Return a bar of finite numbers, or raise RowFault if they contradict each other."""
    if min(bar.open, bar.high, bar.low, bar.close) <= 0:
        raise RowFault(PRICE_NOT_POSITIVE)
    if bar.high < bar.low:
        raise RowFault(HIGH_BELOW_LOW)
    if bar.volume_quote < 0:
        raise RowFault(NEGATIVE_VOLUME)
    taker_max = bar.volume_quote * (1 + _SHARE_SLACK)
    if bar.taker_buy_quote is not None and not 0 <= bar.taker_buy_quote <= taker_max:
        raise RowFault(BAD_TAKER_BUY)
    return bar


# Unquoted ASCII without blanks or signs: finite in any case, and nothing left to judge but values.
_PLAIN = rb"[0-9]{1,18}(?:\.[0-9]{0,30})?"
_PATTERNS = {
    "symbol": rb"([!$-+\--~]+)",
    "close_ms": rb"([1-9][0-9]{12})",
    "trade_count": rb"([0-9]{0,15})",
    "taker_buy_quote": rb"(%b|)" % _PLAIN,
}


_Read = Callable[[bytes], tuple[int, str, BarRow] | None]


def _fast(names: tuple[str, ...]) -> _Read:
    """Return what reads a line as nearly all are written, as `_usual`, but for long numbers."""
    assert _LINES is not None
    read: _Read = _LINES.Lines(names, COLUMNS, BarRow, 1 + _SHARE_SLACK).read
    return read


def _usual(names: tuple[str, ...]) -> _Read:
    """Return what reads a line as nearly all are written, in one go; it gives None for others."""
    match = re.compile(b",".join(_PATTERNS.get(name, b"(%b)" % _PLAIN) for name in names)).fullmatch
    pick = itemgetter(*(names.index(name) for name in REQUIRED))
    count_at, taker_at = (names.index(n) if n in names else None for n in OPTIONAL)
    symbols: dict[bytes, str] = {}

    def read(line: bytes) -> tuple[int, str, BarRow] | None:
        found = match(line)
        if found is None:
            return None
        cells = found.groups()
        symbol, close, opened, high, low, last, volume = pick(cells)
        close_ms = int(close)
        if close_ms % MINUTE_MS:
            return None
        name = symbols.get(symbol)
        if name is None:
            name = symbols[symbol] = symbol.decode()
        count = cells[count_at] if count_at is not None else b""
        taker = cells[taker_at] if taker_at is not None else b""
        bar = BarRow(
            float(opened),
            float(high),
            float(low),
            float(last),
            float(volume),
            int(count) if count else None,
            float(taker) if taker else None,
        )
        return close_ms, name, _sane(bar)

    return read


def finite(text: str) -> float:
    """Return a number, or raise RowFault with the reason it is none."""
    if not is_number(text):
        raise RowFault(BAD_NUMBER if text else MISSING_FIELD)
    if not math.isfinite(value := float(text)):
        raise RowFault(NOT_FINITE)
    return value


def _optional(text: str) -> float | None:
    return finite(text) if text else None


def _count(text: str) -> int | None:
    count = _optional(text)
    if count is not None and (count < 0 or not count.is_integer()):
        raise RowFault(BAD_COUNT)
    return None if count is None else int(count)
