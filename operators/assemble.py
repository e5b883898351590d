"""Build one bar per asset and minute.

Rules of this file: only a boundary closes a minute; what arrives between seal and final amends it
once (revision 1), what arrives later is counted and never reopens it; a bar is computed from the
whole buffered minute, so that micro-batch cuts cannot matter; floats are rounded once, here; of the
feature pack nothing is read but what `reads_of` names, for bars are kept (decision 16).
Build plan 2.2, 3.4, 8.5; design 2, D3, D4, D21.
"""

from __future__ import annotations

from array import array

import msgspec

from operators import kernel
from operators.formulas.price import range_ratio, simple_return
from operators.kernel import (
    BOOK_BYTES,
    CLOSED_KEYS_MAX,
    DUPLICATE,
    HISTORY,
    LATE,
    QUOTE_BYTES,
    TRADE_BYTES,
    drop,
    median,
    round12,
    rounded,
)
from operators.lattice import MINUTE_MS, iso, seconds_to_next_hour
from operators.layout import pack_trade, trades_of
from operators.quality import grade, prices_at_odds
from operators.records import (
    Asset,
    Bar,
    BarItem,
    Boundary,
    Columns,
    Feed,
    Handover,
    Ticks,
)
from packs.schema import FeaturePack, Quality

ABSURD_PRICE = "absurd_price"

RET_LOOKBACK_MS = 30_000
# Feeds that carry perp contexts: one subscription per coin, or one for all.
CONTEXT_CHANNELS = ("activeAssetCtx", "context")

# Mid and microprice at the close, and those of the look-back.
Instants = tuple[float | None, float | None, float | None, float | None]

OBI, DEPTH = "obi_top5_mean_m_1", "depth_top5_quote_median_m_1"
OI_NULL: Columns = dict.fromkeys(
    ("oi_open", "oi_close", "oi_min", "oi_max", "oi_close_base", "mark_close")
)


STATE_VERSION = 4


class StateError(Exception):
    """A stored state cannot be read; the message says what to do."""


