"""`alpha db migrate`, `roles`, `partitions`, `retention`; processes that start at once."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from typer.testing import CliRunner

from dataflows.cli import app
from dataflows.connectors.clock import SystemClock
from dataflows.connectors.database import Database
from dataflows.connectors.migrate import (
    PARTITIONED,
    create_partitions,
    month_of,
    open_session,
    read_migrations,
)
from dataflows.connectors.roles import ROLES, roles_text
from packs.loader import load_packs

if TYPE_CHECKING:
    from conftest import Place

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[2]
FILES = [migration.name for migration in read_migrations()]


@pytest.fixture
def given(empty_place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A schema that is not there yet, in the database that the environment names."""
    for name in [name for name in os.environ if name.startswith("ALPHA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALPHA_DATABASE_URL", empty_place.dsn)
    return empty_place


def alpha_db(place: Place, *arguments: str) -> Any:
    """What a command says as JSON."""
    result = CliRunner().invoke(app, ["db", *arguments, "--schema", place.schema, "--json"])
    assert result.exit_code == 0, (result.stderr, result.exception)
    return orjson.loads(result.stdout)


def test_an_operator_prepares_a_database(given: Place) -> None:
    """From nothing to tables, roles and months; each command again finds it done."""
    first = alpha_db(given, "migrate")
    assert first["applied"] == FILES
    assert first["registry_rows"] > 100
    again = alpha_db(given, "migrate")
    assert (again["applied"], again["registry_rows"]) == ([], 0)
    assert alpha_db(given, "roles")["roles"] == list(ROLES)
    assert alpha_db(given, "roles")["roles"] == list(ROLES)
    this = month_of(SystemClock().now_ns() // 1_000_000)
    made = alpha_db(given, "partitions", "--months", "1")["made"]
    assert len(made) == 2 * len(PARTITIONED)
    assert f"features_snapshot_1m_{this:%Y%m}" in made
    assert f"anomaly_event_{this:%Y%m}" in made
    assert len(alpha_db(given, "partitions")["made"]) == len(PARTITIONED)
    assert alpha_db(given, "partitions")["made"] == []


def test_retention_tells_before_it_drops(given: Place) -> None:
    """A dry run, the run, and a run that finds nothing."""
    alpha_db(given, "migrate")
    with open_session(given.dsn, given.schema) as connection:
        create_partitions(connection, given.schema, [(p, date(2022, 1, 1)) for p in PARTITIONED])
    told = alpha_db(given, "retention", "--dry-run")
    assert {(m["table"], m["name"]) for m in told["months"]} == {
        (parent, f"{parent}_202201") for parent in PARTITIONED
    }
    assert alpha_db(given, "retention")["months"] == told["months"]
    assert alpha_db(given, "retention")["months"] == []


def test_people_are_told_in_words(given: Place) -> None:
    """Without --json."""
    schema = ["--schema", given.schema]
    said = [
        CliRunner().invoke(app, ["db", *words, *schema]).stdout
        for words in (["migrate"], ["roles"], ["partitions"], ["retention"])
    ]
    assert said[0].startswith(f"schema {given.schema}: {len(FILES)} files applied, ")
    assert "alpha_reader" in said[1]
    assert "features_snapshot_1h_" in said[2]
    assert said[3] == "nothing is older than it is kept\n"
    with open_session(given.dsn, given.schema) as connection:
        create_partitions(connection, given.schema, [("features_snapshot_15m", date(2022, 1, 1))])
    told = CliRunner().invoke(app, ["db", "retention", "--dry-run", *schema]).stdout
    assert "features_snapshot_15m_202201" in told
    assert told.endswith("would be dropped\n")


def test_the_sql_of_the_roles_can_be_read_first(given: Place) -> None:
    """For an administrator who runs it himself; nothing is run."""
    shown = CliRunner().invoke(app, ["db", "roles", "--show"])
    assert shown.stdout.strip() == roles_text().strip()


def test_no_database_is_a_message(given: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """`off` is no database to work on."""
    monkeypatch.setenv("ALPHA_DATABASE_URL", "off")
    result = CliRunner().invoke(app, ["db", "partitions"])
    assert result.exit_code == 2
    assert "ALPHA_DATABASE_URL" in result.stderr


def test_the_embedded_server_runs_only_meanwhile(server_folder: Path, given: Place) -> None:
    """A directory by --dir comes before the environment; its server is stopped afterwards."""
    folder = ["--dir", str(server_folder / "commands"), "--json"]
    done = CliRunner().invoke(app, ["db", "migrate", *folder])
    assert orjson.loads(done.stdout)["applied"] == FILES, done.stderr
    found = orjson.loads(CliRunner().invoke(app, ["db", "url", *folder]).stdout)
    assert found["running"] is False


@pytest.mark.slow
def test_processes_that_start_at_once_apply_every_file_once(given: Place) -> None:
    """Four processes on a schema that none of them finds: each file by exactly one of them."""
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from dataflows.cli import main"
    command = [sys.executable, "-c", f"{program}; main()", str(ROOT), "db", "migrate", "--json"]
    command += ["--schema", given.schema]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ended = [(process.communicate(timeout=120), process.returncode) for process in started]
    assert [code for _, code in ended] == [0] * 4, ended
    results = [orjson.loads(out) for (out, _), _ in ended]
    assert sorted(name for result in results for name in result["applied"]) == sorted(FILES)
    assert [bool(result["registry_rows"]) for result in results].count(True) == 1


def test_a_job_without_rights_says_so_and_goes_on(given: Place, tmp_path: Path) -> None:
    """Prepared by an operator, it runs as a user who may write rows and events alone."""
    alpha_db(given, "migrate")
    alpha_db(given, "roles")
    with open_session(given.dsn, given.schema) as connection:
        name = f"job_{given.schema}"
        connection.execute(
            f"create role {name} login password 'x' in role alpha_builder, alpha_detector".encode()
        )
        said: list[str] = []
        try:
            database = Database(
                tmp_path,
                f"{given.dsn} user={name} password=x",
                schema=given.schema,
                packs=load_packs(),
                retain=True,
                say=said.append,
            )
            packs = load_packs()
            database.writer(packs.features).close()
        finally:
            connection.execute(f"drop role {name}".encode())
    assert [line.partition(":")[0] for line in said] == ["PostgreSQL", "PostgreSQL"]
    assert "alpha db partitions" in said[0]
    assert "alpha db migrate" in said[1]
