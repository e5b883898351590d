"""What a run has stored, read back as the records it was made of.

Rules of this file: a product line or a table row becomes the very record that was written, so that
its canonical bytes are the same again; nothing is repaired. Where the products lie is a matter of
the two archives in `connectors`: the tables of a schema, or the files of a replay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from operators.publish import frame_json, row_json, suppression_json
from operators.records import MARKET_UID, Frame, Row, Suppression

FOREVER_MS = 253_402_214_400_000  # 9999-12-31, as late as a time can be

_ROW_IDENTITY = ("asset_uid", "symbol", "tf", "exchange_ts", "revision", "extras")
_FRAME_IDENTITY = ("tf", "exchange_ts", "revision", "extras")


class ArchiveError(Exception):
    """The archive cannot be read, or holds what is no product; the message says where."""


@dataclass(frozen=True)
class StoredEvent:
    """An event as stored: its exact bytes, and whether it went to the shadow topic."""

    payload_bytes: bytes
    payload: dict[str, Any]
    shadow: bool = False


@dataclass(frozen=True)
class Span:
    """Labels after since_ms up to and including until_ms, epoch ms."""

    since_ms: int
    until_ms: int

    def holds(self, label_ms: int) -> bool:
        """Tell whether a label lies in the span."""
        return self.since_ms < label_ms <= self.until_ms


class Place(NamedTuple):
    """Which record of a product it is: no two of a run have the same place.

    name : id of an event, detector of a suppression, else empty. revision : 0 for events, whose id
    has it.
    """

    product: str  # rows, frames, events, shadow or suppressed
    asset_uid: int
    tf: str
    label_ms: int
    revision: int
    name: str = ""


class Record(NamedTuple):
    """A stored or made record in canonical bytes."""

    place: Place
    text: bytes


class Configured(NamedTuple):
    """A line of `config_audit`: what ran from a time of the wall clock on."""

    changed_ms: int
    config_hash: str
    run_mode: str | None
    emit_events: bool | None


class Archive(Protocol):
    """Stored products; all lists are in the order of the labels, then of publication.

    keeps_revisions : a revision does not replace the one before. grows : a flow may be writing now.
    """

    name: str
    keeps_revisions: bool
    grows: bool

    def event(self, event_id: str) -> StoredEvent | None:
        """Return an event, live or shadow, None if there is none of this id."""

    def row(self, asset_uid: int, tf: str, label_ms: int, revision: int | None) -> Row | None:
        """Return a revision of a row, None: the newest; tables have no other."""

    def rows(self, asset_uid: int, tf: str, span: Span) -> list[Row]:
        """Return the newest revisions of an asset's rows."""

    def frame(self, tf: str, label_ms: int) -> Frame | None:
        """Return the newest revision of a frame."""

    def events(self, asset_uid: int, tf: str, span: Span) -> list[StoredEvent]:
        """Return an asset's events, live and shadow."""

    def suppressed(self, asset_uid: int, tf: str, span: Span) -> list[Suppression]:
        """Return an asset's suppressions."""

    def tier(self, asset_uid: int, label_ms: int) -> str | None:
        """Return the liquidity tier of an asset in a minute, None where it never moved."""

    def labels(self) -> tuple[int, int] | None:
        """Return the labels of the oldest and the newest row of any asset, None without rows."""

    def minutes(self, span: Span) -> Iterator[tuple[int, list[Record]]]:
        """Yield the records of all assets by label, in the order of labels that have any.

        Only some minutes are in memory at a time.
        """

    def configured(self) -> list[Configured]:
        """Return what ran from when on, oldest first; nothing where that is not noted."""

    def close(self) -> None:
        """Release what is open."""


def label_of(text: str) -> int:
    """Return the epoch ms of a time as products write it.

    >>> label_of("1970-01-01T00:01:00Z")
    60000
    """
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


def row_of(line: Mapping[str, Any]) -> Row:
    """Return the row that `row_json` wrote as this object."""
    columns = {name: value for name, value in line.items() if name not in _ROW_IDENTITY}
    label_ms = label_of(line["exchange_ts"])
    identity = (line["asset_uid"], line["symbol"], line["tf"], label_ms, line["revision"])
    return Row(*identity, columns, line["extras"])


def frame_of(line: Mapping[str, Any]) -> Frame:
    """Return the frame that `frame_json` wrote as this object."""
    columns = {name: value for name, value in line.items() if name not in _FRAME_IDENTITY}
    label_ms = label_of(line["exchange_ts"])
    return Frame(line["tf"], label_ms, line["revision"], columns, line["extras"])


def suppression_of(line: Mapping[str, Any]) -> Suppression:
    """Return the suppression that `suppression_json` wrote as this object."""
    fields = dict(line)
    return Suppression(exchange_ts_ms=label_of(fields.pop("exchange_ts")), **fields)


def newest(found: Iterator[Row]) -> list[Row]:
    """Return the newest revision of each row, in the order of labels."""
    rows: dict[int, Row] = {}
    for row in found:
        known = rows.get(row.exchange_ts_ms)
        if known is None or known.revision <= row.revision:
            rows[row.exchange_ts_ms] = row
    return [rows[label_ms] for label_ms in sorted(rows)]


# --- records in canonical bytes ------------------------------------------------------------------


def row_record(row: Row) -> Record:
    """Return a row as a record."""
    place = Place("rows", row.asset_uid, row.tf, row.exchange_ts_ms, row.revision)
    return Record(place, row_json(row))


def frame_record(frame: Frame) -> Record:
    """Return a frame as a record."""
    place = Place("frames", MARKET_UID, frame.tf, frame.exchange_ts_ms, frame.revision)
    return Record(place, frame_json(frame))


def event_record(payload: Mapping[str, Any], text: bytes, *, shadow: bool) -> Record:
    """Return an event as a record."""
    product = "shadow" if shadow else "events"
    label_ms = label_of(payload["exchange_ts"])
    place = Place(
        product, payload["asset_uid"], payload["tf"], label_ms, 0, str(payload["event_id"])
    )
    return Record(place, text)


def suppression_record(each: Suppression) -> Record:
    """Return a suppression as a record."""
    identity = (each.asset_uid, each.tf, each.exchange_ts_ms, each.revision, each.detector_id)
    return Record(Place("suppressed", *identity), suppression_json(each))
