"""What baselines were given since a base, so that they can be made again from it.

Rules of this file: a record has the label of a bar, its verdict and the value of every baseline of
the timeframe, NaN for NULL, as doubles; it is given to the baselines again by the code that gave it
to them first, with the constants that held then: the result is the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan
from struct import Struct

import msgspec

from operators import kernel
from operators.baselines import Baseline, Checkpoint, Decay, Feature, Plan, Robust, fresh
from operators.kernel import Entry
from operators.lattice import HOUR_MS
from operators.records import Columns
from operators.verdicts import DQ_OK, DQ_PARTIAL, DQ_STALE
from packs.schema import Timeframe

VERDICTS = (DQ_OK, DQ_PARTIAL, DQ_STALE)
HEAD = 2  # label and verdict


class Rule(msgspec.Struct, frozen=True):
    """How one baseline of a timeframe moves. hourly : on full hours only."""

    feature: Feature
    decay: Decay
    hourly: bool


class Rules(msgspec.Struct, frozen=True):
    """How all baselines move, in the order of a record's values."""

    robust: Robust
    tfs: dict[Timeframe, tuple[Rule, ...]]


class Recorder:
    """Writes the records of one timeframe."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = tuple(entries)
        self._record = Struct(f"<{HEAD + len(entries)}d")

    def append(self, log: bytearray, label_ms: int, columns: Columns) -> None:
        """Note what the baselines are given of a row."""
        priced = "price_sanity" not in columns["dq_reasons"]
        values = []
        for entry in self._entries:
            value = kernel.input_of(entry.name, columns[entry.source], columns, priced)
            values.append(nan if value is None else value)
        verdict = VERDICTS.index(columns["dq_status"])
        log += self._record.pack(label_ms, verdict, *values)

    def pop(self, log: bytearray, label_ms: int) -> None:
        """Take back the newest record, which is that of a label."""
        at = len(log) - self._record.size
        found = int(self._record.unpack_from(log, at)[0])
        assert found == label_ms, (found, label_ms)
        del log[at:]

    def count(self, log: bytearray) -> int:
        """Return how many records there are."""
        return len(log) // self._record.size


class Player:
    """Gives records to the baselines of one timeframe again."""

    def __init__(self, rules: Sequence[Rule], robust: Robust) -> None:
        self._plans = [(rule, Plan(rule.feature, rule.decay, robust)) for rule in rules]
        self._robust = robust

    def play(self, baselines: dict[str, Baseline], log: bytes | bytearray) -> dict[str, Checkpoint]:
        """Move baselines as the records say, those that are not there from the beginning; return
        what would take back the newest record."""
        numbers = memoryview(log).cast("d")
        size = HEAD + len(self._plans)
        seen, undo = kernel.Seen(), dict[str, Checkpoint]()
        for at in range(0, len(numbers), size):
            label_ms, dq = int(numbers[at]), VERDICTS[int(numbers[at + 1])]
            newest = at + size == len(numbers)
            given = numbers[at + HEAD : at + size]
            for (rule, plan), value in zip(self._plans, given, strict=True):
                name = rule.feature.name
                state = baselines.get(name)
                if state is None:
                    state = baselines[name] = fresh(self._robust)
                if rule.hourly and label_ms % HOUR_MS:  # between its samples
                    continue
                x = None if isnan(value) else value
                if newest:
                    undo[name] = kernel.checkpoint(state, x, label_ms, plan)
                kernel.apply(state, seen, x, label_ms, dq, plan)
        return undo
