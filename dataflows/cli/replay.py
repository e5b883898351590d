"""`alpha replay`: a log, or minute bars, through the flow and into four text files.

Rules of this file: whatever can be wrong with the arguments is found before the engine starts; the
summary is JSON on stdout whether or not that is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dataflows.cli.failures import INPUT, Problem
from dataflows.cli.logs import LogSpan, log_span
from dataflows.cli.pack_files import DetectorsFile, FeaturesFile, UniverseFile
from dataflows.cli.places import assert_writable, made_directory
from dataflows.cli.progress import LogProgress
from dataflows.cli.screen import AsJson, put_json
from dataflows.connectors.bars_source import CHUNK_MINUTES
from dataflows.connectors.source import CHUNK_LINES
from dataflows.importing.bars import read_bars
from dataflows.replay import PRODUCTS, product_path, replay
from packs.loader import load_packs

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
    out: Annotated[Path, typer.Option("--out", help="Directory for the four files.")],
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a tick log, or minute bars, and write the products as text.

    Writes rows, frames, events, suppressed, audit and dlq (.ndjson) in canonical bytes, and
    prints a JSON summary with the count and the SHA-256 of each. The same source and packs always
    give the same bytes.
    """
    packs = load_packs(features, detectors, universe)
    span = checked_source(source, bars=bars)
    checked_out(out)
    unit, usual = ("minutes", CHUNK_MINUTES) if bars else ("lines", CHUNK_LINES)
    with LogProgress("replay", unit, chunk or usual, span, quiet=quiet) as progress:
        summary = replay(
            source, out, packs, bars=bars, workers=workers, chunk=chunk, on_progress=progress
        )
    put_json(summary.as_json())


def checked_source(source: Path, *, bars: bool) -> LogSpan:
    """Return where the source starts and ends; raise if it is not what it should be."""
    if not source.exists():
        what = "a bars file" if bars else "a tick log (file or directory)"
        raise Problem(f"{source}: expected {what}, found nothing", INPUT)
    if not bars:
        return log_span(source)
    first = next(iter(read_bars(source)), None)
    if first is None:
        raise Problem(f"{source}: expected minute bars, found none that can be used", INPUT)
    return LogSpan(first[0], None)


def checked_out(out: Path) -> None:
    """Make the output directory; raise if the files cannot be written there."""
    made_directory("--out", out)
    for name in PRODUCTS:
        assert_writable("--out", product_path(out, name))
