"""Broker, database and process are killed under a replay: what is stored is that of a quiet run.

Rows with their revisions and values, frames, events byte by byte, suppressions in the tables, and
the ids in the topic: as sets and as counts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from bytewax.recovery import init_db_dir
from confluent_kafka import Consumer, KafkaException, TopicPartition

from dataflows.connectors.embedded_postgres import EmbeddedPostgres, PostgresError
from dataflows.connectors.kafka import topic_names
from dataflows.connectors.migrate import migrate, open_session
from fixtures.broker import Broker

sys.path.insert(0, str(Path(__file__).parent))  # the run is also a program of its own
from outage_run import Orders, run

if TYPE_CHECKING:
    from conftest import KafkaServer

pytestmark = [pytest.mark.service, pytest.mark.engine, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
START_MS = 1_790_000_000_000 // 60_000 * 60_000
PACED_MS = START_MS + 203 * 60_000  # the warm-up is read at once, then 35 minutes at 60x
SPEED = 60.0
TABLES = {
    "features_snapshot": "asset_uid, tf, exchange_ts",
    "market_snapshot": "tf, exchange_ts",
    "anomaly_event": "event_id",
    "suppression": "asset_uid, tf, exchange_ts, revision, detector_id",
    "universe_audit": "exchange_ts",
    "hotlist_move": "asset_uid, exchange_ts, move",
    "hotlist_state": "asset_uid",
    "dead_letter": "minute_ts, digest",
}
SMALL = {"shared_buffers": "32MB", "max_wal_size": "128MB"}  # fsync stays on: it is killed


@dataclass
class Stage:
    """The servers of a test, and where its run writes."""

    data: Path
    broker: Broker
    orders: Orders
    servers: list[EmbeddedPostgres]  # the database, each time that it was started

    def start_database(self) -> None:
        """Start the server again; sessions of the killed one may hold its memory for a moment."""
        for _ in range(50):
            self.servers.append(EmbeddedPostgres(self.data, settings=SMALL))
            try:
                self.servers[-1].start()
            except PostgresError:
                time.sleep(0.2)
            else:
                return
        raise AssertionError("the database did not come back")

    def kill_database(self) -> None:
        """As a power cut of the process would."""
        pid = self.servers[-1].pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def disk(self, full: bool) -> None:
        """Fill the disk of the spools, or free it."""
        path = Path(self.orders.full)
        path.touch() if full else path.unlink()


@pytest.fixture
def stage(
    spare_data: Path, own_broker: Broker, topic_suffix: str, episode_log: Path, tmp_path: Path
) -> Iterator[Stage]:
    """A database server and a broker of the test's own, to be killed."""
    server = EmbeddedPostgres(spare_data, settings=SMALL).start()
    schema = f"run_{topic_suffix.replace('-', '_')}"
    migrate(server.dsn(), schema)
    names = topic_names(topic_suffix)
    made = Stage(
        spare_data,
        own_broker,
        Orders(
            *(str(episode_log), str(tmp_path / "out"), server.dsn(), schema),
            *(own_broker.bootstrap, names.live, names.dlq),
            *("", str(tmp_path / "full"), PACED_MS, SPEED),
        ),
        [server],
    )
    yield made
    for each in reversed(made.servers):
        each.stop()


