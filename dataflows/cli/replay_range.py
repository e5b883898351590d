"""The options of `alpha replay` that name a range of minutes, and its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import typer

from dataflows.cli.given_times import given_ms, given_seconds
from dataflows.cli.logs import LogSpan
from dataflows.cli.progress import LogProgress
from dataflows.cli.screen import say
from dataflows.ranges import WARMUP_MS, Part, cut, part_of
from operators.lattice import DAY_MS, iso

WARMUP = f"{WARMUP_MS // DAY_MS}d"
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Asked:
    """A range as it was asked for; epoch ms."""

    from_ms: int | None
    to_ms: int | None
    warmup_ms: int
    jobs: int

    @classmethod
    def of(
        cls, since: str | None, until: str | None, warmup: str, jobs: int | None
    ) -> Asked | None:
        """Return what options ask for, None without any of them. Raises wrong usage."""
        from_ms, to_ms = given_ms("--from", since), given_ms("--to", until)
        warmup_ms = given_seconds("--warmup", warmup, least=0) * 1000
        if from_ms is None and to_ms is None and jobs is None:
            if warmup != WARMUP:
                raise typer.BadParameter("--warmup: expected --from or --jobs with it")
            return None
        if from_ms is not None and to_ms is not None and from_ms >= to_ms:
            raise typer.BadParameter(f"--to: expected a time after --from, found {until!r}")
        return cls(from_ms, to_ms, warmup_ms, jobs or 1)

    def parts(self, span: LogSpan, *, bars: bool) -> list[Part]:
        """Return the parts of a source, or of minute bars with closes in this span.

        Raises wrong usage where it has nothing of the range.
        """
        # The first bar is read whenever reading begins before its close.
        first_ms = span.first_ms - 1 if bars else span.first_ms
        last_ms = span.last_ms
        if self.to_ms is not None and self.to_ms <= first_ms:
            raise typer.BadParameter(
                f"--to: expected a time after the start of the source, {iso(span.first_ms)}"
            )
        if self.from_ms is not None and last_ms is not None and self.from_ms >= last_ms:
            raise typer.BadParameter(
                f"--from: expected a time before the end of the source, {iso(last_ms)}"
            )
        whole = part_of(self.from_ms, self.to_ms, self.warmup_ms, first_ms)
        if self.jobs == 1:
            return [whole]
        last_ms = self.to_ms if last_ms is None else last_ms
        if last_ms is None:
            raise typer.BadParameter(
                "--jobs: expected --to as well: where the source ends is known only by reading it"
            )
        parts = cut(whole, self.jobs, self.warmup_ms, first_ms, last_ms)
        if len(parts) < self.jobs:
            warmup = f"a warm-up of {self.warmup_ms / DAY_MS:.3g} days"
            say(f"{len(parts)} of {self.jobs} jobs: with {warmup} more would not be done sooner")
        return parts


def last_bar_ms(path: Path) -> int | None:
    """Return the newest close near the end of a bars file, None if none is found there."""
    with path.open("rb") as file:
        names = file.readline().strip().split(b",")
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        tail = file.read().split(b"\n")
    at = names.index(b"close_ms") if b"close_ms" in names else 0
    cells = (line.split(b",") for line in reversed(tail[1:]))
    closes = (row[at] for row in cells if len(row) == len(names))
    return next((int(close) for close in closes if close.isdigit() and len(close) == 13), None)


class PartsProgress:
    """Shows how far several parts have come together; a context manager.

    per_call : items (`unit`) that one call stands for.
    """

    def __init__(
        self, parts: Sequence[Part], unit: str, per_call: int, span: LogSpan, *, quiet: bool
    ) -> None:
        first_ms, last_ms = span
        self._first_ms = first_ms
        self._begun = [first_ms if part.begin_ms is None else part.begin_ms for part in parts]
        self._reached = list(self._begun)
        ends = [last_ms if part.to_ms is None else part.to_ms for part in parts]
        known = [end for end in ends if end is not None]
        self._total_ms = sum(known) - sum(self._begun) if len(known) == len(parts) else None
        self._lasts_ms = 0 if not known else max(known) - first_ms
        shown = LogSpan(first_ms, None if self._total_ms is None else max(known))
        self._bar = LogProgress("replay", unit, per_call, shown, quiet=quiet)

    def __call__(self, part: int, reached_ms: int) -> None:
        """Take note of the arrival that a part has come to, and show it."""
        self._bar(self.reach(part, reached_ms))

    def reach(self, part: int, reached_ms: int) -> int:
        """Take note of it; return how far one process would be that had read as much."""
        self._reached[part] = max(reached_ms, self._begun[part])
        done_ms = sum(self._reached) - sum(self._begun)
        if self._total_ms:
            done_ms = min(done_ms, self._total_ms) * self._lasts_ms // self._total_ms
        return self._first_ms + done_ms

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.__exit__(*exc_info)
