"""Expressions have one name per column, whatever the timeframe calls it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.naming import Naming
from operators.records import Columns, Row
from packs.loader import load_packs
from packs.schema import TIMEFRAMES, Timeframe

FEATURES = load_packs().features
NAMING = Naming(FEATURES)
NAMES = {tf: FEATURES.names(tf) for tf in TIMEFRAMES}
LONGER = ("15m", "1h")
every_tf = pytest.mark.parametrize("tf", TIMEFRAMES)
longer = pytest.mark.parametrize("tf", LONGER)


def row(tf: Timeframe, extras: dict[str, Any] | None = None, **stored: Any) -> Row:
    """Return a row of which only some columns are known; they are said by their stored names."""
    columns = {**dict.fromkeys(NAMES[tf].values()), **stored}
    return Row(7, "SOL", tf, 900_000, 0, columns, extras or {})


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "quarter", "hour"),
    [
        ("z_vol_m_1", "z_vol_m_15", "z_vol_h_1"),
        ("ret_m_5", "ret_m_15", "ret_h_1"),
        ("cvd_slope_m_5", "cvd_slope_m_75", "cvd_slope_h_5"),
        ("is_vol_spike_m_1", "is_vol_spike_m_15", "is_vol_spike_h_1"),
        ("close", "close", "close"),
        ("dfunding_h_1", "dfunding_h_1", "dfunding_h_1"),
        ("b_divisor_dfunding", "b_divisor_dfunding", "b_divisor_dfunding"),
        ("leader", "leader", "leader"),
    ],
)
def test_the_stored_name_of_a_column(name: str, quarter: str, hour: str) -> None:
    """Its own on minutes and where the timeframe has none for it (build plan 15.2)."""
    assert [NAMING.stored(name, tf) for tf in TIMEFRAMES] == [name, quarter, hour]


def test_a_column_is_read_by_its_pack_name() -> None:
    """NULL where the row does not carry it."""
    assert NAMING.read(row("1m", z_vol_m_1=1.5), "z_vol_m_1") == 1.5
    assert NAMING.read(row("15m", z_vol_m_15=1.5), "z_vol_m_1") == 1.5
    assert NAMING.read(row("1h", z_vol_h_1=1.5), "z_vol_m_1") == 1.5
    assert NAMING.read(row("15m"), "b_divisor_dfunding") is None
    assert NAMING.read(row("1h", minutes_not_ok=3), "minutes_not_ok") == 3
    assert NAMING.read(row("1m"), "minutes_not_ok") is None
    assert NAMING.read(row("1m"), "no_such_column") is None


# --- views ---------------------------------------------------------------------------------------


def test_the_view_of_a_minute_is_the_row_and_its_symbol() -> None:
    """No column is renamed there."""
    one = row("1m", z_vol_m_1=2.0)
    assert NAMING.view(one) == {"symbol": "SOL", **one.columns}


@longer
def test_the_view_of_a_longer_row_has_both_names_of_every_column(tf: Timeframe) -> None:
    """The pack's, and those it is stored under; nothing that is stored is lost.

    What rows of the timeframe do not carry is NULL, so that an expression may still name it.
    """
    values: Columns = {
        name: index / 8 for index, name in enumerate(sorted(set(NAMES[tf].values())))
    }
    one = row(tf, **values)
    view = NAMING.view(one)
    assert view.items() >= values.items()
    assert {base: view[base] for base in NAMES[tf]} == {
        base: values[name] for base, name in NAMES[tf].items()
    }
    lacking = {column.name for column in FEATURES.columns} - NAMES[tf].keys() - values.keys()
    assert "b_divisor_dfunding" in lacking
    assert {view[name] for name in lacking} == {None}
    assert view.keys() == {"symbol", *values, *NAMES[tf], *lacking}


@longer
def test_a_view_does_not_write_through(tf: Timeframe) -> None:
    """Membership and flags are set on copies; the row stays what was stored."""
    one = row(tf)
    before = dict(one.columns)
    NAMING.view(one)["z_vol_m_1"] = 9.0
    NAMING.clamped(one, NAMING.view(one))["z_vol_m_1"] = 9.0
    assert one.columns == before


@longer
def test_a_row_of_an_older_table_is_read_with_what_it_has(tf: Timeframe) -> None:
    """A column that it lacks is NULL under both names, not an error."""
    one = Row(7, "SOL", tf, 900_000, 0, {"close": 2.0})
    view = NAMING.view(one)
    assert (view["close"], view["z_vol_m_1"]) == (2.0, None)


# --- clamps --------------------------------------------------------------------------------------


@every_tf
def test_every_z_is_clamped_by_its_own_bounds(tf: Timeframe) -> None:
    """Bounds are kept by stored name; both names of the view are clamped, the rest is not."""
    vol, spread = NAMES[tf]["z_vol_m_1"], NAMES[tf]["z_spread_m_1"]
    bounds = {vol: (-4.0, 3.5), spread: (-2.0, 2.5)}
    one = row(tf, {"clamp": bounds}, **{vol: 9.0, spread: -9.0, "close": 9.0})
    view = NAMING.view(one)
    clamped = NAMING.clamped(one, view)
    assert {clamped["z_vol_m_1"], clamped[vol]} == {3.5}
    assert {clamped["z_spread_m_1"], clamped[spread]} == {-2.0}
    assert clamped["close"] == 9.0
    assert view[vol] == 9.0, "the view itself is not changed"


@longer
def test_another_name_of_a_z_is_clamped_like_it(tf: Timeframe) -> None:
    """z_ret_abs_m_5 is that of the bar there, with the bounds of the bar."""
    name = NAMES[tf]["z_ret_abs_m_1"]
    assert NAMES[tf]["z_ret_abs_m_5"] == name
    one = row(tf, {"clamp": {name: (-1.0, 1.0)}}, **{name: 5.0})
    clamped = NAMING.clamped(one, NAMING.view(one))
    assert (clamped["z_ret_abs_m_1"], clamped["z_ret_abs_m_5"]) == (1.0, 1.0)


@every_tf
def test_without_bounds_nothing_is_clamped(tf: Timeframe) -> None:
    """A row that was stored without them, and a z that is NULL."""
    vol = NAMES[tf]["z_vol_m_1"]
    far: Columns = {vol: 99.0}
    one = row(tf, **far)
    assert NAMING.clamped(one, NAMING.view(one)) == NAMING.view(one)
    null = row(tf, {"clamp": {vol: (-1.0, 1.0)}})
    assert NAMING.clamped(null, NAMING.view(null)) == NAMING.view(null)


def test_what_comes_from_the_frame_is_kept() -> None:
    """Detectors that name the frame are scored on a view with its columns beside the row's."""
    one = row("15m", {"clamp": {"z_vol_m_15": (-1.0, 1.0)}}, z_vol_m_15=3.0)
    columns = {"leader": "BTC", "shock_count_5s": 3, **NAMING.view(one)}
    clamped = NAMING.clamped(one, columns)
    assert (clamped["leader"], clamped["shock_count_5s"]) == ("BTC", 3)
    assert clamped["z_vol_m_1"] == 1.0


