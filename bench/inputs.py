"""What the suite measures on: generated logs, their ticks as a table, minute bars; seeded, cached.

Rules of this file: the same `Feed` gives the same bytes on every machine (`Random.random`,
`getrandbits` and + - * / only); what is made lies under var/bench/, in a folder whose name carries
the parameters and the version of the generator, and is complete once its `meta.json` is there.
Frames have the venue's shapes and order of members: bbo, trades (half of them of several prints),
l2Book of 20 levels, activeAssetCtx. In a minute each kind of an asset has times of its own in
arrival order, and nothing comes later than a second: there is no late tick, so that every contender
may cut the same minutes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from bench.season import START_MS
from dataflows.connectors.ticklog import TickLogReader, TickLogWriter
from fixtures.market import AssetSpec, default_assets

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "var" / "bench"
VERSION = 1  # of the generators: another one makes every input anew
MINUTE_MS = 60_000
BLOCK_MS = 100  # the venue's blocks: frames of one share their time
BLOCKS = MINUTE_MS // BLOCK_MS
LEVELS = 20
POOL = 256
WRITE_LINES = 4000

# An hour of the venue for a liquid coin: frames a second, by kind. With the prints: 8.3 ticks.
RATES = {"bbo": 4.0, "trades": 1.3, "l2Book": 0.5, "activeAssetCtx": 0.75}


@dataclass(frozen=True)
class Feed:
    """A log to be generated. rate : frames of an asset over those of RATES."""

    name: str
    assets: int
    minutes: int
    rate: float = 1.0
    seed: int = 7
    start_ms: int = START_MS


@dataclass(frozen=True)
class Bars:
    """A bars file to be generated."""

    name: str
    pairs: int
    days: float
    seed: int = 7
    start_ms: int = START_MS


def folder_of(wanted: Feed | Bars, cache: Path = CACHE) -> Path:
    """Return where an input lies, generated or not."""
    parts = [f"{value:g}" for value in list(asdict(wanted).values())[1:-1]]
    return cache / "-".join((wanted.name, *parts, f"v{VERSION}"))


def ready(wanted: Feed | Bars, cache: Path = CACHE) -> dict[str, Any]:
    """Return what is known of an input, with its `folder`; generate it if it is not there."""
    folder = folder_of(wanted, cache)
    meta = folder / "meta.json"
    if not meta.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        made = _write_feed(wanted, folder) if isinstance(wanted, Feed) else _bars(wanted, folder)
        meta.write_text(json.dumps({**asdict(wanted), **made}, indent=2) + "\n")
    return {**json.loads(meta.read_text()), "folder": str(folder)}


# --- a log ---------------------------------------------------------------------------------------


def _write_feed(feed: Feed, folder: Path) -> dict[str, Any]:
    log, made = folder / "log", _Feed(feed)
    writer = TickLogWriter(log)
    for minute in made.minutes():
        for at in range(0, len(minute), WRITE_LINES):
            lines = minute[at : at + WRITE_LINES]
            writer.write_lines(int(lines[0][:19]), "".join(lines).encode("ascii"))
    writer.close()
    TickLogWriter(log).close()  # a writer compresses what the one before it left behind
    on_disk = sum(path.stat().st_size for path in log.iterdir())
    return {"ticks": made.ticks, "frames": made.frames, "bytes": made.bytes, "disk_bytes": on_disk}


class _Feed:
    """Generates a log minute by minute, and counts what is in it."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._shared = Random(feed.seed)
        self._users = [f"0x{self._shared.getrandbits(160):040x}" for _ in range(POOL)]
        self._assets = [_Asset(spec, feed, self._users) for spec in default_assets(feed.assets)]
        self._last_ns = 0
        self.ticks = self.frames = self.bytes = 0

    def minutes(self) -> Iterator[list[str]]:
        """Yield the lines of each minute in order of arrival; the heartbeats after the last."""
        start_ms = self._feed.start_ms
        yield self._counted([self._roster()])
        for index in range(self._feed.minutes):
            open_ms = start_ms + index * MINUTE_MS
            arrivals, shock = self._arrivals(open_ms), self._shared.random()
            lines = list[str]()
            for asset in self._assets:
                self.ticks += asset.minute(open_ms, arrivals, shock, lines)
            lines.sort()  # stamps have 19 digits: the order of text is that of arrival
            yield self._counted(lines)
        end_ms = start_ms + self._feed.minutes * MINUTE_MS
        beats = range(end_ms + 1000, end_ms + 6000, 1000)
        yield [f'{at_ms}000000 {{"channel":"alpha.clock"}}\n' for at_ms in beats]

    def _counted(self, lines: list[str]) -> list[str]:
        self.frames += len(lines)
        self.bytes += sum(map(len, lines))
        return lines

    def _arrivals(self, open_ms: int) -> list[int]:
        """Return the arrival of each block, ns: delayed by 0.25 to 0.7 s, never out of order."""
        found, r = list[int](), self._shared.random
        for block in range(BLOCKS):
            x = r()
            delayed = (open_ms + block * BLOCK_MS) * 1_000_000 + int(250e6 + 450e6 * x * x * x)
            self._last_ns = max(delayed, self._last_ns + 3_000_000)
            found.append(self._last_ns)
        return found

    def _roster(self) -> str:
        names = ",".join(f'"{name}"' for name in RATES)
        entries = ",".join(
            f'{{"uid":{a.spec.uid},"coin":"{a.spec.coin}","channels":[{names}]}}'
            for a in self._assets
        )
        start_ms = self._feed.start_ms
        return (
            f'{start_ms}000000 {{"channel":"alpha.roster","data":{{"from_ms":{start_ms + MINUTE_MS}'
            f',"assets":[{entries}],"dexes":[""]}}}}\n'
        )


