"""A trial of a pack says, byte for byte, what a replay with the pack says."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import orjson
import pytest
import yaml

import dataflows.connectors.rows_table as rows_table_module
from dataflows.calibration import Rates
from dataflows.connectors.rows_table import FOLDER, ROWS, TableError, row_of
from dataflows.connectors.ticklog import TickLogWriter
from dataflows.replay import MADE_OF, product_path, replay
from dataflows.trial import PRODUCTS, Tried, assert_fitting, count_rows, rows_table, trial
from fixtures.market import Episode, FrameOptions, Scenario, default_assets, lines
from operators.lattice import MINUTE_MS
from packs.loader import Packs, load_packs

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2] / "packs"
START_MS = 1_790_020_800_000  # a full hour
WARM = 20  # samples of a baseline; 200 would make long tests


def written(path: Path, pack: Any) -> Path:
    """Write a pack and return where."""
    path.write_bytes(orjson.dumps(pack))  # JSON is YAML
    return path


def read(name: str) -> Any:
    """Return a shipped pack as it is written."""
    return yaml.safe_load((ROOT / name).read_text())


def same_rows() -> Any:
    """v0.2 with other thresholds, weights, cooldowns and tiers: no row changes."""
    pack = read("detectors/v0.2.yaml")
    pack["scoring"]["level_shift_bars"] = 3
    pack["overrides"]["tiers"]["top"]["spike"]["threshold"] = 1.2
    for defaults in pack["class_defaults"].values():
        defaults |= {"publish_threshold": 30, "cooldown_sec": 60}
    for detector in pack["detectors"]:
        detector.pop("examples")
        if detector["id"] == "spike.vol_spike_m_1":
            detector["threshold"] = 1.5
        if detector["id"].startswith("spike.price"):
            detector["trigger"] = detector["trigger"].replace("2.5", "1.25")
        if detector["id"] == "spike.price_spike_down_m_1":
            detector["mode"] = "shadow"
    return pack


def odd() -> Any:
    """The same with detectors of every kind: other timeframes, frame columns, flags, failures."""
    pack = same_rows()
    z = {"inputs": ["z_vol_m_1", "ret_m_1"], "primary": "z_vol_m_1", "secondary": "0"}
    pack["detectors"] += [
        {"id": "spike.longer", "trigger": "z_vol_m_1 > 1 || ret_m_1 > 0.001", **z}
        | {"tfs": ["1m", "15m", "1h"]},
        {"id": "shift.of_frame", "trigger": "z_vol_m_1 >= 1 && dominance_share >= 0.2", **z},
        {"id": "shift.of_flag", "trigger": "is_vol_spike_m_1 && !(ret_m_1 >= 0)", **z},
        {"id": "spike.ratio", "trigger": "z_vol_m_1 / ret_m_1 > 900 && sign(ret_m_1) < 2", **z},
        {"id": "spike.least", "trigger": "min(z_vol_m_1, abs(ret_m_1) * 900) >= 1", **z},
    ]
    return pack


def crowded() -> Any:
    """A universe that is smaller than the market, with sectors, that heats up soon."""
    policy = read("universe/rev17.yaml")
    policy |= {"n_base": 4, "freeze_min": 1, "min_dwell_min": 3, "l1_min": 10}
    policy["entry_band"] = {"n_entry": 3, "k_entry": 2}
    policy["exit_band"] = {"n_exit": 5, "k_exit": 2}
    policy["min_assets_for_context"] = 2
    policy["sectors"] = {"one": ["A0", "A3", "A5"], "two": ["A1", "A2", "A7", "A8"]}
    policy["majors"] = ["A0"]
    policy["hotlist"] |= {"s_hot": 35, "ttl_base_min": 2, "ttl_k_min_per_point": 0.05}
    return policy


def quick() -> Any:
    """The feature pack with baselines that are soon warm."""
    pack = read("features/v1.0.yaml")
    pack["robust"]["min_samples"] = WARM
    return pack


DETECTORS: dict[str, Callable[[], Any]] = {
    "v0.1": lambda: read("detectors/v0.1.yaml"),
    "v0.2": lambda: read("detectors/v0.2.yaml"),
    "same_rows": same_rows,
    "odd": odd,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack files of this module."""
    folder = tmp_path_factory.mktemp("packs")
    for name, made in DETECTORS.items():
        written(folder / f"{name}.yaml", made())
    written(folder / "universe.yaml", crowded())
    written(folder / "features.yaml", quick())
    return folder


