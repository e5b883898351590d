"""The consumer as a whole: told once, over restarts and kills; dead letters; webhooks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from dataflows.connectors.clock import SystemClock
from dataflows.connectors.dead_file import DeadFile
from dataflows.connectors.notify import Channel, ChannelError
from dataflows.connectors.state_file import StateError, StateFile
from dataflows.connectors.topic_source import SourceError, TopicFile
from dataflows.consume import Consumer, Sender
from dataflows.inbox import Inbox, Wanted
from dataflows.outbox import Outbox, Policy
from operators.contract import Event

Make = Callable[..., bytes]


class Killed(BaseException):
    """A kill: nothing catches it."""


class Desk:
    """A consumer of one topic file in a directory, and what it showed and said."""

    def __init__(self, directory: Path, clock: Any) -> None:
        self.topic = directory / "topic.ndjson"
        self.state = directory / "state.json"
        self.dead = directory / "dead.ndjson"
        self.clock = clock
        self.shown: list[bytes] = []
        self.told: list[str] = []
        self.kill_at: int | None = None

    def add(self, *messages: bytes) -> None:
        """Append messages to the topic."""
        with self.topic.open("ab") as file:
            file.write(b"".join(message + b"\n" for message in messages))

    def _show(self, _: Event, value: bytes) -> None:
        if self.kill_at == len(self.shown):
            raise Killed
        self.shown.append(value)

    @contextmanager
    def opened(self, channels: list[tuple[Sender, Outbox]] | None = None) -> Iterator[Consumer]:
        """Return a consumer that goes on where the last one ended."""
        with StateFile(self.state) as state:
            consumer = Consumer(
                TopicFile(self.topic, self.clock),
                Inbox(Wanted()),
                DeadFile(self.dead),
                self.clock,
                show=self._show,
                tell=self.told.append,
                line=lambda event: f"{event.symbol} {event.severity}",
                channels=channels,
                state=state,
            )
            try:
                consumer.resume()
                yield consumer
            finally:
                consumer.close()

    def run(self, channels: list[tuple[Sender, Outbox]] | None = None) -> Consumer:
        """Read to the end."""
        with self.opened(channels) as consumer:
            while consumer.step(0.0):
                pass
            consumer.drain()
        return consumer


@pytest.fixture
def desk(tmp_path: Path, clock: Any) -> Desk:
    """A consumer's desk."""
    return Desk(tmp_path, clock)


class Pigeon:
    """A channel without a network; it works while `works` is true."""

    name = "pigeon:1"

    def __init__(self, key: str = "1") -> None:
        self.key = key
        self.works = True
        self.letters: list[tuple[str, str, bool]] = []
        self._result: bool | None = None

    def send(self, title: str, body: str, *, urgent: bool) -> None:
        """Take a message."""
        if self.works:
            self.letters.append((title, body, urgent))
        self._result = self.works

    def result(self) -> bool | None:
        """Tell once how that went."""
        result, self._result = self._result, None
        return result

    def close(self) -> None:
        """Do nothing."""


def test_each_event_is_shown_once_over_restarts(desk: Desk, make: Make) -> None:
    """A repeat in the same run, and one that comes after a restart, are dropped."""
    desk.add(make(1), make(2), make(1))
    assert desk.run().counts["repeated"] == 1
    desk.add(make(2), make(3))
    consumer = desk.run()
    assert desk.shown == [make(1), make(2), make(3)]
    assert consumer.counts == {**dict.fromkeys(consumer.counts, 0), "repeated": 1, "shown": 1}
    assert desk.run().report()["messages"] == 0


@pytest.mark.parametrize("kill_at", range(4))
def test_a_kill_loses_nothing(desk: Desk, make: Make, kill_at: int) -> None:
    """What was shown since the last save is shown again, nothing is left out."""
    messages = [make(number) for number in range(4)]
    desk.add(messages[0])
    desk.run()
    desk.add(*messages[1:])
    desk.kill_at = kill_at
    if kill_at:
        with pytest.raises(Killed):
            desk.run()
    desk.kill_at = None
    desk.run()
    assert list(dict.fromkeys(desk.shown)) == messages
    assert desk.shown.count(messages[0]) == 1  # saved before the kill


def test_what_does_not_parse_is_kept_with_its_reason(desk: Desk, make: Make) -> None:
    """The file says where it stood, and what was there, whatever bytes they were."""
    desk.add(make(1), b'{"v": 1}', b"\xff\xfe", make(2, severity=101), make(3))
    consumer = desk.run()
    dead = [orjson.loads(line) for line in desk.dead.read_bytes().splitlines()]
    assert [d["offset"] for d in dead] == [len(make(1)) + 1, len(make(1)) + 10, len(make(1)) + 13]
    assert [d["payload"] for d in dead[:2]] == ['{"v": 1}', r"\xff\xfe"]
    assert dead[0]["reason"] == "v: expected str, found 1"
    assert dead[2]["reason"].startswith("severity:")
    assert dead[2]["size_bytes"] == len(make(2, severity=101))
    assert consumer.counts["dead"] == 3
    assert desk.shown == [make(1), make(3)]
    desk.run()
    assert len(desk.dead.read_bytes().splitlines()) == 3


def test_a_change_of_packs_is_said(desk: Desk, make: Make) -> None:
    """One line with both packs, also when the change comes after a restart."""
    desk.add(make(1))
    desk.run()
    desk.add(make(2, packs="v0.3"), make(3, packs="v0.3"))
    consumer = desk.run()
    assert consumer.pack_changes == 1
    [line] = [line for line in desk.told if "packs changed" in line]
    assert "v0.2.1 -> v0.3" in line
    assert "config 882f5bf4b0db" in line


