"""The frames that nearly all are, straight from their text into records of ticks.

Rules of this file: it reads only what the venue writes today, to the letter (channels bbo, trades,
l2Book, activeAssetCtx; no space, no escape, plain decimals of at most 15 digits, values in bounds,
known coins) in the steady flow of the clock; at the first line that is anything else it stops
before having done anything, and operators/feed.py reads that line. So it decides nothing and drops
nothing, and without it the results are the same.  Decision 15.
"""

from libc.string cimport memchr, memcmp, memcpy, strlen

cdef extern from "Python.h":
    char *bytes_of "PyByteArray_AS_STRING"(object data)
    int resize "PyByteArray_Resize"(object data, Py_ssize_t size) except -1
    char *text_of "PyBytes_AS_STRING"(object line)
    Py_ssize_t length_of "PyBytes_GET_SIZE"(object line)
    object make_bytes "PyBytes_FromStringAndSize"(const char *text, Py_ssize_t size)

cdef extern from "math.h":
    const double NAN

cdef enum:
    LEVELS = 5
    TRADES_MAX = 512  # prints of one frame; one with more is read the other way
    STAMP_MAX = 9223372036854775807

include "decimals.pxi"
include "ticks.pxi"

cdef double PX_MAX = 1e12
cdef double SZ_MAX = 1e15
cdef long long TIME_MS_MAX = 4102444800000
cdef long long MINUTE_MS = 60000


# --- pieces of text; each returns what follows, or NULL ------------------------------------------


cdef inline Text after(Text p, Text end, Text word) noexcept:
    cdef size_t n = strlen(word)
    if <size_t> (end - p) < n or memcmp(p, word, n) != 0:
        return NULL
    return p + n


cdef inline Text quoted(Text p, Text end) noexcept:
    """The rest of a string of printable ASCII, with its closing quote."""
    while p < end and p[0] != c'"':
        if p[0] == c'\\' or not 0x20 <= <unsigned char> p[0] <= 0x7e:
            return NULL
        p += 1
    return p + 1 if p < end else NULL


cdef Text anything(Text p, Text end, int depth) noexcept:
    """Any value of what the venue sends in members that nobody reads."""
    cdef double number = 0.0
    if p >= end or depth > 4:
        return NULL
    if p[0] == c'"':
        return quoted(p + 1, end)
    if p[0] == c'n':
        return after(p, end, b"null")
    if p[0] == c'[':
        p += 1
        if p < end and p[0] == c']':
            return p + 1
        while True:
            p = anything(p, end, depth + 1)
            if p == NULL or p >= end:
                return NULL
            if p[0] == c']':
                return p + 1
            if p[0] != c',':
                return NULL
            p += 1
    return decimal(p, end, &number)


cdef inline Text level(Text p, Text end, double *side) noexcept:
    """Price and size of a level, in bounds."""
    cdef long long count = 0
    p = after(p, end, b'{"px":"')
    if p != NULL:
        p = decimal(p, end, side)
    if p != NULL:
        p = after(p, end, b'","sz":"')
    if p != NULL:
        p = decimal(p, end, side + 1)
    if p != NULL:
        p = after(p, end, b'","n":')
    if p != NULL:
        p = whole(p, end, 15, &count)
    if p != NULL:
        p = after(p, end, b"}")
    if p == NULL or not (0.0 < side[0] < PX_MAX and 0.0 < side[1] < SZ_MAX):
        return NULL
    return p


cdef inline Text dated(Text p, Text end, long long *time_ms) noexcept:
    p = whole(p, end, 15, time_ms)
    return p if p != NULL and 0 < time_ms[0] < TIME_MS_MAX else NULL


cdef inline Text name(Text p, Text end, Text *start, Py_ssize_t *size) noexcept:
    """A coin's name with its closing quote."""
    start[0] = p
    p = quoted(p, end)
    if p != NULL:
        size[0] = p - start[0] - 1
    return p


# --- frames, from behind their channel -----------------------------------------------------------


