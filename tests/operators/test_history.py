"""A column looks back by label: what was there is found, what was not is NULL."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.history import History

M = 60_000
LIMIT = 4

values = st.none() | st.integers(-99, 99).map(float)
# (minutes since the bar before, its two values, whether it is amended and to what)
pushes = st.lists(
    st.tuples(st.integers(1, 3), values, values, st.none() | values.map(lambda x: (x,))),
    max_size=14,
)


def pushed(*labels: int, limit: int = LIMIT) -> History:
    """Return a history of bars whose `a` is their minute and whose `b` is NULL."""
    history = History()
    for minute in labels:
        history.push(minute * M, {"a": float(minute), "b": None}, limit)
    return history


def test_a_bar_is_found_by_its_label_and_by_no_other() -> None:
    """Minute 3 was never pushed, `b` was never known, nothing has a label in between."""
    history = pushed(1, 2, 4)
    assert [history.at("a", minute * M) for minute in range(6)] == [None, 1.0, 2.0, None, 4.0, None]
    assert [history.at("b", minute * M) for minute in range(6)] == [None] * 6
    assert history.at("a", 2 * M + 1) is None


def test_an_empty_history_knows_nothing() -> None:
    """The first minute of an asset."""
    assert History().at("a", M) is None
    assert History().window("a", 5 * M, 5, M) == [None] * 5


def test_a_window_has_a_place_for_every_bar() -> None:
    """Oldest first, NULL where a bar lacks; its step may be longer than a minute."""
    history = pushed(1, 2, 4, limit=9)
    assert history.window("a", 4 * M, 5, M) == [None, 1.0, 2.0, None, 4.0]
    assert history.window("a", 5 * M, 2, M) == [4.0, None]
    assert history.window("a", 4 * M, 3, 2 * M) == [None, 2.0, 4.0]
    assert history.window("a", 4 * M, 1, M) == [4.0]


def test_only_the_newest_bars_are_kept() -> None:
    """At most `limit` of them, whatever the minutes between."""
    history = pushed(1, 2, 4, 7, 8)
    assert history.labels == [minute * M for minute in (2, 4, 7, 8)]
    assert {len(column) for column in history.values.values()} == {LIMIT}
    assert history.at("a", M) is None


def test_the_newest_bar_can_be_taken_back() -> None:
    """The one that fell out for it does not come back: nobody looks that far."""
    history = pushed(1, 2, 4, 7, 8)
    history.pop()
    assert history.labels == [minute * M for minute in (2, 4, 7)]
    assert history.values == {"a": [2.0, 4.0, 7.0], "b": [None] * 3}
    history.push(8 * M, {"a": 8.0, "b": None}, LIMIT)
    assert history == pushed(1, 2, 4, 7, 8)


@pytest.mark.parametrize("minute", [2, 1])
def test_a_bar_that_is_not_later_is_a_bug(minute: int) -> None:
    """The same minute twice, or one that is older."""
    with pytest.raises(AssertionError):
        pushed(1, 2).push(minute * M, {"a": 1.0, "b": None}, LIMIT)


def test_nothing_is_shared_between_histories() -> None:
    """Every asset and timeframe has a table of its own."""
    pushed(1, 2)
    assert History() == History([], {})


@given(pushes, st.integers(1, 6))
def test_oracle_a_history_is_a_dict_of_its_newest_bars(
    steps: list[tuple[int, float | None, float | None, tuple[float | None] | None]], limit: int
) -> None:
    """Any bars, any amendments, stored and read in between: what a plain dict would say."""
    history, known, minute = History(), dict[int, tuple[float | None, float | None]](), 0
    for gap, a, b, amended in steps:
        minute += gap
        history.push(minute * M, {"a": a, "b": b}, limit)
        known[minute] = (a, b)
        if amended is not None:
            history.pop()
            history.push(minute * M, {"a": amended[0], "b": b}, limit)
            known[minute] = (amended[0], b)
        history = msgspec.msgpack.decode(msgspec.msgpack.encode(history), type=History)
        newest = sorted(known)[-limit:]
        assert history.labels == [m * M for m in newest]
        for k in range(minute + 2):
            expected = known[k] if k in newest else (None, None)
            assert (history.at("a", k * M), history.at("b", k * M)) == expected
        window = [known[k][0] if k in newest else None for k in range(minute - 3, minute + 1)]
        assert history.window("a", minute * M, 4, M) == window
