"""Every candidate becomes an event or a suppression with one reason, and repeats are rare."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.detect import Detect
from operators.expressions import ColumnType, compile_expression
from operators.lattice import MINUTE_MS, iso
from operators.records import (
    Candidate,
    Columns,
    Draft,
    Frame,
    Phase,
    Row,
    RowItem,
    ScoredItem,
    ScoreItem,
    Suppression,
)
from operators.score import Score, ScoreState
from packs.loader import Packs, load_packs
from packs.schema import FRAME_COLUMNS, Mode, Timeframe

FOLDER = Path(__file__).parents[2] / "packs" / "detectors"
V01, V02 = (load_packs(detectors=FOLDER / f"{name}.yaml") for name in ("v0.1", "v0.2"))
PACKS = {"v0.1": V01, "v0.2": V02}
T0 = 1_756_890_000_000  # 09:00:00, minute 0 of a test
VOL, UP = "spike.vol_spike_m_1", "spike.price_spike_up_m_1"
DOWN, COMBO = "spike.price_spike_down_m_1", "combo.price_up_volume_up_m_1"
SPREAD = "shift.spread_stress_m_1"
NAMES = {tf: V02.features.names(tf) for tf in ("1m", "15m", "1h")}
SUBTYPE = {
    detector_id: detector_id.partition(".")[2] for detector_id in (VOL, UP, DOWN, COMBO, SPREAD)
}
# class defaults, numerics 9 and Appendix D: (w1, w2, w3, a, b), half-life, T
WEIGHTS = {
    ("v0.1", "spike"): ((1.0, 0.5, 0.4, 0.6, 0.0), 120.0),
    ("v0.2", "spike"): ((1.0, 0.5, 0.4, 0.97, 4.53), 120.0),
    ("v0.1", "shift"): ((0.7, 0.8, 0.2, 0.55, 0.0), 300.0),
    ("v0.2", "shift"): ((0.7, 0.8, 0.2, 0.95, 3.66), 300.0),
}


def fired(
    detector_id: str = VOL,
    primary: float = 3.0,
    secondary: float = 0.0,
    *,
    gate: str | None = None,
) -> Candidate:
    """Return a trigger that held."""
    return Candidate(detector_id, primary, secondary, gate)


def row(minute: int, *, revision: int = 0, **columns: Any) -> Row:
    """Return the row of a member in a good minute, on which a volume spike holds in any tier."""
    base: Columns = {
        **dict.fromkeys(NAMES["1m"]),
        "z_vol_m_1": 9.0,
        "trade_count_m_1": 40,
        "dq_status": "ok",
        "dq_reasons": [],
        "warmup": False,
        "illiquidity_hit": False,
        "dq_penalty": 0,
        "illiq_penalty": 0,
        "is_in_universe": True,
        "is_hot": False,
        "universe_rev": 1,
        "ingest_ts": iso(T0 + minute * MINUTE_MS + 1500),
        "ingest_lag_ms": 1500,
        "clock_skew_ms": 40,
        "book_staleness_ms": 100,
        "oi_staleness_ms": 900,
    }
    label = T0 + minute * MINUTE_MS
    return Row(0, "BTC", "1m", label, revision, {**base, **columns})


class Asset:
    """The scoring of one asset."""

    def __init__(self, packs: Packs = V02) -> None:
        self.packs = packs
        self.step = Score(packs, "alpha-detector@test")
        self.state = self.step.initial()

    def at(
        self,
        minute: int,
        *candidates: Candidate,
        shocks: int = 0,
        final: bool = False,
        frame: Columns | None = None,
        tier: str = "mid",
        **columns: Any,
    ) -> ScoredItem:
        """Score the candidates of one minute."""
        label = T0 + minute * MINUTE_MS
        phase = Phase(label, final, 1, label + (3000 if final else 1500))
        market = Frame("1m", label, 0, {"shock_count_5s": shocks, "leader": "BTC", **(frame or {})})
        one = row(minute, revision=int(final), **columns)
        item = ScoreItem(phase, 0, (one,), (candidates,), (market,), tier)
        (out,) = self.step.step(self.state, item)
        assert (out.phase, out.asset_uid) == (phase, 0)
        return out


def said(scored: ScoredItem) -> list[tuple[str, int | None]]:
    """Return what became of the candidates: subtype or reason, and severity."""
    events = [(draft.payload["subtype"], draft.severity) for draft in scored.drafts]
    return [*events, *((s.reason, s.severity) for s in scored.suppressed)]


def only(scored: ScoredItem) -> tuple[str, int | None]:
    """Return what became of the only candidate."""
    (one,) = said(scored)
    return one


def novelty(version: str, dt_s: float | None, half_life_s: float) -> float:
    """Return the novelty of numerics 9, by the C library."""
    if dt_s is None:
        return 0.8
    if version == "v0.1":
        return 0.8 * math.exp(-dt_s / half_life_s)
    return 0.8 * (1.0 - math.exp(-0.6931471805599453 * dt_s / half_life_s))


def primary_for(
    severity: int, *, dt_s: float | None = None, version: str = "v0.2", kind: str = "spike"
) -> float:
    """Return the primary that gives a severity, so long after the last emission."""
    (w1, _, _, a, b), half_life_s = WEIGHTS[version, kind]
    raw = b + math.log(severity / (100.0 - severity)) / a
    return (raw - novelty(version, dt_s, half_life_s)) / w1


# --- severity ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("packs", "severity"), [(V01, 96), (V02, 68)], ids=["v0.1", "v0.2"])
def test_golden_the_worked_example(packs: Packs, severity: int) -> None:
    """Build plan 10.9 from the row on: z_vol 3.6 clamped to 3.2, z_ret 2.1, four shocks."""
    bounds = {"clamp": {"z_vol_m_1": (-3.1, 3.2), "z_ret_abs_m_1": (-3.0, 3.3)}}
    values: Columns = {"z_vol_m_1": 3.6, "z_ret_abs_m_1": 2.1, "ret_m_1": 0.0031}
    seen = row(30, **values, v_total_m_1=1.8e7, trade_count_m_1=412)
    seen = msgspec.structs.replace(seen, extras=bounds)
    phase = Phase(seen.exchange_ts_ms, False, 1, seen.exchange_ts_ms + 1500)
    (marked,) = Detect(packs).step(None, RowItem(phase, 0, (seen,)))
    market = Frame("1m", seen.exchange_ts_ms, 0, {"shock_count_5s": 4})
    step = Score(packs, "alpha-detector@test")
    item = ScoreItem(phase, 0, marked.rows, marked.candidates, (market,))
    (scored,) = step.step(step.initial(), item)
    (draft,) = scored.drafts
    assert (draft.severity, draft.payload["severity"]) == (severity, severity)
    assert draft.payload["subtype"] == SUBTYPE[VOL]
    assert draft.payload["local_state"]["features"]["z_vol_m_1"] == 3.6


BOTH = {"dq_penalty": 1, "illiq_penalty": 1}
FIRST = None
LONG_AGO = 1440  # minutes; decaying novelty is gone
SAME_BAR = 0  # minutes; recovering novelty has not begun
# version, detector, primary, secondary, shocks, minutes since the last emission, row, severity
VECTORS = [
    ("v0.1", VOL, 3.2, 2.1, 4, FIRST, {}, 96),
    ("v0.2", VOL, 3.2, 2.1, 4, FIRST, {}, 68),
    ("v0.1", VOL, 3.0, 0.0, 0, LONG_AGO, {}, 86),
    ("v0.2", VOL, 3.0, 0.0, 0, SAME_BAR, {}, 18),
    ("v0.1", SPREAD, 2.0, 0.0, 0, FIRST, {}, 77),
    ("v0.2", SPREAD, 2.0, 0.0, 0, FIRST, {}, 20),
    ("v0.2", VOL, 4.5, 3.5, 6, FIRST, {}, 94),
    ("v0.2", VOL, 4.5, 3.5, 9, FIRST, {}, 94),
    ("v0.2", VOL, 4.5, 3.5, 6, FIRST, BOTH, 88),
]


@pytest.mark.parametrize(
    ("version", "detector_id", "primary", "secondary", "shocks", "since", "columns", "severity"),
    VECTORS,
)
def test_golden_severities(
    version: str,
    detector_id: str,
    primary: float,
    secondary: float,
    shocks: int,
    since: int | None,
    columns: Columns,
    severity: int,
) -> None:
    """The lines of numerics 12."""
    asset = Asset(V01 if version == "v0.1" else V02)
    if since is not None:
        assert len(asset.at(0, fired(detector_id, 9.0)).drafts) == 1
    scored = asset.at(
        since or 0,
        fired(detector_id, primary, secondary),
        shocks=shocks,
        final=since == SAME_BAR,
        **columns,
    )
    assert only(scored)[1] == severity


@pytest.mark.parametrize("version", ["v0.1", "v0.2"])
@pytest.mark.parametrize("minutes", [1, 2, 4, 5, 10, 60])
def test_novelty_fades_in_v01_and_returns_in_v02(version: str, minutes: int) -> None:
    """The same evidence, some minutes after the first event of its key."""
    asset = Asset(V01 if version == "v0.1" else V02)
    asset.at(0, fired(VOL, 6.0))
    (w1, w2, w3, a, b), half_life_s = WEIGHTS[version, "spike"]
    raw = w1 * 3.5 + w2 * 1.0 + w3 * 0.5 + novelty(version, 60.0 * minutes, half_life_s)
    expected = math.floor(100.0 / (1.0 + math.exp(-a * (raw - b))) + 0.5)
    assert only(asset.at(minutes, fired(VOL, 3.5, 1.0), shocks=3))[1] == expected


def test_novelty_is_that_of_the_last_emission() -> None:
    """Candidates that were not emitted do not make the next one less new."""
    asset, fresh = Asset(), Asset()
    for minute in range(5):
        assert only(asset.at(minute, fired(VOL, 2.0)))[0] == "below_threshold"
    assert said(asset.at(5, fired(VOL, 4.5))) == said(fresh.at(5, fired(VOL, 4.5)))


@pytest.mark.parametrize(("packs", "resets"), [(V01, True), (V02, False)], ids=["v0.1", "v0.2"])
def test_another_subtype_is_new_in_v01_only(packs: Packs, resets: bool) -> None:
    """Build plan 10.5 resets the novelty, numerics 9 does not; both emit at once."""
    asset = Asset(packs)
    version = "v0.1" if resets else "v0.2"
    assert only(asset.at(0, fired(UP, 5.0)))[0] == SUBTYPE[UP]
    primary = primary_for(70, dt_s=None if resets else 60.0, version=version)
    assert only(asset.at(1, fired(DOWN, primary))) == (SUBTYPE[DOWN], 70)


# --- debounce ------------------------------------------------------------------------------------


def timeline(asset: Asset, line: str, severity: int) -> str:
    """Fire in the minutes marked `x`, always with the same severity; `E` emitted, `c` cooldown.

    Other outcomes show as `?`.
    """
    version = "v0.1" if asset.packs is V01 else "v0.2"
    out = ""
    last: int | None = None
    for minute, mark in enumerate(line):
        if mark != "x":
            out += " "
            continue
        dt_s = None if last is None else (minute - last) * 60.0
        what = only(asset.at(minute, fired(VOL, primary_for(severity, dt_s=dt_s, version=version))))
        known: dict[tuple[str, int | None], str] = {
            (SUBTYPE[VOL], severity): "E",
            ("cooldown", severity): "c",
        }
        out += known.get(what, "?")
        last = minute if out[-1] == "E" else last
    return out


def test_a_cooldown_of_five_minutes() -> None:
    """v0.2: 300 s between bar labels; the fifth minute after an emission is free again.

    minute   0    5    10
    """
    assert timeline(Asset(V02), "xxxxxxxxxxxxx", 70) == "EccccEccccEcc"
    assert timeline(Asset(V02), "x  x x   xx  x", 70) == "E  c E   cE  c"


def test_a_cooldown_of_45_seconds_never_binds() -> None:
    """v0.1, defect included: on a lattice of minutes every minute is free (numerics 9)."""
    assert timeline(Asset(V01), "xxxxxx x", 80) == "EEEEEE E"


def test_another_severity_is_measured_against_the_last_emission() -> None:
    """Inside the cooldown only 1.3 times the last severity is emitted, and then it counts.

    minute     0   1   2   3   4   5   6   7
    severity  50  64  65  84  85  64  64  70
                   c   E   c   E   c   c   c     cooldown counts from minute 4
    """
    asset, last, outcome = Asset(), 0, []
    for minute, severity in enumerate((50, 64, 65, 84, 85, 64, 64, 70)):
        dt_s = None if minute == 0 else (minute - last) * 60.0
        what = only(asset.at(minute, fired(VOL, primary_for(severity, dt_s=dt_s))))
        assert what[1] == severity
        outcome.append(what[0])
        last = minute if what[0] == SUBTYPE[VOL] else last
    emitted = SUBTYPE[VOL]
    assert outcome == [emitted, "cooldown", emitted, "cooldown", emitted, *["cooldown"] * 3]


def test_another_subtype_of_the_class_need_not_wait() -> None:
    """Up, down, up: three events in three minutes (build plan 10.5)."""
    asset = Asset()
    found = [only(asset.at(k, fired(d, 6.0)))[0] for k, d in enumerate((UP, DOWN, DOWN, UP))]
    assert found == [SUBTYPE[UP], SUBTYPE[DOWN], "cooldown", SUBTYPE[UP]]


def test_classes_do_not_wait_for_each_other() -> None:
    """The key is (class, timeframe) of an asset; each has its own cooldown and novelty."""
    asset = Asset()
    assert only(asset.at(0, fired(VOL, 6.0)))[0] == SUBTYPE[VOL]
    assert said(asset.at(1, fired(SPREAD, 6.0))) == said(Asset().at(1, fired(SPREAD, 6.0)))
    assert only(asset.at(2, fired(VOL, 6.0)))[0] == "cooldown"


def test_an_amended_bar_is_debounced_like_the_next_one() -> None:
    """Design D13: re-emitted only if it is clearly stronger; no time has passed."""
    asset = Asset()
    assert only(asset.at(0, fired(VOL, primary_for(60))))[1] == 60
    again = fired(VOL, primary_for(77, dt_s=0.0))
    assert only(asset.at(0, again, final=True)) == ("cooldown", 77)
    asset = Asset()
    asset.at(0, fired(VOL, primary_for(60)))
    stronger = asset.at(0, fired(VOL, primary_for(78, dt_s=0.0)), final=True)
    assert only(stronger) == (SUBTYPE[VOL], 78)


def test_without_cooldown_a_bar_is_still_emitted_once() -> None:
    """A cooldown of 0 s frees the next bar, not an amendment of the same one."""
    packs = replace(V02, detectors=tuple(replace(d, cooldown_s=0.0) for d in V02.detectors))
    asset = Asset(packs)
    assert only(asset.at(0, fired(VOL, 6.0)))[0] == SUBTYPE[VOL]
    assert only(asset.at(0, fired(VOL, 6.0), final=True))[0] == "cooldown"
    assert only(asset.at(1, fired(VOL, 6.0)))[0] == SUBTYPE[VOL]


# --- coalescing ----------------------------------------------------------------------------------


def test_the_strongest_of_a_class_speaks_for_the_others() -> None:
    """Three spikes and a shift in one bar: two events; the weaker spikes are named."""
    scored = Asset().at(0, fired(VOL, 5.0), fired(UP, 6.0), fired(COMBO, 5.5), fired(SPREAD, 6.0))
    assert [draft.payload["subtype"] for draft in scored.drafts] == [SUBTYPE[SPREAD], SUBTYPE[UP]]
    shift, spike = (draft.payload for draft in scored.drafts)
    assert spike["coalesced"] == ["price_up_volume_up_m_1", "vol_spike_m_1"]
    assert "coalesced" not in shift
    reasons = {s.detector_id: s.reason for s in scored.suppressed}
    assert reasons == {VOL: "coalesced", COMBO: "coalesced"}
    severities = {s.detector_id: s.severity for s in scored.suppressed}
    assert severities[VOL] < severities[COMBO] < spike["severity"]  # type: ignore[operator]


def test_equal_severity_goes_to_the_earlier_in_the_pack() -> None:
    """Whatever the order in which the candidates come."""
    for pair in ((fired(VOL, 6.0), fired(UP, 6.0)), (fired(UP, 6.0), fired(VOL, 6.0))):
        scored = Asset().at(0, *pair)
        assert [draft.detector_id for draft in scored.drafts] == [VOL]


def test_only_what_passed_the_screen_is_coalesced() -> None:
    """A candidate below the threshold, or gated, is no part of the event."""
    scored = Asset().at(0, fired(VOL, 6.0), fired(UP, 2.5), fired(COMBO, 9.0, gate="dq"))
    (draft,) = scored.drafts
    assert draft.detector_id == VOL
    assert "coalesced" not in draft.payload
    assert [s.reason for s in scored.suppressed] == ["below_threshold", "dq"]


def test_a_group_in_its_cooldown_is_silent_as_a_whole() -> None:
    """The strongest waits, the weaker are coalesced into it."""
    asset = Asset()
    asset.at(0, fired(VOL, 6.0))
    scored = asset.at(1, fired(VOL, 6.0), fired(UP, 5.0))
    assert scored.drafts == ()
    assert {s.detector_id: s.reason for s in scored.suppressed} == {
        VOL: "cooldown",
        UP: "coalesced",
    }


# --- why not -------------------------------------------------------------------------------------


OUTSIDE: Columns = {"is_in_universe": False}


@pytest.mark.parametrize(
    ("candidate", "columns", "outcome"),
    [
        (fired(VOL, 9.0, gate="dq"), OUTSIDE, "dq"),
        (fired(VOL, 9.0, gate="warmup"), {}, "warmup"),
        (fired(VOL, 9.0, gate="illiquid"), {}, "illiquid"),
        (fired(VOL, 9.0), OUTSIDE, "not_member"),
        (fired(VOL, 1.0), OUTSIDE, "not_member"),
        (fired(VOL, 9.0), {"is_in_universe": False, "is_hot": True}, SUBTYPE[VOL]),
        (fired(VOL, primary_for(49)), {}, "below_threshold"),
        (fired(VOL, primary_for(50)), {}, SUBTYPE[VOL]),
    ],
)
def test_the_first_reason_counts(candidate: Candidate, columns: Columns, outcome: str) -> None:
    """Gates, then membership, then the threshold of the class."""
    assert only(Asset().at(0, candidate, **columns))[0] == outcome


@pytest.mark.parametrize(
    ("packs", "detector_id", "kind", "threshold"),
    [
        (V01, VOL, "spike", 65),
        (V01, SPREAD, "shift", 60),
        (V02, VOL, "spike", 50),
        (V02, SPREAD, "shift", 50),
    ],
)
def test_thresholds_of_the_classes(
    packs: Packs, detector_id: str, kind: str, threshold: int
) -> None:
    """Appendix D.1 and numerics 9: at the threshold it is published."""
    version = "v0.1" if packs is V01 else "v0.2"
    for severity, outcome in (
        (threshold - 1, "below_threshold"),
        (threshold, SUBTYPE[detector_id]),
    ):
        primary = primary_for(severity, version=version, kind=kind)
        assert only(Asset(packs).at(0, fired(detector_id, primary))) == (outcome, severity)


def test_the_threshold_is_checked_before_the_cooldown() -> None:
    """Numerics 9: a weak candidate is weak, also while its key waits."""
    asset = Asset()
    asset.at(0, fired(VOL, 6.0))
    assert only(asset.at(1, fired(VOL, 1.0)))[0] == "below_threshold"


def with_mode(mode: Mode) -> Packs:
    """Return packs in which every detector has a mode."""
    return replace(V02, detectors=tuple(replace(d, mode=mode) for d in V02.detectors))


@pytest.mark.parametrize("mode", ["shadow", "canary"])
def test_only_live_detectors_publish(mode: Mode) -> None:
    """The draft is for the shadow topic; what forbids a live event forbids this one."""
    (draft,) = Asset(with_mode(mode)).at(0, fired(VOL, primary_for(70))).drafts
    assert (draft.shadow, draft.severity) == (True, 70)
    assert only(Asset(with_mode(mode)).at(0, fired(VOL, 9.0), **OUTSIDE))[0] == "not_member"


def test_what_is_not_emitted_starts_no_cooldown() -> None:
    """Refused minute after minute, the first that may is emitted as the first."""
    asset = Asset()
    asset.at(0, fired(VOL, 6.0, gate="dq"))
    asset.at(1, fired(VOL, 6.0), **OUTSIDE)
    assert said(asset.at(2, fired(VOL, 5.0))) == said(Asset().at(2, fired(VOL, 5.0)))


def with_budget(**spike: int) -> Packs:
    """Return packs with another budget per symbol and minute."""
    return replace(V02, budgets=V02.budgets.model_copy(update={"per_symbol_per_minute": spike}))


def test_the_budget_of_a_symbol_and_minute() -> None:
    """One spike a minute: the amended bar's other subtype is over it, the next minute is free."""
    asset = Asset(with_budget(spike=1))
    assert only(asset.at(0, fired(UP, 6.0)))[0] == SUBTYPE[UP]
    assert only(asset.at(0, fired(DOWN, 6.0), final=True))[0] == "budget_symbol"
    assert only(asset.at(1, fired(DOWN, 6.0)))[0] == SUBTYPE[DOWN]


