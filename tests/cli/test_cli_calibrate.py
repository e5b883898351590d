"""`alpha calibrate`: the figures are those of the rows, readable and as JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from dataflows.calibration import RATE_BANDS, Collector, Rates, Score
from dataflows.cli.calibrate import Read, show
from dataflows.cli.failures import INPUT, USAGE
from dataflows.importing import BarsFile, import_bars
from operators.lattice import DAY_MS, HOUR_MS, MINUTE_MS
from operators.records import Row

BAD_PACK = Path(__file__).parents[2] / "fixtures/packs/four_faults.yaml"
HEADER = "symbol,close_ms,open,high,low,close,volume_quote,trade_count,taker_buy_quote"
CLOSE_MS = 1_790_000_160_000
MINUTES = 420
SILENT = (7, 100, 250, 251, 252)  # minutes of AAA without a print
HOLE = range(300, 305)  # minutes of no symbol


def dice(seed: int) -> Iterator[float]:
    """Yield numbers in [0, 1) that are the same on every machine."""
    state = seed
    while True:
        state = (1103515245 * state + 12345) % 2**31
        yield state / 2**31


def bars_text(minutes: int, jumps: Sequence[int] = ()) -> str:
    """Return so many minutes of two symbols, which jump in some; a row of them is damaged."""
    lines, draw = [HEADER], dice(42)
    price = {"AAA": 100.0, "B/USDT:USDT": 5.0}
    for minute in range(minutes):
        for symbol, before in price.items():
            close = price[symbol] = before * (1.0 + 0.002 * (next(draw) - 0.5))
            volume, count = 1000.0 + 1e6 * next(draw) * next(draw), 9
            if minute in jumps:
                close = price[symbol] = before * 1.03
                volume = 2e7
            if symbol == "AAA" and minute in SILENT:
                close, volume, count = before, 0.0, 0
            if minute in HOLE:
                continue
            high, low = max(before, close), min(before, close)
            prices = f"{before!r},{high!r},{low!r},{close!r}"
            taker = f"{volume * next(draw)!r}"
            label = CLOSE_MS + minute * MINUTE_MS
            lines.append(f"{symbol},{label},{prices},{volume!r},{count},{taker}")
    lines.insert(20, "AAA,oops,1,1,1,1,1,1,1")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bars file that lasts longer than the warm-up."""
    path = tmp_path_factory.mktemp("bars") / "bars.csv"
    path.write_text(bars_text(MINUTES))
    return path


def figures(report: Any, tf: str, feature: str) -> dict[str, Any]:
    """Return the figures of one column by asset; None is the total."""
    (found,) = (
        each
        for each in report["scores"]
        if (each["score"]["tf"], each["score"]["feature"]) == (tf, feature)
    )
    by_asset = {each["figures"]["asset"]: each["figures"] for each in found["assets"]}
    return {**by_asset, None: found["total"]["pooled"]}


@pytest.mark.engine
def test_differential_the_figures_are_those_of_a_replay(
    alpha: Any, bars: Path, tmp_path: Path
) -> None:
    """Every z that `alpha replay --bars` writes is counted, and no other."""
    assert alpha("replay", "--bars", bars, "--out", tmp_path).code == 0
    lines = (tmp_path / "rows.ndjson").read_bytes().splitlines()
    rows = [row for row in map(orjson.loads, lines) if row["tf"] == "1m"]
    report = alpha("calibrate", bars, "--json", "--tf", "1m").json
    for feature, column in (("vol", "z_vol_m_1"), ("ret_abs", "z_ret_abs_m_1")):
        by_asset = figures(report, "1m", feature)
        for symbol in ("AAA", "B/USDT:USDT"):
            own = [row for row in rows if row["symbol"] == symbol]
            z = [row[column] for row in own if row[column] is not None]
            found = by_asset[symbol]
            assert (found["rows"], found["scored"]) == (len(own), len(z))
            assert found["mean"] == pytest.approx(math.fsum(z) / len(z), rel=1e-11)
            above = [sum(value >= t for value in z) for t in (2.0, 2.5, 3.0, 4.0)]
            assert [each["count"] for each in found["exceedances"]] == above


@pytest.mark.engine
def test_differential_the_rates_are_those_of_a_replay(alpha: Any, tmp_path: Path) -> None:
    """Every event that `alpha replay --bars` publishes is counted, with its severity."""
    bars = tmp_path / "bars.csv"
    bars.write_text(bars_text(MINUTES, jumps=(330, 331, 360, 400)))
    assert alpha("replay", "--bars", bars, "--out", tmp_path).code == 0
    lines = (tmp_path / "events.ndjson").read_bytes().splitlines()
    events = [orjson.loads(line) for line in lines]
    rows = [orjson.loads(line) for line in (tmp_path / "rows.ndjson").read_bytes().splitlines()]
    warm = [row for row in rows if row["tf"] == "1m" and not row["warmup"]]
    found = alpha("calibrate", bars, "--json", "--tf", "1m").json["rates"]
    assert {event["class"] for event in events} <= {each["event_class"] for each in found}
    (spike,) = (each for each in found if each["event_class"] == "spike")
    severities = sorted(event["severity"] for event in events if event["class"] == "spike")
    assert spike["events"] == len(severities) > 2
    assert spike["days"] == pytest.approx(len(warm) / 1440)
    assert spike["per_day"]["value"] == pytest.approx(len(severities) * 1440 / len(warm))
    assert spike["severity_median"]["value"] == statistics.median(severities)
    for asset in spike["assets"]:
        own = [event for event in events if event["symbol"] == asset["asset"]]
        assert asset["events"] == sum(event["class"] == "spike" for event in own)


