"""`alpha compact`: the columnar cache of a tick log, made, brought up to date or checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dataflows.cli.failures import NOT_IN_ORDER, Problem
from dataflows.cli.logs import size_of
from dataflows.cli.pack_files import FeaturesFile
from dataflows.cli.places import made_directory
from dataflows.cli.progress import LogProgress
from dataflows.cli.replay import checked_source
from dataflows.cli.screen import AsJson, put, put_json, say, shown_size
from dataflows.compaction import Compaction, assert_possible, compact
from dataflows.connectors.columns import Columns, damaged_ticks, place_of, usable
from dataflows.connectors.source import REPLAY_LINES
from packs.loader import load_packs

app = typer.Typer(add_completion=False, rich_markup_mode=None)

SHARDS_MAX = 1000


@app.command()
def run(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="A tick log (directory or file).")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory of the cache; default: LOG.columns.")
    ] = None,
    shards: Annotated[
        int, typer.Option(min=1, max=SHARDS_MAX, help="Files the assets of an hour are shared by.")
    ] = 1,
    whole: Annotated[
        bool,
        typer.Option("--whole", help="Nobody writes LOG any more: its newest segment too."),
    ] = False,
    no_bars: Annotated[
        bool, typer.Option("--no-bars", help="Ticks alone; replays then assemble the minutes.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Make nothing; say whether a replay would use it.")
    ] = False,
    features: FeaturesFile = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a columnar cache of a tick log, for faster replays.

    Where there is one already, only what was recorded since is read. The newest segment of a
    directory stays out while it may still be written. The cache is Arrow IPC files that other
    programs can read, and the minute bars made of them; the log stays the truth: a cache that does
    not fit every byte of it is not used (docs/cache.md).
    """
    span = checked_source(log, bars=False)
    pack = load_packs(features).features
    directory = out or place_of(log)
    if check:
        found = usable(log, directory, pack)
        if not isinstance(found, Columns):
            raise Problem(f"{directory}: {found or 'no cache is there'}", NOT_IN_ORDER)
        damaged = damaged_ticks(found) if found.bars else ""
        if damaged:
            say(f"{directory}: {damaged}; its bars would be read, which are in order")
        if found.no_bars:
            say(f"{directory}: its ticks would be read, not its bars: {found.no_bars}")
        _show(log, found, {"did": "checked"}, as_json)
        return
    assert_possible(directory)
    made_directory("--out", directory)
    with LogProgress("compact", "lines", REPLAY_LINES, span, quiet=quiet) as progress:
        done = compact(
            log,
            directory,
            pack,
            shards=shards,
            whole=whole,
            bars=not no_bars,
            on_progress=progress,
        )
    if done.rebuilt:
        say(f"{directory}: made anew: {done.rebuilt}")
    if done.assembled:
        say(f"{directory}: bars made anew: {done.assembled}")
    for name, why in done.left_out.items():
        hint = "" if whole else " (--whole if nobody writes the log any more)"
        say(f"{name}: left to the log: {why}{hint}")
    _show(log, done.columns, _done_json(done), as_json)


def _done_json(done: Compaction) -> dict[str, Any]:
    if done.written:
        did = "appended" if done.kept else "made"
    elif done.assembled:
        did = "bars made"
    elif done.without_bars:
        did = "bars removed"
    elif done.taken_in:  # files of the log without a tick
        did = "appended" if done.kept else "made"
    else:
        did = "nothing"
    return {"did": did, "parts_written": done.written, "left_out": done.left_out}


def _show(log: Path, columns: Columns, done: dict[str, Any], as_json: bool) -> None:
    manifest = columns.manifest
    of_bars = sum(file.size for file in manifest.bar_files())
    size = of_bars + sum(file.size for file in manifest.tick_files())
    if as_json:
        put_json(
            {
                "cache": str(columns.directory),
                **done,
                "segments": len(manifest.segments),
                "parts": len(manifest.parts),
                "shards": manifest.shards,
                "ticks": manifest.ticks,
                "bytes": size,
                "bytes_bars": of_bars if manifest.bars is not None else None,
                "bytes_log": size_of(log),
            }
        )
        return
    bars = "without bars" if manifest.bars is None else f"bars {shown_size(of_bars)}"
    put(
        f"{columns.directory}: {done['did']}: {manifest.ticks:,} ticks of"
        f" {len(manifest.segments)} files in {len(manifest.parts)} parts,"
        f" {shown_size(size)} ({bars})"
    )
