"""The table `feature_registry`: the pack's columns, written once, by whoever opens a database."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from psycopg.rows import dict_row

from dataflows.connectors.clock import SystemClock
from dataflows.connectors.database import Database
from dataflows.connectors.embedded_postgres import find_binaries
from dataflows.connectors.migrate import open_session
from dataflows.connectors.registry import write_registry
from operators.records import MarketPhase, Phase, Row
from packs.loader import load_packs
from packs.schema import FeaturePack

if TYPE_CHECKING:
    from conftest import Place

pytestmark = pytest.mark.service

DAY_MS = 86_400_000
NOW_MS = 1_756_891_800_123
NOW = datetime(2025, 9, 3, 9, 30, 0, 123_000, tzinfo=UTC)
PACK = load_packs().features
SAMPLES: dict[str, Any] = {
    "bigint": 7,
    "double precision": 0.1,
    "boolean": True,
    "text": "ok",
    "text[]": ["quiet"],
    "timestamptz": "2025-09-03T09:30:00.142Z",
}


class Stopped(SystemClock):
    """A clock that stands still."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms

    def now_ns(self) -> int:
        return self.now_ms * 1_000_000


Edit = Callable[[dict[str, dict[str, Any]]], object]


def pack(version: str, edit: Edit) -> FeaturePack:
    """The shipped pack under another version, with its columns by name edited."""
    raw = yaml.safe_load(files("packs.features").joinpath("v1.0.yaml").read_text())
    columns = {column["name"]: column for column in raw["columns"]}
    edit(columns)
    raw |= {"feature_pack": version, "columns": list(columns.values())}
    return FeaturePack.model_validate(raw)


def without_hot(version: str) -> FeaturePack:
    """A pack that no longer has `is_hot`."""
    return pack(version, lambda columns: columns.pop("is_hot"))


def rows(place: Place, where: str = "true") -> dict[tuple[str, str], dict[str, Any]]:
    """The registry by name and pack; `xmin` tells which transaction wrote a row."""
    with open_session(place.dsn, place.schema) as connection:
        cursor = connection.cursor(row_factory=dict_row)
        text = f"select *, xmin::text from feature_registry where {where}"
        return {(row["feature_name"], row["pack"]): row for row in cursor.execute(text.encode())}


def database_at(place: Place, tmp_path: Path, now_ms: int = NOW_MS) -> Database:
    """A database on a test's schema, at an instant."""
    return Database(tmp_path, place.dsn, schema=place.schema, clock=Stopped(now_ms))


