"""Venue-shaped frames, built from text.

Rules of this file: numbers keep their text, so what was recorded is what is replayed; a number that
makes no sense (negative, nan) is passed on, for the flow judges it; what is not a number, or is
missing, is a fault of the row. Members that the source does not have are absent. Venue reference 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

import orjson

from dataflows.importing.reading import BAD_NUMBER, MISSING_FIELD, Cells, RowFault
from dataflows.importing.texts import is_number

EQUAL_ROWS_MAX = 16_384  # distinct rows remembered to number equal ones, of the newest instants

BAD_SIDE = "bad_side"
TRADES, BBO, L2BOOK = "trades", "bbo", "l2Book"


class Framed(NamedTuple):
    """A frame on its way into the log. `ticks` is how many trades, quotes or books it holds."""

    arrival_ns: int
    channel: str
    coin: str | None
    ticks: int
    frame: bytes


class Head(NamedTuple):
    """What every row starts with."""

    arrival_ns: int
    time_ms: int
    coin: str


def present(text: str) -> str:
    """Return a text that must not be empty."""
    if not text:
        raise RowFault(MISSING_FIELD)
    return text


def number(text: str) -> str:
    """Return the text of a number."""
    if not is_number(present(text)):
        raise RowFault(BAD_NUMBER)
    return text


def side_of(text: str, sides: Mapping[str, str]) -> str:
    """Return B or A for a source's word, looked up as it is and in lower case."""
    side = sides.get(present(text)) or sides.get(text.lower())
    if side is None:
        raise RowFault(BAD_SIDE)
    return side


def trade_entry(head: Head, cells: Cells, sides: Mapping[str, str], ids: TradeIds) -> str:
    """Return one trade of a frame from its price, size, side and id cells."""
    px, sz, side = number(cells[0]), number(cells[1]), side_of(cells[2], sides)
    tid = ids.of(cells[3], (head.coin, head.time_ms, px, sz, side))
    return (
        f'{{"coin":{_quoted(head.coin)},"side":"{side}","px":"{px}","sz":"{sz}",'
        f'"time":{head.time_ms},"tid":{tid}}}'
    )


def trades_frame(key: tuple[int, str], entries: list[str]) -> Framed:
    """Return the frame of some trades; `key` is their (arrival_ns, coin)."""
    frame = f'{{"channel":"trades","data":[{",".join(entries)}]}}'
    return Framed(key[0], TRADES, key[1], len(entries), frame.encode())


def level_of(px: str, sz: str) -> str:
    """Return a price level."""
    return f'{{"px":"{number(px)}","sz":"{number(sz)}"}}'


def level_or_null(px: str, sz: str) -> str:
    """Return a price level, null where both cells are empty."""
    return level_of(px, sz) if px or sz else "null"


def bbo_frame(head: Head, bid: str, ask: str) -> Framed:
    """Return a best bid and offer; a side is a level or null."""
    frame = (
        f'{{"channel":"bbo","data":{{"coin":{_quoted(head.coin)},"time":{head.time_ms},'
        f'"bbo":[{bid},{ask}]}}}}'
    )
    return Framed(head.arrival_ns, BBO, head.coin, 1, frame.encode())


def book_frame(head: Head, bids: str, asks: str) -> Framed:
    """Return a book; a side is its levels, best first, with commas between."""
    frame = (
        f'{{"channel":"l2Book","data":{{"coin":{_quoted(head.coin)},"time":{head.time_ms},'
        f'"levels":[[{bids}],[{asks}]]}}}}'
    )
    return Framed(head.arrival_ns, L2BOOK, head.coin, 1, frame.encode())


def _quoted(coin: str) -> str:
    return orjson.dumps(coin).decode()


class TradeIds:
    """Trade ids of one file: the source's own, or one derived from the row.

    A derived id depends on the coin, time, price, size and side, and on how many equal rows came
    before it in the file: equal rows stay apart, and the same stretch recorded in two files gets
    the same ids. A numeric id is kept, any other text is hashed; a repeated id stays repeated.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int, str, str, str], int] = {}

    def of(self, given: str, row: tuple[str, int, str, str, str]) -> int:
        """Return the id of a row; `given` is the source's text, "" for none."""
        if not given:
            return _hashed(*row, self._ordinal(row))
        whole = given.removesuffix(".0")
        return int(whole) if whole.isdecimal() and len(whole) <= 18 else _hashed(row[0], given)

    def _ordinal(self, row: tuple[str, int, str, str, str]) -> int:
        ordinal = self._seen.get(row, 0)
        self._seen[row] = ordinal + 1
        if len(self._seen) > EQUAL_ROWS_MAX:
            newest = sorted(self._seen, key=lambda seen: seen[1])[EQUAL_ROWS_MAX // 2 :]
            self._seen = {seen: self._seen[seen] for seen in newest}
        return ordinal


def _hashed(*parts: object) -> int:
    """Return 50 bits of a hash, the width of the venue's own ids."""
    digest = blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 14
