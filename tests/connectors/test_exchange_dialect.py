"""The local exchange behaves as the venue was measured to behave (venue reference 2, 3, 5)."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedOK,
    InvalidStatus,
    WebSocketException,
)
from websockets.sync.client import ClientConnection, connect

from fixtures.exchange import (
    MALFORMED,
    Exchange,
    Limits,
    aggregate_levels,
    normalise,
    running_exchange,
    universe_of,
)

START_MS = 1_788_490_000_000


def line(at_ms: int, channel: str, data: Any) -> bytes:
    return b"%d %b" % (at_ms * 1_000_000, orjson.dumps({"channel": channel, "data": data}))


def trade(number: int, coin: str = "BTC", at_ms: int | None = None) -> dict[str, Any]:
    at_ms = START_MS + number * 1000 if at_ms is None else at_ms
    print_ = {"coin": coin, "side": "B", "px": f"{100 + number}.0", "sz": "0.5", "time": at_ms}
    return {**print_, "hash": "0x0", "tid": number, "users": ["0xa", "0xb"]}


def trades(count: int, coin: str = "BTC") -> list[bytes]:
    return [line(START_MS + n * 1000, "trades", [trade(n, coin)]) for n in range(count)]


def book(at_ms: int, *, fast: bool, levels: int = 6) -> bytes:
    sides = [
        [{"px": f"{100 - i}.5", "sz": "1.0", "n": 1} for i in range(levels)],
        [{"px": f"{101 + i}.5", "sz": "1.0", "n": 1} for i in range(levels)],
    ]
    data: dict[str, Any] = {"coin": "BTC", "time": at_ms, "levels": sides}
    return line(at_ms, "l2Book", {**data, "fast": True} if fast else data)


class Client:
    """A socket that sends objects and reads frames in order."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def send(self, message: Any) -> None:
        self.socket.send(message if isinstance(message, str) else json.dumps(message))

    def subscribe(self, method: str = "subscribe", **subscription: Any) -> None:
        self.send({"method": method, "subscription": subscription})

    def read(self) -> Any:
        return json.loads(self.socket.recv(timeout=5))

    def ask(self, message: Any) -> Any:
        self.send(message)
        return self.read()

    def drain(self) -> list[Any]:
        """Return everything that was sent before now: a pong marks the end."""
        self.send({"method": "ping"})
        frames = []
        while (frame := self.read()) != {"channel": "pong"}:
            frames.append(frame)
        return frames


@contextmanager
def client_of(exchange: Exchange) -> Iterator[Client]:
    with connect(exchange.ws_url, proxy=None, compression=None) as socket:
        yield Client(socket)


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with running_exchange(lines=trades(50), keep_sent=True) as server:
        yield server


@pytest.fixture
def client(exchange: Exchange) -> Iterator[Client]:
    with client_of(exchange) as connected:
        yield connected


def ack(subscription: dict[str, Any], method: str = "subscribe") -> dict[str, Any]:
    data = {"method": method, "subscription": subscription}
    return {"channel": "subscriptionResponse", "data": data}


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most 5 s."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "expected the condition within 5 s"
        time.sleep(0.005)


def info(exchange: Exchange, **body: Any) -> httpx.Response:
    # Without TLS there are no certificates to load, which takes longer than the request.
    return httpx.post(f"{exchange.url}/info", json=body, trust_env=False, verify=False)


# --- acks and errors -------------------------------------------------------------------------


def test_acks_normalise_books_and_candles(client: Client) -> None:
    """A book comes back with its defaults filled in, a candle with `interval` first."""
    client.subscribe(type="l2Book", coin="BTC")
    expected = {"type": "l2Book", "coin": "BTC", "nSigFigs": None, "mantissa": None}
    assert client.read() == ack({**expected, "fast": False})
    client.subscribe(type="l2Book", coin="BTC", fast=True)
    assert client.read() == ack({**expected, "fast": True})
    client.subscribe(type="candle", coin="BTC", interval="1m")
    frame = client.socket.recv(timeout=5)
    assert '"subscription":{"type":"candle","interval":"1m","coin":"BTC"}' in str(frame)


