"""Writes what a program runs with into the registries: columns, detectors, policy, configuration.

Rules of this file: the packs are copied, never read back; writing them again changes nothing,
whoever wrote them first; the caller says what "now" is.  Build plan 12.2, 13.6, 19.6, 20.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from dataflows.connectors.migrate import Connection, open_session, query
from operators.lattice import iso
from operators.modes import Run
from packs.loader import Detector, Packs
from packs.schema import FeaturePack, RegisteredColumn, UniversePolicy

_KEPT = ("added_at",)  # that of the first insert


@dataclass(frozen=True)
class _Registry:
    """A registry table and its key: the name, and the version of the pack where there is one."""

    table: str
    key: tuple[str, ...]


_FEATURES = _Registry("feature_registry", ("feature_name", "pack"))
_DETECTORS = _Registry("detector_registry", ("detector_id", "version"))
_POLICIES = _Registry("universe_registry", ("universe_policy_rev",))


def write_packs(
    dsn: str,
    schema: str,
    packs: Packs,
    *,
    now_ms: int,
    run: Run | None = None,
    environment: str | None = None,
) -> int:
    """Bring all registries of a migrated schema up to the packs, return how many rows changed.

    A line is added to `config_audit` when the newest there has another configuration, run or
    environment. now_ms : as in `write_registry`. run : how events are published. environment :
    where, such as `staging`.
    """
    detectors = [_detector_row(d, packs.detector_pack, now_ms) for d in packs.detectors]
    with open_session(dsn, schema) as connection, connection.transaction():
        connection.execute(query("lock_schema"), {"schema": schema})  # others may start, too
        changed = _write_features(connection, packs.features, now_ms)
        changed += _write(connection, _DETECTORS, detectors)
        changed += _deprecate(connection, _DETECTORS, packs.detector_pack, detectors, now_ms)
        changed += _write(connection, _POLICIES, [_policy_row(packs.universe, now_ms)])
        return changed + _write_config(connection, packs, run or Run(), environment, now_ms)


def write_registry(dsn: str, schema: str, features: FeaturePack, *, now_ms: int) -> int:
    """Bring the registry of a migrated schema up to the pack, return how many rows that changed.

    A row of this pack is inserted, or updated where its words differ, and is in use again if it
    was deprecated. A row of this or an earlier pack whose column the pack has not is deprecated.
    now_ms : time of what is new, ms since the epoch.
    """
    with open_session(dsn, schema) as connection, connection.transaction():
        connection.execute(query("lock_schema"), {"schema": schema})  # others may start, too
        return _write_features(connection, features, now_ms)


# --- writing -----------------------------------------------------------------------------------


def _write_features(connection: Connection, features: FeaturePack, now_ms: int) -> int:
    rows = [_row(column, features.feature_pack, now_ms) for column in features.registry]
    changed = _write(connection, _FEATURES, rows)
    return changed + _deprecate(connection, _FEATURES, features.feature_pack, rows, now_ms)


def _write(connection: Connection, registry: _Registry, rows: list[dict[str, Any]]) -> int:
    """Insert the rows, or update those that differ."""
    if not rows:
        return 0
    statement = _upsert(registry, tuple(rows[0]))
    return connection.execute(statement, {"rows": Jsonb(rows)}).rowcount


def _deprecate(
    connection: Connection,
    registry: _Registry,
    version: str,
    rows: list[dict[str, Any]],
    now_ms: int,
) -> int:
    """Deprecate what this or an earlier pack had and this one has not."""
    name, pack = registry.key
    statement = query("deprecate_registry").format(
        table=sql.Identifier(registry.table),
        name=sql.Identifier(name),
        version=sql.Identifier(pack),
    )
    names = [row[name] for row in rows]
    return connection.execute(
        statement, {"now": iso(now_ms), "pack": version, "names": names}
    ).rowcount


def _write_config(
    connection: Connection, packs: Packs, run: Run, environment: str | None, now_ms: int
) -> int:
    """Add a line when what ran last was configured otherwise."""
    now = {
        "config_hash": packs.config_hash,
        "feature_pack": packs.feature_pack,
        "detector_pack": packs.detector_pack,
        "universe_policy_rev": packs.universe.universe_policy_rev,
        "environment": environment,
        "run_mode": run.mode,
        "emit_events": run.emit_events,
    }
    newest = connection.execute(query("newest_config")).fetchone()
    if newest == tuple(now.values()):
        return 0
    before = dict(zip(now, newest or (None,) * len(now), strict=True))
    diff = {
        name: {"old": before[name], "new": now[name]} for name in now if before[name] != now[name]
    }
    return connection.execute(
        query("record_config"), {**now, "now": iso(now_ms), "diff": Jsonb(diff)}
    ).rowcount


# --- rows --------------------------------------------------------------------------------------


def _detector_row(detector: Detector, version: str, now_ms: int) -> dict[str, Any]:
    conditions = (*detector.conditions, *detector.guards)
    tiers = {name: trigger.text for name, trigger in sorted(detector.tier_triggers.items())}
    weights = {name: getattr(detector, name) for name in ("w1", "w2", "w3", "a", "b")}
    return {
        "detector_id": detector.detector_id,
        "version": version,
        "class": detector.event_class,
        "subtype": detector.subtype,
        "mode": detector.mode,
        "enabled": detector.enabled,
        "inferred": detector.inferred,
        "needs_frame": detector.needs_frame,
        "timeframes": list(detector.tfs),
        "inputs": list(detector.inputs),
        "preconditions": [condition.text for condition in conditions],
        "required": list(detector.required),
        "trigger": detector.trigger.text,
        "tier_triggers": tiers,
        "primary_score": detector.primary.text,
        "secondary_score": detector.secondary.text if detector.secondary else None,
        "severity_weights": weights,
        "publish_threshold": detector.publish_threshold,
        "cooldown_sec": detector.cooldown_s,
        "half_life_sec": detector.half_life_s,
        "payload": list(detector.payload),
        "description": detector.description,
        "added_at": iso(now_ms),
        "deprecated_at": None,
    }


def _policy_row(policy: UniversePolicy, now_ms: int) -> dict[str, Any]:
    return {
        "universe_policy_rev": policy.universe_policy_rev,
        "policy": policy.model_dump(mode="json"),
        "added_at": iso(now_ms),
    }


def _row(column: RegisteredColumn, pack: str, now_ms: int) -> dict[str, Any]:
    return {
        "feature_name": column.name,
        "pack": pack,
        "family": column.family,
        "type": column.type,
        "units": column.unit,
        "window": column.window,
        "timeframes": list(column.tfs),
        "formula": column.formula,
        "inputs": list(column.inputs),
        "when_null": column.when_null,
        "normalised": column.normalised,
        "status": column.status,
        "pack_proposed": column.pack_proposed,
        "notes": _notes(column),
        "added_at": iso(now_ms),
        "deprecated_at": None,
    }


def _notes(column: RegisteredColumn) -> str | None:
    """Say what the other columns do not; None: nothing."""
    if column.status == "shadow":
        return "in extras_json"
    return None if column.base == column.name else f"{column.base} in expressions"


def _upsert(registry: _Registry, columns: tuple[str, ...]) -> sql.Composed:
    values = [name for name in columns if name not in registry.key + _KEPT]
    return query("upsert_registry").format(
        table=sql.Identifier(registry.table),
        key=_list(sql.Identifier(name) for name in registry.key),
        columns=_list(sql.Identifier(name) for name in columns),
        values=_list(sql.Identifier(name) for name in values),
        current=_list(sql.Identifier("t", name) for name in values),
        excluded=_list(sql.Identifier("excluded", name) for name in values),
    )


def _list(names: Iterable[sql.Identifier]) -> sql.Composed:
    return sql.SQL(", ").join(names)
