"""`alpha events`: what was published, from a replay or from the live topic."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from dataflows.cli.failures import INPUT, Problem
from dataflows.cli.given_times import given_instant, instant_of
from dataflows.cli.screen import AsJson, out, put_line, put_table, say
from dataflows.cli.tables import events_table
from dataflows.settings import Settings
from operators.publish import event_json

app = typer.Typer(add_completion=False, rich_markup_mode=None)

TOPIC = "alpha.events.v0.ndjson"
_INSIDE = ("events.ndjson", TOPIC, f"topics/{TOPIC}")  # what a directory may hold
_TEXTS = ("event_id", "exchange_ts", "symbol", "class", "subtype")


@dataclass(frozen=True)
class Wanted:
    """Which events to show; None takes all. Times are instants of `exchange_ts`, both included."""

    event_class: str | None
    subtype: str | None
    symbol: str | None
    severity_min: int
    since: datetime | None
    until: datetime | None

    def takes(self, event: Mapping[str, Any]) -> bool:
        """Tell whether an event is wanted."""
        return (
            self.event_class in (None, event["class"])
            and self.subtype in (None, event["subtype"])
            and self.symbol in (None, event["symbol"])
            and event["severity"] >= self.severity_min
            and self._in_time(event["exchange_ts"])
        )

    def _in_time(self, text: str) -> bool:
        if self.since is None and self.until is None:
            return True
        at = instant_of(text)
        return (self.since is None or at >= self.since) and (self.until is None or at <= self.until)


class EventFile:
    """The events of a file in its order; counts the lines that are none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as lines:
            for line in lines:
                event = parse_event(line)
                if event is not None:
                    yield event
                elif line.strip():
                    self.damaged += 1


@app.command()
def run(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH",
            help="Directory of a replay, or a file; default: the live topic under ALPHA_DATA_DIR.",
        ),
    ] = None,
    event_class: Annotated[str | None, typer.Option("--class", help="Such as spike.")] = None,
    subtype: Annotated[str | None, typer.Option(help="Such as vol_spike_m_1.")] = None,
    symbol: Annotated[str | None, typer.Option(help="Such as BTC, or MARKET.")] = None,
    min_severity: Annotated[int, typer.Option(min=0, max=100, help="From 0 to 100.")] = 0,
    since: Annotated[str | None, typer.Option(help="ISO time, UTC unless it says so.")] = None,
    until: Annotated[str | None, typer.Option(help="ISO time, included.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many, the newest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show events of a replay or of the live topic.

    In the order they were published; with --json one canonical line per event.
    """
    wanted = Wanted(
        event_class,
        subtype,
        symbol,
        min_severity,
        given_instant("--since", since),
        given_instant("--until", until),
    )
    file = EventFile(_found(path))
    chosen: Iterable[dict[str, Any]] = (event for event in file if wanted.takes(event))
    if limit is not None:
        chosen = deque(chosen, maxlen=limit)
    if as_json:
        for event in chosen:
            put_line(event_json(event))
    else:
        shown = list(chosen)
        put_table(events_table(shown, out().width))
        say(f"{len(shown)} event{'' if len(shown) == 1 else 's'} from {file.path}")
    if file.damaged:
        say(f"{file.path}: {file.damaged} damaged lines were left out", "yellow")


def _found(path: Path | None) -> Path:
    """Return the file to read."""
    if path is None:
        path = Settings.from_env().data_dir / "topics" / TOPIC
        if not path.exists():
            raise Problem(f"{path}: no events yet; `make live` or `alpha demo` makes some", INPUT)
    if not path.exists():
        raise Problem(f"{path}: expected a directory or a file with events, found nothing", INPUT)
    if not path.is_dir():
        return path
    inside = [path / name for name in _INSIDE if (path / name).is_file()]
    if not inside:
        raise Problem(f"{path}: expected one of {', '.join(_INSIDE)}, found none", INPUT)
    return inside[0]


def parse_event(line: bytes) -> dict[str, Any] | None:
    """Return the event of a line, None if it is none."""
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(event, dict) or not all(isinstance(event.get(k), str) for k in _TEXTS):
        return None
    if not isinstance(event.get("severity"), int):
        return None
    try:
        instant_of(event["exchange_ts"])
    except ValueError:
        return None
    return event