def test_a_budget_is_per_class_and_may_be_missing() -> None:
    """No spike at all, and no limit for a class without an entry."""
    asset = Asset(with_budget(spike=0))
    assert said(asset.at(0, fired(VOL, 9.0), fired(SPREAD, 9.0)))[0][0] == SUBTYPE[SPREAD]
    assert only(asset.at(1, fired(VOL, 9.0)))[0] == "budget_symbol"


def test_over_budget_starts_no_cooldown() -> None:
    """What was not published is still new."""
    asset, fresh = Asset(with_budget(spike=0)), Asset()
    asset.at(0, fired(VOL, 9.0))
    asset.packs, asset.step = V02, Score(V02, "alpha-detector@test")
    assert said(asset.at(1, fired(VOL, 5.0))) == said(fresh.at(1, fired(VOL, 5.0)))


def test_a_suppression_says_of_what() -> None:
    """Asset, minute, revision, detector, reason and severity."""
    asset = Asset()
    asset.at(7, fired(VOL, 6.0))
    (found,) = asset.at(7, fired(VOL, primary_for(60, dt_s=0.0)), final=True).suppressed
    assert found == Suppression(
        asset_uid=0,
        symbol="BTC",
        tf="1m",
        exchange_ts_ms=T0 + 7 * MINUTE_MS,
        revision=1,
        detector_id=VOL,
        reason="cooldown",
        severity=60,
    )


