"""A source of ticks that hands on one share of the assets.

Rules of this file: the whole feed is read, so clock, roster and phases are those of every other
shard; the share is part of the snapshot, because the state behind it is of those assets alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from dataflows.connectors.source import Item
from dataflows.connectors.topic_source import SourceError
from operators.engine import ALL
from operators.records import Boundary, Ticks
from operators.sharding import PhaseShare, Share, take_share

SharedItem = tuple[str, Ticks | Boundary | PhaseShare]


class ShareState(msgspec.Struct):
    """The share, and the snapshot of the source behind it."""

    share: Share
    source: bytes
    version: int = 1


@dataclass(frozen=True)
class ShareSource(FixedPartitionedSource[SharedItem, bytes]):
    """Keeps the items of a share, and tells after each phase how many boundaries it kept."""

    whole: FixedPartitionedSource[Item, bytes]
    share: Share

    def list_parts(self) -> list[str]:
        """Return the partitions of the source."""
        return self.whole.list_parts()

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> SharePartition:
        """Open the source; a snapshot of another share is refused."""
        inner: Any = None
        if resume_state is not None:
            state = msgspec.msgpack.decode(resume_state, type=ShareState)
            if state.share != self.share:
                raise SourceError(
                    f"expected a recovery store of shard {self.share}, found one of {state.share};"
                    " see docs/scaling.md"
                )
            inner = state.source
        return SharePartition(self.whole.build_part(step_id, for_part, inner), self.share)


class SharePartition(StatefulSourcePartition[SharedItem, bytes]):
    """An open partition of the source."""

    def __init__(self, whole: StatefulSourcePartition[Item, bytes], share: Share) -> None:
        self._whole = whole
        self._share = share

    def next_batch(self) -> list[SharedItem]:
        """Return the share's items of the next batch."""
        return take_share(self._whole.next_batch(), self._share, ALL)

    def next_awake(self) -> datetime | None:
        """Ask for the next batch when the source does."""
        return self._whole.next_awake()

    def snapshot(self) -> bytes:
        """Return the share with the snapshot of the source."""
        return msgspec.msgpack.encode(ShareState(self._share, self._whole.snapshot()))

    def close(self) -> None:
        """Close the source."""
        self._whole.close()
