"""What normalisation remembers can be taken back by one bar, stored, and mostly survives damage."""

from __future__ import annotations

import random
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minutes import (
    BASELINES,
    BASES,
    CODEC,
    EARLY,
    MIDNIGHT,
    PACKS,
    SOON,
    SOON_CODEC,
    STEP,
    Closings,
    both,
    closings,
    flipped,
    grown,
    item,
    minute,
    other_step,
    run,
    stream,
    unlike,
    without_basis,
)

from operators.baselines import Baseline, body_of, dump, fresh
from operators.lattice import HOUR_MS, MINUTE_MS
from operators.normal_state import Reset
from operators.records import BarItem, Row
from operators.rollup import Folder
from packs.schema import Timeframe

# --- an amendment takes its bar back -------------------------------------------------------------


def played(
    base: tuple[int, int, int], sequence: Closings, *, amending: bool
) -> tuple[list[bytes], list[list[Row]]]:
    """Return the stored state and the rows that are left after each minute.

    amending : else only what is final comes in, with the seal.
    """
    label, minutes, days = base
    state = grown(label, minutes, days) if minutes else SOON.initial()
    rng = random.Random(11)
    stored, rows = [], []
    for gap, reasons, other, wild in sequence:
        label += gap * MINUTE_MS
        sealed, late = minute(label, rng, reasons, wild=wild), minute(label, rng, other or ())
        if other is None:
            found = run(both(label, sealed), state)
        elif amending:
            _, *found = run(both(label, sealed, late), state)
            assert found[0].revision == 1
            found[0] = msgspec.structs.replace(found[0], revision=0)
        else:
            found = run(both(label, late), state)
        stored.append(SOON_CODEC.encode(state))
        rows.append(found)
    return stored, rows


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@settings(max_examples=25)
@given(closings)
def test_property_an_amended_minute_is_as_if_it_had_come_so(
    base: tuple[int, int, int], sequence: Closings
) -> None:
    """Stored state and rows are the same bytes, minute by minute, whatever was sealed before.

    Over the first sample and the one that ends the warm-up, full hours, quarters that close,
    midnight, and the day that has seven completed ones before it.
    """
    assert played(base, sequence, amending=True) == played(base, sequence, amending=False)


def test_an_amendment_takes_back_a_sample_at_the_end_of_the_real_warm_up() -> None:
    """The 200th: initialised, undone, initialised again from another value (numerics 5)."""
    start = MIDNIGHT + 9 * HOUR_MS
    rng = random.Random(2)
    one, other = STEP.initial(), STEP.initial()
    for state in (one, other):
        run(stream(start, 199), state, STEP)
    label = start + 199 * MINUTE_MS
    sealed, late = minute(label, rng, wild=True), minute(label, rng)
    late["basis_bp_m_1"] = 1.0
    rows = run(both(label, sealed, late), one, STEP)
    assert [row.columns["z_vol_m_1"] is None for row in rows] == [False, False]
    assert one.tfs["1m"].baselines["vol"].n == 200
    run(both(label, late), other, STEP)
    assert CODEC.encode(one) == CODEC.encode(other)


def test_an_amendment_restores_the_gates() -> None:
    """Counts of the day and the medians in force, also those taken at midnight."""
    state = grown(MIDNIGHT, days=8)
    own = state.tfs["1m"]
    assert own.volume.settled is not None
    before = msgspec.msgpack.encode((own.volume, own.spread))
    rng = random.Random(4)
    label = MIDNIGHT + MINUTE_MS
    sealed = minute(label, rng, wild=True)
    run([item(label, sealed)], state)
    assert msgspec.msgpack.encode((own.volume, own.spread)) != before
    stale = minute(label, rng, ("gap",))
    run([item(label, stale, final=True)], state)
    other = grown(MIDNIGHT, days=8)
    run(both(label, stale), other)
    assert state.tfs["1m"].volume == other.tfs["1m"].volume
    assert state.tfs["1m"].spread == other.tfs["1m"].spread


