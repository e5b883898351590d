"""Kafka gets every event once, byte by byte, in order per asset, or the run fails."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import orjson
import pytest
import yaml
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, cluster_main, run_main
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from confluent_kafka.cimpl import NewTopic
from jsonschema import Draft202012Validator

from dataflows.connectors.clock import SystemClock
from dataflows.connectors.kafka import (
    DLQ_PARTITIONS,
    EVENT_PARTITIONS,
    Bus,
    BusError,
    KafkaEventsSink,
    Record,
    TopicNames,
    dead_record,
    event_record,
    topic_names,
)
from dataflows.connectors.topics import EventsSink
from dataflows.contract import ASYNCAPI_FILE, DOCUMENTS
from dataflows.flow import Sinks
from dataflows.live import live_sinks
from dataflows.replay import product_path, replay
from dataflows.settings import Settings, SettingsError
from fixtures.broker import Broker, can_run, jars
from operators.contract import dead_letter, parse
from operators.publish import dead_json, event_json, suppression_json
from operators.records import Phase, Published, Suppression
from packs.loader import load_packs

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[2]
PINNED = [
    orjson.loads(line)
    for line in (ROOT / "fixtures/golden/episodes/events-v0.2.ndjson").read_bytes().splitlines()
]
PHASE = Phase(1_756_891_800_000, False, 2, 1_756_891_801_500)
DAY_MS = 86_400_000
READ_S = 20.0
NOT_LEADER = KafkaError.NOT_LEADER_FOR_PARTITION

# Keys with their murmur2, from the tests of Kafka's own clients.
JAVA_HASHES = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
JAVA = """
import org.apache.kafka.common.utils.Utils;
public class Murmur {
    public static void main(String[] keys) {
        for (String key : keys) System.out.println(Utils.murmur2(key.getBytes()));
    }
}
"""


def murmur2(key: bytes) -> int:
    """The hash of Java's clients, as a signed 32-bit number."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(key)) & mask
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if whole < len(key):
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    h ^= h >> 15
    return h - (1 << 32) if h >> 31 else h


def event(number: int, uid: int) -> dict[str, Any]:
    """The n-th event of a run."""
    return {**PINNED[0], "asset_uid": uid, "event_id": f"01a0c50b-d324-7662-a760-{number:012x}"}


def published(*events: dict[str, Any], **more: Any) -> Published:
    """A phase with events."""
    return Published(PHASE, events, **{"suppressed": (), **more})


def bus_of(server: Any, wait_s: float = 30.0) -> Bus:
    """The server as the flow sees it; the mock makes topics by itself."""
    return Bus(server.bootstrap, wait_s, make_topics=not server.mock)


def write(bus: Bus, names: TopicNames, *items: Published, replay_of: bool = False) -> None:
    """Write one batch through the sink."""
    topic = names.replay if replay_of else names.live
    sink = KafkaEventsSink(bus, topic, names.dlq, replay_of=replay_of)
    part = sink.build_part("events", "0", None)
    part.write_batch(list(items))
    part.close()


def read(bootstrap: str, topic: str) -> list[Message]:
    """Everything a topic holds, by partition and offset."""
    reader = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "tests", "enable.auto.commit": False}
    )
    parts = reader.list_topics(topic, timeout=READ_S).topics[topic].partitions
    places = [TopicPartition(topic, part, 0) for part in parts]
    left = sum(end_of(reader, place) for place in places)
    reader.assign(places)
    found: list[Message] = []
    while left > len(found):
        message = reader.poll(READ_S)
        assert message is not None, f"{topic}: {left - len(found)} of {left} did not come"
        assert message.error() is None
        found.append(message)
    reader.close()
    return sorted(found, key=lambda m: (m.partition() or 0, m.offset() or 0))


def end_of(reader: Consumer, place: TopicPartition) -> int:
    """Where a partition ends; a broker that has just started may not lead it yet."""
    clock = SystemClock()
    until_s = clock.monotonic_s() + READ_S
    while True:
        try:
            return int(reader.get_watermark_offsets(place, timeout=READ_S)[1])
        except KafkaException as error:
            if error.args[0].code() != NOT_LEADER or clock.monotonic_s() >= until_s:
                raise
            clock.sleep(0.2)


def ids(messages: list[Message]) -> list[str]:
    """The event ids, from the headers."""
    return [dict(message.headers() or [])["ce_id"].decode() for message in messages]


def unused_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


