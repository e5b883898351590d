"""A state that is stored as a base and what came since: kills, damage, new packs."""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minutes import (
    BASES,
    MIDNIGHT,
    PACKS,
    SOON,
    SOON_CODEC,
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
    transformed,
    unlike,
    warm_after,
    without_basis,
)

from operators import normal_state
from operators.bases import Base, BaseCodec, Bases, Held, KeepBase
from operators.engine import Logic
from operators.inputs import HEAD, VERDICTS, Player, Recorder
from operators.kernel import WEIGHT_MAX
from operators.lattice import HOUR_MS, MINUTE_MS
from operators.normal_state import NormaliseState, Reset
from operators.normalize import Normalize
from operators.parts import InParts
from operators.records import BarItem, Row

NINE = MIDNIGHT + 9 * HOUR_MS
RENEWAL = 3  # minutes, in place of an hour


@pytest.fixture(autouse=True)
def _often() -> Iterator[None]:
    """Renew bases every few minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normal_state, "RENEWAL_MINUTES", RENEWAL)
        yield


class Store:
    """What the engine has of one asset: the newest bytes of both steps."""

    def __init__(self, state: bytes | None = None, base: bytes | None = None) -> None:
        self.state, self.base = state, base


class Process:
    """Both steps of one asset as the engine runs them: a step is stored where it was awake."""

    def __init__(self, store: Store, step: Normalize = SOON) -> None:
        self.store = store
        self.bases = Bases()
        codec, keep, held = step.codec(), BaseCodec(self.bases), Held()
        state = step.initial() if store.state is None else codec.decode(store.state)
        self.normalize = InParts(step, codec, state, self.bases)
        if store.base is not None:
            held = keep.decode(store.base)
        self.keep = Logic(KeepBase(), keep, held)
        self.awake: set[str] = set()

    @property
    def state(self) -> NormaliseState:
        """Return what normalisation remembers."""
        state = self.normalize._state
        assert isinstance(state, NormaliseState)
        return state

    def take(self, one: BarItem, *, taken_first: bool = True) -> list[Row]:
        """Feed an item on both of its paths."""
        taken: list[Any] = []
        for _, base in self.bases.renewals([("0", one)]):
            taken += self.keep.on_batch([base])[0]
            self.awake.add("keep")
        self.awake.add("normalize")
        values = [*taken, one] if taken_first else [one, *taken]
        outputs, _ = self.normalize.on_batch(values)
        return [row for out in outputs for row in out.rows]

    def commit(self) -> None:
        """End an epoch."""
        if "keep" in self.awake:
            self.store.base = self.keep.snapshot()
        if "normalize" in self.awake:
            self.store.state = self.normalize.snapshot()
        self.awake.clear()

    def torn(self) -> bytes | None:
        """Return the base of an epoch that is killed when this alone was written."""
        return self.keep.snapshot() if "keep" in self.awake else None

    def end(self) -> None:
        """End the stream: the engine asks for everything once more."""
        self.normalize.on_eof()
        self.store.base, self.store.state = self.keep.snapshot(), self.normalize.snapshot()


def whole(state: NormaliseState) -> bytes:
    """Return the bytes of a state as if nothing was ever stored in parts."""
    return SOON_CODEC.encode(msgspec.structs.replace(state, since=None))


def items_of(label: int, sequence: Closings) -> list[BarItem]:
    """Return the phases of minutes."""
    rng, items = random.Random(12), list[BarItem]()
    for gap, reasons, other, wild in sequence:
        label += gap * MINUTE_MS
        late = None if other is None else minute(label, rng, other)
        items += both(label, minute(label, rng, reasons, wild=wild), late)
    return items


@settings(max_examples=120, deadline=None)
@given(
    closings,
    st.lists(st.sampled_from(("", "", "commit", "commit", "kill", "torn", "end")), min_size=36),
    st.booleans(),
    st.sampled_from(list(BASES)),
)
def test_property_kills_at_any_epoch_change_nothing(
    sequence: Closings, fates: list[str], taken_first: bool, where: str
) -> None:
    """Rows, and the state at the end bit for bit: whatever is amended, over days, full hours, ends
    of warm-ups; whichever of a bar and its base comes first; also where the stream ended."""
    label, minutes, days = BASES[where]
    plain = grown(label, minutes, days) if minutes else SOON.initial()
    store = Store(whole(plain) if minutes else None)
    process = Process(store)
    items, at, since = items_of(label, sequence), 0, 0
    expected = [run([one], plain) for one in items]
    for fate in [*fates, *[""] * len(items)]:
        if at == len(items):
            break
        assert process.take(items[at], taken_first=taken_first) == expected[at]
        at += 1
        if fate == "commit":
            process.commit()
            since = at
        elif fate == "end":
            process.end()
            process, since = Process(store), at
        elif fate == "kill":
            process, at = Process(store), since
        elif fate == "torn":  # the engine passes over it now, not at the resume after the next
            left = process.torn()
            process, at = Process(store), since
            store.base = left or store.base
    process.commit()
    assert process.state.resets == []
    assert whole(process.state) == whole(plain)
    resumed = Process(store)
    resumed.normalize._restore()
    assert whole(resumed.state) == whole(plain)


def test_only_a_renewal_writes_the_baselines() -> None:
    """The state is small at once, and the base is not written again before its time."""
    store = Store(whole(grown(NINE, 240)))
    size, process = len(store.state or b""), Process(store)
    written = []
    for one in stream(NINE + MINUTE_MS, 2 * RENEWAL):
        store.base = None
        process.take(one)
        process.commit()
        assert store.state is not None
        written.append((len(store.state), 0 if store.base is None else len(store.base)))
    states, bases = zip(*written, strict=True)
    assert states[0] > 0.9 * size  # the base was made, and is on its way
    assert max(states[1:]) < 0.4 * size
    assert [k for k, base in enumerate(bases) if base] == [1, 6, 12][: sum(map(bool, bases))]
    assert min(base for base in bases if base) > 0.5 * size


def test_a_written_base_is_let_go() -> None:
    """It is as large as the baselines themselves."""
    process = Process(Store(whole(grown(NINE, 120))))
    for one in stream(NINE + MINUTE_MS, 2):
        process.take(one)
        process.commit()
    assert process.keep._state == Held()
    assert not process.bases.made
    assert not process.bases.restored


def parted(minutes: int = 7) -> Store:
    """Return a store whose baselines all differ, some minutes behind their base."""
    store = Store(whole(unlike()))
    process = Process(store)
    for one in stream(NINE + MINUTE_MS, minutes):
        process.take(one)
        process.commit()
    assert process.state.since is not None
    assert process.state.since.base
    return store


def resumed(store: Store, step: Normalize = SOON) -> NormaliseState:
    """Return the state that a process begins with."""
    process = Process(store, step)
    process.normalize._restore()
    return process.state


def reset_of(state: NormaliseState) -> Reset:
    """Return the one thing that was lost."""
    (reset,) = state.resets
    return reset


def test_a_damaged_baseline_of_a_base_starts_anew_and_the_others_go_on() -> None:
    """It has the bars since the base; the next row says which it was."""
    store = parted()
    good = resumed(store)
    assert store.base is not None
    first = store.base.index(b"baselines")
    lost = set()
    for at in range(first + 40, len(store.base), 997):
        state = resumed(Store(store.state, flipped(store.base, at, 4)))
        reset = reset_of(state)
        lost.add((reset.tf, reset.feature))
        if reset.reason != "a name that nobody knows":
            anew = state.tfs[reset.tf].baselines[reset.feature]  # type: ignore[index]
            assert anew.n < good.tfs[reset.tf].baselines[reset.feature].n  # type: ignore[index]
        for tf, own in good.tfs.items():
            for name, baseline in own.baselines.items():
                if (tf, name) != (reset.tf, reset.feature):
                    assert state.tfs[tf].baselines.get(name) == baseline
        (row, *_) = run(stream(NINE + 8 * MINUTE_MS, 1), state)
        assert row.extras["baseline_reset"][0]["feature"] == reset.feature
    assert len(lost) > 5


@pytest.mark.parametrize("mask", [1, 128])
def test_a_damaged_head_of_a_base_loses_all_baselines_and_nothing_else(mask: int) -> None:
    """Number, asset and rules: the minutes that look back, the gates and the parts go on."""
    store = parted()
    good = resumed(store)
    assert store.base is not None
    for at in [*range(20), *range(24, 300, 7)]:
        state = resumed(Store(store.state, flipped(store.base, at, mask)))
        reset = reset_of(state)
        assert (reset.tf, reset.feature) == ("all", "all"), at
        assert state.tfs["1m"].history == good.tfs["1m"].history
        rows = run(stream(NINE + 8 * MINUTE_MS, 2), state)
        assert [row.extras.get("baseline_reset") is None for row in rows] == [False, True]
        assert rows[0].columns["z_vol_m_1"] is None
        assert rows[0].columns["ret_m_1"] is not None


@pytest.mark.parametrize("base", [None, b"", b"short", b"x" * 200])
def test_a_base_that_is_missing_is_reported(base: bytes | None) -> None:
    """A store that somebody cut, or a foreign one."""
    state = resumed(Store(parted().state, base))
    assert "lacks base" in reset_of(state).reason
    assert state.since is None
    process = Process(Store(SOON_CODEC.encode(state)))  # and it goes on with a base of its own
    for one in stream(NINE + 8 * MINUTE_MS, 2):
        process.take(one)
        process.commit()
    assert process.state.since is not None


def test_a_base_of_another_number_is_reported() -> None:
    """Two halves of different stores."""
    state = resumed(Store(parted(7).state, parted(1).base))
    assert "lacks base" in reset_of(state).reason


def test_a_base_is_missed_between_seal_and_final_and_the_amendment_comes() -> None:
    """What would take the bar back went with the base."""
    store = parted()
    process, label, rng = Process(store), NINE + 8 * MINUTE_MS, random.Random(3)
    process.take(item(label, minute(label, rng)))
    process.commit()
    state = resumed(Store(store.state, None))
    (row,) = run([item(label, minute(label, rng), final=True)], state)
    assert (row.revision, row.extras["baseline_reset"][0]["tf"]) == (1, "all")


def test_damage_of_what_came_since_loses_the_state() -> None:
    """Wherever it is; as in a state that is stored whole."""
    store = parted()
    assert store.state is not None
    for at in range(0, len(store.state), 131):
        state = resumed(Store(flipped(store.state, at, 2), store.base))
        reset = reset_of(state)
        assert (reset.tf, reset.feature) == ("all", "all"), at
        assert msgspec.structs.replace(state, resets=[]) == SOON.initial()


def test_a_state_without_its_base_is_none_for_an_older_release() -> None:
    """Which knows the version of whole states only."""
    raw = msgspec.msgpack.decode(parted().state or b"")
    assert msgspec.msgpack.decode(raw["rest"][4:])["version"] == normal_state.SINCE_VERSION
    assert normal_state.SINCE_VERSION != normal_state.STATE_VERSION


# --- another pack --------------------------------------------------------------------------------


def test_another_pack_finds_what_the_former_one_left() -> None:
    """Records are played by the rules that they were made under, then all is stored anew."""
    store = parted()
    for step in (other_step("oi_min"), without_basis()):
        state, same = resumed(store, step), resumed(store)
        for tf, own in state.tfs.items():
            for name, baseline in own.baselines.items():
                assert baseline == same.tfs[tf].baselines[name]
        keeps = {name for own in same.tfs.values() for name in own.baselines}
        assert {r.feature for r in state.resets} <= keeps
        items = stream(NINE + 8 * MINUTE_MS, 1)
        process = Process(store, step)
        rows = [row for one in items for row in process.take(one)]
        assert rows[0].columns["z_vol_m_1"] == run(items, same)[0].columns["z_vol_m_1"]
    assert resumed(store, without_basis()).since is None


def test_other_constants_hold_from_the_restart_on_only() -> None:
    """A pack that forgets faster does not say otherwise of minutes that were before it."""
    features = SOON._features
    robust = features.robust.model_copy(update={"clip_sigma": features.robust.clip_sigma / 2})
    quick = Normalize(replace(PACKS, features=features.model_copy(update={"robust": robust})))
    store = parted()
    state, same = resumed(store, quick), resumed(store)
    assert state.tfs["1m"].baselines == same.tfs["1m"].baselines
    assert state.since is None
    assert same.since is not None


@pytest.mark.parametrize(("former", "later", "bars"), [(12, 20, 16), (20, 12, 16), (20, 12, 12)])
@pytest.mark.parametrize("in_parts", [True, False])
def test_a_baseline_between_two_lengths_of_warm_up_starts_anew(
    former: int, later: int, bars: int, in_parts: bool
) -> None:
    """What its first samples were kept for is over under one pack and to come under the other."""
    store, before, after = Store(), warm_after(former), warm_after(later)
    process = Process(store, before)
    for one in stream(NINE + MINUTE_MS, bars):
        process.take(one)
        process.commit()
    if not in_parts:
        process.end()
    state = resumed(store, after)
    between = {
        name
        for name, baseline in process.state.tfs["1m"].baselines.items()
        if min(former, later) <= baseline.n < max(former, later)
    }
    assert "vol" in between
    assert {r.feature for r in state.resets if r.tf == "1m"} == between
    assert all("min_samples" in reset.reason for reset in state.resets)
    process = Process(store, after)
    rows = []
    for one in stream(NINE + (bars + 1) * MINUTE_MS, later + 1, seed=2):
        rows += process.take(one)
        process.commit()
    known = [row.columns["z_vol_m_1"] for row in rows if row.tf == "1m"]
    assert [z is None for z in known] == [True] * (later - 1) + [False] * 2


def test_a_baseline_of_another_transform_starts_anew() -> None:
    """What it learned is in other units."""
    former = Process(parted()).normalize
    former._restore()
    state = resumed(parted(), transformed("vol", "asinh"))
    lost = {(r.tf, r.feature) for r in state.resets}
    assert lost == {(tf, "vol") for tf, own in state.tfs.items() if "vol" in own.baselines}
    assert all("transform" in reset.reason for reset in state.resets)
    assert state.tfs["1m"].baselines["vol"].n == 0
    assert former._state.tfs["1m"].baselines["vol"].n > 0


# --- records -------------------------------------------------------------------------------------


def test_records_play_over_a_rescaling_of_all_weights() -> None:
    """The sample at which the weights of a sketch are made smaller, and one that takes it back."""
    store = Store(whole(grown(NINE, 240)))
    raw = SOON_CODEC.decode(store.state or b"")
    for baseline in raw.tfs["1m"].baselines.values():
        sketch = baseline.sketch
        up = 0.9999 * WEIGHT_MAX / sketch.w
        sketch.weights = array("d", [w * up for w in sketch.weights])
        sketch.w, sketch.t = sketch.w * up, sketch.t * up
    plain = SOON_CODEC.decode(whole(raw))
    process = Process(Store(whole(raw)))
    before = {n: b.sketch.w for n, b in raw.tfs["1m"].baselines.items() if b.sketch.keys}
    rng = random.Random(5)
    for k in range(1, 40):
        label = NINE + k * MINUTE_MS
        for one in both(label, minute(label, rng, wild=True), minute(label, rng)):
            process.take(one)
            run([one], plain)
            process.commit()
        if k % 5 == 0:
            again = resumed(process.store)
            assert whole(again) == whole(plain)
    after = plain.tfs["1m"].baselines
    assert any(after[name].sketch.w < w for name, w in before.items()), "none was rescaled"


def test_a_log_that_nobody_stores_is_given_up() -> None:
    """A stream without snapshots: memory is bounded, and the next snapshot is whole."""
    process = Process(Store())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[Normalize.__module__], "RECORDS_MAX", 8)
        items = stream(NINE + MINUTE_MS, 12)
        for one in items:
            process.take(one)
        assert process.state.since is None
        process.commit()
        plain = SOON.initial()
        run(items, plain)
        assert process.store.state == whole(plain)
        for one in stream(NINE + 13 * MINUTE_MS, 2):
            process.take(one)
            process.commit()
        assert process.state.since is not None
        assert process.state.since.base


def test_a_record_names_its_bar() -> None:
    """Another one than the newest is not taken back."""
    recorder = Recorder(SOON._tfs["1m"].entries)
    log, columns = bytearray(), minute(0, random.Random(1))
    columns |= dict.fromkeys(e.source for e in SOON._tfs["1m"].entries) | columns
    recorder.append(log, NINE, columns)
    recorder.append(log, NINE + MINUTE_MS, columns)
    assert recorder.count(log) == 2
    with pytest.raises(AssertionError):
        recorder.pop(log, NINE)
    recorder.pop(log, NINE + MINUTE_MS)
    assert recorder.count(log) == 1
    numbers = memoryview(log).cast("d")
    assert (numbers[0], VERDICTS[int(numbers[1])]) == (NINE, columns["dq_status"])
    assert len(numbers) == HEAD + len(SOON._tfs["1m"].entries)


def test_nothing_to_play_moves_nothing() -> None:
    """An empty log."""
    rules = SOON._tfs["1m"].rules
    found: dict[str, Any] = {}
    assert Player(rules, SOON._robust).play(found, b"") == {}
    assert found == {}


def test_a_base_that_a_killed_epoch_left_behind_is_taken_up() -> None:
    """The engine passes over it at once, but a second resume before the renewal comes again reads
    it: beside a state that refers to the base before it."""
    store = parted()
    process = Process(store)
    process.normalize._restore()
    for one in stream(NINE + 8 * MINUTE_MS, 2 * RENEWAL):
        if process.bases.made:
            break
        process.take(one)
        process.commit()
    assert process.bases.made
    expected = whole(process.state)
    process.take(one)
    left = process.torn()
    assert left != store.base
    state = resumed(Store(store.state, left))
    assert state.resets == []
    assert whole(state) == expected
    assert whole(resumed(store)) == expected


def test_a_base_of_a_run_that_ended_is_not_handed_on() -> None:
    """The same flow started again in one process."""
    store = parted()
    bases = Bases()
    bases.made[0] = Base(0, 1, b"")
    InParts(SOON, SOON.codec(), SOON_CODEC.decode(store.state or b""), bases)
    assert not bases.made
