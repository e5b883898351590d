"""`alpha gaps`: the holes of the recording, and what they have cost by the venue's candles."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from dataflows.cli.backfill import (
    WEIGHT_PER_MIN,
    DataDirectory,
    RestUrl,
    Schema,
    Weight,
    candle_store,
    outcome_json,
    outcome_lines,
    venue,
)
from dataflows.cli.given_times import given_ms
from dataflows.cli.screen import AsJson, new_table, put, put_json, put_table, say
from dataflows.connectors.candles import Backfill
from dataflows.connectors.clock import SystemClock
from dataflows.connectors.gap_ledger import GapLedger, LedgerLine, Reconciliation
from operators.lattice import HOUR_MS, iso

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def run(
    hours: Annotated[int, typer.Option(min=1, help="How far back, without --since.")] = 72,
    since: Annotated[str | None, typer.Option(help="ISO time, UTC unless it says so.")] = None,
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="First ask the venue what the gaps have cost.")
    ] = False,
    assets: Annotated[bool, typer.Option("--assets", help="A line for each asset, too.")] = False,
    directory: DataDirectory = None,
    schema: Schema = "public",
    rest_url: RestUrl = None,
    weight_per_min: Weight = WEIGHT_PER_MIN,
    as_json: AsJson = False,
) -> None:
    """List the holes of the recording and what they have cost.

    With --reconcile the venue's candles are put beside the minutes of each gap that is over, and
    what the rows lack goes into `gap_reconciliation`; run it once an hour. The venue keeps candles
    for 83 hours. Rows and events stay as they are.
    """
    clock = SystemClock()
    now_ms = clock.now_ns() // 1_000_000
    since_ms = given_ms("--since", since)
    since_ms = now_ms - hours * HOUR_MS if since_ms is None else since_ms
    done = None
    with candle_store(directory, schema) as store:
        ledger = GapLedger(store)
        if reconcile:
            with venue(rest_url, weight_per_min) as rest:
                backfill = Backfill(store, rest, clock, say)
                done = ledger.reconcile(backfill, since_ms=since_ms, now_ms=now_ms)
        lines = ledger.lines(since_ms)
    if done is not None and done.failure is not None:
        raise done.failure
    if as_json:
        put_json({"reconciled": _done_json(done), "gaps": [_line_json(line) for line in lines]})
    else:
        _show(lines, done, assets)


def _done_json(done: Reconciliation | None) -> dict[str, Any] | None:
    if done is None:
        return None
    job = None if done.outcome is None else outcome_json(done.outcome)
    return {"gaps": done.gaps, "waiting": done.waiting, "entries": done.entries, "job": job}


def _line_json(line: LedgerLine) -> dict[str, Any]:
    gap = line.gap
    entries = [{**e, "reconciled_ms": iso(e["reconciled_ms"])} for e in line.entries]
    for entry in entries:
        entry["reconciled_at"] = entry.pop("reconciled_ms")
    return {
        "feed": gap.feed,
        "cause": gap.cause,
        "started_at": iso(gap.started_ms),
        "ended_at": None if gap.ended_ms is None else iso(gap.ended_ms),
        "status": line.status,
        "assets": entries,
    }


def _show(lines: list[LedgerLine], done: Reconciliation | None, assets: bool) -> None:
    if done is not None:
        say(f"{done.gaps} gaps reconciled, {done.waiting} wait for their end or their candles")
        for text in [] if done.outcome is None else outcome_lines(done.outcome):
            say(text)
    if not lines:
        put("no gap")
        return
    table = new_table(
        *("began (UTC)", "length", "cause", "status", "assets", "minutes"),
        *("trades lost", "of", "volume lost"),
        right=("length", "assets", "minutes", "trades lost", "of", "volume lost"),
    )
    for line in lines:
        _add_line(table, line)
        for entry in line.entries if assets else ():
            _add_entry(table, entry)
    put_table(table)
    put("volume is an estimate in quote currency; bounds in base coins are in gap_reconciliation")


def _add_line(table: Any, line: LedgerLine) -> None:
    gap = line.gap
    length = "-" if gap.ended_ms is None else f"{(gap.ended_ms - gap.started_ms) / 1000:,.1f} s"
    table.add_row(
        iso(gap.started_ms)[:19],
        length,
        gap.cause,
        line.status,
        str(len(line.entries)),
        str(max((entry["minutes"] for entry in line.entries), default=0)),
        f"{line.total('trades_missing'):,}",
        f"{line.total('trades_venue'):,}",
        f"{line.total('volume_missing_quote'):,.0f}",
    )


def _add_entry(table: Any, entry: dict[str, Any]) -> None:
    unknown = entry["minutes_without_candle"]
    table.add_row(
        *("", "", "", ""),
        Text(entry["symbol"], "bold"),
        f"{entry['minutes']}" + (f" ({unknown} unknown)" if unknown else ""),
        f"{entry['trades_missing']:,}",
        f"{entry['trades_venue']:,}",
        f"{entry['volume_missing_quote']:,.0f}",
    )
