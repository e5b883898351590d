"""The minute's account, the event as published, and its id."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from typing import Any
from uuid import RFC_4122, UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.budget import Budget, BudgetState, strongest
from operators.detect import Detect
from operators.events import event_id
from operators.lattice import MINUTE_MS
from operators.publish import event_json
from operators.records import (
    MARKET_UID,
    Columns,
    Draft,
    Frame,
    Phase,
    Published,
    Row,
    RowItem,
    ScoredItem,
    ScoreItem,
    Suppression,
)
from operators.score import Score
from packs.loader import Packs, load_packs

PACKS = load_packs()
T = 1_756_891_800_000  # 2025-09-03T09:30:00Z
MARKET_SYMBOL = "MARKET"
PRODUCER = "alpha-detector@v1.0.0"
CLASSES = ("spike", "shift", "quadrant", "divergence")


def draft(uid: int, severity: int, event_class: str = "spike", tag: int = 0) -> Draft:
    """Return a scored event; `tag` tells events of an asset apart."""
    symbol = MARKET_SYMBOL if uid == MARKET_UID else f"S{uid}"
    payload = {
        "v": "0.1",
        "event_id": "0198c0de-0000-7000-8000-00000000f00d",
        "emitted_at": "2025-09-03T09:30:01.500Z",
        "exchange_ts": "2025-09-03T09:30:00Z",
        "symbol": symbol,
        "asset_uid": uid,
        "tf": "1m",
        "class": event_class,
        "subtype": "x",
        "severity": severity,
        "debounce_key": f"{symbol}:{event_class}:1m",
        "local_state": {"dq": {"status": "ok"}},
        "market_frame": {"leader": "BTC"},
        "membership": {"is_in_universe": True, "is_hot": False, "universe_rev": tag},
        "provenance": {
            "producer": PRODUCER,
            "feature_pack": PACKS.feature_pack,
            "detector_pack": PACKS.detector_pack,
            "config_hash": PACKS.config_hash,
            "git_commit": None,
            "universe_policy_rev": 17,
            "source_lag_ms": 1500,
            "clock_skew_ms": None,
        },
    }
    return Draft(uid, f"{event_class}.x", event_class, severity, payload)


def tag_of(payload: dict[str, Any]) -> int:
    """Return what tells events of an asset apart."""
    found: int = payload["membership"]["universe_rev"]
    return found


# --- the cap -------------------------------------------------------------------------------------


def kept(drafts: list[Draft], cap: int) -> list[tuple[int, int]]:
    """Return asset and severity of what is kept, in its order."""
    return [(d.asset_uid, d.severity) for d in [drafts[i] for i in strongest(drafts, cap)]]


def test_below_the_cap_everything_is_kept() -> None:
    """Also exactly at it, in the order of arrival."""
    drafts = [draft(2, 50), draft(0, 90), draft(1, 70)]
    assert kept(drafts, 3) == [(2, 50), (0, 90), (1, 70)]
    assert kept([], 0) == []


def test_the_lowest_severity_goes_first() -> None:
    """What remains keeps its order."""
    drafts = [draft(0, 60), draft(1, 90), draft(2, 50), draft(3, 70)]
    assert kept(drafts, 3) == [(0, 60), (1, 90), (3, 70)]
    assert kept(drafts, 1) == [(1, 90)]
    assert kept(drafts, 0) == []


def test_the_strongest_of_every_class_stays() -> None:
    """A weak shift survives strong spikes (build plan 10.6: never drop all of a class)."""
    drafts = [
        draft(0, 99),
        draft(1, 98),
        draft(2, 97),
        draft(3, 51, "shift"),
        draft(4, 50, "shift"),
    ]
    assert kept(drafts, 2) == [(0, 99), (3, 51)]
    assert kept(drafts, 3) == [(0, 99), (1, 98), (3, 51)]


def test_more_classes_than_places() -> None:
    """Then the strongest classes stay."""
    drafts = [draft(0, 60), draft(1, 80, "shift"), draft(2, 70, "quadrant")]
    assert kept(drafts, 2) == [(1, 80), (2, 70)]


def test_ties_go_to_the_earlier() -> None:
    """The lower asset_uid, as items come in its order."""
    drafts = [draft(0, 70), draft(1, 70), draft(2, 70, "shift"), draft(3, 70, "shift")]
    assert kept(drafts, 3) == [(0, 70), (1, 70), (2, 70)]


drafts_strategy = st.lists(
    st.tuples(st.integers(50, 60), st.sampled_from(CLASSES)), max_size=14
).map(lambda items: [draft(uid, s, c, tag=uid) for uid, (s, c) in enumerate(items)])


@given(drafts_strategy, st.integers(0, 16))
def test_property_what_is_kept_is_the_best_that_fits(drafts: list[Draft], cap: int) -> None:
    """As many as fit, in order; a class is dropped only for lack of places; else severity."""
    found = [drafts[index] for index in strongest(drafts, cap)]
    tags = [tag_of(d.payload) for d in found]
    assert len(found) == min(cap, len(drafts))
    assert tags == sorted(tags)
    dropped = [d for d in drafts if tag_of(d.payload) not in tags]
    present, there = {d.event_class for d in found}, {d.event_class for d in drafts}
    assert len(present) == min(len(there), cap)
    crowded = Counter(d.event_class for d in found)
    for out in dropped:
        for one in found:
            last_of_its_class = crowded[one.event_class] == 1
            assert one.severity >= out.severity or last_of_its_class
            if one.event_class == out.event_class:
                rank, other = (
                    (-one.severity, tag_of(one.payload)),
                    (-out.severity, tag_of(out.payload)),
                )
                ahead = rank < other
                assert ahead or one.severity > out.severity


# --- the account ---------------------------------------------------------------------------------


def capped(cap: int) -> Packs:
    """Return packs with another cap over all assets."""
    return replace(PACKS, budgets=PACKS.budgets.model_copy(update={"global_per_minute": cap}))


def suppression(uid: int, reason: str = "cooldown") -> Suppression:
    """Return a candidate that was refused before."""
    return Suppression(uid, f"S{uid}", "1m", T, 0, "spike.x", reason, 60)


def scored(
    uid: int,
    *drafts: Draft,
    refused: int = 0,
    n: int = 2,
    final: bool = False,
    minute: int = 0,
    lost: int = 0,
) -> ScoredItem:
    """Return an asset's share of a phase of n assets; `lost` candidates are not accounted for."""
    label = T + minute * MINUTE_MS
    phase = Phase(label, final, n, label + (3000 if final else 1500))
    suppressed = tuple(suppression(uid) for _ in range(refused))
    return ScoredItem(phase, uid, drafts, suppressed, len(drafts) + refused + lost)


