"""`alpha packs`: faults in one message, and what is in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataflows.cli.failures import INPUT, NOT_IN_ORDER, USAGE
from packs.loader import load_packs

PACKS = Path(__file__).parents[2] / "fixtures/packs"


def test_a_good_pack_is_in_order(alpha: Any) -> None:
    """Warnings are told and are no fault."""
    ran = alpha("packs", "check", PACKS / "plan_slice.yaml")
    assert ran.code == 0
    assert "in order" in ran.out
    assert "warning: " in ran.err
    result = alpha("packs", "check", PACKS / "plan_slice.yaml", "--json").json
    assert result["kind"] == "detectors"
    assert result["faults"] == []
    assert result["warnings"]


def test_released_packs_need_examples(alpha: Any) -> None:
    """What is a warning in a pack of one's own is a fault in a released one."""
    ran = alpha("packs", "check", PACKS / "plan_slice.yaml", "--released")
    ran.failed_with(NOT_IN_ORDER, "examples")


def test_every_fault_is_in_the_one_message(alpha: Any) -> None:
    """The message is that of the loader; the exit code says that the check failed."""
    ran = alpha("packs", "check", PACKS / "four_faults.yaml")
    ran.failed_with(NOT_IN_ORDER, "4 faults", "half_life_sec", "z_vol_m_1", "90000")
    asked = alpha("packs", "check", PACKS / "four_faults.yaml", "--json")
    assert asked.code == NOT_IN_ORDER
    assert asked.err == ""
    assert len(asked.json["faults"]) == 4
    assert set(asked.json["faults"][0]) == {"file", "key", "found", "expected"}


def test_a_file_that_is_not_there(alpha: Any, tmp_path: Path) -> None:
    """It cannot be checked."""
    alpha("packs", "check", "nothing.yaml").failed_with(INPUT, "nothing.yaml")
    alpha("packs", "check", tmp_path).failed_with(INPUT, "expected a pack")


def test_show_tells_versions_and_detectors(alpha: Any) -> None:
    """Names, thresholds and the hash are those of the loaded packs."""
    packs = load_packs()
    shown = alpha("packs", "show", "--json").json
    assert shown["config_hash"] == packs.config_hash
    assert [d["id"] for d in shown["detectors"]] == [d.detector_id for d in packs.detectors]
    assert shown["detectors"][0]["publish_threshold"] == packs.detectors[0].publish_threshold
    ran = alpha("packs", "show")
    assert packs.config_hash in ran.out
    assert max(map(len, ran.out.splitlines())) <= 100
    for detector in packs.detectors:
        assert detector.detector_id in ran.out


def test_show_with_a_broken_pack(alpha: Any) -> None:
    """A pack that does not load is a wrong configuration."""
    ran = alpha("packs", "show", "--detectors", PACKS / "four_faults.yaml")
    ran.failed_with(USAGE, "4 faults")
