"""The liquidity tier of every asset: top and last decile by dollar volume, and those between.

Rules of this file: a decile is a tenth of the ranked assets, rounded down; a new asset has its
tier at once, later it changes after `tier_streak_min` minutes in a row in another one; who is not
ranked is forgotten.  Build plan 7.8, 19.5, Appendix D.7.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from operators import native
from operators.records import TierMove
from operators.universe import ranks
from packs.schema import DEFAULT_TIER, TierName, UniversePolicy

DECILES = 10


class Standing(msgspec.Struct, array_like=True):
    """An asset's tier, and the other one in which it has been for `streak` minutes in a row."""

    tier: TierName
    other: TierName
    streak: int = 0


class TierState(msgspec.Struct):
    """Standings by asset_uid, of the assets ranked in the newest minute."""

    version: int = 1
    standings: dict[int, Standing] = {}


def deciles(volumes: Mapping[int, float]) -> dict[int, TierName]:
    """Return the tier by the ranks of this minute alone; ties go to the lower asset_uid.

    volumes : dv_L1 of ALL ranked assets, members or not, quote currency. Below ten assets there is
    no decile and everybody is `mid`; 10 to 19 assets have one `top` and one `tail`, 500 have fifty.

    >>> sorted(deciles({uid: float(uid) for uid in range(10)}).items())[::9]
    [(0, 'tail'), (9, 'top')]
    """
    size = len(volumes) // DECILES
    last = len(volumes) - size
    return {
        uid: "top" if rank <= size else "tail" if rank > last else DEFAULT_TIER
        for uid, rank in ranks(volumes).items()
    }


def step_tiers(
    state: TierState, volumes: Mapping[int, float], policy: UniversePolicy
) -> tuple[TierMove, ...]:
    """Move all assets on by one minute; return the changes of tier, in asset order.

    volumes : as in `deciles`. First assignments are no changes. Minutes in two other tiers do not
    add up. Below ten assets all are `mid` at once: there is nothing left to be in.
    """
    patience = policy.tier_streak_min if len(volumes) >= DECILES else 1
    found = deciles(volumes)
    standings: dict[int, Standing] = {}
    moves = []
    for uid in sorted(found):
        now, known = found[uid], state.standings.get(uid)
        if known is None or now == known.tier:
            standings[uid] = Standing(now, now)
            continue
        streak = known.streak + 1 if now == known.other else 1
        if streak < patience:
            standings[uid] = Standing(known.tier, now, streak)
            continue
        standings[uid] = Standing(now, now)
        moves.append(TierMove(uid, known.tier, now))
    state.standings = standings
    return tuple(moves)


def tier_of(state: TierState, uid: int) -> TierName:
    """Return the tier of an asset, `mid` if it is not ranked."""
    standing = state.standings.get(uid)
    return DEFAULT_TIER if standing is None else standing.tier


native.take_over("tiers", globals())  # plain form only
