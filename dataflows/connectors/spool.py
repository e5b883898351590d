"""A write-ahead spool: what a server that is away could not take waits on disk, in order.

Rules of this file: a batch is with the server or forced to stable storage before the next one
comes; what comes later stands behind what waits; the file is read from its front and removed when
all of it is with the server; the backlog is never held in memory; every wait has an end. Reading
a line again is harmless, because what is behind a sink takes everything once. Build plan 12, 17.4;
docs/decisions/0013.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec
import orjson
from bytewax.outputs import StatefulSinkPartition
from prometheus_client import Counter, Gauge

from dataflows.connectors.clock import Clock, SystemClock, backoff_s
from operators.publish import canonical

VERSION = 1
SUFFIX = ".ndjson"
_HEAD, _ITEM = b'{"head":', b'{"item":'
_READ_BYTES = 4 << 20  # of lines that are given to the server at once
_READ_ITEMS = 64
_PAUSE_S = 0.2  # between two tries where nothing else goes on: start, end, full disk

_Item = TypeVar("_Item")
_State = TypeVar("_State")
_Taken = TypeVar("_Taken", contravariant=True)
_Told = TypeVar("_Told", covariant=True)

# In prometheus_client's own registry, which the engine serves.
DEGRADED = Gauge("alpha_storage_degraded", "1 while a server is away and items wait", ["sink"])
WAITING = Gauge("alpha_spool_items", "Items that wait in the spool", ["sink"])
SIZE = Gauge("alpha_spool_bytes", "Size of the spool's file", ["sink"])
OUTAGES = Counter("alpha_spool_outages", "Times that a server was lost", ["sink"])
SPOOLED = Counter("alpha_spool_spooled", "Items that were put into the spool", ["sink"])
DRAINED = Counter("alpha_spool_drained", "Items of the spool that a server took", ["sink"])
TORN = Counter("alpha_spool_torn_lines", "Lines that a kill left unfinished", ["sink"])


class SpoolError(Exception):
    """The spool cannot be read, or neither server nor disk takes a batch; the message says why."""


class Lost(Exception):
    """A server does not answer; whether it has the batch is not known."""


class Outlet(Protocol[_Taken, _Told]):
    """A server behind a sink. It takes an item any number of times and has it once."""

    def reach(self, *, patient: bool) -> None:
        """Make sure that the server answers.

        Raises `Lost`. patient : try again for some seconds, so that a reconnect is no outage.
        """

    def write(self, items: Sequence[_Taken], *, patient: bool, again: bool) -> None:
        """Write a batch; raises `Lost`.  again : it comes from the spool."""

    def state(self) -> _Told | None:
        """Return what a later run needs to know of all that was written so far."""

    def close(self) -> None:
        """Release what is open."""


# --- the file ----------------------------------------------------------------------------------


class Disk:
    """The calls of the operating system that write a spool; tests hand in a disk that fails."""

    def open(self, path: Path) -> int:
        """Open a file for appending; it is made if it is missing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, file: int, data: bytes | memoryview) -> int:
        """Write what there is room for and return how much that was."""
        return os.write(file, data)

    def sync(self, file: int) -> None:
        """Force a file to stable storage."""
        os.fsync(file)

    def cut(self, file: int, size: int) -> None:
        """Take back everything behind `size` bytes."""
        os.ftruncate(file, size)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink(missing_ok=True)

    def sync_directory(self, path: Path) -> None:
        """Force the names in a directory to stable storage."""
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class _Head(msgspec.Struct):
    """First line of a spool. resume : what the sink must know to write what follows once."""

    version: int
    sink: str
    resume: Any = None


class Chunk(NamedTuple, Generic[_Item]):
    """Items from the front of a spool, and where the next one begins."""

    items: list[_Item]
    end: int


