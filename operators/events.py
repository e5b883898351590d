"""The event as published, contract v0.1, and its id.  Build plan 11, Appendix C; design 4."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

import orjson

from operators.lattice import iso
from operators.naming import Naming
from operators.records import Frame, Phase, Row
from packs.loader import Detector, Packs
from packs.schema import TIMEFRAME_MIN

CONTRACT_VERSION = "0.1"
WINDOW_SEC: dict[str, int] = {tf: 60 * minutes for tf, minutes in TIMEFRAME_MIN.items()}

# Named in every event for context, whatever the detector (build plan 9.8).
PANEL = (
    "ret_s_30",
    "ret_m_1",
    "z_ret_abs_m_1",
    "v_total_m_1",
    "z_vol_m_1",
    "oi_roc_m_5",
    "z_oi_roc_m_5",
    "spread_mean_m_1",
    "z_spread_m_1",
    "cvd_slope_m_5",
    "basis_bp_m_5",
    "z_basis_m_5",
)
FRAME_FIELDS = (
    "leader",
    "dominance_share",
    "shock_count_5s",
    "rs_top",
    "rs_bottom",
    "return_dispersion_m_5",
    "vol_dispersion_m_5",
    "time_to_next_funding_sec",
)


def event_id(
    emitted_ms: int,
    *,
    asset_uid: int,
    event_class: str,
    subtype: str,
    tf: str,
    exchange_ts_ms: int,
    revision: int,
    config_hash: str,
) -> str:
    """Return a UUIDv7 whose time is the emission and whose random bits are the content's SHA-256.

    The same event has the same id on every machine and in every replay. Design 4, RFC 9562 5.7.

    >>> event_id(0, asset_uid=0, event_class="spike", subtype="x", tf="1m", exchange_ts_ms=0,
    ...          revision=0, config_hash="sha256:")[:15]
    '00000000-0000-7'
    """
    content = [asset_uid, event_class, subtype, tf, exchange_ts_ms, revision, config_hash]
    digest = int.from_bytes(hashlib.sha256(orjson.dumps(content)).digest()[:10], "big")
    rand_a, rand_b = digest >> 68, digest & ((1 << 62) - 1)
    return str(UUID(int=emitted_ms << 80 | 7 << 76 | rand_a << 64 | 2 << 62 | rand_b))


def draft_event(
    *,
    packs: Packs,
    naming: Naming,
    producer: str,
    git_commit: str | None,
    phase: Phase,
    row: Row,
    frame: Frame,
    detector: Detector,
    severity: int,
    first_seen_ms: int,
    coalesced: list[str],
) -> dict[str, Any]:
    """Return the event as a JSON object; numbers are the row's, already rounded.

    git_commit : of the build, where it was recorded; None from a checkout, so that the same log
    gives the same bytes there.
    """
    columns = row.columns
    event: dict[str, Any] = {
        "v": CONTRACT_VERSION,
        "event_id": event_id(
            phase.clock_ms,
            asset_uid=row.asset_uid,
            event_class=detector.event_class,
            subtype=detector.subtype,
            tf=row.tf,
            exchange_ts_ms=row.exchange_ts_ms,
            revision=row.revision,
            config_hash=packs.config_hash,
        ),
        "emitted_at": iso(phase.clock_ms),
        "exchange_ts": iso(row.exchange_ts_ms),
        "ingest_ts": columns["ingest_ts"],
        "symbol": row.symbol,
        "asset_uid": row.asset_uid,
        "tf": row.tf,
        "class": detector.event_class,
        "subtype": detector.subtype,
        "window_sec": WINDOW_SEC[row.tf],
        "severity": severity,
        "novelty": {"first_seen_at": iso(first_seen_ms)},
        "debounce_key": f"{row.symbol}:{detector.event_class}:{row.tf}",
        "local_state": _local_state(detector, row, naming),
        "market_frame": {name: frame.columns.get(name) for name in FRAME_FIELDS},
        "membership": {
            name: columns[name] for name in ("is_in_universe", "is_hot", "universe_rev")
        },
        "provenance": {
            "producer": producer,
            "feature_pack": packs.feature_pack,
            "detector_pack": packs.detector_pack,
            "config_hash": packs.config_hash,
            "git_commit": git_commit,
            "universe_policy_rev": packs.universe.universe_policy_rev,
            "source_lag_ms": columns["ingest_lag_ms"],
            "clock_skew_ms": columns["clock_skew_ms"],
        },
    }
    if coalesced:
        event["coalesced"] = sorted(coalesced)
    if detector.inferred:
        event["local_state"]["inferred"] = True
    return event


def _local_state(detector: Detector, row: Row, naming: Naming) -> dict[str, Any]:
    """Return what the detector saw: its inputs, the common panel, true flags and data quality.

    Columns have the names they have on the row's timeframe.
    """
    columns = row.columns
    wanted = {*PANEL, *detector.inputs, *detector.payload}
    names = sorted({naming.stored(name, row.tf) for name in wanted})
    numbers = {
        name: columns[name]
        for name in names
        if isinstance(columns.get(name), int | float) and not isinstance(columns[name], bool)
    }
    flags = {name: True for name, value in columns.items() if name[:3] == "is_" and value is True}
    quality = {
        "status": columns["dq_status"],
        "ingest_lag_ms": columns["ingest_lag_ms"],
        "book_staleness_ms": columns["book_staleness_ms"],
        "oi_staleness_ms": columns["oi_staleness_ms"],
    }
    for member in ("is_in_universe", "is_hot"):
        flags.pop(member, None)
    return {"features": numbers, "flags": flags, "dq": quality}
