"""Build one bar per asset and minute.

Rules of this file: only a boundary closes a minute; what arrives between seal and final amends it
once (revision 1), what arrives later is counted and never reopens it; a bar is computed from the
whole buffered minute, so that micro-batch cuts cannot matter; floats are rounded once, here.
Build plan 2.2, 3.4, 8.5; design 2, D3, D4, D21.
"""

from __future__ import annotations

from math import fsum
from operator import attrgetter

import msgspec

from operators.formulas import flow, liquidity, positioning
from operators.formulas.elementary import median, round12, rounded
from operators.formulas.price import range_ratio, realized_volatility, simple_return
from operators.lattice import MINUTE_MS, iso, minute_of, seconds_to_next_hour
from operators.quality import grade, prices_at_odds
from operators.records import (
    Asset,
    Bar,
    BarItem,
    Book,
    Boundary,
    Columns,
    Context,
    Feed,
    Phase,
    Quote,
    Ticks,
    Trade,
)
from packs.schema import FeaturePack

DUPLICATE = "duplicate"
LATE = "late"
HISTORY = "history"
FUTURE = "future"
CROSSED = "crossed"
ABSURD_PRICE = "absurd_price"
OVERFLOW = "overflow"

# The 30-trade replay after a resubscribe must be told from late trades: keys of closed minutes.
CLOSED_KEYS_MAX = 128
# Buffered messages of one asset and minute; the busiest real minute has about 5,000 prints.
MINUTE_MESSAGES_MAX = 200_000
RET_LOOKBACK_MS = 30_000
# Feeds that carry perp contexts: one subscription per coin, or one for all.
CONTEXT_CHANNELS = ("activeAssetCtx", "context")

DEPTH_COLUMNS = ("obi_top5_mean_m_1", "depth_top5_quote_median_m_1")

_time_of = attrgetter("time_ms")


class Minute(msgspec.Struct):
    """What arrived for a minute that is not final yet, in arrival order."""

    trades: list[Trade] = []
    quotes: list[Quote] = []
    books: list[Book] = []
    contexts: list[Context] = []
    keys: set[tuple[int, int]] = set()


class Sealed(msgspec.Struct):
    """The bar that was sent at the seal, kept until the minute is final."""

    minute_ms: int
    columns: Columns
    extras: Columns
    feed: Feed
    dropped: dict[str, int]
    amended: bool = False


class AssemblyState(msgspec.Struct):
    """Everything assembly remembers of one asset.

    sample, funding_rate : newest open-interest sample and newest rate of the closed minutes.
    """

    version: int = 2
    minutes: dict[int, Minute] = {}
    final_ms: int = 0
    sealed: Sealed | None = None
    quote: Quote | None = None
    book: Book | None = None
    sample: Context | None = None
    funding_rate: float | None = None
    closed_keys: list[tuple[int, int]] = []
    dropped: dict[str, int] = {}
    asset: Asset | None = None


