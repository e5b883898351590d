"""The layouts of ticks that are known, and how a file gets its layout."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dataflows.importing.layouts import (
    BUYER_IS_MAKER,
    BookColumns,
    BookListColumns,
    FrameColumns,
    Layout,
    QuoteColumns,
    QuoteSideColumns,
    Stamp,
    StampedFrames,
    TickColumns,
    TradeColumns,
    probed,
    recognise,
)
from dataflows.importing.reading import Probe

_RECEIVED = Stamp("timestamp", "s")
_EXCHANGED = Stamp("exchange_timestamp", "ms")

# The first that fits is taken, so a layout stands before those that need fewer of its columns.
PRESETS: tuple[Layout[TickColumns], ...] = (
    Layout(
        name="hyperliquid-csv",
        kind="trades",
        columns=TradeColumns(
            receive=_RECEIVED,
            exchange=_EXCHANGED,
            price="price",
            size="size",
            side="side",
            trade_id="trade_id",
        ),
        coin_in_name=r"(?:^|_)trades_([^.]+)\.",
    ),
    Layout(
        name="hyperliquid-csv",
        kind="quotes",
        columns=QuoteSideColumns(
            receive=_RECEIVED, exchange=_EXCHANGED, price="price", size="size", side="side"
        ),
        coin_in_name=r"(?:^|_)prices_([^.]+)\.",
    ),
    Layout(
        name="hyperliquid-csv",
        kind="books",
        columns=BookColumns(
            receive=_RECEIVED,
            exchange=_EXCHANGED,
            bid="bid_price_{}",
            bid_size="bid_size_{}",
            ask="ask_price_{}",
            ask_size="ask_size_{}",
        ),
        coin_in_name=r"(?:^|_)orderbooks_([^.]+)\.",
    ),
    Layout(
        name="reshaped-frames",
        kind="frames",
        form="ndjson",
        columns=FrameColumns(receive=Stamp("recv_ts", "auto"), frame="frame"),
    ),
    Layout(name="raw-frames", kind="frames", form="stamped", columns=StampedFrames()),
    Layout(
        name="binance-frames",
        kind="frames",
        form="stamped",
        columns=StampedFrames(dialect="binance"),
    ),
    Layout(
        name="binance-stream-csv",
        kind="trades",
        columns=TradeColumns(
            receive=Stamp("TimestampOfReceive", "auto"),
            exchange=Stamp("TransactionTime", "auto"),
            symbol="Symbol",
            price="Price",
            size="Quantity",
            side="IsBuyerMarketMaker",
            sides=BUYER_IS_MAKER,
            trade_id="TradeId",
        ),
    ),
    Layout(
        name="binance-trades-csv",
        kind="trades",
        columns=TradeColumns(
            exchange=Stamp("timestamp", "iso"),
            symbol="symbol",
            price="price",
            size="quantity",
            side="is_buyer_market_maker",
            sides=BUYER_IS_MAKER,
            trade_id="trade_id",
        ),
    ),
    Layout(
        name="freqtrade-trades",
        kind="trades",
        columns=TradeColumns(
            exchange=Stamp("timestamp", "ms"),
            symbol="symbol",
            price="price",
            size="amount",
            side="side",
            trade_id="id",
        ),
        optional=("id", "symbol"),
        coin_in_name=r"^([^.]+)-trades\.",
    ),
    Layout(
        name="generic",
        kind="trades",
        columns=TradeColumns(
            exchange=Stamp("time_ms", "ms"),
            symbol="symbol",
            price="price",
            size="size",
            side="side",
            trade_id="trade_id",
        ),
        optional=("trade_id",),
    ),
    Layout(
        name="generic",
        kind="quotes",
        columns=QuoteColumns(
            exchange=Stamp("time_ms", "ms"),
            symbol="symbol",
            bid="bid",
            bid_size="bid_size",
            ask="ask",
            ask_size="ask_size",
        ),
    ),
    Layout(
        name="book-lines",
        kind="books",
        form="ndjson",
        columns=BookListColumns(
            receive=Stamp("timestamp", "iso"), symbol="coin", bids="bids", asks="asks"
        ),
    ),
)


class TickFile(msgspec.Struct, frozen=True):
    """A recording to import.

    coin : name for a file without a symbol column; else it is looked for in the file name.
    layout : name of a preset, or columns of one's own; None recognises a preset by the header.
    """

    path: Path
    coin: str | None = None
    layout: str | TickColumns | None = None


class Plan(msgspec.Struct, frozen=True):
    """How one file will be read; `coin` is that of every row, None where a column holds it."""

    path: Path
    found: Probe
    columns: TickColumns
    coin: str | None


def plan(file: TickFile) -> Plan | str:
    """Recognise a file, or say in one sentence what is wrong with it."""
    layout = recognise(file.path, file.layout, PRESETS)
    if isinstance(layout, str):
        return layout
    found, columns = probed(file.path), layout.columns
    if isinstance(columns, FrameColumns | StampedFrames):
        return Plan(file.path, found, columns, None)
    if columns.receive is None and columns.exchange is None:
        return f"{file.path}: expected a column with a time, the layout names none"
    if isinstance(columns, BookColumns):
        columns = _with_levels(columns, found)
    if columns.symbol in found.names:
        return Plan(file.path, found, columns, None)
    coin = file.coin or layout.coin_in(file.path)
    if coin is None:
        return f"{file.path}: expected a coin (no symbol column, and none in the file name)"
    return Plan(file.path, found, columns, coin)


def _with_levels(columns: BookColumns, found: Probe) -> BookColumns:
    """Take as many levels as the header has, up to the first that is not there."""
    if columns.levels is not None or columns.bid.format(0) == columns.bid.format(1):
        return columns
    levels = 1
    while {columns.bid.format(levels), columns.ask.format(levels)} <= set(found.names):
        levels += 1
    return msgspec.structs.replace(columns, levels=levels)
