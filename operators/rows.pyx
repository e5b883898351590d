# cython: cdivision=True
"""The JSON text of a row, straight from its columns.

Rules of this file: it writes what orjson writes with sorted keys, to the byte, for what nearly all
rows hold: names that are known already, text of printable ASCII, whole numbers of a machine word,
numbers with at most 12 significant digits, and lists and short objects of these. At anything else,
be it only a number with more digits, it gives up without an error, and operators/publish.py writes
that row. So it decides nothing, and without it the results are the same.  Decision 19.

A number x with d <= 12 digits is found again from its digits: x times a power of ten that makes it
a whole number of 12 digits, and that divided by the power, both rounded once, give x only where x
is the double next to this decimal (numerics 11.5); no other decimal of up to 15 digits has the same
double next to it, so it is the shortest one.
"""

from cpython.ref cimport PyObject
from libc.string cimport memcmp, memcpy

cdef extern from "Python.h":
    bint dict_next "PyDict_Next"(
        object fields, Py_ssize_t *at, PyObject **name, PyObject **value
    )
    bint is_float "PyFloat_CheckExact"(PyObject *value)
    bint is_int "PyLong_CheckExact"(PyObject *value)
    bint is_text "PyUnicode_CheckExact"(PyObject *value)
    bint is_list "PyList_CheckExact"(PyObject *value)
    bint is_tuple "PyTuple_CheckExact"(PyObject *value)
    bint is_dict "PyDict_CheckExact"(PyObject *value)
    double number_of "PyFloat_AS_DOUBLE"(PyObject *value)
    long long whole_of "PyLong_AsLongLongAndOverflow"(PyObject *value, int *overflow)
    bint is_ascii "PyUnicode_IS_COMPACT_ASCII"(PyObject *value)
    Py_ssize_t length_of "PyUnicode_GET_LENGTH"(PyObject *value)
    const unsigned char *text_of "PyUnicode_1BYTE_DATA"(PyObject *value)
    Py_ssize_t list_size "PyList_GET_SIZE"(PyObject *value)
    PyObject *list_item "PyList_GET_ITEM"(PyObject *value, Py_ssize_t at)
    Py_ssize_t tuple_size "PyTuple_GET_SIZE"(PyObject *value)
    PyObject *tuple_item "PyTuple_GET_ITEM"(PyObject *value, Py_ssize_t at)
    Py_ssize_t dict_size "PyDict_Size"(object value)
    object make_bytes "PyBytes_FromStringAndSize"(const char *text, Py_ssize_t size)
    PyObject *TRUE "Py_True"
    PyObject *FALSE "Py_False"
    PyObject *NONE "Py_None"

cdef extern from "math.h":
    double frexp(double x, int *exponent)
    bint signbit(double x)

cdef enum:
    TEXT_MAX = 16384  # bytes of a row
    FIELDS_MAX = 400
    ENTRIES_MAX = 32  # of an object inside a row
    DIGITS = 12
    NUMBER_MAX = 32  # bytes of a number
    PIECE = 32  # bytes of a key that are copied at once, needed or not

cdef double WHOLE = 6755399441055744.0  # adding and subtracting it rounds to a whole number
cdef double LEAST = 2.0 ** -36
cdef double LIMIT = 1e12
# By the binary exponent of x: the power of ten that brings x to [1e11, 2e12), as in kernel.py.
cdef int[76] POWERS
cdef double[23] TENS
cdef char[200] PAIRS  # the two digits of 0 to 99
cdef int _e, _k
for _k in range(23):
    TENS[_k] = float(10 ** _k)
for _e in range(-35, 41):
    POWERS[_e + 35] = next(_k for _k in range(23) if 10**_k << 40 >= 10**11 << (41 - _e))
for _k in range(100):
    PAIRS[2 * _k], PAIRS[2 * _k + 1] = 48 + _k // 10, 48 + _k % 10


# --- values; each returns where the text goes on, or NULL ----------------------------------------


cdef inline char *put_digits(char *p, unsigned long long value) noexcept:
    """A whole number."""
    cdef char[24] found
    cdef int at = 24
    while value >= 100:
        at -= 2
        memcpy(&found[at], &PAIRS[2 * (value % 100)], 2)
        value //= 100
    if value >= 10:
        at -= 2
        memcpy(&found[at], &PAIRS[2 * value], 2)
    else:
        at -= 1
        found[at] = <char> (48 + value)
    memcpy(p, &found[at], 24 - at)
    return p + (24 - at)


