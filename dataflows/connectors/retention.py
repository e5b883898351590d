"""Drops the rows and events that are older than they are kept, a table and month at a time.

Rules of this file: a month goes when all of it is older than the days its table is kept; it is
detached without locking out readers and then dropped, never deleted row by row; a stop at any point
is taken up by the next run; the caller says what "now" is. Frames and audits are small and stay.
Build plan 12.4, 16.4.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import psycopg
from psycopg import sql

from dataflows.connectors.migrate import (
    PARTITIONED,
    Connection,
    MigrationError,
    create_partitions,
    month_after,
    open_session,
    partitions_ahead,
    query,
)

KEEP_DAYS = {
    "features_snapshot_1m": 90,
    "features_snapshot_15m": 365,
    "features_snapshot_1h": 3 * 365,
    "anomaly_event": 400,  # more than a year, so that a month can be held against the year before
    "shadow_event": 400,
    "suppression": 90,
    "dead_letter": 400,
}
WAIT_MS = 5_000
_MONTH = re.compile(r"_(\d{4})(0[1-9]|1[0-2])$")


@dataclass(frozen=True)
class Month:
    """A month of one table. attached : part of its parent; pending : a detach was cut short."""

    name: str
    parent: str
    month: date
    attached: bool
    pending: bool
    size_bytes: int


def is_expired(parent: str, month: date, now_ms: int) -> bool:
    """Tell whether all of a month is older than its table is kept.

    >>> september_ends_ms = 1759276800000
    >>> is_expired("suppression", date(2025, 9, 1), september_ends_ms + 90 * 86_400_000)
    True
    >>> is_expired("suppression", date(2025, 9, 1), september_ends_ms + 90 * 86_400_000 - 1000)
    False
    """
    end = datetime.combine(month_after(month), datetime.min.time(), UTC)
    now = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=now_ms)
    return end + timedelta(days=KEEP_DAYS[parent]) <= now


def months_of(connection: Connection) -> list[Month]:
    """Return the months there are, of every table, the oldest first."""
    found = []
    for parent in PARTITIONED:
        asked = {"parent": parent, "pattern": f"^{parent}_[0-9]{{6}}$"}
        for name, pending, attached, size in connection.execute(query("month_tables"), asked):
            match = _MONTH.search(name)
            if match is not None:
                month = date(int(match.group(1)), int(match.group(2)), 1)
                found.append(Month(name, parent, month, attached, pending, size))
    return sorted(found, key=lambda month: (month.month, month.name))


def drop_expired(
    dsn: str, schema: str, *, now_ms: int, dry_run: bool = False, wait_ms: int = WAIT_MS
) -> list[Month]:
    """Detach and drop what is older than it is kept, return it; dry_run : only return it.

    Nothing is dropped while another process changes the schema. wait_ms : for those who read a
    month; after it psycopg.errors.QueryCanceled, and the next run goes on.
    """
    with open_session(dsn, schema) as connection:
        if not dry_run:
            locked = connection.execute(query("try_lock_schema"), {"schema": schema}).fetchone()
            if locked != (True,):
                return []
            connection.execute(query("limit_wait"), {"ms": wait_ms})
        expired = [m for m in months_of(connection) if is_expired(m.parent, m.month, now_ms)]
        if not dry_run:
            for month in expired:
                _drop(connection, month)
    return expired


def _drop(connection: Connection, month: Month) -> None:
    names = {
        "parent": sql.Identifier(month.parent),
        "partition": sql.Identifier(month.name),
    }
    if month.pending:
        connection.execute(query("finish_detach").format(**names))
    elif month.attached:
        connection.execute(query("detach_partition").format(**names))
    connection.execute(query("drop_month").format(**names))


def keep_house(dsn: str, schema: str, *, now_ms: int, say: Callable[[str], None]) -> None:
    """Make the months ahead and drop the expired ones; what cannot be done is said, and no more.

    A job does this once a day. Where its user may not, `alpha db partitions` and
    `alpha db retention` do it.
    """
    try:
        with open_session(dsn, schema) as connection:
            create_partitions(connection, schema, partitions_ahead(now_ms))
        for month in drop_expired(dsn, schema, now_ms=now_ms):
            say(f"PostgreSQL: dropped {month.name}, older than {KEEP_DAYS[month.parent]} days")
    except (psycopg.Error, MigrationError) as error:
        why = str(error).partition("\n")[0]
        say(f"PostgreSQL: partitions were not kept in order: {why}")
