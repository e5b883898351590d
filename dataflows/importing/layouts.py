"""What the columns of a recording mean, and how a layout is recognised.

A layout is data: which column holds what, in which unit, in whose words. Anything that fits one of
the column descriptions below can be imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

import msgspec

from dataflows.importing.reading import Probe, probe
from dataflows.importing.texts import Unit

TAKER_SIDES = MappingProxyType({"buy": "B", "b": "B", "sell": "A", "a": "A", "s": "A"})
BUYER_IS_MAKER = MappingProxyType({"true": "A", "1": "A", "false": "B", "0": "B"})
BOOK_SIDES = MappingProxyType({"bid": "B", "buy": "B", "b": "B", "ask": "A", "sell": "A", "a": "A"})


class Stamp(msgspec.Struct, frozen=True):
    """A column with an instant; `auto` tells s, ms, us and ns apart by their digits."""

    column: str
    unit: Unit


class TradeColumns(msgspec.Struct, frozen=True, kw_only=True):
    """One row per trade.

    At least one of exchange and receive; the other time is taken from it. `sides` maps the source's
    words, as they are or in lower case, to the taker's side: B bought, A sold. Without `symbol` the
    file is of one coin. Without `trade_id` an id is derived from the row.
    """

    price: str
    size: str
    side: str
    exchange: Stamp | None = None
    receive: Stamp | None = None
    sides: Mapping[str, str] = TAKER_SIDES
    trade_id: str | None = None
    symbol: str | None = None

    def wanted(self) -> tuple[str | None, ...]:
        """Columns in the order in which a row hands them over."""
        return (*_base(self), self.price, self.size, self.side, self.trade_id)


class QuoteColumns(msgspec.Struct, frozen=True, kw_only=True):
    """One row per best bid and offer; an empty pair of cells is a side without orders."""

    bid: str
    bid_size: str
    ask: str
    ask_size: str
    exchange: Stamp | None = None
    receive: Stamp | None = None
    symbol: str | None = None

    def wanted(self) -> tuple[str | None, ...]:
        """Columns in the order in which a row hands them over."""
        return (*_base(self), self.bid, self.bid_size, self.ask, self.ask_size)


class QuoteSideColumns(msgspec.Struct, frozen=True, kw_only=True):
    """One row per side of a best bid and offer: rows of equal times make one quote."""

    price: str
    size: str
    side: str
    exchange: Stamp | None = None
    receive: Stamp | None = None
    sides: Mapping[str, str] = BOOK_SIDES
    symbol: str | None = None

    def wanted(self) -> tuple[str | None, ...]:
        """Columns in the order in which a row hands them over."""
        return (*_base(self), self.price, self.size, self.side)


class BookColumns(msgspec.Struct, frozen=True, kw_only=True):
    """One row per book; `{}` in a name stands for the level, 0 is the best.

    `levels` of None takes as many as the header has. A level with an empty price is absent.
    """

    bid: str
    bid_size: str
    ask: str
    ask_size: str
    exchange: Stamp | None = None
    receive: Stamp | None = None
    symbol: str | None = None
    levels: int | None = None

    def wanted(self) -> tuple[str | None, ...]:
        """Columns in the order in which a row hands them over, the levels bids first."""
        bids = [t.format(i) for i in range(self.levels or 1) for t in (self.bid, self.bid_size)]
        asks = [t.format(i) for i in range(self.levels or 1) for t in (self.ask, self.ask_size)]
        return (*_base(self), *bids, *asks)


class BookListColumns(msgspec.Struct, frozen=True, kw_only=True):
    """One JSON line per book: two lists, best first, of `{"px","sz"}` objects or `[px, sz]`."""

    bids: str
    asks: str
    exchange: Stamp | None = None
    receive: Stamp | None = None
    symbol: str | None = None

    def wanted(self) -> tuple[str | None, ...]:
        """Columns in the order in which a row hands them over."""
        return (*_base(self), self.bids, self.asks)


class FrameColumns(msgspec.Struct, frozen=True, kw_only=True):
    """One JSON line per venue frame, with its time of receipt beside it."""

    receive: Stamp
    frame: str

    def wanted(self) -> tuple[str | None, ...]:
        """Members that a line must have."""
        return (self.receive.column, self.frame)


class StampedFrames(msgspec.Struct, frozen=True, kw_only=True):
    """`<receive ns> <frame>` lines; `dialect` says whose frames they are."""

    dialect: str = "venue"

    def wanted(self) -> tuple[str | None, ...]:
        """Members that a frame must have."""
        return ("channel",) if self.dialect == "venue" else ("stream", "data")


class Columns(Protocol):
    """A column description: it knows the columns it needs."""

    def wanted(self) -> tuple[str | None, ...]:
        """Columns in the order in which a row hands them over."""
        ...


RowColumns = TradeColumns | QuoteColumns | QuoteSideColumns | BookColumns | BookListColumns
TickColumns = RowColumns | FrameColumns | StampedFrames


def _base(columns: RowColumns) -> tuple[str | None, str | None, str | None]:
    """Return the three columns every row starts with: receive time, exchange time, symbol."""
    receive = columns.receive.column if columns.receive is not None else None
    exchange = columns.exchange.column if columns.exchange is not None else None
    return (receive, exchange, columns.symbol)


C = TypeVar("C", bound=Columns)


class Layout(msgspec.Struct, Generic[C], frozen=True, kw_only=True):
    """A preset: its name, its columns, which of them may be absent, and where the coin is named.

    form : csv (NDJSON with the same names will do), ndjson or stamped.
    coin_in_name : finds the coin in a file name (group 1) where no column holds it.
    """

    name: str
    kind: str
    columns: C
    form: str = "csv"
    optional: tuple[str, ...] = ()
    coin_in_name: str | None = None

    def needs(self) -> tuple[str, ...]:
        """Return the columns a file of this layout must have."""
        return tuple(name for name in self.columns.wanted() if name and name not in self.optional)

    def fits(self, found: Probe) -> bool:
        """Tell whether a file looks like this layout."""
        same_form = found.form == self.form or (self.form == "csv" and found.form == "ndjson")
        return same_form and set(self.needs()) <= set(found.names)

    def coin_in(self, path: Path) -> str | None:
        """Return the coin that a file name holds, if it does."""
        match = re.search(self.coin_in_name, path.name) if self.coin_in_name else None
        return match.group(1) if match is not None else None


def recognise(path: Path, layout: str | C | None, presets: Sequence[Layout[C]]) -> Layout[C] | str:
    """Return the layout of a file, or one sentence with what was found and what is known.

    layout : name of a preset, or columns of one's own; None takes the first preset that fits.
    """
    if not path.is_file():
        return f"{path}: expected a file, found none"
    found = probed(path)
    if not isinstance(layout, str | None):
        own = Layout(name="own columns", kind="", columns=layout, form=found.form)
        missing = [name for name in own.needs() if name not in found.names]
        return f"{path}: expected {', '.join(missing)}; found {shown(found)}" if missing else own
    named = [preset for preset in presets if layout is None or preset.name == layout]
    chosen = next((preset for preset in named if preset.fits(found)), None)
    if chosen is not None:
        return chosen
    wish = "a known layout" if layout is None else f"layout {layout}"
    return f"{path}: expected {wish}, found {shown(found)}; {known_layouts(named or presets)}"


def probed(path: Path) -> Probe:
    """Look at a file; one without any line has no columns."""
    return probe(path) or Probe("empty", ())


def shown(found: Probe) -> str:
    """Say what a file looks like, for a message."""
    what = {
        "csv": "columns",
        "ndjson": "JSON members",
        "stamped": "stamped JSON members",
        "empty": "an empty file",
    }
    return f"{what.get(found.form, 'a line')} {', '.join(found.names)}".strip()


def known_layouts(layouts: Sequence[Layout[C]]) -> str:
    """Return layouts and what each needs, for a message."""
    listed = [f"{each.name} ({each.kind}: {', '.join(each.needs())})" for each in layouts]
    return "known layouts: " + "; ".join(listed)