def settle(budget: Budget, *items: ScoredItem, state: BudgetState | None = None) -> Published:
    """Return the account of one phase."""
    state = state or budget.initial()
    (published,) = [out for item in items for out in budget.step(state, item)]
    return published


def test_a_phase_is_published_when_all_assets_and_the_market_have_answered() -> None:
    """Events in the order of assets, MARKET first, and of an asset as it sent them."""
    budget, state = Budget(PACKS), BudgetState()
    assert budget.step(state, scored(1, draft(1, 60, tag=2), draft(1, 90, "shift", tag=3))) == []
    assert budget.step(state, scored(MARKET_UID, draft(-1, 70, "synchrony", tag=0))) == []
    (published,) = budget.step(state, scored(0, draft(0, 50, tag=1), refused=1))
    assert [tag_of(event) for event in published.events] == [0, 1, 2, 3]
    assert published.suppressed == (suppression(0),)
    assert published.phase == Phase(T, False, 2, T + 1500)


def test_the_order_of_arrival_does_not_matter() -> None:
    """Also not for what is over the cap."""
    items = [
        scored(MARKET_UID, n=3),
        scored(0, draft(0, 70), refused=1, n=3),
        scored(1, draft(1, 70), n=3),
        scored(2, draft(2, 80), draft(2, 60, "shift"), refused=2, n=3),
    ]
    first = settle(Budget(capped(3)), *items)
    assert settle(Budget(capped(3)), *reversed(items)) == first
    assert [(e["symbol"], e["severity"]) for e in first.events] == [
        ("S0", 70),
        ("S2", 80),
        ("S2", 60),
    ]


