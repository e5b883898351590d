"""`alpha calibrate`: do the z-scores of a bars file behave like a standard normal?

Rules of this file: bars go through the steps of the flow, in the flow's order, without an engine;
the report lists what it measured, bad or good; no figure is a verdict here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from dataflows.calibration import (
    FILLED_SHARE_MIN,
    MEAN_ABS_MAX,
    STD_MAX,
    STD_MIN,
    THRESHOLDS,
    WINDOW_DAYS,
    Banded,
    Calibration,
    ClassRate,
    Collector,
    Figures,
    Rates,
    Score,
    scores_of,
)
from dataflows.cli.failures import INPUT, USAGE, Problem
from dataflows.cli.logs import LogSpan
from dataflows.cli.pack_files import DetectorsFile, FeaturesFile, UniverseFile
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
from dataflows.collector import collect_rarely
from dataflows.evaluation import Minute
from dataflows.importing.bars import read_bars
from dataflows.version import PRODUCER
from operators.bars import BarsState, close_minutes
from operators.loop import Loop
from operators.records import MarketPhase, Published
from packs.loader import Packs, load_packs
from packs.schema import TIMEFRAMES, FeaturePack, Timeframe

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_NONE = "–"
_RATES = tuple(f">={threshold:g}" for threshold in THRESHOLDS)
_SHARES = ("NULL", "partial", "floor", "weeks", "band")
_FIGURES = ("rows", *_SHARES, "mean", "std", *_RATES)
_TOTALS = ("tf", "feature", "assets", *_SHARES, "median", "lowest")
_LEGEND = (
    f"band: weeks with |mean of z| <= {MEAN_ABS_MAX} and its std from {STD_MIN} to {STD_MAX}, of"
    f" the weeks that count. A week is {WINDOW_DAYS} days of labels, the first from the first z on,"
    f" then one every day; it counts when at least {FILLED_SHARE_MIN:.0%} of its rows have a z."
    " NULL: of all rows. partial: rows that no baseline learns from; floor: scales at their floor;"
    " both of the rows with a z. A rate is per day of rows with a z."
)
_RATES_LEGEND = (
    "Published events: a day is 1,440 rows of an asset past warm-up, of synchrony and rotation a"
    " day of the market. in, OUT: inside the band of the class, or not."
)
_RATE_COLUMNS = ("class", "events", "a day", "band", "median", "55-70", "p90", "80-95", "assets in")


@app.command()
def run(
    bars: Annotated[Path, typer.Argument(metavar="BARS", help="A bars file (CSV).")],
    tf: Annotated[
        list[str] | None, typer.Option("--tf", help="Only this timeframe; may be repeated.")
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option("--feature", help="Only this normalised feature; may be repeated."),
    ] = None,
    features: FeaturesFile = None,
    detectors: DetectorsFile = None,
    universe: UniverseFile = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure the z-scores of minute bars against a standard normal.

    Per timeframe, feature and asset: the shares of NULL, of partial rows and of floored scales, the
    share of weeks whose z has its mean and standard deviation in band, and how often z reaches 2,
    2.5, 3 and 4 on a day, beside what a standard normal does. Then the published events a day and
    their severity, by class, beside their bands. What the figures mean: docs/calibration.md.
    """
    packs = load_packs(features, detectors, universe)
    collector, rates = Collector(wanted_scores(packs.features, tf, feature)), Rates()

    def take(output: MarketPhase | Published) -> None:
        add_rates(rates, output)
        if isinstance(output, MarketPhase):
            for row in output.rows:
                collector.add(row)

    span = checked_bars(bars)
    with LogProgress("calibrate", "minutes", 1, span, quiet=quiet) as progress:
        read = measure(bars, packs, take, progress)
    calibrations, classes = collector.calibrations(), rates.figures()
    if as_json:
        put_json(report(bars, packs, read, calibrations, classes))
    else:
        show(read, calibrations, classes, [each for each in TIMEFRAMES if not tf or each in tf])


class Read(msgspec.Struct):
    """What was read: minutes of the file, rows made of them by timeframe, and what was not used.

    span_ms : first and last close. minutes_skipped : of holes too long to be filled with rows.
    rejects : rows of the file that were skipped, by reason.
    """

    minutes: int = 0
    span_ms: tuple[int, int] = (0, 0)
    rows: dict[str, int] = {}
    minutes_skipped: int = 0
    rejects: dict[str, int] = {}