# --- since when ----------------------------------------------------------------------------------


def first_seen(scored: ScoredItem) -> int | None:
    """Return the minute in which the run of an event began."""
    if not scored.drafts:
        return None
    texts = {iso(T0 + k * MINUTE_MS): k for k in range(60)}
    return texts[scored.drafts[0].payload["novelty"]["first_seen_at"]]


def test_a_run_of_one_subtype_keeps_its_beginning() -> None:
    """As long as its emissions are at most two cooldowns apart.

    minute   0   5   15  |  26        28  |  29
             up  up  up  |  up        up  |  down
    first    0   0   0   |  26        -   |  29
    """
    asset = Asset()
    found = [first_seen(asset.at(minute, fired(UP, 6.0))) for minute in (0, 5, 15, 26, 28)]
    assert found == [0, 0, 0, 26, None]
    assert first_seen(asset.at(29, fired(DOWN, 6.0))) == 29
    assert first_seen(asset.at(30, fired(UP, 6.0))) == 30


# --- after the join ------------------------------------------------------------------------------


FOLLOWER = {
    "id": "spike.follows_leader_m_1",
    "inputs": ["z_vol_m_1"],
    "trigger": 'z_vol_m_1 >= 1.0 && shock_count_5s >= 3 && leader != "BTC"',
    "primary": "z_vol_m_1",
    "publish_threshold": 0,
}


