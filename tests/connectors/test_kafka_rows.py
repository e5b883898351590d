"""Rows of all shards come out once, whole and in order, whatever a shard sends again or late."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from dataflows.connectors.kafka import Bus, BusError, Record
from dataflows.connectors.kafka_partition import flow_topics, make_topic, writing
from dataflows.connectors.kafka_rows import (
    PHASES_AHEAD,
    KafkaRowsPartition,
    KafkaRowsSink,
    KafkaRowsSource,
    RowsMaker,
)
from dataflows.connectors.topic_source import SourceError
from operators.records import Candidate, Phase, Row, RowItem
from operators.sharding import ShardPhase, Share

pytestmark = pytest.mark.service

MINUTE_MS = 60_000
START_MS = 1_790_000_040_000
READ_S = 20.0


def phase(number: int) -> Phase:
    """Return the n-th phase: seals and finals alternate."""
    minute, final = divmod(number, 2)
    return Phase(START_MS + minute * MINUTE_MS, bool(final), 4, 1)


def item(number: int, uid: int, filling: str = "") -> RowItem:
    """Return the item of an asset with a row and a candidate."""
    columns = {"v": -0.0, "n": uid, "x": 0.1 + number, "none": None, "on": True, "why": ["late"]}
    row = Row(uid, f"C{uid}", "1m", phase(number).minute_ms, number % 2, columns, {"f": filling})
    return RowItem(phase(number), uid, (row,), ((Candidate("spike.x", 1.0, 0.5, None),),))


def whole(number: int, share: Share, filling: str = "") -> ShardPhase:
    """Return a shard's part of a phase of four assets."""
    uids = [uid for uid in range(4) if share.holds(uid)]
    return ShardPhase(phase(number), tuple(item(number, uid, filling) for uid in uids))


class Rows:
    """A topic of rows with two shards."""

    def __init__(self, server: Any, suffix: str) -> None:
        self.bus = Bus(server.bootstrap, 10.0)
        self.topic = flow_topics(suffix).rows
        self.opened: list[KafkaRowsPartition] = []
        make_topic(self.bus, self.topic, 2)

    def maker(self, index: int, count: int = 2, config_hash: str = "sha256:a") -> RowsMaker:
        """Return the maker of a shard's messages."""
        return RowsMaker(self.topic, Share(index, count), config_hash, "v1.0")

    def write(self, index: int, *numbers: int) -> None:
        """Write phases of a shard through its sink."""
        part = KafkaRowsSink(self.bus, self.maker(index)).build_part("rows", "0", None)
        part.write_batch([whole(number, Share(index, 2)) for number in numbers])
        assert part.snapshot() is None
        part.close()

    def send(self, *records: Record) -> None:
        """Write messages as they are."""
        publisher = writing(self.bus).publisher()
        publisher.send(records)
        publisher.close()

    def open(self, state: bytes | None = None, *, follow: bool = False) -> KafkaRowsPartition:
        """Open the reader."""
        source = KafkaRowsSource(self.bus, self.topic, "sha256:a", follow=follow)
        self.opened.append(source.build_part("rows", "rows", state))
        return self.opened[-1]

    def expire(self, partition: int, before: int) -> None:
        """Remove the messages before an offset, as retention does."""
        client = AdminClient({"bootstrap.servers": self.bus.bootstrap})
        for done in client.delete_records([TopicPartition(self.topic, partition, before)]).values():
            done.result(READ_S)


@pytest.fixture
def rows(real_kafka: Any, topic_suffix: str) -> Iterator[Rows]:
    """Return a topic of the test's own."""
    made = Rows(real_kafka, topic_suffix)
    yield made
    for part in made.opened:
        part.close()


def drained(part: KafkaRowsPartition) -> list[RowItem]:
    """Return everything up to the end there was."""
    return [each for batch in batches(part) for each in batch]


def batches(part: KafkaRowsPartition) -> Iterator[list[RowItem]]:
    """Yield batches up to the end there was."""
    while True:
        try:
            yield [each for _, each in part.next_batch()]
        except StopIteration:
            return


def polled(part: KafkaRowsPartition, n_items: int, quiet_s: float = 0.3) -> list[RowItem]:
    """Return at least so many items, and whatever follows at once."""
    found: list[RowItem] = []
    until_s = time.monotonic() + READ_S
    last_s = time.monotonic()
    while len(found) < n_items or time.monotonic() - last_s < quiet_s:
        assert time.monotonic() < until_s, f"{len(found)} of {n_items} items came"
        more = [each for _, each in part.next_batch()]
        found += more
        if more:
            last_s = time.monotonic()
        else:
            time.sleep(0.002)
    return found


def merged(*numbers: int) -> list[RowItem]:
    """Return what the reader has of whole phases: by shard, then by asset."""
    return [item(number, uid) for number in numbers for uid in (0, 2, 1, 3)]


