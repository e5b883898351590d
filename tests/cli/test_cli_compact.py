"""`alpha compact`, and what `alpha replay` makes of a cache; the page on it is run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataflows.cli.failures import INPUT, NOT_IN_ORDER, USAGE
from dataflows.connectors.column_files import FOLDERS

pytest.importorskip("pyarrow")

PAGE = Path(__file__).parents[2] / "docs" / "cache.md"
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


@pytest.fixture
def log(small_log: Path, tmp_path: Path) -> Path:
    """Return a log of the test's own, named as on the page."""
    shutil.copytree(small_log, tmp_path / "LOG")
    return Path("LOG")


def sums(summary: dict[str, Any]) -> list[str]:
    """Return the digests of a replay."""
    return [product["sha256"] for product in summary["products"].values()]


@pytest.mark.engine
def test_the_commands_of_the_page(alpha: Any, log: Path) -> None:
    """Each does what is said beside it, and all replays are one."""
    blocks = dict(BLOCK.findall(PAGE.read_text()))
    found = []
    for line in blocks[""].splitlines():
        _, *words = shlex.split(line, comments=True)
        ran = alpha(*words, *(["--json"] if words[0] == "compact" else []))
        assert ran.code == 0, (line, ran.err)
        if words[0] == "replay":
            found.append((ran.json["read_from"], *sums(ran.json)))
            assert ran.err == ""
        else:
            found.append(ran.json["did"])
    replays = [each for each in found if isinstance(each, tuple)]
    assert [each[0] for each in replays] == ["cache", "log", "cache"]
    assert len({each[1:] for each in replays}) == 1
    assert [each for each in found if isinstance(each, str)] == [
        *("made", "checked", "made", "made", "made")
    ]
    done = subprocess.run(
        [sys.executable, "-c", blocks["python"]], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[0]) > 100


def test_the_page_lists_every_folder() -> None:
    """No file without its line."""
    page = PAGE.read_text()
    assert [folder for folder in FOLDERS if f"| `{folder}` |" not in page] == []


@pytest.mark.engine
def test_a_cache_that_does_not_fit_is_one_line(alpha: Any, log: Path, tmp_path: Path) -> None:
    """The log is read, and what to do is said; a new `compact` mends it."""
    made = alpha("compact", log)
    assert made.code == 0
    assert "1 parts" in made.out
    assert "may still be written" in made.err
    assert "nothing" in alpha("compact", log).out
    first = alpha("replay", log, "--out", "a")
    assert first.json["read_from"] == "cache"

    def spoil(folder: str, *, read_from: str, because: str) -> None:
        file = next((tmp_path / "LOG.columns" / folder).iterdir())
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        again = alpha("replay", log, "--out", "a")
        assert again.json["read_from"] == read_from
        assert sums(again.json) == sums(first.json)
        assert again.err.count("\n") == 1
        for word in ("LOG.columns", because, file.name, "damaged", "alpha compact"):
            assert word in again.err

    spoil("bars", read_from="cache", because="not its bars")
    check = alpha("compact", log, "--check")
    assert (check.code, "not its bars" in check.err) == (0, True)
    spoil("quotes", read_from="log", because="not used")
    alpha("compact", log, "--check").failed_with(NOT_IN_ORDER, "damaged")
    mended = alpha("compact", log)
    assert "made anew" in mended.err
    assert alpha("compact", log, "--check").code == 0
    assert alpha("replay", log, "--out", "a").json["read_from"] == "cache"


