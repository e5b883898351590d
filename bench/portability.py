"""One digest of the same logs, computed in as many worlds as can be had: it must be one value.

    python -m bench.portability [--runner NAME=COMMAND ...] [--out FILE]

Makes the golden episodes once, takes the frozen golden windows beside them, and lets each world run
them through every step: other Pythons, the plain and the compiled kernel, hash seeds, locale and
time zone, numpy without its CPU dispatch, C libraries that take other code paths, and whatever
`--runner` names, such as another architecture (docs/verify.md says how). Exit code 1 if a digest
differs. `libm` is a control: a digest of the C library's own functions, which need not be the same.

What is run is `bench/portable_digest.py`.  Numerics 11.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from fixtures.market import episode_scenario, lines

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "fixtures" / "golden"
RESULT = ROOT / "bench" / "results" / "portability.json"
NEEDED = ("msgspec", "orjson", "yaml", "pydantic")
TIMEOUT_S = 900
AVX = ("AVX2", "FMA", "FMA4", "AVX", "AVX512F", "AVX512VL", "ERMS", "BMI1", "BMI2")
NUMPY = ("AVX2", "FMA3", "AVX512F", "AVX512CD", "AVX512_SKX", "SSE41", "SSE42", "POPCNT", "AVX")


@dataclass(frozen=True)
class World:
    """A way to run Python. command : the interpreter."""

    name: str
    command: tuple[str, ...] = (sys.executable,)
    environment: Mapping[str, str] = field(default_factory=dict)


def golden_logs(directory: Path) -> list[Path]:
    """Write the golden episodes and unpack the frozen windows, as plain text."""
    episodes = directory / "episodes.log"
    with episodes.open("wb") as file:
        file.writelines(lines(episode_scenario()))
    found = [episodes]
    for frozen in sorted(GOLDEN.glob("windows/*/log.zst")):
        path = directory / f"{frozen.parent.name}.log"
        with frozen.open("rb") as packed, path.open("wb") as file:
            zstandard.ZstdDecompressor().copy_stream(packed, file)
        found.append(path)
    return found


def cheap_worlds() -> list[World]:
    """Return the worlds that this interpreter can make by itself."""
    here = platform.libc_ver()[0] == "glibc" and platform.machine() == "x86_64"
    worlds = [
        World("here"),
        World("plain kernel", environment={"ALPHA_PLAIN": "1"}),
        World("hash seed 0, C locale", environment={"PYTHONHASHSEED": "0", "LC_ALL": "C"}),
        World(
            "hash seed 4242, Kathmandu",
            environment={
                "PYTHONHASHSEED": "4242",
                "TZ": "Asia/Kathmandu",
                "LC_ALL": "de_DE.UTF-8",
            },
        ),
    ]
    if importlib.util.find_spec("numpy") is not None:
        off = {"NPY_DISABLE_CPU_FEATURES": " ".join(NUMPY), "PORTABILITY_NUMPY": "1"}
        worlds.append(World("numpy without dispatch", environment=off))
    if here:
        off = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=" + ",".join(f"-{name}" for name in AVX)}
        worlds.append(World("glibc without AVX2 and FMA", environment=off))
        worlds.append(World("the same, plain kernel", environment={**off, "ALPHA_PLAIN": "1"}))
    return worlds


def other_pythons() -> tuple[list[World], list[str]]:
    """Return Pythons of the other supported version that have what is needed, and why not."""
    version = "3.12" if sys.version_info[:2] == (3, 11) else "3.11"
    name = f"python{version}"
    pyenv = Path.home() / ".pyenv" / "versions"
    found = [shutil.which(name), *sorted(pyenv.glob(f"{version}.*/bin/{name}"))]
    given = os.environ.get("PORTABILITY_PYTHON")
    missing = []
    for path in filter(None, [given, *map(str, filter(None, found))]):
        done = subprocess.run(
            [path, "-c", f"import {', '.join(NEEDED)}"], capture_output=True, check=False
        )
        if done.returncode == 0:
            return [World(f"Python {version}", command=(path,))], []
        missing.append(f"{path}: has not all of {', '.join(NEEDED)}")
    return [], missing or [f"{name}: none found"]


def run_in(world: World, logs: Iterable[Path]) -> dict[str, Any]:
    """Return what a world makes of the logs. Raises `CalledProcessError`."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [*world.command, "-m", "bench.portable_digest", *map(str, logs)],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **world.environment},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    """Print the table, write the result, return 1 if it is not one digest."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runner", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    others, missing = other_pythons()
    named = [runner.partition("=") for runner in given.runner]
    asked = [World(name, command=tuple(shlex.split(command))) for name, _, command in named]
    with tempfile.TemporaryDirectory(prefix="portability-") as folder:
        logs = golden_logs(Path(folder))
        found = {w.name: run_in(w, logs) for w in _told([*cheap_worlds(), *others, *asked])}
    values = {result["digest"] for result in found.values()}
    for name, result in found.items():
        about = (result["machine"], result["python"], result["kernel"])
        print(
            f"{name:<28}{'  '.join(f'{word:<8}' for word in about)}  {result['digest'][:16]}"
            f"  libm {result['libm'][:8]}"
        )
    for why in missing:
        print(f"not run: {why}")
    print(f"{len(found)} worlds, {len(logs)} logs, {len(values)} digest{'s'[: len(values) - 1]}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    document = {"one_value": len(values) == 1, "worlds": found, "not_run": missing}
    given.out.write_text(json.dumps(document, indent=2) + "\n")
    return 0 if len(values) == 1 else 1


def _told(worlds: Iterable[World]) -> Iterator[World]:
    for world in worlds:
        print(f"running: {world.name}", file=sys.stderr)
        yield world


if __name__ == "__main__":
    sys.exit(main())
