"""The inner loops of a minute: what is done per message, per bin and per baseline.

Rules of this file: one source, two forms. It runs as it stands; `setup.py` also compiles it, with
the C types of kernel.pxd, and where that was built from this very text its functions take the place
of these (operators/native.py). Hence functions alone, over plain values, lists, and records and
states by attribute; and expressions that give the same bits in C: + - * /, sqrt, frexp and
comparisons in the order written, sums correctly rounded.  Numerics 2-7, 11; decision 9.
"""

from __future__ import annotations

from bisect import bisect_left  # plain form only
from collections.abc import Callable, Sequence
from math import frexp, fsum, ldexp, sqrt  # plain form only
from struct import Struct  # plain form only
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec  # plain form only

from operators import native  # plain form only
from operators.layout import CONTEXT, QUOTE, TRADE  # plain form only
from operators.records import Context, Quote, Trade  # plain form only

if TYPE_CHECKING:
    from operators.assemble import AssemblyState, Instants, Minute
    from operators.baselines import Baseline, Decay, Feature, Robust
    from operators.formulas.sketch import Sketch
    from operators.normalize import Entry

    Kept = TypeVar("Kept")

# --- elementary functions (numerics 6) -----------------------------------------------------------

LN2_HI = 0.6931471803691238  # ln 2 in two parts: e * LN2_HI is exact for every binary exponent e
LN2_LO = 1.9082149292705877e-10
SQRT_HALF = 0.7071067811865476
SQRT_TWO = 1.4142135623730951  # exactly 2 * SQRT_HALF
HUGE = 1.7976931348623157e308  # the largest double


def _atanh2(h: float) -> float:
    """Return 2 atanh(h) for |h| <= 0.1716: the series 2h + 2h (h^2/3 + ... + h^24/25)."""
    t = h * h
    p = 1.0 / 25.0
    p = p * t + 1.0 / 23.0
    p = p * t + 1.0 / 21.0
    p = p * t + 1.0 / 19.0
    p = p * t + 1.0 / 17.0
    p = p * t + 1.0 / 15.0
    p = p * t + 1.0 / 13.0
    p = p * t + 1.0 / 11.0
    p = p * t + 1.0 / 9.0
    p = p * t + 1.0 / 7.0
    p = p * t + 1.0 / 5.0
    p = p * t + 1.0 / 3.0
    return 2.0 * h + 2.0 * h * (t * p)


def log(x: float) -> float:
    """Natural logarithm of a finite x > 0.

    Numerics 6.

    >>> log(10.0)
    2.302585092994046
    """
    assert 0.0 < x <= HUGE, f"log needs a finite x > 0, got {x!r}"
    if SQRT_HALF <= x < SQRT_TWO:  # exponent 0: the general case to the bit
        return _atanh2((x - 1.0) / (x + 1.0))
    f, e = frexp(x)
    if f < SQRT_HALF:
        f *= 2.0
        e -= 1
    r = _atanh2((f - 1.0) / (f + 1.0))
    return e * LN2_HI + (e * LN2_LO + r)


def log1p(x: float) -> float:
    """log(1 + x) for a finite x >= 0, accurate near zero.

    Numerics 6.

    >>> log1p(1e-08)
    9.999999950000001e-09
    """
    assert x >= 0.0, f"log1p needs x >= 0, got {x!r}"
    if x < 0.25:
        return _atanh2(x / (2.0 + x))
    return log(1.0 + x)


def asinh(x: float) -> float:
    """Inverse hyperbolic sine, odd; linear near zero, logarithmic far out. |x| < 1e154.

    Numerics 6.

    >>> asinh(-3.0)
    -1.8184464592320668
    """
    w = abs(x)
    y = log1p(w + w * w / (1.0 + sqrt(1.0 + w * w)))
    return -y if x < 0.0 else y


def pow_3_8(x: float) -> float:
    """x^(3/8) for x >= 0, which makes absolute returns nearly normal.

    Numerics 2: three correctly rounded roots and one product.

    >>> pow_3_8(0.02)
    0.2306143078159937
    """
    q = sqrt(sqrt(x))
    return q * sqrt(q)


# --- rounding (numerics 11.5) --------------------------------------------------------------------

# The power of ten that brings every x of an octave [2^(e-1), 2^e) to [1e11, 2e12), by e + 35. All
# are exact doubles, up to 1e22; so are their tenths.
ROUND_MIN = 2.0**-36
ROUND_MAX = 1e12
_TENS = [
    float(next(10**k for k in range(23) if 10**k << 40 >= 10**11 << (41 - e)))
    for e in range(-35, 41)
]
# Adding and subtracting it rounds |x| < 2^51 to the nearest whole number.
_WHOLE = 6755399441055744.0
# A scaled value this far from a half is on the same side of it as the true one: its error is half
# a unit in the last place of a number below 2e12, that is 1.3e-4.
_CLEAR = 0.4998


def round12(x: float) -> float:
    """A finite x at 12 significant digits, as stored; negative zero becomes zero.

    Numerics 11.5. The result is float(format(x, ".12g")): x times a power of ten, to the nearest
    whole number, divided by that power; one correctly rounded division of exact numbers gives the
    double next to the decimal. Near a tie and out of range the text decides.

    >>> round12(2 / 3), round12(-0.0)
    (0.666666666667, 0.0)
    """
    w = abs(x)
    if ROUND_MIN <= w < ROUND_MAX:
        ten = _TENS[frexp(w)[1] + 35]
        scaled = w * ten
        if scaled >= ROUND_MAX:
            ten = ten / 10.0
            scaled = w * ten
        whole = (scaled + _WHOLE) - _WHOLE
        if -_CLEAR < scaled - whole < _CLEAR:
            return whole / ten if x > 0.0 else -(whole / ten)
    assert w <= HUGE, f"only finite numbers are stored, got {x!r}"
    return float(format(x, ".12g")) + 0.0


