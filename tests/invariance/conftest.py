"""Whole logs, the plain loop over them, and what two results differ in, column by column.

A log is a list of `Message`s; a test changes it in a way that must not matter (or must matter in
named columns only), runs both, and compares every row of every timeframe with all its columns and
extras, and every frame, by the names that are there: a new column is covered without a new test.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson
import pytest
from hypothesis import Phase, settings

from fixtures.market import AssetSpec, Episode, FrameOptions, Scenario, default_assets, lines
from operators.feed import FeedReader, FeedState
from operators.lattice import minute_of
from operators.loop import Loop
from operators.publish import event_json, frame_json, row_json, suppression_json
from operators.records import Frame, MarketPhase, Published, Row
from packs.loader import Packs, load_packs

# Few examples, as each is a whole log; what fails is named by column, so nothing is shrunk.
FEW = settings(max_examples=3, phases=(Phase.explicit, Phase.reuse, Phase.generate))
MINUTE_MS = 60_000
DAY_MS = 86_400_000
# 23:40 UTC: the 40 minutes hold three quarter hours, two of them whole, and midnight.
START_MS = 1_790_000_000_000 // DAY_MS * DAY_MS - 20 * MINUTE_MS
PONG = {"channel": "pong"}
CONTROL = ("alpha.clock", "alpha.roster", "alpha.gap", "pong", "subscriptionResponse")


# --- logs ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    """A line of a log: its arrival stamp and its decoded frame."""

    stamp_ns: int
    frame: dict[str, Any]

    @property
    def channel(self) -> str:
        """Channel of the frame."""
        return str(self.frame["channel"])

    @property
    def data(self) -> Any:
        """What the channel carries; None where it carries nothing."""
        return self.frame.get("data")

    @cached_property
    def line(self) -> bytes:
        """The line as the reader of a log gets it."""
        return b"%d %b" % (self.stamp_ns, json.dumps(self.frame).encode())

    @property
    def arrival_ms(self) -> int:
        """Arrival stamp in ms."""
        return self.stamp_ns // 1_000_000

    @property
    def time_ms(self) -> int:
        """Venue time, of a trades frame that of its newest print; arrival where there is none."""
        if self.channel == "trades":
            return max(int(entry["time"]) for entry in self.data)
        if self.channel in ("bbo", "l2Book"):
            return int(self.data["time"])
        return self.arrival_ms

    @property
    def coin(self) -> str | None:
        """Coin of a market frame; the generator never mixes coins in a trades frame."""
        if self.channel == "trades":
            return str(self.data[0]["coin"])
        if self.channel in ("bbo", "l2Book", "activeAssetCtx"):
            return str(self.data["coin"])
        return None

    def at(self, stamp_ns: int) -> Message:
        """Return the same frame with another arrival."""
        return Message(stamp_ns, self.frame)

    def saying(self, data: Any) -> Message:
        """Return a frame of the same channel and arrival with other data."""
        return Message(self.stamp_ns, {"channel": self.channel, "data": data})


Log = list[Message]


def parse(texts: Iterable[bytes]) -> Log:
    """Return the messages of some lines."""
    found = []
    for text in texts:
        stamp, _, frame = text.partition(b" ")
        found.append(Message(int(stamp), json.loads(frame)))
    return found


def by_arrival(messages: Iterable[Message]) -> Log:
    """Return messages in the order of their stamps; those of one stamp keep their order."""
    return sorted(messages, key=lambda message: message.stamp_ns)


def specs() -> tuple[AssetSpec, ...]:
    """Return two majors with books, a mid name, and one that is quiet half of the time."""
    known = {spec.coin: spec for spec in default_assets(14)}
    chosen = [known[coin] for coin in ("BTC", "ETH", "XRP", "PURR")]
    thinner = {"BTC": 8.0, "ETH": 7.0, "XRP": 5.0, "PURR": 1.5}
    return tuple(
        dataclasses.replace(spec, uid=uid, orders=thinner[spec.coin])
        for uid, spec in enumerate(chosen)
    )


def small_scenario() -> Scenario:
    """Return 40 minutes of four assets: quotes, books, contexts, an outage, episodes."""
    return Scenario(
        seed=11,
        start_ms=START_MS,
        minutes=40,
        assets=specs(),
        episodes=(
            Episode("squeeze", 18, 3, ("XRP",)),
            Episode("feed_outage", 24, 2),
            Episode("basket_shock", 33, 2, strength=-1.0),
        ),
        frames=FrameOptions(quote_ms=(2400, 6000, 6000, 10_000), book_ms=10_000, ctx_ms=12_000),
    )


def long_scenario() -> Scenario:
    """Return 256 thin minutes of two assets: past the warm-up of the shipped pack."""
    chosen = tuple(
        dataclasses.replace(spec, uid=uid, orders=5.0)
        for uid, spec in enumerate((specs()[0], specs()[2]))
    )
    return Scenario(
        seed=5,
        start_ms=START_MS - 180 * MINUTE_MS,
        minutes=256,
        assets=chosen,
        episodes=(
            Episode("squeeze", 226, 4, ("XRP",)),
            Episode("feed_outage", 236, 2),
            Episode("basket_shock", 246, 2, strength=-1.0),
        ),
        frames=FrameOptions(quote_ms=(2500, 10_000, 10_000, 10_000), book_ms=12_000, ctx_ms=15_000),
    )


# --- rough handling --------------------------------------------------------------------------

DATED_BY_VENUE = ("trades", "bbo", "l2Book")
IN_GRACE_MS = (1600, 2900)  # after the close: behind the seal, before the minute is final


def closes_ms(message: Message) -> int:
    """Return the label of the minute a message belongs to by its venue time."""
    return minute_of(message.time_ms)


def tardy(log: Log, *, tail_ms: int, every: int, after_ms: tuple[int, int]) -> Log:
    """Return a log in which some messages of the last moments of each minute come late.

    An answer to a ping takes their place: the socket was alive.
    tail_ms : how long before the close the venue dated them. every : one in so many of them.
    after_ms : they arrive this long after the close, spread over the range in their old order.
    """
    late: list[int] = [
        index
        for index, message in enumerate(log)
        if message.channel in DATED_BY_VENUE
        and message.arrival_ms - message.time_ms < tail_ms
        and closes_ms(message) - message.time_ms <= tail_ms
        and message.arrival_ms < closes_ms(message) + after_ms[0]
    ]
    moved = dict.fromkeys(late[::every])
    found = []
    low, high = after_ms
    for index, message in enumerate(log):
        if index in moved:
            close = closes_ms(message)
            wait = low + (high - low) * (message.time_ms - close + tail_ms) // tail_ms
            found.append(message.at((close + wait) * 1_000_000 + message.stamp_ns % 1_000_000))
            found.append(Message(message.stamp_ns, PONG))
        else:
            found.append(message)
    return by_arrival(found)


# Offsets from a close, ms: its very edge, what arrives before the seal, and a burst in mid-minute.
BURSTS = (-1, 0, 30, 700)
MID_BURSTS = (23_000, 23_080, 23_300)


def bursts(log: Log, *, from_ms: int = 0) -> Log:
    """Return a log in which every coin says something new on every channel around each close.

    Dated in the last millisecond, at the close and just after it, arriving before the minute
    seals; and in every third minute a burst, so that there is an order to disturb. Nothing while
    the socket is down. from_ms : the first close.
    """
    newest: dict[tuple[str, str], Message] = {}
    extra: Log = []
    label, number, down = max(closes_ms(log[0]), from_ms), 0, False
    for message in log:
        while message.arrival_ms >= label:
            often = label // MINUTE_MS % 3 == 0
            for latest in () if down else newest.values():
                for after_ms in (*BURSTS, *(MID_BURSTS if often else ())):
                    number += 1
                    extra += echo(latest, label + after_ms, number)
            label += MINUTE_MS
        if message.channel == "alpha.gap":
            down = message.data["end_ms"] is None
        if message.coin is not None:
            newest[message.coin, message.channel] = message
    return by_arrival([*log, *extra])


def echo(message: Message, at_ms: int, number: int) -> Log:
    """Return a message like an earlier one, a little up or down, of another time.

    Contexts are dated by arrival: they arrive at that very moment.
    """
    data = message.data
    factor = 1.0 + 2e-5 * (number % 7 - 3)
    if message.channel == "activeAssetCtx":
        return [message.at(at_ms * 1_000_000)]
    if message.channel == "trades":
        tid = 5_000_000_000_000_000 + number
        data = [{**data[-1], "px": scaled(data[-1]["px"], factor), "time": at_ms, "tid": tid}]
    elif message.channel == "bbo":
        data = {**data, "time": at_ms, "bbo": [moved(level, factor) for level in data["bbo"]]}
    else:
        sides = [[moved(level, factor) for level in side] for side in data["levels"]]
        data = {**data, "time": at_ms, "levels": sides}
    return [message.at((at_ms + 330) * 1_000_000 + number).saying(data)]


def reticent(log: Log) -> Log:
    """Return a log in which two coins say nothing on some channels until a close passes.

    What comes first is then dated just after a minute that knew nothing.
    """
    silent_min = {("XRP", "activeAssetCtx"): 3, ("PURR", "bbo"): 2, ("PURR", "trades"): 2}
    until_ms = {who: START_MS + minutes * MINUTE_MS for who, minutes in silent_min.items()}
    return [
        message
        for message in log
        if message.time_ms >= until_ms.get((str(message.coin), message.channel), 0)
    ]


def scaled(text: str, factor: float) -> str:
    """Return a number as the venue writes it, multiplied."""
    return f"{float(text) * factor:.9f}"


def moved(level: dict[str, Any] | None, factor: float) -> dict[str, Any] | None:
    """Return a price level with its price multiplied, and its size by the opposite."""
    if level is None:
        return None
    return {**level, "px": scaled(level["px"], factor), "sz": scaled(level["sz"], 2.0 - factor)}


def rough(log: Log) -> Log:
    """Return a log with late and too late messages, repeated frames and contradictions."""
    log = tardy(log, tail_ms=2000, every=3, after_ms=IN_GRACE_MS)
    log = tardy(log, tail_ms=1000, every=7, after_ms=(3200, 6000))
    extra = []
    for index, message in enumerate(log):
        if message.channel in DATED_BY_VENUE and index % 29 == 0:
            extra.append(message.at(message.stamp_ns + 900_000_000))
        if message.channel == "bbo" and index % 31 == 0:
            bid, ask = message.data["bbo"]
            extra.append(message.saying({**message.data, "bbo": [ask, bid]}))
    return by_arrival([*log, *extra])


# --- a run -----------------------------------------------------------------------------------

Output = MarketPhase | Published


@dataclass
class Outcome:
    """Everything a log gave, in order; `after[i]` is how many outputs there were after line i."""

    outputs: list[Output] = field(default_factory=list)
    after: list[int] = field(default_factory=list)

    @property
    def texts(self) -> list[bytes]:
        """The bytes of all products, in the order in which they came."""
        return [text for output in self.outputs for text in texts_of(output)]

    def rows(self) -> list[Row]:
        """Return the rows in the order in which they came."""
        return [r for o in self.outputs if isinstance(o, MarketPhase) for r in o.rows]

    def frames(self) -> list[Frame]:
        """Return the market frames in the order in which they came."""
        return [f for o in self.outputs if isinstance(o, MarketPhase) for f in o.frames]

    def events(self) -> list[dict[str, Any]]:
        """Return the events in the order in which they came."""
        return [e for o in self.outputs if isinstance(o, Published) for e in o.events]


def texts_of(output: Output) -> Iterator[bytes]:
    """Yield the bytes of one phase's products."""
    if isinstance(output, MarketPhase):
        yield from map(row_json, output.rows)
        yield from map(frame_json, output.frames)
    else:
        yield from map(event_json, output.events)
        yield from map(suppression_json, output.suppressed)


