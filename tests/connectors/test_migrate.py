"""Migrations: once, in order, by any number of starters; month partitions on demand."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from dataflows.connectors.migrate import (
    PARTITIONED,
    MigrationError,
    create_partitions,
    migrate,
    open_session,
    partitions_ahead,
    read_migrations,
)

if TYPE_CHECKING:
    from conftest import Place

T_MS = 1_765_000_000_000  # 2025-12-06, so that the months ahead cross a year


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the numbered files that a test may spoil."""
    for entry in files("sql").iterdir():
        if entry.name.endswith(".sql"):
            (tmp_path / entry.name).write_bytes(entry.read_bytes())
    return tmp_path


def following(folder: Path, name: str) -> Path:
    """Path of a migration that comes after those of a folder."""
    return folder / f"{len(read_migrations(folder)) + 1:04d}_{name}.sql"


def tables(place: Place) -> set[str]:
    """Names of the tables and partitions of a schema."""
    with psycopg.connect(place.dsn) as connection:
        found = connection.execute(
            "select tablename from pg_tables where schemaname = %s", (place.schema,)
        )
        return {row[0] for row in found}


def test_a_missing_number_is_refused(folder: Path) -> None:
    """A gap in the numbers means that a file was lost on the way."""
    (folder / "0003_market_snapshot.sql").unlink()
    with pytest.raises(MigrationError, match=r"0004_anomaly_event.sql: expected number 0003"):
        read_migrations(folder)


def test_a_number_used_twice_is_refused(folder: Path) -> None:
    """Two files of one number have no order."""
    shutil.copy(folder / "0003_market_snapshot.sql", folder / "0003_other.sql")
    with pytest.raises(MigrationError, match=r"0003_other.sql: expected number 0004"):
        read_migrations(folder)


def test_months_ahead_cross_the_year() -> None:
    """The month of now and the next two, for every table."""
    for table in PARTITIONED:
        months = [month for parent, month in partitions_ahead(T_MS) if parent == table]
        assert months == [date(2025, 12, 1), date(2026, 1, 1), date(2026, 2, 1)]
    assert len(partitions_ahead(T_MS)) == 3 * len(PARTITIONED)


@pytest.mark.service
def test_files_are_applied_once(empty_place: Place) -> None:
    """The first start applies all files in order, the second none; partitions are made once."""
    expected = [migration.name for migration in read_migrations()]
    assert migrate(empty_place.dsn, empty_place.schema, now_ms=T_MS) == expected
    assert migrate(empty_place.dsn, empty_place.schema, now_ms=T_MS) == []
    made = tables(empty_place)
    assert {"features_snapshot_1m_202512", "features_snapshot_1h_202602"} <= made
    assert {"market_snapshot", "anomaly_event", "suppression", "gap"} <= made
    assert "features_snapshot_1m_202603" not in made


@pytest.mark.service
def test_two_starters_at_once_are_safe(empty_place: Place) -> None:
    """Every file is applied by exactly one of them, into a schema that neither found."""
    dsn, schema = empty_place.dsn, empty_place.schema
    with ThreadPoolExecutor(4) as pool:
        starts = [pool.submit(migrate, dsn, schema, now_ms=T_MS) for _ in range(4)]
        applied = [name for start in starts for name in start.result()]
    assert sorted(applied) == sorted(migration.name for migration in read_migrations())
    assert "features_snapshot_1m_202512" in tables(empty_place)


@pytest.mark.service
def test_an_edited_file_is_refused(empty_place: Place, folder: Path) -> None:
    """Editing an applied file would leave databases that differ under one number."""
    migrate(empty_place.dsn, empty_place.schema, directory=folder)
    file = folder / "0002_features_snapshot.sql"
    file.write_text(file.read_text() + "\n-- one more thought\n")
    with pytest.raises(MigrationError, match=r"0002_\w+\.sql: the database has applied") as caught:
        migrate(empty_place.dsn, empty_place.schema, directory=folder)
    assert "\n" not in str(caught.value)


