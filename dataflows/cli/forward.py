"""`alpha forward`: copy a tick log to Kafka, for the shards of a split flow on other machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dataflows.cli.failures import USAGE, Problem
from dataflows.cli.record import told_to_stop
from dataflows.cli.screen import AsJson, put, put_json, say
from dataflows.connectors.kafka import WAIT_S, Bus
from dataflows.connectors.kafka_options import options_of
from dataflows.connectors.kafka_partition import flow_topics
from dataflows.connectors.kafka_ticks import TicksForwarder
from dataflows.connectors.source import CHUNK_LINES
from dataflows.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)

PAUSE_S = 0.1  # between looks at the end of the log; bounds messages a second, and adds to latency


@app.command()
def run(
    log: Annotated[
        Path | None,
        typer.Argument(help="Tick log; default: ticks under ALPHA_DATA_DIR."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End at the end of the log; default: follow it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a tick log to Kafka, for shards on other machines.

    It goes to the topic alpha.ticks.v0 of ALPHA_KAFKA_BOOTSTRAP, after the newest line there, so
    it may be ended in any way and started again. One at a time for a topic. Ctrl-C or SIGTERM
    ends it.
    """
    settings = Settings.from_env()
    if settings.kafka_bootstrap is None:
        raise Problem("ALPHA_KAFKA_BOOTSTRAP: expected HOST:PORT of Kafka, found nothing", USAGE)
    path = log or settings.data_dir / "ticks"
    topic = flow_topics(settings.topic_suffix).ticks
    bus = Bus(settings.kafka_bootstrap, WAIT_S, options=options_of(settings))
    forwarder = TicksForwarder(bus, topic, path, follow=not once)
    began = forwarder.sequence
    if not as_json:
        say(f"copying {path} to {topic}, from line {began}" + ("" if once else "; Ctrl-C ends it"))
    try:
        with told_to_stop() as stop:
            while not stop.is_set():
                lines = forwarder.forward()
                if once and not lines:
                    break
                if not once and lines < CHUNK_LINES:
                    stop.wait(PAUSE_S)
    finally:
        forwarder.close()
    copied, rejects = forwarder.sequence - began, forwarder.all_rejects
    if as_json:
        put_json({"topic": topic, "lines": copied, "next": forwarder.sequence, "dropped": rejects})
    else:
        put(f"{copied} lines copied; next is line {forwarder.sequence}")
        for reason, count in rejects.items():
            put(f"dropped: {reason} {count}")
