"""`alpha replay`: a log, or minute bars, through the flow and into text files and servers.

Rules of this file: whatever can be wrong with the arguments is found before the engine starts; the
summary is JSON on stdout whether or not that is asked for.
"""

from __future__ import annotations

import shutil
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Annotated

import typer

from dataflows.cli.failures import INPUT, Problem
from dataflows.cli.logs import LogSpan, log_span
from dataflows.cli.messages import messages_on_stderr
from dataflows.cli.pack_files import DetectorsFile, FeaturesFile, UniverseFile
from dataflows.cli.places import assert_file, made_directory
from dataflows.cli.progress import LogProgress
from dataflows.cli.replay_parts import PARTS, TELL_EVERY, Job, replay_parts
from dataflows.cli.replay_range import WARMUP, Asked, PartsProgress, last_bar_ms
from dataflows.cli.replay_to import DEFAULT_SCHEMA, Given, servers, written_to
from dataflows.cli.screen import AsJson, put_json, say
from dataflows.connectors.bars_source import CHUNK_MINUTES
from dataflows.connectors.columns import Columns, place_of, usable
from dataflows.connectors.pacing import PACED_LINES, PACED_MINUTES
from dataflows.connectors.source import REPLAY_LINES
from dataflows.importing.bars import read_bars
from dataflows.replay import MADE_OF, PRODUCTS, REPLAY, product_path, replay
from dataflows.settings import Settings
from operators.modes import Run, RunMode
from packs.loader import Packs, load_packs

app = typer.Typer(add_completion=False, rich_markup_mode=None)

WORKERS_MAX = 64


