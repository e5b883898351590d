"""Every column of the feature rows again, from the text of a tick log, in the plainest way.

Nothing of the flow is used: the log is read whole into lists, each minute is computed by looking
through all of them, and only what is recursive by definition (baselines, the level of the volume
delta, the window of known trade ids) is kept from minute to minute. Constants come from the pack's
YAML. Build plan 4, 5, 8, 15; numerics 2-8; docs/ticklog.md.

    minutes_of(read_log(lines), pack)  raw columns of every asset and minute, with amendments
    rows_of(minutes, pack, detectors)  the rows of 1m, 15m and 1h, keyed (uid, tf, label, revision)
"""

from __future__ import annotations

import copy
import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MINUTES = {"1m": 1, "15m": 15, "1h": 60}
DOUBTED = 7 * DAY
CONFIRMED_WITHIN = 60_000
CLOSED_KEYS = 128
IMPLICIT_UID = 2_000_000_000
CONTROL = ("alpha.clock", "alpha.roster", "alpha.gap", "alpha.context", "alpha.config")
VENUE = (
    "trades",
    "bbo",
    "l2Book",
    "activeAssetCtx",
    "activeSpotAssetCtx",
    "allDexsAssetCtxs",
    "candle",
    "allMids",
    "subscriptionResponse",
    "pong",
    "error",
)
REASONS = {  # in the order in which they are reported
    "gap": "stale",
    "outage": "stale",
    "resync": "stale",
    "no_data": "stale",
    "minutes_missing": "stale",
    "book_stale": "stale",
    "clock_stale": "stale",
    "price_sanity": "stale",
    "quiet": "partial",
    "late": "partial",
    "book_one_sided": "partial",
    "book_missing": "partial",
    "oi_stale": "partial",
    "index_missing": "partial",
    "minutes_not_ok": "partial",
    "clock_late": "partial",
}
Columns = dict[str, Any]
Roster = dict[int, tuple[str, tuple[str, ...]]]  # uid -> (coin, feeds)


# --- numbers: numerics 5, 6, 11 --------------------------------------------------------------


def round12(x: float) -> float:
    """Twelve significant digits; no negative zero."""
    return float(format(x, ".12g")) + 0.0


def maybe12(x: float | None) -> float | None:
    """Round what is known."""
    return None if x is None else round12(x)


def series(h: float) -> float:
    """log((1+h)/(1-h)) by its series."""
    t = h * h
    p = 1 / 25
    for k in range(23, 1, -2):
        p = p * t + 1 / k
    return 2 * h + 2 * h * (t * p)


def ln(x: float) -> float:
    """Natural logarithm, the same bits everywhere."""
    f, e = math.frexp(x)
    if f < 0.7071067811865476:
        f, e = f * 2, e - 1
    r = series((f - 1) / (f + 1))
    return e * 0.6931471803691238 + (e * 1.9082149292705877e-10 + r)


def ln1p(x: float) -> float:
    """log(1 + x) for x >= 0."""
    return series(x / (2 + x)) if x < 0.25 else ln(1 + x)


def arsinh(x: float) -> float:
    """Inverse hyperbolic sine."""
    w = abs(x)
    y = ln1p(w + w * w / (1 + math.sqrt(1 + w * w)))
    return -y if x < 0 else y


