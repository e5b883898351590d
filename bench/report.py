"""What a run came to: medians, ratios, the figures beside their bars, and the machine.

Rules of this file: a ratio is taken within a round, of contenders that ran one after the other, and
its median over the rounds is told; a figure that needs a contender which did not run is left out;
two contenders that computed the same table must have the same checksum.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from bench import forms
from bench.suite import PAIR_DAYS, PAIRS
from packs.loader import load_packs

LIBRARIES = (
    *("bytewax", "msgspec", "orjson", "zstandard", "cython"),
    *("polars", "duckdb", "pyarrow", "confluent-kafka", "psycopg"),
)
MEDIANS = ("seconds", "cpu_s", "peak_mb", "end_mb", "growth_mb", "rss_mb", "resume_s", "store_mb")
OPTIONAL = ("polars", "duckdb", "postgres", "kafka")  # need what may not be here
FLAT_SHARE = 0.05  # memory is flat if it grows by no more over the second half of a run
BARS_ROWS = PAIRS * PAIR_DAYS * 1440

Rounds = dict[str, list[dict[str, Any]]]


def document(about: dict[str, Any], found: Rounds, out: Path | None) -> dict[str, Any]:
    """Return the whole result. Of `out`, what others measured at the same commit and size stays."""
    contenders: Rounds = {}
    if out is not None and out.exists():
        earlier = json.loads(out.read_text())
        if all(earlier.get(key) == value for key, value in about.items()):
            contenders = earlier["contenders"]
    contenders |= found
    return {
        **about,
        "machine": machine(),
        "contenders": contenders,
        "medians": {name: medians(rounds) for name, rounds in contenders.items()},
        "figures": [figure._asdict() for figure in figures(contenders)],
        "faults": faults(contenders),
    }


def machine() -> dict[str, Any]:
    """Return what the figures belong to."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = Path("/proc/meminfo").read_text().split()[1]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(int(memory) / 2**20, 1),
        "load_1m": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "inner_loops": "compiled" if forms.available()[-1] == "compiled" else "plain",
        "config_hash": load_packs().config_hash,
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def medians(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median of each number over the rounds that ran."""
    ran = [found for found in rounds if "not_run" not in found]
    return {
        name: round(statistics.median(found[name] for found in ran), 4)
        for name in MEDIANS
        if ran and all(name in found for found in ran)
    }


def faults(contenders: Rounds) -> list[str]:
    """Return where contenders, or rounds of one, disagree about what they computed, and which of
    ours broke."""
    sums: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name, rounds in contenders.items():
        for found in rounds:
            said_of = dict(found.get("products", {}))
            if "checksum" in found:
                said_of["checksum"] = found["checksum"]
            for kind, value in said_of.items():
                known = sums.setdefault((kind, found["input"]), {})
                known.setdefault(value, []).append(name)
    said = [
        f"{name} did not run: {found['not_run']}"
        for name, rounds in contenders.items()
        for found in rounds
        if "not_run" in found and name not in OPTIONAL
    ]
    for (kind, source), values in sums.items():
        if len(values) > 1:
            groups = " | ".join(", ".join(sorted(set(names))) for names in values.values())
            said.append(f"{kind} of {source} differs: {groups}")
    return said


# --- what must be shown --------------------------------------------------------------------------


class Figure(NamedTuple):
    """A value beside its bar. at_least : whether the bar is a floor."""

    name: str
    value: float
    unit: str
    bar: float | None
    at_least: bool
    met: bool | None


Value = Callable[[Rounds], float | None]


def ratio(slow: str, fast: str, clock: str = "seconds") -> Value:
    """How many times the second goes into the first: median over the rounds.

    clock : `seconds` of wall, or `cpu_s` of the processor, for a machine that is not idle.
    """

    def value(found: Rounds) -> float | None:
        times = [
            a[clock] / b[clock]
            for a, b in zip(found.get(slow, ()), found.get(fast, ()), strict=False)
            if clock in a and clock in b
        ]
        return statistics.median(times) if times else None

    return value


def of(name: str, get: Callable[[dict[str, Any]], float | None]) -> Value:
    """The median of something that a contender measured."""

    def value(found: Rounds) -> float | None:
        each = [get(x) for x in found.get(name, ()) if "not_run" not in x]
        known = [x for x in each if x is not None]
        return statistics.median(known) if known else None

    return value


def _quantile(kind: str, which: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda found: found[kind][which] if found.get(kind) else None


def _speed(name: str, reference: str, unit: str) -> Value:
    """Ticks or frames a second of a contender over those of another, whose input may differ."""

    def value(found: Rounds) -> float | None:
        times = ratio(reference, name)(found)
        if times is None:
            return None
        return times * float(found[name][0][unit] / found[reference][0][unit])

    return value


def _per_asset(name: str) -> Value:
    """kB that an asset more takes, from 35 to 1,000 of them."""

    def value(found: Rounds) -> float | None:
        few, many = (of(f"close@{n}", lambda x: x[name])(found) for n in (35, 1000))
        return None if few is None or many is None else (many - few) * 1024 / 965

    return value


def _after_a_week(found: Rounds) -> float | None:
    """kB of an asset at rest, and what a week of looking back adds to it."""
    rest, grows = _per_asset("rss_mb")(found), of("state", lambda x: x["week_kb"] - x["young_kb"])
    more = grows(found)
    return None if rest is None or more is None else rest + more


FIGURES: tuple[tuple[str, Value, str, float | None, bool], ...] = (
    ("frames to rows, all columns / msgspec decode", ratio("decode", "rows"), "x", 0.75, True),
    ("frames to rows / msgspec decode, bare", ratio("decode-bare", "rows"), "x", None, True),
    ("frames to rows / stock Bytewax, a tenth", ratio("bytewax", "rows"), "x", 3.5, True),
    ("frames to rows / polars from columns, a tenth", ratio("polars", "rows"), "x", None, True),
    ("frames to rows / DuckDB from columns, a tenth", ratio("duckdb", "rows"), "x", None, True),
    ("frames to events / msgspec decode", ratio("decode", "events"), "x", 0.5, True),
    ("frames to events, warm / msgspec decode", ratio("decode", "events-warm"), "x", 0.5, True),
    ("cache to events / frames to events", ratio("events", "cache"), "x", 4.0, True),
    ("its ticks to events / frames to events", ratio("events", "cache-ticks"), "x", None, True),
    (
        "bars to events, 20 pairs x 30 days",
        of("bars-events", lambda x: x["seconds"] * BARS_ROWS / x["bars"]),
        "s",
        60.0,
        False,
    ),
    ("rows to events / bars to events", ratio("bars-events", "trial"), "x", 10.0, True),
    ("ticks/s at 1,000 assets / at 50, as many ticks",
     _speed("events@1000", "events@50", "ticks"), "x", 0.5, True),
    ("ticks/s at 1,000 assets / at 50, 20 times as many",
     _speed("events@1000-each", "events@50", "ticks"), "x", 0.5, True),
    ("frames to events, 1,000 assets, as many ticks / msgspec decode",
     _speed("events@1000", "decode", "frames"), "x", None, True),
    *(
        (f"minute close, {n:,} assets, p95", of(f"close@{n}", _quantile("close_ms", "p95")), *bar)
        for n, bar in (
            (35, ("ms", 25.0, False)),
            (200, ("ms", 100.0, False)),
            (1000, ("ms", 400.0, False)),
        )
    ),
    *(
        (f"minute close, {n:,} assets, p50", of(f"close@{n}", _quantile("close_ms", "p50")), *bar)
        for n, bar in ((n, ("ms", None, False)) for n in (35, 200, 1000))
    ),
    (
        "memory growth, second half of the replay",
        of("events", lambda x: x["growth_mb"] / x["end_mb"] if "growth_mb" in x else None),
        "of all",
        FLAT_SHARE,
        False,
    ),
    ("memory of an asset, after a week", _after_a_week, "kB", 200.0, False),
    ("memory of an asset, at rest", _per_asset("rss_mb"), "kB", 200.0, False),
    ("memory of an asset, at the peak", _per_asset("peak_mb"), "kB", 200.0, False),
    ("snapshot stall, 200 assets, p95", of("close@200", _quantile("stall_ms", "p95")), "ms", 50.0,
     False),
    ("resume, 200 assets", of("close@200", lambda x: x["resume_s"]), "s", None, False),
    ("alpha demo, again", of("demo", lambda x: x["seconds"]), "s", 15.0, False),
    ("alpha demo --fresh", of("demo-fresh", lambda x: x["seconds"]), "s", 15.0, False),
    ("import of the CLI", of("import", lambda x: x["seconds"]), "s", 0.3, False),
    ("alpha --help", of("help", lambda x: x["seconds"]), "s", None, False),
    ("storing 200 rows / a bare COPY, p95", of("postgres", lambda x: x["ratio_to_bare"]["p95"]),
     "x", None, False),
    ("sending 200 events / a bare producer, p95",
     of("kafka", lambda x: x["ratio_to_bare"]["sink"]["p95"]), "x", None, False),
)  # fmt: skip


def figures(contenders: Rounds) -> list[Figure]:
    """Return the figures that these contenders give."""
    found = []
    for name, get, unit, bar, at_least in FIGURES:
        value = get(contenders)
        if value is not None:
            met = None if bar is None else (value >= bar if at_least else value <= bar)
            found.append(Figure(name, round(value, 4), unit, bar, at_least, met))
    return found


# --- on the screen -------------------------------------------------------------------------------


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console(width=100 if not Console().is_terminal else None)
    about = found["machine"]
    libraries = ", ".join(f"{name} {v}" for name, v in about["libraries"].items())
    console.print(
        f"{about['processor']}, {about['cores']} cores, {about['memory_gb']} GB, Linux"
        f" {about['kernel']}, load {about['load_1m']}; Python {about['python']}, inner loops"
        f" {about['inner_loops']}; {libraries}; commit {found['commit']}, size {found['size']}"
    )
    console.print(_contenders(found))
    for name in ("stages", "operators"):
        if any("shares" in x for x in found["contenders"].get(name, ())):
            console.print(_shares(name, found["contenders"][name][-1]))
    console.print(_figures(found["figures"]))


def _contenders(found: dict[str, Any]) -> Table:
    table = Table("contender", title="medians")
    heads = ("rounds", "s", "cpu s", "frames/s", "x decode", "by cpu", "peak MB", "checksum")
    for head in heads:
        table.add_column(head, justify="right")
    for name, rounds in found["contenders"].items():
        last, middle = rounds[-1], found["medians"][name]
        if "not_run" in last:
            table.add_row(name, f"not run: {last['not_run'][:60]}")
            continue
        seconds, frames = middle.get("seconds"), last.get("frames")
        times = ratio("decode", name)(found["contenders"]) if frames else None
        by_cpu = ratio("decode", name, "cpu_s")(found["contenders"]) if frames else None
        alike = last.get("input") == _input(found, "decode")
        table.add_row(
            *(name, str(len(rounds)), _text(seconds, 3), _text(middle.get("cpu_s"), 3)),
            f"{frames / seconds:,.0f}" if frames and seconds else "",
            *(_text(times if alike else None, 3), _text(by_cpu if alike else None, 3)),
            _text(middle.get("peak_mb"), 0),
            last.get("checksum", "")[:8],
        )
    return table


def _input(found: dict[str, Any], name: str) -> str | None:
    rounds = found["contenders"].get(name)
    return rounds[-1].get("input") if rounds else None


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _shares(title: str, found: dict[str, Any]) -> Table:
    table = Table("step", title=title)
    for head in ("s", "share"):
        table.add_column(head, justify="right")
    for name, seconds in found[title].items():
        share = found["shares"].get(name)
        if share is None or share >= 0.001:
            table.add_row(name, _text(seconds, 3), "beside" if share is None else f"{share:.1%}")
    return table


def _figures(figures: list[dict[str, Any]]) -> Table:
    table = Table("must be shown", title="figures")
    for head in ("figure", "bar", ""):
        table.add_column(head, justify="right")
    for line in figures:
        table.add_row(*figure_texts(line))
    return table


def figure_texts(line: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return a figure as (name, value, bar, met or missed)."""
    unit, bar = line["unit"], line["bar"]
    sign = "at least" if line["at_least"] else "at most"
    verdict = {None: "", True: "met", False: "missed"}[line["met"]]
    return (
        line["name"],
        f"{_short(line['value'])} {unit}",
        "" if bar is None else f"{sign} {_short(bar)} {unit}",
        verdict,
    )


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
