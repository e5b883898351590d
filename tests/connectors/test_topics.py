"""Topic files are exact after a restart; the console prints a line a minute and one per event."""

import hashlib
import io
import itertools
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import orjson
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, run_main

from dataflows.connectors.console import (
    WAITING_MAX,
    ConsoleEventSink,
    ConsoleMarketSink,
    MinutePrinter,
)
from dataflows.connectors.topics import (
    EVENT_PRODUCTS,
    MARKET_PRODUCTS,
    EventsSink,
    NdjsonFile,
    RowsAndFramesSink,
    TopicError,
    Written,
)
from operators.publish import event_json, frame_json, row_json, suppression_json
from operators.records import Frame, MarketPhase, Phase, Published, Row, Suppression

T_MS = 1_756_891_800_000
LONG = timedelta(minutes=1)  # an epoch that does not end by itself


def phase_at(minute: int, final: bool = False) -> Phase:
    """The closing of the n-th minute."""
    return Phase(T_MS + minute * 60_000, final, 2, T_MS + minute * 60_000 + 1500)


def market(minute: int, *verdicts: str, final: bool = False) -> MarketPhase:
    """A phase with one row per verdict and one frame."""
    phase = phase_at(minute, final)
    rows = tuple(
        Row(uid, f"A{uid}", "1m", phase.minute_ms, 0, {"dq_status": v, "dq_reasons": ["gap"]})
        for uid, v in enumerate(verdicts)
    )
    frame = Frame("1m", phase.minute_ms, 0, {"leader": "BTC", "dominance_share": 0.42})
    return MarketPhase(phase, (frame,), rows)


def published(minute: int, *severities: int, final: bool = False) -> Published:
    """A phase with one event per severity, and one suppression."""
    phase = phase_at(minute, final)
    events = tuple(
        {
            "exchange_ts": "2025-09-03T09:30:00Z",
            "severity": severity,
            "symbol": "SOL",
            "tf": "1m",
            "class": "spike",
            "subtype": "vol_spike_m_1",
            "local_state": {"features": {"z_vol_m_1": 3.61234567, "ret_m_1": None}},
        }
        for severity in severities
    )
    suppressed = Suppression(5, "SOL", "1m", phase.minute_ms, 0, "spike.x", "cooldown", None)
    return Published(phase, events, (suppressed,))


# --- one file ----------------------------------------------------------------------------------


def test_resume_cuts_what_came_after_the_snapshot(tmp_path: Path) -> None:
    """The repeated epoch is written once: a b | c d -> killed -> a b | c d e."""
    path = tmp_path / "deep" / "topic.ndjson"
    file = NdjsonFile(path, append=False)
    file.append([b"a", b"b"])
    offset = file.offset()
    file.append([b"c", b"d"])
    file.close()
    file = NdjsonFile(path, offset, append=False)
    file.append([b"c", b"d", b"e"])
    assert path.read_bytes() == b"a\nb\nc\nd\ne\n"
    assert file.offset() == 10
    file.close()


def test_every_batch_is_visible_at_once(tmp_path: Path) -> None:
    """A consumer that follows the file sees a batch when append returns; an empty one is none."""
    path = tmp_path / "topic.ndjson"
    file = NdjsonFile(path, append=True)
    file.append([])
    assert path.read_bytes() == b""
    file.append(iter([b"a"]))
    assert path.read_bytes() == b"a\n"
    file.close()


def test_start_without_state_replaces_or_appends(tmp_path: Path) -> None:
    """A replay starts a new file, a live run goes on after the last complete line."""
    path = tmp_path / "topic.ndjson"
    path.write_bytes(b"old\n" + b"x" * 200_000)
    live = NdjsonFile(path, append=True)
    live.append([b"new"])
    live.close()
    assert path.read_bytes() == b"old\nnew\n"
    replay = NdjsonFile(path, append=False)
    replay.append([b"only"])
    replay.close()
    assert path.read_bytes() == b"only\n"


