"""`alpha packs`: faults in one message, and what is in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dataflows.cli.failures import INPUT, NOT_IN_ORDER, USAGE
from packs.loader import load_packs

ROOT = Path(__file__).parents[2]
PACKS = ROOT / "fixtures/packs"


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


def test_columns_are_those_of_the_registry(alpha: Any) -> None:
    """As JSON every column under every name; as a table too, family by family, in 100 columns."""
    registry = load_packs().features.registry
    shown = alpha("packs", "columns", "--json").json
    assert [column["name"] for column in shown] != []
    assert sorted(c["name"] for c in shown) == sorted(c.name for c in registry)
    volume = next(column for column in shown if column["name"] == "v_total_m_15")
    assert volume["base"] == "v_total_m_1"
    assert volume["tfs"] == ["15m"]
    assert volume["normalised"] is True
    ran = alpha("packs", "columns")
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= 100
    first_words = {line.split()[0] for line in ran.out.splitlines() if line.strip()}
    assert {column.name for column in registry} <= first_words
    assert {column.family for column in registry} <= first_words
    assert "v1.1" in ran.out


def test_columns_of_a_family_and_timeframe(alpha: Any) -> None:
    """The filters are those of the registry; a word it does not know is told with those it does."""
    shown = alpha("packs", "columns", "--family", "flow", "--tf", "15m", "--json").json
    assert {column["name"] for column in shown} == {
        *("v_buy_m_15", "v_sell_m_15", "v_total_m_15", "trade_count_m_15"),
        *("cvd_delta_m_15", "cvd_delta_m_75", "cvd_level", "cvd_slope_m_75"),
    }
    ran = alpha("packs", "columns", "--family", "flow", "--tf", "15m")
    assert "v_total_m_15" in ran.out
    assert "z_vol_m_15" not in ran.out
    alpha("packs", "columns", "--family", "flows").failed_with(USAGE, "--family flows", "price")
    alpha("packs", "columns", "--tf", "5m").failed_with(USAGE, "--tf 5m", "15m")


def test_columns_as_the_page(alpha: Any) -> None:
    """`--markdown` prints docs/columns.md to the byte, and nothing but the whole of it."""
    page = (ROOT / "docs/columns.md").read_text()
    assert alpha("packs", "columns", "--markdown").out == page
    for option in (("--json",), ("--family", "flow"), ("--tf", "1h")):
        alpha("packs", "columns", "--markdown", *option).failed_with(USAGE, "whole page")


def test_ddl_prints_what_the_files_lack(alpha: Any, tmp_path: Path) -> None:
    """Nothing for the shipped pack; one column and its comment for a pack that has one more."""
    ran = alpha("packs", "ddl")
    assert (ran.code, ran.out) == (0, "")
    assert "every column" in ran.err
    raw = yaml.safe_load((ROOT / "packs/features/v1.0.yaml").read_text())
    close = next(column for column in raw["columns"] if column["name"] == "mid_close")
    more = {"name": "micro_close", "formula": "x" * 120, "inputs": ["bbo"]}
    raw["columns"].append(close | more)
    pack = tmp_path / "more.yaml"
    pack.write_text(yaml.safe_dump(raw | {"feature_pack": "v1.1"}))
    printed = alpha("packs", "ddl", "--features", pack)
    assert "alter table features_snapshot\n  add column if not exists micro_close double" in (
        printed.out
    )
    assert f"  '{'x' * 120}; null: a side is missing [quote, pack v1.1]';\n" in printed.out
    assert alpha("packs", "ddl", "--features", pack, "--json").json == {"sql": printed.out}