cdef inline char *put_whole(char *p, PyObject *value) noexcept:
    cdef int overflow = 0
    cdef long long number = whole_of(value, &overflow)
    if overflow:
        return NULL
    if number < 0:
        p[0] = c'-'
        return put_digits(p + 1, -<unsigned long long> number)
    return put_digits(p, number)


cdef inline char *put_number(char *p, double x) noexcept:
    """A number with a fraction, of at most 12 digits."""
    cdef double w = -x if x < 0.0 else x
    cdef double scaled, whole
    cdef int exponent, power, ahead, count, i
    cdef unsigned long long digits
    cdef char[DIGITS] found
    if x == 0.0:
        if signbit(x):
            return NULL
        memcpy(p, b"0.0", 3)
        return p + 3
    if not LEAST <= w < LIMIT:
        return NULL
    frexp(w, &exponent)
    power = POWERS[exponent + 35]
    scaled = w * TENS[power]
    if scaled >= LIMIT:
        power -= 1
        scaled = w * TENS[power]
    whole = (scaled + WHOLE) - WHOLE
    if not 1e11 <= whole < LIMIT or whole / TENS[power] != w:
        return NULL
    digits = <unsigned long long> whole
    for i in range(DIGITS // 2):
        memcpy(&found[DIGITS - 2 - 2 * i], &PAIRS[2 * (digits % 100)], 2)
        digits //= 100
    count = DIGITS
    while found[count - 1] == c'0':
        count -= 1
    if x < 0.0:
        p[0] = c'-'
        p += 1
    ahead = DIGITS - power  # digits ahead of the point
    if ahead > 0:
        memcpy(p, found, ahead)
        p[ahead] = c'.'
        if count <= ahead:
            p[ahead + 1] = c'0'
            return p + ahead + 2
        memcpy(p + ahead + 1, &found[ahead], count - ahead)
        return p + count + 1
    if ahead > -5:
        memcpy(p, b"0.00000", 2 - ahead)
        memcpy(p + 2 - ahead, found, count)
        return p + 2 - ahead + count
    p[0] = found[0]
    p += 1
    if count > 1:
        p[0] = c'.'
        memcpy(p + 1, &found[1], count - 1)
        p += count
    memcpy(p, b"e-", 2)
    return put_digits(p + 2, 1 - ahead)


cdef inline char *put_text(char *p, char *end, PyObject *value) noexcept:
    cdef Py_ssize_t i, count
    cdef const unsigned char *text
    if not is_text(value) or not is_ascii(value):
        return NULL
    count, text = length_of(value), text_of(value)
    if end - p < count + 2:
        return NULL
    p[0] = c'"'
    for i in range(count):
        if text[i] < 32 or text[i] == c'"' or text[i] == c'\\':
            return NULL
        p[i + 1] = text[i]
    p[count + 1] = c'"'
    return p + count + 2


cdef char *put(char *p, char *end, PyObject *value) noexcept:
    """A value."""
    cdef Py_ssize_t i, count
    cdef bint listed
    if end - p < NUMBER_MAX:
        return NULL
    if value is NONE:
        memcpy(p, b"null", 4)
        return p + 4
    if is_float(value):
        return put_number(p, number_of(value))
    if value is TRUE:
        memcpy(p, b"true", 4)
        return p + 4
    if value is FALSE:
        memcpy(p, b"false", 5)
        return p + 5
    if is_int(value):
        return put_whole(p, value)
    if is_text(value):
        return put_text(p, end, value)
    if is_dict(value):
        return put_object(p, end, value)
    listed = is_list(value)
    if not listed and not is_tuple(value):
        return NULL
    count = list_size(value) if listed else tuple_size(value)
    p[0] = c'['
    p += 1
    for i in range(count):
        p = put(p, end, list_item(value, i) if listed else tuple_item(value, i))
        if p == NULL or p >= end:
            return NULL
        p[0] = c','
        p += 1
    if count:
        p -= 1
    p[0] = c']'
    return p + 1


cdef char *put_object(char *p, char *end, PyObject *value) noexcept:
    """A short object, its keys in order."""
    cdef PyObject *names[ENTRIES_MAX]
    cdef PyObject *values[ENTRIES_MAX]
    cdef PyObject *name = NULL
    cdef PyObject *item = NULL
    cdef Py_ssize_t at = 0, count = 0, place
    if dict_size(<object> value) > ENTRIES_MAX:
        return NULL
    while dict_next(<object> value, &at, &name, &item):
        if not is_text(name) or not is_ascii(name):
            return NULL
        place = count
        while place and is_before(name, names[place - 1]):
            names[place], values[place] = names[place - 1], values[place - 1]
            place -= 1
        names[place], values[place] = name, item
        count += 1
    p[0] = c'{'
    p += 1
    for place in range(count):
        p = put_text(p, end, names[place])
        if p == NULL or end - p < NUMBER_MAX:
            return NULL
        p[0] = c':'
        p = put(p + 1, end, values[place])
        if p == NULL or p >= end:
            return NULL
        p[0] = c','
        p += 1
    if count:
        p -= 1
    p[0] = c'}'
    return p + 1


cdef inline bint is_before(PyObject *name, PyObject *other) noexcept:
    """The order of the bytes of two names."""
    cdef Py_ssize_t own = length_of(name), theirs = length_of(other)
    cdef int found = memcmp(text_of(name), text_of(other), own if own < theirs else theirs)
    return found < 0 or (found == 0 and own < theirs)


cdef inline bint is_same(PyObject *name, PyObject *other) noexcept:
    """Whether two names are one; `other` is ASCII."""
    if name is other:
        return True
    return (
        is_text(name)
        and is_ascii(name)
        and length_of(name) == length_of(other)
        and memcmp(text_of(name), text_of(other), length_of(name)) == 0
    )


# --- rows ----------------------------------------------------------------------------------------

# What a row has beside its columns.
OWN = ("asset_uid", "exchange_ts", "extras", "revision", "symbol", "tf")


cpdef object text_of_row(dict shapes, object row, str exchange_ts):
    """Return the text of a row, None where it must be written in another way.

    shapes : by timeframe and number of columns.
    """
    cdef dict columns = row.columns
    tf = row.tf
    shape = shapes.get((tf, len(columns)))
    if shape is None:
        return None
    own = (row.asset_uid, exchange_ts, row.extras, row.revision, row.symbol, tf)
    return (<Shape> shape).text(columns, own)


cdef class Shape:
    """The names of some columns in the order in which they come, and of what else a row has.

    columns : the names of a row's columns. own : of what is beside them, ascending, no column.
    """

    cdef tuple names
    cdef list keys  # `"name":` in the order of the text, each behind its comma, and blanks
    cdef Py_ssize_t size, own
    cdef Py_ssize_t[FIELDS_MAX] sources  # where the value of a key is: columns, then what is beside
    cdef const char *texts[FIELDS_MAX]
    cdef Py_ssize_t lengths[FIELDS_MAX]

    def __init__(self, columns, own=OWN):
        self.names = tuple(columns)
        self.own = len(own)
        every = [*self.names, *own]
        assert len(set(every)) == len(every), f"columns that are part of the identity: {every}"
        self.size = 0
        self.keys = []
        if len(every) > FIELDS_MAX or not all(_is_plain(name) for name in every):
            return  # it writes nothing
        for source in sorted(range(len(every)), key=every.__getitem__):
            key = f'{"," if self.keys else "{"}"{every[source]}":'.encode()
            self.keys.append(key)
            self.sources[self.size] = source
            self.lengths[self.size] = len(key)
            key += b" " * PIECE
            self.keys.append(key)
            self.texts[self.size] = <const char *> <bytes> key
            self.size += 1

    def fits(self, columns):
        """Tell whether a row has these columns in this order."""
        return tuple(columns) == self.names

    cpdef object text(self, dict columns, tuple own):
        """Return the text of a row, None where it must be written in another way.

        own : values of what is beside the columns, in their order.
        """
        cdef PyObject *values[FIELDS_MAX]
        cdef char[TEXT_MAX] found
        cdef char *p = found
        cdef char *end = p + TEXT_MAX
        cdef PyObject *name = NULL
        cdef Py_ssize_t at = 0, count = len(self.names), field = 0, length
        if dict_size(columns) != count or len(own) != self.own or self.size != count + self.own:
            return None
        while dict_next(columns, &at, &name, &values[field]):
            if not is_same(name, tuple_item(<PyObject *> self.names, field)):
                return None
            field += 1
        for at in range(self.own):
            values[count + at] = tuple_item(<PyObject *> own, at)
        for field in range(self.size):
            length = self.lengths[field]
            if end - p < length + PIECE:
                return None
            memcpy(p, self.texts[field], PIECE)
            if length > PIECE:
                memcpy(p + PIECE, self.texts[field] + PIECE, length - PIECE)
            p = put(p + length, end, values[self.sources[field]])
            if p == NULL:
                return None
        if p >= end:
            return None
        p[0] = c'}'
        return make_bytes(found, p + 1 - found)


def _is_plain(name):
    """Tell whether a name is text that stands in JSON as it is."""
    return type(name) is str and name.isascii() and name.isprintable() and not set(name) & {'"', "\\"}