def test_over_the_cap_is_a_suppression_with_its_reason() -> None:
    """It says which candidate it was."""
    published = settle(
        Budget(capped(1)), scored(MARKET_UID), scored(0, draft(0, 60)), scored(1, draft(1, 80))
    )
    assert [event["symbol"] for event in published.events] == ["S1"]
    assert published.suppressed == (
        Suppression(0, "S0", "1m", T, 0, "spike.x", "budget_global", 60),
    )


def test_an_amended_row_over_the_cap_is_named_by_its_revision() -> None:
    """As the suppressions that scoring writes."""
    published = settle(
        Budget(capped(0)),
        scored(MARKET_UID, n=1, final=True),
        scored(0, msgspec.structs.replace(draft(0, 60), revision=1), n=1, final=True),
    )
    assert [(s.reason, s.revision) for s in published.suppressed] == [("budget_global", 1)]


@pytest.mark.parametrize("lost", [1, -1])
def test_a_candidate_that_is_not_accounted_for_is_a_bug(lost: int) -> None:
    """Candidates = published + suppressed, checked in every phase (design 1)."""
    with pytest.raises(AssertionError):
        settle(Budget(PACKS), scored(MARKET_UID), scored(0, draft(0, 60), lost=lost), scored(1))


def test_an_empty_minute_has_an_empty_account() -> None:
    """It is published all the same: silence is known, not assumed."""
    published = settle(Budget(PACKS), scored(MARKET_UID), scored(0), scored(1))
    assert (published.events, published.suppressed) == ((), ())


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(50, 99), st.sampled_from(CLASSES)), max_size=3),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 8),
)
def test_property_the_account_is_complete(
    shares: list[tuple[list[tuple[int, str]], int]], cap: int
) -> None:
    """Whatever the cap, nothing is lost and nothing is published above it."""
    items = [scored(MARKET_UID, n=len(shares))]
    items += [
        scored(uid, *(draft(uid, s, c) for s, c in drafts), refused=refused, n=len(shares))
        for uid, (drafts, refused) in enumerate(shares)
    ]
    published = settle(Budget(capped(cap)), *items)
    assert len(published.events) <= cap
    total = sum(len(drafts) + refused for drafts, refused in shares)
    assert len(published.events) + len(published.suppressed) == total


def test_the_cap_is_for_the_whole_minute() -> None:
    """Amended rows may not publish as many events again as the sealed ones did."""
    budget, state = Budget(capped(2)), BudgetState()
    sealed = settle(
        budget, scored(MARKET_UID), scored(0, draft(0, 60)), scored(1, draft(1, 60)), state=state
    )
    amended = settle(
        budget,
        scored(MARKET_UID, final=True),
        scored(0, draft(0, 90), final=True),
        scored(1, draft(1, 90), final=True),
        state=state,
    )
    assert len(sealed.events) + len(amended.events) <= 2


def test_the_next_minute_has_its_own_cap() -> None:
    """What was published a minute ago does not count."""
    budget, state = Budget(capped(1)), BudgetState()
    for minute in range(3):
        published = settle(
            budget,
            scored(MARKET_UID, minute=minute),
            scored(0, draft(0, 60), minute=minute),
            scored(1, minute=minute),
            state=state,
        )
        assert len(published.events) == 1


def test_state_can_be_saved_in_the_middle_of_a_phase() -> None:
    """What was waiting is published after the restart."""
    budget, state = Budget(PACKS), BudgetState()
    budget.step(state, scored(0, draft(0, 60), refused=1))
    budget.step(state, scored(MARKET_UID))
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=BudgetState)
    (published,) = budget.step(state, scored(1, draft(1, 70)))
    assert [event["symbol"] for event in published.events] == ["S0", "S1"]
    assert published.suppressed == (suppression(0),)


# --- incidents -----------------------------------------------------------------------------------


def going(uid: int, way: int, event_class: str = "spike") -> Draft:
    """Return an event of an asset whose price goes up (1), down (-1) or nowhere (0)."""
    return msgspec.structs.replace(draft(uid, 70, event_class), direction=way)


