"""The generator's script against the whole catalogue: what is meant is heard, and at once.

Three logs of one market, another seed and another cast each, with every kind of episode after a
warm-up of 210 minutes; one longer log on top of two days of 15m baselines, for rotation; one quiet
day. All by the plain loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dataflows.calibration import RATE_BANDS
from fixtures import market
from fixtures.golden_windows.seasoning import season
from fixtures.market import AssetSpec, Episode, EpisodeTruth, FrameOptions, Scenario, lines, truth
from operators.assemble import Assemble
from operators.detect import Detect
from operators.feed import FeedReader, FeedState, Item
from operators.lattice import MINUTE_MS, iso
from operators.loop import Loop
from operators.records import (
    MARKET_SYMBOL,
    Candidate,
    Frame,
    MarketPhase,
    Phase,
    Published,
    Row,
    RowItem,
    ScoredItem,
    ScoreItem,
    Suppression,
)
from operators.score import Score
from operators.verdicts import DQ_OK
from packs.loader import Packs, load_packs

pytestmark = pytest.mark.slow

PACKS = load_packs()
NAMES = {d.detector_id: (d.event_class, d.subtype) for d in PACKS.detectors}
START_MS = 1_790_020_800_000  # a full hour, four hours before midnight
FRAMES = FrameOptions(quote_ms=(12_000, 12_000, 15_000, 15_000), book=False, ctx_ms=15_000)
COINS = ("BTC", "SOL", "XRP", "DOGE", "SUI", "WLFI")
KNOWN = {spec.coin: spec for spec in market.default_assets(24)}

VOLUME = "spike.vol_spike_m_1"
COOLING, FLIP = "rot.leader_cooling_followers_hot_m_15", "rot.rs_flip_sector_m_15"
# What the noise of a quiet market may set off by itself, within the bands; all else is scripted.
NOISE = (
    *(VOLUME, "spike.price_spike_up_m_1", "spike.price_spike_down_m_1"),
    *("shift.spread_stress_m_1", "shift.basis_jolt_m_5"),
    *("div.price_up_cvd_down_m_5", "div.price_flat_cvd_trend_m_5", "div.premium_no_oi_m_5"),
)
NOISY = frozenset(NAMES[detector_id] for detector_id in NOISE)

# An event comes at the first label of its episode or at the next one; these cannot show yet then.
# (kind, detector) -> minutes that pass before the columns can show it.
LATER = {
    # Open interest moves by 1.2 % a minute and the trigger asks for 1.5 % in five.
    ("squeeze", "spike.oi_spike_down_m_5"): 1,
    ("trend_build", "spike.oi_spike_up_m_5"): 1,
    # 0.35 % a minute and the trigger asks for 0.3 % in five: noise may hold the first one back.
    ("trend_build", "quadrant.price_up_oi_up_m_5"): 1,
    ("trend_build", "combo.price_up_oi_up_m_5"): 1,
    ("trend_build", "quadrant.price_down_oi_up_m_5"): 1,
    ("absorption", "div.price_up_cvd_down_m_5"): 1,
    # The price is pinned when the episode begins, and flat only once five minutes are.
    ("accumulation", "div.price_flat_cvd_trend_m_5"): 4,
    # The spread counts too, and may be narrow at the first leg; the next one is two minutes later.
    ("cascade", "spike.liq_cluster_m_5"): 2,
    # Two steps down are three quarter hours.
    ("handover", COOLING): 44,
}


@dataclass(frozen=True)
class Run:
    """A scenario and what came of it. verdicts : of the 1m rows by (symbol, label)."""

    scenario: Scenario
    truths: list[EpisodeTruth]
    events: list[dict[str, Any]]
    suppressed: list[Suppression]
    verdicts: dict[tuple[str, int], str]

    def within(self, symbols: Iterable[str], first_ms: int, last_ms: int) -> list[dict[str, Any]]:
        """Return the events of some symbols between two labels."""
        wanted, first, last = tuple(symbols), iso(first_ms), iso(last_ms)
        return [
            e for e in self.events if e["symbol"] in wanted and first <= e["exchange_ts"] <= last
        ]

    def of(self, kind: str) -> list[tuple[Episode, EpisodeTruth]]:
        """Return the episodes of a kind with their truths; there is at least one."""
        pairs = zip(self.scenario.episodes, self.truths, strict=True)
        found = [(episode, told) for episode, told in pairs if episode.kind == kind]
        assert found, kind
        return found


def cast(*coins: str) -> tuple[AssetSpec, ...]:
    """Return known assets under new ids: 0, 1, 2..."""
    return tuple(replace(KNOWN[coin], uid=uid) for uid, coin in enumerate(coins))


def read(scenario: Scenario) -> list[Item]:
    """Return the items of a scenario's log."""
    lattice = PACKS.features.lattice
    reader = FeedReader(
        FeedState(),
        lateness_ms=lattice.lateness_ms,
        grace_ms=lattice.grace_ms,
        arrival_jump_gap_ms=lattice.arrival_jump_gap_ms,
    )
    return reader.read(lines(scenario))


