"""What an asset did lately is what its last minutes say, whenever and however often it is asked."""

from __future__ import annotations

import functools
import operator
import statistics
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.activity import (
    Activity,
    dead,
    dollar_volumes,
    forget,
    open_interests,
    remember,
    volume_since,
)
from operators.lattice import MINUTE_MS
from packs.loader import load_packs
from packs.schema import UniversePolicy

SHIPPED = load_packs().universe
T0 = 1_756_890_000_000
BTC, ETH = 0, 1


def policy(**changes: Any) -> UniversePolicy:
    """Return the shipped policy with windows of three minutes, and other changes."""
    return SHIPPED.model_copy(update={"l1_min": 3, "l2_min": 3, **changes})


SHORT = policy()


def at(minute: int) -> int:
    """Return the label of a minute."""
    return T0 + minute * MINUTE_MS


def told(
    values: Sequence[float | str | None], rules: UniversePolicy = SHORT, *, uid: int = BTC
) -> Activity:
    """Return what is known after minutes from 0 on with this volume and open interest each.

    "-" is a minute without a row.
    """
    state = Activity()
    for minute, value in enumerate(values):
        if not isinstance(value, str):
            remember(state, uid, at(minute), value, value, rules)
    return state


def volume_at(state: Activity, minute: int, rules: UniversePolicy = SHORT) -> float:
    """Return dv_L1 of the asset at a minute."""
    return dollar_volumes(state, [BTC], at(minute), rules)[BTC]


def interest_at(state: Activity, minute: int, rules: UniversePolicy = SHORT) -> float | None:
    """Return oi_L2 of the asset at a minute."""
    return open_interests(state, [BTC], at(minute), rules)[BTC]


# --- the windows ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "volume", "interest"),
    [
        ([7.0], 7.0, 7.0),
        ([7.0, 1.0], 8.0, 4.0),
        ([7.0, 1.0, 2.0], 10.0, 2.0),
        ([7.0, 1.0, 2.0, 4.0], 7.0, 2.0),
        ([7.0, None, 2.0], 9.0, 4.5),
        ([7.0, "-", 2.0], 9.0, 4.5),
        ([7.0, "-", "-", 2.0], 2.0, 2.0),
        ([7.0, "-", "-", "-", "-", "-", "-", "-", 2.0], 2.0, 2.0),
        ([7.0, None, None, None], 0.0, None),
        ([0.0, 0.0, 3.0], 3.0, 0.0),
        ([-0.0], 0.0, 0.0),
    ],
)
def test_three_minutes_are_summed_and_halved(
    values: Sequence[float | str | None], volume: float, interest: float | None
) -> None:
    """NULL is no volume, and no open interest either; zero is one, and a minute may be missing."""
    state = told(values)
    newest = len(values) - 1
    assert (volume_at(state, newest), interest_at(state, newest)) == (volume, interest)


def test_windows_end_with_the_minute_that_asks() -> None:
    """Not with the newest minute of the asset.

    minute    0   1   2   3   4
    volume    7   1   2   -   -
    """
    state = told([7.0, 1.0, 2.0])
    assert [volume_at(state, minute) for minute in range(2, 7)] == [10.0, 3.0, 2.0, 0.0, 0.0]
    assert [interest_at(state, minute) for minute in range(2, 7)] == [2.0, 1.5, 2.0, None, None]


def test_windows_have_their_own_lengths() -> None:
    """l1_min is of volume, l2_min of open interest."""
    for l1_min, l2_min, found in ((1, 3, (4.0, 2.0)), (3, 1, (7.0, 4.0))):
        rules = policy(l1_min=l1_min, l2_min=l2_min)
        state = told([7.0, 1.0, 2.0, 4.0], rules)
        assert (volume_at(state, 3, rules), interest_at(state, 3, rules)) == found


def test_who_was_never_seen_did_nothing() -> None:
    """An asset without a row has no volume and no open interest."""
    state = Activity()
    assert (volume_at(state, 0), interest_at(state, 0)) == (0.0, None)
    assert volume_since(state, ETH, at(0)) == 0.0


def test_any_shorter_window_can_be_asked_for() -> None:
    """Of the minutes labelled after an instant; up to an hour whatever l1_min is, for dominance."""
    state = told([float(1 << k) for k in range(70)])
    for minutes in (0, 1, 5, 60):
        found = volume_since(state, BTC, at(69 - minutes))
        assert found == float((1 << 70) - (1 << (70 - minutes)))
    assert volume_since(state, BTC, at(0)) == volume_since(state, BTC, at(9))
    assert volume_since(state, BTC, at(68) + 1) == volume_since(state, BTC, at(68))
    assert volume_since(state, BTC, at(68) - 1) == volume_since(state, BTC, at(67))
    assert volume_since(state, BTC, at(90)) == 0.0


def test_sums_are_from_the_oldest_to_the_newest() -> None:
    """Of the window alone: what fell out of it leaves no rounding error behind."""
    assert volume_at(told([1.0, 1.0, 1e16]), 2) == 1e16 + 2.0
    assert volume_at(told([1e16, 1.0, 1.0]), 2) == 1e16
    state = told([1e16, 0.1, 0.2, 0.3])
    assert volume_at(state, 3) == (0.1 + 0.2) + 0.3 != 0.1 + (0.2 + 0.3)


# --- amendments ----------------------------------------------------------------------------------


def test_the_newest_minute_again_replaces() -> None:
    """Values may come and go; nothing before it changes."""
    state = told([7.0, 1.0])
    remember(state, BTC, at(1), 3.0, None, SHORT)
    assert (volume_at(state, 1), interest_at(state, 1)) == (10.0, 7.0)
    remember(state, BTC, at(1), None, 5.0, SHORT)
    assert (volume_at(state, 1), interest_at(state, 1)) == (7.0, 6.0)


