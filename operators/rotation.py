"""Who gains strength and who loses it from quarter hour to quarter hour.

Rules of this file: a step is a 15m label; what a step says of an asset is fixed when its 15m row
comes; the leader, its followers and the sectors are compared over the same assets at every step, so
that a change of membership is no move of strength; NULL is None.  Build plan 9.7; numerics 10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum

import msgspec

from operators import native
from operators.formulas.elementary import mean, median, round12
from operators.lattice import MINUTE_MS
from operators.records import Columns, Row
from operators.scans import remember_strengths

STEP_MS = 15 * MINUTE_MS
STEPS = 3  # this one and the two before it
BARS_MIN = 11  # known minutes of a step, as many as the rollup of a 15m row asks for
STEP_COLUMNS = (
    "leader_z_vol_before_1",
    "leader_z_vol_before_2",
    "followers_rs",
    "followers_rs_before_1",
    "followers_rs_before_2",
    "sector_leader",
    "sector_margin",
    "sector_former",
    "sector_former_rank",
)


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One asset over one quarter hour. rs : mean of rs_score_m_5. z_vol : sigma, of the 15m row."""

    label_ms: int
    rs: float | None
    z_vol: float | None


class Strength(msgspec.Struct, array_like=True):
    """One asset's relative strength. Bound: minutes of one quarter, STEPS steps, oldest first."""

    labels: list[int] = []
    scores: list[float] = []
    steps: list[Step] = []


class RotationState(msgspec.Struct):
    """Strength by asset, and the sector that led at the last step."""

    assets: dict[int, Strength] = {}
    sector_ms: int = 0
    sector_leader: str | None = None


def observe_minutes(state: RotationState, rows: list[Row]) -> None:
    """Take the relative strength of the minutes that are ok; a label again replaces."""
    remember_strengths(state.assets, rows, Strength, STEP_MS)


def observe_step(state: RotationState, uid: int, label_ms: int, z_vol: float | None) -> None:
    """Close an asset's quarter hour, when its 15m row comes."""
    known = state.assets.setdefault(uid, Strength())
    since = label_ms - STEP_MS
    scores = [
        score
        for label, score in zip(known.labels, known.scores, strict=True)
        if since < label <= label_ms
    ]
    rs = mean(scores) if len(scores) >= BARS_MIN else None
    known.steps = [*known.steps[-(STEPS - 1) :], Step(label_ms, rs, z_vol)]


def forget(state: RotationState, before_ms: int) -> None:
    """Drop the assets whose last step is older."""
    for uid in [u for u, s in state.assets.items() if s.steps and s.steps[-1].label_ms < before_ms]:
        del state.assets[uid]


def columns_of(
    state: RotationState,
    label_ms: int,
    leader_uid: int | None,
    covered: Sequence[tuple[int, str]],
    sectors: Mapping[str, Sequence[str]],
) -> Columns:
    """Return the step columns of a 15m frame, and remember the leading sector.

    leader_uid : of this step's. covered : (asset_uid, symbol) of the assets that count, ascending.
    sectors : symbols by name.

    leader_z_vol_before_k : volume of this step's leader, sigma, k steps ago.
    followers_rs, .._before_k : median over all the others that are known at all three steps.
    sector_leader : name of the strongest sector by the mean strength of its members.
    sector_margin : its lead over the second. sector_former : the one that led a step ago;
    sector_former_rank : where that one is now, from 1. NULL where a step is missing.
    """
    columns: Columns = dict.fromkeys(STEP_COLUMNS)
    labels = [label_ms - back * STEP_MS for back in range(STEPS)]
    if leader_uid is not None:
        others = [_scores(state, uid, labels) for uid, _ in covered if uid != leader_uid]
        known = [scores for scores in others if scores is not None]
        for back, label in enumerate(labels):
            name = f"_before_{back}" if back else ""
            step = _step(state, leader_uid, label)
            if back:
                columns[f"leader_z_vol{name}"] = None if step is None else step.z_vol
            if known:
                columns[f"followers_rs{name}"] = round12(median([each[back] for each in known]))
    columns |= _sector_columns(state, label_ms, covered, sectors)
    return columns


def _sector_columns(
    state: RotationState,
    label_ms: int,
    covered: Sequence[tuple[int, str]],
    sectors: Mapping[str, Sequence[str]],
) -> Columns:
    sector_of = {coin: name for name in sorted(sectors) for coin in sectors[name]}
    members: dict[str, list[float]] = {}
    for uid, symbol in covered:
        step = _step(state, uid, label_ms)
        if symbol in sector_of and step is not None and step.rs is not None:
            members.setdefault(sector_of[symbol], []).append(step.rs)
    means = {name: fsum(scores) / len(scores) for name, scores in members.items()}
    ranking = sorted(means, key=lambda name: (-means[name], name))
    former = state.sector_leader if state.sector_ms == label_ms - STEP_MS else None
    columns: Columns = {"sector_former": former}
    if ranking:
        columns["sector_leader"] = ranking[0]
    if len(ranking) > 1:
        columns["sector_margin"] = round12(means[ranking[0]] - means[ranking[1]])
    if former in means:
        columns["sector_former_rank"] = ranking.index(former) + 1
    state.sector_ms, state.sector_leader = label_ms, columns.get("sector_leader")
    return columns


def _step(state: RotationState, uid: int, label_ms: int) -> Step | None:
    known = state.assets.get(uid)
    steps = known.steps if known is not None else ()
    return next((step for step in steps if step.label_ms == label_ms), None)


def _scores(state: RotationState, uid: int, labels: Sequence[int]) -> list[float] | None:
    """Return an asset's strength at each label, None unless all are known."""
    steps = [_step(state, uid, label) for label in labels]
    scores = [step.rs for step in steps if step is not None and step.rs is not None]
    return scores if len(scores) == len(labels) else None


native.take_over("rotation", globals())  # plain form only