def run_of(scenario: Scenario, outputs: Sequence[MarketPhase | Published]) -> Run:
    """Return what a loop has put out, in order."""
    run = Run(scenario, truth(scenario), [], [], {})
    for output in outputs:
        if isinstance(output, Published):
            assert not output.dead
            run.events.extend(output.events)
            run.suppressed.extend(output.suppressed)
            continue
        for row in output.rows:
            if row.tf == "1m":
                run.verdicts[row.symbol, row.exchange_ts_ms] = row.columns["dq_status"]
    return run


def play(scenario: Scenario) -> Run:
    """Run a scenario from its ticks on."""
    return run_of(scenario, Loop(PACKS, "test").ticks(read(scenario)))


def heard(event: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return class and subtype of an event and of those that are folded into it."""
    subtypes = (event["subtype"], *(event.get("coalesced") or ()))
    return {(event["class"], subtype) for subtype in subtypes}


def shown(events: Iterable[Mapping[str, Any]]) -> str:
    """Return events for the message of a failure, one a line."""
    return "\n" + "\n".join(
        f"{e['exchange_ts']} {e['symbol']} {e['class']}.{e['subtype']} {e['severity']}"
        f" {' '.join(e.get('coalesced') or ())}"
        for e in events
    )


# --- the script ----------------------------------------------------------------------------------


def script(seed: int) -> Scenario:
    """Return all kinds but the rotations; every seed has another cast, and turns other signs."""
    a, b, c, d, e, f = COINS[2 * seed - 2 :] + COINS[: 2 * seed - 2]
    jump, rate, premium, flow = {
        1: (1.0, 1.0, 1.0, 1.0),
        2: (-1.0, -1.0, -1.0, -1.0),
        3: (1.0, -1.0, 1.0, -1.0),
    }[seed]
    episodes = (
        Episode("level_shift", 211, 120, (d,), (1.0, 1.35, 1.69)[seed - 1]),  # x30, 40, 50
        Episode("squeeze", 212, 5, (a,)),
        Episode("spread_stress", 212, 4, (f,)),
        Episode("cascade", 225, 5, (b,)),
        Episode("absorption", 225, 5, (e,)),
        Episode("funding_jolt", 240, 60, (c,), rate),
        Episode("basis_jolt", 240, 6, (a,), premium),
        Episode("rug", 254, 4, (f,)),
        Episode("trend_build", 254, 5, (b,)),
        Episode("trend_build", 268, 5, (e,), -1.0),
        Episode("dead_book", 268, 4, (f,)),
        Episode("accumulation", 270, 6, (a,), flow),
        Episode("basket_shock", 286, 2, (), jump),
        Episode("feed_outage", 312, 2),
    )
    return Scenario(seed, START_MS, 342, cast(*COINS), episodes, FRAMES)


SEEDS = (1, 2, 3)


@cache
def scripted(seed: int) -> Run:
    """Return a run of the script; each is made once."""
    return play(script(seed))


def missed(run: Run, *kinds: str) -> list[str]:
    """Return what was meant and did not come in time, by episode, symbol and detector.

    kinds : of the episodes that count, all without one.
    """
    faults = []
    for episode, told in zip(run.scenario.episodes, run.truths, strict=True):
        if kinds and episode.kind not in kinds:
            continue
        first = told.labels[0]
        meant = [(coin, name) for coin in told.coins for name in told.detectors]
        meant += [(MARKET_SYMBOL, name) for name in told.market]
        for symbol, detector_id in meant:
            late_ms = (1 + LATER.get((episode.kind, detector_id), 0)) * MINUTE_MS
            found = run.within([symbol], first, first + late_ms)
            if not any(NAMES[detector_id] in heard(event) for event in found):
                near = shown(run.within([symbol], first, told.until_ms))
                faults.append(f"{episode.kind} {iso(first)}: {symbol} {detector_id}{near}")
    return faults


def allowed(run: Run, symbol: str, label: str) -> set[tuple[str, str]]:
    """Return class and subtype of all that the script allows a symbol at a label."""
    found: set[tuple[str, str]] = set()
    for told in run.truths:
        if iso(told.labels[0]) <= label <= iso(told.until_ms):
            if symbol in told.touched:
                found |= {NAMES[name] for name in (*told.detectors, *told.also)}
            elif symbol == MARKET_SYMBOL:
                found |= {NAMES[name] for name in (*told.market, *told.also)}
    return found


def unscripted(run: Run) -> list[dict[str, Any]]:
    """Return the events that no episode allows."""
    return [e for e in run.events if not heard(e) <= allowed(run, e["symbol"], e["exchange_ts"])]


def test_every_detector_has_its_episode() -> None:
    """Whoever adds a detector adds an episode; sectors flip by two trends, see below."""
    meant = {name for seed in SEEDS for told in truth(script(seed)) for name in told.detectors}
    meant |= {name for seed in SEEDS for told in truth(script(seed)) for name in told.market}
    meant |= {name for told in truth(turns()) for name in told.market}
    assert meant <= NAMES.keys()
    assert NAMES.keys() - meant == {FLIP}


def test_every_kind_is_there_twice() -> None:
    """In the logs of this file; a plain rotation is not meant to be found, see below."""
    played = [*(script(seed) for seed in SEEDS), turns()]
    kinds = Counter(episode.kind for scenario in played for episode in scenario.episodes)
    assert set(market.EPISODES) - kinds.keys() == {"rotation"}
    assert min(kinds.values()) >= 2, kinds


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_meant_comes_at_once(seed: int) -> None:
    """Within one minute of the first whose columns can show it, on every coin of the episode."""
    faults = missed(scripted(seed))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_not_meant_is_the_noise_of_a_quiet_market(seed: int) -> None:
    """Only assets that are touched, only what the script allows; the rest is within the bands."""
    run = scripted(seed)
    rest = unscripted(run)
    assert all(heard(event) <= NOISY for event in rest), shown(rest)
    days = len(COINS) * (run.scenario.minutes - 200) / 1440
    for event_class, count in Counter(event["class"] for event in rest).items():
        # A fraction of a day may have its share, and one by chance.
        assert count <= RATE_BANDS[event_class][1] * days + 1, shown(rest)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_basket_shock_is_one_incident(seed: int) -> None:
    """All its spikes carry the id of the market's event, and no other event of any minute does."""
    run = scripted(seed)
    ((_, told),) = run.of("basket_shock")
    first = told.labels[0]
    shocks = [e for e in run.events if e["class"] == "synchrony"]
    assert shocks[0]["exchange_ts"] == iso(first)
    incident_id = shocks[0]["incident_id"]
    assert incident_id.startswith(iso(first))
    members = [e for e in run.events if e.get("incident_id") == incident_id]
    minute = run.within([*COINS, MARKET_SYMBOL], first, first)
    assert [e for e in minute if e["class"] in ("spike", "synchrony")] == members
    assert {e["symbol"] for e in members} == {*told.coins, MARKET_SYMBOL}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["dead_book", "feed_outage"])