def test_ping_is_answered_without_data(client: Client) -> None:
    """The pong has no `data` member."""
    client.send('{"method":"ping"}')
    assert client.socket.recv(timeout=5) == '{"channel":"pong"}'


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[1]",
        '{"method":"subscribe","xsubscription":{"type":"bbo","coin":"BTC"}}',
        '{"method": "subscribe", "subscription": {"type": "noSuchType", "coin": "BTC"}}',
        '{"method":"subscribe","subscription":{"type":"candle","coin":"BTC","interval":"2m"}}',
        '{"method":"subscribe","subscription":{"type":"candle","coin":"BTC","interval":[]}}',
        '{"method":"subscribe","subscription":{"type":"l2Book","coin":"BTC","nSigFigs":9}}',
        '{"method":"subscribe","subscription":{"type":"webData2","user":"0x0"}}',
        '{"method":"post","id":"x","request":{}}',
    ],
)
def test_malformed_requests_are_echoed_and_survived(client: Client, text: str) -> None:
    """An unknown type or a malformed request costs an error frame, not the socket."""
    complaint = f"Error parsing JSON into valid websocket request: {text}"
    assert client.ask(text) == {"channel": "error", "data": complaint}
    assert client.drain() == []


def test_double_subscribe_and_unsubscribe(client: Client) -> None:
    """The second of either is an error that echoes the normalised subscription."""
    eth = {"type": "trades", "coin": "ETH"}
    echo = '{"type":"trades","coin":"ETH"}'
    client.subscribe(**eth)
    assert client.read() == ack(eth)
    client.subscribe(**eth)
    assert client.read() == {"channel": "error", "data": f"Already subscribed: {echo}"}
    client.subscribe("unsubscribe", **eth)
    assert client.read() == ack(eth, "unsubscribe")
    client.subscribe("unsubscribe", **eth)
    assert client.read() == {"channel": "error", "data": f"Already unsubscribed: {echo}"}
    client.subscribe("unsubscribe", type="l2Book", coin="BTC")
    assert client.read()["data"].endswith('"nSigFigs":null,"mantissa":null,"fast":false}')


def test_unknown_coin_kills_the_socket_without_a_close_frame(
    exchange: Exchange, client: Client
) -> None:
    """No error, no close frame, and the other subscriptions of that socket are gone with it."""
    with client_of(exchange) as other:
        other.subscribe(type="bbo", coin="BTC")
        assert other.read() == ack({"type": "bbo", "coin": "BTC"})
        client.subscribe(type="trades", coin="BTC")
        client.read()
        client.subscribe(type="bbo", coin="NOTACOIN")
        with pytest.raises(ConnectionClosed) as closed:
            client.read()
        assert closed.value.rcvd is None
        assert other.drain() == []
        until(lambda: exchange.sessions == 1)
        assert [topic for _, topic in exchange.subscriptions()] == [("bbo", "BTC")]


def test_coin_names_are_case_sensitive(client: Client) -> None:
    """`kPEPE` exists, `KPEPE` does not."""
    client.subscribe(type="bbo", coin="kPEPE")
    client.read()
    client.subscribe(type="bbo", coin="KPEPE")
    with pytest.raises(ConnectionClosed):
        client.read()


# --- limits ----------------------------------------------------------------------------------


def test_limits_have_the_venues_words() -> None:
    """Subscriptions and messages are limited over all sockets; the socket survives."""
    limits = Limits(subscriptions=3, messages_per_min=6)
    with running_exchange(limits=limits) as exchange, client_of(exchange) as one:
        with client_of(exchange) as two:
            for client, coin in ((one, "BTC"), (two, "BTC"), (two, "ETH")):
                client.subscribe(type="trades", coin=coin)
                client.read()
            one.subscribe(type="trades", coin="ETH")
            text = "Cannot subscribe to more than 3 channels."
            assert one.read() == {"channel": "error", "data": text}
        assert one.drain() == []
        assert one.ask({"method": "ping"}) == {"channel": "pong"}
        text = "Cannot send more than 6 messages per minute."
        assert one.ask({"method": "ping"}) == {"channel": "error", "data": text}
    assert (Limits().subscriptions, Limits().messages_per_min) == (1000, 2000)


