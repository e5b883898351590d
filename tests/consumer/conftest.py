"""Events to consume, and a clock that stands until it is moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

ROOT = Path(__file__).parents[2]
PINNED = ROOT / "fixtures" / "golden" / "episodes" / "events-v0.2.ndjson"

Make = Callable[..., bytes]


class StandingClock:
    """A clock for connectors: sleeping moves it."""

    def __init__(self, now_ns: int = 1_790_000_000_000_000_000) -> None:
        self.ns = now_ns

    def now_ns(self) -> int:
        """Return the instant."""
        return self.ns

    def monotonic_s(self) -> float:
        """Return the instant in seconds."""
        return self.ns / 1e9

    def jitter(self) -> float:
        """Return no jitter."""
        return 0.0

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.ns += round(seconds * 1e9)


@pytest.fixture
def clock() -> StandingClock:
    """A clock that stands."""
    return StandingClock()


@pytest.fixture(scope="session")
def pinned() -> list[bytes]:
    """The events of the pinned replay, as published."""
    return PINNED.read_bytes().splitlines()


@pytest.fixture(scope="session")
def make(pinned: list[bytes]) -> Make:
    """Return a maker of events: number, then fields to change; `packs` changes the provenance."""
    events = [orjson.loads(line) for line in pinned]
    base = next(e for e in events if e["debounce_key"] == "BTC:spike:1m")
    del base["incident_id"]

    def event(number: int, *, packs: str | None = None, **fields: Any) -> bytes:
        one = {**base, "event_id": f"01a0c523-a0e6-79ba-9e13-{number:012x}", **fields}
        one["debounce_key"] = f"{one['symbol']}:{one['class']}:{one['tf']}"
        if packs is not None:
            one["provenance"] = {**one["provenance"], "detector_pack": packs}
        return orjson.dumps(one, option=orjson.OPT_SORT_KEYS)

    return event
