"""A live flow killed with -9 in the middle and started again verifies like one never killed."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from bytewax.recovery import init_db_dir
from typer.testing import CliRunner

from dataflows.cli import app
from dataflows.connectors.database import EMBEDDED_DIRECTORY
from dataflows.connectors.embedded_postgres import EmbeddedPostgres
from fixtures.exchange import running_exchange
from fixtures.market import FrameOptions, Scenario, default_assets, lines, meta_and_asset_ctxs

pytestmark = [pytest.mark.service, pytest.mark.engine]

ROOT = Path(__file__).parents[2]
SPEED = 40.0
WAIT_S = 60.0
SNAPSHOT_S = 3.0
SCENARIO = Scenario(
    seed=5,
    start_ms=1_790_000_040_000,
    minutes=60,
    assets=default_assets(3),
    frames=FrameOptions(quote_ms=(2000, 2000, 2000, 2000), ctx_ms=5000),
)
# The live flow as `dataflows.live` builds it, but for the clock, which runs faster than ours.
FLOW = """
import sys, time
from dataclasses import replace
from datetime import timedelta
from bytewax.recovery import RecoveryConfig
from bytewax.testing import run_main
from dataflows.connectors.clock import SystemClock
from dataflows.connectors.recorder import Recorder
from dataflows.connectors.source import LogSource
from dataflows.flow import build
from dataflows.live import TICKS, live_database, live_sinks, recorder_config
from dataflows.settings import Settings
from packs.loader import load_packs

start_ms, began_s, speed, store = sys.argv[1:]

class FastClock(SystemClock):
    def now_ns(self):
        return int(start_ms) * 10**6 + int((time.time() - float(began_s)) * float(speed) * 1e9)

settings, packs = Settings.from_env(), load_packs()
database = live_database(settings, packs)
config = replace(recorder_config(settings, packs), heartbeat_ms=25)
source = LogSource(
    settings.data_dir / TICKS, packs.features, follow=True, recording=Recorder(config, FastClock()),
    holes=database.hole_log(packs.features, TICKS),
)
flow = build(source, packs, live_sinks(settings, packs, database), settings.run)
recovery = RecoveryConfig(store, backup_interval=None)
run_main(flow, epoch_interval=timedelta(seconds=1), recovery_config=recovery)
"""


class Live:
    """A live flow in processes of its own, on one recovery store and one embedded database."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._directory = directory
        self._environment = environment
        self._began_s = time.time()
        self._store = directory / "store"
        self._store.mkdir(parents=True)
        init_db_dir(self._store, 1)  # type: ignore[no-untyped-call]

    def run(self, minutes: int, *, name: str) -> None:
        """Run until so many more minutes have rows, then kill it."""
        target = self.minutes() + minutes
        words = (str(SCENARIO.start_ms), str(self._began_s), str(SPEED), str(self._store))
        with (self._directory / f"{name}.out").open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", FLOW, *words],
                cwd=ROOT,
                env=self._environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            try:
                until, settled = time.monotonic() + WAIT_S, math.inf
                # Without one snapshot there is nothing to go on from.
                while self.minutes() < target or time.monotonic() < settled:
                    if self.minutes() and settled == math.inf:
                        settled = time.monotonic() + SNAPSHOT_S
                    said = (self._directory / f"{name}.out").read_text()
                    assert process.poll() is None, said[-3000:]
                    assert time.monotonic() < until, said[-3000:]
                    time.sleep(0.05)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()

    def minutes(self) -> int:
        """How many minutes have rows in the topic file."""
        path = self._directory / "data" / "topics" / "alpha.rows.v0.ndjson"
        if not path.exists():
            return 0
        whole = [line for line in path.read_bytes().splitlines(True) if line.endswith(b"\n")]
        return len({orjson.loads(line)["exchange_ts"] for line in whole})


@contextmanager
def live(directory: Path) -> Iterator[Live]:
    """A venue that plays the scenario, and a flow that will listen to it."""
    market = meta_and_asset_ctxs(SCENARIO)
    with running_exchange(
        meta=market[0], ctxs=market[1], lines=lines(SCENARIO), rebase=False
    ) as exchange:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ALPHA_")}
        environment |= {
            "ALPHA_DATA_DIR": str(directory / "data"),
            "ALPHA_WS_URL": exchange.ws_url,
            "ALPHA_REST_URL": exchange.url,
        }
        exchange.play(SPEED)
        yield Live(directory, environment)


def verified(directory: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `alpha verify` says of the database, and of the topic files."""
    monkeypatch.setenv("ALPHA_DATA_DIR", str(directory / "data"))
    found = {}
    for name, words in {"tables": [], "files": ["--from", str(directory / "data")]}.items():
        ran = CliRunner().invoke(app, ["verify", "--json", *words])
        if ran.exception is not None and not isinstance(ran.exception, SystemExit):
            raise ran.exception
        assert ran.exit_code == 0, ran.stdout[:5000] + ran.stderr
        document = orjson.loads(ran.stdout)
        minutes = document["tally"]["minutes"]
        # Of five minutes; on a busy machine the last are not stored yet when the flow is stopped.
        assert minutes["judged"] >= 2, minutes
        assert document["tally"]["compared"]["rows"] >= 6
        assert document["run_mode"] == "prod"
        found[name] = {
            "found": document["tally"]["found"],
            "began": document["began"],
            "notes": document["notes"],
            "dropped": sorted(set(document["dropped"]) - {"gap_start", "gap_end", "torn_line"}),
        }
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own under root."""
    made = Path(tempfile.mkdtemp(prefix="alpha-verify-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_killed_or_not_the_verification_is_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorder, flow and database: everything that was stored is what the log says."""
    stretches = {"whole": (5,), "killed": (3, 3)}

    def play(name: str) -> None:
        with live(folder / name) as flow:
            for number, minutes in enumerate(stretches[name]):
                flow.run(minutes, name=f"{name}-{number}")

    with ThreadPoolExecutor() as both:  # they mostly wait
        list(both.map(play, stretches))
    results = []
    for name in stretches:
        server = EmbeddedPostgres(folder / name / "data" / EMBEDDED_DIRECTORY, own=True).start()
        try:
            results.append(verified(folder / name, monkeypatch))
        finally:
            server.stop()
    assert results[0] == results[1]
    assert results[0]["tables"]["found"] == {}
    assert results[0]["tables"]["began"] == []
