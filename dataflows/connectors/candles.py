"""Backfill jobs: candles from the venue into `candle_bar`, never into anything else.

Rules of this file: a stored candle stays as it is, and only what is not stored is asked for, so a
job may be stopped anywhere and started again; each answer is stored at once with what it cost; one
job at a time in a schema; every job ends with a status and a line of audit, also one that fails.
Nothing here reads or writes a baseline or an event. Build plan 16.1, 16.2, 16.6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from psycopg.types.json import Jsonb

from dataflows.backfill import (
    INTERVAL,
    SOURCES,
    Answer,
    Ask,
    Built,
    Candle,
    Coin,
    Divergence,
    Run,
    parse_candles,
    requests_for,
)
from dataflows.connectors.clock import Clock
from dataflows.connectors.migrate import open_session, query
from dataflows.connectors.venue_rest import VenueError, VenueRest
from operators.lattice import MINUTE_MS, iso

DONE, PARTIAL, FAILED, INTERRUPTED = "done", "partial", "failed", "interrupted"
REFUSED = "refused"
SAY_EVERY = 20  # requests


class BackfillError(Exception):
    """A job that could not be run to its end; the message is one line and says what is kept."""


@dataclass
class Outcome:
    """How a job stands. asked, stored, missing : asset-minutes; rejected : entries by reason."""

    job_id: str
    status: str = DONE
    reason: str | None = None
    runs: int = 1
    requests: int = 0
    asked: int = 0
    stored: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    divergence: Divergence = field(default_factory=Divergence)

    @property
    def missing(self) -> int:
        """Asset-minutes that the venue has not given."""
        return self.asked - self.stored


# --- the tables ------------------------------------------------------------------------------


class CandleStore:
    """Candles, jobs and the rows beside them, over one connection to a migrated schema."""

    def __init__(self, dsn: str, schema: str = "public") -> None:
        self.schema = schema
        self.connection = open_session(dsn, schema)

    def lock(self) -> None:
        """Be the only one who backfills this schema. Raises `BackfillError`."""
        found = self.connection.execute(query("try_lock_backfill"), {"schema": self.schema})
        if found.fetchone() != (True,):
            raise BackfillError(
                f"schema {self.schema}: expected no other backfill, found one that runs;"
                " wait for its end"
            )

    def start(self, ask: Ask, now_ms: int) -> Outcome:
        """Note that a job starts, or goes on; jobs that were killed are noted as such."""
        span, now = ask.span, iso(now_ms)
        with self.connection.transaction():
            self.connection.execute(query("interrupt_backfills"), {"now": now})
            found = self.connection.execute(
                query("start_backfill"),
                {
                    "job_id": ask.job_id,
                    "kind": ask.kind,
                    "since": iso(span.first_ms - MINUTE_MS),
                    "until": iso(span.last_ms),
                    "coins": [coin.name for coin in sorted(ask.labels)],
                    "asked": ask.minutes,
                    "now": now,
                },
            ).fetchone()
            assert found is not None
            runs, requests, rejected = found
            self._audit(ask.job_id, "started", now)
        return Outcome(
            ask.job_id,
            runs=runs,
            requests=requests,
            asked=ask.minutes,
            rejected=Counter(rejected),
        )

    def finish(self, outcome: Outcome, now_ms: int) -> None:
        """Note how a run of a job ended."""
        with self.connection.transaction():
            self.connection.execute(
                query("finish_backfill"),
                {
                    "job_id": outcome.job_id,
                    "status": outcome.status,
                    "reason": outcome.reason,
                    "requests": outcome.requests,
                    "stored": outcome.stored,
                    "missing": outcome.missing,
                    "rejected": Jsonb(dict(outcome.rejected)),
                    "compared": outcome.divergence.compared,
                    "divergent": outcome.divergence.divergent,
                    "columns": Jsonb(dict(outcome.divergence.columns)),
                    "now": iso(now_ms),
                },
            )
            self._audit(outcome.job_id, outcome.status, iso(now_ms))

    def _audit(self, job_id: str, action: str, now: str) -> None:
        self.connection.execute(
            query("audit_backfill"), {"job_id": job_id, "action": action, "now": now}
        )

    def add(
        self, coin: Coin, candles: Iterable[Candle], *, source: str, job_id: str, now_ms: int
    ) -> None:
        """Store candles; those of minutes that have one change nothing."""
        rows = [
            {
                "asset_uid": coin.uid,
                "symbol": coin.name,
                "tf": INTERVAL,
                "exchange_ts": iso(candle.label_ms),
                "open": candle.open,
                "high": candle.high,
                "low": candle.low,
                "close": candle.close,
                "volume_base": candle.volume_base,
                "trade_count": candle.trades,
                "source": source,
                "backfill_job_id": job_id,
                "stored_at": iso(now_ms),
            }
            for candle in candles
        ]
        if rows:
            self.connection.execute(query("insert_candles"), {"rows": Jsonb(rows)})

    def candles(self, uid: int, span: Run) -> dict[int, Candle]:
        """Return an asset's candles by their close."""
        found = self._select("stored_candles", uid, span)
        return {row[0]: Candle(*row) for row in found}

    def built(self, uid: int, span: Run) -> dict[int, Built]:
        """Return an asset's minutes that were built from ticks, by their close."""
        found = self._select("built_minutes", uid, span)
        return {
            label: Built(label, o, h, low, c, volume, trades, tuple(reasons or ()))
            for label, o, h, low, c, volume, trades, reasons in found
        }

    def stale(self, span: Run) -> dict[Coin, list[int]]:
        """Return the minutes that a gap made stale, by asset."""
        found = self.connection.execute(query("stale_minutes"), bounds(span)).fetchall()
        names = {uid: name for uid, name, _ in found}  # the newest name counts
        stale: dict[Coin, list[int]] = {}
        for uid, _, label in found:
            stale.setdefault(Coin(uid, names[uid]), []).append(label)
        return stale

    def jobs(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest jobs as they stand in their table."""
        found = self.connection.execute(query("stored_jobs"), {"limit": limit}).fetchall()
        return [row[0] for row in found]

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _select(self, name: str, uid: int, span: Run) -> list[tuple[Any, ...]]:
        values = {"asset_uid": uid, **bounds(span)}
        return self.connection.execute(query(name), values).fetchall()


def bounds(span: Run) -> dict[str, str]:
    """Return the first and the last close of a span as parameters of a query."""
    return {"first": iso(span.first_ms), "last": iso(span.last_ms)}


# --- a job -----------------------------------------------------------------------------------


class Backfill:
    """Runs jobs. say : is told now and then how far one is."""

    def __init__(
        self, store: CandleStore, venue: VenueRest, clock: Clock, say: Callable[[str], None]
    ) -> None:
        self._store = store
        self._venue = venue
        self._clock = clock
        self._say = say

    def run(self, ask: Ask) -> Outcome:
        """Ask for what is not stored, store what comes, compare it with what ticks have built.

        Raises `BackfillError` where the venue is away; what came before is kept, and the same ask
        goes on from there.
        """
        self._store.lock()
        outcome = self._store.start(ask, self._now_ms())
        try:
            self._fetch_all(ask, outcome)
        except VenueError as error:
            self._end(ask, outcome, FAILED, str(error))
            raise BackfillError(
                f"backfill {ask.job_id} stopped with {outcome.stored} of {outcome.asked} minutes"
                f" stored: {error}; the same command goes on from there"
            ) from error
        except KeyboardInterrupt:
            self._end(ask, outcome, INTERRUPTED, "interrupted")
            raise
        self._end(ask, outcome, DONE, None)
        return outcome

    def _fetch_all(self, ask: Ask, outcome: Outcome) -> None:
        wanted = [
            (coin, run, missing)
            for coin in sorted(ask.labels)
            if (missing := self._missing(coin, ask.labels[coin]))
            for run in requests_for(missing)
        ]
        for number, (coin, run, missing) in enumerate(wanted, start=1):
            answer = self._fetch(coin, run, missing, outcome)
            self._store.add(
                coin,
                answer.candles,
                source=SOURCES[ask.kind],
                job_id=ask.job_id,
                now_ms=self._now_ms(),
            )
            outcome.rejected += answer.rejected
            if number % SAY_EVERY == 0:
                self._say(f"{number} of {len(wanted)} requests, at {coin.name}")

    def _missing(self, coin: Coin, labels: Iterable[int]) -> frozenset[int]:
        labels = tuple(labels)
        return frozenset(labels) - self._store.candles(coin.uid, Run(labels[0], labels[-1])).keys()

    def _fetch(self, coin: Coin, run: Run, missing: frozenset[int], outcome: Outcome) -> Answer:
        """Return an answer; a request that the venue refuses costs its asset alone."""
        request = {
            "coin": coin.name,
            "interval": INTERVAL,
            "startTime": run.first_ms - MINUTE_MS,
            "endTime": run.last_ms - 1,
        }
        outcome.requests += 1
        try:
            body = self._venue.fetch("candleSnapshot", req=request)
            return parse_candles(body, coin.name, missing)
        except VenueError as error:
            if error.status is None or error.status == 429 or not 400 <= error.status < 500:
                raise
            return Answer(rejected=Counter((REFUSED,)))
        except ValueError as error:
            raise VenueError(f"candleSnapshot of {coin.name}: {error}") from None

    def _end(self, ask: Ask, outcome: Outcome, status: str, reason: str | None) -> None:
        """Count what is stored, compare it, and note the end."""
        for coin in sorted(ask.labels):
            labels = ask.labels[coin]
            span = Run(labels[0], labels[-1])
            stored = _of(self._store.candles(coin.uid, span), labels)
            outcome.stored += len(stored)
            outcome.divergence.add(coin.name, self._store.built(coin.uid, span), stored)
        if status == DONE and outcome.missing:
            status, reason = PARTIAL, _why_missing(outcome)
        outcome.status, outcome.reason = status, reason
        self._store.finish(outcome, self._now_ms())

    def _now_ms(self) -> int:
        return self._clock.now_ns() // 1_000_000


def _of(candles: Mapping[int, Candle], labels: Iterable[int]) -> dict[int, Candle]:
    return {label: candles[label] for label in labels if label in candles}


def _why_missing(outcome: Outcome) -> str:
    reasons = [f"{name} {count}" for name, count in sorted(outcome.rejected.items())]
    text = f"the venue has no candle for {outcome.missing} of {outcome.asked} minutes"
    return f"{text} ({', '.join(reasons)})" if reasons else text