class Assemble:
    """Ticks and boundaries of one asset in, one `BarItem` per boundary out."""

    def __init__(self, features: FeaturePack) -> None:
        self._quality = features.quality
        self._future_ms = features.lattice.future_ms_max

    def initial(self) -> AssemblyState:
        """Return the state of an asset that was never heard of."""
        return AssemblyState()

    def step(self, state: AssemblyState, item: Ticks | Boundary) -> list[BarItem]:
        """Take in a micro-batch, or close a minute."""
        if isinstance(item, Ticks):
            self._take(state, item)
            return []
        state.asset = item.asset
        if item.phase.final:
            return [self._finish(state, item)]
        return [self._seal(state, item)]

    # --- taking in ---------------------------------------------------------------------------

    def _take(self, state: AssemblyState, ticks: Ticks) -> None:
        for reason, count in ticks.rejects.items():
            _drop(state, reason, count)
        for trade in ticks.trades:
            self._take_trade(state, trade)
        for quote in ticks.quotes:
            if liquidity.is_crossed(quote):
                _drop(state, CROSSED)
            else:
                self._take_state(state, "quotes", "quote", quote)
        for book in ticks.books:
            if liquidity.is_crossed(_top_of(book)):
                _drop(state, CROSSED)
            else:
                self._take_state(state, "books", "book", book)
        for context in ticks.contexts:
            self._take_context(state, context)

    def _take_trade(self, state: AssemblyState, trade: Trade) -> None:
        label = minute_of(trade.time_ms)
        key = (trade.time_ms, trade.tid)
        if label <= state.final_ms:
            _drop(state, DUPLICATE if key in state.closed_keys else _lateness(trade, label))
            _remember_closed(state, [key])
            return
        minute = self._minute(state, label, trade.time_ms, trade.arrival_ns)
        if minute is None:
            return
        if key in minute.keys:
            _drop(state, DUPLICATE)
            return
        minute.keys.add(key)
        minute.trades.append(trade)
        _mark_amended(state, label)

    def _take_state(
        self, state: AssemblyState, kind: str, current: str, record: Quote | Book
    ) -> None:
        """Buffer a state message; one dated before the open minutes may still be the newest."""
        label = minute_of(record.time_ms)
        if label <= state.final_ms:
            known = getattr(state, current)
            if known is None or record.time_ms >= known.time_ms:
                setattr(state, current, record)
                if state.sealed is not None:
                    state.sealed.amended = True  # the sealed minute began with another state
            return
        minute = self._minute(state, label, record.time_ms, record.arrival_ns)
        if minute is not None:
            getattr(minute, kind).append(record)
            _mark_amended(state, label)

    def _take_context(self, state: AssemblyState, context: Context) -> None:
        """Contexts carry no venue time: they belong to the minute of their arrival (design D1)."""
        arrival_ms = context.arrival_ns // 1_000_000
        minute = self._minute(state, minute_of(arrival_ms), arrival_ms, context.arrival_ns)
        if minute is not None:
            minute.contexts.append(context)

    def _minute(
        self, state: AssemblyState, label: int, time_ms: int, arrival_ns: int
    ) -> Minute | None:
        """Return the open minute of a message, None (and a counter) if it cannot have one."""
        if time_ms > arrival_ns // 1_000_000 + self._future_ms:
            _drop(state, FUTURE)
            return None
        minute = state.minutes.get(label)
        if minute is None:
            minute = state.minutes[label] = Minute()
        buffered = len(minute.trades) + len(minute.quotes) + len(minute.books)
        if buffered + len(minute.contexts) >= MINUTE_MESSAGES_MAX:
            _drop(state, OVERFLOW)
            return None
        return minute

    # --- closing -----------------------------------------------------------------------------

    def _seal(self, state: AssemblyState, boundary: Boundary) -> BarItem:
        phase = boundary.phase
        _fold_history(state, phase.minute_ms)
        state.final_ms = max(state.final_ms, phase.minute_ms - MINUTE_MS)
        dropped, state.dropped = state.dropped, {}
        columns, extras = self._columns(state, boundary, dropped)
        state.sealed = Sealed(phase.minute_ms, columns, extras, boundary.feed, dropped)
        return _bar_item(boundary, columns, extras, revision=0)

    def _finish(self, state: AssemblyState, boundary: Boundary) -> BarItem:
        phase, sealed = boundary.phase, state.sealed
        if sealed is None or sealed.minute_ms != phase.minute_ms:
            return BarItem(phase, boundary.asset.asset_uid, None)  # joined after the seal
        item = BarItem(phase, boundary.asset.asset_uid, None)
        if sealed.amended or _hole_of(boundary.feed) != _hole_of(sealed.feed):
            columns, extras = self._columns(state, boundary, sealed.dropped)
            if _differs(columns, sealed.columns) or extras != sealed.extras:
                item = _bar_item(boundary, columns, extras, revision=1)
        _carry_over(state, phase.minute_ms)
        return item

    def _columns(
        self, state: AssemblyState, boundary: Boundary, dropped: dict[str, int]
    ) -> tuple[Columns, Columns]:
        """Compute every raw column of a minute, and the extras, from its buffer and the state
        before it."""
        label = boundary.phase.minute_ms
        minute = state.minutes.get(label) or Minute()
        channels = boundary.asset.channels
        quotes = sorted(_quotes_of(minute, channels), key=_time_of)
        carry = _carried_quote(state, channels)
        covered = liquidity.spans(carry, quotes, label - MINUTE_MS, label)
        mids = [mid for span in covered if (mid := span.mid) is not None]
        prints = sorted(minute.trades, key=_time_of)
        trades = self._plausible(prints, mids)
        has_quotes = "bbo" in channels or "l2Book" in channels
        tracked = any(name in channels for name in CONTEXT_CHANNELS)
        columns: Columns = {}
        columns |= _price_columns(trades, mids)
        if has_quotes:
            columns |= _mid_columns(columns, covered, mids, label)
        if not mids:
            columns["rv_m_1"] = rounded(realized_volatility([trade.px for trade in trades]))
        if "trades" in channels:
            columns |= _flow_columns(trades)
        if tracked:
            columns |= self._positioning_columns(state, minute, label)
        if has_quotes:
            columns |= _spread_columns(covered)
        if "l2Book" in channels:
            columns |= self._depth_columns(state, minute, label)
        counts = dict(dropped)
        if len(prints) > len(trades):
            counts[ABSURD_PRICE] = len(prints) - len(trades)
        columns |= _dropped_columns(counts)
        staleness = _book_staleness_ms(minute, state, boundary) if has_quotes else None
        columns |= _lag_columns(boundary.phase, boundary.feed, staleness)
        reasons = self._feed_reasons(boundary.feed, counts)
        reasons += self._price_reasons(columns, staleness, has_quotes)
        if tracked:
            reasons += self._positioning_reasons(columns, minute)
        if "l2Book" in channels and None in (columns[name] for name in DEPTH_COLUMNS):
            reasons.append("book_missing")
        columns["dq_status"], columns["dq_reasons"] = grade(reasons)
        columns["source"] = "ws"
        return columns, _extras(carry, quotes, label) if "bbo" in channels else {}

    def _plausible(self, trades: list[Trade], mids: list[float]) -> list[Trade]:
        """Drop prints further than a factor from the minute's price level."""
        prices = [trade.px for trade in trades] + mids
        factor = self._quality.absurd_price_factor
        if not trades or max(prices) <= min(prices) * factor:
            return trades  # as nearly always: wherever the level is, nothing is far from it
        level = mids[0] if mids and len(prices) < 3 else median(prices)
        return [t for t in trades if level <= t.px * factor and t.px <= level * factor]

    # --- positioning and depth ---------------------------------------------------------------

    def _positioning_columns(self, state: AssemblyState, minute: Minute, label: int) -> Columns:
        """Open interest, funding and basis; levels are NULL when the newest sample is old."""
        samples = [context for context in minute.contexts if positioning.is_sample(context)]
        newest = samples[-1] if samples else state.sample
        funding = positioning.newest_funding(minute.contexts, state.funding_rate)
        columns: Columns = {
            "oi_staleness_ms": None,
            "oi_open": None,
            "oi_close": None,
            "oi_min": None,
            "oi_max": None,
            "oi_close_base": None,
            "mark_close": None,
            "funding_h_1": rounded(funding),
            "basis_bp_m_1": rounded(positioning.basis_bp(minute.contexts)),
            "time_to_next_funding_sec": seconds_to_next_hour(label),
        }
        if newest is None:
            return columns
        staleness = label - newest.arrival_ns // 1_000_000
        columns["oi_staleness_ms"] = staleness
        if staleness <= self._quality.oi_staleness_ms_max:
            levels = [positioning.open_interest_quote(sample) for sample in samples or [newest]]
            columns["oi_open"], columns["oi_close"] = levels[0], levels[-1]
            columns["oi_min"], columns["oi_max"] = min(levels), max(levels)
            columns["oi_close_base"] = rounded(newest.open_interest_base)
            columns["mark_close"] = rounded(newest.mark_px)
        return columns

    def _depth_columns(self, state: AssemblyState, minute: Minute, label: int) -> Columns:
        """Imbalance and depth of the top levels; NULL without a fresh snapshot (plan 5.5)."""
        books, limit = sorted(minute.books, key=_time_of), self._quality.depth_staleness_ms_max
        if not books or label - books[-1].time_ms > limit:
            return dict.fromkeys(DEPTH_COLUMNS)
        # A snapshot that is sent again, as after a reconnect, counts once.
        newest = {book.time_ms: book for book in books}
        snapshots = [(time_ms, liquidity.depth_of(book)) for time_ms, book in newest.items()]
        start, carry = label - MINUTE_MS, None
        if state.book is not None and start - state.book.time_ms <= limit:
            carry = liquidity.depth_of(state.book)
        mean = liquidity.imbalance_mean(carry, snapshots, start, label)
        return {
            "obi_top5_mean_m_1": rounded(mean),
            "depth_top5_quote_median_m_1": rounded(liquidity.depth_median(snapshots)),
        }

    # --- quality -----------------------------------------------------------------------------

    def _feed_reasons(self, feed: Feed, dropped: dict[str, int]) -> list[str]:
        quality, reasons = self._quality, []
        if feed.gap is not None:
            reasons.append("gap")
            if feed.outage:
                reasons.append("outage")
            if feed.resync:
                reasons.append("resync")
        if dropped.get(LATE, 0) >= quality.late_ticks_partial:
            reasons.append("late")
        if feed.clock_skew_ms is not None:
            skew = abs(feed.clock_skew_ms)
            if skew > quality.clock_skew_ms_stale:
                reasons.append("clock_stale")
            elif skew > quality.clock_skew_ms_partial:
                reasons.append("clock_late")
        return reasons

    def _price_reasons(
        self, columns: Columns, staleness: int | None, has_quotes: bool
    ) -> list[str]:
        reasons = []
        if columns["close"] is None and has_quotes:  # of prints alone, no print is only quiet
            reasons.append("no_data")
        if prices_at_odds(columns):
            reasons.append("price_sanity")
        if has_quotes:
            if staleness is None or staleness > self._quality.book_staleness_ms_max:
                reasons.append("book_stale")
            if columns["mid_close"] is None:
                reasons.append("book_one_sided")
        if columns.get("trade_count_m_1") == 0:
            reasons.append("quiet")
        return reasons

    def _positioning_reasons(self, columns: Columns, minute: Minute) -> list[str]:
        reasons = []
        if columns["oi_close"] is None:
            reasons.append("oi_stale")
        if minute.contexts and not any(map(positioning.has_index, minute.contexts)):
            reasons.append("index_missing")
        return reasons


