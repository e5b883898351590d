"""The columnar cache says what the log says, to the byte, or is not used at all."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataflows import compaction
from dataflows.compaction import compact
from dataflows.connectors import column_bars, column_files, columns
from dataflows.connectors.column_files import FOLDERS, KINDS, ColumnsError, temporary_of
from dataflows.connectors.columns import Columns, load, usable
from dataflows.connectors.columns_source import BATCH_ITEMS, ColumnsSource
from dataflows.connectors.source import LogSource, SourceState
from dataflows.connectors.ticklog import TickLogWriter
from dataflows.replay import PRODUCTS, Summary, product_path, replay
from fixtures.market import FrameOptions, Scenario, default_assets, lines
from operators.assemble import Assemble, AssemblyCodec, AssemblyState, reads_of
from operators.feed import Hole
from operators.lattice import HOUR_MS, MINUTE_MS
from operators.layout import books_of, contexts_of, quotes_of, trades_of
from operators.records import Handover, Ticks
from packs.loader import load_packs

arrow = pytest.importorskip("pyarrow.ipc")
dataset = pytest.importorskip("pyarrow.dataset")
pytest.importorskip("numpy")

ROOT = Path(__file__).parents[2]
PACKS = load_packs()
FEATURES = PACKS.features
START_MS = 497_223 * HOUR_MS - 4 * MINUTE_MS
MS = 1_000_000
FRAMES = FrameOptions(quote_ms=(3000, 5000, 8000, 8000), book_ms=10_000, ctx_ms=15_000)


def market(minutes: int = 8, seed: int = 7) -> list[bytes]:
    """Return the lines of a market over the end of an hour, without newlines."""
    scenario = Scenario(seed, START_MS, minutes, default_assets(4), (), FRAMES)
    return [line.rstrip(b"\n") for line in lines(scenario)]


def tortured(seed: int, *, rostered: bool = True) -> list[bytes]:
    """Return a market with everything that goes wrong with a recording."""
    dice = Random(seed)
    found: list[bytes] = []
    shift_ns = 0
    given_lines = market(seed=seed)
    jumps = dice.sample(range(50, len(given_lines)), 5)
    for at, line in enumerate(given_lines):
        text, _, frame = line.partition(b" ")
        if not rostered and b"alpha.roster" in frame:
            continue
        if at in jumps:  # seconds, minutes, hours; and a gap that is told
            shift_ns += dice.choice((7_000, 90_000, 400_000, 2 * HOUR_MS)) * MS
            now_ms = (int(text) + shift_ns) // MS
            gap = {"start_ms": now_ms - 5000, "end_ms": None, "cause": "closed"}
            found.append(control(now_ms, "alpha.gap", gap))
            if dice.random() < 0.7:
                found.append(control(now_ms + 1, "alpha.gap", {**gap, "end_ms": now_ms + 1}))
        stamp = int(text) + shift_ns
        way = dice.random()
        if way < 0.02:  # seen again, at once or late
            found.append(b"%d %b" % (stamp, frame))
            stamp += dice.choice((0, 2_000 * MS))
            shift_ns += stamp - int(text) - shift_ns
        elif way < 0.04:
            frame = frame.replace(b'"BTC"', b'"NOBODY"')
        elif way < 0.06:
            cut = dice.randrange(len(frame))
            frame = frame[:cut] + bytes([dice.randrange(256)]) + frame[cut + 1 :]
        elif way < 0.07:
            frame = frame.replace(b'"px":"', b'"px":"-')
        elif way < 0.08:
            stamp += dice.choice((-3_000, 10 * 24 * HOUR_MS)) * MS
        elif way < 0.085:
            found.append(dice.choice((b"", b"no line", b"12 ", b"\xff\xfe 7")))
        found.append(b"%d %b" % (stamp, frame.replace(b"\n", b" ")))
    return found


def control(now_ms: int, channel: str, data: Any) -> bytes:
    """Return a line of our own."""
    return b"%d %b" % (now_ms * MS, json.dumps({"channel": channel, "data": data}).encode())


def write(
    directory: Path,
    given_lines: list[bytes],
    *,
    segment_bytes: int = 60_000,
    torn: bool = False,
    packed: bool = True,
) -> Path:
    """Write a log directory. torn : a crash in the middle. packed : its last segment is, too."""
    middle = len(given_lines) // 2 if torn else 0
    for some in (given_lines[:middle], given_lines[middle:]):
        writer = TickLogWriter(directory, segment_bytes_max=segment_bytes)
        for line in some:
            stamp = line.partition(b" ")[0]
            writer.write_lines(int(stamp) if stamp.isdigit() else 0, line + b"\n")
        writer.close()
        if some and torn and some[0] is given_lines[0]:
            newest = max(directory.glob("*.log"))
            newest.write_bytes(newest.read_bytes() + b"1790000000 {torn")
    if packed:
        TickLogWriter(directory).close()
    return directory


class Told:
    """Remembers the holes it is told, each as it was last, as the ledger does."""

    def __init__(self) -> None:
        self.holes: dict[tuple[int, str], Hole] = {}
        self.closed = False

    def write(self, holes: list[Hole]) -> None:
        """Take holes."""
        self.holes.update({(hole.start_ms, hole.cause): hole for hole in holes})

    def close(self) -> None:
        """Take note of it."""
        self.closed = True


def handed_out(source: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a source has, item by item, and close it."""
    part = source.build_part("", "log", None)
    while True:
        try:
            batch = part.next_batch()
        except StopIteration:
            break
        yield from batch
    part.close()


