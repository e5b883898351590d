"""A stretch of a source: begun before it, left behind it, and what of the products is its own.

Rules of this file: where reading begins depends on the lines alone, not on segments or chunks;
what lies before is passed over for the assets' ids, the roster and open gaps, never for data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from dataflows.connectors.bars_source import BarsCount, BarsPartition, BarsSource
from dataflows.connectors.source import (
    Item,
    LogPartition,
    LogSource,
    SourceState,
    by_key,
    feed_reader,
    note_holes,
)
from dataflows.connectors.ticklog import Position, TickLogReader, position_before, segments_before
from dataflows.importing.bars import BarRow
from dataflows.ranges import WHOLE, Part
from operators.bars import pass_over
from operators.feed import STAMP_NS_END, FeedState
from operators.records import Asset, Phase
from packs.schema import FeaturePack

SKIP_LINES = 20_000  # passed over at once
_NS = 1_000_000
_STAMP_DIGITS = 19  # of every stamp from 2001 on
Minute = tuple[int, dict[str, BarRow]]
_stamp_text = itemgetter(slice(_STAMP_DIGITS))
_MARKS = (b'"alpha.roster"', b'"alpha.gap"')


# --- what is written -----------------------------------------------------------------------------


class Phased(Protocol):
    """What a sink takes: it belongs to a minute."""

    @property
    def phase(self) -> Phase: ...


_Item = TypeVar("_Item", bound=Phased)
_State = TypeVar("_State")


class Within(FixedPartitionedSink[_Item, _State]):
    """Hands a sink what belongs to the minutes of a part."""

    def __init__(self, sink: FixedPartitionedSink[_Item, _State], part: Part) -> None:
        self._sink = sink
        self._part = part

    def list_parts(self) -> list[str]:
        """Return those of the sink."""
        return self._sink.list_parts()

    def part_fn(self, item_key: str) -> int:
        """Return what the sink does."""
        return self._sink.part_fn(item_key)

    def build_part(
        self, step_id: str, for_part: str, resume_state: _State | None
    ) -> StatefulSinkPartition[_Item, _State]:
        """Open a partition of the sink."""
        return _Within(self._sink.build_part(step_id, for_part, resume_state), self._part)


class _Within(StatefulSinkPartition[_Item, _State]):
    def __init__(self, sink: StatefulSinkPartition[_Item, _State], part: Part) -> None:
        self._sink = sink
        self._part = part

    def write_batch(self, values: list[_Item]) -> None:
        own = [value for value in values if self._part.holds(value.phase.minute_ms)]
        if own:
            self._sink.write_batch(own)

    def snapshot(self) -> _State:
        return self._sink.snapshot()

    def close(self) -> None:
        self._sink.close()


# --- minute bars ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class BarsRange(BarsSource):
    """Reads the bars of a part; symbols have the ids that they have in the whole file."""

    part: Part = WHOLE

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> BarsRangePartition:
        """Open the file."""
        return BarsRangePartition(self)


class BarsRangePartition(BarsPartition):
    """The open file, left once the part's last minute is closed."""

    def __init__(self, source: BarsRange) -> None:
        super().__init__(source)
        self._minutes = self._of_part(source.part, source.count, self._minutes)

    def _of_part(self, part: Part, count: BarsCount, minutes: Iterator[Minute]) -> Iterator[Minute]:
        state, counted, last_ms = self._state, part.from_ms is None, 0
        for close_ms, bars in minutes:
            if not counted and close_ms > (part.from_ms or 0):
                counted = True
                count.rejects.clear()  # those of the warm-up are another part's
            if part.begin_ms is not None and close_ms <= part.begin_ms:
                pass_over(state, close_ms, bars)
            elif part.to_ms is None or last_ms < part.to_ms:  # one more, for holes before the end
                yield close_ms, bars
            else:
                return
            last_ms = close_ms


# --- tick logs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogRange(LogSource):
    """Reads the lines of a part."""

    part: Part = WHOLE

    def build_part(
        self, step_id: str, for_part: str, resume_state: bytes | None
    ) -> LogRangePartition:
        """Open the log where the part's reading begins; a range is not resumed."""
        assert resume_state is None
        begin_ms = self.part.begin_ms
        state = None if begin_ms is None else state_at(self.path, self.features, begin_ms)
        return LogRangePartition(self, state)


class LogRangePartition(LogPartition):
    """The open log, left once the part's last minute is final. Counts are of the part's lines."""

    def __init__(self, source: LogRange, state: SourceState | None) -> None:
        super().__init__(source, state)
        self._part = source.part
        self._lines = source.chunk_lines
        self._ahead = b""  # lines that were read, behind a mark
        self._counts: dict[str, int] | None = None  # those of the part, once it is read
        marks = [self._part.from_ms, self._part.to_ms]
        self._marks_ms = [mark for mark in marks if mark is not None]

    def next_batch(self) -> list[Item]:
        """Return the items of the next lines; ends with the part."""
        feed, to_ms = self._feed, self._part.to_ms
        block = self._ahead or self._log.read_block(self._lines)
        if not block or (to_ms is not None and feed.state.next_final_ms > to_ms):
            self._report()
            raise StopIteration
        block, self._ahead = self._up_to_mark(block)
        items = by_key(feed.read_block(block))
        note_holes(feed, self._source.holes)
        if self._ahead:
            self._pass_mark()
        self._report()
        return items

    def _up_to_mark(self, block: bytes) -> tuple[bytes, bytes]:
        """Return the lines before the next mark, and those from it on."""
        if not self._marks_ms:
            return block, b""
        mark_ns = self._marks_ms[0] * _NS
        if not _may_reach(block, mark_ns + 1):
            return block, b""
        lines = block.split(b"\n")[:-1]
        reached = next((k for k, line in enumerate(lines) if _is_from(line, mark_ns + 1)), None)
        if reached is None:
            return block, b""
        if reached == 0:  # nothing is before it
            self._pass_mark()
            return self._up_to_mark(block)
        at = sum(map(len, lines[:reached])) + reached
        return block[:at], block[at:]

    def _pass_mark(self) -> None:
        mark_ms = self._marks_ms.pop(0)
        if mark_ms == self._part.to_ms:
            self._counts = dict(self._feed.state.counts)
        else:
            self._feed.state.counts = {}

    def _state(self) -> SourceState:
        state = super()._state()
        if self._counts is not None:
            state.feed = msgspec.structs.replace(state.feed, counts=self._counts)
        return state


