"""Golden minutes: frozen windows of market, what they say in words, and their exact products.

`pytest tests/golden --update-golden` rewrites the expected texts and the manifest; the review is
their diff (docs/golden.md).
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from dataflows.replay import product_path, replay
from dataflows.version import PRODUCER
from fixtures.golden_windows import frozen, make
from fixtures.golden_windows.__main__ import main
from fixtures.golden_windows.frozen import FormatError, Frozen, freeze, thaw
from fixtures.golden_windows.make import (
    AMENDED_MINUTE,
    GOLDEN,
    LATE_MINUTE,
    MANIFEST,
    UPDATE,
    bars_path,
    expected_path,
    frozen_files,
    manifest,
    packs_of,
    state_path,
    write_manifest,
)
from fixtures.golden_windows.play import Outcome, play, text_of
from fixtures.golden_windows.windows import ALL, CALM, PACKS, Recording, Window
from fixtures.market import MINUTE_MS, lines
from operators.lattice import iso
from operators.records import MARKET_SYMBOL, Row
from operators.verdicts import DQ_OK, DQ_STALE

ROOT = Path(__file__).parents[2]
RUNS = [(name, run) for name, window in ALL.items() for run in window.runs]
DIFF_LINES = 60

outcome_of = cache(lambda name, run: play(ALL[name], run))


@pytest.mark.parametrize(("name", "run"), RUNS)
def test_a_window_gives_what_is_expected(name: str, run: str, update_golden: bool) -> None:
    """Events and verdicts are pinned as text, all products by the digest of their bytes."""
    path = expected_path(ALL[name], run)
    found = text_of(outcome_of(name, run), ALL[name])
    if update_golden:
        path.write_text(found)
    expected = path.read_text() if path.exists() else ""
    if found != expected:
        pytest.fail(f"{shown_diff(expected, found)}\nif that is right: {UPDATE}", pytrace=False)


def shown_diff(expected: str, found: str) -> str:
    """Return the first lines of a diff."""
    diff = list(
        difflib.unified_diff(
            expected.splitlines(), found.splitlines(), "expected", "found", n=1, lineterm=""
        )
    )
    more = [f"... and {len(diff) - DIFF_LINES} lines more"] if len(diff) > DIFF_LINES else []
    return "\n".join(diff[:DIFF_LINES] + more)


# --- what the windows say in words ---------------------------------------------------------------

# Of a class, whatever the return or the open interest did besides.
BURST = {"vol_spike_m_1", "price_spike_up_m_1", "price_spike_down_m_1"}
CALM_COINS = {spec.coin for spec in CALM.assets}


def label(outcome: Outcome, minute: int) -> str:
    """Return the name of a minute of a window: its close."""
    window = ALL[outcome.name]
    assert isinstance(window, Window)
    return iso(window.base.freeze_ms + (minute + 1) * MINUTE_MS)


def subtypes(events: Iterable[dict[str, Any]]) -> set[str]:
    """Return the subtypes that are heard in events, also folded into others."""
    return {name for e in events for name in (e["subtype"], *(e.get("coalesced") or ()))}


def of(outcome: Outcome, symbol: str) -> list[dict[str, Any]]:
    """Return the events of a symbol."""
    return [event for event in outcome.events if event["symbol"] == symbol]


def heard(outcome: Outcome, symbol: str, at: str | None = None) -> set[str]:
    """Return what is heard of a symbol, in one minute or in all."""
    return subtypes(e for e in of(outcome, symbol) if at in (None, e["exchange_ts"]))


def rows_at(outcome: Outcome, symbol: str, at: str) -> list[Row]:
    """Return the 1m rows of a symbol in a minute, amendments last."""
    return [
        row
        for row in outcome.rows
        if (row.symbol, row.tf, iso(row.exchange_ts_ms)) == (symbol, "1m", at)
    ]


def alone(outcome: Outcome, *symbols: str) -> None:
    """Check that nothing is heard of any other symbol."""
    assert {event["symbol"] for event in outcome.events} <= {*symbols}


def check_squeeze(outcome: Outcome) -> None:
    """SOL at once: volume and price; then open interest."""
    first = label(outcome, 4)
    assert heard(outcome, "SOL", first) >= {"vol_spike_m_1", "price_spike_up_m_1"}
    assert heard(outcome, "SOL") >= {"oi_spike_down_m_5", "price_up_oi_down_m_5"}
    assert min(event["exchange_ts"] for event in outcome.events) == first
    alone(outcome, "SOL")


def check_cascade(outcome: Outcome) -> None:
    """SOL down, with a cluster of liquidations."""
    first = heard(outcome, "SOL", label(outcome, 4))
    assert first >= {"vol_spike_m_1", "price_spike_down_m_1", "liq_cluster_m_5"}
    assert heard(outcome, "SOL") >= {"oi_spike_down_m_5", "price_down_oi_down_m_5"}
    alone(outcome, "SOL")


def check_rug(outcome: Outcome) -> None:
    """WLFI down on a wide book."""
    first = heard(outcome, "WLFI", label(outcome, 4))
    assert first >= {"vol_spike_m_1", "price_spike_down_m_1", "spread_stress_m_1"}
    assert "oi_spike_down_m_5" in heard(outcome, "WLFI")
    alone(outcome, "WLFI")


def check_dead_book(outcome: Outcome) -> None:
    """Nothing, and the dead minutes say why they are not good."""
    assert outcome.events == []
    for minute in range(4, 9):
        (row,) = rows_at(outcome, "XRP", label(outcome, minute))
        assert row.columns["dq_status"] != DQ_OK, label(outcome, minute)
        assert "book_one_sided" in row.columns["dq_reasons"]
        assert "quiet" in row.columns["dq_reasons"]
    (after,) = rows_at(outcome, "XRP", label(outcome, 10))
    assert after.columns["dq_status"] == DQ_OK


def check_basis_jolt(outcome: Outcome) -> None:
    """DOGE's basis, and no spike."""
    assert "basis_jolt_m_5" in heard(outcome, "DOGE", label(outcome, 4))
    assert not any(event["class"] == "spike" for event in outcome.events)
    alone(outcome, "DOGE")