def outcome(source: Any) -> list[Any]:
    """Return what comes between closings, by asset, and the closings."""
    found: list[Any] = []
    stretch: dict[str, Ticks] = {}
    for key, item in handed_out(source):
        if isinstance(item, Ticks):
            known = stretch.setdefault(key, Ticks(rejects={}))
            for kind in KINDS:
                getattr(known, kind).extend(getattr(item, kind))
            for reason, count in item.rejects.items():
                known.rejects[reason] = known.rejects.get(reason, 0) + count
            continue
        if stretch:
            found.append(plainly(stretch))
            stretch = {}
        found.append((key, item))
    if stretch:
        found.append(plainly(stretch))
    return found


def plainly(stretch: dict[str, Ticks]) -> list[Any]:
    """Return ticks as values that can be compared; NaN is compared by its bytes."""
    return [
        (key, *(bytes(getattr(ticks, kind)) for kind in KINDS), ticks.rejects)
        for key, ticks in sorted(stretch.items())
    ]


def assembled(source: Any) -> list[Any]:
    """Return what assembly makes of a source: bars by asset, and what it knows in the end."""
    step = Assemble(FEATURES)
    states: dict[str, Any] = {}
    bars: dict[str, list[bytes]] = {}
    goes_on = not source.columns.bars if isinstance(source, ColumnsSource) else True
    for key, item in handed_out(source):
        goes_on |= isinstance(item, Handover)
        state = states.setdefault(key, step.initial())
        for bar in step.step(state, item):
            bars.setdefault(key, []).append(msgspec.msgpack.encode(bar))
    known = {key: without_keys(state) for key, state in sorted(states.items())} if goes_on else None
    return [sorted(bars.items()), known]


def without_keys(state: AssemblyState) -> Any:
    """Return a state as it is stored."""
    return msgspec.to_builtins(AssemblyCodec().decode(AssemblyCodec().encode(state)))


def read_both(log: Path, cache: Columns) -> None:
    """Assert that log and cache give the same items, holes and counters, and the same bars."""
    assert cache.manifest.bars is not None
    ticks, bars = (msgspec.structs.replace(cache, bars=way) for way in (False, True))
    columns_of: Any = lambda cache: lambda *a, **k: ColumnsSource(*a, cache, **k)  # noqa: E731
    assert looked(outcome, LogSource, log) == looked(outcome, columns_of(ticks), log)
    of_log = looked(assembled, LogSource, log)
    assert of_log == looked(assembled, columns_of(ticks), log)
    of_bars = looked(assembled, columns_of(bars), log)
    if of_bars[0][1] is None:  # nothing comes behind the cache, so nobody asks
        of_log[0][1] = None
    assert of_log == of_bars


def looked(look: Callable[[Any], Any], make: Callable[..., Any], log: Path) -> Any:
    """Return what comes of a source, and what it told of holes and counters."""
    told, states = Told(), list[Any]()

    def keep(state: SourceState) -> None:
        states.append(msgspec.to_builtins(state.feed))

    found = look(make(log, FEATURES, on_chunk=keep, holes=told))
    return found, told.holes, told.closed, states[-1]


def cached(log: Path, directory: Path | None = None, **options: Any) -> Columns:
    """Make the cache of a log and return it as a replay finds it."""
    directory = directory or columns.place_of(log)
    compact(log, directory, FEATURES, **options)
    found = usable(log, directory, FEATURES)
    assert isinstance(found, Columns), found
    assert found.bars == options.get("bars", True)
    return found


def products(out: Path) -> list[bytes]:
    """Return the bytes of a replay."""
    return [product_path(out, name).read_bytes() for name in PRODUCTS]


def tree(directory: Path) -> dict[str, bytes]:
    """Return every file below a directory."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log over the end of an hour, in several packed segments."""
    directory = write(tmp_path_factory.mktemp("columns") / "ticks", market())
    assert len(list(directory.iterdir())) >= 3
    return directory


@pytest.fixture(scope="module")
def made(log: Path) -> Columns:
    """Return its cache."""
    return cached(log)


@pytest.fixture
def own(log: Path, made: Columns, tmp_path: Path) -> Path:
    """Return a copy of log and cache that a test may damage; the cache is beside it."""
    shutil.copytree(log, tmp_path / "ticks")
    shutil.copytree(made.directory, tmp_path / "ticks.columns")
    return tmp_path / "ticks"


# --- the same -------------------------------------------------------------------------------


