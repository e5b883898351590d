"""Figures of z-scores: which weeks there are, which are in band, and what is said of nothing."""

from __future__ import annotations

import doctest
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows import calibration
from dataflows.calibration import (
    RATE_BANDS,
    THRESHOLDS,
    Calibration,
    ClassRate,
    Collector,
    Rates,
    Score,
    Series,
    banded,
    gaussian_share,
    in_band,
    moments,
    quantile,
    scores_of,
    windows_of,
)
from operators.lattice import DAY_MS, HOUR_MS, MINUTE_MS
from operators.records import Row
from packs.loader import load_packs
from packs.schema import EVENT_CLASSES

START_MS = 1_790_000_100_000 // HOUR_MS * HOUR_MS
WEEK_HOURS = 7 * 24
VOL = Score("1h", "vol", "z_vol_h_1", False)
BASIS = Score("1h", "basis", "z_basis_h_1", True)


def series_of(values: Sequence[float | None], *, bar_ms: int = HOUR_MS) -> Series:
    """Return a series with one bar after another from START_MS on."""
    series = Series()
    for i, z in enumerate(values):
        series.add(START_MS + i * bar_ms, z)
    return series


def row(uid: int, label_ms: int, tf: str = "1h", floored: Sequence[str] = (), **z: Any) -> Row:
    """Return a row with some z columns."""
    columns = {"dq_status": "ok", "scale_floored": list(floored), **z}
    return Row(uid, f"S{uid}", tf, label_ms, 0, columns)


def collected(score: Score, assets: Sequence[Sequence[float | None]]) -> Calibration:
    """Return the figures of one column, with one list of hourly values per asset."""
    collector = Collector([score])
    for i in range(max(map(len, assets))):
        for uid, values in enumerate(assets):
            if i < len(values):
                collector.add(row(uid, START_MS + i * HOUR_MS, **{score.column: values[i]}))
    (found,) = collector.calibrations()
    return found


