"""What each asset did lately: dollar volume, open interest, and how long it has been stale.

Rules of this file: a value belongs to the label of its minute; a minute without a row counts as no
volume, no open interest and not stale; the newest label again is an amendment and replaces. Sums
are added up from the oldest label to the newest each time, never carried on from minute to minute,
so that they depend on the window alone.  Build plan 6.4, 7.2, 7.6; design D5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from operators import native
from operators.lattice import MINUTE_MS
from operators.records import Row
from operators.scans import (
    medians_since,
    remember_minute,
    remember_minutes,
    sums_since,
)
from packs.schema import TIMEFRAME_MIN, UniversePolicy

VOLUME_MIN = max(TIMEFRAME_MIN.values())  # kept whatever l1_min is: dominance looks back one bar


class Past(msgspec.Struct, array_like=True):
    """One asset. newest_ms : label of its newest minute, which the lists end with, oldest first.

    volumes : quote currency, 0 for a minute without a row; at most max(l1_min, 60) of them.
    interests : quote currency, UNKNOWN where NULL or without a row; at most l2_min of them.
    stale_min : minutes in a row, up to the newest, that were stale. stale_before : the same up to
    the minute before the newest, for amendments.
    """

    newest_ms: int
    volumes: list[float]
    interests: list[float]
    stale_min: int = 0
    stale_before: int = 0


class Activity(msgspec.Struct):
    """The assets that had a row within the windows, by asset_uid."""

    version: int = 1
    past: dict[int, Past] = {}


def remember(
    state: Activity,
    uid: int,
    label_ms: int,
    volume: float | None,
    interest: float | None,
    policy: UniversePolicy,
    *,
    stale: bool = False,
) -> None:
    """Take an asset's minute, its newest or that one amended.

    volume : v_total_m_1, quote currency; NULL counts 0. interest : oi_close, quote currency; NULL
    is skipped by the median. stale : the row's verdict.
    """
    remember_minute(state.past, uid, label_ms, volume, interest, stale, Past, *_kept_min(policy))


def remember_all(state: Activity, rows: list[Row], policy: UniversePolicy) -> None:
    """Take the minutes of some rows, each its asset's newest or that one amended, as `remember`."""
    remember_minutes(state.past, rows, Past, *_kept_min(policy))


def _kept_min(policy: UniversePolicy) -> tuple[int, int]:
    """Return how many minutes of volume and of open interest are kept."""
    return max(policy.l1_min, VOLUME_MIN), policy.l2_min


def forget(state: Activity, label_ms: int, policy: UniversePolicy) -> None:
    """Drop the assets whose newest row is older than every window."""
    longest = max(policy.l1_min, policy.l2_min, VOLUME_MIN) * MINUTE_MS
    for uid in [u for u, past in state.past.items() if past.newest_ms <= label_ms - longest]:
        del state.past[uid]


def volume_since(state: Activity, uid: int, since_ms: int) -> float:
    """Return the dollar volume of an asset, as `volumes_since`."""
    return volumes_since(state, (uid,), since_ms)[uid]


def volumes_since(state: Activity, uids: Iterable[int], since_ms: int) -> dict[int, float]:
    """Return by asset the dollar volume of the minutes labelled after `since_ms`, 0 if there is
    none.

    Looks back max(l1_min, 60) minutes at most.
    """
    return sums_since(state.past, uids, since_ms)


def dollar_volumes(
    state: Activity, uids: Iterable[int], label_ms: int, policy: UniversePolicy
) -> dict[int, float]:
    """Return dv_L1 by asset: quote currency over the l1_min minutes up to a label (plan 7.2, D5).

    `v_total_m_1` is in quote currency already, so nothing is multiplied by a price.
    """
    return volumes_since(state, uids, label_ms - policy.l1_min * MINUTE_MS)


def open_interests(
    state: Activity, uids: Iterable[int], label_ms: int, policy: UniversePolicy
) -> dict[int, float | None]:
    """Return oi_L2 by asset: median of oi_close over the l2_min minutes up to a label (plan 7.2).

    Quote currency, over the minutes that know it; NULL (None) if none does. A hole in the feed
    shorter than l2_min therefore moves nobody's rank much.
    """
    since_ms = label_ms - policy.l2_min * MINUTE_MS
    return medians_since(state.past, uids, since_ms)


def dead(state: Activity, volumes: Mapping[int, float], policy: UniversePolicy) -> frozenset[int]:
    """Return the assets that were stale for t_stale_min minutes and hardly traded (plan 7.6).

    volumes : dv_L1 of the assets with a row in this minute, quote currency.
    """
    return frozenset(
        uid
        for uid, volume in volumes.items()
        if volume < policy.dead_quote and state.past[uid].stale_min >= policy.t_stale_min
    )


native.take_over("activity", globals())  # plain form only