@pytest.mark.service
def test_a_failing_file_leaves_nothing(empty_place: Place, folder: Path) -> None:
    """A file is one transaction; the files before it stay, and the next start goes on there."""
    bad = following(folder, "bad")
    bad.write_text("create table half (i int);\nselect no_such_function();\n")
    with pytest.raises(MigrationError, match=r"_bad\.sql failed in schema") as caught:
        migrate(empty_place.dsn, empty_place.schema, directory=folder)
    assert "\n" not in str(caught.value)
    assert "half" not in tables(empty_place)
    bad.write_text("create table whole (i int);\n")
    assert migrate(empty_place.dsn, empty_place.schema, directory=folder) == ["bad"]


@pytest.mark.service
def test_a_database_ahead_of_the_code_is_left_alone(empty_place: Place, folder: Path) -> None:
    """Files only add, so an older program works on a newer database."""
    following(folder, "more").write_text("create table more (i int);\n")
    migrate(empty_place.dsn, empty_place.schema, directory=folder)
    assert migrate(empty_place.dsn, empty_place.schema) == []


@pytest.mark.service
def test_partition_is_made_while_readers_read(place: Place) -> None:
    """An open read transaction on the table does not hold up a new month, and is not disturbed."""
    reader, writer = (open_session(place.dsn, place.schema) for _ in range(2))
    with reader, writer:
        reader.execute("begin; select count(*) from features_snapshot")
        writer.execute("set lock_timeout = '2s'")
        wanted = [("features_snapshot_1m", date(2025, 9, 1))] * 2
        assert create_partitions(writer, place.schema, wanted) == ["features_snapshot_1m_202509"]
        assert create_partitions(writer, place.schema, wanted) == []


@pytest.mark.service
def test_partitions_inherit_key_and_indexes(place: Place) -> None:
    """A partition has the parent's primary key and its index over time."""
    with open_session(place.dsn, place.schema) as connection:
        create_partitions(connection, place.schema, [("features_snapshot_15m", date(2025, 9, 1))])
        found = connection.execute(
            "select i.indisprimary, am.amname, c.relispartition from pg_index i"
            " join pg_class c on c.oid = i.indexrelid join pg_am am on am.oid = c.relam"
            " where i.indrelid = 'features_snapshot_15m_202509'::regclass"
        ).fetchall()
    assert sorted(found) == [(False, "brin", True), (True, "btree", True)]


@pytest.mark.service
def test_pack_columns_are_the_tables_columns(place: Place, pack_columns: dict[str, str]) -> None:
    """Every column of the pack is in the table with its type, and nothing else is."""
    identity = {
        "asset_uid": "bigint",
        "symbol": "text",
        "tf": "text",
        "exchange_ts": "timestamptz",
        "revision": "integer",
        "extras_json": "jsonb",
    }
    assert server_columns(place, "features_snapshot") == {**pack_columns, **identity}


@pytest.mark.service
def test_every_column_has_a_comment_with_its_unit(place: Place) -> None:
    """Asked of the server: the comment of each column ends with [unit, where it comes from]."""
    with open_session(place.dsn, place.schema) as connection:
        found = connection.execute(
            "select c.relname, a.attname, col_description(c.oid, a.attnum) from pg_attribute a"
            " join pg_class c on c.oid = a.attrelid"
            " where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p')"
            " and a.attnum > 0 and not c.relispartition and c.relname <> 'schema_migration'"
        ).fetchall()
    bare = [row[:2] for row in found if not re.search(r"\w.*\[.+, .+\]$", row[2] or "")]
    assert found
    assert bare == []


def server_columns(place: Place, table: str) -> dict[str, str]:
    """Columns of a table with the SQL type below their domain, in the pack's words."""
    words = {"timestamp with time zone": "timestamptz"}
    with open_session(place.dsn, place.schema) as connection:
        found = connection.execute(
            "select a.attname, format_type(coalesce(nullif(t.typbasetype, 0), a.atttypid), null)"
            " from pg_attribute a join pg_type t on t.oid = a.atttypid"
            " where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped",
            (table,),
        )
        return {name: words.get(kind, kind) for name, kind in found}
