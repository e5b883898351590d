"""`alpha demo`: a generated market through everything, and what came of it.

Rules of this file: the same demo gives the same bytes and the same rows of the database however
often it is run; a database that cannot be had costs the demo its database and nothing else; what is
missing is said, and is the exit code.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

from dataflows.cli.database import psql_line, server_of
from dataflows.cli.demo_log import (
    Manifest,
    claim,
    clear,
    expected_span,
    generate,
    is_current,
    log_of,
    save,
)
from dataflows.cli.demo_report import DemoReport, episodes_table, report_of
from dataflows.cli.failures import NOT_IN_ORDER
from dataflows.cli.logs import LogSpan, size_of
from dataflows.cli.progress import LogProgress
from dataflows.cli.screen import (
    AsJson,
    out,
    put,
    put_json,
    put_table,
    say,
    shown_counts,
    shown_size,
)
from dataflows.cli.tables import events_table
from dataflows.connectors.database import Database
from dataflows.connectors.embedded_postgres import PostgresError
from dataflows.connectors.migrate import MigrationError
from dataflows.connectors.source import REPLAY_LINES
from dataflows.flow import Sinks
from dataflows.replay import REPLAY, Summary, replay
from fixtures.market import Scenario, default_assets, demo_scenario, truth
from packs.loader import Packs, load_packs

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_Unavailable = (PostgresError, MigrationError, psycopg.OperationalError)


@dataclass
class DatabaseUse:
    """The database of a demo. url : None without one; then `problem` says why, if not on wish."""

    url: str | None = None
    home: str | None = None
    running: bool = False
    problem: str | None = None


@dataclass
class Demo:
    """Everything a demo came to."""

    directory: Path
    manifest: Manifest
    reused: bool
    summary: Summary
    database: DatabaseUse
    report: DemoReport

    @property
    def missing(self) -> list[str]:
        """Return what was expected and is not there."""
        problem = self.database.problem
        return [*self.report.missing, *([f"the database: {problem}"] if problem else [])]


@app.command()
def run(
    directory: Annotated[Path, typer.Option("--dir", help="Where everything goes.")] = Path(
        "var/demo"
    ),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Remove what an earlier demo left, and start anew.")
    ] = False,
    no_database: Annotated[bool, typer.Option("--no-database", help="Files only.")] = False,
    minutes: Annotated[int | None, typer.Option(min=1, max=390, hidden=True)] = None,
    assets: Annotated[int | None, typer.Option(min=1, max=14, hidden=True)] = None,
    as_json: AsJson = False,
) -> None:
    """Run a generated market through everything and show its events.

    Writes 6.5 hours of 14 assets with fifteen scripted episodes as a tick log, replays it into
    files and into an embedded PostgreSQL, and says which episodes were found. May be repeated: the
    same files, the same rows. Exit code 4 if something that was expected is missing.
    """
    demo = run_demo(
        shortened(demo_scenario(), minutes, assets),
        directory,
        fresh=fresh,
        with_database=not no_database,
        quiet=as_json,
    )
    if as_json:
        put_json(as_object(demo))
    else:
        show(demo)
    if demo.missing:
        raise typer.Exit(NOT_IN_ORDER)


def shortened(scenario: Scenario, minutes: int | None, assets: int | None) -> Scenario:
    """Return the beginning of a scenario on its first assets, with the episodes that still fit."""
    minutes = minutes or scenario.minutes
    kept = default_assets(assets) if assets else scenario.assets
    coins = {asset.coin for asset in kept}
    episodes = tuple(
        episode
        for episode in scenario.episodes
        if episode.start_minute + episode.minutes <= minutes and coins.issuperset(episode.coins)
    )
    return replace(scenario, minutes=minutes, assets=kept, episodes=episodes)


def run_demo(
    scenario: Scenario,
    directory: Path,
    *,
    fresh: bool = False,
    with_database: bool = True,
    quiet: bool = False,
) -> Demo:
    """Run a scenario through everything and return what came of it."""
    packs = load_packs()
    manifest = claim(directory)
    if fresh:
        _remove(directory)
        manifest = Manifest()
    reused, stored = is_current(manifest, scenario, directory), manifest.database
    if not reused:
        manifest = _generate(scenario, directory, quiet)
    with _database(directory, packs, with_database) as (use, sinks):
        summary = _replay(directory, manifest, packs, sinks, quiet)
    if use.url is not None:
        _note_database(directory, manifest, stored, packs)
    report = report_of(directory, truth(scenario), packs)
    return Demo(directory, manifest, reused, summary, use, report)


def _remove(directory: Path) -> None:
    """Remove what an earlier demo left, its database too."""
    clear(directory)
    try:
        server = server_of(directory, quiet=True)
        if server.home.exists():
            server.stop()
            shutil.rmtree(server.home)
    except PostgresError as error:
        say(f"the database of the earlier demo stays: {error}", "yellow")


def _note_database(directory: Path, manifest: Manifest, stored: str, packs: Packs) -> None:
    """Remember what the database holds; say so when there are rows of something else, too."""
    manifest.database = f"{manifest.origin} {packs.config_hash}"
    save(directory, manifest)
    if stored not in ("", manifest.database):
        say(
            "the database also holds what an earlier demo made with other packs or another market;"
            " `alpha demo --fresh` starts anew",
            "yellow",
        )


def _generate(scenario: Scenario, directory: Path, quiet: bool) -> Manifest:
    if not quiet:
        hours, assets = scenario.minutes / 60, len(scenario.assets)
        say(f"generating {hours:.1f} hours of {assets} assets (seed {scenario.seed}) ...")
    with LogProgress("generate", "lines", 0, expected_span(scenario), quiet=quiet) as progress:
        return generate(scenario, directory, progress.step)


def _replay(
    directory: Path, manifest: Manifest, packs: Packs, sinks: Sinks | None, quiet: bool
) -> Summary:
    if not quiet:
        say(f"replaying {manifest.lines:,} lines ...")
    span = LogSpan(manifest.first_ms, manifest.last_ms)
    with LogProgress("replay", "lines", REPLAY_LINES, span, quiet=quiet) as progress:
        return replay(log_of(directory), directory, packs, extra=sinks, on_progress=progress)


@contextmanager
def _database(
    directory: Path, packs: Packs, wanted: bool
) -> Iterator[tuple[DatabaseUse, Sinks | None]]:
    """The embedded database while it is needed; a server that ran before goes on running."""
    use = DatabaseUse()
    if not wanted:
        yield use, None
        return
    database = Database(directory, packs=packs, run=REPLAY)
    try:
        server = server_of(directory, quiet=True)
        use.home, use.running = str(server.home), server.pid() is not None
        url = database.open()
    except _Unavailable as error:
        use.problem = str(error).partition("\n")[0]
        say(f"no database: {use.problem}", "yellow")
        yield use, None
        return
    use.url = url
    try:
        yield (
            use,
            Sinks(
                market={"database": database.market_sink(packs.features)},
                published={"database": database.event_sink(packs.features)},
                baselines={"database": database.baseline_sink(packs.features)},
            ),
        )
    finally:
        if not use.running:
            database.close()


# --- what is shown -----------------------------------------------------------------------------


def as_object(demo: Demo) -> dict[str, Any]:
    """Return a demo as a JSON object; the events themselves are in their file."""
    report = demo.report
    return {
        "directory": str(demo.directory),
        "log": {
            "path": str(log_of(demo.directory)),
            "reused": demo.reused,
            "bytes": size_of(log_of(demo.directory)),
            **{name: getattr(demo.manifest, name) for name in demo.manifest.__struct_fields__},
        },
        "summary": demo.summary.as_json(),
        "database": asdict(demo.database),
        "verdicts": report.verdicts,
        "suppressed": report.suppressed,
        "episodes": [asdict(episode) for episode in report.episodes],
        "missing": demo.missing,
    }


def show(demo: Demo) -> None:
    """Print a demo for reading."""
    report, products = demo.report, demo.summary.products
    put_table(events_table(report.events, out().width))
    put()
    if report.episodes:
        put_table(episodes_table(report.episodes))
        put()
    put(f"rows        {products['rows'].count}; one-minute rows: {shown_counts(report.verdicts)}")
    put(f"frames      {products['frames'].count}")
    put(f"events      {products['events'].count}")
    put(f"suppressed  {products['suppressed'].count}: {shown_counts(report.suppressed)}")
    put()
    _show_places(demo)
    if demo.missing:
        say(f"missing: {'; '.join(demo.missing)}", "bold red")


def _show_places(demo: Demo) -> None:
    log = log_of(demo.directory)
    kept = "kept from an earlier demo" if demo.reused else "new"
    put(f"log         {log}, {demo.manifest.lines:,} lines, {shown_size(size_of(log))}, {kept}")
    for product in demo.summary.products.values():
        put(f"file        {product.path}  sha256 {product.sha256[:16]}")
    if demo.database.url is not None:
        state = "running" if demo.database.running else "stopped"
        put(f"database    {demo.database.home}, {state}; events are in anomaly_event")
        put(f"  start     alpha db start --dir {demo.directory}")
        put(f"  look      {psql_line(demo.database.url)}")
    put(f"look        alpha events {demo.directory} --min-severity 90")
    put(f"replay      alpha replay {log} --out OTHER_DIR   (the same bytes)")