@pytest.fixture(scope="session")
def quiet(
    postgres_server: str,
    kafka_server: KafkaServer,
    episode_log: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What a run without any fault leaves, at full speed."""
    folder, schema = tmp_path_factory.mktemp("quiet"), f"quiet_{os.getpid()}"
    migrate(postgres_server, schema)
    names = topic_names(schema.replace("_", "-"))
    orders = Orders(
        *(str(episode_log), str(folder / "out"), postgres_server, schema),
        *(kafka_server.bootstrap, names.live, names.dlq, "", str(folder / "full"), 1 << 60, SPEED),
    )
    run(orders)
    return found(orders)


def found(orders: Orders) -> dict[str, Any]:
    """Everything a run left: tables, topic, files."""
    left: dict[str, Any] = {}
    with open_session(orders.dsn, orders.schema) as connection:
        for table, key in TABLES.items():
            text = f"select * from {table} order by {key}"
            left[table] = [tuple(map(repr, row)) for row in connection.execute(text.encode())]
    left["topic"] = sorted(topic(orders.bootstrap, orders.topic))
    for name in ("rows", "frames", "events", "suppressed"):
        left[name] = (Path(orders.out) / f"{name}.ndjson").read_bytes()
    return left


def topic(bootstrap: str, name: str) -> list[bytes]:
    """The values a topic holds, each as often as it does."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "t", "log_level": 2})
    try:
        parts = reader.list_topics(name, timeout=20).topics[name].partitions
        places = [TopicPartition(name, part, 0) for part in parts]
        left = sum(end_of(reader, place) for place in places)
        reader.assign(places)
        values = []
        while len(values) < left:
            message = reader.poll(20)
            assert message is not None
            if message.error() is None:
                values.append(message.value() or b"")
        return values
    finally:
        reader.close()


def end_of(reader: Consumer, place: TopicPartition) -> int:
    """Where a partition ends; a broker answers before it leads."""
    for _ in range(100):
        try:
            return int(reader.get_watermark_offsets(place, timeout=20)[1])
        except KafkaException:
            time.sleep(0.1)
    raise AssertionError(place)


def assert_same(orders: Orders, quiet: dict[str, Any]) -> None:
    """Nothing is missing, nothing is there twice, and every value is that of the quiet run."""
    left = found(orders)
    for name, expected in quiet.items():
        assert len(left[name]) == len(expected), name
        assert left[name] == expected, name
    ids = Counter(json.loads(value)["event_id"] for value in left["topic"])
    assert set(ids.values()) == {1}
    assert len(ids) == len(left["anomaly_event"]) >= 10
    assert left["events"].count(b"\n") == len(ids)
    assert not list((Path(orders.out) / "spool").iterdir())


def script(steps: list[tuple[float, Callable[[], object]]]) -> tuple[threading.Thread, list[str]]:
    """Do something at some seconds after the pace begins; what goes wrong is in the list."""
    failed: list[str] = []

    def play() -> None:
        began = time.monotonic()
        for minute, act in steps:
            time.sleep(max(0.0, began + minute - time.monotonic()))
            try:
                act()
            except Exception as error:  # shown by the test
                failed.append(repr(error))

    return threading.Thread(target=play, daemon=True), failed


def test_a_replay_at_sixty_times_bears_the_loss_of_everything_it_writes_to(
    stage: Stage, quiet: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A second of wall time is a minute of feed; episodes begin at 3, 13, 21 and 27.

    broker    ..xxxxxxxxxxxxxx...............................
    database  ......xxxxxxxxxxxxxx..........xx...............
    disk      ..........xxx..................................
    """
    broker = threading.Thread(target=stage.broker.start)
    player, failed = script(
        [
            (2, stage.broker.kill),
            (6, stage.kill_database),
            (10, lambda: stage.disk(full=True)),
            (13, lambda: stage.disk(full=False)),
            (14, broker.start),
            (18, stage.start_database),
            (27, stage.kill_database),
            (29, stage.start_database),
        ]
    )

    def watch(reached_ms: int) -> None:
        if reached_ms >= PACED_MS and not player.ident:
            player.start()

    figures = run(stage.orders, watch)
    player.join()
    broker.join()
    assert failed == []
    assert_same(stage.orders, quiet)
    with capsys.disabled():
        print(json.dumps({"outages": figures}, indent=1))
    assert figures["refused"] > 0
    for sink in (f"kafka-{stage.orders.topic}", "postgres-market", "postgres-events"):
        spooled = figures[f"alpha_spool_spooled_total['{sink}']"]
        assert spooled == figures[f"alpha_spool_drained_total['{sink}']"] > 0


def test_kills_of_the_process_in_an_outage_change_nothing_either(
    stage: Stage, quiet: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 while broker and database are away, and again while they come back."""
    orders = msgspec.structs.replace(stage.orders, store=str(tmp_path / "store"))
    Path(orders.store).mkdir()
    init_db_dir(Path(orders.store), 1)
    path = tmp_path / "orders.json"
    path.write_bytes(msgspec.json.encode(orders))
    command = [sys.executable, str(ROOT / "tests/connectors/outage_run.py"), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=environment)

    def until(condition: Callable[[], bool]) -> None:
        for _ in range(600):
            if condition():
                return
            time.sleep(0.1)
        raise AssertionError("nothing happened for a minute")

    def events() -> int:
        file = Path(orders.out) / "events.ndjson"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    spools = Path(orders.out) / "spool"
    running = start()
    try:
        until(lambda: events() >= 3)  # some are in topic and tables
        running.kill()  # a plain kill: the open epoch is repeated
        running.wait()
        running = start()
        until(lambda: events() >= 3)
        stage.broker.kill()
        stage.kill_database()
        until(lambda: spools.exists() and len(list(spools.iterdir())) == 3)
        time.sleep(3.0)
        running.kill()
        running.wait()
        running = start()  # goes on into the spools, without any server
        time.sleep(12.0)
        assert running.poll() is None
        running.kill()
        running.wait()
        stage.broker.start()
        stage.start_database()
        running = start()
        assert running.wait(timeout=120) == 0
    finally:
        running.kill()
        running.wait()
    assert_same(orders, quiet)
    figures = json.loads((Path(orders.out) / "figures.json").read_bytes())
    with capsys.disabled():
        print(json.dumps({"kills, counters of the last process": figures}, indent=1))
    assert figures[f"alpha_kafka_skipped_total['{orders.topic}']"] > 0
