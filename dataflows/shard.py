"""The per-asset half of the flow: ticks -> bars -> rows with candidates."""

from __future__ import annotations

import bytewax.operators as op
from bytewax.operators import KeyedStream

from operators.assemble import Assemble, AssemblyState
from operators.detect import Detect
from operators.engine import ALL, Compressed, stateful
from operators.normalize import Normalize
from operators.records import BarItem, BaselineState, Boundary, RowItem, Ticks
from packs.loader import Packs


def assemble(ticks: KeyedStream[Ticks | Boundary], packs: Packs) -> KeyedStream[BarItem]:
    """One `BarItem` per asset and phase, from ticks and boundaries on one path."""
    return stateful("assemble", ticks, Assemble(packs.features), Compressed(AssemblyState))


def normalize(
    bars: KeyedStream[BarItem], packs: Packs, *, hands_out: bool = False
) -> KeyedStream[RowItem]:
    """Normalise bars into rows; hands_out : once an hour with the baselines behind them."""
    step = Normalize(packs, hands_out=hands_out)
    rows: KeyedStream[RowItem] = stateful("normalize", bars, step, step.codec())
    return rows


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
