# Numbers in text; each function returns what follows, or NULL where there is none as it reads them.
#
# A decimal of at most 15 digits, of which at most 22 are behind the point, is the quotient of two
# whole numbers that are exact doubles: one division, rounded once, gives the double next to it
# (Clinger 1990), which is what Python and the JSON decoder find.

ctypedef const char *Text

cdef double[23] TENS
cdef int _ten
TENS[0] = 1.0
for _ten in range(1, 23):
    TENS[_ten] = TENS[_ten - 1] * 10.0  # exact


cdef inline Text whole(Text p, Text end, int digits_max, long long *found) noexcept:
    """A whole number without sign or leading zero."""
    cdef long long value = 0
    cdef Text start = p
    while p < end and c'0' <= p[0] <= c'9' and p - start < digits_max:
        value = value * 10 + (p[0] - c'0')
        p += 1
    if p == start or (start[0] == c'0' and p - start > 1):
        return NULL
    if p < end and c'0' <= p[0] <= c'9':
        return NULL
    found[0] = value
    return p


cdef inline Text decimal(Text p, Text end, double *found) noexcept:
    """A decimal number without exponent."""
    cdef long long value = 0
    cdef int digits = 0, behind = 0
    cdef bint negative = p < end and p[0] == c'-'
    cdef Text start
    if negative:
        p += 1
    start = p
    while p < end and c'0' <= p[0] <= c'9':
        value = value * 10 + (p[0] - c'0')
        digits += value != 0
        p += 1
        if digits > 15:
            return NULL
    if p == start or (start[0] == c'0' and p - start > 1):
        return NULL
    if p < end and p[0] == c'.':
        p += 1
        start = p
        while p < end and c'0' <= p[0] <= c'9':
            value = value * 10 + (p[0] - c'0')
            digits += value != 0
            p += 1
            if digits > 15 or p - start > 22:
                return NULL
        if p == start:
            return NULL
        behind = <int> (p - start)
    found[0] = <double> value / TENS[behind]
    if negative:
        found[0] = -found[0]
    return p
