"""The event as published, contract v0.1, and its id.  Build plan 11, Appendix C; design 4."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import orjson

from operators.contract import ARRAY_MAX, CONTRACT_VERSION
from operators.lattice import MINUTE_MS, iso
from operators.naming import Naming
from operators.records import MARKET_UID, Frame, Phase, Row
from packs.loader import Detector, Packs
from packs.schema import MINUTE_TF, TIMEFRAME_MIN

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
    text = f"{emitted_ms << 80 | 7 << 76 | rand_a << 64 | 2 << 62 | rand_b:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def draft_event(
    *,
    packs: Packs,
    shown: tuple[str, ...],
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

    shown : columns that it names, as `shown_columns` has them. git_commit : of the build, where it
    was recorded; None from a checkout, so that the same log gives the same bytes there. coalesced :
    subtypes it speaks for, strongest first; of many the strongest are named, and the ledger has
    them all.
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
        "local_state": _local_state(row, shown),
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
        event["coalesced"] = sorted(coalesced[:ARRAY_MAX])
    if detector.inferred:
        event["local_state"]["inferred"] = True
    if row.asset_uid != MARKET_UID:  # the market has no bars
        refs = bar_refs(row.symbol, row.tf, row.exchange_ts_ms, detector.subtype)
        event["attachments"] = {"bar_refs": refs}
    return event


_WINDOW = re.compile(r"_([smh])_([1-9][0-9]{0,3})$")
_QUARTER = "15m"


def bar_refs(symbol: str, tf: str, label_ms: int, subtype: str) -> dict[str, list[str]]:
    """Return the bars that an event's window covers, by timeframe, oldest first, at most 16 each.

    The window is the end of the subtype as on 1m rows: `s_30` and no window at all are one bar,
    `m_5` is five bars of the row's timeframe, `h_1` the bars of an hour. A window of more than 16
    minutes on a 1m row is as many full quarters of an hour, the newest that is complete included,
    and the minutes since. A longer one still is cut to the newest 16 bars.

    >>> bar_refs("BTC", "1m", 1756891800000, "vol_spike_m_1")
    {'1m': ['BTC/1m/2025-09-03T09:30:00Z']}
    >>> bar_refs("BTC", "1m", 1756891860000, "funding_jolt_h_1")["15m"][-1]
    'BTC/15m/2025-09-03T09:30:00Z'
    """
    window = _WINDOW.search(subtype)
    unit, count = (window.group(1), int(window.group(2))) if window else ("s", 1)
    bars = {"s": 1, "m": count, "h": max(1, 3600 * count // WINDOW_SEC[tf])}[unit]
    if tf != MINUTE_TF or bars <= ARRAY_MAX:
        return {tf: _refs(symbol, tf, label_ms, bars)}
    quarter_min = WINDOW_SEC[_QUARTER] // 60
    since = label_ms // MINUTE_MS % quarter_min
    newest_ms = label_ms - since * MINUTE_MS
    refs = {_QUARTER: _refs(symbol, _QUARTER, newest_ms, -(-bars // quarter_min))}
    if since:
        refs[tf] = _refs(symbol, tf, label_ms, since)
    return refs


def _refs(symbol: str, tf: str, label_ms: int, bars: int) -> list[str]:
    """Return the names of the newest bars up to a label."""
    step_ms = 1000 * WINDOW_SEC[tf]
    oldest = min(bars, ARRAY_MAX) - 1
    return [f"{symbol}/{tf}/{iso(label_ms - k * step_ms)}" for k in range(oldest, -1, -1)]


def shown_columns(detector: Detector, tf: str, naming: Naming) -> tuple[str, ...]:
    """Return the columns that a detector's events name, sorted: its inputs and the common panel, as
    rows of the timeframe store them."""
    wanted = {*PANEL, *detector.inputs, *detector.payload}
    return tuple(sorted({naming.stored(name, tf) for name in wanted}))


def _local_state(row: Row, shown: tuple[str, ...]) -> dict[str, Any]:
    """Return what the detector saw: the columns that are known, true flags and data quality."""
    columns = row.columns
    numbers = {
        name: columns[name]
        for name in shown
        if type(columns.get(name)) in (int, float)  # a flag is an int to Python
    }
    flags = {name: True for name, value in columns.items() if value is True and name[:3] == "is_"}
    quality = {
        "status": columns["dq_status"],
        "ingest_lag_ms": columns["ingest_lag_ms"],
        "book_staleness_ms": columns["book_staleness_ms"],
        "oi_staleness_ms": columns["oi_staleness_ms"],
    }
    for member in ("is_in_universe", "is_hot"):
        flags.pop(member, None)
    return {"features": numbers, "flags": flags, "dq": quality}
