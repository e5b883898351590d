"""Evaluate the detector pack on a row: flags, then candidates.

Rules of this file: a trigger is an expression over the row alone, so nothing is remembered; a NULL
operand makes it false and is counted; the quality gates do not silence a candidate, they mark it,
so that it can be accounted for; where liquidity tiers have thresholds of their own the lowest
counts here, and the asset's own after the join.  Build plan 5.6, 8.7, 9; design 3, 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from operators import ledger
from operators.naming import Naming
from operators.records import DQ_OK, Candidate, Columns, Row, RowItem
from packs.loader import MARKET_CLASSES, Detector, Packs
from packs.schema import TIMEFRAMES

FLAG_PREFIX = "is_"


class Detect:
    """`RowItem` in, the same with flags and candidates out; `nulls` counts silenced triggers."""

    def __init__(self, packs: Packs) -> None:
        self._naming = Naming(packs.features)
        active = [d for d in packs.detectors if is_of_assets(d)]
        self._by_tf: dict[str, tuple[Detector, ...]] = {
            tf: tuple(d for d in active if tf in d.tfs and not d.needs_frame) for tf in TIMEFRAMES
        }
        by_subtype = {d.subtype: d for d in packs.detectors}
        self._flags = tuple(
            (column.name, by_subtype.get(column.name.removeprefix(FLAG_PREFIX)))
            for column in packs.features.columns
            if column.family == "flag"
        )
        self.nulls: dict[str, int] = {}

    def initial(self) -> None:
        """Detection has no state."""

    def step(self, state: None, item: RowItem) -> list[RowItem]:
        """Return the item with flags set and the candidates of each row."""
        marked = [self._mark(row) for row in item.rows]
        rows = tuple(row for row, _ in marked)
        candidates = tuple(found for _, found in marked)
        return [RowItem(item.phase, item.asset_uid, rows, candidates)]

    def _mark(self, row: Row) -> tuple[Row, tuple[Candidate, ...]]:
        """Return the row with its flags, and its candidates."""
        view = self._naming.view(row)
        flags = {name: _flag(each, view) for name, each in self._flags if each is not None}
        stored = {self._naming.stored(name, row.tf): flag for name, flag in flags.items()}
        flagged = msgspec.structs.replace(row, columns=row.columns | stored)
        columns = view | flags | stored
        detectors = self._by_tf[row.tf]
        found = candidates_on(
            flagged, columns, detectors, Detector.may_fire, self._naming, self.nulls
        )
        return flagged, found


def candidates_on(
    row: Row,
    columns: Columns,
    detectors: Iterable[Detector],
    fires: Callable[[Detector, Columns], bool | None],
    naming: Naming,
    nulls: dict[str, int],
) -> tuple[Candidate, ...]:
    """Return what fires on a row, in the order of the detectors.

    columns : what expressions see. fires : tells of one detector, None where a NULL silences it;
    that is counted in `nulls`.
    """
    found = []
    for detector in detectors:
        fired = fires(detector, columns)
        if fired is None:
            nulls[detector.detector_id] = nulls.get(detector.detector_id, 0) + 1
        elif fired:
            found.append(candidate_of(detector, columns, row, naming))
    return tuple(found)


def is_evaluated(detector: Detector) -> bool:
    """Tell whether a detector finds candidates at all: a disabled one does, so that it can be
    watched before it is let out (build plan 20.3); one in mode off does not."""
    return detector.mode != "off"


def is_of_assets(detector: Detector) -> bool:
    """Tell whether a detector is evaluated on the rows of assets."""
    return is_evaluated(detector) and detector.event_class not in MARKET_CLASSES


def candidate_of(detector: Detector, columns: Columns, row: Row, naming: Naming) -> Candidate:
    """Score inputs of a trigger that held: z columns are clamped for scoring only (numerics 8)."""
    clamped = naming.clamped(row, columns)
    primary = detector.primary.evaluate(clamped)
    secondary = detector.secondary.evaluate(clamped) if detector.secondary is not None else 0.0
    return Candidate(
        detector_id=detector.detector_id,
        primary=float(primary or 0.0),
        secondary=float(secondary or 0.0),
        gate=gate_of(columns),
    )


def gate_of(columns: Columns) -> str | None:
    """Return the first quality gate that forbids publication (build plan 8.7), or None."""
    if columns["dq_status"] != DQ_OK:
        return ledger.DQ
    if columns["warmup"]:
        return ledger.WARMUP
    if columns["illiquidity_hit"]:
        return ledger.ILLIQUID
    return None


def _flag(detector: Detector, columns: Columns) -> bool | None:
    """A cheap flag: the trigger alone, on a minute that is ok and liquid; NULL with an operand."""
    value = detector.trigger.evaluate(columns)
    if value is None:
        return None
    return bool(value) and columns["dq_status"] == DQ_OK and not columns["illiquidity_hit"]
