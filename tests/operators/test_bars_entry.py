"""Imported bars become items of the flow, minute by minute, with nothing missing in between."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.bars import HOLE_MS_MAX, BarsState, bar_columns, close_minutes
from operators.lattice import MINUTE_MS, iso
from operators.loop import Loop
from operators.normalize import Normalize
from operators.publish import audit_json, event_json, frame_json, row_json, suppression_json
from operators.records import Bar, BarItem, Columns, MarketPhase, Published
from packs.loader import load_packs
from packs.schema import TIMEFRAMES

T0 = 1_756_890_000_000  # minute 0 of a test


@dataclass(frozen=True)
class Raw:
    """A minute as a file has it."""

    open: float = 100.0
    high: float = 103.0
    low: float = 98.0
    close: float = 102.0
    volume_quote: float = 50_000.0
    trade_count: int | None = 40
    taker_buy_quote: float | None = 30_000.0


def label(minute: int) -> int:
    """Return the close of a minute."""
    return T0 + minute * MINUTE_MS


def close(state: BarsState, minute: int, *symbols: str) -> list[BarItem]:
    """Close a minute in which these symbols have a bar."""
    return close_minutes(state, label(minute), {symbol: Raw() for symbol in symbols})


def sealed(items: list[BarItem]) -> dict[tuple[int, str], Columns]:
    """Return the columns of all bars by minute and symbol."""
    bars = [item.bar for item in items if item.bar is not None]
    return {((b.exchange_ts_ms - T0) // MINUTE_MS, b.symbol): b.columns for b in bars}


def columns_of(raw: Raw | None) -> Columns:
    """Return the columns of one bar."""
    return bar_columns(raw, label(0))


# --- items ---------------------------------------------------------------------------------------


def test_a_quarter_hour_is_sealed_and_final() -> None:
    """Each symbol sends one item for each closing; the final one is empty."""
    items = close(BarsState(), 0, "ETH", "BTC")
    shape = [(i.asset_uid, i.phase.final, i.bar.symbol if i.bar else None) for i in items]
    assert shape == [(0, False, "BTC"), (1, False, "ETH"), (0, True, None), (1, True, None)]
    for item in items:
        assert (item.phase.minute_ms, item.phase.n_assets) == (label(0), 2)
        assert item.phase.clock_ms == label(0)
        assert item.bar is None or (item.bar.asset_uid, item.bar.revision) == (item.asset_uid, 0)


def test_other_minutes_are_sealed_alone() -> None:
    """A final phase would say nothing: no amendment comes, and no longer bar ends.

    minute   0 (a full hour)   1 .. 14   15
    """
    state = BarsState()
    for minute in range(16):
        items = close(state, minute, "BTC", "ETH")
        ends = minute % 15 == 0
        assert [item.phase.final for item in items] == [False, False, True, True][
            : 4 if ends else 2
        ]
        assert {item.phase.alone for item in items} == {not ends}


def test_a_final_phase_would_say_nothing() -> None:
    """Rows, frames and events of two hours are those of a run that closes every minute twice."""
    state, packs, rng = BarsState(), load_packs(), random.Random(7)
    short, whole = Loop(packs, "test"), Loop(packs, "test")
    found: list[bytes] = []
    expected: list[bytes] = []
    for minute in range(120):
        close_px = 100.0 * (1.0 + rng.gauss(0.0, 0.01))
        bars = {s: Raw(close=close_px, volume_quote=rng.uniform(1e4, 1e5)) for s in ("BTC", "ETH")}
        items = close_minutes(state, label(minute), bars)
        found += texts(short.bars(items))
        if items[0].phase.alone:
            sealed_ = msgspec.structs.replace(items[0].phase, alone=False)
            final = msgspec.structs.replace(sealed_, final=True)
            items = [
                *(msgspec.structs.replace(item, phase=sealed_) for item in items),
                *(BarItem(final, item.asset_uid, None) for item in items),
            ]
        expected += texts(whole.bars(items))
    assert found == expected
    assert len(found) > 2 * 120


def texts(outputs: list[MarketPhase | Published]) -> list[bytes]:
    """Return what the phases say, a line each."""
    lines: list[bytes] = []
    for output in outputs:
        if isinstance(output, MarketPhase):
            lines += [*map(row_json, output.rows), *map(frame_json, output.frames)]
            lines += audit_json(output)
        else:
            lines += map(event_json, output.events)
            lines += map(suppression_json, output.suppressed)
    return lines


def test_ids_are_given_in_order_of_appearance() -> None:
    """New symbols of one minute by name, after those that are known."""
    state = BarsState()
    close(state, 0, "SOL", "ETH")
    close(state, 1, "SOL", "ETH", "BTC", "ADA")
    assert state.symbols == ["ETH", "SOL", "ADA", "BTC"]


def test_a_symbol_without_a_bar_is_stale() -> None:
    """The file has a hole for SOL alone; the roster keeps it.

    minute   0  1  2
    BTC      x  x  x
    SOL      x  -  x
    """
    state = BarsState()
    close(state, 0, "BTC", "SOL")
    found = sealed(close(state, 1, "BTC"))
    assert found[1, "SOL"]["dq_status"] == "stale"
    assert found[1, "SOL"]["dq_reasons"] == ["gap"]
    assert found[1, "SOL"]["close"] is None
    assert found[1, "BTC"]["dq_status"] == "ok"
    assert sealed(close(state, 2, "BTC", "SOL"))[2, "SOL"]["dq_status"] == "ok"


def test_missing_minutes_are_closed_one_by_one() -> None:
    """Two minutes are not in the file at all; they come out as gaps, in order.

    minute   0  [1  2]  3
    """
    state = BarsState()
    close(state, 0, "BTC", "SOL")
    items = close(state, 3, "BTC", "SOL")
    phases = list(dict.fromkeys((item.phase.minute_ms, item.phase.final) for item in items))
    assert phases == [(label(k), False) for k in (1, 2, 3)]
    status = {key: columns["dq_status"] for key, columns in sealed(items).items()}
    assert status == {
        **{(k, symbol): "stale" for k in (1, 2) for symbol in ("BTC", "SOL")},
        **{(3, symbol): "ok" for symbol in ("BTC", "SOL")},
    }
    assert state.minutes_skipped == 0


def test_the_first_minute_has_no_past() -> None:
    """Nothing is filled in before it."""
    items = close(BarsState(), 1000, "BTC")
    assert {item.phase.minute_ms for item in items} == {label(1000)}


def test_a_symbol_that_is_new_after_a_hole_was_not_there_before() -> None:
    """It joins the roster when it is first seen; from then on it has a bar in every minute.

    minute   0  [1  2]  3
    BTC      x   gap    x
    SOL                 x
    """
    state = BarsState()
    close(state, 0, "BTC")
    found = sealed(close(state, 3, "BTC", "SOL"))
    assert sorted(found) == [(1, "BTC"), (2, "BTC"), (3, "BTC"), (3, "SOL")]


@pytest.mark.parametrize(("beyond", "minutes"), [(0, HOLE_MS_MAX // MINUTE_MS + 1), (1, 1)])
def test_a_hole_of_more_than_a_week_is_skipped_and_counted(beyond: int, minutes: int) -> None:
    """Up to a week every minute is there; of a longer hole none."""
    state = BarsState()
    close(state, 0, "BTC")
    last = HOLE_MS_MAX // MINUTE_MS + 1 + beyond
    items = close(state, last, "BTC")
    assert len([item for item in items if not item.phase.final]) == minutes
    assert items[-1].phase.minute_ms == label(last)
    assert state.minutes_skipped == last - minutes
    assert not close(state, last + 1, "BTC")[0].phase.final


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sets(st.sampled_from("ABCDE"), min_size=1)),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 11),
)
def test_property_every_minute_is_complete(steps: list[tuple[int, set[str]]], cut: int) -> None:
    """Every phase has one item per symbol of its roster, ids never change, none is skipped.

    Wherever the state is saved and loaded in between.
    """
    state, minute, items = BarsState(), 0, list[BarItem]()
    given_bars: set[tuple[int, str]] = set()
    for k, (gap, symbols) in enumerate(steps):
        if k == cut:
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=BarsState)
        minute += gap
        items += close(state, minute, *symbols)
        given_bars |= {(minute, symbol) for symbol in symbols}
    by_phase: dict[tuple[int, bool], list[BarItem]] = {}
    for item in items:
        by_phase.setdefault((item.phase.minute_ms, item.phase.final), []).append(item)
    first = steps[0][0]
    wanted = [
        (label(m), final)
        for m in range(first, minute + 1)
        for final in ((False, True) if m % 15 == 0 else (False,))
    ]
    assert list(by_phase) == wanted
    names: dict[int, str] = {}
    for (_, final), phase in by_phase.items():
        assert [item.asset_uid for item in phase] == list(range(phase[0].phase.n_assets))
        for item in phase:
            assert (item.bar is None) is final
            if isinstance(item.bar, Bar):
                assert names.setdefault(item.asset_uid, item.bar.symbol) == item.bar.symbol
    ok = {key for key, columns in sealed(items).items() if columns["dq_status"] == "ok"}
    assert ok == given_bars


# --- columns -------------------------------------------------------------------------------------


def test_the_columns_of_a_bar() -> None:
    """The close stands in for the mid; what a bars file cannot know is NULL or absent."""
    assert columns_of(Raw()) == {
        "open": 100.0,
        "high": 103.0,
        "low": 98.0,
        "close": 102.0,
        "mid_close": 102.0,
        "ret_s_30": None,
        "rv_m_1": None,
        "atr_proxy_m_1": float(f"{5 / 102:.12g}"),
        "v_buy_m_1": 30_000.0,
        "v_sell_m_1": 20_000.0,
        "v_total_m_1": 50_000.0,
        "trade_count_m_1": 40,
        "cvd_delta_m_1": 10_000.0,
        "ingest_ts": iso(label(0)),
        "ingest_lag_ms": 0,
        "book_staleness_ms": None,
        "clock_skew_ms": None,
        "dropped_ticks": 0,
        "duplicate_ticks": 0,
        "source": "bars",
        "dq_status": "ok",
        "dq_reasons": [],
    }


@pytest.mark.parametrize(
    ("raw", "reasons"),
    [
        (Raw(trade_count=0, volume_quote=0.0, taker_buy_quote=0.0), ["quiet"]),
        (Raw(trade_count=None, volume_quote=0.0), ["quiet"]),
        (Raw(trade_count=None), []),
        (None, ["gap"]),
    ],
)
def test_a_quiet_minute_and_a_missing_one_differ(raw: Raw | None, reasons: list[str]) -> None:
    """Design D4; a file that does not count trades is quiet when nothing was traded."""
    columns = columns_of(raw)
    assert columns["dq_reasons"] == reasons
    assert columns["dq_status"] == {"": "ok", "quiet": "partial", "gap": "stale"}["".join(reasons)]


BY_SIDE = ("v_buy_m_1", "v_sell_m_1", "cvd_delta_m_1")


def test_without_the_taker_side_there_is_no_delta() -> None:
    """The columns are left out, as for a feed that is not subscribed; the total is still known."""
    columns = columns_of(Raw(taker_buy_quote=None))
    assert not set(BY_SIDE) & columns.keys()
    assert columns["v_total_m_1"] == 50_000.0
    assert columns["dq_status"] == "ok"


@pytest.mark.parametrize(
    ("raw", "reasons"),
    [
        (Raw(open=103.0), []),
        (Raw(open=103.1), ["price_sanity"]),
        (Raw(open=98.0), []),
        (Raw(open=97.9), ["price_sanity"]),
        (Raw(close=103.0), []),
        (Raw(close=103.1), ["price_sanity"]),
        (Raw(close=98.0), []),
        (Raw(close=97.9), ["price_sanity"]),
        (Raw(100.0, 100.0, 100.0, 100.0), []),
        (Raw(100.0, 98.0, 103.0, 102.0), ["price_sanity"]),  # low and high swapped
        (Raw(100.0, 99.0, 101.0, 100.0), ["price_sanity"]),
        (Raw(open=104.0, volume_quote=0.0, trade_count=0), ["price_sanity", "quiet"]),
        (Raw(open=104.0, volume_quote=0.0, trade_count=None), ["price_sanity", "quiet"]),
    ],
)
def test_prices_that_contradict_each_other_are_stale(raw: Raw, reasons: list[str]) -> None:
    """Build plan 8.6; the prices are stored as the file has them."""
    columns = columns_of(raw)
    assert columns["dq_reasons"] == reasons
    assert columns["dq_status"] == ("stale" if reasons else "ok")
    assert [columns[n] for n in ("open", "high", "low", "close")] == [
        *(raw.open, raw.high, raw.low, raw.close)
    ]


def test_what_differs_beyond_the_twelfth_digit_is_no_contradiction() -> None:
    """Prices are judged as they are stored."""
    assert columns_of(Raw(open=103.0 + 1e-12))["dq_reasons"] == []


def test_buys_above_the_total_leave_no_negative_sells() -> None:
    """Rounding in a file may put the part above the whole."""
    columns = columns_of(Raw(volume_quote=100.0, taker_buy_quote=100.0000001))
    assert columns["v_sell_m_1"] == 0.0


def test_a_missing_minute_has_no_numbers() -> None:
    """Never zero, above all not the volume."""
    columns = columns_of(None)
    for name in ("open", "high", "low", "close", "mid_close", "v_total_m_1"):
        assert columns[name] is None


prices = st.floats(1e-6, 1e7)


@given(prices, prices, prices, prices, st.floats(0, 1e12), st.floats(0, 1))
def test_property_numbers_are_stored_once(
    one: float, two: float, three: float, four: float, volume: float, share: float
) -> None:
    """Twelve digits, none of them a negative zero; buys and sells make the total."""
    low, opened, closed, high = sorted((one, two, three, four))
    columns = columns_of(Raw(opened, high, low, closed, volume, 5, volume * share))
    for value in columns.values():
        if isinstance(value, float):
            assert value == float(f"{value:.12g}")
            assert str(value) != "-0.0"
    buys, sells = columns["v_buy_m_1"], columns["v_sell_m_1"]
    assert buys + sells == pytest.approx(columns["v_total_m_1"], rel=1e-11, abs=1e-300)
    assert columns["cvd_delta_m_1"] == float(f"{buys - sells:.12g}")
    assert columns["dq_reasons"] == []


@given(prices, prices, prices, prices)
def test_property_prices_are_at_odds_unless_the_range_holds_them(
    opened: float, high: float, low: float, closed: float
) -> None:
    """Whatever a file says."""
    columns = columns_of(Raw(opened, high, low, closed))
    stored = [columns[n] for n in ("open", "high", "low", "close")]
    fine = stored[1] == max(stored) and stored[2] == min(stored)
    assert columns["dq_reasons"] == ([] if fine else ["price_sanity"])


def test_bars_enter_at_normalisation() -> None:
    """Every row has the columns of the pack, also where the file has a hole."""
    packs = load_packs()
    step = Normalize(packs)
    states = {uid: step.initial() for uid in range(2)}
    rows = []
    state = BarsState()
    feed: Mapping[int, tuple[str, ...]] = {0: ("BTC", "ETH"), 3: ("BTC",), 4: ("BTC", "ETH")}
    for minute, symbols in feed.items():
        for item in close(state, minute, *symbols):
            rows += [r for out in step.step(states[item.asset_uid], item) for r in out.rows]
    assert [row.tf for row in rows].count("1m") == 10
    names = {str(tf): set(packs.features.names(tf).values()) for tf in TIMEFRAMES}
    assert all(set(row.columns) == names[row.tf] for row in rows)


@pytest.mark.parametrize("taker_buy_quote", [None, 30_000.0])
def test_a_side_that_the_file_lacks_is_null_in_the_row(taker_buy_quote: float | None) -> None:
    """Left out of the bar, NULL in the row, with everything that is made of it."""
    step = Normalize(load_packs())
    own, state = step.initial(), BarsState()
    for minute in range(1, 7):
        bars = {"BTC": Raw(taker_buy_quote=taker_buy_quote)}
        items = close_minutes(state, label(minute), bars)
        rows = [row for item in items for out in step.step(own, item) for row in out.rows]
    assert rows[-1].tf == "1m"
    for name in (*BY_SIDE, "cvd_delta_m_5", "cvd_slope_m_5"):
        assert (rows[-1].columns[name] is None) is (taker_buy_quote is None), name
    assert rows[-1].columns["v_total_m_1"] == 50_000.0
