"""The recovery store of the flows: Bytewax's, in pages of another size, rid of what a kill left."""

from __future__ import annotations

import os
import pickle
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.recovery import RecoveryConfig
from bytewax.testing import TestingSink, TestingSource, run_main

import dataflows.recovery
from dataflows.recovery import (
    PAGE_BYTES,
    forget_unfinished,
    main,
    make_store,
    resume_epoch,
)


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


# --- what a kill left ----------------------------------------------------------------------------


def add_up(store: Path, given: list[Any], crash_at: int | None = None) -> list[tuple[str, int]]:
    """Add up numbers by key, one an epoch, going on from the store; return the sums that came."""
    taken: list[tuple[str, int]] = []
    flow = Dataflow("sums")
    values = [*given]
    if crash_at is not None:
        values.insert(crash_at, TestingSource.ABORT())
    keyed = op.input("in", flow, TestingSource(values, batch_size=1))
    op.output("out", op.stateful_map("sum", keyed, total), TestingSink(taken))
    config = RecoveryConfig(str(store))  # type: ignore[no-untyped-call]
    with suppress(BytewaxRuntimeError):
        run_main(flow, epoch_interval=timedelta(0), recovery_config=config)  # type: ignore[no-untyped-call]
    return taken


def ask(store: Path, question: str, *given: object) -> list[tuple[Any, ...]]:
    """Return what all partitions of a store answer."""
    found = []
    for path in sorted(store.glob("*.sqlite3")):
        with closing(sqlite3.connect(path, isolation_level=None)) as opened:
            found += opened.execute(question, given).fetchall()
    return found


def epoch_of(store: Path) -> int | None:
    """Return the epoch with which a store will be resumed."""
    with ExitStack() as stack:
        paths = sorted(store.glob("*.sqlite3"))
        return resume_epoch([stack.enter_context(closing(sqlite3.connect(path))) for path in paths])


def leave_behind(store: Path, key: str, value: int) -> None:
    """Leave a state as a kill within the open epoch does, before its end was noted."""
    (step,) = {
        step
        for step, _ in ask(store, "SELECT step_id, state_key FROM snaps WHERE state_key = ?", key)
    }
    path = min(store.glob("*.sqlite3"))
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        row = (step, key, epoch_of(store), pickle.dumps(value))
        opened.execute(
            "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, ?, ?)",
            row,
        )


GIVEN = [("rare", 1), ("often", 1), ("often", 1), ("often", 1), ("rare", 1)]


@pytest.mark.engine
@pytest.mark.parametrize("mended", [True, False])
def test_a_state_of_an_epoch_that_did_not_end_is_not_met_later(
    tmp_path: Path, mended: bool
) -> None:
    """The engine alone takes it for the newest of a key that sleeps while the epoch is repeated: if
    it no longer does, forgetting is no longer needed."""
    make_store(tmp_path, 1)
    assert add_up(tmp_path, GIVEN, crash_at=2) == [("rare", 1), ("often", 1)]
    leave_behind(tmp_path, "rare", 100)
    taken = []
    for crash_at in (3, None):
        if mended:
            forget_unfinished(tmp_path)
        taken += add_up(tmp_path, GIVEN[:crash_at], crash_at=crash_at)
    assert taken[-1] == ("rare", 2 if mended else 101)


@pytest.mark.engine
@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("crash_at", [1, 2, 4, None])
def test_the_engine_goes_on_with_the_epoch_that_is_forgotten_from(
    tmp_path: Path, partitions: int, crash_at: int | None
) -> None:
    """It notes with which epoch it begins."""
    make_store(tmp_path, partitions)
    assert epoch_of(tmp_path) is None
    assert forget_unfinished(tmp_path) == 0
    add_up(tmp_path, GIVEN, crash_at)
    expected, before = epoch_of(tmp_path), set(ask(tmp_path, "SELECT * FROM snaps"))
    assert forget_unfinished(tmp_path) == len(before) - len(ask(tmp_path, "SELECT * FROM snaps"))
    assert pages(tmp_path) == {PAGE_BYTES}
    add_up(tmp_path, GIVEN)
    assert max(ask(tmp_path, "SELECT ex_num, resume_epoch FROM exs"))[1] == expected


@pytest.mark.engine
def test_a_store_that_is_in_use_or_not_whole_is_left_alone(tmp_path: Path) -> None:
    """What looks unfinished may be about to end, and the rest of the store may say so."""
    make_store(tmp_path, 2)
    add_up(tmp_path, GIVEN, crash_at=2)
    leave_behind(tmp_path, "rare", 100)
    first, second = sorted(tmp_path.glob("*.sqlite3"))
    with closing(sqlite3.connect(second)) as user:
        user.execute("PRAGMA journal_mode = WAL")
        user.execute("SELECT count(*) FROM snaps").fetchall()
        assert forget_unfinished(tmp_path) == 0
    elsewhere = second.rename(tmp_path / "elsewhere")
    assert forget_unfinished(tmp_path) == 0
    elsewhere.rename(second)
    assert forget_unfinished(tmp_path) > 0
    assert not ask(tmp_path, "SELECT * FROM snaps WHERE ser_change = ?", pickle.dumps(100))
    first.write_bytes(b"no store")
    assert forget_unfinished(tmp_path) == 0


@pytest.mark.engine
def test_a_flow_says_what_it_removes_before_it_starts(tmp_path: Path) -> None:
    """Of the store that its command line names, as a user starts it."""
    store = tmp_path / "store"
    store.mkdir()
    make_store(store, 1)
    add_up(store, GIVEN, crash_at=2)
    leave_behind(store, "rare", 100)
    nowhere = "127.0.0.1:9"
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "bytewax.run",
            "dataflows.live",
            "-r",
            "store",
            "-s",
            "1",
            "-b",
            "0",
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(dataflows.recovery.__file__).parents[1]),
            "ALPHA_DATA_DIR": str(tmp_path / "var"),
            "ALPHA_DATABASE_URL": "off",
            "ALPHA_WS_URL": f"ws://{nowhere}",
            "ALPHA_REST_URL": f"http://{nowhere}",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = next((line for line in process.stderr if "did not end" in line), "")
        process.kill()
    assert said == "note: removed from store: 2 states of an epoch that did not end\n"
