"""`alpha tail`: what is printed, sent, kept and refused."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from dataflows.cli.failures import INPUT, USAGE
from dataflows.connectors.topic_source import READ_BYTES

ROOT = Path(__file__).parents[2]
PINNED = ROOT / "fixtures" / "golden" / "episodes" / "events-v0.2.ndjson"
EVENTS = [orjson.loads(line) for line in PINNED.read_bytes().splitlines()]


@pytest.fixture
def topic(tmp_path: Path) -> Path:
    """The live topic with the pinned events, and a line that is none."""
    path = tmp_path / "var" / "topics" / "alpha.events.v0.ndjson"
    path.parent.mkdir(parents=True)
    path.write_bytes(PINNED.read_bytes() + b'{"v":"0.1"}\n')
    return path


def shown(text: str) -> list[str]:
    """Return the ids of JSON lines."""
    return [orjson.loads(line)["event_id"] for line in text.splitlines()]


def test_json_is_the_bytes_of_the_topic(alpha: Any, topic: Path) -> None:
    """Each event as published; the damaged line is kept beside the topics, with its reason."""
    ran = alpha("tail", "--no-follow", "--json")
    assert ran.code == 0
    assert ran.out.encode() == PINNED.read_bytes()
    [dead] = (topic.parent / "alpha.tail.dlq.ndjson").read_bytes().splitlines()
    assert orjson.loads(dead)["payload"] == '{"v":"0.1"}'
    assert f"{len(EVENTS) + 1} messages: shown {len(EVENTS)}, dead 1" in ran.err


def test_it_says_which_topic_it_reads(alpha: Any, topic: Path) -> None:
    """Without a broker the file of the topic; the shadow's file has nothing yet."""
    assert f"reading file {topic.relative_to(Path.cwd())}" in alpha("tail", "--no-follow").err
    shadow = topic.with_name("alpha.events.shadow.v0.ndjson")
    shadow.write_bytes(PINNED.read_bytes().splitlines()[0] + b"\n")
    ran = alpha("tail", "--no-follow", "--json", "--topic", "shadow")
    assert shown(ran.out) == [EVENTS[0]["event_id"]]
    assert shadow.name in ran.err


def test_a_line_an_event(alpha: Any, topic: Path) -> None:
    """Bar, symbol, detector, severity and main numbers."""
    ran = alpha("tail", topic, "--no-follow")
    lines = ran.out.splitlines()
    assert len(lines) == len(EVENTS)
    assert (
        "09-21 18:04  BTC      spike.vol_spike_m_1  97  ret -0.62% z_vol 7.0 z_ret 6.0  +1" in lines
    )


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--min-severity", "70"], lambda e: e["severity"] >= 70),
        (
            ["--min-severity", "60", "--class", "spike=90", "--class", "shift=off"],
            lambda e: e["class"] != "shift" and e["severity"] >= (90, 60)[e["class"] != "spike"],
        ),
        (["--symbol", "BTC, MARKET"], lambda e: e["symbol"] in ("BTC", "MARKET")),
    ],
)
def test_filters(alpha: Any, topic: Path, options: list[str], wanted: Callable[..., bool]) -> None:
    """By severity, by severity per class, by symbol."""
    ran = alpha("tail", "--no-follow", "--json", *options)
    expected = [e["event_id"] for e in EVENTS if wanted(e)]
    assert 0 < len(expected) < len(EVENTS)
    assert shown(ran.out) == expected


def test_a_state_remembers_what_was_read(alpha: Any, topic: Path, tmp_path: Path) -> None:
    """The second run shows what is new, and repeats are no news."""
    state = tmp_path / "deep" / "state.json"
    first = alpha("tail", "--no-follow", "--json", "--state", state)
    assert len(shown(first.out)) == len(EVENTS)
    new = {**EVENTS[0], "event_id": EVENTS[0]["event_id"][:-1] + "0", "symbol": "NEW"}
    with topic.open("ab") as file:
        file.write(orjson.dumps(EVENTS[1]) + b"\n" + orjson.dumps(new) + b"\n")
    second = alpha("tail", "--no-follow", "--json", "--state", state)
    assert shown(second.out) == [new["event_id"]]
    assert "2 messages: repeated 1, shown 1" in second.err


