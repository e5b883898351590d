"""Events and dead letters to Kafka: exact bytes, in order per asset, and never silently lost.

Rules of this file: a batch is written when the broker has acknowledged every message of it, within
a bounded wait; anything else fails the batch, so that its epoch does not commit and is repeated
after the restart, under the same event ids. The partition is murmur2 of the key, as in Java's
clients; the number of partitions of a topic is therefore never changed. Topics are made if they are
missing and left alone if they are not. Build plan 11.3, 11.5; design 6, 7 (D24);
docs/decisions/0010.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog
from bytewax.outputs import StatefulSinkPartition
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from dataflows.connectors.clock import Clock, SystemClock
from dataflows.connectors.topics import OnePartitionSink
from dataflows.contract import CLOUD_TYPE, DLQ_TOPIC, SCHEMA_ID, TOPICS
from operators.contract import DeadLetter
from operators.publish import dead_json, event_json
from operators.records import Published

EVENT_PARTITIONS = 6
DLQ_PARTITIONS = 1
# Build plan 11.3 says 7 to 14 days. A segment is deleted as a whole, so it holds a day at most.
RETENTION_MS = 10 * 86_400_000
SEGMENT_MS = 86_400_000
WAIT_S = 30.0  # for acknowledgements; a broker that restarts needs about 10
_SLICE_S = 0.5  # between two looks at what has failed, and at Ctrl-C
_QUIET_S = 10.0  # between two lines about the same trouble
_REPORTS_MAX = 3  # failures that an error quotes
_JSON = b"application/json"
PARTITION_BY_KEY = -1

Headers = list[tuple[str, str | bytes | None]]

_log = structlog.get_logger(__name__)


class BusError(Exception):
    """Messages were not acknowledged, or topics cannot be made; the message says which and why."""


class TopicNames(NamedTuple):
    """Topics of one environment."""

    live: str
    shadow: str
    replay: str
    dlq: str


class Record(NamedTuple):
    """A message as it goes out: key and value as bytes, headers in order.

    partition : where to; left out, the key decides.
    """

    topic: str
    key: bytes
    value: bytes
    headers: Headers
    partition: int = PARTITION_BY_KEY


def topic_names(suffix: str | None = None) -> TopicNames:
    """Return the topics of an environment; a suffix sets it apart from the others.

    >>> topic_names("staging").live
    'alpha.events.v0.staging'
    """
    end = f".{suffix}" if suffix else ""
    live, shadow, replay = (TOPICS[name][0] + end for name in ("events", "shadow", "replay"))
    return TopicNames(live, shadow, replay, DLQ_TOPIC + end)


# --- messages ----------------------------------------------------------------------------------


def event_record(topic: str, payload: dict[str, Any], *, replay_of: bool = False) -> Record:
    """Return an event as a CloudEvent in binary mode, its canonical bytes as the value.

    replay_of : say so in the payload and in a header; the id stays.
    """
    origin = payload["provenance"]
    headers: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", payload["event_id"].encode()),
        ("ce_type", CLOUD_TYPE.encode()),
        ("ce_source", origin["producer"].encode()),
        ("ce_dataschema", SCHEMA_ID.encode()),
        ("content-type", _JSON),
    ]
    if replay_of:
        payload = {**payload, "provenance": {**origin, "replay_of": True}}
        headers.append(("ce_replayof", b"true"))
    return Record(topic, str(payload["asset_uid"]).encode(), event_json(payload), headers)


def dead_record(topic: str, dead: DeadLetter, origin: str) -> Record:
    """Return a dead letter; origin : the topic its event was meant for."""
    key = b"" if dead.asset_uid is None else str(dead.asset_uid).encode()
    headers: Headers = [("origin", origin.encode()), ("content-type", _JSON)]
    return Record(topic, key, dead_json(dead), headers)


# --- the broker --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bus:
    """A Kafka cluster.

    bootstrap : `HOST:PORT`, comma-separated. wait_s : how long acknowledgements may take before a
    batch fails. make_topics : off for a cluster that cannot or must not. options : more settings
    of librdkafka, such as those of TLS and SASL, over the ones of this file.
    """

    bootstrap: str
    wait_s: float = WAIT_S
    make_topics: bool = True
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    clock: Clock = field(default_factory=SystemClock)

    def publisher(self) -> Publisher:
        """Return a new producer; it belongs to the process that made it."""
        return Publisher(self.config(), self.wait_s, self.clock)

    def config(self) -> dict[str, Any]:
        """Return the settings of a producer."""
        return {
            "acks": "all",
            "enable.idempotence": True,  # a repeated request is written once, in order
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 5,
            "delivery.timeout.ms": math.ceil(self.wait_s * 1000),
            "reconnect.backoff.max.ms": 1000,
            **self._client(),
        }

    def reader_config(self) -> dict[str, Any]:
        """Return the settings of a consumer that joins no group and keeps its positions itself."""
        return {
            "group.id": "alpha-detector",  # asked for by the library; never joined
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",  # what is gone is never passed over in silence
            "queued.max.messages.kbytes": 16_384,
            "fetch.queue.backoff.ms": 10,
            **self._client(),
        }

    def ensure_topics(self, names: Iterable[str]) -> list[str]:
        """Make the topics that are missing, and return them; those that exist stay as they are."""
        return self.ensure([_new_topic(name) for name in names])

    def ensure(self, topics: Iterable[NewTopic]) -> list[str]:
        """Make those of the topics that are missing, as they are described; return their names."""
        client = AdminClient(self._client())
        wait_s = max(self.wait_s, 1.0)
        try:
            there = client.list_topics(timeout=wait_s).topics
        except KafkaException as error:
            raise BusError(f"no broker of {self.bootstrap} answers: {_text(error)}") from error
        missing = [topic for topic in topics if topic.topic not in there]
        made: list[str] = []
        if not missing:
            return made
        for name, done in client.create_topics(missing, request_timeout=wait_s).items():
            try:
                done.result(wait_s + 1.0)
                made.append(name)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise BusError(f"{name}: cannot be made: {_text(error)}") from error
        return made

    def _client(self) -> dict[str, Any]:
        # Troubles arrive through error_cb; librdkafka's own lines would go to stderr beside ours.
        return {
            "bootstrap.servers": self.bootstrap,
            "client.id": "alpha-detector",
            "log_level": 2,
            "error_cb": _Troubles(self.clock),
            **self.options,
        }


class Publisher:
    """Sends batches and answers for every message; used by one thread."""

    def __init__(self, config: dict[str, Any], wait_s: float, clock: Clock) -> None:
        self._producer = Producer(config)
        self._wait_s = wait_s
        self._clock = clock
        self._open = 0  # messages of this batch that nothing was heard of
        self._lost: list[str] = []

    def send(self, records: Iterable[Record]) -> None:
        """Send records in their order and return when the broker has them all.

        Raises `BusError` if it does not have them after the wait; some may be there all the same.
        After that the publisher is of no use.
        """
        until_s = self._clock.monotonic_s() + self._wait_s
        try:
            for record in records:
                self._produce(record, until_s)
            # One second more, in which librdkafka reports what it gave up itself.
            while self._open and self._clock.monotonic_s() < until_s + 1.0:
                self._producer.flush(_SLICE_S)
        except KafkaException as error:
            self._lost.append(_text(error))
        if self._open or self._lost:
            reasons = "; ".join(self._lost[:_REPORTS_MAX]) or "no answer"
            open_ = self._open
            self._give_up()
            raise BusError(f"{len(self._lost)} messages failed, {open_} without answer: {reasons}")

    def close(self) -> None:
        """Drop what is left; a batch that was sent has nothing left."""
        self._give_up()

    def _produce(self, record: Record, until_s: float) -> None:
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    key=record.key,
                    value=record.value,
                    headers=record.headers,
                    partition=record.partition,
                    on_delivery=self._heard,
                )
            except BufferError:  # the local queue is full
                if self._clock.monotonic_s() >= until_s:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
                self._producer.poll(_SLICE_S)
            else:
                self._open += 1
                return

    def _heard(self, error: KafkaError | None, message: Message) -> None:
        self._open -= 1
        if error is not None:
            self._lost.append(f"{message.topic()}: {error.name()}: {error.str()}")

    def _give_up(self) -> None:
        self._producer.purge()
        self._producer.poll(0)


def _new_topic(name: str) -> NewTopic:
    """Return a topic with as many replicas as the cluster gives by default.

    Retention counts from arrival, so a replay of old minutes is kept as long as anything else.
    """
    dead = name.startswith(DLQ_TOPIC)
    return NewTopic(
        name,
        num_partitions=DLQ_PARTITIONS if dead else EVENT_PARTITIONS,
        replication_factor=-1,
        config={
            "cleanup.policy": "delete",
            "retention.ms": str(RETENTION_MS),
            "segment.ms": str(SEGMENT_MS),
            "message.timestamp.type": "LogAppendTime",
        },
    )


class _Troubles:
    """Tells of brokers that are away; each kind of trouble once in a while, not at every try."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told_s: dict[str, float] = {}

    def __call__(self, error: KafkaError) -> None:
        now_s = self._clock.monotonic_s()
        last_s = self._told_s.get(error.name())
        if last_s is None or now_s - last_s >= _QUIET_S:
            self._told_s[error.name()] = now_s
            _log.warning("kafka", code=error.name(), reason=error.str())