cdef Text quote_frame(
    Text p, Text end, Text *coin, Py_ssize_t *size, QuoteRecord *quote
) noexcept:
    cdef int side
    cdef double *sides = &quote.bid_px  # px and sz of the bid, then of the ask
    p = name(p, end, coin, size)
    if p != NULL:
        p = after(p, end, b',"time":')
    if p != NULL:
        p = dated(p, end, &quote.time_ms)
    if p != NULL:
        p = after(p, end, b',"bbo":[')
    for side in range(2):
        if p == NULL or p >= end:
            return NULL
        if p[0] == c'n':
            p = after(p, end, b"null")
            sides[2 * side] = sides[2 * side + 1] = NAN
        else:
            p = level(p, end, &sides[2 * side])
        if p != NULL and side == 0:
            p = after(p, end, b",")
    return after(p, end, b"]}}") if p != NULL else NULL


cdef Text book_frame(Text p, Text end, Text *coin, Py_ssize_t *size, BookRecord *book) noexcept:
    cdef int side, found
    cdef double[2] further
    p = name(p, end, coin, size)
    if p != NULL:
        p = after(p, end, b',"time":')
    if p != NULL:
        p = dated(p, end, &book.time_ms)
    if p != NULL:
        p = after(p, end, b',"levels":[')
    for side in range(2):
        if p != NULL:
            p = after(p, end, b"[")
        if p == NULL or p >= end:
            return NULL
        found = 0
        if p[0] != c']':
            while True:
                if found < LEVELS:
                    p = level(p, end, &book.sides[2 * (LEVELS * side + found)])
                else:
                    p = level(p, end, further)
                if p == NULL or p >= end:
                    return NULL
                found += 1
                if p[0] != c',':
                    break
                p += 1
        while found < LEVELS:
            book.sides[2 * (LEVELS * side + found)] = NAN
            book.sides[2 * (LEVELS * side + found) + 1] = NAN
            found += 1
        p = after(p, end, b"],") if side == 0 else after(p, end, b"]]")
    if p == NULL:
        return NULL
    if p < end and p[0] == c',':
        p = after(p, end, b',"fast":true')
    return after(p, end, b"}}") if p != NULL else NULL


cdef Text number_or_null(Text p, Text end, double *found) noexcept:
    if p < end and p[0] == c'n':
        found[0] = NAN
        return after(p, end, b"null")
    p = after(p, end, b'"')
    if p != NULL:
        p = decimal(p, end, found)
    return after(p, end, b'"') if p != NULL else NULL


cdef Text context_frame(
    Text p, Text end, Text *coin, Py_ssize_t *size, ContextRecord *context
) noexcept:
    cdef Text start
    cdef Py_ssize_t length
    cdef int seen = 0, which
    cdef double *found
    context.open_interest_base = context.mark_px = context.oracle_px = context.funding_rate = NAN
    p = name(p, end, coin, size)
    if p != NULL:
        p = after(p, end, b',"ctx":{')
    while True:
        if p != NULL:
            p = after(p, end, b'"')
        if p == NULL:
            return NULL
        start = p
        p = quoted(p, end)
        if p == NULL:
            return NULL
        length = p - start - 1
        p = after(p, end, b":")
        if p == NULL:
            return NULL
        which = 0
        found = NULL
        if length == 12 and memcmp(start, b"openInterest", 12) == 0:
            which, found = 1, &context.open_interest_base
        elif length == 6 and memcmp(start, b"markPx", 6) == 0:
            which, found = 2, &context.mark_px
        elif length == 8 and memcmp(start, b"oraclePx", 8) == 0:
            which, found = 4, &context.oracle_px
        elif length == 7 and memcmp(start, b"funding", 7) == 0:
            which, found = 8, &context.funding_rate
        if seen & which:
            return NULL
        seen |= which
        p = anything(p, end, 0) if found == NULL else number_or_null(p, end, found)
        if p == NULL or p >= end:
            return NULL
        if p[0] == c'}':
            break
        p = after(p, end, b",")
    if context.mark_px == context.mark_px and not 0.0 < context.mark_px < PX_MAX:
        return NULL
    if context.oracle_px == context.oracle_px and not 0.0 <= context.oracle_px < PX_MAX:
        return NULL
    if context.open_interest_base == context.open_interest_base:
        if not 0.0 <= context.open_interest_base < SZ_MAX:
            return NULL
    if context.oracle_px == 0.0:  # an index of zero is no index (build plan 8.4)
        context.oracle_px = NAN
    return after(p, end, b"}}}")


