"""A candidate is a trigger that held on one row, with what may speak against it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from operators.detect import Detect, gate_of, is_of_assets
from operators.records import Candidate, Columns, Phase, Row, RowItem
from packs.loader import Packs, load_packs
from packs.schema import Timeframe

FOLDER = Path(__file__).parents[2] / "packs" / "detectors"
RELEASED = {name: load_packs(detectors=FOLDER / f"{name}.yaml") for name in ("v0.1", "v0.2")}
both_packs = pytest.mark.parametrize("name", RELEASED)
T = 1_756_891_800_000
FLAGS = {
    "is_vol_spike_m_1": "spike.vol_spike_m_1",
    "is_price_spike_up_m_1": "spike.price_spike_up_m_1",
    "is_price_spike_down_m_1": "spike.price_spike_down_m_1",
    "is_oi_spike_up_m_5": "spike.oi_spike_up_m_5",
    "is_oi_spike_down_m_5": "spike.oi_spike_down_m_5",
    "is_spread_stress_m_1": "shift.spread_stress_m_1",
    "is_liq_cluster_m_5": "spike.liq_cluster_m_5",
}

NAMES = {tf: RELEASED["v0.2"].features.names(tf) for tf in ("1m", "15m", "1h")}

# A calm bar on which nothing fires and nothing that a detector reads is NULL, by pack name.
CALM: Columns = {
    **dict.fromkeys(NAMES["1m"]),
    "ret_m_5": 0.0005,
    "z_ret_abs_m_5": -0.25,
    "oi_roc_m_5": 0.0005,
    "z_oi_roc_m_5": 0.25,
    "oi_staleness_ms": 900,
    "basis_bp_m_1": -3.5,
    "basis_bp_m_5": -3.5,
    "z_basis_m_5": -0.125,
    "funding_h_1": 0.0000125,
    "dfunding_h_1": 0.0,
    "b_divisor_dfunding": 0.00001,
    "time_to_next_funding_sec": 1800,
    "cvd_delta_m_1": 1000.0,
    "cvd_delta_m_5": 5000.0,
    "z_cvd_delta_m_5": 0.25,
    "b_divisor_cvd": 100_000.0,
    "cvd_slope_m_5": 500.0,
    "z_cvd_slope_m_5": 0.5,
    "b_divisor_cvd_slope": 1000.0,
    "dq_status": "ok",
    "warmup": False,
    "illiquidity_hit": False,
    "ret_m_1": 0.0001,
    "v_total_m_1": 60_000.0,
    "trade_count_m_1": 40,
    "spread_mean_m_1": 0.5,
    "spread_p95_m_1": 0.75,
    "z_vol_m_1": 0.25,
    "z_ret_abs_m_1": -0.5,
    "z_spread_m_1": 0.125,
}


def row(extras: dict[str, Any] | None = None, tf: Timeframe = "1m", **columns: Any) -> Row:
    """Return a calm row of any timeframe with other columns, said by pack name."""
    names = NAMES[tf]
    calm = {**CALM, **dict.fromkeys(names.keys() - CALM.keys()), **columns}
    stored = {name: calm[base] for base, name in reversed(names.items())}
    return Row(0, "BTC", tf, T, 0, stored, extras or {})


def detect(step: Detect, *rows: Row) -> RowItem:
    """Return the item of one phase."""
    (out,) = step.step(None, RowItem(Phase(T, False, 1, T + 1500), 0, rows))
    return out


def found(name: str, row: Row) -> dict[str, Candidate]:
    """Return the candidates of one row by detector."""
    (candidates,) = detect(Detect(RELEASED[name]), row).candidates
    return {candidate.detector_id: candidate for candidate in candidates}


# --- triggers ------------------------------------------------------------------------------------

# Detector, columns that make it fire at its thresholds and nothing else with it, or as little as
# can be; every comparison by itself is in test_catalogue.py.
_FRESH: Columns = {"oi_staleness_ms": 20_000}
AT: dict[str, Columns] = {
    "spike.vol_spike_m_1": {"z_vol_m_1": 3.0, "trade_count_m_1": 5},
    "spike.price_spike_up_m_1": {"z_ret_abs_m_1": 2.5, "ret_m_1": 1e-9},
    "spike.price_spike_down_m_1": {"z_ret_abs_m_1": 2.5, "ret_m_1": -1e-9},
    "spike.oi_spike_up_m_5": {"z_oi_roc_m_5": 2.0, "oi_roc_m_5": 0.015, **_FRESH},
    "spike.oi_spike_down_m_5": {"z_oi_roc_m_5": -2.0, "oi_roc_m_5": -0.015, **_FRESH},
    "spike.liq_cluster_m_5": {
        "z_ret_abs_m_1": 2.0,  # 0.8 and 0.5 and 1.7 make 3
        "z_spread_m_1": 1.0,
        "z_oi_roc_m_5": -3.4,
        "oi_roc_m_5": -1e-9,
        **_FRESH,
    },
    "combo.price_up_volume_up_m_1": {
        "z_ret_abs_m_1": 1.5,
        "z_vol_m_1": 2.5,
        "ret_m_1": 1e-9,
        "trade_count_m_1": 5,
    },
    "combo.price_up_oi_up_m_5": {
        "ret_m_5": 0.003,
        "z_oi_roc_m_5": 2.0,
        "oi_roc_m_5": 0.01,
        **_FRESH,
    },
    "combo.price_up_oi_down_m_5": {"ret_m_5": 0.003, "oi_roc_m_5": -0.01, **_FRESH},
    "shift.spread_stress_m_1": {"z_spread_m_1": 2.0},
    "shift.basis_jolt_m_5": {"z_basis_m_5": -2.5},
    "quadrant.price_up_oi_up_m_5": {"ret_m_5": 0.003, "oi_roc_m_5": 0.01, **_FRESH},
    "quadrant.price_up_oi_down_m_5": {"ret_m_5": 0.003, "oi_roc_m_5": -0.01, **_FRESH},
    "quadrant.price_down_oi_up_m_5": {"ret_m_5": -0.003, "oi_roc_m_5": 0.01, **_FRESH},
    "quadrant.price_down_oi_down_m_5": {"ret_m_5": -0.003, "oi_roc_m_5": -0.01, **_FRESH},
    "div.price_up_cvd_down_m_5": {"ret_m_5": 0.003, "cvd_delta_m_5": -2e5},
    "div.price_flat_cvd_trend_m_5": {"ret_m_5": 0.001, "cvd_slope_m_5": -6000.0},
    "div.premium_no_oi_m_5": {"z_basis_m_5": 2.0, "oi_roc_m_5": 0.0, **_FRESH},
}
# The packs differ in funding alone: v0.1 has a constant, v0.2 what is usual and a rule beside it.
AT_OF: dict[str, dict[str, Columns]] = {
    "v0.1": {**AT, "shift.funding_jolt_h_1": {"dfunding_h_1": -0.001}},
    "v0.2": {
        **AT,
        "shift.funding_jolt_h_1": {"dfunding_h_1": 0.00075, "b_divisor_dfunding": 0.000125},
        "shift.funding_jolt_plain_h_1": {"dfunding_h_1": 0.001, "b_divisor_dfunding": 0.001},
    },
}
# What fires with it by necessity: two names for the same minute.
TOGETHER = {
    "combo.price_up_oi_up_m_5": {"quadrant.price_up_oi_up_m_5"},
    "combo.price_up_oi_down_m_5": {"quadrant.price_up_oi_down_m_5"},
    "quadrant.price_up_oi_down_m_5": {"combo.price_up_oi_down_m_5"},
}
ON_ASSETS = pytest.mark.parametrize(
    ("name", "detector_id"), [(name, key) for name, table in AT_OF.items() for key in table]
)
# Those whose columns mean the same on a longer bar: there a return over five minutes is the bar's.
ON_LONGER = [key for key, columns in AT.items() if {"ret_m_5", "cvd_delta_m_5"}.isdisjoint(columns)]
# detector, a column, its value just below or beside the threshold
BELOW = [
    ("spike.vol_spike_m_1", "z_vol_m_1", 2.99999999999),
    ("spike.vol_spike_m_1", "z_vol_m_1", -9.0),
    ("spike.vol_spike_m_1", "trade_count_m_1", 4),
    ("spike.price_spike_up_m_1", "z_ret_abs_m_1", 2.49999999999),
    ("spike.price_spike_up_m_1", "ret_m_1", 0.0),
    ("spike.price_spike_up_m_1", "ret_m_1", -0.01),
    ("spike.price_spike_down_m_1", "z_ret_abs_m_1", 2.49999999999),
    ("spike.price_spike_down_m_1", "ret_m_1", 0.0),
    ("spike.price_spike_down_m_1", "ret_m_1", 0.01),
    ("spike.oi_spike_up_m_5", "z_oi_roc_m_5", 1.99999999999),
    ("spike.oi_spike_down_m_5", "oi_roc_m_5", -0.01499999999),
    ("spike.liq_cluster_m_5", "z_spread_m_1", 0.99999999999),
    ("spike.liq_cluster_m_5", "oi_staleness_ms", 20_001),
    ("combo.price_up_volume_up_m_1", "z_ret_abs_m_1", 1.49999999999),
    ("combo.price_up_volume_up_m_1", "z_vol_m_1", 2.49999999999),
    ("combo.price_up_volume_up_m_1", "ret_m_1", 0.0),
    ("combo.price_up_volume_up_m_1", "trade_count_m_1", 4),
    ("shift.spread_stress_m_1", "z_spread_m_1", 1.99999999999),
    ("shift.spread_stress_m_1", "z_spread_m_1", -2.0),
    ("shift.basis_jolt_m_5", "z_basis_m_5", -2.49999999999),
]


@both_packs
def test_a_calm_minute_has_no_candidates(name: str) -> None:
    """And no flag is true."""
    out = detect(Detect(RELEASED[name]), row())
    assert out.candidates == ((),)
    assert [out.rows[0].columns[flag] for flag in FLAGS] == [False] * len(FLAGS)
    assert nulls(RELEASED[name], row()) == {}


@ON_ASSETS
def test_a_trigger_holds_at_its_threshold(name: str, detector_id: str) -> None:
    """Appendix B writes every threshold with a greater-or-equal sign."""
    expected = {detector_id} | TOGETHER.get(detector_id, set())
    assert found(name, row(**AT_OF[name][detector_id])).keys() == expected


@both_packs
@pytest.mark.parametrize(("detector_id", "column", "value"), BELOW)
def test_a_trigger_is_silent_below_its_threshold(
    name: str, detector_id: str, column: str, value: float
) -> None:
    """One part that does not hold is enough."""
    assert detector_id not in found(name, row(**{**AT[detector_id], column: value}))


@both_packs
def test_one_minute_can_fire_several_detectors(name: str) -> None:
    """A rush on a widening book; candidates come in the order of the pack."""
    rush = row(z_vol_m_1=4.0, z_ret_abs_m_1=3.5, ret_m_1=0.01, z_spread_m_1=2.5)
    assert list(found(name, rush)) == [
        "spike.vol_spike_m_1",
        "spike.price_spike_up_m_1",
        "combo.price_up_volume_up_m_1",
        "shift.spread_stress_m_1",
    ]


def test_every_shipped_detector_is_covered_here() -> None:
    """A new one needs a line in the tables of this file, unless it looks at the market."""
    for name, packs in RELEASED.items():
        assert on_assets(packs) == AT_OF[name].keys()


@both_packs
def test_every_row_of_a_phase_has_its_own_candidates(name: str) -> None:
    """Identity and extras of the rows pass through untouched."""
    extras = {"clamp": {"z_vol_m_1": (-4.0, 4.0)}}
    out = detect(Detect(RELEASED[name]), row(), row(extras, z_vol_m_1=3.0))
    assert [len(candidates) for candidates in out.candidates] == [0, 1]
    assert [r.extras for r in out.rows] == [{}, extras]
    for one in out.rows:
        assert (one.asset_uid, one.symbol, one.tf, one.exchange_ts_ms) == (0, "BTC", "1m", T)


@both_packs
def test_an_empty_phase_stays_empty(name: str) -> None:
    """A final phase without amendment."""
    out = detect(Detect(RELEASED[name]))
    assert (out.rows, out.candidates) == ((), ())


def test_the_row_that_came_in_goes_out() -> None:
    """With its flags written in, and nothing else changed."""
    given_row = row(z_vol_m_1=5.0)
    before = dict(given_row.columns)
    out = detect(Detect(RELEASED["v0.2"]), given_row)
    assert out.rows[0] is given_row
    changed = {name for name, value in given_row.columns.items() if value != before[name]}
    assert changed
    assert all(name.startswith("is_") for name in changed)


# --- scores --------------------------------------------------------------------------------------


def test_what_each_detector_hands_to_the_scorer() -> None:
    """Primary and secondary: Appendix B for v0.1, numerics 9 for v0.2; no secondary counts 0."""
    busy: Columns = {
        "z_vol_m_1": 3.25,
        "z_ret_abs_m_1": 2.75,
        "z_spread_m_1": 2.25,
        "ret_m_1": 0.01,
    }
    scores = {
        name: {key: (c.primary, c.secondary) for key, c in found(name, row(**busy)).items()}
        for name in RELEASED
    }
    assert scores["v0.1"] == {
        "spike.vol_spike_m_1": (3.25, 2.75),
        "spike.price_spike_up_m_1": (2.75, 0.0),
        "combo.price_up_volume_up_m_1": (2.75, 3.25),
        "shift.spread_stress_m_1": (2.25, 0.0),
    }
    assert scores["v0.2"] == {
        "spike.vol_spike_m_1": (3.25, 2.75),
        "spike.price_spike_up_m_1": (2.75, 3.25),
        "combo.price_up_volume_up_m_1": (2.75, 3.25),
        "shift.spread_stress_m_1": (2.25, 2.75),
    }


@both_packs
def test_z_is_clamped_for_scoring_only(name: str) -> None:
    """The trigger and the stored row see the true value."""
    bounds = {"clamp": {"z_vol_m_1": (-3.1, 2.9), "z_ret_abs_m_1": (-3.0, 3.0)}}
    out = detect(Detect(RELEASED[name]), row(bounds, z_vol_m_1=9.0, z_ret_abs_m_1=-8.0))
    ((candidate,),) = out.candidates
    assert candidate.detector_id == "spike.vol_spike_m_1"
    assert (candidate.primary, candidate.secondary) == (2.9, -3.0)
    assert out.rows[0].columns["z_vol_m_1"] == 9.0


def test_without_bounds_nothing_is_clamped() -> None:
    """A row that was stored without them is scored as it is."""
    assert found("v0.2", row(z_vol_m_1=99.0))["spike.vol_spike_m_1"].primary == 99.0


def test_a_magnitude_is_clamped_before_its_sign_is_dropped(tmp_path: Path) -> None:
    """Numerics 8: bounds [-3, 5] make 3 of -9, not 5."""
    packs = custom(
        tmp_path,
        id="shift.narrow_m_1",
        inputs=["z_spread_m_1"],
        trigger="abs(z_spread_m_1) >= 2.0",
        primary="abs(z_spread_m_1)",
    )
    bounds = {"clamp": {"z_spread_m_1": (-3.0, 5.0)}}
    ((candidate,),) = detect(Detect(packs), row(bounds, z_spread_m_1=-9.0)).candidates
    assert candidate.primary == 3.0


# --- gates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["ok", "partial", "stale"])
@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("illiquid", [False, True])
def test_gates_are_named_in_order(status: str, warmup: bool, illiquid: bool) -> None:
    """Quality before warm-up before liquidity; a gated candidate is marked, not dropped."""
    if status != "ok":
        expected: str | None = "dq"
    else:
        expected = "warmup" if warmup else "illiquid" if illiquid else None
    gated = row(z_vol_m_1=3.0, dq_status=status, warmup=warmup, illiquidity_hit=illiquid)
    assert gate_of(gated.columns) == expected
    for name in RELEASED:
        assert found(name, gated)["spike.vol_spike_m_1"].gate == expected


# --- NULL ----------------------------------------------------------------------------------------


def on_assets(packs: Packs) -> set[str]:
    """Return the detectors that look at the row of an asset alone."""
    return {d.detector_id for d in packs.detectors if not d.needs_frame}


def nulls(packs: Packs, *rows: Row) -> dict[str, int]:
    """Return how often each detector was silenced by a NULL."""
    step = Detect(packs)
    for one in rows:
        detect(step, one)
    return step.nulls


@both_packs
def test_null_silences_and_is_counted(name: str) -> None:
    """Once per row and detector, only for the detectors that need the column."""
    warming = row(z_vol_m_1=None)
    wild = row(z_vol_m_1=None, z_ret_abs_m_1=9.0, ret_m_1=0.0, z_spread_m_1=9.0)
    assert found(name, wild).keys() == {"shift.spread_stress_m_1"}
    counted = nulls(RELEASED[name], warming, row(), warming)
    assert counted == {"spike.vol_spike_m_1": 2, "combo.price_up_volume_up_m_1": 2}


@ON_ASSETS
def test_a_null_operand_silences_whatever_the_rest_says(name: str, detector_id: str) -> None:
    """Every column that trigger and primary name, one at a time."""
    (detector,) = (d for d in RELEASED[name].detectors if d.detector_id == detector_id)
    for column in detector.required:
        silenced = row(**{**AT_OF[name][detector_id], column: None})
        assert detector_id not in found(name, silenced)
        assert nulls(RELEASED[name], silenced)[detector_id] == 1


# Secondary that is left where all beside the operands is NULL: it is an operand itself.
SUPPORTED = {
    ("v0.1", "combo.price_up_volume_up_m_1"): 2.5,
    ("v0.1", "combo.price_up_oi_up_m_5"): 2.0,
    ("v0.1", "quadrant.price_up_oi_up_m_5"): 0.01,
    ("v0.1", "quadrant.price_up_oi_down_m_5"): 0.01,
    ("v0.1", "quadrant.price_down_oi_up_m_5"): 0.01,
    ("v0.1", "quadrant.price_down_oi_down_m_5"): 0.01,
    ("v0.1", "div.price_up_cvd_down_m_5"): -2e5,  # Appendix B as written; a negative counts 0
    ("v0.2", "spike.liq_cluster_m_5"): 2.0,
    ("v0.2", "combo.price_up_volume_up_m_1"): 2.5,
    ("v0.2", "combo.price_up_oi_up_m_5"): 2.0,
}


@ON_ASSETS
def test_a_null_beside_the_operands_silences_nothing(name: str, detector_id: str) -> None:
    """A bars file has no spreads and may not count prints; its spikes are heard (design 5)."""
    (detector,) = (d for d in RELEASED[name].detectors if d.detector_id == detector_id)
    support = () if detector.secondary is None else detector.secondary.names
    beside = {*detector.inputs, *support, "trade_count_m_1"} - {*detector.required}
    bare = row(**{**AT_OF[name][detector_id], **dict.fromkeys(beside)})
    assert found(name, bare)[detector_id].secondary == SUPPORTED.get((name, detector_id), 0.0)
    assert detector_id not in nulls(RELEASED[name], bare)


@both_packs
def test_a_minute_without_anything_is_all_null(name: str) -> None:
    """A gap: every detector is counted, nothing fires."""
    unknown: Columns = dict.fromkeys(set(CALM) - {"dq_status", "warmup", "illiquidity_hit"})
    empty = row(**unknown, dq_status="stale", illiquidity_hit=True)
    assert found(name, empty) == {}
    assert nulls(RELEASED[name], empty) == dict.fromkeys(on_assets(RELEASED[name]), 1)


# --- flags ---------------------------------------------------------------------------------------


def flags(name: str, **columns: Any) -> dict[str, bool | None]:
    """Return the flags of a row."""
    (marked,) = detect(Detect(RELEASED[name]), row(**columns)).rows
    return {flag: marked.columns[flag] for flag in FLAGS}


@both_packs
@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_is_the_trigger_of_its_detector(name: str, flag: str) -> None:
    """True at the threshold; the others stay false."""
    assert flags(name, **AT[FLAGS[flag]]) == {other: other == flag for other in FLAGS}


@both_packs
def test_a_flag_leaves_preconditions_to_the_detector(name: str) -> None:
    """Four prints: no candidate, but the volume was unusual (build plan 5.6)."""
    assert flags(name, z_vol_m_1=3.0, trade_count_m_1=4)["is_vol_spike_m_1"] is True


@both_packs
@pytest.mark.parametrize("illiquid", [False, True])
def test_a_flag_is_null_while_its_z_is(name: str, illiquid: bool) -> None:
    """In warm-up nothing is known, illiquid or not."""
    warming = dict.fromkeys(("z_vol_m_1", "z_ret_abs_m_1", "z_spread_m_1", "z_oi_roc_m_5"))
    assert flags(name, **warming, warmup=True, illiquidity_hit=illiquid) == dict.fromkeys(FLAGS)


@both_packs
@pytest.mark.parametrize("flag", FLAGS)
def test_illiquidity_lowers_every_flag(name: str, flag: str) -> None:
    """False, not NULL: it is known that the minute does not count."""
    assert flags(name, **AT[FLAGS[flag]], illiquidity_hit=True) == dict.fromkeys(FLAGS, False)


@both_packs
@pytest.mark.parametrize("flag", FLAGS)
def test_a_minute_that_is_not_ok_raises_no_flag(name: str, flag: str) -> None:
    """A z against the frozen state is stored on a partial minute, but it must not flag it."""
    assert flags(name, **AT[FLAGS[flag]], dq_status="partial")[flag] is not True


# --- which detectors run -------------------------------------------------------------------------


def custom(folder: Path, **detector: Any) -> Packs:
    """Return packs with one detector of one's own."""
    path = folder / "custom.yaml"
    path.write_text(yaml.safe_dump({"detector_pack": "v0.9.0", "detectors": [detector]}))
    return load_packs(detectors=path)


