"""Where the time goes: the steps one by one, in a plain loop and by the engine's own metrics."""

from __future__ import annotations

import os
import re
import socket
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bytewax._bytewax import cli_main
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from bench.inputs import CACHE
from bench.ours import log_of
from bench.references import decode_frame
from bench.run import Timed
from dataflows.connectors.source import CHUNK_LINES, LogSource, feed_reader
from dataflows.connectors.ticklog import TickLogReader
from dataflows.flow import build
from dataflows.replay import REPLAY, file_sinks
from dataflows.version import PRODUCER
from operators.assemble import Assemble
from operators.budget import Budget
from operators.context import Context
from operators.detect import Detect
from operators.feed import FeedState
from operators.join import by_phase
from operators.loop import LoopState
from operators.normalize import Normalize
from operators.records import MarketPhase, Published
from operators.score import Score
from packs.loader import load_packs

STEPS = ("read", "feed", "assemble", "normalize", "detect", "context", "score", "budget", "sinks")


def stages(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """Run a log through every step, a chunk at a time, and take the time of each.

    feed : decoding is within it; `decode` is msgspec over the same lines, beside, and in no sum.
    """
    packs, state = load_packs(), LoopState()
    assemble, normalize = Assemble(packs.features), Normalize(packs)
    detect, context = Detect(packs), Context(packs)
    score, budget = Score(packs, PRODUCER), Budget(packs, REPLAY)
    spent = dict.fromkeys((*STEPS, "decode"), 0.0)
    frames, now = 0, time.perf_counter

    def ticks(items: list[Any]) -> list[Any]:
        found = []
        for uid, item in items:
            if uid not in state.assemble:
                state.assemble[uid] = assemble.initial()
            found += assemble.step(state.assemble[uid], item)
        return found

    def rows(items: list[Any]) -> list[Any]:
        found = []
        for item in items:
            if item.asset_uid not in state.normalize:
                state.normalize[item.asset_uid] = normalize.initial()
            found += normalize.step(state.normalize[item.asset_uid], item)
        return found

    def joined_of(items: list[Any]) -> list[Any]:
        return [out for came in by_phase(items) for out in context.step(state.context, came)]

    def scored(items: list[Any]) -> list[Any]:
        found = []
        for item in items:
            if item.asset_uid not in state.score:
                state.score[item.asset_uid] = score.initial()
            found += score.step(state.score[item.asset_uid], item)
        return found

    def each(step: Any, kept: Any) -> Callable[[list[Any]], list[Any]]:
        return lambda items: [out for item in items for out in step.step(kept, item)]

    def clocked(name: str, work: Callable[[Any], Any], items: Any) -> Any:
        began = now()
        found = work(items)
        spent[name] += now() - began
        return found

    with tempfile.TemporaryDirectory(prefix="out-", dir=CACHE) as folder:
        sinks = file_sinks(Path(folder))
        market = sinks.market["file"].build_part("market", "0", None)  # type: ignore[attr-defined]
        published = sinks.published["file"].build_part("events", "0", None)  # type: ignore[attr-defined]
        reader = TickLogReader(log_of(meta))
        feed = feed_reader(FeedState(), packs.features)
        with timed:
            while block := clocked("read", reader.read_block, CHUNK_LINES):
                frames += block.count(b"\n")
                items = clocked("feed", feed.read_block, block)
                bars = clocked("assemble", ticks, items)
                made = clocked("normalize", rows, bars)
                marked = clocked("detect", each(detect, None), made)
                joined = clocked("context", joined_of, marked)
                phases = [item for item in joined if isinstance(item, MarketPhase)]
                rest = [item for item in joined if not isinstance(item, MarketPhase)]
                judged = clocked("score", scored, rest)
                out: list[Published] = clocked("budget", each(budget, state.budget), judged)
                began = now()
                market.write_batch(phases)
                published.write_batch(out)
                spent["sinks"] += now() - began
        reader.close()
        market.close()
        published.close()
    with TickLogReader(log_of(meta)) as again:
        while lines := again.read(CHUNK_LINES):
            frames_only = [line[line.index(b" ") + 1 :] for line in lines]
            began = now()
            for frame in frames_only:
                decode_frame(frame)
            spent["decode"] += now() - began
    whole = sum(spent[name] for name in STEPS)
    return {
        "frames": frames,
        "stages": {name: round(value, 4) for name, value in spent.items()},
        "shares": {name: round(spent[name] / whole, 4) for name in STEPS},
    }


# --- the engine's own metrics --------------------------------------------------------------------

_DURATION = re.compile(r"^(\w+_duration_seconds)_sum\{(.*)\} (\S+)$", re.MULTILINE)
_STEP = re.compile(r'step_id="([^"]+)"')


def operators(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """Run a log through the engine and ask its metrics how long each operator took, seconds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    packs, found = load_packs(), dict[str, float]()
    with tempfile.TemporaryDirectory(prefix="out-", dir=CACHE) as folder:
        os.environ["BYTEWAX_DATAFLOW_API_ENABLED"] = "1"
        os.environ["BYTEWAX_DATAFLOW_API_PORT"] = str(port)
        os.environ["BYTEWAX_DATAFLOW_API_CACHE_PATH"] = folder
        source = Ending(LogSource(log_of(meta), packs.features), lambda: _scrape(port, found))
        flow = build(source, packs, file_sinks(Path(folder)), REPLAY)
        with timed:
            # `run_main` does not start the server of the metrics.
            cli_main(flow)  # type: ignore[no-untyped-call]
    whole = sum(found.values())
    return {
        "frames": meta["frames"],
        "operators": {name: round(value, 4) for name, value in found.items()},
        "shares": {name: round(value / whole, 4) for name, value in found.items()},
    }


def _scrape(port: int, found: dict[str, float]) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    for name, labels, value in _DURATION.findall(text):
        step = _STEP.search(labels)
        if step is not None:
            kind = name.removeprefix("bytewax_").removesuffix("_duration_seconds")
            key = f"{step.group(1)} {kind}"
            found[key] = found.get(key, 0.0) + float(value)


class Ending(FixedPartitionedSource[Any, Any]):
    """A source that tells when it has nothing more, just before it says so to the engine."""

    def __init__(
        self, source: FixedPartitionedSource[Any, Any], on_end: Callable[[], None]
    ) -> None:
        self._source, self._on_end = source, on_end

    def list_parts(self) -> list[str]:
        """Return those of the source."""
        return self._source.list_parts()

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> _EndingPart:
        """Open a partition of the source."""
        return _EndingPart(self._source.build_part(step_id, for_part, resume_state), self._on_end)


class _EndingPart(StatefulSourcePartition[Any, Any]):
    def __init__(
        self, inner: StatefulSourcePartition[Any, Any], on_end: Callable[[], None]
    ) -> None:
        self._inner, self._on_end = inner, on_end
        self._ended = False

    def next_batch(self) -> Any:
        if self._ended:  # the batches before have gone through
            self._on_end()
            raise StopIteration
        try:
            return self._inner.next_batch()
        except StopIteration:
            self._ended = True
            return []

    def snapshot(self) -> Any:
        return self._inner.snapshot()

    def close(self) -> None:
        self._inner.close()