# --- what a message is -------------------------------------------------------------------------


def test_events_arrive_byte_by_byte_with_key_and_headers(
    kafka_server: Any, topic_suffix: str
) -> None:
    """The canonical bytes under the asset's key; the headers are those of the document."""
    names = topic_names(topic_suffix)
    write(bus_of(kafka_server), names, published(*PINNED[:2]), published(*PINNED[2:]))
    messages = {m.value(): m for m in read(kafka_server.bootstrap, names.live)}
    assert sorted(messages) == sorted(map(event_json, PINNED))
    document = yaml.safe_load((DOCUMENTS / ASYNCAPI_FILE).read_text())
    rules = {
        **document["components"]["messages"]["event"]["headers"],
        "additionalProperties": False,
    }
    for payload in PINNED:
        message = messages[event_json(payload)]
        assert message.key() == str(payload["asset_uid"]).encode()
        headers = {name: value.decode() for name, value in message.headers() or []}
        Draft202012Validator(rules).validate(headers)
        assert headers["ce_id"] == payload["event_id"]
        assert headers["ce_source"] == payload["provenance"]["producer"]
        assert headers["ce_type"] == "alpha.event.v0.1"
        assert headers["ce_dataschema"] == "urn:alpha-detector:event:v0.1"
        assert headers["content-type"] == "application/json"
        assert "ce_replayof" not in headers


def test_a_replay_says_so_and_keeps_its_ids(kafka_server: Any, topic_suffix: str) -> None:
    """In payload and header; without the mark the payload is the live one."""
    names = topic_names(topic_suffix)
    write(bus_of(kafka_server), names, published(*PINNED), replay_of=True)
    messages = read(kafka_server.bootstrap, names.replay)
    assert sorted(ids(messages)) == sorted(payload["event_id"] for payload in PINNED)
    live = {payload["event_id"]: payload for payload in PINNED}
    for message in messages:
        assert dict(message.headers() or [])["ce_replayof"] == b"true"
        parse(message.value() or b"")
        payload = orjson.loads(message.value() or b"")
        assert payload["provenance"].pop("replay_of") is True
        assert payload == live[payload["event_id"]]
    assert "replay_of" not in PINNED[0]["provenance"]


def test_shadow_events_go_to_their_own_topic(kafka_server: Any, topic_suffix: str) -> None:
    """As they would have been published; a sink without that topic leaves them to the files."""
    names, bus = topic_names(topic_suffix), bus_of(kafka_server)
    item = published(PINNED[0], shadow=tuple(PINNED[1:]))
    for shadow in (names.shadow, None):
        part = KafkaEventsSink(bus, names.live, names.dlq, shadow=shadow).build_part("e", "0", None)
        part.write_batch([item])
        part.close()
    assert ids(read(kafka_server.bootstrap, names.live)) == [PINNED[0]["event_id"]] * 2
    found = {m.value() for m in read(kafka_server.bootstrap, names.shadow)}
    assert found == {event_json(payload) for payload in PINNED[1:]}


def test_dead_letters_go_to_their_own_topic(kafka_server: Any, topic_suffix: str) -> None:
    """With where they were meant to go; the key is empty where the asset is not known."""
    names = topic_names(topic_suffix)
    dead = (dead_letter(PINNED[0], "why"), dead_letter({"class": "spike"}, "no asset"))
    write(bus_of(kafka_server), names, published(dead=dead))
    messages = {m.value(): m for m in read(kafka_server.bootstrap, names.dlq)}
    assert sorted(messages) == sorted(map(dead_json, dead))
    keys = [messages[dead_json(each)].key() or b"" for each in dead]
    assert keys == [str(PINNED[0]["asset_uid"]).encode(), b""]
    document = yaml.safe_load((DOCUMENTS / ASYNCAPI_FILE).read_text())
    rules = document["components"]["messages"]["deadLetter"]["headers"]
    for message in messages.values():
        headers = {name: value.decode() for name, value in message.headers() or []}
        Draft202012Validator(rules).validate(headers)
        assert headers["origin"] == names.live


