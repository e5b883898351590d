"""The pack language: what it accepts, what it says about the rest, and that it computes right."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.expressions import (
    ARGUMENTS_MAX,
    DEPTH_MAX,
    LENGTH_MAX,
    ColumnType,
    ExpressionError,
    ExpressionFault,
    compile_expression,
)

NUMBER, BOOLEAN = ColumnType.NUMBER, ColumnType.BOOLEAN
COLUMNS = {
    "x": NUMBER,
    "y": NUMBER,
    "z_vol_m_1": NUMBER,
    "flag": BOOLEAN,
    "hot": BOOLEAN,
    "leader": ColumnType.TEXT,
    "symbol": ColumnType.TEXT,
    "ingest_ts": ColumnType.OPAQUE,
}
ROW = {
    "x": 2.0,
    "y": -3,
    "z_vol_m_1": 3.0,
    "flag": True,
    "hot": False,
    "leader": "BTC",
    "symbol": "ETH",
}


def value(text: str, want: ColumnType = NUMBER, **changes: Any) -> float | bool | None:
    return compile_expression(text, COLUMNS, want).evaluate(ROW | changes)


def faults(text: str, want: ColumnType = BOOLEAN) -> list[ExpressionFault]:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, COLUMNS, want)
    return list(caught.value.faults)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3.0),
        (".5", 0.5),
        ("2.", 2.0),
        ("1e-5", 1e-5),
        ("1.5E+3", 1500.0),
        ("x + y * 2", -4.0),
        ("(x + y) * 2", -2.0),
        ("x - y - 1", 4.0),
        ("12 / 2 / 3", 2.0),
        ("-x * y", 6.0),
        ("- - x", 2.0),
        ("abs(y)", 3.0),
        ("sign(y) + sign(x) + sign(0)", 0.0),
        ("min(x, y, 0)", -3.0),
        ("max(x, min(y, 9), 1)", 2.0),
        ("\tx\n + 1 ", 3.0),
    ],
)
def test_numbers(text: str, expected: float) -> None:
    """Arithmetic follows the usual precedence, left to right, and always gives a float."""
    result = value(text)
    assert result == expected
    assert type(result) is float


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("z_vol_m_1 >= 3.0", True),
        ("z_vol_m_1 > 3.0", False),
        ("x < 3 && y < 0 && flag", True),
        ("hot || flag && x < 0", False),
        ("(hot || flag) && x > 0", True),
        ("!hot", True),
        ("!(x < 3) || hot == false", True),
        ("flag != hot", True),
        ("true", True),
        ("x == 2 && y != 2", True),
        ("leader == 'BTC'", True),
        ('leader != "ETH" && "ETH" == symbol', True),
        ("leader == symbol", False),
    ],
)
def test_conditions(text: str, expected: bool) -> None:
    """Conditions combine comparisons, boolean columns and text equality."""
    assert value(text, BOOLEAN) is expected


def test_names_are_sorted_and_complete() -> None:
    """An expression names every column it reads once, in order."""
    expression = compile_expression("z_vol_m_1 > x && abs(y) > x", COLUMNS, BOOLEAN)
    assert expression.names == ("x", "y", "z_vol_m_1")


@pytest.mark.parametrize("missing", ["x", "y"])
def test_null_operand_makes_the_whole_null(missing: str) -> None:
    """A NULL or absent column gives NULL even where `||` would not have looked at it."""
    expression = compile_expression("x > 0 || y > 0", COLUMNS, BOOLEAN)
    assert expression.evaluate(ROW | {missing: None}) is None
    assert expression.evaluate({k: v for k, v in ROW.items() if k != missing}) is None


@pytest.mark.parametrize(
    "text",
    [
        "x / 0",
        "x / (y + 3)",
        "1e308 * 10",
        "min(1e308 * 10, 6)",
        "1 / (1e308 * 10)",
        "sign(-1e308 * 10)",
        "1e308 * 10 - 1e308 * 10",
        "-(1e308 + 1e308)",
    ],
)
def test_undefined_arithmetic_is_null(text: str) -> None:
    """Nothing infinite or undefined comes out, nor hides behind min, sign, a divisor or `>`."""
    assert value(text) is None
    assert value(f"{text} > 3", BOOLEAN) is None
    assert value(f"!({text} > 3)", BOOLEAN) is None


def test_logic_stops_early() -> None:
    """A division that a condition before it guards is never reached."""
    assert value("x > 9 && 1 / (y + 3) > 0", BOOLEAN) is False
    assert value("x < 9 || 1 / (y + 3) > 0", BOOLEAN) is True


def test_negative_zero_is_zero() -> None:
    """A zero result carries no sign, so that equal inputs give equal bytes."""
    result = value("-x", x=0.0)
    assert result == 0.0
    assert math.copysign(1.0, float(result)) == 1.0


def test_large_integers_do_not_raise() -> None:
    """Integers beyond the doubles become NULL."""
    assert value("x * x", x=10**200) is None
    assert value("x / 3", x=10**400) is None


@pytest.mark.parametrize(
    ("text", "position", "found", "expected"),
    [
        ("", 1, "the end", "a number, a column, a function or `(`"),
        ("z_volm_1 >= 3", 1, "unknown column `z_volm_1`", "did you mean `z_vol_m_1`?"),
        ("x > 0 and flag", 7, "`and`", "`&&`"),
        ("x > 0 & flag", 7, "`&`", "`&&`"),
        ("x = 2", 3, "`=`", "`==`"),
        ("x ≥ 2", 3, "`≥`", "`>=`"),
        ("|x| > 2", 1, "`|`", "abs(x)"),
        ("1 < x < 3", 7, "`<`", "a < b && b < c"),
        ("x > 0)", 6, "`)`", "an operator or the end"),
        ("(x > 0", 7, "the end", "`)`"),
        ("x y", 3, "`y`", "an operator or the end"),
        ("x ** 2 > 0", 4, "`*`", "a number"),
        ("x.real > 0", 2, "`.`", "an operator"),
        ("x[0] > 0", 2, "`[`", "an operator"),
        ("x > 20_000", 5, "`20_000`", "a number such as"),
        ("x > 1e999", 5, "`1e999`", "a double"),
        ("leader == 'BTC", 11, "`'`", "closing quote"),
        ("abs > 0", 5, "`>`", "`(` after `abs`"),
        ("sqrt(x) > 0", 1, "unknown function `sqrt`", "one of abs, sign, min, max"),
        ("abs(x, y) > 0", 1, "2 arguments of `abs`", "1"),
        ("min(x) > 0", 1, "1 argument of `min`", f"2 to {ARGUMENTS_MAX}"),
        ("max() > 0", 1, "0 arguments of `max`", f"2 to {ARGUMENTS_MAX}"),
        ("x", 1, "`x` (number)", "a condition (true or false) as the result"),
        ("x && flag", 1, "`x` (number)", "a condition (true or false) before `&&`"),
        ("flag || x + 1", 9, "`x + 1` (number)", "a condition (true or false) after `||`"),
        ("flag + 1 > 0", 1, "`flag` (boolean)", "a number before `+`"),
        ("-flag > 0", 2, "`flag` (boolean)", "a number after `-`"),
        ("!x", 2, "`x` (number)", "a condition (true or false) after `!`"),
        ("abs(flag) > 0", 5, "`flag` (boolean)", "a number in `abs`"),
        ("leader == 3", 11, "`3` (number)", "text to compare with `leader`"),
        ("x == 'BTC'", 6, "`'BTC'` (text)", "a number to compare with `x`"),
        ("flag == 1", 9, "`1` (number)", "a condition (true or false) to compare with `flag`"),
        ("leader > 'A'", 1, "`leader` (text)", "a number before `>`"),
        ("'A' == 'A'", 1, "`'A'` on both sides", "a text column"),
        ("'A'", 1, "`'A'` (text)", "a condition (true or false) as the result"),
        ("ingest_ts > 0", 1, "`ingest_ts`", "a column of numbers, booleans or text"),
        ("x == null", 6, "unknown column `null`", "NULL"),
    ],
)
def test_faults_say_where_what_and_what_else(
    text: str, position: int, found: str, expected: str
) -> None:
    """The first fault names its position, what is there and what should be."""
    first = faults(text)[0]
    assert (first.position, first.found) == (position, found)
    assert expected in first.expected


def test_all_faults_of_names_and_types_come_at_once() -> None:
    """One error lists every unknown name and wrong type, each once, in order."""
    with pytest.raises(ExpressionError) as caught:
        compile_expression("z_volm > 3 && flag + 1 > foo(2) && x", COLUMNS, BOOLEAN)
    assert [fault.position for fault in caught.value.faults] == [1, 15, 26, 36]
    message = str(caught.value)
    assert all(str(fault) in message for fault in caught.value.faults)


def test_a_score_is_a_number() -> None:
    """A condition is no score."""
    assert faults("x > 0", NUMBER)[0].expected == "a number as the result"


def test_bounds_are_said() -> None:
    """Text, nesting, chains and arguments beyond the bounds are refused with the bound."""
    fits = "(" * (DEPTH_MAX - 1) + "x" + ")" * (DEPTH_MAX - 1)
    assert value(fits) == 2.0
    assert str(DEPTH_MAX) in faults(f"({fits}) > 0")[0].expected
    assert str(DEPTH_MAX) in faults("+".join(["x"] * (DEPTH_MAX + 1)), NUMBER)[0].expected
    assert str(DEPTH_MAX) in faults("-" * 900 + "x", NUMBER)[0].expected
    assert str(LENGTH_MAX) in faults("x" + " " * LENGTH_MAX)[0].expected
    assert str(ARGUMENTS_MAX) in faults(f"min({','.join('x' * 9)})", NUMBER)[0].expected


@pytest.mark.parametrize("text", ["__import__('os')", "eval(x)", "__builtins__ > 0", "open(x) > 0"])
def test_nothing_of_python_can_be_reached(text: str) -> None:
    """Names other than columns and the four functions do not exist."""
    assert "unknown" in faults(text)[0].found or "`'" in faults(text)[0].found


def test_a_row_cannot_replace_a_function() -> None:
    """A row that happens to hold `abs` does not change what abs means."""
    assert value("abs(y)", abs=lambda _: 7.0) == 3.0


# --- properties ------------------------------------------------------------------------------

TOKENS = [*COLUMNS, "abs(", "sign(", "min(", "max(", "sqrt(", "true", "false", "null", "nope", "("]
TOKENS += [
    ")",
    ",",
    "&&",
    "||",
    "!",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "+",
    "-",
    "*",
    "/",
    "=",
    "&",
]
CHARACTERS = "xyabe_019.+-*/()<>=!&|,'\" \n\t\\#$@^~`[]{}:;?%é≥−٣\x00\ud800"
TOKENS += ["'a'", '"b"', "'", "3", "0", ".5", "1e", "1e9", "9.9.9", "1e999", ".", "_", "é", "\x00"]


@given(
    st.one_of(
        st.lists(st.sampled_from(TOKENS), max_size=12).map(" ".join),
        st.text(CHARACTERS, max_size=20),
    ),
    st.sampled_from([NUMBER, BOOLEAN]),
)
def test_property_token_soup_raises_nothing_but_expression_errors(
    text: str, want: ColumnType
) -> None:
    """Whatever is typed, it compiles and evaluates, or it is explained."""
    try:
        expression = compile_expression(text, COLUMNS, want)
    except ExpressionError as error:
        positions = [fault.position for fault in error.faults] or [0]
    else:
        positions = []
        assert isinstance(expression.evaluate(ROW), (float if want is NUMBER else bool) | None)
    assert all(1 <= position <= len(text) + 1 for position in positions)


class Null(Exception):
    """The naive evaluator met a NULL."""


Tree = tuple[Any, ...]  # (kind, parts...); leaves are ("number", 3.0) and ("column", "x")
POWERS = {"||": 1, "&&": 2, "==": 3, "!=": 3, "<": 3, "<=": 3, ">": 3, ">=": 3}
POWERS |= {"+": 4, "-": 4, "*": 5, "/": 5, "negate": 6, "!": 6}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def grow(numbers: st.SearchStrategy[Tree], conditions: st.SearchStrategy[Tree]) -> Any:
    arithmetic = st.tuples(st.sampled_from(["+", "-", "*", "/"]), numbers, numbers)
    unary = st.tuples(st.sampled_from(["negate", "abs", "sign"]), numbers)
    extremes = st.tuples(st.sampled_from(["min", "max"]), numbers, numbers)
    comparison = st.tuples(st.sampled_from(list(COMPARE)), numbers, numbers)
    logic = st.tuples(st.sampled_from(["&&", "||"]), conditions, conditions)
    number = st.one_of(arithmetic, unary, extremes)
    return number, st.one_of(comparison, logic, st.tuples(st.just("!"), conditions))


def trees() -> tuple[st.SearchStrategy[Tree], st.SearchStrategy[Tree]]:
    literals = st.sampled_from([0.0, 1.0, 0.1, 3.5, 1e-7, 1e308, 5e-324, 1e16])
    number: st.SearchStrategy[Tree] = st.one_of(
        st.tuples(st.just("number"), literals),
        st.tuples(st.just("column"), st.sampled_from(["x", "y", "z_vol_m_1"])),
    )
    condition: st.SearchStrategy[Tree] = st.one_of(
        st.tuples(st.just("column"), st.sampled_from(["flag", "hot"])),
        st.tuples(st.just("literal"), st.booleans()),
    )
    for _ in range(4):
        more_numbers, more_conditions = grow(number, condition)
        number, condition = number | more_numbers, condition | more_conditions
    return number, condition


def written(tree: Tree, power: int = 0) -> str:
    """Write a tree with as few parentheses as precedence allows."""
    kind, *parts = tree
    if kind in ("number", "literal"):
        return repr(parts[0]).lower()
    if kind == "column":
        return str(parts[0])
    if kind not in POWERS:
        return f"{kind}({', '.join(written(part) for part in parts)})"
    own = POWERS[kind]
    if len(parts) == 1:
        text = f"{'-' if kind == 'negate' else '!'}{written(parts[0], own)}"
    else:
        left_power = own + 1 if kind in COMPARE else own
        text = f"{written(parts[0], left_power)} {kind} {written(parts[1], own + 1)}"
    return f"({text})" if own < power else text


def naive(tree: Tree, row: Mapping[str, Any]) -> Any:
    """Evaluate a tree the obvious way; raises Null."""
    kind, *parts = tree
    if kind in ("number", "literal"):
        return parts[0]
    if kind == "column":
        return row[parts[0]]
    left = naive(parts[0], row)
    if kind == "!":
        return not left
    if kind == "&&":
        return left and naive(parts[1], row)
    if kind == "||":
        return left or naive(parts[1], row)
    if kind in ("negate", "abs", "sign"):
        sign = (left > 0) - (left < 0)
        return {"negate": -left, "abs": left * sign, "sign": float(sign)}[kind]
    right = naive(parts[1], row)
    if kind in COMPARE:
        return COMPARE[kind](left, right)
    if kind in ("min", "max"):
        return (min if kind == "min" else max)(left, right)
    if kind == "/" and right == 0:
        raise Null
    result = {"+": left + right, "-": left - right, "*": left * right}.get(kind)
    result = left / right if result is None else result
    if not math.isfinite(result):
        raise Null
    return result


def columns_of(tree: Tree) -> set[str]:
    if tree[0] == "column":
        return {tree[1]}
    return set().union(*(columns_of(part) for part in tree[1:] if isinstance(part, tuple)))


def expected_value(tree: Tree, row: Mapping[str, Any]) -> Any:
    if any(row[name] is None for name in columns_of(tree)):
        return None
    try:
        return naive(tree, row)
    except Null:
        return None


NUMBER_TREES, CONDITION_TREES = trees()
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
CELLS = st.one_of(FLOATS, st.sampled_from([0.0, -0.0, 3.0]), st.none())
ROWS = st.fixed_dictionaries(
    {
        "x": CELLS,
        "y": CELLS,
        "z_vol_m_1": CELLS,
        "flag": st.booleans() | st.none(),
        "hot": st.booleans(),
    }
)


@given(NUMBER_TREES, ROWS)
def test_oracle_numbers_agree_with_a_naive_evaluator(tree: Tree, row: dict[str, Any]) -> None:
    """A compiled score has the bits of a direct evaluation of the tree it was written from."""
    result = compile_expression(written(tree), COLUMNS, NUMBER).evaluate(row)
    expected = expected_value(tree, row)
    assert result == (None if expected is None else expected + 0.0)


@given(CONDITION_TREES, ROWS)
def test_oracle_conditions_agree_with_a_naive_evaluator(tree: Tree, row: dict[str, Any]) -> None:
    """A compiled condition equals a direct evaluation of the tree it was written from."""
    result = compile_expression(written(tree), COLUMNS, BOOLEAN).evaluate(row)
    assert result is expected_value(tree, row)