def test_only_the_newest_minute_can_be_amended() -> None:
    """An amendment of another one, or a second one, is a bug."""
    label = MIDNIGHT + 9 * HOUR_MS + MINUTE_MS
    columns = minute(label, random.Random(5))
    state = SOON.initial()
    with pytest.raises(AssertionError):
        run([item(label, columns, final=True)], state)
    run([item(label, columns)], state)
    with pytest.raises(AssertionError):
        run([item(label + MINUTE_MS, columns, final=True)], state)
    state = SOON.initial()
    run(both(label, columns, columns), state)
    with pytest.raises(AssertionError):
        run([item(label, columns, final=True)], state)


def test_a_minute_is_not_kept_for_undoing_longer_than_its_grace() -> None:
    """After the final phase there is nothing left to take back, and nothing to store for it."""
    state = grown(MIDNIGHT)
    assert state.undo is None
    columns = minute(MIDNIGHT + MINUTE_MS, random.Random(6))
    run([item(MIDNIGHT + MINUTE_MS, columns)], state)
    assert state.undo is not None
    run([item(MIDNIGHT + MINUTE_MS, None, final=True)], state)
    assert state.undo is None


# --- stored and read ------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [0, 5, 60, 240])
def test_a_stored_state_reads_back_equal_and_stores_the_same(minutes: int) -> None:
    """Lossless: baselines, history, parts, gates, what may be taken back."""
    until = MIDNIGHT - 7 * MINUTE_MS
    state = grown(until, minutes) if minutes else SOON.initial()
    for one in [
        *stream(until + MINUTE_MS, 9),
        item(until + 10 * MINUTE_MS, minute(0, random.Random())),
    ]:
        run([one], state)
        data = SOON_CODEC.encode(state)
        read = SOON_CODEC.decode(data)
        assert read == state
        assert SOON_CODEC.encode(read) == data
        assert read.resets == []


def test_storing_does_not_touch_the_state() -> None:
    """It is in use while it is stored; what was read shares nothing with it."""
    state = grown(MIDNIGHT)
    before = {feature: dump(b) for feature, b in state.tfs["1m"].baselines.items()}
    data = SOON_CODEC.encode(state)
    run(stream(MIDNIGHT + MINUTE_MS, 20), SOON_CODEC.decode(data))
    assert {feature: dump(b) for feature, b in state.tfs["1m"].baselines.items()} == before
    assert SOON_CODEC.encode(state) == data


@settings(max_examples=40)
@given(closings, st.sets(st.integers(0, 35), max_size=6), st.sampled_from(list(BASES)))
def test_property_a_run_that_was_interrupted_goes_on_the_same(
    sequence: Closings, cuts: set[int], where: str
) -> None:
    """At any cuts, also between seal and final with an amendment to come: same rows, same bytes."""
    label, minutes, days = BASES[where]
    whole, resumed = (grown(label, minutes, days) if minutes else SOON.initial() for _ in range(2))
    rng = random.Random(12)
    items: list[BarItem] = []
    for gap, reasons, other, wild in sequence:
        label += gap * MINUTE_MS
        late = None if other is None else minute(label, rng, other)
        items += both(label, minute(label, rng, reasons, wild=wild), late)
    for k, one in enumerate(items):
        if k in cuts:
            resumed = SOON_CODEC.decode(SOON_CODEC.encode(resumed))
        assert run([one], resumed) == run([one], whole)
    assert SOON_CODEC.encode(resumed) == SOON_CODEC.encode(whole)


@pytest.mark.parametrize("cut", range(0, 64, 3))
def test_a_cut_anywhere_in_an_hour_changes_no_longer_row(cut: int) -> None:
    """Quarters and hours are folded from parts that were stored."""
    first = MIDNIGHT + 9 * HOUR_MS + MINUTE_MS
    items = stream(first, 62)
    whole, resumed = grown(first - MINUTE_MS), grown(first - MINUTE_MS)
    expected = run(items, whole)
    found = run(items[: 2 * cut + 1], resumed)
    resumed = SOON_CODEC.decode(SOON_CODEC.encode(resumed))
    found += run(items[2 * cut + 1 :], resumed)
    assert found == expected
    assert [row.tf for row in found if row.tf != "1m"] == ["15m"] * 4 + ["1h"]