def check_spread_stress(outcome: Outcome) -> None:
    """SOL's spread, and no spike of price or volume."""
    assert "spread_stress_m_1" in heard(outcome, "SOL", label(outcome, 4))
    assert not BURST & heard(outcome, "SOL")
    alone(outcome, "SOL")


def check_false_spike(outcome: Outcome) -> None:
    """The same burst is heard where there is liquidity, and nowhere else."""
    assert heard(outcome, "DOGE", label(outcome, 4)) >= {"vol_spike_m_1", "price_spike_up_m_1"}
    alone(outcome, "DOGE")
    found = [s for s in outcome.suppressed if s.symbol == "PURR"]
    assert {s.reason for s in found} == {"illiquid"}
    assert {s.detector_id for s in found} >= {"spike.vol_spike_m_1", "spike.price_spike_up_m_1"}
    assert max(s.severity or 0 for s in found) >= 80  # it would have been loud


def check_basket_shock(outcome: Outcome) -> None:
    """One shock of the market, and one incident for all of it."""
    shock = label(outcome, 4)
    assert [(e["exchange_ts"], e["class"]) for e in of(outcome, MARKET_SYMBOL)] == [
        (shock, "synchrony")
    ]
    at_once = [event for event in outcome.events if event["exchange_ts"] == shock]
    assert {event["symbol"] for event in at_once} == {MARKET_SYMBOL, *CALM_COINS} - {"PURR"}
    assert len({event["incident_id"] for event in at_once}) == 1
    assert len({e["incident_id"] for e in outcome.events if e.get("incident_id")}) == 1
    assert not of(outcome, "PURR")


