"""Score candidates, debounce them, and draft events.

Rules of this file: every candidate ends as a draft or as a suppression with one reason; the key is
(class, timeframe) of an asset; the threshold is checked before debounce; of several candidates of a
key in one bar the most severe speaks for the others; time is exchange time between bar labels
(design D12).  Build plan 10; numerics 9.
"""

from __future__ import annotations

import msgspec

from operators.detect import candidate_of, is_active
from operators.events import draft_event
from operators.formulas import severity as formula
from operators.naming import Naming
from operators.records import (
    Candidate,
    Columns,
    Draft,
    Frame,
    Row,
    ScoredItem,
    ScoreItem,
    Suppression,
)
from packs.loader import Detector, Packs
from packs.schema import EventClass, Scoring

NOT_MEMBER = "not_member"
BELOW_THRESHOLD = "below_threshold"
COOLDOWN = "cooldown"
COALESCED = "coalesced"
BUDGET_SYMBOL = "budget_symbol"
MODE = "mode"

RECOVERING = "recovering"


class Emission(msgspec.Struct, frozen=True):
    """The last emission of a key."""

    at_ms: int
    severity: int
    subtype: str
    first_seen_ms: int


class ScoreState(msgspec.Struct):
    """What scoring remembers of one asset: per key the last emission, and this minute's budget."""

    version: int = 1
    emissions: dict[str, Emission] = {}
    spent_at_ms: int = 0
    spent: dict[str, int] = {}


class Scored(msgspec.Struct, frozen=True):
    """A candidate with its severity, on its way through debounce."""

    detector: Detector
    candidate: Candidate
    severity: int


class Score:
    """`ScoreItem` in, `ScoredItem` out, one asset at a time."""

    def __init__(self, packs: Packs, producer: str, git_commit: str | None = None) -> None:
        self._packs = packs
        self._producer = producer
        self._git_commit = git_commit
        self._naming = Naming(packs.features)
        self._detectors = {d.detector_id: d for d in packs.detectors}
        self._order = {d.detector_id: index for index, d in enumerate(packs.detectors)}
        self.nulls: dict[str, int] = {}
        self._on_frames = [d for d in packs.detectors if d.needs_frame and is_active(d)]

    def initial(self) -> ScoreState:
        """Return the state of an asset that never fired."""
        return ScoreState()

    def step(self, state: ScoreState, item: ScoreItem) -> list[ScoredItem]:
        """Account for every candidate of a phase."""
        drafts: list[Draft] = []
        suppressed: list[Suppression] = []
        count = 0
        frames = {frame.tf: frame for frame in item.frames}
        for row, before_join in zip(item.rows, item.candidates, strict=True):
            frame = frames[row.tf]
            candidates = [*before_join, *self._after_join(row, frame)]
            count += len(candidates)
            survivors = self._screen(state, row, frame, candidates, suppressed)
            for key, group in sorted(_by_key(survivors, row.tf).items()):
                self._decide(state, item, row, frame, key, group, drafts, suppressed)
        assert len(drafts) + len(suppressed) == count, (item.asset_uid, item.phase)
        return [ScoredItem(item.phase, item.asset_uid, tuple(drafts), tuple(suppressed), count)]

    def _after_join(self, row: Row, frame: Frame) -> list[Candidate]:
        """Evaluate the detectors that name a frame column (design 3)."""
        found = []
        for detector in self._on_frames:
            if row.tf in detector.tfs:
                columns = {**frame.columns, **self._naming.view(row)}
                fired = detector.fires(columns)
                if fired is None:
                    self.nulls[detector.detector_id] = self.nulls.get(detector.detector_id, 0) + 1
                elif fired:
                    found.append(candidate_of(detector, columns, row, self._naming))
        return found

    def _screen(
        self,
        state: ScoreState,
        row: Row,
        frame: Frame,
        candidates: list[Candidate],
        suppressed: list[Suppression],
    ) -> list[Scored]:
        """Rate candidates and drop those that a gate, membership, mode or threshold forbids."""
        survivors = []
        for candidate in candidates:
            detector = self._detectors[candidate.detector_id]
            novelty = self._novelty(state, detector, row)
            severity = rate(
                self._packs.scoring,
                detector,
                candidate,
                row,
                frame.columns["shock_count_5s"],
                novelty=novelty,
            )
            reason = _refusal(detector, candidate, row, severity)
            if reason is None:
                survivors.append(Scored(detector, candidate, severity))
            else:
                suppressed.append(_suppression(row, candidate, reason, severity))
        return survivors

    def _novelty(self, state: ScoreState, detector: Detector, row: Row) -> float:
        scoring = self._packs.scoring
        last = state.emissions.get(_key(detector, row.tf))
        flipped = last is not None and last.subtype != detector.subtype
        if last is None or (flipped and scoring.subtype_change_resets_novelty):
            dt_s = None
        else:
            dt_s = (row.exchange_ts_ms - last.at_ms) / 1000
        model = (
            formula.novelty_recovering
            if scoring.novelty == RECOVERING
            else formula.novelty_decaying
        )
        return model(dt_s=dt_s, boost=scoring.novelty_boost, half_life_s=detector.half_life_s)

    def _decide(
        self,
        state: ScoreState,
        item: ScoreItem,
        row: Row,
        frame: Frame,
        key: str,
        group: list[Scored],
        drafts: list[Draft],
        suppressed: list[Suppression],
    ) -> None:
        """Coalesce a key's candidates of one bar, then apply cooldown and the symbol's budget."""
        ordered = sorted(group, key=lambda s: (-s.severity, self._order[s.detector.detector_id]))
        best, others = ordered[0], ordered[1:]
        suppressed += [_suppression(row, s.candidate, COALESCED, s.severity) for s in others]
        if not self._may_emit(state, key, best, row):
            suppressed.append(_suppression(row, best.candidate, COOLDOWN, best.severity))
            return
        if not self._within_budget(state, best.detector.event_class, row):
            suppressed.append(_suppression(row, best.candidate, BUDGET_SYMBOL, best.severity))
            return
        emission = self._emission(state, key, best, row)
        state.emissions[key] = emission
        payload = draft_event(
            packs=self._packs,
            naming=self._naming,
            producer=self._producer,
            git_commit=self._git_commit,
            phase=item.phase,
            row=row,
            frame=frame,
            detector=best.detector,
            severity=best.severity,
            first_seen_ms=emission.first_seen_ms,
            coalesced=[s.detector.subtype for s in others],
        )
        detector = best.detector
        drafts.append(
            Draft(
                row.asset_uid,
                detector.detector_id,
                detector.event_class,
                best.severity,
                payload,
            )
        )

    def _may_emit(self, state: ScoreState, key: str, scored: Scored, row: Row) -> bool:
        """Outside the cooldown, or clearly stronger, or another subtype (plan 10.5)."""
        last = state.emissions.get(key)
        if last is None or last.subtype != scored.detector.subtype:
            return True
        cooldown_ms = int(scored.detector.cooldown_s * 1000)
        if row.exchange_ts_ms - last.at_ms >= max(cooldown_ms, 1):
            return True
        return scored.severity >= last.severity * (1.0 + self._packs.scoring.reemit_growth)

    def _within_budget(self, state: ScoreState, event_class: EventClass, row: Row) -> bool:
        if state.spent_at_ms != row.exchange_ts_ms:
            state.spent_at_ms, state.spent = row.exchange_ts_ms, {}
        spent = state.spent.get(event_class, 0)
        allowed = self._packs.budgets.per_symbol_per_minute.get(event_class)
        if allowed is not None and spent >= allowed:
            return False
        state.spent[event_class] = spent + 1
        return True

    def _emission(self, state: ScoreState, key: str, scored: Scored, row: Row) -> Emission:
        """A run of one subtype lasts while its emissions are at most two cooldowns apart."""
        last, detector = state.emissions.get(key), scored.detector
        run_ms = int(2000 * max(detector.cooldown_s, detector.half_life_s))
        running = (
            last is not None
            and last.subtype == detector.subtype
            and row.exchange_ts_ms - last.at_ms <= run_ms
        )
        first = last.first_seen_ms if last is not None and running else row.exchange_ts_ms
        return Emission(row.exchange_ts_ms, scored.severity, detector.subtype, first)


