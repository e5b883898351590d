"""A runner for the command line, in an empty directory and an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from dataflows.cli import app
from dataflows.connectors.ticklog import TickLogWriter
from fixtures.market import FrameOptions, Scenario, default_assets, lines

ROOT = Path(__file__).parents[2]
START_MS = 1_790_000_100_000  # no quarter of an hour ends within the next minutes


class Ran:
    """What a command printed, and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return orjson.loads(self.out)

    def failed_with(self, code: int, *words: str) -> None:
        """Assert one message on stderr with these words, nothing on stdout, no traceback."""
        assert self.code == code, (self.code, self.err)
        assert self.out == ""
        assert "Traceback" not in self.err
        assert "panicked" not in self.err
        assert self.err.lower().count("error:") == 1, self.err
        for word in words:
            assert word in self.err


Alpha = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ALPHA_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def alpha() -> Alpha:
    """Run a command in this process."""

    def run(*arguments: object) -> Ran:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def alpha_process() -> Alpha:
    """Run a command in a process of its own."""

    def run(*arguments: object) -> Ran:
        done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60)
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


def command(*arguments: object) -> list[str]:
    """Return the command line of a process that runs `alpha`."""
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from dataflows.cli import main"
    return [sys.executable, "-c", f"{program}; main()", str(ROOT), *map(str, arguments)]


@pytest.fixture(scope="session")
def alpha_command() -> Callable[..., list[str]]:
    """Return the maker of command lines, for tests that watch a process."""
    return command


@pytest.fixture(scope="session")
def small_scenario() -> Scenario:
    """Six quiet minutes of two assets."""
    frames = FrameOptions(quote_ms=(5000, 5000, 8000, 8000), book=False, ctx_ms=15_000)
    return Scenario(3, START_MS, 6, default_assets(2), (), frames)


@pytest.fixture(scope="session")
def small_log(tmp_path_factory: pytest.TempPathFactory, small_scenario: Scenario) -> Path:
    """The tick log of the small scenario, in several segments."""
    directory = tmp_path_factory.mktemp("small") / "ticks"
    writer = TickLogWriter(directory, segment_bytes_max=64 << 10)
    for line in lines(small_scenario):
        writer.write_lines(int(line[: line.index(b" ")]), line)
    writer.close()
    return directory