@pytest.mark.parametrize("rostered", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_differential_items_of_log_and_cache(seed: int, rostered: bool, tmp_path: Path) -> None:
    """Every tick, closing, hole and counter of a recording with everything wrong."""
    found = tortured(seed, rostered=rostered)
    log = write(tmp_path / "ticks", found, torn=True)
    cache = cached(log, shards=1 + seed % 3)
    assert len(cache.manifest.parts) >= 2
    assert cache.manifest.state.counts["torn_line"] == 1
    assert len(cache.manifest.state.counts) >= 4
    read_both(log, cache)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), cut=st.floats(0, 1), shards=st.integers(1, 3))
def test_property_any_damage_anywhere(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cut: float, shards: int
) -> None:
    """Any piece of a tortured log, as one file, is the same from its cache."""
    found = tortured(seed, rostered=seed % 3 > 0)
    file = tmp_path_factory.mktemp("any") / "some.log"
    file.write_bytes(b"\n".join(found[: int(cut * len(found))]))  # the last line may be torn
    read_both(file, cached(file, shards=shards))


@pytest.mark.engine
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("seed", [11, 12])
def test_differential_products_of_log_and_cache(seed: int, shards: int, tmp_path: Path) -> None:
    """Rows, events, frames, suppressions, audit and dead letters: the same bytes."""
    log = write(tmp_path / "ticks", tortured(seed, rostered=seed % 2 == 0), torn=True)
    cache = cached(log, shards=shards)
    read = (None, msgspec.structs.replace(cache, bars=False), cache)
    summaries = [
        replay(log, tmp_path / name, PACKS, columns=one, workers=workers)
        for name, one, workers in zip(("log", "ticks", "bars"), read, (1, 2, 2), strict=True)
    ]
    assert_alike(summaries, tmp_path)


@pytest.mark.parametrize("seed", [13, 14])
def test_differential_the_log_goes_on_anywhere(seed: int, tmp_path: Path) -> None:
    """Behind bars that end in an open minute, or in one that is sealed and not final: assembly goes
    on with what it would know, had it seen the ticks."""
    found = tortured(seed)
    seen = {"open": 0, "sealed": 0}
    graces = [at for at, line in enumerate(found) if 1500 < stamp_of(line) % MINUTE_MS < 3000]
    for at in (*range(150, len(found), 300), *graces[5::12]):
        log = write_cut(tmp_path / f"ticks-{at}", found, at)
        cache = cached(log)
        known = known_behind(cache)
        seen["open"] += any(state.minutes for state in known)
        seen["sealed"] += any(state.sealed is not None for state in known)
        read_both(log, cache)
    assert min(seen.values()) >= 2, seen


@pytest.mark.engine
@pytest.mark.parametrize("workers", [1, 2])
def test_differential_products_of_bars_and_a_log(workers: int, tmp_path: Path) -> None:
    """The same bytes where a sealed minute is amended by ticks that the log has."""
    found = market()
    closing = next(at for at, line in enumerate(found) if stamp_of(line) > START_MS + 181_700)
    log = write_cut(tmp_path / "ticks", found, closing)
    cache = cached(log)
    assert all(state.sealed is not None for state in known_behind(cache))
    for name, one, speed in (("log", None, None), ("bars", cache, None), ("paced", cache, 1e6)):
        replay(log, tmp_path / name, PACKS, columns=one, workers=workers, speed=speed)
    assert products(tmp_path / "log") == products(tmp_path / "bars") == products(tmp_path / "paced")


def known_behind(cache: Columns) -> list[AssemblyState]:
    """Return what assembly knows of each asset behind a cache."""
    assert cache.manifest.bars is not None
    states = column_bars.read_states(cache.directory, cache.manifest.bars.states[-1])
    return [AssemblyCodec().decode(state) for state in states.values()]


def stamp_of(line: bytes) -> int:
    """Return a line's arrival, epoch ms; 0 of one that is damaged."""
    text = line.partition(b" ")[0]
    return int(text) // MS if text.isdigit() else 0


def write_cut(log: Path, given_lines: list[bytes], at: int) -> Path:
    """Write a log whose first segment ends with a line and is packed; the rest is not."""
    write(log, given_lines[:at], segment_bytes=10**9)
    writer = TickLogWriter(log)
    for line in given_lines[at:]:
        writer.write_lines(stamp_of(line) * MS, line + b"\n")
    writer.close()
    return log


@pytest.mark.engine
@pytest.mark.slow
def test_differential_episodes(episode_log: Path, tmp_path: Path) -> None:
    """Four hours with events; the newest segment is not packed and comes from the log."""
    cache = cached(episode_log, tmp_path / "cache", shards=2)
    assert 0 < len(cache.manifest.segments) < len(list(episode_log.iterdir()))
    ticks = msgspec.structs.replace(cache, bars=False)
    summaries = [
        replay(episode_log, tmp_path / name, PACKS, columns=c)
        for name, c in (("log", None), ("ticks", ticks), ("bars", cache))
    ]
    assert summaries[0].products["events"].count > 0
    assert_alike(summaries, tmp_path)


