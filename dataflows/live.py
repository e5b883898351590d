"""The live edges of the flow (`dataflows/flow.py`).

    python -m bytewax.run dataflows.live

connects to the public venue, records what it says, and writes rows, frames and events. Importing
this module opens nothing; `flow()` reads the environment (`dataflows/settings.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog
from bytewax.dataflow import Dataflow
from bytewax.outputs import Sink

from dataflows.collector import collect_rarely
from dataflows.connectors.console import ConsoleEventSink, ConsoleMarketSink, MinutePrinter
from dataflows.connectors.database import SPOOL_DIRECTORY, Database
from dataflows.connectors.dsn import DsnError, assert_welcome, connection_settings
from dataflows.connectors.kafka import SPOOL_WAIT_S, Bus, KafkaEventsSink, topic_names
from dataflows.connectors.kafka_options import OptionsError, options_of
from dataflows.connectors.recorder import Recorder, RecorderConfig
from dataflows.connectors.source import LogSource
from dataflows.connectors.spool import Spooling
from dataflows.connectors.topics import MARKET_PRODUCTS, EventsSink, RowsAndFramesSink
from dataflows.flow import Sinks, build
from dataflows.recovery import forget_unfinished
from dataflows.settings import DATABASE_OFF, Settings, SettingsError, store_of_this_process
from operators.modes import Run
from packs.loader import PackError, Packs, load_packs
from packs.schema import Canary

T = TypeVar("T")

TICKS = "ticks"  # name of the recording: its directory, and the feed of its gaps


def recorder_config(settings: Settings, packs: Packs) -> RecorderConfig:
    """Return what to record, from the environment and the universe policy."""
    return RecorderConfig(
        directory=settings.data_dir / TICKS,
        ws_url=settings.ws_url,
        rest_url=settings.rest_url,
        coins=settings.coins,
        max_assets=settings.max_assets,
        bootstrap_assets=tuple((a.uid, a.coin) for a in packs.universe.bootstrap_assets),
    )


def live_database(settings: Settings, packs: Packs) -> Database | None:
    """Return the database of a live run, None if it is switched off.

    It is opened later, and may be away until then; raises `DsnError` if it refuses for good.
    """
    if settings.database_url == DATABASE_OFF:
        return None
    return Database(
        settings.data_dir,
        checked_url(settings),
        packs=packs,
        run=settings.run,
        environment=settings.topic_suffix,
        retain=True,
    )


def checked_url(settings: Settings) -> str | None:
    """Return the connection string that is given, if one is; raises `DsnError` now rather than
    letting the engine meet what is wrong with it."""
    if settings.database_url is not None:
        connection_settings(settings.database_url)
        assert_welcome(settings.database_url)
    return settings.database_url


def _live_edges(settings: Settings, packs: Packs) -> tuple[Database | None, Sinks]:
    database = live_database(settings, packs)
    return database, live_sinks(settings, packs, database)


def live_sinks(settings: Settings, packs: Packs, database: Database | None) -> Sinks:
    """Rows to files and the console, events to Kafka where it is given or else to files, all to
    the database if there is one.
    """
    topics, printer = settings.data_dir / "topics", MinutePrinter("stdout")
    market = {name: topics / f"alpha.{name}.v0.ndjson" for name in MARKET_PRODUCTS}
    sinks = Sinks(
        market={
            "topic": RowsAndFramesSink(market, append=True),
            "console": ConsoleMarketSink(printer),
        },
        published={**_event_sinks(settings, topics), "console": ConsoleEventSink(printer)},
    )
    if database is not None:
        sinks.market["database"] = database.market_sink(packs.features)
        sinks.published["database"] = database.event_sink(packs.features)
        return sinks._replace(baselines={"database": database.baseline_sink(packs.features)})
    return sinks


def _event_sinks(settings: Settings, topics: Path) -> dict[str, Sink[Any]]:
    """Events and dead letters; the names are step ids, so files and Kafka each have their own."""
    suppressed = {"suppressed": topics / "alpha.suppressed.v0.ndjson"}
    if settings.kafka_bootstrap is None:
        names = topic_names()
        events = {"events": names.live, "shadow": names.shadow, "dlq": names.dlq}
        paths = {name: topics / f"{topic}.ndjson" for name, topic in events.items()}
        return {"topic": EventsSink({**paths, **suppressed}, append=True)}
    names = topic_names(settings.topic_suffix)
    bus = Bus(settings.kafka_bootstrap, SPOOL_WAIT_S, options=options_of(settings))
    spooling = Spooling(settings.data_dir / SPOOL_DIRECTORY)
    return {
        "kafka": KafkaEventsSink(
            bus, names.live, names.dlq, shadow=names.shadow, spooling=spooling
        ),
        "suppressed": EventsSink(suppressed, append=True),
    }


def configure(make: Callable[[Settings, Packs], T]) -> tuple[Settings, Packs, T]:
    """Read environment and packs, make a flow's edges and its recovery store fit to resume from;
    what is wrong is one message, not a traceback.
    """
    collect_rarely()
    try:
        settings = Settings.from_env()
        packs = load_packs(settings.feature_pack, settings.detector_pack, settings.universe)
        edges = make(settings, packs)
    except (SettingsError, PackError, DsnError, OptionsError) as error:
        sys.exit(str(error))
    for note in (*packs.notes, *run_notes(settings.run, packs.canary), *_store_notes()):
        print(f"note: {note}", file=sys.stderr)
    # stdout carries the console's minutes and events; incidents go beside it.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    return settings, packs, edges


def _store_notes() -> list[str]:
    """Remove from the recovery store what an epoch left that did not end, and say so."""
    store = store_of_this_process()
    count = 0 if store is None else forget_unfinished(store)
    if not count:
        return []
    states = "1 state" if count == 1 else f"{count} states"
    return [f"removed from {store}: {states} of an epoch that did not end"]


def flow() -> Dataflow:
    """Return the live flow."""
    settings, packs, (database, sinks) = configure(_live_edges)
    source = LogSource(
        path=settings.data_dir / TICKS,
        features=packs.features,
        follow=True,
        recording=Recorder(recorder_config(settings, packs)),
        holes=database.hole_log(packs.features, TICKS) if database is not None else None,
    )
    warm = database.warm_start(packs.features) if database is not None else None
    return build(source, packs, sinks, settings.run, warm=warm)


def run_notes(run: Run, canary: Canary) -> list[str]:
    """Say in which way a run does not publish everything to everybody."""
    if not run.emit_events:
        return ["no events are published (ALPHA_EMIT_EVENTS): they are suppressed as `kill_switch`"]
    if run.mode == "dry_run":
        return ["mode dry_run: no events are published, they are suppressed as `dry_run`"]
    if run.mode == "shadow":
        return ["mode shadow: all events go to the shadow topic"]
    if run.mode == "canary":
        coins = ", ".join(canary.coins) or "no coin"
        heard = f"{coins} and {canary.percent} % of all assets"
        return [f"mode canary: {heard} are heard, the events of others go to the shadow topic"]
    return []
