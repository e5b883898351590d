"""A flame graph of one contender: `make flame`, or `python -m bench.flame [--what NAME]`.

py-spy samples the contender's process, the compiled inner loops as well (--native); a width is a
share of its time. The SVG opens in a browser. --quick: on the small input.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from bench.inputs import CACHE, ROOT, Bars, Feed, ready
from bench.run import CONTENDERS

RATE_HZ = 100


def main(arguments: list[str] | None = None) -> int:
    """Sample a contender and write the graph; the exit code is that of py-spy."""
    parser = argparse.ArgumentParser(prog="python -m bench.flame", description=__doc__)
    parser.add_argument("--what", default="events", choices=sorted(CONTENDERS))
    parser.add_argument("--assets", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="half an hour of feed, not two hours")
    parser.add_argument("--out", type=Path, help="default: var/bench/flame-NAME.svg")
    given = parser.parse_args(arguments)
    if given.assets < 1:
        parser.error(f"--assets: expected at least 1, found {given.assets}")
    spy = Path(sys.executable).with_name("py-spy")
    command = str(spy) if spy.exists() else shutil.which("py-spy")
    if command is None:
        print("py-spy is not installed: `make flame` installs it", file=sys.stderr)
        return 2
    if given.what in ("bars-events", "trial"):
        meta = ready(Bars("bars", 20, 1.0 if given.quick else 6.0))
    else:
        rate = 50 / given.assets
        meta = ready(Feed("feed", given.assets, 30 if given.quick else 120, rate=rate))
    out = given.out or CACHE / f"flame-{given.what}.svg"
    out.parent.mkdir(parents=True, exist_ok=True)
    options = ["--native", "--rate", str(RATE_HZ), "--format", "flamegraph", "--output", str(out)]
    work = [sys.executable, "-m", "bench.run", given.what, json.dumps(meta)]
    done = subprocess.run([command, "record", *options, "--", *work], cwd=ROOT, check=False)
    if done.returncode == 0:
        print(f"written: {out}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
