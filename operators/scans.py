"""Passes over the values of a row or of a window: the inner loops of the join and of the sinks.

Rules of this file: as in kernel.py; it runs as it stands, and compiled with the types of scans.pxd
gives the same bits (decision 9).
"""

from __future__ import annotations  # plain form only

from typing import Any  # plain form only

from operators import native  # plain form only


def total(values: list[float], start: int) -> float:
    """Return the sum of the values from a place on, one after the other from 0.0.

    >>> total([5.0, 1.0, 0.25], 1)
    1.25
    """
    result = 0.0
    for i in range(start, len(values)):
        number = values[i]
        result += number
    return result


def is_finite(value: object) -> bool:
    """Tell whether every number is, in a value that JSON has, however deep.

    >>> is_finite({"a": 1.5, "b": [None, "x", 2]}), is_finite([{"a": (1.0, float("nan"))}])
    (True, False)
    """
    if isinstance(value, float):
        number = value
        return number - number == 0.0
    if isinstance(value, dict):
        for item in value.values():
            if item is None:  # most of a row
                continue
            if type(item) is float:
                number = item
                if number - number != 0.0:
                    return False
            elif type(item) is not str and type(item) is not int and not is_finite(item):
                return False
        return True
    if isinstance(value, list | tuple):
        for item in value:
            if not is_finite(item):
                return False
    return True


def arranged(shape: dict[str, None], columns: dict[str, Any], own: dict[str, Any]) -> Any:
    """Return columns and what else a row has as one dict in the order of a shape.

    None if they are not the names of the shape, or not all once, or if a number is not finite.

    >>> arranged({"a": None, "b": None, "c": None}, {"c": 1.5, "a": None}, {"b": "x"})
    {'a': None, 'b': 'x', 'c': 1.5}
    """
    if len(columns) + len(own) != len(shape):
        return None
    fields = shape.copy()
    for name, item in columns.items():
        if type(item) is float:
            number = item
            if number - number != 0.0:
                return None
        elif item is not None and type(item) is not str and not is_finite(item):
            return None
        fields[name] = item
    for name, item in own.items():
        if name in columns or not is_finite(item):
            return None
        fields[name] = item
    return fields if len(fields) == len(shape) else None


FORM = native.take_over("scans", globals())  # plain form only
