"""How close the z-scores of a run are to a standard normal, and how many events it published.

Rules of this file: z is read from rows, rates from rows and published events, and nothing else is
seen; sums are exact; what cannot be said is None, never NaN. A week counts when at least half of
its rows have a z, so that a few busy minutes do not speak for a thin market; floored scales are
reported, not excused.  Numerics 1, 2, 10, 12 (d); build plan 10.8.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from operators.formulas.elementary import round12, rounded
from operators.lattice import DAY_MS, MINUTE_MS
from operators.records import MARKET_UID, Row
from operators.verdicts import DQ_PARTIAL
from packs.loader import MARKET_CLASSES
from packs.schema import (
    EVENT_CLASSES,
    MINUTE_TF,
    TIMEFRAME_MIN,
    TIMEFRAMES,
    FeaturePack,
    Timeframe,
)

WINDOW_DAYS = 7
MEAN_ABS_MAX = 0.2
STD_MIN, STD_MAX = 0.8, 1.2
FILLED_SHARE_MIN = 0.5
THRESHOLDS = (2.0, 2.5, 3.0, 4.0)

# Published events per asset-day, of market-wide classes per day (numerics 10).
RATE_BANDS: dict[str, tuple[float, float]] = {
    "spike": (3.0, 20.0),
    "shift": (5.0, 25.0),
    "quadrant": (0.0, 15.0),
    "divergence": (0.0, 15.0),
    "synchrony": (0.0, 10.0),
    "rotation": (0.0, 6.0),
}
SEVERITY_BANDS = {"median": (55.0, 70.0), "p90": (80.0, 95.0)}  # of each class (build plan 10.8)

_BAR_MS: dict[str, int] = {tf: minutes * MINUTE_MS for tf, minutes in TIMEFRAME_MIN.items()}
_SIGNED_TRANSFORM = "asinh"  # the one transform that takes values below zero


class Score(msgspec.Struct, frozen=True):
    """A z column of one timeframe. two_sided : large values of either sign are unusual."""

    tf: Timeframe
    feature: str
    column: str
    two_sided: bool


class Exceedance(msgspec.Struct, frozen=True):
    """How often z reached a threshold, by its size if two-sided.

    per_day, gaussian_per_day : per day of rows with a z; None if there is none.
    """

    threshold: float
    count: int
    per_day: float | None
    gaussian_per_day: float


class Window(msgspec.Struct, frozen=True):
    """Seven days of labels from `start_ms` on. filled : enough rows have a z for it to count.

    mean, std : of z, None without any. in_band : both are within their bounds.
    """

    start_ms: int
    scored: int
    filled: bool
    mean: float | None
    std: float | None
    in_band: bool


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one z column did on one asset, or pooled over all of them (asset None).

    rows : of the timeframe. warmup_rows : those before the first z. null_share : rows without a z,
        of all rows.
    partial_share : rows that were measured against a baseline which does not learn from them
        (dq partial, such as a quiet minute); floored_share : rows whose scale was its floor; both
        of the rows with a z.
    windows : weeks that count. windows_thin : weeks with too few z to count. in_band_share : of the
        weeks that count.
    mean, std : of all z, std divided by their number. Everything is None where nothing is known.
    """

    score: Score
    asset: str | None
    rows: int
    scored: int
    warmup_rows: int
    null_share: float | None
    partial_share: float | None
    floored_share: float | None
    windows: int
    windows_thin: int
    in_band: int
    in_band_share: float | None
    mean: float | None
    std: float | None
    exceedances: tuple[Exceedance, ...]


class Total(msgspec.Struct, frozen=True):
    """A z column over all assets.

    pooled : every row and every week counts the same. assets : with a week that counts.
    in_band_share_median : of their shares, the mean of the middle two for an even number.
    lowest : the asset with the smallest share, the first of equals.
    """

    pooled: Figures
    assets: int
    in_band_share_median: float | None
    lowest: str | None
    lowest_share: float | None


class AssetFigures(msgspec.Struct, frozen=True):
    """Figures of one asset, and the weeks behind them in time order."""

    figures: Figures
    windows: tuple[Window, ...]


class Calibration(msgspec.Struct, frozen=True):
    """One z column: its assets in the order of their ids, and their total."""

    score: Score
    assets: tuple[AssetFigures, ...]
    total: Total


