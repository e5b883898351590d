"""The tick log over Kafka: `alpha.ticks.v0`, many lines a message, each line once and in order.

Rules of this file: one partition, so one order; every message carries the number of its first line
since the topic began, and where in the log its last one ended. The topic is the writer's memory: it
goes on after the newest message, whatever killed its predecessor. What was written twice all the
same is known by its number and dropped, counted. A number that is missing is an error. The reader's
state is the offset, how much of that message was read, and what the feed knows, so a restart goes
on with the next unread line. Design 2, 3, 7; docs/decisions/0014.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zstandard
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import Message

from dataflows.connectors.kafka import Bus, Record
from dataflows.connectors.kafka_partition import (
    PartitionReader,
    headers_of,
    make_topic,
    offset_of,
    partitions_of,
    writing,
)
from dataflows.connectors.source import CHUNK_LINES, HoleLog, Item, by_key, feed_reader, note_holes
from dataflows.connectors.ticklog import Position, TickLogReader
from dataflows.connectors.topic_source import SourceError
from operators import wire
from operators.feed import FeedState
from packs.schema import FeaturePack

SCHEMA = b"1"
PARTITION = "ticks"
MESSAGE_BYTES = 512 << 10  # of lines; a longer line has a message of its own
REPEATED_LINE = "repeated_line"
BEFORE_ROSTER = "before_roster"
_KEY = b"log"
_ROSTER_MARK = b'"alpha.roster"'
_MESSAGES_AHEAD = 8


class Mark(msgspec.Struct, frozen=True):
    """A place in the tick log: so many lines after the one that starts at a position."""

    position: Position = Position()
    lines_after: int = 0


class TicksHead(msgspec.Struct, frozen=True):
    """What a message says of its lines.

    sequence : number of the first line, from 0 where the topic began. n_lines : how many. end : in
    the log, after the last. rejects : what the log's reader dropped before the last, by reason.
    """

    sequence: int
    n_lines: int
    end: Mark
    rejects: dict[str, int] = {}


_decode_head = msgspec.json.Decoder(TicksHead).decode


# --- writing -----------------------------------------------------------------------------------


class TicksForwarder:
    """Copies a tick log to the topic, and goes on where the topic ends.

    follow : the log is still being written. `sequence` is the number of the next line,
    `all_rejects` counts what the log's reader dropped, by reason.
    """

    def __init__(self, bus: Bus, topic: str, path: Path, *, follow: bool) -> None:
        make_topic(bus, topic, 1)
        self.topic = topic
        self.all_rejects: dict[str, int] = {}
        self._rejects: dict[str, int] = {}  # since the last message
        newest = _newest(bus, topic)
        head, roster = newest if newest is not None else (TicksHead(0, 0, Mark()), b"")
        self.sequence = head.sequence + head.n_lines
        self._roster = roster
        self._log = TickLogReader(path, head.end.position, on_reject=self._reject, follow=follow)
        if len(self._log.read(head.end.lines_after)) < head.end.lines_after:
            self._log.close()
            raise SourceError(f"{topic}: ends behind the end of {path}: is it another log?")
        self._publisher = writing(bus).publisher()

    def forward(self, lines_max: int = CHUNK_LINES) -> int:
        """Send some more lines; return how many, once the broker has them. Raises `BusError`."""
        start = self._log.position
        lines = self._log.read(lines_max)
        if lines:
            self._publisher.send(self._records(start, lines))
        return len(lines)

    def close(self) -> None:
        """Release log and broker."""
        self._publisher.close()
        self._log.close()

    def _reject(self, reason: str) -> None:
        for counts in (self._rejects, self.all_rejects):
            counts[reason] = counts.get(reason, 0) + 1

    def _records(self, start: Position, lines: list[bytes]) -> Iterator[Record]:
        at = 0
        for piece in _pieces(lines):
            at += len(piece)
            last = at == len(lines)
            end = Mark(self._log.position) if last else Mark(start, at)
            rejects = self._rejects if last else {}
            head = TicksHead(self.sequence, len(piece), end, rejects)
            yield ticks_record(self.topic, head, piece, self._roster)
            self.sequence += len(piece)
            self._roster = _last_roster(piece) or self._roster
        self._rejects = {}


def ticks_record(topic: str, head: TicksHead, lines: list[bytes], roster: bytes) -> Record:
    """Return a message; roster : the newest roster line before it, empty if there was none."""
    packed = zstandard.compress(roster, 3) if roster else b""
    return Record(
        topic,
        _KEY,
        b"\n".join(lines),
        [("schema", SCHEMA), ("head", msgspec.json.encode(head)), ("roster", packed)],
        partition=0,
    )


def _newest(bus: Bus, topic: str) -> tuple[TicksHead, bytes] | None:
    """Return head and roster of the newest message, None of a topic that never had one."""
    probe = PartitionReader(bus, topic, 0, None)
    low, high = probe.ends()
    probe.close()
    if high == 0:
        return None
    if low == high:
        raise SourceError(
            f"{topic}: every message has expired, so nothing says where to go on;"
            " delete the topic or set another ALPHA_TOPIC_SUFFIX"
        )
    reader = PartitionReader(bus, topic, 0, high - 1)
    until_s = bus.clock.monotonic_s() + bus.wait_s
    while not (found := reader.read(1)):
        if bus.clock.monotonic_s() >= until_s:
            raise SourceError(f"{topic}: the newest message did not come within {bus.wait_s:.0f} s")
        bus.clock.sleep(0.01)
    reader.close()
    head, lines, roster = parts_of(found[0])
    return head, _last_roster(lines) or roster


def _pieces(lines: list[bytes]) -> Iterator[list[bytes]]:
    """Cut lines into messages, each below the limit or of one line."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > MESSAGE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(line)
        size += len(line) + 1
    yield piece


