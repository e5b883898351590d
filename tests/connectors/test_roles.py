"""Roles: each may do its work, and is refused what is not its work."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dataflows.connectors.candles import Backfill, CandleStore
from dataflows.connectors.clock import SystemClock
from dataflows.connectors.embedded_postgres import find_binaries
from dataflows.connectors.gap_ledger import GapLedger
from dataflows.connectors.migrate import (
    PARTITIONED,
    create_partitions,
    migrate,
    month_of,
    open_session,
    partitions_ahead,
    read_migrations,
)
from dataflows.connectors.postgres import (
    EVENT_TABLES,
    GAP_TABLES,
    MARKET_TABLES,
    PostgresWriter,
)
from dataflows.connectors.retention import drop_expired
from dataflows.connectors.roles import ROLES, grant_roles
from dataflows.connectors.venue_rest import RestConfig, VenueRest
from operators.feed import Hole
from operators.records import (
    Audit,
    Change,
    HotMove,
    MarketPhase,
    Phase,
    Published,
    Row,
    Suppression,
    TierMove,
)

if TYPE_CHECKING:
    from conftest import Place

pytestmark = pytest.mark.service

T_MS = 1_756_891_800_000
MONTHS = [(parent, month_of(T_MS)) for parent in PARTITIONED]
DENIED = psycopg.errors.InsufficientPrivilege
AUDITS = ("universe_audit", "universe_deferral", "hotlist_move", "hotlist_state", "tier_move")
SNAPSHOTS = ("features_snapshot", "market_snapshot", "baseline_state")
EVENTS = ("anomaly_event", "shadow_event", "suppression", "dead_letter")
REGISTRIES = ("feature_registry", "detector_registry", "universe_registry", "config_audit")
CURATED = ("curator_runs", "insights", "config_proposals", "replay_results")
LEDGER = ("gap", "backfill_job", "gap_reconciliation")
CANDLES = ("candle_bar", "backfill_audit")
TABLES = (
    *(*SNAPSHOTS, *AUDITS, *EVENTS, *REGISTRIES, *CURATED, *LEDGER, *CANDLES),
    "schema_migration",
)

# What each may do beside reading what is in READS; all else is refused. U: of some columns only.
READS = {
    "alpha_ingest": (*LEDGER, *CANDLES, "features_snapshot", "schema_migration"),
    "alpha_builder": (
        *(*SNAPSHOTS, *AUDITS, *REGISTRIES),
        *("gap", "dead_letter", "schema_migration"),
    ),
    "alpha_detector": (*SNAPSHOTS, *AUDITS, *REGISTRIES, *EVENTS, "gap", "schema_migration"),
    "alpha_curator": TABLES,
    "alpha_reader": TABLES,
    "alpha_ops": TABLES,
}
INSERTS = {
    "alpha_ingest": (*LEDGER, *CANDLES),
    "alpha_builder": (*SNAPSHOTS, *AUDITS, "dead_letter"),
    "alpha_detector": EVENTS,
    "alpha_curator": CURATED,
    "alpha_reader": (),
    "alpha_ops": TABLES,
}
UPDATES = {
    "alpha_ingest": LEDGER,
    "alpha_builder": (*SNAPSHOTS, *AUDITS),
    "alpha_detector": ("suppression",),
    "alpha_curator": (),
    "alpha_reader": (),
    "alpha_ops": TABLES,
}


@pytest.fixture
def roles(place: Place) -> Place:
    """A schema in which the roles have their rights."""
    grant_roles(place.dsn, place.schema)
    return place


@pytest.fixture
def login(roles: Place) -> Iterator[Callable[..., str]]:
    """Maker of users that are members of some roles; returns how they connect."""
    made = []

    def make(*memberships: str) -> str:
        name = f"user_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(roles.dsn, autocommit=True) as connection:
            make_user = sql.SQL("create role {} login password 'x' in role {}")
            groups = sql.SQL(", ").join(map(sql.Identifier, memberships))
            connection.execute(make_user.format(sql.Identifier(name), groups))
        made.append(name)
        return make_conninfo(roles.dsn, user=name, password="x")

    yield make
    with psycopg.connect(roles.dsn, autocommit=True) as connection:
        for name in made:
            for text in ("drop owned by {} cascade", "drop role {}"):
                connection.execute(sql.SQL(text).format(sql.Identifier(name)))


def refused(place: Place, role: str, text: str) -> bool:
    """Whether a role is refused a statement; nothing of it stays."""
    with open_session(place.dsn, place.schema) as connection:
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
                connection.execute(text.encode())
        except DENIED:
            return True
        except (psycopg.errors.NotNullViolation, psycopg.errors.CheckViolation):  # let through
            return False
        return False


def first_column(place: Place, table: str) -> str:
    """A column of a table."""
    with open_session(place.dsn, place.schema) as connection:
        found = connection.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum = 1",
            (table,),
        ).fetchone()
    assert found is not None
    return str(found[0])


def test_every_table_is_in_the_matrix(roles: Place) -> None:
    """A table that a later file adds must say who may do what with it."""
    with open_session(roles.dsn, roles.schema) as connection:
        found = connection.execute(
            "select relname from pg_class where relnamespace = current_schema()::regnamespace"
            " and relkind in ('r', 'p') and not relispartition"
        ).fetchall()
    assert {row[0] for row in found} == set(TABLES)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_does_its_work_and_nothing_else(roles: Place, role: str) -> None:
    """Every role tries to read, insert, update, delete and empty every table."""
    for table in TABLES:
        column = first_column(roles, table)
        tried = {
            "select": refused(roles, role, f"select * from {table} limit 0"),
            "insert": refused(roles, role, f"insert into {table} default values"),
            "update": refused(roles, role, f'update {table} set "{column}" = null where false'),
            "delete": refused(roles, role, f"delete from {table} where false"),
            "truncate": refused(roles, role, f"truncate {table}"),
        }
        assert tried == {
            "select": table not in READS[role],
            "insert": table not in INSERTS[role],
            "update": table not in UPDATES[role],
            "delete": role != "alpha_ops",
            "truncate": role != "alpha_ops",
        }, table


@pytest.mark.parametrize("role", [role for role in ROLES if role != "alpha_ops"])
def test_no_service_changes_the_schema(roles: Place, role: str) -> None:
    """No tables, no columns, no partitions, no roles, and not the rights of others."""
    for text in (
        "create table mine (i int)",
        "alter table gap add column i int",
        "drop table gap",
        "create index on gap (cause)",
        "alter table features_snapshot detach partition features_snapshot_1m",
        "create role more",
        "create function f() returns int language sql as 'select 1'",
    ):
        assert refused(roles, role, text), text


def test_the_curator_says_where_things_stand_and_no_more(roles: Place) -> None:
    """Its own words stay as they were written."""
    may = (
        "update curator_runs set finished_at = null, notes = null where false",
        "update insights set status = 'seen' where false",
        "update config_proposals set status = 'applied', applied_at = null where false",
    )
    may_not = (
        "update insights set evidence = '{}' where false",
        "update config_proposals set diff = '{}' where false",
        "update replay_results set passed = true where false",
        "update curator_runs set config_hash = '' where false",
    )
    assert [refused(roles, "alpha_curator", text) for text in may] == [False] * 3
    assert [refused(roles, "alpha_curator", text) for text in may_not] == [True] * 4


def test_a_member_cannot_become_another(login: Callable[..., str], roles: Place) -> None:
    """A user of one role does not take on the next."""
    dsn = login("alpha_detector")
    with open_session(dsn, roles.schema) as connection, pytest.raises(DENIED):
        connection.execute("set role alpha_ops")


def audited() -> MarketPhase:
    """A phase with a row and every kind of audit."""
    audit = Audit(
        Change(1, T_MS, (5,), (), {"5": "entry"}),
        (HotMove(T_MS, 5, "added", "vol_spike_m_1", T_MS, T_MS + 60_000),),
        (TierMove(5, "mid", "top"),),
        (6,),
    )
    row = Row(5, "SOL", "1m", T_MS, 0, {"open": 1.0}, {})
    return MarketPhase(Phase(T_MS, False, 1, T_MS + 1500), (), (row,), audit)


def held_back() -> Published:
    """A phase with a suppression."""
    suppressed = Suppression(5, "SOL", "1m", T_MS, 0, "spike.vol_spike_m_1", "cooldown", 61)
    return Published(Phase(T_MS, False, 1, T_MS + 1500), (), (suppressed,))


def test_the_job_writes_with_the_rights_of_builder_and_detector(
    login: Callable[..., str], roles: Place, pack_columns: dict[str, Any]
) -> None:
    """Migrated and given its months by ops, a user of the two roles writes all there is."""
    with open_session(login("alpha_ops"), roles.schema) as connection:
        create_partitions(connection, roles.schema, MONTHS)
    dsn = login("alpha_builder", "alpha_detector")
    assert migrate(dsn, roles.schema) == []
    writer = PostgresWriter(dsn, pack_columns, schema=roles.schema, backoff_s=())
    writer.write_market([audited()])
    writer.write_published([held_back()])
    writer.close()
    reader = make_conninfo(login("alpha_reader"))
    with open_session(reader, roles.schema) as connection:
        for table in ("features_snapshot", "universe_audit", "tier_move", "suppression"):
            found = connection.execute(f"select count(*) from {table}".encode()).fetchone()
            assert found == (1,), table


@pytest.mark.parametrize(
    ("role", "only"),
    [
        ("alpha_builder", MARKET_TABLES),
        ("alpha_detector", EVENT_TABLES),
        ("alpha_ingest", GAP_TABLES),
    ],
)
def test_each_writer_needs_its_own_role_alone(
    login: Callable[..., str],
    roles: Place,
    pack_columns: dict[str, Any],
    role: str,
    only: tuple[str, ...],
) -> None:
    """Rows by the builder, events by the detector, gaps by ingest."""
    with open_session(roles.dsn, roles.schema) as connection:
        create_partitions(connection, roles.schema, MONTHS)
    writer = PostgresWriter(login(role), pack_columns, schema=roles.schema, backoff_s=(), only=only)
    writer.connect()
    if only == MARKET_TABLES:
        writer.write_market([audited()])
    elif only == EVENT_TABLES:
        writer.write_published([held_back()])
    else:
        writer.write_gaps("ticks", [Hole(T_MS, None, "disconnect")])
    writer.close()


def test_ops_makes_and_hands_over_partitions(login: Callable[..., str], roles: Place) -> None:
    """What one operator made another can drop: the role owns it."""
    with open_session(login("alpha_ops"), roles.schema) as connection:
        made = create_partitions(connection, roles.schema, partitions_ahead(T_MS))
    with open_session(login("alpha_ops"), roles.schema) as connection:
        for name in made:
            connection.execute(f"drop table {name}".encode())


def test_ops_migrates(login: Callable[..., str], roles: Place, tmp_path: Path) -> None:
    """A member applies what is new, also to tables that the role owns."""
    for migration in read_migrations():
        name = f"{migration.number:04d}_{migration.name}.sql"
        (tmp_path / name).write_bytes(migration.text)
    following = tmp_path / f"{len(read_migrations()) + 1:04d}_more.sql"
    following.write_text(
        "create table more (i int);\nalter table gap add column if not exists note text;\n"
        "alter table features_snapshot add column if not exists note text;\n"
    )
    assert migrate(login("alpha_ops"), roles.schema, directory=tmp_path) == ["more"]


def test_ops_drops_what_is_expired(login: Callable[..., str], roles: Place) -> None:
    """As a member of the role, months that a superuser made before; a service may not."""
    with open_session(roles.dsn, roles.schema) as connection:
        old = [("features_snapshot_1m", month_of(0)), ("anomaly_event", month_of(0))]
        create_partitions(connection, roles.schema, [*MONTHS, *old])
    with pytest.raises(DENIED):
        drop_expired(login("alpha_builder"), roles.schema, now_ms=T_MS)
    dropped = drop_expired(login("alpha_ops"), roles.schema, now_ms=T_MS)
    assert [month.name for month in dropped] == [
        "anomaly_event_197001",
        "features_snapshot_1m_197001",
    ]


def test_running_it_again_takes_back_what_was_added_by_hand(roles: Place) -> None:
    """The file is what a role may do."""
    with open_session(roles.dsn, roles.schema) as connection:
        connection.execute("grant delete on anomaly_event to alpha_reader")
    assert not refused(roles, "alpha_reader", "delete from anomaly_event where false")
    assert grant_roles(roles.dsn, roles.schema) == ROLES
    assert refused(roles, "alpha_reader", "delete from anomaly_event where false")


def test_several_administrators_at_once(place: Place) -> None:
    """All of them end well, and the rights are there."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: grant_roles(place.dsn, place.schema), range(4)))
    assert not refused(place, "alpha_reader", "select * from gap")