class Banded(msgspec.Struct, frozen=True):
    """A figure and the bounds it should keep, which belong to the band.

    Without a figure, or without bounds, nothing is said of `within`.
    """

    value: float | None
    low: float | None
    high: float | None
    within: bool | None


class AssetRate(msgspec.Struct, frozen=True):
    """Events of one class on one asset; days of its rows past warm-up."""

    asset: str
    events: int
    days: float
    per_day: Banded


class ClassRate(msgspec.Struct, frozen=True, kw_only=True):
    """Published events of one class.

    days : asset-days of rows past warm-up; of a market-wide class days with any such row.
    severity_median, severity_p90 : None without events. assets : in the order of their ids, none
    of a market-wide class.
    """

    event_class: str
    market_wide: bool
    events: int
    days: float
    per_day: Banded
    severity_median: Banded
    severity_p90: Banded
    assets: tuple[AssetRate, ...]


class Series:
    """The z of one column on one asset, in time order; 16 bytes a row with a z."""

    def __init__(self) -> None:
        self.rows = 0
        self.floored = 0
        self.partial = 0
        self.warmup_rows = 0
        self.last_ms = 0
        self.labels_ms = array("q")
        self.z = array("d")

    def add(
        self, label_ms: int, z: float | None, *, floored: bool = False, partial: bool = False
    ) -> None:
        """Take one row; labels must rise. z : None for NULL."""
        assert label_ms > self.last_ms, f"row {label_ms} after row {self.last_ms}"
        self.last_ms = label_ms
        self.rows += 1
        if z is None:
            self.warmup_rows += not self.z
            return
        assert math.isfinite(z), f"z is {z!r} at {label_ms}"
        self.labels_ms.append(label_ms)
        self.z.append(z)
        self.floored += floored
        self.partial += partial


class Collector:
    """Takes the rows of a run and gives the figures of the wanted columns."""

    def __init__(self, scores: Sequence[Score]) -> None:
        self._by_tf: dict[str, list[Score]] = {}
        for score in scores:
            self._by_tf.setdefault(score.tf, []).append(score)
        self._series: dict[Score, dict[int, Series]] = {score: {} for score in scores}
        self._symbols: dict[int, str] = {}

    def add(self, row: Row) -> None:
        """Take a row of any timeframe; those of one asset and timeframe in time order."""
        self._symbols[row.asset_uid] = row.symbol
        floored = row.columns.get("scale_floored") or ()
        partial = row.columns["dq_status"] == DQ_PARTIAL
        for score in self._by_tf.get(row.tf, ()):
            by_asset = self._series[score]
            if row.asset_uid not in by_asset:
                by_asset[row.asset_uid] = Series()
            by_asset[row.asset_uid].add(
                row.exchange_ts_ms,
                row.columns[score.column],
                floored=score.feature in floored,
                partial=partial,
            )

    def calibrations(self) -> list[Calibration]:
        """Return the figures of every column that had a row, in the order of the columns."""
        return [
            _calibration(score, {self._symbols[uid]: by_asset[uid] for uid in sorted(by_asset)})
            for score, by_asset in self._series.items()
            if by_asset
        ]


def scores_of(
    pack: FeaturePack,
    tfs: Sequence[Timeframe] = TIMEFRAMES,
    features: Sequence[str] | None = None,
) -> list[Score]:
    """Return the z columns of a pack, by timeframe and then in its order.

    features : None for all of them.
    """
    return [
        Score(tf, entry.feature, names[entry.z], entry.transform == _SIGNED_TRANSFORM)
        for tf in TIMEFRAMES
        if tf in tfs
        for names in (pack.names(tf),)
        for entry in pack.normalised
        if entry.z is not None and tf in entry.tfs and entry.z in names
        if features is None or entry.feature in features
    ]


