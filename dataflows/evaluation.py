"""How good published events are: lift, labels that were met, injected moves that were found.

Rules of this file: figures are for people and never stored; every draw comes from a seed, through
integers alone, so that a report is the same on every machine; what cannot be said is None, and
whatever is left out of a figure is counted with its reason.  Build plan 10.8.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from dataflows.calibration import quantile
from dataflows.importing.bars import BarRow
from dataflows.importing.labels import Label, Symbols
from operators.detect import gate_of
from operators.formulas.elementary import round12
from operators.lattice import DAY_MS, MINUTE_MS, day_of, minute_of
from operators.ledger import COALESCED, COOLDOWN, NOT_MEMBER
from operators.records import MARKET_UID, MarketPhase, Published
from packs.schema import MINUTE_TF

HORIZONS_MIN = (5, 15, 60)
SHIFTS = 200
RESAMPLES = 1000
BAND = (0.025, 0.975)
DAY_MIN = DAY_MS // MINUTE_MS

BEFORE_MIN, AFTER_MIN = 2, 10  # an event this long before a label begins or after it ends meets it

SLOT_MIN = 720  # one injected move per asset and slot,
GAP_MIN = 240  # none in its last minutes, so that two are further apart than this
LIQUID_SHARE_MIN = 0.9  # of an asset's minutes past warm-up that are open
SPIKE = "spike"

NO_ROW = "no_row"
NO_RETURN = "no_return"
NO_CANDIDATE = "no_candidate"
OUTSIDE = "outside_the_bars"
DUPLICATE = "duplicate"

Minute = tuple[int, dict[str, BarRow]]  # of a bars file: its close, and the bars by symbol

_NAN = math.nan
_Z95 = 1.959963984540054


class Event(msgspec.Struct, frozen=True, order=True):
    """A published event of an asset, by the label of the minute that closed."""

    asset_uid: int
    label_ms: int
    event_class: str
    severity: int


class Dice:
    """Draws from a seed: SplitMix64, the same integers everywhere. stream : keeps uses apart.

    >>> dice = Dice(1, "x"); [dice.below(6) for _ in range(5)]
    [0, 2, 1, 1, 3]
    """

    def __init__(self, seed: int, stream: str) -> None:
        self._state = seed
        for byte in stream.encode():
            self._state = (self._state * 257 + byte + 1) % 2**64

    def bits(self) -> int:
        """Return 64 random bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) % 2**64
        z = self._state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    def below(self, n: int) -> int:
        """Return a whole number from 0 to n - 1."""
        return self.bits() * n >> 64


# --- what a run said -----------------------------------------------------------------------------


class Tape:
    """One asset from its first minute on: every close, and why nothing could be published.

    closes : NaN for NULL. A minute is open when nothing forbids an event.
    """

    def __init__(self, symbol: str, first_ms: int) -> None:
        self.symbol = symbol
        self.first_ms = first_ms
        self.closes = array("d")
        self._reasons: list[str | None] = [None, NO_ROW]
        self._barred = bytearray()
        self._warm = bytearray()

    def __len__(self) -> int:
        return len(self.closes)

    def add(self, label_ms: int, close: float | None, barred: str | None, *, warm: bool) -> None:
        """Take the next minute. barred : the reason, None for an open one. warm : past warm-up."""
        skipped = self.index(label_ms) - len(self)
        assert skipped >= 0, f"{self.symbol}: minute {label_ms} came late"
        if barred not in self._reasons:
            self._reasons.append(barred)
        self.closes.extend([_NAN] * skipped)
        self._barred.extend([self._reasons.index(NO_ROW)] * skipped)
        self._warm.extend([0] * skipped)
        self.closes.append(_NAN if close is None else close)
        self._barred.append(self._reasons.index(barred))
        self._warm.append(warm)

    def index(self, label_ms: int) -> int:
        """Return the place of a minute, which may be outside."""
        return (label_ms - self.first_ms) // MINUTE_MS

    def label_ms(self, index: int) -> int:
        """Return the minute at a place."""
        return self.first_ms + index * MINUTE_MS

    def barred(self, index: int) -> str | None:
        """Return why nothing could be published in a minute, None if it is open."""
        if not 0 <= index < len(self):
            return NO_ROW
        return self._reasons[self._barred[index]]

    def is_open(self, index: int) -> bool:
        """Tell whether an event could be published."""
        return 0 <= index < len(self) and self._barred[index] == 0

    def is_warm(self, index: int) -> bool:
        """Tell whether there is a row past warm-up."""
        return 0 <= index < len(self) and self._warm[index] == 1

    def open_count(self) -> int:
        """Return the number of open minutes."""
        return self._barred.count(0)

    def warm_count(self) -> int:
        """Return the number of minutes with a row past warm-up."""
        return self._warm.count(1)

    def open_index(self) -> int:
        """Return the place of the first open minute; the length if there is none."""
        at = self._barred.find(0)
        return len(self) if at < 0 else at