def middle(values: list[float]) -> float:
    """Median; the mean of the middle two of an even count."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else 0.5 * (ordered[half - 1] + ordered[half])


def mean_of(values: list[float]) -> float | None:
    """Mean of what there is."""
    return math.fsum(values) / len(values) if values else None


def change(now: float | None, before: float | None) -> float | None:
    """Relative change."""
    if now is None or before is None or before <= 0 or now <= 0:
        return None
    return (now - before) / before


def log_path(values: list[float]) -> float | None:
    """Root of the sum of squared log changes, added up in time order."""
    if len(values) < 2:
        return None
    total = 0.0
    for before, now in pairwise(values):
        step = ln(now / before) if now != before else 0.0
        total += step * step
    return math.sqrt(total)


def sign(x: float | None) -> float:
    """-1, 0 or 1; 0 for NULL."""
    return 0.0 if not x else math.copysign(1.0, x)


def iso(ms: int) -> str:
    """Time in UTC, with milliseconds where there are any."""
    text = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return text + (f".{ms % 1000:03d}Z" if ms % 1000 else "Z")


def minute_of(ms: int) -> int:
    """Label of the minute that holds an instant."""
    return ms // MINUTE * MINUTE + MINUTE


def graded(reasons: list[str]) -> tuple[str, list[str]]:
    """Verdict and ordered reasons."""
    ordered = [reason for reason in REASONS if reason in reasons]
    assert len(ordered) == len(set(reasons)), reasons
    verdicts = [REASONS[reason] for reason in ordered]
    return next((v for v in ("stale", "partial") if v in verdicts), "ok"), ordered


# --- the log ---------------------------------------------------------------------------------


class Malformed(Exception):
    """A frame or an entry that is not of the documented shape."""


def number(value: Any) -> float:
    """Read a decimal text or a number."""
    if value is None or isinstance(value, bool):
        raise Malformed
    try:
        return float(value)
    except (TypeError, ValueError):
        raise Malformed from None


def maybe_number(value: Any) -> float | None:
    """Read a number that may be null."""
    return None if value is None else number(value)


@dataclass(frozen=True)
class Print:
    """A trade; `index` is that of its line."""

    index: int
    time: int
    px: float
    sz: float
    buy: bool
    tid: int


@dataclass(frozen=True)
class Top:
    """Best bid and ask with sizes."""

    index: int
    time: int
    bid: float | None
    bid_sz: float | None
    ask: float | None
    ask_sz: float | None

    @property
    def crossed(self) -> bool:
        """The bid is above the ask."""
        return self.bid is not None and self.ask is not None and self.bid > self.ask

    @property
    def mid(self) -> float | None:
        """Middle of both sides."""
        if self.bid is None or self.ask is None:
            return None
        return (self.bid + self.ask) / 2

    @property
    def micro(self) -> float | None:
        """Middle weighted by the opposite sizes."""
        if self.bid is None or self.ask is None or not (self.bid_sz or 0) + (self.ask_sz or 0):
            return None
        assert self.bid_sz is not None
        assert self.ask_sz is not None
        both = self.bid_sz + self.ask_sz
        return (self.ask * self.bid_sz + self.bid * self.ask_sz) / both


@dataclass(frozen=True)
class Snapshot:
    """A book: (px, sz) of each side, best first."""

    index: int
    time: int
    bids: list[tuple[float, float]]
    asks: list[tuple[float, float]]

    @property
    def top(self) -> Top:
        """Its best levels."""
        bid = self.bids[0] if self.bids else (None, None)
        ask = self.asks[0] if self.asks else (None, None)
        return Top(self.index, self.time, *bid, *ask)

    @property
    def depth(self) -> tuple[float, float] | None:
        """Quote value of the best five levels of each side."""
        if not self.bids or not self.asks:
            return None
        return tuple(  # type: ignore[return-value]
            math.fsum([px * sz for px, sz in side[:5]]) for side in (self.bids, self.asks)
        )


@dataclass(frozen=True)
class State:
    """A perp context, dated by its arrival."""

    index: int
    arrival: int
    oi: float | None
    mark: float | None
    oracle: float | None
    funding: float | None


@dataclass
class Heard:
    """All that was ever said about one asset, in the order of arrival."""

    prints: list[Print] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    rejects: list[int] = field(default_factory=list)


@dataclass
class Closing:
    """A minute closes before the content of line `index` is looked at."""

    label: int
    index: int
    clock: int


@dataclass
class Log:
    """A tick log as lists."""

    clocks: list[int]
    seals: dict[int, Closing]
    finals: dict[int, Closing]
    rosters: dict[int, Roster]
    final_rosters: dict[int, Roster]
    heard: dict[int, Heard]
    alive_at: list[int]  # arrivals of venue frames
    delays: list[tuple[int, int]]  # (arrival, delay) of everything that carries a time
    hole_events: list[tuple[tuple[int, int], dict[str, Any]]]


def believed(lines: list[bytes]) -> tuple[list[int], list[str]]:
    """Return the arrival clock (ms) and the frame of every line that counts."""
    clocks: list[int] = []
    frames: list[str] = []
    clock_ns, doubted = 0, None
    for line in lines:
        stamp, _, frame = line.rstrip(b"\n").partition(b" ")
        if not (stamp.isdigit() and len(stamp) <= 19 and frame):
            continue
        ns = int(stamp)
        if clock_ns and ns // 10**6 - clock_ns // 10**6 > DOUBTED:
            if doubted is None or not 0 <= ns - doubted <= CONFIRMED_WITHIN * 10**6:
                doubted = ns
                continue
            raise NotImplementedError("a confirmed jump of more than a week")
        doubted = None
        clock_ns = max(clock_ns, ns)
        clocks.append(clock_ns // 10**6)
        frames.append(frame.decode("utf-8", "replace"))
    return clocks, frames


def parsed(text: str) -> dict[str, Any] | None:
    """Return a frame of a known channel."""
    try:
        frame = json.loads(text)
    except ValueError:
        return None
    if not isinstance(frame, dict) or frame.get("channel") not in VENUE + CONTROL:
        return None
    return frame


def read_log(
    lines: list[bytes], *, lateness: int = 1500, grace: int = 3000, jump: int = 5000
) -> Log:
    """Read a whole log."""
    clocks, frames = believed(lines)
    messages = [parsed(text) for text in frames]
    seals, finals = closings(clocks, lateness), closings(clocks, grace)
    log = Log(clocks, seals, finals, {}, {}, {}, [], [], [])
    log.hole_events.append(((0, 0), {"start_ms": 0, "end_ms": clocks[0], "cause": "start"}))
    for i in range(1, len(clocks)):
        if clocks[i] - clocks[i - 1] > jump:
            hole = {"start_ms": clocks[i - 1], "end_ms": clocks[i], "cause": "silence"}
            log.hole_events.append(((i, 0), hole))
    for i, message in enumerate(messages):
        if message is not None and message["channel"] == "alpha.gap":
            log.hole_events.append(((i, 2), {"end_ms": None, **message["data"]}))
    log.hole_events.sort(key=lambda event: event[0])
    names = Names(messages, seals)
    log.rosters = {label: names.roster(label) for label in seals}
    log.final_rosters = {label: names.roster(label, at.index) for label, at in finals.items()}
    for i, message in enumerate(messages):
        if message is not None:
            hear(log, names, i, message)
    return log


def closings(clocks: list[int], delay: int) -> dict[int, Closing]:
    """Return, for every minute, the first line whose stamp is past its close by `delay`."""
    found: dict[int, Closing] = {}
    label = minute_of(clocks[0])
    while (index := bisect_left(clocks, label + delay, lo=1)) < len(clocks):
        found[label] = Closing(label, index, clocks[index])
        label += MINUTE
    return found


class Names:
    """Which coins have which id, and when."""

    def __init__(self, messages: list[dict[str, Any] | None], seals: dict[int, Closing]) -> None:
        self.seals = seals
        self.given: list[dict[str, Any]] = []
        self.seen: dict[str, dict[str, int]] = {}  # coin -> channel -> index, without a roster
        for i, message in enumerate(messages):
            if message is not None and message["channel"] == "alpha.roster":
                self.given.append(self._roster(i, message["data"]))
        for i, message in enumerate(messages):
            for coin in coins_of(message) if message is not None else ():
                self.seen.setdefault(coin, {}).setdefault(message["channel"], i)  # type: ignore[index]

    def _roster(self, index: int, data: dict[str, Any]) -> dict[str, Any]:
        due = [t for t, seal in self.seals.items() if t >= data["from_ms"] and seal.index > index]
        assets = {a["uid"]: (a["coin"], tuple(a.get("channels", ()))) for a in data["assets"]}
        return {
            "index": index,
            "due": min(due, default=None),
            "assets": dict(sorted(assets.items())),
            "dexes": data.get("dexes", [""]),
        }

    def roster(self, label: int, index: int | None = None) -> Roster:
        """Return uid -> (coin, channels) of a minute, as known before a line."""
        if not self.given:
            index = self.seals[label].index if index is None else index
            return {
                IMPLICIT_UID + i: (coin, tuple(sorted(c for c, at in seen.items() if at < index)))
                for i, (coin, seen) in enumerate(self.seen.items())
                if min(seen.values()) < index
            }
        due = [r for r in self.given if r["due"] is not None and r["due"] <= label]
        due.sort(key=lambda r: (r["due"], r["index"]))
        return due[-1]["assets"] if due else {}

    def uid(self, coin: str, index: int) -> int | None:
        """Return the id of a coin for the reader of a line."""
        if not self.given:
            return IMPLICIT_UID + list(self.seen).index(coin)
        found = None
        for roster in self._known(index):
            for uid, (name, _) in roster["assets"].items():
                found = uid if name == coin else found
        return found

    def uids(self, index: int) -> list[int]:
        """Return every id that the reader of a line knows."""
        return [uid for roster in self._known(index) for uid in roster["assets"]]

    def _known(self, index: int) -> list[dict[str, Any]]:
        """The roster in force, then those that are announced."""
        ahead: list[dict[str, Any]] = []
        past: list[dict[str, Any]] = []
        for roster in self.given:
            if roster["index"] < index:
                due = roster["due"]
                in_force = due is not None and self.seals[due].index <= index
                (past if in_force else ahead).append(roster)
        past.sort(key=lambda r: (r["due"], r["index"]))
        return past[-1:] + ahead

    def base(self, dex: str, index: int) -> int | None:
        """Return the first id of a dex."""
        dexes = [r["dexes"] for r in self.given if r["index"] < index]
        if dex == "":
            return 0
        order = list(dexes[-1]) if dexes else [""]
        return 100_000 + 10_000 * order.index(dex) if dex in order else None


def hear(log: Log, names: Names, i: int, message: dict[str, Any]) -> None:
    """File what a line says."""
    channel: str = message["channel"]
    data: Any = message.get("data")
    try:
        if channel == "trades":
            hear_trades(log, names, i, data)
        elif channel in ("bbo", "l2Book"):
            hear_quote(log, names, i, channel, data)
        elif channel == "activeAssetCtx":
            context = context_of(data["ctx"])
            hear_context(log, names.uid(data["coin"], i), i, context)
        elif channel == "allDexsAssetCtxs":
            for dex, contexts in [(d, [context_of(c) for c in cs]) for d, cs in data["ctxs"]]:
                hear_contexts(log, names, i, dex, contexts)
        elif channel == "alpha.context":
            contexts = [context_of(c) for c in data["answer"][1]]
            hear_contexts(log, names, i, data.get("dex", ""), contexts)
    except (Malformed, KeyError, TypeError, ValueError):
        return
    if channel in VENUE:
        log.alive_at.append(log.clocks[i])


def asset_of(log: Log, uid: int) -> Heard:
    """Return what was heard of an asset so far."""
    return log.heard.setdefault(uid, Heard())


def good_level(px: float, sz: float) -> bool:
    """Price and size are possible."""
    return 0 < px < 1e12 and 0 < sz < 1e15


def good_time(time: int) -> bool:
    """The time is possible."""
    return 0 < time < 4_102_444_800_000


def trades_of(data: Any) -> list[tuple[str, int, float, float, str, int]]:
    """Read prints; a bad entry costs only itself."""
    entries = []
    for entry in data:
        try:
            time, tid = int(entry["time"]), int(entry["tid"])
            px, sz, side = number(entry["px"]), number(entry["sz"]), entry["side"]
            entries.append((entry["coin"], time, px, sz, side, tid))
        except (Malformed, KeyError, TypeError, ValueError):
            continue
    if data and not entries:
        raise Malformed
    return entries


def quote_of(channel: str, data: Any) -> tuple[str, int, list[Any], list[Any]]:
    """Read the coin, the time and both sides of a best bid and ask or of a book."""
    sides = data["bbo"] if channel == "bbo" else data["levels"]
    if channel == "bbo":
        sides = [[] if level is None else [level] for level in sides]
    bids, asks = [[(number(lv["px"]), number(lv["sz"])) for lv in side] for side in sides]
    return data["coin"], int(data["time"]), bids, asks


def coins_of(message: dict[str, Any]) -> list[str]:
    """Return the coins that a well-formed frame speaks of by name."""
    channel: str = message["channel"]
    data: Any = message.get("data")
    try:
        if channel == "trades":
            return [entry[0] for entry in trades_of(data)]
        if channel in ("bbo", "l2Book"):
            return [quote_of(channel, data)[0]]
        if channel == "activeAssetCtx":
            context_of(data["ctx"])
            return [data["coin"]]
    except (Malformed, KeyError, TypeError, ValueError):
        pass
    return []


def hear_trades(log: Log, names: Names, i: int, data: Any) -> None:
    """File prints."""
    newest = 0
    for coin, time, px, sz, side, tid in trades_of(data):
        uid = names.uid(coin, i)
        if uid is None:
            continue
        newest = max(newest, time)
        if good_level(px, sz) and good_time(time) and side in ("A", "B"):
            asset_of(log, uid).prints.append(Print(i, time, px, sz, side == "B", tid))
        else:
            asset_of(log, uid).rejects.append(i)
    hear_delay(log, i, newest)


def hear_quote(log: Log, names: Names, i: int, channel: str, data: Any) -> None:
    """File a best bid and ask, or a snapshot."""
    coin, time, bids, asks = quote_of(channel, data)
    uid = names.uid(coin, i)
    if uid is None:
        return
    hear_delay(log, i, time)
    asset = asset_of(log, uid)
    if not good_time(time) or not all(good_level(*lv) for lv in bids[:5] + asks[:5]):
        asset.rejects.append(i)
    elif channel == "bbo":
        asset.tops.append(Snapshot(i, time, bids, asks).top)
    else:
        asset.snapshots.append(Snapshot(i, time, bids, asks))


def hear_delay(log: Log, i: int, time: int) -> None:
    """Note how long a dated frame took."""
    if good_time(time):
        log.delays.append((log.clocks[i], log.clocks[i] - time))


def context_of(data: Any) -> tuple[float | None, ...] | None:
    """Read open interest, mark, oracle and funding."""
    if data is None:
        return None
    names = ("openInterest", "markPx", "oraclePx", "funding")
    return tuple(maybe_number(data.get(name)) for name in names)


def hear_context(log: Log, uid: int | None, i: int, context: Any) -> None:
    """File the state of a perp."""
    if uid is None:
        return
    oi, mark, oracle, funding = context
    oracle = oracle or None  # an index of zero is none (plan 8.4)
    bad_px = any(px is not None and not 0 < px < 1e12 for px in (mark, oracle))
    bad_oi = oi is not None and not 0 <= oi < 1e15
    if bad_px or bad_oi or not math.isfinite(funding or 0):
        asset_of(log, uid).rejects.append(i)
    else:
        asset_of(log, uid).states.append(State(i, log.clocks[i], oi, mark, oracle, funding))


def hear_contexts(log: Log, names: Names, i: int, dex: str, contexts: list[Any]) -> None:
    """File the states of a dex, by position."""
    base = names.base(dex, i)
    known = names.uids(i)
    for k, context in enumerate(contexts):
        if base is not None and context is not None and base + k in known:
            hear_context(log, base + k, i, context)


# --- the recording over a minute ---------------------------------------------------------------


def holes_before(log: Log, index: int) -> list[dict[str, Any]]:
    """Return every hole that is known when the minute closes at a line."""
    holes: list[dict[str, Any]] = []
    for at, event in log.hole_events:
        if at >= (index, 1):
            continue
        start, end, cause = event["start_ms"], event["end_ms"], event["cause"]
        waiting = [hole for hole in holes if hole["end_ms"] is None]
        same = [h for h in waiting if h["start_ms"] == start and h["cause"] == cause]
        if at[1] == 2 and same:
            same[0]["end_ms"] = end
            continue
        if at[1] == 2 and cause == "start":
            for hole in waiting:
                hole["end_ms"] = max(hole["start_ms"], start)
        holes.append({"start_ms": start, "end_ms": end, "cause": cause})
    return holes


def hole_reasons(log: Log, label: int, index: int) -> list[str]:
    """gap, outage, resync: what holes do to a minute."""
    reasons = []
    for hole in holes_before(log, index):
        start, end = hole["start_ms"], math.inf if hole["end_ms"] is None else hole["end_ms"]
        if start < label and end > label - MINUTE:
            reasons.append("gap")
            if start <= label - MINUTE and end >= label:
                reasons.append("outage")
            if end <= label:
                reasons.append("resync")
    return sorted(set(reasons))


def skew_of(log: Log, label: int) -> int | None:
    """Third-smallest delay of what arrived within a minute; fewer than three: the largest."""
    low, high = (bisect_left(log.delays, (at,)) for at in (label - MINUTE, label))
    delays = sorted(delay for _, delay in log.delays[low:high])
    return delays[:3][-1] if delays else None


# --- raw columns ---------------------------------------------------------------------------------


@dataclass
class Version:
    """Raw columns of a minute as of one of its closings."""

    columns: Columns
    extras: Columns = field(default_factory=dict)


@dataclass
class Minutes:
    """An asset's minutes: versions by label (sealed, amended), and when they were final."""

    symbol: str
    versions: dict[int, list[Version]] = field(default_factory=dict)
    finals: dict[int, int] = field(default_factory=dict)  # label -> clock


