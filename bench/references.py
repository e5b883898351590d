"""What ours is held against: decoding alone, and others' ways to the same minute table.

Each takes the facts of an input (`bench.inputs.ready`) and returns counts; `run.Timed` measures.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import msgspec
import orjson
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from bench.inputs import lines_of
from bench.run import Timed
from bench.table import Table
from dataflows.connectors.ticklog import TickLogReader
from fixtures.market import default_assets
from operators import wire
from operators.lattice import MINUTE_MS

# As operators/wire.py had it before anything was compiled: every frame into typed objects.
decode_frame = msgspec.json.Decoder(wire.Frame, strict=False).decode
WAIT = timedelta(seconds=10)  # of the stock windows for what comes late


# --- decoding alone ------------------------------------------------------------------------------


def read(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """Read the log, decompress it, cut it into lines."""
    frames = 0
    with timed:
        for lines in lines_of(log_of(meta)):
            frames += len(lines)
    return {"frames": frames}


def decode(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """Read the log as above and decode every frame with msgspec into typed objects."""
    frames = 0
    with timed:
        for lines in lines_of(log_of(meta)):
            for line in lines:
                decode_frame(line[line.index(b" ") + 1 :])
            frames += len(lines)
    return {"frames": frames}


def decode_bare(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """Decode frames that are in memory, already cut, with msgspec; nothing else is timed."""
    frames = 0
    for lines in lines_of(log_of(meta)):
        cut = [line[line.index(b" ") + 1 :] for line in lines]
        with timed:
            for frame in cut:
                decode_frame(frame)
        frames += len(lines)
    return {"frames": frames}


def decode_orjson(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """Read the log and decode every frame with orjson into dictionaries."""
    loads, frames = orjson.loads, 0
    with timed:
        for lines in lines_of(log_of(meta)):
            for line in lines:
                loads(line[line.index(b" ") + 1 :])
            frames += len(lines)
    return {"frames": frames}


def log_of(meta: dict[str, Any]) -> Path:
    """Return the log of an input."""
    return Path(meta["folder"]) / "log"


def uids(meta: dict[str, Any]) -> dict[str, int]:
    """Return the ids of an input's coins."""
    return {spec.coin: spec.uid for spec in default_assets(meta["assets"])}


# --- stock Bytewax -------------------------------------------------------------------------------


class _Lines(StatelessSourcePartition[bytes]):
    def __init__(self, log: Path) -> None:
        self._reader = TickLogReader(log)

    def next_batch(self) -> list[bytes]:
        lines = self._reader.read(2000)
        if not lines:
            raise StopIteration
        return lines

    def close(self) -> None:
        self._reader.close()


class _LinesSource(DynamicSource[bytes]):
    def __init__(self, log: Path) -> None:
        self._log = log

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Lines:
        return _Lines(self._log)


class _Keep(StatelessSinkPartition[Any]):
    def __init__(self, kept: list[Any]) -> None:
        self._kept = kept

    def write_batch(self, items: list[Any]) -> None:
        self._kept += items


class _KeepSink(DynamicSink[Any]):
    def __init__(self, kept: list[Any]) -> None:
        self._kept = kept

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Keep:
        return _Keep(self._kept)


_Tick = tuple[str, int, Any]  # kind, ms, message


