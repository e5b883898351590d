"""A hole is punched into a recording: what the ledger finds is what was taken out.

The oracle reads the raw frames with nothing of ours but their shape, keeps every number exact, and
subtracts the punched recording from the whole one.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.backfill import (
    Built,
    Candle,
    Divergence,
    Gap,
    Missed,
    missed,
    parse_candles,
)
from fixtures.exchange import Candles
from fixtures.market import FrameOptions, Scenario, default_assets, lines
from operators.feed import FeedReader, FeedState
from operators.loop import Loop
from operators.records import MarketPhase
from packs.loader import load_packs

SHARED = Path(__file__).parents[3] / "shared" / "data" / "hyperliquid" / "recordings"
MINUTE = 60_000
START = 1_790_000_100_000
MINUTES = 7
ASSETS = (
    *default_assets(2),
    replace(default_assets(11)[10], uid=2),
)  # two majors and one that hardly trades
FRAMES = FrameOptions(quote_ms=(9000, 9000, 9000, 9000), book=False, ctx_ms=30_000)
SCENARIO = Scenario(5, START, MINUTES, ASSETS, (), FRAMES)
END = START + MINUTES * MINUTE
PACKS = load_packs()
LEVELS = PACKS.features.lattice


class Print(NamedTuple):
    """A trade, exactly."""

    time_ms: int
    tid: int
    px: Fraction
    sz: Fraction


class Recording(NamedTuple):
    """A log without holes and what is in it."""

    log: list[bytes]
    prints: dict[str, dict[int, set[Print]]]
    candles: dict[str, dict[int, Candle]]


def prints_of(log: Iterable[bytes]) -> dict[str, dict[int, set[Print]]]:
    """Distinct trades by coin and by the close of their minute."""
    found: dict[str, dict[int, set[Print]]] = {}
    for line in log:
        frame = json.loads(line.partition(b" ")[2])
        for trade in frame["data"] if frame["channel"] == "trades" else ():
            label = trade["time"] // MINUTE * MINUTE + MINUTE
            one = Print(trade["time"], trade["tid"], Fraction(trade["px"]), Fraction(trade["sz"]))
            found.setdefault(trade["coin"], {}).setdefault(label, set()).add(one)
    return found


def candles_of(log: Iterable[bytes], coin: str, end_ms: int) -> dict[int, Candle]:
    """The local exchange's candles of what a log has, through its answer."""
    seen, kept = set(), Candles()
    for line in log:
        frame = orjson.loads(line.partition(b" ")[2])
        for trade in frame["data"] if frame["channel"] == "trades" else ():
            if trade["coin"] == coin and (trade["time"], trade["tid"]) not in seen:
                seen.add((trade["time"], trade["tid"]))
                kept.add(trade["time"], Decimal(trade["px"]), Decimal(trade["sz"]))
    kept.settle(end_ms)
    body = orjson.dumps(kept.rows(coin, "1m", 0, end_ms))
    found = parse_candles(body, coin, range(end_ms + 1))
    assert not found.rejected
    return {candle.label_ms: candle for candle in found.candles}


def built_of(log: Iterable[bytes]) -> dict[str, dict[int, Built]]:
    """The minutes that the product builds of a log, by coin."""
    reader = FeedReader(
        FeedState(),
        lateness_ms=LEVELS.lateness_ms,
        grace_ms=LEVELS.grace_ms,
        arrival_jump_gap_ms=LEVELS.arrival_jump_gap_ms,
    )
    found: dict[str, dict[int, Built]] = {}
    for phase in Loop(PACKS, "test").ticks(reader.read(log)):
        for row in phase.rows if isinstance(phase, MarketPhase) else ():
            if row.tf == "1m" and row.asset_uid >= 0:
                c, label = row.columns, row.exchange_ts_ms
                prices = (c["open"], c["high"], c["low"], c["close"])
                traded = (c["v_total_m_1"], c["trade_count_m_1"])
                built = Built(label, *prices, *traded, tuple(c["dq_reasons"]))
                found.setdefault(row.symbol, {})[label] = built
    return found


def punched(log: list[bytes], start_ms: int, end_ms: int) -> list[bytes]:
    """The log without what arrived in [start, end), with the recorder's marks of it."""
    mark = '{}000000 {{"channel":"alpha.gap","data":{{"start_ms":{},"end_ms":{},"cause":"cut"}}}}'
    low, high = start_ms * 1_000_000, end_ms * 1_000_000
    stamps = [(int(line.partition(b" ")[0]), line) for line in log]
    return [
        *(line for stamp, line in stamps if stamp < low),
        mark.format(start_ms, start_ms, "null").encode(),
        mark.format(end_ms, start_ms, end_ms).encode(),
        *(line for stamp, line in stamps if stamp >= high),
    ]


