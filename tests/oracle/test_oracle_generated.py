"""Rows of generated logs equal the naive computation, column by column and bit by bit.

One log is short and goes wrong in every way a feed can: late, repeated, future, crossed and
impossible ticks, holes of all kinds, coming and going assets, silent contexts and books, a slow
clock, a jump in price. The other is long enough for warm baselines and crosses midnight.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from fixtures.market import Episode, FrameOptions, Scenario, default_assets, lines

MINUTE = 60_000
DAY = 86_400_000
HOUR_START = 1_790_002_800_000  # a full hour
NAMED = {spec.coin: spec for spec in default_assets(12)}


def assets(*coins: str) -> tuple[Any, ...]:
    """Return known assets under new ids: 0, 1, 2..."""
    return tuple(replace(NAMED[coin], uid=uid) for uid, coin in enumerate(coins))


# --- a feed that goes wrong ------------------------------------------------------------------

COINS = ("BTC", "SOL", "WLFI", "PURR")
START = HOUR_START - MINUTE  # the first minute is a gap; the first whole hour has none of it
SHORT = Scenario(
    seed=11,
    start_ms=START,
    minutes=84,
    assets=assets(*COINS),
    episodes=(
        Episode("dead_book", 9, 3, ("SOL",)),
        Episode("spread_stress", 14, 2, ("WLFI",)),
        Episode("feed_outage", 62, 2),
        Episode("squeeze", 70, 3, ("BTC",)),
    ),
    frames=FrameOptions(quote_ms=(3000, 3000, 6000, 9000), book=True, book_ms=9000, ctx_ms=5000),
)


class Feed:
    """A log as (arrival ns, frame) that can be spoilt."""

    def __init__(self, scenario: Scenario) -> None:
        self.lines: list[tuple[int, dict[str, Any] | bytes]] = []
        for line in lines(scenario):
            stamp, _, frame = line.partition(b" ")
            self.lines.append((int(stamp), json.loads(frame)))
        self.random = Random(3)

    def at(self, minute: int, ms: int = 0) -> int:
        """Return a time as epoch ms: so many ms after the open of a minute of the scenario."""
        return START + minute * MINUTE + ms

    def add(self, ms: int, frame: dict[str, Any] | bytes) -> None:
        """Let a frame arrive."""
        self.lines.append((ms * 1_000_000 + self.random.getrandbits(18), frame))

    def of(self, coin: str, channel: str, minute: int) -> list[tuple[int, dict[str, Any]]]:
        """Return the frames of a coin that arrive in a minute, with their stamps."""
        low, high = self.at(minute) * 10**6, self.at(minute + 1) * 10**6
        return [
            (ns, frame)
            for ns, frame in self.lines
            if low <= ns < high
            and isinstance(frame, dict)
            and frame["channel"] == channel
            and coin_of(frame) == coin
        ]

    def drop(self, keep: Callable[[int, dict[str, Any]], bool]) -> None:
        """Forget the frames that do not pass."""
        self.lines = [(ns, f) for ns, f in self.lines if isinstance(f, bytes) or keep(ns, f)]

    def text(self) -> list[bytes]:
        """Return the lines in order of arrival."""
        ordered = sorted(self.lines, key=lambda line: line[0])
        return [
            b"%d %b\n" % (ns, f if isinstance(f, bytes) else json.dumps(f).encode())
            for ns, f in ordered
        ]


def coin_of(frame: dict[str, Any]) -> str | None:
    """Return the coin of a venue frame."""
    data = frame.get("data")
    if isinstance(data, list):
        return data[0]["coin"] if data else None
    return data.get("coin") if isinstance(data, dict) else None


def trades(*prints: dict[str, Any]) -> dict[str, Any]:
    """Return a trades frame."""
    return {"channel": "trades", "data": list(prints)}


def one(coin: str, time: int, px: Any, tid: int, **other: Any) -> dict[str, Any]:
    """Return a print."""
    return {"coin": coin, "side": "B", "px": px, "sz": "0.5", "time": time, "tid": tid, **other}


def bbo(coin: str, time: int, *sides: tuple[str, str] | None) -> dict[str, Any]:
    """Return a bbo frame."""
    levels = [None if side is None else {"px": side[0], "sz": side[1], "n": 1} for side in sides]
    return {"channel": "bbo", "data": {"coin": coin, "time": time, "bbo": levels}}


def book(coin: str, time: int, bids: list[Any], asks: list[Any]) -> dict[str, Any]:
    """Return an l2Book frame."""
    levels = [[{"px": px, "sz": sz, "n": 1} for px, sz in side] for side in (bids, asks)]
    return {"channel": "l2Book", "data": {"coin": coin, "time": time, "levels": levels}}


def come_late(feed: Feed) -> None:
    """Within the grace some amend their minute; after it they are counted, ten make it partial."""
    for minute in (4, 5, 8, 15, 16, 30, 45, 59, 66):
        close = feed.at(minute + 1)
        feed.add(close + 2000, trades(one("BTC", close - 900, "80650.0", 7000 + minute)))
    for minute in (6, 16, 33):
        close = feed.at(minute + 1)
        top = feed.of("SOL", "bbo", minute)[0][1]["data"]["bbo"]
        feed.add(close + 2100, bbo("SOL", close - 150, *[(s["px"], "77") for s in top]))
        levels = [[("128.4", "10")], [("128.5", "11.5")]]
        feed.add(close + 2200, book("SOL", close - 100, *levels))
    for minute, count in ((18, 12), (20, 9)):
        close = feed.at(minute + 1)
        for k in range(count):
            late = one("WLFI", close - 500 - k, "0.2031", 8000 + 100 * minute + k)
            feed.add(close + 3200 + 40 * k, trades(late))
    feed.add(feed.at(23, 2200), trades(one("SOL", feed.at(21), "128.0", 8999)))
    feed.add(feed.at(24, 1700), bbo("BTC", feed.at(23, -10), ("80000", "1"), ("80001", "1")))


def come_twice(feed: Feed) -> None:
    """The same frame soon after, in the grace, and when its minute is closed for good."""
    for minute in (7, 12, 26):
        frames = feed.of("BTC", "trades", minute)
        for (_, frame), after in zip(frames[-3:], (300, 2500, 9000), strict=True):
            feed.add(feed.at(minute + 1) + after, frame)


def are_wrong(feed: Feed) -> None:
    """Impossible values, wrong shapes, foreign channels and coins, a clock that goes back."""
    at = feed.at
    for k, wrong in enumerate(
        [
            one("BTC", at(13, 100), "0", 1),
            one("BTC", at(13, 100), "-5.5", 2),
            one("BTC", at(13, 100), "80600", 3, sz="0"),
            one("BTC", at(13, 100), "80600", 4, side="X"),
            one("BTC", 0, "80600", 5),
            one("BTC", at(13, 30_000), "80600", 6),  # arrives long before
        ]
    ):
        feed.add(at(13, 1000 + k), trades(wrong, one("BTC", at(13, 500), "80600.5", 100 + k)))
    feed.add(at(13, 2000), trades({"coin": "BTC"}, one("BTC", at(13, 600), 80601.0, 200)))
    feed.add(at(13, 2100), trades({"coin": "BTC", "px": "abc"}))
    feed.add(at(13, 2200), trades(one("NOBODY", at(13, 600), "1", 300)))
    feed.add(at(13, 2300), trades())
    feed.add(at(13, 3000), bbo("BTC", at(13, 2900), ("80700", "1"), ("80600", "1")))
    feed.add(at(13, 3100), bbo("BTC", at(13, 3000), ("80600", "0"), ("80601", "1")))
    feed.add(at(13, 3200), bbo("BTC", at(13, 20_000), ("80600", "1"), ("80601", "1")))
    feed.add(at(13, 3300), bbo("WLFI", at(13, 3200), None, ("0.2033", "5")))
    feed.add(at(13, 3400), bbo("PURR", at(13, 3300), None, None))
    feed.add(at(13, 4000), book("SOL", at(13, 3900), [], [("128.5", "3")]))
    feed.add(at(13, 4100), book("SOL", at(13, 4000), [("130", "3")], [("128.5", "3")]))
    feed.add(at(13, 4200), book("SOL", at(13, 4100), [("128", "0")], [("128.5", "3")]))
    feed.add(at(13, 4300), book("SOL", at(13, 40_000), [("128", "1")], [("128.5", "3")]))
    for k, frame in enumerate([b"{", b"[]", b'{"channel":"userFills","data":{}}', b"7 8", b'"x"']):
        feed.add(at(14, 1000 + k), frame)
    feed.add(at(14, 1500), {"channel": "bbo", "data": {"coin": "BTC"}})
    feed.add(at(14, 1600), {"channel": "error", "data": "slow down"})
    feed.add(at(14, 1700), {"channel": "allMids", "data": {"mids": {"BTC": "80600.5"}}})
    for k, px in enumerate(("560000", "15000")):  # seven times the level, a fifth of it
        feed.add(at(17, 4000 + k), trades(one("BTC", at(17, 3000), px, 400 + k)))
    feed.add(at(17, 5000), trades(one("PURR", at(17, 4000), "3.0", 450)))
    feed.add(at(17, 6000), trades(one("BTC", at(17, 5900), "80600", 460, sz="1e-7")))


def fall_silent(feed: Feed) -> None:
    """Contexts, books and quotes of one coin stop, some of their members are null, an index is."""
    at = feed.at

    def keep(ns: int, frame: dict[str, Any]) -> bool:
        coin, channel, ms = coin_of(frame), frame["channel"], ns // 10**6
        if channel == "activeAssetCtx":
            if coin == "SOL" and at(19) <= ms < at(22, 30_000):
                return False
            if coin == "WLFI" and at(25) <= ms < at(27):
                frame["data"]["ctx"]["oraclePx"] = None
            if coin == "PURR" and at(25) <= ms < at(31):
                frame["data"]["ctx"]["markPx"] = None
            if coin == "BTC" and at(34) <= ms < at(37):
                frame["data"]["ctx"]["openInterest"] = None
            if coin == "BTC" and at(34) <= ms < at(35):
                frame["data"]["ctx"]["funding"] = None
            if coin == "SOL" and at(40) <= ms < at(40, 20_000):
                frame["data"]["ctx"]["openInterest"] = "0.0"
        silent_book = at(27) <= ms < at(29, 10_000) or at(31, 40_000) <= ms < at(32)
        if channel == "l2Book" and coin == "BTC" and silent_book:
            return False
        silent = at(36, 58_000) <= ms < at(37, 800) or at(38, 40_000) <= ms < at(39, 5_000)
        return not (coin == "SOL" and silent and channel in ("bbo", "l2Book", "trades"))

    feed.drop(keep)
    feed.add(at(28, 5000), trades(one("BTC", at(28, 4900), "80600", 500)))
    feed.add(at(28, 6000), {"channel": "activeAssetCtx", "data": {"coin": "BTC", "ctx": {}}})
    wrong = {"openInterest": "-1", "markPx": "80600"}
    feed.add(at(28, 7000), {"channel": "activeAssetCtx", "data": {"coin": "BTC", "ctx": wrong}})


def come_by_other_ways(feed: Feed) -> None:
    """Contexts of the whole venue and of REST answers, with places that nobody tracks."""
    at = feed.at
    contexts: list[Any] = [
        {"openInterest": "36000.5", "markPx": "80611", "oraclePx": "80600", "funding": "0.00002"},
        None,
        {"openInterest": "160000000", "markPx": "0.2031", "oraclePx": "0.2030", "funding": "1e-5"},
        {"openInterest": None, "markPx": None, "oraclePx": None, "funding": None},
        {"openInterest": "5", "markPx": "5", "oraclePx": "5", "funding": "0"},
    ]
    data = {"ctxs": [["", contexts], ["xyz", contexts], ["abc", contexts]]}
    feed.add(at(32, 30_000), {"channel": "allDexsAssetCtxs", "data": data})
    answer = {"dex": "", "answer": [{"universe": []}, contexts[:3]]}
    feed.add(at(33, 20_000), {"channel": "alpha.context", "data": answer})


def break_off(feed: Feed) -> None:
    """Holes: a silence within a minute, one over a whole minute, declared ones, nested ones."""
    at = feed.at
    lost = ((at(41, 20_000), at(41, 28_000)), (at(42, 50_000), at(44, 10_000)))
    feed.drop(lambda ns, _: not any(start <= ns // 10**6 < end for start, end in lost))
    gap = {"channel": "alpha.gap"}

    def declare(ms: int, start: int, end: int | None, cause: str = "disconnect") -> None:
        feed.add(ms, {**gap, "data": {"start_ms": start, "end_ms": end, "cause": cause}})

    declare(at(46, 10_000), at(46, 9_000), None)
    declare(at(46, 40_000), at(46, 9_000), at(46, 39_000))
    declare(at(48, 2_000), at(47, 59_000), None, "stall")
    declare(at(50, 1_000), at(47, 59_000), at(50), "stall")  # ends with the minute
    declare(at(52, 1_000), at(52), at(52), "blink")
    declare(at(53, 2_000), at(53, 1_000), None, "never")
    declare(at(54, 5_000), at(54, 4_000), at(54, 5_000), "start")  # a recorder began anew
    declare(at(56, 2_500), at(55, 59_900), at(56, 100), "afterthought")  # between seal and final


def run_late(feed: Feed) -> None:
    """A slow clock for a minute, a very slow one for another; a stamp that goes back."""
    at = feed.at
    for minute, slow in ((58, 1300), (60, 3600)):
        for ns, frame in feed.lines:
            if isinstance(frame, dict) and at(minute) <= ns // 10**6 < at(minute + 1):
                data = frame.get("data")
                for part in data if isinstance(data, list) else [data]:
                    if isinstance(part, dict) and "time" in part:
                        part["time"] -= slow
    back = at(61, 30_000) * 10**6
    frame = json.dumps(trades(one("BTC", at(61, 29_000), "80600", 600))).encode()
    feed.lines.append((back, b"%d x\n%d %b" % (back - 10, back - 5 * 10**9, frame)))


def jump(feed: Feed) -> None:
    """From one minute on a coin costs a third more: beyond what a minute may do."""
    for ns, frame in feed.lines:
        if isinstance(frame, dict) and ns // 10**6 >= feed.at(74) and coin_of(frame) == "WLFI":
            scale_prices(frame)


def scale_prices(part: Any) -> None:
    """Multiply every price in a frame."""
    if isinstance(part, list):
        for item in part:
            scale_prices(item)
    elif isinstance(part, dict):
        for name, value in part.items():
            if name in ("px", "markPx", "oraclePx") and value is not None:
                part[name] = f"{float(value) * 1.34:.6g}"
            else:
                scale_prices(value)


def change_roster(feed: Feed) -> None:
    """An asset joins, one leaves and comes back, one has other feeds."""
    at = feed.at
    roster = next(
        f for _, f in feed.lines if isinstance(f, dict) and f["channel"] == "alpha.roster"
    )
    entries = {entry["coin"]: entry for entry in roster["data"]["assets"]}
    entries["WLFI"]["channels"] = ["trades", "bbo", "context"]
    entries["PURR"]["channels"] = ["trades", "bbo"]
    roster["data"]["assets"] = [entries["SOL"], entries["BTC"], entries["PURR"]]
    roster["data"]["dexes"] = ["", "xyz"]

    def announce(ms: int, label: int, *coins: str) -> None:
        data = {"from_ms": label, "assets": [entries[c] for c in coins], "dexes": ["", "xyz"]}
        feed.add(ms, {"channel": "alpha.roster", "data": data})

    announce(at(2, 10_000), at(4), *COINS)
    announce(at(54, 20_000), at(56), "BTC", "SOL", "WLFI")
    announce(at(66, 20_000), at(60), *COINS)  # late: holds from the next seal


@pytest.fixture(scope="module")
def spoilt() -> list[bytes]:
    """Return the short log with everything that goes wrong."""
    feed = Feed(SHORT)
    for spoil in (
        come_late,
        come_twice,
        are_wrong,
        fall_silent,
        come_by_other_ways,
        break_off,
        run_late,
        jump,
        change_roster,
    ):
        spoil(feed)
    return [line + b"\n" for line in b"".join(feed.text()).splitlines()]


@pytest.mark.slow
def test_oracle_a_feed_that_goes_wrong(agree: Callable[..., Any], spoilt: list[bytes]) -> None:
    """Every column, every minute, every revision; 15m and 1h rows of bad minutes too."""
    agreement = agree(spoilt)
    agreement.check()
    assert agreement.amended >= 8
    assert agreement.rows["1m"] > 300
    assert agreement.rows["15m"] >= 20
    assert agreement.rows["1h"] >= 6
    assert set(agreement.reasons) >= {
        "gap",
        "outage",
        "resync",
        "minutes_missing",
        "book_stale",
        "clock_stale",
        "price_sanity",
        "quiet",
        "late",
        "book_one_sided",
        "book_missing",
        "oi_stale",
        "index_missing",
        "minutes_not_ok",
        "clock_late",
    }


@pytest.mark.slow
def test_oracle_a_plain_feed(agree: Callable[..., Any]) -> None:
    """The same market with only the scripted episodes."""
    agreement = agree(list(lines(SHORT)))
    agreement.check()
    assert agreement.rows["1h"] == 8


# --- warm baselines ----------------------------------------------------------------------------

LONG = Scenario(
    seed=23,
    start_ms=1_790_035_200_000 - 250 * MINUTE,  # midnight is minute 250
    minutes=305,
    assets=assets("BTC", "XRP", "MELANIA"),
    episodes=(
        Episode("squeeze", 222, 4, ("XRP",)),
        Episode("spread_stress", 229, 3, ("BTC",)),
        Episode("cascade", 234, 4, ("BTC",)),
        Episode("basis_jolt", 241, 5, ("XRP",)),
        Episode("feed_outage", 262, 2),
        Episode("dead_book", 268, 2, ("MELANIA",)),
        Episode("rug", 275, 3, ("MELANIA",)),
        Episode("basket_shock", 288, 2),
    ),
    frames=FrameOptions(quote_ms=(4000, 6000, 8000, 12_000), book_ms=12_000, ctx_ms=12_000),
)
NEVER_KNOWN = {"liq_count_m_5", "liq_notional_m_5", "is_liq_cluster_m_5", "b_divisor_dfunding"}


@pytest.mark.slow
def test_oracle_warm_baselines_across_midnight(
    agree: Callable[..., Any], texts: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    """z, q, audit copies, clamps, flags and strength, with the day's roll; nothing stays NULL."""
    assert LONG.start_ms % MINUTE == 0
    assert (LONG.start_ms + 250 * MINUTE) % DAY == 0
    agreement = agree(list(lines(LONG)))
    agreement.check()
    assert agreement.rows["1m"] >= 305 * 3
    for column in texts[0]["columns"]:
        name = column["name"]
        optional = column.get("status") == "shadow" or "15m" in column.get("tfs", [])
        if (
            not optional
            and name not in NEVER_KNOWN
            and not name.startswith(("is_oi", "is_in", "is_hot", "universe"))
        ):
            assert agreement.known[f"1m {name}"], name


