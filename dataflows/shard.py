"""One shard of a flow that runs in several processes: ticks -> rows with candidates -> Kafka.

    ALPHA_SHARD=0/3 python -m bytewax.run dataflows.shard

reads all ticks (from the log, or with ALPHA_TICKS=kafka from `alpha.ticks.v0`), keeps its share of
the assets, and writes their rows to its partition of `alpha.rows.v0`. `market.py` reads them.
Design 3, docs/scaling.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource
from bytewax.operators import KeyedStream
from bytewax.outputs import Sink

from dataflows.connectors.database import Database
from dataflows.connectors.kafka import Bus
from dataflows.connectors.kafka_options import options_of
from dataflows.connectors.kafka_partition import flow_topics
from dataflows.connectors.kafka_rows import KafkaRowsSink, RowsMaker
from dataflows.connectors.kafka_ticks import KafkaTicksSource
from dataflows.connectors.share_source import ShareSource
from dataflows.connectors.source import HoleLog, Item, LogSource
from dataflows.flow import marked
from dataflows.halves import assemble, normalize
from dataflows.live import TICKS, checked_url, configure
from dataflows.settings import DATABASE_OFF, Settings
from operators.engine import Packed, rekey, stateful, to_all
from operators.records import Boundary, RowItem, Ticks
from operators.sharding import Closing, ClosingState, PhaseShare, ShardPhase, Share, share_of
from packs.loader import Packs


def build(
    ticks: FixedPartitionedSource[Item, bytes],
    packs: Packs,
    share: Share,
    sinks: dict[str, Sink[Any]],
    stores: Mapping[str, Sink[Any]] = MappingProxyType({}),
) -> Dataflow:
    """Return the flow of a shard; the sinks get ("ALL", ShardPhase), in the order of closing.

    stores : get the baselines of its assets, once an hour.
    """
    flow = Dataflow("shard")
    items = op.input("ticks", flow, ShareSource(ticks, share))
    kinds = op.branch("kinds", items, _is_closing)
    own = cast("KeyedStream[Ticks | Boundary]", kinds.falses)
    rows = normalize(assemble(own, packs), packs, hands_out=bool(stores))
    found = marked(rows, packs, stores)
    gathered = rekey("gather", found, to_all, RowItem)
    waiting = op.merge("merge", gathered, kinds.trues)
    whole: KeyedStream[ShardPhase] = stateful("close", waiting, Closing(), Packed(ClosingState))
    for name, sink in sinks.items():
        op.output(f"rows-{name}", whole, sink)
    return flow


def _is_closing(item: tuple[str, object]) -> bool:
    return isinstance(item[1], PhaseShare)


def rows_sink(settings: Settings, packs: Packs, share: Share) -> KafkaRowsSink:
    """Return where the rows of a shard go."""
    topic = flow_topics(settings.topic_suffix).rows
    maker = RowsMaker(topic, share, packs.config_hash, packs.feature_pack)
    return KafkaRowsSink(bus_of(settings), maker)


def ticks_source(
    settings: Settings, packs: Packs, holes: HoleLog | None
) -> FixedPartitionedSource[Item, bytes]:
    """Return all ticks, from their beginning: every shard must have the same."""
    if settings.ticks == "kafka":
        topic = flow_topics(settings.topic_suffix).ticks
        return KafkaTicksSource(bus_of(settings), topic, packs.features, holes=holes)
    return LogSource(settings.data_dir / TICKS, packs.features, follow=True, holes=holes)


def database_of(settings: Settings) -> Database | None:
    """Return the database of a shard, None without one: it never starts an embedded server."""
    if settings.database_url in (None, DATABASE_OFF):
        return None
    return Database(settings.data_dir, checked_url(settings))


def bus_of(settings: Settings) -> Bus:
    """Return the cluster; without one there is one message."""
    if settings.kafka_bootstrap is None:
        sys.exit("ALPHA_KAFKA_BOOTSTRAP: expected HOST:PORT of Kafka, which joins a split flow")
    return Bus(settings.kafka_bootstrap, options=options_of(settings))


class Edges(NamedTuple):
    """What a shard reads, which assets it keeps, and where rows and baselines go."""

    share: Share
    ticks: FixedPartitionedSource[Item, bytes]
    rows: KafkaRowsSink
    stores: dict[str, Sink[Any]]


def edges_of(settings: Settings, packs: Packs) -> Edges:
    """Return the edges of a shard; a shard that is not named is one message."""
    share = share_of(settings.shard or "")
    if share is None:
        sys.exit("ALPHA_SHARD: expected I/K, this shard's number and how many there are, as 0/3")
    database = database_of(settings)
    rows = rows_sink(settings, packs, share)
    if database is None:
        return Edges(share, ticks_source(settings, packs, None), rows, {})
    # Holes are the same for all shards: the first one notes them.
    holes = None if share.index else database.hole_log(packs.features, TICKS)
    stores: dict[str, Sink[Any]] = {"database": database.baseline_sink(packs.features)}
    return Edges(share, ticks_source(settings, packs, holes), rows, stores)


def flow() -> Dataflow:
    """Return the flow of this process's shard."""
    _, packs, edges = configure(edges_of)
    return build(edges.ticks, packs, edges.share, {"kafka": edges.rows}, edges.stores)
