"""Try detector packs on rows that were computed once: the events that a replay would have made.

Rules of this file: the bytes are those of `alpha replay` with the same pack; what cannot fire and
changes nothing is passed over, everything else goes through the steps of the flow themselves. A
minute in which nothing is found, nobody is heard but the members and no detector is muted has the
frame that it has whatever is detected.  Design 3.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import msgspec
import orjson

from dataflows.calibration import ClassRate, Rates
from dataflows.collector import collect_rarely
from dataflows.connectors.rows_table import (
    OFFSET,
    ROWS,
    STRENGTH,
    TF,
    UID,
    VOLUME,
    Entry,
    RowsTable,
    TableError,
    arrow_of,
    row_of,
    table_of,
    unmarked,
    unseen_of,
)
from dataflows.connectors.topics import PUBLISHED_LINES
from dataflows.replay import (
    MADE_OF,
    REPLAY,
    MadeOf,
    Product,
    made_of,
    measure,
    model_digest,
    noted_rows,
    product_path,
)
from dataflows.trial_screen import Screen
from dataflows.version import GIT_COMMIT, PRODUCER
from operators import universe
from operators.activity import Past
from operators.budget import Budget
from operators.context import STEP_TF, Context, Marked
from operators.context_state import READ, ContextState, Newest
from operators.detect import Detect, is_of_assets
from operators.marketwide import Marketwide, market_row
from operators.publish import frame_json
from operators.records import (
    MARKET_UID,
    Candidate,
    Frame,
    Phase,
    Row,
    RowItem,
    ScoreItem,
)
from operators.rotation import STEPS, Step, Strength
from operators.score import Score, ScoreState
from operators.tiers import Standing, tier_of
from operators.universe import Member
from packs.loader import Packs
from packs.schema import MINUTE_TF, TIMEFRAMES

FRAMES = "frames"
PRODUCTS = (FRAMES, *PUBLISHED_LINES)
_FRAME_IDENTITY = ("tf", "exchange_ts", "revision", "extras")


@dataclass(frozen=True)
class Tried:
    """What a pack came to. suppressed : by reason. looked_at : rows that were not ruled out;
    candidates : what fired, on rows and on the market."""

    detector_pack: str
    config_hash: str
    products: dict[str, Product]
    rates: list[ClassRate]
    suppressed: dict[str, int]
    rows: int
    looked_at: int
    candidates: int


def assert_fitting(
    directory: Path, tried: Sequence[Packs], labels: Sequence[str] | None = None
) -> None:
    """Raise unless the rows of a directory are those that every pack would be given, with every
    reason; of the rows themselves the size is compared, `rows_table` compares the digest.

    labels : what people call the packs; by default their versions.
    """
    try:
        made = noted_rows(directory)
    except (OSError, ValueError) as error:
        raise TableError(
            f"{directory}: expected the output of `alpha replay`, found no {MADE_OF} of this"
            " version; replay once more"
        ) from error
    _assert_whole(directory / ROWS, made)
    faults = []
    for packs, name in zip(tried, labels or [p.detector_pack for p in tried], strict=True):
        own = made_of(packs)
        if made.features != own.features:
            given = f"{packs.feature_pack}, pack_rev {packs.features.pack_rev}"
            faults.append(f"{name}: the rows are of another feature pack than the given {given}")
        faults += [
            f"{name}: {tf} rows must be warm in {_listed(needed)}; these were in"
            f" {_listed(made.warm.get(tf, []))}"
            for tf, needed in own.warm.items()
            if needed != made.warm.get(tf)
        ]
    if faults:
        reasons = "".join(f"\n  {fault}" for fault in faults)
        raise TableError(f"{directory}: replay with the packs that are to be tried:{reasons}")


def _assert_whole(rows: Path, made: MadeOf) -> None:
    """Raise if rows are shorter or longer than those of their replay, as far as it said."""
    size = rows.stat().st_size if rows.is_file() else 0
    if made.rows is not None and size != made.rows.size:
        raise TableError(
            f"{rows}: expected {made.rows.size:,} bytes as {MADE_OF} says, found {size:,}: rows"
            " that were cut, or of another replay; replay once more"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def first_minute_ms(directory: Path) -> int:
    """Return the label of the first row; 0 if there is none."""
    try:
        with (directory / ROWS).open("rb") as stream:
            return row_of(stream.readline()).exchange_ts_ms
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return 0


def rows_table(
    directory: Path,
    packs: Packs,
    on_progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> RowsTable:
    """Return the table of a directory's rows for these packs, made now if need be (`table_of`)."""
    collect_rarely()
    digests = model_digest(packs.features), model_digest(packs.universe)
    try:
        noted = noted_rows(directory).rows
    except (OSError, ValueError):  # for `assert_fitting` to say
        noted = None
    sha256 = None if noted is None else noted.sha256
    return table_of(directory, packs, digests, sha256, on_progress, say)