def test_torn_first_line_is_dropped(tmp_path: Path) -> None:
    """A file that never got a complete line starts again at its beginning."""
    path = tmp_path / "topic.ndjson"
    path.write_bytes(b"{half")
    file = NdjsonFile(path, append=True)
    assert file.offset() == 0
    file.close()


def test_file_shorter_than_its_snapshot_is_refused(tmp_path: Path) -> None:
    """Somebody removed the file but kept the recovery store: going on would lose lines."""
    with pytest.raises(TopicError, match="expected at least 10 bytes, found 0"):
        NdjsonFile(tmp_path / "topic.ndjson", 10, append=True)


# --- the sinks ---------------------------------------------------------------------------------


def test_sinks_write_canonical_lines_in_order(tmp_path: Path) -> None:
    """Each product goes to its file as the serialiser of the product writes it."""
    rows, frames, events, suppressed = (tmp_path / name for name in ("r", "f", "e", "s"))
    phases = [market(0, "ok", "stale"), market(1, "ok")]
    part = RowsAndFramesSink({"rows": rows, "frames": frames}, append=False).build_part(
        "rows", "0", None
    )
    part.write_batch(phases)
    part.close()
    batch = [published(0, 74, 10), published(1)]
    other = EventsSink({"events": events, "suppressed": suppressed}, append=False).build_part(
        "events", "0", None
    )
    other.write_batch(batch)
    other.close()
    assert rows.read_bytes().splitlines() == [row_json(r) for p in phases for r in p.rows]
    assert frames.read_bytes().splitlines() == [frame_json(f) for p in phases for f in p.frames]
    assert events.read_bytes().splitlines() == [event_json(e) for e in batch[0].events]
    assert suppressed.read_bytes().splitlines() == [
        suppression_json(s) for p in batch for s in p.suppressed
    ]


@pytest.mark.parametrize(
    ("first", "names"), [(RowsAndFramesSink, MARKET_PRODUCTS), (EventsSink, EVENT_PRODUCTS)]
)
def test_all_files_are_cut_at_the_snapshot(
    tmp_path: Path, first: Any, names: tuple[str, ...]
) -> None:
    """A sink's state holds the offsets of all of its files."""
    paths = {name: tmp_path / name for name in names}
    sink = first(paths, append=True)
    items = [market(n, "ok") if first is RowsAndFramesSink else published(n, 50) for n in (0, 1)]
    part = sink.build_part("out", "0", None)
    part.write_batch(items[:1])
    state = part.snapshot()
    before = [path.read_bytes() for path in paths.values()]
    part.write_batch(items[1:])
    part.close()
    assert [path.read_bytes() for path in paths.values()] != before
    sink.build_part("out", "0", state).close()
    assert [path.read_bytes() for path in paths.values()] == before


@pytest.mark.engine
def test_files_are_exactly_once_across_a_crash(tmp_path: Path) -> None:
    """What a dead flow wrote after its last snapshot is cut, then written once.

    0 1 snapshot | 2 3 killed | 2 3 4
    """
    minutes = [0, 1, TestingSource.EOF(), 2, 3, TestingSource.ABORT(), 4]
    source: list[Any] = [("0", market(n, "ok")) if isinstance(n, int) else n for n in minutes]
    (tmp_path / "store").mkdir()
    init_db_dir(tmp_path / "store", 1)
    paths = {name: tmp_path / name for name in ("rows", "frames")}
    sink = RowsAndFramesSink(paths, append=False)
    counts = []
    for _ in range(3):
        flow = Dataflow("topics")
        op.output("out", op.input("in", flow, TestingSource(source)), sink)
        recovery = RecoveryConfig(tmp_path / "store")
        run_main(flow, epoch_interval=LONG, recovery_config=recovery)
        counts.append(len((tmp_path / "rows").read_bytes().splitlines()))
    assert counts == [2, 4, 5]
    expected = [row_json(row) for n in range(5) for row in market(n, "ok").rows]
    assert (tmp_path / "rows").read_bytes().splitlines() == expected
    assert len((tmp_path / "frames").read_bytes().splitlines()) == 5


