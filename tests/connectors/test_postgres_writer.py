"""The database sinks: what is read back is what was written, whatever happens in between."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bytewax.operators as op
import orjson
import psycopg
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSource, run_main
from psycopg.rows import dict_row

from dataflows.connectors.embedded_postgres import EmbeddedPostgres
from dataflows.connectors.migrate import migrate, open_session
from dataflows.connectors.postgres import (
    FRAME_COLUMNS,
    POISONED,
    PostgresEventSink,
    PostgresMarketSink,
    PostgresWriter,
    WriteError,
    tables_of,
)
from operators.lattice import iso
from operators.publish import event_json
from operators.records import Frame, MarketPhase, Phase, Published, Row, Suppression

if TYPE_CHECKING:
    from conftest import Place

pytestmark = pytest.mark.service

SETTINGS = {"shared_buffers": "32MB"}
T_MS = 1_756_891_800_000
LABEL = datetime(2025, 9, 3, 9, 30, tzinfo=UTC)
SAMPLES: dict[str, Any] = {
    "bigint": 7,
    "double precision": 0.1,
    "boolean": True,
    "text": "ok",
    "text[]": ["gap", "quiet"],
    "timestamptz": "2025-09-03T09:30:00.142Z",
}
FRAME: dict[str, Any] = {
    "leader": "BTC",
    "leader_uid": 0,
    "dominance_share": 0.42,
    "shock_count_5s": 4,
    "approx": False,
    "rs_top": ["SOL", "APT"],
    "rs_bottom": [],
    "return_dispersion_m_5": 0.006,
    "vol_dispersion_m_5": None,
    "eligible_count": 32,
    "excluded_count": 3,
    "universe_size": 35,
    "universe_rev": 3127,
    "time_to_next_funding_sec": 1800,
    "dq_status": "partial",
    "dq_reasons": ["few_assets"],
    "leader_z_vol": 1.5,
    "leader_z_vol_before_1": 2.5,
    "leader_z_vol_before_2": None,
    "followers_rs": 0.5,
    "followers_rs_before_1": None,
    "followers_rs_before_2": None,
    "sector_leader": "meme",
    "sector_margin": 0.25,
    "sector_former": None,
    "sector_former_rank": 3,
}


def row(columns: dict[str, Any], *, uid: int = 5, ts_ms: int = T_MS, revision: int = 0) -> Row:
    """A row of one asset."""
    return Row(uid, "SOL", "1m", ts_ms, revision, columns, {"clamp": {"z_vol_m_1": [-1.5, 4.0]}})


def market(*rows: Row, frames: tuple[Frame, ...] = ()) -> MarketPhase:
    """A sealed phase with these rows."""
    return MarketPhase(Phase(T_MS, False, len(rows), T_MS + 1500), frames, rows)


def event(uid: int = 5, severity: int = 74) -> dict[str, Any]:
    """An event in the contract's shape, with an id of its own for each argument."""
    digest = hashlib.sha256(f"{uid} {severity}".encode()).hexdigest()
    event_id = f"01990ee9-679c-7{digest[:3]}-8{digest[3:6]}-{digest[6:18]}"
    return {
        "v": "0.1",
        "event_id": event_id,
        "emitted_at": iso(T_MS + 1500),
        "exchange_ts": iso(T_MS),
        "symbol": "SOL",
        "asset_uid": uid,
        "tf": "1m",
        "class": "spike",
        "subtype": "vol_spike_m_1",
        "severity": severity,
        "local_state": {"features": {"z_vol_m_1": 3.6}, "dq": {"status": "ok"}},
        "membership": {"is_in_universe": True, "is_hot": False, "universe_rev": 3127},
        "provenance": {
            "producer": "alpha-detector@v1.0.0",
            "feature_pack": "v1.0",
            "detector_pack": "v0.2",
            "config_hash": "sha256:00",
            "git_commit": None,
            "universe_policy_rev": 17,
            "source_lag_ms": 128,
        },
    }


def published(*events: dict[str, Any], suppressed: tuple[Suppression, ...] = ()) -> Published:
    """A sealed phase with these events."""
    return Published(Phase(T_MS, False, 1, T_MS + 1500), events, suppressed)