def test_new_leaves_out_what_is_there(alpha: Any, topic: Path) -> None:
    """Without a state, `--new` starts at the end."""
    ran = alpha("tail", "--no-follow", "--new", "--json")
    assert (ran.code, ran.out) == (0, "")
    assert "0 messages: nothing new" in ran.err


def test_it_follows_until_told_to_stop(
    alpha_command: Callable[..., list[str]], topic: Path, tmp_path: Path
) -> None:
    """A line comes out while it runs; SIGTERM ends it with 0 and its state is kept."""
    state = tmp_path / "state.json"
    arguments = alpha_command("tail", "--json", "--state", state)
    buffered = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in EVENTS:
            process.stdout.readline()
        new = {**EVENTS[0], "event_id": EVENTS[0]["event_id"][:-1] + "0"}
        with topic.open("ab") as file:
            file.write(orjson.dumps(new) + b"\n")
        assert orjson.loads(process.stdout.readline()) == new
        process.send_signal(signal.SIGTERM)
        errors = process.stderr.read().decode()
        assert process.wait(20) == 0, errors
    assert new["event_id"] in state.read_text()


@pytest.mark.parametrize("read_before_kill", [1, 700])
def test_a_kill_repeats_a_batch_at_most(
    alpha: Any,
    alpha_command: Callable[..., list[str]],
    topic: Path,
    tmp_path: Path,
    read_before_kill: int,
) -> None:
    """SIGKILL in the middle of 1,200 events: the next run shows every other one."""
    ids = [f"01a0c523-a0e6-79ba-9e13-{number:012x}" for number in range(1200)]
    events = [{**EVENTS[0], "event_id": event_id} for event_id in ids]
    topic.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events))
    state = tmp_path / "state.json"
    arguments = alpha_command("tail", "--json", "--state", state)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(read_before_kill)]
        process.kill()
        lines += process.stdout.readlines()
    before = shown(b"".join(lines).decode())
    after = shown(alpha("tail", "--no-follow", "--json", "--state", state).out)
    assert sorted({*before, *after}) == ids
    batch = READ_BYTES // len(orjson.dumps(EVENTS[0]))
    assert len(before) + len(after) - len(ids) <= batch