def check_feed_outage(outcome: Outcome) -> None:
    """Heard before and after, silent and not ok while the line is down."""
    down = [label(outcome, minute) for minute in (5, 6, 7)]
    assert heard(outcome, "SOL", label(outcome, 4)) >= {"vol_spike_m_1", "price_spike_up_m_1"}
    assert heard(outcome, "XRP", label(outcome, 13)) >= {"vol_spike_m_1", "price_spike_up_m_1"}
    assert not [event for event in outcome.events if event["exchange_ts"] in down]
    rows = [row for coin in CALM_COINS for at in down for row in rows_at(outcome, coin, at)]
    assert len(rows) == len(CALM_COINS) * len(down)
    assert all(row.columns["dq_status"] == DQ_STALE for row in rows)
    assert all("gap" in row.columns["dq_reasons"] for row in rows)
    assert outcome.dropped == {"gap_disconnect": 1, "gap_end": 1}
    resynced = [row for coin in CALM_COINS for row in rows_at(outcome, coin, down[-1])]
    assert sum(row.columns["duplicate_ticks"] for row in resynced) > 0


def check_disorder(outcome: Outcome) -> None:
    """The orderly window's events until a minute is amended; late prints amend nothing."""
    orderly = outcome_of("squeeze", outcome.run)
    amended, late = label(outcome, AMENDED_MINUTE), label(outcome, LATE_MINUTE)
    ids = [
        [e["event_id"] for e in each.events if e["exchange_ts"] < amended]
        for each in (outcome, orderly)
    ]
    assert ids[0] == ids[1]
    assert len(ids[0]) >= 2
    check_squeeze(outcome)
    sealed, final = rows_at(outcome, "SOL", amended)
    (truth,) = rows_at(orderly, "SOL", amended)
    assert (sealed.revision, final.revision) == (0, 1)
    volumes = [row.columns["v_total_m_1"] for row in (sealed, final, truth)]
    assert volumes[0] < volumes[1] == volumes[2]
    (short,), (whole,) = rows_at(outcome, "XRP", late), rows_at(orderly, "XRP", late)
    assert short.columns["v_total_m_1"] < whole.columns["v_total_m_1"]
    (told,) = rows_at(outcome, "XRP", label(outcome, LATE_MINUTE + 1))
    assert told.columns["dropped_ticks"] > told.columns["duplicate_ticks"]
    minutes = [row for row in outcome.rows if row.tf == "1m" and row.revision == 0]
    assert sum(row.columns["duplicate_ticks"] for row in minutes) >= 50
    # But for the late one, each minute has in the end the volume it had in good order.
    for coin in CALM_COINS:
        for minute in range(18):
            at = label(outcome, minute)
            if (coin, at) != ("XRP", late):
                last, first = rows_at(outcome, coin, at)[-1], rows_at(orderly, coin, at)[-1]
                assert last.columns["v_total_m_1"] == first.columns["v_total_m_1"], (coin, at)


def check_pack_change(outcome: Outcome) -> None:
    """Events carry the packs that made them, and no baseline begins anew."""
    old, new = outcome.packs
    change = label(outcome, 8)  # the minute that is open at the change closes after it
    for event in outcome.events:
        packs = old if event["exchange_ts"] < change else new
        told = event["provenance"]
        assert (told["config_hash"], told["detector_pack"]) == (
            packs.config_hash,
            packs.detector_pack,
        )
    assert old.config_hash != new.config_hash
    before = [e for e in of(outcome, "SOL") if e["exchange_ts"] < change]
    assert BURST & subtypes(before)
    assert heard(outcome, "XRP", label(outcome, 12)) >= {"vol_spike_m_1", "price_spike_up_m_1"}
    minutes = [row for row in outcome.rows if row.tf == "1m"]
    assert not any(row.columns["warmup"] or "baseline_reset" in row.extras for row in minutes)
    assert all(row.columns["z_vol_m_1"] is not None for row in minutes)


