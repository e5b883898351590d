"""Names, numbers and company of an asset, and the date, change nothing but themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.lattice import iso
from operators.records import MarketPhase, Row
from packs.loader import Packs
from tests.invariance.conftest import (
    DATED_BY_VENUE,
    DAY_MS,
    FEW,
    MINUTE_MS,
    PONG,
    START_MS,
    Log,
    Message,
    Outcome,
    Table,
    differences,
    first_difference,
    run_with,
    table,
    without,
)

COINS = ("BTC", "ETH", "XRP", "PURR")
RANKED = ("rs_top", "rs_bottom")
# Of the whole feed or the whole market, so that another asset may show in them.
OF_THE_MARKET = ("clock_skew_ms", "is_in_universe", "is_hot", "universe_rev")


# --- a log with other names and numbers ------------------------------------------------------


def with_roster(log: Log, change: Any) -> Log:
    """Return a log with the assets of its rosters changed by a function of the list."""
    return [
        message.saying({**message.data, "assets": change(message.data["assets"])})
        if message.channel == "alpha.roster"
        else message
        for message in log
    ]


def renumbered(log: Log, uids: Mapping[str, int], order: list[int]) -> Log:
    """Return a log whose rosters give each coin another id and list them in another order."""

    def change(assets: list[dict[str, Any]]) -> list[dict[str, Any]]:
        numbered = [{**asset, "uid": uids[asset["coin"]]} for asset in assets]
        return [numbered[n] for n in order]

    return with_roster(log, change)


def renamed(log: Log, names: Mapping[str, str]) -> Log:
    """Return a log in which every coin has another name."""

    def change(message: Message) -> Message:
        data = message.data
        if message.channel == "trades":
            return message.saying([{**entry, "coin": names[entry["coin"]]} for entry in data])
        if message.coin is not None:
            return message.saying({**data, "coin": names[data["coin"]]})
        return message

    found = [change(message) for message in log]
    return with_roster(
        found, lambda assets: [{**asset, "coin": names[asset["coin"]]} for asset in assets]
    )


def unlisted(log: Log, coin: str, *, until_ms: int = 1 << 62) -> Log:
    """Return a log without a coin, up to a label; its frames become answers to pings."""
    found = with_roster(log, lambda assets: [a for a in assets if a["coin"] != coin])
    found = [
        Message(message.stamp_ns, PONG)
        if message.coin == coin and message.arrival_ms < until_ms
        else message
        for message in found
    ]
    if until_ms < 1 << 62:
        whole = next(message for message in log if message.channel == "alpha.roster")
        later = Message(
            until_ms * 1_000_000, whole.saying({**whole.data, "from_ms": until_ms}).frame
        )
        index = next(n for n, message in enumerate(found) if message.arrival_ms >= until_ms)
        found.insert(index, later)
    return found


# --- comparison ------------------------------------------------------------------------------


def aligned(outcome: Outcome, coins: Mapping[int, str], names: Mapping[str, str]) -> Table:
    """Return rows by the coin they are of, and frames with lists put in one order among ties.

    coins : asset_uid to the coin behind it. names : symbol to coin. Asserts that the lists are
    ordered by the rows' scores.
    """
    found: Table = {}
    scores: dict[tuple[str, int], dict[str, float]] = {}
    for output in outcome.outputs:
        if isinstance(output, MarketPhase):
            for row in output.rows:
                by_coin = scores.setdefault((row.tf, row.exchange_ts_ms), {})
                by_coin[names[row.symbol]] = score_of(row)
            for frame in output.frames:
                score = scores[frame.tf, frame.exchange_ts_ms]
                check_order(frame.columns, score, names)
    for key, flat in table(outcome).items():
        if key[0] != "frame":
            found[coins[key[0]], *key[1:]] = {**flat, "symbol": names[flat["symbol"]]}
            continue
        leader, uid = flat["frame.leader"], flat["frame.leader_uid"]
        assert (leader is None) == (uid is None)
        assert uid is None or coins[uid] == names[leader]
        lists = {
            f"frame.{name}": sorted(names[s] for s in flat[f"frame.{name}"]) for name in RANKED
        }
        named = {"frame.leader": leader and names[leader], "frame.leader_uid": None}
        found[key] = {**flat, **lists, **named}
    return found


def score_of(row: Row) -> float:
    """Return a row's relative strength; the name of the column depends on the timeframe."""
    return float(next(v for name, v in row.columns.items() if name.startswith("rs_score_")))


def check_order(
    columns: Mapping[str, Any], score: Mapping[str, float], names: Mapping[str, str]
) -> None:
    """Assert that the strongest come first in `rs_top` and the weakest in `rs_bottom`."""
    top = [score[names[symbol]] for symbol in columns["rs_top"]]
    bottom = [score[names[symbol]] for symbol in columns["rs_bottom"]]
    assert top == sorted(top, reverse=True)
    assert bottom == sorted(bottom)