SIMPLE: dict[str, Any] = {
    "id": "spike.busy_m_1",
    "inputs": ["z_vol_m_1"],
    "trigger": "z_vol_m_1 >= 1.0",
}


@pytest.mark.parametrize(
    ("changes", "runs"),
    [
        ({}, True),
        ({"mode": "shadow"}, True),
        ({"mode": "canary"}, True),
        ({"enabled": False}, True),
        ({"mode": "off"}, False),
        ({"enabled": False, "mode": "off"}, False),
        ({"tfs": ["15m"]}, False),
        ({"tfs": ["1m", "15m"]}, True),
    ],
)
def test_only_detectors_of_the_timeframe_that_are_not_off_run(
    tmp_path: Path, changes: dict[str, Any], runs: bool
) -> None:
    """Shadow, canary and disabled are evaluated too; scoring decides what becomes of them."""
    (candidates,) = detect(
        Detect(custom(tmp_path, **{**SIMPLE, **changes})), row(z_vol_m_1=2.0)
    ).candidates
    assert len(candidates) == int(runs)


def test_a_detector_that_names_the_frame_waits_for_the_join(tmp_path: Path) -> None:
    """Not evaluated here, and not counted as NULL."""
    packs = custom(tmp_path, **{**SIMPLE, "trigger": "z_vol_m_1 >= 1.0 && shock_count_5s >= 0"})
    step = Detect(packs)
    assert detect(step, row(z_vol_m_1=2.0)).candidates == ((),)
    assert step.nulls == {}


