"""The passes over values give the same in both forms, and what they say is so."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import forms
from operators import native, scans
from operators.activity import Past
from operators.lattice import MINUTE_MS
from operators.records import Phase, Row, RowItem
from operators.rotation import Strength

PLAIN = forms.module("operators.scans", "plain")
FORMS = [PLAIN, native.compiled("scans") or PLAIN]
floats = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.floats())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
    ),
    max_leaves=12,
)


def numbers(value: Any) -> list[float]:
    """Return every number with a fraction that is in a value."""
    if isinstance(value, float):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [n for item in value for n in numbers(item)] if isinstance(value, list | tuple) else []


@pytest.mark.parametrize("form", FORMS, ids=["plain", "compiled"])
@given(value=values)
def test_property_finite_is_what_no_number_denies(form: Any, value: Any) -> None:
    """A number that is not finite is found however deep it is."""
    assert form.is_finite(value) is all(math.isfinite(number) for number in numbers(value))


@pytest.mark.parametrize("form", FORMS, ids=["plain", "compiled"])
@given(window=st.lists(floats, max_size=70), start=st.integers(0, 80))
def test_property_a_total_is_added_up_in_order(form: Any, window: list[float], start: int) -> None:
    """From the place on, from 0.0, one after the other, to the bit."""
    naive = 0.0
    for value in window[start:]:
        naive = naive + value
    assert repr(form.total(window, start)) == repr(naive)


minutes = st.lists(
    st.tuples(
        st.integers(0, 2),  # asset
        st.integers(0, 6),  # minutes since the one before; 0: that one amended
        st.one_of(st.none(), floats),
        st.one_of(st.none(), floats.map(abs)),
        st.sampled_from(("ok", "partial", "stale")),
    ),
    max_size=30,
)


def after(form: Any, made: list[Any]) -> tuple[Any, ...]:
    """Return what a form remembers of minutes, and what it says of them."""
    past: dict[int, Past] = {}
    strengths: dict[int, Strength] = {}
    label, said = 0, []
    for uid, missing, volume, interest, status in made:
        label += missing * MINUTE_MS
        columns = {
            "v_total_m_1": volume,
            "oi_close": interest,
            "dq_status": status,
            "rs_score_m_5": volume or 0.0,
        }
        rows = [Row(uid, "BTC", "1m", label, 0, columns)]
        form.remember_minutes(past, rows, Past, 5, 3)
        form.remember_strengths(strengths, rows, Strength, 4 * MINUTE_MS)
        for since in (label - 3 * MINUTE_MS, label - 90_000, label, label + 90_000, 0):
            said.append(form.sums_since(past, (0, 1, 2), since))
            said.append(form.medians_since(past, (0, 1, 2), since))
        said.append(form.squares([float(label % 7), volume or 0.0], 0.1))
    return past, strengths, repr(said)


@given(made=minutes)
def test_property_both_forms_remember_the_same_minutes(made: list[Any]) -> None:
    """Windows, streaks and sums, to the bit, with holes and amendments."""
    assert len({repr(after(form, made)) for form in FORMS}) == 1


def test_membership_is_written_into_rows_and_what_frames_read_is_kept() -> None:
    """In both forms, for members, hot assets and others, beside what was known of others; a column
    that a row does not have is NULL."""
    read = {"1m": ("ret", "z"), "15m": ("ret_15", "z_15")}
    for form in FORMS:
        rows = [
            Row(uid, "BTC", tf, MINUTE_MS, 0, {read[tf][0]: 0.5 * uid})
            for uid in (0, 1, 2)
            for tf in ("1m", "15m")
        ]
        phase = Phase(MINUTE_MS, False, 3, MINUTE_MS)
        items = [RowItem(phase, uid, tuple(rows[2 * uid : 2 * uid + 2])) for uid in (0, 1, 2)]
        last: dict[str, dict[int, tuple[Any, ...]]] = {"1m": {7: ("known",)}}
        form.give_membership(
            items, frozenset({0, 7}), {1: None}, 5, last, read, lambda *values: values
        )
        given_columns = [list(row.columns.values())[1:] for row in rows[::2]]
        assert given_columns == [[True, False, 5], [False, True, 5], [False, False, 5]]
        assert list(rows[1].columns) == ["ret_15", "is_in_universe", "is_hot", "universe_rev"]
        kept = {uid: (uid, "BTC", MINUTE_MS, 0.5 * uid, None) for uid in (0, 1, 2)}
        assert last == {"1m": {7: ("known",)} | kept, "15m": kept}


def test_minutes_go_forward() -> None:
    """An asset's older minute than its newest is a fault."""
    for form in FORMS:
        past = {7: Past(5 * MINUTE_MS, [1.0], [1.0])}
        with pytest.raises(AssertionError, match="asset 7 sent minute 180000 after 300000"):
            form.remember_minute(past, 7, 3 * MINUTE_MS, 1.0, 1.0, False, Past, 5, 3)


def test_the_module_runs_the_compiled_form_where_it_is_built() -> None:
    """As the kernel does."""
    assert ("plain" if native.compiled("scans") is None else "compiled") == scans.FORM