def test_a_broken_market_says_nothing(seed: int, kind: str) -> None:
    """No row of it is called good, and no event comes of it."""
    run = scripted(seed)
    for _, told in run.of(kind):
        verdicts = [run.verdicts[coin, label] for coin in told.touched for label in told.labels]
        assert DQ_OK not in verdicts
        symbols = [*told.touched, *([MARKET_SYMBOL] if kind == "feed_outage" else [])]
        found = run.within(symbols, told.labels[0], told.labels[-1])
        assert not found, shown(found)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_new_level_is_muted_after_half_an_hour(seed: int) -> None:
    """The ledger says so, the flood ends, a real shock is heard, and the end is noted."""
    run = scripted(seed)
    ((_, told),) = run.of("level_shift")
    (coin,), first = told.coins, told.labels[0]
    notes = [
        (note.exchange_ts_ms, note.state)
        for note in run.suppressed
        if note.symbol == coin and note.detector_id == VOLUME and note.state is not None
    ]
    since, state = notes[0]
    assert state == "level_shift"
    assert 29 * MINUTE_MS <= since - first <= 32 * MINUTE_MS
    assert notes[-1][1] in ("closed", "level_shift")

    def spikes(begin_ms: int, end_ms: int) -> list[dict[str, Any]]:
        found = run.within([coin], begin_ms, end_ms)
        return [e for e in found if e["class"] == "spike" and e.get("incident_id") is None]

    before, after = spikes(first, since), spikes(since, told.labels[-1])
    assert 5 <= len(before) <= 15, shown(before)
    assert len(after) <= len(before), shown(after)  # in three times as long
    ((_, shock),) = run.of("basket_shock")
    assert coin in {e["symbol"] for e in run.within([coin], shock.labels[0], shock.labels[0])}


