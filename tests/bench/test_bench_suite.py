"""The benchmark suite: inputs, contenders that agree, figures; no test looks at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import closing, flame, inputs, ours, references, report, stages, suite
from bench.__main__ import main
from bench.inputs import MINUTE_MS, Bars, Feed, lines_of, ready, tables
from bench.pages import PAGES, RESULT, filled, stale
from bench.run import Timed
from bench.table import COLUMNS, checksum
from dataflows.connectors.source import feed_reader
from dataflows.importing.bars import read_bars
from operators.feed import FeedState
from operators.wire import decode
from packs.loader import load_packs

TINY = Feed("tiny", 6, 3, rate=0.5)


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A generated log of six assets and three minutes."""
    return ready(TINY, tmp_path_factory.mktemp("inputs"))


def test_a_log_is_the_same_each_time(meta: dict[str, Any], tmp_path: Path) -> None:
    """The same parameters give the same bytes, another seed others."""

    def content(found: dict[str, Any]) -> list[bytes]:
        return [line for lines in lines_of(Path(found["folder"]) / "log") for line in lines]

    assert content(meta) == content(ready(TINY, tmp_path))
    assert content(meta) != content(ready(Feed("tiny", 6, 3, rate=0.5, seed=8), tmp_path))


def test_a_log_is_in_the_dialect_and_loses_nothing(meta: dict[str, Any]) -> None:
    """Every frame can be decoded, arrives in order, and is of a kind that was asked for."""
    seen, before = set[str](), 0
    for lines in lines_of(Path(meta["folder"]) / "log"):
        for line in lines:
            stamp, _, frame = line.partition(b" ")
            message, bad = decode(frame)
            assert not bad
            assert int(stamp) >= before
            before = int(stamp)
            seen.add(type(message).__struct_config__.tag)
    assert seen == {*inputs.RATES, "alpha.roster", "alpha.clock"}


def test_a_log_is_compressed_and_counted(meta: dict[str, Any]) -> None:
    """It lies there as a recorder leaves it, and its facts are true."""
    log = Path(meta["folder"]) / "log"
    assert all(path.name.endswith(".log.zst") for path in log.iterdir())
    lines = [line for chunk in lines_of(log) for line in chunk]
    assert meta["frames"] == sum(b'"alpha.clock"' not in line for line in lines)
    rows: dict[str, int] = {}
    for batch in references.tick_rows(meta):
        for name, found in batch.items():
            rows[name] = rows.get(name, 0) + len(found)
    books = sum(b'"l2Book","data"' in line for line in lines)
    assert meta["ticks"] == sum(rows.values()) + books


def test_a_bars_file_can_be_read(tmp_path: Path) -> None:
    """No row of the generated bars is refused."""
    found, refused = ready(Bars("few", 3, 0.01), tmp_path), list[str]()
    minutes = list(read_bars(Path(found["folder"]) / "bars.csv", on_reject=refused.append))
    assert not refused
    assert sum(len(bars) for _, bars in minutes) == found["rows"] == 3 * 14


@pytest.mark.engine
def test_contenders_compute_the_same_table(meta: dict[str, Any]) -> None:
    """Stock windows, our bars and our rows agree on every asset and minute."""
    found = [work(meta, Timed()) for work in (references.stock_bytewax, ours.bars, ours.rows)]
    assert {one["rows"] for one in found} == {TINY.assets * TINY.minutes}
    assert len({one["checksum"] for one in found}) == 1


@pytest.mark.engine
@pytest.mark.parametrize("name", ["polars", "duckdb"])
def test_batch_engines_compute_it_too(meta: dict[str, Any], name: str) -> None:
    """The rivals of the extra `bench`, where they are installed."""
    pytest.importorskip(name)
    pytest.importorskip("pyarrow")
    tables(Path(meta["folder"]), lambda log: references.tick_rows(meta))
    found = getattr(references, name)(meta, Timed())
    assert found["checksum"] == ours.bars(meta, Timed())["checksum"]


def test_a_checksum_sees_a_value_and_no_order_of_sums() -> None:
    """What differs in the ninth digit counts, what differs in the last bit does not."""
    line = tuple(float(i + 1) for i in range(len(COLUMNS)))
    plain = checksum({(0, 60_000): line})
    assert checksum({(0, 60_000): (1.0 + 2e-16, *line[1:])}) == plain
    assert checksum({(0, 60_000): (1.0 + 1e-7, *line[1:])}) != plain
    assert checksum({(1, 60_000): line}) != plain


@pytest.mark.engine
def test_a_replay_gives_the_same_products_from_nothing_in_any_process(
    meta: dict[str, Any],
) -> None:
    """The contender in its own process writes what the function here writes."""
    own = suite.own("events", meta)
    assert own["products"] == ours.events(meta, Timed())["products"]
    assert own["rows"] == TINY.assets * TINY.minutes
    assert own["seconds"] > 0


@pytest.mark.engine
def test_seasoned_assets_are_warm(meta: dict[str, Any]) -> None:
    """With baselines of a week the rows have z-scores."""
    warm = ours.Season(load_packs(), days=2).take(0, meta["start_ms"] + MINUTE_MS)
    assert {"1m", "15m"} <= warm.keys()
    assert all(baseline.n > 0 for baseline in warm["1m"].values())


@pytest.mark.engine
def test_the_stages_are_all_timed(meta: dict[str, Any]) -> None:
    """Shares sum to one; decoding is told beside and not counted twice."""
    found = stages.stages(meta, Timed())
    assert set(found["shares"]) == set(stages.STEPS)
    assert sum(found["shares"].values()) == pytest.approx(1.0, abs=1e-3)
    assert found["frames"] >= meta["frames"]


