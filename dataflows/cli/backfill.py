"""`alpha backfill`: the venue's candles beside the rows; and what it shares with `alpha gaps`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from dataflows.backfill import (
    BOOTSTRAP,
    REPAIR,
    Ask,
    Coin,
    Run,
    closed_before,
    kept_after,
    labels_between,
)
from dataflows.cli.failures import INPUT, USAGE, Problem
from dataflows.cli.given_times import given_ms
from dataflows.cli.screen import AsJson, new_table, put, put_json, put_table, say, shown_counts
from dataflows.connectors.candles import Backfill, CandleStore, Outcome
from dataflows.connectors.clock import SystemClock
from dataflows.connectors.database import Database
from dataflows.connectors.venue_rest import RestConfig, VenueRest
from dataflows.settings import DATABASE_OFF, Settings
from operators.lattice import MINUTE_MS, iso

app = typer.Typer(add_completion=False, rich_markup_mode=None)

JOBS_SHOWN = 20
Schema = Annotated[str, typer.Option("--schema", help="Schema of the tables.")]
DataDirectory = Annotated[
    Path | None,
    typer.Option("--dir", help="Data directory; default: ALPHA_DATA_DIR, else var."),
]
RestUrl = Annotated[str | None, typer.Option(help="Venue REST base address.")]
# The venue allows 1200 an address, of which a recorder beside this may use 1000.
Weight = Annotated[
    int, typer.Option(min=20, max=1200, help="Share of the venue's 1200 that may be used a minute.")
]
WEIGHT_PER_MIN = 200


@app.command()
def run(
    coins: Annotated[
        str | None, typer.Option(help="Such as BTC,ETH; default: ALPHA_COINS, else most traded.")
    ] = None,
    minutes: Annotated[
        int, typer.Option(min=1, help="How many minutes up to now, without --since.")
    ] = 120,
    since: Annotated[str | None, typer.Option(help="ISO time, UTC unless it says so.")] = None,
    until: Annotated[str | None, typer.Option(help="ISO time; default: now.")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Only minutes that a gap made stale.")
    ] = False,
    jobs: Annotated[bool, typer.Option("--jobs", help="List jobs and ask for nothing.")] = False,
    directory: DataDirectory = None,
    schema: Schema = "public",
    rest_url: RestUrl = None,
    weight_per_min: Weight = WEIGHT_PER_MIN,
    as_json: AsJson = False,
) -> None:
    """Store the venue's candles beside what was built from ticks.

    Raw OHLCV of one minute into `candle_bar`, marked with its source and job. Rows, baselines and
    events stay as they are. What is stored is not asked for again, so a run that was stopped goes
    on when it is repeated.
    """
    clock = SystemClock()
    settings = Settings.from_env()
    with candle_store(directory, schema) as store:
        if jobs:
            _show_jobs(store.jobs(JOBS_SHOWN), as_json)
            return
        now_ms = clock.now_ns() // 1_000_000
        span = _span(given_ms("--since", since), given_ms("--until", until), minutes, now_ms)
        names = settings.coins if coins is None else _names(coins)
        with venue(rest_url, weight_per_min) as rest:
            if repair:
                ask = _repair(store, span, names)
            else:
                labels = labels_between(span.first_ms, span.last_ms)
                chosen = _chosen(rest, names, settings.max_assets)
                ask = Ask(BOOTSTRAP, dict.fromkeys(chosen, labels))
            if not ask.labels:
                _show_nothing(as_json)
                return
            outcome = Backfill(store, rest, clock, say).run(ask)
    _show(outcome, as_json)


# --- what `alpha gaps` uses, too ---------------------------------------------------------------


@contextmanager
def candle_store(directory: Path | None, schema: str) -> Iterator[CandleStore]:
    """The tables of the given database, else of the embedded one, which runs meanwhile."""
    settings = Settings.from_env()
    if directory is None and settings.database_url == DATABASE_OFF:
        raise Problem(
            "ALPHA_DATABASE_URL is `off`: name a database, or a directory by --dir", USAGE
        )
    url = settings.database_url if directory is None else None
    database = Database(directory or settings.data_dir, url, schema=schema, say=say)
    try:
        with CandleStore(database.open(), schema) as store:
            yield store
    finally:
        database.close()


@contextmanager
def venue(rest_url: str | None, weight_per_min: int) -> Iterator[VenueRest]:
    """A client of the venue within a share of its limit."""
    url = rest_url or Settings.from_env().rest_url
    with VenueRest(RestConfig(url=url, weight_per_min=weight_per_min), SystemClock()) as rest:
        yield rest


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Return how a job stands as JSON."""
    divergence = outcome.divergence
    return {
        "backfill_job_id": outcome.job_id,
        "status": outcome.status,
        "reason": outcome.reason,
        "runs": outcome.runs,
        "requests": outcome.requests,
        "minutes_asked": outcome.asked,
        "minutes_stored": outcome.stored,
        "minutes_missing": outcome.missing,
        "rejected": dict(outcome.rejected),
        "minutes_compared": divergence.compared,
        "minutes_divergent": divergence.divergent,
        "divergent": dict(divergence.columns),
        "divergent_first": [
            {"symbol": symbol, "exchange_ts": iso(label), "columns": list(columns)}
            for symbol, label, columns in divergence.first
        ],
    }


