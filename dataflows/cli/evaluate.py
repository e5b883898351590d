"""`alpha evaluate`: are the events of a bars file worth reading?

Rules of this file: bars go through the steps of the flow, once as they are and, with --inject, two
more times with moves put in; the report lists what it measured, bad or good, and what it could not
use; no figure is a verdict here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any

import msgspec
import orjson
import typer

from dataflows.calibration import ClassRate, Rates
from dataflows.cli.calibrate import (
    Read,
    add_rates,
    checked_bars,
    measure,
    show_left_out,
    show_rates,
)
from dataflows.cli.failures import USAGE, Problem
from dataflows.cli.logs import LogSpan
from dataflows.cli.pack_files import DetectorsFile, FeaturesFile, UniverseFile
from dataflows.cli.places import assert_file, made_directory
from dataflows.cli.progress import LogProgress
from dataflows.cli.screen import (
    WIDTH,
    AsJson,
    new_table,
    put,
    put_json,
    put_table,
    say,
    shown_counts,
)
from dataflows.evaluation import (
    AFTER_MIN,
    BEFORE_MIN,
    RESAMPLES,
    SHIFTS,
    SPIKE,
    Estimate,
    InjectionFigures,
    LabelFigures,
    Lift,
    Placed,
    Plan,
    Recording,
    injected,
    injection_figures,
    judge,
    lifts,
    place,
    plan_injections,
)
from dataflows.importing.labels import Label, read_labels
from operators.records import MarketPhase, Published
from packs.loader import Packs, load_packs

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_NONE = "–"
_UNCHANGED = 1.0
_LIFT_LEGEND = (
    "Lift: the mean move after an event, over the mean move after any minute in which the asset"
    " could have had one. surrogate: the same events shifted in time, mean and 95 % band."
)
_LABELS_LEGEND = (
    "Labels: only assets with a label count. A label is met by an event from {before} minutes"
    " before it begins to {after} after it ends; chance: by the same events shifted in time. The"
    " lists are not complete, so false alerts are at most what is said. Delay: from where the label"
    " begins to the close of the event's minute."
)
_INJECT_LEGEND = (
    "Injected: a move of {move:+.1%} in one minute, the level kept; found: an event of class spike"
    " at that minute. in cooldown: missed because one was published a few minutes before."
)


class Injection(msgspec.Struct, frozen=True):
    """The moves that were put in, and what became of them per run."""

    move: float
    plan: Plan
    runs: tuple[InjectionFigures, ...]


class LabelReport(msgspec.Struct, frozen=True):
    """The lists that were read, what of them could be judged, and how they meet the events."""

    files: tuple[str, ...]
    rows: int
    rejects: dict[str, int]
    before_min: int
    after_min: int
    placed: Placed
    figures: LabelFigures | None


class Evaluation(msgspec.Struct, frozen=True):
    """Everything that was measured on one bars file."""

    read: Read
    classes: tuple[ClassRate, ...]
    market_events: dict[str, int]
    lifts: tuple[Lift, ...]
    labels: LabelReport | None
    injection: Injection | None


@app.command()
def run(
    bars: Annotated[Path, typer.Argument(metavar="BARS", help="A bars file (CSV).")],
    labels: Annotated[
        list[Path] | None,
        typer.Option("--labels", help="A list of labelled events; may be repeated."),
    ] = None,
    exchange: Annotated[
        str | None, typer.Option("--exchange", help="Only labels of this exchange.")
    ] = None,
    before: Annotated[
        int, typer.Option("--before", min=0, max=1440, help="Minutes an event may be early.")
    ] = BEFORE_MIN,
    after: Annotated[
        int, typer.Option("--after", min=0, max=1440, help="Minutes an event may be late.")
    ] = AFTER_MIN,
    inject: Annotated[
        bool, typer.Option("--inject", help="Also put moves in and count what is found.")
    ] = False,
    move: Annotated[
        float, typer.Option("--move", min=-0.2, max=0.2, help="Size of an injected move.")
    ] = 0.05,
    volume: Annotated[
        float, typer.Option("--volume", min=0.1, max=1000, help="Its volume, times the minute's.")
    ] = 5.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything drawn.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write the report to this file (JSON).")
    ] = None,
    features: FeaturesFile = None,
    detectors: DetectorsFile = None,
    universe: UniverseFile = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure the events of minute bars: rates, lift, labels.

    Published events a day and their severity by class, beside their bands; the size of the moves
    after an event over the usual, beside chance; with --labels precision, recall, delay and false
    alerts; with --inject how many moves that were put in are found. What the figures mean:
    docs/evaluation.md.
    """
    packs = load_packs(features, detectors, universe)
    if move == 0.0:
        raise Problem("--move: expected a move, found 0", USAGE)
    span = checked_bars(bars)
    if out is not None:
        checked_out(out)
    lists = [read_labels(path, exchange) for path in labels or ()]
    rejects = Counter[str]()
    for each in lists:
        rejects.update(each.left_out)

    recording, classes, read = _run(bars, packs, span, quiet=quiet)
    met = None
    if labels:
        every = [label for each in lists for label in each.labels]
        placed, figures = _judged(every, recording, seed, before=before, after=after)
        met = LabelReport(
            files=tuple(map(str, labels)),
            rows=sum(each.rows for each in lists),
            rejects=dict(sorted(rejects.items())),
            before_min=before,
            after_min=after,
            placed=placed,
            figures=figures,
        )
    injection = None
    if inject:
        plan = plan_injections(recording.tapes, seed)
        factors = dict.fromkeys((volume, _UNCHANGED))
        runs = [_injected(bars, packs, span, plan, move, each, quiet=quiet) for each in factors]
        injection = Injection(move, plan, tuple(runs))
    evaluation = Evaluation(
        read=read,
        classes=tuple(classes),
        market_events=dict(sorted(recording.market_events.items())),
        lifts=tuple(lifts(recording.tapes, recording.events, seed)),
        labels=met,
        injection=injection,
    )
    whole = report(bars, packs, seed, evaluation)
    if out is not None:
        out.write_bytes(orjson.dumps(whole, option=orjson.OPT_INDENT_2) + b"\n")
    if as_json:
        put_json(whole)
    else:
        show(evaluation)


