"""How near the rows of a range come to those of the whole, by warm-up: the table of docs/ranges.md.

    python -m bench.range_warmup [WARMUP_H ..]

replays twenty days of generated minute bars, then their last day with each warm-up, in a temporary
directory; a few minutes.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from dataflows.ranges import Part
from dataflows.replay import product_path, replay
from operators.lattice import DAY_MS, HOUR_MS, MINUTE_MS, iso
from packs.loader import load_packs

START_MS = 1_788_220_800_000  # a midnight
DAYS, ASSETS = 20, 4
WARMUPS_H = (0, 6, 24, 48, 96, 192, 216, 288)
FADING = ("b_", "z_", "q_", "rs_", "is_", "warmup", "universe_rev", "extras", "scale_floored")
UNMEASURED = ("universe_rev", "extras", "q_confidence")


def write_bars(path: Path) -> None:
    """Write a market with a daily season, shocks of all and bursts of one asset."""
    rng, prices = Random(7), [100.0 + 7 * k for k in range(ASSETS)]
    with path.open("w") as file:
        file.write("symbol,close_ms,open,high,low,close,volume_quote,trade_count,taker_buy_quote\n")
        for minute in range(DAYS * 1440):
            shock = 0.004 * rng.choice((-1, 1)) if rng.random() < 0.002 else 0.0
            season = 1 + 0.5 * math.sin(minute / 1440 * 2 * math.pi)
            for k in range(ASSETS):
                if k == ASSETS - 1 and minute < 300:
                    continue
                burst = rng.random() < 0.004
                move = rng.gauss(0, 0.0006) * (5 if burst else 1) + shock * rng.random()
                before, prices[k] = prices[k], prices[k] * (1 + move)
                volume = math.exp(rng.gauss(0, 0.5)) * 40_000 * season * (15 if burst else 1)
                volume *= k + 1
                high, low = max(before, prices[k]) * 1.0003, min(before, prices[k]) * 0.9997
                cells = ",".join(f"{cell:.6f}" for cell in (before, high, low, prices[k]))
                taken = f"{rng.randrange(3, 90)},{volume * rng.uniform(0.3, 0.7):.2f}"
                label = START_MS + (minute + 1) * MINUTE_MS
                file.write(f"S{k:02d},{label},{cells},{volume:.2f},{taken}\n")


def said(out: Path, name: str, since: str) -> list[dict[str, Any]]:
    """Return what a product says after a minute."""
    found = map(orjson.loads, product_path(out, name).read_bytes().splitlines())
    return [line for line in found if line["exchange_ts"] > since]


def compare(whole: Path, part: Path, since: str) -> str:
    """Return a line: own columns, largest differences by timeframe and kind, events."""
    own = other = 0
    largest: dict[str, float] = defaultdict(float)
    pairs = list(zip(said(whole, "rows", since), said(part, "rows", since), strict=True))
    for one, two in pairs:
        own += all(one[name] == two[name] for name in one if not name.startswith(FADING))
        for name in one:
            a, b = one[name], two[name]
            if a == b or not name.startswith(FADING) or name in UNMEASURED:
                continue
            if isinstance(a, float) and isinstance(b, float):
                by = max(abs(a), abs(b)) if name.startswith("b_") else 1.0
                kind = f"{one['tf']} {name.split('_')[0]}"
                largest[kind] = max(largest[kind], abs(a - b) / by)
            else:
                other += 1
    events = [{e["event_id"]: e for e in said(out, "events", since)} for out in (whole, part)]
    both = events[0].keys() & events[1].keys()
    severity = max(
        (abs(events[0][e]["severity"] - events[1][e]["severity"]) for e in both), default=0
    )
    shown = ", ".join(f"{kind} {value:.2g}" for kind, value in sorted(largest.items()))
    return (
        f"own columns equal {own} of {len(pairs)}; {shown}; NULL or flag {other};"
        f" events {len(both)} of {len(events[0])}, {len(events[1].keys() - both)} other,"
        f" severity {severity}"
    )


def main() -> None:
    """Print a line for each warm-up."""
    packs, end_ms = load_packs(), START_MS + DAYS * DAY_MS
    from_ms = end_ms - DAY_MS
    with TemporaryDirectory() as folder:
        bars, whole = Path(folder, "bars.csv"), Path(folder, "whole")
        write_bars(bars)
        replay(bars, whole, packs, bars=True)
        for hours in map(int, sys.argv[1:] or WARMUPS_H):
            out = Path(folder, str(hours))
            replay(bars, out, packs, bars=True, part=Part(from_ms, None, from_ms - hours * HOUR_MS))
            print(f"{hours:>4} h: {compare(whole, out, iso(from_ms))}", flush=True)


if __name__ == "__main__":
    main()
