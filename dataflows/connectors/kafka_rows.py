"""Rows with their candidates over Kafka: `alpha.rows.v0`, from the shards of a flow to its join.

Rules of this file: shard s of K writes partition s of K; a message holds a phase of one shard, or a
part of it where it is large; every message says which configuration made it and of how many shards,
and rows that do not belong together are refused. A shard that restarts sends its open epoch again:
phases come in order, so one that is not newer than the last is a repeat, dropped and counted. The
reader hands out whole phases in their order, each when all shards have sent theirs, so neither the
speed of a shard nor a restart shows in what follows; a shard that runs ahead is not read further.
The state is, per partition, the offset behind the last phase that was handed out.
Design 3, 7; docs/decisions/0014.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec
import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import StatefulSinkPartition
from confluent_kafka import Message

from dataflows.connectors.kafka import Bus, Publisher, Record
from dataflows.connectors.kafka_partition import (
    PartitionReader,
    headers_of,
    make_topic,
    offset_of,
    partitions_of,
    writing,
)
from dataflows.connectors.topic_source import SourceError
from dataflows.connectors.topics import OnePartitionSink
from operators.lattice import iso
from operators.records import RowItem, key_of
from operators.sharding import ShardPhase, Share

SCHEMA = "1"
PARTITION = "rows"
MESSAGE_BYTES = 800_000  # of items; a larger one has a message of its own
PHASES_AHEAD = 16  # that a shard may be read before the others
PHASES_AT_ONCE = 8
REPEATED_PHASE = "repeated_phase"
REPEATED_PART = "repeated_part"
BEFORE_ALL_SHARDS = "before_all_shards"
_MESSAGES_AT_ONCE = 8
_SAY_S = 60.0

_log = structlog.get_logger(__name__)


class RowsHead(msgspec.Struct, frozen=True):
    """What a message says of its rows. part : number of it and how many the phase has."""

    schema: str
    config_hash: str
    feature_pack: str
    shard: str
    part: tuple[int, int]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ShardPhase).decode
_decode_head = msgspec.json.Decoder(RowsHead).decode


# --- writing -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowsMaker:
    """Makes the messages of a shard."""

    topic: str
    share: Share
    config_hash: str
    feature_pack: str

    def records(self, whole: ShardPhase) -> Iterator[Record]:
        """Yield the messages of a phase, at least one."""
        pieces = list(_pieces(whole.items))
        for number, items in enumerate(pieces):
            head = RowsHead(
                SCHEMA,
                self.config_hash,
                self.feature_pack,
                str(self.share),
                (number, len(pieces)),
            )
            yield Record(
                self.topic,
                str(self.share.index).encode(),
                _encode(ShardPhase(whole.phase, items)),
                [("head", msgspec.json.encode(head))],
                partition=self.share.index,
            )


def _pieces(items: tuple[RowItem, ...]) -> Iterator[tuple[RowItem, ...]]:
    piece: list[RowItem] = []
    size = 0
    for item in items:
        length = len(_encode(item))
        if piece and size + length > MESSAGE_BYTES:
            yield tuple(piece)
            piece, size = [], 0
        piece.append(item)
        size += length
    yield tuple(piece)


class _Rows(StatefulSinkPartition[ShardPhase, None]):
    def __init__(self, publisher: Publisher, maker: RowsMaker) -> None:
        self._publisher = publisher
        self._maker = maker

    def write_batch(self, values: list[ShardPhase]) -> None:
        self._publisher.send(record for whole in values for record in self._maker.records(whole))

    def snapshot(self) -> None:
        """Nothing to keep: what was written is acknowledged, and repeats are known as such."""

    def close(self) -> None:
        self._publisher.close()


class KafkaRowsSink(OnePartitionSink[ShardPhase, None]):
    """Writes the phases of a shard to its partition; items are (key, ShardPhase)."""

    def __init__(self, bus: Bus, maker: RowsMaker) -> None:
        self._bus = bus
        self.maker = maker

    def build_part(
        self, step_id: str, for_part: str, resume_state: None
    ) -> StatefulSinkPartition[ShardPhase, None]:
        make_topic(self._bus, self.maker.topic, self.maker.share.count)
        return _Rows(writing(self._bus).publisher(), self.maker)


# --- reading -----------------------------------------------------------------------------------


class Place(msgspec.Struct):
    """How far a partition was handed out: the offset behind it, and the number of the phase."""

    offset: int | None = None
    phase: int = 0


class RowsState(msgspec.Struct):
    """Where the topic was left, by partition; counts : what was dropped, by reason."""

    places: list[Place]
    counts: dict[str, int] = {}
    version: int = 1

    def count(self, reason: str) -> None:
        """Add one to a counter."""
        self.counts[reason] = self.counts.get(reason, 0) + 1


@dataclass
class _Shard:
    """One partition: its reader, its place, and what was read but not handed out."""

    index: int
    reader: PartitionReader
    place: Place
    end: int | None
    offset: int = 0  # of the next message
    parts: list[RowItem] = field(default_factory=list)  # of a phase that is not whole yet
    n_parts: int = 0
    whole: deque[tuple[int, ShardPhase]] = field(default_factory=deque)  # offset behind, phase

    @property
    def is_full(self) -> bool:
        return len(self.whole) >= PHASES_AHEAD

    @property
    def is_over(self) -> bool:
        return self.end is not None and self.offset >= self.end


@dataclass(frozen=True)
class KafkaRowsSource(FixedPartitionedSource[tuple[str, RowItem], bytes]):
    """Reads the rows of all shards, merged by phase; items are (key, RowItem).

    config_hash : of the packs; rows that others made are refused. follow : wait at the end;
    otherwise end where the topic ended when reading began. on_chunk(state) : called after every
    batch that was not empty.
    """

    bus: Bus
    topic: str
    config_hash: str
    follow: bool = True
    on_chunk: Callable[[RowsState], None] | None = None

    def list_parts(self) -> list[str]:
        """Return the one partition; those of the topic are inside, or a phase could not wait."""
        return [PARTITION]

    def build_part(
        self, step_id: str, for_part: str, resume_state: bytes | None
    ) -> KafkaRowsPartition:
        """Open the topic at its beginning, or where a snapshot left it."""
        n_shards = partitions_of(self.bus, self.topic)
        state = RowsState([Place() for _ in range(n_shards)])
        if resume_state is not None:
            state = msgspec.msgpack.decode(resume_state, type=RowsState)
            if len(state.places) != n_shards:
                raise SourceError(
                    f"{self.topic}: the recovery store is of {len(state.places)} shards, the topic"
                    f" has {n_shards} partitions; see docs/scaling.md"
                )
        return KafkaRowsPartition(self, state)


class KafkaRowsPartition(StatefulSourcePartition[tuple[str, RowItem], bytes]):
    """The open topic, and the phases that wait for each other."""

    def __init__(self, source: KafkaRowsSource, state: RowsState) -> None:
        self._source = source
        self._state = state
        self._shards = [self._open(index, place) for index, place in enumerate(state.places)]
        self._waiting_since_s: float | None = None
        self._told = dict(state.counts)
        self._told_s = -_SAY_S

    def _open(self, index: int, place: Place) -> _Shard:
        reader = PartitionReader(self._source.bus, self._source.topic, index, place.offset)
        end = None if self._source.follow else reader.end()
        return _Shard(index, reader, place, end, place.offset or 0)

    def next_batch(self) -> list[tuple[str, RowItem]]:
        """Return the items of the next phases that every shard has sent."""
        for shard in self._shards:
            self._read(shard)
        items: list[tuple[str, RowItem]] = []
        for _ in range(PHASES_AT_ONCE):
            if not all(shard.whole for shard in self._shards):
                break
            items += [(key_of(item.asset_uid), item) for item in self._release()]
        now_s = self._source.bus.clock.monotonic_s()
        self._watch_waiting(now_s)
        self._tell_dropped(now_s)
        if items and self._source.on_chunk is not None:
            self._source.on_chunk(self._state)
        if not items and all(shard.is_over or shard.is_full for shard in self._shards):
            raise StopIteration
        return items

    def snapshot(self) -> bytes:
        """Return the places."""
        return msgspec.msgpack.encode(self._state)

    def close(self) -> None:
        """Leave the broker."""
        for shard in self._shards:
            shard.reader.close()

    # --- one shard -----------------------------------------------------------------------------

    def _read(self, shard: _Shard) -> None:
        if shard.is_full or shard.is_over:
            return
        for message in shard.reader.read(_MESSAGES_AT_ONCE):
            shard.offset = offset_of(message) + 1
            self._take(shard, message)

    def _take(self, shard: _Shard, message: Message) -> None:
        """Add a message to its phase, and the phase to those that are whole."""
        where = f"{shard.reader.name}, offset {message.offset()}"
        head, piece = _parts_of(message, where)
        number = piece.phase.number
        newest = shard.whole[-1][1].phase.number if shard.whole else shard.place.phase
        if number <= newest:
            if head.part[0] == 0:
                self._state.count(REPEATED_PHASE)
            shard.parts, shard.n_parts = [], 0
            if not shard.whole:
                shard.place.offset = shard.offset
            return
        self._check(shard, head, where)
        if head.part[0] == 0:
            if shard.n_parts:  # the shard died between two parts, and began the phase again
                self._state.count(REPEATED_PART)
            shard.parts, shard.n_parts = [], 0
        elif head.part[0] != shard.n_parts:  # the beginning of a phase that retention cut
            self._state.count(BEFORE_ALL_SHARDS)
            return
        shard.parts += piece.items
        shard.n_parts += 1
        if shard.n_parts == head.part[1]:
            shard.whole.append((shard.offset, ShardPhase(piece.phase, tuple(shard.parts))))
            shard.parts, shard.n_parts = [], 0

    def _check(self, shard: _Shard, head: RowsHead, where: str) -> None:
        expected = str(Share(shard.index, len(self._shards)))
        if head.shard != expected:
            raise SourceError(f"{where}: expected rows of shard {expected}, found {head.shard}")
        if head.config_hash != self._source.config_hash:
            raise SourceError(
                f"{where}: expected rows of config {self._source.config_hash}, found"
                f" {head.config_hash} (feature pack {head.feature_pack}): shards and market must"
                " run with the same packs"
            )

    # --- all shards ----------------------------------------------------------------------------

    def _release(self) -> list[RowItem]:
        """Hand out the oldest phase; empty while the shards are brought to a common beginning."""
        heads = [shard.whole[0][1].phase.number for shard in self._shards]
        begun = any(shard.place.phase for shard in self._shards)
        if not begun and (len({*heads}) > 1 or heads[0] % 2):
            # The topic's beginning has expired, at another phase in each partition.
            late = [
                shard
                for shard, head in zip(self._shards, heads, strict=True)
                if head < max(heads) or head % 2
            ]
            for shard in late:
                shard.place.offset, _ = shard.whole.popleft()
                self._state.count(BEFORE_ALL_SHARDS)
            return []
        if len({*heads}) > 1:
            found = ", ".join(
                f"{shard.index} goes on with {iso(shard.whole[0][1].phase.minute_ms)}"
                for shard in self._shards
            )
            raise SourceError(
                f"{self._source.topic}: a shard left out phases that others have: {found};"
                " all shards must read the same ticks"
            )
        items: list[RowItem] = []
        for shard in self._shards:
            shard.place.offset, whole = shard.whole.popleft()
            shard.place.phase = heads[0]
            items += whole.items
        return items

    def _tell_dropped(self, now_s: float) -> None:
        """Say what was dropped when that has changed, at most once a minute."""
        if self._state.counts != self._told and now_s - self._told_s >= _SAY_S:
            self._told, self._told_s = dict(self._state.counts), now_s
            _log.info("rows dropped", **self._told)

    def _watch_waiting(self, now_s: float) -> None:
        """Say once a minute for which shards the others wait."""
        behind = [shard for shard in self._shards if not shard.whole]
        if not behind or len(behind) == len(self._shards):
            self._waiting_since_s = None
            return
        if self._waiting_since_s is None:
            self._waiting_since_s = now_s
        elif now_s - self._waiting_since_s >= _SAY_S:
            self._waiting_since_s = now_s
            _log.warning(
                "market waits for shards",
                shards=[shard.index for shard in behind],
                since=iso(max(shard.place.phase for shard in self._shards) // 2),
            )


def _parts_of(message: Message, where: str) -> tuple[RowsHead, ShardPhase]:
    try:
        head = _decode_head(headers_of(message)["head"])
    except (KeyError, msgspec.MsgspecError) as error:
        raise SourceError(f"{where}: not a message of rows: {error}") from error
    if head.schema != SCHEMA:
        raise SourceError(f"{where}: expected schema {SCHEMA}, found {head.schema}")
    try:
        return head, _decode(message.value() or b"")
    except msgspec.MsgspecError as error:
        raise SourceError(f"{where}: not a message of rows: {error}") from error
