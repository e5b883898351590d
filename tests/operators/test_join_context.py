"""All assets of a minute meet once: the frame, membership, and each row on its way back."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from operators.context import Context
from operators.context_state import ContextState
from operators.join import PENDING_PHASES_MAX, Join, by_phase
from operators.lattice import HOUR_MS, MINUTE_MS
from operators.records import (
    MARKET_UID,
    Audit,
    Candidate,
    Change,
    Columns,
    MarketPhase,
    Phase,
    Row,
    RowItem,
    RowItems,
    ScoreItem,
)
from operators.score import Score
from packs.loader import Packs, load_packs
from packs.schema import Timeframe

PACKS = load_packs()
NAMES = {tf: PACKS.features.names(tf) for tf in ("1m", "15m", "1h")}
T0 = 1_756_890_000_000  # 09:00:00, minute 0 of a test
SYMBOLS = ("BTC", "ETH", "SOL", "HYPE", "APT", "SEI", "ENA", "XRP", "ADA", "ARB", "DOGE", "DOT")
VOL, PRICE_UP = "spike.vol_spike_m_1", "spike.price_spike_up_m_1"
LED = "spike.led_m_1"
COMBO, SPREAD = "combo.price_up_volume_up_m_1", "shift.spread_stress_m_1"


def candidate(detector_id: str = VOL, primary: float = 3.0, gate: str | None = None) -> Candidate:
    """Return a trigger that held, without support."""
    return Candidate(detector_id, primary, 0.0, gate)


class Asset(msgspec.Struct):
    """What one asset contributes to a minute."""

    uid: int
    symbol: str
    columns: Columns
    candidates: tuple[Candidate, ...]


def asset(
    uid: int, *candidates: Candidate, symbol: str = "", rs: float = 0.0, ret: float | None = 0.0,
    z_vol: float | None = 0.0, volume: float | None = 1e6, dq: str = "ok", **more: Any,
) -> Asset:  # fmt: skip
    """Return an asset's minute; what is not said is calm."""
    columns: Columns = {
        **dict.fromkeys(NAMES["1m"]),
        "rs_score_m_5": rs,
        "ret_m_5": ret,
        "z_vol_m_1": z_vol,
        "v_total_m_1": volume,
        "dq_status": dq,
        "warmup": False,
        "illiquidity_hit": False,
        "dq_penalty": 0,
        "illiq_penalty": 0,
        "ingest_ts": "2025-09-03T09:00:01.500Z",
        "ingest_lag_ms": 1500,
        "clock_skew_ms": None,
        "book_staleness_ms": None,
        **more,
    }
    if z_vol == 0.0 and any(found.detector_id == VOL for found in candidates):
        columns["z_vol_m_1"] = 9.0  # its trigger holds on the row, in any liquidity tier
    return Asset(uid, symbol or SYMBOLS[uid], columns, candidates)


def items(
    minute: int, assets: Sequence[Asset], *, final: bool = False, silent: Sequence[int] = ()
) -> list[RowItem]:
    """Return one item per asset for a phase; `silent` assets take part without a row."""
    label = T0 + minute * MINUTE_MS
    phase = Phase(label, final, len(assets) + len(silent), label + (3000 if final else 1500))
    made = [RowItem(phase, uid, ()) for uid in silent]
    for one in assets:
        row = Row(one.uid, one.symbol, "1m", label, int(final), one.columns)
        made.append(RowItem(phase, one.uid, (row,), (one.candidates,)))
    return made


def policy(**changes: Any) -> Packs:
    """Return packs with another universe policy; bands are pairs (rank, minutes)."""
    universe = PACKS.universe
    if "entry" in changes:
        n_entry, k_entry = changes.pop("entry")
        band = universe.entry_band.model_copy(update={"n_entry": n_entry, "k_entry": k_entry})
        changes["entry_band"] = band
    if "leave" in changes:
        n_exit, k_exit = changes.pop("leave")
        changes["exit_band"] = universe.exit_band.model_copy(
            update={"n_exit": n_exit, "k_exit": k_exit}
        )
    if "hot_subtypes" in changes:
        hot = universe.hotlist.model_copy(update={"subtypes": changes.pop("hot_subtypes")})
        changes["hotlist"] = hot
    return replace(PACKS, universe=universe.model_copy(update=changes))


ONE_MEMBER = policy(n_base=1, entry=(1, 3), leave=(1, 5))


class Market:
    """A context with its state."""

    def __init__(self, packs: Packs = PACKS) -> None:
        self.step = Context(packs)
        self.state = self.step.initial()

    def feed(self, made: Iterable[RowItem]) -> list[MarketPhase | ScoreItem]:
        """Return everything that comes out."""
        return [
            out
            for item in made
            for out in self.step.step(self.state, RowItems(item.phase, (item,)))
        ]

    def phase(
        self, minute: int, *assets: Asset, final: bool = False, silent: Sequence[int] = ()
    ) -> tuple[MarketPhase, dict[int, ScoreItem]]:
        """Close one phase; return the market and the items on their way back."""
        market, *back = self.feed(items(minute, assets, final=final, silent=silent))
        assert isinstance(market, MarketPhase)
        joined = {item.asset_uid: item for item in back if isinstance(item, ScoreItem)}
        assert list(joined) == [MARKET_UID, *sorted(joined)[1:]]
        return market, joined

    def frame(self, minute: int, *assets: Asset, final: bool = False) -> Columns:
        """Return the columns of the frame of one phase."""
        (frame,) = self.phase(minute, *assets, final=final)[0].frames
        assert (frame.tf, frame.exchange_ts_ms) == ("1m", T0 + minute * MINUTE_MS)
        return frame.columns


def frame_of(*assets: Asset, packs: Packs = PACKS) -> Columns:
    """Return the frame of a first minute."""
    return Market(packs).frame(0, *assets)


# --- the join ------------------------------------------------------------------------------------


def phase(minute: int, *, final: bool = False, n: int = 3) -> Phase:
    """Return a phase of n assets."""
    return Phase(minute * MINUTE_MS, final, n, 0)


def test_a_phase_is_complete_when_all_have_sent() -> None:
    """Whatever the order of arrival, they come out by asset."""
    join = Join[str]()
    assert join.collect(phase(1), {7: "c"}, expected=3) == []
    assert join.collect(phase(1), {-1: "a"}, expected=3) == []
    assert join.collect(phase(1), {3: "b"}, expected=3) == [["a", "b", "c"]]
    assert join.pending == join.expected == {}


def test_sealed_and_final_are_two_phases() -> None:
    """An asset may be two closings ahead of another.

    asset 1   1s 1f 2s
    asset 2             1s -> 1s   1f -> 1f   2s -> 2s
    """
    join = Join[str]()
    for p in (phase(1), phase(1, final=True), phase(2)):
        assert join.collect(p, {1: "one"}, expected=2) == []
    for p in (phase(1), phase(1, final=True), phase(2)):
        assert join.collect(p, {2: "two"}, expected=2) == [["one", "two"]]


