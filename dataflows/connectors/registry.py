"""Writes the columns of a feature pack into `feature_registry`.

Rules of this file: the pack is copied, never read back; writing it again changes nothing, whoever
wrote it first; the caller says what "now" is.  Build plan 12.2, 13.6, 20.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from dataflows.connectors.migrate import open_session, query
from operators.lattice import iso
from packs.schema import FeaturePack, RegisteredColumn

_KEY = ("feature_name", "pack")
_KEPT = ("added_at",)  # that of the first insert


def write_registry(dsn: str, schema: str, features: FeaturePack, *, now_ms: int) -> int:
    """Bring the registry of a migrated schema up to the pack, return how many rows that changed.

    A row of this pack is inserted, or updated where its words differ, and is in use again if it
    was deprecated. A row of this or an earlier pack whose column the pack has not is deprecated.
    now_ms : time of what is new, ms since the epoch.
    """
    rows = [_row(column, features.feature_pack, now_ms) for column in features.registry]
    names = [column.name for column in features.registry]
    now = {"now": iso(now_ms), "pack": features.feature_pack, "names": names}
    with open_session(dsn, schema) as connection, connection.transaction():
        connection.execute(query("lock_schema"), {"schema": schema})  # others may start, too
        written = connection.execute(_upsert(tuple(rows[0])), {"rows": Jsonb(rows)})
        deprecated = connection.execute(query("deprecate_feature_registry"), now)
        return written.rowcount + deprecated.rowcount


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


def _upsert(columns: tuple[str, ...]) -> sql.Composed:
    values = [name for name in columns if name not in _KEY + _KEPT]
    return query("upsert_feature_registry").format(
        columns=_list(sql.Identifier(name) for name in columns),
        values=_list(sql.Identifier(name) for name in values),
        current=_list(sql.Identifier("t", name) for name in values),
        excluded=_list(sql.Identifier("excluded", name) for name in values),
    )


def _list(names: Iterable[sql.Identifier]) -> sql.Composed:
    return sql.SQL(", ").join(names)
