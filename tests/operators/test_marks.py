"""The one function of a timeframe says what each detector says by itself, NULL for NULL."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.detect import Detect, candidate_of, gate_of, is_of_assets
from operators.expressions import FAILURES, PYTHON_NAMES, ColumnType, compile_expression
from operators.marks import FLAG_PREFIX
from operators.naming import Naming
from operators.records import Candidate, Columns, Phase, Row, RowItem
from packs.loader import Detector, Packs, load_packs
from packs.schema import TIMEFRAMES

FOLDER = Path(__file__).parents[2] / "packs" / "detectors"
RELEASED = {name: load_packs(detectors=FOLDER / f"{name}.yaml") for name in ("v0.1", "v0.2")}
HUGE = 1.7e308


def failing(packs: Packs) -> Packs:
    """Return a pack in which every kind of expression can fail, on every timeframe."""
    columns = packs.features.column_types()
    compiled = [
        compile_expression(text, columns, ColumnType.BOOLEAN)
        for text in (
            "ret_m_1 / z_vol_m_1 > 1 || is_hot",
            "z_vol_m_1 * ret_m_1 > 2 && !(min(ret_m_1, -z_vol_m_1) * 3 < -2)",
            "max(abs(ret_m_1), sign(z_vol_m_1) + 0.5) / (z_vol_m_1 - 3) >= 2.5",
            "is_vol_spike_m_1 || dq_status == 'ok'",
        )
    ]
    base = packs.detectors[0]
    made = [
        replace(
            base,
            detector_id=f"spike.{place}",
            subtype=f"{place}",
            tfs=TIMEFRAMES,
            guards=(compiled[place],),
            conditions=(compiled[place - 1],),
            trigger=compiled[place - 2],
            tier_triggers={"top": compiled[place - 3]},
            required=tuple(
                sorted(
                    {n for other in (1, 2, 3) for n in compiled[place - other].names}
                    | set(base.primary.names)
                )
            ),
        )
        for place in range(len(compiled))
    ]
    needed = tuple(sorted({*base.required, *compiled[2].names}))
    flagging = replace(
        base,
        detector_id="shift.x",
        subtype="spread_stress_m_1",
        trigger=compiled[2],
        required=needed,
    )
    return replace(packs, detectors=(*packs.detectors, *made, flagging))


PACKS = {**RELEASED, "failing": failing(RELEASED["v0.2"])}


def naively(packs: Packs, row: Row, nulls: dict[str, int]) -> tuple[Columns, tuple[Candidate, ...]]:
    """Return columns with flags, and candidates, by one interpreted expression after another."""
    naming = Naming(packs.features)
    view = naming.view(row)
    by_subtype = {d.subtype: d for d in packs.detectors}
    flags: dict[str, Any] = {}
    for column in packs.features.columns:
        detector = by_subtype.get(column.name.removeprefix(FLAG_PREFIX))
        if column.family == "flag" and detector is not None:
            value = detector.trigger.evaluate(view)
            good = view["dq_status"] == "ok" and not view["illiquidity_hit"]
            flags[column.name] = None if value is None else bool(value) and good
    stored = {naming.stored(name, row.tf): flag for name, flag in flags.items()}
    seen, found = view | flags | stored, []
    for each in packs.detectors:
        if not is_of_assets(each) or each.needs_frame or row.tf not in each.tfs:
            continue
        fired = Detector.may_fire(each, seen)
        if fired is None:
            nulls[each.detector_id] = nulls.get(each.detector_id, 0) + 1
        elif fired:
            found.append(candidate_of(each, seen, gate_of(seen), row, naming))
    return row.columns | stored, tuple(found)


def values(kind: ColumnType) -> st.SearchStrategy[Any]:
    """Values at thresholds and beyond, and NULL."""
    if kind is ColumnType.BOOLEAN:
        return st.sampled_from((None, True, False))
    if kind is ColumnType.TEXT:
        return st.sampled_from((None, "ok", "stale", "BTC"))
    near = (0.0, -0.0, 2.0, 2.5, 3.0, 3.5, -2.0, -3.0, 0.0005, -0.0005, 0.02, 5, 20, HUGE, -HUGE)
    return st.one_of(st.none(), st.sampled_from(near), st.floats(-9, 9))


@st.composite
def rows(draw: st.DrawFn, packs: Packs) -> Row:
    """Rows of any timeframe on which much of what detectors read is known."""
    tf = draw(st.sampled_from(TIMEFRAMES))
    names, types = packs.features.names(tf), packs.features.column_types()
    columns: Columns = dict.fromkeys(names.values())
    read = {n for d in packs.detectors for n in (*d.required, *d.trigger.names)}
    for name in sorted(read & names.keys()):
        columns[names[name]] = draw(values(types[name]))
    columns["dq_status"] = draw(st.sampled_from(("ok", "ok", "ok", "partial")))
    columns["illiquidity_hit"] = draw(st.booleans())
    columns["warmup"] = draw(st.booleans())
    bounds = {names["z_vol_m_1"]: (-3.0, 4.0)} if draw(st.booleans()) else {}
    return Row(3, "BTC", tf, 1_756_891_800_000, 0, columns, {"clamp": bounds})


@pytest.mark.parametrize("name", PACKS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_property_all_at_once_is_one_by_one(name: str, data: st.DataObject) -> None:
    """Flags, candidates in order with their scores, and the counts of NULLs are the same."""
    packs = PACKS[name]
    detect, nulls = Detect(packs), dict[str, int]()
    for row in data.draw(st.lists(rows(packs), min_size=1, max_size=4)):
        columns, found = naively(packs, row, nulls)
        item = RowItem(Phase(row.exchange_ts_ms, False, 1, row.exchange_ts_ms), 3, (row,))
        (marked,) = detect.step(None, item)
        assert list(marked.rows[0].columns.items()) == list(columns.items())
        assert marked.candidates == (found,)
    assert detect.nulls == nulls


@pytest.mark.parametrize(
    "text",
    [
        "ret_m_1 / z_vol_m_1 > 1",
        "ret_m_1 * z_vol_m_1 < 1 || z_vol_m_1 / ret_m_1 > 0",
        "min(abs(ret_m_1), sign(-z_vol_m_1), 2.0) <= -1 && !(ret_m_1 == z_vol_m_1)",
        "symbol == 'BTC' || ret_m_1 - z_vol_m_1 >= max(1e300, ret_m_1)",
    ],
)
@given(a=values(ColumnType.NUMBER), b=values(ColumnType.NUMBER))
def test_property_an_expression_as_python_has_its_value(text: str, a: Any, b: Any) -> None:
    """Where every column is known, the text in Python is the expression, failures included."""
    columns = RELEASED["v0.2"].features.column_types()
    expression = compile_expression(text, columns, ColumnType.BOOLEAN)
    row = {"ret_m_1": a, "z_vol_m_1": b, "symbol": "BTC"}
    variables = {name: f"c{place}" for place, name in enumerate(expression.names)}
    known = {variable: row[name] for name, variable in variables.items()}
    value: bool | None
    if None in known.values():
        value = None
    else:
        try:
            value = bool(eval(expression.python(variables), dict(PYTHON_NAMES), known))
        except FAILURES:
            value = None
    assert value is expression.evaluate(row)
    assert value is not None or None in known.values() or expression.may_fail
