"""Rows of bars, invented and imported, equal the naive computation.

The invented ones last nine days, so that the baselines of 15m and 1h bars grow warm, the funding
step has its two hundred hours and the gates their seven whole days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from types import ModuleType
from typing import Any

import pytest

from operators.bars import BarsState, close_minutes
from operators.detect import Detect
from operators.normalize import Normalize
from operators.records import Bar, BarItem, Phase, Row
from packs.loader import Packs

MINUTE, HOUR = 60_000, 3_600_000
START = 1_789_992_000_000 // HOUR * HOUR  # in the middle of a day
Hold = Callable[[list[Row], Any], Any]


def rows_of(packs: Packs, items: Iterable[BarItem]) -> list[Row]:
    """Return the rows of some bars, before membership."""
    normalize, detect = Normalize(packs), Detect(packs)
    states: dict[int, Any] = {}
    rows: list[Row] = []
    for item in items:
        state = states.setdefault(item.asset_uid, normalize.initial())
        for made in normalize.step(state, item):
            for flagged in detect.step(None, made):
                rows += flagged.rows
    return rows


class Market:
    """Raw columns minute by minute: a walk with bursts, holes, silences and impossible jumps."""

    def __init__(self, naive: ModuleType, seed: int) -> None:
        self.naive, self.random = naive, Random(seed)
        self.mid, self.coins, self.funding = 250.0, 40_000.0, 1e-5
        self.shift = 0.0

    def bell(self) -> float:
        """Return a roughly normal number."""
        r = self.random.random
        return 2.0 * (r() + r() + r() - 1.5)

    def heavy(self) -> float:
        """Return a positive factor around one with a heavy tail."""
        u = self.random.random()
        return float((0.3 + u) / (1.05 - u))

    def minute(self, label: int) -> dict[str, Any]:
        """Return the raw columns of the next minute."""
        chance, r12 = self.random.random, self.naive.round12
        self.mid *= 1.0 + 0.0008 * self.bell() * self.heavy()
        if chance() < 0.0005:
            self.mid *= self.random.choice((1.31, 0.74))
        self.coins = max(0.0, self.coins * (1.0 + 0.0006 * self.bell() * self.heavy()))
        if label % HOUR == 0:
            self.funding += 2e-6 * self.bell()
        quiet, dead = chance() < 0.02, chance() < 0.003
        mid = None if dead else r12(self.mid)
        reach = 0.001 * self.mid * chance()
        count = 0 if quiet else 1 + int(60 * chance())
        total = 0.0 if quiet else r12(4e6 * self.heavy() * (0.004 if chance() < 0.05 else 1.0))
        buy = r12(total * chance())
        sell = r12(total - buy)
        spread = 0.05 * self.heavy() * (25.0 if chance() < 0.01 else 1.0)
        one_tick = int(label // (HOUR * 6)) % 3 == 0
        columns: dict[str, Any] = {
            "source": "ws",
            "ingest_lag_ms": 1600,
            "ingest_ts": self.naive.iso(label + 1600),
            "dropped_ticks": int(3 * chance()),
            "duplicate_ticks": 0,
            "clock_skew_ms": 200,
            "book_staleness_ms": int(3120 * chance() * chance()),
            "open": r12(self.mid - reach * chance()),
            "close": r12(self.mid + reach * chance()),
            "high": r12(self.mid + reach),
            "low": r12(self.mid - reach),
            "mid_close": mid,
            "ret_s_30": r12(0.001 * self.bell()),
            "rv_m_1": r12(0.001 * self.heavy()),
            "atr_proxy_m_1": None if mid is None else r12(2 * reach / mid),
            "v_buy_m_1": buy,
            "v_sell_m_1": sell,
            "v_total_m_1": total,
            "trade_count_m_1": count,
            "cvd_delta_m_1": r12(buy - sell),
            "spread_mean_m_1": None if dead else r12(0.05 if one_tick else spread),
            "spread_p95_m_1": None if dead else r12(2 * spread),
        }
        columns |= self.depth(dead) | self.perp(label)
        reasons = [name for name, true in self.faults(columns).items() if true]
        columns["dq_status"], columns["dq_reasons"] = self.naive.graded(reasons)
        return columns

    def depth(self, dead: bool) -> dict[str, Any]:
        """Return imbalance and depth, now and then unknown."""
        if dead or self.random.random() < 0.004:
            return {"obi_top5_mean_m_1": None, "depth_top5_quote_median_m_1": None}
        r12, chance = self.naive.round12, self.random.random
        return {
            "obi_top5_mean_m_1": r12(chance()),
            "depth_top5_quote_median_m_1": r12(1e5 * self.heavy()),
        }

    def perp(self, label: int) -> dict[str, Any]:
        """Return positioning, funding and basis, now and then unknown."""
        chance, r12 = self.random.random, self.naive.round12
        columns: dict[str, Any] = {"time_to_next_funding_sec": (HOUR - label % HOUR) // 1000}
        names = ("oi_open", "oi_close", "oi_min", "oi_max", "oi_close_base", "mark_close")
        columns |= dict.fromkeys(names)
        mark = r12(self.mid * (1.0 + 0.0003 * self.bell()))
        columns["oi_staleness_ms"] = int(20_160 * chance())
        if columns["oi_staleness_ms"] <= 20_000:
            coins = 0.0 if chance() < 0.001 else r12(self.coins)
            columns |= {name: r12(coins * mark) for name in names[:4]}
            columns |= {"oi_close_base": coins, "mark_close": mark}
        columns["funding_h_1"] = r12(self.funding)
        columns["basis_bp_m_1"] = None if chance() < 0.004 else r12(3.0 * self.bell() - 1.0)
        return columns

    def faults(self, columns: dict[str, Any]) -> dict[str, bool]:
        """Return which reasons hold."""
        chance = self.random.random
        return {
            "gap": chance() < 0.002,
            "book_stale": columns["book_staleness_ms"] > 3000,
            "quiet": columns["trade_count_m_1"] == 0,
            "book_one_sided": columns["mid_close"] is None,
            "book_missing": columns["obi_top5_mean_m_1"] is None,
            "oi_stale": columns["oi_close"] is None,
            "index_missing": columns["basis_bp_m_1"] is None,
        }


def invented(naive: ModuleType, hours: int, seed: int) -> tuple[list[BarItem], dict[int, Any]]:
    """Return the items of an asset's bars and what the oracle needs of them.

    Six minutes in a thousand are amended; some stretches of minutes have no bar at all.
    """
    market, chance = Market(naive, seed), Random(seed + 1).random
    minutes = naive.Minutes("AAA")
    items = []
    away = 0
    for label in range(START + MINUTE, START + hours * HOUR + 1, MINUTE):
        columns = market.minute(label)
        if chance() < 0.0008:
            away = 1 + int(12 * chance())
        if away:
            away -= 1
            continue
        versions = [naive.Version(columns)]
        sealed = Phase(label, False, 1, label + 1600)
        final = Phase(label, True, 1, label + 3100)
        items.append(BarItem(sealed, 0, Bar(0, "AAA", label, 0, columns)))
        amended = None
        if chance() < 0.006:
            other = columns | {
                "v_total_m_1": naive.round12(columns["v_total_m_1"] * 1.5 + 10.0),
                "trade_count_m_1": columns["trade_count_m_1"] + 1,
                "close": columns["high"],
                "spread_mean_m_1": columns["spread_p95_m_1"],
                "ingest_ts": naive.iso(label + 3100),
                "ingest_lag_ms": 3100,
            }
            other["dq_reasons"] = [r for r in columns["dq_reasons"] if r != "quiet"]
            other["dq_status"], other["dq_reasons"] = naive.graded(other["dq_reasons"])
            versions.append(naive.Version(other))
            amended = Bar(0, "AAA", label, 1, other)
        items.append(BarItem(final, 0, amended))
        minutes.versions[label] = versions
        minutes.finals[label] = final.clock_ms
    return items, {0: minutes}


@pytest.mark.slow
def test_oracle_nine_days_of_invented_bars(
    naive: ModuleType, packs: Packs, texts: tuple[Any, Any], hold_against: Hold
) -> None:
    """All that needs days: 15m and 1h baselines, the funding step, medians of a week, midnights."""
    items, minutes = invented(naive, hours=218, seed=5)
    agreement = hold_against(rows_of(packs, items), naive.rows_of(minutes, *texts))
    agreement.check()
    assert agreement.amended > 60
    assert agreement.reasons["price_sanity"] > 3
    for name in ("1m b_divisor_dfunding", "15m z_oi_roc_m_15", "15m z_basis_m_15", "1h q_vol_h_1"):
        assert agreement.known[name] > 5, name
    for name in (
        "1h z_ret_abs_h_1",
        "1h z_basis_h_1",
        "1h b_divisor_oi_roc",
        "1h extras clamp",
    ):
        assert agreement.known[name] > 5, name
    assert agreement.either < 0.02 * agreement.rows["1m"]


def test_oracle_twelve_hours_of_invented_bars(
    naive: ModuleType, packs: Packs, texts: tuple[Any, Any], hold_against: Hold
) -> None:
    """The same, short: 1m baselines and the longer rows."""
    items, minutes = invented(naive, hours=12, seed=8)
    agreement = hold_against(rows_of(packs, items), naive.rows_of(minutes, *texts))
    agreement.check()
    assert agreement.rows["15m"] > 40
    assert agreement.known["1m z_cvd_slope_m_5"] > 100


# --- imported bars -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Raw:
    """A bar of a file, volumes in quote currency."""

    open: float
    high: float
    low: float
    close: float
    volume_quote: float
    trade_count: int | None
    taker_buy_quote: float | None


def imported(
    naive: ModuleType, packs: Packs, texts: tuple[Any, Any], bars: dict[int, dict[str, Raw]]
) -> tuple[list[Row], dict[Any, Any]]:
    """Return the flow's rows and the oracle's of bars by label and symbol."""
    state, items = BarsState(), []
    for label in sorted(bars):
        items += close_minutes(state, label, bars[label])
    assert not state.minutes_skipped
    minutes = {}
    for uid, symbol in enumerate(state.symbols):
        first = min(label for label in bars if symbol in bars[label])
        asset = naive.Minutes(symbol)
        for label in range(first, max(bars) + 1, MINUTE):
            raw = bars.get(label, {}).get(symbol)
            asset.versions[label] = [naive.bar_version(raw, label)]
            asset.finals[label] = label
        minutes[uid] = asset
    return rows_of(packs, items), naive.rows_of(minutes, *texts)


def drawn(seed: int, minutes: int) -> dict[int, dict[str, Raw]]:
    """Return bars of three symbols, one without a taker side and one without counts, with holes."""
    random = Random(seed)
    price = {"AAA": 100.0, "BBB": 0.02, "CCC": 7.0}
    bars: dict[int, dict[str, Raw]] = {}
    for label in range(START + MINUTE, START + minutes * MINUTE + 1, MINUTE):
        for symbol in sorted(price):
            started = symbol != "CCC" or label > START + 40 * MINUTE
            if not started or random.random() < 0.02 or label % (97 * MINUTE) < 6 * MINUTE:
                continue
            first = price[symbol]
            jump = 1.3 if random.random() < 0.002 else 1.0
            last = price[symbol] = first * jump * (1.0 + 0.004 * (random.random() - 0.5))
            count = int(30 * random.random())
            total = 3e4 * count * random.random()
            bars.setdefault(label, {})[symbol] = Raw(
                first,
                max(first, last) * 1.001,
                min(first, last) * 0.999,
                last,
                total,
                None if symbol == "BBB" else count,
                None if symbol == "AAA" else total * random.random(),
            )
    return bars


@pytest.mark.slow
def test_oracle_imported_bars_with_holes(
    naive: ModuleType, packs: Packs, texts: tuple[Any, Any], hold_against: Hold
) -> None:
    """No quotes, no contexts; no taker side here, no counts there, a symbol that comes later."""
    agreement = hold_against(*imported(naive, packs, texts, drawn(4, 700)))
    agreement.check()
    assert agreement.reasons["gap"] > 100
    assert agreement.known["1m z_cvd_delta_m_5"] > 100
    assert agreement.known["15m ret_m_15"] > 50
