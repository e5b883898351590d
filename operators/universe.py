"""Which assets are listened to: ranked membership with hysteresis, and the hotlist over it.

Rules of this file: membership changes once a minute, at the seal (design D14); an asset enters
after `k_entry` minutes inside the entry band and leaves after `k_exit` minutes outside the exit
band; after a change nothing moves for `freeze_min`, and a member stays at least `min_dwell_min`;
the hotlist bypasses all of it for its time to live.  Build plan 7, design 3, D5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from operators.lattice import MINUTE_MS
from operators.records import Change
from packs.schema import UniversePolicy

DELISTED = "delisted"
HARD_EXIT = "hard_exit"
AT_ONCE = (DELISTED, HARD_EXIT)


class Member(msgspec.Struct):
    """An asset's standing: since when it is in (0 = out), and its streaks in minutes."""

    since_ms: int = 0
    entry_streak: int = 0
    exit_streak: int = 0


class Hot(msgspec.Struct, frozen=True):
    """A hotlist entry."""

    reason: str
    started_ms: int
    expires_ms: int


class UniverseState(msgspec.Struct):
    """Membership, its revision, and the hotlist, by asset_uid."""

    version: int = 1
    revision: int = 0
    changed_ms: int = 0
    members: dict[int, Member] = {}
    hot: dict[int, Hot] = {}


def ranks(values: Mapping[int, float]) -> dict[int, int]:
    """Return 1 for the largest value; ties go to the lower asset_uid.

    >>> ranks({7: 1.0, 3: 5.0, 9: 5.0})
    {3: 1, 9: 2, 7: 3}
    """
    ordered = sorted(values, key=lambda uid: (-values[uid], uid))
    return {uid: position for position, uid in enumerate(ordered, start=1)}


def composite_ranks(
    volumes: Mapping[int, float], interests: Mapping[int, float | None], policy: UniversePolicy
) -> dict[int, int]:
    """Rank assets by the weighted ranks of volume and open interest (build plan 7.2).

    volumes, interests : quote currency by asset_uid; an asset without open interest is ranked by
    volume alone.
    """
    by_volume = ranks(volumes)
    by_interest = ranks({uid: oi for uid, oi in interests.items() if oi is not None})
    scores = {}
    for uid in volumes:
        if uid in by_interest:
            scores[uid] = policy.weights.wv * by_volume[uid] + policy.weights.wo * by_interest[uid]
        else:
            scores[uid] = float(by_volume[uid])
    ordered = sorted(scores, key=lambda uid: (scores[uid], uid))
    return {uid: position for position, uid in enumerate(ordered, start=1)}


def step_membership(
    state: UniverseState,
    label_ms: int,
    rank_of: Mapping[int, int],
    policy: UniversePolicy,
    dead: frozenset[int] = frozenset(),
) -> Change | None:
    """Move the membership on by one minute; return the change, None if there is none.

    dead : members to drop at once, in spite of freeze and dwell (build plan 7.6).
    """
    for uid in rank_of:
        state.members.setdefault(uid, Member())
    for uid, member in state.members.items():
        if uid not in rank_of:  # absent: a streak is of minutes in a row
            member.entry_streak = 0
    added, reasons = _entries(state, rank_of, policy, dead)
    removed = _exits(state, label_ms, rank_of, policy, dead, reasons)
    frozen = label_ms - state.changed_ms < policy.freeze_min * MINUTE_MS
    if state.revision > 0 and frozen:
        added, removed = [], [uid for uid in removed if reasons[uid] in AT_ONCE]
    if not added and not removed:
        return None
    for uid in added:
        state.members[uid] = Member(since_ms=label_ms)
    for uid in removed:
        state.members[uid] = Member()
    state.revision += 1
    state.changed_ms = label_ms
    changed = {str(uid): reasons[uid] for uid in sorted((*added, *removed))}
    return Change(state.revision, label_ms, tuple(added), tuple(removed), changed)