def rounded(x: float | None) -> float | None:
    """Round as `round12` does; NULL stays NULL."""
    return None if x is None else round12(x)


def median(values: Sequence[float]) -> float:
    """Middle of at least one value, of an even count the mean of the middle two.

    Numerics 5.

    >>> median([4.0, 1.0, 3.0, 2.0])
    2.5
    """
    assert values, "the median of nothing"
    ordered = sorted(values)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    return 0.5 * (ordered[half - 1] + ordered[half])


# --- ticks as they lie in memory (operators/layout.py) -------------------------------------------

TRADE_BYTES = 48
QUOTE_BYTES = 48
BOOK_BYTES = 176
CONTEXT_BYTES = 40


_TIME = Struct("<qq")  # plain form only
_TWO = Struct("<dd")  # plain form only
_SIDE = Struct("<10d")  # plain form only


def trade_at(data: bytearray, index: int) -> Trade:  # plain form only
    return Trade(*TRADE.unpack_from(data, index * TRADE_BYTES))  # plain form only


def quote_at(data: bytearray, index: int, size: int) -> Any:  # plain form only
    numbers = QUOTE.unpack_from(data, index * size)  # plain form only
    if size == BOOK_BYTES:  # plain form only
        numbers = (*numbers[:4], *_TWO.unpack_from(data, index * size + 96))  # plain form only
    return Quote(*numbers)  # plain form only


def context_at(data: bytearray, index: int) -> Any:  # plain form only
    return Context(*CONTEXT.unpack_from(data, index * CONTEXT_BYTES))  # plain form only


def time_at(data: bytearray, index: int, size: int) -> int:  # plain form only
    found: int = _TIME.unpack_from(data, index * size)[1]  # plain form only
    return found  # plain form only


def append_quote(data: bytearray, quote: Any) -> None:  # plain form only
    data += QUOTE.pack(*msgspec.structs.astuple(quote))  # plain form only


def in_time_order(data: bytearray, size: int) -> bytearray:
    """Return dated records by venue time, those of one time as they came; the same if it is so."""
    before = 0
    count = len(data) // size
    for index in range(count):
        now = time_at(data, index, size)
        if now < before:
            order = sorted([(time_at(data, k, size), k) for k in range(count)])
            return bytearray(b"").join([data[k * size : (k + 1) * size] for _, k in order])
        before = now
    return data


