"""Events, suppressions and dead letters by month: moved without loss, kept once, read in part."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dataflows.connectors.migrate import migrate, open_session, read_migrations
from dataflows.connectors.postgres import PostgresWriter
from dataflows.connectors.retention import drop_expired, months_of
from dataflows.connectors.roles import grant_roles
from operators.contract import DeadLetter
from operators.events import event_id
from operators.lattice import iso
from operators.records import Phase, Published, Suppression

if TYPE_CHECKING:
    from conftest import Place

pytestmark = pytest.mark.service

TABLES = ("anomaly_event", "shadow_event", "suppression", "dead_letter")
FILE = "event_months"  # the one that makes them so


def ms(year: int, month: int, day: int) -> int:
    """An instant at the start of a day."""
    return int(datetime(year, month, day, tzinfo=UTC).timestamp()) * 1000


# A bar of the last minute of August is published in August or in September.
LABELS = (ms(2024, 3, 31), ms(2025, 9, 1) - 60_000, ms(2025, 9, 1) - 1000, ms(2025, 9, 30))
MONTHS = {
    *("anomaly_event_202403", "anomaly_event_202508", "anomaly_event_202509"),
    *("shadow_event_202403", "shadow_event_202508", "shadow_event_202509"),
    *("suppression_202403", "suppression_202508", "suppression_202509"),
    *("dead_letter_202403", "dead_letter_202508", "dead_letter_202509"),
}


def event(label_ms: int, severity: int = 74) -> dict[str, Any]:
    """An event that is published a second and a half after its bar."""
    emitted_ms = label_ms + 1500
    return {
        "v": "0.1",
        "event_id": event_id(
            emitted_ms,
            asset_uid=5,
            event_class="spike",
            subtype="vol_spike_m_1",
            tf="1m",
            exchange_ts_ms=label_ms,
            revision=0,
            config_hash="sha256:00",
        ),
        "emitted_at": iso(emitted_ms),
        "exchange_ts": iso(label_ms),
        "symbol": "SOL",
        "asset_uid": 5,
        "tf": "1m",
        "class": "spike",
        "subtype": "vol_spike_m_1",
        "severity": severity,
        "membership": {"is_in_universe": True, "is_hot": False, "universe_rev": 3127},
        "provenance": {"feature_pack": "v1.0", "detector_pack": "v0.2", "config_hash": "sha256:00"},
    }


def published(label_ms: int) -> Published:
    """A sealed phase with an event, a suppression and a dead letter."""
    held = Suppression(6, "APT", "1m", label_ms, 0, "spike.vol_spike_m_1", "cooldown", 61)
    dead = DeadLetter(None, 7, iso(label_ms), "severity: expected 0 to 100", 2, "{}")
    events = (event(label_ms),)
    return Published(Phase(label_ms, False, 3, label_ms + 1500), events, (held,), (dead,), events)


def ask(place: Place, text: str) -> list[tuple[Any, ...]]:
    """Rows of a query."""
    with open_session(place.dsn, place.schema) as connection:
        return connection.execute(text.encode()).fetchall()


def stored(place: Place) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the tables."""
    return {table: ask(place, f"select * from {table} order by 1, 2, 3") for table in TABLES}


def months(place: Place) -> set[str]:
    """Names of the months there are."""
    with open_session(place.dsn, place.schema) as connection:
        return {month.name for month in months_of(connection)}


@pytest.fixture
def writer(place: Place, pack_columns: dict[str, str]) -> Iterator[PostgresWriter]:
    """A writer on the test's schema that gives up at once."""
    writer = PostgresWriter(place.dsn, pack_columns, schema=place.schema, backoff_s=())
    yield writer
    writer.close()


@pytest.fixture
def filled(writer: PostgresWriter, place: Place) -> Place:
    """A schema with lines of several months in each table."""
    writer.write_published([published(label) for label in LABELS])
    return place


