# C types of kernel.py, and in C what its plain form takes from the standard library.
#
# No option that changes arithmetic (setup.py): each double operation is the one Python does.

import cython
from cpython.array cimport array as carray

cdef extern from "math.h" nogil:
    double c_frexp "frexp"(double x, int* exponent)
    double fabs(double x)
    double c_floor "floor"(double x)
    double ldexp(double x, int exponent)
    double sqrt(double x)

cdef extern from "Python.h":
    ctypedef struct PyObject
    PyObject *item_of "PyList_GET_ITEM"(list values, Py_ssize_t i)  # borrowed
    bint is_float "PyFloat_CheckExact"(PyObject *item)
    double double_of "PyFloat_AS_DOUBLE"(PyObject *item)
    char *bytes_of "PyByteArray_AS_STRING"(object data)
    int resize "PyByteArray_Resize"(object data, Py_ssize_t size) except -1


cdef double LN2, LN2_HI, LN2_LO, INFINITY, SQRT_HALF, SQRT_TWO, HUGE
cdef double ROUND_MIN, ROUND_MAX, _WHOLE, _CLEAR
cdef list _TENS
cdef double WEIGHT_MAX, WEIGHT_SHRINK
cdef int PER_OCTAVE, EXPONENT_SHIFT, DEPTH_LEVELS, INIT_PASSES
cdef long long DAY_MS, HOUR_MS, MINUTE_MS
cdef int SLOPE_BARS, BASIS_MIN, STATE_VERSION, COUNTS_PER_OCTAVE, POSITIONING_MIN
cdef tuple PRICED, RETURNS, REMEMBERED
cdef Py_ssize_t TRADE_BYTES, QUOTE_BYTES, BOOK_BYTES, CONTEXT_BYTES, MINUTE_MESSAGES_MAX
cdef long long NS_OF_MS
cdef str DUPLICATE, LATE, HISTORY, FUTURE, CROSSED, OVERFLOW


cdef inline (double, int) frexp(double x) noexcept:
    """math.frexp."""
    cdef int exponent = 0
    cdef double fraction = c_frexp(x, &exponent)
    return fraction, exponent


cdef inline int floor(double x) noexcept:
    """math.floor of a number that an int holds."""
    return <int>c_floor(x)


cdef struct Sum:
    # A running sum with its rounding errors, and the sum of magnitudes.
    double total
    double error
    double reach


cdef inline void add_to(Sum *sum, double x) noexcept:
    cdef double t = sum.total + x
    cdef double z = t - sum.total
    sum.error += (sum.total - (t - z)) + (x - z)
    sum.total = t
    sum.reach += fabs(x)


cdef inline bint is_certain(const Sum *sum, Py_ssize_t n, double *found) noexcept:
    """Tell whether total + error, rounded once, is the true sum of n terms, rounded once.

    They differ by less than n^2 u^2 times the sum of magnitudes (Ogita, Rump, Oishi 2005; u is
    2^-53). Where four times that in either direction rounds to the same double, it is the answer.
    """
    cdef double s = sum.total, c = sum.error, r, z, rest, bound
    if not (1e-200 < sum.reach < 1e300 and n < 1000000):
        return False
    bound = 4.0 * <double>n * <double>n * 1.232595164407831e-32 * sum.reach
    r = s + c
    z = r - s
    rest = (s - (r - z)) + (c - z)
    found[0] = r
    return r + (rest + bound) == r and r + (rest - bound) == r


cdef inline double fsum(list values) except? -1.0:
    """math.fsum: the sum, correctly rounded."""
    return _sum_of_first(values, len(values))


cdef inline double _sum_of_first(list values, Py_ssize_t n) except? -1.0:
    """Sum of the first n values, correctly rounded."""
    cdef Py_ssize_t i
    cdef Sum sum = Sum(0.0, 0.0, 0.0)
    cdef PyObject *item
    cdef double found = 0.0
    if n == 0:
        return 0.0
    for i in range(n):
        item = item_of(values, i)
        if not is_float(item):  # a whole number
            sum.reach = 0.0
            break
        add_to(&sum, double_of(item))
    if is_certain(&sum, n, &found):
        return found
    import math
    return math.fsum(values[:n])


cdef inline double *doubles_of(carray values) noexcept:
    return values.data.as_doubles


