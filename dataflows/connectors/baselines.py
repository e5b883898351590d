"""Baselines in the database: written once an hour by asset, read to begin warm.

Rules of this file: the newest baseline of a feature stands, an older one never replaces it; a
damaged one is named and skipped, the others are given back; what is too old, or has seen the bar
that it would judge, is refused and counted; a database that does not answer means a cold start and
no failure. Design 7, decision 8, docs/recovery.md.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import prometheus_client
import psycopg

from dataflows.connectors.embedded_postgres import PostgresError
from dataflows.connectors.migrate import Connection, MigrationError, query
from dataflows.connectors.postgres import PostgresSink, PostgresWriter
from operators.baselines import Baseline, CorruptState, load
from operators.lattice import HOUR_MS, iso
from operators.records import BaselineState

AGE_H_MAX = 168  # a baseline of the hour takes 200 hours to learn again
TAKEN, TOO_OLD, AHEAD, UNUSABLE = "taken", "too_old", "ahead", "unusable"
WARM = prometheus_client.Counter(
    "alpha_warm_baselines", "Stored baselines when assets began without a state", ["outcome"]
)


@dataclass(frozen=True)
class Skipped:
    """A stored baseline that cannot be used, and why."""

    asset_uid: int
    tf: str
    column: str
    reason: str


@dataclass(frozen=True)
class StoredBaselines:
    """What the database has of baselines. by_asset : asset -> timeframe -> column -> baseline."""

    by_asset: dict[int, dict[str, dict[str, Baseline]]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)


def read_baselines(connection: Connection, feature_pack: str) -> StoredBaselines:
    """Return the stored baselines of a feature pack.

    Skipped and named: one whose digest or version is not right, one that is not what its line says,
    one that another pack computed.
    """
    found = StoredBaselines()
    for uid, tf, column, *line in connection.execute(query("stored_baselines")):
        try:
            baseline = _checked(feature_pack, *line)
        except CorruptState as error:
            found.skipped.append(Skipped(uid, tf, column, str(error)))
        else:
            found.by_asset.setdefault(uid, {}).setdefault(tf, {})[column] = baseline
    return found


def _checked(wanted: str, feature_pack: str, updated_at: Any, n: int, content: bytes) -> Baseline:
    if feature_pack != wanted:
        raise CorruptState(f"expected feature pack {wanted}, found {feature_pack}")
    baseline = load(content)
    updated_ms = round(updated_at.timestamp() * 1000)
    said, held = (n, updated_ms), (baseline.n, baseline.last_ts_ms)
    if said != held:
        raise CorruptState(f"its line says {said} samples and time, its content {held}")
    return baseline


# --- to begin with -----------------------------------------------------------------------------


class StoredWarm:
    """The stored baselines, as normalisation asks for them (`operators.normalize.Warm`).

    read : reads them; it is called once, when the first asset has no state, so a run that goes on
    from its recovery store asks for nothing. say : is told, in one line, what came of it.
    """

    def __init__(
        self,
        read: Callable[[], StoredBaselines],
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ) -> None:
        self._read = read
        self._say = say
        self._lock = Lock()  # workers ask at the same time
        self._stored: StoredBaselines | None = None

    def take(self, asset_uid: int, label_ms: int) -> Mapping[str, Mapping[str, Baseline]]:
        """Return what an asset may begin with at the bar of a label, by timeframe and column."""
        with self._lock:
            if self._stored is None:
                self._stored = self._load(label_ms)
        taken: dict[str, dict[str, Baseline]] = {}
        for tf, columns in self._stored.by_asset.get(asset_uid, {}).items():
            for column, baseline in columns.items():
                outcome = _outcome(baseline, label_ms)
                WARM.labels(outcome).inc()
                if outcome == TAKEN:
                    taken.setdefault(tf, {})[column] = baseline
        return taken

    def _load(self, label_ms: int) -> StoredBaselines:
        try:
            stored = self._read()
        except (psycopg.Error, PostgresError, MigrationError, OSError) as error:
            why = str(error).partition("\n")[0]
            self._say(f"cold start: the stored baselines cannot be read: {why}")
            return StoredBaselines()
        if stored.by_asset or stored.skipped:
            self._say(_summary(stored, label_ms))
        WARM.labels(UNUSABLE).inc(len(stored.skipped))
        return stored


def _outcome(baseline: Baseline, label_ms: int) -> str:
    """Return what becomes of a baseline; bars that it has seen would count twice."""
    assert baseline.last_ts_ms is not None, "the line has a time, so has its content"
    if baseline.last_ts_ms >= label_ms:
        return AHEAD
    return TAKEN if label_ms - baseline.last_ts_ms <= AGE_H_MAX * HOUR_MS else TOO_OLD


def _summary(stored: StoredBaselines, label_ms: int) -> str:
    """Say how many assets begin warm if they begin now, and what is refused."""
    counts, warmed = Counter({UNUSABLE: len(stored.skipped)}), 0
    for by_tf in stored.by_asset.values():
        found = Counter(
            _outcome(b, label_ms) for columns in by_tf.values() for b in columns.values()
        )
        counts += found
        warmed += TAKEN in found
    text = f"warm start at {iso(label_ms)}: baselines of {warmed} assets"
    reasons = {
        TOO_OLD: f"older than {AGE_H_MAX} h",
        AHEAD: "of later bars",
        UNUSABLE: "unusable",
    }
    refused = [f"{counts[name]} {reason}" for name, reason in reasons.items() if counts[name]]
    if refused:
        text += f"; refused: {', '.join(refused)}"
    if stored.skipped:
        first = stored.skipped[0]
        text += (
            f", the first of asset {first.asset_uid}, {first.tf}, {first.column}: {first.reason}"
        )
    return text


# --- the sink ----------------------------------------------------------------------------------

_States = tuple[BaselineState, ...]


class PostgresBaselineSink(PostgresSink[_States]):
    """Stores baselines; items are (key, the baselines of an asset)."""

    name = "postgres-baselines"
    kind = _States

    @staticmethod
    def write(writer: PostgresWriter, items: Sequence[_States], patient: bool) -> None:
        """Write the baselines of some assets."""
        writer.write_baselines((state for states in items for state in states), patient=patient)