def outcome_lines(outcome: Outcome) -> list[str]:
    """Return how a job stands, for reading."""
    divergence = outcome.divergence
    lines = [
        f"job {outcome.job_id}: {outcome.status}, {outcome.stored} of {outcome.asked} minutes"
        f" stored, {outcome.requests} requests"
    ]
    if outcome.reason is not None:
        lines.append(outcome.reason)
    lines.append(
        f"{divergence.compared} minutes were also built whole from ticks,"
        f" {divergence.divergent} of them differ"
    )
    if divergence.columns:
        lines.append(f"in {shown_counts(divergence.columns)}")
        lines += [
            f"  {symbol} {iso(label)}: {', '.join(columns)}"
            for symbol, label, columns in divergence.first
        ]
    return lines


# --- what is asked -----------------------------------------------------------------------------


def _span(since_ms: int | None, until_ms: int | None, minutes: int, now_ms: int) -> Run:
    """Return the closes before the first and of the last minute; refuse what nobody can have."""
    newest_ms, oldest_ms = closed_before(now_ms), kept_after(now_ms)
    last_ms = newest_ms if until_ms is None else min(until_ms // MINUTE_MS * MINUTE_MS, newest_ms)
    first_ms = last_ms - minutes * MINUTE_MS if since_ms is None else since_ms
    if not labels_between(first_ms, last_ms):
        raise Problem(
            f"expected a closed minute between --since and --until, found none from"
            f" {iso(first_ms)} to {iso(last_ms)}",
            USAGE,
        )
    if last_ms <= oldest_ms:
        raise Problem(
            f"expected minutes after {iso(oldest_ms)}, before which the venue keeps no candles;"
            f" found --until {iso(last_ms)}",
            INPUT,
        )
    if first_ms < oldest_ms:
        say(f"from {iso(oldest_ms)}: the venue keeps no older candles", "yellow")
        first_ms = oldest_ms
    return Run(first_ms, last_ms)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise Problem(f"--coins: expected names such as BTC,ETH, found {text!r}", USAGE)
    return names


def _chosen(rest: VenueRest, names: tuple[str, ...] | None, max_assets: int) -> list[Coin]:
    """Return the assets that are named, else the most traded; all of them known to the venue."""
    found = rest.discover()
    if names is None:
        return sorted(Coin(x.uid, x.coin) for x in found.ranked()[:max_assets])
    uids = {listing.coin: listing.uid for listing in found.listings}
    for name in names:
        if name not in uids:
            near = get_close_matches(name, uids, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise Problem(f"expected coins that the venue lists, found {name!r}{hint}", USAGE)
    return sorted(Coin(uids[name], name) for name in names)


def _repair(store: CandleStore, span: Run, names: tuple[str, ...] | None) -> Ask:
    stale = store.stale(Run(span.first_ms + 1, span.last_ms))
    if names is not None:
        stale = {coin: labels for coin, labels in stale.items() if coin.name in names}
    return Ask(REPAIR, stale)


# --- what is shown -----------------------------------------------------------------------------


def _show(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        put_json(outcome_json(outcome))
    else:
        put("\n".join(outcome_lines(outcome)))


def _show_nothing(as_json: bool) -> None:
    if as_json:
        put_json({"backfill_job_id": None})
    else:
        put("no minute was made stale by a gap: nothing to ask for")


def _show_jobs(jobs: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        put_json(jobs)
        return
    table = new_table(
        *("job", "kind", "until", "status", "stored", "asked", "differ", "coins"),
        right=("stored", "asked", "differ"),
        fold=("coins",),
    )
    for job in jobs:
        table.add_row(
            job["backfill_job_id"],
            job["kind"],
            job["until"][:16],
            job["status"],
            str(job["minutes_stored"]),
            str(job["minutes_asked"]),
            str(job["minutes_divergent"]),
            ", ".join(job["coins"]),
        )
    put_table(table)