def incidents(
    state: BudgetState, minute: int, *drafts: Draft, final: bool = False
) -> list[str | None]:
    """Return the incident of each event of a minute, MARKET first, then by asset."""
    by_uid: dict[int, list[Draft]] = {uid: [] for uid in range(-1, 6)}
    for one in drafts:
        by_uid[one.asset_uid].append(one)
    items = [scored(uid, *mine, n=6, minute=minute, final=final) for uid, mine in by_uid.items()]
    published = settle(Budget(PACKS), *items, state=state)
    assert len(published.events) == len(drafts)
    return [event.get("incident_id") for event in published.events]


UP_0930 = "2025-09-03T09:30:00Z:spike:up"
BASKET_0930 = "2025-09-03T09:30:00Z:synchrony"
# Events of one minute, their incidents
CAUSES: list[tuple[list[Draft], list[str | None]]] = [
    # three symbols of a class that go the same way have one cause, two have none
    ([going(0, 1), going(1, 1), going(2, 1)], [UP_0930] * 3),
    ([going(0, 1), going(1, 1)], [None] * 2),
    ([going(0, 1), going(1, 1), going(2, -1)], [None] * 3),
    ([going(0, 1), going(1, 1), going(2, 1, "shift")], [None] * 3),
    ([going(0, 0), going(1, 0), going(2, 0)], [None] * 3),
    # three events of two symbols are two symbols
    ([going(0, 1), going(0, 1), going(1, 1)], [None] * 3),
    # a basket shock claims the spikes, whatever their way, and nothing else
    (
        [going(MARKET_UID, 0, "synchrony"), going(0, 1), going(1, -1), going(2, 1, "shift")],
        [BASKET_0930] * 3 + [None],
    ),
    ([going(MARKET_UID, 0, "rotation"), going(0, 1)], [None] * 2),
]


@pytest.mark.parametrize(("drafts", "expected"), CAUSES)
def test_events_of_one_cause_share_an_incident(
    drafts: list[Draft], expected: list[str | None]
) -> None:
    """The id says minute and cause; who stands alone has none."""
    assert incidents(BudgetState(), 0, *drafts) == expected


@pytest.mark.parametrize(("minute", "goes_on"), [(1, True), (5, True), (6, False)])
def test_a_cause_that_comes_again_soon_is_the_same_incident(minute: int, goes_on: bool) -> None:
    """Within five minutes, across a restart; what stands alone then is no part of it."""
    state, three = BudgetState(), [going(uid, 1) for uid in range(3)]
    incidents(state, 0, *three)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=BudgetState)
    assert incidents(state, minute, *three[:1]) == [None]
    found = incidents(state, minute, *three, final=True)
    assert found == [UP_0930 if goes_on else f"2025-09-03T09:3{minute}:00Z:spike:up"] * 3


def test_an_incident_lasts_while_its_cause_comes_again() -> None:
    """Every four minutes for long: the gap counts from the last time."""
    state, three = BudgetState(), [going(uid, -1) for uid in range(3)]
    found = {i for minute in range(0, 40, 4) for i in incidents(state, minute, *three)}
    assert found == {"2025-09-03T09:30:00Z:spike:down"}


def test_amendments_join_the_incident_of_their_minute() -> None:
    """One late event is enough where the sealed rows had made it."""
    state = BudgetState()
    incidents(state, 0, *(going(uid, 1) for uid in range(3)))
    assert incidents(state, 0, going(4, 1), going(5, -1), final=True) == [UP_0930, None]


# --- the id --------------------------------------------------------------------------------------

PARTS: dict[str, Any] = {
    "emitted_ms": T + 1500,
    "asset_uid": 5,
    "event_class": "spike",
    "subtype": "vol_spike_m_1",
    "tf": "1m",
    "exchange_ts_ms": T,
    "revision": 0,
    "config_hash": "sha256:00ff",
}
other_parts = st.fixed_dictionaries(
    {
        "emitted_ms": st.integers(0, 2**48 - 1),
        "asset_uid": st.integers(-1, 200_000),
        "event_class": st.sampled_from(CLASSES),
        "subtype": st.text("abc_", min_size=1, max_size=9),
        "tf": st.sampled_from(("1m", "15m", "1h")),
        "exchange_ts_ms": st.integers(0, 2**42),
        "revision": st.integers(0, 1),
        "config_hash": st.text("0123456789abcdef", min_size=8, max_size=8),
    }
)