class Spool(Generic[_Item]):
    """The file of one sink; it is there only while something waits in it.

    kind : type of the items, as msgspec reads it. What a kill left unfinished at the end is cut off
    and counted: a line that is not whole was never relied on.
    """

    def __init__(self, path: Path, kind: Any, disk: Disk | None = None) -> None:
        self.path = path
        self.sink = path.name.removesuffix(SUFFIX)
        self.resume: Any = None
        self.waiting = 0
        self.size = 0
        self._decoder = msgspec.json.Decoder(kind)
        self._disk = disk or Disk()
        self._file: int | None = None
        self._drained = 0  # bytes
        self._ragged = False  # behind `size` there may be something that could not be taken back
        if path.exists():
            self._take_up()

    @property
    def exists(self) -> bool:
        """Tell whether there is a file; it may be drained already, but not yet removed."""
        return self.size > 0

    def append(self, items: Sequence[_Item], resume: Any = None) -> None:
        """Add items, forced to stable storage; all or none of them.

        resume : for the head of a new file. Raises OSError if the disk does not take them.
        """
        lines = [_ITEM + canonical(msgspec.to_builtins(item)) + b"}\n" for item in items]
        if not self.exists:
            lines.insert(0, self._head_line(resume))
        self._write(b"".join(lines))
        if self.resume is None:
            self.resume = resume
        self.waiting += len(items)
        SPOOLED.labels(self.sink).inc(len(items))
        self._tell()

    def mark(self, resume: Any) -> None:
        """Note what was not known when the file was begun: another head, which replaces it."""
        self._write(self._head_line(resume))
        self.resume = resume
        self._tell()

    def read(self) -> Chunk[_Item]:
        """Return some items from the front, none if nothing waits."""
        items: list[_Item] = []
        start = end = self._drained
        with self.path.open("rb") as front:
            front.seek(start)
            while end < self.size and len(items) < _READ_ITEMS and end - start < _READ_BYTES:
                line = front.readline()
                if not line:
                    raise SpoolError(f"{self.path}: cut by another program; {_ADVICE}")
                end += len(line)
                if line.startswith(_ITEM):
                    items.append(self._item(line))
        return Chunk(items, end)

    def advance(self, chunk: Chunk[_Item]) -> None:
        """Go on behind a chunk that the server has."""
        self._drained = chunk.end
        self.waiting -= len(chunk.items)
        DRAINED.labels(self.sink).inc(len(chunk.items))
        self._tell()

    def remove(self) -> None:
        """Remove the file, once nothing waits; raises OSError."""
        assert not self.waiting, self.waiting
        self._disk.remove(self.path)
        self.close()
        self.size = self._drained = 0
        self.resume = None
        self._tell()
        with suppress(OSError):  # a file that comes back is drained once more
            self._disk.sync_directory(self.path.parent)

    def close(self) -> None:
        """Release the file; what waits in it stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _take_up(self) -> None:
        """Learn what an earlier run left: count the items, cut off what is not a whole line."""
        whole = 0
        with self.path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    TORN.labels(self.sink).inc()
                    break
                if line.startswith(_HEAD):
                    self.resume = self._head(line).resume
                elif whole == 0 or not line.startswith(_ITEM):
                    raise SpoolError(f"{self.path}: byte {whole}: not a line of a spool; {_ADVICE}")
                else:
                    self.waiting += 1
                whole += len(line)
            self._ragged = lines.seek(0, os.SEEK_END) > whole
        self.size = whole
        if not whole:
            self.path.unlink()
            self._ragged = False
        elif self._ragged:
            self._write(b"")
        self._tell()

    def _write(self, text: bytes) -> None:
        fresh = not self.exists
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._disk.open(self.path)
            if self._ragged:
                self._disk.cut(self._file, self.size)
                self._ragged = False
            left = memoryview(text)
            while left:
                left = left[self._disk.write(self._file, left) :]
            self._disk.sync(self._file)
            if fresh:
                self._disk.sync_directory(self.path.parent)
        except OSError:
            self._take_back()
            raise
        self.size += len(text)

    def _take_back(self) -> None:
        """Leave nothing of a write that failed; what cannot be taken back now is before the next.

        The pages of a failed sync may be lost although they can be read: they are written anew.
        """
        if self._file is None:
            return
        try:
            self._disk.cut(self._file, self.size)
            if not self.size:
                self.close()
                self.path.unlink(missing_ok=True)
        except OSError:
            self._ragged = True

    def _head_line(self, resume: Any) -> bytes:
        head = msgspec.to_builtins(_Head(VERSION, self.sink, resume))
        return _HEAD + orjson.dumps(head, option=orjson.OPT_NON_STR_KEYS) + b"}\n"

    def _head(self, line: bytes) -> _Head:
        try:
            head = msgspec.json.decode(line[len(_HEAD) : -2], type=_Head)
        except msgspec.MsgspecError as error:
            raise SpoolError(f"{self.path}: its head cannot be read: {error}; {_ADVICE}") from error
        if (head.version, head.sink) != (VERSION, self.sink):
            raise SpoolError(
                f"{self.path}: expected version {VERSION} of {self.sink},"
                f" found version {head.version} of {head.sink}; {_ADVICE}"
            )
        return head

    def _item(self, line: bytes) -> _Item:
        try:
            item: _Item = self._decoder.decode(line[len(_ITEM) : -2])
        except msgspec.MsgspecError as error:
            raise SpoolError(f"{self.path}: a line cannot be read: {error}; {_ADVICE}") from error
        return item

    def _tell(self) -> None:
        WAITING.labels(self.sink).set(self.waiting)
        SIZE.labels(self.sink).set(self.size)


_ADVICE = "move it away to go on without what it holds, and keep it"


class Waiting(NamedTuple):
    """What waits in a spool's file; bytes with what is drained, but not yet removed."""

    path: Path
    items: int
    bytes: int