def check_rotation(outcome: Outcome) -> None:
    """One rotation, at the end of the handover, on warm rows of a quarter of an hour."""
    (found,) = [event for event in outcome.events if event["class"] == "rotation"]
    assert found["symbol"] == MARKET_SYMBOL
    assert (found["subtype"], found["tf"]) == ("leader_cooling_followers_hot_m_15", "15m")
    assert found["exchange_ts"] == label(outcome, 59)
    assert found["market_frame"]["leader"] == "BTC"
    quarters = [row for row in outcome.rows if row.tf == "15m"]
    assert quarters
    assert not any(row.columns["warmup"] for row in quarters)


def check_real_candles(outcome: Outcome) -> None:
    """Spikes of price and volume after the warm-up, and nothing that candles cannot tell."""
    first = min(row.exchange_ts_ms for row in outcome.rows)
    warm = iso(first + 200 * MINUTE_MS)
    assert all(event["exchange_ts"] >= warm for event in outcome.events)
    found = subtypes(outcome.events)
    assert found >= {"vol_spike_m_1", "price_spike_up_m_1"}
    assert found <= {*BURST, "price_up_volume_up_m_1"}
    assert {event["symbol"] for event in outcome.events} == {"BTC", "ETH"}
    assert outcome.dropped == {}


CHECKS: dict[str, Callable[[Outcome], None]] = {
    "squeeze": check_squeeze,
    "cascade": check_cascade,
    "rug": check_rug,
    "dead_book": check_dead_book,
    "basis_jolt": check_basis_jolt,
    "spread_stress": check_spread_stress,
    "false_spike": check_false_spike,
    "basket_shock": check_basket_shock,
    "feed_outage": check_feed_outage,
    "disorder": check_disorder,
    "pack_change": check_pack_change,
    "rotation": check_rotation,
    "real_candles": check_real_candles,
}


def test_every_window_has_a_check() -> None:
    """What a window says in words is asserted below."""
    assert CHECKS.keys() == ALL.keys()
    assert all(window.fires and window.silent for window in ALL.values())


@pytest.mark.parametrize(("name", "run"), RUNS)
def test_a_window_keeps_its_word(name: str, run: str) -> None:
    """An update of the expected text cannot wave through what the window denies."""
    outcome = outcome_of(name, run)
    CHECKS[name](outcome)
    for phase in outcome.outputs:
        assert not getattr(phase, "dead", ())


# --- the state before a window -------------------------------------------------------------------


@pytest.mark.parametrize("version", PACKS)
def test_windows_begin_warm_and_at_rest(version: str) -> None:
    """No row of the dead book's window but XRP's own is anything but ok, and none warms up."""
    for row in outcome_of("dead_book", version).rows:
        assert not row.columns["warmup"], (row.symbol, row.exchange_ts_ms)
        if row.symbol != "XRP":
            assert row.columns["dq_status"] == DQ_OK, (row.symbol, row.exchange_ts_ms)


def test_a_state_survives_its_file() -> None:
    """What was read and written again is read as the same state."""
    data, packs = state_path(CALM, "v0.2").read_bytes(), packs_of("v0.2")
    first = thaw(data, packs, PRODUCER)
    again = thaw(freeze(first), packs, PRODUCER)
    assert (again.loop.state, again.reader.state) == (first.loop.state, first.reader.state)


def changed(**fields: Any) -> bytes:
    """Return a frozen state with other fields."""
    data = zstandard.decompress(state_path(CALM, "v0.2").read_bytes())
    other = msgspec.structs.replace(msgspec.msgpack.decode(data, type=Frozen), **fields)
    return zstandard.compress(msgspec.msgpack.encode(other))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda: changed(format=99), "expected format 1, found 99"),
        (
            lambda: changed(versions={**frozen.versions(), "score": 1}),
            "versions of states have changed: score 1 -> 2",
        ),
        (lambda: changed(context=b"\x81"), "a state cannot be read"),
        (lambda: changed(normalize={0: b"\x90"}), "baselines cannot be read: asset 0 all.all"),
        (lambda: b"not a state", "it cannot be read"),
    ],
)
def test_a_foreign_state_says_how_to_make_it_again(data: Callable[[], bytes], says: str) -> None:
    """Another format is never read as far as it goes."""
    with pytest.raises(FormatError) as caught:
        thaw(data(), packs_of("v0.2"), PRODUCER)
    assert says in str(caught.value)
    assert "python -m fixtures.golden_windows all" in str(caught.value)