def stored(place: Place, table: str) -> list[dict[str, Any]]:
    """All rows of a table in key order."""
    with open_session(place.dsn, place.schema) as connection:
        cursor = connection.cursor(row_factory=dict_row)
        return cursor.execute(f"select * from {table} order by 1, 2".encode()).fetchall()


@pytest.fixture
def writer(place: Place, pack_columns: dict[str, str]) -> Iterator[PostgresWriter]:
    """A writer on the test's schema that gives up at once."""
    writer = PostgresWriter(
        place.dsn, pack_columns, schema=place.schema, backoff_s=(0.01,), say=lambda line: None
    )
    yield writer
    writer.close()


def test_rows_are_read_back_as_written(
    writer: PostgresWriter, place: Place, pack_columns: dict[str, str]
) -> None:
    """Every column of the pack, with a value and as NULL, and the month it needs."""
    full = {name: SAMPLES[kind] for name, kind in pack_columns.items()}
    writer.write_market([market(row(full), row({"open": 1.5}, uid=6))])
    first, second = stored(place, "features_snapshot")
    ingest_ts = datetime(2025, 9, 3, 9, 30, 0, 142_000, tzinfo=UTC)
    assert first == {
        **full,
        "ingest_ts": ingest_ts,
        "asset_uid": 5,
        "symbol": "SOL",
        "tf": "1m",
        "exchange_ts": LABEL,
        "revision": 0,
        "extras_json": {"clamp": {"z_vol_m_1": [-1.5, 4.0]}},
    }
    assert {name for name, value in second.items() if value is not None} == {
        *("asset_uid", "symbol", "tf", "exchange_ts", "revision", "extras_json", "open")
    }


def test_frames_are_read_back_as_written(writer: PostgresWriter, place: Place) -> None:
    """A frame's lists of symbols come back as lists."""
    extras = {"rs_dispersion_m_5": 0.7}
    writer.write_market([market(frames=(Frame("1m", T_MS, 0, FRAME, extras),))])
    assert stored(place, "market_snapshot") == [
        {**FRAME, "tf": "1m", "exchange_ts": LABEL, "revision": 0, "extras_json": extras}
    ]


def test_writer_knows_every_column_of_the_tables(
    place: Place, pack_columns: dict[str, str]
) -> None:
    """What the writer copies is what the table has, for each of its four tables."""
    with open_session(place.dsn, place.schema) as connection:
        for table in tables_of(pack_columns).values():
            found = connection.execute(f"select * from {table.name} limit 0".encode())
            assert {column.name for column in found.description or []} == set(table.types)
    assert {*FRAME, "extras_json"} == set(FRAME_COLUMNS)


def test_amendment_replaces_and_late_original_does_not(
    writer: PostgresWriter, place: Place
) -> None:
    """revision 1 -> 0: kept; 1 -> 1: replaced; 1 -> 2: replaced. The same for frames."""
    steps = [(1, 10.0), (0, 20.0), (1, 30.0), (2, 40.0)]
    seen = []
    for revision, value in steps:
        frame = Frame("1m", T_MS, revision, {"dominance_share": value})
        writer.write_market([market(row({"open": value}, revision=revision), frames=(frame,))])
        found = stored(place, "features_snapshot") + stored(place, "market_snapshot")
        seen.append((found[0]["open"], found[1]["dominance_share"]))
    assert seen == [(10.0, 10.0), (10.0, 10.0), (30.0, 30.0), (40.0, 40.0)]


def test_both_revisions_in_one_batch(writer: PostgresWriter, place: Place) -> None:
    """A backlog holds the sealed row and its amendment, and not always in that order."""
    writer.write_market([market(row({"open": 2.0}, revision=1)), market(row({"open": 1.0}))])
    assert [found["open"] for found in stored(place, "features_snapshot")] == [2.0]


