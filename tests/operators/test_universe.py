"""Who is a member, since when, and who is hot without being one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from operators.lattice import MINUTE_MS
from operators.records import Change
from operators.universe import (
    UniverseState,
    composite_ranks,
    cool,
    heat,
    membership,
    ranks,
    size,
    step_membership,
)
from packs.loader import load_packs
from packs.schema import EntryBand, ExitBand, UniversePolicy

SHIPPED = load_packs().universe
T0 = 1_756_890_000_000


def policy(**changes: Any) -> UniversePolicy:
    """Return the shipped policy made small: two members, bands of one rank around them."""
    small: dict[str, Any] = {
        "n_base": 2,
        "entry_band": EntryBand(n_entry=1, k_entry=3),
        "exit_band": ExitBand(n_exit=3, k_exit=5),
        "churn_per_hour_max": 10_000,
    }
    return SHIPPED.model_copy(update={**small, **changes})


FREE = policy(freeze_min=0, min_dwell_min=0)


class Universe:
    """A universe that is told the order of the assets minute by minute."""

    def __init__(self, rules: UniversePolicy) -> None:
        self.rules = rules
        self.state = UniverseState()
        self.minute = -1

    def step(self, order: str, minutes: int = 1) -> Change | None:
        """Pass minutes in which the assets, a letter each, rank in this order; last change."""
        change = None
        for _ in range(minutes):
            self.minute += 1
            rank_of = {ord(letter): rank for rank, letter in enumerate(order, start=1)}
            label = T0 + self.minute * MINUTE_MS
            change = step_membership(self.state, label, rank_of, self.rules)
        return change

    @property
    def members(self) -> str:
        """Return the letters of the members."""
        inside = [u for u in self.state.members if membership(self.state, u)["is_in_universe"]]
        return "".join(map(chr, sorted(inside)))


def moved(change: Change | None) -> tuple[str, str] | None:
    """Return who came and who went."""
    if change is None:
        return None
    added, removed = ("".join(map(chr, uids)) for uids in (change.added, change.removed))
    return added, removed


# --- ranks ---------------------------------------------------------------------------------------


def test_the_largest_is_first_and_ties_go_to_the_lower_id() -> None:
    """Ranks start at 1 and have no gaps."""
    assert ranks({7: 1.0, 3: 5.0, 9: 5.0, 1: 0.0}) == {3: 1, 9: 2, 7: 3, 1: 4}
    assert ranks({}) == {}


def test_volume_and_open_interest_are_weighted_by_rank() -> None:
    """0.7 of the rank by dollars and 0.3 of the rank by open interest (build plan 7.2).

    asset   dollars  rank   interest  rank   score
      1        90      1        1       3     1.6
      2        80      2        9       1     1.7
      3        70      3        5       2     2.7
    """
    volumes = {1: 90.0, 2: 80.0, 3: 70.0}
    assert composite_ranks(volumes, {1: 1.0, 2: 9.0, 3: 5.0}, SHIPPED) == {1: 1, 2: 2, 3: 3}
    heavy = policy(weights=SHIPPED.weights.model_copy(update={"wv": 0.4, "wo": 0.6}))
    assert composite_ranks(volumes, {1: 1.0, 2: 9.0, 3: 5.0}, heavy) == {2: 1, 1: 2, 3: 3}


def test_an_asset_without_open_interest_is_ranked_by_volume_alone() -> None:
    """Its weight is 1 and 0; the ranks of interest are those of the others.

    asset   dollars  rank   interest  rank   score
      1        90      1        -       -     1.0
      2        80      2        9       1     1.7
      3        70      3        -       -     3.0
      4        60      4        1       2     3.4
    """
    volumes = {1: 90.0, 2: 80.0, 3: 70.0, 4: 60.0}
    some = {1: None, 2: 9.0, 3: None, 4: 1.0}
    assert composite_ranks(volumes, some, SHIPPED) == {1: 1, 2: 2, 3: 3, 4: 4}
    assert composite_ranks(volumes, dict.fromkeys(volumes), SHIPPED) == ranks(volumes)


@given(
    st.dictionaries(
        st.integers(0, 30),
        st.tuples(st.integers(0, 5), st.none() | st.integers(0, 5)),
        max_size=12,
    )
)
def test_oracle_composite_ranks(market: dict[int, tuple[int, int | None]]) -> None:
    """Counting who is ahead, in exact arithmetic."""

    def rank(uid: int, column: int) -> int:
        """Return 1 + the number of assets ahead in a column."""
        mine = (-(market[uid][column] or 0), uid)
        others = [(-(v[column] or 0), u) for u, v in market.items() if v[column] is not None]
        return 1 + sum(other < mine for other in others)

    scores = {}
    for uid, (_, interest) in market.items():
        by_volume = Fraction(rank(uid, 0))
        with_interest = Fraction(7, 10) * by_volume + Fraction(3, 10) * rank(uid, 1)
        scores[uid] = by_volume if interest is None else with_interest
    found = composite_ranks(
        {uid: float(v) for uid, (v, _) in market.items()},
        {uid: None if oi is None else float(oi) for uid, (_, oi) in market.items()},
        SHIPPED,
    )
    assert sorted(found.values()) == list(range(1, len(market) + 1))
    for ahead in market:
        for uid in market:
            if scores[ahead] < scores[uid]:  # equal scores may differ by rounding
                assert found[ahead] < found[uid]


# --- entry and exit ------------------------------------------------------------------------------


def test_the_first_membership_is_filled_at_once() -> None:
    """Up to n_base, without streaks; it is revision 1."""
    universe = Universe(FREE)
    assert universe.state.revision == 0
    change = universe.step("CBAD")
    assert change == Change(1, T0, (66, 67), (), {"66": "entry", "67": "entry"})
    assert (universe.members, size(universe.state)) == ("BC", 2)
    assert universe.step("CBAD") is None


def test_an_empty_roster_is_no_membership() -> None:
    """The fill waits for the first asset."""
    universe = Universe(FREE)
    assert universe.step("") is None
    assert moved(universe.step("A")) == ("A", "")


def test_entry_takes_k_minutes_in_a_row_inside_the_band() -> None:
    """Rank 1 for three minutes; a minute at rank 2 starts the count again.

    minute   0  1 2  3  4 5 6
    C ranks  3  1 1  2  1 1 1 -> in
    """
    universe = Universe(FREE)
    for order in ("ABC", "CAB", "CAB", "ACB", "CAB", "CAB"):
        universe.step(order)
        assert universe.members == "AB"
    assert moved(universe.step("CAB")) == ("C", "")
    assert universe.members == "ABC"


def test_an_absence_ends_the_entry_streak() -> None:
    """Three minutes at rank 1 are not consecutive if the asset was not listed in between.

    minute   0  1 2  3  4
    C ranks  3  1 1  -  1
    """
    universe = Universe(FREE)
    for order in ("ABC", "CAB", "CAB", "AB"):
        universe.step(order)
    assert universe.step("CAB") is None


def test_exit_takes_k_minutes_in_a_row_beyond_the_band() -> None:
    """Rank 4 for five minutes; a minute at rank 3 starts the count again.

    minute   0  1 2 3 4  5  6 7 8 9 10
    B ranks  2  4 4 4 4  3  4 4 4 4 4 -> out
    """
    universe = Universe(FREE)
    for order in ("ABCD", *["ACDB"] * 4, "ACBD", *["ACDB"] * 4):
        universe.step(order)
        assert universe.members == "AB"
    change = universe.step("ACDB")
    assert (moved(change), change and change.reasons) == (("", "B"), {"66": "exit"})


def test_between_the_bands_nothing_happens() -> None:
    """Ranks 2 and 3 neither enter nor leave."""
    universe = Universe(FREE)
    universe.step("ABCD")
    for _ in range(9):
        assert universe.step("ACBD") is None
    assert universe.members == "AB"


def test_after_a_change_nothing_moves_for_the_freeze() -> None:
    """C qualifies from minute 3 on; the fill of minute 0 is frozen for five minutes.

    minute   0     1 2 3 4     5      6 7 8 9     10
             fill  ~ ~ ~ ~     +C     ~ ~ ~ ~     +D
    """
    universe = Universe(policy(min_dwell_min=0, exit_band=ExitBand(n_exit=4, k_exit=5)))
    universe.step("ABCD")
    assert universe.step("CABD", 4) is None
    assert moved(universe.step("CABD")) == ("C", "")
    assert universe.step("DABC", 4) is None
    assert moved(universe.step("DABC")) == ("D", "")
    assert [universe.state.revision, universe.members] == [3, "ABCD"]


def test_streaks_go_on_during_the_freeze() -> None:
    """A change right after it needs no new count, but a broken streak does."""
    universe = Universe(policy(min_dwell_min=0))
    universe.step("ABCD")
    universe.step("CABD", 3)
    universe.step("ACBD")
    assert universe.step("CABD", 2) is None
    assert moved(universe.step("CABD")) == ("C", "")


def test_a_member_stays_for_its_dwell_time() -> None:
    """B is last from the second minute on and leaves at the age of thirty minutes."""
    universe = Universe(policy())
    universe.step("ABCD")
    assert universe.step("ACDB", 29) is None
    assert moved(universe.step("ACDB")) == ("", "B")
    assert universe.minute == 30


def test_who_leaves_starts_again() -> None:
    """Its streaks are forgotten, and so is the time it was in."""
    universe = Universe(FREE)
    universe.step("ABCD")
    universe.step("ACDB", 5)
    assert universe.members == "A"
    assert universe.step("BACD", 2) is None
    assert moved(universe.step("BACD")) == ("B", "")


def test_several_may_move_in_one_minute() -> None:
    """One revision, with everybody's reason, in order of id."""
    slow = EntryBand(n_entry=2, k_entry=5)
    universe = Universe(policy(freeze_min=0, min_dwell_min=0, entry_band=slow))
    universe.step("ABCDE")
    universe.step("DCEBA", 4)
    change = universe.step("DCEBA")
    assert moved(change) == ("CD", "AB")
    assert change is not None
    assert change.reasons == {"65": "exit", "66": "exit", "67": "entry", "68": "entry"}
    assert change.revision == 2


