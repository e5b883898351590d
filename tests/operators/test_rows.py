"""Rows written straight from their columns: the bytes are orjson's, or there are none."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import native
from operators.kernel import round12

ROWS: Any = native.compiled("rows")
pytestmark = pytest.mark.skipif(ROWS is None, reason="rows are written by orjson here")

OWN = ("asset_uid", "extras")
stored = st.floats(allow_nan=False, allow_infinity=False).map(round12)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**63 - 1), st.floats(), stored, st.text()
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=40),
    ),
    max_leaves=12,
)


def told(value: Any) -> bytes | None:
    """Return the text of a row with one value."""
    text: bytes | None = ROWS.Shape(["z"], ()).text({"z": value}, ())
    return text


def sorted_json(value: Any) -> bytes:
    """Return the canonical text of a value."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def test_stored_numbers_are_written_as_they_are() -> None:
    """All that lies in the range of stored columns is written here, and to the byte."""
    source, found = random.Random(1), 0
    for power in range(-10, 12):
        for digits in range(1, 13):
            for _ in range(60):
                number = round12(
                    source.choice((1, -1)) * source.randrange(1, 10**digits) * 10**power
                )
                number = float(f"{number:.{digits}g}")
                if 2.0**-36 <= abs(number) < 1e12:
                    assert told(number) == b'{"z":%b}' % sorted_json(number), number
                    found += 1
    assert found > 9_000


def test_what_is_no_stored_number_is_left_to_others() -> None:
    """More than 12 digits, or beyond the range; an exponent begins where orjson's does."""
    for number in (
        0.1 + 0.2,
        1 / 3,
        1e12,
        1e-12,
        -0.0,
        float("nan"),
        float("inf"),
        2**63,
        -(2**64),
    ):
        assert told(number) is None, number
    for number in (1e-5, 9.99999999999e-6, 1.5e-10, 0.0, 1.0, -1e11, 999999999999.0):
        assert told(number) == b'{"z":%b}' % sorted_json(number)


@given(value=values)
@settings(max_examples=300)
def test_property_a_value_is_written_as_orjson_does_or_not_at_all(value: Any) -> None:
    """However deep it is."""
    text = told(value)
    assert text is None or text == sorted_json({"z": value})


names = st.lists(st.text("ab_", max_size=3), unique=True, max_size=8)


@given(columns=names, given_names=names, value=scalars)
def test_property_names_are_sorted_and_must_be_those_of_the_shape(
    columns: list[str], given_names: list[str], value: Any
) -> None:
    """A row with other names, or in another order, is left to others."""
    shape = ROWS.Shape(columns, OWN)
    row = dict.fromkeys(given_names, value)
    text = shape.text(row, (7, {"b": [], "a": {}}))
    assert shape.fits(row) is (given_names == columns)
    if given_names != columns:
        assert text is None
    elif text is not None:
        assert text == sorted_json({**row, "asset_uid": 7, "extras": {"b": [], "a": {}}})


def test_what_is_too_large_is_left_to_others() -> None:
    """A long text, a long list, an object with many keys, a row with many columns."""
    for value in ("x" * 20_000, [1.5] * 10_000, dict.fromkeys(map(str, range(33))), "é", "\n", '"'):
        assert told(value) is None
    assert told("x" * 16_000) is not None
    wide = dict.fromkeys([f"c{number}" for number in range(500)])
    assert ROWS.Shape(wide, ()).text(wide, ()) is None
    assert ROWS.Shape(["é"], ()).text({"é": 1}, ()) is None


def test_a_column_cannot_hide_what_a_row_is() -> None:
    """Names that are on both sides are a fault."""
    with pytest.raises(AssertionError, match="part of the identity"):
        ROWS.Shape(["asset_uid"], OWN)
