"""A run of the whole flow that kills itself with SIGKILL at a given passage of a given boundary.

    python tests/crash/crash_run.py

reads `Orders`, a JSON line each, from stdin, runs each in a child of its own, and answers with the
child's process id and then its exit status. The product is not changed: the hooks are put around
its functions here. Forking saves the second that the imports take; a child shares nothing else.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from bytewax.recovery import RecoveryConfig
from bytewax.testing import cluster_main

from dataflows.connectors import kafka, postgres, ticklog
from dataflows.connectors.baselines import PostgresBaselineSink
from dataflows.connectors.kafka import Bus, KafkaEventsSink, Publisher
from dataflows.connectors.postgres import (
    PostgresEventSink,
    PostgresHoleLog,
    PostgresMarketSink,
    PostgresOutlet,
    PostgresWriter,
)
from dataflows.connectors.source import LogPartition, LogSource, SourceState
from dataflows.connectors.spool import Disk, Lost, Spool, Spooling
from dataflows.connectors.ticklog import TickLogReader, TickLogWriter
from dataflows.connectors.topics import EventsSink, NdjsonFile, RowsAndFramesSink
from dataflows.flow import Sinks, build
from dataflows.recovery import forget_unfinished
from operators import engine, normal_state
from operators.assemble import Assemble
from operators.bases import BaseCodec, KeepBase
from operators.budget import Budget
from operators.context import Context
from operators.detect import Detect
from operators.normal_state import NormaliseCodec
from operators.normalize import Normalize
from operators.score import Score
from packs.loader import Packs, load_packs

STEPS = (Assemble, KeepBase, Normalize, Detect, Context, Score, Budget)
RENEWAL_MINUTES = 4  # in place of 60
MIN_SAMPLES = 20  # in place of 200: events after twenty minutes of feed
SEGMENT_BYTES = 1 << 20
FEED_LINES = 40  # that the recorder writes at once
MARKET = ("rows", "frames", "audit")
PUBLISHED = ("events", "shadow", "suppressed", "dlq")
TALLY, PASSAGES = "tally", "passages.json"


class Orders(msgspec.Struct):
    """What to run, where it writes, and when it dies.

    record_to : record `log` into this directory meanwhile, and follow that. away : from and to
    which arrival, epoch ms, servers do not answer. point, passage : boundary and which passage of
    it is the last; kill_after_s : or so long after the start. seed : of what is left to chance.
    """

    log: str
    out: str
    store: str
    dsn: str = ""
    schema: str = ""
    bootstrap: str = ""
    topic: str = ""
    record_to: str = ""
    workers: int = 1
    epoch_ms: int = 0
    chunk: int = 200
    away: list[tuple[int, int]] = []
    point: str = ""
    passage: int = 1
    kill_after_s: float = 0.0
    seed: int = 0


def small_packs() -> Packs:
    """The shipped packs, warm after a few minutes."""
    packs = load_packs()
    robust = packs.features.robust.model_copy(update={"min_samples": MIN_SAMPLES})
    return replace(packs, features=packs.features.model_copy(update={"robust": robust}))


# --- the hooks -----------------------------------------------------------------------------------


def die() -> None:
    """End as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal may find another thread first