class Replay:
    """The plain loop behind the reader of a log, with a position that can be forked."""

    def __init__(self, packs: Packs, reader_state: FeedState | None = None) -> None:
        lattice = packs.features.lattice
        self._packs = packs
        self._reader = FeedReader(
            reader_state or FeedState(),
            lateness_ms=lattice.lateness_ms,
            grace_ms=lattice.grace_ms,
            arrival_jump_gap_ms=lattice.arrival_jump_gap_ms,
        )
        self._loop = Loop(packs, "test")

    def read(self, texts: Sequence[bytes]) -> list[Output]:
        """Return what some more lines give."""
        return self._loop.ticks(self._reader.read(texts))

    def fork(self) -> Replay:
        """Return an independent replay that goes on from here: state is all that is no step."""
        state = {name: v for name, v in vars(self._loop).items() if not hasattr(v, "step")}
        twin = Replay(self._packs, pickle.loads(pickle.dumps(self._reader.state)))
        vars(twin._loop).update(pickle.loads(pickle.dumps(state)))
        return twin


def run_lines(packs: Packs, texts: Sequence[bytes], sizes: Iterable[int] = ()) -> Outcome:
    """Drive the plain loop with chunks of the given sizes, then the rest in one."""
    replay, outcome, at = Replay(packs), Outcome(), 0
    for size in (*sizes, len(texts)):
        chunk = texts[at : at + size]
        outcome.outputs += replay.read(chunk)
        outcome.after += [len(outcome.outputs)] * len(chunk)
        at += size
        if at >= len(texts):
            break
    return outcome