def test_a_delisted_asset_leaves_at_once() -> None:
    """In spite of freeze and dwell; who is not in the roster cannot stay."""
    universe = Universe(policy())
    universe.step("ABCD")
    change = universe.step("ACD")
    assert (moved(change), change and change.reasons) == (("", "B"), {"66": "delisted"})
    assert universe.members == "A"


def test_a_dead_asset_leaves_at_once_and_stays_out() -> None:
    """In spite of freeze and dwell; as long as it is dead it is not let in again (plan 7.6)."""
    universe, dead = Universe(policy()), frozenset({65})
    universe.step("ABC")
    rank_of = {65: 1, 66: 2, 67: 3}
    changes = [
        step_membership(universe.state, T0 + k * MINUTE_MS, rank_of, universe.rules, dead)
        for k in range(1, 12)
    ]
    assert changes[0] == Change(2, T0 + MINUTE_MS, (), (65,), {"65": "hard_exit"})
    assert changes[1:] == [None] * 10
    universe.minute = 11
    assert universe.step("ABC", 2) is None
    assert moved(universe.step("ABC")) == ("A", "")


def test_who_was_delisted_starts_again() -> None:
    """The minutes it ranked first as a member do not let it in when it is listed again."""
    universe = Universe(FREE)
    universe.step("ABC", 4)
    assert moved(universe.step("BC")) == ("", "A")
    assert universe.step("ABC", 2) is None
    assert moved(universe.step("ABC")) == ("A", "")


