"""`alpha events`: which events are shown, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from dataflows.cli.failures import INPUT, USAGE
from operators.publish import event_json


def event(minute: int, symbol: str, subtype: str, severity: int, **more: Any) -> dict[str, Any]:
    """Return an event with what the table needs."""
    event_class = "shift" if subtype.startswith("spread") else "spike"
    return {
        "event_id": f"00000000-0000-7000-8000-0000000000{minute:02d}",
        "exchange_ts": f"2026-09-21T20:{minute:02d}:00Z",
        "symbol": symbol,
        "tf": "1m",
        "class": event_class,
        "subtype": subtype,
        "severity": severity,
        "local_state": {"features": {"ret_m_1": -0.0058, "z_vol_m_1": 5.5, "z_spread_m_1": 12.2}},
        **more,
    }


EVENTS = [
    event(1, "BTC", "vol_spike_m_1", 95, coalesced=["price_spike_up_m_1", "x"]),
    event(2, "ETH", "spread_stress_m_1", 55),
    event(3, "BTC", "price_spike_down_m_1", 70),
    event(4, "kPEPE", "vol_spike_m_1", 60),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of four events and three lines that are none."""
    damaged = [b"{not json", b'{"symbol":"BTC"}', b"[]"]
    lines = [event_json(e) for e in EVENTS]
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join([lines[0], damaged[0], *lines[1:], *damaged[1:]]))
    return path


def minutes(text: str) -> list[int]:
    """Return the minutes of JSON lines."""
    return [int(orjson.loads(line)["exchange_ts"][14:16]) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], [1, 2, 3, 4]),
        (["--class", "spike"], [1, 3, 4]),
        (["--subtype", "vol_spike_m_1"], [1, 4]),
        (["--symbol", "BTC"], [1, 3]),
        (["--min-severity", "60"], [1, 3, 4]),
        (["--since", "2026-09-21T20:02:00Z", "--until", "2026-09-21 20:03"], [2, 3]),
        (["--since", "2026-09-21T22:03:00+02:00"], [3, 4]),
        (["--limit", "2"], [3, 4]),
        (["--symbol", "BTC", "--limit", "1"], [3]),
        (["--symbol", "none"], []),
    ],
)
def test_the_wanted_events_are_printed(
    alpha: Any, file: Path, options: list[str], expected: list[int]
) -> None:
    """Filters combine; the newest are kept; the rest of the file is untouched."""
    ran = alpha("events", file, "--json", *options)
    assert ran.code == 0
    assert minutes(ran.out) == expected


def test_json_lines_are_the_canonical_bytes(alpha: Any, file: Path) -> None:
    """What was published is what is printed, and damaged lines are counted beside it."""
    ran = alpha("events", file, "--json")
    assert ran.out.encode() == b"".join(event_json(e) + b"\n" for e in EVENTS)
    assert "3 damaged lines" in ran.err


def test_the_table_is_readable_at_100_columns(alpha: Any, file: Path) -> None:
    """One line an event: time, symbol, detector, severity, numbers, folded detectors."""
    ran = alpha("events", file.parent)
    rows = ran.out.splitlines()
    assert len(rows) == 2 + len(EVENTS)
    assert max(map(len, rows)) <= 100
    first = rows[2].split()
    assert first[:5] == ["09-21", "20:01", "BTC", "spike.vol_spike_m_1", "95"]
    assert first[5:] == ["ret", "-0.58%", "z_spread", "12", "z_vol", "5.5", "+2"]
    assert "4 events" in ran.err


def test_strange_events_do_not_break_the_table(alpha: Any, tmp_path: Path) -> None:
    """A file of somebody else may hold anything where numbers belong."""
    odd = event(1, "[red]X", "y", 1, local_state={"features": {"ret_m_1": "a"}}, market_frame=3)
    (tmp_path / "odd.ndjson").write_bytes(event_json(odd))
    ran = alpha("events", tmp_path / "odd.ndjson")
    assert ran.code == 0
    assert "[red]X" in ran.out


@pytest.mark.parametrize("inside", ["topics/alpha.events.v0.ndjson", "alpha.events.v0.ndjson"])
def test_a_directory_is_looked_through(alpha: Any, tmp_path: Path, inside: str) -> None:
    """A data directory and a topic directory are understood."""
    target = tmp_path / "data" / inside
    target.parent.mkdir(parents=True)
    target.write_bytes(event_json(EVENTS[0]) + b"\n")
    assert minutes(alpha("events", tmp_path / "data", "--json").out) == [1]


def test_the_live_topic_is_the_default(
    alpha: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a path, the topic under the data directory."""
    alpha("events").failed_with(INPUT, "no events yet", "topics")
    monkeypatch.setenv("ALPHA_DATA_DIR", str(tmp_path / "elsewhere"))
    topic = tmp_path / "elsewhere/topics/alpha.events.v0.ndjson"
    topic.parent.mkdir(parents=True)
    topic.write_bytes(event_json(EVENTS[2]) + b"\n")
    assert minutes(alpha("events", "--json").out) == [3]


def test_mistakes(alpha: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not there and what is no time is one message."""
    alpha("events", "nowhere").failed_with(INPUT, "nowhere", "found nothing")
    alpha("events", tmp_path).failed_with(INPUT, "events.ndjson")
    alpha("events", tmp_path, "--since", "yesterday").failed_with(USAGE, "--since", "yesterday")
    alpha("events", tmp_path, "--min-severity", "101").failed_with(USAGE, "--min-severity", "100")
    monkeypatch.setenv("ALPHA_MAX_ASSETS", "many")
    alpha("events").failed_with(USAGE, "ALPHA_MAX_ASSETS", "many")
