"""Compile the inner loops (operators/kernel.py) where Cython and a C compiler are at hand.

Everything else about the build is in pyproject.toml. Without a compiler the install goes on and the
plain form runs: the same results, slower (docs/decisions/0009-compiled-kernel.md).
"""

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
    """Return the compiled kernel as an optional extension; none without Cython."""
    try:
        from Cython.Build import cythonize  # noqa: PLC0415
    except ImportError:
        return []
    folder = ROOT / native.PACKAGE
    sources = {name: (folder / name).read_bytes() for name in native.SOURCES}
    name = native.module_name(sources)
    for built in folder.glob(f"{native.STEM}*"):
        if not built.name.startswith(name):
            built.unlink()
    copies = ROOT / "build" / "kernel" / native.PACKAGE
    text = native.text_to_compile(sources["kernel.py"].decode())
    source = copies / f"{name}.py"
    write(copies / "__init__.py", b"")
    write(source, text.encode())
    write(copies / f"{name}.pxd", sources["kernel.pxd"])
    extension = Extension(
        f"{native.PACKAGE}.{name}",
        [source.relative_to(ROOT).as_posix()],
        extra_compile_args=FLAGS,
    )
    compiled: list[Extension] = cythonize([extension], compiler_directives=DIRECTIVES, quiet=True)
    for found in compiled:
        found.optional = True  # a compiler that is missing or fails is no error
    return compiled


setup(ext_modules=extensions())