@dataclass
class Accounts:
    """What became of an asset's messages."""

    prints: dict[int, list[Print]] = field(default_factory=dict)
    drops: list[tuple[int, str]] = field(default_factory=list)  # (line, reason)
    tops: list[Top] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)


def minutes_of(log: Log, pack: dict[str, Any]) -> dict[int, Minutes]:
    """Return the raw columns of every asset and minute."""
    found: dict[int, Minutes] = {}
    skews = {label: skew_of(log, label) for label in log.seals}
    for uid in sorted({uid for roster in log.rosters.values() for uid in roster}):
        labels = [label for label, roster in log.rosters.items() if uid in roster]
        heard = log.heard.get(uid, Heard())
        accounts = account(log, heard, labels, pack)
        minutes = Minutes(log.rosters[labels[0]][uid][0])
        for label in labels:
            channels = log.rosters[label][uid][1]
            one = OneMinute(log, uid, heard, accounts, label, channels, pack, skews[label])
            minutes.versions[label] = one.versions(labels)
            if label in log.finals:
                minutes.finals[label] = log.finals[label].clock
        found[uid] = minutes
    return found


def account(log: Log, heard: Heard, labels: list[int], pack: dict[str, Any]) -> Accounts:
    """Tell prints from duplicates and from those that come too late, message by message."""
    result = Accounts(drops=[(i, "reject") for i in heard.rejects])
    ahead = pack["lattice"]["future_ms_max"]
    for top in heard.tops:
        if top.crossed:
            result.drops.append((top.index, "crossed"))
        elif top.time > log.clocks[top.index] + ahead:
            result.drops.append((top.index, "future"))
        else:
            result.tops.append(top)
    for snapshot in heard.snapshots:
        if snapshot.top.crossed:
            result.drops.append((snapshot.index, "crossed"))
        elif snapshot.time > log.clocks[snapshot.index] + ahead:
            result.drops.append((snapshot.index, "future"))
        else:
            result.snapshots.append(snapshot)
    events: list[tuple[int, int, int, Any]] = []
    for label in labels:
        events.append((log.seals[label].index, 0, label, "seal"))
        if label in log.finals:
            events.append((log.finals[label].index, 0, label + 1, "final"))
    events += [(p.index, 1, n, p) for n, p in enumerate(heard.prints)]
    keys: dict[int, set[tuple[int, int]]] = {}
    closed: list[tuple[int, int]] = []
    closed_label = 0
    for index, _, order, event in sorted(events, key=lambda e: e[:3]):
        if isinstance(event, Print):
            label, key = minute_of(event.time), (event.time, event.tid)
            if label <= closed_label:
                known = key in closed[-CLOSED_KEYS:]
                replayed = log.clocks[index] - label > MINUTE  # history after a subscription (D3)
                reason = "duplicate" if known else "history" if replayed else "late"
                result.drops.append((index, reason))
                closed.append(key)
            elif event.time > log.clocks[index] + ahead:
                result.drops.append((index, "future"))
            elif key in keys.setdefault(label, set()):
                result.drops.append((index, "duplicate"))
            else:
                keys[label].add(key)
                result.prints.setdefault(label, []).append(event)
            continue
        done = [t for t in sorted(result.prints) if closed_label < t < order]
        for t in done:
            if t < labels[0] or event == "seal":  # older than the asset: history, not flow (D3)
                result.drops += [(index - (event == "seal"), "history")] * len(result.prints[t])
            closed += [(p.time, p.tid) for p in result.prints[t]]
            closed_label = t
        if event == "seal":
            closed_label = max(closed_label, order - MINUTE)
        if event == "final":
            closed_label = max(closed_label, order - 1)
    result.tops.sort(key=lambda top: top.time)
    result.snapshots.sort(key=lambda snapshot: snapshot.time)
    return result


def held(records: list[Any], start: int, end: int, index: int) -> tuple[Any, list[Any]]:
    """Return the record in force before `start`, and those dated within [start, end).

    `records` are sorted by time; those that arrive at line `index` or later are not known yet.
    """
    inside = [r for r in dated(records, start, end) if r.index < index]
    return newest(records, start, index), inside


def newest(records: list[Any], end: int, index: int) -> Any:
    """Return the last record dated before `end` (of equal times the last that came)."""
    for k in range(bisect_left(records, end, key=time_of) - 1, -1, -1):
        if records[k].index < index:
            return records[k]
    return None


def dated(records: list[Any], start: int, end: int) -> list[Any]:
    """Return the records dated within [start, end)."""
    low, high = (bisect_left(records, at, key=time_of) for at in (start, end))
    return records[low:high]


def time_of(record: Any) -> int:
    """Venue time of a record."""
    return int(record.time)


