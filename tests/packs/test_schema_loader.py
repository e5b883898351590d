"""Packs from files: what is filled in, what is refused and in which words, what the hash covers."""

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from packs.loader import (
    DEPTH_MAX,
    FILE_BYTES_MAX,
    Detector,
    Fault,
    PackError,
    Packs,
    check_file,
    config_hash,
    load_packs,
)
from packs.schema import (
    TIMEFRAMES,
    Column,
    DetectorPack,
    FeaturePack,
    Normalised,
    UniversePolicy,
)

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures" / "packs"

PACK: dict[str, Any] = {
    "detector_pack": "v0.9.0",
    "detectors": [
        {
            "id": "spike.vol_spike_m_1",
            "inputs": ["z_vol_m_1", "ret_m_1", "z_ret_abs_m_1"],
            "preconditions": ["dq_ok", "not_illiquid", "warm", "trade_count_ge_5"],
            "trigger": "z_vol_m_1 >= 3.0",
        }
    ],
}
Write = Callable[[Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write text, or anything YAML can hold, to a file and return its path."""

    def write(content: Any) -> Path:
        path = tmp_path / "pack.yaml"
        text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def shipped() -> Packs:
    return load_packs()


def pack(**changes: Any) -> dict[str, Any]:
    """Return a good pack whose only detector has other keys; None removes a key."""
    content = copy.deepcopy(PACK)
    row = content["detectors"][0]
    row.update(changes)
    content["detectors"][0] = {key: value for key, value in row.items() if value is not None}
    return content


def only(faults: list[Fault]) -> Fault:
    assert len(faults) == 1, [str(fault) for fault in faults]
    return faults[0]


def one_fault(write: Write, content: Any) -> Fault:
    return only(check_file(write(content))[0])


def detector(write: Write, content: Any) -> Detector:
    return load_packs(detectors=write(content)).detectors[0]


# --- what is filled in -----------------------------------------------------------------------


def test_plan_slice_loads_unchanged() -> None:
    """The plan's own snippet is a pack; only its missing examples are remarked on."""
    packs = load_packs(detectors=FIXTURES / "plan_slice.yaml")
    assert len(packs.warnings) == 4
    assert all("examples" in warning for warning in packs.warnings)
    summary = [
        (d.detector_id, d.event_class, d.primary.text, d.secondary and d.secondary.text)
        for d in packs.detectors
    ]
    assert summary == [
        ("spike.vol_spike_m_1", "spike", "z_vol_m_1", None),
        ("spike.price_spike_up_m_1", "spike", "z_ret_abs_m_1", None),
        ("spike.price_spike_down_m_1", "spike", "z_ret_abs_m_1", None),
        ("combo.price_up_volume_up_m_1", "spike", "z_ret_abs_m_1", "z_vol_m_1"),
    ]
    scores = {(d.cooldown_s, d.half_life_s, d.a, d.b, d.publish_threshold) for d in packs.detectors}
    assert scores == {(45.0, 120.0, 0.6, 0.0, 65.0)}
    assert packs.budgets.per_symbol_per_minute["spike"] == 4
    assert (packs.detector_pack, packs.feature_pack) == ("v0.1.0", "v1.0")


def test_plan_slice_fires(write: Write) -> None:
    """The combination of the plan's snippet holds where all its parts do, and not elsewhere."""
    combo = load_packs(detectors=FIXTURES / "plan_slice.yaml").detectors[3]
    row = {"ret_m_1": 0.001, "z_ret_abs_m_1": 1.5, "z_vol_m_1": 2.5, "trade_count_m_1": 5}
    assert combo.fires(row) is True
    assert combo.fires(row | {"trade_count_m_1": 4}) is False
    assert combo.fires(row | {"ret_m_1": 0.0}) is False
    assert combo.fires(row | {"z_vol_m_1": None}) is None


def test_scoring_left_out_is_the_plans(write: Write) -> None:
    """Without `scoring` and `class_defaults` a pack has the numbers of the plan."""
    packs = load_packs(detectors=write(PACK))
    scoring = packs.scoring
    assert (scoring.novelty, scoring.novelty_boost, scoring.reemit_growth) == ("decaying", 0.8, 0.3)
    assert (scoring.breadth_full_count, scoring.w_dq, scoring.w_liq) == (6, 0.6, 0.3)
    assert scoring.subtype_change_resets_novelty is True
    found = packs.detectors[0]
    assert (found.w1, found.w2, found.w3, found.a, found.b) == (1.0, 0.5, 0.4, 0.6, 0.0)
    assert (found.cooldown_s, found.half_life_s, found.publish_threshold) == (45.0, 120.0, 65.0)
    assert packs.budgets.global_per_minute == 800


def test_a_detector_overrides_its_class_key_by_key(write: Write) -> None:
    """What a detector says wins; every weight it does not mention stays that of its class."""
    content = pack(weights={"w1": 0.9}, cooldown_sec=0, publish_threshold=0)
    content["class_defaults"] = {"spike": {"weights": {"b": 4.53}, "half_life_sec": 200}}
    found = detector(write, content)
    assert (found.w1, found.w2, found.b) == (0.9, 0.5, 4.53)
    assert (found.cooldown_s, found.half_life_s, found.publish_threshold) == (0.0, 200.0, 0.0)


@pytest.mark.parametrize(
    ("detector_id", "event_class", "subtype"),
    [
        ("spike.a_m_1", "spike", "a_m_1"),
        ("combo.a_m_1", "spike", "a_m_1"),
        ("div.a_m_1", "divergence", "a_m_1"),
        ("divergence.a_m_1", "divergence", "a_m_1"),
        ("sync.basket_shock_Δt_5s", "synchrony", "basket_shock_Δt_5s"),
        ("synchrony.a", "synchrony", "a"),
        ("rot.a", "rotation", "a"),
        ("rotation.a", "rotation", "a"),
        ("shift.a", "shift", "a"),
        ("quadrant.a", "quadrant", "a"),
    ],
)
def test_class_and_subtype_come_from_the_id(
    write: Write, detector_id: str, event_class: str, subtype: str
) -> None:
    """The prefix names the class, anything else is a spike; the rest is the subtype."""
    found = detector(write, pack(id=detector_id))
    assert (found.event_class, found.subtype) == (event_class, subtype)


def test_class_and_subtype_can_be_said(write: Write) -> None:
    """A row may name class and subtype itself, the class also by its short name."""
    found = detector(write, pack(id="combo.a", **{"class": "div", "subtype": "b"}))
    assert (found.event_class, found.subtype) == ("divergence", "b")


def test_a_null_secondary_lends_no_support_and_silences_nothing(write: Write) -> None:
    """Only what conditions, trigger and primary name must be there."""
    given = pack(inputs=["z_vol_m_1"], primary="z_vol_m_1", secondary="z_ret_abs_m_1")
    found = detector(write, given)
    assert "z_ret_abs_m_1" not in found.required
    row = dict.fromkeys(found.required, 9.0) | {"z_ret_abs_m_1": None}
    assert found.fires(row) is True


def test_primary_and_secondary_come_from_the_inputs(write: Write) -> None:
    """Left out they are the first and second z_* input, never the same one twice."""
    found = detector(write, PACK)
    assert found.secondary is not None
    assert (found.primary.text, found.secondary.text) == ("z_vol_m_1", "z_ret_abs_m_1")
    found = detector(write, pack(primary="z_ret_abs_m_1"))
    assert found.secondary is not None
    assert (found.primary.text, found.secondary.text) == ("z_ret_abs_m_1", "z_vol_m_1")
    found = detector(write, pack(primary="min(abs(z_vol_m_1), 6)", secondary=0))
    assert found.secondary is not None
    assert found.secondary.evaluate({}) == 0.0


def test_required_payload_and_frame(write: Write) -> None:
    """Required is what trigger, conditions and primary name; frame columns: after the join."""
    found = detector(write, pack(payload=["rv_m_1"]))
    assert found.required == ("z_vol_m_1",)
    assert (found.payload, found.needs_frame) == (("rv_m_1",), False)
    found = detector(write, pack(trigger="z_vol_m_1 >= 3 && leader != symbol"))
    assert found.needs_frame
    assert found.required == ("leader", "symbol", "z_vol_m_1")
    assert set(found.payload) == {*found.inputs, *found.required, "trade_count_m_1"}
    assert detector(write, pack(inputs=["z_vol_m_1", "universe_size"])).needs_frame


def test_conditions_by_name_and_as_expressions(write: Write) -> None:
    """Gates vanish; a named condition and an expression are ANDed with the trigger."""
    names = ["dq_ok", "trade_count_ge_12", "is_in_universe", "ret_m_1 > 0 || is_hot"]
    found = detector(write, pack(preconditions=names))
    texts = [condition.text for condition in found.conditions]
    assert texts == ["is_in_universe", "ret_m_1 > 0 || is_hot"]
    assert [guard.text for guard in found.guards] == ["trade_count_m_1 >= 12"]
    row = {"z_vol_m_1": 3.0, "z_ret_abs_m_1": 0.0, "ret_m_1": 0.0, "trade_count_m_1": 12}
    assert found.fires(row | {"is_in_universe": True, "is_hot": True}) is True
    assert found.fires(row | {"is_in_universe": True, "is_hot": False}) is False


def test_a_guard_holds_unless_its_column_says_otherwise(write: Write) -> None:
    """A bars file that does not count prints leaves thin minutes to the illiquidity gate."""
    found = detector(write, pack(preconditions=["trade_count_ge_5"]))
    row = {"z_vol_m_1": 3.0, "z_ret_abs_m_1": None, "ret_m_1": None}
    assert found.fires(row | {"trade_count_m_1": 4}) is False
    assert found.fires(row | {"trade_count_m_1": 5}) is True
    assert found.fires(row | {"trade_count_m_1": None}) is True
    assert found.fires({"z_vol_m_1": None, "trade_count_m_1": 5}) is None


def test_conditions_on_positioning(write: Write) -> None:
    """oi_fresh and basis_valid stand for columns of the row, which may then not be NULL."""
    names = ["oi_fresh_20s", "basis_valid", "time_to_next_funding_sec > 60"]
    found = detector(write, pack(preconditions=names))
    texts = [condition.text for condition in found.conditions]
    assert texts == ["oi_staleness_ms <= 20000", "time_to_next_funding_sec > 60"]
    assert {"oi_staleness_ms", "basis_bp_m_5"} < set(found.required)
    assert not found.needs_frame, "a column of the row is not taken from the frame"
    row = {"z_vol_m_1": 3.0, "basis_bp_m_5": 1.0, "time_to_next_funding_sec": 61}
    assert found.fires(row | {"oi_staleness_ms": 20_000}) is True
    assert found.fires(row | {"oi_staleness_ms": 20_001}) is False
    assert found.fires(row | {"oi_staleness_ms": None}) is None
    assert found.fires(row | {"oi_staleness_ms": 0, "basis_bp_m_5": None}) is None


def test_conditions_need_their_columns(write: Write, tmp_path: Path) -> None:
    """A feature pack without positioning has no oi_fresh and no basis_valid."""
    features = tmp_path / "few.yaml"
    features.write_text(yaml.safe_dump(FEW_COLUMNS), encoding="utf-8")
    path = write(pack(inputs=["z_vol_m_1"], preconditions=["oi_fresh_20s", "basis_valid"]))
    faults = check_file(path, features=features)[0]
    where = "detectors[spike.vol_spike_m_1].preconditions"
    assert [(fault.key, "unknown column" in fault.found) for fault in faults] == [
        (f"{where}[0]", True),
        (f"{where}[1]", True),
    ]
    assert "`basis_valid`, which needs the unknown column `basis_bp_m_5`" in faults[1].found


@pytest.mark.parametrize("name", ["microprice_drift_s_30", "rs_dispersion_m_5"])
def test_a_column_on_trial_is_not_for_detectors(write: Write, name: str) -> None:
    """It has no column yet, so a trigger on it would be silent for ever (build plan 20.2)."""
    faults, _, _ = check_file(write(pack(trigger=f"{name} > 0", payload=[name])))
    assert {fault.key.rpartition(".")[2] for fault in faults} == {"trigger", "payload[0]"}
    assert all(f"unknown column `{name}`" in fault.found for fault in faults)


def test_longer_rows_may_be_named_as_they_are_stored(write: Write) -> None:
    """A detector of 15m rows alone may say z_vol_m_15; the name of the minute is as good."""
    found = detector(write, pack(inputs=["z_vol_m_15"], trigger="z_vol_m_15 >= 3", tfs=["15m"]))
    assert (found.tfs, found.required) == (("15m",), ("z_vol_m_15",))
    assert "z_vol_m_30" in one_fault(write, pack(trigger="z_vol_m_30 >= 3")).found


def test_mode_off_is_text(write: Write) -> None:
    """`mode: off` is the mode, not YAML 1.1's idea of false."""
    text = "detector_pack: v0.1\ndetectors:\n  - {id: a.b, mode: off, inputs: [z_vol_m_1],"
    found = detector(write, f"{text} trigger: z_vol_m_1 > 1e2, cooldown_sec: 1e2}}\n")
    assert (found.mode, found.cooldown_s) == ("off", 100.0)


def test_budgets_take_short_names(write: Write) -> None:
    """Classes may be named sync, div and rot; classes left out keep the plan's budget."""
    content = pack()
    content["budgets"] = {"per_symbol_per_minute": {"sync": 7, "div": 0}, "global_per_minute": 9}
    budgets = load_packs(detectors=write(content)).budgets
    assert budgets.per_symbol_per_minute == {
        "spike": 4,
        "shift": 2,
        "quadrant": 2,
        "divergence": 0,
        "synchrony": 7,
        "rotation": 1,
    }


def test_plan_tiers_are_read_and_remarked_on(write: Write) -> None:
    """The overrides of the plan's excerpt are accepted; that they have no effect is said."""
    content = pack()
    content["overrides"] = {
        "tiers": {
            "top": {"spike": {"threshold": 3.2}},
            "tail": {"spike": {"threshold": 3.8}, "budgets": {"spike": 2}},
        }
    }
    faults, warnings, kind = check_file(write(content))
    assert (faults, kind) == ([], "detectors")
    assert any("overrides.tiers" in warning for warning in warnings)


def test_universe_of_the_plan(write: Write) -> None:
    """The plan's excerpt is a policy; the bands follow n_base when they are left out."""
    excerpt = {
        "universe_policy_rev": 17,
        "n_base": 25,
        "entry_band": {"n_entry": 22, "k_entry": 3},
        "exit_band": {"n_exit": 30, "k_exit": 5},
        "freeze_min": 5,
        "min_dwell_min": 30,
        "hotlist": {"s_hot": 70, "ttl_base_min": 15, "ttl_k_min_per_point": 0.3},
    }
    policy = load_packs(universe=write(excerpt)).universe
    assert policy == UniversePolicy.model_validate({"universe_policy_rev": 17})
    small = UniversePolicy.model_validate({"universe_policy_rev": 1, "n_base": 10})
    assert (small.entry_band.n_entry, small.exit_band.n_exit) == (7, 15)


# --- what is refused -------------------------------------------------------------------------


def test_four_faults_in_one_message() -> None:
    """Unknown key, unknown column, bad expression and a bound: one message names all four."""
    path = FIXTURES / "four_faults.yaml"
    with pytest.raises(PackError) as caught:
        load_packs(detectors=path)
    spike, price = "detectors[spike.vol_spike_m_1]", "detectors[spike.price_spike_up_m_1]"
    expected = {
        f"{spike}.cooldown_sec": ("90000", "0 up to 86400"),
        f"{spike}.inputs[0]": ("unknown column `z_volm_1`", "did you mean `z_vol_m_1`?"),
        f"{price}.half_life": ("unknown key `half_life`", "`half_life_sec`"),
        f"{price}.trigger": ("`ret_m_1` (number) at position 25", "a condition (true or false)"),
    }
    assert {fault.key for fault in caught.value.faults} == expected.keys()
    assert len(caught.value.faults) == 4
    message = str(caught.value)
    assert message.startswith("4 faults in the packs\n")
    for fault in caught.value.faults:
        found, wanted = expected[fault.key]
        assert (found in fault.found, wanted in fault.expected) == (True, True), fault
        assert fault.file == str(path)
        assert all(text in message for text in (fault.file, fault.key, fault.found, fault.expected))


def test_faults_of_all_three_files_come_together(tmp_path: Path) -> None:
    """A fault in one file does not hide those of the others."""
    universe = tmp_path / "universe.yaml"
    universe.write_text("universe_policy_rev: 1\nn_base: 0\n", encoding="utf-8")
    with pytest.raises(PackError) as caught:
        load_packs(tmp_path / "none.yaml", FIXTURES / "four_faults.yaml", universe)
    files = {Path(fault.file).name for fault in caught.value.faults}
    assert files == {"none.yaml", "four_faults.yaml", "universe.yaml"}


@pytest.mark.parametrize(
    ("changes", "key", "found", "expected"),
    [
        ({"cooldown_sec": -1}, "cooldown_sec", "-1", "0 up to 86400"),
        ({"cooldown_sec": "45s"}, "cooldown_sec", "text `45s`", "a number from 0 up to 86400"),
        ({"half_life_sec": 0}, "half_life_sec", "0", "1 up to 86400"),
        ({"publish_threshold": 101}, "publish_threshold", "101", "0 up to 100"),
        ({"weights": {"w2": 11}}, "weights.w2", "11", "0 up to 10"),
        ({"weights": {"a": 0}}, "weights.a", "0", "above 0 up to 10"),
        ({"weights": {"b": -21}}, "weights.b", "-21", "-20 up to 20"),
        ({"weights": {"w4": 1}}, "weights.w4", "unknown key `w4`", "w1, w2, w3, a, b"),
        ({"weights": [1]}, "weights", "a list with 1 entries", "a mapping with the keys w1"),
        ({"enabled": "yes"}, "enabled", "text `yes`", "true or false"),
        ({"mode": "on"}, "mode", "text `on`", "one of off, shadow, canary, live"),
        ({"tfs": ["5m"]}, "tfs[0]", "text `5m`", "one of 1m, 15m, 1h"),
        ({"tfs": []}, "tfs", "a list with 0 entries", "at least 1 entries"),
        ({"class": "spikes"}, "class", "text `spikes`", "one of spike, shift"),
        ({"trigger": None}, "trigger", "nothing", '"z_vol_m_1 >= 3.0"'),
        ({"trigger": 3}, "trigger", "3", "text"),
        ({"trigger": "z_vol_m_1"}, "trigger", "(number)", "a condition"),
        ({"primary": "is_hot"}, "primary", "`is_hot` (boolean)", "a number"),
        ({"secondary": "z_vol"}, "secondary", "unknown column `z_vol`", "z_vol_m_1"),
        ({"inputs": ["ret_m_1"]}, "primary", "no z_* column", "one of the two"),
        ({"inputs": ["z_vol_m_1"] * 2}, "inputs", "`z_vol_m_1` 2 times", "each name once"),
        ({"inputs": "z_vol_m_1", "primary": "1"}, "inputs", "text `z_vol_m_1`", "a list"),
        ({"payload": ["liq_count"]}, "payload[0]", "unknown column `liq_count`", "a column"),
        ({"preconditions": ["dq_okay"]}, "preconditions[0]", "`dq_okay`", "`dq_ok`, or another"),
        ({"preconditions": ["ret_m_1"]}, "preconditions[0]", "(number)", "a condition"),
        ({"preconditions": ["ingest_ts > 0"]}, "preconditions[0]", "`ingest_ts`", "a column of"),
        ({"description": 3}, "description", "3", "text of at most 2000 characters"),
    ],
)
def test_a_fault_says_what_and_what_else(
    write: Write, changes: dict[str, Any], key: str, found: str, expected: str
) -> None:
    """Each fault of a detector is one, at its key, with what is there and what should be."""
    fault = one_fault(write, pack(**changes))
    assert fault.key == f"detectors[spike.vol_spike_m_1].{key}"
    assert found in fault.found
    assert expected in fault.expected


def test_plan_rows_with_a_bare_threshold_need_a_trigger(write: Write) -> None:
    """`threshold:` of the plan's excerpt is explained once, with the trigger it stands for."""
    fault = one_fault(write, pack(trigger=None, threshold=3.5))
    assert fault.key.endswith(".trigger")
    assert fault.found == "nothing but `threshold: 3.5`"
    assert 'trigger: "z_vol_m_1 >= 3.5"' in fault.expected
    bare = {"id": "shift.basis_jolt_m_5", "enabled": True, "threshold_z": 2.5}
    fault = one_fault(write, {"detector_pack": "v0.1.7", "detectors": [bare]})
    assert fault.found == "nothing but `threshold_z: 2.5`"
    fault = one_fault(write, pack(threshold=3.5))
    assert fault.key.endswith(".threshold")
    assert fault.found == "a number that the trigger does not name"
    fault = one_fault(write, pack(threshold_z=3.5))
    assert fault.found == "unknown key `threshold_z`"


@pytest.mark.parametrize(
    ("part", "key", "found", "expected"),
    [
        ({"scoring": {"novelty": "fading"}}, "scoring.novelty", "`fading`", "decaying, recovering"),
        ({"class_defaults": {"spik": {}}}, "class_defaults.spik", "`spik`", "'spike', 'shift'"),
        ({"class_defaults": {"spike": 3}}, "class_defaults.spike", "3", "a mapping with the keys"),
        (
            {"class_defaults": {"sync": {"weights": {"a": 11}}}},
            "class_defaults.sync.weights.a",
            "11",
            "above 0 up to 10",
        ),
        (
            {"class_defaults": {"rot": {}, "rotation": {}}},
            "class_defaults",
            "both `rot` and `rotation`",
            "one of them",
        ),
        (
            {"budgets": {"per_symbol_per_minute": {"div": 1001}}},
            "budgets.per_symbol_per_minute.div",
            "1001",
            "a whole number from 0 up to 1000",
        ),
        (
            {"budgets": {"global_per_minute": 0}},
            "budgets.global_per_minute",
            "0",
            "from 1 up to 100000",
        ),
        (
            {"overrides": {"tiers": {"top": {"spike": {"threshold_z": 3}}}}},
            "overrides.tiers.top.spike.threshold",
            "nothing",
            "a number from 0 up to 100",
        ),
        (
            {"overrides": {"tiers": {"top": {"sync": 3}}}},
            "overrides.tiers.top.sync",
            "3",
            "a mapping with the keys threshold",
        ),
        ({"detector_pack": 0.1}, "detector_pack", "0.1", "a version such as v0.2"),
        ({"detectors": {}}, "detectors", "a mapping with 0 entries", "a list"),
        ({"detectors": [3]}, "detectors[0]", "3", "a mapping with the keys id"),
    ],
)
def test_faults_outside_the_detectors(
    write: Write, part: dict[str, Any], key: str, found: str, expected: str
) -> None:
    """The other sections are checked in the same words."""
    faults, _, _ = check_file(write(PACK | part))
    fault = next(fault for fault in faults if fault.key == key)
    assert found in fault.found
    assert expected in fault.expected


def test_a_detector_is_given_once(write: Write) -> None:
    """Two detectors of one id are a fault."""
    content = pack()
    content["detectors"].append(copy.deepcopy(content["detectors"][0]))
    fault = one_fault(write, content)
    assert fault.key == "detectors[spike.vol_spike_m_1].id"
    assert "entries 0 and 1" in fault.found


@pytest.mark.parametrize(
    ("example", "key", "found"),
    [
        ({"row": {"z_vol_m_1": 3.0}, "fires": False}, "", "it fires"),
        ({"row": {"z_vol_m_1": 2.9}, "fires": True}, "", "`z_vol_m_1 >= 3.0` is false"),
        ({"row": {}, "fires": True}, "", "`z_vol_m_1 >= 3.0` is NULL"),
        ({"row": {"z_vol_m_1": None}, "fires": True}, "", "`z_vol_m_1` is null"),
        ({"row": {"z_volm": 3.0}, "fires": False}, ".row.z_volm", "unknown column `z_volm`"),
        ({"row": {"is_hot": 1}, "fires": False}, ".row.is_hot", "1"),
        ({"row": {"ret_m_1": "3"}, "fires": False}, ".row.ret_m_1", "text `3`"),
        ({"row": {"ret_m_1": True}, "fires": False}, ".row.ret_m_1", "true"),
        ({"row": {}, "fires": "no"}, ".fires", "text `no`"),
        ({"row": 3, "fires": False}, ".row", "3"),
        ({"row": {}}, ".fires", "nothing"),
        ({"row": {}, "fires": False, "threshold": 3}, ".threshold", "unknown key"),
    ],
)
def test_examples_run_at_load(write: Write, example: dict[str, Any], key: str, found: str) -> None:
    """An example that does not behave as it says, or cannot, is a fault with the reason."""
    if isinstance(example["row"], dict) and example["row"]:
        example["row"].setdefault("trade_count_m_1", 5)
    fault = one_fault(write, pack(examples=[example | {"why": "because"}]))
    assert fault.key == f"detectors[spike.vol_spike_m_1].examples[0]{key}"
    assert found in fault.found


def test_missing_examples_are_a_fault_only_in_released_packs(write: Write) -> None:
    """A user's pack may do without examples, with a warning; a released one may not."""
    row = {"z_vol_m_1": 3.0, "trade_count_m_1": 5}
    path = write(pack(examples=[{"why": "at the threshold", "row": row, "fires": True}]))
    faults, warnings, _ = check_file(path)
    assert (len(faults), len(warnings)) == (0, 1)
    assert "no example that is silent" in warnings[0]
    fault = only(check_file(path, released=True)[0])
    assert fault.key.endswith(".examples")
    with pytest.raises(PackError, match="no example that is silent"):
        load_packs(detectors=path, released=True)


@pytest.mark.parametrize(
    ("text", "key", "found"),
    [
        ("", "(top)", "nothing"),
        ("- 1\n", "(top)", "a list"),
        ("just text\n", "(top)", "text `just text`"),
        ("a: 1\nb: 2\n", "(top)", "keys a, b"),
        ("detector_pack: [v0.1\n", "line 2, column 1", "expected"),
        ("detector_pack: v0.1\n\tx: 1\n", "line 2, column 1", "\\t"),
        ("a: &x 1\nb: *x\n", "line 2, column 4", "an alias"),
        ("a: !!python/name:os.system x\n", "line 1, column 4", "a tag"),
        ("? [a]\n: 1\n", "line 1, column 3", "a key that is no text"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1", "another document"),
        ('a: "\\ud800"\n', "(file)", "surrogates not allowed"),
        ('a: "\\UFFFFFFFF"\n', "(file)", ""),
        ("[" * 2000, "line 1", f"more than {DEPTH_MAX} levels"),
        ("a: '\x01'\n", "(file)", "unacceptable character"),
        ("#" * (FILE_BYTES_MAX + 1), "(file)", f"{FILE_BYTES_MAX + 1} bytes"),
    ],
)
def test_files_that_are_no_packs(write: Write, text: str, key: str, found: str) -> None:
    """A file that cannot be read as a pack is one fault with its place, never a traceback."""
    fault = one_fault(write, text)
    assert key in fault.key
    assert found in fault.found


def test_missing_and_binary_files(tmp_path: Path) -> None:
    """A file that is not there, is a folder or is no text is a fault."""
    assert "No such file" in only(check_file(tmp_path / "none.yaml")[0]).found
    assert only(check_file(tmp_path)[0]).key == "(file)"
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"detector_pack: \xff\n")
    assert only(check_file(path)[0]).key == "byte 15"


def test_repeated_keys_are_faults(write: Write) -> None:
    """A key given twice is a fault with both lines, beside the others."""
    text = "detector_pack: v0.1\nscoring: {w_dq: 1, w_dq: 2, w_x: 3}\ndetectors: []\n"
    text += "detectors:\n  - id: a.b\n    trigger: is_hot\n    id: a.b\n    primary: 1\n"
    found = {(fault.key, fault.found) for fault in check_file(write(text))[0]}
    assert found == {
        ("scoring.w_dq", "given twice, on lines 2 and 2"),
        ("detectors", "given twice, on lines 3 and 4"),
        ("detectors[a.b].id", "given twice, on lines 5 and 7"),
        ("scoring.w_x", "unknown key `w_x`"),
    }


def test_the_wrong_kind_of_pack(write: Write) -> None:
    """A universe policy given as detector pack is one fault, not one per key."""
    path = write("universe_policy_rev: 3\n")
    assert check_file(path)[2] == "universe"
    with pytest.raises(PackError) as caught:
        load_packs(detectors=path)
    assert only(caught.value.faults).expected == "the key detector_pack"


def test_feature_pack_links(write: Write) -> None:
    """Names given twice, inputs and sources that do not exist and wrong types come together."""
    raw = yaml.safe_load((ROOT / "packs/features/v1.0.yaml").read_text(encoding="utf-8"))
    columns = {column["name"]: column for column in raw["columns"]}
    columns["high"]["name"] = "open"
    columns["low"]["inputs"] = ["tardes"]
    columns["close"]["type"] = "float"
    columns["rv_m_1"]["name"] = "min"
    raw["normalised"][0].update(source="v_totl_m_1", d_min=1.0)
    raw["normalised"][1]["q"] = "q_none"
    raw["lattice"]["grace_ms"] = 1000
    raw["pack_rev"] = "1"
    keys = {fault.key for fault in check_file(write(raw))[0]}
    assert keys == {
        "columns[open].name",
        "columns[low].inputs[0]",
        "columns[close].type",
        "columns[min].name",
        "columns[atr_proxy_m_1].inputs[0]",
        "normalised[vol].source",
        "normalised[vol].d_min",
        "normalised[ret_abs].q",
        "lattice.grace_ms",
        "pack_rev",
    }


# place in the file, what is written there, key and words of the fault
WRONG_ONE = [
    (("rollup", "stale_share"), 1.5, "rollup.stale_share", "1.5"),
    (("rollup", "partial_share"), "10%", "rollup.partial_share", "text `10%`"),
    (("rollup", "forgiven"), "quiet", "rollup.forgiven", "text `quiet`"),
    (("quality", "late_ticks_partial"), 0, "quality.late_ticks_partial", "0"),
    (("quality", "depth_staleness_ms_max"), -1, "quality.depth_staleness_ms_max", "-1"),
    (("illiquidity", "median_days"), 0, "illiquidity.median_days", "0"),
    (("normalised", 0, "tfs"), ["5m"], "normalised[vol].tfs[0]", "`5m`"),
    (("normalised", 0, "sampled"), "daily", "normalised[vol].sampled", "`daily`"),
    (("normalised", 0, "divisor"), "b_divisor", "normalised[vol].divisor", "`b_divisor`"),
    (("normalised", 8, "decay", "a_m"), 2, "normalised[dfunding].decay.a_m", "2"),
    (("columns", 0, "rollup"), "product", "columns[dq_status].rollup", "`product`"),
    (("columns", 1, "at"), ["a_m_15"], "columns[dq_reasons].at", "one name"),
    (("columns", 2, "tfs"), ["4h"], "columns[ingest_ts].tfs[0]", "`4h`"),
    (("columns", 3, "status"), "maybe", "columns[ingest_lag_ms].status", "`maybe`"),
]
WRONG_TWO = [
    (("illiquidity", "median_days"), 32, "illiquidity.median_days", "32"),
    (("normalised", 0, "tfs"), [], "normalised[vol].tfs", "0 entries"),
    (("columns", 0, "at"), ["A", "b"], "columns[dq_status].at[0]", "`A`"),
    (("columns", 1, "at"), ["a", "b", "c"], "columns[dq_reasons].at", "3 entries"),
    (("rollup", "partial"), 0.1, "rollup.partial", "unknown key `partial`"),
]


@pytest.mark.parametrize("wrong", [WRONG_ONE, WRONG_TWO], ids=["one", "two"])
def test_faults_of_the_feature_pack(
    write: Write, wrong: list[tuple[tuple[Any, ...], Any, str, str]]
) -> None:
    """Folds, timeframes, baselines and limits are checked in the same words, all at once."""
    raw = yaml.safe_load((ROOT / "packs/features/v1.0.yaml").read_text(encoding="utf-8"))
    for place, value, _, _ in wrong:
        replace(raw, place, value)
    faults = {fault.key: fault.found for fault in check_file(write(raw))[0]}
    assert faults.keys() == {key for _, _, key, _ in wrong}
    for _, _, key, found in wrong:
        assert found in faults[key]


def test_what_a_normalised_entry_leaves_out(shipped: Packs) -> None:
    """Every timeframe, every bar, the decay of the timeframe; and nothing is written."""
    raw = {
        "feature": "a",
        "source": "ret_m_1",
        "transform": "log",
        "s_min": 0.1,
        "x_zero": 0.0,
    }
    entry = Normalised.model_validate(raw)
    assert (entry.tfs, entry.sampled, entry.decay) == (("1m", "15m", "1h"), "every_bar", None)
    assert (entry.z, entry.q, entry.mean, entry.scale, entry.divisor) == (None,) * 5
    assert shipped.features.decay.of("15m") is shipped.features.decay.m_15


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, {"1m": "a"}),
        ({"rollup": "sum"}, {"1m": "a", "15m": "a", "1h": "a"}),
        ({"rollup": "sum", "at": ["a_m_15", "a_h_1"]}, {"1m": "a", "15m": "a_m_15", "1h": "a_h_1"}),
        ({"tfs": ["15m", "1h"]}, {"15m": "a", "1h": "a"}),
        ({"rollup": "alias", "at": ["b", "c"]}, {"1m": "a", "15m": "b", "1h": "c"}),
    ],
)
def test_a_column_has_a_name_on_each_timeframe_that_carries_it(
    given: dict[str, Any], names: dict[str, str]
) -> None:
    """Without a fold it stays where it was declared."""
    raw = {
        "name": "a",
        "family": "flow",
        "type": "bigint",
        "unit": "prints",
        "window": "m_1",
        "formula": "count",
        "inputs": [],
        "when_null": "never",
        **given,
    }
    column = Column.model_validate(raw)
    found = {tf: column.name_at(tf) for tf in TIMEFRAMES}
    assert {tf: name for tf, name in found.items() if name is not None} == names


