"""What the columns of a source of minute bars mean."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from dataflows.importing.layouts import Layout, Stamp


class BarColumns(msgspec.Struct, frozen=True, kw_only=True):
    """One row per symbol and minute.

    time : an instant of the minute; `labels` says which: its start, its close, or its last
        millisecond.
    open : None where it is not recorded; then it is the close of the minute before.
    volume_quote : else volume_base is turned into quote currency at the bar's typical price.
    taker_buy_quote : else taker_buy_base at the typical price, else taker_buy_share of the volume.
    """

    time: Stamp
    labels: Literal["start", "close", "last_ms"]
    high: str
    low: str
    close: str
    open: str | None = None
    volume_quote: str | None = None
    volume_base: str | None = None
    trade_count: str | None = None
    taker_buy_quote: str | None = None
    taker_buy_base: str | None = None
    taker_buy_share: str | None = None
    symbol: str | None = None

    def wanted(self) -> tuple[str | None, ...]:
        """Columns in the order in which a row hands them over."""
        return (
            self.symbol,
            self.time.column,
            self.open,
            self.high,
            self.low,
            self.close,
            self.volume_quote,
            self.volume_base,
            self.trade_count,
            self.taker_buy_quote,
            self.taker_buy_base,
            self.taker_buy_share,
        )


class BarsFile(msgspec.Struct, frozen=True):
    """A source of minute bars.

    symbol : name for a file without a symbol column; else it is looked for in the file name.
    layout : name of a preset, or columns of one's own; None recognises a preset by the header.
    """

    path: Path
    symbol: str | None = None
    layout: str | BarColumns | None = None


# The first that fits is taken, so a layout stands before those that need fewer of its columns.
BAR_PRESETS: tuple[Layout[BarColumns], ...] = (
    Layout(
        name="bars",
        kind="minute bars",
        columns=BarColumns(
            symbol="symbol",
            time=Stamp("close_ms", "ms"),
            labels="close",
            open="open",
            high="high",
            low="low",
            close="close",
            volume_quote="volume_quote",
            trade_count="trade_count",
            taker_buy_quote="taker_buy_quote",
        ),
        optional=("trade_count", "taker_buy_quote"),
    ),
    Layout(
        name="binance-klines",
        kind="minute bars",
        columns=BarColumns(
            time=Stamp("open_time", "auto"),
            labels="start",
            open="open",
            high="high",
            low="low",
            close="close",
            volume_quote="quote_volume",
            trade_count="count",
            taker_buy_quote="taker_buy_quote_volume",
        ),
        coin_in_name=r"^([^-.]+)-1m",
    ),
    Layout(
        name="binanceus-csv",
        kind="minute bars",
        columns=BarColumns(
            time=Stamp("open_time", "iso"),
            labels="start",
            open="open",
            high="high",
            low="low",
            close="close",
            volume_base="volume",
        ),
        coin_in_name=r"(?:^|_)([A-Z0-9]+)_1m",
    ),
    Layout(
        name="freqtrade",
        kind="minute bars",
        columns=BarColumns(
            symbol="symbol",
            time=Stamp("date", "ms"),
            labels="start",
            open="open",
            high="high",
            low="low",
            close="close",
            volume_base="volume",
        ),
        optional=("symbol",),
        coin_in_name=r"^([^-.]+)-1m",
    ),
    Layout(
        name="candle-snapshot",
        kind="minute bars",
        columns=BarColumns(
            symbol="s",
            time=Stamp("T", "ms"),
            labels="last_ms",
            open="o",
            high="h",
            low="l",
            close="c",
            volume_base="v",
            trade_count="n",
        ),
        optional=("s", "n"),
        coin_in_name=r"candles_([^-.]+)-",
    ),
    Layout(
        name="coinbase-flow-minutes",
        kind="minute bars",
        columns=BarColumns(
            time=Stamp("minute_utc", "iso"),
            labels="start",
            high="high",
            low="low",
            close="close",
            volume_base="volume",
            trade_count="trades",
            taker_buy_share="buy_share",
        ),
        coin_in_name=r"^coinbase_([^_.]+)_",
    ),
)
