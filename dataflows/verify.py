"""A stretch of the recorded log made again, and compared with what is stored of it, byte by byte.

Rules of this file: what is made comes from the same steps as ever, from the log alone; records are
compared by place and canonical bytes, and nothing is repaired or rounded; whatever was not judged
is counted under the reason why; one minute is in memory at a time. Build plan 13.5; design 1, 7.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

import msgspec
import orjson

from dataflows.archive import (
    FOREVER_MS,
    Archive,
    Configured,
    Place,
    Record,
    Span,
    event_record,
    frame_record,
    row_record,
    suppression_record,
)
from dataflows.collector import collect_rarely
from dataflows.connectors.source import CHUNK_LINES, feed_reader
from dataflows.connectors.ticklog import TickLogReader
from dataflows.version import GIT_COMMIT, PRODUCER
from operators.feed import GAP_START, FeedState, Item
from operators.lattice import MINUTE_MS, iso, minute_of
from operators.loop import Loop
from operators.modes import Run
from operators.publish import event_json
from operators.records import BarItem, MarketPhase, Published
from packs.loader import Packs

PRODUCTS = ("rows", "frames", "events", "shadow", "suppressed")
EXAMPLES_MAX = 20
SETTLE_MIN = 2  # after a cut warm-up: a minute is whole when the one before was seen
# Histories that are tried side by side, while the stored minutes do not tell which one was.
HISTORIES_MAX = 4

DIFFERS, MISSING, SURPLUS = "differs", "missing", "surplus"
KINDS = (DIFFERS, MISSING, SURPLUS)
JUDGED = "judged"
WARM_UP = "warm_up"
BEFORE_FLOW = "before_the_flow"
FLOW_STOPPED = "flow_stopped"
NOT_STORED_YET = "not_stored_yet"
VERDICTS = (JUDGED, WARM_UP, BEFORE_FLOW, FLOW_STOPPED, NOT_STORED_YET)

_NOTHING = b""
_GAP_RECORD = b'"alpha.gap"'


class VerifyError(Exception):
    """The stretch cannot be verified; the message says why, and what can be."""


class Mismatch(msgspec.Struct, frozen=True):
    """A record that is not as made again.

    kind : differs, missing (made, not stored) or surplus (stored, not made). column : the first
    that differs, a path inside nested values. times : how often a surplus one is stored.
    """

    kind: str
    product: str
    exchange_ts: str
    asset_uid: int
    symbol: str
    tf: str
    revision: int
    name: str = ""
    column: str = ""
    stored: Any = None
    made: Any = None


class Tally(msgspec.Struct):
    """What a comparison came to. minutes : by verdict. compared : records by product.

    found : mismatches by product and kind. builds : events of another build of this software, whose
    own name was taken over before they were compared.
    """

    minutes: dict[str, int] = {}
    compared: dict[str, int] = {}
    found: dict[str, dict[str, int]] = {}
    examples: list[Mismatch] = []
    builds: dict[str, int] = {}

    @property
    def mismatches(self) -> int:
        """Return how many there are."""
        return sum(sum(kinds.values()) for kinds in self.found.values())

    def note(self, mismatch: Mismatch) -> None:
        """Count a mismatch; the first ones are kept."""
        kinds = self.found.setdefault(mismatch.product, {})
        kinds[mismatch.kind] = kinds.get(mismatch.kind, 0) + 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(mismatch)

    def add(self, other: Tally) -> None:
        """Take another tally in."""
        for mine, theirs in (
            (self.minutes, other.minutes),
            (self.compared, other.compared),
            (self.builds, other.builds),
        ):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count
        for product, kinds in other.found.items():
            mine = self.found.setdefault(product, {})
            for kind, count in kinds.items():
                mine[kind] = mine.get(kind, 0) + count
        room = EXAMPLES_MAX - len(self.examples)
        self.examples += other.examples[:room]


@dataclass(frozen=True)
class Stretch:
    """What is verified. span : the labels that are judged; None: everything that is stored.

    warm_up_ms : begin there instead of at the start of the log; then only what a minute's own
    ticks say can be judged.
    """

    span: Span | None = None
    warm_up_ms: int | None = None

    @property
    def raw_only(self) -> bool:
        """Tell whether the warm-up is cut."""
        return self.warm_up_ms is not None


class Verification(msgspec.Struct):
    """The result. began : labels at which a history began that the stored minutes confirm."""

    archive: str
    log: str
    config_hash: str
    run_mode: str
    emit_events: bool
    since: str | None
    until: str | None
    warm_up_from: str | None
    began: list[str]
    tally: Tally
    judged_columns: list[str] | None = None
    not_judged: list[str] = []
    notes: list[str] = []
    dropped: dict[str, int] = {}

    @property
    def in_order(self) -> bool:
        """Tell whether everything that was judged is as made again."""
        return not self.tally.mismatches


Minute = tuple[int, list[Record]]


# --- making again ----------------------------------------------------------------------------


class _NotingLoop(Loop):
    """A loop that remembers which columns come from a minute's own ticks."""

    raw: set[str]

    def bars(self, items: Iterable[BarItem]) -> list[MarketPhase | Published]:
        items = list(items)
        for item in items:
            if item.bar is not None:
                self.raw |= item.bar.columns.keys()
        return super().bars(items)