def test_a_state_of_another_version_starts_anew() -> None:
    """It says which one was found."""
    older = msgspec.structs.replace(grown(MIDNIGHT), version=3)
    (reset,) = SOON_CODEC.decode(SOON_CODEC.encode(older)).resets
    assert (reset.tf, reset.reason) == ("all", "expected version 4, found 3")


# --- damage ---------------------------------------------------------------------------------------


def stored(baseline: Baseline) -> bytes:
    """Return a baseline as it is in a state: a checksum, then its content."""
    content = body_of(baseline)
    return zlib.crc32(content).to_bytes(4, "little") + content


def damaged(data: bytes, tf: Timeframe, feature: str, at: int, mask: int) -> bytes:
    """Flip bits of one byte of one stored baseline; `at` is taken modulo its length."""
    content = stored(SOON_CODEC.decode(data).tfs[tf].baselines[feature])
    assert data.count(content) == 1, "the baselines of this state all differ"
    place = data.index(content) + at % len(content)
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


@settings(max_examples=80)
@given(st.sampled_from(BASELINES), st.integers(0, 10**6), st.integers(1, 255))
def test_property_a_damaged_baseline_starts_anew_and_the_others_go_on(
    which: tuple[Timeframe, str], at: int, mask: int
) -> None:
    """Whichever byte of it is wrong (build plan 4.6)."""
    tf, feature = which
    state = unlike()
    read = SOON_CODEC.decode(damaged(SOON_CODEC.encode(state), tf, feature, at, mask))
    (reset,) = read.resets
    assert (reset.tf, reset.feature) == which
    assert reset.reason
    features = PACKS.features
    bounds = features.robust.clamp_default
    renewed = read.tfs[tf].baselines[feature]
    assert (renewed.n, renewed.last_ts_ms, renewed.clamp_hi) == (0, None, bounds)
    assert renewed.sketch.t == 0.0
    read.tfs[tf].baselines[feature] = state.tfs[tf].baselines[feature]
    read.resets = []
    assert read == state, "nothing else is lost"


@pytest.mark.parametrize("which", BASELINES, ids=[f"{tf} {name}" for tf, name in BASELINES])
def test_the_next_row_and_no_other_says_which_baseline_was_lost(
    which: tuple[Timeframe, str],
) -> None:
    """Whatever its timeframe, in the extras of the minute that comes next."""
    data = damaged(SOON_CODEC.encode(unlike()), *which, 50, 1)
    state = SOON_CODEC.decode(data)
    rows = run(stream(MIDNIGHT + 9 * HOUR_MS + MINUTE_MS, 16), state)
    first, *others = rows
    (said,) = first.extras["baseline_reset"]
    assert said.keys() == {"tf", "feature", "reason"}
    assert (said["tf"], said["feature"]) == which
    assert not any("baseline_reset" in row.extras for row in others)
    assert {row.tf for row in others} == {"1m", "15m"}


def test_a_baseline_that_starts_anew_warms_up_again() -> None:
    """Its z is NULL until it has its samples; the z of the others are those of the whole state."""
    data = SOON_CODEC.encode(unlike())
    items = stream(MIDNIGHT + 9 * HOUR_MS + MINUTE_MS, EARLY + 2)
    whole = [row for row in run(items, SOON_CODEC.decode(data)) if row.tf == "1m"]
    lost = SOON_CODEC.decode(damaged(data, "1m", "vol", 99, 4))
    rows = [row for row in run(items, lost) if row.tf == "1m"]
    known = [row.columns["z_vol_m_1"] is not None for row in rows]
    assert known == [False] * (EARLY - 1) + [True] * 3
    assert [row.columns["warmup"] for row in rows] == [not z for z in known]
    assert [row.columns["q_confidence"] for row in rows] == ["low" if z else "none" for z in known]
    assert {row.columns["warmup"] for row in whole} == {False}
    same = ("z_ret_abs_m_1", "z_spread_m_1", "z_oi_roc_m_5", "z_basis_m_5", "cvd_level", "ret_m_5")
    for name in same:
        assert [r.columns[name] for r in rows] == [r.columns[name] for r in whole]