def packs_of(files: Path, name: str, *, universe: bool = True) -> Packs:
    """Return packs of the module."""
    policy = files / "universe.yaml" if universe else None
    return load_packs(files / "features.yaml", files / f"{name}.yaml", policy)


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine assets over three hours, with bursts, an asset that never calms down, and holes."""
    rng, found = Random(5), ["symbol,close_ms,open,high,low,close,volume_quote,trade_count"]
    prices = [100.0 + 7 * k for k in range(9)]
    for minute in range(185):
        common = 0.01 if minute in (60, 61, 120, 150) else 0.0
        for k in range(9):
            if rng.random() < 0.01 or (k == 8 and minute < 40):
                continue
            burst = rng.random() < 0.06 or common or (k == 3 and 90 < minute < 130)
            move = rng.uniform(-0.002, 0.002) * (4 if burst else 1) + common * rng.random()
            before, prices[k] = prices[k], prices[k] * (1 + move)
            volume = rng.uniform(20_000, 60_000) * (12 if burst else 1) * (k + 1)
            high, low = max(before, prices[k]) * 1.0005, min(before, prices[k]) * 0.9995
            cells = (before, high, low, prices[k], volume)
            text = ",".join(f"{cell:.6f}" for cell in cells)
            found.append(
                f"A{k},{START_MS + (minute + 1) * MINUTE_MS},{text},{rng.randrange(3, 90)}"
            )
    path = tmp_path_factory.mktemp("bars") / "bars.csv"
    path.write_text("\n".join(found) + "\n")
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tick log of five assets over 75 minutes, with episodes."""
    assets = default_assets(5)
    coins = [asset.coin for asset in assets]
    episodes = (
        Episode("squeeze", 30, 3, (coins[1],)),
        Episode("basket_shock", 36, 2),
        Episode("feed_outage", 44, 2),
        Episode("trend_build", 52, 6, (coins[2],)),
        Episode("spread_stress", 60, 3, (coins[3],)),
    )
    frames = FrameOptions(quote_ms=(9000, 9000, 9000, 9000), book=False, ctx_ms=15_000)
    path = tmp_path_factory.mktemp("ticks") / "log"
    writer = TickLogWriter(path, segment_bytes_max=4 << 20)
    scenario = Scenario(11, START_MS, 75, assets, episodes, frames)
    for arrival_ns, line in sorted(map(late, lines(scenario)), key=lambda pair: pair[0]):
        writer.write_lines(arrival_ns, line)
    writer.close()
    return path


def late(line: bytes) -> tuple[int, bytes]:
    """Return a line and its arrival, prints of the end of a minute after its seal."""
    stamp, frame = line.split(b" ", 1)
    arrival_ns = int(stamp)
    if b'"trades"' in frame and arrival_ns // 10**6 % MINUTE_MS > 59_300:
        arrival_ns += 2_200 * 10**6
    return arrival_ns, b"%d %s" % (arrival_ns, frame)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return what a run wrote, of what a trial makes."""
    return {name: product_path(folder, name).read_bytes() for name in PRODUCTS}


def tried(rows: Path, out: Path, packs: Packs) -> Tried:
    """Try a pack on the rows of a directory."""
    assert_fitting(rows, [packs])
    return trial(rows, out, packs, rows_table(rows, packs))


@pytest.mark.parametrize("universe", [False, True], ids=["all", "crowded"])
@pytest.mark.parametrize("name", DETECTORS)
def test_differential_a_trial_on_bars_is_a_replay(
    name: str, universe: bool, files: Path, bars: Path, tmp_path: Path
) -> None:
    """Frames, events, shadow events and suppressions; with hot assets that are no members, sectors,
    muted detectors, tiers and other timeframes."""
    packs = packs_of(files, name, universe=universe)
    summary = replay(bars, tmp_path / "rows", packs, bars=True)
    found = tried(tmp_path / "rows", tmp_path / "out", packs)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "rows")
    for product in PRODUCTS:
        assert found.products[product].sha256 == summary.products[product].sha256
    assert found.products["events"].count > 5
    assert found.rows == summary.products["rows"].count
    assert found.looked_at < found.rows
    assert sum(found.suppressed.values()) == found.products["suppressed"].count


@pytest.mark.parametrize("name", ["v0.2", "odd"])
def test_differential_a_trial_on_ticks_is_a_replay(
    name: str, files: Path, log: Path, tmp_path: Path
) -> None:
    """With amended minutes, holes, open interest and spreads."""
    packs = packs_of(files, name, universe=False)
    replay(log, tmp_path / "rows", packs)
    found = tried(tmp_path / "rows", tmp_path / "out", packs)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "rows")
    assert found.products["events"].count > 3


def test_differential_the_rows_of_one_pack_serve_another(
    files: Path, bars: Path, tmp_path: Path
) -> None:
    """Thresholds, weights and modes change no row, and another universe changes none either."""
    other = packs_of(files, "same_rows")
    replay(bars, tmp_path / "rows", packs_of(files, "v0.2", universe=False), bars=True)
    replay(bars, tmp_path / "wanted", other, bars=True)
    found = tried(tmp_path / "rows", tmp_path / "out", other)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "wanted")
    assert found.products["shadow"].count > 0
    closed = [
        note
        for note in product_path(tmp_path / "out", "suppressed").read_bytes().splitlines()
        if orjson.loads(note)["state"] == "closed"
    ]
    assert closed, "no detector was muted and let go"


def test_amended_minutes_are_among_the_rows(files: Path, log: Path, tmp_path: Path) -> None:
    """Or the test above would not know them."""
    replay(log, tmp_path / "rows", packs_of(files, "v0.2", universe=False))
    rows = [orjson.loads(line) for line in (tmp_path / "rows" / ROWS).read_bytes().splitlines()]
    assert any(row["revision"] and row["tf"] == "1m" for row in rows)


@pytest.fixture(scope="module")
def rows(files: Path, bars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of v0.2."""
    folder = tmp_path_factory.mktemp("rows") / "rows"
    replay(bars, folder, packs_of(files, "v0.2"), bars=True)
    return folder