def test_order_holds_within_an_asset(kafka_server: Any, topic_suffix: str) -> None:
    """Interleaved assets, several batches: each key in one partition, in the order of sending."""
    names, bus = topic_names(topic_suffix), bus_of(kafka_server)
    events = [event(n, n * 7 % 13 - 1) for n in range(600)]
    write(bus, names, *(published(*events[n : n + 40]) for n in range(0, 300, 40)))
    write(bus, names, published(*events[320:]))
    messages = read(kafka_server.bootstrap, names.live)
    assert len(messages) == 600
    for uid in range(-1, 12):
        mine = [m for m in messages if m.key() == str(uid).encode()]
        assert ids(mine) == [each["event_id"] for each in events if each["asset_uid"] == uid]
        assert len({m.partition() for m in mine}) == 1


# --- partitions --------------------------------------------------------------------------------


def test_the_hash_of_these_tests_is_javas() -> None:
    """By the vectors of Kafka's own tests."""
    assert {key: murmur2(key) for key in JAVA_HASHES} == JAVA_HASHES


@pytest.mark.slow
def test_java_itself_agrees(tmp_path: Path, real_kafka: Any) -> None:
    """The clients library of the broker gives the same hashes for keys as ours are."""
    if not can_run():
        pytest.skip("needs Java and Maven")
    source = tmp_path / "Murmur.java"
    source.write_text(JAVA)
    keys = [str(uid) for uid in (*range(-1, 400, 13), 2**31, 2**62)]
    command = ["java", "-cp", f"{jars()}/*", str(source), *keys]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert [int(number) for number in printed] == [murmur2(key.encode()) for key in keys]


def test_partitions_are_those_of_java(kafka_server: Any, topic_suffix: str) -> None:
    """The positive hash modulo the number of partitions, for the market and many assets."""
    names = topic_names(topic_suffix)
    write(bus_of(kafka_server), names, published(*(event(n, n - 1) for n in range(200))))
    messages = read(kafka_server.bootstrap, names.live)
    count = partitions(kafka_server, names.live)
    assert kafka_server.mock or count == EVENT_PARTITIONS
    found = {m.key(): m.partition() for m in messages}
    assert found == {key: (murmur2(key) & 0x7FFFFFFF) % count for key in found if key is not None}
    assert len(found) == 200
    assert set(found.values()) == set(range(count))


def partitions(server: Any, topic: str) -> int:
    """How many partitions a topic has."""
    client = AdminClient({"bootstrap.servers": server.bootstrap})
    return len(client.list_topics(topic, timeout=READ_S).topics[topic].partitions)


# --- topics ------------------------------------------------------------------------------------


def test_names_differ_by_environment() -> None:
    """The topics of the contract, and the same with a suffix."""
    assert topic_names() == (
        "alpha.events.v0",
        "alpha.events.shadow.v0",
        "alpha.events.replay.v0",
        "alpha.events.dlq",
    )
    assert topic_names("staging") == tuple(f"{name}.staging" for name in topic_names())


def test_topics_are_made_once_with_their_retention(real_kafka: Any, topic_suffix: str) -> None:
    """Seven to fourteen days even with the last segment; a second call changes nothing."""
    names, bus = topic_names(topic_suffix), bus_of(real_kafka)
    assert sorted(bus.ensure_topics(names)) == sorted(names)
    assert bus.ensure_topics(names) == []
    client = AdminClient({"bootstrap.servers": real_kafka.bootstrap})
    for name in names:
        expected = DLQ_PARTITIONS if name == names.dlq else EVENT_PARTITIONS
        assert partitions(real_kafka, name) == expected
        (config,) = client.describe_configs([ConfigResource(ResourceType.TOPIC, name)]).values()
        told = {key: entry.value for key, entry in config.result(READ_S).items()}
        assert told["cleanup.policy"] == "delete"
        assert told["message.timestamp.type"] == "LogAppendTime"
        assert int(told["retention.ms"]) >= 7 * DAY_MS
        assert int(told["retention.ms"]) + int(told["segment.ms"]) <= 14 * DAY_MS


def test_a_topic_that_exists_is_left_alone(real_kafka: Any, topic_suffix: str) -> None:
    """Another number of partitions is somebody's choice, and keys depend on it."""
    names = topic_names(topic_suffix)
    client = AdminClient({"bootstrap.servers": real_kafka.bootstrap})
    client.create_topics([NewTopic(names.live, 3, 1)])[names.live].result(READ_S)
    write(bus_of(real_kafka), names, published(*PINNED))
    assert partitions(real_kafka, names.live) == 3
    assert len(read(real_kafka.bootstrap, names.live)) == len(PINNED)


# --- failures ----------------------------------------------------------------------------------