@given(other_parts)
def test_property_an_id_is_a_uuid_of_version_7(parts: dict[str, Any]) -> None:
    """RFC 9562 5.7: 48 bits of time, the version, 12 bits, the variant, 62 bits."""
    text = event_id(**parts)
    found = UUID(text)
    assert str(found) == text
    assert (found.version, found.variant) == (7, RFC_4122)
    assert found.int >> 80 == parts["emitted_ms"]


@given(other_parts)
def test_oracle_the_random_bits_are_those_of_the_digest(parts: dict[str, Any]) -> None:
    """The first 12 and the last 62 of the first 80 bits of the content's SHA-256 (design 4)."""
    content = [parts[name] for name in list(PARTS)[1:]]
    digest = hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).digest()
    bits = "".join(f"{byte:08b}" for byte in digest[:10])
    found = f"{UUID(event_id(**parts)).int:0128b}"
    assert found[52:64] == bits[:12]
    assert found[66:] == bits[18:]


@given(other_parts, other_parts)
def test_property_an_id_is_a_function_of_the_content(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    """The same parts give the same id, other parts another one."""
    assert event_id(**one) == event_id(**dict(one))
    assert (event_id(**one) == event_id(**other)) == (one == other)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("emitted_ms", T + 1501),
        ("asset_uid", 6),
        ("event_class", "shift"),
        ("subtype", "vol_spike_m_5"),
        ("tf", "15m"),
        ("exchange_ts_ms", T + MINUTE_MS),
        ("revision", 1),
        ("config_hash", "sha256:00fe"),
    ],
)
def test_every_part_matters(part: str, value: object) -> None:
    """An event that differs in any of them is another event."""
    assert event_id(**{**PARTS, part: value}) != event_id(**PARTS)


def test_parts_do_not_run_into_each_other() -> None:
    """`ab` and `c` are not `a` and `bc`."""
    one = event_id(**{**PARTS, "event_class": "ab", "subtype": "c"})
    assert one != event_id(**{**PARTS, "event_class": "a", "subtype": "bc"})


def test_ids_sort_by_time() -> None:
    """As text too: that is what version 7 is for."""
    ids = [event_id(**{**PARTS, "emitted_ms": T + k}) for k in range(0, 5000, 7)]
    assert ids == sorted(ids)


# --- the payload ---------------------------------------------------------------------------------

ROW: Columns = {
    **dict.fromkeys(PACKS.features.names("1m")),
    "dq_status": "ok",
    "dq_reasons": [],
    "ingest_ts": "2025-09-03T09:30:01.500Z",
    "ingest_lag_ms": 1500,
    "book_staleness_ms": 41,
    "oi_staleness_ms": 870,
    "clock_skew_ms": 73,
    "warmup": False,
    "illiquidity_hit": False,
    "dq_penalty": 0,
    "illiq_penalty": 0,
    "ret_s_30": 0.0042,
    "ret_m_1": 0.0031,
    "z_ret_abs_m_1": 5.9,
    "v_total_m_1": 18_000_000.0,
    "trade_count_m_1": 412,
    "z_vol_m_1": 6.6,
    "spread_mean_m_1": 0.75,
    "z_spread_m_1": 0.9,
    "cvd_slope_m_5": 0.7,
    "rv_m_1": 0.002,
    "is_in_universe": True,
    "is_hot": True,
    "universe_rev": 3127,
}
FRAME: Columns = {
    "leader": "BTC",
    "leader_uid": 0,
    "dominance_share": 0.42,
    "shock_count_5s": 4,
    "approx": False,
    "rs_top": ["SOL", "HYPE", "APT", "SEI", "ENA"],
    "rs_bottom": ["XRP", "ADA", "ARB", "DOGE", "DOT"],
    "return_dispersion_m_5": 0.006,
    "vol_dispersion_m_5": 0.92,
    "time_to_next_funding_sec": 1800,
    "dq_status": "ok",
    "universe_rev": 3127,
}