def test_connection_limits() -> None:
    """Too many sockets, or too many new ones in a minute, are refused at the handshake."""
    with running_exchange(limits=Limits(connections=1, connects_per_min=2)) as exchange:
        with client_of(exchange) as client:
            client.drain()
            with pytest.raises(InvalidStatus), client_of(exchange):
                pass
        until(lambda: exchange.sessions == 0)
        with client_of(exchange) as client:
            client.drain()
        with pytest.raises(InvalidStatus, match="429"), client_of(exchange):
            pass


@pytest.mark.service
def test_idle_socket_is_closed() -> None:
    """What counts is traffic from the server: a quiet socket ends although the client is there."""
    with (
        running_exchange(limits=Limits(idle_s=0.8)) as exchange,
        client_of(exchange) as quiet,
        client_of(exchange) as pinging,
    ):
        for _ in range(40):
            pinging.drain()
            try:
                quiet.socket.recv(timeout=0.1)
            except TimeoutError:
                continue
            except ConnectionClosedOK:
                break
        else:
            pytest.fail("expected the quiet socket to be closed")
        assert pinging.drain() == []


# --- first frames ----------------------------------------------------------------------------


def test_first_trades_frame_replays_thirty(exchange: Exchange, client: Client) -> None:
    """Exactly the 30 newest, oldest first, also on a later socket; then the live flow."""
    exchange.step(45)
    client.subscribe(type="trades", coin="BTC")
    assert client.read() == ack({"type": "trades", "coin": "BTC"})
    assert [t["tid"] for t in client.read()["data"]] == list(range(15, 45))
    exchange.step(1)
    assert [t["tid"] for t in client.read()["data"]] == [45]
    with client_of(exchange) as later:
        later.subscribe(type="trades", coin="BTC")
        later.read()
        assert [t["tid"] for t in later.read()["data"]] == list(range(16, 46))
        later.subscribe(type="trades", coin="ETH")
        assert later.read() == ack({"type": "trades", "coin": "ETH"})
        assert later.drain() == []


def test_seed_is_history_that_was_played_to_nobody() -> None:
    """Trades given as seed are in the replay, in the candles and in `recentTrades`."""
    with running_exchange(seed=trades(40)) as exchange, client_of(exchange) as client:
        client.subscribe(type="trades", coin="BTC")
        client.read()
        assert [t["tid"] for t in client.read()["data"]] == list(range(10, 40))
        recent = info(exchange, type="recentTrades", coin="BTC").json()
        assert [t["tid"] for t in recent[:3]] == [39, 38, 37]


def test_first_frames_carry_the_last_known_state(exchange: Exchange, client: Client) -> None:
    """bbo, book and context are full state, sent right after the ack."""
    bbo = {"coin": "BTC", "time": START_MS, "bbo": [{"px": "1.0", "sz": "1.0", "n": 1}, None]}
    exchange.publish(orjson.dumps({"channel": "bbo", "data": bbo}))
    ctx = {"coin": "BTC", "ctx": {"funding": "0.1", "openInterest": "7.0", "midPx": None}}
    exchange.publish(orjson.dumps({"channel": "activeAssetCtx", "data": ctx}))
    exchange.publish(book(START_MS, fast=True).partition(b" ")[2])
    for kind in ("bbo", "activeAssetCtx"):
        client.subscribe(type=kind, coin="BTC")
        client.read()
        assert client.read() == {"channel": kind, "data": bbo if kind == "bbo" else ctx}
    client.subscribe(type="l2Book", coin="BTC", fast=True)
    client.read()
    data = client.read()["data"]
    assert data["fast"] is True
    assert [len(side) for side in data["levels"]] == [5, 5]
    client.subscribe(type="allDexsAssetCtxs")
    client.read()
    ((dex, rows),) = client.read()["data"]["ctxs"]
    assert (dex, rows[0], rows[1]) == ("", ctx["ctx"], None)


def test_delisted_coin_is_known_and_empty(client: Client) -> None:
    """It acks, and its first frames hold nulls and empty sides."""
    client.subscribe(type="bbo", coin="MATIC")
    client.read()
    assert client.read()["data"]["bbo"] == [None, None]
    client.subscribe(type="l2Book", coin="MATIC")
    client.read()
    assert client.read()["data"]["levels"] == [[], []]
    client.subscribe(type="activeAssetCtx", coin="MATIC")
    client.read()
    ctx = client.read()["data"]["ctx"]
    assert (ctx["midPx"], ctx["premium"], ctx["impactPxs"]) == (None, None, None)
    assert ctx["openInterest"] == "0.0"


