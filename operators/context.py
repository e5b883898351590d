"""Join all assets at each minute: the market frame, membership, and each row back to its asset.

Rules of this file: a phase is complete when every asset of its roster has sent its item, and phases
complete in order; members are visited in asset order; an amendment folds the frame again under the
next revision but never moves membership (design D13, D14).  Build plan 6, 7; design 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from operators import activity, native, rotation, scans, universe
from operators.context_state import (
    READ,
    ContextCodec,
    ContextState,
    Firing,
    Newest,
    all_in_doubt,
)
from operators.events import WINDOW_SEC
from operators.formulas.crosssection import dispersion, lead_index
from operators.formulas.elementary import round12
from operators.lattice import MINUTE_MS, seconds_to_next_hour
from operators.marketwide import Marketwide, market_row
from operators.modes import LIVE, lane_of
from operators.naming import Naming
from operators.records import (
    MARKET_UID,
    Audit,
    Candidate,
    Columns,
    Frame,
    MarketPhase,
    Phase,
    Row,
    RowItem,
    RowItems,
    ScoreItem,
    TierMove,
)
from operators.score import holds_in_tier, least_bars_of_a_mute, on_frames, quiet_ms, rate
from operators.tiers import step_tiers, tier_of
from operators.verdicts import DQ_OK, DQ_PARTIAL, DQ_STALE
from packs.loader import Detector, Packs
from packs.schema import MINUTE_TF, TIMEFRAMES

STEP_TF = "15m"  # of rotation
RS_LIST_LENGTH = 5
LEADER_EPSILON = 1e-9  # build plan 6.4: below this nobody leads and the first major stands in
LEADER_WINDOW_MIN = 5
SPIKE = "spike"
# What stands in for candidates when stored rows enter here (build plan 6.5).
SPIKE_FLAGS = (
    "is_vol_spike_m_1",
    "is_price_spike_up_m_1",
    "is_price_spike_down_m_1",
    "is_oi_spike_up_m_5",
    "is_oi_spike_down_m_5",
)

# A row and its candidates; None where rows entered without any.
Marked = tuple[Row, tuple[Candidate, ...] | None]


class Context:
    """`RowItem`s of all assets in; `MarketPhase`, then a `ScoreItem` of MARKET and of each asset
    with which scoring has something to do: it has candidates, or may be muted.

    What comes in is taken over: the rows that go out are those, with their membership written in.
    """

    def __init__(self, packs: Packs) -> None:
        self._packs = packs
        self._policy = packs.universe
        self._naming = Naming(packs.features)
        self._read: dict[str, tuple[str, ...]] = {
            tf: tuple([self._naming.stored(name, tf) for name in READ]) for tf in TIMEFRAMES
        }
        self._marketwide = Marketwide(packs)
        self._detectors: dict[str, Detector] = {d.detector_id: d for d in packs.detectors}
        self._quiet_ms: dict[str, dict[str, int]] = {
            tf: {name: quiet_ms(detector, tf) for name, detector in self._detectors.items()}
            for tf in TIMEFRAMES
        }
        self._least_bars = least_bars_of_a_mute(packs.scoring)
        self._all_are_scored = any(on_frames(packs).values())
        self._rules = _digest([self._least_bars, self._all_are_scored, self._quiet_ms])

    def initial(self) -> ContextState:
        """Return the state before the first minute."""
        return ContextState(rules=self._rules)

    def codec(self) -> ContextCodec:
        """Return how the state is stored."""
        return ContextCodec(self._read, [*self._detectors], self._least_bars, self._rules)

    def step(self, state: ContextState, came: RowItems) -> list[MarketPhase | ScoreItem]:
        """Take some assets' items of a phase; return the phases that are complete."""
        phase, outputs = came.phase, list[MarketPhase | ScoreItem]()
        by_asset = {item.asset_uid: item for item in came.items}
        assert len(by_asset) == len(came.items), f"an asset sent {phase} twice"
        for items in state.join.collect(phase, by_asset, expected=phase.n_assets):
            done = items[0].phase
            if done.final and not any(each.rows for each in items):
                outputs += _unchanged(done)
            else:
                outputs += self._complete(state, done, items)
        return outputs

    def _complete(
        self, state: ContextState, phase: Phase, items: list[RowItem]
    ) -> list[MarketPhase | ScoreItem]:
        if not phase.final:
            state.last, state.revisions, state.spiked, state.approx = {}, {}, {}, False
        marked = _marked(items)
        minutes = [row for row, _ in marked if row.tf == MINUTE_TF]
        if state.doubtful:
            self._doubt_unknown(state, minutes)
        activity.remember_all(state.activity, minutes, self._policy)
        rotation.observe_minutes(state.rotation, minutes)
        for row, _ in marked:
            if row.tf == STEP_TF:
                self._observe_step(state, row)
        volumes = {} if phase.final else self._volumes(state, phase, minutes)
        moved = () if phase.final else step_tiers(state.tiers, volumes, self._policy)
        spiked = state.spiked
        for row, candidates in marked:
            if row.tf == MINUTE_TF:
                uid = row.asset_uid
                spiked[uid] = candidates != () and self._is_spiked(state, row, candidates)
                state.approx = state.approx or candidates is None
        audit = Audit()
        if not phase.final:
            audit = self._move_membership(state, phase, marked, volumes, moved)
        members = universe.members(state.universe)
        self._give_membership(state, items, members)
        frames = tuple(
            [self._frame(state, tf, phase, members) for tf in sorted({row.tf for row, _ in marked})]
        )
        told = [item for item in items if self._is_scored(state, item)]
        share = msgspec.structs.replace(phase, n_assets=len(told))
        joined = [
            ScoreItem(
                share,
                item.asset_uid,
                item.rows,
                _found_on(item),
                frames,
                tier_of(state.tiers, item.asset_uid),
            )
            for item in told
        ]
        every = tuple([row for row, _ in marked])
        market = self._market_item(share, frames)
        return [MarketPhase(phase, frames, every, audit), market, *joined]

    def _doubt_unknown(self, state: ContextState, minutes: list[Row]) -> None:
        """Let every detector be one that may be muted where an asset begins, or comes back."""
        for row in minutes:
            if row.asset_uid not in state.activity.past:
                state.fired[row.asset_uid] = all_in_doubt(
                    [*self._detectors], row.exchange_ts_ms, self._least_bars
                )

    def _is_scored(self, state: ContextState, item: RowItem) -> bool:
        """Tell whether scoring has something to do with an asset's share of a phase.

        Without candidates it only ends the mutes of detectors that have fallen silent.
        """
        fires = any(item.candidates)
        fired = state.fired.get(item.asset_uid)
        if fired is None:
            if not fires:  # nearly every item
                return self._all_are_scored
            fired = state.fired[item.asset_uid] = {}
        may_be_muted = False
        for row, candidates in zip(item.rows, _found_on(item), strict=True):
            own = fired.setdefault(row.tf, {})
            may_be_muted = self._follow(own, row, candidates) or may_be_muted
            if not own:
                del fired[row.tf]
        if not fired:
            del state.fired[item.asset_uid]
        return fires or may_be_muted or self._all_are_scored

    def _follow(
        self, fired: dict[str, Firing], row: Row, candidates: tuple[Candidate, ...]
    ) -> bool:
        """Note what a row's candidates say of a timeframe's detectors; tell whether scoring may
        have muted one up to this row.

        A run of scoring is never longer than what is noted here, which also counts what the gates
        forbid; a run that is not muted ends without a word, whether scoring sees it or not.
        """
        label, quiet_ms = row.exchange_ts_ms, self._quiet_ms[row.tf]
        firing = dict.fromkeys(candidate.detector_id for candidate in candidates)
        may_be_muted = False
        for name, found in [*fired.items()]:
            loud = found.bars >= self._least_bars
            may_be_muted = may_be_muted or loud
            silent = label - found.last_ms > quiet_ms.get(name, -1)  # none: of another pack
            if silent and not (name in firing and loud):
                del fired[name]
        for name in firing:
            known = fired.get(name)
            if known is None:
                fired[name] = Firing(label)
            elif label > known.last_ms:
                known.last_ms, known.bars = label, known.bars + 1
        return may_be_muted

    def _market_item(self, phase: Phase, frames: tuple[Frame, ...]) -> ScoreItem:
        """Return the market's own rows with what its detectors find on them."""
        rows = tuple(market_row(frame, phase) for frame in frames)
        candidates = tuple(self._marketwide.candidates(row) for row in rows)
        return ScoreItem(phase, MARKET_UID, rows, candidates, frames)

    def _observe_step(self, state: ContextState, row: Row) -> None:
        """Close a quarter hour of relative strength."""
        z_vol = self._naming.read(row, "z_vol_m_1")
        known = z_vol if isinstance(z_vol, float) else None
        rotation.observe_step(state.rotation, row.asset_uid, row.exchange_ts_ms, known)

    # --- membership --------------------------------------------------------------------------

    def _volumes(self, state: ContextState, phase: Phase, minutes: list[Row]) -> dict[int, float]:
        """Return the dollar volume by asset that ranks and tiers go by."""
        uids = [row.asset_uid for row in minutes]
        return activity.dollar_volumes(state.activity, uids, phase.minute_ms, self._policy)

    def _move_membership(
        self,
        state: ContextState,
        phase: Phase,
        marked: list[Marked],
        volumes: dict[int, float],
        moved: tuple[TierMove, ...],
    ) -> Audit:
        """Universe, then heat, for the minute that is being closed."""
        label, policy = phase.minute_ms, self._policy
        interests = activity.open_interests(state.activity, volumes, label, policy)
        ranking = universe.composite_ranks(volumes, interests, policy)
        dead = activity.dead(state.activity, volumes, policy)
        change = universe.step_membership(state.universe, label, ranking, policy, dead)
        if change is not None:
            missing = tuple(
                uid
                for uid in universe.without_interest(interests)
                if universe.is_member(state.universe, uid) or uid in change.removed
            )
            change = msgspec.structs.replace(change, missing_oi=missing)
        activity.forget(state.activity, label, policy)
        cooled = universe.cool(state.universe, label)
        heated = universe.heat(state.universe, label, self._found(state, marked), policy)
        deferred = universe.newly_deferred(state.universe, label)
        return Audit(change, (*cooled, *heated), moved, deferred)

    def _found(self, state: ContextState, marked: list[Marked]) -> dict[int, tuple[int, str]]:
        """Return per asset the strongest candidate that makes it hot, without novelty."""
        shocks = self._shocks(state)
        found: dict[int, tuple[int, str]] = {}
        for row, candidates in marked:
            if not candidates:
                continue
            for candidate in candidates:
                if not self._is_heard(state, row, candidate):
                    continue
                detector = self._detectors[candidate.detector_id]
                scoring = self._packs.scoring
                severity = rate(scoring, detector, candidate, row, shocks, novelty=0.0).severity
                if universe.is_hot_enough(severity, detector.subtype, self._policy):
                    known = found.get(row.asset_uid, (-1, ""))
                    found[row.asset_uid] = max(known, (severity, detector.subtype))
        return found

    def _is_spiked(
        self, state: ContextState, row: Row, candidates: tuple[Candidate, ...] | None
    ) -> bool:
        """Tell whether an asset counts as shocked: by its candidates, else by its flags."""
        if candidates is None:
            return any(row.columns.get(name) is True for name in SPIKE_FLAGS)
        return any(
            self._detectors[candidate.detector_id].event_class == SPIKE
            for candidate in candidates
            if self._is_heard(state, row, candidate)
        )

    def _is_heard(self, state: ContextState, row: Row, candidate: Candidate) -> bool:
        """Tell whether a candidate passed the gates, its detector is live on the asset, and its
        trigger holds with the threshold of the asset's tier."""
        detector = self._detectors[candidate.detector_id]
        uid, canary = row.asset_uid, self._packs.canary
        if candidate.gate is not None or not detector.enabled:
            return False
        if lane_of(detector, canary, uid, row.symbol) != LIVE:
            return False
        return holds_in_tier(detector, row, tier_of(state.tiers, uid), self._naming)

    def _shocks(self, state: ContextState) -> int:
        """Count the covered assets with a spike-class candidate that passed the gates."""
        spiked = [uid for uid, is_spiked in state.spiked.items() if is_spiked]
        return len([uid for uid in spiked if universe.is_covered(state.universe, uid)])

    def _give_membership(
        self, state: ContextState, items: list[RowItem], members: frozenset[int]
    ) -> None:
        """Give each row its asset's membership, in its own columns: from here on it is the newest
        of its timeframe."""
        coverage = state.universe
        scans.give_membership(
            items, members, coverage.hot, coverage.revision, state.last, self._read, Newest
        )

    # --- the frame ---------------------------------------------------------------------------

    def _frame(self, state: ContextState, tf: str, phase: Phase, members: frozenset[int]) -> Frame:
        label, newest = phase.minute_ms, state.last[tf]
        rows = [newest[uid] for uid in sorted(newest)]
        inside = members.union(state.universe.hot)
        covered = [row for row in rows if row.asset_uid in inside]
        eligible = [row for row in covered if row.dq_status == DQ_OK]
        # In asset order, and sorting downwards leaves equal scores in their order.
        scores = [row.rs_score_m_5 for row in eligible]
        places = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        ranking = [eligible[place] for place in places]
        columns: Columns = {
            **self._leader(state, tf, eligible, ranking, rows),
            "shock_count_5s": self._shocks(state),
            "approx": state.approx,
            "rs_top": [row.symbol for row in ranking[:RS_LIST_LENGTH]],
            "rs_bottom": [row.symbol for row in ranking[: -RS_LIST_LENGTH - 1 : -1]],
            "return_dispersion_m_5": _dispersion([row.ret_m_5 for row in eligible]),
            "vol_dispersion_m_5": _dispersion([row.z_vol_m_1 for row in eligible]),
            "eligible_count": len(eligible),
            "excluded_count": len(covered) - len(eligible),
            "universe_size": len(members),
            "universe_rev": state.universe.revision,
            "time_to_next_funding_sec": seconds_to_next_hour(label),
        }
        columns |= dict.fromkeys(rotation.STEP_COLUMNS)
        if tf == STEP_TF:
            columns |= rotation.columns_of(
                state.rotation,
                label,
                columns["leader_uid"],
                [(row.asset_uid, row.symbol) for row in eligible],
                self._policy.sectors,
            )
            rotation.forget(state.rotation, label - rotation.STEPS * rotation.STEP_MS)
        columns |= _frame_quality(len(eligible), self._policy.min_assets_for_context)
        revision = state.revisions.get(tf, -1) + 1
        state.revisions[tf] = revision
        spread = _dispersion(scores)
        extras = {} if spread is None else {"rs_dispersion_m_5": spread}
        return Frame(tf, label, revision, columns, extras)

    def _leader(
        self,
        state: ContextState,
        tf: str,
        eligible: list[Newest],
        ranking: list[Newest],
        rows: list[Newest],
    ) -> Columns:
        """Return the asset whose flow leads and its share of the dollar volume (plan 6.4)."""
        decile = ranking[: -(-len(ranking) // 10)]
        named = {row.asset_uid for row in decile}
        majors = self._policy.majors
        pool = [row for row in eligible if row.symbol in majors or row.asset_uid in named]
        best, best_lead = None, LEADER_EPSILON
        for row in pool:
            lead = _lead(row)
            if lead == best_lead:
                best = None  # a tie: nobody leads (plan 6.4)
            elif lead > best_lead:
                best, best_lead = row, lead
        if best is None:
            by_symbol = {row.symbol: row for row in rows}
            best = next((by_symbol[name] for name in majors if name in by_symbol), None)
        if best is None:
            names = ("leader", "leader_uid", "dominance_share", "leader_z_vol")
            return dict.fromkeys(names)
        return {
            "leader": best.symbol,
            "leader_uid": best.asset_uid,
            "dominance_share": self._dominance(state, tf, best, eligible),
            "leader_z_vol": best.z_vol_m_1,
        }

    def _dominance(
        self, state: ContextState, tf: str, leader: Newest, eligible: list[Newest]
    ) -> float | None:
        window_ms = max(LEADER_WINDOW_MIN * MINUTE_MS, 1000 * WINDOW_SEC[tf])
        since = leader.exchange_ts_ms - window_ms
        shares = activity.volumes_since(state.activity, [r.asset_uid for r in eligible], since)
        total = scans.total(list(shares.values()), 0)
        if leader.asset_uid not in shares or total <= 0.0:
            return None
        return round12(shares[leader.asset_uid] / total)


# --- helpers -------------------------------------------------------------------------------------


def _digest(rules: object) -> str:
    """Return a short digest of what is plain data."""
    return blake2b(msgspec.json.encode(rules, order="sorted"), digest_size=8).hexdigest()


def _marked(items: list[RowItem]) -> list[Marked]:
    """Return the rows of some items, each with its candidates."""
    marked: list[Marked] = []
    for item in items:
        rows, candidates = item.rows, item.candidates
        if len(rows) == 1 and candidates:  # nearly every item
            marked.append((rows[0], candidates[0]))
        elif candidates:
            marked += zip(rows, candidates, strict=True)
        else:
            marked += [(row, None) for row in rows]
    return marked


def _found_on(item: RowItem) -> tuple[tuple[Candidate, ...], ...]:
    """Return the candidates of each row, none where rows entered without."""
    return item.candidates or ((),) * len(item.rows)


def _dispersion(values: Iterable[float | None]) -> float | None:
    """Return the dispersion of those values that are known."""
    value = dispersion([value for value in values if value is not None])
    return None if value is None else round12(value)


def _lead(row: Newest) -> float:
    if row.ret_m_5 is None or row.z_vol_m_1 is None:
        return 0.0
    return lead_index(row.ret_m_5, row.z_vol_m_1, row.oi_roc_m_5)


def _unchanged(phase: Phase) -> list[MarketPhase | ScoreItem]:
    """Pass on a final phase in which nobody has a row: there is nothing to score on an asset."""
    alone = msgspec.structs.replace(phase, n_assets=0)
    return [MarketPhase(phase, (), ()), ScoreItem(alone, MARKET_UID, (), (), ())]


def _frame_quality(eligible: int, wanted: int) -> Columns:
    if eligible == 0:
        return {"dq_status": DQ_STALE, "dq_reasons": ["no_eligible_asset"]}
    if eligible < wanted:
        return {"dq_status": DQ_PARTIAL, "dq_reasons": ["few_eligible_assets"]}
    return {"dq_status": DQ_OK, "dq_reasons": []}


native.take_over("context", globals())  # plain form only