def waiting_in(directory: Path) -> list[Waiting]:
    """Return the spools of a directory and those below it, by name; nothing is changed."""
    found = []
    for path in sorted(directory.rglob(f"*{SUFFIX}")):
        with path.open("rb") as lines:
            items = sum(line.startswith(_ITEM) and line.endswith(b"\n") for line in lines)
            found.append(Waiting(path, items, lines.tell()))
    return found


# --- the engine's side -------------------------------------------------------------------------


@dataclass(frozen=True)
class Spooling:
    """Where sinks keep what a server does not take, and how long they wait for what.

    drain_s, settle_s : of a write, and of a start or end, for what waits. retry_s : first and
    longest pause between two tries to reach a server that is away. full_s : how long a batch waits
    in memory when the disk does not take it either; then the run ends, and recovery repeats it.
    say : is told, in one line, when an outage begins and ends.
    """

    directory: Path
    drain_s: float = 2.0
    retry_s: tuple[float, float] = (1.0, 15.0)
    full_s: float = 30.0
    settle_s: float = 10.0
    clock: Clock = field(default_factory=SystemClock)
    disk: Disk = field(default_factory=Disk)
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)

    def spool(self, sink: str, kind: Any) -> Spool[_Item]:
        """Return the spool of a sink, with what an earlier run left in it."""
        return Spool(self.directory / f"{sink}{SUFFIX}", kind, self.disk)


class DirectPart(StatefulSinkPartition[_Item, _State | None]):
    """Writes to a server and fails when it is lost: for runs that can simply be repeated."""

    def __init__(self, outlet: Outlet[_Item, _State]) -> None:
        self._outlet = outlet
        outlet.reach(patient=True)

    def write_batch(self, values: list[_Item]) -> None:
        """Write a batch; raises `Lost`, so that its epoch is not committed."""
        self._outlet.reach(patient=True)
        self._outlet.write(values, patient=True, again=False)

    def snapshot(self) -> _State | None:
        """Return what the outlet needs to resume."""
        return self._outlet.state()

    def close(self) -> None:
        """Release what is open."""
        self._outlet.close()