@pytest.mark.engine
def test_the_engine_tells_its_operators(meta: dict[str, Any]) -> None:
    """Every step of the flow is among the metrics; in a process of its own, as they are global."""
    found = suite.own("operators", meta)
    assert "not_run" not in found, found
    named = " ".join(found["operators"])
    for step in ("ticks", "assemble", "normalize", "detect", "context", "rows-file"):
        assert f"detector.{step}" in named


@pytest.mark.slow
@pytest.mark.engine
def test_the_minute_close_is_seen(meta: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sealed minute but the cold one has a time, and so have stall and resume."""
    monkeypatch.setattr(closing, "SPEED", 40.0)
    monkeypatch.setattr(ours, "SEASON_DAYS", 1)
    found = closing.close(meta, Timed(sampled=True))
    assert found["closes"] == TINY.minutes - closing.COLD_MINUTES
    assert 0 < found["close_ms"]["p50"] <= found["close_ms"]["p95"]
    assert found["stall_ms"]["n"] >= 1
    assert found["resume_s"] > 0
    assert found["codecs_ms"]["normalize"] > 0


def test_a_ratio_is_that_of_the_rounds() -> None:
    """Both sides of a ratio are of one round; the median is of the ratios."""
    rounds = {
        "decode": [{"seconds": 1.0}, {"seconds": 10.0}, {"seconds": 2.0}],
        "rows": [{"seconds": 1.0}, {"seconds": 20.0}, {"not_run": "why"}],
    }
    assert report.ratio("decode", "rows")(rounds) == pytest.approx(0.75)
    assert report.ratio("decode", "cache")(rounds) is None


def test_a_figure_says_whether_its_bar_is_met() -> None:
    """A floor and a ceiling; what was not measured has no line."""
    rounds = {
        "decode": [{"seconds": 1.0}],
        "rows": [{"seconds": 2.0}],
        "import": [{"seconds": 0.1}],
    }
    found = {line.name: line.met for line in report.figures(rounds)}
    assert found == {
        "frames to rows, all columns / msgspec decode": False,
        "import of the CLI": True,
    }


def test_contenders_that_disagree_are_named() -> None:
    """Another checksum of the same input is a fault; of another input it is none."""
    rounds = {
        "rows": [{"checksum": "a", "input": "x"}],
        "polars": [{"checksum": "b", "input": "x"}],
        "bars": [{"checksum": "c", "input": "y"}],
    }
    assert report.faults(rounds) == ["checksum of x differs: rows | polars"]
    products = {
        "bars-events": [{"products": {"events": "a", "rows": "b"}, "input": "x"}],
        "trial": [{"products": {"events": "c"}, "input": "x"}],
    }
    assert report.faults(products) == ["events of x differs: bars-events | trial"]


def test_a_contender_of_ours_that_breaks_is_a_fault() -> None:
    """A broker may be missing; our own steps may not."""
    rounds = {"rows": [{"not_run": "why"}], "kafka": [{"not_run": "no Java"}]}
    assert report.faults(rounds) == ["rows did not run: why"]
    assert report.figures(rounds) == []


def test_figures_of_the_same_commit_stay(tmp_path: Path) -> None:
    """A run of some contenders keeps what others measured at this commit, and at no other."""
    out = tmp_path / "bench.json"
    about = {"size": "quick", "commit": "abc"}
    out.write_text(json.dumps(report.document(about, {"read": [{"seconds": 1.0}]}, None)))
    kept = report.document(about, {"decode": [{"seconds": 2.0}]}, out)
    assert set(kept["contenders"]) == {"read", "decode"}
    other = report.document({**about, "commit": "def"}, {"decode": [{"seconds": 2.0}]}, out)
    assert set(other["contenders"]) == {"decode"}


def test_the_pages_say_what_was_measured() -> None:
    """docs/benchmarks.md and docs/capacity.md hold the tables of bench/results/bench.json."""
    assert stale(json.loads(RESULT.read_text())) == []
    assert all("| figure | value |" in page.read_text() for page in PAGES[:1])


def test_a_page_that_is_stale_is_noticed() -> None:
    """Another figure gives another page."""
    found = json.loads(RESULT.read_text())
    found["figures"][0]["value"] += 1.0
    page = PAGES[0].read_text()
    assert filled(page, found) != page


def test_every_contender_is_on_the_page() -> None:
    """docs/benchmarks.md explains each of them."""
    page = PAGES[0].read_text()
    for contender in suite.contenders(quick=True):
        short = contender.name.partition("@")
        assert f"`{contender.name}`" in page or f"`@{short[2]}`" in page, contender.name


def test_the_command_names_its_contenders(capsys: pytest.CaptureFixture[str]) -> None:
    """--list names them, --only refuses another name."""
    assert main(["--list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert listed == {c.name: c.what for c in suite.contenders()}
    with pytest.raises(SystemExit):
        main(["--only", "cloze"])
    assert "no such contender: cloze" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ["--quick", "--only", "bars-events", "--bars", "no.csv"],
            "--bars no.csv: expected a bars",
        ),
        (["--quick", "--only", "read", "--rounds", "0"], "--rounds: expected at least 1, found 0"),
        (["--what", "decode", "--assets", "0"], "--assets: expected at least 1, found 0"),
    ],
)
def test_wrong_arguments(
    command: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message, before anything is made or run."""
    with pytest.raises(SystemExit) as ended:
        (flame.main if "--what" in command else main)(command)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_feed_has_no_late_tick(meta: dict[str, Any]) -> None:
    """The reader drops nothing, which the checksums rely on."""
    feed = feed_reader(FeedState(), load_packs().features)
    for lines in lines_of(Path(meta["folder"]) / "log"):
        feed.read(lines)
    assert feed.state.counts == {}
