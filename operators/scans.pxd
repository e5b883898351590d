# C types of scans.py.

import cython


@cython.locals(result=double, number=double, i=Py_ssize_t)
cpdef double total(list values, Py_ssize_t start)

@cython.locals(number=double)
cpdef bint is_finite(object value)

@cython.locals(fields=dict, number=double)
cpdef object arranged(dict shape, dict columns, dict own)
