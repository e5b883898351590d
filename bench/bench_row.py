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
from typing import Any

from bench import forms
from bench.season import START_MS, bars
from fixtures.market import FrameOptions, Scenario, default_assets, lines
from operators.assemble import Assemble, AssemblyCodec
from operators.feed import FeedReader, FeedState, Item
from operators.layout import BOOK, CONTEXT, QUOTE, TRADE
from operators.normalize import Normalize
from operators.records import Boundary, Ticks
from packs.loader import Packs, load_packs

REFERENCE_TURNS = 200
ENCODINGS = 20


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
