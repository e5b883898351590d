"""The lines of a bars file that nearly all are, straight from their text.

Rules of this file: it reads only unquoted ASCII without blanks, plain decimals of at most 15
digits, and values that do not contradict each other; at anything else it gives up without an error,
and dataflows/importing/bars.py reads that line. So it decides nothing and drops nothing, and
without it the results are the same.  Decision 19.
"""

cdef extern from "Python.h":
    char *text_of "PyBytes_AS_STRING"(object line)
    Py_ssize_t length_of "PyBytes_GET_SIZE"(object line)

include "decimals.pxi"

cdef enum:
    SYMBOL, CLOSE_MS, OPEN, HIGH, LOW, CLOSE, VOLUME, COUNT, TAKER, FIELDS

cdef long long CLOSE_MS_MIN = 1000000000000, CLOSE_MS_MAX = 10000000000000
cdef long long MINUTE_MS = 60000


cdef class Lines:
    """Reads lines with the columns of one header.

    names : of the columns of the file. known : those that a bars file can have, in the order of the
    enumeration above. make : what makes a bar of its values, `open` on. taker_max : how much larger
    than the volume a taker volume may be, as a factor.
    """

    cdef list fields
    cdef dict symbols
    cdef object make
    cdef double taker_max

    def __init__(self, names, known, make, taker_max):
        assert len(known) == FIELDS, known
        self.fields = [known.index(name) for name in names]
        self.symbols = {}
        self.make = make
        self.taker_max = taker_max

    cpdef object read(self, bytes line):
        """Return (close_ms, symbol, bar) of a line, None where it must be read in another way."""
        cdef Text p = text_of(line)
        cdef Text start = p
        cdef Text end = p + length_of(line)
        cdef Text symbol = p
        cdef Py_ssize_t place = 0, length = 0
        cdef int field
        cdef long long close_ms = 0, prints = 0
        cdef bint counted = False, taken = False
        cdef double[FIELDS] found
        for place in range(len(self.fields)):
            if place:
                if p >= end or p[0] != c',':
                    return None
                p += 1
            field = self.fields[place]
            if field == SYMBOL:
                symbol = p
                while p < end and p[0] != c',':
                    if not c'!' <= p[0] <= c'~' or p[0] == c'"' or p[0] == c'#':
                        return None
                    p += 1
                length = p - symbol
            elif field == CLOSE_MS:
                p = whole(p, end, 13, &close_ms)
            elif p < end and p[0] == c'-':
                return None
            elif field < COUNT:
                p = decimal(p, end, &found[field])
            elif p == end or p[0] == c',':
                pass
            elif field == COUNT:
                counted = True
                p = whole(p, end, 15, &prints)
            else:
                taken = True
                p = decimal(p, end, &found[TAKER])
            if p == NULL:
                return None
        if p != end or not length:
            return None
        if not CLOSE_MS_MIN <= close_ms < CLOSE_MS_MAX or close_ms % MINUTE_MS:
            return None
        if min(min(found[OPEN], found[HIGH]), min(found[LOW], found[CLOSE])) <= 0.0:
            return None
        if found[HIGH] < found[LOW]:
            return None
        if taken and found[TAKER] > found[VOLUME] * self.taker_max:
            return None
        text = line[symbol - start : symbol - start + length]
        name = self.symbols.get(text)
        if name is None:
            name = self.symbols[text] = text.decode()
        bar = self.make(
            found[OPEN],
            found[HIGH],
            found[LOW],
            found[CLOSE],
            found[VOLUME],
            prints if counted else None,
            found[TAKER] if taken else None,
        )
        return close_ms, name, bar