def _ticks_of(line: bytes) -> list[tuple[str, _Tick]]:
    """Decode a line into (coin, tick)s; books are left out, no column here needs them."""
    stamp, _, frame = line.partition(b" ")
    message = decode_frame(frame)
    if isinstance(message, wire.WireBbo):
        return [(message.data.coin, ("quote", message.data.time, message.data))]
    if isinstance(message, wire.WireTrades):
        return [(entry.coin, ("print", entry.time, entry)) for entry in message.data]
    if isinstance(message, wire.WireAssetCtx):
        return [(message.data.coin, ("context", int(stamp) // 1_000_000, message.data.ctx))]
    return []


def _time_of(tick: _Tick) -> datetime:
    return datetime.fromtimestamp(tick[1] / 1000.0, UTC)


class _Minute:
    """What a fold keeps of a minute."""

    __slots__ = ("buys", "close", "count", "ctx", "high", "levels", "low", "mid", "open", "sells")

    def __init__(self) -> None:
        self.open = self.high = self.low = self.close = self.mid = None
        self.buys = self.sells = 0.0
        self.count = 0
        self.ctx: Any = None
        self.levels: list[float] = []

    def fold(self, tick: _Tick) -> _Minute:
        """Take a tick in."""
        kind, _, data = tick
        if kind == "quote":
            bid, ask = data.bbo
            self.mid = (bid.px + ask.px) / 2.0
        elif kind == "print":
            px = data.px
            if self.open is None:
                self.open = self.high = self.low = px
            self.high, self.low, self.close = max(self.high, px), min(self.low, px), px
            if data.side == "B":
                self.buys += px * data.sz
            else:
                self.sells += px * data.sz
            self.count += 1
        else:
            self.ctx = data
            self.levels.append(data.openInterest * data.markPx)
        return self

    def line(self) -> tuple[Any, ...]:
        """Return the values of `bench.table.COLUMNS`."""
        levels, ctx = self.levels, self.ctx
        return (
            *(self.open, self.high, self.low, self.close),
            *(self.buys, self.sells, self.buys + self.sells, self.count, self.buys - self.sells),
            self.mid,
            *(levels[0], levels[-1], min(levels), max(levels)),
            *(ctx.openInterest, ctx.markPx, ctx.funding),
        )


def stock_bytewax(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """Read and decode (msgspec), and fold each coin's minutes with Bytewax's own windows."""
    kept: list[tuple[str, tuple[int, _Minute]]] = []
    flow = Dataflow("stock")
    lines = op.input("lines", flow, _LinesSource(log_of(meta)))
    ticks = op.flat_map("decode", lines, _ticks_of)
    folded = win.fold_window(
        "minutes",
        ticks,
        win.EventClock(_time_of, wait_for_system_duration=WAIT),
        win.TumblingWindower(timedelta(minutes=1), align_to=datetime.fromtimestamp(0, UTC)),
        _Minute,
        _Minute.fold,
        lambda one, other: one,
    )
    op.output("out", folded.down, _KeepSink(kept))
    with timed:
        run_main(flow)  # type: ignore[no-untyped-call]
    ids = uids(meta)
    table = {
        (ids[coin], (window + 1) * MINUTE_MS): minute.line() for coin, (window, minute) in kept
    }
    return {"frames": meta["frames"], **timed.table(_whole(table, meta))}


def _whole(table: Table, meta: dict[str, Any]) -> Table:
    """Leave out what arrived after the last minute had closed."""
    end_ms = meta["start_ms"] + meta["minutes"] * MINUTE_MS
    return {key: line for key, line in table.items() if key[1] <= end_ms and line[1] is not None}


# --- batch engines -------------------------------------------------------------------------------


def tick_rows(meta: dict[str, Any]) -> Iterator[dict[str, list[tuple[Any, ...]]]]:
    """Yield the ticks of a log as rows, by the tables of `bench.inputs.tables`."""
    ids, seq = uids(meta), 0
    for lines in lines_of(log_of(meta), 100_000):
        rows: dict[str, list[tuple[Any, ...]]] = {"prints": [], "quotes": [], "contexts": []}
        for line in lines:
            for coin, (kind, at_ms, data) in _ticks_of(line):
                seq += 1
                head = (ids[coin], seq, at_ms)
                if kind == "quote":
                    bid, ask = data.bbo
                    rows["quotes"].append((*head, bid.px, ask.px))
                elif kind == "print":
                    rows["prints"].append((*head, data.px, data.sz, data.side == "B"))
                else:
                    row = (*head, data.openInterest, data.markPx, data.funding)
                    rows["contexts"].append(row)
        yield rows


def polars(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """Compute the table with polars from Parquet files of the ticks, in one thread."""
    import polars as pl  # noqa: PLC0415 - of the extra `bench`

    def scan(name: str) -> Any:
        label = (pl.col("time_ms") // MINUTE_MS + 1) * MINUTE_MS
        return pl.scan_parquet(f"{meta['folder']}/{name}.parquet").with_columns(minute=label)

    with timed:
        keys, value = ["uid", "minute"], pl.col("px") * pl.col("sz")
        level = pl.col("open_interest") * pl.col("mark_px")
        buys, sells = value.filter(pl.col("is_buy")).sum(), value.filter(~pl.col("is_buy")).sum()
        prints = scan("prints").group_by(keys).agg(
            o=pl.col("px").first(), h=pl.col("px").max(), l=pl.col("px").min(),
            c=pl.col("px").last(), buys=buys, sells=sells, total=value.sum(), n=pl.len(),
        )  # fmt: skip
        mid = (pl.col("bid_px").last() + pl.col("ask_px").last()) / 2.0
        quotes = scan("quotes").group_by(keys).agg(mid=mid)
        contexts = scan("contexts").group_by(keys).agg(
            oi_o=level.first(), oi_c=level.last(), oi_l=level.min(), oi_h=level.max(),
            base=pl.col("open_interest").last(), mark=pl.col("mark_px").last(),
            rate=pl.col("funding").last(),
        )  # fmt: skip
        found = (
            prints.with_columns(cvd=pl.col("buys") - pl.col("sells"))
            .join(quotes, on=keys)
            .join(contexts, on=keys)
            .select(
                *keys, *("o", "h", "l", "c", "buys", "sells", "total", "n", "cvd", "mid"),
                *("oi_o", "oi_c", "oi_l", "oi_h", "base", "mark", "rate"),
            )
            .collect()
        )  # fmt: skip
    table = {(row[0], row[1]): row[2:] for row in found.iter_rows()}
    return {"frames": meta["frames"], **timed.table(_whole(table, meta))}


QUERY = """
with prints as (
  select uid, (time_ms // 60000 + 1) * 60000 as minute,
    arg_min(px, seq) as o, max(px) as h, min(px) as l, arg_max(px, seq) as c,
    coalesce(sum(px * sz) filter (is_buy), 0) as buys,
    coalesce(sum(px * sz) filter (not is_buy), 0) as sells,
    sum(px * sz) as total, count(*) as n
  from read_parquet('{folder}/prints.parquet') group by all),
quotes as (
  select uid, (time_ms // 60000 + 1) * 60000 as minute,
    (arg_max(bid_px, seq) + arg_max(ask_px, seq)) / 2 as mid
  from read_parquet('{folder}/quotes.parquet') group by all),
contexts as (
  select uid, (time_ms // 60000 + 1) * 60000 as minute,
    arg_min(open_interest * mark_px, seq) as oi_o, arg_max(open_interest * mark_px, seq) as oi_c,
    min(open_interest * mark_px) as oi_l, max(open_interest * mark_px) as oi_h,
    arg_max(open_interest, seq) as base, arg_max(mark_px, seq) as mark,
    arg_max(funding, seq) as rate
  from read_parquet('{folder}/contexts.parquet') group by all)
select uid, minute, o, h, l, c, buys, sells, total, n, buys - sells, mid,
  oi_o, oi_c, oi_l, oi_h, base, mark, rate
from prints join quotes using (uid, minute) join contexts using (uid, minute)
"""


def duckdb(meta: dict[str, Any], timed: Timed) -> dict[str, Any]:
    """Compute the table with DuckDB from Parquet files of the ticks, in one thread."""
    import duckdb as engine  # noqa: PLC0415 - of the extra `bench`

    connection = engine.connect(config={"threads": 1})
    with timed:
        found = connection.execute(QUERY.format(folder=meta["folder"])).fetchall()
    table = {(row[0], row[1]): row[2:] for row in found}
    return {"frames": meta["frames"], **timed.table(_whole(table, meta))}
