"""The venue's sockets: subscribe, keep alive, reconnect, and hand every frame on untouched.

Rules of this file: a frame is stamped once, when it is received, and passed on in that order; only
coins the venue lists are subscribed, because an unknown one costs the whole socket (venue
reference 2.3); a coin that kills its socket twice is left out; a lost or silent socket is a
notice, and so is the moment when everything it carried is confirmed again.

One `VenueSockets` holds up to ten `_Socket`s. Every subscription belongs to one of them for good.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import msgspec
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import CloseCode
from websockets.uri import parse_uri

from dataflows.connectors.clock import Clock, backoff_s

SOCKETS_MAX = 10  # the venue's limit per address
SUBSCRIPTIONS_MAX = 1000  # the venue's limit per address, all sockets together
FRAME_BYTES_MAX = 4 << 20  # the largest real frame is 0.1 MB; a larger one closes the socket

# Reasons of rejects, as counted.
UNKNOWN_COIN = "unknown_coin"
QUARANTINED = "quarantined"
REFUSED = "subscription_refused"
ERROR_FRAME = "error_frame"
NOT_JSON = "not_json"
FRAME_TOO_LARGE = "frame_too_large"

_DATA = tuple(
    b'{"channel":"%b"' % name
    for name in (
        *(b"bbo", b"trades", b"l2Book", b"activeAssetCtx", b"allDexsAssetCtxs"),
        *(b"candle", b"allMids", b"assetCtxs"),
    )
)
_CONTEXT = (b'{"channel":"activeAssetCtx"', b'{"channel":"allDexsAssetCtxs"')
_PING = '{"method":"ping"}'

Dial = Callable[..., Awaitable[ClientConnection]]
DIAL: Dial = connect


@dataclass(frozen=True, slots=True)
class Subscription:
    """One feed: a venue channel, its coin unless the channel covers all, `fast` for books."""

    type: str
    coin: str | None = None
    fast: bool = False

    def message(self) -> dict[str, Any]:
        """Return the `subscription` object of the request, in the venue's key order."""
        message: dict[str, Any] = {"type": self.type}
        if self.coin is not None:
            message["coin"] = self.coin
        if self.fast:
            message["fast"] = True
        return message

    def matches(self, ack: dict[str, Any]) -> bool:
        """Tell whether an ack is for this: it may carry more members than were sent (2.1)."""
        return all(ack.get(key) == value for key, value in self.message().items())


@dataclass(frozen=True, slots=True)
class SocketConfig:
    """Limits and patience. Times in seconds; the venue's limits are in its reference 2.2 and 2.4.

    per_socket : subscriptions a socket may carry. silence_s : a socket on which only pongs arrive
    for so long is stalled. pulse_coins, pulse_s : a best-bid feed that never pauses, and how long
    it may. Both are doubled, up to 32 times, while a reconnect does not help. ack_tries : how often
    a subscription is sent before it is given up. quarantine_after : sockets a coin may kill while
    it is the only one unconfirmed. stable_s : a session that lived longer clears the back-off.
    """

    url: str = "wss://api.hyperliquid.xyz/ws"
    sockets_max: int = SOCKETS_MAX
    per_socket: int = 300
    subscribes_per_s: float = 20.0
    connects_per_min: int = 25
    ping_s: float = 15.0
    pong_timeout_s: float = 10.0
    ack_timeout_s: float = 10.0
    ack_tries: int = 3
    silence_s: float = 30.0
    pulse_coins: tuple[str, ...] = ("BTC", "ETH")
    pulse_s: float = 10.0
    open_timeout_s: float = 10.0
    close_timeout_s: float = 2.0
    backoff_s: float = 0.5
    backoff_s_max: float = 30.0
    stable_s: float = 10.0
    quarantine_after: int = 2
    quarantine_s: float = 3600.0


Cause = Literal["disconnect", "stall"]