def test_columns_are_made_once_and_again_when_the_rows_are_others(
    rows: Path, files: Path, tmp_path: Path
) -> None:
    """Another time of change alone is no reason; another byte is."""
    folder, packs = tmp_path / "rows", packs_of(files, "v0.2")
    shutil.copytree(rows, folder)
    (folder / MADE_OF).unlink()  # it would say which rows are wanted
    made: list[int] = []

    def count(label: int, n_rows: int) -> None:
        made.append(n_rows)

    rows_table(folder, packs, count)
    whole = sum(made)
    assert whole == (folder / ROWS).read_bytes().count(b"\n")
    rows_table(folder, packs, count)
    os.utime(folder / ROWS, ns=(1, 1))
    rows_table(folder, packs, count)
    assert sum(made) == whole
    text = (folder / ROWS).read_bytes()
    (folder / ROWS).write_bytes(text.replace(b'"v_total_m_1":2', b'"v_total_m_1":3', 1))
    rows_table(folder, packs, count)
    assert sum(made) == 2 * whole
    rows_table(folder, packs_of(files, "v0.2", universe=False), count)
    assert sum(made) == 3 * whole
    (folder / FOLDER / "stamp.json").write_text("{")
    rows_table(folder, packs, count)
    assert sum(made) == 4 * whole


@pytest.fixture
def own(rows: Path, files: Path, tmp_path: Path) -> Path:
    """A directory of rows with its table, that a test may spoil."""
    shutil.copytree(rows, tmp_path / "own", ignore=shutil.ignore_patterns(FOLDER))
    rows_table(tmp_path / "own", packs_of(files, "v0.2"))
    return tmp_path / "own"