def test_universe_links(write: Write) -> None:
    """Bands on the wrong side of n_base and assets or coins given twice are faults."""
    raw = {
        "universe_policy_rev": 1,
        "n_base": 10,
        "entry_band": {"n_entry": 11, "k_entry": 3},
        "exit_band": {"n_exit": 9, "k_exit": 5},
        "sectors": {"l1": ["SOL"], "meme": ["SOL"]},
        "bootstrap_assets": [{"uid": 0, "coin": "BTC"}, {"uid": 0, "coin": "BTC"}],
        "n_bas": 3,
    }
    keys = [fault.key for fault in check_file(write(raw))[0]]
    assert sorted(keys) == [
        "bootstrap_assets[1].coin",
        "bootstrap_assets[1].uid",
        "entry_band.n_entry",
        "exit_band.n_exit",
        "n_bas",
        "sectors.meme[0]",
    ]
    fault = one_fault(write, {"universe_policy_rev": 1, "n_base": "many"})
    assert fault.key == "n_base"


def test_models_refuse_conversions_and_changes(shipped: Packs) -> None:
    """Models are strict and frozen."""
    with pytest.raises(ValidationError):
        UniversePolicy.model_validate({"universe_policy_rev": True})
    with pytest.raises(ValidationError):
        UniversePolicy.model_validate({"universe_policy_rev": 1, "dead_quote": float("inf")})
    with pytest.raises(ValidationError):
        shipped.universe.n_base = 3


