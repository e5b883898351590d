"""Whatever the market does, membership keeps its rules, and the audit tells all of it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from operators import activity, universe
from operators.activity import Activity
from operators.lattice import HOUR_MS, MINUTE_MS
from operators.records import Change, HotMove
from operators.tiers import TierState, step_tiers, tier_of
from operators.universe import UniverseState
from packs.loader import load_packs
from packs.schema import EntryBand, ExitBand, RankWeights, UniversePolicy

SHIPPED = load_packs().universe
T0 = 1_756_890_000_000 + 50 * MINUTE_MS  # ten minutes before a full hour
ASSETS = 13
ORDINARY = ("entry", "exit")


class Market(msgspec.Struct):
    """What the assets of the roster do in a minute."""

    volumes: dict[int, float]
    interests: dict[int, float | None]
    stale: dict[int, bool]

    def in_order(self, uids: list[int]) -> Market:
        """Return the same minute as it looks when the assets are told in another order."""
        return Market(
            {uid: self.volumes[uid] for uid in uids},
            {uid: self.interests[uid] for uid in uids},
            {uid: self.stale[uid] for uid in uids},
        )


@st.composite
def markets(draw: st.DrawFn) -> Market:
    """Return a minute of most assets; few amounts, so that there are ties and dead ones."""
    absent = draw(st.sets(st.integers(0, ASSETS - 1), max_size=2))
    absent |= draw(st.sampled_from([set(), set(), set(), set(range(9)), set(range(3, ASSETS))]))
    stale = draw(st.sets(st.integers(0, ASSETS - 1), max_size=6))
    uids = [uid for uid in range(ASSETS) if uid not in absent]
    amount = st.sampled_from([0.0, 1.0, 2.0, 5.0, 10.0, 50.0, 250.0])
    return Market(
        {uid: draw(amount) for uid in uids},
        {uid: draw(st.none() | amount) for uid in uids},
        {uid: uid in stale for uid in uids},
    )


candidates = st.dictionaries(
    st.integers(0, ASSETS - 1),
    st.tuples(st.integers(0, 100), st.sampled_from(["vol_spike_m_1", "basis_jolt_m_5"])),
    max_size=3,
)


class Everything(msgspec.Struct):
    """All that the universe remembers."""

    activity: Activity = msgspec.field(default_factory=Activity)
    universe: UniverseState = msgspec.field(default_factory=UniverseState)
    tiers: TierState = msgspec.field(default_factory=TierState)


class Minute(msgspec.Struct):
    """What one minute was told and what came of it, for the tables below."""

    label_ms: int
    rank_of: dict[int, int]
    dead: frozenset[int]
    members_before: frozenset[int]
    change: Change | None


def pass_minute(
    state: Everything,
    label_ms: int,
    market: Market,
    found: dict[int, tuple[int, str]],
    rules: UniversePolicy,
) -> tuple[dict[int, int], frozenset[int], Change | None, tuple[HotMove, ...], Any]:
    """Do what a seal does; return ranks, the dead and the audit."""
    for uid, volume in market.volumes.items():
        interest, stale = market.interests[uid], market.stale[uid]
        activity.remember(state.activity, uid, label_ms, volume, interest, rules, stale=stale)
    activity.forget(state.activity, label_ms, rules)
    volumes = activity.dollar_volumes(state.activity, market.volumes, label_ms, rules)
    interests = activity.open_interests(state.activity, market.volumes, label_ms, rules)
    rank_of = universe.composite_ranks(volumes, interests, rules)
    dead = activity.dead(state.activity, volumes, rules)
    change = universe.step_membership(state.universe, label_ms, rank_of, rules, dead)
    moves = universe.cool(state.universe, label_ms)
    moves += universe.heat(state.universe, label_ms, found, rules)
    tiers = step_tiers(state.tiers, volumes, rules)
    return rank_of, dead, change, moves, tiers


class Rules(RuleBasedStateMachine):
    """Any markets under rules of any strictness, next to a book kept in the words of the plan."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = SHIPPED
        self.state, self.twin = Everything(), Everything()
        self.label_ms = T0
        self.book: list[Minute] = []
        self.members: set[int] = set()
        self.filling = True
        self.freed: set[tuple[int, int]] = set()  # entries that the cap does not count
        self.since: dict[int, int] = {}
        self.hot: dict[int, tuple[str, int, Fraction]] = {}
        self.told_hot: dict[int, HotMove] = {}
        self.last: Market | None = None

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        """Begin with an empty universe."""
        n_base = data.draw(st.integers(2, 4))
        self.policy = SHIPPED.model_copy(
            update={
                "n_base": n_base,
                "entry_band": EntryBand(
                    n_entry=data.draw(st.integers(1, n_base)), k_entry=data.draw(st.integers(1, 3))
                ),
                "exit_band": ExitBand(
                    n_exit=n_base + data.draw(st.integers(0, 2)),
                    k_exit=data.draw(st.integers(1, 3)),
                ),
                "freeze_min": data.draw(st.integers(0, 3)),
                "min_dwell_min": data.draw(st.sampled_from([0, 2, 6])),
                "l1_min": data.draw(st.sampled_from([1, 3])),
                "l2_min": data.draw(st.sampled_from([1, 4])),
                "weights": RankWeights(wv=0.7, wo=0.3),
                "t_stale_min": data.draw(st.integers(2, 4)),
                "dead_quote": 12.0,
                "churn_per_hour_max": data.draw(st.sampled_from([0, 1, 2, 4, 100])),
                "tier_streak_min": data.draw(st.integers(1, 3)),
            }
        )

    @rule(market=markets(), found=candidates, data=st.data())
    def anything(
        self, market: Market, found: dict[int, tuple[int, str]], data: st.DataObject
    ) -> None:
        """A minute in which everything may be different."""
        self._pass(market, found, data.draw(st.permutations(sorted(market.volumes))))

    @rule(
        minutes=st.integers(1, 8),
        uid=st.integers(0, ASSETS - 1),
        volume=st.sampled_from([0.0, 2.0, 20.0, 1000.0]),
    )
    def hold(self, minutes: int, uid: int, volume: float) -> None:
        """Minutes in which one asset trades anew and the rest as before, so that streaks end."""
        if self.last is None:
            return
        market = msgspec.structs.replace(self.last, volumes={**self.last.volumes})
        if uid in market.volumes:
            market.volumes[uid] = volume
        for _ in range(minutes):
            self._pass(market, {}, sorted(market.volumes, reverse=True))

    @rule(minutes=st.sampled_from([1, 5, 25]))
    def nothing_for_a_while(self, minutes: int) -> None:
        """Minutes that nobody closed."""
        self.label_ms += minutes * MINUTE_MS

    # --- one minute --------------------------------------------------------------------------

    def _pass(self, market: Market, found: dict[int, tuple[int, str]], order: list[int]) -> None:
        self.last = market
        self.label_ms += MINUTE_MS
        before = frozenset(self.members)
        waited = dict(self.state.universe.deferred)
        told = pass_minute(self.state, self.label_ms, market, found, self.policy)
        self._pass_twin(market, found, order, told)
        rank_of, dead, change, moves, _ = told
        self.book.append(Minute(self.label_ms, rank_of, dead, before, change))
        self._check_membership(waited)
        self._check_hot(found, moves)

    def _pass_twin(
        self, market: Market, found: dict[int, tuple[int, str]], order: list[int], told: Any
    ) -> None:
        """Neither the order in which assets are told nor a restart changes a byte that matters."""
        self.twin = msgspec.msgpack.decode(msgspec.msgpack.encode(self.twin), type=Everything)
        reordered = dict(reversed(found.items()))
        shuffled = market.in_order(order)
        again = pass_minute(self.twin, self.label_ms, shuffled, reordered, self.policy)
        assert again == told
        for one, other in (
            (self.twin.universe, self.state.universe),
            (self.twin.tiers, self.state.tiers),
        ):
            assert msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)
        assert self.twin == self.state

    # --- membership by the book ----------------------------------------------------------------

    def _check_membership(self, waited: dict[int, int]) -> None:
        minute, rules = self.book[-1], self.policy
        rank_of, change = minute.rank_of, minute.change
        made = {} if change is None else {int(uid): r for uid, r in change.reasons.items()}
        if not self._changes(before=True):
            best = {u for u, rank in rank_of.items() if rank <= rules.n_base} - minute.dead
            assert made == dict.fromkeys(sorted(best), "entry")
            self._fold(change)
            return
        forced = {u for u in self.members if u not in rank_of or u in minute.dead}
        exits = [u for u in sorted(self.members - forced) if self._may_leave(u)]
        entries = [u for u in sorted(rank_of) if u not in self.members and self._may_enter(u)]
        free = entries if self.filling else []
        entries = [] if self.filling else entries
        due = sorted(exits, key=lambda u: -rank_of[u]) + sorted(entries, key=lambda u: rank_of[u])
        left = max(0, rules.churn_per_hour_max - self._churn() - len(forced))
        frozen = self._is_frozen()
        expected = {u: "hard_exit" if u in rank_of else "delisted" for u in forced}
        for u in [] if frozen else [*due[:left], *free]:
            expected[u] = "exit" if u in self.members else "entry"
        assert made == expected
        self.freed |= {(minute.label_ms, u) for u in free if u in made}
        over = set(due[left:])
        deferred = self.state.universe.deferred
        assert deferred.keys() == (over & waited.keys() if frozen else over)
        assert all(since == waited.get(uid, minute.label_ms) for uid, since in deferred.items())
        for reason in made.values():
            event(f"{reason}{' while frozen' if frozen else ''}")
        event(f"deferred {len(deferred) > 0}")
        self._fold(change)

    def _fold(self, change: Change | None) -> None:
        """Replay the audit."""
        if change is None:
            return
        was_filling = self.filling
        assert set(change.added).isdisjoint(self.members)
        assert set(change.removed) <= self.members
        assert list(change.added) == sorted(change.added)
        assert list(change.removed) == sorted(change.removed)
        assert change.reasons.keys() == {str(uid) for uid in (*change.added, *change.removed)}
        self.members = (self.members | set(change.added)) - set(change.removed)
        self.since |= dict.fromkeys(change.added, change.exchange_ts_ms)
        self.filling = was_filling and len(self.members) < self.policy.entry_band.n_entry

    def _changes(self, *, before: bool = False) -> list[Change]:
        """Return the audit, without the newest minute if asked so."""
        minutes = self.book[:-1] if before else self.book
        return [minute.change for minute in minutes if minute.change is not None]

    def _is_frozen(self) -> bool:
        """Return whether the newest minute is within the freeze of a change before it."""
        last = self._changes(before=True)[-1].exchange_ts_ms
        return self.label_ms < last + self.policy.freeze_min * MINUTE_MS

    def _churn(self) -> int:
        """Return the changes of this clock hour before this minute, the first fill left out."""
        hour = self.label_ms // HOUR_MS
        counted = self._changes(before=True)[1:]
        return sum(
            (c.exchange_ts_ms, int(uid)) not in self.freed
            for c in counted
            if c.exchange_ts_ms // HOUR_MS == hour
            for uid in c.reasons
        )

    def _may_enter(self, uid: int) -> bool:
        """Return whether an asset was out, alive and in the band for k_entry minutes in a row."""
        band = self.policy.entry_band
        lately = self.book[-band.k_entry :]
        return len(lately) == band.k_entry and all(
            uid not in m.members_before
            and uid not in m.dead
            and m.rank_of.get(uid, 999) <= band.n_entry
            for m in lately
        )

    def _may_leave(self, uid: int) -> bool:
        """Return whether a member has dwelt and was beyond the band for k_exit minutes in a row."""
        band = self.policy.exit_band
        lately = self.book[-band.k_exit :]
        dwelt = self.label_ms - self.since[uid] >= self.policy.min_dwell_min * MINUTE_MS
        return (
            dwelt
            and len(lately) == band.k_exit
            and all(uid in m.members_before and m.rank_of.get(uid, 0) > band.n_exit for m in lately)
        )

    # --- heat by the book ------------------------------------------------------------------------

    def _check_hot(self, found: dict[int, tuple[int, str]], moves: tuple[HotMove, ...]) -> None:
        """Hot from the minute of the candidate up to the last label before the end."""
        label, hotlist = self.label_ms, self.policy.hotlist
        expected = []
        for uid, (reason, start, end) in sorted(self.hot.items()):
            if end <= label:
                expected.append(HotMove(label, uid, "expired", reason, start, int(end)))
                del self.hot[uid]
        for uid, (severity, subtype) in sorted(found.items()):
            if severity < 70 and subtype != "basis_jolt_m_5":
                continue
            end = label + (15 + Fraction(3, 10) * severity) * MINUTE_MS
            known = self.hot.get(uid)
            assert hotlist.ttl_base_min == 15
            if known is None or end > known[2]:
                self.hot[uid] = (subtype, known[1] if known else label, end)
                move = "prolonged" if known else "added"
                expected.append(HotMove(label, uid, move, subtype, self.hot[uid][1], int(end)))
        assert list(moves) == expected
        for move in moves:
            if move.move == "expired":
                entry = self.told_hot.pop(move.asset_uid)
                assert entry.reason == move.reason
                assert entry.expires_ms == move.expires_ms <= label
            else:
                assert (move.asset_uid in self.told_hot) is (move.move == "prolonged")
                self.told_hot[move.asset_uid] = move
            event(move.move)

    # --- what anybody can read off the audit -----------------------------------------------------

    @invariant()
    def revisions_count_changes(self) -> None:
        """Each change is the next revision; without one the revision stays."""
        changes = self._changes()
        assert [change.revision for change in changes] == list(range(1, len(changes) + 1))
        assert self.state.universe.revision == len(changes)
        assert all(change.added or change.removed for change in changes)

    @invariant()
    def the_audit_replays_to_the_members(self) -> None:
        """Added less removed is who is in, and all that rows and frames say of it."""
        state = self.state.universe
        assert universe.size(state) == len(self.members)
        for uid in range(ASSETS):
            member, hot = uid in self.members, uid in self.told_hot
            assert (uid in universe.members(state), uid in state.hot) == (member, hot)
            assert universe.is_covered(state, uid) is (member or hot)

    @invariant()
    def an_hour_has_its_cap(self) -> None:
        """Ordinary changes are at most C in any clock hour, and none comes after C of any kind."""
        spent: dict[int, int] = {}
        for change in self._changes()[1:]:
            hour = change.exchange_ts_ms // HOUR_MS
            at = change.exchange_ts_ms
            counted = {u: r for u, r in change.reasons.items() if (at, int(u)) not in self.freed}
            ordinary = [r for r in counted.values() if r in ORDINARY]
            spent[hour] = spent.get(hour, 0) + len(counted)
            assert not ordinary or spent[hour] <= self.policy.churn_per_hour_max

    @invariant()
    def nothing_ordinary_moves_in_a_freeze_or_before_its_time(self) -> None:
        """Between a change and the next ordinary one lies the freeze; a stay lasts its dwell."""
        since: dict[str, int] = {}
        last = -HOUR_MS
        for change in self._changes():
            now = change.exchange_ts_ms
            ordinary = [uid for uid, reason in change.reasons.items() if reason in ORDINARY]
            assert not ordinary or now - last >= self.policy.freeze_min * MINUTE_MS
            last = now
            for uid in ordinary:
                if change.reasons[uid] == "entry":
                    since[uid] = now
                else:
                    assert now - since[uid] >= self.policy.min_dwell_min * MINUTE_MS

    @invariant()
    def nobody_enters_while_somebody_must_wait_to_leave(self) -> None:
        """The cap never trades an exit for an entry."""
        if self.book and (change := self.book[-1].change) is not None and change.revision > 1:
            entered = {u for u in change.added if (change.exchange_ts_ms, u) not in self.freed}
            assert not entered or not (self.members & self.state.universe.deferred.keys())

    @invariant()
    def everything_is_bounded(self) -> None:
        """Whoever came and went, only what may still matter is remembered."""
        state = self.state
        in_band = self.policy.entry_band.n_entry
        assert len(state.universe.members) <= len(self.members) + in_band
        assert list(state.universe.members) == sorted(state.universe.members)
        assert state.universe.deferred.keys() <= state.universe.members.keys()
        for past in state.activity.past.values():
            assert len(past.volumes) <= 60
            assert len(past.interests) <= self.policy.l2_min
            assert past.newest_ms > (self.book[-1].label_ms if self.book else 0) - 60 * MINUTE_MS
        if self.last is not None and self.book:
            assert state.tiers.standings.keys() == self.last.volumes.keys()
            few = len(self.last.volumes) < 10
            assert not few or {tier_of(state.tiers, u) for u in self.last.volumes} == {"mid"}


Rules.TestCase.settings = settings(max_examples=35, stateful_step_count=40, deadline=None)
TestRules = Rules.TestCase