def _text(error: KafkaException) -> str:
    reason = error.args[0]
    return f"{reason.name()}: {reason.str()}"


# --- the engine's side -------------------------------------------------------------------------


class _Events(StatefulSinkPartition[Published, None]):
    def __init__(
        self, publisher: Publisher, topic: str, shadow: str | None, dlq: str, replay_of: bool
    ) -> None:
        self._publisher = publisher
        self._topic = topic
        self._shadow = shadow
        self._dlq = dlq
        self._replay_of = replay_of

    def write_batch(self, values: list[Published]) -> None:
        self._publisher.send(self._records(values))  # the first are on their way as others are made

    def snapshot(self) -> None:
        """Nothing to keep: what was written is acknowledged, and repeats have the same ids."""

    def close(self) -> None:
        self._publisher.close()

    def _records(self, values: list[Published]) -> Iterator[Record]:
        for item in values:
            for event in item.events:
                yield event_record(self._topic, event, replay_of=self._replay_of)
            if self._shadow is not None:
                for event in item.shadow:
                    yield event_record(self._shadow, event, replay_of=self._replay_of)
            for dead in item.dead:
                yield dead_record(self._dlq, dead, self._topic)


class KafkaEventsSink(OnePartitionSink[Published, None]):
    """Publishes events to `topic` and dead letters to `dlq`; items are ("0", Published).

    shadow : topic of the shadow events; None: they are not published (a replay). replay_of : mark
    the events as made again (the replay topic).
    """

    def __init__(
        self,
        bus: Bus,
        topic: str,
        dlq: str,
        *,
        shadow: str | None = None,
        replay_of: bool = False,
    ) -> None:
        self._bus = bus
        self.topic = topic
        self.shadow = shadow
        self.dlq = dlq
        self._replay_of = replay_of

    def build_part(
        self, step_id: str, for_part: str, resume_state: None
    ) -> StatefulSinkPartition[Published, None]:
        if self._bus.make_topics:
            shadow = () if self.shadow is None else (self.shadow,)
            self._bus.ensure_topics((self.topic, *shadow, self.dlq))
        publisher = self._bus.publisher()
        return _Events(publisher, self.topic, self.shadow, self.dlq, self._replay_of)
