"""The gap ledger: what each hole of the recording has cost, by the venue's candles.

Rules of this file: rows and events stay as they are; a gap counts once it is over and the candles
of its minutes are believed; everything is worked out anew from rows and candles, so running it
again, or after more candles came, only makes it better. Build plan 3.6, 13.5, 16.2, 16.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from dataflows.backfill import (
    REPAIR,
    Ask,
    Coin,
    Gap,
    Run,
    closed_before,
    kept_after,
    missed,
    own_minutes,
)
from dataflows.connectors.candles import Backfill, BackfillError, CandleStore, Outcome, bounds
from dataflows.connectors.migrate import query
from operators.lattice import MINUTE_MS, iso

OPEN, UNRECONCILED, PARTIAL, RECONCILED = "open", "not reconciled", "partial", "reconciled"


@dataclass
class Reconciliation:
    """What a run of the ledger did. waiting : gaps that last, or whose candles are not believed
    yet. outcome : of the repair job, None where every candle was stored already. failure : why the
    job stopped; what it brought is in the ledger."""

    gaps: int = 0
    waiting: int = 0
    entries: int = 0
    outcome: Outcome | None = None
    failure: BackfillError | None = None


@dataclass
class LedgerLine:
    """A gap and its entries by asset."""

    gap: Gap
    entries: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> str:
        """How much is known of what it has cost."""
        if self.gap.ended_ms is None:
            return OPEN
        if not self.gap.labels():
            return RECONCILED
        if not self.entries:
            return UNRECONCILED
        unknown = any(entry["minutes_without_candle"] for entry in self.entries)
        return PARTIAL if unknown else RECONCILED

    def total(self, column: str) -> Any:
        """Return the sum of a column over its assets."""
        return sum(entry[column] for entry in self.entries)


class GapLedger:
    """Reads gaps, rows and candles of a schema, and writes `gap_reconciliation`."""

    def __init__(self, store: CandleStore) -> None:
        self._store = store

    def gaps(self, since_ms: int) -> list[Gap]:
        """Return the gaps that ended after an instant, or last."""
        found = self._store.connection.execute(query("stored_gaps"), {"since": iso(since_ms)})
        return [Gap(*row) for row in found.fetchall()]

    def lines(self, since_ms: int) -> list[LedgerLine]:
        """Return the ledger since an instant, by feed and time."""
        lines = {(g.feed, g.started_ms, g.cause): LedgerLine(g) for g in self.gaps(since_ms)}
        cursor = self._store.connection.cursor(row_factory=dict_row)
        for entry in cursor.execute(query("stored_reconciliations"), {"since": iso(since_ms)}):
            key = (entry.pop("feed"), entry.pop("started_ms"), entry.pop("cause"))
            if key in lines:
                lines[key].entries.append(entry)
        return list(lines.values())

    def reconcile(self, backfill: Backfill, *, since_ms: int, now_ms: int) -> Reconciliation:
        """Fetch the candles that are missing beside gaps that ended after an instant, and enter
        what the rows lack. Candles that the venue keeps no longer are not asked for."""
        gaps = self.gaps(since_ms // MINUTE_MS * MINUTE_MS)
        newest_ms = closed_before(now_ms)
        settled = {
            gap: labels
            for gap, labels in own_minutes(gaps).items()
            if gap.ended_ms is not None and max(gap.labels(), default=0) <= newest_ms
        }
        done = Reconciliation(len(settled), len(gaps) - len(settled))
        affected = self._affected(settled)
        ask = Ask(REPAIR, self._wanted(affected, settled, after_ms=kept_after(now_ms)))
        if ask.labels:
            try:
                done.outcome = backfill.run(ask)
            except BackfillError as error:
                done.failure = error
        for coin, touched in affected.items():
            done.entries += self._enter(coin, {gap: settled[gap] for gap in touched}, now_ms)
        return done

    def _affected(self, gaps: Iterable[Gap]) -> dict[Coin, list[Gap]]:
        """Return the assets that had a row in a gap, or in the minutes before and after it."""
        affected: dict[Coin, list[Gap]] = {}
        for gap in gaps:
            if labels := gap.labels():
                around = bounds(Run(labels[0] - MINUTE_MS, labels[-1] + MINUTE_MS))
                found = self._store.connection.execute(query("stored_assets"), around)
                for row in found.fetchall():
                    affected.setdefault(Coin(*row), []).append(gap)
        return affected

    def _wanted(
        self,
        affected: Mapping[Coin, Iterable[Gap]],
        settled: Mapping[Gap, tuple[int, ...]],
        *,
        after_ms: int,
    ) -> dict[Coin, list[int]]:
        """Return the minutes without a candle that the venue still keeps, of assets that have
        some."""
        wanted = {}
        for coin, touched in affected.items():
            labels = sorted(x for gap in touched for x in settled[gap] if x > after_ms)
            if labels:
                stored = self._store.candles(coin.uid, Run(labels[0], labels[-1]))
                if missing := [label for label in labels if label not in stored]:
                    wanted[coin] = missing
        return wanted

    def _enter(self, coin: Coin, own: Mapping[Gap, tuple[int, ...]], now_ms: int) -> int:
        """Write what an asset lacks over each gap; return how many entries that are."""
        labels = [label for minutes in own.values() for label in minutes]
        span = Run(min(labels, default=0), max(labels, default=0))
        built = self._store.built(coin.uid, span)
        candles = self._store.candles(coin.uid, span)
        rows = [
            {
                "feed": gap.feed,
                "started_at": iso(gap.started_ms),
                "cause": gap.cause,
                "asset_uid": coin.uid,
                "symbol": coin.name,
                "reconciled_at": iso(now_ms),
                **missed(minutes, built, candles).columns(),
            }
            for gap, minutes in own.items()
        ]
        self._store.connection.execute(query("upsert_reconciliation"), {"rows": Jsonb(rows)})
        return len(rows)
