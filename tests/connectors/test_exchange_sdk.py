"""The venue's own client library talks to the local exchange: that is what makes it a stand-in."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import orjson
import pytest
from hyperliquid.info import Info

from fixtures.exchange import Exchange, running_exchange

START_MS = 1_788_490_000_000
COINS = ("BTC", "ETH")


def recording(seconds: int) -> Iterator[bytes]:
    """Return lines with one frame of each kind per coin and second."""
    for second in range(seconds):
        at = START_MS + second * 1000
        for index, coin in enumerate(COINS):
            px = 100 * (index + 1) + second % 7
            level = [{"px": f"{px}.0", "sz": "2.0", "n": 1}], [{"px": f"{px}.5", "sz": "1", "n": 1}]
            trade = {"coin": coin, "side": "B", "px": f"{px}.5", "sz": "0.25", "time": at}
            trade |= {"hash": "0x0", "tid": second * 10 + index, "users": ["0xa", "0xb"]}
            ctx = {"funding": "0.0000125", "openInterest": "10.0", "prevDayPx": "90.0"}
            ctx |= {"dayNtlVlm": "5.0", "premium": None, "oraclePx": "99.0", "markPx": f"{px}.0"}
            ctx |= {"midPx": f"{px}.25", "impactPxs": None, "dayBaseVlm": "1.0"}
            frames = {
                "trades": [trade],
                "bbo": {"coin": coin, "time": at, "bbo": [level[0][0], level[1][0]]},
                "l2Book": {"coin": coin, "time": at, "levels": level, "fast": True},
                "activeAssetCtx": {"coin": coin, "ctx": ctx},
            }
            for channel, data in frames.items():
                frame = orjson.dumps({"channel": channel, "data": data})
                yield b"%d %b" % ((at + 400) * 1_000_000, frame)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most 10 s."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "expected the condition within 10 s"
        time.sleep(0.005)


class Received:
    """Counts what the library's callbacks get, by channel, and keeps the last of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last: dict[str, dict] = {}
        self._arrived = threading.Condition()

    def __call__(self, message: dict) -> None:
        with self._arrived:
            self.counts[message["channel"]] += 1
            self.last[message["channel"]] = message
            self._arrived.notify_all()

    def wait_for(self, **counts: int) -> None:
        """Block until every channel has been seen so many times, at most 10 s."""
        with self._arrived:
            done = self._arrived.wait_for(
                lambda: all(self.counts[name] >= n for name, n in counts.items()), timeout=10
            )
        assert done, f"expected {counts}, received {dict(self.counts)}"


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with running_exchange(lines=recording(200), seed=[]) as server:
        yield server


@pytest.fixture
def info(exchange: Exchange) -> Iterator[Info]:
    client = Info(base_url=exchange.url, timeout=5)
    wait_until(lambda: client.ws_manager.ws_ready and exchange.sessions == 1)
    yield client
    # Closed from its own side the library's reader may look up only 10 s later; closed by the
    # exchange it ends at once, but forgets its TCP socket.
    manager, socket = client.ws_manager, client.ws_manager.ws.sock
    exchange.drop(code=1000)
    manager.join(10)
    assert not manager.is_alive()
    if socket is not None:
        socket.shutdown()
    client.disconnect_websocket()
    client.session.close()


@pytest.mark.service
def test_sdk_receives_every_channel(exchange: Exchange, info: Info) -> None:
    """trades, bbo, book, candle, mids and context arrive through the library's own dispatch."""
    got = Received()
    for kind in ("trades", "bbo", "l2Book", "activeAssetCtx"):
        info.subscribe({"type": kind, "coin": "BTC"}, got)
    info.subscribe({"type": "candle", "coin": "BTC", "interval": "1m"}, got)
    number = info.subscribe({"type": "allMids"}, got)
    wait_until(lambda: len(exchange.subscriptions()) == 6)

    exchange.play(float("inf"))
    assert exchange.wait_played(10)

    got.wait_for(
        trades=200, bbo=200, candle=200, activeAssetCtx=200, l2Book=200 // 5, allMids=200 // 5
    )
    assert got.last["trades"]["data"][0]["coin"] == "BTC"
    assert len(got.last["bbo"]["data"]["bbo"]) == 2
    assert "fast" not in got.last["l2Book"]["data"]
    candle = got.last["candle"]["data"]
    assert candle["T"] - candle["t"] == 59_999
    assert candle["v"] == str(0.25 * candle["n"])
    assert set(got.last["allMids"]["data"]["mids"]) == {"BTC", "ETH"}

    assert info.unsubscribe({"type": "allMids"}, number)
    wait_until(lambda: len(exchange.subscriptions()) == 5)


