"""Parquet files of minute bars, where the optional reader for them is installed.

Rules of this file: the reader is loaded when such a file is met, not before; a value becomes the
text that a CSV of it would hold (a double its shortest round trip), so that everything behind sees
one kind of row; rows come in the order of the file, a batch of them in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dataflows.importing.bar_layouts import BAR_PRESETS, BarColumns, BarsFile
from dataflows.importing.layouts import Layout, known_layouts, shown
from dataflows.importing.reading import DAMAGED_FILE, Cells, Probe, Tally

BATCH_ROWS = 1 << 15  # rows in memory at a time, some 20 MB as text
NO_READER = "Parquet needs the package pyarrow: run `pip install pyarrow`"

_MAGIC = b"PAR1"


def is_parquet(path: Path) -> bool:
    """Tell by its first bytes whether a path is a Parquet file."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


def parquet_layout(file: BarsFile) -> tuple[Layout[BarColumns], Probe] | str:
    """Return the layout of a file and its columns, or one sentence that says what is wrong.

    The columns are told in the form of a CSV header, so that the layouts of CSV fit.
    """
    arrow = _reader()
    if arrow is None:
        return f"{file.path}: {NO_READER}"
    try:
        names = arrow.parquet.read_schema(file.path).names
    except (arrow.ArrowException, OSError) as error:
        return f"{file.path}: expected a Parquet file, found a damaged one: {error}"
    found = Probe("csv", tuple(names))
    presets, wanted = BAR_PRESETS, file.layout
    if isinstance(wanted, BarColumns):
        presets = (Layout(name="own columns", kind="minute bars", columns=wanted),)
        wanted = None
    for preset in presets:
        if wanted in (None, preset.name) and preset.fits(found):
            return preset, found
    wish = "a known layout" if wanted is None else f"layout {wanted}"
    return f"{file.path}: expected {wish}, found {shown(found)}; {known_layouts(presets)}"


def parquet_rows(
    path: Path, found: Probe, wanted: Sequence[str | None], tally: Tally
) -> Iterator[Cells]:
    """Yield the wanted cells of every row as text, "" where a column is absent or null.

    An instant becomes epoch ms; one without a zone is UTC. Damage ends the rows and is counted.
    """
    arrow = _reader()
    assert arrow is not None, "a layout was found, so there is a reader"
    present = [name for name in dict.fromkeys(wanted) if name and name in found.names]
    try:
        with arrow.parquet.ParquetFile(path) as file:
            for batch in _batches(file, present):
                texts = {name: _texts(arrow, batch.column(name)) for name in present}
                absent = [""] * batch.num_rows
                tally.lines += batch.num_rows
                yield from zip(*(texts.get(name or "", absent) for name in wanted), strict=True)
    except (arrow.ArrowException, OSError, ValueError):  # the last of text that is not UTF-8
        tally.reject(DAMAGED_FILE)


def _batches(file: Any, columns: Sequence[str]) -> Iterator[Any]:
    """Yield the rows group by group: a batch over several would lose all of them to one damage."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns)


def _reader() -> Any:
    """Return the library, untyped as it comes; None where it is not installed."""
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError:
        return None


def _texts(arrow: Any, column: Any) -> list[str]:
    if arrow.types.is_timestamp(column.type):
        column = column.cast(arrow.timestamp("ms", column.type.tz), safe=False).cast("int64")
    return ["" if value is None else str(value).strip() for value in column.to_pylist()]
