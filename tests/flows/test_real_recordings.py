"""Rows of real recordings equal an independent, naive computation from the source files.

The oracle reads the CSV text itself, keeps every number exact (Fraction), and walks each minute
quote by quote; it shares nothing with the flow but the definitions of the columns.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from dataflows.importing import TickFile, import_ticks
from dataflows.replay import product_path, replay
from packs.loader import load_packs

pytestmark = [pytest.mark.engine, pytest.mark.slow]

COINS = ("BTC", "ETH", "SOL", "WLFI")
MINUTE = 60_000
SEAL, FINAL = 1500, 3000


@dataclass(frozen=True)
class Print:
    """A trade of the source file."""

    arrival_ms: int
    time_ms: int
    px: str
    sz: str
    buy: bool
    tid: str


@dataclass(frozen=True)
class Top:
    """A best bid and ask of the source file; None where a row of the pair is missing."""

    arrival_ms: int
    time_ms: int
    bid: str | None
    ask: str | None


def cells(path: Path) -> Iterator[dict[str, str]]:
    """Read a compressed CSV."""
    with gzip.open(path, "rt", newline="") as text:
        yield from csv.DictReader(text)


def arrival(row: dict[str, str]) -> int:
    """Return the time of receipt in whole ms."""
    return int(Fraction(row["timestamp"]) * 1000)


def prints_of(path: Path) -> list[Print]:
    """Read a trades file."""
    return [
        Print(
            arrival(row),
            int(row["exchange_timestamp"]),
            row["price"],
            row["size"],
            row["side"] == "buy",
            row["trade_id"],
        )
        for row in cells(path)
    ]


def tops_of(path: Path) -> list[Top]:
    """Read a prices file: consecutive rows of equal times, one a side, are one frame."""
    frames: list[tuple[dict[str, str], dict[str, str]]] = []
    for row in cells(path):
        if frames:
            head, sides = frames[-1]
            same = all(head[name] == row[name] for name in ("timestamp", "exchange_timestamp"))
            if same and row["side"] not in sides:
                sides[row["side"]] = row["price"]
                continue
        frames.append((row, {row["side"]: row["price"]}))
    return [
        Top(arrival(head), int(head["exchange_timestamp"]), sides.get("bid"), sides.get("ask"))
        for head, sides in frames
    ]


def naive_minute(label: int, prints: list[Print], tops: list[Top]) -> dict[str, Any]:
    """Recompute one minute from everything that had arrived before it was final."""
    start = label - MINUTE
    known: dict[tuple[int, str], Print] = {}
    for p in prints:
        if start <= p.time_ms < label and p.arrival_ms < label + FINAL:
            known.setdefault((p.time_ms, p.tid), p)
    trades = sorted(known.values(), key=lambda p: p.time_ms)
    quotes = sorted(
        (t for t in tops if t.time_ms < label and t.arrival_ms < label + FINAL),
        key=lambda t: t.time_ms,
    )
    weight = cost = Fraction(0)
    for quote, after in zip(quotes, [*quotes[1:], None], strict=True):
        begin = max(quote.time_ms, start)
        end = label if after is None else max(after.time_ms, start)
        if end > begin and quote.bid is not None and quote.ask is not None:
            weight += end - begin
            cost += (Fraction(quote.ask) - Fraction(quote.bid)) * (end - begin)
    last = quotes[-1] if quotes else None
    notional = [(Fraction(p.px) * Fraction(p.sz), p.buy) for p in trades]
    prices = [Fraction(p.px) for p in trades]
    return {
        "open": prices[0] if prices else None,
        "high": max(prices, default=None),
        "low": min(prices, default=None),
        "close": prices[-1] if prices else None,
        "v_total_m_1": sum((n for n, _ in notional), Fraction(0)),
        "v_buy_m_1": sum((n for n, buy in notional if buy), Fraction(0)),
        "v_sell_m_1": sum((n for n, buy in notional if not buy), Fraction(0)),
        "trade_count_m_1": len(trades),
        "spread_mean_m_1": cost / weight if weight else None,
        "mid_close": (Fraction(last.bid) + Fraction(last.ask)) / 2
        if last is not None and last.bid and last.ask
        else None,
    }


def near(found: float | None, exact: Fraction | int | None) -> bool:
    """Compare a stored double with an exact number: equal but for the rounding of its inputs."""
    if found is None or exact is None:
        return found is None and exact is None
    return abs(Fraction(found) - exact) <= abs(exact) * Fraction(1, 10**11)


def replay_files(files: list[Path], tmp_path: Path) -> tuple[dict[tuple[str, int], Any], Any]:
    """Import and replay; return the newest 1m row per symbol and minute, and the import report."""
    log = tmp_path / "log.zst"
    report = import_ticks([TickFile(path) for path in files], log)
    replay(log, tmp_path / "out", load_packs())
    rows: dict[tuple[str, int], Any] = {}
    for line in product_path(tmp_path / "out", "rows").read_bytes().splitlines():
        row = json.loads(line)
        if row["tf"] != "1m":
            continue
        label = row["exchange_ts"]
        known = rows.get((row["symbol"], label))
        assert known is None or known["revision"] < row["revision"]
        rows[(row["symbol"], label)] = row
    return rows, report


def label_ms(row: dict[str, Any]) -> int:
    """Return a row's label."""
    return int(row["ingest_lag_ms"] * -1 + _epoch_ms(row["ingest_ts"]))