@pytest.fixture(scope="module")
def framed(tmp_path_factory: pytest.TempPathFactory) -> Packs:
    """Return packs whose only detector names the frame."""
    path = tmp_path_factory.mktemp("packs") / "framed.yaml"
    path.write_text(yaml.safe_dump({"detector_pack": "v0.9.0", "detectors": [FOLLOWER]}))
    return load_packs(detectors=path)


@pytest.mark.parametrize(
    ("z_vol", "frame", "fires"),
    [
        (2.0, {"shock_count_5s": 3, "leader": "ETH"}, True),
        (2.0, {"shock_count_5s": 2, "leader": "ETH"}, False),
        (2.0, {"shock_count_5s": 3, "leader": "BTC"}, False),
        (2.0, {"shock_count_5s": 3, "leader": None}, False),
        (0.5, {"shock_count_5s": 3, "leader": "ETH"}, False),
        (None, {"shock_count_5s": 3, "leader": "ETH"}, False),
    ],
)
def test_a_detector_that_names_the_frame_is_evaluated_here(
    framed: Packs, z_vol: float | None, frame: Columns, fires: bool
) -> None:
    """It is a candidate like any other, counted and accounted for."""
    scored = Asset(framed).at(0, frame=frame, z_vol_m_1=z_vol)
    assert scored.n_candidates == int(fires)
    assert [draft.payload["subtype"] for draft in scored.drafts] == ["follows_leader_m_1"] * fires


