"""`alpha replay`: the same bytes whatever is asked for, and one message for what is wrong."""

from __future__ import annotations

import gzip
import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
import zstandard
from rich.console import Console

from dataflows.cli.failures import INPUT, USAGE, Problem
from dataflows.cli.logs import LogSpan, last_arrival_ns, log_span
from dataflows.cli.progress import LogProgress
from dataflows.replay import PRODUCTS
from fixtures.market import MINUTE_MS, Scenario

BAD_PACK = Path(__file__).parents[2] / "fixtures/packs/four_faults.yaml"
HEADER = "symbol,close_ms,open,high,low,close,volume_quote,trade_count,taker_buy_quote"
CLOSE_MS = 1_790_000_160_000


def sums(summary: dict[str, Any]) -> dict[str, str]:
    """Return the sums of a summary, after comparing them with the files."""
    found = {}
    for name, product in summary["products"].items():
        data = Path(product["path"]).read_bytes()
        assert product["sha256"] == hashlib.sha256(data).hexdigest()
        assert product["count"] == data.count(b"\n")
        found[name] = product["sha256"]
    assert set(found) == set(PRODUCTS)
    return found


def one_file(log: Path, target: Path) -> Path:
    """Write the segments of a log as one file, packed by its suffix."""
    data = b""
    for segment in sorted(log.iterdir(), key=lambda path: path.name[-14:]):
        raw = segment.read_bytes()
        if segment.suffix == ".zst":
            raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
        data += raw
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(target.suffix, bytes)
    target.write_bytes(pack(data))
    return target


@pytest.fixture
def bars_file(tmp_path: Path) -> Path:
    """Ten minutes of two symbols."""
    lines = [HEADER]
    for minute in range(10):
        for symbol, price in (("AAA", 10 + minute % 3), ("BBB", 5)):
            prices = f"{price},{price + 1},{price - 1},{price}"
            lines.append(f"{symbol},{CLOSE_MS + minute * MINUTE_MS},{prices},1000,7,400")
    path = tmp_path / "bars.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.engine
def test_differential_the_summary_does_not_depend_on_how(
    alpha: Any, small_log: Path, tmp_path: Path
) -> None:
    """Workers, chunks and progress change nothing but the time it takes."""
    first = alpha("replay", small_log, "--out", tmp_path / "a")
    assert first.code == 0
    assert first.err == ""
    assert first.json["products"]["rows"]["count"] == 12
    assert first.json["source"] == str(small_log)
    expected = sums(first.json)
    for options in (["--workers", "2", "--json"], ["--chunk", "7", "--quiet"]):
        ran = alpha("replay", small_log, "--out", tmp_path / "b", *options)
        assert sums(ran.json) == expected


@pytest.mark.engine
def test_minute_bars_enter_at_normalisation(alpha: Any, bars_file: Path, tmp_path: Path) -> None:
    """The option may stand before or after the file."""
    before = alpha("replay", "--bars", bars_file, "--out", tmp_path / "a")
    after = alpha("replay", bars_file, "--out", tmp_path / "b", "--bars", "--workers", "2")
    assert before.json["products"]["rows"]["count"] == 20
    assert sums(before.json) == sums(after.json)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["found nothing"]),
        ("", ["found no line"]),
        (f"{HEADER}\nAAA,1,2,3,4,5,6,7,8\n", ["found 'symbol,close_ms", "--bars"]),
        ('{"channel":"trades"}\n', ["<arrival_ns> <frame>", "alpha import"]),
    ],
)
def test_what_is_no_log_is_not_replayed(
    alpha: Any, tmp_path: Path, content: str | None, words: list[str]
) -> None:
    """The message says what was expected and what to do."""
    source = tmp_path / "source"
    if content is not None:
        source.write_text(content)
    ran = alpha("replay", source, "--out", tmp_path / "out")
    ran.failed_with(INPUT, str(source), *words)
    assert not (tmp_path / "out").exists()


def test_an_empty_directory_is_no_log(alpha: Any, tmp_path: Path) -> None:
    """A directory without segments is told apart from an empty log."""
    alpha("replay", tmp_path, "--out", tmp_path / "out").failed_with(INPUT, "segments")


@pytest.mark.parametrize(
    ("header", "word"),
    [("symbol,open,high,low,close,volume_quote", "'close_ms'"), (HEADER, "none that can be used")],
)
def test_what_is_no_bars_file_is_not_replayed(
    alpha: Any, tmp_path: Path, header: str, word: str
) -> None:
    """A header with faults, and a file without a bar."""
    (tmp_path / "bars.csv").write_text(f"{header}\n")
    ran = alpha("replay", "--bars", tmp_path / "bars.csv", "--out", tmp_path / "out")
    ran.failed_with(INPUT, word)
    missing = alpha("replay", "--bars", tmp_path / "no.csv", "--out", tmp_path / "out")
    missing.failed_with(INPUT, "no.csv")


