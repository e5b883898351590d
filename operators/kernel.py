"""The inner loops of a minute: what is done per message, per bin and per baseline.

Rules of this file: one source, two forms. It runs as it stands; `setup.py` also compiles it, with
the C types of kernel.pxd, and where that was built from this very text its functions take the place
of these (operators/native.py). Hence functions over plain values, lists, and records and states by
attribute, and classes of plain fields; and expressions that give the same bits in C: + - * /, sqrt,
frexp and comparisons in the order written, sums correctly rounded.  Numerics 2-7, 11; decision 9.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left  # plain form only
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from math import floor, frexp, fsum, ldexp, sqrt  # plain form only
from struct import Struct
from typing import TYPE_CHECKING, Any

import msgspec  # plain form only

from operators import native  # plain form only
from operators.layout import CONTEXT, QUOTE, TRADE  # plain form only
from operators.records import Context, Quote, Trade  # plain form only

if TYPE_CHECKING:
    from operators.assemble import AssemblyState, Instants, Minute
    from operators.baselines import Confidence, Decay, Feature, Robust
    from packs.schema import FeaturePack

# --- elementary functions (numerics 6) -----------------------------------------------------------

LN2 = 0.6931471805599453
LN2_HI = 0.6931471803691238  # ln 2 in two parts: e * LN2_HI is exact for every binary exponent e
LN2_LO = 1.9082149292705877e-10
SQRT_HALF = 0.7071067811865476
SQRT_TWO = 1.4142135623730951  # exactly 2 * SQRT_HALF
INFINITY = float("inf")
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


def exp(x: float) -> float:
    """e to the x; 0 below -745, inf above 709.

    Numerics 6.

    >>> exp(-1.0)
    0.36787944117144233
    """
    assert x == x, "exp needs a number"
    if x < -745.0:
        return 0.0
    if x > 709.0:
        return INFINITY
    k = floor(x / LN2 + 0.5)
    r = (x - k * LN2_HI) - k * LN2_LO
    p = 1.0
    for i in range(17, 0, -1):
        p = 1.0 + r * p / i
    return ldexp(p, k)


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x) in [0, 1], without overflow at either end.

    Numerics 6.

    >>> sigmoid(0.5)
    0.6224593312018546
    """
    if x >= 0.0:
        return 1.0 / (1.0 + exp(-x))
    t = exp(x)
    return t / (1.0 + t)


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
    if x == 0.0:
        return 0.0
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
    """Return a print."""  # plain form only
    return Trade(*TRADE.unpack_from(data, index * TRADE_BYTES))  # plain form only


def quote_at(data: bytearray, index: int, size: int) -> Any:  # plain form only
    """Return a quote, or the best levels of a book; NULL is NaN."""  # plain form only
    numbers = QUOTE.unpack_from(data, index * size)  # plain form only
    if size == BOOK_BYTES:  # plain form only
        numbers = (*numbers[:4], *_TWO.unpack_from(data, index * size + 96))  # plain form only
    return Quote(*numbers)  # plain form only


def context_at(data: bytearray, index: int) -> Any:  # plain form only
    """Return the state of a perp; NULL is NaN."""  # plain form only
    return Context(*CONTEXT.unpack_from(data, index * CONTEXT_BYTES))  # plain form only


def time_at(data: bytearray, index: int, size: int) -> int:  # plain form only
    """Return the venue time of a dated record."""  # plain form only
    found: int = _TIME.unpack_from(data, index * size)[1]  # plain form only
    return found  # plain form only


def append_quote(data: bytearray, quote: Any) -> None:  # plain form only
    """Add a record of a quote."""  # plain form only
    data += QUOTE.pack(*msgspec.structs.astuple(quote))  # plain form only


def zeros(count: int) -> array[float]:
    """Return so many doubles, all 0."""
    return array("d", bytes(8 * count))


def sum_between(values: array[float], first: int, last: int) -> float:  # plain form only
    """Return the sum of values[first:last], correctly rounded."""  # plain form only
    return fsum(reversed(values[first:last]))  # plain form only


def sum_of_products(one: array[float], other: array[float], n: int) -> float:  # plain form only
    """Return the sum of the first n products, correctly rounded."""  # plain form only
    return fsum([one[index] * other[index] for index in range(n)])  # plain form only


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


def last_ms(data: bytearray, size: int) -> int:
    """Return the venue time of the last of some dated records; -1 without any."""
    count = len(data) // size
    return time_at(data, count - 1, size) if count else -1


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
KEY_BYTES = 16
_KEY = Struct("<qq")
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
            if is_closed(state.closed_keys, time_ms, trade.tid):
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
    packed = b"".join([_KEY.pack(*key) for key in keys])
    state.closed_keys = (state.closed_keys + packed)[-CLOSED_KEYS_MAX * KEY_BYTES :]


def is_closed(keys: bytearray, time_ms: int, tid: int) -> bool:  # plain form only
    """Tell whether a print is among the packed keys."""  # plain form only
    return (time_ms, tid) in _KEY.iter_unpack(keys)  # plain form only


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


def realized_volatility(mids: array[float]) -> float | None:
    """Return sqrt(sum of squared log changes) over successive mids; NULL below two mids.

    Unscaled, dimensionless. Successive equal mids add nothing. Build plan 5.1 (rv_m_1).

    >>> realized_volatility(array("d", [100.0, 100.0]))
    0.0
    >>> realized_volatility(array("d", [100.0])) is None
    True
    """
    if len(mids) < 2:
        return None
    numbers = doubles_of(mids)
    total = 0.0
    before: float = numbers[0]
    for index in range(len(mids)):
        mid = numbers[index]
        if mid != before:
            change = log(mid / before)
            total += change * change
            before = mid
    return sqrt(total)


def notional(trades: bytearray) -> tuple[array[float], float, float, float]:
    """Return (prices, taker buys, taker sells, total): the latter in quote currency, each sum
    correctly rounded."""
    count = len(trades) // TRADE_BYTES
    prices = zeros(count)
    amounts = zeros(count)  # buys from the front, sells from the back
    px = doubles_of(prices)
    amount = doubles_of(amounts)
    buys = 0
    sells = count
    for index in range(count):
        trade = trade_at(trades, index)
        px[index] = trade.px
        if trade.is_buy:
            amount[buys] = trade.px * trade.sz
            buys += 1
        else:
            sells -= 1
            amount[sells] = trade.px * trade.sz
    of_buys = sum_between(amount, 0, buys)
    return prices, of_buys, sum_between(amount, buys, count), sum_between(amount, 0, count)


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


