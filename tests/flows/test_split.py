"""A flow split at the join gives the bytes of the one-process flow, whatever dies or lags."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bytewax.errors import BytewaxRuntimeError
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

from dataflows import market, shard
from dataflows.connectors.kafka import Bus, topic_names
from dataflows.connectors.kafka_partition import (
    PartitionReader,
    flow_topics,
    offset_of,
    partitions_of,
)
from dataflows.connectors.kafka_rows import KafkaRowsSink, KafkaRowsSource, RowsMaker, RowsState
from dataflows.connectors.kafka_ticks import KafkaTicksSource, TicksForwarder, TicksState
from dataflows.connectors.share_source import ShareSource
from dataflows.connectors.source import LogSource, SourceState
from dataflows.connectors.ticklog import TickLogReader, TickLogWriter
from dataflows.connectors.topic_source import SourceError
from dataflows.flow import build
from dataflows.replay import PRODUCTS, file_sinks, product_path, replay
from dataflows.settings import Settings
from fixtures.market import FrameOptions, Scenario, default_assets, lines
from operators.sharding import Share
from packs.loader import Packs, load_packs

pytestmark = [pytest.mark.engine, pytest.mark.service]

ROOT = Path(__file__).parents[2]
MINUTE_MS = 60_000


class Stop(Exception):
    """A crash in mid-flow."""


@pytest.fixture(scope="module")
def packs() -> Packs:
    """Return the shipped packs."""
    return load_packs()


@pytest.fixture(scope="module")
def reference(
    episode_log: Path, tmp_path_factory: pytest.TempPathFactory, packs: Packs
) -> list[bytes]:
    """Return the products of one process: three timeframes, a bad feed, events."""
    out = tmp_path_factory.mktemp("reference")
    products = replay(episode_log, out, packs).products
    assert products["events"].count >= 4
    rows = product_path(out, "rows").read_text()
    assert all(f'"tf":"{tf}"' in rows for tf in ("1m", "15m", "1h"))
    assert '"dq_status":"stale"' in rows
    return products_of(out)


def products_of(out: Path) -> list[bytes]:
    """Return the bytes of every product."""
    return [product_path(out, name).read_bytes() for name in PRODUCTS]


class Split:
    """Shards and market of one topic, run to the end of what there is."""

    def __init__(self, server: Any, suffix: str, packs: Packs, out: Path) -> None:
        self.bus = Bus(server.bootstrap)
        self.topics = flow_topics(suffix)
        self.packs = packs
        self.out = out
        out.mkdir(exist_ok=True)
        for name in PRODUCTS:
            product_path(out, name).write_bytes(b"")

    def shard(self, log: Path, index: int, count: int, *, stop: int | None = None) -> None:
        """Run a shard over a log, or a part of it."""
        seen = 0

        def watch(state: SourceState) -> None:
            nonlocal seen
            seen += 1
            if stop is not None and seen > stop:
                raise Stop

        source = LogSource(log, self.packs.features, 500, on_chunk=watch)
        self.shard_of(source, index, count, stops=stop is not None)

    def shard_of(self, source: Any, index: int, count: int, *, stops: bool = False) -> None:
        """Run a shard over any source of ticks."""
        share = Share(index, count)
        packs = self.packs
        maker = RowsMaker(self.topics.rows, share, packs.config_hash, packs.feature_pack)
        flow = shard.build(source, packs, share, {"kafka": KafkaRowsSink(self.bus, maker)})
        self._run(flow, f"shard-{index}", stops=stops)

    def market(self, *, stop: int | None = None) -> dict[str, int]:
        """Run the join over what there is, or a part of it; return what was dropped."""
        counts: dict[str, int] = {}
        seen = 0

        def watch(state: RowsState) -> None:
            nonlocal seen
            seen += 1
            counts.update(state.counts)
            if stop is not None and seen > stop:
                raise Stop

        rows = KafkaRowsSource(
            self.bus, self.topics.rows, self.packs.config_hash, follow=False, on_chunk=watch
        )
        flow = market.build(rows, self.packs, file_sinks(self.out))
        self._run(flow, "market", stops=stop is not None)
        return counts

    def _run(self, flow: Any, name: str, *, stops: bool) -> None:
        """Run with a recovery store of its own that commits after every batch."""
        store = self.out / f"store-{name}"
        if not store.exists():
            store.mkdir()
            init_db_dir(store, 1)
        crash = pytest.raises(BytewaxRuntimeError) if stops else contextlib.nullcontext()
        with crash:
            run_main(
                flow,
                epoch_interval=timedelta(0),
                recovery_config=RecoveryConfig(str(store), backup_interval=None),
            )


@pytest.fixture
def split(real_kafka: Any, topic_suffix: str, packs: Packs, tmp_path: Path) -> Split:
    """Return a split flow with topics of its own."""
    return Split(real_kafka, topic_suffix, packs, tmp_path / "out")


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_differential_the_number_of_shards_does_not_matter(
    split: Split, episode_log: Path, reference: list[bytes], count: int
) -> None:
    """Four assets over one, two, three shards, and over five of which one has none."""
    for index in reversed(range(count)):
        split.shard(episode_log, index, count)
    assert split.market() == {}
    assert products_of(split.out) == reference


def test_differential_a_shard_that_crashes_goes_on_and_its_repeats_are_dropped(
    split: Split, episode_log: Path, reference: list[bytes]
) -> None:
    """Between epochs, and from the start without its store: the same minutes come once."""
    for stop in (5, 1, 20):
        split.shard(episode_log, 1, 2, stop=stop)
    split.shard(episode_log, 1, 2)
    split.shard(episode_log, 0, 2, stop=30)
    (split.out / "store-shard-0").rename(split.out / "lost")
    split.shard(episode_log, 0, 2)
    counts = split.market()
    assert counts["repeated_phase"] > 20
    assert products_of(split.out) == reference


def test_differential_a_market_that_crashes_goes_on(
    split: Split, episode_log: Path, reference: list[bytes]
) -> None:
    """While the shards are not done either: each run of the market finds more."""
    split.shard(episode_log, 0, 3, stop=40)
    split.shard(episode_log, 1, 3, stop=10)
    split.shard(episode_log, 2, 3)
    split.market(stop=2)
    split.market(stop=1)
    split.market()  # as far as the slowest shard got
    assert 0 < len(products_of(split.out)[0]) < len(reference[0])
    split.shard(episode_log, 1, 3)
    split.shard(episode_log, 0, 3)
    split.market(stop=0)
    split.market(stop=3)
    split.market()
    assert products_of(split.out) == reference


def test_differential_ticks_over_kafka_are_those_of_the_log(
    split: Split, episode_log: Path, reference: list[bytes]
) -> None:
    """Written by a forwarder that died in between, read by a flow that died within messages."""
    for rounds in (3, 1, None):
        forwarder = TicksForwarder(split.bus, split.topics.ticks, episode_log, follow=False)
        while forwarder.forward(1999) and rounds != 0:
            rounds = None if rounds is None else rounds - 1
        forwarder.close()
    for stop in (3, 7, None):
        seen = 0

        def watch(state: TicksState, stop: int | None = stop) -> None:
            nonlocal seen
            seen += 1
            if stop is not None and seen > stop:
                raise Stop

        ticks = KafkaTicksSource(
            split.bus,
            split.topics.ticks,
            split.packs.features,
            chunk_lines=700,
            follow=False,
            on_chunk=watch,
        )
        flow = build(ticks, split.packs, file_sinks(split.out))
        split._run(flow, "whole", stops=stop is not None)
    assert products_of(split.out) == reference


def test_differential_ticks_and_rows_over_kafka(
    split: Split, episode_log: Path, reference: list[bytes]
) -> None:
    """Nothing of the log is on the machine of the shards or of the market."""
    forwarder = TicksForwarder(split.bus, split.topics.ticks, episode_log, follow=False)
    while forwarder.forward():
        pass
    forwarder.close()
    for index in range(2):
        ticks = KafkaTicksSource(split.bus, split.topics.ticks, split.packs.features, follow=False)
        split.shard_of(ticks, index, 2)
    split.market()
    assert products_of(split.out) == reference


def test_differential_assets_that_leave_and_come(
    split: Split, packs: Packs, tmp_path: Path
) -> None:
    """A roster that leaves a shard without an asset, and one that gives it another."""
    scenario = Scenario(
        seed=11,
        start_ms=1_790_000_000_000 // MINUTE_MS * MINUTE_MS,
        minutes=30,
        assets=default_assets(4),
        frames=FrameOptions(quote_ms=(9000, 9000, 9000, 9000), book=False),
    )
    log = tmp_path / "ticks.log"
    log.write_bytes(b"".join(with_rosters(scenario, {8: (0, 2), 16: (1,), 24: (0, 1, 2, 3)})))
    replay(log, tmp_path / "one", packs)
    for index in (1, 0):
        split.shard(log, index, 2)
    split.market()
    assert products_of(split.out) == products_of(tmp_path / "one")


@pytest.mark.slow
def test_differential_processes_that_are_killed(
    split: Split, episode_log: Path, reference: list[bytes], topic_suffix: str, tmp_path: Path
) -> None:
    """The programs as they are deployed, all at once, each ended by kill -9 and started again."""
    with TickLogReader(episode_log) as log:
        left = log.read(1 << 30)
    writer = TickLogWriter(tmp_path / "data" / "ticks", segment_bytes_max=1 << 20)

    def record(share: float) -> None:
        """Let the log grow by a share of what is left."""
        for line in (left[at] for at in range(int(len(left) * share))):
            writer.write_lines(int(line.partition(b" ")[0]), line + b"\n")
        del left[: int(len(left) * share)]

    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ALPHA_")},
        "ALPHA_DATA_DIR": str(tmp_path / "data"),
        "ALPHA_DATABASE_URL": "off",
        "ALPHA_KAFKA_BOOTSTRAP": split.bus.bootstrap,
        "ALPHA_TOPIC_SUFFIX": topic_suffix,
        "ALPHA_TICKS": "kafka",
    }
    parts = {
        "forward": [sys.executable, "-c", "from dataflows.cli import main; main()", "forward"],
        **{name: program(name, tmp_path) for name in ("shard.0", "shard.1", "market")},
    }
    running: dict[str, subprocess.Popen[bytes]] = {}

    def start(name: str) -> None:
        index = name.partition(".")[2]
        own = {"ALPHA_SHARD": f"{index}/2"} if index else {}
        with (tmp_path / f"{name}.log").open("ab") as said:
            running[name] = subprocess.Popen(
                parts[name], cwd=ROOT, env={**environment, **own}, stdout=said, stderr=said
            )

    topics = tmp_path / "data" / "topics"
    rows = topics / "alpha.rows.v0.ndjson"

    def wait(until: int) -> None:
        until_s = time.monotonic() + 120
        while not rows.exists() or rows.stat().st_size < until:
            assert time.monotonic() < until_s, until
            for name, process in running.items():
                said = (tmp_path / f"{name}.log").read_text()[-2000:]
                assert process.poll() is None, f"{name}: {said}"
            time.sleep(0.02)

    try:
        for name in parts:
            start(name)
        record(0.1)
        wait(1)
        time.sleep(2.5)  # without any epoch in its store a market has nothing to go on from
        for name in ("market", "shard.1", "shard.0", "forward", "market"):
            before = rows.stat().st_size
            record(0.3)
            wait(before + 1)
            running[name].kill()
            running[name].wait()
            start(name)
        record(1.0)
        wait(len(reference[0]))
        time.sleep(1.0)  # nothing comes after the last row
    finally:
        writer.close()
        for process in running.values():
            process.kill()
            process.wait()
    expected = dict(zip(PRODUCTS, reference, strict=True))
    for name in ("rows", "frames", "audit", "suppressed"):
        assert (topics / f"alpha.{name}.v0.ndjson").read_bytes() == expected[name], name
    events = events_in(split.bus, topic_suffix)
    assert sorted(events) == sorted(expected["events"].splitlines())


def program(name: str, folder: Path) -> list[str]:
    """Return the command of a flow with a recovery store of its own."""
    store = folder / f"store-{name}"
    store.mkdir()
    init_db_dir(store, 1)
    module = f"dataflows.{name.partition('.')[0]}"
    return [sys.executable, "-m", "bytewax.run", module, "-r", str(store), "-s", "1", "-b", "0"]


def events_in(bus: Bus, suffix: str) -> set[bytes]:
    """Return the different events of the topic; those of an open epoch come again."""
    topic, found = topic_names(suffix).live, set[bytes]()
    for number in range(partitions_of(bus, topic)):
        reader = PartitionReader(bus, topic, number, None)
        end, at, until_s = reader.end(), 0, time.monotonic() + 20.0
        while at < end:
            assert time.monotonic() < until_s
            for message in reader.read(100):
                found.add(message.value() or b"")
                at = offset_of(message) + 1
        reader.close()
    return found


def test_mistakes_are_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Kafka, no shard, a shard that cannot be."""
    for name in [name for name in os.environ if name.startswith("ALPHA_")]:
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit, match="ALPHA_SHARD: expected I/K"):
        shard.flow()
    with pytest.raises(SystemExit, match="ALPHA_KAFKA_BOOTSTRAP: expected HOST:PORT"):
        market.flow()
    monkeypatch.setenv("ALPHA_SHARD", "0/2")
    with pytest.raises(SystemExit, match="ALPHA_KAFKA_BOOTSTRAP: expected HOST:PORT"):
        shard.flow()
    for wrong in ("3/3", "1", "a/b", "0/0", "-1/2"):
        monkeypatch.setenv("ALPHA_SHARD", wrong)
        with pytest.raises(SystemExit, match="ALPHA_SHARD: found"):
            shard.flow()


