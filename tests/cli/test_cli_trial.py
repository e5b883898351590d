"""`alpha trial`: packs on the rows of a replay, and what it refuses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from dataflows.cli.failures import INPUT, USAGE

pytest.importorskip("pyarrow")

ROOT = Path(__file__).parents[2]
PACK = ROOT / "packs" / "detectors" / "v0.2.yaml"
START_MS, MINUTE_MS = 1_790_000_100_000, 60_000


@pytest.fixture
def bars_file(tmp_path: Path) -> Path:
    """Thirty minutes of two symbols."""
    lines = ["symbol,close_ms,open,high,low,close,volume_quote"]
    for minute in range(30):
        for symbol, price in (("AAA", 10 + minute % 3), ("BBB", 5)):
            prices = f"{price},{price + 1},{price - 1},{price}"
            lines.append(f"{symbol},{START_MS + minute * MINUTE_MS},{prices},1000")
    path = tmp_path / "BARS.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.engine
def test_the_commands_of_the_page_run(alpha: Any, bars_file: Path) -> None:
    """As they stand there, one after the other; the last one prints JSON."""
    for name in ("MINE", "OTHER"):
        Path(f"{name}.yaml").write_bytes(PACK.read_bytes())
    page = (ROOT / "docs" / "trial.md").read_text()
    (block,) = re.findall(r"```\n(.*?)```", page, re.DOTALL)
    for line in block.splitlines():
        ran = alpha(*shlex.split(line)[1:])
        assert ran.code == 0, ran.err
    assert sorted(ran.json["packs"]) == ["MINE", "OTHER"]
    mine = ran.json["packs"]["MINE"]
    assert mine["rows"] == 64  # of two assets, with a quarter of an hour twice
    assert mine["detector_pack"] == "v0.2.1"
    assert Path("TRIED/MINE/frames.ndjson").read_bytes() == Path("DIR/frames.ndjson").read_bytes()
    assert Path("TRIED/v0.2/frames.ndjson").exists()


@pytest.mark.engine
def test_a_pack_on_the_screen(alpha: Any, bars_file: Path) -> None:
    """The rates of the classes, and what was suppressed."""
    assert alpha("replay", "--bars", bars_file, "--out", "DIR").code == 0
    ran = alpha("trial", "DIR", "--out", "TRIED")
    assert ran.code == 0
    for words in ("v0.2: v0.2.1, 64 rows, 0 candidates", "spike", "suppressed: none"):
        assert words in ran.out


@pytest.mark.engine
def test_what_does_not_fit_is_refused(alpha: Any, bars_file: Path) -> None:
    """No replay, its own directory, two packs of one name, a pack that asks for other rows."""
    alpha("trial", "DIR", "--out", "TRIED").failed_with(INPUT, "DIR", "alpha replay")
    Path("DIR").mkdir()
    alpha("trial", "DIR", "--out", "TRIED").failed_with(INPUT, "replay.json")
    assert alpha("replay", "--bars", bars_file, "--out", "DIR").code == 0
    alpha("trial", "DIR", "--out", "DIR").failed_with(USAGE, "--out", "another directory")
    Path("DIR.yaml").write_bytes(PACK.read_bytes())  # its products would replace those of the rows
    own = alpha("trial", "DIR", "--out", ".", "--detectors", "DIR.yaml")
    own.failed_with(USAGE, "--out: DIR: ", "another directory")
    twice = ["--detectors", PACK, "--detectors", PACK]
    alpha("trial", "DIR", "--out", "TRIED", *twice).failed_with(USAGE, "v0.2 twice")
    older = PACK.with_name("v0.1.yaml")
    refused = alpha("trial", "DIR", "--out", "TRIED", "--detectors", older)
    refused.failed_with(INPUT, f"{older}, v0.1.1: 1m rows must be warm in")
    assert not Path("TRIED").exists()
    for name in ("MINE", "OTHER"):
        Path(f"{name}.yaml").write_bytes(older.read_bytes())
    copies = ["--detectors", "MINE.yaml", "--detectors", "OTHER.yaml"]
    refused = alpha("trial", "DIR", "--out", "TRIED", *copies)
    refused.failed_with(INPUT, "MINE.yaml, v0.1.1: 1m", "OTHER.yaml, v0.1.1: 1m")
    with Path("DIR/rows.ndjson").open("r+b") as file:
        file.truncate(len(file.readline()))
    alpha("trial", "DIR", "--out", "TRIED").failed_with(INPUT, "rows.ndjson", "replay.json says")


def test_the_faults_of_all_packs_are_said_at_once(alpha: Any) -> None:
    """Those of the feature pack, which they share, once."""
    Path("DIR").mkdir()
    for name in ("MINE", "OTHER"):
        Path(f"{name}.yaml").write_bytes(PACK.read_bytes().replace(b"detector_pack: v", b"x: v"))
    copies = ["--detectors", "MINE.yaml", "--detectors", "OTHER.yaml", "--features", "NONE.yaml"]
    refused = alpha("trial", "DIR", "--out", "TRIED", *copies)
    refused.failed_with(USAGE, "MINE.yaml: ", "OTHER.yaml: ", "NONE.yaml: ")
    assert refused.err.count("NONE.yaml: ") == 1


@pytest.mark.engine
def test_what_cannot_be_written_is_said_first(alpha: Any, bars_file: Path) -> None:
    """A product whose name a directory has, of any pack; no table is made before."""
    assert alpha("replay", "--bars", bars_file, "--out", "DIR").code == 0
    Path("OTHER.yaml").write_bytes(PACK.read_bytes())
    Path("TRIED/OTHER/events.ndjson").mkdir(parents=True)
    refused = alpha(
        "trial", "DIR", "--detectors", PACK, "--detectors", "OTHER.yaml", "--out", "TRIED"
    )
    refused.failed_with(USAGE, "--out", "TRIED/OTHER/events.ndjson, found a directory")
    assert not Path("DIR/.trial").exists()


@pytest.mark.engine
def test_a_spoiled_table_is_said_and_made_anew(alpha: Any, bars_file: Path) -> None:
    """One line on stderr, and the same result."""
    assert alpha("replay", "--bars", bars_file, "--out", "DIR").code == 0
    first = alpha("trial", "DIR", "--out", "TRIED", "--json")
    assert first.err == ""
    columns = Path("DIR/.trial/rows.arrow")
    columns.write_bytes(columns.read_bytes()[:-9])
    again = alpha("trial", "DIR", "--out", "TRIED", "--json")
    assert again.json == first.json
    assert again.err == "DIR/.trial: not used: rows.arrow is damaged; it is made anew\n"
    assert alpha("trial", "DIR", "--out", "TRIED", "--json").err == ""
