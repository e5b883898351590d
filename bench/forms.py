"""Both forms of the inner loops (operators/kernel.py) in one process, for comparison."""

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
    try:
        import_module(compiled_name())
    except ImportError:
        return ("plain",)
    return ("plain", "compiled")


def compiled_name() -> str:
    """Return the full name of the compiled module that belongs to the source at hand."""
    return f"{native.PACKAGE}.{native.expected_module()}"


@contextmanager
def running(form: native.Form) -> Iterator[None]:
    """Within it, imports of ours give modules of their own, which run on one form."""
    compiled = compiled_name()
    ours = _ours(except_for=compiled)
    kept = sys.modules.get(compiled)
    for name in ours:
        del sys.modules[name]
    if form == "plain":
        sys.modules[compiled] = None  # type: ignore[assignment]  # as if it had not been built
    try:
        yield
    finally:
        for name in _ours(except_for=compiled):
            del sys.modules[name]
        sys.modules.pop(compiled, None)
        if kept is not None:
            sys.modules[compiled] = kept
        sys.modules.update(ours)


def module(name: str, form: native.Form) -> ModuleType:
    """Return a module of ours that runs on one form."""
    with running(form):
        return import_module(name)


def _ours(*, except_for: str) -> dict[str, ModuleType]:
    return {
        name: found
        for name, found in sys.modules.items()
        if name.split(".")[0] in PACKAGES and name != except_for
    }
