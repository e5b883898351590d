"""Our own contenders: the very pieces of the flow, in the engine, with one worker.

Each takes the facts of an input (`bench.inputs.ready`) and returns counts; `run.Timed` measures.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import bytewax.operators as op
import msgspec
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from bench.inputs import CACHE
from bench.run import Timed, give_back, rss_bytes
from bench.season import bars as seasoned_days
from bench.table import Table, of_columns
from dataflows.connectors.source import LogSource
from dataflows.flow import build
from dataflows.halves import assemble, normalize
from dataflows.replay import REPLAY, file_sinks, replay
from dataflows.trial import Tried, assert_fitting, rows_table
from dataflows.trial import trial as trial_of
from operators.baselines import Baseline, load
from operators.lattice import DAY_MS
from operators.normalize import Normalize
from operators.records import BarItem, RowItem
from packs.loader import Packs, load_packs

SEASON_DAYS = 8
STATES = 300  # whose memory is measured together
YOUNG_MINUTES = 20  # of a state as the minute closes leave it


class Discard(DynamicSink[Any]):
    """Takes everything and keeps what `take` keeps."""

    def __init__(self, take: Callable[[Any], None]) -> None:
        self._take = take

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Discarding:
        """Return the one partition."""
        return _Discarding(self._take)


class _Discarding(StatelessSinkPartition[Any]):
    def __init__(self, take: Callable[[Any], None]) -> None:
        self._take = take

    def write_batch(self, items: list[Any]) -> None:
        for _, item in items:
            self._take(item)


def log_of(meta: Mapping[str, Any]) -> Path:
    """Return the log of an input."""
    return Path(meta["folder"]) / "log"


# --- frames to rows ------------------------------------------------------------------------------


def bars(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """Frames to raw minute columns: source and assembly."""
    packs, table = load_packs(), Table()

    def take(item: BarItem) -> None:
        if item.bar is not None:
            table[item.asset_uid, item.bar.exchange_ts_ms] = of_columns(item.bar.columns)

    flow = Dataflow("bars")
    ticks = op.input("ticks", flow, LogSource(log_of(meta), packs.features))
    op.output("out", assemble(ticks, packs), Discard(take))
    with timed:
        run_main(flow)  # type: ignore[no-untyped-call]
    return {"frames": meta["frames"], **timed.table(table)}


def rows(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """Frames to feature rows with all columns: source, assembly and normalisation."""
    packs, table = load_packs(), Table()

    def take(item: RowItem) -> None:
        for row in item.rows:
            if row.tf == "1m":
                table[item.asset_uid, row.exchange_ts_ms] = of_columns(row.columns)

    flow = Dataflow("rows")
    ticks = op.input("ticks", flow, LogSource(log_of(meta), packs.features))
    op.output("out", normalize(assemble(ticks, packs), packs), Discard(take))
    with timed:
        run_main(flow)  # type: ignore[no-untyped-call]
    return {"frames": meta["frames"], "columns": len(packs.features.stored), **timed.table(table)}


# --- to events -----------------------------------------------------------------------------------


def events(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """What `alpha replay LOG --out DIR` does: frames to files of rows, frames and events."""
    return _replayed(meta, timed, log_of(meta))


def cache(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """The same from the columnar cache of the log, which is made before; checking it is timed."""
    return _from_cache(meta, timed, bars=True)


def cache_ticks(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """The same from the ticks of the cache, as where its bars do not fit the feature pack."""
    for heavy in ("numpy", "pyarrow", "pyarrow.ipc"):  # which it loads when it meets a cache
        import_module(heavy)
    return _from_cache(meta, timed, bars=False)


def _from_cache(meta: dict[str, Any], timed: Timed, *, bars: bool) -> dict[str, Any]:
    columns = import_module("dataflows.connectors.columns")
    log, features = log_of(meta), load_packs().features

    def found() -> dict[str, Any]:
        usable = columns.usable(log, columns.place_of(log), features, bars=bars)
        assert isinstance(usable, columns.Columns), usable
        assert usable.bars == bars, usable.no_bars
        return {"columns": usable}

    return _replayed(meta, timed, log, found)


def bars_events(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """What `alpha replay --bars` does."""
    return _replayed(meta, timed, _bars_of(meta), lambda: {"bars": True})


def _bars_of(meta: dict[str, Any]) -> Path:
    return Path(meta.get("bars") or f"{meta['folder']}/bars.csv")


def _replayed(
    meta: dict[str, Any],
    timed: Timed,
    source: Path,
    options: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any]:
    packs = load_packs()
    with _scratch() as folder:
        with timed:
            summary = replay(source, Path(folder), packs, **options())
        return {
            "frames": meta.get("frames"),
            "bars": meta.get("rows"),
            "rows": summary.products["rows"].count,
            "events": summary.products["events"].count,
            "suppressed": summary.products["suppressed"].count,
            "written_bytes": sum(Path(p.path).stat().st_size for p in summary.products.values()),
            "products": {name: p.sha256[:16] for name, p in summary.products.items()},
        }


def trial(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """What `alpha trial` does from the second pack on: the rows of `bars-events` to events.

    A first trial that is not timed finds the rows as columns and, as a host may take back what a
    machine has read long ago, has them read from the disk.

    columns_s : what turning the rows into columns took, or opening those that were there. first_s :
    what the first trial took without that.
    """
    packs = load_packs()
    rows = Path(meta["folder"]) / f"rows-{packs.config_hash[-12:]}"
    if not (rows / "done").exists():
        replay(_bars_of(meta), rows, packs, bars=True)
        (rows / "done").touch()

    def tried() -> Tried:
        assert_fitting(rows, [packs])
        with _scratch() as folder:
            return trial_of(rows, Path(folder), packs, rows_table(rows, packs))

    began = time.perf_counter()
    rows_table(rows, packs)
    columns = time.perf_counter()
    first = tried()
    ended = time.perf_counter()
    with timed:
        second = tried()
    assert _digests(second) == _digests(first)
    return {
        "rows": second.rows,
        "looked_at": second.looked_at,
        "columns_s": round(columns - began, 3),
        "first_s": round(ended - columns, 3),
        "products": _digests(second),
    }


def _digests(tried: Tried) -> dict[str, str]:
    return {name: product.sha256[:16] for name, product in tried.products.items()}


def events_warm(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """As `events`, but every asset begins with baselines of a week, so that detectors fire."""
    packs = load_packs()
    season = Season(packs)
    with _scratch() as folder:
        sinks = file_sinks(Path(folder))
        source = LogSource(log_of(meta), packs.features)
        flow = build(source, packs, sinks, REPLAY, warm=season)
        with timed:
            run_main(flow)  # type: ignore[no-untyped-call]
        counts = {
            name: (Path(folder) / f"{name}.ndjson").read_bytes().count(b"\n")
            for name in ("rows", "events", "suppressed")
        }
    return {"frames": meta["frames"], **counts}


def _scratch() -> tempfile.TemporaryDirectory[str]:
    CACHE.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="out-", dir=CACHE)


class Season:
    """Baselines of a synthetic week for every asset (`operators.normalize.Warm`)."""

    def __init__(self, packs: Packs, days: int = SEASON_DAYS) -> None:
        step = Normalize(packs, hands_out=True)
        self.state = step.initial()
        self._found: dict[str, dict[str, bytes]] = {}
        for bar in seasoned_days(days, seed=5):
            for item in step.step(self.state, bar):
                for stored in item.baselines:
                    self._found.setdefault(stored.tf, {})[stored.column] = stored.content

    def take(self, asset_uid: int, label_ms: int) -> Mapping[str, Mapping[str, Baseline]]:
        """Return the same baselines for every asset, each with memory of its own."""
        return {
            tf: {column: load(content) for column, content in columns.items()}
            for tf, columns in self._found.items()
        }


def state(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """What an asset's normalisation remembers after a week, and when it has just begun warm: the
    resident memory of many such states, as a restart makes them."""
    packs = load_packs()
    season, step = Season(packs), Normalize(packs)
    codec = step.codec()
    young_step = Normalize(packs, warm=season)
    young = young_step.initial()
    for bar in seasoned_days(SEASON_DAYS + 1, seed=5)[-2 * YOUNG_MINUTES :]:
        young_step.step(young, shifted(bar))
    held, found = [], {}
    with timed:
        for name, one in (("young", young), ("week", season.state)):
            content = codec.encode(one)
            codec.decode(content)
            give_back()  # else the first states fill what the season left, and seem smaller
            before = rss_bytes()
            held.append([codec.decode(content) for _ in range(STATES)])
            found[f"{name}_kb"] = round((rss_bytes() - before) / STATES / 1024, 1)
            found[f"{name}_stored_kb"] = round(len(content) / 1024, 1)
    return found


def shifted(item: BarItem) -> BarItem:
    """Return a bar a day later: after the season, not within it."""
    phase = msgspec.structs.replace(item.phase, minute_ms=item.phase.minute_ms + DAY_MS)
    bar = item.bar
    if bar is not None:
        bar = msgspec.structs.replace(bar, exchange_ts_ms=bar.exchange_ts_ms + DAY_MS)
    return msgspec.structs.replace(item, phase=phase, bar=bar)