@dataclass
class OneMinute:
    """Everything about one asset in one minute."""

    log: Log
    uid: int
    heard: Heard
    accounts: Accounts
    label: int
    channels: tuple[str, ...]
    pack: dict[str, Any]
    skew: int | None

    @property
    def start(self) -> int:
        """The minute is [start, label)."""
        return self.label - MINUTE

    @property
    def quoted(self) -> bool:
        """A top of book is subscribed."""
        return "bbo" in self.channels or "l2Book" in self.channels

    @property
    def tracked(self) -> bool:
        """Perp contexts are subscribed."""
        return "activeAssetCtx" in self.channels or "context" in self.channels

    def versions(self, labels: list[int]) -> list[Version]:
        """The minute as sealed, and as amended if that says something else."""
        seal, final = self.log.seals[self.label], self.log.finals.get(self.label)
        dropped = self.dropped(labels)
        found = [self.version(seal, dropped)]
        if final is None:
            return found
        came = [
            r
            for r in [
                *self.accounts.prints.get(self.label, []),
                *dated(self.accounts.tops, 0, self.label),
                *dated(self.accounts.snapshots, 0, self.label),
            ]
            if seal.index <= r.index < final.index
        ]
        holes = [hole_reasons(self.log, self.label, at.index) for at in (seal, final)]
        if came or holes[0] != holes[1]:
            _, feeds = self.log.final_rosters[self.label][self.uid]
            new = replace(self, channels=feeds).version(final, dropped)
            timed = ("ingest_ts", "ingest_lag_ms")
            old = found[0].columns
            differs = [n for n, value in new.columns.items() if value != old.get(n)]
            if new.extras != found[0].extras or any(n not in timed for n in differs):
                found.append(new)
        return found

    def dropped(self, labels: list[int]) -> list[str]:
        """Reasons of what was dropped since the previous seal of this asset."""
        at = labels.index(self.label)
        since = self.log.seals[labels[at - 1]].index if at else -1
        until = self.log.seals[self.label].index
        return [reason for i, reason in self.accounts.drops if since <= i < until]

    def version(self, closing: Closing, dropped: list[str]) -> Version:
        """Every raw column as known at a closing."""
        index, label, quality = closing.index, self.label, self.pack["quality"]
        spans = self.spans(index)
        mids = [top.mid for _, _, top in spans if top.mid is not None]
        prints = sorted(
            (p for p in self.accounts.prints.get(label, []) if p.index < index),
            key=lambda p: p.time,
        )
        kept = self.plausible(prints, mids)
        columns: Columns = {"source": "ws", **self.prices(kept, mids)}
        if self.quoted:
            columns |= self.mids(columns, spans)
            columns |= self.spreads(spans)
        path = mids or [p.px for p in kept]
        columns["rv_m_1"] = maybe12(log_path(path))
        if "trades" in self.channels:
            columns |= self.flow(kept)
        columns |= self.perp()
        columns |= self.depth(index)
        columns["dropped_ticks"] = len(dropped) + len(prints) - len(kept)
        columns["duplicate_ticks"] = dropped.count("duplicate")
        columns["ingest_ts"] = iso(closing.clock)
        columns["ingest_lag_ms"] = closing.clock - label
        columns["book_staleness_ms"] = self.book_staleness(index) if self.quoted else None
        columns["clock_skew_ms"] = self.skew
        reasons = hole_reasons(self.log, label, index)
        reasons += self.verdict(columns)
        if dropped.count("late") >= quality["late_ticks_partial"]:
            reasons.append("late")
        columns["dq_status"], columns["dq_reasons"] = graded(reasons)
        extras = {}
        drift = self.microprice_drift(index)
        if drift is not None:
            extras["microprice_drift_s_30"] = drift
        return Version(columns, extras)

    # -- the top of book

    def quotes(self, index: int) -> tuple[Top | None, list[Top]]:
        """Return the quote in force at the open, and those of the minute."""
        if "bbo" in self.channels:
            return held(self.accounts.tops, self.start, self.label, index)
        tops = [s.top for s in self.accounts.snapshots]
        return held(tops, self.start, self.label, index)

    def spans(self, index: int) -> list[tuple[int, int, Top]]:
        """Cut the minute at each quote; each holds until the next."""
        before, inside = self.quotes(index)
        marks = [] if before is None else [(self.start, before)]
        marks += [(top.time, top) for top in inside]
        ends = [at for at, _ in marks[1:]] + [self.label] * bool(marks)
        return [(at, end, top) for (at, top), end in zip(marks, ends, strict=True)]

    def plausible(self, prints: list[Print], mids: list[float]) -> list[Print]:
        """Drop prints far from the level of the minute."""
        factor = self.pack["quality"]["absurd_price_factor"]
        prices = [p.px for p in prints] + mids
        if not prints:
            return []
        level = mids[0] if mids and len(prices) < 3 else middle(prices)
        return [p for p in prints if level <= p.px * factor and p.px <= level * factor]

    def prices(self, prints: list[Print], mids: list[float]) -> Columns:
        """Open, high, low, close."""
        path = [p.px for p in prints] or mids
        if not path:
            return dict.fromkeys(("open", "high", "low", "close"))
        values = {"open": path[0], "high": max(path), "low": min(path), "close": path[-1]}
        return {name: round12(value) for name, value in values.items()}

    def mids(self, ohlc: Columns, spans: list[tuple[int, int, Top]]) -> Columns:
        """Mid at the close and what is measured against it."""
        mid_close = maybe12(spans[-1][2].mid) if spans else None
        then = [top.mid for at, _, top in spans if at <= self.label - 30_000]
        atr = None
        if mid_close is not None and ohlc["high"] is not None:
            atr = (ohlc["high"] - ohlc["low"]) / mid_close
        return {
            "mid_close": mid_close,
            "ret_s_30": maybe12(change(mid_close, then[-1] if then else None)),
            "atr_proxy_m_1": maybe12(atr),
        }

    def spreads(self, spans: list[tuple[int, int, Top]]) -> Columns:
        """Time-weighted mean and 95th percentile of the spread."""
        held_ms = [
            (top.ask - top.bid, end - at)
            for at, end, top in spans
            if top.bid is not None and top.ask is not None and end > at
        ]
        total = sum(ms for _, ms in held_ms)
        if not total:
            return {"spread_mean_m_1": None, "spread_p95_m_1": None}
        mean = math.fsum([spread * ms for spread, ms in held_ms]) / total
        p95, below = 0.0, 0
        for spread, ms in sorted(held_ms):
            if 100 * below < 95 * total:
                p95 = spread
            below += ms
        return {"spread_mean_m_1": round12(mean), "spread_p95_m_1": round12(p95)}

    def book_staleness(self, index: int) -> int | None:
        """Age of the last message that carried or confirmed the top of book."""
        found = [
            newest(records, self.label, index)
            for records in (self.accounts.tops, self.accounts.snapshots)
        ]
        times = [time_of(record) for record in found if record is not None]
        if not times:
            return None
        alive = bisect_left(self.log.alive_at, self.label)
        if "l2Book" not in self.channels and alive:
            times.append(self.log.alive_at[alive - 1])
        return max(0, self.label - max(times))

    def microprice_drift(self, index: int) -> float | None:
        """Microprice at the close against half a minute before."""
        if "bbo" not in self.channels:
            return None
        now = newest(self.accounts.tops, self.label, index)
        then = newest(self.accounts.tops, self.label - 30_000 + 1, index)
        if now is None or then is None:
            return None
        return maybe12(change(now.micro, then.micro))

    # -- flow, contexts, depth

    def flow(self, prints: list[Print]) -> Columns:
        """Volumes in quote currency by the side of the taker."""
        buy = round12(math.fsum([p.px * p.sz for p in prints if p.buy]))
        sell = round12(math.fsum([p.px * p.sz for p in prints if not p.buy]))
        return {
            "v_buy_m_1": buy,
            "v_sell_m_1": sell,
            "v_total_m_1": round12(math.fsum([p.px * p.sz for p in prints])),
            "trade_count_m_1": len(prints),
            "cvd_delta_m_1": round12(buy - sell),
        }

    def states(self) -> tuple[list[State], list[State]]:
        """Return the contexts that arrived before the minute, and within it."""
        low = bisect_left(self.heard.states, self.start, key=lambda s: s.arrival)
        high = bisect_left(self.heard.states, self.label, key=lambda s: s.arrival)
        return self.heard.states[:low], self.heard.states[low:high]

    def perp(self) -> Columns:
        """Open interest, mark, funding and basis."""
        if not self.tracked:
            return {}
        names = ("oi_open", "oi_close", "oi_min", "oi_max", "oi_close_base", "mark_close")
        columns: Columns = dict.fromkeys((*names, "oi_staleness_ms"))
        before, inside = self.states()
        sampled = [s for s in inside if s.oi is not None and s.mark is not None]
        older = [s for s in before if s.oi is not None and s.mark is not None]
        if sampled or older:
            force = (older + sampled)[-1]
            columns["oi_staleness_ms"] = self.label - force.arrival
            if columns["oi_staleness_ms"] <= self.pack["quality"]["oi_staleness_ms_max"]:
                values = [round12(s.oi * s.mark) for s in sampled or [force]]  # type: ignore[operator]
                columns["oi_open"], columns["oi_close"] = values[0], values[-1]
                columns["oi_min"], columns["oi_max"] = min(values), max(values)
                columns["oi_close_base"] = maybe12(force.oi)
                columns["mark_close"] = maybe12(force.mark)
        rates = [s.funding for s in before + inside if s.funding is not None]
        columns["funding_h_1"] = maybe12(rates[-1]) if rates else None
        gaps = [
            (s.mark - s.oracle) / s.oracle * 10_000
            for s in inside
            if s.mark is not None and s.oracle is not None
        ]
        columns["basis_bp_m_1"] = maybe12(mean_of(gaps))
        columns["time_to_next_funding_sec"] = (HOUR - self.label % HOUR) // 1000
        return columns

    def usable_book(self, index: int) -> bool:
        """Depth is subscribed, has a snapshot in the minute, and that is not too old."""
        if "l2Book" not in self.channels:
            return False
        _, inside = held(self.accounts.snapshots, self.start, self.label, index)
        age = self.label - max((s.time for s in inside), default=-math.inf)
        return bool(age <= self.pack["quality"]["depth_staleness_ms_max"])

    def depth(self, index: int) -> Columns:
        """Imbalance and depth of the best five levels."""
        columns: Columns = {"obi_top5_mean_m_1": None, "depth_top5_quote_median_m_1": None}
        if not self.usable_book(index):
            return columns
        before, inside = held(self.accounts.snapshots, self.start, self.label, index)
        oldest = self.start - self.pack["quality"]["depth_staleness_ms_max"]
        fresh = before is not None and before.time >= oldest  # an older one says nothing
        marks = [(self.start, before)] if fresh else []
        marks += [(s.time, s) for s in inside]
        ends = [at for at, _ in marks[1:]] + [self.label]
        parts = []
        total = 0
        for (at, snapshot), end in zip(marks, ends, strict=True):
            if snapshot.depth is not None and end > at:
                bid, ask = snapshot.depth
                parts.append(bid / (bid + ask) * (end - at))
                total += end - at
        if total:
            columns["obi_top5_mean_m_1"] = round12(math.fsum(parts) / total)
        last = {s.time: s for s in inside}  # one sent again counts once
        depths = [sum(s.depth) for s in last.values() if s.depth is not None]
        if depths:
            columns["depth_top5_quote_median_m_1"] = round12(middle(depths))
        return columns

    # -- quality

    def verdict(self, columns: Columns) -> list[str]:
        """Return the reasons that the columns themselves give."""
        quality, reasons = self.pack["quality"], []
        if columns["close"] is None and self.quoted:
            reasons.append("no_data")
        if self.quoted:
            staleness = columns["book_staleness_ms"]
            if staleness is None or staleness > quality["book_staleness_ms_max"]:
                reasons.append("book_stale")
            if columns["mid_close"] is None:
                reasons.append("book_one_sided")
        if columns.get("trade_count_m_1") == 0:
            reasons.append("quiet")
        depth = ("obi_top5_mean_m_1", "depth_top5_quote_median_m_1")
        if "l2Book" in self.channels and any(columns[name] is None for name in depth):
            reasons.append("book_missing")  # NULL never comes without a reason (design D23)
        if self.tracked:
            age = columns["oi_staleness_ms"]
            if age is None or age > quality["oi_staleness_ms_max"]:
                reasons.append("oi_stale")
            _, inside = self.states()
            if inside and all(s.oracle is None for s in inside):
                reasons.append("index_missing")
        skew = abs(self.skew or 0)
        if skew > quality["clock_skew_ms_stale"]:
            reasons.append("clock_stale")
        elif skew > quality["clock_skew_ms_partial"]:
            reasons.append("clock_late")
        return reasons