def test_the_gates_keep_their_medians_when_a_baseline_is_lost() -> None:
    """They were stored beside it."""
    data = SOON_CODEC.encode(unlike())
    state = SOON_CODEC.decode(damaged(data, "1m", "vol", 99, 4))
    assert state.tfs["1m"].volume == unlike().tfs["1m"].volume


@pytest.mark.parametrize("content", [b"", b"BASE", b"\0" * 400, b"x"])
def test_a_baseline_of_another_length_starts_anew_too(content: bytes) -> None:
    """Cut off, or overwritten with something else."""
    raw = msgspec.msgpack.decode(SOON_CODEC.encode(unlike()))
    raw["baselines"]["15m"]["spread"] = content
    state = SOON_CODEC.decode(msgspec.msgpack.encode(raw))
    assert [(reset.tf, reset.feature) for reset in state.resets] == [("15m", "spread")]
    run(stream(MIDNIGHT + 9 * HOUR_MS + MINUTE_MS, 15), state)


def test_several_losses_are_all_reported_once() -> None:
    """In a fixed order, and still after another restart before the next row."""
    data = SOON_CODEC.encode(unlike())
    for k, (tf, feature) in enumerate(BASELINES):
        data = data if feature == "basis" else _swapped(data, tf, feature, k)
    state = SOON_CODEC.decode(data)
    wanted = [which for which in BASELINES if which[1] != "basis"]
    assert sorted((reset.tf, reset.feature) for reset in state.resets) == sorted(wanted)
    again = SOON_CODEC.decode(SOON_CODEC.encode(state))
    assert again == state
    rows = run(stream(MIDNIGHT + 9 * HOUR_MS + MINUTE_MS, 2), again)
    said = [[(r["tf"], r["feature"]) for r in row.extras.get("baseline_reset", ())] for row in rows]
    assert sorted(said[0]) == sorted(wanted)
    assert said[1:] == [[]]


def _swapped(data: bytes, tf: Timeframe, feature: str, k: int) -> bytes:
    raw = msgspec.msgpack.decode(data)
    content = bytearray(raw["baselines"][tf][feature])
    content[k] ^= 1
    raw["baselines"][tf][feature] = bytes(content)
    return msgspec.msgpack.encode(raw)


@pytest.mark.parametrize(("tf", "feature"), [("1m", "vol"), ("1m", "basis"), ("15m", "vol")])
def test_a_loss_between_seal_and_final_does_not_stop_the_amendment(
    tf: Timeframe, feature: str
) -> None:
    """The lost baseline starts with the amended bar, the others take the sealed one back."""
    label = MIDNIGHT + 9 * HOUR_MS + MINUTE_MS
    rng = random.Random(8)
    sealed, late = minute(label, rng, wild=True), minute(label, rng)
    sealed["basis_bp_m_1"], late["basis_bp_m_1"] = 9.0, 1.0
    state = unlike()
    run([item(label, sealed)], state)
    lost = SOON_CODEC.decode(damaged(SOON_CODEC.encode(state), tf, feature, 77, 8))
    (row,) = run([item(label, late, final=True)], lost)
    (said,) = row.extras["baseline_reset"]
    assert (said["tf"], said["feature"]) == (tf, feature)
    never = unlike()
    never.tfs[tf].baselines[feature] = fresh(SOON._robust)
    run(both(label, late), never)
    assert SOON_CODEC.encode(lost) == SOON_CODEC.encode(never)


