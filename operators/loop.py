"""The same steps without an engine: a plain loop, for tests, tools and measurement."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from operators.assemble import Assemble, AssemblyState
from operators.budget import Budget, BudgetState
from operators.context import Context
from operators.context_state import ContextState
from operators.detect import Detect
from operators.feed import Item
from operators.join import by_phase
from operators.modes import Run
from operators.normal_state import NormaliseState
from operators.normalize import Normalize
from operators.records import BarItem, MarketPhase, Published, RowItem
from operators.score import Score, ScoreState
from packs.loader import Packs


class LoopState(msgspec.Struct):
    """What the steps remember: of each asset by its uid, and of all of them together."""

    assemble: dict[int, AssemblyState] = {}
    normalize: dict[int, NormaliseState] = {}
    context: ContextState = msgspec.field(default_factory=ContextState)
    score: dict[int, ScoreState] = {}
    budget: BudgetState = msgspec.field(default_factory=BudgetState)


class Loop:
    """Drives every step in one thread, in the order of the flow.

    state : what the steps remember, to go on from; it is changed in place.
    """

    def __init__(
        self,
        packs: Packs,
        producer: str,
        run: Run | None = None,
        state: LoopState | None = None,
        *,
        git_commit: str | None = None,
    ) -> None:
        self._assemble = Assemble(packs.features)
        self._normalize = Normalize(packs)
        self._detect = Detect(packs)
        self._context = Context(packs)
        self._score = Score(packs, producer, git_commit)
        self._budget = Budget(packs, run)
        self.state = LoopState() if state is None else state

    def ticks(self, items: Iterable[Item]) -> list[MarketPhase | Published]:
        """Feed ticks and boundaries; return the phases they complete."""
        states, bars = self.state.assemble, list[BarItem]()
        for uid, item in items:
            if uid not in states:
                states[uid] = self._assemble.initial()
            bars += self._assemble.step(states[uid], item)
        return self.bars(bars)

    def bars(self, items: Iterable[BarItem]) -> list[MarketPhase | Published]:
        """Feed bars at normalisation."""
        states, marked = self.state.normalize, list[RowItem]()
        for item in items:
            if item.asset_uid not in states:
                states[item.asset_uid] = self._normalize.initial()
            for row_item in self._normalize.step(states[item.asset_uid], item):
                marked += self._detect.step(None, row_item)
        return self.rows(marked)

    def rows(self, items: Iterable[RowItem]) -> list[MarketPhase | Published]:
        """Feed rows with candidates at the join."""
        outputs: list[MarketPhase | Published] = []
        states = self.state.score
        for came in by_phase(items):
            for joined in self._context.step(self.state.context, came):
                if isinstance(joined, MarketPhase):
                    outputs.append(joined)
                    continue
                uid = joined.asset_uid
                if uid not in states:
                    states[uid] = self._score.initial()
                for scored in self._score.step(states[uid], joined):
                    outputs += self._budget.step(self.state.budget, scored)
        return outputs
