"""Bring a schema to the state of the numbered files in `sql/`, and make its month partitions.

Rules of this file: files are applied once, in order, each in a transaction, and only forward; an
applied file may not be edited; whatever changes the tables of a schema holds one advisory lock, so
that processes may start together. A database that is ahead of the code is left as it is: files only
add. No clock here: the caller says what "now" is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dataflows.connectors.dsn import connection_settings

Connection = psycopg.Connection[tuple[Any, ...]]

TIMEFRAMES = ("1m", "15m", "1h")
MONTHS_AHEAD = 2
_NETWORK = {  # a server that does not answer is a lost server; the caller's own settings win
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
# Tables that have a month partition for every month; rows have a table a timeframe.
PARTITIONED = (
    *(f"features_snapshot_{tf}" for tf in TIMEFRAMES),
    *("anomaly_event", "shadow_event", "suppression", "dead_letter"),
)
_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class MigrationError(Exception):
    """The schema cannot be brought up to date; the message is one line and says what to do."""


@dataclass(frozen=True)
class Migration:
    """A numbered file."""

    number: int
    name: str
    text: bytes

    @property
    def sha256(self) -> str:
        """Digest that tells an edited file."""
        return hashlib.sha256(self.text).hexdigest()


# --- connections and query texts ---------------------------------------------------------------


@cache
def query(name: str) -> sql.SQL:
    """Return the text of `sql/queries/<name>.sql`."""
    return sql.SQL(files("sql.queries").joinpath(f"{name}.sql").read_text())


def open_session(dsn: str, schema: str) -> Connection:
    """Connect in autocommit mode, with unqualified names meaning those of the schema.

    Raises `DsnError` before anything is tried, and `psycopg.Error`.
    """
    connection = psycopg.connect(
        make_conninfo("", **{**_NETWORK, **connection_settings(dsn)}), autocommit=True
    )
    try:
        connection.execute(query("session").format(schema=sql.Identifier(schema)))
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _locked(connection: Connection, schema: str) -> Iterator[None]:
    """A transaction that nobody else's change of the schema overlaps."""
    with connection.transaction():
        connection.execute(query("lock_schema"), {"schema": schema})
        yield


# --- numbered files ----------------------------------------------------------------------------


def read_migrations(directory: Traversable | None = None) -> list[Migration]:
    """Return the numbered files in order; refuse a number that is missing or used twice."""
    folder = files("sql") if directory is None else directory
    found = [
        Migration(int(match.group(1)), match.group(2), entry.read_bytes())
        for entry in folder.iterdir()
        if (match := _FILE.fullmatch(entry.name))
    ]
    found.sort(key=lambda migration: (migration.number, migration.name))
    for expected, migration in enumerate(found, start=1):
        if migration.number != expected:
            raise MigrationError(
                f"sql/{migration.number:04d}_{migration.name}.sql: expected number {expected:04d};"
                " number the files without gaps"
            )
    return found


def migrate(
    dsn: str,
    schema: str = "public",
    *,
    now_ms: int | None = None,
    directory: Traversable | None = None,
) -> list[str]:
    """Apply what is missing, return the names of the files applied.

    now_ms : also make the partitions of its month and the next two; None makes none (a replay
    makes those it needs when it writes).
    """
    migrations = read_migrations(directory)
    with open_session(dsn, schema) as connection:
        with _locked(connection, schema):
            _open_books(connection, schema)
        applied = [m.name for m in migrations if _apply(connection, schema, m)]
        if now_ms is not None:
            create_partitions(connection, schema, partitions_ahead(now_ms))
    return applied


def _open_books(connection: Connection, schema: str) -> None:
    if not _holds(connection, "schema_exists", {"schema": schema}):
        connection.execute(query("create_schema").format(schema=sql.Identifier(schema)))
    if not _holds(connection, "relation_exists", {"name": "schema_migration"}):
        connection.execute(query("create_schema_migration"))


def _apply(connection: Connection, schema: str, migration: Migration) -> bool:
    """Apply a file unless it has been; another process may have done so a moment ago."""
    file = f"sql/{migration.number:04d}_{migration.name}.sql"
    with _locked(connection, schema):
        recorded = {row[0]: row[1:] for row in connection.execute(query("applied_migrations"))}
        if migration.number in recorded:
            _assert_unchanged(file, migration, recorded[migration.number])
            return False
        try:
            connection.execute(migration.text)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            why = str(error).partition("\n")[0]
            raise MigrationError(f"{file} failed in schema {schema}: {why}") from error
        connection.execute(
            query("record_migration"),
            {"number": migration.number, "name": migration.name, "sha256": migration.sha256},
        )
    return True


def _assert_unchanged(file: str, migration: Migration, recorded: tuple[str, str]) -> None:
    name, sha256 = recorded
    if (migration.name, migration.sha256) != (name, sha256):
        raise MigrationError(
            f"{file}: the database has applied {migration.number:04d}_{name}.sql with sha256"
            f" {sha256[:12]}, the file has {migration.sha256[:12]}; restore the file and put the"
            " change into a new one"
        )


def _holds(connection: Connection, question: str, parameters: dict[str, str]) -> bool:
    row = connection.execute(query(question), parameters).fetchone()
    return row is not None and bool(row[0])


# --- month partitions --------------------------------------------------------------------------


def month_of(time_ms: int) -> date:
    """Return the first day of the month of an instant.

    >>> month_of(1756891800000)
    datetime.date(2025, 9, 1)
    """
    return datetime.fromtimestamp(time_ms // 1000, UTC).date().replace(day=1)


def month_after(month: date) -> date:
    """Return the first day of the next month.

    >>> month_after(date(2025, 12, 1))
    datetime.date(2026, 1, 1)
    """
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def partitions_ahead(now_ms: int, months_ahead: int = MONTHS_AHEAD) -> list[tuple[str, date]]:
    """Return table and month of the partitions that must exist at an instant."""
    months = [month_of(now_ms)]
    for _ in range(months_ahead):
        months.append(month_after(months[-1]))
    return [(parent, month) for parent in PARTITIONED for month in months]


def create_partitions(
    connection: Connection, schema: str, wanted: Iterable[tuple[str, date]]
) -> list[str]:
    """Make those of the partitions, given by table and month, that do not exist.

    Return their names.
    """
    created = []
    with _locked(connection, schema):
        for parent, month in sorted(wanted):
            name = f"{parent}_{month:%Y%m}"
            if not _holds(connection, "relation_exists", {"name": name}):
                _create_partition(connection, parent, name, month)
                created.append(name)
    return created


def _create_partition(connection: Connection, parent: str, name: str, month: date) -> None:
    try:
        connection.execute(query("become_owner"), {"name": parent})
        connection.execute(
            query("create_month_partition").format(
                partition=sql.Identifier(name),
                parent=sql.Identifier(parent),
                lower=sql.Literal(f"{month} 00:00+00"),
                upper=sql.Literal(f"{month_after(month)} 00:00+00"),
            )
        )
    except psycopg.errors.InsufficientPrivilege as error:
        why = str(error).partition("\n")[0]
        raise MigrationError(
            f"partition {name}: {why}; make it with `alpha db partitions` as a member of alpha_ops"
        ) from error
