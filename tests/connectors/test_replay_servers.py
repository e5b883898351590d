"""`alpha replay` into PostgreSQL and Kafka: what its files hold, and nothing of the live."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from psycopg import sql
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner, Result

from dataflows.cli import app, replay_servers
from dataflows.cli.failures import DONE, FAILED, USAGE
from dataflows.connectors.kafka import topic_names
from dataflows.connectors.replay_schema import MARK, claim_schema
from fixtures.market import FrameOptions, Scenario, default_assets, lines

pytestmark = [pytest.mark.service, pytest.mark.engine]

V1 = Path(__file__).parents[2] / "packs" / "detectors" / "v0.1.yaml"
PASSWORD = "ge/heim@1:2"
READ_S = 20.0
Alpha = Callable[..., Result]


@pytest.fixture
def alpha(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Alpha:
    """Run `alpha replay` in this process, in an empty directory."""
    for name in ("ALPHA_DATABASE_URL", "ALPHA_KAFKA_BOOTSTRAP", "ALPHA_KAFKA_OPTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def run(log: Path, *arguments: object) -> Result:
        given = ["replay", log, "--out", tmp_path / "out", "--json", *arguments]
        result = CliRunner().invoke(app, [str(each) for each in given])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture(scope="module")
def short_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three quiet minutes of two assets in one file."""
    frames = FrameOptions(quote_ms=(5000, 5000, 8000, 8000), book=False, ctx_ms=15_000)
    path = tmp_path_factory.mktemp("short") / "short.log"
    path.write_bytes(
        b"".join(
            line + b"\n"
            for line in lines(Scenario(3, 1_790_000_100_000, 3, default_assets(2), (), frames))
        )
    )
    return path


def failed(result: Result, code: int, *words: str) -> None:
    """Assert one message with these words, and nothing on stdout."""
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    assert result.stderr.lower().count("error:") == 1
    assert [word for word in words if word not in result.stderr] == []
    assert "Traceback" not in result.stderr


def events_file() -> list[bytes]:
    """The lines of the events of the replay in this directory."""
    return Path("out/events.ndjson").read_bytes().splitlines()


def dump(dsn: str, schema: str) -> dict[str, list[str]]:
    """Every row of every table of a schema, as text."""
    with psycopg.connect(dsn) as connection:
        names = connection.execute(
            "select relname from pg_class where relnamespace = to_regnamespace(%s)"
            " and relkind in ('r', 'p') and not relispartition",
            [schema],
        ).fetchall()
        found = {}
        for (name,) in names:
            text = sql.SQL("select t::text from {} t").format(sql.Identifier(schema, name))
            found[name] = sorted(row[0] for row in connection.execute(text))
    return found


def stored_events(dsn: str, schema: str) -> list[bytes]:
    """Exact payloads of a schema, which all say that they are of a replay."""
    text = sql.SQL("select payload_bytes, replay_of, event_id::text from {}")
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(text.format(sql.Identifier(schema, "anomaly_event"))).fetchall()
    assert all(replay_of for _, replay_of, _ in rows)
    assert all(orjson.loads(value)["event_id"] == event_id for value, _, event_id in rows)
    return [bytes(value) for value, _, _ in rows]


def read(bootstrap: str, topic: str) -> list[Message]:
    """Everything a topic holds."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "t"})
    parts = reader.list_topics(topic, timeout=READ_S).topics[topic].partitions
    places = [TopicPartition(topic, part, 0) for part in parts]
    left = sum(reader.get_watermark_offsets(place, timeout=READ_S)[1] for place in places)
    reader.assign(places)
    found: list[Message] = []
    while left > len(found):
        message = reader.poll(READ_S)
        assert message is not None
        assert message.error() is None
        found.append(message)
    reader.close()
    return found


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens."""
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        yield int(each.getsockname()[1])