def test_months_are_made_when_a_replay_needs_them(writer: PostgresWriter, place: Place) -> None:
    """One batch over three months and a year's end; nothing is lost, the rest is not made."""
    days = [datetime(2024, 12, 31, 23, 59), datetime(2025, 1, 1), datetime(2021, 5, 1)]
    labels = [int(day.replace(tzinfo=UTC).timestamp() * 1000) for day in days]
    writer.write_market([market(*(row({}, ts_ms=label) for label in labels))])
    assert len(stored(place, "features_snapshot")) == 3
    with open_session(place.dsn, place.schema) as connection:
        found = connection.execute(
            "select relname from pg_class where relnamespace = current_schema()::regnamespace"
            " and relname ~ '1m_[0-9]+$' and relkind = 'r' order by 1"
        ).fetchall()
    assert [name.removeprefix("features_snapshot_") for (name,) in found] == [
        "1m_202105",
        "1m_202412",
        "1m_202501",
    ]


def test_schema_of_its_own(place: Place, pack_columns: dict[str, str]) -> None:
    """A replay writes beside the live tables, not into them."""
    replay = dataclasses.replace(place, schema="Replay of 2025-09")
    migrate(replay.dsn, replay.schema)
    writer = PostgresWriter(replay.dsn, pack_columns, schema=replay.schema, replay_of=True)
    writer.write_market([market(row({}))])
    writer.write_published([published(event())])
    writer.close()
    assert len(stored(replay, "features_snapshot")) == 1
    assert stored(replay, "anomaly_event")[0]["replay_of"] is True
    assert stored(place, "features_snapshot") == stored(place, "anomaly_event") == []


def test_new_rows_beside_one_that_is_there(writer: PostgresWriter, place: Place) -> None:
    """A repeated epoch may be cut otherwise: what is there is merged, what is new is added."""
    writer.write_market([market(row({"v_total_m_1": 1.0}), row({"v_total_m_1": 2.0}, uid=6))])
    amended = row({"v_total_m_1": 3.0}, revision=1)
    writer.write_market([market(amended)])
    batch = [row({"v_total_m_1": 9.0}), *(row({"v_total_m_1": 4.0}, uid=u) for u in (6, 7))]
    writer.write_market([market(*batch)])
    found = {line["asset_uid"]: line for line in stored(place, "features_snapshot")}
    assert {uid: line["v_total_m_1"] for uid, line in found.items()} == {5: 3.0, 6: 4.0, 7: 4.0}
    assert found[5]["revision"] == 1


def test_shadow_events_have_a_table_of_their_own(writer: PostgresWriter, place: Place) -> None:
    """The same columns and bytes; nobody who reads events meets them."""
    phase = Phase(T_MS, False, 1, T_MS + 1500)
    item = Published(phase, (event(uid=6),), (), shadow=(event(), event(uid=7)))
    writer.write_published([item])
    writer.write_published([item])
    assert [line["asset_uid"] for line in stored(place, "anomaly_event")] == [6]
    found = {line["asset_uid"]: line for line in stored(place, "shadow_event")}
    assert sorted(found) == [5, 7]
    assert found[5]["payload_bytes"] == event_json(event())


def test_events_are_stored_once_with_their_exact_bytes(
    writer: PostgresWriter, place: Place
) -> None:
    """The bytes are those published, the columns echo them, a second writing changes nothing."""
    writer.write_published([published(event(), event(uid=6))])
    changed = {**event(), "severity": 1}
    writer.write_published([published(changed, event(uid=6)), published(event(uid=7))])
    found = {line["asset_uid"]: line for line in stored(place, "anomaly_event")}
    assert sorted(found) == [5, 6, 7]
    line = found[5]
    assert line["payload_bytes"] == event_json(event())
    assert line["payload"] == event()
    assert str(line["event_id"]) == event()["event_id"]
    assert (line["severity"], line["class"], line["universe_rev"]) == (74, "spike", 3127)
    assert (line["git_commit"], line["source_lag_ms"], line["replay_of"]) == (None, 128, False)
    assert line["exchange_ts"] == LABEL


