"""The pinned events, the schema as checked in, and the contract as it was first released."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dataflows.contract import DOCUMENTS, SCHEMA_FILE

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def payloads(path: Path) -> list[dict[str, Any]]:
    """Return the events of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def pinned() -> list[dict[str, Any]]:
    """Return every event of the pinned replays."""
    golden = ROOT / "fixtures" / "golden" / "episodes"
    found = [event for path in sorted(golden.glob("events-*.ndjson")) for event in payloads(path)]
    assert len(found) > 10
    return found


@pytest.fixture(scope="session")
def schema() -> dict[str, Any]:
    """Return the schema of an event as checked in."""
    found: dict[str, Any] = json.loads((DOCUMENTS / SCHEMA_FILE).read_text())
    return found


@pytest.fixture(scope="session")
def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """Return a consumer's validator; the schema itself is a valid one."""
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture(scope="session")
def released() -> ModuleType:
    """Return the first released model, as a consumer's copy: it imports nothing of ours."""
    name = "event_v0_1_released"
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # annotations are resolved there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def released_schema() -> dict[str, Any]:
    """Return the first released schema."""
    found: dict[str, Any] = json.loads((HERE / "event_v0_1_released.schema.json").read_text())
    return found


@pytest.fixture(scope="session")
def full() -> dict[str, Any]:
    """Return an event that has every field of the contract; tests change copies of it."""
    return {
        "v": "0.1",
        "event_id": "01990e8f-76dc-7b61-bc1e-3f0f1b0c0b8d",
        "emitted_at": "2025-09-03T09:30:01.500Z",
        "exchange_ts": "2025-09-03T09:30:00Z",
        "ingest_ts": "2025-09-03T09:30:01.500Z",
        "symbol": "SOL",
        "asset_uid": 5,
        "tf": "1m",
        "class": "spike",
        "subtype": "vol_spike_m_1",
        "window_sec": 60,
        "severity": 74,
        "novelty": {"first_seen_at": "2025-09-03T09:29:00Z"},
        "debounce_key": "SOL:spike:1m",
        "coalesced": ["price_spike_up_m_1"],
        "incident_id": "2025-09-03T09:30:00Z:spike:up",
        "local_state": {
            "features": {"ret_m_1": 0.0031, "trade_count_m_1": 412},
            "flags": {"is_vol_spike_m_1": True},
            "dq": {
                "status": "ok",
                "ingest_lag_ms": 1500,
                "book_staleness_ms": 41,
                "oi_staleness_ms": 870,
            },
            "inferred": True,
        },
        "market_frame": {
            "leader": "BTC",
            "dominance_share": 0.42,
            "shock_count_5s": 4,
            "rs_top": ["SOL", "HYPE"],
            "rs_bottom": ["XRP", "ADA"],
            "return_dispersion_m_5": 0.006,
            "vol_dispersion_m_5": 0.92,
            "time_to_next_funding_sec": 1800,
        },
        "membership": {"is_in_universe": True, "is_hot": False, "universe_rev": 3127},
        "provenance": {
            "producer": "alpha-detector@v1.0.0",
            "feature_pack": "v1.0",
            "detector_pack": "v0.2.0",
            "config_hash": f"sha256:{'ab' * 32}",
            "git_commit": "b8b1bc2",
            "universe_policy_rev": 17,
            "source_lag_ms": 1500,
            "clock_skew_ms": 73,
            "replay_of": True,
        },
        "attachments": {"bar_refs": {"1m": ["SOL/1m/2025-09-03T09:30:00Z"]}},
    }