def prices_at_odds(columns: Columns) -> bool:
    """Open or close leave [low, high]."""
    low, high = columns["low"], columns["high"]
    if None in (low, high, columns["open"], columns["close"]):
        return False
    return not all(low <= columns[name] <= high for name in ("open", "close")) or low > high


# --- baselines: numerics 2-8 -----------------------------------------------------------------


class Histogram:
    """Decayed log-linear histogram as a dict of bins."""

    def __init__(self) -> None:
        self.w, self.t = 1.0, 0.0
        self.bins: dict[int, float] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Histogram:
        twin = Histogram()
        twin.w, twin.t, twin.bins = self.w, self.t, dict(self.bins)
        return twin

    @staticmethod
    def key(x: float, x_zero: float) -> int:
        """Number of a value's bin."""
        if abs(x) <= x_zero:
            return 0
        f, e = math.frexp(abs(x))
        k = (e + 1100) * 32 + int((f - 0.5) * 64) + 1
        return k if x > 0 else -k

    @staticmethod
    def edges(k: int) -> tuple[float, float]:
        """Bounds of a bin."""
        if k == 0:
            return 0.0, 0.0
        a = abs(k) - 1
        e, i = a // 32 - 1100, a % 32
        low, high = math.ldexp(0.5 + i / 64, e), math.ldexp(0.5 + (i + 1) / 64, e)
        return (low, high) if k > 0 else (-high, -low)

    def add(self, x: float, growth: float, x_zero: float) -> None:
        """Count a value."""
        self.w *= growth
        if self.w >= 2.0**40:
            shrink = 2.0**-40
            self.w, self.t = self.w * shrink, self.t * shrink
            self.bins = {k: b * shrink for k, b in self.bins.items()}
        k = self.key(x, x_zero)
        self.bins[k] = self.bins.get(k, 0.0) + self.w
        self.t += self.w

    def rank(self, x: float, x_zero: float) -> float:
        """Share of the weight below a value, half of its bin counted."""
        k = self.key(x, x_zero)
        below = [b for other, b in self.bins.items() if other < k]
        return (math.fsum(below) + 0.5 * self.bins.get(k, 0.0)) / self.t

    def quantile(self, p: float) -> float:
        """Value below which a share of the weight lies."""
        c, high = 0.0, 0.0
        for k in sorted(self.bins):
            b = self.bins[k]
            low, high = self.edges(k)
            if c + b >= p * self.t:
                return low + (high - low) * ((p * self.t - c) / b)
            c += b
        return high

    def prune(self, share: float) -> None:
        """Forget bins that weigh nothing."""
        self.bins = {k: b for k, b in self.bins.items() if not b < share * self.t}
        self.t = math.fsum(self.bins.values())


