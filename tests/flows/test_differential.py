"""The bytes depend on the log alone: not on chunks, workers, hash seeds, engine or restarts."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from bytewax.errors import BytewaxRuntimeError
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

from dataflows.connectors.source import LogSource, SourceState, feed_reader
from dataflows.connectors.ticklog import TickLogReader
from dataflows.flow import build
from dataflows.replay import PRODUCTS, file_sinks, product_path, replay
from dataflows.version import PRODUCER
from operators.feed import FeedState
from operators.loop import Loop
from operators.publish import (
    audit_json,
    dead_json,
    event_json,
    frame_json,
    row_json,
    suppression_json,
)
from operators.records import MarketPhase
from packs.loader import Packs, load_packs

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from pathlib import Path
from dataflows.replay import replay
from packs.loader import load_packs
summary = replay(Path(sys.argv[1]), Path(sys.argv[2]), load_packs(), workers=int(sys.argv[3]))
print(*[product.sha256 for product in summary.products.values()])
"""


def sums(log: Path, out: Path, packs: Packs, *, chunk: int = 2000, workers: int = 1) -> list[str]:
    """Replay and return the four sums."""
    summary = replay(log, out, packs, chunk=chunk, workers=workers)
    return [product.sha256 for product in summary.products.values()]


@pytest.fixture(scope="module")
def packs() -> Packs:
    """Return the shipped packs."""
    return load_packs()


@pytest.fixture(scope="module")
def reference(episode_log: Path, tmp_path_factory: pytest.TempPathFactory, packs: Packs) -> Path:
    """Return the products of one plain replay."""
    out = tmp_path_factory.mktemp("reference")
    summary = replay(episode_log, out, packs)
    counts = {name: product.count for name, product in summary.products.items()}
    assert counts["rows"] >= 4 * 236
    assert counts["events"] >= 4
    assert counts["suppressed"] >= 4
    return out


def expected(reference: Path) -> list[bytes]:
    """Return the bytes of the reference products."""
    return [product_path(reference, name).read_bytes() for name in PRODUCTS]


@pytest.mark.parametrize("chunk", [1, 7, 2000, 50_000])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_differential_chunks_and_workers_do_not_matter(
    episode_log: Path, reference: Path, tmp_path: Path, packs: Packs, chunk: int, workers: int
) -> None:
    """Twelve ways to cut and share the same log give the same four files."""
    sums(episode_log, tmp_path, packs, chunk=chunk, workers=workers)
    assert [product_path(tmp_path, name).read_bytes() for name in PRODUCTS] == expected(reference)


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_differential_hash_seeds_do_not_matter(
    episode_log: Path, reference: Path, tmp_path: Path, seed: str
) -> None:
    """No set or hash order reaches the output."""
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(episode_log), str(tmp_path), "2"],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    assert [product_path(tmp_path, name).read_bytes() for name in PRODUCTS] == expected(reference)


def test_differential_the_plain_loop_equals_the_engine(
    episode_log: Path, reference: Path, packs: Packs
) -> None:
    """The engine adds nothing and loses nothing."""
    texts: dict[str, list[bytes]] = {name: [] for name in PRODUCTS}
    feed = feed_reader(FeedState(), packs.features)
    loop = Loop(packs, PRODUCER)
    with TickLogReader(episode_log) as log:
        while lines := log.read(977):
            for output in loop.ticks(feed.read(lines)):
                if isinstance(output, MarketPhase):
                    texts["rows"] += map(row_json, output.rows)
                    texts["frames"] += map(frame_json, output.frames)
                    texts["audit"] += audit_json(output)
                else:
                    texts["events"] += map(event_json, output.events)
                    texts["shadow"] += map(event_json, output.shadow)
                    texts["suppressed"] += map(suppression_json, output.suppressed)
                    texts["dlq"] += map(dead_json, output.dead)
    joined = [b"".join(line + b"\n" for line in texts[name]) for name in PRODUCTS]
    assert joined == expected(reference)


class Stop(Exception):
    """A crash in mid-flow."""


@pytest.mark.parametrize("stops", [[3], [1, 2, 5, 9], [40]])
def test_differential_a_run_that_crashes_and_resumes_equals_one_that_does_not(
    episode_log: Path, reference: Path, tmp_path: Path, packs: Packs, stops: list[int]
) -> None:
    """State, log position and files are taken back to the same instant."""
    store = tmp_path / "store"
    store.mkdir()
    init_db_dir(store, 1)
    recovery = RecoveryConfig(str(store), backup_interval=None)
    out = tmp_path / "out"
    for stop in [*stops, None]:
        seen = 0

        def watch(state: SourceState, stop: int | None = stop) -> None:
            nonlocal seen
            seen += 1
            if stop is not None and seen > stop:
                raise Stop

        source = LogSource(episode_log, packs.features, 1000, on_chunk=watch)
        flow = build(source, packs, file_sinks(out))
        crash = contextlib.nullcontext() if stop is None else pytest.raises(BytewaxRuntimeError)
        with crash:
            run_main(flow, epoch_interval=timedelta(0), recovery_config=recovery)
    assert [product_path(out, name).read_bytes() for name in PRODUCTS] == expected(reference)