def test_a_pack_may_name_the_symbol(tmp_path: Path) -> None:
    """It is part of the identity, not a column."""
    packs = custom(tmp_path, **{**SIMPLE, "trigger": 'symbol == "BTC" && z_vol_m_1 >= 1.0'})
    bitcoin = row(z_vol_m_1=2.0)
    other = msgspec.structs.replace(bitcoin, symbol="ETH")
    step = Detect(packs)
    assert [len(detect(step, one).candidates[0]) for one in (bitcoin, other)] == [1, 0]


def test_market_wide_detectors_are_not_run_on_assets() -> None:
    """They belong to MARKET; on every asset they would fire once each."""
    packs = RELEASED["v0.2"]
    first = replace(packs.detectors[0], event_class="synchrony")
    assert not is_of_assets(first)
    step = Detect(replace(packs, detectors=(first,)))
    assert detect(step, row(z_vol_m_1=9.0)).candidates == ((),)


# --- longer timeframes ---------------------------------------------------------------------------


LONGER: tuple[Timeframe, ...] = ("15m", "1h")
longer = pytest.mark.parametrize("tf", LONGER)


def listing(*tfs: Timeframe, name: str = "v0.2") -> Packs:
    """Return a released pack whose detectors run on other timeframes."""
    packs = RELEASED[name]
    return replace(packs, detectors=tuple(replace(d, tfs=tfs) for d in packs.detectors))


