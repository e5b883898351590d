"""`alpha explain`: why an event was published, number by number, and whether it comes out again."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from dataflows.archive import Archive, ArchiveError, Span, StoredEvent, label_of
from dataflows.cli.failures import INPUT, NOT_IN_ORDER, USAGE, Problem
from dataflows.cli.pack_files import DetectorsFile, FeaturesFile, UniverseFile
from dataflows.cli.screen import AsJson, new_table, put, put_json, put_table, say
from dataflows.cli.stored import archive_of, packs_with
from dataflows.cli.tables import name_of, severity_text
from dataflows.explain import Explanation, Operand, explain
from operators.lattice import iso
from packs.loader import Packs, load_packs
from packs.schema import TIMEFRAME_MIN

app = typer.Typer(add_completion=False, rich_markup_mode=None)

PLOT_MIN = 90  # minutes drawn before the event, and a third as many after it
NO_PLOT = "a plot needs the package matplotlib: run `pip install matplotlib`"


@app.command()
def run(
    event_id: Annotated[
        str, typer.Argument(metavar="EVENT_ID", help="Such as `alpha events --json` shows.")
    ],
    directory: Annotated[
        Path | None,
        typer.Option("--from", help="Directory of a replay; default: the database."),
    ] = None,
    schema: Annotated[str, typer.Option(help="Schema of the tables.")] = "public",
    plot: Annotated[
        Path | None, typer.Option(help="Draw price, volume and severity into this PNG.")
    ] = None,
    features: FeaturesFile = None,
    detectors: DetectorsFile = None,
    universe: UniverseFile = None,
    as_json: AsJson = False,
) -> None:
    """Say why an event was published, and make it again.

    Shows configuration, conditions and trigger with their values, severity term by term, debounce
    before and after, and what else the bar had. Exit code 4 if the event does not come out again
    byte for byte.
    """
    packs = load_packs(features, detectors, universe)
    archive = archive_of(directory, schema, packs)
    try:
        stored = archive.event(event_id)
        if stored is None:
            raise Problem(f"{event_id}: expected an event of {archive.name}, found none", INPUT)
        if detectors is None:
            wanted = stored.payload["provenance"]["config_hash"]
            packs = packs_with(wanted, packs, features, universe)
        found = explain(archive, packs, stored)
        if plot is not None:
            _draw(archive, stored, packs, plot)
    except ArchiveError as error:
        raise Problem(str(error), INPUT) from error
    finally:
        archive.close()
    if as_json:
        put_json(msgspec.to_builtins(found))
    else:
        _show(found)
    if plot is not None:
        say(f"drawn: {plot}")
    if found.recomputed.equal is False:
        raise typer.Exit(NOT_IN_ORDER)


# --- words ---------------------------------------------------------------------------------------


def _show(found: Explanation) -> None:
    said, origin = found.summary, found.configuration
    head = Text.assemble(
        (f"{said['symbol']} ", "bold"), (name_of(said), "cyan"), ("  severity ", "dim")
    )
    head.append_text(severity_text(int(said["severity"])))
    head.append(f"  {said['tf']} {said['exchange_ts']}", "dim")
    put(head)
    _line("event", f"{found.event_id}, {found.topic}, emitted {said['emitted_at']}")
    if "incident_id" in said:
        _line("incident", said["incident_id"])
    packs = f"feature pack {origin['feature_pack']}, detector pack {origin['detector_pack']}"
    _line("packs", f"{packs}, universe policy {origin.get('universe_policy_rev')}")
    same = "as at hand" if origin["config_hash"] == origin["packs_at_hand"] else "not at hand"
    _line("config", f"{origin['config_hash']} ({same})")
    _line("made by", f"{origin['producer']}, commit {origin.get('git_commit') or 'not recorded'}")
    if found.row is not None:
        quality = f"{found.row['dq_status']} {' '.join(found.row.get('dq_reasons') or ())}".strip()
        gate = "no gate closed" if found.gate is None else f"gate {found.gate}"
        row = f"revision {found.row_revision}, quality {quality}, {gate}, tier {found.tier}"
        _line("row", f"{row}; from {found.source}")
    if found.trigger is not None:
        put_table(_conditions(found))
    if found.severity is not None:
        _show_severity(found)
    if found.debounce is not None:
        _show_debounce(found)
    _show_suppressed(found)
    _show_recomputed(found)


def _line(name: str, text: str) -> None:
    put(Text.assemble((f"{name:<12}", "dim"), text))


def _conditions(found: Explanation) -> Table:
    table = new_table("condition", "values", "holds", fold=("condition", "values"))
    assert found.trigger is not None
    groups = (("precondition", found.conditions), ("guard", found.guards))
    for name, operands in (*groups, ("trigger", (found.trigger,))):
        for operand in operands:
            for depth, each in _flat(operand, 0):
                holds = {True: "yes", False: "no", None: "unknown"}[each.result]
                label = f"{name}: " if depth == 0 else "  " * depth
                shown = "" if each.parts else _values(each.values)
                table.add_row(label + each.text, shown, holds)
    return table


def _flat(operand: Operand, depth: int) -> Iterator[tuple[int, Operand]]:
    yield depth, operand
    for part in operand.parts:
        yield from _flat(part, depth + 1)


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in values.items())


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "NULL" if value is None else str(value)


def _show_severity(found: Explanation) -> None:
    score = found.severity
    assert score is not None
    table = new_table("term", "weight", "value", "adds", "", right=("weight", "value", "adds"))
    for term in score.terms:
        cells = (_number(term.weight), _number(term.value), f"{term.adds:+.4f}")
        table.add_row(term.name, *cells, Text(term.note, "dim"))
    put_table(table)
    for name, operand in (("primary", score.primary), ("secondary", score.secondary)):
        if operand is not None:
            _line(name, f"{operand.text}: {_values(operand.values)}")
    for name, (value, low, high) in score.clamped.items():
        _line(
            "clamped", f"{name} {_number(value)} to {_number(low)} .. {_number(high)} for scoring"
        )
    curve = f"100 / (1 + exp(-{score.a} * ({score.raw:.4f} - {score.b})))"
    _line("severity", f"{curve} = {score.severity}; published from {score.publish_threshold:g}")


def _show_debounce(found: Explanation) -> None:
    rule = found.debounce
    assert rule is not None
    limits = f"cooldown {rule.cooldown_s:g} s, half-life {rule.half_life_s:g} s"
    _line("debounce", f"key {rule.key}, {limits}")
    if rule.before is not None:
        last = rule.before
        ago = f"{rule.since_s:g} s before"
        _line("  before", f"{last.subtype} {last.severity} at {iso(last.at_ms)}, {ago}")
    _line("  emitted", rule.emitted_because)
    after = rule.after
    run = f"run since {iso(after.first_seen_ms)}"
    _line("  after", f"{after.subtype} {after.severity} at {iso(after.at_ms)}, {run}")


def _show_suppressed(found: Explanation) -> None:
    if not found.suppressed:
        _line("suppressed", "nothing else in this bar")
    for each in found.suppressed:
        severity = "" if each.severity is None else f" {each.severity}"
        _line("suppressed", f"{each.detector_id}{severity}: {each.reason}")


def _show_recomputed(found: Explanation) -> None:
    made = found.recomputed
    if made.equal:
        _line("made again", "equal, byte for byte")
        return
    word = "cannot be made again" if made.equal is None else "NOT EQUAL"
    style = "yellow" if made.equal is None else "bold red"
    put(Text.assemble(("made again  ", "dim"), (word, style), f": {made.why}" if made.why else ""))
    for path, (stored, again) in made.differences.items():
        _line("", f"{path}: stored {stored!r}, made again {again!r}")


def _draw(archive: Archive, stored: StoredEvent, packs: Packs, path: Path) -> None:
    try:
        import_module("matplotlib")
    except ImportError:
        raise Problem(NO_PLOT, USAGE) from None
    plotting = import_module("dataflows.plotting")
    label_ms = label_of(stored.payload["exchange_ts"])
    minutes = PLOT_MIN * TIMEFRAME_MIN[stored.payload["tf"]]
    span = Span(label_ms - minutes * 60_000, label_ms + minutes * 20_000)
    plotting.draw_event(archive, stored, span, packs.features, path)
