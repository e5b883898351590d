"""`alpha demo`: the same bytes and rows however often, and honest about what is missing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dataflows.cli import demo
from dataflows.cli.demo import run_demo, shortened, show
from dataflows.cli.demo_log import claim, is_current, log_of, save
from dataflows.cli.demo_report import report_of
from dataflows.cli.failures import NOT_IN_ORDER, USAGE
from dataflows.connectors.embedded_postgres import PostgresError
from fixtures.market import Episode, FrameOptions, Scenario, default_assets, demo_scenario, truth
from packs.loader import Packs, load_packs

pytestmark = pytest.mark.engine

EPISODES = Scenario(
    seed=7,
    start_ms=1_790_000_040_000,
    minutes=222,
    assets=default_assets(3),
    episodes=(
        Episode("squeeze", 206, 4, ("SOL",)),
        Episode("feed_outage", 216, 2),
    ),
    frames=FrameOptions(quote_ms=(6000, 6000, 9000, 9000), book=False, ctx_ms=20_000),
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the database's user can reach, too."""
    path = Path(tempfile.mkdtemp(prefix="alpha-demo-"))
    path.chmod(0o755)
    yield path / "demo"
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def packs() -> Packs:
    """The shipped packs."""
    return load_packs()


def sums(summary: dict[str, Any]) -> list[str]:
    """Return the sums of a summary."""
    return [product["sha256"] for product in summary["products"].values()]


def stored(url: str) -> list[tuple[Any, ...]]:
    """Return what the database holds, in a few numbers."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "select count(*), sum(revision), md5(string_agg(close::text, ',' order by asset_uid,"
            " exchange_ts)), (select count(*) from market_snapshot),"
            " (select count(*) from anomaly_event) from features_snapshot"
        ).fetchall()


@pytest.mark.service
def test_a_demo_can_be_repeated(alpha: Any, alpha_process: Any, folder: Path) -> None:
    """The log is kept, the files are the same, and so are the rows of the database."""
    small = ("demo", "--dir", folder, "--minutes", "4", "--assets", "2", "--json")
    first = alpha(*small)
    assert first.code == 0, first.err
    assert first.json["missing"] == []
    assert first.json["log"]["reused"] is False
    assert first.json["summary"]["products"]["rows"]["count"] == 8
    assert first.json["database"]["running"] is False
    url = alpha_process("db", "start", "--dir", folder, "--json").json["url"]
    try:
        assert url == first.json["database"]["url"]
        rows = stored(url)
        assert rows[0][0] == 8
        second = alpha(*small)
        assert second.json["log"]["reused"] is True
        assert second.json["database"]["running"] is True
        assert sums(second.json["summary"]) == sums(first.json["summary"])
        assert stored(url) == rows
    finally:
        alpha("db", "stop", "--dir", folder)
    fresh = alpha(*small, "--fresh", "--no-database")
    assert fresh.json["log"]["reused"] is False
    assert sums(fresh.json["summary"]) == sums(first.json["summary"])
    assert not Path(first.json["database"]["home"]).exists()


def test_episodes_are_found_and_shown(packs: Packs, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice the same; then the script is changed, and the demo says what is missing."""
    folder = Path("demo")
    first = run_demo(EPISODES, folder, with_database=False)
    again = run_demo(EPISODES, folder, with_database=False)
    assert again.reused
    assert again.summary == first.summary
    assert [episode.result for episode in first.report.episodes] == ["found", "held back"]
    assert first.missing == []
    capsys.readouterr()
    show(again)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    for words in ("squeeze", "SOL", "found", "held back", "coalesced", "kept from an earlier"):
        assert words in shown
    assert "alpha replay demo/ticks" in shown
    # Events that were not scripted, and an outage that was none.
    script = replace(
        EPISODES, episodes=(Episode("cascade", 100, 4, ("ETH",)), Episode("feed_outage", 120, 2))
    )
    report = report_of(folder, truth(script), packs)
    assert [episode.result for episode in report.episodes] == ["MISSING", "MISSING"]
    assert report.missing == [f"{e.kind} at {e.first}" for e in report.episodes]
    # Spikes of a basket are found; the market's own event is missed once the pack looks for it.
    basket = truth(replace(EPISODES, episodes=(Episode("basket_shock", 206, 4, ("SOL",)),)))
    plain = tuple(d for d in packs.detectors if not d.detector_id.startswith("sync."))
    assert report_of(folder, basket, replace(packs, detectors=plain)).missing == []
    sync = replace(plain[0], detector_id="sync.basket_shock_Δt_5s")
    wider = replace(packs, detectors=(*plain, sync))
    assert "sync.basket_shock" in report_of(folder, basket, wider).episodes[0].detail
    assert report_of(folder, basket, wider).episodes[0].result == "MISSING"
    none = replace(packs, detectors=())
    assert report_of(folder, truth(script), none).episodes[0].result == "not in the pack"


