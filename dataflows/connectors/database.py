"""The database of a run: a server that is given, or the embedded one, migrated and ready."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from dataflows.connectors.clock import Clock, SystemClock
from dataflows.connectors.embedded_postgres import EmbeddedPostgres
from dataflows.connectors.migrate import migrate
from dataflows.connectors.postgres import PostgresEventSink, PostgresMarketSink, PostgresWriter
from dataflows.connectors.registry import write_packs, write_registry
from packs.loader import Packs
from packs.schema import FeaturePack

EMBEDDED_DIRECTORY = "postgres"


class Database:
    """Opens on first use: starts the embedded server unless `url` names another, and migrates.

    The first writer also puts the columns of its feature pack into `feature_registry`; with `packs`
    all of them into the registries.

    data_dir : where the embedded server keeps its data. schema : a replay writes into its own.
    packs : what the run is configured with; None writes the columns alone.
    """

    def __init__(
        self,
        data_dir: Path,
        url: str | None = None,
        *,
        schema: str = "public",
        clock: Clock | None = None,
        packs: Packs | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._url = url
        self._schema = schema
        self._clock = clock or SystemClock()
        self._packs = packs
        self._lock = Lock()
        self._server: EmbeddedPostgres | None = None
        self._dsn: str | None = None
        self._registered: FeaturePack | None = None

    def open(self) -> str:
        """Return the connection string of a migrated database."""
        with self._lock:
            if self._dsn is None:
                self._dsn = self._url or self._start()
                migrate(self._dsn, self._schema, now_ms=self._now_ms())
            return self._dsn

    def close(self) -> None:
        """Stop the embedded server if this run started it."""
        with self._lock:
            if self._server is not None:
                self._server.stop()
            self._server, self._dsn, self._registered = None, None, None

    def writer(self, features: FeaturePack) -> PostgresWriter:
        """Return a writer on its own connection; the pack's columns are in the registry by then."""
        dsn = self.open()
        self._register(dsn, features)
        columns = {column.name: column.type for column in features.stored}
        return PostgresWriter(dsn, columns, schema=self._schema)

    def market_sink(self, features: FeaturePack) -> PostgresMarketSink:
        """Return the sink of rows and frames."""
        return PostgresMarketSink(lambda: self.writer(features))

    def event_sink(self, features: FeaturePack) -> PostgresEventSink:
        """Return the sink of events and suppressions."""
        return PostgresEventSink(lambda: self.writer(features))

    def _register(self, dsn: str, features: FeaturePack) -> None:
        with self._lock:
            if self._registered is not features:
                if self._packs is not None and self._packs.features is features:
                    write_packs(dsn, self._schema, self._packs, now_ms=self._now_ms())
                else:
                    write_registry(dsn, self._schema, features, now_ms=self._now_ms())
                self._registered = features

    def _now_ms(self) -> int:
        return self._clock.now_ns() // 1_000_000

    def _start(self) -> str:
        server = EmbeddedPostgres(self._data_dir / EMBEDDED_DIRECTORY, own=True)
        if not server.alive():
            self._server = server.start()
        return server.dsn()
