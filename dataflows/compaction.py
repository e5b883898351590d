"""Make the columnar cache of a tick log, or put to it what has been recorded since.

Rules of this file: the files depend on the log alone, not on chunks, nor on how often it was
compacted on the way; parts are cut at closings; of a directory the newest plain segments stay out,
for they are still being written or packed; bars that do not fit are made anew of the ticks, without
the log; what a run that was broken off wrote is removed, by it or by the next. Memory holds one
part.  Decision 16.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import msgspec
import zstandard

from dataflows.connectors.column_bars import Assembler, read_states, write_states
from dataflows.connectors.column_files import (
    KINDS,
    Closing,
    ColumnsError,
    Content,
    File,
    Part,
    Stretch,
    count_of,
    items_of,
    libraries,
    read_part,
    write_part,
)
from dataflows.connectors.columns import (
    VERSION,
    Bars,
    Columns,
    Manifest,
    Segment,
    assembly,
    assert_ours,
    damaged_ticks,
    files_of,
    lattice_of,
    limits_of,
    load,
    readers,
    save,
    segment_of,
    stale_segment,
    sweep,
    unchanged,
    unfit,
    unfit_bars,
)
from dataflows.connectors.source import REPLAY_LINES, feed_reader
from dataflows.connectors.ticklog import Position, TickLogReader, open_stream, plain_name
from operators.feed import FeedState, Hole, Item
from operators.lattice import HOUR_MS
from operators.records import Boundary, Phase, Ticks
from packs.schema import FeaturePack

PART_BYTES = 32 << 20  # of records in memory; a part is over with the closing that finds more
PACKED = ".zst"


@dataclass(frozen=True)
class Compaction:
    """What was done. kept : parts that were there already; left_out : files of the log that the
    cache does not stand for, and why; rebuilt : why an older cache was of no use, "" if none was;
    assembled : why the bars of parts that were kept were made anew, "" if they were not;
    without_bars : those that were there were removed, as was asked for; taken_in : how many files
    of the log were read, also such that hold no ticks.
    """

    columns: Columns
    written: int
    kept: int
    left_out: dict[str, str]
    rebuilt: str
    assembled: str = ""
    without_bars: bool = False
    taken_in: int = 0


def assert_possible(directory: Path) -> None:
    """Raise `ColumnsError` if a cache cannot be made, or not there; nothing is made."""
    libraries()
    assert_ours(directory)


def compact(
    log: Path,
    directory: Path,
    features: FeaturePack,
    *,
    shards: int = 1,
    whole: bool = False,
    bars: bool = True,
    chunk_lines: int = REPLAY_LINES,
    on_progress: Callable[[int], None] | None = None,
) -> Compaction:
    """Bring the cache of a log up to date; where there is none that fits, make it anew.

    shards : files into which the assets of a part are shared. whole : the log is finished, so take
    in its newest segment too. bars : keep minute bars beside the ticks. on_progress : is told the
    arrival time, epoch ms, that was reached.
    """
    assert_possible(directory)
    present = files_of(log)
    left_out = _left_out(log, present, whole)
    taken = present[: len(present) - len(left_out)]
    directory.mkdir(parents=True, exist_ok=True)
    with _alone(directory), _swept(directory):
        old = _older(log, directory, features, shards)
        rebuilt = old if isinstance(old, str) else ""
        base = None if isinstance(old, str) else old
        if base is not None and len(base.manifest.segments) > len(taken):
            base, rebuilt = None, "it stood for a segment that is now left out"
        anew = _why_anew(base, features) if base is not None and bars else ""
        removed = base is not None and base.manifest.bars is not None and not bars
        if base is not None and len(base.manifest.segments) == len(taken) and not (anew or removed):
            return Compaction(base, 0, len(base.manifest.parts), left_out, "")
        more = taken[len(base.manifest.segments) if base else 0 :]
        segments = [segment_of(path) for path in more]
        assembler = Assembler(features) if bars else None
        made = _Compactor(directory, features, shards, assembler)
        if base is not None:
            files = [*base.manifest.tick_files(), *([] if anew else base.manifest.bar_files())]
            with unchanged(base, files):
                made.go_on(base, keep_bars=not anew, on_progress=on_progress)
        made.read(log, more, chunk_lines, on_progress)
        for path, segment in zip(more, segments, strict=True):
            if segment_of(path) != segment:
                raise ColumnsError(f"{path}: changed while it was read; run again")
        columns = made.finish(segments)
    known = base.manifest.parts if base is not None else []
    kept = sum(part in known for part in columns.manifest.parts)
    written = len(columns.manifest.parts) - kept
    return Compaction(columns, written, kept, left_out, rebuilt, anew, removed, len(segments))


def _why_anew(base: Columns, features: FeaturePack) -> str:
    """Say why the bars of a cache that is gone on with must be made anew, "" if they stay."""
    return "it had none" if base.manifest.bars is None else unfit_bars(base, features)


def _left_out(log: Path, present: list[Path], whole: bool) -> dict[str, str]:
    """Return files at the end of a directory that a cache cannot stand for yet, and why.

    Behind the newest segment of all the reader of the log may still wait for the rest of a line.
    """
    if not log.is_dir():
        return {}
    found: dict[str, str] = {}
    left = list(present)
    while left and not whole and left[-1].suffix != PACKED:
        found[left.pop().name] = "may still be written"
    if left and len(left) == len(present) and not _ends_with_a_line(left[-1]):
        found[left.pop().name] = "does not end with a whole line"
    return found


def _ends_with_a_line(path: Path) -> bool:
    newest = b"\n"
    stream = open_stream(path)
    try:
        while data := stream.read(1 << 20):
            newest = data[-1:]
    except (EOFError, zstandard.ZstdError):
        return False
    finally:
        stream.close()
    return newest == b"\n"


def _older(log: Path, directory: Path, features: FeaturePack, shards: int) -> Columns | str:
    """Return the cache that can be gone on with, or why there is none, "" if there was none."""
    found = load(directory)
    if isinstance(found, str):
        return found if any(directory.iterdir()) else ""
    manifest = found.manifest
    reason = unfit(manifest, features)
    if not reason and manifest.shards != shards:
        reason = f"it has {manifest.shards} shards"
    return reason or stale_segment(manifest, log) or damaged_ticks(found) or found


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep other writers off a cache."""
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ColumnsError(f"{directory}: another process is making this cache") from error
    finally:
        os.close(lock)


