"""What a run stored is read back byte for byte, from tables and from files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import orjson
import pytest

from dataflows.archive import Archive, ArchiveError, Span, label_of
from dataflows.connectors.archive_files import FileArchive
from dataflows.connectors.archive_postgres import PostgresArchive
from dataflows.connectors.migrate import migrate
from dataflows.connectors.postgres import PostgresWriter
from dataflows.connectors.source import feed_reader
from dataflows.connectors.ticklog import TickLogReader
from dataflows.replay import product_path, replay
from dataflows.version import PRODUCER
from operators.feed import FeedState
from operators.loop import Loop
from operators.publish import frame_json, row_json, suppression_json
from operators.records import MARKET_UID, MarketPhase, Phase
from packs.loader import load_packs

PACKS = load_packs()
ALL = Span(0, 10**13)
UIDS = (MARKET_UID, 0, 1, 2, 3)
TFS = ("1m", "15m", "1h")


class Both(NamedTuple):
    """The same run as files and as tables."""

    files: FileArchive
    tables: PostgresArchive
    directory: Path


@pytest.fixture(scope="module")
def both(
    episode_log: Path, tmp_path_factory: pytest.TempPathFactory, _shared_database: str
) -> Iterator[Both]:
    """Four assets and four hours with 15m and 1h rows and events; the last minute is amended."""
    out = tmp_path_factory.mktemp("archive")
    replay(episode_log, out, PACKS)
    schema = "archive"
    migrate(_shared_database, schema)
    columns = {column.name: column.type for column in PACKS.features.stored}
    writer = PostgresWriter(_shared_database, columns, schema=schema)
    feed = feed_reader(FeedState(), PACKS.features)
    loop = Loop(PACKS, PRODUCER)
    last = MarketPhase(Phase(0, False, 0, 0), (), ())
    with TickLogReader(episode_log) as log:
        while batch := log.read(5000):
            for output in loop.ticks(feed.read(batch)):
                if isinstance(output, MarketPhase):
                    writer.write_market([output])
                    last = output if output.rows else last
                else:
                    writer.write_published([output])
    amended = tuple(msgspec.structs.replace(row, revision=row.revision + 1) for row in last.rows)
    writer.write_market([msgspec.structs.replace(last, rows=amended, frames=())])
    with product_path(out, "rows").open("ab") as file:
        file.writelines(row_json(row) + b"\n" for row in amended)
    writer.close()
    tables = PostgresArchive(_shared_database, PACKS.features, schema=schema)
    yield Both(FileArchive(out), tables, out)
    tables.close()


def lines(both: Both, product: str) -> list[bytes]:
    """The lines of a product file."""
    return product_path(both.directory, product).read_bytes().splitlines()


@pytest.mark.parametrize("of", ["files", "tables"])
def test_rows_come_back_byte_for_byte(both: Both, of: str) -> None:
    """All timeframes, the newest revision of each."""
    archive: Archive = getattr(both, of)
    newest: dict[tuple[int, str, str], bytes] = {}
    for text in lines(both, "rows"):
        line = orjson.loads(text)
        newest[line["asset_uid"], line["tf"], line["exchange_ts"]] = text
    found = [row for uid in UIDS for tf in TFS for row in archive.rows(uid, tf, ALL)]
    assert sorted(map(row_json, found)) == sorted(newest.values())


@pytest.mark.parametrize("of", ["files", "tables"])
def test_frames_come_back_byte_for_byte(both: Both, of: str) -> None:
    """One by one, by timeframe and label."""
    archive: Archive = getattr(both, of)
    newest = {}
    for text in lines(both, "frames"):
        line = orjson.loads(text)
        newest[line["tf"], line["exchange_ts"]] = text
    for (tf, label), text in newest.items():
        frame = archive.frame(tf, label_of(label))
        assert frame is not None
        assert frame_json(frame) == text
    assert archive.frame("1m", 60_000) is None


@pytest.mark.parametrize("of", ["files", "tables"])
def test_events_and_suppressions_come_back(both: Both, of: str) -> None:
    """Exact bytes by id and by asset; each suppression once."""
    archive: Archive = getattr(both, of)
    texts = lines(both, "events")
    for text in texts:
        stored = archive.event(orjson.loads(text)["event_id"])
        assert stored is not None
        assert (stored.payload_bytes, stored.payload) == (text, orjson.loads(text))
        assert not stored.shadow
    listed = [e.payload_bytes for uid in UIDS for tf in TFS for e in archive.events(uid, tf, ALL)]
    assert sorted(listed) == sorted(texts)
    held = [s for uid in UIDS for tf in TFS for s in archive.suppressed(uid, tf, ALL)]
    assert sorted(map(suppression_json, held)) == sorted(lines(both, "suppressed"))
    assert archive.event("00000000-0000-7000-8000-000000000000") is None
    assert archive.event("no id") is None


def test_a_span_is_open_at_its_start(both: Both) -> None:
    """Labels after the first time up to and including the last, in both archives."""
    labels = [row.exchange_ts_ms for row in both.files.rows(0, "1m", ALL)]
    span = Span(labels[10], labels[20])
    for archive in (both.files, both.tables):
        assert [r.exchange_ts_ms for r in archive.rows(0, "1m", span)] == labels[11:21]


def test_tiers_and_revisions_agree(both: Both) -> None:
    """The tier in force at a label; a revision that is not the newest is in the files alone."""
    last = both.files.rows(0, "1m", ALL)[-1].exchange_ts_ms
    for uid in UIDS:
        for label_ms in (last - 3_600_000, last):
            assert both.files.tier(uid, label_ms) == both.tables.tier(uid, label_ms)
    amended = [row for uid in UIDS for row in both.tables.rows(uid, "1m", ALL) if row.revision]
    assert amended
    for row in amended:
        place = (row.asset_uid, row.tf, row.exchange_ts_ms)
        before = both.files.row(*place, row.revision - 1)
        assert before is not None
        assert before.revision == row.revision - 1
        assert both.tables.row(*place, row.revision - 1) is None
        assert both.tables.row(*place, row.revision) == row == both.files.row(*place, None)


def test_a_directory_without_events_is_no_archive(tmp_path: Path) -> None:
    """It says what it looked for; a damaged line is named, a half written one is not read."""
    with pytest.raises(ArchiveError, match=r"expected one of events.ndjson, .*found none"):
        FileArchive(tmp_path)
    (tmp_path / "events.ndjson").write_bytes(b'{"event_id":"a"}\n{"event_id":"b"\n')
    with pytest.raises(ArchiveError, match="line 2 is not JSON"):
        FileArchive(tmp_path).event("b")
    (tmp_path / "events.ndjson").write_bytes(b'{"event_id":"a"}\n{"event_id":"b"')
    assert FileArchive(tmp_path).event("b") is None
