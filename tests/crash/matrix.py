"""The crash matrix: runs that are killed at every boundary, and what they leave.

    python tests/crash/matrix.py [--seed N] [--random N] [--out FILE]      (make crash)

kills a run of the whole flow at every boundary of `crash_run.py`, mostly twice in a row, resumes it
with other numbers of workers and other epochs, and compares what it leaves with an uninterrupted
run: files and tables byte by byte, ids and values of the topic as sets and as counts. Writes the
figures to bench/results/crash.json; ends with 1 if anything differs. Kafka takes part where Java
and Maven are (fixtures/broker.py), or a server that is given (ALPHA_KAFKA_BOOTSTRAP).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from confluent_kafka import Consumer, KafkaException, TopicPartition
from crash_run import MARKET, PASSAGES, PUBLISHED, TALLY, Orders

from dataflows.connectors.embedded_postgres import EmbeddedPostgres
from dataflows.connectors.kafka import Bus
from dataflows.connectors.migrate import migrate, open_session
from dataflows.connectors.ticklog import TickLogWriter
from dataflows.recovery import make_store
from dataflows.version import GIT_COMMIT
from fixtures.broker import Broker, BrokerError, can_run
from fixtures.market import Episode, FrameOptions, Scenario, default_assets, lines

ROOT = Path(__file__).parents[2]
FILES = (*MARKET, *PUBLISHED)
START_MS = 1_790_000_000_000 // 3_600_000 * 3_600_000
SCENARIO = Scenario(
    seed=11,
    start_ms=START_MS,
    minutes=66,  # an hour's rows and baselines are among them
    assets=default_assets(3),
    episodes=(
        Episode("squeeze", 26, 4, ("SOL",)),
        Episode("basket_shock", 35, 2, strength=-1.0),
        Episode("feed_outage", 44, 2),
        Episode("spread_stress", 50, 3, ("ETH",)),
        Episode("squeeze", 58, 4, ("BTC",)),
    ),
    frames=FrameOptions(quote_ms=(12_000, 12_000, 15_000, 15_000), book=False, ctx_ms=15_000),
)
AWAY = [(START_MS + 34 * 60_000, START_MS + 38 * 60_000)]  # events fall into it
TABLES = {
    "features_snapshot": "asset_uid, tf, exchange_ts",
    "market_snapshot": "tf, exchange_ts",
    "anomaly_event": "event_id",
    "shadow_event": "event_id",
    "suppression": "asset_uid, tf, exchange_ts, revision, detector_id",
    "universe_audit": "exchange_ts",
    "universe_deferral": "asset_uid, exchange_ts",
    "hotlist_move": "asset_uid, exchange_ts, move",
    "hotlist_state": "asset_uid",
    "tier_move": "asset_uid, exchange_ts",
    "dead_letter": "minute_ts, digest",
    "gap": "started_at, cause",
    "baseline_state": "asset_uid, tf, feature_name",
}
SMALL = {"shared_buffers": "32MB", "fsync": "off", "max_wal_size": "128MB"}
CHILD_S = 120.0
KILLED = -9
STORE_PARTS = 3

Left = dict[str, Any]


class CrashError(Exception):
    """A run left something else, or did not end as it was ordered to."""


# --- servers and children ------------------------------------------------------------------------


class Children:
    """Runs orders in processes that may be killed."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "crash_run.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )

    def run(self, orders: Orders) -> int:
        """Return the exit status; minus the signal that ended it. A run that hangs is an error."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(msgspec.json.encode(orders) + b"\n")
        self._server.stdin.flush()
        child, late = int(self._server.stdout.readline()), threading.Event()

        def end() -> None:
            late.set()
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, 9)

        watch = threading.Timer(CHILD_S, end)
        watch.start()
        status = int(self._server.stdout.readline())
        watch.cancel()
        if late.is_set():
            raise CrashError(f"a run did not end in {CHILD_S} s: {orders}")
        return status

    def close(self) -> None:
        """End; all children have ended."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


@dataclass
class Figures:
    """What was survived. duplicates : items that a sink was given again, and that are not there
    twice; lost, doubled : what a comparison found, none."""

    lives: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)


