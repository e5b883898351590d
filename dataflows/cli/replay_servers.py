"""The servers of a replay: what their libraries are needed for, and so loaded only where one is
given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from dataflows.cli.failures import FAILED, USAGE, Problem
from dataflows.cli.replay_to import EMBEDDED, FROM_SETTINGS, TABLES, Given, Servers
from dataflows.connectors.database import Database
from dataflows.connectors.dsn import DsnError
from dataflows.connectors.embedded_postgres import PostgresError
from dataflows.connectors.kafka import Bus, BusError, KafkaEventsSink, topic_names
from dataflows.connectors.kafka_options import options_of
from dataflows.connectors.migrate import MigrationError
from dataflows.connectors.replay_schema import check_schema_name, claim_schema, count_rows
from dataflows.replay import REPLAY
from dataflows.settings import DATABASE_OFF, Settings
from packs.loader import Packs

REACH_S = 10.0  # how long a broker may take to answer at all


@contextmanager
def opened(given: Given, packs: Packs, settings: Settings, feed: str) -> Iterator[Servers]:
    """The servers that are given, while a replay runs; feed : as for `replay_to.servers`."""
    made = Servers()
    if given.database is None:
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


def rows_in(dsn: str, schema: str) -> dict[str, int]:
    """Return the rows by table of a schema."""
    with _named("--database"):
        return count_rows(dsn, schema, TABLES)


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