class Recording:
    """Takes what a run gives, phase by phase, and keeps tapes, events, and what was held back.

    classes : event class by detector id. events : of assets, in the order of publication;
    market_events : those of the market, by class. held : of the classes of `keep_held`.
    """

    def __init__(self, classes: Mapping[str, str], keep_held: Sequence[str] = ()) -> None:
        self._classes = classes
        self._keep_held = keep_held
        self.tapes: dict[int, Tape] = {}
        self.events: list[Event] = []
        self.market_events: Counter[str] = Counter()
        self.held: dict[tuple[int, int], list[str]] = {}

    def take(self, output: MarketPhase | Published) -> None:
        """Take a phase; the rows of an amendment are passed over."""
        if isinstance(output, Published):
            self._take_published(output)
            return
        for row in output.rows:
            if row.tf != MINUTE_TF or output.phase.final:
                continue
            columns, uid = row.columns, row.asset_uid
            barred = gate_of(columns)
            if barred is None and not (columns["is_in_universe"] or columns["is_hot"]):
                barred = NOT_MEMBER
            if uid not in self.tapes:
                self.tapes[uid] = Tape(row.symbol, row.exchange_ts_ms)
            warm = not columns["warmup"]
            self.tapes[uid].add(row.exchange_ts_ms, columns["close"], barred, warm=warm)

    def _take_published(self, output: Published) -> None:
        label_ms = output.phase.minute_ms
        for event in output.events:
            uid, event_class = event["asset_uid"], event["class"]
            if uid == MARKET_UID:
                self.market_events[event_class] += 1
            else:
                self.events.append(Event(uid, label_ms, event_class, event["severity"]))
        for each in output.suppressed:
            if self._classes.get(each.detector_id) in self._keep_held:
                self.held.setdefault((each.asset_uid, label_ms), []).append(each.reason)


# --- lift ----------------------------------------------------------------------------------------


class Lift(msgspec.Struct, frozen=True, kw_only=True):
    """Moves after events over the moves after any open minute.

    event_class : None for all. events : with a close at the horizon. lift : mean over the events of
    |close(t+H)/close(t) - 1| divided by its mean over all open minutes of the asset; 1 is chance.
    surrogate : the mean lift of the same events shifted in time, low and high its 95 % band; None
    where an asset's time is too short to shift in.
    """

    event_class: str | None
    horizon_min: int
    events: int
    lift: float | None
    surrogate: float | None
    low: float | None
    high: float | None


