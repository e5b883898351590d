"""What a topic holds is read back before more is sent: after a kill, an outage, or neither."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from dataflows.connectors.kafka import (
    SETTLED_MS,
    Bus,
    BusLost,
    KafkaEventsSink,
    Offsets,
    TopicNames,
    read_back,
    topic_names,
)
from dataflows.connectors.spool import DirectPart, Spool, SpooledPart, Spooling
from dataflows.contract import pinned_example
from operators.contract import dead_letter
from operators.records import Phase, Published

if TYPE_CHECKING:
    from conftest import KafkaServer

pytestmark = pytest.mark.service

CLOCK_MS = 1_790_000_000_000
Part = DirectPart[Published, Offsets] | SpooledPart[Published, Offsets]


def item(number: int, clock_ms: int = CLOCK_MS) -> Published:
    """A phase with one event and one dead letter that are told from others by a number."""
    event_id = f"{CLOCK_MS:012x}"
    event_id = f"{event_id[:8]}-{event_id[8:]}-7662-a760-{number:012x}"
    event = {**pinned_example(), "event_id": event_id, "asset_uid": number % 7}
    dead = dead_letter({"asset_uid": number}, "why")
    return Published(Phase(clock_ms - 1500, False, 1, clock_ms), (event,), (), (dead,))


class Scene:
    """A sink on topics of its own, without or with a spool."""

    def __init__(self, server: KafkaServer, suffix: str, folder: Path | None = None) -> None:
        self.names: TopicNames = topic_names(suffix)
        self.bus = Bus(server.bootstrap, 10.0, make_topics=not server.mock)
        self.folder = folder

    def part(self, resume: Offsets | None = None, bus: Bus | None = None) -> Part:
        """The sink's partition, as a run makes it."""
        spooling = None if self.folder is None else Spooling(self.folder)
        sink = KafkaEventsSink(bus or self.bus, self.names.live, self.names.dlq, spooling=spooling)
        part = sink.build_part("events", "0", resume)
        assert isinstance(part, DirectPart | SpooledPart)
        return part

    def write(self, numbers: Iterable[int], resume: Offsets | None = None) -> Offsets | None:
        """A run that writes and is killed; what it would have kept."""
        part = self.part(resume)
        part.write_batch([item(number) for number in numbers])
        return part.snapshot()

    def held(self) -> tuple[list[int], int]:
        """Numbers of the events in the topic, each as often as it is there; dead letters."""
        reader = Consumer({"bootstrap.servers": self.bus.bootstrap, "group.id": "t"})
        values: dict[str, list[Any]] = {self.names.live: [], self.names.dlq: []}
        places = [
            TopicPartition(name, partition, 0)
            for name in values
            for partition in reader.list_topics(name, timeout=10).topics[name].partitions
        ]
        left = sum(reader.get_watermark_offsets(place, timeout=10)[1] for place in places)
        reader.assign(places)
        for _ in range(left):
            message = reader.poll(20)
            assert message is not None
            assert message.error() is None
            values[message.topic() or ""].append(dict(message.headers() or []).get("ce_id"))
        reader.close()
        ids = [int(each[-12:], 16) for each in values[self.names.live]]
        return sorted(ids), len(values[self.names.dlq])


@pytest.fixture
def scene(kafka_server: KafkaServer, topic_suffix: str) -> Scene:
    """A sink that fails when the broker is lost."""
    return Scene(kafka_server, topic_suffix)


def test_an_epoch_that_is_repeated_is_published_once(scene: Scene) -> None:
    """Killed after the snapshot's batch and one more: that one is not sent again, the next is."""
    state = scene.write([0, 1])
    assert state is not None
    scene.write([2, 3, 4], state)  # not in the state that is resumed from
    scene.write([2, 3, 4, 5], state)
    assert scene.held() == ([0, 1, 2, 3, 4, 5], 6)


def test_two_kills_in_a_row_change_nothing(scene: Scene) -> None:
    """The second run is killed with a snapshot of its own before it repeated all of the epoch."""
    state = scene.write([0])
    scene.write([1, 2, 3, 4], state)
    state = scene.write([1, 2], state)
    scene.write([3, 4, 5], state)
    assert scene.held() == ([0, 1, 2, 3, 4, 5], 6)


def test_without_offsets_nothing_is_read(scene: Scene) -> None:
    """A new store, or that of an older release: at least once, as it was."""
    scene.write([0, 1])
    scene.write([1, 2], None)
    assert scene.held() == ([0, 1, 1, 2], 4)


