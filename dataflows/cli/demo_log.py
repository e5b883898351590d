"""The recording of the demo: generated once, kept, and made again when it would differ.

Rules of this file: a directory that holds anything the demo did not make is refused, because the
demo replaces and removes files; the mark of its own directories is the manifest, which also says
what the log was generated from.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import orjson

from dataflows.cli.failures import USAGE, Problem
from dataflows.cli.logs import LogSpan
from dataflows.cli.places import made_directory
from dataflows.connectors.ticklog import TickLogWriter
from dataflows.replay import PRODUCTS, product_path
from fixtures import market
from fixtures.market import MINUTE_MS, Scenario, lines

MANIFEST = "demo.json"
_TICKS, _UNFINISHED = "ticks", "ticks.new"
_BLOCK_BYTES = 1 << 18


class Manifest(msgspec.Struct):
    """What a demo directory holds.

    origin : what the log was generated from, empty until it is complete. database : what the rows
    of the database were made from, empty without one.
    """

    origin: str = ""
    lines: int = 0
    minutes: int = 0
    assets: int = 0
    first_ms: int = 0
    last_ms: int = 0
    database: str = ""


def log_of(directory: Path) -> Path:
    """Return where the log of a demo directory lies."""
    return directory / _TICKS


def claim(directory: Path) -> Manifest:
    """Make a directory the demo's own and return its manifest; refuse one of somebody else."""
    path = directory / MANIFEST
    if path.is_file():
        try:
            return msgspec.json.decode(path.read_bytes(), type=Manifest)
        except msgspec.DecodeError:
            return Manifest()
    made_directory("--dir", directory)
    others = sorted(entry.name for entry in directory.iterdir())
    if others:
        raise Problem(
            f"--dir {directory}: expected a new directory or one of an earlier demo,"
            f" found {', '.join(others[:3])} there",
            USAGE,
        )
    save(directory, Manifest())
    return Manifest()


def clear(directory: Path) -> None:
    """Remove the log and the files of an earlier demo."""
    for name in (_TICKS, _UNFINISHED):
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in PRODUCTS:
        product_path(directory, name).unlink(missing_ok=True)
    save(directory, Manifest())


def save(directory: Path, manifest: Manifest) -> None:
    """Write the manifest of a demo directory."""
    (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))


def is_current(manifest: Manifest, scenario: Scenario, directory: Path) -> bool:
    """Tell whether the log that is there is the one the scenario would give."""
    return manifest.origin == origin_of(scenario) and log_of(directory).is_dir()


def generate(
    scenario: Scenario, directory: Path, on_progress: Callable[[int, int], None]
) -> Manifest:
    """Write the log of a scenario and return the new manifest.

    on_progress : is told the log time that was reached, epoch ms, and how many lines it took.
    """
    clear(directory)
    unfinished = directory / _UNFINISHED
    writer = TickLogWriter(unfinished)
    manifest = Manifest(minutes=scenario.minutes, assets=len(scenario.assets))
    for block, count in _blocks(scenario):
        first_ns, last_ns = _stamp(block), _stamp(block[block.rindex(b"\n", 0, -1) + 1 :])
        writer.write_lines(first_ns, block)
        manifest.lines += count
        manifest.first_ms = manifest.first_ms or first_ns // 1_000_000
        manifest.last_ms = last_ns // 1_000_000
        on_progress(manifest.last_ms, count)
    writer.close()
    unfinished.rename(log_of(directory))
    manifest.origin = origin_of(scenario)
    save(directory, manifest)
    return manifest


def expected_span(scenario: Scenario) -> LogSpan:
    """Return where the log of a scenario will start and end."""
    return LogSpan(scenario.start_ms, scenario.start_ms + scenario.minutes * MINUTE_MS)


def origin_of(scenario: Scenario) -> str:
    """Return the digest of what the log depends on: the scenario and the generator."""
    digest = hashlib.sha256(orjson.dumps(scenario, option=orjson.OPT_SORT_KEYS))
    digest.update(Path(market.__file__).read_bytes())
    return f"sha256:{digest.hexdigest()}"


def _blocks(scenario: Scenario) -> Iterator[tuple[bytes, int]]:
    """Yield lines a block at a time, and how many: a write for each of them would be slow."""
    held: list[bytes] = []
    size = 0
    for line in lines(scenario):
        held.append(line)
        size += len(line)
        if size >= _BLOCK_BYTES:
            yield b"".join(held), len(held)
            held, size = [], 0
    if held:
        yield b"".join(held), len(held)


def _stamp(line: bytes) -> int:
    return int(line[: line.index(b" ")])
