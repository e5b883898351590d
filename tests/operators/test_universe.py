"""Who is a member, since when, and who is hot without being one."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.lattice import HOUR_MS, MINUTE_MS
from operators.records import Change, HotMove
from operators.universe import (
    UniverseState,
    composite_ranks,
    cool,
    heat,
    members,
    newly_deferred,
    ranks,
    size,
    step_membership,
    without_interest,
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


def at(minute: float) -> int:
    """Return the label of a minute."""
    return T0 + round(minute * MINUTE_MS)


class Universe:
    """A universe that is told the order of the assets minute by minute."""

    def __init__(self, rules: UniversePolicy) -> None:
        self.rules = rules
        self.state = UniverseState()
        self.minute = -1

    def step(self, order: str, minutes: int = 1, *, died: str = "") -> Change | None:
        """Pass minutes in which the assets, a letter each, rank in this order; last change."""
        change, dead = None, frozenset(map(ord, died))
        for _ in range(minutes):
            self.minute += 1
            rank_of = {ord(letter): rank for rank, letter in enumerate(order, start=1)}
            change = step_membership(self.state, at(self.minute), rank_of, self.rules, dead)
        return change

    @property
    def members(self) -> str:
        """Return the letters of the members."""
        return "".join(map(chr, sorted(members(self.state))))


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


def test_equal_scores_are_ties_whatever_doubles_make_of_them() -> None:
    """Ranks 10 and 3 weigh 7.9, and so do 7 and 10: the lower id is ahead.

    As doubles 0.7 * 7 + 0.3 * 10 is less than 0.7 * 10 + 0.3 * 3.
    """
    assert 0.7 * 7 + 0.3 * 10 < 0.7 * 10 + 0.3 * 3
    by_volume = [2, 3, 4, 5, 6, 7, 11, 8, 9, 1, 12]  # the asset at each place
    by_interest = [2, 3, 1, 4, 5, 6, 7, 8, 9, 11, 12]
    volumes = {uid: 100.0 - place for place, uid in enumerate(by_volume)}
    interests: dict[int, float | None] = {
        uid: 100.0 - place for place, uid in enumerate(by_interest)
    }
    found = composite_ranks(volumes, interests, SHIPPED)
    assert (by_volume.index(1), by_interest.index(1)) == (9, 2)
    assert (by_volume.index(11), by_interest.index(11)) == (6, 9)
    assert found[11] == found[1] + 1


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_few_assets_with_open_interest_are_favoured_within_bounds(share: float) -> None:
    """The only one of 500 with open interest passes those up to wo times its volume rank ahead."""
    weights = SHIPPED.weights.model_copy(update={"wv": 1.0 - share, "wo": share})
    volumes = {uid: 1000.0 - uid for uid in range(500)}  # uid is its volume rank less 1
    for uid, rank in ((0, 1), (31, 23), (499, 351)):
        found = composite_ranks(volumes, {uid: 1.0}, policy(weights=weights))
        assert found[uid] == {0.0: uid + 1, 0.3: rank, 1.0: 1 if uid == 0 else 2}[share], uid


def test_of_three_assets_open_interest_alone_passes_nobody() -> None:
    """Wherever the one that has it stands."""
    volumes = {1: 3.0, 2: 2.0, 3: 1.0}
    for uid in volumes:
        assert composite_ranks(volumes, {uid: 1.0}, SHIPPED) == {1: 1, 2: 2, 3: 3}


def test_who_has_no_open_interest_is_named() -> None:
    """Ascending, for the audit; zero is an open interest."""
    assert without_interest({9: None, 2: 1.0, 4: 0.0, 3: None}) == (3, 9)
    assert without_interest({}) == ()


@given(
    st.dictionaries(
        st.integers(0, 60),
        st.tuples(st.integers(0, 5), st.none() | st.integers(0, 5)),
        max_size=30,
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
            if (scores[ahead], ahead) < (scores[uid], uid):
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
    universe = Universe(policy())
    universe.step("ABC")
    changes = [universe.step("ABC", died="A") for _ in range(11)]
    assert changes[0] == Change(2, T0 + MINUTE_MS, (), (65,), {"65": "hard_exit"})
    assert changes[1:] == [None] * 10
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


def test_a_change_that_nobody_chose_freezes_as_any_other() -> None:
    """C has waited for the fill's freeze; the delisting of B one minute before it ends is another.

    minute   0     1 2 3 4     5 6 7 8     9
             fill  ~ ~ ~ -B    ~ ~ ~ ~     +C
    """
    universe = Universe(policy(min_dwell_min=0))
    universe.step("ABC")
    universe.step("CAB", 3)
    assert moved(universe.step("CA")) == ("", "B")
    assert universe.step("CA", 4) is None
    assert moved(universe.step("CA")) == ("C", "")


def test_dead_assets_do_not_fill_the_first_universe() -> None:
    """Nor does a universe that nobody can fill have a revision."""
    universe = Universe(FREE)
    assert universe.step("AB", died="AB") is None
    assert universe.state.revision == 0
    assert moved(universe.step("ABC", died="A")) == ("B", "")


@pytest.mark.parametrize("n_entry", [3, 22])
def test_with_few_assets_all_are_members(n_entry: int) -> None:
    """As many as the entry band has places, or fewer: whatever their order nobody leaves it.

    A new one is in after k_entry minutes, one that was dead after k_entry minutes of life.
    """
    universe = Universe(
        policy(
            n_base=n_entry + 3,
            entry_band=EntryBand(n_entry=n_entry, k_entry=3),
            exit_band=ExitBand(n_exit=n_entry + 8, k_exit=5),
            freeze_min=0,
            min_dwell_min=0,
        )
    )
    assert moved(universe.step("AB")) == ("AB", "")
    for order in ("BAC", "CBA"):
        assert universe.step(order) is None
    assert moved(universe.step("CAB")) == ("C", "")
    assert universe.step("BCA", 20) is None
    assert moved(universe.step("ABC", died="A")) == ("", "A")
    assert universe.step("ABC", 2) is None
    assert moved(universe.step("ABC")) == ("A", "")
    assert universe.step("CAB", 20) is None


def test_an_entry_above_the_base_size_pushes_nobody_out() -> None:
    """Size is what the bands make of it: from n_base to n_exit, and back when somebody falls out.

    Exit is beyond rank 3; n_base is 2.
    """
    universe = Universe(FREE)
    universe.step("ABCD")
    universe.step("CABD", 3)
    assert (universe.members, size(universe.state)) == ("ABC", 3)
    assert universe.step("CABD", 30) is None
    universe.step("CADB", 5)
    assert universe.members == "AC"


def test_only_members_and_those_who_may_enter_are_remembered() -> None:
    """However many assets have come and gone."""
    universe = Universe(FREE)
    for k in range(0, 300, 3):
        universe.step("AB" + "".join(chr(1000 + k + i) for i in range(3)))
    assert universe.state.members.keys() == {65, 66}
    assert list(universe.state.members) == [65, 66]
    universe.step(chr(2000) + "AB")
    assert universe.state.members.keys() == {65, 66, 2000}


# --- the cap of an hour --------------------------------------------------------------------------


def capped(cap: int, **changes: Any) -> Universe:
    """Return a universe of six ranks, bands of 3 and 3, streaks of one minute and no delays."""
    rules: dict[str, Any] = {
        "n_base": 3,
        "entry_band": EntryBand(n_entry=3, k_entry=1),
        "exit_band": ExitBand(n_exit=3, k_exit=1),
        "freeze_min": 0,
        "min_dwell_min": 0,
        "churn_per_hour_max": cap,
    }
    universe = Universe(policy(**{**rules, **changes}))
    universe.step("ABCDEF")
    assert universe.members == "ABC"
    return universe


def waiting(universe: Universe) -> str:
    """Return the letters of those that the cap keeps waiting."""
    return "".join(map(chr, universe.state.deferred))


def test_labels_begin_on_the_hour() -> None:
    """What the tables below count from."""
    assert T0 % HOUR_MS == 0


def test_a_full_hour_puts_moves_off_to_the_next() -> None:
    """Three changes an hour: the fill is none, F and C use two; of the next two one has to wait.

    minute   0    1       2       3..59   60
            fill  +F -C   -B  E~  E~      +E
    """
    universe = capped(3)
    assert moved(universe.step("ABFDEC")) == ("F", "C")
    assert moved(universe.step("AFEDBC")) == ("", "B")
    assert newly_deferred(universe.state, at(2)) == (ord("E"),)
    for _ in range(3, 60):
        assert universe.step("AFEDBC") is None
        assert (waiting(universe), newly_deferred(universe.state, at(universe.minute))) == ("E", ())
    assert moved(universe.step("AFEDBC")) == ("E", "")
    assert universe.minute == 60
    assert (waiting(universe), universe.state.deferrals) == ("", 1)


def test_a_universe_that_was_never_full_fills_without_a_cap() -> None:
    """A run that knew two assets at first takes the others when it hears of them.

    minute   0     1          2
            +A+B  +C (full)  F waits
    """
    universe = Universe(
        policy(
            n_base=3,
            entry_band=EntryBand(n_entry=3, k_entry=1),
            exit_band=ExitBand(n_exit=3, k_exit=1),
            freeze_min=0,
            min_dwell_min=0,
            churn_per_hour_max=0,
        )
    )
    universe.step("AB")
    assert moved(universe.step("ABC")) == ("C", "")
    assert universe.step("ABFC") is None
    assert (universe.members, waiting(universe)) == ("ABC", "CF")


def test_ordinary_exits_wait_as_well() -> None:
    """More changes than the cap are more changes than the cap; nobody is left out meanwhile."""
    universe = capped(2)
    assert moved(universe.step("ABFDEC")) == ("F", "C")
    assert universe.step("EFABDC", 58) is None
    assert waiting(universe) == "BE"
    assert (universe.members, universe.minute) == ("ABF", 59)
    assert moved(universe.step("EFABDC")) == ("E", "B")
    assert universe.state.deferrals == 2


def test_who_waits_must_still_qualify() -> None:
    """The streak that breaks ends the waiting; a new one is a new deferral.

    minute   1  2  3   4   5   6  7
    C ranks  4  4  4   3   4   4  4      out after 1 minute beyond rank 3
    D ranks  3  3  3   4   3   3  3      in after 3 minutes within it
    waits    C  C  CD  -   C   C  CD
    """
    universe = capped(0, entry_band=EntryBand(n_entry=3, k_entry=3))
    universe.step("ABDCEF", 3)
    assert waiting(universe) == "CD"
    universe.step("ABCDEF")
    assert waiting(universe) == ""
    universe.step("ABDCEF")
    assert waiting(universe) == "C"
    universe.step("ABDCEF", 2)
    assert (waiting(universe), universe.members) == ("CD", "ABC")
    assert universe.state.deferrals == 4


def test_exits_go_first_and_the_most_urgent_before_others() -> None:
    """Of three that leave and three that enter, the worst two leave; then the best enters last."""
    universe = capped(2)
    assert moved(universe.step("FEDCBA")) == ("", "AB")
    assert waiting(universe) == "CDEF"
    universe.step("FEDCBA", 58)
    assert moved(universe.step("FEDCBA")) == ("F", "C")
    universe.step("FEDCBA", 59)
    assert moved(universe.step("FEDCBA")) == ("DE", "")
    assert universe.minute == 120


def test_without_a_cap_all_move_at_once() -> None:
    """The same minute under a cap that is just large enough."""
    universe = capped(6)
    assert moved(universe.step("FEDCBA")) == ("DEF", "ABC")
    assert universe.state.deferrals == 0


def test_what_cannot_wait_counts_but_does_not_wait() -> None:
    """Delistings and hard exits fill an hour for the others, and happen in a full one.

    minute   1            2        60       61              62
            -A -C D~ E~   -B D~    +D +F    -D (dead) E~    D~ E~
    """
    universe = capped(2)
    change = universe.step("DBEFC", died="C")
    assert change is not None
    assert change.reasons == {"65": "delisted", "67": "hard_exit"}
    assert waiting(universe) == "DE"
    assert moved(universe.step("DFEC")) == ("", "B")
    universe.step("DFEC", 57)
    assert (universe.members, universe.minute) == ("", 59)
    assert moved(universe.step("DFEC")) == ("DF", "")
    change = universe.step("DEF", died="D")
    assert change is not None
    assert change.reasons == {"68": "hard_exit"}
    assert universe.step("EFD") is None
    assert waiting(universe) == "DE"


def test_a_forced_exit_takes_its_place_in_the_same_minute() -> None:
    """One change an hour: B's delisting is that one, and nobody enters for it."""
    universe = capped(1)
    assert moved(universe.step("ACD")) == ("", "B")
    assert waiting(universe) == "D"


