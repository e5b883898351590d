"""`alpha db`: the embedded PostgreSQL, and the care of a database: files, months, roles."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from dataflows.cli.failures import NOT_IN_ORDER, USAGE, Problem
from dataflows.cli.pack_files import DetectorsFile, FeaturesFile, UniverseFile
from dataflows.cli.screen import AsJson, new_table, put, put_json, put_table, say
from dataflows.connectors.clock import SystemClock
from dataflows.connectors.database import EMBEDDED_DIRECTORY
from dataflows.connectors.embedded_postgres import EmbeddedPostgres, find_binaries
from dataflows.connectors.migrate import (
    MONTHS_AHEAD,
    create_partitions,
    migrate,
    open_session,
    partitions_ahead,
)
from dataflows.connectors.registry import write_packs
from dataflows.connectors.retention import KEEP_DAYS, drop_expired
from dataflows.connectors.roles import grant_roles, roles_text
from dataflows.settings import DATABASE_OFF, Settings
from packs.loader import load_packs

app = typer.Typer(
    help="Care for a database, and run the embedded PostgreSQL.",
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


Schema = Annotated[str, typer.Option("--schema", help="Schema of the tables.")]
WAIT_MS = 60_000


@app.command("migrate")
def migrate_(
    directory: DataDirectory = None,
    schema: Schema = "public",
    features: FeaturesFile = None,
    detectors: DetectorsFile = None,
    universe: UniverseFile = None,
    as_json: AsJson = False,
) -> None:
    """Apply the files that are missing and write the packs into the registries.

    The database is that of ALPHA_DATABASE_URL, else the embedded one. Where the job's own user may
    not do this, run it as a member of alpha_ops before the job is started.
    """
    packs = load_packs(features, detectors, universe)
    with _database(directory) as dsn:
        applied = migrate(dsn, schema)
        changed = write_packs(dsn, schema, packs, now_ms=_now_ms())
    if as_json:
        put_json({"schema": schema, "applied": applied, "registry_rows": changed})
    else:
        put(f"schema {schema}: {len(applied)} files applied, {changed} registry rows written")


@app.command()
def roles(
    directory: DataDirectory = None,
    schema: Schema = "public",
    show: Annotated[bool, typer.Option("--show", help="Print the SQL and run nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the roles and set what each may do; as an administrator, again after a migration."""
    if show:
        put(roles_text().rstrip())
        return
    with _database(directory) as dsn:
        made = grant_roles(dsn, schema)
    if as_json:
        put_json({"schema": schema, "roles": list(made)})
    else:
        put(f"schema {schema}: {', '.join(made)}")


@app.command()
def partitions(
    directory: DataDirectory = None,
    schema: Schema = "public",
    months: Annotated[
        int, typer.Option(min=0, max=24, help="How many months after this one.")
    ] = MONTHS_AHEAD,
    as_json: AsJson = False,
) -> None:
    """Make the partitions of this month and the next ones; those that exist stay."""
    with _database(directory) as dsn, open_session(dsn, schema) as connection:
        made = create_partitions(connection, schema, partitions_ahead(_now_ms(), months))
    if as_json:
        put_json({"schema": schema, "made": made})
    else:
        put("\n".join(made) or "all of them are there")


@app.command()
def retention(
    directory: DataDirectory = None,
    schema: Schema = "public",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be dropped, drop nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Drop the months of rows and events that are older than they are kept.

    1m rows are kept 90 days, 15m rows a year, 1h rows three years; events, shadow
    events and dead letters 400 days, suppressions 90; everything else stays.
    """
    with _database(directory) as dsn:
        gone = drop_expired(dsn, schema, now_ms=_now_ms(), dry_run=dry_run, wait_ms=WAIT_MS)
    if as_json:
        months = [{"name": m.name, "table": m.parent, "size_bytes": m.size_bytes} for m in gone]
        put_json({"schema": schema, "dry_run": dry_run, "months": months})
    elif not gone:
        put("nothing is older than it is kept")
    else:
        table = new_table("month", "kept days", "kB", right=("kept days", "kB"))
        for m in gone:
            table.add_row(m.name, str(KEEP_DAYS[m.parent]), f"{m.size_bytes // 1000:,}")
        put_table(table)
        put("would be dropped" if dry_run else "dropped")


@contextmanager
def _database(directory: Path | None) -> Iterator[str]:
    """The server that is given, else the embedded one, which runs meanwhile."""
    settings = Settings.from_env()
    if directory is None and settings.database_url == DATABASE_OFF:
        raise Problem(
            "ALPHA_DATABASE_URL is `off`: name a database, or a directory by --dir", USAGE
        )
    if directory is None and settings.database_url is not None:
        yield settings.database_url
        return
    server = server_of(_given(directory))
    ran = server.pid() is not None
    server.start()
    try:
        yield server.dsn()
    finally:
        if not ran:
            server.stop()


def _now_ms() -> int:
    return SystemClock().now_ns() // 1_000_000


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
