"""`alpha forward`: what it says, and one message for every mistake."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from dataflows.cli.failures import FAILED, INPUT, USAGE
from dataflows.connectors.ticklog import TickLogWriter

pytestmark = pytest.mark.service


def write(directory: Path, *seconds: int) -> Path:
    """Write a log of heartbeats."""
    writer = TickLogWriter(directory)
    for second in seconds:
        writer.append(1_790_000_000_000_000_000 + second * 10**9, b'{"channel":"alpha.clock"}')
    writer.close()
    return directory


def test_it_copies_and_goes_on(
    alpha: Any,
    real_kafka: Any,
    topic_suffix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second run copies what is new; the log under the data directory is the default."""
    monkeypatch.setenv("ALPHA_KAFKA_BOOTSTRAP", real_kafka.bootstrap)
    monkeypatch.setenv("ALPHA_TOPIC_SUFFIX", topic_suffix)
    topic = f"alpha.ticks.v0.{topic_suffix}"
    write(tmp_path / "var" / "ticks", 1, 2, 3)
    ran = alpha("forward", "--once")
    assert ran.code == 0
    assert ran.out == "3 lines copied; next is line 3\n"
    assert f"to {topic}, from line 0" in ran.err
    write(tmp_path / "var" / "ticks", 4)
    ran = alpha("forward", "--once", "--json")
    assert ran.json == {"topic": topic, "lines": 1, "next": 4, "dropped": {}}
    write(tmp_path / "other", 1)
    alpha("forward", str(tmp_path / "other"), "--once", "--json").failed_with(INPUT, "segment")


def test_mistakes(alpha: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Kafka named, none there."""
    alpha("forward").failed_with(USAGE, "ALPHA_KAFKA_BOOTSTRAP")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ALPHA_KAFKA_BOOTSTRAP", f"127.0.0.1:{free.getsockname()[1]}")
        monkeypatch.setattr("dataflows.cli.forward.WAIT_S", 1.0)
        alpha("forward", str(write(tmp_path, 1)), "--json").failed_with(FAILED, "no broker of 127")


def test_a_log_that_is_not_there(
    alpha: Any, real_kafka: Any, topic_suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --once it would be waited for."""
    monkeypatch.setenv("ALPHA_KAFKA_BOOTSTRAP", real_kafka.bootstrap)
    monkeypatch.setenv("ALPHA_TOPIC_SUFFIX", topic_suffix)
    alpha("forward", "nowhere", "--once", "--json").failed_with(INPUT, "nowhere", "found nothing")
