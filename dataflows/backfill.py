"""The venue's candles: what to ask, what an answer holds, and what the ticks lack beside it.

Rules of this file: no clock, server or network; a candle is raw OHLCV and nothing else is ever made
of it; a minute is named by its close, as everywhere, and counts once, for the first gap that
touches it; what the ticks hold in base coins is known only within the range of their prices, so a
missing volume is a pair of bounds, which meet where the ticks hold nothing. Build plan 3.6, 16.1,
16.2, 16.5; venue reference 3.4, 5.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import orjson

from operators.kernel import round12
from operators.lattice import MINUTE_MS, minute_of
from operators.wire import PX_MAX, SZ_MAX

INTERVAL = "1m"
BOOTSTRAP, REPAIR = "bootstrap", "repair"
SOURCES = {BOOTSTRAP: "candle_snapshot", REPAIR: "backfill"}

# The venue keeps about 5,000 candles (5,010 to 5,047 were seen) and cuts a request to the newest.
KEPT_MINUTES = 5000
# A candle is believed so long after its close: blocks reach the venue's own store within a second.
SETTLE_MS = 10_000
REQUEST_WEIGHT = 20
ITEMS_PER_WEIGHT = 60  # a longer answer costs one more for so many candles

# Candles carry the dust of binary floats in the twelfth digit, rows are rounded to twelve.
TOLERANCE = 1e-9

NOT_A_CANDLE = "not_a_candle"
WRONG_COIN = "wrong_coin"
OFF_LATTICE = "off_lattice"
BAD_NUMBER = "bad_number"
PRICES_AT_ODDS = "prices_at_odds"
TWICE = "twice"
UNKNOWN_COIN = "unknown_coin"

HOLED = "gap"
UNSURE = frozenset((HOLED, "outage", "resync", "late"))  # a row that has these lacks prints


class Coin(NamedTuple):
    """An asset by its two names."""

    uid: int
    name: str


@dataclass(frozen=True, slots=True)
class Candle:
    """A closed minute of the venue: prices in quote, volume in base coins, number of prints."""

    label_ms: int
    open: float
    high: float
    low: float
    close: float
    volume_base: float
    trades: int


@dataclass(frozen=True, slots=True)
class Built:
    """A minute as it was built from ticks; a row without prints has prices of the book.

    volume_quote, trades : None where trades are not subscribed. reasons : of its verdict.
    """

    label_ms: int
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume_quote: float | None
    trades: int | None
    reasons: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether every print of the minute should be in it."""
        return self.trades is not None and UNSURE.isdisjoint(self.reasons)

    def base_bounds(self) -> tuple[float, float]:
        """Return the least and the most base coins that its prints can have had."""
        if not self.trades or not self.volume_quote or not self.low or not self.high:
            return 0.0, 0.0
        return self.volume_quote / self.high, self.volume_quote / self.low


# --- what to ask -----------------------------------------------------------------------------


class Run(NamedTuple):
    """Neighbouring minutes, by their first and last close."""

    first_ms: int
    last_ms: int


def labels_between(since_ms: int, until_ms: int) -> range:
    """Return the closes in (since, until].

    >>> list(labels_between(0, 120_000)), list(labels_between(1, 59_999))
    ([60000, 120000], [])
    """
    return range(minute_of(since_ms), until_ms + 1, MINUTE_MS)


def closed_before(now_ms: int) -> int:
    """Return the newest close whose candle is believed."""
    return (now_ms - SETTLE_MS) // MINUTE_MS * MINUTE_MS


def kept_after(now_ms: int) -> int:
    """Return the close before the oldest that the venue still keeps."""
    return closed_before(now_ms) - KEPT_MINUTES * MINUTE_MS


def requests_for(labels: Iterable[int]) -> list[Run]:
    """Return the cheapest requests that cover the minutes: a request more costs as much as the
    candles of twenty hours.

    >>> requests_for([60_000, 120_000, 300_000])
    [Run(first_ms=60000, last_ms=300000)]
    """
    runs: list[Run] = []
    for label in sorted(labels):
        if runs and _worth_joining(runs[-1], label):
            runs[-1] = Run(runs[-1].first_ms, label)
        else:
            runs.append(Run(label, label))
    return runs


def _worth_joining(run: Run, label: int) -> bool:
    between = (label - run.last_ms) // MINUTE_MS
    whole = (label - run.first_ms) // MINUTE_MS + 1
    return between <= REQUEST_WEIGHT * ITEMS_PER_WEIGHT and whole <= KEPT_MINUTES


