"""Baselines leave the flow once an hour, nothing else changes, and they come back as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from bytewax.visualize import to_mermaid

from dataflows.connectors.baselines import read_baselines
from dataflows.connectors.database import Database
from dataflows.connectors.migrate import open_session
from dataflows.connectors.postgres import PostgresWriter
from dataflows.connectors.source import LogSource
from dataflows.live import Sinks, build
from dataflows.replay import file_sinks, replay
from operators.baselines import Baseline, dump, fresh, load
from operators.lattice import HOUR_MS, MINUTE_MS
from operators.normalize import Normalize, robust_of
from operators.records import Bar, BarItem, BaselineState, Columns, Phase, RowItem
from packs.loader import load_packs

if TYPE_CHECKING:
    from conftest import Place

PACKS = load_packs()
EARLY = 12  # samples that end the warm-up in this file, in place of 200
MIDNIGHT = 20_000 * 86_400_000
PACK = PACKS.features.feature_pack


def step(*, hands_out: bool = True) -> Normalize:
    """A step whose baselines are warm after a few bars."""
    robust = PACKS.features.robust.model_copy(update={"min_samples": EARLY})
    features = PACKS.features.model_copy(update={"robust": robust})
    return Normalize(replace(PACKS, features=features), hands_out=hands_out)


def columns(rng: random.Random) -> Columns:
    """A minute of an asset that trades and has quotes alone."""
    mid = round(100.0 * (1.0 + rng.gauss(0.0, 0.004)), 9)
    buys, sells = (round(rng.lognormvariate(10.0, 1.0), 6) for _ in range(2))
    names = ("oi_close", "oi_close_base", "mark_close", "funding_h_1", "basis_bp_m_1")
    return {
        **dict.fromkeys(names),
        **dict.fromkeys(("open", "high", "low", "close", "mid_close"), mid),
        "v_buy_m_1": buys,
        "v_sell_m_1": sells,
        "v_total_m_1": buys + sells,
        "trade_count_m_1": 50,
        "cvd_delta_m_1": buys - sells,
        "spread_mean_m_1": rng.choice((0.5, 0.75, 1.5)),
        "spread_p95_m_1": 1.5,
        "dropped_ticks": 0,
        "book_staleness_ms": 100,
        "ingest_ts": "2025-09-03T09:30:01.500Z",
        "ingest_lag_ms": 1500,
        "dq_status": "ok",
        "dq_reasons": [],
        "source": "ws",
    }


def minutes(count: int, *, uid: int = 7, seed: int = 1) -> list[BarItem]:
    """Both phases of minutes from midnight on; every fifth is amended."""
    rng = random.Random(seed)
    items = []
    for k in range(1, count + 1):
        label = MIDNIGHT + k * MINUTE_MS
        sealed, amended = columns(rng), columns(rng) if k % 5 == 2 else None
        items.append(BarItem(Phase(label, False, 1, label + 1500), uid, bar(uid, label, 0, sealed)))
        late = None if amended is None else bar(uid, label, 1, amended)
        items.append(BarItem(Phase(label, True, 1, label + 3000), uid, late))
    return items


def bar(uid: int, label: int, revision: int, values: Columns) -> Bar:
    """A bar."""
    return Bar(uid, "SOL", label, revision, values)


def through(items: list[BarItem], normalize: Normalize, state: Any = None) -> list[RowItem]:
    """What the step makes of some phases."""
    state = normalize.initial() if state is None else state
    return [made for item in items for made in normalize.step(state, item)]


# --- what is handed out --------------------------------------------------------------------------


def test_the_rows_do_not_know_whether_baselines_are_stored() -> None:
    """Rows are the same bytes; without it no item carries any."""
    with_them, without = (
        through(minutes(130), step(hands_out=hands_out)) for hands_out in (True, False)
    )
    assert any(item.baselines for item in with_them)
    assert not any(item.baselines for item in without)
    bare = [msgspec.structs.replace(item, baselines=()) for item in with_them]
    assert msgspec.msgpack.encode(bare) == msgspec.msgpack.encode(without)


@pytest.mark.parametrize("uid", [0, 7, 59, 60, 100_007])
def test_once_an_hour_in_a_minute_of_its_own(uid: int) -> None:
    """By the label, when the minute is final: an amendment is in it."""
    found = [item for item in through(minutes(185, uid=uid), step()) if item.baselines]
    assert all(item.phase.final for item in found)
    of_hour = [item.phase.minute_ms % HOUR_MS // MINUTE_MS for item in found]
    assert of_hour == [uid % 60] * 3


def test_what_is_handed_out_is_what_the_state_holds() -> None:
    """Every baseline with a sample, under the column's name, with its own bytes."""
    normalize = step()
    state = normalize.initial()
    items = through(minutes(127), normalize, state)
    handed = items[-1].baselines
    held = {
        (tf, feature): dump(baseline)
        for tf, own in state.tfs.items()
        for feature, baseline in own.baselines.items()
        if baseline.n
    }
    assert sorted(state.content for state in handed) == sorted(held.values())
    by_name = {(each.tf, each.column): each for each in handed}
    volume = by_name["1m", "v_total_m_1"]
    assert volume.content == held["1m", "vol"]
    assert (volume.n, volume.updated_ms) == (127, items[-1].phase.minute_ms)
    assert volume.mu == state.tfs["1m"].baselines["vol"].m
    assert volume.sigma == pytest.approx(state.tfs["1m"].baselines["vol"].v ** 0.5)
    hours = by_name["1h", "spread_mean_h_1"]
    assert (hours.n, hours.mu, hours.sigma) == (2, None, None)  # too few for a z
    assert hours.updated_ms == MIDNIGHT + 2 * HOUR_MS
    assert {each.feature_pack for each in handed} == {PACK}
    assert ("1m", "oi_roc_m_5") not in by_name