class _History:
    """The flow from some line of the log on: lines in, whole minutes out."""

    def __init__(self, packs: Packs, run: Run, warm_up_ms: int | None) -> None:
        collect_rarely()
        self._feed = feed_reader(FeedState(), packs.features)
        self._loop = _NotingLoop(packs, PRODUCER, run, git_commit=GIT_COMMIT)
        self._loop.raw = set()
        self._from_ms = warm_up_ms or 0
        self._open: dict[int, list[Record]] = {}
        self.began_ms: int | None = None  # label of the first minute
        self.waiting: list[Minute] = []
        self.tally = Tally()  # since there is another history beside it
        self.apart = 0  # mismatches of minutes that all histories have judged

    @property
    def dropped(self) -> dict[str, int]:
        """Return what the reader could not use, by reason."""
        return dict(sorted(self._feed.state.counts.items()))

    @property
    def raw_columns(self) -> frozenset[str]:
        """Return the columns of a row that come from the minute's own ticks."""
        return frozenset(self._loop.raw)

    def take(self, lines: Sequence[bytes]) -> None:
        """Read some more lines; what became complete is added to `waiting`."""
        items: Iterable[Item] = self._feed.read(lines)
        if self._feed.state.next_seal_ms <= self._from_ms:
            return  # before the warm-up: only the roster and the holes matter
        for output in self._loop.ticks(items):
            label_ms = output.phase.minute_ms
            if self.began_ms is None:
                self.began_ms = label_ms
            records = self._open.setdefault(label_ms, [])
            if isinstance(output, MarketPhase):
                records += map(row_record, output.rows)
                records += map(frame_record, output.frames)
                continue
            for shadow, events in ((False, output.events), (True, output.shadow)):
                for payload in events:
                    records.append(event_record(payload, event_json(payload), shadow=shadow))
            records += map(suppression_record, output.suppressed)
            if output.phase.final:
                self.waiting.append((label_ms, self._open.pop(label_ms)))

    def finish(self) -> None:
        """Hand out what the end of the log left open."""
        self.waiting += sorted(self._open.items())
        self._open = {}


# --- comparing -------------------------------------------------------------------------------


