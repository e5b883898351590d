"""What the join remembers of all assets together, and how it is stored.

Rules of this file: of the newest rows it keeps what frames read, no more, so that a frame after a
restart is made of what it would have been made of; a state of an earlier version goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from operators import scans
from operators.activity import Activity
from operators.join import Join
from operators.records import Row, RowItem
from operators.rotation import RotationState
from operators.tiers import TierState
from operators.universe import UniverseState
from packs.schema import TIMEFRAMES

VERSION = 4
READ = ("dq_status", "rs_score_m_5", "ret_m_5", "z_vol_m_1", "oi_roc_m_5")  # by frames, of a row


class Newest(msgspec.Struct, array_like=True, frozen=True):
    """What frames read of the newest row of an asset and timeframe; columns by name of the pack."""

    asset_uid: int
    symbol: str
    exchange_ts_ms: int
    dq_status: str
    rs_score_m_5: float
    ret_m_5: float | None
    z_vol_m_1: float | None
    oi_roc_m_5: float | None


class Firing(msgspec.Struct, array_like=True):
    """The bars on which a detector found something, without a silence that ends a run of scoring.

    last_ms : label of the newest. bars : how many.
    """

    last_ms: int
    bars: int = 1


Fired = dict[str, dict[str, Firing]]  # by timeframe and detector


def all_in_doubt(detectors: Sequence[str], label_ms: int, bars: int) -> Fired:
    """Return what says of an asset that every detector may be muted, up to its bar of a label.

    bars : on how many at least such a detector has fired.
    """
    return {tf: {name: Firing(label_ms, bars) for name in detectors} for tf in TIMEFRAMES}


class ContextState(msgspec.Struct):
    """Everything the join remembers.

    last : by timeframe and asset. fired : by asset, timeframe and detector what that found of late;
    scoring may have muted it only where it has found something on many bars. rules : digest of what
    that rests on. doubtful : they were others once, so that an asset may have been muted of which
    nothing is known.
    """

    version: int = VERSION
    join: Join[RowItem] = msgspec.field(default_factory=Join[RowItem])
    activity: Activity = msgspec.field(default_factory=Activity)
    tiers: TierState = msgspec.field(default_factory=TierState)
    last: dict[str, dict[int, Newest]] = {}
    revisions: dict[str, int] = {}
    spiked: dict[int, bool] = {}
    fired: dict[int, Fired] = {}
    rules: str = ""
    doubtful: bool = False
    approx: bool = False
    universe: UniverseState = msgspec.field(default_factory=UniverseState)
    rotation: RotationState = msgspec.field(default_factory=RotationState)


# --- storage -------------------------------------------------------------------------------------


class _Earlier(ContextState):
    """A state of an earlier version: whole rows, and not which detectors fired."""

    last: dict[str, dict[int, Row]] = {}  # type: ignore[assignment]
    fired: Any = None


class _Version(msgspec.Struct):
    """What tells how the rest is stored."""

    version: int


class ContextCodec:
    """State to bytes and back."""

    def __init__(
        self,
        names: Mapping[str, tuple[str, ...]],
        detectors: Sequence[str],
        bars: int,
        rules: str,
    ) -> None:
        """What is not in a state of an earlier version, or of other packs.

        names : of the columns that frames read, by timeframe. detectors : that scoring may have
        muted. bars : on how many at least such a detector has fired. rules : as in the state.
        """
        self._names, self._detectors, self._bars, self._rules = names, detectors, bars, rules
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode_version = msgspec.msgpack.Decoder(_Version).decode
        self._decode = msgspec.msgpack.Decoder(ContextState).decode
        self._decode_earlier = msgspec.msgpack.Decoder(_Earlier).decode

    def encode(self, state: ContextState) -> bytes:
        """Return the bytes of a state."""
        return self._encode(state)

    def decode(self, data: bytes) -> ContextState:
        """Return the state that `encode` wrote, here, in an earlier version or with other packs."""
        if self._decode_version(data).version < VERSION:
            state = self._migrated(self._decode_earlier(data))
        else:
            state = self._decode(data)
        if state.rules != self._rules:
            self._doubt(state)
        return state

    def _migrated(self, earlier: _Earlier) -> ContextState:
        """Bring a state to this version."""
        found = {name: getattr(earlier, name) for name in ContextState.__struct_fields__}
        last = {
            tf: {uid: scans.newest_of(row, self._names[tf], Newest) for uid, row in rows.items()}
            for tf, rows in earlier.last.items()
        }
        return ContextState(**found | {"version": VERSION, "last": last, "fired": {}})

    def _doubt(self, state: ContextState) -> None:
        """Every detector may be muted on every asset, also on those that are away."""
        state.fired = {
            uid: all_in_doubt(self._detectors, past.newest_ms, self._bars)
            for uid, past in state.activity.past.items()
        }
        state.rules, state.doubtful = self._rules, True