# --- warm ----------------------------------------------------------------------------------------


def test_a_run_that_begins_warm_goes_on_where_the_other_was() -> None:
    """What does not look back has the same z from the first row on, and the same baseline after."""
    items = minutes(300)
    whole, later = step(), step()
    state = whole.initial()
    until = next(
        k
        for k, item in enumerate(items)
        for made in whole.step(state, item)
        if item.phase.minute_ms >= MIDNIGHT + 2 * HOUR_MS and made.baselines
    )
    handed = through(items[: until + 1], step())[-1].baselines
    stored: dict[str, dict[str, Baseline]] = {}
    for each in handed:
        stored.setdefault(each.tf, {})[each.column] = load(each.content)
    warm = later.warm({**stored, "2m": {"x": stored["1m"]["v_total_m_1"]}})
    cold = later.initial()
    expected = through(items[until + 1 :], whole, state)
    names = ("z_vol_m_1", "q_vol_m_1", "z_spread_m_1", "b_mean_vol", "b_scale_spread")
    found = through(items[until + 1 :], later, warm)
    for one, other in zip(found, expected, strict=True):
        for mine, theirs in zip(one.rows[:1], other.rows[:1], strict=True):
            if mine.tf == "1m":
                assert [mine.columns[n] for n in names] == [theirs.columns[n] for n in names]
                assert mine.columns["z_vol_m_1"] is not None
    for feature in ("vol", "spread"):
        mine, theirs = (s.tfs["1m"].baselines[feature] for s in (warm, state))
        assert dump(mine) == dump(theirs)
    assert through(items[until + 1 :], later, cold)[0].rows[0].columns["z_vol_m_1"] is None
    assert stored["1m"]["v_total_m_1"].n == warm_count(handed)  # what was given is left as it is


def warm_count(handed: tuple[BaselineState, ...]) -> int:
    """Samples of the volume's baseline as it was handed out."""
    return next(each.n for each in handed if each.column == "v_total_m_1")


# --- the table -----------------------------------------------------------------------------------


def grown(samples: int, label_ms: int, *, uid: int = 7, tf: str = "1m") -> BaselineState:
    """A stored baseline with some samples, the last at a label."""
    baseline = fresh(robust_of(PACKS.features))
    baseline.n, baseline.buf = samples, [1.5] * samples
    baseline.last_ts_ms = label_ms
    return BaselineState(
        uid, tf, "v_total_m_1", PACK, label_ms, samples, None, None, dump(baseline)
    )


@pytest.fixture
def writer(place: Place) -> Iterator[PostgresWriter]:
    """A writer of baselines."""
    writer = PostgresWriter(
        place.dsn, {}, schema=place.schema, backoff_s=(), only=("baseline_state",)
    )
    yield writer
    writer.close()


def stored_counts(place: Place) -> list[tuple[Any, ...]]:
    """Asset, timeframe, samples and time of each line."""
    with open_session(place.dsn, place.schema) as connection:
        return connection.execute(
            "select asset_uid, tf::text, n_samples, updated_at from baseline_state order by 1, 2"
        ).fetchall()