@longer
@both_packs
@pytest.mark.parametrize("detector_id", ON_LONGER)
def test_a_trigger_reads_longer_rows_by_the_names_of_the_pack(
    tf: Timeframe, name: str, detector_id: str
) -> None:
    """The rows store z_vol_m_15 or z_vol_h_1, the pack says z_vol_m_1 (design D18)."""
    assert len(ON_LONGER) >= 9
    hit = row(tf=tf, **AT[detector_id])
    assert "z_vol_m_1" not in hit.columns
    (candidates,) = detect(Detect(listing(tf, name=name)), hit).candidates
    assert [candidate.detector_id for candidate in candidates] == [detector_id]


@longer
@both_packs
@pytest.mark.parametrize(("detector_id", "column", "value"), BELOW)
def test_a_trigger_is_silent_below_its_threshold_on_longer_rows_too(
    tf: Timeframe, name: str, detector_id: str, column: str, value: float
) -> None:
    """The thresholds are the same, the z are those of the timeframe."""
    miss = row(tf=tf, **{**AT[detector_id], column: value})
    (candidates,) = detect(Detect(listing(tf, name=name)), miss).candidates
    assert detector_id not in [candidate.detector_id for candidate in candidates]


@longer
@both_packs
def test_longer_rows_are_off_by_default(tf: Timeframe, name: str) -> None:
    """No shipped detector lists them, so nothing fires and nothing is counted (design D18)."""
    step = Detect(RELEASED[name])
    out = detect(step, row(tf=tf, z_vol_m_1=9.0), row(tf=tf, z_vol_m_1=None))
    assert out.candidates == ((), ())
    assert step.nulls == {}


