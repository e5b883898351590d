"""Top, mid and tail by dollars: a tenth each at the ends, and nobody flickers between them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.records import TierMove
from operators.tiers import TierState, deciles, step_tiers, tier_of
from packs.loader import load_packs
from packs.schema import UniversePolicy

SHIPPED = load_packs().universe
TEN = "ABCDEFGHIJ"


def policy(**changes: Any) -> UniversePolicy:
    """Return the shipped policy, patient for three minutes."""
    return SHIPPED.model_copy(update={"tier_streak_min": 3, **changes})


class Tiers:
    """Tiers that are told the order of the assets, a letter each, minute by minute."""

    def __init__(self, rules: UniversePolicy | None = None) -> None:
        self.rules = rules or policy()
        self.state = TierState()

    def step(self, order: str, minutes: int = 1) -> list[str]:
        """Pass minutes; return the last one's changes, as in "A mid top"."""
        moves: tuple[TierMove, ...] = ()
        for _ in range(minutes):
            volumes = {ord(letter): float(-place) for place, letter in enumerate(order)}
            moves = step_tiers(self.state, volumes, self.rules)
        return [f"{chr(move.asset_uid)} {move.former} {move.tier}" for move in moves]

    def of(self, letters: str) -> list[str]:
        """Return the tiers of some assets."""
        return [tier_of(self.state, ord(letter)) for letter in letters]


@pytest.mark.parametrize(
    ("assets", "ends"),
    [(0, 0), (1, 0), (9, 0), (10, 1), (19, 1), (20, 2), (35, 3), (500, 50), (509, 50)],
)
def test_a_decile_is_a_tenth_rounded_down(assets: int, ends: int) -> None:
    """As many at the top as at the tail, all others between; below ten there is no decile."""
    found = deciles({uid: float(-uid) for uid in range(assets)})
    tiers = [found[uid] for uid in range(assets)]
    assert tiers == ["top"] * ends + ["mid"] * (assets - 2 * ends) + ["tail"] * ends


def test_ties_go_to_the_lower_id() -> None:
    """Where nobody trades the ends are by id, and stay what they are."""
    found = deciles(dict.fromkeys(reversed(range(20)), 0.0))
    assert [uid for uid in range(20) if found[uid] == "top"] == [0, 1]
    assert [uid for uid in range(20) if found[uid] == "tail"] == [18, 19]


def test_the_first_tier_is_given_at_once() -> None:
    """In the first minute, and to an asset that is listed later; neither is a change."""
    tiers = Tiers()
    assert tiers.step(TEN) == []
    assert tiers.of("ABIJ") == ["top", "mid", "mid", "tail"]
    assert tiers.step("X" + TEN) == []
    assert tiers.of("XAJ") == ["top", "top", "tail"]


def test_a_tier_changes_after_minutes_in_a_row_in_another() -> None:
    """A and B change places for good; a minute back starts the count again.

    minute    1  2  3  4  5  6
    B ranks   1  1  2  1  1  1 -> top
    """
    tiers = Tiers()
    tiers.step(TEN)
    swapped = "BACDEFGHIJ"
    for order in (swapped, swapped, TEN, swapped, swapped):
        assert tiers.step(order) == []
        assert tiers.of("AB") == ["top", "mid"]
    assert tiers.step(swapped) == ["A top mid", "B mid top"]
    assert tiers.of("AB") == ["mid", "top"]


def test_minutes_in_two_other_tiers_do_not_add_up() -> None:
    """A falls to the tail over mid: two minutes there, then three at the tail."""
    tiers = Tiers()
    tiers.step(TEN)
    tiers.step("BACDEFGHIJ", 2)
    assert tiers.step("BCDEFGHIJA") == ["B mid top"]
    assert tiers.step("BCDEFGHIJA") == []
    assert tiers.step("BCDEFGHIJA") == ["A top tail", "J tail mid"]


def test_a_patience_of_one_is_none() -> None:
    """The tier is that of the minute."""
    tiers = Tiers(policy(tier_streak_min=1))
    tiers.step(TEN)
    assert tiers.step(TEN[::-1]) == ["A top tail", "J tail top"]


def test_below_ten_everybody_is_between() -> None:
    """At once; with ten again the ends take their minutes."""
    tiers = Tiers()
    assert tiers.step("ABC") == []
    assert tiers.of("ABC") == ["mid"] * 3
    assert tiers.step(TEN) == []
    assert tiers.of("ACJ") == ["mid", "mid", "tail"]
    tiers.step(TEN)
    assert tiers.step(TEN) == ["A mid top"]
    assert tiers.step(TEN[:-1]) == ["A top mid"]
    assert tiers.of(TEN) == ["mid"] * 10


def test_who_is_not_ranked_is_forgotten() -> None:
    """It has the tier of most, and when it is listed again it starts anew."""
    tiers = Tiers()
    tiers.step(TEN + "XYZ")
    assert tiers.of("Z") == ["tail"]
    tiers.step(TEN + "XY")
    assert tiers.of("Z") == ["mid"]
    assert tiers.state.standings.keys() == set(map(ord, TEN + "XY"))
    tiers.step("Z" + TEN + "XY")
    assert tiers.of("Z") == ["top"]


def test_names_are_those_of_the_pack() -> None:
    """What a detector pack may say something about under overrides.tiers."""
    tiers = load_packs().overrides.tiers
    found = deciles({uid: float(-uid) for uid in range(30)})
    assert set(tiers) <= set(found.values()) == {"top", "mid", "tail"}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.integers(0, 14), st.integers(0, 5).map(float), min_size=8), max_size=14
    ),
    st.integers(1, 3),
    st.sets(st.integers(0, 13), max_size=3),
)
def test_oracle_tiers(minutes: list[dict[int, float]], patience: int, cuts: set[int]) -> None:
    """By the history of deciles alone; order of the assets and interruptions change nothing."""
    rules = policy(tier_streak_min=patience)
    state = TierState()
    history: list[dict[int, str]] = []
    tier: dict[int, str] = {}
    for k, volumes in enumerate(minutes):
        ordered = sorted(volumes, key=lambda uid: (-volumes[uid], uid))
        ends = len(ordered) // 10
        history.append(
            {
                uid: "top" if place < ends else "tail" if place >= len(ordered) - ends else "mid"
                for place, uid in enumerate(ordered)
            }
        )
        before, tier = tier, {}
        for uid, now in history[-1].items():
            lately = [seen.get(uid) for seen in history[-patience:]]
            settled = ends == 0 or (len(lately) == patience and set(lately) == {now})
            tier[uid] = now if uid not in before or settled else before[uid]
        if k in cuts:
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=TierState)
        twin = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=TierState)
        moves = step_tiers(state, volumes, rules)
        shuffled = dict(reversed(volumes.items()))
        assert step_tiers(twin, shuffled, rules) == moves
        assert msgspec.msgpack.encode(twin) == msgspec.msgpack.encode(state)
        assert {uid: tier_of(state, uid) for uid in volumes} == tier
        assert [(move.asset_uid, move.former, move.tier) for move in moves] == [
            (uid, before[uid], tier[uid])
            for uid in sorted(tier)
            if uid in before and before[uid] != tier[uid]
        ]