@pytest.fixture
def whole(filled: Place, tmp_path: Path) -> Place:
    """The same lines in a schema as it was before the tables had months."""
    number = next(m.number for m in read_migrations() if m.name == FILE)
    for migration in read_migrations()[: number - 1]:
        (tmp_path / f"{migration.number:04d}_{migration.name}.sql").write_bytes(migration.text)
    old = replace(filled, schema=f"{filled.schema}_whole")
    migrate(old.dsn, old.schema, directory=tmp_path)
    with open_session(old.dsn, old.schema) as connection:
        for table in TABLES:
            copy = f"insert into {table} select * from {filled.schema}.{table}"
            connection.execute(copy.encode())
    return old


def about(place: Place) -> dict[str, set[tuple[Any, ...]]]:
    """Columns with comments, comments of tables, indexes, checks and rights of a schema."""
    named = f"in ({', '.join(map(repr, TABLES))})"
    here = "c.relnamespace = current_schema()::regnamespace"
    found = {
        "columns": "select c.relname, attname, atttypid::regtype::text, attnotnull,"
        " col_description(c.oid, attnum) from pg_attribute join pg_class c on c.oid = attrelid"
        f" where {here} and relname {named} and attnum > 0",
        "tables": "select relname, obj_description(oid, 'pg_class') from pg_class c"
        f" where {here} and relname {named}",
        "indexes": "select c.relname, i.relname, regexp_replace(pg_get_indexdef(i.oid),"
        " ' ON (ONLY )?\\S+', '') from pg_index x join pg_class c on c.oid = x.indrelid"
        " join pg_class i on i.oid = x.indexrelid"
        f" where {here} and c.relname {named} and not indisprimary",
        "checks": "select c.relname, conname, pg_get_constraintdef(k.oid) from pg_constraint k"
        f" join pg_class c on c.oid = conrelid where {here} and relname {named}"
        " and contype = 'c' and conname <> 'event_id_time'",
        "rights": "select c.relname, pg_get_userbyid(relowner), grantee::regrole::text,"
        f" privilege_type, is_grantable from pg_class c, aclexplode(relacl)"
        f" where {here} and relname {named}",
    }
    return {name: set(ask(place, text)) for name, text in found.items()}


def test_a_table_that_has_lines_keeps_them(filled: Place, whole: Place) -> None:
    """Each line is in the partition of its month; comments, indexes, owner and rights are the same,
    with those that somebody gave by hand."""
    grant_roles(filled.dsn, filled.schema)  # the roles; those of today know tables of later files
    with open_session(whole.dsn, whole.schema) as connection:
        for table in TABLES:
            connection.execute(f"alter table {table} owner to alpha_ops".encode())
            connection.execute(f"grant select, insert on {table} to alpha_detector".encode())
        connection.execute("grant update on suppression to alpha_detector with grant option")
        connection.execute("grant select on suppression to public")
        connection.execute("create index mine on anomaly_event (symbol)")
    before, said = stored(whole), about(whole)
    assert all(len(lines) == len(LABELS) for lines in before.values())
    assert months(whole) == set()
    assert FILE in migrate(whole.dsn, whole.schema)
    assert stored(whole) == before == stored(filled)
    assert about(whole) == said
    assert months(whole) == MONTHS
    found = ask(whole, "select tableoid::regclass::text, emitted_at from anomaly_event")
    assert {name.rpartition(".")[2] for name, _ in found} == {
        month for month in MONTHS if month.startswith("anomaly_event")
    }
    assert all(name.endswith(f"{emitted:%Y%m}") for name, emitted in found)
    owners = (
        "select distinct pg_get_userbyid(relowner) from pg_class where relname ~ '_20[0-9]{4}$'"
    )
    assert ask(whole, f"{owners} and relnamespace = current_schema()::regnamespace") == [
        ("alpha_ops",)
    ]
    assert migrate(whole.dsn, whole.schema) == []


