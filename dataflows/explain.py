"""Why an event was published: every number of its severity, made again from what is stored.

Rules of this file: it computes nothing of its own: rows and frames come from an archive, and the
steps that made the event make it again; what cannot be known from the archive is said, not guessed.
The result is plain data; commands put it in words.  Build plan 14.5; design 5, 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from dataflows.archive import Archive, Span, StoredEvent, label_of
from operators import ledger
from operators.detect import Detect, gate_of
from operators.events import event_id
from operators.expressions import ColumnType, compile_expression, parts_of
from operators.marketwide import Marketwide, market_row
from operators.modes import SHADOW, Lane, lane_of
from operators.naming import Naming
from operators.publish import event_json
from operators.records import (
    MARKET_UID,
    Candidate,
    Columns,
    Draft,
    Frame,
    Phase,
    Row,
    RowItem,
    ScoreItem,
    Suppression,
)
from operators.score import (
    Emission,
    Rating,
    Score,
    ScoreState,
    debounce_key,
    emission,
    may_emit,
    novelty,
    rate,
)
from packs.loader import Detector, Packs
from packs.schema import DEFAULT_TIER, FRAME_COLUMNS

REVISIONS_MAX = 8  # of one row; amendments beyond that are not looked for
LOOK_BACK_MS = 2 * 86_400_000  # the longest cooldown or half-life is a day, twice counts as a run
# A candidate that came past debounce, so its key was quiet afterwards, and was held back later.
AFTER_DEBOUNCE = (
    ledger.CONTRACT,
    ledger.BUDGET_GLOBAL,
    ledger.DRY_RUN,
    ledger.KILL_SWITCH,
)


class Operand(msgspec.Struct, frozen=True):
    """A condition or a score as written, the columns it names, and what it came to."""

    text: str
    values: dict[str, Any]
    result: Any
    joined_by: str | None = None
    parts: tuple[Operand, ...] = ()


class Term(msgspec.Struct, frozen=True):
    """A summand of the raw score: weight times value."""

    name: str
    weight: float
    value: float
    adds: float
    note: str = ""


class Severity(msgspec.Struct, frozen=True):
    """How the severity came about: 100 / (1 + exp(-a (raw - b))), rounded half up."""

    primary: Operand
    secondary: Operand | None
    clamped: dict[str, tuple[float, float, float]]  # z column: value, low, high
    terms: tuple[Term, ...]
    raw: float
    a: float
    b: float
    severity: int
    publish_threshold: float


class Debounce(msgspec.Struct, frozen=True):
    """The key's last emission before the event, what the rule says, and the state after it."""

    key: str
    cooldown_s: float
    half_life_s: float
    before: Emission | None
    since_s: float | None
    emitted_because: str
    after: Emission


class Recomputed(msgspec.Struct, frozen=True):
    """The event made again. equal : byte for byte; None where it could not be made again.

    differences : by path, as stored and as made again. why : what stood in the way.
    """

    equal: bool | None
    differences: dict[str, tuple[Any, Any]] = {}
    why: str | None = None


class Explanation(msgspec.Struct, frozen=True):
    """Everything that is known of one event. Parts are None where the archive lacks them."""

    event_id: str
    source: str
    topic: str
    summary: dict[str, Any]
    configuration: dict[str, Any]
    row: Columns | None = None
    row_revision: int | None = None
    frame: Columns | None = None
    tier: str = DEFAULT_TIER
    detector: str | None = None
    gate: str | None = None
    conditions: tuple[Operand, ...] = ()
    guards: tuple[Operand, ...] = ()
    trigger: Operand | None = None
    severity: Severity | None = None
    debounce: Debounce | None = None
    suppressed: tuple[Suppression, ...] = ()
    recomputed: Recomputed = Recomputed(None)