def test_the_first_shard_notes_the_holes(packs: Packs, tmp_path: Path) -> None:
    """They are the same in all shards; without a database of its own a shard starts none."""
    given = {
        "ALPHA_DATA_DIR": str(tmp_path),
        "ALPHA_KAFKA_BOOTSTRAP": "127.0.0.1:9",
        "ALPHA_DATABASE_URL": "host=127.0.0.1 port=9 user=x dbname=x",
    }

    def edges(share: str, **more: str) -> shard.Edges:
        return shard.edges_of(Settings.from_env({**given, "ALPHA_SHARD": share, **more}), packs)

    first, second, none = edges("0/2"), edges("1/2"), edges("0/2", ALPHA_DATABASE_URL="off")
    assert isinstance(first.ticks, LogSource)
    assert isinstance(second.ticks, LogSource)
    assert isinstance(none.ticks, LogSource)
    assert first.ticks.holes is not None
    assert (second.ticks.holes, none.ticks.holes) == (None, None)
    assert [sorted(edge.stores) for edge in (first, second, none)] == [["database"]] * 2 + [[]]
    assert not list(tmp_path.iterdir())


def test_ticks_come_from_the_log_unless_kafka_is_asked_for(packs: Packs, tmp_path: Path) -> None:
    """From its beginning, so that all shards have the same; it is followed."""
    given = {"ALPHA_DATA_DIR": str(tmp_path), "ALPHA_KAFKA_BOOTSTRAP": "h:1"}
    log = shard.ticks_source(Settings.from_env(given), packs, None)
    assert isinstance(log, LogSource)
    assert (log.path, log.follow, log.recording) == (tmp_path / "ticks", True, None)
    kafka = {"ALPHA_TICKS": "kafka", "ALPHA_TOPIC_SUFFIX": "blue"}
    ticks = shard.ticks_source(Settings.from_env({**given, **kafka}), packs, None)
    assert isinstance(ticks, KafkaTicksSource)
    assert (ticks.topic, ticks.follow) == ("alpha.ticks.v0.blue", True)


