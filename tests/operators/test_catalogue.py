"""Every detector of both packs: where it fires, what it scores, and what can silence it.

A detector without an entry in `EDGES` and `SCORES` fails here; so does one with a comparison that
no edge moves. Rows go through Detect (MARKET: through its own evaluation), Score and Budget.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from operators import ledger
from operators.budget import Budget, BudgetState
from operators.contract import fault_of
from operators.detect import Detect
from operators.lattice import MINUTE_MS, iso
from operators.marketwide import Marketwide, market_row
from operators.modes import Run, is_canary
from operators.publish import event_json
from operators.records import (
    MARKET_UID,
    Candidate,
    Columns,
    Frame,
    Phase,
    Published,
    Row,
    RowItem,
    ScoredItem,
    ScoreItem,
)
from operators.score import Score, ScoreState
from packs.loader import MARKET_CLASSES, Detector, Packs, load_packs
from packs.schema import FRAME_COLUMNS, Canary

FOLDER = Path(__file__).parents[2] / "packs" / "detectors"
RELEASED = {name: load_packs(detectors=FOLDER / f"{name}.yaml") for name in ("v0.1", "v0.2")}
FEATURES = RELEASED["v0.2"].features
T0 = 1_756_890_000_000  # 09:00:00
VOL, SYNC = "spike.vol_spike_m_1", "sync.basket_shock_Δt_5s"

# A calm minute of a member on which nothing fires; nothing that is published is NULL.
BASE: Columns = {
    **dict.fromkeys(FEATURES.names("1m")),
    "dq_status": "ok",
    "dq_reasons": [],
    "ingest_ts": iso(T0 + 1500),
    "ingest_lag_ms": 1500,
    "book_staleness_ms": 100,
    "oi_staleness_ms": 900,
    "clock_skew_ms": 40,
    "warmup": False,
    "illiquidity_hit": False,
    "dq_penalty": 0,
    "illiq_penalty": 0,
    "ret_s_30": 0.0001,
    "ret_m_1": 0.0001,
    "ret_m_5": 0.0005,
    "rv_m_1": 0.0004,
    "z_ret_abs_m_1": -0.5,
    "z_ret_abs_m_5": -0.25,
    "v_total_m_1": 60_000.0,
    "trade_count_m_1": 40,
    "z_vol_m_1": 0.25,
    "spread_mean_m_1": 0.5,
    "spread_p95_m_1": 0.75,
    "z_spread_m_1": 0.125,
    "cvd_delta_m_1": 1000.0,
    "cvd_delta_m_5": 5000.0,
    "z_cvd_delta_m_5": 0.25,
    "b_divisor_cvd": 100_000.0,
    "cvd_slope_m_5": 500.0,
    "z_cvd_slope_m_5": 0.5,
    "b_divisor_cvd_slope": 1000.0,
    "oi_roc_m_5": 0.0005,
    "oi_delta_m_5": 25_000.0,
    "z_oi_roc_m_5": 0.25,
    "basis_bp_m_1": -3.0,
    "basis_bp_m_5": -3.5,
    "z_basis_m_5": -0.125,
    "funding_h_1": 0.0000125,
    "dfunding_h_1": 0.0,
    "b_divisor_dfunding": 0.00001,
    "time_to_next_funding_sec": 1800,
    "is_in_universe": True,
    "is_hot": False,
    "universe_rev": 1,
}
# A frame on which nothing fires, of any timeframe.
FRAME: Columns = {
    **dict.fromkeys(FRAME_COLUMNS),
    "leader": "BTC",
    "leader_uid": 0,
    "dominance_share": 0.5,
    "shock_count_5s": 0,
    "approx": False,
    "rs_top": ["BTC"],
    "rs_bottom": ["BTC"],
    "return_dispersion_m_5": 0.005,
    "vol_dispersion_m_5": 0.75,
    "eligible_count": 20,
    "excluded_count": 0,
    "universe_size": 20,
    "universe_rev": 1,
    "time_to_next_funding_sec": 3600,
    "leader_z_vol": 1.0,
    "former_leader": "BTC",
    "leader_z_vol_before_1": 1.0,
    "leader_z_vol_before_2": 1.0,
    "followers_rs": 0.0,
    "followers_rs_before_1": 0.0,
    "followers_rs_before_2": 0.0,
    "sector_leader": "layer_1",
    "sector_margin": 0.0,
    "sector_former": "layer_1",
    "sector_former_rank": 1,
    "dq_status": "ok",
    "dq_reasons": [],
}


# --- the tables ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edge:
    """Where a detector fires.

    at : columns that make it fire exactly at every threshold. beside : one column each, just on the
    silent side of a comparison; the others stay. also : more ways to fire, on top of `at`.
    """

    at: Columns
    beside: tuple[tuple[str, Any], ...]
    also: tuple[Columns, ...] = field(default=())


_OLD = ("oi_staleness_ms", 20_001)
_FRESH = 20_000


def quadrant(price: int, interest: int) -> Edge:
    """Return the edge of one of the four, by the signs of price and open interest."""
    return Edge(
        {
            "ret_m_5": 0.003 * price,
            "oi_roc_m_5": 0.01 * interest,
            "oi_staleness_ms": _FRESH,
        },
        (
            ("ret_m_5", 0.00299999999999 * price),
            ("ret_m_5", -0.003 * price),
            ("oi_roc_m_5", 0.00999999999999 * interest),
            ("oi_roc_m_5", -0.01 * interest),
            _OLD,
        ),
    )


EDGES: dict[str, Edge] = {
    VOL: Edge(
        {"z_vol_m_1": 3.0, "trade_count_m_1": 5},
        (("z_vol_m_1", 2.99999999999), ("z_vol_m_1", -9.0), ("trade_count_m_1", 4)),
        ({"trade_count_m_1": None},),  # a guard is left to the other gates where it is unknown
    ),
    "spike.price_spike_up_m_1": Edge(
        {"z_ret_abs_m_1": 2.5, "ret_m_1": 1e-12},
        (("z_ret_abs_m_1", 2.49999999999), ("ret_m_1", 0.0), ("ret_m_1", -0.01)),
    ),
    "spike.price_spike_down_m_1": Edge(
        {"z_ret_abs_m_1": 2.5, "ret_m_1": -1e-12},
        (("z_ret_abs_m_1", 2.49999999999), ("ret_m_1", 0.0), ("ret_m_1", 0.01)),
    ),
    "spike.oi_spike_up_m_5": Edge(
        {"z_oi_roc_m_5": 2.0, "oi_roc_m_5": 0.015, "oi_staleness_ms": _FRESH},
        (
            ("z_oi_roc_m_5", 1.99999999999),
            ("z_oi_roc_m_5", -2.0),
            ("oi_roc_m_5", 0.0149999999999),
            ("oi_roc_m_5", -0.015),
            _OLD,
        ),
    ),
    "spike.oi_spike_down_m_5": Edge(
        {"z_oi_roc_m_5": -2.0, "oi_roc_m_5": -0.015, "oi_staleness_ms": _FRESH},
        (
            ("z_oi_roc_m_5", -1.99999999999),
            ("z_oi_roc_m_5", 2.0),
            ("oi_roc_m_5", -0.0149999999999),
            ("oi_roc_m_5", 0.015),
            _OLD,
        ),
    ),
    "spike.liq_cluster_m_5": Edge(
        {
            "z_ret_abs_m_1": 2.5,
            "z_spread_m_1": 2.0,
            "z_oi_roc_m_5": -2.0,
            "oi_roc_m_5": -1e-12,
            "oi_staleness_ms": _FRESH,
        },
        (
            ("z_ret_abs_m_1", 2.49999999999),
            ("z_spread_m_1", 1.99999999999),
            ("z_oi_roc_m_5", -1.99999999999),
            ("oi_roc_m_5", 0.0),
            _OLD,
        ),
        (
            {"z_ret_abs_m_1": 5.0, "z_spread_m_1": 0.0},  # a leg counts as two at most
            {"z_ret_abs_m_1": 5.0, "z_spread_m_1": 1.0, "z_oi_roc_m_5": -1.0},
        ),
    ),
    "combo.price_up_volume_up_m_1": Edge(
        {"z_ret_abs_m_1": 1.5, "z_vol_m_1": 2.5, "ret_m_1": 1e-12, "trade_count_m_1": 5},
        (
            ("z_ret_abs_m_1", 1.49999999999),
            ("z_vol_m_1", 2.49999999999),
            ("ret_m_1", 0.0),
            ("ret_m_1", -0.01),
            ("trade_count_m_1", 4),
        ),
    ),
    "combo.price_up_oi_up_m_5": Edge(
        {
            "ret_m_5": 0.003,
            "z_oi_roc_m_5": 2.0,
            "oi_roc_m_5": 0.01,
            "oi_staleness_ms": _FRESH,
        },
        (
            ("ret_m_5", 0.00299999999999),
            ("ret_m_5", -0.003),
            ("z_oi_roc_m_5", 1.99999999999),
            ("oi_roc_m_5", 0.00999999999999),
            _OLD,
        ),
    ),
    "combo.price_up_oi_down_m_5": Edge(
        {"ret_m_5": 0.003, "oi_roc_m_5": -0.01, "oi_staleness_ms": _FRESH},
        (
            ("ret_m_5", 0.00299999999999),
            ("ret_m_5", -0.003),
            ("oi_roc_m_5", -0.00999999999999),
            _OLD,
        ),
    ),
    "shift.spread_stress_m_1": Edge(
        {"z_spread_m_1": 2.0}, (("z_spread_m_1", 1.99999999999), ("z_spread_m_1", -2.0))
    ),
    "shift.basis_jolt_m_5": Edge(
        {"z_basis_m_5": 2.5},
        (
            ("z_basis_m_5", 2.49999999999),
            ("z_basis_m_5", -2.49999999999),
            ("basis_bp_m_5", None),
        ),
        ({"z_basis_m_5": -2.5},),
    ),
    **{
        f"quadrant.price_{price}_oi_{interest}_m_5": quadrant(price_sign, interest_sign)
        for price, price_sign in (("up", 1), ("down", -1))
        for interest, interest_sign in (("up", 1), ("down", -1))
    },
    "div.price_up_cvd_down_m_5": Edge(
        {"ret_m_5": 0.003, "cvd_delta_m_5": -2e5, "b_divisor_cvd": 1e5},
        (
            ("ret_m_5", 0.00299999999999),
            ("ret_m_5", -0.003),
            ("cvd_delta_m_5", -199_999.999999),
            ("cvd_delta_m_5", 2e5),
            ("b_divisor_cvd", 100_000.0001),
        ),
    ),
    "div.price_flat_cvd_trend_m_5": Edge(
        {"ret_m_5": 0.001, "cvd_slope_m_5": 6000.0, "b_divisor_cvd_slope": 1000.0},
        (
            ("ret_m_5", 0.00100000000001),
            ("ret_m_5", -0.00100000000001),
            ("cvd_slope_m_5", 5999.99999999),
            ("cvd_slope_m_5", -5999.99999999),
            ("b_divisor_cvd_slope", 1000.0001),
        ),
        ({"ret_m_5": -0.001}, {"cvd_slope_m_5": -6000.0}),
    ),
    "div.premium_no_oi_m_5": Edge(
        {"z_basis_m_5": 2.0, "oi_roc_m_5": 0.0, "oi_staleness_ms": _FRESH},
        (
            ("z_basis_m_5", 1.99999999999),
            ("z_basis_m_5", -2.0),
            ("oi_roc_m_5", 1e-12),
            _OLD,
            ("basis_bp_m_5", None),
        ),
        ({"oi_roc_m_5": -0.5},),
    ),
    SYNC: Edge(
        {"shock_count_5s": 4, "universe_size": 26},
        (("shock_count_5s", 3), ("universe_size", 27)),
        (
            {"shock_count_5s": 4, "universe_size": 0},
            {"shock_count_5s": 5, "universe_size": 33},
        ),
    ),
    "rot.leader_cooling_followers_hot_m_15": Edge(
        {
            "leader_z_vol": 1.0,
            "leader_z_vol_before_1": 1.25,
            "leader_z_vol_before_2": 1.5,
            "followers_rs": 0.75,
            "followers_rs_before_1": 0.5,
            "followers_rs_before_2": 0.25,
        },
        (
            ("leader_z_vol", 1.00000000001),
            ("leader_z_vol_before_1", 1.0),
            ("leader_z_vol_before_1", 1.5),
            ("leader_z_vol_before_2", 1.49999999999),
            ("followers_rs", 0.74999999999),
            ("followers_rs_before_1", 0.75),
            ("followers_rs_before_1", 0.25),
            ("followers_rs_before_2", 0.25000000001),
        ),
    ),
    "rot.rs_flip_sector_m_15": Edge(
        {"sector_former_rank": 3, "sector_margin": 0.25},
        (("sector_former_rank", 2), ("sector_margin", 0.24999999999)),
    ),
}
_PLAIN_JOLT = Edge(
    {"dfunding_h_1": 0.001, "funding_h_1": 0.0011},
    (("dfunding_h_1", 0.000999999999999), ("dfunding_h_1", -0.000999999999999)),
    (
        {"dfunding_h_1": -0.001},
        {"dfunding_h_1": -0.00002000001, "funding_h_1": 0.00001},
        {"dfunding_h_1": 0.00002000001, "funding_h_1": -0.00001},
    ),
)
# Funding is what the packs say differently.
EDGES_OF: dict[str, dict[str, Edge]] = {
    "v0.1": EDGES | {"shift.funding_jolt_h_1": _PLAIN_JOLT},
    "v0.2": EDGES
    | {
        "shift.funding_jolt_h_1": Edge(
            {"dfunding_h_1": 0.00075, "b_divisor_dfunding": 0.000125},
            (
                ("dfunding_h_1", 0.000749999999999),
                ("dfunding_h_1", -0.000749999999999),
                ("b_divisor_dfunding", 0.000125000001),
            ),
            (
                {"dfunding_h_1": -0.00075},
                {"dfunding_h_1": 0.00002, "b_divisor_dfunding": 0.000001},
            ),
        ),
        "shift.funding_jolt_plain_h_1": _PLAIN_JOLT,
    },
}
# What a silent side leaves silent where another comparison is an alternative.
FLIPS_SILENT = [
    {"dfunding_h_1": -0.00002, "funding_h_1": 0.00001},  # zero at the next funding is no flip
    {"dfunding_h_1": 0.00002, "funding_h_1": 0.00001},  # away from zero
    {"dfunding_h_1": -0.00002000001, "funding_h_1": 0.00001, "time_to_next_funding_sec": 1799},
    {"dfunding_h_1": 0.00001, "funding_h_1": 0.0},  # zero has no sign to lose
]

# Strong rows, by hand: what the detector hands to the scorer. One table of columns for both packs.
LOUD: Columns = {
    "z_vol_m_1": 6.5,
    "z_ret_abs_m_1": 5.25,
    "z_ret_abs_m_5": 4.5,
    "z_spread_m_1": 5.0,
    "z_cvd_delta_m_5": -3.5,
    "z_cvd_slope_m_5": -4.25,
}
_QUADRANT_SCORES = {"v0.1": (0.004, 0.02), "v0.2": (4.5, 3.25)}
# detector: columns on top of LOUD, and (primary, secondary) by pack
SCORES: dict[str, tuple[Columns, dict[str, tuple[float, float]]]] = {
    VOL: ({}, {"v0.1": (6.5, 5.25), "v0.2": (6.5, 5.25)}),
    "spike.price_spike_up_m_1": ({"ret_m_1": 0.01}, {"v0.1": (5.25, 0.0), "v0.2": (5.25, 6.5)}),
    "spike.price_spike_down_m_1": ({"ret_m_1": -0.01}, {"v0.1": (5.25, 0.0), "v0.2": (5.25, 6.5)}),
    "spike.oi_spike_up_m_5": (
        {"z_oi_roc_m_5": 3.75, "oi_roc_m_5": 0.02},
        {"v0.1": (3.75, 0.0), "v0.2": (3.75, 4.5)},
    ),
    "spike.oi_spike_down_m_5": (
        {"z_oi_roc_m_5": -3.75, "oi_roc_m_5": -0.02},
        {"v0.1": (3.75, 0.0), "v0.2": (3.75, 4.5)},
    ),
    # legs 2 (of 2.1), 2 (of 2.5) and 1.5
    "spike.liq_cluster_m_5": (
        {"z_oi_roc_m_5": -3.0, "oi_roc_m_5": -0.01},
        {"v0.1": (5.5, 0.0), "v0.2": (11.0 / 3.0, 5.25)},
    ),
    "combo.price_up_volume_up_m_1": (
        {"ret_m_1": 0.01},
        {"v0.1": (5.25, 6.5), "v0.2": (5.25, 6.5)},
    ),
    "combo.price_up_oi_up_m_5": (
        {"ret_m_5": 0.004, "z_oi_roc_m_5": 3.25, "oi_roc_m_5": 0.02},
        {"v0.1": (5.25, 3.25), "v0.2": (4.5, 3.25)},
    ),
    "combo.price_up_oi_down_m_5": (
        {"ret_m_5": 0.004, "z_oi_roc_m_5": -3.25, "oi_roc_m_5": -0.02},
        {"v0.1": (5.25, 3.25), "v0.2": (4.5, 3.25)},
    ),
    "shift.spread_stress_m_1": ({}, {"v0.1": (5.0, 0.0), "v0.2": (5.0, 5.25)}),
    "shift.basis_jolt_m_5": (
        {"z_basis_m_5": -5.5, "z_oi_roc_m_5": -1.5},
        {"v0.1": (5.5, 0.0), "v0.2": (5.5, 1.5)},
    ),
    # a change of 16 bp against a usual one of 2 bp: four times twice the usual
    "shift.funding_jolt_h_1": (
        {"dfunding_h_1": -0.0016, "b_divisor_dfunding": 0.0002, "funding_h_1": -0.001},
        {"v0.1": (0.0016, 0.0), "v0.2": (4.0, 0.0)},
    ),
    "shift.funding_jolt_plain_h_1": (
        {"dfunding_h_1": -0.0012, "b_divisor_dfunding": 0.01, "funding_h_1": -0.001},
        {"v0.2": (6.0, 0.0)},
    ),
    "quadrant.price_up_oi_up_m_5": (
        {"ret_m_5": 0.004, "oi_roc_m_5": 0.02, "z_oi_roc_m_5": 3.25},
        _QUADRANT_SCORES,
    ),
    "quadrant.price_up_oi_down_m_5": (
        {"ret_m_5": 0.004, "oi_roc_m_5": -0.02, "z_oi_roc_m_5": -3.25},
        _QUADRANT_SCORES,
    ),
    "quadrant.price_down_oi_up_m_5": (
        {"ret_m_5": -0.004, "oi_roc_m_5": 0.02, "z_oi_roc_m_5": 3.25},
        _QUADRANT_SCORES,
    ),
    "quadrant.price_down_oi_down_m_5": (
        {"ret_m_5": -0.004, "oi_roc_m_5": -0.02, "z_oi_roc_m_5": -3.25},
        _QUADRANT_SCORES,
    ),
    "div.price_up_cvd_down_m_5": (
        {"ret_m_5": 0.004, "cvd_delta_m_5": -3e5},
        {"v0.1": (0.004, -3e5), "v0.2": (4.5, 3.5)},
    ),
    "div.price_flat_cvd_trend_m_5": (
        {"ret_m_5": 0.0, "cvd_slope_m_5": -7000.0},
        {"v0.1": (7000.0, 0.0), "v0.2": (4.25, 0.0)},
    ),
    "div.premium_no_oi_m_5": (
        {"z_basis_m_5": 4.75, "oi_roc_m_5": -0.001, "z_oi_roc_m_5": -1.25},
        {"v0.1": (4.75, 0.0), "v0.2": (4.75, 1.25)},
    ),
    # 9 shocks where 6 are enough: three times the ratio of 2
    SYNC: (
        {"shock_count_5s": 9, "universe_size": 40, "leader_z_vol": 3.5},
        {"v0.1": (9.0, 0.0), "v0.2": (3.0, 3.5)},
    ),
    # the gap opens by (1.5 - 0.25) + (3.5 - 2.6) = 2.15, five times 0.43
    "rot.leader_cooling_followers_hot_m_15": (
        {
            "leader_z_vol": 2.6,
            "leader_z_vol_before_1": 3.0,
            "leader_z_vol_before_2": 3.5,
            "followers_rs": 1.5,
            "followers_rs_before_1": 1.0,
            "followers_rs_before_2": 0.25,
        },
        {"v0.1": (2.15, 0.0), "v0.2": (5.0, 0.0)},
    ),
    "rot.rs_flip_sector_m_15": (
        {"sector_former_rank": 4, "sector_margin": 0.43},
        {"v0.1": (0.43, 0.0), "v0.2": (4.0, 0.0)},
    ),
}
# More for the caps and floors of v0.2: detector, columns, primary, secondary
LIMITS: list[tuple[str, Columns, float, float]] = [
    ("shift.funding_jolt_h_1", {"dfunding_h_1": 0.5, "b_divisor_dfunding": 0.001}, 6.0, 0.0),
    (
        "shift.funding_jolt_plain_h_1",
        {"dfunding_h_1": -0.0001, "funding_h_1": 0.00001},
        2.5,
        0.0,
    ),
    ("shift.funding_jolt_plain_h_1", {"dfunding_h_1": -0.0005, "funding_h_1": 1e-5}, 3.0, 0.0),
    ("shift.funding_jolt_plain_h_1", {"dfunding_h_1": 0.5}, 6.0, 0.0),
    (SYNC, {"shock_count_5s": 100, "universe_size": 20}, 6.0, 1.0),
    (SYNC, {"shock_count_5s": 30, "universe_size": 200, "leader_z_vol": None}, 2.0, 0.0),
    ("rot.rs_flip_sector_m_15", {"sector_former_rank": 3, "sector_margin": 9.0}, 6.0, 0.0),
    ("div.premium_no_oi_m_5", {"z_basis_m_5": 2.5, "oi_roc_m_5": 0.0}, 2.5, 0.0),
    (
        "spike.liq_cluster_m_5",
        {"z_ret_abs_m_1": 50.0, "z_spread_m_1": 50.0, "z_oi_roc_m_5": -50.0, "oi_roc_m_5": -0.5},
        4.0,
        50.0,
    ),
]

ALL = [(name, d.detector_id) for name, packs in RELEASED.items() for d in packs.detectors]
every_detector = pytest.mark.parametrize(("name", "detector_id"), ALL)


# --- the way of a row ----------------------------------------------------------------------------


def detector_of(name: str, detector_id: str) -> Detector:
    """Return one detector of a released pack."""
    (found,) = (d for d in RELEASED[name].detectors if d.detector_id == detector_id)
    return found


def alone(name: str, detector_id: str, **changes: Any) -> Packs:
    """Return a released pack with one detector only, changed."""
    detector = replace(detector_of(name, detector_id), **changes)
    return replace(RELEASED[name], detectors=(detector,))


def is_market(detector: Detector) -> bool:
    """Tell whether a detector looks at the market, not at an asset."""
    return detector.event_class in MARKET_CLASSES


def found_on(packs: Packs, columns: Columns, label: int = T0, symbol: str = "BTC") -> ScoreItem:
    """Return rows with their candidates as they reach the scorer: of one asset, then of MARKET.

    columns : pack names, of a row or of the frame; the frame of 15m is as that of the minute.
    """
    phase = Phase(label, False, 1, label + 1500)
    market = {name: value for name, value in columns.items() if name in FRAME}
    own = {name: value for name, value in columns.items() if name in BASE}
    row = Row(0, symbol, "1m", label, 0, {**BASE, **own})
    (item,) = Detect(packs).step(None, RowItem(phase, 0, (row,)))
    frames = tuple(Frame(tf, label, 0, {**FRAME, **market}) for tf in ("1m", "15m"))
    rows = tuple(market_row(frame, phase) for frame in frames)
    watch = Marketwide(packs)
    return ScoreItem(
        phase,
        0,
        (*item.rows, *rows),
        (*item.candidates, *(watch.candidates(one) for one in rows)),
        frames,
    )


def candidates(packs: Packs, columns: Columns) -> dict[str, Candidate]:
    """Return what fires on a row and a frame."""
    item = found_on(packs, columns)
    return {c.detector_id: c for group in item.candidates for c in group}


class Way:
    """Detect, Score and Budget of one asset and the market."""

    def __init__(self, packs: Packs, run: Run | None = None) -> None:
        self.packs = packs
        self.score, self.budget = Score(packs, "alpha-detector@test"), Budget(packs, run)
        self.states: dict[int, ScoreState] = {0: ScoreState(), MARKET_UID: ScoreState()}
        self.total: BudgetState = self.budget.initial()

    def at(
        self, minute: int, columns: Columns, *, tier: str = "mid", symbol: str = "BTC"
    ) -> Published:
        """Return what is published of one minute; membership columns are set by hand."""
        both = found_on(self.packs, columns, T0 + minute * MINUTE_MS, symbol)
        scored: list[ScoredItem] = []
        for uid in (0, MARKET_UID):
            kept = [k for k, row in enumerate(both.rows) if row.asset_uid == uid]
            item = ScoreItem(
                both.phase,
                uid,
                tuple(both.rows[k] for k in kept),
                tuple(both.candidates[k] for k in kept),
                both.frames,
                tier,
            )
            scored += self.score.step(self.states[uid], item)
        (published,) = [out for one in scored for out in self.budget.step(self.total, one)]
        return published


def reasons(published: Published) -> list[str]:
    """Return the reasons of a minute."""
    return [suppressed.reason for suppressed in published.suppressed]


# --- triggers ------------------------------------------------------------------------------------


def test_every_detector_has_its_entries() -> None:
    """A new detector needs its edges and its scores written down."""
    for name, packs in RELEASED.items():
        ids = {d.detector_id for d in packs.detectors}
        assert ids == EDGES_OF[name].keys()
        assert ids == {key for key, (_, by_pack) in SCORES.items() if name in by_pack}


@pytest.mark.parametrize("name", RELEASED)
def test_nothing_fires_on_the_base(name: str) -> None:
    """And nothing is NULL on it that a detector needs."""
    assert candidates(RELEASED[name], {}) == {}
    for d in RELEASED[name].detectors:
        assert d.fires({**BASE, **FRAME} if is_market(d) else BASE) is False


@every_detector
def test_it_fires_exactly_at_its_thresholds(name: str, detector_id: str) -> None:
    """All comparisons at their edge at once, and every other way to fire."""
    edge = EDGES_OF[name][detector_id]
    for more in ({}, *edge.also):
        assert detector_id in candidates(RELEASED[name], {**edge.at, **more}), more


@every_detector
def test_it_is_silent_just_beside_each_threshold(name: str, detector_id: str) -> None:
    """One comparison moved, the others as they were."""
    edge = EDGES_OF[name][detector_id]
    for column, value in edge.beside:
        moved = {**edge.at, column: value}
        assert detector_id not in candidates(RELEASED[name], moved), (column, value)


@every_detector
def test_every_comparison_is_moved(name: str, detector_id: str) -> None:
    """Each column that is compared has a silent side, and there are as many as comparisons."""
    detector, edge = detector_of(name, detector_id), EDGES_OF[name][detector_id]
    conditions = (detector.trigger, *detector.conditions, *detector.guards)
    compared = sum(len(re.findall(r"[<>]=?|==|!=", one.text)) for one in conditions)
    assert compared > 0
    if "||" in detector.trigger.text:
        compared -= 1  # an alternative: its silent sides are in FLIPS_SILENT
    assert len(edge.beside) >= compared
    named = {name for one in conditions for name in one.names}
    if "||" not in detector.trigger.text:
        assert {column for column, _ in edge.beside} >= named


@pytest.mark.parametrize("columns", FLIPS_SILENT)
def test_a_flip_of_funding_that_is_none(columns: Columns) -> None:
    """The other leg of the plain rule, a step beside its edges."""
    assert candidates(alone("v0.2", "shift.funding_jolt_plain_h_1"), columns) == {}


@every_detector
def test_a_null_operand_is_silent(name: str, detector_id: str) -> None:
    """Any one that it requires, on a row that fires."""
    detector, edge = detector_of(name, detector_id), EDGES_OF[name][detector_id]
    assert detector.required
    for column in detector.required:
        assert detector_id not in candidates(RELEASED[name], {**edge.at, column: None})


# --- scores --------------------------------------------------------------------------------------


@every_detector
def test_what_it_hands_to_the_scorer(name: str, detector_id: str) -> None:
    """Primary and secondary by hand, on a row that no clamp bounds."""
    columns, by_pack = SCORES[detector_id]
    found = candidates(RELEASED[name], {**LOUD, **columns})[detector_id]
    assert (found.primary, found.secondary) == pytest.approx(by_pack[name], rel=1e-12)
    assert found.gate is None


@pytest.mark.parametrize(("detector_id", "columns", "primary", "secondary"), LIMITS)
def test_caps_and_floors_of_a_score(
    detector_id: str, columns: Columns, primary: float, secondary: float
) -> None:
    """Numerics 9: what is no z itself counts six at most; a flip counts 2.5."""
    found = candidates(RELEASED["v0.2"], columns)[detector_id]
    assert (found.primary, found.secondary) == pytest.approx((primary, secondary), rel=1e-12)


@pytest.mark.parametrize("name", RELEASED)
def test_scores_of_v02_are_in_sigma_units(name: str) -> None:
    """Appendix B has returns and slopes of money among its primaries, numerics 9 has none."""
    units = {c.name: c.unit for c in FEATURES.columns}
    raw = {
        d.detector_id
        for d in RELEASED[name].detectors
        for column in d.primary.names
        if column in units and units[column] != "sigma" and "/" not in d.primary.text
    }
    plain = {"shift.funding_jolt_plain_h_1"}  # scaled: 6000 per unit of rate
    if name == "v0.2":
        assert raw == plain
    else:
        assert raw == {
            "shift.funding_jolt_h_1",
            *(f"quadrant.price_{p}_oi_{i}_m_5" for p in ("up", "down") for i in ("up", "down")),
            "div.price_up_cvd_down_m_5",
            "div.price_flat_cvd_trend_m_5",
        }


# --- events --------------------------------------------------------------------------------------


def event_of(name: str, detector_id: str) -> dict[str, Any]:
    """Return the event of a detector on its strong row, nothing else in the pack."""
    columns, _ = SCORES[detector_id]
    published = Way(alone(name, detector_id)).at(0, {**LOUD, **columns})
    assert (reasons(published), published.dead) == ([], ())
    (event,) = published.events
    return event


@every_detector
def test_a_strong_row_is_published(name: str, detector_id: str) -> None:
    """Past every gate, under the right names, and it keeps the contract."""
    detector, event = detector_of(name, detector_id), event_of(name, detector_id)
    assert fault_of(event) is None
    symbol, uid = ("MARKET", MARKET_UID) if is_market(detector) else ("BTC", 0)
    assert (event["symbol"], event["asset_uid"]) == (symbol, uid)
    assert (event["class"], event["subtype"]) == (detector.event_class, detector.subtype)
    assert event["debounce_key"] == f"{symbol}:{detector.event_class}:{detector.tfs[0]}"
    assert event["severity"] >= detector.publish_threshold


@every_detector
def test_payload_columns_exist_and_are_published(name: str, detector_id: str) -> None:
    """Of rows or of frames, each a number on a row that knows it; inputs too."""
    detector, event = detector_of(name, detector_id), event_of(name, detector_id)
    known = FRAME_COLUMNS.keys() if is_market(detector) else FEATURES.names("1m").keys()
    assert detector.payload
    assert known >= {*detector.payload, *detector.inputs}
    features = event["local_state"]["features"]
    assert features.keys() >= {*detector.payload}
    assert features.keys() >= {*detector.inputs} - {"sector_leader", "sector_former"}  # text


@every_detector
def test_only_what_is_inferred_says_so(name: str, detector_id: str) -> None:
    """Liquidations are concluded from other columns (design D8); everything else is seen."""
    inferred = event_of(name, detector_id)["local_state"].get("inferred", False)
    assert inferred is (detector_id == "spike.liq_cluster_m_5")


# --- what silences -------------------------------------------------------------------------------

GATES: dict[str, tuple[Columns, str]] = {
    "partial": ({"dq_status": "partial"}, "dq"),
    "stale": ({"dq_status": "stale"}, "dq"),
    "warmup": ({"warmup": True}, "warmup"),
    "illiquid": ({"illiquidity_hit": True}, "illiquid"),
    "outside": ({"is_in_universe": False}, "not_member"),
}
ON_ASSETS = [(n, i) for n, i in ALL if not is_market(detector_of(n, i))]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("name", "detector_id"), ON_ASSETS)
def test_a_gate_alone_silences(name: str, detector_id: str, gate: str) -> None:
    """The candidate is on record with this one reason; all else would let it pass."""
    columns, reason = GATES[gate]
    strong = {**LOUD, **SCORES[detector_id][0]}
    published = Way(alone(name, detector_id)).at(0, {**strong, **columns})
    assert (published.events, reasons(published)) == ((), [reason])
    assert published.suppressed[0].severity is not None


@pytest.mark.parametrize(("name", "detector_id"), ON_ASSETS)
def test_who_is_hot_is_heard_without_being_a_member(name: str, detector_id: str) -> None:
    """Build plan 7.4."""
    strong = {**LOUD, **SCORES[detector_id][0], "is_in_universe": False, "is_hot": True}
    published = Way(alone(name, detector_id)).at(0, strong)
    assert [event["membership"]["is_hot"] for event in published.events] == [True]


@pytest.mark.parametrize("status", ["partial", "stale"])
@pytest.mark.parametrize(
    ("name", "detector_id"), [(n, i) for n, i in ALL if is_market(detector_of(n, i))]
)
def test_a_frame_of_poor_quality_silences_the_market(
    name: str, detector_id: str, status: str
) -> None:
    """Too few assets are no market (build plan 6.8)."""
    strong = {**SCORES[detector_id][0], "dq_status": status}
    published = Way(alone(name, detector_id)).at(0, strong)
    assert (published.events, set(reasons(published))) == ((), {"dq"})


@every_detector
def test_a_disabled_detector_is_watched(name: str, detector_id: str) -> None:
    """Its candidates are found, rated and suppressed with the reason why."""
    strong = {**LOUD, **SCORES[detector_id][0]}
    published = Way(alone(name, detector_id, enabled=False)).at(0, strong)
    assert (published.events, published.shadow) == ((), ())
    assert reasons(published) == ["disabled"]


@pytest.mark.parametrize("mode", ["shadow", "canary"])
@every_detector
def test_a_detector_on_trial_speaks_in_shadow(name: str, detector_id: str, mode: str) -> None:
    """What it says is, to the byte, what it would have said live, without an incident."""
    strong = {**LOUD, **SCORES[detector_id][0]}
    published = Way(alone(name, detector_id, mode=mode)).at(0, strong)
    assert (published.events, reasons(published)) == ((), [])
    live = event_of(name, detector_id)
    live.pop("incident_id", None)
    assert [event_json(e) for e in published.shadow] == [event_json(live)]


HELD_BACK = {"dry_run": Run("dry_run"), "kill_switch": Run("prod", emit_events=False)}


@pytest.mark.parametrize("reason", HELD_BACK)
@every_detector
def test_a_run_that_publishes_nothing(name: str, detector_id: str, reason: str) -> None:
    """Neither live nor in shadow: each candidate is on record with its severity."""
    strong = {**LOUD, **SCORES[detector_id][0]}
    for mode in ("live", "shadow"):
        packs = alone(name, detector_id, mode=mode)
        published = Way(packs, HELD_BACK[reason]).at(0, strong)
        assert (published.events, published.shadow, reasons(published)) == ((), (), [reason])
        assert published.suppressed[0].severity == event_of(name, detector_id)["severity"]


@every_detector
def test_a_detector_that_is_off_is_not_evaluated(name: str, detector_id: str) -> None:
    """No candidate, nothing to account for."""
    strong = {**LOUD, **SCORES[detector_id][0]}
    published = Way(alone(name, detector_id, mode="off")).at(0, strong)
    assert (published.events, published.suppressed) == ((), ())


@every_detector
def test_its_threshold_is_the_last_word(name: str, detector_id: str) -> None:
    """Published at its own severity, `below_threshold` a point under it."""
    columns, severity = {**LOUD, **SCORES[detector_id][0]}, event_of(name, detector_id)["severity"]
    at = Way(alone(name, detector_id, publish_threshold=float(severity))).at(0, columns)
    assert len(at.events) == 1
    above = Way(alone(name, detector_id, publish_threshold=severity + 0.5)).at(0, columns)
    assert (above.events, reasons(above)) == ((), ["below_threshold"])


@every_detector
def test_the_same_again_waits(name: str, detector_id: str) -> None:
    """With a day of cooldown the second one, a quarter of an hour later, is suppressed."""
    strong = {**LOUD, **SCORES[detector_id][0]}
    path = Way(alone(name, detector_id, cooldown_s=86_400.0, publish_threshold=0.0))
    first, second = path.at(0, strong), path.at(15, strong)
    assert (len(first.events), reasons(first)) == (1, [])
    assert (second.events, reasons(second)) == ((), ["cooldown"])


@every_detector
def test_the_budget_of_its_symbol(name: str, detector_id: str) -> None:
    """No event of the class left for this minute."""
    packs = alone(name, detector_id)
    none = dict.fromkeys(packs.budgets.per_symbol_per_minute, 0)
    packs = replace(packs, budgets=packs.budgets.model_copy(update={"per_symbol_per_minute": none}))
    published = Way(packs).at(0, {**LOUD, **SCORES[detector_id][0]})
    assert (published.events, reasons(published)) == ((), ["budget_symbol"])


@every_detector
def test_the_budget_of_all(name: str, detector_id: str) -> None:
    """No event of anybody left for this minute."""
    packs = alone(name, detector_id)
    packs = replace(packs, budgets=packs.budgets.model_copy(update={"global_per_minute": 0}))
    published = Way(packs).at(0, {**LOUD, **SCORES[detector_id][0]})
    assert (published.events, reasons(published)) == ((), ["budget_global"])


@pytest.mark.parametrize("name", RELEASED)
def test_the_weaker_of_a_class_is_coalesced(name: str) -> None:
    """A strong up-move on strong volume: one event that names the other two."""
    strong = {**LOUD, "ret_m_1": 0.01, "z_spread_m_1": 0.0, "z_cvd_slope_m_5": 0.0}
    published = Way(RELEASED[name]).at(0, strong)
    (event,) = published.events
    assert reasons(published) == ["coalesced"] * 2
    assert (
        sorted(s.detector_id.partition(".")[2] for s in published.suppressed)
        == (event["coalesced"])
    )


@pytest.mark.parametrize("name", RELEASED)
def test_an_event_that_breaks_the_contract_is_a_dead_letter(name: str) -> None:
    """A symbol that is too long: accounted for, kept beside, never published."""
    strong = {**LOUD, **SCORES[VOL][0]}
    published = Way(alone(name, VOL)).at(0, strong, symbol="X" * 65)
    assert (published.events, reasons(published)) == ((), ["contract"])
    (dead,) = published.dead
    assert "X" * 60 in dead.reason
    assert len(Way(alone(name, VOL)).at(0, strong, symbol="X" * 64).events) == 1


def test_every_reason_is_met_here() -> None:
    """Those of the ledger are those of the tests above."""
    met = {reason for _, reason in GATES.values()} | HELD_BACK.keys()
    met |= {"disabled", "below_threshold", "cooldown", "coalesced", "contract"}
    assert met | {"budget_symbol", "budget_global"} == ledger.MEANINGS.keys()


# Each of these would refuse by itself; who is first is the reason, from the first to the last.
_ORDER: list[tuple[str, Callable[[Packs], Packs], Columns]] = [
    ("dq", lambda p: p, {"dq_status": "stale"}),
    ("warmup", lambda p: p, {"warmup": True}),
    ("illiquid", lambda p: p, {"illiquidity_hit": True}),
    ("not_member", lambda p: p, {"is_in_universe": False}),
    ("disabled", lambda p: changed(p, enabled=False), {}),
    ("below_threshold", lambda p: changed(p, publish_threshold=100.5), {}),
]


def changed(packs: Packs, **changes: Any) -> Packs:
    """Return packs with their only detector changed."""
    return replace(packs, detectors=(replace(packs.detectors[0], **changes),))


@pytest.mark.parametrize(("first", "second"), list(pairwise(range(len(_ORDER)))))
def test_the_first_reason_counts(first: int, second: int) -> None:
    """Quality, warm-up, liquidity, membership, what the pack allows, and strength at last."""
    packs, columns = alone("v0.2", VOL), {**LOUD}
    for k in (second, first):
        _, change, more = _ORDER[k]
        packs, columns = change(packs), {**columns, **more}
    assert [reason for reason, *_ in _ORDER] == list(ledger.MEANINGS)[: len(_ORDER)]
    assert reasons(Way(packs).at(0, columns)) == [_ORDER[first][0]]


# --- canaries ------------------------------------------------------------------------------------


def with_canary(coins: tuple[str, ...] = (), percent: int = 0) -> Packs:
    """Return a pack whose only detector is a canary."""
    packs = alone("v0.2", VOL, mode="canary")
    return replace(packs, canary=Canary(coins=coins, percent=percent))


@pytest.mark.parametrize(
    ("coins", "percent", "heard"),
    [(("ETH", "BTC"), 0, True), (("ETH",), 0, False), ((), 100, True), ((), 0, False)],
)
def test_a_canary_is_heard_where_the_pack_says(
    coins: tuple[str, ...], percent: int, heard: bool
) -> None:
    """For the coins it lists and for a share of all assets (build plan 19.2), else in shadow."""
    published = Way(with_canary(coins, percent)).at(0, LOUD)
    assert (len(published.events), len(published.shadow)) == ((1, 0) if heard else (0, 1))
    assert reasons(published) == []


def test_a_larger_share_keeps_the_assets_of_a_smaller_one() -> None:
    """A stable choice by id, about as many as it says."""
    previous: set[int] = set()
    for percent in (1, 5, 20, 50, 100):
        chosen = {u for u in range(1000) if is_canary(Canary(percent=percent), u, f"S{u}")}
        assert previous <= chosen
        assert abs(len(chosen) - 10 * percent) <= 50
        previous = chosen
    assert len(previous) == 1000


# --- tiers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize(
    ("tier", "z_vol", "heard"),
    [
        ("top", 3.19999999999, False),
        ("top", 3.2, True),
        ("mid", 2.99999999999, None),
        ("mid", 3.0, True),
        ("tail", 3.79999999999, False),
        ("tail", 3.8, True),
    ],
)
def test_a_tier_has_its_own_threshold(
    name: str, tier: str, z_vol: float, heard: bool | None
) -> None:
    """Appendix D.7: below its own it is a candidate, and suppressed; below all it is none."""
    packs = alone(name, VOL, publish_threshold=0.0)
    published = Way(packs).at(0, {"z_vol_m_1": z_vol}, tier=tier)
    expected = {True: (1, []), False: (0, ["below_threshold"]), None: (0, [])}[heard]
    assert (len(published.events), reasons(published)) == expected


def test_detection_lets_through_what_some_tier_may_hear(tmp_path: Path) -> None:
    """A tier with a lower threshold than the detector's own; the asset's tier decides later."""
    path = tmp_path / "tiers.yaml"
    path.write_text(
        "detector_pack: v0.9.0\n"
        "detectors:\n"
        "  - {id: spike.busy_m_1, threshold: 3.0, trigger: z_vol_m_1 >= threshold,\n"
        "     primary: z_vol_m_1, publish_threshold: 0}\n"
        "overrides: {tiers: {top: {spike: {threshold: 2.0}}}}\n"
    )
    packs = load_packs(detectors=path)
    outcome = {
        tier: reasons(Way(packs).at(0, {"z_vol_m_1": 2.0}, tier=tier))
        for tier in ("top", "mid", "tail")
    }
    assert outcome == {"top": [], "mid": ["below_threshold"], "tail": ["below_threshold"]}
    assert candidates(packs, {"z_vol_m_1": 1.99999999999}) == {}


@pytest.mark.parametrize("name", RELEASED)
def test_a_tier_has_its_own_budget(name: str) -> None:
    """Two spikes a minute in the tail, four elsewhere: seal, then amendments of other subtypes."""
    moves = (0.01, -0.01, 0.01, -0.01, 0.01)
    packs = replace(
        RELEASED[name],
        detectors=tuple(
            detector_of(name, f"spike.price_spike_{way}_m_1") for way in ("up", "down")
        ),
    )
    for tier, expected in (
        # the fourth is of the last published subtype, so it waits before it costs anything
        ("tail", ["event", "event", "budget_symbol", "cooldown", "budget_symbol"]),
        ("mid", ["event"] * 4 + ["budget_symbol"]),
        ("top", ["event"] * 4 + ["budget_symbol"]),
    ):
        step, state, outcome = Score(packs, "alpha-detector@test"), ScoreState(), []
        for ret in moves:
            item = found_on(packs, {"z_ret_abs_m_1": 9.0, "ret_m_1": ret})
            assert len(item.candidates[0]) == 1
            own = msgspec.structs.replace(
                item, rows=item.rows[:1], candidates=item.candidates[:1], tier=tier
            )
            (scored,) = step.step(state, own)
            outcome += [s.reason for s in scored.suppressed] or ["event"]
        assert outcome == expected


# --- the market ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RELEASED)
def test_the_market_is_heard_by_minutes_and_by_quarters(name: str) -> None:
    """A basket shock on the frame of a minute, rotation on that of a quarter hour."""
    shock, rotation = SCORES[SYNC][0], SCORES["rot.leader_cooling_followers_hot_m_15"][0]
    item = found_on(RELEASED[name], {**shock, **rotation})
    by_tf = {
        (row.asset_uid, row.tf): [c.detector_id for c in found]
        for row, found in zip(item.rows, item.candidates, strict=True)
    }
    assert by_tf == {
        (0, "1m"): [],
        (MARKET_UID, "1m"): [SYNC],
        (MARKET_UID, "15m"): ["rot.leader_cooling_followers_hot_m_15"],
    }


@pytest.mark.parametrize("name", RELEASED)
def test_a_null_on_the_frame_is_counted(name: str) -> None:
    """The first quarters know no step before them."""
    watch = Marketwide(RELEASED[name])
    unknown = {**FRAME, "leader_z_vol_before_2": None, "sector_margin": None}
    phase = Phase(T0, False, 1, T0 + 1500)
    assert watch.candidates(market_row(Frame("15m", T0, 0, unknown), phase)) == ()
    assert watch.nulls == {
        "rot.leader_cooling_followers_hot_m_15": 1,
        "rot.rs_flip_sector_m_15": 1,
    }


def test_without_sectors_a_detector_of_sectors_is_named_as_off() -> None:
    """The shipped policy names none; the pack says which detector that silences."""
    for packs in RELEASED.values():
        assert len(packs.notes) == 1
        assert packs.notes[0].startswith("rot.rs_flip_sector_m_15 is off")