@contextmanager
def _swept(directory: Path) -> Iterator[None]:
    """Remove what a run that was broken off left: an earlier one now, this one when it is."""
    sweep(directory)
    try:
        yield
    except BaseException:
        sweep(directory)
        raise


class _Compactor:
    """Collects items into parts and writes those that are over."""

    def __init__(
        self, directory: Path, features: FeaturePack, shards: int, assembler: Assembler | None
    ) -> None:
        self._directory = directory
        self._features = features
        self._shards = shards
        self._assembler = assembler
        self._base: Columns | None = None
        self._bars: list[File] = []
        self._states: list[dict[int, bytes]] = []  # of assembly, behind the last two parts
        self._parts: list[Part] = []
        self._holes: dict[tuple[int, str], Hole] = {}
        self._state = FeedState()
        self._hour_ms: int | None = None  # of the part; not known before the first closing
        self._next_hour_ms = 0
        self._number = 0
        self._over = False  # what comes next begins a part
        self._bytes = 0
        self._content = Content()

    def go_on(
        self, base: Columns, *, keep_bars: bool, on_progress: Callable[[int], None] | None
    ) -> None:
        """Take up the last part of a cache again: it may not have been over.

        keep_bars : those of the parts before it; else they are made anew.
        """
        self._base, manifest = base, base.manifest
        self._state = msgspec.json.decode(msgspec.json.encode(manifest.state), type=FeedState)
        self._tell(manifest.holes)
        if not manifest.parts:
            return
        *self._parts, last = manifest.parts
        if self._assembler is not None and self._parts:
            if keep_bars and manifest.bars is not None:
                self._bars = manifest.bars.files[:-1]
                self._states = [read_states(self._directory, manifest.bars.states[0])]
                self._assembler.go_on(self._states[0])
            else:
                for part in self._parts:
                    stretches = read_part(self._directory, part)
                    self._assemble(part, _watched(stretches, on_progress))
        self._hour_ms, self._number = last.hour_ms, last.number
        for items in read_part(self._directory, last):
            self._take(items)

    def read(
        self,
        log: Path,
        paths: list[Path],
        chunk_lines: int,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        """Read files of a log to their end; parts that are over are written."""
        if not paths:
            return
        state = self._state
        feed = feed_reader(state, self._features)
        start = Position(plain_name(paths[0]), 0) if self._base is not None else None
        last = plain_name(paths[-1]) if log.is_dir() else None
        with TickLogReader(log, start, on_reject=state.count, last=last) as lines:
            while block := lines.read_block(chunk_lines):
                self._take(feed.read_block(block))
                self._tell(feed.take_holes())
                if on_progress is not None:
                    on_progress(state.clock_ns // 1_000_000)

    def finish(self, segments: list[Segment]) -> Columns:
        """Write what is left, then the manifest."""
        if self._content.stretches:
            self._write()
        state = msgspec.structs.replace(  # the order in which reasons were met says nothing
            self._state,
            counts=dict(sorted(self._state.counts.items())),
            delays_ms=dict(sorted(self._state.delays_ms.items())),
        )
        before = self._base.manifest.segments if self._base is not None else []
        bars = None
        if self._assembler is not None:
            newest = zip(self._parts[-2:], self._states, strict=True)
            states = [write_states(self._directory, part, known) for part, known in newest]
            bars = Bars(assembly(), limits_of(self._features), self._bars, states)
        manifest = Manifest(
            version=VERSION,
            readers=readers(),
            lattice=lattice_of(self._features),
            shards=self._shards,
            segments=[*before, *segments],
            parts=self._parts,
            state=state,
            holes=list(self._holes.values()),
            bars=bars,
        )
        return save(self._directory, manifest)

    def _take(self, items: list[Item]) -> None:
        for phase, group in groupby(items, _phase_of):
            if phase is None:
                for uid, ticks in group:
                    assert isinstance(ticks, Ticks)
                    self._add(uid, ticks)
            else:  # the boundaries of a phase always come in one reading
                self._close(phase, [item for _, item in group if isinstance(item, Boundary)])

    def _add(self, uid: int, ticks: Ticks) -> None:
        """Put ticks to those of the stretch; the first after a closing begin one."""
        self._begin()
        stretches = self._content.stretches
        if stretches[-1].closings:
            stretches.append(Stretch())
        known = stretches[-1].ticks.setdefault(uid, ticks)
        for kind in KINDS:
            records = getattr(ticks, kind)
            self._bytes += len(records)
            if known is not ticks:
                getattr(known, kind).extend(records)
        if known is not ticks:
            for reason, count in ticks.rejects.items():
                known.rejects[reason] = known.rejects.get(reason, 0) + count

    def _close(self, phase: Phase, boundaries: list[Boundary]) -> None:
        """Note a closing; it ends the part if the hour or the room for it is over."""
        self._begin()
        rosters = self._content.rosters
        roster = [boundary.asset for boundary in boundaries]
        if not rosters or rosters[-1] != roster:
            rosters.append(roster)
        if self._hour_ms is None:
            self._hour_ms = self._first_hour(phase.clock_ms)
        closing = Closing(phase, boundaries[0].feed, len(rosters) - 1)
        self._content.stretches[-1].closings.append(closing)
        self._next_hour_ms = _hour_of(phase.clock_ms)
        self._over = self._next_hour_ms != self._hour_ms or self._bytes >= PART_BYTES

    def _begin(self) -> None:
        """Make room: behind what ends a part begins the next."""
        if self._over:
            self._write()
            self._number = self._number + 1 if self._next_hour_ms == self._hour_ms else 0
            self._hour_ms = self._next_hour_ms
            self._content, self._bytes, self._over = Content(), 0, False
        if not self._content.stretches:
            self._content.stretches.append(Stretch())

    def _first_hour(self, clock_ms: int) -> int:
        """Return the hour in which the log begins; clock_ms : of the first closing."""
        first_ns = min(
            (
                int.from_bytes(records[:8], "little")  # the arrival stamp of the first of them
                for ticks in self._content.stretches[0].ticks.values()
                for kind in KINDS
                if (records := getattr(ticks, kind))
            ),
            default=clock_ms * 1_000_000,
        )
        return _hour_of(first_ns // 1_000_000)

    def _write(self) -> None:
        hour_ms = self._first_hour(0) if self._hour_ms is None else self._hour_ms
        part = write_part(self._directory, hour_ms, self._number, self._shards, self._content)
        self._parts.append(part)
        self._assemble(part, items_of(self._content))

    def _assemble(self, part: Part, stretches: Iterable[list[Item]]) -> None:
        if self._assembler is not None:
            self._bars.append(self._assembler.write(self._directory, part, stretches))
            self._states = [*self._states[-1:], self._assembler.states()]

    def _tell(self, holes: list[Hole]) -> None:
        """Keep each hole as it was last; one that is over does not open again."""
        for hole in holes:
            known = self._holes.get((hole.start_ms, hole.cause))
            if known is None or known.end_ms is None or hole.end_ms is not None:
                self._holes[hole.start_ms, hole.cause] = hole


def _watched(
    stretches: Iterator[list[Item]], on_progress: Callable[[int], None] | None
) -> Iterator[list[Item]]:
    """Pass stretches on and tell how far they have come, about as often as where lines are read."""
    ticks = 0
    for items in stretches:
        yield items
        if on_progress is None or (phase := _phase_of(items[-1])) is None:
            continue
        ticks += sum(count_of(item) for _, item in items if isinstance(item, Ticks))
        for _ in range(ticks // REPLAY_LINES):
            on_progress(phase.clock_ms)
        ticks %= REPLAY_LINES


def _phase_of(item: Item) -> Phase | None:
    return item[1].phase if isinstance(item[1], Boundary) else None


def _hour_of(clock_ms: int) -> int:
    return clock_ms // HOUR_MS * HOUR_MS