def rate(
    scoring: Scoring,
    detector: Detector,
    candidate: Candidate,
    row: Row,
    shock_count: int,
    *,
    novelty: float,
) -> int:
    """Return the severity of a candidate, 0 to 100.  Build plan 10.3, numerics 9."""
    columns = row.columns
    raw = formula.raw_score(
        primary=candidate.primary,
        secondary=candidate.secondary,
        breadth=formula.breadth(shock_count, full_at=scoring.breadth_full_count),
        novelty=novelty,
        penalty=formula.penalty(
            dq=columns["dq_penalty"],
            illiquidity=columns["illiq_penalty"],
            w_dq=scoring.w_dq,
            w_liq=scoring.w_liq,
        ),
        w1=detector.w1,
        w2=detector.w2,
        w3=detector.w3,
    )
    return formula.severity(raw, a=detector.a, b=detector.b)


def _refusal(detector: Detector, candidate: Candidate, row: Row, severity: int) -> str | None:
    """Return why a candidate must not be published at all, None if it may go on to debounce."""
    columns: Columns = row.columns
    if candidate.gate is not None:
        return candidate.gate
    if not (columns["is_in_universe"] or columns["is_hot"]):
        return NOT_MEMBER
    if detector.mode != "live":
        return MODE
    if severity < detector.publish_threshold:
        return BELOW_THRESHOLD
    return None


def _key(detector: Detector, tf: str) -> str:
    return f"{detector.event_class}:{tf}"


def _by_key(survivors: list[Scored], tf: str) -> dict[str, list[Scored]]:
    groups: dict[str, list[Scored]] = {}
    for scored in survivors:
        groups.setdefault(_key(scored.detector, tf), []).append(scored)
    return groups


def _suppression(row: Row, candidate: Candidate, reason: str, severity: int) -> Suppression:
    return Suppression(
        asset_uid=row.asset_uid,
        symbol=row.symbol,
        tf=row.tf,
        exchange_ts_ms=row.exchange_ts_ms,
        revision=row.revision,
        detector_id=candidate.detector_id,
        reason=reason,
        severity=severity,
    )
