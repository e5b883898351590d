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


class Logic(StatefulBatchLogic[Any, Any, bytes]):
    """What the engine calls for one key: a step, its state, and how that is stored."""

    def __init__(self, step: Step[Any, Any, Any], codec: Codec[Any], state: Any) -> None:
        self._step = step
        self._codec = codec
        self._state = state

    def on_batch(self, values: list[Any]) -> tuple[list[Any], bool]:
        """Take items in their order."""
        outputs: list[Any] = []
        for value in values:
            outputs += self._step.step(self._state, value)
        return outputs, StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """Return the bytes of the state, for the recovery store."""
        return self._encoded()

    def _encoded(self) -> bytes:
        """Return the bytes of a snapshot; a logic of its own may have them already."""
        return self._codec.encode(self._state)


@operator
def stateful(
    step_id: str,
    up: KeyedStream[Any],
    step: Step[Any, Any, Any],
    codec: Codec[Any],
    logic: Callable[[Any, Any, Any], Logic] = Logic,
) -> KeyedStream[Any]:
    """Run a step for every key of a stream.

    logic : what the engine calls for a key, made of step, codec and state.
    """

    def build(resumed: bytes | None) -> Logic:
        state = step.initial() if resumed is None else codec.decode(resumed)
        return logic(step, codec, state)

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
