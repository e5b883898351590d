"""Lists of labelled events: the layouts they come in, and what of them is left out."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from dataflows.importing import ImportProblem, labels
from dataflows.importing.labels import Label, Symbols, read_labels

MS = 1_580_000_400_000  # 2020-01-26 01:00:00


def read(tmp_path: Path, text: str, exchange: str | None = None) -> tuple[list[Label], object]:
    """Return the labels of a text and what was left out."""
    path = tmp_path / "labels.csv"
    path.write_text(text)
    found = read_labels(path, exchange)
    assert found.rows == len(found.labels) + sum(found.left_out.values())
    return list(found.labels), found.left_out


@pytest.mark.parametrize(
    "text",
    [
        f"symbol,time\nAAA,{MS}\n",
        f"time,pair,price\n{MS // 1000},AAA,1.5\n",
        "Coin,Timestamp\nAAA,2020-01-26 01:00:00\n",
        "symbol,date,hour\nAAA,2020-01-26,01:00\n",
        "ticker,pump_date\nAAA,2020-01-26T01:00:00Z\n",
        '{"symbol":"AAA","time":"2020-01-26 01:00:00"}\n',
        '[{"symbol": "AAA", "time": "2020-01-26 01:00:00"}]',
        ' \n[{"symbol":"AAA","begin":1580000400000,"end":null}]',
    ],
)
def test_layouts(tmp_path: Path, text: str) -> None:
    """CSV, JSON lines and a JSON array; epoch or ISO times; a date and an hour apart."""
    assert read(tmp_path, text) == ([Label("AAA", MS, MS, "")], {})


def test_end_and_kind(tmp_path: Path) -> None:
    """An end that is empty is the begin; a kind that is a number keeps its column's name."""
    text = (
        "symbol,begin,end,Type\n"
        "AAA,2020-01-26 01:00:00,2020-01-26 02:00:00,Spike\n"
        "BBB,2020-01-26 01:00:00,,1\n"
    )
    assert read(tmp_path, text)[0] == [
        Label("AAA", MS, MS + 3_600_000, "Spike"),
        Label("BBB", MS, MS, "Type 1"),
    ]


def test_rows_that_are_no_label_are_counted(tmp_path: Path) -> None:
    """By the reason, and in the order of the file for the rest."""
    text = (
        "symbol,time,end,exchange,gt\n"
        f"AAA,{MS},,binance,1\n"
        f"AAA,{MS},,BINANCE_SPOT,\n"
        f"AAA,{MS},,yobit,1\n"
        f"AAA,{MS},,,1\n"
        f"AAA,{MS},,binance,0\n"
        f"AAA,soon,,binance,1\n"
        f"AAA,2020-01-26,,binance,1\n"
        f",{MS},,binance,1\n"
        f"AAA,,,binance,1\n"
        f"AAA,{MS},{MS - 1},binance,1\n"
        f"AAA,{MS}\n"
    )
    found, left_out = read(tmp_path, text, "Binance")
    assert len(found) == 3
    assert left_out == {
        "bad_time": 2,
        "end_before_begin": 1,
        "field_count": 1,
        "missing_field": 2,
        "not_an_event": 1,
        "other_exchange": 1,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ("found no file",)),
        ("", ("with a header",)),
        ("price,volume\n1,2\n", ("symbol", "time", "found price, volume")),
        ("symbol,price\nAAA,2\n", ("the time", "found symbol, price")),
        ("symbol,time\n", ("no row",)),
        ("symbol,time\nAAA,soon\n", ("bad_time 1",)),
        ("[1, 2]", ("JSON array of objects",)),
        ("[]", ("symbol", "time")),
        ('[{"symbol":"AAA"', ("JSON array of objects",)),
        ("PAR1 and no more", ("Parquet",)),
    ],
)
def test_what_is_no_list_of_labels_is_refused(
    tmp_path: Path, text: str | None, words: tuple[str, ...]
) -> None:
    """One message with the file and every fault of its header."""
    path = tmp_path / "list.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ImportProblem) as caught:
        read_labels(path)
    assert all(word in str(caught.value) for word in ("list.csv", *words))


def test_parquet(tmp_path: Path) -> None:
    """The same columns in Parquet; an instant of any unit."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    times = arrow.array([MS * 1000 + 7000], arrow.timestamp("us", "UTC"))
    table = arrow.table({"symbol": ["AAABTC"], "pump_date": times, "success": [1]})
    parquet.write_table(table, tmp_path / "labels.parquet")
    found = read_labels(tmp_path / "labels.parquet")
    assert found.labels == (Label("AAABTC", MS + 7, MS + 7, "success 1"),)


def test_a_missing_reader_of_parquet_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is optional; the message names it."""
    (tmp_path / "x").write_bytes(b"PAR1")

    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(labels, "import_module", absent)
    with pytest.raises(ImportProblem, match="pyarrow"):
        read_labels(tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("BTC/USDT:USDT", 0),
        ("BTC-USDT", 0),
        ("btcusdt", 0),
        ("BTC", 0),
        ("NXS/BTC", 1),
        ("NXSBTC", 1),
        ("NXS", 1),
        ("NXS/ETH", "unknown_symbol"),
        ("ETH/USDT", 3),
        ("ETH_BTC", 2),
        ("ETH", "ambiguous_symbol"),
        ("SOL-USD", 4),
        ("SOL", 4),
        ("SOLUSD", "unknown_symbol"),
        ("BT", "unknown_symbol"),
    ],
)
def test_whose_label_it_is(text: str, found: int | str) -> None:
    """The same letters, or a coin of which there is one asset; another quote is another market."""
    symbols = Symbols({0: "BTC/USDT:USDT", 1: "NXS/BTC", 2: "ETH/BTC", 3: "ETH/USDT", 4: "SOL"})
    assert symbols.find(text) == found


def test_a_name_as_it_stands_goes_first() -> None:
    """Spot and perp of a pair are told apart by the whole name, and by nothing less."""
    symbols = Symbols({0: "BTC/USDT", 1: "BTC/USDT:USDT"})
    assert [symbols.find(text) for text in ("BTC/USDT", "BTC/USDT:USDT", "BTCUSDT")] == [
        *(0, 1, "ambiguous_symbol"),
    ]


def test_acceptance_published_lists(shared_data: Path) -> None:
    """The lists in the collection of recordings are read as they are, every row accounted for."""
    folder = shared_data / "market" / "labels"
    expected = {
        "b0r0koko_pumps_subset.json": (406, {}),
        "lamorgia_labelled_chunks_25S_subset.csv": (210, {}),
        "lamorgia_pump_telegram_subset.csv": (407, {"other_exchange": 589}),
        "natural_spikes_drawdowns_subset.csv": (228, {}),
    }
    for name, (count, left_out) in expected.items():
        found = read_labels(folder / name, "binance")
        assert (len(found.labels), found.left_out) == (count, left_out), name
    telegram = read_labels(folder / "lamorgia_pump_telegram_subset.csv", "binance").labels
    assert Label("NXS", 1_583_251_140_000, 1_583_251_140_000, "TCG") in telegram


def test_examples() -> None:
    """The examples in the docstrings hold."""
    results = doctest.testmod(labels)
    assert results.attempted
    assert not results.failed
