"""Imbalance and depth of the top five levels, and the drift of the microprice, over a minute."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.assemble import Assemble, AssemblyCodec, AssemblyState
from operators.formulas.elementary import median, round12
from operators.lattice import MINUTE_MS
from operators.layout import ticks_of
from operators.records import (
    Asset,
    Bar,
    BarItem,
    Book,
    Boundary,
    Columns,
    Feed,
    Phase,
    Quote,
    Ticks,
    Trade,
)
from packs.loader import load_packs

M = 1_756_891_800_000  # 09:30:00; the minute under test is [09:29:00, 09:30:00)
START = M - MINUTE_MS
MAJOR = Asset(0, "BTC", ("bbo", "l2Book", "trades"))
THIN = Asset(0, "BTC", ("bbo", "trades"))
BOOKS_ONLY = Asset(0, "BTC", ("l2Book", "trades"))
FEATURES = load_packs().features
STEP = Assemble(FEATURES)
CODEC = AssemblyCodec()
LIMIT_MS = FEATURES.quality.depth_staleness_ms_max

OBI = "obi_top5_mean_m_1"
DEPTH = "depth_top5_quote_median_m_1"
DRIFT = "microprice_drift_s_30"

Level = tuple[float, float]


def sides(at_ms: int, bids: Sequence[Level], asks: Sequence[Level]) -> Book:
    """Return a snapshot that arrives 300 ms after its time."""
    return Book((at_ms + 300) * 1_000_000, at_ms, tuple(bids), tuple(asks))


def book(at_ms: int, bid: float | None = 100.0, ask: float | None = 100.0) -> Book:
    """Return a snapshot with so much depth in quote currency on each side, all at one level."""
    bids = [] if bid is None else [(100.0, bid / 100.0)]
    asks = [] if ask is None else [(125.0, ask / 125.0)]
    return sides(at_ms, bids, asks)


def quote(
    at_ms: int,
    bid: float | None = 99.0,
    ask: float | None = 101.0,
    bid_sz: float | None = 1.0,
    ask_sz: float | None = 1.0,
) -> Quote:
    """Return a top of book."""
    return Quote((at_ms + 300) * 1_000_000, at_ms, bid, bid_sz, ask, ask_sz)


def trade(at_ms: int) -> Trade:
    """Return a print; every minute here has one, so that only the book is to blame."""
    return Trade((at_ms + 300) * 1_000_000, at_ms, 100.0, 1.0, True, at_ms)


def boundary(minute_ms: int = M, *, final: bool = False, asset: Asset = MAJOR) -> Boundary:
    """Return a closing of a minute on a healthy feed."""
    clock_ms = minute_ms + (3000 if final else 1500)
    feed = Feed(last_frame_ms=clock_ms, clock_skew_ms=300)
    return Boundary(Phase(minute_ms, final, 1, clock_ms), asset, feed)


def run(*items: Ticks | Boundary, state: AssemblyState | None = None) -> list[BarItem]:
    """Feed items to a fresh asset (or a given state) and return what comes out."""
    state = state or STEP.initial()
    return [out for item in items for out in STEP.step(state, item)]


def bars(*items: Ticks | Boundary, state: AssemblyState | None = None) -> list[Bar]:
    """Return the bars that come out; each of the items must give one, or none at all."""
    return [item.bar for item in run(*items, state=state) if item.bar is not None]


def minute(
    books: Sequence[Book] = (),
    quotes: Sequence[Quote] = (),
    *,
    label: int = M,
    asset: Asset = MAJOR,
    state: AssemblyState | None = None,
) -> Bar:
    """Return the sealed bar of a minute with one print and these messages; make it final."""
    start = label - MINUTE_MS
    top = [] if "bbo" not in asset.channels or quotes else [quote(start)]
    ticks = ticks_of(trades=[trade(start)], books=books, quotes=[*top, *quotes])
    closings = (boundary(label, asset=asset), boundary(label, final=True, asset=asset))
    (bar,) = bars(ticks, *closings, state=state)
    return bar


def depth(books: Sequence[Book] = (), **closing: object) -> tuple[float | None, float | None]:
    """Return imbalance and depth of a minute with these snapshots."""
    columns = minute(books, **closing).columns  # type: ignore[arg-type]
    return columns[OBI], columns[DEPTH]


# --- what a snapshot is worth, and for how long --------------------------------------------------


def test_the_imbalance_is_weighted_by_time() -> None:
    r"""Three quarters bid for 45 s, a half for 12 s, a tenth for 3 s.

    09:29:00              :45      :57  09:30:00
       |------- 0.75 ------|-- 0.5 --|- 0.1 -|
    """
    books = [
        book(START, 300.0, 100.0),
        book(START + 45_000, 200.0, 200.0),
        book(START + 57_000, 50.0, 450.0),
    ]
    mean = (0.75 * 45 + 0.5 * 12 + 0.1 * 3) / 60
    assert depth(books) == (round12(mean), 400.0)
    assert minute(books).columns["dq_reasons"] == []


def test_the_snapshot_before_the_minute_carries_in() -> None:
    """It counts for the imbalance until the first of the minute, and not for the depth."""
    state = STEP.initial()
    minute([book(M - 1000, 900.0, 100.0)], state=state)
    found = depth([book(M + 15_000, 100.0, 300.0)], label=M + MINUTE_MS, state=state)
    assert found == (None, None)  # 45 s old at the close
    state = STEP.initial()
    minute([book(M - 1000, 900.0, 100.0)], state=state)
    books = [book(M + 15_000, 100.0, 300.0), book(M + 55_000, 100.0, 300.0)]
    found = depth(books, label=M + MINUTE_MS, state=state)
    assert found == (round12((0.9 * 15 + 0.25 * 45) / 60), 400.0)


def test_without_a_snapshot_before_the_minute_only_known_time_counts() -> None:
    """The stretch before the first one says nothing."""
    assert depth([book(START + 50_000, 300.0, 100.0)]) == (0.75, 400.0)


def test_a_snapshot_before_the_first_minute_carries_into_it() -> None:
    """Of history the newest is the state to start from."""
    books = [
        book(START - 200_000, 1.0, 999.0),
        book(START - LIMIT_MS, 900.0, 100.0),
        book(START - 100_000, 1.0, 999.0),
        book(START + 54_000, 500.0, 500.0),
    ]
    assert depth(books) == (round12((0.9 * 54 + 0.5 * 6) / 60), 1000.0)


def test_a_snapshot_that_is_old_when_the_minute_begins_is_not_carried() -> None:
    """A millisecond beyond 15 s it says nothing about the book."""
    books = [book(START - LIMIT_MS - 1, 900.0, 100.0), book(START + 54_000, 500.0, 500.0)]
    assert depth(books) == (0.5, 1000.0)


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_an_old_snapshot_says_nothing_about_the_book(over: int) -> None:
    """At exactly 15 s the newest one still counts, a millisecond later nothing does."""
    assert LIMIT_MS == 15_000
    bar = minute([book(START, 300.0, 100.0), book(M - LIMIT_MS - over, 300.0, 100.0)])
    found = (bar.columns[OBI], bar.columns[DEPTH])
    assert found == ((None, None) if over > 0 else (0.75, 400.0))
    assert ("book_missing" in bar.columns["dq_reasons"]) is (over > 0)


def test_age_is_that_of_the_newest_by_venue_time() -> None:
    """A snapshot that comes last but is older makes nothing older."""
    late = [book(M - 1000, 300.0, 100.0), book(M - 50_000, 300.0, 100.0)]
    assert depth(late) == (0.75, 400.0)


def test_a_minute_without_a_snapshot_has_no_depth() -> None:
    """What carries in is not enough, however young it is."""
    state = STEP.initial()
    minute([book(M - 1, 300.0, 100.0)], state=state)
    bar = minute([], label=M + MINUTE_MS, state=state)
    assert (bar.columns[OBI], bar.columns[DEPTH]) == (None, None)
    assert bar.columns["dq_reasons"] == ["book_stale", "book_missing"]
    assert bar.columns["dq_status"] == "stale"


def test_a_missing_book_alone_is_partial() -> None:
    """A snapshot that confirms the top, but is empty: there is no depth."""
    bar = minute([book(M - 1000, None, None)])
    assert (bar.columns[OBI], bar.columns[DEPTH]) == (None, None)
    assert (bar.columns["dq_status"], bar.columns["dq_reasons"]) == ("partial", ["book_missing"])


def test_a_book_that_is_not_subscribed_has_no_columns_and_no_blame() -> None:
    """Snapshots of others leave no trace."""
    for books in ([], [book(M - 1000)]):
        columns = minute(books, asset=THIN).columns
        assert OBI not in columns
        assert DEPTH not in columns
        assert columns["dq_status"] == "ok"


def test_only_five_levels_count() -> None:
    """The best five of each side, the rest as if they were not there."""
    bids = [(100.0 - k, 1.0 + k) for k in range(5)]
    asks = [(101.0 + k, 2.0 + k) for k in range(5)]
    deep = sides(M - 1000, [*bids, (95.0, 1e9), (94.0, 1e9)], [*asks, (106.0, 1e9)])
    bid, ask = (sum(px * sz for px, sz in side) for side in (bids, asks))
    assert depth([deep]) == depth([sides(M - 1000, bids, asks)])
    assert depth([deep]) == (round12(bid / (bid + ask)), round12(bid + ask))
    four = depth([sides(M - 1000, bids[:4], asks)])
    assert four[1] == round12(bid + ask - bids[4][0] * bids[4][1])


@pytest.mark.parametrize(
    ("totals", "expected"),
    [
        ([400.0], 400.0),
        ([400.0, 800.0], 600.0),
        ([900.0, 400.0, 800.0], 800.0),
        ([900.0, 400.0, 800.0, 500.0], 650.0),
    ],
)
def test_the_depth_is_the_median_over_snapshots(totals: list[float], expected: float) -> None:
    """Of an even count the mean of the middle two; how long each one held does not matter."""
    books = [book(START + 46_000 + k**3, t / 2, t / 2) for k, t in enumerate(totals)]
    assert depth(books) == (0.5, expected)


@pytest.mark.parametrize(("bid", "ask"), [(None, 500.0), (500.0, None), (None, None)])
def test_a_book_without_two_sides_is_unknown(bid: float | None, ask: float | None) -> None:
    """It ends the one before it, counts for nothing, and is not zero (design D23)."""
    books = [
        book(START, 300.0, 100.0),
        book(START + 20_000, bid, ask),
        book(START + 50_000, 100.0, 300.0),
    ]
    assert depth(books) == (round12((0.75 * 20 + 0.25 * 10) / 30), 400.0)
    fresh = [book(START, 300.0, 100.0), book(M - 1, bid, ask)]
    assert depth(fresh) == (0.75, 400.0)  # the last one is no depth, but it is news
    state = STEP.initial()
    minute([book(M - 1000, bid, ask)], state=state)
    after = depth([book(M + 50_000, 300.0, 100.0)], label=M + MINUTE_MS, state=state)
    assert after == (0.75, 400.0)


def test_of_one_instant_the_last_snapshot_holds() -> None:
    """In the order of arrival, for the median too: one that is sent again counts once."""
    books = [book(M - 10_000, 900.0, 100.0), book(M - 10_000, 100.0, 300.0)]
    assert depth(books) == (0.25, 400.0)
    assert depth(books[::-1]) == (0.9, 1000.0)


def test_snapshots_of_the_next_minute_wait() -> None:
    """One dated 09:30:00.000 that arrives before the seal is not in this minute."""
    state = STEP.initial()
    ticks = ticks_of(
        trades=[trade(START)], books=[book(M - 1, 300.0, 100.0), book(M, 100.0, 900.0)]
    )
    sealed, *_ = bars(ticks, boundary(), boundary(final=True), state=state)
    assert (sealed.columns[OBI], sealed.columns[DEPTH]) == (0.75, 400.0)
    found = depth([book(M + 59_999, 1.0, 1.0)], label=M + MINUTE_MS, state=state)
    assert found == (round12((0.1 * 59_999 + 0.5) / 60_000), 501.0)


# --- late messages -------------------------------------------------------------------------------


def test_a_late_snapshot_inside_grace_amends() -> None:
    """Imbalance and depth are those of all snapshots of the minute."""
    state = STEP.initial()
    ticks = ticks_of(
        trades=[trade(START)], quotes=[quote(START)], books=[book(START, 300.0, 100.0)]
    )
    late = ticks_of(books=[book(START + 48_000, 100.0, 500.0)])
    sealed, amended = bars(ticks, boundary(), late, boundary(final=True), state=state)
    assert (sealed.columns[OBI], amended.columns[OBI]) == (
        None,
        round12((0.75 * 48 + 12 / 6) / 60),
    )
    assert amended.columns[DEPTH] == 500.0
    assert "book_missing" in sealed.columns["dq_reasons"]
    assert "book_missing" not in amended.columns["dq_reasons"]
    assert (sealed.revision, amended.revision) == (0, 1)


def test_a_late_snapshot_after_the_final_only_carries() -> None:
    """It changes no row; it holds from then on if it is the newest."""
    state = STEP.initial()
    minute([book(M - 5000, 300.0, 100.0)], state=state)
    late = [book(M - 1000, 900.0, 100.0), book(M - 3000, 1.0, 1.0)]
    books = [*late, book(M + 54_000, 500.0, 500.0)]
    found = depth(books, label=M + MINUTE_MS, state=state)
    assert found == (round12((0.9 * 54 + 0.5 * 6) / 60), 1000.0)


def test_a_late_quote_that_only_moves_the_microprice_amends() -> None:
    """Same prices, other sizes: no column changes, the extras do."""
    state = STEP.initial()
    quotes = [quote(START), quote(START + 1000)]
    ticks = ticks_of(trades=[trade(START)], quotes=quotes)
    late = ticks_of(quotes=[quote(M - 5, bid_sz=3.0)])
    closings = (boundary(asset=THIN), boundary(final=True, asset=THIN))
    sealed, amended = bars(ticks, closings[0], late, closings[1], state=state)
    clocked = ("ingest_ts", "ingest_lag_ms")
    assert {n for n, v in sealed.columns.items() if v != amended.columns[n]} == set(clocked)
    assert sealed.extras == {DRIFT: 0.0}
    assert amended.extras == {DRIFT: 0.005}  # 100.5 against 100
    assert amended.revision == 1


def test_extras_that_appear_or_vanish_amend() -> None:
    """A late quote gives the minute its earlier end, another one takes the close away."""
    early = quote(START + 5000)
    ticks = ticks_of(trades=[trade(START)], quotes=[quote(START + 40_000), quote(START + 41_000)])
    closings = (boundary(asset=THIN), boundary(final=True, asset=THIN))
    sealed, amended = bars(ticks, closings[0], ticks_of(quotes=[early]), closings[1])
    assert (sealed.extras, amended.extras) == ({}, {DRIFT: 0.0})
    gone = ticks_of(quotes=[quote(M - 1, ask=None)])
    ticks = ticks_of(trades=[trade(START)], quotes=[early])
    sealed, amended = bars(ticks, closings[0], gone, closings[1])
    assert (sealed.extras, amended.extras) == ({DRIFT: 0.0}, {})


def test_a_late_quote_that_changes_nothing_does_not_amend() -> None:
    """The same top once more."""
    ticks = ticks_of(trades=[trade(START)], quotes=[quote(START), quote(START + 1000)])
    again = ticks_of(quotes=[quote(M - 5)])
    found = run(ticks, boundary(asset=THIN), again, boundary(final=True, asset=THIN))
    assert found[1].bar is None


# --- microprice ----------------------------------------------------------------------------------


def drift(quotes: Sequence[Quote], **closing: object) -> float | None:
    """Return the drift of a minute with these quotes."""
    extras = minute((), quotes, asset=THIN, **closing).extras  # type: ignore[arg-type]
    assert set(extras) <= {DRIFT}
    return extras.get(DRIFT)


def test_the_microprice_leans_away_from_the_larger_size() -> None:
    """Three times the size on the bid: the next move is more likely up."""
    quotes = [quote(START), quote(M - 10_000, bid_sz=3.0)]
    assert drift(quotes) == 0.005
    assert drift([quote(START), quote(M - 10_000, ask_sz=3.0)]) == -0.005
    assert drift([quote(START), quote(M - 10_000, 109.0, 111.0)]) == 0.1


@pytest.mark.parametrize(
    ("at_ms", "expected"), [(M - 30_001, 0.0), (M - 30_000, 0.0), (M - 29_999, 0.1)]
)
def test_the_drift_starts_from_the_quote_in_force_30_s_before(at_ms: int, expected: float) -> None:
    """A quote at that very instant is in force there."""
    assert drift([quote(START), quote(at_ms, 109.0, 111.0)]) == expected


def test_of_one_instant_the_last_quote_is_in_force() -> None:
    """At the close and 30 s before."""
    then = [quote(M - 30_000, 89.0, 91.0), quote(M - 30_000)]
    now = [quote(M - 1, 89.0, 91.0), quote(M - 1, 109.0, 111.0)]
    assert drift([*then, *now]) == 0.1


def test_quotes_carry_into_the_drift() -> None:
    """Without a quote in the minute nothing moved; with a late one it moved from what carried."""
    state = STEP.initial()
    minute((), [quote(START)], asset=THIN, state=state)
    ticks = ticks_of(trades=[trade(M)])
    closings = [boundary(M + MINUTE_MS, final=final, asset=THIN) for final in (False, True)]
    (bar,) = bars(ticks, *closings, state=state)
    assert bar.extras == {DRIFT: 0.0}
    found = drift([quote(M + 119_000, 109.0, 111.0)], label=M + 2 * MINUTE_MS, state=state)
    assert found == 0.1


@pytest.mark.parametrize(
    "quotes",
    [
        [quote(M - 29_999)],
        [quote(START, None, 101.0), quote(M - 1)],
        [quote(START, 99.0, None), quote(M - 1)],
        [quote(START), quote(M - 1, None, 101.0)],
        [quote(START), quote(M - 1, 99.0, None)],
        [quote(START), quote(M - 1, bid_sz=None)],
        [quote(START, ask_sz=None), quote(M - 1)],
        [quote(START, bid_sz=0.0, ask_sz=0.0), quote(M - 1)],
    ],
)
def test_a_drift_that_is_unknown_is_left_out(quotes: list[Quote]) -> None:
    """Either end without two sides and their sizes, or no quote 30 s before."""
    assert drift(quotes) is None


def test_without_any_quote_there_are_no_extras() -> None:
    """Nor without the feed."""
    sealed, *_ = bars(ticks_of(trades=[trade(START)]), boundary(asset=THIN))
    assert sealed.extras == {}
    sealed, *_ = bars(ticks_of(trades=[trade(START)]), boundary(asset=Asset(0, "X", ("trades",))))
    assert sealed.extras == {}


def test_crossed_quotes_do_not_drift() -> None:
    """They are dropped before anything else."""
    assert drift([quote(START), quote(M - 1, 105.0, 101.0)]) == 0.0


def test_the_drift_is_rounded_once() -> None:
    """Twelve digits, from microprices that are not rounded."""
    before, now = quote(START, 99.01, 101.07, 1.3, 2.9), quote(M - 1, 99.5, 101.9, 3.1, 0.7)
    micro = []
    for q in (before, now):
        assert q.bid_px is not None
        assert q.ask_px is not None
        assert q.bid_sz is not None
        assert q.ask_sz is not None
        weighted = q.ask_px * q.bid_sz + q.bid_px * q.ask_sz
        micro.append(weighted / (q.bid_sz + q.ask_sz))
    assert drift([before, now]) == round12((micro[1] - micro[0]) / micro[0])


def test_the_drift_is_that_of_quotes_alone() -> None:
    """Snapshots come too seldom to say where the book leans."""
    bar = minute([book(START), book(M - 1000, 300.0, 100.0)], asset=BOOKS_ONLY)
    assert bar.extras == {}


# --- against a naive computation -----------------------------------------------------------------

GRID = 500
times = st.integers(-40, MINUTE_MS // GRID - 1).map(lambda k: START + GRID * k)
level_lists = st.lists(st.tuples(st.integers(90, 110), st.integers(1, 80)), max_size=7).map(
    lambda found: [(px / 4, sz / 8) for px, sz in found]
)
snapshots = st.builds(sides, times, level_lists, level_lists)
book_lists = st.lists(snapshots, max_size=12)


def naive(books: Sequence[Book]) -> tuple[float | None, float | None]:
    """Walk the minute slot by slot and look at all snapshots each time."""
    plain = [b for b in books if not (b.bids and b.asks and b.bids[0][0] > b.asks[0][0])]
    ordered = sorted(plain, key=lambda b: b.time_ms)
    own = list({b.time_ms: b for b in ordered if b.time_ms >= START}.values())
    if not own or M - own[-1].time_ms > LIMIT_MS:
        return None, None

    def both(b: Book) -> tuple[Fraction, Fraction] | None:
        if not b.bids or not b.asks:
            return None
        bid, ask = (
            sum((Fraction(px) * Fraction(sz) for px, sz in side[:5]), Fraction(0))
            for side in (b.bids, b.asks)
        )
        return bid, ask

    shares = []
    for at_ms in range(START, M, GRID):
        held = [b for b in ordered if START - LIMIT_MS <= b.time_ms <= at_ms]
        known = both(held[-1]) if held else None
        if known is not None:
            shares.append(known[0] / (known[0] + known[1]))
    totals = [float(bid + ask) for bid, ask in filter(None, map(both, own))]
    mean = float(sum(shares, Fraction(0)) / len(shares)) if shares else None
    return mean, median(totals) if totals else None


@settings(max_examples=150, deadline=None)
@given(book_lists)
def test_oracle_depth_equals_the_naive_computation(books: list[Book]) -> None:
    """Any snapshots in any order, before the minute and in it, some without a side."""
    columns = minute(books).columns
    obi, total = naive(books)
    if obi is None:
        assert columns[OBI] is None
    else:
        assert columns[OBI] == pytest.approx(obi, rel=1e-11)
    assert columns[DEPTH] == total
    assert ("book_missing" in columns["dq_reasons"]) is (obi is None or total is None)


extreme = st.lists(st.tuples(st.floats(1e-6, 1e11), st.floats(1e-9, 1e14)), max_size=6)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.builds(sides, times, extreme, extreme), max_size=8))
def test_property_the_imbalance_is_a_share(books: list[Book]) -> None:
    """0 <= obi <= 1 however lopsided the book, and depth is positive."""
    obi, total = depth([*books, book(M - 1)])
    assert obi is not None
    assert total is not None
    assert 0.0 <= obi <= 1.0
    assert total > 0.0


@settings(max_examples=80, deadline=None)
@given(
    st.lists(snapshots, max_size=10, unique_by=lambda b: b.time_ms),
    st.randoms(use_true_random=False),
)
def test_property_the_order_of_arrival_does_not_matter(
    books: list[Book], rng: random.Random
) -> None:
    """Of snapshots with times of their own; cut anywhere, with a restart at every cut."""
    shuffled = books.copy()
    rng.shuffle(shuffled)
    state = STEP.initial()
    while shuffled:
        cut = rng.randrange(1, len(shuffled) + 1)
        run(ticks_of(books=shuffled[:cut]), state=state)
        shuffled = shuffled[cut:]
        state = CODEC.decode(CODEC.encode(state))
    label = M + MINUTE_MS
    whole = STEP.initial()
    assert minute([], state=state) == minute(books, state=whole)
    after = [book(M + 50_000)]
    assert minute(after, label=label, state=state) == minute(after, label=label, state=whole)


@settings(max_examples=60, deadline=None)
@given(book_lists, st.lists(snapshots, max_size=4))
def test_property_grace_gives_what_punctuality_would_have(
    books: list[Book], late: list[Book]
) -> None:
    """Snapshots of the minute that come after its seal end in the same row as if in time."""
    late = [b for b in late if b.time_ms >= START]
    own = ticks_of(trades=[trade(START)], quotes=[quote(START)], books=books)
    found = bars(own, boundary(), ticks_of(books=late), boundary(final=True))[-1]
    punctual = minute([*books, *late])
    assert _timeless(found.columns) == _timeless(punctual.columns)
    assert found.extras == punctual.extras


def _timeless(columns: Columns) -> Columns:
    counted = ("ingest_ts", "ingest_lag_ms", "dropped_ticks")  # a crossed one when it is heard
    return {n: v for n, v in columns.items() if n not in counted}
