"""The products of a generated market are pinned: any change of behaviour shows as a diff."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataflows.replay import product_path, replay
from packs.loader import load_packs

pytestmark = pytest.mark.engine

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden" / "episodes"


@pytest.mark.parametrize("pack", ["v0.1", "v0.2"])
def test_golden_events_and_sums(
    episode_log: Path, tmp_path: Path, update_golden: bool, pack: str
) -> None:
    """Events are pinned as text, to be read in a review; the rest by its hash."""
    root = Path(__file__).parents[2]
    packs = load_packs(detectors=root / "packs" / "detectors" / f"{pack}.yaml")
    summary = replay(episode_log, tmp_path, packs)
    events = product_path(tmp_path, "events").read_text()
    sums = {name: product.sha256 for name, product in summary.products.items()}
    pinned_events = GOLDEN / f"events-{pack}.ndjson"
    pinned_sums = GOLDEN / f"sums-{pack}.json"
    if update_golden:
        GOLDEN.mkdir(parents=True, exist_ok=True)
        pinned_events.write_text(events)
        pinned_sums.write_text(json.dumps(sums, indent=2) + "\n")
    assert events == pinned_events.read_text()
    assert sums == json.loads(pinned_sums.read_text())
