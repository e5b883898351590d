"""Live is replay with a thread that still appends: same bytes, whatever the venue does."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from bytewax.errors import BytewaxRuntimeError
from bytewax.testing import run_main

from dataflows.connectors.clock import SystemClock
from dataflows.connectors.recorder import Recorder, RecorderConfig
from dataflows.connectors.source import LogSource, SourceState
from dataflows.flow import build
from dataflows.replay import PRODUCTS, file_sinks, product_path, replay
from fixtures.exchange import running_exchange
from fixtures.market import FrameOptions, Scenario, default_assets, lines, meta_and_asset_ctxs
from packs.loader import Packs, load_packs

pytestmark = [pytest.mark.service, pytest.mark.engine]

SPEED = 20.0
MINUTE_NS = 60_000_000_000
SCENARIO = Scenario(
    seed=3,
    start_ms=1_790_000_040_000,
    minutes=12,
    assets=default_assets(3),
    frames=FrameOptions(quote_ms=(1000, 1000, 1000, 1000), ctx_ms=5000),
)


class FastClock(SystemClock):
    """A wall clock that starts with the scenario and runs faster; pauses stay real."""

    def __init__(self, start_ms: int) -> None:
        self._start_ns = start_ms * 1_000_000
        self._began = time.monotonic()

    def now_ns(self) -> int:
        """Return accelerated wall time."""
        return self._start_ns + int((time.monotonic() - self._began) * SPEED * 1e9)


class Enough(Exception):
    """The test has seen what it needs."""


def run_live(directory: Path, config: RecorderConfig, packs: Packs, *, minutes: int) -> None:
    """Run the live flow until its clock has passed so many minutes."""
    began_ns = 0

    def watch(state: SourceState) -> None:
        nonlocal began_ns
        began_ns = began_ns or state.feed.clock_ns
        if state.feed.clock_ns - began_ns > minutes * MINUTE_NS:
            raise Enough

    source = LogSource(
        path=config.directory,
        features=packs.features,
        follow=True,
        recording=Recorder(config, FastClock(SCENARIO.start_ms)),
        on_chunk=watch,
    )
    with pytest.raises(BytewaxRuntimeError):
        run_main(build(source, packs, file_sinks(directory / "live")))
    assert source.recording is not None
    source.recording.stop()


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Return the rows of a directory of products."""
    return [json.loads(line) for line in product_path(out, "rows").read_text().splitlines()]


def assert_replay_repeats(directory: Path, log: Path, packs: Packs) -> None:
    """What the recorder wrote gives the same bytes again, and goes on from there."""
    replay(log, directory / "again", packs)
    for name in PRODUCTS:
        live = product_path(directory / "live", name)
        again = product_path(directory / "again", name).read_bytes()
        assert again.startswith(live.read_bytes() if live.exists() else b"")


def test_differential_a_live_run_and_the_replay_of_its_log_are_equal(tmp_path: Path) -> None:
    """Recorder, sockets, a drop in the middle: the log holds everything the flow saw."""
    packs = load_packs()
    market = meta_and_asset_ctxs(SCENARIO)
    with running_exchange(
        meta=market[0], ctxs=market[1], lines=lines(SCENARIO), rebase=False
    ) as exchange:
        config = RecorderConfig(
            directory=tmp_path / "ticks",
            ws_url=exchange.ws_url,
            rest_url=exchange.url,
            heartbeat_ms=50,
        )
        exchange.play(SPEED)
        run_live(tmp_path, config, packs, minutes=5)
    rows = rows_of(tmp_path / "live")
    assert {row["symbol"] for row in rows} == {spec.coin for spec in SCENARIO.assets}
    late = [row for row in rows if row["exchange_ts"] == rows[-1]["exchange_ts"]]
    assert all(row["v_total_m_1"] > 0 for row in late)
    assert {row["dq_status"] for row in late} <= {"ok", "partial"}
    assert_replay_repeats(tmp_path, config.directory, packs)


def test_without_a_network_minutes_go_on_as_stale(tmp_path: Path) -> None:
    """No venue at all: the bootstrap assets get stale rows, nothing crashes."""
    packs = load_packs()
    config = RecorderConfig(
        directory=tmp_path / "ticks",
        ws_url="ws://127.0.0.1:9/ws",
        rest_url="http://127.0.0.1:9",
        heartbeat_ms=50,
    )
    run_live(tmp_path, config, packs, minutes=4)
    rows = rows_of(tmp_path / "live")
    assert {row["symbol"] for row in rows} == {"BTC", "ETH"}
    assert len({row["exchange_ts"] for row in rows}) >= 3
    assert {row["dq_status"] for row in rows} == {"stale"}
    assert all("gap" in row["dq_reasons"] for row in rows if row["tf"] == "1m")
    assert_replay_repeats(tmp_path, config.directory, packs)
