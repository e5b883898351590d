"""A bar says what happened in its minute, no more, and how far it can be trusted."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import kernel
from operators.assemble import (
    CLOSED_KEYS_MAX,
    Assemble,
    AssemblyCodec,
    AssemblyState,
    Minute,
    StateError,
)
from operators.formulas.elementary import median, round12
from operators.formulas.price import realized_volatility
from operators.kernel import KEY_BYTES
from operators.lattice import MINUTE_MS
from operators.layout import pack_context, ticks_of
from operators.records import (
    Asset,
    Bar,
    BarItem,
    Book,
    Boundary,
    Columns,
    Context,
    Feed,
    Handover,
    Phase,
    Quote,
    Ticks,
    Trade,
)
from packs.loader import load_packs

M = 1_756_891_800_000  # 09:30:00; the minute under test is [09:29:00, 09:30:00)
START = M - MINUTE_MS
BTC = Asset(0, "BTC", ("bbo", "trades"))
WITH_BOOK = Asset(0, "BTC", ("bbo", "l2Book", "trades"))
ONLY_TRADES = Asset(0, "BTC", ("trades",))
FEATURES = load_packs().features
STEP = Assemble(FEATURES)
CODEC = AssemblyCodec()


def trade(
    at_ms: int, px: float = 100.0, sz: float = 1.0, *, buy: bool = True, tid: int = 0
) -> Trade:
    """Return a print that arrives 300 ms after it happened."""
    return Trade((at_ms + 300) * 1_000_000, at_ms, px, sz, buy, tid or at_ms)


def quote(at_ms: int, bid: float | None = 99.0, ask: float | None = 101.0) -> Quote:
    """Return a top of book."""
    return Quote((at_ms + 300) * 1_000_000, at_ms, bid, 1.0, ask, 1.0)


def book(at_ms: int, bid: float = 99.0, ask: float = 101.0) -> Book:
    """Return a snapshot of one level a side."""
    return Book((at_ms + 300) * 1_000_000, at_ms, ((bid, 1.0),), ((ask, 1.0),))


def boundary(
    minute_ms: int = M,
    *,
    final: bool = False,
    gap: str | None = None,
    outage: bool = False,
    resync: bool = False,
    skew: int | None = 300,
    asset: Asset = BTC,
) -> Boundary:
    """Return a closing of a minute on a feed that is otherwise healthy."""
    clock_ms = minute_ms + (3000 if final else 1500)
    feed = Feed(gap, outage, resync, last_frame_ms=clock_ms, clock_skew_ms=skew)
    return Boundary(Phase(minute_ms, final, 1, clock_ms), asset, feed)


def run(*items: Ticks | Boundary, state: AssemblyState | None = None) -> list[BarItem]:
    """Feed items to a fresh asset (or a given state) and return what comes out."""
    state = state or STEP.initial()
    return [out for item in items for out in STEP.step(state, item)]


def bar(trades: Sequence[Trade] = (), quotes: Sequence[Quote] = (), **closing: object) -> Columns:
    """Return the columns of one minute made of these messages."""
    ticks = ticks_of(trades=trades, quotes=quotes)
    (item,) = run(ticks, boundary(**closing))  # type: ignore[arg-type]
    assert item.bar is not None
    return item.bar.columns


def test_ohlc_and_flow_of_a_plain_minute() -> None:
    """Four prints, two by buyers."""
    columns = bar(
        [
            trade(START, 100.0, 2.0),
            trade(START + 10, 103.0, 1.0, buy=False),
            trade(START + 20, 98.0, 1.0, buy=False),
            trade(M - 1, 101.0, 3.0),
        ],
        [quote(START), quote(M - 1)],
    )
    assert [columns[name] for name in ("open", "high", "low", "close")] == [100, 103, 98, 101]
    assert columns["v_buy_m_1"] == 503.0
    assert columns["v_sell_m_1"] == 201.0
    assert columns["v_total_m_1"] == 704.0
    assert columns["cvd_delta_m_1"] == 302.0
    assert columns["trade_count_m_1"] == 4
    assert columns["dq_status"] == "ok"
    assert columns["dq_reasons"] == []


def test_the_minute_is_half_open() -> None:
    """A print at 09:30:00.000 belongs to the next minute, one at 09:29:00.000 to this one."""
    state = STEP.initial()
    ticks = ticks_of(trades=[trade(START), trade(M)], quotes=[quote(START)])
    first, *_, second = run(
        ticks, boundary(), boundary(final=True), boundary(M + MINUTE_MS), state=state
    )
    assert isinstance(first.bar, Bar)
    assert first.bar.columns["trade_count_m_1"] == 1
    assert isinstance(second.bar, Bar)
    assert second.bar.columns["trade_count_m_1"] == 1


def test_spread_is_weighted_by_time() -> None:
    r"""Spread 2 for 45 s, 6 for 12 s, 10 for 3 s.

    09:29:00          :45        :57  09:30:00
       |----- 2 -------|---- 6 ---|- 10 -|
    """
    columns = bar(
        quotes=[quote(START), quote(START + 45_000, 97, 103), quote(START + 57_000, 95, 105)]
    )
    assert columns["spread_mean_m_1"] == (2 * 45 + 6 * 12 + 10 * 3) / 60
    assert columns["spread_p95_m_1"] == 6.0
    assert columns["mid_close"] == 100.0


def test_only_known_time_counts_for_the_spread() -> None:
    """Before the first quote ever there is no spread, and a one-sided book has none."""
    columns = bar(quotes=[quote(START + 30_000), quote(START + 50_000, None, 101.0)])
    assert columns["spread_mean_m_1"] == 2.0
    assert columns["mid_close"] is None
    assert columns["dq_reasons"] == ["quiet", "book_one_sided"]


def test_a_quote_holds_until_the_next_also_across_minutes() -> None:
    """State carries over: no update in a minute is not an empty book."""
    state = STEP.initial()
    ticks = ticks_of(trades=[trade(START)], quotes=[quote(START, 99, 100)])
    run(ticks, boundary(), boundary(final=True), state=state)
    (item,) = run(boundary(M + MINUTE_MS), state=state)
    assert item.bar is not None
    assert item.bar.columns["mid_close"] == 99.5
    assert item.bar.columns["spread_mean_m_1"] == 1.0
    assert item.bar.columns["open"] == item.bar.columns["close"] == 99.5
    assert item.bar.columns["dq_status"] == "partial"
    assert item.bar.columns["dq_reasons"] == ["quiet"]


def test_a_quiet_minute_and_a_hole_are_never_the_same_verdict() -> None:
    """Design D4."""
    quiet = bar(quotes=[quote(START)])
    hole = bar(quotes=[quote(START)], gap="disconnect")
    assert (quiet["dq_status"], quiet["dq_reasons"]) == ("partial", ["quiet"])
    assert (hole["dq_status"], hole["dq_reasons"]) == ("stale", ["gap", "quiet"])


def test_nothing_known_is_stale_and_all_prices_are_null() -> None:
    """Never zero."""
    columns = bar()
    assert columns["dq_status"] == "stale"
    assert "no_data" in columns["dq_reasons"]
    for name in ("open", "high", "low", "close", "mid_close", "ret_s_30", "spread_mean_m_1"):
        assert columns[name] is None
    assert columns["v_total_m_1"] == 0.0


def test_a_book_that_is_subscribed_must_confirm_itself() -> None:
    """On a thin coin any frame confirms; where the book is subscribed only the book does (D21)."""
    early = [quote(START + 1000)]
    assert bar([trade(START)], early)["book_staleness_ms"] == 0
    columns = bar([trade(START)], early, asset=WITH_BOOK)
    assert columns["book_staleness_ms"] == 59_000
    assert columns["dq_reasons"] == ["book_stale", "book_missing"]
    ticks = ticks_of(trades=[trade(START)], quotes=early, books=[book(M - 500)])
    (item,) = run(ticks, boundary(asset=WITH_BOOK))
    assert item.bar is not None
    assert item.bar.columns["book_staleness_ms"] == 500
    assert item.bar.columns["dq_status"] == "ok"


@pytest.mark.parametrize(
    ("skew", "status"),
    [(300, "ok"), (1000, "ok"), (1001, "partial"), (-1200, "partial"), (3001, "stale")],
)
def test_a_skewed_clock_is_graded(skew: int, status: str) -> None:
    """Build plan 8.6."""
    assert bar([trade(START)], [quote(START)], skew=skew)["dq_status"] == status


def test_duplicates_are_dropped_wherever_they_come() -> None:
    """In a frame, in a replay within the minute, in a replay after the minute."""
    state = STEP.initial()
    one = trade(START + 5, tid=7)
    ticks = ticks_of(trades=[one, one, trade(START + 5, tid=8)], quotes=[quote(START)])
    (sealed,) = run(ticks, ticks_of(trades=[one]), boundary(), state=state)
    assert sealed.bar is not None
    assert sealed.bar.columns["trade_count_m_1"] == 2
    assert sealed.bar.columns["duplicate_ticks"] == 2
    run(boundary(final=True), ticks_of(trades=[one]), state=state)
    (item,) = run(boundary(M + MINUTE_MS), state=state)
    assert item.bar is not None
    assert item.bar.columns["duplicate_ticks"] == item.bar.columns["dropped_ticks"] == 1
    assert item.bar.columns["trade_count_m_1"] == 0


def test_one_trade_id_at_two_times_is_two_prints() -> None:
    """The venue's tid is unique only together with time and coin."""
    assert bar([trade(START, tid=7), trade(START + 1, tid=7)])["trade_count_m_1"] == 2


