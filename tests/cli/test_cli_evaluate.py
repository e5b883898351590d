"""`alpha evaluate`: the report agrees with a replay, is the same for a seed, and hides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from dataflows.cli.failures import INPUT, USAGE
from dataflows.importing import BarsFile, import_bars
from operators.lattice import DAY_MS, MINUTE_MS, iso

BAD_PACK = Path(__file__).parents[2] / "fixtures/packs/four_faults.yaml"
HEADER = "symbol,close_ms,open,high,low,close,volume_quote"
CLOSE_MS = 1_790_000_160_000
DAY_MIN = 1440
MINUTES = 2 * DAY_MIN + 600
JUMPS = {"AAA": (900, 2000, 2002, 3200), "B/USDT:USDT": (2500, 2900)}
THIN = "THIN"
FROM = {"B/USDT:USDT": 2200, THIN: 3000}  # the first minute of a symbol that comes later


def dice(seed: int) -> Iterator[float]:
    """Yield numbers in [0, 1) that are the same on every machine."""
    state = seed
    while True:
        state = (1103515245 * state + 12345) % 2**31
        yield state / 2**31


def bars_text(minutes: int = MINUTES) -> str:
    """Return two days and a half of two symbols that jump, and of one that does not trade."""
    lines, draw = [HEADER], dice(42)
    price = {"AAA": 100.0, "B/USDT:USDT": 5.0, THIN: 1.0}
    for minute in range(minutes):
        for symbol, before in price.items():
            if minute < FROM.get(symbol, 0):
                continue
            close = before * (1.0 + 0.002 * (next(draw) - 0.5))
            volume = 50_000.0 + 1e6 * next(draw)
            if symbol == THIN:
                close, volume = before, 0.0
            if minute in JUMPS.get(symbol, ()):
                close, volume = before * 1.03, 2e7
            price[symbol] = close
            prices = f"{before!r},{max(before, close)!r},{min(before, close)!r},{close!r}"
            lines.append(f"{symbol},{CLOSE_MS + minute * MINUTE_MS},{prices},{volume!r}")
    lines.insert(20, "AAA,oops,1,1,1,1,1")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bars file with a few jumps."""
    path = tmp_path_factory.mktemp("bars") / "bars.csv"
    path.write_text(bars_text())
    return path


