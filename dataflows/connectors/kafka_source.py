"""A Kafka topic as a consumer reads it: all partitions, from positions it keeps itself.

Rules of this file: positions live in the consumer's own state beside the ids it has seen, so the
two cannot disagree; nothing is committed to the broker and no group is joined, so any number of
consumers read the whole topic. A broker that is away is waited for. What retention has removed
is left out, with a note. infra guide, Kafka.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from dataflows.connectors.clock import Clock
from dataflows.connectors.topic_source import Record, SourceError

BATCH_MAX = 500
_GROUP = "alpha-tail"  # asked for by the library; never joined
_RETRY_S = 1.0
# What the library fetches ahead; its own limits would be 64 MiB.
_AHEAD_MESSAGES, _AHEAD_KIB = 2_000, 8_192
_SHORT_S = 0.05  # a batch that has begun is not waited for any longer


class KafkaSource:
    """Reads a topic with assigned partitions.

    config : settings of librdkafka on top of ours, such as those of TLS and SASL. The topic must
    exist within `wait_s`, asked for `metadata_s` at a time; its number of partitions
    never changes (that would break the order).
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        clock: Clock,
        config: Mapping[str, str | int] | None = None,
        wait_s: float = 30.0,
        metadata_s: float = 10.0,
    ) -> None:
        self.name = f"kafka:{topic}"
        self._topic = topic
        self._clock = clock
        self._wait_s = wait_s
        self._metadata_s = metadata_s
        self._notes: list[str] = []
        self._told: set[str] = set()
        self._next: dict[int, int] = {}  # partition -> offset of the next record
        self._ended: set[int] = set()
        self._from_end = False
        self._assigned = False
        try:
            self._consumer = Consumer(
                {
                    "queued.min.messages": _AHEAD_MESSAGES,
                    "queued.max.messages.kbytes": _AHEAD_KIB,
                    **(config or {}),
                    "bootstrap.servers": bootstrap,
                    "group.id": _GROUP,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "earliest",
                    "enable.partition.eof": True,
                    "log_level": 2,
                    "error_cb": self._on_error,
                }
            )
        except KafkaException as error:
            raise SourceError(f"{bootstrap}: {error.args[0].str()}") from error

    def poll(self, timeout_s: float) -> list[Record]:
        """Return the next records of any partitions; those of one are in order."""
        if not self._assigned:
            self._assign()
        until_s = self._clock.monotonic_s() + timeout_s
        was_at_end = self.at_end()
        while True:
            records = self._consume()
            left_s = until_s - self._clock.monotonic_s()
            if records or left_s <= 0 or self._notes or (self.at_end() and not was_at_end):
                return records

    def _consume(self) -> list[Record]:
        """Return what is there; the library waits for a full batch, so it is not given long."""
        records: list[Record] = []
        for message in self._consumer.consume(BATCH_MAX, _SHORT_S):
            error = message.error()
            if error is None:
                records.append(self._taken(message))
            else:
                self._fault(error, message)
        if records:
            self._told.clear()
        return records

    def at_end(self) -> bool:
        """Tell whether each partition has been read to the end it had."""
        return self._assigned and len(self._ended) == len(self._next)

    def notes(self) -> list[str]:
        """Return, once, what a user should know."""
        notes, self._notes = self._notes, []
        return notes

    def position(self) -> dict[str, int]:
        """Return partition -> offset of the next record."""
        return {str(partition): at for partition, at in sorted(self._next.items()) if at >= 0}

    def seek(self, position: Any) -> None:
        """Go on at an earlier position; partitions it does not name start at their beginning."""
        try:
            self._next = {int(partition): int(at) for partition, at in position.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise SourceError(f"{self.name}: no position of a topic: {position!r:.80}") from error

    def seek_end(self) -> None:
        """Leave out what is there already."""
        self._from_end = True

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _assign(self) -> None:
        partitions = self._partitions()
        self._next = {number: self._next.get(number, OFFSET_BEGINNING) for number in partitions}
        if self._from_end:  # as numbers, so that an early state holds every partition
            self._next = {number: self._end_of(number) for number in partitions}
        self._consumer.assign(
            [TopicPartition(self._topic, number, at) for number, at in self._next.items()]
        )
        self._assigned = True

    def _end_of(self, partition: int) -> int:
        place = TopicPartition(self._topic, partition)
        try:
            ends = self._consumer.get_watermark_offsets(place, self._metadata_s)
        except KafkaException as error:
            raise SourceError(f"{self.name}: {error.args[0].str()}") from error
        if ends is None:
            raise SourceError(f"{self.name}: no answer within {self._metadata_s:.0f} s")
        return ends[1]

    def _partitions(self) -> list[int]:
        """Return the partitions of the topic; wait for the broker and for the topic."""
        until_s = self._clock.monotonic_s() + self._wait_s
        while True:
            why = "no such topic"
            try:
                found = self._consumer.list_topics(self._topic, self._metadata_s).topics[
                    self._topic
                ]
                if found.error is None and found.partitions:
                    return sorted(found.partitions)
            except KafkaException as error:
                why = error.args[0].str()
            if self._clock.monotonic_s() >= until_s:
                raise SourceError(f"{self.name}: {why} within {self._wait_s:.0f} s")
            self._clock.sleep(_RETRY_S)

    def _taken(self, message: Message) -> Record:
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        expected = self._next[partition]
        if 0 <= expected != offset:
            self._note(f"{self.name}/{partition}: expected offset {expected}, found {offset}")
        self._next[partition] = offset + 1
        self._ended.discard(partition)
        return Record(message.value() or b"", partition, offset)

    def _fault(self, error: KafkaError, message: Message) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            self._ended.add(partition)
            self._next[partition] = offset
        elif error.fatal():
            raise SourceError(f"{self.name}: {error.str()}")
        else:
            self._on_error(error)

    def _on_error(self, error: KafkaError) -> None:
        """Note a fault that the library goes on from; each kind once."""
        name = error.name()
        if name not in self._told:
            self._told.add(name)
            self._note(f"{self.name}: {error.str()}")

    def _note(self, text: str) -> None:
        self._notes.append(text)