def wanted_scores(
    pack: FeaturePack, tfs: Sequence[str] | None, features: Sequence[str] | None
) -> list[Score]:
    """Return the z columns that were asked for; raise if one of the names is none."""
    known = dict.fromkeys(score.feature for score in scores_of(pack))
    for option, given, names in (("--tf", tfs, TIMEFRAMES), ("--feature", features, known)):
        for name in given or ():
            if name not in names:
                raise Problem(f"{option}: expected one of {', '.join(names)}; found {name}", USAGE)
    chosen: list[Timeframe] = [tf for tf in TIMEFRAMES if not tfs or tf in tfs]
    scores = scores_of(pack, chosen, features or None)
    if not scores:
        raise Problem(
            f"--feature: expected a feature with a z on {', '.join(chosen)} rows,"
            f" found {', '.join(features or ())}",
            USAGE,
        )
    return scores


def checked_bars(bars: Path) -> LogSpan:
    """Return where a bars file starts; raise if it has no bar."""
    if not bars.exists():
        raise Problem(f"{bars}: expected a bars file, found nothing", INPUT)
    first = next(iter(read_bars(bars)), None)
    if first is None:
        raise Problem(f"{bars}: expected minute bars, found none that can be used", INPUT)
    return LogSpan(first[0], None)


def measure(
    bars: Path,
    packs: Packs,
    take: Callable[[MarketPhase | Published], None],
    on_progress: Callable[[int], None],
    change: Callable[[Iterable[Minute]], Iterable[Minute]] = iter,
) -> Read:
    """Run a bars file through the steps and hand over what they give, phase by phase.

    on_progress : is told every minute that was reached, epoch ms. change : what to do to the
    minutes of the file first.
    """
    collect_rarely()
    loop, lattice = Loop(packs, PRODUCER), BarsState()
    rejects, rows = Counter[str](), Counter[str]()
    read = Read()
    minutes = read_bars(bars, on_reject=lambda reason: rejects.update([reason]))
    for close_ms, minute in change(minutes):
        for output in loop.bars(close_minutes(lattice, close_ms, minute)):
            if isinstance(output, MarketPhase):
                rows.update(row.tf for row in output.rows)
            take(output)
        read.minutes += 1
        read.span_ms = (read.span_ms[0] or close_ms, close_ms)
        on_progress(close_ms)
    read.minutes_skipped = lattice.minutes_skipped
    read.rows, read.rejects = dict(rows), dict(sorted(rejects.items()))
    return read


def add_rates(rates: Rates, output: MarketPhase | Published) -> None:
    """Hand the rows or the events of a phase to the rates."""
    if isinstance(output, MarketPhase):
        for row in output.rows:
            rates.add_row(row)
    else:
        for event in output.events:
            rates.add_event(event)


# --- what is shown -------------------------------------------------------------------------------


def report(
    bars: Path,
    packs: Packs,
    read: Read,
    calibrations: Sequence[Calibration],
    classes: Sequence[ClassRate],
) -> dict[str, Any]:
    """Return everything that was measured as a JSON object."""
    return {
        "source": str(bars),
        "feature_pack": packs.feature_pack,
        "detector_pack": packs.detector_pack,
        "config_hash": packs.config_hash,
        "read": msgspec.to_builtins(read),
        "band": {
            "window_days": WINDOW_DAYS,
            "filled_share_min": FILLED_SHARE_MIN,
            "mean_abs_max": MEAN_ABS_MAX,
            "std_min": STD_MIN,
            "std_max": STD_MAX,
        },
        "scores": msgspec.to_builtins(calibrations),
        "rates": msgspec.to_builtins(classes),
    }


def show(
    read: Read,
    calibrations: Sequence[Calibration],
    classes: Sequence[ClassRate],
    tfs: Iterable[str],
) -> None:
    """Print a table per column, one line per column, what there was nothing of, and the rates."""
    scored = [each for each in calibrations if _has_z(each)]
    for each in scored:
        put(_title(each.score))
        put_table(_asset_table(each))
        put()
    for line in wrap(_LEGEND, WIDTH):
        put(line)
    put_table(_total_table(scored))
    for tf in tfs:
        silent = [
            each.score.feature for each in calibrations if each.score.tf == tf and not _has_z(each)
        ]
        if tf not in read.rows:
            put(f"{tf}: no rows")
        elif silent:
            put(f"{tf}: no z at all of {', '.join(silent)}")
    put()
    show_rates(classes)
    show_left_out(read)