def checked_out(out: Path) -> None:
    """Make the directory of the report; raise if the file cannot be written there."""
    made_directory("--out", out.parent)
    assert_file("--out", out)


def _run(
    bars: Path, packs: Packs, span: LogSpan, *, quiet: bool
) -> tuple[Recording, list[ClassRate], Read]:
    """Run the bars as they are."""
    recording, rates = Recording(_classes(packs)), Rates()

    def take(output: MarketPhase | Published) -> None:
        recording.take(output)
        add_rates(rates, output)

    with LogProgress("evaluate", "minutes", 1, span, quiet=quiet) as progress:
        read = measure(bars, packs, take, progress)
    return recording, rates.figures(), read


def _injected(
    bars: Path,
    packs: Packs,
    span: LogSpan,
    plan: Plan,
    move: float,
    factor: float,
    *,
    quiet: bool,
) -> InjectionFigures:
    """Run the bars with moves in them."""
    recording = Recording(_classes(packs), keep_held=(SPIKE,))
    change = injected(plan, move=move, volume_factor=factor)
    with LogProgress(f"injected x{factor:g}", "minutes", 1, span, quiet=quiet) as progress:
        measure(bars, packs, recording.take, progress, change)
    return injection_figures(plan, recording, factor)


def _classes(packs: Packs) -> dict[str, str]:
    return {each.detector_id: each.event_class for each in packs.detectors}


def _judged(
    labels: Sequence[Label], recording: Recording, seed: int, *, before: int, after: int
) -> tuple[Placed, LabelFigures | None]:
    """Return the labels that can be judged, and the figures if there are any."""
    placed = place(labels, recording.tapes, before_min=before, after_min=after)
    if not placed.windows:
        return placed, None
    return placed, judge(placed.windows, recording.tapes, recording.events, seed)


# --- what is shown -------------------------------------------------------------------------------


def report(bars: Path, packs: Packs, seed: int, evaluation: Evaluation) -> dict[str, Any]:
    """Return everything that was measured as a JSON object."""
    return {
        "source": str(bars),
        "feature_pack": packs.feature_pack,
        "detector_pack": packs.detector_pack,
        "config_hash": packs.config_hash,
        "seed": seed,
        "shifts": SHIFTS,
        "resamples": RESAMPLES,
        **msgspec.to_builtins(evaluation),
    }