def test_an_administrator_runs_the_file_with_psql(place: Place) -> None:
    """As its head says."""
    with as_file(files("sql.roles").joinpath("roles.sql")) as path:
        done = subprocess.run(
            [
                *(str(find_binaries() / "psql"), place.dsn, "-X", "-q", "-1"),
                *("-v", "ON_ERROR_STOP=1", "-c", f"set search_path to {place.schema}"),
                *("-f", str(path)),
            ],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert not refused(place, "alpha_reader", "select * from gap")
    assert "user" in conninfo_to_dict(place.dsn)


class OneCandle(VenueRest):
    """A venue that has a candle of one minute."""

    def fetch(self, kind: str, **body: Any) -> bytes:
        """Answer any request."""
        prices = f'"t":{T_MS - 60_000},"o":"1","h":"3","l":"1","c":"2","v":"4","n":5'
        return f'[{{"s":"{body["req"]["coin"]}","i":"1m",{prices}}}]'.encode()


def test_the_ingest_role_keeps_the_ledger(roles: Place, login: Callable[..., str]) -> None:
    """A job of its own is enough: it needs no right on rows but to read them."""
    writer = PostgresWriter(roles.dsn, {}, schema=roles.schema, backoff_s=())
    with open_session(roles.dsn, roles.schema) as connection:
        create_partitions(connection, roles.schema, MONTHS)
    writer.write_market(
        [MarketPhase(Phase(T_MS, False, 1, T_MS), (), (Row(0, "BTC", "1m", T_MS, 0, {}),))]
    )
    writer.write_gaps("ticks", [Hole(T_MS - 30_000, T_MS - 20_000, "disconnect")])
    writer.close()
    clock = SystemClock()
    with (
        CandleStore(login("alpha_ingest"), roles.schema) as store,
        OneCandle(RestConfig(), clock) as venue,
    ):
        ledger = GapLedger(store)
        backfill = Backfill(store, venue, clock, lambda line: None)
        for _ in range(2):
            done = ledger.reconcile(backfill, since_ms=T_MS - 60_000, now_ms=T_MS + 60_000)
            assert done.failure is None
        (line,) = ledger.lines(T_MS - 60_000)
    assert (line.status, line.total("trades_missing")) == ("reconciled", 5)
