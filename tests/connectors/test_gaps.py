"""Holes of the recording: told by the reader, noted in the table `gap`, once each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, run_main

from dataflows.connectors.migrate import open_session
from dataflows.connectors.postgres import GAP_TABLES, PostgresHoleLog, PostgresWriter
from dataflows.connectors.source import LogSource
from operators.feed import FeedReader, FeedState, Hole
from packs.loader import load_packs

if TYPE_CHECKING:
    from conftest import Place

FEATURES = load_packs().features
T_MS = 1_756_891_800_000


def at(time_ms: int) -> datetime:
    """An instant as the server returns it."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)


def gap_line(now_ms: int, start_ms: int, end_ms: int | None, cause: str) -> bytes:
    """A line of the log in which the recorder opens or closes a gap."""
    end = "null" if end_ms is None else str(end_ms)
    data = f'{{"start_ms":{start_ms},"end_ms":{end},"cause":"{cause}"}}'
    return f'{now_ms}000000 {{"channel":"alpha.gap","data":{data}}}'.encode()


LINES = [
    gap_line(T_MS, T_MS - 500, None, "start"),
    gap_line(T_MS + 900, T_MS - 500, T_MS + 900, "start"),
    gap_line(T_MS + 3_000, T_MS + 2_000, None, "disconnect"),
    gap_line(T_MS + 5_000, T_MS + 2_000, T_MS + 5_000, "disconnect"),
    gap_line(T_MS + 600_000, T_MS + 600_000, None, "disconnect"),
]
HOLES = {
    (T_MS - 500, T_MS + 900, "start"),
    (T_MS + 2_000, T_MS + 5_000, "disconnect"),
    (T_MS + 5_000, T_MS + 600_000, "silence"),
    (T_MS + 600_000, None, "disconnect"),
}


def reader() -> FeedReader:
    """A reader at the start of a log."""
    lattice = FEATURES.lattice
    return FeedReader(
        FeedState(),
        lateness_ms=lattice.lateness_ms,
        grace_ms=lattice.grace_ms,
        arrival_jump_gap_ms=lattice.arrival_jump_gap_ms,
    )


def told(holes: list[Hole]) -> set[tuple[int, int | None, str]]:
    """Holes as plain values, without the one before the first line."""
    return {(h.start_ms, h.end_ms, h.cause) for h in holes if h.start_ms}


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_every_hole_is_told_however_the_lines_are_cut(chunk: int) -> None:
    """The last word on each hole is the same, also of those long forgotten by the minutes."""
    feed, last = reader(), {}
    for start in range(0, len(LINES), chunk):
        feed.read(LINES[start : start + chunk])
        last |= {(h.start_ms, h.cause): h for h in feed.take_holes()}
    assert told(list(last.values())) == HOLES
    assert feed.take_holes() == []


def stored(place: Place) -> set[tuple[str, datetime, datetime | None, str]]:
    """The table."""
    with open_session(place.dsn, place.schema) as connection:
        found = connection.execute("select feed, started_at, ended_at, cause from gap").fetchall()
    assert len(found) == len(set(found))
    return set(found)


def hole_log(place: Place) -> PostgresHoleLog:
    """Where the holes go."""
    return PostgresHoleLog(
        lambda: PostgresWriter(place.dsn, {}, schema=place.schema, backoff_s=(), only=GAP_TABLES),
        "ticks",
    )


EXPECTED = {
    ("ticks", at(start), None if end is None else at(end), cause) for start, end, cause in HOLES
}


@pytest.mark.service
def test_lines_read_again_change_nothing(place: Place) -> None:
    """After a kill the reader goes back: a gap that was closed is not opened again meanwhile."""
    log = hole_log(place)
    for again in (False, True):
        feed = reader()
        for line in LINES:
            feed.read([line])
            log.write(feed.take_holes())
            if again:
                assert stored(place) == EXPECTED
    log.close()
    assert stored(place) == EXPECTED


@pytest.mark.service
@pytest.mark.engine
def test_a_flow_notes_the_holes_of_its_log(place: Place, tmp_path: Path) -> None:
    """From the log's file to the table."""
    path = tmp_path / "ticks.log"
    path.write_bytes(b"".join(line + b"\n" for line in LINES))
    flow, out = Dataflow("gaps"), []  # type: ignore[var-annotated]
    op.output(
        "out",
        op.input("in", flow, LogSource(path, FEATURES, 2, holes=hole_log(place))),
        TestingSink(out),
    )
    run_main(flow)  # type: ignore[no-untyped-call]
    assert stored(place) == EXPECTED