def test_spot_context_answers_on_its_own_channel(exchange: Exchange, client: Client) -> None:
    """`activeAssetCtx` of a spot pair comes as `activeSpotAssetCtx`."""
    client.subscribe(type="activeAssetCtx", coin="PURR/USDC")
    client.read()
    data = {"coin": "PURR/USDC", "ctx": {"markPx": "0.2", "coin": "PURR/USDC"}}
    exchange.publish(orjson.dumps({"channel": "activeSpotAssetCtx", "data": data}))
    assert client.read() == {"channel": "activeSpotAssetCtx", "data": data}


# --- what is derived -------------------------------------------------------------------------


def test_book_modes_are_derived_and_slower(exchange: Exchange, client: Client) -> None:
    """A recording of fast books serves slow subscribers every 5 s of exchange time."""
    client.subscribe(type="l2Book", coin="BTC")
    client.subscribe(type="l2Book", coin="BTC", fast=True)
    client.subscribe(type="l2Book", coin="BTC", nSigFigs=2)
    client.drain()
    for step in range(21):
        raw = book(START_MS + step * 500, fast=True).partition(b" ")[2]
        exchange.publish(raw)
    data = [frame["data"] for frame in client.drain()]
    assert sum("fast" in d for d in data) == 21
    slow = [d["time"] for d in data if "fast" not in d and "spread" not in d]
    assert slow == [START_MS, START_MS + 5000, START_MS + 10_000]
    merged = next(d for d in data if "spread" in d)
    assert [level["px"] for level in merged["levels"][1]] == ["110.0"]
    assert merged["levels"][1][0]["sz"] == "6.0"


def test_levels_round_away_from_the_middle() -> None:
    """Merging never makes a price better."""
    levels = [{"px": "12345.0", "sz": "1.0", "n": 2}, {"px": "12344.0", "sz": "2.0", "n": 1}]
    down = aggregate_levels(levels, 5, 2, "ROUND_FLOOR")
    assert down == [{"px": "12344.0", "sz": "3.0", "n": 3}]
    assert aggregate_levels(levels, 3, 1, "ROUND_CEILING")[0]["px"] == "12400.0"


def test_candle_stream_runs_and_never_closes(exchange: Exchange, client: Client) -> None:
    """Each trade updates the running candle; a new minute simply has a later `t`."""
    client.subscribe(type="candle", coin="BTC", interval="1m")
    client.read()
    exchange.step(30)
    rows = [frame["data"] for frame in client.drain()]
    assert len(rows) == 30
    assert sorted({row["t"] for row in rows}) == [1_788_489_960_000, 1_788_490_020_000]
    last = rows[-1]
    assert (last["o"], last["c"], last["l"], last["h"]) == ("120.0", "129.0", "120.0", "129.0")
    assert (last["v"], last["n"], last["s"], last["i"]) == ("5.0", 10, "BTC", "1m")


def test_raw_frames_pass_unchanged_unless_time_moves() -> None:
    """A recorded frame is passed on byte for byte; rebasing moves its time to now."""
    (raw,) = trades(1)
    for rebase in (False, True):
        with running_exchange(lines=[raw], rebase=rebase) as exchange:
            with client_of(exchange) as client:
                client.subscribe(type="trades", coin="BTC")
                client.read()
                exchange.step()
                text = client.socket.recv(timeout=5)
                if not rebase:
                    assert text == raw.partition(b" ")[2].decode()
                    continue
                shift = json.loads(text)["data"][0]["time"] - START_MS
            status = info(exchange, type="exchangeStatus").json()
            assert 0 <= status["time"] - START_MS - shift < 10_000


@pytest.mark.service
def test_play_keeps_the_timing_divided_by_speed() -> None:
    """At speed N a recording takes a N-th of its time, and exchange time runs linearly with it."""
    with running_exchange(lines=trades(11), rebase=True) as exchange, client_of(exchange) as client:
        client.subscribe(type="trades", coin="BTC")
        client.read()
        exchange.play(20.0)
        times = [client.read()["data"][0]["time"] for _ in range(11)]
        assert exchange.wait_played(5)
        assert times[-1] - times[0] == 500


