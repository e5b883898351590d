"""Messages that could not be read, one a line with the reason, in a file that only grows.

Rules of this file: what was added is on stable storage before the reader goes past it, so a kill
can repeat a line and never lose one; partition and offset tell a repeat.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dataflows.connectors.topic_source import Record
from operators.contract import DEAD_TEXT_MAX
from operators.publish import canonical


class DeadFile:
    """Appends to a file that is made when it is first needed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, source: str, dead: Iterable[tuple[Record, str]]) -> None:
        """Write records with their reasons."""
        lines = [dead_line(source, record, reason) + b"\n" for record, reason in dead]
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())


def dead_line(source: str, record: Record, reason: str) -> bytes:
    """Return a record that could not be read, with the reason, as one JSON object.

    The payload is text: bytes that are no UTF-8 stand as backslash escapes, and what is longer
    than DEAD_TEXT_MAX characters is cut; size_bytes is that of the whole.
    """
    return canonical(
        {
            "source": source,
            "partition": record.partition,
            "offset": record.offset,
            "reason": reason,
            "size_bytes": len(record.value),
            "payload": record.value.decode("utf-8", "backslashreplace")[:DEAD_TEXT_MAX],
        }
    )
