"""Events and dead letters to Kafka: exact bytes, in order per asset, and never silently lost.

Rules of this file: a batch is written when the broker has acknowledged every message of it, within
a bounded wait; without that it is an outage (spool.py), and a message that can never be sent fails
the batch. What may be in a topic although nobody said so, after an outage or a kill, is read back
before anything is sent, so that a topic has every event once. The partition is murmur2 of the key,
as in Java's clients; the number of partitions of a topic is therefore never changed. Topics are
made if they are missing and left alone if they are not. Build plan 11.3, 11.5; design 6, 7 (D24);
docs/decisions/0010, 0013.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import structlog
from bytewax.outputs import StatefulSinkPartition
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from prometheus_client import Counter

from dataflows.connectors.clock import Clock, SystemClock
from dataflows.connectors.spool import DirectPart, Lost, Spool, SpooledPart, Spooling
from dataflows.connectors.topics import OnePartitionSink
from dataflows.contract import CLOUD_TYPE, DLQ_TOPIC, SCHEMA_ID, TOPICS
from operators.contract import DeadLetter
from operators.lattice import HOUR_MS
from operators.publish import dead_json, event_json
from operators.records import Published

EVENT_PARTITIONS = 6
DLQ_PARTITIONS = 1
# Build plan 11.3 says 7 to 14 days. A segment is deleted as a whole, so it holds a day at most.
RETENTION_MS = 10 * 86_400_000
SEGMENT_MS = 86_400_000
WAIT_S = 30.0  # for acknowledgements; a broker that restarts needs about 10
SPOOL_WAIT_S = 5.0  # where what is not acknowledged is spooled; a new topic may take 2
PROBE_S = 2.0  # for an answer of a broker that is away
# Of feed time, after which what was read back is not sent again: far more than an epoch holds live.
SETTLED_MS = HOUR_MS
_SLICE_S = 0.5  # between two looks at what has failed, and at Ctrl-C
_QUIET_S = 60.0  # between two lines about the same trouble
_REPORTS_MAX = 3  # failures that an error quotes
_JSON = b"application/json"
PARTITION_BY_KEY = -1

# A message that is refused for one of these is refused for ever; all else is the broker's trouble.
_FOR_EVER = frozenset(
    (
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError._INVALID_ARG,
    )
)

_ANSWERLESS = frozenset(
    (
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_CONTROLLER,
        KafkaError.INVALID_REPLICATION_FACTOR,  # too few brokers are up
    )
)
_LEADERLESS = frozenset(
    (
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_PARTITION,
    )
)

SKIPPED = Counter("alpha_kafka_skipped", "Messages that the topic had already", ["topic"])

Headers = list[tuple[str, str | bytes | None]]
_Headers = Headers | dict[str, str | bytes | None]  # as they are read
Offsets = dict[str, dict[int, int]]  # topic -> partition -> of the next message

_log = structlog.get_logger(__name__)


class BusError(Exception):
    """Messages were not acknowledged, or topics cannot be made; the message says which and why."""


class BusLost(BusError, Lost):
    """The broker is away, or did not acknowledge in time; what it has of a batch is not known."""


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
    _told_s: dict[str, float] = field(default_factory=dict, init=False, compare=False)

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
            **self.client(),
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
            **self.client(),
        }

    def ensure_topics(self, names: Iterable[str], wait_s: float | None = None) -> list[str]:
        """Make the topics that are missing, and return them; those that exist stay as they are.

        wait_s : for an answer, instead of that of the cluster.
        """
        return self.ensure([_new_topic(name) for name in names], wait_s)

    def ensure(self, topics: Iterable[NewTopic], wait_s: float | None = None) -> list[str]:
        """Make those of the topics that are missing, as they are described; return their names."""
        client = AdminClient(self.client())
        wait_s = max(self.wait_s if wait_s is None else wait_s, 1.0)
        try:
            there = client.list_topics(timeout=wait_s).topics
        except KafkaException as error:
            raise BusLost(f"no broker of {self.bootstrap} answers: {_text(error)}") from error
        missing = [topic for topic in topics if topic.topic not in there]
        made: list[str] = []
        if not missing:
            return made
        for name, done in client.create_topics(missing, request_timeout=wait_s).items():
            try:
                done.result(wait_s + 1.0)
                made.append(name)
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.TOPIC_ALREADY_EXISTS:
                    continue
                kind = BusLost if code in _ANSWERLESS else BusError
                raise kind(f"{name}: cannot be made: {_text(error)}") from error
        return made

    def read_back(self, topics: Iterable[str], since: Offsets | None, wait_s: float) -> Seen:
        """Return what topics hold from some offsets on; raises `BusLost`."""
        return read_back(self, topics, since, wait_s)

    def client(self) -> dict[str, Any]:
        """Return the settings of any client."""
        # Troubles arrive through error_cb; librdkafka's own lines would go to stderr beside ours.
        return {
            "bootstrap.servers": self.bootstrap,
            "client.id": "alpha-detector",
            "log_level": 2,
            "error_cb": _Troubles(self.clock, self._told_s),
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
        self._for_ever = False
        self._next: Offsets = {}

    def send(self, records: Iterable[Record]) -> Offsets:
        """Send records in their order; return when the broker has them all, and where they end.

        Raises `BusLost` if it does not have them after the wait, `BusError` if it never will; some
        may be there all the same. After that the publisher is of no use.
        """
        until_s = self._clock.monotonic_s() + self._wait_s
        self._next = {}
        try:
            for record in records:
                self._produce(record, until_s)
            # One second more, in which librdkafka reports what it gave up itself.
            while self._open and self._clock.monotonic_s() < until_s + 1.0:
                self._producer.flush(_SLICE_S)
        except KafkaException as error:
            self._note(error.args[0], _text(error))
        if self._open or self._lost:
            reasons = "; ".join(self._lost[:_REPORTS_MAX]) or "no answer"
            open_ = self._open
            kind = BusError if self._for_ever else BusLost
            self._give_up()
            raise kind(f"{len(self._lost)} messages failed, {open_} without answer: {reasons}")
        return self._next

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
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if error is not None:
            self._note(error, f"{topic}: {error.name()}: {error.str()}")
        elif offset is not None and offset >= 0:  # of a repeated request it may be unknown
            assert topic is not None
            assert partition is not None
            ends = self._next.setdefault(topic, {})
            ends[partition] = max(ends.get(partition, 0), offset + 1)

    def _note(self, error: KafkaError, reason: str) -> None:
        self._lost.append(reason)
        self._for_ever |= error.code() in _FOR_EVER

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
    """Tells of brokers that are away; each kind of trouble once in a while, not at every try.

    told_s : when, by kind; all clients of a cluster have it in common.
    """

    def __init__(self, clock: Clock, told_s: dict[str, float]) -> None:
        self._clock = clock
        self._told_s = told_s

    def __call__(self, error: KafkaError) -> None:
        now_s = self._clock.monotonic_s()
        last_s = self._told_s.get(error.name())
        if last_s is None or now_s - last_s >= _QUIET_S:
            self._told_s[error.name()] = now_s
            _log.warning("kafka", code=error.name(), reason=error.str())


def _text(error: KafkaException) -> str:
    reason = error.args[0]
    return f"{reason.name()}: {reason.str()}"


# --- what a topic holds ------------------------------------------------------------------------


class Seen(NamedTuple):
    """Messages of some topics between two offsets.

    start, end : the first that was looked at, and the next that will be written. names : of the
    messages, by topic. newest_ms : time of the newest event id, 0 if there is none.
    """

    start: Offsets
    end: Offsets
    names: dict[str, set[bytes]]
    newest_ms: int


def read_back(bus: Bus, topics: Iterable[str], since: Offsets | None, wait_s: float) -> Seen:
    """Return what topics hold from some offsets on; of a topic without, only where it ends.

    A partition without offset, or whose offset is not within it (retention; a topic that was made
    anew), is read from its beginning. Raises `BusLost` when nothing is heard for `wait_s`.
    """
    reader = Consumer(
        {
            **bus.client(),
            "group.id": "alpha-detector",  # asked for by the client; nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        seen = Seen({}, {}, {}, 0)
        for topic in topics:
            start = None if since is None else since.get(topic)
            _look(reader, topic, start, seen, wait_s, bus.clock)
        return _read(reader, seen, wait_s, bus.clock)
    except KafkaException as error:
        raise BusLost(f"topics cannot be read back: {_text(error)}") from error
    finally:
        reader.close()


def _look(
    reader: Consumer,
    topic: str,
    since: dict[int, int] | None,
    seen: Seen,
    wait_s: float,
    clock: Clock,
) -> None:
    """Find out where a topic is to be read."""
    seen.start[topic], seen.end[topic], seen.names[topic] = {}, {}, set()
    described = reader.list_topics(topic, timeout=wait_s).topics[topic]
    if described.error is not None and described.error.code() in _ANSWERLESS:
        raise KafkaException(described.error)
    for partition in sorted(described.partitions):
        place = TopicPartition(topic, partition)
        low, high = _marks(reader, place, wait_s, clock)
        start = high if since is None else since.get(partition, low)
        seen.start[topic][partition] = start if low <= start <= high else low
        seen.end[topic][partition] = high


def _marks(reader: Consumer, place: TopicPartition, wait_s: float, clock: Clock) -> tuple[int, int]:
    """Return where a partition begins and ends; one that was just made has no leader yet."""
    until_s = clock.monotonic_s() + wait_s
    while True:
        try:
            marks = reader.get_watermark_offsets(place, timeout=wait_s)
        except KafkaException as error:
            if error.args[0].code() not in _LEADERLESS or clock.monotonic_s() >= until_s:
                raise
            clock.sleep(0.05)
        else:
            assert marks is not None
            return marks


def _read(reader: Consumer, seen: Seen, wait_s: float, clock: Clock) -> Seen:
    left = {
        (topic, partition): seen.end[topic][partition]
        for topic, starts in seen.start.items()
        for partition, start in starts.items()
        if start < seen.end[topic][partition]
    }
    if left:
        reader.assign([TopicPartition(t, p, seen.start[t][p]) for t, p in left])
    newest_ms, until_s = 0, clock.monotonic_s() + wait_s
    while left:
        message = reader.poll(_SLICE_S)
        if message is None:
            if clock.monotonic_s() >= until_s:
                raise BusLost(f"topics cannot be read back: no answer for {wait_s} s")
            continue
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None
        error = message.error()
        if error is None:
            until_s = clock.monotonic_s() + wait_s
            headers, value = message.headers() or [], message.value() or b""
            assert isinstance(value, bytes)
            seen.names[topic].add(_name(headers, value))
            newest_ms = max(newest_ms, _made_ms(headers))
            offset += 1
        elif error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        if offset >= left.get((topic, partition), offset + 1):
            del left[topic, partition]
    return seen._replace(newest_ms=newest_ms)


def _name(headers: _Headers, value: bytes) -> bytes:
    """Return what tells a message from all others of its topic: event id, or digest."""
    event_id = dict(headers).get("ce_id")
    return event_id if isinstance(event_id, bytes) else hashlib.sha256(value).digest()


def _made_ms(headers: _Headers) -> int:
    """Return the time in an event id, epoch ms of the arrival clock; 0 without one."""
    event_id = dict(headers).get("ce_id")
    if not isinstance(event_id, bytes):
        return 0
    try:
        return int(event_id.replace(b"-", b"")[:12], 16)
    except ValueError:
        return 0


# --- the engine's side -------------------------------------------------------------------------


class _Outlet:
    """A cluster as the spool sees it: read back when it is first reached, and after each loss.

    since : where the messages of an earlier run may begin that this one will make again.
    """

    def __init__(self, sink: KafkaEventsSink, since: Offsets | None) -> None:
        self._sink = sink
        self._publisher: Publisher | None = None
        self._since = since  # what is there from here on may come again
        self._next = since  # where the next message goes
        self._there: dict[str, set[bytes]] = {}
        self._newest_ms = 0  # of what is there

    def reach(self, *, patient: bool) -> None:
        """Make topics, and learn what they hold that may come again."""
        if self._publisher is not None:
            return
        bus = self._sink.bus
        wait_s = bus.wait_s if patient else min(bus.wait_s, PROBE_S)
        if bus.make_topics:
            bus.ensure_topics(self._sink.topics, wait_s)
        seen = bus.read_back(self._sink.topics, self._since, wait_s)
        for topic, names in seen.names.items():
            self._there.setdefault(topic, set()).update(names)
        self._newest_ms = max(self._newest_ms, seen.newest_ms)
        self._since, self._next = seen.start, seen.end
        self._publisher = bus.publisher()

    def write(self, items: Sequence[Published], *, patient: bool, again: bool) -> None:
        """Publish what the topics do not hold yet."""
        assert self._publisher is not None, "not reached"
        clocks_ms = [item.phase.clock_ms for item in items]
        if not again:
            self._settle(min(clocks_ms, default=0))
        sent: dict[str, set[bytes]] = {}
        try:
            ends = self._publisher.send(self._missing(items, sent if again else None))
        except BusError:
            self._since = self.state()  # some of the batch may be there
            self.close()
            raise
        if again:
            self._newest_ms = max(self._newest_ms, *clocks_ms)
        for topic, names in sent.items():
            self._there.setdefault(topic, set()).update(names)
        assert self._next is not None
        for topic, partitions in ends.items():
            self._next.setdefault(topic, {}).update(partitions)

    def state(self) -> Offsets | None:
        """Return where to read back from: before the first message that may come again."""
        found = self._since if any(self._there.values()) or self._publisher is None else self._next
        return None if found is None else {topic: dict(ends) for topic, ends in found.items()}

    def close(self) -> None:
        """Drop the producer and what it has not sent."""
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None

    def _settle(self, clock_ms: int) -> None:
        """Forget what is there once the feed is so far on that it does not come again."""
        if any(self._there.values()) and not self._newest_ms:
            self._newest_ms = clock_ms  # dead letters alone do not say when
        if clock_ms > self._newest_ms + SETTLED_MS:
            self._there.clear()

    def _missing(
        self, items: Sequence[Published], sent: dict[str, set[bytes]] | None
    ) -> Iterator[Record]:
        """Yield the messages that a topic does not hold; sent : note those of a spool, which may
        hold them twice.
        """
        for record in self._sink.records(items):  # the first are on their way as others are made
            there = self._there.get(record.topic)
            if there or sent is not None:
                name = _name(record.headers, record.value)
                noted = set() if sent is None else sent.setdefault(record.topic, set())
                if name in noted or (there and name in there):
                    SKIPPED.labels(record.topic).inc()
                    continue
                noted.add(name)
            yield record


class KafkaEventsSink(OnePartitionSink[Published, Offsets | None]):
    """Publishes events to `topic` and dead letters to `dlq`; items are ("0", Published).

    shadow : topic of the shadow events; None: they are not published (a replay). replay_of : mark
    the events as made again (the replay topic). spooling : where items wait while the broker is
    away; without it the run then ends.
    """

    def __init__(
        self,
        bus: Bus,
        topic: str,
        dlq: str,
        *,
        shadow: str | None = None,
        replay_of: bool = False,
        spooling: Spooling | None = None,
    ) -> None:
        self.bus = bus
        self.topic = topic
        self.shadow = shadow
        self.dlq = dlq
        self._replay_of = replay_of
        self._spooling = spooling

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics that are written to."""
        shadow = () if self.shadow is None else (self.shadow,)
        return (self.topic, *shadow, self.dlq)

    def records(self, items: Iterable[Published]) -> Iterator[Record]:
        """Yield the messages of some items, in order."""
        for item in items:
            for event in item.events:
                yield event_record(self.topic, event, replay_of=self._replay_of)
            if self.shadow is not None:
                for event in item.shadow:
                    yield event_record(self.shadow, event, replay_of=self._replay_of)
            for dead in item.dead:
                yield dead_record(self.dlq, dead, self.topic)

    def build_part(
        self, step_id: str, for_part: str, resume_state: Offsets | None
    ) -> StatefulSinkPartition[Published, Offsets | None]:
        if self._spooling is None:
            return DirectPart(_Outlet(self, resume_state))
        spool: Spool[Published] = self._spooling.spool(f"kafka-{self.topic}", Published)
        spooled = msgspec.convert(spool.resume, Offsets | None, strict=False)
        outlet = _Outlet(self, _earliest(resume_state, spooled))
        return SpooledPart(outlet, spool, self._spooling)


def _earliest(one: Offsets | None, other: Offsets | None) -> Offsets | None:
    """Return where the first of two begins, partition by partition."""
    if one is None or other is None:
        return one or other
    found: Offsets = {topic: dict(ends) for topic, ends in one.items()}
    for topic, ends in other.items():
        mine = found.setdefault(topic, {})
        for partition, offset in ends.items():
            mine[partition] = min(offset, mine.get(partition, offset))
    return found
