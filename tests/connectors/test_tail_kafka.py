"""`alpha tail` at a real broker: which topic, and what kills of both of them may cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner, Result

from dataflows.cli import app
from dataflows.connectors.clock import SystemClock
from dataflows.connectors.kafka import Bus, Record, event_record, topic_names
from dataflows.connectors.kafka_source import BATCH_MAX
from fixtures.broker import Broker

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[2]
PINNED = [
    orjson.loads(line)
    for line in (ROOT / "fixtures/golden/episodes/events-v0.2.ndjson").read_bytes().splitlines()
]
ALPHA = "import sys; sys.path.insert(0, sys.argv.pop(1)); from dataflows.cli import main; main()"
# The same, but the most memory it ever had, KiB, goes to the file named first.
MEASURED = (
    "import sys, resource; target = sys.argv.pop(1); sys.path.insert(0, sys.argv.pop(1))\n"
    "from dataflows.cli import main\n"
    "try: main()\n"
    "finally: open(target, 'w').write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))\n"
)
EVENTS, BACKLOG = 2_000, 700  # the backlog is there when the consumer starts
CLOCK = SystemClock()
Alpha = Callable[..., Result]


@pytest.fixture
def alpha(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Alpha:
    """Run a command in this process, in an empty directory."""
    for name in [name for name in os.environ if name.startswith("ALPHA_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, **environment: str) -> Result:
        given = [str(each) for each in arguments]
        result = CliRunner().invoke(app, given, env=environment)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def event(number: int) -> dict[str, Any]:
    """The n-th event of a run, of one of eleven assets."""
    uid = number % 11
    event_id = f"01a0c50b-d324-7662-a760-{number:012x}"
    key = f"A{uid}:spike:1m"
    return {**PINNED[0], "asset_uid": uid, "event_id": event_id, "debounce_key": key}


def publish(bootstrap: str, topic: str, *events: dict[str, Any]) -> None:
    """Write events as the detector does."""
    bus = Bus(bootstrap)
    bus.ensure_topics([topic])
    publisher = bus.publisher()
    publisher.send(event_record(topic, each) for each in events)
    publisher.close()


def ids(text: str) -> list[str]:
    """The ids of JSON lines; a line that a kill has torn is none."""
    return [orjson.loads(line)["event_id"] for line in text.splitlines() if line.endswith("}")]


def test_broker_and_suffix_come_from_the_environment(
    alpha: Alpha, real_kafka: Any, topic_suffix: str
) -> None:
    """Each topic by its short name, any by its whole one; a file that is named comes first."""
    names = topic_names(topic_suffix)
    environment = {
        "ALPHA_KAFKA_BOOTSTRAP": real_kafka.bootstrap,
        "ALPHA_TOPIC_SUFFIX": topic_suffix,
    }
    for number, name in enumerate((names.live, names.shadow, names.replay)):
        publish(real_kafka.bootstrap, name, event(number))
    for number, options in enumerate(([], ["--topic", "shadow"], ["--topic", "replay"])):
        ran = alpha("tail", "--no-follow", "--json", *options, **environment)
        assert ids(ran.stdout) == [event(number)["event_id"]], ran.stderr
        assert f"reading topic {names[number]} at {real_kafka.bootstrap}" in ran.stderr
    whole = ["--kafka", real_kafka.bootstrap, "--topic", names.replay]
    assert ids(alpha("tail", "--no-follow", "--json", *whole).stdout) == [event(2)["event_id"]]
    Path("topic.ndjson").write_bytes(orjson.dumps(event(7)) + b"\n")
    ran = alpha("tail", "topic.ndjson", "--no-follow", "--json", **environment)
    assert ids(ran.stdout) == [event(7)["event_id"]]
    assert "reading file topic.ndjson" in ran.stderr


class Tail:
    """`alpha tail` in a process, its lines gathered by a thread."""

    def __init__(self, arguments: list[str], output: Path) -> None:
        self.lines = 0
        self._output = output.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-c", ALPHA, str(ROOT), "tail", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={n: v for n, v in os.environ.items() if not n.startswith("ALPHA_")},
        )
        self._thread = threading.Thread(target=self._gather)
        self._thread.start()

    def _gather(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._output.write(line)
            self.lines += 1

    def wait_for(self, lines: int) -> None:
        """Wait until it has printed so many lines."""
        until_s = CLOCK.monotonic_s() + 60
        while self.lines < lines:
            assert CLOCK.monotonic_s() < until_s, self.lines
            assert self._process.poll() is None
            CLOCK.sleep(0.01)

    def end(self, *, kill: bool) -> None:
        """Kill it with -9, or tell it to stop, and close everything."""
        (self._process.kill if kill else self._process.terminate)()
        assert self._process.wait(30) == (-9 if kill else 0)
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._output.close()


@pytest.fixture
def written(own_broker: Broker, topic_suffix: str) -> Iterator[Callable[[], threading.Thread]]:
    """Return what starts a thread that writes all events, most of them in some seven seconds."""
    bus, topic = Bus(own_broker.bootstrap, wait_s=60.0), topic_names(topic_suffix).live
    bus.ensure_topics([topic])

    def write() -> None:
        publisher = bus.publisher()
        for at in range(0, EVENTS, 20):
            publisher.send([event_record(topic, event(n)) for n in range(at, at + 20)])
            CLOCK.sleep(0.1 if at >= BACKLOG else 0.0)
        publisher.send([Record(topic, b"1", b"no event", [])])
        publisher.close()

    thread = threading.Thread(target=write)

    def start() -> threading.Thread:
        thread.start()
        return thread

    yield start
    thread.join()


@pytest.mark.slow
def test_kills_of_consumer_and_broker_lose_nothing(
    alpha: Alpha,
    own_broker: Broker,
    topic_suffix: str,
    written: Callable[[], threading.Thread],
    tmp_path: Path,
) -> None:
    """The consumer is killed twice and the broker once while 2,000 events are written.

    Every event is printed; what is printed twice was in the batch of a kill; the state knows each
    id once, so the next run prints nothing.
    """
    state, topic = tmp_path / "state.json", topic_names(topic_suffix).live
    arguments = ["--json", "--state", str(state), "--dead", str(tmp_path / "dead.ndjson")]
    arguments += ["--kafka", own_broker.bootstrap, "--topic", topic]
    writer = written()
    CLOCK.sleep(1.0)
    outputs = [tmp_path / f"printed-{number}" for number in range(3)]

    first = Tail(arguments, outputs[0])
    first.wait_for(1)  # in the middle of a batch
    first.end(kill=True)
    second = Tail(arguments, outputs[1])
    second.wait_for(BACKLOG)
    own_broker.kill()
    restarted = threading.Thread(target=own_broker.start)
    restarted.start()
    second.wait_for(BACKLOG + 200)
    second.end(kill=True)
    third = Tail(arguments, outputs[2])
    writer.join()
    restarted.join()
    seen: list[str] = []
    until_s = CLOCK.monotonic_s() + 60
    while len(seen) < EVENTS and CLOCK.monotonic_s() < until_s:
        CLOCK.sleep(0.2)
        seen = json.loads(state.read_text())["inbox"]["seen"]
    third.end(kill=False)

    expected = [event(number)["event_id"] for number in range(EVENTS)]
    printed = [each for output in outputs for each in ids(output.read_text())]
    assert sorted(set(printed)) == expected
    assert sorted(json.loads(state.read_text())["inbox"]["seen"]) == expected
    again = [each for each, count in Counter(printed).items() if count > 1]
    assert max(Counter(printed).values()) <= 3
    assert len(printed) - EVENTS <= 2 * BATCH_MAX
    print(f"{len(printed)} lines for {EVENTS} events, {len(again)} of them more than once")
    ran = alpha("tail", "--no-follow", *arguments)
    assert ran.stdout == ""
    dead = [orjson.loads(line) for line in (tmp_path / "dead.ndjson").read_bytes().splitlines()]
    assert {(each["partition"], each["payload"]) for each in dead} == {
        (dead[0]["partition"], "no event")
    }


@pytest.mark.slow
def test_memory_does_not_grow_with_the_topic(
    real_kafka: Any, topic_suffix: str, tmp_path: Path
) -> None:
    """Forty thousand events, 90 MB, cost little more than two thousand."""
    most_kib = []
    for number, count in enumerate((2_000, 40_000)):
        topic = f"alpha.events.v0.{number}.{topic_suffix}"
        Bus(real_kafka.bootstrap).ensure_topics([topic])
        producer = Producer({"bootstrap.servers": real_kafka.bootstrap, "linger.ms": 20})
        for n in range(count):
            one = event(n)
            producer.produce(topic, key=str(one["asset_uid"]), value=orjson.dumps(one))
            producer.poll(0)
            if n % 5_000 == 0:
                producer.flush(30)
        assert producer.flush(30) == 0
        target = tmp_path / "most"
        command = [sys.executable, "-c", MEASURED, str(target), str(ROOT), "tail", "--no-follow"]
        command += ["--json", "--kafka", real_kafka.bootstrap, "--topic", topic]
        command += ["--state", str(tmp_path / f"{number}.json"), "--min-severity", "100"]
        command += ["--dead", str(tmp_path / "dead"), "--to", "json://127.0.0.1:9/x"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert f"{count} messages" in done.stderr
        most_kib.append(int(target.read_text()))
    print(f"most memory: {most_kib} KiB")
    assert most_kib[1] - most_kib[0] < 48 << 10
