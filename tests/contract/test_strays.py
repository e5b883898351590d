"""What an event must not hold is found in both forms where the contract has words for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import forms
from operators import contract, native

PLAIN = forms.module("operators.strays", "plain")
FORMS = [PLAIN, native.compiled("strays") or PLAIN]

few = st.sampled_from("ab")
known_names = st.recursive(
    st.none(), lambda inner: st.dictionaries(few, inner, max_size=2), max_leaves=4
).filter(lambda known: known is not None)
objects = st.dictionaries(
    few,
    st.recursive(
        st.one_of(st.none(), st.floats(), st.lists(st.floats(), max_size=2), st.just("x")),
        lambda inner: st.dictionaries(few, inner, max_size=2),
        max_leaves=6,
    ),
)


@pytest.mark.parametrize("form", FORMS, ids=["plain", "compiled"])
@given(value=objects, known=known_names)
def test_property_strays_are_those_that_are_named(form: Any, value: Any, known: Any) -> None:
    """There is one just where the contract has words for one."""
    assert form.has_strays(value, known) is (contract._first_stray(value, known, "") is not None)