def ohlc(prices: array[float]) -> tuple[float, float, float, float]:
    """Return (first, highest, lowest, last) of at least one price, rounded."""
    low, high = extremes(prices)
    numbers = doubles_of(prices)
    return round12(numbers[0]), round12(high), round12(low), round12(numbers[len(prices) - 1])


def within_factor(values: array[float], factor: float) -> bool:
    """Tell whether no value exceeds another one more than `factor` times; there is at least one."""
    low, high = extremes(values)
    return high <= low * factor


def extremes(values: array[float]) -> tuple[float, float]:
    """Return the lowest and the highest of at least one value."""
    assert len(values), "nothing has no extremes"
    numbers = doubles_of(values)
    low: float = numbers[0]
    high: float = numbers[0]
    for index in range(len(values)):
        low = min(low, numbers[index])
        high = max(high, numbers[index])
    return low, high


# --- the top of book (build plan 5.5) ------------------------------------------------------------


def top_of_book(
    carry: bytearray, quotes: bytearray, start_ms: int, end_ms: int, at_ms: int
) -> tuple[array[float], Instants, float | None, float | None]:
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
    count = len(quotes) // QUOTE_BYTES
    mids = zeros(count + 1)
    spreads = zeros(count + 1)
    durations = zeros(count + 1)  # whole ms
    mid = doubles_of(mids)
    spread = doubles_of(spreads)
    held_ms = doubles_of(durations)
    n_mids = n_held = total_ms = 0
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
    for index in range(count + 1):
        time_ms = end_ms
        if index < count:
            quote = quote_at(quotes, index, QUOTE_BYTES)
            time_ms = quote.time_ms
        if two_sided:
            mid[n_mids] = _middle(bid, ask)
            n_mids += 1
            if time_ms > at:
                spread[n_held] = ask - bid
                held_ms[n_held] = time_ms - at
                total_ms += time_ms - at
                n_held += 1
        at = time_ms
        if index < count:
            if at <= at_ms:
                then = index
            bid = quote.bid_px
            ask = quote.ask_px
            two_sided = bid == bid and ask == ask
    del mids[n_mids:]
    now_mid, now_micro = _instant(quotes, count - 1) if count else _instant(carry, 0)
    then_mid, then_micro = _instant(quotes, then) if then >= 0 else _instant(carry, 0)
    instants = (now_mid, now_micro, then_mid, then_micro)
    if total_ms == 0:
        return mids, instants, None, None
    mean = sum_of_products(spread, held_ms, n_held) / total_ms
    return mids, instants, mean, percentile_95(spread, held_ms, n_held, total_ms)


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


def percentile_95(spreads: Any, held_ms: Any, n: int, total_ms: float) -> float:  # plain form only
    """Return the largest spread that leaves less than 95 % to smaller ones."""  # plain form only
    left_ms = total_ms  # plain form only
    for index in sorted(range(n), key=lambda i: -spreads[i]):  # plain form only
        left_ms -= held_ms[index]  # plain form only
        if left_ms * 100 < total_ms * 95:  # plain form only
            return float(spreads[index])  # plain form only
    raise AssertionError("the spreads of a minute cover all its time")  # plain form only


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


def sample_of(contexts: bytearray) -> tuple[int, float, float]:
    """Return (arrival in ms, open interest in base coins, mark) of the first context."""
    context = context_at(contexts, 0)
    return context.arrival_ns // NS_OF_MS, context.open_interest_base, context.mark_px


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

HOUR_MS = 3_600_000
DAY_MS = 86_400_000


def value_at(labels: list[int], values: list[float | None], label_ms: int) -> float | None:
    """Return the value of the bar with a label, labels ascending; NULL when there is none."""
    count = len(labels)
    if not count:
        return None
    newest = labels[count - 1]
    at = count - 1 - (newest - label_ms) // MINUTE_MS  # where it is without holes
    if 0 <= at < count:
        found = labels[at]
        if found == label_ms:
            return values[at]
    at = bisect_left(labels, label_ms)
    if at == count or labels[at] != label_ms:
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
    if rate is not None:
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


# --- a minute against what was before it (build plan 5, 6.3, 8.3, 8.6) ----------------------------

# Remembered of every minute, for what looks back to it; beside them the mid.
REMEMBERED = ("oi_close_base", "basis_bp_m_1", "funding_h_1", "cvd_delta_m_1")
POSITIONING_MIN = 5


class Limits:
    """Numbers of the feature pack that the columns of a row are held against.

    ret_abs_max, stale_ms, near_stale_ms : of data quality. v_min, v_min_share, spread_multiple,
    near_factor : of the illiquidity gates. w_ret, w_vol, w_oi, z_cap : of relative strength.
    """

    def __init__(self, features: FeaturePack) -> None:
        quality = features.quality
        self.ret_abs_max = quality.ret_abs_max
        self.stale_ms = quality.book_staleness_ms_max
        self.near_stale_ms = quality.book_staleness_ms_near
        illiquidity = features.illiquidity
        self.v_min = illiquidity.v_min_quote
        self.v_min_share = illiquidity.v_min_median_share
        self.spread_multiple = illiquidity.spread_cap_median_multiple
        self.near_factor = illiquidity.near_factor
        terms = features.relative_strength
        self.w_ret = terms.w_ret
        self.w_vol = terms.w_vol
        self.w_oi = terms.w_oi
        self.z_cap = terms.z_cap


def look_back(
    columns: dict[str, Any],
    labels: list[int],
    table: dict[str, list[float | None]],
    label_ms: int,
    bars: int,
    limits: Limits,
) -> bool:
    """Remember a minute and fill its columns against earlier ones, but for the level of the day.

    bars : how many are remembered. A return beyond its bound is cut to it. Returns whether that
    was so, or prices are at odds: then the row is stale.
    """
    values = {name: columns[name] for name in REMEMBERED}
    mid = columns["mid_close"]
    staleness = columns["book_staleness_ms"]
    if staleness is not None:
        age = staleness
        if age > limits.stale_ms:  # a mid that outlived its book is not looked back to
            mid = None
    values["mid_close"] = mid
    push(labels, table, label_ms, values, bars)
    minute_changes(columns, labels, table, label_ms)
    if values["cvd_delta_m_1"] is not None:
        flow_window(columns, labels, table["cvd_delta_m_1"], label_ms, 1)
    if values["oi_close_base"] is not None:
        coins = table["oi_close_base"]
        open_interest_changes(columns, labels, coins, label_ms, POSITIONING_MIN)
    ret = columns["ret_m_1"]
    beyond = False
    if ret is not None:
        bound = limits.ret_abs_max
        value = ret
        beyond = abs(value) > bound
        if beyond:
            value = bound if value > 0.0 else -bound
            columns["ret_m_1"] = value
        columns["ret_abs_m_1"] = abs(value)
    ret = columns["ret_m_5"]
    if ret is not None:
        value = ret
        columns["ret_abs_m_5"] = abs(value)
    return beyond or prices_at_odds(columns)


