"""The venue's `POST /info`: raw answers under a weight budget, and discovery of assets.

Rules of this file: an answer counts only with status 200 and a JSON body; 429, 5xx, a broken body
and transport errors are tried again after a pause (`Retry-After` wins), everything else is final;
a caller sees one exception type with a message of one line. Venue reference 5.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
import orjson

from dataflows.connectors.clock import Clock, backoff_s

# Weights of the venue's budget per minute and address; a request not listed costs 20.
_WEIGHTS = {"l2Book": 2, "allMids": 2, "exchangeStatus": 2, "userRole": 60}
_WEIGHT_DEFAULT = 20
_ITEMS_PER_WEIGHT = {"candleSnapshot": 60, "recentTrades": 20, "fundingHistory": 20}
_WINDOW_S = 60.0
RETRY_AFTER_S_MAX = 300.0  # a longer demand is cut; the next answer repeats it
_EXCERPT_CHARS = 80


class VenueError(Exception):
    """A request that got no usable answer; the message is one line.

    status : HTTP status of the last answer, None when there was none. retry_after_s : the pause
    the venue demanded with it, 0 if none.
    """

    def __init__(
        self, message: str, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status
        self.retry_after_s = retry_after_s or 0.0


@dataclass(frozen=True, slots=True)
class RestConfig:
    """Where and how patiently to ask.

    url : base of the venue's API, without `/info`. weight_per_min : our share of the venue's 1200.
    attempts : tries per request. Times in seconds.
    """

    url: str = "https://api.hyperliquid.xyz"
    timeout_s: float = 10.0
    attempts: int = 4
    backoff_s: float = 0.5
    backoff_s_max: float = 30.0
    weight_per_min: int = 1000


class WeightBudget:
    """Counts weight over a sliding minute; tells how long to wait before spending more."""

    def __init__(self, weight_per_min: int, clock: Clock) -> None:
        self._limit = weight_per_min
        self._clock = clock
        self._spent: deque[tuple[float, int]] = deque()  # (when, weight); at most one minute long
        self._total = 0

    def wait_s(self, weight: int) -> float:
        """Return seconds until `weight` fits, 0 when it fits now or nothing is left to expire."""
        now = self._clock.monotonic_s()
        self._forget(now)
        excess = self._total + weight - self._limit
        for when, spent in self._spent:
            if excess <= 0:
                break
            excess -= spent
            if excess <= 0:
                return max(0.0, when + _WINDOW_S - now)
        return max(0.0, self._spent[-1][0] + _WINDOW_S - now) if excess > 0 and self._spent else 0.0

    def spend(self, weight: int) -> None:
        """Book a request that is being sent, or what its answer turned out to cost on top."""
        if weight > 0:
            self._spent.append((self._clock.monotonic_s(), weight))
            self._total += weight

    def _forget(self, now: float) -> None:
        while self._spent and self._spent[0][0] <= now - _WINDOW_S:
            self._total -= self._spent.popleft()[1]


# --- discovery -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listing:
    """An entry of `meta.universe`. uid : its index. day_notional : 24 h volume, USD; 0 if none."""

    uid: int
    coin: str
    delisted: bool
    day_notional: float


@dataclass(frozen=True, slots=True)
class Discovery:
    """What the venue lists, in the order of its ids.

    answer : the `metaAndAssetCtxs` answer as received, None when only `meta` was asked.
    """

    listings: tuple[Listing, ...]
    answer: bytes | None = field(default=None, repr=False)

    @property
    def known(self) -> frozenset[str]:
        """Names that may be subscribed without losing the socket, delisted ones included."""
        return frozenset(listing.coin for listing in self.listings)

    def ranked(self) -> tuple[Listing, ...]:
        """Return the live listings, most traded first; ties by id."""
        live = (listing for listing in self.listings if not listing.delisted)
        return tuple(sorted(live, key=lambda listing: (-listing.day_notional, listing.uid)))


class _WireListing(msgspec.Struct):
    name: str
    isDelisted: bool = False


class _WireMeta(msgspec.Struct):
    universe: list[_WireListing]


class _WireVolume(msgspec.Struct):
    dayNtlVlm: Any = None


_decode_meta = msgspec.json.Decoder(_WireMeta).decode
_decode_with_ctxs = msgspec.json.Decoder(tuple[_WireMeta, list[_WireVolume | None]]).decode


def parse_meta(answer: bytes) -> Discovery:
    """Return the listings of a `meta` answer; volumes are 0. Raises `VenueError`."""
    try:
        universe = _decode_meta(answer).universe
    except msgspec.DecodeError as error:
        raise VenueError(f"meta: expected a universe, found {error}") from None
    return Discovery(tuple(Listing(i, x.name, x.isDelisted, 0.0) for i, x in enumerate(universe)))


def parse_meta_and_ctxs(answer: bytes) -> Discovery:
    """Return the listings of a `metaAndAssetCtxs` answer. Raises `VenueError`."""
    try:
        meta, ctxs = _decode_with_ctxs(answer)
    except msgspec.DecodeError as error:
        raise VenueError(f"metaAndAssetCtxs: expected [meta, ctxs], found {error}") from None
    # Contexts are aligned by index; a row may be null and the list may be shorter.
    volumes = [_volume(row) for row in ctxs]
    volumes += [0.0] * (len(meta.universe) - len(volumes))
    listings = (Listing(i, x.name, x.isDelisted, volumes[i]) for i, x in enumerate(meta.universe))
    return Discovery(tuple(listings), answer)


def _volume(row: _WireVolume | None) -> float:
    """Return a rank only: a row that cannot be read ranks last and is still listed."""
    try:
        volume = float(row.dayNtlVlm) if row is not None else 0.0
    except (TypeError, ValueError):
        return 0.0
    return volume if math.isfinite(volume) else 0.0


# --- one request with its retries ------------------------------------------------------------


class _Call:
    """Decides about one request; the clients below only send and sleep."""

    def __init__(
        self,
        kind: str,
        body: dict[str, Any],
        config: RestConfig,
        budget: WeightBudget,
        clock: Clock,
    ) -> None:
        self.content = orjson.dumps({"type": kind, **body})
        self._kind = kind
        self._config = config
        self._budget = budget
        self._clock = clock
        self._weight = _WEIGHTS.get(kind, _WEIGHT_DEFAULT)
        self._failures = 0
        self._pause_s = 0.0

    def wait_s(self) -> float:
        """Return how long to sleep before the next `ready` check; 0 means send now."""
        pause, self._pause_s = self._pause_s, 0.0
        wait = max(pause, self._budget.wait_s(self._weight))
        if wait == 0.0:
            self._budget.spend(self._weight)
        return wait

    def failed(self, error: httpx.HTTPError) -> None:
        """Take note of a transport error. Raises `VenueError` after the last attempt."""
        self._retry(f"{type(error).__name__} {error}", None, None)

    def judge(self, response: httpx.Response) -> bytes | None:
        """Return the answer, or None to try again. Raises `VenueError` when that is pointless."""
        status = response.status_code
        if status == 200:
            return self._accept(response.content)
        problem = f"HTTP {status} {_excerpt(response.content)}"
        if status != 429 and status < 500:
            raise VenueError(f"{self._kind}: {problem}", status)
        self._retry(problem, status, self._retry_after_s(response))
        return None

    def _accept(self, content: bytes) -> bytes | None:
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            self._retry(f"expected JSON, found {_excerpt(content)}", 200, None)
            return None
        if isinstance(answer, list) and self._kind in _ITEMS_PER_WEIGHT:
            self._budget.spend(len(answer) // _ITEMS_PER_WEIGHT[self._kind])
        return content

    def _retry(self, problem: str, status: int | None, retry_after_s: float | None) -> None:
        self._failures += 1
        config = self._config
        if self._failures >= config.attempts:
            tries = f"{self._failures} attempts" if self._failures > 1 else "1 attempt"
            raise VenueError(f"{self._kind}: {problem} ({tries})", status, retry_after_s)
        pause = backoff_s(self._clock, self._failures, config.backoff_s, config.backoff_s_max)
        self._pause_s = pause if retry_after_s is None else retry_after_s

    def _retry_after_s(self, response: httpx.Response) -> float | None:
        """Return the demanded pause: seconds or an HTTP date; None if absent or unreadable."""
        text = response.headers.get("retry-after", "").strip()
        try:
            seconds = float(text)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - self._clock.now_ns() / 1e9
            except (ValueError, TypeError):
                return None
        return min(max(seconds, 0.0), RETRY_AFTER_S_MAX) if math.isfinite(seconds) else None


def _excerpt(content: bytes) -> str:
    text = " ".join(content[: 4 * _EXCERPT_CHARS].decode("utf-8", "replace").split())
    return repr(text[:_EXCERPT_CHARS])


# --- clients ---------------------------------------------------------------------------------


class VenueRest:
    """Blocking client. Not thread-safe."""

    def __init__(self, config: RestConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._budget = WeightBudget(config.weight_per_min, clock)
        # The environment's proxy settings are not consulted: the socket does not use them either.
        self._http = httpx.Client(timeout=config.timeout_s, trust_env=False)

    def fetch(self, kind: str, **body: Any) -> bytes:
        """Return the raw JSON answer to `{"type": kind, **body}`. Raises `VenueError`."""
        call = _Call(kind, body, self._config, self._budget, self._clock)
        while True:
            while (wait := call.wait_s()) > 0.0:
                self._clock.sleep(wait)
            try:
                response = self._http.post(f"{self._config.url}/info", **_post(call))
            except httpx.HTTPError as error:
                call.failed(error)
                continue
            if (answer := call.judge(response)) is not None:
                return answer

    def meta(self) -> Discovery:
        """Return what is listed, without volumes (weight 20). Raises `VenueError`."""
        return parse_meta(self.fetch("meta"))

    def discover(self) -> Discovery:
        """Return what is listed, with volumes and contexts (weight 20). Raises `VenueError`."""
        return parse_meta_and_ctxs(self.fetch("metaAndAssetCtxs"))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncVenueRest:
    """The same for an event loop; requests of one client may overlap and share its budget."""

    def __init__(self, config: RestConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._budget = WeightBudget(config.weight_per_min, clock)
        self._http = httpx.AsyncClient(timeout=config.timeout_s, trust_env=False)

    async def fetch(self, kind: str, **body: Any) -> bytes:
        """Return the raw JSON answer to `{"type": kind, **body}`. Raises `VenueError`."""
        call = _Call(kind, body, self._config, self._budget, self._clock)
        while True:
            while (wait := call.wait_s()) > 0.0:
                await asyncio.sleep(wait)
            try:
                response = await self._http.post(f"{self._config.url}/info", **_post(call))
            except httpx.HTTPError as error:
                call.failed(error)
                continue
            if (answer := call.judge(response)) is not None:
                return answer

    async def meta(self) -> Discovery:
        """Return what is listed, without volumes (weight 20). Raises `VenueError`."""
        return parse_meta(await self.fetch("meta"))

    async def discover(self) -> Discovery:
        """Return what is listed, with volumes and contexts (weight 20). Raises `VenueError`."""
        return parse_meta_and_ctxs(await self.fetch("metaAndAssetCtxs"))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def _post(call: _Call) -> dict[str, Any]:
    return {"content": call.content, "headers": {"Content-Type": "application/json"}}
