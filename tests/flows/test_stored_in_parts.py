"""The engine restores every base before the first bar, on any number of workers."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.recovery import RecoveryConfig
from bytewax.testing import TestingSink, cluster_main

from dataflows.halves import normalize
from dataflows.recovery import make_store
from operators import normal_state
from operators.bases import Base, BaseCodec, Held
from operators.lattice import DAY_MS, MINUTE_MS
from operators.normal_state import NormaliseCodec, NormaliseState
from operators.normalize import Normalize
from operators.records import Bar, BarItem, Phase, Row, RowItem, key_of
from packs.loader import Packs, load_packs

pytestmark = pytest.mark.engine

ASSETS, MINUTES = 9, 24
FIRST_MS = 20_000 * DAY_MS - 11 * MINUTE_MS  # over midnight
Keyed = tuple[str, BarItem]


class Stop(Exception):
    """A crash in mid-flow."""


class Bars(FixedPartitionedSource[Keyed, int]):
    """Phases of all assets, from where the store says; it crashes before one, or ends."""

    def __init__(self, batches: list[list[Keyed]], stop: int | None) -> None:
        self._batches, self._stop = batches, stop

    def list_parts(self) -> list[str]:
        return ["0"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _BarsPart:
        return _BarsPart(self._batches, resume_state or 0, self._stop)


class _BarsPart(StatefulSourcePartition[Keyed, int]):
    def __init__(self, batches: list[list[Keyed]], at: int, stop: int | None) -> None:
        self._batches, self._at, self._stop = batches, at, stop

    def next_batch(self) -> list[Keyed]:
        if self._at == self._stop:
            raise Stop
        if self._at == len(self._batches):
            raise StopIteration
        self._at += 1
        return self._batches[self._at - 1]

    def snapshot(self) -> int:
        return self._at


@pytest.fixture(scope="module")
def packs() -> Packs:
    """The shipped packs, warm after a few bars."""
    packs = load_packs()
    robust = packs.features.robust.model_copy(update={"min_samples": 6})
    return replace(packs, features=packs.features.model_copy(update={"robust": robust}))


@pytest.fixture(scope="module")
def batches(packs: Packs) -> list[list[Keyed]]:
    """A batch for every phase."""
    rng = random.Random(3)
    blank = dict.fromkeys(c.name for c in packs.features.columns)
    found = []
    for k in range(MINUTES):
        label = FIRST_MS + k * MINUTE_MS
        for final in (False, True):
            phase = Phase(label, final, ASSETS, label + 1500 * (1 + final))
            batch = []
            for uid in range(ASSETS):
                mid = 100.0 * math.exp(rng.gauss(0.0, 0.01))
                volume = math.exp(rng.gauss(9.0, 1.0))
                columns = {
                    **blank,
                    **dict.fromkeys(("open", "high", "low", "close", "mid_close"), mid),
                    "v_total_m_1": volume,
                    "trade_count_m_1": 9,
                    "cvd_delta_m_1": rng.gauss(0.0, volume),
                    "spread_mean_m_1": rng.choice((0.5, 1.0, 1.5)),
                    "dq_status": "ok",
                    "dq_reasons": [],
                    "dropped_ticks": 0,
                    "ingest_lag_ms": 1500,
                }
                amended = final and rng.random() < 0.3
                bar = Bar(uid, f"A{uid}", label, int(final), columns)
                batch.append(
                    (key_of(uid), BarItem(phase, uid, bar if amended or not final else None))
                )
            found.append(batch)
    return found


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bases that take long to load; returns the assets whose baselines came from one."""
    load, restore, found = BaseCodec.decode, NormaliseCodec.restore, list[int]()

    def slow(self: BaseCodec, data: bytes) -> Held:
        time.sleep(0.01)
        return load(self, data)

    def noted(self: NormaliseCodec, state: NormaliseState, base: Base | None) -> None:
        assert base is not None
        found.append(base.asset_uid)
        restore(self, state, base)

    monkeypatch.setattr(BaseCodec, "decode", slow)
    monkeypatch.setattr(NormaliseCodec, "restore", noted)
    monkeypatch.setattr(normal_state, "RENEWAL_MINUTES", 5)
    return found


def by_phase(outputs: list[tuple[str, RowItem]], rows: dict[Any, tuple[Row, ...]]) -> None:
    """Note the rows of each asset and phase; a repetition says the same."""
    for _, item in outputs:
        known = rows.setdefault((item.asset_uid, item.phase.number), item.rows)
        assert known == item.rows


@pytest.mark.parametrize(
    ("workers", "stops"),
    [
        ([1, 1, 1, 1, 1], [3, 9, 10, 40, None]),
        ([1, 2, 3, 1, 2], [9, 17, 24, 31, None]),
        ([3, 3, 2, 2, 3], [7, 7, 25, 26, None]),
    ],
)
def test_crashes_and_other_numbers_of_workers_lose_no_baseline(
    packs: Packs,
    batches: list[list[Keyed]],
    restored: list[int],
    tmp_path: Path,
    workers: list[int],
    stops: list[int | None],
) -> None:
    """Every batch is an epoch: rows are those of a run that never stopped."""
    step, rows = Normalize(packs), dict[Any, tuple[Row, ...]]()
    states = [step.initial() for _ in range(ASSETS)]
    expected: dict[Any, tuple[Row, ...]] = {}
    for batch in batches:
        for key, item in batch:
            by_phase([(key, out) for out in step.step(states[item.asset_uid], item)], expected)
    make_store(tmp_path, 1)
    recovery = RecoveryConfig(str(tmp_path), backup_interval=None)
    for count, stop in zip(workers, stops, strict=True):
        outputs: list[tuple[str, RowItem]] = []
        flow = Dataflow("rows")
        bars = op.input("bars", flow, Bars(batches, stop))
        op.output("out", normalize(bars, packs), TestingSink(outputs))
        crash = contextlib.nullcontext() if stop is None else pytest.raises(BytewaxRuntimeError)
        with crash:
            cluster_main(
                flow,
                [],
                0,
                worker_count_per_proc=count,
                epoch_interval=timedelta(0),
                recovery_config=recovery,
            )
        by_phase(outputs, rows)
    assert rows == expected
    assert not any("baseline_reset" in row.extras for found in rows.values() for row in found)
    assert set(restored) == set(range(ASSETS))


def test_a_stream_that_ended_goes_on_from_whole_states(
    packs: Packs, batches: list[list[Keyed]], restored: list[int], tmp_path: Path
) -> None:
    """At the end everything is stored once more, and `bases` does not hold its bytes any more."""
    make_store(tmp_path, 1)
    recovery = RecoveryConfig(str(tmp_path), backup_interval=None)
    rows: dict[Any, tuple[Row, ...]] = {}
    for upto in (20, 21, 40, len(batches)):
        outputs: list[tuple[str, RowItem]] = []
        flow = Dataflow("rows")
        bars = op.input("bars", flow, Bars(batches[:upto], None))
        op.output("out", normalize(bars, packs), TestingSink(outputs))
        cluster_main(
            flow,
            [],
            0,
            worker_count_per_proc=2,
            epoch_interval=timedelta(0),
            recovery_config=recovery,
        )
        by_phase(outputs, rows)
    assert len(rows) == ASSETS * len(batches)
    assert not any("baseline_reset" in row.extras for found in rows.values() for row in found)
    assert restored == []