Run = Callable[[Sequence[Message]], Outcome]


def run_with(packs: Packs) -> Run:
    """Return a function from a log to its outcome, under these packs."""
    return lambda messages: run_lines(packs, [message.line for message in messages])


# --- what differs ----------------------------------------------------------------------------

SORTED = orjson.OPT_SORT_KEYS
Flat = dict[str, Any]
Key = tuple[Any, ...]
Table = dict[Key, Flat]


def flat_row(row: Row) -> Flat:
    """Return every value of a row by name, extras as `extras.<name>` and `extras.<name>.<key>`."""
    extras: Flat = {}
    for name, value in row.extras.items():
        inner = value if isinstance(value, dict) else {"": value}
        extras |= {f"extras.{name}.{key}".rstrip("."): part for key, part in inner.items()}
    return {"symbol": row.symbol, **row.columns, **extras}


def flat_frame(frame: Frame) -> Flat:
    """Return every value of a frame by name, prefixed."""
    extras = {f"frame.extras.{name}": value for name, value in frame.extras.items()}
    return {**{f"frame.{name}": value for name, value in frame.columns.items()}, **extras}


def table(outcome: Outcome, *, last_revision: bool = False, upto_ms: int | None = None) -> Table:
    """Return rows and frames by identity; with `last_revision` only what stands in the end.

    upto_ms : newest label to take.
    """
    found: Table = {}
    for row in outcome.rows():
        if upto_ms is None or row.exchange_ts_ms <= upto_ms:
            revision = () if last_revision else (row.revision,)
            key = (row.asset_uid, row.tf, row.exchange_ts_ms, *revision)
            assert last_revision or key not in found, key
            found[key] = flat_row(row)
    for frame in outcome.frames():
        if upto_ms is None or frame.exchange_ts_ms <= upto_ms:
            revision = () if last_revision else (frame.revision,)
            found["frame", frame.tf, frame.exchange_ts_ms, *revision] = flat_frame(frame)
    return found


