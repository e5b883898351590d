"""The packs this repository ships: pinned by hash, exact to the plan and the calibration."""

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from packs.loader import Packs, check_file, load_packs
from packs.schema import PLAN_BUDGETS, PLAN_CLASS_DEFAULTS

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


def test_both_packs_have_the_same_triggers() -> None:
    """v0.2 changes how candidates are scored, not which there are."""
    triggers = [
        {d.detector_id: (d.trigger.text, [c.text for c in d.conditions]) for d in p.detectors}
        for p in map(load, DETECTOR_PACKS)
    ]
    assert triggers[0] == triggers[1]
    assert load(DETECTOR_PACKS[0]).config_hash != load(DETECTOR_PACKS[1]).config_hash