def test_suppressions_are_idempotent(writer: PostgresWriter, place: Place) -> None:
    """A minute written again, after a kill, has its suppressions once."""
    suppressed = (
        Suppression(5, "SOL", "1m", T_MS, 0, "spike.vol_spike_m_1", "cooldown", 61),
        Suppression(5, "SOL", "1m", T_MS, 0, "shift.basis_jolt", "warmup", None),
    )
    for _ in range(2):
        writer.write_published([published(suppressed=suppressed)])
    found = stored(place, "suppression")
    assert {(line["detector_id"], line["reason"], line["severity"]) for line in found} == {
        ("spike.vol_spike_m_1", "cooldown", 61),
        ("shift.basis_jolt", "warmup", None),
    }
    assert len(found) == 2


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"trade_count_m_1": 3.0}, "trade_count_m_1: expected int, found float 3.0"),
        ({"open": float("nan")}, "open: expected a finite number"),
        ({"warmup": 1}, "warmup: expected bool, found int 1"),
        ({"trade_count_m_1": 2**63}, r"int"),
        ({"dq_status": "fine"}, "dq_status: value for domain dq_verdict violates check"),
        ({"source": "w\0s"}, "source: .*"),
    ],
)
def test_poison_row_is_set_aside(
    writer: PostgresWriter, place: Place, columns: dict[str, Any], reason: str
) -> None:
    """The rest of its batch is stored; the dead letter has its key, column, fault and content."""
    key = r"features_snapshot \(asset_uid=6, tf=1m, exchange_ts=2025-09-03T09:30:00\+00:00\): "
    batch = market(row({"open": 1.0}), row(columns, uid=6), row({"open": 1.0}, uid=7))
    before = POISONED.labels("features_snapshot")._value.get()
    for _ in range(2):  # an epoch that is repeated has its dead letter once
        writer.write_market([batch])
    assert [line["asset_uid"] for line in stored(place, "features_snapshot")] == [5, 7]
    (letter,) = stored(place, "dead_letter")
    assert re.match(key + reason, letter["reason"])
    assert "\n" not in letter["reason"]
    assert (letter["minute_ts"], letter["asset_uid"]) == (LABEL, 6)
    assert orjson.loads(letter["payload"].replace("NaN", "0"))["symbol"] == "SOL"
    assert POISONED.labels("features_snapshot")._value.get() == before + 2


def test_a_column_that_is_missing_is_the_operators_affair(
    writer: PostgresWriter, place: Place
) -> None:
    """Every row would be refused: nothing is set aside, the run ends with one line."""
    with pytest.raises(WriteError, match=r"no column for .'no_such_column'.") as caught:
        writer.write_market([market(row({"no_such_column": 1}))])
    assert "\n" not in str(caught.value)
    assert stored(place, "dead_letter") == []


def test_a_table_that_refuses_most_rows_is_the_operators_affair(
    writer: PostgresWriter, place: Place
) -> None:
    """A check that somebody added: not a dead letter a row. Below half, the rest is written."""
    with open_session(place.dsn, place.schema) as connection:
        connection.execute("alter table features_snapshot add check (asset_uid % 4 > 0)")
    writer.write_market([market(*(row({}, uid=uid) for uid in range(100, 148)))])
    assert len(stored(place, "dead_letter")) == 12
    assert len(stored(place, "features_snapshot")) == 36
    with pytest.raises(WriteError, match=r"11 of 20 rows are refused; is the schema"):
        writer.write_market([market(*(row({}, uid=uid * 4) for uid in range(20)))])
    assert len(stored(place, "dead_letter")) == 12


def test_a_poison_row_is_found_though_the_month_is_missing_too(
    writer: PostgresWriter, place: Place
) -> None:
    """Both say `check`; the month is made first, then the row is looked for."""
    with open_session(place.dsn, place.schema) as connection:
        connection.execute("alter table features_snapshot add check (open > 0)")
    rows = [row({"open": 1.0 if uid != 3 else -1.0}, uid=uid) for uid in range(7)]
    frame = Frame("1m", T_MS, 0, {"leader": "BTC"})
    writer.write_market([market(*rows, frames=(frame,))])
    assert [line["asset_uid"] for line in stored(place, "features_snapshot")] == [0, 1, 2, 4, 5, 6]
    assert len(stored(place, "market_snapshot")) == 1
    (letter,) = stored(place, "dead_letter")
    assert "features_snapshot (asset_uid=3," in letter["reason"]


