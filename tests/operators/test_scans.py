"""The passes over values give the same in both forms, and what they say is so."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import forms
from operators import native, scans

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


names = st.lists(st.sampled_from("abcdefgh"), max_size=8)


@pytest.mark.parametrize("form", FORMS, ids=["plain", "compiled"])
@given(shape=names, columns=st.dictionaries(st.sampled_from("abcdefgh"), values), own=names)
def test_property_what_is_arranged_is_all_there_is_once(
    form: Any, shape: list[str], columns: dict[str, Any], own: list[str]
) -> None:
    """Every name of the shape in its order, each from one side, with finite numbers; else None."""
    rest, order = dict.fromkeys(own, "x"), dict.fromkeys(shape)
    found = form.arranged(order, columns, rest)
    whole = not columns.keys() & rest.keys() and columns.keys() | rest.keys() == order.keys()
    if whole and all(math.isfinite(number) for number in numbers(columns)):
        assert list(found) == list(order)
        assert found == columns | rest
    else:
        assert found is None
    assert order == dict.fromkeys(shape)


def test_the_module_runs_the_compiled_form_where_it_is_built() -> None:
    """As the kernel does."""
    assert ("plain" if native.compiled("scans") is None else "compiled") == scans.FORM
