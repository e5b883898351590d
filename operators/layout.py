"""How ticks lie in memory: records of one size, one after the other, in arrival order.

Rules of this file: fields have 8 bytes, little-endian; a number that the venue did not send is NaN,
which no number that it sends can be (operators/wire.py). Steps pass such bytes on and the inner
loops (operators/kernel.py) walk them; `Trade`, `Quote`, `Book` and `Context` are what one record
says.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isnan, nan
from struct import Struct

from operators.records import Book, Context, Quote, Ticks, Trade

LEVELS = 5  # of each side of a book that are kept

TRADE = Struct("<qqddqq")  # arrival_ns, time_ms, px, sz, is_buy, tid
QUOTE = Struct("<qqdddd")  # arrival_ns, time_ms, bid_px, bid_sz, ask_px, ask_sz
BOOK = Struct("<qq20d")  # arrival_ns, time_ms, px and sz of each bid, of each ask; best first
CONTEXT = Struct("<qdddd")  # arrival_ns, open_interest_base, mark_px, oracle_px, funding_rate


def pack_trade(trade: Trade) -> bytes:
    """Return the record of a print."""
    return TRADE.pack(*_fields(trade))


def pack_quote(quote: Quote) -> bytes:
    """Return the record of a top of book."""
    return QUOTE.pack(*_fields(quote))


def pack_book(book: Book) -> bytes:
    """Return the record of a snapshot; levels that are not there are NaN."""
    return BOOK.pack(book.arrival_ns, book.time_ms, *_side(book.bids), *_side(book.asks))


def pack_context(context: Context) -> bytes:
    """Return the record of a perp's state."""
    return CONTEXT.pack(*_fields(context))


def ticks_of(
    trades: Iterable[Trade] = (),
    quotes: Iterable[Quote] = (),
    books: Iterable[Book] = (),
    contexts: Iterable[Context] = (),
    rejects: dict[str, int] | None = None,
) -> Ticks:
    """Return a micro-batch of records."""
    return Ticks(
        bytearray(b"".join(map(pack_trade, trades))),
        bytearray(b"".join(map(pack_quote, quotes))),
        bytearray(b"".join(map(pack_book, books))),
        bytearray(b"".join(map(pack_context, contexts))),
        {} if rejects is None else rejects,
    )


def trades_of(data: bytearray) -> list[Trade]:
    """Return what records of prints say."""
    return [
        Trade(arrival_ns, time_ms, px, sz, bool(is_buy), tid)
        for arrival_ns, time_ms, px, sz, is_buy, tid in TRADE.iter_unpack(data)
    ]


def quotes_of(data: bytearray) -> list[Quote]:
    """Return what records of tops of book say."""
    return [
        Quote(arrival_ns, time_ms, *map(_null, sides))
        for arrival_ns, time_ms, *sides in QUOTE.iter_unpack(data)
    ]


def books_of(data: bytearray) -> list[Book]:
    """Return what records of snapshots say."""
    return [
        Book(arrival_ns, time_ms, _levels(sides[: 2 * LEVELS]), _levels(sides[2 * LEVELS :]))
        for arrival_ns, time_ms, *sides in BOOK.iter_unpack(data)
    ]


def contexts_of(data: bytearray) -> list[Context]:
    """Return what records of perp states say."""
    return [
        Context(arrival_ns, *map(_null, values))
        for arrival_ns, *values in CONTEXT.iter_unpack(data)
    ]


def _fields(record: Trade | Quote | Context) -> list[float]:
    values = [getattr(record, name) for name in record.__struct_fields__]
    return [nan if value is None else value for value in values]


def _side(levels: tuple[tuple[float, float], ...]) -> list[float]:
    flat = [number for level in levels[:LEVELS] for number in level]
    return flat + [nan] * (2 * LEVELS - len(flat))


def _levels(flat: list[float]) -> tuple[tuple[float, float], ...]:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return tuple((px, sz) for px, sz in pairs if not isnan(px))


def _null(value: float) -> float | None:
    return None if isnan(value) else value
