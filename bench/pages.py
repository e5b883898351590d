"""The tables of docs/benchmarks.md and docs/capacity.md, from the last measured figures.

    python -m bench.pages [--write]

Without --write it says which page is not what bench/results/bench.json says; a test does so, too.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.inputs import ROOT
from bench.report import figure_texts, ratio

RESULT = ROOT / "bench" / "results" / "bench.json"
PAGES = (ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "capacity.md")
_BLOCK = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

SHOWN_SHARE = 0.001

Document = dict[str, Any]


def filled(page: str, found: Document) -> str:
    """Return a page with each block between `<!-- bench: NAME -->` and `<!-- end -->` made anew."""
    return _BLOCK.sub(lambda block: block[1] + BLOCKS[block[2]](found) + block[3], page)


def _table(head: str, lines: list[str]) -> str:
    rule = "|---" * (head.count("|") - 1) + "|"
    return "\n".join((head, rule, *lines)) + "\n"


def _machine(found: Document) -> str:
    about = found["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in about["libraries"].items())
    size = {"full": "", "quick": " Inputs of a fiftieth (`--quick`)."}[found["size"]]
    return (
        f"{about['processor']}, {about['cores']} cores, {about['memory_gb']} GB, Linux"
        f" {about['kernel']}, load {about['load_1m']} at the end; Python {about['python']}, inner"
        f" loops {about['inner_loops']}; {libraries}; commit {found['commit']}.{size}\n"
    )


def _figures(found: Document) -> str:
    lines = [f"| {' | '.join(figure_texts(line))} |" for line in found["figures"]]
    return _table("| figure | value | bar | |", lines)


def _contenders(found: Document) -> str:
    lines = []
    for name, middle in found["medians"].items():
        rounds = found["contenders"][name]
        frames = rounds[-1].get("frames")
        if "seconds" in middle:
            rate = f"{frames / middle['seconds']:,.0f}" if frames else ""
            seconds, peak = f"{middle['seconds']:.3g}", middle.get("peak_mb", "")
            times = _times_decode(found, name)
            lines.append(f"| `{name}` | {len(rounds)} | {seconds} | {rate} | {times} | {peak} |")
    return _table("| contender | rounds | seconds | frames/s | x decode | peak MB |", lines)


def _times_decode(found: Document, name: str) -> str:
    """Return the ratio to `decode`, where both read the same."""
    contenders = found["contenders"]
    reference = contenders.get("decode", [{}])[-1].get("input")
    if reference is None or contenders[name][-1].get("input") != reference:
        return ""
    times = ratio("decode", name)(contenders)
    return "" if times is None else f"{times:.3g}"


def _shares(found: Document, contender: str, title: str, least: float) -> str:
    """Return seconds and share by name of a contender that measures its parts."""
    rounds = [x for x in found["contenders"].get(contender, ()) if "shares" in x]
    if not rounds:
        return "Not measured.\n"
    seconds, shares = rounds[-1][contender], rounds[-1]["shares"]
    lines = [
        f"| `{name}` | {seconds[name]:.3g} | {share:.1%} |"
        for name, share in shares.items()
        if share >= least
    ]
    return _table(f"| {title} | seconds | share |", lines)


def _snapshots(found: Document) -> str:
    lines = []
    for n in (35, 200, 1000):
        rounds = [x for x in found["contenders"].get(f"close@{n}", ()) if "resume_s" in x]
        for last in rounds[-1:]:
            stall, codecs = last["stall_ms"], last["codecs_ms"]
            ours = f"{codecs.get('assemble', 0.0):.3g} | {codecs.get('context', 0.0):.3g}"
            whole = f"{stall['p50']:.3g} | {stall['p95']:.3g}" if stall else "-- | --"
            lines.append(f"| {n:,} | {whole} | {ours} | {last['resume_s']:.3g} |")
    head = "| assets | stall p50, ms | p95 | codec of assemble | of context | resume, s |"
    return _table(head, lines)


def _capacity(found: Document) -> str:
    """Say what an asset, a day and a minute take."""
    values = {line["name"]: line["value"] for line in found["figures"]}
    middle, rounds = found["medians"], found["contenders"]
    lines: list[str] = []

    def add(what: str, text: str) -> None:
        lines.append(f"| {what} | {text} |")

    if "memory of an asset, at rest" in values:
        base = middle["close@35"]["rss_mb"] - 35 * values["memory of an asset, at rest"] / 1024
        add("memory of the process without assets", f"{base:.0f} MB")
        add("memory an asset adds, just begun", f"{values['memory of an asset, at rest']:.0f} kB")
        if "memory of an asset, after a week" in values:
            add("after a week", f"{values['memory of an asset, after a week']:.0f} kB")
        peak = values["memory of an asset, at the peak"]
        add("the same at the peak, with recovery", f"{peak:.0f} kB")
    for n in (35, 200, 1000):
        ran = [x for x in rounds.get(f"close@{n}", ()) if "store_mb" in x]
        if ran:
            half, most = (values[f"minute close, {n:,} assets, {q}"] for q in ("p50", "p95"))
            add(f"minute close, {n:,} assets", f"{half:.3g} ms; 95th percentile {most:.3g} ms")
            add(f"recovery store, {n:,} assets", f"{middle[f'close@{n}']['store_mb']:.0f} MB")
    for n in (50, 1000):
        ran = [x for x in rounds.get(f"events@{n}", ()) if "written_bytes" in x]
        if ran:
            feed_s = ran[-1]["minutes"] * 60
            busy = middle[f"events@{n}"]["cpu_s"] / feed_s
            add(f"one core at {n:,} assets and {ran[-1]['ticks'] / feed_s:.0f} ticks/s",
                f"{busy:.1%}")  # fmt: skip
            day = ran[-1]["written_bytes"] / feed_s * 86_400 / n
            add(f"rows, frames and events an asset and day, {n:,} assets", f"{day / 1e6:.1f} MB")
    ran = [x for x in rounds.get("events", ()) if "disk_bytes" in x]
    if ran:
        share = ran[-1]["disk_bytes"] / ran[-1]["frames"]
        raw = ran[-1]["log_bytes"] / ran[-1]["frames"]
        add("tick log, a frame", f"{share:.0f} bytes on disk, {raw:.0f} before compression")
        day = ran[-1]["disk_bytes"] / ran[-1]["minutes"] * 1440 / ran[-1]["assets"]
        rate = ran[-1]["ticks"] / ran[-1]["minutes"] / 60 / ran[-1]["assets"]
        add(f"tick log, an asset and day at {rate:.1f} ticks/s", f"{day / 1e6:.0f} MB")
    return _table("| | |", lines)


BLOCKS: dict[str, Callable[[Document], str]] = {
    "machine": _machine,
    "figures": _figures,
    "contenders": _contenders,
    "stages": lambda found: _shares(found, "stages", "step", 0.0),
    "operators": lambda found: _shares(found, "operators", "operator", SHOWN_SHARE),
    "snapshots": _snapshots,
    "capacity": _capacity,
}


def stale(found: Document) -> list[Path]:
    """Return the pages that say something else."""
    return [page for page in PAGES if filled(page.read_text(), found) != page.read_text()]


def write(found: Document) -> None:
    """Make the blocks of the pages anew."""
    for page in PAGES:
        page.write_text(filled(page.read_text(), found))


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or say which are stale; 1 if one is."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args(arguments)
    found = json.loads(RESULT.read_text())
    if given.write:
        write(found)
    pages = stale(found)
    for page in pages:
        print(f"{page}: not as in {RESULT}; python -m bench.pages --write", file=sys.stderr)
    return int(bool(pages))


if __name__ == "__main__":
    sys.exit(main())