def test_a_weak_event_of_another_detector_does_not_end_a_mute() -> None:
    """A volume as strong as in all minutes before says nothing new, whatever else was heard."""
    score = Score(PACKS, "test")
    state = score.initial()

    def at(minute: int, detector_id: str, primary: float) -> ScoredItem:
        columns = {"z_vol_m_1": primary, "trade_count_m_1": 40, "ret_m_1": 0.001}
        row = lone_row(**columns, is_in_universe=True, is_hot=False, universe_rev=1)
        label = START_MS + minute * MINUTE_MS
        row = msgspec.structs.replace(row, exchange_ts_ms=label)
        frame = Frame("1m", label, 0, {"shock_count_5s": 0, "leader": "BTC"})
        found = (Candidate(detector_id, primary, 0.0, None),)
        phase = Phase(label, False, 1, label + 1500)
        (scored,) = score.step(state, ScoreItem(phase, 0, (row,), (found,), (frame,)))
        return scored

    muted = [at(minute, VOLUME, 5.2) for minute in range(31)][29:]
    assert [scored.suppressed[0].state for scored in muted] == ["level_shift", None]
    (other,) = at(31, "combo.price_up_volume_up_m_1", 3.95).drafts
    assert other.severity == 53
    (again,) = at(32, VOLUME, 5.2).suppressed  # as strong as in most minutes before
    assert again.reason == "cooldown"


# --- funding -------------------------------------------------------------------------------------