def test_a_loss_of_a_longer_baseline_is_reported_by_the_row_that_comes_next() -> None:
    """After a restart between the seal of a quarter's last minute and its final phase."""
    label = MIDNIGHT + 9 * HOUR_MS + 15 * MINUTE_MS
    state = unlike()
    *before, last = stream(MIDNIGHT + 9 * HOUR_MS + MINUTE_MS, 15)
    run(before, state)
    lost = SOON_CODEC.decode(damaged(SOON_CODEC.encode(state), "15m", "vol", 60, 2))
    (row,) = run([last], lost)
    assert (row.tf, row.exchange_ts_ms) == ("15m", label)
    assert row.extras["baseline_reset"][0]["feature"] == "vol"
    assert row.columns["z_vol_m_15"] is None
    assert row.columns["z_spread_m_15"] is not None


# --- nothing readable ----------------------------------------------------------------------------


def foreign(kind: str) -> bytes:
    """Return bytes that are no stored state."""
    data = SOON_CODEC.encode(unlike())
    return {
        "nothing": b"",
        "half": data[: len(data) // 2],
        "all but one": data[:-1],
        "more": data + b"\0",
        "text": b"not a state",
        "another": msgspec.msgpack.encode({"version": 1, "mids": [], "now": {}}),
        "a list": msgspec.msgpack.encode([1, 2]),
    }[kind]


UNREADABLE = ("nothing", "half", "all but one", "more", "text", "another", "a list")


@pytest.mark.parametrize("kind", UNREADABLE)
def test_bytes_that_cannot_be_read_start_anew_and_say_so(kind: str) -> None:
    """As an asset that was never heard of, with a word in its first row."""
    state = SOON_CODEC.decode(foreign(kind))
    assert msgspec.structs.replace(state, resets=[]) == SOON.initial()
    (reset,) = state.resets
    assert (reset.tf, reset.feature) == ("all", "all")
    items = stream(MIDNIGHT + 9 * HOUR_MS, 20)
    first, *others = run(items, state)
    assert first.extras.pop("baseline_reset") == [
        {"tf": "all", "feature": "all", "reason": reset.reason}
    ]
    assert reset.reason
    assert [first, *others] == run(items, SOON.initial())


def test_a_state_that_was_lost_between_seal_and_final_takes_the_amendment() -> None:
    """The restart resumes there; the amended bar is the first that the new state sees."""
    label = MIDNIGHT + 9 * HOUR_MS
    state = SOON_CODEC.decode(b"")
    row, *longer = run([item(label, minute(label, random.Random(9)), final=True)], state)
    assert row.extras["baseline_reset"][0]["tf"] == "all"
    assert [found.tf for found in longer] == ["15m", "1h"]
    later, other = stream(label + MINUTE_MS, 20), SOON.initial()
    run(both(label, minute(label, random.Random(9))), other)
    assert run(later, state) == run(later, other)
    assert SOON_CODEC.encode(state) == SOON_CODEC.encode(other)


def places() -> dict[str, list[int]]:
    """Return the bytes of a stored state that belong to no baseline: names, and all others."""
    state = unlike()
    data = SOON_CODEC.encode(state)
    dumps = [stored(b) for own in state.tfs.values() for b in own.baselines.values()]
    inside = {k for c in dumps for k in range(data.index(c), data.index(c) + len(c))}
    names: set[int] = set()
    for own in state.tfs.values():
        for feature, baseline in own.baselines.items():
            start = data.rindex(feature.encode(), 0, data.index(stored(baseline)))
            names.update(range(start, start + len(feature)))
    for tf in state.tfs:
        start = data.index(tf.encode(), data.index(b"baselines"))
        names.update(range(start, start + len(tf)))
    elsewhere = inside | names
    rest = [k for k in range(len(data)) if k not in elsewhere]
    return {"names": sorted(names), "rest": rest}


@pytest.mark.parametrize("mask", [1, 64])
def test_damage_outside_the_baselines_starts_anew(mask: int) -> None:
    """History, parts, gates and the frame around them: all or nothing, never something else."""
    data, state = SOON_CODEC.encode(unlike()), unlike()
    found = places()["rest"]
    start = data.index(b"version")
    for at in [*found[:start], *found[start::43]]:
        read = SOON_CODEC.decode(flipped(data, at, mask))
        assert read == state or [(r.tf, r.feature) for r in read.resets] == [("all", "all")], at


@pytest.mark.parametrize("mask", [1, 128])
def test_a_damaged_name_is_reported_as_a_lost_baseline(mask: int) -> None:
    """What is stored under a name that nobody knows is lost as well."""
    state = unlike()
    data = SOON_CODEC.encode(state)
    for at in places()["names"]:
        read = SOON_CODEC.decode(flipped(data, at, mask))
        assert read.resets, at
        known = {tf: own.baselines.keys() for tf, own in state.tfs.items()}
        for tf, own in read.tfs.items():
            assert own.baselines.keys() <= known[tf], at


def test_a_damaged_name_between_seal_and_final_does_not_stop_the_amendment() -> None:
    """The minute's baseline of volume is gone, but what would take its bar back is still there."""
    label = MIDNIGHT + 9 * HOUR_MS + MINUTE_MS
    rng = random.Random(13)
    state = unlike()
    run([item(label, minute(label, rng))], state)
    data = SOON_CODEC.encode(state)
    content = stored(state.tfs["1m"].baselines["vol"])
    lost = SOON_CODEC.decode(flipped(data, data.rindex(b"vol", 0, data.index(content)), 1))
    (row,) = run([item(label, minute(label, rng), final=True)], lost)
    assert row.extras["baseline_reset"]
    assert row.columns["z_vol_m_1"] is None
    assert row.columns["z_spread_m_1"] is not None


def test_an_asset_that_was_only_heard_of_has_lost_nothing() -> None:
    """It joined after the seal: a final phase without a bar, then a restart."""
    label = MIDNIGHT + 9 * HOUR_MS
    state = SOON.initial()
    run([item(label, None, final=True)], state)
    read = SOON_CODEC.decode(SOON_CODEC.encode(state))
    assert read.resets == []
    (row, *_) = run(stream(label + MINUTE_MS, 1), read)
    assert "baseline_reset" not in row.extras


# --- another pack --------------------------------------------------------------------------------


def test_parts_of_another_layout_are_dropped() -> None:
    """Their values mean other columns; history, baselines and gates go on.

    minute   1 ... 8 | 9 ... 15     the pack changes after minute 8
    """
    first = MIDNIGHT + 9 * HOUR_MS + MINUTE_MS
    state, same = (SOON_CODEC.decode(SOON_CODEC.encode(unlike())) for _ in range(2))
    items = stream(first, 15)
    for one in (state, same):
        run(items[:16], one)
    step = other_step("oi_min")
    state = step.codec().decode(SOON_CODEC.encode(state))
    *_, quarter = run(items[16:], state, step)
    *_, whole = run(items[16:], same)
    assert (quarter.tf, whole.tf) == ("15m", "15m")
    assert state.layout == Folder(step._features).digest != same.layout
    assert quarter.columns["minutes_missing"] == 8
    assert whole.columns["minutes_missing"] == 0
    assert quarter.columns["ret_m_15"] == whole.columns["ret_m_15"]
    assert quarter.columns["oi_roc_m_15"] == whole.columns["oi_roc_m_15"]
    minutes = (state.tfs["1m"], same.tfs["1m"])
    assert minutes[0].history == minutes[1].history
    assert minutes[0].baselines == minutes[1].baselines
    assert minutes[0].volume == minutes[1].volume


def test_a_pack_with_the_same_layout_keeps_the_parts() -> None:
    """A change elsewhere costs nothing."""
    first = MIDNIGHT + 9 * HOUR_MS + MINUTE_MS
    items = stream(first, 15)
    state = unlike()
    run(items[:16], state)
    step = other_step("liq_count_m_5", "is_liq_cluster_m_5")
    *_, quarter = run(items[16:], step.codec().decode(SOON_CODEC.encode(state)), step)
    assert quarter.columns["minutes_missing"] == 0


def test_another_layout_after_the_last_seal_leaves_an_empty_quarter() -> None:
    """All of its parts were of the other pack: stale, and nothing is made up."""
    items = stream(MIDNIGHT + 9 * HOUR_MS + MINUTE_MS, 15)
    state = unlike()
    run(items[:-1], state)
    step = other_step("oi_min")
    state = step.codec().decode(SOON_CODEC.encode(state))
    (quarter,) = run(items[-1:], state, step)
    assert quarter.columns["minutes_missing"] == 15
    assert quarter.columns["dq_status"] == "stale"
    assert quarter.columns["v_total_m_15"] is None


def test_another_layout_between_seal_and_final_takes_the_amendment() -> None:
    """The pack changed while a minute was in its grace."""
    label = MIDNIGHT + 9 * HOUR_MS + MINUTE_MS
    rng = random.Random(10)
    state = unlike()
    run([item(label, minute(label, rng))], state)
    step = other_step("oi_min")
    state = step.codec().decode(SOON_CODEC.encode(state))
    (row,) = run([item(label, minute(label, rng), final=True)], state, step)
    assert row.revision == 1


def test_a_feature_that_the_pack_no_longer_has_is_forgotten() -> None:
    """Its baselines are not carried along; the others go on as they were."""
    step, items = without_basis(), stream(MIDNIGHT + 9 * HOUR_MS + MINUTE_MS, 15)
    state = step.codec().decode(SOON_CODEC.encode(unlike()))
    assert all("basis" not in own.baselines for own in state.tfs.values())
    rows, same = run(items, state, step), run(items, unlike())
    for name in ("z_vol_m_1", "z_oi_roc_m_5", "cvd_level"):
        pairs = [(r.columns[name], s.columns[name]) for r, s in zip(rows, same, strict=True)
                 if r.tf == "1m"]  # fmt: skip
        assert all(one == other for one, other in pairs)
    assert all(row.columns["b_mean_basis"] is None for row in rows)


def test_a_feature_that_is_dropped_between_seal_and_final_does_not_stop_the_amendment() -> None:
    """What was kept to take its bar back is not needed any more."""
    label = MIDNIGHT + 9 * HOUR_MS + MINUTE_MS
    rng = random.Random(14)
    state, step = unlike(), without_basis()
    run([item(label, minute(label, rng))], state)
    state = step.codec().decode(SOON_CODEC.encode(state))
    (row,) = run([item(label, minute(label, rng), final=True)], state, step)
    assert (row.revision, row.columns["z_basis_m_5"]) == (1, None)


def test_a_new_feature_begins_where_it_is_declared() -> None:
    """A state that lacks a baseline of the pack makes it with the next bar, without a word."""
    state = unlike()
    for own in state.tfs.values():
        own.baselines.pop("basis", None)
    rows = run(
        stream(MIDNIGHT + 9 * HOUR_MS + MINUTE_MS, 15), SOON_CODEC.decode(SOON_CODEC.encode(state))
    )
    assert not any("baseline_reset" in row.extras for row in rows)
    assert rows[0].columns["z_basis_m_5"] is None
    assert rows[0].columns["z_vol_m_1"] is not None


def test_a_reset_is_said_in_full() -> None:
    """Timeframe, feature and reason, as three words of a row's extras."""
    assert msgspec.structs.asdict(Reset("15m", "vol", "why")) == {
        "tf": "15m",
        "feature": "vol",
        "reason": "why",
    }
    kept: Any = msgspec.msgpack.decode(msgspec.msgpack.encode(Reset("1h", "vol", "x")), type=Reset)
    assert kept == Reset("1h", "vol", "x")