def test_sdk_rest_calls(exchange: Exchange, info: Info) -> None:
    """The library's REST calls work and agree with what was played."""
    exchange.step(100_000)

    universe = info.meta()["universe"]
    assert [entry["name"] for entry in universe] == ["BTC", "ETH", "MATIC", "kPEPE"]
    assert info.name_to_asset("ETH") == 1
    meta, ctxs = info.meta_and_asset_ctxs()
    assert len(meta["universe"]) == len(ctxs) == 4
    assert ctxs[1]["openInterest"] == "10.0"
    assert ctxs[2]["midPx"] is None
    assert info.all_mids() == {"BTC": "103.25", "ETH": "203.25"}
    book = info.l2_snapshot("ETH")
    assert [len(side) for side in book["levels"]] == [1, 1]

    end = START_MS + 200_000
    candles = info.candles_snapshot("BTC", "1m", START_MS, end)
    assert [candle["t"] % 60_000 for candle in candles] == [0] * len(candles)
    assert sum(candle["n"] for candle in candles) == 200
    assert candles[0]["t"] <= START_MS <= candles[0]["T"]
    fives = info.candles_snapshot("BTC", "5m", START_MS, end)
    assert sum(candle["n"] for candle in fives) == 200
    funding = info.funding_history("BTC", START_MS - 7_200_000, START_MS)
    assert [row["coin"] for row in funding] == ["BTC", "BTC"]
    assert info.spot_meta()["universe"][0]["name"] == "PURR/USDC"
    assert info.perp_dexs() == [None]


def test_sdk_candles_are_made_of_the_trades(exchange: Exchange, info: Info) -> None:
    """What the library gets is what it would have counted itself, minute by minute; minutes without
    a trade that are over are flat, and an unknown coin has none."""
    exchange.step(100_000)
    trades: dict[int, list[dict]] = {}
    for line in recording(200):
        frame = orjson.loads(line.partition(b" ")[2])
        if frame["channel"] == "trades" and frame["data"][0]["coin"] == "ETH":
            (trade,) = frame["data"]
            trades.setdefault(trade["time"] // 60_000 * 60_000, []).append(trade)
    exchange.faults.skew_ms = 180_000

    candles = info.candles_snapshot("ETH", "1m", START_MS - 60_000, START_MS + 400_000)

    traded = {candle["t"]: candle for candle in candles if candle["n"]}
    assert traded.keys() == trades.keys()
    for t, made_of in trades.items():
        prices = [float(trade["px"]) for trade in made_of]
        candle = traded[t]
        assert (candle["s"], candle["i"], candle["T"]) == ("ETH", "1m", t + 59_999)
        assert [float(candle[name]) for name in "ohlc"] == [
            *(prices[0], max(prices), min(prices), prices[-1])
        ]
        assert float(candle["v"]) == 0.25 * len(made_of)
        assert candle["n"] == len(made_of)
    # The recording ends in the minute of its last trade, the clock three minutes later.
    flat = [candle for candle in candles if not candle["n"]]
    assert [candle["t"] - max(traded) for candle in flat] == [60_000, 120_000]
    assert {candle[name] for candle in flat for name in "ohlc"} == {traded[max(traded)]["c"]}
    assert {float(candle["v"]) for candle in flat} == {0.0}
    unknown = {"coin": "NOPE", "interval": "1m", "startTime": START_MS, "endTime": START_MS}
    assert info.post("/info", {"type": "candleSnapshot", "req": unknown}) is None