def _epoch_ms(text: str) -> int:
    whole, _, millis = text.rstrip("Z").partition(".")
    days, clock = whole.split("T")
    year, month, day = map(int, days.split("-"))
    hours, minutes, seconds = map(int, clock.split(":"))
    # Days since 1970 by the civil-calendar formula, so that the oracle needs no time library.
    year -= month <= 2
    era_days = 365 * year + year // 4 - year // 100 + year // 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    epoch_day = era_days + day_of_year - 719_468
    total = ((epoch_day * 24 + hours) * 60 + minutes) * 60 + seconds
    return total * 1000 + int((millis or "0").ljust(3, "0"))


def test_oracle_four_coins_with_reconnects_equal_the_naive_computation(
    shared_data: Path, tmp_path: Path
) -> None:
    """Two real outages, 30-trade replays and real duplicates: every column, every minute."""
    folder = shared_data / "hyperliquid" / "recordings"
    files = sorted(folder.glob("djienne_20250903_*.csv.gz"))
    assert len(files) == 12
    rows, report = replay_files(files, tmp_path)
    checked = duplicates = repeated = 0
    for coin in COINS:
        prints = prints_of(folder / f"djienne_20250903_trades_{coin}.csv.gz")
        tops = tops_of(folder / f"djienne_20250903_prices_{coin}.csv.gz")
        mine = [row for (symbol, _), row in rows.items() if symbol == coin]
        first = min(label_ms(row) for row in mine)
        for row in mine:
            label = label_ms(row)
            expected = naive_minute(label, prints, tops)
            fallback = expected["trade_count_m_1"] == 0
            for name, exact in expected.items():
                if not (fallback and name in ("open", "high", "low", "close")):
                    assert near(row[name], exact), (coin, row["exchange_ts"], name)
                    checked += 1
            overlaps = label == first or any(
                start < label and end > label - MINUTE for start, end in report.holes
            )
            assert ("gap" in row["dq_reasons"]) == overlaps
            assert (row["dq_status"] == "stale") == overlaps
            duplicates += row["duplicate_ticks"]
        repeated += len(prints) - len({(p.time_ms, p.tid) for p in prints})
    assert len(report.holes) == 2
    assert len(rows) == 36
    assert checked == 36 * 10 - 4 * sum(row["trade_count_m_1"] == 0 for row in rows.values())
    assert duplicates == repeated


def test_oracle_a_week_of_pieces_equals_the_naive_computation(
    shared_data: Path, tmp_path: Path
) -> None:
    """Seven pieces of one coin, days apart: the days between are stale rows, not missing ones."""
    folder = shared_data / "hyperliquid" / "recordings"
    files = [folder / f"djienne_20250901-07_{kind}_BTC.csv.gz" for kind in ("trades", "prices")]
    rows, report = replay_files(files, tmp_path)
    prints, tops = prints_of(files[0]), tops_of(files[1])
    labels = sorted(label_ms(row) for row in rows.values())
    assert labels == list(range(labels[0], labels[-1] + 1, MINUTE))
    assert len(report.holes) == 7
    with_data = 0
    busy = {(p.time_ms // MINUTE + k) * MINUTE for p in prints for k in range(-1, 4)}
    for row in rows.values():
        label = label_ms(row)
        overlaps = label == labels[0] or any(
            start < label and end > label - MINUTE for start, end in report.holes
        )
        assert ("gap" in row["dq_reasons"]) == overlaps, row["exchange_ts"]
        if label not in busy:
            assert row["v_total_m_1"] == 0.0
            continue
        with_data += 1
        expected = naive_minute(label, prints, tops)
        for name in ("v_total_m_1", "v_buy_m_1", "trade_count_m_1", "spread_mean_m_1"):
            assert near(row[name], expected[name]), (row["exchange_ts"], name)
    assert with_data > 70


def test_a_foreign_raw_recording_is_a_tick_log_as_it_is(shared_data: Path, tmp_path: Path) -> None:
    """The backtester's own file, gzip and without a roster: every line is read.

    It is 26 s long and lies inside one minute, so it gives no row; a heartbeat five minutes later
    closes that minute, and its prints are those of the file.
    """
    raw = shared_data / "hyperliquid/recordings/hftbacktest_BTC_20250126_raw_frames.txt.gz"
    assert replay(raw, tmp_path / "out", load_packs()).dropped == {}
    lines = gzip.decompress(raw.read_bytes()).splitlines()
    tids: set[tuple[int, int]] = set()
    first_ms = int(lines[0].split(b" ")[0]) // 1_000_000
    start = first_ms // MINUTE * MINUTE
    for line in lines:
        frame = json.loads(line.split(b" ", 1)[1])
        if frame["channel"] == "trades":
            tids |= {(t["time"], t["tid"]) for t in frame["data"] if t["time"] >= start}
    later = int(lines[-1].split(b" ")[0]) + 300 * 10**9
    log = tmp_path / "log"
    log.write_bytes(b"\n".join(lines) + b'\n%d {"channel":"alpha.clock"}\n' % later)
    replay(log, tmp_path / "out", load_packs())
    first = json.loads(product_path(tmp_path / "out", "rows").read_text().splitlines()[0])
    assert first["trade_count_m_1"] == len(tids) > 0
    assert 1.0 <= first["spread_mean_m_1"] < 1.1  # one tick, but for a moment
    assert first["dq_reasons"] == ["gap", "resync", "book_stale", "book_missing"]
