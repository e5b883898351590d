"""Packs decide what fires: the plan's own slice does, unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataflows.replay import product_path, replay
from packs.loader import check_file, load_packs

pytestmark = pytest.mark.engine

SLICE = Path(__file__).parents[2] / "fixtures" / "packs" / "plan_slice.yaml"


def test_the_plans_slice_loads_unchanged_and_fires(episode_log: Path, tmp_path: Path) -> None:
    """Dropped in as printed: no fault, missing examples are warnings, the episodes are heard."""
    faults, warnings, kind = check_file(SLICE)
    assert (faults, kind) == ([], "detectors")
    assert len(warnings) >= 4
    replay(episode_log, tmp_path, load_packs(detectors=SLICE))
    events, candidates = (
        [json.loads(line) for line in product_path(tmp_path, name).read_text().splitlines()]
        for name in ("events", "suppressed")
    )
    fired = {event["subtype"] for event in events}
    fired |= {item["detector_id"].partition(".")[2] for item in candidates}
    assert fired == {
        "vol_spike_m_1",
        "price_spike_up_m_1",
        "price_spike_down_m_1",
        "price_up_volume_up_m_1",
    }
    assert {event["symbol"] for event in events} >= {"BTC", "ETH", "SOL"}
    assert {event["provenance"]["detector_pack"] for event in events} == {"v0.1.0"}
    assert all(event["severity"] >= 65 for event in events)
