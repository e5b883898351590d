"""A bars file as the flow's input: what an asset has in some minutes comes as one item."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflows.connectors.bars_source import BarsCount, BarsSource
from operators.records import BarItem, BarItems

MINUTE_MS = 60_000
START_MS = 1_788_480_000_000  # a full hour
HEADER = "symbol,close_ms,open,high,low,close,volume_quote\n"


def batches(path: Path, chunk: int) -> list[list[tuple[str, BarItems]]]:
    """Return what is read in chunks of so many minutes."""
    source = BarsSource(path, BarsCount(), chunk)
    (name,) = source.list_parts()
    part = source.build_part("bars", name, None)
    found = []
    while True:
        try:
            found.append(part.next_batch())
        except StopIteration:
            return found


def bars_file(tmp_path: Path) -> Path:
    """Return a file of twenty minutes in which ETH begins in the eighteenth."""
    path, lines = tmp_path / "bars.csv", [HEADER]
    for minute in range(1, 21):
        for symbol in ("BTC", "ETH") if minute >= 18 else ("BTC",):
            lines.append(f"{symbol},{START_MS + minute * MINUTE_MS},10,12,9,11,5\n")
    path.write_text("".join(lines))
    return path


def test_an_asset_has_one_item_a_chunk(tmp_path: Path) -> None:
    """Its closings in order, with the final one where a longer bar ends."""
    (batch,) = batches(bars_file(tmp_path), 20)
    assert [key for key, _ in batch] == ["0", "1"]
    closings = [
        [(each.phase.minute_ms // MINUTE_MS % 60, each.phase.final) for each in came.items]
        for _, came in batch
    ]
    one = [(minute, False) for minute in range(1, 21)]
    assert closings == [[*one[:15], (15, True), *one[15:]], one[17:]]


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_chunks_cut_only_between_minutes(tmp_path: Path, chunk: int) -> None:
    """Whatever their length, each asset gets the same closings with the same bars."""

    def by_asset(chunk: int) -> dict[str, list[BarItem]]:
        found: dict[str, list[BarItem]] = {}
        for key, came in [pair for batch in batches(path, chunk) for pair in batch]:
            found.setdefault(key, []).extend(came.items)
        return found

    path = bars_file(tmp_path)
    assert by_asset(chunk) == by_asset(20)
