"""Score candidates, debounce them, and draft events.

Rules of this file: every candidate ends as a draft or as a suppression with one reason; the key is
(class, timeframe) of an asset; the threshold is checked before debounce; of several candidates of a
key in one bar the most severe speaks for the others; the live and the shadow lane (operators/modes)
have keys and budgets of their own; a detector that fires nearly every minute for
long has met a new level, not an event, and is muted until it falls silent; time is exchange time
between bar labels (design D12).  Build plan 10; numerics 9.
"""

from __future__ import annotations

from functools import partial
from math import ceil

import msgspec

from operators import ledger
from operators.detect import candidates_on, is_of_assets
from operators.events import WINDOW_SEC, draft_event, shown_columns
from operators.formulas import severity as formula
from operators.modes import LIVE, SHADOW, Lane, lane_of
from operators.naming import Naming
from operators.records import (
    MARKET_UID,
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
from packs.schema import TIERS, TIMEFRAMES, EventClass, Scoring, TierName

RECOVERING = "recovering"
# Share of the bars of a run on which a detector must have fired for a new level.
LEVEL_SHIFT_SHARE = 0.8
SLOW_WINDOW = "_m_5"  # of a subtype: its direction is that of the five-minute return


class Emission(msgspec.Struct, frozen=True):
    """The last emission of a key."""

    at_ms: int
    severity: int
    subtype: str
    first_seen_ms: int


class Run(msgspec.Struct):
    """How long a detector has been firing: bars from the first to the last label, fired in them.

    severity : of its last event in the run, 0 for none. muted : since it met a new level; it is
    closed when it has been silent for its cooldown.
    """

    since_ms: int
    last_ms: int
    fired: int = 1
    severity: int = 0
    muted: bool = False


class ScoreState(msgspec.Struct):
    """What scoring remembers of one asset: per key the last emission, per detector its run, and
    this minute's budget. Bound: the keys and detectors of the pack."""

    version: int = 2
    emissions: dict[str, Emission] = {}
    runs: dict[str, Run] = {}
    spent_at_ms: int = 0
    spent: dict[str, int] = {}


class Scored(msgspec.Struct, frozen=True):
    """A candidate with its severity, on its way through debounce."""

    detector: Detector
    candidate: Candidate
    severity: int
    lane: Lane = LIVE


class Rating(msgspec.Struct, frozen=True, gc=False):
    """A severity, 0 to 100, and the terms of its raw score that are no inputs."""

    severity: int
    raw: float
    breadth: float
    novelty: float
    penalty: float


class Score:
    """`ScoreItem` in, `ScoredItem` out, one asset at a time."""

    def __init__(self, packs: Packs, producer: str, git_commit: str | None = None) -> None:
        self._packs = packs
        self._producer = producer
        self._git_commit = git_commit
        self._naming = Naming(packs.features)
        self._detectors = {d.detector_id: d for d in packs.detectors}
        self._shown: dict[tuple[str, str], tuple[str, ...]] = {
            (d.detector_id, tf): shown_columns(d, tf, self._naming)
            for d in packs.detectors
            for tf in TIMEFRAMES
        }
        self._order = {d.detector_id: index for index, d in enumerate(packs.detectors)}
        self._budgets: dict[str, dict[EventClass, int]] = {
            tier: _budgets_of(tier, packs) for tier in TIERS
        }
        self.nulls: dict[str, int] = {}
        self._on_frames = on_frames(packs)
        self._nothing_on_frames = not any(self._on_frames.values())

    def initial(self) -> ScoreState:
        """Return the state of an asset that never fired."""
        return ScoreState()

    def step(self, state: ScoreState, item: ScoreItem) -> list[ScoredItem]:
        """Account for every candidate of a phase."""
        if not state.runs and self._nothing_on_frames and not any(item.candidates):
            return [ScoredItem(item.phase, item.asset_uid, (), (), 0)]
        drafts: list[Draft] = []
        suppressed: list[Suppression] = []
        closed: list[Suppression] = []
        count = 0
        frames = {frame.tf: frame for frame in item.frames}
        for row, before_join in zip(item.rows, item.candidates, strict=True):
            frame = frames[row.tf]
            candidates = [*before_join, *self.after_join(row, frame, item.tier)]
            count += len(candidates)
            survivors = self._screen(state, item, row, frame, candidates, suppressed)
            closed += self._close_runs(state, row, candidates)
            survivors = self._mute(state, row, survivors, suppressed)
            for key, group in sorted(_by_key(survivors, row.tf).items()):
                self._decide(state, item, row, frame, key, group, drafts, suppressed)
        assert len(drafts) + len(suppressed) == count, (item.asset_uid, item.phase)
        return [
            ScoredItem(
                item.phase,
                item.asset_uid,
                tuple(drafts),
                tuple(suppressed),
                count,
                tuple(closed),
            )
        ]

    def after_join(self, row: Row, frame: Frame, tier: str) -> tuple[Candidate, ...]:
        """Return what the detectors that name a frame column find on a row (design 3)."""
        detectors = self._on_frames[row.tf]
        if row.asset_uid == MARKET_UID or not detectors:
            return ()
        columns = {**frame.columns, **self._naming.view(row)}
        fires = partial(Detector.fires, tier=tier)
        return candidates_on(row, columns, detectors, fires, self._naming, self.nulls)

    def _screen(
        self,
        state: ScoreState,
        item: ScoreItem,
        row: Row,
        frame: Frame,
        candidates: list[Candidate],
        suppressed: list[Suppression],
    ) -> list[Scored]:
        """Rate candidates and drop those that gate, membership, tier or threshold forbid."""
        survivors = []
        for candidate in candidates:
            detector = self._detectors[candidate.detector_id]
            lane = lane_of(detector, self._packs.canary, row.asset_uid, row.symbol)
            last = state.emissions.get(debounce_key(detector.event_class, row.tf, lane))
            severity = rate(
                self._packs.scoring,
                detector,
                candidate,
                row,
                frame.columns["shock_count_5s"],
                novelty=novelty(self._packs.scoring, detector, last, row.exchange_ts_ms),
            ).severity
            reason = self._bar(detector, candidate, row, item.tier)
            if reason is None:
                self._extend_run(state, detector, row)
                if severity < detector.publish_threshold:
                    reason = ledger.BELOW_THRESHOLD
            if reason is None:
                survivors.append(Scored(detector, candidate, severity, lane))
            else:
                suppressed.append(_suppression(row, candidate.detector_id, reason, severity))
        return survivors

    def _bar(self, detector: Detector, candidate: Candidate, row: Row, tier: str) -> str | None:
        """Return why a candidate must not be published however severe it is, None if it may."""
        columns: Columns = row.columns
        if candidate.gate is not None:
            return candidate.gate
        if not (columns["is_in_universe"] or columns["is_hot"]):
            return ledger.NOT_MEMBER
        if not detector.enabled:
            return ledger.DISABLED
        return None if holds_in_tier(detector, row, tier, self._naming) else ledger.BELOW_THRESHOLD

    # --- level shifts ------------------------------------------------------------------------

    def _extend_run(self, state: ScoreState, detector: Detector, row: Row) -> None:
        """Count a bar on which a detector fired, weak or strong; an amended one is not counted
        again."""
        key, label = _run_key(detector, row.tf), row.exchange_ts_ms
        run = state.runs.get(key)
        if run is None or not (run.muted or label - run.last_ms <= quiet_ms(detector, row.tf)):
            state.runs[key] = Run(label, label)
        elif label > run.last_ms:
            run.last_ms, run.fired = label, run.fired + 1

    def _mute(
        self,
        state: ScoreState,
        row: Row,
        survivors: list[Scored],
        suppressed: list[Suppression],
    ) -> list[Scored]:
        """Drop what only repeats a new level.

        A candidate that is clearly stronger than the last event of its own detector ends the mute:
        something new has happened.
        """
        least = self._packs.scoring.level_shift_bars
        if not least:
            return survivors
        heard = []
        for scored in survivors:
            key = _run_key(scored.detector, row.tf)
            run = state.runs[key]
            louder = is_stronger(self._packs.scoring, scored.severity, run.severity)
            if run.muted and run.severity and louder:
                run = state.runs[key] = Run(row.exchange_ts_ms, row.exchange_ts_ms)
            began = not run.muted and _is_level_shift(run, row.tf, least)
            run.muted = run.muted or began
            if not run.muted:
                heard.append(scored)
                continue
            told = ledger.LEVEL_SHIFT if began else None
            suppressed.append(
                _suppression(
                    row, scored.detector.detector_id, ledger.COOLDOWN, scored.severity, told
                )
            )
        return heard

    def _close_runs(
        self, state: ScoreState, row: Row, candidates: list[Candidate]
    ) -> list[Suppression]:
        """End the runs of detectors that have been silent for their cooldown; note the muted."""
        firing = {candidate.detector_id for candidate in candidates}
        notes = []
        for key, run in list(state.runs.items()):
            detector_id, _, tf = key.rpartition(":")
            detector = self._detectors.get(detector_id)
            if detector is None:  # of an earlier pack
                del state.runs[key]
                continue
            silent_ms = row.exchange_ts_ms - run.last_ms
            if tf != row.tf or detector_id in firing or silent_ms <= quiet_ms(detector, row.tf):
                continue
            del state.runs[key]
            if run.muted:
                notes.append(
                    _suppression(row, detector_id, ledger.COOLDOWN, run.severity, ledger.CLOSED)
                )
        return notes

    # --- cooldown and budget -----------------------------------------------------------------

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
        suppressed += [
            _suppression(row, s.detector.detector_id, ledger.COALESCED, s.severity) for s in others
        ]
        scoring, last = self._packs.scoring, state.emissions.get(key)
        if not may_emit(scoring, best.detector, best.severity, last, row.exchange_ts_ms):
            suppressed.append(
                _suppression(row, best.detector.detector_id, ledger.COOLDOWN, best.severity)
            )
            return
        if not self._within_budget(state, best, row, item.tier):
            suppressed.append(
                _suppression(row, best.detector.detector_id, ledger.BUDGET_SYMBOL, best.severity)
            )
            return
        made = emission(last, best.detector, best.severity, row.exchange_ts_ms)
        state.emissions[key] = made
        state.runs[_run_key(best.detector, row.tf)].severity = best.severity
        payload = draft_event(
            packs=self._packs,
            shown=self._shown[best.detector.detector_id, row.tf],
            producer=self._producer,
            git_commit=self._git_commit,
            phase=item.phase,
            row=row,
            frame=frame,
            detector=best.detector,
            severity=best.severity,
            first_seen_ms=made.first_seen_ms,
            coalesced=_others(best, others),
        )
        detector = best.detector
        drafts.append(
            Draft(
                row.asset_uid,
                detector.detector_id,
                detector.event_class,
                best.severity,
                payload,
                _direction(detector, row, self._naming),
                row.revision,
                best.lane == SHADOW,
            )
        )

    def _within_budget(self, state: ScoreState, scored: Scored, row: Row, tier: str) -> bool:
        event_class = scored.detector.event_class
        if state.spent_at_ms != row.exchange_ts_ms:
            state.spent_at_ms, state.spent = row.exchange_ts_ms, {}
        account = _in_lane(event_class, scored.lane)
        spent = state.spent.get(account, 0)
        allowed = self._budgets[tier].get(event_class)
        if allowed is not None and spent >= allowed:
            return False
        state.spent[account] = spent + 1
        return True


def on_frames(packs: Packs) -> dict[str, list[Detector]]:
    """Return by timeframe the detectors of assets that can be evaluated only after the join."""
    return {
        tf: [d for d in packs.detectors if d.needs_frame and is_of_assets(d) and tf in d.tfs]
        for tf in TIMEFRAMES
    }


def least_bars_of_a_mute(scoring: Scoring) -> int:
    """Return on how many bars of a run a detector has fired at least when it is muted."""
    return max(1, ceil(LEVEL_SHIFT_SHARE * scoring.level_shift_bars))


def novelty(scoring: Scoring, detector: Detector, last: Emission | None, label_ms: int) -> float:
    """Return the novelty of what a detector finds after its key's last emission (plan 10.4)."""
    flipped = last is not None and last.subtype != detector.subtype
    if last is None or (flipped and scoring.subtype_change_resets_novelty):
        dt_s = None
    else:
        dt_s = (label_ms - last.at_ms) / 1000
    model = (
        formula.novelty_recovering if scoring.novelty == RECOVERING else formula.novelty_decaying
    )
    return model(dt_s=dt_s, boost=scoring.novelty_boost, half_life_s=detector.half_life_s)


def may_emit(
    scoring: Scoring, detector: Detector, severity: int, last: Emission | None, label_ms: int
) -> bool:
    """Outside the cooldown, or clearly stronger, or another subtype (plan 10.5)."""
    if last is None or last.subtype != detector.subtype:
        return True
    cooldown_ms = int(detector.cooldown_s * 1000)
    if label_ms - last.at_ms >= max(cooldown_ms, 1):
        return True
    return is_stronger(scoring, severity, last.severity)


def is_stronger(scoring: Scoring, severity: int, last_severity: int) -> bool:
    """Tell whether something new has happened although a key is quiet (plan 10.5)."""
    return severity >= last_severity * (1.0 + scoring.reemit_growth)


def emission(last: Emission | None, detector: Detector, severity: int, label_ms: int) -> Emission:
    """Return the emission that follows another of its key.

    A run of one subtype lasts while its emissions are at most two cooldowns apart.
    """
    run_ms = int(2000 * max(detector.cooldown_s, detector.half_life_s))
    first_ms = label_ms
    if last is not None and last.subtype == detector.subtype and label_ms - last.at_ms <= run_ms:
        first_ms = last.first_seen_ms
    return Emission(label_ms, severity, detector.subtype, first_ms)


def rate(
    scoring: Scoring,
    detector: Detector,
    candidate: Candidate,
    row: Row,
    shock_count: int,
    *,
    novelty: float,
) -> Rating:
    """Return the severity of a candidate and what it is made of.  Build plan 10.3, numerics 9."""
    breadth = formula.breadth(shock_count, full_at=scoring.breadth_full_count)
    penalty = formula.penalty(
        dq=row.columns["dq_penalty"],
        illiquidity=row.columns["illiq_penalty"],
        w_dq=scoring.w_dq,
        w_liq=scoring.w_liq,
    )
    raw = formula.raw_score(
        primary=candidate.primary,
        secondary=candidate.secondary,
        breadth=breadth,
        novelty=novelty,
        penalty=penalty,
        w1=detector.w1,
        w2=detector.w2,
        w3=detector.w3,
    )
    severity = formula.severity(raw, a=detector.a, b=detector.b)
    return Rating(severity, raw, breadth, novelty, penalty)


def holds_in_tier(detector: Detector, row: Row, tier: str, naming: Naming) -> bool:
    """Tell whether a candidate's trigger holds with the threshold of its asset's tier.

    Detection let it through with the lowest threshold of all tiers (plan D.7); what is evaluated
    after the join has its own tier's already.
    """
    if not detector.tier_triggers or detector.needs_frame:
        return True
    return detector.fires(naming.view(row), tier) is True


def _budgets_of(tier: TierName, packs: Packs) -> dict[EventClass, int]:
    """Return how many events a minute and class an asset of a tier may publish."""
    own = packs.overrides.tiers.get(tier)
    return packs.budgets.per_symbol_per_minute | (own.budgets if own is not None else {})


def _run_key(detector: Detector, tf: str) -> str:
    return f"{detector.detector_id}:{tf}"


def quiet_ms(detector: Detector, tf: str) -> int:
    """Return how long a detector is silent before its run is over: one bar without is no end."""
    return max(int(detector.cooldown_s * 1000), 2 * 1000 * WINDOW_SEC[tf])


def _is_level_shift(run: Run, tf: str, least: int) -> bool:
    """Tell whether a run has lasted so many bars, and fired on nearly every one."""
    bars = (run.last_ms - run.since_ms) // (1000 * WINDOW_SEC[tf]) + 1
    return bars >= least and run.fired >= LEVEL_SHIFT_SHARE * bars


def _others(best: Scored, others: list[Scored]) -> list[str]:
    """Return the other subtypes that one event speaks for; two detectors may share a subtype."""
    named = dict.fromkeys(s.detector.subtype for s in others)
    return [subtype for subtype in named if subtype != best.detector.subtype]


def _direction(detector: Detector, row: Row, naming: Naming) -> int:
    """Return the sign of the return over the detector's window, 0 where there is none."""
    name = "ret_m_5" if detector.subtype.endswith(SLOW_WINDOW) else "ret_m_1"
    value = naming.read(row, name)
    if not isinstance(value, float) or value == 0.0:
        return 0
    return 1 if value > 0.0 else -1


def debounce_key(event_class: EventClass, tf: str, lane: Lane) -> str:
    """Return the key under which an asset's emissions are remembered."""
    return _in_lane(f"{event_class}:{tf}", lane)


def _in_lane(name: str, lane: Lane) -> str:
    """Return the name of an account in a lane; live ones have the plain name."""
    return name if lane == LIVE else f"{name}:{lane}"


def _by_key(survivors: list[Scored], tf: str) -> dict[str, list[Scored]]:
    groups: dict[str, list[Scored]] = {}
    for scored in survivors:
        key = debounce_key(scored.detector.event_class, tf, scored.lane)
        groups.setdefault(key, []).append(scored)
    return groups


def _suppression(
    row: Row, detector_id: str, reason: str, severity: int, state: str | None = None
) -> Suppression:
    return Suppression(
        asset_uid=row.asset_uid,
        symbol=row.symbol,
        tf=row.tf,
        exchange_ts_ms=row.exchange_ts_ms,
        revision=row.revision,
        detector_id=detector_id,
        reason=reason,
        severity=severity,
        state=state,
    )
