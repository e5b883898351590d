"""Where the messages of connectors go while a command runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from dataflows.cli.screen import err


@contextmanager
def messages_on_stderr() -> Iterator[None]:
    """Let the messages of connectors go to stderr: stdout is for the result."""
    screen = err()
    colours = screen.is_terminal and not screen.no_color
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("%H:%M:%S", utc=True),
            structlog.dev.ConsoleRenderer(colors=colours),
        ],
        logger_factory=lambda *args: structlog.PrintLogger(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.reset_defaults()
