"""`alpha tail`: the reference consumer on a terminal, or in front of chats and webhooks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer
from rich.text import Text

from dataflows.cli.failures import INPUT, Problem
from dataflows.cli.places import made_directory
from dataflows.cli.record import told_to_stop
from dataflows.cli.screen import AsJson, out, put_line, say, shown_counts
from dataflows.cli.tables import main_numbers, name_of, severity_text, shown_time
from dataflows.connectors.clock import Clock, SystemClock
from dataflows.connectors.dead_file import DeadFile
from dataflows.connectors.kafka import topic_names
from dataflows.connectors.kafka_options import check_options, lines_of, options_of, read_lines
from dataflows.connectors.kafka_source import KafkaSource
from dataflows.connectors.notify import Channel
from dataflows.connectors.state_file import StateFile
from dataflows.connectors.topic_source import EventSource, TopicFile
from dataflows.consume import Consumer, Sender
from dataflows.inbox import MUTED, Inbox, Wanted
from dataflows.outbox import Outbox, Policy
from dataflows.settings import Settings
from operators.contract import Event, EventClass

app = typer.Typer(add_completion=False, rich_markup_mode=None)

CLASSES: tuple[str, ...] = get_args(EventClass)
DEAD_TOPIC = "alpha.tail.dlq.ndjson"
LIVE = "live"
KINDS = (LIVE, "shadow", "replay")


@app.command()
def run(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH",
            help="Topic file; default: Kafka if it is known, else the file under ALPHA_DATA_DIR.",
        ),
    ] = None,
    kafka: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT,..", help="Brokers; default: ALPHA_KAFKA_BOOTSTRAP."),
    ] = None,
    topic: Annotated[
        str,
        typer.Option(
            metavar="live|shadow|replay",
            help="Or the whole name of a topic at the brokers, with a dot in it.",
        ),
    ] = LIVE,
    kafka_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Lines NAME=VALUE, over those of ALPHA_KAFKA_OPTIONS."),
    ] = None,
    min_severity: Annotated[
        int, typer.Option(min=0, max=100, help="For classes that --class does not name.")
    ] = 0,
    by_class: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="CLASS=N", help="Such as spike=80 or rotation=off."),
    ] = None,
    symbols: Annotated[
        str | None, typer.Option("--symbol", help="Such as BTC,ETH or MARKET; default: all.")
    ] = None,
    window_sec: Annotated[
        int,
        typer.Option(min=0, help="Ignore what is older than a later one of its key by so much."),
    ] = 900,
    state: Annotated[
        Path | None,
        typer.Option(help="Remember here what was read and sent; default: nothing is kept."),
    ] = None,
    dead: Annotated[
        Path | None,
        typer.Option(help=f"For what does not parse; default: {DEAD_TOPIC} beside the topics."),
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Without a state: leave out what is there already.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Wait for more at the end, or stop.")
    ] = True,
    to: Annotated[
        list[str] | None,
        typer.Option(metavar="URL|@FILE", help="Also send there, by apprise; @FILE: a URL a line."),
    ] = None,
    digest_sec: Annotated[
        int, typer.Option(min=0, help="Gather so long for one message; 0: a message an event.")
    ] = 10,
    per_minute: Annotated[int, typer.Option(min=1, help="Messages a minute and channel.")] = 6,
    queue: Annotated[int, typer.Option(min=1, help="Messages that may wait per channel.")] = 100,
    max_age_sec: Annotated[
        int, typer.Option(min=0, help="Send nothing decided longer ago; 0: send all.")
    ] = 3600,
    as_json: AsJson = False,
) -> None:
    """Follow events: print, filter, forward to chats and webhooks.

    Repeats are dropped by event id. Ctrl-C or SIGTERM ends it cleanly. With --json the canonical
    bytes of each event, a line each.
    """
    wanted = Wanted(min_severity, _by_class(by_class or []), _symbols(symbols))
    if path is not None and (kafka is not None or topic != LIVE):
        raise typer.BadParameter("expected either PATH, or --kafka and --topic, found both")
    policy = Policy(digest_sec, per_minute, queue, max_age_sec or None)
    urls = [url for given in to or [] for url in _urls(given)]
    settings = Settings.from_env()
    dead = dead or settings.data_dir / "topics" / DEAD_TOPIC
    made_directory("--dead", dead.parent)
    if state is not None:
        made_directory("--state", state.parent)
    clock = SystemClock()
    channels: list[tuple[Sender, Outbox]] = [
        (Channel(url), Outbox(policy)) for url in dict.fromkeys(urls)
    ]
    memory = None if state is None else StateFile(state)
    source, place = _source(path, kafka, topic, kafka_config, settings, clock)
    consumer = Consumer(
        source,
        Inbox(wanted, window_ms=window_sec * 1000),
        DeadFile(dead),
        clock,
        show=_show_json if as_json else _show,
        tell=lambda note: say(note, "yellow"),
        line=event_line,
        channels=channels,
        state=memory,
    )
    try:
        if not consumer.resume() and new:
            source.seek_end()
        say(f"{'following' if follow else 'reading'} {place}")
        with told_to_stop() as stop:
            while not stop.is_set() and (consumer.step() or follow):
                pass
        consumer.drain()
    finally:
        consumer.close()
        if memory is not None:
            memory.close()
    _report(consumer.report())


def event_line(event: Event) -> str:
    """Return an event in one line of plain text: bar, symbol, detector, severity, main numbers."""
    return _line(event).plain


def _line(event: Event) -> Text:
    fields: dict[str, Any] = msgspec.to_builtins(event)
    timeframe = "" if event.tf == "1m" else f" ({event.tf})"
    numbers = main_numbers(fields)
    folded = len(event.coalesced)
    return Text.assemble(
        (shown_time(event.exchange_ts), "dim"),
        (f"  {event.symbol:<8}", "bold"),
        (f" {name_of(fields)}", "cyan"),
        (timeframe, "dim"),
        "  ",
        severity_text(event.severity),
        f"  {numbers}" if numbers else "",
        (f"  +{folded}" if folded else "", "dim"),
    )


def _show(event: Event, _: bytes) -> None:
    out().print(_line(event), soft_wrap=True)


def _show_json(_: Event, value: bytes) -> None:
    put_line(value)
    sys.stdout.flush()  # a state may only say what has left this process


def _source(
    path: Path | None,
    kafka: str | None,
    topic: str,
    config: Path | None,
    settings: Settings,
    clock: Clock,
) -> tuple[EventSource, str]:
    """Return what is read, and its name for the user."""
    bootstrap = kafka or settings.kafka_bootstrap
    if path is None and bootstrap is not None:
        whole = topic_names(settings.topic_suffix)._asdict()
        name = whole[topic] if topic in KINDS else topic
        if topic not in KINDS and "." not in topic:
            raise typer.BadParameter(
                f"--topic {topic}: expected {', '.join(KINDS)} or a.whole.name"
            )
        source = KafkaSource(bootstrap, name, clock, _options(config, settings))
        return source, f"topic {name} at {bootstrap}"
    if path is None:
        if topic not in KINDS or config is not None:
            raise typer.BadParameter(
                f"--topic {topic}: expected {', '.join(KINDS)} of the files, since neither --kafka"
                " nor ALPHA_KAFKA_BOOTSTRAP names a broker"
            )
        path = settings.data_dir / "topics" / f"{topic_names()._asdict()[topic]}.ndjson"
    if path.is_dir():
        raise Problem(
            f"{path}: expected a topic file, found a directory; see `alpha events`", INPUT
        )
    return TopicFile(path, clock), f"file {path}"


def _by_class(given: list[str]) -> dict[str, int]:
    """Return class -> least severity."""
    least = {}
    for text in given:
        name, _, number = text.partition("=")
        if name not in CLASSES:
            raise typer.BadParameter(f"--class {text}: expected one of {', '.join(CLASSES)}")
        if number != "off" and not (number.isdecimal() and int(number) <= 100):
            raise typer.BadParameter(f"--class {text}: expected {name}=0 to {name}=100, or off")
        least[name] = MUTED if number == "off" else int(number)
    return least


def _symbols(given: str | None) -> frozenset[str] | None:
    names = [] if given is None else [name.strip() for name in given.split(",")]
    return frozenset(name for name in names if name) or None


def _urls(given: str) -> list[str]:
    """Return the addresses of an option: itself, or the lines of a file but for # comments."""
    if not given.startswith("@"):
        return [given]
    return lines_of(Path(given[1:]))


def _options(path: Path | None, settings: Settings) -> dict[str, str]:
    """Return settings of librdkafka: those of the file over those of the environment."""
    options = options_of(settings)
    if path is not None:
        options |= read_lines("--kafka-config", path)
        check_options(f"--kafka-config {path}", options)
    return options


def _report(report: Any) -> None:
    """Say what became of everything; stdout is for events."""
    verdicts = {name: count for name, count in report["verdicts"].items() if count}
    say(f"{report['messages']} messages: {shown_counts(verdicts) or 'nothing new'}")
    for name, counts in report["channels"].items():
        say(f"{name}: {shown_counts(counts)}")
