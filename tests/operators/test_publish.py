"""Canonical bytes: one text per product, and nothing that JSON would change in silence."""

import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.contract import DeadLetter
from operators.publish import (
    canonical,
    dead_json,
    event_json,
    frame_json,
    row_json,
    suppression_json,
)
from operators.records import Frame, Row, Suppression

T_MS = 1_756_891_800_000


def test_row_is_one_flat_object_with_sorted_keys() -> None:
    """Identity, columns and extras share one object; the text does not depend on insertion."""
    row = Row(
        asset_uid=5,
        symbol="SOL",
        tf="1m",
        exchange_ts_ms=T_MS,
        revision=1,
        columns={"open": 2.5, "dq_reasons": ["quiet"], "warmup": False, "close": None},
        extras={"clamp": {"z_vol_m_1": [-1.0, 4.5]}},
    )
    assert row_json(row) == (
        b'{"asset_uid":5,"close":null,"dq_reasons":["quiet"],"exchange_ts":"2025-09-03T09:30:00Z",'
        b'"extras":{"clamp":{"z_vol_m_1":[-1.0,4.5]}},"open":2.5,"revision":1,"symbol":"SOL",'
        b'"tf":"1m","warmup":false}'
    )


def test_frame_carries_its_label_and_revision() -> None:
    """A frame is named by timeframe, minute and revision."""
    frame = Frame("1m", T_MS + 142, 0, {"leader": "BTC", "rs_top": ("SOL", "APT")})
    assert frame_json(frame) == (
        b'{"exchange_ts":"2025-09-03T09:30:00.142Z","extras":{},"leader":"BTC","revision":0,'
        b'"rs_top":["SOL","APT"],"tf":"1m"}'
    )


def test_what_is_on_trial_in_a_frame_is_under_extras() -> None:
    """It has no column of its own (build plan 20.2), and may not hide one."""
    frame = Frame("15m", T_MS, 0, {"leader": None}, {"rs_dispersion_m_5": 1.25})
    assert frame_json(frame) == (
        b'{"exchange_ts":"2025-09-03T09:30:00Z","extras":{"rs_dispersion_m_5":1.25},'
        b'"leader":null,"revision":0,"tf":"15m"}'
    )
    with pytest.raises(AssertionError, match="extras"):
        frame_json(Frame("1m", T_MS, 0, {"extras": {}}))


def test_a_longer_row_says_which_it_is() -> None:
    """Minute, quarter and hour of one label are three texts."""
    texts = [row_json(Row(5, "SOL", tf, T_MS, 0, {"open": 2.5})) for tf in ("1m", "15m", "1h")]
    assert [orjson.loads(text)["tf"] for text in texts] == ["1m", "15m", "1h"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_extras_are_checked_too(bad: float) -> None:
    """What is on trial is stored, so it must be a number as well."""
    with pytest.raises(AssertionError, match="expected"):
        frame_json(Frame("1m", T_MS, 0, {}, {"rs_dispersion_m_5": bad}))
    with pytest.raises(AssertionError, match="expected"):
        row_json(Row(5, "SOL", "1m", T_MS, 0, {}, {"clamp": {"z_vol_m_1": (bad, 1.0)}}))


def test_suppression_says_why() -> None:
    """Every field of the record is in the text."""
    suppressed = Suppression(5, "SOL", "1m", T_MS, 0, "spike.vol_spike_m_1", "cooldown", 61)
    parsed = orjson.loads(suppression_json(suppressed))
    assert parsed["reason"] == "cooldown"
    assert parsed["severity"] == 61
    assert parsed["exchange_ts"] == "2025-09-03T09:30:00Z"
    assert len(parsed) == len(Suppression.__struct_fields__)


def test_a_dead_letter_is_canonical_though_its_payload_is_not() -> None:
    """What the event was is text inside, so it may hold what JSON has no form for."""
    dead = DeadLetter("x", 5, None, "severity: expected", 17, '{"severity": NaN}')
    assert dead_json(dead) == (
        b'{"asset_uid":5,"event_id":"x","exchange_ts":null,"payload":"{\\"severity\\": NaN}",'
        b'"reason":"severity: expected","size_bytes":17}'
    )


def test_event_text_is_independent_of_key_order() -> None:
    """Two payloads with the same content have the same bytes, at every depth."""
    one = {"event_id": "x", "membership": {"is_hot": True, "universe_rev": 3}}
    other = {"membership": {"universe_rev": 3, "is_hot": True}, "event_id": "x"}
    assert event_json(one) == event_json(other)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_number_that_is_not_finite_is_named(bad: float) -> None:
    """The JSON library would write null; the assertion names the key instead."""
    with pytest.raises(AssertionError, match=r"local_state\.features\.z_vol_m_1: expected"):
        event_json({"local_state": {"features": {"z_vol_m_1": bad}}})
    with pytest.raises(AssertionError, match="open: expected"):
        row_json(Row(5, "SOL", "1m", T_MS, 0, {"open": bad}))


def finite_by_definition(value: object) -> bool:
    """The check in its plainest form."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(finite_by_definition(each) for each in value.values())
    return not isinstance(value, list | tuple) or all(map(finite_by_definition, value))


class Named(dict[str, Any]):
    """A dictionary by another name, which the JSON library writes as one."""


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(["null", ":null,", "NaN"]),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), inner, max_size=4),
        st.dictionaries(st.sampled_from("ab"), inner).map(Named),
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["a", "b", "null"]), VALUES, max_size=3))
def test_differential_the_finite_check_is_its_definition(value: dict[str, Any]) -> None:
    """What is refused and what is written do not depend on how the check is done."""
    if finite_by_definition(value):
        assert canonical(value) == orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        assert orjson.loads(canonical(value)) == orjson.loads(orjson.dumps(value))
    else:
        with pytest.raises(AssertionError, match="expected a finite number or None, found"):
            canonical(value)


def test_column_may_not_hide_the_identity() -> None:
    """A column named like a part of the key would silently replace it."""
    with pytest.raises(AssertionError, match="symbol"):
        row_json(Row(5, "SOL", "1m", T_MS, 0, {"symbol": "BTC"}))


def test_numbers_are_written_as_they_are() -> None:
    """Integers stay integers, floats keep the shortest text that reads back equal."""
    assert canonical({"n": 3, "x": 3.0, "y": 0.1, "z": 1.23456789012e-7}) == (
        b'{"n":3,"x":3.0,"y":0.1,"z":1.23456789012e-7}'
    )


def test_unknown_types_are_refused() -> None:
    """What has no JSON form is a bug of the producer, not something to guess."""
    with pytest.raises(TypeError):
        canonical({"a": object()})