@pytest.mark.service
def test_pause_loses_nothing() -> None:
    """The frame that was being waited for is the next one."""
    with running_exchange(lines=trades(4)) as exchange:
        exchange.play(10.0)
        until(lambda: exchange.counters["played"] == 2)
        exchange.pause()
        assert exchange.step(9) == 2
        assert len(info(exchange, type="recentTrades", coin="BTC").json()) == 4


def test_control_lines_acks_and_pongs_are_not_played() -> None:
    """Only market frames are; a recording may contain anything."""
    lines = [
        line(START_MS, "alpha.clock", None),
        b'%d {"channel":"pong"}' % (START_MS * 1_000_000),
        line(START_MS, "subscriptionResponse", {"method": "subscribe", "subscription": {}}),
        b"torn",
        line(START_MS, "trades", {"not": "a list"}),
        line(START_MS, "bbo", {"coin": "BTC"}),
        *trades(1),
    ]
    with running_exchange(lines=lines) as exchange:
        assert exchange.step(100) == 1
        assert exchange.counters["skipped"] == 6


def test_universe_of_a_recording() -> None:
    """Ids come from the roster; coins without one follow, holes are delisted placeholders."""
    assets = [{"uid": 2, "coin": "ETH", "channels": []}]
    roster = line(START_MS, "alpha.roster", {"from_ms": 0, "assets": assets, "dexes": [""]})
    universe = universe_of([roster, *trades(1)])["universe"]
    assert [entry["name"] for entry in universe] == ["BTC", "UNLISTED1", "ETH"]
    assert universe[1]["isDelisted"] is True