def test_freeze_and_cap_hold_each_for_itself() -> None:
    """Minute 60 has a fresh hour, but the delisting of minute 59 freezes until 63.

    minute    0     58     59   60 61 62   63
            fill   -B +E   -C    ~  ~  ~   +D
    """
    universe = capped(2, freeze_min=4, min_dwell_min=0)
    universe.step("ABCDEF", 57)
    assert moved(universe.step("ACEBDF")) == ("E", "B")
    assert moved(universe.step("AEDBF")) == ("", "C")
    assert waiting(universe) == ""
    assert universe.step("AEDBF", 3) is None
    assert moved(universe.step("AEDBF")) == ("D", "")
    assert universe.minute == 63


def test_a_freeze_alone_puts_nothing_off() -> None:
    """Deferrals are what the cap did: D waits for the freeze and then for the hour."""
    universe = capped(0, freeze_min=3)
    assert universe.step("ABDC", 2) is None
    assert (waiting(universe), universe.state.deferrals) == ("", 0)
    assert universe.step("ABDC") is None
    assert (waiting(universe), universe.state.deferrals) == ("CD", 2)


def test_who_waits_goes_on_waiting_through_a_freeze() -> None:
    """Counted once, though a delisting freezes membership meanwhile."""
    universe = capped(0, freeze_min=3)
    universe.step("ABDC", 3)
    assert waiting(universe) == "CD"
    assert moved(universe.step("ADEC")) == ("", "B")
    assert waiting(universe) == "CDE"
    universe.step("ADFCE", 2)
    assert (waiting(universe), universe.state.deferrals) == ("CD", 3)
    universe.step("ADFCE")
    assert (waiting(universe), universe.state.deferrals) == ("CDF", 4)