# --- anything at all ---------------------------------------------------------------------------

CHANNELS = ("trades", "bbo", "l2Book", "activeAssetCtx", "context")


class Chance:
    """A small log drawn at random: odd feeds, odd delays, odd values, holes and rosters."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.lines: list[tuple[int, dict[str, Any] | bytes]] = []
        self.start = HOUR_START + MINUTE * self.random.randrange(-20, 3)
        self.start += self.random.choice((0, 0, 1, 20_000, 59_999))
        self.minutes = self.random.choice((6, 16, 33))
        self.end = self.start + self.minutes * MINUTE
        self.coins = [f"C{i}" for i in range(self.random.choice((1, 2, 3)))]
        self.feeds = {c: [f for f in CHANNELS if not self.one_in(4)] for c in self.coins}
        self.price = {coin: 10.0 ** self.random.randrange(-4, 5) for coin in self.coins}
        self.kept: list[dict[str, Any]] = []

    def one_in(self, n: int) -> bool:
        """Return true once in a while."""
        return self.random.randrange(n) == 0

    def text(self) -> list[bytes]:
        """Return the log."""
        r = self.random
        if not self.one_in(6):
            self.roster(self.start, self.start // MINUTE * MINUTE + MINUTE, self.coins)
            for _ in range(r.choice((0, 0, 1, 3))):
                some = [coin for coin in self.coins if not self.one_in(3)]
                at = r.randrange(self.start, self.end)
                self.roster(at, at // MINUTE * MINUTE + MINUTE * r.randrange(-2, 4), some)
        step = r.choice((400, 1500, 6000))
        at = self.start
        while at < self.end + 5000:
            at += 1 + int(2 * step * r.random())
            if self.one_in(400):
                at += r.choice((4999, 5001, 20_000, 61_000, 200_000))
            self.frame(at)
        for at in range(self.start, self.end + 6000, r.choice((1000, 4000))):
            self.lines.append((at, {"channel": r.choice(("alpha.clock", "pong"))}))
        for _ in range(r.choice((0, 0, 2, 5))):
            self.gap(r.randrange(self.start, self.end))
        lost = [r.randrange(self.start, self.end) for _ in range(r.choice((0, 0, 1, 2)))]
        wide = r.choice((3000, 5500, 30_000, 150_000))
        kept = [(at, f) for at, f in self.lines if not any(x <= at < x + wide for x in lost)]
        kept.sort(key=lambda line: line[0])
        return [
            b"%d %b\n" % (at * 10**6, f if isinstance(f, bytes) else json.dumps(f).encode())
            for at, f in kept
        ]

    def roster(self, at: int, label: int, coins: list[str]) -> None:
        """Announce who exists."""
        entries = [
            {"uid": self.coins.index(coin), "coin": coin, "channels": self.feeds[coin]}
            for coin in coins
        ]
        data = {"from_ms": label, "assets": entries, "dexes": ["", "xyz"]}
        self.lines.append((at, {"channel": "alpha.roster", "data": data}))

    def gap(self, at: int) -> None:
        """Declare a hole, open or done."""
        r = self.random
        cause = r.choice(("disconnect", "stall", "start"))
        start = at - r.choice((0, 100, 70_000))
        data = {"start_ms": start, "end_ms": None, "cause": cause}
        if self.one_in(2):
            self.lines.append((at, {"channel": "alpha.gap", "data": dict(data)}))
            at += r.choice((1, 30_000, 90_000))
        data["end_ms"] = at - r.choice((0, 0, 500, at % MINUTE))
        if not self.one_in(5):
            self.lines.append((at, {"channel": "alpha.gap", "data": data}))

    def frame(self, at: int) -> None:
        """Say something about some coin, or again what was said."""
        r = self.random
        if self.kept and self.one_in(12):
            self.lines.append((at, r.choice(self.kept[-20:])))
            return
        coin = r.choice(self.coins)
        self.price[coin] *= 1.0 + 0.002 * (r.random() - 0.5)
        if self.one_in(300):
            self.price[coin] *= r.choice((1.25, 0.7, 6.0))
        time = at - r.choice((0, 200, 200, 200, 700, 1400, 1600, 2500, 3100, 61_000))
        time += r.choice((0,) * 20 + (4900, 5100))
        if self.one_in(15):
            time = time // 30_000 * 30_000  # on the edge of a minute or its half
        ways = {"trades": self.trades, "bbo": self.quote, "l2Book": self.book}
        made = ways.get(r.choice(self.feeds[coin] or CHANNELS[-1:]), self.context)(coin, time)
        self.lines.append((at, made))
        self.kept.append(made)

    def px(self, coin: str, off: float = 0.0) -> str:
        """Return a price as text, sometimes an impossible one."""
        if self.one_in(120):
            return self.random.choice(("0", "-1", "1e13", "nan", "abc"))
        return f"{self.price[coin] * (1.0 + off):.6g}"

    def sz(self) -> str:
        """Return a size as text."""
        return "0" if self.one_in(150) else f"{self.random.random() * 10:.3f}"

    def trades(self, coin: str, time: int) -> dict[str, Any]:
        """Return some prints."""
        r = self.random
        prints = []
        for _ in range(r.choice((1, 1, 2, 5, 14))):
            px = self.px(coin) if not self.one_in(60) else f"{self.price[coin] * 7:.6g}"
            prints.append(
                {
                    "coin": coin if not self.one_in(80) else "NONE",
                    "side": r.choice("AB") if not self.one_in(90) else "X",
                    "px": px,
                    "sz": self.sz(),
                    "time": time - r.choice((0, 0, 0, 3, 900)),
                    "tid": r.randrange(500) if self.one_in(5) else r.randrange(10**9),
                }
            )
        return {"channel": "trades", "data": prints}

    def side(self, coin: str, off: float) -> dict[str, str] | None:
        """Return one side of the top of book."""
        return None if self.one_in(25) else {"px": self.px(coin, off), "sz": self.sz()}

    def quote(self, coin: str, time: int) -> dict[str, Any]:
        """Return the top of book, sometimes crossed, locked or one-sided."""
        wide = self.random.choice((1e-4, 1e-4, 3e-4, 2e-3, 0.0, -1e-3))
        sides = [self.side(coin, -wide), self.side(coin, wide)]
        return {"channel": "bbo", "data": {"coin": coin, "time": time, "bbo": sides}}

    def book(self, coin: str, time: int) -> dict[str, Any]:
        """Return a snapshot of none to seven levels a side."""
        levels = []
        for sign in (-1, 1):
            depth = 0 if self.one_in(12) else self.random.randrange(1, 8)
            offs = [sign * (k + 0.5) * 1e-4 for k in range(depth)]
            if self.one_in(40):
                offs = [-off for off in offs]
            levels.append([{"px": self.px(coin, off), "sz": self.sz()} for off in offs])
        return {"channel": "l2Book", "data": {"coin": coin, "time": time, "levels": levels}}

    def context(self, coin: str, time: int) -> dict[str, Any]:
        """Return the state of a perp by one of the three ways."""
        r = self.random
        contexts: list[Any] = []
        for name in self.coins:
            mark = self.price[name]
            ctx: dict[str, Any] = {
                "openInterest": f"{1000 * r.random():.4f}" if not self.one_in(30) else "0",
                "markPx": f"{mark:.6g}",
                "oraclePx": f"{mark * (1 + 1e-3 * (r.random() - 0.5)):.6g}",
                "funding": f"{1e-5 * r.random():.8f}",
            }
            if self.one_in(4):
                ctx["openInterest"] = None
            if self.one_in(8):
                ctx["oraclePx"] = r.choice((None, "0"))
            if self.one_in(8):
                del ctx["funding"]
            contexts.append(ctx if not self.one_in(10) else None)
        way = r.randrange(4) if "activeAssetCtx" in self.feeds[coin] else r.randrange(2)
        if way == 0:
            return {"channel": "allDexsAssetCtxs", "data": {"ctxs": [["", contexts]]}}
        if way == 1:
            answer = [{"universe": []}, contexts]
            return {"channel": "alpha.context", "data": {"dex": "", "answer": answer}}
        ctx = contexts[self.coins.index(coin)] or {}
        return {"channel": "activeAssetCtx", "data": {"coin": coin, "ctx": ctx}}


@pytest.mark.parametrize("seed", range(24))
def test_oracle_anything_at_all(agree: Callable[..., Any], seed: int) -> None:
    """Small logs drawn at random: whatever they hold, the rows are those of the definitions."""
    agree(Chance(seed).text()).check()


# --- where flow and definitions part -------------------------------------------------------------


def small(frames: list[tuple[int, dict[str, Any]]], minutes: int, *channels: str) -> list[bytes]:
    """Return a log of one asset: frames by ms since the start, a heartbeat a second."""
    at = [(ms, frame) for ms, frame in frames]
    at += [(ms, {"channel": "alpha.clock"}) for ms in range(0, minutes * MINUTE + 5000, 1000)]
    if channels:
        entry = {"uid": 0, "coin": "BTC", "channels": list(channels)}
        data = {"from_ms": HOUR_START + MINUTE, "assets": [entry], "dexes": [""]}
        at.insert(0, (0, {"channel": "alpha.roster", "data": data}))
    at.sort(key=lambda line: line[0])
    return [
        b"%d %b\n" % ((HOUR_START + ms) * 10**6, json.dumps(frame).encode()) for ms, frame in at
    ]


@pytest.mark.parametrize("late", [-1, 0, 1])
def test_oracle_at_the_limits(agree: Callable[..., Any], late: int) -> None:
    """Ages, delays and shares that lie on a limit, one ms before it and one ms after it."""
    close = 2 * MINUTE
    ctx = {"openInterest": "5", "oraclePx": "80000", "markPx": "80001", "funding": "1e-5"}
    frames = []
    for ms, wide in ((MINUTE, 1), (close - 3_000 - late, 5)):  # the wider spread for 5 % of it
        for channel in ("bbo", "l2Book"):
            bid, ask = ("80000", "1"), (f"{80000 + wide}", "1")
            made = book if channel == "l2Book" else bbo
            sides = [[bid], [ask]] if channel == "l2Book" else [bid, ask]
            frames.append((ms + 1000 + late, made("BTC", HOUR_START + ms, *sides)))
    for k in range(3):
        late_print = one("BTC", HOUR_START + MINUTE + 5000 + k, "80000", k)
        frames.append((MINUTE + 6000 + k + late, trades(late_print)))
    far = one("BTC", HOUR_START + close + 30_000 + 5000 + late, "80000", 9)
    frames.append((close + 30_000, trades(far)))
    for ms in (close - 20_000 - late, close + MINUTE - 20_000 - late):
        frames.append((ms, {"channel": "activeAssetCtx", "data": {"coin": "BTC", "ctx": ctx}}))
    old = HOUR_START + close + MINUTE - 15_000 - late
    frames.append((close + MINUTE - 14_000, book("BTC", old, [("80000", "1")], [("80001", "1")])))
    frames.append((close + MINUTE + 1_499 + late, trades(one("BTC", old, "80000", 10))))
    frames.append((close + MINUTE + 2_999 + late, trades(one("BTC", old, "80000", 11))))
    hole = {"start_ms": HOUR_START + 4 * MINUTE + late, "cause": "disconnect"}
    hole["end_ms"] = HOUR_START + 5 * MINUTE + late
    frames.append((5 * MINUTE + 500, {"channel": "alpha.gap", "data": hole}))
    agree(small(frames, 6, "trades", "bbo", "l2Book", "activeAssetCtx")).check()


def test_oracle_a_feed_that_is_first_heard_in_the_grace(agree: Callable[..., Any]) -> None:
    """In a log without a roster a feed may appear between the seal and the final of a minute."""
    frames = [
        (30_000, trades(one("BTC", HOUR_START + 29_900, "80000", 1))),
        (62_000, bbo("BTC", HOUR_START + 59_900, ("80000", "1"), ("80000", "1"))),
    ]
    agree(small(frames, 3)).check()


def test_oracle_a_crossed_book_is_not_carried_on(agree: Callable[..., Any]) -> None:
    """Where books stand in for quotes, a crossed one is passed over in every minute."""
    good = [("80000", "1")], [("80002", "1")]
    crossed = [("80003", "1")], [("80001", "1")]
    frames = [
        (30_000, book("BTC", HOUR_START + 29_900, *good)),
        (58_000, book("BTC", HOUR_START + 57_900, *crossed)),
        (90_000, book("BTC", HOUR_START + 89_900, *good)),
    ]
    agree(small(frames, 3, "trades", "l2Book")).check()


def test_oracle_a_repeated_print_of_before_the_first_minute(agree: Callable[..., Any]) -> None:
    """Heard between the first seal and its final, then again: late once, a duplicate once."""
    old = trades(one("BTC", HOUR_START - 5_000, "80000", 1))
    frames = [(62_000, old), (70_000, old)]
    agree(small(frames, 3, "trades", "bbo")).check()


def test_oracle_an_index_without_a_mark_is_not_missing(agree: Callable[..., Any]) -> None:
    """The index is there, the mark is not: open interest is stale, no index is missing."""
    ctx = {"openInterest": "5", "oraclePx": "80000", "markPx": None, "funding": "1e-5"}
    frame = {"channel": "activeAssetCtx", "data": {"coin": "BTC", "ctx": ctx}}
    agree(small([(30_000, frame)], 2, "activeAssetCtx")).check()


def test_oracle_no_depth_without_a_reason(flow: Callable[..., Any]) -> None:
    """Depth is NULL in a minute whose only snapshot is empty: that has a reason (design D23)."""
    levels = [("80000", "1")], [("80002", "1")]
    frames = [(50_000, book("BTC", HOUR_START + 49_900, *levels))]
    for ms in range(55_000, 122_000, 1000):
        frames.append((ms, bbo("BTC", HOUR_START + ms - 100, ("80000", "1"), ("80001", "1"))))
        frames.append((ms + 1, trades(one("BTC", HOUR_START + ms - 100, "80000", ms))))
    frames.append((110_000, book("BTC", HOUR_START + 109_900, [], [])))
    rows = flow(small(frames, 2, "trades", "bbo", "l2Book"))
    row = next(r for r in rows if r.exchange_ts_ms == HOUR_START + 2 * MINUTE and r.tf == "1m")
    assert row.columns["obi_top5_mean_m_1"] == 0.499993750078
    assert row.columns["depth_top5_quote_median_m_1"] is None
    assert row.columns["dq_reasons"] == ["book_missing"]