def test_a_table_made_so_is_written_to(whole: Place, pack_columns: dict[str, str]) -> None:
    """The same lines again change nothing, others are added, with their months."""
    migrate(whole.dsn, whole.schema)
    before = stored(whole)
    writer = PostgresWriter(whole.dsn, pack_columns, schema=whole.schema, backoff_s=())
    writer.write_published([published(label) for label in LABELS])
    assert stored(whole) == before
    writer.write_published([published(ms(2021, 5, 1))])
    writer.close()
    assert {name: len(lines) for name, lines in stored(whole).items()} == dict.fromkeys(
        TABLES, len(LABELS) + 1
    )
    assert months(whole) == {*MONTHS, *(f"{table}_202105" for table in TABLES)}


def test_starters_at_once_move_the_lines_once(whole: Place) -> None:
    """Several processes find the old tables; one of them makes the new ones."""
    before = stored(whole)
    with ThreadPoolExecutor(3) as pool:
        applied = list(pool.map(lambda _: migrate(whole.dsn, whole.schema), range(3)))
    assert sum(FILE in names for names in applied) == 1
    assert stored(whole) == before


def test_a_writer_that_is_not_done_is_waited_for(whole: Place) -> None:
    """A line that is committed while the migration waits for it is in the new table."""
    with open_session(whole.dsn, whole.schema) as other, ThreadPoolExecutor(1) as pool:
        other.execute("begin")
        other.execute("delete from suppression where exchange_ts < '2025-01-01'")
        running = pool.submit(migrate, whole.dsn, whole.schema)
        for _ in range(200):
            waits = "select count(*) from pg_locks where not granted and relation is not null"
            if ask(whole, waits) != [(0,)]:
                break
        other.execute("commit")
        assert FILE in running.result(timeout=60)
    assert len(stored(whole)["suppression"]) == len(LABELS) - 1


def test_an_id_is_stored_once(writer: PostgresWriter, filled: Place) -> None:
    """The key has the emission, but an id has only one: another is set aside, in any month."""
    once = stored(filled)["anomaly_event"]
    before = len(stored(filled)["dead_letter"])
    writer.write_published([published(label) for label in LABELS])
    assert stored(filled)["anomaly_event"] == once
    for emitted_ms in (LABELS[0] + 1501, LABELS[2] + 1500):
        moved = {**event(LABELS[0]), "emitted_at": iso(emitted_ms)}
        writer.write_published([Published(Phase(LABELS[0], False, 1, emitted_ms), (moved,), ())])
    assert stored(filled)["anomaly_event"] == once
    reasons = ask(filled, "select reason from dead_letter where reason ~ 'event_id_time'")
    assert len(reasons) == 2 == len(stored(filled)["dead_letter"]) - before


def test_old_months_go_and_the_rest_stays(filled: Place) -> None:
    """Events and dead letters after 400 days, suppressions after 90."""
    now_ms = ms(2025, 12, 6)
    told = drop_expired(filled.dsn, filled.schema, now_ms=now_ms, dry_run=True)
    gone = {f"{table}_202403" for table in TABLES}
    assert {month.name for month in told} == {*gone, "suppression_202508"}
    drop_expired(filled.dsn, filled.schema, now_ms=now_ms)
    assert months(filled) == MONTHS - {month.name for month in told}
    assert {name: len(lines) for name, lines in stored(filled).items()} == {
        "anomaly_event": 3,
        "shadow_event": 3,
        "suppression": 1,
        "dead_letter": 3,
    }


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("anomaly_event", "emitted_at"),
        ("shadow_event", "emitted_at"),
        ("suppression", "exchange_ts"),
        ("dead_letter", "minute_ts"),
    ],
)
def test_a_query_for_some_days_reads_their_month_alone(
    filled: Place, table: str, column: str
) -> None:
    """Asked of the planner."""
    bounds = f"{column} >= '2025-09-01' and {column} < '2025-10-01'"
    plan = "\n".join(
        line for (line,) in ask(filled, f"explain select * from {table} where {bounds}")
    )
    assert f"{table}_202509" in plan
    assert f"{table}_202508" not in plan
    assert f"{table}_202403" not in plan