def explain(archive: Archive, packs: Packs, stored: StoredEvent) -> Explanation:
    """Return why an event was published.

    packs : what the flow runs with; of another configuration than the event's they explain nothing.
    """
    payload = stored.payload
    label_ms = label_of(payload["exchange_ts"])
    uid, tf = payload["asset_uid"], payload["tf"]
    known = Explanation(
        event_id=payload["event_id"],
        source=archive.name,
        topic="shadow" if stored.shadow else "live",
        summary={name: payload[name] for name in _SUMMARY if name in payload},
        configuration={**payload["provenance"], "packs_at_hand": packs.config_hash},
        suppressed=tuple(archive.suppressed(uid, tf, Span(label_ms - 1, label_ms))),
    )
    if payload["provenance"]["config_hash"] != packs.config_hash:
        why = "made with another configuration: give the packs it names"
        return _with(known, recomputed=Recomputed(None, why=why))
    frame = archive.frame(tf, label_ms)
    if frame is None:
        return _with(known, recomputed=Recomputed(None, why="its frame is not in the archive"))
    revision = _revision_of(payload, packs)
    row: Row | None
    if uid == MARKET_UID:
        row = _market_row(frame, payload) if frame.revision == revision else None
    else:
        # An amended minute folds the frame again; the event says what it was made with.
        frame = msgspec.structs.replace(frame, columns=frame.columns | payload["market_frame"])
        row = archive.row(uid, tf, label_ms, revision)
    known = _with(known, frame=frame.columns, row_revision=revision)
    if row is None:
        why = f"revision {revision} of its row is not in the archive: amended since, or dropped"
        return _with(known, recomputed=Recomputed(None, why=why))
    return _Maker(archive, packs, stored, row, frame).explained(_with(known, row=row.columns))


_SUMMARY = (
    *("symbol", "asset_uid", "tf", "class", "subtype", "severity", "exchange_ts", "emitted_at"),
    *("incident_id", "coalesced", "membership"),
)


