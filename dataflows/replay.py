"""Run a recorded log, or minute bars, through the same flow and write the products as text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import orjson
from bytewax.inputs import FixedPartitionedSource, Source
from bytewax.outputs import FixedPartitionedSink, Sink
from bytewax.testing import cluster_main
from pydantic import BaseModel

from dataflows.collector import collect_rarely
from dataflows.connectors.bars_source import CHUNK_MINUTES, BarsCount, BarsSource
from dataflows.connectors.clock import SystemClock
from dataflows.connectors.column_files import File
from dataflows.connectors.columns import Columns
from dataflows.connectors.columns_source import BATCH_ITEMS, ColumnsSource
from dataflows.connectors.pacing import Paced
from dataflows.connectors.range_source import BarsRange, LogRange, Within
from dataflows.connectors.source import REPLAY_LINES, HoleLog, LogSource, SourceState
from dataflows.connectors.topics import (
    EVENT_PRODUCTS,
    MARKET_PRODUCTS,
    EventsSink,
    RowsAndFramesSink,
    Written,
)
from dataflows.flow import Sinks, build, build_from_bars
from dataflows.ranges import Part
from operators.modes import Run
from operators.normalize import features_in_use
from packs.loader import Packs
from packs.schema import TIMEFRAMES

REPLAY = Run("replay")
PRODUCTS = (*MARKET_PRODUCTS, *EVENT_PRODUCTS)
MADE_OF = "replay.json"  # beside the products: what their rows depend on


class MadeOf(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the rows of a run depend on beside its source, so that they can be used again.

    features : digest of the feature pack. warm : by timeframe, the baselines that `warmup` waits
    for. rows : which rows that is said of; None in what an older release wrote.
    """

    features: str
    warm: dict[str, list[str]]
    rows: File | None = None


@dataclass(frozen=True)
class Product:
    """One file of a replay."""

    path: str
    count: int
    sha256: str


@dataclass(frozen=True)
class Summary:
    """What a replay read and wrote. `dropped` counts what the reader could not use, by reason.

    read_from : the log, its columnar cache, or bars.
    range : of a part of the source, what was written and from where it was read; else None.
    written_to : servers that took the products beside the files, by kind, and how much they hold.
    """

    source: str
    config_hash: str
    feature_pack: str
    detector_pack: str
    products: dict[str, Product]
    dropped: dict[str, int] = field(default_factory=dict)
    read_from: str = "log"
    range: dict[str, Any] | None = None
    written_to: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return asdict(self)