def test_a_store_of_another_shard_is_refused(packs: Packs, tmp_path: Path) -> None:
    """Its state is of other assets."""
    log = tmp_path / "ticks.log"
    log.write_bytes(b"1790000040000000000 {}\n")
    source = LogSource(log, packs.features)
    part = ShareSource(source, Share(0, 2)).build_part("ticks", "log", None)
    state = part.snapshot()
    part.close()
    ShareSource(source, Share(0, 2)).build_part("ticks", "log", state).close()
    with pytest.raises(SourceError, match="store of shard 0/3, found one of 0/2"):
        ShareSource(source, Share(0, 3)).build_part("ticks", "log", state)


def with_rosters(scenario: Scenario, changes: dict[int, tuple[int, ...]]) -> list[bytes]:
    """Return the scenario's lines with other rosters, by minute: ids of the assets from then on."""
    specs, found = scenario.assets, []
    left = dict(changes)
    for line in lines(scenario):
        stamp = int(line[: line.index(b" ")])
        minute = (stamp // 1_000_000 - scenario.start_ms) // MINUTE_MS
        if left and minute >= min(left):
            at = min(left)
            assets = [
                {"uid": uid, "coin": specs[uid].coin, "channels": ["trades", "bbo"]}
                for uid in left.pop(at)
            ]
            data = {"from_ms": scenario.start_ms + (at + 1) * MINUTE_MS, "assets": assets}
            frame = json.dumps({"channel": "alpha.roster", "data": data}).encode()
            found.append(b"%d %b\n" % (stamp, frame))
        found.append(line)
    return found
