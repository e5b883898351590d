"""What a consumer decides: verdicts, memory, filters, changes of packs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.inbox import MUTED, Inbox, Verdict, Wanted, instant_ms
from operators.contract import EVENT_BYTES_MAX, ContractError

Make = Callable[..., bytes]


def verdicts(inbox: Inbox, messages: list[bytes]) -> list[Verdict]:
    """Return what becomes of messages."""
    return [inbox.take(message).verdict for message in messages]


def test_the_pinned_events_are_all_shown_once(pinned: list[bytes]) -> None:
    """What is published parses, and the second time it is a repeat."""
    inbox = Inbox(Wanted())
    assert set(verdicts(inbox, pinned)) == {Verdict.SHOWN}
    assert set(verdicts(inbox, pinned)) == {Verdict.REPEATED}


def test_unknown_fields_are_ignored_and_known_ones_are_strict(make: Make) -> None:
    """A later contract of the same major is read; a wrong type, bound or size is not."""
    inbox = Inbox(Wanted())
    assert inbox.take(make(1, v="0.7", mood={"calm": True})).verdict is Verdict.SHOWN
    for number, (field, value) in enumerate(
        [("severity", 101), ("severity", "9"), ("tf", "2m"), ("event_id", "x"), ("v", "1.0")]
    ):
        dead = inbox.take(make(10 + number, **{field: value}))
        assert dead.verdict is Verdict.DEAD
        assert dead.event is None
        assert dead.reason is not None
        assert dead.reason.startswith(f"{field}:")
    large = inbox.take(make(3, padding="x" * EVENT_BYTES_MAX))
    assert large.reason is not None
    assert str(EVENT_BYTES_MAX) in large.reason


@given(st.binary(max_size=200))
def test_no_bytes_are_too_bad(data: bytes) -> None:
    """Whatever comes is a verdict."""
    assert Inbox(Wanted()).take(data).verdict is Verdict.DEAD


def test_a_day_that_no_calendar_has_is_dead(make: Make) -> None:
    """The pattern of the contract lets the 30th of February through; comparing could not."""
    inbox = Inbox(Wanted())
    for text in ("2026-02-30T00:00:00Z", "0000-01-01T00:00:00Z"):
        decision = inbox.take(make(1, emitted_at=text))
        assert decision.verdict is Verdict.DEAD
        with pytest.raises(ContractError, match="calendar"):
            instant_ms(text)
    assert inbox.take(make(1)).verdict is Verdict.SHOWN


@pytest.mark.parametrize(
    ("emitted_at", "verdict"),
    [
        ("2026-09-21T18:04:01.001Z", Verdict.SHOWN),
        ("2026-09-21T18:04:01Z", Verdict.SHOWN),
        ("2026-09-21T18:04:00.999Z", Verdict.SUPERSEDED),
        ("2026-09-21T17:49:01Z", Verdict.SUPERSEDED),
        ("2026-09-21T17:49:00.999Z", Verdict.SHOWN),
    ],
)
def test_older_events_of_a_key_are_ignored_within_the_window(
    make: Make, emitted_at: str, verdict: Verdict
) -> None:
    """Equal instants and whole seconds compare as instants; beyond the window it is another run."""
    inbox = Inbox(Wanted(), window_ms=900_000)
    assert inbox.take(make(1, emitted_at="2026-09-21T18:04:01Z")).verdict is Verdict.SHOWN
    other = make(2, emitted_at="2026-09-21T18:00:00Z", symbol="ETH")
    assert inbox.take(other).verdict is Verdict.SHOWN
    assert inbox.take(make(3, emitted_at=emitted_at)).verdict is verdict


def test_a_superseded_event_does_not_move_the_key_back(make: Make) -> None:
    """What was ignored is not what the next one is compared with."""
    inbox = Inbox(Wanted())
    times = ["18:04:10", "18:04:01", "18:04:05"]
    events = [make(i, emitted_at=f"2026-09-21T{t}Z") for i, t in enumerate(times)]
    assert verdicts(inbox, events) == [Verdict.SHOWN, Verdict.SUPERSEDED, Verdict.SUPERSEDED]


def test_filters_by_class_and_symbol(make: Make) -> None:
    """A class has its own bound or the common one; a muted one is never heard."""
    wanted = Wanted(70, {"spike": 80, "rotation": MUTED}, frozenset({"BTC", "MARKET"}))
    inbox = Inbox(wanted)
    cases = [
        ({"class": "spike", "severity": 80}, Verdict.SHOWN),
        ({"class": "spike", "severity": 79}, Verdict.NOT_SEVERE),
        ({"class": "shift", "severity": 70}, Verdict.SHOWN),
        ({"class": "shift", "severity": 69}, Verdict.NOT_SEVERE),
        ({"class": "rotation", "severity": 100}, Verdict.NOT_SEVERE),
        ({"class": "shift", "severity": 100, "symbol": "ETH"}, Verdict.OTHER_SYMBOL),
    ]
    for number, (fields, verdict) in enumerate(cases):
        assert inbox.take(make(number, **fields)).verdict is verdict, fields


def test_what_is_filtered_is_remembered_all_the_same(make: Make) -> None:
    """A filter changes what is shown, not what is a repeat or late."""
    inbox = Inbox(Wanted(90))
    late = "2026-09-21T18:03:00Z"
    assert inbox.take(make(1, severity=50)).verdict is Verdict.NOT_SEVERE
    assert inbox.take(make(1, severity=95)).verdict is Verdict.REPEATED
    assert inbox.take(make(2, severity=95, emitted_at=late)).verdict is Verdict.SUPERSEDED


def test_a_change_of_packs_is_told_once(make: Make) -> None:
    """The first event of other packs says so, also where it is filtered, also after a restart."""
    inbox = Inbox(Wanted(100))
    assert inbox.take(make(1, severity=1)).packs is None
    assert inbox.take(make(2, severity=1)).packs is None
    state = orjson.loads(orjson.dumps(inbox.snapshot()))
    again = Inbox(Wanted())
    again.restore(state)
    change = again.take(make(3, packs="v0.3")).packs
    assert change is not None
    assert (change[0][0], change[1][0]) == ("v0.2.1", "v0.3")
    assert again.take(make(4, packs="v0.3")).packs is None
    assert again.take(make(4)).packs is None  # a repeat says nothing


def test_memory_is_bounded_and_forgets_the_oldest(make: Make) -> None:
    """No more ids and keys are kept than asked for; a repeat counts as seen lately."""
    inbox = Inbox(Wanted(), seen_max=3, keys_max=2)
    for number in (1, 2, 3, 1, 4, 5):
        inbox.take(make(number, symbol=f"S{number}"))
    assert [text[-1] for text in inbox.snapshot()["seen"]] == ["1", "4", "5"]
    assert [key for key, _ in inbox.snapshot()["latest"]] == ["S4:spike:1m", "S5:spike:1m"]


@given(data=st.data())
def test_a_restart_anywhere_changes_no_verdict(make: Make, data: Any) -> None:
    """Any messages, with a snapshot and a restore through JSON between any two of them."""
    number = st.integers(0, 6)
    messages = data.draw(
        st.lists(
            st.one_of(
                st.just(b"{"),
                st.builds(
                    lambda n, second, symbol, severity: make(
                        n,
                        emitted_at=f"2026-09-21T18:04:{second:02d}Z",
                        symbol=symbol,
                        severity=severity,
                    ),
                    number,
                    st.integers(0, 59),
                    st.sampled_from(["BTC", "ETH"]),
                    st.integers(0, 100),
                ),
            ),
            max_size=12,
        )
    )
    wanted = Wanted(50, {}, frozenset({"BTC"}))
    memory = {"window_ms": 20_000, "seen_max": 4, "keys_max": 1}
    one = Inbox(wanted, **memory)
    other = Inbox(wanted, **memory)
    for message in messages:
        assert one.take(message) == other.take(message)
        state = orjson.loads(orjson.dumps(other.snapshot()))
        assert state == one.snapshot()
        other = Inbox(wanted, **memory)
        other.restore(state)


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 12))
def test_each_id_is_new_unless_it_is_among_the_last(
    make: Make, numbers: list[int], limit: int
) -> None:
    """The memory is that of the last `limit` different ids."""
    inbox = Inbox(Wanted(), seen_max=limit)
    last: list[int] = []
    for number in numbers:
        repeated = inbox.take(make(number)).verdict is Verdict.REPEATED
        assert repeated == (number in last)
        last = [*[n for n in last if n != number], number][-limit:]


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"seen": [], "latest": []},
        {"seen": [1], "latest": [], "packs": None},
        {"seen": [], "latest": [["k", "x"]], "packs": None},
        {"seen": [], "latest": [["k"]], "packs": None},
        {"seen": [], "latest": [], "packs": ["only one"]},
    ],
)
def test_what_is_no_state_is_refused_and_changes_nothing(make: Make, state: Any) -> None:
    """A damaged state is an error; the inbox is as it was."""
    inbox = Inbox(Wanted())
    inbox.take(make(1))
    before = inbox.snapshot()
    with pytest.raises(ValueError, match="state"):
        inbox.restore(state)
    assert inbox.snapshot() == before