def test_without_a_broker_the_wait_is_bounded() -> None:
    """Topics and messages: an error that names the trouble, within the wait and little more."""
    bus = Bus(f"127.0.0.1:{unused_port()}", wait_s=1.0)
    began_s = bus.clock.monotonic_s()
    with pytest.raises(BusError, match="no broker of 127"):
        bus.ensure_topics(["alpha.events.v0"])
    publisher = bus.publisher()
    with pytest.raises(BusError, match="messages failed"):
        publisher.send([event_record("alpha.events.v0", PINNED[0])])
    publisher.close()
    assert bus.clock.monotonic_s() - began_s < 6.0


def test_one_message_that_cannot_be_sent_fails_the_batch(kafka_server: Any) -> None:
    """Larger than the client allows: never passed over in silence."""
    publisher = bus_of(kafka_server).publisher()
    with pytest.raises(BusError, match="MSG_SIZE_TOO_LARGE"):
        publisher.send([Record("alpha.large", b"1", b"x" * 2_000_000, [])])


def test_one_message_that_the_broker_refuses_fails_the_batch(
    real_kafka: Any, topic_suffix: str
) -> None:
    """The report of one message among many that were written is not lost."""
    names = topic_names(topic_suffix)
    client = AdminClient({"bootstrap.servers": real_kafka.bootstrap})
    small = NewTopic(names.dlq, 1, 1, config={"max.message.bytes": "1000"})
    client.create_topics([small])[names.dlq].result(READ_S)
    bus = bus_of(real_kafka)
    bus.ensure_topics([names.live])
    records = [event_record(names.live, payload) for payload in PINNED]
    large = dead_letter({"noise": [n * 0.7310585786300049 for n in range(2000)]}, "large")
    with pytest.raises(BusError, match="1 messages failed, 0 without answer"):
        bus.publisher().send([*records, dead_record(names.dlq, large, names.live)])


def flow_of(items: Iterator[Any] | list[Any], sink: KafkaEventsSink) -> Dataflow:
    """A flow that only publishes, an item a batch."""
    flow = Dataflow("kafka")
    source = op.input("in", flow, TestingSource(items, batch_size=1))
    op.output("out", source, sink)
    return flow


@pytest.mark.engine
@pytest.mark.slow
def test_a_broker_that_restarts_loses_and_doubles_nothing(
    own_broker: Broker, topic_suffix: str
) -> None:
    """Killed twice under a running flow, once between batches and once within them."""
    names, bus = topic_names(topic_suffix), Bus(own_broker.bootstrap, wait_s=60.0)
    events = [event(n, n % 11) for n in range(12_000)]
    threads: list[threading.Thread] = []

    def restart() -> None:
        own_broker.kill()
        own_broker.start()

    def items() -> Iterator[Any]:
        for at in range(0, len(events), 40):
            if at == 4000:
                own_broker.kill()
                threads.append(threading.Thread(target=own_broker.start))
                threads[-1].start()
            if at == 8000:
                threads[0].join()
                threads.append(threading.Thread(target=restart))
                threads[-1].start()
            yield ("0", published(*events[at : at + 40]))

    run_main(flow_of(items(), KafkaEventsSink(bus, names.live, names.dlq)))
    for thread in threads:
        thread.join()
    messages = read(own_broker.bootstrap, names.live)
    assert sorted(ids(messages)) == [each["event_id"] for each in events]
    for uid in range(11):
        mine = [m for m in messages if m.key() == str(uid).encode()]
        assert ids(mine) == [each["event_id"] for each in events if each["asset_uid"] == uid]


@pytest.mark.engine
@pytest.mark.slow
def test_a_batch_that_fails_is_published_after_the_restart(
    own_broker: Broker, topic_suffix: str, tmp_path: Path
) -> None:
    """The broker stays away: the run ends, its epoch is not committed, and the next run has it."""
    names = topic_names(topic_suffix)
    bus = Bus(own_broker.bootstrap, wait_s=4.0)  # the first batch to a new topic may take 2
    sink = KafkaEventsSink(bus, names.live, names.dlq)
    events = [event(n, n) for n in range(20)]
    (tmp_path / "store").mkdir()
    init_db_dir(tmp_path / "store", 1)
    away = True

    def items() -> Iterator[Any]:
        for n, each in enumerate(events):
            if n == 12 and away:
                own_broker.stop()
            yield ("0", published(each))

    class Again:
        """Fresh items for every run."""

        def __iter__(self) -> Iterator[Any]:
            return items()

    def run() -> None:
        cluster_main(
            flow_of(Again(), sink),  # type: ignore[arg-type]
            [],
            0,
            epoch_interval=timedelta(0),
            recovery_config=RecoveryConfig(tmp_path / "store"),
        )

    with pytest.raises(BusError, match="messages failed"):
        run()
    assert not own_broker.running
    away = False
    own_broker.start()
    assert len(read(own_broker.bootstrap, names.live)) == 12
    run()
    messages = read(own_broker.bootstrap, names.live)
    assert sorted(ids(messages)) == [each["event_id"] for each in events]