def test_what_was_read_back_is_forgotten_when_the_feed_is_past_it(scene: Scene) -> None:
    """The state then stands at the end of the topic again."""
    state = scene.write([0])
    scene.write([1], state)
    part = scene.part(state)
    part.write_batch([item(1), item(2)])
    assert part.snapshot() == state
    part.write_batch([item(3, CLOCK_MS + SETTLED_MS + 60_000)])
    later = part.snapshot()
    assert later is not None
    seen = read_back(scene.bus, scene.names[:1], None, 10.0)
    assert later[scene.names.live] == seen.end[scene.names.live]
    assert scene.held() == ([0, 1, 2, 3], 4)


@pytest.mark.parametrize("off", [10**9, -1])
def test_offsets_that_the_topic_does_not_have_mean_its_beginning(scene: Scene, off: int) -> None:
    """Retention went past them, or the topic was made anew: too much is read, never too little."""
    state = scene.write([0, 1, 2])
    assert state is not None
    wrong = {topic: dict.fromkeys(ends, off) for topic, ends in state.items()}
    scene.write([0, 1, 2, 3], wrong)
    assert scene.held() == ([0, 1, 2, 3], 4)


def test_records_that_retention_deleted_are_not_waited_for(
    real_kafka: KafkaServer, topic_suffix: str
) -> None:
    """The partition begins behind the offset."""
    scene = Scene(real_kafka, topic_suffix)
    state = scene.write(range(0, 70, 7))
    assert state is not None
    (partition,) = (p for p, end in state[scene.names.live].items() if end)
    client = AdminClient({"bootstrap.servers": scene.bus.bootstrap})
    place = TopicPartition(scene.names.live, partition, 6)
    for done in client.delete_records([place]).values():
        done.result(10)
    start = {name: dict.fromkeys(ends, 0) for name, ends in state.items()}
    seen = read_back(scene.bus, scene.names[:1], start, 10.0)
    assert seen.start[scene.names.live][partition] == 6
    assert len(seen.names[scene.names.live]) == 4


def test_a_batch_that_was_taken_but_not_acknowledged_is_not_sent_again(
    kafka_server: KafkaServer, topic_suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost: the spool keeps the offsets from before, and finds all of it there."""
    scene = Scene(kafka_server, topic_suffix, tmp_path)
    part = scene.part()
    part.write_batch([item(0)])
    before = part.snapshot()
    assert isinstance(part, SpooledPart)
    publisher = part._outlet._publisher  # type: ignore[attr-defined]
    send = publisher.send

    def lose(records: Any) -> Offsets:
        send(records)
        raise BusLost("no answer")

    monkeypatch.setattr(publisher, "send", lose)
    part.write_batch([item(1), item(2)])
    spool = Spool(tmp_path / f"kafka-{scene.names.live}.ndjson", Published)
    assert (spool.waiting, part.snapshot()) == (2, before)
    del part  # killed: another run takes up the spool, and the epoch is repeated
    part = scene.part(before)
    part.write_batch([item(0), item(1), item(2), item(3)])
    part.close()
    assert scene.held() == ([0, 0, 1, 2, 3], 5)  # 0 was committed before, and never comes again
    assert list(tmp_path.iterdir()) == []


def test_a_spool_that_began_without_the_broker_learns_where_the_topic_ended(
    real_kafka: KafkaServer, topic_suffix: str, tmp_path: Path
) -> None:
    """First away, then killed while it drains: the head that was added finds what was sent."""
    scene = Scene(real_kafka, topic_suffix, tmp_path)
    away = Bus("127.0.0.1:9", 0.5)
    scene.part(None, away).write_batch([item(number) for number in range(5)])
    path = tmp_path / f"kafka-{scene.names.live}.ndjson"
    spooled = path.read_bytes()
    part = scene.part()
    assert isinstance(part, SpooledPart)
    assert scene.held() == ([0, 1, 2, 3, 4], 5)
    part.close()
    # As it was before the last of it was drained: with the head that the drain added.
    path.write_bytes(spooled)
    spool = Spool(path, Published)
    spool.mark({name: dict.fromkeys(range(6), 0) for name in (scene.names.live, scene.names.dlq)})
    spool.close()
    scene.part().close()
    assert scene.held() == ([0, 1, 2, 3, 4], 5)