class Minute(msgspec.Struct):
    """What arrived for a minute that is not final yet: records in arrival order.

    keys : of the trades. They are not stored: without them they are made of the trades.
    """

    trades: bytearray = msgspec.field(default_factory=bytearray)
    quotes: bytearray = msgspec.field(default_factory=bytearray)
    books: bytearray = msgspec.field(default_factory=bytearray)
    contexts: bytearray = msgspec.field(default_factory=bytearray)
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

    quote, book : the newest of the closed minutes, a record each. sample, funding_rate : newest
    open-interest sample, and newest rate. Records are empty when there is none. closed_keys :
    time and number of the newest prints of closed minutes, packed (operators/kernel.py).
    """

    version: int = STATE_VERSION
    minutes: dict[int, Minute] = {}
    final_ms: int = 0
    sealed: Sealed | None = None
    quote: bytearray = msgspec.field(default_factory=bytearray)
    book: bytearray = msgspec.field(default_factory=bytearray)
    sample: bytearray = msgspec.field(default_factory=bytearray)
    funding_rate: float | None = None
    closed_keys: bytearray = msgspec.field(default_factory=bytearray)
    dropped: dict[str, int] = {}
    asset: Asset | None = None


def reads_of(features: FeaturePack) -> tuple[Quality, int]:
    """Return all that bars take from a feature pack: limits of quality, `future_ms_max`."""
    return features.quality, features.lattice.future_ms_max


class Assemble:
    """Ticks and boundaries of one asset in, one `BarItem` per boundary out.

    A `BarItem` that was assembled before passes as it is; behind the last of them a `Handover` says
    with what the ticks are to go on.
    """

    def __init__(self, features: FeaturePack) -> None:
        self._quality, self._future_ms = reads_of(features)
        self._codec = AssemblyCodec()

    def initial(self) -> AssemblyState:
        """Return the state of an asset that was never heard of."""
        return AssemblyState()

    def step(
        self, state: AssemblyState, item: Ticks | Boundary | BarItem | Handover
    ) -> list[BarItem]:
        """Take in a micro-batch, or close a minute."""
        if isinstance(item, Ticks):
            self._take(state, item)
            return []
        if isinstance(item, BarItem):
            return [item]
        if isinstance(item, Handover):
            known = self._codec.decode(item.state)
            for name in known.__struct_fields__:
                setattr(state, name, getattr(known, name))
            return []
        state.asset = item.asset
        if item.phase.final:
            return [self._finish(state, item)]
        return [self._seal(state, item)]

    def _take(self, state: AssemblyState, ticks: Ticks) -> None:
        for reason, count in ticks.rejects.items():
            drop(state, reason, count)
        kernel.take_trades(state, ticks.trades, self._future_ms, Minute)
        kernel.take_states(state, ticks.quotes, QUOTE_BYTES, self._future_ms, Minute)
        kernel.take_states(state, ticks.books, BOOK_BYTES, self._future_ms, Minute)
        kernel.take_contexts(state, ticks.contexts, Minute)

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
        label, channels = boundary.phase.minute_ms, boundary.asset.channels
        minute = state.minutes.get(label) or Minute()
        prints = kernel.in_time_order(minute.trades, TRADE_BYTES)
        books = kernel.in_time_order(minute.books, BOOK_BYTES)
        has_bbo, has_books = "bbo" in channels, "l2Book" in channels
        quotes = carry = bytearray()
        if has_bbo:
            quotes, carry = kernel.in_time_order(minute.quotes, QUOTE_BYTES), state.quote
        elif has_books:  # without a bbo feed the book's best levels stand in
            quotes, carry = kernel.tops_of(books), kernel.tops_of(state.book)
        has_quotes = has_bbo or has_books
        tracked = any(name in channels for name in CONTEXT_CHANNELS)
        mids, instants, spread_mean, spread_p95 = kernel.top_of_book(
            carry, quotes, label - MINUTE_MS, label, label - RET_LOOKBACK_MS
        )
        found = kernel.notional(prints)
        trades = self._plausible(prints, found[0], mids)
        if trades is not prints:
            found = kernel.notional(trades)
        prices, buys, sells, total = found
        columns: Columns = _price_columns(prices or mids)
        if has_quotes:
            columns |= _mid_columns(columns, instants)
        columns["rv_m_1"] = rounded(kernel.realized_volatility(mids or prices))
        if "trades" in channels:
            v_buy, v_sell = round12(buys), round12(sells)
            columns["v_buy_m_1"] = v_buy
            columns["v_sell_m_1"] = v_sell
            columns["v_total_m_1"] = round12(total)
            columns["trade_count_m_1"] = len(prices)
            columns["cvd_delta_m_1"] = round12(v_buy - v_sell)
        has_index = True
        if tracked:
            has_index = self._positioning_columns(state, minute.contexts, label, columns)
        if has_quotes:
            columns["spread_mean_m_1"] = rounded(spread_mean)
            columns["spread_p95_m_1"] = rounded(spread_p95)
        if has_books:
            self._depth_columns(state, books, label, columns)
        counts = dropped
        if trades is not prints:
            absurd = (len(prints) - len(trades)) // TRADE_BYTES
            counts = {**dropped, ABSURD_PRICE: absurd}
        columns["dropped_ticks"] = _total(counts)
        columns["duplicate_ticks"] = counts.get(DUPLICATE, 0)
        if not has_bbo:  # quotes of another time, before the roster said otherwise, count as well
            quotes = kernel.in_time_order(minute.quotes, QUOTE_BYTES)
        staleness = _book_staleness_ms(quotes, books, state, boundary) if has_quotes else None
        clock_ms = boundary.phase.clock_ms
        columns["ingest_ts"] = iso(clock_ms)
        columns["ingest_lag_ms"] = clock_ms - label
        columns["book_staleness_ms"] = staleness
        columns["clock_skew_ms"] = boundary.feed.clock_skew_ms
        reasons = self._feed_reasons(boundary.feed, counts)
        reasons += self._price_reasons(columns, staleness, has_quotes)
        if tracked:
            if columns["oi_close"] is None:
                reasons.append("oi_stale")
            if minute.contexts and not has_index:
                reasons.append("index_missing")
        if has_books and None in (columns[OBI], columns[DEPTH]):
            reasons.append("book_missing")
        columns["dq_status"], columns["dq_reasons"] = grade(reasons)
        columns["source"] = "ws"
        return columns, _extras(instants) if has_bbo else {}

    def _plausible(self, trades: bytearray, prices: array[float], mids: array[float]) -> bytearray:
        """Drop prints further than a factor from the minute's price level; the same if there are
        none."""
        factor, levels = self._quality.absurd_price_factor, prices + mids
        if not trades or kernel.within_factor(levels, factor):
            return trades  # as nearly always: wherever the level is, nothing is far from it
        level = mids[0] if mids and len(levels) < 3 else median(levels)
        near = [t for t in trades_of(trades) if level <= t.px * factor and t.px <= level * factor]
        return bytearray(b"".join(map(pack_trade, near)))

    # --- positioning and depth ---------------------------------------------------------------

    def _positioning_columns(
        self, state: AssemblyState, contexts: bytearray, label: int, columns: Columns
    ) -> bool:
        """Open interest, funding and basis; levels are NULL when the newest sample is old.

        Return whether a context had a usable index.
        """
        levels, sample, funding, basis_bp, has_index = kernel.contexts_of(contexts)
        if not sample and state.sample:
            sample = state.sample
            levels = kernel.contexts_of(sample)[0]
        if funding is None:
            funding = state.funding_rate
        staleness = None
        if sample:
            arrival_ms, coins, mark = kernel.sample_of(sample)
            staleness = label - arrival_ms
        columns["oi_staleness_ms"] = staleness
        if staleness is None or staleness > self._quality.oi_staleness_ms_max:
            columns |= OI_NULL
        else:
            columns["oi_open"], columns["oi_close"] = levels[0], levels[-1]
            columns["oi_min"], columns["oi_max"] = min(levels), max(levels)
            columns["oi_close_base"] = round12(coins)
            columns["mark_close"] = round12(mark)
        columns["funding_h_1"] = rounded(funding)
        columns["basis_bp_m_1"] = rounded(basis_bp)
        columns["time_to_next_funding_sec"] = seconds_to_next_hour(label)
        return has_index

    def _depth_columns(
        self, state: AssemblyState, books: bytearray, label: int, columns: Columns
    ) -> None:
        """Imbalance and depth of the top levels; NULL without a fresh snapshot (plan 5.5)."""
        limit, start, carry = self._quality.depth_staleness_ms_max, label - MINUTE_MS, state.book
        if not books or label - kernel.last_ms(books, BOOK_BYTES) > limit:
            columns[OBI] = columns[DEPTH] = None
            return
        if carry and start - kernel.last_ms(carry, BOOK_BYTES) > limit:
            carry = bytearray()
        mean, usual = kernel.depth_columns(carry, books, start, label)
        columns[OBI], columns[DEPTH] = rounded(mean), rounded(usual)

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


# --- state ---------------------------------------------------------------------------------------


def _fold_history(state: AssemblyState, label: int) -> None:
    """At an asset's first seal: what is dated before that minute is history, not flow (D3)."""
    for old in sorted(minute for minute in state.minutes if minute < label):
        history = len(state.minutes[old].trades) // TRADE_BYTES
        if history:
            drop(state, HISTORY, history)
        _carry_over(state, old)