cdef Text trade_entry(
    Text p, Text end, Text *coin, Py_ssize_t *size, TradeRecord *trade
) noexcept:
    p = after(p, end, b'{"coin":"')
    if p != NULL:
        p = name(p, end, coin, size)
    if p != NULL:
        p = after(p, end, b',"side":"')
    if p == NULL or p >= end or not (p[0] == c'A' or p[0] == c'B'):
        return NULL
    trade.is_buy = p[0] == c'B'
    p = after(p + 1, end, b'","px":"')
    if p != NULL:
        p = decimal(p, end, &trade.px)
    if p != NULL:
        p = after(p, end, b'","sz":"')
    if p != NULL:
        p = decimal(p, end, &trade.sz)
    if p != NULL:
        p = after(p, end, b'","time":')
    if p != NULL:
        p = dated(p, end, &trade.time_ms)
    if p != NULL:
        p = after(p, end, b',"hash":"')
    if p != NULL:
        p = quoted(p, end)
    if p != NULL:
        p = after(p, end, b',"tid":')
    if p != NULL:
        p = whole(p, end, 18, &trade.tid)
    if p == NULL or p >= end:
        return NULL
    if p[0] == c',':
        p = after(p, end, b',"users":')
        if p != NULL:
            p = anything(p, end, 0)
    if p == NULL or not (0.0 < trade.px < PX_MAX and 0.0 < trade.sz < SZ_MAX):
        return NULL
    return after(p, end, b"}")


# --- lines ---------------------------------------------------------------------------------------


cdef class Target:
    """Where the ticks of an asset go; the arrays are those of the micro-batch numbered `batch`."""

    cdef object uid
    cdef long long batch
    cdef bytearray trades, quotes, books, contexts

    def __cinit__(self, uid):
        self.uid = uid
        self.batch = 0


cdef inline int put(bytearray data, const void *record, Py_ssize_t size) except -1:
    cdef Py_ssize_t at = len(data)
    resize(data, at + size)
    memcpy(bytes_of(data) + at, record, size)
    return 0


