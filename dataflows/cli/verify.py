"""`alpha verify`: is what is stored what the log says, byte by byte.

Rules of this file: which configuration ran is looked up, never assumed; what was not judged is said
beside what was; the metrics of a run are replaced as one file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
import typer
from rich.text import Text

from dataflows.archive import FOREVER_MS, Archive, ArchiveError, Configured, Span, label_of
from dataflows.cli.failures import INPUT, NOT_IN_ORDER, USAGE, Problem
from dataflows.cli.given_times import given_ms, given_seconds
from dataflows.cli.logs import last_arrival_ns, log_span
from dataflows.cli.pack_files import DetectorsFile, FeaturesFile, UniverseFile
from dataflows.cli.record import told_to_stop
from dataflows.cli.screen import AsJson, new_table, put, put_json, put_table, say, shown_counts
from dataflows.cli.stored import archive_of, packs_with
from dataflows.connectors.clock import SystemClock
from dataflows.live import TICKS
from dataflows.settings import Settings
from dataflows.verify import (
    DIFFERS,
    KINDS,
    MISSING,
    NOT_STORED_YET,
    PRODUCTS,
    VERDICTS,
    Mismatch,
    Stretch,
    Verification,
    Verifier,
    VerifyError,
    configuration_of,
    earlier_than,
)
from operators.lattice import MINUTE_MS, minute_of
from operators.modes import RUN_MODES, Run, RunMode
from packs.loader import Packs, load_packs

app = typer.Typer(add_completion=False, rich_markup_mode=None)

METRIC = "alpha_verify"
_VALUE_CHARS_MAX = 60


@app.command()
def run(
    log: Annotated[
        Path | None,
        typer.Argument(metavar="LOG", help="Tick log; default: `ticks` under ALPHA_DATA_DIR."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Directory of a replay, or of live topics; default: the database."
        ),
    ] = None,
    schema: Annotated[str, typer.Option(help="Schema of the tables.")] = "public",
    since: Annotated[
        str | None, typer.Option(help="Judge labels after this ISO time; before it is warm-up.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="ISO time, included.")] = None,
    last: Annotated[
        str | None, typer.Option(metavar="24h", help="Judge the newest stored, so much of it.")
    ] = None,
    warm_up_from: Annotated[
        str | None,
        typer.Option(help="ISO time: do not begin at the start of the log; judges raw columns."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(RUN_MODES), help="Run mode, where nothing says which it was."
        ),
    ] = None,
    every: Annotated[
        str | None, typer.Option(metavar="1h", help="Go on, and judge what is new so often.")
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="Also write Prometheus metrics into this file.")
    ] = None,
    features: FeaturesFile = None,
    detectors: DetectorsFile = None,
    universe: UniverseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make what is stored again from the log, and compare the bytes.

    Rows and frames, events, shadow events and suppressions; what is missing, what is too much and
    what differs, with the first column that does. The warm-up begins at the start of the log. Exit
    code 4 if anything is not as made again; with --every it goes on, and says so.
    """
    if last is not None and since is not None:
        raise Problem("--last and --since: expected one of them, found both", USAGE)
    if mode is not None and mode not in RUN_MODES:
        raise Problem(f"--mode {mode}: expected one of {', '.join(RUN_MODES)}", USAGE)
    pause_s = None if every is None else given_seconds("--every", every)
    path = log or Settings.from_env().data_dir / TICKS
    log_span(path)
    packs = load_packs(features, detectors, universe)
    archive = archive_of(directory, schema, packs)
    try:
        span = _span(archive, since, until, last)
        ran = configuration_of(archive.configured(), _judged(archive, span), archive.name)
        packs = _packs_of(ran, packs, features, universe)
        stretch = Stretch(span, given_ms("--warm-up-from", warm_up_from))
        how = _run_of(ran, mode, archive)
        notes = _notes(archive, ran)
        with Verifier(path, archive, packs, how, stretch, follow=pause_s is not None) as verifier:
            if pause_s is not None:
                _go_on(verifier, path, archive, notes, pause_s, metrics)
                return
            found = _advanced(verifier, path, archive, notes, metrics)
    except (ArchiveError, VerifyError) as error:
        raise Problem(str(error), INPUT) from error
    finally:
        archive.close()
    if as_json:
        put_json(msgspec.to_builtins(found))
    else:
        _show(found)
    if not found.in_order:
        raise typer.Exit(NOT_IN_ORDER)