def test_history_before_the_first_minute_is_not_flow() -> None:
    """The replay on subscribe must not enter the volume; its quotes are the state to start from."""
    old = [trade(START - 90_000, tid=k) for k in range(1, 31)]
    columns = bar([*old, trade(START)], [quote(START - 5000)])
    assert columns["trade_count_m_1"] == 1
    assert columns["dropped_ticks"] == 30
    assert columns["mid_close"] == 100.0
    assert columns["dq_reasons"] == []  # history is not late


def test_history_is_counted_apart_from_what_is_late() -> None:
    """Both are dropped ticks of the row; only the second blames the minute."""
    state = STEP.initial()
    history = [trade(START - 90_000 * k, tid=k) for k in range(1, 31)]
    run(ticks_of(trades=[*history, trade(START)], quotes=[quote(START)]), boundary(), state=state)
    assert state.sealed is not None
    assert state.sealed.dropped == {kernel.HISTORY: 30}
    run(boundary(final=True), state=state)
    many = [trade(START - 500 - k, tid=k) for k in range(1, 31)]
    (item,) = run(ticks_of(trades=many), boundary(M + MINUTE_MS), state=state)
    assert state.sealed.dropped == {kernel.LATE: 30}
    assert item.bar is not None
    assert item.bar.columns["dq_reasons"] == ["quiet", "late"]


