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

from dataflows.halves import Products, assemble, baselines, judge, mark, normalize
from operators.modes import Run
from operators.normalize import Warm
from operators.records import BarItem, RowItem
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
    messages = op.input("ticks", flow, ticks)
    return _finish(flow, assemble(messages, packs), packs, sinks, run, warm, stored=stored)


def build_from_bars(
    bars: Source[Any], packs: Packs, sinks: Sinks, run: Run | None = None
) -> Dataflow:
    """Return the same flow, entered at normalisation; it has no recovery store."""
    flow = Dataflow("detector")
    return _finish(flow, op.input("bars", flow, bars), packs, sinks, run, stored=False)


def _finish(
    flow: Dataflow,
    bars: KeyedStream[BarItem],
    packs: Packs,
    sinks: Sinks,
    run: Run | None,
    warm: Warm | None = None,
    *,
    stored: bool = True,
) -> Dataflow:
    rows = rows_of(bars, packs, sinks.baselines, warm, stored=stored)
    deliver(judge(rows, packs, run), sinks)
    return flow


def rows_of(
    bars: KeyedStream[BarItem],
    packs: Packs,
    stores: Mapping[str, Sink[Any]],
    warm: Warm | None = None,
    *,
    stored: bool = True,
) -> KeyedStream[RowItem]:
    """Return rows with candidates; the baselines behind them go to `stores` once an hour.

    warm : as in `build`. stored : there may be a recovery store.
    """
    rows = normalize(bars, packs, hands_out=bool(stores), warm=warm, stored=stored)
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
