"""What is asked of the venue, and what of its answers is believed."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.backfill import (
    BAD_NUMBER,
    BOOTSTRAP,
    ITEMS_PER_WEIGHT,
    KEPT_MINUTES,
    NOT_A_CANDLE,
    OFF_LATTICE,
    PRICES_AT_ODDS,
    REPAIR,
    REQUEST_WEIGHT,
    SETTLE_MS,
    TWICE,
    UNKNOWN_COIN,
    WRONG_COIN,
    Ask,
    Built,
    Candle,
    Coin,
    Divergence,
    Gap,
    Run,
    closed_before,
    differences,
    kept_after,
    labels_between,
    missed,
    own_minutes,
    parse_candles,
    requests_for,
)
from operators.feed import FeedReader, FeedState
from operators.records import Boundary

DATA = Path(__file__).parents[3] / "shared" / "data" / "hyperliquid"
MINUTE = 60_000
T = 1_788_490_020_000
REAL = orjson.loads(  # as the venue sent it, 2026-09-03
    '{"t":1788490020000,"T":1788490079999,"s":"BTC","i":"1m","o":"80640.0","c":"80640.0",'
    '"h":"80641.0","l":"80639.0","v":"2.20493","n":61}'
)
EVERY = range(1 << 60)


def answer(*entries: Any) -> bytes:
    """An answer of the venue."""
    return orjson.dumps(list(entries))


def test_a_candle_is_named_by_its_close() -> None:
    """The venue names it by its open."""
    found = parse_candles(answer(REAL), "BTC", EVERY)
    assert found.candles == [Candle(T + MINUTE, 80640.0, 80641.0, 80639.0, 80640.0, 2.20493, 61)]
    assert not found.rejected


def test_the_dust_of_floats_goes() -> None:
    """Volumes come with binary dust; what is stored is what was meant."""
    (candle,) = parse_candles(answer({**REAL, "v": "3495670.8399999999"}), "BTC", EVERY).candles
    assert candle.volume_base == 3495670.84


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"o": None}, NOT_A_CANDLE),
        ({"n": "many"}, NOT_A_CANDLE),
        ({"s": "ETH"}, WRONG_COIN),
        ({"i": "5m"}, WRONG_COIN),
        ({"t": T + 1}, OFF_LATTICE),
        ({"o": "0.0"}, BAD_NUMBER),
        ({"h": "inf"}, BAD_NUMBER),
        ({"v": "nan"}, BAD_NUMBER),
        ({"v": "-1"}, BAD_NUMBER),
        ({"n": -1}, BAD_NUMBER),
        ({"l": "80640.5"}, PRICES_AT_ODDS),
        ({"h": "80639.5"}, PRICES_AT_ODDS),
    ],
)
def test_a_bad_entry_costs_itself(wrong: dict[str, Any], reason: str) -> None:
    """The others stand, and the reason is counted."""
    after = {**REAL, "t": T + MINUTE, "T": T + 2 * MINUTE - 1}
    found = parse_candles(answer({**REAL, **wrong}, after), "BTC", EVERY)
    assert [candle.label_ms for candle in found.candles] == [T + 2 * MINUTE]
    assert found.rejected == {reason: 1}


def test_of_two_candles_of_a_minute_none_is_believed() -> None:
    """Nothing says which is right."""
    found = parse_candles(answer(REAL, {**REAL, "n": 60}, [1, 2], 3), "BTC", EVERY)
    assert found.candles == []
    assert found.rejected == {TWICE: 1, NOT_A_CANDLE: 2}


def test_an_unknown_coin_is_null_and_other_answers_are_faults() -> None:
    """As the venue says it."""
    assert parse_candles(b"null", "NOPE", EVERY).rejected == {UNKNOWN_COIN: 1}
    for text in (b"{}", b"[1", b'"x"', b"7"):
        with pytest.raises(ValueError, match="expected a list of candles"):
            parse_candles(text, "BTC", EVERY)


def test_minutes_nobody_asked_for_are_passed_over() -> None:
    """The running minute among them."""
    assert parse_candles(answer(REAL), "BTC", {T}).candles == []


def test_a_recorded_answer_is_read() -> None:
    """The official client's own recording has the venue's order of members; it is hourly."""
    path = DATA / "rest" / "python_sdk_cassettes_2023-07-17.jsonl"
    if not path.exists():
        pytest.skip("needs the shared data")
    cassettes = map(json.loads, path.read_text().splitlines())
    (rows,) = [c["response"] for c in cassettes if c["request"]["type"] == "candleSnapshot"]
    minutes = [{**row, "i": "1m"} for row in rows]
    found = parse_candles(orjson.dumps(minutes), "kPEPE", EVERY)
    assert len(found.candles) == len(rows)
    assert not found.rejected
    assert found.candles[0].volume_base == 520665683.0


# --- what is asked -----------------------------------------------------------------------------


@given(st.sets(st.integers(1, 20_000), min_size=1, max_size=40))
def test_requests_cover_the_minutes_and_are_worth_it(minutes: set[int]) -> None:
    """Every minute is in exactly one request; none is longer than the venue's answer; none could
    be cut where that were cheaper."""
    labels = sorted(n * MINUTE for n in minutes)
    runs = requests_for(labels)
    for label in labels:
        assert sum(run.first_ms <= label <= run.last_ms for run in runs) == 1
    for run in runs:
        assert (run.last_ms - run.first_ms) // MINUTE < KEPT_MINUTES
        inside = [label for label in labels if run.first_ms <= label <= run.last_ms]
        assert run == Run(inside[0], inside[-1])
        steps = [(b - a) // MINUTE for a, b in itertools.pairwise(inside)]
        assert max(steps, default=0) <= REQUEST_WEIGHT * ITEMS_PER_WEIGHT


def test_only_closed_minutes_are_believed() -> None:
    """And only as many as the venue keeps."""
    assert closed_before(T + SETTLE_MS - 1) == T - MINUTE
    assert closed_before(T + SETTLE_MS) == T
    assert len(labels_between(kept_after(T), closed_before(T))) == KEPT_MINUTES


def test_the_same_ask_is_the_same_job() -> None:
    """Whatever the order of its assets; another kind, asset or minute is another."""
    btc, eth = Coin(0, "BTC"), Coin(1, "ETH")
    labels = labels_between(0, 5 * MINUTE)
    ask = Ask(BOOTSTRAP, {btc: labels, eth: labels})
    assert ask.job_id == Ask(BOOTSTRAP, {eth: list(labels), btc: labels}).job_id
    others = [
        Ask(REPAIR, ask.labels),
        Ask(BOOTSTRAP, {btc: labels}),
        Ask(BOOTSTRAP, {btc: labels, eth: labels[1:]}),
        Ask(BOOTSTRAP, {btc: labels, eth: [labels[0], *labels[2:]]}),
    ]
    assert len({ask.job_id, *(other.job_id for other in others)}) == 5
    assert (ask.minutes, ask.span) == (10, Run(MINUTE, 5 * MINUTE))


# --- candles beside rows ----------------------------------------------------------------------

CANDLE = Candle(T, 100.0, 102.0, 99.0, 101.0, 10.0, 4)
BUILT = Built(T, 100.0, 102.0, 99.0, 101.0, 1005.0, 4)


def test_a_minute_that_agrees_does_not_differ() -> None:
    """Also within the dust of the venue, and where nothing traded: the candle repeats its last
    close, the row has the prices of the book."""
    assert differences(BUILT, CANDLE) == ()
    assert differences(replace(BUILT, close=101.0 * (1 + 5e-10)), CANDLE) == ()
    quiet = Built(T, 98.0, 98.5, 98.0, 98.5, 0.0, 0)
    assert differences(quiet, Candle(T, 101.0, 101.0, 101.0, 101.0, 0.0, 0)) == ()


@pytest.mark.parametrize(
    ("built", "columns"),
    [
        (replace(BUILT, trades=3), ("trade_count",)),
        (replace(BUILT, volume_quote=989.9), ("volume",)),
        (replace(BUILT, volume_quote=1020.1), ("volume",)),
        (replace(BUILT, open=100.0 * (1 + 2e-9)), ("open",)),
        (replace(BUILT, high=102.5, low=99.5, close=None), ("high", "low", "close")),
        (Built(T, 98.0, 98.0, 98.0, 98.0, 0.0, 0), ("trade_count", "volume")),
    ],
)
def test_a_minute_that_differs_says_where(built: Built, columns: tuple[str, ...]) -> None:
    """Column by column, a little beyond the tolerance."""
    assert differences(built, CANDLE) == columns


def test_only_whole_minutes_are_compared() -> None:
    """A gap or late prints explain a difference; without trades there is nothing to compare."""
    rows = {
        T: BUILT,
        T + 1: replace(BUILT, trades=1, reasons=("gap", "resync")),
        T + 2: replace(BUILT, trades=1, reasons=("late",)),
        T + 3: replace(BUILT, trades=None, volume_quote=None),
        T + 4: replace(BUILT, trades=5, reasons=("oi_stale",)),
    }
    found = Divergence()
    found.add("BTC", rows, dict.fromkeys((*rows, T + 5), CANDLE))
    assert (found.compared, found.divergent, found.columns) == (2, 1, {"trade_count": 1})
    assert found.first == [("BTC", T + 4, ("trade_count",))]


# --- gaps ------------------------------------------------------------------------------------


@given(st.integers(0, 200_000), st.integers(0, 200_000))
def test_a_gap_touches_the_minutes_that_the_feed_makes_stale(offset: int, length: int) -> None:
    """The ledger and the flow agree on what a gap touches, to the millisecond."""
    start, end = T + offset, T + offset + length
    reader = FeedReader(
        FeedState(), lateness_ms=1500, grace_ms=3000, arrival_jump_gap_ms=10_000_000
    )
    stamp = b'%d000000 {"channel":"%b","data":%b}'
    roster = {"from_ms": T, "dexes": [""], "assets": [{"uid": 0, "coin": "A", "channels": []}]}
    gap = {"start_ms": start, "end_ms": end, "cause": "disconnect"}
    items = reader.read(
        [
            stamp % (T - 2 * MINUTE, b"alpha.roster", orjson.dumps(roster)),
            stamp % (end, b"alpha.gap", orjson.dumps(gap)),
            stamp % (T + 600_000, b"alpha.clock", b"{}"),
        ]
    )
    stale = {
        item.phase.minute_ms
        for _, item in items
        if isinstance(item, Boundary) and item.phase.final and item.feed.gap == "disconnect"
    }
    touched = set(Gap(start, end, "disconnect", "ticks").labels())
    # A minute that closed while the gap went unmentioned was never told of it.
    assert touched - stale <= {label for label in touched if label + 3000 <= end}
    assert stale <= touched


@given(
    st.lists(
        st.tuples(st.integers(0, 600_000), st.integers(0, 300_000), st.sampled_from("ab")),
        max_size=8,
    )
)
def test_a_minute_counts_for_one_gap(holes: list[tuple[int, int, str]]) -> None:
    """Nothing is counted twice and nothing is left out, feed by feed."""
    gaps = {Gap(start, start + length, "disconnect", feed) for start, length, feed in holes}
    own = own_minutes([*gaps, Gap(5, None, "disconnect", "a")])
    for feed in "ab":
        counted = [label for gap, labels in own.items() if gap.feed == feed for label in labels]
        assert len(counted) == len(set(counted))
        assert set(counted) == {x for gap in gaps if gap.feed == feed for x in gap.labels()}


def test_nothing_is_known_without_a_candle() -> None:
    """Such minutes are counted; of a minute without a row all is missing."""
    found = missed([T, T + MINUTE], {T + MINUTE: BUILT}, {T: CANDLE})
    assert (found.minutes, found.minutes_without_candle, found.minutes_without_row) == (2, 1, 1)
    assert (found.trades_missing, found.trades_venue) == (4, 4)
    assert found.volume_missing_base_min == found.volume_missing_base_max == 10.0
    assert math.isclose(found.volume_missing_quote, 10.0 * 100.5)
    assert (found.low_missed, found.high_missed) == (99.0, 102.0)


def test_prints_beyond_the_candle_are_no_loss() -> None:
    """If the venue counts otherwise, that is shown beside, not taken off."""
    found = missed([T], {T: replace(BUILT, trades=6)}, {T: CANDLE})
    assert (found.trades_missing, found.trades_surplus) == (0, 2)
    assert found.volume_missing_base_max == 0.0
    assert found.low_missed is None