def windows_of(series: Series, tf: Timeframe) -> Iterator[Window]:
    """Yield the weeks of a series: the first starts with its first z, each other a day later.

    Only whole weeks; none if there is no z.
    """
    if not series.z:
        return
    bar_ms = _BAR_MS[tf]
    filled_min = math.ceil(FILLED_SHARE_MIN * WINDOW_DAYS * DAY_MS / bar_ms)
    last_start_ms = series.last_ms + bar_ms - WINDOW_DAYS * DAY_MS
    for start_ms in range(series.labels_ms[0], last_start_ms + 1, DAY_MS):
        first = bisect_left(series.labels_ms, start_ms)
        end = bisect_left(series.labels_ms, start_ms + WINDOW_DAYS * DAY_MS)
        z = series.z[first:end]
        mean, std = moments(z)
        filled = len(z) >= filled_min
        yield Window(start_ms, len(z), filled, rounded(mean), rounded(std), in_band(mean, std))


def in_band(mean: float | None, std: float | None) -> bool:
    """Tell whether both are within their bounds, which belong to the band.

    >>> in_band(-0.2, 1.2), in_band(0.0, 0.79), in_band(None, None)
    (True, False, False)
    """
    if mean is None or std is None:
        return False
    return abs(mean) <= MEAN_ABS_MAX and STD_MIN <= std <= STD_MAX