def test_history_that_comes_again_is_a_duplicate() -> None:
    """The keys of history are known once its minute is folded."""
    state = STEP.initial()
    old = [trade(START - 90_000, tid=k) for k in range(1, 31)]
    run(ticks_of(trades=old), boundary(), boundary(final=True), ticks_of(trades=old), state=state)
    (item,) = run(boundary(M + MINUTE_MS), state=state)
    assert item.bar is not None
    assert item.bar.columns["duplicate_ticks"] == item.bar.columns["dropped_ticks"] == 30
    assert "late" not in item.bar.columns["dq_reasons"]


def closed_with_late(count: int, *more: Trade, state: AssemblyState) -> Columns:
    """Close a minute, drop `count` prints as late (and some more), return the next minute."""
    start = ticks_of(trades=[trade(START, tid=10_000)], quotes=[quote(START)])
    run(start, boundary(), boundary(final=True), state=state)
    late = [trade(START + k, tid=k) for k in range(1, count + 1)]
    ticks = ticks_of(trades=[*late, *more, trade(M, tid=20_000)])
    (item,) = run(ticks, boundary(M + MINUTE_MS), state=state)
    assert item.bar is not None
    return item.bar.columns


@pytest.mark.parametrize("short", [1, 0, -1])
def test_late_prints_blame_a_minute_from_the_packs_threshold_on(short: int) -> None:
    """Nine are counted, ten make it partial; the minute after it is free of them."""
    state = STEP.initial()
    count = FEATURES.quality.late_ticks_partial - short
    columns = closed_with_late(count, state=state)
    assert columns["dropped_ticks"] == count
    assert columns["dq_reasons"] == ([] if short > 0 else ["late"])
    assert columns["dq_status"] == ("ok" if short > 0 else "partial")
    print_ = ticks_of(trades=[trade(M + MINUTE_MS)])
    *_, item = run(
        boundary(M + MINUTE_MS, final=True), print_, boundary(M + 2 * MINUTE_MS), state=state
    )
    assert item.bar is not None
    assert item.bar.columns["dq_reasons"] == []


