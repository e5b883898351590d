"""Recordings of trades, quotes and books become one tick log.

Rules of this file: frames are merged by their time of arrival, equal times in the order of the
files given and then of their lines; a frame that comes more than REORDER_FRAMES_MAX frames too late
in its file is dropped and counted; a silence of all files is either filled with heartbeats or
declared as a gap, so that a hole is never mistaken for a quiet market. The same files give the same
bytes. Design 2.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import IO

import msgspec
import orjson

from dataflows.connectors.ticklog import TickLogWriter
from dataflows.importing.frames import BBO, L2BOOK, TRADES, Framed
from dataflows.importing.layouts import FrameColumns, StampedFrames
from dataflows.importing.presets import Plan, TickFile, plan
from dataflows.importing.reading import ImportProblem, Tally
from dataflows.importing.recorded import reshaped, stamped
from dataflows.importing.rows import row_frames
from dataflows.importing.writing import COPY_BYTES, is_directory, replacing, spool
from operators.lattice import minute_of

REORDER_FRAMES_MAX = 4096  # frames held back per file; a book frame is about 1.5 kB
HEARTBEAT_NS = 1_000_000_000
MAX_SILENCE_S = 15.0
SILENCE_S_MIN = 5.0  # what the reader of a log allows; a shorter gap could be read too late
SILENCE_S_MAX = 86_400.0  # one heartbeat a second, so a wrong date cannot fill the disk
TAIL_S_MAX = 3_600

OUT_OF_ORDER = "out_of_order"

_NS_PER_MS = 1_000_000
_CLOCK = b'{"channel":"alpha.clock"}'
_CHANNEL_ORDER = (TRADES, BBO, L2BOOK)
_SPOT_UID = 10_000


class TickReport(msgspec.Struct):
    """What an import found.

    lines : data lines read, over all files.
    ticks : how many by channel and coin; a trade, a quote and a book count one each.
    holes : silences longer than allowed, as (start_ms, end_ms) of arrival.
    rejects : rows that were dropped, by reason.
    span_ms : arrival of the first and last frame.
    uids : the id each coin got, as in the roster.
    """

    files: int = 0
    lines: int = 0
    frames: int = 0
    ticks: dict[str, dict[str, int]] = {}
    holes: list[tuple[int, int]] = []
    rejects: dict[str, int] = {}
    span_ms: tuple[int, int] = (0, 0)
    uids: dict[str, int] = {}


def import_ticks(
    files: Sequence[TickFile],
    out: Path,
    *,
    uids: Mapping[str, int] | None = None,
    max_silence_s: float = MAX_SILENCE_S,
    tail_s: int = 0,
) -> TickReport:
    """Write the tick log of some recordings and return what was found.

    out : a file if it has a suffix (.gz and .zst are compressed; replaced if it exists), else a
        directory of segments, which must not hold any yet.
    uids : ids by coin; the other coins get the lowest free ids in order of appearance.
    max_silence_s : a longer silence of all files is a hole; from 5 s to a day. Recordings
        that are silent by nature (trades of a thin coin) need more than the default.
    tail_s : seconds of heartbeats after the last frame, for a recording known to go on so long
        without a tick; they let its last minute close.

    Raises ImportProblem, having written nothing, if a file or an argument cannot be used, or if
    there is not a single frame.
    """
    plans = _plans(files, out, uids or {}, max_silence_s, tail_s)
    tally, report = Tally(), TickReport(files=len(files))
    merged = heapq.merge(*(in_order(_frames_of(p, tally), tally) for p in plans), key=_arrival)
    with spool(out) as body:
        for line in _woven(merged, report, round(max_silence_s * 1e9), tail_s):
            body.write(line)
        report.lines = tally.lines
        report.rejects = dict(sorted(tally.rejects.items()))
        if not report.uids:
            raise ImportProblem(f"expected ticks, found none; rejected rows: {report.rejects}")
        roster = _roster(report, uids or {})
        _write(out, roster, body)
    return report


_arrival = attrgetter("arrival_ns")


def _frames_of(plan: Plan, tally: Tally) -> Iterator[Framed]:
    """Read one file as frames, in its own order."""
    columns = plan.columns
    if isinstance(columns, FrameColumns):
        return reshaped(plan, columns, tally)
    if isinstance(columns, StampedFrames):
        return stamped(plan, columns.dialect, tally)
    return row_frames(plan, columns, tally)


def in_order(frames: Iterable[Framed], tally: Tally) -> Iterator[Framed]:
    """Sort frames that are nearly in order of arrival; drop and count those that come too late."""
    newest_ns = 0
    for framed in _held_back(frames):
        if framed.arrival_ns < newest_ns:
            tally.reject(OUT_OF_ORDER, max(framed.ticks, 1))
            continue
        newest_ns = framed.arrival_ns
        yield framed


def _held_back(frames: Iterable[Framed]) -> Iterator[Framed]:
    """Yield the earliest of the next REORDER_FRAMES_MAX frames, equal ones as they came."""
    held: list[tuple[int, int, Framed]] = []
    for sequence, framed in enumerate(frames):
        heapq.heappush(held, (framed.arrival_ns, sequence, framed))
        if len(held) > REORDER_FRAMES_MAX:
            yield heapq.heappop(held)[2]
    while held:
        yield heapq.heappop(held)[2]


# --- checks ----------------------------------------------------------------------------------


def _plans(
    files: Sequence[TickFile],
    out: Path,
    uids: Mapping[str, int],
    max_silence_s: float,
    tail_s: int,
) -> list[Plan]:
    """Return how each file is read, or raise one problem that lists every fault."""
    planned = [plan(file) for file in files]
    faults = [each for each in planned if isinstance(each, str)]
    if not files:
        faults.append("expected at least one file to import, found none")
    if not SILENCE_S_MIN <= max_silence_s <= SILENCE_S_MAX:
        bounds = f"{SILENCE_S_MIN:.0f} to {SILENCE_S_MAX:.0f}"
        faults.append(f"expected max_silence_s from {bounds}, found {max_silence_s}")
    if not 0 <= tail_s <= TAIL_S_MAX:
        faults.append(f"expected tail_s from 0 to {TAIL_S_MAX}, found {tail_s}")
    if len(set(uids.values())) < len(uids):
        faults.append(f"expected a different id for every coin, found {dict(uids)}")
    if is_directory(out) and out.exists() and (out.is_file() or any(out.iterdir())):
        faults.append(f"{out}: expected a new or empty directory, found something there")
    if faults:
        raise ImportProblem("\n".join(faults))
    return [each for each in planned if isinstance(each, Plan)]


# --- the body of the log ---------------------------------------------------------------------


def _woven(
    frames: Iterable[Framed], report: TickReport, max_silence_ns: int, tail_s: int
) -> Iterator[bytes]:
    """Yield the log's lines after the roster: frames, heartbeats and gaps."""
    last_ns: int | None = None
    for framed in frames:
        if last_ns is not None and framed.arrival_ns - last_ns > max_silence_ns:
            yield _gap(last_ns, framed.arrival_ns, report)
        elif last_ns is not None and framed.arrival_ns - last_ns > HEARTBEAT_NS:
            yield from _heartbeats(last_ns, framed.arrival_ns)
        _count(framed, report)
        last_ns = framed.arrival_ns
        yield b"%d %b\n" % (framed.arrival_ns, framed.frame)
    if last_ns is not None:
        yield from _heartbeats(last_ns, last_ns + tail_s * HEARTBEAT_NS + 1)


