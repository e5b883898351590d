"""Record the venue into the tick log: frames as they come, and our own control records.

Rules of this file: the thread started here owns the log and is its only writer; every line carries
the arrival clock, which never decreases; time goes on in the log even when nothing arrives; a hole
is announced as soon as it is known, and at most one is open at a time; without a network there is
still a roster, an open gap and a heartbeat, and one log line a minute that says so. Design 2, D1.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import structlog

from dataflows.connectors.clock import Clock, SystemClock, backoff_s
from dataflows.connectors.ticklog import SEGMENT_BYTES_MAX, TickLogWriter
from dataflows.connectors.venue_rest import (
    AsyncVenueRest,
    Discovery,
    Listing,
    RestConfig,
    VenueError,
)
from dataflows.connectors.venue_ws import (
    DIAL,
    SUBSCRIPTIONS_MAX,
    Dial,
    Dropped,
    Live,
    Lost,
    Notice,
    SocketConfig,
    Subscription,
    VenueSockets,
)
from operators.lattice import MINUTE_MS, iso, minute_of
from operators.records import Asset

TRADES, BBO, BOOK = "trades", "bbo", "l2Book"
ASSET_CONTEXT = "activeAssetCtx"
CONTEXT = "context"  # one `allDexsAssetCtxs` for every asset
CHANNELS = (TRADES, BBO, BOOK, ASSET_CONTEXT, CONTEXT)

COUNTERS = (
    *("frames", "bytes", "heartbeats", "gaps", "rosters", "contexts"),
    *("connects", "reconnects", "connect_failures", "stalls"),
    *("discoveries", "discovery_failures"),
)
START, NO_NETWORK = "start", "no_network"
_CLOCK = b'{"channel":"alpha.clock"}'
_NS_PER_MS = 1_000_000
_SAY_DOWN_AFTER_MS = 10_000  # a start that takes longer is worth a line
_CLOCK_BACK_NS_MAX = 60_000_000_000  # an earlier stamp further ahead than this was a wrong clock
_TAIL_BYTES = 1 << 20  # the largest real frame is 0.1 MB
_STAMP_DIGITS = 19

_log = structlog.get_logger(__name__)


class RecorderError(Exception):
    """The recorder is misconfigured or its thread has died; the message is one line."""


@dataclass(frozen=True, slots=True)
class RecorderConfig:
    """What to record and where to.

    coins : names as the venue writes them, None for the `max_assets` most traded. channels : of
    `CHANNELS`. bootstrap_assets : the roster until the venue has been asked successfully.
    reload_s : how often listings are reloaded. context_silence_s : age of the newest context frame
    from which contexts are fetched over REST, once per so many seconds. sync_s : how often the log
    is forced to disk. retry_s, retry_s_max : pauses between discoveries that fail.
    """

    directory: Path
    ws_url: str = "wss://api.hyperliquid.xyz/ws"
    rest_url: str = "https://api.hyperliquid.xyz"
    coins: tuple[str, ...] | None = None
    max_assets: int = 200
    channels: tuple[str, ...] = (TRADES, BBO, BOOK, CONTEXT)
    bootstrap_assets: tuple[tuple[int, str], ...] = ((0, "BTC"), (1, "ETH"))
    heartbeat_ms: int = 250
    reload_s: float = 300.0
    context_silence_s: float = 15.0
    sync_s: float = 5.0
    retry_s: float = 1.0
    retry_s_max: float = 30.0
    segment_bytes_max: int = SEGMENT_BYTES_MAX
    sockets: SocketConfig = field(default_factory=SocketConfig)
    rest: RestConfig = field(default_factory=lambda: RestConfig(attempts=2, timeout_s=5.0))

    def __post_init__(self) -> None:
        faults = list(_faults(self))
        if faults:
            raise RecorderError("; ".join(faults))


def _faults(config: RecorderConfig) -> Iterable[str]:
    for channel in config.channels:
        if channel not in CHANNELS:
            yield f"channels: expected one of {', '.join(CHANNELS)}, found {channel!r}"
    if config.coins == ():
        yield "coins: expected names or none at all, found an empty list"
    assets = config.max_assets if config.coins is None else len(config.coins)
    if assets < 1:
        yield f"max_assets: expected at least 1, found {assets}"
    per_asset = len([channel for channel in config.channels if channel != CONTEXT])
    room = min(SUBSCRIPTIONS_MAX, config.sockets.sockets_max * config.sockets.per_socket)
    if assets * per_asset + 1 > room:
        yield f"expected at most {room} subscriptions, found {assets * per_asset + 1}"


@dataclass(frozen=True, slots=True)
class Edges:
    """The two ways to the venue; a simulation puts its own in their place."""

    rest: Callable[[RestConfig, Clock], AsyncVenueRest] = AsyncVenueRest
    dial: Dial = DIAL


class Recorder:
    """A daemon thread that records until stopped.

    `start`, then `stop`; call `raise_if_dead` now and then, a thread cannot raise by itself.
    Who has an event loop runs `record` on it instead.
    """

    def __init__(
        self, config: RecorderConfig, clock: Clock | None = None, edges: Edges | None = None
    ) -> None:
        self._config = config
        self._clock = clock if clock is not None else SystemClock()
        self._edges = edges or Edges()
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def start(self) -> None:
        """Begin recording; returns when the log is open. Raises `RecorderError`."""
        self._thread.start()
        self._ready.wait()
        self.raise_if_dead()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End recording and close the log. Raises `RecorderError` if it had died or hangs."""
        if self._thread.ident is None:
            return
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the thread has ended
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise RecorderError(f"expected the recorder to end within {timeout_s:g} s")
        self.raise_if_dead()

    def raise_if_dead(self) -> None:
        """Raise `RecorderError` if the thread failed; its cause is attached."""
        if self._failure is not None:
            raise RecorderError(f"the recorder died: {_one_line(self._failure)}") from self._failure

    @property
    def counters(self) -> dict[str, int]:
        """A copy of the counters; rejects are `rejects.<reason>`."""
        return dict(self._counters)

    def _work(self) -> None:
        try:
            asyncio.run(self.record())
        except BaseException as failure:  # handed to whoever calls raise_if_dead
            self._failure = failure
            _log.error("recorder died", problem=_one_line(failure))
        finally:
            self._ready.set()

    async def record(self) -> None:
        """Record until stopped or cancelled: what the thread does."""
        config = self._config
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        left_off_ns = _left_off_ns(config.directory)
        with contextlib.closing(
            TickLogWriter(config.directory, segment_bytes_max=config.segment_bytes_max)
        ) as writer:
            recording = _Recording(config, self._clock, writer, self._counters, self._edges)
            recording.begin(left_off_ns)
            self._ready.set()
            await _until(self._stopping, recording.run())


