"""Minute bars of other sources become a bars file, and the reader gives it back."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dataflows.importing.bars as bars_module
from dataflows.importing import (
    BarColumns,
    BarRow,
    BarsFile,
    BarsReport,
    ImportProblem,
    Stamp,
    bars_import,
    bars_parquet,
    import_bars,
    read_bars,
)

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the data in ../shared/data is not there")
M = 1_756_904_160_000  # 2025-09-03 12:56:00, the close of a minute
HEADER = "symbol,close_ms,open,high,low,close,volume_quote,trade_count,taker_buy_quote\n"


def write(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def run(tmp_path: Path, files: dict[str, str]) -> tuple[str, BarsReport]:
    """Import files given as name -> content; return the bars file's text and the report."""
    out = tmp_path / "bars.csv"
    report = import_bars([BarsFile(write(tmp_path / n, text)) for n, text in files.items()], out)
    return out.read_text(), report


def read(path: Path) -> tuple[list[tuple[int, dict[str, BarRow]]], Counter[str]]:
    rejects: Counter[str] = Counter()
    return list(read_bars(path, on_reject=lambda reason: rejects.update([reason]))), rejects


# --- reading ---------------------------------------------------------------------------------


def test_bars_are_read_minute_by_minute(tmp_path: Path) -> None:
    """One item per minute, symbols in order, NULL where a cell is empty."""
    path = write(
        tmp_path / "bars.csv.gz",
        HEADER
        + f"BTC,{M},1,2,0.5,1.5,100,7,40.5\n"
        + f"AAVE,{M},1,1,1,1,0,,\n"
        + f"BTC,{M + 180_000},1,2,0.5,1.5,100,0,100\n",
    )
    minutes, rejects = read(path)
    assert minutes == [
        (
            M,
            {
                "AAVE": BarRow(1.0, 1.0, 1.0, 1.0, 0.0, None, None),
                "BTC": BarRow(1.0, 2.0, 0.5, 1.5, 100.0, 7, 40.5),
            },
        ),
        (M + 180_000, {"BTC": BarRow(1.0, 2.0, 0.5, 1.5, 100.0, 0, 100.0)}),
    ]
    assert list(minutes[0][1]) == ["AAVE", "BTC"]
    assert not rejects


def test_optional_columns_may_be_absent(tmp_path: Path) -> None:
    """Seven columns are enough, in any order."""
    path = write(
        tmp_path / "bars.csv",
        f"close_ms,symbol,open,high,low,close,volume_quote\n{M},A,1,1,1,1,0\n",
    )
    assert read(path)[0] == [(M, {"A": BarRow(1.0, 1.0, 1.0, 1.0, 0.0)})]


