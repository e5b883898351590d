"""The pack language: triggers and scores as small expressions over columns.

    expression := or ; or := and ('||' and)* ; and := compare ('&&' compare)*
    compare    := sum (('=='|'!='|'<'|'<='|'>'|'>=') sum)?        (not chained)
    sum        := product (('+'|'-') product)* ; product := unary (('*'|'/') unary)*
    unary      := ('-'|'!') unary | number | 'text' | "text" | true | false | column
                | '(' expression ')' | abs(x) | sign(x) | min(x, y, ...) | max(x, y, ...)

Rules of this file: the text is parsed here, never by Python; what is compiled is a syntax tree of
our own making, so nothing but the columns and the four functions can be reached; every fault of
names and types is reported at once, with its position; arithmetic is IEEE double, left to right as
written. Bounds: LENGTH_MAX characters, DEPTH_MAX levels, ARGUMENTS_MAX arguments. Design 5.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from types import CodeType
from typing import Any

LENGTH_MAX = 1000  # characters of one expression
DEPTH_MAX = 50  # levels of nesting; a chain a + b + c counts one level per operator
ARGUMENTS_MAX = 8  # of min and max
_SHOWN_MAX = 200  # characters of the text that a message repeats


class ColumnType(Enum):
    """What an expression can do with a column; OPAQUE (times, lists) cannot be used in one."""

    NUMBER = "number"
    BOOLEAN = "boolean"
    TEXT = "text"
    OPAQUE = "opaque"


@dataclass(frozen=True, slots=True)
class ExpressionFault:
    """One thing that is wrong. position : character of the text, counted from 1."""

    position: int
    found: str
    expected: str

    def __str__(self) -> str:
        return f"position {self.position}: found {self.found}, expected {self.expected}"


class ExpressionError(Exception):
    """The text is not an expression over these columns; `faults` lists every reason."""

    def __init__(self, text: str, faults: Sequence[ExpressionFault]) -> None:
        self.text = text
        self.faults = tuple(faults)
        shown = text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
        super().__init__(f"in `{shown}`: " + "; ".join(str(fault) for fault in self.faults))


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression. names : the columns it reads, sorted. tree : what was compiled."""

    text: str
    names: tuple[str, ...]
    type: ColumnType
    _code: CodeType = field(repr=False)
    tree: ast.expr = field(repr=False, compare=False)

    @property
    def may_fail(self) -> bool:
        """Tell whether a value may be NULL although every column it names is known."""
        return any(isinstance(node, ast.BinOp) for node in ast.walk(self.tree))

    def python(self, variables: Mapping[str, str]) -> str:
        """Return the text of it in Python, in brackets, with variables in the place of columns.

        Its value is that of `evaluate` before the last check, where every column is known; what
        it calls is in PYTHON_NAMES, and raises FAILURES.
        """
        return f"({ast.unparse(_renamed(self.tree, variables))})"

    def evaluate(self, row: Mapping[str, Any]) -> float | bool | None:
        """Return the value over one row: float for a number, bool for a condition, None for NULL.

        NULL: any column it names is NULL or absent, whether or not it would have been reached; a
        division by zero that was reached (`&&` and `||` stop early); arithmetic that left the
        finite numbers, even inside a comparison or `min`. A zero result is +0.0.
        """
        for name in self.names:
            if row.get(name) is None:
                return None
        try:
            value = eval(self._code, _FUNCTIONS, row)
            if self.type is ColumnType.BOOLEAN:
                return bool(value)
            number = float(value + 0.0)
        except FAILURES:
            return None
        return number if number - number == 0.0 else None


def compile_expression(
    text: str, columns: Mapping[str, ColumnType], want: ColumnType
) -> Expression:
    """Return the compiled expression; `want` is NUMBER or BOOLEAN.

    Raises ExpressionError with every unknown column, unknown function, wrong argument count and
    wrong type; a fault of syntax ends the list, as nothing after it can be read.

    >>> columns = {"z_vol_m_1": ColumnType.NUMBER, "ret_m_1": ColumnType.NUMBER}
    >>> trigger = compile_expression("z_vol_m_1 >= 3 && ret_m_1 > 0", columns, ColumnType.BOOLEAN)
    >>> trigger.evaluate({"z_vol_m_1": 3.0, "ret_m_1": 0.001})
    True
    >>> trigger.evaluate({"z_vol_m_1": None, "ret_m_1": 0.001}) is None
    True
    """
    assert want in (ColumnType.NUMBER, ColumnType.BOOLEAN), want
    parser = _Parser(text, columns)
    try:
        body = parser.parse(want)
    except _SyntaxStop:
        raise ExpressionError(text, parser.faults) from None
    if parser.faults:
        raise ExpressionError(text, parser.faults)
    tree = ast.fix_missing_locations(ast.Expression(body=body))
    code = compile(tree, "<expression>", "eval")
    return Expression(text, tuple(sorted(parser.names)), want, code, body)


