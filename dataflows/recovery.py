"""The recovery store: an empty one, and what a kill left in it.

    python -m dataflows.recovery DIRECTORY PARTITIONS

Rules of this file: the store is Bytewax's own, as `python -m bytewax.recovery` makes it, but for
the size of its pages, which is kept in the file: whoever opens it has it. A state of an asset is 1
to 12 kB. SQLite takes longer the more pages there are, and a page that held states of the epoch
before is written once more when they are deleted, unless it is the continuation of a single one:
with pages of 8 kB an epoch of 200 assets writes 4.7 MB, with 4 or 64 kB twice as much.

States of an epoch that did not end stay in the store. The engine passes over them when it resumes,
but counts them as soon as it has done an epoch of that number again, for every key that was not
awake in it: a state from the future. So they are removed before it starts (docs/recovery.md).
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from bytewax.recovery import init_db_dir

PAGE_BYTES = 8_192
USAGE = "usage: python -m dataflows.recovery DIRECTORY PARTITIONS"


def make_store(directory: Path, partitions: int) -> None:
    """Make an empty store in a directory that exists."""
    init_db_dir(directory, partitions)  # type: ignore[no-untyped-call]
    for path in _files(directory):
        with closing(sqlite3.connect(path)) as store:
            store.execute("PRAGMA journal_mode = DELETE")  # pages keep their size in a journal
            store.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            store.execute("VACUUM")


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.sqlite3"))


# --- what a kill left ----------------------------------------------------------------------------


def forget_unfinished(directory: Path) -> int:
    """Remove the states of epochs that did not end from a store; return how many there were.

    A store that is in use, of which a partition lies elsewhere, or that is none is left as it is:
    the engine, which opens it next, says what is wrong with it.
    """
    try:
        with ExitStack() as stack:
            stores = []
            for path in _files(directory):
                store = sqlite3.connect(path, timeout=0.0, isolation_level=None)
                stores.append(stack.enter_context(closing(store)))
                # Where somebody else has it open, the journal cannot be turned off.
                store.execute("PRAGMA journal_mode = DELETE")
            epoch = resume_epoch(stores) if _is_whole(stores) else None
            if epoch is None:
                return 0
            sql = "DELETE FROM snaps WHERE snap_epoch >= ?"
            return sum(store.execute(sql, (epoch,)).rowcount for store in stores)
    except sqlite3.Error:
        return 0


def _is_whole(stores: Sequence[sqlite3.Connection]) -> bool:
    """Tell whether all partitions are at hand."""
    parts = _found(stores, "SELECT part_index, part_count FROM parts")
    return bool(parts) and {index for index, _ in parts} == set(range(max(n for _, n in parts)))


def resume_epoch(stores: Sequence[sqlite3.Connection]) -> int | None:
    """Return the epoch with which the engine will go on; None if it was never started.

    It is the first one that some worker of the newest execution had not ended, as the engine
    computes it (bytewax 0.21, src/recovery.rs).
    """
    executions = _found(stores, "SELECT ex_num, worker_count, resume_epoch FROM exs")
    if not executions:
        return None
    newest, workers, began = max(executions)
    reached = dict.fromkeys(range(workers), began)
    sql = "SELECT worker_index, worker_frontier FROM fronts WHERE ex_num = ?"
    for worker, frontier in _found(stores, sql, newest):
        reached[worker] = max(frontier, reached.get(worker, frontier))
    return min(reached.values())


def _found(stores: Sequence[sqlite3.Connection], sql: str, *given: int) -> list[tuple[int, ...]]:
    """Return what all partitions answer."""
    return [row for store in stores for row in store.execute(sql, given)]


# --- the command ---------------------------------------------------------------------------------


def main(arguments: list[str]) -> None:
    """Make the store that the command line names."""
    match arguments:
        case [name, count] if count.isdecimal() and int(count) > 0:
            directory = Path(name)
        case _:
            sys.exit(USAGE)
    if not directory.is_dir():
        sys.exit(f"{directory} is no directory")
    if _files(directory):
        sys.exit(f"{directory} holds a store already")
    make_store(directory, int(count))


if __name__ == "__main__":
    main(sys.argv[1:])
