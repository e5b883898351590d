"""Shared inputs: a generated log with episodes, the place of the real recordings, a Kafka server.

The Kafka server is that of ALPHA_KAFKA_BOOTSTRAP (topics with a suffix of their own are made and
removed there), otherwise a broker on loopback. Without Java and Maven librdkafka's mock stands in,
except where CI is set: there the broker is required.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from hypothesis import settings

from operators import native

if "ALPHA_PLAIN" in os.environ:  # as if the inner loops had not been compiled
    sys.modules.update(dict.fromkeys(native.expected_modules()))  # type: ignore[arg-type]

from dataflows.connectors.ticklog import TickLogWriter
from fixtures.broker import Broker, BrokerError, can_run
from fixtures.market import Scenario, episode_scenario, lines

# A slow machine is not a failing test; in CI the same examples are tried every time.
settings.register_profile("steady", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("steady")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def write_log(directory: Path, scenario: Scenario, *, segment_bytes: int = 4 << 20) -> Path:
    """Write a scenario as a tick log directory."""
    writer = TickLogWriter(directory, segment_bytes_max=segment_bytes)
    for line in lines(scenario):
        writer.write_lines(int(line[: line.index(b" ")]), line)
    writer.close()
    return directory


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-golden`: rewrite pinned outputs; the review is their diff."""
    parser.addoption("--update-golden", action="store_true", help="rewrite pinned outputs")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Return whether pinned outputs are to be rewritten."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def episode_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log of four assets and four hours with episodes after the warm-up."""
    return write_log(tmp_path_factory.mktemp("episodes") / "ticks", episode_scenario())


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real recordings, or skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real recordings in ../shared/data")
    return SHARED_DATA


# --- Kafka ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KafkaServer:
    """A place for topics; broker : where a test may end and start it, mock : not a real one."""

    bootstrap: str
    broker: Broker | None = None
    mock: bool = False


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A server that takes messages; see the head of this file."""
    given = os.environ.get("ALPHA_KAFKA_BOOTSTRAP")
    if given:
        yield KafkaServer(given)
        return
    required = "CI" in os.environ
    if required or can_run():
        broker = Broker(tmp_path_factory.mktemp("kafka"))
        try:
            broker.start()
        except (BrokerError, OSError):
            if required:
                raise
        else:
            yield KafkaServer(broker.bootstrap, broker)
            broker.stop()
            return
    host = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "unused", "log_level": 4})
    brokers = host.list_topics(timeout=5).brokers.values()
    yield KafkaServer(",".join(f"{b.host}:{b.port}" for b in brokers), mock=True)
    del host


@pytest.fixture
def real_kafka(kafka_server: KafkaServer) -> KafkaServer:
    """A server that is not the mock, or skip."""
    if kafka_server.mock:
        pytest.skip("needs Java and Maven, or ALPHA_KAFKA_BOOTSTRAP")
    return kafka_server


@pytest.fixture
def own_broker(real_kafka: KafkaServer) -> Iterator[Broker]:
    """The broker of this session, which the test may end; it runs again afterwards."""
    if real_kafka.broker is None:
        pytest.skip("a server that was given is not ended")
    yield real_kafka.broker
    if not real_kafka.broker.running:
        real_kafka.broker.start()


@pytest.fixture
def topic_suffix(kafka_server: KafkaServer) -> Iterator[str]:
    """A suffix of the test's own; on a server that was given its topics are removed."""
    suffix = f"test-{uuid.uuid4().hex[:8]}"
    yield suffix
    if not kafka_server.mock and kafka_server.broker is None:
        client = AdminClient({"bootstrap.servers": kafka_server.bootstrap})
        names = [name for name in client.list_topics(timeout=10).topics if name.endswith(suffix)]
        for done in client.delete_topics(names).values() if names else ():
            done.result(10)
