"""The market itself as a pseudo-asset: what its detectors see, and what they find.

Rules of this file: a row of MARKET is the frame of its timeframe with the columns that every row
has; it is never warming up or illiquid, and its quality is that of the frame; its detectors are
expressions over the frame's columns, evaluated when the frame is made.  Design 3.
"""

from __future__ import annotations

from operators import native
from operators.detect import candidates_on, is_evaluated
from operators.lattice import iso
from operators.naming import Naming
from operators.records import MARKET_SYMBOL, MARKET_UID, Candidate, Columns, Frame, Phase, Row
from packs.loader import MARKET_CLASSES, Detector, Packs

# What a row of an asset has and the market has not: no gate of it can close, no feed lags.
_ALWAYS: Columns = {
    "warmup": False,
    "illiquidity_hit": False,
    "dq_penalty": 0,
    "illiq_penalty": 0,
    "is_in_universe": True,
    "is_hot": False,
    "book_staleness_ms": None,
    "oi_staleness_ms": None,
    "clock_skew_ms": None,
}


def market_row(frame: Frame, phase: Phase) -> Row:
    """Return the market's row of a frame's timeframe."""
    columns = {
        **_ALWAYS,
        **frame.columns,
        "ingest_ts": iso(phase.clock_ms),
        "ingest_lag_ms": phase.clock_ms - phase.minute_ms,
    }
    return Row(MARKET_UID, MARKET_SYMBOL, frame.tf, frame.exchange_ts_ms, frame.revision, columns)


class Marketwide:
    """Evaluates the market-wide detectors; `nulls` counts triggers silenced by a NULL."""

    def __init__(self, packs: Packs) -> None:
        self._naming = Naming(packs.features)
        self._detectors = tuple(
            d for d in packs.detectors if d.event_class in MARKET_CLASSES and is_evaluated(d)
        )
        self.nulls: dict[str, int] = {}

    def candidates(self, row: Row) -> tuple[Candidate, ...]:
        """Return what fires on a row of the market."""
        columns = {"symbol": row.symbol, **row.columns}
        detectors = [d for d in self._detectors if row.tf in d.tfs]
        return candidates_on(row, columns, detectors, Detector.fires, self._naming, self.nulls)


native.take_over("marketwide", globals())  # plain form only
