"""Who takes part, on which input, and the rounds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.inputs import CACHE, ROOT, Bars, Feed, ready, tables
from dataflows.cli.group import COMMANDS

ROUNDS = 3
SLOW_S = 150.0  # what takes longer in the first round has no other: the table says so
TIMEOUT_S = 1800
PAIRS, PAIR_DAYS = 20, 30.0
ALPHA = "import sys; from dataflows.cli import main; sys.argv = ['alpha', {}]; main()"

Found = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """One line of the table. run : runs it once and returns what it measured.

    prepare : is called once, before the rounds. once : not repeated, it has rounds of its own.
    """

    name: str
    what: str
    run: Callable[[], Found]
    prepare: Callable[[], None] = lambda: None
    once: bool = False


def run(contenders: list[Contender], rounds: int) -> dict[str, list[Found]]:
    """Return what each contender measured, by name, a round after the other.

    What cannot run here has one entry, with `not_run`.
    """
    found: dict[str, list[Found]] = {}
    for contender in contenders:
        _say(f"preparing: {contender.name}")
        contender.prepare()
    for number in range(rounds):
        for contender in contenders:
            before = found.get(contender.name)
            if before and (contender.once or before[0].get("seconds", 0.0) > SLOW_S):
                continue
            _say(f"round {number + 1} of {rounds}: {contender.name}")
            found.setdefault(contender.name, []).append(contender.run())
    _say("")
    return found


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def contenders(*, quick: bool = False, bars: Path | None = None) -> list[Contender]:
    """Return all that can be asked for, in the order of a round."""
    minutes, even = (3, 5) if quick else (120, 21)
    main = Feed("feed", 50, minutes)
    alike = {n: Feed("feed", n, even, rate=50 / n) for n in (35, 50, 200, 1000)}
    crowd = Feed("feed", 1000, 1 if quick else 5)
    pairs = Bars("bars", PAIRS, PAIR_DAYS / 50 if quick else PAIR_DAYS)
    found = [
        _own("read", "log to lines: decompress, cut", main),
        _own("decode", "log to typed objects, msgspec", main),
        _own("decode-bare", "frames in memory to typed objects, msgspec", main),
        _own("orjson", "log to dictionaries, orjson", main),
        _own("bytewax", "log to a tenth of the columns, stock windows", main),
        _own("polars", "ticks in Parquet to a tenth of the columns", main, with_tables=True),
        _own("duckdb", "ticks in Parquet to a tenth of the columns", main, with_tables=True),
        _own("bars", "log to raw minute columns, engine", main),
        _own("rows", "log to feature rows with all columns, engine", main),
        _own("events", "log to files: alpha replay LOG", main),
        _own("events-warm", "the same, with baselines of a week to begin with", main),
    ]
    if "compact" in COMMANDS:
        found += [
            _own("cache", "columnar cache to files: alpha replay LOG", main, compact=True),
            _own("cache-ticks", "the same without its bars", main, compact=True),
        ]
    found += [
        _own("events@50", "log to files at 50 assets", alike[50], entry="events"),
        _own("events@1000", "as many ticks of 1,000 assets", alike[1000], entry="events"),
        _own(
            "events@1000-each",
            "20 times as many: each asset's rate as at 50",
            crowd,
            entry="events",
        ),
        _bars("bars-events", "20 pairs x 30 days to files: alpha replay --bars", pairs, bars),
    ]
    found += [
        _bars("trial", "their rows to events: alpha trial", pairs, bars),
    ]
    found += [
        _own(f"close@{n}", f"a minute of {n} assets closes, recovery on", alike[n], entry="close")
        for n in (35, 200, 1000)
    ]
    found += [
        _own("state", "memory of normalisation, an asset", main),
        _own("stages", "the steps one by one, plain loop", main),
        _own("operators", "the steps by the engine's metrics", main),
        Contender("import", "python -c 'import dataflows.cli'", _python("import dataflows.cli")),
        Contender("help", "alpha --help", _alpha("--help")),
        Contender("demo", "alpha demo, again in its directory", _demo(), _demo_once),
        Contender(
            "demo-fresh", "alpha demo --fresh: new directory, new database", _demo("--fresh")
        ),
        _tool("postgres", "a minute's rows beside a bare COPY", "bench_postgres", quick),
        _tool("kafka", "a minute's events beside a bare producer", "bench_kafka", quick),
    ]
    return found


# --- contenders in bench/run.py ------------------------------------------------------------------


def _own(
    name: str,
    what: str,
    feed: Feed,
    *,
    entry: str = "",
    with_tables: bool = False,
    compact: bool = False,
) -> Contender:
    def prepare() -> None:
        folder = Path(ready(feed)["folder"])
        if with_tables:
            from bench.references import tick_rows  # noqa: PLC0415 - needs the engine

            tables(folder, lambda log: tick_rows(ready(feed)))
        if compact:
            _alpha("compact", str(folder / "log"), "--whole", "--quiet")()

    return Contender(name, what, lambda: own(entry or name, ready(feed)), prepare)


def _bars(name: str, what: str, wanted: Bars, given: Path | None) -> Contender:
    def meta() -> Found:
        if given is None:
            return ready(wanted)
        path = given.resolve()
        with path.open("rb") as file:
            rows = sum(1 for _ in file) - 1
        size = path.stat().st_size
        folder = CACHE / f"given-{path.stem}-{size}"
        folder.mkdir(parents=True, exist_ok=True)
        return {"folder": str(folder), "bars": str(path), "rows": rows, "bytes": size}

    def prepare() -> None:
        meta()

    return Contender(name, what, lambda: own(name, meta()), prepare)


def own(name: str, meta: Found) -> Found:
    """Run a contender of `bench.run` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.run", name, json.dumps(meta)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        return {"not_run": _reason(done.stderr)}
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return {**found, **_facts(meta)}


def _facts(meta: Found) -> Found:
    """Return what the report says of an input."""
    told = ("assets", "minutes", "ticks", "disk_bytes")
    known: Found = {name: meta[name] for name in told if name in meta}
    source = Path(meta["bars"] if "bars" in meta else meta["folder"]).name
    return {**known, "input": source, "log_bytes": meta["bytes"]}


def _reason(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]


# --- commands and tools --------------------------------------------------------------------------


def _checked(command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=ROOT, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {_reason(done.stderr)}")
    return done.stdout


def _clocked(command: list[str]) -> Found:
    began = time.perf_counter()
    _checked(command)
    return {"seconds": time.perf_counter() - began}


def _python(text: str) -> Callable[[], Found]:
    return lambda: _clocked([sys.executable, "-c", text])


def _alpha(*arguments: str) -> Callable[[], Found]:
    return _python(ALPHA.format(", ".join(map(repr, arguments))))


def _demo(*options: str) -> Callable[[], Found]:
    return _alpha("demo", "--dir", str(CACHE / "demo"), "--json", *options)


def _demo_once() -> None:
    if not (CACHE / "demo").exists():  # what makes an environment warm
        _demo()()


def _tool(name: str, what: str, module: str, quick: bool) -> Contender:
    def once() -> Found:
        command = [sys.executable, "-m", f"bench.{module}"]
        try:
            found: Found = json.loads(_checked([*command, *(("--rounds", "20") if quick else ())]))
        except RuntimeError as error:
            return {"not_run": str(error)}
        return found

    return Contender(name, what, once, once=True)