def compare(
    made: list[Record],
    stored: list[Record],
    tally: Tally,
    *,
    keeps_revisions: bool,
    raw: frozenset[str] | None = None,
) -> None:
    """Compare a minute's records and note in the tally what is not as made again.

    keeps_revisions : False: of a row or a frame the newest revision alone is stored. raw : judge
    only these columns of one-minute rows, None: everything.
    """
    if raw is not None:
        made, stored = _raw_only(made), _raw_only(stored)
    expected = _by_identity(made, keeps_revisions)
    found: dict[tuple[Any, ...], Record] = {}
    for record in stored:
        identity = _identity(record.place, keeps_revisions)
        if identity in found:  # written twice
            tally.note(_mismatch(SURPLUS, record, stored=record.text))
        else:
            found[identity] = record
    for identity, record in expected.items():
        product = record.place.product
        tally.compared[product] = tally.compared.get(product, 0) + 1
        other = found.pop(identity, None)
        if other is None:
            tally.note(_mismatch(MISSING, record, made=record.text))
        elif other.text != record.text and (change := _difference(other, record, raw, tally)):
            column, was, again = change
            tally.note(_mismatch(DIFFERS, record, column=column, stored=was, made=again))
    for record in found.values():
        tally.note(_mismatch(SURPLUS, record, stored=record.text))


def _raw_only(records: list[Record]) -> list[Record]:
    return [r for r in records if r.place.product == "rows" and r.place.tf == "1m"]


def _identity(place: Place, keeps_revisions: bool) -> tuple[Any, ...]:
    replaced = not keeps_revisions and place.product in ("rows", "frames")
    return place._replace(revision=0) if replaced else place


def _by_identity(records: list[Record], keeps_revisions: bool) -> dict[tuple[Any, ...], Record]:
    """Return the records by what tells them apart; a later revision takes the place."""
    found: dict[tuple[Any, ...], Record] = {}
    for record in records:
        identity = _identity(record.place, keeps_revisions)
        known = found.get(identity)
        if known is None or known.place.revision <= record.place.revision:
            found[identity] = record
    return found


def _difference(
    stored: Record, made: Record, raw: frozenset[str] | None, tally: Tally
) -> tuple[str, Any, Any] | None:
    """Return the first column that differs and both values; None if nothing that is judged does."""
    was, again = _parsed(stored.text), _parsed(made.text)
    if was is None:
        return "", stored.text[:200].decode(errors="replace"), again
    if raw is not None:
        was = {name: value for name, value in was.items() if name in raw}
        again = {name: value for name, value in again.items() if name in raw}
    elif made.place.product in ("events", "shadow"):
        build = _build_of(was)
        if build != _build_of(again) and _build_is_named(was):
            again["provenance"] |= {n: was["provenance"][n] for n in ("producer", "git_commit")}
            if event_json(again) == stored.text:
                tally.builds[build] = tally.builds.get(build, 0) + 1
                return None
    first = next(_differences(was, again, ""), None)
    if first is None and raw is None:
        return "(text)", stored.text.decode(), made.text.decode()
    return first


def _parsed(text: bytes) -> Any:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _build_is_named(payload: Mapping[str, Any]) -> bool:
    origin = payload.get("provenance")
    return isinstance(origin, dict) and {"producer", "git_commit"} <= origin.keys()


def _build_of(payload: Mapping[str, Any]) -> str:
    if not _build_is_named(payload):
        return "unknown"
    origin = payload["provenance"]
    return f"{origin['producer']} {origin['git_commit'] or 'no commit'}"