def told(outcome: Outcome, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the events by coin, without what names and numbers go into."""
    found = []
    for event in outcome.events():
        frame = dict(event["market_frame"])
        for name in RANKED:
            frame[name] = sorted(names[symbol] for symbol in frame[name])
        frame["leader"] = names.get(frame["leader"])
        own = ("event_id", "asset_uid", "debounce_key", "attachments")
        kept = {name: value for name, value in event.items() if name not in own}
        bars = [[names[bar[0]], *bar[1:]] for bar in bars_of(event)]
        told_of = {"symbol": names[event["symbol"]], "market_frame": frame, "bars": bars}
        found.append({**kept, **told_of})
    return sorted(found, key=lambda e: (e["exchange_ts"], e["symbol"], e["tf"], e["subtype"]))


def bars_of(event: Mapping[str, Any]) -> list[list[str]]:
    """Return (symbol, timeframe, label) of the bars that an event refers to."""
    refs = event.get("attachments", {}).get("bar_refs", {})
    return [name.split("/") for tf in sorted(refs) for name in refs[tf]]


SAME = {coin: coin for coin in COINS}
FIRST = dict(enumerate(COINS))


# --- assets ----------------------------------------------------------------------------------


def narrow(packs: Packs) -> Packs:
    """Return packs with a universe of one or two of the four assets that never comes to rest."""
    policy = packs.universe
    bands = {
        "entry_band": policy.entry_band.model_copy(update={"n_entry": 2, "k_entry": 2}),
        "exit_band": policy.exit_band.model_copy(update={"n_exit": 1, "k_exit": 2}),
    }
    pace = {"n_base": 2, "freeze_min": 1, "min_dwell_min": 2, "l1_min": 3}
    return dataclasses.replace(packs, universe=policy.model_copy(update={**bands, **pace}))


@pytest.mark.parametrize("members", ["all", "two"])
def test_the_numbers_of_assets_and_their_order_do_not_matter(
    rough_log: Log, quick_packs: Packs, members: str
) -> None:
    """Any ids in any order of the roster: the same rows, frames and events, to the last bit.

    Only ties of the ranking go by id; sums over assets are the same in any order.
    """
    run = run_with(narrow(quick_packs) if members == "two" else quick_packs)
    whole = run(rough_log)
    assert members == "all" or whole.rows()[-1].columns["universe_rev"] > 3
    before, said = aligned(whole, FIRST, SAME), told(whole, SAME)
    ids = st.lists(st.integers(0, 150_000), min_size=4, max_size=4, unique=True)

    @FEW
    @given(ids, st.permutations(range(4)))
    def check(uids: list[int], order: list[int]) -> None:
        number = dict(zip(COINS, uids, strict=True))
        other = run(renumbered(rough_log, number, order))
        coins = {uid: coin for coin, uid in number.items()}
        assert differences(before, aligned(other, coins, SAME)) == {}
        assert first_difference(told(other, SAME), said) is None

    check()


@pytest.mark.parametrize(
    "names",
    [
        {"BTC": "ETH", "ETH": "BTC", "XRP": "XRP", "PURR": "PURR"},
        {"BTC": "BTC", "ETH": "ETH", "XRP": "PURR", "PURR": "XRP"},
        {"BTC": "kAAA", "ETH": "@107", "XRP": "xyz:TSLA", "PURR": "BTC"},
    ],
)
def test_the_names_of_coins_do_not_matter(
    rough_log: Log, rough_run: Outcome, quick_packs: Packs, names: dict[str, str]
) -> None:
    """Swapped or new names, with the majors of the policy named alike: the same but for names."""
    majors = tuple(names[coin] for coin in quick_packs.universe.majors)
    policy = quick_packs.universe.model_copy(update={"majors": majors})
    packs = dataclasses.replace(quick_packs, universe=policy)
    other = run_with(packs)(renamed(rough_log, names))
    back = {name: coin for coin, name in names.items()}
    assert differences(aligned(rough_run, FIRST, SAME), aligned(other, FIRST, back)) == {}
    assert first_difference(told(other, back), told(rough_run, SAME)) is None


@pytest.mark.parametrize(
    ("coin", "until_min"), [("BTC", None), ("ETH", 14), ("XRP", None), ("PURR", 14)]
)
def test_another_asset_changes_nothing_in_the_rows_of_the_others(
    rough_log: Log, rough_run: Outcome, quick_packs: Packs, coin: str, until_min: int | None
) -> None:
    """There from the start, listed later or not at all: only what is of the market differs."""
    until_ms = 1 << 62 if until_min is None else START_MS + until_min * MINUTE_MS
    other = run_with(quick_packs)(unlisted(rough_log, coin, until_ms=until_ms))
    uid = COINS.index(coin)
    before, after = table(rough_run), table(other)
    others = [key for key in before if key[0] not in ("frame", uid)]
    found = differences(
        {key: before[key] for key in others},
        {key: flat for key, flat in after.items() if key[0] not in ("frame", uid)},
    )
    assert without(found, *OF_THE_MARKET) == {}
    assert len(others) >= 3 * 40
    there = {key[2] for key in after if key[0] == uid}
    assert min(there, default=until_ms) == until_ms


# --- time ------------------------------------------------------------------------------------


def shifted(log: Log, by_ms: int) -> Log:
    """Return a log in which everything happens later."""

    def later(entry: dict[str, Any], *names: str) -> dict[str, Any]:
        moved = {n: entry[n] + by_ms for n in names if entry[n] is not None}
        return {**entry, **moved}

    def change(message: Message) -> Message:
        message = message.at(message.stamp_ns + by_ms * 1_000_000)
        channel, data = message.channel, message.data
        if channel == "trades":
            return message.saying([later(entry, "time") for entry in data])
        if channel in DATED_BY_VENUE:
            return message.saying(later(data, "time"))
        if channel == "alpha.roster":
            return message.saying(later(data, "from_ms"))
        if channel == "alpha.gap":
            return message.saying(later(data, "start_ms", "end_ms"))
        return message

    return [change(message) for message in log]


def earlier(value: Any, by_ms: int) -> Any:
    """Return a value with every UTC time in it moved back."""
    if isinstance(value, dict):
        return {name: earlier(inner, by_ms) for name, inner in value.items()}
    if isinstance(value, list):
        return [earlier(inner, by_ms) for inner in value]
    if isinstance(value, str) and value[-1:] == "Z" and value[4:5] == "-":
        at = datetime.fromisoformat(value)
        return iso(round(at.timestamp() * 1000) - by_ms)
    return value


def moved_back(outcome: Outcome, by_ms: int) -> Table:
    """Return rows and frames under the labels they had before a shift."""
    return {
        (*key[:2], key[2] - by_ms, *key[3:]): earlier(flat, by_ms)
        for key, flat in table(outcome).items()
    }


def events_without_ids(outcome: Outcome, by_ms: int) -> list[Any]:
    """Return the events as they would have been before a shift; an id holds the time."""
    own = ("event_id", "incident_id", "attachments")
    kept = []
    for event in outcome.events():
        began, _, cause = event.get("incident_id", "").partition("Z:")
        more = {"incident": [f"{began}Z", cause] if cause else [], "bars": bars_of(event)}
        kept.append({k: v for k, v in event.items() if k not in own} | more)
    return [earlier(event, by_ms) for event in kept]


@pytest.mark.parametrize("days", [1, 400])
def test_the_date_does_not_matter(
    rough_log: Log, rough_run: Outcome, quick_packs: Packs, days: int
) -> None:
    """The same log on another day: the same rows, frames and events under other labels."""
    by_ms = days * DAY_MS
    other = run_with(quick_packs)(shifted(rough_log, by_ms))
    assert differences(table(rough_run), moved_back(other, by_ms)) == {}
    events = events_without_ids(rough_run, 0)
    assert first_difference(events_without_ids(other, by_ms), events) is None


@pytest.mark.slow
def test_the_date_does_not_matter_when_warm(
    long_log: Log, long_run: Outcome, shipped_packs: Packs
) -> None:
    """The same past the warm-up of the shipped pack, across a midnight."""
    other = run_with(shipped_packs)(shifted(long_log, DAY_MS))
    assert differences(table(long_run), moved_back(other, DAY_MS)) == {}
    events = events_without_ids(long_run, 0)
    assert first_difference(events_without_ids(other, DAY_MS), events) is None


# Anchored to the hour or the day; on 1m rows nothing else may know what time it is. The medians of
# the illiquidity gates are read by the hour, the scorer's clamps are drawn anew every day.
ANCHORED = (
    "cvd_level",
    "time_to_next_funding_sec",
    "frame.time_to_next_funding_sec",
    "illiquidity_hit",
    "illiq_penalty",
)


def test_the_time_of_day_matters_only_where_it_is_meant_to(
    rough_log: Log, rough_run: Outcome, quick_packs: Packs
) -> None:
    """Seven minutes later: the minute rows differ in what is counted from midnight or the hour."""
    by_ms = 7 * MINUTE_MS
    other = run_with(quick_packs)(shifted(rough_log, by_ms))
    before = {key: flat for key, flat in table(rough_run).items() if key[1] == "1m"}
    after = {key: flat for key, flat in moved_back(other, by_ms).items() if key[1] == "1m"}
    found = differences(before, after)
    clamps = [name for name in found if name.startswith("extras.clamp.")]
    assert without(found, *ANCHORED, *clamps) == {}
    assert {"cvd_level", "frame.time_to_next_funding_sec"} <= found.keys()
