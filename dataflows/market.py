"""The join of a flow that runs in several processes: rows from Kafka -> frames and events.

    python -m bytewax.run dataflows.market

reads the rows of all shards from `alpha.rows.v0` and writes what the live flow writes, byte by
byte. One process: it sees every asset of a minute. Design 3, docs/scaling.md.
"""

from __future__ import annotations

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source

from dataflows.connectors.kafka_partition import flow_topics
from dataflows.connectors.kafka_rows import KafkaRowsSource
from dataflows.flow import Sinks, deliver
from dataflows.halves import judge
from dataflows.live import configure, live_database, live_sinks
from dataflows.settings import Settings
from dataflows.shard import bus_of
from operators.modes import Run
from operators.records import RowItem
from packs.loader import Packs


def build(
    rows: Source[tuple[str, RowItem]], packs: Packs, sinks: Sinks, run: Run | None = None
) -> Dataflow:
    """Return the flow from rows to events. run : who hears them; by default everybody."""
    flow = Dataflow("market")
    deliver(judge(op.input("rows", flow, rows), packs, run), sinks)
    return flow


def _edges(settings: Settings, packs: Packs) -> tuple[KafkaRowsSource, Sinks]:
    topic = flow_topics(settings.topic_suffix).rows
    rows = KafkaRowsSource(bus_of(settings), topic, packs.config_hash)
    return rows, live_sinks(settings, packs, live_database(settings, packs))


def flow() -> Dataflow:
    """Return the flow of the join, with the sinks of a live run."""
    settings, packs, (rows, sinks) = configure(_edges)
    return build(rows, packs, sinks, settings.run)
