"""A small state that survives kills and power cuts: one JSON file, replaced as a whole.

Rules of this file: what `load` returns is what some `save` was given, never a mixture; a file that
is damaged is an error that says so, never an empty state. One process at a time.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson


class StateError(Exception):
    """The state cannot be used; the message says what to do."""


class StateFile:
    """A JSON object in a file, locked while it is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise StateError(f"{path}: another process uses this state; give another file") from (
                error
            )

    def load(self) -> dict[str, Any] | None:
        """Return the state, None if there is none yet."""
        try:
            state = orjson.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except orjson.JSONDecodeError as error:
            raise self._damaged(str(error)) from error
        if not isinstance(state, dict):
            raise self._damaged("expected an object")
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state; it is on stable storage when this returns."""
        beside = self.path.with_name(self.path.name + ".new")
        with beside.open("wb") as file:
            file.write(orjson.dumps(state))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def close(self) -> None:
        """Let others use the file."""
        os.close(self._lock)

    def __enter__(self) -> StateFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _damaged(self, why: str) -> StateError:
        return StateError(
            f"{self.path}: not the state of a consumer ({why}); remove it to start anew: events"
            " that were read before will come again"
        )