def _last_roster(lines: list[bytes]) -> bytes | None:
    """Return the newest line that holds a roster."""
    for line in reversed(lines):
        if _ROSTER_MARK in line:
            try:
                message, _ = wire.decode(line.partition(b" ")[2])
            except wire.Reject:
                continue
            if isinstance(message, wire.Roster):
                return line
    return None


# --- reading -----------------------------------------------------------------------------------


def parts_of(message: Message) -> tuple[TicksHead, list[bytes], bytes]:
    """Return head, lines and roster line of a message. Raises `SourceError`."""
    headers, where = headers_of(message), f"{message.topic()}, offset {message.offset()}"
    if headers.get("schema") != SCHEMA:
        found = headers.get("schema", b"none").decode(errors="replace")
        raise SourceError(f"{where}: expected schema {SCHEMA.decode()}, found {found}")
    try:
        head = _decode_head(headers["head"])
        roster = zstandard.decompress(headers["roster"]) if headers["roster"] else b""
    except (KeyError, msgspec.MsgspecError, zstandard.ZstdError) as error:
        raise SourceError(f"{where}: not a message of ticks: {error}") from error
    lines = (message.value() or b"").split(b"\n")
    if len(lines) != head.n_lines:
        raise SourceError(f"{where}: expected {head.n_lines} lines, found {len(lines)}")
    return head, lines, roster


class TicksState(msgspec.Struct):
    """Where the topic was left, and what had been learned from it.

    offset : of the message to read next, None before the first. lines_taken : of that message,
    where a chunk cut it. sequence : number of the next line, None before the first.
    """

    feed: FeedState
    offset: int | None = None
    lines_taken: int = 0
    sequence: int | None = None
    version: int = 1


@dataclass(frozen=True)
class KafkaTicksSource(FixedPartitionedSource[Item, bytes]):
    """Reads the ticks topic: the items that `LogSource` has of the same lines.

    follow : wait at the end; otherwise end where the topic ended when reading began. on_chunk,
    holes : as in `LogSource`.
    """

    bus: Bus
    topic: str
    features: FeaturePack
    chunk_lines: int = CHUNK_LINES
    follow: bool = True
    on_chunk: Callable[[TicksState], None] | None = None
    holes: HoleLog | None = None

    def list_parts(self) -> list[str]:
        """Return the one partition."""
        return [PARTITION]

    def build_part(
        self, step_id: str, for_part: str, resume_state: bytes | None
    ) -> KafkaTicksPartition:
        """Open the topic at its beginning, or where a snapshot left it."""
        state = TicksState(FeedState())
        if resume_state is not None:
            state = msgspec.msgpack.decode(resume_state, type=TicksState)
        return KafkaTicksPartition(self, state)


