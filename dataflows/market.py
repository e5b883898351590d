"""The cross-asset half of the flow: rows with candidates -> frames, events, suppressions."""

from __future__ import annotations

from typing import NamedTuple

from bytewax.operators import KeyedStream

from dataflows.version import GIT_COMMIT, PRODUCER
from operators.budget import Budget, BudgetState
from operators.context import Context, ContextState
from operators.engine import Packed, rekey, stateful, to_all
from operators.modes import Run
from operators.records import MarketPhase, Published, RowItem, ScoredItem, ScoreItem, key_of
from operators.score import Score, ScoreState
from packs.loader import Packs


class Products(NamedTuple):
    """What leaves the flow, both complete per phase and in order."""

    market: KeyedStream[MarketPhase]
    published: KeyedStream[Published]


def judge(marked: KeyedStream[RowItem], packs: Packs, run: Run | None = None) -> Products:
    """Join the assets, score the candidates, cap the events, and send each where the run says."""
    gathered = rekey("gather", marked, to_all, RowItem)
    joined = stateful("context", gathered, Context(packs), Packed(ContextState))
    market = rekey("market", joined, to_all, MarketPhase)
    by_asset = rekey("scatter", joined, _asset_key, ScoreItem)
    scored = stateful("score", by_asset, Score(packs, PRODUCER, GIT_COMMIT), Packed(ScoreState))
    settled = rekey("settle", scored, to_all, ScoredItem)
    return Products(market, stateful("budget", settled, Budget(packs, run), Packed(BudgetState)))


def _asset_key(item: ScoreItem) -> str:
    return key_of(item.asset_uid)