def test_a_minute_before_the_newest_is_a_bug() -> None:
    """Rows of an asset come in order."""
    state = told([7.0, 1.0])
    with pytest.raises(AssertionError, match="asset 0"):
        remember(state, BTC, at(0), 1.0, 1.0, SHORT)


# --- stale, dead, forgotten ----------------------------------------------------------------------


def died(verdicts: str, volume: float = 0.0) -> bool:
    """Return whether an asset is dead after minutes: S stale, o not, - without a row.

    A small letter s is stale at the seal and not in the amendment, x the reverse.
    """
    rules = policy(t_stale_min=3, dead_quote=9.0)
    state = Activity()
    minute = -1
    for letter in verdicts:
        minute += 1
        if letter == "-":
            continue
        remember(state, BTC, at(minute), volume, None, rules, stale=letter in "Ss")
        if letter in "sx":
            remember(state, BTC, at(minute), volume, None, rules, stale=letter == "x")
    volumes = dollar_volumes(state, [BTC], at(minute), rules)
    return dead(state, volumes, rules) == {BTC}


@pytest.mark.parametrize(
    ("verdicts", "dead"),
    [
        ("SS", False),
        ("SSS", True),
        ("SSSS", True),
        ("SSSo", False),
        ("SSoSS", False),
        ("oSSS", True),
        ("SS-S", False),
        ("SS-SSS", True),
        ("SSs", False),
        ("SSx", True),
        ("SxS", True),
        ("SsSS", False),
        ("SsSSS", True),
    ],
)
def test_three_stale_minutes_in_a_row_are_death(verdicts: str, dead: bool) -> None:
    """Amended verdicts count as amended, and a minute without a row is not stale."""
    assert died(verdicts) is dead


@pytest.mark.parametrize(("volume", "dead"), [(2.9, True), (3.0, False)])
def test_who_traded_is_not_dead(volume: float, dead: bool) -> None:
    """The dollars of l1_min minutes, here three, against dead_quote, here nine."""
    assert died("SSSSS", volume) is dead


def test_who_disappears_is_forgotten_after_the_longest_window() -> None:
    """An hour here, since so much is kept for dominance; a label later nothing is left."""
    state = told([1.0])
    remember(state, ETH, at(1), 1.0, 1.0, SHORT)
    forget(state, at(59), SHORT)
    assert state.past.keys() == {BTC, ETH}
    forget(state, at(60), SHORT)
    assert state.past.keys() == {ETH}
    forget(state, at(61), policy(l2_min=61))
    assert state.past.keys() == {ETH}
    forget(state, at(61), policy(l1_min=61))
    assert state.past.keys() == {ETH}
    forget(state, at(61), SHORT)
    assert state.past == {}


def test_lists_are_as_long_as_their_windows() -> None:
    """After any number of minutes, and any hole; an hour of a thousand assets is a megabyte."""
    state = told([*[1.5] * 200, *["-"] * 1000, *[2.5] * 10], SHIPPED)
    assert {len(state.past[BTC].volumes), len(state.past[BTC].interests)} == {60}
    assert len(msgspec.msgpack.encode(state.past[BTC])) < 1100
    rules = policy(l1_min=90)
    for minute in range(2000, 2200):
        remember(state, BTC, at(minute), 1.0, 1.0, rules)
    assert (len(state.past[BTC].volumes), len(state.past[BTC].interests)) == (90, 3)


# --- against the definition ----------------------------------------------------------------------

amounts = st.none() | st.sampled_from([0.0, 0.1, 1e-3, 123.456, 7e9]) | st.floats(0.0, 1e12)
minutes = st.lists(
    # minutes since the one before, volume, open interest, stale, amended to (volume, interest)
    st.tuples(
        st.integers(1, 3),
        amounts,
        amounts,
        st.booleans(),
        st.none() | st.tuples(amounts, amounts, st.booleans()),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(minutes, st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.booleans())
def test_oracle_activity(
    sent: list[Any], l1_min: int, l2_min: int, t_stale_min: int, packed: bool
) -> None:
    """Sum and median over all rows ever sent, in order of labels; saved and loaded or not."""
    rules = policy(l1_min=l1_min, l2_min=l2_min, t_stale_min=t_stale_min, dead_quote=1e3)
    state = Activity()
    rows: dict[int, tuple[float | None, float | None, bool]] = {}
    minute = 0
    for step, volume, interest, stale, amended in sent:
        minute += step
        for row in ((volume, interest, stale), amended):
            if row is None:
                continue
            rows[minute] = row
            remember(state, BTC, at(minute), row[0], row[1], rules, stale=row[2])
            forget(state, at(minute), rules)
            if packed:
                state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=Activity)
        dollars = [rows[m][0] for m in range(minute - l1_min + 1, minute + 1) if m in rows]
        held = [rows[m][1] for m in range(minute - l2_min + 1, minute + 1) if m in rows]
        total = functools.reduce(operator.add, [d for d in dollars if d is not None], 0.0)
        known = [h for h in held if h is not None]
        last = [m in rows and rows[m][2] for m in range(minute - t_stale_min + 1, minute + 1)]
        volumes = dollar_volumes(state, [BTC], at(minute), rules)
        assert volumes == {BTC: total}
        median = 0.0
        if known:  # as numerics 5 says: half of the sum of the middle two
            low, high = statistics.median_low(known), statistics.median_high(known)
            median = low if len(known) % 2 else 0.5 * (low + high)
        assert interest_at(state, minute, rules) == (median if known else None)
        assert (BTC in dead(state, volumes, rules)) is (all(last) and total < 1e3)