@pytest.mark.parametrize(("tier", "heard"), [("top", True), ("mid", False), ("tail", False)])
def test_a_detector_that_names_the_frame_has_the_threshold_of_the_tier(
    tmp_path: Path, tier: str, heard: bool
) -> None:
    """The tier is known after the join, so there is nothing to suppress."""
    path = tmp_path / "framed.yaml"
    trigger = "z_vol_m_1 >= threshold && shock_count_5s >= 3"
    detector = {**FOLLOWER, "threshold": 3.0, "trigger": trigger}
    tiers = {"top": {"spike": {"threshold": 2.0}}}
    pack = {"detector_pack": "v0.9.0", "detectors": [detector], "overrides": {"tiers": tiers}}
    path.write_text(yaml.safe_dump(pack))
    scored = Asset(load_packs(detectors=path)).at(
        0, frame={"shock_count_5s": 3}, tier=tier, z_vol_m_1=2.5
    )
    assert (len(scored.drafts), scored.n_candidates, scored.suppressed) == (heard, heard, ())


def test_a_null_is_counted_after_the_join_too(framed: Packs) -> None:
    """As it is for the detectors that look at the row alone."""
    asset = Asset(framed)
    asset.at(0, frame={"shock_count_5s": 3, "leader": "ETH"}, z_vol_m_1=None)
    assert getattr(asset.step, "nulls", {}) == {FOLLOWER["id"]: 1}