def newest(data: bytearray, size: int) -> bytearray:
    """Return the dated record with the latest venue time, of equal times the last; empty without
    any."""
    found = -1
    latest = 0
    for index in range(len(data) // size):
        now = time_at(data, index, size)
        if found < 0 or now >= latest:
            found = index
            latest = now
    return data[found * size : (found + 1) * size] if found >= 0 else bytearray()


def keys_of(trades: bytearray) -> list[tuple[int, int]]:
    """Return what tells prints apart: (venue time, trade id)."""
    keys = []
    for index in range(len(trades) // TRADE_BYTES):
        trade = trade_at(trades, index)
        keys.append((trade.time_ms, trade.tid))
    return keys


def tops_of(books: bytearray) -> bytearray:
    """Return the best levels of snapshots as quotes."""
    quotes = bytearray()
    for index in range(len(books) // BOOK_BYTES):
        append_quote(quotes, quote_at(books, index, BOOK_BYTES))
    return quotes


# --- messages to their minutes (build plan 2.2; design D3) ---------------------------------------

MINUTE_MS = 60_000
NS_OF_MS = 1_000_000
DUPLICATE = "duplicate"
LATE = "late"
HISTORY = "history"
FUTURE = "future"
CROSSED = "crossed"
OVERFLOW = "overflow"
# The 30-trade replay after a resubscribe must be told from late trades: keys of closed minutes.
CLOSED_KEYS_MAX = 128
# Buffered messages of one asset and minute; the busiest real minute has about 5,000 prints.
MINUTE_MESSAGES_MAX = 200_000


def take_trades(
    state: AssemblyState, trades: bytearray, future_ms: int, make: Callable[[], Minute]
) -> None:
    """Add prints to their open minutes, each once; count what cannot be.

    make : of an empty minute. future_ms : how far ahead of its arrival a print may be dated. One of
    a closed minute is late, or known, or replayed after a subscription (design D3).
    """
    final_ms = state.final_ms
    open_label = first = room = 0
    minute = None
    keys: set[tuple[int, int]] = set()
    count = len(trades) // TRADE_BYTES
    for index in range(count):
        trade = trade_at(trades, index)
        time_ms = trade.time_ms
        label = (time_ms // MINUTE_MS + 1) * MINUTE_MS
        key = (time_ms, trade.tid)
        reason = None
        if label <= final_ms:
            reason = LATE if trade.arrival_ns // NS_OF_MS - label <= MINUTE_MS else HISTORY
            if key in state.closed_keys:
                reason = DUPLICATE
            remember_closed(state, [key])
        elif time_ms > trade.arrival_ns // NS_OF_MS + future_ms:
            reason = FUTURE
        elif label != open_label:
            if minute is not None and index > first:
                minute.trades += trades[first * TRADE_BYTES : index * TRADE_BYTES]
                _mark_amended(state, open_label)
            first = index
            minute = _open_minute(state, label, make)
            open_label = label
            room = MINUTE_MESSAGES_MAX - _buffered(minute)
            keys = minute.keys
            if not keys and minute.trades:  # they are not stored
                keys.update(keys_of(minute.trades))
        if reason is None:
            if room <= 0:
                reason = OVERFLOW
            elif key in keys:
                reason = DUPLICATE
            else:
                keys.add(key)
                room -= 1
                continue
        if minute is not None and index > first:
            minute.trades += trades[first * TRADE_BYTES : index * TRADE_BYTES]
            _mark_amended(state, open_label)
        first = index + 1
        drop(state, reason, 1)
    if minute is not None and count > first:
        minute.trades += trades[first * TRADE_BYTES :]
        _mark_amended(state, open_label)


def take_states(
    state: AssemblyState,
    data: bytearray,
    size: int,
    future_ms: int,
    make: Callable[[], Minute],
) -> None:
    """Add quotes, or books, to their open minutes; count what cannot be.

    size : of a record. One dated before the open minutes may still be the newest, and then changes
    what the sealed minute began with.
    """
    final_ms = state.final_ms
    open_label = first = room = 0
    minute = None
    count = len(data) // size
    for index in range(count):
        quote = quote_at(data, index, size)
        time_ms = quote.time_ms
        label = (time_ms // MINUTE_MS + 1) * MINUTE_MS
        reason = None
        if quote.bid_px > quote.ask_px:
            reason = CROSSED
        elif label <= final_ms:
            reason = ""
            _take_earlier(state, data[index * size : (index + 1) * size], size)
        elif time_ms > quote.arrival_ns // NS_OF_MS + future_ms:
            reason = FUTURE
        elif label != open_label:
            if minute is not None and index > first:
                _append(minute, data[first * size : index * size], size)
                _mark_amended(state, open_label)
            first = index
            minute = _open_minute(state, label, make)
            open_label = label
            room = MINUTE_MESSAGES_MAX - _buffered(minute)
        if reason is None:
            if room > 0:
                room -= 1
                continue
            reason = OVERFLOW
        if minute is not None and index > first:
            _append(minute, data[first * size : index * size], size)
            _mark_amended(state, open_label)
        first = index + 1
        if reason:
            drop(state, reason, 1)
    if minute is not None and count > first:
        _append(minute, data[first * size :], size)
        _mark_amended(state, open_label)


def take_contexts(state: AssemblyState, contexts: bytearray, make: Callable[[], Minute]) -> None:
    """Add contexts to the minutes of their arrival: they carry no venue time (design D1)."""
    open_label = first = room = 0
    minute = None
    count = len(contexts) // CONTEXT_BYTES
    for index in range(count + 1):
        label = 0
        if index < count:
            context = context_at(contexts, index)
            label = (context.arrival_ns // NS_OF_MS // MINUTE_MS + 1) * MINUTE_MS
        if label == open_label:
            continue
        if minute is not None:
            kept = min(index - first, max(room, 0))
            minute.contexts += contexts[first * CONTEXT_BYTES : (first + kept) * CONTEXT_BYTES]
            if index - first > kept:
                drop(state, OVERFLOW, index - first - kept)
        if index < count:
            minute = _open_minute(state, label, make)
            open_label = label
            first = index
            room = MINUTE_MESSAGES_MAX - _buffered(minute)


def drop(state: AssemblyState, reason: str, count: int) -> None:
    """Count messages that are left out, by reason."""
    state.dropped[reason] = state.dropped.get(reason, 0) + count


def remember_closed(state: AssemblyState, keys: list[tuple[int, int]]) -> None:
    """Note prints of closed minutes, the newest last."""
    state.closed_keys = (state.closed_keys + keys)[-CLOSED_KEYS_MAX:]


def _open_minute(state: AssemblyState, label: int, make: Callable[[], Minute]) -> Minute:
    minute = state.minutes.get(label)
    if minute is None:
        minute = state.minutes[label] = make()
    return minute


def _buffered(minute: Minute) -> int:
    return (
        len(minute.trades) // TRADE_BYTES
        + len(minute.quotes) // QUOTE_BYTES
        + len(minute.books) // BOOK_BYTES
        + len(minute.contexts) // CONTEXT_BYTES
    )


def _append(minute: Minute, records: bytearray, size: int) -> None:
    if size == BOOK_BYTES:
        minute.books += records
    else:
        minute.quotes += records


def _mark_amended(state: AssemblyState, label: int) -> None:
    sealed = state.sealed
    if sealed is not None and sealed.minute_ms == label:
        sealed.amended = True


def _take_earlier(state: AssemblyState, record: bytearray, size: int) -> None:
    known = state.book if size == BOOK_BYTES else state.quote
    if known and time_at(record, 0, size) < time_at(known, 0, size):
        return
    if size == BOOK_BYTES:
        state.book = record
    else:
        state.quote = record
    if state.sealed is not None:
        state.sealed.amended = True  # the sealed minute began with another state


# --- prices and flow (build plan 5.1, 5.2) -------------------------------------------------------


def simple_return(now: float | None, before: float | None) -> float | None:
    """Return the relative change (0.01 = 1 %); NULL if either price is missing or not positive.

    >>> simple_return(101.0, 100.0)
    0.01
    >>> simple_return(101.0, None) is None
    True
    """
    if now is None or before is None:
        return None
    price = now
    base = before
    if base <= 0.0 or price <= 0.0:
        return None
    return (price - base) / base


def range_ratio(high: float | None, low: float | None, mid: float | None) -> float | None:
    """Return (high - low) / mid; NULL if an input is.  Build plan 5.1 (atr_proxy_m_1)."""
    if high is None or low is None or mid is None or mid <= 0.0:
        return None
    return (high - low) / mid


def realized_volatility(mids: Sequence[float]) -> float | None:
    """Return sqrt(sum of squared log changes) over successive mids; NULL below two mids.

    Unscaled, dimensionless. Successive equal mids add nothing. Build plan 5.1 (rv_m_1).

    >>> realized_volatility([100.0, 100.0])
    0.0
    >>> realized_volatility([100.0]) is None
    True
    """
    if len(mids) < 2:
        return None
    total = 0.0
    before: float = mids[0]
    for mid in mids:
        if mid != before:
            change = log(mid / before)
            total += change * change
            before = mid
    return sqrt(total)


def notional(trades: bytearray) -> tuple[list[float], float, float, float]:
    """Return (prices, taker buys, taker sells, total): the latter in quote currency, each sum
    correctly rounded."""
    prices = []
    buys = []
    sells = []
    for index in range(len(trades) // TRADE_BYTES):
        trade = trade_at(trades, index)
        px = trade.px
        prices.append(px)
        if trade.is_buy:
            buys.append(px * trade.sz)
        else:
            sells.append(px * trade.sz)
    return prices, fsum(buys), fsum(sells), fsum(buys + sells)


def slope(deltas: Sequence[float]) -> float:
    """Return the least-squares slope per bar of the running sum of `deltas` (oldest first).

    With k bars and x = 0..k-1 the slope is sum((x - mean x) * level) / sum((x - mean x)^2); only
    differences of levels matter, so the daily anchor of the stored level does not. Build plan 5.2.

    >>> slope([5.0, 1.0, 1.0, 1.0, 1.0])
    1.0
    """
    count = len(deltas)
    assert count >= 2, count
    middle = (count - 1) / 2.0
    products = []
    squares = []
    level = 0.0
    for index in range(count):
        level += deltas[index]
        weight = index - middle
        products.append(weight * level)
        squares.append(weight * weight)
    return fsum(products) / fsum(squares)


def ohlc(prices: list[float]) -> tuple[float, float, float, float]:
    """Return (first, highest, lowest, last) of at least one price, rounded."""
    low: float = prices[0]
    high: float = prices[0]
    for px in prices:
        if px < low:
            low = px
        if px > high:
            high = px
    return round12(prices[0]), round12(high), round12(low), round12(prices[-1])


def within_factor(values: list[float], factor: float) -> bool:
    """Tell whether no value exceeds another one more than `factor` times; there is at least one."""
    low: float = values[0]
    high: float = values[0]
    for x in values:
        if x < low:
            low = x
        if x > high:
            high = x
    return high <= low * factor


# --- the top of book (build plan 5.5) ------------------------------------------------------------


def top_of_book(
    carry: bytearray, quotes: bytearray, start_ms: int, end_ms: int, at_ms: int
) -> tuple[list[float], Instants, float | None, float | None]:
    """Walk the quotes in force over [start_ms, end_ms): each holds until the next one.

    carry : the quote that held before, empty for none. quotes : time-sorted. at_ms : an instant not
    before start_ms.
    Returns (mids, instants, mean, p95): the mid of each quote in force, carry first, a one-sided
    one has none; (mid, microprice) of the quote in force at the end, and of the last one at or
    before at_ms; the time-weighted mean and 95th percentile of ask - bid in quote currency, NULL
    when the book was never two-sided. The percentile is the smallest spread that held, with all
    smaller ones, for at least 95 % of the two-sided time. Of quotes of one instant all have a mid,
    the last one holds.
    """
    mids = []
    weighted: list[float] = []
    held: dict[float, int] = {}
    total_ms = 0
    then = -1
    at = start_ms
    two_sided = False
    bid = 0.0
    ask = 0.0
    if carry:
        quote = quote_at(carry, 0, QUOTE_BYTES)
        bid = quote.bid_px
        ask = quote.ask_px
        two_sided = bid == bid and ask == ask
    count = len(quotes) // QUOTE_BYTES
    for index in range(count):
        quote = quote_at(quotes, index, QUOTE_BYTES)
        time_ms = quote.time_ms
        if two_sided:
            mids.append(_middle(bid, ask))
            if time_ms > at:
                total_ms += _hold(held, weighted, bid, ask, time_ms - at)
        at = time_ms
        if at <= at_ms:
            then = index
        bid = quote.bid_px
        ask = quote.ask_px
        two_sided = bid == bid and ask == ask
    if two_sided:
        mids.append(_middle(bid, ask))
        if end_ms > at:
            total_ms += _hold(held, weighted, bid, ask, end_ms - at)
    now_mid, now_micro = _instant(quotes, count - 1) if count else _instant(carry, 0)
    then_mid, then_micro = _instant(quotes, then) if then >= 0 else _instant(carry, 0)
    instants = (now_mid, now_micro, then_mid, then_micro)
    if total_ms == 0:
        return mids, instants, None, None
    return mids, instants, fsum(weighted) / total_ms, _percentile_95(held, total_ms)


def _middle(bid: float, ask: float) -> float:
    return (bid + ask) / 2.0


def _instant(quotes: bytearray, index: int) -> tuple[float | None, float | None]:
    """Return mid and microprice, the mid weighted by the opposite sizes; NULL unless both sides are
    there.  Build plan 5.5 (microprice_drift_s_30)."""
    if not quotes:
        return None, None
    quote = quote_at(quotes, index, QUOTE_BYTES)
    bid = quote.bid_px
    ask = quote.ask_px
    if bid != bid or ask != ask:
        return None, None
    bid_sz = quote.bid_sz
    ask_sz = quote.ask_sz
    if not bid_sz + ask_sz > 0.0:  # also for NaN
        return _middle(bid, ask), None
    return _middle(bid, ask), _micro(bid, bid_sz, ask, ask_sz)


def _micro(bid: float, bid_sz: float, ask: float, ask_sz: float) -> float:
    return (ask * bid_sz + bid * ask_sz) / (bid_sz + ask_sz)


def _hold(held: dict[float, int], weighted: list[float], bid: float, ask: float, ms: int) -> int:
    """Note that a spread held for a while; return how long."""
    spread = ask - bid
    weighted.append(spread * ms)
    width = spread
    held[width] = held.get(width, 0) + ms
    return ms


def _percentile_95(held: dict[float, int], total_ms: int) -> float:
    left_ms = total_ms
    for spread in sorted(held, reverse=True):
        left_ms -= held[spread]
        if left_ms * 100 < total_ms * 95:
            return spread
    raise AssertionError("the spreads of a minute cover all of its two-sided time")


# --- depth (build plan 5.5) ----------------------------------------------------------------------

DEPTH_LEVELS = 5


def depth_columns(
    carry: bytearray, books: bytearray, start_ms: int, end_ms: int
) -> tuple[float | None, float | None]:
    """Return (time-weighted mean of bid / (bid + ask), median of bid + ask) of the snapshots.

    bid, ask : depth of the best five levels in quote currency. carry : the snapshot in force
    before start_ms, empty for none, for the mean alone. books : time-sorted, from start_ms on; of
    one time the last counts, as when a snapshot is sent again. One without both sides ends the one
    before it and counts for nothing. NULL when nothing counts.
    """
    depths = []
    parts = []
    total_ms = 0
    at = start_ms
    bid = 0.0
    ask = 0.0
    if carry:
        bid = _depth(carry, 0, 0)
        ask = _depth(carry, 0, 1)
    known = bid > 0.0 and ask > 0.0
    count = len(books) // BOOK_BYTES
    for index in range(count):
        time_ms = time_at(books, index, BOOK_BYTES)
        if index + 1 < count and time_at(books, index + 1, BOOK_BYTES) == time_ms:
            continue
        if known and time_ms > at:
            parts.append(bid / (bid + ask) * (time_ms - at))
            total_ms += time_ms - at
        at = time_ms
        bid = _depth(books, index, 0)
        ask = _depth(books, index, 1)
        known = bid > 0.0 and ask > 0.0
        if known:
            depths.append(bid + ask)
    if known and end_ms > at:
        parts.append(bid / (bid + ask) * (end_ms - at))
        total_ms += end_ms - at
    mean = fsum(parts) / total_ms if total_ms else None
    return mean, median(depths) if depths else None


def _depth(books: bytearray, index: int, side: int) -> float:  # plain form only
    start = index * BOOK_BYTES + 16 + side * 80  # plain form only
    flat = _SIDE.unpack_from(books, start)  # plain form only
    pairs = zip(flat[::2], flat[1::2], strict=True)  # plain form only
    return fsum([px * sz for px, sz in pairs if px == px])  # plain form only


# --- positioning (build plan 5.3, 5.4) -----------------------------------------------------------


def contexts_of(
    contexts: bytearray,
) -> tuple[list[float], bytearray, float | None, float | None, bool]:
    """Return (levels, newest sample, newest funding rate, mean basis, any index) of a minute's
    contexts, as they came.

    levels : open interest in quote currency of each sample, rounded; a sample has open interest and
    a mark; the newest is empty without any. The basis is the mean premium of the mark over the
    index in basis points, NULL when no context has both; an index at or below zero is none.
    """
    levels = []
    basis = []
    newest_sample = -1
    funding = None
    has_index = False
    for index in range(len(contexts) // CONTEXT_BYTES):
        context = context_at(contexts, index)
        mark = context.mark_px
        oracle = context.oracle_px
        base = context.open_interest_base
        rate = context.funding_rate
        if mark == mark and base == base:
            levels.append(round12(base * mark))
            newest_sample = index
        if oracle > 0.0:
            has_index = True
            if mark == mark:
                basis.append(_premium_bp(mark, oracle))
        if rate == rate:
            funding = rate
    sample = bytearray()
    if newest_sample >= 0:
        sample = contexts[newest_sample * CONTEXT_BYTES : (newest_sample + 1) * CONTEXT_BYTES]
    return levels, sample, funding, fsum(basis) / len(basis) if basis else None, has_index


def newest_context(contexts: bytearray) -> tuple[bytearray, float | None]:
    """Return (newest sample, newest funding rate) of a minute's contexts, as they came.

    A sample has open interest and a mark; empty without any, the rate then is NULL.
    """
    sample = bytearray()
    funding = None
    for back in range(len(contexts) // CONTEXT_BYTES):
        index = len(contexts) // CONTEXT_BYTES - 1 - back
        context = context_at(contexts, index)
        mark = context.mark_px
        base = context.open_interest_base
        rate = context.funding_rate
        if not sample and mark == mark and base == base:
            sample = contexts[index * CONTEXT_BYTES : (index + 1) * CONTEXT_BYTES]
        if funding is None and rate == rate:
            funding = rate
        if sample and funding is not None:
            break
    return sample, funding


def _premium_bp(mark: float, oracle: float) -> float:
    return (mark - oracle) / oracle * 10_000.0


def change(now: float | None, before: float | None) -> float | None:
    """Return now - before; NULL if either is."""
    return None if now is None or before is None else now - before


def rate_of_change(now: float | None, before: float | None) -> float | None:
    """Return the relative change of an amount; NULL if either is NULL or there was nothing.

    >>> rate_of_change(1010.0, 1000.0), rate_of_change(5.0, 0.0)
    (0.01, None)
    """
    if now is None or before is None or before <= 0.0:
        return None
    return (now - before) / before


# --- closed bars ---------------------------------------------------------------------------------


def value_at(labels: list[int], values: list[float | None], label_ms: int) -> float | None:
    """Return the value of the bar with a label, labels ascending; NULL when there is none."""
    at = bisect_left(labels, label_ms)
    if at == len(labels) or labels[at] != label_ms:
        return None
    return values[at]


def values_to(
    labels: list[int], values: list[float | None], label_ms: int, bars: int, bar_ms: int
) -> list[float | None]:
    """Return the values of the last bars up to a label, oldest first, NULL where one lacks."""
    first = label_ms - (bars - 1) * bar_ms
    return [value_at(labels, values, first + k * bar_ms) for k in range(bars)]


def push(
    labels: list[int],
    table: dict[str, list[float | None]],
    label_ms: int,
    values: dict[str, float | None],
    limit: int,
) -> None:
    """Append a bar to a table of columns, and drop the oldest beyond a limit."""
    assert not labels or label_ms > labels[-1], (label_ms, labels[-1:])
    labels.append(label_ms)
    for name, value in values.items():
        column = table.get(name)
        if column is None:
            column = table[name] = []
        column.append(value)
    if len(labels) > limit:
        del labels[0]
        for column in table.values():
            del column[0]


HOUR_MS = 3_600_000
DAY_MS = 86_400_000
RETURNS = (("ret_m_1", 1), ("ret_m_5", 5), ("ret_m_15", 15))
SLOPE_BARS = 5
BASIS_MIN = 5


def minute_changes(
    columns: dict[str, Any],
    labels: list[int],
    table: dict[str, list[float | None]],
    label_ms: int,
) -> None:
    """Fill what a minute says against earlier minutes: returns, change of funding, mean basis."""
    mid = columns["mid_close"]
    mids = table["mid_close"]
    for name, minutes in RETURNS:
        before = value_at(labels, mids, label_ms - minutes * MINUTE_MS)
        columns[name] = rounded(simple_return(mid, before))
    rate = columns["funding_h_1"]
    before = value_at(labels, table["funding_h_1"], label_ms - HOUR_MS)
    columns["dfunding_h_1"] = rounded(change(rate, before))
    if columns["basis_bp_m_1"] is not None:
        window = values_to(labels, table["basis_bp_m_1"], label_ms, BASIS_MIN, MINUTE_MS)
        known = [basis for basis in window if basis is not None]
        columns["basis_bp_m_5"] = round12(fsum(known) / len(known))


def flow_window(
    columns: dict[str, Any],
    labels: list[int],
    deltas: list[float | None],
    label_ms: int,
    minutes: int,
) -> None:
    """Fill sum and slope of the last bars' volume deltas, the slope in quote currency per minute;
    both stay NULL unless every bar is known. A bar is `minutes` long."""
    window = values_to(labels, deltas, label_ms, SLOPE_BARS, minutes * MINUTE_MS)
    known = [delta for delta in window if delta is not None]
    if len(known) == SLOPE_BARS:
        columns["cvd_delta_m_5"] = round12(fsum(known))
        columns["cvd_slope_m_5"] = round12(slope(known) / minutes)


def open_interest_changes(
    columns: dict[str, Any],
    labels: list[int],
    coins: list[float | None],
    label_ms: int,
    back: int,
) -> None:
    """Fill the changes of open interest in coins between two minutes, `back` minutes apart: in
    quote currency at the mark, and relative; NULL if an end is, or there was nothing (design D16).
    """
    now = value_at(labels, coins, label_ms)
    before = value_at(labels, coins, label_ms - back * MINUTE_MS)
    delta = change(now, before)
    mark = columns["mark_close"]
    columns["oi_delta_m_5"] = None if delta is None or mark is None else round12(delta * mark)
    columns["oi_roc_m_5"] = rounded(rate_of_change(now, before))


# --- the sketch (numerics 7) ---------------------------------------------------------------------

PER_OCTAVE = 32
EXPONENT_SHIFT = 1100  # above the smallest exponent frexp can return, so that keys of x > 0 are > 0
WEIGHT_MAX = 1099511627776.0  # 2^40
WEIGHT_SHRINK = 1.0 / WEIGHT_MAX  # a power of two: rescaling is exact


def key(x: float, x_zero: float) -> int:
    """Bin of x: 0 within x_zero of zero, else the sign and 1 + index of its linear sub-octave.

    Keys sort as the values do. Numerics 7.

    >>> key(1.5, 0.0), key(-1.5, 0.0), key(0.5, 1.0)
    (35249, -35249, 0)
    """
    w = abs(x)
    if w <= x_zero:
        return 0
    f, e = frexp(w)
    k = (e + EXPONENT_SHIFT) * PER_OCTAVE + int((f - 0.5) * (2 * PER_OCTAVE)) + 1
    return k if x > 0.0 else -k


def add_at(sketch: Sketch, k: int, growth: float) -> None:
    """Count a sample of bin k, `growth` times as heavy as the sample before it."""
    w = sketch.w * growth
    t = sketch.t
    if w >= WEIGHT_MAX:
        w *= WEIGHT_SHRINK
        t *= WEIGHT_SHRINK
        sketch.weights = [b * WEIGHT_SHRINK for b in sketch.weights]
    keys = sketch.keys
    weights = sketch.weights
    at = bisect_left(keys, k)
    if at < len(keys) and keys[at] == k:
        weights[at] += w
    else:
        keys.insert(at, k)
        weights.insert(at, w)
    sketch.t = t + w
    sketch.w = w


def weight_at(sketch: Sketch, k: int) -> float | None:
    """Weight of bin k; None when it is not in use."""
    keys = sketch.keys
    at = bisect_left(keys, k)
    return sketch.weights[at] if at < len(keys) and keys[at] == k else None


def rank_at(sketch: Sketch, k: int) -> float | None:
    """Share of the weight below bin k, half of its own included; None when empty."""
    keys = sketch.keys
    if not keys:
        return None
    weights = sketch.weights
    at = bisect_left(keys, k)
    own: float = weights[at] if at < len(keys) and keys[at] == k else 0.0
    return (_sum_of_first(weights, at) + 0.5 * own) / sketch.t


# From the back, where the heavy bins are: the same bits, a quarter faster.
def _sum_of_first(values: list[float], count: int) -> float:  # plain form only
    return fsum(reversed(values[:count]))  # plain form only


def edges(k: int) -> tuple[float, float]:
    """Ascending bounds of bin k, in units of x; the one nearer to zero belongs to the bin.

    |k| below the last bin of doubles (|x| < 1e308). Numerics 7.

    >>> edges(35249), edges(-35249), edges(0)
    ((1.5, 1.53125), (-1.53125, -1.5), (0.0, 0.0))
    """
    if k == 0:
        return 0.0, 0.0
    octave, i = divmod(abs(k) - 1, PER_OCTAVE)
    e = octave - EXPONENT_SHIFT
    near = ldexp(0.5 + i / (2 * PER_OCTAVE), e)
    far = ldexp(0.5 + (i + 1) / (2 * PER_OCTAVE), e)
    return (near, far) if k > 0 else (-far, -near)


def quantile(sketch: Sketch, p: float) -> float | None:
    """Value below which the share p in [0, 1] lies, linear within a bin; None when empty."""
    keys = sketch.keys
    weights = sketch.weights
    if not keys:
        return None
    target = p * sketch.t
    c = 0.0
    for index in range(len(keys)):
        b = weights[index]
        if c + b >= target:
            lo, hi = edges(keys[index])
            return lo + (hi - lo) * ((target - c) / b)
        c += b
    return edges(keys[-1])[1]  # the running sum may end a rounding error short of t


def lighter(sketch: Sketch, share: float) -> list[tuple[int, float]]:
    """Bins that `prune` would drop, ascending, with their weights."""
    least = share * sketch.t
    keys = sketch.keys
    weights = sketch.weights
    return [(keys[index], weights[index]) for index in range(len(keys)) if weights[index] < least]


def prune(sketch: Sketch, share: float) -> None:
    """Drop bins lighter than `share` of the total; what is left is the new total."""
    least = share * sketch.t
    keys = sketch.keys
    weights = sketch.weights
    kept = [index for index in range(len(keys)) if weights[index] >= least]
    if len(kept) < len(keys):
        sketch.keys = [keys[index] for index in kept]
        weights = [weights[index] for index in kept]
        sketch.weights = weights
    sketch.t = fsum(weights)


# --- baselines (numerics 5, 8) -------------------------------------------------------------------

PRICED = ("ret_abs", "ret_abs_5")  # features that a return beyond the bound does not feed
INIT_PASSES = 3  # refinements of scale and location from the first samples


def transformed(x: float, d: float, transform: str) -> float:
    """g(x), numerics 2; d is used by asinh only."""
    if transform == "asinh":
        return asinh(x / d)
    if transform == "log1p":
        return log1p(x)
    if transform == "pow_3_8":
        return pow_3_8(x)
    return log(x)


def in_domain(x: float, transform: str) -> bool:
    """Tell whether g(x) is defined: x is finite, not negative, positive, by transform."""
    if transform == "asinh":
        return -HUGE <= x <= HUGE
    return 0.0 < x <= HUGE if transform == "log" else 0.0 <= x <= HUGE


def checkpoint(
    make: Callable[..., Kept],
    state: Baseline,
    x: float | None,
    label_ms: int,
    feature: Feature,
    decay: Decay,
    robust: Robust,
) -> Kept:
    """Return what `make` makes of the fields of a Checkpoint, as they are before a bar."""
    k = weight = buf = faded = copied = None
    sketch = state.sketch
    w = sketch.w
    if x is not None:
        assert in_domain(x, feature.transform), f"{x!r} is no value of {feature.name} at {label_ms}"
        k = key(x, feature.x_zero)
        weight = weight_at(sketch, k)
        if state.n + 1 == robust.min_samples:
            buf = state.buf.copy()
        if state.day is not None and state.day != (label_ms - 1) // DAY_MS:
            faded = lighter(sketch, robust.sketch_prune_share)
        if w * decay.growth >= WEIGHT_MAX:  # the bar will shrink all weights
            copied = sketch.copy()
    return make(
        state.clamp_lo,
        state.clamp_hi,
        state.n,
        state.m,
        state.v,
        state.Wm,
        state.Ws,
        state.d,
        state.day,
        state.null_count,
        state.last_ts_ms,
        w,
        sketch.t,
        k,
        weight,
        buf,
        faded,
        copied,
    )


def apply(
    state: Baseline,
    x: float | None,
    label_ms: int,
    dq: str,
    feature: Feature,
    decay: Decay,
    robust: Robust,
) -> tuple[Any, ...]:
    """Update a baseline with one bar; return the fields of its Normalised, in their order.

    As `baselines.apply`, which says more.
    """
    assert dq in ("ok", "partial", "stale"), f"dq must be ok, partial or stale, got {dq!r}"
    if x is None:
        _advance(state, label_ms)
        state.null_count += 1
        return normalised(state, None, None, feature, robust)
    assert in_domain(x, feature.transform), f"{x!r} is no value of {feature.name} at {label_ms}"
    k = key(x, feature.x_zero)
    y = None
    if dq == "ok":
        _advance(state, label_ms)
        y = update(state, x, k, (label_ms - 1) // DAY_MS, feature, decay, robust)
    elif dq == "partial" and state.n >= robust.min_samples:
        y = transformed(x, state.d, feature.transform)
    return normalised(state, k, y, feature, robust)


def _advance(state: Baseline, label_ms: int) -> None:
    last = state.last_ts_ms
    assert last is None or label_ms > last, f"bar {label_ms} after bar {last}: applied twice?"
    state.last_ts_ms = label_ms


def update(
    state: Baseline, x: float, k: int, day: int, feature: Feature, decay: Decay, robust: Robust
) -> float | None:
    """Steps 1 to 5 of numerics 5: move the state, return g(x), None before min_samples.

    k : bin of x.
    """
    transform = feature.transform
    d_min = feature.d_min
    s_min = feature.s_min
    if day != state.day:
        if state.day is not None and feature.scored:
            prune(state.sketch, robust.sketch_prune_share)
            if state.n >= robust.min_samples:
                state.clamp_lo, state.clamp_hi = _clamp_bounds(state, feature, robust)
        state.day = day
    n = state.n + 1
    state.n = n
    if feature.scored:
        add_at(state.sketch, k, decay.growth)
    a_m = decay.a_m
    a_s = decay.a_s
    w_m = state.Wm
    w_s = state.Ws
    w_m = (1.0 - a_m) * w_m + 1.0
    w_s = (1.0 - a_s) * w_s + 1.0
    state.Wm = w_m
    state.Ws = w_s
    d = state.d
    if n <= robust.min_samples:
        state.buf.append(x)
        if n < robust.min_samples:
            return None
        _initialise(state, feature, robust)
        return transformed(x, state.d, transform)
    gm = 1.0 / w_m
    gs = 1.0 / w_s
    if d_min is not None:
        u = min(abs(x), robust.d_clip * d)
        d = max(d + gs * (u - d), d_min)
        state.d = d
    y = transformed(x, d, transform)
    m = state.m
    v = state.v
    kappa = robust.kappa
    limit = robust.clip_sigma * max(sqrt(v), s_min)
    e = min(max(y - m, -limit), limit)
    state.m = m + gm * e
    state.v = (1.0 - gs) * v + gs * ((1.0 - gm) * (e * e) / kappa)
    return y


def _initialise(state: Baseline, feature: Feature, robust: Robust) -> None:
    """Set d, m and v from the collected samples, whatever their order. Numerics 5, INIT."""
    xs = state.buf
    count = len(xs)
    if feature.d_min is not None:
        a = [abs(x) for x in xs]
        d = max(robust.mad_consistency * median(a), feature.d_min)
        for _ in range(INIT_PASSES):
            limit = robust.d_clip * d
            d = max(fsum([min(w, limit) for w in a]) / count, feature.d_min)
        state.d = d
    ys = [transformed(x, state.d, feature.transform) for x in xs]
    m = median(ys)
    spread = median([abs(y - m) for y in ys])
    s = max(robust.mad_consistency * spread, feature.s_min)
    for _ in range(INIT_PASSES):
        limit = robust.clip_sigma * s
        u = [min(max(y - m, -limit), limit) for y in ys]
        shift = fsum(u) / count
        var = fsum([w * w for w in u]) / count - shift * shift
        m += shift
        s = max(sqrt(max(var, 0.0) / robust.kappa), feature.s_min)
    state.m = m
    state.v = s * s
    state.buf = []


def _clamp_bounds(state: Baseline, feature: Feature, robust: Robust) -> tuple[float, float]:
    """Quartiles of x in sigma, widened by k interquartile ranges. Numerics 8."""
    q1 = quantile(state.sketch, 0.25)
    q3 = quantile(state.sketch, 0.75)
    assert q1 is not None
    assert q3 is not None
    s = max(sqrt(state.v), feature.s_min)
    z1 = (transformed(q1, state.d, feature.transform) - state.m) / s
    z3 = (transformed(q3, state.d, feature.transform) - state.m) / s
    reach = robust.clamp_iqr_k * max(z3 - z1, robust.clamp_iqr_floor)
    return z1 - reach, z3 + reach


def normalised(
    state: Baseline, k: int | None, y: float | None, feature: Feature, robust: Robust
) -> tuple[Any, ...]:
    """Step 6 of numerics 5: z of y and q of bin k against the state as it is now."""
    n = state.n
    lo = state.clamp_lo
    hi = state.clamp_hi
    if n < robust.min_samples:
        return None, None, None, None, None, False, lo, hi, "none", n
    m = state.m
    d = None if feature.d_min is None else state.d
    s = sqrt(state.v)
    s_min = feature.s_min
    floored = s <= s_min
    if floored:
        s = s_min
    confidence = "low" if n < robust.low_confidence_samples else "ok"
    if k is None or y is None:
        return None, None, m, s, d, floored, lo, hi, confidence, n
    q = rank_at(state.sketch, k) if feature.ranked else None
    return (y - m) / s, q, m, s, d, floored, lo, hi, confidence, n


# --- the baselines of a row ----------------------------------------------------------------------


def normalise(
    baselines: dict[str, Baseline],
    entries: Sequence[Entry],
    columns: dict[str, Any],
    label_ms: int,
    robust: Robust,
    make: Callable[..., Kept] | None,
) -> tuple[dict[str, tuple[float, float]], list[str], list[Entry], dict[str, Kept]]:
    """Apply a row's values to its baselines and fill the columns that say so, rounded.

    entries : each has its Baseline. make : of a Checkpoint, None where none is wanted.
    Returns (bounds of each z for scoring, features whose scale is its floor, entries whose baseline
    has too few samples, checkpoints by feature).
    """
    clamps = {}
    floored = []
    young = []
    checkpoints = {}
    dq = columns["dq_status"]
    off_hour = label_ms % HOUR_MS != 0
    least = robust.min_samples
    for entry in entries:
        feature = entry.feature
        name = feature.name
        names = entry.names
        state = baselines[name]
        if entry.hourly and off_hour:  # between its samples: what it says already
            if names[4] is not None and state.n >= least:
                columns[names[4]] = round12(state.d)
        else:
            decay = entry.decay
            x = input_of(name, columns[entry.source], columns)
            if make is not None:
                checkpoints[name] = checkpoint(make, state, x, label_ms, feature, decay, robust)
            result = apply(state, x, label_ms, dq, feature, decay, robust)
            for index in range(5):
                column = names[index]
                if column is not None:
                    columns[column] = rounded(result[index])
            if result[0] is not None:
                if names[0] is not None:
                    clamps[names[0]] = (round12(result[6]), round12(result[7]))
                if result[5]:
                    floored.append(name)
            if name == "vol":
                columns["q_confidence"] = result[8]
        if state.n < least:
            young.append(entry)
    return clamps, floored, young, checkpoints


def input_of(name: str, value: float | None, columns: dict[str, Any]) -> float | None:
    """Return the raw value of a feature, NULL by the rules of numerics 2."""
    if name == "vol":
        # A bar without prints is no sample; where prints are not counted, no volume says the same.
        count = columns["trade_count_m_1"]
        return None if (value == 0.0 if count is None else count == 0) else value
    if name in PRICED:
        return None if "price_sanity" in columns["dq_reasons"] else value
    if name == "spread" and value is not None and value <= 0.0:
        return None
    return value


FORM = native.take_over("kernel", globals())  # plain form only