def show(evaluation: Evaluation) -> None:
    """Print what was measured, a table each."""
    show_rates(evaluation.classes)
    if evaluation.market_events:
        put(f"of the market itself: {shown_counts(evaluation.market_events)}")
    put()
    _show_lifts(evaluation.lifts)
    if evaluation.labels is not None:
        put()
        _show_labels(evaluation.labels)
    if evaluation.injection is not None:
        put()
        _show_injection(evaluation.injection)
    show_left_out(evaluation.read)


def _show_lifts(found: Sequence[Lift]) -> None:
    _legend(_LIFT_LEGEND)
    columns = ("minutes", "events", "lift", "surrogate", "band")
    table = new_table("class", *columns, right=columns)
    last: str | None = ""
    for each in found:
        if each.event_class != last:
            table.add_section()
            last = each.event_class
        table.add_row(
            each.event_class or "all",
            str(each.horizon_min),
            str(each.events),
            _number(each.lift),
            _number(each.surrogate),
            _band(each.low, each.high),
        )
    put_table(table)
    if any(each.surrogate is None for each in found):
        put("no surrogate: the bars are too short to shift events by a day or more")


def _show_labels(labels: LabelReport) -> None:
    _legend(_LABELS_LEGEND.format(before=labels.before_min, after=labels.after_min))
    placed, figures = labels.placed, labels.figures
    _legend(
        f"rows {labels.rows}; judged {len(placed.windows)}; "
        f"left out: {shown_counts(labels.rejects | placed.left_out) or 'none'}; "
        f"nothing could be published: {shown_counts(placed.unwatched) or 'none'}"
    )
    if figures is None:
        put("no label can be judged")
        return
    table = new_table(
        *("figure", "", "value", "95 %", "chance"), right=("", "value", "95 %", "chance")
    )
    judged = (
        ("recall", f"{figures.met}/{figures.labels}", figures.recall),
        ("precision", f"{figures.met_by}/{figures.events}", figures.precision),
        ("delay, minutes (median)", "", figures.delay_min),
        ("false alerts per asset-day", f"{figures.days:.1f} days", figures.false_per_day),
    )
    for name, of, estimate in judged:
        table.add_row(name, of, *_estimate(estimate), _number(estimate.chance))
    put_table(table)
    if len(figures.kinds) > 1:
        columns = ("labels", "met", "recall", "delay")
        kinds = new_table("kind", *columns, right=columns, fold=("kind",))
        for each in figures.kinds:
            counts = (str(each.labels), str(each.met))
            kinds.add_row(
                each.kind or _NONE, *counts, _number(each.recall), _number(each.delay_min)
            )
        put_table(kinds)
    put(f"events of assets without a label: {figures.elsewhere}")


def _show_injection(injection: Injection) -> None:
    _legend(_INJECT_LEGEND.format(move=injection.move))
    columns = ("injected", "eligible", "found", "recall", "95 %", "or in cooldown")
    table = new_table("volume", *columns, right=columns)
    for run_ in injection.runs:
        counts = (str(run_.injected), str(run_.eligible), str(run_.published))
        table.add_row(
            f"x{run_.volume_factor:g}",
            *counts,
            *(_estimate(run_.recall, places=4)),
            _number(run_.standing, places=4),
        )
    put_table(table)
    for run_ in injection.runs:
        for what, counts_ in (("missed", run_.missed), ("not eligible", run_.ineligible)):
            if counts_:
                put(f"x{run_.volume_factor:g} {what}: {shown_counts(counts_)}")
    if injection.plan.illiquid:
        say(f"assets too thin for it: {', '.join(injection.plan.illiquid)}", "yellow")


def _legend(text: str) -> None:
    for line in wrap(text, WIDTH):
        put(line)


def _estimate(estimate: Estimate, places: int = 2) -> tuple[str, str]:
    return _number(estimate.value, places), _band(estimate.low, estimate.high, places)


def _number(value: float | None, places: int = 2) -> str:
    return _NONE if value is None else f"{value:.{places}f}"


def _band(low: float | None, high: float | None, places: int = 2) -> str:
    return _NONE if low is None else f"{_number(low, places)} to {_number(high, places)}"
