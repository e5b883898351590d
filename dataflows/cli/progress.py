"""How far a long run has come: a bar on a terminal, nothing elsewhere or for short runs."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dataflows.cli.logs import LogSpan
from dataflows.cli.screen import err
from dataflows.connectors.clock import Clock, SystemClock
from operators.lattice import iso

PATIENCE_S = 1.0  # a run that is over by then needs no bar
_REDRAW_S = 0.1


class LogProgress:
    """Shows the log time that was reached and the speed; a context manager.

    per_call : items (`unit`) that one call stands for. span : of the log; without an end the bar
    only shows that something is happening.
    """

    def __init__(
        self,
        title: str,
        unit: str,
        per_call: int,
        span: LogSpan,
        *,
        quiet: bool = False,
        screen: Console | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._title = title
        self._unit = unit
        self._per_call = per_call
        self._span = span
        self._screen = screen or err()
        self._clock = clock or SystemClock()
        self._shown = self._screen.is_interactive and not quiet
        self._items = 0
        self._started_s = self._drawn_s = self._clock.monotonic_s()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __call__(self, reached_ms: int) -> None:
        """Take note that the next items are done, up to this log time."""
        self.step(reached_ms, self._per_call)

    def step(self, reached_ms: int, items: int) -> None:
        """Take note that so many more items are done, up to this log time."""
        self._items += items
        now_s = self._clock.monotonic_s()
        if not self._shown or now_s - self._started_s < PATIENCE_S:
            return
        if self._bar is None:
            self._bar = self._open()
        if now_s - self._drawn_s >= _REDRAW_S:
            self._drawn_s = now_s
            self._bar.update(
                self._task,
                completed=max(0, reached_ms - self._span.first_ms),
                reached=iso(reached_ms // 1000 * 1000),
                speed=f"{self._items / (now_s - self._started_s):,.0f} {self._unit}/s",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _open(self) -> Progress:
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[reached]}  {task.fields[speed]}"),
            TimeElapsedColumn(),
            console=self._screen,
            transient=True,
        )
        first_ms, last_ms = self._span
        total = None if last_ms is None else max(1, last_ms - first_ms)
        self._task = bar.add_task(self._title, total=total, reached="", speed="")
        bar.start()
        return bar
