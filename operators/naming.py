"""One name per column for expressions: the pack's, on every timeframe.

A 15m row stores `v_total_m_15` where a 1m row has `v_total_m_1`; detectors, the market frame and
the relative strength are written once, with the names of the pack.  Build plan 15.2; design D18.
"""

from __future__ import annotations

from operators.formulas import severity as formula
from operators.records import Columns, Row
from packs.schema import MINUTE_TF, TIMEFRAMES, FeaturePack


class Naming:
    """Reads rows of any timeframe by the names of the pack."""

    def __init__(self, features: FeaturePack) -> None:
        self._unknown: Columns = dict.fromkeys(column.name for column in features.columns)
        self._names: dict[str, dict[str, str]] = {tf: features.names(tf) for tf in TIMEFRAMES}

    def stored(self, name: str, tf: str) -> str:
        """Return the name under which rows of a timeframe store a column, itself if it has none."""
        return self._names[tf].get(name, name)

    def read(self, row: Row, name: str) -> object:
        """Return one column of a row, NULL if the row does not carry it."""
        return row.columns.get(self.stored(name, row.tf))

    def view(self, row: Row) -> Columns:
        """Return the row's columns by pack name and by stored name, with what identifies it.

        A column that rows of the timeframe do not carry is NULL.
        """
        columns = {"symbol": row.symbol, **row.columns}
        if row.tf != MINUTE_TF:
            columns = {**self._unknown, **columns}
            names = self._names[row.tf]
            columns |= {name: row.columns.get(stored) for name, stored in names.items()}
        return columns

    def clamped(self, row: Row, columns: Columns) -> Columns:
        """Return columns of a view with every z inside its own bounds, for scoring only
        (numerics 8)."""
        bounds, names = row.extras.get("clamp", {}), self._names[row.tf]
        clamped = dict(columns)
        for name, value in columns.items():
            own = bounds.get(names.get(name, name))
            if own is not None and value is not None:
                clamped[name] = formula.clamp(value, lo=own[0], hi=own[1])
        return clamped
