"""The spool: nothing is lost, doubled or reordered, whatever the server and the disk do."""

from __future__ import annotations

import errno
import math
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.connectors.spool import (
    DEGRADED,
    DRAINED,
    SIZE,
    SPOOLED,
    TORN,
    WAITING,
    Disk,
    Lost,
    Spool,
    SpooledPart,
    SpoolError,
    Spooling,
    waiting_in,
)
from operators.contract import dead_letter
from operators.feed import Hole
from operators.publish import event_json, frame_json, row_json, suppression_json
from operators.records import (
    Audit,
    Change,
    Frame,
    HotMove,
    MarketPhase,
    Phase,
    Published,
    Row,
    Suppression,
    TierMove,
)

T_MS = 1_756_891_800_000
PHASE = Phase(T_MS, True, 2, T_MS + 1500)
SUPPRESSED = Suppression(5, "SOL", "1m", T_MS, 0, "spike.x", "cooldown", None)


def hole(number: int) -> Hole:
    """An item that is told from others by a number."""
    return Hole(number, None, "disconnect")


def numbers(items: Sequence[Hole]) -> list[int]:
    """The numbers of items."""
    return [item.start_ms for item in items]


def content(spool: Spool[Any]) -> list[Any]:
    """Everything a spool gives from its front on; it is drained by that."""
    found = []
    while spool.waiting:
        chunk = spool.read()
        found += chunk.items
        spool.advance(chunk)
    return found


class FullDisk(Disk):
    """A disk with so many bytes of room, where calls may be made to fail."""

    def __init__(self, room: float = math.inf) -> None:
        self.room = room
        self.failing: set[str] = set()
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def open(self, path: Path) -> int:
        self._call("open")
        return super().open(path)

    def write(self, file: int, data: bytes | memoryview) -> int:
        self._call("write")
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(file, data[: int(min(self.room, len(data)))])
        self.room -= written
        return written

    def sync(self, file: int) -> None:
        self._call("sync")  # waiting for the real one a thousand times shows nothing more

    def cut(self, file: int, size: int) -> None:
        self._call("cut")
        super().cut(file, size)

    def sync_directory(self, path: Path) -> None:
        self._call("sync_directory")

    def remove(self, path: Path) -> None:
        self._call("remove")
        super().remove(path)


@dataclass
class Time:
    """A clock that is moved by sleeping, and by what is said to take time."""

    now_s: float = 100.0

    def now_ns(self) -> int:
        return int(self.now_s * 1e9)

    def monotonic_s(self) -> float:
        return self.now_s

    def jitter(self) -> float:
        return 0.5

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class Server:
    """Takes everything once. away : answers to nothing; unsure : takes a batch, does not say so."""

    clock: Time
    taken: list[int] = field(default_factory=list)
    away: bool = False
    unsure: bool = False
    cost_s: float = 0.0
    calls: int = 0

    def reach(self, *, patient: bool) -> None:
        self.calls += 1
        if self.away:
            raise Lost("no answer")

    def write(self, items: Sequence[Hole], *, patient: bool, again: bool) -> None:
        self.clock.sleep(self.cost_s)
        self.taken = list(dict.fromkeys((*self.taken, *numbers(items))))
        if self.unsure:
            self.unsure = False
            raise Lost("not acknowledged")

    def state(self) -> int | None:
        return len(self.taken)

    def close(self) -> None:
        pass


