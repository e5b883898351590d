"""A paced source hands on the same batches, none before its time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from dataflows.connectors.clock import SystemClock
from dataflows.connectors.pacing import Paced
from dataflows.replay import replay
from fixtures.market import FrameOptions, Scenario, default_assets, lines
from operators.records import BarItem, BarItems, Phase, Ticks
from packs.loader import load_packs


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.s = 100.0

    def monotonic_s(self) -> float:
        """Return the time that was set."""
        return self.s

    def now_ns(self) -> int:
        """Return it as wall time."""
        return round(self.s * 1e9)

    def jitter(self) -> float:
        """Not asked."""
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        """Not asked."""
        raise NotImplementedError


def closing(clock_ms: int) -> tuple[str, Any]:
    """An item that closes a minute at an instant of the feed."""
    return ("5", BarItem(Phase(0, False, 1, clock_ms), 5, None))


def closings(*clocks_ms: int) -> tuple[str, Any]:
    """Some closings of an asset in one item."""
    return ("5", BarItems(tuple(closing(clock_ms)[1] for clock_ms in clocks_ms)))


DATA: tuple[str, Any] = ("5", Ticks())
BATCHES = [
    [DATA],
    [closing(1_000)],
    [DATA, closings(61_000, 61_000)],
    [],
    [DATA],
    [closing(181_000)],
]


class Inner(StatefulSourcePartition[tuple[str, Any], int]):
    """Hands out the batches from a number on."""

    def __init__(self, at: int) -> None:
        self.at = at

    def next_batch(self) -> list[tuple[str, Any]]:
        """Return the next one."""
        if self.at == len(BATCHES):
            raise StopIteration
        self.at += 1
        return BATCHES[self.at - 1]

    def snapshot(self) -> int:
        """Return the number of the next one."""
        return self.at


class Source(FixedPartitionedSource[tuple[str, Any], int]):
    """The batches."""

    def list_parts(self) -> list[str]:
        """Return one."""
        return ["one"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Inner:
        """Go on at a number."""
        return Inner(resume_state or 0)


def test_a_closing_waits_for_its_time() -> None:
    """At sixty times the speed a minute lasts a second; data before the first does not wait."""
    clock = Hands()
    part = Paced(Source(), 60.0, clock).build_part("s", "one", None)
    assert part.next_batch() == BATCHES[0]
    assert part.next_batch() == BATCHES[1]
    assert part.next_awake() is None
    assert part.next_batch() == []
    assert part.snapshot() == 2  # what is held is read again after a kill
    awake = part.next_awake()
    assert awake is not None
    assert awake.timestamp() == pytest.approx(100.5)
    clock.s = 100.99
    assert part.next_batch() == []
    clock.s = 101.0
    assert part.next_batch() == BATCHES[2]
    assert part.snapshot() == 3
    assert [part.next_batch(), part.next_batch(), part.next_batch()] == [[], [DATA], []]
    clock.s = 103.0
    assert part.next_batch() == BATCHES[5]
    with pytest.raises(StopIteration):
        part.next_batch()


def test_a_restart_hands_on_what_was_held() -> None:
    """And begins to count anew: it does not wait for what it has missed."""
    clock = Hands()
    paced = Paced(Source(), 60.0, clock)
    part = paced.build_part("s", "one", 1)
    assert part.next_batch() == BATCHES[1]
    assert part.next_batch() == []
    again = paced.build_part("s", "one", part.snapshot())
    assert again.next_batch() == BATCHES[2]


@pytest.mark.engine
def test_differential_speed_changes_no_byte(tmp_path: Path) -> None:
    """Three minutes of a market at 240 times its speed: as long as that takes, and the same."""
    frames = FrameOptions(quote_ms=(5000, 5000, 8000, 8000), book=False, ctx_ms=15_000)
    market = lines(Scenario(3, 1_790_000_100_000, 3, default_assets(2), (), frames))
    log = tmp_path / "log"
    log.write_bytes(b"".join(line + b"\n" for line in market))
    packs, clock = load_packs(), SystemClock()
    fast = replay(log, tmp_path / "fast", packs)
    began_s = clock.monotonic_s()
    paced = replay(log, tmp_path / "paced", packs, speed=240.0, chunk=20)
    assert clock.monotonic_s() - began_s >= 120 / 240  # from the first closing to the last
    sums = [[each.sha256 for each in s.products.values()] for s in (fast, paced)]
    assert sums[0] == sums[1]