def test_a_faulty_header_is_one_message_with_every_fault(tmp_path: Path) -> None:
    """What is missing, unknown and doubled is listed at once, before any row is read."""
    path = write(tmp_path / "bars.csv", "symbol,symbol,close_ms,open,high,low,volume\n")
    with pytest.raises(ImportProblem) as caught:
        read_bars(path)
    for part in ("'close', 'volume_quote'", "unknown: 'volume'", "more than once: 'symbol'"):
        assert part in str(caught.value)
    with pytest.raises(ImportProblem, match="found no line"):
        read_bars(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"A,{M},1,2,1,1,5,1", "field_count"),
        (f"A,{M},1,2,1,x,5,1,1", "bad_number"),
        (f"A,{M},1,2,1,,5,1,1", "missing_field"),
        (f"A,{M},1,2,1,nan,5,1,1", "not_finite"),
        (f"A,{M},1,inf,1,1,5,1,1", "not_finite"),
        (f"A,{M},1,1,2,1,5,1,1", "high_below_low"),
        (f"A,{M},0,2,1,1,5,1,1", "price_not_positive"),
        (f"A,{M},1,2,1,1,-5,1,1", "negative_volume"),
        (f"A,{M},1,2,1,1,5,1.5,1", "bad_count"),
        (f"A,{M},1,2,1,1,5,-1,1", "bad_count"),
        (f"A,{M},1,2,1,1,5,1,6", "bad_taker_buy"),
        (f"A,{M + 1},1,2,1,1,5,1,1", "off_minute"),
        (f"A,{M}.0,1,2,1,1,5,1,1", "bad_time"),
        (f"A,{M}000,1,2,1,1,5,1,1", "bad_time"),
        (f",{M},1,2,1,1,5,1,1", "bad_symbol"),
        (f"OK,{M},1,2,1,1,5,1,1", "duplicate_key"),
        (f"A,{M - 60_000},1,2,1,1,5,1,1", "time_went_back"),
    ],
)
def test_a_bad_row_is_skipped_and_counted(tmp_path: Path, row: str, reason: str) -> None:
    """The rows around a bad one are read."""
    before, after = f"OK,{M},1,2,1,1,5,1,1\n", f"OK,{M + 60_000},1,2,1,1,5,1,1\n"
    minutes, rejects = read(write(tmp_path / "bars.csv", f"{HEADER}{before}{row}\n{after}"))
    assert [(minute, list(bars)) for minute, bars in minutes] == [(M, ["OK"]), (M + 60_000, ["OK"])]
    assert rejects == {reason: 1}


# --- importing -------------------------------------------------------------------------------


def test_layout_freqtrade_in_any_order(tmp_path: Path) -> None:
    """Stacked symbols come out by minute; the label is the close; base volume becomes quote."""
    text, report = run(
        tmp_path,
        {
            "a.csv": "symbol,date,open,high,low,close,volume\n"
            f"ETH,{M},10.0,12,9,10.50,2\n"
            f"ETH,{M - 60_000},10,10,10,10,0\n"
            f"BTC,{M - 60_000},100,103,97,100,0.5\n"
        },
    )
    assert text == (
        "symbol,close_ms,open,high,low,close,volume_quote\n"
        f"BTC,{M},100,103,97,100,50\n"
        f"ETH,{M},10,10,10,10,0\n"
        f"ETH,{M + 60_000},10.0,12,9,10.50,21\n"
    )
    assert report == BarsReport(
        files=1,
        lines=3,
        bars={"BTC": 1, "ETH": 2},
        rejects={},
        span_ms=(M, M + 60_000),
        notes=["freqtrade: volume in base coins x (high + low + close) / 3 = volume_quote"],
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "x_candles_BTC-1m.csv",
            f"T,o,h,l,c,v\n{M - 1},100.0,103.0,97.0,100.0,0.5\n",
        ),
        (
            "binanceus_BTC_1m_x.csv",
            "open_time,open,high,low,close,volume\n"
            "2025-09-03 12:55:00+00:00,100.0,103.0,97.0,100.0,0.5\n",
        ),
        (
            "BTC-1m-2025-09-03.csv",
            "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
            "taker_buy_quote_volume,ignore\n"
            f"{M - 60_000},100.0,103.0,97.0,100.0,0.5,{M - 1},50,3,0.1,10.5,0\n",
        ),
        ("own.csv", f"{HEADER}BTC,{M},100.0,103.0,97.0,100.0,50,,\n"),
    ],
)
def test_layouts_of_bars_agree(tmp_path: Path, name: str, text: str) -> None:
    """The same bar comes out of every layout."""
    written, report = run(tmp_path, {name: text})
    assert written.splitlines()[1].startswith(f"BTC,{M},100.0,103.0,97.0,100.0,50")
    assert report.rejects == {}


def test_layout_binance_klines_keeps_counts_and_taker_volume(tmp_path: Path) -> None:
    """Quote volume of the source is taken as it is; nothing is derived, so there is no note."""
    text, report = run(
        tmp_path,
        {
            "BTC-1m-x.csv": "open_time,open,high,low,close,volume,quote_volume,count,"
            f"taker_buy_quote_volume\n{M - 60_000},1,2,1,1,9,12.50,3,6.2500\n"
        },
    )
    assert text == HEADER + f"BTC,{M},1,2,1,1,12.50,3,6.2500\n"
    assert report.notes == []


