"""One source, two forms: what is compiled, when it is used, and that it gives the same bits."""

from __future__ import annotations

import doctest
import math
import os
import random
import shutil
import struct
import subprocess
import sys
from array import array
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import forms
from operators import kernel, native
from operators.assemble import AssemblyState, Minute, Sealed
from operators.baselines import Decay, Feature, Robust
from operators.kernel import BOOK_BYTES, CONTEXT_BYTES, QUOTE_BYTES, TRADE_BYTES
from operators.lattice import MINUTE_MS
from operators.layout import pack_context, ticks_of
from operators.records import Book, Context, Feed, Quote, Trade

FOLDER = Path(kernel.__file__).parent
SOURCES = {n: (FOLDER / n).read_bytes() for names in native.UNITS.values() for n in names}
WITH_TEXT = [unit for unit, sources in native.UNITS.items() if sources[0].endswith(".py")]
PLAIN = forms.module("operators.kernel", "plain")
COMPILED = native.compiled("kernel")  # None: not built, or switched off

both = pytest.mark.skipif(COMPILED is None, reason="the inner loops are not compiled here")
floats = st.floats(allow_nan=False, allow_infinity=False)
prices = st.floats(1e-9, 1e12)


def bits(value: Any) -> Any:
    """Return a value with floats as their bytes, so that only equal bits compare equal."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, array):
        return value.tobytes()
    if isinstance(value, tuple | list):
        return [bits(item) for item in value]
    if isinstance(value, dict):
        return [(name, bits(item)) for name, item in value.items()]
    return value


def same(name: str, *arguments: Any) -> None:
    """Call a function of both forms; the results have the same types and bits, or both refuse."""
    results = []
    for form in (PLAIN, COMPILED):
        try:
            result = getattr(form, name)(*arguments)
        except AssertionError as error:
            result = ("refused", str(error))
        results.append((type(result), bits(result)))
    assert results[0] == results[1], (name, arguments)


# --- which form runs -----------------------------------------------------------------------------


def test_what_is_built_here_is_used() -> None:
    """A build of another text lies about unused: after a change, `make venv` builds again."""
    built = [p for s in EXTENSION_SUFFIXES for p in FOLDER.glob(f"{native.STEM}*{s}")]
    if not built or "ALPHA_PLAIN" in os.environ:
        pytest.skip("the inner loops are not compiled here")
    assert kernel.FORM == "compiled"
    assert kernel.round12 is not PLAIN.round12


def test_the_plain_form_needs_no_build() -> None:
    """Without the compiled module the source runs as it stands."""
    assert PLAIN.FORM == "plain"
    assert PLAIN.round12.__code__.co_filename == kernel.__file__


@pytest.mark.parametrize("unit", native.UNITS)
def test_any_change_of_a_source_is_another_module(unit: str) -> None:
    """The name holds a digest of all that was compiled."""
    expected = native.expected_module(unit)
    assert native.module_name(unit, SOURCES) == expected
    for name in native.UNITS[unit]:
        changed = {**SOURCES, name: SOURCES[name] + b"\n"}
        assert native.module_name(unit, changed) != expected


def test_lines_of_the_plain_form_are_left_out_in_place() -> None:
    """Line numbers stay those of the source."""
    text = "import a\nimport b  # plain form only\nc = 1\n"
    assert native.text_to_compile(text) == "import a\n\nc = 1\n"
    left = native.text_to_compile(SOURCES["kernel.py"].decode())
    assert "take_over" not in left
    assert "from math" not in left


@pytest.mark.slow
def test_the_source_compiles(tmp_path: Path) -> None:
    """Where there are Cython and a compiler, in a copy of the tree."""
    pytest.importorskip("Cython")
    setuptools = pytest.importorskip("setuptools")
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    assert setuptools.Extension
    root = FOLDER.parent
    (tmp_path / "operators").mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(root / name, tmp_path / name)
    for name in ("__init__.py", "native.py", *SOURCES):
        shutil.copy(FOLDER / name, tmp_path / "operators" / name)
    for name in ("dataflows", "packs", "sql", "fixtures"):
        (tmp_path / name).mkdir()
    done = run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], tmp_path)
    assert done == 0
    for unit in native.UNITS:
        assert list((tmp_path / "operators").glob(f"{native.expected_module(unit)}*"))


def run(command: list[str], folder: Path) -> int:
    """Run a command in a folder; return its status."""
    return subprocess.run(command, cwd=folder, check=False).returncode


@pytest.mark.parametrize("form", ["plain", "compiled"])
def test_the_examples_of_the_sources_hold(form: native.Form) -> None:
    """In both forms; pytest itself finds none in what is compiled."""
    if form not in forms.available():
        pytest.skip("the inner loops are not compiled here")
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for unit in WITH_TEXT:
        own = PLAIN if unit == "kernel" else forms.module(f"operators.{unit}", "plain")
        other: object = own if form == "plain" else native.compiled(unit)
        names = {name: found for name, found in vars(other).items() if not name.startswith("__")}
        for found in [each for each in vars(own).values() if _is_of(each, own)]:
            for test in finder.find(found):
                test.globs = dict(names)
                runner.run(test)
    assert runner.tries > 25
    assert runner.failures == 0


@both
@pytest.mark.parametrize("unit", WITH_TEXT)
def test_all_that_is_compiled_is_what_runs(unit: str) -> None:
    """Every function and class of a module, by its name, is that of the compiled one."""
    plain = forms.module(f"operators.{unit}", "plain")
    running = import_module(f"operators.{unit}")
    compiled = native.compiled(unit)
    assert compiled is not None
    own = [name for name, found in vars(plain).items() if _is_of(found, plain)]
    assert own
    taken = [name for name in own if hasattr(compiled, name)]
    if unit in native.STEPS:
        assert taken == own
    assert len(taken) > len(own) / 2  # the others are C alone
    for name in taken:
        assert getattr(running, name) is getattr(compiled, name), name


def _is_of(found: object, module: ModuleType) -> bool:
    kinds = (type, FunctionType)
    return isinstance(found, kinds) and found.__module__ == module.__name__


# --- rounding ------------------------------------------------------------------------------------


def near_ties() -> st.SearchStrategy[float]:
    """Return doubles at and next to the middle between two decimals of twelve digits."""
    return st.builds(
        lambda digits, exponent, steps: _stepped(float(f"{digits}5e{exponent}"), steps),
        st.integers(10**11, 10**12 - 1),
        st.integers(-40, 20),
        st.integers(-3, 3),
    )


def _stepped(x: float, steps: int) -> float:
    for _ in range(abs(steps)):
        x = math.nextafter(x, math.inf if steps > 0 else 0.0)
    return x


rounding = pytest.mark.parametrize("form", [PLAIN, COMPILED], ids=["plain", "compiled"])


@rounding
@settings(max_examples=400)
@given(x=floats | near_ties() | st.floats(-1e12, 1e12) | st.floats(1e-12, 1e-10))
def test_oracle_rounding_is_that_of_the_text(form: ModuleType | None, x: float) -> None:
    """Twelve digits as `format` has them, also near ties, at all sizes, of both signs."""
    if form is None:
        return
    for value in (x, -x):
        assert bits(form.round12(value)) == bits(float(format(value, ".12g")) + 0.0)


@rounding
def test_oracle_rounding_at_the_powers_of_ten_and_two(form: ModuleType | None) -> None:
    """Where the number of digits, the power to scale by, or the method changes."""
    if form is None:
        pytest.skip("the inner loops are not compiled here")
    edges = [10.0**k for k in range(-30, 31)] + [2.0**k for k in range(-60, 61)]
    edges += [x * (1 - 10.0**-k) for x in edges for k in (11, 12, 13)]
    for edge in edges:
        for steps in range(-4, 5):
            x = _stepped(edge, steps)
            assert bits(form.round12(x)) == bits(float(format(x, ".12g")))


@rounding
def test_oracle_rounding_of_many_doubles(form: ModuleType | None) -> None:
    """Products, quotients and sums of decimals, as rows have them."""
    if form is None:
        pytest.skip("the inner loops are not compiled here")
    rng = random.Random(12)
    for _ in range(50_000):
        x = rng.lognormvariate(0.0, 12.0) * rng.choice((1.0, -1.0, 0.5, 0.1, 1e-3))
        assert bits(form.round12(x)) == bits(float(format(x, ".12g")))


@rounding
@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf])
def test_only_finite_numbers_are_stored(form: ModuleType | None, x: float) -> None:
    """In both forms the same message."""
    if form is None:
        pytest.skip("the inner loops are not compiled here")
    with pytest.raises(AssertionError, match="only finite numbers"):
        form.round12(x)


# --- the same bits -------------------------------------------------------------------------------


@both
@given(floats)
def test_differential_elementary_functions(x: float) -> None:
    """On every double; outside their domain both refuse, in the same words."""
    for name in ("exp", "sigmoid", "log", "log1p", "round12", "rounded"):
        same(name, x)
    same("pow_3_8", abs(x))
    if abs(x) < 1e154:
        same("asinh", x)
    for transform in ("log", "log1p", "pow_3_8", "asinh"):
        same("in_domain", x, transform)
    same("key", x, 0.0)
    same("key", x, 1e-7)


@both
@given(st.lists(floats, min_size=1, max_size=30))
def test_differential_lists_of_numbers(values: list[float]) -> None:
    """Median, extremes, and the sums behind a slope."""
    same("median", values)
    same("ohlc", array("d", values))
    same("extremes", array("d", values))
    same("within_factor", array("d", values), 5.0)
    if len(values) > 1 and max(map(abs, values)) < 1e290:
        same("slope", values)


@both
@settings(max_examples=300)
@given(
    st.lists(
        st.floats(-1e250, 1e250) | st.floats(-1.0, 1.0) | st.integers(-3, 3).map(float),
        max_size=60,
    ),
    st.randoms(use_true_random=False),
)
def test_differential_sums_that_cancel(values: list[float], rng: random.Random) -> None:
    """A sum that nearly vanishes, or falls between two doubles, is still rounded correctly."""
    values += [-value for value in values] + [2.0**-53, 1.0, 2.0**-106]
    rng.shuffle(values)
    prints = [Trade(0, 0, value, 1.0, index % 2 == 0, index) for index, value in enumerate(values)]
    same("notional", ticks_of(trades=prints).trades)
    same("notional", ticks_of(trades=prints[: len(values) // 2]).trades)


@both
@given(st.lists(prices, max_size=40))
def test_differential_prices(mids: list[float]) -> None:
    """Volatility, returns and ranges."""
    same("realized_volatility", array("d", mids))
    for now in [None, 0.0, *mids[:3]]:
        for before in [None, 0.0, *mids[-2:]]:
            same("simple_return", now, before)
            same("range_ratio", now, before, before)


sides = st.none() | prices
times = st.integers(0, 59_999)
trades = st.builds(Trade, times, times, prices, prices, st.booleans(), st.integers(0, 1 << 62))
few = st.sampled_from([None, 1.0, 1.0 + 2.0**-52, 1.5, 2.0, 3.0])
quotes = st.builds(Quote, st.just(0), times, sides, sides, sides, sides) | st.builds(
    Quote, st.just(0), times, few, sides, few, sides
)
# Products that add up to just beside, or onto, the middle between two doubles.
halves = st.sampled_from([1.0, 1.0 + 2.0**-52, 2.0**-53, 3 * 2.0**-53, 2.0**-54, 2.0**-106, 1e16])
sizes = prices | halves
levels = st.lists(st.tuples(prices, prices) | st.tuples(halves, sizes), max_size=7).map(tuple)
books = st.builds(Book, st.just(0), times, levels, levels)
contexts = st.builds(Context, times, sides, st.just(0.0) | sides, st.just(0.0) | sides, sides)


@both
@settings(max_examples=200)
@given(
    st.lists(trades, max_size=12),
    st.lists(quotes, max_size=40),
    st.lists(quotes, max_size=1),
    st.lists(books, max_size=6),
    st.lists(books, max_size=1),
    st.lists(contexts, max_size=6),
    times,
)
def test_differential_a_minute(
    prints: list[Trade],
    tops: list[Quote],
    top: list[Quote],
    depths: list[Book],
    depth: list[Book],
    samples: list[Context],
    at_ms: int,
) -> None:
    """Every walk over messages, from any order."""
    ticks = ticks_of(prints, tops, depths, samples)
    before = ticks_of(quotes=top, books=depth)
    dated = [(ticks.trades, TRADE_BYTES), (ticks.quotes, QUOTE_BYTES), (ticks.books, BOOK_BYTES)]
    for records, size in dated:
        same("in_time_order", records, size)
        same("newest", records, size)
        same("last_ms", records, size)
        for index in range(len(records) // size):
            same("time_at", records, index, size)
    same("keys_of", ticks.trades)
    same("notional", ticks.trades)
    same("tops_of", ticks.books)
    in_order = PLAIN.in_time_order
    for carry, records in (
        (before.quotes, ticks.quotes),
        (PLAIN.tops_of(before.books), PLAIN.tops_of(ticks.books)),
    ):
        same("top_of_book", carry, in_order(records, QUOTE_BYTES), 0, MINUTE_MS, at_ms)
    same("depth_columns", before.books, in_order(ticks.books, BOOK_BYTES), 0, MINUTE_MS)
    same("contexts_of", ticks.contexts)
    same("newest_context", ticks.contexts)
    if samples:
        same("sample_of", ticks.contexts)


@pytest.mark.parametrize("form", [PLAIN, COMPILED], ids=["plain", "compiled"])
@given(st.lists(quotes, max_size=8), st.lists(books, max_size=4))
def test_oracle_records_in_time_order(
    form: ModuleType | None, tops: list[Quote], depths: list[Book]
) -> None:
    """As a stable sort has them; those in order are not copied; the newest is the last of all."""
    if form is None:
        return
    ticks = ticks_of(quotes=tops, books=depths)
    for records, size, given_ in (
        (ticks.quotes, QUOTE_BYTES, tops),
        (ticks.books, BOOK_BYTES, depths),
    ):
        ordered = sorted(given_, key=lambda one: one.time_ms)
        kind = "quotes" if given_ is tops else "books"
        found = form.in_time_order(records, size)
        assert found == getattr(ticks_of(**{kind: ordered}), kind)
        assert (found is records) is (ordered == given_)
        assert form.newest(records, size) == found[-size:]
    best = [side[0] if side else (None, None) for b in depths for side in (b.bids, b.asks)]
    quoted = [
        Quote(b.arrival_ns, b.time_ms, *bid, *ask)
        for b, bid, ask in zip(depths, best[::2], best[1::2], strict=True)
    ]
    assert form.tops_of(ticks.books) == ticks_of(quotes=quoted).quotes


# --- the same states -----------------------------------------------------------------------------


def same_states(
    name: str, data: bytearray, *arguments: Any, held: bytes = b"", keys: Any = ()
) -> AssemblyState:
    """Take records in by both forms, twice; return the state that both leave.

    held : contexts of the first open minute. keys : of closed prints.
    """
    states = []
    for form in (PLAIN, COMPILED):
        state = AssemblyState(final_ms=MINUTE_MS)
        kernel.remember_closed(state, list(keys))
        state.sealed = Sealed(2 * MINUTE_MS, {}, {}, Feed(), {})
        if held:
            state.minutes[2 * MINUTE_MS] = Minute(contexts=bytearray(held))
        for records in (data[: len(data) // 2], data):
            getattr(form, name)(state, records, *arguments, Minute)
        states.append(state)
    assert states[0] == states[1], name
    assert list(states[0].minutes) == list(states[1].minutes)
    assert list(states[0].dropped) == list(states[1].dropped)
    return states[0]


dates = st.integers(0, 5 * MINUTE_MS) | st.sampled_from(
    [MINUTE_MS - 1, MINUTE_MS, 2 * MINUTE_MS - 1, 2 * MINUTE_MS]
)
arrivals = st.integers(0, 8 * MINUTE_MS).map(lambda ms: ms * 1_000_000 + 999_999)
near = st.none() | st.integers(90, 110).map(float)
taken_trades = st.builds(Trade, arrivals, dates, prices, prices, st.booleans(), st.integers(0, 2))
taken_quotes = st.builds(Quote, arrivals, dates, near, near, near, near)
taken_books = st.builds(
    lambda quote: Book(
        quote.arrival_ns,
        quote.time_ms,
        () if quote.bid_px is None else ((quote.bid_px, 1.0),),
        () if quote.ask_px is None else ((quote.ask_px, 1.0),),
    ),
    taken_quotes,
)
taken_contexts = st.builds(Context, arrivals, near, near, near, near)


@both
@settings(max_examples=100)
@given(
    st.lists(st.lists(taken_trades, min_size=4, max_size=4), max_size=6),
    st.lists(st.lists(taken_quotes, min_size=4, max_size=4), max_size=6),
    st.lists(st.lists(taken_books, min_size=2, max_size=2), max_size=6),
    st.lists(st.lists(taken_contexts, min_size=2, max_size=2), max_size=6),
    st.integers(0, 5000),
)
def test_differential_messages_are_taken_in(
    prints: list[list[Trade]],
    tops: list[list[Quote]],
    depths: list[list[Book]],
    samples: list[list[Context]],
    future_ms: int,
) -> None:
    """Late, known, from the future, crossed and of many minutes: equal states, in equal order."""
    ticks = ticks_of(
        *([one for some in kind for one in some] for kind in (prints, tops, depths, samples))
    )
    keys = PLAIN.keys_of(ticks.trades)[::3]
    same_states("take_trades", ticks.trades, future_ms, keys=keys)
    same_states("take_states", ticks.quotes, QUOTE_BYTES, future_ms)
    same_states("take_states", ticks.books, BOOK_BYTES, future_ms)
    same_states("take_contexts", ticks.contexts)


@both
@pytest.mark.parametrize("room", [0, 1, 5, 6, 7])
def test_differential_a_minute_that_is_full(room: int) -> None:
    """What is over is counted by both, also of a print that is known."""
    at, arrival_ns = MINUTE_MS + 5, (MINUTE_MS + 300) * 1_000_000
    silent = pack_context(Context(arrival_ns, None, None, None, None))
    held = silent * (kernel.MINUTE_MESSAGES_MAX - room)
    ticks = ticks_of(
        [Trade(arrival_ns, at, 1.0, 1.0, True, tid) for tid in (1, 2, 3, 4)],
        [Quote(arrival_ns, at + k, 1.0, 1.0, 2.0, 1.0) for k in range(4)],
        [Book(arrival_ns, at + k, ((1.0, 1.0),), ((2.0, 1.0),)) for k in range(4)],
        [Context(arrival_ns, 1.0, float(k), 1.0, None) for k in range(4)],
    )
    prints = same_states("take_trades", ticks.trades, 0, held=held)
    states = [
        same_states("take_states", ticks.quotes, QUOTE_BYTES, 0, held=held),
        same_states("take_states", ticks.books, BOOK_BYTES, 0, held=held),
        same_states("take_contexts", ticks.contexts, held=held),
    ]
    new = min(room, 4)  # two, and then those two again with two more
    assert len(prints.minutes[2 * MINUTE_MS].trades) == new * TRADE_BYTES
    assert (
        prints.dropped.get(kernel.OVERFLOW, 0) + prints.dropped.get(kernel.DUPLICATE, 0) == 6 - new
    )
    assert prints.dropped.get(kernel.DUPLICATE, 0) == (2 if room > 2 else 0)
    for state, kind, size in (
        (states[0], "quotes", QUOTE_BYTES),
        (states[1], "books", BOOK_BYTES),
        (states[2], "contexts", CONTEXT_BYTES),
    ):
        over = max(0, 6 - room)
        held_before = len(held) if kind == "contexts" else 0
        assert len(getattr(state.minutes[2 * MINUTE_MS], kind)) - held_before == (6 - over) * size
        assert state.dropped == ({kernel.OVERFLOW: over} if over else {})


@both
@given(
    st.lists(st.integers(0, 30), unique=True).map(sorted),
    st.integers(-2, 32),
    st.integers(1, 6),
    st.integers(1, 3),
)
def test_differential_closed_bars(labels: list[int], at: int, bars: int, step: int) -> None:
    """What is found, and where nothing is."""
    values = [None if label % 5 == 0 else label / 7 for label in labels]
    same("value_at", labels, values, at)
    same("values_to", labels, values, at, bars, step)


KINDS = (
    Feature("vol", "log1p", 0.05, None, 1.0),
    Feature("ret_abs", "pow_3_8", 0.001, None, 1e-7, ranked=False),
    Feature("spread", "log", 0.1, None, 0.0),
    Feature("oi_roc", "asinh", 0.05, 1e-6, 1e-6),
    Feature("dfunding", "asinh", 0.05, 1e-7, 1e-7, ranked=False, scored=False),
)
# The weights fade so fast that they are rescaled, and days roll often.
EARLY = Robust(8, 20, 2.5, 0.9775599834528066, 1.4826, 4.0, 4.7215, 3.0, 1.0, 1e-9)
FAST = Decay(0.05, 0.03, 3.0)
steps = st.tuples(
    st.none() | st.floats(1e-9, 1e9) | st.sampled_from((1.0, 2.0, 1e-7)),
    st.sampled_from(("ok", "ok", "ok", "partial", "stale")),
    st.sampled_from((60_000, 60_000, 86_400_000)),
    st.booleans(),  # amended: taken back and applied again
)


@both
@settings(max_examples=150)
@given(st.sampled_from(KINDS), st.lists(steps, max_size=60), st.floats(0.0, 1.0))
def test_differential_a_baseline(
    feature: Feature, bars: list[tuple[float | None, str, int, bool]], p: float
) -> None:
    """Warm-up, day rolls, rescaled weights and bars that are taken back: the same results, states
    and bytes after every bar."""
    assert COMPILED is not None
    logs = []
    for form in (PLAIN, COMPILED):
        state, seen = form.Baseline(-4.7215, 4.7215), form.Seen()
        plan, label_ms, log = form.Plan(feature, FAST, EARLY), 0, list[Any]()
        for x, dq, ahead, amended in bars:
            label_ms += ahead
            before = form.checkpoint(state, x, label_ms, plan)
            log.append(repr(before))
            if amended:
                form.apply(state, seen, x, label_ms, "ok", plan)
                form.restore(state, before)
            form.apply(state, seen, x, label_ms, dq, plan)
            flags = (seen.warm, seen.has_z, seen.has_q, seen.floored)
            log.append((flags, bits([seen.z, seen.q, seen.m, seen.s]), form.dump(state)))
            log.append(repr(state))
        sketch = state.sketch
        log.append(bits([sketch.quantile(p), sketch.rank(p, 0.0), sketch.lighter(1e-3)]))
        sketch.prune(1e-3)
        log.append(form.dump(state))
        logs.append(log)
    assert logs[0] == logs[1]


@both
@pytest.mark.parametrize("days", [3])
def test_differential_the_whole_of_a_row(days: int) -> None:
    """Days of bars, then a log with every feed, amended minutes and longer rows: equal states after
    each, byte by byte, and equal rows."""
    outputs = []
    for form in forms.available():
        with forms.running(form):
            outputs.append(_rows_and_states(days))
    plain, compiled = outputs
    assert len(plain) > 50
    assert plain == compiled


def _rows_and_states(days: int) -> list[bytes]:
    """Return rows and states of a log as bytes, of the form whose modules are imported now."""
    row, msgpack = import_module("bench.bench_row"), import_module("msgspec").msgpack
    records = import_module("operators.records")
    subject = row.Subject(days, 34)
    assemble, normalize = row.Assemble(subject.packs.features), row.Normalize(subject.packs)
    codec = normalize.codec()
    assembly, state = assemble.initial(), codec.decode(subject.season)
    found = [subject.season]
    for _, item in subject.items:
        for bar in assemble.step(assembly, item):
            found.append(msgpack.encode(bar))
            found.extend(msgpack.encode(out) for out in normalize.step(state, bar))
            found.append(codec.encode(state))
            if bar.bar is not None:  # as if something had come late
                old = bar.bar
                columns = {**old.columns, "v_total_m_1": old.columns["v_total_m_1"] + 1.0}
                again = records.Bar(old.asset_uid, old.symbol, old.exchange_ts_ms, 1, columns)
                item = records.BarItem(bar.phase, bar.asset_uid, again)
                found.extend(msgpack.encode(out) for out in normalize.step(state, item))
                found.append(codec.encode(state))
    return found
