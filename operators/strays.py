"""What an event must not hold: the inner loop of the contract.

Rules of this file: as in kernel.py; it runs as it stands, and compiled with the types of strays.pxd
gives the same (decision 9). It imports nothing but that: everything imports the contract.
"""

from __future__ import annotations  # plain form only

from typing import Any  # plain form only

from operators import native  # plain form only


def has_strays(value: dict[Any, Any], known: dict[str, Any] | None) -> bool:
    """Tell whether an object has a name that is not known, or a number that is not finite, as deep
    as the names go and one object more (`contract.fault_of` says which).

    known : by name the same of what is inside, None for what has no names of its own; None for this
    object if it has none.

    >>> names = {"a": None, "b": {"c": None}}
    >>> has_strays({"a": {"x": 1.5}, "b": {"c": [1.5]}}, names), has_strays({"b": {"d": 1}}, names)
    (False, True)
    """
    for name, item in value.items():
        if known is not None and name not in known:
            return True
        kind = type(item)
        if kind is float:
            number = item
            if number - number != 0.0:
                return True
        elif kind is dict:
            if known is not None and has_strays(item, known[name]):
                return True
        elif kind is list or kind is tuple:
            for part in item:
                if type(part) is float:
                    number = part
                    if number - number != 0.0:
                        return True
    return False


FORM = native.take_over("strays", globals())  # plain form only