async def _until(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until told to stop. Raises what it raises."""
    task, waiter = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _left_off_ns(directory: Path) -> int | None:
    """Return the stamp of the last line an earlier recorder wrote here, None if there is none.

    Its open segment is still a plain file; a look at the end of it is enough.
    """
    segments = sorted(directory.glob("ticks-*-*.log"), key=lambda path: path.name[-10:])
    if not segments:
        return None
    with segments[-1].open("rb") as segment:
        segment.seek(max(0, segment.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = segment.read().split(b"\n")[:-1]
    for line in reversed(lines):
        stamp = line.partition(b" ")[0]
        if len(stamp) == _STAMP_DIGITS and stamp.isdigit():
            return int(stamp)
    return None


def _one_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(f"{type(error).__name__}: {error}".split())


class _Gap(msgspec.Struct, frozen=True):
    """The data of an `alpha.gap` record; open while `end_ms` is None."""

    start_ms: int
    end_ms: int | None
    cause: str


class _Recording:
    """What the thread does. Everything here runs on its loop, so lines are written in order."""

    def __init__(
        self,
        config: RecorderConfig,
        clock: Clock,
        writer: TickLogWriter,
        counters: dict[str, int],
        edges: Edges,
    ) -> None:
        self._config = config
        self._clock = clock
        self._edges = edges
        self._writer = writer
        self._counters = counters
        self._now_ns = 0
        self._written_ns = 0
        self._gap: _Gap | None = None
        self._problem = ""
        self._demanded_s = 0.0
        self._said_ms: int | None = None
        self._listed: dict[str, Listing] = {}  # what is recorded; at most `max_assets`
        self._refused: set[tuple[str, str]] = set()  # (coin, channel); within what was wanted
        self._delisted: set[str] = set()  # already reported
        self._roster: tuple[Asset, ...] | None = None
        self._context_ns = 0
        self._sockets = VenueSockets(
            replace(config.sockets, url=config.ws_url),
            clock,
            stamp=self._stamp,
            on_frame=self._on_frame,
            on_notice=self._on_notice,
            count=self._count,
            dial=edges.dial,
        )

    def begin(self, left_off_ns: int | None) -> None:
        """Open the first gap: from the last line of an earlier recorder, else from now."""
        now_ns = self._clock.now_ns()
        if left_off_ns is not None and left_off_ns - now_ns < _CLOCK_BACK_NS_MAX:
            self._now_ns = left_off_ns
            now_ns = min(now_ns, left_off_ns)
        self._open_gap(START, now_ns)

    async def run(self) -> None:
        """Record until cancelled."""
        config = replace(self._config.rest, url=self._config.rest_url)
        rest = self._edges.rest(config, self._clock)
        async with rest, asyncio.TaskGroup() as group:
            group.create_task(self._beat())
            group.create_task(self._sync())
            await self._first_discovery(rest)
            group.create_task(self._sockets.run())
            group.create_task(self._reload(rest))
            if {CONTEXT, ASSET_CONTEXT} & set(self._config.channels):
                group.create_task(self._keep_context(rest))

    # --- the log ----------------------------------------------------------------------------

    def _stamp(self) -> int:
        """Return the arrival clock: wall time, made non-decreasing."""
        self._now_ns = max(self._now_ns, self._clock.now_ns())
        return self._now_ns

    def _on_frame(self, arrival_ns: int, frame: bytes) -> None:
        self._counters["frames"] += 1
        self._counters["bytes"] += len(frame)
        self._writer.append(arrival_ns, frame)
        self._written_ns = arrival_ns

    def _control(self, record: bytes) -> None:
        self._written_ns = self._stamp()
        self._writer.append(self._written_ns, record)

    def _count(self, name: str) -> None:
        self._counters[name] = self._counters.get(name, 0) + 1

    async def _beat(self) -> None:
        """Let time go on in the log while nothing arrives, and speak up while the feed is down."""
        period_ns = self._config.heartbeat_ms * _NS_PER_MS
        while True:
            idle_ns = self._stamp() - self._written_ns
            if idle_ns >= period_ns:
                self._control(_CLOCK)
                self._count("heartbeats")
                idle_ns = 0
            self._say_if_down()
            await asyncio.sleep(max(period_ns - idle_ns, _NS_PER_MS) / 1e9)

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(self._config.sync_s)
            self._writer.sync()

    # --- gaps -------------------------------------------------------------------------------

    def _open_gap(self, cause: str, since_ns: int) -> None:
        self._gap = _Gap(since_ns // _NS_PER_MS, None, cause)
        self._control(_record("alpha.gap", self._gap))
        self._count("gaps")

    def _close_gap(self, *, quietly: bool = False) -> None:
        if self._gap is None:
            return
        now_ms = self._stamp() // _NS_PER_MS
        closed = _Gap(self._gap.start_ms, now_ms, self._gap.cause)
        self._gap = None
        self._control(_record("alpha.gap", closed))
        if not quietly:
            _log.info("feed is live", cause=closed.cause, gap_ms=now_ms - closed.start_ms)

    def _extend_gap(self, cause: str, since_ns: int) -> None:
        """Open a gap, or a new one in place of one that began later, so that one is open."""
        if self._gap is not None:
            if since_ns // _NS_PER_MS >= self._gap.start_ms:
                return
            self._close_gap(quietly=True)
        self._open_gap(cause, since_ns)

    def _say_if_down(self) -> None:
        """One line a minute while a gap is open, at once unless it is an ordinary start."""
        if self._gap is None:
            return
        now_ms = self._now_ns // _NS_PER_MS
        if self._gap.cause == START and now_ms - self._gap.start_ms < _SAY_DOWN_AFTER_MS:
            return
        if self._said_ms is not None and now_ms - self._said_ms < MINUTE_MS:
            return
        self._said_ms = now_ms
        _log.warning(
            "feed is down",
            cause=self._gap.cause,
            since=iso(self._gap.start_ms),
            problem=self._problem,
            retries=self._counters["discovery_failures"] + self._counters["connect_failures"],
        )

    def _on_notice(self, notice: Notice) -> None:
        match notice:
            case Lost():
                self._problem = notice.problem
                self._extend_gap(notice.cause, notice.since_ns)
            case Live() if self._sockets.live:
                self._close_gap()
            case Dropped():
                _log.warning("not subscribed", reason=notice.reason, coin=notice.coin)
                if notice.coin is not None and notice.type is not None:
                    self._refused.add((notice.coin, notice.type))
                self._write_roster(self._assets())

    # --- what is recorded -------------------------------------------------------------------

    async def _discover(self, rest: AsyncVenueRest) -> Discovery | None:
        try:
            found = await rest.discover()
        except VenueError as error:
            self._problem = str(error)
            self._demanded_s = error.retry_after_s
            self._count("discovery_failures")
            return None
        self._count("discoveries")
        return found

    async def _first_discovery(self, rest: AsyncVenueRest) -> None:
        """Ask until the venue answers; meanwhile the log has a roster and says why it is empty."""
        failures = 0
        while (found := await self._discover(rest)) is None:
            failures += 1
            if failures == 1:
                self._go_without_network()
            config = self._config
            pause_s = backoff_s(self._clock, failures, config.retry_s, config.retry_s_max)
            await asyncio.sleep(max(pause_s, self._demanded_s))
        self._apply(found)
        self._write_context(found)

    def _go_without_network(self) -> None:
        assert self._gap is not None
        self._close_gap(quietly=True)
        self._open_gap(NO_NETWORK, self._now_ns)
        channels = self._config.channels
        assets = (Asset(uid, coin, channels) for uid, coin in self._config.bootstrap_assets)
        self._write_roster(tuple(sorted(assets, key=lambda asset: asset.asset_uid)))

    async def _reload(self, rest: AsyncVenueRest) -> None:
        while True:
            await asyncio.sleep(self._config.reload_s)
            if (found := await self._discover(rest)) is not None:
                self._apply(found)

    def _apply(self, found: Discovery) -> None:
        """Subscribe what is listed and wanted, and put it on record."""
        self._listed = {listing.coin: listing for listing in self._choose(found)}
        coins = self._config.coins if self._config.coins is not None else tuple(self._listed)
        live = [c for c in coins if c in self._listed or c not in found.known]
        self._sockets.update(self._subscriptions(live), found.known)
        self._write_roster(self._assets())

    def _choose(self, found: Discovery) -> list[Listing]:
        """Return the listings to record: named ones, or the most traded, keeping what we have.

        Keeping means that a change of rank does not tear a history apart.
        """
        ranked = found.ranked()
        if (coins := self._config.coins) is not None:
            self._report_delisted(
                [x.coin for x in found.listings if x.delisted and x.coin in coins]
            )
            return [listing for listing in ranked if listing.coin in coins]
        kept = [listing for listing in ranked if listing.coin in self._listed]
        fresh = [listing for listing in ranked if listing.coin not in self._listed]
        return (kept + fresh)[: self._config.max_assets]

    def _report_delisted(self, coins: list[str]) -> None:
        for coin in coins:
            if coin not in self._delisted:
                self._delisted.add(coin)
                _log.warning("not subscribed", reason="delisted", coin=coin)
                self._count("rejects.delisted")

    def _subscriptions(self, coins: Iterable[str]) -> list[Subscription]:
        channels = self._config.channels
        wanted = [
            Subscription(channel, coin, fast=channel == BOOK)
            for coin in coins
            for channel in channels
            if channel != CONTEXT and (coin, channel) not in self._refused
        ]
        # First, so that context is there when the first asset is.
        return [Subscription("allDexsAssetCtxs"), *wanted] if CONTEXT in channels else wanted

    def _assets(self) -> tuple[Asset, ...]:
        barred = self._sockets.quarantined
        return tuple(
            Asset(x.uid, x.coin, self._channels_of(x.coin))
            for x in sorted(self._listed.values(), key=lambda listing: listing.uid)
            if x.coin not in barred
        )

    def _channels_of(self, coin: str) -> tuple[str, ...]:
        return tuple(c for c in self._config.channels if (coin, c) not in self._refused)

    def _write_roster(self, assets: tuple[Asset, ...]) -> None:
        """Put the roster on record if it changed; it holds from the minute that is running."""
        if assets == self._roster:
            return
        self._roster = assets
        data = {
            "from_ms": minute_of(self._stamp() // _NS_PER_MS),
            "assets": [
                {"uid": a.asset_uid, "coin": a.symbol, "channels": list(a.channels)} for a in assets
            ],
            "dexes": [""],
        }
        self._control(_record("alpha.roster", data))
        self._count("rosters")
        _log.info("roster", assets=len(assets))

    # --- context over REST ------------------------------------------------------------------

    def _write_context(self, found: Discovery) -> None:
        assert found.answer is not None
        self._control(
            b'{"channel":"alpha.context","data":{"dex":"","answer":%b}}' % found.answer.strip()
        )
        self._context_ns = self._written_ns
        self._count("contexts")

    async def _keep_context(self, rest: AsyncVenueRest) -> None:
        """Fetch contexts while the sockets carry none (design D1)."""
        silence_ns = round(self._config.context_silence_s * 1e9)
        while True:
            age_ns = self._stamp() - max(self._context_ns, self._sockets.context_ns or 0)
            if age_ns < silence_ns:
                await asyncio.sleep(max(silence_ns - age_ns, _NS_PER_MS) / 1e9)
            elif (found := await self._discover(rest)) is not None:
                self._write_context(found)
            else:
                await asyncio.sleep(max(self._config.context_silence_s, self._demanded_s))


def _record(channel: str, data: object) -> bytes:
    return msgspec.json.encode({"channel": channel, "data": data})
