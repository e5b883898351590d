"""A reference consumer of the events topic: take, decide, tell, remember, in this order.

Rules of this file: the state is saved after what it says was done, so a kill can show or send
something once more and never lose it; the decisions are in `inbox.py` and `outbox.py`, the world is
behind a source, channels and files. A program of your own needs `inbox.py` and a source, no more.
Build plan 11.3 to 11.6; docs/consumer.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from dataflows.connectors.clock import Clock
from dataflows.connectors.dead_file import DeadFile
from dataflows.connectors.state_file import StateError, StateFile
from dataflows.connectors.topic_source import EventSource, Record
from dataflows.inbox import Decision, Inbox, Packs, Verdict, instant_ms
from dataflows.outbox import Item, Outbox
from operators.contract import Event

STATE_VERSION = 1
POLL_S = 0.5
DRAIN_S = 10.0  # how long an ending consumer tries to send what waits
_DRAIN_LOOK_S = 0.05
URGENT = 80  # messages from this severity are warnings


class Sender(Protocol):
    """A way to one channel; `dataflows/connectors/notify.py` has the one over apprise."""

    key: str
    name: str

    def send(self, title: str, body: str, *, urgent: bool) -> None:
        """Start to send."""

    def result(self) -> bool | None:
        """Return, once, how that went; None while it is under way or when nothing is."""

    def close(self) -> None:
        """Release everything."""


class Consumer:
    """Reads a source to its end, or for as long as `step` is called.

    show : prints an event that is wanted, given the event and its bytes. line : of an event, for
    channels. tell : takes what a user should know. state : None remembers nothing.
    """

    def __init__(
        self,
        source: EventSource,
        inbox: Inbox,
        dead: DeadFile,
        clock: Clock,
        *,
        show: Callable[[Event, bytes], None],
        tell: Callable[[str], None],
        line: Callable[[Event], str],
        channels: list[tuple[Sender, Outbox]] | None = None,
        state: StateFile | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(map(str, Verdict), 0))
        self.pack_changes = 0
        self._source = source
        self._inbox = inbox
        self._dead = dead
        self._clock = clock
        self._show = show
        self._tell = tell
        self._line = line
        self._channels = channels or []
        self._state = state
        # What waited for channels that this run has not: kept for the run that has them.
        self._foreign: dict[str, Any] = {}

    @property
    def source_key(self) -> str:
        """Return the name under which the source stands in the state."""
        return self._source.name

    def resume(self) -> bool:
        """Go on where the state ends; False if there is none. Raises StateError."""
        state = None if self._state is None else self._state.load()
        if state is None or self._state is None:
            return False
        if state.get("version") != STATE_VERSION:
            raise StateError(
                f"{self._state.path}: expected version {STATE_VERSION}, found"
                f" {state.get('version')!r}; give another file"
            )
        if state.get("source") != self._source.name:
            raise StateError(
                f"{self._state.path}: this is the state of {state.get('source')}, not of"
                f" {self._source.name}; give a state file of its own to each topic"
            )
        try:
            self._inbox.restore(state["inbox"])
            waiting = dict(state["waiting"])
            for sender, outbox in self._channels:
                outbox.restore(waiting.pop(sender.key, []))
            self._source.seek(state["position"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(
                f"{self._state.path}: not the state of a consumer ({error}); remove it to start"
                " anew"
            ) from error
        self._foreign = waiting
        return True

    def step(self, timeout_s: float = POLL_S) -> bool:
        """Take what is there; False if the end was reached and nothing came."""
        records = self._source.poll(timeout_s)
        for note in self._source.notes():
            self._tell(note)
        dead = self._take(records)
        self._dead.append(self._source.name, dead)
        sent = self._pump()
        if records or sent:
            self.save()
        return bool(records) or not self._source.at_end()

    def save(self) -> None:
        """Put on stable storage where we are."""
        if self._state is None:
            return
        waiting = {sender.key: outbox.snapshot() for sender, outbox in self._channels}
        self._state.save(
            {
                "version": STATE_VERSION,
                "source": self._source.name,
                "position": self._source.position(),
                "inbox": self._inbox.snapshot(),
                "waiting": {
                    **self._foreign,
                    **{key: told for key, told in waiting.items() if told},
                },
            }
        )

    def drain(self, seconds: float = DRAIN_S) -> None:
        """Close the digests and send what the rates allow; what is left stays in the state."""
        until_s = self._clock.monotonic_s() + seconds
        for _, outbox in self._channels:
            outbox.flush(self._clock.now_ns())
        while any(outbox.waiting for _, outbox in self._channels):
            if self._pump():
                continue
            if self._clock.monotonic_s() >= until_s:
                break
            self._clock.sleep(_DRAIN_LOOK_S)
        self.save()

    def close(self) -> None:
        """Release source and channels."""
        self._source.close()
        for sender, _ in self._channels:
            sender.close()

    def report(self) -> Mapping[str, Any]:
        """Return what became of everything so far."""
        return {
            "source": self._source.name,
            "messages": sum(self.counts.values()),
            "verdicts": dict(self.counts),
            "pack_changes": self.pack_changes,
            "channels": {sender.name: outbox.counts() for sender, outbox in self._channels},
        }

    def _take(self, records: list[Record]) -> list[tuple[Record, str]]:
        """Decide on each record and tell of it; return those that could not be read."""
        dead = []
        for record in records:
            decision = self._inbox.take(record.value)
            self.counts[decision.verdict] += 1
            if decision.reason is not None:
                dead.append((record, decision.reason))
                self._tell(f"dead letter at {record.partition}/{record.offset}: {decision.reason}")
            if decision.packs is not None and decision.event is not None:
                self.pack_changes += 1
                self._tell(pack_change(decision.event, *decision.packs))
            self._publish(decision, record.value)
        return dead

    def _publish(self, decision: Decision, value: bytes) -> None:
        event = decision.event
        if decision.verdict is not Verdict.SHOWN or event is None:
            return
        self._show(event, value)
        if self._channels:
            emitted_ms = instant_ms(event.emitted_at)
            item = Item(emitted_ms, event.severity, self._line(event), event.incident_id)
            at_ns = self._clock.now_ns()
            for _, outbox in self._channels:
                outbox.offer(item, at_ns)

    def _pump(self) -> bool:
        """Settle what was sent and send what is due; tell whether anything was settled."""
        settled = False
        for sender, outbox in self._channels:
            ok = sender.result()
            at_ns = self._clock.now_ns()
            if ok is not None:
                outbox.settle(ok=ok, at_ns=at_ns)
                settled = True
                if not ok:
                    self._tell(f"{sender.name}: a message was not taken")
            message = outbox.next_message(at_ns)
            if message is not None:
                sender.send(message.title(), message.body(), urgent=message.severity >= URGENT)
        return settled


def pack_change(event: Event, before: Packs, after: Packs) -> str:
    """Return one line about an event that is the first of other packs."""
    (pack, config), (new_pack, new_config) = before, after
    return (
        f"packs changed at {event.emitted_at}: detector pack {pack} -> {new_pack}, config"
        f" {_short(config)} -> {_short(new_config)}, producer {event.provenance.producer}"
    )


def _short(config_hash: str) -> str:
    return config_hash.removeprefix("sha256:")[:12]
