"""A row that a detector fires on is never ruled out, whatever the expressions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.connectors.rows_table import TF
from dataflows.trial_screen import Screen
from operators.expressions import ColumnType, Expression, compile_expression
from packs.loader import Detector, load_packs
from packs.schema import TIMEFRAMES

arrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.compute")

PACKS = load_packs()
KINDS = PACKS.features.column_types()
NUMBERS, FLAG = ("ret_m_1", "z_vol_m_1", "trade_count_m_1"), "rs_incomplete"
HUGE = 1.7e308
EXPRESSIONS = [
    compile_expression(text, KINDS, ColumnType.BOOLEAN)
    for text in (
        "ret_m_1 >= 2",
        "z_vol_m_1 < ret_m_1 && !(ret_m_1 == 0)",
        "abs(ret_m_1) * 3 - z_vol_m_1 > min(trade_count_m_1, 2, ret_m_1)",
        "ret_m_1 / z_vol_m_1 > 1 || rs_incomplete",
        "!(rs_incomplete && max(z_vol_m_1, -ret_m_1) != 2) || symbol == 'BTC'",
        "sign(ret_m_1) == 1 && (dq_status == 'ok' || is_hot)",
        "ret_m_1 * z_vol_m_1 > 1 || !(z_vol_m_1 / ret_m_1 <= 2)",
        "is_vol_spike_m_1 || ret_m_1 + z_vol_m_1 >= 3",
    )
]
numbers = st.one_of(
    st.none(), st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, -2.0, HUGE, -HUGE]), st.floats(-4, 4)
)
# What the table does not have is there on the row: it may be anything.
rows = st.fixed_dictionaries(
    dict.fromkeys(NUMBERS, numbers)
    | {FLAG: st.sampled_from([None, True, False]), "dq_status": st.sampled_from(["ok", "stale"])}
    | {"symbol": st.sampled_from(["BTC", "ETH"]), "tf": st.sampled_from(TIMEFRAMES)}
    | {name: st.sampled_from([None, True, False]) for name in ("is_hot", "is_vol_spike_m_1")}
)


class Table:
    """Columns in memory, as a table of rows has them."""

    def __init__(self, found: list[dict[str, Any]]) -> None:
        self._columns = {
            name: arrow.array([row[name] for row in found], arrow.float64()) for name in NUMBERS
        }
        self._columns[FLAG] = arrow.array([row[FLAG] for row in found], arrow.bool_())
        for name in ("dq_status", "symbol"):
            self._columns[name] = arrow.array([row[name] for row in found], arrow.string())
        places = [TIMEFRAMES.index(row["tf"]) for row in found]
        self._columns[TF] = arrow.array(places, arrow.int8())
        self.names = frozenset(self._columns)

    def column(self, name: str) -> Any:
        """Return a column."""
        return self._columns[name]


def detector(guard: Expression, condition: Expression, *triggers: Expression) -> Detector:
    """Return a detector of these; what decides must not be NULL."""
    deciding = (condition, *triggers)
    return replace(
        PACKS.detectors[0],
        tfs=("1m", "1h"),
        guards=(guard,),
        conditions=(condition,),
        trigger=triggers[0],
        tier_triggers=dict(zip(("top", "tail"), triggers[1:], strict=False)),
        required=tuple(sorted({name for each in deciding for name in each.names})),
    )


@given(
    st.lists(rows, min_size=1, max_size=20),
    st.lists(st.sampled_from(EXPRESSIONS), min_size=3, max_size=5),
)
@settings(max_examples=300, deadline=None)
def test_property_what_fires_is_not_ruled_out(
    found: list[dict[str, Any]], parts: list[Expression]
) -> None:
    """Guards, conditions and triggers that fail, are NULL, or name what is not known here."""
    tried = detector(*parts)
    places = Screen(Table(found), arrow).places([tried])  # type: ignore[arg-type]
    assert places == sorted(set(places))
    for place, row in enumerate(found):
        if row["tf"] in tried.tfs and tried.may_fire(row):
            assert place in places


def test_what_cannot_fire_is_ruled_out() -> None:
    """Or nothing would be gained: NULL, a condition that is false, another timeframe."""
    held, other = EXPRESSIONS[0], EXPRESSIONS[1]
    fires = {"ret_m_1": 3.0, "z_vol_m_1": 1.0, "trade_count_m_1": 1.0, FLAG: None}
    fires |= {"dq_status": "ok", "symbol": "BTC", "tf": "1m"}
    found = [
        fires,
        {**fires, "ret_m_1": None},
        {**fires, "ret_m_1": 1.5},
        {**fires, "tf": "15m"},
        {**fires, "z_vol_m_1": 5.0},
    ]
    places = Screen(Table(found), arrow).places([detector(held, other, held)])  # type: ignore[arg-type]
    assert places == [0]