# --- the hotlist ---------------------------------------------------------------------------------


def warm(
    state: UniverseState, label_ms: int, found: dict[int, tuple[int, str]], given: UniversePolicy
) -> list[HotMove]:
    """Move the hotlist on by one minute; return what changed."""
    return [*cool(state, label_ms), *heat(state, label_ms, found, given)]


@pytest.mark.parametrize(("severity", "minutes"), [(70, 36), (80, 39), (90, 42), (100, 45)])
def test_heat_lasts_longer_the_more_severe(severity: int, minutes: int) -> None:
    """15 minutes and 0.3 for every point (Appendix D.8); it ends with its last minute."""
    state = UniverseState()
    warm(state, at(0), {5: (severity, "vol_spike_m_1")}, SHIPPED)
    assert state.hot[5].expires_ms == at(minutes)
    warm(state, at(minutes - 1), {}, SHIPPED)
    assert 5 in state.hot
    warm(state, at(minutes), {}, SHIPPED)
    assert 5 not in state.hot


def test_heat_needs_severity_or_a_listed_subtype() -> None:
    """69 is not 70; a basis jolt is hot at any severity, for 15 minutes at least."""
    state = UniverseState()
    warm(state, at(0), {1: (69, "vol_spike_m_1"), 2: (0, "basis_jolt_m_5")}, SHIPPED)
    assert state.hot.keys() == {2}
    assert state.hot[2].expires_ms == at(15)


