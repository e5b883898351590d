"""What a user sees: results on stdout, everything else on stderr.

Rules of this file: with `--json` stdout holds JSON and nothing else; colours follow the terminal
and NO_COLOR; what goes into a pipe is laid out for WIDTH columns.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, TextIO

import orjson
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 100

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

STATUS_STYLES = {
    **dict.fromkeys(("ok", "found", "held back"), "green"),
    **dict.fromkeys(("warning", "partial", "not in the pack"), "yellow"),
    **dict.fromkeys(("failed", "stale", "MISSING"), "bold red"),
}


def console(stream: TextIO) -> Console:
    """Return a console that takes texts as they are: no markup, no guessing."""
    width = None if stream.isatty() else WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def out() -> Console:
    """Return the console of results."""
    return console(sys.stdout)


def err() -> Console:
    """Return the console of everything else."""
    return console(sys.stderr)


def say(line: str, style: str = "dim") -> None:
    """Tell the user something that is not the result."""
    err().print(Text(line, style), soft_wrap=True)


def put(line: str | Text = "") -> None:
    """Print one line of the result."""
    out().print(line, soft_wrap=True)


def put_table(table: Table) -> None:
    """Print a table of the result."""
    out().print(table)


def put_json(value: Any) -> None:
    """Print the result as one JSON document."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def put_line(text: bytes) -> None:
    """Print one line that is JSON already."""
    sys.stdout.write(text.decode() + "\n")


def new_table(*columns: str, right: tuple[str, ...] = (), fold: tuple[str, ...] = ()) -> Table:
    """Return an empty table; numbers to the right, and only `fold` may break its lines."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        wraps = name in fold
        table.add_column(
            name, justify="right" if name in right else "left", no_wrap=not wraps, overflow="fold"
        )
    return table


def status(word: str) -> Text:
    """Return a verdict in its colour."""
    return Text(word, STATUS_STYLES.get(word, ""))


def shown_counts(counts: Mapping[str, int]) -> str:
    """Return counts in one line, the largest first.

    >>> shown_counts({"a": 1, "b": 20})
    'b 20, a 1'
    """
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in ranked)


def shown_size(size: int) -> str:
    """Return a size in bytes for reading.

    >>> shown_size(999), shown_size(61_800_000)
    ('999 B', '61.8 MB')
    """
    amount, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1000.0 and len(units) > 1:
        amount, units = amount / 1000.0, units[1:]
    return f"{size} B" if units[0] == "B" else f"{amount:.1f} {units[0]}"
