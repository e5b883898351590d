"""The console: one short line per sealed minute, one line per event, nothing else.

Rules of this file: a minute's line needs both its rows and its events, which come on two streams in
any order; a half that waits longer than a few minutes is printed without the other.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TextIO

from bytewax.outputs import StatefulSinkPartition
from rich.console import Console
from rich.text import Text

from dataflows.connectors.topics import OnePartitionSink
from operators.lattice import iso
from operators.records import MarketPhase, Published
from operators.verdicts import DQ_OK, DQ_PARTIAL, DQ_STALE

WAITING_MAX = 5  # minutes of which one half is there; more are printed as they are
REASONS_MAX = 3

_STYLES = {DQ_OK: "green", DQ_PARTIAL: "yellow", DQ_STALE: "red"}
_SEVERE, _STRONG = 80, 60
_SHOWN = ("ret_m_1", "z_ret_abs_m_1", "z_vol_m_1", "z_oi_roc_m_5", "z_spread_m_1")


@dataclass(slots=True)
class _Minute:
    """What is known of a sealed minute so far."""

    market: MarketPhase | None = None
    published: Published | None = None


class MinutePrinter:
    """Prints minutes and events; shared by the two sinks below, or called directly."""

    def __init__(self, stream: Literal["stdout", "stderr"] | TextIO = "stderr") -> None:
        file = getattr(sys, stream) if isinstance(stream, str) else stream
        self._console = Console(file=file, highlight=False, soft_wrap=True)
        self._waiting: dict[int, _Minute] = {}
        self._users = 0
        self._lock = threading.Lock()  # the two sinks may run on two workers

    def open(self) -> Self:
        """Count a user; what waits at the end is printed when the last one closes."""
        with self._lock:
            self._users += 1
        return self

    def close(self) -> None:
        """Leave; the last one prints what is still waiting."""
        with self._lock:
            self._users -= 1
            if self._users <= 0:
                for minute_ms in sorted(self._waiting):
                    self._print_minute(minute_ms)

    def market(self, phase: MarketPhase) -> None:
        """Take a phase's rows and frames; amendments of the final phase are not shown."""
        if phase.phase.final:
            return
        with self._lock:
            self._of(phase.phase.minute_ms).market = phase
            self._print_complete()

    def published(self, published: Published) -> None:
        """Take a phase's events; those of the final phase are printed at once."""
        with self._lock:
            if published.phase.final:
                self._print_events(published)
                return
            self._of(published.phase.minute_ms).published = published
            self._print_complete()

    def _of(self, minute_ms: int) -> _Minute:
        return self._waiting.setdefault(minute_ms, _Minute())

    def _print_complete(self) -> None:
        for minute_ms in sorted(self._waiting):
            minute = self._waiting[minute_ms]
            complete = minute.market is not None and minute.published is not None
            if complete or len(self._waiting) > WAITING_MAX:
                self._print_minute(minute_ms)

    def _print_minute(self, minute_ms: int) -> None:
        minute = self._waiting.pop(minute_ms)
        self._console.print(minute_line(minute_ms, minute.market, minute.published))
        if minute.published is not None:
            self._print_events(minute.published)

    def _print_events(self, published: Published) -> None:
        for event in published.events:
            self._console.print(event_line(event))
        for event in published.shadow:
            self._console.print(event_line(event, shadow=True))


def minute_line(minute_ms: int, market: MarketPhase | None, published: Published | None) -> Text:
    """Return time, assets by verdict, leader and number of events, as far as they are known."""
    line = Text(iso(minute_ms), style="dim")
    if market is not None:
        line.append_text(_assets(market)).append_text(_leader(market))
    if published is not None:
        count = len(published.events)
        line.append(f"  {count} event{'' if count == 1 else 's'}", "bold" if count else "dim")
    return line


def event_line(event: Mapping[str, Any], *, shadow: bool = False) -> Text:
    """Return an event's time, severity, asset, detector and the features that tell most.

    shadow : say that it went to the shadow topic.
    """
    severity = int(event["severity"])
    style = "bold red" if severity >= _SEVERE else "bold yellow" if severity >= _STRONG else "bold"
    line = Text(f"{event['exchange_ts']}  ", style="dim")
    line.append(f"{severity:>3}  ", style)
    line.append(f"{event['symbol']:<8} ", "bold")
    line.append(f"{event['tf']:<3} {event['class']}.{event['subtype']}", "cyan")
    features = event.get("local_state", {}).get("features", {})
    for name in _SHOWN:
        if features.get(name) is not None:
            line.append(f"  {name} {features[name]:.4g}", "dim")
    if shadow:
        line.append("  shadow", "magenta")
    return line


def _assets(market: MarketPhase) -> Text:
    """Count the minute's assets by verdict; when all are stale, say why."""
    rows = [row for row in market.rows if row.tf == "1m"]
    counts = Counter(row.columns.get("dq_status") for row in rows)
    text = Text(f"  {len(rows)} assets")
    for verdict in (DQ_OK, DQ_PARTIAL, DQ_STALE):
        if counts[verdict]:
            text.append(f"  {counts[verdict]} {verdict}", _STYLES[verdict])
    if rows and counts[DQ_STALE] == len(rows):
        reasons = Counter(reason for row in rows for reason in row.columns.get("dq_reasons") or ())
        ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:REASONS_MAX]
        text.append(f" ({', '.join(f'{reason} {count}' for reason, count in ranked)})", "red")
    return text


def _leader(market: MarketPhase) -> Text:
    for frame in market.frames:
        if frame.tf == "1m" and frame.columns.get("leader") is not None:
            share = frame.columns.get("dominance_share")
            extent = "" if share is None else f" {share:.0%}"
            return Text(f"  leader {frame.columns['leader']}{extent}")
    return Text("  no leader", "dim")


# --- the engine's side -------------------------------------------------------------------------


class _MarketLines(StatefulSinkPartition[MarketPhase, None]):
    def __init__(self, printer: MinutePrinter) -> None:
        self._printer = printer

    def write_batch(self, values: list[MarketPhase]) -> None:
        for phase in values:
            self._printer.market(phase)

    def snapshot(self) -> None:
        """Nothing to keep: a line is printed once more rather than stored."""

    def close(self) -> None:
        self._printer.close()


class _EventLines(StatefulSinkPartition[Published, None]):
    def __init__(self, printer: MinutePrinter) -> None:
        self._printer = printer

    def write_batch(self, values: list[Published]) -> None:
        for published in values:
            self._printer.published(published)

    def snapshot(self) -> None:
        """Nothing to keep: a line is printed once more rather than stored."""

    def close(self) -> None:
        self._printer.close()


class ConsoleMarketSink(OnePartitionSink[MarketPhase, None]):
    """Hands rows and frames to a printer; items are ("0", MarketPhase)."""

    def __init__(self, printer: MinutePrinter) -> None:
        self._printer = printer

    def build_part(
        self, step_id: str, for_part: str, resume_state: None
    ) -> StatefulSinkPartition[MarketPhase, None]:
        return _MarketLines(self._printer.open())


class ConsoleEventSink(OnePartitionSink[Published, None]):
    """Hands events to the same printer; items are ("0", Published)."""

    def __init__(self, printer: MinutePrinter) -> None:
        self._printer = printer

    def build_part(
        self, step_id: str, for_part: str, resume_state: None
    ) -> StatefulSinkPartition[Published, None]:
        return _EventLines(self._printer.open())