@pytest.mark.engine
def test_bars_are_made_and_removed(alpha: Any, log: Path, tmp_path: Path) -> None:
    """Each says so in a word; the ticks stay as they are."""
    made = alpha("compact", log, "--json").json
    assert made["bytes_bars"] > 0
    bare = alpha("compact", log, "--no-bars", "--json").json
    assert (bare["did"], bare["bytes_bars"]) == ("bars removed", None)
    assert bare["bytes"] == made["bytes"] - made["bytes_bars"]
    ran = alpha("replay", log, "--out", "a")
    assert (ran.json["read_from"], ran.err) == ("cache", "")
    assert "without bars" in alpha("compact", log, "--no-bars").out
    again = alpha("compact", log)
    assert "bars made:" in again.out
    assert "bars made anew: it had none" in again.err
    assert sums(alpha("replay", log, "--out", "a").json) == sums(ran.json)
    file = next((tmp_path / "LOG.columns" / "quotes").iterdir())
    file.write_bytes(b"")
    ran = alpha("replay", log, "--out", "a")
    assert (ran.json["read_from"], ran.err) == ("cache", "")
    check = alpha("compact", log, "--check", "--json")
    assert (check.code, check.json["did"]) == (0, "checked")
    assert f"quotes/{file.name} is damaged; its bars would be read" in check.err


def test_a_segment_without_ticks_is_something_done(alpha: Any, log: Path) -> None:
    """The parts are as they were, what the cache stands for is not."""
    made = alpha("compact", log, "--whole", "--json").json
    newest = max(log.glob("*.log"))
    stem, number = newest.stem.rsplit("-", 1)
    added = newest.with_name(f"{stem}-{int(number) + 1:06d}.log")
    added.write_bytes(b"1790000100000000000 nonsense\n")
    again = alpha("compact", log, "--whole", "--json").json
    assert (again["segments"], again["ticks"]) == (made["segments"] + 1, made["ticks"])
    assert (again["did"], again["parts_written"]) == ("appended", 0)
    assert alpha("compact", log, "--whole", "--json").json["did"] == "nothing"


@pytest.mark.engine
def test_a_hint_names_the_place_of_the_cache(alpha: Any, log: Path) -> None:
    """What is to be typed makes that cache anew, not one beside the log."""
    assert alpha("compact", log, "--out", "CACHE").code == 0
    assert alpha("compact", log).code == 0
    replays = ("replay", log, "--out", "a", "--cache")
    for cache, command in (("CACHE", "`alpha compact --out CACHE`"), ("LOG.columns", "compact` m")):
        next(Path(cache, "bars").iterdir()).unlink()
        ran = alpha(*replays, cache)
        assert (ran.json["read_from"], command in ran.err) == ("cache", True)
        Path(cache, "manifest.json").unlink()
        ran = alpha(*replays, cache)
        assert (ran.json["read_from"], command in ran.err) == ("log", True)
        assert "never finished" in ran.err


def test_a_replay_into_files_loads_what_it_needs() -> None:
    """A plain install has neither numpy nor pyarrow; clients of servers would take a third of the
    time until the first tick."""
    spared = {"numpy", "pyarrow", "psycopg", "confluent_kafka", "httpx", "websockets"}
    text = f"import dataflows.cli.replay, sys; print({spared} & set(sys.modules))"
    command, root = [sys.executable, "-c", text], PAGE.parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_what_was_mistyped(alpha: Any, log: Path) -> None:
    """One message each."""
    alpha("compact", "nowhere").failed_with(INPUT, "nowhere", "found nothing")
    alpha("compact", log, "--check").failed_with(NOT_IN_ORDER, "no cache is there")
    alpha("compact", log, "--shards", 0).failed_with(USAGE, "--shards")
    alpha("compact", log, "--out", log).failed_with(INPUT, "expected a columnar cache")
    Path("one.log").write_text("")
    for out in ("/proc/x", "one.log", "one.log/x"):
        ran = alpha("compact", log, "--out", out)
        ran.failed_with(USAGE, f"--out {out}: expected a directory")
    Path("file").write_text("")
    Path("empty").mkdir()
    for cache in ("b", "file", "empty", log, "."):
        ran = alpha("replay", log, "--out", "a", "--cache", cache)
        ran.failed_with(INPUT, f"--cache {cache}: expected a columnar cache, found none")
    alpha("replay", log, "--out", "a", "--cache", "b", "--no-cache").failed_with(USAGE, "--cache")