@pytest.mark.service
def test_an_older_baseline_never_replaces_a_newer_one(writer: PostgresWriter, place: Place) -> None:
    """Whatever the order, in one batch and in several; the same again changes nothing."""
    steps = [[grown(2, MIDNIGHT + 2)], [grown(1, MIDNIGHT + 1)], [grown(2, MIDNIGHT + 2)]]
    newest = [grown(4, MIDNIGHT + 4), grown(3, MIDNIGHT + 3), grown(1, MIDNIGHT, tf="1h")]
    seen = []
    for states in (*steps, newest):
        writer.write_baselines(states)
        seen.append([line[2] for line in stored_counts(place)])
    assert seen == [[2], [2], [2], [1, 4]]
    instant = datetime.fromtimestamp(MIDNIGHT / 1000, UTC).replace(microsecond=4000)
    assert stored_counts(place)[1] == (7, "1m", 4, instant)


@pytest.mark.service
def test_a_damaged_baseline_is_named_and_skipped(writer: PostgresWriter, place: Place) -> None:
    """The others come back as they were written; nothing that is not right does."""
    writer.write_baselines(
        msgspec.structs.replace(grown(uid, MIDNIGHT + uid, uid=uid), asset_uid=uid)
        for uid in range(1, 7)
    )
    spoil = {
        2: "quantile_state = set_byte(quantile_state, 40, 1 - get_byte(quantile_state, 40) % 2)",
        3: "quantile_state = ''",
        4: "n_samples = 5",
        5: "updated_at = updated_at + interval '1 ms'",
        6: "feature_pack = 'v0.9'",
    }
    with open_session(place.dsn, place.schema) as connection:
        for uid, change in spoil.items():
            text = f"update baseline_state set {change} where asset_uid = {uid}"
            connection.execute(text.encode())
        found = read_baselines(connection, PACK)
    expected = load(grown(1, MIDNIGHT + 1, uid=1).content)
    assert found.by_asset == {1: {"1m": {"v_total_m_1": expected}}}
    assert {(skip.asset_uid, skip.tf, skip.column) for skip in found.skipped} == {
        (uid, "1m", "v_total_m_1") for uid in spoil
    }
    reasons = {skip.asset_uid: skip.reason for skip in found.skipped}
    assert "digest" in reasons[2]
    assert "found 0 bytes" in reasons[3]
    assert "samples and time" in reasons[4]
    assert "samples and time" in reasons[5]
    assert reasons[6] == f"expected feature pack {PACK}, found v0.9"


# --- the flow ------------------------------------------------------------------------------------


def test_the_branch_exists_only_with_a_place_to_store_to(tmp_path: Path) -> None:
    """The step ids are names: without a database nothing is made."""
    source = LogSource(Path("log"), PACKS.features)
    files = file_sinks(tmp_path)
    assert "baselines" not in to_mermaid(build(source, PACKS, files))
    database = Database(tmp_path, "postgresql://nowhere")
    sinks = Sinks({}, {}, {"database": database.baseline_sink(PACKS.features)})
    sinks = files._replace(baselines=sinks.baselines)
    graph = to_mermaid(build(source, PACKS, sinks))
    assert 'detector.baselines["baselines (flat_map_batch)"]' in graph
    assert 'detector.baselines-database["baselines-database (output)"]' in graph


@pytest.mark.service
@pytest.mark.engine
def test_a_replay_stores_its_baselines_and_writes_the_same_bytes(
    episode_log: Path, place: Place, tmp_path: Path
) -> None:
    """With one worker and with two: the products are those of a run without a database, the stored
    baselines are one another's, and each asset's are of its own minute."""
    plain = replay(episode_log, tmp_path / "plain", PACKS)
    found = []
    for workers in (1, 2):
        database = Database(tmp_path, place.dsn, schema=place.schema)
        extra = Sinks({}, {}, {"database": database.baseline_sink(PACKS.features)})
        out = tmp_path / str(workers)
        summary = replay(episode_log, out, PACKS, workers=workers, extra=extra)
        assert {n: p.sha256 for n, p in summary.products.items()} == {
            n: p.sha256 for n, p in plain.products.items()
        }
        with open_session(place.dsn, place.schema) as connection:
            found.append(read_baselines(connection, PACK))
            if workers == 1:
                connection.execute("delete from baseline_state")
    assert found[0] == found[1]
    assert found[0].skipped == []
    assert len(found[0].by_asset) >= 4
    for uid, baselines in found[0].by_asset.items():
        newest = baselines["1m"]["v_total_m_1"].last_ts_ms
        assert newest is not None
        assert newest // MINUTE_MS % 60 <= uid % 60  # of that minute, or before it if it was not ok
        assert baselines["1m"]["v_total_m_1"].n > 100
        assert {"1m", "15m", "1h"} >= baselines.keys() >= {"1m", "15m"}
