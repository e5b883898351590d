"""A flow split at the join: which assets a shard keeps, and when its part of a phase is whole.

Rules of this file: a shard reads every tick and keeps its share, so that clock, roster and phases
are the same in all of them; an asset's shard follows from its id and the number of shards alone;
every phase leaves a shard once, whole, in the order of closing, also when no asset of it is the
shard's: a reader that merges shards knows from it how far each of them is. Design 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from operators.records import Boundary, Phase, RowItem, Ticks

_SHARE = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")


class Share(msgspec.Struct, frozen=True):
    """One of `count` shares of the assets; 0 <= index < count."""

    index: int
    count: int

    def holds(self, asset_uid: int) -> bool:
        """Tell whether an asset belongs to the share.

        >>> [uid for uid in range(7) if Share(1, 3).holds(uid)]
        [1, 4]
        """
        return asset_uid % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def share_of(text: str) -> Share | None:
    """Read `I/K`; None if it is not a share.

    >>> share_of("0/3"), share_of("3/3")
    (Share(index=0, count=3), None)
    """
    match = _SHARE.fullmatch(text)
    if match is None or int(match[1]) >= int(match[2]):
        return None
    return Share(int(match[1]), int(match[2]))


class PhaseShare(msgspec.Struct, frozen=True):
    """How many items of a phase are a shard's; follows the boundaries of the phase."""

    phase: Phase
    n_items: int


class ShardPhase(msgspec.Struct, frozen=True):
    """A shard's part of a phase, whole, in asset order."""

    phase: Phase
    items: tuple[RowItem, ...]


def take_share(
    items: Iterable[tuple[str, Ticks | Boundary]], share: Share, closing_key: str
) -> list[tuple[str, Ticks | Boundary | PhaseShare]]:
    """Return what a shard keeps of one reading of the feed, then a `PhaseShare` per phase in it.

    Items are by engine key, the latter by `closing_key`. The boundaries of a phase always come in
    one reading (`FeedReader`).
    """
    taken: list[tuple[str, Ticks | Boundary | PhaseShare]] = []
    counts: dict[Phase, int] = {}
    for key, item in items:
        kept = share.holds(int(key))
        if kept:
            taken.append((key, item))
        if isinstance(item, Boundary):
            counts[item.phase] = counts.get(item.phase, 0) + kept
    taken += [(closing_key, PhaseShare(phase, count)) for phase, count in counts.items()]
    return taken


class ClosingState(msgspec.Struct):
    """Phases that are not whole yet, in order, and the items that wait, by phase and asset."""

    version: int = 1
    expected: list[PhaseShare] = []
    items: dict[int, dict[int, RowItem]] = {}


class Closing:
    """`RowItem`s and `PhaseShare`s of a shard in, in any order between them; `ShardPhase`s out."""

    def initial(self) -> ClosingState:
        """Return the state before the first phase."""
        return ClosingState()

    def step(self, state: ClosingState, item: RowItem | PhaseShare) -> list[ShardPhase]:
        """Take an item; return the phases that it makes whole, oldest first."""
        if isinstance(item, PhaseShare):
            state.expected.append(item)
        else:
            waiting = state.items.setdefault(item.phase.number, {})
            assert item.asset_uid not in waiting, f"{item.asset_uid} sent {item.phase} twice"
            waiting[item.asset_uid] = item
        whole: list[ShardPhase] = []
        while state.expected and self._is_whole(state, state.expected[0]):
            phase = state.expected.pop(0).phase
            found = state.items.pop(phase.number, {})
            whole.append(ShardPhase(phase, tuple(found[uid] for uid in sorted(found))))
        return whole

    def _is_whole(self, state: ClosingState, share: PhaseShare) -> bool:
        return len(state.items.get(share.phase.number, ())) >= share.n_items