def lifts(
    tapes: Mapping[int, Tape],
    events: Sequence[Event],
    seed: int,
    *,
    horizons: Sequence[int] = HORIZONS_MIN,
    shifts: int = SHIFTS,
) -> list[Lift]:
    """Return the lift of every class that has events, and of all, at every horizon."""
    places = _places(tapes, events)
    names = sorted({event.event_class for event in events})
    figures = []
    moves = {h: {uid: relative_moves(tapes[uid], h) for uid in places} for h in horizons}
    # The same draws for every horizon and class, so that their bands can be compared.
    turns = [Turn(bits) for bits in _draws(Dice(seed, "lift"), shifts)]
    for name in [None, *names]:
        of_class = {uid: _of_class(by_class, name) for uid, by_class in places.items()}
        for horizon in horizons:
            real = _values(tapes, of_class, moves[horizon], None)
            means = [
                mean
                for turn in turns
                if (mean := _mean(_values(tapes, of_class, moves[horizon], turn))) is not None
            ]
            means.sort()
            figures.append(
                Lift(
                    event_class=name,
                    horizon_min=horizon,
                    events=len(real),
                    lift=_rounded(_mean(real)),
                    surrogate=_rounded(_mean(means)),
                    low=quantile(means, BAND[0]),
                    high=quantile(means, BAND[1]),
                )
            )
    return figures


class Turn(msgspec.Struct, frozen=True):
    """A circular shift, the same share of every asset's time; at least a day from either end.

    Assets of the same period move by the same minutes, so what they have in common stays.
    """

    bits: int

    def minutes(self, period: int) -> int | None:
        """Return the shift of an asset with so many minutes, None if they are too few."""
        room = period - 2 * DAY_MIN + 1
        return None if room <= 0 else DAY_MIN + (self.bits * room >> 64)


def relative_moves(tape: Tape, horizon_min: int) -> array[float]:
    """Return |close(t+H)/close(t) - 1| of every minute over its mean over all open minutes.

    NaN where a close is not known or the minute is not open, and everywhere if the mean is 0.
    """
    closes = tape.closes
    moves = array("d", [_NAN]) * len(tape)
    for i in range(len(tape) - horizon_min):
        if tape.is_open(i):
            moves[i] = abs(closes[i + horizon_min] / closes[i] - 1.0)
    mean = _mean([move for move in moves if not math.isnan(move)])
    if not mean:
        return array("d", [_NAN]) * len(tape)
    return array("d", [move / mean for move in moves])


def _places(tapes: Mapping[int, Tape], events: Sequence[Event]) -> dict[int, dict[str, list[int]]]:
    """Return the places of the events on their tapes, by asset and class."""
    places: dict[int, dict[str, list[int]]] = {uid: {} for uid in sorted(tapes)}
    for event in events:
        by_class = places[event.asset_uid]
        index = tapes[event.asset_uid].index(event.label_ms)
        by_class.setdefault(event.event_class, []).append(index)
    return places


def _of_class(by_class: Mapping[str, list[int]], name: str | None) -> list[int]:
    if name is not None:
        return by_class.get(name, [])
    return [index for each in sorted(by_class) for index in by_class[each]]


def _values(
    tapes: Mapping[int, Tape],
    places: Mapping[int, Sequence[int]],
    moves: Mapping[int, array[float]],
    turn: Turn | None,
) -> list[float]:
    """Return the relative moves after the events, or after the minutes they are shifted to."""
    values: list[float] = []
    for uid, indices in places.items():
        shifted: Iterable[int] = indices
        if turn is not None:
            shifted = _turned(tapes[uid], indices, turn)
        known = moves[uid]
        values += [value for i in shifted if (value := known[i]) == value]  # not NaN
    return values


def _turned(tape: Tape, indices: Iterable[int], turn: Turn) -> list[int]:
    """Shift places around the asset's time, which starts with its first open minute."""
    start = tape.open_index()
    period = len(tape) - start
    shift = turn.minutes(period)
    return [] if shift is None else [start + (i - start + shift) % period for i in indices]


# --- labels --------------------------------------------------------------------------------------


class Window(msgspec.Struct, frozen=True, order=True):
    """A label with its asset, and the first and last minute whose event meets it."""

    asset_uid: int
    first_ms: int
    last_ms: int
    label: Label


class Placed(msgspec.Struct, frozen=True):
    """Labels that can be judged, and how many cannot, by reason.

    unwatched : labels without a single open minute in their window, by the reason of the minute
    they begin in.
    """

    windows: tuple[Window, ...]
    left_out: dict[str, int]
    unwatched: dict[str, int]