class Watch:
    """Remembers the last state the source reported, and passes it on."""

    def __init__(self, on_progress: Callable[[int], None] | None) -> None:
        self._on_progress = on_progress
        self.counts: dict[str, int] = {}

    def log_chunk(self, state: SourceState) -> None:
        """Take the state of the log reader after a chunk."""
        self.counts = dict(state.feed.counts)
        if self._on_progress is not None:
            self._on_progress(state.feed.clock_ns // 1_000_000)

    def bars_chunk(self, count: BarsCount) -> None:
        """Take the state of the bars reader after a chunk."""
        self.counts = dict(count.rejects)
        if count.minutes_skipped:
            self.counts["minutes_skipped"] = count.minutes_skipped
        if self._on_progress is not None:
            self._on_progress(count.last_ms)


def file_sinks(out: Path, written: Mapping[str, Written] | None = None) -> Sinks:
    """Return sinks for the product files of a directory; existing ones are replaced.

    written : what is told of the lines of each, by product.
    """
    market = {name: product_path(out, name) for name in MARKET_PRODUCTS}
    published = {name: product_path(out, name) for name in EVENT_PRODUCTS}
    return Sinks(
        market={"file": RowsAndFramesSink(market, append=False, written=written)},
        published={"file": EventsSink(published, append=False, written=written)},
    )


def product_path(out: Path, name: str) -> Path:
    """Return the path of a product file."""
    return out / f"{name}.ndjson"


def replay(
    source: Path,
    out: Path,
    packs: Packs,
    *,
    bars: bool = False,
    columns: Columns | None = None,
    workers: int = 1,
    chunk: int | None = None,
    run: Run = REPLAY,
    extra: Sinks | None = None,
    holes: HoleLog | None = None,
    speed: float | None = None,
    part: Part | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Summary:
    """Replay a tick log (or a bars file) into `out` and return the summary.

    columns : a cache of the log that was found usable, to read in its place: same bytes, sooner;
    its bars if they were found usable, else its ticks.
    workers : threads of the engine; the bytes do not depend on it. chunk : lines (minutes for
    bars) read at once; the bytes do not depend on it either. run : who hears the events, as in
    production; to see a run in another mode as it was. extra : more sinks.
    holes : is told of the holes of a log. speed : feed time over wall time; None: unbounded.
    part : the minutes that are written, and where reading begins; the warm-up is not paced.
    on_progress : is told the arrival time, epoch ms, that was reached.
    """
    collect_rarely()
    watch = Watch(on_progress)
    written = {name: Written() for name in PRODUCTS}
    sinks = file_sinks(out, written)
    out.mkdir(parents=True, exist_ok=True)
    (out / MADE_OF).unlink(missing_ok=True)  # it speaks of rows that are complete
    for name in PRODUCTS:  # a sink opens its files with the first item only
        product_path(out, name).write_bytes(b"")
    if extra is not None:
        sinks.market.update(extra.market)
        sinks.published.update(extra.published)
        sinks = sinks._replace(baselines=extra.baselines)
    if part is not None:
        sinks = within(sinks, part)
    if bars:
        count, told = BarsCount(), watch.bars_chunk
        minutes = BarsSource(source, count, chunk or CHUNK_MINUTES, told)
        if part is not None:
            minutes = BarsRange(source, count, chunk or CHUNK_MINUTES, told, part)
        flow = build_from_bars(_paced(minutes, speed, part), packs, sinks, run)
    else:
        batch = BATCH_ITEMS if speed is None else 1  # closings are paced to the batch
        log = _ticks(source, packs, columns, chunk or REPLAY_LINES, watch, holes, part, batch)
        flow = build(_paced(log, speed, part), packs, sinks, run, stored=False)
    # Also with one worker: `run_main` prints the engine's own stack when a step fails.
    cluster_main(flow, [], 0, worker_count_per_proc=workers)  # type: ignore[no-untyped-call]
    products = {name: _product(product_path(out, name), written[name]) for name in PRODUCTS}
    if part is None or part.whole:  # a trial's own memory begins with the first row
        note_rows(out, made_of(packs), products["rows"].sha256)
    return Summary(
        source=str(source),
        config_hash=packs.config_hash,
        feature_pack=packs.feature_pack,
        detector_pack=packs.detector_pack,
        products=products,
        dropped=dict(sorted(watch.counts.items())),
        read_from="bars" if bars else "log" if columns is None else "cache",
        range=None if part is None else range_of([part]),
    )


def within(sinks: Sinks, part: Part) -> Sinks:
    """Return sinks that take the minutes of a part only; baselines are not stored from a part."""
    return Sinks(
        market={name: Within(_partitioned(sink), part) for name, sink in sinks.market.items()},
        published={
            name: Within(_partitioned(sink), part) for name, sink in sinks.published.items()
        },
    )


def _partitioned(sink: Sink[Any]) -> FixedPartitionedSink[Any, Any]:
    assert isinstance(sink, FixedPartitionedSink), sink
    return sink


def range_of(parts: Sequence[Part]) -> dict[str, Any]:
    """Return what a summary says of parts that follow each other."""
    told = [part.as_json() for part in parts]
    return {
        "from": told[0]["from"],
        "to": told[-1]["to"],
        "approximate": not all(part.exact for part in parts),
        "parts": told,
    }


def made_of(packs: Packs) -> MadeOf:
    """Return what the rows of a run with these packs depend on; which rows is left open."""
    warm: dict[str, list[str]] = {tf: sorted(features_in_use(packs, tf)) for tf in TIMEFRAMES}
    return MadeOf(model_digest(packs.features), warm)


def note_rows(out: Path, made: MadeOf, sha256: str) -> None:
    """Write beside the rows of a directory what they depend on; sha256 : of their file."""
    path = product_path(out, "rows")
    noted = msgspec.structs.replace(made, rows=File(path.name, path.stat().st_size, sha256))
    (out / MADE_OF).write_bytes(msgspec.json.encode(noted))


def noted_rows(out: Path) -> MadeOf:
    """Return what `note_rows` wrote. Raises OSError, and ValueError where it is something else."""
    return msgspec.json.decode((out / MADE_OF).read_bytes(), type=MadeOf)


def model_digest(model: BaseModel) -> str:
    """Return the digest of what a pack says, defaults filled in."""
    text = orjson.dumps(model.model_dump(by_alias=True), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()


def _ticks(
    source: Path,
    packs: Packs,
    columns: Columns | None,
    chunk: int,
    watch: Watch,
    holes: HoleLog | None,
    part: Part | None,
    batch_items: int,
) -> FixedPartitionedSource[Any, bytes]:
    features, told = packs.features, watch.log_chunk
    if part is not None:
        assert columns is None
        return LogRange(source, features, chunk, on_chunk=told, holes=holes, part=part)
    if columns is None:
        return LogSource(source, features, chunk, on_chunk=told, holes=holes)
    return ColumnsSource(source, features, columns, chunk, told, holes, batch_items)


def _paced(
    source: FixedPartitionedSource[Any, Any], speed: float | None, part: Part | None
) -> Source[Any]:
    from_ms = (part.from_ms if part is not None else None) or 0
    return source if speed is None else Paced(source, speed, SystemClock(), from_ms=from_ms)


def _product(path: Path, written: Written) -> Product:
    """Return what `measure` does, without reading a file that was written as a whole."""
    if written.size != path.stat().st_size:
        return measure(path)
    return Product(str(path), written.lines, written.sha256.hexdigest())


def measure(path: Path) -> Product:
    """Count the lines of a file and hash its bytes."""
    found = Written()
    with path.open("rb") as stream:
        while data := stream.read(1 << 20):
            found.add(data, data.count(b"\n"))
    return Product(str(path), found.lines, found.sha256.hexdigest())