cdef class Lines:
    """Reads lines as long as it can.

    jump_ns : a step of the clock beyond it is not for here. make : of an empty micro-batch.
    kept : how many of the smallest delays of a minute are remembered.
    """

    cdef long long jump_ns, batch
    cdef object make
    cdef Py_ssize_t kept
    cdef dict quotes, trades, books, contexts, pending, made
    cdef TradeRecord[TRADES_MAX] found
    cdef list targets

    def __cinit__(self, long long jump_ns, make, Py_ssize_t kept):
        self.jump_ns = jump_ns
        self.make = make
        self.kept = kept
        self.batch = 0
        self.pending = None
        self.targets = [None] * TRADES_MAX
        self.forget()

    def forget(self):
        """Know no coin any more."""
        self.made = {}  # by id, whatever the channel
        self.quotes, self.trades, self.books, self.contexts = {}, {}, {}, {}

    def learn(self, str channel, str coin, uid):
        """Take the id of a coin whose frames of a channel are read from now on."""
        cdef dict targets = self.contexts
        if channel == "bbo":
            targets = self.quotes
        elif channel == "trades":
            targets = self.trades
        elif channel == "l2Book":
            targets = self.books
        else:
            assert channel == "activeAssetCtx", channel
        target = self.made.get(uid)
        if target is None:
            target = self.made[uid] = Target(uid)
        targets[coin.encode()] = target

    cdef Target target(self, dict targets, Text coin, Py_ssize_t size):
        """Return where the ticks of a coin go, or None if nobody knows it."""
        cdef Target found = targets.get(make_bytes(coin, size))
        if found is None or found.batch == self.batch:
            return found
        ticks = self.pending.get(found.uid)
        if ticks is None:
            ticks = self.pending[found.uid] = self.make()
        found.trades, found.quotes = ticks.trades, ticks.quotes
        found.books, found.contexts = ticks.books, ticks.contexts
        found.batch = self.batch
        return found

    def read(self, bytes block, Py_ssize_t start, state, dict pending, long long closing_ns):
        """Add what lines say to `pending` from offset `start` on; return the offset of the first
        line that is not for here, or the end.

        block : lines, each with its newline. state : a FeedState, whose clock, newest frames and delays are moved on. closing_ns : the
        clock's next closing, not reached here.
        """
        cdef unsigned long long text_ns
        cdef long long clock_ns = state.clock_ns, stamp = 0, now_ms = 0, time_ms
        cdef long long newest_ms = -1, before_ms = -1, label = 0, worst = 0
        cdef bint has_before = state.frame_before_ms is not None
        cdef Py_ssize_t size = 0, n, k
        cdef Text text = text_of(block), begin = text + start, stop = text + length_of(block)
        cdef Text p, end, coin = NULL
        cdef QuoteRecord quote
        cdef BookRecord book
        cdef ContextRecord context
        cdef Target target
        cdef list smallest = None
        cdef dict delays = state.delays_ms
        if clock_ns == 0:
            return start
        if pending is not self.pending:
            self.pending = pending
            self.batch += 1
        if state.last_frame_ms is not None:
            newest_ms = state.last_frame_ms
        if has_before:
            before_ms = state.frame_before_ms
        while begin < stop:
            end = <Text> memchr(begin, c'\n', stop - begin)
            if end == NULL:
                break
            p = begin
            text_ns = 0
            while p < end and c'0' <= p[0] <= c'9' and p - begin < 19:
                text_ns = text_ns * 10 + <unsigned char> (p[0] - c'0')
                p += 1
            if p == begin or text_ns > <unsigned long long> STAMP_MAX:
                break
            stamp = <long long> text_ns
            if stamp < clock_ns or stamp - clock_ns > self.jump_ns:
                break
            if stamp >= closing_ns:
                break
            p = after(p, end, b' {"channel":"')
            if p == NULL or p >= end:
                break
            time_ms = 0
            now_ms = stamp // 1000000
            if p[0] == c'b':
                p = after(p, end, b'bbo","data":{"coin":"')
                if p != NULL:
                    p = quote_frame(p, end, &coin, &size, &quote)
                if p != end:
                    break
                target = self.target(self.quotes, coin, size)
                if target is None:
                    break
                quote.arrival_ns = stamp
                put(target.quotes, &quote, sizeof(QuoteRecord))
                time_ms = quote.time_ms
            elif p[0] == c't':
                p = after(p, end, b'trades","data":[')
                n = 0
                while p != NULL and n < TRADES_MAX:
                    p = trade_entry(p, end, &coin, &size, &self.found[n])
                    if p == NULL or p >= end:
                        p = NULL
                        break
                    target = self.target(self.trades, coin, size)
                    if target is None:
                        p = NULL
                        break
                    self.targets[n] = target
                    time_ms = max(time_ms, self.found[n].time_ms)
                    n += 1
                    if p[0] == c']':
                        p = after(p, end, b"]}")
                        break
                    p = after(p, end, b",")
                if p != end:
                    break
                for k in range(n):
                    self.found[k].arrival_ns = stamp
                    target = self.targets[k]
                    put(target.trades, &self.found[k], sizeof(TradeRecord))
            elif p[0] == c'l':
                p = after(p, end, b'l2Book","data":{"coin":"')
                if p != NULL:
                    p = book_frame(p, end, &coin, &size, &book)
                if p != end:
                    break
                target = self.target(self.books, coin, size)
                if target is None:
                    break
                book.arrival_ns = stamp
                put(target.books, &book, sizeof(BookRecord))
                time_ms = book.time_ms
            elif p[0] == c'a':
                p = after(p, end, b'activeAssetCtx","data":{"coin":"')
                if p != NULL:
                    p = context_frame(p, end, &coin, &size, &context)
                if p != end:
                    break
                target = self.target(self.contexts, coin, size)
                if target is None:
                    break
                context.arrival_ns = stamp
                put(target.contexts, &context, sizeof(ContextRecord))
            else:
                break
            begin = end + 1
            clock_ns = stamp
            if newest_ms >= 0 and now_ms // MINUTE_MS > newest_ms // MINUTE_MS:
                before_ms, has_before = newest_ms, True
            newest_ms = now_ms
            if time_ms == 0:
                continue
            if smallest is None or now_ms >= label:
                label = (now_ms // MINUTE_MS + 1) * MINUTE_MS
                smallest = delays.setdefault(label, [])
                worst = smallest[-1] if len(smallest) >= self.kept else 1LL << 62
            if now_ms - time_ms < worst:
                smallest.append(now_ms - time_ms)
                smallest.sort()
                del smallest[self.kept :]
                if len(smallest) >= self.kept:
                    worst = smallest[-1]
        if begin > text + start:
            state.clock_ns = clock_ns
            state.doubted_ns = None
            state.last_frame_ms = newest_ms
            state.frame_before_ms = before_ms if has_before else None
        return begin - text