def flipped(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def halved(path: Path) -> None:
    """Cut a file in the middle."""
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("name", ["rows.arrow", "phases.msgpack"])
@pytest.mark.parametrize("spoil", [flipped, halved, Path.unlink])
def test_a_table_that_is_not_as_it_was_written_is_made_anew(
    own: Path, files: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    """One sentence names the file; the table is the same bytes again, and nothing is said then."""
    path, packs, said = own / FOLDER / name, packs_of(files, "v0.2"), list[str]()
    before = path.read_bytes()
    spoil(path)
    table = rows_table(own, packs, say=said.append)
    verdict = f"{name} is {'gone' if spoil is Path.unlink else 'damaged'}"
    assert said == [f"{own / FOLDER}: not used: {verdict}; it is made anew"]
    assert path.read_bytes() == before
    assert sum(entry.count for entry in table.phases) == (own / ROWS).read_bytes().count(b"\n")
    rows_table(own, packs, say=said.append)
    assert len(said) == 1


def test_a_table_of_another_program_or_pack_is_made_anew(
    own: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text that made it, the feature pack, the universe policy; a damaged stamp, and none."""
    packs, said = packs_of(files, "v0.2"), list[str]()
    monkeypatch.setattr(rows_table_module, "program", lambda: "another")
    rows_table(own, packs, say=said.append)
    rows_table(own, packs_of(files, "v0.2", universe=False), say=said.append)
    shipped = load_packs(detectors=files / "v0.2.yaml")
    rows_table(own, shipped, say=said.append)
    stamp = own / FOLDER / "stamp.json"
    stamp.write_bytes(stamp.read_bytes().replace(b'"files"', b'"fhles"'))
    rows_table(own, shipped, say=said.append)
    stamp.unlink()
    rows_table(own, shipped, say=said.append)
    reasons = [line.split(": not used: ")[1].split(";")[0] for line in said]
    assert reasons == [
        "another version of this program made it",
        "it is of another universe policy",
        "it is of another feature pack",
        "stamp.json is damaged",
        "it was not finished, or another version made it",
    ]


def test_nothing_is_left_of_a_table_that_was_interrupted(own: Path, files: Path) -> None:
    """The next run begins anew, and has no more to say."""
    shutil.rmtree(own / FOLDER)

    def interrupt(label: int, n_rows: int) -> None:
        raise KeyboardInterrupt

    packs, said = packs_of(files, "v0.2"), list[str]()
    with pytest.raises(KeyboardInterrupt):
        rows_table(own, packs, interrupt)
    assert not (own / FOLDER).exists()
    rows_table(own, packs, say=said.append)
    assert not said


def test_one_table_is_made_at_a_time(own: Path, files: Path) -> None:
    """Whoever comes second says that it waits, and finds the table of the first."""
    shutil.rmtree(own / FOLDER)
    packs, made, said = packs_of(files, "v0.2"), list[int](), list[str]()
    waits = Event()

    def wait_for_the_second(label: int, n_rows: int) -> None:
        assert waits.wait(30)

    def say(line: str) -> None:
        said.append(line)
        waits.set()

    with ThreadPoolExecutor() as pool:
        first = pool.submit(rows_table, own, packs, wait_for_the_second)
        while not (own / FOLDER).exists():
            assert not first.done(), first.result()
        rows_table(own, packs, lambda label, n_rows: made.append(n_rows), say)
        assert first.result().phases
    assert not made
    assert said == [f"{own / FOLDER}: waiting for another trial that makes or checks it"]


def test_rows_of_another_replay_are_refused(own: Path, files: Path) -> None:
    """Cut at the end of a line, or other bytes, with a table and without; not what an older
    release wrote, which does not say what they were."""
    packs, text = packs_of(files, "v0.2"), (own / ROWS).read_bytes()
    lines = text.splitlines(keepends=True)
    (own / ROWS).write_bytes(b"".join(lines[:100]))
    with pytest.raises(TableError, match=rf"expected {len(text):,} bytes .* found "):
        assert_fitting(own, [packs])
    other = text.replace(b'"v_total_m_1":2', b'"v_total_m_1":3', 1)
    (own / ROWS).write_bytes(other)
    assert_fitting(own, [packs])
    for _ in range(2):
        with pytest.raises(TableError, match="SHA-256") as caught:
            rows_table(own, packs)
        for content in (text, other):
            assert sha256(content).hexdigest() in str(caught.value)
        shutil.rmtree(own / FOLDER, ignore_errors=True)
    noted = orjson.loads((own / MADE_OF).read_bytes())
    del noted["rows"]
    (own / MADE_OF).write_bytes(orjson.dumps(noted))
    assert_fitting(own, [packs])
    rows_table(own, packs)
    (own / ROWS).write_bytes(text)
    (own / MADE_OF).write_bytes((own / MADE_OF).read_bytes()[:-20])
    with pytest.raises(TableError, match=MADE_OF):
        assert_fitting(own, [packs])


def test_a_table_of_other_rows_than_the_replay_s_is_not_used(own: Path, files: Path) -> None:
    """Though they have the size and the time of those it was made of."""
    noted = orjson.loads((own / MADE_OF).read_bytes())
    noted["rows"]["sha256"] = "0" * 64
    (own / MADE_OF).write_bytes(orjson.dumps(noted))
    with pytest.raises(TableError, match="SHA-256 000"):
        rows_table(own, packs_of(files, "v0.2"))


def twice(line: bytes) -> bytes:
    """Put a line there once more."""
    return line + line


MALFORMED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "text": (lambda line: line.replace(b'"ret_m_1":', b'"ret_m_1":"abc","ret_m_":'), "ret_m_1"),
    "tf": (lambda line: line.replace(b'"tf":"1m"', b'"tf":"7m"'), "'7m'"),
    "no lag": (lambda line: line.replace(b'"ingest_lag_ms"', b'"lag"'), "`ingest_lag_ms`"),
    "no tf": (lambda line: line.replace(b'"tf"', b'"ft"'), "`tf`"),
    "no column": (lambda line: line.replace(b'"oi_close"', b'"oi"'), "`oi_close`"),
    "null": (lambda line: line.replace(b'"rs_score_m_5":', b'"rs_score_m_5":null,"x":'), "rs_sc"),
    "array": (lambda line: b"[1]\n", "array"),
    "no JSON": (lambda line: line[:100] + b"\n", "expected a feature row"),
    "time": (lambda line: line.replace(b':00Z","extras', b':07Z","extras'), "exchange_ts"),
    "date": (lambda line: line.replace(b'"exchange_ts":"2026-0', b'"exchange_ts":"2026-9'), "mon"),
    "asset": (lambda line: line.replace(b'"asset_uid":', b'"asset_uid":-'), "asset_uid"),
    "large": (lambda line: line.replace(b'"close":', b'"close":1152921504606846976,"x":'), "1152"),
    "twice": (twice, "a second 1m row of asset"),
    "amended": (lambda line: line.replace(b'"revision":0', b'"revision":1'), "no first of"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_row_is_one_message(rows: Path, files: Path, tmp_path: Path, name: str) -> None:
    """With the place of the line; nothing of the table is left."""
    spoil, words = MALFORMED[name]
    lines = (rows / ROWS).read_bytes().splitlines(keepends=True)
    number = next(k for k, line in enumerate(lines) if k > 20 and b'"asset_uid":1,' in line)
    number = 0 if name in ("amended", "large") else number
    before = sum(map(len, lines[:number])) + (len(lines[number]) if name == "twice" else 0)
    lines[number] = spoil(lines[number])
    (tmp_path / ROWS).write_bytes(b"".join(lines))
    with pytest.raises(TableError, match=f"{ROWS}: byte {before}: ") as caught:
        rows_table(tmp_path, packs_of(files, "v0.2"))
    assert words in str(caught.value)
    assert not (tmp_path / FOLDER).exists()


def test_rows_that_are_not_of_one_replay_are_one_message(
    rows: Path, files: Path, tmp_path: Path
) -> None:
    """Two files in one, and one that ends in a line."""
    text, packs = (rows / ROWS).read_bytes(), packs_of(files, "v0.2")
    (tmp_path / ROWS).write_bytes(text + text)
    with pytest.raises(TableError, match=f"byte {len(text)}: expected rows after those of 2026-"):
        rows_table(tmp_path, packs)
    last = text[:-1].rindex(b"\n") + 1
    (tmp_path / ROWS).write_bytes(text[:-1])
    with pytest.raises(TableError, match=f"byte {last}: expected a whole line"):
        rows_table(tmp_path, packs)


def test_rows_that_do_not_fit_are_refused_with_every_reason(rows: Path, files: Path) -> None:
    """The baselines that `warmup` waits for, and the feature pack."""
    assert_fitting(rows, [packs_of(files, "same_rows")])
    shipped = load_packs(detectors=files / "v0.1.yaml")
    with pytest.raises(TableError) as caught:
        assert_fitting(rows, [packs_of(files, "odd"), shipped])
    message = str(caught.value)
    assert message.count("\n") == 4
    for part in (
        "15m rows must be warm in vol",
        "these were in nothing",
        "1h rows",
        "another feature",
    ):
        assert part in message


def test_a_directory_without_a_replay_is_refused(files: Path, tmp_path: Path) -> None:
    """Nothing there, rows of a run that did not end, no rows at all."""
    packs = packs_of(files, "v0.2")
    with pytest.raises(TableError, match=MADE_OF):
        assert_fitting(tmp_path, [packs])
    with pytest.raises(TableError, match="no rows"):
        rows_table(tmp_path, packs)
    (tmp_path / ROWS).write_bytes(b'{"asset_uid":1}\n')
    with pytest.raises(TableError, match="byte 0: expected a feature row"):
        rows_table(tmp_path, packs)
    with pytest.raises(TableError, match="byte 0"):
        rows_table(tmp_path, packs)  # half a table is none


def test_the_time_that_was_covered_is_that_of_the_rows(rows: Path, files: Path) -> None:
    """As if each row had been handed over."""
    table = rows_table(rows, packs_of(files, "v0.2"))
    at_once, one_by_one = Rates(), Rates()
    count_rows(at_once, table)
    for line in (rows / ROWS).read_bytes().splitlines():
        one_by_one.add_row(row_of(line))
    assert at_once.figures() == one_by_one.figures()
