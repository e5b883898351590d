"""The benchmark suite: `make bench`, or `python -m bench [--quick] [--only NAME...] [--rounds N]`.

Makes its inputs (seeded, kept under var/bench/), lets every contender run once a round, each in a
process of its own, and prints medians, ratios within a round, and what must be shown beside its
bar. docs/benchmarks.md says what each figure is.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench import pages, report, suite
from bench.pages import RESULT


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write; 1 if contenders do not agree on what they computed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the size, one round")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these alone; see --list")
    parser.add_argument("--rounds", type=int, help="3, or 1 with --quick")
    parser.add_argument("--bars", type=Path, help="a bars file in the place of the generated one")
    parser.add_argument("--out", type=Path, help="the JSON; what it holds of others is kept")
    parser.add_argument("--commit", default="unknown", help="for the JSON")
    parser.add_argument("--list", action="store_true", help="name the contenders")
    given = parser.parse_args(arguments)
    if given.rounds is not None and given.rounds < 1:
        parser.error(f"--rounds: expected at least 1, found {given.rounds}")
    if given.bars is not None and not given.bars.is_file():
        parser.error(f"--bars {given.bars}: expected a bars file, found none")
    contenders = suite.contenders(quick=given.quick, bars=given.bars)
    if given.list:
        width = max(len(c.name) for c in contenders) + 2
        print("\n".join(f"{c.name:<{width}}{c.what}" for c in contenders))
        return 0
    if given.only:
        unknown = set(given.only) - {c.name.partition("@")[0] for c in contenders}
        unknown -= {c.name for c in contenders}
        if unknown:
            parser.error(f"no such contender: {', '.join(sorted(unknown))}; --list names them")
        exact = {c.name for c in contenders} & {*given.only}
        short = {*given.only} - exact  # `close` is close@35, close@200, ..., but `events` is events
        contenders = [c for c in contenders if c.name in exact or c.name.partition("@")[0] in short]
    rounds = given.rounds or (1 if given.quick else suite.ROUNDS)
    out = given.out or (None if given.quick or given.only else RESULT)
    about = {"size": "quick" if given.quick else "full", "commit": given.commit}
    found = suite.run(contenders, rounds)
    document = report.document(about, found, out)
    report.show(document)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n")
        print(f"written: {out}")
        if out.resolve() == RESULT:
            pages.write(document)
    for fault in document["faults"]:
        print(fault, file=sys.stderr)
    return int(bool(document["faults"]))


if __name__ == "__main__":
    sys.exit(main())
