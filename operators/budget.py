"""The cap over all assets, incidents, and the minute's account.

Rules of this file: under pressure the lowest severity goes first, but the strongest event of every
class stays; events of one minute that share a cause carry one incident; an event that breaks the
contract is a dead letter; the shadow lane has the same cap for itself and no incidents; the mode of
the run is applied last; every candidate of the minute is published, in shadow or suppressed, and
the sum is asserted.  Build plan 10.6, 11.3, 19.3; design 1.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec

from operators import ledger
from operators.contract import DeadLetter, dead_letter, fault_of
from operators.incidents import IncidentState, incidents_of
from operators.join import Join
from operators.modes import LIVE, SHADOW, Lane, Run, held_back, outlet
from operators.records import Draft, Phase, Published, ScoredItem, Suppression
from packs.loader import Packs

LONGEST_INCIDENT = "-" * 64


class BudgetState(msgspec.Struct):
    """The phases that are not complete yet, what the last minute has published in each lane, and
    the incidents that may go on."""

    version: int = 2
    minute_ms: int = 0
    spent: int = 0
    spent_shadow: int = 0
    join: Join[ScoredItem] = msgspec.field(default_factory=Join[ScoredItem])
    incidents: IncidentState = msgspec.field(default_factory=IncidentState)


class Budget:
    """`ScoredItem`s of MARKET and some assets in, one `Published` per phase out."""

    def __init__(self, packs: Packs, run: Run | None = None) -> None:
        self._cap = packs.budgets.global_per_minute
        self._rule = packs.incidents
        self._canary = packs.canary
        self._run = run or Run()

    def initial(self) -> BudgetState:
        """Return the state before the first minute."""
        return BudgetState()

    def step(self, state: BudgetState, item: ScoredItem) -> list[Published]:
        """Take one asset's item; return the accounts of the phases that are complete."""
        phase = item.phase
        expected = phase.n_assets + 1  # the assets and MARKET
        complete = state.join.collect(phase, {item.asset_uid: item}, expected=expected)
        return [self._settle(state, items[0].phase, items) for items in complete]

    def _settle(self, state: BudgetState, phase: Phase, items: list[ScoredItem]) -> Published:
        """Publish what the minute has left: its amendments share the cap with its seal."""
        if state.minute_ms != phase.minute_ms:
            state.minute_ms, state.spent, state.spent_shadow = phase.minute_ms, 0, 0
        if not any(i.n_candidates or i.drafts or i.suppressed or i.closed for i in items):
            return Published(phase, (), ())  # nearly every phase
        suppressed = [s for item in items for s in item.suppressed]
        made, dead = _sound([d for item in items for d in item.drafts], phase, suppressed)
        live = [draft for draft in made if not draft.shadow]
        shadow = [draft for draft in made if draft.shadow]
        kept = self._capped(live, self._cap - state.spent, phase, suppressed)
        tried = self._capped(shadow, self._cap - state.spent_shadow, phase, suppressed)
        state.spent += len(kept)
        state.spent_shadow += len(tried)
        n_candidates = 0
        for item in items:
            n_candidates += item.n_candidates
        assert n_candidates == len(kept) + len(tried) + len(suppressed), (phase, n_candidates)
        ids = incidents_of(state.incidents, kept, phase.minute_ms, self._rule)
        said = [_with_incident(d.payload, i) for d, i in zip(kept, ids, strict=True)]
        notes = tuple(note for item in items for note in item.closed)
        reason = held_back(self._run)
        if reason is not None:
            suppressed += [_dropped(draft, phase, reason) for draft in chain(kept, tried)]
            return Published(phase, (), (*suppressed, *notes), tuple(dead))
        outlets = [self._outlet(draft) for draft in kept]
        return Published(
            phase,
            tuple(event for event, lane in zip(said, outlets, strict=True) if lane == LIVE),
            (*suppressed, *notes),
            tuple(dead),
            (
                *(event for event, lane in zip(said, outlets, strict=True) if lane == SHADOW),
                *(draft.payload for draft in tried),
            ),
        )

    def _capped(
        self, drafts: list[Draft], cap: int, phase: Phase, suppressed: list[Suppression]
    ) -> list[Draft]:
        """Return the drafts for which the minute has room; account for the others."""
        kept = strongest(drafts, cap)
        if len(kept) == len(drafts):
            return drafts
        within = set(kept)
        suppressed += [
            _dropped(draft, phase, ledger.BUDGET_GLOBAL)
            for index, draft in enumerate(drafts)
            if index not in within
        ]
        return [drafts[index] for index in kept]

    def _outlet(self, draft: Draft) -> Lane:
        return outlet(self._run, self._canary, draft.asset_uid, draft.payload["symbol"])


def strongest(drafts: list[Draft], cap: int) -> list[int]:
    """Return the places of at most `cap` drafts, ascending: each class's strongest, then by
    severity.

    Ties go to the earlier draft (lower asset_uid).
    """
    if len(drafts) <= cap:
        return list(range(len(drafts)))
    by_severity = sorted(range(len(drafts)), key=lambda i: (-drafts[i].severity, i))
    firsts: dict[str, int] = {}  # class -> the place of its strongest
    for index in by_severity:
        firsts.setdefault(drafts[index].event_class, index)
    speaking = set(firsts.values())
    rest = [index for index in by_severity if index not in speaking]
    return sorted([*firsts.values(), *rest][:cap])


def _with_incident(payload: dict[str, Any], incident_id: str | None) -> dict[str, Any]:
    return payload if incident_id is None else {**payload, "incident_id": incident_id}


def _sound(
    drafts: list[Draft], phase: Phase, suppressed: list[Suppression]
) -> tuple[list[Draft], list[DeadLetter]]:
    """Return the drafts that keep the contract, and the dead letters of the others.

    An incident is added later: the longest there can be must have room.
    """
    sound, dead = [], []
    for draft in drafts:
        fault = fault_of(_with_incident(draft.payload, LONGEST_INCIDENT))
        if fault is None:
            sound.append(draft)
        else:
            dead.append(dead_letter(draft.payload, fault))
            suppressed.append(_dropped(draft, phase, ledger.CONTRACT))
    return sound, dead


def _dropped(draft: Draft, phase: Phase, reason: str) -> Suppression:
    payload = draft.payload
    return Suppression(
        asset_uid=draft.asset_uid,
        symbol=payload["symbol"],
        tf=payload["tf"],
        exchange_ts_ms=phase.minute_ms,
        revision=draft.revision,
        detector_id=draft.detector_id,
        reason=reason,
        severity=draft.severity,
    )