class Hooks:
    """Counts the passages of every boundary, and ends the process at the one that is ordered."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.passed: Counter[str] = Counter()
        self.clock_ms = 0
        self._lock = threading.Lock()
        self._tally = os.open(
            Path(orders.out) / TALLY, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
        )

    def due(self, point: str) -> bool:
        """Count a passage and tell whether it is the last one."""
        with self._lock:
            self.passed[point] += 1
            ordered = self.orders
            return point == ordered.point and self.passed[point] == ordered.passage

    def reach(self, point: str) -> None:
        """Pass a boundary, or end there."""
        if self.due(point):
            die()

    def offer(self, sink: str, count: int) -> None:
        """Note, beyond the end of this process, how much a sink was given."""
        if count:
            os.write(self._tally, f"{sink} {count}\n".encode())

    def around(self, owner: Any, name: str, point: str) -> None:
        """Make a boundary before a function and one after it."""
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            self.reach(f"{point} before")
            found = inner(*args, **kwargs)
            self.reach(f"{point} after")
            return found

        setattr(owner, name, hooked)


def hook(hooks: Hooks) -> None:
    """Put boundaries around everything that lasts, and around every step."""
    normal_state.RENEWAL_MINUTES = RENEWAL_MINUTES
    around = hooks.around
    around(ticklog, "_compress", "log compress")
    around(Path, "replace", "log replace")  # by the packed segment, before the plain one is gone
    around(TickLogWriter, "sync", "log sync")
    around(TickLogWriter, "_rotate", "log rotate")
    around(LogPartition, "next_batch", "source read")
    around(LogPartition, "snapshot", "source snapshot")
    for step in STEPS:
        around(step, "step", f"step {step.__name__.lower()}")
    around(NdjsonFile, "offset", "file fsync")
    around(Publisher, "_produce", "kafka produce")
    around(Publisher, "_heard", "kafka acknowledgement")
    around(Publisher, "send", "kafka batch")
    around(Disk, "sync", "spool fsync")
    around(Disk, "remove", "spool remove")
    around(Spool, "append", "spool append")
    around(Spool, "advance", "spool drain")
    around(psycopg.Transaction, "__exit__", "postgres commit")
    around(postgres, "_copy", "postgres copy")
    # Passed by a start, most of them when it has something to go on with.
    around(LogSource, "build_part", "resume source")
    around(Spool, "_take_up", "resume spool")
    around(kafka, "read_back", "resume kafka")
    around(NdjsonFile, "__init__", "resume file")
    around(engine.Packed, "decode", "resume step")
    around(NormaliseCodec, "decode", "resume step")
    around(NormaliseCodec, "restore", "resume step")
    around(BaseCodec, "decode", "resume step")
    _hook_snapshots(hooks)
    _hook_torn(hooks)
    _hook_offers(hooks)


def _hook_snapshots(hooks: Hooks) -> None:
    """Before and after each step's snapshot, and while the engine writes its store."""
    inner = engine.Logic.snapshot

    def snapshot(self: engine.Logic) -> bytes:
        point = f"snapshot {type(self._step).__name__.lower()}"
        hooks.reach(f"{point} before")
        data = inner(self)
        hooks.reach(f"{point} after")
        if hooks.due("store commit"):
            late_s = (hooks.orders.seed % 40) / 4000  # the engine writes within some milliseconds
            later = threading.Timer(late_s, die)
            later.daemon = True
            later.start()
        return data

    engine.Logic.snapshot = snapshot  # type: ignore[method-assign]