def test_a_batch_is_handed_on_by_phase_oldest_first() -> None:
    """An asset that joined later comes first: its minute waits for the one before."""
    old, new = phase(1, n=1), phase(2, n=2)
    came = [RowItem(new, 1, ()), RowItem(old, 2, ()), RowItem(new, 2, ())]
    groups = by_phase(came)
    assert groups == [RowItems(old, (came[1],)), RowItems(new, (came[0], came[2]))]
    step = Context(PACKS)
    state = step.initial()
    out = [
        o.phase for group in groups for o in step.step(state, group) if isinstance(o, MarketPhase)
    ]
    assert out == [old, new]


@given(st.data())
def test_property_arrival_order_between_assets_does_not_matter(data: st.DataObject) -> None:
    """Any interleaving of assets that keep their own order completes the same phases in order."""
    phases = [phase(m, final=f, n=3) for m in (1, 2) for f in (False, True)]
    waiting = {uid: list(phases) for uid in (0, 4, 9)}
    join, complete = Join[int](), []
    while any(waiting.values()):
        uid = data.draw(st.sampled_from([u for u, left in waiting.items() if left]))
        p = waiting[uid].pop(0)
        complete += [(p, done) for done in join.collect(p, {uid: uid}, expected=3)]
    assert complete == [(p, [0, 4, 9]) for p in phases]


def test_an_item_twice_is_a_bug() -> None:
    """Within an open phase it is noticed at once."""
    join = Join[str]()
    join.collect(phase(1), {1: "one"}, expected=2)
    with pytest.raises(AssertionError, match="twice"):
        join.collect(phase(1), {1: "one"}, expected=2)


def test_an_item_after_its_phase_is_a_bug_too() -> None:
    """Its phase completed without it being missed: somebody sent it twice."""
    join = Join[str]()
    for uid in (1, 2):
        join.collect(phase(1), {uid: "x"}, expected=2)
    with pytest.raises(AssertionError):
        join.collect(phase(1), {1: "x"}, expected=2)


@given(st.data())
def test_property_a_phase_waits_for_those_before_it(data: st.DataObject) -> None:
    """When an asset leaves, the others have the next minutes together before its last one came.

    asset 1   1 2 3 4
    asset 2             1 2 3 4
    asset 3                     1 2 -> 1, 2, 3, 4
    """
    rosters = {1: (1, 2, 3), 2: (1, 2, 3), 3: (1, 2), 4: (1, 2)}
    waiting = {uid: [m for m, r in rosters.items() if uid in r] for uid in (1, 2, 3)}
    join, complete = Join[int](), []
    while any(waiting.values()):
        uid = data.draw(st.sampled_from([u for u, left in waiting.items() if left]))
        minute = waiting[uid].pop(0)
        expected = len(rosters[minute])
        complete += join.collect(phase(minute, n=expected), {uid: uid}, expected=expected)
    assert complete == [list(roster) for roster in rosters.values()]


def test_rosters_that_share_no_asset_complete_in_order() -> None:
    """When all assets are replaced at once, the new ones may send before the old ones have.

    A phase says which one it follows, so it waits for one of which nothing has come.
    """
    first, second, third = phase(1, n=1), phase(2, n=1), phase(3, n=1)
    second = msgspec.structs.replace(second, follows=first.number)
    third = msgspec.structs.replace(third, follows=second.number)
    join = Join[int]()
    assert join.collect(first, {1: 1}, expected=1) == [[1]]
    assert join.collect(third, {3: 3}, expected=1) == []
    assert join.collect(second, {2: 2}, expected=1) == [[2], [3]]


def test_a_join_begins_with_whatever_comes_first() -> None:
    """A market that starts in the middle of a topic waits for nothing from before."""
    begun = msgspec.structs.replace(phase(7, n=1), follows=phase(6).number)
    assert Join[int]().collect(begun, {1: 1}, expected=1) == [[1]]


def test_a_join_that_waits_for_ever_fails() -> None:
    """Two weeks of minutes and one asset that never answers."""
    join = Join[int]()
    for minute in range(1, PENDING_PHASES_MAX + 1):
        assert join.collect(phase(minute), {1: 1}, expected=2) == []
    with pytest.raises(AssertionError, match="stuck"):
        join.collect(phase(PENDING_PHASES_MAX + 1), {1: 1}, expected=2)


# --- the leader ----------------------------------------------------------------------------------


def test_the_strongest_flow_among_majors_and_the_top_decile_leads() -> None:
    """Twelve assets: BTC, ETH and the two strongest names may lead, nobody else.

    lead = |ret_m_5| * max(z_vol, 0); HYPE has the most of it but is not in the top decile.
    """
    crowd = {uid: asset(uid, rs=-float(uid)) for uid in range(12)}
    crowd[3] = asset(3, rs=0.5, ret=0.05, z_vol=8.0)
    crowd[8] = asset(8, rs=3.0, ret=-0.02, z_vol=3.0)
    crowd[9] = asset(9, rs=2.0, ret=0.01, z_vol=3.0)
    crowd[1] = asset(1, ret=0.01, z_vol=2.0)
    assert frame_of(*crowd.values())["leader"] == "ADA"
    crowd[1] = asset(1, ret=0.05, z_vol=2.0)
    assert frame_of(*crowd.values())["leader"] == "ETH"
    crowd[3] = asset(3, rs=2.5, ret=0.05, z_vol=8.0)
    assert frame_of(*crowd.values())["leader"] == "HYPE"


def test_open_interest_that_agrees_helps_to_lead() -> None:
    """By half."""
    eth = asset(1, ret=-0.02, z_vol=2.0)
    assert frame_of(asset(0, ret=0.015, z_vol=2.0), eth)["leader"] == "ETH"
    for oi_roc, leader in ((0.01, "BTC"), (-0.01, "ETH"), (None, "ETH")):
        frame = frame_of(asset(0, ret=0.015, z_vol=2.0, oi_roc_m_5=oi_roc), eth)
        assert frame["leader"] == leader


def test_a_tie_has_no_leader_but_the_first_major() -> None:
    """Whatever the ids: build plan 6.4."""
    flow: Columns = {"ret": 0.01, "z_vol": 2.0}
    frame = frame_of(asset(5, symbol="ETH", **flow), asset(3, symbol="BTC", **flow))
    assert (frame["leader"], frame["leader_uid"]) == ("BTC", 3)
    frame = frame_of(asset(3, symbol="ETH", **flow), asset(5, symbol="BTC", **flow))
    assert (frame["leader"], frame["leader_uid"]) == ("BTC", 5)


@pytest.mark.parametrize(
    ("assets", "leader"),
    [
        ([asset(0), asset(1), asset(2, rs=9.0)], "BTC"),
        ([asset(0, ret=0.1, z_vol=-1.0), asset(1, ret=0.1, z_vol=None)], "BTC"),
        ([asset(4, symbol="BTC"), asset(1)], "BTC"),
        ([asset(1), asset(2, rs=9.0, ret=1e-10, z_vol=1.0)], "ETH"),
        ([asset(0, dq="stale", volume=None), asset(1)], "BTC"),
        ([asset(2), asset(3)], None),
    ],
)
def test_where_nothing_moves_the_first_major_stands_in(
    assets: list[Asset], leader: str | None
) -> None:
    """Build plan 6.4: below epsilon it is BTC, if present; without majors there is no leader."""
    frame = frame_of(*assets)
    assert frame["leader"] == leader
    assert (frame["leader_uid"] is None) == (leader is None)


