"""Which form of operators/kernel.py runs: the text itself, or what was compiled from it.

Rules of this file: a compiled module carries the digest of its source in its name, so one that was
built from another text is not even found, and the plain form runs: the same results, slower. The
build (setup.py) asks here for the name and the text to compile.  Decision 9.
"""

from __future__ import annotations

from hashlib import blake2b
from importlib import import_module
from importlib.resources import files
from types import FunctionType
from typing import Any, Literal

Form = Literal["plain", "compiled"]

PACKAGE = "operators"
SOURCES = ("kernel.py", "kernel.pxd")
STEM = "_kernel_"
PLAIN_ONLY = "# plain form only"  # ends a line that is not compiled


def module_name(sources: dict[str, bytes]) -> str:
    """Return the name, inside `operators`, of the module that is compiled from these texts."""
    digest = blake2b(digest_size=6)
    for name in SOURCES:
        digest.update(b"%s %d\n" % (name.encode(), len(sources[name])))
        digest.update(sources[name])
    return STEM + digest.hexdigest()


def text_to_compile(source: str) -> str:
    """Return what is compiled: every line but those of the plain form alone."""
    lines = source.splitlines(keepends=True)
    return "".join("\n" if line.rstrip().endswith(PLAIN_ONLY) else line for line in lines)


def expected_module() -> str:
    """Return the name of the compiled module that belongs to the source at hand."""
    folder = files(PACKAGE)
    return module_name({name: folder.joinpath(name).read_bytes() for name in SOURCES})


def take_over(namespace: dict[str, Any]) -> Form:
    """Put the compiled functions in the place of a module's own; return the form that now runs."""
    try:
        compiled = import_module(f"{PACKAGE}.{expected_module()}")
    except ImportError:  # never built, or from another text or for another Python
        return "plain"
    for name, own in namespace.items():
        if isinstance(own, FunctionType) and own.__module__ == namespace["__name__"]:
            found = getattr(compiled, name, None)  # None: an inner one, C only
            if found is not None:
                namespace[name] = found
    return "compiled"