def events(
    packs: Packs = PACKS, frame: Columns = FRAME, git_commit: str | None = None, **columns: Any
) -> list[dict[str, Any]]:
    """Return the payloads of one busy minute of SOL."""
    phase = Phase(T, False, 1, T + 1500)
    row = Row(5, "SOL", "1m", T, 0, {**ROW, **columns})
    (marked,) = Detect(packs).step(None, RowItem(phase, 5, (row,)))
    step = Score(packs, PRODUCER, git_commit)
    market = Frame("1m", T, 0, frame)
    item = ScoreItem(phase, 5, marked.rows, marked.candidates, (market,))
    (out,) = step.step(step.initial(), item)
    return [draft.payload for draft in out.drafts]


def event(**columns: Any) -> dict[str, Any]:
    """Return the only event of a busy minute."""
    (one,) = events(**columns)
    return one


def test_golden_payload() -> None:
    """Build plan 11.1 field by field; the weaker spikes of the minute are named."""
    found = event()
    assert found.pop("event_id") == event_id(
        **{**PARTS, "event_class": "spike", "config_hash": PACKS.config_hash}
    )
    assert found.pop("provenance") == {
        "producer": PRODUCER,
        "feature_pack": PACKS.feature_pack,
        "detector_pack": PACKS.detector_pack,
        "config_hash": PACKS.config_hash,
        "git_commit": None,
        "universe_policy_rev": 17,
        "source_lag_ms": 1500,
        "clock_skew_ms": 73,
    }
    assert found == {
        "v": "0.1",
        "emitted_at": "2025-09-03T09:30:01.500Z",
        "exchange_ts": "2025-09-03T09:30:00Z",
        "ingest_ts": "2025-09-03T09:30:01.500Z",
        "symbol": "SOL",
        "asset_uid": 5,
        "tf": "1m",
        "class": "spike",
        "subtype": "vol_spike_m_1",
        "window_sec": 60,
        "severity": 100,
        "novelty": {"first_seen_at": "2025-09-03T09:30:00Z"},
        "debounce_key": "SOL:spike:1m",
        "coalesced": ["price_spike_up_m_1", "price_up_volume_up_m_1"],
        "local_state": {
            "features": {
                "ret_s_30": 0.0042,
                "ret_m_1": 0.0031,
                "z_ret_abs_m_1": 5.9,
                "v_total_m_1": 18_000_000.0,
                "trade_count_m_1": 412,
                "z_vol_m_1": 6.6,
                "spread_mean_m_1": 0.75,
                "z_spread_m_1": 0.9,
                "cvd_slope_m_5": 0.7,
            },
            "flags": {"is_vol_spike_m_1": True, "is_price_spike_up_m_1": True},
            "dq": {
                "status": "ok",
                "ingest_lag_ms": 1500,
                "book_staleness_ms": 41,
                "oi_staleness_ms": 870,
            },
        },
        "market_frame": {
            name: FRAME[name]
            for name in (
                *("leader", "dominance_share", "shock_count_5s", "rs_top", "rs_bottom"),
                *("return_dispersion_m_5", "vol_dispersion_m_5", "time_to_next_funding_sec"),
            )
        },
        "membership": {"is_in_universe": True, "is_hot": True, "universe_rev": 3127},
        "attachments": {"bar_refs": {"1m": ["SOL/1m/2025-09-03T09:30:00Z"]}},
    }


REQUIRED = (
    *("v", "event_id", "emitted_at", "exchange_ts", "symbol", "asset_uid", "tf", "class"),
    *("subtype", "severity", "debounce_key", "local_state.dq.status", "market_frame.leader"),
    *("membership.is_in_universe", "membership.is_hot", "membership.universe_rev"),
    *("provenance.producer", "provenance.feature_pack", "provenance.detector_pack"),
    *("provenance.config_hash", "provenance.universe_policy_rev", "provenance.source_lag_ms"),
    *("provenance.clock_skew_ms", "provenance.git_commit"),
)


def has(payload: dict[str, Any], path: str) -> bool:
    """Return whether a payload has a field, NULL or not."""
    value: Any = payload
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True


@pytest.mark.parametrize("path", REQUIRED)
def test_required_fields_are_there_also_when_nothing_is_known(path: str) -> None:
    """A first minute: no leader, no skew, no book."""
    bare = dict.fromkeys(FRAME) | {"shock_count_5s": 0, "dq_status": "stale"}
    (one,) = events(frame=bare, clock_skew_ms=None, book_staleness_ms=None, rv_m_1=None)
    assert has(one, path)
    assert has(event(), path)