def trial(
    directory: Path,
    out: Path,
    packs: Packs,
    table: RowsTable,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tried:
    """Try a pack on the rows of a replay's directory; write what it says into `out`.

    on_progress : is told minutes, epoch ms, and how many rows were passed since.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (
        (directory / ROWS).open("rb") as stream,
        mmap(stream.fileno(), 0, access=ACCESS_READ) as lines,
        _Files(out) as files,
    ):
        run = _Trial(packs, table, lines, files)
        for entry in table.phases:
            run.phase(entry)
            if on_progress is not None:
                on_progress(entry.minute_ms, entry.count)
    count_rows(run.rates, table)
    return Tried(
        detector_pack=packs.detector_pack,
        config_hash=packs.config_hash,
        products={name: measure(product_path(out, name)) for name in PRODUCTS},
        rates=run.rates.figures(),
        suppressed=dict(sorted(run.suppressed.items())),
        rows=sum(entry.count for entry in table.phases),
        looked_at=len(run.hits),
        candidates=run.candidates,
    )


def count_rows(rates: Rates, table: RowsTable) -> None:
    """Give the rates the time that was covered, as if each row had been handed over."""
    arrow = arrow_of()
    compute = arrow.compute
    minute = compute.equal(table.column(TF), TIMEFRAMES.index(MINUTE_TF))
    warm = compute.and_(minute, compute.invert(table.column("warmup")))
    uids, symbols = table.column(UID), table.column("symbol")
    rows = arrow.table([uids.filter(minute), symbols.filter(minute)], ["uid", "symbol"])
    last = rows.group_by("uid", use_threads=False).aggregate([("symbol", "last")])
    named = dict(zip(last["uid"].to_pylist(), last["symbol_last"].to_pylist(), strict=True))
    counts = Counter(dict.fromkeys(named, 0))
    for pair in uids.filter(warm).value_counts():
        counts[pair["values"].as_py()] = pair["counts"].as_py()
    places = compute.indices_nonzero(warm).to_pylist()
    minutes, last_ms, at = 0, 0, 0
    for entry in table.phases:
        before, at = at, bisect_left(places, entry.first + entry.count, at)
        if at > before and entry.minute_ms != last_ms:
            minutes, last_ms = minutes + 1, entry.minute_ms
    rates.add_time(named, counts, minutes)


class _Files:
    """The files of the products, written in blocks."""

    def __init__(self, out: Path) -> None:
        self._files = {
            name: product_path(out, name).open("wb", buffering=1 << 20) for name in PRODUCTS
        }

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for file in self._files.values():
            file.close()

    def line(self, name: str, text: bytes) -> None:
        """Append a line."""
        self._files[name].write(text + b"\n")


class _Sparse(Context):
    """The steps of the join, on a state that holds only what a phase needs."""

    def found(self, state: ContextState, marked: list[Marked]) -> dict[int, tuple[int, str]]:
        """Return what makes assets hot."""
        return self._found(state, marked)

    def spiked(self, state: ContextState, row: Row, found: tuple[Candidate, ...]) -> bool:
        """Tell whether an asset counts as shocked."""
        return bool(found) and self._is_spiked(state, row, found)

    def shocks(self, state: ContextState) -> int:
        """Count the shocked."""
        return self._shocks(state)

    def frame(self, state: ContextState, tf: str, phase: Phase) -> Frame:
        """Return the frame of a timeframe."""
        return self._frame(state, tf, phase, universe.members(state.universe))

    def joined(self, state: ContextState, item: RowItem) -> tuple[Row, ...]:
        """Return rows with their membership."""
        self._give_membership(state, [item], universe.members(state.universe))
        return item.rows


class _Trial:
    """One pack over all phases, in order."""

    def __init__(self, packs: Packs, table: RowsTable, lines: mmap, files: _Files) -> None:
        self._packs = packs
        self._table = table
        self._lines = lines
        self._files = files
        self._detect = Detect(packs)
        self._context = _Sparse(packs)
        self._state = self._context.initial()
        self._market = Marketwide(packs)
        self._score = Score(packs, PRODUCER, GIT_COMMIT)
        self._scores: dict[int, ScoreState] = {}
        self._budget = Budget(packs, REPLAY)
        self._settled = self._budget.initial()
        self._unseen: dict[str, tuple[str, ...]] = {tf: unseen_of(packs, tf) for tf in TIMEFRAMES}
        self._offsets = table.column(OFFSET)
        self._muted: set[int] = set()
        self._sealed: Entry | None = None
        self._volumes: dict[str, dict[int, Past]] = {}
        self.hits = Screen(table, arrow_of()).places(
            [d for d in packs.detectors if is_of_assets(d)]
        )
        self._at = 0
        self.rates = Rates()
        self.suppressed: Counter[str] = Counter()
        self.candidates = 0

    def phase(self, entry: Entry) -> None:
        """Judge one phase."""
        hits = self._hits_of(entry)
        state = self._state
        phase = Phase(entry.minute_ms, entry.final, entry.count, entry.clock_ms)
        if entry.members is not None:
            state.universe.members = {uid: Member(since_ms=1) for uid in entry.members}
        state.universe.revision = entry.revision
        if entry.tiers is not None:
            state.tiers.standings = {
                uid: Standing(tier, tier)  # type: ignore[arg-type]
                for uid, tier in entry.tiers.items()
            }
        if not entry.final:
            self._sealed = entry
            state.last, state.revisions, state.spiked, state.approx = {}, {MINUTE_TF: 0}, {}, False
            if state.universe.hot:
                universe.cool(state.universe, entry.minute_ms)
        if not entry.final and not hits and not self._muted and self._only_members():
            row = market_row(_frame_of(entry), phase)
            if not self._market.candidates(row):
                self._files.line(FRAMES, entry.frame)
                return
        else:
            for uid, place in zip(*self._read(entry, UID, TF), strict=True):
                if TIMEFRAMES[place] == MINUTE_TF:  # amended: what was found before is void
                    state.spiked[uid] = False
        marked = [self._marked(phase, place) for place in hits]
        for row, found in marked:
            if row.tf == MINUTE_TF:
                state.spiked[row.asset_uid] = self._context.spiked(state, row, found or ())
        if not entry.final:
            heard = self._context.found(state, marked)
            universe.heat(state.universe, entry.minute_ms, heard, self._packs.universe)
        frames = self._frames(entry, phase)
        for frame in frames:
            self._files.line(FRAMES, frame_json(frame))
        self._settle(phase, self._items(entry, phase, marked, frames))

    def _hits_of(self, entry: Entry) -> list[int]:
        """Return the places of this phase's rows that were not ruled out."""
        start, end = self._at, entry.first + entry.count
        while self._at < len(self.hits) and self.hits[self._at] < end:
            self._at += 1
        return self.hits[start : self._at]

    def _only_members(self) -> bool:
        """Tell whether nobody is heard but the members."""
        known = self._state.universe
        return all(universe.is_member(known, uid) for uid in known.hot)

    def _marked(self, phase: Phase, place: int) -> Marked:
        """Read a row from its line and find its candidates."""
        offset = self._offsets[place].as_py()
        line = self._lines[offset : self._lines.find(b"\n", offset)]
        row = row_of(line)
        row = unmarked(row, self._unseen[row.tf])
        (item,) = self._detect.step(None, RowItem(phase, row.asset_uid, (row,)))
        return item.rows[0], item.candidates[0]

    # --- frames ------------------------------------------------------------------------------

    def _frames(self, entry: Entry, phase: Phase) -> tuple[Frame, ...]:
        """Return the frames of a phase, in the order of their timeframes."""
        state = self._state
        if not entry.final and self._only_members():
            frame = _frame_of(entry)
            frame.columns["shock_count_5s"] = self._context.shocks(state)
            return (frame,)
        if not entry.final:
            state.revisions = {}
        tfs = {TIMEFRAMES[place] for place in self._read(entry, TF)[0]}
        self._volumes = {tf: {} for tf in TIMEFRAMES}
        if entry.final and MINUTE_TF in tfs:
            assert self._sealed is not None, entry.minute_ms
            assert self._sealed.minute_ms == entry.minute_ms, entry.minute_ms
            self._bring(self._sealed)
        self._bring(entry)
        frames = []
        for tf in sorted(tfs):
            state.activity.past = self._volumes[tf]
            frames.append(self._context.frame(state, tf, phase))
        return tuple(frames)

    def _read(self, entry: Entry, *names: str) -> list[list[Any]]:
        """Return the values of columns in a phase."""
        return [self._table.values(name, entry.first, entry.count) for name in names]

    def _bring(self, entry: Entry) -> None:
        """Put the rows of a phase into the state, with what a frame is made of."""
        read = self._read(entry, UID, TF, "symbol", VOLUME, STRENGTH)
        columns = self._read(entry, *READ)
        state, label = self._state, entry.minute_ms
        for (uid, place, symbol, volume, strength), values in zip(
            zip(*read, strict=True), zip(*columns, strict=True), strict=True
        ):
            tf = TIMEFRAMES[place]
            newest = Newest(uid, symbol, label, *values)
            state.last.setdefault(tf, {})[uid] = newest
            self._volumes[tf][uid] = Past(label, [volume], [])
            if tf == STEP_TF:
                known = state.rotation.assets.setdefault(uid, Strength())
                step = Step(label, strength, newest.z_vol_m_1)
                known.steps = [*known.steps[-(STEPS - 1) :], step]

    # --- scoring -----------------------------------------------------------------------------

    def _items(
        self, entry: Entry, phase: Phase, marked: list[Marked], frames: tuple[Frame, ...]
    ) -> list[ScoreItem]:
        """Return the market's share of a phase, and those of the assets with something to say."""
        state = self._state
        rows = tuple([market_row(frame, phase) for frame in frames])
        found = tuple([self._market.candidates(row) for row in rows])
        items = [ScoreItem(phase, MARKET_UID, rows, found, frames)]
        pairs: dict[int, list[Marked]] = {}
        for row, candidates in marked:
            pairs.setdefault(row.asset_uid, []).append((row, candidates))
        for uid in self._muted - {MARKET_UID}:  # a mute ends on a row without candidates
            seen = {row.tf for row, _ in pairs.get(uid, ())}
            silent = [row for row in self._bare(entry, uid) if row.tf not in seen]
            if silent:
                pairs.setdefault(uid, []).extend((row, ()) for row in silent)
        for uid in sorted(pairs):
            own = sorted(pairs[uid], key=lambda pair: TIMEFRAMES.index(pair[0].tf))
            rows = tuple([row for row, _ in own])
            joined = self._context.joined(state, RowItem(phase, uid, rows))
            found = tuple([candidates or () for _, candidates in own])
            items.append(ScoreItem(phase, uid, joined, found, frames, tier_of(state.tiers, uid)))
        return items

    def _bare(self, entry: Entry, wanted: int) -> list[Row]:
        """Return an asset's rows of a phase, each read from its line."""
        uids = self._table.values(UID, entry.first, entry.count)
        places = [entry.first + k for k, uid in enumerate(uids) if uid == wanted]
        rows = []
        for place in places:
            offset = self._offsets[place].as_py()
            row = row_of(self._lines[offset : self._lines.find(b"\n", offset)])
            rows.append(unmarked(row, self._unseen[row.tf]))
        return rows

    def _settle(self, phase: Phase, items: list[ScoreItem]) -> None:
        """Score, cap and write."""
        n_assets = len(items) - 1  # the join waits for these and the market
        phase = msgspec.structs.replace(phase, n_assets=n_assets)
        for item in items:
            uid = item.asset_uid
            if uid not in self._scores:
                self._scores[uid] = self._score.initial()
            own = self._scores[uid]
            (scored,) = self._score.step(own, item)
            self.candidates += scored.n_candidates
            muted = any(run.muted for run in own.runs.values())
            (self._muted.add if muted else self._muted.discard)(uid)
            scored = msgspec.structs.replace(scored, phase=phase)
            for published in self._budget.step(self._settled, scored):
                for name, take in PUBLISHED_LINES.items():
                    for line in take(published):
                        self._files.line(name, line)
                for event in published.events:
                    self.rates.add_event(event)
                self.suppressed.update(each.reason for each in published.suppressed)


def _frame_of(entry: Entry) -> Frame:
    """Return the frame of a sealed minute as if nothing was found."""
    columns = orjson.loads(entry.frame)
    tf, _, revision, extras = [columns.pop(name) for name in _FRAME_IDENTITY]
    return Frame(tf, entry.minute_ms, revision, columns, extras)
