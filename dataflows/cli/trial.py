"""`alpha trial`: detector packs tried on rows that were computed once.

Rules of this file: everything that is wrong with rows and packs is said before the first row is
read; a pack has a directory of its own, named like its file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from dataflows.cli.calibrate import show_rates
from dataflows.cli.failures import INPUT, USAGE, Problem
from dataflows.cli.logs import LogSpan
from dataflows.cli.pack_files import FeaturesFile, UniverseFile
from dataflows.cli.places import assert_file, made_directory
from dataflows.cli.progress import LogProgress
from dataflows.cli.screen import AsJson, put, put_json, say, shown_counts
from dataflows.replay import product_path
from dataflows.trial import PRODUCTS, Tried, assert_fitting, first_minute_ms, rows_table, trial
from packs.loader import SHIPPED, Fault, PackError, Packs, load_packs

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def run(
    rows: Annotated[
        Path, typer.Argument(metavar="ROWS", help="The output directory of `alpha replay`.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Directory for a directory per pack.")],
    detectors: Annotated[
        list[Path] | None,
        typer.Option("--detectors", help="Detector pack; may be repeated. Default: the shipped."),
    ] = None,
    features: FeaturesFile = None,
    universe: UniverseFile = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try detector packs on the rows of a replay, in seconds.

    Writes frames, events, shadow, suppressed and dlq (.ndjson) of each pack, byte for byte what
    `alpha replay` with it would write, and prints the rates of the classes and how many candidates
    were suppressed, by reason. The first trial of a replay turns its rows into columns (in .trial,
    which can be deleted), later ones take seconds.
    """
    files: Sequence[Path | None] = detectors or [None]
    named = named_packs(files, features, universe)
    if not rows.is_dir():
        raise Problem(f"{rows}: expected the output directory of `alpha replay`", INPUT)
    for directory in (out, *[out / name for name in named]):
        if directory.resolve() == rows.resolve():
            raise Problem(
                f"--out: {directory}: expected another directory than that of the rows", USAGE
            )
    labels = [
        f"{file or 'the shipped pack'}, {packs.detector_pack}"
        for file, packs in zip(files, named.values(), strict=True)
    ]
    assert_fitting(rows, list(named.values()), labels)
    for name in named:
        checked_out(out / name)
    span = LogSpan(first_minute_ms(rows), None)
    first = next(iter(named.values()))
    with LogProgress("columns", "rows", 1, span, quiet=quiet) as progress:
        table = rows_table(rows, first, progress.step, say)
    tried: dict[str, Tried] = {}
    for name, packs in named.items():
        with LogProgress(name, "rows", 1, span, quiet=quiet) as progress:
            tried[name] = trial(rows, out / name, packs, table, progress.step)
    if as_json:
        put_json({"rows": str(rows), "packs": {name: shown(each) for name, each in tried.items()}})
        return
    for name, each in tried.items():
        put(f"{name}: {each.detector_pack}, {each.rows:,} rows, {each.candidates:,} candidates")
        show_rates(each.rates)
        put(f"suppressed: {shown_counts(each.suppressed) or 'none'}")
        put()


def named_packs(
    files: Sequence[Path | None], features: Path | None, universe: Path | None
) -> dict[str, Packs]:
    """Return the packs to try by the names of their files, in their order; None: the shipped.

    Raises PackError with the faults of all of them.
    """
    named: dict[str, Packs] = {}
    names: set[str] = set()
    faults: dict[Fault, None] = {}  # each once: packs share a feature pack and a universe policy
    for file in files:
        name = Path(SHIPPED["detectors"] if file is None else file).stem
        if name in names:
            raise Problem(f"--detectors: expected different names, found {name} twice", USAGE)
        names.add(name)
        try:
            named[name] = load_packs(features, file, universe)
        except PackError as error:
            faults |= dict.fromkeys(error.faults)
    if faults:
        raise PackError([*faults])
    return named


def checked_out(directory: Path) -> None:
    """Make the directory of a pack; raise if the products cannot be written there."""
    made_directory("--out", directory)
    for product in PRODUCTS:
        assert_file("--out", product_path(directory, product))


def shown(tried: Tried) -> dict[str, Any]:
    """Return what a pack came to as a JSON object."""
    return {**asdict(tried), "rates": msgspec.to_builtins(tried.rates)}