class Estimate(msgspec.Struct, frozen=True):
    """A figure with its 95 % interval and, where that means something, what chance gives."""

    value: float | None
    low: float | None = None
    high: float | None = None
    chance: float | None = None


class KindFigures(msgspec.Struct, frozen=True):
    """Labels of one kind: how many, how many were met, and the median delay of those."""

    kind: str
    labels: int
    met: int
    recall: float | None
    delay_min: float | None


class LabelFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How events and labels meet. Only assets with a label count.

    events : published by them; met_by : those that meet a label. days : minutes past warm-up.
    delay_min : median over the labels that were met, from where the label begins to the close of
    the minute of the first event in its window. elsewhere : events of assets without a label.
    """

    labels: int
    met: int
    events: int
    met_by: int
    elsewhere: int
    days: float
    recall: Estimate
    precision: Estimate
    delay_min: Estimate
    false_per_day: Estimate
    kinds: tuple[KindFigures, ...]


def place(
    labels: Sequence[Label],
    tapes: Mapping[int, Tape],
    *,
    before_min: int = BEFORE_MIN,
    after_min: int = AFTER_MIN,
) -> Placed:
    """Find the asset and the window of every label; the same asset and minute count once."""
    symbols = Symbols({uid: tape.symbol for uid, tape in tapes.items()})
    left_out, unwatched = Counter[str](), Counter[str]()
    windows: dict[tuple[int, int], Window] = {}
    for label in labels:
        uid = symbols.find(label.symbol)
        if isinstance(uid, str):
            left_out[uid] += 1
            continue
        tape, begin_ms = tapes[uid], minute_of(label.begin_ms)
        first_ms = begin_ms - before_min * MINUTE_MS
        last_ms = minute_of(label.end_ms) + after_min * MINUTE_MS
        if not 0 <= tape.index(begin_ms) < len(tape):
            left_out[OUTSIDE] += 1
        elif (uid, begin_ms) in windows:
            left_out[DUPLICATE] += 1
        else:
            windows[uid, begin_ms] = Window(uid, first_ms, last_ms, label)
    judged = []
    for (uid, begin_ms), window in sorted(windows.items()):
        tape = tapes[uid]
        span = range(tape.index(window.first_ms), tape.index(window.last_ms) + 1)
        if any(tape.is_open(i) for i in span):
            judged.append(window)
        else:
            reason = tape.barred(tape.index(begin_ms))
            assert reason is not None, "a window without an open minute"
            unwatched[reason] += 1
    return Placed(tuple(judged), dict(sorted(left_out.items())), dict(sorted(unwatched.items())))


def first_in(window: Window, labels_ms: Sequence[int]) -> int | None:
    """Return the first of an asset's sorted event minutes that meets a label, None without."""
    at = bisect_left(labels_ms, window.first_ms)
    if at == len(labels_ms) or labels_ms[at] > window.last_ms:
        return None
    return labels_ms[at]


def delay_of(window: Window, label_ms: int) -> float:
    """Return the minutes from where a label begins to an event; below 0 if that came before."""
    return (label_ms - window.label.begin_ms) / MINUTE_MS


def meets(windows: Sequence[Window], labels_ms: Sequence[int]) -> list[bool]:
    """Tell of each event minute of an asset whether it is inside one of the asset's windows."""
    spans: list[list[int]] = []
    for window in sorted(windows):
        if spans and window.first_ms <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], window.last_ms)
        else:
            spans.append([window.first_ms, window.last_ms])
    starts = [first for first, _ in spans]
    places = [bisect_right(starts, label_ms) - 1 for label_ms in labels_ms]
    return [
        at >= 0 and label_ms <= spans[at][1] for at, label_ms in zip(places, labels_ms, strict=True)
    ]


class _Cell(msgspec.Struct):
    """What happened to one asset on one day."""

    labels: int = 0
    met: int = 0
    events: int = 0
    met_by: int = 0
    minutes: int = 0
    delays: list[float] = []