def assert_is_difference(
    found: Missed, labels: Iterable[int], whole: dict[int, set[Print]], left: dict[int, set[Print]]
) -> None:
    """Trades and extremes are equal; the volume is in its bounds, which are as narrow as the
    prices of what was left."""
    labels = list(labels)
    full = [whole.get(label, set()) for label in labels]
    kept = [left.get(label, set()) for label in labels]
    assert all(b <= a for a, b in zip(full, kept, strict=True))
    gone = [a - b for a, b in zip(full, kept, strict=True)]
    assert found.trades_venue == sum(map(len, full))
    assert found.trades_missing == sum(map(len, gone))
    assert found.trades_surplus == 0
    volume = sum(p.sz for prints in gone for p in prints)
    dust = Fraction(1, 10**9) * (1 + sum(p.sz for prints in full for p in prints))
    least, most = (
        Fraction(found.volume_missing_base_min),
        Fraction(found.volume_missing_base_max),
    )
    assert least - dust <= volume <= most + dust
    width = Fraction(0)
    for prints in kept:
        if prints:
            quote = sum(p.px * p.sz for p in prints)
            width += quote / min(p.px for p in prints) - quote / max(p.px for p in prints)
    assert most - least <= width + dust
    lows = [
        min(p.px for p in a)
        for a, b in zip(full, kept, strict=True)
        if a and (not b or min(p.px for p in a) < min(p.px for p in b))
    ]
    highs = [
        max(p.px for p in a)
        for a, b in zip(full, kept, strict=True)
        if a and (not b or max(p.px for p in a) > max(p.px for p in b))
    ]
    assert found.low_missed == (float(min(lows)) if lows else None)
    assert found.high_missed == (float(max(highs)) if highs else None)


@cache
def recording() -> Recording:
    """The recording, its trades, and the venue's candles of it."""
    log = [line.rstrip(b"\n") for line in lines(SCENARIO)]
    candles = {asset.coin: candles_of(log, asset.coin, END) for asset in ASSETS}
    return Recording(log, prints_of(log), candles)


def test_whole_minutes_agree_with_the_candles() -> None:
    """A recording without holes differs from the venue nowhere."""
    found = Divergence()
    for coin, built in built_of(recording().log).items():
        found.add(coin, built, recording().candles[coin])
    assert found.compared >= 2 * (MINUTES - 1)
    assert found.divergent == 0, found.first


@settings(max_examples=25)
@given(st.integers(MINUTE, (MINUTES - 2) * MINUTE), st.integers(0, 3 * MINUTE))
def test_a_hole_costs_what_was_taken_out(offset_ms: int, length_ms: int) -> None:
    """For any hole that leaves the first and the last minute alone."""
    start = START + offset_ms
    end = min(start + length_ms, END - MINUTE)
    log = punched(recording().log, start, end)
    left, built = prints_of(log), built_of(log)
    labels = Gap(start, end, "cut", "ticks").labels()
    found = Divergence()
    for coin, whole in recording().prints.items():
        candles = recording().candles[coin]
        lacking = missed(labels, built[coin], candles)
        assert_is_difference(lacking, labels, whole, left.get(coin, {}))
        outside = {label: row for label, row in built[coin].items() if label not in labels}
        found.add(coin, outside, candles)
    # What was on its way when the hole began belongs to a minute that nothing marks: those prints
    # are no loss of the gap but differences of the minute before it.
    before = {label for _, label, _ in found.first}
    assert before <= {labels[0] - MINUTE} if labels else not before


# --- a real recording with real holes ----------------------------------------------------------


def real_prints(coin: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of the source file with the time of receipt, ms."""
    with gzip.open(SHARED / f"djienne_20250903_trades_{coin}.csv.gz", "rt", newline="") as text:
        for row in csv.DictReader(text):
            yield round(float(row["timestamp"]) * 1000), row


def real_log(coin: str) -> list[bytes]:
    """The trades of a coin as frames; the holes are found by the silence of the recorder."""
    log = []
    for number, (arrival_ms, row) in enumerate(real_prints(coin)):
        trade = {"coin": coin, "side": "B" if row["side"] == "buy" else "A", "px": row["price"]}
        trade |= {"sz": row["size"], "time": int(row["exchange_timestamp"])}
        trade |= {"tid": int(row["trade_id"])}
        frame = orjson.dumps({"channel": "trades", "data": [trade]})
        log.append(b"%d %b" % (arrival_ms * 1_000_000 + number % 1000, frame))
    last_ms = max(int(line.partition(b" ")[0]) for line in log) // 1_000_000
    log.append(b'%d000000 {"channel":"alpha.clock","data":{}}' % (last_ms + 2 * MINUTE))
    return log


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared data")
def test_a_real_recording_with_a_hole_of_ours() -> None:
    """Real prints, real duplicates and replays: BTC of 2025-09-03 with half a minute cut out of
    its longest stretch. The candles are those of the recording itself, which is all there is."""
    log = real_log("BTC")
    times = sorted({int(line.partition(b" ")[0]) // 1_000_000 for line in log})
    start = next(t for t in times if t % MINUTE > 10_000 and t > times[0] + MINUTE)
    end = start + 30_000
    whole, cut = prints_of(log)["BTC"], punched(log, start, end)
    left, built = prints_of(cut)["BTC"], built_of(cut)["BTC"]
    labels = Gap(start, end, "cut", "ticks").labels()
    candles = candles_of(log, "BTC", times[-1])
    found = missed(labels, built, candles)
    assert found.trades_missing > 0
    assert found.minutes_without_candle == 0
    late = sum(len(left.get(label, ())) - (built[label].trades or 0) for label in labels)
    assert found.trades_missing == late + sum(
        len(whole[label]) - len(left.get(label, ())) for label in labels if label in whole
    )
