"""A Kafka topic is read from kept positions; against librdkafka's mock cluster.

With ALPHA_KAFKA_BOOTSTRAP against that broker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from dataflows.connectors.clock import SystemClock
from dataflows.connectors.dead_file import DeadFile
from dataflows.connectors.kafka_source import KafkaSource
from dataflows.connectors.state_file import StateFile
from dataflows.connectors.topic_source import Record, SourceError
from dataflows.consume import Consumer
from dataflows.inbox import Inbox, Wanted

pytestmark = pytest.mark.service

Make = Callable[..., bytes]
QUIET = {"log_level": 0}


class Broker:
    """A mock cluster, or the broker that is given; and a producer."""

    def __init__(self, address: str | None) -> None:
        self._is_real = address is not None
        if address is None:
            self._host = Producer(
                {"test.mock.num.brokers": 1, "bootstrap.servers": "ignored", **QUIET}
            )
            brokers = self._host.list_topics(timeout=10).brokers.values()
            address = ",".join(f"{b.host}:{b.port}" for b in brokers)
        self.address = address
        self._producer = Producer({"bootstrap.servers": self.address, **QUIET})

    def make(self, topic: str) -> None:
        """Make a topic of four partitions; a mock cluster does so when it is first used."""
        if self._is_real:
            admin = AdminClient({"bootstrap.servers": self.address})
            for made in admin.create_topics([NewTopic(topic, 4, 1)]).values():
                made.result(30)

    def remove(self, topic: str) -> None:
        """Remove a topic."""
        if self._is_real:
            admin = AdminClient({"bootstrap.servers": self.address})
            for removed in admin.delete_topics([topic]).values():
                removed.result(30)

    def add(self, topic: str, *messages: tuple[str, bytes | None]) -> None:
        """Produce (key, value) pairs and wait until they are there."""
        for key, value in messages:
            self._producer.produce(topic, key=key, value=value)
        assert self._producer.flush(20) == 0


@pytest.fixture(scope="module")
def broker() -> Broker:
    """A broker."""
    return Broker(os.environ.get("ALPHA_KAFKA_BOOTSTRAP"))


@pytest.fixture
def topic(broker: Broker, request: pytest.FixtureRequest) -> Iterator[str]:
    """A topic of the test's own."""
    name = "".join(c if c.isalnum() else "_" for c in request.node.name)
    topic = f"test.{os.getpid()}.{name}"
    broker.make(topic)
    yield topic
    broker.remove(topic)


@pytest.fixture
def source(broker: Broker, topic: str) -> Iterator[Callable[..., KafkaSource]]:
    """Return a maker of sources, at a position if one is given."""
    opened: list[KafkaSource] = []

    def new(position: Any = None) -> KafkaSource:
        one = KafkaSource(broker.address, topic, SystemClock())
        opened.append(one)
        if position is not None:
            one.seek(orjson.loads(orjson.dumps(position)))
        return one

    yield new
    for one in opened:
        one.close()


def to_the_end(source: KafkaSource) -> list[Record]:
    """Return all records that are there."""
    records: list[Record] = []
    for _ in range(100):
        records += source.poll(0.5)
        if source.at_end():
            return records
    raise AssertionError("no end")


def test_all_partitions_are_read_and_each_in_order(
    broker: Broker, topic: str, source: Callable[..., KafkaSource]
) -> None:
    """Every value once; offsets of a partition have no hole."""
    sent = [(str(n % 7), b"%d" % n) for n in range(200)]
    broker.add(topic, *sent)
    records = to_the_end(source())
    assert sorted(int(r.value) for r in records) == list(range(200))
    for partition in {r.partition for r in records}:
        own = [r for r in records if r.partition == partition]
        assert [r.offset for r in own] == list(range(len(own)))
        for key in range(7):
            values = [int(r.value) for r in own if int(r.value) % 7 == key]
            assert values == sorted(values)


def test_a_restart_goes_on_at_the_kept_positions(
    broker: Broker, topic: str, source: Callable[..., KafkaSource]
) -> None:
    """What came in between is read, what was read is not; partitions without any too."""
    broker.add(topic, *((str(n), b"%d" % n) for n in range(3)))
    first = source()
    assert len(to_the_end(first)) == 3
    broker.add(topic, *((str(n), b"%d" % n) for n in range(3, 20)))
    again = source(first.position())
    assert sorted(int(r.value) for r in to_the_end(again)) == list(range(3, 20))
    assert again.notes() == []


def test_only_what_is_new(broker: Broker, topic: str, source: Callable[..., KafkaSource]) -> None:
    """What is there is left out, and a position at the end survives a restart."""
    broker.add(topic, ("1", b"old"))
    one = source()
    one.seek_end()
    assert to_the_end(one) == []
    position = one.position()
    broker.add(topic, ("1", b"new"))
    assert [r.value for r in to_the_end(source(position))] == [b"new"]


def test_a_message_without_a_value_is_empty(
    broker: Broker, topic: str, source: Callable[..., KafkaSource]
) -> None:
    """It becomes a dead letter, not an error."""
    broker.add(topic, ("1", None))
    assert [r.value for r in to_the_end(source())] == [b""]


def test_a_broker_that_is_away_is_an_error_after_a_while() -> None:
    """The message says which topic, and how long was waited."""
    source = KafkaSource("127.0.0.1:1", "t", SystemClock(), QUIET, wait_s=0.0, metadata_s=0.5)
    with pytest.raises(SourceError, match="kafka:t"):
        source.poll(0.1)
    source.close()


def test_wrong_settings_and_positions_are_refused(broker: Broker) -> None:
    """Before anything is read."""
    with pytest.raises(SourceError):
        KafkaSource(broker.address, "t", SystemClock(), {"no.such.setting": "1"})
    source = KafkaSource(broker.address, "t", SystemClock())
    for position in (None, [1], {"x": 1}, {"0": None}):
        with pytest.raises(SourceError, match="position"):
            source.seek(position)
    source.close()


def test_the_consumer_shows_each_event_once_over_restarts(
    broker: Broker, topic: str, tmp_path: Path, pinned: list[bytes]
) -> None:
    """The same consumer as for files: repeats of the producer are dropped by event id."""
    shown: list[bytes] = []

    def run() -> Consumer:
        with StateFile(tmp_path / "state.json") as state:
            consumer = Consumer(
                KafkaSource(broker.address, topic, SystemClock()),
                Inbox(Wanted()),
                DeadFile(tmp_path / "dead.ndjson"),
                SystemClock(),
                show=lambda _, value: shown.append(value),
                tell=print,
                line=str,
                state=state,
            )
            consumer.resume()
            while consumer.step(0.5):
                pass
            consumer.close()
        return consumer

    keyed = [(str(orjson.loads(line)["asset_uid"]), line) for line in pinned]
    broker.add(topic, *keyed[:6])
    run()
    broker.add(topic, *keyed[4:], ("0", b"{"))
    counts = run().counts
    assert sorted(shown) == sorted(pinned)
    assert (counts["repeated"], counts["dead"]) == (2, 1)