def test_poison_event_is_set_aside(writer: PostgresWriter, place: Place) -> None:
    """A payload that its columns cannot hold: the others are stored, and the letter has its id."""
    for number, (spoil, reason) in enumerate(
        (
            ({"membership": {}}, "payload has no 'is_in_universe'"),
            ({"severity": float("inf")}, "severity: expected a finite number"),
            ({"class": "surge"}, "class: value for domain event_class violates"),
        )
    ):
        bad = {**event(uid=number), **spoil}
        writer.write_published([published(bad, event(uid=100 + number))])
        assert len(stored(place, "anomaly_event")) == number + 1
        (letter,) = (x for x in stored(place, "dead_letter") if x["event_id"] == bad["event_id"])
        assert reason in letter["reason"]
        assert str(bad["event_id"]) in letter["reason"]
    assert len(stored(place, "dead_letter")) == 3


def test_tables_that_are_missing_are_told(empty_place: Place, pack_columns: dict[str, str]) -> None:
    """A schema nobody migrated gives one line that says so."""
    writer = PostgresWriter(empty_place.dsn, pack_columns, schema=empty_place.schema)
    with pytest.raises(WriteError, match="apply the migrations first"):
        writer.connect()


def test_lost_connection_is_replaced(database: str, pack_columns: dict[str, str]) -> None:
    """The server ends our session between two batches: the second is written all the same."""
    writer = PostgresWriter(database, pack_columns, backoff_s=(0.01,), say=lambda line: None)
    writer.write_market([market(row({}))])
    with psycopg.connect(database, autocommit=True) as other:
        other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
            " and backend_type = 'client backend'"
        )
    writer.write_market([market(row({}, uid=6))])
    writer.close()
    with psycopg.connect(database) as other:
        assert other.execute("select count(*) from features_snapshot").fetchone() == (2,)


def test_killed_server_is_waited_for(
    spare_data: Path, empty_place: Place, pack_columns: dict[str, str]
) -> None:
    """kill -9 between two batches: the first is still there, the second waits and is written.

    write --- kill ------------ start ---
                   write ... waits ... done
    """
    server, later = (EmbeddedPostgres(spare_data, settings=SETTINGS) for _ in range(2))
    place = dataclasses.replace(empty_place, dsn=server.start().dsn())
    migrate(place.dsn, place.schema)
    said: list[str] = []
    writer = PostgresWriter(place.dsn, pack_columns, schema=place.schema, say=said.append)
    writer.write_market([market(row({"open": 1.0}))])
    pid = server.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    starter = threading.Timer(0.4, later.start)
    starter.start()
    try:
        writer.write_market([market(row({"open": 2.0}, uid=6))])
        starter.join()
        found = stored(place, "features_snapshot")
    finally:
        starter.join()
        writer.close()
        later.stop()
        server.stop()
    assert [line["open"] for line in found] == [1.0, 2.0]
    assert said
    assert all("again in" in line and "\n" not in line for line in said)


def test_server_that_stays_away_raises(pack_columns: dict[str, str], tmp_path: Path) -> None:
    """The back-off is bounded: in the end the flow is told, and recovery repeats the epoch."""
    said: list[str] = []
    writer = PostgresWriter(
        f"host={tmp_path} dbname=x", pack_columns, backoff_s=(0.01, 0.01), say=said.append
    )
    with pytest.raises(psycopg.OperationalError):
        writer.connect()
    assert len(said) == 2


@pytest.mark.engine
def test_sinks_in_a_flow(place: Place, pack_columns: dict[str, str]) -> None:
    """The engine's side: keyed items in, rows and events in the tables."""

    def open_writer() -> PostgresWriter:
        return PostgresWriter(place.dsn, pack_columns, schema=place.schema)

    phases = [market(row({}, ts_ms=T_MS + i * 60_000)) for i in range(3)]
    flow = Dataflow("sinks")
    rows = op.input("rows", flow, TestingSource([("0", phase) for phase in phases]))
    op.output("market", rows, PostgresMarketSink(open_writer))
    events = op.map("events", rows, lambda item: (item[0], published(event())))
    op.output("published", events, PostgresEventSink(open_writer))
    run_main(flow)
    assert len(stored(place, "features_snapshot")) == 3
    assert len(stored(place, "anomaly_event")) == 1
