# C types of scans.py.

import cython

cdef extern from "Python.h":
    ctypedef struct PyObject
    PyObject *item_of "PyList_GET_ITEM"(list values, Py_ssize_t i)  # borrowed
    bint is_float "PyFloat_CheckExact"(PyObject *item)
    double double_of "PyFloat_AS_DOUBLE"(PyObject *item)

cdef long long MINUTE_MS
cdef double UNKNOWN


cdef inline double float_at(list values, Py_ssize_t place) except? -1.0:
    """A value at a place that there is."""
    cdef PyObject *item = item_of(values, place)
    return double_of(item) if is_float(item) else values[place]


@cython.locals(result=double, i=Py_ssize_t)
cpdef double total(list values, Py_ssize_t start)

@cython.locals(number=double)
cpdef bint is_finite(object value)

@cython.locals(after="long long")
cpdef long long first_after(long long count, long long newest_ms, long long since_ms)

@cython.locals(past=object, volumes=list)
cpdef dict sums_since(dict known, object uids, long long since_ms)

@cython.locals(past=object, interests=list, medians=dict, held=list, first=Py_ssize_t)
cpdef dict medians_since(dict known, object uids, long long since_ms)

@cython.locals(number=double, i=Py_ssize_t, found=list)
cpdef list known_from(list interests, Py_ssize_t start)

@cython.locals(columns=dict, newest=dict)
cpdef object give_membership(
    list items, frozenset inside, dict hot, object revision, dict last, dict names, object make
)

@cython.locals(columns=dict, found=list)
cpdef object newest_of(object row, tuple names, object make)

@cython.locals(
    newest_ms="long long", volumes=list, interests=list, missing="long long", before="long long"
)
cpdef object remember_minute(
    dict known, object uid, long long label_ms, object volume, object interest, bint stale,
    object begin, Py_ssize_t l1_min, Py_ssize_t l2_min
)

@cython.locals(columns=dict)
cpdef object remember_minutes(
    dict known, list rows, object begin, Py_ssize_t l1_min, Py_ssize_t l2_min
)

@cython.locals(columns=dict, label_ms="long long", labels=list, scores=list)
cpdef object remember_strengths(dict known, list rows, object begin, long long step_ms)

@cython.locals(number=double, value=double, found=list)
cpdef list squares(list values, double mean)
