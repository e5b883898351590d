"""Compile inner loops and steps (operators/native.py) where Cython and a C compiler are at hand.

Everything else about the build is in pyproject.toml. Without a compiler the install goes on and the
plain form runs: the same results, slower (docs/decisions/0009-compiled-kernel.md).
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))

from operators import native  # noqa: E402

# No contraction of a * b + c into one rounding, and nothing that reorders: the bits are Python's.
FLAGS = ["-O2", "-ffp-contract=off", "-fno-fast-math"]
DIRECTIVES = {
    "language_level": "3",
    "annotation_typing": False,  # types are those of kernel.pxd
    "boundscheck": True,
    "wraparound": True,
}


def write(path: Path, content: bytes) -> None:
    """Write a file unless it holds just that, so that nothing is built twice."""
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def extensions() -> list[Extension]:
    """Return the inner loops as optional extensions; none without Cython."""
    try:
        from Cython.Build import cythonize  # noqa: PLC0415
    except ImportError:
        return []
    folder = ROOT / native.PACKAGE
    current = tuple(native.expected_module(unit) for unit in native.UNITS)
    for built in folder.glob(f"{native.STEM}*"):
        if not built.name.startswith(current):
            built.unlink()
    found = [extension_of(unit) for unit in native.UNITS]
    compiled: list[Extension] = cythonize(found, compiler_directives=DIRECTIVES, quiet=True)
    for extension in compiled:
        extension.optional = True  # a compiler that is missing or fails is no error
    return compiled


def extension_of(unit: str) -> Extension:
    """Copy what is compiled under the name of the module that it becomes."""
    name, copies = native.expected_module(unit), ROOT / "build" / "compiled" / native.PACKAGE
    write(copies / "__init__.py", b"")
    for file in native.UNITS[unit]:
        text = (ROOT / native.PACKAGE / file).read_text()
        copy = file if file.endswith(".pxi") else f"{name}{Path(file).suffix}"
        write(copies / copy, native.text_to_compile(text).encode())
    source = copies / f"{name}{Path(native.UNITS[unit][0]).suffix}"
    return Extension(
        f"{native.PACKAGE}.{name}",
        [source.relative_to(ROOT).as_posix()],
        extra_compile_args=FLAGS,
    )


setup(ext_modules=extensions(), options={"build_ext": {"parallel": os.cpu_count()}})