def judge(
    windows: Sequence[Window],
    tapes: Mapping[int, Tape],
    events: Sequence[Event],
    seed: int,
    *,
    shifts: int = SHIFTS,
    resamples: int = RESAMPLES,
) -> LabelFigures:
    """Return recall, precision, delay and false alerts of events against labels.

    The intervals come from resampling asset-days; chance from shifting the events in time.
    """
    by_asset = _by_asset(windows)
    labels_ms = {uid: sorted(e.label_ms for e in events if e.asset_uid == uid) for uid in by_asset}
    cells = _cells(by_asset, labels_ms, tapes)
    total = _pooled(cells)
    chances = _chances(by_asset, labels_ms, tapes, Dice(seed, "labels"), shifts)
    intervals = _intervals(cells, Dice(seed, "days"), resamples)
    recall, precision, delay_min, false_per_day = (
        Estimate(_rounded(figure(total)), *interval, chance)
        for figure, interval, chance in zip(
            _FIGURES, intervals, (*chances, None, None), strict=True
        )
    )
    return LabelFigures(
        labels=total.labels,
        met=total.met,
        events=total.events,
        met_by=total.met_by,
        elsewhere=sum(event.asset_uid not in by_asset for event in events),
        days=round12(total.minutes / DAY_MIN),
        recall=recall,
        precision=precision,
        delay_min=delay_min,
        false_per_day=false_per_day,
        kinds=_kinds(by_asset, labels_ms),
    )


def _by_asset(windows: Sequence[Window]) -> dict[int, list[Window]]:
    by_asset: dict[int, list[Window]] = {}
    for window in sorted(windows):
        by_asset.setdefault(window.asset_uid, []).append(window)
    return by_asset


def _cells(
    by_asset: Mapping[int, Sequence[Window]],
    labels_ms: Mapping[int, Sequence[int]],
    tapes: Mapping[int, Tape],
) -> list[_Cell]:
    """Return the asset-days with a label, an event or a minute past warm-up, in order."""
    cells: dict[tuple[int, int], _Cell] = {}
    for uid, own in by_asset.items():
        tape, found = tapes[uid], labels_ms[uid]
        for i in range(len(tape)):
            if tape.is_warm(i):
                cells.setdefault((uid, day_of(tape.label_ms(i))), _Cell()).minutes += 1
        for window in own:
            cell = cells.setdefault((uid, day_of(minute_of(window.label.begin_ms))), _Cell())
            first = first_in(window, found)
            cell.labels += 1
            if first is not None:
                cell.met += 1
                cell.delays.append(delay_of(window, first))
        for label_ms, met in zip(found, meets(own, found), strict=True):
            cell = cells.setdefault((uid, day_of(label_ms)), _Cell())
            cell.events += 1
            cell.met_by += met
    return [cells[key] for key in sorted(cells)]


def _pooled(cells: Iterable[_Cell]) -> _Cell:
    total = _Cell()
    for cell in cells:
        total.labels += cell.labels
        total.met += cell.met
        total.events += cell.events
        total.met_by += cell.met_by
        total.minutes += cell.minutes
        total.delays += cell.delays
    return total


def _recall(cell: _Cell) -> float | None:
    return cell.met / cell.labels if cell.labels else None


def _precision(cell: _Cell) -> float | None:
    return cell.met_by / cell.events if cell.events else None


def _delay(cell: _Cell) -> float | None:
    return quantile(sorted(cell.delays), 0.5)


def _false_per_day(cell: _Cell) -> float | None:
    return (cell.events - cell.met_by) / (cell.minutes / DAY_MIN) if cell.minutes else None


_FIGURES = (_recall, _precision, _delay, _false_per_day)


def _intervals(
    cells: Sequence[_Cell], dice: Dice, resamples: int
) -> list[tuple[float | None, float | None]]:
    """Return the 95 % interval of each figure over resampled asset-days."""
    found: list[list[float]] = [[] for _ in _FIGURES]
    for _ in range(resamples if cells else 0):
        drawn = _pooled(cells[dice.below(len(cells))] for _ in cells)
        for figure, values in zip(_FIGURES, found, strict=True):
            value = figure(drawn)
            if value is not None:
                values.append(value)
    ordered = [sorted(values) for values in found]
    return [(quantile(values, BAND[0]), quantile(values, BAND[1])) for values in ordered]