# --- state ---------------------------------------------------------------------------------------


def _drop(state: AssemblyState, reason: str, count: int = 1) -> None:
    state.dropped[reason] = state.dropped.get(reason, 0) + count


def _lateness(trade: Trade, label: int) -> str:
    """Tell a print that came late from one that is replayed after a subscription (design D3)."""
    late = trade.arrival_ns // 1_000_000 - label <= MINUTE_MS
    return LATE if late else HISTORY


def _mark_amended(state: AssemblyState, label: int) -> None:
    if state.sealed is not None and state.sealed.minute_ms == label:
        state.sealed.amended = True


def _fold_history(state: AssemblyState, label: int) -> None:
    """At an asset's first seal: what is dated before that minute is history, not flow (D3)."""
    for old in sorted(minute for minute in state.minutes if minute < label):
        history = len(state.minutes[old].trades)
        if history:
            _drop(state, HISTORY, history)
        _carry_over(state, old)


def _carry_over(state: AssemblyState, label: int) -> None:
    """Close a minute for good: its last states carry over, its trades become known keys."""
    minute = state.minutes.pop(label, None)
    state.final_ms = max(state.final_ms, label)
    state.sealed = None
    if minute is None:
        return
    for kind, current in (("quotes", "quote"), ("books", "book")):
        records = getattr(minute, kind)
        if records:
            newest = max(reversed(records), key=_time_of)  # of equal times the last
            known = getattr(state, current)
            if known is None or newest.time_ms >= known.time_ms:
                setattr(state, current, newest)
    for context in minute.contexts:
        if positioning.is_sample(context):
            state.sample = context
    state.funding_rate = positioning.newest_funding(minute.contexts, state.funding_rate)
    _remember_closed(state, [(trade.time_ms, trade.tid) for trade in minute.trades])