@dataclass
class Scene:
    """A sink with its server, its disk and its clock."""

    folder: Path
    clock: Time = field(default_factory=Time)
    disk: FullDisk = field(default_factory=FullDisk)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = Server(self.clock)

    @property
    def path(self) -> Path:
        return self.folder / "sink.ndjson"

    def start(self) -> SpooledPart[Hole, int]:
        rules = Spooling(self.folder, clock=self.clock, disk=self.disk, say=self.said.append)
        return SpooledPart(self.server, rules.spool("sink", Hole), rules)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A sink that is all right."""
    return Scene(tmp_path / "spool")


def degraded() -> float:
    """The gauge."""
    return DEGRADED.labels("sink")._value.get()


# --- the file ----------------------------------------------------------------------------------


@given(
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5),
    integers=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    text=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_items_come_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float], integers: list[int], text: str
) -> None:
    """Doubles, 64-bit integers, any text, NULL; an integer stays one, and so does 1.0."""
    columns: dict[str, Any] = {
        **{f"x{n}": each for n, each in enumerate(numbers)},
        **{f"i{n}": each for n, each in enumerate(integers)},
        "null": None,
        "yes": True,
        "one": 1.0,
        "zero": -0.0,
        "text": text,
        "list": [text, 1, 1.0],
    }
    audit = Audit(
        Change(1, T_MS, (5,), (), {"5": text}, (6,)),
        (HotMove(T_MS, 5, "added", text, T_MS, T_MS + 60_000),),
        (TierMove(5, "mid", "top"),),
        (6,),
    )
    row = Row(5, "SOL", "1m", T_MS, 1, columns, {"clamp": columns})
    market = MarketPhase(PHASE, (Frame("1m", T_MS, 0, columns, columns),), (row,), audit)
    dead = dead_letter({"x": math.nan, "asset_uid": 5}, text)
    published = Published(PHASE, ({"columns": columns},), (SUPPRESSED,), (dead,))
    folder = tmp_path_factory.mktemp("spool")
    rows: Spool[MarketPhase] = Spool(folder / "rows.ndjson", MarketPhase)
    events: Spool[Published] = Spool(folder / "events.ndjson", Published)
    rows.append([market])
    events.append([published])
    (one,), (other,) = content(rows), content(events)
    assert (one, other) == (market, published)
    assert row_json(one.rows[0]) == row_json(row)
    assert frame_json(one.frames[0]) == frame_json(market.frames[0])
    assert event_json(other.events[0]) == event_json(published.events[0])
    assert suppression_json(other.suppressed[0]) == suppression_json(SUPPRESSED)
    assert {name: type(value) for name, value in one.rows[0].columns.items()} == {
        name: type(value) for name, value in columns.items()
    }
    for spool in (rows, events):
        spool.remove()


def test_a_number_that_is_none_is_never_stored_as_null(tmp_path: Path) -> None:
    """As everywhere where text is made: a bug, not a NULL."""
    spool: Spool[MarketPhase] = Spool(tmp_path / "rows.ndjson", MarketPhase)
    row = Row(5, "SOL", "1m", T_MS, 1, {"open": math.nan})
    with pytest.raises(AssertionError, match="finite"):
        spool.append([MarketPhase(PHASE, (), (row,))])
    assert list(tmp_path.iterdir()) == []


def test_every_append_is_on_stable_storage_and_so_is_the_name(tmp_path: Path) -> None:
    """The directory with a new file, the file each time, the directory when it is gone."""
    disk = FullDisk()
    spool: Spool[Hole] = Spool(tmp_path / "s.ndjson", Hole, disk)
    spool.append([hole(1)])
    spool.append([hole(2)])
    assert disk.calls == ["open", "write", "sync", "sync_directory", "write", "sync"]
    assert numbers(content(spool)) == [1, 2]
    spool.remove()
    assert disk.calls[6:] == ["remove", "sync_directory"]
    assert not spool.exists
    assert list(tmp_path.iterdir()) == []


def test_a_kill_at_any_byte_leaves_whole_lines(tmp_path: Path) -> None:
    """What is not whole is cut off and counted, and what follows stands on a line of its own."""
    whole: Spool[Hole] = Spool(tmp_path / "whole.ndjson", Hole)
    whole.append([hole(1), hole(2)], {"at": 7})
    text = whole.path.read_bytes()
    ends = [n + 1 for n, byte in enumerate(text) if byte == ord("\n")]
    for length in range(len(text) + 1):
        path = tmp_path / "whole2" / "whole.ndjson"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text[:length])
        torn = TORN.labels("whole")._value.get()
        spool: Spool[Hole] = Spool(path, Hole)
        lines = sum(end <= length for end in ends)
        assert spool.waiting == max(0, lines - 1)
        assert TORN.labels("whole")._value.get() - torn == (length not in (0, *ends))
        spool.append([hole(3)], {"at": 8})
        assert spool.resume == {"at": 7 if lines else 8}
        again: Spool[Hole] = Spool(path, Hole)
        assert numbers(content(again)) == [*[1, 2][: max(0, lines - 1)], 3]
        again.remove()


def test_a_later_head_replaces_the_first(tmp_path: Path) -> None:
    """What the sink must know to resume may become known only when the server answers."""
    spool: Spool[Hole] = Spool(tmp_path / "s.ndjson", Hole)
    spool.append([hole(1)])
    spool.mark({"topic": {3: 14}})
    spool.append([hole(2)], {"topic": {3: 99}})
    again: Spool[Hole] = Spool(tmp_path / "s.ndjson", Hole)
    assert again.resume == {"topic": {"3": 14}}
    assert numbers(content(again)) == [1, 2]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"version":1', b'"version":2', "expected version 1 of s, found version 2 of s"),
        (b'"sink":"s"', b'"sink":"t"', "found version 1 of t"),
        (b'"sink"', b'sink"', "its head cannot be read"),
        (b'{"head"', b'{"feet"', "byte 0: not a line of a spool"),
        (b'{"item"', b"rubbish", "not a line of a spool"),
        (b'"start_ms":1', b'"start_ms":"', "a line cannot be read"),
    ],
)
def test_a_damaged_file_is_refused_and_kept(
    tmp_path: Path, old: bytes, new: bytes, said: str
) -> None:
    """Nothing is passed over in silence: the operator decides, by one line."""
    path = tmp_path / "s.ndjson"
    spool: Spool[Hole] = Spool(path, Hole)
    spool.append([hole(1), hole(2)])
    damaged = path.read_bytes().replace(old, new, 1)
    path.write_bytes(damaged)
    with pytest.raises(SpoolError, match=said) as caught:
        content(Spool(path, Hole))
    assert "\n" not in str(caught.value)
    assert "move it away" in str(caught.value)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("failing", ["sync", "sync_directory", "write", "open"])
@pytest.mark.parametrize("first", [True, False])
def test_a_disk_that_fails_keeps_nothing_of_the_batch(
    tmp_path: Path, failing: str, first: bool
) -> None:
    """Neither a new file nor half a line; the same batch goes in when the disk is back."""
    disk = FullDisk()
    path = tmp_path / "s.ndjson"
    spool: Spool[Hole] = Spool(path, Hole, disk)
    if not first:
        if failing in ("open", "sync_directory"):
            return
        spool.append([hole(0)])
    before = path.read_bytes() if path.exists() else None
    disk.failing = {failing}
    with pytest.raises(OSError, match="error"):
        spool.append([hole(1)])
    assert (path.read_bytes() if path.exists() else None) == before
    disk.failing = set()
    spool.append([hole(1)])
    assert numbers(content(Spool(path, Hole))) == ([1] if first else [0, 1])


@pytest.mark.parametrize("room", range(0, 200, 7))
def test_half_a_line_that_cannot_be_taken_back_is_gone_before_the_next(
    tmp_path: Path, room: int
) -> None:
    """Full, and truncation fails, too: in the next run as in this one, no line is broken."""
    for killed in (False, True):
        disk = FullDisk()
        path = tmp_path / f"{killed}.ndjson"
        spool: Spool[Hole] = Spool(path, Hole, disk)
        spool.append([hole(0)])
        disk.room, disk.failing = room, {"cut"}
        with pytest.raises(OSError, match="No space"):
            spool.append([hole(n) for n in range(1, 9)])
        disk.room, disk.failing = math.inf, set()
        if killed:  # then whole lines may have stayed, and come again with the repeated epoch
            spool = Spool(path, Hole, disk)
        spool.append([hole(n) for n in range(1, 9)])
        found = numbers(content(Spool(path, Hole)))
        assert list(dict.fromkeys(found)) == list(range(9))
        assert killed or found == list(range(9))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_systems_own_limit_is_a_full_disk(scene: Scene) -> None:
    """The kernel takes half of a line and refuses the rest; no stand-in is between."""
    scene.disk = Disk()  # type: ignore[assignment]
    scene.server.away = True
    part = scene.start()
    part.write_batch([hole(0)])
    size = scene.path.stat().st_size
    with largest_file(size + 10), pytest.raises(SpoolError, match="File too large"):
        part.write_batch([hole(1)])
    assert scene.path.stat().st_size == size
    part.write_batch([hole(1)])
    scene.server.away = False
    part.close()
    assert scene.server.taken == [0, 1]


# --- the sink ----------------------------------------------------------------------------------


def test_while_the_server_answers_there_is_no_file(scene: Scene) -> None:
    """Nothing is said and nothing is made."""
    part = scene.start()
    part.write_batch([hole(1)])
    part.write_batch([hole(2), hole(3)])
    part.close()
    assert scene.server.taken == [1, 2, 3]
    assert not scene.folder.exists()
    assert scene.said == []
    assert degraded() == 0


def test_an_outage_is_bridged_in_order(scene: Scene) -> None:
    """Flag up, two lines in all, flag down, no file."""
    part = scene.start()
    spooled, drained = (c.labels("sink")._value.get() for c in (SPOOLED, DRAINED))
    part.write_batch([hole(0)])
    scene.server.away = True
    for number in range(1, 200):
        part.write_batch([hole(number)])
        scene.clock.sleep(1.0)
        assert degraded() == 1
        assert WAITING.labels("sink")._value.get() == number
        assert SIZE.labels("sink")._value.get() == scene.path.stat().st_size
    assert scene.server.calls < 50  # it is not asked at every batch
    assert scene.server.taken == [0]
    assert [(each.items, each.path) for each in waiting_in(scene.folder)] == [(199, scene.path)]
    scene.server.away = False
    scene.clock.sleep(20.0)
    part.write_batch([hole(200)])
    assert scene.server.taken == list(range(201))
    assert degraded() == WAITING.labels("sink")._value.get() == 0
    assert not scene.path.exists()
    assert SPOOLED.labels("sink")._value.get() - spooled == 200
    assert DRAINED.labels("sink")._value.get() - drained == 200
    assert len(scene.said) == 2
    assert scene.said[0].startswith("sink: no answer; items wait in ")
    assert "200 items drained" in scene.said[1]


def test_a_batch_without_an_answer_is_written_again(scene: Scene) -> None:
    """The server may have it: it comes from the spool, and what the sink knew before it is kept."""
    part = scene.start()
    part.write_batch([hole(0)])
    scene.server.unsure = True
    part.write_batch([hole(1)])
    assert scene.path.exists()
    part.close()
    assert scene.server.taken == [0, 1]
    assert not scene.path.exists()


def test_draining_does_not_hold_up_the_minute(scene: Scene) -> None:
    """Two seconds of it a write; what comes meanwhile stands behind."""
    part = scene.start()
    scene.server.away = True
    for number in range(500):
        part.write_batch([hole(number)])
    scene.server.away, scene.server.cost_s = False, 1.5
    number = 500
    while scene.path.exists():
        scene.clock.sleep(30.0)
        before_s = scene.clock.now_s
        part.write_batch([hole(number)])
        assert scene.clock.now_s - before_s <= 2.0 + 1.5
        number += 1
    assert number - 500 >= 4
    assert scene.server.taken == list(range(number))


def test_the_next_run_begins_with_what_waits(scene: Scene) -> None:
    """A run ends in an outage and says so; another one drains first, then writes."""
    scene.server.away = True
    part = scene.start()
    part.write_batch([hole(1)])
    before_s = scene.clock.now_s
    part.close()
    assert scene.clock.now_s - before_s < 15.0
    assert "1 items still wait in" in scene.said[-1]
    scene.server.away = False
    part = scene.start()
    assert scene.server.taken == [1]
    assert degraded() == 0
    part.write_batch([hole(2)])
    assert scene.server.taken == [1, 2]


def test_a_run_starts_while_the_server_is_away(scene: Scene) -> None:
    """With and without a spool; nothing is lost by starting anew."""
    scene.server.away = True
    for number in range(3):
        part = scene.start()
        part.write_batch([hole(number)])
        del part
    scene.server.away = False
    scene.start().close()
    assert scene.server.taken == [0, 1, 2]


def test_server_away_and_disk_full_end_the_run_in_bounded_time(scene: Scene) -> None:
    """After half a minute: its epoch is not committed, and recovery repeats it."""
    scene.server.away, scene.disk.room = True, 120
    part = scene.start()
    part.write_batch([hole(0)])
    before_s = scene.clock.now_s
    with pytest.raises(
        SpoolError, match=r"neither the server nor the disk takes 1 items: no answer"
    ):
        part.write_batch([hole(1)])
    assert 30.0 <= scene.clock.now_s - before_s < 35.0
    assert numbers(content(Spool(scene.path, Hole))) == [0]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("back", ["server", "disk"])
def test_a_batch_waits_in_memory_until_either_takes_it(
    scene: Scene, first: bool, back: str
) -> None:
    """Server and disk are tried in turn; order is kept."""
    part = scene.start()
    scene.server.away = True
    if not first:
        part.write_batch([hole(0)])
    scene.disk.room = 0
    sleep = scene.clock.sleep

    def wait(seconds: float) -> None:
        sleep(seconds)
        if scene.clock.now_s > 110.0:
            scene.server.away = back != "server"
            scene.disk.room = math.inf if back == "disk" else 0

    scene.clock.sleep = wait  # type: ignore[method-assign]
    part.write_batch([hole(1)])
    expected = [1] if first else [0, 1]
    if back == "server":
        assert scene.server.taken == expected
        assert not scene.path.exists()
    else:
        assert scene.server.taken == []
        assert numbers(content(Spool(scene.path, Hole))) == expected


def test_a_file_that_cannot_be_removed_is_removed_later(scene: Scene) -> None:
    """All is drained; the outage lasts until the file is gone."""
    part = scene.start()
    scene.server.away = True
    part.write_batch([hole(0)])
    scene.server.away = False
    scene.disk.failing = {"remove"}
    scene.clock.sleep(60.0)
    part.write_batch([hole(1)])
    assert scene.server.taken == [0, 1]
    assert degraded() == 1
    scene.disk.failing = set()
    scene.clock.sleep(60.0)
    part.write_batch([hole(2)])
    part.close()
    assert scene.server.taken == [0, 1, 2]
    assert not scene.path.exists()
    assert degraded() == 0


WEATHER = st.sampled_from(("write", "away", "back", "unsure", "full", "room", "kill", "later"))


@settings(max_examples=150)
@given(steps=st.lists(WEATHER, max_size=40))
def test_whatever_happens_the_server_has_everything_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    """Outages, batches without an answer, a full disk, kills after which an epoch is repeated."""
    scene = Scene(tmp_path_factory.mktemp("weather"))
    part, number, highest, committed = scene.start(), 0, 0, 0
    for step in steps:
        if step == "write":
            highest = max(highest, number + 2)
            try:
                part.write_batch([hole(number), hole(number + 1)])
                number += 2
                if number % 3 == 0:
                    committed = number
            except SpoolError:
                step = "kill"
        if step == "kill":
            scene.disk.room = max(scene.disk.room, 0)
            part, number = scene.start(), committed
        scene.server.away = {"away": True, "back": False}.get(step, scene.server.away)
        scene.server.unsure |= step == "unsure"
        scene.disk.room = {"full": 150.0, "room": math.inf}.get(step, scene.disk.room)
        scene.clock.sleep(40.0 if step == "later" else 0.5)
    scene.server.away, scene.server.unsure, scene.disk.room = False, False, math.inf
    part = scene.start()
    part.write_batch([hole(n) for n in range(committed, highest + 1)])
    part.close()
    assert scene.server.taken == list(range(highest + 1))
    assert not scene.path.exists()
