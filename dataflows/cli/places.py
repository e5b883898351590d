"""Directories that a command writes to: made, or refused before anything else happens."""

from __future__ import annotations

import os
from pathlib import Path

from dataflows.cli.failures import USAGE, Problem


def made_directory(option: str, directory: Path) -> Path:
    """Return a directory that exists and takes files; `option` is named when it does not."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise Problem(f"{option} {directory}: expected a directory: {why}", USAGE) from error
    _assert_writable(option, directory)
    return directory


def assert_file(option: str, path: Path) -> None:
    """Raise unless a file can be written, in place of one that may be there."""
    if path.is_dir():
        raise Problem(f"{option}: expected a file or nothing at {path}, found a directory", USAGE)
    _assert_writable(option, path)


def _assert_writable(option: str, path: Path) -> None:
    if path.exists() and not os.access(path, os.W_OK):
        raise Problem(f"{option}: expected to be able to write {path}", USAGE)