def test_without_a_leader_there_is_no_dominance() -> None:
    """Nor when the one who stands in does not count itself, nor without any volume."""
    assert frame_of(asset(2))["dominance_share"] is None
    assert frame_of(asset(0, dq="stale"), asset(1))["dominance_share"] is None
    assert frame_of(asset(0, volume=0.0), asset(1, volume=0.0))["dominance_share"] is None


def test_dominance_is_the_share_of_five_minutes() -> None:
    """The leader's dollars of the last five minutes; the sixth is forgotten, NULL counts 0.

    minute      0    1   2   3     4   5
    BTC      1000   10  20   0  NULL   0
    ETH         0    0   0   0    10  60
    """
    market = Market()
    volumes = [(1000.0, 0.0), (10.0, 0.0), (20.0, 0.0), (0.0, 0.0), (None, 10.0), (0.0, 60.0)]
    shares = [
        market.frame(k, asset(0, volume=btc), asset(1, volume=eth))["dominance_share"]
        for k, (btc, eth) in enumerate(volumes)
    ]
    assert shares == [1.0, 1.0, 1.0, 1.0, float(f"{1030 / 1040:.12g}"), 0.3]


# --- the frame -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eligible", "status", "reasons"),
    [
        (0, "stale", ["no_eligible_asset"]),
        (1, "partial", ["few_eligible_assets"]),
        (4, "partial", ["few_eligible_assets"]),
        (5, "ok", []),
    ],
)
def test_a_frame_of_few_assets_says_so(eligible: int, status: str, reasons: list[str]) -> None:
    """Build plan 6.8: fewer than five are not a market."""
    crowd = [asset(k, dq="ok" if k < eligible else "partial") for k in range(7)]
    frame = frame_of(*crowd)
    assert (frame["dq_status"], frame["dq_reasons"]) == (status, reasons)
    assert (frame["eligible_count"], frame["excluded_count"]) == (eligible, 7 - eligible)


def test_strongest_and_weakest_names() -> None:
    """At most five of each, the extreme one first, ties to the lower id among the strong."""
    scores = [0.5, 3.0, -1.0, 3.0, 2.0, -4.0, 1.0, 0.0]
    frame = frame_of(*(asset(uid, rs=rs) for uid, rs in enumerate(scores)))
    assert frame["rs_top"] == ["ETH", "HYPE", "APT", "ENA", "BTC"]
    assert frame["rs_bottom"] == ["SEI", "SOL", "XRP", "BTC", "ENA"]


def test_few_names_are_listed_twice() -> None:
    """Two assets are both the strongest and the weakest."""
    frame = frame_of(asset(0, rs=1.0), asset(1, rs=2.0))
    assert (frame["rs_top"], frame["rs_bottom"]) == (["ETH", "BTC"], ["BTC", "ETH"])


def test_what_is_not_ok_does_not_count() -> None:
    """A stale asset is in no list, no dispersion and no total, but it is counted as excluded."""
    sound = [asset(0, rs=1.0, ret=0.25, z_vol=1.0), asset(1, rs=0.5, ret=0.75, z_vol=3.0)]
    wild = asset(2, rs=99.0, ret=9.0, z_vol=99.0, volume=1e12, dq="stale")
    alone, together = frame_of(*sound), frame_of(*sound, wild)
    changed = {name for name in alone if alone[name] != together[name]}
    assert changed == {"excluded_count", "universe_size"}
    assert (together["return_dispersion_m_5"], together["vol_dispersion_m_5"]) == (0.25, 1.0)


def test_null_is_left_out_of_a_dispersion() -> None:
    """And fewer than two values have none."""
    frame = frame_of(asset(0, ret=0.25), asset(1, ret=None, z_vol=None), asset(2, ret=0.75))
    assert frame["return_dispersion_m_5"] == 0.25
    assert frame["vol_dispersion_m_5"] == 0.0
    frame = frame_of(asset(0, ret=0.25), asset(1, ret=None, z_vol=None))
    assert frame["return_dispersion_m_5"] is None


@pytest.mark.parametrize(("minute", "seconds"), [(0, 3600), (1, 3540), (59, 60), (60, 3600)])
def test_funding_is_hourly(minute: int, seconds: int) -> None:
    """Computed from the schedule (design D11); a minute that closes on the hour starts the next."""
    assert T0 % HOUR_MS == 0
    assert Market().frame(minute, asset(0))["time_to_next_funding_sec"] == seconds


eighths = st.integers(-64, 64).map(lambda k: k / 8)
crowds: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.builds(
        dict,
        rs=eighths,
        ret=st.none() | st.integers(-20, 20).map(lambda k: k / 1024),
        z_vol=st.none() | eighths,
        volume=st.integers(0, 4000).map(float),
        dq=st.sampled_from(("ok", "ok", "ok", "partial", "stale")),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=80, deadline=None)
@given(crowds, st.randoms(use_true_random=False))
def test_oracle_the_frame_in_exact_arithmetic(crowd: list[dict[str, Any]], rng: Any) -> None:
    """Any assets in any order of arrival: the same frame as by the book."""
    made = items(0, [asset(uid, **columns) for uid, columns in enumerate(crowd)])
    rng.shuffle(made)
    market, *_ = Market().feed(made)
    assert isinstance(market, MarketPhase)
    found = market.frames[0].columns
    sound = {uid: c for uid, c in enumerate(crowd) if c["dq"] == "ok"}
    ranked = sorted(sound, key=lambda uid: (-sound[uid]["rs"], uid))
    assert found["rs_top"] == [SYMBOLS[uid] for uid in ranked[:5]]
    assert found["rs_bottom"] == [SYMBOLS[uid] for uid in ranked[::-1][:5]]
    for name, column in (("return_dispersion_m_5", "ret"), ("vol_dispersion_m_5", "z_vol")):
        known = [Fraction(c[column]) for c in sound.values() if c[column] is not None]
        if len(known) < 2:
            assert found[name] is None
        else:
            exact = math.sqrt(statistics.pvariance(known))
            assert math.isclose(found[name], exact, rel_tol=1e-11, abs_tol=1e-13)
    scores = [Fraction(c["rs"]) for c in sound.values()]
    extras = market.frames[0].extras
    if len(scores) < 2:
        assert extras == {}
    else:
        assert extras.keys() == {"rs_dispersion_m_5"}
        exact = math.sqrt(statistics.pvariance(scores))
        assert math.isclose(extras["rs_dispersion_m_5"], exact, rel_tol=1e-11, abs_tol=1e-13)
    leads = {
        uid: abs(Fraction(c["ret"] or 0)) * max(Fraction(c["z_vol"] or 0), Fraction(0))
        for uid, c in sound.items()
        if uid in (0, 1, *ranked[: math.ceil(len(ranked) / 10)])
    }
    most = max(leads.values(), default=Fraction(0))
    first = [uid for uid, lead in leads.items() if lead == most > 0]
    leader = first[0] if len(first) == 1 else 0  # a tie: nobody leads
    assert found["leader_uid"] == leader
    total = sum(c["volume"] for c in sound.values())
    if leader in sound and total:
        share = float(Fraction(sound[leader]["volume"]) / Fraction(total))
        assert found["dominance_share"] == float(f"{share:.12g}")
    else:
        assert found["dominance_share"] is None
    assert (found["eligible_count"], found["excluded_count"]) == (
        len(sound),
        len(crowd) - len(sound),
    )
    assert (found["universe_size"], found["universe_rev"]) == (len(crowd), 1)


