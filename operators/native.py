"""Which form of inner loops and steps runs: their text itself, or what was compiled from it.

Rules of this file: a compiled module carries the digest of its sources in its name, so one that was
built from another text is not even found, and the plain form runs: the same results, slower. The
build (setup.py) asks here for the names and the text to compile.  Decision 9.
"""

from __future__ import annotations

from hashlib import blake2b
from importlib import import_module
from importlib.resources import files
from types import FunctionType, ModuleType
from typing import Any, Literal

Form = Literal["plain", "compiled"]

PACKAGE = "operators"
# What is compiled, each a module of its own. The first file of each is the text; a `.pxi` is
# included.
UNITS: dict[str, tuple[str, ...]] = {
    "kernel": ("kernel.py", "kernel.pxd", "ticks.pxi"),
    "frames": (
        "frames.pyx",
        "ticks.pxi",
        "decimals.pxi",
    ),  # without it operators/wire.py reads all frames
    "scans": ("scans.py", "scans.pxd"),
    "strays": ("strays.py", "strays.pxd"),
    "lines": ("lines.pyx", "decimals.pxi"),  # without it dataflows/importing reads all lines
    "rows": ("rows.pyx",),  # without it operators/publish.py writes all rows
}
# Steps, and what they call for each row or minute: compiled as they stand, without types. A row of
# bars costs a seventh less.
STEPS = (
    "activity",
    "bars",
    "context",
    "detect",
    "join",
    "marketwide",
    "normalize",
    "quality",
    "rollup",
    "rotation",
    "tiers",
    "universe",
)
UNITS |= {step: (f"{step}.py",) for step in STEPS}
STEM = "_compiled_"
PLAIN_ONLY = "# plain form only"  # ends a line that is not compiled


def module_name(unit: str, sources: dict[str, bytes]) -> str:
    """Return the name, inside `operators`, of the module that is compiled from these texts."""
    digest = blake2b(digest_size=6)
    for name in UNITS[unit]:
        digest.update(b"%s %d\n" % (name.encode(), len(sources[name])))
        digest.update(sources[name])
    return f"{STEM}{unit}_{digest.hexdigest()}"


def text_to_compile(source: str) -> str:
    """Return what is compiled: every line but those of the plain form alone."""
    lines = source.splitlines(keepends=True)
    return "".join("\n" if line.rstrip().endswith(PLAIN_ONLY) else line for line in lines)


def expected_module(unit: str) -> str:
    """Return the name of the compiled module that belongs to the source at hand."""
    folder = files(PACKAGE)
    return module_name(unit, {name: folder.joinpath(name).read_bytes() for name in UNITS[unit]})


def expected_modules() -> tuple[str, ...]:
    """Return the full name of each compiled module that belongs to the source at hand."""
    return tuple(f"{PACKAGE}.{expected_module(unit)}" for unit in UNITS)


def compiled(unit: str) -> ModuleType | None:
    """Return a compiled module; None if it was never built, or from another text or for another
    Python."""
    try:
        return import_module(f"{PACKAGE}.{expected_module(unit)}")
    except ImportError:
        return None


def missing() -> tuple[str, ...]:
    """Return the units that run in their plain form."""
    return tuple(unit for unit in UNITS if compiled(unit) is None)


def take_over(unit: str, namespace: dict[str, Any]) -> Form:
    """Put compiled functions and classes in the place of a module's own; return the form that now
    runs."""
    module = compiled(unit)
    if module is None:
        return "plain"
    for name, own in namespace.items():
        if isinstance(own, FunctionType | type) and own.__module__ == namespace["__name__"]:
            found = getattr(module, name, None)  # None: an inner one, C only
            if found is not None:
                namespace[name] = found
    return "compiled"
