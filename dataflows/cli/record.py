"""`alpha record`: the recorder alone. What it writes can be replayed, or followed by a live run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Annotated, Any

import typer

from dataflows.cli.messages import messages_on_stderr
from dataflows.cli.places import made_directory
from dataflows.cli.screen import AsJson, new_table, put, put_json, put_table, say, shown_size
from dataflows.connectors.clock import Clock, SystemClock
from dataflows.connectors.recorder import Recorder, RecorderConfig
from dataflows.settings import Settings
from packs.loader import load_packs

app = typer.Typer(add_completion=False, rich_markup_mode=None)

STATUS_S = 10.0
_LOOK_S = 0.5  # a recorder that died is noticed within


@app.command()
def run(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Directory of the log; default: ticks under ALPHA_DATA_DIR."),
    ] = None,
    coins: Annotated[
        str | None, typer.Option(help="Such as BTC,ETH; default: the most traded.")
    ] = None,
    max_assets: Annotated[
        int | None, typer.Option(min=1, max=300, help="How many, when coins are not named.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after so long; default: when told to.")
    ] = None,
    ws_url: Annotated[str | None, typer.Option(help="Venue WebSocket.")] = None,
    rest_url: Annotated[str | None, typer.Option(help="Venue REST base address.")] = None,
    as_json: AsJson = False,
) -> None:
    """Record the venue into a tick log, and nothing else.

    Ctrl-C or SIGTERM ends it cleanly. Options left out come from the ALPHA_* environment.
    """
    given = {"coins": coins, "max_assets": max_assets, "ws_url": ws_url, "rest_url": rest_url}
    config = recorder_config(directory, given)
    made_directory("--dir", config.directory)
    clock = SystemClock()
    started_s = clock.monotonic_s()
    with messages_on_stderr(), told_to_stop() as stop:
        recorder = Recorder(config)
        recorder.start()
        if not as_json:
            say(f"recording into {config.directory}; Ctrl-C ends it")
        try:
            _watch(recorder, stop, seconds, clock)
        finally:
            recorder.stop()
    lasted_s = round(clock.monotonic_s() - started_s, 1)
    _report(config.directory, lasted_s, recorder.counters, as_json)


def recorder_config(directory: Path | None, given: dict[str, Any]) -> RecorderConfig:
    """Return what to record: options first, then the environment, then the defaults."""
    settings = Settings.from_env()
    named = {name: value for name, value in given.items() if value is not None}
    settings = Settings.model_validate({**settings.model_dump(), **named})
    universe = load_packs(settings.feature_pack, settings.detector_pack, settings.universe).universe
    return RecorderConfig(
        directory=directory or settings.data_dir / "ticks",
        ws_url=settings.ws_url,
        rest_url=settings.rest_url,
        coins=settings.coins,
        max_assets=settings.max_assets,
        bootstrap_assets=tuple((a.uid, a.coin) for a in universe.bootstrap_assets),
    )


def _watch(recorder: Recorder, stop: Event, seconds: float | None, clock: Clock) -> None:
    """Wait until told to stop, or until the time is up; say now and then how it goes."""
    started_s = said_s = clock.monotonic_s()
    while True:
        left_s = _LOOK_S
        if seconds is not None:
            left_s = min(left_s, started_s + seconds - clock.monotonic_s())
        if left_s <= 0 or stop.wait(left_s):
            return
        recorder.raise_if_dead()
        if clock.monotonic_s() - said_s >= STATUS_S:
            said_s = clock.monotonic_s()
            say(status_line(said_s - started_s, recorder.counters))


def status_line(lasted_s: float, counters: dict[str, int]) -> str:
    """Return how a recording goes, in one line.

    >>> status_line(61.0, {"frames": 120, "bytes": 4000, "gaps": 1, "reconnects": 0})
    '61 s: 120 frames, 4.0 kB, 1 gap, 0 reconnects'
    """
    parts = [f"{counters['frames']} frames", shown_size(counters["bytes"])]
    for name in ("gaps", "reconnects"):
        parts.append(f"{counters[name]} {name[:-1] if counters[name] == 1 else name}")
    return f"{lasted_s:.0f} s: {', '.join(parts)}"


def _report(directory: Path, lasted_s: float, counters: dict[str, int], as_json: bool) -> None:
    if as_json:
        put_json({"directory": str(directory), "seconds": lasted_s, "counters": counters})
    else:
        table = new_table("counter", "value", right=("value",))
        for name, value in counters.items():
            table.add_row(name, str(value))
        put_table(table)
        put(f"{status_line(lasted_s, counters)}; log {directory}")
    if not counters["frames"]:
        say("the venue sent nothing: the log holds a gap; see `alpha doctor`", "yellow")


@contextmanager
def told_to_stop() -> Iterator[Event]:
    """An event that Ctrl-C and SIGTERM set."""
    stop = Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