# --- longer timeframes ---------------------------------------------------------------------------


def longer_rows(
    tf: Timeframe, minute: int, *assets: Asset, final: bool = True, silent: Sequence[int] = ()
) -> list[RowItem]:
    """Return a final phase in which assets send a longer row only, under its stored names."""
    made = []
    for item in items(minute, assets, final=final, silent=silent):
        rows = tuple(at_timeframe(row, tf) for row in item.rows)
        made.append(msgspec.structs.replace(item, rows=rows))
    return made


def at_timeframe(row: Row, tf: Timeframe) -> Row:
    """Return a row as one of a longer timeframe with the same numbers; its revision is 0."""
    calm = {**dict.fromkeys(NAMES[tf]), **row.columns, "ret_m_1": row.columns["ret_m_5"]}
    stored = {name: calm[base] for base, name in reversed(NAMES[tf].items())}
    return msgspec.structs.replace(row, tf=tf, revision=0, columns=stored)


def closed(market: Market, made: Iterable[RowItem]) -> tuple[MarketPhase, list[ScoreItem]]:
    """Feed a phase and tell the market from the items on their way back."""
    phase, *back = market.feed(made)
    assert isinstance(phase, MarketPhase)
    return phase, [item for item in back if isinstance(item, ScoreItem)]


LIVELY = (
    asset(0, rs=0.5, ret=0.02, z_vol=2.0, oi_roc_m_5=0.01),
    asset(1, rs=2.0, ret=0.01, z_vol=3.0),
    asset(2, rs=-1.0, ret=-0.03, z_vol=None),
    asset(3, rs=9.0, ret=0.5, z_vol=9.0, dq="stale"),
)


@pytest.mark.parametrize("tf", ["15m", "1h"])
def test_a_longer_frame_is_folded_from_the_rows_of_its_timeframe(tf: Timeframe) -> None:
    """The same numbers under other names give the same frame; shocks are those of minutes."""
    market = Market()
    minute, _ = market.phase(14, *LIVELY)
    phase, back = closed(market, longer_rows(tf, 14, *LIVELY))
    (frame,), (short,) = phase.frames, minute.frames
    assert (frame.tf, frame.exchange_ts_ms, frame.revision) == (tf, T0 + 14 * MINUTE_MS, 0)
    assert frame.columns == short.columns
    assert frame.extras == short.extras
    assert frame.columns["leader"] == "BTC"
    assert frame.columns["rs_top"] == ["ETH", "BTC", "SOL"]
    assert [item.frames for item in back] == [(frame,)]
    assert [(row.asset_uid, row.tf) for row in phase.rows] == [(uid, tf) for uid in range(4)]


def test_a_phase_folds_one_frame_for_each_timeframe_in_it() -> None:
    """The last minute of an hour: an amended minute of ETH, the quarters and the hours of both."""
    market = Market()
    market.phase(59, asset(0, rs=1.0), asset(1, rs=2.0))
    assets = (asset(0, rs=1.0), asset(1, rs=-2.0))
    made = []
    for item in items(59, assets, final=True):
        (row,) = item.rows
        amended = (row,) if item.asset_uid == 1 else ()
        rows = (*amended, at_timeframe(row, "15m"), at_timeframe(row, "1h"))
        found = ((candidate(SPREAD),),) * len(rows)
        made.append(msgspec.structs.replace(item, rows=rows, candidates=found))
    phase, back = closed(market, made)
    found = {frame.tf: (frame.revision, frame.columns["rs_top"]) for frame in phase.frames}
    order = ["BTC", "ETH"]
    assert found == {"15m": (0, order), "1h": (0, order), "1m": (1, order)}
    assert [(row.asset_uid, row.tf) for row in phase.rows] == [
        *((0, tf) for tf in ("15m", "1h")),
        *((1, tf) for tf in ("1m", "15m", "1h")),
    ]
    assert [len(item.rows) for item in back] == [3, 2, 3]
    assert [row.tf for row in back[0].rows] == ["15m", "1h", "1m"]
    assert all({row.tf for row in item.rows} <= {f.tf for f in item.frames} for item in back)


def test_an_asset_without_a_longer_row_is_not_in_its_frame() -> None:
    """It joined after the seal of the minute, or its minute is not there."""
    market = Market()
    market.phase(14, asset(0), asset(1))
    phase, _ = closed(market, longer_rows("15m", 14, asset(0), silent=(1,)))
    columns = phase.frames[0].columns
    assert (columns["eligible_count"], columns["excluded_count"]) == (1, 0)


def test_the_longer_frame_of_the_next_quarter_starts_anew() -> None:
    """Nothing of the last quarter is left in it, and its revision is 0 again."""
    market = Market()
    for minute in (14, 29):
        market.phase(minute, asset(0), asset(1))
        present = (asset(0), asset(1)) if minute == 14 else (asset(1),)
        silent = () if minute == 14 else (0,)
        phase, _ = closed(market, longer_rows("15m", minute, *present, silent=silent))
        (frame,) = phase.frames
        assert (frame.revision, frame.columns["eligible_count"]) == (0, len(present))


def test_longer_rows_carry_the_membership_of_their_minute() -> None:
    """One member of two, as decided at the seal."""
    market = Market(ONE_MEMBER)
    market.phase(14, asset(0, volume=2e6), asset(1))
    phase, _ = closed(market, longer_rows("15m", 14, asset(0), asset(1, volume=9e9)))
    assert [row.columns["is_in_universe"] for row in phase.rows] == [True, False]
    assert phase.frames[0].columns["eligible_count"] == 1
    assert phase.audit == Audit()


def test_longer_volume_is_not_counted_again() -> None:
    """Rank and dominance count the dollars of minutes; a quarter repeats them."""
    market = Market()
    market.phase(14, asset(0, volume=1e6), asset(1, volume=1e6))
    closed(market, longer_rows("15m", 14, asset(0, volume=9e9), asset(1, volume=1e6)))
    frame = market.frame(15, asset(0, volume=1e6), asset(1, volume=1e6))
    assert frame["dominance_share"] == 0.5