# --- the functions an expression can reach ---------------------------------------------------


def _sign(x: float) -> float:
    return 1.0 if x > 0 else -1.0 if x < 0 else 0.0


def _finite(x: float) -> float:
    """Pass a finite number through; wrapped around arithmetic before its result is consumed."""
    if x - x != 0.0:
        raise OverflowError
    return x


# The keys cannot be written in an expression, so no column can take a function's place.
_FUNCTIONS: dict[str, Any] = {
    "__builtins__": {},
    "<abs>": abs,
    "<sign>": _sign,
    "<min>": min,
    "<max>": max,
    "<finite>": _finite,
}
# The same under names that can be written in Python, for text that is made of expressions.
PYTHON_NAMES: dict[str, Any] = {
    f"_{name.strip('<>')}": function
    for name, function in _FUNCTIONS.items()
    if name != "__builtins__"
}
FAILURES = (ZeroDivisionError, OverflowError)  # make an expression NULL


_HELD = "_held"  # the variable in Python of a number that is being checked


def _renamed(node: Any, variables: Mapping[str, str]) -> Any:
    """Return a tree with variables in the place of columns, and names of Python for functions.

    The check of a number is written out: `_finite` is called for one that fails it.
    """
    if isinstance(node, list):
        return [_renamed(each, variables) for each in node]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        call = ast.Call(_renamed(node.func, variables), _renamed(node.args, variables), [])
        if node.func.id != "<finite>":
            return call
        held, (number,) = ast.Name(_HELD, ast.Load()), call.args
        kept = ast.NamedExpr(ast.Name(_HELD, ast.Store()), number)
        nothing = ast.BinOp(kept, ast.Sub(), held)
        is_finite = ast.Compare(nothing, [ast.Eq()], [ast.Constant(0.0)])
        return ast.IfExp(is_finite, held, ast.Call(call.func, [held], []))
    if isinstance(node, ast.Name):
        own = f"_{node.id.strip('<>')}" if node.id.startswith("<") else variables[node.id]
        return ast.Name(own, node.ctx)
    if not isinstance(node, ast.AST) or not node._fields:
        return node
    return type(node)(*[_renamed(getattr(node, name), variables) for name in node._fields])


_ARGUMENTS = {"abs": (1, 1), "sign": (1, 1), "min": (2, ARGUMENTS_MAX), "max": (2, ARGUMENTS_MAX)}
FUNCTION_NAMES = tuple(_ARGUMENTS)
RESERVED_NAMES = frozenset({*_ARGUMENTS, "true", "false"})  # no column may be called so

