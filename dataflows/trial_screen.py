"""Which rows a detector may fire on, for all rows at once.

Rules of this file: it only ever rules out; what is left is asked of the detector itself. A row is
ruled out where an expression over columns of doubles is certainly not true: `+ - * /`, `abs`,
`min`, `max` and comparisons of Arrow are those of Python, element by element, and whatever is not
known here (a flag, a column of the frame) may be true and may be false.  Numerics 11; design 5.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from dataflows.connectors.rows_table import TF, RowsTable
from operators.expressions import Expression
from packs.loader import Detector
from packs.schema import TIMEFRAMES

_COMPARED = {
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
}
_COMPUTED = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide"}
_CALLED = {
    "<abs>": "abs",
    "<sign>": "sign",
    "<min>": "min_element_wise",
    "<max>": "max_element_wise",
}


class _Unknown(Exception):
    """A part that cannot be told from the columns of the table."""


class Screen:
    """Rules rows out. A mask is an array of booleans without NULL, None where all may be true."""

    def __init__(self, table: RowsTable, arrow: Any) -> None:
        self._table = table
        self._arrow = arrow
        self._compute = arrow.compute
        self._of_tf: dict[str, Any] = {}
        self._valid: dict[str, Any] = {}

    def places(self, detectors: Iterable[Detector]) -> list[int]:
        """Return the places of the rows on which one of the detectors may fire, ascending."""
        found: Any = None
        for detector in detectors:
            for tf in detector.tfs:
                mask = self._and(self._timeframe(tf), self._may_fire(detector))
                found = mask if found is None else self._compute.or_(found, mask)
        if found is None:
            return []
        places: list[int] = self._compute.indices_nonzero(found).to_pylist()
        return places

    def _may_fire(self, detector: Detector) -> Any:
        mask: Any = None
        for name in detector.required:
            mask = self._and(mask, self._known(name))
        for guard in detector.guards:
            mask = self._and(mask, self._may_pass(guard))
        for condition in detector.conditions:
            mask = self._and(mask, self._true(condition.tree))
        triggers = (detector.trigger, *detector.tier_triggers.values())
        held = self._true(triggers[0].tree)
        for trigger in triggers[1:]:
            held = self._or(held, self._true(trigger.tree))
        return self._and(mask, held)

    def _may_pass(self, guard: Expression) -> Any:
        """A guard lets pass what is not false, NULL included."""
        if guard.may_fail or not self._table.names.issuperset(guard.names):
            return None
        mask = self._true(guard.tree)
        for name in guard.names:
            missing = self._compute.invert(self._known(name))
            mask = self._or(mask, missing)
        return mask

    def _timeframe(self, tf: str) -> Any:
        if tf not in self._of_tf:
            column = self._table.column(TF)
            self._of_tf[tf] = self._compute.equal(column, TIMEFRAMES.index(tf))
        return self._of_tf[tf]

    def _known(self, name: str) -> Any:
        if name not in self._table.names:
            return None
        if name not in self._valid:
            self._valid[name] = self._compute.is_valid(self._table.column(name))
        return self._valid[name]

    # --- conditions: where they may be true, where they may be false ------------------------

    def _true(self, node: ast.expr) -> Any:
        """Return where a condition may be true, with its columns known."""
        if isinstance(node, ast.BoolOp):
            masks = [self._true(part) for part in node.values]
            return self._all(masks) if isinstance(node.op, ast.And) else self._any(masks)
        if isinstance(node, ast.UnaryOp):
            return self._false(node.operand)
        return self._plain(node, negated=False)

    def _false(self, node: ast.expr) -> Any:
        """Return where a condition may be false."""
        if isinstance(node, ast.BoolOp):
            masks = [self._false(part) for part in node.values]
            return self._any(masks) if isinstance(node.op, ast.And) else self._all(masks)
        if isinstance(node, ast.UnaryOp):
            return self._true(node.operand)
        return self._plain(node, negated=True)

    def _plain(self, node: ast.expr, *, negated: bool) -> Any:
        """A comparison or a column; NULL is neither true nor false."""
        try:
            value = self._compared(node) if isinstance(node, ast.Compare) else self._value(node)
            if negated:
                value = self._compute.invert(value)
            return self._compute.fill_null(value, False)
        except (_Unknown, self._arrow.ArrowException, TypeError):
            return None

    def _compared(self, node: ast.Compare) -> Any:
        left, right = self._value(node.left), self._value(node.comparators[0])
        return getattr(self._compute, _COMPARED[type(node.ops[0])])(left, right)

    def _value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return self._arrow.scalar(node.value)
        if isinstance(node, ast.Name):
            if node.id not in self._table.names:
                raise _Unknown
            return self._table.column(node.id)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return self._compute.negate(self._value(node.operand))
        if isinstance(node, ast.BinOp):
            function = getattr(self._compute, _COMPUTED[type(node.op)])
            return function(self._value(node.left), self._value(node.right))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            values = [self._value(argument) for argument in node.args]
            if node.func.id == "<finite>":  # where it is not, the expression is NULL: never true
                return values[0]
            return getattr(self._compute, _CALLED[node.func.id])(*values)
        raise _Unknown

    # --- masks ------------------------------------------------------------------------------

    def _and(self, one: Any, other: Any) -> Any:
        if one is None or other is None:
            return other if one is None else one
        return self._compute.and_(one, other)

    def _or(self, one: Any, other: Any) -> Any:
        return None if one is None or other is None else self._compute.or_(one, other)

    def _all(self, masks: Iterable[Any]) -> Any:
        mask: Any = None
        for each in masks:
            mask = self._and(mask, each)
        return mask

    def _any(self, masks: list[Any]) -> Any:
        mask = masks[0]
        for each in masks[1:]:
            mask = self._or(mask, each)
        return mask