cdef inline double sum_between(const double *values, Py_ssize_t first, Py_ssize_t last) except? -1.0:
    """Sum of values[first:last], correctly rounded."""
    cdef Py_ssize_t i
    cdef Sum sum = Sum(0.0, 0.0, 0.0)
    cdef double found = 0.0
    if first == last:
        return 0.0
    for i in range(first, last):
        add_to(&sum, values[i])
    if is_certain(&sum, last - first, &found):
        return found
    import math
    return math.fsum([values[i] for i in range(first, last)])


cdef inline double sum_of_products(
    const double *one, const double *other, Py_ssize_t n
) except? -1.0:
    """Sum of the first n products, correctly rounded."""
    cdef Py_ssize_t i
    cdef Sum sum = Sum(0.0, 0.0, 0.0)
    cdef double found = 0.0
    for i in range(n):
        add_to(&sum, one[i] * other[i])
    if is_certain(&sum, n, &found):
        return found
    import math
    return math.fsum([one[i] * other[i] for i in range(n)])


cdef inline void sift(double *keys, double *values, Py_ssize_t at, Py_ssize_t n) noexcept:
    """Let a pair sink to its place in a heap with the largest key on top."""
    cdef double key = keys[at], value = values[at]
    cdef Py_ssize_t below = 2 * at + 1
    while below < n:
        if below + 1 < n and keys[below + 1] > keys[below]:
            below += 1
        if not keys[below] > key:
            break
        keys[at] = keys[below]
        values[at] = values[below]
        at = below
        below = 2 * at + 1
    keys[at] = key
    values[at] = value


