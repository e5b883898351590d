"""The recovery store is lost and the log begins anew: the flow goes on with stored baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bytewax.testing import cluster_main
from crash_run import small_packs
from matrix import START_MS, Stage

from dataflows.connectors.database import Database
from dataflows.connectors.source import LogSource
from dataflows.connectors.ticklog import TickLogReader, TickLogWriter
from dataflows.flow import build
from dataflows.replay import file_sinks, product_path
from operators.lattice import iso

pytestmark = [pytest.mark.service, pytest.mark.engine, pytest.mark.slow]

HOUR_MS = START_MS + 3_600_000  # the label at which asset 0 stores its baselines
OVERLAP_MS = 30_000  # the final closing of that label comes after it
MINUTE_MS = 60_000


def parts(stage: Stage, folder: Path) -> tuple[Path, Path]:
    """The log up to shortly after the hour, and from the hour on, with a roster of its own."""
    with TickLogReader(stage.log) as log:
        lines = log.read(1 << 30)
    until, since = folder / "until", folder / "since"
    before, after = TickLogWriter(until), TickLogWriter(since)
    begun = False
    for line in lines:
        stamp, _, frame = line.partition(b" ")
        at_ms = int(stamp) // 1_000_000
        if b"alpha.roster" in frame and at_ms < HOUR_MS:
            after.append(HOUR_MS * 1_000_000, frame)
            begun = True
        if at_ms < HOUR_MS + OVERLAP_MS:
            before.append(int(stamp), frame)
        if at_ms >= HOUR_MS:
            after.append(int(stamp), frame)
    before.close()
    after.close()
    assert begun
    return until, since


def rows_of(content: bytes) -> dict[tuple[int, int, int], dict[str, Any]]:
    """The minute rows by asset, minute after the start, and revision."""
    found = {}
    for line in content.splitlines():
        row = json.loads(line)
        if row["tf"] == "1m":
            label = row["exchange_ts"]
            minute = int(label[11:13]) * 60 + int(label[14:16]) - START_MS % 86_400_000 // MINUTE_MS
            found[row["asset_uid"], minute, row["revision"]] = row
    return found


@pytest.mark.parametrize("workers", [1, 3])
def test_a_live_flow_without_its_store_goes_on_with_stored_baselines(
    stage: Stage, tmp_path: Path, workers: int
) -> None:
    """The z of the next bar is that of the run that was not stopped, or NULL; one line says so."""
    until, since = parts(stage, tmp_path)
    orders = stage.orders()
    stage.expect(msgspec.structs.replace(orders, log=str(until)), 0)
    packs, said = small_packs(), list[str]()
    database = Database(tmp_path, stage.dsn, schema=orders.schema, say=said.append)
    flow = build(
        LogSource(since, packs.features),
        packs,
        file_sinks(tmp_path),
        warm=database.warm_start(packs.features),
    )
    cluster_main(flow, [], 0, worker_count_per_proc=workers)  # type: ignore[no-untyped-call]
    found = rows_of(product_path(tmp_path, "rows").read_bytes())
    quiet = rows_of(stage.quiet["rows.ndjson"])
    first = min(minute for _, minute, _ in found)
    assert first == 61
    mine, theirs = found[0, 61, 0], quiet[0, 61, 0]
    for name in ("v_total_m_1", "z_vol_m_1", "q_vol_m_1"):
        assert mine[name] == theirs[name] is not None
    assert mine["z_ret_abs_m_1"] is None is not theirs["z_ret_abs_m_1"]
    assets = {uid for uid, _, _ in quiet}
    warmed = {uid for uid, minute, _ in found if "warm_started" in found[uid, minute, 0]["extras"]}
    assert warmed == assets
    for (uid, minute, _), row in found.items():
        assert ("warm_started" in row["extras"]) == (minute == 61), (uid, minute)
    label = iso(START_MS + 61 * MINUTE_MS)
    assert said == [f"warm start at {label}: baselines of {len(assets)} assets"]
    stage.forget(orders)


def test_a_replay_never_begins_warm(stage: Stage) -> None:
    """Its bytes depend on the log alone: the quiet run had a database and says nothing of it."""
    assert b"warm_started" not in stage.quiet["rows.ndjson"]