@dataclass(frozen=True, slots=True)
class Lost:
    """A socket is down. since_ns : arrival of the last frame it is known to have carried."""

    socket: int
    cause: Cause
    since_ns: int
    problem: str


@dataclass(frozen=True, slots=True)
class Live:
    """Every subscription of a socket is confirmed, for the first time or again."""

    socket: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something that is not subscribed, told once; `reason` is one of the reject reasons above.

    coin : None for a channel that covers all. type : the channel, None for every channel.
    """

    reason: str
    coin: str | None
    type: str | None = None


Notice = Lost | Live | Dropped


class Pacer:
    """Lets through at most `limit` per `window_s`, never two closer than `spacing_s`."""

    def __init__(self, limit: int, window_s: float, spacing_s: float, clock: Clock) -> None:
        self._window_s = window_s
        self._spacing_s = spacing_s
        self._clock = clock
        self._passed: deque[float] = deque(maxlen=limit)
        self._lock = asyncio.Lock()

    async def __call__(self) -> None:
        """Return when the next one may pass."""
        async with self._lock:
            while (wait := self._wait_s()) > 0.0:
                await asyncio.sleep(wait)
            self._passed.append(self._clock.monotonic_s())

    def _wait_s(self) -> float:
        if not self._passed:
            return 0.0
        now = self._clock.monotonic_s()
        wait = self._passed[-1] + self._spacing_s - now
        if len(self._passed) == self._passed.maxlen:
            wait = max(wait, self._passed[0] + self._window_s - now)
        return wait


class _Stalled(Exception):
    """The socket is open and carries nothing."""


class _AckData(msgspec.Struct):
    method: str
    subscription: dict[str, Any]


class _Envelope(msgspec.Struct):
    channel: str
    data: msgspec.Raw = msgspec.Raw(b"null")


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_ack = msgspec.json.Decoder(_AckData).decode
_decode_text = msgspec.json.Decoder(str).decode


class VenueSockets:
    """All sockets of one recorder. Use from one event loop: `update`, then `run` until cancelled.

    stamp : arrival clock, called once per frame. on_frame(arrival_ns, frame) and on_notice(notice)
    are called in the order things happened; what they raise ends `run`.
    count(name) : told of each connect, reconnect, connect_failure, stall and `rejects.<reason>`.
    dial : opens a connection, as `websockets.connect` does.
    """

    def __init__(
        self,
        config: SocketConfig,
        clock: Clock,
        *,
        stamp: Callable[[], int],
        on_frame: Callable[[int, bytes], None],
        on_notice: Callable[[Notice], None],
        count: Callable[[str], None] = lambda name: None,
        dial: Dial = DIAL,
    ) -> None:
        parse_uri(config.url)  # a wrong address is an error now, not a retry for ever
        self.config = config
        self.clock = clock
        self.stamp = stamp
        self.on_frame = on_frame
        self.on_notice = on_notice
        self.count = count
        self.dial = dial
        self.context_ns: int | None = None  # arrival of the newest context frame
        self.suspects: dict[str, int] = {}  # coin -> sockets it killed alone; <= listed coins
        per_s = config.subscribes_per_s
        self.pace_send = Pacer(1, 0.0, 1.0 / per_s, clock)
        self.pace_connect = Pacer(config.connects_per_min, 60.0, 0.0, clock)
        self._sockets: list[_Socket] = []  # at most `sockets_max`
        self._fresh: asyncio.Queue[_Socket] = asyncio.Queue()
        self._unknown: set[str] = set()  # already reported; at most what was ever wanted
        self._quarantine: dict[str, float] = {}  # coin -> until; at most one entry per listed coin

    @property
    def live(self) -> bool:
        """Whether there is a socket and every subscription is confirmed on an open one."""
        return bool(self._sockets) and all(socket.live for socket in self._sockets)

    @property
    def quarantined(self) -> frozenset[str]:
        """Coins left out because they kept killing their socket."""
        now = self.clock.monotonic_s()
        return frozenset(coin for coin, until in self._quarantine.items() if until > now)

    def update(self, wanted: Iterable[Subscription], known: frozenset[str]) -> None:
        """Make `wanted` the set that is subscribed; coins not in `known` are never sent.

        What is already subscribed stays on its socket. Raises `ValueError` above the limits.
        """
        wanted = list(dict.fromkeys(wanted))
        self._drop_unknown(wanted, known)
        barred = self.quarantined
        allowed = [
            s for s in wanted if s.coin is None or (s.coin in known and s.coin not in barred)
        ]
        room = min(SUBSCRIPTIONS_MAX, self.config.sockets_max * self.config.per_socket)
        if len(allowed) > room:
            raise ValueError(f"expected at most {room} subscriptions, found {len(allowed)}")
        keep = set(allowed)
        for socket in self._sockets:
            socket.remove([s for s in socket.wanted if s not in keep])
        held = {s for socket in self._sockets for s in socket.wanted}
        self._assign([s for s in allowed if s not in held])

    async def run(self) -> None:
        """Keep the sockets running until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task((await self._fresh.get()).run())

    def quarantine(self, coin: str) -> None:
        """Leave a coin out for a while, on every socket."""
        self._quarantine[coin] = self.clock.monotonic_s() + self.config.quarantine_s
        for socket in self._sockets:
            socket.remove([s for s in socket.wanted if s.coin == coin])
        self.count(f"rejects.{QUARANTINED}")
        self.on_notice(Dropped(QUARANTINED, coin))

    def _drop_unknown(self, wanted: list[Subscription], known: frozenset[str]) -> None:
        coins = {s.coin for s in wanted if s.coin is not None and s.coin not in known}
        for coin in sorted(coins - self._unknown):
            self._unknown.add(coin)
            self.count(f"rejects.{UNKNOWN_COIN}")
            self.on_notice(Dropped(UNKNOWN_COIN, coin))

    def _assign(self, fresh: list[Subscription]) -> None:
        """Fill the sockets in order, a new one when all are full."""
        for socket in self._sockets:
            room = self.config.per_socket - len(socket.wanted)
            socket.add(fresh[:room])
            fresh = fresh[room:]
        while fresh:
            socket = _Socket(len(self._sockets), self)
            self._sockets.append(socket)
            socket.add(fresh[: self.config.per_socket])
            fresh = fresh[self.config.per_socket :]
            self._fresh.put_nowait(socket)