class Stage:
    """Servers, a log, and what an uninterrupted run makes of it."""

    def __init__(self, folder: Path, dsn: str, bootstrap: str) -> None:
        self.folder, self.dsn, self.bootstrap = folder, dsn, bootstrap
        self.children = Children()
        self.figures = Figures()
        self._number = 0
        self._prefix = f"crash-{os.getpid()}"
        self.log = folder / "ticks"
        writer = TickLogWriter(self.log)
        for line in lines(SCENARIO):
            writer.write_lines(int(line[: line.index(b" ")]), line)
        writer.close()
        quiet = self.orders(away=AWAY)
        self.expect(quiet, 0)
        self.offered = offered(quiet)
        self.passages: dict[str, int] = json.loads((Path(quiet.out) / PASSAGES).read_bytes())
        self.quiet = self.left(quiet)

    def orders(self, *, servers: bool = True, **changes: Any) -> Orders:
        """Return orders with places of their own and an empty recovery store."""
        self._number += 1
        name = f"{self._prefix}-{self._number}"
        out, store = self.folder / name / "out", self.folder / name / "store"
        out.mkdir(parents=True)
        store.mkdir()
        make_store(store, STORE_PARTS)
        schema = name.replace("-", "_")
        dsn, bootstrap = (self.dsn, self.bootstrap) if servers else ("", "")
        if dsn:
            migrate(dsn, schema)
        if bootstrap:
            topics = (name, f"{name}.shadow", f"{name}.dlq")
            Bus(self.bootstrap, 20.0).ensure_topics(topics)
        return Orders(
            *(str(self.log), str(out), str(store), dsn, schema, bootstrap, name),
            **changes,
        )

    def expect(self, orders: Orders, *statuses: int) -> int:
        """Run, and return the exit status, which is one of those."""
        status = self.children.run(orders)
        if status not in statuses:
            raise CrashError(f"exit status {status}, expected {statuses}: {orders}")
        return status

    def left(self, orders: Orders) -> Left:
        """Return everything a run left: files, tables, topic."""
        left: Left = {}
        for name in FILES:
            path = Path(orders.out) / f"{name}.ndjson"
            left[f"{name}.ndjson"] = path.read_bytes() if path.exists() else b""
        if orders.dsn:
            with open_session(self.dsn, orders.schema) as connection:
                for table, key in TABLES.items():
                    text = f"select * from {table} order by {key}"
                    found = connection.execute(text.encode()).fetchall()
                    left[table] = [tuple(map(repr, row)) for row in found]
        if orders.bootstrap:
            for suffix in ("", ".shadow", ".dlq"):
                left[f"topic{suffix}"] = sorted(topic(self.bootstrap, orders.topic + suffix))
        spools = list((Path(orders.out) / "spool").glob("*"))
        left["spools"] = [spool.name for spool in spools]
        return left

    def compare(self, orders: Orders, *, twice: bool = False) -> None:
        """Raise unless a run left what the quiet one did.

        twice : topic and files may hold an item more than once, as without a recovery store.
        """
        left = self.left(orders)
        for name, expected in self.quiet.items():
            found = left[name]
            if twice and name.startswith("topic"):
                found, expected = sorted(set(found)), sorted(set(expected))
            if found != expected:
                raise CrashError(f"{name} is not that of the quiet run{_first(found, expected)}")
        for sink, count in offered(orders).items():
            self.figures.duplicates[sink] += max(0, count - self.offered.get(sink, 0))

    def forget(self, orders: Orders) -> None:
        """Remove what a run left."""
        shutil.rmtree(Path(orders.out).parent)
        if orders.dsn:
            with open_session(self.dsn, "public") as connection:
                connection.execute(f"drop schema {orders.schema} cascade".encode())

    def close(self) -> None:
        """End the children."""
        self.children.close()


def _first(found: Any, expected: Any) -> str:
    """Say where two values part."""
    if isinstance(found, bytes):
        found, expected = found.split(b"\n"), expected.split(b"\n")
    at = next(
        (k for k, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]),
        min(len(found), len(expected)),
    )
    one, other = (side[at] if at < len(side) else None for side in (found, expected))
    return f": {len(found)} and {len(expected)} items, of which number {at} is\n{one!r}\n{other!r}"


def offered(orders: Orders) -> Counter[str]:
    """Return how much each sink was given by all processes of a run."""
    found: Counter[str] = Counter()
    for line in (Path(orders.out) / TALLY).read_text().splitlines():
        sink, _, count = line.partition(" ")
        found[sink] += int(count)
    return found


