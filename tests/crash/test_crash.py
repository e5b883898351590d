"""Kills at every boundary: a bounded part of `make crash`, several kills a life."""

from __future__ import annotations

import random
import signal

import msgspec
import pytest
from matrix import (
    KILLED,
    LOG_PASSAGES,
    RECORDING,
    RESUMES,
    CrashError,
    Kill,
    Stage,
    begun_for,
    live,
    lose_store,
    tear_tail,
)

pytestmark = [pytest.mark.service, pytest.mark.engine, pytest.mark.slow]

KILLS_MAX = 7  # of a life
LIVES = {
    "steps": ("step ", "source "),
    "snapshots": ("snapshot ", "store "),
    "files": ("file ",),
    "servers": ("postgres ", "kafka "),
}


@pytest.mark.parametrize("name", LIVES)
def test_a_life_with_kills_at_several_boundaries(stage: Stage, name: str) -> None:
    """One after another, with one to three workers; what is left is that of a quiet run."""
    rng = random.Random(name)
    points = sorted(point for point in stage.passages if point.startswith(LIVES[name]))
    points = rng.sample(points, min(len(points), KILLS_MAX))
    kills = []
    for point in points:
        share = stage.passages[point] // (4 * len(points))  # so that the log lasts for all
        passage = rng.randint(1, max(1, share))
        workers, epoch_ms = rng.choice((1, 2, 3)), rng.choice((0, 40))
        kills.append(Kill(point, passage, workers=workers, epoch_ms=epoch_ms))
    assert_all(stage, kills)


def test_kills_in_an_outage(stage: Stage) -> None:
    """What waits is written, forced to disk, drained and removed: each is interrupted."""
    points = sorted(point for point in stage.passages if point.startswith("spool "))
    points.sort(key=lambda point: point.startswith(("spool drain", "spool remove")))
    assert len(points) == 9
    assert_all(stage, [Kill(point) for point in points])


def assert_all(stage: Stage, kills: list[Kill], *, record: bool = False) -> None:
    """Live through kills, each of which must have happened."""
    before = stage.figures.kills.total()
    live(stage, kills, record=record, seed=len(kills))
    assert stage.figures.kills.total() - before == len(kills)


def test_a_recorder_that_is_killed_loses_no_whole_line(stage: Stage) -> None:
    """Before, within and after an append, a sync, a rotation and a compression of the log."""
    rng = random.Random(3)
    kills = [Kill(point, rng.randint(1, min(20, LOG_PASSAGES[point]))) for point in RECORDING]
    assert_all(stage, kills, record=True)


@pytest.mark.parametrize("what", ["spool", "all"])
def test_kills_while_it_recovers_twice_in_a_row(stage: Stage, what: str) -> None:
    """Of the source, the steps, the files and the topics; of what waits."""
    points = [point for point in RESUMES if ("spool" in point) == (what == "spool")]
    again = [Kill(point, epoch_ms=40) for point in points for _ in range(2)]
    assert_all(stage, [begun_for(stage, points[0]), *again])


def test_a_lost_recovery_store_costs_a_second_reading(stage: Stage) -> None:
    """All of the log again: the same files and tables, and the same ids in the topic."""
    lose_store(stage, random.Random(5))


@pytest.mark.parametrize(("packed", "cut"), [(False, 7), (True, 3000)])
def test_a_log_that_ends_torn_gives_the_bytes_of_its_whole_lines(
    stage: Stage, packed: bool, cut: int
) -> None:
    """A line without its end, a zstd piece without its last frame; also after kills."""
    tear_tail(stage, packed=packed, cut=cut)


def test_a_difference_is_found(stage: Stage) -> None:
    """The comparison compares: a run that was killed and not resumed is not the quiet one."""
    cut = msgspec.structs.replace(stage.orders(), point="step budget after", passage=50)
    assert -stage.expect(cut, KILLED) == signal.SIGKILL
    with pytest.raises(CrashError, match="is not that of the quiet run"):
        stage.compare(cut)