class _Socket:
    """One connection after the other, for one set of subscriptions."""

    def __init__(self, number: int, pool: VenueSockets) -> None:
        self.wanted: dict[Subscription, None] = {}
        self.live = False
        self._number = number
        self._pool = pool
        self._config = pool.config
        self._failures = 0
        self._silences = 0
        self._last_ns = pool.stamp()
        self._connected_before = False
        self._changed = asyncio.Event()
        self._session: _Session | None = None

    def add(self, subscriptions: Iterable[Subscription]) -> None:
        """Subscribe these as well."""
        self.wanted.update(dict.fromkeys(subscriptions))
        self._touch()

    def remove(self, subscriptions: Iterable[Subscription]) -> None:
        """Give these up."""
        for subscription in subscriptions:
            self.wanted.pop(subscription, None)
        self._touch()

    def _touch(self) -> None:
        self._changed.set()
        self.check_live()

    def check_live(self) -> None:
        """Announce the moment when the last missing confirmation is in."""
        complete = self._session is not None and self.wanted.keys() <= self._session.acked
        was, self.live = self.live, complete
        if complete and not was:
            self._pool.on_notice(Live(self._number))

    async def run(self) -> None:
        """Connect again and again; returns only by cancellation."""
        while True:
            await self._pool.pace_connect()
            stable = await self._once()
            self._failures = 1 if stable else self._failures + 1
            # Also after an accepted connection: a venue that accepts and closes is not hammered.
            await asyncio.sleep(
                backoff_s(
                    self._pool.clock,
                    self._failures,
                    self._config.backoff_s,
                    self._config.backoff_s_max,
                )
            )

    async def _once(self) -> bool:
        """Serve one connection from opening to loss; tell whether it worked for a while."""
        config = self._config
        try:
            connection = await self._pool.dial(
                config.url,
                compression=None,  # a third of the processor time
                max_size=FRAME_BYTES_MAX,
                max_queue=(512, 128),
                ping_interval=None,  # the venue's heartbeat is a JSON message
                open_timeout=config.open_timeout_s,
                close_timeout=config.close_timeout_s,
                proxy=None,
            )
        except (OSError, WebSocketException, TimeoutError) as error:
            self._pool.count("connect_failures")
            self._report("disconnect", f"connect: {type(error).__name__} {error}")
            return False
        self._pool.count("reconnects" if self._connected_before else "connects")
        self._connected_before = True
        try:
            return await self._attend(connection)
        except asyncio.CancelledError:
            await connection.close()
            raise
        finally:
            connection.transport.abort()
            await connection.wait_closed()

    async def _attend(self, connection: ClientConnection) -> bool:
        began = self._pool.clock.monotonic_s()
        session = _Session(connection, self, self._pool)
        self._session = session
        try:
            await session.run()
        except ConnectionClosed as closed:
            self._ended("disconnect", _reason_of(closed))
            self._blame(session, closed)
        except _Stalled as stall:
            self._pool.count("stalls")
            self._ended("stall", str(stall))
        finally:
            self._session = None
            self.live = False
        lived_s = self._pool.clock.monotonic_s() - began
        if not session.silent:
            self._silences = 0
        elif lived_s >= 2.0 * self._config.silence_s * self.patience:
            self._silences = 1
        else:
            self._silences += 1
        return bool(session.acked) and lived_s >= self._config.stable_s

    def _ended(self, cause: Cause, problem: str) -> None:
        self._session = None
        self.live = False
        self._report(cause, problem)

    def _report(self, cause: Cause, problem: str) -> None:
        self._pool.on_notice(Lost(self._number, cause, self._last_ns, problem))

    def received(self, arrival_ns: int) -> None:
        """Note that everything up to this instant has arrived."""
        self._last_ns = arrival_ns

    @property
    def patience(self) -> float:
        """By what the limits on silence are multiplied: more when reconnecting did not help."""
        return 2.0 ** min(self._silences, 5)

    # --- coins that kill the socket ---------------------------------------------------------

    def suspicious(self, subscription: Subscription) -> bool:
        """Tell whether this one must be subscribed alone."""
        return subscription.coin in self._pool.suspects

    def acquit(self, coin: str | None) -> None:
        """A confirmation came: the venue knows the coin."""
        if coin is not None:
            self._pool.suspects.pop(coin, None)

    def _blame(self, session: _Session, closed: ConnectionClosed) -> None:
        """Draw conclusions from a death without close frame while confirmations were missing.

        Whoever was unconfirmed becomes a suspect and is subscribed alone, after a pong, the next
        time. Only a death in that position counts against a coin, so a network that fails does
        not condemn what happened to be in flight.
        """
        if closed.rcvd is not None or closed.sent is not None:
            return
        if (alone := session.on_trial) is not None:
            deaths = self._pool.suspects.get(alone, 0) + 1
            self._pool.suspects[alone] = deaths
            if deaths >= self._config.quarantine_after:
                self._pool.quarantine(alone)
            return
        for subscription in session.pending:
            if subscription.coin is not None:
                self._pool.suspects.setdefault(subscription.coin, 0)

    async def changed(self) -> None:
        """Wait until `wanted` is touched."""
        await self._changed.wait()
        self._changed.clear()