def differences(before: Table, after: Table) -> dict[str, list[Key]]:
    """Return the columns that differ, each with the rows where it does; {} when nothing does.

    A row that only one of them has is reported under `(row)`, as is a column under its own name.
    """
    found: dict[str, list[Key]] = {}
    for key in before.keys() | after.keys():
        ours, theirs = before.get(key), after.get(key)
        if ours is None or theirs is None:
            found.setdefault("(row)", []).append(key)
        elif not same(ours, theirs):
            for name in ours.keys() | theirs.keys():
                if not same(ours.get(name, "(absent)"), theirs.get(name, "(absent)")):
                    found.setdefault(name, []).append(key)
    return {name: sorted(found[name], key=str)[:4] for name in sorted(found)}


def first_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> str | None:
    """Say where two lists of products differ first, None when they do not; they may be long."""
    for place, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return f"{place}: {one!r} is not {other!r}"
    if len(ours) != len(theirs):
        return f"{len(ours)} products, not {len(theirs)}"
    return None


def same(a: Any, b: Any) -> bool:
    """Tell whether two values have the same bytes: 1 is not 1.0, 0.0 is not -0.0."""
    return orjson.dumps(a, option=SORTED) == orjson.dumps(b, option=SORTED)


def without(found: dict[str, list[Key]], *names: str) -> dict[str, list[Key]]:
    """Return the differences beside the named columns."""
    return {name: keys for name, keys in found.items() if name not in names}


