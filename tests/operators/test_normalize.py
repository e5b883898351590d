"""A row says how unusual its bar is, from nothing but stored bars.

What a longer bar is folded to is tested in test_rollup.py, amendments and storage in
test_normal_state.py; here is when it appears and what is computed on it.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import kernel
from operators.bars import bar_columns
from operators.baselines import Baseline, Decay, Feature, Robust, apply, dump, fresh
from operators.expressions import ColumnType, compile_expression
from operators.lattice import DAY_MS, HOUR_MS, MINUTE_MS, iso
from operators.normal_state import NormaliseState
from operators.normalize import Normalize
from operators.quality import grade
from operators.records import Bar, BarItem, Columns, Phase, Row
from packs.loader import Detector, Packs, load_packs
from packs.schema import TIMEFRAMES, Timeframe

PACKS = load_packs()
STEP = Normalize(PACKS)
CODEC = STEP.codec()
MIDNIGHT = 20_000 * DAY_MS
NINE = MIDNIGHT + 9 * HOUR_MS  # minute k of a test is the bar labelled 09:00 + k min
EVENING = MIDNIGHT + 20 * HOUR_MS

# numerics 2 and 3: what the independent drive of the baselines uses
ROBUST = Robust(200, 1000, 2.5, 0.9775599834528066, 1.4826, 4.0, 4.7215, 3.0, 1.0, 1e-9)
DECAYS = {
    "1m": Decay(a_m=0.000962241166216571, a_s=0.000481236377333771, growth=1.00048146807729),
    "15m": Decay(a_m=0.0143368013598124, a_s=0.00719427950873108, growth=1.0072464122237),
    "1h": Decay(a_m=0.0561256873183065, a_s=0.0284680588463941, growth=1.02930223664349),
}
FEATURES = {
    "vol": Feature("vol", "log1p", 0.05, None, 1.0),
    "ret_abs": Feature("ret_abs", "pow_3_8", 0.001, None, 1e-7),
    "ret_abs_5": Feature("ret_abs_5", "pow_3_8", 0.001, None, 1e-7),
    "spread": Feature("spread", "log", 0.10, None, 0.0),
    "oi_roc": Feature("oi_roc", "asinh", 0.05, 1e-6, 1e-6),
    "basis": Feature("basis", "asinh", 0.05, 0.01, 0.01),
    "cvd": Feature("cvd", "asinh", 0.05, 1.0, 1.0),
    "cvd_slope": Feature("cvd_slope", "asinh", 0.05, 1.0, 1.0),
}
DFUNDING = Feature("dfunding", "asinh", 0.05, 1e-7, 1e-7, ranked=False, scored=False)
WEEKLY = Decay(a_m=0.00411737634170262, a_s=0.00411737634170262, growth=1.00413439921924)
SOURCE_OF = {
    "vol": "v_total_m_1",
    "ret_abs": "ret_abs_m_1",
    "ret_abs_5": "ret_abs_m_5",
    "spread": "spread_mean_m_1",
    "oi_roc": "oi_roc_m_5",
    "basis": "basis_bp_m_5",
    "cvd": "cvd_delta_m_5",
    "cvd_slope": "cvd_slope_m_5",
}
Z_OF = {
    "vol": "z_vol_m_1",
    "ret_abs": "z_ret_abs_m_1",
    "ret_abs_5": "z_ret_abs_m_5",
    "spread": "z_spread_m_1",
    "oi_roc": "z_oi_roc_m_5",
    "basis": "z_basis_m_5",
    "cvd": "z_cvd_delta_m_5",
    "cvd_slope": "z_cvd_slope_m_5",
}
Q_OF = {"vol": "q_vol_m_1", "ret_abs": "q_ret_abs_m_1", "oi_roc": "q_oi_roc_m_5"}
AUDITED = ("vol", "ret_abs", "spread", "oi_roc", "basis")
DIVIDED = ("oi_roc", "basis", "cvd", "cvd_slope")
ON_LONGER = ("vol", "ret_abs", "spread", "oi_roc", "basis")  # the others are of minutes only
NAMES = {tf: PACKS.features.names(tf) for tf in TIMEFRAMES}
COLUMNS_OF = {
    "trades": ("v_buy_m_1", "v_sell_m_1", "v_total_m_1", "trade_count_m_1", "cvd_delta_m_1"),
    "quotes": (
        *("mid_close", "ret_s_30", "rv_m_1", "atr_proxy_m_1"),
        *("spread_mean_m_1", "spread_p95_m_1"),
    ),
    "context": (
        *("oi_staleness_ms", "oi_open", "oi_close", "oi_min", "oi_max", "oi_close_base"),
        *("mark_close", "funding_h_1", "basis_bp_m_1", "time_to_next_funding_sec"),
    ),
    "l2Book": ("obi_top5_mean_m_1", "depth_top5_quote_median_m_1"),
}


def stored(x: float | None) -> float | None:
    """Return a number as rows hold it: 12 significant digits, no negative zero."""
    return None if x is None else float(f"{x:.12g}") + 0.0


def bar(
    minute: int,
    *,
    mid: float | None = 100.0,
    volume: float = 100_000.0,
    trades: int = 50,
    delta: float = 0.0,
    spread: float | None = 0.5,
    oi: float | None = 50_000.0,
    basis: float | None = 2.0,
    funding: float | None = 1e-5,
    reasons: Sequence[str] = (),
    staleness: int | None = 100,
    revision: int = 0,
    start: int = NINE,
    without: Sequence[str] = (),
    extras: Columns | None = None,
    **more: Any,
) -> BarItem:
    """Return a minute as assembly sends it; `without` names feeds that are not subscribed."""
    label = start + minute * MINUTE_MS
    status, ordered = grade(reasons)
    mark = 100.0 if mid is None else mid
    levels = None if oi is None else stored(oi * mark)
    columns: Columns = {
        **dict.fromkeys(("open", "high", "low", "close", "mid_close"), mid),
        "ret_s_30": None if mid is None else 0.0,
        "rv_m_1": None if mid is None else 0.0,
        "atr_proxy_m_1": None if mid is None else 0.0,
        "v_buy_m_1": stored((volume + delta) / 2),
        "v_sell_m_1": stored((volume - delta) / 2),
        "v_total_m_1": volume,
        "trade_count_m_1": trades,
        "cvd_delta_m_1": delta,
        "spread_mean_m_1": spread,
        "spread_p95_m_1": spread,
        "oi_staleness_ms": 800,
        **dict.fromkeys(("oi_open", "oi_close", "oi_min", "oi_max"), levels),
        "oi_close_base": oi,
        "mark_close": None if oi is None else mark,
        "funding_h_1": funding,
        "basis_bp_m_1": basis,
        "time_to_next_funding_sec": (HOUR_MS - label % HOUR_MS) // 1000,
        "obi_top5_mean_m_1": 0.5,
        "depth_top5_quote_median_m_1": 80_000.0,
        "dropped_ticks": 0,
        "duplicate_ticks": 0,
        "ingest_ts": "2025-09-03T09:30:01.500Z",
        "ingest_lag_ms": 1500,
        "book_staleness_ms": staleness,
        "clock_skew_ms": 40,
        "dq_status": status,
        "dq_reasons": ordered,
        "source": "ws",
    }
    for feed in without:
        for name in COLUMNS_OF[feed]:
            del columns[name]
    assert more.keys() <= columns.keys()
    columns |= more
    phase = Phase(label, revision > 0, 1, label + 1500)
    return BarItem(phase, 0, Bar(0, "BTC", label, revision, columns, extras or {}))


def hole(minute: int) -> BarItem:
    """Return a minute that an imported file does not have."""
    label = NINE + minute * MINUTE_MS
    return BarItem(
        Phase(label, False, 1, label), 0, Bar(0, "BTC", label, 0, bar_columns(None, label))
    )


def market(count: int, *, seed: int = 1, start: int = NINE, first: int = 0) -> list[BarItem]:
    """Return minutes of a lively asset."""
    rng = random.Random(seed)
    mid, oi, items = 100.0, 50_000.0, []
    for minute in range(first, first + count):
        mid = float(f"{mid * math.exp(rng.gauss(0.0, 0.001)):.12g}")
        oi = float(f"{oi * math.exp(rng.gauss(0.0, 0.0005)):.12g}")
        volume = float(f"{math.exp(rng.gauss(12.0, 1.0)):.12g}")
        items.append(
            bar(
                minute,
                mid=mid,
                volume=volume,
                delta=float(f"{volume * rng.uniform(-0.5, 0.5):.12g}"),
                spread=rng.choice((0.5, 0.5, 0.75, 1.5)),
                oi=oi,
                basis=float(f"{rng.gauss(1.0, 3.0):.12g}"),
                funding=float(f"{rng.gauss(1e-5, 2e-6):.12g}"),
                start=start,
            )
        )
    return items


def run(
    items: Iterable[BarItem], state: NormaliseState | None = None, step: Normalize = STEP
) -> list[Row]:
    """Feed items to a fresh asset (or a given state) and return the rows."""
    state = state or step.initial()
    return [row for item in items for out in step.step(state, item) for row in out.rows]


@cache
def _warmed(count: int) -> bytes:
    state = STEP.initial()
    run(market(count), state)
    return CODEC.encode(state)


def warmed(count: int = 230) -> NormaliseState:
    """Return the state after so many minutes of a lively asset, labelled 09:00 and on."""
    return CODEC.decode(_warmed(count))


def baselines(state: NormaliseState, tf: Timeframe = "1m") -> dict[str, Baseline]:
    """Return the baselines of a timeframe by feature."""
    return state.tfs[tf].baselines


def dumps(state: NormaliseState, tf: Timeframe = "1m") -> dict[str, bytes]:
    """Return the canonical bytes of the baselines of a timeframe."""
    return {name: dump(baseline) for name, baseline in baselines(state, tf).items()}


def amended(item: BarItem) -> BarItem:
    """Return the same bar as an amendment."""
    assert item.bar is not None
    return BarItem(
        Phase(item.phase.minute_ms, True, 1, item.phase.minute_ms + 3000),
        item.asset_uid,
        msgspec.structs.replace(item.bar, revision=1),
    )


def final(minute: int, *, start: int = NINE) -> BarItem:
    """Return the final phase of a minute that was not amended."""
    label = start + minute * MINUTE_MS
    return BarItem(Phase(label, True, 1, label + 3000), 0, None)


def closed(items: Iterable[BarItem]) -> Iterator[BarItem]:
    """Let every minute become final."""
    for item in items:
        yield item
        label = item.phase.minute_ms
        yield BarItem(Phase(label, True, 1, label + 3000), 0, None)


def by_tf(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return rows by timeframe, in time order."""
    found: dict[str, list[Row]] = {tf: [] for tf in TIMEFRAMES}
    for row in rows:
        found[row.tf].append(row)
    return found


