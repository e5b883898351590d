"""Debounce drawn minute by minute: who is heard, who waits, who is muted.

A timeline has one character a minute. Above, what fires; below, what becomes of it:

    .  nothing          V  a volume spike     U  a price spike up     D  one down
    -  no row at all    S  a spread stress    v  a volume spike that is too weak
    +  a volume spike 1.3 times as severe as the last event of its class, = one point less
    X  U and V, U stronger       Y  U and V, V stronger

    V U D S  an event of that subtype      c  cooldown      b  below the threshold
    L  muted: a new level (cooldown, state level_shift)     x  the note that the mute is over
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from operators import ledger
from operators.detect import Detect
from operators.lattice import MINUTE_MS, iso
from operators.records import (
    Candidate,
    Columns,
    Frame,
    Phase,
    Row,
    RowItem,
    ScoredItem,
    ScoreItem,
)
from operators.score import Score, ScoreState
from packs.loader import Packs, load_packs

FOLDER = Path(__file__).parents[2] / "packs" / "detectors"
RELEASED = {name: load_packs(detectors=FOLDER / f"{name}.yaml") for name in ("v0.1", "v0.2")}
NAMES = {tf: RELEASED["v0.2"].features.names(tf) for tf in ("1m", "15m", "1h")}
T0 = 1_756_890_000_000  # 09:00:00, minute 0 of a test
VOL, SPREAD = "spike.vol_spike_m_1", "shift.spread_stress_m_1"
UP, DOWN = "spike.price_spike_up_m_1", "spike.price_spike_down_m_1"
LETTERS = {VOL: "V", UP: "U", DOWN: "D", SPREAD: "S"}
IDS = {letter: detector_id for detector_id, letter in LETTERS.items()}
SUBTYPES = {detector_id.partition(".")[2]: letter for detector_id, letter in LETTERS.items()}
# By class: w1, a, b, half-life, T
NUMBERS = {
    "v0.1": {"spike": (1.0, 0.6, 0.0, 120.0, 65), "shift": (0.7, 0.55, 0.0, 300.0, 60)},
    "v0.2": {"spike": (1.0, 0.97, 4.53, 120.0, 50), "shift": (0.7, 0.95, 3.66, 300.0, 50)},
}

# A calm minute of a member on which nothing fires.
CALM: Columns = {
    **dict.fromkeys(NAMES["1m"]),
    "dq_status": "ok",
    "dq_reasons": [],
    "warmup": False,
    "illiquidity_hit": False,
    "dq_penalty": 0,
    "illiq_penalty": 0,
    "is_in_universe": True,
    "is_hot": False,
    "universe_rev": 1,
    "ingest_ts": iso(T0),
    "ingest_lag_ms": 1500,
    "clock_skew_ms": 40,
    "book_staleness_ms": 100,
    "oi_staleness_ms": 900,
    "trade_count_m_1": 40,
    "ret_m_1": 0.0001,
    "z_vol_m_1": 0.25,
    "z_ret_abs_m_1": -0.5,
    "z_spread_m_1": 0.125,
}
BUSY = {**CALM, "z_vol_m_1": 9.0}  # a volume spike holds in every tier


class Asset:
    """The scoring of one asset; candidates are made by hand to a severity."""

    def __init__(self, name: str, packs: Packs | None = None) -> None:
        self.name = name
        self.step = Score(packs or RELEASED[name], "alpha-detector@test")
        self.state = self.step.initial()

    def score(self, minute: int, *fired: Candidate, final: bool = False) -> ScoredItem:
        """Score the candidates of one minute, or of its amended row."""
        label = T0 + minute * MINUTE_MS
        row = Row(0, "BTC", "1m", label, int(final), BUSY)
        phase = Phase(label, final, 1, label + (3000 if final else 1500))
        frame = Frame("1m", label, 0, {"shock_count_5s": 0, "leader": "BTC"})
        (out,) = self.step.step(self.state, ScoreItem(phase, 0, (row,), (fired,), (frame,)))
        return out

    def candidate(self, minute: int, detector_id: str, severity: int) -> Candidate:
        """Return a candidate that comes out with a severity, whatever its novelty is by now."""
        event_class = "shift" if detector_id == SPREAD else "spike"
        w1, a, b, _, _ = NUMBERS[self.name][event_class]
        raw = b + math.log(severity / (100.0 - severity)) / a
        novelty = self.novelty(minute, detector_id, event_class)
        return Candidate(detector_id, (raw - novelty) / w1, 0.0, None)

    def novelty(self, minute: int, detector_id: str, event_class: str) -> float:
        """Return the novelty of numerics 9, by the C library."""
        half_life_s = NUMBERS[self.name][event_class][3]
        last = self.state.emissions.get(f"{event_class}:1m")
        reset = self.name == "v0.1"
        if last is None or (reset and SUBTYPES[last.subtype] != LETTERS[detector_id]):
            return 0.8
        dt = (T0 + minute * MINUTE_MS - last.at_ms) / 1000.0 / half_life_s
        return 0.8 * (math.exp(-dt) if reset else 1.0 - math.pow(2.0, -dt))

    def draw(self, minute: int, mark: str, base: int, *, final: bool = False) -> str:
        """Score what a character stands for; return the character of its outcome."""
        if mark == "-":
            return "-"
        last = self.state.emissions.get("spike:1m")
        again = 0 if last is None else -(-last.severity * 13 // 10)
        threshold = NUMBERS[self.name]["spike"][4]
        wanted = {
            ".": [],
            "v": [(VOL, threshold - 1)],
            "+": [(VOL, again)],
            "=": [(VOL, again - 1)],
            "X": [(UP, base + 5), (VOL, base)],
            "Y": [(UP, base), (VOL, base + 5)],
        }.get(mark) or ([(IDS[mark], base)] if mark in IDS else [])
        out = self.score(minute, *(self.candidate(minute, *one) for one in wanted), final=final)
        severities = [d.severity for d in out.drafts] + [s.severity for s in out.suppressed]
        assert Counter(severities) == Counter(severity for _, severity in wanted)
        return outcome(out)


def outcome(out: ScoredItem) -> str:
    """Return the character of a minute; what is coalesced into another one is not shown."""
    marks = [SUBTYPES[draft.payload["subtype"]] for draft in out.drafts]
    marks += ["x" for note in out.closed if (note.reason, note.state) == ("cooldown", "closed")]
    shown = {"cooldown": "c", "below_threshold": "b"}
    for s in out.suppressed:
        if s.reason != "coalesced":
            marks.append("L" if s.state == "level_shift" else shown[s.reason])
    assert len(marks) <= 1, marks
    return marks[0] if marks else "."


def play(asset: Asset, line: str, base: int = 70, start: int = 0) -> str:
    """Return what becomes of a timeline, one character a minute."""
    return "".join(asset.draw(start + k, mark, base) for k, mark in enumerate(line))


# --- cooldown ------------------------------------------------------------------------------------

# pack, what fires, what becomes of it
COOLDOWN = [
    # 300 s: the fifth minute after an event is free
    ("v0.2", "VVVVVVVVVVVVV", "VccccVccccVcc"),
    ("v0.2", "V..V..V.....V", "V..c..V.....V"),
    ("v0.2", "V---V----V", "V---c----V"),
    # a weak one neither speaks nor prolongs
    ("v0.2", "VvvvvVvvvvvV", "VbbbbVbbbbbV"),
    ("v0.2", "vvvvvvvV", "bbbbbbbV"),
    # 45 s never binds on a lattice of minutes: a defect of the plan, kept
    ("v0.1", "VVVVVVVVVVVVV", "VVVVVVVVVVVVV"),
    ("v0.1", "VvV-V.V", "VbV-V.V"),
    # 90 s of shift: one minute waits
    ("v0.1", "SSSSSSS", "ScScScS"),
    ("v0.2", "SSSSSSS", "SccccSc"),
    # another subtype of the class does not wait, and starts the cooldown of the class anew
    ("v0.2", "UUDDUUVVV", "UcDcUcVcc"),
    ("v0.2", "U....DU...U", "U....DU...c"),
    ("v0.2", "UDUDUD", "UDUDUD"),
    # another class has a cooldown of its own
    ("v0.2", "VSVSVVS", "VScccVS"),
]


@pytest.mark.parametrize(("name", "fires", "heard"), COOLDOWN)
def test_cooldown(name: str, fires: str, heard: str) -> None:
    """Build plan 10.5, D.2; numerics 9: between labels, per class."""
    assert play(Asset(name), fires, 80) == heard


# pack, severity of V, what fires, what becomes of it
GROWTH = [
    # 50, then 64 and 65; 84 and 85; nothing is 1.3 times 85, and the sixth minute is free again
    ("v0.2", 50, "V=+=+VVVVV", "VcVcVccccV"),
    # the last event counts, not the strongest: 50, after five minutes 50 again, then 65
    ("v0.2", 50, "V....V+", "V....VV"),
    ("v0.2", 70, "V=...V", "Vc...V"),
    ("v0.2", 70, "V+....V", "VV....V"),
    # a fall is no growth
    ("v0.2", 70, "V+V", "VVc"),
    # in v0.1 every minute is free, stronger or not
    ("v0.1", 70, "V=VV", "VVVV"),
]


@pytest.mark.parametrize(("name", "base", "fires", "heard"), GROWTH)
def test_re_emission_at_a_third_more(name: str, base: int, fires: str, heard: str) -> None:
    """Inside the cooldown 1.3 times the last severity, to the point (build plan 10.5)."""
    assert play(Asset(name), fires, base) == heard


# pack, severity, sealed rows, amended rows, outcome of both
AMENDED = [
    ("v0.2", 70, "VV....V", "V.V....", "Vc....V", "c.c...."),
    ("v0.2", 70, "V......", "=......", "V......", "c......"),
    ("v0.2", 70, "V....V.", "+......", "V....V.", "V......"),
    ("v0.2", 70, "U......", "D......", "U......", "D......"),
    # also in v0.1: no time has passed between a row and its amendment
    ("v0.1", 70, "VV.", "V=.", "VV.", "cc."),
    ("v0.1", 70, "V..", "+..", "V..", "V.."),
    # what the seal did not see, the amendment may say
    ("v0.2", 70, "...", "V..", "...", "V.."),
]


@pytest.mark.parametrize(("name", "base", "sealed", "final", "heard", "again"), AMENDED)
def test_amended_rows(
    name: str, base: int, sealed: str, final: str, heard: str, again: str
) -> None:
    """Design D13: an amendment is debounced like a row in the same minute."""
    asset, found, amended = Asset(name), "", ""
    for minute, (first, then) in enumerate(zip(sealed, final, strict=True)):
        found += asset.draw(minute, first, base)
        amended += "." if then == "." else asset.draw(minute, then, base, final=True)
    assert (found, amended) == (heard, again)


# --- coalescing ----------------------------------------------------------------------------------

COALESCED = [
    # the stronger one speaks, and it is its subtype that counts for the cooldown
    ("v0.2", "XX...X", "Uc...U"),
    ("v0.2", "XY", "UV"),
    ("v0.2", "XYXYY", "UVUVc"),
    ("v0.2", "VX", "VU"),
    ("v0.2", "VY....Y", "Vc....V"),
    ("v0.1", "XXYY", "UUVV"),
]


@pytest.mark.parametrize(("name", "fires", "heard"), COALESCED)
def test_coalescing(name: str, fires: str, heard: str) -> None:
    """Two of a class in one bar are one event or none (build plan 10.5)."""
    assert play(Asset(name), fires) == heard


@pytest.mark.parametrize("name", RELEASED)
def test_an_event_names_those_it_speaks_for(name: str) -> None:
    """And their severities are in the ledger.

    fires      X
    event      U    severity 75, coalesced: V at 70
    """
    asset = Asset(name)
    out = asset.score(0, asset.candidate(0, UP, 75), asset.candidate(0, VOL, 70))
    (draft,), (other,) = out.drafts, out.suppressed
    assert (draft.severity, draft.payload["coalesced"]) == (75, ["vol_spike_m_1"])
    assert (other.reason, other.severity, other.detector_id) == ("coalesced", 70, VOL)


# --- novelty -------------------------------------------------------------------------------------


def severities(name: str, fires: str, primary: float) -> str:
    """Return the severity of the same evidence in each minute, `..` where nothing fires."""
    asset, shown = Asset(name), []
    for minute, mark in enumerate(fires):
        if mark == ".":
            asset.score(minute)
            shown.append("..")
            continue
        out = asset.score(minute, Candidate(IDS[mark], primary, 0.0, None))
        found = [d.severity for d in out.drafts] + [s.severity for s in out.suppressed]
        shown.append(str(found[0]))
    return " ".join(shown)


# pack, primary, what fires, severities minute by minute
NOVELTY = [
    # 0.8 at first and 0.8 / e^(dt / 120 s) after each event: at its highest right after it
    ("v0.1", 2.0, "VVVV....V...", "84 82 82 82 .. .. .. .. 78 .. .. .."),
    # the same evidence is worth less the longer it waited
    ("v0.1", 2.0, "V..........V", "84 .. .. .. .. .. .. .. .. .. .. 77"),
    # another subtype is new again
    ("v0.1", 2.0, "UDUDD.......", "84 84 84 84 82 .. .. .. .. .. .. .."),
    # nothing right after an event, half of it after 120 s: it returns while the key is silent
    ("v0.2", 4.5, "VVVVVVVV....", "68 55 59 62 63 65 55 59 .. .. .. .."),
    ("v0.2", 4.5, "V..........V", "68 .. .. .. .. .. .. .. .. .. .. 67"),
    # another subtype is heard at once, but it is not new
    ("v0.2", 4.5, "UDUDD.......", "68 55 55 55 55 .. .. .. .. .. .. .."),
]


@pytest.mark.parametrize(("name", "primary", "fires", "shown"), NOVELTY)
def test_novelty(name: str, primary: float, fires: str, shown: str) -> None:
    """Build plan 10.4 to the letter in v0.1, recovering in v0.2 (numerics 9)."""
    assert severities(name, fires, primary) == shown


@pytest.mark.parametrize("name", RELEASED)
def test_novelty_is_that_of_the_last_event(name: str) -> None:
    """Nobody heard the weak ones, so they made nothing less new.

    fires      v v v v v v V
    like       . . . . . . V
    """
    weak, fresh = Asset(name), Asset(name)
    assert play(weak, "vvvvvv") == "bbbbbb"
    strong = Candidate(VOL, 5.0, 0.0, None)
    assert weak.score(6, strong).drafts == fresh.score(6, strong).drafts


# --- a new level ---------------------------------------------------------------------------------

_RUN = "VccccVccccVccccVccccVccccVccc"  # 29 minutes of firing, heard every fifth
# what fires, what becomes of it; v0.2 mutes after 30 minutes
LEVELS = [
    # the thirtieth minute is one too many: silence, until six minutes without it
    ("V" * 40, _RUN + "L" + "c" * 10),
    ("V" * 40 + "......V", _RUN + "L" + "c" * 10 + ".....xV"),
    # a pause of a cooldown at most does not end it
    ("V" * 40 + ".....V......V", _RUN + "L" + "c" * 10 + ".....c.....xV"),
    # 29 minutes are none, and a silence of more than a cooldown begins a new count
    ("V" * 29 + "......" + "V" * 29, _RUN + "......" + _RUN),
    # four minutes of five are nearly every minute
    ("VVVV." * 8, "Vccc.Vccc.Vccc.Vccc.Vccc.Vccc.Lccc.cccc."),
    # what is clearly stronger is heard all the same, and the level is that of a new run
    ("V" * 32 + "+" + "V" * 4, _RUN + "Lcc" + "V" + "cccc"),
    # too weak to be heard is not firing
    ("v" * 40, "b" * 40),
    # minutes without a row are no minutes of firing, and as long a hole ends the run
    ("V" * 20 + "------" + "V" * 12, _RUN[:20] + "------" + "VccccVccccVc"),
]


@pytest.mark.parametrize(("fires", "heard"), LEVELS)
def test_a_new_level_is_muted(fires: str, heard: str) -> None:
    """What fires nearly every minute for half an hour has become the usual."""
    assert play(Asset("v0.2"), fires) == heard


def test_three_minutes_of_four_are_no_new_level() -> None:
    """However long it goes on, about every fifth minute is heard.

    fires      VVV.VVV.VVV.VVV.VVV.VVV. ...
    heard      Vcc.cVc.ccV.ccc.Vcc.cVc. ...
    """
    heard = play(Asset("v0.2"), "VVV." * 20)
    assert heard.startswith("Vcc.cVc.ccV.ccc.Vcc.cVc.")
    assert "L" not in heard
    minutes = [k for k, mark in enumerate(heard) if mark == "V"]
    assert all(5 <= after - before <= 6 for before, after in pairwise(minutes))


def test_v01_mutes_nobody() -> None:
    """The plan has no such rule.

    fires      VVVV...
    heard      VVVV...
    """
    assert play(Asset("v0.1"), "V" * 60) == "V" * 60


def test_other_detectors_of_the_class_are_not_muted() -> None:
    """The mute is of a detector, the cooldown of its class.

    fires      V x 40, then U, then both
    """
    asset = Asset("v0.2")
    assert play(asset, "V" * 40)[-1] == "c"
    assert play(asset, "U", start=40) == "U"
    out = asset.score(46, asset.candidate(46, UP, 60), asset.candidate(46, VOL, 70))
    assert [d.detector_id for d in out.drafts] == [UP], "the muted one speaks for nobody"
    assert "coalesced" not in out.drafts[0].payload


def test_an_amended_row_counts_once() -> None:
    """Fifteen minutes with an amendment each are fifteen minutes.

    sealed     VVVVVVVVVVVVVVV
    amended    VVVVVVVVVVVVVVV
    """
    asset, marks = Asset("v0.2"), ""
    for minute in range(25):
        marks += asset.draw(minute, "V", 70) + asset.draw(minute, "V", 70, final=True)
    assert "L" not in marks


def test_notes_are_no_candidates() -> None:
    """A mute that ends is in the ledger, but nothing fired.

    fires      V x 30 ......
    notes                  x
    """
    asset = Asset("v0.2")
    play(asset, "V" * 30 + ".....")
    out = asset.score(35)
    (note,) = out.closed
    assert (note.detector_id, note.severity, note.exchange_ts_ms) == (VOL, 70, T0 + 35 * MINUTE_MS)
    assert (out.n_candidates, out.drafts, out.suppressed) == (0, (), ())
    assert asset.state.runs == {}


@pytest.mark.parametrize("tf", ["15m", "1h"])
def test_a_longer_bar_is_no_new_level_by_itself(tf: str) -> None:
    """Its first two firings, each after its cooldown, are events (design D18).

    15m or 1h  V V
    """
    asset = Asset("v0.2")
    stored = {name: BUSY.get(base) for base, name in reversed(NAMES[tf].items())}
    heard = []
    for k in range(2):
        label = T0 + k * (15 if tf == "15m" else 60) * MINUTE_MS
        row = Row(0, "BTC", tf, label, 0, stored)
        frame = Frame(tf, label, 0, {"shock_count_5s": 0, "leader": "BTC"})
        item = ScoreItem(
            Phase(label, True, 1, label + 3000),
            0,
            (row,),
            ((Candidate(VOL, 6.0, 0.0, None),),),
            (frame,),
        )
        (out,) = asset.step.step(asset.state, item)
        heard.append(outcome(out))
    assert heard == ["V", "V"]


# --- any sequence --------------------------------------------------------------------------------

_sigma = st.sampled_from((-1.0, 0.5, 1.5, 2.5, 3.0, 3.5, 4.25, 5.0, 6.0, 7.5))
minutes = st.fixed_dictionaries(
    {
        "z_vol_m_1": _sigma,
        "z_ret_abs_m_1": _sigma,
        "z_spread_m_1": _sigma,
        "ret_m_1": st.sampled_from((-0.01, -0.01, 0.0, 0.01, 0.01)),
        "dq_status": st.sampled_from(("ok",) * 9 + ("partial",)),
        "is_in_universe": st.sampled_from((True,) * 9 + (False,)),
    }
)


def tight(packs: Packs) -> Packs:
    """Return packs whose budgets a row and its amendment can use up."""
    per_minute = {**packs.budgets.per_symbol_per_minute, "spike": 1, "shift": 1}
    budgets = packs.budgets.model_copy(update={"per_symbol_per_minute": per_minute})
    return replace(packs, budgets=budgets)


class Debounce(RuleBasedStateMachine):
    """Any sequence of minutes, amendments and restarts of one asset, against the rules in words."""

    name = "v0.2"

    def __init__(self) -> None:
        super().__init__()
        self.packs = tight(RELEASED[self.name])
        self.detectors = {d.detector_id: d for d in self.packs.detectors}
        self.detect = Detect(self.packs)
        self.step = Score(self.packs, "alpha-detector@test")
        self.state, self.unbroken = ScoreState(), ScoreState()
        self.minute = 0
        self.tier = "mid"
        self.amended = True
        self.last: dict[str, tuple[int, int, str, int]] = {}  # class: when, severity, what, since
        self.said: dict[str, int] = {}  # severity of each detector's last event
        self.spent: Counter[tuple[int, str]] = Counter()

    @initialize(tier=st.sampled_from(("top", "mid", "tail")))
    def begin(self, tier: str) -> None:
        """An asset stays in its tier."""
        self.tier = tier

    @rule(gap=st.integers(1, 7), columns=minutes)
    def close(self, gap: int, columns: Columns) -> None:
        """A minute, some after the last one."""
        self.minute += gap
        self.amended = False
        self.feed(columns, final=False)

    @rule(count=st.integers(5, 40), columns=minutes)
    def stay(self, count: int, columns: Columns) -> None:
        """The same minute again and again: a new level, if it is loud."""
        for _ in range(count):
            self.close(1, columns)

    @precondition(lambda self: not self.amended)
    @rule(columns=minutes)
    def amend(self, columns: Columns) -> None:
        """The amended row of the same minute."""
        self.amended = True
        self.feed(columns, final=True)

    @rule()
    def restart(self) -> None:
        """Save and load."""
        data = msgspec.msgpack.encode(self.state)
        self.state = msgspec.msgpack.decode(data, type=ScoreState)

    def feed(self, columns: Columns, *, final: bool) -> None:
        """Score a row with and without restarts, and hold the outcome against the rules."""
        label = T0 + self.minute * MINUTE_MS
        phase = Phase(label, final, 1, label + (3000 if final else 1500))
        row = Row(0, "BTC", "1m", label, int(final), {**CALM, **columns})
        (found,) = self.detect.step(None, RowItem(phase, 0, (row,)))
        frame = Frame("1m", label, 0, {"shock_count_5s": 2, "leader": "BTC"})
        item = ScoreItem(phase, 0, found.rows, found.candidates, (frame,), self.tier)
        muted = {key.rpartition(":")[0] for key, run in self.state.runs.items() if run.muted}
        (out,) = self.step.step(self.state, item)
        assert self.step.step(self.unbroken, item) == [out], "a restart changed something"
        assert self.state == self.unbroken
        self.check_ledger(out, [c.detector_id for c in found.candidates[0]])
        for s in out.suppressed:
            if s.reason == ledger.COOLDOWN and s.severity is not None:
                now = self.state.runs.get(f"{s.detector_id}:1m")
                held = now is not None and now.muted
                assert held or not self.is_free(s.detector_id, label, s.severity)
        for draft in out.drafts:
            assert self.is_free(draft.detector_id, label, draft.severity)
            if draft.detector_id in muted:
                assert draft.severity * 10 >= self.said[draft.detector_id] * 13
        for draft in out.drafts:
            self.emit(draft.detector_id, label, draft.severity, draft.payload)

    def check_ledger(self, out: ScoredItem, ids: list[str]) -> None:
        """Every candidate ends once, for a reason there is."""
        assert out.n_candidates == len(ids) == len(out.drafts) + len(out.suppressed)
        ends = [d.detector_id for d in out.drafts] + [s.detector_id for s in out.suppressed]
        assert Counter(ends) == Counter(ids)
        assert {s.reason for s in out.suppressed} <= ledger.MEANINGS.keys()
        assert all(s.state in (None, ledger.LEVEL_SHIFT) for s in out.suppressed)
        for note in out.closed:
            assert (note.reason, note.state) == (ledger.COOLDOWN, ledger.CLOSED)
            assert note.detector_id not in ids
        classes = [d.event_class for d in out.drafts]
        assert len(classes) == len(set(classes)), "one event per key and bar"

    def is_stronger(self, event_class: str, severity: int) -> bool:
        """Tell whether a severity is 1.3 times that of the last event of the class."""
        return severity * 10 >= self.last[event_class][1] * 13

    def is_free(self, detector_id: str, label: int, severity: int) -> bool:
        """Tell whether the rules of re-emission let an event through."""
        detector = self.detectors[detector_id]
        if detector.event_class not in self.last:
            return True
        at_ms, _, subtype, _ = self.last[detector.event_class]
        waited = label > at_ms and label - at_ms >= detector.cooldown_s * 1000
        other = subtype != detector.subtype
        return waited or other or self.is_stronger(detector.event_class, severity)

    def emit(self, detector_id: str, label: int, severity: int, payload: dict[str, Any]) -> None:
        """Remember an event; hold budget and beginning of its run against the rules."""
        detector = self.detectors[detector_id]
        event_class, subtype = detector.event_class, detector.subtype
        self.spent[label, event_class] += 1
        budgets = dict(self.packs.budgets.per_symbol_per_minute)
        for tier, own in self.packs.overrides.tiers.items():
            budgets |= own.budgets if tier == self.tier else {}
        assert self.spent[label, event_class] <= budgets[event_class]
        last = self.last.get(event_class)
        pause_ms = 2000 * max(detector.cooldown_s, detector.half_life_s)
        goes_on = last is not None and last[2] == subtype and label - last[0] <= pause_ms
        since = last[3] if last is not None and goes_on else label
        assert since <= label
        assert payload["novelty"]["first_seen_at"] == iso(since)
        self.last[event_class] = (label, severity, subtype, since)
        self.said[detector_id] = severity


class PlanDebounce(Debounce):
    """The same under the plan's own numbers."""

    name = "v0.1"


TestDebounce = Debounce.TestCase
TestPlanDebounce = PlanDebounce.TestCase
TestDebounce.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
TestPlanDebounce.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