class Baseline:
    """What is normal for one feature of one asset on one timeframe."""

    def __init__(self, entry: dict[str, Any], decay: dict[str, Any], pack: dict[str, Any]) -> None:
        self.entry, self.robust = entry, pack["robust"]
        self.a_m, self.a_s, self.growth = decay["a_m"], decay["a_s"], decay["growth"]
        self.n = 0
        self.m = self.v = self.wm = self.ws = self.d = 0.0
        self.first: list[float] = []
        self.day: int | None = None
        self.low, self.high = -self.robust["clamp_default"], self.robust["clamp_default"]
        self.histogram = Histogram()

    @property
    def warm(self) -> bool:
        """There are enough samples."""
        return bool(self.n >= self.robust["min_samples"])

    @property
    def scale(self) -> float:
        """Scale, not below its floor."""
        return float(max(math.sqrt(self.v), self.entry["s_min"]))

    @property
    def floored(self) -> bool:
        """The scale is at its floor."""
        return bool(math.sqrt(self.v) <= self.entry["s_min"])

    def g(self, x: float) -> float:
        """Variance-stabilising transform."""
        match self.entry["transform"]:
            case "log1p":
                return ln1p(x)
            case "pow_3_8":
                q = math.sqrt(math.sqrt(x))
                return q * math.sqrt(q)
            case "log":
                return ln(x)
            case _:
                return arsinh(x / self.d)

    def see(self, x: float | None, label: int, dq: str) -> tuple[float | None, float | None]:
        """Take in a bar and return its z and q."""
        if x is None:
            return None, None
        if dq == "ok":
            self.update(x, (label - 1) // DAY)
        if not self.warm or dq == "stale":
            return None, None
        z = (self.g(x) - self.m) / self.scale
        q = self.histogram.rank(x, self.entry["x_zero"]) if "q" in self.entry else None
        return z, q

    def update(self, x: float, day: int) -> None:
        """Numerics 5, steps 1 to 5."""
        robust, floor = self.robust, self.entry["s_min"]
        if self.day is not None and day != self.day:
            self.histogram.prune(robust["sketch_prune_share"])
            if self.warm:
                self.roll()
        self.day = day
        self.n += 1
        self.histogram.add(x, self.growth, self.entry["x_zero"])
        self.wm = (1 - self.a_m) * self.wm + 1
        self.ws = (1 - self.a_s) * self.ws + 1
        if self.n <= robust["min_samples"]:
            self.first.append(x)
            if self.n == robust["min_samples"]:
                self.begin()
            return
        gm, gs = 1 / self.wm, 1 / self.ws
        if self.entry["transform"] == "asinh":
            u = min(abs(x), robust["d_clip"] * self.d)
            self.d = max(self.d + gs * (u - self.d), self.entry["d_min"])
        c = robust["clip_sigma"] * max(math.sqrt(self.v), floor)
        e = min(max(self.g(x) - self.m, -c), c)
        self.m = self.m + gm * e
        self.v = (1 - gs) * self.v + gs * ((1 - gm) * (e * e) / robust["kappa"])

    def begin(self) -> None:
        """Initialise robustly from the first samples."""
        robust, xs, count = self.robust, self.first, len(self.first)
        if self.entry["transform"] == "asinh":
            sizes = [abs(x) for x in xs]
            self.d = max(robust["mad_consistency"] * middle(sizes), self.entry["d_min"])
            for _ in range(3):
                cut = [min(a, robust["d_clip"] * self.d) for a in sizes]
                self.d = max(math.fsum(cut) / count, self.entry["d_min"])
        ys = [self.g(x) for x in xs]
        self.m = middle(ys)
        s = max(
            robust["mad_consistency"] * middle([abs(y - self.m) for y in ys]), self.entry["s_min"]
        )
        for _ in range(3):
            c = robust["clip_sigma"] * s
            u = [min(max(y - self.m, -c), c) for y in ys]
            delta = math.fsum(u) / count
            var = math.fsum([w * w for w in u]) / count - delta * delta
            self.m += delta
            s = max(math.sqrt(max(var, 0.0) / robust["kappa"]), self.entry["s_min"])
        self.v = s * s
        self.first = []

    def roll(self) -> None:
        """Set the bounds for scoring from the quartiles."""
        z1, z3 = ((self.g(self.histogram.quantile(p)) - self.m) / self.scale for p in (0.25, 0.75))
        reach = self.robust["clamp_iqr_multiple"] * max(z3 - z1, self.robust["clamp_iqr_floor"])
        self.low, self.high = z1 - reach, z3 + reach


# --- rows ------------------------------------------------------------------------------------


@dataclass
class Made:
    """A feature row."""

    symbol: str
    columns: Columns
    extras: Columns


Key = tuple[int, str, int, int]


def names_at(pack: dict[str, Any], tf: str) -> dict[str, str]:
    """Return pack name -> name on the rows of a timeframe."""
    found = {}
    for column in pack["columns"]:
        name = column["name"]
        if column.get("status", "active") != "active":
            continue
        if tf == "1m" or "rollup" not in column:
            if tf in column.get("tfs", ["1m"]):
                found[name] = name
        else:
            found[name] = column["at"][("15m", "1h").index(tf)] if "at" in column else name
    return found


class _Either:
    """A truth that hangs on how exactly a median is known."""

    def __repr__(self) -> str:
        return "either"

    def __deepcopy__(self, memo: dict[int, Any]) -> _Either:
        return self


EITHER = _Either()
BIN = 1.126  # how far the flow's median of whole days may be off: bins are up to 12.5 % wide


class Timeframe:
    """What is carried from bar to bar on one timeframe of one asset."""

    def __init__(self, tf: str, pack: dict[str, Any]) -> None:
        self.tf, self.pack = tf, pack
        self.names = names_at(pack, tf)
        self.entries = [e for e in pack["normalised"] if tf in e.get("tfs", MINUTES)]
        self.baselines = {
            e["feature"]: Baseline(e, e.get("decay", pack["decay"][tf]), pack) for e in self.entries
        }
        self.recent: dict[str, float | None] = {"v_total_m_1": None, "spread_mean_m_1": None}
        self.counted: dict[str, dict[int, list[float]]] = {name: {} for name in self.recent}
        self.settled: dict[tuple[str, int], float | None] = {}  # by column and day

    def finish(self, row: Columns, label: int, fed: set[str], warm: set[str]) -> Columns:
        """Fill gates, baselines, strength and provenance; return the clamps."""
        self.gate(row, label)
        clamps = self.normalise(row, label)
        used = [b for name, b in self.baselines.items() if name in warm and name in fed]
        row["warmup"] = any(not baseline.warm for baseline in used)
        self.strength(row)
        self.count(row, label)
        row["feature_pack"], row["pack_rev"] = self.pack["feature_pack"], self.pack["pack_rev"]
        return clamps

    def gate(self, row: Columns, label: int) -> None:
        """Illiquidity against the asset's own medians, and how near the limits are."""
        v_median, exact_v = self.median("v_total_m_1", label)
        spread_median, exact_spread = self.median("spread_mean_m_1", label)
        verdicts = [
            self.liquidity(
                row,
                None if v_median is None else v_median * v_off,
                None if spread_median is None else spread_median * spread_off,
            )
            for v_off in ((1.0,) if exact_v else (1.0, 1 / BIN, BIN))
            for spread_off in ((1.0,) if exact_spread else (1.0, 1 / BIN, BIN))
        ]
        names = ("illiquidity_hit", "illiq_penalty")
        for name, outcomes in zip(names, zip(*verdicts, strict=True), strict=True):
            row[name] = outcomes[0] if len(set(outcomes)) == 1 else EITHER
        quality, age = self.pack["quality"], row["book_staleness_ms"]
        near = quality["book_staleness_ms_near"]
        row["dq_penalty"] = int(age is not None and near < age <= quality["book_staleness_ms_max"])

    def liquidity(
        self, row: Columns, v_median: float | None, spread_median: float | None
    ) -> tuple[bool, int]:
        """Return whether a limit is hit, and whether one is near."""
        policy = self.pack["illiquidity"]
        v_min = max(policy["v_min_quote"], policy["v_min_median_share"] * (v_median or 0.0))
        cap = math.inf
        if spread_median is not None:
            cap = policy["spread_cap_median_multiple"] * spread_median
        volume, spread = row["v_total_m_1"], row["spread_mean_m_1"]
        hit = volume is None or volume < v_min or (spread is not None and spread > cap)
        near_thin = volume is not None and v_min <= volume < v_min * policy["near_factor"]
        near_wide = spread is not None and cap / policy["near_factor"] < spread <= cap
        return hit, int(near_thin or near_wide)

    def median(self, name: str, label: int) -> tuple[float | None, bool]:
        """Return the usual value of a column, and whether the flow must know it as exactly.

        Of all values of the last seven whole days once each of them has one, the lower of the
        middle two (the flow may be off by a bin of its counts); before that of the histogram.
        """
        today = (label - 1) // DAY
        if (name, today) not in self.settled:
            week = range(today - self.pack["illiquidity"]["median_days"], today)
            days = [self.counted[name].get(day, []) for day in week]
            values = sorted(value for day in days for value in day)
            whole = values[(len(values) - 1) // 2] if all(days) else None
            self.settled[(name, today)] = whole
        whole = self.settled[(name, today)]
        return (self.recent[name], True) if whole is None else (whole, False)

    def count(self, row: Columns, label: int) -> None:
        """Take a bar into the medians of those to come."""
        for name, feature in (("v_total_m_1", "vol"), ("spread_mean_m_1", "spread")):
            baseline = self.baselines[feature]
            young = baseline.n <= self.pack["robust"]["min_samples"]
            if baseline.n and (young or label % HOUR == 0 or self.recent[name] is None):
                self.recent[name] = baseline.histogram.quantile(0.5)
            if row["dq_status"] != "stale" and row[name] is not None:
                self.counted[name].setdefault((label - 1) // DAY, []).append(row[name])

    def x_of(self, entry: dict[str, Any], row: Columns, label: int) -> float | None:
        """Raw value of a feature, numerics 2."""
        x: float | None = row[entry["source"]]
        if entry["feature"] == "vol":
            count = row["trade_count_m_1"]
            return None if (x == 0 if count is None else count == 0) else x
        if entry["feature"] in ("ret_abs", "ret_abs_5") and "price_sanity" in row["dq_reasons"]:
            return None
        if entry["feature"] == "spread" and x is not None and x <= 0:
            return None
        if entry.get("sampled") == "hourly" and label % HOUR:
            return None
        return x

    def normalise(self, row: Columns, label: int) -> Columns:
        """z, q and the audit copies of every baseline."""
        clamps: Columns = {}
        row["scale_floored"] = []
        for entry in self.entries:
            baseline = self.baselines[entry["feature"]]
            x = self.x_of(entry, row, label)
            z, q = baseline.see(x, label, row["dq_status"])
            warm = baseline.warm
            values = {
                "z": z,
                "q": q,
                "mean": baseline.m if warm else None,
                "scale": baseline.scale if warm else None,
                "divisor": baseline.d if warm else None,
            }
            for part, value in values.items():
                if part in entry:
                    row[entry[part]] = maybe12(value)
            if z is not None:
                if baseline.floored:
                    row["scale_floored"].append(entry["feature"])
                if "z" in entry:
                    bounds = (round12(baseline.low), round12(baseline.high))
                    clamps[self.names[entry["z"]]] = bounds
            if entry["feature"] == "vol":
                few = baseline.n < self.pack["robust"]["low_confidence_samples"]
                row["q_confidence"] = ("low" if few else "ok") if warm else "none"
        return clamps

    def strength(self, row: Columns) -> None:
        """Relative strength, plan 6.3."""
        policy = self.pack["relative_strength"]
        z_ret, z_vol, z_oi = row["z_ret_abs_m_1"], row["z_vol_m_1"], row["z_oi_roc_m_5"]
        ret, roc = row["ret_m_5"], row["oi_roc_m_5"]
        by_ret = policy["w_ret"] * (z_ret or 0.0) * sign(ret)
        by_vol = policy["w_vol"] * (z_vol or 0.0)
        by_oi = policy["w_oi"] * sign(roc) * min(abs(z_oi or 0.0), policy["z_cap"])
        row["rs_score_m_5"] = round12(by_ret + by_vol + by_oi)
        row["rs_incomplete"] = None in (z_ret, ret, z_vol) or (roc is not None and z_oi is None)


# Features whose raw column an asset without the feed never has.
FED_BY = {
    "vol": ("v_total_m_1",),
    "ret_abs": ("mid_close",),
    "ret_abs_5": ("mid_close",),
    "spread": ("spread_mean_m_1",),
    "cvd": ("cvd_delta_m_1",),
    "cvd_slope": ("cvd_delta_m_1",),
    "oi_roc": ("oi_close_base",),
    "basis": ("basis_bp_m_1",),
    "dfunding": ("funding_h_1",),
}


def warm_features(pack: dict[str, Any], detectors: dict[str, Any], tf: str) -> set[str]:
    """Return the features whose z an enabled detector of a timeframe looks at."""
    words: set[str] = set()
    for detector in detectors["detectors"]:
        on = detector.get("enabled", True) and detector.get("mode", "live") != "off"
        if on and tf in detector.get("tfs", ["1m"]):
            texts = [detector["trigger"], detector.get("primary"), detector.get("secondary")]
            texts += detector.get("inputs", []) + detector.get("preconditions", [])
            words |= {word for text in texts for word in re.findall(r"\w+", str(text))}
    return {e["feature"] for e in pack["normalised"] if e.get("z") in words}


def liquidation_proxy(row: Columns) -> float:
    """Three legs, each 1 at the z its own detector asks for and 2 at most: move, spread, closed
    positions."""
    move = min(row["z_ret_abs_m_1"] / 2.5, 2)
    spread = min(row["z_spread_m_1"] / 2.0, 2)
    closed = min(-row["z_oi_roc_m_5"] / 2.0, 2)
    return float(move + spread + closed)


# By hand: what must be known, and the trigger.
FLAGS: dict[str, tuple[tuple[str, ...], Callable[[Columns], bool]]] = {
    "vol_spike_m_1": (("z_vol_m_1",), lambda r: r["z_vol_m_1"] >= 3.0),
    "price_spike_up_m_1": (
        ("z_ret_abs_m_1", "ret_m_1"),
        lambda r: r["z_ret_abs_m_1"] >= 2.5 and r["ret_m_1"] > 0,
    ),
    "price_spike_down_m_1": (
        ("z_ret_abs_m_1", "ret_m_1"),
        lambda r: r["z_ret_abs_m_1"] >= 2.5 and r["ret_m_1"] < 0,
    ),
    "spread_stress_m_1": (("z_spread_m_1",), lambda r: r["z_spread_m_1"] >= 2.0),
    "oi_spike_up_m_5": (
        ("z_oi_roc_m_5", "oi_roc_m_5"),
        lambda r: r["z_oi_roc_m_5"] >= 2.0 and r["oi_roc_m_5"] >= 0.015,
    ),
    "oi_spike_down_m_5": (
        ("z_oi_roc_m_5", "oi_roc_m_5"),
        lambda r: r["z_oi_roc_m_5"] <= -2.0 and r["oi_roc_m_5"] <= -0.015,
    ),
    "liq_cluster_m_5": (
        ("z_ret_abs_m_1", "z_spread_m_1", "z_oi_roc_m_5", "oi_roc_m_5"),
        lambda r: liquidation_proxy(r) >= 3 and r["z_oi_roc_m_5"] <= -1.0 and r["oi_roc_m_5"] < 0,
    ),
}


def flags_of(row: Columns, pack: dict[str, Any], detectors: dict[str, Any]) -> Columns:
    """Cheap flags: the trigger, on a minute that is ok and liquid."""
    known = {d["id"].partition(".")[2] for d in detectors["detectors"]}
    flags: Columns = {}
    for column in pack["columns"]:
        if column["family"] != "flag":
            continue
        subtype = column["name"].removeprefix("is_")
        if subtype not in known:
            flags[column["name"]] = None
            continue
        needs, holds = FLAGS[subtype]
        value: Any = None
        if not any(row[name] is None for name in needs):
            value = holds(row) and row["dq_status"] == "ok"
            if value:
                hit = row["illiquidity_hit"]
                value = EITHER if hit is EITHER else not hit
        flags[column["name"]] = value
    return flags


class AssetRows:
    """The rows of one asset, minute after minute."""

    def __init__(
        self, symbol: str, minutes: Minutes, pack: dict[str, Any], detectors: dict[str, Any]
    ) -> None:
        self.symbol, self.minutes, self.pack, self.detectors = symbol, minutes, pack, detectors
        self.frames = {tf: Timeframe(tf, pack) for tf in MINUTES}
        self.warm = {tf: warm_features(pack, detectors, tf) for tf in MINUTES}
        shared = (pack, pack["robust"], *pack["normalised"])
        self.shared = {id(part): part for part in shared}
        self.level, self.level_day = 0.0, -1
        self.past: dict[str, dict[int, Columns]] = {tf: {} for tf in MINUTES}  # by pack names

    def rows(self) -> dict[tuple[str, int, int], Made]:
        """Return every row by (tf, label, revision)."""
        found: dict[tuple[str, int, int], Made] = {}
        for label, versions in self.minutes.versions.items():
            before = self.frames["1m"], self.level, self.level_day
            if len(versions) > 1:
                before = copy.deepcopy(before, dict(self.shared))
            for revision, version in enumerate(versions):
                if revision:
                    self.frames["1m"], self.level, self.level_day = before
                found[("1m", label, revision)] = self.minute(label, version)
            if label in self.minutes.finals:
                for tf in ("15m", "1h"):
                    if label % (MINUTES[tf] * MINUTE) == 0:
                        found[(tf, label, 0)] = self.bar(tf, label)
        return found

    def made(self, tf: str, row: Columns, clamps: Columns, extras: Columns) -> Made:
        """Name the columns as the timeframe does."""
        row |= flags_of(row, self.pack, self.detectors)
        names = self.frames[tf].names
        columns = {names[name]: value for name, value in row.items() if name in names}
        missing = [name for name in names if name not in row and name not in MEMBERSHIP]
        assert not missing, (tf, missing)
        return Made(self.symbol, columns, extras | ({"clamp": clamps} if clamps else {}))

    def known(self, tf: str, name: str, label: int) -> Any:
        """Value of a column in an earlier (or this) bar; None where there is no bar."""
        return self.past[tf].get(label, {}).get(name)

    def mid(self, label: int) -> float | None:
        """Mid at a minute's close that later returns may look back to."""
        age = self.known("1m", "book_staleness_ms", label)
        if age is not None and age > self.pack["quality"]["book_staleness_ms_max"]:
            return None
        mid: float | None = self.known("1m", "mid_close", label)
        return mid

    # -- one minute

    def minute(self, label: int, version: Version) -> Made:
        """A 1m row."""
        row: Columns = dict.fromkeys(self.frames["1m"].names)
        for name in MEMBERSHIP:
            del row[name]
        row |= copy.deepcopy(version.columns)
        self.past["1m"][label] = row
        for name, k in (("ret_m_1", 1), ("ret_m_5", 5), ("ret_m_15", 15)):
            row[name] = maybe12(change(row["mid_close"], self.mid(label - k * MINUTE)))
        self.bound_return(row)
        row["ret_abs_m_1"] = None if row["ret_m_1"] is None else abs(row["ret_m_1"])
        row["ret_abs_m_5"] = None if row["ret_m_5"] is None else abs(row["ret_m_5"])
        row["cvd_level"] = self.cvd_level(label, row["cvd_delta_m_1"])
        self.cumulate("1m", label, row)
        self.positioning(row, label, 5)
        row["dfunding_h_1"] = difference(
            row["funding_h_1"], self.known("1m", "funding_h_1", label - HOUR)
        )
        row["basis_bp_m_5"] = None
        if row["basis_bp_m_1"] is not None:
            gaps = [self.known("1m", "basis_bp_m_1", label - k * MINUTE) for k in range(5)]
            row["basis_bp_m_5"] = maybe12(mean_of([g for g in gaps if g is not None]))
        fed = {f for f, names in FED_BY.items() if any(n in version.columns for n in names)}
        clamps = self.frames["1m"].finish(row, label, fed, self.warm["1m"])
        return self.made("1m", row, clamps, version.extras)

    def bound_return(self, row: Columns) -> None:
        """A return beyond the bound is cut and makes the minute stale."""
        bound, ret = self.pack["quality"]["ret_abs_max"], row["ret_m_1"]
        reasons = list(row["dq_reasons"])
        if ret is not None and abs(ret) > bound:
            row["ret_m_1"] = bound if ret > 0 else -bound
            reasons.append("price_sanity")
        if prices_at_odds(row):
            reasons.append("price_sanity")
        row["dq_status"], row["dq_reasons"] = graded(sorted(set(reasons)))

    def cvd_level(self, label: int, delta: float | None) -> float | None:
        """Running sum since midnight; the bar labelled 00:00 still belongs to its day."""
        day = (label - 1) // DAY
        if day != self.level_day:
            self.level, self.level_day = 0.0, day
        if delta is None:
            return None
        self.level = round12(self.level + delta)
        return self.level

    def cumulate(self, tf: str, label: int, row: Columns) -> None:
        """Sum and slope of the volume delta over the last five bars."""
        step = MINUTES[tf] * MINUTE
        deltas = [self.known(tf, "cvd_delta_m_1", label - k * step) for k in range(4, -1, -1)]
        row["cvd_delta_m_5"] = row["cvd_slope_m_5"] = None
        if None in deltas:
            return
        row["cvd_delta_m_5"] = round12(math.fsum(deltas))
        level, products = 0.0, []
        for x, delta in zip((-2.0, -1.0, 0.0, 1.0, 2.0), deltas, strict=True):
            level += delta
            products.append(x * level)
        row["cvd_slope_m_5"] = round12(math.fsum(products) / 10.0 / MINUTES[tf])

    def positioning(self, row: Columns, label: int, minutes: int) -> None:
        """Change of open interest in coins, at the minutes of both closes."""
        now = self.known("1m", "oi_close_base", label)
        then = self.known("1m", "oi_close_base", label - minutes * MINUTE)
        mark = self.known("1m", "mark_close", label)
        row["oi_delta_m_5"] = row["oi_roc_m_5"] = None
        row["liq_count_m_5"] = row["liq_notional_m_5"] = None
        if now is None or then is None:
            return
        if mark is not None:
            row["oi_delta_m_5"] = round12((now - then) * mark)
        if then > 0:
            row["oi_roc_m_5"] = round12((now - then) / then)

    # -- longer bars

    def bar(self, tf: str, label: int) -> Made:
        """A 15m or 1h row, from its parts."""
        smaller, count = ("1m", 15) if tf == "15m" else ("15m", 4)
        width = MINUTES[tf] // count * MINUTE
        labels = [label - k * width for k in range(count - 1, -1, -1)]
        parts = [self.past[smaller].get(at) for at in labels]
        row: Columns = {}
        for column in self.pack["columns"]:
            name, how = column["name"], column.get("rollup")
            if how is not None and how not in ("recompute", "alias"):
                row[name] = self.fold(name, how, parts)
        self.past[tf][label] = row
        span = MINUTES[tf]
        row["ret_m_1"] = maybe12(change(row["mid_close"], self.mid(label - span * MINUTE)))
        row["ret_abs_m_1"] = None if row["ret_m_1"] is None else abs(row["ret_m_1"])
        row["ret_m_5"] = row["ret_m_15"] = row["ret_m_1"]
        row["ret_abs_m_5"] = row["ret_abs_m_1"]
        row["basis_bp_m_5"] = row["basis_bp_m_1"]
        row["rv_m_1"] = self.path_between(label - span * MINUTE, label)
        row["atr_proxy_m_1"] = None
        if None not in (row["high"], row["low"], row["mid_close"]):
            row["atr_proxy_m_1"] = round12((row["high"] - row["low"]) / row["mid_close"])
        self.cumulate(tf, label, row)
        self.positioning(row, label, span)
        clock = self.minutes.finals[label]
        row["ingest_ts"], row["ingest_lag_ms"] = iso(clock), clock - label
        self.grade(tf, label, parts, row)
        fed = {f for f in FED_BY if any(n in row for n in FED_BY[f])}
        clamps = self.frames[tf].finish(row, label, fed, self.warm[tf])
        row["z_ret_abs_m_5"] = row["z_ret_abs_m_1"]
        return self.made(tf, row, clamps, {})

    def path_between(self, start: int, end: int) -> float | None:
        """Realised volatility of the minutes' mids."""
        mids = [self.mid(at) for at in range(start, end + 1, MINUTE)]
        known = [mid for mid in mids if mid is not None]
        if len(known) < 2:
            return None
        steps = [ln(b / a) for a, b in pairwise(known)]
        return round12(math.sqrt(math.fsum([step * step for step in steps])))

    def fold(self, name: str, how: str, parts: list[Columns | None]) -> Any:
        """One column of the parts."""
        values = [part[name] for part in parts if part is not None and part[name] is not None]
        if how == "last":
            return None if parts[-1] is None else parts[-1][name]
        if not values:
            return None
        if how == "sum":
            for part in parts:
                if part is not None and part["v_total_m_1"] is not None and part[name] is None:
                    return None
            whole = all(isinstance(value, int) for value in values)
            return sum(values) if whole else round12(math.fsum(values))
        if how in ("mean", "median", "p95"):
            missing = len(parts) - len(values)
            if missing >= self.pack["rollup"]["stale_share"] * len(parts):
                return None
        match how:
            case "first":
                return values[0]
            case "last_known":
                return values[-1]
            case "min":
                return min(values)
            case "max":
                return max(values)
            case "mean":
                return round12(math.fsum(values) / len(values))
            case "median":
                return round12(middle(values))
            case "p95":
                ordered = sorted(values)
                enough = [v for v in ordered if 100 * bisect_right(ordered, v) >= 95 * len(ordered)]
                return enough[0]
        raise AssertionError(how)

    def grade(self, tf: str, label: int, parts: list[Columns | None], row: Columns) -> None:
        """Verdict of a longer bar."""
        policy, forgiven = self.pack["rollup"], self.pack["rollup"]["forgiven"]
        if tf == "15m":
            row["minutes_not_ok"] = sum(
                part is None
                or (
                    part["dq_status"] != "ok"
                    and any(reason not in forgiven for reason in part["dq_reasons"])
                )
                for part in parts
            )
            row["minutes_missing"] = sum(
                part is None or part["dq_status"] == "stale" for part in parts
            )
        else:
            for name in ("minutes_not_ok", "minutes_missing"):
                row[name] = sum(15 if part is None else part[name] for part in parts)
        last, minutes = parts[-1], MINUTES[tf]
        assert last is not None, (tf, label)
        reasons = []
        if row["minutes_missing"] >= policy["stale_share"] * minutes:
            reasons.append("minutes_missing")
        if row["close"] is None and row["trade_count_m_1"] != 0:
            reasons.append("no_data")
        if row["minutes_not_ok"] >= policy["partial_share"] * minutes:
            reasons.append("minutes_not_ok")
        prints = row["trade_count_m_1"]
        if prints == 0 or (prints is None and row["v_total_m_1"] == 0):
            reasons.append("quiet")
        if "oi_stale" in last["dq_reasons"]:
            reasons.append("oi_stale")
        if row["obi_top5_mean_m_1"] is None and any(
            part["obi_top5_mean_m_1"] is not None or "book_missing" in part["dq_reasons"]
            for part in parts
            if part is not None
        ):
            reasons.append("book_missing")
        row["dq_status"], row["dq_reasons"] = graded(reasons)


MEMBERSHIP = ("is_in_universe", "is_hot", "universe_rev")


def difference(now: float | None, before: float | None) -> float | None:
    """now - before, where both are known."""
    return None if now is None or before is None else round12(now - before)


def rows_of(
    minutes: dict[int, Minutes], pack: dict[str, Any], detectors: dict[str, Any]
) -> dict[Key, Made]:
    """Return every row by (uid, tf, label, revision)."""
    found: dict[Key, Made] = {}
    for uid, asset in minutes.items():
        rows = AssetRows(asset.symbol, asset, pack, detectors).rows()
        found |= {(uid, *key): made for key, made in rows.items()}
    return found


# --- imported bars ---------------------------------------------------------------------------


def bar_version(raw: Any, label: int) -> Version:
    """Raw columns of an imported bar: its close stands in for the mid; None is a hole."""
    columns: Columns = {
        "source": "bars",
        "ingest_ts": iso(label),
        "ingest_lag_ms": 0,
        "dropped_ticks": 0,
        "duplicate_ticks": 0,
        "mid_close": None,
        "v_total_m_1": None,
        "close": None,
    }
    reasons = ["gap"]
    if raw is not None:
        total, buys = round12(raw.volume_quote), raw.taker_buy_quote
        for name in ("open", "high", "low", "close"):
            columns[name] = round12(getattr(raw, name))
        columns["mid_close"] = columns["close"]
        columns["atr_proxy_m_1"] = round12((columns["high"] - columns["low"]) / columns["close"])
        columns["v_total_m_1"], columns["trade_count_m_1"] = total, raw.trade_count
        if buys is not None:
            columns["v_buy_m_1"] = min(round12(buys), total)
            columns["v_sell_m_1"] = round12(total - columns["v_buy_m_1"])
            columns["cvd_delta_m_1"] = round12(columns["v_buy_m_1"] - columns["v_sell_m_1"])
        count = raw.trade_count
        reasons = ["quiet"] if (total == 0 if count is None else count == 0) else []
    columns["dq_status"], columns["dq_reasons"] = graded(reasons)
    return Version(columns)
