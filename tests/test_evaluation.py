"""Figures of events: hand-made cases, and the same figures computed the slow and plain way."""

from __future__ import annotations

import doctest
import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows import evaluation
from dataflows.evaluation import (
    AFTER_MIN,
    BEFORE_MIN,
    DAY_MIN,
    GAP_MIN,
    Dice,
    Event,
    Plan,
    Recording,
    Tape,
    Turn,
    Window,
    first_in,
    injected,
    injection_figures,
    is_liquid,
    judge,
    lifts,
    meets,
    place,
    plan_injections,
    relative_moves,
    wilson,
)
from dataflows.importing.bars import BarRow
from dataflows.importing.labels import Label
from operators.lattice import MINUTE_MS
from operators.records import Frame, MarketPhase, Phase, Published, Row, Suppression

START_MS = 1_790_000_160_000


def at(minute: int) -> int:
    """Return the label of a minute of the tests, epoch ms."""
    return START_MS + minute * MINUTE_MS


def tape_of(
    closes: Sequence[float | None],
    barred: dict[int, str] | None = None,
    *,
    symbol: str = "AAA",
    warm_from: int = 0,
) -> Tape:
    """Return a tape of one close after another; `barred` gives the reason by minute."""
    tape = Tape(symbol, at(0))
    for i, close in enumerate(closes):
        warm = i >= warm_from
        reason = (barred or {}).get(i, None if warm else "warmup")
        tape.add(at(i), close, reason, warm=warm)
    return tape


def walk(n: int, seed: int = 1, size: float = 0.001) -> list[float]:
    """Return a price that moves up or down by up to `size` a minute."""
    dice, price, closes = Dice(seed, "walk"), 100.0, []
    for _ in range(n):
        price *= 1.0 + size * (dice.below(2001) - 1000) / 1000
        closes.append(price)
    return closes


def event(minute: int, uid: int = 0, event_class: str = "spike", severity: int = 60) -> Event:
    """Return an event."""
    return Event(uid, at(minute), event_class, severity)


def label(minute: int, *, symbol: str = "AAA", end: int | None = None, kind: str = "") -> Label:
    """Return a label that begins 10 s after a minute did (its bar closes at `minute` + 1)."""
    begin_ms = at(minute) + 10_000
    return Label(symbol, begin_ms, begin_ms if end is None else at(end) + 10_000, kind)


# --- dice --------------------------------------------------------------------------------------