def prices_at_odds(columns: dict[str, Any]) -> bool:
    """Tell whether open or close leave [low, high], or low is above high.  Build plan 8.6.

    False where a price is NULL: that is another reason.
    """
    low = columns["low"]
    high = columns["high"]
    first = columns["open"]
    last = columns["close"]
    if low is None or high is None or first is None or last is None:
        return False
    lowest = low
    highest = high
    one = first
    other = last
    return not (lowest <= one <= highest and lowest <= other <= highest)


def gates(
    columns: dict[str, Any],
    usual_volume: float | None,
    usual_spread: float | None,
    limits: Limits,
) -> None:
    """Fill illiquidity by the asset's own medians, and how near the limits are (plan 8.3, 10.7)."""
    v_min = limits.v_min
    near = limits.near_factor
    if usual_volume is not None:
        median_volume = usual_volume
        v_min = max(v_min, limits.v_min_share * median_volume)
    volume = columns["v_total_m_1"]
    thin = True
    near_limit = False
    if volume is not None:
        traded = volume
        thin = traded < v_min
        near_limit = v_min <= traded < v_min * near
    spread = columns["spread_mean_m_1"]
    wide = False
    if spread is not None and usual_spread is not None:
        width = spread
        median_spread = usual_spread
        if median_spread != 0.0:  # a book that is always locked has no usual spread
            cap = limits.spread_multiple * median_spread
            wide = width > cap
            near_limit = near_limit or cap / near < width <= cap
    columns["illiquidity_hit"] = thin or wide
    columns["illiq_penalty"] = 1 if near_limit else 0
    staleness = columns["book_staleness_ms"]
    stale = False
    if staleness is not None:
        age = staleness
        stale = limits.near_stale_ms < age <= limits.stale_ms
    columns["dq_penalty"] = 1 if stale else 0


def strength(columns: dict[str, Any], limits: Limits) -> None:
    """Fill relative strength (plan 6.3): NULL terms count zero and are marked."""
    z_ret = columns["z_ret_abs_m_1"]
    ret_5 = columns["ret_m_5"]
    z_vol = columns["z_vol_m_1"]
    z_oi = columns["z_oi_roc_m_5"]
    oi_roc = columns["oi_roc_m_5"]
    of_ret = 0.0
    of_vol = 0.0
    of_oi = 0.0
    z = 0.0
    if z_ret is not None and ret_5 is not None:
        z = z_ret
        of_ret = limits.w_ret * z * sign(ret_5)
    if z_vol is not None:
        z = z_vol
        of_vol = limits.w_vol * z
    if z_oi is not None:
        z = z_oi
        of_oi = limits.w_oi * sign(oi_roc) * min(abs(z), limits.z_cap)
    columns["rs_score_m_5"] = round12(of_ret + of_vol + of_oi)
    columns["rs_incomplete"] = (
        z_ret is None or ret_5 is None or z_vol is None or (oi_roc is not None and z_oi is None)
    )


def sign(value: float | None) -> float:
    """Return 1, -1, or 0 for zero and NULL."""
    if value is None:
        return 0.0
    x = value
    if x == 0.0:
        return 0.0
    return 1.0 if x > 0.0 else -1.0


COUNTS_PER_OCTAVE = 8  # bins of the counts of a day (operators/formulas/rolling_median.py)


def bin_of(x: float) -> int:
    """Bin of x > 0 among counts: its linear sub-octave; keys sort as the values do.

    >>> bin_of(1.0), bin_of(1.99), bin_of(0.75)
    (8, 15, 4)
    """
    f, e = frexp(x)
    return e * COUNTS_PER_OCTAVE + int((f - 0.5) * (2 * COUNTS_PER_OCTAVE))


def count_in(keys: list[int], counts: list[int], x: float) -> None:
    """Count x > 0 in its bin; keys ascend."""
    k = bin_of(x)
    at = bisect_left(keys, k)
    if at < len(keys) and keys[at] == k:
        counts[at] += 1
    else:
        keys.insert(at, k)
        counts.insert(at, 1)


def count_today(days: list[Any], x: float, day: int) -> bool:
    """Count x >= 0 in the newest of some days (`rolling_median.Day`), as nearly always; False,
    and nothing is done, where the value is of another day, or the day is packed."""
    if not days:
        return False
    today = days[len(days) - 1]
    if today.day != day:
        return False
    if x == 0.0:
        today.zeros += 1
        return True
    keys, counts = today.keys, today.counts
    if not isinstance(keys, list) or not isinstance(counts, list):
        return False
    count_in(keys, counts, x)
    return True


# --- imported bars (operators/bars.py) -----------------------------------------------------------


def fill_bar(columns: dict[str, Any], raw: Any) -> bool:
    """Fill the columns that an imported bar (`bars.RawBar`) has; tell whether it has a print.

    Where prints are not counted, no volume says the same.
    """
    high = round12(raw.high)
    low = round12(raw.low)
    close = round12(raw.close)
    columns["open"] = round12(raw.open)
    columns["high"] = high
    columns["low"] = low
    boxed = close
    columns["close"] = boxed
    columns["mid_close"] = boxed
    columns["ret_s_30"] = columns["rv_m_1"] = None
    columns["atr_proxy_m_1"] = rounded(range_ratio(high, low, close))
    total = round12(raw.volume_quote)
    columns["v_total_m_1"] = total
    count = raw.trade_count
    columns["trade_count_m_1"] = count
    taker_buys = raw.taker_buy_quote
    if taker_buys is not None and taker_buys >= 0.0:
        buys = min(round12(taker_buys), total)
        sells = round12(total - buys)
        columns["v_buy_m_1"] = buys
        columns["v_sell_m_1"] = sells
        columns["cvd_delta_m_1"] = round12(buys - sells)
    return total != 0.0 if count is None else count != 0


# --- parts of a longer bar (build plan 15.2) ------------------------------------------------------

# Folds that say nothing when too many parts lack the value.
NEED_COVERAGE = ("mean", "median", "p95")


