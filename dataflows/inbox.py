"""What a consumer of events decides, message by message: no clock, no file, no network.

Rules of this file: a message has exactly one verdict; what does not parse is a dead letter and
never an error; memory is bounded, and all of it is in the snapshot. The order of the questions is
part of the contract: does it parse, was it seen, is a later one of its key known, is it wanted. So
a filter that is changed between two runs changes what is shown and nothing else.
Build plan 11.3, 11.4, 11.6; docs/contract.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from operators.contract import EVENT_BYTES_MAX, ContractError, Event, parse

SEEN_MAX = 20_000  # ids; more than a mebibyte of events (EventFile.REWIND_BYTES) can hold
KEYS_MAX = 20_000  # debounce keys: 300 assets have 5,400
WINDOW_MS = 900_000
MUTED = 101  # a severity that no event has

Packs = tuple[str, str]
_Value = TypeVar("_Value")


class Verdict(StrEnum):
    """What becomes of a message."""

    SHOWN = "shown"
    DEAD = "dead"
    REPEATED = "repeated"
    SUPERSEDED = "superseded"
    NOT_SEVERE = "not_severe"
    OTHER_SYMBOL = "other_symbol"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are heard.

    severity_min : for classes that `by_class` does not name. by_class : class -> least severity;
    MUTED for none. symbols : None takes all.
    """

    severity_min: int = 0
    by_class: Mapping[str, int] = field(default_factory=dict)
    symbols: frozenset[str] | None = None

    def verdict(self, event: Event) -> Verdict:
        """Return SHOWN, or why not."""
        if self.symbols is not None and event.symbol not in self.symbols:
            return Verdict.OTHER_SYMBOL
        if event.severity < self.by_class.get(event.event_class, self.severity_min):
            return Verdict.NOT_SEVERE
        return Verdict.SHOWN


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and what belongs to it.

    event : None if it is a dead letter. reason : of a dead letter. packs : (detector pack, config
    hash) before and after, where this event is the first of others.
    """

    verdict: Verdict
    event: Event | None = None
    reason: str | None = None
    packs: tuple[Packs, Packs] | None = None


class Inbox:
    """Takes messages in the order of the topic.

    window_ms : of two events of one debounce key, the one decided earlier is ignored if it comes
    later and is older by up to this; what is older still is not late but another run. It compares
    `emitted_at`, so that a verdict depends on the messages alone.
    """

    def __init__(
        self,
        wanted: Wanted,
        *,
        window_ms: int = WINDOW_MS,
        seen_max: int = SEEN_MAX,
        keys_max: int = KEYS_MAX,
    ) -> None:
        self.wanted = wanted
        self._window_ms = window_ms
        self._seen_max = seen_max
        self._keys_max = keys_max
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._latest: OrderedDict[str, int] = OrderedDict()
        self._packs: Packs | None = None

    def take(self, message: bytes) -> Decision:
        """Return what becomes of a message; never raises."""
        try:
            event = read(message)
            emitted_ms = instant_ms(event.emitted_at)
        except ContractError as error:
            return Decision(Verdict.DEAD, reason=str(error))
        if event.event_id in self._seen:
            self._seen.move_to_end(event.event_id)
            return Decision(Verdict.REPEATED, event)
        _keep(self._seen, event.event_id, None, self._seen_max)
        latest_ms = self._latest.get(event.debounce_key)
        if latest_ms is not None and 0 < latest_ms - emitted_ms <= self._window_ms:
            return Decision(Verdict.SUPERSEDED, event)
        _keep(self._latest, event.debounce_key, emitted_ms, self._keys_max)
        return Decision(self.wanted.verdict(event), event, packs=self._pack_change(event))

    def _pack_change(self, event: Event) -> tuple[Packs, Packs] | None:
        before = self._packs
        now = (event.provenance.detector_pack, event.provenance.config_hash)
        self._packs = now
        return None if before is None or before == now else (before, now)

    def snapshot(self) -> dict[str, Any]:
        """Return all that is remembered, as JSON values; the oldest first."""
        return {
            "seen": list(self._seen),
            "latest": [[key, at] for key, at in self._latest.items()],
            "packs": None if self._packs is None else list(self._packs),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over an earlier snapshot; raises ValueError if it is none.

        A smaller memory than that of the snapshot keeps the newest.
        """
        try:
            seen = [_text(value) for value in state["seen"]]
            latest = [(_text(key), _whole(at)) for key, at in state["latest"]]
            packs = state["packs"]
            pair = None if packs is None else (_text(packs[0]), _text(packs[1]))
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"no state of a consumer: {type(error).__name__}: {error}") from error
        self._seen = OrderedDict.fromkeys(seen[-self._seen_max :])
        self._latest = OrderedDict(latest[-self._keys_max :])
        self._packs = pair


def read(message: bytes) -> Event:
    """Return the event of a message, within the size the contract allows; raises ContractError."""
    if len(message) > EVENT_BYTES_MAX:
        raise ContractError(
            f"event: expected at most {EVENT_BYTES_MAX} bytes, found {len(message)}"
        )
    return parse(message)


def instant_ms(text: str) -> int:
    """Return an instant of the contract as epoch milliseconds; raises ContractError.

    The pattern of the contract allows days that no calendar has.

    >>> instant_ms("1970-01-01T00:00:01.638Z"), instant_ms("1970-01-01T00:00:01Z")
    (1638, 1000)
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ContractError(f"emitted_at: expected a day of the calendar, found {text!a}") from None
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")


def _keep(memory: OrderedDict[str, _Value], key: str, value: _Value, limit: int) -> None:
    """Remember something as the newest and forget the oldest beyond the limit."""
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > limit:
        memory.popitem(last=False)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found {value!r:.40}")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected an integer, found {value!r:.40}")
    return value
