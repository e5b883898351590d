"""What the join remembers of all assets together, and how it is stored.

Rules of this file: rows are stored as their values behind the names of their columns, which nearly
all share; a state of an earlier version goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from operators.activity import Activity
from operators.join import Join
from operators.records import Row, RowItem
from operators.rotation import RotationState
from operators.tiers import TierState
from operators.universe import UniverseState
from packs.schema import TIMEFRAMES

VERSION = 4
_FIRST_IN_VALUES = 4  # version whose rows are stored as their values


class Firing(msgspec.Struct, array_like=True):
    """The bars on which a detector found something, without a silence that ends a run of scoring.

    last_ms : label of the newest. bars : how many.
    """

    last_ms: int
    bars: int = 1


class ContextState(msgspec.Struct):
    """Everything the join remembers.

    last : the newest row by timeframe and asset. fired : by asset, timeframe and detector what that
    found of late; scoring may have muted it only where it has found something on many bars.
    """

    version: int = VERSION
    join: Join[RowItem] = msgspec.field(default_factory=Join[RowItem])
    activity: Activity = msgspec.field(default_factory=Activity)
    tiers: TierState = msgspec.field(default_factory=TierState)
    last: dict[str, dict[int, Row]] = {}
    revisions: dict[str, int] = {}
    spiked: dict[int, bool] = {}
    fired: dict[int, dict[str, dict[str, Firing]]] = {}
    approx: bool = False
    universe: UniverseState = msgspec.field(default_factory=UniverseState)
    rotation: RotationState = msgspec.field(default_factory=RotationState)


# --- storage -------------------------------------------------------------------------------------


class _Values(msgspec.Struct, array_like=True):
    """A row; heading : which of the headings names its columns."""

    symbol: str
    exchange_ts_ms: int
    revision: int
    heading: int
    values: list[Any]
    extras: dict[str, Any]


class _Newest(msgspec.Struct, array_like=True):
    """The newest rows of a timeframe."""

    headings: list[tuple[str, ...]]
    rows: dict[int, _Values]


class _Stored(msgspec.Struct):
    """A state as it is stored: without its newest rows, and these."""

    version: int
    state: ContextState
    newest: dict[str, _Newest]


class _Earlier(ContextState):
    """A state of an earlier version: it does not say which detectors fired."""

    fired: Any = None


class _Version(msgspec.Struct):
    """What tells how the rest is stored."""

    version: int


class ContextCodec:
    """State to bytes and back."""

    def __init__(self, detectors: Sequence[str], bars: int) -> None:
        """detectors : that scoring may have muted when a state of an earlier version was written.
        bars : on how many at least such a detector has fired."""
        self._detectors, self._bars = tuple(detectors), bars
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode_version = msgspec.msgpack.Decoder(_Version).decode
        self._decode = msgspec.msgpack.Decoder(_Stored).decode
        self._decode_earlier = msgspec.msgpack.Decoder(_Earlier).decode

    def encode(self, state: ContextState) -> bytes:
        """Return the bytes of a state."""
        newest = {tf: _newest(rows) for tf, rows in state.last.items()}
        return self._encode(_Stored(state.version, replace(state, last={}), newest))

    def decode(self, data: bytes) -> ContextState:
        """Return the state that `encode` wrote, here or in an earlier version."""
        if self._decode_version(data).version < _FIRST_IN_VALUES:
            return self._migrated(self._decode_earlier(data))
        stored = self._decode(data)
        state = stored.state
        state.last = {tf: _rows(tf, newest) for tf, newest in stored.newest.items()}
        return state

    def _migrated(self, earlier: _Earlier) -> ContextState:
        """Bring a state to this version: every detector may be muted on every asset."""
        earlier.version, earlier.fired = VERSION, {}
        for uid, past in earlier.activity.past.items():
            earlier.fired[uid] = {
                tf: {name: Firing(past.newest_ms, self._bars) for name in self._detectors}
                for tf in TIMEFRAMES
            }
        return ContextState(*[getattr(earlier, name) for name in earlier.__struct_fields__])


def _newest(rows: dict[int, Row]) -> _Newest:
    headings = dict[tuple[str, ...], int]()
    stored = dict[int, _Values]()
    for uid, row in rows.items():
        heading = headings.setdefault(tuple(row.columns), len(headings))
        values = [*row.columns.values()]
        stored[uid] = _Values(
            row.symbol, row.exchange_ts_ms, row.revision, heading, values, row.extras
        )
    return _Newest([*headings], stored)


def _rows(tf: str, newest: _Newest) -> dict[int, Row]:
    rows = dict[int, Row]()
    for uid, stored in newest.rows.items():
        columns = dict(zip(newest.headings[stored.heading], stored.values, strict=True))
        rows[uid] = Row(
            uid, stored.symbol, tf, stored.exchange_ts_ms, stored.revision, columns, stored.extras
        )
    return rows