def topic(bootstrap: str, name: str) -> list[bytes]:
    """Return the values a topic holds, each as often as it does."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "t", "log_level": 2})
    try:
        parts = reader.list_topics(name, timeout=20).topics[name].partitions
        places = [TopicPartition(name, part, 0) for part in parts]
        left = sum(_end_of(reader, place) for place in places)
        reader.assign(places)
        values: list[bytes] = []
        while len(values) < left:
            message = reader.poll(20)
            if message is None:
                raise CrashError(f"{name}: {left - len(values)} messages cannot be read")
            if message.error() is None:
                values.append(message.value() or b"")
        return values
    finally:
        reader.close()


def _end_of(reader: Consumer, place: TopicPartition) -> int:
    """Return where a partition ends; a broker answers before it leads."""
    for _ in range(100):
        with contextlib.suppress(KafkaException):
            return int(reader.get_watermark_offsets(place, timeout=20)[1])
        time.sleep(0.1)
    raise CrashError(f"{place} has no leader")


# --- lives ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """Where a process dies; workers and epoch_ms are its own."""

    point: str = ""
    passage: int = 1
    after_s: float = 0.0
    workers: int = 1
    epoch_ms: int = 0


def live(stage: Stage, kills: list[Kill], *, record: bool = False, seed: int = 0) -> None:
    """Run, kill and resume until the log ends, and compare."""
    first = stage.orders(away=AWAY, seed=seed)
    if record:
        first.record_to = str(Path(first.out) / "ticks")
    for kill in [*kills, Kill(workers=1 + seed % 3, epoch_ms=100)]:
        orders = msgspec.structs.replace(
            first,
            point=kill.point,
            passage=kill.passage,
            kill_after_s=kill.after_s,
            workers=kill.workers,
            epoch_ms=kill.epoch_ms,
        )
        ordered = bool(kill.point or kill.after_s)
        if stage.expect(orders, *((0, KILLED) if ordered else (0,))) == KILLED:
            stage.figures.kills[kill.point or "random time"] += 1
    stage.compare(first)
    stage.figures.lives += 1
    stage.forget(first)


def plans(stage: Stage, rng: random.Random) -> Iterator[tuple[str, list[Kill], bool]]:
    """Yield a life for every boundary: the kill, and in most a second one while it resumes."""
    for point in sorted(set(stage.passages) - set(RECORDING) - set(RESUMES)):
        yield point, [_kill(stage, rng, point), Kill(rng.choice(RESUMES))], False
    for point in RESUMES:  # twice in a row
        yield point, [begun_for(stage, point), Kill(point), Kill(point, epoch_ms=30)], False
    for point in RECORDING:
        yield point, [_kill(stage, rng, point, rng.randint(1, LOG_PASSAGES[point]))], True


def begun_for(stage: Stage, point: str) -> Kill:
    """Return a kill that leaves something to resume: committed epochs, and a spool where needed."""
    if "spool" in point:
        return Kill("spool append after", 2)
    return Kill("source read after", stage.passages["source read after"] // 2)


RESUMES = tuple(
    f"resume {what} {when}"
    for what in ("source", "step", "file", "spool", "kafka")
    for when in ("before", "after")
)
RECORDING = tuple(
    f"log {what} {when}"
    for what, whens in {
        "append": ("before", "torn", "after"),
        "sync": ("before", "after"),
        "rotate": ("before", "after"),
        "compress": ("before", "after"),
        "replace": ("before", "after"),
    }.items()
    for when in whens
)
LOG_PASSAGES = {
    point: {"append": 200, "sync": 3, "rotate": 2, "compress": 1, "replace": 1}[point.split()[1]]
    for point in RECORDING
}


def _kill(stage: Stage, rng: random.Random, point: str, passage: int | None = None) -> Kill:
    return Kill(
        point,
        rng.randint(1, stage.passages[point]) if passage is None else passage,
        workers=rng.choice((1, 1, 2, 3)),
        epoch_ms=rng.choice((0, 0, 30, 150)),
    )


# --- variants ------------------------------------------------------------------------------------


def lose_store(stage: Stage, rng: random.Random) -> None:
    """The recovery store is lost with the log kept: all of it is read again.

    Files and tables are the same; a topic holds again what it held, under the same ids.
    """
    orders = stage.orders(away=AWAY)
    kill = _kill(stage, rng, "source read after", stage.passages["source read after"] - 2)
    killed = msgspec.structs.replace(orders, point=kill.point, passage=kill.passage)
    stage.expect(killed, KILLED)
    store = Path(orders.store)
    shutil.rmtree(store)
    store.mkdir()
    make_store(store, STORE_PARTS)
    stage.expect(orders, 0)
    stage.compare(orders, twice=True)
    stage.figures.variants["recovery store lost"] += 1
    stage.forget(orders)


def tear_tail(stage: Stage, *, packed: bool, cut: int) -> None:
    """The last segment of the log ends within a line, or its zstd piece within a frame.

    Kills and all, the run leaves what a run over the whole lines that are left does.
    """
    torn = stage.folder / f"torn-{packed}-{cut}"
    shutil.copytree(stage.log, torn)
    (segment,) = torn.iterdir()
    content = segment.read_bytes()
    if packed:
        piece = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(content)
        segment.unlink()
        segment.with_name(segment.name + ".zst").write_bytes(piece[:-cut])
    else:
        segment.write_bytes(content[:-cut])
    found = []
    for kills in ((), (Kill("source read after", 20), Kill("step budget after", 100))):
        orders = stage.orders(servers=False)
        orders.log = str(torn)
        for kill in kills:
            stage.expect(
                msgspec.structs.replace(orders, point=kill.point, passage=kill.passage), KILLED
            )
        stage.expect(orders, 0)
        found.append(stage.left(orders))
        stage.forget(orders)
    if found[0] != found[1]:
        raise CrashError(f"a torn log (packed: {packed}) gives other bytes after a kill")
    rows = stage.quiet["rows.ndjson"]
    if not rows.startswith(found[0]["rows.ndjson"]) or not found[0]["rows.ndjson"]:
        raise CrashError(f"a torn log (packed: {packed}) gives other rows than the whole one")
    stage.figures.variants["torn zstd frame" if packed else "torn last line"] += 1
    shutil.rmtree(torn)


# --- the program ---------------------------------------------------------------------------------


@contextlib.contextmanager
def stage_of(folder: Path) -> Iterator[Stage]:
    """A stage with servers of its own."""
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        server = EmbeddedPostgres(folder / "postgres", own=True, settings=SMALL).start()
        stack.callback(server.stop)
        bootstrap = os.environ.get("ALPHA_KAFKA_BOOTSTRAP", "")
        if not bootstrap and can_run():
            with contextlib.suppress(BrokerError, OSError):
                bootstrap = stack.enter_context(Broker(folder / "kafka")).bootstrap
        stage = Stage(folder, server.dsn(), bootstrap)
        stack.callback(stage.close)
        yield stage


def matrix(stage: Stage, seed: int, random_lives: int) -> None:
    """Live through every boundary, the variants, and kills at random times."""
    rng = random.Random(seed)
    points = []
    for number, (point, kills, record) in enumerate(plans(stage, rng)):
        print(f"{point}: killed and resumed", file=sys.stderr)
        points.append(point)
        live(stage, kills, record=record, seed=number)
    for point in points:  # with fewer and longer epochs a late passage may not come
        if not stage.figures.kills[point]:
            live(stage, [Kill(point)], record=point in RECORDING)
    missed = [point for point in points if not stage.figures.kills[point]]
    if missed:
        raise CrashError(f"never reached: {', '.join(missed)}")
    lose_store(stage, rng)
    tear_tail(stage, packed=False, cut=7)
    tear_tail(stage, packed=True, cut=3000)
    for number in range(random_lives):
        kills = [
            Kill(after_s=rng.uniform(0.02, 1.2), workers=rng.choice((1, 2, 3)), epoch_ms=epoch)
            for epoch in rng.choices((0, 30, 150), k=3)
        ]
        live(stage, kills, record=number % 3 == 2, seed=number)


def report(stage: Stage, seed: int, took_s: float) -> dict[str, Any]:
    """Return the figures as a JSON object."""
    figures = stage.figures
    return {
        "seed": seed,
        "commit": _commit(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
        "kafka": "real" if stage.bootstrap else "left out",
        "took_s": round(took_s, 1),
        "lives": figures.lives,
        "kills_survived": sum(figures.kills.values()),
        "kills_by_boundary": dict(sorted(figures.kills.items())),
        "variants": dict(sorted(figures.variants.items())),
        "duplicates_removed": dict(sorted(figures.duplicates.items())),
        "lost": 0,  # the first difference ends the program
        "different": 0,
    }


def _commit() -> str | None:
    if GIT_COMMIT is not None:
        return GIT_COMMIT
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def main() -> int:
    """Run the matrix, print the figures and write them."""
    parser = argparse.ArgumentParser(description="kill the flow at every boundary and compare")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", type=int, default=20, help="lives that end at random times")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/crash.json")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="alpha-crash-"))
    began = time.monotonic()
    try:
        with stage_of(folder) as stage:
            matrix(stage, given.seed, given.random)
            found = report(stage, given.seed, time.monotonic() - began)
    except CrashError as error:
        print(f"seed {given.seed}: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = json.dumps(found, indent=1)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