def test_layout_coinbase_minutes_needs_the_minute_before(tmp_path: Path) -> None:
    """The open is the close before it, even one without trades; none known, no bar."""
    text, report = run(
        tmp_path,
        {
            "coinbase_BTC_x.csv": "minute_utc,close,trades,volume,buy_share,high,low\n"
            "2025-09-03T12:55,100.0,2.000000,1,0.5,101,99\n"
            "2025-09-03T12:56,102.0,,,,,\n"
            "2025-09-03T12:57,102.0,3.000000,2,0.25,102,102\n"
            "2025-09-03T12:59,103.0,3.000000,2,0.25,102,102\n"
        },
    )
    assert text == HEADER + f"BTC,{M + 120_000},102.0,102,102,102.0,204,3,51\n"
    assert report.rejects == {"missing_field": 1, "no_open": 2}
    assert len(report.notes) == 3


def test_columns_of_ones_own(tmp_path: Path) -> None:
    """Any file that a column description fits can be imported."""
    path = write(tmp_path / "a.csv", f"k,h,l,c,o,v,b\n{M // 1000},3,1,2,2,6,3\n")
    columns = BarColumns(
        time=Stamp("k", "s"),
        labels="close",
        open="o",
        high="h",
        low="l",
        close="c",
        volume_base="v",
        taker_buy_base="b",
    )
    import_bars([BarsFile(path, "X", columns)], tmp_path / "bars.csv")
    assert read(tmp_path / "bars.csv")[0] == [
        (M, {"X": BarRow(2.0, 3.0, 1.0, 2.0, 12.0, None, 6.0)})
    ]


def test_sorting_outside_memory_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of any size give the same bytes; of equal keys the first row counts."""
    rows = [f"S{i % 3},{M + (i * 7 % 11) * 60_000},1,2,1,1,{i}\n" for i in range(60)]
    text = "symbol,close_ms,open,high,low,close,volume_quote\n" + "".join(rows)
    whole, report = run(tmp_path, {"a.csv": text})
    monkeypatch.setattr(bars_import, "RUN_ROWS_MAX", 4)
    assert run(tmp_path, {"a.csv": text}) == (whole, report)
    assert report.rejects == {"duplicate_key": 27}
    assert f"S0,{M},1,2,1,1,0\n" in whole


def test_bars_that_are_not_minutes_are_refused(tmp_path: Path) -> None:
    """Hourly bars on the minute grid would pass as minutes full of holes."""
    rows = "".join(f"A,{M + i * 3_600_000},1,1,1,1,1\n" for i in range(20))
    with pytest.raises(ImportProblem, match="expected bars of 1 minute, found 60 minutes"):
        run(tmp_path, {"a.csv": "symbol,date,open,high,low,close,volume\n" + rows})
    assert not (tmp_path / "bars.csv").exists()


def test_what_cannot_be_used_is_one_message_with_every_fault(tmp_path: Path) -> None:
    """The message names every file, what was found in it, and the layouts that are known."""
    strange = write(tmp_path / "strange.csv", "a,b\n")
    nameless = write(tmp_path / "nameless.csv", "date,open,high,low,close,volume\n")
    with pytest.raises(ImportProblem) as caught:
        import_bars([BarsFile(strange), BarsFile(nameless)], tmp_path / "out")
    for part in (
        "strange.csv: expected a known layout, found columns a, b; known layouts: bars (",
        "nameless.csv: expected a symbol",
        "expected the name of a file",
    ):
        assert part in str(caught.value)
    with pytest.raises(ImportProblem, match="expected bars, found none"):
        import_bars([BarsFile(nameless, "X")], tmp_path / "bars.csv")
    assert not (tmp_path / "bars.csv").exists()


@pytest.mark.parametrize("name", ["bars.csv.gz", "bars.csv.zst"])
def test_compressed_output_is_deterministic(tmp_path: Path, name: str) -> None:
    """Twice the same import gives the same bytes, and they read back."""
    source = BarsFile(write(tmp_path / "a.csv", f"{HEADER}BTC,{M},1,2,1,1,5,1,1\n"))
    written = []
    for copy in ("a", "b"):
        import_bars([source], tmp_path / copy / name)
        written.append((tmp_path / copy / name).read_bytes())
    assert written[0] == written[1]
    assert read(tmp_path / "a" / name)[0] == [(M, {"BTC": BarRow(1.0, 2.0, 1.0, 1.0, 5.0, 1, 1.0)})]


# --- Parquet ---------------------------------------------------------------------------------


def parquet() -> Any:
    """Return the optional reader, or skip."""
    return pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    """Write columns of Python values, or of the library's own arrays."""
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet().write_table(arrow.table(columns), path, **options)
    return path