@pytest.mark.slow
def test_table_and_topic_are_the_events_file(
    alpha: Alpha,
    database: str,
    real_kafka: Any,
    topic_suffix: str,
    episode_log: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same ids and bytes everywhere, the mark in the topic; a second replay changes nothing."""
    monkeypatch.setenv("ALPHA_TOPIC_SUFFIX", topic_suffix)
    monkeypatch.setenv("ALPHA_DATABASE_URL", database)
    live = dump(database, "public")
    names = topic_names(topic_suffix)
    first = alpha(episode_log, "--database", "env", "--kafka", real_kafka.bootstrap)
    assert first.exit_code == DONE, first.stderr
    expected = events_file()
    assert len(expected) >= 10
    assert not any(b"replay_of" in line for line in expected)
    assert sorted(stored_events(database, "replay")) == sorted(expected)
    messages = read(real_kafka.bootstrap, names.replay)
    unmarked = []
    for message in messages:
        payload = orjson.loads(message.value() or b"")
        assert payload["provenance"].pop("replay_of") is True
        assert dict(message.headers() or [])["ce_replayof"] == b"true"
        unmarked.append(orjson.dumps(payload, option=orjson.OPT_SORT_KEYS))
    assert sorted(unmarked) == sorted(expected)
    assert read(real_kafka.bootstrap, names.dlq) == []

    summary = orjson.loads(first.stdout)
    counts = {name: product["count"] for name, product in summary["products"].items()}
    assert summary["written_to"]["kafka"] == {
        "sent": {names.replay: counts["events"], names.dlq: 0}
    }
    assert summary["written_to"]["database"] == {
        "server": "env",
        "schema": "replay",
        "rows": {
            "features_snapshot": counts["rows"] - amended(Path("out/rows.ndjson")),
            "market_snapshot": counts["frames"] - amended(Path("out/frames.ndjson")),
            "anomaly_event": counts["events"],
            "shadow_event": counts["shadow"],
            "suppression": counts["suppressed"],
            "dead_letter": 0,
            "gap": 1,
        },
    }

    before = dump(database, "replay")
    second = alpha(episode_log, "--database", "env", "--workers", "2")
    assert orjson.loads(second.stdout)["products"] == summary["products"]
    assert dump(database, "replay") == before
    assert dump(database, "public") == live


def amended(path: Path) -> int:
    """How many lines replace an earlier one of the same key."""
    keys = [
        (line.get("asset_uid"), line["tf"], line["exchange_ts"])
        for line in map(orjson.loads, path.read_bytes().splitlines())
    ]
    return len(keys) - len(set(keys))


def test_the_embedded_server_needs_no_address(
    alpha: Alpha, short_log: Path, server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started under ALPHA_DATA_DIR and stopped again; the tables stay."""
    monkeypatch.setenv("ALPHA_DATA_DIR", str(server_folder / "replays"))
    for _ in range(2):
        ran = alpha(short_log, "--database", "embedded", "--schema", "three_minutes")
        assert ran.exit_code == DONE, ran.stderr
        told = orjson.loads(ran.stdout)["written_to"]["database"]
        assert (told["server"], told["schema"]) == ("embedded", "three_minutes")
        assert told["rows"]["features_snapshot"] == 6


def test_a_schema_holds_replays_of_one_configuration(
    alpha: Alpha, database: str, short_log: Path
) -> None:
    """Other packs are refused before anything runs, or replace what is there."""
    place = ("--database", database, "--schema", "trial")
    assert alpha(short_log, *place).exit_code == DONE
    before = dump(database, "trial")
    other = ("--detectors", V1)
    failed(alpha(short_log, *place, *other), USAGE, "--schema trial", "--replace", "sha256:")
    assert dump(database, "trial") == before
    assert alpha(short_log, *place, *other, "--replace").exit_code == DONE
    (line,) = dump(database, "trial")["config_audit"]
    assert line != before["config_audit"][0]
    assert len(dump(database, "trial")["features_snapshot"]) == 6


def test_tables_of_others_are_left_alone(alpha: Alpha, database: str, short_log: Path) -> None:
    """Whatever is asked for: the live schema, one of another program; an empty one is taken."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create schema theirs create table anomaly_event (x int)")
        connection.execute("create schema empty")
    before = {name: dump(database, name) for name in ("public", "theirs")}
    for more in ((), ("--replace",)):
        ran = alpha(short_log, "--database", database, "--schema", "theirs", *more)
        failed(ran, USAGE, "--schema theirs", "left alone")
        ran = alpha(short_log, "--database", database, "--schema", "public", *more)
        failed(ran, USAGE, "--schema public", "live tables")
    assert {name: dump(database, name) for name in before} == before
    ran = alpha(short_log, "--database", database, "--schema", "empty")
    assert orjson.loads(ran.stdout)["written_to"]["database"]["rows"]["market_snapshot"] == 3


def test_a_schema_is_marked_with_what_made_it(database: str) -> None:
    """So that it is known later that it may be dropped."""
    claim_schema(database, "marked", "sha256:x", replace=True)
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "select obj_description('marked'::regnamespace, 'pg_namespace')"
        ).fetchone()
    assert row == (MARK,)


@pytest.mark.parametrize("name", ["Replay", "1st", "pg_replay", "a-b", "x" * 64, "a;b", ""])
def test_a_name_that_is_none(alpha: Alpha, short_log: Path, name: str) -> None:
    """Refused before a server is reached."""
    dsn = "postgresql://u@127.0.0.1:1/x"
    failed(alpha(short_log, "--database", dsn, "--schema", name), USAGE, "--schema", "letters")


def test_servers_that_do_not_answer(
    alpha: Alpha,
    short_log: Path,
    closed_port: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """One message with the option; nothing is written."""
    dsn = make_conninfo(host="127.0.0.1", port=closed_port, user="u", password=PASSWORD)
    ran = alpha(short_log, "--database", dsn)
    failed(ran, FAILED, "--database", str(closed_port))
    assert PASSWORD not in ran.stderr
    monkeypatch.setenv("ALPHA_DATABASE_URL", dsn)
    failed(alpha(short_log, "--database", "env"), FAILED, "ALPHA_DATABASE_URL")
    monkeypatch.setattr(replay_servers, "REACH_S", 1.0)
    kafka = f"127.0.0.1:{closed_port}"
    failed(alpha(short_log, "--kafka", kafka), FAILED, f"--kafka {kafka}", "no broker")
    assert not list(tmp_path.glob("out/*"))


def test_options_that_lack_something(
    alpha: Alpha, short_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What belongs together, and what the environment does not give."""
    failed(alpha(short_log, "--replace"), USAGE, "--replace", "--database")
    failed(alpha(short_log, "--schema", "other"), USAGE, "--schema", "--database")
    failed(alpha(short_log, "--kafka", "env"), USAGE, "ALPHA_KAFKA_BOOTSTRAP")
    failed(alpha(short_log, "--database", "env"), USAGE, "ALPHA_DATABASE_URL")
    monkeypatch.setenv("ALPHA_DATABASE_URL", "off")
    failed(alpha(short_log, "--database", "env"), USAGE, "ALPHA_DATABASE_URL")
    failed(alpha(short_log, "--speed", "0"), USAGE, "--speed")


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:ge/heim@127.0.0.1/x",
        "postgresql://u:12/heim@127.0.0.1/x",
        "postgresql://u:ge@heim@127.0.0.1/x",
        "postgresql://u:heim%zz@127.0.0.1/x",
        "http://u:heim@127.0.0.1/x",
        "host=127.0.0.1 password=ge heim",
        "host=127.0.0.1 password=ge heim=1",
        "host=127.0.0.1 password='heim",
        "heim",
    ],
)
def test_no_message_shows_a_password_that_was_not_encoded(
    alpha: Alpha, short_log: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library quotes what it cannot read, and tries parts of a password as a host."""
    ran = alpha(short_log, "--database", dsn)
    failed(ran, USAGE, "--database", "%40")
    assert "heim" not in ran.stderr
    monkeypatch.setenv("ALPHA_DATABASE_URL", dsn)
    monkeypatch.setenv("ALPHA_REST_URL", "http://127.0.0.1:1")
    for command in (["db", "migrate"], ["doctor"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code != DONE
        assert "heim" not in result.output
        assert "Traceback" not in result.output