def _hook_torn(hooks: Hooks) -> None:
    """End in the middle of a write: half of it reaches the operating system."""
    log_write, file_append, disk_write = TickLogWriter.write_lines, NdjsonFile.append, Disk.write

    def write_lines(self: TickLogWriter, first_arrival_ns: int, lines: bytes) -> None:
        hooks.reach("log append before")
        if hooks.due("log append torn"):
            log_write(self, first_arrival_ns, lines[: len(lines) // 2])
            die()
        log_write(self, first_arrival_ns, lines)
        hooks.reach("log append after")

    def append(self: NdjsonFile, lines: Any) -> None:
        given = list(lines)
        hooks.reach("file append before")
        if given and hooks.due("file append torn"):
            text = b"\n".join(given)
            self._file.write(text[: max(1, len(text) // 2)])
            self._file.flush()
            die()
        file_append(self, given)
        hooks.offer("file", len(given))
        hooks.reach("file append after")

    def write(self: Disk, file: int, data: bytes | memoryview) -> int:
        if hooks.due("spool append torn"):
            os.write(file, data[: max(1, len(data) // 2)])
            die()
        return disk_write(self, file, data)

    TickLogWriter.write_lines = write_lines  # type: ignore[method-assign]
    NdjsonFile.append = append  # type: ignore[method-assign]
    Disk.write = write  # type: ignore[method-assign]


def _hook_offers(hooks: Hooks) -> None:
    """Count what servers are given, and let them be away when that is ordered."""
    transfer, kafka_write = postgres._transfer, kafka._Outlet.write

    def counted(connection: Any, loads: Any, *, keep: bool = True) -> None:
        transfer(connection, loads, keep=keep)
        hooks.offer("postgres", sum(len(load.records) for load in loads) if keep else 0)
        hooks.reach("postgres transaction after")

    def write(self: Any, items: Any, **how: bool) -> None:
        kafka_write(self, items, **how)
        hooks.offer("kafka", sum(1 for _ in self._sink.records(items)))

    postgres._transfer = counted
    kafka._Outlet.write = write  # type: ignore[method-assign]

    def away(reach: Callable[..., None]) -> Callable[..., None]:
        def reached(self: Any, **how: bool) -> None:
            if any(start <= hooks.clock_ms < end for start, end in hooks.orders.away):
                raise Lost("away by order")
            reach(self, **how)

        return reached

    PostgresOutlet.reach = away(PostgresOutlet.reach)  # type: ignore[method-assign]
    kafka._Outlet.reach = away(kafka._Outlet.reach)  # type: ignore[method-assign]


# --- the run -------------------------------------------------------------------------------------


class Feeder(threading.Thread):
    """Records: writes the lines of a log that a directory does not have yet.

    A line that a kill left torn is written again, as it was.
    """

    def __init__(self, log: Path, directory: Path) -> None:
        super().__init__(name="feeder", daemon=True)
        directory.mkdir(exist_ok=True)
        with TickLogReader(directory, follow=True) as there:
            self._at = 0
            while lines := there.read(10_000):
                self._at += len(lines)
        self._log = log
        self._writer = TickLogWriter(directory, segment_bytes_max=SEGMENT_BYTES)
        self.done = False

    def run(self) -> None:
        with TickLogReader(self._log) as whole:
            left = self._at
            while left and (passed := whole.read(left)):
                left -= len(passed)
            written = 0
            while lines := whole.read(FEED_LINES):
                first_ns = int(lines[0].partition(b" ")[0])
                self._writer.write_lines(first_ns, b"".join(line + b"\n" for line in lines))
                written += len(lines)
                if written % (25 * FEED_LINES) == 0:
                    self._writer.sync()
                time.sleep(0.0005)
        self._writer.close()
        self.done = True


class Following(LogPartition):
    """Follows a log that is being recorded, to its end."""

    feeder: Feeder

    def next_batch(self) -> list[Any]:
        ended = self.feeder.done  # asked first: what was written before is read now
        before = self._log.position
        items = super().next_batch()
        if ended and not items and self._log.position == before:
            raise StopIteration
        return items


class FollowingSource(LogSource):
    """A log that a feeder writes meanwhile."""

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> LogPartition:
        part = super().build_part(step_id, for_part, resume_state)
        part.__class__ = Following
        assert isinstance(part, Following)
        part.feeder = FEEDERS[0]
        return part


FEEDERS: list[Feeder] = []


def sinks(orders: Orders, packs: Packs) -> tuple[Sinks, PostgresHoleLog | None]:
    """Files, and the servers that are given."""
    out = Path(orders.out)

    def paths(names: tuple[str, ...]) -> dict[str, Path]:
        return {name: out / f"{name}.ndjson" for name in names}

    made = Sinks(
        market={"file": RowsAndFramesSink(paths(MARKET), append=False)},
        published={"file": EventsSink(paths(PUBLISHED), append=False)},
    )
    spooling = Spooling(out / "spool", retry_s=(0.01, 0.05), say=lambda line: None)
    if orders.bootstrap:
        made.published["kafka"] = KafkaEventsSink(
            Bus(orders.bootstrap, wait_s=20.0),
            orders.topic,
            f"{orders.topic}.dlq",
            shadow=f"{orders.topic}.shadow",
            spooling=spooling,
        )
    if not orders.dsn:
        return made, None
    columns = {column.name: column.type for column in packs.features.stored}

    def open_writer() -> PostgresWriter:
        return PostgresWriter(orders.dsn, columns, schema=orders.schema, say=lambda line: None)

    made.market["database"] = PostgresMarketSink(open_writer, spooling)
    made.published["database"] = PostgresEventSink(open_writer, spooling)
    made = made._replace(baselines={"database": PostgresBaselineSink(open_writer, spooling)})
    return made, PostgresHoleLog(open_writer, "ticks", spooling)


def run(orders: Orders, packs: Packs) -> None:
    """Run to the end of the log, or to the kill."""
    hooks = Hooks(orders)
    hook(hooks)
    if orders.kill_after_s:
        later = threading.Timer(orders.kill_after_s, die)
        later.daemon = True
        later.start()

    def reached(state: SourceState) -> None:
        hooks.clock_ms = state.feed.clock_ns // 1_000_000

    edges, holes = sinks(orders, packs)
    given = (Path(orders.record_to or orders.log), packs.features, orders.chunk)
    if orders.record_to:
        FEEDERS.append(Feeder(Path(orders.log), given[0]))
        FEEDERS[0].start()
    if orders.store:  # as `dataflows.live.configure`
        forget_unfinished(Path(orders.store))
    source = FollowingSource if orders.record_to else LogSource
    ticks = source(*given, follow=bool(orders.record_to), on_chunk=reached, holes=holes)
    cluster_main(  # type: ignore[no-untyped-call]
        build(ticks, packs, edges),
        [],
        0,
        worker_count_per_proc=orders.workers,
        epoch_interval=timedelta(milliseconds=orders.epoch_ms),
        recovery_config=RecoveryConfig(orders.store) if orders.store else None,
    )
    (Path(orders.out) / PASSAGES).write_bytes(msgspec.json.encode(dict(hooks.passed)))


def serve() -> None:
    """Run orders, each in a child of its own, until there are no more."""
    faulthandler.enable()
    packs = small_packs()
    for line in sys.stdin.buffer:
        orders = msgspec.json.decode(line, type=Orders)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                run(orders, packs)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
