"""Baselines leave the flow once an hour, nothing else changes, and they come back as they were."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from bytewax.visualize import to_mermaid

from dataflows.connectors.baselines import (
    AGE_H_MAX,
    WARM,
    Skipped,
    StoredBaselines,
    StoredWarm,
    read_baselines,
)
from dataflows.connectors.database import Database
from dataflows.connectors.migrate import open_session
from dataflows.connectors.postgres import PostgresWriter
from dataflows.connectors.source import LogSource
from dataflows.flow import Sinks, build
from dataflows.replay import file_sinks, replay
from operators.baselines import Baseline, dump, fresh, load
from operators.lattice import HOUR_MS, MINUTE_MS, iso
from operators.normalize import Normalize, robust_of
from operators.records import Bar, BarItem, BaselineState, Columns, Phase, RowItem
from packs.loader import load_packs

if TYPE_CHECKING:
    from conftest import Place

PACKS = load_packs()
EARLY = 12  # samples that end the warm-up in this file, in place of 200
MIDNIGHT = 20_000 * 86_400_000
PACK = PACKS.features.feature_pack


class Given:
    """Baselines to begin with, as they are handed in."""

    def __init__(self, stored: dict[str, dict[str, Baseline]]) -> None:
        self.stored = stored
        self.asked: list[tuple[int, int]] = []

    def take(self, asset_uid: int, label_ms: int) -> dict[str, dict[str, Baseline]]:
        """Return all of them."""
        self.asked.append((asset_uid, label_ms))
        return self.stored


def step(*, hands_out: bool = True, warm: Given | None = None) -> Normalize:
    """A step whose baselines are warm after a few bars."""
    robust = PACKS.features.robust.model_copy(update={"min_samples": EARLY})
    features = PACKS.features.model_copy(update={"robust": robust})
    return Normalize(replace(PACKS, features=features), hands_out=hands_out, warm=warm)


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


def handed_at(hour: int, items: list[BarItem]) -> tuple[int, Any, Normalize, tuple[Any, ...]]:
    """Run until the baselines after an hour of the day are out; where, and what there is then."""
    whole = step()
    state = whole.initial()
    for k, item in enumerate(items):
        for made in whole.step(state, item):
            if item.phase.minute_ms >= MIDNIGHT + hour * HOUR_MS and made.baselines:
                return k + 1, state, whole, made.baselines
    raise AssertionError(hour)


def loaded(handed: tuple[BaselineState, ...]) -> dict[str, dict[str, Baseline]]:
    """What was handed out, as it is read back."""
    stored: dict[str, dict[str, Baseline]] = {}
    for each in handed:
        stored.setdefault(each.tf, {})[each.column] = load(each.content)
    return stored


def test_a_run_that_begins_warm_goes_on_where_the_other_was() -> None:
    """What does not look back has the same z from the first row on, and the same baseline after."""
    items = minutes(300)
    at, state, whole, handed = handed_at(2, items)
    stored = loaded(handed)
    later = step(warm=Given({**stored, "2m": {"x": stored["1m"]["v_total_m_1"]}}))
    warm, cold = later.initial(), later.initial()
    expected = through(items[at:], whole, state)
    names = ("z_vol_m_1", "q_vol_m_1", "z_spread_m_1", "b_mean_vol", "b_scale_spread")
    found = through(items[at:], later, warm)
    for one, other in zip(found, expected, strict=True):
        for mine, theirs in zip(one.rows[:1], other.rows[:1], strict=True):
            if mine.tf == "1m":
                assert [mine.columns[n] for n in names] == [theirs.columns[n] for n in names]
                assert mine.columns["z_vol_m_1"] is not None
    for feature in ("vol", "spread"):
        mine, theirs = (s.tfs["1m"].baselines[feature] for s in (warm, state))
        assert dump(mine) == dump(theirs)
    assert through(items[at:], step(), cold)[0].rows[0].columns["z_vol_m_1"] is None
    assert stored["1m"]["v_total_m_1"].n == warm_count(handed)  # what was given is left as it is


@pytest.mark.parametrize(("uid", "revisions"), [(7, [0]), (11, [0, 1])])
def test_the_first_row_after_a_warm_start_is_equal_or_null_and_never_different(
    uid: int, revisions: list[int]
) -> None:
    """Every z and q, at the label after the one that was stored; so is its amendment.

    NULL are those whose value looks back, such as that of a return.
    """
    items = minutes(240, uid=uid)
    at, state, whole, handed = handed_at(2, items)
    later = step(warm=Given(loaded(handed)))
    theirs = through(items[at : at + 2], whole, state)
    ours = through(items[at : at + 2], later, later.initial())
    rows = [
        (mine.rows[0], other.rows[0]) for mine, other in zip(ours, theirs, strict=True) if mine.rows
    ]
    assert [mine.revision for mine, _ in rows] == revisions
    for mine, other in rows:
        fixed = {name for name in other.columns if name.startswith(("z_", "q_"))}
        equal = {name for name in fixed if mine.columns[name] == other.columns[name]}
        null = {name for name in fixed if mine.columns[name] is None}
        assert fixed == equal | null
        assert {"z_vol_m_1", "z_spread_m_1", "q_vol_m_1"} <= equal - null
        assert {"z_ret_abs_m_1"} <= null - equal
        assert mine.extras["warm_started"] == {
            "baselines": len(handed),
            "updated_at": iso(other.exchange_ts_ms - MINUTE_MS),
        }
        assert "warm_started" not in other.extras


def test_a_warm_start_is_said_once_and_asked_for_once() -> None:
    """Later rows, and those of other timeframes, do not say so; nobody asks again."""
    items = minutes(300)
    at, _, _, handed = handed_at(2, items)
    given = Given(loaded(handed))
    later = step(warm=given)
    found = through(items[at:], later)
    said = [
        row.exchange_ts_ms for item in found for row in item.rows if "warm_started" in row.extras
    ]
    first = items[at].phase.minute_ms
    assert set(said) == {first}
    assert given.asked == [(7, first)]


def test_an_asset_that_began_warm_stores_nothing_for_an_hour() -> None:
    """A restart before the first commit finds what the first start did: it begins the same way."""
    items = minutes(300)
    at, _, _, handed = handed_at(2, items)
    found = through(items[at:], step(warm=Given(loaded(handed))))
    first = items[at].phase.minute_ms
    labels = [item.phase.minute_ms for item in found if item.baselines]
    assert labels == [first - MINUTE_MS + 2 * HOUR_MS]
    cold = through(items[at:], step(warm=Given({})))
    again = next(item.phase.minute_ms for item in cold if item.baselines)
    assert again == first - MINUTE_MS + HOUR_MS


def test_a_state_that_exists_is_never_warmed() -> None:
    """Not after a restart, nor where a state was lost in storage and says so."""
    items = minutes(140)
    normalize = step()
    state = normalize.initial()
    through(items[:60], normalize, state)
    given = Given(loaded(handed_at(2, items)[3]))
    later = step(warm=given)
    resumed = later.codec().decode(normalize.codec().encode(state))
    found, expected = (
        through(items[60:80], s, t) for s, t in ((later, resumed), (normalize, state))
    )
    assert msgspec.msgpack.encode(found) == msgspec.msgpack.encode(expected)
    lost = later.codec().decode(b"damaged")
    rows = [row for item in through(items[60:80], later, lost) for row in item.rows]
    assert "baseline_reset" in rows[0].extras
    assert given.asked == []


def warm_count(handed: tuple[BaselineState, ...]) -> int:
    """Samples of the volume's baseline as it was handed out."""
    return next(each.n for each in handed if each.column == "v_total_m_1")


