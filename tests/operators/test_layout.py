"""Ticks as they lie in memory: whole records, nothing lost on the way in and out."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import kernel, layout
from operators.layout import (
    books_of,
    contexts_of,
    pack_book,
    pack_context,
    pack_quote,
    pack_trade,
    quotes_of,
    ticks_of,
    trades_of,
)
from operators.records import Book, Context, Quote, Ticks, Trade

WHOLE_MAX = (1 << 63) - 1

wholes = st.integers(0, WHOLE_MAX)
numbers = st.floats(allow_nan=False)
nullable = st.none() | numbers
levels = st.lists(st.tuples(numbers, numbers), max_size=layout.LEVELS).map(tuple)
trades = st.builds(Trade, wholes, wholes, numbers, numbers, st.booleans(), wholes)
quotes = st.builds(Quote, wholes, wholes, nullable, nullable, nullable, nullable)
books = st.builds(Book, wholes, wholes, levels, levels)
contexts = st.builds(Context, wholes, nullable, nullable, nullable, nullable)


@given(
    st.lists(trades, max_size=5),
    st.lists(quotes, max_size=5),
    st.lists(books, max_size=5),
    st.lists(contexts, max_size=5),
)
def test_property_records_say_what_was_packed(
    prints: list[Trade], tops: list[Quote], depths: list[Book], samples: list[Context]
) -> None:
    """Every whole number and double, each NULL in its place, in the order given."""
    ticks = ticks_of(prints, tops, depths, samples, {"late": 2})
    assert repr(trades_of(ticks.trades)) == repr(prints)  # repr tells -0.0 from 0.0, True from 1
    assert repr(quotes_of(ticks.quotes)) == repr(tops)
    assert repr(books_of(ticks.books)) == repr(depths)
    assert repr(contexts_of(ticks.contexts)) == repr(samples)
    assert ticks.rejects == {"late": 2}


@given(st.lists(quotes, max_size=4), st.lists(quotes, max_size=4))
def test_property_batches_lie_one_after_the_other(some: list[Quote], more: list[Quote]) -> None:
    """Joining the bytes joins what they say."""
    joined = ticks_of(quotes=some).quotes + ticks_of(quotes=more).quotes
    assert joined == ticks_of(quotes=[*some, *more]).quotes


RECORDS: list[tuple[Callable[[Any], bytes], Any, int, int]] = [
    (pack_trade, Trade(1, 2, 3.0, 4.0, True, 5), kernel.TRADE_BYTES, layout.TRADE.size),
    (pack_quote, Quote(1, 2, None, None, None, None), kernel.QUOTE_BYTES, layout.QUOTE.size),
    (pack_book, Book(1, 2, (), ()), kernel.BOOK_BYTES, layout.BOOK.size),
    (pack_context, Context(1, None, None, None, None), kernel.CONTEXT_BYTES, layout.CONTEXT.size),
]


@pytest.mark.parametrize(("pack", "record", "in_kernel", "size"), RECORDS)
def test_the_inner_loops_step_by_the_size_of_a_record(
    pack: Callable[[Any], bytes], record: Any, in_kernel: int, size: int
) -> None:
    """One size, in both places; fields of 8 bytes, so that each lies where a C struct has it."""
    assert len(pack(record)) == in_kernel == size
    assert size % 8 == 0


def test_fields_lie_where_they_are_said_to_lie() -> None:
    """Little-endian, in the order of the record; a side that the venue did not send is NaN."""
    trade = pack_trade(Trade(1, 2, 3.5, 4.5, True, 5))
    assert trade == struct.pack("<qqddqq", 1, 2, 3.5, 4.5, 1, 5)
    quote = pack_quote(Quote(1, 2, 3.5, 4.5, None, None))
    assert quote == struct.pack("<qqdddd", 1, 2, 3.5, 4.5, math.nan, math.nan)
    context = pack_context(Context(1, None, 3.5, 0.0, -2.5))
    assert context == struct.pack("<qdddd", 1, math.nan, 3.5, 0.0, -2.5)
    book = pack_book(Book(1, 2, ((3.0, 4.0), (2.0, 5.0)), ((6.0, 7.0),)))
    nothing = [math.nan]
    sides = [3.0, 4.0, 2.0, 5.0, *nothing * 6, 6.0, 7.0, *nothing * 8]
    assert book == struct.pack("<qq20d", 1, 2, *sides)


def test_all_levels_that_the_reader_keeps_have_their_place() -> None:
    """And those of the depth columns; a level beyond them is left out."""
    assert layout.LEVELS == kernel.DEPTH_LEVELS
    side = tuple((float(k), 1.0) for k in range(1, 8))
    (found,) = books_of(ticks_of(books=[Book(1, 2, side, side[1:])]).books)
    assert found == Book(1, 2, side[:5], side[1:6])


def test_no_record_is_no_bytes() -> None:
    """Nor anything shared between two batches."""
    empty = ticks_of()
    assert empty == Ticks()
    assert (trades_of(empty.trades), quotes_of(empty.quotes)) == ([], [])
    assert (books_of(empty.books), contexts_of(empty.contexts)) == ([], [])
    empty.trades.extend(pack_trade(Trade(1, 2, 3.0, 4.0, True, 5)))
    empty.rejects["late"] = 1
    assert ticks_of() == Ticks() == Ticks(rejects={})


@pytest.mark.parametrize("whole", [WHOLE_MAX + 1, -WHOLE_MAX - 2])
def test_a_whole_number_beyond_its_place_is_a_bug(whole: int) -> None:
    """The reader lets none through; nothing is cut off in silence."""
    with pytest.raises(struct.error):
        pack_trade(Trade(1, 2, 3.0, 4.0, True, whole))