class Channel(BaseHTTPRequestHandler):
    """A webhook that lets the test act on a message before it answers."""

    def do_POST(self) -> None:
        """Take a message."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.taken.append(body)  # type: ignore[attr-defined]
        self.server.on_message()  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_a_kill_sends_a_message_again_and_leaves_none_out(
    alpha: Any, alpha_command: Callable[..., list[str]], topic: Path, tmp_path: Path
) -> None:
    """SIGKILL while the first digest is on its way: the next run sends it and all others."""
    symbols = {f"COIN{number:02}" for number in range(60)}
    events = [
        {
            **EVENTS[0],
            "event_id": f"01a0c523-a0e6-79ba-9e13-{number:012x}",
            "symbol": symbol,
            "debounce_key": f"{symbol}:spike:1m",
            "incident_id": f"2026-09-21T18:04:00Z:spike:{number % 4}",
        }
        for number, symbol in enumerate(sorted(symbols))
    ]
    topic.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events))
    with ThreadingHTTPServer(("127.0.0.1", 0), Channel) as server:
        server.taken = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever).start()
        address = f"json://127.0.0.1:{server.server_address[1]}/x"
        arguments = ["tail", "--json", "--state", tmp_path / "state.json", "--to", address]
        arguments += ["--digest-sec", "1", "--per-minute", "1000", "--max-age-sec", "0"]
        with subprocess.Popen(
            alpha_command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            server.on_message = process.kill  # type: ignore[attr-defined]
            process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL
        server.on_message = lambda: None  # type: ignore[attr-defined]
        before: list[str] = list(server.taken)  # type: ignore[attr-defined]
        ran = alpha(*arguments, "--no-follow")
        after: list[str] = server.taken[len(before) :]  # type: ignore[attr-defined]
        server.shutdown()
    assert len(before) == 1
    assert ran.out == ""  # the state knew them, with what waited
    assert "delivered 60, offered 60, messages 4," in ran.err
    told = [symbol for symbol in sorted(symbols) if any(symbol in body for body in after)]
    assert told == sorted(symbols)
    assert before[0] in after


def test_addresses_come_from_a_file(alpha: Any, topic: Path, tmp_path: Path) -> None:
    """Comments and empty lines are none; a wrong one is refused before anything is read."""
    urls = tmp_path / "urls"
    urls.write_text("# chat\n\njson://127.0.0.1:9/x\n")
    ran = alpha("tail", "--no-follow", "--json", "--to", f"@{urls}")
    assert ran.code == 0
    assert f"too_old {len(EVENTS)}" in ran.err  # the market of the file is not of today
    urls.write_text("carrier://secret@pigeon\n")
    refused = alpha("tail", "--no-follow", "--json", "--to", f"@{urls}")
    refused.failed_with(USAGE, "carrier://")
    assert "secret" not in refused.err


def test_the_commands_of_the_page_run(alpha: Any, topic: Path) -> None:
    """docs/consumer.md shows commands that work, and the second with a state finds nothing new."""
    page = (ROOT / "docs" / "consumer.md").read_text().split("```")[1]
    commands = [shlex.split(line, comments=True)[1:] for line in page.strip().splitlines()]
    assert len(commands) == 5
    for arguments in commands:
        ran = alpha(*arguments)
        assert ran.code == 0, ran.err
        assert bool(ran.out) == ("--to" not in arguments)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--class", "spike"], USAGE, ["--class spike", "spike=0"]),
        (["--class", "spike=101"], USAGE, ["spike=101"]),
        (["--class", "calm=1"], USAGE, ["calm", "spike", "rotation"]),
        (["some.ndjson", "--kafka", "127.0.0.1:9"], USAGE, ["PATH", "--kafka"]),
        (["--kafka", "127.0.0.1:9", "--kafka-config", "wrong"], USAGE, ["NAME=VALUE", "entry 2"]),
        (["some.ndjson", "--topic", "shadow"], USAGE, ["PATH", "--topic"]),
        (["--topic", "my.own"], USAGE, ["--topic my.own", "ALPHA_KAFKA_BOOTSTRAP"]),
        (["--kafka", "127.0.0.1:9", "--topic", "lives"], USAGE, ["lives", "live, shadow, replay"]),
        (["--kafka", "127.0.0.1:9", "--kafka-config", "unknown"], USAGE, ["entry 2 of 2"]),
        (["--to", "@missing"], INPUT, ["missing"]),
        (["."], INPUT, ["topic file", "directory"]),
    ],
)
def test_wrong_usage(alpha: Any, options: list[str], code: int, words: list[str]) -> None:
    """What was expected and what was found."""
    Path("wrong").write_text("# TLS\nsecurity.protocol=ssl\nsecret\n")
    Path("unknown").write_text("client.rack=secret\nsecret=1\n")
    ran = alpha("tail", "--no-follow", *options)
    assert "secret" not in ran.err
    ran.failed_with(code, *words)


def test_a_damaged_state_says_what_to_do(alpha: Any, topic: Path, tmp_path: Path) -> None:
    """It is not overwritten."""
    state = tmp_path / "state.json"
    state.write_text("{")
    alpha("tail", "--no-follow", "--state", state).failed_with(INPUT, "state.json", "remove it")
    assert state.read_text() == "{"