class _Maker:
    """Makes one event again from its row and frame."""

    def __init__(
        self, archive: Archive, packs: Packs, stored: StoredEvent, row: Row, frame: Frame
    ) -> None:
        self._archive = archive
        self._packs = packs
        self._stored = stored
        self._naming = Naming(packs.features)
        self._columns_of_pack = _types(packs)
        self._row = row
        self._frame = frame
        self._item = self._score_item()

    def explained(self, known: Explanation) -> Explanation:
        """Return what is known, with what the steps say."""
        payload, row = self._stored.payload, self._row
        detector = self._detector_of(payload)
        if detector is None:
            why = "no detector of the pack has its class and subtype"
            return _with(known, recomputed=Recomputed(None, why=why))
        view = self._view(detector)
        known = _with(
            known,
            tier=self._item.tier,
            detector=detector.detector_id,
            gate=gate_of(view),
            conditions=tuple(self._operand(c.text, view) for c in detector.conditions),
            guards=tuple(self._operand(c.text, view) for c in detector.guards),
            trigger=self._operand(
                detector.tier_triggers.get(self._item.tier, detector.trigger).text, view
            ),
        )
        lane = self._lane(detector)
        before = self._last_emission(detector, lane == SHADOW)
        candidate = self._candidate(detector)
        if candidate is None:
            recomputed = Recomputed(False, why=f"{detector.detector_id} does not fire on its row")
            return _with(known, recomputed=recomputed)
        scoring, shocks = self._packs.scoring, self._frame.columns["shock_count_5s"]
        fresh = novelty(scoring, detector, before, row.exchange_ts_ms)
        rating = rate(scoring, detector, candidate, row, shocks, novelty=fresh)
        state = ScoreState()
        key = debounce_key(detector.event_class, row.tf, lane)
        if before is not None:
            state.emissions[key] = before
        return _with(
            known,
            severity=self._severity(detector, candidate, rating, view),
            debounce=self._debounce(detector, rating, before, key),
            recomputed=self._recomputed(state, detector),
        )

    # --- what the steps are given -----------------------------------------------------------

    def _score_item(self) -> ScoreItem:
        """Return the item that scoring got, with the candidates found on the row."""
        row, packs = self._row, self._packs
        emitted_ms = label_of(self._stored.payload["emitted_at"])
        phase = Phase(row.exchange_ts_ms, row.revision > 0, 1, emitted_ms)
        if row.asset_uid == MARKET_UID:
            found = Marketwide(packs).candidates(row)
        else:
            kept = msgspec.structs.replace(row, columns=row.columns.copy())
            (marked,) = Detect(packs).step(None, RowItem(phase, row.asset_uid, (kept,)))
            (found,) = marked.candidates
        tier = self._archive.tier(row.asset_uid, row.exchange_ts_ms) or DEFAULT_TIER
        return ScoreItem(phase, row.asset_uid, (row,), (found,), (self._frame,), tier)

    def _candidate(self, detector: Detector) -> Candidate | None:
        (found,) = self._item.candidates
        later = Score(self._packs, "").after_join(self._row, self._frame, self._item.tier)
        both = (*found, *later)
        return next((c for c in both if c.detector_id == detector.detector_id), None)

    def _last_emission(self, detector: Detector, shadow: bool) -> Emission | None:
        """Return the last emission of the key before the event.

        Emissions are the stored events, and the candidates that came past debounce and were held
        back afterwards. One whose own run began before the archive does is dated by the archive.
        """
        row, own = self._row, self._stored.payload
        span = Span(row.exchange_ts_ms - LOOK_BACK_MS, row.exchange_ts_ms)
        told: dict[int, Emission] = {}
        for event in self._archive.events(row.asset_uid, row.tf, span):
            at = event.payload
            same = at["debounce_key"] == own["debounce_key"] and _is_before(at, own)
            if same and self._is_shadow_lane(at) == shadow:
                at_ms, first_ms = label_of(at["exchange_ts"]), label_of(_first_seen(at))
                told[at_ms] = Emission(at_ms, at["severity"], at["subtype"], first_ms)
        held: dict[int, tuple[Detector, int]] = {}
        for each in self._archive.suppressed(row.asset_uid, row.tf, span):
            other = self._detector(each.detector_id)
            if each.reason not in AFTER_DEBOUNCE or each.exchange_ts_ms >= row.exchange_ts_ms:
                continue
            if other is None or other.event_class != detector.event_class:
                continue
            if (self._lane(other) == SHADOW) == shadow:
                held[each.exchange_ts_ms] = (other, each.severity or 0)
        last: Emission | None = None
        for at_ms in sorted(told.keys() | held.keys()):
            last = told[at_ms] if at_ms in told else emission(last, *held[at_ms], at_ms)
        return last

    def _is_shadow_lane(self, payload: Mapping[str, Any]) -> bool:
        """Tell the lane of an event by its detector: a run in shadow publishes the live lane."""
        detector = self._detector_of(payload)
        return detector is not None and self._lane(detector) == SHADOW

    def _lane(self, detector: Detector) -> Lane:
        row = self._row
        return lane_of(detector, self._packs.canary, row.asset_uid, row.symbol)

    def _detector_of(self, payload: Mapping[str, Any]) -> Detector | None:
        """Return the first detector of an event's class and subtype."""
        named = (payload["class"], payload["subtype"])
        detectors = self._packs.detectors
        return next((d for d in detectors if (d.event_class, d.subtype) == named), None)

    def _detector(self, detector_id: str) -> Detector | None:
        return next((d for d in self._packs.detectors if d.detector_id == detector_id), None)

    # --- what is shown ----------------------------------------------------------------------

    def _view(self, detector: Detector) -> Columns:
        view = self._naming.view(self._row)
        if detector.needs_frame and self._row.asset_uid != MARKET_UID:
            return {**self._frame.columns, **view}
        return view

    def _operand(self, text: str, view: Columns) -> Operand:
        """Return a condition with the conditions it is made of."""
        joined_by, parts = parts_of(text)
        expression = compile_expression(text, self._columns_of_pack, ColumnType.BOOLEAN)
        values = {name: view.get(name) for name in expression.names}
        result = expression.evaluate(view)
        if joined_by is None:
            return Operand(text, values, result)
        return Operand(
            text, values, result, joined_by, tuple(self._operand(part, view) for part in parts)
        )

    def _severity(
        self, detector: Detector, candidate: Candidate, rating: Rating, view: Columns
    ) -> Severity:
        clamped = self._naming.clamped(self._row, view)
        names = set(detector.primary.names) | set(
            detector.secondary.names if detector.secondary is not None else ()
        )
        bounds = self._row.extras.get("clamp", {})
        cut = {}
        for name in sorted(names):
            stored = self._naming.stored(name, self._row.tf)
            if stored in bounds and view.get(name) is not None and clamped[name] != view[name]:
                low, high = bounds[stored]
                cut[name] = (view[name], low, high)
        scoring = self._packs.scoring
        support = max(0.0, candidate.secondary)
        terms = (
            Term("primary", detector.w1, candidate.primary, detector.w1 * candidate.primary),
            Term(
                "secondary",
                detector.w2,
                support,
                detector.w2 * support,
                "" if candidate.secondary >= 0.0 else f"{candidate.secondary} counts as 0",
            ),
            Term(
                "breadth",
                detector.w3,
                rating.breadth,
                detector.w3 * rating.breadth,
                f"{self._frame.columns['shock_count_5s']} of {scoring.breadth_full_count} shocked",
            ),
            Term("novelty", 1.0, rating.novelty, rating.novelty, scoring.novelty),
            Term("penalty", -1.0, rating.penalty, 0.0 - rating.penalty, "quality and liquidity"),
        )
        return Severity(
            primary=_score_operand(
                detector.primary.text, detector.primary.names, clamped, candidate.primary
            ),
            secondary=None
            if detector.secondary is None
            else _score_operand(
                detector.secondary.text, detector.secondary.names, clamped, candidate.secondary
            ),
            clamped=cut,
            terms=terms,
            raw=rating.raw,
            a=detector.a,
            b=detector.b,
            severity=rating.severity,
            publish_threshold=detector.publish_threshold,
        )

    def _debounce(
        self, detector: Detector, rating: Rating, before: Emission | None, key: str
    ) -> Debounce:
        label_ms, scoring = self._row.exchange_ts_ms, self._packs.scoring
        since_s = None if before is None else (label_ms - before.at_ms) / 1000
        if before is None:
            because = "nothing was emitted under the key lately"
        elif not may_emit(scoring, detector, rating.severity, before, label_ms):
            because = "the rule would have kept it back"
        elif before.subtype != detector.subtype:
            because = f"another subtype: {before.subtype} before"
        elif since_s is not None and since_s >= detector.cooldown_s:
            because = "the cooldown was over"
        else:
            because = f"{rating.severity} is clearly stronger than {before.severity}"
        after = emission(before, detector, rating.severity, label_ms)
        return Debounce(
            key, detector.cooldown_s, detector.half_life_s, before, since_s, because, after
        )

    def _recomputed(self, state: ScoreState, detector: Detector) -> Recomputed:
        """Run the scoring step and compare the event it drafts with the stored bytes."""
        payload = self._stored.payload
        origin = payload["provenance"]
        step = Score(self._packs, origin["producer"], origin["git_commit"])
        (scored,) = step.step(state, self._item)
        drafts = [d for d in scored.drafts if d.detector_id == detector.detector_id]
        if not drafts:
            reasons = {s.reason for s in scored.suppressed if s.detector_id == detector.detector_id}
            return Recomputed(False, why=f"it is not published again: {', '.join(sorted(reasons))}")
        made = _published(drafts[0], payload)
        if event_json(made) == self._stored.payload_bytes:
            return Recomputed(True)
        return Recomputed(False, dict(_differences(payload, made, "")))


