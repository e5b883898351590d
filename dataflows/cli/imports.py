"""`alpha import`: recordings of others become a tick log, or a bars file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from dataflows.cli.logs import size_of
from dataflows.cli.screen import (
    AsJson,
    new_table,
    put,
    put_json,
    put_table,
    say,
    shown_counts,
    shown_size,
)
from dataflows.importing.bar_layouts import BarsFile
from dataflows.importing.bars_import import BarsReport, import_bars
from dataflows.importing.presets import TickFile
from dataflows.importing.ticks import MAX_SILENCE_S, TickReport, import_ticks, read_meta
from operators.lattice import iso

app = typer.Typer(
    help="Turn recordings of others into a tick log or a bars file.",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)

_HOLES_SHOWN = 10

Files = Annotated[list[Path], typer.Argument(metavar="FILES", help="Plain, gzip or zstd.")]
LayoutName = Annotated[
    str | None, typer.Option(help="Name of a layout; default: recognised by the header.")
]


@app.command()
def ticks(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="A file, or a new directory, for the log.")],
    layout: LayoutName = None,
    coin: Annotated[
        str | None, typer.Option(help="Coin of files that do not say which they are of.")
    ] = None,
    uid: Annotated[
        list[str] | None, typer.Option(metavar="COIN=ID", help="Id of a coin; may be repeated.")
    ] = None,
    meta: Annotated[
        Path | None, typer.Option(help="A stored `meta` answer of the venue, for the ids.")
    ] = None,
    max_silence_s: Annotated[
        float, typer.Option(help="A longer silence of all files is a hole.")
    ] = MAX_SILENCE_S,
    tail_s: Annotated[
        int, typer.Option(help="Seconds the recording goes on after its last tick.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Turn trades, quotes and books (CSV or NDJSON) into one tick log."""
    ids = {**(read_meta(meta) if meta is not None else {}), **_ids(uid or [])}
    sources = [TickFile(path, coin, layout) for path in files]
    report = import_ticks(sources, out, uids=ids, max_silence_s=max_silence_s, tail_s=tail_s)
    if as_json:
        put_json({"out": str(out), **msgspec.to_builtins(report)})
        return
    _show_ticks(report)
    put(f"{_read(report)}; {len(report.holes)} holes; log {out} ({shown_size(size_of(out))})")
    for start_ms, end_ms in report.holes[:_HOLES_SHOWN]:
        put(f"  hole from {iso(start_ms)} to {iso(end_ms)}")
    _say_rejects(report.rejects)
    say(f"next: alpha replay {out} --out DIR")


@app.command()
def bars(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="The bars file to write (CSV).")],
    layout: LayoutName = None,
    symbol: Annotated[
        str | None, typer.Option(help="Symbol of files that do not say which they are of.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn minute bars (CSV, NDJSON or Parquet) into one bars file."""
    report = import_bars([BarsFile(path, symbol, layout) for path in files], out)
    if as_json:
        put_json({"out": str(out), **msgspec.to_builtins(report)})
        return
    table = new_table("symbol", "bars", right=("bars",))
    for name, count in report.bars.items():
        table.add_row(name, str(count))
    put_table(table)
    put(f"{_read(report)}; bars file {out}")
    for note in report.notes:
        put(f"  {note}")
    _say_rejects(report.rejects)
    say(f"next: alpha replay --bars {out} --out DIR")


def _ids(given: list[str]) -> dict[str, int]:
    ids = {}
    for text in given:
        coin, mark, number = text.rpartition("=")
        if not (mark and coin and number.isdecimal()):
            raise typer.BadParameter(f"--uid: expected COIN=ID such as BTC=0, found {text!r}")
        ids[coin] = int(number)
    return ids


def _show_ticks(report: TickReport) -> None:
    channels = sorted(report.ticks)
    table = new_table("coin", "uid", *channels, right=("uid", *channels))
    for coin, number in report.uids.items():
        counts = (str(report.ticks[channel].get(coin, 0)) for channel in channels)
        table.add_row(coin, str(number), *counts)
    put_table(table)


def _read(report: TickReport | BarsReport) -> str:
    first_ms, last_ms = report.span_ms
    lines = f"{report.lines} lines of {report.files} file{'' if report.files == 1 else 's'}"
    return f"{lines}, {iso(first_ms)} to {iso(last_ms)}"


def _say_rejects(rejects: dict[str, int]) -> None:
    if rejects:
        say(f"rows left out: {shown_counts(rejects)}", "yellow")
