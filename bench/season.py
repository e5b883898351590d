"""Synthetic days of one asset's minutes: what a seasoned state has behind it."""

from __future__ import annotations

import math
from random import Random

from operators.lattice import DAY_MS, MINUTE_MS
from operators.records import Bar, BarItem, Columns, Phase

START_MS = 20_700 * DAY_MS  # where the days end and the logs of the benchmarks begin


def rounded(x: float) -> float:
    """Return a number as rows hold it."""
    return float(f"{x:.12g}")


def bars(days: int, seed: int) -> list[BarItem]:
    """Return sealed and final items of the days before START_MS: lively volume, returns, flow,
    open interest, basis and spread."""
    rng, items = Random(seed), []
    mid, oi, rate = 100.0, 1e6, 1.25e-5
    for minute in range(1 - days * 1440, 1):
        label = START_MS + minute * MINUTE_MS
        pace = math.exp(rng.gauss(0.0, 0.4))
        mid = rounded(mid * math.exp(rng.gauss(0.0, 0.0008 * pace)))
        oi = rounded(oi * (1.0 + rng.gauss(0.0, 0.0004 * pace)))
        rate = rounded(1.25e-5 + rng.gauss(0.0, 3e-6)) if minute % 60 == 0 else rate
        total = rounded(math.exp(rng.gauss(12.0, 1.1)))
        buys = rounded(total * rng.betavariate(4.0, 4.0))
        sells = rounded(total - buys)
        columns: Columns = {
            **dict.fromkeys(("open", "high", "low", "close", "mid_close", "mark_close"), mid),
            **dict.fromkeys(("oi_open", "oi_close", "oi_min", "oi_max"), rounded(oi * mid)),
            "v_buy_m_1": buys,
            "v_sell_m_1": sells,
            "v_total_m_1": total,
            "trade_count_m_1": 80,
            "cvd_delta_m_1": rounded(buys - sells),
            "oi_close_base": oi,
            "oi_staleness_ms": 1000,
            "funding_h_1": rate,
            "basis_bp_m_1": rounded(rng.gauss(0.0, 0.35)),
            "time_to_next_funding_sec": 60,
            "spread_mean_m_1": rounded(0.01 * math.exp(abs(rng.gauss(0.0, 0.3)))),
            "spread_p95_m_1": 0.03,
            "ret_s_30": 0.0,
            "rv_m_1": 0.001,
            "atr_proxy_m_1": 0.001,
            "obi_top5_mean_m_1": 0.5,
            "depth_top5_quote_median_m_1": 1e6,
            "dropped_ticks": 0,
            "duplicate_ticks": 0,
            "book_staleness_ms": 100,
            "clock_skew_ms": 40,
            "ingest_ts": "",
            "ingest_lag_ms": 1500,
            "source": "ws",
            "dq_status": "ok",
            "dq_reasons": [],
        }
        items.append(_item(label, False, Bar(0, "BTC", label, 0, columns)))
        items.append(_item(label, True, None))
    return items


def _item(label: int, final: bool, bar: Bar | None) -> BarItem:
    return BarItem(Phase(label, final, 1, label + (3000 if final else 1500)), 0, bar)
