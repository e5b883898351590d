"""Rows of real recordings equal the naive computation, column by column and bit by bit.

Four coins with two reconnects, replays and duplicates; the same with depth alone; pieces days
apart; a raw recording without a roster; a busy feed; prints alone, dense with holes
and sparse with empty minutes.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dataflows.importing import TickFile, import_ticks

Agree = Callable[[list[bytes]], Any]


def log_of(files: Sequence[Path], tmp_path: Path, **options: Any) -> list[bytes]:
    """Import recordings and return the lines of their tick log."""
    assert files
    out = tmp_path / "ticks.log"
    import_ticks([TickFile(path) for path in files], out, **options)
    return out.read_bytes().splitlines(keepends=True)


def known(agreement: Any, *names: str) -> bool:
    """Tell whether each of these 1m columns was known at least once."""
    return all(agreement.known[f"1m {name}"] for name in names)


@pytest.mark.slow
def test_oracle_four_coins_with_books(agree: Agree, shared_data: Path, tmp_path: Path) -> None:
    """Prints, quotes and books with two real outages, 30-trade replays and real duplicates."""
    folder = shared_data / "hyperliquid" / "recordings"
    agreement = agree(log_of(sorted(folder.glob("djienne_20250903_*.csv.gz")), tmp_path))
    agreement.check()
    assert agreement.rows["1m"] == 36
    assert known(agreement, "obi_top5_mean_m_1", "depth_top5_quote_median_m_1", "rv_m_1")
    assert known(agreement, "extras microprice_drift_s_30", "ret_m_5", "cvd_slope_m_5")
    assert agreement.reasons["resync"] > 0
    assert agreement.reasons["outage"] > 0


def test_oracle_books_stand_in_for_quotes(agree: Agree, shared_data: Path, tmp_path: Path) -> None:
    """Without bbo the best levels of the books are the quotes."""
    folder = shared_data / "hyperliquid" / "recordings"
    files = sorted(folder.glob("djienne_20250903_orderbooks_*.csv.gz"))
    agreement = agree(log_of(files, tmp_path))
    agreement.check()
    assert known(agreement, "spread_p95_m_1", "mid_close", "open", "obi_top5_mean_m_1")
    assert not known(agreement, "v_total_m_1")
    assert not known(agreement, "extras microprice_drift_s_30")


@pytest.mark.slow
def test_oracle_pieces_days_apart(agree: Agree, shared_data: Path, tmp_path: Path) -> None:
    """Days without a line: stale 1m rows, stale 15m and 1h rows, frozen baselines."""
    folder = shared_data / "hyperliquid" / "recordings"
    files = [folder / f"djienne_20250901-07_{kind}_BTC.csv.gz" for kind in ("trades", "prices")]
    lines = log_of(files, tmp_path)
    until = int(lines[0].split(b" ")[0]) + 60 * 3600 * 10**9
    agreement = agree([line for line in lines if int(line.split(b" ")[0]) < until])
    agreement.check()
    assert agreement.rows["1m"] > 2400
    assert agreement.rows["15m"] > 160
    assert agreement.rows["1h"] > 40
    assert agreement.reasons["minutes_missing"] > 200


def test_oracle_a_raw_recording_without_a_roster(agree: Agree, shared_data: Path) -> None:
    """Half a minute of raw frames of depth and prints, then heartbeats."""
    raw = shared_data / "hyperliquid/recordings/hftbacktest_BTC_20250126_raw_frames.txt.gz"
    lines = gzip.decompress(raw.read_bytes()).splitlines(keepends=True)
    last = int(lines[-1].split(b" ")[0])
    lines += [b'%d {"channel":"alpha.clock"}\n' % (last + k * 10**9) for k in range(1, 1200)]
    agreement = agree(lines)
    agreement.check()
    assert agreement.rows["1m"] == 20
    assert agreement.rows["15m"] == 2
    assert agreement.reasons["book_missing"] > 10


@pytest.mark.slow
def test_oracle_a_busy_feed(agree: Agree, shared_data: Path, tmp_path: Path) -> None:
    """Nine thousand quotes a minute: the heaviest minutes there are."""
    file = shared_data / "market/ticks/hftbacktest_spot_btcusdt_20240809.gz"
    agreement = agree(log_of([file], tmp_path))
    agreement.check()
    assert agreement.rows["1m"] >= 5


@pytest.mark.slow
def test_oracle_prints_alone_with_holes(agree: Agree, shared_data: Path, tmp_path: Path) -> None:
    """Nine hours of prints with 37 holes: no quotes, so volatility is that of the prints."""
    files = sorted((shared_data / "market/ticks/ska_xrpusdt_20260328").iterdir())
    agreement = agree(log_of(files, tmp_path, tail_s=90))
    agreement.check()
    assert agreement.known["1m rv_m_1"] > 500
    assert known(agreement, "z_vol_m_1", "q_vol_m_1", "z_cvd_delta_m_5", "z_cvd_slope_m_5")
    assert not known(agreement, "mid_close")
    assert agreement.rows["15m"] > 30
    assert agreement.rows["1h"] == 9


@pytest.mark.slow
def test_oracle_sparse_prints(agree: Agree, shared_data: Path, tmp_path: Path) -> None:
    """Sixty hours in which every third minute is empty, which is quiet, not missing."""
    feather = pytest.importorskip("pyarrow.feather")
    source = shared_data / "market/ticks/freqtrade_XRP_ETH-trades.feather"
    table = feather.read_table(str(source)).select(["timestamp", "id", "side", "price", "amount"])
    file = tmp_path / "XRP_ETH-trades.csv"
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    body = "".join(",".join(map(str, row)) + "\n" for row in rows)
    file.write_text(",".join(table.column_names) + "\n" + body)
    agreement = agree(log_of([file], tmp_path, max_silence_s=3600))
    agreement.check()
    assert agreement.reasons["quiet"] > 1000
    assert agreement.rows["1m"] > 3500
    assert agreement.rows["15m"] > 230
    assert agreement.known["15m b_mean_vol"] > 30
    assert agreement.known["1m extras clamp"] > 1000