@pytest.mark.service
def test_command_line_serves_a_recording(tmp_path: Path) -> None:
    """The first line printed is the address; the universe is that of the recording."""
    log = tmp_path / "ticks.log"
    log.write_bytes(b"\n".join([*trades(5, "DOGE"), b""]))
    command = [sys.executable, "-m", "fixtures.exchange", "--log", str(log), "--speed", "inf"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        body = {"type": "recentTrades", "coin": "DOGE"}
        rows = httpx.post(f"{url}/info", json=body, trust_env=False, verify=False).json()
        process.terminate()
        assert process.wait(10) == 0
    assert rows is not None


# --- REST ------------------------------------------------------------------------------------


def test_rest_unknown_coin_is_null_with_200(exchange: Exchange) -> None:
    """Unknown is null; delisted is empty."""
    req = {"coin": "NOPE", "interval": "1m", "startTime": 0}
    for body in (
        {"type": "l2Book", "coin": "NOPE"},
        {"type": "candleSnapshot", "req": req},
        {"type": "recentTrades", "coin": "NOPE"},
        {"type": "fundingHistory", "coin": "NOPE", "startTime": 0},
    ):
        response = info(exchange, **body)
        assert (response.status_code, response.text) == (200, "null")
    assert info(exchange, type="l2Book", coin="MATIC").json()["levels"] == [[], []]
    assert info(exchange, type="candleSnapshot", req={**req, "coin": "MATIC"}).json() == []


@pytest.mark.parametrize(
    "body",
    [
        {"type": "nonsense"},
        {"type": "candleSnapshot", "req": {"coin": "BTC", "interval": "2m", "startTime": 0}},
        {"type": "candleSnapshot", "req": {"coin": "BTC", "interval": "1m"}},
        {"type": "fundingHistory", "coin": "BTC"},
        {"type": "l2Book"},
        {"type": "l2Book", "coin": "BTC", "nSigFigs": 7},
        {"type": "meta", "dex": 1},
    ],
)
def test_rest_bad_values_are_422_plain_text(exchange: Exchange, body: dict[str, Any]) -> None:
    """The body is not JSON."""
    response = info(exchange, **body)
    assert response.status_code == 422
    assert response.headers["content-type"].startswith("text/plain")
    with pytest.raises(json.JSONDecodeError):
        response.json()


def test_rest_weights_lead_to_429() -> None:
    """20 for most, 2 for the cheap ones, and long answers cost more; `Retry-After` is optional."""
    with running_exchange(limits=Limits(weight_per_min=50)) as exchange:
        codes = [info(exchange, type="meta").status_code for _ in range(2)]
        codes += [info(exchange, type="allMids").status_code for _ in range(6)]
        assert codes == [200] * 7 + [429]
        assert "retry-after" not in info(exchange, type="allMids").headers
        exchange.faults.retry_after = "7"
        assert info(exchange, type="allMids").headers["retry-after"] == "7"
        with client_of(exchange) as client:
            payload = {"type": "info", "payload": {"type": "meta"}}
            answer = client.ask({"method": "post", "id": 1, "request": payload})
            assert answer["data"]["response"]["type"] == "error"


def test_rest_faults_are_switched_at_run_time(exchange: Exchange) -> None:
    """A 5xx has an HTML body; a given number of failures runs out."""
    exchange.faults.http_5xx, exchange.faults.http_429 = 1, 1
    answers = [info(exchange, type="meta") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [502, 429, 200]
    assert answers[0].text.startswith("<html>")


def test_candle_snapshot_is_aligned_filled_and_the_newest_part() -> None:
    """Rows cover the start, quiet minutes are flat, and a window that is too wide is cut."""
    prints = [trade(1, at_ms=START_MS), trade(2, at_ms=START_MS + 180_000)]
    seed = [line(START_MS, "trades", prints)]
    with running_exchange(seed=seed) as exchange:
        req = {"coin": "BTC", "interval": "1m", "startTime": START_MS, "endTime": START_MS * 2}
        rows = info(exchange, type="candleSnapshot", req=req).json()
        assert [row["n"] for row in rows] == [1, 0, 0, 1]
        assert rows[0]["t"] < START_MS <= rows[0]["T"]
        assert (rows[1]["o"], rows[1]["c"], rows[1]["v"]) == ("101.0", "101.0", "0.0")
        day = info(exchange, type="candleSnapshot", req={**req, "interval": "1d"}).json()
        assert [(row["n"], row["o"], row["c"]) for row in day] == [(2, "101.0", "102.0")]
    far = trade(3, at_ms=START_MS + 6000 * 60_000)
    with running_exchange(seed=[*seed, line(START_MS, "trades", [far])]) as exchange:
        rows = info(exchange, type="candleSnapshot", req=req).json()
        assert (len(rows), rows[-1]["n"]) == (5000, 1)


def test_rest_venue_wide_answers(exchange: Exchange) -> None:
    """Shapes of the answers that name every asset."""
    exchange.step(3)
    assert info(exchange, type="allMids").json() == {"BTC": "102.0"}
    assert info(exchange, type="perpDexs").json() == [None]
    fundings = info(exchange, type="predictedFundings").json()
    coin, venues = fundings[0]
    assert coin == "BTC"
    assert [name for name, _ in venues] == ["BinPerp", "HlPerp", "BybitPerp"]
    assert venues[1][1]["nextFundingTime"] <= START_MS + 2000
    assert info(exchange, type="metaAndAssetCtxs", dex="nope").json() is None
    assert len(info(exchange, type="spotMetaAndAssetCtxs").json()) == 2
    rows = info(exchange, type="fundingHistory", coin="BTC", startTime=0, endTime=START_MS).json()
    assert len(rows) == 500
    assert httpx.get(f"{exchange.url}/info", trust_env=False, verify=False).status_code == 404


def test_post_over_the_socket(client: Client) -> None:
    """`/info` over the socket wraps the same answer; an unknown type is an error without id."""
    payload = {"type": "info", "payload": {"type": "l2Book", "coin": "NOPE"}}
    answer = client.ask({"method": "post", "id": 9, "request": payload})
    response = {"type": "info", "payload": {"type": "l2Book", "data": None}}
    assert answer == {"channel": "post", "data": {"id": 9, "response": response}}
    payload = {"type": "info", "payload": {"type": "nonsense"}}
    assert client.ask({"method": "post", "id": 9, "request": payload})["channel"] == "error"


# --- faults ----------------------------------------------------------------------------------


def test_duplicate_reorder_and_skew(exchange: Exchange, client: Client) -> None:
    """Each is off by default and can be switched while playing."""
    client.subscribe(type="trades", coin="BTC")
    client.read()
    exchange.faults.duplicate_every = 2
    exchange.step(4)
    assert [f["data"][0]["tid"] for f in client.drain()] == [0, 1, 1, 2, 3, 3]
    exchange.faults.duplicate_every, exchange.faults.reorder_every = 0, 2
    exchange.step(4)
    assert [f["data"][0]["tid"] for f in client.drain()] == [4, 6, 5]
    exchange.faults.reorder_every, exchange.faults.skew_ms = 0, -5000
    exchange.step(1)
    held, skewed = client.drain()
    held, skewed = sorted((held, skewed), key=lambda frame: frame["data"][0]["tid"])
    assert held["data"][0]["tid"] == 7
    assert skewed["data"][0]["time"] == START_MS + 8000 - 5000


def test_malformed_frames_follow_good_ones(exchange: Exchange, client: Client) -> None:
    """Every kind in turn, and any bytes by hand."""
    client.subscribe(type="trades", coin="BTC")
    client.read()
    client.socket.protocol.max_message_size = 8 << 20
    exchange.faults.malformed_every = 1
    exchange.step(len(MALFORMED))
    exchange.inject(b"{}")
    frames = [client.socket.recv(timeout=5, decode=False) for _ in range(2 * len(MALFORMED) + 1)]
    assert frames[-1] == b"{}"
    bad = set(frames[1:-1:2])
    assert len(bad) == len(MALFORMED)
    assert max(len(frame) for frame in bad) > 1 << 20


def test_stall_sends_nothing(exchange: Exchange, client: Client) -> None:
    """The socket stays open, and what was published meanwhile is lost."""
    client.subscribe(type="trades", coin="BTC")
    client.read()
    exchange.faults.stall = True
    exchange.step(2)
    client.send({"method": "ping"})
    with pytest.raises(TimeoutError):
        client.socket.recv(timeout=0.1)
    exchange.faults.stall = False
    exchange.step(1)
    assert client.read()["data"][0]["tid"] == 2


def test_drop_with_and_without_close_frame(exchange: Exchange) -> None:
    """Both ways a venue ends a connection; then it may refuse for a while."""
    with client_of(exchange) as client:
        client.drain()
        assert exchange.drop(code=1000) == 1
        with pytest.raises(ConnectionClosedOK):
            client.read()
    with client_of(exchange) as client:
        client.drain()
        exchange.drop(refuse_s=30.0)
        with pytest.raises(ConnectionClosed) as closed:
            client.read()
        assert closed.value.rcvd is None
        with pytest.raises((OSError, WebSocketException)), client_of(exchange):
            pass
        assert exchange.counters["refused"] == 1
        exchange.drop()
    with client_of(exchange) as client:
        assert client.drain() == []


def test_close_after_accept(exchange: Exchange) -> None:
    """The handshake succeeds and that is all."""
    exchange.faults.close_after_accept = True
    with client_of(exchange) as client, pytest.raises(ConnectionClosed):
        client.read()


def test_relist_changes_the_universe(exchange: Exchange, client: Client) -> None:
    """A listing appends, a delisting flags; both are seen by REST and by the socket."""
    entry = {"szDecimals": 1, "name": "NEW", "maxLeverage": 3, "marginTableId": 3}
    exchange.relist(lambda meta: meta["universe"].append(dict(entry)))
    assert info(exchange, type="meta").json()["universe"][-1]["name"] == "NEW"
    client.subscribe(type="bbo", coin="NEW")
    assert client.read() == ack({"type": "bbo", "coin": "NEW"})
    exchange.relist(lambda meta: meta["universe"][0].update(isDelisted=True))
    client.subscribe(type="bbo", coin="BTC")
    client.read()
    assert client.read()["data"]["bbo"] == [None, None]


def test_normalise_ignores_unknown_members() -> None:
    """Level counts and the like are not part of a subscription."""
    asked = {"type": "l2Book", "coin": "BTC", "nLevels": 50}
    assert normalise(asked) == normalise({"type": "l2Book", "coin": "BTC", "fast": None})
    assert normalise({"type": "allMids"}) == {"type": "allMids"}
    assert normalise({"type": "trades"}) is None
    assert normalise(None) is None
