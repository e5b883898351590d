"""Programs that are not ours see in Kafka what the README says: kcat, and Java's own client.

In CI kcat is required (`.ci/run` installs it); elsewhere the test of its commands is skipped
without it, and Java's client, which comes with the broker, is the independent reader.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from operator import attrgetter
from pathlib import Path
from typing import Any

import orjson
import pytest

from dataflows.connectors.clock import SystemClock
from dataflows.connectors.kafka import Bus, dead_record, event_record, topic_names
from fixtures.broker import can_run, jars
from operators.contract import dead_letter
from operators.publish import event_json

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[2]
PINNED = [
    orjson.loads(line)
    for line in (ROOT / "fixtures/golden/episodes/events-v0.2.ndjson").read_bytes().splitlines()
]
BLOCKS = (ROOT / "README.md").read_text().split("## Kafka")[1].split("\n## ")[0].split("```")
CLOCK = SystemClock()
OURS = attrgetter("live", "shadow", "replay", "dlq")
# Prints partition, key, headers and value of every message, apart by tabs, until none comes.
JAVA = """
import java.time.Duration;
import java.util.*;
import java.util.stream.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.serialization.StringDeserializer;
public class Reader {
    public static void main(String[] given) {
        Map<String, Object> settings = Map.of("bootstrap.servers", given[0]);
        StringDeserializer text = new StringDeserializer();
        try (KafkaConsumer<String, String> reader = new KafkaConsumer<>(settings, text, text)) {
            List<TopicPartition> places = reader.partitionsFor(given[1]).stream()
                .map(p -> new TopicPartition(given[1], p.partition())).collect(Collectors.toList());
            reader.assign(places);
            reader.seekToBeginning(places);
            long left = reader.endOffsets(places).values().stream().mapToLong(n -> n).sum();
            while (left > 0)
                for (ConsumerRecord<String, String> r : reader.poll(Duration.ofSeconds(20))) {
                    left--;
                    StringBuilder headers = new StringBuilder();
                    r.headers().forEach(
                        h -> headers.append(h.key() + "=" + new String(h.value()) + ";"));
                    System.out.println(
                        String.join("\\t", "" + r.partition(), r.key(), headers, r.value()));
                }
        }
    }
}
"""


@pytest.fixture
def events_topic(real_kafka: Any, topic_suffix: str) -> str:
    """The live topic of an environment with the pinned events, and its dead letters with one."""
    names, bus = topic_names(topic_suffix), Bus(real_kafka.bootstrap)
    bus.ensure_topics(OURS(names))
    publisher = bus.publisher()
    publisher.send(event_record(names.live, each) for each in PINNED)
    publisher.send([dead_record(names.dlq, dead_letter(PINNED[0], "why"), names.live)])
    publisher.close()
    return names.live


@pytest.fixture
def commands() -> list[str]:
    """The commands of the README, as they stand there; or skip where there is no kcat."""
    if shutil.which("kcat") is None:
        assert "CI" not in os.environ, "CI needs kcat: as root, .ci/run installs it with apt-get"
        pytest.skip("needs kcat on PATH: apt-get install kcat")
    export, *found = [
        line.rpartition("#")[0].rstrip() or line for line in BLOCKS[1].splitlines()[1:]
    ]
    assert export == "export KAFKA=127.0.0.1:9092 EVENTS=alpha.events.v0"
    assert len(found) == 5
    return found


def test_kcat_sees_what_the_readme_says(
    commands: list[str], real_kafka: Any, events_topic: str, topic_suffix: str
) -> None:
    """Topics, places, headers, counts and what is new, by exactly the commands of the README."""
    environment = {**os.environ, "KAFKA": real_kafka.bootstrap, "EVENTS": events_topic}

    def printed(command: str) -> list[str]:
        ran = subprocess.run(
            ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines()

    topics, places, headers, counts = map(printed, commands[:-1])
    ours = sorted(line.strip() for line in topics if topic_suffix in line)
    assert ours == sorted(
        f'topic "{name}" with {1 if "dlq" in name else 6} partitions:'
        for name in OURS(topic_names(topic_suffix))
    )
    pattern = re.compile(r"(\d)/(\d+) key (-?\d+), (\d+) bytes")
    found = [match.groups() for line in places if (match := pattern.fullmatch(line))]
    assert len(found) == len(places) == len(PINNED)
    sizes = Counter((str(each["asset_uid"]), str(len(event_json(each)))) for each in PINNED)
    assert Counter((key, size) for _, _, key, size in found) == sizes
    (one,) = headers
    told = dict(pair.split("=", 1) for pair in one.split(","))
    assert told["ce_id"] in [each["event_id"] for each in PINNED]
    keys = Counter(str(each["asset_uid"]) for each in PINNED)
    assert {key: int(n) for n, key in (line.split() for line in counts)} == keys

    shown = BLOCKS[3].strip().splitlines()
    assert shown[0].replace("v0", f"v0.{topic_suffix}") in ours
    assert pattern.fullmatch(shown[1])
    of_shown = dict(pair.split("=", 1) for pair in shown[2].split(","))
    assert of_shown.keys() == told.keys()
    same = of_shown.keys() - {"ce_id", "ce_source"}
    assert {name: of_shown[name] for name in same} == {name: told[name] for name in same}

    follow = subprocess.Popen(
        ["bash", "-c", f"exec {commands[-1]}"], env=environment, stdout=subprocess.PIPE
    )
    try:
        assert follow.stdout is not None
        CLOCK.sleep(2.0)  # so long it may take to find the end
        publisher = Bus(real_kafka.bootstrap).publisher()
        publisher.send([event_record(events_topic, PINNED[0])])
        publisher.close()
        line = follow.stdout.readline()
        assert line == b"%d %s\n" % (PINNED[0]["asset_uid"], event_json(PINNED[0]))
    finally:
        follow.kill()
        follow.communicate()


@pytest.mark.slow
def test_java_reads_the_same(real_kafka: Any, events_topic: str, tmp_path: Path) -> None:
    """Keys, headers and exact bytes by Kafka's own client, which shares no code with ours."""
    if not can_run():
        pytest.skip("needs Java and Maven")
    source = tmp_path / "Reader.java"
    source.write_text(JAVA)
    command = ["java", "-cp", f"{jars()}/*", str(source), real_kafka.bootstrap, events_topic]
    ran = subprocess.run(command, capture_output=True, timeout=120)
    assert ran.returncode == 0, ran.stderr.decode()
    rows = [line.split(b"\t") for line in ran.stdout.splitlines() if line.count(b"\t") == 3]
    assert sorted(value for *_, value in rows) == sorted(map(event_json, PINNED))
    for _, key, headers, value in rows:
        payload = orjson.loads(value)
        assert key == str(payload["asset_uid"]).encode()
        assert f"ce_id={payload['event_id']};".encode() in headers
    assert len({(partition, key) for partition, key, *_ in rows}) == len({row[1] for row in rows})