def test_each_row_of_a_phase_is_judged_by_its_own_timeframe() -> None:
    """A minute, a quarter and an hour that close together."""
    packs = RELEASED["v0.2"]
    first, second, *rest = packs.detectors
    changed = (replace(first, tfs=("15m",)), replace(second, tfs=("1h", "1m")), *rest)
    step = Detect(replace(packs, detectors=changed))
    rush: Columns = {"z_vol_m_1": 9.0, "z_ret_abs_m_1": 9.0, "ret_m_1": 0.01}
    out = detect(step, *(row(tf=tf, **rush) for tf in ("1m", "15m", "1h")))
    assert [[c.detector_id for c in found] for found in out.candidates] == [
        ["spike.price_spike_up_m_1", "combo.price_up_volume_up_m_1"],
        ["spike.vol_spike_m_1"],
        ["spike.price_spike_up_m_1"],
    ]


@longer
def test_a_null_on_a_longer_row_silences_and_is_counted(tf: Timeframe) -> None:
    """In its own warm-up a longer timeframe is as silent as the minute was."""
    step = Detect(listing(tf))
    out = detect(step, row(tf=tf, z_vol_m_1=None, z_spread_m_1=2.0))
    assert [c.detector_id for c in out.candidates[0]] == ["shift.spread_stress_m_1"]
    needing = {
        d.detector_id
        for d in RELEASED["v0.2"].detectors
        if not d.needs_frame and {"z_vol_m_1", *missing(tf)}.intersection(d.required)
    }
    assert needing >= {"spike.vol_spike_m_1", "combo.price_up_volume_up_m_1"}
    assert step.nulls == dict.fromkeys(needing, 1)