def counts(part: KafkaRowsPartition) -> dict[str, int]:
    """Return what was dropped, from the state as a restart would find it."""
    state: dict[str, Any] = msgspec.msgpack.decode(part.snapshot())
    return dict(state["counts"])


def test_rows_come_as_they_were_sent(rows: Rows) -> None:
    """Every kind of value, two shards merged by phase, keys that route by asset."""
    rows.write(1, 0, 1, 2)
    rows.write(0, 0, 1, 2)
    part = rows.open(follow=True)
    batch: list[tuple[str, RowItem]] = []
    until_s = time.monotonic() + READ_S
    while len(batch) < 12 and time.monotonic() < until_s:
        batch += part.next_batch()
    assert [each for _, each in batch] == merged(0, 1, 2)
    assert all(key == str(each.asset_uid) for key, each in batch)
    assert str(batch[0][1].rows[0].columns["v"]) == "-0.0"
    assert counts(part) == {}


def test_the_others_wait_for_a_slow_shard_and_are_not_read_far_ahead(rows: Rows) -> None:
    """An hour of one shard stays at the broker until the other one has the same minutes."""
    rows.write(0, *range(120))
    part = rows.open(follow=True)
    assert polled(part, 0, quiet_s=1.0) == []
    assert len(part._shards[0].whole) < PHASES_AHEAD + 8
    rows.write(1, 0)
    assert polled(part, 4) == merged(0)
    rows.write(1, *range(1, 120))
    assert polled(part, 4 * 119) == merged(*range(1, 120))


def test_a_restart_goes_on_with_the_next_phase(rows: Rows) -> None:
    """From any snapshot the rest comes, neither more nor less."""
    for index in (0, 1):
        rows.write(index, *range(20))
    part = rows.open()
    seen = 0
    snapshots = [(0, part.snapshot())]
    for batch in batches(part):
        seen += len(batch)
        snapshots.append((seen, part.snapshot()))
    assert seen == 80
    for seen, state in {number: (number, state) for number, state in snapshots}.values():
        assert drained(rows.open(state)) == merged(*range(20))[seen:]


def test_what_a_shard_sends_again_is_dropped_and_counted(rows: Rows) -> None:
    """A repeated epoch, also when the reader has restarted in between."""
    rows.write(0, 0, 1, 2, 3)
    rows.write(1, 0, 1)
    part = rows.open()
    assert drained(part) == merged(0, 1)
    rows.write(0, 2, 3, 4)
    rows.write(1, 0, 1, 2, 3, 4)
    again = rows.open(part.snapshot())
    assert drained(again) == merged(2, 3, 4)
    assert counts(again) == {"repeated_phase": 4}


def test_a_large_phase_is_cut_and_put_together(rows: Rows) -> None:
    """Messages stay below the limit; an item that is larger than it has one of its own."""
    share = Share(0, 2)
    large = ShardPhase(phase(0), tuple(item(0, uid, "x" * 300_000) for uid in range(0, 16, 2)))
    records = list(rows.maker(0).records(large))
    assert len(records) == 4
    assert all(len(record.value) < 1_000_000 for record in records)
    huge = ShardPhase(phase(1), (item(1, 0, "x" * 3_000_000), item(1, 2)))
    assert [len(r.value) > 1_000_000 for r in rows.maker(0).records(huge)] == [True, False]
    rows.send(*records, *rows.maker(0).records(huge))
    rows.write(1, 0, 1)
    part = rows.open()
    found = drained(part)
    assert [i for i in found if share.holds(i.asset_uid)] == [*large.items, *huge.items]


def test_a_shard_that_died_within_a_phase_begins_it_again(rows: Rows) -> None:
    """Some parts, then all of them, cut in another way; and repeats before that."""
    large = ShardPhase(phase(1), tuple(item(1, uid, "x" * 300_000) for uid in range(0, 16, 2)))
    rows.write(0, 0)
    rows.send(*list(rows.maker(0).records(large))[:3])
    rows.write(1, 0, 1)
    part = rows.open()
    assert drained(part) == merged(0)
    rows.write(0, 0, 1)
    again = rows.open(part.snapshot())
    assert drained(again) == merged(1)
    assert counts(again) == {"repeated_phase": 1}
    fresh = rows.open()
    assert drained(fresh) == merged(0, 1)


def test_a_phase_that_began_again_at_once_is_counted(rows: Rows) -> None:
    """Without a repeat of an earlier phase the broken one still does not count."""
    large = ShardPhase(phase(0), tuple(item(0, uid, "x" * 300_000) for uid in range(0, 16, 2)))
    rows.send(*list(rows.maker(0).records(large))[:2])
    for index in (0, 1):
        rows.write(index, 0)
    part = rows.open()
    assert drained(part) == merged(0)
    assert counts(part) == {"repeated_part": 1}


