"""The recorder against the local exchange: what is sent is in the log, and so is what was lost."""

import asyncio
import itertools
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from dataflows.connectors import recorder as recorder_module
from dataflows.connectors.clock import SystemClock
from dataflows.connectors.recorder import Recorder, RecorderConfig, RecorderError
from dataflows.connectors.ticklog import TickLogReader, TickLogWriter
from dataflows.connectors.venue_rest import (
    AsyncVenueRest,
    RestConfig,
    VenueError,
    VenueRest,
    WeightBudget,
    parse_meta,
    parse_meta_and_ctxs,
)
from dataflows.connectors.venue_ws import Pacer, SocketConfig, Subscription
from fixtures.exchange import MALFORMED, Exchange, Limits, running_exchange
from operators import wire

START_MS = 1_788_490_000_000
COINS = ("BTC", "ETH", "kPEPE")
FREE = Limits(connects_per_min=10_000, messages_per_min=100_000, weight_per_min=1_000_000)
FAST = {
    "subscribes_per_s": 5000.0,
    "connects_per_min": 10_000,
    "backoff_s": 0.01,
    "backoff_s_max": 0.05,
    "close_timeout_s": 0.2,
}


# --- what is played, and reading it back -----------------------------------------------------


def recording(frames: int, coins: tuple[str, ...] = COINS) -> Iterator[bytes]:
    """Return lines with trades, bbo and book for each coin in turn."""
    for number in range(frames):
        coin = coins[number // 3 % len(coins)]
        at = START_MS + number * 10
        level = {"px": "100.0", "sz": f"{number}.5", "n": 1}
        data: Any = {"coin": coin, "time": at, "bbo": [level, level]}
        channel = ("trades", "bbo", "l2Book")[number % 3]
        if channel == "trades":
            print_ = {"coin": coin, "side": "A", "px": "100.0", "sz": "0.1", "time": at}
            data = [{**print_, "hash": "0x0", "tid": number, "users": ["0xa", "0xb"]}]
        elif channel == "l2Book":
            data = {"coin": coin, "time": at, "levels": [[level], [level]], "fast": True}
        frame = orjson.dumps({"channel": channel, "data": data})
        yield b"%d %b" % (at * 1_000_000, frame)


def until(condition: Callable[[], bool], seconds: float = 8.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"expected the condition within {seconds:g} s"
        time.sleep(0.005)


def log_of(directory: Path) -> list[tuple[int, bytes]]:
    """Return (stamp, frame) of every complete line."""
    rejects: list[str] = []
    reader = TickLogReader(directory, on_reject=rejects.append)
    lines = list(itertools.chain.from_iterable(iter(lambda: reader.read(1000), [])))
    reader.close()
    assert rejects == []
    pairs = [line.split(b" ", 1) for line in lines]
    return [(int(stamp), frame) for stamp, frame in pairs]


def venue_frames(directory: Path) -> list[bytes]:
    return [frame for _, frame in log_of(directory) if b'"channel":"alpha.' not in frame[:40]]


def controls(directory: Path, name: str) -> list[dict[str, Any]]:
    """Return the data of the control records of one kind."""
    messages = (orjson.loads(frame) for _, frame in log_of(directory) if b'"alpha.' in frame[:40])
    return [m.get("data", {}) for m in messages if m["channel"] == f"alpha.{name}"]


def gaps(directory: Path) -> list[tuple[str, bool]]:
    """Return (cause, open) of the gap records."""
    return [(gap["cause"], gap["end_ms"] is None) for gap in controls(directory, "gap")]


@contextmanager
def running(config: RecorderConfig, clock: Any = None) -> Iterator[Recorder]:
    recorder = Recorder(config, clock)
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.stop()


def config_for(exchange: Exchange, directory: Path, **options: Any) -> RecorderConfig:
    sockets = SocketConfig(**{**FAST, **options.pop("sockets", {})})
    options = {"coins": COINS, "retry_s": 0.02, "retry_s_max": 0.05, **options}
    return RecorderConfig(
        directory, ws_url=exchange.ws_url, rest_url=exchange.url, sockets=sockets, **options
    )


def until_live(directory: Path, times: int = 1) -> None:
    """Wait until so many gaps have been closed and none is open."""

    def live() -> bool:
        records = gaps(directory)
        return sum(not open_ for _, open_ in records) >= times and not records[-1][1]

    until(live)


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with running_exchange(lines=recording(900), limits=FREE, keep_sent=True) as server:
        yield server


# --- what is in the log ----------------------------------------------------------------------


@pytest.mark.service
@pytest.mark.parametrize(
    ("per_socket", "segment_bytes"), [(300, 64 << 20), (3, 64 << 20), (300, 20_000)]
)
def test_log_holds_every_frame_once_and_byte_equal(
    exchange: Exchange, tmp_path: Path, per_socket: int, segment_bytes: int
) -> None:
    """On one socket also in order; over several sockets, and over rotated segments."""
    config = config_for(
        exchange, tmp_path, sockets={"per_socket": per_socket}, segment_bytes_max=segment_bytes
    )
    with running(config) as recorder:
        until_live(tmp_path)
        exchange.play(float("inf"))
        assert exchange.wait_played(10)
        until(lambda: recorder.counters["frames"] == len(exchange.sent))
    received, sent = venue_frames(tmp_path), [frame for _, frame in exchange.sent]
    assert len(sent) == 900 + 2 * (3 * 3 + 1) - 9  # acks; of the first frames only the context
    assert Counter(received) == Counter(sent)
    if per_socket == 300:
        assert received == sent
    assert recorder.counters["connects"] == (1 if per_socket == 300 else 4)
    assert recorder.counters["bytes"] == sum(map(len, sent))
    stamps = [stamp for stamp, _ in log_of(tmp_path)]
    assert stamps == sorted(stamps)
    for frame in received:
        wire.decode(frame)
    pieces = sorted(path.suffix for path in tmp_path.iterdir())
    assert pieces == [".log", *[".zst"] * (len(pieces) - 1)]
    assert (len(pieces) > 1) == (segment_bytes < 1 << 20)


def test_control_records_of_a_start(exchange: Exchange, tmp_path: Path) -> None:
    """Gap open, roster, context, gap closed: in this order, and as the decoder expects them."""
    with running(config_for(exchange, tmp_path, coins=("ETH", "BTC"), heartbeat_ms=50)):
        until_live(tmp_path)
        until(lambda: len(controls(tmp_path, "clock")) >= 2)
    lines = log_of(tmp_path)
    kinds = [orjson.loads(f)["channel"] for _, f in lines if b'"alpha.' in f[:40]]
    kinds = [kind for kind in kinds if kind != "alpha.clock"]
    assert kinds == ["alpha.gap", "alpha.roster", "alpha.context", "alpha.gap"]
    (roster,) = controls(tmp_path, "roster")
    channels = ["trades", "bbo", "l2Book", "context"]
    assert roster["assets"] == [
        {"uid": 0, "coin": "BTC", "channels": channels},
        {"uid": 1, "coin": "ETH", "channels": channels},
    ]
    assert roster["dexes"] == [""]
    at_ms = next(s for s, f in lines if b"alpha.roster" in f[:40]) // 1_000_000
    assert roster["from_ms"] % 60_000 == 0
    assert 0 < roster["from_ms"] - at_ms <= 60_000
    (context,) = controls(tmp_path, "context")
    assert context["dex"] == ""
    assert [len(part) for part in context["answer"]] == [3, 4]  # meta members, contexts
    opened, closed = controls(tmp_path, "gap")
    assert 0 <= lines[0][0] // 1_000_000 - opened["start_ms"] < 1000
    assert (opened["cause"], opened["end_ms"]) == ("start", None)
    assert closed == {**opened, "end_ms": closed["end_ms"]}
    assert lines[0][1].startswith(b'{"channel":"alpha.gap"')
    for _, frame in lines:
        wire.decode(frame)
    acks = (orjson.loads(frame) for _, frame in exchange.sent if b"subscriptionResponse" in frame)
    asked = [ack["data"]["subscription"] for ack in acks]
    assert {sub["type"] for sub in asked} == {"allDexsAssetCtxs", "bbo", "l2Book", "trades"}
    assert all(sub["fast"] for sub in asked if sub["type"] == "l2Book")


@pytest.mark.service
def test_heartbeats_only_fill_silence(exchange: Exchange, tmp_path: Path) -> None:
    """No two lines are further apart than the heartbeat, and a busy log has none."""
    with running(config_for(exchange, tmp_path, heartbeat_ms=50)) as recorder:
        until_live(tmp_path)
        until(lambda: recorder.counters["heartbeats"] >= 6)
        before = recorder.counters["heartbeats"]
        exchange.play(10.0)  # 900 frames, one a millisecond
        assert exchange.wait_played(10)
        assert recorder.counters["heartbeats"] <= before + 9  # in 900 ms without frames: 18
    stamps = [stamp for stamp, _ in log_of(tmp_path)]
    assert max(b - a for a, b in itertools.pairwise(stamps)) < 1_000_000_000  # 20 times it


def test_restart_gap_begins_where_the_log_ended(exchange: Exchange, tmp_path: Path) -> None:
    """Nothing between two recorders is unaccounted for."""
    for times in (1, 2):
        with running(config_for(exchange, tmp_path)):
            until_live(tmp_path, times)
    lines = log_of(tmp_path)
    starts = [n for n, (_, f) in enumerate(lines) if b'"end_ms":null,"cause":"start"' in f]
    assert starts[0] == 0
    gap = orjson.loads(lines[starts[1]][1])["data"]
    assert gap["start_ms"] == lines[starts[1] - 1][0] // 1_000_000


# --- losing the socket -----------------------------------------------------------------------


@pytest.mark.parametrize("code", [None, 1000])
def test_drop_gap_resubscribe_and_replay(
    exchange: Exchange, tmp_path: Path, code: int | None
) -> None:
    """Around a lost socket: gap, reconnect, all acks, the 30-trade replay, end of the gap."""
    with running(config_for(exchange, tmp_path, coins=("BTC",))) as recorder:
        until_live(tmp_path)
        exchange.step(400)
        until(lambda: recorder.counters["frames"] == len(exchange.sent))
        exchange.drop(code=code, refuse_s=60.0)
        until(lambda: recorder.counters["connect_failures"] >= 2)
        exchange.drop()  # nothing is open; connections are accepted again
        until_live(tmp_path, 2)
        exchange.step(3)
        until(lambda: recorder.counters["frames"] == len(exchange.sent))
    assert gaps(tmp_path) == [
        *(("start", True), ("start", False)),
        *(("disconnect", True), ("disconnect", False)),
    ]
    assert recorder.counters["reconnects"] == 1
    assert Counter(venue_frames(tmp_path)) == Counter(frame for _, frame in exchange.sent)
    frames = [frame for _, frame in log_of(tmp_path)]
    opened = max(n for n, f in enumerate(frames) if b'"end_ms":null,"cause":"disconnect"' in f)
    closed = max(n for n, f in enumerate(frames) if b'"cause":"disconnect"' in f)
    acks = [n for n, f in enumerate(frames) if b'"subscriptionResponse"' in f]
    assert len(acks) == 8
    assert all(opened < n < closed for n in acks[4:])
    last_before = max(n for n in range(opened) if b'"channel":"alpha.' not in frames[n][:30])
    gap = orjson.loads(frames[opened])["data"]
    assert gap["start_ms"] == log_of(tmp_path)[last_before][0] // 1_000_000
    replays = [f for f in frames if b'"trades"' in f[:20] and f.count(b'"tid"') == 30]
    assert len(replays) == 1


@pytest.mark.service
def test_stall_is_noticed_by_the_missing_pong(exchange: Exchange, tmp_path: Path) -> None:
    """An open socket that carries nothing is given up; the gap begins at its last frame."""
    sockets = {"ping_s": 0.1, "pong_timeout_s": 0.2, "ack_timeout_s": 0.3}
    with running(config_for(exchange, tmp_path, sockets=sockets)) as recorder:
        until_live(tmp_path)
        exchange.faults.stall = True
        until(lambda: recorder.counters["stalls"] >= 1)
        until(lambda: recorder.counters["reconnects"] >= 1)
        exchange.faults.stall = False
        until_live(tmp_path, 2)
    assert gaps(tmp_path)[2:] == [("stall", True), ("stall", False)]
    lines = log_of(tmp_path)
    at = next(n for n, (_, f) in enumerate(lines) if b'"cause":"stall"' in f)
    assert lines[at][0] // 1_000_000 - orjson.loads(lines[at][1])["data"]["start_ms"] >= 200


@pytest.mark.service
def test_pongs_without_data_are_a_stall(exchange: Exchange, tmp_path: Path) -> None:
    """Subscriptions that died on a healthy socket; patience doubles while nothing changes."""
    sockets = {"ping_s": 0.05, "silence_s": 0.2}
    with running(config_for(exchange, tmp_path, sockets=sockets)) as recorder:
        until(lambda: recorder.counters["stalls"] == 2)
    closed = [gap for gap in controls(tmp_path, "gap") if gap["end_ms"] is not None]
    stalls = [stamp for stamp, f in log_of(tmp_path) if b'"end_ms":null,"cause":"stall"' in f]
    assert (stalls[1] - stalls[0]) / 1e6 > 400 * 0.95
    assert closed[0]["cause"] == "start"


@pytest.mark.service
def test_a_feed_that_never_pauses_is_a_pulse(exchange: Exchange, tmp_path: Path) -> None:
    """BTC's best bid is silent while another coin trades on: the socket is given up."""
    exchange.step(3)
    sockets = {"pulse_s": 0.2}
    with running(config_for(exchange, tmp_path, sockets=sockets)) as recorder:
        until_live(tmp_path)
        busy = next(line for line in recording(9, ("ETH",)) if b"bbo" in line).partition(b" ")[2]

        def stalled() -> bool:
            exchange.publish(busy)
            return recorder.counters["stalls"] >= 1

        until(stalled)
    assert ("stall", True) in gaps(tmp_path)


@pytest.mark.service
def test_a_venue_that_accepts_and_closes_is_not_hammered(
    exchange: Exchange, tmp_path: Path
) -> None:
    """Back-off also follows accepted connections, and no coin is blamed for it."""
    exchange.faults.close_after_accept = True
    sockets = {"backoff_s": 0.02, "backoff_s_max": 0.2}
    with running(config_for(exchange, tmp_path, sockets=sockets)) as recorder:
        began = time.monotonic()
        until(lambda: recorder.counters["reconnects"] >= 4)
        assert time.monotonic() - began > 0.5 * (0.02 + 0.04 + 0.08 + 0.16)
        exchange.faults.close_after_accept = False
        until_live(tmp_path)
    assert "rejects.quarantined" not in recorder.counters
    assert gaps(tmp_path) == [("start", True), ("start", False)]


# --- coins -----------------------------------------------------------------------------------


def test_unknown_and_delisted_coins_are_named_and_never_sent(
    exchange: Exchange, tmp_path: Path
) -> None:
    """One of them would cost the whole socket."""
    coins = ("BTC", "NOPE", "MATIC", "KPEPE")
    config = config_for(exchange, tmp_path, coins=coins, reload_s=0.05)
    with structlog.testing.capture_logs() as logs, running(config) as recorder:
        until_live(tmp_path)
        until(lambda: recorder.counters["discoveries"] >= 3)
    assert set(exchange.requested) == {"BTC"}
    assert recorder.counters["rejects.unknown_coin"] == 2
    assert recorder.counters["rejects.delisted"] == 1
    named = [(e["reason"], e["coin"]) for e in logs if e["event"] == "not subscribed"]
    assert sorted(named) == [
        ("delisted", "MATIC"),
        ("unknown_coin", "KPEPE"),
        ("unknown_coin", "NOPE"),
    ]
    assert [a["coin"] for a in controls(tmp_path, "roster")[-1]["assets"]] == ["BTC"]


def test_a_coin_that_kills_its_socket_is_quarantined(exchange: Exchange, tmp_path: Path) -> None:
    """It is listed, but the socket dies of it: found out alone, left out, on record."""
    exchange.faults.deadly_coins = frozenset({"ETH"})
    config = config_for(exchange, tmp_path)
    with structlog.testing.capture_logs() as logs, running(config) as recorder:
        until_live(tmp_path)
    assert recorder.counters["rejects.quarantined"] == 1
    assert recorder.counters["reconnects"] <= 5
    assert ("quarantined", "ETH") in [(e.get("reason"), e.get("coin")) for e in logs]
    before, after = controls(tmp_path, "roster")
    assert [a["coin"] for a in before["assets"]] == ["BTC", "ETH", "kPEPE"]
    assert [a["coin"] for a in after["assets"]] == ["BTC", "kPEPE"]


def test_refused_subscriptions_do_not_keep_the_gap_open(tmp_path: Path) -> None:
    """The venue says no without an echo: tried again, given up, taken off the roster."""
    limits = Limits(subscriptions=5)
    sockets = {"ack_timeout_s": 0.1, "ack_tries": 2}
    with running_exchange(limits=limits, keep_sent=True) as exchange:
        config = config_for(exchange, tmp_path, coins=("BTC", "ETH"), sockets=sockets)
        with running(config) as recorder:
            until_live(tmp_path)
    assert recorder.counters["rejects.subscription_refused"] == 2
    channels = {a["coin"]: a["channels"] for a in controls(tmp_path, "roster")[-1]["assets"]}
    assert channels["BTC"] == ["trades", "bbo", "l2Book", "context"]
    assert channels["ETH"] == ["trades", "context"]


def test_roster_follows_listings(exchange: Exchange, tmp_path: Path) -> None:
    """A new listing and a delisting give a new roster, and change what is subscribed."""
    config = config_for(exchange, tmp_path, coins=None, max_assets=3, reload_s=0.05)
    with running(config) as recorder:
        until_live(tmp_path)
        entry = {"szDecimals": 1, "name": "NEW", "maxLeverage": 3, "marginTableId": 3}
        exchange.relist(lambda meta: meta["universe"].append(entry))
        seen = recorder.counters["discoveries"]
        until(lambda: recorder.counters["discoveries"] >= seen + 2)
        assert recorder.counters["rosters"] == 1  # all places are taken
        exchange.relist(lambda meta: meta["universe"][1].update(isDelisted=True))
        until(lambda: recorder.counters["rosters"] == 2)
        until(
            lambda: (
                {t[1] for _, t in exchange.subscriptions() if t[0] == "bbo"}
                == {"BTC", "kPEPE", "NEW"}
            )
        )
    rosters = [[a["uid"] for a in r["assets"]] for r in controls(tmp_path, "roster")]
    assert rosters == [[0, 1, 3], [0, 3, 4]]
    assert gaps(tmp_path) == [("start", True), ("start", False)]


@pytest.mark.service
def test_context_comes_over_rest_while_the_socket_has_none(
    exchange: Exchange, tmp_path: Path
) -> None:
    """Silence of the context channel is bridged by polls, and only then."""
    with running(config_for(exchange, tmp_path, context_silence_s=0.1)) as recorder:
        until(lambda: recorder.counters["contexts"] >= 4)
    times = [stamp for stamp, f in log_of(tmp_path) if b"alpha.context" in f[:40]]
    assert min(b - a for a, b in itertools.pairwise(times)) >= 95_000_000
    with running(config_for(exchange, tmp_path / "none", channels=("trades",))) as recorder:
        until_live(tmp_path / "none")
    assert recorder.counters["contexts"] == 1
    assert controls(tmp_path / "none", "roster")[0]["assets"][0]["channels"] == ["trades"]


def test_per_coin_context_channel(exchange: Exchange, tmp_path: Path) -> None:
    """`activeAssetCtx` may be asked for by coin instead."""
    channels = ("bbo", "activeAssetCtx")
    with running(config_for(exchange, tmp_path, channels=channels)):
        until_live(tmp_path)
        kinds = {topic[0] for _, topic in exchange.subscriptions()}
    assert kinds == {"bbo", "activeAssetCtx"}
    assert controls(tmp_path, "roster")[0]["assets"][0]["channels"] == list(channels)


# --- no network ------------------------------------------------------------------------------


class ManualClock(SystemClock):
    """Wall time moves by hand; everything else is real."""

    def __init__(self) -> None:
        self.ns = START_MS * 1_000_000

    def now_ns(self) -> int:
        return self.ns


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_without_a_network_the_log_goes_on(tmp_path: Path) -> None:
    """Roster from the configuration, an open gap, heartbeats, and one line a minute."""
    address = f"127.0.0.1:{free_port()}"
    clock = ManualClock()
    config = RecorderConfig(
        tmp_path,
        ws_url=f"ws://{address}/ws",
        rest_url=f"http://{address}",
        bootstrap_assets=((1, "ETH"), (0, "BTC")),
        heartbeat_ms=20,
        retry_s=0.01,
        retry_s_max=0.02,
        rest=RestConfig(attempts=2, backoff_s=0.001, weight_per_min=1_000_000),
    )
    with structlog.testing.capture_logs() as logs, running(config, clock) as recorder:

        def lines() -> int:
            return sum(entry["event"] == "feed is down" for entry in logs)

        for minute in range(3):
            failures = recorder.counters["discovery_failures"]
            beats = recorder.counters["heartbeats"]
            until(lambda n=minute: lines() == n + 1)
            clock.ns += 30_000_000_000
            until(lambda n=failures: recorder.counters["discovery_failures"] >= n + 5)
            until(lambda n=beats: recorder.counters["heartbeats"] > n)
            assert lines() == minute + 1
            clock.ns += 30_000_000_000
        until(lambda: lines() == 4)
    assert len(logs) == 5  # and the roster
    (entry, *_) = (e for e in logs if e["event"] == "feed is down")
    assert (entry["cause"], entry["log_level"]) == ("no_network", "warning")
    assert "ConnectError" in entry["problem"]
    assert "\n" not in str(entry)
    (roster,) = controls(tmp_path, "roster")
    assert [(a["uid"], a["coin"]) for a in roster["assets"]] == [(0, "BTC"), (1, "ETH")]
    assert gaps(tmp_path) == [("start", True), ("start", False), ("no_network", True)]
    started, _, lost = controls(tmp_path, "gap")
    assert lost["start_ms"] == started["start_ms"] == START_MS
    assert recorder.counters["connects"] == 0


def test_the_network_comes_back(tmp_path: Path) -> None:
    """The same recorder goes on by itself: real roster, context, end of the gap."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    config = RecorderConfig(
        tmp_path,
        ws_url=f"ws://{address}/ws",
        rest_url=f"http://{address}",
        coins=("kPEPE",),
        retry_s=0.02,
        retry_s_max=0.05,
        sockets=SocketConfig(**FAST),
        rest=RestConfig(attempts=1),
    )
    with running(config) as recorder:
        until(lambda: recorder.counters["discovery_failures"] >= 3)
        with running_exchange(port=port, limits=FREE):
            until_live(tmp_path, 2)
            assert gaps(tmp_path)[2:] == [("no_network", True), ("no_network", False)]
        until(lambda: recorder.counters["connect_failures"] >= 2)
        recorder.raise_if_dead()
    rosters = [[a["coin"] for a in r["assets"]] for r in controls(tmp_path, "roster")]
    assert rosters == [["BTC", "ETH"], ["kPEPE"]]
    assert gaps(tmp_path)[4:] == [("disconnect", True)]


# --- faults ----------------------------------------------------------------------------------


@pytest.mark.service
def test_faults_do_not_stop_the_recorder(exchange: Exchange, tmp_path: Path) -> None:
    """Duplicates, reordering, skew and nonsense are recorded like everything else."""
    with running(config_for(exchange, tmp_path, reload_s=0.05)) as recorder:
        until_live(tmp_path)
        exchange.faults.duplicate_every = 3
        exchange.faults.reorder_every = 5
        exchange.faults.skew_ms = -90_000
        exchange.faults.malformed_every = 7
        exchange.faults.http_5xx, exchange.faults.http_429 = 3, 3
        exchange.play(float("inf"))
        assert exchange.wait_played(10)
        until(lambda: recorder.counters["frames"] == len(exchange.sent))
        seen = recorder.counters["discoveries"]
        until(lambda: recorder.counters["discoveries"] > seen)
        recorder.raise_if_dead()
    received = venue_frames(tmp_path)
    assert received == [frame for _, frame in exchange.sent]
    nonsense = {make("BTC") for make in MALFORMED.values()}
    assert nonsense <= set(received)
    assert recorder.counters["rejects.not_json"] >= 1
    assert recorder.counters["reconnects"] == 0


def test_a_frame_that_is_too_large_costs_the_socket_only(
    exchange: Exchange, tmp_path: Path
) -> None:
    """It is counted, and the recorder reconnects."""
    with running(config_for(exchange, tmp_path)) as recorder:
        until_live(tmp_path)
        exchange.inject(b'"' + b"x" * (5 << 20) + b'"')
        until_live(tmp_path, 2)
    assert recorder.counters["rejects.frame_too_large"] == 1
    assert gaps(tmp_path)[2:] == [("disconnect", True), ("disconnect", False)]


def test_a_recorder_that_dies_says_so(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk ends the thread; whoever asks gets one exception with its cause."""

    class FullDisk(TickLogWriter):
        def append(self, arrival_ns: int, frame: bytes) -> None:
            if b"subscriptionResponse" in frame:
                raise OSError(28, "No space left on device")
            super().append(arrival_ns, frame)

    monkeypatch.setattr(recorder_module, "TickLogWriter", FullDisk)
    recorder = Recorder(config_for(exchange, tmp_path))
    with structlog.testing.capture_logs() as logs:
        recorder.start()

        until(lambda: bool(logs) and logs[-1]["log_level"] == "error")
        with pytest.raises(RecorderError, match="No space left"):
            recorder.raise_if_dead()
        with pytest.raises(RecorderError, match="No space left"):
            recorder.stop()
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["recorder died"]


def test_a_recorder_that_never_started_can_be_stopped(tmp_path: Path) -> None:
    """And one that ended may be stopped again."""
    recorder = Recorder(RecorderConfig(tmp_path, rest_url=f"http://127.0.0.1:{free_port()}"))
    recorder.stop()
    with structlog.testing.capture_logs():
        recorder.start()
        recorder.stop()
        recorder.stop()
    assert controls(tmp_path, "gap")[0]["cause"] == "start"


def test_wrong_configuration_is_refused(tmp_path: Path) -> None:
    """All faults at once, or when the thread opens the log."""
    with pytest.raises(RecorderError, match=r"channels: .*'l3'; max_assets: .* found 0"):
        RecorderConfig(tmp_path, channels=("l3",), max_assets=0)
    with pytest.raises(RecorderError, match="at most 1000 subscriptions, found 1201"):
        RecorderConfig(tmp_path, max_assets=400)
    with pytest.raises(RecorderError, match="empty list"):
        RecorderConfig(tmp_path, coins=())
    (tmp_path / "file").write_text("")
    with structlog.testing.capture_logs(), pytest.raises(RecorderError, match="file"):
        Recorder(RecorderConfig(tmp_path / "file" / "log")).start()
    with structlog.testing.capture_logs(), pytest.raises(RecorderError, match="InvalidURI"):
        Recorder(RecorderConfig(tmp_path / "log", ws_url="http://127.0.0.1/ws")).start()


# --- the REST client -------------------------------------------------------------------------


class FastClock(SystemClock):
    """Sleeping takes no time but is remembered; monotonic time moves by it."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic_s(self) -> float:
        return sum(self.slept)

    def jitter(self) -> float:
        return 1.0

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_rest_retries_what_passes_and_honours_retry_after(exchange: Exchange) -> None:
    """5xx and 429 are tried again with doubling pauses, or after what the venue demands."""
    clock = FastClock()
    with VenueRest(RestConfig(url=exchange.url), clock) as rest:
        exchange.faults.http_5xx = 2
        assert [x.coin for x in rest.meta().listings] == ["BTC", "ETH", "MATIC", "kPEPE"]
        assert clock.slept == [0.5, 1.0]
        exchange.faults.http_429, exchange.faults.retry_after = 1, "7"
        rest.fetch("allMids")
        assert clock.slept[2:] == [7.0]
        exchange.faults.http_429, exchange.faults.retry_after = 1, "tomorrow"
        rest.fetch("allMids")
        assert clock.slept[3:] == [0.5]
        exchange.faults.http_429, exchange.faults.retry_after = -1, "9"
        with pytest.raises(VenueError, match=r"HTTP 429 'null' \(4 attempts\)") as failure:
            rest.fetch("allMids")
        assert failure.value.retry_after_s == 9.0


def test_rest_errors_are_one_line(exchange: Exchange) -> None:
    """HTML, plain text and refused connections end in the same exception type."""
    with VenueRest(RestConfig(url=exchange.url, attempts=2), FastClock()) as rest:
        with pytest.raises(VenueError, match="nonsense: HTTP 422 'failed to parse") as failure:
            rest.fetch("nonsense")
        assert failure.value.status == 422
        exchange.faults.http_5xx = -1
        with pytest.raises(VenueError, match=r"HTTP 502 '<html>.*\(2 attempts\)") as failure:
            rest.fetch("meta")
        assert "\n" not in str(failure.value)
    config = RestConfig(url=f"http://127.0.0.1:{free_port()}", attempts=3)
    with (
        VenueRest(config, FastClock()) as rest,
        pytest.raises(VenueError, match=r"meta: ConnectError .*\(3 attempts\)"),
    ):
        rest.meta()


def test_rest_async_client_has_the_same_rules(exchange: Exchange) -> None:
    """Same answers, same errors."""

    async def use() -> None:
        config = RestConfig(url=exchange.url, backoff_s=0.001)
        async with AsyncVenueRest(config, SystemClock()) as rest:
            exchange.faults.http_5xx = 1
            found = await rest.discover()
            assert found.known == {"BTC", "ETH", "MATIC", "kPEPE"}
            assert [x.uid for x in (await rest.meta()).ranked()] == [0, 1, 3]
            with pytest.raises(VenueError):
                await rest.fetch("nonsense")

    asyncio.run(use())


def test_rest_budget_spreads_requests_over_a_minute() -> None:
    """What does not fit waits until enough has expired; a request above the limit still goes."""
    clock = FastClock()
    budget = WeightBudget(100, clock)
    for _ in range(5):
        assert budget.wait_s(20) == 0.0
        budget.spend(20)
        clock.sleep(1.0)
    assert budget.wait_s(20) == pytest.approx(55.0)
    assert budget.wait_s(40) == pytest.approx(56.0)
    assert budget.wait_s(500) == pytest.approx(59.0)
    clock.sleep(60.0)
    assert budget.wait_s(500) == 0.0


def test_discovery_ranks_by_volume_and_survives_odd_rows() -> None:
    """Contexts align by index; null, short and unreadable rows rank last; delisted do not rank."""
    universe = [{"name": n} for n in ("A", "B", "C", "D", "E")]
    universe[3]["isDelisted"] = True  # type: ignore[assignment]
    volumes = [{"dayNtlVlm": "5.5"}, None, {"dayNtlVlm": "99"}, {"dayNtlVlm": "1e9"}]
    found = parse_meta_and_ctxs(orjson.dumps([{"universe": universe}, volumes]))
    assert [x.coin for x in found.ranked()] == ["C", "A", "B", "E"]
    assert found.known == {"A", "B", "C", "D", "E"}
    odd = [{"dayNtlVlm": "NaN"}, {"dayNtlVlm": {}}, {}, {}, {"dayNtlVlm": 3}]
    found = parse_meta_and_ctxs(orjson.dumps([{"universe": universe}, odd]))
    assert [x.coin for x in found.ranked()] == ["E", "A", "B", "C"]
    for answer in (b"null", b"[]", b"<html>", b'{"universe":[{}]}'):
        with pytest.raises(VenueError):
            parse_meta(answer)
        with pytest.raises(VenueError):
            parse_meta_and_ctxs(answer)


# --- parts -----------------------------------------------------------------------------------


def test_acks_match_by_subset() -> None:
    """The venue adds members and changes their order."""
    ack = {"type": "l2Book", "coin": "BTC", "nSigFigs": None, "mantissa": None, "fast": True}
    assert Subscription("l2Book", "BTC", fast=True).matches(ack)
    assert not Subscription("l2Book", "ETH", fast=True).matches(ack)
    assert not Subscription("bbo", "BTC").matches(ack)


def test_pacer_keeps_distance_and_limit() -> None:
    """Passes are never closer than the spacing; a window never holds more than its limit."""

    async def passes(pacer: Pacer, count: int) -> float:
        began = time.monotonic()
        for _ in range(count):
            await pacer()
        return time.monotonic() - began

    clock = SystemClock()
    assert asyncio.run(passes(Pacer(1, 0.0, 0.01, clock), 6)) >= 0.05
    assert asyncio.run(passes(Pacer(3, 0.1, 0.0, clock), 3)) < 0.1
    assert asyncio.run(passes(Pacer(3, 0.1, 0.0, clock), 7)) >= 0.2