def test_duplicates_are_not_late() -> None:
    """Nine late prints and twenty that were known: the minute is not blamed."""
    known = [trade(START, tid=10_000)] * 20
    count = FEATURES.quality.late_ticks_partial - 1
    columns = closed_with_late(count, *known, state=STEP.initial())
    assert (columns["dropped_ticks"], columns["duplicate_ticks"]) == (count + 20, 20)
    assert columns["dq_reasons"] == []


def test_an_amended_minute_keeps_what_was_late_at_its_seal() -> None:
    """What is dropped between seal and final counts for the next minute, not for this one."""
    state = STEP.initial()
    limit = FEATURES.quality.late_ticks_partial
    assert closed_with_late(limit, state=state)["dq_reasons"] == ["late"]
    later = [trade(START + 100 + k, tid=k + 1) for k in range(limit + 5)]
    amending = trade(M + MINUTE_MS - 1)
    final = boundary(M + MINUTE_MS, final=True)
    (amended,) = run(ticks_of(trades=[*later, amending]), final, state=state)
    assert amended.bar is not None
    assert amended.bar.revision == 1
    assert amended.bar.columns["dropped_ticks"] == limit
    assert amended.bar.columns["dq_reasons"] == ["late"]
    ticks = ticks_of(trades=[trade(M + MINUTE_MS)])
    (item,) = run(ticks, boundary(M + 2 * MINUTE_MS), state=state)
    assert item.bar is not None
    assert item.bar.columns["dropped_ticks"] == limit + 5
    assert item.bar.columns["dq_reasons"] == ["late"]


def test_late_ticks_inside_grace_amend_once() -> None:
    """Seal, two late prints, final: one amended bar with everything in it."""
    state = STEP.initial()
    ticks = ticks_of(trades=[trade(START)], quotes=[quote(START)])
    (sealed,) = run(ticks, boundary(), state=state)
    late = [ticks_of(trades=[trade(M - 5, 102.0)]), ticks_of(trades=[trade(M - 9, 97.0)])]
    (amended,) = run(*late, boundary(final=True), state=state)
    assert sealed.bar is not None
    assert amended.bar is not None
    assert (sealed.bar.revision, amended.bar.revision) == (0, 1)
    assert amended.bar.columns["trade_count_m_1"] == 3
    assert amended.bar.columns["low"] == 97.0
    assert amended.bar.columns["close"] == 102.0
    assert amended.bar.columns["ingest_lag_ms"] == 3000


def test_after_grace_late_prints_are_counted_and_change_nothing() -> None:
    """They show in the next row's counter."""
    state = STEP.initial()
    run(ticks_of(trades=[trade(START)]), boundary(), boundary(final=True), state=state)
    (item,) = run(ticks_of(trades=[trade(M - 5)]), boundary(M + MINUTE_MS), state=state)
    assert item.bar is not None
    assert item.bar.columns["dropped_ticks"] == 1
    assert item.bar.columns["duplicate_ticks"] == 0
    assert item.bar.columns["v_total_m_1"] == 0.0


def test_without_late_ticks_the_final_phase_is_empty() -> None:
    """But it is sent, so that the join can count."""
    _, final = run(ticks_of(trades=[trade(START)]), boundary(), boundary(final=True))
    assert final.bar is None
    assert final.phase.final


def test_a_hole_that_becomes_known_in_grace_amends_the_verdict() -> None:
    """A disconnect noticed one second late still marks its minute."""
    ticks = ticks_of(trades=[trade(START)], quotes=[quote(START)])
    sealed, amended = run(ticks, boundary(), boundary(final=True, gap="stall"))
    assert sealed.bar is not None
    assert sealed.bar.columns["dq_status"] == "ok"
    assert amended.bar is not None
    assert amended.bar.columns["dq_reasons"] == ["gap"]