def _heartbeats(start_ns: int, end_ns: int) -> Iterator[bytes]:
    """Yield one a second, strictly between the two instants."""
    for arrival_ns in range(start_ns + HEARTBEAT_NS, end_ns, HEARTBEAT_NS):
        yield b"%d %b\n" % (arrival_ns, _CLOCK)


def _gap(start_ns: int, end_ns: int, report: TickReport) -> bytes:
    hole = (start_ns // _NS_PER_MS, end_ns // _NS_PER_MS)
    report.holes.append(hole)
    data = {"start_ms": hole[0], "end_ms": hole[1], "cause": "hole"}
    return b"%d %b\n" % (end_ns, orjson.dumps({"channel": "alpha.gap", "data": data}))


def _count(framed: Framed, report: TickReport) -> None:
    arrival_ms = framed.arrival_ns // _NS_PER_MS
    first_ms = report.span_ms[0] if report.frames else arrival_ms
    report.span_ms = (first_ms, arrival_ms)
    report.frames += 1
    if framed.coin is not None:
        coins = report.ticks.setdefault(framed.channel, {})
        coins[framed.coin] = coins.get(framed.coin, 0) + framed.ticks
        report.uids.setdefault(framed.coin, -1)


# --- the roster ------------------------------------------------------------------------------


def read_meta(path: Path) -> dict[str, int]:
    """Return the venue's ids by coin from a stored `meta`, `metaAndAssetCtxs` or `spotMeta` answer.

    Builder-deployed perps are refused: their ids need the index of their dex, which is not in it.
    """
    try:
        answer = orjson.loads(path.read_bytes())
        universe = (answer[0] if isinstance(answer, list) else answer)["universe"]
        uids = {
            entry["name"]: _SPOT_UID + entry["index"] if "tokens" in entry else index
            for index, entry in enumerate(universe)
        }
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise ImportProblem(f"{path}: expected a meta answer with a universe: {error!r}") from None
    foreign = sorted(name for name in uids if ":" in name)
    if foreign:
        raise ImportProblem(f"{path}: expected the venue's own perps, found {', '.join(foreign)}")
    return uids


def _roster(report: TickReport, given: Mapping[str, int]) -> bytes:
    """Give every coin its id, in order of appearance, and return the roster's frame."""
    taken = set(given.values())
    free = 0
    for coin in report.uids:
        uid = given.get(coin)
        while uid is None:
            uid, free = (None if free in taken else free), free + 1
        report.uids[coin] = uid
    assets = [
        {"uid": uid, "coin": coin, "channels": _channels(coin, report)}
        for coin, uid in sorted(report.uids.items(), key=lambda item: item[1])
    ]
    data = {"from_ms": minute_of(report.span_ms[0]), "assets": assets, "dexes": [""]}
    return orjson.dumps({"channel": "alpha.roster", "data": data})


def _channels(coin: str, report: TickReport) -> list[str]:
    seen = {channel for channel, coins in report.ticks.items() if coin in coins}
    known = [channel for channel in _CHANNEL_ORDER if channel in seen]
    return known + sorted(seen - set(_CHANNEL_ORDER))


# --- writing ---------------------------------------------------------------------------------


def _write(out: Path, roster: bytes, body: IO[bytes]) -> None:
    first_ns = _first_ns(body)
    head = b"%d %b\n" % (first_ns, roster)
    if is_directory(out):
        writer = TickLogWriter(out)
        writer.write_lines(first_ns, head)
        for lines in _blocks(body):
            writer.write_lines(int(lines[: lines.index(b" ")]), lines)
        writer.close()
        return
    with replacing(out) as target:
        target.write(head)
        for lines in _blocks(body):
            target.write(lines)


def _first_ns(body: IO[bytes]) -> int:
    body.seek(0)
    stamp = body.readline().partition(b" ")[0]
    body.seek(0)
    return int(stamp)


def _blocks(body: IO[bytes]) -> Iterator[bytes]:
    """Yield complete lines, about COPY_BYTES at a time."""
    while block := body.read(COPY_BYTES):
        yield block + body.readline()