def state_at(path: Path, features: FeaturePack, begin_ms: int) -> SourceState:
    """Return where reading begins and what is known there: roster, ids, open gaps.

    It begins with the first line that arrived at `begin_ms` or later and is followed by another
    such; a damaged stamp alone begins nothing.
    """
    reader = feed_reader(FeedState(), features)
    found = _seek(path, position_before(path, begin_ms), begin_ms)
    for line in found.control:
        reader.pass_over(line)
    if not reader.state.has_roster:
        reader = feed_reader(FeedState(), features)
        for line in [*_control_before(path, found.start), *found.control]:
            reader.pass_over(line)
    if reader.state.has_roster:
        return SourceState(found.position, reader.state)
    # Without a roster ids are given in order of appearance: all that came before has to be read.
    found = _seek(path, Position(), begin_ms)
    return SourceState(found.position, FeedState(roster=_seen(path, features, found.lines)))


@dataclass(frozen=True)
class _Found:
    """A line, how many are before it, and those of them that are rosters or gaps.

    start : where the search began, and the counting.
    """

    start: Position
    position: Position
    lines: int
    control: list[bytes]


def _seek(path: Path, start: Position, begin_ms: int) -> _Found:
    """Return where to begin; the end of the log if every line is older."""
    begin_ns, lines_before = begin_ms * _NS, 0
    control: list[bytes] = []
    candidate: tuple[Position, int, int, int] | None = None
    with TickLogReader(path, start) as log:
        before = log.position
        while block := log.read_block(SKIP_LINES):
            marked = _has_mark(block)
            if candidate is None and not marked and not _may_reach(block, begin_ns):
                lines_before += block.count(b"\n")
                before = log.position
                continue
            lines = block.split(b"\n")[:-1]
            for index, line in enumerate(lines):
                if _is_from(line, begin_ns):
                    if candidate is not None:
                        return _found(path, start, candidate, control)
                    candidate = before, index, lines_before + index, len(control)
                elif candidate is not None and _stamp(line) is not None:
                    candidate = None
                if marked and _has_mark(line):
                    control.append(line)
            lines_before += len(lines)
            before = log.position
    if candidate is not None:
        return _found(path, start, candidate, control)
    return _Found(start, before, lines_before, control)


def _found(
    path: Path, start: Position, candidate: tuple[Position, int, int, int], control: list[bytes]
) -> _Found:
    block, index, lines, controls = candidate
    with TickLogReader(path, block) as log:
        log.read_block(index)
        position = log.position
    return _Found(start, position, lines, control[:controls])


def _control_before(path: Path, start: Position) -> list[bytes]:
    """Return the gaps, and the newest roster, of the segments before a position."""
    control: list[bytes] = []
    if not start.segment:
        return control
    for segment in reversed(segments_before(path, start.segment)):
        found: list[bytes] = []
        with TickLogReader(segment) as log:
            while block := log.read_block(SKIP_LINES):
                if _has_mark(block):
                    found += [line for line in block.split(b"\n") if _has_mark(line)]
        control = found + control
        if any(_MARKS[0] in line for line in found):
            break
    return control


def _seen(path: Path, features: FeaturePack, lines: int) -> list[Asset]:
    """Return the assets in the order of their first of so many lines."""
    reader = feed_reader(FeedState(), features)
    with TickLogReader(path) as log:
        while lines and (block := log.read_block(min(lines, SKIP_LINES))):
            reader.read_block(block)
            lines -= block.count(b"\n")
    return reader.state.roster


def _may_reach(block: bytes, from_ns: int) -> bool:
    """Tell whether a line begins with a text that is not before that of a stamp.

    It spares a look at each of the lines: if none does, none `_is_from` the stamp.
    """
    newest: bytes = max(map(_stamp_text, block.split(b"\n")))
    return newest >= b"%d" % from_ns


def _has_mark(text: bytes) -> bool:
    return _MARKS[0] in text or _MARKS[1] in text


def _is_from(line: bytes, from_ns: int) -> bool:
    """Tell whether a line has a stamp, and that is not older."""
    if line[:_STAMP_DIGITS] < b"%d" % from_ns:
        return False
    stamp_ns = _stamp(line)
    return stamp_ns is not None and stamp_ns >= from_ns


def _stamp(line: bytes) -> int | None:
    """Return a line's arrival, ns; None of a damaged line."""
    stamp, _, frame = line.partition(b" ")
    if not (stamp.isdigit() and len(stamp) <= _STAMP_DIGITS and frame):
        return None
    return stamp_ns if (stamp_ns := int(stamp)) < STAMP_NS_END else None
