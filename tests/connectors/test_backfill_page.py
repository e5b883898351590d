"""The page on backfills: its query runs, and it explains every word that a job can say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dataflows import backfill
from dataflows.connectors import candles
from dataflows.connectors.migrate import open_session
from operators.lattice import iso

if TYPE_CHECKING:
    from conftest import Place

PAGE = (Path(__file__).parents[2] / "docs" / "backfill.md").read_text()
T = 1_790_000_100_000


def test_the_page_lists_every_word() -> None:
    """Each status and each reason has its line."""
    reasons = ("NOT_A_CANDLE", "WRONG_COIN", "OFF_LATTICE", "BAD_NUMBER", "PRICES_AT_ODDS")
    words = [getattr(backfill, name) for name in (*reasons, "TWICE", "UNKNOWN_COIN")]
    words += [candles.REFUSED, candles.DONE, candles.PARTIAL, candles.FAILED, candles.INTERRUPTED]
    assert [word for word in words if f"| `{word}` |" not in PAGE] == []


@pytest.mark.service
def test_one_bar_a_minute_has_one_source(place: Place) -> None:
    """A row that is to be believed wins, a candle stands in, a stale row does not."""
    (text,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    with open_session(place.dsn, place.schema) as connection:
        connection.execute(
            "create table rows_of_the_test partition of features_snapshot_1m default"
        )
        row = (
            "insert into features_snapshot (asset_uid, symbol, tf, exchange_ts, revision, close,"
            " trade_count_m_1, dq_status, source, extras_json)"
            " values (0, 'BTC', '1m', %s, 0, %s, 5, %s, 'ws', '{}')"
        )
        connection.execute(row, (iso(T), 1.0, "ok"))
        connection.execute(row, (iso(T + 60_000), 2.0, "stale"))
        for minute in range(3):
            connection.execute(
                "insert into candle_bar values (0, %s, now(), 9, 9, 9, 9, 1, 7, 'BTC', '1m',"
                " 'backfill', 'x')",
                (iso(T + minute * 60_000),),
            )
        found = connection.execute(text.encode()).fetchall()
    assert [row[1:] for row in found] == [
        ("ws", 1.0, 5),
        ("backfill", 9.0, 7),
        ("backfill", 9.0, 7),
    ]
