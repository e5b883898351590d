"""The page of the detectors, and the command that shows it."""

from pathlib import Path

import orjson
from typer.testing import CliRunner

from dataflows.catalogue import catalogue_page
from dataflows.cli import app
from packs.loader import load_packs

ROOT = Path(__file__).parents[1]


def test_page_is_current() -> None:
    """docs/detectors.md is what the command prints."""
    page = (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
    assert page == catalogue_page(load_packs()), "alpha packs detectors --markdown"


def test_page_has_every_detector_with_its_trigger() -> None:
    """Each detector of each shipped pack has a section, a trigger and its scores."""
    for name in ("v0.1.yaml", "v0.2.yaml"):
        packs = load_packs(detectors=ROOT / "packs" / "detectors" / name)
        page = catalogue_page(packs)
        for detector in packs.detectors:
            section = page.partition(f"### {detector.detector_id}\n")[2].partition("\n#")[0]
            assert " ".join(detector.trigger.text.split()) in section, detector.detector_id
            assert f"w1 {detector.w1:g}" in section


def test_page_says_what_is_off() -> None:
    """Without sectors the sector detector cannot fire, and the page says so."""
    assert "rot.rs_flip_sector_m_15 is off" in catalogue_page(load_packs())


def test_command_prints_the_page_and_json() -> None:
    """`--markdown` prints the page, `--json` every detector with its tiers."""
    shown = CliRunner().invoke(app, ["packs", "detectors", "--markdown"])
    assert shown.exit_code == 0, shown.output
    assert shown.output == (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
    listed = orjson.loads(CliRunner().invoke(app, ["packs", "detectors", "--json"]).output)
    assert len(listed) == len(load_packs().detectors)
    assert listed[0]["tier_triggers"] == {"top": "z_vol_m_1 >= 3.2", "tail": "z_vol_m_1 >= 3.8"}
