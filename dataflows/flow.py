"""The whole flow on one screen; live, replay and tests differ only in its edges.

Importing this module loads no client of a server; the live edges are in `dataflows/live.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.operators import KeyedStream
from bytewax.outputs import Sink

from dataflows.halves import Products, assemble, baselines, judge, mark, normalize, normalize_chunks
from operators.modes import Run
from operators.normalize import Warm
from operators.records import RowItem
from packs.loader import Packs


class Sinks(NamedTuple):
    """Where rows and frames go, where events and suppressions go, and baselines, by name."""

    market: dict[str, Sink[Any]]
    published: dict[str, Sink[Any]]
    baselines: Mapping[str, Sink[Any]] = MappingProxyType({})


def build(
    ticks: Source[Any],
    packs: Packs,
    sinks: Sinks,
    run: Run | None = None,
    *,
    warm: Warm | None = None,
    stored: bool = True,
) -> Dataflow:
    """Return the flow from ticks to events; live, replay and tests differ only in its edges.

    run : who hears the events; by default everybody. warm : the baselines that assets without a
    state begin with; a replay has none, so that its bytes depend on the log alone. stored : there
    may be a recovery store.
    """
    flow = Dataflow("detector")
    bars = assemble(op.input("ticks", flow, ticks), packs)
    hands_out = bool(sinks.baselines)
    rows = normalize(bars, packs, hands_out=hands_out, warm=warm, stored=stored)
    return _finish(flow, rows, packs, sinks, run)


def build_from_bars(
    bars: Source[Any], packs: Packs, sinks: Sinks, run: Run | None = None
) -> Dataflow:
    """Return the same flow, entered at normalisation with `BarItems`; it has no recovery store."""
    flow = Dataflow("detector")
    entered = op.input("bars", flow, bars)
    rows = normalize_chunks(entered, packs, hands_out=bool(sinks.baselines))
    return _finish(flow, rows, packs, sinks, run)


def _finish(
    flow: Dataflow, rows: KeyedStream[RowItem], packs: Packs, sinks: Sinks, run: Run | None
) -> Dataflow:
    deliver(judge(marked(rows, packs, sinks.baselines), packs, run), sinks)
    return flow


def marked(
    rows: KeyedStream[RowItem], packs: Packs, stores: Mapping[str, Sink[Any]]
) -> KeyedStream[RowItem]:
    """Return rows with candidates; the baselines behind them go to `stores` once an hour."""
    if stores:
        handed = baselines(rows)
        for name, sink in stores.items():
            op.output(f"baselines-{name}", handed, sink)
    return mark(rows, packs)


def deliver(products: Products, sinks: Sinks) -> None:
    """Send rows, frames and events to their sinks, each a step."""
    for name, sink in sinks.market.items():
        op.output(f"rows-{name}", products.market, sink)
    for name, sink in sinks.published.items():
        op.output(f"events-{name}", products.published, sink)
