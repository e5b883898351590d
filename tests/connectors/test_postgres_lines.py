"""A row becomes the same line, or the same error, whether its types were seen before or not."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from dataflows.connectors import postgres
from dataflows.connectors.postgres import Table, WriteError, tables_of
from packs.loader import load_packs

COLUMNS = {
    "count": "bigint",
    "level": "double precision",
    "change": "double precision",
    "hot": "boolean",
    "verdict": "text",
    "reasons": "text[]",
    "ingest_ts": "timestamptz",
}
good = {
    "count": st.integers(-(2**63), 2**63 - 1),
    "level": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5),
    "change": st.floats(allow_nan=False, allow_infinity=False),
    "hot": st.booleans(),
    "verdict": st.sampled_from(("ok", "stale")),
    "reasons": st.lists(st.sampled_from(("gap", "quiet"))),
    "ingest_ts": st.just("2025-09-03T09:30:01.500Z"),
}
odd = st.sampled_from(
    (math.nan, math.inf, -math.inf, 10**400, 1, 1.5, True, "x", ["gap", 1], {"a": 1}, b"x")
)
key = {"asset_uid": 5, "symbol": "SOL", "tf": "1m", "revision": 0, "extras_json": {"a": [1.5]}}
records = st.fixed_dictionaries(
    {}, optional={name: st.none() | value for name, value in good.items()}
).map(lambda values: {**key, "exchange_ts": "2025-09-03T09:30:00Z", **values})
spoilt = st.dictionaries(st.sampled_from((*COLUMNS, "no_such_column")), odd, max_size=2)


def rows_table() -> Table:
    """The table of rows for these columns; it has seen nothing."""
    return tables_of(COLUMNS)["features_snapshot"]


def plain(line: list[Any]) -> list[Any]:
    """A line that can be compared, with the types of its values."""
    values = [value.obj if isinstance(value, Jsonb) else value for value in line]
    return [(type(value), value) for value in values]


def outcome(table: Table, record: dict[str, Any]) -> Any:
    """The line, or the error in words."""
    try:
        return plain(table.line(record))
    except WriteError as error:
        return str(error)


@given(st.lists(st.tuples(records, spoilt), max_size=6))
def test_a_pattern_that_is_known_changes_nothing(
    given_records: list[tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    """Good rows and rows with values of all kinds, against the way that looks at each value."""
    quick, slow = rows_table(), rows_table()
    for record, spoil in given_records:
        for one in (record, {**record, **spoil}, record):
            with patch.object(Table, "_quick_line", lambda self, record: None):
                expected = outcome(slow, one)
            assert outcome(quick, one) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_after_it_was_fine(value: float) -> None:
    """The types are the same; the value is not."""
    table = rows_table()
    fine = {**key, "level": 1.0, "change": 2.0}
    assert table.line(fine)
    with pytest.raises(WriteError, match="change: expected a finite number"):
        table.line({**fine, "change": value})


def test_numbers_whose_sum_overflows_are_fine() -> None:
    """Each of them is finite."""
    table = rows_table()
    assert table.line({**key, "level": 1.7e308, "change": 1.7e308})


def test_the_patterns_are_forgotten_before_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table whose rows never look alike does not grow without end."""
    monkeypatch.setattr(postgres, "PATTERNS_MAX", 4)
    columns = {column.name: column.type for column in load_packs().features.stored}
    table = tables_of(columns)["features_snapshot"]
    numbers = [name for name, kind in columns.items() if kind == "double precision"][:20]
    for name in numbers:
        assert table.line({**key, name: 1.5})
        assert len(table._quick) <= 4
