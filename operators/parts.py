"""How the engine runs `normalize` where what it stores is a base and what came since.

Rules of this file: a state that came from the store waits for its base until the first item; a base
that takes the place of another is sent no sooner than an epoch has stored that it is offered, the
first at once, because nothing that is stored refers to one before it; at the end of a stream the
state is stored whole; what is stored is made where the state has changed, because it is in the
processor's caches there, which takes a third of the time.  Decision 18.
"""

from __future__ import annotations

from typing import Any

from bytewax.operators import StatefulBatchLogic

from operators.bases import Base, Bases, Taken
from operators.engine import Logic
from operators.normal_state import NormaliseCodec, NormaliseState
from operators.normalize import Normalize
from operators.records import BarItem


class InParts(Logic):
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
        self._ahead: bytes | None = None  # what is to be stored, of a state in parts
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
                self._send(codec.begin(state, value))
            outputs += self._step.step(state, value)
            if self._is_stored and state.since is not None:
                self._made = codec.renew(state, value)
                self._is_stored = self._made is None
        is_parted = state.since is not None and state.since.base
        # A state that is stored whole is large: not held beside the state itself.
        self._ahead = codec.encode(state) if is_parted else None
        return outputs, StatefulBatchLogic.RETAIN

    def _send(self, first: Base | None) -> None:
        if first is not None:
            self._bases.made[first.asset_uid] = first
            self._is_stored = False

    def on_eof(self) -> tuple[list[Any], bool]:
        self._restore()
        self._state.since = self._ahead = None  # `bases` is asked for what it does not hold
        return [], StatefulBatchLogic.RETAIN

    def _encoded(self) -> bytes:
        self._is_stored = True
        if self._made is not None:
            self._bases.made[self._made.asset_uid], self._made = self._made, None
        ahead, self._ahead = self._ahead, None
        return super()._encoded() if ahead is None else ahead

    def _restore(self) -> None:
        if self._waits:
            self._waits = False
            base = self._bases.restored.pop(self._state.since.asset_uid, None)
            self._parts.restore(self._state, base)