def test_a_longer_frame_counts_the_shocks_of_its_last_minute() -> None:
    """A shock is five seconds long; what a quarter's own candidates say is another matter."""
    market = Market()
    frame = market.frame(14, asset(0, candidate(VOL)), asset(1, candidate(VOL)))
    assert frame["shock_count_5s"] == 2
    quarter = longer_rows("15m", 14, asset(0), asset(1), asset(2, candidate(VOL)))
    phase, _ = closed(market, quarter)
    assert phase.frames[0].columns["shock_count_5s"] == 2


def test_candidates_of_longer_rows_heat_nobody_and_are_no_shocks() -> None:
    """Both are decided by minutes, at the seal (design D14)."""
    market = Market(ONE_MEMBER)
    market.phase(14, asset(0, volume=2e6), asset(1))
    phase, _ = closed(
        market, longer_rows("15m", 14, asset(0, candidate(VOL, 9.0)), asset(1, candidate(VOL, 9.0)))
    )
    assert phase.frames[0].columns["shock_count_5s"] == 0
    assert [row.columns["is_hot"] for row in phase.rows] == [False, False]


@pytest.mark.parametrize(
    ("scores", "spread"), [((0.5, 2.5), 1.0), ((3.0,), None), ((), None), ((1.0, 1.0, 1.0), 0.0)]
)
def test_the_spread_of_strength_is_in_the_extras(
    scores: tuple[float, ...], spread: float | None
) -> None:
    """On trial: no column of the frame has it, and what is unknown is absent, not NULL."""
    crowd = [asset(uid, rs=rs) for uid, rs in enumerate(scores)]
    market, _ = Market().phase(0, *crowd, asset(9, rs=99.0, dq="partial"))
    (frame,) = market.frames
    assert frame.extras == ({} if spread is None else {"rs_dispersion_m_5": spread})
    assert "rs_dispersion_m_5" not in frame.columns


# --- shocks --------------------------------------------------------------------------------------


def test_each_shocked_asset_counts_once() -> None:
    """Spike-class only, past the gates only; the combination is of the spike class too."""
    market = Market()
    frame = market.frame(
        0,
        asset(0, candidate(VOL), candidate(PRICE_UP), candidate(COMBO)),
        asset(1, candidate(COMBO)),
        asset(2, candidate(SPREAD, 9.0)),
        asset(3, candidate(VOL, gate="dq"), candidate(PRICE_UP, gate="illiquid")),
        asset(4, candidate(VOL, gate="warmup"), candidate(PRICE_UP)),
        asset(5),
    )
    assert (frame["shock_count_5s"], frame["approx"]) == (3, False)
    assert market.frame(1, asset(0), asset(1))["shock_count_5s"] == 0


def test_a_shock_counts_only_where_somebody_listens() -> None:
    """Outside the universe a weak spike is not counted, one that makes its asset hot is."""

    def frame(outsider: Candidate) -> Columns:
        return frame_of(asset(0, volume=2e6), asset(1, outsider), packs=ONE_MEMBER)

    assert frame(candidate(VOL, 3.0))["shock_count_5s"] == 0
    assert frame(candidate(VOL, 6.0))["shock_count_5s"] == 1


@pytest.mark.parametrize("changes", [{"enabled": False}, {"mode": "shadow"}, {"mode": "canary"}])
def test_a_detector_that_may_not_speak_shocks_and_heats_nobody(changes: dict[str, Any]) -> None:
    """Its candidates are in the ledger only; what may speak still counts."""
    detectors = tuple(
        replace(d, **changes) if d.detector_id == VOL else d for d in ONE_MEMBER.detectors
    )
    market, _ = Market(replace(ONE_MEMBER, detectors=detectors)).phase(
        0,
        asset(0, candidate(VOL, 9.0), volume=2e6),
        asset(1, candidate(VOL, 9.0)),
        asset(2, candidate(PRICE_UP, 9.0)),
    )
    assert market.frames[0].columns["shock_count_5s"] == 1
    assert [row.columns["is_hot"] for row in market.rows] == [False, False, True]


def test_every_asset_is_told_its_liquidity_tier() -> None:
    """First and last decile by dollar volume; MARKET is in none, so it is mid."""
    crowd = [asset(uid, candidate(SPREAD), volume=1e6 + uid) for uid in range(12)]
    _, joined = Market().phase(0, *crowd)
    tiers = {uid: item.tier for uid, item in joined.items()}
    assert tiers == {0: "tail", 11: "top"} | dict.fromkeys((MARKET_UID, *range(1, 11)), "mid")


def test_a_shock_reaches_the_threshold_of_its_tier() -> None:
    """Appendix D.7: 3.5 is a spike for most, not in the tail; the scorer would suppress it."""
    crowd = [asset(uid, volume=1e6 + uid) for uid in range(12)]
    crowd[0] = asset(0, candidate(VOL, 3.5), volume=1e6, z_vol=3.5)
    assert frame_of(*crowd)["shock_count_5s"] == 0
    crowd[5] = asset(5, candidate(VOL, 3.5), volume=1e6 + 5, z_vol=3.5)
    assert frame_of(*crowd)["shock_count_5s"] == 1


def test_rows_without_candidates_are_counted_by_their_flags() -> None:
    """Stored rows enter here; then the count is an approximation and says so."""
    market = Market()
    made = items(0, [asset(0, is_vol_spike_m_1=True), asset(1, is_vol_spike_m_1=False)])
    phase, *_ = market.feed(msgspec.structs.replace(item, candidates=()) for item in made)
    assert isinstance(phase, MarketPhase)
    assert (phase.frames[0].columns["shock_count_5s"], phase.frames[0].columns["approx"]) == (
        1,
        True,
    )


# --- back to the assets --------------------------------------------------------------------------


def test_an_asset_gets_its_row_back_with_its_membership() -> None:
    """And the frame, and its candidates, if it has any; MARKET gets the frame as a row of its
    own."""
    market, joined = Market(ONE_MEMBER).phase(
        0, asset(1, candidate(SPREAD)), asset(0, volume=2e6), asset(2, candidate(VOL, 6.0))
    )
    assert [row.asset_uid for row in market.rows] == [0, 1, 2]
    assert list(joined) == [MARKET_UID, 1, 2]
    assert {item.phase.n_assets for item in joined.values()} == {2}
    member = [
        tuple(row.columns[name] for name in ("is_in_universe", "is_hot", "universe_rev"))
        for row in market.rows
    ]
    assert member == [(True, False, 1), (False, False, 1), (False, True, 1)]
    assert [joined[uid].candidates for uid in (1, 2)] == [
        ((candidate(SPREAD),),),
        ((candidate(VOL, 6.0),),),
    ]
    (own,) = joined[MARKET_UID].rows
    assert (own.asset_uid, own.symbol, own.exchange_ts_ms) == (MARKET_UID, "MARKET", T0)
    assert own.columns.items() >= market.frames[0].columns.items()
    assert joined[MARKET_UID].candidates == ((),)
    for uid in (1, 2):
        assert joined[uid].rows == (market.rows[uid],)
    assert all(item.frames == market.frames for item in joined.values())