def test_a_detector_that_is_disabled_is_evaluated_here_too(framed: Packs) -> None:
    """It is watched before it is let out (build plan 20.3)."""
    packs = replace(framed, detectors=(replace(framed.detectors[0], enabled=False),))
    frame = {"shock_count_5s": 3, "leader": "ETH"}
    assert only(Asset(packs).at(0, frame=frame, z_vol_m_1=2.0))[0] == "disabled"


@pytest.mark.parametrize("changes", [{"mode": "off"}, {"tfs": ("15m",)}])
def test_a_detector_that_is_off_is_not_evaluated_here_either(
    framed: Packs, changes: dict[str, Any]
) -> None:
    """Nor is one of another timeframe."""
    packs = replace(framed, detectors=(replace(framed.detectors[0], **changes),))
    frame = {"shock_count_5s": 3, "leader": "ETH"}
    assert said(Asset(packs).at(0, frame=frame, z_vol_m_1=2.0)) == []


def test_the_gates_hold_after_the_join_too(framed: Packs) -> None:
    """The verdict is that of the row; the frame has a dq_status of its own."""
    frame = {"shock_count_5s": 3, "leader": "ETH", "dq_status": "ok"}
    scored = Asset(framed).at(0, frame=frame, z_vol_m_1=2.0, dq_status="partial")
    assert only(scored)[0] == "dq"
    frame["dq_status"] = "partial"
    assert only(Asset(framed).at(0, frame=frame, z_vol_m_1=2.0))[0] == "follows_leader_m_1"


def test_a_phase_without_rows_is_empty() -> None:
    """The pseudo-asset MARKET, and every asset in a final phase without amendment."""
    step = Score(V02, "alpha-detector@test")
    phase = Phase(T0, False, 3, T0)
    frame = Frame("1m", T0, 0, {"shock_count_5s": 3})
    (out,) = step.step(step.initial(), ScoreItem(phase, -1, (), (), (frame,)))
    assert out == ScoredItem(phase, -1, (), (), 0)


# --- longer timeframes ---------------------------------------------------------------------------


def longer_row(tf: Timeframe, minute: int, **columns: Any) -> Row:
    """Return a good row of a longer timeframe; columns are said by pack name."""
    calm = {**dict.fromkeys(NAMES[tf]), **row(minute).columns, **columns}
    stored = {name: calm[base] for base, name in reversed(NAMES[tf].items())}
    return Row(0, "BTC", tf, T0 + minute * MINUTE_MS, 0, stored)


def score_rows(asset: Asset, minute: int, *pairs: tuple[Row, Sequence[Candidate]]) -> ScoredItem:
    """Score rows of several timeframes that close together, with their frames."""
    label = T0 + minute * MINUTE_MS
    phase = Phase(label, True, 1, label + 3000)
    frames = tuple(
        Frame(one.tf, label, 0, {"shock_count_5s": 0, "leader": "ETH"}) for one, _ in pairs
    )
    rows, candidates = tuple(r for r, _ in pairs), tuple(tuple(c) for _, c in pairs)
    (out,) = asset.step.step(asset.state, ScoreItem(phase, 0, rows, candidates, frames))
    return out