def test_the_rates_are_shown_beside_their_bands(alpha: Any, bars: Path) -> None:
    """A line per class, with in or OUT; market-wide ones are not counted by asset."""
    lines = [line.split() for line in alpha("calibrate", bars, "--tf", "1m").out.splitlines()]
    shown = {cells[0]: cells for cells in lines if cells and cells[0] in RATE_BANDS}
    assert set(shown) == set(RATE_BANDS)
    assert shown["spike"][3] == "3-20"
    assert shown["spike"][4] in ("in", "OUT")
    assert shown["shift"][1:5] == ["0", "0.00", "5-25", "OUT"]
    assert shown["quadrant"][1:5] == ["0", "0.00", "0-15", "in"]
    assert shown["quadrant"][-1] == "2/2"
    assert shown["rotation"][-1] == "market"


def test_null_and_warm_up_are_told_apart(alpha: Any, bars: Path) -> None:
    """A silent minute has no z of volume, and its warm-up lasts longer by one minute each."""
    report = alpha("calibrate", bars, "--json", "--tf", "1m", "--feature", "vol").json
    silent, other = (figures(report, "1m", "vol")[symbol] for symbol in ("AAA", "B/USDT:USDT"))
    assert (silent["rows"], other["rows"]) == (MINUTES, MINUTES)
    assert (silent["warmup_rows"], other["warmup_rows"]) == (201, 199)
    assert other["scored"] == MINUTES - 199 - len(HOLE)
    assert silent["scored"] == MINUTES - 201 - len(HOLE) - 3
    assert silent["null_share"] == pytest.approx(1 - silent["scored"] / MINUTES)
    assert silent["windows"] == 0
    assert silent["in_band_share"] is None


def test_the_report_says_what_was_read(alpha: Any, bars: Path) -> None:
    """Minutes, rows, skipped rows, packs and the bounds of the band; numbers or null, no NaN."""
    ran = alpha("calibrate", bars, "--json")
    assert (ran.code, ran.err) == (0, "")
    read = ran.json["read"]
    assert (read["minutes"], read["minutes_skipped"]) == (MINUTES - len(HOLE), 0)
    assert read["span_ms"] == [CLOSE_MS, CLOSE_MS + (MINUTES - 1) * MINUTE_MS]
    assert read["rows"]["1m"] == 2 * MINUTES
    assert read["rejects"] == {"bad_time": 1}
    assert ran.json["config_hash"].startswith("sha256:")
    assert ran.json["band"]["window_days"] == 7
    assert alpha("calibrate", bars, "--json", "--quiet").out == ran.out


def test_the_tables_are_readable(alpha: Any, bars: Path) -> None:
    """At 100 columns: a line per asset, totals, the normal, and what there was nothing of."""
    ran = alpha("calibrate", bars)
    assert ran.code == 0
    assert "bad_time 1" in ran.err
    lines = ran.out.splitlines()
    assert max(map(len, lines)) <= 100
    titles = [i for i, line in enumerate(lines) if line.startswith("1m vol (z_vol_m_1)")]
    table = [line.split() for line in lines[titles[0] + 1 : titles[0] + 10]]
    assert table[0][:3] == ["asset", "rows", "NULL"]
    assert [cells[0] for cells in table[2:4]] == ["AAA", "B/USDT:USDT"]
    assert [cells[0] for cells in table if cells][-3:] == ["all", "median", "normal"]
    assert table[2][1] == str(MINUTES)
    (normal,) = (cells for cells in table if cells and cells[0] == "normal")
    assert normal[1:] == ["0.00", "1.00", "32.8", "8.94", "1.94", "0.05"]
    assert any(line.startswith("1m: no z at all of ") and "spread" in line for line in lines)
    assert any(line.split()[:3] == ["1m", "ret_abs", "0/2"] for line in lines)
    assert "nan" not in ran.out.lower()


def test_timeframes_and_features_can_be_chosen(alpha: Any, bars: Path) -> None:
    """Each may be named several times; the order is that of the pack."""
    ran = alpha(
        *("calibrate", bars, "--json", "--tf", "1m"),
        *("--feature", "ret_abs", "--feature", "vol"),
    )
    chosen = [(each["score"]["tf"], each["score"]["feature"]) for each in ran.json["scores"]]
    assert chosen == [("1m", "vol"), ("1m", "ret_abs")]


