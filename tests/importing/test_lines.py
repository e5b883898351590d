"""Lines of a bars file read straight from their text: what the other reader finds, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataflows.importing import bars
from dataflows.importing.bars import COLUMNS, BarRow
from dataflows.importing.reading import RowFault, cells_of
from operators import native

pytestmark = pytest.mark.skipif(
    native.compiled("lines") is None, reason="the fast reader is not compiled here"
)
HEADERS = (COLUMNS, COLUMNS[:7], (*COLUMNS[:7], "taker_buy_quote"), tuple(reversed(COLUMNS)))
NUMBERS = ("1", "0", "2.5", "80640.123456789012", "0.1", "-1", "1e5", "", "007", "1.", ".5", "nan")
texts = st.one_of(
    st.sampled_from(NUMBERS),
    st.floats(1e-9, 1e9).map(repr),
    st.decimals(0, 10**9, places=6, allow_nan=False).map(str),
    st.text("0123456789.,-+e \"#'é", max_size=6),
)


@st.composite
def lines(draw: st.DrawFn) -> tuple[tuple[str, ...], bytes]:
    """A header, and a line that mostly fits it."""
    names = draw(st.sampled_from(HEADERS))
    price = draw(st.integers(1, 10**7)) / 1000
    usual = {
        "symbol": "BTC",
        "close_ms": str(60_000 * draw(st.integers(28_000_000, 30_000_000))),
        **dict.fromkeys(("open", "close", "low"), str(price)),
        "high": str(price + draw(st.integers(0, 5)) / 8),
        "volume_quote": draw(st.sampled_from(("0", "12.5", "1234567.125"))),
        "trade_count": draw(st.sampled_from(("0", "", "17"))),
        "taker_buy_quote": draw(st.sampled_from(("0", "", "12.5", "12.500000001"))),
    }
    for name in draw(st.lists(st.sampled_from(names), max_size=2)):
        usual[name] = draw(texts)
    text = ",".join(usual[name] for name in names)
    return names, (text + draw(st.sampled_from(("", "", "", ",", ",1", "\r", "\0")))).encode()


def otherwise(names: tuple[str, ...], line: bytes) -> tuple[int, str, BarRow] | None:
    """Return what is read of a line without the fast reader, None where it is at fault."""
    try:
        return bars._usual(names)(line) or bars._row(cells_of(names, COLUMNS)(line))
    except RowFault:
        return None


@given(made=lines())
@settings(max_examples=500)
@example(made=(COLUMNS, b"BTC,1788480060000,80640,80642.526,80615.607,80620.818,2398679.5,52,1.6"))
def test_property_a_line_is_read_as_otherwise_or_not_at_all(
    made: tuple[tuple[str, ...], bytes],
) -> None:
    """The same close, symbol and values to the bit, whatever a line holds."""
    names, line = made
    found = bars._fast(names)(line)
    assert found is None or repr(found) == repr(otherwise(names, line))


def test_the_lines_of_most_files_are_read_fast() -> None:
    """With and without the columns that a file need not have."""
    line = b"BTC,1788480060000,80640,80642.526,80615.607,80620.818,2398679.5,52,1897059.6"
    bar = BarRow(80640.0, 80642.526, 80615.607, 80620.818, 2398679.5, 52, 1897059.6)
    assert bars._fast(COLUMNS)(line) == (1_788_480_060_000, "BTC", bar)
    bare = BarRow(80640.0, 80642.526, 80615.607, 80620.818, 2398679.5)
    assert bars._fast(COLUMNS[:7])(line.rsplit(b",", 2)[0]) == (1_788_480_060_000, "BTC", bare)
    assert bars._fast(COLUMNS)(line.rsplit(b",", 2)[0] + b",,") == (1_788_480_060_000, "BTC", bare)
