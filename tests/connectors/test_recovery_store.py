"""The recovery store of the flows: Bytewax's, in pages of another size."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig
from bytewax.testing import TestingSink, TestingSource, run_main

from dataflows.recovery import PAGE_BYTES, main, make_store


def pages(store: Path) -> set[int]:
    """Return the sizes of pages of a store."""
    found = set()
    for path in store.glob("*.sqlite3"):
        with closing(sqlite3.connect(path)) as opened:
            found.add(opened.execute("PRAGMA page_size").fetchone()[0])
    return found


def total(state: int | None, value: int) -> tuple[int, int]:
    """Return a running sum."""
    return (state or 0) + value, (state or 0) + value


@pytest.mark.engine
@pytest.mark.parametrize("partitions", [1, 3])
def test_a_flow_goes_on_from_the_store_and_keeps_its_pages(tmp_path: Path, partitions: int) -> None:
    """Bytewax turns the journal on; the size of the pages stays."""
    make_store(tmp_path, partitions)
    assert pages(tmp_path) == {PAGE_BYTES}
    given: list[Any] = [1, 2, TestingSource.EOF(), 3, TestingSource.EOF(), 4]
    taken: list[tuple[str, int]] = []
    flow = Dataflow("sums")
    keyed = op.key_on("key", op.input("in", flow, TestingSource(given)), lambda _: "all")
    op.output("out", op.stateful_map("sum", keyed, total), TestingSink(taken))
    for _ in range(3):
        config = RecoveryConfig(str(tmp_path))  # type: ignore[no-untyped-call]
        run_main(flow, epoch_interval=timedelta(0), recovery_config=config)  # type: ignore[no-untyped-call]
    assert [value for _, value in taken] == [1, 3, 6, 10]
    assert pages(tmp_path) == {PAGE_BYTES}


def test_the_command_makes_a_store_once(tmp_path: Path) -> None:
    """Not over another one: it would be lost."""
    command = [sys.executable, "-m", "dataflows.recovery", str(tmp_path), "1"]
    subprocess.run(command, check=True, capture_output=True)
    assert pages(tmp_path) == {PAGE_BYTES}
    with pytest.raises(SystemExit, match="holds a store already"):
        main([str(tmp_path), "1"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "usage"),
        (["x"], "usage"),
        (["x", "0"], "usage"),
        (["x", "one"], "usage"),
        (["no-such-place", "1"], "no-such-place is no directory"),
    ],
)
def test_a_slip_is_told_in_words(arguments: list[str], told: str) -> None:
    """One message, no traceback."""
    with pytest.raises(SystemExit, match=told):
        main(arguments)