# --- fixtures --------------------------------------------------------------------------------


def quick(packs: Packs) -> Packs:
    """Return the packs with a warm-up of eight samples and medians of a single completed day.

    A short log then has z, q and events, and one with a midnight has the gates' daily medians.
    """
    old = packs.features
    robust = old.robust.model_copy(update={"min_samples": 8})
    illiquidity = old.illiquidity.model_copy(update={"median_days": 1})
    features = old.model_copy(update={"robust": robust, "illiquidity": illiquidity})
    return dataclasses.replace(packs, features=features)


@pytest.fixture(scope="session")
def shipped_packs() -> Packs:
    """Return the shipped packs."""
    return load_packs()


@pytest.fixture(scope="session")
def quick_packs(shipped_packs: Packs) -> Packs:
    """Return the shipped packs with a short warm-up."""
    return quick(shipped_packs)


@pytest.fixture(scope="session")
def touchy_packs(quick_packs: Packs) -> Packs:
    """Return quick packs whose gates sit at the medians: the least change of them shows."""
    illiquidity = quick_packs.features.illiquidity.model_copy(
        update={
            "v_min_quote": 1.0,
            "v_min_median_share": 1.0,
            "spread_cap_median_multiple": 1.0,
            "near_factor": 1.05,
        }
    )
    features = quick_packs.features.model_copy(update={"illiquidity": illiquidity})
    return dataclasses.replace(quick_packs, features=features)


@pytest.fixture(scope="session")
def small_log() -> Log:
    """Return the messages of the small scenario, with bursts, of which some begin at a close."""
    return reticent(bursts(parse(lines(small_scenario()))))


@pytest.fixture(scope="session")
def small_run(small_log: Log, quick_packs: Packs) -> Outcome:
    """Return what the small log gives, line by line."""
    return run_lines(quick_packs, [m.line for m in small_log], [1] * len(small_log))


@pytest.fixture(scope="session")
def rough_log(small_log: Log) -> Log:
    """Return the small log with late, repeated and contradicting messages."""
    return rough(small_log)


@pytest.fixture(scope="session")
def rough_run(rough_log: Log, quick_packs: Packs) -> Outcome:
    """Return what the rough log gives, line by line; it has amended rows and dropped messages."""
    outcome = run_lines(quick_packs, [m.line for m in rough_log], [1] * len(rough_log))
    assert len([row for row in outcome.rows() if row.revision == 1]) >= 20
    assert outcome.events()
    return outcome


@pytest.fixture(scope="session")
def long_log() -> Log:
    """Return the messages of the long scenario, with bursts once it is warm."""
    scenario = long_scenario()
    return bursts(parse(lines(scenario)), from_ms=scenario.start_ms + 210 * MINUTE_MS)


@pytest.fixture(scope="session")
def long_run(long_log: Log, shipped_packs: Packs) -> Outcome:
    """Return what the long log gives; at its end every z is known and there are events."""
    outcome = run_with(shipped_packs)(long_log)
    row = next(row for row in reversed(outcome.rows()) if row.tf == "1m")
    assert row.columns["warmup"] is False
    assert outcome.events()
    return outcome
