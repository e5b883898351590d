"""The tables of a schema as an archive.

Rules of this file: it reads; a record is rebuilt from its columns with the pack that says which
columns rows of a timeframe have, and is byte for byte what was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from dataflows.archive import (
    Configured,
    Record,
    Span,
    StoredEvent,
    event_record,
    frame_record,
    newest,
    row_record,
    suppression_record,
)
from dataflows.connectors.migrate import open_session, query
from dataflows.connectors.replay_schema import LIVE_SCHEMA
from operators.lattice import MINUTE_MS, iso
from operators.records import Frame, Row, Suppression
from packs.schema import TIMEFRAMES, FeaturePack

_FRAME_IDENTITY = ("tf", "exchange_ts", "revision", "extras_json")
_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)
_CHUNK_MS = 10 * MINUTE_MS  # of all assets in memory at a time


class PostgresArchive:
    """Reads a migrated schema over one connection, which it opens when it is needed."""

    keeps_revisions = False

    def __init__(self, dsn: str, features: FeaturePack, *, schema: str = "public") -> None:
        self.name = f"schema {schema}"
        self.grows = schema == LIVE_SCHEMA
        self._dsn = dsn
        self._schema = schema
        self._columns = {tf: tuple(features.names(tf).values()) for tf in TIMEFRAMES}
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def event(self, event_id: str) -> StoredEvent | None:
        """Return an event, live or shadow."""
        try:
            wanted = UUID(event_id)
        except ValueError:
            return None
        found = self._select("stored_event", event_id=wanted)
        return next(map(_event, found), None)

    def row(self, asset_uid: int, tf: str, label_ms: int, revision: int | None) -> Row | None:
        """Return a row, if it is at this revision; None: at any."""
        rows = self.rows(asset_uid, tf, Span(label_ms - 1, label_ms))
        return next((row for row in rows if revision in (None, row.revision)), None)

    def rows(self, asset_uid: int, tf: str, span: Span) -> list[Row]:
        """Return the newest revisions of an asset's rows."""
        found = self._select("stored_rows", asset_uid=asset_uid, tf=tf, **_bounds(span))
        return newest(map(self._row, found))

    def frame(self, tf: str, label_ms: int) -> Frame | None:
        """Return the newest revision of a frame."""
        found = self._select("stored_frame", tf=tf, label=_instant(label_ms))
        return next(map(_frame, found), None)

    def events(self, asset_uid: int, tf: str, span: Span) -> list[StoredEvent]:
        """Return an asset's events, live and shadow."""
        found = self._select("stored_events", asset_uid=asset_uid, tf=tf, **_bounds(span))
        return list(map(_event, found))

    def suppressed(self, asset_uid: int, tf: str, span: Span) -> list[Suppression]:
        """Return an asset's suppressions."""
        found = self._select("stored_suppressions", asset_uid=asset_uid, tf=tf, **_bounds(span))
        return list(map(_suppression, found))

    def tier(self, asset_uid: int, label_ms: int) -> str | None:
        """Return the liquidity tier of an asset in a minute."""
        found = self._select("stored_tier", asset_uid=asset_uid, label=_instant(label_ms))
        return next((record["tier"] for record in found), None)

    def labels(self) -> tuple[int, int] | None:
        """Return the labels of the oldest and the newest row."""
        (found,) = self._select("stored_labels")
        oldest, newest_one = found["oldest"], found["newest"]
        return None if oldest is None else (_ms(oldest), _ms(newest_one))

    def minutes(self, span: Span) -> Iterator[tuple[int, list[Record]]]:
        """Yield the records of all assets by label, some minutes of them in memory at a time."""
        known = self.labels()
        if known is None:
            return
        first_ms = min(max(span.since_ms, known[0] - MINUTE_MS), span.until_ms)
        last_ms = max(min(span.until_ms, known[1]), first_ms)
        cuts = [span.since_ms, *range(first_ms, last_ms, _CHUNK_MS), last_ms, span.until_ms]
        for since_ms, until_ms in pairwise(cuts):  # the outer two have no rows
            if since_ms < until_ms:
                yield from sorted(self._by_label(Span(since_ms, until_ms)).items())

    def configured(self) -> list[Configured]:
        """Return what ran from when on, oldest first."""
        return [
            Configured(
                _ms(line["changed_at"]), line["config_hash"], line["run_mode"], line["emit_events"]
            )
            for line in self._select("stored_configs")
        ]

    def _by_label(self, span: Span) -> dict[int, list[Record]]:
        bounds = _bounds(span)
        records = [row_record(self._row(each)) for each in self._select("all_rows", **bounds)]
        records += [frame_record(_frame(each)) for each in self._select("all_frames", **bounds)]
        for event in map(_event, self._select("all_events", **bounds)):
            records.append(event_record(event.payload, event.payload_bytes, shadow=event.shadow))
        held = map(_suppression, self._select("all_suppressions", **bounds))
        records += map(suppression_record, held)
        found: dict[int, list[Record]] = {}
        for record in records:
            found.setdefault(record.place.label_ms, []).append(record)
        return found

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _select(self, name: str, **values: Any) -> Iterator[dict[str, Any]]:
        if self._connection is None:
            self._connection = open_session(self._dsn, self._schema)
        with self._connection.transaction():
            cursor = self._connection.cursor(row_factory=dict_row, binary=True)
            yield from cursor.execute(query(name), values).fetchall()

    def _row(self, record: Mapping[str, Any]) -> Row:
        return Row(
            record["asset_uid"],
            record["symbol"],
            record["tf"],
            _ms(record["exchange_ts"]),
            record["revision"],
            {name: _plain(record[name]) for name in self._columns[record["tf"]]},
            record["extras_json"],
        )


def _frame(record: Mapping[str, Any]) -> Frame:
    columns = {n: _plain(v) for n, v in record.items() if n not in _FRAME_IDENTITY}
    label_ms = _ms(record["exchange_ts"])
    return Frame(record["tf"], label_ms, record["revision"], columns, record["extras_json"])


def _event(record: Mapping[str, Any]) -> StoredEvent:
    return StoredEvent(record["payload_bytes"], record["payload"], record["shadow"])


def _suppression(record: Mapping[str, Any]) -> Suppression:
    fields = {name: value for name, value in record.items() if name != "exchange_ts"}
    return Suppression(exchange_ts_ms=_ms(record["exchange_ts"]), **fields)


def _plain(value: Any) -> Any:
    """Return a value as a record has it: times are text."""
    return iso(_ms(value)) if isinstance(value, datetime) else value


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND


def _instant(label_ms: int) -> datetime:
    return _EPOCH + label_ms * _MILLISECOND


def _bounds(span: Span) -> dict[str, datetime]:
    return {"since": _instant(span.since_ms), "until": _instant(span.until_ms)}
