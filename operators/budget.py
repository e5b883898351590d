"""The cap over all assets, incidents, and the minute's account.

Rules of this file: under pressure the lowest severity goes first, but the strongest event of every
class stays; events of one minute that share a cause carry one incident; an event that breaks the
contract is a dead letter; every candidate of the minute is published or suppressed, and the sum is
asserted.  Build plan 10.6, 11.3; design 1.
"""

from __future__ import annotations

from typing import Any

import msgspec

from operators import ledger
from operators.contract import DeadLetter, dead_letter, fault_of
from operators.incidents import IncidentState, incidents_of
from operators.join import Join
from operators.records import Draft, Phase, Published, ScoredItem, Suppression
from packs.loader import Packs

LONGEST_INCIDENT = "-" * 64


class BudgetState(msgspec.Struct):
    """The phases that are not complete yet, what the last minute has published, and the incidents
    that may go on."""

    version: int = 2
    minute_ms: int = 0
    spent: int = 0
    join: Join[ScoredItem] = msgspec.field(default_factory=Join[ScoredItem])
    incidents: IncidentState = msgspec.field(default_factory=IncidentState)


class Budget:
    """`ScoredItem`s of all assets and MARKET in, one `Published` per phase out."""

    def __init__(self, packs: Packs) -> None:
        self._cap = packs.budgets.global_per_minute
        self._rule = packs.incidents

    def initial(self) -> BudgetState:
        """Return the state before the first minute."""
        return BudgetState()

    def step(self, state: BudgetState, item: ScoredItem) -> list[Published]:
        """Take one asset's item; return the phase's account when it is complete."""
        phase = item.phase
        expected = phase.n_assets + 1  # the assets and MARKET
        items = state.join.collect(phase, item.asset_uid, item, expected=expected)
        return [] if items is None else [self._settle(state, phase, items)]

    def _settle(self, state: BudgetState, phase: Phase, items: list[ScoredItem]) -> Published:
        """Publish what the minute has left: its amendments share the cap with its seal."""
        if state.minute_ms != phase.minute_ms:
            state.minute_ms, state.spent = phase.minute_ms, 0
        drafts = [draft for item in items for draft in item.drafts]
        suppressed = [s for item in items for s in item.suppressed]
        drafts, dead = _sound(drafts, phase, suppressed)
        kept = keep_strongest(drafts, self._cap - state.spent)
        state.spent += len(kept)
        suppressed += [
            _dropped(d, phase, ledger.BUDGET_GLOBAL)
            for d in drafts
            if not any(d is k for k in kept)
        ]
        candidates = 0
        for item in items:
            candidates += item.n_candidates
        assert candidates == len(kept) + len(suppressed), (phase, candidates)
        ids = incidents_of(state.incidents, kept, phase.minute_ms, self._rule)
        events = tuple(_with_incident(d.payload, i) for d, i in zip(kept, ids, strict=True))
        notes = [note for item in items for note in item.closed]
        return Published(phase, events, (*suppressed, *notes), tuple(dead))


def keep_strongest(drafts: list[Draft], cap: int) -> list[Draft]:
    """Return at most `cap` drafts in their order: each class's strongest, then by severity.

    Ties go to the earlier draft (lower asset_uid).
    """
    if len(drafts) <= cap:
        return drafts
    by_severity = sorted(range(len(drafts)), key=lambda i: (-drafts[i].severity, i))
    classes: list[str] = []
    firsts = []
    for index in by_severity:
        if drafts[index].event_class not in classes:
            classes.append(drafts[index].event_class)
            firsts.append(index)
    rest = [index for index in by_severity if index not in firsts]
    return [drafts[index] for index in sorted([*firsts, *rest][:cap])]


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
