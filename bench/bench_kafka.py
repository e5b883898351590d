"""What publishing a minute's events costs: the sink beside a bare producer, on one broker.

    python -m bench.bench_kafka [--events N] [--rounds N]

Prints one JSON object. Times are ms of wall time to the last acknowledgement, interleaved rounds.
bare : keys and values that were made before, without headers and delivery reports. flush : the
publisher, given the same with headers and reports. sink : from the events, whose canonical bytes
are made on the way. All have the same producer settings; the ratios to `bare` are what to quote.
Needs Java and Maven (fixtures/broker.py).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from dataflows.connectors.kafka import Bus, KafkaEventsSink, event_record, topic_names
from dataflows.contract import pinned_example
from fixtures.broker import Broker
from operators.records import Phase, Published

ASSETS = 60
WARM_ROUNDS = 20
BUDGET_MS = 10.0  # 95th percentile of the flush of 200 events


def events(count: int, round_: int) -> list[dict[str, Any]]:
    """Return the events of a minute, of the usual size and with ids of their own."""
    one = pinned_example()
    return [
        {**one, "asset_uid": n % ASSETS, "event_id": f"01a0c50b-d324-7662-a760-{round_:06x}{n:06x}"}
        for n in range(count)
    ]


def quantiles(times_ms: list[float]) -> dict[str, float]:
    """Return median and 95th percentile, ms."""
    cuts = statistics.quantiles(times_ms, n=20, method="inclusive")
    return {"p50": round(cuts[9], 3), "p95": round(cuts[18], 3)}


def run(bootstrap: str, count: int, rounds: int) -> dict[str, Any]:
    """Return the times of both, and what the budget says."""
    bus, names = Bus(bootstrap), topic_names("bench")
    part = KafkaEventsSink(bus, names.live, names.dlq).build_part("bench", "0", None)
    bus.ensure_topics([names.replay])
    bare = Producer({**bus.config(), "client.id": "bare"})
    phase = Phase(1_756_891_800_000, False, ASSETS, 1_756_891_801_500)
    publisher = bus.publisher()
    times_ms: dict[str, list[float]] = {"bare": [], "flush": [], "sink": []}
    for round_ in range(WARM_ROUNDS + rounds):
        made = events(count, round_)
        item = Published(phase, tuple(made), ())
        records = [event_record(names.replay, event) for event in made]
        stamps = [time.perf_counter()]
        for record in records:
            bare.produce(record.topic, key=record.key, value=record.value)
        bare.flush()
        stamps.append(time.perf_counter())
        publisher.send(records)
        stamps.append(time.perf_counter())
        part.write_batch([item])
        stamps.append(time.perf_counter())
        for n, name in enumerate(times_ms):
            times_ms[name].append((stamps[n + 1] - stamps[n]) * 1e3)
    part.close()
    found = {name: quantiles(times[WARM_ROUNDS:]) for name, times in times_ms.items()}
    plain = found["bare"]
    return {
        "events": count,
        "rounds": rounds,
        "bytes_per_event": len(event_record(names.live, events(1, 0)[0]).value),
        "ms": found,
        "ratio_to_bare": {
            name: {q: round(value / plain[q], 2) for q, value in times.items()}
            for name, times in found.items()
        },
        "flush_budget_p95_ms": BUDGET_MS,
        "within_budget": found["flush"]["p95"] <= BUDGET_MS,
    }


def main() -> None:
    """Start a broker, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=300)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Broker(Path(folder)) as broker:
        print(json.dumps(run(broker.bootstrap, given.events, given.rounds)))


if __name__ == "__main__":
    main()