def psql(place: Place, text: str) -> str:
    """What psql answers, unaligned and without titles."""
    done = subprocess.run(
        [str(find_binaries() / "psql"), place.dsn, "-X", "-A", "-t", "-q"],
        input=f'set search_path to "{place.schema}";\n{text}',
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_a_writer_finds_the_registry_written(empty_place: Place, tmp_path: Path) -> None:
    """Every column of the pack, on trial or not, in the pack's words, at the injected instant."""
    database_at(empty_place, tmp_path).writer(PACK).close()
    found = rows(empty_place)
    assert found.keys() == {(column.name, "v1.0") for column in PACK.registry}
    for column in PACK.registry:
        row = found[column.name, "v1.0"]
        assert (row["added_at"], row["deprecated_at"]) == (NOW, None)
        assert (row["units"], row["window"], row["formula"]) == (
            *(column.unit, column.window, column.formula),
        )
        assert (row["inputs"], row["timeframes"]) == ([*column.inputs], [*column.tfs])
        assert (row["type"], row["family"], row["when_null"]) == (
            *(column.type, column.family, column.when_null),
        )
        assert (row["status"], row["pack_proposed"]) == (column.status, column.pack_proposed)
        assert row["normalised"] is column.normalised
    assert found["v_total_m_15", "v1.0"]["notes"] == "v_total_m_1 in expressions"
    assert found["v_total_m_1", "v1.0"]["notes"] is None
    assert found["rs_dispersion_m_5", "v1.0"]["notes"] == "in extras_json"


def test_a_second_run_changes_nothing(empty_place: Place, tmp_path: Path) -> None:
    """A day later, by another process: not one row is written again."""
    first = database_at(empty_place, tmp_path)
    first.writer(PACK).close()
    before = rows(empty_place)
    first.writer(PACK).close()
    database_at(empty_place, tmp_path, NOW_MS + DAY_MS).writer(PACK).close()
    assert rows(empty_place) == before
    later_ms = NOW_MS + DAY_MS
    assert write_registry(empty_place.dsn, empty_place.schema, PACK, now_ms=later_ms) == 0


def test_new_words_keep_the_first_day(place: Place) -> None:
    """Only what differs is written; when it was added stays, NULL gives way to a word and back."""

    def edit(columns: dict[str, dict[str, Any]]) -> None:
        columns["close"] |= {"formula": "the last print", "inputs": ["trades"]}
        columns["open"] |= {"status": "shadow", "pack_proposed": "v1.1"}

    assert write_registry(place.dsn, place.schema, PACK, now_ms=NOW_MS) == len(PACK.registry)
    before = rows(place)
    edited = pack("v1.0", edit)
    assert write_registry(place.dsn, place.schema, edited, now_ms=NOW_MS + DAY_MS) == 2
    after = rows(place)
    assert {name for name, _ in after if after[name, "v1.0"] != before[name, "v1.0"]} == {
        *("open", "close"),
    }
    row = after["close", "v1.0"]
    assert (row["formula"], row["inputs"], row["added_at"]) == ("the last print", ["trades"], NOW)
    assert after["open", "v1.0"]["pack_proposed"] == "v1.1"
    assert write_registry(place.dsn, place.schema, PACK, now_ms=NOW_MS + DAY_MS) == 2
    assert after.keys() == rows(place).keys()
    assert rows(place)["open", "v1.0"]["pack_proposed"] is None


def test_a_column_that_a_later_pack_dropped_is_deprecated(place: Place) -> None:
    """v1.0 and v1.9 have it, v1.10 and v1.11 do not: deprecated when v1.10 first ran, and what the
    later packs still have is left as it is."""
    same = pack("v1.9", lambda columns: None)
    steps = [PACK, same, without_hot("v1.10"), without_hot("v1.11")]
    changed = [
        write_registry(place.dsn, place.schema, features, now_ms=NOW_MS + day * DAY_MS)
        for day, features in enumerate(steps)
    ]
    count = len(PACK.registry)
    assert changed == [count, count, count - 1 + 2, count - 1]
    deprecated = rows(place, "deprecated_at is not null")
    assert {key: row["deprecated_at"] for key, row in deprecated.items()} == {
        ("is_hot", "v1.0"): NOW + timedelta(days=2),
        ("is_hot", "v1.9"): NOW + timedelta(days=2),
    }
    assert deprecated["is_hot", "v1.9"]["added_at"] == NOW + timedelta(days=1)
    assert rows(place)["is_in_universe", "v1.11"]["added_at"] == NOW + timedelta(days=3)


def test_an_earlier_pack_runs_again(place: Place) -> None:
    """Rolled back: its columns are in use again, and those of the later pack are left alone."""

    def edit(columns: dict[str, dict[str, Any]]) -> None:
        del columns["is_hot"]
        columns["is_warm"] = columns["is_in_universe"] | {"name": "is_warm"}

    later = pack("v1.1", edit)
    write_registry(place.dsn, place.schema, PACK, now_ms=NOW_MS)
    write_registry(place.dsn, place.schema, later, now_ms=NOW_MS + DAY_MS)
    assert set(rows(place, "deprecated_at is not null")) == {("is_hot", "v1.0")}
    assert write_registry(place.dsn, place.schema, PACK, now_ms=NOW_MS + 2 * DAY_MS) == 1
    assert rows(place, "deprecated_at is not null") == {}
    assert rows(place)["is_hot", "v1.0"]["added_at"] == NOW
    assert ("is_warm", "v1.1") in rows(place)


def test_a_column_that_left_a_pack_under_way(place: Place) -> None:
    """Of the same version, too: what the pack has not is deprecated."""
    write_registry(place.dsn, place.schema, PACK, now_ms=NOW_MS)
    assert write_registry(place.dsn, place.schema, without_hot("v1.0"), now_ms=NOW_MS) == 1
    assert set(rows(place, "deprecated_at is not null")) == {("is_hot", "v1.0")}


def test_many_start_together(empty_place: Place, tmp_path: Path) -> None:
    """Several processes open an empty database: one writes the rows, all find them."""
    with ThreadPoolExecutor(4) as pool:
        databases = [database_at(empty_place, tmp_path, NOW_MS + i) for i in range(4)]
        for writer in list(pool.map(lambda database: database.writer(PACK), databases)):
            writer.close()
    found = rows(empty_place)
    assert len(found) == len(PACK.registry)
    assert len({row["xmin"] for row in found.values()}) == 1


def test_psql_shows_a_column_and_its_comments(empty_place: Place, tmp_path: Path) -> None:
    """What someone at psql reads: the row, the comment of the column it is about, and its own."""
    database_at(empty_place, tmp_path).writer(PACK).close()
    asked = (
        'select family, type, units, "window", timeframes, formula, inputs, normalised, status'
        " from feature_registry where feature_name = 'oi_roc_m_15';"
    )
    column = next(column for column in PACK.registry if column.name == "oi_roc_m_15")
    assert psql(empty_place, asked) == (
        "positioning|double precision|ratio|m_15|{15m}|"
        + column.formula
        + "|{oi_close_base}|t|active"
    )
    comment = psql(
        empty_place,
        "select col_description('features_snapshot'::regclass, attnum) from pg_attribute"
        " where attrelid = 'features_snapshot'::regclass and attname = 'oi_roc_m_15';",
    )
    assert comment == f"{column.formula}; null: {column.when_null} [ratio, pack v1.0]"
    described = psql(empty_place, "\\d+ feature_registry")
    assert "window|text||not null||extended||" in described
    assert "what it looks back on, such as m_5 for five minutes [window, feature pack]" in described


def test_the_query_of_the_page_runs(empty_place: Place, tmp_path: Path) -> None:
    """The data dictionary's way back from a baseline, on a row whose baseline is known."""
    writer = database_at(empty_place, tmp_path).writer(PACK)
    known = {"b_mean_vol": 11.5, "b_scale_vol": 0.25}
    writer.write_market([market(Row(5, "SOL", "1m", NOW_MS // 60_000 * 60_000, 0, known, {}))])
    writer.close()
    page = (Path(__file__).parents[2] / "docs/columns.md").read_text()
    (example,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    symbol, usual, at_3 = psql(empty_place, example).split("|")
    assert symbol == "SOL"
    assert float(usual) == pytest.approx(math.expm1(11.5), rel=1e-9)
    assert float(at_3) == pytest.approx(math.expm1(11.5 + 3 * 0.25), rel=1e-9)


@pytest.mark.parametrize("tf", ["1m", "15m", "1h"])
def test_a_writer_knows_the_names_of_every_timeframe(
    empty_place: Place, tmp_path: Path, tf: str
) -> None:
    """A row of each timeframe with all it can carry is stored under the names it has there."""
    stored = [column for column in PACK.stored if tf in column.tfs]
    full = {column.name: SAMPLES[column.type] for column in stored}
    writer = database_at(empty_place, tmp_path).writer(PACK)
    writer.write_market([market(Row(5, "SOL", tf, NOW_MS // 3_600_000 * 3_600_000, 0, full, {}))])
    writer.close()
    with open_session(empty_place.dsn, empty_place.schema) as connection:
        cursor = connection.cursor(row_factory=dict_row)
        row = cursor.execute("select * from features_snapshot").fetchone()
    assert row is not None
    key = {"asset_uid", "symbol", "tf", "exchange_ts", "revision", "extras_json"}
    assert {name for name, value in row.items() if value is not None} == full.keys() | key
    same = [column.name for column in stored if column.type != "timestamptz"]
    assert {name: row[name] for name in same} == {name: full[name] for name in same}


def market(row: Row) -> MarketPhase:
    """A sealed phase with one row."""
    return MarketPhase(Phase(row.exchange_ts_ms, False, 1, row.exchange_ts_ms + 1500), (), (row,))
