"""Months that are older than they are kept: detached and dropped, whatever was cut short before."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.connectors.clock import SystemClock
from dataflows.connectors.database import Database
from dataflows.connectors.migrate import PARTITIONED, create_partitions, month_of, open_session
from dataflows.connectors.postgres import PostgresWriter
from dataflows.connectors.retention import KEEP_DAYS, drop_expired, is_expired, months_of
from operators.records import MarketPhase, Phase, Row
from packs.loader import load_packs

if TYPE_CHECKING:
    from conftest import Place

DAY_MS = 86_400_000
OLD = [date(2022, 1, 1), date(2024, 11, 1), date(2025, 5, 1), date(2025, 8, 1), date(2025, 9, 1)]


def ms(year: int, month: int, day: int) -> int:
    """An instant at the start of a day."""
    return int(datetime(year, month, day, tzinfo=UTC).timestamp()) * 1000


NOW_MS = ms(2025, 12, 6)


class Stopped(SystemClock):
    """A clock that stands still."""

    def now_ns(self) -> int:
        return NOW_MS * 1_000_000


@pytest.fixture
def months(place: Place) -> Place:
    """A schema with the same months of every table."""
    with open_session(place.dsn, place.schema) as connection:
        create_partitions(connection, place.schema, [(p, m) for p in PARTITIONED for m in OLD])
    return place


def names(place: Place) -> set[str]:
    """Names of the months there are, attached or not."""
    with open_session(place.dsn, place.schema) as connection:
        return {month.name for month in months_of(connection)}


def kept(**months: tuple[int, ...]) -> set[str]:
    """Names of months, given by table."""
    return {f"{table}_{month}" for table, numbers in months.items() for month in numbers}


LEFT = kept(
    features_snapshot_1m=(202509,),  # ends on 1 October, 66 days ago; August ended 96 days ago
    features_snapshot_15m=(202505, 202508, 202509),  # November 2024 ended 370 days ago
    features_snapshot_1h=(202411, 202505, 202508, 202509),
    anomaly_event=(202411, 202505, 202508, 202509),
    shadow_event=(202411, 202505, 202508, 202509),
    suppression=(202509,),
    dead_letter=(202411, 202505, 202508, 202509),
)


@given(st.sampled_from(PARTITIONED), st.integers(ms(2020, 1, 1), ms(2030, 1, 1)), st.integers(0))
def test_no_row_goes_early(parent: str, label_ms: int, later: int) -> None:
    """A label is in a month that is never expired within the days it is kept, and once it is
    expired it stays so."""
    month = month_of(label_ms)
    assert not is_expired(parent, month, label_ms + KEEP_DAYS[parent] * DAY_MS)
    if is_expired(parent, month, label_ms):
        assert is_expired(parent, month, label_ms + later % (DAY_MS * 9999))
    assert is_expired(parent, month, label_ms + (KEEP_DAYS[parent] + 31) * DAY_MS)


def test_every_table_by_month_has_an_age() -> None:
    """What is made by month is dropped by month; events stay a year at least."""
    assert KEEP_DAYS.keys() == set(PARTITIONED)
    assert KEEP_DAYS["anomaly_event"] > 366


@pytest.mark.service
def test_a_dry_run_tells_and_drops_nothing(months: Place) -> None:
    """It says what a run would drop."""
    before = names(months)
    told = drop_expired(months.dsn, months.schema, now_ms=NOW_MS, dry_run=True)
    assert names(months) == before
    assert {month.name for month in told} == before - LEFT
    assert [month.month for month in told] == sorted(month.month for month in told)
    assert {month.parent for month in told} == set(PARTITIONED)


@pytest.mark.service
def test_what_is_older_goes_and_the_rest_stays(months: Place) -> None:
    """By timeframe, to the day; a second run finds nothing to do."""
    dropped = drop_expired(months.dsn, months.schema, now_ms=NOW_MS)
    assert names(months) == LEFT
    assert len(dropped) == len(PARTITIONED) * len(OLD) - len(LEFT)
    assert drop_expired(months.dsn, months.schema, now_ms=NOW_MS) == []


@pytest.mark.service
def test_a_run_that_was_cut_short_is_taken_up(months: Place) -> None:
    """A month that was detached and not dropped, and one whose detach a reader held up."""
    with (
        open_session(months.dsn, months.schema) as reader,
        open_session(months.dsn, months.schema) as connection,
    ):
        connection.execute(
            "alter table features_snapshot_1m detach partition features_snapshot_1m_202201"
        )
        reader.execute("begin; select count(*) from features_snapshot")
        with pytest.raises(psycopg.errors.QueryCanceled):
            drop_expired(months.dsn, months.schema, now_ms=NOW_MS, wait_ms=300)
        pending = [month.name for month in months_of(connection) if month.pending]
        assert len(pending) == 1
        reader.execute("rollback")
    drop_expired(months.dsn, months.schema, now_ms=NOW_MS)
    assert names(months) == LEFT


@pytest.mark.service
def test_a_month_is_dropped_beside_a_writer(months: Place, pack_columns: dict[str, Any]) -> None:
    """A writer that is connected goes on, before and after."""
    writer = PostgresWriter(months.dsn, pack_columns, schema=months.schema, backoff_s=())
    writer.write_market([minute(ms(2025, 9, 3))])
    drop_expired(months.dsn, months.schema, now_ms=NOW_MS)
    writer.write_market([minute(ms(2025, 9, 4))])
    writer.close()
    with open_session(months.dsn, months.schema) as connection:
        found = connection.execute("select count(*) from features_snapshot").fetchone()
    assert found == (2,)


@pytest.mark.service
def test_nothing_is_dropped_while_the_schema_changes(months: Place) -> None:
    """Whoever migrates or makes months holds the lock; a later run does it."""
    before = names(months)
    with (
        open_session(months.dsn, months.schema) as other,
        other.transaction(),
    ):
        other.execute(
            "select pg_advisory_xact_lock(hashtextextended('alpha-detector schema ' || %s, 0))",
            (months.schema,),
        )
        assert drop_expired(months.dsn, months.schema, now_ms=NOW_MS) == []
    assert names(months) == before


@pytest.mark.service
def test_tables_of_others_are_left_alone(months: Place) -> None:
    """Only months by their full name; a copy that somebody made is theirs."""
    theirs = ("features_snapshot_1m_202201_copy", "features_snapshot_2m_202201", "x_1m_202201")
    with open_session(months.dsn, months.schema) as connection:
        for name in theirs:
            connection.execute(f"create table {name} (i int)".encode())
        drop_expired(months.dsn, months.schema, now_ms=NOW_MS)
        for name in theirs:
            assert connection.execute("select to_regclass(%s)", (name,)).fetchone() != (None,)


def minute(label_ms: int) -> MarketPhase:
    """A sealed phase with one row."""
    row = Row(5, "SOL", "1m", label_ms, 0, {"open": 1.0}, {})
    return MarketPhase(Phase(label_ms, False, 1, label_ms + 1500), (), (row,))


def job(place: Place, folder: Path, said: list[str], *, retain: bool = True) -> PostgresWriter:
    """The writer of a job that keeps the partitions in order."""
    database = Database(
        *(folder, place.dsn), schema=place.schema, clock=Stopped(), retain=retain, say=said.append
    )
    return database.writer(load_packs().features)


@pytest.mark.service
def test_a_job_keeps_the_months_in_order_by_its_labels(months: Place, tmp_path: Path) -> None:
    """At its first minute and then once a day of labels, whatever the wall clock says."""
    said: list[str] = []
    writer = job(months, tmp_path, said)
    writer.write_market([minute(ms(2025, 11, 29))])  # August ended 89 days ago
    assert "features_snapshot_1m_202508" in names(months)
    assert "features_snapshot_1m_202201" not in names(months)
    count = len(said)
    writer.write_market([minute(ms(2025, 11, 30) - 60_000)])
    assert len(said) == count
    writer.write_market([minute(ms(2025, 11, 30) + 60_000)])  # 90 days
    writer.close()
    assert "features_snapshot_1m_202508" not in names(months)
    assert said[count:] == [
        f"PostgreSQL: dropped {table}_202508, older than 90 days"
        for table in ("features_snapshot_1m", "suppression")
    ]


@pytest.mark.service
def test_a_label_from_the_future_drops_nothing_more(months: Place, tmp_path: Path) -> None:
    """A recorder whose clock jumped to 2099 does not cost the rows of today."""
    writer = job(months, tmp_path, [])
    writer.write_market([minute(ms(2099, 1, 1))])
    writer.close()
    assert names(months) >= LEFT


@pytest.mark.service
def test_a_job_that_does_not_retain_drops_nothing(months: Place, tmp_path: Path) -> None:
    """A replay, or a demo of an old market."""
    before = names(months)
    writer = job(months, tmp_path, [], retain=False)
    writer.write_market([minute(ms(2025, 12, 1))])
    writer.close()
    assert names(months) >= before


@pytest.mark.service
def test_a_reader_does_not_stop_the_minute(months: Place, tmp_path: Path) -> None:
    """A month that is being read stays for a day; the minute is written all the same."""
    said: list[str] = []
    writer = job(months, tmp_path, said)
    with open_session(months.dsn, months.schema) as reader:
        reader.execute("begin; select count(*) from features_snapshot")
        writer.write_market([minute(ms(2025, 12, 1))])
        reader.execute("rollback")
    writer.close()
    assert any("partitions were not kept in order" in line for line in said)
    with open_session(months.dsn, months.schema) as connection:
        found = connection.execute("select count(*) from features_snapshot").fetchone()
    assert found == (1,)


def test_the_readme_lists_what_is_kept_how_long() -> None:
    """Every table with its days."""
    page = (Path(__file__).parents[2] / "README.md").read_text()
    ages = re.findall(r"^\| (`[^|]+`) \| (\d+) days \|$", page, re.MULTILINE)
    said = {name: int(days) for names, days in ages for name in re.findall(r"`(\w+)`", names)}
    assert said == KEEP_DAYS