@pytest.mark.parametrize(("tf", "suffix", "seconds"), [("15m", "m_15", 900), ("1h", "h_1", 3600)])
def test_an_event_of_a_longer_row_names_the_columns_that_are_stored(
    tf: Timeframe, suffix: str, seconds: int
) -> None:
    """Its panel has the numbers of that bar under the names they have in the table."""
    values: Columns = {
        "z_vol_m_1": 6.5,
        "z_ret_abs_m_1": 2.5,
        "ret_m_1": 0.02,
        "v_total_m_1": 1e8,
        "trade_count_m_1": 5000,
        "oi_roc_m_5": 0.01,
        "z_oi_roc_m_5": 1.5,
        "basis_bp_m_1": -3.5,
        "z_basis_m_5": -0.5,
        "cvd_slope_m_5": 0.75,
        "ret_s_30": 0.001,
        "is_vol_spike_m_1": True,
        "is_price_spike_up_m_1": False,
        "oi_staleness_ms": 1200,
    }
    (draft,) = score_rows(Asset(), 60, (longer_row(tf, 60, **values), [fired(VOL, 6.5)])).drafts
    payload = draft.payload
    assert (payload["tf"], payload["window_sec"]) == (tf, seconds)
    assert payload["debounce_key"] == f"BTC:spike:{tf}"
    window = "m_75" if tf == "15m" else "h_5"
    assert payload["local_state"] == {
        "features": {
            "ret_s_30": 0.001,
            f"ret_{suffix}": 0.02,
            f"z_ret_abs_{suffix}": 2.5,
            f"v_total_{suffix}": 1e8,
            f"trade_count_{suffix}": 5000,
            f"z_vol_{suffix}": 6.5,
            f"oi_roc_{suffix}": 0.01,
            f"z_oi_roc_{suffix}": 1.5,
            f"basis_bp_{suffix}": -3.5,
            f"z_basis_{suffix}": -0.5,
            f"cvd_slope_{window}": 0.75,
        },
        "flags": {f"is_vol_spike_{suffix}": True},
        "dq": {
            "status": "ok",
            "ingest_lag_ms": 1500,
            "book_staleness_ms": 100,
            "oi_staleness_ms": 1200,
        },
    }


def test_timeframes_do_not_wait_for_each_other() -> None:
    """The key is (class, timeframe); a minute, its quarter and its hour are three events."""
    asset = Asset()
    strong = [fired(VOL, 6.0)]
    scored = score_rows(
        asset,
        60,
        (row(60), strong),
        (longer_row("15m", 60), strong),
        (longer_row("1h", 60), strong),
    )
    assert [draft.payload["debounce_key"] for draft in scored.drafts] == [
        "BTC:spike:1m",
        "BTC:spike:15m",
        "BTC:spike:1h",
    ]
    assert len({draft.payload["event_id"] for draft in scored.drafts}) == 3
    assert asset.state.emissions.keys() == {"spike:1m", "spike:15m", "spike:1h"}


def test_a_longer_row_may_be_refused_where_the_minute_is_not() -> None:
    """Each row brings its own membership and its own gates."""
    outside = longer_row("15m", 60, is_in_universe=False)
    gated = longer_row("1h", 60)
    scored = score_rows(
        Asset(),
        60,
        (row(60), [fired(VOL, 6.0)]),
        (outside, [fired(VOL, 6.0)]),
        (gated, [fired(VOL, 6.0, gate="dq")]),
    )
    assert [draft.payload["tf"] for draft in scored.drafts] == ["1m"]
    assert [(s.tf, s.reason) for s in scored.suppressed] == [("15m", "not_member"), ("1h", "dq")]


@pytest.mark.parametrize("tf", ["15m", "1h"])
def test_a_detector_that_names_the_frame_reads_longer_rows_by_pack_name(
    framed: Packs, tf: Timeframe
) -> None:
    """With the frame of their own timeframe, clamped by their own bounds."""
    (follower,) = framed.detectors
    trigger = compile_expression(
        'z_vol_m_1 >= 1.0 && leader == "ETH"',
        framed.features.column_types() | FRAME_COLUMNS,
        ColumnType.BOOLEAN,
    )
    packs = replace(framed, detectors=(replace(follower, tfs=(tf,), trigger=trigger),))
    asset = Asset(packs)
    hit = longer_row(tf, 60, z_vol_m_1=9.0)
    hit = msgspec.structs.replace(hit, extras={"clamp": {NAMES[tf]["z_vol_m_1"]: (-2.0, 2.0)}})
    clamped = score_rows(asset, 60, (row(60), []), (hit, []))
    assert clamped.n_candidates == 1
    plain = score_rows(Asset(packs), 60, (longer_row(tf, 60, z_vol_m_1=2.0), []))
    assert [d.severity for d in clamped.drafts] == [d.severity for d in plain.drafts]
    assert score_rows(Asset(packs), 60, (longer_row(tf, 60, z_vol_m_1=0.5), [])).n_candidates == 0
    silent = Asset(packs)
    score_rows(silent, 60, (longer_row(tf, 60, z_vol_m_1=None), []))
    assert silent.step.nulls == {FOLLOWER["id"]: 1}


