"""A row says how unusual its minute is, from nothing but stored bars."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.bars import bar_columns
from operators.baselines import Decay, Feature, Robust, apply, dump, fresh
from operators.lattice import DAY_MS, HOUR_MS, MINUTE_MS
from operators.normalize import NormaliseState, Normalize
from operators.quality import grade
from operators.records import Bar, BarItem, Columns, Phase, Row
from packs.loader import Packs, load_packs

PACKS = load_packs()
STEP = Normalize(PACKS)
MIDNIGHT = 20_000 * DAY_MS
NINE = MIDNIGHT + 9 * HOUR_MS  # minute k of a test is the bar labelled 09:00 + k min
EVENING = MIDNIGHT + 20 * HOUR_MS

# numerics 2 and 3: what the independent drive of the baselines uses
ROBUST = Robust(200, 1000, 2.5, 0.9775599834528066, 1.4826, 4.0, 4.7215, 3.0, 1.0, 1e-9)
M1 = Decay(a_m=0.000962241166216571, a_s=0.000481236377333771, growth=1.00048146807729)
FEATURES = {
    "vol": Feature("vol", "log1p", 0.05, None, 1.0),
    "ret_abs": Feature("ret_abs", "pow_3_8", 0.001, None, 1e-7),
    "spread": Feature("spread", "log", 0.10, None, 0.0),
}
Z_OF = {"vol": "z_vol_m_1", "ret_abs": "z_ret_abs_m_1", "spread": "z_spread_m_1"}
Q_OF = {"vol": "q_vol_m_1", "ret_abs": "q_ret_abs_m_1"}
COLUMNS_OF = {
    "trades": ("v_buy_m_1", "v_sell_m_1", "v_total_m_1", "trade_count_m_1", "cvd_delta_m_1"),
    "quotes": (
        *("mid_close", "ret_s_30", "rv_m_1", "atr_proxy_m_1"),
        *("spread_mean_m_1", "spread_p95_m_1"),
    ),
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
    reasons: Sequence[str] = (),
    staleness: int | None = 100,
    revision: int = 0,
    start: int = NINE,
    without: str = "",
) -> BarItem:
    """Return a minute as assembly sends it; `without` names a feed that is not subscribed."""
    label = start + minute * MINUTE_MS
    status, ordered = grade(reasons)
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
    for name in COLUMNS_OF.get(without, ()):
        del columns[name]
    phase = Phase(label, revision > 0, 1, label + 1500)
    return BarItem(phase, 0, Bar(0, "BTC", label, revision, columns))


def hole(minute: int) -> BarItem:
    """Return a minute that an imported file does not have."""
    label = NINE + minute * MINUTE_MS
    return BarItem(
        Phase(label, False, 1, label), 0, Bar(0, "BTC", label, 0, bar_columns(None, label))
    )


def market(count: int, *, seed: int = 1, start: int = NINE, first: int = 0) -> list[BarItem]:
    """Return minutes of a lively asset."""
    rng = random.Random(seed)
    mid, items = 100.0, []
    for minute in range(first, first + count):
        mid = float(f"{mid * math.exp(rng.gauss(0.0, 0.001)):.12g}")
        volume = float(f"{math.exp(rng.gauss(12.0, 1.0)):.12g}")
        items.append(
            bar(
                minute,
                mid=mid,
                volume=volume,
                delta=float(f"{volume * rng.uniform(-0.5, 0.5):.12g}"),
                spread=rng.choice((0.5, 0.5, 0.75, 1.5)),
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
    return msgspec.msgpack.encode(state)


def warmed(count: int = 230) -> NormaliseState:
    """Return the state after so many minutes of a lively asset, labelled 09:00 and on."""
    return msgspec.msgpack.decode(_warmed(count), type=NormaliseState)


def dumps(state: NormaliseState) -> dict[str, bytes]:
    """Return the canonical bytes of all baselines."""
    return {name: dump(baseline) for name, baseline in state.now.baselines.items()}


def amended(item: BarItem) -> BarItem:
    """Return the same bar as an amendment."""
    assert item.bar is not None
    return BarItem(
        Phase(item.phase.minute_ms, True, 1, item.phase.minute_ms + 3000),
        item.asset_uid,
        msgspec.structs.replace(item.bar, revision=1),
    )


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


# --- price sanity --------------------------------------------------------------------------------


@pytest.mark.parametrize(("mid", "clamped"), [(121.0, 0.2), (79.0, -0.2), (1e9, 0.2), (1e-6, -0.2)])
def test_a_return_beyond_belief_is_clamped_and_the_minute_is_stale(
    mid: float, clamped: float
) -> None:
    """Build plan 8.6: clamped for the record, never learned from, never scored."""
    state = warmed()
    run([bar(230, mid=100.0)], state)
    before = {name: (b.n, b.null_count) for name, b in state.now.baselines.items()}
    (row,) = run([bar(231, mid=mid)], state)
    assert row.columns["ret_m_1"] == clamped
    assert row.columns["ret_abs_m_1"] == 0.2
    assert row.columns["dq_status"] == "stale"
    assert row.columns["dq_reasons"] == ["price_sanity"]
    assert [row.columns[z] for z in Z_OF.values()] == [None] * 3
    n, nulls = before["ret_abs"]
    after = {name: (b.n, b.null_count) for name, b in state.now.baselines.items()}
    assert after == {**before, "ret_abs": (n, nulls + 1)}
    assert row.extras == {}


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
        xs = {
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
                decay=M1,
                robust=ROBUST,
            )
            assert columns[Z_OF[name]] == stored(expected.z), (name, label)
            if name in Q_OF:
                assert columns[Q_OF[name]] == stored(expected.q)
            assert columns[f"b_mean_{name}"] == stored(expected.mean)
            assert columns[f"b_scale_{name}"] == stored(expected.scale)
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
    rows = [row.columns for row in run(market(202))]
    assert [rows[k]["z_vol_m_1"] is None for k in (198, 199)] == [True, False]
    assert [rows[k]["z_spread_m_1"] is None for k in (198, 199)] == [True, False]
    assert [rows[k]["z_ret_abs_m_1"] is None for k in (199, 200)] == [True, False]
    assert all(row["z_vol_m_1"] is row["q_vol_m_1"] is None for row in rows[:199])
    assert [rows[k]["q_confidence"] for k in (198, 199)] == ["none", "low"]
    assert [rows[k]["warmup"] for k in (198, 199, 200, 201)] == [True, True, False, False]


def test_only_accepted_samples_end_the_warm_up() -> None:
    """Ten stale and ten partial minutes in between make it twenty minutes longer."""
    items = [bar(k, reasons=("gap",)) for k in range(10)]
    items += [bar(k, reasons=("clock_late",)) for k in range(10, 20)]
    items += market(202, first=20)
    rows = [row.columns for row in run(items)]
    assert [rows[k]["z_vol_m_1"] is None for k in (218, 219)] == [True, False]


def test_warmup_counts_only_feeds_that_are_there() -> None:
    """Without quotes there is no spread and no mid to wait for."""
    rows = [row.columns for row in run(bar(k, without="quotes") for k in range(201))]
    assert [rows[k]["warmup"] for k in (198, 199)] == [True, False]
    assert rows[200]["z_spread_m_1"] is None
    fed_but_null = [row.columns for row in run(bar(k, spread=None) for k in range(220))]
    assert fed_but_null[219]["warmup"] is True


@pytest.mark.parametrize(
    ("changes", "waits"),
    [({}, True), ({"mode": "shadow"}, True), ({"mode": "off"}, False), ({"enabled": False}, False)],
)
def test_warmup_counts_only_features_that_an_enabled_detector_reads(
    changes: dict[str, Any], waits: bool
) -> None:
    """A book that is never two-sided matters as long as somebody looks at the spread."""
    detectors = tuple(
        replace(d, **changes) if "z_spread_m_1" in d.required else d for d in PACKS.detectors
    )
    step = Normalize(replace(PACKS, detectors=detectors))
    rows = run([bar(k, spread=None) for k in range(203)], step=step)
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
    baseline = state.now.baselines["vol"]
    before = (baseline.n, baseline.m, baseline.v, baseline.sketch.t, baseline.null_count)
    (row,) = run([bar(230, trades=0, volume=0.0, reasons=("quiet",))], state)
    baseline = state.now.baselines["vol"]
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
    assert state.now.baselines["vol"].n == samples


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
    flagged = [row.columns["scale_floored"] for row in rows]
    assert flagged == [[]] * 199 + [["spread"]] * 11 + [[]]


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


@settings(max_examples=40, deadline=None)
@given(late_bars, late_bars, st.integers(0, 8))
def test_property_an_amended_bar_counts_once(
    first: dict[str, Any], second: dict[str, Any], at: int
) -> None:
    """Sealed and amended: the row, the state and all that follows as if seen once."""
    base = 195  # the 200th sample and the end of warm-up lie in the ten minutes after
    tail = market(10, seed=5, first=base)
    sealed, other = bar(base + at, **first), bar(base + at, **second)
    one, two = warmed(base), warmed(base)
    rows_one = run([*tail[:at], sealed, amended(other), *tail[at + 1 :]], one)
    rows_two = run([*tail[:at], other, *tail[at + 1 :]], two)
    assert one == two
    assert dumps(one) == dumps(two)
    assert rows_one[:at] + rows_one[at + 2 :] == rows_two[:at] + rows_two[at + 1 :]
    assert rows_one[at + 1].revision == 1
    assert msgspec.structs.replace(rows_one[at + 1], revision=0) == rows_two[at]


def test_a_final_phase_without_amendment_changes_nothing() -> None:
    """It passes on an empty item, so that the join can count."""
    state = warmed()
    before = msgspec.msgpack.encode(state)
    phase = Phase(NINE + 229 * MINUTE_MS, True, 1, NINE)
    (out,) = STEP.step(state, BarItem(phase, 0, None))
    assert (out.phase, out.asset_uid, out.rows) == (phase, 0, ())
    assert msgspec.msgpack.encode(state) == before


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
    found = state.now.gates.v_median
    assert found is not None
    assert abs(found / exact - 1) < 0.06
    run([bar(150, volume=1e12, reasons=("gap",))], state)
    assert state.now.gates.v_median == found


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
    score = Fraction(0)
    if ret is not None and z_ret is not None:
        score += Fraction("0.5") * Fraction(z_ret) * ((ret > 0) - (ret < 0))
    if z_vol is not None:
        score += Fraction("0.3") * Fraction(z_vol)
    return float(score), None in (ret, z_ret, z_vol)


def test_oracle_strength() -> None:
    """In warm-up it is zero and incomplete, later the formula of plan 6.3."""
    items = market(230)
    items[215] = bar(215, trades=0, volume=0.0, reasons=("quiet",))
    items[218] = bar(218, mid=None, reasons=("book_one_sided",))
    rows = run(items)
    for row in rows:
        score, incomplete = strength(row)
        assert math.isclose(row.columns["rs_score_m_5"], score, rel_tol=1e-11, abs_tol=1e-12)
        assert row.columns["rs_incomplete"] is incomplete
    assert {row.columns["rs_score_m_5"] for row in rows[:199]} == {0.0}
    assert [rows[k].columns["rs_incomplete"] for k in (198, 214, 215, 218, 223, 224)] == [
        True, False, True, True, True, False,
    ]  # fmt: skip


def test_a_flat_price_has_no_direction() -> None:
    """The return of five minutes is 0: its term is 0, but nothing is missing."""
    state = warmed()
    rows = run([bar(230 + k, mid=100.0 + k % 5) for k in range(6)], state)
    last = rows[-1].columns
    assert last["ret_m_5"] == 0.0
    assert last["rs_incomplete"] is False
    assert last["rs_score_m_5"] == stored(0.3 * last["z_vol_m_1"])


def test_oracle_strength_with_open_interest() -> None:
    """The third term: the direction of open interest times its z, at most 3.

    The feature pack of this test has the column; the calm hour ends with a rush in, then out.
    """
    known = {column.name for column in PACKS.features.columns}
    template = next(c for c in PACKS.features.columns if c.name == "ret_m_5")
    names = ("oi_roc_m_5", "z_oi_roc_m_5", "b_mean_oi_roc", "b_scale_oi_roc")
    columns = [template.model_copy(update={"name": name}) for name in names if name not in known]
    oi_roc = PACKS.features.normalised[0].model_copy(
        update={
            "feature": "oi_roc",
            "source": "oi_roc_m_5",
            "transform": "asinh",
            "d_min": 1e-6,
            "x_zero": 1e-6,
            "z": "z_oi_roc_m_5",
            "q": None,
            "mean": "b_mean_oi_roc",
            "scale": "b_scale_oi_roc",
        }
    )
    changes = {
        "columns": (*PACKS.features.columns, *columns),
        "normalised": (*PACKS.features.normalised, oi_roc),
    }
    step = Normalize(replace(PACKS, features=PACKS.features.model_copy(update=changes)))
    rng, items = random.Random(8), market(230)
    for k, item in enumerate(items):
        assert item.bar is not None
        item.bar.columns["oi_roc_m_5"] = stored(rng.gauss(0.0, 0.001))
        if k >= 220:
            item.bar.columns["oi_roc_m_5"] = (0.2, -0.2, 0.0, None, 0.002)[k % 5]
    terms = []
    for row in run(items, step=step):
        roc, z_oi = row.columns["oi_roc_m_5"], row.columns["z_oi_roc_m_5"]
        score, incomplete = strength(row)
        term = 0.0
        if z_oi is not None:
            term = 0.2 * ((roc > 0) - (roc < 0)) * min(abs(z_oi), 3.0)
        terms.append(term)
        found = row.columns["rs_score_m_5"]
        assert math.isclose(found, score + term, rel_tol=1e-11, abs_tol=1e-12)
        assert row.columns["rs_incomplete"] is incomplete
    assert set(terms[:199]) == {0.0}
    assert (max(terms), min(terms)) == (0.2 * 3.0, -0.2 * 3.0)


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
    assert set(row.columns) == {column.name for column in PACKS.features.columns}
    for number in numbers([row.columns, row.extras]):
        assert math.isfinite(number)
        assert number == float(f"{number:.12g}")
        assert math.copysign(1.0, number) == 1.0 or number != 0.0


@pytest.mark.parametrize(
    "item",
    [bar(0), bar(0, without="quotes"), bar(0, without="trades"), bar(0, mid=None), hole(0)],
    ids=["full", "no quotes", "no trades", "one-sided", "hole"],
)
def test_every_row_has_the_columns_of_the_pack(item: BarItem) -> None:
    """All of them and no other, whatever feeds there are."""
    (row,) = run([item])
    assert_well_formed(row)
    assert (row.asset_uid, row.symbol, row.tf, row.revision) == (0, "BTC", "1m", 0)
    assert (row.columns["feature_pack"], row.columns["pack_rev"]) == ("v1.0", 1)


@settings(max_examples=40, deadline=None)
@given(st.lists(late_bars, min_size=1, max_size=12), st.sampled_from((0, 196, 230)))
def test_property_rows_hold_only_numbers_that_can_be_stored(
    minutes: list[dict[str, Any]], base: int
) -> None:
    """Twelve digits, finite, no negative zero; before, at and after the end of warm-up."""
    state = warmed(base) if base else STEP.initial()
    for row in run([bar(base + k, **minute) for k, minute in enumerate(minutes)], state):
        assert_well_formed(row)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 13), max_size=4))
def test_property_state_can_be_saved_and_loaded_anywhere(cuts: list[int]) -> None:
    """Interrupted at any bars, the rows that follow are the same to the last bit."""
    tail = market(12, seed=9, first=195)
    tail.insert(7, amended(bar(195 + 6, mid=101.0, volume=3e5)))
    whole, resumed = warmed(195), warmed(195)
    expected = run(tail, whole)
    found = []
    for k, item in enumerate(tail):
        if k in cuts:
            data = msgspec.msgpack.encode(resumed)
            resumed = msgspec.msgpack.decode(data, type=NormaliseState)
        found += run([item], resumed)
    assert found == expected
    assert resumed == whole
    assert dumps(resumed) == dumps(whole)


def test_a_hole_in_a_bars_file_gives_stale_rows() -> None:
    """Two minutes are missing; returns and slope come back one by one, baselines do not notice.

    minute   225 … 229 [230 231] 232 … 236 237
    """
    state = warmed()
    before = {name: (b.n, b.m, b.v) for name, b in state.now.baselines.items()}
    missing = [row.columns for row in run([hole(230), hole(231)], state)]
    for columns in missing:
        assert (columns["dq_status"], columns["dq_reasons"]) == ("stale", ["gap"])
        for name in ("close", "mid_close", "ret_m_1", "v_total_m_1", "cvd_level", *Z_OF.values()):
            assert columns[name] is None
        assert columns["illiquidity_hit"] is True
        assert (columns["rs_score_m_5"], columns["rs_incomplete"]) == (0.0, True)
    assert {name: (b.n, b.m, b.v) for name, b in state.now.baselines.items()} == before
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
