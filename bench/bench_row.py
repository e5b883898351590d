"""What one full feature row costs, and how much one asset remembers.

    python -m bench.bench_row [--days N] [--minutes N] [--rounds N]

Prints one JSON object: the plain and the compiled form of the inner loops, side by side (the latter
where `make venv` built it). A seasoned state (synthetic days of minutes before) meets a generated
minute with depth, contexts, quotes and prints. Processor time; medians over rounds in which each
form takes its turn; the reference is a fixed loop in the same round, so ratios are what to quote.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from random import Random
from typing import Any

from bench import forms
from fixtures.market import FrameOptions, Scenario, default_assets, lines
from operators.assemble import Assemble, AssemblyCodec
from operators.feed import FeedReader, FeedState, Item
from operators.lattice import DAY_MS, MINUTE_MS
from operators.layout import BOOK, CONTEXT, QUOTE, TRADE
from operators.normalize import Normalize
from operators.records import Bar, BarItem, Boundary, Columns, Phase, Ticks
from packs.loader import Packs, load_packs

START_MS = 20_700 * DAY_MS
REFERENCE_TURNS = 200
ENCODINGS = 20


def rounded(x: float) -> float:
    """Return a number as rows hold it."""
    return float(f"{x:.12g}")


def bars(days: int, seed: int) -> list[BarItem]:
    """Return sealed and final items of the days before the log: lively volume, returns, flow,
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
            "basis_bp_m_1": rounded(rng.gauss(-3.0, 2.0)),
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


def log_items(minutes: int, packs: Packs) -> list[Item]:
    """Return the items of a generated log of one major with every feed."""
    scenario = Scenario(3, START_MS, minutes, default_assets(1), (), FrameOptions())
    lattice = packs.features.lattice
    reader = FeedReader(
        FeedState(),
        lateness_ms=lattice.lateness_ms,
        grace_ms=lattice.grace_ms,
        arrival_jump_gap_ms=lattice.arrival_jump_gap_ms,
    )
    return reader.read(lines(scenario))


def reference() -> float:
    """Run a fixed loop and return its time, as a measure of the machine now."""
    started, table, x = time.process_time(), dict.fromkeys(range(64), 1.0), 1.5
    for turn in range(REFERENCE_TURNS):
        x = math.log(table[turn & 63] + x)
    return time.process_time() - started


def one_round(items: list[Item], season: bytes, packs: Packs) -> dict[str, float]:
    """Run the log through assembly and normalisation; return times in microseconds."""
    assemble, normalize = Assemble(packs.features), Normalize(packs)
    assembly, state = assemble.initial(), normalize.codec().decode(season)
    spent = dict.fromkeys(("take", "close", "normalise"), 0.0)
    ticks = rows = 0
    reference_s = reference()
    for _, item in items:
        started = time.process_time()
        closed = assemble.step(assembly, item)
        spent["close" if isinstance(item, Boundary) else "take"] += time.process_time() - started
        if isinstance(item, Ticks):
            ticks += len(item.trades) // TRADE.size + len(item.quotes) // QUOTE.size
            ticks += len(item.books) // BOOK.size + len(item.contexts) // CONTEXT.size
        for bar in closed:
            started = time.process_time()
            normalize.step(state, bar)
            spent["normalise"] += time.process_time() - started
            rows += bar.bar is not None
    codec = normalize.codec()
    started = time.process_time()
    for _ in range(ENCODINGS):
        codec.encode(state)
    encode_s = (time.process_time() - started) / ENCODINGS
    return {
        "reference": reference_s * 1e6,
        "take_per_tick": spent["take"] / ticks * 1e6,
        "ticks_per_row": ticks / rows,
        "close": spent["close"] / rows * 1e6,
        "normalise": spent["normalise"] / rows * 1e6,
        "row": (spent["close"] + spent["normalise"]) / rows * 1e6,
        "encode_normalise_state": encode_s * 1e6,
        "assembly_bytes": float(len(AssemblyCodec().encode(assembly))),
    }


class Subject:
    """A seasoned state and a log, of the form that this module was loaded with."""

    def __init__(self, days: int, minutes: int) -> None:
        self.packs = load_packs()
        normalize = Normalize(self.packs)
        state = normalize.initial()
        for item in bars(days, seed=5):
            normalize.step(state, item)
        self.season = normalize.codec().encode(state)
        self.items = log_items(minutes, self.packs)

    def one_round(self) -> dict[str, float]:
        """Return the times of one pass over the log in microseconds."""
        return one_round(self.items, self.season, self.packs)


def main() -> None:
    """Measure every form of the inner loops in turn and print."""
    parser = argparse.ArgumentParser(prog="bench.bench_row", description=main.__doc__)
    parser.add_argument("--days", type=int, default=8, help="days of minutes before the log")
    parser.add_argument("--minutes", type=int, default=60, help="length of the log")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    subjects = {
        form: forms.module("bench.bench_row", form).Subject(options.days, options.minutes)
        for form in forms.available()
    }
    seasons = {subject.season for subject in subjects.values()}
    assert len(seasons) == 1, "the forms left different states"
    rounds: dict[str, list[dict[str, float]]] = {form: [] for form in subjects}
    for _ in range(options.rounds):
        for form, subject in subjects.items():
            rounds[form].append(subject.one_round())
    found: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "days": options.days,
    }
    for form, measured in rounds.items():
        medians = {name: statistics.median(r[name] for r in measured) for name in measured[0]}
        assembly_bytes = int(medians.pop("assembly_bytes"))
        found[form] = {
            "us": {name: round(value, 1) for name, value in medians.items()},
            "row_to_reference": round(medians["row"] / medians["reference"], 2),
        }
    found["normalise_state_bytes"] = len(seasons.pop())
    found["assembly_state_bytes"] = assembly_bytes
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
