"""One partition of a topic inside a flow: read from an offset, without waiting, and without holes.

Rules of this file: the offset lives in the flow's own state; nothing is committed to the broker and
no group is joined; a read returns what is there already; a broker that is away is waited for; what
retention has removed before it was read is an error, never left out. Design 3, 7.
"""

from __future__ import annotations

from typing import NamedTuple, cast

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from dataflows.connectors.kafka import RETENTION_MS, SEGMENT_MS, Bus
from dataflows.connectors.topic_source import SourceError
from dataflows.contract import ROWS_TOPIC, TICKS_TOPIC

MESSAGE_BYTES_MAX = 10_000_000  # a log line may have 8 MiB; the usual message is far smaller
_WAIT_S = 10.0  # for one answer of a broker
_RETRY_S = 0.5
# What waiting does not cure; everything else the library goes on from.
_FINAL = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
}


class FlowTopics(NamedTuple):
    """Topics between the parts of a flow, of one environment."""

    ticks: str
    rows: str


def flow_topics(suffix: str | None = None) -> FlowTopics:
    """Return the topics of an environment; a suffix sets it apart from the others.

    >>> flow_topics("staging").rows
    'alpha.rows.v0.staging'
    """
    end = f".{suffix}" if suffix else ""
    return FlowTopics(TICKS_TOPIC + end, ROWS_TOPIC + end)


def writing(bus: Bus) -> Bus:
    """Return the cluster for a writer of large messages."""
    limit = {"message.max.bytes": MESSAGE_BYTES_MAX}
    return Bus(bus.bootstrap, bus.wait_s, bus.make_topics, {**limit, **bus.options}, bus.clock)


def make_topic(bus: Bus, name: str, partitions: int) -> None:
    """Make a topic of large messages if it is missing; raise if its partitions are other ones."""
    if bus.make_topics:
        config = {
            "cleanup.policy": "delete",
            "retention.ms": str(RETENTION_MS),
            "segment.ms": str(SEGMENT_MS),
            "max.message.bytes": str(MESSAGE_BYTES_MAX),
            "message.timestamp.type": "LogAppendTime",
        }
        topic = NewTopic(name, num_partitions=partitions, replication_factor=-1, config=config)
        bus.ensure([topic])
        found = partitions_of(bus, name)
        if found != partitions:
            raise SourceError(f"{name}: expected {partitions} partitions, found {found}")


def partitions_of(bus: Bus, topic: str) -> int:
    """Return how many partitions a topic has; wait for the broker and for the topic."""
    client = AdminClient({"bootstrap.servers": bus.bootstrap, "log_level": 2, **bus.options})
    until_s = bus.clock.monotonic_s() + bus.wait_s
    while True:
        why = "no such topic"
        try:
            found = client.list_topics(topic, timeout=_WAIT_S).topics[topic]
            if found.error is None and found.partitions:
                return len(found.partitions)
        except KafkaException as error:
            why = error.args[0].str()
        if bus.clock.monotonic_s() >= until_s:
            raise SourceError(f"{topic}: {why} at {bus.bootstrap} within {bus.wait_s:.0f} s")
        bus.clock.sleep(_RETRY_S)


class PartitionReader:
    """Reads a partition from an offset; None is its beginning. The topic must exist."""

    def __init__(self, bus: Bus, topic: str, partition: int, offset: int | None) -> None:
        self.name = f"{topic}/{partition}"
        self._place = TopicPartition(topic, partition)
        self._expected = offset
        self._consumer = Consumer(bus.reader_config())
        start = OFFSET_BEGINNING if offset is None else offset
        self._consumer.assign([TopicPartition(topic, partition, start)])

    def read(self, most: int) -> list[Message]:
        """Return up to `most` next messages that are here already."""
        taken: list[Message] = []
        for message in self._consumer.consume(most, 0):
            error = message.error()
            if error is None:
                self._follow_on(message)
                taken.append(message)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise SourceError(
                    f"{self.name}: offset {self._expected} is not there (any more): {error.str()}"
                )
            elif error.fatal() or error.code() in _FINAL:
                raise SourceError(f"{self.name}: {error.name()}: {error.str()}")
        return taken

    def ends(self) -> tuple[int, int]:
        """Return the offsets of the first message and of the next one to be written."""
        try:
            found = self._consumer.get_watermark_offsets(self._place, _WAIT_S)
        except KafkaException as error:
            raise SourceError(f"{self.name}: {error.args[0].str()}") from error
        if found is None:
            raise SourceError(f"{self.name}: no answer within {_WAIT_S:.0f} s")
        return found

    def end(self) -> int:
        """Return the offset at which a reader of what is there now is done; 0 if nothing is."""
        low, high = self.ends()
        return high if high > low else 0

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _follow_on(self, message: Message) -> None:
        offset = offset_of(message)
        if self._expected is not None and offset != self._expected:
            raise SourceError(f"{self.name}: expected offset {self._expected}, found {offset}")
        self._expected = offset + 1


def offset_of(message: Message) -> int:
    """Return where a message stands in its partition."""
    offset = message.offset()
    assert offset is not None
    return offset


def headers_of(message: Message) -> dict[str, bytes]:
    """Return a message's headers by name."""
    pairs = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    return {name: value or b"" for name, value in pairs}
