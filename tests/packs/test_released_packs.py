"""The packs this repository ships: pinned by hash, exact to the plan and the calibration."""

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from operators.quality import VERDICTS
from packs.loader import Packs, check_file, load_packs
from packs.schema import PLAN_BUDGETS, PLAN_CLASS_DEFAULTS, TIMEFRAMES

PACKS = Path(__file__).parents[2] / "packs"
RELEASED = sorted(path.relative_to(PACKS).as_posix() for path in PACKS.glob("*/*.yaml"))
DETECTOR_PACKS = [name for name in RELEASED if name.startswith("detectors/")]


def load(name: str) -> Packs:
    return load_packs(detectors=PACKS / name, released=True)


def raw(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((PACKS / name).read_text(encoding="utf-8"))
    return content


def test_lock_pins_every_released_pack() -> None:
    """A released pack never changes: a change is a new version with a line of its own here."""
    lock = json.loads((PACKS / "lock.json").read_text(encoding="utf-8"))
    actual = {name: hashlib.sha256((PACKS / name).read_bytes()).hexdigest() for name in RELEASED}
    assert actual == lock, "content and packs/lock.json differ; give the pack a new version"


@pytest.mark.parametrize("name", RELEASED)
def test_every_shipped_pack_loads_as_released(name: str) -> None:
    """No faults and no warnings, in the folder of its kind."""
    assert check_file(PACKS / name, released=True) == ([], [], name.partition("/")[0])


def test_the_defaults_are_the_latest_packs() -> None:
    """Without arguments the calibrated pack is loaded, without warnings."""
    packs = load_packs()
    assert (packs.feature_pack, packs.detector_pack) == ("v1.0", "v0.2.0")
    assert packs.universe.universe_policy_rev == 17
    assert packs.warnings == ()


@pytest.mark.parametrize("name", DETECTOR_PACKS)
def test_examples_hold_on_complete_rows(name: str) -> None:
    """Released examples give every required column, so they hold as real rows do."""
    detectors = {detector.detector_id: detector for detector in load(name).detectors}
    for row in raw(name)["detectors"]:
        detector = detectors[row["id"]]
        for example in row["examples"]:
            assert set(detector.required) <= example["row"].keys(), (row["id"], example["why"])
            assert (detector.fires(example["row"]) is True) is example["fires"]


def nudged(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the detector with each number of its trigger and its count moved a little."""
    rows = []
    for number in re.finditer(r"(?<![\w.])\d+(\.\d+)?", row["trigger"]):
        for step in (-0.001, 0.001):
            text = f"({float(number.group()) + step})"
            trigger = row["trigger"][: number.start()] + text + row["trigger"][number.end() :]
            rows.append(row | {"trigger": trigger})
    for name in ("trade_count_ge_4", "trade_count_ge_6"):
        if "trade_count_ge_5" in row["preconditions"]:
            rows.append(row | {"preconditions": [name]})
    return rows


@pytest.mark.parametrize("name", DETECTOR_PACKS)
def test_examples_pin_every_threshold(name: str, tmp_path: Path) -> None:
    """Whichever threshold moves by a thousandth, or a count by one, an example fails."""
    content = raw(name)
    rows = content["detectors"]
    changed = [copy.deepcopy(new) for row in rows for new in nudged(row)]
    for i, row in enumerate(changed):
        row["id"] = f"{row['id']}_{i}"
    path = tmp_path / "nudged.yaml"
    path.write_text(yaml.safe_dump(content | {"detectors": changed}), encoding="utf-8")
    faulty = {fault.key.partition("]")[0] for fault in check_file(path)[0]}
    assert len(changed) >= 20
    assert faulty == {f"detectors[{row['id']}" for row in changed}


def test_v01_is_the_plan() -> None:
    """Scores, cooldowns, thresholds and budgets of v0.1 are those of Appendix D."""
    packs = load("detectors/v0.1.yaml")
    content = raw("detectors/v0.1.yaml")
    for name, plan in PLAN_CLASS_DEFAULTS.items():
        given = content["class_defaults"][name]
        assert given == plan | {"weights": plan["weights"] | {"b": 0.0}}
    assert packs.budgets.per_symbol_per_minute == PLAN_BUDGETS
    assert packs.scoring == type(packs.scoring)(), "the defaults are the plan's"
    assert {d.b for d in packs.detectors} == {0.0}


def test_v02_is_the_calibration() -> None:
    """Numbers of v0.2 are those of the numerics reference, section 9."""
    packs = load("detectors/v0.2.yaml")
    found = {
        d.detector_id: (
            d.primary.text,
            d.secondary and d.secondary.text,
            (d.w1, d.w2, d.w3, d.a, d.b),
            (d.publish_threshold, d.cooldown_s, d.half_life_s),
        )
        for d in packs.detectors
    }
    spike = ((1.0, 0.5, 0.4, 0.97, 4.53), (50.0, 300.0, 120.0))
    assert found == {
        "spike.vol_spike_m_1": ("z_vol_m_1", "z_ret_abs_m_1", *spike),
        "spike.price_spike_up_m_1": ("z_ret_abs_m_1", "z_vol_m_1", *spike),
        "spike.price_spike_down_m_1": ("z_ret_abs_m_1", "z_vol_m_1", *spike),
        "combo.price_up_volume_up_m_1": ("z_ret_abs_m_1", "z_vol_m_1", *spike),
        "shift.spread_stress_m_1": (
            "z_spread_m_1",
            "z_ret_abs_m_1",
            (0.7, 0.8, 0.2, 0.95, 3.66),
            (50.0, 300.0, 300.0),
        ),
    }
    scoring = packs.scoring
    assert (scoring.novelty, scoring.subtype_change_resets_novelty) == ("recovering", False)


# feature, raw column, transform, s_min, d_min, x_zero
NORMALISED = [
    ("vol", "v_total_m_1", "log1p", 0.05, None, 1.0),
    ("ret_abs", "ret_abs_m_1", "pow_3_8", 0.001, None, 1e-7),
    ("ret_abs_5", "ret_abs_m_5", "pow_3_8", 0.001, None, 1e-7),
    ("spread", "spread_mean_m_1", "log", 0.10, None, 0.0),
    ("oi_roc", "oi_roc_m_5", "asinh", 0.05, 1e-6, 1e-6),
    ("basis", "basis_bp_m_5", "asinh", 0.05, 0.01, 0.01),
    ("cvd", "cvd_delta_m_5", "asinh", 0.05, 1.0, 1.0),
    ("cvd_slope", "cvd_slope_m_5", "asinh", 0.05, 1.0, 1.0),
    ("dfunding", "dfunding_h_1", "asinh", 0.05, 1e-7, 1e-7),
]
DECAYS = {
    "1m": (0.000962241166216571, 0.000481236377333771, 1.00048146807729),
    "15m": (0.0143368013598124, 0.00719427950873108, 1.0072464122237),
    "1h": (0.0561256873183065, 0.0284680588463941, 1.02930223664349),
}


def test_baselines_are_those_of_the_reference() -> None:
    """Transforms and floors of numerics 2, memories of numerics 3."""
    features = load_packs().features
    found = [(n.feature, n.source, n.transform, n.s_min, n.d_min, n.x_zero)
             for n in features.normalised]  # fmt: skip
    assert found == NORMALISED
    for tf in TIMEFRAMES:
        decay = features.decay.of(tf)
        assert (decay.a_m, decay.a_s, decay.growth) == DECAYS[tf]
    others = {n.feature: (n.sampled, n.tfs, n.decay) for n in features.normalised if n.decay}
    ((name, (sampled, tfs, decay)),) = others.items()
    assert (name, sampled, tfs) == ("dfunding", "hourly", ("1m",))
    assert decay is not None
    week = (0.00411737634170262, 0.00411737634170262, 1.00413439921924)
    assert (decay.a_m, decay.a_s, decay.growth) == week


def test_baselines_of_longer_rows_are_for_what_those_rows_need() -> None:
    """Build plan 15.2: volume, return, spread, open interest and basis have a z there."""
    features = load_packs().features
    every = {n.feature for n in features.normalised if n.tfs == TIMEFRAMES}
    assert every == {"vol", "ret_abs", "spread", "oi_roc", "basis"}
    assert {n.tfs for n in features.normalised if n.feature not in every} == {("1m",)}


def test_limits_of_quality_are_those_of_the_plan() -> None:
    """Build plan 8.1, 8.3, 8.6, 10.7 and 15.3."""
    features = load_packs().features
    quality, illiquid, rollup = features.quality, features.illiquidity, features.rollup
    assert (quality.book_staleness_ms_max, quality.oi_staleness_ms_max) == (3000, 20_000)
    assert (quality.clock_skew_ms_partial, quality.clock_skew_ms_stale) == (1000, 3000)
    assert quality.ret_abs_max == 0.2
    assert (illiquid.v_min_quote, illiquid.v_min_median_share) == (10_000.0, 0.005)
    assert (illiquid.spread_cap_median_multiple, illiquid.median_days) == (15.0, 7)
    assert (rollup.partial_share, rollup.stale_share) == (0.1, 0.3)
    assert rollup.forgiven == ("quiet",)
    strength = features.relative_strength
    assert (strength.w_ret, strength.w_vol, strength.w_oi, strength.z_cap) == (0.5, 0.3, 0.2, 3.0)


def test_every_reason_that_is_forgiven_exists() -> None:
    """A misspelt one would forgive nothing."""
    assert set(load_packs().features.rollup.forgiven) <= VERDICTS.keys()


# Build plan 15.2, line by line: how a quarter gets each column.
FOLDS = {
    "first": "open oi_open",
    "last_known": "close oi_close",
    "max": "high oi_max",
    "min": "low oi_min",
    "last": "mid_close cvd_level funding_h_1 oi_close_base mark_close",
    "sum": "v_buy_m_1 v_sell_m_1 v_total_m_1 trade_count_m_1 cvd_delta_m_1",
    "recompute": "ret_m_1 ret_abs_m_1 rv_m_1 atr_proxy_m_1 cvd_slope_m_5 oi_delta_m_5 oi_roc_m_5"
    " z_vol_m_1 z_spread_m_1 z_oi_roc_m_5 z_basis_m_5 q_vol_m_1 is_vol_spike_m_1",
    "mean": "basis_bp_m_1 spread_mean_m_1 obi_top5_mean_m_1",
    "p95": "spread_p95_m_1",
    "median": "depth_top5_quote_median_m_1",
}


def test_folds_are_those_of_the_plan() -> None:
    """And the names of the longer rows carry the length of the bar in minutes or hours."""
    columns = {column.name: column for column in load_packs().features.columns}
    for fold, names in FOLDS.items():
        for name in names.split():
            assert columns[name].rollup == fold, name
    assert columns["cvd_slope_m_5"].at == ("cvd_slope_m_75", "cvd_slope_h_5")
    assert columns["ret_m_5"].at == columns["ret_m_1"].at == ("ret_m_15", "ret_h_1")


def test_both_packs_have_the_same_triggers() -> None:
    """v0.2 changes how candidates are scored, not which there are."""
    triggers = [
        {d.detector_id: (d.trigger.text, [c.text for c in d.conditions]) for d in p.detectors}
        for p in map(load, DETECTOR_PACKS)
    ]
    assert triggers[0] == triggers[1]
    assert load(DETECTOR_PACKS[0]).config_hash != load(DETECTOR_PACKS[1]).config_hash
