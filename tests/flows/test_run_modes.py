"""What a mode does to a whole run: who hears the events changes, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import orjson
import pytest

from dataflows.connectors.source import feed_reader
from dataflows.connectors.ticklog import TickLogReader
from dataflows.live import run_notes
from dataflows.replay import PRODUCTS, product_path
from dataflows.replay import replay as run_replay
from dataflows.settings import Settings, SettingsError
from dataflows.version import PRODUCER
from operators.feed import FeedState
from operators.loop import Loop
from operators.modes import Run
from operators.publish import event_json, frame_json, row_json, suppression_json
from operators.records import MarketPhase, Published, Suppression
from packs.loader import Packs, load_packs
from packs.schema import Canary

PACKS = replace(load_packs(), canary=Canary(coins=("SOL", "BTC")))


class Heard(NamedTuple):
    """Everything a run gave."""

    market: list[bytes]
    phases: list[Published]

    @property
    def events(self) -> list[bytes]:
        """Events of all phases."""
        return [event_json(e) for p in self.phases for e in p.events]

    @property
    def shadow(self) -> list[bytes]:
        """Shadow events of all phases."""
        return [event_json(e) for p in self.phases for e in p.shadow]

    @property
    def suppressed(self) -> list[Suppression]:
        """Suppressions of all phases."""
        return [s for p in self.phases for s in p.suppressed]


def go(log: Path, packs: Packs, run: Run) -> Heard:
    """Run a log through the plain loop."""
    feed = feed_reader(FeedState(), packs.features)
    loop = Loop(packs, PRODUCER, run)
    heard = Heard([], [])
    with TickLogReader(log) as reader:
        while batch := reader.read(5000):
            for output in loop.ticks(feed.read(batch)):
                if isinstance(output, MarketPhase):
                    heard.market.extend(map(row_json, output.rows))
                    heard.market.extend(map(frame_json, output.frames))
                else:
                    heard.phases.append(output)
    return heard


@pytest.fixture(scope="module")
def prod(episode_log: Path) -> Heard:
    """Return what production says."""
    heard = go(episode_log, PACKS, Run())
    assert len(heard.events) > 10
    assert heard.shadow == []
    return heard


def test_a_run_in_shadow_says_what_production_would(episode_log: Path, prod: Heard) -> None:
    """The same bytes on the other topic; rows, frames and suppressions are those of production."""
    heard = go(episode_log, PACKS, Run("shadow"))
    assert (heard.events, heard.shadow) == ([], prod.events)
    assert (heard.market, heard.suppressed) == (prod.market, prod.suppressed)


def test_a_canary_run_splits_what_production_would_say(episode_log: Path, prod: Heard) -> None:
    """Two coins are live, all others in shadow; each in the order of production."""
    heard = go(episode_log, PACKS, Run("canary"))
    named = [orjson.loads(text)["symbol"] in PACKS.canary.coins for text in prod.events]
    assert heard.events == [t for t, live in zip(prod.events, named, strict=True) if live]
    assert heard.shadow == [t for t, live in zip(prod.events, named, strict=True) if not live]
    assert heard.events
    assert heard.shadow
    assert heard.suppressed == prod.suppressed


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (Run("dry_run"), "dry_run"),
        *((Run(mode, emit_events=False), "kill_switch") for mode in ("prod", "shadow", "dry_run")),
    ],
)
def test_a_run_that_publishes_nothing_accounts_for_it(
    episode_log: Path, prod: Heard, run: Run, reason: str
) -> None:
    """As many suppressions with the reason as production has events, with their severities."""
    heard = go(episode_log, PACKS, run)
    assert (heard.events, heard.shadow, heard.market) == ([], [], prod.market)
    held = [s for s in heard.suppressed if s.reason == reason]
    assert sorted((s.symbol, s.exchange_ts_ms, s.severity) for s in held) == sorted(
        (e["symbol"], p.phase.minute_ms, e["severity"]) for p in prod.phases for e in p.events
    )
    assert [s for s in heard.suppressed if s.reason != reason] == prod.suppressed


def test_a_detector_in_shadow_changes_nothing_that_is_live(episode_log: Path, prod: Heard) -> None:
    """A copy of every detector in shadow: the live side keeps every byte, the copies say the same.

    Only the incidents are missing there: an incident is a matter of what was published.
    """
    copies = tuple(
        replace(d, detector_id=f"{d.detector_id}x", mode="shadow") for d in PACKS.detectors
    )
    heard = go(episode_log, replace(PACKS, detectors=(*PACKS.detectors, *copies)), Run())
    assert (heard.events, heard.market) == (prod.events, prod.market)
    assert [s for s in heard.suppressed if not s.detector_id.endswith("x")] == prod.suppressed
    said = [orjson.loads(text) for text in prod.events]
    for event in said:
        event.pop("incident_id", None)
    assert [orjson.loads(text) for text in heard.shadow] == said


@pytest.mark.engine
@pytest.mark.parametrize(("mode", "live"), [("replay", True), ("shadow", False)])
def test_a_replay_in_a_mode(
    episode_log: Path, prod: Heard, tmp_path: Path, mode: str, live: bool
) -> None:
    """Through the engine and into files; by default as in production."""
    run = msgspec.convert({"mode": mode}, Run)
    summary = run_replay(episode_log, tmp_path, PACKS, run=run)
    assert set(summary.products) == set(PRODUCTS)
    full, empty = ("events", "shadow") if live else ("shadow", "events")
    assert product_path(tmp_path, full).read_bytes().splitlines() == prod.events
    assert product_path(tmp_path, empty).read_bytes() == b""
    suppressed = product_path(tmp_path, "suppressed").read_bytes().splitlines()
    assert suppressed == [suppression_json(s) for s in prod.suppressed]


def test_the_environment_says_the_mode() -> None:
    """One word and one switch; anything else is one message."""
    assert Settings.from_env({}).run == Run("prod", emit_events=True)
    given = {"ALPHA_RUN_MODE": "canary", "ALPHA_EMIT_EVENTS": "false"}
    assert Settings.from_env(given).run == Run("canary", emit_events=False)
    wrong = {"ALPHA_RUN_MODE": "replay", "ALPHA_EMIT_EVENTS": "perhaps"}
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(wrong)
    assert "ALPHA_RUN_MODE: found 'replay'" in str(caught.value)
    assert "ALPHA_EMIT_EVENTS: found 'perhaps'" in str(caught.value)


def test_a_start_says_what_is_not_published() -> None:
    """Production has nothing to say; every other run says who hears what."""
    canary = Canary(coins=("BTC",), percent=10)
    assert run_notes(Run(), canary) == []
    assert ["BTC and 10 % of all assets" in note for note in run_notes(Run("canary"), canary)] == [
        True
    ]
    assert ["kill_switch" in n for n in run_notes(Run(emit_events=False), canary)] == [True]
    for mode in ("dry_run", "shadow"):
        (note,) = run_notes(msgspec.convert({"mode": mode}, Run), canary)
        assert mode in note
