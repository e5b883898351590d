"""A replay with Kafka and PostgreSQL, whose servers and disk others take away meanwhile.

    python tests/connectors/outage_run.py ORDERS

ORDERS is a JSON file of `Orders`; the counters are in `figures.json` beside what it wrote.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from bytewax.recovery import RecoveryConfig
from bytewax.testing import cluster_main
from prometheus_client import REGISTRY

from dataflows.connectors.clock import SystemClock
from dataflows.connectors.kafka import Bus, KafkaEventsSink
from dataflows.connectors.pacing import Paced
from dataflows.connectors.postgres import PostgresEventSink, PostgresMarketSink, PostgresWriter
from dataflows.connectors.source import LogSource, SourceState
from dataflows.connectors.spool import Disk, Spooling
from dataflows.connectors.topics import EventsSink, RowsAndFramesSink
from dataflows.flow import Sinks, build
from packs.loader import load_packs

CHUNK_LINES = 100  # a few seconds of feed


class Orders(msgspec.Struct):
    """What to replay, where to, how fast. full : the disk is full while this file exists."""

    log: str
    out: str
    dsn: str
    schema: str
    bootstrap: str
    topic: str
    dlq: str
    store: str
    full: str
    from_ms: int
    speed: float


class OrderedDisk(Disk):
    """A disk that is full while a file exists."""

    def __init__(self, full: Path) -> None:
        self._full = full
        self.refused = 0

    def write(self, file: int, data: bytes | memoryview) -> int:
        """Take half of it, and then no more."""
        if self._full.exists():
            self.refused += 1
            os.write(file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(file, data)


def run(orders: Orders, on_progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Replay, and return what was counted meanwhile: other runs of the process count, too."""
    before = counters()
    packs, out = load_packs(), Path(orders.out)
    out.mkdir(parents=True, exist_ok=True)
    disk = OrderedDisk(Path(orders.full))
    # A busy machine may need long to start a broker again: the run waits for it at its end.
    spooling = Spooling(out / "spool", disk=disk, retry_s=(0.2, 1.0), settle_s=60.0)
    columns = {column.name: column.type for column in packs.features.stored}

    def open_writer() -> PostgresWriter:
        return PostgresWriter(orders.dsn, columns, schema=orders.schema, say=lambda line: None)

    def paths(*names: str) -> dict[str, Path]:
        return {name: out / f"{name}.ndjson" for name in names}

    def reached(state: SourceState) -> None:
        if on_progress is not None:
            on_progress(state.feed.clock_ns // 1_000_000)

    kafka = KafkaEventsSink(
        Bus(orders.bootstrap, wait_s=3.0), orders.topic, orders.dlq, spooling=spooling
    )
    sinks = Sinks(
        market={
            "file": RowsAndFramesSink(paths("rows", "frames"), append=True),
            "database": PostgresMarketSink(open_writer, spooling),
        },
        published={
            "file": EventsSink(paths("events", "suppressed"), append=True),
            "kafka": kafka,
            "database": PostgresEventSink(open_writer, spooling),
        },
    )
    log = LogSource(Path(orders.log), packs.features, CHUNK_LINES, on_chunk=reached)
    flow = build(Paced(log, orders.speed, SystemClock(), from_ms=orders.from_ms), packs, sinks)
    cluster_main(
        flow,
        [],
        0,
        epoch_interval=timedelta(seconds=1),
        recovery_config=RecoveryConfig(orders.store) if orders.store else None,
    )
    after = counters()
    counted = {
        name: value - before.get(name, 0.0) if "_total[" in name else value
        for name, value in after.items()
    }
    return {**counted, "refused": disk.refused}


def counters() -> dict[str, float]:
    """Our counters, by name and label."""
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for metric in REGISTRY.collect()
        if metric.name.startswith(("alpha_spool", "alpha_kafka", "alpha_poison"))
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


if __name__ == "__main__":
    orders = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Orders)
    figures = msgspec.json.encode(run(orders))
    (Path(orders.out) / "figures.json").write_bytes(figures)