def freqtrade(minutes: int) -> dict[str, list[Any]]:
    """Return so many minutes of two symbols, one after the other, as freqtrade has them."""
    n = 2 * minutes
    return {
        "symbol": ["ETH"] * minutes + ["BTC"] * minutes,
        "date": [M + i % minutes * 60_000 for i in range(n)],
        "open": [0.1 + i for i in range(n)],
        "high": [1e-7 + 0.3 + i for i in range(n)],
        "low": [0.1 + i for i in range(n)],
        "close": [0.2 + i for i in range(n)],
        "volume": [i / 3 for i in range(n)],
    }


def test_parquet_gives_the_bytes_of_its_text(tmp_path: Path) -> None:
    """Told by its content, in any order of rows, whatever the batches; numbers are not rounded."""
    columns = freqtrade(50)
    text = "\n".join(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))
    written, report = run(tmp_path, {"a.csv": f"{','.join(columns)}\n{text}\n"})
    source = write_parquet(tmp_path / "a.bin", columns, row_group_size=7)
    out = tmp_path / "out.csv"
    assert import_bars([BarsFile(source)], out) == report
    assert out.read_text() == written
    assert f"ETH,{M + 60_000},0.1,0.3000001,0.1,0.2," in written
    assert report.bars == {"BTC": 50, "ETH": 50}


