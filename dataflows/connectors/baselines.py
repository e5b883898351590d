"""Baselines in the database: written once an hour by asset, read to begin warm.

Rules of this file: the newest baseline of a feature stands, an older one never replaces it; a
damaged one is named and skipped, the others are given back. Design 7, decision 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bytewax.outputs import StatefulSinkPartition

from dataflows.connectors.migrate import Connection, query
from dataflows.connectors.postgres import PostgresOutlet, PostgresWriter, postgres_part
from dataflows.connectors.spool import Spooling
from dataflows.connectors.topics import OnePartitionSink
from operators.baselines import Baseline, CorruptState, load
from operators.records import BaselineState


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


_States = tuple[BaselineState, ...]


def _write(writer: PostgresWriter, items: Sequence[_States], patient: bool) -> None:
    writer.write_baselines((state for states in items for state in states), patient=patient)


class PostgresBaselineSink(OnePartitionSink[_States, None]):
    """Stores baselines; items are (key, the baselines of an asset).

    open_writer : makes its writer. spooling : where they wait while the server is away.
    """

    def __init__(
        self, open_writer: Callable[[], PostgresWriter], spooling: Spooling | None = None
    ) -> None:
        self._open_writer = open_writer
        self._spooling = spooling

    def build_part(
        self, step_id: str, for_part: str, resume_state: None
    ) -> StatefulSinkPartition[_States, None]:
        outlet = PostgresOutlet(self._open_writer, _write)
        return postgres_part(outlet, "postgres-baselines", _States, self._spooling)