@pytest.mark.parametrize(
    ("maker", "message"),
    [
        ({"config_hash": "sha256:b"}, "expected rows of config sha256:a, found sha256:b .*packs"),
        ({"count": 3}, "expected rows of shard 0/2, found 0/3"),
    ],
)
def test_rows_that_do_not_belong_are_refused(
    rows: Rows, maker: dict[str, Any], message: str
) -> None:
    """Other packs, another number of shards: one message that says so."""
    rows.send(*rows.maker(0, **maker).records(whole(0, Share(0, 2))))
    with pytest.raises(SourceError, match=message):
        drained(rows.open())


@pytest.mark.parametrize(
    ("headers", "value", "message"),
    [
        ([], b"", "not a message of rows"),
        ([("head", b'{"schema":"9","config_hash":"","feature_pack":"","shard":"0/2",'
                   b'"part":[0,1]}')], b"", "expected schema 1, found 9"),
        ([("head", b'{"schema":"1","config_hash":"","feature_pack":"","shard":"0/2",'
                   b'"part":[0,1]}')], b"\xc1", "not a message of rows"),
    ],
)  # fmt: skip
def test_what_is_no_row_is_refused(
    rows: Rows, headers: list[Any], value: bytes, message: str
) -> None:
    """Somebody else's message, a later format, damage."""
    rows.send(Record(rows.topic, b"", value, headers, partition=0))
    with pytest.raises(SourceError, match=message):
        drained(rows.open())


def test_a_shard_that_left_minutes_out_is_an_error(rows: Rows) -> None:
    """It can never be put right by waiting."""
    rows.write(0, 0, 1, 2, 3)
    rows.write(1, 0, 1, 3)
    with pytest.raises(SourceError, match=r"left out phases .*must read the same ticks"):
        drained(rows.open())


def test_a_topic_whose_beginning_has_expired_starts_where_all_shards_have_a_sealed_minute(
    rows: Rows,
) -> None:
    """Retention cuts each partition elsewhere; what is left out is counted."""
    for index in (0, 1):
        rows.write(index, *range(12))
    rows.expire(0, 2)
    rows.expire(1, 5)
    part = rows.open()
    assert drained(part) == merged(*range(6, 12))
    assert counts(part) == {"before_all_shards": 5}


def test_rows_that_expired_unread_are_an_error(rows: Rows) -> None:
    """A market that was away for longer than the topic keeps must not go on as if nothing was."""
    for index in (0, 1):
        rows.write(index, 0, 1)
    part = rows.open()
    drained(part)
    for index in (0, 1):
        rows.write(index, *range(2, 6))
    rows.expire(1, 4)
    with pytest.raises(SourceError, match="offset 2 is not there"):
        polled(rows.open(part.snapshot(), follow=True), 16)


def test_a_topic_that_is_deleted_under_the_reader_is_an_error(rows: Rows) -> None:
    """It would be waited for without end."""
    rows.write(0, 0)
    part = rows.open(follow=True)
    polled(part, 0)
    client = AdminClient({"bootstrap.servers": rows.bus.bootstrap})
    client.delete_topics([rows.topic])[rows.topic].result(READ_S)
    with pytest.raises(SourceError, match=r"(?i)unknown"):
        polled(part, 1)


def test_the_number_of_shards_is_that_of_the_topic(rows: Rows) -> None:
    """A shard of another number, and a store of another number, are refused at start."""
    sink = KafkaRowsSink(rows.bus, rows.maker(0, count=3))
    with pytest.raises(SourceError, match="expected 3 partitions, found 2"):
        sink.build_part("rows", "0", None)
    three = msgspec.msgpack.encode({"places": [{}, {}, {}]})
    with pytest.raises(SourceError, match="store is of 3 shards, the topic has 2"):
        rows.open(three)


def test_without_the_topic_the_wait_is_bounded(real_kafka: Any, topic_suffix: str) -> None:
    """The message names the topic and the server."""
    bus = Bus(real_kafka.bootstrap, wait_s=0.5)
    with pytest.raises(SourceError, match="no such topic at"):
        KafkaRowsSource(bus, flow_topics(topic_suffix).rows, "x").build_part("r", "rows", None)


def test_a_phase_that_cannot_be_written_fails_the_epoch(rows: Rows) -> None:
    """Larger than any limit: never left out in silence."""
    part = KafkaRowsSink(rows.bus, rows.maker(0)).build_part("rows", "0", None)
    with pytest.raises(BusError, match="MSG_SIZE_TOO_LARGE"):
        part.write_batch([ShardPhase(phase(0), (item(0, 0, "x" * 11_000_000),))])