def _entries(
    state: UniverseState,
    rank_of: Mapping[int, int],
    policy: UniversePolicy,
    dead: frozenset[int],
) -> tuple[list[int], dict[int, str]]:
    """Count entry streaks; the very first membership is filled at once."""
    reasons: dict[int, str] = {}
    first = state.revision == 0
    band = policy.n_base if first else policy.entry_band.n_entry
    streak = 1 if first else policy.entry_band.k_entry
    added = []
    for uid in sorted(rank_of):
        member = state.members[uid]
        member.entry_streak = member.entry_streak + 1 if rank_of[uid] <= band else 0
        if uid in dead:
            member.entry_streak = 0
        if not member.since_ms and member.entry_streak >= streak:
            added.append(uid)
            reasons[uid] = "entry"
    return added, reasons


def _exits(
    state: UniverseState,
    label_ms: int,
    rank_of: Mapping[int, int],
    policy: UniversePolicy,
    dead: frozenset[int],
    reasons: dict[int, str],
) -> list[int]:
    removed = []
    for uid in sorted(state.members):
        member = state.members[uid]
        if not member.since_ms:
            continue
        if uid not in rank_of:
            removed.append(uid)
            reasons[uid] = DELISTED
            continue
        if uid in dead:
            removed.append(uid)
            reasons[uid] = HARD_EXIT
            continue
        outside = rank_of[uid] > policy.exit_band.n_exit
        member.exit_streak = member.exit_streak + 1 if outside else 0
        dwelt = label_ms - member.since_ms >= policy.min_dwell_min * MINUTE_MS
        if dwelt and member.exit_streak >= policy.exit_band.k_exit:
            removed.append(uid)
            reasons[uid] = "exit"
    return removed


def cool(state: UniverseState, label_ms: int) -> None:
    """Drop the hotlist entries whose time has run out."""
    for uid in [uid for uid, hot in state.hot.items() if hot.expires_ms <= label_ms]:
        del state.hot[uid]


def heat(
    state: UniverseState,
    label_ms: int,
    found: Mapping[int, tuple[int, str]],
    policy: UniversePolicy,
) -> None:
    """Add or prolong those found hot in this minute; `cool` comes first.

    found : (severity without novelty, subtype) of an asset's strongest gated candidate. It is hot
    from this minute on (design 3) if severity or subtype qualifies; ttl = base + k * severity.
    """
    hotlist = policy.hotlist
    for uid, (severity, subtype) in sorted(found.items()):
        if not is_hot_enough(severity, subtype, policy):
            continue
        ttl_ms = int((hotlist.ttl_base_min + hotlist.ttl_k_min_per_point * severity) * MINUTE_MS)
        known = state.hot.get(uid)
        started = known.started_ms if known else label_ms
        expires = max(label_ms + ttl_ms, known.expires_ms if known else 0)
        state.hot[uid] = Hot(subtype, started, expires)


def is_hot_enough(severity: int, subtype: str, policy: UniversePolicy) -> bool:
    """Tell whether a candidate of this severity and subtype makes its asset hot (plan 7.4)."""
    return severity >= policy.hotlist.s_hot or subtype in policy.hotlist.subtypes


def is_covered(state: UniverseState, uid: int) -> bool:
    """Tell whether an asset is listened to: a member, or hot (plan 7.5)."""
    return uid in state.hot or _is_member(state, uid)


def _is_member(state: UniverseState, uid: int) -> bool:
    member = state.members.get(uid)
    return member is not None and member.since_ms > 0


def membership(state: UniverseState, uid: int) -> dict[str, Any]:
    """Return the membership columns of an asset."""
    return {
        "is_in_universe": _is_member(state, uid),
        "is_hot": uid in state.hot,
        "universe_rev": state.revision,
    }


def size(state: UniverseState) -> int:
    """Return how many assets are members."""
    count = 0
    for member in state.members.values():
        count += 1 if member.since_ms else 0
    return count
