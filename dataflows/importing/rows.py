"""Rows of a recording become frames.

Rules of this file: a frame groups rows as they were recorded (consecutive, of one coin and one time
of receipt); a row is used whole or dropped whole, with a reason.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from dataflows.importing.frames import (
    Framed,
    Head,
    TradeIds,
    bbo_frame,
    book_frame,
    level_of,
    level_or_null,
    present,
    side_of,
    trade_entry,
    trades_frame,
)
from dataflows.importing.layouts import (
    BookColumns,
    BookListColumns,
    QuoteColumns,
    QuoteSideColumns,
    RowColumns,
    Stamp,
    TradeColumns,
)
from dataflows.importing.presets import Plan
from dataflows.importing.reading import BAD_TIME, Cells, RowFault, Tally, read_rows, text_of
from dataflows.importing.texts import to_ns

FRAME_TRADES_MAX = 1000  # the venue's longest seen is 145; a longer group becomes several frames

BAD_BOOK = "bad_book"

_Rows = Iterator[tuple[Head, Cells]]


def row_frames(plan: Plan, columns: RowColumns, tally: Tally) -> Iterator[Framed]:
    """Read one file of rows as frames, in its own order."""
    rows = _headed(plan, columns, tally)
    match columns:
        case TradeColumns():
            return _trades(columns, rows, tally)
        case QuoteColumns():
            return _quotes(rows, tally)
        case QuoteSideColumns():
            return _quote_sides(columns, rows, tally)
        case BookColumns():
            return _books(rows, tally)
        case BookListColumns():
            return _book_lists(rows, tally)


def _headed(plan: Plan, columns: RowColumns, tally: Tally) -> _Rows:
    """Yield the head of every row and its further cells."""
    for cells in read_rows(plan.path, plan.found, columns.wanted(), tally):
        try:
            head = _head(cells, columns, plan.coin)
        except RowFault as fault:
            tally.reject(fault.reason)
            continue
        yield head, cells[3:]


def _head(cells: Cells, columns: RowColumns, coin: str | None) -> Head:
    receive = _instant(cells[0], columns.receive)
    exchange = _instant(cells[1], columns.exchange)
    arrival_ns = receive if receive is not None else exchange
    assert arrival_ns is not None, "a layout names at least one time"
    time_ns = exchange if exchange is not None else arrival_ns
    return Head(arrival_ns, time_ns // 1_000_000, coin or present(cells[2]))


def _instant(text: str, stamp: Stamp | None) -> int | None:
    if stamp is None:
        return None
    try:
        return to_ns(present(text), stamp.unit)
    except ValueError:
        raise RowFault(BAD_TIME) from None


# --- trades ----------------------------------------------------------------------------------


def _trades(columns: TradeColumns, rows: _Rows, tally: Tally) -> Iterator[Framed]:
    ids = TradeIds()
    open_key: tuple[int, str] | None = None
    entries: list[str] = []
    for head, cells in rows:
        try:
            entry = trade_entry(head, cells, columns.sides, ids)
        except RowFault as fault:
            tally.reject(fault.reason)
            continue
        key = (head.arrival_ns, head.coin)
        if open_key is not None and (key != open_key or len(entries) >= FRAME_TRADES_MAX):
            yield trades_frame(open_key, entries)
            entries = []
        open_key = key
        entries.append(entry)
    if open_key is not None:
        yield trades_frame(open_key, entries)


# --- quotes ----------------------------------------------------------------------------------


def _quotes(rows: _Rows, tally: Tally) -> Iterator[Framed]:
    for head, cells in rows:
        try:
            bid, ask = level_or_null(*cells[:2]), level_or_null(*cells[2:4])
        except RowFault as fault:
            tally.reject(fault.reason)
            continue
        yield bbo_frame(head, bid, ask)


def _quote_sides(columns: QuoteSideColumns, rows: _Rows, tally: Tally) -> Iterator[Framed]:
    """Join consecutive rows of one coin and equal times; the same side again begins a new quote."""
    open_head: Head | None = None
    levels: dict[str, str] = {}
    for head, cells in rows:
        try:
            side = side_of(cells[2], columns.sides)
            level = level_of(cells[0], cells[1])
        except RowFault as fault:
            tally.reject(fault.reason)
            continue
        if open_head is not None and (head != open_head or side in levels):
            yield bbo_frame(open_head, levels.get("B", "null"), levels.get("A", "null"))
            levels = {}
        open_head = head
        levels[side] = level
    if open_head is not None:
        yield bbo_frame(open_head, levels.get("B", "null"), levels.get("A", "null"))


# --- books -----------------------------------------------------------------------------------


def _books(rows: _Rows, tally: Tally) -> Iterator[Framed]:
    for head, cells in rows:
        half = len(cells) // 2
        try:
            bids, asks = _cell_levels(cells[:half]), _cell_levels(cells[half:])
        except RowFault as fault:
            tally.reject(fault.reason)
            continue
        yield book_frame(head, bids, asks)


def _cell_levels(cells: Cells) -> str:
    pairs = zip(cells[::2], cells[1::2], strict=True)
    return ",".join(level_of(px, sz) for px, sz in pairs if px or sz)


def _book_lists(rows: _Rows, tally: Tally) -> Iterator[Framed]:
    for head, cells in rows:
        try:
            bids, asks = _list_levels(cells[0]), _list_levels(cells[1])
        except RowFault as fault:
            tally.reject(fault.reason)
            continue
        yield book_frame(head, bids, asks)


class _Level(msgspec.Struct):
    px: msgspec.Raw
    sz: msgspec.Raw


_levels = msgspec.json.Decoder(list[_Level | tuple[msgspec.Raw, msgspec.Raw]])


def _list_levels(text: str) -> str:
    try:
        levels = _levels.decode(present(text))
    except msgspec.DecodeError:
        raise RowFault(BAD_BOOK) from None
    pairs = [(level.px, level.sz) if isinstance(level, _Level) else level for level in levels]
    return ",".join(level_of(text_of(bytes(px)), text_of(bytes(sz))) for px, sz in pairs)
