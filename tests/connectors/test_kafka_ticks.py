"""The tick log over Kafka: every line once, in order, whatever is killed in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import AdminClient

from dataflows.connectors.kafka import Bus, Record
from dataflows.connectors.kafka_partition import PartitionReader, flow_topics, make_topic, writing
from dataflows.connectors.kafka_ticks import (
    KafkaTicksPartition,
    KafkaTicksSource,
    Mark,
    TicksForwarder,
    TicksHead,
    parts_of,
    ticks_record,
)
from dataflows.connectors.source import LogSource
from dataflows.connectors.ticklog import TickLogWriter
from dataflows.connectors.topic_source import SourceError
from operators.layout import books_of, contexts_of, quotes_of, trades_of
from operators.records import Boundary
from packs.loader import load_packs

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[2]
START_NS = 1_790_000_040_000_000_000
READ_S = 20.0
ALPHA = "from dataflows.cli import main; main()"
FEATURES = load_packs().features


def roster(at: int, *coins: str) -> bytes:
    """Return a line with a roster at so many seconds."""
    assets = ",".join(
        f'{{"uid":{uid + 5},"coin":"{coin}","channels":["bbo"]}}' for uid, coin in enumerate(coins)
    )
    data = f'{{"from_ms":{START_NS // 1_000_000 + at * 1000},"assets":[{assets}]}}'
    return stamped(at, f'{{"channel":"alpha.roster","data":{data}}}')


def stamped(at: int, frame: str) -> bytes:
    """Return a line at so many seconds."""
    return b"%d %b" % (START_NS + at * 1_000_000_000, frame.encode())


def quote(at: int, coin: str = "BTC") -> bytes:
    """Return a line with a quote."""
    time_ms = START_NS // 1_000_000 + at * 1000 - 200
    levels = '[{"px":"99","sz":"1","n":1},{"px":"101","sz":"1","n":1}]'
    data = f'{{"coin":"{coin}","time":{time_ms},"bbo":{levels}}}'
    return stamped(at, f'{{"channel":"bbo","data":{data}}}')


LINES = [roster(0, "BTC", "ETH"), *(quote(at, "BTC" if at % 3 else "ETH") for at in range(1, 400))]


class Ticks:
    """A topic of ticks and a log beside it."""

    def __init__(self, server: Any, suffix: str, folder: Path) -> None:
        self.suffix = suffix
        self.bus = Bus(server.bootstrap, 10.0)
        self.topic = flow_topics(suffix).ticks
        self.log = folder / "ticks"
        self.opened: list[KafkaTicksPartition] = []

    def record(self, *lines: bytes) -> None:
        """Append to the log, as a recorder that starts anew."""
        writer = TickLogWriter(self.log)
        for line in lines:
            writer.write_lines(int(line.partition(b" ")[0]), line + b"\n")
        writer.close()

    def forward(self, *, rounds: int | None = None, lines_max: int = 100) -> TicksForwarder:
        """Copy the log, or so many chunks of it."""
        forwarder = TicksForwarder(self.bus, self.topic, self.log, follow=False)
        while rounds != 0 and forwarder.forward(lines_max):
            rounds = None if rounds is None else rounds - 1
        forwarder.close()
        return forwarder

    def send(self, *records: Record) -> None:
        """Write messages as they are."""
        publisher = writing(self.bus).publisher()
        publisher.send(records)
        publisher.close()

    def messages(self) -> list[Message]:
        """Return everything in the topic."""
        reader = PartitionReader(self.bus, self.topic, 0, None)
        end, found = reader.end(), list[Message]()
        until_s = time.monotonic() + READ_S
        while not found or (found[-1].offset() or 0) + 1 < end:
            assert time.monotonic() < until_s
            found += reader.read(100)
        reader.close()
        return found

    def expire(self, before: int) -> None:
        """Remove the messages before an offset, as retention does."""
        client = AdminClient({"bootstrap.servers": self.bus.bootstrap})
        for done in client.delete_records([TopicPartition(self.topic, 0, before)]).values():
            done.result(READ_S)

    def open(
        self, state: bytes | None = None, *, chunk: int = 2000, follow: bool = False
    ) -> KafkaTicksPartition:
        """Open the source."""
        source = KafkaTicksSource(self.bus, self.topic, FEATURES, chunk_lines=chunk, follow=follow)
        self.opened.append(source.build_part("ticks", "ticks", state))
        return self.opened[-1]


@pytest.fixture
def ticks(real_kafka: Any, topic_suffix: str, tmp_path: Path) -> Iterator[Ticks]:
    """Return a topic and a log of the test's own."""
    made = Ticks(real_kafka, topic_suffix, tmp_path)
    yield made
    for part in made.opened:
        part.close()