def _remember_closed(state: AssemblyState, keys: list[tuple[int, int]]) -> None:
    state.closed_keys = (state.closed_keys + keys)[-CLOSED_KEYS_MAX:]


# --- columns -------------------------------------------------------------------------------------


def _quotes_of(minute: Minute, channels: tuple[str, ...]) -> list[Quote]:
    """Return the quotes of a minute; without a bbo feed the book's best levels stand in."""
    if "bbo" in channels:
        return minute.quotes
    return [_top_of(book) for book in minute.books] if "l2Book" in channels else []


def _carried_quote(state: AssemblyState, channels: tuple[str, ...]) -> Quote | None:
    """Return the top of book that holds when the minute begins."""
    if "bbo" in channels:
        return state.quote
    return _top_of(state.book) if "l2Book" in channels and state.book is not None else None


def _top_of(book: Book) -> Quote:
    """Return the best levels of a book as a quote."""
    bid_px, bid_sz = book.bids[0] if book.bids else (None, None)
    ask_px, ask_sz = book.asks[0] if book.asks else (None, None)
    return Quote(book.arrival_ns, book.time_ms, bid_px, bid_sz, ask_px, ask_sz)


def _price_columns(trades: list[Trade], mids: list[float]) -> Columns:
    """OHLC from prints, else from the mids in force."""
    prices = [trade.px for trade in trades] or mids
    if not prices:
        return {"open": None, "high": None, "low": None, "close": None}
    return {
        "open": round12(prices[0]),
        "high": round12(max(prices)),
        "low": round12(min(prices)),
        "close": round12(prices[-1]),
    }


