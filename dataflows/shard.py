"""The per-asset half of the flow: ticks -> bars -> rows with candidates."""

from __future__ import annotations

import bytewax.operators as op
from bytewax.operators import KeyedStream

from operators.assemble import Assemble, AssemblyState
from operators.detect import Detect
from operators.engine import Compressed, stateful
from operators.normalize import Normalize
from operators.records import BarItem, Boundary, RowItem, Ticks
from packs.loader import Packs


def assemble(ticks: KeyedStream[Ticks | Boundary], packs: Packs) -> KeyedStream[BarItem]:
    """One `BarItem` per asset and phase, from ticks and boundaries on one path."""
    return stateful("assemble", ticks, Assemble(packs.features), Compressed(AssemblyState))


def mark(bars: KeyedStream[BarItem], packs: Packs) -> KeyedStream[RowItem]:
    """Normalise bars into rows and find the candidates on them."""
    normalize = Normalize(packs)
    rows: KeyedStream[RowItem] = stateful("normalize", bars, normalize, normalize.codec())
    detect = Detect(packs)

    def batch(items: list[tuple[str, RowItem]]) -> list[tuple[str, RowItem]]:
        return [(key, marked) for key, item in items for marked in detect.step(None, item)]

    return op.flat_map_batch("detect", rows, batch)