def assert_alike(summaries: list[Summary], out: Path) -> None:
    """Assert that replays, into `log`, `ticks` and `bars`, wrote and counted the same."""
    assert products(out / "log") == products(out / "ticks") == products(out / "bars")
    assert summaries[0].products["rows"].count > 0
    assert summaries[0].dropped == summaries[1].dropped == summaries[2].dropped
    assert [summary.read_from for summary in summaries] == ["log", "cache", "cache"]


def test_real_frames(shared_data: Path, tmp_path: Path) -> None:
    """Frames as the venue sent them."""
    path = shared_data / "hyperliquid" / "ws" / "ws_frames_by_channel.jsonl"
    frames = [line[line.index('"frame":') + 8 : -1] for line in path.read_text().splitlines()]
    stamp = START_MS * MS
    file = tmp_path / "venue.log"
    file.write_text("".join(f"{stamp + k * 10**9} {f}\n" for k, f in enumerate(frames * 3)))
    cache = cached(file)
    assert cache.manifest.ticks > 50
    read_both(file, cache)


def test_columns_are_what_records_say(log: Path, made: Columns) -> None:
    """Other programs read the files as they are: names, types, one row a tick."""
    ticks = Ticks()
    for _, *records, _ in [each for part in outcome(LogSource(log, FEATURES))
                           if isinstance(part, list) for each in part]:  # fmt: skip
        for kind, data in zip(KINDS, records, strict=True):
            getattr(ticks, kind).extend(data)
    records_of = {
        "trades": trades_of(ticks.trades),
        "quotes": quotes_of(ticks.quotes),
        "books": books_of(ticks.books),
        "contexts": contexts_of(ticks.contexts),
    }
    files = sorted(made.directory.glob("trades/*.arrow"))
    assert len(files) == len(made.manifest.parts) == 2
    assert [path.name[:14] for path in files] == ["20260921T14-00", "20260921T15-00"]
    for kind, records in records_of.items():
        tables = [arrow.open_file(p).read_all() for p in sorted(made.directory.glob(f"{kind}/*"))]
        rows = [row for table in tables for row in table.to_pylist()]
        assert len(rows) == len(records) > 0
        assert {row["asset_uid"] for row in rows} == {spec.uid for spec in default_assets(4)}
        for name in records[0].__struct_fields__:
            if name not in ("bids", "asks"):
                found = [row[name] for row in rows]
                assert found == [getattr(record, name) for record in records]
    book = arrow.open_file(next(iter(made.directory.glob("books/*")))).read_all().to_pylist()[0]
    first = records_of["books"][0]
    assert (book["bid_px_1"], book["bid_sz_1"]) == first.bids[0]
    assert (book["ask_px_5"], book["ask_sz_5"]) == first.asks[4]


@pytest.mark.parametrize("chunk", [1, 10_000])
def test_holes_are_told_as_they_were_last(chunk: int, tmp_path: Path) -> None:
    """One that ended in a later chunk than it began in, one said twice, one that stays open."""
    found = market()
    for at, start_ms, end_ms in ((99, 7, None), (60, 5, 9), (40, 5, None), (20, 5, None)):
        now_ms = int(found[at].partition(b" ")[0]) // MS
        gap = {"start_ms": START_MS + start_ms, "end_ms": end_ms, "cause": "closed"}
        if end_ms is not None:
            gap["end_ms"] = START_MS + end_ms
        found.insert(at, control(now_ms, "alpha.gap", gap))
    cache = cached(write(tmp_path / "ticks", found), chunk_lines=chunk)
    ends = {hole.start_ms - START_MS: hole.end_ms for hole in cache.manifest.holes[1:]}
    assert ends == {5: START_MS + 9, 7: None}


def test_assets_come_in_order_from_any_number_of_files(log: Path, tmp_path: Path) -> None:
    """As the reader of the log has them, not shard by shard."""
    cache = cached(log, tmp_path / "cache", shards=3)
    for part in cache.manifest.parts:
        for items in column_files.read_part(cache.directory, part):
            uids = [uid for uid, item in items if isinstance(item, Ticks)]
            assert uids == sorted(uids)
            assert len(uids) > 1


@pytest.mark.parametrize("batch_items", [1, 25, BATCH_ITEMS])
@pytest.mark.parametrize("bars", [True, False])
def test_a_snapshot_goes_on_where_it_was_taken(own: Path, bars: bool, batch_items: int) -> None:
    """From any stretch of the cache, or line of the log behind it, the rest is the rest."""
    cache = usable(own, columns.place_of(own), FEATURES, bars=bars)
    assert isinstance(cache, Columns)
    extra = market(12)[len(market(8)) :]
    writer = TickLogWriter(own)
    for line in extra:
        writer.write_lines(int(line.partition(b" ")[0]), line + b"\n")
    writer.close()
    source = ColumnsSource(own, FEATURES, cache, 200, batch_items=batch_items)
    snapshots, batches = [], []
    for snapshot, batch in run(source, None):
        snapshots.append(snapshot)
        batches.append(batch)
    assert len(batches) >= (20 if batch_items == 1 else 3)
    for at in range(0, len(batches), 5 if batch_items == 1 else 1):
        rest = [batch for _, batch in run(source, snapshots[at])]
        assert rest == batches[at:]
    for changed in ({"digest": "other"}, {"bars": not bars}):
        other = ColumnsSource(own, FEATURES, msgspec.structs.replace(cache, **changed))
        with pytest.raises(ColumnsError, match="made anew"):
            other.build_part("", "log", snapshots[1])