def named(row: Row) -> Columns:
    """Return the columns of a row by the names of the pack."""
    return {base: row.columns[name] for base, name in NAMES[row.tf].items()}  # type: ignore[index]


# --- returns -------------------------------------------------------------------------------------


def test_returns_look_back_by_one_five_and_fifteen_minutes() -> None:
    """A mid that rises by 1 a minute from 100."""
    rows = run(bar(k, mid=100.0 + k) for k in range(17))
    last = rows[16].columns
    assert last["ret_m_1"] == stored(1 / 115)
    assert last["ret_m_5"] == stored(5 / 111)
    assert last["ret_m_15"] == stored(15 / 101)
    assert last["ret_abs_m_1"] == last["ret_m_1"]
    assert [row.columns["ret_m_1"] is None for row in rows[:2]] == [True, False]
    assert [row.columns["ret_m_5"] is None for row in rows[4:6]] == [True, False]
    assert [row.columns["ret_m_15"] is None for row in rows[14:16]] == [True, False]


def test_a_missing_minute_breaks_only_the_returns_that_need_it() -> None:
    """Minute 6 was never sent, minute 7 had no mid.

    minute   0 1 2 3 4 5 . 7 8 9 10 11 12
    mid      x x x x x x . - x x x  x  x
    """
    mids = {k: 100.0 + k for k in range(13) if k != 6} | {7: None}
    rows = dict(zip(mids, run(bar(k, mid=m) for k, m in mids.items()), strict=True))
    known = {k: (row.columns["ret_m_1"], row.columns["ret_m_5"]) for k, row in rows.items()}
    assert known[7] == (None, None)
    assert known[8] == (None, stored(5 / 103))
    assert known[9] == (stored(1 / 108), stored(5 / 104))
    assert known[11][1] is None
    assert known[12][1] is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.none() | st.integers(9000, 11000)), min_size=1, max_size=30
    )
)
def test_oracle_returns_by_label(steps: list[tuple[int, int | None]]) -> None:
    """Every return is that of the two mids at its ends, whatever is missing between."""
    minute = 0
    mids: dict[int, float | None] = {}
    for gap, cents in steps:
        minute += gap
        mids[minute] = None if cents is None else cents / 100
    rows = run(bar(k, mid=m) for k, m in mids.items())
    for (k, mid), row in zip(mids.items(), rows, strict=True):
        for name, back in (("ret_m_1", 1), ("ret_m_5", 5), ("ret_m_15", 15)):
            before = mids.get(k - back)
            found = row.columns[name]
            if mid is None or before is None:
                assert found is None
            else:
                exact = Fraction(mid) / Fraction(before) - 1
                limited = max(min(exact, Fraction("0.2")), Fraction("-0.2"))
                wanted = limited if name == "ret_m_1" else exact
                assert math.isclose(found, wanted, rel_tol=1e-11, abs_tol=1e-15)


# --- cumulative volume delta ---------------------------------------------------------------------


def test_the_level_restarts_after_midnight() -> None:
    """The bar labelled 00:00 belongs to the day it closes.

    label   23:58  23:59  00:00 | 00:01  00:02
    delta      10     20     30      -5      7
    level      10     30     60      -5      2
    """
    start = MIDNIGHT + DAY_MS - 2 * MINUTE_MS
    deltas = (10.0, 20.0, 30.0, -5.0, 7.0)
    rows = run(bar(k, delta=d, start=start) for k, d in enumerate(deltas))
    assert [row.columns["cvd_level"] for row in rows] == [10.0, 30.0, 60.0, -5.0, 2.0]


def test_the_slope_does_not_see_midnight() -> None:
    """A steady flow has the same slope in every minute of the day, at the anchor too."""
    start = MIDNIGHT + DAY_MS - 6 * MINUTE_MS
    rows = run(bar(k, delta=250.0, start=start) for k in range(14))
    assert [row.columns["cvd_slope_m_5"] for row in rows] == [None] * 4 + [250.0] * 10


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 2), st.none() | st.integers(-(10**6), 10**6)),
        min_size=1,
        max_size=25,
    )
)
def test_oracle_level_and_slope(steps: list[tuple[int, int | None]]) -> None:
    """Level: the sum since midnight. Slope: least squares over five bars, all of them known."""
    start = MIDNIGHT + DAY_MS - 12 * MINUTE_MS
    minute, deltas = 0, {}
    for gap, delta in steps:
        minute += gap
        deltas[minute] = delta
    items = []
    for k, delta in deltas.items():
        item = bar(k, delta=float(delta or 0), start=start)
        assert item.bar is not None
        if delta is None:
            item.bar.columns["cvd_delta_m_1"] = None
        items.append(item)
    for k, row in zip(deltas, run(items), strict=True):
        same_day = [d for j, d in deltas.items() if j <= k and (j <= 12) == (k <= 12)]
        level = None if deltas[k] is None else float(sum(d for d in same_day if d is not None))
        assert row.columns["cvd_level"] == level
        five = [deltas.get(j) for j in range(k - 4, k + 1)]
        known = [d for d in five if d is not None]
        if len(known) < 5:
            assert row.columns["cvd_slope_m_5"] is None
        else:
            sums = [sum(known[: j + 1]) for j in range(5)]
            slope = Fraction(sum((j - 2) * s for j, s in enumerate(sums)), 10)
            assert row.columns["cvd_slope_m_5"] == stored(float(slope))


# --- open interest, basis, funding ---------------------------------------------------------------


def test_open_interest_changes_are_counted_in_coins() -> None:
    """A price that doubles is no new position (design D16); the change is valued at the mark."""
    coins = (1000.0, 1000.0, 1000.0, 1000.0, 1000.0, 1000.0, 1010.0)
    rows = [
        row.columns
        for row in run(bar(k, oi=oi, mark_close=100.0 * (1 + k)) for k, oi in enumerate(coins))
    ]
    assert [row["oi_roc_m_5"] for row in rows] == [None] * 5 + [0.0, 0.01]
    assert [row["oi_delta_m_5"] for row in rows] == [None] * 5 + [0.0, 7000.0]


def test_a_position_that_was_nothing_has_no_rate_of_change() -> None:
    """But the change itself is known."""
    rows = [row.columns for row in run(bar(k, oi=float(k)) for k in range(6))]
    assert (rows[5]["oi_roc_m_5"], rows[5]["oi_delta_m_5"]) == (None, 500.0)


def test_the_change_of_funding_looks_back_an_hour() -> None:
    """From any minute to the one 60 before, and to no other.

    minute   0   1 ...  59    60    61   62
    rate    1e-5 2e-5 …(NULL) 3e-5  6e-5 NULL
    """
    rates = {0: 1e-5, 1: 2e-5, 59: None, 60: 3e-5, 61: 6e-5, 62: None}
    rows = run(bar(k, funding=rates.get(k, 9.0)) for k in range(63))
    found = [row.columns["dfunding_h_1"] for row in rows]
    assert found == [None] * 60 + [2e-5, 4e-5, None]


