"""Shared inputs: a generated log with episodes, and the place of the real recordings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from operators import native

if "ALPHA_PLAIN" in os.environ:  # as if the inner loops had not been compiled
    sys.modules[f"{native.PACKAGE}.{native.expected_module()}"] = None  # type: ignore[assignment]

from dataflows.connectors.ticklog import TickLogWriter
from fixtures.market import Episode, FrameOptions, Scenario, default_assets, lines

# A slow machine is not a failing test; in CI the same examples are tried every time.
settings.register_profile("steady", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("steady")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

EPISODE_SCENARIO = Scenario(
    seed=7,
    start_ms=1_790_000_000_000 // 60_000 * 60_000,
    minutes=238,
    assets=default_assets(4),
    episodes=(
        Episode("squeeze", 206, 5, ("SOL",)),
        Episode("feed_outage", 216, 2),
        Episode("spread_stress", 224, 3, ("ETH",)),
        Episode("basket_shock", 230, 2, strength=-1.0),
    ),
    frames=FrameOptions(quote_ms=(12_000, 12_000, 15_000, 15_000), book=False, ctx_ms=15_000),
)


def write_log(directory: Path, scenario: Scenario, *, segment_bytes: int = 4 << 20) -> Path:
    """Write a scenario as a tick log directory."""
    writer = TickLogWriter(directory, segment_bytes_max=segment_bytes)
    for line in lines(scenario):
        writer.write_lines(int(line[: line.index(b" ")]), line)
    writer.close()
    return directory


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-golden`: rewrite pinned outputs; the review is their diff."""
    parser.addoption("--update-golden", action="store_true", help="rewrite pinned outputs")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Return whether pinned outputs are to be rewritten."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def episode_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log of four assets and four hours with episodes after the warm-up."""
    return write_log(tmp_path_factory.mktemp("episodes") / "ticks", EPISODE_SCENARIO)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real recordings, or skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real recordings in ../shared/data")
    return SHARED_DATA
