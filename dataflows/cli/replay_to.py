"""Where a replay writes beside its files: a schema of its own, and the replay topic of Kafka.

Rules of this file: a server is reached, and its place found fit, before the engine starts; a fault
names the option; nothing that may be a password is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from dataflows.cli.failures import FAILED, USAGE, Problem
from dataflows.connectors.database import Database
from dataflows.connectors.dsn import DsnError
from dataflows.connectors.embedded_postgres import PostgresError
from dataflows.connectors.kafka import Bus, BusError, KafkaEventsSink, topic_names
from dataflows.connectors.kafka_options import options_of
from dataflows.connectors.migrate import MigrationError
from dataflows.connectors.replay_schema import check_schema_name, claim_schema, count_rows
from dataflows.connectors.source import HoleLog
from dataflows.live import Sinks
from dataflows.replay import REPLAY, Summary
from dataflows.settings import DATABASE_OFF, Settings
from packs.loader import Packs

DEFAULT_SCHEMA = "replay"
EMBEDDED = "embedded"
FROM_SETTINGS = "env"  # keeps passwords out of the list of processes
REACH_S = 10.0  # how long a broker may take to answer at all
TABLES = (
    "features_snapshot",
    "market_snapshot",
    "anomaly_event",
    "shadow_event",
    "suppression",
    "dead_letter",
    "gap",
)


@dataclass(frozen=True)
class Given:
    """What the options say."""

    database: str | None
    schema: str
    replace: bool
    kafka: str | None


@dataclass
class Servers:
    """Sinks of the servers, and how to tell afterwards what they hold."""

    sinks: Sinks = field(default_factory=lambda: Sinks({}, {}))
    holes: HoleLog | None = None
    dsn: str | None = None
    topics: tuple[str, str] | None = None


@contextmanager
def servers(given: Given, packs: Packs, settings: Settings, feed: str) -> Iterator[Servers]:
    """The servers of a replay while it runs.

    feed : name of the recording, under which its holes are noted.
    """
    made = Servers()
    if given.database is None:
        if given.replace or given.schema != DEFAULT_SCHEMA:
            raise Problem("--schema, --replace: expected --database with them, found none", USAGE)
        _add_kafka(made, given, settings)
        yield made
        return
    check_schema_name(given.schema)
    _add_kafka(made, given, settings)
    url, name = _database_url(given.database, settings)
    database = Database(
        settings.data_dir,
        url,
        schema=given.schema,
        packs=packs,
        run=REPLAY,
        environment=settings.topic_suffix,
        replay_of=True,
    )
    try:
        with _named(name):
            _add_database(made, database, given, packs, feed)
        yield made
    finally:
        database.close()


def written_to(made: Servers, given: Given, summary: Summary) -> dict[str, Any]:
    """Return what the servers hold: rows by table of the schema, messages sent by topic."""
    found: dict[str, Any] = {}
    if made.dsn is not None:
        with _named("--database"):
            rows = count_rows(made.dsn, given.schema, TABLES)
        where = given.database if given.database in (EMBEDDED, FROM_SETTINGS) else "url"
        found["database"] = {"server": where, "schema": given.schema, "rows": rows}
    if made.topics is not None:
        topic, dlq = made.topics  # a batch that was not acknowledged has ended the run
        sent = {topic: summary.products["events"].count, dlq: summary.products["dlq"].count}
        found["kafka"] = {"sent": sent}
    return found


def _add_database(made: Servers, database: Database, given: Given, packs: Packs, feed: str) -> None:
    made.dsn = database.server_dsn()
    claim_schema(made.dsn, given.schema, packs.config_hash, replace=given.replace)
    database.open()
    made.holes = database.hole_log(packs.features, feed)
    made.sinks.market["database"] = database.market_sink(packs.features)
    made.sinks.published["database"] = database.event_sink(packs.features)


def _add_kafka(made: Servers, given: Given, settings: Settings) -> None:
    if given.kafka is None:
        return
    bootstrap = settings.kafka_bootstrap if given.kafka == FROM_SETTINGS else given.kafka
    if bootstrap is None:
        raise Problem("--kafka env: expected ALPHA_KAFKA_BOOTSTRAP, found none", USAGE)
    names, options = topic_names(settings.topic_suffix), options_of(settings)
    try:
        Bus(bootstrap, REACH_S, options=options).ensure_topics((names.replay, names.dlq))
    except BusError as error:
        raise Problem(f"--kafka {given.kafka}: {error}", FAILED) from error
    bus = Bus(bootstrap, options=options)
    made.topics = (names.replay, names.dlq)
    made.sinks.published["kafka"] = KafkaEventsSink(bus, names.replay, names.dlq, replay_of=True)


def _database_url(given: str, settings: Settings) -> tuple[str | None, str]:
    """Return the server, None for the embedded one, and a name for messages."""
    if given == EMBEDDED:
        return None, "--database embedded"
    if given != FROM_SETTINGS:
        return given, "--database"
    if settings.database_url in (None, DATABASE_OFF):
        raise Problem("--database env: expected a server in ALPHA_DATABASE_URL, found none", USAGE)
    return settings.database_url, "--database env (ALPHA_DATABASE_URL)"


@contextmanager
def _named(option: str) -> Iterator[None]:
    """Put the option before what is wrong with its server."""
    try:
        yield
    except DsnError as error:
        raise Problem(f"{option}: {error}", USAGE) from None
    except (psycopg.Error, PostgresError, MigrationError) as error:
        raise Problem(f"{option}: {str(error).partition(chr(10))[0]}", FAILED) from error