def test_a_timeframe_without_rows_is_said(alpha: Any, tmp_path: Path) -> None:
    """Three minutes make no row of an hour."""
    (tmp_path / "bars.csv").write_text(bars_text(3).replace("AAA,oops,1,1,1,1,1,1,1\n", ""))
    ran = alpha("calibrate", tmp_path / "bars.csv", "--tf", "1h")
    assert ran.code == 0
    assert "1h: no rows" in ran.out
    assert alpha("calibrate", tmp_path / "bars.csv", "--tf", "1h", "--json").json["scores"] == []


def test_a_week_that_counts_shows_its_share(
    capsys: pytest.CaptureFixture[str], week_of_figures: tuple[Any, Any]
) -> None:
    """The share in band, how many weeks were too thin, and the asset with the lowest share."""
    read, calibrations = week_of_figures
    show(read, calibrations, Rates().figures(), ["1h"])
    out = capsys.readouterr().out
    cells = [line.split() for line in out.splitlines()]
    assert ["AAA", "192", "0.0%", "0.0%", "100.0%", "2", "50.0%"] in [line[:7] for line in cells]
    assert ["BBB", "192", "49.5%", "77.3%", "0.0%", "1/2", "0.0%"] in [line[:7] for line in cells]
    (total,) = (line for line in cells if line[:2] == ["1h", "vol"] and line[2] == "2/2")
    assert total[6:] == ["3/4", "33.3%", "25.0%", "0.0%", "BBB"]


@pytest.fixture
def week_of_figures() -> tuple[Any, Any]:
    """Eight days of hours: an asset that goes wrong on the last day, and one that is thin."""
    collector = Collector([Score("1h", "vol", "z_vol_h_1", False)])
    for hour in range(192):
        sign = 1.0 if hour % 2 else -1.0
        known = hour == 0 or hour >= 96
        values = {"AAA": sign if hour < 168 else 40.0, "BBB": 3.0 if known else None}
        for uid, (symbol, z) in enumerate(values.items()):
            floored = ["vol"] if symbol == "AAA" else []
            dq_status = "partial" if symbol == "BBB" and hour < 170 else "ok"
            columns = {"z_vol_h_1": z, "scale_floored": floored, "dq_status": dq_status}
            collector.add(Row(uid, symbol, "1h", CLOSE_MS + hour * HOUR_MS, 0, columns))
    return Read(rows={"1h": 384}), collector.calibrations()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "found nothing"),
        ("", "found no line"),
        ("symbol,open,high,low,close,volume_quote\n", "'close_ms'"),
        (f"{HEADER}\n", "none that can be used"),
        (f"{HEADER}\nAAA,{CLOSE_MS},oops,1,1,1,1,1,1\n", "none that can be used"),
        ("PAR1 and so on", "alpha import bars"),
    ],
)
def test_what_is_no_bars_file_is_refused(
    alpha: Any, tmp_path: Path, content: str | None, word: str
) -> None:
    """One message with the file and what is wrong with it."""
    path = tmp_path / "bars.csv"
    if content is not None:
        path.write_text(content)
    alpha("calibrate", path).failed_with(INPUT, "bars.csv", word)


def test_wrong_arguments(alpha: Any, bars: Path) -> None:
    """Names that are none are answered with those that are."""
    alpha("calibrate", bars, "--tf", "5m").failed_with(USAGE, "--tf", "1m, 15m, 1h", "5m")
    alpha("calibrate", bars, "--feature", "volume").failed_with(USAGE, "--feature", "vol, ret_abs")
    alpha("calibrate", bars, "--feature", "dfunding").failed_with(USAGE, "dfunding")
    ran = alpha("calibrate", bars, "--tf", "1h", "--feature", "ret_abs_5")
    ran.failed_with(USAGE, "1h rows", "ret_abs_5")
    alpha("calibrate", bars, "--features", "no.yaml").failed_with(USAGE, "no.yaml")
    alpha("calibrate", bars, "--detectors", BAD_PACK).failed_with(USAGE, "4 faults")


@pytest.mark.slow
def test_acceptance_real_minutes_of_a_major(alpha: Any, shared_data: Path, tmp_path: Path) -> None:
    """Numerics 12 (d): two weeks of the BTC perp have 97 % of their windows in band, or more."""
    arrow = pytest.importorskip("pyarrow.parquet")
    (path,) = (shared_data / "market" / "bars_1m").glob("binance_um_perp9_*.parquet")
    until_ms = 1_748_169_180_000 + 14 * DAY_MS
    chosen = [("symbol", "==", "BTC/USDT:USDT"), ("date", "<", until_ms)]
    table = arrow.read_table(path, filters=chosen)
    arrow.write_table(table, tmp_path / "btc.parquet")
    import_bars([BarsFile(tmp_path / "btc.parquet")], tmp_path / "btc.csv")
    report = alpha("calibrate", tmp_path / "btc.csv", "--json", "--tf", "1m").json
    for feature in ("vol", "ret_abs"):
        total = figures(report, "1m", feature)[None]
        assert total["windows"] == 7
        assert total["in_band_share"] >= 0.97
        assert total["null_share"] < 0.02
        assert total["floored_share"] == 0.0