# --- where the files come from -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeeze", "disorder", "rotation"])
def test_a_window_made_again_has_the_same_bytes(name: str) -> None:
    """Log and state come from the seed and the code alone."""
    assert_made_again(ALL[name])


def test_a_recording_made_again_has_the_same_bytes(shared_data: Path) -> None:
    """The candles in the repository are those of the source, as `alpha import bars` reads them."""
    assert_made_again(ALL["real_candles"])


def assert_made_again(window: Window | Recording) -> None:
    """Check the frozen files of a window against new ones."""
    others = [
        path.relative_to(GOLDEN).as_posix()
        for path, content in frozen_files(window).items()
        if path.read_bytes() != content
    ]
    assert not others, (
        f"made again, {', '.join(others)} have other bytes: code, packs or zstandard changed what"
        f" comes before the window or how it is stored; run `{frozen.MAKE} all`, then `{UPDATE}`,"
        " and review the diff"
    )


def test_the_maker_refuses_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    """One message names the windows there are."""
    with pytest.raises(SystemExit):
        main(["squeze"])
    message = capsys.readouterr().err
    assert "squeeze, cascade" in message
    assert "found squeze" in message


def test_the_maker_leaves_a_recording_without_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so, and touches nothing."""
    monkeypatch.setattr(make, "SHARED_DATA", tmp_path)
    before = bars_path(ALL["real_candles"]).read_bytes()
    assert main(["real_candles"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "real_candles: left as it is: " in captured.err
    assert bars_path(ALL["real_candles"]).read_bytes() == before


# --- through the engine --------------------------------------------------------------------------


@pytest.mark.engine
def test_the_engine_gives_the_window_from_the_start_of_its_market(tmp_path: Path) -> None:
    """Four hours from the first line, on two workers: its last quarter hour is the window.

    So the frozen state is what the engine itself would remember there.
    """
    window = ALL["squeeze"]
    assert isinstance(window, Window)
    log = tmp_path / "log"
    with log.open("wb") as stream:
        stream.writelines(lines(window.scenario))
    replay(log, tmp_path / "out", packs_of("v0.2"), workers=2)
    expected = outcome_of("squeeze", "v0.2").lines()
    assert expected["events"]
    for name, found in expected.items():
        written = product_path(tmp_path / "out", name).read_bytes().splitlines()
        since = iso(window.base.freeze_ms)
        assert [line for line in written if json.loads(line)["exchange_ts"] >= since] == found, name


@pytest.mark.engine
@pytest.mark.parametrize("version", PACKS)
def test_the_engine_gives_the_real_candles(tmp_path: Path, version: str) -> None:
    """A bars replay of the recording writes what the loop gives."""
    recording = ALL["real_candles"]
    assert isinstance(recording, Recording)
    replay(bars_path(recording), tmp_path, packs_of(version), bars=True)
    for name, found in outcome_of("real_candles", version).lines().items():
        assert product_path(tmp_path, name).read_bytes().splitlines() == found, name


# --- the manifest, last: it is renewed after everything else -------------------------------------


def test_the_manifest_names_every_file(update_golden: bool) -> None:
    """Seed, command and digest of each file; nothing else lies in the folder."""
    if update_golden:
        write_manifest()
    told = json.loads(MANIFEST.read_text())
    assert told == manifest(), f"{MANIFEST} is not up to date: {UPDATE}"
    for name, digest in told["files"].items():
        assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == digest, name
    texts = {
        expected_path(window, run).relative_to(GOLDEN).as_posix()
        for window in ALL.values()
        for run in window.runs
    }
    found = {name for name in told["files"] if Path(name).name.startswith("expected-")}
    assert found == texts  # none of a window that is gone
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 4_000_000
    assert told["recordings"]["real_candles"]["licence"].startswith("MIT")
    assert (bars_path(ALL["real_candles"]).parent / "LICENSE").exists()
