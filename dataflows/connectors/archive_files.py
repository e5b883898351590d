"""The products of a replay as an archive: NDJSON files of one directory.

Rules of this file: files are searched, never changed; a line is parsed when it holds the text that
is looked for; what is read by minutes is found once, by label; a directory of the live flow's topic
files is an archive, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from dataflows.archive import (
    FOREVER_MS,
    ArchiveError,
    Configured,
    Place,
    Record,
    Span,
    StoredEvent,
    frame_of,
    label_of,
    newest,
    row_of,
    suppression_of,
)
from operators.lattice import iso
from operators.records import MARKET_UID, Frame, Row, Suppression

_NAMES = ("{}.ndjson", "alpha.{}.v0.ndjson", "topics/alpha.{}.v0.ndjson")
_SHADOW_NAMES = (
    "shadow.ndjson",
    "alpha.events.shadow.v0.ndjson",
    "topics/alpha.events.shadow.v0.ndjson",
)
_PRODUCTS = ("rows", "frames", "events", "shadow", "suppressed")
_LABEL_KEY = b'"exchange_ts":"'


class _Stretch(NamedTuple):
    """Lines of one label that follow one another in a file."""

    offset: int
    size: int


class FileArchive:
    """Reads the files of a replay's directory, or those under a data directory of a live flow."""

    keeps_revisions = True

    def __init__(self, directory: Path) -> None:
        self.name = str(directory)
        self._directory = directory
        if self._path("events") is None:
            wanted = ", ".join(name.format("events") for name in _NAMES)
            raise ArchiveError(f"{directory}: expected one of {wanted}, found none")
        self.grows = not (directory / _NAMES[0].format("events")).is_file()

    def event(self, event_id: str) -> StoredEvent | None:
        """Return an event, live or shadow."""
        for product, shadow in (("events", False), ("shadow", True)):
            for text, line in self._lines(product, event_id):
                if line.get("event_id") == event_id:
                    return StoredEvent(text, line, shadow)
        return None

    def row(self, asset_uid: int, tf: str, label_ms: int, revision: int | None) -> Row | None:
        """Return a revision of a row, None: the newest."""
        lines = self._lines("rows", _label(label_ms))
        rows = (row for _, line in lines if (row := _row(line, asset_uid, tf)) is not None)
        found = newest(row for row in rows if revision in (None, row.revision))
        return found[0] if found else None

    def rows(self, asset_uid: int, tf: str, span: Span) -> list[Row]:
        """Return the newest revisions of an asset's rows."""
        lines = self._lines("rows", f'"asset_uid":{asset_uid},')
        found = (row for _, line in lines if (row := _row(line, asset_uid, tf)) is not None)
        return newest(row for row in found if span.holds(row.exchange_ts_ms))

    def frame(self, tf: str, label_ms: int) -> Frame | None:
        """Return the newest revision of a frame."""
        frames = [
            frame_of(line)
            for _, line in self._lines("frames", _label(label_ms))
            if line["tf"] == tf
        ]
        return max(frames, key=lambda frame: frame.revision, default=None)

    def events(self, asset_uid: int, tf: str, span: Span) -> list[StoredEvent]:
        """Return an asset's events, live and shadow."""
        found = [
            StoredEvent(text, line, product == "shadow")
            for product in ("events", "shadow")
            for text, line in self._lines(product, f'"asset_uid":{asset_uid},')
            if line["tf"] == tf and span.holds(label_of(line["exchange_ts"]))
        ]
        return sorted(found, key=lambda event: label_of(event.payload["emitted_at"]))

    def suppressed(self, asset_uid: int, tf: str, span: Span) -> list[Suppression]:
        """Return an asset's suppressions."""
        lines = self._lines("suppressed", f'"asset_uid":{asset_uid},')
        found = (suppression_of(line) for _, line in lines if line["tf"] == tf)
        return [each for each in found if span.holds(each.exchange_ts_ms)]

    def tier(self, asset_uid: int, label_ms: int) -> str | None:
        """Return the liquidity tier of an asset in a minute."""
        tier: str | None = None
        for _, line in self._lines("audit", f'"asset_uid":{asset_uid},'):
            if line["kind"] == "tier" and label_of(line["exchange_ts"]) <= label_ms:
                tier = line["tier"]
        return tier

    def labels(self) -> tuple[int, int] | None:
        """Return the labels of the oldest and the newest row."""
        found = self._stretches("rows", Span(0, FOREVER_MS))
        return (min(found), max(found)) if found else None

    def minutes(self, span: Span) -> Iterator[tuple[int, list[Record]]]:
        """Yield the records of all assets by label; of the files only where each label is stays
        in memory."""
        found = {product: self._stretches(product, span) for product in _PRODUCTS}
        for label_ms in sorted(set().union(*found.values())):
            records: list[Record] = []
            for product, stretches in found.items():
                for stretch in stretches.get(label_ms, ()):
                    records += self._records(product, label_ms, stretch)
            yield label_ms, records

    def configured(self) -> list[Configured]:
        """Return the configuration of the first event, if there is one: files say no more."""
        for _, event in self._lines("events", ""):
            return [Configured(0, event["provenance"]["config_hash"], None, None)]
        return []

    def close(self) -> None:
        """Nothing stays open."""

    def _stretches(self, product: str, span: Span) -> dict[int, list[_Stretch]]:
        """Return where the lines of each label are, whatever their order."""
        path, found = self._path(product), dict[int, list[_Stretch]]()
        if path is None:
            return found
        offset, number, label, label_ms = 0, 0, b"", 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break  # it is being written
                at = line.find(_LABEL_KEY) + len(_LABEL_KEY)
                text = line[at : line.find(b'"', at)]
                if text != label:
                    label, label_ms = text, self._label_in(path, number, line, text)
                if span.holds(label_ms):
                    runs = found.setdefault(label_ms, [])
                    if runs and runs[-1].offset + runs[-1].size == offset:
                        runs[-1] = _Stretch(runs[-1].offset, runs[-1].size + len(line))
                    else:
                        runs.append(_Stretch(offset, len(line)))
                offset += len(line)
        return found

    def _label_in(self, path: Path, number: int, line: bytes, text: bytes) -> int:
        if _LABEL_KEY not in line:
            raise ArchiveError(f"{path}: line {number} has no exchange_ts")
        try:
            return label_of(text.decode())
        except ValueError:
            raise ArchiveError(f"{path}: line {number}: exchange_ts is not a time") from None

    def _records(self, product: str, label_ms: int, stretch: _Stretch) -> Iterator[Record]:
        path = self._path(product)
        assert path is not None
        with path.open("rb") as file:
            file.seek(stretch.offset)
            lines = file.read(stretch.size).splitlines()
        for text in lines:
            try:
                line = orjson.loads(text)
                yield Record(_place(product, label_ms, line), text)
            except (orjson.JSONDecodeError, KeyError, TypeError):
                why = f"expected a line of {product}, found {text[:60]!r}"
                raise ArchiveError(f"{path}: at {iso(label_ms)}: {why}") from None

    def _path(self, product: str) -> Path | None:
        names = _SHADOW_NAMES if product == "shadow" else [name.format(product) for name in _NAMES]
        return next((p for name in names if (p := self._directory / name).is_file()), None)

    def _lines(self, product: str, text: str) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Yield bytes and object of the lines that hold a text; a product without file has none."""
        path = self._path(product)
        if path is None:
            return
        wanted = text.encode()
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if wanted not in line:
                    continue
                try:
                    found = orjson.loads(line)
                except orjson.JSONDecodeError:
                    if line.endswith(b"\n"):
                        raise ArchiveError(f"{path}: line {number} is not JSON") from None
                    continue  # the last one, which is being written
                yield line.rstrip(b"\n"), found


def _place(product: str, label_ms: int, line: dict[str, Any]) -> Place:
    if product in ("events", "shadow"):
        return Place(product, line["asset_uid"], line["tf"], label_ms, 0, line["event_id"])
    uid = MARKET_UID if product == "frames" else line["asset_uid"]
    name = line["detector_id"] if product == "suppressed" else ""
    return Place(product, uid, line["tf"], label_ms, line["revision"], name)


def _label(label_ms: int) -> str:
    return f'"exchange_ts":"{iso(label_ms)}"'


def _row(line: dict[str, Any], asset_uid: int, tf: str) -> Row | None:
    return row_of(line) if line["asset_uid"] == asset_uid and line["tf"] == tf else None