def test_basis_is_smoothed_over_the_known_of_five_minutes() -> None:
    """NULL only where the minute itself has none."""
    values = (1.0, None, 3.0, 4.0, None, 6.0, 7.0)
    rows = run(bar(k, basis=basis) for k, basis in enumerate(values))
    assert [row.columns["basis_bp_m_5"] for row in rows] == [
        1.0, None, 2.0, stored(8 / 3), None, stored(13 / 3), 5.0,
    ]  # fmt: skip


known = st.none() | st.integers(0, 10**6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from((1, 1, 1, 2, 4, 5, 55, 60)), known, known, known, known),
        min_size=1,
        max_size=30,
    )
)
def test_oracle_positioning_by_label(steps: list[tuple[int, Any, Any, Any, Any]]) -> None:
    """Every change is that of the values at its two ends, whatever is missing between."""
    minute, cells = 0, dict[int, tuple[Any, ...]]()
    for gap, *values in steps:
        minute += gap
        cells[minute] = tuple(None if v is None else stored(v / 7) for v in values)
    items = [
        bar(k, oi=oi, basis=basis, funding=rate, mark_close=1.25 if oi is not None else None,
            cvd_delta_m_1=delta)
        for k, (oi, basis, rate, delta) in cells.items()
    ]  # fmt: skip
    nothing = (None,) * 4
    for k, row in zip(cells, run(items), strict=True):
        oi, basis, rate, _ = cells[k]
        columns, before = row.columns, cells.get(k - 5, nothing)[0]
        change = None if oi is None or before is None else Fraction(oi - before)
        assert columns["oi_delta_m_5"] == (None if change is None else stored(1.25 * float(change)))
        ratio = None if change is None or not before else stored(float(change) / before)
        assert columns["oi_roc_m_5"] == ratio
        earlier = cells.get(k - 60, nothing)[2]
        wanted = None if rate is None or earlier is None else stored(rate - earlier)
        assert columns["dfunding_h_1"] == wanted
        five = [cells.get(j, nothing) for j in range(k - 4, k + 1)]
        bases = [Fraction(cell[1]) for cell in five if cell[1] is not None]
        if basis is None:
            assert columns["basis_bp_m_5"] is None
        else:
            exact = float(sum(bases) / len(bases))
            assert math.isclose(columns["basis_bp_m_5"], exact, rel_tol=1e-11)
        deltas = [Fraction(cell[3]) for cell in five if cell[3] is not None]
        total = stored(float(sum(deltas))) if len(deltas) == 5 else None
        assert columns["cvd_delta_m_5"] == total
        assert (columns["cvd_slope_m_5"] is None) is (total is None)


def test_liquidations_are_never_known() -> None:
    """No public feed has them (design D8)."""
    for row in run(closed(market(16, first=0))):
        columns = named(row)
        assert columns["liq_count_m_5"] is columns["liq_notional_m_5"] is None
        assert columns["is_liq_cluster_m_5"] is None


# --- price sanity --------------------------------------------------------------------------------


@pytest.mark.parametrize(("mid", "clamped"), [(121.0, 0.2), (79.0, -0.2), (1e9, 0.2), (1e-6, -0.2)])
def test_a_return_beyond_belief_is_clamped_and_the_minute_is_stale(
    mid: float, clamped: float
) -> None:
    """Build plan 8.6: clamped for the record, never learned from, never scored."""
    state = warmed()
    run([bar(230, mid=100.0)], state)
    before = {name: (b.n, b.null_count) for name, b in baselines(state).items()}
    (row,) = run([bar(231, mid=mid)], state)
    assert row.columns["ret_m_1"] == clamped
    assert row.columns["ret_abs_m_1"] == 0.2
    assert row.columns["dq_status"] == "stale"
    assert row.columns["dq_reasons"] == ["price_sanity"]
    assert {row.columns[z] for z in Z_OF.values()} == {None}
    after = {name: (b.n, b.null_count) for name, b in baselines(state).items()}
    for name in ("ret_abs", "ret_abs_5"):
        n, nulls = before[name]
        before[name] = (n, nulls + 1)
    assert after == before
    assert row.extras == {}


@pytest.mark.parametrize(
    ("prices", "sane"),
    [
        ({"open": 99.0, "low": 99.0, "close": 101.0, "high": 101.0}, True),
        ({"open": 98.9, "low": 99.0, "close": 101.0, "high": 101.0}, False),
        ({"open": 99.0, "low": 99.0, "close": 101.1, "high": 101.0}, False),
        ({"open": 99.0, "low": 102.0, "close": 101.0, "high": 101.0}, False),
        ({"open": None, "low": 102.0, "close": 101.0, "high": 101.0}, True),
    ],
)
def test_prices_at_odds_make_a_stale_minute(prices: Columns, sane: bool) -> None:
    """Open or close outside [low, high]: nothing is learned from its return (build plan 8.6)."""
    state = warmed()
    before = {name: b.n for name, b in baselines(state).items()}
    (row,) = run([bar(230, **prices)], state)
    assert (row.columns["dq_status"], row.columns["dq_reasons"]) == (
        ("ok", []) if sane else ("stale", ["price_sanity"])
    )
    moved = {name for name, b in baselines(state).items() if b.n > before[name]}
    assert moved == (set(FEATURES) if sane else set())


@pytest.mark.parametrize("mid", [120.0, 80.0])
def test_a_return_at_the_bound_is_believed(mid: float) -> None:
    """20 % is the last return that counts."""
    (_, row) = run([bar(0), bar(1, mid=mid)])
    assert row.columns["dq_status"] == "ok"
    assert abs(row.columns["ret_m_1"]) == 0.2


def test_price_sanity_joins_the_other_reasons_in_their_order() -> None:
    """And the bar that came in stays as it was."""
    item = bar(1, mid=150.0, trades=0, volume=0.0, reasons=("quiet", "gap"))
    assert item.bar is not None
    before = {**item.bar.columns, "dq_reasons": list(item.bar.columns["dq_reasons"])}
    (_, row) = run([bar(0), item])
    assert row.columns["dq_reasons"] == ["gap", "price_sanity", "quiet"]
    assert item.bar.columns == before


# --- baselines -----------------------------------------------------------------------------------


def test_oracle_every_baseline_column_equals_an_independent_drive() -> None:
    """Five hours across midnight with holes, quiet, partial and stale minutes."""
    items = market(300, seed=3, start=EVENING)
    odd: dict[int, dict[str, Any]] = {
        40: {"reasons": ("clock_late",)},
        41: {"reasons": ("gap",)},
        42: {"trades": 0, "volume": 0.0, "reasons": ("quiet",)},
        150: {"spread": None, "mid": None, "reasons": ("book_one_sided",)},
        251: {"reasons": ("clock_late",)},
        252: {"reasons": ("book_stale",)},
        253: {"spread": 0.0},
        254: {"trades": 0, "volume": 0.0, "reasons": ("quiet",)},
        255: {"volume": 5e7, "mid": 104.0},
    }
    for k, changes in odd.items():
        items[k] = bar(k, **{"start": EVENING, "mid": 100.0, **changes})
    del items[200]
    rows = run(items)
    states = {name: fresh(ROBUST) for name in FEATURES}
    mids: dict[int, float | None] = {}
    rolled = set()
    for item, row in zip(items, rows, strict=True):
        assert item.bar is not None
        label, raw, columns = item.bar.exchange_ts_ms, item.bar.columns, row.columns
        mids[label] = raw["mid_close"]
        now, before = mids[label], mids.get(label - MINUTE_MS)
        xs = {name: columns[source] for name, source in SOURCE_OF.items()}
        xs |= {
            "vol": raw["v_total_m_1"] if raw["trade_count_m_1"] else None,
            "ret_abs": None if now is None or before is None else stored(abs(now / before - 1)),
            "spread": raw["spread_mean_m_1"] or None,
        }
        # the stored return is (now - before) / before; allow its last digit
        if xs["ret_abs"] is not None:
            assert math.isclose(columns["ret_abs_m_1"], xs["ret_abs"], rel_tol=1e-11, abs_tol=1e-14)
            xs["ret_abs"] = columns["ret_abs_m_1"]
        on_floor = []
        for name, feature in FEATURES.items():
            expected = apply(
                states[name],
                xs[name],
                label_ms=label,
                dq=raw["dq_status"],
                feature=feature,
                decay=DECAYS["1m"],
                robust=ROBUST,
            )
            assert columns[Z_OF[name]] == stored(expected.z), (name, label)
            if name in Q_OF:
                assert columns[Q_OF[name]] == stored(expected.q)
            if name in AUDITED:
                assert columns[f"b_mean_{name}"] == stored(expected.mean)
                assert columns[f"b_scale_{name}"] == stored(expected.scale)
            if name in DIVIDED:
                assert columns[f"b_divisor_{name}"] == stored(expected.divisor)
            clamp = row.extras.get("clamp", {}).get(Z_OF[name])
            bounds = (stored(expected.clamp_lo), stored(expected.clamp_hi))
            assert clamp == (None if expected.z is None else bounds)
            if clamp is not None and bounds != (-4.7215, 4.7215):
                rolled.add(name)
            if expected.floored and expected.z is not None:
                on_floor.append(name)
            if name == "vol":
                assert columns["q_confidence"] == expected.confidence
        assert columns["scale_floored"] == on_floor
    assert rolled == set(FEATURES)  # the day roll after warm-up was part of the drive