def test_wrong_arguments(alpha: Any, small_log: Path, tmp_path: Path) -> None:
    """Outputs, packs and numbers are usage, not input."""
    (tmp_path / "file").write_text("")
    alpha("replay", small_log, "--out", tmp_path / "file").failed_with(USAGE, "--out")
    alpha("replay", small_log, "--out", tmp_path / "file/x").failed_with(USAGE, "--out")
    for name in ("events.ndjson", "replay.json"):
        (tmp_path / name / name).mkdir(parents=True)
        ran = alpha("replay", small_log, "--out", tmp_path / name)
        ran.failed_with(USAGE, "--out", name, "found a directory")
        assert [path.name for path in (tmp_path / name).iterdir()] == [name]
    alpha("replay", small_log, "--out", "o", "--workers", "0").failed_with(USAGE, "--workers")
    ran = alpha("replay", small_log, "--out", "o", "--detectors", BAD_PACK)
    ran.failed_with(USAGE, "4 faults")
    ran = alpha("replay", small_log, "--out", "o", "--features", "no.yaml")
    ran.failed_with(USAGE, "no.yaml")


@pytest.mark.engine
def test_a_mistyped_path_is_one_message_of_the_process(alpha_process: Any, tmp_path: Path) -> None:
    """Neither Python nor the engine adds to it."""
    alpha_process("replay", "nowhere", "--out", tmp_path).failed_with(INPUT, "nowhere")


# --- where a log starts and ends ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["log", "log.gz", "log.zst"])
def test_the_span_of_a_log_is_known(
    small_log: Path, small_scenario: Scenario, tmp_path: Path, name: str
) -> None:
    """From the directory and from one file, packed or not."""
    start_ms = small_scenario.start_ms
    end_ms = start_ms + 6 * MINUTE_MS
    for path in (small_log, one_file(small_log, tmp_path / name)):
        span = log_span(path)
        assert span.first_ms == start_ms
        assert span.last_ms is not None
        assert end_ms <= span.last_ms <= end_ms + 6_000


def test_the_end_of_a_log_is_its_last_whole_line(tmp_path: Path) -> None:
    """A torn line, a segment that was only opened, and damage are passed over."""
    (tmp_path / "ticks-1790000000000-000001.log").write_bytes(
        b'1790000000000000000 {"a":1}\n1790000001000000000 {"a":1}\nnonsense\n17900000020000'
    )
    (tmp_path / "ticks-1790000002000-000002.log").write_bytes(b"")
    assert last_arrival_ns(tmp_path) == 1_790_000_001_000_000_000
    with pytest.raises(Problem, match="segments"):
        log_span(tmp_path / "..")


# --- progress ----------------------------------------------------------------------------------


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.s = 0.0

    def monotonic_s(self) -> float:
        """Return the time that was set."""
        return self.s

    def now_ns(self) -> int:
        """Not asked."""
        raise NotImplementedError

    def jitter(self) -> float:
        """Not asked."""
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        """Not asked."""
        raise NotImplementedError


def drawn(lasts_s: float, *, terminal: bool = True, quiet: bool = False) -> str:
    """Return what a run of ten chunks draws."""
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    clock = Hands()
    span = LogSpan(CLOSE_MS, CLOSE_MS + 10 * MINUTE_MS)
    with LogProgress(
        "replay", "lines", 2000, span, quiet=quiet, screen=screen, clock=clock
    ) as tell:
        for minute in range(1, 11):
            clock.s += lasts_s / 10
            tell(CLOSE_MS + minute * MINUTE_MS)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_a_long_run_shows_where_it_is() -> None:
    """The log time that was reached, and the speed."""
    text = drawn(40.0)
    assert "replay" in text
    assert "2026-09-21T14:26:00Z" in text
    assert "500 lines/s" in text


@pytest.mark.parametrize(
    "how",
    [
        {"lasts_s": 0.9},
        {"lasts_s": 40.0, "terminal": False},
        {"lasts_s": 40.0, "quiet": True},
    ],
)
def test_nothing_is_drawn_where_nobody_waits(how: dict[str, Any]) -> None:
    """A short run, a pipe, and --quiet."""
    assert drawn(**how) == ""


def test_a_mode_says_who_hears_the_events(alpha: Any, small_log: Path, tmp_path: Path) -> None:
    """Any mode of a run; rows are the same in all of them, a mode there is not is one message."""
    sums = {}
    for mode in ("replay", "shadow", "dry_run", "canary"):
        ran = alpha("replay", small_log, "--out", tmp_path / mode, "--mode", mode, "-q")
        assert ran.code == 0
        sums[mode] = ran.json["products"]["rows"]["sha256"]
    assert len(set(sums.values())) == 1
    alpha("replay", small_log, "--out", tmp_path / "x", "--mode", "loud").failed_with(
        USAGE, "--mode", "shadow"
    )