@pytest.mark.parametrize(
    ("outage", "resync", "reasons"),
    [
        (False, False, ["gap"]),
        (True, False, ["gap", "outage"]),
        (False, True, ["gap", "resync"]),
        (True, True, ["gap", "outage", "resync"]),
    ],
)
def test_a_hole_says_how_it_lies_in_the_minute(
    outage: bool, resync: bool, reasons: list[str]
) -> None:
    """All of them stale, and always beside `gap`."""
    columns = bar([trade(START)], [quote(START)], gap="disconnect", outage=outage, resync=resync)
    assert columns["dq_reasons"] == reasons
    assert columns["dq_status"] == "stale"


def test_the_end_of_a_hole_that_becomes_known_in_grace_amends_the_verdict() -> None:
    """At the seal the feed was away; at the final it is known to have come back in the minute."""
    ticks = ticks_of(trades=[trade(START)], quotes=[quote(START)])
    sealed, amended = run(
        ticks,
        boundary(gap="disconnect", outage=True),
        boundary(final=True, gap="disconnect", resync=True),
    )
    assert sealed.bar is not None
    assert sealed.bar.columns["dq_reasons"] == ["gap", "outage"]
    assert amended.bar is not None
    assert amended.bar.columns["dq_reasons"] == ["gap", "resync"]
    assert amended.bar.revision == 1


def test_a_hole_that_stays_the_same_amends_nothing() -> None:
    """The clock and the newest frame of the final phase are no news."""
    ticks = ticks_of(trades=[trade(START)], quotes=[quote(START)])
    hole = boundary(gap="disconnect", resync=True)
    _, final = run(ticks, hole, boundary(final=True, gap="disconnect", resync=True, skew=299))
    assert final.bar is None


def test_an_asset_that_joins_between_seal_and_final_has_nothing_to_finish() -> None:
    """Its first row is the next minute's."""
    (item,) = run(boundary(final=True))
    assert item.bar is None


def test_a_print_far_from_the_minute_is_absurd() -> None:
    """One damaged price among good ones is dropped and counted."""
    columns = bar(
        [trade(START), trade(START + 1, 1e9), trade(START + 2, 1e-6), trade(START + 3, 101.0)],
        [quote(START)],
    )
    assert columns["trade_count_m_1"] == 2
    assert columns["high"] == 101.0
    assert columns["dropped_ticks"] == 2


def test_a_crossed_quote_is_dropped() -> None:
    """Bid above ask contradicts itself; the quote before it stays in force."""
    columns = bar([trade(START)], [quote(START), quote(START + 1, 105.0, 101.0)])
    assert columns["mid_close"] == 100.0
    assert columns["dropped_ticks"] == 1


def test_a_tick_from_the_future_is_dropped() -> None:
    """More than 5 s ahead of its own arrival."""
    far = Trade((START + 1000) * 1_000_000, START + 6001, 100.0, 1.0, True, 1)
    near = Trade((START + 1000) * 1_000_000, START + 6000, 100.0, 1.0, True, 2)
    columns = bar([far, near])
    assert columns["trade_count_m_1"] == 1
    assert columns["dropped_ticks"] == 1


def test_returns_within_the_minute_look_back_by_exchange_time() -> None:
    """The mid in force at 09:29:30, not the last one before it in arrival order."""
    columns = bar(
        quotes=[
            quote(START, 99, 101),
            quote(START + 30_000, 109, 111),
            quote(START + 30_001, 119, 121),
            quote(START + 59_000, 120, 122),
        ]
    )
    assert columns["ret_s_30"] == 0.1


def test_without_bbo_the_book_gives_the_quotes() -> None:
    """A recording of books and trades only still has mids and spreads."""
    asset = Asset(0, "BTC", ("l2Book", "trades"))
    books = [book(START), book(M - 1000, 98.0, 104.0)]
    (item,) = run(ticks_of(books=books, trades=[trade(START)]), boundary(asset=asset))
    assert item.bar is not None
    assert item.bar.columns["mid_close"] == 101.0
    assert item.bar.columns["spread_p95_m_1"] == 2.0