def test_heat_is_prolonged_and_never_shortened() -> None:
    """Start and the later end stay, and the reason is that of the end.

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
    assert state.hot[5].reason == "price_spike_up_m_1"


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
    inside, hot = members(universe.state), universe.state.hot
    standing = [(uid in inside, uid in hot) for uid in (65, 66, 90, 91)]
    assert standing == [(True, True), (True, False), (False, True), (False, False)]
    assert universe.state.revision == 1
    assert size(universe.state) == 2


def test_the_audit_of_the_hotlist_says_what_changed_and_why() -> None:
    """Added, prolonged, ended; what changes nothing is not in it, and there is no revision.

    minute    0 ---- 70: 36 min --------- 36
                5 -- 70: 36 min ------------ 41
                6 - listed, 0: 15 min - 21
    """
    state = UniverseState()
    found = {7: (70, "vol_spike_m_1"), 3: (100, "price_spike_up_m_1"), 5: (69, "vol_spike_m_1")}
    assert warm(state, at(0), found, SHIPPED) == [
        HotMove(at(0), 3, "added", "price_spike_up_m_1", at(0), at(45)),
        HotMove(at(0), 7, "added", "vol_spike_m_1", at(0), at(36)),
    ]
    assert warm(state, at(1), {}, SHIPPED) == []
    assert warm(state, at(5), {7: (70, "oi_spike_up_m_5")}, SHIPPED) == [
        HotMove(at(5), 7, "prolonged", "oi_spike_up_m_5", at(0), at(41))
    ]
    assert warm(state, at(6), {7: (0, "basis_jolt_m_5")}, SHIPPED) == []
    assert warm(state, at(41), {7: (70, "vol_spike_m_1")}, SHIPPED) == [
        HotMove(at(41), 7, "expired", "oi_spike_up_m_5", at(0), at(41)),
        HotMove(at(41), 7, "added", "vol_spike_m_1", at(41), at(77)),
    ]
    assert warm(state, at(80), {}, SHIPPED) == [
        HotMove(at(80), 3, "expired", "price_spike_up_m_1", at(0), at(45)),
        HotMove(at(80), 7, "expired", "vol_spike_m_1", at(41), at(77)),
    ]
    assert (state.hot, state.revision) == ({}, 0)


def test_no_time_to_live_is_no_heat() -> None:
    """A policy of 0 minutes and 0.29 for every point: 0 is not hot, 100 is for 29 minutes."""
    hotlist = SHIPPED.hotlist.model_copy(
        update={"ttl_base_min": 0, "ttl_k_min_per_point": 0.29, "subtypes": ("x",)}
    )
    state = UniverseState()
    assert warm(state, at(0), {1: (0, "x")}, policy(hotlist=hotlist)) == []
    assert 0.29 * 100 < 29.0  # as doubles
    warm(state, at(0), {1: (100, "x")}, policy(hotlist=hotlist))
    assert state.hot[1].expires_ms == at(29)