def show_rates(classes: Sequence[ClassRate]) -> None:
    """Print how many events of each class there were, and how severe, beside their bands."""
    for line in wrap(_RATES_LEGEND, WIDTH):
        put(line)
    table = new_table(*_RATE_COLUMNS, right=("events", "a day", "median", "p90", "assets in"))
    for each in classes:
        of_band = [asset for asset in each.assets if asset.per_day.within]
        band = each.per_day
        table.add_row(
            each.event_class,
            str(each.events),
            _rate(band.value),
            f"{_NONE if band.low is None else f'{band.low:g}-{band.high:g}'} {_mark(band)}",
            _number(each.severity_median.value),
            _mark(each.severity_median),
            _number(each.severity_p90.value),
            _mark(each.severity_p90),
            "market" if each.market_wide else f"{len(of_band)}/{len(each.assets)}",
        )
    put_table(table)


def show_left_out(read: Read) -> None:
    """Say what of the file was not used."""
    if read.minutes_skipped:
        say(f"minutes of long holes left out: {read.minutes_skipped}", "yellow")
    if read.rejects:
        say(f"rows left out: {shown_counts(read.rejects)}", "yellow")


def _mark(figure: Banded) -> str:
    return "" if figure.within is None else "in" if figure.within else "OUT"


def _has_z(calibration: Calibration) -> bool:
    return calibration.total.pooled.scored > 0


def _title(score: Score) -> str:
    what = "|z|" if score.two_sided else "z"
    return f"{score.tf} {score.feature} ({score.column}); times a day that {what} reaches >="


def _asset_table(calibration: Calibration) -> Table:
    table = new_table("asset", *_FIGURES, right=_FIGURES, fold=("asset",))
    for asset in calibration.assets:
        table.add_row(asset.figures.asset, *_cells(asset.figures))
    total = calibration.total
    table.add_section()
    table.add_row("all", *_cells(total.pooled))
    table.add_row("median", *_under("band", _percent(total.in_band_share_median)))
    rates = [_rate(each.gaussian_per_day) for each in total.pooled.exceedances]
    table.add_row("normal", *_under("mean", "0.00", "1.00", *rates))
    return table


def _under(column: str, *cells: str) -> list[str]:
    """Return a row of figures with cells from one column on, else blank."""
    before = _FIGURES.index(column)
    return [*[""] * before, *cells, *[""] * (len(_FIGURES) - before - len(cells))]


def _total_table(calibrations: Sequence[Calibration]) -> Table:
    table = new_table(*_TOTALS, right=_TOTALS[2:-1], fold=("lowest",))
    for each in calibrations:
        score, total = each.score, each.total
        lowest = _NONE if total.lowest is None else f"{_percent(total.lowest_share)} {total.lowest}"
        table.add_row(
            score.tf,
            score.feature,
            f"{total.assets}/{len(each.assets)}",
            *_shares(total.pooled),
            _percent(total.in_band_share_median),
            lowest,
        )
    return table


def _cells(figures: Figures) -> list[str]:
    rates = [_rate(each.per_day) for each in figures.exceedances]
    moments = (_number(figures.mean), _number(figures.std))
    return [str(figures.rows), *_shares(figures), *moments, *rates]


def _shares(figures: Figures) -> list[str]:
    return [
        _percent(figures.null_share),
        _percent(figures.partial_share),
        _percent(figures.floored_share),
        _weeks(figures),
        _percent(figures.in_band_share),
    ]


def _weeks(figures: Figures) -> str:
    """Return how many weeks count, of how many where that is not all."""
    if figures.windows_thin == 0:
        return str(figures.windows)
    return f"{figures.windows}/{figures.windows + figures.windows_thin}"


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"


def _rate(per_day: float | None) -> str:
    if per_day is None:
        return _NONE
    return f"{per_day:.2f}" if per_day < 10 else f"{per_day:.1f}"