class _Asset:
    """A coin that moves: its price in ticks, its open interest, and texts that recur."""

    def __init__(self, spec: AssetSpec, feed: Feed, users: list[str]) -> None:
        self.spec, self._users = spec, users
        self._rng = Random(feed.seed * 1_000_003 + spec.uid)
        self._counts = {kind: rate * 60.0 * feed.rate for kind, rate in RATES.items()}
        self._scale = 10**spec.price_decimals
        self._mid = spec.price * self._scale
        self._oi = spec.oi_base
        self._lot = 10**spec.size_decimals
        self._tid = spec.uid * 1_000_000_000_000
        self._prices: dict[int, str] = {}
        usual = spec.volume_quote / spec.orders / spec.price * self._lot
        self._sizes = [self._size(usual * (0.1 + 0.3 / (0.15 + i / POOL))) for i in range(POOL)]
        self._tails = [
            f'","sz":"{self._sizes[(i * 7) % POOL]}","n":{1 + i % 9}}}' for i in range(POOL)
        ]

    def _size(self, lots: float) -> str:
        return str((int(lots) + max(1, self._lot // 1000)) / self._lot)

    def minute(self, open_ms: int, arrivals: list[int], shock: float, lines: list[str]) -> int:
        """Append the lines of a minute; return how many ticks are in them."""
        rng, r = self._rng, self._rng.random
        lively = shock > 0.97 or r() > 0.995  # the whole market, or this coin alone
        step = (6.0 if lively else 1.0) * self.spec.sigma * self._mid / 8.0
        drift = (1.0 if r() < 0.5 else -1.0) * (0.008 * self._mid if lively else 0.0)
        path, mid = list[int](), self._mid
        for _ in range(60):
            mid += step * 1.75 * (r() + r() - 1.0) + drift / 60.0
            path.append(max(int(mid), 2 * LEVELS))
        self._mid = max(mid, 2.0 * LEVELS)
        self._oi *= 1.0 + 0.002 * (r() - 0.5)
        ticks = 0
        for kind, mean in self._counts.items():
            count = min(int(mean) + (r() < mean % 1.0), BLOCKS)
            for block in sorted(rng.sample(range(BLOCKS), count)):
                at_ms, tick = open_ms + block * BLOCK_MS, path[block // 10]
                frame, found = self._frame(kind, at_ms, tick, lively)
                lines.append(f"{arrivals[block] + rng.getrandbits(20)} {frame}\n")
                ticks += found
        return ticks

    def _frame(self, kind: str, at_ms: int, tick: int, lively: bool) -> tuple[str, int]:
        if kind == "bbo":
            return self._bbo(at_ms, tick), 1
        if kind == "trades":
            return self._trades(at_ms, tick, lively)
        return (self._book(at_ms, tick) if kind == "l2Book" else self._context(tick)), 1

    def _px(self, tick: int) -> str:
        text = self._prices.get(tick)
        if text is None:
            text = self._prices[tick] = str(tick / self._scale)
        return text

    def _level(self, tick: int, bits: int) -> str:
        return '{"px":"' + self._px(tick) + self._tails[bits]

    def _bbo(self, at_ms: int, tick: int) -> str:
        bits = self._rng.getrandbits(17)
        bid, ask = (
            self._level(tick - (bits >> 16), bits & 255),
            self._level(tick + 1, bits >> 8 & 255),
        )
        return (
            f'{{"channel":"bbo","data":{{"coin":"{self.spec.coin}","time":{at_ms},'
            f'"bbo":[{bid},{ask}]}}}}'
        )

    def _book(self, at_ms: int, tick: int) -> str:
        draws, level = self._rng.getrandbits(16 * LEVELS).to_bytes(2 * LEVELS, "big"), self._level
        bids = ",".join([level(tick - i, draws[i]) for i in range(LEVELS)])
        asks = ",".join([level(tick + 1 + i, draws[LEVELS + i]) for i in range(LEVELS)])
        return (
            f'{{"channel":"l2Book","data":{{"coin":"{self.spec.coin}","time":{at_ms},'
            f'"levels":[[{bids}],[{asks}]]}}}}'
        )

    def _trades(self, at_ms: int, tick: int, lively: bool) -> tuple[str, int]:
        """One taker order: half of them meet one maker, the others up to six; more in a rush."""
        rng = self._rng
        buys = rng.random() < 0.5
        count = 1 if rng.random() < 0.5 else 2 + int(rng.random() * (12 if lively else 5))
        side, digest = "B" if buys else "A", f"0x{rng.getrandbits(256):064x}"
        taker, found = self._users[rng.getrandbits(8)], list[str]()
        for i in range(count):
            maker, px = self._users[rng.getrandbits(8)], self._px(tick + (buys or -(i // 3)))
            buyer, seller = (taker, maker) if buys else (maker, taker)
            self._tid += 1
            found.append(
                f'{{"coin":"{self.spec.coin}","side":"{side}","px":"{px}",'
                f'"sz":"{self._sizes[rng.getrandbits(8)]}","time":{at_ms},"hash":"{digest}",'
                f'"tid":{self._tid},"users":["{buyer}","{seller}"]}}'
            )
        return f'{{"channel":"trades","data":[{",".join(found)}]}}', count

    def _context(self, tick: int) -> str:
        mark, spec, r = tick / self._scale, self.spec, self._rng.random
        oracle = int(tick * (1.0 + 0.0004 * (r() - 0.5)) * 10) / (10 * self._scale)
        self._oi *= 1.0 + 0.0002 * (r() - 0.5)
        return (
            f'{{"channel":"activeAssetCtx","data":{{"coin":"{spec.coin}","ctx":'
            f'{{"funding":"0.0000125","openInterest":"{int(self._oi * self._lot) / self._lot}",'
            f'"prevDayPx":"{spec.price}","dayNtlVlm":"{spec.volume_quote * 1440.0}",'
            f'"premium":"0.0003761389","oraclePx":"{oracle}","markPx":"{mark}","midPx":"{mark}",'
            f'"impactPxs":["{mark}","{oracle}"],"dayBaseVlm":"7543.61"}}}}}}'
        )


def lines_of(log: Path, chunk: int = 2000) -> Iterator[list[bytes]]:
    """Yield the lines of a log in chunks."""
    with TickLogReader(log) as reader:
        while lines := reader.read(chunk):
            yield lines


# --- the ticks of a log as tables ----------------------------------------------------------------

PRINTS = ("uid", "seq", "time_ms", "px", "sz", "is_buy")
QUOTES = ("uid", "seq", "time_ms", "bid_px", "ask_px")
CONTEXTS = ("uid", "seq", "time_ms", "open_interest", "mark_px", "funding")


def tables(
    folder: Path, batches: Callable[[Path], Iterator[dict[str, list[tuple[Any, ...]]]]]
) -> None:
    """Write the ticks of an input as Parquet beside its log, for those that start from columns.

    `batches` yields rows by table; PRINTS and so on name their columns. Needs pyarrow.
    """
    pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")  # of the extra `bench`

    done = folder / "ticks.done"
    if done.exists():
        return
    names = {"prints": PRINTS, "quotes": QUOTES, "contexts": CONTEXTS}
    writers: dict[str, Any] = {}
    for batch in batches(folder / "log"):
        for name, rows in batch.items():
            if not rows:
                continue
            columns = dict(zip(names[name], map(list, zip(*rows, strict=True)), strict=True))
            table = pa.table(columns)
            if name not in writers:
                writers[name] = pq.ParquetWriter(folder / f"{name}.parquet", table.schema)
            writers[name].write_table(table)
    for writer in writers.values():
        writer.close()
    done.touch()


# --- minute bars ---------------------------------------------------------------------------------


def _bars(wanted: Bars, folder: Path) -> dict[str, Any]:
    """Write a bars file: lively volume and returns, with bursts."""
    specs = default_assets(wanted.pairs)
    rngs = [Random(wanted.seed * 1_000_003 + spec.uid) for spec in specs]
    prices, rows = [spec.price for spec in specs], 0
    with (folder / "bars.csv").open("w") as file:
        file.write("symbol,close_ms,open,high,low,close,volume_quote,trade_count,taker_buy_quote\n")
        for minute in range(1, int(wanted.days * 1440) + 1):
            close_ms = wanted.start_ms + minute * MINUTE_MS
            for i, spec in enumerate(specs):
                r = rngs[i].random
                burst = 8.0 if r() > 0.998 else 1.0
                opened = prices[i]
                move = spec.sigma * burst * 1.4 * (r() + r() + r() - 1.5)
                closed = opened * (1.0 + move)
                high = max(opened, closed) * (1.0 + 0.3 * spec.sigma * r())
                low = min(opened, closed) * (1.0 - 0.3 * spec.sigma * r())
                volume = spec.volume_quote * burst * (0.2 + 0.5 / (0.2 + r()))
                share = 0.2 + 0.6 * r()
                file.write(
                    f"{spec.coin},{close_ms},{opened:.8g},{high:.8g},{low:.8g},{closed:.8g},"
                    f"{volume:.8g},{1 + int(spec.orders * burst * (0.5 + r()))},"
                    f"{volume * share:.8g}\n"
                )
                prices[i] = closed
                rows += 1
    return {"rows": rows, "bytes": (folder / "bars.csv").stat().st_size}
