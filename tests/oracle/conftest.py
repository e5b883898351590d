"""The naive computation as a fixture, and the rows of the flow to hold against it."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from operators.feed import FeedReader, FeedState
from operators.loop import Loop
from operators.records import MarketPhase, Row
from packs.loader import Packs, load_packs

ROOT = Path(__file__).parents[2]
# Membership is the market's, not the asset's.
ELSEWHERE = ("is_in_universe", "is_hot", "universe_rev")
FAULTS_SHOWN = 40

Key = tuple[int, str, int, int]


class Agreement:
    """What was compared: rows by timeframe, and by column how often it was known."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.amended = 0
        self.either = 0
        self.known: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.faults: list[str] = []
        self.faulty: Counter[str] = Counter()

    def fault(self, key: Key, name: str, found: Any, expected: Any) -> None:
        """Note a disagreement."""
        self.faulty[f"{key[1]} {name}"] += 1
        self.faults.append(f"{key} {name}: flow {found!r}, oracle {expected!r}")

    def check(self) -> None:
        """Fail with what disagrees and the first rows of it."""
        if self.faults:
            raise AssertionError("\n".join([str(dict(self.faulty)), *self.faults[:FAULTS_SHOWN]]))


@pytest.fixture(scope="session")
def naive() -> ModuleType:
    """Return the naive computation; it is no package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("naive", Path(__file__).with_name("naive.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["naive"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def packs() -> Packs:
    """Return the shipped packs."""
    return load_packs()


@pytest.fixture(scope="session")
def texts() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the feature pack and the detector pack as plain YAML."""
    features = yaml.safe_load((ROOT / "packs/features/v1.0.yaml").read_text())
    detectors = yaml.safe_load((ROOT / "packs/detectors/v0.2.yaml").read_text())
    return features, detectors


def same(found: Any, expected: Any) -> bool:
    """Equal to the last bit, and of the same type."""
    if repr(expected) == "either":
        return isinstance(found, int)
    if isinstance(found, tuple | list) and isinstance(expected, tuple | list):
        pairs = zip(found, expected, strict=False)
        return len(found) == len(expected) and all(same(a, b) for a, b in pairs)
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[k], expected[k]) for k in found)
    return type(found) is type(expected) and bool(found == expected)


def held_against(rows: list[Row], expected: dict[Key, Any]) -> Agreement:
    """Compare every column of every row, in both directions."""
    agreement = Agreement()
    found = {(row.asset_uid, row.tf, row.exchange_ts_ms, row.revision): row for row in rows}
    assert len(found) == len(rows)
    for key in sorted(found.keys() ^ expected.keys()):
        agreement.fault(key, "row", key in found, key in expected)
    for key in sorted(found.keys() & expected.keys()):
        row, made = found[key], expected[key]
        agreement.rows[row.tf] += 1
        agreement.amended += row.revision
        agreement.reasons.update(made.columns["dq_reasons"])
        if row.symbol != made.symbol:
            agreement.fault(key, "symbol", row.symbol, made.symbol)
        columns = {n: v for n, v in row.columns.items() if n not in ELSEWHERE}
        for name in sorted(columns.keys() | made.columns.keys()):
            value, right = columns.get(name, "no such column"), made.columns.get(name, "unknown")
            if not same(value, right):
                agreement.fault(key, name, value, right)
            elif repr(right) == "either":
                agreement.either += 1
            elif value is not None:
                agreement.known[f"{row.tf} {name}"] += 1
        if not same(row.extras, made.extras):
            agreement.fault(key, "extras", row.extras, made.extras)
        for name in made.extras:
            agreement.known[f"{row.tf} extras {name}"] += 1
    return agreement


@pytest.fixture(scope="session")
def hold_against() -> Callable[[list[Row], dict[Key, Any]], Agreement]:
    """Return the comparison itself, for rows that did not come from a log."""
    return held_against


@pytest.fixture(scope="session")
def flow(packs: Packs) -> Callable[[list[bytes]], list[Row]]:
    """Return a function that runs a log through the flow and returns its rows."""

    def run(lines: list[bytes]) -> list[Row]:
        lattice = packs.features.lattice
        reader = FeedReader(
            FeedState(),
            lateness_ms=lattice.lateness_ms,
            grace_ms=lattice.grace_ms,
            arrival_jump_gap_ms=lattice.arrival_jump_gap_ms,
        )
        phases = Loop(packs, "oracle").ticks(reader.read([line.rstrip(b"\n") for line in lines]))
        return [row for phase in phases if isinstance(phase, MarketPhase) for row in phase.rows]

    return run


@pytest.fixture(scope="session")
def agree(
    naive: ModuleType,
    texts: tuple[dict[str, Any], dict[str, Any]],
    flow: Callable[[list[bytes]], list[Row]],
) -> Callable[[list[bytes]], Agreement]:
    """Return a function that runs a log through the flow and through the oracle."""

    def run(lines: list[bytes]) -> Agreement:
        features, detectors = texts
        minutes = naive.minutes_of(naive.read_log(lines), features)
        return held_against(flow(lines), naive.rows_of(minutes, features, detectors))

    return run
