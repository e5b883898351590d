"""`alpha replay` of a range: what the options mean, what is refused, and how it ends."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from dataflows.cli.failures import INTERRUPTED, USAGE
from dataflows.cli.logs import LogSpan
from dataflows.cli.replay import checked_source
from dataflows.cli.replay_range import Asked, PartsProgress
from dataflows.ranges import Part
from fixtures.market import Scenario
from operators.lattice import HOUR_MS, MINUTE_MS, iso

PAGE = Path(__file__).parents[2] / "docs" / "ranges.md"
HEADER = "symbol,close_ms,open,high,low,close,volume_quote"
START_MS = 1_790_031_600_000  # a full hour


@pytest.fixture
def bars_file(tmp_path: Path) -> Path:
    """Five hours of a symbol."""
    path = tmp_path / "bars.csv"
    closes = (START_MS + (minute + 1) * MINUTE_MS for minute in range(5 * 60))
    path.write_text("\n".join([HEADER, *(f"AAA,{close},2,3,1,2,1000" for close in closes)]) + "\n")
    return path


@pytest.mark.engine
def test_a_range_is_what_lies_within(
    alpha: Any, small_log: Path, small_scenario: Scenario, tmp_path: Path
) -> None:
    """(from, to] of a log, exact here, and the summary says from where it was read."""
    since, until = (iso(small_scenario.start_ms + k * MINUTE_MS) for k in (2, 4))
    ran = alpha("replay", small_log, "--out", tmp_path / "o", "--from", since, "--to", until)
    assert ran.code == 0, ran.err
    part = {"from": since, "to": until, "read_from": None, "warmup_sec": None}
    told = {"from": since, "to": until, "approximate": False}
    assert ran.json["range"] == {**told, "parts": [{**part, "approximate": False}]}
    rows = [orjson.loads(line) for line in (tmp_path / "o/rows.ndjson").read_bytes().splitlines()]
    minutes = [iso(small_scenario.start_ms + k * MINUTE_MS) for k in (3, 4)]
    assert [row["exchange_ts"] for row in rows] == [minutes[0]] * 2 + [minutes[1]] * 2
    late = alpha("replay", small_log, "--out", tmp_path / "o", "--from", since, "--warmup", "0s")
    assert late.json["range"]["approximate"]
    assert late.json["range"]["parts"][0]["read_from"] == since
    refused = alpha("trial", tmp_path / "o", "--out", tmp_path / "tried")
    assert refused.code != 0
    assert "replay.json" in refused.err


@pytest.mark.engine
def test_the_commands_of_the_page(alpha: Any, small_log: Path, tmp_path: Path) -> None:
    """Each does what is said beside it."""
    (tmp_path / "LOG").symlink_to(small_log)
    found = []
    for line in PAGE.read_text().split("```")[1].strip().splitlines():
        ran = alpha(*shlex.split(line, comments=True)[1:])
        assert ran.code == 0, (line, ran.err)
        part = ran.json["range"]["parts"][0]
        found.append(
            (ran.json["products"]["rows"]["count"], part["read_from"], ran.err.count("\n"))
        )
    assert found == [(4, None, 0), (8, "2026-09-21T14:16:00Z", 0), (12, None, 1)]


@pytest.mark.engine
def test_jobs_of_bars(alpha: Any, bars_file: Path, tmp_path: Path) -> None:
    """Cut at a full hour; where a warm-up eats what is won, fewer jobs, and that is said."""
    command = ("replay", "--bars", bars_file, "--out", tmp_path / "o", "--jobs", 2)
    ran = alpha(*command, "--warmup", "1h")
    assert ran.code == 0, ran.err
    assert [part["warmup_sec"] for part in ran.json["range"]["parts"]] == [None, 3600]
    assert ran.json["range"]["approximate"]
    assert ran.json["products"]["rows"]["count"] == 5 * (60 + 4 + 1)
    ran = alpha(*command)
    assert "1 of 2 jobs" in ran.err
    assert not ran.json["range"]["approximate"]
    assert (tmp_path / "o/replay.json").exists()


def test_progress_of_bars_ends_with_them(bars_file: Path) -> None:
    """The end of the source is that of its last part, so no time beyond it is shown."""
    last_ms = START_MS + 5 * HOUR_MS
    span = checked_source(bars_file, bars=True)
    assert span == LogSpan(START_MS + MINUTE_MS, last_ms)
    asked = Asked.of(None, None, "1h", 2)
    assert asked is not None
    parts = asked.parts(span, bars=True)
    assert len(parts) == 2
    progress = PartsProgress(parts, "minutes", 1, span, quiet=True)
    told = [progress.reach(0, parts[0].to_ms or 0), progress.reach(1, last_ms)]
    assert told[0] < told[1] == last_ms


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--from", "soon"], ["--from", "'soon'"]),
        (["--from", "2026-09-22", "--to", "2026-09-22"], ["--to", "after --from"]),
        (["--from", "2027-01-01"], ["--from", "before the end", "2026-09-22T04:00:00Z"]),
        (["--to", "2020-01-01"], ["--to", "after the start"]),
        (["--warmup", "3d"], ["--warmup", "--from or --jobs"]),
        (["--jobs", "2", "--warmup", "long"], ["--warmup", "'long'"]),
        (["--jobs", "2", "--workers", "2"], ["--jobs", "--workers"]),
        (["--jobs", "2", "--speed", "60"], ["--jobs", "--speed"]),
        (["--to", "2026-09-22", "--kafka", "localhost:1"], ["--to", "servers"]),
    ],
)
def test_what_is_no_range(
    alpha: Any, bars_file: Path, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    """One message, before anything is made."""
    ran = alpha("replay", "--bars", bars_file, "--out", tmp_path / "o", *options)
    ran.failed_with(USAGE, *words)
    assert not (tmp_path / "o").exists()


@pytest.mark.engine
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_behind(
    alpha: Any,
    alpha_command: Callable[..., list[str]],
    bars_file: Path,
    tmp_path: Path,
    number: int,
) -> None:
    """Ctrl-C ends the parts, and so does a parent that is killed; the next replay cleans up."""
    short = bars_file.read_text()
    closes = (START_MS + (minute + 1) * MINUTE_MS for minute in range(20 * 1440))
    lines = [f"{name},{close},2,3,1,2,1000" for close in closes for name in ("A", "B", "C")]
    bars_file.write_text("\n".join([HEADER, *lines]) + "\n")
    out = tmp_path / "o"
    command = alpha_command(
        "replay", "--bars", bars_file, "--out", out, "--jobs", 2, "--warmup", "1h"
    )
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_hear_interrupts,
    )
    try:
        parts = [out / ".parts" / name / "rows.ndjson" for name in "01"]
        _wait_for(lambda: all(part.exists() and part.stat().st_size for part in parts))
        children = [child for child in _processes() if _parent_of(child) == process.pid]
        assert len(children) >= 2
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        _wait_for(lambda: not set(children) & set(_processes()))
    finally:
        process.kill()
        process.wait()
    if number == signal.SIGINT:
        assert process.returncode == INTERRUPTED
        assert b"Traceback" not in err
        assert not (out / ".parts").exists()
        return
    assert (out / ".parts").exists()
    bars_file.write_text(short)
    assert alpha("replay", "--bars", bars_file, "--out", out).code == 0
    assert not (out / ".parts").exists()


def _hear_interrupts() -> None:
    """Undo what a shell does to a job in the background: it is deaf to Ctrl-C, and its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent_of(int(name))]


def _parent_of(pid: int) -> int:
    """Return the parent of a process that runs, else 0."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return 0
    return 0 if state == "Z" else int(parent)


def test_progress_is_that_of_all_parts() -> None:
    """As far as one process would be that had read as much."""
    middle_ms = START_MS + 5 * HOUR_MS
    parts = [Part(None, middle_ms), Part(middle_ms, None, middle_ms - HOUR_MS)]
    span = LogSpan(START_MS, START_MS + 9 * HOUR_MS)
    progress = PartsProgress(parts, "lines", 1, span, quiet=False)
    told = [
        progress.reach(part, at_ms)
        for part, at_ms in (
            (0, START_MS + 2 * HOUR_MS),
            (1, middle_ms + 2 * HOUR_MS),
            (0, middle_ms),
            (1, START_MS + 9 * HOUR_MS),
        )
    ]
    hours = [(at - START_MS) / HOUR_MS for at in told]
    assert hours == pytest.approx([1.8, 4.5, 7.2, 9.0])