@dataclass(frozen=True)
class Ask:
    """What a job is for: asset-minutes, by asset in the order of the ids."""

    kind: str
    labels: Mapping[Coin, Sequence[int]]

    @property
    def minutes(self) -> int:
        """How many asset-minutes there are."""
        return sum(len(labels) for labels in self.labels.values())

    @property
    def span(self) -> Run:
        """The first and the last minute; there must be one."""
        return Run(
            min(labels[0] for labels in self.labels.values()),
            max(labels[-1] for labels in self.labels.values()),
        )

    @property
    def job_id(self) -> str:
        """Digest of it: who asks the same again means the same job."""
        asked = [[coin.uid, coin.name, *_edges(self.labels[coin])] for coin in sorted(self.labels)]
        text = orjson.dumps([self.kind, INTERVAL, asked])
        return hashlib.sha256(text).hexdigest()[:16]


def _edges(labels: Sequence[int]) -> list[int]:
    """Return where runs of neighbouring minutes begin and end."""
    edges: list[int] = []
    for label in labels:
        if edges and label - edges[-1] == MINUTE_MS:
            edges[-1] = label
        else:
            edges += [label, label]
    return edges


# --- what came -------------------------------------------------------------------------------


class _WireCandle(msgspec.Struct):
    t: int
    s: str
    i: str
    o: float
    c: float
    h: float
    l: float  # noqa: E741 - the venue's name
    v: float
    n: int


_decode_candle = msgspec.json.Decoder(_WireCandle, strict=False).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw] | None).decode


@dataclass
class Answer:
    """The candles of one answer, ascending, and what was not one, by reason."""

    candles: list[Candle] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)


def parse_candles(answer: bytes, coin: str, wanted: Collection[int]) -> Answer:
    """Return the wanted candles of a `candleSnapshot` answer; others are passed over.

    A bad entry costs only itself; of two candles of a minute none is believed. An unknown coin is
    answered with null. Raises `ValueError` where the answer is no list.
    """
    found = Answer()
    try:
        entries = _decode_list(answer)
    except msgspec.DecodeError as error:
        raise ValueError(f"expected a list of candles, found {error}") from None
    if entries is None:
        found.rejected[UNKNOWN_COIN] += 1
        return found
    by_label: dict[int, Candle] = {}
    twice: set[int] = set()
    for entry in entries:
        candle = _candle(entry, coin)
        if isinstance(candle, str):
            found.rejected[candle] += 1
        elif candle.label_ms in wanted:
            if candle.label_ms in by_label:
                twice.add(candle.label_ms)
            by_label[candle.label_ms] = candle
    found.rejected[TWICE] += len(twice)
    found.rejected = +found.rejected
    found.candles = [by_label[label] for label in sorted(by_label) if label not in twice]
    return found


def _candle(entry: msgspec.Raw, coin: str) -> Candle | str:
    """Return the candle of an entry, or the reason why it is none."""
    try:
        wire = _decode_candle(entry)
    except msgspec.DecodeError:
        return NOT_A_CANDLE
    if (wire.s, wire.i) != (coin, INTERVAL):
        return WRONG_COIN
    if wire.t % MINUTE_MS:
        return OFF_LATTICE
    prices = (wire.o, wire.h, wire.l, wire.c)
    if not all(0.0 < px <= PX_MAX for px in prices) or not 0.0 <= wire.v <= SZ_MAX or wire.n < 0:
        return BAD_NUMBER
    if not (wire.l <= min(wire.o, wire.c) and max(wire.o, wire.c) <= wire.h):
        return PRICES_AT_ODDS
    o, h, low, c, v = map(round12, (*prices, wire.v))
    return Candle(wire.t + MINUTE_MS, o, h, low, c, v, wire.n)


# --- candles beside ticks --------------------------------------------------------------------


def differences(built: Built, candle: Candle) -> tuple[str, ...]:
    """Return the columns in which a minute that was built whole and its candle differ.

    Without prints there is nothing to compare but that: the candle repeats the last close, the row
    has the prices of the book.
    """
    assert built.whole, built
    differing = []
    if built.trades != candle.trades:
        differing.append("trade_count")
    least, most = built.base_bounds()
    if not least * (1 - TOLERANCE) <= candle.volume_base <= most * (1 + TOLERANCE):
        differing.append("volume")
    if built.trades and candle.trades:
        for name in ("open", "high", "low", "close"):
            if not _same(getattr(built, name), getattr(candle, name)):
                differing.append(name)
    return tuple(differing)


def _same(one: float | None, other: float) -> bool:
    return one is not None and math.isclose(one, other, rel_tol=TOLERANCE)


@dataclass
class Divergence:
    """How many minutes had both a whole row and a candle, and how many differ in which column.

    first : (symbol, close, columns) of the first few that differ.
    """

    compared: int = 0
    divergent: int = 0
    columns: Counter[str] = field(default_factory=Counter)
    first: list[tuple[str, int, tuple[str, ...]]] = field(default_factory=list)

    SHOWN_MAX = 10

    def add(self, coin: str, built: Mapping[int, Built], candles: Mapping[int, Candle]) -> None:
        """Compare the minutes of an asset."""
        for label in sorted(built.keys() & candles.keys()):
            if not built[label].whole:
                continue
            self.compared += 1
            if columns := differences(built[label], candles[label]):
                self.divergent += 1
                self.columns.update(columns)
                if len(self.first) < self.SHOWN_MAX:
                    self.first.append((coin, label, columns))


