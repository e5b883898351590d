"""How long a minute takes to close, and what recovery costs: the real flow with a recovery store.

The source hands out the boundaries of a closing alone, when the feed's time says so; between two
closings it hands out the ticks as they are read. What is measured:

close : from the moment at which the source hands out the boundaries of a sealed minute until the
last of its rows, frames and events were written by the file sinks.
stall : from the moment at which the source is asked for its snapshot, at the end of an epoch,
until it is asked for the next batch; only where the batch before was empty, so that no work but
the snapshots lies in between. codecs : the part of it that our codecs take, by step; normalisation
encodes what it stores behind each bar, within the close.
rss : resident memory at the end of the last epoch, while all states are alive.
resume : from the start of the engine with the store of such a run until the first batch is asked.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bytewax._bytewax import cli_main
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import FixedPartitionedSink, Sink, StatefulSinkPartition
from bytewax.recovery import RecoveryConfig

from bench.inputs import CACHE
from bench.ours import Season, log_of
from bench.run import MB, Timed, rss_bytes
from dataflows.collector import collect_rarely
from dataflows.connectors.source import LogSource
from dataflows.flow import Sinks, build
from dataflows.recovery import make_store
from dataflows.replay import REPLAY, file_sinks
from operators import engine
from operators.records import Boundary
from packs.loader import load_packs

SPEED = 60.0  # a minute of the feed in a second
EPOCH_ASSETS = 200  # an epoch lasts a second for each so many, one at least
HOLD_S = 0.1  # before an epoch ends nothing is handed out, so that its end finds nothing to do
COLD_MINUTES = 1  # at the start, left out: interpreters and caches warm up


class Notes:
    """What was seen while the flow ran; times in seconds of the performance counter."""

    def __init__(self) -> None:
        self.handed: dict[int, float] = {}
        self.written: dict[int, float] = {}
        self.stalls: list[float] = []
        self.codecs: list[dict[str, float]] = []
        self.first_asked: float | None = None
        self.rss = 0
        self.encoding: dict[str, float] = defaultdict(float)

    def closes_ms(self) -> list[float]:
        """Return the closes of sealed minutes in ms, in their order, the cold ones left out."""
        sealed = sorted(n for n in self.handed if n % 2 == 0 and n in self.written)
        return [(self.written[n] - self.handed[n]) * 1e3 for n in sealed][COLD_MINUTES:]


def close(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """Run a log with warm baselines and a recovery store, then start again from the store."""
    collect_rarely()  # as live does; else every tenth closing or so waits for a search
    packs, notes, again = load_packs(), Notes(), Notes()
    season = Season(packs)
    with tempfile.TemporaryDirectory(prefix="out-", dir=CACHE) as folder:
        store = Path(folder) / "recovery"
        store.mkdir()
        make_store(store, 1)

        epoch_s = max(1, meta["assets"] // EPOCH_ASSETS)

        def run(seen: Notes) -> float:
            source = Watched(LogSource(log_of(meta), packs.features), seen, epoch_s)
            sinks = _watched(file_sinks(Path(folder)), seen)
            flow = build(source, packs, sinks, REPLAY, warm=season)
            recovery = RecoveryConfig(str(store))  # type: ignore[no-untyped-call]
            began = time.perf_counter()
            cli_main(  # type: ignore[no-untyped-call]
                flow, epoch_interval=timedelta(seconds=epoch_s), recovery_config=recovery
            )
            return began

        taken = _time_the_codecs(notes)
        with timed:
            run(notes)
        taken()
        began = run(again)
        stored = sum(path.stat().st_size for path in store.iterdir())
    closes = notes.closes_ms()
    assert again.first_asked is not None
    return {
        "frames": meta["frames"],
        "assets": meta["assets"],
        "closes": len(closes),
        "close_ms": _quantiles(closes),
        "stall_ms": _quantiles([stall * 1e3 for stall in notes.stalls]),
        "codecs_ms": _codecs(notes.codecs),
        "resume_s": round(again.first_asked - began, 3),
        "rss_mb": round(notes.rss / MB, 1),
        "store_mb": round(stored / MB, 1),
    }


def _quantiles(values: list[float]) -> dict[str, float] | None:
    """Return median, 95th percentile (nearest rank above) and maximum; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, -(-95 * len(ordered) // 100) - 1)]
    found = {"p50": statistics.median(ordered), "p95": high, "max": ordered[-1]}
    return {name: round(value, 2) for name, value in found.items()} | {"n": len(ordered)}


def _codecs(epochs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median time of each step's codec in an epoch, ms."""
    names = sorted({name for epoch in epochs for name in epoch})
    return {
        name: round(statistics.median(epoch.get(name, 0.0) for epoch in epochs) * 1e3, 2)
        for name in names
    }


def _time_the_codecs(notes: Notes) -> Callable[[], None]:
    """Measure every snapshot of a step; the result undoes it."""
    logic = engine.Logic
    plain = logic.snapshot

    def snapshot(self: Any) -> bytes:
        began = time.perf_counter()
        content = plain(self)
        notes.encoding[type(self._step).__name__.lower()] += time.perf_counter() - began
        return content

    def undo() -> None:
        logic.snapshot = plain  # type: ignore[method-assign]

    logic.snapshot = snapshot  # type: ignore[method-assign]
    return undo


# --- the edges -----------------------------------------------------------------------------------


class Watched(FixedPartitionedSource[Any, Any]):
    """A log whose closings come alone and in time, and whose every call is noted."""

    def __init__(self, source: LogSource, notes: Notes, epoch_s: int) -> None:
        self._source, self._notes, self._epoch_s = source, notes, epoch_s

    def list_parts(self) -> list[str]:
        """Return that of the log."""
        return self._source.list_parts()

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> _WatchedPart:
        """Open the log."""
        inner = self._source.build_part(step_id, for_part, resume_state)
        return _WatchedPart(inner, self._notes, self._epoch_s)


class _WatchedPart(StatefulSourcePartition[Any, Any]):
    def __init__(
        self, inner: StatefulSourcePartition[Any, Any], notes: Notes, epoch_s: int
    ) -> None:
        self._inner, self._notes, self._epoch_s = inner, notes, epoch_s
        self._epoch_began = time.perf_counter()
        self._before = inner.snapshot()
        self._waiting: list[list[Any]] = []
        self._began: tuple[int, float] | None = None
        self._asked_s: float | None = None  # for a snapshot
        self._idle = False

    def next_batch(self) -> list[Any]:
        now, notes = time.perf_counter(), self._notes
        if notes.first_asked is None:
            notes.first_asked = now
        if self._asked_s is not None:
            if self._idle:
                notes.stalls.append(now - self._asked_s)
                notes.codecs.append(dict(notes.encoding))
            self._asked_s = None
        notes.encoding.clear()
        if not self._waiting:
            self._before = self._inner.snapshot()
            self._waiting = _cut(list(self._inner.next_batch()))
        ends = now > self._epoch_began + self._epoch_s - HOLD_S
        if ends or not self._waiting or now < self._due_s(self._waiting[0]):
            self._idle = True
            return []
        self._idle = False
        batch = self._waiting.pop(0)
        if isinstance(batch[0][1], Boundary):
            notes.handed[batch[0][1].phase.number] = time.perf_counter()
        return batch

    def _due_s(self, batch: list[Any]) -> float:
        item = batch[0][1]
        if not isinstance(item, Boundary):
            return 0.0
        if self._began is None:
            self._began = (item.phase.clock_ms, time.perf_counter())
        first_ms, began_s = self._began
        return began_s + (item.phase.clock_ms - first_ms) / 1000.0 / SPEED

    def next_awake(self) -> datetime | None:
        return None

    def snapshot(self) -> Any:
        self._notes.rss = rss_bytes()
        self._asked_s = self._epoch_began = time.perf_counter()
        return self._before if self._waiting else self._inner.snapshot()

    def close(self) -> None:
        self._inner.close()


def _cut(items: list[Any]) -> list[list[Any]]:
    """Return items in order, cut so that the boundaries of a closing are alone."""
    batches: list[list[Any]] = []
    before: object = None
    for keyed in items:
        phase = keyed[1].phase if isinstance(keyed[1], Boundary) else None
        if not batches or phase != before:
            batches.append([])
        batches[-1].append(keyed)
        before = phase
    return batches


class _Noting(StatefulSinkPartition[Any, Any]):
    def __init__(self, inner: StatefulSinkPartition[Any, Any], notes: Notes) -> None:
        self._inner, self._notes = inner, notes

    def write_batch(self, items: list[Any]) -> None:
        self._inner.write_batch(items)
        now = time.perf_counter()
        for item in items:
            self._notes.written[item.phase.number] = now

    def snapshot(self) -> Any:
        return self._inner.snapshot()

    def close(self) -> None:
        self._inner.close()


class _NotingSink(FixedPartitionedSink[Any, Any]):
    def __init__(self, sink: Any, notes: Notes) -> None:
        self._sink, self._notes = sink, notes

    def list_parts(self) -> list[str]:
        return list(self._sink.list_parts())

    def part_fn(self, item_key: str) -> int:
        return int(self._sink.part_fn(item_key))

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> _Noting:
        return _Noting(self._sink.build_part(step_id, for_part, resume_state), self._notes)


def _watched(sinks: Sinks, notes: Notes) -> Sinks:
    def each(found: dict[str, Sink[Any]]) -> dict[str, Sink[Any]]:
        return {name: _NotingSink(sink, notes) for name, sink in found.items()}

    return Sinks(each(sinks.market), each(sinks.published))