def _differences(was: Any, again: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the paths at which two JSON values differ, types and last bits included."""
    if isinstance(was, dict) and isinstance(again, dict):
        # `revision` first: an older one explains whatever else differs.
        for name in sorted(was.keys() | again.keys(), key=lambda n: (n != "revision", n)):
            yield from _differences(was.get(name), again.get(name), f"{path}.{name}".lstrip("."))
    elif was != again or type(was) is not type(again) or repr(was) != repr(again):
        yield path, was, again


def _mismatch(
    kind: str, record: Record, *, column: str = "", stored: Any = None, made: Any = None
) -> Mismatch:
    place, fields = record.place, _parsed(record.text) or {}
    stored, made = (
        value.decode(errors="replace") if isinstance(value, bytes) else value
        for value in (stored, made)
    )
    symbol = str(fields.get("symbol") or ("MARKET" if place.product == "frames" else ""))
    label = iso(place.label_ms)
    where = (place.product, label, place.asset_uid, symbol, place.tf, place.revision, place.name)
    return Mismatch(kind, *where, column, stored, made)


# --- verifying -------------------------------------------------------------------------------


class Verifier:
    """Makes a log again and judges what is stored, as far as both go; may go on later.

    Whoever calls `advance` again after a while pays for the new minutes only.
    """

    def __init__(
        self,
        log: Path,
        archive: Archive,
        packs: Packs,
        run: Run,
        stretch: Stretch,
        *,
        follow: bool = False,
    ) -> None:
        known = archive.labels()
        if known is None:
            raise VerifyError(f"{archive.name}: expected rows to compare with, found none")
        self._archive, self._packs, self._run, self._stretch = archive, packs, run, stretch
        self._path = log
        self._log = TickLogReader(log, on_reject=self._reject, follow=follow)
        self._torn: Counter[str] = Counter()
        self._first_ms = known[0]  # the flow began with this minute, or what was before is gone
        self._tally = Tally()
        self._histories = [self._history()]
        self._began: list[str] = []
        self._read_any = False
        span = stretch.span or Span(0, FOREVER_MS)
        self._since_ms = span.since_ms
        if stretch.warm_up_ms is not None:
            settled_ms = stretch.warm_up_ms + SETTLE_MIN * MINUTE_MS
            self._since_ms = max(self._since_ms, settled_ms)
        self._until_ms = span.until_ms
        self._told = Span(self._since_ms, self._until_ms)
        self._from_ms = self._since_ms  # what is up to here was judged by an earlier `advance`

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._log.close()

    def _history(self) -> _History:
        return _History(self._packs, self._run, self._stretch.warm_up_ms)

    def _reject(self, reason: str) -> None:
        self._torn[reason] += 1

    # --- the log -----------------------------------------------------------------------------

    def advance(self) -> Verification:
        """Read the log as far as there is something to judge, and return the result since the
        last call."""
        until_ms = self._frontier_ms()
        self._judge_up_to = until_ms
        self._stored = _Peeked(self._archive.minutes(Span(self._from_ms, until_ms)))
        self._judge_waiting()
        ended = False
        while not ended and not self._is_beyond(until_ms):
            lines = self._log.read(CHUNK_LINES)
            ended = not lines
            for part in _cut_at_starts(lines, first=not self._read_any):
                self._read_any = True
                if part.starts:
                    self._fork(part.lines[0])
                for history in self._histories:
                    history.take(part.lines)
                self._judge_waiting()
        if ended and not self._archive.grows:
            for history in self._histories:
                history.finish()
            self._judge_waiting()
        while (rest := self._stored.next_before(FOREVER_MS)) is not None:
            self._judge(self._histories[0], (rest[0], []), rest[1])  # no line of the log says so
        self._settle()
        self._from_ms = max(self._from_ms, min(until_ms, FOREVER_MS))
        return self._result(until_ms)

    def _frontier_ms(self) -> int:
        """Return the newest minute that can be judged: the flow may be writing the last one."""
        known = self._archive.labels()
        assert known is not None
        if self._told.until_ms != FOREVER_MS or not self._archive.grows:
            return self._told.until_ms
        return known[1] - MINUTE_MS

    def _is_beyond(self, until_ms: int) -> bool:
        return any(label > until_ms for label, _ in self._histories[0].waiting)

    def _fork(self, line: bytes) -> None:
        """A recorder began here. A flow with a recovery store went on, one without began anew: try
        both until the stored minutes tell."""
        if self._stretch.raw_only:
            return
        starts_ms = minute_of(int(line[: line.index(b" ")]) // 1_000_000)
        before_first = starts_ms <= self._first_ms
        if before_first or len(self._histories) == HISTORIES_MAX:
            del self._histories[1:2]
        self._histories.append(self._history())

    # --- judging -----------------------------------------------------------------------------

    def _judge_waiting(self) -> None:
        """Judge the minutes that are whole, of all histories together."""
        while labels := [h.waiting[0][0] for h in self._histories if h.waiting]:
            label_ms = min(labels)
            if label_ms > self._judge_up_to:
                return
            stored = self._stored_at(label_ms)
            having = [h for h in self._histories if h.waiting and h.waiting[0][0] == label_ms]
            probed = self._probed(label_ms) if len(self._histories) > 1 else None
            for history in having:
                minute = history.waiting.pop(0)
                before = history.tally.mismatches
                self._judge(history, minute, stored)
                if len(having) == len(self._histories):
                    history.apart += history.tally.mismatches - before
                    if probed is not None:
                        probe = Tally()
                        keeps = self._archive.keeps_revisions
                        compare(minute[1], probed, probe, keeps_revisions=keeps)
                        history.apart += probe.mismatches
            self._choose()

    def _probed(self, label_ms: int) -> list[Record] | None:
        """Return what is stored of a minute of the warm-up, which tells histories apart, too."""
        if self._first_ms <= label_ms <= self._since_ms:
            minutes = self._archive.minutes(Span(label_ms - MINUTE_MS, label_ms))
            return [record for _, records in minutes for record in records]
        return None

    def _stored_at(self, label_ms: int) -> list[Record] | None:
        """Return what is stored of a minute; minutes before it, made by no history, are surplus."""
        while (other := self._stored.next_before(label_ms)) is not None:
            self._judge(self._histories[0], (other[0], []), other[1])
        return self._stored.take(label_ms)

    def _judge(self, history: _History, minute: Minute, stored: list[Record] | None) -> None:
        label_ms, made = minute
        tally = history.tally
        verdict = self._verdict(label_ms)
        tally.minutes[verdict] = tally.minutes.get(verdict, 0) + 1
        if verdict == JUDGED:
            raw = history.raw_columns if self._stretch.raw_only else None
            keeps = self._archive.keeps_revisions
            compare(made, stored or [], tally, keeps_revisions=keeps, raw=raw)

    def _verdict(self, label_ms: int) -> str:
        if label_ms <= self._since_ms:
            return WARM_UP
        return BEFORE_FLOW if label_ms < self._first_ms else JUDGED

    def _choose(self) -> None:
        """Keep the history that the stored minutes confirm, as soon as they tell."""
        if len(self._histories) == 1:
            self._settle()
        elif len({history.apart for history in self._histories}) > 1:
            best = min(self._histories, key=lambda history: history.apart)
            if best is not self._histories[0]:
                self._begin_anew(best)
            self._histories = [best]
            self._settle()

    def _begin_anew(self, history: _History) -> None:
        """The flow began at a recorder's start: what the former history made since is nobody's."""
        former = self._histories[0].tally.minutes
        judged = history.tally.minutes.get(JUDGED, 0)
        left_out = former.get(JUDGED, 0) - judged
        if left_out > 0:
            history.tally.minutes[FLOW_STOPPED] = left_out
        for verdict in (WARM_UP, BEFORE_FLOW):
            history.tally.minutes[verdict] = former.get(verdict, 0)
        assert history.began_ms is not None
        self._began.append(iso(history.began_ms))

    def _settle(self) -> None:
        """Take over what was counted while there were several histories, or one."""
        if len(self._histories) == 1:
            history = self._histories[0]
            self._tally.add(history.tally)
            history.tally, history.apart = Tally(), 0

    # --- the result --------------------------------------------------------------------------

    def _result(self, until_ms: int) -> Verification:
        history = self._histories[0]
        tally = Tally()
        tally.add(self._tally)
        if len(self._histories) > 1:  # they do not differ: the flow went on
            tally.add(history.tally)
        self._tally = Tally()
        for each in self._histories:
            each.tally = Tally()
        raw = sorted(history.raw_columns) if self._stretch.raw_only else None
        began_ms = history.began_ms
        return Verification(
            archive=self._archive.name,
            log=str(self._path),
            config_hash=self._packs.config_hash,
            run_mode=self._run.mode,
            emit_events=self._run.emit_events,
            since=iso(self._since_ms) if self._since_ms else None,
            until=None if until_ms == FOREVER_MS else iso(until_ms),
            warm_up_from=None if began_ms is None else iso(began_ms),
            began=list(self._began),
            tally=tally,
            judged_columns=raw,
            not_judged=[] if raw is None else _not_judged(self._packs, raw),
            dropped={**history.dropped, **dict(sorted(self._torn.items()))},
        )


def _not_judged(packs: Packs, raw: Iterable[str]) -> list[str]:
    names = packs.features.names("1m").values()
    return [
        *sorted(set(names) - set(raw)),
        *("extras", "rows of 15m and 1h", "frames", "events", "suppressions"),
    ]


class _Peeked:
    """Stored minutes in the order of their labels, with a look at the next."""

    def __init__(self, minutes: Iterator[Minute]) -> None:
        self._minutes = minutes
        self._next = next(minutes, None)

    def next_before(self, label_ms: int) -> Minute | None:
        """Return the next minute if its label is earlier."""
        found = self._next
        if found is None or found[0] >= label_ms:
            return None
        self._next = next(self._minutes, None)
        return found

    def take(self, label_ms: int) -> list[Record] | None:
        """Return the records of a minute if it is the next."""
        found = self._next
        if found is None or found[0] != label_ms:
            return None
        self._next = next(self._minutes, None)
        return found[1]


@dataclass(frozen=True)
class _Part:
    """Lines between two starts of a recorder. starts : the first is where one began."""

    lines: list[bytes] = field(default_factory=list)
    starts: bool = False


def _cut_at_starts(lines: list[bytes], *, first: bool) -> Iterator[_Part]:
    """Cut lines where a recorder began; the very first line of a log is no cut."""
    at = 0
    for index, line in enumerate(lines):
        if _GAP_RECORD in line and _is_start(line) and not (first and index == 0):
            if index > at:
                yield _Part(lines[at:index], _starts(lines, at, first))
            at = index
    if at < len(lines):
        yield _Part(lines[at:], _starts(lines, at, first))


def _starts(lines: list[bytes], at: int, first: bool) -> bool:
    return not (first and at == 0) and _GAP_RECORD in lines[at] and _is_start(lines[at])


def _is_start(line: bytes) -> bool:
    """Tell whether a line is the first of a recorder."""
    record = _parsed(line.partition(b" ")[2])
    data = record.get("data") if record else None
    if not isinstance(data, dict) or record.get("channel") != "alpha.gap":
        return False
    return data.get("cause") == GAP_START and data.get("end_ms") is None


# --- which configuration ---------------------------------------------------------------------


def configuration_of(lines: Sequence[Configured], span: Span, name: str) -> Configured | None:
    """Return what ran during a stretch, None where nothing is noted.

    Raises `VerifyError` if it changed within, and names the changes.
    """
    changes = _changes(lines)
    if len(changes) < 2:
        return changes[0] if changes else None
    before = [line for line in changes if line.changed_ms <= max(span.since_ms, 0)]
    within = [
        line
        for line in changes[max(len(before), 1) :]
        if span.since_ms < line.changed_ms < span.until_ms
    ]
    if within:
        told = "\n".join(f"  {iso(line.changed_ms)}  {_words(line)}" for line in changes)
        at = iso(within[0].changed_ms)
        raise VerifyError(
            f"{name}: expected one configuration in the stretch, found {len(within) + 1}:\n{told}\n"
            f"verify them one by one, such as --until {at} and --since {at}"
        )
    return (before or changes)[-1 if before else 0]


def _changes(lines: Sequence[Configured]) -> list[Configured]:
    """Return the lines whose configuration is another than that of the line before."""
    found: list[Configured] = []
    for line in lines:
        if not found or found[-1][1:] != line[1:]:
            found.append(line)
    return found


def _words(line: Configured) -> str:
    held = "" if line.emit_events is not False else ", no events"
    return f"{line.config_hash}, mode {line.run_mode or 'not noted'}{held}"


def earlier_than(lines: Sequence[Configured], ran: Configured) -> list[str]:
    """Say which other packs were in force before those of a stretch: they shaped its past."""
    before = takewhile(lambda line: line.changed_ms < ran.changed_ms, _changes(lines))
    return sorted({line.config_hash for line in before} - {ran.config_hash})
