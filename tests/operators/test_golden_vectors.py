"""Numbers of the build plan and of the calibration, through the scorer and against the packs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from operators import universe
from operators.lattice import MINUTE_MS, iso
from operators.records import (
    MARKET_UID,
    Candidate,
    Columns,
    Frame,
    Phase,
    Row,
    ScoredItem,
    ScoreItem,
)
from operators.score import Score
from packs.loader import Detector, Packs, load_packs

FOLDER = Path(__file__).parents[2] / "packs" / "detectors"
RELEASED = {name: load_packs(detectors=FOLDER / f"{name}.yaml") for name in ("v0.1", "v0.2")}
PLAN = RELEASED["v0.1"]
T0 = 1_756_890_000_000  # 09:00:00
VOL = "spike.vol_spike_m_1"
SYNC = "sync.basket_shock_Δt_5s"
COOLING, FLIP = "rot.leader_cooling_followers_hot_m_15", "rot.rs_flip_sector_m_15"
QUADRANTS = tuple(
    f"quadrant.price_{price}_oi_{interest}_m_5"
    for price in ("up", "down")
    for interest in ("up", "down")
)

# What every row has, whatever its timeframe and asset.
GOOD: Columns = {
    "dq_status": "ok",
    "warmup": False,
    "illiquidity_hit": False,
    "dq_penalty": 0,
    "illiq_penalty": 0,
    "is_in_universe": True,
    "is_hot": False,
    "universe_rev": 1,
    "ingest_ts": iso(T0 + 1500),
    "ingest_lag_ms": 1500,
    "clock_skew_ms": 40,
    "book_staleness_ms": 100,
    "oi_staleness_ms": 900,
    "z_vol_m_1": 9.0,  # a volume spike holds in every liquidity tier
    "trade_count_m_1": 412,
}
BOTH = {"dq_penalty": 1, "illiq_penalty": 1}


def by_id(packs: Packs) -> dict[str, Detector]:
    """Return the detectors of a pack by id."""
    return {detector.detector_id: detector for detector in packs.detectors}


class Scorer:
    """The whole scorer, fed with items made by hand; it mutes nobody for firing all along."""

    def __init__(self, name: str) -> None:
        packs = RELEASED[name]
        steady = packs.scoring.model_copy(update={"level_shift_bars": 0})
        self.detectors = by_id(packs)
        self.step = Score(replace(packs, scoring=steady), "alpha-detector@test")
        self.state = self.step.initial()

    def at(
        self,
        minute: int,
        detector_id: str,
        primary: float,
        secondary: float,
        shocks: int,
        **columns: Any,
    ) -> ScoredItem:
        """Score one candidate on a row of its own timeframe, of MARKET where it belongs there."""
        detector = self.detectors[detector_id]
        market = detector.event_class in ("synchrony", "rotation")
        uid, symbol = (MARKET_UID, "MARKET") if market else (0, "BTC")
        label, tf = T0 + minute * MINUTE_MS, detector.tfs[0]
        row = Row(uid, symbol, tf, label, 0, {**GOOD, **columns})
        frame = Frame(tf, label, 0, {"shock_count_5s": shocks, "leader": "BTC"})
        candidates = ((Candidate(detector_id, primary, secondary, None),),)
        phase = Phase(label, False, 1, label + 1500)
        (out,) = self.step.step(self.state, ScoreItem(phase, uid, (row,), candidates, (frame,)))
        return out

    def severity(self, minute: int, *candidate: Any, **columns: Any) -> int:
        """Return the severity of one candidate, published or not."""
        out = self.at(minute, *candidate, **columns)
        (found,) = [d.severity for d in out.drafts] + [s.severity for s in out.suppressed]
        assert found is not None
        return found


# --- worked examples -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "severity"), [("v0.1", 96), ("v0.2", 68)])
def test_golden_the_worked_example(name: str, severity: int) -> None:
    """Build plan 10.9: 3.2 (clamped), 2.1, 4 of 6 shocks, first: it is emitted and remembered."""
    scorer = Scorer(name)
    (draft,) = scorer.at(0, VOL, 3.2, 2.1, 4).drafts
    assert (draft.severity, draft.payload["severity"]) == (severity, severity)
    assert draft.payload["market_frame"]["shock_count_5s"] == 4
    last = scorer.state.emissions["spike:1m"]
    assert (last.at_ms, last.severity, last.subtype) == (T0, severity, "vol_spike_m_1")


FIRST = None
LONG_AGO = 1440  # minutes; decaying novelty is gone
# name, detector, primary, secondary, shocks, minutes since a first event, row, severity
VECTORS = [
    ("v0.1", VOL, 3.0, 0.0, 0, LONG_AGO, {}, 86),
    ("v0.1", "shift.spread_stress_m_1", 2.0, 0.0, 0, FIRST, {}, 77),
    ("v0.2", "shift.spread_stress_m_1", 2.0, 0.0, 0, FIRST, {}, 20),
    ("v0.2", VOL, 4.5, 3.5, 6, FIRST, {}, 94),
    ("v0.2", VOL, 4.5, 3.5, 6, FIRST, BOTH, 88),
    ("v0.2", VOL, 4.5, 3.5, 60, FIRST, BOTH, 88),
]


@pytest.mark.parametrize(
    ("name", "detector_id", "primary", "secondary", "shocks", "since", "row", "severity"), VECTORS
)
def test_golden_severities(
    name: str,
    detector_id: str,
    primary: float,
    secondary: float,
    shocks: int,
    since: int | None,
    row: Columns,
    severity: int,
) -> None:
    """The lines of numerics 12 that one item or two can say."""
    scorer = Scorer(name)
    if since is not None:
        assert scorer.at(0, detector_id, 9.0, 0.0, 0).drafts
    assert scorer.severity(since or 0, detector_id, primary, secondary, shocks, **row) == severity


# numerics 12: seconds since the last emission, novelty of a spike in both packs
NOVELTY = [
    (60, 0.48522452777, 0.234314575051),
    (120, 0.294303552937, 0.4),
    (600, 0.00539035759927, 0.775),
]


@pytest.mark.parametrize(("seconds", "decaying", "recovering"), NOVELTY)
def test_golden_novelty(seconds: int, decaying: float, recovering: float) -> None:
    """Each is what the severity of the same evidence owes to it, to half a point."""
    for name, novelty, a, b in (("v0.1", decaying, 0.6, 0.0), ("v0.2", recovering, 0.97, 4.53)):
        for primary in (0.5, 1.5, 4.0, 4.5):
            scorer = Scorer(name)
            assert scorer.at(0, VOL, 9.0, 0.0, 0).drafts
            expected = rounded(a * (primary + novelty - b))
            assert scorer.severity(seconds // 60, VOL, primary, 0.0, 0) == expected


def rounded(exponent: float) -> int:
    """Return 0 to 100 by the sigmoid, rounded half up, by the C library."""
    return math.floor(100.0 / (1.0 + math.exp(-exponent)) + 0.5)


# --- every detector ------------------------------------------------------------------------------

_SPIKE, _SHIFT = (1.0, 0.5, 0.4, 0.6, 0.0), (0.7, 0.8, 0.2, 0.55, 0.0)
_QUADRANT, _DIVERGENCE = (0.8, 0.6, 0.2, 0.58, 0.0), (0.8, 0.7, 0.2, 0.58, 0.0)
_OI, _ROTATION = (0.9, 0.6, 0.3, 0.58, 0.0), (0.7, 0.5, 0.4, 0.52, 0.0)
# Appendix B, where it says nothing D.2 and D.3: (w1, w2, w3, a, b), cooldown, half-life; T of D.1.
APPENDIX_B: dict[str, tuple[Any, ...]] = {
    VOL: (_SPIKE, 45, 120, 65),
    "spike.price_spike_up_m_1": (_SPIKE, 45, 120, 65),
    "spike.price_spike_down_m_1": (_SPIKE, 45, 120, 65),
    "spike.oi_spike_up_m_5": (_OI, 60, 180, 65),
    "spike.oi_spike_down_m_5": (_OI, 60, 180, 65),
    "spike.liq_cluster_m_5": (_SPIKE, 60, 240, 65),
    "combo.price_up_volume_up_m_1": (_SPIKE, 45, 120, 65),
    "combo.price_up_oi_up_m_5": (_SPIKE, 45, 120, 65),
    "combo.price_up_oi_down_m_5": (_SPIKE, 45, 120, 65),
    "shift.spread_stress_m_1": (_SHIFT, 90, 300, 60),
    "shift.basis_jolt_m_5": (_SHIFT, 90, 300, 60),
    "shift.funding_jolt_h_1": (_SHIFT, 300, 600, 60),
    **dict.fromkeys(QUADRANTS, (_QUADRANT, 90, 180, 55)),
    "div.price_up_cvd_down_m_5": (_DIVERGENCE, 90, 240, 55),
    "div.price_flat_cvd_trend_m_5": (_DIVERGENCE, 90, 240, 55),
    "div.premium_no_oi_m_5": (_DIVERGENCE, 90, 240, 55),
    SYNC: ((0.4, 0.3, 1.0, 0.55, 0.0), 60, 60, 60),
    COOLING: (_ROTATION, 300, 900, 55),
    FLIP: (_ROTATION, 300, 900, 55),
}
_SPIKE2 = (1.0, 0.5, 0.4, 0.97, 4.53)
_JOLT2, _FUNDING2 = (0.7, 0.8, 0.2, 1.5, 2.87), ((0.7, 0.8, 0.2, 1.5, 2.87), 600, 600, 50)
_ROTATION2 = ((0.7, 0.5, 0.4, 1.5, 2.5), 900, 900, 50)
# Numerics 9; half-lives are those of the plan.
NUMERICS_9: dict[str, tuple[Any, ...]] = {
    VOL: (_SPIKE2, 300, 120, 50),
    "spike.price_spike_up_m_1": (_SPIKE2, 300, 120, 50),
    "spike.price_spike_down_m_1": (_SPIKE2, 300, 120, 50),
    "spike.oi_spike_up_m_5": ((0.9, 0.6, 0.3, 0.97, 4.53), 300, 180, 50),
    "spike.oi_spike_down_m_5": ((0.9, 0.6, 0.3, 0.97, 4.53), 300, 180, 50),
    "spike.liq_cluster_m_5": (_SPIKE2, 300, 240, 50),
    "combo.price_up_volume_up_m_1": (_SPIKE2, 300, 120, 50),
    "combo.price_up_oi_up_m_5": (_SPIKE2, 300, 120, 50),
    "combo.price_up_oi_down_m_5": (_SPIKE2, 300, 120, 50),
    "shift.spread_stress_m_1": ((0.7, 0.8, 0.2, 0.95, 3.66), 300, 300, 50),
    "shift.basis_jolt_m_5": (_JOLT2, 300, 300, 50),
    "shift.funding_jolt_h_1": _FUNDING2,
    "shift.funding_jolt_plain_h_1": _FUNDING2,
    **dict.fromkeys(QUADRANTS, ((0.8, 0.6, 0.2, 1.34, 2.9), 300, 180, 50)),
    "div.price_up_cvd_down_m_5": ((0.8, 0.7, 0.2, 1.5, 2.85), 300, 240, 50),
    "div.price_flat_cvd_trend_m_5": ((0.8, 0.7, 0.2, 1.5, 2.85), 300, 240, 50),
    "div.premium_no_oi_m_5": ((0.8, 0.7, 0.2, 1.5, 2.85), 300, 240, 50),
    SYNC: ((0.4, 0.3, 1.0, 1.28, 3.18), 60, 60, 50),
    COOLING: _ROTATION2,
    FLIP: _ROTATION2,
}
TABLES = {"v0.1": APPENDIX_B, "v0.2": NUMERICS_9}
every_detector = pytest.mark.parametrize(
    ("name", "detector_id"), [(name, key) for name, table in TABLES.items() for key in table]
)


def test_every_detector_has_its_line_in_the_tables() -> None:
    """A new one fails here until it is written down."""
    for name, table in TABLES.items():
        assert by_id(RELEASED[name]).keys() == table.keys()


@every_detector
def test_a_detector_is_scored_by_the_numbers_of_its_table(name: str, detector_id: str) -> None:
    """First events, several strengths, with and without breadth, support and penalties."""
    (w1, w2, w3, a, b), *_ = TABLES[name][detector_id]
    for primary in (0.5, 2.0, 3.5, 6.0):
        for secondary, shocks, penalised in ((0.0, 0, {}), (1.25, 3, {}), (-9.0, 12, BOTH)):
            core = w1 * primary + w2 * max(0.0, secondary) + w3 * min(1.0, shocks / 6.0)
            raw = core + 0.8 - (0.6 + 0.3 if penalised else 0.0)
            found = Scorer(name).severity(0, detector_id, primary, secondary, shocks, **penalised)
            assert found == rounded(a * (raw - b)), (primary, secondary, shocks)


@every_detector
def test_a_detector_is_published_at_its_threshold(name: str, detector_id: str) -> None:
    """D.1 and numerics 9: severity T is published, T - 1 is not."""
    (w1, _, _, a, b), _, _, threshold = TABLES[name][detector_id]
    for severity in (threshold - 1, threshold):
        primary = (b + math.log(severity / (100.0 - severity)) / a - 0.8) / w1
        out = Scorer(name).at(0, detector_id, primary, 0.0, 0)
        if severity == threshold:
            assert [d.severity for d in out.drafts] == [severity]
        else:
            assert [(s.reason, s.severity) for s in out.suppressed] == [
                ("below_threshold", severity)
            ]


@every_detector
def test_a_detector_waits_for_its_cooldown(name: str, detector_id: str) -> None:
    """In steps of its timeframe: the first one at or after the cooldown is published again."""
    _, cooldown_s, _, _ = TABLES[name][detector_id]
    detector = by_id(RELEASED[name])[detector_id]
    step = 15 if detector.tfs == ("15m",) else 1
    first_free = -(-cooldown_s // (60 * step)) * step
    for minute in range(step, first_free + step, step):
        scorer = Scorer(name)
        assert scorer.at(0, detector_id, 90.0, 0.0, 0).drafts
        out = scorer.at(minute, detector_id, 90.0, 0.0, 0)
        outcome = [s.reason for s in out.suppressed]
        assert outcome == ([] if minute >= first_free else ["cooldown"]), minute


@every_detector
def test_a_detector_forgets_with_its_half_life(name: str, detector_id: str) -> None:
    """Novelty of the second event, an hour and a half-life of minutes later."""
    (w1, _, _, a, b), _, half_life_s, _ = TABLES[name][detector_id]
    for minutes in (15, 60):
        dt = 60.0 * minutes / half_life_s
        novelty = 0.8 * (math.exp(-dt) if name == "v0.1" else 1.0 - math.pow(2.0, -dt))
        primary = b / w1 + 1.0
        scorer = Scorer(name)
        assert scorer.at(0, detector_id, 90.0, 0.0, 0).drafts
        found = scorer.severity(minutes, detector_id, primary, 0.0, 0)
        assert found == rounded(a * (w1 * primary + novelty - b))


# --- Appendix D ----------------------------------------------------------------------------------

CLASSES = ("spike", "shift", "quadrant", "divergence", "synchrony", "rotation")
D1 = dict(zip(CLASSES, (65, 60, 55, 55, 60, 55), strict=True))
D2 = dict(
    zip(
        CLASSES,
        ((45, 120), (90, 300), (90, 180), (90, 240), (60, 60), (300, 900)),
        strict=True,
    )
)
D3 = {
    "spike": (1.0, 0.5, 0.4, 0.6),
    "shift": (0.7, 0.8, 0.2, 0.55),
    "quadrant": (0.8, 0.6, 0.2, 0.58),
    "divergence": (0.8, 0.7, 0.2, 0.58),
    "synchrony": (0.4, 0.3, 1.0, 0.55),
    "rotation": (0.7, 0.5, 0.4, 0.52),
}
D5 = dict(zip(CLASSES, (4, 2, 2, 2, 2, 1), strict=True))
# Detectors whose numbers Appendix B writes itself: there D.2 and D.3 do not count.
D2_EXCEPT = {"spike.oi_spike_up_m_5", "spike.oi_spike_down_m_5", "spike.liq_cluster_m_5"} | {
    "shift.funding_jolt_h_1"
}
D3_EXCEPT = {"spike.oi_spike_up_m_5", "spike.oi_spike_down_m_5"}


@pytest.mark.parametrize("event_class", CLASSES)
def test_appendix_d1_to_d3_hold_for_every_detector_of_the_class(event_class: str) -> None:
    """Publish threshold, cooldown, half-life and weights."""
    own = [d for d in PLAN.detectors if d.event_class == event_class]
    assert own
    for d in own:
        assert d.publish_threshold == D1[event_class]
        if d.detector_id not in D2_EXCEPT:
            assert (d.cooldown_s, d.half_life_s) == D2[event_class]
        if d.detector_id not in D3_EXCEPT:
            assert (d.w1, d.w2, d.w3, d.a) == D3[event_class]
        assert d.b == 0.0, "the plan has no bias"


_SIGNS = {"up": 1, "down": -1}
Beside = tuple[str, Columns, list[Columns]]


def quadrant(price: str, interest: str) -> Beside:
    """Return the line of one of the four, by the way of price and of open interest."""
    up, more = _SIGNS[price], _SIGNS[interest]
    at = {"ret_m_5": 0.003 * up, "oi_roc_m_5": 0.01 * more, "oi_staleness_ms": 20_000}
    silent: list[Columns] = [
        {"ret_m_5": 0.00299 * up},
        {"oi_roc_m_5": 0.00999 * more},
        {"ret_m_5": -0.003 * up},
        {"oi_roc_m_5": -0.01 * more},
        {"oi_staleness_ms": 20_001},
    ]
    return f"quadrant.price_{price}_oi_{interest}_m_5", at, silent


# D.4: detector, columns at its thresholds, the sides that must be silent
_RATE = {"funding_h_1": 0.0011, "time_to_next_funding_sec": 3600}
D4: list[Beside] = [
    (VOL, {"z_vol_m_1": 3.0, "trade_count_m_1": 5}, [{"z_vol_m_1": 2.99}, {"trade_count_m_1": 4}]),
    (
        "spike.price_spike_up_m_1",
        {"z_ret_abs_m_1": 2.5, "ret_m_1": 0.001},
        [{"z_ret_abs_m_1": 2.49}, {"ret_m_1": -0.001}],
    ),
    (
        "spike.price_spike_down_m_1",
        {"z_ret_abs_m_1": 2.5, "ret_m_1": -0.001},
        [{"z_ret_abs_m_1": 2.49}, {"ret_m_1": 0.001}],
    ),
    (
        "spike.oi_spike_up_m_5",
        {"z_oi_roc_m_5": 2.0, "oi_roc_m_5": 0.015, "oi_staleness_ms": 20_000},
        [{"z_oi_roc_m_5": 1.99}, {"oi_roc_m_5": 0.0149}, {"oi_staleness_ms": 20_001}],
    ),
    (
        "spike.oi_spike_down_m_5",
        {"z_oi_roc_m_5": -2.0, "oi_roc_m_5": -0.015, "oi_staleness_ms": 20_000},
        [{"z_oi_roc_m_5": -1.99}, {"oi_roc_m_5": -0.0149}, {"oi_staleness_ms": 20_001}],
    ),
    ("shift.spread_stress_m_1", {"z_spread_m_1": 2.0}, [{"z_spread_m_1": 1.99}]),
    (
        "shift.basis_jolt_m_5",
        {"z_basis_m_5": 2.5, "basis_bp_m_5": 9.0},
        [{"z_basis_m_5": 2.49}, {"z_basis_m_5": -2.49}],
    ),
    (
        "shift.basis_jolt_m_5",
        {"z_basis_m_5": -2.5, "basis_bp_m_5": -9.0},
        [{"z_basis_m_5": -2.49}, {"z_basis_m_5": 2.49}],
    ),
    ("shift.funding_jolt_h_1", {**_RATE, "dfunding_h_1": 0.001}, [{"dfunding_h_1": 0.000999}]),
    ("shift.funding_jolt_h_1", {**_RATE, "dfunding_h_1": -0.001}, [{"dfunding_h_1": -0.000999}]),
    (
        "shift.funding_jolt_h_1",  # half an hour ahead the rate is on the other side of zero
        {"funding_h_1": 0.00001, "dfunding_h_1": -0.0000201, "time_to_next_funding_sec": 1800},
        [{"dfunding_h_1": -0.00002}, {"time_to_next_funding_sec": 1790}],
    ),
    *(quadrant(price, interest) for price in _SIGNS for interest in _SIGNS),
    (
        "div.price_up_cvd_down_m_5",
        {"ret_m_5": 0.003, "cvd_delta_m_5": -2e5, "b_divisor_cvd": 1e5},
        [{"ret_m_5": 0.00299}, {"cvd_delta_m_5": -1.99e5}],
    ),
    (
        "div.price_flat_cvd_trend_m_5",
        {"ret_m_5": 0.001, "cvd_slope_m_5": 6e3, "b_divisor_cvd_slope": 1e3},
        [{"ret_m_5": 0.00101}, {"cvd_slope_m_5": 5.99e3}, {"cvd_slope_m_5": -5.99e3}],
    ),
    (
        "div.premium_no_oi_m_5",
        {"z_basis_m_5": 2.0, "oi_roc_m_5": 0.0, "basis_bp_m_5": 9.0, "oi_staleness_ms": 20_000},
        [{"z_basis_m_5": 1.99}, {"oi_roc_m_5": 1e-6}, {"oi_staleness_ms": 20_001}],
    ),
    (SYNC, {"shock_count_5s": 4, "universe_size": 26}, [{"shock_count_5s": 3}]),
    (SYNC, {"shock_count_5s": 5, "universe_size": 27}, [{"shock_count_5s": 4}]),
    (SYNC, {"shock_count_5s": 15, "universe_size": 100}, [{"shock_count_5s": 14}]),
]


@pytest.mark.parametrize(("detector_id", "at", "silent"), D4)
def test_appendix_d4_triggers(detector_id: str, at: Columns, silent: list[Columns]) -> None:
    """Each fires exactly at what the plan restates, and not beside it."""
    detector = by_id(PLAN)[detector_id]
    assert detector.fires(at) is True
    for beside in silent:
        assert detector.fires({**at, **beside}) is False, beside


@pytest.mark.parametrize("size", range(1, 201))
def test_appendix_d4_rounds_the_share_of_the_universe_up(size: int) -> None:
    """max(4, ceil(0.15 * universe_size)) in whole numbers, for any size."""
    detector = by_id(PLAN)[SYNC]
    least = next(k for k in range(1000) if detector.fires({"shock_count_5s": k,
                                                           "universe_size": size}))  # fmt: skip
    assert least == max(4, -(-15 * size // 100))


def test_appendix_d5_budgets() -> None:
    """Per symbol and minute, and over all of them."""
    for packs in RELEASED.values():
        assert packs.budgets.per_symbol_per_minute == D5
        assert packs.budgets.global_per_minute == 800


def test_appendix_d6_gates() -> None:
    """Floors of volume and spread, freshness of book and open interest, samples of a z."""
    features = PLAN.features
    illiquid, quality = features.illiquidity, features.quality
    assert (illiquid.v_min_quote, illiquid.v_min_median_share) == (1e4, 0.005)
    assert (illiquid.spread_cap_median_multiple, illiquid.median_days) == (15.0, 7)
    assert (quality.book_staleness_ms_max, quality.oi_staleness_ms_max) == (3000, 20_000)
    assert features.robust.min_samples == 200


@pytest.mark.parametrize("name", RELEASED)
def test_appendix_d6_open_interest_is_fresh_where_a_trigger_needs_it(name: str) -> None:
    """Every detector that reads a change of open interest is silent after 20 s, or at no age."""
    dependent = [
        d for d in RELEASED[name].detectors if any("oi_roc" in item for item in d.trigger.names)
    ]
    assert len(dependent) == 10
    for detector in dependent:
        assert "oi_staleness_ms <= 20000" in [c.text for c in detector.conditions]
        assert "oi_staleness_ms" in detector.required


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize(("tier", "threshold"), [("top", 3.2), ("mid", 3.0), ("tail", 3.8)])
def test_appendix_d7_thresholds_of_the_tiers(name: str, tier: str, threshold: float) -> None:
    """A volume spike needs more in the first and in the last decile; nothing else does."""
    for d in RELEASED[name].detectors:
        assert bool(d.tier_triggers) == (d.detector_id == VOL)
    detector = by_id(RELEASED[name])[VOL]
    assert detector.fires({"z_vol_m_1": threshold, "trade_count_m_1": 5}, tier) is True
    assert detector.fires({"z_vol_m_1": threshold - 1e-9, "trade_count_m_1": 5}, tier) is False


@pytest.mark.parametrize("name", RELEASED)
def test_appendix_d7_budgets_of_the_tiers(name: str) -> None:
    """Two spikes a minute in the tail; the others are not said, so they stay."""
    tiers = RELEASED[name].overrides.tiers
    assert {tier: own.budgets for tier, own in tiers.items()} == {"top": {}, "tail": {"spike": 2}}


@pytest.mark.parametrize(
    ("severity", "minutes"), [(70, 36), (80, 39), (90, 42), (100, 45), (75, 37.5)]
)
def test_appendix_d8_time_on_the_hotlist(severity: int, minutes: float) -> None:
    """ttl = 15 + 0.3 * severity, exactly: to the millisecond it is hot, and then no more."""
    policy = PLAN.universe
    assert policy.hotlist.s_hot == 70
    state = universe.UniverseState()
    universe.heat(state, T0, {7: (severity, "vol_spike_m_1")}, policy)
    expires_ms = T0 + round(minutes * MINUTE_MS)
    universe.cool(state, expires_ms - 1)
    assert universe.is_covered(state, 7)
    universe.cool(state, expires_ms)
    assert not universe.is_covered(state, 7)


@pytest.mark.parametrize(
    ("severity", "subtype", "hot"),
    [
        (69, "vol_spike_m_1", False),
        (70, "vol_spike_m_1", True),
        (70, "oi_spike_up_m_5", True),
        (0, "basis_jolt_m_5", True),
        (0, "liq_cluster_m_5", True),
        (69, "spread_stress_m_1", False),
    ],
)
def test_appendix_d8_who_becomes_hot(severity: int, subtype: str, hot: bool) -> None:
    """At severity 70 anybody; basis jolts and liquidations at any (build plan 7.4)."""
    assert universe.is_hot_enough(severity, subtype, PLAN.universe) is hot