def _mid_columns(
    ohlc: Columns, covered: list[liquidity.Span], mids: list[float], label: int
) -> Columns:
    """Mid at the close, its 30 s return, realised volatility, range."""
    mid_close = rounded(covered[-1].mid) if covered else None
    before = liquidity.mid_at(covered, label - RET_LOOKBACK_MS)
    return {
        "mid_close": mid_close,
        "ret_s_30": rounded(simple_return(mid_close, before)),
        "rv_m_1": rounded(realized_volatility(mids)),
        "atr_proxy_m_1": rounded(range_ratio(ohlc["high"], ohlc["low"], mid_close)),
    }


def _flow_columns(trades: list[Trade]) -> Columns:
    buys, sells, total = flow.notional(trades)
    v_buy, v_sell = round12(buys), round12(sells)
    return {
        "v_buy_m_1": v_buy,
        "v_sell_m_1": v_sell,
        "v_total_m_1": round12(total),
        "trade_count_m_1": len(trades),
        "cvd_delta_m_1": round12(fsum((v_buy, -v_sell))),
    }


def _spread_columns(covered: list[liquidity.Span]) -> Columns:
    mean, p95 = liquidity.spread_columns(covered)
    return {"spread_mean_m_1": rounded(mean), "spread_p95_m_1": rounded(p95)}


def _dropped_columns(dropped: dict[str, int]) -> Columns:
    total = 0
    for count in dropped.values():
        total += count
    return {"dropped_ticks": total, "duplicate_ticks": dropped.get(DUPLICATE, 0)}


def _lag_columns(phase: Phase, feed: Feed, staleness_ms: int | None) -> Columns:
    return {
        "ingest_ts": iso(phase.clock_ms),
        "ingest_lag_ms": phase.clock_ms - phase.minute_ms,
        "book_staleness_ms": staleness_ms,
        "clock_skew_ms": feed.clock_skew_ms,
    }


def _book_staleness_ms(minute: Minute, state: AssemblyState, boundary: Boundary) -> int | None:
    """Age at the close of the last message that carried or confirmed the top of book (D21).

    Where the book is subscribed its snapshots confirm; elsewhere any frame of the healthy feed
    does. NULL before the first book.
    """
    label = boundary.phase.minute_ms
    carried = [q.time_ms for q in minute.quotes] + [b.time_ms for b in minute.books]
    carried += [r.time_ms for r in (state.quote, state.book) if r is not None]
    if not carried:
        return None
    newest = max(carried)
    alive_ms = boundary.feed.last_frame_ms
    if "l2Book" not in boundary.asset.channels and alive_ms is not None:
        newest = max(newest, alive_ms)
    return max(0, label - newest)


def _extras(carry: Quote | None, quotes: list[Quote], label: int) -> Columns:
    """Return the columns on trial; one that is NULL is left out."""
    now = liquidity.microprice(liquidity.quote_at(carry, quotes, label))
    before = liquidity.microprice(liquidity.quote_at(carry, quotes, label - RET_LOOKBACK_MS))
    drift = rounded(simple_return(now, before))
    return {} if drift is None else {"microprice_drift_s_30": drift}


def _hole_of(feed: Feed) -> tuple[str | None, bool, bool]:
    return feed.gap, feed.outage, feed.resync


def _bar_item(boundary: Boundary, columns: Columns, extras: Columns, *, revision: int) -> BarItem:
    asset, phase = boundary.asset, boundary.phase
    bar = Bar(asset.asset_uid, asset.symbol, phase.minute_ms, revision, columns, extras)
    return BarItem(phase, asset.asset_uid, bar)


_CLOCKED = ("ingest_ts", "ingest_lag_ms")


def _differs(new: Columns, old: Columns) -> bool:
    """Tell whether an amendment changes more than the time at which it was made."""
    if new.keys() != old.keys():  # a feed was first heard in the grace
        return True
    return any(new[name] != old[name] for name in new if name not in _CLOCKED)