def test_z_is_null_until_the_200th_accepted_sample() -> None:
    """Volume has a sample from the first bar, returns from the second."""
    rows = [row.columns for row in run(market(206))]
    assert [rows[k]["z_vol_m_1"] is None for k in (198, 199)] == [True, False]
    assert [rows[k]["z_spread_m_1"] is None for k in (198, 199)] == [True, False]
    assert [rows[k]["z_ret_abs_m_1"] is None for k in (199, 200)] == [True, False]
    assert [rows[k]["z_ret_abs_m_5"] is None for k in (203, 204)] == [True, False]
    assert [rows[k]["z_basis_m_5"] is None for k in (198, 199)] == [True, False]
    for name in ("z_oi_roc_m_5", "q_oi_roc_m_5", "b_mean_oi_roc", "b_divisor_oi_roc"):
        assert [rows[k][name] is None for k in (203, 204)] == [True, False]
    for name in ("z_cvd_delta_m_5", "z_cvd_slope_m_5", "b_divisor_cvd", "b_divisor_cvd_slope"):
        assert [rows[k][name] is None for k in (202, 203)] == [True, False]
    assert all(row["z_vol_m_1"] is row["q_vol_m_1"] is None for row in rows[:199])
    assert [rows[k]["q_confidence"] for k in (198, 199)] == ["none", "low"]
    assert [rows[k]["warmup"] for k in (198, 203, 204, 205)] == [True, True, False, False]


def test_only_accepted_samples_end_the_warm_up() -> None:
    """Ten stale and ten partial minutes in between make it twenty minutes longer."""
    items = [bar(k, reasons=("gap",)) for k in range(10)]
    items += [bar(k, reasons=("clock_late",)) for k in range(10, 20)]
    items += market(202, first=20)
    rows = [row.columns for row in run(items)]
    assert [rows[k]["z_vol_m_1"] is None for k in (218, 219)] == [True, False]


def test_warmup_counts_only_feeds_that_are_there() -> None:
    """Without quotes there is no spread and no mid to wait for; the rate of change of open
    interest has its first sample at the sixth bar."""
    rows = [row.columns for row in run(bar(k, without=["quotes"]) for k in range(206))]
    assert [rows[k]["warmup"] for k in (203, 204)] == [True, False]
    assert rows[205]["z_spread_m_1"] is None
    assert rows[205]["z_ret_abs_m_1"] is None
    fed_but_null = [row.columns for row in run(bar(k, spread=None) for k in range(220))]
    assert fed_but_null[219]["warmup"] is True


def looked_at(detector: Detector) -> set[str]:
    """Return the columns that a detector reads or publishes as its inputs."""
    support = detector.secondary.names if detector.secondary is not None else ()
    return {*detector.required, *detector.inputs, *support}


@pytest.mark.parametrize(
    ("changes", "waits"),
    [({}, True), ({"mode": "shadow"}, True), ({"mode": "off"}, False), ({"enabled": False}, False)],
)
def test_warmup_counts_only_features_that_an_enabled_detector_reads(
    changes: dict[str, Any], waits: bool
) -> None:
    """A book that is never two-sided matters as long as somebody looks at the spread."""
    detectors = tuple(
        replace(d, **changes) if "z_spread_m_1" in looked_at(d) else d for d in PACKS.detectors
    )
    step = Normalize(replace(PACKS, detectors=detectors))
    rows = run([bar(k, spread=None) for k in range(206)], step=step)
    assert rows[-1].columns["warmup"] is waits


def test_warmup_counts_a_z_that_only_supports() -> None:
    """The secondary is used by a detector too."""
    by_id = {detector.detector_id: detector for detector in PACKS.detectors}
    supported = replace(
        by_id["spike.price_spike_up_m_1"],
        secondary=by_id["shift.spread_stress_m_1"].primary,
    )
    step = Normalize(replace(PACKS, detectors=(supported,)))
    rows = run([bar(k, spread=None) for k in range(203)], step=step)
    assert rows[-1].columns["warmup"] is True


@pytest.mark.parametrize(("reason", "scored"), [("clock_late", True), ("clock_stale", False)])
def test_a_minute_that_is_not_ok_moves_no_baseline(reason: str, scored: bool) -> None:
    """Partial is scored against the state as it is, stale is not scored."""
    state = warmed()
    before = dumps(state)
    (row,) = run([bar(230, mid=103.0, volume=9e6, spread=4.0, reasons=(reason,))], state)
    assert dumps(state) == before
    for z in Z_OF.values():
        assert (row.columns[z] is not None) is scored
    assert (row.columns["q_vol_m_1"] is not None) is scored
    assert row.columns["b_mean_vol"] is not None


def test_a_quiet_minute_gives_no_volume_sample() -> None:
    """No print is not a volume of zero; only the counter of NULLs moves."""
    state = warmed()
    baseline = baselines(state)["vol"]
    before = (baseline.n, baseline.m, baseline.v, baseline.sketch.t, baseline.null_count)
    (row,) = run([bar(230, trades=0, volume=0.0, reasons=("quiet",))], state)
    baseline = baselines(state)["vol"]
    after = (baseline.n, baseline.m, baseline.v, baseline.sketch.t, baseline.null_count)
    assert after == (*before[:-1], before[-1] + 1)
    assert row.columns["z_vol_m_1"] is row.columns["q_vol_m_1"] is None
    assert row.columns["z_ret_abs_m_1"] is not None


@pytest.mark.parametrize(("volume", "samples"), [(0.0, 0), (500.0, 1)])
def test_where_prints_are_not_counted_no_volume_means_no_print(volume: float, samples: int) -> None:
    """An imported bar may not know its number of trades."""
    item = bar(0, volume=volume)
    assert item.bar is not None
    item.bar.columns["trade_count_m_1"] = None
    state = STEP.initial()
    run([item], state)
    assert baselines(state)["vol"].n == samples


def test_a_floored_scale_is_flagged() -> None:
    """A book that is always one tick wide: the row says whose scale is the floor (numerics 2)."""
    items = market(210)
    for item in items:
        assert item.bar is not None
        item.bar.columns["spread_mean_m_1"] = 1.0
    items.append(bar(210, spread=None))
    rows = run(items)
    assert rows[209].columns["b_scale_spread"] == 0.1
    assert rows[209].columns["z_spread_m_1"] == 0.0
    flagged = ["spread" in row.columns["scale_floored"] for row in rows]
    assert flagged == [False] * 199 + [True] * 11 + [False]


def hours(count: int, seed: int = 4) -> list[BarItem]:
    """Return minutes at full hours only, whose funding wanders."""
    rng = random.Random(seed)
    return [bar(60 * k, funding=stored(rng.gauss(0.0, 1e-5))) for k in range(count)]


def test_oracle_the_divisor_of_funding_is_sampled_hourly() -> None:
    """Its baseline moves on full hours, by a memory of a week; it is known from 200 changes on.

    hour     0    1 ... 199  200  201
    change   -    1 ... 199  200  201
    """
    state, alone, nulls = STEP.initial(), fresh(ROBUST), []
    for item, row in zip(hours(204), run(hours(204), state), strict=True):
        assert item.bar is not None
        columns = row.columns
        expected = apply(
            alone,
            columns["dfunding_h_1"],
            label_ms=item.bar.exchange_ts_ms,
            dq="ok",
            feature=DFUNDING,
            decay=WEEKLY,
            robust=ROBUST,
        )
        assert columns["b_divisor_dfunding"] == stored(expected.divisor)
        nulls.append(columns["b_divisor_dfunding"] is None)
    assert nulls == [True] * 200 + [False] * 4
    assert dump(baselines(state)["dfunding"]) == dump(alone)
    assert alone.null_count == 1, "the first hour has none before it"


def test_between_full_hours_the_divisor_of_funding_stands() -> None:
    """It is on every row, and what comes in between is neither a sample nor a NULL."""
    state = STEP.initial()
    last = run(hours(203), state)[-1].columns["b_divisor_dfunding"]
    before = dump(baselines(state)["dfunding"])
    between = [bar(60 * 202 + k, funding=k * 1e-3 if k % 7 else None) for k in range(1, 60)]
    between[20] = bar(60 * 202 + 21, reasons=("gap",))
    rows = run(between, state)
    assert {row.columns["b_divisor_dfunding"] for row in rows} == {last}
    assert dump(baselines(state)["dfunding"]) == before
    (row,) = run([bar(60 * 203, funding=None)], state)
    assert row.columns["b_divisor_dfunding"] == last
    assert baselines(state)["dfunding"].null_count == 2
    (row,) = run([bar(60 * 204, funding=1e-3)], state)
    assert row.columns["dfunding_h_1"] is None
    (row,) = run([bar(60 * 205, funding=2e-3)], state)
    assert row.columns["b_divisor_dfunding"] > last


