"""`alpha record`: what it records, and that it always ends cleanly."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from dataflows.cli.failures import USAGE
from dataflows.cli.record import recorder_config
from dataflows.connectors.ticklog import TickLogReader
from fixtures.exchange import Exchange, running_exchange
from fixtures.market import Scenario, lines, meta_and_asset_ctxs

NOWHERE = ("--rest-url", "http://127.0.0.1:9", "--ws-url", "ws://127.0.0.1:9/ws")


@pytest.fixture
def exchange(small_scenario: Scenario) -> Iterator[Exchange]:
    """The small scenario, played fast."""
    meta, ctxs = meta_and_asset_ctxs(small_scenario)
    with running_exchange(meta=meta, ctxs=ctxs, lines=lines(small_scenario), rebase=True) as server:
        server.play(60.0)
        yield server


def channels_of(directory: Path) -> set[str]:
    """Return the channels of a log."""
    with TickLogReader(directory) as log:
        found = log.read(100_000)
    return {orjson.loads(line.partition(b" ")[2])["channel"] for line in found}


@pytest.mark.service
def test_it_records_the_venue(alpha: Any, exchange: Exchange, tmp_path: Path) -> None:
    """Frames and the roster are in the log; the counters are the only thing on stdout."""
    urls = ("--rest-url", exchange.url, "--ws-url", exchange.ws_url)
    ran = alpha(
        "record", "--dir", tmp_path / "log", "--coins", "BTC", "--seconds", 2, "--json", *urls
    )
    assert ran.code == 0
    assert ran.json["counters"]["frames"] > 0
    assert ran.json["directory"] == str(tmp_path / "log")
    assert {"alpha.roster", "bbo"} <= channels_of(tmp_path / "log")
    assert "Traceback" not in ran.err


@pytest.mark.service
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(
    alpha_command: Callable[..., list[str]], tmp_path: Path, number: signal.Signals
) -> None:
    """Exit code 0, the counters, and a log that says why it is empty."""
    with subprocess.Popen(
        alpha_command("record", "--dir", tmp_path / "log", *NOWHERE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 20
        while not list(tmp_path.glob("log/ticks-*")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(number)
        printed, told = process.communicate(timeout=20)
    assert process.returncode == 0, told
    assert "0 frames" in printed
    assert "Traceback" not in told
    assert "sent nothing" in told
    assert "alpha.gap" in channels_of(tmp_path / "log")


def test_options_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not given on the command line is taken from ALPHA_*, then from the defaults."""
    monkeypatch.setenv("ALPHA_COINS", "SOL")
    monkeypatch.setenv("ALPHA_DATA_DIR", "data")
    monkeypatch.setenv("ALPHA_REST_URL", "http://there")
    config = recorder_config(None, {"coins": "BTC, ETH", "ws_url": "ws://here", "max_assets": None})
    assert config.coins == ("BTC", "ETH")
    assert config.ws_url == "ws://here"
    assert config.rest_url == "http://there"
    assert config.directory == Path("data/ticks")
    assert recorder_config(Path("x"), {}).directory == Path("x")


def test_mistakes(alpha: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong numbers and a wrong environment are usage."""
    alpha("record", "--max-assets", 0).failed_with(USAGE, "--max-assets")
    Path("file").write_text("")
    alpha("record", "--seconds", 1, "--dir", "file").failed_with(USAGE, "--dir file")
    alpha("record", "--seconds", -1).failed_with(USAGE, "--seconds")
    monkeypatch.setenv("ALPHA_DETECTOR_PACK", "no.yaml")
    alpha("record", "--seconds", 1).failed_with(USAGE, "no.yaml")
    monkeypatch.setenv("ALPHA_MAX_ASSETS", "many")
    alpha("record", "--seconds", 1).failed_with(USAGE, "ALPHA_MAX_ASSETS")
