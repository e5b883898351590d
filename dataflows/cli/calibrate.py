"""`alpha calibrate`: do the z-scores of a bars file behave like a standard normal?

Rules of this file: bars go through the normalisation of the flow, in the flow's order, and through
nothing behind it; the report lists what it measured, bad or good; no figure is a verdict here.
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
    Calibration,
    Collector,
    Figures,
    Score,
    scores_of,
)
from dataflows.cli.failures import INPUT, USAGE, Problem
from dataflows.cli.logs import LogSpan
from dataflows.cli.pack_files import DetectorsFile, FeaturesFile
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
from dataflows.importing.bars import read_bars
from operators.bars import BarsState, close_minutes
from operators.normalize import Normalize
from operators.records import Row
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure the z-scores of minute bars against a standard normal.

    Per timeframe, feature and asset: the shares of NULL, of partial rows and of floored scales, the
    share of weeks whose z has its mean and standard deviation in band, and how often z reaches 2,
    2.5, 3 and 4 on a day, beside what a standard normal does. What the figures mean:
    docs/calibration.md.
    """
    packs = load_packs(features, detectors)
    collector = Collector(wanted_scores(packs.features, tf, feature))
    span = checked_bars(bars)
    with LogProgress("calibrate", "minutes", 1, span, quiet=quiet) as progress:
        read = measure(bars, packs, collector.add, progress)
    calibrations = collector.calibrations()
    if as_json:
        put_json(report(bars, packs, read, calibrations))
    else:
        show(read, calibrations, [each for each in TIMEFRAMES if not tf or each in tf])


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
    bars: Path, packs: Packs, on_row: Callable[[Row], None], on_progress: Callable[[int], None]
) -> Read:
    """Normalise a bars file and hand over every row of every timeframe, in the flow's order.

    on_progress : is told every minute that was reached, epoch ms.
    """
    normalize, states = Normalize(packs), {}
    lattice, rejects, rows = BarsState(), Counter[str](), Counter[str]()
    read = Read()
    for close_ms, minute in read_bars(bars, on_reject=lambda reason: rejects.update([reason])):
        for item in close_minutes(lattice, close_ms, minute):
            if item.asset_uid not in states:
                states[item.asset_uid] = normalize.initial()
            for row in _rows(normalize.step(states[item.asset_uid], item)):
                rows[row.tf] += 1
                on_row(row)
        read.minutes += 1
        read.span_ms = (read.span_ms[0] or close_ms, close_ms)
        on_progress(close_ms)
    read.minutes_skipped = lattice.minutes_skipped
    read.rows, read.rejects = dict(rows), dict(sorted(rejects.items()))
    return read


def _rows(items: Iterable[Any]) -> Iterable[Row]:
    for item in items:
        yield from item.rows


# --- what is shown -------------------------------------------------------------------------------


def report(
    bars: Path, packs: Packs, read: Read, calibrations: Sequence[Calibration]
) -> dict[str, Any]:
    """Return everything that was measured as a JSON object."""
    return {
        "source": str(bars),
        "feature_pack": packs.feature_pack,
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
    }


def show(read: Read, calibrations: Sequence[Calibration], tfs: Iterable[str]) -> None:
    """Print a table per column, then one line per column, then what there was nothing of."""
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
    if read.minutes_skipped:
        say(f"minutes of long holes left out: {read.minutes_skipped}", "yellow")
    if read.rejects:
        say(f"rows left out: {shown_counts(read.rejects)}", "yellow")


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