cdef inline double percentile_95(
    double *spreads, double *held_ms, Py_ssize_t n, long long total_ms
) except? -1.0:
    """The largest spread that leaves less than 95 % to smaller ones; what it walks becomes a heap."""
    cdef double left_ms = total_ms
    cdef Py_ssize_t at
    for at in range(n // 2 - 1, -1, -1):
        sift(spreads, held_ms, at, n)
    while n > 0:
        left_ms -= held_ms[0]
        if left_ms * 100.0 < total_ms * 95.0:
            return spreads[0]
        n -= 1
        spreads[0] = spreads[n]
        held_ms[0] = held_ms[n]
        sift(spreads, held_ms, 0, n)
    raise AssertionError("the spreads of a minute cover all its time")


include "ticks.pxi"


cdef inline TradeRecord trade_at(bytearray data, Py_ssize_t index) noexcept:
    return (<TradeRecord *> bytes_of(data))[index]


cdef inline QuoteRecord quote_at(bytearray data, Py_ssize_t index, Py_ssize_t size) noexcept:
    """A quote, or the best levels of a book."""
    cdef QuoteRecord quote
    cdef BookRecord *book
    if size == sizeof(QuoteRecord):
        return (<QuoteRecord *> bytes_of(data))[index]
    book = (<BookRecord *> bytes_of(data)) + index
    quote.arrival_ns = book.arrival_ns
    quote.time_ms = book.time_ms
    quote.bid_px = book.sides[0]
    quote.bid_sz = book.sides[1]
    quote.ask_px = book.sides[10]
    quote.ask_sz = book.sides[11]
    return quote


cdef inline ContextRecord context_at(bytearray data, Py_ssize_t index) noexcept:
    return (<ContextRecord *> bytes_of(data))[index]


cpdef inline long long time_at(bytearray data, Py_ssize_t index, Py_ssize_t size) noexcept:
    return (<long long *> (bytes_of(data) + index * size))[1]


cdef inline int append_quote(bytearray data, QuoteRecord quote) except -1:
    cdef Py_ssize_t size = len(data)
    resize(data, size + sizeof(QuoteRecord))
    (<QuoteRecord *> (bytes_of(data) + size))[0] = quote
    return 0


cdef inline double _depth(bytearray books, Py_ssize_t index, int side) except? -1.0:
    """Sum of px * sz over the levels of a side, correctly rounded."""
    cdef double *flat = (<BookRecord *> bytes_of(books))[index].sides + 10 * side
    cdef Py_ssize_t i, n = 0
    cdef Sum sum = Sum(0.0, 0.0, 0.0)
    cdef double found = 0.0
    for i in range(DEPTH_LEVELS):
        if flat[2 * i] == flat[2 * i]:
            add_to(&sum, flat[2 * i] * flat[2 * i + 1])
            n += 1
    if n == 0:
        return 0.0
    if is_certain(&sum, n, &found):
        return found
    import math
    terms = [flat[2 * i] * flat[2 * i + 1] for i in range(DEPTH_LEVELS)]
    return math.fsum([term for term in terms if term == term])


cdef inline Py_ssize_t bisect_left(list keys, long long k) except -1:
    """bisect.bisect_left over whole numbers."""
    cdef Py_ssize_t low = 0, high = len(keys), middle
    cdef long long found
    while low < high:
        middle = (low + high) >> 1
        found = keys[middle]
        if found < k:
            low = middle + 1
        else:
            high = middle
    return low


@cython.locals(t=double, p=double)
cdef double _atanh2(double h) noexcept

@cython.locals(f=double, e=int, r=double)
cpdef double log(double x) except? -1.0

cpdef double log1p(double x) except? -1.0

@cython.locals(w=double, y=double)
cpdef double asinh(double x) except? -1.0

@cython.locals(q=double)
cpdef double pow_3_8(double x) except? -1.0

@cython.locals(k=int, r=double, p=double, i=int)
cpdef double exp(double x) except? -1.0

@cython.locals(t=double)
cpdef double sigmoid(double x) except? -1.0

@cython.locals(w=double, ten=double, scaled=double, whole=double)
cpdef double round12(double x) except? -1.0

cpdef object rounded(object x)

@cython.locals(ordered=list, half=Py_ssize_t)
cpdef object median(object values)

@cython.locals(before=cython.longlong, now=cython.longlong, count=Py_ssize_t, index=Py_ssize_t)
cpdef bytearray in_time_order(bytearray data, Py_ssize_t size)

@cython.locals(
    latest=cython.longlong, now=cython.longlong, found=Py_ssize_t, index=Py_ssize_t
)
cpdef bytearray newest(bytearray data, Py_ssize_t size)

@cython.locals(count=Py_ssize_t)
cpdef long long last_ms(bytearray data, Py_ssize_t size) noexcept

@cython.locals(index=Py_ssize_t, trade=TradeRecord, keys=list)
cpdef list keys_of(bytearray trades)

@cython.locals(index=Py_ssize_t, quotes=bytearray)
cpdef bytearray tops_of(bytearray books)

cdef inline bint is_closed(bytearray keys, long long time_ms, long long tid) noexcept:
    """Tell whether a print is among the packed keys."""
    cdef long long *at = <long long *> bytes_of(keys)
    cdef Py_ssize_t index
    for index in range(0, len(keys) // 8, 2):
        if at[index] == time_ms and at[index + 1] == tid:
            return True
    return False


@cython.locals(
    index=Py_ssize_t, count=Py_ssize_t, first=Py_ssize_t, room=Py_ssize_t, trade=TradeRecord,
    time_ms=cython.longlong, label=cython.longlong, open_label=cython.longlong,
    final_ms=cython.longlong, keys=set, key=tuple, reason=str
)
cpdef object take_trades(object state, bytearray trades, long long future_ms, object make)

@cython.locals(
    index=Py_ssize_t, count=Py_ssize_t, first=Py_ssize_t, room=Py_ssize_t, quote=QuoteRecord,
    time_ms=cython.longlong, label=cython.longlong, open_label=cython.longlong,
    final_ms=cython.longlong, reason=str
)
cpdef object take_states(
    object state, bytearray data, Py_ssize_t size, long long future_ms, object make
)

@cython.locals(
    index=Py_ssize_t, count=Py_ssize_t, first=Py_ssize_t, room=Py_ssize_t, kept=Py_ssize_t,
    context=ContextRecord, label=cython.longlong, open_label=cython.longlong
)
cpdef object take_contexts(object state, bytearray contexts, object make)

cpdef object drop(object state, str reason, Py_ssize_t count)

cpdef object remember_closed(object state, list keys)

cdef object _open_minute(object state, long long label, object make)

cdef Py_ssize_t _buffered(object minute) except -1

cdef object _append(object minute, bytearray records, Py_ssize_t size)

cdef object _mark_amended(object state, long long label)

@cython.locals(known=bytearray)
cdef object _take_earlier(object state, bytearray record, Py_ssize_t size)

@cython.locals(
    numbers=cython.p_double, index=Py_ssize_t, total=double, before=double, mid=double,
    change=double
)
cpdef object realized_volatility(carray mids)

cpdef carray zeros(Py_ssize_t count)

@cython.locals(
    count=Py_ssize_t, prices=carray, amounts=carray, px=cython.p_double, amount=cython.p_double,
    buys=Py_ssize_t, sells=Py_ssize_t, index=Py_ssize_t, trade=TradeRecord, of_buys=double
)
cpdef tuple notional(bytearray trades)

@cython.locals(price=double, base=double)
cpdef object simple_return(object now, object before)

cpdef object range_ratio(object high, object low, object mid)

@cython.locals(
    count=Py_ssize_t, index=Py_ssize_t, middle=double, products=list, squares=list, level=double,
    delta=double, weight=double
)
cpdef double slope(object deltas) except? -1.0

@cython.locals(numbers=cython.p_double, low=double, high=double)
cpdef tuple ohlc(carray prices)

@cython.locals(low=double, high=double)
cpdef bint within_factor(carray values, double factor) except? -1

@cython.locals(numbers=cython.p_double, low=double, high=double, index=Py_ssize_t)
cpdef (double, double) extremes(carray values) except *

@cython.locals(
    mids=carray, spreads=carray, durations=carray, mid=cython.p_double, spread=cython.p_double,
    held_ms=cython.p_double, n_mids=Py_ssize_t, n_held=Py_ssize_t, total_ms=cython.longlong,
    at=cython.longlong, time_ms=cython.longlong, then=Py_ssize_t, count=Py_ssize_t,
    index=Py_ssize_t, two_sided=bint, bid=double, ask=double, quote=QuoteRecord, mean=double
)
cpdef tuple top_of_book(
    bytearray carry, bytearray quotes, long long start_ms, long long end_ms, long long at_ms
)

@cython.locals(quote=QuoteRecord, bid=double, ask=double, bid_sz=double, ask_sz=double)
cdef tuple _instant(bytearray quotes, Py_ssize_t index)

cdef double _micro(double bid, double bid_sz, double ask, double ask_sz) except? -1.0

cdef double _middle(double bid, double ask) noexcept

@cython.locals(
    depths=list, parts=list, total_ms=cython.longlong, at=cython.longlong,
    time_ms=cython.longlong, bid=double, ask=double, known=bint, count=Py_ssize_t,
    index=Py_ssize_t
)
cpdef tuple depth_columns(bytearray carry, bytearray books, long long start_ms, long long end_ms)

@cython.locals(
    levels=list, basis=list, has_index=bint, index=Py_ssize_t, newest_sample=Py_ssize_t,
    context=ContextRecord, mark=double, oracle=double, base=double, rate=double, sample=bytearray
)
cpdef tuple contexts_of(bytearray contexts)

@cython.locals(context=ContextRecord)
cpdef tuple sample_of(bytearray contexts)

@cython.locals(
    index=Py_ssize_t, back=Py_ssize_t, context=ContextRecord, sample=bytearray, mark=double,
    base=double, rate=double
)
cpdef tuple newest_context(bytearray contexts)

cdef double _premium_bp(double mark, double oracle) except? -1.0

@cython.locals(at=Py_ssize_t, count=Py_ssize_t, newest=cython.longlong, found=cython.longlong)
cpdef object value_at(list labels, list values, long long label_ms)

@cython.locals(first=cython.longlong, k=cython.longlong)
cpdef list values_to(list labels, list values, long long label_ms, long long bars, long long bar_ms)

@cython.locals(column=list)
cpdef object push(list labels, dict table, long long label_ms, dict values, Py_ssize_t limit)

@cython.locals(mids=list, minutes=cython.longlong, window=list, known=list)
cpdef object minute_changes(dict columns, list labels, dict table, long long label_ms)

@cython.locals(window=list, known=list)
cpdef object flow_window(
    dict columns, list labels, list deltas, long long label_ms, long long minutes
)

cpdef object change(object now, object before)

cpdef object rate_of_change(object now, object before)

cpdef object open_interest_changes(
    dict columns, list labels, list coins, long long label_ms, long long back
)

cdef class Limits:
    cdef double ret_abs_max, stale_ms, near_stale_ms, v_min, v_min_share, spread_multiple
    cdef double near_factor, w_ret, w_vol, w_oi, z_cap

@cython.locals(values=dict, beyond=bint, bound=double, value=double, age=double)
cpdef bint look_back(
    dict columns, list labels, dict table, long long label_ms, Py_ssize_t bars, Limits limits
) except -1

@cython.locals(lowest=double, highest=double, one=double, other=double)
cpdef bint prices_at_odds(dict columns) except -1

@cython.locals(
    v_min=double, near=double, median_volume=double, traded=double, thin=bint, near_limit=bint,
    wide=bint, width=double, median_spread=double, cap=double, stale=bint,
    age=double
)
cpdef object gates(dict columns, object usual_volume, object usual_spread, Limits limits)

@cython.locals(of_ret=double, of_vol=double, of_oi=double, z=double)
cpdef object strength(dict columns, Limits limits)

@cython.locals(x=double)
cpdef double sign(object value) except? -1.0

@cython.locals(f=double, e=int)
cpdef long long bin_of(double x) except? -1

@cython.locals(k=cython.longlong, at=Py_ssize_t)
cpdef object count_in(list keys, list counts, double x)

cpdef bint count_today(list days, double x, long long day) except -1

@cython.locals(
    high=double, low=double, close=double, total=double, buys=double, sells=double, boxed=object
)
cpdef bint fill_bar(dict columns, object raw) except -1

cdef tuple NEED_COVERAGE

@cython.locals(
    columns=dict, index=Py_ssize_t, how=str, known=list, short=bint, row=list
)
cpdef dict fold(
    list rows, list last, tuple names, tuple folds, Py_ssize_t volume, double enough
)

@cython.locals(total=object, count=Py_ssize_t)
cpdef object folded(list known, str how)

cdef class Sketch:
    cdef public double w, t
    cdef public carray keys, weights

cdef class Baseline:
    cdef public double clamp_lo, clamp_hi, m, v, Wm, Ws, d
    cdef public long long version, n, null_count
    cdef public object day, last_ts_ms
    cdef public tuple bounds
    cdef public carray buf
    cdef public Sketch sketch

cdef class Checkpoint:
    cdef public double clamp_lo, clamp_hi, m, v, Wm, Ws, d, w, t, weight
    cdef public long long n, null_count
    cdef public object day, last_ts_ms, key, faded
    cdef public carray buf
    cdef public Sketch sketch

cdef class Plan:
    cdef public object feature, robust
    cdef public str name, transform
    cdef double s_min, d_min, x_zero, a_m, a_s, growth, clip_sigma, kappa, d_clip
    cdef double sketch_prune_share
    cdef bint has_d, ranked, scored
    cdef public long long min_samples, low_confidence_samples

cdef class Seen:
    cdef public bint warm, has_z, has_q, floored
    cdef public double z, q, m, s

cdef class Entry:
    cdef public Plan plan
    cdef public str name
    cdef public object source, z, q, mean, scale, divisor, clamp
    cdef public tuple raw
    cdef public bint hourly, warm


cdef inline int *ints_of(carray values) noexcept:
    return values.data.as_ints

cdef inline Py_ssize_t place_of(const int *keys, Py_ssize_t count, long long k) noexcept:
    """bisect.bisect_left over whole numbers."""
    cdef Py_ssize_t low = 0, high = count, middle
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < k:
            low = middle + 1
        else:
            high = middle
    return low


@cython.locals(w=double, f=double, e=int, k=cython.longlong, i=cython.longlong)
cpdef long long key(double x, double x_zero) except? -1

@cython.locals(
    w=double, t=double, keys=cython.p_int, weights=cython.p_double, at=Py_ssize_t,
    count=Py_ssize_t, index=Py_ssize_t
)
cpdef object add_at(Sketch sketch, long long k, double growth)

@cython.locals(keys=cython.p_int, at=Py_ssize_t, count=Py_ssize_t)
cpdef double held_at(Sketch sketch, long long k) except? -1.0

@cython.locals(keys=cython.p_int, at=Py_ssize_t, count=Py_ssize_t, used=bint)
cpdef object put_weight(Sketch sketch, long long k, object weight)

@cython.locals(
    keys=cython.p_int, weights=cython.p_double, at=Py_ssize_t, count=Py_ssize_t, own=double
)
cpdef double rank_at(Sketch sketch, long long k) except? -1.0

@cython.locals(octave=int, i=int, e=int, near=double, far=double)
cpdef (double, double) edges(long long k)

@cython.locals(
    keys=cython.p_int, weights=cython.p_double, target=double, c=double, b=double, lo=double,
    hi=double, index=Py_ssize_t, count=Py_ssize_t
)
cpdef double quantile_of(Sketch sketch, double p) except? -1.0

@cython.locals(
    least=double, keys=cython.p_int, weights=cython.p_double, index=Py_ssize_t, count=Py_ssize_t
)
cpdef list lighter_bins(Sketch sketch, double share)

@cython.locals(
    least=double, keys=cython.p_int, weights=cython.p_double, index=Py_ssize_t, count=Py_ssize_t,
    kept=Py_ssize_t
)
cpdef object prune_bins(Sketch sketch, double share)

cpdef double transformed(double x, double d, str transform) except? -1.0

cpdef bint in_domain(double x, str transform) except? -1

@cython.locals(kept=Checkpoint, sketch=Sketch, k=cython.longlong, day=cython.longlong)
cpdef Checkpoint checkpoint(Baseline state, object x, long long label_ms, Plan plan)

@cython.locals(sketch=Sketch)
cpdef object restore(Baseline state, Checkpoint before)

@cython.locals(value=double, k=cython.longlong, y=double, scored=bint)
cpdef object apply(
    Baseline state, Seen seen, object x, long long label_ms, str dq, Plan plan
)

@cython.locals(last=cython.longlong)
cdef int _advance(Baseline state, long long label_ms) except -1

@cython.locals(
    n=cython.longlong, a_m=double, a_s=double, w_m=double, w_s=double, gm=double, gs=double,
    d=double, u=double, y=double, m=double, v=double, limit=double, e=double, transform=str,
    is_new=bint, before=cython.longlong
)
cpdef double update(Baseline state, double x, long long k, long long day, Plan plan) except? -1.0

cdef object _initialise(Baseline state, Plan plan)

@cython.locals(q1=double, q3=double, s=double, z1=double, z3=double, reach=double)
cdef tuple _clamp_bounds(Baseline state, Plan plan)

@cython.locals(m=double, s=double, s_min=double)
cpdef object look(
    Baseline state, Seen seen, long long k, double y, bint scored, Plan plan
)

@cython.locals(
    clamps=dict, floored=list, warmup=bint, seen=Seen, dq=str, off_hour=bint, priced=bint,
    entry=Entry, plan=Plan, state=Baseline
)
cpdef dict normalise(
    dict baselines, tuple entries, dict columns, dict given, long long label_ms,
    dict checkpoints
)

cpdef bytes dump(Baseline state)

@cython.locals(
    sketch=Sketch, starts=carray, lengths=carray, buf=carray, samples=cython.p_double,
    index=Py_ssize_t
)
cpdef bytes body_of(Baseline state)

@cython.locals(
    count=Py_ssize_t, found=cython.p_int, index=Py_ssize_t, starts=carray, lengths=carray,
    first=cython.p_int, length=cython.p_int, at=Py_ssize_t
)
cpdef tuple runs_of(carray keys)

@cython.locals(
    sketch=Sketch, finite=bint, above=bint, count=Py_ssize_t, index=Py_ssize_t,
    samples=cython.p_double, weights=cython.p_double
)
cpdef object check(Baseline state)

cpdef bint is_finite(double x) noexcept

@cython.locals(clamps=dict)
cpdef dict complete(
    dict baselines, tuple entries, dict columns, dict given, long long label_ms,
    dict checkpoints, object volume, object spread, Limits limits, long long least
)

cpdef object usual(object gate)

@cython.locals(hourly=bint)
cpdef object read_medians(
    object volume, object spread, dict baselines, long long label_ms, long long least
)

cpdef object read_median(object gate, Baseline baseline, bint hourly, long long least)

cpdef tuple bounds_of(Baseline state)

cpdef str confidence(long long n, Plan plan)

cpdef object input_of(str name, object value, dict columns, bint priced)
