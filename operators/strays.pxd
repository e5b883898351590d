# C types of strays.py.

import cython


@cython.locals(number=double)
cpdef bint has_strays(dict value, dict known) except -1
