"""Where a flow began, what ran, and what cannot be judged: found from the log and the archive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataflows.archive import Configured, Span
from dataflows.connectors.archive_files import FileArchive
from dataflows.connectors.ticklog import TickLogWriter
from dataflows.replay import REPLAY, product_path, replay
from dataflows.verify import Stretch, Verification, Verifier, VerifyError, configuration_of
from operators.lattice import iso
from packs.loader import load_packs

pytestmark = pytest.mark.engine

PACKS = load_packs()
M = 1_790_000_040_000 // 60_000 * 60_000
MINUTE = 60_000


def record(at_ms: int, channel: str, data: object) -> bytes:
    """Return a log line."""
    return b"%d %b\n" % (at_ms * 10**6, json.dumps({"channel": channel, "data": data}).encode())


def recording(directory: Path, start_ms: int, minutes: float) -> None:
    """Record as a recorder does, from its start on; one segment, one asset."""
    writer = TickLogWriter(directory)
    assets = [{"uid": 0, "coin": "BTC", "channels": ["trades", "bbo"]}]
    gap = {"start_ms": start_ms, "cause": "start"}
    lines = [
        record(start_ms, "alpha.gap", {**gap, "end_ms": None}),
        record(
            start_ms, "alpha.roster", {"from_ms": start_ms // MINUTE * MINUTE, "assets": assets}
        ),
        record(start_ms + 10, "alpha.gap", {**gap, "end_ms": start_ms + 10}),
    ]
    for at in range(start_ms + 20, start_ms + int(minutes * MINUTE), 5000):
        price = 100 + at // 5000 % 7
        level = [{"px": f"{price + d}", "sz": "1", "n": 1} for d in (-1, 1)]
        lines.append(record(at, "bbo", {"coin": "BTC", "time": at - 5, "bbo": level}))
        print_ = {"coin": "BTC", "side": "B", "px": f"{price}", "sz": "1", "time": at - 5}
        lines.append(record(at + 1, "trades", [{**print_, "tid": at // 1000}]))
    for line in lines:
        writer.write_lines(int(line[: line.index(b" ")]) // 10**6 * 10**6, line)
    writer.close()


def products(log: Path, out: Path, *, also: Path | None = None) -> Path:
    """The products of a log; also : of a second flow, appended as a live flow does."""
    for each in (log, also):
        if each is None:
            continue
        replay(each, out / "part", PACKS)
        for path in (out / "part").glob("*.ndjson"):
            with (out / f"alpha.{path.stem}.v0.ndjson").open("ab") as topic:
                topic.write(path.read_bytes())
            path.unlink()
    return out


def verified(log: Path, out: Path, stretch: Stretch | None = None) -> Verification:
    """Verify the topics of a directory."""
    with Verifier(log, FileArchive(out), PACKS, REPLAY, stretch or Stretch()) as verifier:
        return verifier.advance()


def test_a_flow_that_began_later_than_the_recorder_is_not_blamed(tmp_path: Path) -> None:
    """It begins with the segment that was the newest; the minutes before are counted."""
    recording(tmp_path / "log", M + 20_000, 5)
    recording(tmp_path / "late", M + 9 * MINUTE + 20_000, 8)
    out = products(tmp_path / "late", tmp_path / "out")
    for path in (tmp_path / "late").iterdir():
        path.rename(tmp_path / "log" / path.name.replace("000001", "000002"))
    found = verified(tmp_path / "log", out)
    assert found.tally.mismatches == 0, found.tally.examples
    assert found.began == [iso(M + 10 * MINUTE)]
    assert found.tally.minutes["before_the_flow"] == 9
    assert found.tally.minutes["judged"] >= 6


def test_a_restart_without_a_recovery_store_is_found(tmp_path: Path) -> None:
    """The second flow knows nothing of the first; in between nobody made anything."""
    recording(tmp_path / "log", M + 20_000, 7)
    recording(tmp_path / "late", M + 12 * MINUTE + 20_000, 8)
    out = products(tmp_path / "log", tmp_path / "out", also=tmp_path / "late")
    for path in (tmp_path / "late").iterdir():
        path.rename(tmp_path / "log" / path.name.replace("000001", "000002"))
    found = verified(tmp_path / "log", out)
    assert found.tally.mismatches == 0, found.tally.examples
    assert found.began == [iso(M + 13 * MINUTE)]
    assert found.tally.minutes["flow_stopped"] >= 4
    # With a store the minutes in between are made as stale: then none of them may be missing.
    whole = products(tmp_path / "log", tmp_path / "whole")
    assert verified(tmp_path / "log", whole).began == []
    rows = whole / "alpha.rows.v0.ndjson"
    gone = [
        line
        for line in rows.read_bytes().splitlines(True)
        if iso(M + 10 * MINUTE).encode() not in line
    ]
    rows.write_bytes(b"".join(gone))
    found = verified(tmp_path / "log", whole)
    assert [(m.kind, m.exchange_ts) for m in found.tally.examples] == [
        ("missing", iso(M + 10 * MINUTE))
    ]


def test_what_the_flow_is_writing_is_not_judged(tmp_path: Path) -> None:
    """The newest minute of live topics is left out, unless it is asked for; a replay's is not."""
    recording(tmp_path / "log", M, 10)
    out = products(tmp_path / "log", tmp_path / "out")
    rows = out / "alpha.rows.v0.ndjson"
    lines = rows.read_bytes().splitlines(True)
    rows.write_bytes(b"".join(lines[:-1]) + lines[-1][:100])
    known = FileArchive(out).labels()
    assert known is not None
    found = verified(tmp_path / "log", out)
    assert (found.tally.mismatches, found.until) == (0, iso(known[1] - MINUTE))
    rows.write_bytes(b"".join(lines[:-2]) + lines[-1])
    asked = Stretch(Span(0, known[1] + MINUTE))
    assert {m.kind for m in verified(tmp_path / "log", out, asked).tally.examples} == {"missing"}