def test_what_is_missing_is_the_exit_code(
    alpha: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An episode before the warm-up cannot be found."""
    early = replace(shortened(EPISODES, 6, 3), episodes=(Episode("squeeze", 2, 2, ("SOL",)),))
    monkeypatch.setattr(demo, "demo_scenario", lambda: early)
    ran = alpha("demo", "--dir", tmp_path / "demo", "--no-database")
    assert ran.code == NOT_IN_ORDER
    assert "missing: squeeze at 2026-09-21T" in ran.err
    assert "MISSING" in ran.out


def test_a_database_that_cannot_be_had_costs_only_itself(
    alpha: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo goes on without, says so, and does not end with 0."""

    def refuse(*arguments: object, **options: object) -> None:
        raise PostgresError("no PostgreSQL programs")

    monkeypatch.setattr(demo, "server_of", refuse)
    small = ("demo", "--dir", tmp_path / "demo", "--minutes", "2", "--assets", "1")
    ran = alpha(*small, "--json")
    assert ran.code == NOT_IN_ORDER
    assert ran.json["database"]["problem"] == "no PostgreSQL programs"
    assert ran.json["missing"] == ["the database: no PostgreSQL programs"]
    assert ran.json["summary"]["products"]["rows"]["count"] == 2
    assert alpha(*small, "--no-database").code == 0


def test_a_directory_of_somebody_else_is_left_alone(alpha: Any, tmp_path: Path) -> None:
    """The demo replaces files, so it only works in a directory of its own."""
    (tmp_path / "ticks").mkdir()
    ran = alpha("demo", "--dir", tmp_path, "--fresh", "--no-database")
    ran.failed_with(USAGE, "--dir", "ticks")
    assert (tmp_path / "ticks").is_dir()
    (tmp_path / "file").write_text("")
    alpha("demo", "--dir", tmp_path / "file", "--no-database").failed_with(USAGE, "--dir")


def test_a_log_is_kept_only_as_long_as_it_would_be_the_same(tmp_path: Path) -> None:
    """Another scenario, another generator or half a log is made again."""
    scenario = shortened(EPISODES, 2, 1)
    manifest = claim(tmp_path / "demo")
    assert not is_current(manifest, scenario, tmp_path / "demo")
    run_demo(scenario, tmp_path / "demo", with_database=False, quiet=True)
    manifest = claim(tmp_path / "demo")
    assert is_current(manifest, scenario, tmp_path / "demo")
    assert not is_current(manifest, replace(scenario, seed=8), tmp_path / "demo")
    manifest.origin = "sha256:of another generator"
    save(tmp_path / "demo", manifest)
    assert not is_current(claim(tmp_path / "demo"), scenario, tmp_path / "demo")
    (tmp_path / "demo/demo.json").write_text("damaged")
    assert not is_current(claim(tmp_path / "demo"), scenario, tmp_path / "demo")
    assert log_of(tmp_path / "demo").is_dir()


def test_the_whole_demo_is_as_large_as_promised() -> None:
    """At least six hours, twelve assets and several episodes; a short one keeps what fits."""
    whole = demo_scenario()
    assert whole.minutes >= 360
    assert len(whole.assets) >= 12
    assert len({episode.kind for episode in whole.episodes}) >= 5
    assert shortened(whole, None, None) == whole
    short = shortened(whole, 250, 4)
    assert [episode.kind for episode in short.episodes] == ["squeeze", "spread_stress", "cascade"]