def leaves(value: Any) -> Iterator[Any]:
    """Yield every value inside a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from leaves(each)
    else:
        yield value


def swing(n: int, *, scale: float = 1.0, shift: float = 0.0) -> list[float]:
    """Return values whose mean is `shift` and whose std is `scale` over every whole day."""
    return [shift + (scale if i % 2 else -scale) for i in range(n)]


# --- weeks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("warmup", "hours", "weeks"),
    [
        (0, WEEK_HOURS - 1, 0),
        (0, WEEK_HOURS, 1),
        (0, WEEK_HOURS + 23, 1),
        (0, WEEK_HOURS + 24, 2),
        (5, WEEK_HOURS + 4, 0),
        (5, WEEK_HOURS + 5, 1),
        (200, 200, 0),
    ],
)
def test_weeks_start_with_the_first_z_and_are_whole(warmup: int, hours: int, weeks: int) -> None:
    """A week needs all of its rows, warm-up aside; the next one starts a day later."""
    values = [None] * warmup + [0.5] * (hours - warmup)
    found = list(windows_of(series_of(values), "1h"))
    first_ms = START_MS + warmup * HOUR_MS
    assert [window.start_ms for window in found] == [first_ms + k * DAY_MS for k in range(weeks)]
    assert all(window.scored == WEEK_HOURS for window in found)


def test_a_week_holds_its_first_label_and_not_the_label_after_its_last() -> None:
    """week 0 |0 ......... 167|           the spike at hour 168 is in week 1,
    week 1        |24 .......... 191|   that at hour 0 in week 0 alone."""
    values = [0.0] * (WEEK_HOURS + 24)
    values[0], values[WEEK_HOURS] = WEEK_HOURS * 1.0, WEEK_HOURS * 2.0
    means = [window.mean for window in windows_of(series_of(values), "1h")]
    assert means == [1.0, 2.0]


@pytest.mark.parametrize(("missing", "filled"), [(84, True), (85, False)])
def test_a_week_counts_with_half_of_its_rows(missing: int, filled: bool) -> None:
    """Half is enough, one less is not; the figures of the week are told in either case."""
    values = [1.0, *[None] * missing, *[-1.0] * (WEEK_HOURS - missing - 1)]
    (window,) = windows_of(series_of(values), "1h")
    assert (window.scored, window.filled) == (WEEK_HOURS - missing, filled)
    figures = collected(VOL, [values]).total.pooled
    assert (figures.windows, figures.windows_thin) == ((1, 0) if filled else (0, 1))
    assert (figures.in_band_share is None) is not filled


def test_rows_that_do_not_exist_do_not_fill_a_week() -> None:
    """A hole without rows counts like rows without a z."""
    series = Series()
    for hour in (*range(50), *range(120, WEEK_HOURS)):
        series.add(START_MS + hour * HOUR_MS, 0.1)
    (window,) = windows_of(series, "1h")
    assert (window.scored, window.filled) == (98, True)
    series = Series()
    for hour in (*range(50), *range(140, WEEK_HOURS)):
        series.add(START_MS + hour * HOUR_MS, 0.1)
    assert [window.filled for window in windows_of(series, "1h")] == [False]


@pytest.mark.parametrize(("tf", "minutes"), [("1m", 1), ("15m", 15)])
def test_weeks_of_shorter_bars(tf: Any, minutes: int) -> None:
    """The same seven days on every timeframe."""
    n = 7 * 1440 // minutes
    values = swing(n)
    (window,) = windows_of(series_of(values, bar_ms=minutes * MINUTE_MS), tf)
    assert (window.scored, window.filled, window.in_band) == (n, True, True)
    assert not list(windows_of(series_of(values[1:], bar_ms=minutes * MINUTE_MS), tf))


# --- in band -----------------------------------------------------------------------------------


def test_the_bounds_belong_to_the_band() -> None:
    """Mean within 0.2 of zero and std from 0.8 to 1.2, both at once."""
    assert in_band(0.2, 0.8)
    assert in_band(-0.2, 1.2)
    assert not in_band(math.nextafter(0.2, 1.0), 1.0)
    assert not in_band(-0.21, 1.0)
    assert not in_band(0.0, math.nextafter(1.2, 2.0))
    assert not in_band(0.0, math.nextafter(0.8, 0.0))


def test_the_share_in_band_counts_weeks() -> None:
    """Nine days of a good z, then a shift of one sigma: weeks leave the band one by one."""
    values = swing(9 * 24) + swing(5 * 24, shift=1.0)
    found = collected(VOL, [values])
    (asset,) = found.assets
    good = [window.in_band for window in asset.windows]
    assert len(good) == 8
    assert good[:3] == [True] * 3
    assert good[-3:] == [False] * 3
    assert asset.figures.in_band == sum(good)
    assert asset.figures.in_band_share == pytest.approx(sum(good) / 8)
    shifted = asset.windows[-1]
    assert shifted.mean == pytest.approx(statistics.fmean(values[-WEEK_HOURS:]), rel=1e-11)
    assert shifted.std == pytest.approx(statistics.pstdev(values[-WEEK_HOURS:]), rel=1e-11)


@pytest.mark.parametrize(("scale", "share"), [(1.0, 1.0), (1.5, 0.0), (0.6, 0.0)])
def test_a_mean_of_zero_alone_does_not_make_a_week_good(scale: float, share: float) -> None:
    """The std must be in its band as well."""
    figures = collected(VOL, [swing(20 * 24, scale=scale)]).total.pooled
    assert (figures.windows, figures.in_band_share) == (14, share)


# --- shares and rates --------------------------------------------------------------------------


def test_shares_of_rows_are_shares_of_what_they_are_among() -> None:
    """NULL of all rows; partial and floored of those with a z, and not counted without one."""
    collector = Collector([VOL, BASIS])
    for hour, z in enumerate([None, None, 1.0, None, 2.0, 3.0, 4.0, None]):
        floored = ["vol"] if hour in (0, 2, 3) else ["basis"]
        label_ms = START_MS + hour * HOUR_MS
        dq = "partial" if hour in (1, 4, 5, 6) else "stale" if hour == 7 else "ok"
        z_columns = {"z_vol_h_1": z, "z_basis_h_1": None}
        collector.add(row(0, label_ms, floored=floored, dq_status=dq, **z_columns))
    vol, basis = (each.assets[0].figures for each in collector.calibrations())
    assert (vol.rows, vol.scored, vol.warmup_rows) == (8, 4, 2)
    assert (vol.null_share, vol.partial_share, vol.floored_share) == (0.5, 0.75, 0.25)
    assert (basis.rows, basis.scored, basis.warmup_rows) == (8, 0, 8)
    assert (basis.null_share, basis.partial_share, basis.floored_share) == (1.0, None, None)


def test_exceedances_are_per_day_of_rows_with_a_z() -> None:
    """A threshold is reached by a value equal to it; only signed features look at both sides."""
    values = [None] * 24 + [-4.0, 2.0, 2.4, 2.5, 3.9, -2.0] + [0.0] * 42
    for score, counts in ((VOL, [4, 2, 1, 0]), (BASIS, [6, 3, 2, 1])):
        found = collected(score, [values]).assets[0].figures.exceedances
        assert [each.threshold for each in found] == list(THRESHOLDS)
        assert [each.count for each in found] == counts
        assert [each.per_day for each in found] == [count / 2 for count in counts]


def test_the_expectation_is_that_of_a_standard_normal() -> None:
    """One or both tails, times the rows of a day."""
    normal = statistics.NormalDist()
    for threshold in THRESHOLDS:
        one = 1.0 - normal.cdf(threshold)
        assert gaussian_share(threshold, two_sided=False) == pytest.approx(one, rel=1e-9)
        assert gaussian_share(threshold, two_sided=True) == pytest.approx(2 * one, rel=1e-9)
    minutes = Score("1m", "vol", "z_vol_m_1", False)
    collector = Collector([minutes])
    collector.add(row(0, START_MS, "1m", z_vol_m_1=1.0))
    (found,) = collector.calibrations()
    expected = [each.gaussian_per_day for each in found.total.pooled.exceedances]
    assert expected == pytest.approx([32.76, 8.942, 1.944, 0.0456], rel=1e-3)


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6), max_size=20), max_size=4),
    st.randoms(use_true_random=False),
)
def test_property_moments_are_exact_and_know_no_order(parts: list[list[float]], dice: Any) -> None:
    """As the statistics of the library, and the same bits however the values are split."""
    values = [z for part in parts for z in part]
    mean, std = moments(*parts)
    if not values:
        assert (mean, std) == (None, None)
        return
    assert mean == pytest.approx(statistics.fmean(values), rel=1e-12, abs=1e-9)
    assert std == pytest.approx(statistics.pstdev(values), rel=1e-9, abs=1e-9)
    dice.shuffle(values)
    assert moments(values) == (mean, std)


# --- totals ------------------------------------------------------------------------------------


def test_totals_pool_weeks_and_take_the_median_of_assets() -> None:
    """Fourteen good weeks, two bad ones, and an asset without a week."""
    good, bad, short = swing(20 * 24), swing(8 * 24, scale=2.0), swing(24)
    found = collected(VOL, [good, bad, short])
    total = found.total
    assert [asset.figures.asset for asset in found.assets] == ["S0", "S1", "S2"]
    assert (total.pooled.windows, total.pooled.in_band) == (16, 14)
    assert total.pooled.in_band_share == 14 / 16
    assert (total.assets, total.in_band_share_median) == (2, 0.5)
    assert (total.lowest, total.lowest_share) == ("S1", 0.0)
    assert total.pooled.scored == len(good + bad + short)
    assert total.pooled.mean == pytest.approx(statistics.fmean(good + bad + short), rel=1e-10)
    assert collected(VOL, [good, good, bad]).total.in_band_share_median == 1.0


def test_what_is_not_known_is_none() -> None:
    """Without a single z there is no mean, no rate and no share, and never a NaN."""
    found = collected(VOL, [[None] * 400])
    total = found.total
    assert (total.assets, total.in_band_share_median, total.lowest) == (0, None, None)
    assert (total.pooled.mean, total.pooled.std, total.pooled.in_band_share) == (None, None, None)
    assert {each.per_day for each in total.pooled.exceedances} == {None}
    numbers = [each for each in leaves(msgspec.to_builtins(found)) if isinstance(each, float)]
    assert numbers
    assert all(math.isfinite(number) for number in numbers)


# --- rows --------------------------------------------------------------------------------------


def test_a_column_is_looked_up_by_its_name_on_the_timeframe() -> None:
    """Rows of other timeframes, and columns nobody asked for, do not mix in."""
    pack = load_packs().features
    collector = Collector(scores_of(pack, features=["vol"]))
    others = {"z_vol_m_15": 5.0, "z_vol_h_1": 5.0}
    collector.add(row(0, START_MS, "1m", z_vol_m_1=1.0))
    collector.add(row(0, START_MS, "15m", z_vol_m_15=2.0))
    collector.add(row(0, START_MS + MINUTE_MS, "1m", z_vol_m_1=3.0, **others))
    found = {each.score.tf: each.total.pooled for each in collector.calibrations()}
    assert {tf: (each.rows, each.mean) for tf, each in found.items()} == {
        "1m": (2, 2.0),
        "15m": (1, 2.0),
    }


def test_the_columns_are_those_of_the_pack() -> None:
    """Every feature with a z, on the timeframes it is kept on; asinh is the signed transform."""
    pack = load_packs().features
    by_tf = {tf: scores_of(pack, [tf]) for tf in ("1m", "15m", "1h")}  # type: ignore[list-item]
    assert [score.column for score in by_tf["1m"][:3]] == [
        *("z_vol_m_1", "z_ret_abs_m_1", "z_ret_abs_m_5"),
    ]
    assert [score.column for score in by_tf["15m"][:2]] == ["z_vol_m_15", "z_ret_abs_m_15"]
    assert "ret_abs_5" not in [score.feature for score in by_tf["1h"]]
    assert "dfunding" not in [score.feature for score in scores_of(pack)]
    signed = {score.feature for score in by_tf["1m"] if score.two_sided}
    assert signed == {"oi_roc", "basis", "cvd", "cvd_slope"}
    for tf, scores in by_tf.items():
        names = set(pack.names(tf).values())  # type: ignore[arg-type]
        assert {score.column for score in scores} <= names
    assert [score.tf for score in scores_of(pack, ["1h", "1m"], ["spread"])] == ["1m", "1h"]


@pytest.mark.parametrize("z", [math.nan, math.inf])
def test_a_z_that_is_no_number_is_a_bug(z: float) -> None:
    """Normalisation gives a number or NULL."""
    with pytest.raises(AssertionError, match="z is"):
        series_of([1.0, z])


def test_rows_must_come_in_time_order() -> None:
    """A row that comes twice would count twice."""
    series = series_of([1.0])
    with pytest.raises(AssertionError, match="after row"):
        series.add(START_MS, 1.0)


# --- published events --------------------------------------------------------------------------


def event(uid: int, event_class: str, severity: int) -> dict[str, Any]:
    """Return what of an event counts, and a field that does not."""
    return {"asset_uid": uid, "class": event_class, "severity": severity, "novelty": {}}


def rates_of(minutes: int, events: Sequence[dict[str, Any]], *, warmup: int = 0) -> Rates:
    """Return the rates of two assets over minutes, the second past warm-up in the second half."""
    rates = Rates()
    for minute in range(minutes):
        label_ms = START_MS + minute * MINUTE_MS
        for uid in (0, 1):
            cold = minute < (warmup if uid == 0 else minutes // 2)
            rates.add_row(row(uid, label_ms, "1m", warmup=cold))
        rates.add_row(row(0, label_ms, "15m", warmup=False))
    for each in events:
        rates.add_event(each)
    return rates


def by_class(rates: Rates) -> dict[str, ClassRate]:
    """Return the figures by class."""
    return {each.event_class: each for each in rates.figures()}


def test_rates_are_per_day_of_rows_past_warm_up() -> None:
    """Two days of one asset and one of the other; longer bars and warm-up are no time."""
    events = [event(0, "spike", 50 + i) for i in range(8)] + [event(1, "spike", 90)]
    spike = by_class(rates_of(2 * 1440, events))["spike"]
    assert (spike.events, spike.days, spike.per_day.value) == (9, 3.0, 3.0)
    assert spike.per_day.within
    assert [(a.asset, a.events, a.days, a.per_day.value) for a in spike.assets] == [
        ("S0", 8, 2.0, 4.0),
        ("S1", 1, 1.0, 1.0),
    ]
    assert [a.per_day.within for a in spike.assets] == [True, False]
    cold = by_class(rates_of(2 * 1440, events, warmup=1440))["spike"]
    assert (cold.days, cold.per_day.value) == (2.0, 4.5)


def test_severities_are_those_of_the_class() -> None:
    """Median and p90 beside their bands; without events nothing is said of them."""
    events = [event(i % 2, "shift", s) for i, s in enumerate((50, 60, 62, 70, 99))]
    found = by_class(rates_of(1440, [*events, event(0, "spike", 1)]))
    shift, quadrant = found["shift"], found["quadrant"]
    assert (shift.severity_median.value, shift.severity_median.within) == (62.0, True)
    assert (shift.severity_p90.value, shift.severity_p90.within) == (87.4, True)
    assert (quadrant.per_day.value, quadrant.per_day.within) == (0.0, True)
    assert (quadrant.severity_median.value, quadrant.severity_median.within) == (None, None)
    assert (found["spike"].severity_median.value, found["spike"].severity_p90.within) == (1, False)


def test_the_market_has_days_of_its_own() -> None:
    """Market-wide events are counted per day of the market, and none of them to an asset."""
    events = [event(-1, "synchrony", 70)] * 12 + [event(-1, "spike", 99)]
    found = by_class(rates_of(1440, events))
    synchrony = found["synchrony"]
    assert (synchrony.market_wide, synchrony.events, synchrony.days) == (True, 12, 1.0)
    assert (synchrony.per_day.value, synchrony.per_day.within) == (12.0, False)
    assert synchrony.assets == ()
    assert (found["spike"].events, found["spike"].days) == (0, 1.5)
    waiting = by_class(rates_of(1440, events, warmup=1440))["synchrony"]
    assert waiting.days == 0.5


def test_no_time_is_no_rate() -> None:
    """Before anything is past warm-up, and without rows, a rate is not known."""
    for rates in (Rates(), rates_of(10, [], warmup=10)):
        for each in rates.figures():
            if each.event_class != "spike":
                continue
            assert each.events == 0
            assert each.per_day.value in (None, 0.0)
    assert Rates().figures()[0].per_day.value is None
    assert [each.event_class for each in Rates().figures()] == list(EVENT_CLASSES)


def test_every_class_has_a_band() -> None:
    """Numerics 10; both bounds belong to it."""
    assert set(RATE_BANDS) == set(EVENT_CLASSES)
    assert [banded(x, (3.0, 20.0)).within for x in (2.99, 3.0, 20.0, 20.01, None)] == [
        *(False, True, True, False, None),
    ]


@given(st.lists(st.integers(0, 100), min_size=2, max_size=50), st.integers(1, 9))
def test_oracle_quantile(values: list[int], tenth: int) -> None:
    """As the statistics of the library cut it."""
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    assert quantile(sorted(values), tenth / 10) == pytest.approx(cuts[tenth - 1])


def test_examples() -> None:
    """The examples in the docstrings hold."""
    results = doctest.testmod(calibration)
    assert results.attempted
    assert not results.failed
