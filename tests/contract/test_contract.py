"""What the contract takes and refuses, and that what is refused is never lost."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path
from typing import Any, get_args

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from operators import contract
from operators.contract import (
    ARRAY_MAX,
    DEAD_TEXT_MAX,
    EVENT_BYTES_MAX,
    REASON_MAX,
    Attachments,
    ContractError,
    DataQuality,
    Event,
    LocalState,
    MarketFrame,
    Membership,
    Novelty,
    Provenance,
    dead_letter,
    fault_of,
    parse,
)
from operators.events import FRAME_FIELDS
from operators.lattice import iso
from operators.publish import dead_json, event_json
from operators.records import MARKET_SYMBOL, MARKET_UID
from operators.verdicts import DQ_OK, DQ_PARTIAL, DQ_STALE
from packs.loader import load_packs
from packs.schema import EVENT_CLASSES, TIMEFRAMES

ROOT = Path(__file__).parents[2]

Json = dict[str, Any]


def changed(payload: Json, path: str, value: Any) -> Json:
    """Return a copy with the value at a dotted path replaced; `...` removes it."""
    result = copy.deepcopy(payload)
    *parents, last = path.split(".")
    place = result
    for name in parents:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return result


def known(payload: Json) -> Json:
    """Return the payload without what is NULL or holds nothing, at any depth."""
    return {
        name: known(value) if isinstance(value, dict) else value
        for name, value in payload.items()
        if value is not None and value != {}
    }


# --- what is accepted ----------------------------------------------------------------------------


def test_golden_events_keep_the_contract(pinned: list[Json]) -> None:
    """Everything the pinned replays publish, and it reads back as it was but for NULLs."""
    for payload in pinned:
        assert fault_of(payload) is None
        again = orjson.loads(event_json(msgspec.to_builtins(parse(event_json(payload)))))
        assert known(again) == known(payload)


def test_an_event_with_every_field_keeps_the_contract(full: Json) -> None:
    """The fixture of these tests has all of them, so that each can be broken."""
    assert fault_of(full) is None
    assert event_json(msgspec.to_builtins(parse(event_json(full)))) == event_json(full)
    names = set(msgspec.json.schema(Event)["$defs"]["Event"]["properties"])
    assert full.keys() == names


REQUIRED = (
    *("v", "event_id", "emitted_at", "exchange_ts", "symbol", "asset_uid", "tf", "class"),
    *("subtype", "severity", "debounce_key", "local_state", "market_frame", "membership"),
    *("provenance", "local_state.dq", "local_state.dq.status", "market_frame.leader"),
    *("membership.is_in_universe", "membership.is_hot", "membership.universe_rev"),
    *("provenance.producer", "provenance.feature_pack", "provenance.detector_pack"),
    *("provenance.config_hash", "provenance.git_commit", "provenance.universe_policy_rev"),
    *("provenance.source_lag_ms", "provenance.clock_skew_ms"),
)


def paths(payload: Json, path: str = "") -> list[str]:
    """Return every field of a payload, dotted; not what stands in free mappings."""
    found = []
    for name, value in payload.items():
        found.append(f"{path}{name}")
        if isinstance(value, dict) and name not in ("features", "flags", "bar_refs"):
            found += paths(value, f"{path}{name}.")
    return found


def test_required_is_what_the_plan_requires(full: Json) -> None:
    """Build plan 11.1, in both directions: nothing else may be missed."""
    for path in paths(full):
        fault = fault_of(changed(full, path, ...))
        if path in REQUIRED or path == "novelty.first_seen_at":
            assert fault == f"{path}: expected a value, found nothing"
        else:
            assert fault is None, path


def test_the_bare_event_of_a_first_minute_is_one(full: Json) -> None:
    """Required fields alone, and NULL where nothing is known yet."""
    names = ("producer", "feature_pack", "detector_pack", "config_hash", "universe_policy_rev")
    provenance = {name: full["provenance"][name] for name in names}
    bare = {
        "v": "0.1",
        "event_id": "00000000-0000-7000-8000-000000000000",
        "emitted_at": "1970-01-01T00:01:01.500Z",
        "exchange_ts": "1970-01-01T00:01:00Z",
        "symbol": "MARKET",
        "asset_uid": -1,
        "tf": "15m",
        "class": "synchrony",
        "subtype": "x",
        "severity": 0,
        "debounce_key": "MARKET:synchrony:15m",
        "local_state": {"dq": {"status": "stale"}},
        "market_frame": {"leader": None},
        "membership": {"is_in_universe": True, "is_hot": False, "universe_rev": 0},
        "provenance": provenance | dict.fromkeys(("git_commit", "source_lag_ms", "clock_skew_ms")),
    }
    assert fault_of(bare) is None
    event = parse(event_json(bare))
    assert (event.coalesced, event.incident_id, event.attachments) == ((), None, None)
    assert event.local_state.features == {}


def test_readers_ignore_what_they_do_not_know(full: Json) -> None:
    """Also inside, of any type (build plan 11.6); a writer may not invent it."""
    for path in ("mood", "membership.mood", "local_state.dq.mood"):
        newer = changed(full, path, {"calm": [1, None]})
        assert parse(orjson.dumps(newer)) == parse(event_json(full))
        assert fault_of(newer) == f"{path}: expected a field of the contract, found none it has"


# --- what is refused -----------------------------------------------------------------------------

FAULTS: list[tuple[str, Any, str]] = [
    ("severity", 101, "severity: expected int <= 100, found 101"),
    ("severity", -1, "severity: expected int >= 0, found -1"),
    ("severity", 74.0, "severity: expected int, found 74.0"),
    ("severity", True, "severity: expected int, found True"),
    ("tf", "4h", "tf: expected one of 1m, 15m, 1h, found '4h'"),
    ("local_state.dq.status", "fine", "status: expected one of ok, partial, stale, found 'fine'"),
    ("asset_uid", -2, "asset_uid: expected int >= -1, found -2"),
    ("asset_uid", -1, "symbol: expected MARKET with asset_uid -1, found 'SOL'"),
    ("symbol", "", "symbol: expected str of length >= 1, found ''"),
    ("debounce_key", "BTC:spike:1m", "debounce_key: expected SOL:spike:1m, found 'BTC:spike:1m'"),
    ("market_frame.rs_top", ["A"] * 17, "market_frame.rs_top: expected array of length <= 16"),
    ("market_frame.rs_top", ["A", 3], "market_frame.rs_top[1]: expected str, found 3"),
    ("coalesced", ["a"] * 17, "coalesced: expected array of length <= 16"),
    ("incident_id", "x" * 65, "incident_id: expected str of length <= 64"),
    ("local_state.features.a", None, "local_state.features.a: expected int | float, found None"),
    ("local_state.features.B", 1.0, "local_state.features.B: expected str matching regex"),
    ("local_state.flags.a", "yes", "local_state.flags.a: expected bool, found 'yes'"),
    ("attachments.bar_refs.5m", [], "bar_refs.5m: expected one of 1m, 15m, 1h, found '5m'"),
    ("local_state.features.a\n", 1.0, r"local_state.features.'a\n': expected str matching regex"),
    ("\ud800", 1.0, r"'\ud800': expected a field of the contract, found none it has"),
    ("attachments.bar_refs.15m", ["SOL"], "attachments.bar_refs.15m[0]: expected str matching"),
    ("exchange_ts", "2025-09-03T09:30:01Z", "exchange_ts: expected str matching regex"),
    ("exchange_ts", "2025-13-03T09:30:00Z", "exchange_ts: expected str matching regex"),
    ("emitted_at", "2025-09-03T09:30:00Z\n", "emitted_at: expected str matching regex"),
    ("event_id", "01990e8f-76dc-4b61-bc1e-3f0f1b0c0b8d", "event_id: expected str matching regex"),
    ("subtype", "spike.x", "subtype: expected str matching regex"),
    ("membership", [], "membership: expected object, found []"),
    ("novelty", {"first_seen_at": None}, "novelty.first_seen_at: expected str, found None"),
    ("symbol", "\ud800", "event: expected values that JSON has, found: str is not valid UTF-8"),
    ("local_state.features.a", 2**64, "event: expected values that JSON has, found: Integer"),
    ("provenance.git_commit", object(), "event: expected values that JSON has, found: Type is"),
    ("local_state.features.a", {"b": math.nan}, "features.a: expected int | float, found {'b'"),
    ("symbol", "x" * EVENT_BYTES_MAX, f"event: expected at most {EVENT_BYTES_MAX} bytes, found"),
]


@pytest.mark.parametrize(("path", "value", "reason"), FAULTS)
def test_a_fault_is_named_with_path_expected_and_found(
    full: Json, path: str, value: Any, reason: str
) -> None:
    """One line, and it becomes a dead letter whatever it is."""
    payload = changed(full, path, value)
    fault = fault_of(payload)
    assert fault is not None
    assert reason in fault
    assert "\n" not in fault
    dead = dead_letter(payload, fault)
    assert dead.reason == fault[:REASON_MAX]
    assert orjson.loads(dead_json(dead)) == msgspec.to_builtins(dead)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "path", ["local_state.features.a", "market_frame.dominance_share", "severity", "asset_uid"]
)
def test_a_number_that_is_not_finite_is_refused(full: Json, path: str, bad: float) -> None:
    """The bytes would say null, which some of these fields may be."""
    assert fault_of(changed(full, path, bad)) == f"{path}: expected a finite number, found {bad}"
    in_a_list = changed(full, "market_frame.rs_top", ["SOL", bad])
    fault = fault_of(in_a_list)
    assert fault == f"market_frame.rs_top[1]: expected a finite number, found {bad}"


def test_the_entry_at_fault_is_named_among_sound_ones(full: Json) -> None:
    """Also when another field is wrong as well: the first in the order of the bytes is told."""
    features = {f"c_{n}": 1.0 for n in range(20)} | {"c_13": "13"}
    broken = changed(changed(full, "local_state.features", features), "severity", 500)
    assert fault_of(broken) == "local_state.features.c_13: expected int | float, found '13'"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "event: expected JSON in UTF-8, found: Input data was truncated"),
        (b"\xff", "event: expected JSON in UTF-8, found: JSON is malformed"),
        (b'{"v":"\xff"}', "event: expected JSON in UTF-8, found: 'utf-8' codec"),
        (b'{"q":' * 100_000, "event: expected JSON in UTF-8, found: maximum recursion"),
        (b"[]", "event: expected object, found []"),
        (b"{}", "v: expected a value, found nothing"),
        (b'{"severity":101', "event: expected `int` <= 100"),
        (b'{"severity":1e999}', "event: number out of range"),
    ],
)
def test_bytes_that_are_no_event_are_one_line(data: bytes, reason: str) -> None:
    """A consumer gets one kind of error, whatever came over the wire."""
    with pytest.raises(ContractError) as caught:
        parse(data)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


def padded(payload: Json, size: int) -> Json:
    """Return the event with as many features as make it so many bytes long."""
    room = size + 1 - len(event_json(changed(payload, "local_state.features", {})))
    count = -(-room // 70)  # 63 letters, two quotes, colon, three digits, comma
    lengths = [room // count + (n < room % count) - 7 for n in range(count)]
    features = {f"c{n:03d}{'x' * (length - 4)}": 1.0 for n, length in enumerate(lengths)}
    return changed(payload, "local_state.features", features)


def test_the_limit_of_size_is_that_of_the_canonical_bytes(full: Json) -> None:
    """Exactly at the limit is published, one byte more is not."""
    assert len(event_json(padded(full, EVENT_BYTES_MAX))) == EVENT_BYTES_MAX
    assert fault_of(padded(full, EVENT_BYTES_MAX)) is None
    over = EVENT_BYTES_MAX + 1
    expected = f"event: expected at most {EVENT_BYTES_MAX} bytes, found {over}"
    assert fault_of(padded(full, over)) == expected


# --- dead letters --------------------------------------------------------------------------------


def test_a_dead_letter_says_what_it_was(full: Json) -> None:
    """Ids for the key and the search, the reason, and the whole event as text."""
    payload = changed(full, "market_frame.dominance_share", math.nan)
    dead = dead_letter(payload, "why")
    assert (dead.event_id, dead.asset_uid) == (full["event_id"], 5)
    assert (dead.exchange_ts, dead.reason) == (full["exchange_ts"], "why")
    text = json.loads(dead.payload)
    assert math.isnan(text["market_frame"].pop("dominance_share"))
    del payload["market_frame"]["dominance_share"]
    assert text == payload
    assert dead.size_bytes == len(dead.payload.encode())


def deep() -> Json:
    """Return a mapping that no JSON library can write."""
    root: Json = {}
    place = root
    for _ in range(100_000):
        place["a"] = {}
        place = place["a"]
    return root


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"event_id": 5, "asset_uid": "5", "exchange_ts": "\ud800"},
        {"event_id": "x" * 65, "asset_uid": 2**63, "exchange_ts": None},
        {"asset_uid": True, "novelty": deep()},
        {"novelty": {1: 2, "a": object()}},
        {("a", "b"): 1},
    ],
)
def test_nothing_is_too_broken_for_a_dead_letter(payload: Json) -> None:
    """No field it needs, no text it cannot have; it always has bytes of its own."""
    fault = fault_of(payload)
    assert fault is not None
    dead = dead_letter(payload, fault)
    assert (dead.event_id, dead.asset_uid, dead.exchange_ts) == (None, None, None)
    assert msgspec.json.decode(dead_json(dead), type=contract.DeadLetter) == dead


def test_a_very_long_payload_is_cut_and_says_so() -> None:
    """A dead letter fits into any message; the reason as well."""
    dead = dead_letter({"symbol": "x" * 100_000}, "r" * 1000)
    assert len(dead.payload) == DEAD_TEXT_MAX
    assert dead.size_bytes == 100_000 + len('{"symbol": ""}')
    assert len(dead.reason) == REASON_MAX


# --- in step with the rest -----------------------------------------------------------------------


def test_enumerations_are_those_of_the_packs_and_of_the_verdict() -> None:
    """The contract is frozen, packs may grow: a new class or timeframe needs a new contract."""
    assert get_args(contract.Timeframe) == TIMEFRAMES
    assert get_args(contract.EventClass) == EVENT_CLASSES
    assert get_args(contract.Verdict) == (DQ_OK, DQ_PARTIAL, DQ_STALE)
    assert contract._MARKET == (MARKET_UID, MARKET_SYMBOL)


def test_every_field_of_the_frame_has_its_place() -> None:
    """What events copy from the frame is what the contract lists."""
    assert tuple(field.name for field in msgspec.structs.fields(MarketFrame)) == FRAME_FIELDS


@pytest.mark.parametrize("pack", ["v0.1", "v0.2"])
def test_every_detector_of_a_shipped_pack_can_be_published(full: Json, pack: str) -> None:
    """Its subtype, its class, and a panel with everything it names."""
    packs = load_packs(detectors=ROOT / "packs" / "detectors" / f"{pack}.yaml")
    for detector in packs.detectors:
        payload = changed(full, "subtype", detector.subtype)
        payload["class"] = detector.event_class
        payload["debounce_key"] = f"SOL:{detector.event_class}:1m"
        names = {*detector.inputs, *detector.payload}
        payload["local_state"]["features"] = dict.fromkeys(sorted(names), -1.23456789012e-7)
        assert fault_of(payload) is None, detector.detector_id


# --- properties ----------------------------------------------------------------------------------

letters = st.characters(categories=("L", "N", "P", "S"))
symbols = st.text(letters, min_size=1, max_size=64)
names = st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True)
subtypes = st.text(st.characters(categories=("L", "Nd", "Mn", "Pc")), min_size=1, max_size=95)
versions = st.from_regex(r"v[0-9]{1,3}\.[0-9]{1,3}(\.[0-9]{1,3})?", fullmatch=True)
hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**53)
lags = st.none() | st.integers(-(2**53), 2**53)
minutes = st.integers(0, 253_402_300_799 // 60).map(lambda minute: minute * 60_000)
labels = minutes.map(iso)
times = st.integers(0, 253_402_300_799_999).map(iso)
ids = st.from_regex(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", fullmatch=True
)
timeframes = st.sampled_from(TIMEFRAMES)
lists = st.none() | st.lists(symbols, max_size=ARRAY_MAX).map(tuple)
refs = st.tuples(symbols, timeframes, labels).map("/".join)

local_states = st.builds(
    LocalState,
    dq=st.builds(
        DataQuality,
        status=st.sampled_from([DQ_OK, DQ_PARTIAL, DQ_STALE]),
        ingest_lag_ms=lags,
        book_staleness_ms=lags,
        oi_staleness_ms=lags,
    ),
    features=st.dictionaries(names, finite | st.integers(-(2**53), 2**53), max_size=20),
    flags=st.dictionaries(names, st.booleans(), max_size=8),
    inferred=st.booleans(),
)
frames = st.builds(
    MarketFrame,
    leader=st.none() | symbols,
    dominance_share=st.none() | st.floats(0.0, 1.0),
    shock_count_5s=st.none() | counts,
    rs_top=lists,
    rs_bottom=lists,
    return_dispersion_m_5=st.none() | st.floats(0.0, 1e308),
    vol_dispersion_m_5=st.none() | st.floats(0.0, 1e308),
    time_to_next_funding_sec=st.none() | counts,
)
provenances = st.builds(
    Provenance,
    producer=st.text(letters, min_size=1, max_size=128),
    feature_pack=versions,
    detector_pack=versions,
    config_hash=hexes.map("sha256:{}".format),
    git_commit=st.none() | st.text(letters, min_size=1, max_size=128),
    universe_policy_rev=counts,
    source_lag_ms=lags,
    clock_skew_ms=lags,
    replay_of=st.booleans(),
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Return any event of the model."""
    uid = draw(st.integers(-1, 2**31 - 1))
    symbol = MARKET_SYMBOL if uid == MARKET_UID else draw(symbols)
    tf, event_class = draw(timeframes), draw(st.sampled_from(EVENT_CLASSES))
    return Event(
        v=draw(st.sampled_from(["0.1", "0.2", "0.17"])),
        event_id=draw(ids),
        emitted_at=draw(times),
        exchange_ts=draw(labels),
        ingest_ts=draw(st.none() | times),
        symbol=symbol,
        asset_uid=uid,
        tf=tf,
        event_class=event_class,
        subtype=draw(subtypes),
        window_sec=draw(st.none() | st.integers(1, 86_400)),
        severity=draw(st.integers(0, 100)),
        novelty=draw(st.none() | st.builds(Novelty, first_seen_at=labels)),
        debounce_key=f"{symbol}:{event_class}:{tf}",
        coalesced=draw(st.lists(subtypes, max_size=ARRAY_MAX).map(tuple)),
        incident_id=draw(st.none() | symbols),
        local_state=draw(local_states),
        market_frame=draw(frames),
        membership=draw(
            st.builds(
                Membership, is_in_universe=st.booleans(), is_hot=st.booleans(), universe_rev=counts
            )
        ),
        provenance=draw(provenances),
        attachments=draw(
            st.none()
            | st.builds(
                Attachments,
                bar_refs=st.dictionaries(
                    timeframes, st.lists(refs, max_size=ARRAY_MAX).map(tuple), max_size=3
                ),
            )
        ),
    )