# --- the table -----------------------------------------------------------------------------------


def grown(samples: int, label_ms: int, *, uid: int = 7, tf: str = "1m") -> BaselineState:
    """A stored baseline with some samples, the last at a label."""
    baseline = fresh(robust_of(PACKS.features))
    baseline.n, baseline.buf = samples, array("d", [1.5] * samples)
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


# --- what may be begun with ----------------------------------------------------------------------


def at_hours(*hours: float) -> StoredBaselines:
    """Stored baselines of one asset each, so many hours after midnight."""
    by_asset = {
        uid: {"1m": {"v_total_m_1": load(grown(3, MIDNIGHT + round(hour * HOUR_MS)).content)}}
        for uid, hour in enumerate(hours)
    }
    return StoredBaselines(by_asset, [Skipped(9, "1m", "v_total_m_1", "the digest is wrong")])


def outcomes() -> dict[str, float]:
    """The counter of stored baselines."""
    return {
        sample.labels["outcome"]: sample.value
        for metric in WARM.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


def test_what_is_too_old_or_of_later_bars_is_refused_and_counted() -> None:
    """By the label, a hundred and sixty-eight hours back at most; one line says all of it."""
    said: list[str] = []
    calls: list[int] = []

    def read() -> StoredBaselines:
        calls.append(1)
        return at_hours(0.0, -1 / 3_600_000, 167.9, 168.0, 169.0)

    before = outcomes()
    warm = StoredWarm(read, said.append)
    taken = [bool(warm.take(uid, MIDNIGHT + AGE_H_MAX * HOUR_MS)) for uid in range(6)]
    assert taken == [True, False, True, False, False, False]
    change = {name: value - before.get(name, 0.0) for name, value in outcomes().items()}
    assert change == {"taken": 2, "too_old": 1, "ahead": 2, "unusable": 1}
    assert said == [
        "warm start at 2024-10-11T00:00:00Z: baselines of 2 assets; refused: 1 older than 168 h,"
        " 2 of later bars, 1 unusable, the first of asset 9, 1m, v_total_m_1: the digest is wrong"
    ]
    assert len(calls) == 1


def test_a_database_that_does_not_answer_means_a_cold_start(tmp_path: Path) -> None:
    """One line, no failure; nothing is asked for before the first asset is there."""
    said: list[str] = []
    database = Database(tmp_path, "postgresql://127.0.0.1:9/none", say=said.append)
    warm = database.warm_start(PACKS.features)
    assert said == []
    assert [warm.take(uid, MIDNIGHT) for uid in range(3)] == [{}, {}, {}]
    assert len(said) == 1
    assert said[0].startswith("cold start: the stored baselines cannot be read: connection")


def test_with_nothing_stored_nothing_is_said() -> None:
    """The very first start."""
    said: list[str] = []
    assert StoredWarm(StoredBaselines, said.append).take(1, MIDNIGHT) == {}
    assert said == []


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