# --- any sequence --------------------------------------------------------------------------------

candidates = st.builds(
    fired,
    st.sampled_from((VOL, UP, DOWN, COMBO, SPREAD)),
    st.integers(4, 32).map(lambda k: k / 4),
    st.integers(-8, 16).map(lambda k: k / 4),
    gate=st.sampled_from((None, None, None, "dq", "warmup", "illiquid")),
)
groups = st.lists(candidates, max_size=4, unique_by=lambda c: c.detector_id)
minutes = st.tuples(
    st.integers(1, 6),  # minutes since the last one
    groups,
    st.none() | groups,  # the amendment, if there was one
    st.booleans(),  # in the universe
    st.booleans(),  # hot
    st.integers(0, 8),  # shocks
)
sequences = st.lists(minutes, min_size=1, max_size=12)
versions = st.sampled_from(("v0.1", "v0.2"))  # not the packs: their text is long
Outcome = list[tuple[Sequence[Candidate], ScoredItem]]


def play(asset: Asset, sequence: list[tuple[Any, ...]]) -> Outcome:
    """Score a sequence of minutes."""
    minute, outcome = 0, []
    for gap, group, amendment, inside, hot, shocks in sequence:
        minute += gap
        for final, these in ((False, group), (True, amendment)):
            if these is not None:
                columns = {"is_in_universe": inside, "is_hot": hot, "dq_penalty": shocks % 2}
                scored = asset.at(minute, *these, shocks=shocks, final=final, **columns)
                outcome.append((these, scored))
    return outcome


@settings(max_examples=40, deadline=None)
@given(sequences, versions)
def test_property_every_candidate_is_accounted_for(
    sequence: list[tuple[Any, ...]], version: str
) -> None:
    """Events and suppressions together are the candidates, no more and no less."""
    for given_candidates, scored in play(Asset(PACKS[version]), sequence):
        assert scored.n_candidates == len(given_candidates)
        ends = [d.detector_id for d in scored.drafts] + [s.detector_id for s in scored.suppressed]
        assert Counter(ends) == Counter(c.detector_id for c in given_candidates)
        for draft in scored.drafts:
            named = {SUBTYPE[s.detector_id] for s in scored.suppressed if s.reason == "coalesced"}
            mine = set(draft.payload.get("coalesced", ()))
            assert mine <= named
            assert draft.payload["subtype"] not in mine
            assert 0 <= draft.severity <= 100
            assert isinstance(draft.severity, int)


@settings(max_examples=40, deadline=None)
@given(sequences, versions)
def test_property_repeats_are_rare(sequence: list[tuple[Any, ...]], version: str) -> None:
    """Per key one emission in a cooldown, unless 30 % stronger or of another subtype.

    And the other way round: what waits is of the last subtype, too soon and not strong enough.
    """
    packs = PACKS[version]
    cooldown_s = {d.detector_id: d.cooldown_s for d in packs.detectors}
    class_of = {d.detector_id: d.event_class for d in packs.detectors}
    last: dict[str, tuple[int, int, str]] = {}

    def free(one: Draft | Suppression, label: int, severity: int) -> bool:
        """Return whether the rules let a candidate through."""
        kind = class_of[one.detector_id]
        if kind not in last:
            return True
        at_ms, before, subtype = last[kind]
        waited = label - at_ms >= cooldown_s[one.detector_id] * 1000 and label > at_ms
        stronger = severity * 10 >= before * 13
        return waited or stronger or subtype != SUBTYPE[one.detector_id]

    for _, scored in play(Asset(packs), sequence):
        label = scored.phase.minute_ms
        for one in scored.suppressed:
            if one.reason == "cooldown":
                assert one.severity is not None
                assert not free(one, label, one.severity)
        for draft in scored.drafts:
            assert free(draft, label, draft.severity)
        for draft in scored.drafts:
            last[draft.event_class] = (label, draft.severity, draft.payload["subtype"])


@settings(max_examples=25, deadline=None)
@given(sequences, st.integers(0, 11))
def test_property_state_can_be_saved_and_loaded(sequence: list[tuple[Any, ...]], cut: int) -> None:
    """Interrupted anywhere, the same events follow, with the same ids."""
    whole, resumed = Asset(), Asset()
    expected = play(whole, sequence)
    found = play(resumed, sequence[:cut])
    data = msgspec.msgpack.encode(resumed.state)
    resumed.state = msgspec.msgpack.decode(data, type=ScoreState)
    offset = sum(step[0] for step in sequence[:cut])
    rest = [
        (step[0] + (offset if k == 0 else 0), *step[1:]) for k, step in enumerate(sequence[cut:])
    ]
    found += play(resumed, rest)
    assert found == expected
    assert resumed.state == whole.state
