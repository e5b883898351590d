"""Fold the rows of a timeframe into one row of the next: 1m into 15m, 15m into 1h.

Rules of this file: a longer bar is recomputed from the final rows of its parts, never carried on;
which fold a column has is declared in the feature pack; a part that does not exist counts as
missing; sums are correctly rounded.  Build plan 15.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any

import msgspec

from operators import kernel, native
from operators.records import Columns
from operators.verdicts import DQ_OK, DQ_STALE
from packs.schema import FeaturePack

VOLUME = "v_total_m_1"
IMBALANCE = "obi_top5_mean_m_1"
BOOK_MISSING = "book_missing"
OI_STALE = "oi_stale"
# Where no formula of its own makes a column of a longer bar.
_FOLDS = ("first", "last", "last_known", "min", "max", "sum", "mean", "median", "p95")


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class Part(msgspec.Struct, array_like=True):
    """A closed row as folding needs it: its verdict, and the values of the folded columns.

    minutes_not_ok, minutes_missing : among the minutes it stands for. values : in MessagePack; it
    keeps every number as it is, in a quarter of the memory.
    """

    label_ms: int
    reasons: list[str]
    minutes_not_ok: int
    minutes_missing: int
    values: bytes


class Folder:
    """Makes parts of rows and folds them; rows are named as in the pack on every timeframe.

    layout : the folded columns in order. digest : of them, so that stored parts are not misread.
    """

    def __init__(self, features: FeaturePack) -> None:
        self._policy = features.rollup
        folded = [c for c in features.columns if c.rollup in _FOLDS and c.status == "active"]
        self.layout = tuple(column.name for column in folded)
        self._folds = tuple(str(column.rollup) for column in folded)
        self.digest = blake2b("\n".join(self.layout).encode(), digest_size=8).hexdigest()
        self._read = itemgetter(*self.layout)
        self._volume = self.layout.index(VOLUME)
        self._imbalance = self.layout.index(IMBALANCE)

    def part_of_minute(self, label_ms: int, columns: Columns) -> Part:
        """Return a final 1m row as a part."""
        status, reasons = columns["dq_status"], columns["dq_reasons"]
        not_ok = missing = 0
        if status != DQ_OK:
            not_ok = int(not all(reason in self._policy.forgiven for reason in reasons))
            missing = int(status == DQ_STALE)
        return Part(label_ms, reasons, not_ok, missing, _pack(self._read(columns)))

    def part_of_bar(self, label_ms: int, columns: Columns) -> Part:
        """Return a row of a longer timeframe as a part of the next."""
        return Part(
            label_ms,
            columns["dq_reasons"],
            columns["minutes_not_ok"],
            columns["minutes_missing"],
            _pack(self._read(columns)),
        )

    def fold(
        self, parts: Sequence[Part], label_ms: int, *, expected: int, part_min: int
    ) -> tuple[Columns, list[str]]:
        """Return the folded columns by pack name, and the reasons of the bar labelled `label_ms`.

        parts : those that exist of the `expected` ones, in time order, each `part_min` minutes.
        """
        lacking = max(expected - len(parts), 0)
        enough = expected - self._policy.stale_share * expected
        last = parts[-1] if parts and parts[-1].label_ms == label_ms else None
        rows: list[list[Any]] = [_unpack(part.values) for part in parts]
        columns: Columns = kernel.fold(
            rows,
            None if last is None else rows[-1],
            self.layout,
            self._folds,
            self._volume,
            enough,
        )
        columns["minutes_not_ok"] = lacking * part_min
        columns["minutes_missing"] = lacking * part_min
        for part in parts:
            columns["minutes_not_ok"] += part.minutes_not_ok
            columns["minutes_missing"] += part.minutes_missing
        known = any(row[self._imbalance] is not None for row in rows)
        reasons = self._reasons(columns, parts, last, minutes=expected * part_min, imbalance=known)
        return columns, reasons

    def _reasons(
        self,
        columns: Columns,
        parts: Sequence[Part],
        last: Part | None,
        *,
        minutes: int,
        imbalance: bool,
    ) -> list[str]:
        reasons = []
        if columns["minutes_missing"] >= self._policy.stale_share * minutes:
            reasons.append("minutes_missing")
        if columns["minutes_not_ok"] >= self._policy.partial_share * minutes:
            reasons.append("minutes_not_ok")
        count, volume = columns["trade_count_m_1"], columns[VOLUME]
        if columns["close"] is None and count != 0:
            reasons.append("no_data")
        if count == 0 or (count is None and volume == 0.0):
            reasons.append("quiet")
        if last is not None and OI_STALE in last.reasons:
            reasons.append(OI_STALE)
        if columns[IMBALANCE] is None and (
            imbalance or any(BOOK_MISSING in part.reasons for part in parts)
        ):
            reasons.append(BOOK_MISSING)
        return reasons


native.take_over("rollup", globals())  # plain form only