def _go_on(
    verifier: Verifier,
    path: Path,
    archive: Archive,
    notes: list[str],
    pause_s: int,
    metrics: Path | None,
) -> None:
    """Judge what is new again and again, a line each time, until told to stop."""
    noted = archive.configured()
    with told_to_stop() as stop:
        while True:
            found = _advanced(verifier, path, archive, notes, metrics)
            say(_one_line(found), "dim" if found.in_order else "bold red")
            for each in found.tally.examples:
                say(f"  {_words_of(each)}", "red")
            archive.close()  # it opens again
            if stop.wait(pause_s):
                return
            if archive.configured() != noted:
                raise VerifyError(
                    f"{archive.name}: another configuration runs now; start `alpha verify` again"
                )


def _advanced(
    verifier: Verifier, path: Path, archive: Archive, notes: list[str], metrics: Path | None
) -> Verification:
    found = verifier.advance()
    found.notes = notes
    newest_ns = last_arrival_ns(path)
    if found.until is not None and archive.grows and newest_ns is not None:
        sealed_ms = minute_of(newest_ns // 1_000_000) - MINUTE_MS
        ahead = (sealed_ms - label_of(found.until)) // MINUTE_MS
        if ahead > 0:
            found.tally.minutes[NOT_STORED_YET] = ahead
    if metrics is not None:
        write_metrics(metrics, found, SystemClock().now_ns() // 1_000_000)
    return found


# --- what is verified ----------------------------------------------------------------------------


def _span(archive: Archive, since: str | None, until: str | None, last: str | None) -> Span | None:
    """Return the labels that were asked for, None: all that are stored."""
    since_ms, until_ms = given_ms("--since", since), given_ms("--until", until)
    if last is not None:
        known = archive.labels()
        newest_ms = until_ms if until_ms is not None else known[1] if known else 0
        since_ms = newest_ms - given_seconds("--last", last) * 1000
    if since_ms is None and until_ms is None:
        return None
    return Span(since_ms or 0, until_ms if until_ms is not None else FOREVER_MS)


def _judged(archive: Archive, span: Span | None) -> Span:
    """Return the stretch in which there may be but one configuration."""
    known = archive.labels() or (0, 0)
    if span is None:
        return Span(known[0] - 1, known[1])
    return Span(max(span.since_ms, known[0] - 1), min(span.until_ms, known[1]))


def _packs_of(
    ran: Configured | None, packs: Packs, features: Path | None, universe: Path | None
) -> Packs:
    if ran is None:
        return packs
    found = packs_with(ran.config_hash, packs, features, universe)
    if found.config_hash != ran.config_hash:
        raise Problem(
            f"expected the packs of configuration {ran.config_hash}, found {packs.config_hash};"
            " give them with --features, --detectors and --universe",
            USAGE,
        )
    return found


def _run_of(ran: Configured | None, mode: str | None, archive: Archive) -> Run:
    """Return how the run published: as noted, else as told, else as the settings or a replay do."""
    if ran is not None and ran.run_mode is not None:
        return Run(cast("RunMode", ran.run_mode), ran.emit_events is not False)
    if mode is not None:
        return Run(cast("RunMode", mode))
    return Settings.from_env().run if archive.grows else Run("replay")


def _notes(archive: Archive, ran: Configured | None) -> list[str]:
    notes = []
    if ran is not None:
        notes = [
            f"{other} ran before: cooldowns of that time may still show in the first two days"
            for other in earlier_than(archive.configured(), ran)
        ]
    return notes


# --- words ---------------------------------------------------------------------------------------


def _show(found: Verification) -> None:
    tally = found.tally
    _line("archive", found.archive)
    _line("log", f"{found.log}, made again from {found.warm_up_from or 'nowhere'} on")
    held = "" if found.emit_events else ", no events"
    _line("config", f"{found.config_hash}, mode {found.run_mode}{held}")
    _line("stretch", f"after {found.since or 'the start'} to {found.until or 'the end'}")
    for label in found.began:
        _line("began anew", f"{label}: the flow started there without its recovery store")
    _line("minutes", _shown_minutes(found))
    if found.judged_columns is not None:
        _line("judged", f"of one-minute rows only: {', '.join(found.judged_columns)}")
        _line("not judged", ", ".join(found.not_judged))
    table = new_table("product", "compared", *KINDS, right=("compared", *KINDS))
    for product in PRODUCTS:
        kinds = tally.found.get(product, {})
        counts = (str(kinds.get(kind, 0)) for kind in KINDS)
        table.add_row(product, str(tally.compared.get(product, 0)), *counts)
    put_table(table)
    for each in tally.examples:
        put(_words_of(each))
    left_out = tally.mismatches - len(tally.examples)
    if left_out:
        put(f"and {left_out} more")
    if tally.builds:
        _line("builds", f"events of another build, its name aside: {shown_counts(tally.builds)}")
    if found.dropped:
        _line("dropped", f"from the log: {shown_counts(found.dropped)}")
    for note in found.notes:
        _line("note", note)
    put(
        Text(*(("equal, byte for byte", "green") if found.in_order else _verdict(tally.mismatches)))
    )


def _verdict(mismatches: int) -> tuple[str, str]:
    return f"NOT EQUAL: {mismatches} mismatch{'' if mismatches == 1 else 'es'}", "bold red"


def _shown_minutes(found: Verification) -> str:
    minutes = found.tally.minutes
    return shown_counts({v.replace("_", " "): minutes[v] for v in VERDICTS if v in minutes})


def _one_line(found: Verification) -> str:
    state = "equal" if found.in_order else _verdict(found.tally.mismatches)[0]
    return f"verified to {found.until}: {state}; minutes: {_shown_minutes(found) or 'none'}"


def _words_of(each: Mismatch) -> str:
    name = f" {each.name}" if each.name else ""
    revision = f" revision {each.revision}" if each.product not in ("events", "shadow") else ""
    where = f"{each.product} {each.symbol} {each.tf} {each.exchange_ts}{revision}{name}"
    if each.kind == DIFFERS:
        what = f"{each.column}: stored {_short(each.stored)}, made again {_short(each.made)}"
        return f"{where}: {what}"
    why = "made again, not stored" if each.kind == MISSING else "stored, not made again"
    return f"{where}: {each.kind}: {why}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _VALUE_CHARS_MAX else f"{text[:_VALUE_CHARS_MAX]}..."


def _line(name: str, text: str) -> None:
    put(Text.assemble((f"{name:<12}", "dim"), text))


# --- metrics -------------------------------------------------------------------------------------


def write_metrics(path: Path, found: Verification, now_ms: int) -> None:
    """Replace a file of Prometheus metrics; the time of the last success outlives a failure."""
    success_s = now_ms // 1000 if found.in_order else _last_success_s(path)
    lines = _metric(
        "mismatches",
        "records that were not as made again from the log, in the last run",
        {
            f'{{product="{product}",kind="{kind}"}}': found.tally.found.get(product, {}).get(
                kind, 0
            )
            for product in PRODUCTS
            for kind in KINDS
        },
    )
    lines += _metric(
        "bars",  # not "minutes", which would be a unit
        "minutes of the last run by verdict",
        {f'{{verdict="{v}"}}': found.tally.minutes.get(v, 0) for v in VERDICTS},
    )
    lines += _metric("last_run_timestamp_seconds", "end of the last run", {"": now_ms // 1000})
    lines += _metric(
        "last_success_timestamp_seconds",
        "end of the last run without a mismatch, 0 before the first",
        {"": success_s},
    )
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text("\n".join(lines) + "\n")
    partial.replace(path)


def _metric(name: str, words: str, values: dict[str, int]) -> list[str]:
    full = f"{METRIC}_{name}"
    head = [f"# HELP {full} {words}", f"# TYPE {full} gauge"]
    return head + [f"{full}{labels} {value}" for labels, value in values.items()]


def _last_success_s(path: Path) -> int:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return 0
    found = re.search(rf"^{METRIC}_last_success_timestamp_seconds (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0