class KafkaTicksPartition(StatefulSourcePartition[Item, bytes]):
    """The open topic and the reader of its lines."""

    def __init__(self, source: KafkaTicksSource, state: TicksState) -> None:
        self._source = source
        self._state = state
        found = partitions_of(source.bus, source.topic)
        if found != 1:
            raise SourceError(f"{source.topic}: expected 1 partition, found {found}")
        self._feed = feed_reader(state.feed, source.features)
        self._reader = PartitionReader(source.bus, source.topic, 0, state.offset)
        self._end = None if source.follow else self._reader.end()
        self._ahead: list[Message] = []
        self._lines: list[bytes] = []  # of the message at `state.offset`

    def next_batch(self) -> list[Item]:
        """Return the items of the next lines that are here."""
        lines = self._take(self._source.chunk_lines)
        if not lines and self._is_over():
            self._report()
            raise StopIteration
        items = by_key(self._feed.read(lines))
        note_holes(self._feed, self._source.holes)
        if lines:
            self._report()
        return items

    def snapshot(self) -> bytes:
        """Return offset and reader state."""
        return msgspec.msgpack.encode(self._state)

    def close(self) -> None:
        """Leave the broker."""
        self._reader.close()
        if self._source.holes is not None:
            self._source.holes.close()

    def _take(self, lines_max: int) -> list[bytes]:
        """Return up to so many lines, of one message or several; one more where a roster leads."""
        state, taken = self._state, list[bytes]()
        while len(taken) < lines_max:
            if not self._lines:
                lead = self._open_message()
                if lead is None:
                    break
                taken += lead
                continue
            piece = self._lines[: lines_max - len(taken)]
            del self._lines[: len(piece)]
            taken += piece
            assert state.sequence is not None
            state.sequence += len(piece)
            state.lines_taken += len(piece)
            if not self._lines:
                self._leave_message()
        return taken

    def _open_message(self) -> list[bytes] | None:
        """Open the next message; return what goes before its lines, None if no message is here."""
        if not self._ahead:
            self._ahead = self._reader.read(_MESSAGES_AHEAD)
        if not self._ahead:
            return None
        message = self._ahead.pop(0)
        state = self._state
        head, lines, roster = parts_of(message)
        state.offset = offset_of(message)
        lead: list[bytes] = []
        if state.lines_taken:  # a restart within the message
            self._lines = lines[state.lines_taken :]
            return lead
        if state.sequence is None:
            if head.sequence and not roster:
                state.feed.count(BEFORE_ROSTER, len(lines))
                self._leave_message()
                return lead
            if head.sequence:  # the beginning has expired: the roster holds from here on
                lead.append(lines[0].partition(b" ")[0] + b" " + roster.partition(b" ")[2])
            state.sequence = head.sequence
        if head.sequence > state.sequence:
            raise SourceError(
                f"{self._source.topic}, offset {state.offset}: expected line {state.sequence},"
                f" found {head.sequence}: lines are missing"
            )
        repeated = min(state.sequence - head.sequence, len(lines))
        if repeated:
            state.feed.count(REPEATED_LINE, repeated)
        self._lines = lines[repeated:]
        state.lines_taken = repeated
        if not self._lines:
            self._leave_message()
            return lead
        for reason, count in head.rejects.items():
            state.feed.count(reason, count)
        return lead

    def _leave_message(self) -> None:
        assert self._state.offset is not None
        self._state.offset += 1
        self._state.lines_taken = 0

    def _is_over(self) -> bool:
        return self._end is not None and (self._state.offset or 0) >= self._end

    def _report(self) -> None:
        if self._source.on_chunk is not None:
            self._source.on_chunk(self._state)
