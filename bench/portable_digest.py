"""What this interpreter makes of some logs, as one digest; runs where nothing else does.

    python -m bench.portable_digest LOG ...

Rules of this file: operators, packs and the standard library alone; logs are plain text. With
ALPHA_PLAIN in the environment the kernel runs as text; with PORTABILITY_NUMPY numpy is loaded, too;
PORTABILITY_PACKS names the detector packs.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from operators import native

if "ALPHA_PLAIN" in os.environ:  # as if the inner loops had not been compiled
    sys.modules.update(dict.fromkeys(native.expected_modules()))  # type: ignore[arg-type]

from operators import kernel
from operators.feed import FeedReader, FeedState
from operators.formulas import elementary
from operators.loop import Loop
from operators.publish import (
    audit_json,
    dead_json,
    event_json,
    frame_json,
    row_json,
    suppression_json,
)
from operators.records import MarketPhase
from packs.loader import load_packs

ROOT = Path(__file__).parents[1]
PACKS = tuple(os.environ.get("PORTABILITY_PACKS", "v0.1 v0.2").split())
CHUNK_LINES = 2000
ARGUMENTS = 20_000
_LIBM: tuple[Callable[[float], float], ...] = (
    *(math.log, math.log1p, math.exp, math.asinh, math.sin, math.tan),
    lambda x: math.pow(abs(x) % 50.0 + 0.1, 1.7),
)


def digest(logs: Iterable[Path]) -> dict[str, Any]:
    """Return the digest, what it is made of, and which world this is.

    libm : a digest of the C library's own functions: where it differs, so does the code that ran.
    """
    parts = {
        f"{log.stem} {pack}": products_digest(log, pack) for log in sorted(logs) for pack in PACKS
    }
    parts["elementary"] = elementary_digest()
    whole = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return {
        "digest": whole,
        "parts": parts,
        "libm": libm_digest(),
        "kernel": kernel.FORM,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
    }


def products_digest(log: Path, pack: str) -> str:
    """Return the SHA-256 of all products of a log, each line after the name of its product."""
    packs = load_packs(detectors=ROOT / "packs" / "detectors" / f"{pack}.yaml")
    lattice = packs.features.lattice
    feed = FeedReader(
        FeedState(),
        lateness_ms=lattice.lateness_ms,
        grace_ms=lattice.grace_ms,
        arrival_jump_gap_ms=lattice.arrival_jump_gap_ms,
    )
    loop, sha = Loop(packs, "portability"), hashlib.sha256()

    def put(product: bytes, texts: Iterable[bytes]) -> None:
        for text in texts:
            sha.update(b"%b %b\n" % (product, text))

    for lines in _chunks(log):
        for output in loop.ticks(feed.read(lines)):
            if isinstance(output, MarketPhase):
                put(b"row", map(row_json, output.rows))
                put(b"frame", map(frame_json, output.frames))
                put(b"audit", audit_json(output))
            else:
                put(b"event", map(event_json, output.events))
                put(b"shadow", map(event_json, output.shadow))
                put(b"suppressed", map(suppression_json, output.suppressed))
                put(b"dead", map(dead_json, output.dead))
    return sha.hexdigest()


def elementary_digest() -> str:
    """Return the SHA-256 of our own functions at many arguments of all sizes, to the last bit."""
    sha = hashlib.sha256()
    for x in _arguments():
        size = abs(x)
        values = (
            elementary.log(size),
            elementary.log1p(size),
            elementary.asinh(x),
            elementary.pow_3_8(size),
            elementary.exp(math.fmod(x, 700.0)),
            elementary.sigmoid(math.fmod(x, 40.0)),
            elementary.round12(x),
        )
        sha.update(" ".join(value.hex() for value in values).encode())
    return sha.hexdigest()


def libm_digest() -> str:
    """Return the same of the C library: where it differs, so does the code that ran."""
    sha = hashlib.sha256()
    for x in _arguments():
        small = abs(math.fmod(x, 700.0)) or 1.0
        sha.update(" ".join(function(small).hex() for function in _LIBM).encode())
    return sha.hexdigest()


def _arguments() -> Iterator[float]:
    random = Random(20_250_903)
    for _ in range(ARGUMENTS):
        size = math.ldexp(0.5 + random.random() / 2, random.getrandbits(6) - 30)
        yield size if random.getrandbits(1) else -size


def _chunks(log: Path) -> Iterator[list[bytes]]:
    with log.open("rb") as file:
        lines: list[bytes] = []
        for line in file:
            lines.append(line.rstrip(b"\n"))
            if len(lines) == CHUNK_LINES:
                yield lines
                lines = []
    yield lines


if __name__ == "__main__":
    if "PORTABILITY_NUMPY" in os.environ:
        importlib.import_module("numpy")
    print(json.dumps(digest(map(Path, sys.argv[1:]))))