# --- the console -------------------------------------------------------------------------------


def printed(*items: MarketPhase | Published) -> list[str]:
    """The lines a printer writes for items in this order."""
    stream = io.StringIO()
    printer = MinutePrinter(stream).open()
    for item in items:
        (printer.market if isinstance(item, MarketPhase) else printer.published)(item)  # type: ignore[arg-type]
    printer.close()
    return stream.getvalue().splitlines()


def test_a_minute_is_one_line_and_an_event_another() -> None:
    """Time, verdicts, leader and number of events, then the events."""
    assert printed(market(0, "ok", "ok", "partial", "stale"), published(0, 74)) == [
        "2025-09-03T09:30:00Z  4 assets  2 ok  1 partial  1 stale  leader BTC 42%  1 event",
        "2025-09-03T09:30:00Z   74  SOL      1m  spike.vol_spike_m_1  z_vol_m_1 3.612",
    ]


def test_reasons_are_told_when_all_are_stale() -> None:
    """A minute without a good asset says why."""
    (line,) = printed(market(0, "stale", "stale"), published(0))
    assert "2 assets  2 stale (gap 2)" in line
    assert line.endswith("0 events")


def test_order_of_the_two_streams_does_not_matter() -> None:
    """Rows first, events first, or a minute apart: the same lines."""
    items = [market(0, "ok"), published(0, 50), market(1, "ok"), published(1)]
    outputs = {
        tuple(printed(*order))
        for order in itertools.permutations(items)
        if order.index(items[0]) < order.index(items[2])
    }
    complete = {tuple(sorted(lines)) for lines in outputs}
    assert complete == {tuple(sorted(printed(*items)))}


def test_halves_do_not_wait_for_ever() -> None:
    """Without the other stream minutes are printed all the same, in order and late."""
    lines = printed(*(market(n, "ok") for n in range(WAITING_MAX + 3)))
    assert len(lines) == WAITING_MAX + 3
    assert lines == sorted(lines)


def test_final_phase_prints_events_only() -> None:
    """An amendment has no line of its own, an event it causes does."""
    assert printed(market(0, "ok", final=True), published(0, final=True)) == []
    assert len(printed(published(0, 91, final=True))) == 1


@pytest.mark.engine
def test_console_sinks_in_a_flow() -> None:
    """Both sinks share the printer, and the last minute is printed at the end."""
    stream = io.StringIO()
    printer = MinutePrinter(stream)
    flow = Dataflow("console")
    minutes = op.input("in", flow, TestingSource([("0", n) for n in range(3)]))
    rows = op.map("rows", minutes, lambda item: (item[0], market(item[1], "ok")))
    events = op.map("events", minutes, lambda item: (item[0], published(item[1], 60)))
    op.output("market", rows, ConsoleMarketSink(printer))
    op.output("published", events, ConsoleEventSink(printer))
    run_main(flow)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6
    assert sum("1 assets" in line and "1 event" in line for line in lines) == 3


def test_lines_are_json(tmp_path: Path) -> None:
    """Every line of a topic reads back as one object."""
    part = EventsSink({"events": tmp_path / "e"}, append=False).build_part("e", "0", None)
    part.write_batch([published(0, 1, 2, 3)])
    part.close()
    found = [orjson.loads(line) for line in (tmp_path / "e").read_bytes().splitlines()]
    assert [event["severity"] for event in found] == [1, 2, 3]


def test_what_is_written_is_told_as_it_lies_in_the_file(tmp_path: Path) -> None:
    """Lines, bytes and digest of all batches together; empty ones are none."""
    path, written = tmp_path / "topic.ndjson", Written()
    file = NdjsonFile(path, append=False, written=written)
    for lines in ([b"a", b"b"], [], iter([b"c"])):
        file.append(lines)
    file.close()
    text = path.read_bytes()
    assert (text, written.lines, written.size) == (b"a\nb\nc\n", 3, 6)
    assert written.sha256.hexdigest() == hashlib.sha256(text).hexdigest()
