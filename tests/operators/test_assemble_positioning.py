"""Open interest, funding and basis of a minute: what arrived in it, and how old it is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.assemble import Assemble, AssemblyCodec, AssemblyState
from operators.formulas.elementary import round12
from operators.lattice import HOUR_MS, MINUTE_MS
from operators.layout import ticks_of
from operators.records import (
    Asset,
    Bar,
    BarItem,
    Boundary,
    Columns,
    Context,
    Feed,
    Phase,
    Quote,
    Ticks,
    Trade,
)
from packs.loader import load_packs

M = 1_756_891_800_000  # 09:30:00; the minute under test is [09:29:00, 09:30:00)
START = M - MINUTE_MS
PERP = Asset(0, "BTC", ("activeAssetCtx", "trades"))
SPOT = Asset(0, "BTC", ("trades",))
FEATURES = load_packs().features
STEP = Assemble(FEATURES)
CODEC = AssemblyCodec()
LIMIT_MS = FEATURES.quality.oi_staleness_ms_max
# A pack that trusts a sample for two minutes: only then can one carry over a whole minute.
PATIENT = Assemble(
    FEATURES.model_copy(
        update={"quality": FEATURES.quality.model_copy(update={"oi_staleness_ms_max": 120_000})}
    )
)

LEVELS = ("oi_open", "oi_close", "oi_min", "oi_max", "oi_close_base", "mark_close")
COLUMNS = (
    *LEVELS,
    *("oi_staleness_ms", "funding_h_1", "basis_bp_m_1", "time_to_next_funding_sec"),
)


def context(
    at_ms: int,
    oi: float | None = 50.0,
    mark: float | None = 100.0,
    oracle: float | None = 100.0,
    funding: float | None = 1e-5,
) -> Context:
    """Return perp state that arrives at an instant."""
    return Context(at_ms * 1_000_000, oi, mark, oracle, funding)


def trade(at_ms: int, px: float = 100.0) -> Trade:
    """Return a print; every minute here has one, so that nothing but positioning is to blame."""
    return Trade((at_ms + 300) * 1_000_000, at_ms, px, 1.0, True, at_ms)


def boundary(minute_ms: int = M, *, final: bool = False, asset: Asset = PERP) -> Boundary:
    """Return a closing of a minute on a healthy feed."""
    clock_ms = minute_ms + (3000 if final else 1500)
    feed = Feed(last_frame_ms=clock_ms, clock_skew_ms=300)
    return Boundary(Phase(minute_ms, final, 1, clock_ms), asset, feed)


def run(
    *items: Ticks | Boundary, state: AssemblyState | None = None, step: Assemble = STEP
) -> list[BarItem]:
    """Feed items to a fresh asset (or a given state) and return what comes out."""
    state = state or step.initial()
    return [out for item in items for out in step.step(state, item)]


def minute(
    contexts: Sequence[Context] = (),
    *,
    label: int = M,
    asset: Asset = PERP,
    state: AssemblyState | None = None,
    step: Assemble = STEP,
) -> Columns:
    """Return the sealed columns of a minute with these contexts and one print; make it final."""
    ticks = ticks_of(trades=[trade(label - MINUTE_MS)], contexts=contexts)
    closings = (boundary(label, asset=asset), boundary(label, final=True, asset=asset))
    sealed, final = run(ticks, *closings, state=state, step=step)
    assert sealed.bar is not None
    assert final.bar is None
    return sealed.bar.columns


def levels(columns: Columns) -> list[float | None]:
    """Return open, close, min and max of open interest."""
    return [columns[name] for name in LEVELS[:4]]


# --- what belongs to a minute --------------------------------------------------------------------


def test_the_columns_of_a_plain_minute() -> None:
    """Three contexts; levels are coins times the mark of the same context.

    09:29:00    :10          :30               :59  09:30:00
       |---------5000---------5252--------------4851--|
    """
    columns = minute(
        [
            context(START + 10_000, 50.0, 100.0, 100.0, 1e-5),
            context(START + 30_000, 52.0, 101.0, 100.0, 2e-5),
            context(START + 59_000, 49.0, 99.0, 100.0, 3e-5),
        ]
    )
    assert {name: columns[name] for name in COLUMNS} == {
        "oi_open": 5000.0,
        "oi_close": 4851.0,
        "oi_min": 4851.0,
        "oi_max": 5252.0,
        "oi_close_base": 49.0,
        "mark_close": 99.0,
        "oi_staleness_ms": 1000,
        "funding_h_1": 3e-5,
        "basis_bp_m_1": 0.0,
        "time_to_next_funding_sec": 1800,
    }
    assert (columns["dq_status"], columns["dq_reasons"]) == ("ok", [])


@pytest.mark.parametrize("channel", ["activeAssetCtx", "context"])
def test_either_feed_tracks_an_asset(channel: str) -> None:
    """A subscription of its own, or the one for all."""
    asset = Asset(0, "BTC", (channel, "trades"))
    columns = minute([context(M - 1000)], asset=asset)
    assert columns == minute([context(M - 1000)])
    assert columns["oi_close"] == 5000.0


@pytest.mark.parametrize("contexts", [[], [context(M - 1000)]])
def test_an_asset_that_is_not_tracked_has_no_such_columns(contexts: list[Context]) -> None:
    """Contexts of all assets come in one frame; those nobody asked for leave no trace."""
    columns = minute(contexts, asset=SPOT)
    assert not set(COLUMNS) & columns.keys()
    assert columns["dq_status"] == "ok"


def test_the_minute_is_half_open_by_arrival() -> None:
    """One that arrives at 09:29:00.000 belongs to it, one at 09:30:00.000 to the next."""
    state = STEP.initial()
    contexts = [context(START - 1, 1.0), context(START, 2.0), context(M - 1, 3.0), context(M, 4.0)]
    columns = minute(contexts, state=state)
    assert levels(columns) == [200.0, 300.0, 200.0, 300.0]
    assert columns["oi_staleness_ms"] == 1
    after = minute([], label=M + MINUTE_MS, state=state, step=PATIENT)
    assert levels(after) == [400.0] * 4
    assert after["oi_staleness_ms"] == MINUTE_MS


def test_arrival_counts_in_whole_milliseconds() -> None:
    """A nanosecond before the close is the millisecond before it."""
    last = msgspec.structs.replace(context(M), arrival_ns=M * 1_000_000 - 1)
    assert minute([last])["oi_staleness_ms"] == 1
    next_one = msgspec.structs.replace(context(M), arrival_ns=M * 1_000_000)
    assert minute([next_one])["oi_staleness_ms"] is None


def test_contexts_of_one_instant_keep_their_order() -> None:
    """The last one of the frame is in force."""
    contexts = [context(M - 1000, oi) for oi in (7.0, 9.0, 5.0, 8.0)]
    assert levels(minute(contexts)) == [700.0, 800.0, 500.0, 900.0]


def test_coins_and_levels_tell_a_price_move_from_positioning() -> None:
    """The mark rises by a tenth, nobody opens anything (design D16)."""
    columns = minute([context(START, 50.0, 100.0), context(M - 1, 50.0, 110.0)])
    assert levels(columns) == [5000.0, 5500.0, 5000.0, 5500.0]
    assert columns["oi_close_base"] == 50.0


def test_levels_are_stored_at_twelve_digits() -> None:
    """The product of what the venue said, rounded once."""
    oi, mark = 36280.384581234567, 80637.54321987654
    columns = minute([context(M - 1, oi, mark, 80600.0)])
    assert columns["oi_close"] == round12(oi * mark)
    assert columns["oi_close"] != oi * mark
    assert (columns["oi_close_base"], columns["mark_close"]) == (round12(oi), round12(mark))


# --- staleness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_levels_are_null_when_the_newest_sample_is_too_old(over: int) -> None:
    """At exactly 20 s it still counts, a millisecond later it does not; the age is told."""
    assert LIMIT_MS == 20_000
    columns = minute([context(START), context(M - LIMIT_MS - over)])
    assert columns["oi_staleness_ms"] == LIMIT_MS + over
    assert all((columns[name] is None) is (over > 0) for name in LEVELS)
    assert columns["dq_reasons"] == (["oi_stale"] if over > 0 else [])
    assert columns["dq_status"] == ("partial" if over > 0 else "ok")
    assert columns["basis_bp_m_1"] == 0.0
    assert columns["funding_h_1"] == 1e-5


def test_nothing_ever_arrived() -> None:
    """No age, no level, no rate; only the schedule of funding is known."""
    columns = minute([])
    assert {name: columns[name] for name in COLUMNS if columns[name] is not None} == {
        "time_to_next_funding_sec": 1800
    }
    assert columns["dq_reasons"] == ["oi_stale"]


@pytest.mark.parametrize(("oi", "mark"), [(None, 100.0), (50.0, None), (None, None)])
def test_a_context_without_coins_or_mark_is_no_sample(oi: float | None, mark: float | None) -> None:
    """It leaves the one before it in force, and does not make it younger."""
    columns = minute([context(M - 15_000, 40.0), context(M - 1000, oi, mark)])
    assert levels(columns) == [4000.0] * 4
    assert (columns["oi_staleness_ms"], columns["mark_close"]) == (15_000, 100.0)
    stale = minute([context(M - 20_001, 40.0), context(M - 1000, oi, mark)])
    assert (stale["oi_staleness_ms"], stale["oi_close"]) == (20_001, None)
    alone = minute([context(M - 1000, oi, mark)])
    assert (alone["oi_staleness_ms"], alone["oi_close"]) == (None, None)
    assert alone["funding_h_1"] == 1e-5
    assert "oi_stale" in alone["dq_reasons"]


def test_nothing_open_is_a_sample() -> None:
    """Zero coins are a measurement."""
    columns = minute([context(START, 5.0), context(M - 1000, 0.0)])
    assert levels(columns) == [500.0, 0.0, 0.0, 500.0]
    assert columns["oi_close_base"] == 0.0
    assert columns["dq_status"] == "ok"


# --- what carries over ---------------------------------------------------------------------------


def test_a_carried_sample_is_in_force_and_ages() -> None:
    """With the limit of the released pack it is always too old; its age is told all the same."""
    for step, known in ((PATIENT, True), (STEP, False)):
        state = step.initial()
        minute([context(START, 3.0), context(M - 5000, 4.0, 90.0)], state=state, step=step)
        columns = minute([], label=M + MINUTE_MS, state=state, step=step)
        assert columns["oi_staleness_ms"] == 65_000
        assert levels(columns) == [360.0 if known else None] * 4
        assert columns["oi_close_base"] == (4.0 if known else None)
        assert columns["mark_close"] == (90.0 if known else None)
        assert columns["dq_reasons"] == ([] if known else ["oi_stale"])
        later = minute([], label=M + 2 * MINUTE_MS, state=state, step=step)
        assert (later["oi_staleness_ms"], later["oi_close"]) == (125_000, None)


def test_the_opening_level_is_the_first_sample_of_the_minute() -> None:
    """Not what carried in: that belongs to the minute before."""
    state = PATIENT.initial()
    minute([context(M - 1, 900.0)], state=state, step=PATIENT)
    contexts = [context(M + 30_000, 5.0), context(M + 40_000, 6.0)]
    columns = minute(contexts, label=M + MINUTE_MS, state=state, step=PATIENT)
    assert levels(columns) == [500.0, 600.0, 500.0, 600.0]


def test_a_minute_without_samples_leaves_the_carried_one_alone() -> None:
    """Contexts that are no samples pass through; the one before them carries on."""
    state = PATIENT.initial()
    minute([context(M - 1000, 4.0)], state=state, step=PATIENT)
    half = [context(M + 1000, None, 95.0), context(M + 2000, 9.0, None)]
    columns = minute(half, label=M + MINUTE_MS, state=state, step=PATIENT)
    assert (columns["oi_close"], columns["mark_close"]) == (400.0, 100.0)
    assert columns["oi_staleness_ms"] == 61_000
    columns = minute([], label=M + 2 * MINUTE_MS, state=state, step=PATIENT)
    assert columns["oi_staleness_ms"] == 121_000


def test_what_arrived_before_the_first_minute_carries_into_it() -> None:
    """A sample, a rate; from several minutes the newest."""
    state = PATIENT.initial()
    early = [context(START - k * MINUTE_MS - 1, 10.0 + k, funding=k * 1e-5) for k in (3, 2, 1, 0)]
    early.append(context(START - 1, None, funding=None))
    columns = minute(early, state=state, step=PATIENT)
    assert (columns["oi_close_base"], columns["oi_staleness_ms"]) == (10.0, 60_001)
    assert columns["funding_h_1"] == 0.0


def test_funding_is_carried_for_hours() -> None:
    """The rate holds until the next one is announced, however old; NULL announces nothing."""
    state = STEP.initial()
    assert minute([context(M - 1, funding=None)], state=state)["funding_h_1"] is None
    label = M + MINUTE_MS
    rate = minute([context(label - 1, funding=-2.5e-5)], label=label, state=state)["funding_h_1"]
    assert rate == -2.5e-5
    for k in range(1, 5 * 60):
        label += MINUTE_MS
        contexts = [context(label - 1, funding=None)] if k % 2 else []
        columns = minute(contexts, label=label, state=state)
        assert columns["funding_h_1"] == -2.5e-5
        assert columns["dq_reasons"] == ([] if k % 2 else ["oi_stale"])
    contexts = [context(label + 1, funding=7e-5), context(label + 2, funding=0.0)]
    contexts.append(context(label + 3, funding=None))
    assert minute(contexts, label=label + MINUTE_MS, state=state)["funding_h_1"] == 0.0


def test_an_asset_that_stops_being_tracked_has_no_columns() -> None:
    """What it carried is no longer said."""
    state = PATIENT.initial()
    minute([context(M - 1)], state=state, step=PATIENT)
    columns = minute([], label=M + MINUTE_MS, asset=SPOT, state=state, step=PATIENT)
    assert not set(COLUMNS) & columns.keys()


@pytest.mark.parametrize(
    ("label", "seconds"),
    [
        (M, 1800),
        (M + 29 * MINUTE_MS, 60),
        (M + 30 * MINUTE_MS, 3600),
        (M + 31 * MINUTE_MS, 3540),
    ],
)
def test_time_to_the_next_funding(label: int, seconds: int) -> None:
    """Funding is hourly; at the hour itself the next one is an hour away (design D11)."""
    assert (label + seconds * 1000) % HOUR_MS == 0
    for contexts in ([], [context(label - 1)]):
        assert minute(contexts, label=label)["time_to_next_funding_sec"] == seconds


# --- basis ---------------------------------------------------------------------------------------


def test_the_basis_is_the_mean_over_the_contexts_of_the_minute() -> None:
    """+10, +20 and -15 bp; what lacks a price does not count, what carries over neither."""
    state = STEP.initial()
    minute([context(M - 1, 5.0, 200.0, 100.0)], state=state)
    columns = minute(
        [
            context(M + 1000, 5.0, 100.1, 100.0),
            context(M + 2000, None, 100.2, 100.0),
            context(M + 3000, 5.0, None, 100.0),
            context(M + 4000, 5.0, 100.2, None),
            context(M + 50_000, 5.0, 99.85, 100.0),
        ],
        label=M + MINUTE_MS,
        state=state,
    )
    assert columns["basis_bp_m_1"] == 5.0
    assert columns["dq_reasons"] == []
    empty = minute([], label=M + 2 * MINUTE_MS, state=state)
    assert empty["basis_bp_m_1"] is None


def test_contexts_without_an_index_are_blamed_on_the_index() -> None:
    """Open interest is known; only the basis is not."""
    contexts = [context(M - 5000, oracle=None), context(M - 1000, oracle=None)]
    columns = minute(contexts)
    assert columns["basis_bp_m_1"] is None
    assert columns["oi_close"] == 5000.0
    assert (columns["dq_status"], columns["dq_reasons"]) == ("partial", ["index_missing"])
    assert minute([*contexts, context(M - 500)])["dq_reasons"] == []


def test_a_mark_that_is_missing_is_not_blamed_on_the_index() -> None:
    """The index is there; what is missing shows as old open interest."""
    columns = minute([context(M - 1000, mark=None)])
    assert columns["basis_bp_m_1"] is None
    assert columns["dq_reasons"] == ["oi_stale"]


def test_without_contexts_the_index_is_not_to_blame() -> None:
    """A feed that says nothing is old, not incomplete."""
    state = PATIENT.initial()
    minute([context(M - 1000)], state=state, step=PATIENT)
    columns = minute([], label=M + MINUTE_MS, state=state, step=PATIENT)
    assert columns["basis_bp_m_1"] is None
    assert columns["dq_reasons"] == []
    assert minute([])["dq_reasons"] == ["oi_stale"]


def test_reasons_of_positioning_stand_together() -> None:
    """Old open interest and no index, in their fixed order."""
    columns = minute([context(START, oracle=None)])
    assert columns["dq_reasons"] == ["oi_stale", "index_missing"]
    assert columns["dq_status"] == "partial"


# --- seal and final ------------------------------------------------------------------------------


def test_an_amended_minute_does_not_see_the_contexts_of_the_next() -> None:
    """They arrive between seal and final; the amendment is that of the late print alone."""
    state = STEP.initial()
    quotes = [Quote(START * 1_000_000, START, 99.0, 1.0, 101.0, 1.0)]
    ticks = ticks_of(trades=[trade(START)], quotes=quotes, contexts=[context(M - 2000, 4.0)])
    (sealed,) = run(ticks, boundary(), state=state)
    between = ticks_of(
        contexts=[context(M + 1600, 9.0, 90.0, 80.0, 9.0)], trades=[trade(M - 1, 101.0)]
    )
    (amended,) = run(between, boundary(final=True), state=state)
    assert sealed.bar is not None
    assert amended.bar is not None
    assert amended.bar.revision == 1
    assert {name: amended.bar.columns[name] for name in COLUMNS} == {
        name: sealed.bar.columns[name] for name in COLUMNS
    }
    after = minute([], label=M + MINUTE_MS, state=state, step=PATIENT)
    assert (after["oi_close"], after["oi_staleness_ms"]) == (810.0, 58_400)
    assert after["basis_bp_m_1"] == 1250.0


def test_contexts_alone_never_amend() -> None:
    """None can arrive late: their time is their arrival."""
    ticks = ticks_of(trades=[trade(START)], contexts=[context(M - 2000)])
    _, final = run(ticks, boundary(), ticks_of(contexts=[context(M + 1600)]), boundary(final=True))
    assert final.bar is None


# --- against a naive computation -----------------------------------------------------------------

arrivals = st.integers(-90_000, 59_999).map(lambda k: START + k)
coins = st.none() | st.integers(0, 10_000).map(lambda k: k / 8)
prices = st.none() | st.integers(9000, 11_000).map(lambda k: k / 100)
rates = st.none() | st.integers(-50, 50).map(lambda k: k / 1e6)
contexts_at = st.builds(context, arrivals, coins, prices, prices, rates)
context_lists = st.lists(contexts_at, max_size=12).map(
    lambda found: sorted(found, key=lambda c: c.arrival_ns)
)


def naive(contexts: Sequence[Context], limit_ms: int) -> Columns:
    """Recompute the columns from all contexts before the close, in exact arithmetic."""
    own = [c for c in contexts if c.arrival_ns >= START * 1_000_000]
    samples = [c for c in contexts if None not in (c.open_interest_base, c.mark_px)]
    expected: Columns = dict.fromkeys(COLUMNS)
    expected["time_to_next_funding_sec"] = 1800
    announced = [c.funding_rate for c in contexts if c.funding_rate is not None]
    expected["funding_h_1"] = announced[-1] if announced else None
    premiums = [
        (Fraction(c.mark_px) - Fraction(c.oracle_px)) / Fraction(c.oracle_px) * 10_000
        for c in own
        if c.mark_px is not None and c.oracle_px is not None
    ]
    if premiums:
        expected["basis_bp_m_1"] = float(sum(premiums, Fraction(0)) / len(premiums))
    if not samples:
        return expected
    age = M - samples[-1].arrival_ns // 1_000_000
    expected["oi_staleness_ms"] = age
    if age <= limit_ms:
        inside = [c for c in samples if c in own] or samples[-1:]
        values = [
            round12(float(Fraction(c.open_interest_base or 0.0) * Fraction(c.mark_px or 0.0)))
            for c in inside
        ]
        expected |= {
            "oi_open": values[0],
            "oi_close": values[-1],
            "oi_min": min(values),
            "oi_max": max(values),
            "oi_close_base": samples[-1].open_interest_base,
            "mark_close": samples[-1].mark_px,
        }
    return expected


@pytest.mark.parametrize("step", [STEP, PATIENT], ids=["pack", "patient"])
@settings(max_examples=150, deadline=None)
@given(context_lists)
def test_oracle_positioning_equals_the_naive_computation(
    step: Assemble, contexts: list[Context]
) -> None:
    """Any contexts of the minute and of those before it."""
    columns = minute(contexts, step=step)
    expected = naive(contexts, LIMIT_MS if step is STEP else 120_000)
    for name in COLUMNS:
        if name == "basis_bp_m_1" and expected[name] is not None:
            assert columns[name] == pytest.approx(expected[name], rel=1e-11, abs=1e-9)
        else:
            assert columns[name] == expected[name], name
    assert ("oi_stale" in columns["dq_reasons"]) is (expected["oi_close"] is None)
    own = [c for c in contexts if c.arrival_ns >= START * 1_000_000]
    if own and all(c.oracle_px is None for c in own):
        assert "index_missing" in columns["dq_reasons"]
    if not own or expected["basis_bp_m_1"] is not None:
        assert "index_missing" not in columns["dq_reasons"]


@settings(max_examples=80, deadline=None)
@given(context_lists)
def test_property_open_and_close_lie_between_min_and_max(contexts: list[Context]) -> None:
    """Of a minute whose levels are known; all four are known or none is."""
    columns = minute(contexts, step=PATIENT)
    opened, closed, low, high = levels(columns)
    if opened is None:
        assert levels(columns) == [None] * 4
        return
    assert closed is not None
    assert low is not None
    assert high is not None
    assert low <= opened <= high
    assert low <= closed <= high
    assert closed == round12(columns["oi_close_base"] * columns["mark_close"])


later = st.builds(
    context, st.integers(0, 200_000).map(lambda k: M + k), coins, prices, prices, rates
)


@settings(max_examples=80, deadline=None)
@given(context_lists, st.lists(later, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_property_what_arrives_at_the_close_or_after_changes_nothing(
    contexts: list[Context], more: list[Context], rng: random.Random
) -> None:
    """Before the seal, between the earlier ones, or between seal and final."""

    def bars(before: list[Context], between: list[Context]) -> list[Bar | None]:
        first = ticks_of(trades=[trade(START)], contexts=before)
        second = ticks_of(contexts=between)
        return [item.bar for item in run(first, boundary(), second, boundary(final=True))]

    alone = bars(contexts, [])
    assert alone[1] is None
    mixed = contexts.copy()
    for one in more:
        mixed.insert(rng.randrange(len(mixed) + 1), one)
    assert bars(contexts + more, []) == bars(contexts, more) == bars(mixed, []) == alone


@settings(max_examples=60, deadline=None)
@given(context_lists, st.lists(st.integers(1, 4), max_size=8))
def test_property_cuts_and_restarts_leave_no_trace(
    contexts: list[Context], cuts: list[int]
) -> None:
    """Any micro-batches, with the state written and read at every cut, also when it carries."""
    state, at = PATIENT.initial(), 0
    for size in [*cuts, len(contexts)]:
        run(ticks_of(contexts=contexts[at : at + size]), state=state, step=PATIENT)
        state = CODEC.decode(CODEC.encode(state))
        at += size
    whole = PATIENT.initial()
    assert minute([], state=state, step=PATIENT) == minute(contexts, state=whole, step=PATIENT)
    state = CODEC.decode(CODEC.encode(state))
    label = M + MINUTE_MS
    after = minute([], label=label, state=state, step=PATIENT)
    assert after == minute([], label=label, state=whole, step=PATIENT)
