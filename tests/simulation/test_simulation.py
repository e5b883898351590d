"""The whole job under faults from a seed: every check holds, and planted bugs are found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dataflows.connectors import spool, topics
from fixtures.simulation import __main__ as command
from fixtures.simulation import servers
from fixtures.simulation.driver import Outcome, simulate
from fixtures.simulation.plan import plan_of
from operators.records import MarketPhase, Published

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SEEDS = 100
BLOCK = 10
FIND_WITHIN = 30  # seeds in which a planted bug must show
ROOT = Path(__file__).parents[2]

Items = list[tuple[str, Any]]


def test_known_seeds_hold() -> None:
    """What once failed does not fail again."""
    for seed in command.known_seeds():
        outcome = simulate(seed)
        assert outcome.violation is None, command.report(outcome, "this one")


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_fresh_seeds_hold(first: int) -> None:
    """Hundreds of plans of faults: nothing lost, nothing twice, replay gives the same bytes."""
    for seed in range(first, first + BLOCK):
        outcome = simulate(seed)
        assert outcome.violation is None, command.report(outcome, "this one")
        assert outcome.lost == 0


def test_a_seed_is_the_same_everywhere() -> None:
    """Hash seeds and earlier runs of the process do not reach log, products or trace."""
    here = simulate(8)
    program = "from fixtures.simulation.driver import simulate; print(simulate(8).digest)"
    told = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": str(ROOT)},
    )
    again = simulate(8)
    assert told.stdout.strip() == here.digest == again.digest
    assert here.trace == again.trace


def test_plans_hold_every_fault_between_them() -> None:
    """No fault is only in the code: some hundred seeds draw all of them."""
    plans = [plan_of(seed) for seed in range(SEEDS)]
    assert {how for p in plans for how in (c.how for c in p.cuts)} == {
        *("close", "abort", "stall", "refuse")
    }
    assert {turn.what for p in plans for turn in p.turns} == {
        *("list", "delist", "relist", "rename", "reindex")
    }
    assert {name for p in plans for name in p.rates} == {
        *("duplicate", "delay_within_grace", "delay_beyond_grace", "malformed")
    }
    for attribute in ("database", "broker"):
        hows = {window.how for p in plans for window in getattr(p, attribute)}
        assert hows == {"down", "unknown_outcome", "slow"}
    assert any(kill.changes_pack for p in plans for kill in p.kills)
    assert any(kill.behind for p in plans for kill in p.kills)
    assert any(p.disk for p in plans)
    assert any(p.steps for p in plans)


# --- planted bugs ------------------------------------------------------------------------------


def caught(spoil: Callable[..., Items] | None = None) -> Outcome:
    """Return the first outcome that a planted bug spoils."""
    for seed in range(FIND_WITHIN):
        outcome = simulate(seed, spoil)
        if outcome.violation is not None:
            assert 'File "' not in outcome.violation, "it crashed, no check failed"
            return outcome
    raise AssertionError(f"not noticed in {FIND_WITHIN} seeds")


def drop_amendment(step: str, items: Items, restarts: int) -> Items:
    """Lose the rows of a minute that changed after its seal."""
    if not step.startswith("detector.market"):
        return items
    return [
        (key, msgspec.structs.replace(item, rows=()) if item.phase.final else item)
        for key, item in items
        if isinstance(item, MarketPhase)
    ]


def revision_goes_back(step: str, items: Items, restarts: int) -> Items:
    """Send an amended row under the revision of the sealed one."""
    if not step.startswith("detector.market"):
        return items
    return [
        (
            key,
            msgspec.structs.replace(
                item, rows=tuple(msgspec.structs.replace(row, revision=0) for row in item.rows)
            ),
        )
        for key, item in items
    ]


def double_event_after_resume(step: str, items: Items, restarts: int) -> Items:
    """Publish an event twice, in a process that was started again."""
    if not restarts or not step.startswith("detector.budget"):
        return items
    return [
        (key, msgspec.structs.replace(item, events=(*item.events, *item.events[:1])))
        for key, item in items
        if isinstance(item, Published)
    ]


def event_off_the_record(step: str, items: Items, restarts: int) -> Items:
    """Forget why a candidate was not published."""
    if not step.startswith("detector.budget"):
        return items
    return [(k, msgspec.structs.replace(i, suppressed=i.suppressed[:-1])) for k, i in items]


def lose_a_minute_late(step: str, items: Items, restarts: int) -> Items:
    """Lose the first batch of rows after a restart."""
    if step.startswith("detector.market") and restarts:
        return [(k, i) for k, i in items if i.phase.minute_ms // 60_000 % 7]
    return items


@pytest.mark.parametrize(
    "spoil",
    [
        drop_amendment,
        revision_goes_back,
        double_event_after_resume,
        event_off_the_record,
        lose_a_minute_late,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_a_planted_bug_of_the_flow_is_caught(spoil: Callable[..., Items]) -> None:
    """The checks can fail: each bug shows within a few seeds."""
    outcome = caught(spoil)
    assert f"--seed {outcome.seed}" in command.report(outcome, "this one")


@pytest.fixture
def spool_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drain what waits in the wrong order."""
    read = spool.Spool.read
    monkeypatch.setattr(spool.Spool, "read", lambda self: _reversed(read(self)))


def _reversed(chunk: spool.Chunk[Any]) -> spool.Chunk[Any]:
    return chunk._replace(items=chunk.items[::-1])


@pytest.fixture
def spool_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose what an earlier process left in the spool."""

    def take_up(self: spool.Spool[Any]) -> None:
        self.path.unlink()

    monkeypatch.setattr(spool.Spool, "_take_up", take_up)


@pytest.fixture
def topic_is_not_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send what may be in the topic already."""
    read_back = servers.SimulatedBus.read_back
    monkeypatch.setattr(
        servers.SimulatedBus,
        "read_back",
        lambda self, topics, since, wait_s: read_back(self, topics, None, wait_s),
    )


@pytest.fixture
def file_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep, at a resume, what comes again."""
    init = topics.NdjsonFile.__init__

    def keep(self: Any, path: Path, resume: int | None = None, **options: Any) -> None:
        init(self, path, None, **options)

    monkeypatch.setattr(topics.NdjsonFile, "__init__", keep)


@pytest.mark.parametrize(
    "bug",
    [
        "spool_out_of_order",
        "spool_forgets",
        "topic_is_not_read_back",
        "file_is_not_cut",
    ],
)
def test_a_planted_bug_of_the_sinks_is_caught(bug: str, request: pytest.FixtureRequest) -> None:
    """So does one that shows only after an outage or a restart."""
    request.getfixturevalue(bug)
    caught()


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run a few seeds by command and return the figures it writes."""
    out = tmp_path / "results" / "simulate.json"
    assert command.main(["--seeds", "2", "--first", "900", "--out", str(out)]) == 0
    assert "lost: 0" in capsys.readouterr().out
    figures: dict[str, Any] = json.loads(out.read_text())
    return figures


def test_the_command_counts_what_it_did(figures: dict[str, Any]) -> None:
    """Seeds, faults by kind, restarts, duplicates, lost: what is printed is written, too."""
    assert figures["seeds"] == 2 + len(command.known_seeds())
    assert figures["faults_total"] == sum(figures["faults"].values()) > 0
    assert figures["lost"] == 0
    assert figures["failed"] == []
    assert all(value.startswith("sha256:") for value in figures["config_hashes"])


def test_the_command_shows_one_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """With its trace, whether it fails or not."""
    assert command.main(["--seed", "17"]) == 0
    told = capsys.readouterr().out
    assert "started with pack" in told
    assert "seed 17: every check held" in told