def begin(minute: int) -> str:
    """Return when the minute of a bar begins, as a list of labels says it."""
    return iso(CLOSE_MS + (minute - 1) * MINUTE_MS)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Every jump, a label without a jump, and three that cannot be judged."""
    rows = [
        f"{symbol},{begin(minute)},jump" for symbol, places in JUMPS.items() for minute in places
    ]
    rows += [f"AAA,{begin(3100)},nothing", f"CCC,{begin(900)},jump", f"AAA,{begin(-5)},jump"]
    rows += [f"{THIN},{begin(3300)},jump", "AAA,soon,jump"]
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["symbol,time,kind", *rows]) + "\n")
    return path


@pytest.mark.slow
def test_the_whole_report(alpha: Any, bars: Path, labels: Path, tmp_path: Path) -> None:
    """Rates, lift, labels and injected moves on bars whose jumps are known."""
    out = tmp_path / "made" / "report.json"
    ran = alpha(
        *("evaluate", bars, "--labels", labels, "--inject", "--seed", 5),
        *("--out", out),
    )
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= 100
    assert "nan" not in ran.out.lower()
    assert "bad_time 1" in ran.err
    assert f"too thin for it: {THIN}" in ran.err
    report = orjson.loads(out.read_bytes())

    classes = {each["event_class"]: each for each in report["classes"]}
    events = {each["asset"]: each["events"] for each in classes["spike"]["assets"]}
    assert events["AAA"] >= 3
    assert events[THIN] == 0

    met = report["labels"]
    assert (met["rows"], met["rejects"]) == (11, {"bad_time": 1})
    assert met["placed"]["left_out"] == {"outside_the_bars": 1, "unknown_symbol": 1}
    assert met["placed"]["unwatched"] == {"dq": 1}
    figures = met["figures"]
    assert (figures["labels"], figures["met"]) == (7, 6)
    assert figures["recall"]["value"] == pytest.approx(6 / 7)
    assert figures["recall"]["low"] <= 6 / 7 <= figures["recall"]["high"]
    assert figures["events"] == events["AAA"] + events["B/USDT:USDT"]
    kinds = {each["kind"]: each for each in figures["kinds"]}
    assert (kinds["jump"]["recall"], kinds["nothing"]["recall"]) == (1.0, 0.0)
    assert kinds["jump"]["delay_min"] == 1.0

    usual, (loud, unchanged) = report["lifts"], report["injection"]["runs"]
    assert {each["horizon_min"] for each in usual} == {5, 15, 60}
    assert usual[0]["events"] == sum(events.values())
    plan = report["injection"]["plan"]
    assert plan["illiquid"] == [THIN]
    assert (loud["volume_factor"], unchanged["volume_factor"]) == (5.0, 1.0)
    for run in (loud, unchanged):
        assert run["injected"] == sum(map(len, plan["labels_ms"].values())) > 2
        assert run["eligible"] + sum(run["ineligible"].values()) == run["injected"]
        assert run["published"] + sum(run["missed"].values()) == run["eligible"]
        assert run["recall"]["value"] >= 0.9


@pytest.mark.engine
def test_differential_the_events_are_those_of_a_replay(alpha: Any, tmp_path: Path) -> None:
    """What `alpha replay --bars` publishes is what is judged."""
    (tmp_path / "bars.csv").write_text(bars_text(1100))
    assert alpha("replay", "--bars", "bars.csv", "--out", tmp_path).code == 0
    lines = (tmp_path / "events.ndjson").read_bytes().splitlines()
    own = [event for event in map(orjson.loads, lines) if event["asset_uid"] >= 0]
    report = alpha("evaluate", "bars.csv", "--json").json
    assert report["lifts"][0]["event_class"] is None
    assert report["lifts"][0]["events"] == len(own) > 0
    assert (report["labels"], report["injection"]) == (None, None)
    for each in report["classes"]:
        if not each["market_wide"]:
            assert each["events"] == sum(event["class"] == each["event_class"] for event in own)


@pytest.mark.slow
def test_a_seed_gives_one_report(alpha: Any, bars: Path, labels: Path, tmp_path: Path) -> None:
    """Printed or written, it is the same; another seed draws other bands from the same events."""
    command = ("evaluate", bars, "--labels", labels, "--json")
    first = alpha(*command, "--out", tmp_path / "report.json")
    assert first.code == 0
    assert (tmp_path / "report.json").read_text() == first.out
    other = alpha(*command, "--seed", 2).json
    assert other["classes"] == first.json["classes"]
    lift, of_other = first.json["lifts"][0], other["lifts"][0]
    assert lift["lift"] == of_other["lift"]
    assert lift["surrogate"] != of_other["surrogate"]


def test_a_short_file_says_what_it_cannot_say(alpha: Any, tmp_path: Path) -> None:
    """Ten hours have no surrogate, no injected move and no event, and the run is no failure."""
    (tmp_path / "bars.csv").write_text(bars_text(600))
    (tmp_path / "labels.csv").write_text(f"symbol,time\nCCC,{CLOSE_MS}\n")
    ran = alpha("evaluate", "bars.csv", "--labels", "labels.csv")
    assert ran.code == 0
    assert ran.out == alpha("evaluate", "bars.csv", "--labels", "labels.csv", "--quiet").out
    assert "no surrogate" in ran.out
    assert "no label can be judged" in ran.out
    assert "unknown_symbol 1" in ran.out
    (run, _) = alpha("evaluate", "bars.csv", "--inject", "--json").json["injection"]["runs"]
    assert (run["injected"], run["recall"]["value"]) == (0, None)


def test_what_is_no_input_is_refused(alpha: Any, bars: Path, tmp_path: Path) -> None:
    """Everything is found before the bars are run."""
    alpha("evaluate", "none.csv").failed_with(INPUT, "none.csv", "found nothing")
    ran = alpha("evaluate", bars, "--labels", "none.csv")
    ran.failed_with(INPUT, "none.csv", "found no file")
    (tmp_path / "labels.csv").write_text("price\n1\n")
    ran = alpha("evaluate", bars, "--labels", "labels.csv")
    ran.failed_with(INPUT, "labels.csv", "symbol", "time", "found price")
    (tmp_path / "labels.csv").write_text("symbol,time\n")
    alpha("evaluate", bars, "--labels", "labels.csv").failed_with(INPUT, "no row")
    alpha("evaluate", bars, "--inject", "--move", 0).failed_with(USAGE, "--move")
    alpha("evaluate", bars, "--move", 0.5).failed_with(USAGE, "--move")
    alpha("evaluate", bars, "--out", tmp_path / "labels.csv" / "x").failed_with(USAGE, "--out")
    alpha("evaluate", bars, "--out", tmp_path).failed_with(USAGE, "--out", "a file")
    alpha("evaluate", bars, "--detectors", BAD_PACK).failed_with(USAGE, "4 faults")


@pytest.mark.slow
def test_acceptance_real_minutes(alpha: Any, shared_data: Path, tmp_path: Path) -> None:
    """Three days of a perp: events foretell moves, and nearly every injected one is found."""
    arrow = pytest.importorskip("pyarrow.parquet")
    (path,) = (shared_data / "market" / "bars_1m").glob("binance_um_perp9_*.parquet")
    until_ms = 1_748_169_180_000 + 3 * DAY_MS
    chosen = [("symbol", "==", "SOL/USDT:USDT"), ("date", "<", until_ms)]
    table = arrow.read_table(path, filters=chosen)
    arrow.write_table(table, tmp_path / "perp.parquet")
    import_bars([BarsFile(tmp_path / "perp.parquet")], tmp_path / "perp.csv")
    report = alpha("evaluate", "perp.csv", "--inject", "--json").json
    (spike,) = (each for each in report["classes"] if each["event_class"] == "spike")
    assert spike["per_day"]["within"]
    lift = report["lifts"][0]
    assert lift["lift"] > 1.5
    assert lift["lift"] > lift["high"]
    assert lift["surrogate"] == pytest.approx(1.0, abs=0.15)
    for run in report["injection"]["runs"]:
        assert run["eligible"] >= 3
        assert run["standing"] == 1.0