def shuffled(value: Any, dice: random.Random) -> Any:
    """Return the same value with the keys of every object in another order."""
    if isinstance(value, dict):
        items = list(value.items())
        dice.shuffle(items)
        return {key: shuffled(item, dice) for key, item in items}
    return [shuffled(item, dice) for item in value] if isinstance(value, list) else value


@settings(max_examples=60)
@given(events(), st.randoms(use_true_random=False))
def test_property_an_event_of_the_model_round_trips(event: Event, dice: random.Random) -> None:
    """Model -> payload -> canonical bytes -> model; the order of keys does not matter."""
    payload = msgspec.to_builtins(event)
    data = event_json(payload)
    too_long = len(data) > EVENT_BYTES_MAX
    assert (fault_of(payload) is not None) is too_long
    assert parse(data) == event
    assert event_json(shuffled(payload, dice)) == data


def test_property_the_schema_takes_what_the_model_takes(validator: Draft202012Validator) -> None:
    """A consumer that only has the schema accepts every event of the model."""

    @settings(max_examples=40)
    @given(events())
    def check(event: Event) -> None:
        validator.validate(orjson.loads(event_json(msgspec.to_builtins(event))))

    check()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def test_property_no_value_anywhere_is_a_crash(full: Json) -> None:
    """Refused with one line and kept as a dead letter, or published and readable."""

    @given(st.sampled_from(paths(full)), json_values)
    def check(path: str, value: Any) -> None:
        payload = changed(full, path, value)
        fault = fault_of(payload)
        if fault is None:
            parse(event_json(payload))
        else:
            assert "\n" not in fault
            dead_json(dead_letter(payload, fault))

    check()