def run(source: ColumnsSource, state: bytes | None) -> Iterator[tuple[bytes, Any]]:
    """Yield each batch with the snapshot before it."""
    part = source.build_part("", "log", state)
    while True:
        before = part.snapshot()
        try:
            yield before, msgspec.msgpack.encode(part.next_batch())
        except StopIteration:
            part.close()
            return


# --- made piece by piece ----------------------------------------------------------------------


@pytest.mark.parametrize(("shards", "bars"), [(1, True), (3, True), (2, False)])
def test_differential_appended_is_made_at_once(shards: int, bars: bool, tmp_path: Path) -> None:
    """However often it was brought up to date, and read in whatever chunks: the same bytes."""
    source = write(tmp_path / "all", tortured(21), segment_bytes=60_000, torn=True)
    options: dict[str, Any] = {"shards": shards, "bars": bars}
    whole = cached(source, tmp_path / "once", **options)
    growing = tmp_path / "growing"
    growing.mkdir()
    segments = sorted(source.iterdir(), key=lambda path: path.name[-14:])
    assert len(segments) >= 4
    did = []
    for at, segment in enumerate(segments):
        shutil.copy(segment, growing)
        done = compact(growing, tmp_path / "often", FEATURES, chunk_lines=1 + at * 7, **options)
        assert done.assembled == ""
        did.append((done.rebuilt, done.written > 0))
    assert did == [("", True)] * len(segments) or set(did) == {("", True), ("", False)}
    assert done.kept > 0
    assert tree(tmp_path / "often") == tree(whole.directory)
    again = compact(source, whole.directory, FEATURES, **options)
    assert again.written == 0