def missing(tf: Timeframe) -> set[str]:
    """Return the columns that rows of a longer timeframe do not carry."""
    return NAMES["1m"].keys() - NAMES[tf].keys()


@longer
@both_packs
@pytest.mark.parametrize("flag", FLAGS)
def test_flags_are_set_under_the_names_of_the_timeframe(
    tf: Timeframe, name: str, flag: str
) -> None:
    """`is_vol_spike_m_15` by the trigger of the minute's detector, whatever tfs it lists (15.2)."""
    (marked,) = detect(Detect(RELEASED[name]), row(tf=tf, **AT[FLAGS[flag]])).rows
    assert marked.columns.keys() == row(tf=tf).columns.keys(), "no column is added"
    assert {other: marked.columns[NAMES[tf][other]] for other in FLAGS} == {
        other: other == flag for other in FLAGS
    }


@longer
@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, True),
        ({"illiquidity_hit": True}, False),
        ({"dq_status": "partial"}, False),
        ({"dq_status": "stale"}, False),
        ({"warmup": True}, True),
        ({"z_vol_m_1": None}, None),
    ],
)
def test_flags_of_longer_rows_obey_the_same_gates(
    tf: Timeframe, columns: Columns, expected: bool | None
) -> None:
    """Lowered by quality and liquidity of the longer bar, NULL with its z."""
    (marked,) = detect(Detect(RELEASED["v0.2"]), row(tf=tf, **{"z_vol_m_1": 3.0, **columns})).rows
    assert marked.columns[NAMES[tf]["is_vol_spike_m_1"]] is expected