def test_what_the_log_does_not_have_is_surplus(tmp_path: Path) -> None:
    """Rows of minutes beyond the log's end, and a line that is there twice."""
    recording(tmp_path / "log", M, 10)
    replay(tmp_path / "log", tmp_path / "out", PACKS)
    rows = product_path(tmp_path / "out", "rows")
    line = rows.read_bytes().splitlines(True)[-1]
    last = json.loads(line)["exchange_ts"]
    beyond = line.replace(last.encode(), iso(M + 50 * MINUTE).encode())
    rows.write_bytes(rows.read_bytes() + line + beyond)
    found = verified(tmp_path / "log", tmp_path / "out")
    assert [(m.kind, m.exchange_ts) for m in found.tally.examples] == [
        ("surplus", last),
        ("surplus", iso(M + 50 * MINUTE)),
    ]


def test_a_verifier_goes_on_where_it_was(tmp_path: Path) -> None:
    """Each look judges what is new; damage in it is found then, and once."""
    recording(tmp_path / "log", M, 20)
    out = products(tmp_path / "log", tmp_path / "out")
    rows = out / "alpha.rows.v0.ndjson"
    lines = rows.read_bytes().splitlines(True)
    rows.write_bytes(b"".join(lines[:8]))
    archive = FileArchive(out)
    with Verifier(tmp_path / "log", archive, PACKS, REPLAY, Stretch(), follow=True) as verifier:
        first = verifier.advance()
        assert first.tally.mismatches == 0
        rows.write_bytes(b"".join([*lines[:12], *lines[13:]]))
        second = verifier.advance()
        assert second.tally.mismatches == 1
        third = verifier.advance()
        assert (third.tally.mismatches, third.tally.minutes) == (0, {})
    judged = first.tally.minutes["judged"] + second.tally.minutes["judged"]
    assert judged == verified(tmp_path / "log", out).tally.minutes["judged"]


A, B = "sha256:a", "sha256:b"
LINES = [
    Configured(1000, A, "prod", True),
    Configured(5000, B, "prod", True),
    Configured(7000, B, "dry_run", True),
]


@pytest.mark.parametrize(
    ("span", "expected"),
    [((1000, 5000), 0), ((5000, 7000), 1), ((7000, 9000), 2), ((0, 800), 0), ((5500, 6000), 1)],
)
def test_the_configuration_of_a_stretch_is_looked_up(span: tuple[int, int], expected: int) -> None:
    """By the time from which it ran."""
    assert configuration_of(LINES, Span(*span), "here") == LINES[expected]


def test_a_stretch_over_a_change_is_refused_with_its_changes() -> None:
    """What changed, when, and which stretches can be verified."""
    with pytest.raises(VerifyError) as refused:
        configuration_of(LINES, Span(4000, 8000), "here")
    for word in (A, B, "dry_run", "--until 1970-01-01T00:00:05Z", "found 3"):
        assert word in str(refused.value)
    assert configuration_of([], Span(0, 1), "here") is None
    assert configuration_of([LINES[0]] * 2, Span(0, 9000), "here") == LINES[0]