# --- tokens ----------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<number>\.?\d(?:[eE][+-]|[\w.])*)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<text>'[^']*'|"[^"]*")
      | (?P<operator>&&|\|\||==|!=|<=|>=|[-+*/<>!(),])""",
    re.VERBOSE | re.ASCII,
)
_NUMBER = re.compile(r"(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_CHARACTER_HINTS = {
    "=": "`==`",
    "&": "`&&`",
    "∧": "`&&`",
    "|": "`||`, or abs(x) for a magnitude",
    "∨": "`||`",
    "¬": "`!`",
    "≥": "`>=`",
    "≤": "`<=`",
    "≠": "`!=`",
    "−": "`-`",
    "–": "`-`",
    "×": "`*`",
    "·": "`*`",
    "÷": "`/`",
    "%": "a plain ratio such as 0.01 for 1 %",
    "'": "the closing quote of the text",
    '"': "the closing quote of the text",
}
_NAME_HINTS = {
    "and": "`&&`",
    "or": "`||`",
    "not": "`!`",
    "true": "`true`",
    "false": "`false`",
    "null": "a value; a NULL column makes the whole expression NULL by itself",
    "none": "a value; a NULL column makes the whole expression NULL by itself",
}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # number, name, text, operator, end
    text: str
    start: int
    end: int


def _skip_space(text: str, start: int) -> int:
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
    return start


def _next_token(text: str, start: int) -> _Token | None:
    """Return the token at `start`, None if no token begins there."""
    start = _skip_space(text, start)
    if start == len(text):
        return _Token("end", "", start, start)
    match = _TOKEN.match(text, start)
    if match is None:
        return None
    return _Token(match.lastgroup or "", match.group(), start, match.end())


# --- parser ----------------------------------------------------------------------------------

_COMPARISONS: dict[str, type[ast.cmpop]] = {
    "==": ast.Eq,
    "!=": ast.NotEq,
    "<": ast.Lt,
    "<=": ast.LtE,
    ">": ast.Gt,
    ">=": ast.GtE,
}
_ARITHMETIC: dict[str, type[ast.operator]] = {
    "+": ast.Add,
    "-": ast.Sub,
    "*": ast.Mult,
    "/": ast.Div,
}
_LOGIC: dict[str, type[ast.boolop]] = {"||": ast.Or, "&&": ast.And}
_POWERS = {"||": 1, "&&": 2, **dict.fromkeys(_COMPARISONS, 3), "+": 4, "-": 4, "*": 5, "/": 5}
_UNARY_POWER = 6
_WANTED = {
    ColumnType.NUMBER: "a number",
    ColumnType.BOOLEAN: "a condition (true or false)",
    ColumnType.TEXT: "text",
}


@dataclass(frozen=True, slots=True)
class _Term:
    """A parsed part. type : None once it was reported as faulty, so that it is reported once.

    unchecked : arithmetic whose result may have left the finite numbers.
    """

    node: ast.expr
    type: ColumnType | None
    start: int
    end: int
    depth: int = 1
    literal: bool = False
    unchecked: bool = False


class _SyntaxStop(Exception):
    """The rest of the text cannot be read; the fault is already in the list."""


class _Parser:
    """Pratt parser; checks names and types while it builds the tree."""

    def __init__(self, text: str, columns: Mapping[str, ColumnType]) -> None:
        self.faults: list[ExpressionFault] = []
        self.names: set[str] = set()
        self._text = text
        self._columns = columns
        self._level = 0
        self._token = _Token("end", "", 0, 0)

    def parse(self, want: ColumnType) -> ast.expr:
        """Return the tree of the whole text; faults of names and types are left in `faults`."""
        if len(self._text) > LENGTH_MAX:
            raise self._stop(0, f"{len(self._text)} characters", f"at most {LENGTH_MAX}")
        self._advance()
        term = self._expression(0)
        if self._token.kind != "end":
            hint = _NAME_HINTS.get(self._token.text.lower(), "an operator or the end")
            raise self._stop(self._token.start, self._found(), hint)
        self._require(term, want, "as the result")
        return term.node

    def _expression(self, power: int) -> _Term:
        self._level += 1
        if self._level > DEPTH_MAX:
            raise self._too_deep(self._token.start)
        left = self._prefix()
        while _POWERS.get(self._token.text, 0) > power and self._token.kind == "operator":
            operator = self._token.text
            self._advance()
            left = self._infix(left, operator, self._expression(_POWERS[operator]))
            if left.depth > DEPTH_MAX:
                raise self._too_deep(left.start)
        self._level -= 1
        return left

    def _too_deep(self, start: int) -> _SyntaxStop:
        return self._stop(start, f"more than {DEPTH_MAX} levels", f"at most {DEPTH_MAX}")

    def _prefix(self) -> _Term:
        token = self._token
        self._advance()
        if token.kind == "number":
            return self._number(token)
        if token.kind == "text":
            node = ast.Constant(token.text[1:-1])
            return _Term(node, ColumnType.TEXT, token.start, token.end, literal=True)
        if token.kind == "name":
            return self._name(token)
        if token.text == "(":
            term = self._expression(0)
            end = self._expect(")")
            return _Term(
                term.node, term.type, token.start, end, term.depth, unchecked=term.unchecked
            )
        if token.text in ("-", "!"):
            return self._unary(token)
        found = "the end" if token.kind == "end" else f"`{token.text}`"
        raise self._stop(token.start, found, "a number, a column, a function or `(`")

    def _number(self, token: _Token) -> _Term:
        if _NUMBER.fullmatch(token.text) is None:
            raise self._stop(token.start, f"`{token.text}`", "a number such as 3, 0.015 or 1e-5")
        value = float(token.text)
        if value - value != 0.0:
            self._fault(token.start, f"`{token.text}`", "a number a double can hold")
        return _Term(ast.Constant(value), ColumnType.NUMBER, token.start, token.end)

    def _name(self, token: _Token) -> _Term:
        if token.text in ("true", "false"):
            node = ast.Constant(token.text == "true")
            return _Term(node, ColumnType.BOOLEAN, token.start, token.end)
        if self._token.text == "(" and self._token.kind == "operator":
            return self._call(token)
        if token.text in _ARGUMENTS:
            raise self._stop(self._token.start, self._found(), f"`(` after `{token.text}`")
        kind = self._columns.get(token.text)
        if kind is None:
            self._fault(token.start, f"unknown column `{token.text}`", self._hint(token.text))
        elif kind is ColumnType.OPAQUE:
            self._fault(token.start, f"`{token.text}`", "a column of numbers, booleans or text")
            kind = None
        self.names.add(token.text)
        return _Term(ast.Name(token.text, ast.Load()), kind, token.start, token.end)

    def _hint(self, name: str) -> str:
        if name.lower() in _NAME_HINTS:
            return _NAME_HINTS[name.lower()]
        close = get_close_matches(name, sorted(self._columns), n=1)
        return f"a known column; did you mean `{close[0]}`?" if close else "a known column"

    def _call(self, token: _Token) -> _Term:
        self._advance()
        terms: list[_Term] = []
        while self._token.text != ")" or self._token.kind != "operator":
            if terms:
                self._expect(",")
            terms.append(self._expression(0))
        end = self._expect(")")
        if token.text not in _ARGUMENTS:
            known = ", ".join(FUNCTION_NAMES)
            self._fault(token.start, f"unknown function `{token.text}`", f"one of {known}")
            return _Term(ast.Constant(0.0), None, token.start, end)
        self._check_arguments(token, terms)
        nodes = [self._checked(term) for term in terms]
        node = ast.Call(ast.Name(f"<{token.text}>", ast.Load()), nodes, [])
        depth = 1 + max((term.depth for term in terms), default=0)
        return _Term(node, ColumnType.NUMBER, token.start, end, depth)

    def _check_arguments(self, token: _Token, terms: list[_Term]) -> None:
        low, high = _ARGUMENTS[token.text]
        if not low <= len(terms) <= high:
            count = str(low) if low == high else f"{low} to {high}"
            given = f"{len(terms)} argument{'' if len(terms) == 1 else 's'} of `{token.text}`"
            self._fault(token.start, given, count)
        for term in terms:
            self._require(term, ColumnType.NUMBER, f"in `{token.text}`")

    def _unary(self, token: _Token) -> _Term:
        operand = self._expression(_UNARY_POWER)
        want = ColumnType.NUMBER if token.text == "-" else ColumnType.BOOLEAN
        self._require(operand, want, f"after `{token.text}`")
        node = ast.UnaryOp(ast.USub() if token.text == "-" else ast.Not(), operand.node)
        depth = operand.depth + 1
        return _Term(node, want, token.start, operand.end, depth, unchecked=operand.unchecked)

    def _infix(self, left: _Term, operator: str, right: _Term) -> _Term:
        if operator in _LOGIC:
            return self._logic(left, operator, right)
        if operator in _COMPARISONS:
            return self._comparison(left, operator, right)
        self._require(left, ColumnType.NUMBER, f"before `{operator}`")
        self._require(right, ColumnType.NUMBER, f"after `{operator}`")
        divisor = self._checked(right) if operator == "/" else right.node
        node = ast.BinOp(left.node, _ARITHMETIC[operator](), divisor)
        return self._joined(node, ColumnType.NUMBER, left, right, unchecked=True)

    def _logic(self, left: _Term, operator: str, right: _Term) -> _Term:
        self._require(left, ColumnType.BOOLEAN, f"before `{operator}`")
        self._require(right, ColumnType.BOOLEAN, f"after `{operator}`")
        node = ast.BoolOp(_LOGIC[operator](), [left.node, right.node])
        return self._joined(node, ColumnType.BOOLEAN, left, right)

    def _comparison(self, left: _Term, operator: str, right: _Term) -> _Term:
        if self._token.text in _COMPARISONS and self._token.kind == "operator":
            raise self._stop(self._token.start, self._found(), "`&&`: write `a < b && b < c`")
        self._check_comparison(left, operator, right)
        sides = self._checked(left), self._checked(right)
        node = ast.Compare(sides[0], [_COMPARISONS[operator]()], [sides[1]])
        return self._joined(node, ColumnType.BOOLEAN, left, right)

    def _check_comparison(self, left: _Term, operator: str, right: _Term) -> None:
        if left.type is None or right.type is None:
            return
        if operator not in ("==", "!="):
            self._require(left, ColumnType.NUMBER, f"before `{operator}`")
            self._require(right, ColumnType.NUMBER, f"after `{operator}`")
        elif left.literal and right.literal:
            self._fault(left.start, f"{self._quote(left)} on both sides", "a text column on one")
        else:
            self._require(right, left.type, f"to compare with {self._quote(left)}")

    def _joined(
        self,
        node: ast.expr,
        kind: ColumnType,
        left: _Term,
        right: _Term,
        *,
        unchecked: bool = False,
    ) -> _Term:
        depth = 1 + max(left.depth, right.depth)
        return _Term(node, kind, left.start, right.end, depth, unchecked=unchecked)

    def _checked(self, term: _Term) -> ast.expr:
        """Return the node, wrapped so that it cannot hand on an infinite or undefined number."""
        if not term.unchecked:
            return term.node
        return ast.Call(ast.Name("<finite>", ast.Load()), [term.node], [])

    def _require(self, term: _Term, want: ColumnType, where: str) -> None:
        if term.type is None or term.type is want:
            return
        found = f"{self._quote(term)} ({term.type.value})"
        self._fault(term.start, found, f"{_WANTED[want]} {where}")

    def _quote(self, term: _Term) -> str:
        return f"`{self._text[term.start : term.end]}`"

    def _found(self) -> str:
        return "the end" if self._token.kind == "end" else f"`{self._token.text}`"

    def _expect(self, text: str) -> int:
        """Consume the operator and return where it ends."""
        if self._token.kind != "operator" or self._token.text != text:
            raise self._stop(self._token.start, self._found(), f"`{text}`")
        end = self._token.end
        self._advance()
        return end

    def _advance(self) -> None:
        token = _next_token(self._text, self._token.end)
        if token is None:
            start = _skip_space(self._text, self._token.end)
            character = self._text[start]
            expected = _CHARACTER_HINTS.get(character, "a number, a column or an operator")
            raise self._stop(start, f"`{character}`", expected)
        self._token = token

    def _fault(self, start: int, found: str, expected: str) -> None:
        self.faults.append(ExpressionFault(start + 1, found, expected))

    def _stop(self, start: int, found: str, expected: str) -> _SyntaxStop:
        """Note a fault after which nothing can be read, and return what to raise."""
        self._fault(start, found, expected)
        return _SyntaxStop()


# --- parts -----------------------------------------------------------------------------------


def parts_of(text: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the operator that joins the conditions of an expression, and their texts.

    The outermost `||` or else `&&`, without the brackets around the whole; None and the text
    itself where there is neither. text : of a compiled expression.

    >>> parts_of("(z_vol_m_1 >= 3 && (ret_m_1 > 0 || ret_m_1 < -1))")
    ('&&', ('z_vol_m_1 >= 3', '(ret_m_1 > 0 || ret_m_1 < -1)'))
    >>> parts_of("abs(x) >= 3")
    (None, ('abs(x) >= 3',))
    """
    tokens = _tokens_of(text)
    if not tokens:
        return None, ("",)
    depth, cuts = 0, {"||": [0], "&&": [0]}
    wrapped = tokens[0].text == "(" and tokens[0].kind == "operator"
    for index, token in enumerate(tokens):
        if token.kind == "operator":
            depth += (token.text == "(") - (token.text == ")")
            if depth == 0 and token.text in cuts:
                cuts[token.text] += [token.start, token.end]
        wrapped = wrapped and (depth > 0 or index == len(tokens) - 1)
    if wrapped:
        return parts_of(text[tokens[0].end : tokens[-1].start])
    for operator, places in cuts.items():
        if len(places) > 1:
            ends = [*places[1:], len(text)]
            pairs = zip(places[::2], ends[::2], strict=True)
            return operator, tuple(text[start:end].strip() for start, end in pairs)
    return None, (text.strip(),)


def _tokens_of(text: str) -> list[_Token]:
    tokens = []
    token = _next_token(text, 0)
    while token is not None and token.kind != "end":
        tokens.append(token)
        token = _next_token(text, token.end)
    return tokens