@pytest.mark.parametrize("tf", NAMES)
@pytest.mark.parametrize(
    ("subtype", "roc", "fires"),
    [
        ("oi_spike_up_m_5", 0.02, True),
        ("oi_spike_down_m_5", -0.02, False),
        ("oi_spike_up_m_5", None, None),
    ],
)
def test_a_flag_without_a_detector_is_null_and_with_one_is_not(
    tmp_path: Path, tf: Timeframe, subtype: str, roc: float | None, fires: bool | None
) -> None:
    """A column of the feature pack waits for a detector of that subtype."""
    moved = row(tf=tf, oi_roc_m_5=roc, z_oi_roc_m_5=3.0)
    flag = NAMES[tf][f"is_{subtype}"]
    (unmarked,) = detect(Detect(custom(tmp_path, **SIMPLE)), moved).rows
    assert unmarked.columns[flag] is None
    packs = custom(
        tmp_path,
        id=f"spike.{subtype}",
        inputs=["z_oi_roc_m_5"],
        trigger="z_oi_roc_m_5 >= 2.0 && oi_roc_m_5 >= 0.015",
    )
    (marked,) = detect(Detect(packs), moved).rows
    assert marked.columns[flag] is fires


@longer
def test_the_bounds_of_a_longer_row_are_its_own(tf: Timeframe) -> None:
    """Extras name the columns as the row stores them; the candidate is clamped, the row is not."""
    names = NAMES[tf]
    bounds = {names["z_vol_m_1"]: (-3.1, 2.9), names["z_ret_abs_m_1"]: (-3.0, 3.0)}
    hit = row({"clamp": bounds}, tf, z_vol_m_1=9.0, z_ret_abs_m_1=-8.0)
    out = detect(Detect(listing(tf)), hit)
    ((candidate,),) = out.candidates
    assert (candidate.primary, candidate.secondary) == (2.9, -3.0)
    assert out.rows[0].columns[names["z_vol_m_1"]] == 9.0


