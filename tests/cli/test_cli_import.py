"""`alpha import`: what it prints, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataflows.cli.failures import INPUT, USAGE
from dataflows.importing.bars import read_bars

TRADES = """time_ms,symbol,price,size,side,trade_id
1790000040100,BTC,80000.5,0.1,buy,1
1790000040900,ETH,2600.5,1,sell,2
1790000070900,BTC,80001,0.2,sell,3
1790000071000,BTC,oops,0.2,sell,4
"""
BARS = """symbol,close_ms,open,high,low,close,volume_quote
BTC,1790000100000,1,2,0.5,1.5,100
BTC,1790000160000,1,2,0.5,oops,100
"""


@pytest.fixture
def trades(tmp_path: Path) -> Path:
    """A file of four trades, one of them damaged."""
    path = tmp_path / "trades.csv"
    path.write_text(TRADES)
    return path


def test_ticks_become_a_log(alpha: Any, trades: Path, tmp_path: Path) -> None:
    """The table counts by coin; holes and rejects are said; ids can be given."""
    ran = alpha("import", "ticks", trades, "--out", tmp_path / "log", "--uid", "BTC=7")
    assert ran.code == 0
    assert ["BTC", "7", "2"] in [line.split() for line in ran.out.splitlines()]
    assert "4 lines of 1 file" in ran.out
    assert "1 holes" in ran.out
    assert "bad_number 1" in ran.err
    assert list((tmp_path / "log").iterdir())


def test_ticks_as_json(alpha: Any, trades: Path, tmp_path: Path) -> None:
    """The report as the importer made it."""
    ran = alpha(
        *("import", "ticks", trades, "--out", tmp_path / "log.zst", "--json"),
        *("--max-silence-s", "60", "--layout", "generic"),
    )
    assert ran.err == ""
    assert ran.json["uids"] == {"BTC": 0, "ETH": 1}
    assert ran.json["holes"] == []
    assert ran.json["rejects"] == {"bad_number": 1}
    assert (tmp_path / "log.zst").stat().st_size == Path(ran.json["out"]).stat().st_size


@pytest.mark.engine
def test_what_was_imported_can_be_replayed(alpha: Any, trades: Path, tmp_path: Path) -> None:
    """The next command of the message works."""
    alpha("import", "ticks", trades, "--out", tmp_path / "log", "--tail-s", "60")
    ran = alpha("replay", tmp_path / "log", "--out", tmp_path / "out")
    assert ran.json["products"]["rows"]["count"] >= 2


def test_bars_become_a_bars_file(alpha: Any, tmp_path: Path) -> None:
    """The table counts by symbol, the JSON is the report."""
    (tmp_path / "in.csv").write_text(BARS)
    ran = alpha("import", "bars", tmp_path / "in.csv", "--out", tmp_path / "bars.csv")
    assert ran.code == 0
    assert ["BTC", "1"] in [line.split() for line in ran.out.splitlines()]
    assert "bad_number 1" in ran.err
    assert len(list(read_bars(tmp_path / "bars.csv"))) == 1
    ran = alpha("import", "bars", tmp_path / "in.csv", "--out", tmp_path / "b.csv", "--json")
    assert ran.json["bars"] == {"BTC": 1}


def test_mistakes(alpha: Any, trades: Path, tmp_path: Path) -> None:
    """Unknown files and layouts, ids that are none, outputs that are taken."""
    out = tmp_path / "log"
    alpha("import", "ticks", "no.csv", "--out", out).failed_with(INPUT, "no.csv")
    ran = alpha("import", "ticks", trades, "--out", out, "--layout", "nonsense")
    ran.failed_with(INPUT, "nonsense", "known layouts")
    alpha("import", "ticks", trades, "--out", out, "--uid", "BTC").failed_with(USAGE, "COIN=ID")
    alpha("import", "ticks", trades, "--out", out, "--meta", "no.json").failed_with(
        INPUT, "no.json"
    )
    alpha("import", "ticks", trades, "--out", tmp_path).failed_with(INPUT, "empty directory")
    alpha("import", "bars", trades, "--out", tmp_path / "b.csv").failed_with(INPUT, "trades.csv")
    assert not out.exists()
