"""Evaluate the detector pack on a row: flags, then candidates.

Rules of this file: a trigger is an expression over the row alone, so nothing is remembered; a NULL
operand makes it false and is counted; the quality gates do not silence a candidate, they mark it,
so that it can be accounted for; where liquidity tiers have thresholds of their own the lowest
counts here, and the asset's own after the join.  Build plan 5.6, 8.7, 9; design 3, 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from operators import ledger, native
from operators.marks import Marks
from operators.naming import Naming
from operators.records import Candidate, Columns, Row, RowItem
from operators.verdicts import DQ_OK
from packs.loader import MARKET_CLASSES, Detector, Packs
from packs.schema import TIMEFRAMES


class Detect:
    """`RowItem` in, the same with flags and candidates out; `nulls` counts silenced triggers.

    What comes in is taken over: the rows that go out are those, with their flags written in.
    """

    def __init__(self, packs: Packs) -> None:
        self._naming = Naming(packs.features)
        self._marks: dict[str, Marks] = {
            tf: Marks(packs, tf, [d for d in packs.detectors if is_of_assets(d)], self._naming)
            for tf in TIMEFRAMES
        }

    @property
    def nulls(self) -> dict[str, int]:
        """Return how often a NULL silenced each detector, of those it ever silenced."""
        total: dict[str, int] = {}
        for marks in self._marks.values():
            for detector, count in zip(marks.detectors, marks.nulls, strict=True):
                if count:
                    total[detector.detector_id] = total.get(detector.detector_id, 0) + count
        return total

    def initial(self) -> None:
        """Detection has no state."""

    def step(self, state: None, item: RowItem) -> list[RowItem]:
        """Return the item with flags set and the candidates of each row."""
        candidates = tuple([self._mark(row) for row in item.rows])
        return [RowItem(item.phase, item.asset_uid, item.rows, candidates)]

    def _mark(self, row: Row) -> tuple[Candidate, ...]:
        """Give the row its flags; return its candidates."""
        marks = self._marks[row.tf]
        hits = marks.set_flags(row.columns, row.symbol, marks.nulls)
        if not hits:  # nearly every row
            return ()
        gate = gate_of(row.columns)
        return tuple(
            [
                candidate_of(marks.detectors[hit], marks.seen(hit, row), gate, row, self._naming)
                for hit in hits
            ]
        )


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
            found.append(candidate_of(detector, columns, gate_of(columns), row, naming))
    return tuple(found)


def is_evaluated(detector: Detector) -> bool:
    """Tell whether a detector finds candidates at all: a disabled one does, so that it can be
    watched before it is let out (build plan 20.3); one in mode off does not."""
    return detector.mode != "off"


def is_of_assets(detector: Detector) -> bool:
    """Tell whether a detector is evaluated on the rows of assets."""
    return is_evaluated(detector) and detector.event_class not in MARKET_CLASSES


def candidate_of(
    detector: Detector, columns: Columns, gate: str | None, row: Row, naming: Naming
) -> Candidate:
    """Score inputs of a trigger that held: z columns are clamped for scoring only (numerics 8).

    columns : at least those that its score inputs name. gate : of the row.
    """
    clamped = naming.clamped(row, columns)
    primary = detector.primary.evaluate(clamped)
    secondary = detector.secondary.evaluate(clamped) if detector.secondary is not None else 0.0
    return Candidate(
        detector_id=detector.detector_id,
        primary=float(primary or 0.0),
        secondary=float(secondary or 0.0),
        gate=gate,
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


native.take_over("detect", globals())  # plain form only