def fold(
    rows: list[list[Any]],
    last: list[Any] | None,
    names: tuple[str, ...],
    folds: tuple[str, ...],
    volume: int,
    enough: float,
) -> dict[str, Any]:
    """Return each column of a longer bar from those of its parts, in time order.

    rows : the values of each part, in the order of `names` and `folds`. last : those of the part
    that ends with the bar, None where there is none. volume : index of the column without which a
    part lacks nothing. enough : parts with a value, of those a mean needs more.
    """
    columns: dict[str, Any] = {}
    for index in range(len(names)):
        how = folds[index]
        if how == "last":
            columns[names[index]] = None if last is None else last[index]
            continue
        known = []
        short = False
        for row in rows:
            value = row[index]
            if value is not None:
                known.append(value)
            elif row[volume] is not None:
                short = True
        if not known or (short and how == "sum") or (how in NEED_COVERAGE and len(known) <= enough):
            columns[names[index]] = None
        else:
            columns[names[index]] = folded(known, how)
    return columns


def folded(known: list[Any], how: str) -> Any:
    """Return the fold of at least one value."""
    if how == "sum":
        if isinstance(known[0], int):
            total = 0
            for value in known:
                total += value
            return total
        return round12(fsum(known))
    if how == "first":
        return known[0]
    if how == "last_known":
        return known[len(known) - 1]
    if how == "min":
        return min(known)
    if how == "max":
        return max(known)
    if how == "mean":
        return round12(fsum(known) / len(known))
    if how == "median":
        return round12(median(known))
    assert how == "p95", how
    known.sort()  # the smallest value that at least 95 % do not exceed
    return known[-(-95 * len(known) // 100) - 1]


# --- the sketch (numerics 7) ---------------------------------------------------------------------

PER_OCTAVE = 32
EXPONENT_SHIFT = 1100  # above the smallest exponent frexp can return, so that keys of x > 0 are > 0
WEIGHT_MAX = 1099511627776.0  # 2^40
WEIGHT_SHRINK = 1.0 / WEIGHT_MAX  # a power of two: rescaling is exact


class Sketch:
    """Decayed weights by bin. Bound: the bins in use, 100 to 750 in practice, thinned by prune.

    w : weight of the newest sample; t : total weight.
    keys : the bins in use, ascending; weights : what each of them holds, > 0, in the same order.
    """

    def __init__(
        self,
        w: float = 1.0,
        t: float = 0.0,
        keys: Iterable[int] = (),
        weights: Iterable[float] = (),
    ) -> None:
        self.w = w
        self.t = t
        self.keys = array("i", keys)
        self.weights = array("d", weights)

    def _fields(self) -> tuple[Any, ...]:
        return self.w, self.t, self.keys, self.weights

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sketch) and self._fields() == other._fields()

    def __repr__(self) -> str:
        return f"Sketch{self._fields()!r}"

    def __reduce__(self) -> tuple[Any, ...]:
        return Sketch, self._fields()

    def add(self, x: float, growth: float, x_zero: float) -> None:
        """Count x, `growth` times as heavy as the sample before it."""
        add_at(self, key(x, x_zero), growth)

    def weight_at(self, k: int) -> float | None:
        """Weight of bin k; None when it is not in use."""
        return held_at(self, k) or None

    def put_at(self, k: int, weight: float | None) -> None:
        """Make bin k hold `weight`, None for not in use; the total is the caller's business."""
        put_weight(self, k, weight)

    def rank(self, x: float, x_zero: float) -> float | None:
        """Share of the weight below x, half of its own bin included; None when empty.

        In [0, 1]; values of one bin share one rank, so ties get the mid-rank.
        """
        if not len(self.keys):
            return None
        return rank_at(self, key(x, x_zero))

    def quantile(self, p: float) -> float | None:
        """Value below which the share p in [0, 1] lies, linear within a bin; None when empty."""
        if not len(self.keys):
            return None
        return quantile_of(self, p)

    def lighter(self, share: float) -> list[tuple[int, float]]:
        """Bins that `prune` would drop, ascending, with their weights."""
        return lighter_bins(self, share)

    def prune(self, share: float) -> None:
        """Drop bins lighter than `share` of the total; what is left is the new total."""
        prune_bins(self, share)

    def copy(self) -> Sketch:
        """Return an independent copy."""
        return Sketch(self.w, self.t, self.keys, self.weights)


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


def ints_of(values: array[int]) -> array[int]:  # plain form only
    """Return an array in the form in which loops read it."""  # plain form only
    return values  # plain form only


def doubles_of(values: array[float]) -> array[float]:  # plain form only
    """Return an array in the form in which loops read it."""  # plain form only
    return values  # plain form only


def place_of(keys: array[int], count: int, k: int) -> int:  # plain form only
    """Return how many keys are below one, of `count` ascending."""  # plain form only
    return bisect_left(keys, k)  # plain form only


def add_at(sketch: Sketch, k: int, growth: float) -> None:
    """Count a sample of bin k, `growth` times as heavy as the sample before it."""
    w = sketch.w * growth
    t = sketch.t
    count = len(sketch.keys)
    keys = ints_of(sketch.keys)
    weights = doubles_of(sketch.weights)
    if w >= WEIGHT_MAX:
        w *= WEIGHT_SHRINK
        t *= WEIGHT_SHRINK
        for index in range(count):
            weights[index] *= WEIGHT_SHRINK
    at = place_of(keys, count, k)
    if at < count and keys[at] == k:
        weights[at] += w
    else:
        sketch.keys.insert(at, k)
        sketch.weights.insert(at, w)
    sketch.t = t + w
    sketch.w = w


def held_at(sketch: Sketch, k: int) -> float:
    """Weight of bin k; 0 when it is not in use."""
    count = len(sketch.keys)
    keys = ints_of(sketch.keys)
    at = place_of(keys, count, k)
    if at < count and keys[at] == k:
        return doubles_of(sketch.weights)[at]
    return 0.0


def put_weight(sketch: Sketch, k: int, weight: float | None) -> None:
    """Make bin k hold `weight`, None for not in use; the total is the caller's business."""
    count = len(sketch.keys)
    keys = ints_of(sketch.keys)
    at = place_of(keys, count, k)
    used = at < count and keys[at] == k
    if weight is None:
        if used:
            del sketch.keys[at]
            del sketch.weights[at]
    elif used:
        sketch.weights[at] = weight
    else:
        sketch.keys.insert(at, k)
        sketch.weights.insert(at, weight)


def rank_at(sketch: Sketch, k: int) -> float:
    """Share of the weight below bin k, half of its own included; of a sketch that is not empty."""
    count = len(sketch.keys)
    keys = ints_of(sketch.keys)
    weights = doubles_of(sketch.weights)
    at = place_of(keys, count, k)
    own = weights[at] if at < count and keys[at] == k else 0.0
    return (sum_between(weights, 0, at) + 0.5 * own) / sketch.t


# From the back, where the heavy bins are: the same bits, a quarter faster.
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


def quantile_of(sketch: Sketch, p: float) -> float:
    """Value below which the share p in [0, 1] lies, linear within a bin; of a sketch that is not
    empty."""
    count = len(sketch.keys)
    keys = ints_of(sketch.keys)
    weights = doubles_of(sketch.weights)
    target = p * sketch.t
    c = 0.0
    for index in range(count):
        b = weights[index]
        if c + b >= target:
            lo, hi = edges(keys[index])
            return lo + (hi - lo) * ((target - c) / b)
        c += b
    return edges(keys[count - 1])[1]  # the running sum may end a rounding error short of t


def lighter_bins(sketch: Sketch, share: float) -> list[tuple[int, float]]:
    """Bins that `prune` would drop, ascending, with their weights."""
    least = share * sketch.t
    count = len(sketch.keys)
    keys = ints_of(sketch.keys)
    weights = doubles_of(sketch.weights)
    return [(keys[index], weights[index]) for index in range(count) if weights[index] < least]


def prune_bins(sketch: Sketch, share: float) -> None:
    """Drop bins lighter than `share` of the total; what is left is the new total."""
    least = share * sketch.t
    count = len(sketch.keys)
    keys = ints_of(sketch.keys)
    weights = doubles_of(sketch.weights)
    kept = 0
    for index in range(count):
        if weights[index] >= least:
            keys[kept] = keys[index]
            weights[kept] = weights[index]
            kept += 1
    if kept < count:
        del sketch.keys[kept:]
        del sketch.weights[kept:]
    sketch.t = sum_between(doubles_of(sketch.weights), 0, kept)


# --- baselines (numerics 5, 8) -------------------------------------------------------------------

PRICED = ("ret_abs", "ret_abs_5")  # features that a return beyond the bound does not feed
INIT_PASSES = 3  # refinements of scale and location from the first samples
STATE_VERSION = 2  # of the fields of Baseline, their meaning and their serialisation


class Baseline:
    """State of one (asset, timeframe, feature). Numerics 4.

    n : accepted samples; m, v : location and variance of g(x); Wm, Ws : their total weights.
    d : divisor inside asinh, units of x. buf : the first samples, empty from min_samples on.
    day : UTC day number of the last accepted bar; clamp_lo, clamp_hi : sigma.
    null_count : bars without a value. last_ts_ms : close of the last bar that changed the state.
    bounds : clamp_lo and clamp_hi rounded, None until they are asked for; no part of the state.
    Bound: buf < min_samples; the sketch's bins.
    """

    def __init__(
        self,
        clamp_lo: float,
        clamp_hi: float,
        version: int = STATE_VERSION,
        n: int = 0,
        m: float = 0.0,
        v: float = 0.0,
        Wm: float = 0.0,
        Ws: float = 0.0,
        d: float = 0.0,
        buf: Iterable[float] = (),
        day: int | None = None,
        null_count: int = 0,
        last_ts_ms: int | None = None,
        sketch: Sketch | None = None,
    ) -> None:
        self.clamp_lo = clamp_lo
        self.clamp_hi = clamp_hi
        self.bounds: tuple[float, float] | None = None
        self.version = version
        self.n = n
        self.m = m
        self.v = v
        self.Wm = Wm
        self.Ws = Ws
        self.d = d
        self.buf = array("d", buf)
        self.day = day
        self.null_count = null_count
        self.last_ts_ms = last_ts_ms
        self.sketch = Sketch() if sketch is None else sketch

    def _fields(self) -> tuple[Any, ...]:
        return (
            self.clamp_lo,
            self.clamp_hi,
            self.version,
            self.n,
            self.m,
            self.v,
            self.Wm,
            self.Ws,
            self.d,
            self.buf,
            self.day,
            self.null_count,
            self.last_ts_ms,
            self.sketch,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Baseline) and self._fields() == other._fields()

    def __repr__(self) -> str:
        return f"Baseline{self._fields()!r}"

    def __reduce__(self) -> tuple[Any, ...]:
        return Baseline, self._fields()

    def copy(self) -> Baseline:
        """Return an independent copy: what happens to one never shows in the other."""
        twin = Baseline(*self._fields())
        twin.sketch = self.sketch.copy()
        return twin


class Checkpoint:
    """What one bar may change in a Baseline, as it was before the bar: enough to undo the bar.

    clamp_lo to t : as in Baseline and its sketch. key : bin of the bar's value, None for NULL;
    weight : what that bin held, 0 when it was not in use.
    buf : copy, where the bar ends the warm-up. faded : bins and weights that the bar drops if it
    starts a day. sketch : copy, where the bar rescales all weights (every 40 half-lives).
    """

    def __init__(self, *fields: Any) -> None:
        (
            self.clamp_lo,
            self.clamp_hi,
            self.n,
            self.m,
            self.v,
            self.Wm,
            self.Ws,
            self.d,
            self.day,
            self.null_count,
            self.last_ts_ms,
            self.w,
            self.t,
            self.key,
            self.weight,
            self.buf,
            self.faded,
            self.sketch,
        ) = fields

    def fields(self) -> tuple[Any, ...]:
        """Return all of it, in the order in which it is made."""
        return (
            self.clamp_lo,
            self.clamp_hi,
            self.n,
            self.m,
            self.v,
            self.Wm,
            self.Ws,
            self.d,
            self.day,
            self.null_count,
            self.last_ts_ms,
            self.w,
            self.t,
            self.key,
            self.weight,
            self.buf,
            self.faded,
            self.sketch,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and self.fields() == other.fields()

    def __repr__(self) -> str:
        return f"Checkpoint{self.fields()!r}"


class Plan:
    """What is fixed for a baseline: its Feature, Decay and Robust, each number at hand."""

    def __init__(self, feature: Feature, decay: Decay, robust: Robust) -> None:
        self.feature = feature
        self.robust = robust
        self.name = feature.name
        self.transform = feature.transform
        self.s_min = feature.s_min
        self.has_d = feature.d_min is not None
        self.d_min = 0.0 if feature.d_min is None else feature.d_min
        self.x_zero = feature.x_zero
        self.ranked = feature.ranked
        self.scored = feature.scored
        self.a_m = decay.a_m
        self.a_s = decay.a_s
        self.growth = decay.growth
        self.min_samples = robust.min_samples
        self.low_confidence_samples = robust.low_confidence_samples
        self.clip_sigma = robust.clip_sigma
        self.kappa = robust.kappa
        self.d_clip = robust.d_clip
        self.sketch_prune_share = robust.sketch_prune_share


class Seen:
    """A value seen through its baseline, as Normalised; meaningless where has_* or `warm` is false.

    warm : enough samples. floored : the scale is its floor.
    """

    def __init__(self) -> None:
        self.warm = self.has_z = self.has_q = self.floored = False
        self.z = self.q = self.m = self.s = 0.0


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


def checkpoint(state: Baseline, x: float | None, label_ms: int, plan: Plan) -> Checkpoint:
    """Return what `restore` needs to undo the bar of a value, whatever its dq."""
    kept = Checkpoint.__new__(Checkpoint)
    sketch = state.sketch
    kept.clamp_lo = state.clamp_lo
    kept.clamp_hi = state.clamp_hi
    kept.n = state.n
    kept.m = state.m
    kept.v = state.v
    kept.Wm = state.Wm
    kept.Ws = state.Ws
    kept.d = state.d
    kept.day = state.day
    kept.null_count = state.null_count
    kept.last_ts_ms = state.last_ts_ms
    kept.w = sketch.w
    kept.t = sketch.t
    kept.key = kept.buf = kept.faded = kept.sketch = None
    kept.weight = 0.0
    if x is not None:
        assert in_domain(x, plan.transform), f"{x!r} is no value of {plan.name} at {label_ms}"
        k = key(x, plan.x_zero)
        kept.key = k
        kept.weight = held_at(sketch, k)
        if state.n + 1 == plan.min_samples:
            kept.buf = array("d", state.buf)
        if state.day is not None:
            day = state.day
            if day != (label_ms - 1) // DAY_MS:
                kept.faded = lighter_bins(sketch, plan.sketch_prune_share)
        if sketch.w * plan.growth >= WEIGHT_MAX:  # the bar will shrink all weights
            kept.sketch = sketch.copy()
    return kept


def restore(state: Baseline, before: Checkpoint) -> None:
    """Put a state back to what it was before the one bar applied since, bit for bit, in place.

    The checkpoint stays good for that bar and value: it can be applied and undone again.
    """
    assert state.n - before.n in (0, 1), f"{state.n - before.n} bars since the checkpoint, not one"
    state.clamp_lo = before.clamp_lo
    state.clamp_hi = before.clamp_hi
    state.bounds = None
    state.n = before.n
    state.m = before.m
    state.v = before.v
    state.Wm = before.Wm
    state.Ws = before.Ws
    state.d = before.d
    state.day = before.day
    state.null_count = before.null_count
    state.last_ts_ms = before.last_ts_ms
    if before.buf is not None:
        state.buf = array("d", before.buf)
    elif before.n < len(state.buf):
        del state.buf[before.n :]
    if before.sketch is not None:
        state.sketch = before.sketch.copy()
        return
    sketch = state.sketch
    sketch.w = before.w
    sketch.t = before.t
    if before.faded is not None:
        for k, weight in before.faded:
            put_weight(sketch, k, weight)
    if before.key is not None:
        put_weight(sketch, before.key, before.weight or None)


def apply(state: Baseline, seen: Seen, x: float | None, label_ms: int, dq: str, plan: Plan) -> None:
    """Update a baseline with one bar and look at the bar's value through it.

    As `baselines.apply`, which says more.
    """
    assert dq in ("ok", "partial", "stale"), f"dq must be ok, partial or stale, got {dq!r}"
    if x is None:
        _advance(state, label_ms)
        state.null_count += 1
        look(state, seen, 0, 0.0, False, plan)
        return
    value = x
    assert in_domain(value, plan.transform), f"{x!r} is no value of {plan.name} at {label_ms}"
    k = key(value, plan.x_zero)
    y = 0.0
    scored = False
    if dq == "ok":
        _advance(state, label_ms)
        scored = state.n + 1 >= plan.min_samples
        y = update(state, value, k, (label_ms - 1) // DAY_MS, plan)
    elif dq == "partial" and state.n >= plan.min_samples:
        scored = True
        y = transformed(value, state.d, plan.transform)
    look(state, seen, k, y, scored, plan)


def _advance(state: Baseline, label_ms: int) -> None:
    if state.last_ts_ms is not None:
        last = state.last_ts_ms
        assert label_ms > last, f"bar {label_ms} after bar {last}: applied twice?"
    state.last_ts_ms = label_ms


def update(state: Baseline, x: float, k: int, day: int, plan: Plan) -> float:
    """Steps 1 to 5 of numerics 5: move the state, return g(x), 0 before min_samples.

    k : bin of x.
    """
    transform = plan.transform
    is_new = state.day is None
    if state.day is not None:
        before = state.day
        is_new = before != day
    if is_new:
        if state.day is not None and plan.scored:
            prune_bins(state.sketch, plan.sketch_prune_share)
            if state.n >= plan.min_samples:
                state.clamp_lo, state.clamp_hi = _clamp_bounds(state, plan)
                state.bounds = None
        state.day = day
    n = state.n + 1
    state.n = n
    if plan.scored:
        add_at(state.sketch, k, plan.growth)
    a_m = plan.a_m
    a_s = plan.a_s
    w_m = state.Wm
    w_s = state.Ws
    w_m = (1.0 - a_m) * w_m + 1.0
    w_s = (1.0 - a_s) * w_s + 1.0
    state.Wm = w_m
    state.Ws = w_s
    d = state.d
    if n <= plan.min_samples:
        state.buf.append(x)
        if n < plan.min_samples:
            return 0.0
        _initialise(state, plan)
        return transformed(x, state.d, transform)
    gm = 1.0 / w_m
    gs = 1.0 / w_s
    if plan.has_d:
        u = min(abs(x), plan.d_clip * d)
        d = max(d + gs * (u - d), plan.d_min)
        state.d = d
    y = transformed(x, d, transform)
    m = state.m
    v = state.v
    limit = plan.clip_sigma * max(sqrt(v), plan.s_min)
    e = min(max(y - m, -limit), limit)
    state.m = m + gm * e
    state.v = (1.0 - gs) * v + gs * ((1.0 - gm) * (e * e) / plan.kappa)
    return y


def _initialise(state: Baseline, plan: Plan) -> None:
    """Set d, m and v from the collected samples, whatever their order. Numerics 5, INIT."""
    robust = plan.robust
    xs = list(state.buf)
    count = len(xs)
    if plan.has_d:
        a = [abs(x) for x in xs]
        d = max(robust.mad_consistency * median(a), plan.d_min)
        for _ in range(INIT_PASSES):
            limit = robust.d_clip * d
            d = max(fsum([min(w, limit) for w in a]) / count, plan.d_min)
        state.d = d
    ys = [transformed(x, state.d, plan.transform) for x in xs]
    m = median(ys)
    spread = median([abs(y - m) for y in ys])
    s = max(robust.mad_consistency * spread, plan.s_min)
    for _ in range(INIT_PASSES):
        limit = robust.clip_sigma * s
        u = [min(max(y - m, -limit), limit) for y in ys]
        shift = fsum(u) / count
        var = fsum([w * w for w in u]) / count - shift * shift
        m += shift
        s = max(sqrt(max(var, 0.0) / robust.kappa), plan.s_min)
    state.m = m
    state.v = s * s
    state.buf = array("d")


def _clamp_bounds(state: Baseline, plan: Plan) -> tuple[float, float]:
    """Quartiles of x in sigma, widened by k interquartile ranges. Numerics 8."""
    robust = plan.robust
    q1 = quantile_of(state.sketch, 0.25)
    q3 = quantile_of(state.sketch, 0.75)
    s = max(sqrt(state.v), plan.s_min)
    z1 = (transformed(q1, state.d, plan.transform) - state.m) / s
    z3 = (transformed(q3, state.d, plan.transform) - state.m) / s
    reach = robust.clamp_iqr_k * max(z3 - z1, robust.clamp_iqr_floor)
    return z1 - reach, z3 + reach


def look(state: Baseline, seen: Seen, k: int, y: float, scored: bool, plan: Plan) -> None:
    """Step 6 of numerics 5: z of y and q of bin k against the state as it is now.

    scored : whether there is a value, and it is to be scored.
    """
    seen.has_z = seen.has_q = seen.floored = False
    seen.warm = state.n >= plan.min_samples
    if not seen.warm:
        return
    m = state.m
    s = sqrt(state.v)
    s_min = plan.s_min
    if s <= s_min:
        seen.floored = True
        s = s_min
    seen.m = m
    seen.s = s
    if scored:
        seen.has_z = True
        seen.z = (y - m) / s
        if plan.ranked and len(state.sketch.keys):
            seen.has_q = True
            seen.q = rank_at(state.sketch, k)


# --- a baseline as bytes -------------------------------------------------------------------------
#
#   magic | version | scalars | len(buf) | runs | bins | buf | runs: first key | runs: length
#         | weights | digest
#
# Keys of the sketch are written as runs of neighbours, ascending: most bins in use touch. Little-
# endian, 8-byte floats, never rounded, -0.0 as 0.0: equal states give equal bytes. Numerics 11.4.

MAGIC = b"BASE"
SCALARS = Struct("<4sIqqBqBq9dIII")
DIGEST_BYTES = 16


class CorruptState(Exception):
    """A serialised baseline is damaged, of an unknown version, or holds an impossible value."""


def dump(state: Baseline) -> bytes:
    """Canonical bytes of a state, without loss; CorruptState if it holds an impossible value."""
    body = body_of(state)
    return body + blake2b(body, digest_size=DIGEST_BYTES).digest()


def body_of(state: Baseline) -> bytes:
    """The same without the digest, for those who check the bytes in another way."""
    check(state)
    sketch = state.sketch
    starts, lengths = runs_of(sketch.keys)
    day = state.day
    last_ts_ms = state.last_ts_ms
    buf = state.buf[:]
    samples = doubles_of(buf)
    for index in range(len(buf)):
        samples[index] += 0.0
    scalars = SCALARS.pack(
        MAGIC,
        state.version,
        state.n,
        state.null_count,
        day is not None,
        day or 0,
        last_ts_ms is not None,
        last_ts_ms or 0,
        state.m + 0.0,
        state.v + 0.0,
        state.Wm + 0.0,
        state.Ws + 0.0,
        state.d + 0.0,
        state.clamp_lo + 0.0,
        state.clamp_hi + 0.0,
        sketch.w + 0.0,
        sketch.t + 0.0,
        len(buf),
        len(starts),
        len(sketch.keys),
    )
    return b"".join((scalars, buf, starts, lengths, sketch.weights))


def runs_of(keys: array[int]) -> tuple[array[int], array[int]]:
    """First key and length of each run of neighbouring keys; CorruptState unless keys ascend."""
    count = len(keys)
    found = ints_of(keys)
    starts = array("i", bytes(4 * count))
    lengths = starts[:]
    first = ints_of(starts)
    length = ints_of(lengths)
    at = -1
    for index in range(count):
        if index and found[index] <= found[index - 1]:
            raise CorruptState("the keys of the sketch do not ascend")
        if not index or found[index] != found[index - 1] + 1:
            at += 1
            first[at] = found[index]
        length[at] += 1
    return starts[: at + 1], lengths[: at + 1]


def check(state: Baseline) -> None:
    """Raise CorruptState unless every value is possible."""
    sketch = state.sketch
    if state.version != STATE_VERSION:
        raise CorruptState(f"expected version {STATE_VERSION}, found {state.version}")
    finite = (
        is_finite(state.m)
        and is_finite(state.v)
        and is_finite(state.Wm)
        and is_finite(state.Ws)
        and is_finite(state.d)
        and is_finite(state.clamp_lo)
        and is_finite(state.clamp_hi)
        and is_finite(sketch.w)
        and is_finite(sketch.t)
    )
    count = len(state.buf)
    samples = doubles_of(state.buf)
    for index in range(count):
        finite = finite and is_finite(samples[index])
    if not finite:
        raise CorruptState("a value is not a finite number")
    if state.n < 0 or state.null_count < 0:
        raise CorruptState(f"counts below zero: n={state.n}, null_count={state.null_count}")
    if count and count != state.n:
        raise CorruptState(f"{count} samples are kept, {state.n} were accepted")
    above = state.v >= 0.0 and state.Wm >= 0.0 and state.Ws >= 0.0 and state.d >= 0.0
    if not above or sketch.t < 0.0 or sketch.w <= 0.0:
        raise CorruptState("a variance, divisor or weight is below zero")
    count = len(sketch.weights)
    if len(sketch.keys) != count:
        raise CorruptState(f"the sketch has {len(sketch.keys)} keys and {count} weights")
    weights = doubles_of(sketch.weights)
    for index in range(count):
        if not 0.0 < weights[index] <= HUGE:
            raise CorruptState("a weight of the sketch is not a positive number")


def is_finite(x: float) -> bool:
    """Tell a number from an infinity and from what is none."""
    return -HUGE <= x <= HUGE


# --- the baselines of a row ----------------------------------------------------------------------


class Entry:
    """What is fixed for one baseline of a timeframe.

    names : of the columns for z, q, location, scale and divisor, None where there is none.
    clamp : name of the z column on rows. raw : columns of a bar that the source is made of.
    warm : whether `warmup` waits for it.
    """

    def __init__(
        self,
        plan: Plan,
        source: str,
        names: Sequence[str | None],
        clamp: str | None,
        raw: tuple[str, ...],
        *,
        hourly: bool,
        warm: bool,
    ) -> None:
        self.plan = plan
        self.name = plan.name
        self.source = source
        self.z, self.q, self.mean, self.scale, self.divisor = names
        self.clamp = clamp
        self.raw = raw
        self.hourly = hourly
        self.warm = warm


def complete(
    baselines: dict[str, Baseline],
    entries: tuple[Entry, ...],
    columns: dict[str, Any],
    given: dict[str, Any],
    label_ms: int,
    checkpoints: dict[str, Checkpoint] | None,
    volume: Any,
    spread: Any,
    limits: Limits,
    least: int,
) -> dict[str, tuple[float, float]]:
    """Fill what a bar's columns say of themselves: illiquidity, baselines, relative strength.

    volume, spread : the gates (`normal_state.Gate`); they take the sketches' medians for the bars
    to come, as `read_medians` says. The others as in `normalise`.
    """
    gates(columns, usual(volume), usual(spread), limits)
    clamps = normalise(baselines, entries, columns, given, label_ms, checkpoints)
    strength(columns, limits)
    read_medians(volume, spread, baselines, label_ms, least)
    return clamps


def usual(gate: Any) -> float | None:
    """Return the median of a gate (`normal_state.Gate`) that is in force (build plan 8.3)."""
    settled: float | None = gate.settled
    recent: float | None = gate.recent
    return recent if settled is None else settled


def read_medians(
    volume: Any, spread: Any, baselines: dict[str, Baseline], label_ms: int, least: int
) -> None:
    """Take the medians of the gates' sketches if it is time to: every bar until `least` samples,
    then hourly."""
    hourly = label_ms % HOUR_MS == 0
    read_median(volume, baselines.get("vol"), hourly, least)
    read_median(spread, baselines.get("spread"), hourly, least)


def read_median(gate: Any, baseline: Baseline | None, hourly: bool, least: int) -> None:
    """Take the median of one gate's sketch if it is time to."""
    if baseline is None or baseline.n == 0:
        return
    if hourly or baseline.n <= least or gate.recent is None:
        gate.recent = baseline.sketch.quantile(0.5)


def normalise(
    baselines: dict[str, Baseline],
    entries: tuple[Entry, ...],
    columns: dict[str, Any],
    given: dict[str, Any],
    label_ms: int,
    checkpoints: dict[str, Checkpoint] | None,
) -> dict[str, tuple[float, float]]:
    """Apply a row's values to its baselines, and fill the columns that say so, rounded.

    entries : each has its Baseline. given : the columns of the bar; one that is not there belongs
    to a feed the asset does not have, and `warmup` does not wait for it. checkpoints : where one
    is kept of each baseline, by feature; None where none is wanted.
    Returns the bounds of each z for scoring, by its name on rows.
    """
    clamps = {}
    floored = []
    warmup = False
    seen = Seen()
    dq = columns["dq_status"]
    off_hour = label_ms % HOUR_MS != 0
    priced = "price_sanity" not in columns["dq_reasons"]
    for entry in entries:
        plan = entry.plan
        state = baselines[entry.name]
        if entry.hourly and off_hour:  # between its samples: what it says already
            if entry.divisor is not None and state.n >= plan.min_samples:
                columns[entry.divisor] = round12(state.d)
        else:
            x = input_of(entry.name, columns[entry.source], columns, priced)
            if checkpoints is not None:
                checkpoints[entry.name] = checkpoint(state, x, label_ms, plan)
            apply(state, seen, x, label_ms, dq, plan)
            if seen.warm:
                if entry.mean is not None:
                    columns[entry.mean] = round12(seen.m)
                if entry.scale is not None:
                    columns[entry.scale] = round12(seen.s)
                if entry.divisor is not None and plan.has_d:
                    columns[entry.divisor] = round12(state.d)
            if seen.has_z:
                if seen.floored:
                    floored.append(entry.name)
                if entry.z is not None and entry.clamp is not None:
                    columns[entry.z] = round12(seen.z)
                    clamps[entry.clamp] = bounds_of(state)
            if seen.has_q and entry.q is not None:
                columns[entry.q] = round12(seen.q)
            if entry.name == "vol":
                columns["q_confidence"] = confidence(state.n, plan)
        if entry.warm and not warmup and state.n < plan.min_samples:
            warmup = True
            for name in entry.raw:
                if name not in given:
                    warmup = False
    columns["scale_floored"] = floored
    columns["warmup"] = warmup
    return clamps


def bounds_of(state: Baseline) -> tuple[float, float]:
    """Return the bounds of z for scoring, rounded; the same tuple until they change."""
    bounds = state.bounds
    if bounds is None:
        bounds = state.bounds = (round12(state.clamp_lo), round12(state.clamp_hi))
    return bounds


def confidence(n: int, plan: Plan) -> Confidence:
    """Return how far a quantile of n samples can be trusted."""
    if n < plan.min_samples:
        return "none"
    return "low" if n < plan.low_confidence_samples else "ok"


def input_of(name: str, value: float | None, columns: dict[str, Any], priced: bool) -> float | None:
    """Return the raw value of a feature, NULL by the rules of numerics 2.

    priced : the row's price is not out of bounds.
    """
    if value is None:
        return None
    if name == "vol":
        # A bar without prints is no sample; where prints are not counted, no volume says the same.
        count = columns["trade_count_m_1"]
        return None if (value == 0.0 if count is None else count == 0) else value
    if name in PRICED:
        return value if priced else None
    if name == "spread" and value <= 0.0:
        return None
    return value


FORM = native.take_over("kernel", globals())  # plain form only
