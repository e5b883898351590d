"""Where a replay writes beside its files: a schema of its own, and the replay topic of Kafka.

Rules of this file: a server is reached, and its place found fit, before the engine starts; a fault
names the option; nothing that may be a password is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dataflows.cli.failures import USAGE, Problem
from dataflows.connectors.source import HoleLog
from dataflows.flow import Sinks
from dataflows.replay import Summary
from dataflows.settings import Settings
from packs.loader import Packs

DEFAULT_SCHEMA = "replay"
EMBEDDED = "embedded"
FROM_SETTINGS = "env"  # keeps passwords out of the list of processes
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
    if given.database is None and (given.replace or given.schema != DEFAULT_SCHEMA):
        raise Problem("--schema, --replace: expected --database with them, found none", USAGE)
    if given.database is None and given.kafka is None:
        yield Servers()
        return
    from dataflows.cli.replay_servers import opened  # noqa: PLC0415 - loads clients of servers

    with opened(given, packs, settings, feed) as made:
        yield made


def written_to(made: Servers, given: Given, summary: Summary) -> dict[str, Any]:
    """Return what the servers hold: rows by table of the schema, messages sent by topic."""
    found: dict[str, Any] = {}
    if made.dsn is not None:
        from dataflows.cli.replay_servers import rows_in  # noqa: PLC0415 - as above

        rows = rows_in(made.dsn, given.schema)
        where = given.database if given.database in (EMBEDDED, FROM_SETTINGS) else "url"
        found["database"] = {"server": where, "schema": given.schema, "rows": rows}
    if made.topics is not None:
        topic, dlq = made.topics  # a batch that was not acknowledged has ended the run
        sent = {topic: summary.products["events"].count, dlq: summary.products["dlq"].count}
        found["kafka"] = {"sent": sent}
    return found
