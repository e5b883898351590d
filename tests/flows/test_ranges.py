"""A range of minutes: exact where it is read from the start, near where it has a warm-up."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from random import Random

import orjson
import pytest
import yaml
import zstandard
from msgspec.structs import replace

from dataflows.cli.failures import USAGE, Problem
from dataflows.cli.replay_parts import PARTS, Job, replay_parts
from dataflows.connectors.column_files import File
from dataflows.connectors.range_source import state_at
from dataflows.connectors.ticklog import TickLogReader, TickLogWriter
from dataflows.ranges import WARMUP_MS, Part, cut, part_of
from dataflows.replay import MADE_OF, REPLAY, Summary, made_of, noted_rows, replay
from fixtures.market import Episode, FrameOptions, Scenario, default_assets, lines
from operators.feed import IMPLICIT_UID_BASE
from operators.lattice import DAY_MS, HOUR_MS, MINUTE_MS, iso
from packs.loader import Packs, load_packs

ROOT = Path(__file__).parents[2] / "packs"
START_MS = 1_790_031_000_000  # 70 minutes before a midnight
MINUTES = 75
# What a row takes from memory that fades; everything else is a column of its own minutes, of which
# these look back to the last midnight and an hour.
FADING = ("b_", "z_", "q_", "rs_", "is_", "warmup", "universe_rev", "extras", "scale_floored")
LONGER = {"cvd_level", "dfunding_h_1"}
BARS_MS = START_MS // DAY_MS * DAY_MS
WARM = 10  # samples of a baseline; 200 would make long tests


def packs_file(folder: Path) -> Path:
    """Write a feature pack whose baselines are warm soon."""
    pack = yaml.safe_load((ROOT / "features/v1.0.yaml").read_text())
    pack["robust"] |= {"min_samples": WARM, "low_confidence_samples": 2 * WARM}
    path = folder / "features.yaml"
    path.write_bytes(orjson.dumps(pack))  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The feature pack of this module."""
    return packs_file(tmp_path_factory.mktemp("packs"))


@pytest.fixture(scope="module")
def packs(features: Path) -> Packs:
    """The packs of this module."""
    return load_packs(features)


def log_lines() -> list[bytes]:
    """75 minutes of four assets, with an outage and lines that are damaged."""
    assets = default_assets(4)
    coins = [asset.coin for asset in assets]
    episodes = (
        Episode("squeeze", 30, 3, (coins[1],)),
        Episode("feed_outage", 44, 2),
        Episode("basket_shock", 62, 2),
    )
    frames = FrameOptions(quote_ms=(9000, 9000, 9000, 9000), book=False, ctx_ms=15_000)
    found: list[bytes] = []
    for number, line in enumerate(lines(Scenario(11, START_MS, MINUTES, assets, episodes, frames))):
        found.append(line.rstrip(b"\n"))
        if number % 997 == 500:
            found.append((b"nonsense", b"%d {" % int(line[:19]), b"9" * 18 + b" {}")[number % 3])
    return found


def log_of(folder: Path, found: list[bytes]) -> Path:
    """Write lines as a log of some segments."""
    writer, stamp = TickLogWriter(folder, segment_bytes_max=600_000), START_MS * 10**6
    for line in found:
        stamp = int(line[:19]) if line[:19].isdigit() else stamp
        writer.write_lines(stamp, line + b"\n")
    writer.close()
    return folder


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tick log of this module; its one roster is in the first segment."""
    folder = log_of(tmp_path_factory.mktemp("ticks") / "log", log_lines())
    assert len(list(folder.iterdir())) > 3
    return folder


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days of two symbols; the first by name comes an hour after the other."""
    rng, prices = Random(5), [100.0, 7.0]
    found = ["symbol,close_ms,open,high,low,close,volume_quote,trade_count"]
    for minute in range(3 * 1440):
        for k, symbol in enumerate(("BBB", "AAA")):
            if rng.random() < 0.002 or (k == 1 and minute < 60) or 3590 < minute < 3605:
                continue
            burst = rng.random() < 0.01
            before = prices[k]
            prices[k] *= 1 + rng.uniform(-0.001, 0.001) * (5 if burst else 1)
            volume = rng.uniform(20_000, 60_000) * (12 if burst else 1)
            high, low = max(before, prices[k]) * 1.0002, min(before, prices[k]) * 0.9998
            cells = ",".join(f"{cell:.6f}" for cell in (before, high, low, prices[k], volume))
            label = BARS_MS + (minute + 1) * MINUTE_MS
            found.append(f"{symbol},{label},{cells},{rng.randrange(3, 90)}")
            if rng.random() < 0.0005:
                found.append(f"{symbol},{label},nonsense")
    path = tmp_path_factory.mktemp("bars") / "bars.csv"
    path.write_text("\n".join(found) + "\n")
    return path