def moments(*parts: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and standard deviation (divided by n) of all parts, exactly summed.

    (None, None) without a value.

    >>> moments([1.0, 2.0], [3.0, 6.0])
    (3.0, 1.8708286933869707)
    >>> moments([])
    (None, None)
    """
    n = sum(map(len, parts))
    if n == 0:
        return None, None
    mean = math.fsum(chain(*parts)) / n
    return mean, math.sqrt(math.fsum((z - mean) * (z - mean) for z in chain(*parts)) / n)


def gaussian_share(threshold: float, *, two_sided: bool) -> float:
    """Return how much of a standard normal reaches a threshold, by its size if two-sided.

    >>> [round(gaussian_share(3.0, two_sided=both), 6) for both in (False, True)]
    [0.00135, 0.0027]
    """
    both = math.erfc(threshold / math.sqrt(2.0))
    return both if two_sided else both / 2.0


# --- published events ----------------------------------------------------------------------------


class Rates:
    """Takes the minute rows and the published events of a run and gives the rates of the classes.

    Only rows past warm-up count as time, for before that nothing can be published.
    """

    def __init__(self) -> None:
        self._symbols: dict[int, str] = {}
        self._minutes: dict[int, int] = {}
        self._market_minutes = 0
        self._last_ms = 0
        self._severities: dict[str, dict[int, list[int]]] = {name: {} for name in EVENT_CLASSES}

    def add_row(self, row: Row) -> None:
        """Take a row; those of one minute follow each other. Other timeframes are passed over."""
        if row.tf != MINUTE_TF:
            return
        uid = row.asset_uid
        self._symbols[uid] = row.symbol
        warm = not row.columns["warmup"]
        self._minutes[uid] = self._minutes.get(uid, 0) + warm
        if warm and row.exchange_ts_ms != self._last_ms:
            self._market_minutes += 1
            self._last_ms = row.exchange_ts_ms

    def add_time(
        self, symbols: Mapping[int, str], minutes: Mapping[int, int], market_minutes: int
    ) -> None:
        """Take the minute rows of a whole run at once: by asset those past warm-up, and of how many
        minutes there was one."""
        self._symbols.update(symbols)
        for uid in symbols:
            self._minutes[uid] = self._minutes.get(uid, 0) + minutes[uid]
        self._market_minutes += market_minutes

    def add_event(self, event: Mapping[str, Any]) -> None:
        """Take a published event of any timeframe."""
        by_asset = self._severities[event["class"]]
        by_asset.setdefault(event["asset_uid"], []).append(event["severity"])

    def figures(self) -> list[ClassRate]:
        """Return the figures of every class, in the order of the contract."""
        return [self._of(name) for name in EVENT_CLASSES]

    def _of(self, name: str) -> ClassRate:
        market_wide = name in MARKET_CLASSES
        by_asset, band = self._severities[name], RATE_BANDS.get(name)
        uids = [] if market_wide else sorted(self._minutes)
        assets = []
        for uid in uids:
            events, days = len(by_asset.get(uid, ())), _days(self._minutes[uid])
            assets.append(
                AssetRate(self._symbols[uid], events, days, banded(_per_day(events, days), band))
            )
        counted = [MARKET_UID] if market_wide else uids
        severities = sorted(chain.from_iterable(by_asset.get(uid, ()) for uid in counted))
        minutes = self._market_minutes if market_wide else sum(self._minutes.values())
        days = _days(minutes)
        return ClassRate(
            event_class=name,
            market_wide=market_wide,
            events=len(severities),
            days=days,
            per_day=banded(_per_day(len(severities), days), band),
            severity_median=banded(quantile(severities, 0.5), SEVERITY_BANDS["median"]),
            severity_p90=banded(quantile(severities, 0.9), SEVERITY_BANDS["p90"]),
            assets=tuple(assets),
        )


def banded(value: float | None, band: tuple[float, float] | None) -> Banded:
    """Return a figure beside its band.

    >>> banded(3.0, (3.0, 20.0)).within, banded(2.9, (3.0, 20.0)).within, banded(1.0, None).within
    (True, False, None)
    """
    if band is None:
        return Banded(value, None, None, None)
    low, high = band
    return Banded(value, low, high, None if value is None else low <= value <= high)


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Return a quantile of sorted values, on the line between the two nearest; None without any.

    >>> quantile([50, 60, 90], 0.5), quantile([50, 60], 0.9), quantile([], 0.5)
    (60.0, 59.0, None)
    """
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return round12(ordered[below] + (place - below) * (ordered[above] - ordered[below]))


def _days(minutes: int) -> float:
    return round12(minutes * MINUTE_MS / DAY_MS)


def _per_day(events: int, days: float) -> float | None:
    return round12(events / days) if days else None


# --- figures -------------------------------------------------------------------------------------


def _calibration(score: Score, by_symbol: dict[str, Series]) -> Calibration:
    assets = []
    for symbol, series in by_symbol.items():
        windows = tuple(windows_of(series, score.tf))
        assets.append(AssetFigures(_figures(score, symbol, [series], windows), windows))
    windows = tuple(chain.from_iterable(asset.windows for asset in assets))
    pooled = _figures(score, None, list(by_symbol.values()), windows)
    return Calibration(score, tuple(assets), _total(pooled, assets))


def _figures(
    score: Score, asset: str | None, several: Sequence[Series], windows: Sequence[Window]
) -> Figures:
    rows = sum(series.rows for series in several)
    scored = sum(len(series.z) for series in several)
    counted = [window for window in windows if window.filled]
    good = sum(window.in_band for window in counted)
    mean, std = moments(*(series.z for series in several))
    return Figures(
        score=score,
        asset=asset,
        rows=rows,
        scored=scored,
        warmup_rows=sum(series.warmup_rows for series in several),
        null_share=_share(rows - scored, rows),
        partial_share=_share(sum(series.partial for series in several), scored),
        floored_share=_share(sum(series.floored for series in several), scored),
        windows=len(counted),
        windows_thin=len(windows) - len(counted),
        in_band=good,
        in_band_share=_share(good, len(counted)),
        mean=rounded(mean),
        std=rounded(std),
        exceedances=tuple(_exceedance(score, several, scored, each) for each in THRESHOLDS),
    )


def _exceedance(
    score: Score, several: Sequence[Series], scored: int, threshold: float
) -> Exceedance:
    every: Iterable[float] = chain.from_iterable(series.z for series in several)
    if score.two_sided:
        every = map(abs, every)
    count = sum(z >= threshold for z in every)
    rows_per_day = DAY_MS // _BAR_MS[score.tf]
    return Exceedance(
        threshold,
        count,
        round12(count * rows_per_day / scored) if scored else None,
        round12(rows_per_day * gaussian_share(threshold, two_sided=score.two_sided)),
    )


def _total(pooled: Figures, assets: Sequence[AssetFigures]) -> Total:
    shares = [
        (asset.figures.in_band_share, asset.figures.asset)
        for asset in assets
        if asset.figures.in_band_share is not None
    ]
    if not shares:
        return Total(pooled, 0, None, None, None)
    lowest_share, lowest = min(shares, key=lambda pair: pair[0])
    ranked = sorted(share for share, _ in shares)
    middle = 0.5 * (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2])
    return Total(pooled, len(shares), round12(middle), lowest, lowest_share)


def _share(part: int, whole: int) -> float | None:
    return round12(part / whole) if whole else None
