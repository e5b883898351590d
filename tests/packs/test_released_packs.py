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
from packs.loader import MARKET_CLASSES, SHIPPED, Packs, check_file, load_packs
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
    names = {kind: f"{kind}/{file}" for kind, file in SHIPPED.items()}
    assert names == {kind: max(n for n in RELEASED if n.startswith(kind)) for kind in SHIPPED}
    assert packs.feature_pack == raw(names["features"])["feature_pack"]
    assert packs.detector_pack == raw(names["detectors"])["detector_pack"]
    assert packs.universe.universe_policy_rev == raw(names["universe"])["universe_policy_rev"]
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


# What is compared with a count moves by what can matter to one: (detector, number) -> step.
COUNTED = {
    ("sync.basket_shock_Δt_5s", "4"): 1.0,
    ("sync.basket_shock_Δt_5s", "0.15"): 0.01,
    ("rot.rs_flip_sector_m_15", "2"): 1.0,
}


def nudged(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the detector with each number of its trigger and its count moved a little."""
    rows = []
    for number in re.finditer(r"(?<![\w.])\d+(\.\d+)?", row["trigger"]):
        step = COUNTED.get((row["id"], number.group()), 0.001)
        for moved in (float(number.group()) - step, float(number.group()) + step):
            text = f"({moved})"
            trigger = row["trigger"][: number.start()] + text + row["trigger"][number.end() :]
            rows.append(row | {"trigger": trigger})
    for step in (-0.001, 0.001) if "threshold" in row else ():
        rows.append(row | {"threshold": row["threshold"] + step})
    for name in ("trade_count_ge_4", "trade_count_ge_6"):
        if "trade_count_ge_5" in row.get("preconditions", ()):
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


# Numerics 9: w1, w2, w3, a, b; then threshold and cooldown; half-lives are the plan's (D.2, B).
CALIBRATED = {
    "spike": ((1.0, 0.5, 0.4, 0.97, 4.53), (50.0, 300.0, 120.0)),
    "spike oi": ((0.9, 0.6, 0.3, 0.97, 4.53), (50.0, 300.0, 180.0)),
    "spike liq": ((1.0, 0.5, 0.4, 0.97, 4.53), (50.0, 300.0, 240.0)),
    "shift spread": ((0.7, 0.8, 0.2, 0.95, 3.66), (50.0, 300.0, 300.0)),
    "shift basis": ((0.7, 0.8, 0.2, 1.5, 2.87), (50.0, 300.0, 300.0)),
    "shift funding": ((0.7, 0.8, 0.2, 1.5, 2.87), (50.0, 600.0, 600.0)),
    "quadrant": ((0.8, 0.6, 0.2, 1.34, 2.9), (50.0, 300.0, 180.0)),
    "divergence": ((0.8, 0.7, 0.2, 1.5, 2.85), (50.0, 300.0, 240.0)),
    "synchrony": ((0.4, 0.3, 1.0, 1.28, 3.18), (50.0, 60.0, 60.0)),
    "rotation": ((0.7, 0.5, 0.4, 1.5, 2.5), (50.0, 900.0, 900.0)),
}
_PROXY = (
    "min(2 * (min(z_ret_abs_m_1 / 2.5, 2) + min(z_spread_m_1 / 2.0, 2)"
    " + min(-z_oi_roc_m_5 / 2.0, 2)) / 3, 6)"
)
_PRICE_OI = ("quadrant", "z_ret_abs_m_5", "abs(z_oi_roc_m_5)")
# detector: row of the table above, primary, secondary
SCORED = {
    "spike.vol_spike_m_1": ("spike", "z_vol_m_1", "z_ret_abs_m_1"),
    "spike.price_spike_up_m_1": ("spike", "z_ret_abs_m_1", "z_vol_m_1"),
    "spike.price_spike_down_m_1": ("spike", "z_ret_abs_m_1", "z_vol_m_1"),
    "spike.oi_spike_up_m_5": ("spike oi", "abs(z_oi_roc_m_5)", "z_ret_abs_m_5"),
    "spike.oi_spike_down_m_5": ("spike oi", "abs(z_oi_roc_m_5)", "z_ret_abs_m_5"),
    "spike.liq_cluster_m_5": ("spike liq", _PROXY, "z_ret_abs_m_1"),
    "combo.price_up_volume_up_m_1": ("spike", "z_ret_abs_m_1", "z_vol_m_1"),
    "combo.price_up_oi_up_m_5": ("spike", "z_ret_abs_m_5", "abs(z_oi_roc_m_5)"),
    "combo.price_up_oi_down_m_5": ("spike", "z_ret_abs_m_5", "abs(z_oi_roc_m_5)"),
    "shift.spread_stress_m_1": ("shift spread", "z_spread_m_1", "z_ret_abs_m_1"),
    "shift.basis_jolt_m_5": ("shift basis", "abs(z_basis_m_5)", "abs(z_oi_roc_m_5)"),
    "shift.funding_jolt_h_1": (
        "shift funding",
        "min(abs(dfunding_h_1) / (2 * b_divisor_dfunding), 6)",
        "0",
    ),
    "shift.funding_jolt_plain_h_1": (
        "shift funding",
        "max(2.5, min(6000 * abs(dfunding_h_1), 6))",
        "0",
    ),
    "quadrant.price_up_oi_up_m_5": _PRICE_OI,
    "quadrant.price_up_oi_down_m_5": _PRICE_OI,
    "quadrant.price_down_oi_up_m_5": _PRICE_OI,
    "quadrant.price_down_oi_down_m_5": _PRICE_OI,
    "div.price_up_cvd_down_m_5": ("divergence", "z_ret_abs_m_5", "abs(z_cvd_delta_m_5)"),
    "div.price_flat_cvd_trend_m_5": ("divergence", "abs(z_cvd_slope_m_5)", "0"),
    "div.premium_no_oi_m_5": ("divergence", "z_basis_m_5", "abs(min(0, z_oi_roc_m_5))"),
}


def test_v02_is_the_calibration() -> None:
    """Numbers of v0.2 are those of the numerics reference, section 9, detector by detector."""
    packs = load("detectors/v0.2.yaml")
    found = {
        d.detector_id: (d.primary.text, d.secondary.text if d.secondary is not None else None)
        for d in packs.detectors
        if d.event_class not in MARKET_CLASSES
    }
    assert found == {name: (primary, second) for name, (_, primary, second) in SCORED.items()}
    for d in packs.detectors:
        line = CALIBRATED[
            d.event_class if d.detector_id not in SCORED else SCORED[d.detector_id][0]
        ]
        numbers = (
            (d.w1, d.w2, d.w3, d.a, d.b),
            (d.publish_threshold, d.cooldown_s, d.half_life_s),
        )
        assert numbers == line, d.detector_id
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


@pytest.mark.parametrize("name", DETECTOR_PACKS)
def test_the_version_of_a_pack_continues_the_name_of_its_file(name: str) -> None:
    """A patch of v0.2.yaml is a v0.2.x."""
    version = raw(name)["detector_pack"]
    assert re.fullmatch(rf"{Path(name).stem}(\.\d+)?".replace("v0.", r"v0\."), version), version


def test_both_packs_have_the_same_triggers() -> None:
    """v0.2 changes how candidates are scored, not which there are; but 10 bp an hour is no
    starter value for funding, so its threshold follows the asset (numerics 10), and what the plan
    says stands beside it."""
    plan, calibrated = (
        {
            d.detector_id: (
                d.trigger.text,
                [c.text for c in d.conditions],
                [g.text for g in d.guards],
                {tier: trigger.text for tier, trigger in d.tier_triggers.items()},
                d.tfs,
            )
            for d in load(name).detectors
        }
        for name in ("detectors/v0.1.yaml", "detectors/v0.2.yaml")
    )
    own = {"shift.funding_jolt_h_1", "shift.funding_jolt_plain_h_1"}
    assert calibrated.keys() - plan.keys() == {"shift.funding_jolt_plain_h_1"}
    assert plan.keys() - calibrated.keys() == set()
    for name in plan.keys() - own:
        assert plan[name] == calibrated[name], name
    assert plan["shift.funding_jolt_h_1"] == calibrated["shift.funding_jolt_plain_h_1"]
    assert calibrated["shift.funding_jolt_h_1"][0] == (
        "abs(dfunding_h_1) >= max(0.00002, 6 * b_divisor_dfunding)"
    )
    assert calibrated["shift.funding_jolt_plain_h_1"][0].startswith("abs(dfunding_h_1) >= 0.001 ||")
    assert load(DETECTOR_PACKS[0]).config_hash != load(DETECTOR_PACKS[1]).config_hash


def test_thresholds_that_the_plan_leaves_open_are_those_of_numerics() -> None:
    """q and theta are multiples of what is usual for the asset (numerics 10), in both packs."""
    for name in DETECTOR_PACKS:
        triggers = {d.detector_id: d.trigger.text for d in load(name).detectors}
        absorbed = triggers["div.price_up_cvd_down_m_5"]
        assert absorbed.endswith("&& cvd_delta_m_5 <= -2.0 * b_divisor_cvd")
        trend = triggers["div.price_flat_cvd_trend_m_5"]
        assert trend.endswith("&& abs(cvd_slope_m_5) >= 6.0 * b_divisor_cvd_slope")
