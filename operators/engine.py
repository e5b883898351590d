"""The thin layer between the steps and Bytewax.

Rules of this file: a step is an object with `initial()` and `step(state, item) -> outputs`; the
engine only feeds it and keeps its state; a snapshot is bytes that the step's codec made, so that
neither class names nor later mutation matter.  Step ids are storage names: renaming one loses its
state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import bytewax.operators as op
import msgspec
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic, V

from operators.bases import Base, Bases, Taken
from operators.normal_state import NormaliseCodec, NormaliseState
from operators.normalize import Normalize
from operators.records import BarItem

S = TypeVar("S")
X_contra = TypeVar("X_contra", contravariant=True)
Y = TypeVar("Y")

ALL = "ALL"


class Step(Protocol[S, X_contra, Y]):
    """Pure step logic of one key."""

    def initial(self) -> S:
        """Return the state of a key that was never seen."""

    def step(self, state: S, item: X_contra) -> list[Y]:
        """Take one item, change the state in place, return the outputs."""


class Codec(Protocol[S]):
    """State to bytes and back."""

    def encode(self, state: S) -> bytes:
        """Return the bytes of a state."""

    def decode(self, data: bytes) -> S:
        """Return the state that `encode` wrote."""


class Packed(Generic[S]):
    """A state in MessagePack: lossless doubles, no class names."""

    def __init__(self, state_type: type[S]) -> None:
        self._decode = msgspec.msgpack.Decoder(state_type).decode

    def encode(self, state: S) -> bytes:
        """Return the bytes of a state."""
        return msgspec.msgpack.encode(state)

    def decode(self, data: bytes) -> S:
        """Return the state that `encode` wrote."""
        return self._decode(data)


class _Logic(StatefulBatchLogic[Any, Any, bytes]):
    def __init__(self, step: Step[Any, Any, Any], codec: Codec[Any], state: Any) -> None:
        self._step = step
        self._codec = codec
        self._state = state

    def on_batch(self, values: list[Any]) -> tuple[list[Any], bool]:
        outputs: list[Any] = []
        for value in values:
            outputs += self._step.step(self._state, value)
        return outputs, StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        return self._codec.encode(self._state)


class _InParts(_Logic):
    """The logic of `normalize` where what it stores is a base and what came since."""

    def __init__(
        self,
        step: Normalize,
        codec: NormaliseCodec,
        state: NormaliseState,
        bases: Bases,
    ) -> None:
        super().__init__(step, codec, state)
        self._normalize = step
        self._parts = codec
        self._bases = bases
        self._made: Base | None = None
        self._is_stored = True  # since the last base; of a state that has just begun, perhaps
        self._waits = state.since is not None
        if state.since is not None:
            bases.made.pop(state.since.asset_uid, None)  # by a run that ended in this process

    def on_batch(self, values: list[BarItem | Taken]) -> tuple[list[Any], bool]:
        self._restore()
        state, codec = self._state, self._parts
        outputs: list[Any] = []
        for value in values:
            if isinstance(value, Taken):
                codec.take_up(state, value.number)
                continue
            if self._is_stored and state.since is None:
                self._normalize.begin(state, value)
                self._hand(codec.begin(state, value))
            outputs += self._step.step(state, value)
            if self._is_stored and state.since is not None:
                self._hand(codec.renew(state, value))
        return outputs, StatefulBatchLogic.RETAIN

    def _hand(self, base: Base | None) -> None:
        if base is not None:
            self._made = base
            self._is_stored = False

    def on_eof(self) -> tuple[list[Any], bool]:
        self._restore()
        self._state.since = None  # `bases` is asked for what it does not hold any more
        return [], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        self._is_stored = True
        if self._made is not None:  # not before the epoch that stores that it is offered
            self._bases.made[self._made.asset_uid], self._made = self._made, None
        return super().snapshot()

    def _restore(self) -> None:
        if self._waits:
            self._waits = False
            base = self._bases.restored.pop(self._state.since.asset_uid, None)
            self._parts.restore(self._state, base)


@operator
def in_parts(
    step_id: str,
    up: KeyedStream[Any],
    step: Normalize,
    bases: Bases,
) -> KeyedStream[Any]:
    """Run `normalize` for every key of a stream of bars and taken bases."""
    codec = step.codec()

    def build(resumed: bytes | None) -> _InParts:
        state = step.initial() if resumed is None else codec.decode(resumed)
        return _InParts(step, codec, state, bases)

    return op.stateful_batch("step", up, build)


@operator
def stateful(
    step_id: str, up: KeyedStream[Any], step: Step[Any, Any, Any], codec: Codec[Any]
) -> KeyedStream[Any]:
    """Run a step for every key of a stream."""

    def build(resumed: bytes | None) -> _Logic:
        state = step.initial() if resumed is None else codec.decode(resumed)
        return _Logic(step, codec, state)

    return op.stateful_batch("step", up, build)


@operator
def rekey(
    step_id: str, up: KeyedStream[V], key: Callable[[V], str], keep: type
) -> KeyedStream[Any]:
    """Pass on the items of one type under another key."""

    def batch(items: list[tuple[str, V]]) -> list[tuple[str, V]]:
        return [(key(item), item) for _, item in items if isinstance(item, keep)]

    return op.flat_map_batch("batch", up, batch)


def to_all(item: object) -> str:
    """Key of the cross-asset steps."""
    return ALL
