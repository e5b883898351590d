# C types of kernel.py, and in C what its plain form takes from the standard library.
#
# No option that changes arithmetic (setup.py): each double operation is the one Python does.

import cython

cdef extern from "math.h" nogil:
    double c_frexp "frexp"(double x, int* exponent)
    double fabs(double x)
    double ldexp(double x, int exponent)
    double sqrt(double x)

cdef extern from "Python.h":
    ctypedef struct PyObject
    PyObject *item_of "PyList_GET_ITEM"(list values, Py_ssize_t i)  # borrowed
    bint is_float "PyFloat_CheckExact"(PyObject *item)
    double double_of "PyFloat_AS_DOUBLE"(PyObject *item)


cdef double LN2_HI, LN2_LO, SQRT_HALF, SQRT_TWO, HUGE
cdef double ROUND_MIN, ROUND_MAX, _WHOLE, _CLEAR
cdef list _TENS
cdef double WEIGHT_MAX, WEIGHT_SHRINK
cdef int PER_OCTAVE, EXPONENT_SHIFT, DEPTH_LEVELS, INIT_PASSES
cdef long long DAY_MS, HOUR_MS, MINUTE_MS
cdef int SLOPE_BARS, BASIS_MIN
cdef tuple PRICED, RETURNS
cdef object _time_of


cdef inline (double, int) frexp(double x) noexcept:
    """math.frexp."""
    cdef int exponent = 0
    cdef double fraction = c_frexp(x, &exponent)
    return fraction, exponent


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


cdef inline double _depth(levels) except? -1.0:
    """Sum of px * sz over the best levels, correctly rounded."""
    cdef Py_ssize_t i, n = min(<Py_ssize_t>len(levels), DEPTH_LEVELS)
    cdef Sum sum = Sum(0.0, 0.0, 0.0)
    cdef double px, sz, found = 0.0
    for i in range(n):
        level = levels[i]
        px = level[0]
        sz = level[1]
        add_to(&sum, px * sz)
    if is_certain(&sum, n, &found):
        return found
    import math
    return math.fsum([level[0] * level[1] for level in levels[:n]])


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

@cython.locals(w=double, ten=double, scaled=double, whole=double)
cpdef double round12(double x) except? -1.0

cpdef object rounded(object x)

@cython.locals(ordered=list, half=Py_ssize_t)
cpdef object median(object values)

@cython.locals(before=cython.longlong, now=cython.longlong)
cpdef list in_time_order(list records)

@cython.locals(latest=cython.longlong, now=cython.longlong)
cpdef object newest(list records)

cpdef list keys_of(list trades)

@cython.locals(total=double, before=double, mid=double, change=double)
cpdef object realized_volatility(object mids)

@cython.locals(prices=list, buys=list, sells=list)
cpdef tuple notional(object trades)

@cython.locals(price=double, base=double)
cpdef object simple_return(object now, object before)

cpdef object range_ratio(object high, object low, object mid)

@cython.locals(
    count=Py_ssize_t, index=Py_ssize_t, middle=double, products=list, squares=list, level=double,
    delta=double, weight=double
)
cpdef double slope(object deltas) except? -1.0

cpdef object mid(object quote)

@cython.locals(bid=double, ask=double, bid_sz=double, ask_sz=double)
cpdef object microprice(object quote)

@cython.locals(low=double, high=double, px=double)
cpdef tuple ohlc(list prices)

@cython.locals(low=double, high=double, x=double)
cpdef bint within_factor(list values, double factor) except? -1

@cython.locals(
    mids=list, weighted=list, held=dict, total_ms=cython.longlong, at=cython.longlong,
    time_ms=cython.longlong
)
cpdef tuple top_of_book(
    object carry, list quotes, long long start_ms, long long end_ms, long long at_ms
)

cdef double _middle(double bid, double ask) noexcept

@cython.locals(spread=double, width=object)
cdef long long _hold(dict held, list weighted, double bid, double ask, long long ms) except -1

@cython.locals(left_ms=cython.longlong, ms=cython.longlong)
cdef object _percentile_95(dict held, long long total_ms)

@cython.locals(
    depths=list, parts=list, total_ms=cython.longlong, at=cython.longlong,
    time_ms=cython.longlong, bid=double, ask=double, known=bint, count=Py_ssize_t,
    index=Py_ssize_t
)
cpdef tuple depth_columns(object carry, list books, long long start_ms, long long end_ms)

@cython.locals(levels=list, basis=list, has_index=bint)
cpdef tuple contexts_of(list contexts)

cdef double _premium_bp(double mark, double oracle) except? -1.0

@cython.locals(at=Py_ssize_t)
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

@cython.locals(w=double, f=double, e=int, k=cython.longlong, i=cython.longlong)
cpdef long long key(double x, double x_zero) except? -1

@cython.locals(w=double, t=double, keys=list, weights=list, at=Py_ssize_t, b=double)
cpdef object add_at(object sketch, long long k, double growth)

@cython.locals(keys=list, at=Py_ssize_t)
cpdef object weight_at(object sketch, long long k)

@cython.locals(keys=list, weights=list, at=Py_ssize_t, own=double)
cpdef object rank_at(object sketch, long long k)

@cython.locals(octave=int, i=int, e=int, near=double, far=double)
cpdef (double, double) edges(long long k)

@cython.locals(
    keys=list, weights=list, target=double, c=double, b=double, lo=double, hi=double,
    index=Py_ssize_t
)
cpdef object quantile(object sketch, double p)

@cython.locals(least=double, keys=list, weights=list, index=Py_ssize_t)
cpdef list lighter(object sketch, double share)

@cython.locals(least=double, keys=list, weights=list, kept=list, index=Py_ssize_t)
cpdef object prune(object sketch, double share)

cpdef double transformed(double x, double d, str transform) except? -1.0

cpdef bint in_domain(double x, str transform) except? -1

@cython.locals(w=double, k=object)
cpdef object checkpoint(
    object make, object state, object x, long long label_ms, object feature, object decay,
    object robust
)

cpdef tuple apply(
    object state, object x, long long label_ms, str dq, object feature, object decay,
    object robust
)

cdef int _advance(object state, long long label_ms) except -1

@cython.locals(
    n=cython.longlong, a_m=double, a_s=double, w_m=double, w_s=double, gm=double, gs=double,
    d=double, u=double, y=double, m=double, v=double, s_min=double, kappa=double, limit=double,
    e=double, transform=str
)
cpdef object update(
    object state, double x, long long k, long long day, object feature, object decay,
    object robust
)

cdef object _initialise(object state, object feature, object robust)

@cython.locals(s=double, z1=double, z3=double, reach=double)
cdef tuple _clamp_bounds(object state, object feature, object robust)

@cython.locals(m=double, s=double, s_min=double)
cpdef tuple normalised(object state, object k, object y, object feature, object robust)

@cython.locals(
    clamps=dict, floored=list, young=list, checkpoints=dict, off_hour=bint, least=cython.longlong,
    names=tuple, result=tuple, index=Py_ssize_t
)
cpdef tuple normalise(
    dict baselines, tuple entries, dict columns, long long label_ms, object robust, object make
)

cpdef object input_of(str name, object value, dict columns)