class Everybody(Context):
    """A context that sends every asset to be scored."""

    def _is_scored(self, state: ContextState, item: RowItem) -> bool:
        return True


FOUND = {
    "nothing": (),
    "volume": (candidate(VOL, 9.0),),
    "volume, gated": (candidate(VOL, 9.0, gate="dq"),),
    "spread": (candidate(SPREAD, 9.0),),
    "both": (candidate(VOL, 9.0), candidate(SPREAD, 9.0)),
}


def scored_by(step: Context, found: Sequence[str], longer: Sequence[bool]) -> list[Any]:
    """Return all that scoring says of one of two assets, minute by minute, and what it remembers.

    found : on its minutes. longer : whether its quarter hours have a candidate.
    """
    market, score, said = Market(), Score(PACKS, "alpha-detector@test"), list[Any]()
    market.step = step
    states = {uid: score.initial() for uid in (MARKET_UID, 0, 1)}

    def close(made: Iterable[RowItem]) -> None:
        for item in closed(market, made)[1]:
            (scored,) = score.step(states[item.asset_uid], item)
            if scored.n_candidates or scored.closed:
                said.append(msgspec.structs.replace(scored, phase=None))

    for minute, kind in enumerate(found):
        close(items(minute, (asset(0), asset(1, *FOUND[kind]))))
        if minute % 15 == 14:
            candidates = (candidate(VOL, 9.0),) if longer[minute // 15 % len(longer)] else ()
            close(longer_rows("15m", minute, asset(0), asset(1, *candidates)))
    for state in states.values():
        state.runs = {key: run for key, run in state.runs.items() if run.muted}
    return [said, states]


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(sorted(FOUND)), min_size=1, max_size=6), st.integers(1, 40)
        ),
        min_size=1,
        max_size=5,
    ),
    st.lists(st.booleans(), min_size=1, max_size=50),
)
@example([(["volume"], 40), (["nothing"], 140)], [False])
@example([(["volume", "volume", "volume", "volume", "nothing"], 9), (["nothing"], 140)], [True])
@example([(["volume"], 23), (["nothing"], 6), (["volume"], 1), (["nothing"], 140)], [False])
@example([(["both"], 40), (["volume, gated"], 30), (["spread"], 30), (["nothing"], 140)], [True])
@settings(max_examples=25, deadline=None)
def test_property_who_is_not_scored_has_nothing_to_say(
    runs: list[tuple[list[str], int]], longer: list[bool]
) -> None:
    """Drafts, suppressions and the notes on mutes are those of a market that scores everybody, and
    so is what scoring remembers but for runs that end without a word."""
    found = [kind for kinds, times in runs for _ in range(times) for kind in kinds]
    assert scored_by(Context(PACKS), found, longer) == scored_by(Everybody(PACKS), found, longer)


def test_only_who_fires_or_may_be_muted_is_scored() -> None:
    """A detector is muted after it has fired on nearly all of thirty bars, so that its silence is
    of no interest before it has fired on 24."""
    for fired, told in ((23, 0), (24, 1)):
        market = Market()
        for minute in range(fired):
            assert len(market.phase(minute, asset(0), asset(1, candidate(VOL)))[1]) == 2
        assert len(market.phase(fired, asset(0), asset(1))[1]) - 1 == told
        for minute in range(fired + 1, fired + 40):
            market.phase(minute, asset(0), asset(1))
        assert not market.state.fired


def earlier(state: ContextState, rows: Sequence[Row], version: int) -> bytes:
    """Return a state as a version before 4 wrote it: whole rows, and of who fired the newest label
    by timeframe, if anything."""
    plain = msgspec.to_builtins(state)
    plain |= {"version": version, "last": {"1m": {row.asset_uid: row for row in rows}}}
    plain["fired"] = {0: {"1m": T0}}
    del plain["rules"], plain["doubtful"]
    if version == 2:
        del plain["fired"]
    return msgspec.msgpack.encode(plain)


@pytest.mark.parametrize("version", [2, 3])
def test_after_an_upgrade_every_asset_may_be_muted(version: int) -> None:
    """An earlier state does not know what fired: all are scored until no mute can be left."""
    market, pair = Market(), (asset(0), asset(1))
    rows = market.phase(0, *pair)[0].rows
    before = market.state
    market.state = market.step.codec().decode(earlier(before, rows, version))
    assert msgspec.structs.replace(market.state, fired={}, doubtful=False) == before
    told: dict[str, list[int]] = {"1m": [], "15m": [], "1h": []}
    for minute in range(1, 300):
        told["1m"].append(len(market.phase(minute, *pair)[1]) - 1)
        if minute % 15 == 14:
            tf = "1h" if minute % 60 == 59 else "15m"
            longer = longer_rows(tf, minute, *pair)
            told[tf].append(len(closed(market, longer)[1]) - 1)
    for counts in told.values():
        assert counts == [2] * counts.count(2) + [0] * counts.count(0)
    # Silences of 15 minutes, 30 minutes and two hours end every run, with the row behind them.
    assert {tf: counts.count(2) for tf, counts in told.items()} == {"1m": 16, "15m": 3, "1h": 3}
    assert not market.state.fired


def with_other_packs(
    step: type[Context],
    packs: tuple[Packs, Packs],
    fires: Callable[[int], bool],
    minutes: range,
    *,
    after_join: bool = False,
    away: range = range(0),
) -> list[tuple[int, object]]:
    """Return what scoring says of one of two assets, with other packs from minute 40 on.

    fires : in which minutes the one detector does. after_join : found by scoring itself before the
    change. away : minutes in which that asset has no row.
    """
    market, score, said = (
        Market(),
        Score(packs[0], "alpha-detector@test"),
        list[tuple[int, object]](),
    )
    market.step = step(packs[0])
    (name,) = {d.detector_id for d in packs[1].detectors} & {VOL, LED}
    states = {uid: score.initial() for uid in (MARKET_UID, 0, 1)}
    for minute in minutes:
        if minute == 40:
            stored = market.step.codec().encode(market.state)
            market.step = step(packs[1])
            market.state = market.step.codec().decode(stored)
            score = Score(packs[1], "alpha-detector@test")
        loud = fires(minute)
        found = (candidate(name, 9.0),) if loud and not (after_join and minute < 40) else ()
        pair = (asset(0, z_vol=0.0), asset(1, *found, z_vol=9.0 if loud else 0.0))
        for item in closed(market, items(minute, pair[:1] if minute in away else pair))[1]:
            (scored,) = score.step(states[item.asset_uid], item)
            for draft in scored.drafts:
                said.append((minute, draft.severity))
            said += [
                (minute, (one.reason, one.state)) for one in (*scored.suppressed, *scored.closed)
            ]
    return said


def led(trigger: str, version: str, folder: Path) -> Packs:
    """Return packs with one detector."""
    path = folder / f"{version}.yaml"
    detector = {
        "id": LED,
        "inputs": ["z_vol_m_1"],
        "trigger": trigger,
        "primary": "z_vol_m_1",
        "publish_threshold": 0,
    }
    scoring = {"level_shift_bars": 30}
    content = {"detector_pack": version, "scoring": scoring, "detectors": [detector]}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_packs(detectors=path)