@pytest.mark.engine
@pytest.mark.slow
def test_the_topic_is_the_events_file_though_the_broker_was_killed(
    own_broker: Broker, topic_suffix: str, episode_log: Path, tmp_path: Path
) -> None:
    """The whole flow, killed at the first episode: the same events with the same bytes, once."""
    names = topic_names(topic_suffix)
    sink = KafkaEventsSink(Bus(own_broker.bootstrap, wait_s=60.0), names.live, names.dlq)
    threads: list[threading.Thread] = []
    first_ms = 1_790_000_000_000 // 60_000 * 60_000 + 206 * 60_000

    def watch(reached_ms: int) -> None:
        if reached_ms >= first_ms and not threads:
            own_broker.kill()
            threads.append(threading.Thread(target=own_broker.start))
            threads[0].start()

    extra = Sinks(market={}, published={"kafka": sink})
    summary = replay(episode_log, tmp_path, load_packs(), extra=extra, on_progress=watch)
    threads[0].join()
    lines = product_path(tmp_path, "events").read_bytes().splitlines()
    messages = read(own_broker.bootstrap, names.live)
    assert summary.products["events"].count == len(lines) >= 10
    assert sorted(m.value() or b"" for m in messages) == sorted(lines)
    for key in {m.key() for m in messages}:
        mine = [m.value() for m in messages if m.key() == key]
        assert mine == [
            each for each in lines if str(orjson.loads(each)["asset_uid"]) == _text(key)
        ]


def _text(key: bytes | str | None) -> str:
    assert isinstance(key, bytes)
    return key.decode()


# --- the live flow -----------------------------------------------------------------------------


def test_the_live_flow_publishes_to_kafka_where_it_is_given(tmp_path: Path) -> None:
    """Files otherwise; either way suppressions are kept, and no step id has two meanings."""
    packs = load_packs()
    files = Settings(data_dir=tmp_path, database_url="off")  # type: ignore[call-arg]
    published_to = live_sinks(files, packs, None).published
    assert isinstance(published_to["topic"], EventsSink)
    assert sorted(published_to) == ["console", "topic"]
    kafka = files.model_copy(update={"kafka_bootstrap": "h:1", "topic_suffix": "staging"})
    published_to = live_sinks(kafka, packs, None).published
    assert sorted(published_to) == ["console", "kafka", "suppressed"]
    sink = published_to["kafka"]
    assert isinstance(sink, KafkaEventsSink)
    assert (sink.topic, sink.shadow, sink.dlq) == (
        "alpha.events.v0.staging",
        "alpha.events.shadow.v0.staging",
        "alpha.events.dlq.staging",
    )


def test_suppressions_alone_go_to_their_file(tmp_path: Path) -> None:
    """Exact after a resume, as every topic file."""
    path = tmp_path / "suppressed.ndjson"
    one = Suppression(5, "SOL", "1m", PHASE.minute_ms, 0, "spike.x", "cooldown", None)
    sink = EventsSink({"suppressed": path}, append=True)
    part = sink.build_part("s", "0", None)
    part.write_batch([published(PINNED[0], suppressed=(one,))])
    state = part.snapshot()
    part.write_batch([published(suppressed=(one,))])
    part.close()
    part = sink.build_part("s", "0", state)
    part.close()
    assert path.read_bytes() == suppression_json(one) + b"\n"


def test_a_suffix_is_one_word() -> None:
    """What would not fit into a topic's name is refused with the settings."""
    for wrong in ("a b", "a.b", "a_b", "x" * 33):
        with pytest.raises(SettingsError, match="TOPIC_SUFFIX"):
            Settings.from_env({"ALPHA_TOPIC_SUFFIX": wrong})
    assert Settings.from_env({"ALPHA_TOPIC_SUFFIX": "blue-2"}).topic_suffix == "blue-2"
