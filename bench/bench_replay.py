"""How many frames a second the steps take, as a ratio to decoding alone in the same run.

    python -m bench.bench_replay [--assets N] [--minutes N] [--rounds N]

Prints one JSON object. Rounds are interleaved; figures are medians; ratios are what to quote.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

from dataflows.version import PRODUCER
from fixtures.market import FrameOptions, Scenario, default_assets, lines
from operators import wire
from operators.feed import FeedReader, FeedState
from operators.loop import Loop
from operators.records import MarketPhase
from packs.loader import Packs, load_packs

CHUNK = 2000


def decode_only(log: list[bytes]) -> int:
    """Decode every frame and do nothing with it."""
    for line in log:
        wire.decode(line[line.index(b" ") + 1 :])
    return len(log)


def read_only(log: list[bytes], packs: Packs) -> int:
    """Decode, route and cut into minutes."""
    feed = reader(packs)
    items = 0
    for start in range(0, len(log), CHUNK):
        items += len(feed.read(log[start : start + CHUNK]))
    return items


def whole(log: list[bytes], packs: Packs) -> int:
    """Frames to events, without an engine and without sinks."""
    feed, loop = reader(packs), Loop(packs, PRODUCER)
    rows = 0
    for start in range(0, len(log), CHUNK):
        for output in loop.ticks(feed.read(log[start : start + CHUNK])):
            rows += len(output.rows) if isinstance(output, MarketPhase) else 0
    return rows


def reader(packs: Packs) -> FeedReader:
    """Return a reader with the pack's lattice."""
    lattice = packs.features.lattice
    return FeedReader(
        FeedState(),
        lateness_ms=lattice.lateness_ms,
        grace_ms=lattice.grace_ms,
        arrival_jump_gap_ms=lattice.arrival_jump_gap_ms,
    )


def seconds(work: Callable[[], int]) -> tuple[float, int]:
    """Return how long a contender took, and its count."""
    start = time.perf_counter()
    count = work()
    return time.perf_counter() - start, count


def main() -> None:
    """Generate the input, run the contenders in turn, print the medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=int, default=20)
    parser.add_argument("--minutes", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    packs = load_packs()
    scenario = Scenario(
        seed=1,
        start_ms=1_790_000_040_000,
        minutes=given.minutes,
        assets=default_assets(given.assets),
        frames=FrameOptions(quote_ms=(500, 500, 1000, 2000)),
    )
    log = [line.rstrip(b"\n") for line in lines(scenario)]
    contenders: dict[str, Callable[[], int]] = {
        "decode": lambda: decode_only(log),
        "minutes": lambda: read_only(log, packs),
        "events": lambda: whole(log, packs),
    }
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    counts: dict[str, int] = {}
    for _ in range(given.rounds):
        for name, work in contenders.items():
            spent, counts[name] = seconds(work)
            taken[name].append(spent)
    median = {name: statistics.median(values) for name, values in taken.items()}
    rows = counts["events"]
    result = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "frames": len(log),
        "rows": rows,
        "seconds": median,
        "ratio_to_decode": {name: median["decode"] / value for name, value in median.items()},
        "us_per_row_beyond_reading": (median["events"] - median["minutes"]) / rows * 1e6,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