def test_a_feed_that_is_not_subscribed_gives_no_columns_and_no_blame() -> None:
    """Trades only: no mid, no spread, and still ok."""
    columns = bar([trade(START)], asset=Asset(0, "X", ("trades",)))
    assert "mid_close" not in columns
    assert "spread_mean_m_1" not in columns
    assert columns["dq_status"] == "ok"


@pytest.mark.parametrize(
    ("asset", "quotes"),
    [
        (ONLY_TRADES, []),
        (BTC, []),
        (BTC, [quote(START, None, 101.0), quote(START + 5, 99.0, None)]),
    ],
)
def test_without_any_mid_the_prints_give_the_volatility(asset: Asset, quotes: list[Quote]) -> None:
    """In time order, whatever order they arrived in."""
    prices = [100.0, 103.0, 98.0, 98.0, 101.0]
    trades = [trade(START + 9 * k, px) for k, px in enumerate(prices)]
    columns = bar([trades[k] for k in (3, 0, 4, 1, 2)], quotes, asset=asset)
    volatility = realized_volatility(array("d", prices))
    assert volatility is not None
    assert columns["rv_m_1"] == round12(volatility) > 0.0
    assert bar(trades[:2], quotes, asset=asset)["rv_m_1"] is not None
    assert bar(trades[:1], quotes, asset=asset)["rv_m_1"] is None
    assert bar([], quotes, asset=asset)["rv_m_1"] is None


def test_one_mid_is_enough_to_keep_prints_out_of_the_volatility() -> None:
    """Prints bounce between bid and ask; they stand in only where there is no mid at all."""
    trades = [trade(START + k, 99.0 + k % 3) for k in range(9)]
    assert bar(trades, [quote(START)])["rv_m_1"] is None
    assert bar(trades, [quote(START), quote(M - 1)])["rv_m_1"] == 0.0
    assert bar(trades)["rv_m_1"] > 0.0


def test_absurd_prints_do_not_enter_the_volatility() -> None:
    """Nor anything else."""
    trades = [trade(START + k, px) for k, px in enumerate((100.0, 1e9, 100.0, 100.0))]
    assert bar(trades, asset=ONLY_TRADES)["rv_m_1"] == 0.0


@pytest.mark.parametrize("room", [4, 3, 1, 0])
def test_a_minute_holds_no_more_than_it_may(room: int) -> None:
    """Messages of all kinds count together; what is over is dropped and counted."""
    state = STEP.initial()
    silent = pack_context(Context(START * 1_000_000, None, None, None, None))
    held = bytearray(silent * (kernel.MINUTE_MESSAGES_MAX - room))
    state.minutes[M] = Minute(contexts=held)
    contexts = [Context((START + k) * 1_000_000, 5.0, 100.0, 100.0, 0.0) for k in range(3)]
    trades, quotes = [trade(START), trade(START + 1)], [quote(START)]
    ticks = ticks_of(trades=trades, quotes=quotes, contexts=contexts)
    asset = Asset(0, "BTC", ("activeAssetCtx", "bbo", "trades"))
    (item,) = run(ticks, boundary(asset=asset), state=state)
    assert item.bar is not None
    columns = item.bar.columns
    assert columns["trade_count_m_1"] == min(room, 2)
    assert columns["mid_close"] == (100.0 if room > 2 else None)
    assert columns["oi_staleness_ms"] == (MINUTE_MS if room > 3 else None)  # the first context's
    assert columns["dropped_ticks"] == 6 - room
    assert state.sealed is not None
    assert state.sealed.dropped == {kernel.OVERFLOW: 6 - room}


def test_a_crossed_book_is_not_carried_into_the_next_minute() -> None:
    """Where the book gives the quotes a crossed snapshot is no quote, in its minute and after."""
    asset = Asset(0, "BTC", ("l2Book", "trades"))
    state = STEP.initial()
    books = [book(START), book(M - 1000, 105.0, 101.0)]
    sealed, *_ = run(
        ticks_of(books=books), boundary(asset=asset), boundary(final=True, asset=asset), state=state
    )
    assert sealed.bar is not None
    assert sealed.bar.columns["spread_mean_m_1"] == 2.0
    ticks = ticks_of(books=[book(M + 58_000)])
    (item,) = run(ticks, boundary(M + MINUTE_MS, asset=asset), state=state)
    assert item.bar is not None
    assert item.bar.columns["spread_mean_m_1"] == 2.0