@pytest.fixture(scope="module")
def whole_log(log: Path, packs: Packs, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """The whole log, replayed."""
    return replay(log, tmp_path_factory.mktemp("whole-log"), packs)


@pytest.fixture(scope="module")
def whole_bars(bars: Path, packs: Packs, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """All bars, replayed."""
    return replay(bars, tmp_path_factory.mktemp("whole-bars"), packs, bars=True)


def bytes_of(summary: Summary) -> dict[str, bytes]:
    """Return the products."""
    return {name: Path(made.path).read_bytes() for name, made in summary.products.items()}


def within(summary: Summary, from_ms: int, to_ms: int) -> dict[str, bytes]:
    """Return what a replay says of the minutes of a range."""
    found = {}
    for name, data in bytes_of(summary).items():
        own = [
            line
            for line in data.splitlines(keepends=True)
            if iso(from_ms) < orjson.loads(line)["exchange_ts"] <= iso(to_ms)
        ]
        found[name] = b"".join(own)
    return found


# --- what is written -----------------------------------------------------------------------------


@pytest.mark.engine
def test_differential_a_range_read_from_the_start_is_exact(
    log: Path, bars: Path, whole_log: Summary, whole_bars: Summary, packs: Packs, tmp_path: Path
) -> None:
    """Byte for byte what the whole replay says of these minutes, of ticks and of bars."""
    from_ms, to_ms = START_MS + 20 * MINUTE_MS, START_MS + 61 * MINUTE_MS
    part = part_of(from_ms, to_ms, HOUR_MS, START_MS)
    ran = replay(log, tmp_path / "a", packs, part=part)
    assert ran.range is not None
    assert not ran.range["approximate"]
    assert bytes_of(ran) == within(whole_log, from_ms, to_ms)
    assert ran.products["events"].count > 0
    assert ran.products["rows"].count == 4 * (41 + 2 + 1)  # 1m, 15m, 1h

    from_ms = BARS_MS + 2 * DAY_MS
    to_ms = from_ms + 720 * MINUTE_MS + 17_000  # in the middle of a minute, in a hole of the file
    ran = replay(bars, tmp_path / "b", packs, bars=True, part=Part(from_ms, to_ms))
    assert bytes_of(ran) == within(whole_bars, from_ms, to_ms)
    assert not (tmp_path / "b" / MADE_OF).exists()


@pytest.mark.engine
def test_differential_where_reading_begins_depends_on_the_lines_alone(
    log: Path, whole_log: Summary, packs: Packs, tmp_path: Path
) -> None:
    """The same bytes and counts from segments and from one file, in chunks of any size."""
    from_ms, to_ms = START_MS + 52 * MINUTE_MS, START_MS + 70 * MINUTE_MS
    part = part_of(from_ms, to_ms, 17 * MINUTE_MS + 333, START_MS)
    assert not part.exact
    first = replay(log, tmp_path / "a", packs, part=part)
    with TickLogReader(log) as reader:
        data = reader.read_block(10**9)
    one = tmp_path / "log.zst"
    one.write_bytes(zstandard.compress(data))
    for number, (source, chunk) in enumerate([(log, 7), (one, 2000), (one, 333)]):
        ran = replay(source, tmp_path / str(number), packs, part=part, chunk=chunk)
        assert bytes_of(ran) == bytes_of(first)
        assert ran.dropped == first.dropped
    assert first.products["rows"].count == 4 * (18 + 2 + 1)  # 1m, 15m, 1h
    pairs = zip(
        within(whole_log, from_ms, to_ms)["rows"].splitlines(),
        bytes_of(first)["rows"].splitlines(),
        strict=True,
    )
    for one, other in ((orjson.loads(a), orjson.loads(b)) for a, b in pairs):
        if one["tf"] == "1m":
            unequal = {name for name in one if one[name] != other[name]}
            assert {name for name in unequal if not name.startswith(FADING)} <= LONGER


@pytest.mark.engine
def test_a_log_without_a_roster_keeps_its_ids(packs: Packs, tmp_path: Path) -> None:
    """Ids are given in order of appearance, before the warm-up too."""
    found = [line for line in log_lines() if b"alpha.roster" not in line]
    source = log_of(tmp_path / "log", found)
    state = state_at(source, packs.features, START_MS + 40 * MINUTE_MS)
    whole = replay(source, tmp_path / "whole", packs)
    rows = [orjson.loads(line) for line in bytes_of(whole)["rows"].splitlines()]
    ids = {row["symbol"]: row["asset_uid"] for row in rows}
    assert {asset.symbol: asset.asset_uid for asset in state.feed.roster} == ids
    assert min(ids.values()) == IMPLICIT_UID_BASE


@pytest.mark.engine
def test_a_damaged_stamp_begins_nothing(packs: Packs, tmp_path: Path) -> None:
    """A line of the next year, alone, is passed over; a gap that is open there is known."""
    frame = b'{"channel":"pong"}'
    roster = b'{"channel":"alpha.roster","data":{"from_ms":60000,"assets":[{"uid":3,"coin":"X"}]}}'
    gap = b'{"channel":"alpha.gap","data":{"start_ms":%d,"cause":"lost"}}' % START_MS
    stamps = [START_MS + k * 1000 for k in range(10)]
    frames = [roster, gap, *[frame] * 8]
    found = [b"%d000000 %b" % pair for pair in zip(stamps, frames, strict=True)]
    found.insert(4, b"%d000000 %b" % (START_MS + 300 * DAY_MS, frame))
    source = tmp_path / "log"
    source.write_bytes(b"\n".join(found) + b"\n")
    state = state_at(source, packs.features, stamps[6])
    with TickLogReader(source, state.position) as reader:
        assert reader.read(1) == [found[7]]
    assert [asset.asset_uid for _, roster in state.feed.rosters_ahead for asset in roster] == [3]
    assert [hole.cause for hole in state.feed.holes] == ["lost"]
    assert state.feed.counts == {}


# --- how near ------------------------------------------------------------------------------------


def differences(whole: bytes, part: bytes, prefix: str) -> list[tuple[object, object]]:
    """Return the pairs of unequal values of 1m rows, of the columns whose names begin so."""
    pairs = zip(whole.splitlines(), part.splitlines(), strict=True)
    rows = [(orjson.loads(a), orjson.loads(b)) for a, b in pairs]
    return [
        (one[name], other[name])
        for one, other in rows
        for name in one
        if one["tf"] == "1m" and name.startswith(prefix) and one[name] != other[name]
    ]


def largest(pairs: list[tuple[object, object]]) -> float:
    """Return the largest difference."""
    found = 0.0
    for one, other in pairs:
        assert isinstance(one, float)
        assert isinstance(other, float)
        found = max(found, abs(one - other))
    return found


@pytest.mark.engine
def test_a_warmup_brings_a_range_near_and_a_longer_one_nearer(
    bars: Path, whole_bars: Summary, packs: Packs, tmp_path: Path
) -> None:
    """Columns of a minute's own data are equal; baselines are as near as their memory is long."""
    from_ms, to_ms = BARS_MS + 2 * DAY_MS, BARS_MS + 3 * DAY_MS
    expected = within(whole_bars, from_ms, to_ms)
    sigmas = []
    for hours in (6, 24):
        part = part_of(from_ms, to_ms, hours * HOUR_MS, BARS_MS)
        assert not part.exact
        ran = bytes_of(replay(bars, tmp_path / str(hours), packs, bars=True, part=part))
        names = orjson.loads(ran["rows"].splitlines()[0])
        own = [name for name in names if not name.startswith(FADING)]
        assert {"ret_m_5", "v_total_m_1", "asset_uid", "dq_status"} <= set(own)
        pairs = zip(expected["rows"].splitlines(), ran["rows"].splitlines(), strict=True)
        for one, other in ((orjson.loads(a), orjson.loads(b)) for a, b in pairs):
            assert {name: one.get(name) for name in own} == {name: other.get(name) for name in own}
        sigmas.append(largest(differences(expected["rows"], ran["rows"], "z_vol_m_1")))
    assert 0 < sigmas[1] < sigmas[0] / 2 < 1
    said = [
        {orjson.loads(x)["event_id"] for x in e["events"].splitlines()} for e in (expected, ran)
    ]
    assert said[0]
    assert len(said[0] ^ said[1]) <= 0.1 * len(said[0])


# --- in parts ------------------------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["bars", "log"])
def test_parts_are_joined_in_order(
    request: pytest.FixtureRequest, kind: str, features: Path, packs: Packs, tmp_path: Path
) -> None:
    """The files are those of the parts, one after the other, and each bad line counts once."""
    source: Path = request.getfixturevalue(kind)
    whole: Summary = request.getfixturevalue(f"whole_{kind}")
    if kind == "bars":
        parts = cut(Part(), 2, 6 * HOUR_MS, BARS_MS, BARS_MS + 3 * DAY_MS)
    else:
        end_ms = START_MS + MINUTES * MINUTE_MS
        parts = cut(Part(), 2, 5 * MINUTE_MS, START_MS, end_ms)
    assert [part.exact for part in parts] == [True, False]
    reached: list[int] = []
    job = Job(source, features, None, None, kind == "bars", 20, REPLAY)
    joined = replay_parts(job, tmp_path, parts, lambda part, _: reached.append(part))
    assert set(reached) == {0, 1}
    cut_ms = parts[0].to_ms
    assert cut_ms is not None
    first = within(whole, 0, cut_ms)
    second = bytes_of(replay(source, tmp_path / "b", packs, bars=kind == "bars", part=parts[1]))
    assert bytes_of(joined) == {name: first[name] + second[name] for name in first}
    assert joined.products["rows"].count == whole.products["rows"].count
    assert joined.dropped == whole.dropped
    assert joined.range is not None
    assert joined.range["approximate"]
    assert not (tmp_path / PARTS).exists()
    assert not (tmp_path / MADE_OF).exists()


@pytest.mark.engine
def test_parts_that_are_all_exact_note_their_rows(
    features: Path, packs: Packs, bars: Path, tmp_path: Path
) -> None:
    """Those of the whole, not of the first part alone."""
    cut_ms = BARS_MS + DAY_MS
    job = Job(bars, features, None, None, True, 20, REPLAY)
    joined = replay_parts(job, tmp_path, [Part(None, cut_ms), Part(cut_ms)], lambda *_: None)
    rows = tmp_path / "rows.ndjson"
    noted = noted_rows(tmp_path)
    assert noted == replace(
        made_of(packs), rows=File(rows.name, rows.stat().st_size, joined.products["rows"].sha256)
    )
    assert sha256(rows.read_bytes()).hexdigest() == joined.products["rows"].sha256


@pytest.mark.engine
def test_a_part_that_fails_fails_the_whole(bars: Path, tmp_path: Path) -> None:
    """With its message and code, and nothing is left of the others."""
    gone = Job(bars, tmp_path / "gone.yaml", None, None, True, 20, REPLAY)
    parts = [Part(None, BARS_MS + DAY_MS), Part(BARS_MS + DAY_MS, None, BARS_MS + HOUR_MS)]
    with pytest.raises(Problem, match=r"(?s)part [12] of 2, .*gone\.yaml") as caught:
        replay_parts(gone, tmp_path / "out", parts, lambda part, reached_ms: None)
    assert caught.value.code == USAGE
    assert list((tmp_path / "out").iterdir()) == []


# --- cutting -------------------------------------------------------------------------------------

DAY0 = 20_000 * DAY_MS


def days(parts: list[Part]) -> list[tuple[float | None, ...]]:
    """Return parts in days after DAY0."""
    return [
        tuple(
            None if at is None else (at - DAY0) / DAY_MS for at in (p.from_ms, p.to_ms, p.begin_ms)
        )
        for p in parts
    ]


def test_parts_are_even_in_what_they_read() -> None:
    """Cut at midnights; the first has no warm-up, so it is longer."""
    parts = cut(Part(), 2, 8 * DAY_MS, DAY0, DAY0 + 30 * DAY_MS)
    assert days(parts) == [(None, 19, None), (19, None, 11)]
    parts = cut(Part(None, DAY0 + 30 * DAY_MS), 3, 0, DAY0, DAY0 + 90 * DAY_MS)
    assert days(parts) == [(None, 10, None), (10, 20, 10), (20, 30, 20)]


def test_a_short_range_is_cut_at_full_hours() -> None:
    """Where a midnight does not help."""
    parts = cut(Part(), 2, HOUR_MS, DAY0 + HOUR_MS, DAY0 + 6 * HOUR_MS)
    assert days(parts) == [(None, 4 / 24, None), (4 / 24, None, 3 / 24)]


def test_the_default_warmup_suits_the_shipped_pack() -> None:
    """As long as the medians of the gates look back, and baselines of hours need to be warm."""
    pack = load_packs().features
    assert (pack.illiquidity.median_days + 1) * DAY_MS <= WARMUP_MS
    assert (pack.robust.min_samples + 1) * HOUR_MS <= WARMUP_MS


def test_a_part_that_saves_no_time_is_not_made() -> None:
    """With a warm-up back to the start, every part would read everything."""
    assert cut(Part(), 4, 8 * DAY_MS, DAY0, DAY0 + 8 * DAY_MS) == [Part()]
    start_ms = DAY0 + 5 * DAY_MS
    ten = part_of(start_ms, start_ms + DAY_MS, 60 * DAY_MS, DAY0)
    assert cut(ten, 4, 60 * DAY_MS, DAY0, DAY0 + 9 * DAY_MS) == [ten]


@pytest.mark.parametrize("jobs", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("warmup_ms", [0, HOUR_MS, 3 * DAY_MS])
@pytest.mark.parametrize(
    "ranged", [(None, None), (DAY0 + 7_000, DAY0 + 9 * DAY_MS + 1), (None, DAY0)]
)
def test_parts_are_the_range(
    jobs: int, warmup_ms: int, ranged: tuple[int | None, int | None]
) -> None:
    """They follow each other, each with its warm-up, and none is empty."""
    first_ms = DAY0 - 5 * HOUR_MS
    whole = part_of(*ranged, warmup_ms, first_ms)
    parts = cut(whole, jobs, warmup_ms, first_ms, DAY0 + 10 * DAY_MS)
    assert 1 <= len(parts) <= jobs
    assert (parts[0].from_ms, parts[-1].to_ms) == ranged
    for before, after in pairwise(parts):
        assert before.to_ms == after.from_ms
        assert after.from_ms is not None
        assert after.from_ms % HOUR_MS == 0
        assert after.begin_ms in (None, after.from_ms - warmup_ms)
