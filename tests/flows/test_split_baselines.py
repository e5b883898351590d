"""The shards of a split flow hand out the baselines that one process hands out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bytewax.testing import TestingSink, run_main

from dataflows import shard
from dataflows.connectors.source import LogSource
from dataflows.flow import Sinks, build
from operators.records import BaselineState
from operators.sharding import Share
from packs.loader import load_packs

pytestmark = pytest.mark.engine

PACKS = load_packs()


def told(handed: list[Any]) -> set[BaselineState]:
    """Return what a sink of baselines got."""
    return {state for _, states in handed for state in states}


def test_shards_hand_out_what_one_process_does(episode_log: Path) -> None:
    """Each asset's once, by the shard that has it; four hours are four times."""
    whole: list[Any] = []
    rows: list[Any] = []
    sinks = Sinks(market={"rows": TestingSink(rows)}, published={})
    sinks = sinks._replace(baselines={"store": TestingSink(whole)})
    run_main(build(LogSource(episode_log, PACKS.features), PACKS, sinks))
    parts: list[list[Any]] = [[], []]
    for index, part in enumerate(parts):
        ticks = LogSource(episode_log, PACKS.features)
        phases: dict[str, Any] = {"rows": TestingSink([])}
        stores: dict[str, Any] = {"store": TestingSink(part)}
        run_main(shard.build(ticks, PACKS, Share(index, 2), phases, stores))
    both = [told(part) for part in parts]
    assert whole
    assert told(whole) == both[0] | both[1]
    assert not both[0] & both[1]
    assert {state.asset_uid % 2 for state in both[1]} == {1}
