"""Which assets are listened to: ranked membership with hysteresis, and the hotlist over it.

Rules of this file: membership changes once a minute, at the seal (design D14). An asset enters
after `k_entry` minutes in a row inside the entry band and leaves after `k_exit` minutes in a row
beyond the exit band; after any change nothing ordinary moves for `freeze_min`, a member stays at
least `min_dwell_min`, and an hour has at most `churn_per_hour_max` changes. Only the delisted and
the dead leave in spite of all that. The hotlist bypasses it for its time to live.  Build plan 7,
Appendix D.8; design 3, D5, D14.

What the words mean here:

* Streaks count ranks, not decisions: they go on while membership is frozen, while a member dwells
  and while the hour is full, and end with the first minute outside the band. Freeze, dwell and cap
  say only when the decision may be carried out.
* An hour is a clock hour of labels; the label on the full hour belongs to the hour it opens, so it
  is the boundary at which what was put off is done.
* Entries and exits count as changes; so do hard exits and delistings, but these are never put off.
  The first fill does not count, nor do entries until there have been n_entry members once: a run
  that begins with two assets is not held up for hours when it learns of the others. When the hour
  is full, ordinary exits wait as entries do: "no more than C changes per hour" (7.6) would not hold
  otherwise, and members would leave without being replaced for up to an hour. Within what is left
  of an hour exits go first, worst rank first, for it is the entries that the plan puts off; then
  entries, best rank first. So nobody enters in a minute in which somebody must wait to leave, and
  the cap never trades a member for a larger size.
* Between the bands nobody moves, so the size is not n_base: at rest it lies between n_entry and
  n_exit (or is the number of assets, if there are fewer). An entry that takes it above n_base is
  made up for when somebody falls beyond the exit band.
* With at most n_entry assets everybody is in the entry band: all are members, a new one after
  k_entry minutes, and only the delisted and the dead leave.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from operators import native
from operators.formulas.elementary import round12
from operators.lattice import HOUR_MS, MINUTE_MS
from operators.records import Change, HotMove
from packs.schema import UniversePolicy

ENTRY = "entry"
EXIT = "exit"
DELISTED = "delisted"
HARD_EXIT = "hard_exit"

HOT_ADDED = "added"
HOT_PROLONGED = "prolonged"
HOT_EXPIRED = "expired"


class Member(msgspec.Struct):
    """An asset's standing: since when it is in (0 = out), and its streaks in minutes.

    entry_streak : of one that is out; exit_streak : of a member.
    """

    since_ms: int = 0
    entry_streak: int = 0
    exit_streak: int = 0


class Hot(msgspec.Struct, frozen=True):
    """A hotlist entry; `reason` is the subtype that set its end."""

    reason: str
    started_ms: int
    expires_ms: int


class UniverseState(msgspec.Struct):
    """Membership, its revision, and the hotlist, by asset_uid.

    members : ascending; members and those in the entry band, so at most n_entry that are out.
    hot : at most the assets tracked within the longest time to live.
    filling : there have never been n_entry members. hour : clock hour of the newest minute.
    churn : changes in it that count.
    deferred : assets whose move the cap puts off, with the label since when. deferrals : how many
    moves it has put off in all, each counted once.
    """

    version: int = 1
    revision: int = 0
    changed_ms: int = 0
    members: dict[int, Member] = {}
    hot: dict[int, Hot] = {}
    filling: bool = True
    hour: int = 0
    churn: int = 0
    deferred: dict[int, int] = {}
    deferrals: int = 0


# --- ranks ---------------------------------------------------------------------------------------


def ranks(values: Mapping[int, float]) -> dict[int, int]:
    """Return 1 for the largest value; ties go to the lower asset_uid.

    >>> ranks({7: 1.0, 3: 5.0, 9: 5.0})
    {3: 1, 9: 2, 7: 3}
    """
    # Sorting downwards leaves equal values in their order, that of the ids.
    ordered = sorted(sorted(values), key=values.__getitem__, reverse=True)
    return dict(zip(ordered, range(1, len(ordered) + 1), strict=True))


def composite_ranks(
    volumes: Mapping[int, float], interests: Mapping[int, float | None], policy: UniversePolicy
) -> dict[int, int]:
    """Rank assets by U, the weighted ranks of volume and open interest (build plan 7.2).

    volumes : dv_L1, quote currency, of every asset. interests : oi_L2, quote currency; NULL or
    absent where there is none. Ties of U go to the lower asset_uid.

    Volume is ranked among all, open interest among those that have any: U = wv * rank(dv_L1) +
    wo * rank(oi_L2). Who has none is ranked by volume alone, with the sum of the weights, which is
    1 (the plan's wv = 1, wo = 0). Ranks are places, so U is a place too, in a list of 3 as of 500:
    it lies between the two. Where all have open interest, or none, there is nothing to compare.
    Where some have, being k-th among them is taken as being k-th of all, as if the others had an
    open interest of zero. For spot beside perps that is so; for a perp whose feed was silent for
    all of l2_min it moves those behind it up by one. It favours an asset with open interest when
    few have any: with nobody beside it, it passes those up to wo times its volume rank ahead,
    nobody among 3 assets, from place 32 to 23 among 500.
    """
    weights = policy.weights
    by_volume = ranks(volumes)
    by_interest = ranks({uid: oi for uid in volumes if (oi := interests.get(uid)) is not None})
    wv, wo = weights.wv, weights.wo
    scores = {}
    for uid, by_dollars in by_volume.items():
        by_position = by_interest.get(uid, by_dollars)
        # rounded, so that sums that are equal in decimals are ties
        scores[uid] = round12(wv * by_dollars + wo * by_position)
    ordered = sorted(sorted(scores), key=scores.__getitem__)
    return dict(zip(ordered, range(1, len(ordered) + 1), strict=True))


def without_interest(interests: Mapping[int, float | None]) -> tuple[int, ...]:
    """Return the assets that are ranked by volume alone, ascending: `missing_oi` of the audit.

    >>> without_interest({7: None, 3: 0.0, 5: None})
    (5, 7)
    """
    return tuple(sorted(uid for uid, interest in interests.items() if interest is None))


# --- membership ----------------------------------------------------------------------------------


def step_membership(
    state: UniverseState,
    label_ms: int,
    rank_of: Mapping[int, int],
    policy: UniversePolicy,
    dead: frozenset[int] = frozenset(),
) -> Change | None:
    """Move the membership on by one minute; return the change, None if there is none.

    rank_of : from 1, of every asset of the roster; a member that is not in it is delisted.
    dead : assets that leave at once and do not enter (build plan 7.6).
    The first minute with an asset that is not dead fills the universe with the best n_base.
    """
    _count_streaks(state, rank_of, policy, dead)
    if state.revision == 0:
        first = [u for u, rank in rank_of.items() if rank <= policy.n_base and u not in dead]
        state.filling = len(first) < policy.entry_band.n_entry
        return _apply(state, label_ms, dict.fromkeys(first, ENTRY)) if first else None
    if state.hour != label_ms // HOUR_MS:
        state.hour, state.churn = label_ms // HOUR_MS, 0
    forced = _forced(state, rank_of, dead)
    due = _due(state, label_ms, rank_of, policy, forced)
    free = {uid: move for uid, move in due.items() if state.filling and move == ENTRY}
    capped = [uid for uid in due if uid not in free]
    frozen = label_ms - state.changed_ms < policy.freeze_min * MINUTE_MS
    left = max(0, policy.churn_per_hour_max - state.churn - len(forced))
    _defer(state, label_ms, capped[left:], frozen=frozen)
    moves = forced if frozen else forced | {uid: due[uid] for uid in capped[:left]} | free
    state.churn += len([uid for uid in moves if uid not in free])
    change = _apply(state, label_ms, moves) if moves else None
    state.filling = state.filling and size(state) < policy.entry_band.n_entry
    return change


def _count_streaks(
    state: UniverseState, rank_of: Mapping[int, int], policy: UniversePolicy, dead: frozenset[int]
) -> None:
    """Count this minute; who is neither a member nor in the entry band is forgotten."""
    counted: dict[int, Member] = {}
    n_entry, n_exit, members = policy.entry_band.n_entry, policy.exit_band.n_exit, state.members
    for uid in sorted({**members, **rank_of}):
        known, rank = members.get(uid), rank_of.get(uid)
        if known is not None and known.since_ms:
            outside = rank is not None and rank > n_exit
            if outside or known.exit_streak:
                streak = known.exit_streak + 1 if outside else 0
                known = Member(since_ms=known.since_ms, exit_streak=streak)
            counted[uid] = known
        elif rank is not None and rank <= n_entry and uid not in dead:
            streak = 0 if known is None else known.entry_streak
            counted[uid] = Member(entry_streak=streak + 1)
    state.members = counted


def _forced(
    state: UniverseState, rank_of: Mapping[int, int], dead: frozenset[int]
) -> dict[int, str]:
    """Return the members that leave at once, with the reason."""
    return {
        uid: HARD_EXIT if uid in rank_of else DELISTED
        for uid, member in state.members.items()
        if member.since_ms and (uid not in rank_of or uid in dead)
    }


def _due(
    state: UniverseState,
    label_ms: int,
    rank_of: Mapping[int, int],
    policy: UniversePolicy,
    forced: Mapping[int, str],
) -> dict[int, str]:
    """Return the ordinary moves that streak and dwell allow, the most urgent first."""
    exits, entries = [], []
    for uid, member in state.members.items():
        if not member.since_ms:
            if member.entry_streak >= policy.entry_band.k_entry:
                entries.append(uid)
        elif uid not in forced:
            dwelt = label_ms - member.since_ms >= policy.min_dwell_min * MINUTE_MS
            if dwelt and member.exit_streak >= policy.exit_band.k_exit:
                exits.append(uid)
    exits.sort(key=lambda uid: -rank_of[uid])
    entries.sort(key=lambda uid: rank_of[uid])
    return dict.fromkeys(exits, EXIT) | dict.fromkeys(entries, ENTRY)


def _defer(state: UniverseState, label_ms: int, over: list[int], *, frozen: bool) -> None:
    """Keep account of the moves that the cap puts off.

    While membership is frozen no move comes up: who waits for the hour goes on doing so.
    """
    since = state.deferred
    state.deferred = {
        uid: since.get(uid, label_ms) for uid in sorted(over) if uid in since or not frozen
    }
    for uid in state.deferred:
        state.deferrals += uid not in since


def _apply(state: UniverseState, label_ms: int, moves: Mapping[int, str]) -> Change:
    """Carry out moves, under the next revision; reasons by asset."""
    added = tuple(sorted(uid for uid, reason in moves.items() if reason == ENTRY))
    removed = tuple(sorted(uid for uid, reason in moves.items() if reason != ENTRY))
    members = {uid: member for uid, member in state.members.items() if uid not in moves}
    members |= {uid: Member(since_ms=label_ms) for uid in added}
    state.members = {uid: members[uid] for uid in sorted(members)}
    state.revision += 1
    state.changed_ms = label_ms
    reasons = {str(uid): moves[uid] for uid in sorted(moves)}
    return Change(state.revision, label_ms, added, removed, reasons)


def newly_deferred(state: UniverseState, label_ms: int) -> tuple[int, ...]:
    """Return the assets whose move the cap began to put off in this minute, for the audit."""
    return tuple(uid for uid, since_ms in state.deferred.items() if since_ms == label_ms)


# --- the hotlist ---------------------------------------------------------------------------------


def cool(state: UniverseState, label_ms: int) -> tuple[HotMove, ...]:
    """Drop the hotlist entries whose time has run out; return them, in asset order.

    An entry is hot up to the last label before its end, not on the end itself.
    """
    over = sorted(uid for uid, hot in state.hot.items() if hot.expires_ms <= label_ms)
    return tuple(_hot_move(label_ms, uid, HOT_EXPIRED, state.hot.pop(uid)) for uid in over)


def heat(
    state: UniverseState,
    label_ms: int,
    found: Mapping[int, tuple[int, str]],
    policy: UniversePolicy,
) -> tuple[HotMove, ...]:
    """Add or prolong those found hot in this minute; `cool` comes first. Return what changed.

    found : (severity without novelty, subtype) of an asset's strongest gated candidate. It is hot
    from this minute on (design 3) if severity or subtype qualifies, for ttl_base_min +
    ttl_k_min_per_point * severity minutes (Appendix D.8: 36 at 70, 42 at 90). An end is never
    brought forward: what would end earlier than the entry changes nothing.
    """
    moves = []
    for uid, (severity, subtype) in sorted(found.items()):
        if not is_hot_enough(severity, subtype, policy):
            continue
        known = state.hot.get(uid)
        expires_ms = label_ms + _ttl_ms(severity, policy)
        if expires_ms <= (known.expires_ms if known else label_ms):
            continue
        state.hot[uid] = Hot(subtype, known.started_ms if known else label_ms, expires_ms)
        move = HOT_PROLONGED if known else HOT_ADDED
        moves.append(_hot_move(label_ms, uid, move, state.hot[uid]))
    return tuple(moves)


def _ttl_ms(severity: int, policy: UniversePolicy) -> int:
    hotlist = policy.hotlist
    minutes = hotlist.ttl_base_min + hotlist.ttl_k_min_per_point * severity
    return round(minutes * MINUTE_MS)


def _hot_move(label_ms: int, uid: int, move: str, hot: Hot) -> HotMove:
    return HotMove(label_ms, uid, move, hot.reason, hot.started_ms, hot.expires_ms)


def is_hot_enough(severity: int, subtype: str, policy: UniversePolicy) -> bool:
    """Tell whether a candidate of this severity and subtype makes its asset hot (plan 7.4)."""
    return severity >= policy.hotlist.s_hot or subtype in policy.hotlist.subtypes


# --- what others ask -----------------------------------------------------------------------------


def is_covered(state: UniverseState, uid: int) -> bool:
    """Tell whether an asset is listened to: a member, or hot (plan 7.5)."""
    return uid in state.hot or is_member(state, uid)


def members(state: UniverseState) -> frozenset[int]:
    """Return the members of the universe."""
    return frozenset([uid for uid, member in state.members.items() if member.since_ms])


def is_member(state: UniverseState, uid: int) -> bool:
    """Tell whether an asset is a member of the universe."""
    member = state.members.get(uid)
    return member is not None and member.since_ms > 0


def size(state: UniverseState) -> int:
    """Return how many assets are members."""
    return len(members(state))


native.take_over("universe", globals())  # plain form only