def test_the_state_belongs_to_one_topic(desk: Desk, make: Make) -> None:
    """Another topic with the same state would skip events."""
    desk.add(make(1))
    desk.run()
    desk.topic = desk.topic.with_name("other.ndjson")
    with pytest.raises(StateError, match="state file of its own"):
        desk.run()


@pytest.mark.parametrize("field", ["version", "inbox", "position", "waiting"])
def test_a_damaged_state_is_refused(desk: Desk, make: Make, field: str) -> None:
    """Nothing is guessed."""
    desk.add(make(1))
    desk.run()
    state = json.loads(desk.state.read_text())
    desk.state.write_text(json.dumps({**state, field: "x"}))
    with pytest.raises((StateError, SourceError), match=r"state|position"):
        desk.run()


def test_what_waited_is_sent_after_a_restart(desk: Desk, make: Make) -> None:
    """A channel that was away gets the message later, and a sent one is not sent again."""
    pigeon, policy = Pigeon(), Policy(digest_s=5, age_max_s=None, retry_s=60)
    pigeon.works = False
    desk.add(make(1), make(2, incident_id="i"))
    consumer = desk.run([(pigeon, Outbox(policy))])
    assert consumer.report()["channels"]["pigeon:1"]["waiting"] == 2
    assert any("was not taken" in line for line in desk.told)
    desk.run()  # without the channel: what waits for it stays
    pigeon.works = True
    desk.clock.sleep(120)
    desk.run([(pigeon, Outbox(policy))])
    assert sorted(title for title, _, _ in pigeon.letters) == ["BTC 97", "BTC 97"]
    desk.run([(pigeon, Outbox(policy))])
    assert len(pigeon.letters) == 2


def test_an_incident_is_one_letter(desk: Desk, make: Make) -> None:
    """Events of a cause are told once, and a severe message says that it is."""
    pigeon = Pigeon()
    desk.add(*(make(n, incident_id="storm", severity=60 + 10 * n) for n in range(3)))
    desk.add(make(9, incident_id="other", severity=30))
    desk.run([(pigeon, Outbox(Policy(age_max_s=None)))])
    assert [(title.split()[0], urgent) for title, _, urgent in pigeon.letters] == [
        ("3", True),
        ("BTC", False),
    ]


# --- a webhook -----------------------------------------------------------------------------------


@pytest.fixture
def hook() -> Iterator[Any]:
    """A local HTTP server that keeps what it is sent; `answers` are the next status codes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = server.answers.pop(0) if server.answers else 200
            server.got.append((status, self.path, json.loads(body)))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        got: list[tuple[int, str, Any]]
        answers: list[int]

    server = Server(("127.0.0.1", 0), Handler)
    server.got, server.answers = [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def address(hook: Any) -> str:
    """Return the apprise address of the webhook."""
    return f"json://user:secret@127.0.0.1:{hook.server_port}/alerts"


def test_a_webhook_gets_digests(tmp_path: Path, make: Make, hook: Any) -> None:
    """One message per incident and one for the rest; a refused one is tried again."""
    desk = Desk(tmp_path, SystemClock())
    desk.add(make(1), make(2, incident_id="storm"), make(3), make(4, incident_id="storm"))
    hook.answers = [503]
    policy = Policy(digest_s=1, age_max_s=None, retry_s=0)
    channel = Channel(address(hook))
    consumer = desk.run([(channel, Outbox(policy))])
    counts = consumer.report()["channels"][channel.name]
    assert (counts["delivered"], counts["messages"], counts["waiting"]) == (4, 2, 0)
    assert [status for status, _, _ in hook.got] == [503, 200, 200]
    assert {path for _, path, _ in hook.got} == {"/alerts"}
    titles = sorted(body["title"] for status, _, body in hook.got if status == 200)
    assert titles == [
        "2 events of one incident (storm), severity up to 97",
        "2 events, severity up to 97",
    ]
    assert all(body["message"] == "BTC 97\nBTC 97" for _, _, body in hook.got)
    assert all(body["type"] == "warning" for _, _, body in hook.got)


def test_a_webhook_that_is_away_stops_nothing(
    tmp_path: Path, make: Make, hook: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Events are shown all the same; the losses are counted, and no password is printed."""
    hook.answers = [500] * 9
    desk = Desk(tmp_path, SystemClock())
    desk.add(make(1), make(2))
    channel = Channel(address(hook))
    policy = Policy(digest_s=0, age_max_s=None, retry_s=0, tries=2, per_minute=60)
    consumer = desk.run([(channel, Outbox(policy))])
    assert desk.shown == [make(1), make(2)]
    counts = consumer.report()["channels"][channel.name]
    assert (counts["undeliverable"], counts["delivered"], len(hook.got)) == (2, 0, 4)
    written = capfd.readouterr()
    everything = [*desk.told, channel.name, channel.key, desk.state.read_text(), *written]
    assert not any("secret" in text for text in everything)


def test_an_address_that_is_none_is_refused_without_showing_it() -> None:
    """The message names the scheme, never what follows."""
    for url in ("nothing://secret", "secret", "slack://secret"):
        with pytest.raises(ChannelError) as caught:
            Channel(url)
        assert "secret" not in str(caught.value)