def batches(part: Any) -> Iterator[list[Any]]:
    """Yield batches up to the end there was; those without an item, too."""
    while True:
        try:
            yield part.next_batch()
        except StopIteration:
            return


def feed_counts(part: Any) -> dict[str, int]:
    """Return what the reader has counted, from its state."""
    state: dict[str, Any] = msgspec.msgpack.decode(part.snapshot())
    return dict(state["feed"]["counts"])


def by_asset(items: list[Any]) -> dict[str, list[Any]]:
    """Return boundaries and records by asset in order; how records were batched leaves no trace."""
    found: dict[str, list[Any]] = {}
    for key, item in items:
        kept = found.setdefault(key, [])
        if isinstance(item, Boundary):
            kept.append(item)
        else:
            kept += [*trades_of(item.trades), *quotes_of(item.quotes), *books_of(item.books)]
            kept += [*contexts_of(item.contexts), item.rejects or 0]
    return {key: [each for each in kept if each != 0] for key, kept in found.items()}


def from_log(log: Path) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """Return what the log itself gives."""
    part = LogSource(log, FEATURES).build_part("ticks", "log", None)
    items = [each for batch in batches(part) for each in batch]
    part.close()
    return by_asset(items), feed_counts(part)


def test_the_topic_holds_every_line_once(ticks: Ticks) -> None:
    """Over three lives of the writer, numbered without a gap."""
    ticks.record(*LINES)
    assert ticks.forward(rounds=1).sequence == 100
    assert ticks.forward(rounds=2).sequence == 300
    assert ticks.forward().sequence == 400
    assert ticks.forward().sequence == 400
    heads, lines = [], list[bytes]()
    for message in ticks.messages():
        head, found, before = parts_of(message)
        heads.append(head)
        assert before == (LINES[0] if lines else b"")
        lines += found
    assert lines == LINES
    assert [head.sequence for head in heads] == [0, 100, 200, 300]


def test_the_source_gives_what_the_log_gives_and_counts_what_it_counts(ticks: Ticks) -> None:
    """Also of damage: a torn segment, lines that are too long, frames that are no frames."""
    ticks.record(*LINES[:150], stamped(151, "hello"))
    segment = max(ticks.log.iterdir())
    with segment.open("ab") as file:
        file.write(b"%d torn" % START_NS)
    ticks.record(*LINES[150:300])
    with max(ticks.log.iterdir()).open("ab") as file:
        file.write(stamped(300, "x" * (9 << 20)) + b"\n")
    ticks.record(*LINES[300:], roster(401, "BTC", "ETH", "SOL"), quote(402, "SOL"))
    ticks.forward(lines_max=130)
    expected, counts = from_log(ticks.log)
    assert {"not_json", "torn_line", "frame_too_large"} <= set(counts)
    part = ticks.open()
    assert by_asset([each for batch in batches(part) for each in batch]) == expected
    assert feed_counts(part) == counts