CLOSED = ("cooldown", "closed")


@pytest.mark.parametrize("away", [range(0), range(40, 2000)])
def test_a_mute_that_began_with_other_packs_ends(away: range) -> None:
    """Thirty bars are enough for a mute; the packs of the restart ask for sixty. The asset may also
    be away for longer than the join remembers it."""
    scoring = PACKS.scoring.model_copy(update={"level_shift_bars": 60})
    packs = (PACKS, replace(PACKS, scoring=scoring))
    last = max(away, default=40) + 60

    def said(step: type[Context]) -> list[tuple[int, object]]:
        minutes = range(last + 5)
        return with_other_packs(step, packs, lambda m: m < 40 or m == last, minutes, away=away)

    assert said(Context) == said(Everybody)
    assert [what for _, what in said(Context)].count(CLOSED) == 1
    assert isinstance(said(Context)[-1][1], int)  # an event


def test_a_mute_of_a_detector_that_was_found_after_the_join_ends(tmp_path: Path) -> None:
    """The join has not seen it fire."""
    framed = led("z_vol_m_1 >= 1.0 && shock_count_5s >= 0", "v0.9.0", tmp_path)
    packs = (framed, led("z_vol_m_1 >= 1.0", "v0.9.1", tmp_path))

    def said(step: type[Context]) -> list[tuple[int, object]]:
        fires = lambda m: m < 40 or m == 100  # noqa: E731
        return with_other_packs(step, packs, fires, range(105), after_join=True)

    assert said(Context) == said(Everybody)
    assert [what for _, what in said(Context)].count(CLOSED) == 1


def test_an_outsider_is_heard_in_the_very_minute_in_which_it_is_hot() -> None:
    """Design 3: no lag; its event says that it is no member."""
    _, joined = Market(ONE_MEMBER).phase(0, asset(0, volume=2e6), asset(1, candidate(VOL, 6.0)))
    score = Score(PACKS, "alpha-detector@test")
    (scored,) = score.step(score.initial(), joined[1])
    (draft,) = scored.drafts
    assert draft.payload["membership"] == {
        "is_in_universe": False,
        "is_hot": True,
        "universe_rev": 1,
    }


@pytest.mark.parametrize(
    ("found", "hot"),
    [
        # 100 * sigmoid(0.97 * (P - 4.53)): 69.5 is reached at P = 5.379
        (candidate(VOL, 5.37), False),
        (candidate(VOL, 5.38), True),
        (candidate(VOL, 9.0, gate="dq"), False),
        (candidate(VOL, 9.0, gate="warmup"), False),
        (candidate(VOL, 9.0, gate="illiquid"), False),
        (candidate(SPREAD, 2.0), False),
    ],
)
def test_heat_needs_severity_without_novelty_and_past_the_gates(
    found: Candidate, hot: bool
) -> None:
    """A first event would score higher by its novelty, but heat does not look at it."""
    market, _ = Market(ONE_MEMBER).phase(0, asset(0, volume=2e6), asset(1, found))
    assert market.rows[1].columns["is_hot"] is hot


def test_penalties_cool() -> None:
    """The severity that makes hot is that of the score, quality and liquidity included."""
    market, _ = Market(ONE_MEMBER).phase(
        0, asset(0, volume=2e6), asset(1, candidate(VOL, 5.6), dq_penalty=1)
    )
    assert market.rows[1].columns["is_hot"] is False


@pytest.mark.parametrize("others", [(), (candidate(PRICE_UP, 2.5),)])
def test_some_subtypes_are_hot_at_any_severity(others: tuple[Candidate, ...]) -> None:
    """Build plan 7.4; a weaker one beside it changes nothing."""
    packs = policy(n_base=1, entry=(1, 3), leave=(1, 5), hot_subtypes=("spread_stress_m_1",))
    market, _ = Market(packs).phase(
        0, asset(0, volume=2e6), asset(1, candidate(SPREAD, 5.0), *others)
    )
    assert market.rows[1].columns["is_hot"] is True


def test_a_hot_subtype_is_hot_also_beside_a_stronger_candidate() -> None:
    """The listed one counts whatever else fired; the stronger one alone would not be enough."""
    packs = policy(n_base=1, entry=(1, 3), leave=(1, 5), hot_subtypes=("spread_stress_m_1",))
    market, _ = Market(packs).phase(
        0, asset(0, volume=2e6), asset(1, candidate(SPREAD, 2.0), candidate(VOL, 4.0))
    )
    assert market.rows[1].columns["is_hot"] is True


def test_heat_lasts_its_time() -> None:
    """Severity 81 is hot for 15 + 0.3 * 81 = 39.3 minutes: up to the 39th label, not the 40th."""
    market = Market(ONE_MEMBER)
    hot = []
    for k in range(42):
        fires = (candidate(VOL, 6.0),) if k == 0 else ()
        phase, _ = market.phase(k, asset(0, volume=2e6), asset(1, *fires))
        hot.append(phase.rows[1].columns["is_hot"])
    assert hot == [True] * 40 + [False] * 2


# --- amendments ----------------------------------------------------------------------------------


def test_an_amendment_folds_the_frame_again() -> None:
    """Under the next revision, from the new row and the sealed ones of the others."""
    market = Market()
    sealed, _ = market.phase(0, asset(0, ret=0.25), asset(1, ret=0.5), asset(2, ret=0.75))
    final, joined = market.phase(0, asset(1, ret=1.5, volume=4e6), final=True, silent=(0, 2))
    (before,), (after,) = sealed.frames, final.frames
    assert (before.revision, after.revision) == (0, 1)
    fresh = frame_of(asset(0, ret=0.25), asset(1, ret=1.5, volume=4e6), asset(2, ret=0.75))
    assert after.columns == fresh
    assert [row.asset_uid for row in final.rows] == [1]
    assert {uid: len(item.rows) for uid, item in joined.items()} == {MARKET_UID: 1}
    assert joined[MARKET_UID].frames == (after,)


def test_an_amended_volume_replaces_the_sealed_one() -> None:
    """It is not added: BTC has 3 of 4 million."""
    market = Market()
    market.frame(0, asset(0, volume=1e6), asset(1, volume=1e6))
    market.phase(0, asset(0, volume=2e6), final=True, silent=(1,))
    frame = market.frame(1, asset(0, volume=1e6), asset(1, volume=0.0))
    assert frame["dominance_share"] == 0.75


def test_a_final_phase_without_amendment_has_no_frame() -> None:
    """The market alone answers it, and says so, so that the next join can count."""
    market = Market()
    market.phase(0, asset(0), asset(1))
    final, joined = market.phase(0, final=True, silent=(0, 1))
    assert (final.frames, final.rows) == ((), ())
    (item,) = joined.values()
    assert (item.asset_uid, item.rows, item.candidates) == (MARKET_UID, (), ())
    assert item.phase.n_assets == 0
    assert market.phase(1, asset(0), asset(1))[0].frames[0].revision == 0