def test_parquet_is_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a batch changes nothing."""
    source = write_parquet(tmp_path / "a.parquet", freqtrade(50))
    import_bars([BarsFile(source)], tmp_path / "whole.csv")
    monkeypatch.setattr(bars_parquet, "BATCH_ROWS", 3)
    import_bars([BarsFile(source)], tmp_path / "batches.csv")
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "batches.csv").read_bytes()


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_parquet_instants_become_epoch_ms(tmp_path: Path, zone: str | None) -> None:
    """A zone is how an instant is shown, not when it is."""
    arrow = pytest.importorskip("pyarrow")
    columns: dict[str, Any] = freqtrade(1)
    dates = [date * 1_000_000 for date in columns["date"]]
    columns["date"] = arrow.array(dates, arrow.timestamp("ns", zone))
    import_bars([BarsFile(write_parquet(tmp_path / "a", columns))], tmp_path / "out.csv")
    assert [minute for minute, _ in read(tmp_path / "out.csv")[0]] == [M + 60_000]


def test_parquet_cells_that_are_no_value_are_counted(tmp_path: Path) -> None:
    """NULL and NaN drop a row like an empty cell and `nan` of a CSV."""
    columns = freqtrade(3)
    columns["close"][0], columns["high"][1], columns["date"][2] = None, float("nan"), None
    report = import_bars(
        [BarsFile(write_parquet(tmp_path / "a.parquet", columns))], tmp_path / "out.csv"
    )
    assert report.bars == {"BTC": 3}
    assert report.rejects == {"missing_field": 2, "not_finite": 1}
    assert report.lines == 6


def test_parquet_with_columns_of_ones_own(tmp_path: Path) -> None:
    """Any file that a column description fits; one that does not fit is answered with its own."""
    columns = {"k": [M // 1000], "h": [3], "l": [1], "c": [2], "o": [2], "v": [6]}
    source = write_parquet(tmp_path / "a.parquet", columns)
    own = BarColumns(
        time=Stamp("k", "s"),
        labels="close",
        open="o",
        high="h",
        low="l",
        close="c",
        volume_base="v",
    )
    import_bars([BarsFile(source, "X", own)], tmp_path / "out.csv")
    assert read(tmp_path / "out.csv")[0] == [(M, {"X": BarRow(2.0, 3.0, 1.0, 2.0, 12.0)})]
    for layout, words in (("freqtrade", "layout freqtrade"), (None, "a known layout")):
        with pytest.raises(ImportProblem, match=f"expected {words}, found columns k, h"):
            import_bars([BarsFile(source, "X", layout)], tmp_path / "out.csv")


def test_parquet_that_is_damaged(tmp_path: Path) -> None:
    """Without its end it is refused; with a broken page it gives what stands before it."""
    source = write_parquet(
        tmp_path / "a.parquet", freqtrade(50), row_group_size=20, compression="gzip"
    )
    data = source.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImportProblem, match=r"cut\.parquet: expected a Parquet file"):
        import_bars([BarsFile(tmp_path / "cut.parquet")], tmp_path / "out.csv")
    metadata = parquet().read_metadata(source)
    page = metadata.row_group(3).column(3).data_page_offset
    (tmp_path / "b.parquet").write_bytes(data[:page] + bytes(40) + data[page + 40 :])
    report = import_bars([BarsFile(tmp_path / "b.parquet")], tmp_path / "out.csv")
    assert report.rejects == {"damaged_file": 1}
    assert report.bars == {"ETH": 50, "BTC": 10}


def test_parquet_without_its_reader_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, with the file and the package."""
    source = tmp_path / "a.parquet"
    source.write_bytes(b"PAR1 and so on")

    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(bars_parquet, "import_module", absent)
    with pytest.raises(ImportProblem) as caught:
        import_bars([BarsFile(source)], tmp_path / "out.csv")
    assert str(caught.value) == f"{source}: {bars_parquet.NO_READER}"
    assert "pip install pyarrow" in bars_parquet.NO_READER


def test_parquet_is_no_bars_file(tmp_path: Path) -> None:
    """What reads bars files says which command makes one."""
    source = tmp_path / "a.parquet"
    source.write_bytes(b"PAR1 and so on")
    with pytest.raises(ImportProblem, match="alpha import bars"):
        read_bars(source)


# --- real data -------------------------------------------------------------------------------


@needs_data
def test_real_venue_candles(tmp_path: Path) -> None:
    """900 minutes of two coins from the venue's own candles."""
    rest = DATA / "hyperliquid" / "rest"
    files = [BarsFile(rest / f"londrwus_candles_{c}-1m.csv.gz", c.upper()) for c in ("btc", "eth")]
    report = import_bars(files, tmp_path / "bars.csv")
    assert (report.bars, report.rejects) == ({"BTC": 900, "ETH": 900}, {})
    minutes, rejects = read(tmp_path / "bars.csv")
    assert len(minutes) == 900
    assert not rejects
    assert all(list(bars) == ["BTC", "ETH"] for _, bars in minutes)


@needs_data
def test_real_hourly_candles_are_refused(tmp_path: Path) -> None:
    """The hourly file beside the minutes is not taken for minutes."""
    path = DATA / "hyperliquid" / "rest" / "londrwus_candles_btc-1h.csv.gz"
    with pytest.raises(ImportProblem, match="60 minutes"):
        import_bars([BarsFile(path)], tmp_path / "bars.csv")