def test_dice_are_the_same_everywhere() -> None:
    """The published values of SplitMix64 from 0; seeds and streams differ."""
    dice = Dice(0, "")
    assert [dice.bits() for _ in range(2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert Dice(7, "lift").bits() != Dice(8, "lift").bits()
    assert Dice(7, "lift").bits() != Dice(7, "days").bits()


@given(st.integers(1, 2000), st.integers(0, 2**70))
def test_property_draws_stay_below(n: int, seed: int) -> None:
    """From 0 to n - 1, whatever the seed."""
    dice = Dice(seed, "x")
    assert all(0 <= dice.below(n) < n for _ in range(20))


def test_draws_are_level() -> None:
    """Ten thousand draws of ten numbers: chi-square far inside what chance gives."""
    dice, counts = Dice(3, "level"), [0] * 10
    for _ in range(10_000):
        counts[dice.below(10)] += 1
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 30


# --- tapes -------------------------------------------------------------------------------------


def test_a_tape_knows_every_minute() -> None:
    """A minute without a row is filled in and named, and no minute outside is open."""
    tape = Tape("AAA", at(0))
    tape.add(at(0), 1.0, "warmup", warm=False)
    tape.add(at(1), None, "dq", warm=True)
    tape.add(at(2), 2.0, None, warm=True)
    tape.add(at(5), 3.0, None, warm=True)
    tape.add(at(6), 3.0, "illiquid", warm=True)
    assert [tape.barred(i) for i in range(-1, 8)] == [
        *("no_row", "warmup", "dq", None, "no_row", "no_row", None, "illiquid", "no_row"),
    ]
    assert [i for i in range(-5, 20) if tape.is_open(i)] == [2, 5]
    assert (tape.open_count(), tape.warm_count(), tape.open_index()) == (2, 4, 2)
    assert [i for i in range(-5, 20) if tape.is_warm(i)] == [1, 2, 5, 6]
    assert math.isnan(tape.closes[1])
    assert math.isnan(tape.closes[3])
    assert tape.label_ms(tape.index(at(5))) == at(5)
    assert Tape("B", at(0)).open_index() == 0
    with pytest.raises(AssertionError, match="came late"):
        tape.add(at(6), 1.0, None, warm=True)


def row(uid: int, minute: int, tf: str = "1m", **columns: Any) -> Row:
    """Return a row that is open unless the columns say otherwise."""
    usual = {
        "close": 100.0 + minute,
        "dq_status": "ok",
        "warmup": False,
        "illiquidity_hit": False,
        "is_in_universe": True,
        "is_hot": False,
    }
    return Row(uid, f"S{uid}", tf, at(minute), 0, usual | columns)


def test_a_recording_keeps_what_a_run_says() -> None:
    """Gates in their order, membership, hot assets; the market and longer bars apart."""
    recording = Recording({"spike.a": "spike", "shift.b": "shift"}, keep_held=("spike",))
    for minute, columns in enumerate(
        [
            {"dq_status": "partial", "warmup": True},
            {"warmup": True, "illiquidity_hit": True},
            {"illiquidity_hit": True, "is_in_universe": False},
            {"is_in_universe": False},
            {"is_in_universe": False, "is_hot": True, "close": None},
        ]
    ):
        sealed, final = (Phase(at(minute), closing, 1, at(minute)) for closing in (False, True))
        own = row(0, minute, **columns)
        frames: tuple[Frame, ...] = ()
        recording.take(MarketPhase(sealed, frames, (own, row(0, minute, "15m"))))
        recording.take(MarketPhase(final, frames, (own,)))
    tape = recording.tapes[0]
    assert [tape.barred(i) for i in range(5)] == ["dq", "warmup", "illiquid", "not_member", None]
    assert [tape.is_warm(i) for i in range(5)] == [False, False, True, True, True]
    assert tape.closes[3] == 103.0
    assert math.isnan(tape.closes[4])

    def held(uid: int, detector_id: str, reason: str) -> Suppression:
        return Suppression(uid, f"S{uid}", "1m", at(4), 0, detector_id, reason, 40)

    events = (
        {"asset_uid": 0, "class": "spike", "severity": 61, "new_field": 1},
        {"asset_uid": -1, "class": "synchrony", "severity": 70},
    )
    suppressed = (
        held(0, "spike.a", "cooldown"),
        held(0, "shift.b", "cooldown"),
        held(-1, "sync.unknown", "cooldown"),
    )
    recording.take(Published(Phase(at(4), False, 1, at(4)), events, suppressed))
    assert recording.events == [event(4, severity=61)]
    assert recording.market_events == {"synchrony": 1}
    assert recording.held == {(0, at(4)): ["cooldown"]}


# --- lift --------------------------------------------------------------------------------------


def naive_relative(tape: Tape, horizon: int) -> list[float | None]:
    """Return relative moves by their definition."""
    moves: list[float | None] = []
    for i in range(len(tape)):
        known = i + horizon < len(tape) and tape.barred(i) is None
        if not known or math.isnan(tape.closes[i]) or math.isnan(tape.closes[i + horizon]):
            moves.append(None)
        else:
            moves.append(abs(tape.closes[i + horizon] / tape.closes[i] - 1))
    mean = statistics.fmean([m for m in moves if m is not None] or [0.0])
    return [None if m is None or mean == 0 else m / mean for m in moves]


@given(
    st.lists(st.one_of(st.none(), st.floats(1.0, 1000.0)), max_size=40),
    st.sets(st.integers(0, 39)),
    st.integers(1, 5),
)
def test_oracle_relative_moves(closes: list[float | None], shut: set[int], horizon: int) -> None:
    """The definition, with unknown closes and minutes in which nothing can be published."""
    tape = tape_of(closes, dict.fromkeys(sorted(shut), "dq"))
    found = [None if math.isnan(move) else move for move in relative_moves(tape, horizon)]
    expected = naive_relative(tape, horizon)
    assert [move is None for move in found] == [move is None for move in expected]
    for move, naive in zip(found, expected, strict=True):
        if naive is not None:
            assert move == pytest.approx(naive, rel=1e-9, abs=1e-12)


def test_the_move_that_fired_an_event_is_not_counted() -> None:
    """minute   1   2   3   4   5   6      the price jumps in minute 3, where the event is,
    close     100 100 150 150 150 150      and stays: nothing has happened after it."""
    tape = tape_of([100.0, 100.0, 100.0, 150.0, 150.0, 150.0, 150.0])
    by_event = {
        minute: lifts({0: tape}, [event(minute)], 1, horizons=(1,), shifts=0)[0].lift
        for minute in (2, 3)
    }
    assert by_event == {2: 6.0, 3: 0.0}


def test_each_asset_is_measured_against_itself() -> None:
    """A wild asset's usual move is no lift: every event is divided by its own asset's mean."""
    calm = tape_of([100.0 + (i % 2) for i in range(50)])
    wild = tape_of([100.0 + 50 * (i % 2) for i in range(50)])
    events = [event(10, uid=0), event(10, uid=1), event(11, uid=1)]
    (found, of_class) = lifts({0: calm, 1: wild}, events, 1, horizons=(1,), shifts=0)
    assert found.events == of_class.events == 3
    assert found.lift == pytest.approx(1.0, rel=0.15)
    assert (found.event_class, of_class.event_class) == (None, "spike")


def test_lift_by_class_and_horizon_is_the_naive_mean() -> None:
    """Two classes, two assets, two horizons; events whose future is not known are not counted."""
    tapes = {0: tape_of(walk(300, 1)), 1: tape_of(walk(300, 2), symbol="BBB")}
    events = [event(i * 7 % 300, uid=i % 2, event_class=("spike", "shift")[i % 3 == 0])
              for i in range(60)]  # fmt: skip
    found = {(f.event_class, f.horizon_min): f for f in lifts(tapes, events, 1, horizons=(5, 60))}
    assert list(found) == [
        (name, horizon) for name in (None, "shift", "spike") for horizon in (5, 60)
    ]
    for (name, horizon), figures in found.items():
        naive = {uid: naive_relative(tape, horizon) for uid, tape in tapes.items()}
        values = [
            value
            for e in events
            if name in (None, e.event_class)
            and (value := naive[e.asset_uid][tapes[e.asset_uid].index(e.label_ms)]) is not None
        ]
        assert figures.events == len(values)
        assert figures.lift == pytest.approx(statistics.fmean(values), rel=1e-9)
        assert (figures.surrogate, figures.low, figures.high) == (None, None, None)


def test_the_surrogate_is_the_naive_shift() -> None:
    """Each shift moves every event around its asset's open time by the same minutes."""
    n = 4 * DAY_MIN
    tapes = {
        0: tape_of(walk(n, 1), warm_from=200),
        1: tape_of(walk(n, 2), {3000: "dq"}, symbol="BBB", warm_from=500),
    }
    events = [event(1000 + 37 * i, uid=i % 2) for i in range(40)]
    (found, _) = lifts(tapes, events, 5, horizons=(15,), shifts=30)
    dice, means = Dice(5, "lift"), []
    naive = {uid: naive_relative(tape, 15) for uid, tape in tapes.items()}
    for _ in range(30):
        bits, values = dice.bits(), []
        for e in events:
            first = {0: 200, 1: 500}[e.asset_uid]
            period = n - first
            shift = DAY_MIN + (bits * (period - 2 * DAY_MIN + 1) >> 64)
            place_ = first + ((e.label_ms - at(0)) // MINUTE_MS - first + shift) % period
            value = naive[e.asset_uid][place_]
            if value is not None:
                values.append(value)
        means.append(statistics.fmean(values))
    cuts = statistics.quantiles(means, n=40, method="inclusive")
    assert found.surrogate == pytest.approx(statistics.fmean(means), rel=1e-9)
    assert (found.low, found.high) == (pytest.approx(cuts[0]), pytest.approx(cuts[-1]))


def test_events_before_moves_have_lift_and_their_surrogate_has_none() -> None:
    """A price that moves five times as much for 15 minutes after every event."""
    n, dice = 6 * DAY_MIN, Dice(9, "planted")
    starts = [300 + 120 * i for i in range(65)]
    wild = {s + k for s in starts for k in range(1, 16)}
    price, closes = 100.0, []
    for i in range(n):
        price *= 1.0 + 0.001 * (5 if i in wild else 1) * (dice.below(2001) - 1000) / 1000
        closes.append(price)
    tape = tape_of(closes, warm_from=200)
    found = {f.horizon_min: f for f in lifts({0: tape}, [event(s) for s in starts], 1)}
    assert found[15].lift is not None
    assert found[15].lift > 2.0
    for each in found.values():
        assert each.surrogate == pytest.approx(1.0, abs=0.1)
        assert each.low is not None
        assert each.high is not None
        assert each.low < 1.0 < each.high
    assert found[15].high is not None
    assert found[15].lift > found[15].high


@given(st.integers(0, 2**64 - 1), st.integers(1, 10**6))
def test_property_a_shift_keeps_a_day_from_both_ends(bits: int, period: int) -> None:
    """Less than two days of time cannot be shifted at all."""
    shift = Turn(bits).minutes(period)
    if period < 2 * DAY_MIN:
        assert shift is None
    else:
        assert shift is not None
        assert DAY_MIN <= shift <= period - DAY_MIN


def test_the_seed_decides_the_surrogate_alone() -> None:
    """Another seed moves the band and nothing else; the same one changes nothing."""
    tapes, events = {0: tape_of(walk(3 * DAY_MIN))}, [event(i * 50) for i in range(20)]
    first, again, other = (lifts(tapes, events, seed, shifts=20) for seed in (1, 1, 2))
    assert first == again
    assert [f.lift for f in first] == [f.lift for f in other]
    assert [f.surrogate for f in first] != [f.surrogate for f in other]


def test_nothing_is_said_of_nothing() -> None:
    """No event, no move, no time: None, never NaN."""
    still = tape_of([100.0] * 10)
    (of_all,) = lifts({0: still}, [], 1, horizons=(1,))
    assert (of_all.events, of_all.lift, of_all.surrogate) == (0, None, None)
    found = lifts({0: still}, [event(3)], 1, horizons=(1,))
    assert [(f.events, f.lift) for f in found] == [(0, None)] * 2


# --- labels ------------------------------------------------------------------------------------


def window(first: int, last: int, uid: int = 0) -> Window:
    """Return a window of minutes."""
    return Window(uid, at(first), at(last), label(first))


def test_labels_that_cannot_be_judged_are_counted() -> None:
    """Unknown and ambiguous symbols, other times, twice the same, and minutes nobody watched."""
    tapes = {
        0: tape_of(walk(100), dict.fromkeys(range(40, 80), "illiquid"), symbol="AAA/USDT"),
        1: tape_of(walk(100), symbol="BBB/USDT"),
        2: tape_of(walk(100), symbol="BBB/BTC"),
    }
    labels = [
        label(10, symbol="AAA-USDT"),
        label(10, symbol="AAA"),
        label(55, symbol="AAA"),
        label(95, symbol="BBB/BTC"),
        label(10, symbol="BBB"),
        label(10, symbol="CCC"),
        label(-2, symbol="AAA"),
        label(99, symbol="AAA"),
    ]
    placed = place(labels, tapes)
    assert placed.left_out == {
        "ambiguous_symbol": 1,
        "duplicate": 1,
        "outside_the_bars": 2,
        "unknown_symbol": 1,
    }
    assert placed.unwatched == {"illiquid": 1}
    assert [(w.asset_uid, w.first_ms, w.last_ms) for w in placed.windows] == [
        (0, at(11 - BEFORE_MIN), at(11 + AFTER_MIN)),
        (2, at(96 - BEFORE_MIN), at(96 + AFTER_MIN)),
    ]
    total = len(placed.windows) + sum((placed.left_out | placed.unwatched).values())
    assert total == len(labels)


def test_a_label_with_an_end_lasts_until_it() -> None:
    """begin |=========| end; the minutes before and after are added at the two ends."""
    placed = place([label(10, end=30)], {0: tape_of(walk(100))}, before_min=1, after_min=3)
    assert [(w.first_ms, w.last_ms) for w in placed.windows] == [(at(10), at(34))]


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=8),
    st.lists(st.integers(-5, 80), max_size=15),
)
def test_oracle_matching(spans: list[tuple[int, int]], minutes: list[int]) -> None:
    """Every pair of a window and an event, looked at one by one."""
    windows = [window(first, first + length) for first, length in spans]
    labels_ms = sorted(at(minute) for minute in minutes)
    for each in windows:
        inside = [ms for ms in labels_ms if each.first_ms <= ms <= each.last_ms]
        assert first_in(each, labels_ms) == (inside[0] if inside else None)
    assert meets(windows, labels_ms) == [
        any(w.first_ms <= ms <= w.last_ms for w in windows) for ms in labels_ms
    ]


def test_labels_and_events_are_judged() -> None:
    """label     |10   |200   |400   |600        the first is met 3 minutes after it began (its
    event        13,15      300  402  600,601   minute closes at 11), the second is missed."""
    tapes = {
        0: tape_of(walk(3 * DAY_MIN), warm_from=0),
        1: tape_of(walk(3 * DAY_MIN), symbol="BBB"),
    }
    labels = [label(10, kind="up"), label(200, kind="up"), label(400, kind="down"), label(600)]
    events = [event(m) for m in (600, 13, 15, 300, 402, 601)] + [event(5, uid=1)]
    placed = place(labels, tapes)
    found = judge(placed.windows, tapes, events, seed=1, shifts=50, resamples=200)
    assert (found.labels, found.met, found.events, found.met_by) == (4, 3, 6, 5)
    assert found.elsewhere == 1
    assert found.days == 3.0
    assert found.recall.value == 0.75
    assert found.precision.value == pytest.approx(5 / 6)
    assert found.false_per_day.value == pytest.approx(1 / 3)
    delays = sorted([3 - 1 / 6, 2 - 1 / 6, -1 / 6])
    assert found.delay_min.value == pytest.approx(delays[1])
    kinds = {each.kind: (each.labels, each.met, each.recall) for each in found.kinds}
    assert kinds == {"up": (2, 1, 0.5), "down": (1, 1, 1.0), "": (1, 1, 1.0)}
    for estimate in (found.recall, found.precision, found.false_per_day):
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.value is not None
        assert estimate.low <= estimate.value <= estimate.high
    assert found.recall.chance is not None
    assert found.recall.chance < 0.2
    assert judge(placed.windows, tapes, events, seed=1, shifts=50, resamples=200) == found


def test_intervals_come_from_whole_days() -> None:
    """Twenty days with a label each, half of them met: the interval is that of 20 coins."""
    n = 20 * DAY_MIN
    tapes = {0: tape_of([100.0] * n)}
    labels = [label(day * DAY_MIN + 300) for day in range(20)]
    events = [event(day * DAY_MIN + 302) for day in range(0, 20, 2)]
    events += [event(day * DAY_MIN + 303) for day in range(0, 20, 2)]
    found = judge(place(labels, tapes).windows, tapes, events, seed=3)
    assert found.recall.value == 0.5
    spread = 1.96 * math.sqrt(0.25 / 20)  # of coins; the first day is split by midnight
    assert found.recall.low == pytest.approx(0.5 - spread, abs=0.06)
    assert found.recall.high == pytest.approx(0.5 + spread, abs=0.06)
    assert found.precision == type(found.precision)(1.0, 1.0, 1.0, found.precision.chance)
    assert found.delay_min.value == pytest.approx(2 - 1 / 6)


def test_chance_meets_as_many_labels_as_the_windows_cover() -> None:
    """Windows of 13 minutes in every hour, events everywhere: 13 of 60."""
    n = 5 * DAY_MIN
    tapes = {0: tape_of([100.0] * n)}
    labels = [label(hour * 60 + 20) for hour in range(n // 60)]
    events = [event(m) for m in range(40, n, 97)]
    found = judge(place(labels, tapes).windows, tapes, events, seed=1, shifts=200, resamples=1)
    share = (BEFORE_MIN + AFTER_MIN + 1) / 60
    assert found.precision.chance == pytest.approx(share, abs=0.03)


def test_no_event_is_no_precision() -> None:
    """Recall is 0, precision and delay are not known."""
    tapes = {0: tape_of(walk(100))}
    found = judge(place([label(10)], tapes).windows, tapes, [], seed=1, resamples=20)
    assert (found.recall.value, found.recall.low, found.recall.high) == (0.0, 0.0, 0.0)
    assert found.precision.value is None
    assert found.delay_min.value is None
    assert found.false_per_day.value == 0.0
    assert found.recall.chance is None


# --- injected moves ----------------------------------------------------------------------------


def bars_of(closes: Sequence[float], symbol: str = "AAA") -> list[tuple[int, dict[str, BarRow]]]:
    """Return minutes of bars whose open is the close before."""
    minutes, before = [], closes[0]
    for i, close in enumerate(closes):
        high, low = max(before, close) * 1.0001, min(before, close) * 0.9999
        bar = BarRow(before, high, low, close, 1000.0 + i, 10, 400.0)
        minutes.append((at(i), {symbol: bar, "ZZZ": bar}))
        before = close
    return minutes


def test_injected_minutes_are_far_apart_and_a_day_in() -> None:
    """One in each half day, only where the file has the minute and the one before."""
    n = 20 * DAY_MIN
    holes = dict.fromkeys(range(1900, 2400), "dq")
    closes = [None if i in holes else 100.0 for i in range(n)]
    tapes = {
        0: tape_of(closes, holes, warm_from=200),
        1: tape_of([100.0] * n, dict.fromkeys(range(n // 5), "illiquid"), symbol="THIN"),
        2: tape_of([100.0] * n, symbol="BBB"),
    }
    plan = plan_injections(tapes, 1)
    assert plan == plan_injections(tapes, 1)
    assert plan != plan_injections(tapes, 2)
    assert plan.illiquid == ("THIN",)
    assert sorted(plan.labels_ms) == ["AAA", "BBB"]
    for symbol, labels_ms in plan.labels_ms.items():
        places = [(label_ms - at(0)) // MINUTE_MS for label_ms in labels_ms]
        assert places[0] >= DAY_MIN
        assert places[-1] < n
        steps = [b - a for a, b in pairwise(places)]
        assert min(steps) > GAP_MIN
        assert not set(places) & ({*holes, 2400} if symbol == "AAA" else set())
    assert len(plan.labels_ms["BBB"]) == 38
    assert 35 <= len(plan.labels_ms["AAA"]) <= 38


def test_liquid_is_a_share_of_the_time_past_warm_up() -> None:
    """Warm-up does not count, nine minutes of ten are enough, less are not."""
    barred = dict.fromkeys(range(100, 110), "illiquid")
    assert is_liquid(tape_of([1.0] * 200, barred, warm_from=100))
    assert not is_liquid(tape_of([1.0] * 200, barred | {110: "dq"}, warm_from=100))
    assert not is_liquid(tape_of([1.0] * 10, warm_from=10))


@given(
    st.lists(st.integers(1, 29), unique=True, max_size=4).map(sorted),
    st.sampled_from([0.05, -0.05, 0.15]),
    st.sampled_from([1.0, 5.0]),
)
def test_oracle_injected_bars(places: list[int], move: float, factor: float) -> None:
    """Returns change in the planned minutes alone; the level stays; volume in its minute alone."""
    minutes = bars_of(walk(30))
    plan = Plan({"AAA": tuple(at(p) for p in places), "GONE": (at(3),)}, ())
    changed = list(injected(plan, move=move, volume_factor=factor)(minutes))
    assert minutes == bars_of(walk(30))
    assert [close_ms for close_ms, _ in changed] == [close_ms for close_ms, _ in minutes]
    for i, ((_, before), (_, after)) in enumerate(zip(minutes, changed, strict=True)):
        old, new = before["AAA"], after["AAA"]
        level = math.prod([1 + move] * sum(p < i for p in places))
        here = 1 + move if i in places else 1.0
        assert new.open == pytest.approx(old.open * level)
        assert new.close == pytest.approx(old.close * level * here)
        assert new.high == pytest.approx(max(old.high * level, old.close * level * here))
        assert new.low == pytest.approx(min(old.low * level, old.close * level * here))
        assert new.low <= min(new.open, new.close) <= max(new.open, new.close) <= new.high
        times = factor if i in places else 1.0
        assert new.volume_quote == old.volume_quote * times
        assert new.trade_count == 10 * times
        assert new.taker_buy_quote == 400.0 * times
        assert after["ZZZ"] == before["ZZZ"]


def test_what_became_of_injected_moves() -> None:
    """Each is found, missed for a reason, or in a minute that does not count."""
    barred = {20: "dq", 30: "illiquid", 40: "not_member"}
    closes: list[float | None] = [100.0] * 100
    closes[49] = None
    recording = Recording({})
    recording.tapes = {0: tape_of(closes, barred), 1: tape_of([1.0] * 100, symbol="BBB")}
    places = (10, 20, 30, 40, 50, 60, 70, 80, 90)
    plan = Plan({"AAA": tuple(at(p) for p in places), "BBB": (at(10),)}, ())
    recording.events = [event(10), event(20), event(60, event_class="shift"), event(60, uid=1)]
    recording.held = {
        (0, at(70)): ["coalesced", "cooldown"],
        (0, at(80)): ["below_threshold", "cooldown", "below_threshold"],
        (0, at(90)): ["coalesced"],
        (0, at(10)): ["coalesced"],
    }
    figures = injection_figures(plan, recording, 5.0)
    assert figures.injected == 10
    assert figures.ineligible == {"dq": 1, "illiquid": 1, "no_return": 1, "not_member": 1}
    assert (figures.eligible, figures.published) == (6, 1)
    assert figures.missed == {
        "below_threshold+cooldown": 1,
        "cooldown": 1,
        "no_candidate": 3,
    }
    assert figures.recall.value == pytest.approx(1 / 6)
    assert figures.standing == pytest.approx(2 / 6)


@given(st.integers(0, 300), st.integers(1, 300))
def test_oracle_wilson(part: int, whole: int) -> None:
    """The bounds are the shares that are 1.96 standard errors of their own from the estimate."""
    part = min(part, whole)
    estimate = wilson(part, whole)
    z = statistics.NormalDist().inv_cdf(0.975)
    for bound in (estimate.low, estimate.high):
        assert bound is not None
        assert 0.0 <= bound <= 1.0
        distance = (part / whole - bound) ** 2
        assert distance == pytest.approx(z * z * bound * (1 - bound) / whole, abs=1e-7)


def test_examples() -> None:
    """The examples in the docstrings hold."""
    results = doctest.testmod(evaluation)
    assert results.attempted
    assert not results.failed