def test_before_the_200th_hour_nothing_is_said_of_funding() -> None:
    """Neither on full hours nor between them."""
    state = STEP.initial()
    run(hours(150), state)
    rows = run([bar(60 * 149 + k) for k in range(1, 61)], state)
    assert {row.columns["b_divisor_dfunding"] for row in rows} == {None}


# --- amendments ----------------------------------------------------------------------------------

late_bars = st.builds(
    lambda mid, volume, spread, trades, reasons: {
        "mid": mid / 100,
        "volume": float(volume if trades else 0),
        "spread": spread / 4,
        "trades": trades,
        "reasons": reasons,
    },
    st.integers(9_500, 10_500),
    st.integers(1, 10**7),
    st.integers(0, 20),
    st.sampled_from((0, 40)),
    st.sampled_from(((), ("clock_late",), ("gap",), ("quiet",))),
)


def test_a_final_phase_without_amendment_only_makes_the_minute_final() -> None:
    """It passes on an empty item, so that the join can count; nothing can be taken back now."""
    state = warmed()
    before = msgspec.structs.replace(state, undo=None)
    assert state.undo is not None
    item = final(229)
    (out,) = STEP.step(state, item)
    assert (out.phase, out.asset_uid, out.rows) == (item.phase, 0, ())
    assert state == before
    with pytest.raises(AssertionError):
        run([amended(bar(229))], state)


def test_an_amendment_without_its_bar_is_a_bug() -> None:
    """Revision 1 of a minute that was never sealed."""
    with pytest.raises(AssertionError):
        run([amended(bar(0))])


# --- gates ---------------------------------------------------------------------------------------


def gates(items: Iterable[BarItem]) -> list[tuple[bool, int]]:
    """Return illiquidity_hit and illiq_penalty of each row."""
    return [(r.columns["illiquidity_hit"], r.columns["illiq_penalty"]) for r in run(items)]


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        (0.0, (True, 0)),
        (9_999.99, (True, 0)),
        (10_000.0, (False, 1)),
        (12_499.0, (False, 1)),
        (12_500.0, (False, 0)),
        (1e6, (False, 0)),
    ],
)
def test_the_floor_of_volume(volume: float, expected: tuple[bool, int]) -> None:
    """10 000 at least, and near it up to a quarter more (build plan 8.3, 10.7)."""
    assert gates([bar(0, volume=volume)]) == [expected]


@pytest.mark.parametrize(
    ("volume", "expected"),
    [(40_000.0, (True, 0)), (55_000.0, (False, 1)), (70_000.0, (False, 0))],
)
def test_the_floor_grows_with_the_median(volume: float, expected: tuple[bool, int]) -> None:
    """Half a percent of the usual 10 million is 50 000, give or take a bin of the sketch."""
    usual = [bar(k, volume=1e7) for k in range(5)]
    assert gates([*usual, bar(5, volume=volume)])[-1] == expected


@pytest.mark.parametrize(
    ("spread", "expected"),
    [(11.0, (False, 0)), (14.0, (False, 1)), (16.0, (True, 0)), (None, (False, 0))],
)
def test_the_cap_of_the_spread(spread: float | None, expected: tuple[bool, int]) -> None:
    """15 times the usual spread of 1, and near it from four fifths of that on."""
    usual = [bar(k, spread=1.0) for k in range(5)]
    assert gates([*usual, bar(5, spread=spread)])[-1] == expected


def test_the_first_minute_has_no_cap() -> None:
    """A spread is wide only in comparison, and never in comparison with itself."""
    assert gates([bar(0, spread=50.0)]) == [(False, 0)]


def test_an_amended_bar_is_judged_by_the_minutes_before_it() -> None:
    """Not by the medians that its own sealed version left."""
    sealed = [bar(0, spread=1.0), bar(1, spread=0.01, volume=1e9)]
    assert gates([*sealed, amended(bar(1, spread=1.0))]) == [(False, 0)] * 3


def test_unknown_volume_is_illiquid() -> None:
    """What is not known to trade is not trusted to."""
    assert gates([hole(0)]) == [(True, 0)]


def test_medians_come_from_accepted_minutes() -> None:
    """Close to the exact medians; a stale minute leaves them alone."""
    items, state = market(150), STEP.initial()
    run(items, state)
    bars = [item.bar.columns for item in items if item.bar is not None]
    exact = statistics.median(columns["v_total_m_1"] for columns in bars)
    gate = state.tfs["1m"].volume
    median = kernel.usual(gate)
    assert median is not None
    assert abs(median / exact - 1) < 0.06
    assert gate.settled is None, "no day is over"
    run([bar(150, volume=1e12, reasons=("gap",))], state)
    assert median == kernel.usual(state.tfs["1m"].volume)


def days(
    volumes: Sequence[float | None], per_day: int = 3, spread: float = 1.0, **more: Any
) -> list[BarItem]:
    """Return a few minutes on each day, all of one volume; None is a day without a minute."""
    return [
        bar(24 * 60 * day + k, volume=volume, spread=spread, **more)
        for day, volume in enumerate(volumes)
        if volume is not None
        for k in range(per_day)
    ]


def rush(day: int) -> list[BarItem]:
    """Return minutes that move the sketch's median to a billion, then one of a million."""
    minutes = [bar(24 * 60 * day + 10 + k, volume=1e9, spread=1.0) for k in range(60)]
    return [*minutes, bar(24 * 60 * day + 100, volume=1e6, spread=1.0)]


@pytest.mark.parametrize(
    ("volumes", "illiquid"),
    [
        ([1e7] * 6, True),
        ([1e7] * 7, False),
        ([1e7] * 9, False),
        ([1e12, *[1e7] * 7], False),
        ([1e7, None, *[1e7] * 6], True),
        ([1e7, None, *[1e7] * 7], False),
    ],
    ids=["six", "seven", "nine", "the eighth is forgotten", "one missing", "whole again"],
)
def test_after_seven_completed_days_their_median_counts(
    volumes: list[float | None], illiquid: bool
) -> None:
    """Not today's, and not what is older: half a percent of 10 million is 50 000.

    Until then, or with a day missing, the sketch's median stands in, which has seen the rush:
    half a percent of a billion is 5 million (build plan 8.3).
    """
    rows = run([*days(volumes), *rush(len(volumes))])
    assert rows[-1].columns["illiquidity_hit"] is illiquid


def test_medians_change_with_the_day_and_the_first_minute_sees_them() -> None:
    """The bar labelled 00:00 still belongs to the day it closes.

    day      0 ... 6               | 7
    label    ...   23:59   00:00   | 00:01
    """
    start = NINE - 9 * HOUR_MS
    past = [bar(24 * 60 * d + 30, volume=1e9, start=start) for d in range(7)]
    edge = [bar(24 * 60 * 7 + k, volume=1e6, spread=1.0, start=start) for k in (-1, 0, 1)]
    state = STEP.initial()
    run(past, state)
    gate, found = state.tfs["1m"].volume, []
    for item in edge:
        run([item], state)
        found.append(gate.settled)
    assert found[:2] == [None, None]
    assert found[2] is not None
    assert abs(found[2] / 1e9 - 1.0) < 0.125


def test_the_first_minute_of_a_day_is_judged_by_the_new_medians() -> None:
    """Partial minutes count for the days but not for the sketch: 10 million against a billion."""
    start = NINE - 9 * HOUR_MS
    late = [
        bar(24 * 60 * d + k, volume=1e7, reasons=("clock_late",), start=start)
        for d in range(7)
        for k in range(10, 15)
    ]
    sound = [bar(24 * 60 * d + 20, volume=1e9, start=start) for d in range(7)]
    past = sorted([*late, *sound], key=lambda item: item.phase)
    edge = [bar(24 * 60 * 7 + k, volume=1e6, start=start) for k in (0, 1)]
    hits = [row.columns["illiquidity_hit"] for row in run([*past, *edge])]
    assert hits[-2:] == [True, False]


@pytest.mark.parametrize(
    ("reasons", "counts"), [(("clock_late",), True), (("quiet",), True), (("gap",), False)]
)
def test_stale_minutes_make_no_day(reasons: tuple[str, ...], counts: bool) -> None:
    """A partial minute, and one in which nobody traded, are part of what is usual."""
    state = STEP.initial()
    run([*days([1e7] * 6), *(bar(24 * 60 * 6, volume=1e7, reasons=reasons),)], state)
    run([bar(24 * 60 * 7)], state)
    assert (state.tfs["1m"].volume.settled is not None) is counts


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 400)), min_size=1, max_size=5),
        min_size=7,
        max_size=9,
    )
)
def test_oracle_settled_medians(weeks: list[list[tuple[int, int]]]) -> None:
    """Within a bin, an eighth, of the exact lower median of the last seven days' minutes."""
    items = [
        bar(24 * 60 * day + k, volume=float(volume), spread=spread / 4)
        for day, minutes in enumerate(weeks)
        for k, (volume, spread) in enumerate(minutes)
    ]
    state = STEP.initial()
    run([*items, bar(24 * 60 * len(weeks))], state)
    own = state.tfs["1m"]
    for gate, which, unit in ((own.volume, 0, 1.0), (own.spread, 1, 0.25)):
        values = [cell[which] * unit for minutes in weeks[-7:] for cell in minutes]
        exact = statistics.median_low(values)
        assert gate.settled is not None
        assert exact / 1.125 <= gate.settled <= exact * 1.125