@needs_data
@pytest.mark.slow
def test_real_depeg_minutes(tmp_path: Path) -> None:
    """Three markets over three weeks, complete, and the depeg is in them."""
    files = sorted((DATA / "market" / "bars_1m").glob("binanceus_*.csv.gz"))
    report = import_bars([BarsFile(path) for path in files], tmp_path / "bars.csv")
    assert report.bars == {"BTCUSD": 30_240, "BTCUSDC": 30_240, "BTCUSDT": 30_240}
    assert report.rejects == {}
    ratios = {
        minute: bars["BTCUSDC"].close / bars["BTCUSD"].close
        for minute, bars in read_bars(tmp_path / "bars.csv")
    }
    assert max(ratios.values()) == pytest.approx(1.143, abs=0.001)


@needs_data
@pytest.mark.slow
def test_real_flow_minutes(tmp_path: Path) -> None:
    """Minutes without recorded flow are dropped and counted; the others carry counts and takers."""
    (path,) = (DATA / "market" / "bars_1m").glob("coinbase_*.csv.gz")
    report = import_bars([BarsFile(path)], tmp_path / "bars.csv")
    assert report.lines == 40_911 == sum(report.bars.values()) + sum(report.rejects.values())
    assert set(report.rejects) == {"missing_field", "no_open"}
    assert report.rejects["no_open"] == 11


@needs_data
@pytest.mark.slow
def test_real_parquet_minutes(tmp_path: Path) -> None:
    """Perps in freqtrade's columns: the same bytes as from the text of the same rows."""
    (path,) = (DATA / "market" / "bars_1m").glob("binance_um_perp9_*.parquet")
    until_ms = 1_748_169_180_000 + 1000 * 60_000  # the first 1000 minutes
    table = parquet().read_table(path, filters=[("date", "<", until_ms)])
    parquet().write_table(table, tmp_path / "a.parquet")
    rows = zip(*(column.to_pylist() for column in table.itercolumns()), strict=True)
    text = "\n".join(",".join(map(str, row)) for row in [table.column_names, *rows])
    written, report = run(tmp_path, {"a.csv": text})
    out = tmp_path / "from_parquet.csv"
    assert import_bars([BarsFile(tmp_path / "a.parquet")], out) == report
    assert out.read_text() == written
    assert sum(report.bars.values()) == table.num_rows > 8900
    assert len(report.bars) == 9
    assert report.rejects == {}


ODD = ("0", "0.0", "-1", "+1", "1e3", "nan", "inf", "1_0", "", " 2 ", "٣", '"2"', "9" * 30, "0x1")
cells = st.sampled_from((*ODD, "2", "1.", ".5", "12.0", "3.25", "1.5", "1.5", "2.5", "10", "1000"))
names = st.sampled_from(("BTC", "ETH/USDT", "A B", "É", "#x", '"Q"', "", "k:perp", "x'y"))
closes = st.sampled_from((str(M), str(M), str(M + 60_000), str(M + 1), f" {M}", "0" + str(M), "x"))


@given(
    st.permutations(bars_module.COLUMNS),
    st.lists(st.tuples(names, closes, st.lists(cells, min_size=7, max_size=7)), max_size=8),
    st.integers(7, 9),
)
def test_differential_the_usual_line_is_read_as_any_other(
    order: list[str], rows: list[tuple[str, str, list[str]]], width: int
) -> None:
    """In one go or cell by cell: the same bars, and the same rows dropped for the same reasons."""
    optional = [name for name in bars_module.OPTIONAL if order.index(name) >= width]
    header = [name for name in order if name not in optional]
    text = ",".join(header) + "\n"
    for symbol, close, values in rows:
        row = dict(zip(bars_module.COLUMNS, (symbol, close, *values), strict=True))
        text += ",".join(row[name] for name in header) + "\n"
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "bars.csv", text)
        with pytest.MonkeyPatch.context() as patched:
            found = repr(read(path))
            patched.setattr(bars_module, "_usual", lambda _: lambda _: None)
            assert repr(read(path)) == found
