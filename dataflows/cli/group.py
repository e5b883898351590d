"""The table of commands, and the group that imports a command only when it is called.

Rules of this file: help needs the table alone; the one place that imports by name is here; a known
error of any command ends here as one message and its exit code.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command

from dataflows.cli.failures import USAGE, Problem, failure_of

_PACKAGE = "dataflows.cli"
_OURS = ("dataflows", "operators", "packs", "sql", "fixtures")


class Entry(NamedTuple):
    """Where a command lives, and its line in the help."""

    module: str
    help: str


COMMANDS = {
    "demo": Entry("demo", "Run a generated market through everything and show its events."),
    "replay": Entry("replay", "Run a tick log, or minute bars, and write the products as text."),
    "compact": Entry("compact", "Make a columnar cache of a tick log, for faster replays."),
    "calibrate": Entry(
        "calibrate", "Measure the z-scores of minute bars against a standard normal."
    ),
    "evaluate": Entry("evaluate", "Measure the events of minute bars: rates, lift, labels."),
    "trial": Entry("trial", "Try detector packs on the rows of a replay, in seconds."),
    "record": Entry("record", "Record the venue into a tick log, and nothing else."),
    "forward": Entry("forward", "Copy a tick log to Kafka, for shards on other machines."),
    "backfill": Entry("backfill", "Store the venue's candles beside what was built from ticks."),
    "gaps": Entry("gaps", "List the holes of the recording and what they have cost."),
    "import": Entry("imports", "Turn recordings of others into a tick log or a bars file."),
    "events": Entry("events", "Show events of a replay or of the live topic."),
    "explain": Entry("explain", "Say why an event was published, and make it again."),
    "verify": Entry("verify", "Make what is stored again from the log, and compare the bytes."),
    "tail": Entry("tail", "Follow events: print, filter, forward to chats and webhooks."),
    "packs": Entry("packs", "Check and show packs."),
    "db": Entry("database", "Care for a database, and run the embedded PostgreSQL."),
    "doctor": Entry("doctor", "Check this installation and say what to do."),
}


class LazyGroup(TyperGroup):
    """Knows its commands by name and loads the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Return name, command and remaining arguments; the placeholder gives way here."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = get_command(module_of(COMMANDS[name].module).app)
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a known error is a message and an exit code."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            failure = failure_of(error)
            if failure is None:
                raise
            typer.echo(f"error: {failure.message}", err=True)
            raise typer.Exit(failure.code) from error


def module_of(name: str) -> ModuleType:
    """Import a module of the command line; a missing package is a message that says what to do."""
    try:
        return import_module(f"{_PACKAGE}.{name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _OURS:
            raise
        raise Problem(
            f"package {missing} is not installed: run `make venv`, or"
            " `pip install alpha-detector` in this environment",
            USAGE,
        ) from error
