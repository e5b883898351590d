"""A replay in parts: each in a process of its own, the files joined in their order.

Rules of this file: a part is what `replay` makes of it, nothing else; the files of the parts are
beside the products until they are joined, and gone however that ends; those of a parent that was
killed go with the next replay into the directory; no child outlives its parent.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Thread

from dataflows.cli.failures import FAILED, Problem, failure_of
from dataflows.ranges import Part
from dataflows.replay import (
    MADE_OF,
    PRODUCTS,
    MadeOf,
    Summary,
    measure,
    note_rows,
    noted_rows,
    product_path,
    range_of,
    replay,
)
from operators.modes import Run
from packs.loader import load_packs

PARTS = ".parts"  # beside the products while they are made
TELL_EVERY = 16  # chunks
_END_S = 5.0


@dataclass(frozen=True)
class Job:
    """What every part has in common; packs by their files, because a process loads its own."""

    source: Path
    features: Path | None
    detectors: Path | None
    universe: Path | None
    bars: bool
    chunk: int
    run: Run


@dataclass(frozen=True)
class Reached:
    """The arrival that a part has come to, epoch ms."""

    at_ms: int


@dataclass(frozen=True)
class Broken:
    """How a part failed."""

    message: str
    code: int


Told = Reached | Broken | Summary


def replay_parts(
    job: Job, out: Path, parts: Sequence[Part], on_progress: Callable[[int, int], None]
) -> Summary:
    """Replay every part at the same time and join the products in `out`; return their summary.

    on_progress(part, reached_ms) is told how far each is. Raises `Problem` with the first failure
    of a part, after the others have been ended.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / MADE_OF).unlink(missing_ok=True)
    folders = [out / PARTS / str(number) for number in range(len(parts))]
    shutil.rmtree(out / PARTS, ignore_errors=True)
    made: MadeOf | None = None
    try:
        found = _run(job, list(zip(parts, folders, strict=True)), on_progress)
        for name in PRODUCTS:
            _join([product_path(folder, name) for folder in folders], product_path(out, name))
        if all(part.exact for part in parts) and parts[0].whole:
            made = noted_rows(folders[0])  # of its own rows, which are not all
    finally:
        shutil.rmtree(out / PARTS, ignore_errors=True)
    if len({summary.config_hash for summary in found}) > 1:
        raise Problem("expected packs that stay as they are, found them changed meanwhile", FAILED)
    products = {name: measure(product_path(out, name)) for name in PRODUCTS}
    if made is not None:
        note_rows(out, made, products["rows"].sha256)
    return replace(
        found[0],
        products=products,
        dropped=_sum([summary.dropped for summary in found]),
        range=range_of(parts),
    )


def _join(pieces: Sequence[Path], product: Path) -> None:
    """Make one file of pieces; each is gone once it is in, so that little room is needed."""
    pieces[0].replace(product)
    with product.open("ab") as whole:
        for piece in pieces[1:]:
            with piece.open("rb") as stream:
                shutil.copyfileobj(stream, whole, 1 << 20)
            piece.unlink()


def _sum(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    reasons = sorted({reason for each in counts for reason in each})
    return {reason: sum(each.get(reason, 0) for each in counts) for reason in reasons}


# --- the parent ----------------------------------------------------------------------------------


def _run(
    job: Job, parts: Sequence[tuple[Part, Path]], on_progress: Callable[[int, int], None]
) -> list[Summary]:
    spawn = multiprocessing.get_context("spawn")
    running: dict[Connection, tuple[int, SpawnProcess]] = {}
    found: dict[int, Summary] = {}
    try:
        for number, (part, folder) in enumerate(parts):
            ours, theirs = spawn.Pipe(duplex=False)
            process = spawn.Process(target=_part, args=(job, part, folder, theirs), daemon=True)
            process.start()
            theirs.close()
            running[ours] = number, process
        while running:
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                number, process = running[ready]
                told = _hear(ready, process)
                if isinstance(told, Reached):
                    on_progress(number, told.at_ms)
                elif isinstance(told, Summary):
                    found[number] = told
                    del running[ready]
                else:
                    raise Problem(f"{_named(number, parts)}: {told.message}", told.code)
    finally:
        _end([process for _, process in running.values()])
    return [found[number] for number in sorted(found)]


def _hear(connection: Connection, process: SpawnProcess) -> Told:
    try:
        told: Told = connection.recv()
    except EOFError:
        process.join()
        return Broken(f"its process ended with {process.exitcode}", FAILED)
    return told


def _named(number: int, parts: Sequence[tuple[Part, Path]]) -> str:
    told = parts[number][0].as_json()
    since, until = told["from"] or "the start", told["to"] or "the end"
    return f"part {number + 1} of {len(parts)}, {since} to {until}"


def _end(processes: Sequence[SpawnProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_END_S)
        if process.is_alive():
            process.kill()
            process.join()


# --- a child -------------------------------------------------------------------------------------


def _part(job: Job, part: Part, folder: Path, parent: Connection) -> None:
    """Replay a part and tell the parent, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends us
    Thread(target=_leave_with_parent, daemon=True).start()
    chunks = 0

    def tell(reached_ms: int) -> None:
        nonlocal chunks
        chunks += 1
        if chunks % TELL_EVERY == 0:
            parent.send(Reached(reached_ms))

    try:
        packs = load_packs(job.features, job.detectors, job.universe)
        summary = replay(
            job.source,
            folder,
            packs,
            bars=job.bars,
            chunk=job.chunk,
            run=job.run,
            part=part,
            on_progress=tell,
        )
        parent.send(summary)
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            traceback.print_exc()
        known = failure or Broken(f"{type(error).__name__}: {error}", FAILED)
        parent.send(Broken(known.message, known.code))


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
