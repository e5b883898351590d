"""The feature registry: one declaration a column, and every name it has says what it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dataflows.registry import read_tables
from packs.loader import load_packs
from packs.schema import FEEDS, MINUTE_TF, TIMEFRAMES, Column, Normalised, Timeframe

PACK = load_packs().features
REGISTRY = {column.name: column for column in PACK.registry}
DECLARED = {column.name: column for column in PACK.columns}
MINUTES: dict[Timeframe, int] = {"1m": 1, "15m": 15, "1h": 60}
UNIT_MINUTES = {"m": 1, "h": 60}
SQL_TYPES = {
    "INT2": "bigint",
    "INT4": "bigint",
    "INT8": "bigint",
    "DECIMAL": "double precision",
    "BOOL": "boolean",
    "TEXT": "text",
    "ENUM": "text",
    "TIMESTAMPTZ": "timestamptz",
}
# Build plan, Appendix A.1 to A.9: type -> columns, in the plan's own words.
APPENDIX_A = {
    "A.1": {
        "TIMESTAMPTZ": "ingest_ts",
        "TEXT": "feature_pack source",
        "INT2": "pack_rev ingest_lag_ms dropped_ticks book_staleness_ms",
        "BOOL": "is_in_universe is_hot warmup",
        "INT4": "universe_rev oi_staleness_ms",
        "ENUM": "dq_status",
    },
    "A.2": {
        "DECIMAL": "open high low close mid_close ret_s_30 ret_m_1 ret_m_5 ret_m_15 ret_abs_m_1"
        " rv_m_1 atr_proxy_m_1 z_ret_abs_m_1 q_ret_abs_m_1",
    },
    "A.3": {
        "DECIMAL": "v_buy_m_1 v_sell_m_1 v_total_m_1 cvd_delta_m_1 cvd_level cvd_slope_m_5"
        " z_vol_m_1 q_vol_m_1",
        "INT4": "trade_count_m_1",
    },
    "A.4": {
        "DECIMAL": "oi_open oi_close oi_min oi_max oi_delta_m_5 oi_roc_m_5 liq_notional_m_5"
        " z_oi_roc_m_5 q_oi_roc_m_5",
        "INT4": "liq_count_m_5",
    },
    "A.5": {"DECIMAL": "funding_h_1 basis_bp_m_5 z_basis_m_5", "INT4": "time_to_next_funding_sec"},
    "A.6": {
        "DECIMAL": "spread_mean_m_1 spread_p95_m_1 obi_top5_mean_m_1 depth_top5_quote_median_m_1"
        " z_spread_m_1",
    },
    "A.7": {
        "BOOL": "is_vol_spike_m_1 is_price_spike_up_m_1 is_price_spike_down_m_1"
        " is_oi_spike_up_m_5 is_oi_spike_down_m_5 is_spread_stress_m_1 is_liq_cluster_m_5",
    },
    "A.8": {"DECIMAL": "rs_score_m_5"},
    "A.9": {
        "DECIMAL": "b_mean_vol b_scale_vol b_mean_ret_abs b_scale_ret_abs b_mean_oi_roc"
        " b_scale_oi_roc b_mean_spread b_scale_spread b_mean_basis b_scale_basis",
    },
}
APPENDIX_A_KEY = {"asset_uid", "symbol", "tf", "exchange_ts"}  # A.1, of every row


def window_of(name: str) -> tuple[str, str, int] | None:
    """Stem, unit and length of a name that ends in a window of seconds, minutes or hours."""
    match = re.fullmatch(r"(\w+?)_([smh])_([1-9]\d*)", name)
    return None if match is None else (match.group(1), match.group(2), int(match.group(3)))


def names_of(column: Column) -> dict[Timeframe, str]:
    """The names of a declared column by timeframe."""
    return {tf: name for tf in TIMEFRAMES if (name := column.name_at(tf)) is not None}


def carried(name: str, tf: Timeframe) -> bool:
    """Whether rows of a timeframe have a column."""
    return name in REGISTRY and tf in REGISTRY[name].tfs


def test_a_name_is_one_column() -> None:
    """No name twice, and every declared name is among them."""
    assert len(REGISTRY) == len(PACK.registry)
    assert DECLARED.keys() <= REGISTRY.keys()
    assert {column.base for column in PACK.registry} == DECLARED.keys()


def test_the_registry_is_what_rows_carry() -> None:
    """Of each timeframe: the names of its rows are the stored columns that say they are on it."""
    for tf in TIMEFRAMES:
        stored = {column.name for column in PACK.stored if tf in column.tfs}
        assert set(PACK.names(tf).values()) == stored


@pytest.mark.parametrize("part", sorted(APPENDIX_A))
def test_every_column_of_the_appendix_is_there(part: str) -> None:
    """The plan's feature dictionary: its names, on 1m rows, in a type that holds its values."""
    for plan_type, names in APPENDIX_A[part].items():
        for name in names.split():
            assert REGISTRY[name].type == SQL_TYPES[plan_type], name
            assert MINUTE_TF in REGISTRY[name].tfs, name
            assert REGISTRY[name].status == "active", name


def test_the_key_of_the_appendix_is_in_the_table() -> None:
    """What identifies a row is not declared by a pack."""
    folder = Path(__file__).parents[2] / "sql"
    texts = [path.read_text() for path in sorted(folder.glob("*.sql"))]
    assert read_tables(texts)["features_snapshot"].keys() >= APPENDIX_A_KEY
    assert not REGISTRY.keys() & APPENDIX_A_KEY