def test_a_delisting_brings_nobody_in_during_the_freeze() -> None:
    """C qualifies in the minute in which B is delisted, and waits for the freeze all the same."""
    universe = Universe(policy())
    universe.step("ABC")
    universe.step("CAB", 2)
    assert moved(universe.step("CA")) == ("", "B")
    assert universe.step("CA", 4) is None
    assert moved(universe.step("CA")) == ("C", "")


# --- the hotlist ---------------------------------------------------------------------------------


def warm(
    state: UniverseState, label_ms: int, found: dict[int, tuple[int, str]], given: UniversePolicy
) -> None:
    """Move the hotlist on by one minute."""
    cool(state, label_ms)
    heat(state, label_ms, found, given)


def at(minute: float) -> int:
    """Return the label of a minute."""
    return T0 + round(minute * MINUTE_MS)


@pytest.mark.parametrize(("severity", "minutes"), [(70, 36), (80, 39), (90, 42), (100, 45)])
def test_heat_lasts_longer_the_more_severe(severity: int, minutes: int) -> None:
    """15 minutes and 0.3 for every point (Appendix D.8); it ends with its last minute."""
    state = UniverseState()
    warm(state, at(0), {5: (severity, "vol_spike_m_1")}, SHIPPED)
    assert state.hot[5].expires_ms == at(minutes)
    warm(state, at(minutes - 1), {}, SHIPPED)
    assert membership(state, 5)["is_hot"] is True
    warm(state, at(minutes), {}, SHIPPED)
    assert membership(state, 5)["is_hot"] is False


