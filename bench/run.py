"""One contender, once, in a process of its own: `python -m bench.run NAME META.json`.

Prints one JSON object: seconds of wall and of processor time of the timed part, peak memory,
counts, the checksum of the table. Imports, the opening of packs and inputs are not timed.
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
import time
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any

from bench.table import Table, checksum

PAGE = resource.getpagesize()
SAMPLE_S = 0.1
MB = 1 << 20


def rss_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def give_back() -> None:
    """Return free memory to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_mb() -> float:
    """Return the highest resident memory of this process so far, not that of what started it."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return round(int(line.split()[1]) / 1024, 1)


class Timed:
    """Measures what happens within it; entered more than once it adds up.

    memory : samples of (seconds since the first entry, resident bytes), if asked for.
    """

    def __init__(self, *, sampled: bool = False) -> None:
        self.seconds = self.cpu_s = 0.0
        self.memory: list[tuple[float, int]] = []
        self._sampled = sampled
        self._stop = Event()
        self._began = self._cpu_began = 0.0

    def __enter__(self) -> Timed:
        if self._sampled:
            Thread(target=self._sample, daemon=True).start()
        self._cpu_began, self._began = time.process_time(), time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds += time.perf_counter() - self._began
        self.cpu_s += time.process_time() - self._cpu_began
        self._stop.set()

    def _sample(self) -> None:
        began = time.perf_counter()
        while not self._stop.wait(SAMPLE_S):
            self.memory.append((time.perf_counter() - began, rss_bytes()))

    def table(self, table: Table) -> dict[str, Any]:
        """Return what is told of the table that was computed."""
        return {"rows": len(table), "checksum": checksum(table)}

    def as_json(self) -> dict[str, Any]:
        """Return the times, and the memory in MB: peak, at the end, and its slope.

        growth_mb : over the second half of the run, by least squares.
        """
        found = {
            "seconds": round(self.seconds, 5),
            "cpu_s": round(self.cpu_s, 5),
            "peak_mb": peak_mb(),
        }
        late = [(t, rss) for t, rss in self.memory if t >= self.seconds / 2]
        if len(late) > 2:
            found["end_mb"] = round(late[-1][1] / MB, 1)
            found["growth_mb"] = round(_slope(late) * self.seconds / 2 / MB, 2)
        return found


def _slope(points: list[tuple[float, int]]) -> float:
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


# Where each contender is: module and function.
CONTENDERS = {
    "read": "references:read",
    "decode": "references:decode",
    "decode-bare": "references:decode_bare",
    "orjson": "references:decode_orjson",
    "bytewax": "references:stock_bytewax",
    "polars": "references:polars",
    "duckdb": "references:duckdb",
    "bars": "ours:bars",
    "rows": "ours:rows",
    "events": "ours:events",
    "events-warm": "ours:events_warm",
    "cache": "ours:cache",
    "cache-ticks": "ours:cache_ticks",
    "bars-events": "ours:bars_events",
    "trial": "ours:trial",
    "stages": "stages:stages",
    "operators": "stages:operators",
    "close": "closing:close",
    "state": "ours:state",
}
SAMPLED = ("events", "events-warm", "close")


def main() -> None:
    """Run the contender that is named and print what it measured."""
    name, meta = sys.argv[1], json.loads(sys.argv[2])
    module, _, function = CONTENDERS[name].partition(":")
    work = getattr(import_module(f"bench.{module}"), function)
    timed = Timed(sampled=name in SAMPLED)
    found = work(meta, timed)
    print(json.dumps({**timed.as_json(), **found}))


if __name__ == "__main__":
    main()
