"""The table of commands: loaded late, documented, and every error with its code."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from bytewax.errors import BytewaxRuntimeError
from typer.main import get_command

from dataflows.cli import group
from dataflows.cli.failures import (
    EXIT_CODES,
    FAILED,
    INPUT,
    KNOWN,
    USAGE,
    Failure,
    Problem,
    failure_of,
)
from dataflows.cli.group import COMMANDS
from dataflows.connectors.recorder import RecorderError
from dataflows.connectors.ticklog import LogError
from operators.assemble import StateError

ROOT = Path(__file__).parents[2]
HEAVY = (
    *("bytewax", "psycopg", "httpx", "pydantic", "yaml", "websockets", "zstandard", "numpy"),
    *("msgspec", "orjson", "rich.console", "asyncio", "dataflows.live", "packs.loader"),
)
HELP = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from dataflows.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*sorted(sys.modules), file=sys.stderr)
"""


def leaves() -> dict[str, Any]:
    """Return every command that can be run, by its full name."""
    found = {}
    for name, entry in COMMANDS.items():
        top = get_command(importlib.import_module(f"dataflows.cli.{entry.module}").app)
        inner = getattr(top, "commands", None)
        found.update({f"{name} {n}": c for n, c in inner.items()} if inner else {name: top})
    return found


def test_help_lists_every_command_and_exit_code(alpha: Any) -> None:
    """What the program can do, and how it ends, is on its first page."""
    ran = alpha("--help")
    assert ran.code == 0
    for name, entry in COMMANDS.items():
        assert name in ran.out
        assert entry.help in ran.out
    for code, meaning in EXIT_CODES.items():
        assert f"{code:<3}  {meaning}" in ran.out


def test_help_loads_nothing_heavy() -> None:
    """Asking for help costs the command line itself and no more."""
    done = subprocess.run(
        [sys.executable, "-c", HELP, str(ROOT), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.split())
    assert "dataflows.cli.group" in loaded
    assert not loaded.intersection(HEAVY)


def test_the_table_says_what_the_commands_say() -> None:
    """The line in the table is the first line of the command's own help."""
    for entry in COMMANDS.values():
        own = get_command(importlib.import_module(f"dataflows.cli.{entry.module}").app)
        assert (own.help or "").strip().splitlines()[0] == entry.help


def test_every_command_takes_json() -> None:
    """A program can use every command."""
    assert len(leaves()) == 29
    for name, command in leaves().items():
        assert any("--json" in parameter.opts for parameter in command.params), name


def test_version(alpha: Any) -> None:
    """The version is that of the producer in events."""
    assert alpha("--version").out.startswith("alpha-detector@v")


def test_a_mistyped_command_is_answered_with_the_right_one(alpha: Any) -> None:
    """Usage errors end with 2."""
    alpha("relpay").failed_with(USAGE, "replay")
    alpha("replay", "--outt", "x").failed_with(USAGE, "--out")
    alpha("replay", "log").failed_with(USAGE, "--out")


def test_known_errors_exist() -> None:
    """The names in the table of errors are names of errors."""
    for name in KNOWN:
        module, _, kind = name.rpartition(".")
        found = getattr(importlib.import_module(module), kind)
        assert issubclass(found, Exception)
        assert f"{found.__module__}.{found.__qualname__}" == name


def chained(outer: BaseException, inner: BaseException) -> BaseException:
    """Return an error with its cause."""
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (LogError("gone"), Failure("gone", INPUT)),
        (chained(BytewaxRuntimeError("step"), LogError("gone")), Failure("gone", INPUT)),
        (chained(BytewaxRuntimeError("step"), KeyError("x")), None),
        (chained(LogError("gone"), KeyError("x")), Failure("gone", INPUT)),
        (chained(BytewaxRuntimeError("step"), StateError("old")), Failure("old", INPUT)),
        (RecorderError("coins"), Failure("coins", USAGE)),
        (chained(RecorderError("died"), OSError(28, "full")), Failure("died", FAILED)),
        (FileNotFoundError(2, "No such file", "a.csv"), Failure("a.csv: No such file", INPUT)),
        (OSError(28, "No space left"), Failure("the run failed: No space left", FAILED)),
        (BrokenPipeError(32, "Broken pipe"), None),
        (Problem("here", USAGE), Failure("here", USAGE)),
        (AssertionError("a bug"), None),
        (typer.BadParameter("usage"), None),
    ],
)
def test_errors_become_a_message_and_a_code(error: BaseException, failure: Failure | None) -> None:
    """What a user can cause or cure is told; a bug, a closed pipe and a usage error pass."""
    assert failure_of(error) == failure


def test_a_bug_keeps_its_traceback(alpha: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing hides an error nobody expected."""

    def broken(name: str) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(group, "import_module", broken)
    with pytest.raises(ZeroDivisionError):
        alpha("doctor")


def test_a_missing_package_is_named(alpha: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an installation says what to do."""

    def half(name: str) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")

    monkeypatch.setattr(group, "import_module", half)
    alpha("demo").failed_with(USAGE, "psycopg", "make venv")


def test_a_closed_pipe_is_no_error(alpha_command: Callable[..., list[str]], tmp_path: Path) -> None:
    """`alpha events ... | head` ends quietly."""
    event = (
        b'{"event_id":"e","exchange_ts":"2026-09-21T20:01:00Z","symbol":"BTC","class":"spike",'
        b'"subtype":"vol_spike_m_1","severity":50,"padding":"%b"}\n' % (b"x" * 200)
    )
    file = tmp_path / "events.ndjson"
    file.write_bytes(event * 5000)
    with subprocess.Popen(
        alpha_command("events", file, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(20)
    assert errors == b""


@pytest.mark.parametrize("name", ["failures", "record", "screen", "tables"])
def test_examples(name: str) -> None:
    """The examples in the docstrings hold."""
    results = doctest.testmod(importlib.import_module(f"dataflows.cli.{name}"))
    assert results.attempted
    assert not results.failed