z_names = [entry.z for entry in FEATURES.normalised if entry.z is not None]
sigma = st.none() | st.integers(-80, 80).map(lambda k: k / 8)


@settings(max_examples=60)
@given(
    st.sampled_from(TIMEFRAMES),
    st.dictionaries(st.sampled_from(z_names), sigma),
    st.dictionaries(
        st.sampled_from(z_names),
        st.tuples(st.integers(-40, -1), st.integers(1, 40)).map(lambda b: (b[0] / 8, b[1] / 8)),
    ),
)
def test_property_clamp(
    tf: Timeframe, values: Columns, bounds: dict[str, tuple[float, float]]
) -> None:
    """Every z ends between its bounds, those inside stay, NULL stays, nothing else moves."""
    names = NAMES[tf]
    stored = {names[name]: value for name, value in values.items() if name in names}
    clamp = {names[name]: pair for name, pair in bounds.items() if name in names}
    one = row(tf, {"clamp": clamp}, **stored)
    view = NAMING.view(one)
    clamped = NAMING.clamped(one, view)
    assert clamped.keys() == view.keys()
    for name, value in clamped.items():
        low, high = clamp.get(names.get(name, name), (-20.0, 20.0))
        before = view[name]
        if not isinstance(before, float) or low <= before <= high:
            assert value == before
        else:
            assert value == (low if before < low else high)