def test_a_sealed_minute_survives_a_restart() -> None:
    """State written between seal and final still amends, and only when something changed."""
    for late in ([], [trade(M - 1, 102.0)]):
        state = STEP.initial()
        run(ticks_of(trades=[trade(START)], quotes=[quote(START)]), boundary(), state=state)
        state = CODEC.decode(CODEC.encode(state))
        (item,) = run(ticks_of(trades=late), boundary(final=True), state=state)
        assert (item.bar is not None) is bool(late)


def test_a_print_is_known_also_after_a_restart() -> None:
    """Inside its minute, though what tells prints apart is not stored with them."""
    state, one = STEP.initial(), trade(START + 5, tid=7)
    run(ticks_of(trades=[one, trade(START + 6)]), state=state)
    stored = CODEC.encode(state)
    assert len(state.minutes[M].keys) == 2
    state = CODEC.decode(stored)
    assert state.minutes[M].keys == set()
    (item,) = run(ticks_of(trades=[one, trade(START + 7)]), boundary(), state=state)
    assert item.bar is not None
    assert item.bar.columns["trade_count_m_1"] == 3
    assert item.bar.columns["duplicate_ticks"] == 1


def version(number: int) -> bytes:
    """Return a state that another release wrote, as far as it can be read."""
    return CODEC.encode(msgspec.structs.replace(STEP.initial(), version=number))


@pytest.mark.parametrize(
    "stored",
    [
        msgspec.msgpack.encode({"version": 2, "minutes": {M: {"trades": []}}, "quote": None}),
        bytes.fromhex("28b52ffd2004210000") + version(3),  # it was compressed
        version(3),
        version(5),
    ],
)
def test_a_state_of_another_release_is_refused_in_words(stored: bytes) -> None:
    """Version 2 held messages, 3 was compressed; the advice is what can be done about it."""
    with pytest.raises(StateError, match="expected version 4; begin with an empty store"):
        CODEC.decode(stored)


def test_the_memory_of_closed_trades_is_bounded() -> None:
    """It must hold a 30-trade replay, not the day."""
    state = STEP.initial()
    many = [trade(START + k % 60_000, tid=k + 1) for k in range(CLOSED_KEYS_MAX + 50)]
    run(ticks_of(trades=many), boundary(), boundary(final=True), state=state)
    assert len(state.closed_keys) == CLOSED_KEYS_MAX * KEY_BYTES
    assert state.minutes == {}


# --- against naive computations ------------------------------------------------------------------


def naive(trades: list[Trade], quotes: list[Quote]) -> Columns:
    """Recompute a minute in exact arithmetic, one millisecond at a time."""
    seen: dict[tuple[int, int], Trade] = {}
    for t in trades:
        seen.setdefault((t.time_ms, t.tid), t)
    prints = sorted(seen.values(), key=lambda t: t.time_ms)
    notional = [(Fraction(t.px * t.sz), t.is_buy) for t in prints]
    spreads: dict[Fraction, int] = {}
    ordered = sorted(quotes, key=lambda q: q.time_ms)
    for ms in range(START, M, 10):
        known = [q for q in ordered if q.time_ms <= ms]
        if known and known[-1].bid_px is not None and known[-1].ask_px is not None:
            spread = Fraction(known[-1].ask_px - known[-1].bid_px)
            spreads[spread] = spreads.get(spread, 0) + 10
    total = sum(spreads.values())
    return {
        "open": prints[0].px if prints else None,
        "close": prints[-1].px if prints else None,
        "v_total_m_1": float(sum(n for n, _ in notional)),
        "v_buy_m_1": float(sum(n for n, buy in notional if buy)),
        "trade_count_m_1": len(prints),
        "spread_mean_m_1": float(sum(s * ms for s, ms in spreads.items()) / total)
        if total
        else None,
    }