# --- helpers -------------------------------------------------------------------------------------


def _with(known: Explanation, **more: Any) -> Explanation:
    return msgspec.structs.replace(known, **more)


def _market_row(frame: Frame, payload: Mapping[str, Any]) -> Row:
    label_ms, emitted_ms = label_of(payload["exchange_ts"]), label_of(payload["emitted_at"])
    return market_row(frame, Phase(label_ms, False, 1, emitted_ms))


def _revision_of(payload: Mapping[str, Any], packs: Packs) -> int | None:
    """Return the revision of the row an event rests on: its id is a hash of it."""
    for revision in range(REVISIONS_MAX):
        made = event_id(
            label_of(payload["emitted_at"]),
            asset_uid=payload["asset_uid"],
            event_class=payload["class"],
            subtype=payload["subtype"],
            tf=payload["tf"],
            exchange_ts_ms=label_of(payload["exchange_ts"]),
            revision=revision,
            config_hash=packs.config_hash,
        )
        if made == payload["event_id"]:
            return revision
    return None


def _first_seen(payload: Mapping[str, Any]) -> str:
    return str(payload["novelty"]["first_seen_at"])


def _is_before(payload: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether an event was published before another of its key."""
    return bool(label_of(payload["emitted_at"]) < label_of(other["emitted_at"]))


def _published(draft: Draft, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a draft with the incident it was given: that is a matter of all assets together."""
    incident = stored.get("incident_id")
    return draft.payload if incident is None else {**draft.payload, "incident_id": incident}


def _types(packs: Packs) -> dict[str, ColumnType]:
    return {**FRAME_COLUMNS, **packs.features.column_types()}


def _score_operand(text: str, names: Iterable[str], clamped: Columns, result: float) -> Operand:
    return Operand(text, {name: clamped.get(name) for name in names}, result)


def _differences(stored: Any, made: Any, path: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the paths at which two JSON values differ."""
    if isinstance(stored, dict) and isinstance(made, dict):
        for name in sorted(stored.keys() | made.keys()):
            yield from _differences(stored.get(name), made.get(name), f"{path}.{name}".lstrip("."))
    elif stored != made or type(stored) is not type(made):
        yield path, (stored, made)