def test_heat_needs_severity_or_a_listed_subtype() -> None:
    """69 is not 70; a basis jolt is hot at any severity, for 15 minutes at least."""
    state = UniverseState()
    warm(state, at(0), {1: (69, "vol_spike_m_1"), 2: (0, "basis_jolt_m_5")}, SHIPPED)
    assert state.hot.keys() == {2}
    assert state.hot[2].expires_ms == at(15)


def test_heat_is_prolonged_and_never_shortened() -> None:
    """Start and the later end stay, the reason is the latest.

    minute    0 ---- 90: 42 min ------------ 42
                10 ---- 70: 36 min ------------- 46
                   12 - listed, 0: 15 min - 27
    """
    state = UniverseState()
    warm(state, at(0), {5: (90, "vol_spike_m_1")}, SHIPPED)
    warm(state, at(10), {5: (70, "price_spike_up_m_1")}, SHIPPED)
    warm(state, at(12), {5: (0, "basis_jolt_m_5")}, SHIPPED)
    assert state.hot[5].started_ms == at(0)
    assert state.hot[5].expires_ms == at(46)
    assert state.hot[5].reason == "basis_jolt_m_5"


def test_heat_that_ended_starts_anew() -> None:
    """In the very minute in which it expires it can be lit again."""
    state = UniverseState()
    warm(state, at(0), {5: (70, "vol_spike_m_1")}, SHIPPED)
    warm(state, at(36), {5: (70, "vol_spike_m_1")}, SHIPPED)
    assert (state.hot[5].started_ms, state.hot[5].expires_ms) == (at(36), at(72))


def test_heat_is_no_membership() -> None:
    """It has no revision, and a member can be hot."""
    universe = Universe(FREE)
    universe.step("AB")
    warm(universe.state, at(0), {65: (90, "x"), 90: (90, "x")}, SHIPPED)
    standing = [tuple(membership(universe.state, uid).values()) for uid in (65, 66, 90, 91)]
    assert standing == [(True, True, 1), (True, False, 1), (False, True, 1), (False, False, 1)]
    assert size(universe.state) == 2


# --- over time -----------------------------------------------------------------------------------


