"""`alpha packs`: check a pack that is being written, show the ones in use and their columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from dataflows.catalogue import catalogue_page
from dataflows.cli.failures import INPUT, NOT_IN_ORDER, USAGE, Problem
from dataflows.cli.pack_files import DetectorsFile, FeaturesFile, UniverseFile
from dataflows.cli.screen import AsJson, new_table, out, put, put_json, put_table, say
from dataflows.registry import data_dictionary, migration
from packs.loader import Detector, PackError, Packs, check_file, load_packs
from packs.schema import TIMEFRAMES, FeaturePack, RegisteredColumn

app = typer.Typer(
    help="Check and show packs.", add_completion=False, rich_markup_mode=None, no_args_is_help=True
)


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A feature, detector or universe pack.")
    ],
    released: Annotated[
        bool, typer.Option("--released", help="Examples are required, as in a released pack.")
    ] = False,
    features: FeaturesFile = None,
    as_json: AsJson = False,
) -> None:
    """Check one pack and list every fault.

    Exit code 4 if there is any.
    """
    if not file.is_file():
        raise Problem(f"{file}: expected a pack (a YAML file), found none", INPUT)
    faults, warnings, kind = check_file(file, features=features, released=released)
    if as_json:
        report = [asdict(fault) for fault in faults]
        put_json({"file": str(file), "kind": kind, "faults": report, "warnings": warnings})
    else:
        for warning in warnings:
            say(f"warning: {warning}", "yellow")
        if not faults:
            put(f"{file}: the {kind} pack is in order")
    if faults:
        if not as_json:
            raise Problem(str(PackError(faults)), NOT_IN_ORDER)
        raise typer.Exit(NOT_IN_ORDER)


@app.command()
def show(
    features: FeaturesFile = None,
    detectors: DetectorsFile = None,
    universe: UniverseFile = None,
    as_json: AsJson = False,
) -> None:
    """Show versions, hash and detectors of the packs in use."""
    packs = load_packs(features, detectors, universe)
    shown = _shown(packs)
    if as_json:
        put_json(shown)
        return
    table = new_table(
        "detector", "tf", "mode", "publish at", "cooldown", "trigger", fold=("trigger",)
    )
    for each in shown["detectors"]:
        mode = each["mode"] if each["enabled"] else "disabled"
        cooldown = f"{each['cooldown_s']:g} s"
        at = f"{each['publish_threshold']:g}"
        table.add_row(each["id"], ",".join(each["tfs"]), mode, at, cooldown, each["trigger"])
    put_table(table)
    put(f"feature pack     {shown['feature_pack']} ({shown['columns']} columns)")
    put(f"detector pack    {shown['detector_pack']} ({len(packs.detectors)} detectors)")
    put(f"universe policy  {shown['universe_policy_rev']}")
    put(f"config hash      {shown['config_hash']}")
    for warning in packs.warnings:
        say(f"warning: {warning}", "yellow")
    for note in packs.notes:
        say(f"note: {note}")


@app.command()
def detectors(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/detectors.md.")
    ] = False,
    features: FeaturesFile = None,
    detectors: DetectorsFile = None,
    universe: UniverseFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what every detector looks for, and how it is scored."""
    packs = load_packs(features, detectors, universe)
    if markdown and as_json:
        raise Problem("--markdown is the whole page: no --json", USAGE)
    if as_json:
        put_json([_detector(detector) for detector in packs.detectors])
        return
    page = catalogue_page(packs).rstrip("\n")
    if markdown:
        put(page)
    else:
        out().print(Markdown(page))


@app.command()
def columns(
    family: Annotated[
        str | None, typer.Option("--family", help="Only this family, such as price or flow.")
    ] = None,
    tf: Annotated[
        str | None, typer.Option("--tf", help=f"Only what is on {', '.join(TIMEFRAMES)} rows.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/columns.md.")
    ] = False,
    features: FeaturesFile = None,
    as_json: AsJson = False,
) -> None:
    """Show every column of the feature pack, those on trial included."""
    pack = load_packs(features).features
    if markdown:
        if as_json or family or tf:
            raise Problem("--markdown is the whole page: no --family, --tf or --json", USAGE)
        put(data_dictionary(pack, _numbered_files()).rstrip("\n"))
        return
    chosen = _chosen(pack, family, tf)
    if as_json:
        put_json([asdict(column) for column in chosen])
        return
    for i, (name, group) in enumerate(groupby(chosen, key=lambda column: column.family)):
        put(Text(name if i == 0 else f"\n{name}", "bold"))
        put_table(_columns_table(group))


@app.command()
def ddl(features: FeaturesFile = None, as_json: AsJson = False) -> None:
    """Print the SQL file that the feature pack needs beside those in sql/.

    It adds the columns they do not have. Nothing is printed if they have them all.
    """
    text = migration(load_packs(features).features, _numbered_files())
    if as_json:
        put_json({"sql": text})
    elif text:
        put(text.rstrip("\n"))
    else:
        say("the files in sql/ have every column of the pack, in its words")


def _columns_table(chosen: Iterable[RegisteredColumn]) -> Table:
    table = new_table(
        *("name", "tfs", "unit", "window", "formula", "NULL when"),
        fold=("unit", "formula", "NULL when"),
    )
    for each in chosen:
        trial = "" if each.status == "active" else f" (on trial for {each.pack_proposed})"
        formula = each.formula + trial
        table.add_row(
            each.name, " ".join(each.tfs), each.unit, each.window, formula, each.when_null
        )
    return table


def _numbered_files() -> list[str]:
    """Return the texts of the migrations, in order."""
    found = {entry.name: entry for entry in files("sql").iterdir() if entry.name.endswith(".sql")}
    return [found[name].read_text() for name in sorted(found)]


def _chosen(pack: FeaturePack, family: str | None, tf: str | None) -> list[RegisteredColumn]:
    """Return the columns of a family and timeframe, None for any, family by family."""
    families = list(dict.fromkeys(column.family for column in pack.registry))
    for option, given, known in (("family", family, families), ("tf", tf, list(TIMEFRAMES))):
        if given is not None and given not in known:
            raise Problem(f"--{option} {given}: expected one of {', '.join(known)}", USAGE)
    return [
        column
        for column in sorted(pack.registry, key=lambda column: families.index(column.family))
        if family in (None, column.family) and (tf is None or tf in column.tfs)
    ]


def _shown(packs: Packs) -> dict[str, Any]:
    return {
        "feature_pack": packs.feature_pack,
        "columns": len(packs.features.columns),
        "detector_pack": packs.detector_pack,
        "universe_policy_rev": packs.universe.universe_policy_rev,
        "config_hash": packs.config_hash,
        "warnings": list(packs.warnings),
        "notes": list(packs.notes),
        "detectors": [_detector(detector) for detector in packs.detectors],
    }


def _detector(detector: Detector) -> dict[str, Any]:
    return {
        "id": detector.detector_id,
        "class": detector.event_class,
        "tfs": list(detector.tfs),
        "mode": detector.mode,
        "enabled": detector.enabled,
        "trigger": detector.trigger.text,
        "tier_triggers": {tier: each.text for tier, each in detector.tier_triggers.items()},
        "conditions": [condition.text for condition in detector.conditions],
        "primary": detector.primary.text,
        "secondary": None if detector.secondary is None else detector.secondary.text,
        "publish_threshold": detector.publish_threshold,
        "cooldown_s": detector.cooldown_s,
        "half_life_s": detector.half_life_s,
        "weights": {name: getattr(detector, name) for name in ("w1", "w2", "w3", "a", "b")},
        "inferred": detector.inferred,
        "description": detector.description,
    }