def test_a_rate_that_would_change_its_sign_is_heard() -> None:
    """8.4 bp more for an hour are no jolt of 10 bp; once they are gone the sign may well turn."""
    episode = Episode("funding_jolt", 180, 60, ("XRP",), 0.7)
    often = replace(FRAMES, quote_ms=(2000,) * 4)  # one asset alone must keep the socket busy
    run = play(Scenario(2, START_MS, 244, cast("XRP"), (episode,), often))
    found = [e for e in run.events if e["subtype"] == "funding_jolt_h_1"]
    assert [e["exchange_ts"] for e in found] == [iso(START_MS + 241 * MINUTE_MS)], shown(found)


def lone_row(**columns: Any) -> Row:
    """Return a good row of one asset in which nothing but the given is known."""
    known: dict[str, Any] = {
        **dict.fromkeys(PACKS.features.names("1m")),
        "dq_status": DQ_OK,
        "dq_reasons": [],
        "warmup": False,
        "illiquidity_hit": False,
        "dq_penalty": 0,
        "illiq_penalty": 0,
        "rs_score_m_5": 0.0,
        "rs_incomplete": True,
        "scale_floored": [],
        "v_total_m_1": 1e6,
        "ingest_ts": iso(START_MS + 1500),
        "ingest_lag_ms": 1500,
    }
    return Row(0, "BTC", "1m", START_MS, 0, {**known, **columns})


@pytest.mark.parametrize(
    ("change", "divisor", "fires"),
    [
        (3e-5, 1e-6, ["shift.funding_jolt_h_1"]),
        (3e-5, 6e-6, []),  # five times what is usual
        (1e-5, 1e-6, []),  # below 0.2 bp
        (0.0012, 1e-5, ["shift.funding_jolt_h_1", "shift.funding_jolt_plain_h_1"]),
        (0.0012, None, ["shift.funding_jolt_plain_h_1"]),
    ],
)
def test_both_rules_of_a_funding_jolt_make_one_event(
    change: float, divisor: float | None, fires: list[str]
) -> None:
    """The usual change is known after 200 hours, so rows take the place of a log."""
    row = lone_row(
        funding_h_1=1.25e-5 + change,
        dfunding_h_1=change,
        b_divisor_dfunding=divisor,
        time_to_next_funding_sec=3540,
    )
    phase = Phase(START_MS, False, 1, START_MS + 1500)
    (item,) = Detect(PACKS).step(None, RowItem(phase, 0, (row,)))
    assert [found.detector_id for found in item.candidates[0]] == fires
    outputs = Loop(PACKS, "test").rows([item])
    events = [e for o in outputs if isinstance(o, Published) for e in o.events]
    assert [(e["class"], e["subtype"]) for e in events] == (
        [NAMES["shift.funding_jolt_h_1"]] if fires else []
    )


# --- rotation ------------------------------------------------------------------------------------

TURNING = ("BTC", "ETH", "SOL", "HYPE", "XRP", "DOGE")
SECTORS = {"old": ("BTC", "ETH"), "fast": ("SOL", "HYPE"), "retail": ("XRP", "DOGE")}


def turns() -> Scenario:
    """Return two handovers, and trends that make one sector lead and then another."""
    episodes = (
        Episode("handover", 240, 45, ("BTC",)),
        Episode("trend_build", 330, 30, ("SOL", "HYPE")),
        Episode("trend_build", 360, 15, ("XRP", "DOGE")),
        Episode("trend_build", 360, 15, ("BTC", "ETH"), 0.5),
        Episode("trend_build", 360, 15, ("SOL", "HYPE"), -1.0),
        Episode("handover", 420, 45, ("ETH",)),
    )
    return Scenario(3, START_MS, 482, cast(*TURNING), episodes, FRAMES)