def test_the_settled_spread_caps_the_spread() -> None:
    """15 times the week's median, whatever today's spreads are."""
    week = days([1e6] * 7, spread=1.0)
    today = [bar(24 * 60 * 7 + k, volume=1e6, spread=100.0) for k in range(60)]
    spreads = (13.0, 17.5)
    last = [bar(24 * 60 * 7 + 90 + k, volume=1e6, spread=x) for k, x in enumerate(spreads)]
    hits = [row.columns["illiquidity_hit"] for row in run([*week, *today, *last])]
    assert hits == [False] * 21 + [True] * 60 + [False, True]


@pytest.mark.parametrize(
    ("staleness", "penalty"), [(None, 0), (0, 0), (1500, 0), (1501, 1), (3000, 1), (3001, 0)]
)
def test_a_book_near_its_limit_costs_a_penalty(staleness: int | None, penalty: int) -> None:
    """Build plan 10.7: in (1500, 3000] ms."""
    (row,) = run([bar(0, staleness=staleness)])
    assert row.columns["dq_penalty"] == penalty


# --- relative strength ---------------------------------------------------------------------------


def strength(row: Row) -> tuple[float, bool]:
    """Recompute plan 6.3 from the row, in exact arithmetic."""
    c = row.columns
    ret, z_ret, z_vol = c["ret_m_5"], c["z_ret_abs_m_1"], c["z_vol_m_1"]
    roc, z_oi = c["oi_roc_m_5"], c["z_oi_roc_m_5"]
    score = Fraction(0)
    if ret is not None and z_ret is not None:
        score += Fraction("0.5") * Fraction(z_ret) * ((ret > 0) - (ret < 0))
    if z_vol is not None:
        score += Fraction("0.3") * Fraction(z_vol)
    if z_oi is not None:
        score += Fraction("0.2") * ((roc > 0) - (roc < 0)) * min(abs(Fraction(z_oi)), 3)
    return float(score), None in (ret, z_ret, z_vol) or (roc is not None and z_oi is None)


def test_oracle_strength() -> None:
    """In warm-up it is zero and incomplete, later the formula of plan 6.3."""
    items = market(240)
    items[215] = bar(215, trades=0, volume=0.0, reasons=("quiet",))
    items[218] = bar(218, mid=None, reasons=("book_one_sided",))
    items[228] = bar(228, oi=None, reasons=("oi_stale",))
    rows = run(items)
    for row in rows:
        score, incomplete = strength(row)
        assert math.isclose(row.columns["rs_score_m_5"], score, rel_tol=1e-11, abs_tol=1e-12)
        assert row.columns["rs_incomplete"] is incomplete
    assert {row.columns["rs_score_m_5"] for row in rows[:199]} == {0.0}
    assert [rows[k].columns["rs_incomplete"] for k in (198, 214, 215, 218, 223, 224)] == [
        True, False, True, True, True, False,
    ]  # fmt: skip
    assert [rows[k].columns["z_oi_roc_m_5"] is None for k in (228, 233, 234)] == [True, True, False]
    assert not any(rows[k].columns["rs_incomplete"] for k in range(224, 240))


def test_a_flat_price_has_no_direction() -> None:
    """The return of five minutes is 0: its term is 0, but nothing is missing."""
    state = warmed()
    rows = run([bar(230 + k, mid=100.0 + k % 5) for k in range(6)], state)
    last = rows[-1].columns
    assert last["ret_m_5"] == 0.0
    assert last["rs_incomplete"] is False
    assert (last["oi_roc_m_5"], last["z_vol_m_1"] is None) == (0.0, False)
    assert last["rs_score_m_5"] == stored(0.3 * last["z_vol_m_1"])


def test_strength_has_a_third_term_of_at_most_three_sigma() -> None:
    """The calm hour ends with a rush of open interest in, then out, then with nothing new."""
    items = market(230)
    for k, oi in enumerate((60_000.0, 40_000.0, None, 40_000.0, 40_000.0), 220):
        items[k] = bar(k, oi=oi)
    terms = []
    for row in run(items):
        c = row.columns
        score, _ = strength(row)
        assert math.isclose(c["rs_score_m_5"], score, rel_tol=1e-11, abs_tol=1e-12)
        without = msgspec.structs.replace(row, columns={**c, "z_oi_roc_m_5": None})
        terms.append(score - strength(without)[0])
    assert set(terms[:199]) == {0.0}
    assert math.isclose(terms[220], 0.2 * 3.0)
    assert math.isclose(terms[221], -0.2 * 3.0)
    assert terms[222] == 0.0


@pytest.mark.parametrize(
    ("oi_known_from", "incomplete"),
    [(None, False), (0, False), (200, True)],
)
def test_strength_misses_open_interest_only_where_there_is_some(
    oi_known_from: int | None, incomplete: bool
) -> None:
    """A spot asset has no such term; a perp whose baseline is young misses it (plan 6.3)."""
    items = market(230)
    for k, item in enumerate(items):
        assert item.bar is not None
        if oi_known_from is None or k < oi_known_from:
            item.bar.columns["oi_close_base"] = None
    last = run(items)[-1].columns
    assert last["rs_incomplete"] is incomplete
    assert (last["oi_roc_m_5"] is None) is (oi_known_from is None)
    assert (last["z_oi_roc_m_5"] is None) is (oi_known_from != 0)


# --- the row -------------------------------------------------------------------------------------


def numbers(value: Any) -> list[float]:
    """Return all floats in a value."""
    if isinstance(value, float):
        return [value]
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    return [n for item in value for n in numbers(item)] if isinstance(value, list | tuple) else []


def assert_well_formed(row: Row) -> None:
    """Check that a row has the columns of the pack, and only numbers that can be stored."""
    assert set(row.columns) == set(NAMES[row.tf].values())  # type: ignore[index]
    for number in numbers([row.columns, row.extras]):
        assert math.isfinite(number)
        assert number == float(f"{number:.12g}")
        assert math.copysign(1.0, number) == 1.0 or number != 0.0


@pytest.mark.parametrize(
    "item",
    [
        bar(0),
        *(bar(0, without=[feed]) for feed in COLUMNS_OF),
        bar(0, without=list(COLUMNS_OF)),
        bar(0, mid=None),
        bar(0, oi=None, basis=None, funding=None),
        hole(0),
    ],
    ids=["full", *(f"no {feed}" for feed in COLUMNS_OF), "nothing", "one-sided", "no oi", "hole"],
)
def test_every_row_has_the_columns_of_the_pack(item: BarItem) -> None:
    """All of them and no other, whatever feeds there are."""
    (row,) = run([item])
    assert_well_formed(row)
    assert (row.asset_uid, row.symbol, row.tf, row.revision) == (0, "BTC", "1m", 0)
    pack = (PACKS.features.feature_pack, PACKS.features.pack_rev)
    assert (row.columns["feature_pack"], row.columns["pack_rev"]) == pack


@settings(max_examples=40, deadline=None)
@given(st.lists(late_bars, min_size=1, max_size=12), st.sampled_from((0, 196, 230)))
def test_property_rows_hold_only_numbers_that_can_be_stored(
    minutes: list[dict[str, Any]], base: int
) -> None:
    """Twelve digits, finite, no negative zero; before, at and after the end of warm-up."""
    state = warmed(base) if base else STEP.initial()
    for row in run([bar(base + k, **minute) for k, minute in enumerate(minutes)], state):
        assert_well_formed(row)


def test_a_hole_in_a_bars_file_gives_stale_rows() -> None:
    """Two minutes are missing; returns and slope come back one by one, baselines do not notice.

    minute   225 … 229 [230 231] 232 … 236 237
    """
    state = warmed()
    before = {name: (b.n, b.m, b.v) for name, b in baselines(state).items()}
    missing = [row.columns for row in run([hole(230), hole(231)], state)]
    for columns in missing:
        assert (columns["dq_status"], columns["dq_reasons"]) == ("stale", ["gap"])
        for name in ("close", "mid_close", "ret_m_1", "v_total_m_1", "cvd_level", *Z_OF.values()):
            assert columns[name] is None
        assert columns["illiquidity_hit"] is True
        assert (columns["rs_score_m_5"], columns["rs_incomplete"]) == (0.0, True)
    assert {name: (b.n, b.m, b.v) for name, b in baselines(state).items()} == before
    later = [row.columns for row in run(market(6, first=232), state)]
    assert [c["dq_status"] for c in later] == ["ok"] * 6
    assert [c["ret_m_1"] is None for c in later] == [True] + [False] * 5
    assert [c["ret_m_5"] is None for c in later] == [False] * 3 + [True] * 2 + [False]
    assert [c["cvd_slope_m_5"] is None for c in later] == [True] * 4 + [False] * 2