def _chances(
    by_asset: Mapping[int, Sequence[Window]],
    labels_ms: Mapping[int, Sequence[int]],
    tapes: Mapping[int, Tape],
    dice: Dice,
    shifts: int,
) -> tuple[float | None, float | None]:
    """Return mean recall and precision of the events when they are shifted in time."""
    recalls, precisions = [], []
    for bits in _draws(dice, shifts):
        labels = met = events = met_by = 0
        for uid, own in by_asset.items():
            tape = tapes[uid]
            indices = [tape.index(label_ms) for label_ms in labels_ms[uid]]
            shifted = sorted(tape.label_ms(i) for i in _turned(tape, indices, Turn(bits)))
            if not shifted:  # no event, or too little time to shift it in
                continue
            labels += len(own)
            met += sum(first_in(window, shifted) is not None for window in own)
            events += len(shifted)
            met_by += sum(meets(own, shifted))
        if labels:
            recalls.append(met / labels)
        if events:
            precisions.append(met_by / events)
    return _rounded(_mean(recalls)), _rounded(_mean(precisions))


def _kinds(
    by_asset: Mapping[int, Sequence[Window]], labels_ms: Mapping[int, Sequence[int]]
) -> tuple[KindFigures, ...]:
    delays: dict[str, list[float | None]] = {}
    for uid, own in by_asset.items():
        for window in own:
            first = first_in(window, labels_ms[uid])
            delay = None if first is None else delay_of(window, first)
            delays.setdefault(window.label.kind, []).append(delay)
    found = []
    for kind, values in sorted(delays.items()):
        known = sorted(value for value in values if value is not None)
        share = round12(len(known) / len(values))
        found.append(KindFigures(kind, len(values), len(known), share, quantile(known, 0.5)))
    return tuple(found)


# --- injected moves ------------------------------------------------------------------------------


class Plan(msgspec.Struct, frozen=True):
    """Minutes to move, by symbol in time order; illiquid : symbols that get none."""

    labels_ms: dict[str, tuple[int, ...]]
    illiquid: tuple[str, ...]


class InjectionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What became of injected moves. volume_factor : what the volume of their minute was times.

    ineligible : minutes in which nothing can be published by definition, by reason. recall :
    published of eligible, with Wilson's 95 % interval. missed : by the reasons the candidates of
    the class were held back for. standing : of the eligible, published or in the cooldown of an
    event of the minutes before.
    """

    volume_factor: float
    injected: int
    ineligible: dict[str, int]
    eligible: int
    published: int
    recall: Estimate
    missed: dict[str, int]
    standing: float | None


def plan_injections(tapes: Mapping[int, Tape], seed: int) -> Plan:
    """Draw the minutes: one in each half day of a liquid asset, a day after its first minute.

    Only minutes that the file has, with a minute before them: a move needs two closes.
    """
    dice, planned, illiquid = Dice(seed, "inject"), dict[str, tuple[int, ...]](), []
    for _, tape in sorted(tapes.items()):
        if not is_liquid(tape):
            illiquid.append(tape.symbol)
            continue
        chosen = []
        for start in range(DAY_MIN, len(tape) - (SLOT_MIN - GAP_MIN), SLOT_MIN):
            index = start + dice.below(SLOT_MIN - GAP_MIN)
            if not (math.isnan(tape.closes[index]) or math.isnan(tape.closes[index - 1])):
                chosen.append(tape.label_ms(index))
        planned[tape.symbol] = tuple(chosen)
    return Plan(planned, tuple(illiquid))


def is_liquid(tape: Tape) -> bool:
    """Tell whether nearly all of an asset's minutes past warm-up are open."""
    return tape.open_count() >= LIQUID_SHARE_MIN * max(1, tape.warm_count())