class Churn(RuleBasedStateMachine):
    """Any ranking in any minute, assets that come and go, rules of any strictness."""

    LETTERS = "ABCDEFGH"

    @initialize(
        freeze=st.integers(0, 4),
        dwell=st.integers(0, 8),
        k_entry=st.integers(1, 3),
        k_exit=st.integers(1, 3),
    )
    def start(self, freeze: int, dwell: int, k_entry: int, k_exit: int) -> None:
        """Begin with an empty universe."""
        self.universe = Universe(
            policy(
                n_base=3,
                entry_band=EntryBand(n_entry=2, k_entry=k_entry),
                exit_band=ExitBand(n_exit=4, k_exit=k_exit),
                freeze_min=freeze,
                min_dwell_min=dwell,
            )
        )
        self.orders: list[str] = []
        self.since: dict[str, int] = {}
        self.changed = -100
        self.revision = 0

    @rule(rng=st.randoms(use_true_random=False), listed=st.integers(0, 8))
    def shuffle(self, rng: random.Random, listed: int) -> None:
        """A minute in which everything may be different."""
        letters = list(self.LETTERS)
        rng.shuffle(letters)
        self._pass("".join(letters[: max(listed, 5)]))

    @rule(minutes=st.integers(1, 4))
    def hold(self, minutes: int) -> None:
        """Minutes in which the order stays as it was, so that streaks can end."""
        for _ in range(minutes):
            self._pass(self.orders[-1] if self.orders else "ABCDE")

    def _pass(self, order: str) -> None:
        rules, universe = self.universe.rules, self.universe
        before = set(universe.members)
        self.orders.append(order)
        change = universe.step(order)
        minute, members = universe.minute, set(universe.members)
        if change is None:
            assert members == before
            return
        self.revision += 1
        assert change.revision == self.revision
        assert change.exchange_ts_ms == T0 + minute * MINUTE_MS
        added, removed = (set(map(chr, uids)) for uids in (change.added, change.removed))
        assert members == (before | added) - removed
        assert added.isdisjoint(before)
        assert removed <= before
        assert set(change.reasons) == {str(ord(c)) for c in added | removed}
        listed_out = {c for c in removed if change.reasons[str(ord(c))] == "delisted"}
        assert listed_out == before - set(order)
        if minute - self.changed < rules.freeze_min and self.revision > 1:
            assert added | removed == listed_out
        self.changed = minute
        for c in removed - listed_out:
            assert minute - self.since[c] >= rules.min_dwell_min
            assert self._streak(c, rules.exit_band.k_exit, beyond=4)
        for c in added if self.revision > 1 else ():
            assert self._streak(c, rules.entry_band.k_entry, within=2)
        for c in added:
            self.since[c] = minute

    def _streak(self, c: str, minutes: int, *, within: int = 99, beyond: int = 0) -> bool:
        """Return whether a letter had ranks in a band in the last minutes that list it."""
        placed = [order.find(c) + 1 for order in self.orders if c in order][-minutes:]
        return len(placed) == minutes and all(beyond < rank <= within for rank in placed)

    @invariant()
    def revision_counts_changes(self) -> None:
        """It only ever moves with a change, by one."""
        if hasattr(self, "universe"):
            assert self.universe.state.revision == self.revision
            assert size(self.universe.state) == len(self.universe.members)

    @invariant()
    def nobody_who_is_delisted_is_a_member(self) -> None:
        """After each minute the members are assets of the roster."""
        if hasattr(self, "universe") and self.orders:
            assert set(self.universe.members) <= set(self.orders[-1])


Churn.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestChurn = Churn.TestCase


@settings(max_examples=30, deadline=None)
@given(st.lists(st.permutations("ABCDE"), min_size=2, max_size=20), st.integers(0, 19))
def test_property_state_can_be_saved_and_loaded(orders: list[Sequence[str]], cut: int) -> None:
    """Interrupted anywhere, the same changes follow."""
    whole, resumed = Universe(FREE), Universe(FREE)
    for k, order in enumerate(orders):
        if k == cut:
            data = msgspec.msgpack.encode(resumed.state)
            resumed.state = msgspec.msgpack.decode(data, type=UniverseState)
        found = [moved(universe.step("".join(order))) for universe in (whole, resumed)]
        assert found[0] == found[1]
    assert resumed.state == whole.state
