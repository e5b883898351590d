"""The cap over all assets, and the minute's account.

Rules of this file: under pressure the lowest severity goes first, but the strongest event of every
class stays; every candidate of the minute is published or suppressed, and the sum is asserted.
Build plan 10.6; design 1.
"""

from __future__ import annotations

import msgspec

from operators.join import Join
from operators.records import Draft, Phase, Published, ScoredItem, Suppression
from packs.loader import Packs

BUDGET_GLOBAL = "budget_global"


class BudgetState(msgspec.Struct):
    """The phases that are not complete yet, and what the last minute has published."""

    version: int = 1
    minute_ms: int = 0
    spent: int = 0
    join: Join[ScoredItem] = msgspec.field(default_factory=Join[ScoredItem])


class Budget:
    """`ScoredItem`s of all assets and MARKET in, one `Published` per phase out."""

    def __init__(self, packs: Packs) -> None:
        self._cap = packs.budgets.global_per_minute

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
        kept = keep_strongest(drafts, self._cap - state.spent)
        state.spent += len(kept)
        suppressed = [s for item in items for s in item.suppressed]
        suppressed += [_over_budget(d, phase) for d in drafts if not any(d is k for k in kept)]
        candidates = 0
        for item in items:
            candidates += item.n_candidates
        assert candidates == len(kept) + len(suppressed), (phase, candidates)
        return Published(phase, tuple(draft.payload for draft in kept), tuple(suppressed))


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


def _over_budget(draft: Draft, phase: Phase) -> Suppression:
    payload = draft.payload
    return Suppression(
        asset_uid=draft.asset_uid,
        symbol=payload["symbol"],
        tf=payload["tf"],
        exchange_ts_ms=phase.minute_ms,
        revision=int(phase.final),
        detector_id=draft.detector_id,
        reason=BUDGET_GLOBAL,
        severity=draft.severity,
    )
