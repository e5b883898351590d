"""What leaves a consumer for a channel, and when: digests, a bounded queue, a rate, retries.

Rules of this file: no clock, no file, no network: instants are given, in nanoseconds of a wall
clock that may be set back: that delays or hastens a message, it never doubles or loses one. Every
event that is offered ends in a message that was delivered, or is counted under one reason why not:
`offered = delivered + dropped + waiting`, at all times. Build plan 11.4; docs/consumer.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

NS = 1_000_000_000
LINES_MAX = 20  # of one message; the others are counted in its last line
_MINUTE_NS = 60 * NS


class Dropped(StrEnum):
    """Why an event was not delivered."""

    QUEUE_FULL = "queue_full"
    TOO_OLD = "too_old"
    UNDELIVERABLE = "undeliverable"


@dataclass(frozen=True, slots=True)
class Policy:
    """How a channel wants to be told.

    digest_s : events are gathered so long after the first, those of one incident in a message of
    their own; 0 is a message an event. per_minute : messages on average, and at once after a pause.
    queue_max : messages that may wait, open digests among them. age_max_s : what was decided
    earlier than this is not sent any more; None sends all. tries : of one message; the pause
    between them starts with retry_s and doubles, up to 64-fold.
    """

    digest_s: int = 10
    per_minute: int = 6
    queue_max: int = 100
    age_max_s: int | None = 3600
    tries: int = 6
    retry_s: int = 5

    def __post_init__(self) -> None:
        least = {"digest_s": 0, "per_minute": 1, "queue_max": 1, "tries": 1, "retry_s": 0}
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name}: expected at least {limit}, found {getattr(self, name)}")


class Item(msgspec.Struct, frozen=True):
    """An event as it is told: a line of text, and what decides about it."""

    emitted_ms: int
    severity: int
    line: str
    incident_id: str | None = None


class Message(msgspec.Struct, frozen=True):
    """Events that are told together; at most LINES_MAX of them are in `items`.

    count : of all events; severity : the highest; emitted_ms : of the newest. opened_ns : arrival
    of the first event. due_ns : not to be tried before.
    """

    incident_id: str | None
    opened_ns: int
    due_ns: int
    count: int
    severity: int
    emitted_ms: int
    items: tuple[Item, ...]
    tries: int = 0

    def title(self) -> str:
        """Return the message in one line.

        >>> item = Item(0, 97, "BTC spike.vol_spike_m_1 97")
        >>> Message(None, 0, 0, 3, 97, 0, (item,)).title()
        '3 events, severity up to 97'
        """
        if self.count == 1:
            return self.items[0].line
        of = "" if self.incident_id is None else f" of one incident ({self.incident_id})"
        return f"{self.count} events{of}, severity up to {self.severity}"

    def body(self) -> str:
        """Return a line an event, in the order they came."""
        lines = [item.line for item in self.items]
        if self.count > len(lines):
            lines.append(f"and {self.count - len(lines)} more, no more severe than these")
        return "\n".join(lines)


class Outbox:
    """The events on their way to one channel.

    `offer` takes an event, `next_message` gives out the message to send now, if any, and `settle`
    says how that went: one message is under way at a time.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.offered = 0
        self.delivered = 0
        self.messages = 0
        self.dropped = dict.fromkeys(Dropped, 0)
        self._open: dict[str | None, Message] = {}  # oldest first
        self._queue: list[Message] = []
        self._under_way: Message | None = None
        # The bucket of the rate limit, as the instant at which it would be full again.
        self._full_ns: int | None = None

    @property
    def waiting(self) -> int:
        """How many events are neither delivered nor dropped."""
        return sum(message.count for message in self._waiting())

    def offer(self, item: Item, at_ns: int) -> None:
        """Take an event that arrived at `at_ns`."""
        self.offered += 1
        if self._too_old(item.emitted_ms, at_ns):
            self.dropped[Dropped.TOO_OLD] += 1
            return
        group = self._open.get(item.incident_id)
        if group is not None and not self._is_due(group, at_ns):
            self._open[item.incident_id] = _joined(group, item)
            return
        self._close(at_ns)
        due_ns = at_ns + self.policy.digest_s * NS
        single = Message(
            item.incident_id, at_ns, due_ns, 1, item.severity, item.emitted_ms, (item,)
        )
        if self.policy.digest_s:
            self._open[item.incident_id] = single
        else:
            self._queue.append(single)
        self._trim()

    def next_message(self, at_ns: int) -> Message | None:
        """Return the message to send now, None if there is none; it is under way until settled."""
        self._close(at_ns)
        if self._under_way is not None or self.wait_ns(at_ns) != 0:
            return None
        while self._queue:
            place = min(range(len(self._queue)), key=lambda i: (self._queue[i].due_ns, i))
            message = self._queue[place]
            if not self._is_due(message, at_ns):
                return None
            del self._queue[place]
            if self._too_old(message.emitted_ms, at_ns):
                self.dropped[Dropped.TOO_OLD] += message.count
                continue
            self._under_way = message
            self._take_token(at_ns)
            return message
        return None

    def settle(self, *, ok: bool, at_ns: int) -> None:
        """Say how the message under way went; one that failed is tried again, or dropped."""
        message = self._under_way
        if message is None:
            raise ValueError("no message is under way")
        self._under_way = None
        tries = message.tries + 1
        if ok:
            self.delivered += message.count
            self.messages += 1
        elif tries >= self.policy.tries:
            self.dropped[Dropped.UNDELIVERABLE] += message.count
        else:
            pause_ns = self.policy.retry_s * NS << min(tries - 1, 6)
            again = msgspec.structs.replace(message, tries=tries, due_ns=at_ns + pause_ns)
            self._queue.insert(0, again)
            self._trim()

    def flush(self, at_ns: int) -> None:
        """Close every digest now; the rate limit stays."""
        for message in self._open.values():
            self._queue.append(msgspec.structs.replace(message, due_ns=at_ns))
        self._open.clear()
        self._trim()

    def wait_ns(self, at_ns: int) -> int:
        """Return how long the rate limit lasts from here, 0 if a message may go."""
        if self._full_ns is None:
            return 0
        # A bucket of n tokens with one more every minute / n: empty means full in a minute, and
        # more than a minute means that the clock was set back.
        self._full_ns = min(self._full_ns, at_ns + _MINUTE_NS)
        return max(0, self._full_ns - (at_ns + _MINUTE_NS - self._step_ns()))

    def snapshot(self) -> list[Any]:
        """Return what waits, as JSON values; what is under way may be sent once more."""
        built: list[Any] = msgspec.to_builtins(self._waiting())
        return built

    def restore(self, state: object) -> None:
        """Take over what waited; raises ValueError if it is no snapshot."""
        try:
            messages = msgspec.convert(state, list[Message])
        except msgspec.ValidationError as error:
            raise ValueError(f"no waiting messages: {error}") from error
        self._queue = messages
        self.offered += sum(message.count for message in messages)
        self._trim()

    def counts(self) -> dict[str, int]:
        """Return what became of the events, and how many messages were delivered."""
        dropped: Mapping[str, int] = {str(reason): n for reason, n in self.dropped.items()}
        return {
            "offered": self.offered,
            "delivered": self.delivered,
            "messages": self.messages,
            **dropped,
            "waiting": self.waiting,
        }

    # --- inside ---------------------------------------------------------------------------------

    def _waiting(self) -> list[Message]:
        under_way = [] if self._under_way is None else [self._under_way]
        return [*under_way, *self._queue, *self._open.values()]

    def _close(self, at_ns: int) -> None:
        """Move the digests whose time has come into the queue."""
        done = [key for key, message in self._open.items() if self._is_due(message, at_ns)]
        for key in done:
            self._queue.append(self._open.pop(key))

    def _trim(self) -> None:
        """Drop the least severe message, the oldest of several, while too many wait."""
        while len(self._queue) + len(self._open) > self.policy.queue_max:
            waiting = [*self._queue, *self._open.values()]
            least = min(waiting, key=lambda message: (message.severity, message.opened_ns))
            if any(message is least for message in self._queue):
                self._queue = [message for message in self._queue if message is not least]
            else:
                del self._open[least.incident_id]
            self.dropped[Dropped.QUEUE_FULL] += least.count

    def _is_due(self, message: Message, at_ns: int) -> bool:
        """Tell whether a message may go; one from the future was made before the clock was set."""
        return message.due_ns <= at_ns or message.opened_ns > at_ns

    def _too_old(self, emitted_ms: int, at_ns: int) -> bool:
        limit_s = self.policy.age_max_s
        return limit_s is not None and at_ns - emitted_ms * 1_000_000 > limit_s * NS

    def _step_ns(self) -> int:
        return _MINUTE_NS // self.policy.per_minute

    def _take_token(self, at_ns: int) -> None:
        full_ns = at_ns if self._full_ns is None else max(self._full_ns, at_ns)
        self._full_ns = full_ns + self._step_ns()


def _joined(message: Message, item: Item) -> Message:
    """Return a message with one more event; the least severe line gives way where it is full."""
    items = [*message.items, item]
    if len(items) > LINES_MAX:
        # The latest of the least severe goes, so that the first sign of something stays.
        items.remove(min(reversed(items), key=lambda each: each.severity))
    return msgspec.structs.replace(
        message,
        count=message.count + 1,
        severity=max(message.severity, item.severity),
        emitted_ms=max(message.emitted_ms, item.emitted_ms),
        items=tuple(items),
    )