def test_the_commit_of_the_build_is_part_of_the_provenance() -> None:
    """Required by plan 11.1; NULL where it was not recorded, and never part of the id."""
    assert event()["provenance"]["git_commit"] is None
    (built,) = events(git_commit="b8b1bc2")
    assert built["provenance"]["git_commit"] == "b8b1bc2"
    assert built["event_id"] == event()["event_id"]


def test_the_panel_has_positioning_where_it_is_known() -> None:
    """Build plan 9.8: open interest and basis are part of the context of every event."""
    positioning = {
        "oi_roc_m_5": 0.0031,
        "z_oi_roc_m_5": 1.9,
        "basis_bp_m_5": -4.5,
        "z_basis_m_5": 0.25,
    }
    found = event(**positioning)["local_state"]["features"]
    assert found.items() >= positioning.items()
    assert not positioning.keys() & event()["local_state"]["features"].keys()


def test_null_numbers_are_left_out() -> None:
    """What is not known is not in the panel; consumers never see a null feature."""
    features = event(ret_s_30=None, cvd_slope_m_5=None)["local_state"]["features"]
    assert not {"ret_s_30", "cvd_slope_m_5"} & features.keys()
    assert all(type(value) in (int, float) for value in features.values())


def test_flags_are_those_that_are_true() -> None:
    """Membership is no flag."""
    state = event(z_spread_m_1=2.5, z_ret_abs_m_1=1.0)["local_state"]
    assert state["flags"] == {"is_vol_spike_m_1": True, "is_spread_stress_m_1": True}


def test_without_others_nothing_is_coalesced() -> None:
    """The key is absent, not empty."""
    assert "coalesced" not in event(z_ret_abs_m_1=0.5)


def test_an_inferred_detector_says_so() -> None:
    """Design D8."""
    assert "inferred" not in event()["local_state"]
    packs = replace(PACKS, detectors=tuple(replace(d, inferred=True) for d in PACKS.detectors))
    (one,) = events(packs)
    assert one["local_state"]["inferred"] is True


def test_the_pseudo_asset_has_an_id_too() -> None:
    """MARKET is asset -1."""
    assert UUID(event_id(**{**PARTS, "asset_uid": MARKET_UID})).version == 7


sigmas = st.integers(-96, 160).map(lambda k: k / 16)


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return every value of a payload with its place."""
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, f"{path}.{key}")]
    if isinstance(value, list):
        assert len(value) <= 16, path
        return [leaf for item in value for leaf in leaves(item, path)]
    return [(path, value)]


def ordered(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose keys were written in order."""
    names = [name for name, _ in pairs]
    assert names == sorted(set(names))
    return dict(pairs)


@settings(max_examples=60, deadline=None)
@given(sigmas, sigmas, sigmas, st.floats(-0.2, 0.2), st.integers(0, 9))
def test_property_types_and_bounds(
    z_vol: float, z_ret: float, z_spread: float, ret: float, shocks: int
) -> None:
    """Plan 11.2 on whatever is published; the text is canonical and small."""
    columns: Columns = {"z_vol_m_1": z_vol, "z_ret_abs_m_1": z_ret, "z_spread_m_1": z_spread}
    frame = {**FRAME, "shock_count_5s": shocks}
    for one in events(frame=frame, ret_m_1=float(f"{ret:.12g}"), **columns):
        assert type(one["severity"]) is int
        assert PACKS.detectors[0].publish_threshold <= one["severity"] <= 100
        assert one["class"] in ("spike", "shift")
        for path, value in leaves(one):
            assert type(value) in (int, float, str, bool, type(None)), path
            assert type(value) is not float or value == float(f"{value:.12g}"), path
        text = event_json(one)
        assert len(text) < 4096
        assert json.loads(text, object_pairs_hook=ordered) == one


def test_canonical_bytes_do_not_depend_on_the_order_of_keys() -> None:
    """Sorted at every depth, no white space, and stable over two runs."""
    one = event()
    turned = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value
        for key, value in reversed(one.items())
    }
    assert list(turned) != list(one)
    assert event_json(turned) == event_json(one) == event_json(event())
    assert json.loads(event_json(one), object_pairs_hook=ordered) == one
    assert b": " not in event_json(one)