# --- what gaps have cost ---------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Gap:
    """A hole of a recording on the arrival clock, as in the table `gap`; None: it lasts."""

    started_ms: int
    ended_ms: int | None
    cause: str
    feed: str

    def labels(self) -> range:
        """Return the minutes that it makes stale; none while it lasts.

        >>> list(Gap(59_999, 60_001, "disconnect", "ticks").labels())
        [60000, 120000]
        >>> list(Gap(60_000, 120_000, "disconnect", "ticks").labels())
        [120000]
        """
        if self.ended_ms is None:
            return range(0)
        return range(minute_of(self.started_ms), self.ended_ms + MINUTE_MS, MINUTE_MS)


def own_minutes(gaps: Iterable[Gap]) -> dict[Gap, tuple[int, ...]]:
    """Return the minutes that count for each gap: of several that share one, the first has it."""
    taken: dict[str, set[int]] = {}
    own: dict[Gap, tuple[int, ...]] = {}
    for gap in sorted(gaps, key=lambda gap: (gap.feed, gap.started_ms, gap.cause)):
        before = taken.setdefault(gap.feed, set())
        own[gap] = tuple(label for label in gap.labels() if label not in before)
        before.update(own[gap])
    return own


@dataclass(frozen=True)
class Missed:
    """What the ticks of an asset lack over the minutes of a gap; columns of `gap_reconciliation`.

    volume_missing_quote : an estimate, the middle of the bounds at the middle of each candle's
    range. low_missed, high_missed : extremes of the candles that the ticks did not reach, None if
    they did.
    """

    minutes: int = 0
    minutes_without_candle: int = 0
    minutes_without_row: int = 0
    trades_venue: int = 0
    trades_missing: int = 0
    trades_surplus: int = 0
    volume_venue_base: float = 0.0
    volume_missing_base_min: float = 0.0
    volume_missing_base_max: float = 0.0
    volume_missing_quote: float = 0.0
    low_missed: float | None = None
    high_missed: float | None = None

    def columns(self) -> dict[str, Any]:
        """Return the values by column."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def missed(
    labels: Iterable[int], built: Mapping[int, Built], candles: Mapping[int, Candle]
) -> Missed:
    """Return what the ticks lack over some minutes; of one without a candle nothing is known."""
    labels = tuple(labels)
    known = [candles[label] for label in labels if label in candles]
    lacks = [_lack(built.get(candle.label_ms), candle) for candle in known]
    lows = [lack.low for lack in lacks if lack.low is not None]
    highs = [lack.high for lack in lacks if lack.high is not None]
    return Missed(
        minutes=len(labels),
        minutes_without_candle=len(labels) - len(known),
        minutes_without_row=sum(1 for label in labels if label not in built),
        trades_venue=sum(candle.trades for candle in known),
        trades_missing=sum(max(0, lack.trades) for lack in lacks),
        trades_surplus=sum(max(0, -lack.trades) for lack in lacks),
        volume_venue_base=_total(candle.volume_base for candle in known),
        volume_missing_base_min=_total(lack.least for lack in lacks),
        volume_missing_base_max=_total(lack.most for lack in lacks),
        volume_missing_quote=_total(lack.quote for lack in lacks),
        low_missed=min(lows, default=None),
        high_missed=max(highs, default=None),
    )


class _Lack(NamedTuple):
    """Of one minute: prints (negative: beyond the candle's), bounds of the volume, extremes."""

    trades: int
    least: float
    most: float
    quote: float
    low: float | None
    high: float | None


def _lack(built: Built | None, candle: Candle) -> _Lack:
    prints = 0 if built is None else built.trades or 0
    if built is None or prints == 0:
        least = most = candle.volume_base
    elif prints >= candle.trades:  # nothing is missing, whatever rounding says
        least = most = 0.0
    else:
        held_least, held_most = built.base_bounds()
        least = max(0.0, candle.volume_base - held_most)
        most = max(0.0, candle.volume_base - held_least)
    low = high = None
    if prints < candle.trades:
        seen_low, seen_high = (built.low, built.high) if built and prints else (None, None)
        low = candle.low if seen_low is None or candle.low < seen_low else None
        high = candle.high if seen_high is None or candle.high > seen_high else None
    quote = (least + most) / 2 * (candle.low + candle.high) / 2
    return _Lack(candle.trades - prints, least, most, quote, low, high)


def _total(values: Iterable[float]) -> float:
    return round12(math.fsum(values))
