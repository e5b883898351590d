"""Dead letters have a topic file of their own, as exact after a restart as the others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson

from dataflows.connectors.topics import EventsSink
from dataflows.replay import PRODUCTS, file_sinks, product_path
from operators.contract import dead_letter, fault_of
from operators.publish import dead_json
from operators.records import Phase, Published

T_MS = 1_756_891_800_000


def published(full: dict[str, Any], *severities: int) -> Published:
    """Return a phase of events, of which those that break the contract are dead."""
    payloads = [{**full, "severity": severity} for severity in severities]
    faults = [(payload, fault_of(payload)) for payload in payloads]
    return Published(
        Phase(T_MS, False, 1, T_MS + 1500),
        events=tuple(payload for payload, fault in faults if fault is None),
        suppressed=(),
        dead=tuple(dead_letter(payload, fault) for payload, fault in faults if fault is not None),
    )


def test_dead_letters_go_to_their_own_file(tmp_path: Path, full: dict[str, Any]) -> None:
    """The events file holds what keeps the contract, the other one the rest with the reason."""
    item = published(full, 50, 101, 60)
    sink = EventsSink({"events": tmp_path / "e", "dlq": tmp_path / "d"}, append=False)
    part = sink.build_part("events", "0", None)
    part.write_batch([item])
    part.close()
    events = [orjson.loads(line) for line in (tmp_path / "e").read_bytes().splitlines()]
    assert [event["severity"] for event in events] == [50, 60]
    assert (tmp_path / "d").read_bytes() == b"".join(dead_json(d) + b"\n" for d in item.dead)
    (dead,) = map(orjson.loads, (tmp_path / "d").read_bytes().splitlines())
    assert dead["reason"] == "severity: expected int <= 100, found 101"
    assert orjson.loads(dead["payload"]) == {**full, "severity": 101}


def test_the_file_is_cut_at_the_snapshot(tmp_path: Path, full: dict[str, Any]) -> None:
    """The repeated epoch is written once; a state from before there was a file starts it."""
    sink = EventsSink({"events": tmp_path / "e", "dlq": tmp_path / "d"}, append=True)
    part = sink.build_part("events", "0", None)
    part.write_batch([published(full, 101)])
    state = part.snapshot()
    part.write_batch([published(full, 102)])
    part.close()
    assert len((tmp_path / "d").read_bytes().splitlines()) == 2
    sink.build_part("events", "0", state).close()
    assert len((tmp_path / "d").read_bytes().splitlines()) == 1
    del state["dlq"]
    sink.build_part("events", "0", state).close()
    assert len((tmp_path / "d").read_bytes().splitlines()) == 1


def test_a_replay_has_the_file_among_its_products(tmp_path: Path, full: dict[str, Any]) -> None:
    """Counted and hashed as the others; the directory says where."""
    assert "dlq" in PRODUCTS
    sink = file_sinks(tmp_path).published["file"]
    assert isinstance(sink, EventsSink)
    part = sink.build_part("events", "0", None)
    bad = published({**full, "window_sec": math.inf}, 50)
    part.write_batch([bad])
    part.close()
    assert product_path(tmp_path, "dlq").read_bytes() == dead_json(bad.dead[0]) + b"\n"