class SpooledPart(StatefulSinkPartition[_Item, _State | None]):
    """Writes to a server while it answers, and to the spool from when it does not until all that
    waits there is written.
    """

    def __init__(
        self, outlet: Outlet[_Item, _State], spool: Spool[_Item], spooling: Spooling
    ) -> None:
        self._outlet = outlet
        self._spool = spool
        self._rules = spooling
        self._clock = spooling.clock
        self._failures = 0
        self._next_s = 0.0  # no try before
        self._since_s: float | None = None  # begin of the outage
        self._drained = 0
        self._reason = ""
        if spool.exists:
            self._begin("left by an earlier run")
            self._drain(self._clock.monotonic_s() + spooling.settle_s)
        else:
            DEGRADED.labels(spool.sink).set(0)

    def write_batch(self, values: list[_Item]) -> None:
        """Have a batch with the server or on stable storage; raises `SpoolError` if neither."""
        if self._since_s is None:
            try:
                self._outlet.reach(patient=True)
                self._outlet.write(values, patient=True, again=False)
            except Lost as lost:
                self._begin(str(lost))
                self._put_off()
            else:
                return
        self._keep(values)
        if self._since_s is not None and self._clock.monotonic_s() >= self._next_s:
            self._drain(self._clock.monotonic_s() + self._rules.drain_s)

    def snapshot(self) -> _State | None:
        """Return what the outlet needs to resume; what waits is on stable storage."""
        return self._outlet.state()

    def close(self) -> None:
        """Give the server a last chance; what is left is for the next run."""
        if self._since_s is not None and not self._settle():
            self._rules.say(
                f"{self._spool.sink}: {self._spool.waiting} items still wait in {self._spool.path};"
                " the next run writes them first"
            )
        self._outlet.close()
        self._spool.close()

    def _keep(self, values: list[_Item]) -> None:
        """Put a batch behind what waits; with the disk full, try server and disk in turn."""
        until_s: float | None = None
        while True:
            try:
                self._spool.append(values, self._outlet.state())
                return
            except OSError as error:
                now_s = self._clock.monotonic_s()
                why = f"{self._spool.path}: {_cause(error)}"
                if until_s is None:
                    until_s = now_s + self._rules.full_s
                    self._rules.say(f"{self._spool.sink}: {why}; the batch waits in memory")
                if now_s >= until_s:
                    raise SpoolError(
                        f"{self._spool.sink}: neither the server nor the disk takes"
                        f" {len(values)} items: {self._reason}; {why}"
                    ) from error
                self._clock.sleep(_PAUSE_S)
                if self._drain(min(until_s, now_s + self._rules.drain_s), values):
                    return

    def _settle(self) -> bool:
        """Drain for a bounded time, and tell whether all is drained."""
        until_s = self._clock.monotonic_s() + self._rules.settle_s
        while not self._drain(until_s):
            if self._clock.monotonic_s() >= until_s:
                return False
            self._clock.sleep(_PAUSE_S)
        return True

    def _drain(self, until_s: float, last: Sequence[_Item] = ()) -> bool:
        """Write what waits, in order, and then `last`; tell whether all of it is written."""
        try:
            self._outlet.reach(patient=False)
            self._mark()
            while self._spool.waiting:
                chunk = self._spool.read()
                self._outlet.write(chunk.items, patient=False, again=True)
                self._spool.advance(chunk)
                self._drained += len(chunk.items)
                self._failures = 0
                if self._spool.waiting and self._clock.monotonic_s() >= until_s:
                    return False
            if last:
                self._outlet.write(last, patient=False, again=False)
            if self._spool.exists:
                self._spool.remove()
        except Lost as lost:
            self._reason = str(lost)
            self._put_off()
            return False
        except OSError as error:  # the file cannot be read or removed now; it stays what it is
            self._reason = f"{self._spool.path}: {_cause(error)}"
            self._put_off()
            return False
        self._end()
        return True

    def _mark(self) -> None:
        """Give the file its resume state once the server has told what it is."""
        state = self._outlet.state()
        if self._spool.waiting and self._spool.resume is None and state is not None:
            with suppress(OSError):  # a full disk must not hinder what empties it
                self._spool.mark(state)

    def _put_off(self) -> None:
        self._failures += 1
        self._next_s = self._clock.monotonic_s() + backoff_s(
            self._clock, self._failures, *self._rules.retry_s
        )

    def _begin(self, reason: str) -> None:
        self._since_s, self._drained, self._reason = self._clock.monotonic_s(), 0, reason
        DEGRADED.labels(self._spool.sink).set(1)
        OUTAGES.labels(self._spool.sink).inc()
        self._rules.say(f"{self._spool.sink}: {reason}; items wait in {self._spool.path}")

    def _end(self) -> None:
        assert self._since_s is not None
        away_s = self._clock.monotonic_s() - self._since_s
        self._since_s, self._failures, self._next_s = None, 0, 0.0
        DEGRADED.labels(self._spool.sink).set(0)
        self._rules.say(
            f"{self._spool.sink}: written again after {away_s:.1f} s, {self._drained} items drained"
        )


def _cause(error: OSError) -> str:
    return error.strerror or errno.errorcode.get(error.errno or 0, str(error))