def test_every_column_says_what_it_is() -> None:
    """Unit, formula and when it is NULL are not empty; its inputs are feeds or other columns."""
    for column in PACK.registry:
        words = (column.unit, column.formula, column.when_null, column.window, column.family)
        assert all(text.strip() for text in words), column.name
        assert column.tfs, column.name
        assert column.name not in column.inputs
        assert set(column.inputs) <= {*FEEDS, *REGISTRY}, column.name


def test_inputs_are_where_they_are_needed() -> None:
    """A column on one timeframe reads rows of that timeframe, or of its parts."""
    for column in PACK.stored:
        if len(column.tfs) == 1:
            at = TIMEFRAMES.index(column.tfs[0])
            near = TIMEFRAMES[max(0, at - 1) : at + 1]
            for name in set(column.inputs) - set(FEEDS):
                assert any(carried(name, tf) for tf in near), (column.name, name)


def test_names_of_longer_rows_end_in_their_window() -> None:
    """The same stem; the same number of bars on 15m and 1h: m_15 and h_1, or m_75 and h_5."""
    seen = set()
    for column in PACK.columns:
        bars = set()
        for tf, name in names_of(column).items():
            if tf == MINUTE_TF or name == column.name:
                continue
            found, own = window_of(name), window_of(column.name)
            assert found is not None, name
            assert own is not None, name
            assert found[0] == own[0], name
            assert (found[1] == "h") is (tf == "1h"), name
            length = UNIT_MINUTES[found[1]] * found[2]
            assert length % MINUTES[tf] == 0, name
            bars.add(length // MINUTES[tf])
        assert bars in (set(), {1}, {5}), column.name
        seen |= bars
    assert seen == {1, 5}


def test_a_window_in_a_shared_name_does_not_grow() -> None:
    """One name on several timeframes means one window: the value at the close, not a longer one."""
    for column in PACK.columns:
        shared = [tf for tf, name in names_of(column).items() if name == column.name]
        if window_of(column.name) and len(shared) > 1 and column.rollup != "alias":
            assert column.rollup == "last", column.name


def test_the_window_is_that_of_the_name() -> None:
    """Where a name ends in a window, the registry says the same one."""
    for column in PACK.registry:
        found = window_of(column.name)
        assert found is None or column.window == f"{found[1]}_{found[2]}", column.name


@pytest.mark.parametrize(
    "column",
    [column for column in PACK.columns if column.rollup == "alias"],
    ids=lambda column: column.name,
)
def test_an_alias_is_another_column(column: Column) -> None:
    """On 15m and 1h rows a column that is not computed there has its name from one that is."""
    for tf in TIMEFRAMES[1:]:
        makers = [
            other.name
            for other in PACK.columns
            if other.rollup != "alias" and other.name_at(tf) == column.name_at(tf)
        ]
        assert len(makers) == 1, tf
        assert makers != [column.name]
        assert carried(column.name_at(tf) or "", tf)


def test_a_name_has_one_maker_on_each_timeframe() -> None:
    """No two columns are computed into the same name of a timeframe."""
    for tf in TIMEFRAMES:
        made = [
            column.name_at(tf)
            for column in PACK.columns
            if column.name_at(tf) and (tf == MINUTE_TF or column.rollup != "alias")
        ]
        assert len(made) == len(set(made)), tf


@pytest.mark.parametrize(
    "column",
    [column for column in PACK.columns if column.rollup is None],
    ids=lambda column: column.name,
)
def test_without_a_rollup_it_is_on_its_own_timeframes(column: Column) -> None:
    """It has one name and the timeframes it declares, and no other says it is the same."""
    assert column.at == ()
    assert REGISTRY[column.name].tfs == column.tfs
    assert [c.name for c in PACK.registry if c.base == column.name] == [column.name]


@pytest.mark.parametrize("entry", PACK.normalised, ids=lambda entry: entry.feature)
def test_what_a_baseline_writes_is_on_its_rows(entry: Normalised) -> None:
    """x, z, q, location, scale and divisor of a baseline exist on each timeframe it is kept on."""
    for tf in entry.tfs:
        for key in ("source", "z", "q", "mean", "scale", "divisor"):
            name = getattr(entry, key)
            if name is not None:
                assert carried(PACK.names(tf)[name], tf), (tf, key)


def test_a_z_is_on_no_row_without_a_baseline() -> None:
    """Where a baseline is not kept, its z is that of another column or not there at all."""
    for entry in PACK.normalised:
        for tf in set(TIMEFRAMES) - set(entry.tfs):
            for name in (entry.z, entry.q):
                if name is not None:
                    assert DECLARED[name].rollup == "alias" or name not in PACK.names(tf)


def test_every_sigma_has_a_baseline() -> None:
    """A column in sigma or rank is written by an entry of `normalised`."""
    written = {entry.z for entry in PACK.normalised} | {entry.q for entry in PACK.normalised}
    assert {c.name for c in PACK.columns if c.unit in ("sigma", "rank")} == written - {None}


def test_columns_with_a_z_are_marked() -> None:
    """`normalised` is set on what is the x of a z on one of its own timeframes, and only there."""
    measured = {
        PACK.names(tf)[entry.source]
        for entry in PACK.normalised
        if entry.z is not None
        for tf in entry.tfs
    }
    assert {column.name for column in PACK.registry if column.normalised} == measured


def test_shadow_columns_say_when_they_come() -> None:
    """On trial: a proposed pack, extras only, and no column or detector that relies on them."""
    shadow = {column.name for column in PACK.registry if column.status == "shadow"}
    assert shadow
    for column in PACK.registry:
        assert (column.pack_proposed is not None) is (column.name in shadow)
        assert not shadow & set(column.inputs)
    assert not shadow & {column.name for column in PACK.stored}
    for detector in load_packs().detectors:
        assert not shadow & {*detector.inputs, *detector.required, *detector.payload}
