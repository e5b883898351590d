"""The same steps without an engine: a plain loop, for tests, tools and measurement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from operators.assemble import Assemble
from operators.budget import Budget
from operators.context import Context
from operators.detect import Detect
from operators.feed import Item
from operators.modes import Run
from operators.normalize import Normalize
from operators.records import BarItem, MarketPhase, Published, RowItem
from operators.score import Score
from packs.loader import Packs


class Loop:
    """Drives every step in one thread, in the order of the flow."""

    def __init__(self, packs: Packs, producer: str, run: Run | None = None) -> None:
        self._assemble = Assemble(packs.features)
        self._normalize = Normalize(packs)
        self._detect = Detect(packs)
        self._context = Context(packs)
        self._score = Score(packs, producer)
        self._budget = Budget(packs, run)
        self._assets: dict[int, Any] = {}
        self._rows: dict[int, Any] = {}
        self._scores: dict[int, Any] = {}
        self._joined = self._context.initial()
        self._account = self._budget.initial()

    def ticks(self, items: Iterable[Item]) -> list[MarketPhase | Published]:
        """Feed ticks and boundaries; return the phases they complete."""
        outputs: list[MarketPhase | Published] = []
        for uid, item in items:
            if uid not in self._assets:
                self._assets[uid] = self._assemble.initial()
            outputs += self.bars(self._assemble.step(self._assets[uid], item))
        return outputs

    def bars(self, items: Iterable[BarItem]) -> list[MarketPhase | Published]:
        """Feed bars at normalisation."""
        outputs: list[MarketPhase | Published] = []
        for item in items:
            if item.asset_uid not in self._rows:
                self._rows[item.asset_uid] = self._normalize.initial()
            for row_item in self._normalize.step(self._rows[item.asset_uid], item):
                outputs += self.rows(self._detect.step(None, row_item))
        return outputs

    def rows(self, items: Iterable[RowItem]) -> list[MarketPhase | Published]:
        """Feed rows with candidates at the join."""
        outputs: list[MarketPhase | Published] = []
        for item in items:
            for joined in self._context.step(self._joined, item):
                if isinstance(joined, MarketPhase):
                    outputs.append(joined)
                    continue
                uid = joined.asset_uid
                if uid not in self._scores:
                    self._scores[uid] = self._score.initial()
                for scored in self._score.step(self._scores[uid], joined):
                    outputs += self._budget.step(self._account, scored)
        return outputs