ticks_strategy = st.integers(0, 5999).map(lambda k: START + 10 * k)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(ticks_strategy, st.integers(9000, 11000), st.booleans()), max_size=40),
    st.lists(st.tuples(ticks_strategy, st.integers(1, 50)), max_size=12),
    st.randoms(use_true_random=False),
)
def test_oracle_a_bar_equals_the_naive_computation(
    prints: list[tuple[int, int, bool]], tops: list[tuple[int, int]], rng: random.Random
) -> None:
    """Any messages, cut anywhere, with duplicates: same numbers as exact arithmetic."""
    trades = [trade(at, px / 100, 0.1, buy=buy, tid=k) for k, (at, px, buy) in enumerate(prints, 1)]
    quotes = [quote(at, 100 - s / 100, 100 + s / 100) for at, s in dict(tops).items()]
    repeated = trades + rng.sample(trades, len(trades) // 3)
    state = STEP.initial()
    for start in range(0, len(repeated), 7):
        run(ticks_of(trades=repeated[start : start + 7]), state=state)
    for one in quotes:
        run(ticks_of(quotes=[one]), state=state)
    state = CODEC.decode(CODEC.encode(state))
    (item,) = run(boundary(), state=state)
    assert item.bar is not None
    expected = naive(repeated, quotes)
    for name, value in expected.items():
        if prints or name not in ("open", "close"):
            found = item.bar.columns[name]
            assert found == (value if value is None else float(format(value, ".12g"))), name


@given(st.permutations(list(range(8))))
def test_property_reordering_within_the_minute_changes_nothing(order: list[int]) -> None:
    """Messages of different times may arrive in any order."""
    trades = [trade(START + 7000 * k, 100.0 + k, 1.0, tid=k + 1) for k in range(8)]
    quotes = [quote(START + 7000 * k, 99.0 + k, 101.0 + k) for k in range(8)]
    assert bar([trades[k] for k in order], [quotes[k] for k in order]) == bar(trades, quotes)


scales = st.sampled_from([0.01, 0.2, 0.5, 1.0, 2.0, 5.0, 100.0])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(scales, st.integers(95, 105)), min_size=1, max_size=8),
    st.lists(st.tuples(scales, st.integers(95, 105)), max_size=4),
)
def test_oracle_a_print_is_absurd_by_its_distance_from_the_level(
    prints: list[tuple[float, int]], tops: list[tuple[float, int]]
) -> None:
    """The level is the median of prints and mids; of fewer than three the first mid."""
    trades = [trade(START + k, scale * px, tid=k + 1) for k, (scale, px) in enumerate(prints)]
    mids = [scale * px for scale, px in tops]
    quotes = [quote(START + k, mid, mid) for k, mid in enumerate(mids)]
    prices = [t.px for t in trades] + mids
    level = mids[0] if mids and len(prices) < 3 else median(prices)
    factor = FEATURES.quality.absurd_price_factor
    kept = [t.px for t in trades if level <= t.px * factor and t.px <= level * factor]
    columns = bar(trades, quotes)
    assert columns["trade_count_m_1"] == len(kept)
    assert columns["dropped_ticks"] == len(trades) - len(kept)
    if kept:
        assert (columns["high"], columns["low"]) == (round12(max(kept)), round12(min(kept)))


# --- bars that were assembled before -------------------------------------------------------------


def test_a_bar_passes_as_it_is() -> None:
    """And leaves no trace."""
    state = STEP.initial()
    item = BarItem(Phase(M, False, 1, M), 0, Bar(0, "BTC", M, 0, {"close": 1.0}))
    assert STEP.step(state, item) == [item]
    assert state == STEP.initial()


def test_what_is_handed_over_is_all_that_is_known() -> None:
    """Whatever the step knew before: it goes on as the one that was stored."""
    known, other = STEP.initial(), STEP.initial()
    for state, px in ((known, 100.0), (other, 200.0)):
        STEP.step(state, ticks_of([trade(START, px, tid=7)], [quote(START)]))
        STEP.step(state, boundary())
    assert STEP.step(other, Handover(CODEC.encode(known))) == []
    assert CODEC.encode(other) == CODEC.encode(known)
    late = ticks_of([trade(START, 100.0, tid=7), trade(START + 1, 101.0, tid=8)])
    goes_on = [(STEP.step(state, late), STEP.step(state, boundary(final=True)))
               for state in (known, other)]  # fmt: skip
    assert goes_on[0] == goes_on[1]
    assert goes_on[0][1][0].bar is not None
