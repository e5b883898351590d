"""Both forms of the inner loops (operators/native.py) in one process, for comparison."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from operators import native

PACKAGES = ("operators", "packs", "fixtures", "dataflows", "bench")


def available() -> tuple[native.Form, ...]:
    """Return the forms that can run here, the plain one first."""
    return ("plain",) if native.missing() else ("plain", "compiled")


@contextmanager
def running(form: native.Form) -> Iterator[None]:
    """Within it, imports of ours give modules of their own, which run on one form."""
    compiled = native.expected_modules()
    ours = _ours(except_for=compiled)
    kept = {name: sys.modules[name] for name in compiled if name in sys.modules}
    for name in ours:
        del sys.modules[name]
    if form == "plain":  # as if it had not been built
        sys.modules.update(dict.fromkeys(compiled))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in _ours(except_for=compiled):
            del sys.modules[name]
        for name in compiled:
            sys.modules.pop(name, None)
        sys.modules.update(kept)
        sys.modules.update(ours)


def module(name: str, form: native.Form) -> ModuleType:
    """Return a module of ours that runs on one form."""
    with running(form):
        return import_module(name)


def _ours(*, except_for: tuple[str, ...]) -> dict[str, ModuleType]:
    return {
        name: found
        for name, found in sys.modules.items()
        if name.split(".")[0] in PACKAGES and name not in except_for
    }