# --- hash ------------------------------------------------------------------------------------


def test_hash_ignores_comments_and_key_order(shipped: Packs, tmp_path: Path) -> None:
    """Comments, key order, layout and spelled-out defaults do not change the hash."""

    def reversed_keys(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reversed_keys(value[key]) for key in reversed(value)}
        return [reversed_keys(item) for item in value] if isinstance(value, list) else value

    paths = []
    for name in ("features/v1.0.yaml", "detectors/v0.2.yaml", "universe/rev17.yaml"):
        raw = yaml.safe_load((ROOT / "packs" / name).read_text(encoding="utf-8"))
        raw.pop("sectors", None)
        paths.append(tmp_path / name.replace("/", "-"))
        text = yaml.safe_dump(reversed_keys(raw), sort_keys=False, default_flow_style=True)
        paths[-1].write_text(f"# a comment\n{text}", encoding="utf-8")
    packs = load_packs(*paths)
    assert packs.config_hash == shipped.config_hash
    assert packs.detectors == shipped.detectors


def test_hash_has_the_form_events_carry(shipped: Packs) -> None:
    """The hash is sha256: and 64 hex digits."""
    prefix, _, digest = shipped.config_hash.partition(":")
    assert prefix == "sha256"
    assert len(digest) == 64
    assert set(digest) <= set("0123456789abcdef")


