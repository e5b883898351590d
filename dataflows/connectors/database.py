"""The database of a run: a server that is given, or the embedded one, migrated and ready."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

import psycopg

from dataflows.connectors.baselines import (
    PostgresBaselineSink,
    StoredBaselines,
    StoredWarm,
    read_baselines,
)
from dataflows.connectors.clock import Clock, SystemClock
from dataflows.connectors.embedded_postgres import EmbeddedPostgres, PostgresError
from dataflows.connectors.migrate import (
    MigrationError,
    create_partitions,
    migrate,
    open_session,
    partitions_ahead,
)
from dataflows.connectors.postgres import (
    BASELINE_TABLES,
    EVENT_TABLES,
    GAP_TABLES,
    MARKET_TABLES,
    PostgresEventSink,
    PostgresHoleLog,
    PostgresMarketSink,
    PostgresWriter,
)
from dataflows.connectors.registry import write_packs, write_registry
from dataflows.connectors.retention import keep_house
from dataflows.connectors.spool import Spooling
from operators.modes import Run
from packs.loader import Packs
from packs.schema import FeaturePack

EMBEDDED_DIRECTORY = "postgres"
SPOOL_DIRECTORY = "spool"


class Database:
    """Opens on first use: starts the embedded server unless `url` names another, and migrates.

    The first writer also puts the columns of its feature pack into `feature_registry`; with `packs`
    all of them into the registries.

    data_dir : where the embedded server keeps its data. schema : a replay writes into its own.
    packs : what the run is configured with; None writes the columns alone. run, environment : how
    and where it publishes, noted with them.
    replay_of : the events are those of a replay.
    retain : once a day of labels, make the months ahead and drop what is older than it is kept.
    say : is told, in one line, what could not be done.

    What the server does not take, sinks put under `data_dir`, too (spool.py); the server need not
    answer when they are opened.
    """

    def __init__(
        self,
        data_dir: Path,
        url: str | None = None,
        *,
        schema: str = "public",
        clock: Clock | None = None,
        packs: Packs | None = None,
        run: Run | None = None,
        environment: str | None = None,
        retain: bool = False,
        replay_of: bool = False,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ) -> None:
        self._data_dir = data_dir
        self._url = url
        self._schema = schema
        self._clock = clock or SystemClock()
        self._packs = packs
        self._run = run or Run()
        self._environment = environment
        self._retain = retain
        self._replay_of = replay_of
        self._say = say
        self._lock = Lock()
        self._server: EmbeddedPostgres | None = None
        self._dsn: str | None = None
        self._ready = False
        self._registered: FeaturePack | None = None

    def server_dsn(self) -> str:
        """Return the connection string of the server, which runs then; nothing is migrated."""
        with self._lock:
            return self._reach()

    def open(self) -> str:
        """Return the connection string of a migrated database.

        An embedded server that ended since is started again.
        """
        with self._lock:
            dsn = self._reach()
            if not self._ready:
                self._prepare(dsn)
                self._ready = True
            return dsn

    def close(self) -> None:
        """Stop the embedded server if this run started it."""
        with self._lock:
            if self._server is not None:
                self._server.stop()
            self._server, self._dsn, self._registered = None, None, None
            self._ready = False

    def _reach(self) -> str:
        if self._dsn is None:
            self._dsn = self._url or self._start()
        elif self._url is None:
            self._restart()
        return self._dsn

    def _prepare(self, dsn: str) -> None:
        """Migrate; months that may not be made now are asked for again when they are needed."""
        migrate(dsn, self._schema)
        try:
            with open_session(dsn, self._schema) as connection:
                create_partitions(connection, self._schema, partitions_ahead(self._now_ms()))
        except MigrationError as error:
            self._say(f"PostgreSQL: {error}")

    def writer(self, features: FeaturePack, only: Sequence[str] | None = None) -> PostgresWriter:
        """Return a writer on its own connection; the pack's columns are in the registry by then.

        only : the tables it writes; None: all of them.
        """
        dsn = self.open()
        self._register(dsn, features)
        columns = {column.name: column.type for column in features.stored}
        daily = self._keep_house if self._retain else None
        return PostgresWriter(
            dsn,
            columns,
            schema=self._schema,
            replay_of=self._replay_of,
            say=self._say,
            only=only,
            daily=daily,
        )

    def hole_log(self, features: FeaturePack, feed: str) -> PostgresHoleLog:
        """Return where the holes of a recording are noted, under its name."""
        return PostgresHoleLog(lambda: self.writer(features, GAP_TABLES), feed, self._spooling())

    def _keep_house(self, label_ms: int) -> None:
        """Keep the partitions in order, by the label; one that is ahead of the clock drops nothing
        that the clock would not."""
        if self._dsn is not None:
            now_ms = min(label_ms, self._now_ms())
            keep_house(self._dsn, self._schema, now_ms=now_ms, say=self._say)

    def market_sink(self, features: FeaturePack) -> PostgresMarketSink:
        """Return the sink of rows and frames."""
        return PostgresMarketSink(lambda: self.writer(features, MARKET_TABLES), self._spooling())

    def event_sink(self, features: FeaturePack) -> PostgresEventSink:
        """Return the sink of events and suppressions."""
        return PostgresEventSink(lambda: self.writer(features, EVENT_TABLES), self._spooling())

    def _spooling(self) -> Spooling:
        directory = self._data_dir / SPOOL_DIRECTORY
        if self._schema != "public":  # a replay's rows never get into the live tables
            directory /= self._schema
        return Spooling(directory, clock=self._clock, say=self._say)

    def baseline_sink(self, features: FeaturePack) -> PostgresBaselineSink:
        """Return the sink of baselines."""
        return PostgresBaselineSink(
            lambda: self.writer(features, BASELINE_TABLES), self._spooling()
        )

    def warm_start(self, features: FeaturePack) -> StoredWarm:
        """Return the baselines that assets without a state begin with; read when one asks."""

        def read() -> StoredBaselines:
            with open_session(self.open(), self._schema) as connection:
                return read_baselines(connection, features.feature_pack)

        return StoredWarm(read, say=self._say)

    def _register(self, dsn: str, features: FeaturePack) -> None:
        with self._lock:
            if self._registered is not features:
                try:
                    self._write_registries(dsn, features)
                except psycopg.errors.InsufficientPrivilege as error:
                    why = str(error).partition("\n")[0]
                    self._say(f"PostgreSQL: registries not written: {why}; `alpha db migrate` does")
                self._registered = features

    def _write_registries(self, dsn: str, features: FeaturePack) -> None:
        if self._packs is not None and self._packs.features is features:
            write_packs(
                dsn,
                self._schema,
                self._packs,
                now_ms=self._now_ms(),
                run=self._run,
                environment=self._environment,
            )
        else:
            write_registry(dsn, self._schema, features, now_ms=self._now_ms())

    def _now_ms(self) -> int:
        return self._clock.now_ns() // 1_000_000

    def _restart(self) -> None:
        try:
            self._start()
        except PostgresError as error:  # it worked before: an outage, not a fault of the set-up
            raise psycopg.OperationalError(str(error)) from error

    def _start(self) -> str:
        server = EmbeddedPostgres(self._data_dir / EMBEDDED_DIRECTORY, own=True)
        if not server.alive():
            self._server = server.start()
        return server.dsn()