def with_sectors(directory: Path) -> Packs:
    """Return the shipped packs with a universe policy that has sectors."""
    shipped = Path(market.__file__).parents[1] / "packs" / "universe" / "rev17.yaml"
    listed = ", ".join(f"{name}: [{', '.join(coins)}]" for name, coins in SECTORS.items())
    text = shipped.read_text().replace("sectors: {}", f"sectors: {{{listed}}}")
    path = directory / "universe.yaml"
    path.write_text(text)
    packs = load_packs(universe=path)
    assert packs.universe.sectors == SECTORS
    return packs


class Seasoned:
    """The loop of six assets whose 15m baselines know two days, each the calm hours over again."""

    def __init__(self, packs: Packs, scenario: Scenario) -> None:
        self.loop = Loop(packs, "test")
        assemble = Assemble(packs.features)
        assets = {spec.uid: assemble.initial() for spec in scenario.assets}
        self.bars = [
            bar for uid, item in read(scenario) for bar in assemble.step(assets[uid], item)
        ]
        self.loop.state.normalize = season(packs, self.bars, scenario.start_ms)

    def play(self) -> list[MarketPhase | Published]:
        """Run the log itself."""
        return self.loop.bars(self.bars)


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> list[MarketPhase | Published]:
    """The outputs of `turns`, warm on 15m and with sectors."""
    packs = with_sectors(tmp_path_factory.mktemp("packs"))
    return Seasoned(packs, turns()).play()


def test_a_leader_that_cools_while_others_warm_up_is_heard(
    turned: list[MarketPhase | Published],
) -> None:
    """At the end of the third quarter hour, on 15m rows of the market, and at no other time."""
    run = run_of(turns(), turned)
    faults = missed(run, "handover")
    assert not faults, "\n".join(faults)
    found = [e for e in run.events if e["subtype"] == NAMES[COOLING][1]]
    ends = [iso(told.labels[-1]) for _, told in run.of("handover")]
    assert [e["exchange_ts"] for e in found] == ends, shown(found)
    assert {(e["symbol"], e["tf"], e["class"]) for e in found} == {
        (MARKET_SYMBOL, "15m", "rotation")
    }
    leaders = [e["market_frame"]["leader"] for e in found]
    assert leaders == [episode.coins[0] for episode, _ in run.of("handover")]


def test_a_sector_that_falls_behind_is_heard(turned: list[MarketPhase | Published]) -> None:
    """The flip comes when the former leader is last, not while it leads."""
    run = run_of(turns(), turned)
    flips = [e["exchange_ts"] for e in run.events if e["subtype"] == NAMES[FLIP][1]]
    labels = [START_MS + minute * MINUTE_MS for minute in (345, 360, 375)]
    frames = {
        frame.exchange_ts_ms: frame.columns
        for output in turned
        if isinstance(output, MarketPhase)
        for frame in output.frames
        if frame.tf == "15m"
    }
    assert [frames[label]["sector_leader"] for label in labels] == ["fast", "fast", "retail"]
    assert frames[labels[2]]["sector_former_rank"] == 3
    assert [iso(label) in flips for label in labels[1:]] == [False, True]


# --- quiet hours ---------------------------------------------------------------------------------


def test_a_quiet_day_stays_within_the_bands() -> None:
    """24 hours of five assets after the warm-up: no asset and no class above its rate."""
    coins = ("BTC", "SOL", "XRP", "DOGE", "WLFI")
    run = play(Scenario(1, START_MS, 210 + 1440, cast(*coins), (), FRAMES))
    verdicts = Counter(run.verdicts.values())
    assert verdicts[DQ_OK] >= 0.98 * sum(verdicts.values()), verdicts
    events = run.within([*coins, MARKET_SYMBOL], START_MS + 211 * MINUTE_MS, 1 << 42)
    assert all(heard(event) <= NOISY for event in events), shown(events)
    counts = Counter((event["symbol"], event["class"]) for event in events)
    above = {key: n for key, n in counts.items() if n > RATE_BANDS[key[1]][1]}
    assert not above, f"{above}{shown(events)}"
    assert sum(counts.values()) >= len(coins)  # it is not silent either
