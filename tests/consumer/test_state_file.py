"""A state is replaced as a whole, and one process has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataflows.connectors.state_file import StateError, StateFile


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    """Also by the next process, in a directory that was not there."""
    path = tmp_path / "deep" / "state.json"
    with StateFile(path) as state:
        assert state.load() is None
        state.save({"n": 1})
        state.save({"n": 2})
    with StateFile(path) as state:
        assert state.load() == {"n": 2}


def test_a_kill_while_saving_leaves_the_earlier_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is forced to disk before it takes the name."""
    path = tmp_path / "state.json"
    synced: list[int] = []
    with StateFile(path) as state:
        state.save({"n": 1})

        def killed(number: int) -> None:
            synced.append(number)
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            state.save({"n": 2})
        assert synced
        assert state.load() == {"n": 1}


@pytest.mark.parametrize("text", [b"", b'{"n": 1', b"[]"])
def test_a_damaged_state_is_an_error(tmp_path: Path, text: bytes) -> None:
    """It is never taken for an empty one."""
    path = tmp_path / "state.json"
    path.write_bytes(text)
    with StateFile(path) as state, pytest.raises(StateError, match=r"state\.json.*remove it"):
        state.load()


def test_two_processes_do_not_share_a_state(tmp_path: Path) -> None:
    """The second is told; when the first has gone it may."""
    path = tmp_path / "state.json"
    with StateFile(path), pytest.raises(StateError, match="another process"):
        StateFile(path)
    StateFile(path).close()
