"""`alpha db`: the embedded PostgreSQL, for looking at it and for other programs."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from dataflows.cli.failures import NOT_IN_ORDER
from dataflows.cli.screen import AsJson, put, put_json, say
from dataflows.connectors.database import EMBEDDED_DIRECTORY
from dataflows.connectors.embedded_postgres import EmbeddedPostgres, find_binaries
from dataflows.settings import Settings

app = typer.Typer(
    help="Start, stop and find the embedded PostgreSQL.",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)

DataDirectory = Annotated[
    Path | None,
    typer.Option("--dir", help="Data directory; default: ALPHA_DATA_DIR, else var."),
]


@app.command()
def start(directory: DataDirectory = None, as_json: AsJson = False) -> None:
    """Start the server of a data directory, or find it running; it goes on until it is stopped."""
    server = server_of(_given(directory)).start()
    _report(server, as_json)
    if not as_json:
        say(f"look at it: {psql_line(server.dsn())}")


@app.command()
def stop(directory: DataDirectory = None, as_json: AsJson = False) -> None:
    """Stop the server of a data directory, whoever started it."""
    server = server_of(_given(directory))
    if server.pid() is not None:
        server.stop()
    if as_json:
        put_json(_described(server))
    else:
        put(f"stopped; its data stays in {server.home}")


@app.command()
def url(directory: DataDirectory = None, as_json: AsJson = False) -> None:
    """Print the connection string; exit code 4 if the server does not run."""
    server = server_of(_given(directory))
    _report(server, as_json)
    if server.pid() is None:
        where = "" if directory is None else f" --dir {directory}"
        say(f"it is not running: alpha db start{where}", "yellow")
        raise typer.Exit(NOT_IN_ORDER)


def server_of(directory: Path, *, quiet: bool = False) -> EmbeddedPostgres:
    """Return the server of a data directory; nothing is started and nothing is made."""
    hear = _ignore if quiet else say
    return EmbeddedPostgres(directory / EMBEDDED_DIRECTORY, say=hear)


def psql_line(dsn: str, *arguments: str) -> str:
    """Return a command that opens a database: with the `psql` on the path, else the bundled one."""
    program = "psql" if shutil.which("psql") else str(find_binaries() / "psql")
    return shlex.join([program, dsn, *arguments])


def _ignore(line: str) -> None:
    """Take a line that was said before."""


def _given(directory: Path | None) -> Path:
    return directory if directory is not None else Settings.from_env().data_dir


def _described(server: EmbeddedPostgres) -> dict[str, Any]:
    pid = server.pid()
    return {"url": server.dsn(), "home": str(server.home), "running": pid is not None, "pid": pid}


def _report(server: EmbeddedPostgres, as_json: bool) -> None:
    if as_json:
        put_json(_described(server))
    else:
        put(server.dsn())
