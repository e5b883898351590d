"""What leaves for a channel, and when: digests, bounds, rates, retries."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.outbox import LINES_MAX, NS, Dropped, Item, Message, Outbox, Policy

START_NS = 1_790_000_000 * NS
MINUTE_NS = 60 * NS


def item(severity: int = 50, incident: str | None = None, at_ns: int = START_NS) -> Item:
    """Return an event decided at an instant."""
    return Item(at_ns // 1_000_000, severity, f"severity {severity}", incident)


def sent(outbox: Outbox, at_ns: int, *, ok: bool = True) -> list[Message]:
    """Send all that may go now."""
    messages = []
    while (message := outbox.next_message(at_ns)) is not None:
        outbox.settle(ok=ok, at_ns=at_ns)
        messages.append(message)
    return messages


def test_a_digest_gathers_from_its_first_event() -> None:
    """Nothing before its time; then one message, and the next event opens another."""
    outbox = Outbox(Policy(digest_s=10))
    for second in (0, 4, 9):
        outbox.offer(item(50 + second), START_NS + second * NS)
    assert sent(outbox, START_NS + 10 * NS - 1) == []
    outbox.offer(item(), START_NS + 10 * NS)
    [message] = sent(outbox, START_NS + 10 * NS)
    assert (message.count, message.severity) == (3, 59)
    assert message.title() == "3 events, severity up to 59"
    assert message.body().splitlines() == ["severity 50", "severity 54", "severity 59"]
    assert outbox.waiting == 1


def test_an_incident_is_one_message_of_its_own() -> None:
    """Events with a common cause are told together and apart from others."""
    outbox = Outbox(Policy(digest_s=10))
    for incident in ("a", None, "b", "a", None, "a"):
        outbox.offer(item(incident=incident), START_NS)
    messages = sent(outbox, START_NS + 10 * NS)
    assert [(m.incident_id, m.count) for m in messages] == [("a", 3), (None, 2), ("b", 1)]
    assert messages[0].title() == "3 events of one incident (a), severity up to 50"
    assert messages[2].title() == "severity 50"


def test_without_a_digest_each_event_is_a_message() -> None:
    """Zero seconds gather nothing."""
    outbox = Outbox(Policy(digest_s=0))
    outbox.offer(item(1), START_NS)
    outbox.offer(item(2), START_NS)
    assert [m.severity for m in sent(outbox, START_NS)] == [1, 2]


def test_a_long_message_keeps_the_most_severe_lines() -> None:
    """The others are counted, and the highest severity stays in the title."""
    outbox = Outbox(Policy(digest_s=1))
    for severity in range(30):
        outbox.offer(item(severity), START_NS)
    [message] = sent(outbox, START_NS + NS)
    assert message.count == 30
    assert [i.severity for i in message.items] == list(range(30 - LINES_MAX, 30))
    assert message.body().splitlines()[-1] == "and 10 more, no more severe than these"


def test_the_rate_is_a_burst_and_then_one_a_step() -> None:
    """Six a minute: six at once, then one every ten seconds."""
    outbox = Outbox(Policy(digest_s=0, per_minute=6))
    for _ in range(9):
        outbox.offer(item(), START_NS)
    assert len(sent(outbox, START_NS)) == 6
    assert outbox.wait_ns(START_NS) == 10 * NS
    assert len(sent(outbox, START_NS + 10 * NS - 1)) == 0
    assert len(sent(outbox, START_NS + 10 * NS)) == 1
    assert len(sent(outbox, START_NS + 30 * NS)) == 2


@given(
    st.integers(1, 10),
    st.lists(st.integers(0, 20 * NS), min_size=1, max_size=80),
)
def test_no_minute_holds_more_than_twice_the_rate(per_minute: int, steps: list[int]) -> None:
    """Any pauses between looks: a burst and what came since, never more."""
    outbox = Outbox(Policy(digest_s=0, per_minute=per_minute, queue_max=1000))
    for _ in range(1000):
        outbox.offer(item(), START_NS)
    at_ns, times = START_NS, []
    for step in steps:
        at_ns += step
        times += [at_ns] * len(sent(outbox, at_ns))
    for first in times:
        within = [t for t in times if first <= t < first + MINUTE_NS]
        assert len(within) <= 2 * per_minute
    spent_ns = times[-1] - START_NS
    assert len(times) <= per_minute + spent_ns * per_minute // MINUTE_NS + 1


def test_a_full_queue_drops_the_least_severe_first_and_counts_events() -> None:
    """Of equals the oldest goes; open digests count too."""
    outbox = Outbox(Policy(digest_s=10, queue_max=2))
    outbox.offer(item(90, "a"), START_NS)
    outbox.offer(item(40, "b"), START_NS + 1)
    outbox.offer(item(30, "b"), START_NS + 2)
    outbox.offer(item(60, "c"), START_NS + 3)
    assert outbox.dropped[Dropped.QUEUE_FULL] == 2
    assert [m.incident_id for m in sent(outbox, START_NS + 20 * NS)] == ["a", "c"]


def test_what_is_old_is_not_sent() -> None:
    """Neither on arrival nor after waiting; with no limit everything is."""
    outbox = Outbox(Policy(digest_s=0, per_minute=1, age_max_s=60))
    outbox.offer(item(at_ns=START_NS - 61 * NS), START_NS)
    outbox.offer(item(), START_NS)
    outbox.offer(item(), START_NS)
    assert len(sent(outbox, START_NS)) == 1
    assert sent(outbox, START_NS + 61 * NS) == []
    assert outbox.dropped[Dropped.TOO_OLD] == 2
    every = Outbox(Policy(digest_s=0, age_max_s=None))
    every.offer(item(at_ns=0), START_NS)
    assert len(sent(every, START_NS)) == 1


def test_a_failed_message_is_tried_again_later_and_then_given_up() -> None:
    """Pauses double; the last failure is counted by events."""
    outbox = Outbox(Policy(digest_s=0, tries=3, retry_s=5, per_minute=60))
    outbox.offer(item(), START_NS)
    tried = []
    for second in range(30):
        if sent(outbox, START_NS + second * NS, ok=False):
            tried.append(second)
    assert tried == [0, 5, 15]
    assert outbox.dropped[Dropped.UNDELIVERABLE] == 1
    assert outbox.waiting == 0


def test_one_message_is_under_way_at_a_time() -> None:
    """The next comes out when the first is settled, and nothing can be settled twice."""
    outbox = Outbox(Policy(digest_s=0))
    outbox.offer(item(1), START_NS)
    outbox.offer(item(2), START_NS)
    assert outbox.next_message(START_NS) is not None
    assert outbox.next_message(START_NS) is None
    outbox.settle(ok=True, at_ns=START_NS)
    with pytest.raises(ValueError, match="under way"):
        outbox.settle(ok=True, at_ns=START_NS)


def test_a_clock_that_is_set_back_stops_nothing() -> None:
    """An hour back: digests close and the rate recovers within a minute."""
    outbox = Outbox(Policy(digest_s=10, per_minute=1))
    outbox.offer(item(), START_NS)
    assert len(sent(outbox, START_NS + 10 * NS)) == 1
    outbox.offer(item(), START_NS + 11 * NS)
    back_ns = START_NS - 3600 * NS
    assert sent(outbox, back_ns) == []
    assert outbox.wait_ns(back_ns) == MINUTE_NS
    assert len(sent(outbox, back_ns + MINUTE_NS)) == 1


@pytest.mark.parametrize("field", ["digest_s", "per_minute", "queue_max", "tries", "retry_s"])
def test_a_policy_without_sense_is_refused(field: str) -> None:
    """A rate of nothing would wait for ever."""
    with pytest.raises(ValueError, match=field):
        Policy(**{field: -1})


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 100), st.sampled_from([None, "a", "b", "c"])),
        st.tuples(st.just("send"), st.booleans(), st.none()),
        st.tuples(st.just("wait"), st.integers(0, 90), st.none()),
        st.tuples(st.just("back"), st.integers(0, 500), st.none()),
        st.tuples(st.just("flush"), st.none(), st.none()),
        st.tuples(st.just("restart"), st.none(), st.none()),
    ),
    max_size=60,
)


@given(
    steps=STEPS,
    policy=st.builds(
        Policy,
        digest_s=st.integers(0, 20),
        per_minute=st.integers(1, 5),
        queue_max=st.integers(1, 4),
        age_max_s=st.one_of(st.none(), st.integers(1, 200)),
        tries=st.integers(1, 3),
        retry_s=st.integers(0, 20),
    ),
)
def test_every_event_is_accounted_for(steps: list[Any], policy: Policy) -> None:
    """Whatever happens: offered = delivered + dropped + waiting, and the queue is bounded."""
    outbox, at_ns, under_way = Outbox(policy), START_NS, False
    for step, value, incident in steps:
        if step == "offer":
            outbox.offer(item(value, incident, at_ns), at_ns)
        elif step == "send":
            if under_way:
                outbox.settle(ok=value, at_ns=at_ns)
            under_way = outbox.next_message(at_ns) is not None
        elif step == "wait":
            at_ns += value * NS
        elif step == "back":
            at_ns -= value * NS
        elif step == "flush":
            outbox.flush(at_ns)
        else:
            waiting = outbox.waiting
            state = orjson.loads(orjson.dumps(outbox.snapshot()))
            outbox, under_way = Outbox(policy), False
            outbox.restore(state)
            assert outbox.offered == waiting
        counts = outbox.counts()
        dropped = sum(counts[reason] for reason in Dropped)
        assert counts["offered"] == counts["delivered"] + dropped + counts["waiting"]
        assert len(outbox.snapshot()) <= policy.queue_max + 1  # and the one under way
    # With time enough and a channel that works everything gets out.
    for _ in range(200):
        at_ns += 61 * NS
        if under_way:
            outbox.settle(ok=True, at_ns=at_ns)
        under_way = outbox.next_message(at_ns) is not None
    assert outbox.waiting == 0


def test_what_is_no_snapshot_is_refused() -> None:
    """A damaged state is an error."""
    for state in ({}, [1], [{"count": 1}], None):
        with pytest.raises(ValueError, match="waiting"):
            Outbox(Policy()).restore(state)