@longer
def test_bounds_of_the_minute_do_not_bind_a_longer_row(tf: Timeframe) -> None:
    """Another timeframe, another name, another baseline."""
    hit = row({"clamp": {"z_vol_m_1": (-3.1, 2.9)}}, tf, z_vol_m_1=9.0)
    ((candidate,),) = detect(Detect(listing(tf)), hit).candidates
    assert candidate.primary == 9.0


@longer
@pytest.mark.parametrize(
    ("columns", "gate"),
    [
        ({}, None),
        ({"illiquidity_hit": True}, "illiquid"),
        ({"warmup": True}, "warmup"),
        ({"dq_status": "partial"}, "dq"),
    ],
)
def test_candidates_of_longer_rows_are_gated_by_the_longer_row(
    tf: Timeframe, columns: Columns, gate: str | None
) -> None:
    """Build plan 8.7 and 15.3: a partial or stale quarter is marked as such."""
    ((candidate,),) = detect(
        Detect(listing(tf)), row(tf=tf, **{"z_vol_m_1": 3.0, **columns})
    ).candidates
    assert candidate.gate == gate


@longer
@pytest.mark.parametrize(
    ("trigger", "columns"),
    [
        ("abs(ret_m_5) >= 0.02", {"ret_m_1": -0.02}),
        ("abs(ret_m_15) >= 0.02", {"ret_m_1": 0.02}),
        ("z_ret_abs_m_5 >= 2.0", {"z_ret_abs_m_1": 2.0}),
        ("basis_bp_m_5 >= 7.0", {"basis_bp_m_1": 7.0}),
    ],
)
def test_a_name_that_is_another_one_there_is_read_through(
    tmp_path: Path, tf: Timeframe, trigger: str, columns: Columns
) -> None:
    """On a longer row the return over 5 minutes is that of the bar, as are basis and z."""
    packs = custom(tmp_path, **{**SIMPLE, "trigger": trigger, "tfs": [tf]})
    hit = row(tf=tf, **columns, z_vol_m_1=1.0)
    assert len(detect(Detect(packs), hit).candidates[0]) == 1
    calm: Columns = dict.fromkeys(columns, 0.0)
    miss = row(tf=tf, **calm, z_vol_m_1=1.0)
    assert detect(Detect(packs), miss).candidates == ((),)