def numbers_in(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all numbers in a pack as read."""
    if isinstance(value, dict):
        return [place for key, item in value.items() for place in numbers_in(item, (*where, key))]
    if isinstance(value, list):
        return [place for i, item in enumerate(value) for place in numbers_in(item, (*where, i))]
    return [where] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.parametrize(
    "name", ["features/v1.0.yaml", "detectors/v0.2.yaml", "universe/rev17.yaml"]
)
def test_hash_changes_with_every_number(shipped: Packs, name: str) -> None:
    """No number of any of the three packs can change without changing the hash."""
    raw = yaml.safe_load((ROOT / "packs" / name).read_text(encoding="utf-8"))
    features, policy = shipped.features, shipped.universe
    good = (ROOT / "packs/detectors/v0.2.yaml").read_text(encoding="utf-8")
    detectors = DetectorPack.model_validate(yaml.safe_load(good))
    seen = {shipped.config_hash}
    places = numbers_in(raw)
    for place in places:
        changed = copy.deepcopy(raw)
        holder = changed
        for item in place[:-1]:
            holder = holder[item]
        number = holder[place[-1]]
        step = 7 if place[-1] == "uid" else 1
        holder[place[-1]] = number + step if isinstance(number, int) else abs(number - 1e-9)
        if name.startswith("features"):
            seen.add(config_hash(FeaturePack.model_validate(changed), detectors, policy))
        elif name.startswith("detectors"):
            seen.add(config_hash(features, DetectorPack.model_validate(changed), policy))
        else:
            seen.add(config_hash(features, detectors, UniversePolicy.model_validate(changed)))
    assert len(seen) == len(places) + 1


# --- nothing but faults ----------------------------------------------------------------------

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**30),
    st.floats(allow_nan=False),
    st.sampled_from(["", "z_vol_m_1", "spike", "z_vol_m_1 > 1", "off", "a.b", "1m", "\U0001f600"]),
    st.lists(st.integers() | st.just("x"), max_size=2),
    st.dictionaries(st.sampled_from(["spike", "id", "a", "row"]), st.integers(), max_size=2),
)


def places_in(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    inner = [place for key, item in items for place in places_in(item, (*where, key))]
    return [*([where] if where else []), *inner]


FULL = copy.deepcopy(PACK) | {
    "scoring": {"novelty": "decaying", "w_dq": 0.6},
    "class_defaults": {"spike": {"weights": {"w1": 1.0}}, "sync": {"cooldown_sec": 3}},
    "budgets": {"per_symbol_per_minute": {"div": 1}, "global_per_minute": 3},
    "overrides": {"tiers": {"top": {"spike": {"threshold": 3.2}, "budgets": {"spike": 2}}}},
}
FULL["detectors"][0] |= {
    "weights": {"a": 1.0},
    "payload": ["rv_m_1"],
    "class": "spike",
    "examples": [{"why": "so", "row": {"z_vol_m_1": 1.0}, "fires": False}],
}


def replace(content: Any, place: tuple[Any, ...], value: Any) -> None:
    """Put a value at a place of a pack, unless an earlier change took the place away."""
    for item in place[:-1]:
        try:
            content = content[item]
        except (KeyError, IndexError, TypeError):
            return
    with contextlib.suppress(IndexError, TypeError):
        content[place[-1]] = value


FEW_COLUMNS = {
    "feature_pack": "v1.0",
    "columns": [
        {"name": "z_vol_m_1", "type": "double precision"},
        {"name": "trade_count_m_1", "type": "bigint"},
        {"name": "rv_m_1", "type": "double precision"},
    ],
}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(places_in(FULL)), JUNK), min_size=1, max_size=3))
def test_property_a_broken_pack_is_only_ever_faults(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[tuple[Any, ...], Any]]
) -> None:
    """Whatever stands in a pack, checking it ends with faults or with none, never otherwise."""
    content: Any = copy.deepcopy(FULL)
    for place, value in changes:
        replace(content, place, value)
    folder = tmp_path_factory.getbasetemp()
    path, features = folder / "broken-pack.yaml", folder / "few-columns.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    features.write_text(yaml.safe_dump(FEW_COLUMNS), encoding="utf-8")
    faults, _, _ = check_file(path, features=features)
    assert all(fault.key and fault.found and fault.expected for fault in faults)