def test_bars_of_a_part_depend_on_its_ticks_alone(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made with the ticks, or of a cache that had none; removed, there is the cache without."""
    monkeypatch.setattr(compaction, "REPLAY_LINES", 100)
    told: list[int] = []
    once, twice = (cached(log, tmp_path / name) for name in ("once", "twice"))
    bare = compact(log, twice.directory, FEATURES, bars=False)
    assert (bare.without_bars, bare.written, bare.columns.manifest.bars) == (True, 0, None)
    assert not list(twice.directory.glob("bars/*"))
    assert not compact(log, twice.directory, FEATURES, bars=False).without_bars
    assert tree(cached(log, tmp_path / "bare", bars=False).directory) == tree(twice.directory)
    again = compact(log, twice.directory, FEATURES, on_progress=told.append)
    assert (again.assembled, again.written, again.kept) == ("it had none", 0, 2)
    assert len(set(told)) > 3
    assert told == sorted(told)
    assert tree(twice.directory) == tree(once.directory)
    assert compact(log, twice.directory, FEATURES).assembled == ""


def test_bars_of_other_limits_are_made_anew(own: Path, tmp_path: Path) -> None:
    """With what was recorded since, or without; as if the cache had been made at once."""
    directory = columns.place_of(own)
    limits = FEATURES.quality.model_copy(update={"late_ticks_partial": 1})
    features = FEATURES.model_copy(update={"quality": limits})
    newest = max(own.iterdir(), key=lambda path: path.name[-14:])
    newest.rename(tmp_path / newest.name)
    assert "is gone" in compact(own, directory, FEATURES).rebuilt
    done = compact(own, directory, features)
    assert (done.assembled, done.written) == ("the feature pack has other limits of quality", 0)
    (tmp_path / newest.name).rename(newest)
    done = compact(own, directory, FEATURES)
    assert done.assembled == "the feature pack has other limits of quality"
    assert done.written > 0
    assert tree(directory) == tree(cached(own, tmp_path / "once").directory)


def test_parts_are_cut_by_size_too(
    log: Path, made: Columns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour with much in it becomes several parts."""
    monkeypatch.setattr(compaction, "PART_BYTES", 20_000)
    cache = cached(log, tmp_path / "small")
    assert len(cache.manifest.parts) > len(made.manifest.parts) + 3
    assert [part.number for part in cache.manifest.parts][:3] == [0, 1, 2]
    read_both(log, cache)


def test_the_newest_segment_is_left_to_the_log(own: Path) -> None:
    """It may still be written; the replay goes on in it. `whole` takes it in."""
    writer = TickLogWriter(own)
    for line in market(12)[len(market(8)) :]:
        writer.write_lines(int(line.partition(b" ")[0]), line + b"\n")
    writer.close()
    done = compact(own, columns.place_of(own), FEATURES)
    assert (done.written, list(done.left_out.values())) == (0, ["may still be written"])
    before = tree(done.columns.directory)
    read_both(own, done.columns)
    whole = compact(own, columns.place_of(own), FEATURES, whole=True)
    assert whole.left_out == {}
    assert whole.columns.manifest.ticks > done.columns.manifest.ticks
    read_both(own, whole.columns)
    without = compact(own, columns.place_of(own), FEATURES)
    assert without.rebuilt == "it stood for a segment that is now left out"
    assert tree(without.columns.directory) == before
    compact(own, columns.place_of(own), FEATURES, whole=True)
    newest = max(own.glob("*.log"))
    newest.write_bytes(newest.read_bytes() + b"1790000000 {torn")
    done = compact(own, columns.place_of(own), FEATURES, whole=True)
    assert list(done.left_out.values()) == ["does not end with a whole line"]
    assert "another one" in done.rebuilt
    read_both(own, done.columns)


def test_what_a_crash_left_before_the_newest_segment(tmp_path: Path) -> None:
    """A cut line at the end of the cache is counted once, by whoever reads what is behind it."""
    log = write(tmp_path / "ticks", market(), segment_bytes=10**7, torn=True, packed=False)
    done = compact(log, columns.place_of(log), FEATURES)
    assert len(done.columns.manifest.segments) == len(done.left_out) == 1
    assert done.columns.manifest.state.counts["torn_line"] == 1
    read_both(log, done.columns)


def test_a_damaged_newest_piece_is_left_to_the_log(own: Path) -> None:
    """What follows it decides what its end counts as."""
    newest = max(own.glob("*.zst"), key=lambda path: path.name[-14:])
    newest.write_bytes(newest.read_bytes()[:-200] + bytes(200))
    done = compact(own, columns.place_of(own), FEATURES)
    assert list(done.left_out) == [newest.name]
    read_both(own, done.columns)


# --- not used ---------------------------------------------------------------------------------


def refusal(log: Path, features: Any = FEATURES) -> str:
    """Return why the cache beside a log is not used."""
    found = usable(log, columns.place_of(log), features)
    assert isinstance(found, str)
    return found


def refusals(log: Path, features: Any = FEATURES) -> set[str]:
    """Return why neither bars nor ticks of the cache beside a log are used, "" if one of them is,
    and why the ticks are not, or why the bars are not."""
    bars, ticks = (usable(log, columns.place_of(log), features, bars=b) for b in (True, False))
    return {
        bars if isinstance(bars, str) else bars.no_bars,
        ticks if isinstance(ticks, str) else "",
    }


def test_every_damaged_file_is_found(own: Path) -> None:
    """A byte anywhere in the cache: what is in it is not used, and made anew to what it was."""
    directory = columns.place_of(own)
    before = tree(directory)
    assert len(before) >= 1 + 2 * len(FOLDERS)
    dice = Random(5)
    for name, data in before.items():
        for at in {0, len(data) - 1, dice.randrange(len(data))}:
            bad = bytearray(data)
            bad[at] ^= 1 << dice.randrange(8)
            (directory / name).write_bytes(bad)
            assert any("damaged" in why for why in refusals(own)), (name, at)
        (directory / name).write_bytes(data[:-1])
        assert any("damaged" in why for why in refusals(own)), name
        (directory / name).unlink()
        assert refusals(own) & {f"{name} is gone", "it was never finished"}
        done = compact(own, directory, FEATURES)
        assert bool(done.assembled) == name.startswith("bars/")
        assert bool(done.rebuilt) != bool(done.assembled)
        assert tree(directory) == before


def test_damage_of_one_leaves_the_other(own: Path) -> None:
    """A replay from bars does not look at ticks; where bars are damaged it reads the ticks; of both
    the log."""
    directory = columns.place_of(own)
    for path in directory.glob("quotes/*"):
        path.write_bytes(b"")
    found = usable(own, directory, FEATURES)
    assert isinstance(found, Columns)
    read_bars = ColumnsSource(own, FEATURES, found)
    assert found.bars
    assert assembled(read_bars)[0] == assembled(LogSource(own, FEATURES))[0]
    assert "damaged" in compact(own, directory, FEATURES).rebuilt
    newest = max(directory.glob("bars/*"))
    newest.write_bytes(b"")
    found = usable(own, directory, FEATURES)
    assert isinstance(found, Columns)
    assert (found.bars, found.no_bars) == (False, f"bars/{newest.name} is damaged")
    for path in directory.glob("quotes/*"):
        path.write_bytes(b"")
    assert "damaged" in refusal(own)


def test_what_bars_depend_on(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of the feature pack and the text that assembles; nothing else of a pack."""
    for field, name in (("quality", "oi_staleness_ms_max"), ("lattice", "future_ms_max")):
        limits = getattr(FEATURES, field)
        other = limits.model_copy(update={name: getattr(limits, name) + 1})
        found = usable(own, columns.place_of(own), FEATURES.model_copy(update={field: other}))
        assert isinstance(found, Columns)
        assert (found.bars, found.no_bars) == (
            False,
            "the feature pack has other limits of quality",
        )
    found = usable(own, columns.place_of(own), FEATURES.model_copy(update={"pack_rev": 99}))
    assert isinstance(found, Columns)
    assert found.bars
    monkeypatch.setattr(columns, "assembly", lambda: "other text")
    found = usable(own, columns.place_of(own), FEATURES)
    assert isinstance(found, Columns)
    assert (found.bars, found.no_bars) == (
        False,
        "another version of this program assembled them",
    )


def test_the_text_that_assembles_is_all_of_it() -> None:
    """Every module of ours that assembly imports is among those whose text is compared.

    Left out: `native` chooses between two forms with the same results, `contract` and what it uses
    are the events'.
    """
    named = {f"{package}.{name}" for package, names in columns._ASSEMBLY.items() for name in names}
    met, ahead = set[str](), ["operators.assemble"]
    while ahead:
        module = ahead.pop()
        met.add(module)
        text = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text()
        for node in ast.parse(text).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("operators"):
                names = [node.module or ""]
                if node.module == "operators":
                    names = [f"operators.{alias.name}" for alias in node.names]
                ahead += [name for name in names if name not in met]
    left_out = {"operators.native", "operators.contract", "operators.strays"}
    assert {f"{module}.py" for module in met - left_out} <= named


def test_only_named_settings_reach_the_bars() -> None:
    """Of a feature pack assembly keeps what `reads_of` names, which the cache compares."""
    kept = {id(value) for value in vars(Assemble(FEATURES)).values()}
    read = reads_of(FEATURES)
    assert {id(value) for value in read} <= kept
    others = {id(value) for value in vars(FEATURES).values()} - {id(value) for value in read}
    assert not kept & others


def test_a_log_that_changed_is_found(own: Path) -> None:
    """A byte of a segment, a segment gone or another in its place."""
    segments = sorted(own.iterdir(), key=lambda path: path.name[-14:])
    for segment in segments:
        data = segment.read_bytes()
        for bad in (data + b"x", data[:-1], data[:99] + bytes([data[99] ^ 1]) + data[100:]):
            segment.write_bytes(bad)
            assert refusal(own) == f"{segment.name.removesuffix('.zst')} of the log is another one"
        segment.write_bytes(data)
    segments[0].unlink()
    assert refusal(own) == f"{segments[0].name.removesuffix('.zst')} of the log is gone"
    segments[-1].unlink()
    assert "and 1 more of the log are gone" in refusal(own)
    done = compact(own, columns.place_of(own), FEATURES)
    assert "are gone" in done.rebuilt
    read_both(own, done.columns)


def test_other_closings_other_readers_other_formats(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache knows the times of closings, the text that read the log, and its own version."""
    lattice = FEATURES.lattice
    for name in ("lateness_ms", "grace_ms", "arrival_jump_gap_ms"):
        other = lattice.model_copy(update={name: getattr(lattice, name) + 1})
        features = FEATURES.model_copy(update={"lattice": other})
        assert "at other times" in refusal(own, features)
    assert compact(own, columns.place_of(own), features).rebuilt
    compact(own, columns.place_of(own), FEATURES)
    with monkeypatch.context() as patch:
        patch.setattr(columns, "readers", lambda: "other text")
        assert "another version" in refusal(own)
    with monkeypatch.context() as patch:
        patch.setattr(columns, "VERSION", columns.VERSION + 1)
        assert "another version" in refusal(own)
    assert compact(own, columns.place_of(own), FEATURES, shards=2).rebuilt == "it has 1 shards"


def test_without_its_packages_the_log_is_read(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says what to install; bars need none of them."""
    monkeypatch.setitem(sys.modules, "pyarrow.ipc", None)
    assert refusals(own) == {"", column_files.NO_READER}
    with pytest.raises(ColumnsError, match="columnar"):
        compact(own, columns.place_of(own), FEATURES)


def test_a_cache_that_cannot_be_read(own: Path) -> None:
    """What the system says is the reason, and no end of a replay."""
    manifest = columns.place_of(own) / columns.MANIFEST
    manifest.unlink()
    manifest.mkdir()
    assert refusal(own) == f"{manifest}: Is a directory"


def test_a_cache_that_goes_while_it_is_read(own: Path) -> None:
    """Its files never change under their names; one that is gone is an error, not other ticks."""
    cache = load(columns.place_of(own))
    assert isinstance(cache, Columns)
    for bars, folder in ((False, "trades"), (True, "bars")):
        cache = msgspec.structs.replace(cache, bars=bars)
        part = ColumnsSource(own, FEATURES, cache).build_part("", "log", None)
        part.next_batch()
        for path in cache.directory.glob(f"{folder}/*"):
            path.unlink()
        with pytest.raises(ColumnsError, match="run again"):
            list(iter(part.next_batch, None))


@pytest.mark.parametrize("bars", [True, False])
def test_a_file_that_changes_while_it_is_read(own: Path, bars: bool) -> None:
    """Whatever cannot be read any more is the same error; a failure of ours stays what it is."""
    directory = columns.place_of(own)
    cache = usable(own, directory, FEATURES, bars=bars)
    assert isinstance(cache, Columns)
    assert cache.manifest.bars is not None
    of_bars = [*cache.manifest.bars.files, cache.manifest.bars.states[-1]]
    writer = TickLogWriter(own)  # the states of assembly are read if something is behind the cache
    writer.write_lines(START_MS * MS, market()[-1] + b"\n")
    writer.close()
    for file in of_bars if bars else cache.manifest.tick_files():
        path = directory / file.path
        data = path.read_bytes()
        for bad in (data[: len(data) // 2], b"", bytes(len(data)), data[:8] + bytes(len(data) - 8)):
            part = ColumnsSource(own, FEATURES, cache, batch_items=1).build_part("", "log", None)
            path.write_bytes(bad)
            with (
                closing(part),
                pytest.raises(ColumnsError, match=f"{file.path} is damaged.*run again"),
            ):
                list(iter(part.next_batch, None))
            path.write_bytes(data)
    with pytest.raises(ZeroDivisionError), columns.unchanged(cache, of_bars):
        _ = 1 // 0


def test_nothing_but_a_cache_is_removed(log: Path, tmp_path: Path) -> None:
    """A directory of somebody else's is refused, and so is a cache that is being made."""
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ColumnsError, match=r"found thesis\.tex"):
        compact(log, tmp_path, FEATURES)
    directory = tmp_path / "cache"
    directory.mkdir()
    with compaction._alone(directory), pytest.raises(ColumnsError, match="another process"):
        compact(log, directory, FEATURES)


@pytest.mark.parametrize("appended", [False, True])
def test_stopped_before_any_file(
    appended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a run ends, there is the cache from before it, or none that is used."""
    log = write(tmp_path / "ticks", tortured(31), segment_bytes=60_000)
    directory = columns.place_of(log)
    once = tree(cached(log, tmp_path / "once").directory)
    if appended:
        newest = max(log.iterdir(), key=lambda path: path.name[-14:])
        newest.rename(tmp_path / newest.name)
        before = cached(log)
        (tmp_path / newest.name).rename(newest)
    write_whole, left = column_files.write_whole, 0

    def stopping(path: Path, data: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            temporary_of(path).write_bytes(bytes(data)[: len(data) // 2])
            raise KeyboardInterrupt
        write_whole(path, data)

    monkeypatch.setattr(column_files, "write_whole", stopping)
    monkeypatch.setattr(columns, "write_whole", stopping)
    for writes in range(100):
        left = writes
        try:
            compact(log, directory, FEATURES)
            break
        except KeyboardInterrupt:
            found = usable(log, directory, FEATURES)
            assert found == (before if appended else "it was never finished")
            assert set(tree(directory)) == named(found)
    assert writes >= 6
    assert tree(directory) == once


def named(found: Columns | str) -> set[str]:
    """Return the files that a cache should consist of."""
    if isinstance(found, str):
        return set()
    manifest = found.manifest
    return {columns.MANIFEST} | {f.path for f in (*manifest.tick_files(), *manifest.bar_files())}


def test_what_a_broken_run_left_is_removed(own: Path) -> None:
    """Also where there is nothing to do; until then readers of a folder see no half of a file."""
    directory = columns.place_of(own)
    before = tree(directory)
    folder = directory / "trades"
    rows = dataset.dataset(folder, format="ipc").count_rows()
    newest = max(folder.iterdir())
    half = temporary_of(newest.with_name("20260921T16-00-0of1-0.arrow"))
    half.write_bytes(newest.read_bytes()[:100])
    temporary_of(directory / columns.MANIFEST).write_bytes(b"{")
    assert dataset.dataset(folder, format="ipc").count_rows() == rows
    shutil.copy(newest, folder / "20260921T16-00-0of1-1.arrow")
    assert dataset.dataset(folder, format="ipc").count_rows() > rows
    assert compact(own, directory, FEATURES).written == 0
    assert tree(directory) == before
    manifest = directory / columns.MANIFEST
    manifest.write_bytes(b"?")  # what it named is not known, so nothing is removed before the end
    columns.sweep(directory)
    assert set(tree(directory)) == set(before)
    compact(own, directory, FEATURES)
    assert tree(directory) == before


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """The same of a process that has no chance to clean up."""
    log = write(tmp_path / "ticks", market(30))
    directory = columns.place_of(log)
    script = (
        "import sys; from pathlib import Path; from dataflows import compaction;"
        "from packs.loader import load_packs; features = load_packs().features;"
        "compaction.PART_BYTES = 1000; print('ready', flush=True);"
        "compaction.compact(Path(sys.argv[1]), Path(sys.argv[2]), features)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(log), str(directory)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    while not list(directory.glob("trades/*")):
        time.sleep(0.001)
    process.kill()
    process.wait()
    process.stdout.close()
    assert usable(log, directory, FEATURES) == "it was never finished"
    assert compact(log, directory, FEATURES).rebuilt == "it was never finished"
    assert tree(directory) == tree(cached(log, tmp_path / "once").directory)
