"""`alpha packs`: check a pack that is being written, show the ones in use."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dataflows.cli.failures import INPUT, NOT_IN_ORDER, Problem
from dataflows.cli.pack_files import DetectorsFile, FeaturesFile, UniverseFile
from dataflows.cli.screen import AsJson, new_table, put, put_json, put_table, say
from packs.loader import Detector, PackError, Packs, check_file, load_packs

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


def _shown(packs: Packs) -> dict[str, Any]:
    return {
        "feature_pack": packs.feature_pack,
        "columns": len(packs.features.columns),
        "detector_pack": packs.detector_pack,
        "universe_policy_rev": packs.universe.universe_policy_rev,
        "config_hash": packs.config_hash,
        "warnings": list(packs.warnings),
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
        "conditions": [condition.text for condition in detector.conditions],
        "primary": detector.primary.text,
        "secondary": None if detector.secondary is None else detector.secondary.text,
        "publish_threshold": detector.publish_threshold,
        "cooldown_s": detector.cooldown_s,
        "half_life_s": detector.half_life_s,
        "weights": {name: getattr(detector, name) for name in ("w1", "w2", "w3", "a", "b")},
        "inferred": detector.inferred,
    }