def _reason_of(closed: ConnectionClosed) -> str:
    if closed.rcvd is None and closed.sent is None:
        return "closed without a close frame"
    return " ".join(str(closed).split())


class _Session:
    """One open connection: reader, subscriber, pinger and watcher, until one of them ends it."""

    def __init__(self, connection: ClientConnection, owner: _Socket, pool: VenueSockets) -> None:
        self.acked: set[Subscription] = set()
        self.pending: dict[Subscription, int] = {}  # sent and unconfirmed -> times sent
        self.on_trial: str | None = None
        self.silent = False
        self._connection = connection
        self._owner = owner
        self._pool = pool
        self._config = pool.config
        self._progress = asyncio.Event()
        self._pong = asyncio.Event()
        self._data_at = pool.clock.monotonic_s()
        self._pulses = {
            b'{"channel":"bbo","data":{"coin":"%b"' % coin.encode(): 0.0
            for coin in self._config.pulse_coins
        }

    async def run(self) -> None:
        """Serve the connection. Raises `ConnectionClosed` or `_Stalled`; a bug raises itself."""
        jobs = [self._read(), self._subscribe(), self._keep_alive(), self._watch()]
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        # A bug or a full disk must not hide behind a connection that closed at the same time.
        errors = [error for error in outcomes if isinstance(error, Exception)]
        errors.sort(key=lambda error: isinstance(error, ConnectionClosed | _Stalled))
        assert done
        assert errors
        raise errors[0]

    # --- receiving --------------------------------------------------------------------------

    async def _read(self) -> None:
        receive, stamp = self._connection.recv, self._pool.stamp
        try:
            while True:
                frame = await receive(decode=False)
                arrival_ns = stamp()
                self._pool.on_frame(arrival_ns, frame)
                self._owner.received(arrival_ns)
                if frame.startswith(_DATA):
                    self._note_data(arrival_ns, frame)
                else:
                    self._take_other(arrival_ns, frame)
        except ConnectionClosed as closed:
            if closed.sent is not None and closed.sent.code == CloseCode.MESSAGE_TOO_BIG:
                self._pool.count(f"rejects.{FRAME_TOO_LARGE}")
            raise

    def _note_data(self, arrival_ns: int, frame: bytes) -> None:
        now = self._pool.clock.monotonic_s()
        self._data_at = now
        if frame.startswith(_CONTEXT):
            self._pool.context_ns = arrival_ns
        for prefix in self._pulses:
            if frame.startswith(prefix):
                self._pulses[prefix] = now

    def _take_other(self, arrival_ns: int, frame: bytes) -> None:
        """Handle ack, pong and error; what else there is is the consumer's business."""
        try:
            envelope = _decode_envelope(frame)
            if envelope.channel == "pong":
                self._pong.set()
            elif envelope.channel == "subscriptionResponse":
                self._take_ack(_decode_ack(envelope.data))
            elif envelope.channel == "error":
                self._take_error(_decode_text(envelope.data))
            else:
                self._note_data(arrival_ns, frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._pool.count(f"rejects.{NOT_JSON}")

    def _take_ack(self, ack: _AckData) -> None:
        if ack.method == "subscribe":
            self._confirm(next((s for s in self.pending if s.matches(ack.subscription)), None))

    def _confirm(self, subscription: Subscription | None) -> None:
        if subscription is None:
            return
        del self.pending[subscription]
        self.acked.add(subscription)
        self._owner.acquit(subscription.coin)
        self._progress.set()
        self._owner.check_live()

    def _take_error(self, text: str) -> None:
        """The venue echoes what it did not like: our message, or its form of the subscription."""
        self._pool.count(f"rejects.{ERROR_FRAME}")
        complaint, _, echo = text.partition(": ")
        try:
            told = orjson.loads(echo)
        except orjson.JSONDecodeError:
            return  # no echo (a limit was hit): the missing ack is noticed by time
        told = told.get("subscription", told) if isinstance(told, dict) else {}
        found = next((s for s in self.pending if s.matches(told)), None)
        if complaint == "Already subscribed":
            self._confirm(found)
        elif found is not None:
            self._give_up(found)

    def _give_up(self, subscription: Subscription) -> None:
        del self.pending[subscription]
        self._pool.count(f"rejects.{REFUSED}")
        self._progress.set()
        self._owner.remove([subscription])
        self._pool.on_notice(Dropped(REFUSED, subscription.coin, subscription.type))

    # --- sending ----------------------------------------------------------------------------

    async def _subscribe(self) -> None:
        """Bring the venue in line with what is wanted, suspects last and one by one."""
        while True:
            await self._unsubscribe_extra()
            missing = [s for s in self._owner.wanted if s not in self.acked]
            for subscription in [s for s in missing if not self._owner.suspicious(s)]:
                await self._send_subscribe(subscription)
            await self._settle()
            for subscription in [s for s in missing if self._owner.suspicious(s)]:
                await self._try_alone(subscription)
            if self._owner.wanted.keys() == self.acked:
                await self._owner.changed()

    async def _unsubscribe_extra(self) -> None:
        for subscription in [s for s in self.acked if s not in self._owner.wanted]:
            self.acked.discard(subscription)
            await self._send("unsubscribe", subscription)

    async def _send_subscribe(self, subscription: Subscription) -> None:
        if subscription in self._owner.wanted:
            self.pending[subscription] = self.pending.get(subscription, 0) + 1
            await self._send("subscribe", subscription)

    async def _send(self, method: str, subscription: Subscription) -> None:
        await self._pool.pace_send()
        message = {"method": method, "subscription": subscription.message()}
        await self._send_text(orjson.dumps(message).decode())

    async def _send_text(self, text: str) -> None:
        """Send; on a connection that is gone wait until the reader has delivered what it holds."""
        try:
            await self._connection.send(text)
        except ConnectionClosed:
            await _for_ever()

    async def _settle(self) -> None:
        """Wait for the confirmations of what was sent; what stays unanswered is sent again."""
        deadline = self._pool.clock.monotonic_s() + self._config.ack_timeout_s
        while self.pending:
            left = deadline - self._pool.clock.monotonic_s()
            if left > 0.0:
                await _within(left, self._progress)
                self._progress.clear()
                continue
            for subscription, tries in list(self.pending.items()):
                if subscription not in self._owner.wanted:
                    del self.pending[subscription]
                elif tries >= self._config.ack_tries:
                    self._give_up(subscription)
                else:
                    await self._send_subscribe(subscription)
            deadline = self._pool.clock.monotonic_s() + self._config.ack_timeout_s

    async def _try_alone(self, subscription: Subscription) -> None:
        """Subscribe one suspect on a connection that has just answered a ping."""
        self._pong.clear()
        await self._send_text(_PING)
        await self._pong.wait()
        self.on_trial = subscription.coin
        await self._send_subscribe(subscription)
        await self._settle()
        self.on_trial = None

    # --- keeping alive ----------------------------------------------------------------------

    async def _keep_alive(self) -> None:
        config = self._config
        while True:
            await asyncio.sleep(config.ping_s)
            self._pong.clear()
            await self._send_text(_PING)
            if not await _within(config.pong_timeout_s, self._pong):
                raise _Stalled(f"no pong within {config.pong_timeout_s:g} s")

    async def _watch(self) -> None:
        """Notice a socket that answers pings and carries nothing."""
        silence_s = self._config.silence_s * self._owner.patience
        pulse_s = self._config.pulse_s * self._owner.patience
        while True:
            await asyncio.sleep(min(silence_s, pulse_s) / 4.0)
            now = self._pool.clock.monotonic_s()
            # Only what was subscribed can be missed, only a pulse that was felt can stop.
            mute = bool(self.acked) and now - self._data_at > silence_s
            faint = any(at and now - at > pulse_s for at in self._pulses.values())
            if mute or faint:
                self.silent = True
                what, limit = ("data", silence_s) if mute else ("pulse", pulse_s)
                raise _Stalled(f"no {what} for {limit:g} s")


async def _for_ever() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("a future nobody holds was resolved")


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for an event; tell whether it came in time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