def _carry_over(state: AssemblyState, label: int) -> None:
    """Close a minute for good: its last states carry over, its trades become known keys."""
    minute = state.minutes.pop(label, None)
    state.final_ms = max(state.final_ms, label)
    state.sealed = None
    if minute is None:
        return
    state.quote = kernel.newest(state.quote + minute.quotes, QUOTE_BYTES)
    state.book = kernel.newest(state.book + minute.books, BOOK_BYTES)
    sample, funding = kernel.newest_context(minute.contexts)
    state.sample = sample or state.sample
    state.funding_rate = state.funding_rate if funding is None else funding
    kernel.remember_closed(state, kernel.keys_of(minute.trades[-CLOSED_KEYS_MAX * TRADE_BYTES :]))


class AssemblyCodec:
    """State to bytes and back. Not compressed: that takes longer than writing what it saves."""

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(AssemblyState).decode

    def encode(self, state: AssemblyState) -> bytes:
        """Return the bytes of a state."""
        minutes = {
            label: Minute(minute.trades, minute.quotes, minute.books, minute.contexts)
            for label, minute in state.minutes.items()
        }
        return self._encode(msgspec.structs.replace(state, minutes=minutes))

    def decode(self, data: bytes) -> AssemblyState:
        """Return the state that `encode` wrote; StateError if another release wrote it."""
        try:
            state = self._decode(data)
        except msgspec.DecodeError as error:
            raise _refused(str(error)) from error
        if state.version != STATE_VERSION:
            raise _refused(f"found version {state.version}")
        return state


def _refused(reason: str) -> StateError:
    return StateError(
        f"the recovery store holds open minutes that this release cannot read ({reason}): expected "
        f"version {STATE_VERSION}; begin with an empty store, or replay the log"
    )


# --- columns -------------------------------------------------------------------------------------


def _price_columns(prices: array[float]) -> Columns:
    """OHLC, from prints or else from the mids in force."""
    first, high, low, last = kernel.ohlc(prices) if prices else (None, None, None, None)
    return {"open": first, "high": high, "low": low, "close": last}


def _mid_columns(ohlc: Columns, instants: Instants) -> Columns:
    """Mid at the close, its 30 s return, range."""
    mid, _, mid_then, _ = instants
    mid_close = rounded(mid)
    return {
        "mid_close": mid_close,
        "ret_s_30": rounded(simple_return(mid_close, mid_then)),
        "rv_m_1": None,
        "atr_proxy_m_1": rounded(range_ratio(ohlc["high"], ohlc["low"], mid_close)),
    }


def _total(dropped: dict[str, int]) -> int:
    total = 0
    for count in dropped.values():
        total += count
    return total


def _book_staleness_ms(
    quotes: bytearray, books: bytearray, state: AssemblyState, boundary: Boundary
) -> int | None:
    """Age at the close of the last message that carried or confirmed the top of book (D21).

    Where the book is subscribed its snapshots confirm; elsewhere any frame of the healthy feed
    does. NULL before the first book.
    """
    label = boundary.phase.minute_ms
    newest = max(
        kernel.last_ms(quotes, QUOTE_BYTES),
        kernel.last_ms(books, BOOK_BYTES),
        kernel.last_ms(state.quote, QUOTE_BYTES),
        kernel.last_ms(state.book, BOOK_BYTES),
    )
    if newest < 0:
        return None
    alive_ms = boundary.feed.last_frame_ms
    if "l2Book" not in boundary.asset.channels and alive_ms is not None:
        newest = max(newest, alive_ms)
    return max(0, label - newest)


def _extras(instants: Instants) -> Columns:
    """Return the columns on trial; one that is NULL is left out."""
    _, micro, _, micro_then = instants
    drift = simple_return(micro, micro_then)
    return {} if drift is None else {"microprice_drift_s_30": round12(drift)}


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
