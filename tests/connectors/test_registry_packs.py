"""The registries of detectors and policies, and the audit of the configuration."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.rows import dict_row

from dataflows.connectors.migrate import open_session
from dataflows.connectors.registry import write_packs
from packs.loader import Packs, load_packs
from packs.schema import UniversePolicy

if TYPE_CHECKING:
    from conftest import Place

pytestmark = pytest.mark.service

DAY_MS = 86_400_000
NOW_MS = 1_756_891_800_123
NOW = datetime(2025, 9, 3, 9, 30, 0, 123_000, tzinfo=UTC)
PACKS = load_packs()
POLICY = PACKS.universe.universe_policy_rev


def stored(place: Place, table: str) -> list[dict[str, Any]]:
    """All rows of a table, by its first two columns; `xmin` tells which transaction wrote a row."""
    with open_session(place.dsn, place.schema) as connection:
        cursor = connection.cursor(row_factory=dict_row)
        text = f"select *, xmin::text from {table} order by added_at, 2"
        if table == "config_audit":
            text = f"select *, xmin::text from {table} order by changed_at"
        return cursor.execute(text.encode()).fetchall()


def write(place: Place, packs: Packs, day: int = 0) -> int:
    """Write packs so many days after the first."""
    return write_packs(place.dsn, place.schema, packs, now_ms=NOW_MS + day * DAY_MS)


def test_every_detector_is_written_as_it_runs(place: Place) -> None:
    """With what the class fills in; the texts are those that are evaluated."""
    write(place, PACKS)
    rows = {row["detector_id"]: row for row in stored(place, "detector_registry")}
    assert rows.keys() == {detector.detector_id for detector in PACKS.detectors}
    for detector in PACKS.detectors:
        row = rows[detector.detector_id]
        assert (row["version"], row["added_at"]) == (PACKS.detector_pack, NOW)
        assert (row["cooldown_sec"], row["half_life_sec"]) == (
            *(detector.cooldown_s, detector.half_life_s),
        )
        assert (row["trigger"], row["mode"], row["enabled"]) == (
            *(detector.trigger.text, detector.mode, detector.enabled),
        )
        assert row["severity_weights"]["w1"] == detector.w1
        assert row["tier_triggers"].keys() == detector.tier_triggers.keys()
        assert row["inputs"] == [*detector.inputs]
        assert row["deprecated_at"] is None


def test_the_policy_can_be_read_back(place: Place) -> None:
    """The stored policy is the one that ran, field by field."""
    write(place, PACKS)
    (row,) = stored(place, "universe_registry")
    assert row["universe_policy_rev"] == POLICY
    assert UniversePolicy.model_validate(row["policy"]) == PACKS.universe


def test_a_second_start_changes_nothing(place: Place) -> None:
    """A day later: not one row is written again, in any registry."""
    tables = ("feature_registry", "detector_registry", "universe_registry", "config_audit")
    assert write(place, PACKS) > len(PACKS.detectors)
    before = {name: stored(place, name) for name in tables}
    assert write(place, PACKS, day=1) == 0
    assert {name: stored(place, name) for name in tables} == before


def test_a_detector_that_a_later_pack_dropped_is_deprecated(place: Place) -> None:
    """It stays under its version, with the day; back under the earlier pack it is in use again."""
    later = replace(PACKS, detectors=PACKS.detectors[1:], detector_pack="v9.10", config_hash="b")
    write(place, PACKS)
    write(place, later, day=1)
    gone = [row for row in stored(place, "detector_registry") if row["deprecated_at"]]
    assert [(row["detector_id"], row["deprecated_at"]) for row in gone] == [
        (PACKS.detectors[0].detector_id, NOW + timedelta(days=1))
    ]
    write(place, PACKS, day=2)
    assert not any(row["deprecated_at"] for row in stored(place, "detector_registry"))


def test_the_audit_says_what_ran_from_when_on(place: Place) -> None:
    """A line when the configuration is another than before, also when it goes back."""
    later = replace(PACKS, detector_pack="v9.10", config_hash="sha256:b")
    for day, packs in enumerate((PACKS, PACKS, later, PACKS)):
        write(place, packs, day)
    first, second, third = stored(place, "config_audit")
    assert [line["changed_at"] for line in (first, second, third)] == [
        NOW,
        NOW + timedelta(days=2),
        NOW + timedelta(days=3),
    ]
    assert first["diff"]["config_hash"] == {"old": None, "new": PACKS.config_hash}
    assert second["diff"] == {
        "config_hash": {"old": PACKS.config_hash, "new": "sha256:b"},
        "detector_pack": {"old": PACKS.detector_pack, "new": "v9.10"},
    }
    assert third["config_hash"] == PACKS.config_hash
    assert first["changed_by"]


def test_many_programs_start_together(place: Place) -> None:
    """One of them writes, the others find it written."""
    with ThreadPoolExecutor(4) as pool:
        changed = list(pool.map(lambda day: write(place, PACKS), range(4)))
    assert sorted(changed)[:3] == [0, 0, 0]
    assert len(stored(place, "config_audit")) == 1
