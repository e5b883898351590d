"""An empty recovery store: `python -m dataflows.recovery DIRECTORY PARTITIONS`.

Rules of this file: the store is Bytewax's own, as `python -m bytewax.recovery` makes it, but for
the size of its pages, which is kept in the file: whoever opens it has it. A state of an asset is 1
to 12 kB. SQLite takes longer the more pages there are, and a page that held states of the epoch
before is written once more when they are deleted, unless it is the continuation of a single one:
with pages of 8 kB an epoch of 200 assets writes 4.7 MB, with 4 or 64 kB twice as much.
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from bytewax.recovery import init_db_dir

PAGE_BYTES = 8_192
USAGE = "usage: python -m dataflows.recovery DIRECTORY PARTITIONS"


def make_store(directory: Path, partitions: int) -> None:
    """Make an empty store in a directory that exists."""
    init_db_dir(directory, partitions)  # type: ignore[no-untyped-call]
    for path in sorted(directory.glob("*.sqlite3")):
        with closing(sqlite3.connect(path)) as store:
            store.execute("PRAGMA journal_mode = DELETE")  # pages keep their size in a journal
            store.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            store.execute("VACUUM")


def main(arguments: list[str]) -> None:
    """Make the store that the command line names."""
    match arguments:
        case [name, count] if count.isdecimal() and int(count) > 0:
            directory = Path(name)
        case _:
            sys.exit(USAGE)
    if not directory.is_dir():
        sys.exit(f"{directory} is no directory")
    if any(directory.glob("*.sqlite3")):
        sys.exit(f"{directory} holds a store already")
    make_store(directory, int(count))


if __name__ == "__main__":
    main(sys.argv[1:])