@pytest.mark.parametrize("chunk", [1, 33, 250])
def test_a_restart_goes_on_with_the_next_line(ticks: Ticks, chunk: int) -> None:
    """After every batch, wherever it cut a message, the rest is the same."""
    ticks.record(*LINES)
    ticks.forward(lines_max=70)
    part = ticks.open(chunk=chunk)
    items, places = list[Any](), [(0, part.snapshot())]
    for batch in batches(part):
        items += batch
        places.append((len(items), part.snapshot()))
    expected = from_log(ticks.log)[0]
    assert by_asset(items) == expected
    for n_items, state in places[:: max(1, len(places) // 5)]:
        rest = [each for batch in batches(ticks.open(state, chunk=47)) for each in batch]
        assert by_asset(items[:n_items] + rest) == expected


def test_a_line_larger_than_a_usual_message_passes(ticks: Ticks) -> None:
    """The log allows 8 MiB, and messages are cut between lines only."""
    long = stamped(1, '"' + "x" * (8_000_000) + '"')
    many = [stamped(2, '"' + "y" * 100_000 + '"') for _ in range(20)]
    ticks.record(LINES[0], long, *many)
    ticks.forward()
    found = [parts_of(message)[1] for message in ticks.messages()]
    assert [line for lines in found for line in lines] == [LINES[0], long, *many]
    assert len(found) == 1 + 1 + 4
    assert ticks.forward().sequence == 22


def test_a_writer_that_died_between_messages_of_a_chunk_goes_on_there(ticks: Ticks) -> None:
    """The newest message ends within the chunk: the next life reads the log up to that line."""
    lines = [LINES[0], *(stamped(2, '"' + "y" * 200_000 + f'{n}"') for n in range(12))]
    ticks.record(*lines)
    ticks.forward()
    whole = ticks.messages()
    assert len(whole) > 3
    cut = Ticks.__new__(Ticks)
    cut.__dict__ = {**ticks.__dict__, "topic": ticks.topic.replace("ticks.v0", "ticks.cut")}
    make_topic(cut.bus, cut.topic, 1)
    for message in whole[:2]:
        head, found, before = parts_of(message)
        cut.send(ticks_record(cut.topic, head, found, before))
    cut.forward()
    assert [line for message in cut.messages() for line in parts_of(message)[1]] == lines


def test_lines_that_were_written_twice_are_dropped_and_counted(ticks: Ticks) -> None:
    """A message of a writer that was believed dead, whole or cut in another way."""
    ticks.record(*LINES)
    ticks.forward(rounds=2)
    ticks.send(ticks_record(ticks.topic, TicksHead(100, 100, Mark()), LINES[100:200], LINES[0]))
    ticks.send(ticks_record(ticks.topic, TicksHead(150, 100, Mark()), LINES[150:250], LINES[0]))
    ticks.send(ticks_record(ticks.topic, TicksHead(200, 200, Mark()), LINES[200:400], LINES[0]))
    part = ticks.open(chunk=30)
    expected, _ = from_log(ticks.log)
    assert by_asset([each for batch in batches(part) for each in batch]) == expected
    assert feed_counts(part)["repeated_line"] == 100 + 50 + 50


def test_lines_that_are_missing_are_an_error(ticks: Ticks) -> None:
    """Never left out in silence."""
    ticks.record(*LINES)
    ticks.forward(rounds=1)
    ticks.send(ticks_record(ticks.topic, TicksHead(101, 9, Mark()), LINES[101:110], LINES[0]))
    with pytest.raises(SourceError, match="expected line 100, found 101: lines are missing"):
        list(batches(ticks.open()))


@pytest.mark.parametrize(
    ("headers", "message"),
    [([], "expected schema 1, found none"), ([("schema", b"1")], "not a message of ticks")],
)
def test_what_is_no_ticks_is_refused(ticks: Ticks, headers: list[Any], message: str) -> None:
    """Somebody else's message."""
    make_topic(ticks.bus, ticks.topic, 1)
    ticks.send(Record(ticks.topic, b"", b"x", headers, partition=0))
    with pytest.raises(SourceError, match=message):
        list(batches(ticks.open()))


def test_a_topic_whose_beginning_has_expired_still_has_its_roster(ticks: Ticks) -> None:
    """The assets keep their ids though the line that named them is gone."""
    ticks.record(*LINES)
    ticks.forward()
    ticks.expire(2)
    items = [each for batch in batches(ticks.open(chunk=1)) for each in batch]
    boundaries = [item for _, item in items if isinstance(item, Boundary)]
    assert {each.asset.asset_uid for each in boundaries} == {5, 6}
    assert min(each.phase.minute_ms for each in boundaries) > START_NS // 1_000_000 + 180_000


def test_lines_that_expired_unread_are_an_error(ticks: Ticks) -> None:
    """A shard that was away for longer than the topic keeps."""
    ticks.record(*LINES)
    ticks.forward()
    part = ticks.open(chunk=100)
    for _ in range(1000):
        if part.next_batch():
            break
        time.sleep(0.01)
    ticks.expire(3)
    part = ticks.open(part.snapshot(), follow=True)
    with pytest.raises(SourceError, match="is not there"):
        poll_for_ever(part)


def poll_for_ever(part: KafkaTicksPartition) -> None:
    """Ask for batches until one fails, or for so long."""
    until_s = time.monotonic() + READ_S
    while time.monotonic() < until_s:
        part.next_batch()


def test_a_writer_whose_topic_has_expired_says_what_to_do(ticks: Ticks) -> None:
    """Nothing tells where to go on."""
    ticks.record(*LINES)
    ticks.forward()
    ticks.expire(4)
    with pytest.raises(SourceError, match="every message has expired"):
        ticks.forward()


def test_another_log_is_refused(ticks: Ticks, tmp_path: Path) -> None:
    """The topic ends in a segment that this log does not have, or has not got so far."""
    ticks.record(*LINES)
    ticks.forward()
    head = parts_of(ticks.messages()[-1])[0]
    ticks.send(
        ticks_record(ticks.topic, TicksHead(400, 1, Mark(head.end.position, 7)), [b"x"], b"")
    )
    with pytest.raises(SourceError, match="is it another log"):
        ticks.forward()


def test_a_follower_waits_and_goes_on(ticks: Ticks) -> None:
    """At the end of the topic nothing is over."""
    ticks.record(*LINES[:200])
    ticks.forward()
    part = ticks.open(follow=True)
    items = list[Any]()
    until_s = time.monotonic() + 1.0
    while time.monotonic() < until_s:
        items += part.next_batch()
    ticks.record(*LINES[200:])
    ticks.forward()
    expected = from_log(ticks.log)[0]
    until_s = time.monotonic() + READ_S
    while by_asset(items) != expected and time.monotonic() < until_s:
        items += part.next_batch()
    assert by_asset(items) == expected


@pytest.mark.slow
def test_a_forwarder_that_is_killed_loses_and_doubles_nothing(ticks: Ticks) -> None:
    """kill -9 three times under `alpha forward`, while the log grows."""
    lines = [LINES[0], *(quote(at) for at in range(60_000))]
    ticks.record(*lines[:50_000])
    command = [sys.executable, "-c", ALPHA, "forward", str(ticks.log)]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ALPHA_")},
        "ALPHA_KAFKA_BOOTSTRAP": ticks.bus.bootstrap,
        "ALPHA_TOPIC_SUFFIX": ticks.suffix,
    }
    reached = 0
    for pause_s in (0.02, 0.1, 0.01):
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        until_s = time.monotonic() + READ_S
        while time.monotonic() < until_s and (now := end_of(ticks)) <= reached:
            time.sleep(0.005)
        reached = now
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
    ticks.record(*lines[50_000:])
    done = subprocess.run(
        [*command, "--once"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"next is line {len(lines)}" in done.stdout
    found, expected = list[bytes](), 0
    for message in ticks.messages():
        head, more, _ = parts_of(message)
        assert head.sequence <= expected
        found += more[expected - head.sequence :]
        expected = len(found)
    assert found == lines


def end_of(ticks: Ticks) -> int:
    """Return how many messages the topic has, 0 while it is not there."""
    client = AdminClient({"bootstrap.servers": ticks.bus.bootstrap})
    if ticks.topic not in client.list_topics(timeout=READ_S).topics:
        return 0
    reader = PartitionReader(ticks.bus, ticks.topic, 0, None)
    high = reader.ends()[1]
    reader.close()
    return high
