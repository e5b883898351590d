"""Where an import puts its output: a spool while it runs, then the file under its own name."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import zstandard

COPY_BYTES = 1 << 20
_ZSTD_LEVEL = 3


def is_directory(out: Path) -> bool:
    """Tell whether an output names a directory: one that exists, or a name without a suffix."""
    return out.is_dir() or not out.suffix


def spool(out: Path) -> IO[bytes]:
    """Open a nameless file on the volume of the output; it is gone when it is closed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=out.parent)


@contextmanager
def replacing(out: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its name only once all is written; .gz and .zst are compressed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".tmp")
    try:
        with partial.open("wb") as plain:
            if out.suffix == ".gz":
                with gzip.GzipFile("", "wb", fileobj=plain, mtime=0) as packed:
                    yield packed  # type: ignore[misc]
            elif out.suffix == ".zst":
                with zstandard.ZstdCompressor(_ZSTD_LEVEL).stream_writer(plain) as stream:
                    yield stream
            else:
                yield plain
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