def injected(
    plan: Plan, *, move: float, volume_factor: float
) -> Callable[[Iterable[Minute]], Iterator[Minute]]:
    """Return what puts the moves into the minutes of a file.

    In a planned minute close is moved, high or low follows if close leaves it, and volumes and
    prints are multiplied. All later prices of the symbol keep the new level; volumes in quote
    currency stay as recorded.
    """
    moved = {symbol: frozenset(labels) for symbol, labels in plan.labels_ms.items()}

    def change(minutes: Iterable[Minute]) -> Iterator[Minute]:
        levels = dict.fromkeys(moved, 1.0)
        for close_ms, bars in minutes:
            changed = dict(bars)
            for symbol, bar in bars.items():
                if symbol not in levels:
                    continue
                level = levels[symbol]
                changed[symbol] = _levelled(bar, level)
                if close_ms in moved[symbol]:
                    changed[symbol] = _moved(changed[symbol], move, volume_factor)
                    levels[symbol] = level * (1.0 + move)
            yield close_ms, changed

    return change


def _levelled(bar: BarRow, level: float) -> BarRow:
    return msgspec.structs.replace(
        bar,
        open=bar.open * level,
        high=bar.high * level,
        low=bar.low * level,
        close=bar.close * level,
    )


def _moved(bar: BarRow, move: float, factor: float) -> BarRow:
    close = bar.close * (1.0 + move)
    count, taker = bar.trade_count, bar.taker_buy_quote
    return msgspec.structs.replace(
        bar,
        high=max(bar.high, close),
        low=min(bar.low, close),
        close=close,
        volume_quote=bar.volume_quote * factor,
        trade_count=None if count is None else round(count * factor),
        taker_buy_quote=None if taker is None else taker * factor,
    )


def injection_figures(plan: Plan, recording: Recording, volume_factor: float) -> InjectionFigures:
    """Return what became of the moves in a run with them."""
    spikes = {(e.asset_uid, e.label_ms) for e in recording.events if e.event_class == SPIKE}
    ineligible, missed = Counter[str](), Counter[str]()
    published = 0
    for uid, tape in sorted(recording.tapes.items()):
        for label_ms in plan.labels_ms.get(tape.symbol, ()):
            index = tape.index(label_ms)
            barred = tape.barred(index)
            if barred is None and (index == 0 or math.isnan(tape.closes[index - 1])):
                barred = NO_RETURN
            if barred is not None:
                ineligible[barred] += 1
            elif (uid, label_ms) in spikes:
                published += 1
            else:
                missed[_why(recording.held.get((uid, label_ms), ()))] += 1
    eligible = published + missed.total()
    standing = published + missed[COOLDOWN]
    return InjectionFigures(
        volume_factor=volume_factor,
        injected=eligible + ineligible.total(),
        ineligible=dict(sorted(ineligible.items())),
        eligible=eligible,
        published=published,
        recall=wilson(published, eligible),
        missed={reason: count for reason, count in sorted(missed.items()) if count},
        standing=round12(standing / eligible) if eligible else None,
    )


def _why(reasons: Sequence[str]) -> str:
    """Return why the candidates of a minute came to nothing; a coalesced one follows another."""
    own = sorted({reason for reason in reasons if reason != COALESCED})
    return "+".join(own) or NO_CANDIDATE


def wilson(part: int, whole: int) -> Estimate:
    """Return a share with Wilson's 95 % interval.

    >>> wilson(0, 0).value is None, round(wilson(98, 100).low, 3), round(wilson(98, 100).high, 3)
    (True, 0.93, 0.994)
    """
    if not whole:
        return Estimate(None)
    share, square = part / whole, _Z95 * _Z95 / whole
    middle = (share + square / 2.0) / (1.0 + square)
    half = _Z95 * math.sqrt(share * (1.0 - share) / whole + square / (4.0 * whole))
    half /= 1.0 + square
    return Estimate(
        round12(share), round12(max(0.0, middle - half)), round12(min(1.0, middle + half))
    )


# --- arithmetic ----------------------------------------------------------------------------------


def _draws(dice: Dice, count: int) -> list[int]:
    return [dice.bits() for _ in range(count)]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round12(value)
