"""The two halves of the flow, as streams: per asset up to the candidates, then across assets.

    ticks -> assemble -> mark -> rows with candidates -> judge -> frames, events, suppressions

`flow.py` has both in one process; `shard.py` has the first and `market.py` the second.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import bytewax.operators as op
from bytewax.operators import KeyedStream

from dataflows.version import GIT_COMMIT, PRODUCER
from operators.assemble import Assemble, AssemblyCodec
from operators.bases import BaseCodec, Bases, KeepBase, Taken
from operators.budget import Budget, BudgetState
from operators.context import Context
from operators.detect import Detect
from operators.engine import ALL, Packed, rekey, stateful, to_all
from operators.join import by_phase
from operators.modes import Run
from operators.normal_state import NormaliseState
from operators.normalize import Normalize, Warm
from operators.parts import InParts
from operators.records import (
    BarItem,
    BarItems,
    BaselineState,
    Boundary,
    MarketPhase,
    Published,
    RowItem,
    RowItems,
    ScoredItem,
    ScoreItem,
    Ticks,
    key_of,
)
from operators.score import Score, ScoreState
from packs.loader import Packs


def assemble(ticks: KeyedStream[Ticks | Boundary], packs: Packs) -> KeyedStream[BarItem]:
    """One `BarItem` per asset and phase, from ticks and boundaries on one path."""
    return stateful("assemble", ticks, Assemble(packs.features), AssemblyCodec())


def normalize(
    bars: KeyedStream[BarItem],
    packs: Packs,
    *,
    hands_out: bool = False,
    warm: Warm | None = None,
    stored: bool = True,
) -> KeyedStream[RowItem]:
    """Normalise bars into rows; hands_out : once an hour with the baselines behind them; warm :
    the baselines that assets without a state begin with; stored : there may be a recovery store,
    which is written in parts (operators/bases.py)."""
    step = Normalize(packs, hands_out=hands_out, warm=warm)
    rows: KeyedStream[RowItem]
    if not stored:
        rows = stateful("normalize", bars, step, step.codec())
        return rows
    bases = Bases()
    renewals = op.flat_map_batch("renewals", bars, bases.renewals)
    taken: KeyedStream[Taken] = stateful("bases", renewals, KeepBase(), BaseCodec(bases))
    both: KeyedStream[Any] = op.merge("bars-and-bases", bars, taken)
    rows = stateful("normalize", both, step, step.codec(), partial(InParts, bases=bases))
    return rows


def normalize_chunks(
    bars: KeyedStream[BarItems], packs: Packs, *, hands_out: bool = False
) -> KeyedStream[RowItem]:
    """As `normalize`, where an asset's bars of some minutes come at once, so that they take one way
    through the engine, and nothing is stored."""
    step = Normalize(packs, hands_out=hands_out)
    chunks = stateful("normalize", bars, _InChunks(step), step.codec())

    def batch(items: list[tuple[str, list[RowItem]]]) -> list[tuple[str, RowItem]]:
        return [(key, item) for key, chunk in items for item in chunk]

    return op.flat_map_batch("split", chunks, batch)


class _InChunks:
    """A step of `BarItems` that does what the one of `BarItem` does with each."""

    def __init__(self, step: Normalize) -> None:
        self._step = step

    def initial(self) -> NormaliseState:
        """Return the state of an asset that was never heard of."""
        return self._step.initial()

    def step(self, state: NormaliseState, came: BarItems) -> list[list[RowItem]]:
        """Return the items of the phases as one."""
        return [[made for item in came.items for made in self._step.step(state, item)]]


def baselines(rows: KeyedStream[RowItem]) -> KeyedStream[tuple[BaselineState, ...]]:
    """The baselines that are handed out, an asset's at a time."""

    def batch(items: list[tuple[str, RowItem]]) -> list[tuple[str, tuple[BaselineState, ...]]]:
        return [(ALL, item.baselines) for _, item in items if item.baselines]

    return op.flat_map_batch("baselines", rows, batch)


def mark(rows: KeyedStream[RowItem], packs: Packs) -> KeyedStream[RowItem]:
    """Find the candidates on the rows."""
    detect = Detect(packs)

    def batch(items: list[tuple[str, RowItem]]) -> list[tuple[str, RowItem]]:
        return [(key, marked) for key, item in items for marked in detect.step(None, item)]

    return op.flat_map_batch("detect", rows, batch)


class Products(NamedTuple):
    """What leaves the flow, both complete per phase and in order."""

    market: KeyedStream[MarketPhase]
    published: KeyedStream[Published]


def judge(marked: KeyedStream[RowItem], packs: Packs, run: Run | None = None) -> Products:
    """Join the assets, score the candidates, cap the events, and send each where the run says."""
    context = Context(packs)
    joined = stateful("context", _gathered(marked), context, context.codec())
    market = rekey("market", joined, to_all, MarketPhase)
    by_asset = rekey("scatter", joined, _asset_key, ScoreItem)
    scored = stateful("score", by_asset, Score(packs, PRODUCER, GIT_COMMIT), Packed(ScoreState))
    settled = rekey("settle", scored, to_all, ScoredItem)
    return Products(market, stateful("budget", settled, Budget(packs, run), Packed(BudgetState)))


def _gathered(marked: KeyedStream[RowItem]) -> KeyedStream[RowItems]:
    """Bring the assets together, those of a phase that came at once as one item."""

    def batch(items: list[tuple[str, RowItem]]) -> list[tuple[str, RowItems]]:
        return [(ALL, came) for came in by_phase([item for _, item in items])]

    return op.flat_map_batch("gather", marked, batch)


def _asset_key(item: ScoreItem) -> str:
    return key_of(item.asset_uid)