def test_both_released_packs_give_the_same_rows() -> None:
    """Detectors decide what warm-up waits for, nothing else, and both packs read the same z."""
    items = market(3)
    assert run(items, step=Normalize(_released("v0.1"))) == run(items)


def _released(version: str) -> Packs:
    return load_packs(detectors=Path(__file__).parents[2] / f"packs/detectors/{version}.yaml")


def test_later_returns_do_not_look_back_to_a_book_from_before_an_outage() -> None:
    """A mid that outlived its book is no price of that minute.

    minute   0 ... 4   5 (outage, book 60 s old)   6
    mid      100       100 carried                 103
    """
    fresh = [bar(k, mid=100.0) for k in range(5)]
    carried = bar(5, mid=100.0)
    assert carried.bar is not None
    carried.bar.columns["book_staleness_ms"] = 60_000
    rows = run([*fresh, carried, bar(6, mid=103.0)])
    assert rows[5].columns["mid_close"] == 100.0
    assert rows[6].columns["ret_m_1"] is None
    assert rows[6].columns["ret_m_5"] == 0.03


# --- longer rows: when ---------------------------------------------------------------------------


def seen(items: Iterable[BarItem]) -> list[tuple[str, int, bool]]:
    """Return timeframe, minute after 09:00 and phase of each longer row."""
    state = STEP.initial()
    return [
        (row.tf, (row.exchange_ts_ms - NINE) // MINUTE_MS, item.phase.final)
        for item in items
        for row in run([item], state)
        if row.tf != "1m"
    ]


def test_longer_rows_come_with_the_final_phase_of_their_last_minute() -> None:
    """Never with a seal, never in between (build plan 15.3).

    minute   0     15    30    45    60
    15m      x     x     x     x     x
    1h       x                       x
    """
    found = seen(closed(market(62)))
    assert found == [
        ("15m", 0, True), ("1h", 0, True), ("15m", 15, True), ("15m", 30, True),
        ("15m", 45, True), ("15m", 60, True), ("1h", 60, True),
    ]  # fmt: skip


def test_a_minute_that_is_only_sealed_closes_nothing() -> None:
    """The quarter waits for the grace."""
    assert seen(market(62)) == []


def test_an_amended_last_minute_comes_before_the_rows_it_closes() -> None:
    """Minute, quarter, hour: each is made from the one before it."""
    state = STEP.initial()
    run(closed(market(60)), state)
    run([bar(60)], state)
    (out,) = STEP.step(state, amended(bar(60, volume=7e6)))
    assert [(row.tf, row.revision) for row in out.rows] == [("1m", 1), ("15m", 0), ("1h", 0)]
    assert out.rows[1].columns["v_total_m_15"] > 7e6
    assert out.rows[2].columns["v_total_h_1"] > 7e6


def test_an_asset_that_is_not_there_at_the_end_has_no_longer_row() -> None:
    """It joined after the seal of minute 15, or it left; its next rows do not look for it.

    minute   1 ... 14  15   16 ... 30
    bars     x     x   -    x      x
    """
    items = market(31)
    there = [*closed(items[1:15]), final(15), *closed(items[16:])]
    assert seen(there) == [("15m", 30, True)]
    rows = [row for row in run(there) if row.tf == "15m"]
    assert rows[0].columns["minutes_missing"] == 0


def test_an_asset_that_was_away_has_the_rows_of_its_presence() -> None:
    """Two hours later; nothing of the time before is folded in."""
    state = STEP.initial()
    run(closed(market(14, first=1)), state)
    rows = run(closed(market(15, first=121)), state)
    (row,) = [row for row in rows if row.tf == "15m"]
    bars = [r.columns["v_total_m_1"] for r in rows if r.tf == "1m"]
    assert row.columns["v_total_m_15"] == stored(math.fsum(bars))
    assert row.columns["minutes_missing"] == 0
    assert row.columns["ret_m_15"] is None


@pytest.mark.parametrize(
    ("first", "missing", "status", "reasons"),
    [
        (1, 0, "ok", []),
        (2, 1, "ok", []),
        (3, 2, "partial", ["minutes_not_ok"]),
        (5, 4, "partial", ["minutes_not_ok"]),
        (6, 5, "stale", ["minutes_missing", "book_missing", "minutes_not_ok"]),
        (15, 14, "stale", ["minutes_missing", "book_missing", "minutes_not_ok"]),
    ],
)
def test_an_asset_that_starts_within_a_quarter_has_a_row_of_what_there_is(
    first: int, missing: int, status: str, reasons: list[str]
) -> None:
    """Minutes before its first count as missing."""
    rows = run(closed(market(16 - first, first=first)))
    (row,) = [row for row in rows if row.tf == "15m"]
    columns = named(row)
    assert (columns["minutes_missing"], columns["minutes_not_ok"]) == (missing, missing)
    assert (columns["dq_status"], columns["dq_reasons"]) == (status, reasons)
    assert columns["v_total_m_1"] == stored(
        math.fsum(r.columns["v_total_m_1"] for r in rows if r.tf == "1m")
    )
    assert (columns["spread_mean_m_1"] is None) is (missing >= 5)


def test_longer_rows_say_when_they_were_made() -> None:
    """With the clock of the final phase; the minute's own stamps are not carried on."""
    rows = by_tf(run(closed(market(61))))
    for tf in ("15m", "1h"):
        last = rows[tf][-1]
        assert last.exchange_ts_ms == NINE + HOUR_MS
        assert last.columns["ingest_ts"] == iso(NINE + HOUR_MS + 3000)
        assert last.columns["ingest_lag_ms"] == 3000
        assert (last.asset_uid, last.symbol, last.revision) == (0, "BTC", 0)
        assert last.columns["source"] == "ws"
        pack = (PACKS.features.feature_pack, PACKS.features.pack_rev)
        assert (last.columns["feature_pack"], last.columns["pack_rev"]) == pack


@pytest.mark.parametrize(
    "changes",
    [{}, {"mid": None}, {"trades": 0, "volume": 0.0, "reasons": ("quiet",)}, {"oi": None},
     {"without": list(COLUMNS_OF)}, {"reasons": ("gap",)}],
    ids=["full", "one-sided", "quiet", "no oi", "nothing", "gap"],
)  # fmt: skip
def test_longer_rows_have_the_columns_of_their_timeframe(changes: dict[str, Any]) -> None:
    """Exactly the pack's names for it; a column that is another one there is not there twice."""
    rows = by_tf(run(closed([bar(k, **changes) for k in range(61)])))
    assert [len(rows[tf]) for tf in TIMEFRAMES] == [61, 5, 2]
    for tf in TIMEFRAMES:
        assert_well_formed(rows[tf][-1])
        assert len(rows[tf][-1].columns) == len(set(NAMES[tf].values()))
    assert "z_ret_abs_m_5" not in rows["15m"][-1].columns
    assert not {"ret_m_15", "basis_bp_m_5"} & rows["1h"][-1].columns.keys()
    assert {"minutes_not_ok", "minutes_missing"} <= rows["1h"][-1].columns.keys()
    assert "minutes_not_ok" not in rows["1m"][-1].columns


def test_what_is_on_trial_passes_through_minutes_only() -> None:
    """Assembly's extras stay beside the bounds of the z; a longer row has none of them."""
    state = warmed(225)
    extras: Columns = {"microprice_drift_s_30": 0.00012}
    minute, quarter = run(closed([bar(225, extras=extras)]), state)
    assert minute.extras["microprice_drift_s_30"] == 0.00012
    assert minute.extras["clamp"].keys() == set(Z_OF.values())
    assert quarter.extras == {}
    assert extras == {"microprice_drift_s_30": 0.00012}


# --- longer rows: what is normal there -----------------------------------------------------------

EARLY = 6  # samples that end the warm-up in the tests below, in place of 200


def early(*detectors: Detector) -> Normalize:
    """Return a step whose baselines are warm after a few bars."""
    robust = PACKS.features.robust.model_copy(update={"min_samples": EARLY})
    features = PACKS.features.model_copy(update={"robust": robust})
    return Normalize(replace(PACKS, features=features, detectors=detectors or PACKS.detectors))


def test_oracle_each_timeframe_has_baselines_of_its_own() -> None:
    """A night of minutes with a hole: z, q, audit columns and bounds by an independent drive.

    Nothing of the minute's baselines shows in a longer row (build plan 15.1).
    """
    items = market(780, seed=6, start=EVENING, first=1)
    for k in (400, 401):
        items[k] = bar(k + 1, trades=0, volume=0.0, reasons=("quiet",), start=EVENING)
    for k in (420, 421, 422):
        items[k] = bar(k + 1, reasons=("clock_late",), start=EVENING)
    for k in range(435, 442):
        items[k] = bar(k + 1, reasons=("gap",), start=EVENING)
    del items[302:309]
    own = STEP.initial()
    rows = by_tf(run(closed(items), own, early()))
    robust = msgspec.structs.replace(ROBUST, min_samples=EARLY)
    statuses, rolled = set(), set()
    for tf in ("15m", "1h"):
        states = {name: fresh(robust) for name in ON_LONGER}
        for row in rows[tf]:
            columns, clamps = named(row), row.extras.get("clamp", {})
            statuses.add((tf, columns["dq_status"]))
            for name, state in states.items():
                x = columns[SOURCE_OF[name]]
                if name == "vol" and columns["trade_count_m_1"] == 0:
                    x = None
                expected = apply(
                    state,
                    x,
                    label_ms=row.exchange_ts_ms,
                    dq=columns["dq_status"],
                    feature=FEATURES[name],
                    decay=DECAYS[tf],
                    robust=robust,
                )
                z = Z_OF[name]
                assert columns[z] == stored(expected.z), (tf, name)
                assert columns[Q_OF[name]] == stored(expected.q) if name in Q_OF else True
                if name in AUDITED:
                    assert columns[f"b_mean_{name}"] == stored(expected.mean)
                    assert columns[f"b_scale_{name}"] == stored(expected.scale)
                if name in DIVIDED:
                    assert columns[f"b_divisor_{name}"] == stored(expected.divisor)
                bounds = (stored(expected.clamp_lo), stored(expected.clamp_hi))
                assert clamps.get(NAMES[tf][z]) == (None if expected.z is None else bounds)
                if expected.z is not None and bounds != (-4.7215, 4.7215):
                    rolled.add((tf, name))
                if name == "vol":
                    assert columns["q_confidence"] == expected.confidence
        assert dumps(own, tf) == {name: dump(state) for name, state in states.items()}
    assert statuses >= {("15m", "ok"), ("15m", "partial"), ("15m", "stale"), ("1h", "ok")}
    assert {tf for tf, _ in rolled} == {"15m"}, "four hours before midnight are no warm hour"


def test_minutes_do_not_notice_longer_rows() -> None:
    """With and without final phases, the same minutes."""
    items = market(240)
    plain = run(items)
    assert [row for row in run(closed(items)) if row.tf == "1m"] == plain


def test_five_quarters_have_a_sum_and_a_slope() -> None:
    """cvd_delta_m_75 and cvd_slope_m_75: the slope stays quote per minute (build plan 15.2).

    A steady flow of 250 a minute is 3750 a quarter and has the slope of the minute.
    """
    rows = by_tf(run(closed(bar(k, delta=250.0) for k in range(1, 301))))
    for tf, length in (("15m", 15), ("1h", 60)):
        columns = [named(row) for row in rows[tf]]
        assert {c["cvd_delta_m_1"] for c in columns} == {250.0 * length}
        sums = [c["cvd_delta_m_5"] for c in columns]
        slopes = [c["cvd_slope_m_5"] for c in columns]
        assert sums == [None] * 4 + [1250.0 * length] * (len(columns) - 4)
        assert slopes == [None] * 4 + [250.0] * (len(columns) - 4)
    assert len(rows["1h"]) == 5


def test_a_quarter_that_is_missing_breaks_the_sum_of_five() -> None:
    """Contiguous bars only: the row of minute 45 was never made."""
    items = [bar(k, delta=250.0) for k in range(1, 196) if k != 45]
    rows = [named(row) for row in run(closed(items)) if row.tf == "15m"]
    known = [row["cvd_delta_m_5"] is not None for row in rows]
    assert known == [False] * 6 + [True] * 6
    assert [row["cvd_slope_m_5"] is not None for row in rows] == known


def test_the_illiquidity_gates_of_a_longer_row_are_its_own() -> None:
    """A quarter of 150 000 is usual where a minute of 10 000 is; the floor stays 10 000."""
    rows = by_tf(run(closed(bar(k, volume=1e6) for k in range(1, 76))))
    state = STEP.initial()
    run(closed(bar(k, volume=1e6) for k in range(1, 61)), state)
    thin = [bar(k, volume=4900.0 if k < 75 else 0.0) for k in range(61, 76)]
    last = by_tf(run(closed(thin), state))
    assert {row.columns["illiquidity_hit"] for row in rows["15m"]} == {False}
    assert {row.columns["illiquidity_hit"] for row in last["1m"]} == {True}
    assert last["15m"][0].columns["v_total_m_15"] == 68_600.0
    assert last["15m"][0].columns["illiquidity_hit"] is True, "below 0.5 % of 15 million"
    medians = {tf: kernel.usual(own.volume) for tf, own in state.tfs.items()}
    assert medians["15m"] == pytest.approx(1.5e7, rel=0.07)
    assert medians["1m"] == pytest.approx(1e6, rel=0.07)


def test_strength_of_a_longer_row_is_made_of_its_own_z() -> None:
    """The same weights, on the return, volume and open interest of the bar."""
    rows = by_tf(run(closed(market(300, first=1)), step=early()))
    assert {row.columns["rs_score_m_15"] for row in rows["15m"][: EARLY - 1]} == {0.0}
    for row in rows["15m"]:
        score, incomplete = strength(msgspec.structs.replace(row, columns=named(row)))
        assert math.isclose(row.columns["rs_score_m_15"], score, rel_tol=1e-11, abs_tol=1e-12)
        assert row.columns["rs_incomplete"] is incomplete
    assert rows["15m"][-1].columns["rs_incomplete"] is False
    assert rows["15m"][-1].columns["rs_score_m_15"] != 0.0


# --- longer rows: warm-up ------------------------------------------------------------------------


def on(detector_id: str, *tfs: Timeframe, **expressions: str) -> Detector:
    """Return a shipped detector on other timeframes, perhaps with other expressions."""
    (found,) = [d for d in PACKS.detectors if d.detector_id == detector_id]
    types = PACKS.features.column_types()
    compiled: dict[str, Any] = {
        key: compile_expression(
            text, types, ColumnType.BOOLEAN if key == "trigger" else ColumnType.NUMBER
        )
        for key, text in expressions.items()
    }
    if not compiled:
        return replace(found, tfs=tfs)
    names = tuple(sorted({name for part in compiled.values() for name in part.names}))
    return replace(found, tfs=tfs, inputs=names, required=names, secondary=None, **compiled)


def warmups(step: Normalize, items: Iterable[BarItem] | None = None) -> dict[str, list[bool]]:
    """Return `warmup` of the rows of five hours, by timeframe."""
    rows = by_tf(run(closed(items or market(300, first=1)), step=step))
    return {tf: [row.columns["warmup"] for row in found] for tf, found in rows.items()}


def test_warmup_is_that_of_the_timeframe() -> None:
    """A detector that lists quarters waits for the sixth quarter, not for the sixth minute."""
    volume, spread = on("spike.vol_spike_m_1", "15m"), on("shift.spread_stress_m_1", "1m")
    found = warmups(early(volume, spread))
    # z_ret_abs supports both, and the first bar of a timeframe has no return
    assert found["1m"] == [True] * 6 + [False] * 294
    assert found["15m"] == [True] * 6 + [False] * 14
    assert found["1h"] == [False] * 5, "no detector looks at hours"


def test_no_shipped_detector_waits_for_longer_rows() -> None:
    """None lists them (design D18), so they are never in warm-up; their z are NULL all the same."""
    found = warmups(STEP)
    assert found["15m"] == [False] * 20
    assert found["1h"] == [False] * 5


def test_warmup_of_longer_rows_counts_only_feeds_that_are_there() -> None:
    """Without quotes there is no spread to wait for."""
    step = early(on("shift.spread_stress_m_1", "15m"))
    quoteless = [bar(k, without=["quotes"]) for k in range(1, 301)]
    assert not any(warmups(step, quoteless)["15m"])
    assert warmups(step)["15m"][:5] == [True] * 5


def test_warmup_counts_the_divisor_of_a_baseline() -> None:
    """A threshold in units of a divisor needs its samples as a z does (numerics 10)."""
    cvd = on(
        "spike.vol_spike_m_1",
        "1m",
        trigger="cvd_delta_m_5 <= -2.0 * b_divisor_cvd",
        primary="abs(z_cvd_delta_m_5)",
    )
    rows = [
        row.columns for row in run(market(205), step=Normalize(replace(PACKS, detectors=(cvd,))))
    ]
    assert [rows[k]["warmup"] for k in (202, 203)] == [True, False]


@pytest.mark.parametrize("name", ["z_ret_abs_m_5", "z_ret_abs_m_15"])
def test_warmup_counts_a_z_under_every_name_it_has(name: str) -> None:
    """On a quarter both stand for the z of its own return, which is known from the sixth on."""
    detector = on("spike.vol_spike_m_1", "15m", trigger=f"{name} >= 2.0", primary=name)
    assert warmups(early(detector))["15m"] == [True] * 6 + [False] * 14