@app.command()
def run(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="A tick log (directory or file), or with --bars a bars file."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Directory for the files.")],
    bars: Annotated[
        bool, typer.Option("--bars", help="SOURCE holds minute bars (CSV), not ticks.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, max=WORKERS_MAX, help="Threads; the bytes do not depend on it.")
    ] = 1,
    chunk: Annotated[
        int | None,
        typer.Option(min=1, help="Lines (with --bars minutes) per step; neither on this."),
    ] = None,
    features: FeaturesFile = None,
    detectors: DetectorsFile = None,
    universe: UniverseFile = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL|embedded|env",
            help="Also into this PostgreSQL; env: that of ALPHA_DATABASE_URL.",
        ),
    ] = None,
    schema: Annotated[
        str, typer.Option(help="With --database: a schema of the replay's own.")
    ] = DEFAULT_SCHEMA,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop what an earlier replay left in the schema.")
    ] = False,
    kafka: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT,..|env",
            help="Also to the replay topic there; env: ALPHA_KAFKA_BOOTSTRAP.",
        ),
    ] = None,
    mode: Annotated[
        RunMode,
        typer.Option(
            help="Who hears the events, as in a run of this mode; replay: as in production.",
        ),
    ] = REPLAY.mode,
    speed: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=1e6, help="Times the speed of the feed; default: as fast as it goes."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Columnar cache of the log; default: beside it."),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Read the log itself; the bytes are the same.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="ISO time: write the minutes after it only."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--to", metavar="TIME", help="ISO time: write the minutes up to it only."),
    ] = None,
    warmup: Annotated[
        str, typer.Option(metavar="9d|24h|30m", help="Read so long before what is written.")
    ] = WARMUP,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, max=WORKERS_MAX, help="Cut the range into so many processes."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a tick log, or minute bars, and write the products as text.

    Writes rows, frames, events, shadow, suppressed, audit and dlq (.ndjson) in canonical bytes, and
    prints a JSON summary with the count and the SHA-256 of each. The same source and packs always
    give the same bytes, in the tables and the topic too; there the events say `replay_of`. A schema
    holds replays of one configuration. A columnar cache (`alpha compact`) is read in place of the
    log if every byte of both is as it was.

    With --from, or several --jobs, reading begins --warmup before what is written: the bytes are
    then near those of the whole, not the same, and the summary says so (docs/ranges.md).
    """
    settings = Settings.from_env()
    given = Given(database, schema, replace, kafka)
    asked = Asked.of(since, until, warmup, jobs)
    if asked is not None and (database or kafka):
        raise typer.BadParameter("--from, --to and --jobs write files, not servers")
    if jobs is not None and (workers > 1 or speed is not None):
        raise typer.BadParameter("--jobs goes with neither --workers nor --speed")
    if cache is not None and (bars or no_cache or asked is not None):
        raise typer.BadParameter("--cache goes with neither --no-cache, --bars nor a range")
    packs = load_packs(features, detectors, universe)
    span = checked_source(source, bars=bars)
    parts = None if asked is None else asked.parts(span, bars=bars)
    checked_out(out)
    if speed is None:
        unit, usual = ("minutes", CHUNK_MINUTES) if bars else ("lines", REPLAY_LINES)
    else:
        unit, usual = ("minutes", PACED_MINUTES) if bars else ("lines", PACED_LINES)
    chunk = chunk or usual
    if parts is not None and len(parts) > 1:
        job = Job(source, features, detectors, universe, bars, chunk, Run(mode))
        each = chunk * TELL_EVERY
        with messages_on_stderr(), PartsProgress(parts, unit, each, span, quiet=quiet) as told:
            put_json(replay_parts(job, out, parts, told).as_json())
        return
    part = parts[0] if parts is not None else None
    reads_log = bars or no_cache or part is not None
    columns = None if reads_log else found_cache(source, cache, packs)
    with messages_on_stderr(), servers(given, packs, settings, source.name) as made:
        each = chunk
        if columns is not None:
            unit, each = "ticks", per_stretch(columns)
        with LogProgress("replay", unit, each, span, quiet=quiet) as progress:
            summary = replay(
                source,
                out,
                packs,
                bars=bars,
                columns=columns,
                workers=workers,
                chunk=chunk,
                run=Run(mode),
                extra=made.sinks,
                holes=made.holes,
                speed=speed,
                part=part,
                on_progress=progress,
            )
        summary = replace_fields(summary, written_to=written_to(made, given, summary))
    put_json(summary.as_json())


def found_cache(log: Path, given: Path | None, packs: Packs) -> Columns | None:
    """Return the columnar cache of a log; one that cannot be used is one line, and none.

    given : where it is to be; raises `Problem` if there is none at all.
    """
    directory = given or place_of(log)
    found = usable(log, directory, packs.features)
    elsewhere = directory.resolve() != place_of(log)
    command = f"`alpha compact --out {directory}`" if elsewhere else "`alpha compact`"
    if isinstance(found, Columns):
        if found.no_bars:
            say(
                f"{directory}: its ticks are read, not its bars: {found.no_bars};"
                f" {command} makes them anew"
            )
        return found
    if given is not None and not found:
        raise Problem(f"--cache {given}: expected a columnar cache, found none", INPUT)
    if found:
        say(f"{directory}: not used: {found}; {command} makes it anew")
    return None


def per_stretch(columns: Columns) -> int:
    """Return how many ticks a cache has between two closings, about: for the progress."""
    stretches = sum(part.stretches for part in columns.manifest.parts)
    return max(1, columns.manifest.ticks // max(1, stretches))


def checked_source(source: Path, *, bars: bool) -> LogSpan:
    """Return where the source starts and ends; raise if it is not what it should be.

    Of minute bars these are closes.
    """
    if not source.exists():
        what = "a bars file" if bars else "a tick log (file or directory)"
        raise Problem(f"{source}: expected {what}, found nothing", INPUT)
    if not bars:
        return log_span(source)
    first = next(iter(read_bars(source)), None)
    if first is None:
        raise Problem(f"{source}: expected minute bars, found none that can be used", INPUT)
    return LogSpan(first[0], last_bar_ms(source))


def checked_out(out: Path) -> None:
    """Make the output directory; raise if the files cannot be written there.

    What a replay in parts left, because it was killed, is removed.
    """
    made_directory("--out", out)
    for path in (*(product_path(out, name) for name in PRODUCTS), out / MADE_OF):
        assert_file("--out", path)
    shutil.rmtree(out / PARTS, ignore_errors=True)
