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
    assert_writable(option, directory)
    return directory


def assert_writable(option: str, path: Path) -> None:
    """Raise if something exists that we may not write."""
    if path.exists() and not os.access(path, os.W_OK):
        raise Problem(f"{option}: expected to be able to write {path}", USAGE)