def test_an_amendment_moves_no_membership() -> None:
    """Neither rank nor heat: both are decided once a minute, at the seal (design D14)."""
    market = Market(ONE_MEMBER)
    market.phase(0, asset(0, volume=2e6), asset(1))
    final, _ = market.phase(0, asset(1, candidate(VOL, 9.0), volume=9e9), final=True, silent=(0,))
    columns = final.rows[0].columns
    assert (columns["is_in_universe"], columns["is_hot"], columns["universe_rev"]) == (
        False,
        False,
        1,
    )
    assert final.frames[0].columns["universe_size"] == 1
    assert final.audit == Audit()


@pytest.mark.parametrize(("first", "then", "shocks"), [((), (VOL,), 1), ((VOL,), (), 0)])
def test_an_amendment_counts_shocks_again(
    first: tuple[str, ...], then: tuple[str, ...], shocks: int
) -> None:
    """Late ticks make a spike, or unmake it: the frame counts the candidates there are now."""
    market = Market()
    market.phase(0, asset(0, *map(candidate, first)), asset(1))
    final, _ = market.phase(0, asset(0, *map(candidate, then)), final=True, silent=(1,))
    assert final.frames[0].columns["shock_count_5s"] == shocks


# --- membership over time ------------------------------------------------------------------------


def test_membership_follows_an_hour_of_dollars() -> None:
    """Each asset is ranked by what it traded in the last l1_min minutes, here three.

    minute     0   1   2   3   4   5
    BTC       90   0   0   0   0   0
    ETH       10  10  10  10  10  10
    member   BTC BTC BTC ETH ETH ETH
    """
    packs = policy(n_base=1, entry=(1, 1), leave=(1, 1), l1_min=3, freeze_min=0, min_dwell_min=0)
    market = Market(packs)
    members = []
    changes: list[Change] = []
    for k in range(6):
        phase, _ = market.phase(k, asset(0, volume=0.0 if k else 90.0), asset(1, volume=10.0))
        changes += [] if phase.audit.change is None else [phase.audit.change]
        members.append([r.symbol for r in phase.rows if r.columns["is_in_universe"]])
    assert members == [["BTC"]] * 3 + [["ETH"]] * 3
    assert [(c.revision, c.added, c.removed) for c in changes] == [
        (1, (0,), ()),
        (2, (1,), (0,)),
    ]


@pytest.mark.parametrize(("back", "members"), [(2, [False, True]), (3, [True, False])])
def test_dollars_of_before_an_absence_are_forgotten(back: int, members: list[bool]) -> None:
    """ETH traded 90 in minute 0 and was away; after three minutes that is no longer its volume.

    minute   0   1   2   3
    BTC     10  10  10  10
    ETH     90   -   0 | 0
    """
    packs = policy(n_base=1, entry=(1, 1), leave=(1, 1), l1_min=3, freeze_min=0, min_dwell_min=0)
    market = Market(packs)
    market.phase(0, asset(0, volume=10.0), asset(1, volume=90.0))
    for k in range(1, back):
        market.phase(k, asset(0, volume=10.0))
    phase, _ = market.phase(back, asset(0, volume=10.0), asset(1, volume=0.0))
    assert [row.columns["is_in_universe"] for row in phase.rows] == members


@pytest.mark.parametrize(("volume", "leaves"), [(9_999.0, True), (10_000.0, False)])
def test_a_dead_member_leaves_at_once(volume: float, leaves: bool) -> None:
    """Stale for ten minutes and hardly any volume in the hour: out, in spite of its dwell time."""
    market = Market()
    market.phase(0, asset(0), asset(1, volume=volume))
    inside = []
    for k in range(1, 12):
        phase, _ = market.phase(k, asset(0), asset(1, dq="stale", volume=0.0))
        inside.append(phase.rows[1].columns["is_in_universe"])
    assert inside == ([True] * 9 + [False] * 2 if leaves else [True] * 11)


def test_a_minute_that_is_not_stale_brings_a_member_back_to_life() -> None:
    """The ten minutes are consecutive."""
    market = Market()
    for k in range(19):
        status = "partial" if k == 9 else "stale"
        phase, _ = market.phase(k, asset(0), asset(1, dq=status, volume=0.0))
        assert [row.columns["is_in_universe"] for row in phase.rows] == [True, True]


# --- any order, any interruption -----------------------------------------------------------------


def stream(rng: random.Random) -> dict[int, list[RowItem]]:
    """Return what three assets send in four minutes, each in its own order."""
    sent: dict[int, list[RowItem]] = {0: [], 1: [], 2: []}
    for minute in range(4):
        crowd = [
            asset(
                uid,
                *([candidate(VOL, rng.choice((3.0, 6.0)))] if rng.random() < 0.4 else []),
                rs=rng.randint(-9, 9) / 4,
                ret=rng.randint(-9, 9) / 64,
                z_vol=rng.randint(-9, 9) / 4,
                volume=float(rng.randint(0, 9)),
            )
            for uid in sent
        ]
        amended = [one for one in crowd if rng.random() < 0.3]
        silent = [uid for uid in sent if uid not in [one.uid for one in amended]]
        for item in items(minute, crowd) + items(minute, amended, final=True, silent=silent):
            sent[item.asset_uid].append(item)
    return sent


def interleaved(sent: dict[int, list[RowItem]], rng: random.Random) -> list[RowItem]:
    """Return all items in some order of arrival that keeps the order of each asset."""
    waiting = {uid: list(queue) for uid, queue in sent.items()}
    arrived = []
    while any(waiting.values()):
        uid = rng.choice([uid for uid, queue in waiting.items() if queue])
        arrived.append(waiting[uid].pop(0))
    return arrived


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.randoms(use_true_random=False))
def test_property_arrival_order_changes_nothing(content: random.Random, rng: random.Random) -> None:
    """Frames, rows, membership and state are the same for every interleaving."""
    sent = stream(content)
    by_minute = sorted(
        (item for queue in sent.values() for item in queue), key=lambda item: item.phase
    )
    plain, shuffled = Market(ONE_MEMBER), Market(ONE_MEMBER)
    assert shuffled.feed(interleaved(sent, rng)) == plain.feed(by_minute)
    assert shuffled.state == plain.state


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.sets(st.integers(0, 23), max_size=3))
def test_property_state_can_be_saved_and_loaded_anywhere(
    rng: random.Random, cuts: set[int]
) -> None:
    """In the middle of a phase too."""
    arrived = interleaved(stream(rng), rng)
    whole, resumed = Market(ONE_MEMBER), Market(ONE_MEMBER)
    expected = whole.feed(arrived)
    found: list[MarketPhase | ScoreItem] = []
    for k, item in enumerate(arrived):
        if k in cuts:
            codec = resumed.step.codec()
            resumed.state = codec.decode(codec.encode(resumed.state))
        found += resumed.feed([item])
    assert found == expected
    assert resumed.state == whole.state
