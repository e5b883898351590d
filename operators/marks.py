"""The flags and triggers of a timeframe, all of them in one function that is made from the pack.

Rules of this file: the text of the function is made from the syntax trees of expressions alone, so
nothing can be reached that an expression cannot reach; a column is read once for all detectors;
what it says of a row is what `Detector.may_fire` says of each detector, NULL for NULL (a test holds
them side by side).  Build plan 5.6, 9; design 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from sys import intern

from operators.expressions import FAILURES, PYTHON_NAMES, Expression
from operators.naming import Naming
from operators.records import Columns, Row
from operators.verdicts import DQ_OK
from packs.loader import Detector, Packs
from packs.schema import MINUTE_TF, Timeframe

FLAG_PREFIX = "is_"
SYMBOL = "symbol"
_GLOBALS = {**PYTHON_NAMES, "FAILURES": FAILURES, "DQ_OK": DQ_OK}

# (columns, symbol, count of NULLs by detector) -> which fired
SetFlags = Callable[[Columns, str, list[int]], list[int]]


class Marks:
    """What is found on the rows of one timeframe before the join.

    detectors : of assets, those evaluated here, in the order of the pack. nulls : how often a NULL
    silenced each of them. set_flags : (columns, symbol, nulls) sets the flags among the columns
    and returns the places of the detectors that may fire, ascending.
    """

    def __init__(
        self, packs: Packs, tf: Timeframe, active: Iterable[Detector], naming: Naming
    ) -> None:
        self.detectors = tuple(d for d in active if tf in d.tfs and not d.needs_frame)
        self.nulls = [0] * len(self.detectors)
        by_subtype = {d.subtype: d for d in packs.detectors}
        self._scored_on = [  # names that score inputs read, each with its stored name
            [(name, naming.stored(name, tf)) for name in _scored_on(each)]
            for each in self.detectors
        ]
        stored: dict[str, str] = {}  # of the flags that a detector sets
        flags: dict[str, Expression] = {}
        for column in packs.features.columns:
            detector = by_subtype.get(column.name.removeprefix(FLAG_PREFIX))
            if column.family == "flag" and detector is not None:
                stored[column.name] = naming.stored(column.name, tf)
                flags[column.name] = detector.trigger
        made_of = _Text(tf, naming, flags, stored, self.detectors)
        text = made_of.text()
        known = {**_GLOBALS, "read": itemgetter(*map(intern, made_of.reads))}
        made: dict[str, SetFlags] = {}
        exec(compile(text, f"<marks of {tf}>", "exec"), known, made)
        self.set_flags = made["set_flags"]

    def seen(self, hit: int, row: Row) -> Columns:
        """Return the columns that a detector's candidate is scored on, by the detector's place, as
        `Naming.view` has them. row : with its flags."""
        columns = row.columns
        seen = {name: columns.get(stored) for name, stored in self._scored_on[hit]}
        if "symbol" in seen:
            seen["symbol"] = columns.get("symbol", row.symbol)
        return seen


class _Text:
    """Makes the text of the function, a line at a time."""

    def __init__(
        self,
        tf: Timeframe,
        naming: Naming,
        flags: Mapping[str, Expression],
        stored: Mapping[str, str],
        detectors: Iterable[Detector],
    ) -> None:
        self._tf = tf
        self._naming = naming
        self._read: dict[str, str] = {}  # column -> variable
        self._lines: list[str] = []
        self._triggers: dict[str, str] = {}  # text of a trigger -> the variable of its value
        status, thin = self._column("dq_status"), self._column("illiquidity_hit")
        self._put(1, f"good = {status} == DQ_OK and not {thin}")
        for number, expression in enumerate(flags.values()):
            self._flag(number, expression)
        variables = {name: f"f{number}" for number, name in enumerate(flags)}
        # What is found is evaluated with the flags; a stored name stands above the pack's.
        self._flagged = variables | {stored[name]: variables[name] for name in flags}
        for name, variable in variables.items():
            self._put(1, f"columns[{stored[name]!r}] = {variable}")
        for number, detector in enumerate(detectors):
            self._detector(number, detector)

    def text(self) -> str:
        """Return the text of the whole. `read` gives the columns of `reads`, in one go."""
        variables = [self._read[name] for name in self._plain()]
        reads = [
            f"        {v} = get({name!r})" for v, name in zip(variables, self.reads, strict=True)
        ]
        head = [
            "def set_flags(columns, symbol, nulls):",
            f"    try: {', '.join(variables)}, = read(columns)",
            "    except KeyError:",  # the row does not carry all of them
            "        get = columns.get",
            *reads,
        ]
        if SYMBOL in self._read:
            head.append(f"    {self._read[SYMBOL]} = columns.get({SYMBOL!r}, symbol)")
        return "\n".join([*head, "    hits = []", *self._lines, "    return hits", ""])

    @property
    def reads(self) -> list[str]:
        """Return the columns that are read, as rows store them; at least two."""
        if self._tf == MINUTE_TF:
            return self._plain()
        return [self._naming.stored(name, self._tf) for name in self._plain()]

    def _plain(self) -> list[str]:
        return [name for name in self._read if name != SYMBOL]

    def _column(self, name: str) -> str:
        """Return the variable of a column of the row as it came."""
        return self._read.setdefault(name, f"c{len(self._read)}")

    def _seen(self, name: str) -> str:
        """Return the variable of a column as detectors see it."""
        return self._flagged.get(name) or self._column(name)

    def _flag(self, number: int, trigger: Expression) -> None:
        """A cheap flag: the trigger alone, on a minute that is ok and liquid; NULL with an
        operand."""
        variables = {name: self._column(name) for name in trigger.names}
        text, held, flag = trigger.python(variables), f"t{number}", f"f{number}"
        self._triggers[text] = held
        self._put(1, f"{held} = {flag} = None")
        self._put(1, f"if {_known(variables.values())}:")
        depth = 2
        if trigger.may_fail:
            self._put(2, "try:")
            depth = 3
        self._put(depth, f"{held} = True if {text} else False")
        self._put(depth, f"{flag} = {held} and good")
        if trigger.may_fail:
            self._put(2, "except FAILURES: pass")

    def _detector(self, number: int, detector: Detector) -> None:
        """Note a detector among the hits, or a NULL that silenced it."""
        required = {name: self._seen(name) for name in detector.required}
        self._put(1, f"if {_known(required.values())}:")
        depth = 2
        for guard in detector.guards:
            depth = self._guard(guard, depth)
        triggers = (detector.trigger, *detector.tier_triggers.values())
        conditions = [self._text_of(each) for each in detector.conditions]
        texts = [self._text_of(each) for each in triggers]
        hit, silenced = f"hits.append({number})", f"nulls[{number}] += 1"
        if not any(each.may_fail for each in (*detector.conditions, *triggers)):
            texts = [self._triggers.get(text, text) for text in texts]
            fired = texts[0] if len(texts) == 1 else f"({' or '.join(texts)})"
            self._put(depth, f"if {' and '.join([*conditions, fired])}: {hit}")
        elif not conditions and texts[0] in self._triggers and len(texts) == 1:
            held = self._triggers[texts[0]]
            self._put(depth, f"if {held}: {hit}")
            self._put(depth, f"elif {held} is None: {silenced}")
        else:
            # Every trigger is evaluated: one that is NULL silences the others, too.
            every = " | ".join([f"(True if {text} else False)" for text in texts])
            fired = texts[0] if len(texts) == 1 else f"({every})"
            self._put(depth, "try:")
            self._put(depth + 1, f"if {' and '.join([*conditions, fired])}: {hit}")
            self._put(depth, f"except FAILURES: {silenced}")
        self._put(1, f"else: {silenced}")

    def _text_of(self, expression: Expression) -> str:
        """Return an expression over what detectors see."""
        return expression.python({name: self._seen(name) for name in expression.names})

    def _guard(self, guard: Expression, depth: int) -> int:
        """Go on unless a guard is false; NULL is not false."""
        variables = {name: self._seen(name) for name in guard.names}
        text = guard.python(variables)
        if not guard.may_fail:
            self._put(depth, f"if not ({_known(variables.values())}) or {text}:")
            return depth + 1
        self._put(depth, f"held = not ({_known(variables.values())})")
        self._put(depth, "if not held:")
        self._put(depth + 1, f"try: held = True if {text} else False")
        self._put(depth + 1, "except FAILURES: held = True")
        self._put(depth, "if held:")
        return depth + 1

    def _put(self, depth: int, line: str) -> None:
        self._lines.append("    " * depth + line)


def _scored_on(detector: Detector) -> list[str]:
    expressions = [each for each in (detector.primary, detector.secondary) if each is not None]
    return sorted({name for each in expressions for name in each.names})


def _known(variables: Iterable[str]) -> str:
    """Return the condition that no variable is NULL."""
    return " and ".join(f"{variable} is not None" for variable in variables) or "True"
