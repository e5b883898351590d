"""Baselines: exact streams, quality gating, amendments, serialisation."""

import math
import pickle
import random
import struct
from array import array
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.baselines import (
    Baseline,
    Checkpoint,
    CorruptState,
    Decay,
    Feature,
    Normalised,
    Robust,
    apply,
    checkpoint,
    checkpoint_of,
    dump,
    fresh,
    load,
    restore,
    stored_checkpoint,
)
from operators.formulas.sketch import key

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_BARS = 1440

# feature pack v1.0, numerics 2 and 3
ROBUST = Robust(
    min_samples=200,
    low_confidence_samples=1000,
    clip_sigma=2.5,
    kappa=0.9775599834528066,
    mad_consistency=1.4826,
    d_clip=4.0,
    clamp_default=4.7215,
    clamp_iqr_k=3.0,
    clamp_iqr_floor=1.0,
    sketch_prune_share=1e-9,
)
M1 = Decay(a_m=0.000962241166216571, a_s=0.000481236377333771, growth=1.00048146807729)
H1 = Decay(a_m=0.0561256873183065, a_s=0.0284680588463941, growth=1.02930223664349)
VOL = Feature("vol", "log1p", s_min=0.05, d_min=None, x_zero=1.0)
RET_ABS = Feature("ret_abs", "pow_3_8", s_min=0.001, d_min=None, x_zero=1e-7)
SPREAD = Feature("spread", "log", s_min=0.10, d_min=None, x_zero=0.0)
OI = Feature("oi", "asinh", s_min=0.05, d_min=1e-6, x_zero=1e-6)

FEATURES = {feature.name: feature for feature in (VOL, RET_ABS, SPREAD, OI)}
RAW: dict[str, Callable[[float], float]] = {
    "vol": lambda u: 1000.0 + 1e6 * u * u * u,
    "ret_abs": lambda u: 0.002 * abs(2.0 * u - 1.0) * abs(2.0 * u - 1.0),
    "spread": lambda u: 1.0 if u < 0.9 else 1.0 + u,
    "oi": lambda u: 0.002 * (2.0 * u - 1.0) * (2.0 * u - 1.0) * (2.0 * u - 1.0),
}

# feature, sample, values at 12 digits (x at full precision), bits of z; numerics 12
MINUTES = """
vol 200 x=308682.52281415067 z=0.626708995321 q=0.656234605851 m=11.3062331138 v=4.52975573711 lo=-4.7215 hi=4.7215 zhex 0x1.40e0005e06265p-1
vol 201 x=84029.04167737925 z=0.0153185769456 q=0.39911152647 m=11.3064119429 v=4.50612322311 lo=-4.7215 hi=4.7215 zhex 0x1.f5f5898058af3p-7
vol 1440 x=14697.129684400883 z=-0.748948394327 q=0.230068132803 m=11.1819569963 v=4.48710483673 lo=-4.7215 hi=4.7215 zhex -0x1.7f7629f80d4f8p-1
vol 1441 x=1564.217715768826 z=-1.80192907961 q=0.0864043047761 m=11.1770496305 v=4.49717647433 lo=-5.10153635415 hi=5.2864367651 zhex -0x1.cd4b3962a1393p+0
vol 3000 x=94599.22476165427 z=0.135945026063 q=0.459847380656 m=11.1691714147 v=4.49565578991 lo=-5.26352338561 hi=5.42667301784 zhex 0x1.166a5887f1e51p-3
ret_abs 200 x=0.0002452779081582057 z=-0.427141179329 q=0.359076610288 m=0.0561994502055 v=0.000779840890635 lo=-4.7215 hi=4.7215 zhex -0x1.b5647f4ff957cp-2
ret_abs 201 x=3.2504404297465114e-05 z=-1.2604464462 q=0.141626250151 m=0.0560055540896 v=0.000782443713852 lo=-4.7215 hi=4.7215 zhex -0x1.42ac9e48c7639p+0
ret_abs 1440 x=0.0005438680159136028 z=0.1706158053 q=0.531657395477 m=0.0550370512547 v=0.000739719810089 lo=-4.7215 hi=4.7215 zhex 0x1.5d6bd1bf8c705p-3
ret_abs 1441 x=0.0013935675640508812 z=1.09746742277 q=0.815101830564 m=0.0550753879694 v=0.000739886287794 lo=-5.90221467799 hi=6.00488716266 zhex 0x1.18f3a00133851p+0
ret_abs 3000 x=1.690115944702753e-05 z=-1.46070120209 q=0.0894064148323 m=0.0555015825193 v=0.000722619837763 lo=-5.8938575052 hi=5.94104059964 zhex -0x1.75f0839430787p+0
spread 200 x=1.0 z=-0.415343936172 q=0.424617275005 m=0.0454048547353 v=0.011950575843 lo=-4.7215 hi=4.7215 zhex -0x1.a94febb9cf52fp-2
spread 201 x=1.0 z=-0.413963784237 q=0.425010654087 m=0.0451565193437 v=0.0118991577372 lo=-4.7215 hi=4.7215 zhex -0x1.a7e61f4c1b793p-2
spread 1440 x=1.0 z=-0.331095370081 q=0.443424606646 m=0.0331095370081 v=0.00936605455534 lo=-4.7215 hi=4.7215 zhex -0x1.530aaa296d4aap-2
spread 1441 x=1.0 z=-0.330670714828 q=0.443479032729 m=0.0330670714828 v=0.00935812173879 lo=-3.24338835729 hi=2.9297511086 zhex -0x1.529b5807badbcp-2
spread 3000 x=1.0 z=-0.287193075116 q=0.448588685305 m=0.0287193075116 v=0.00777029367312 lo=-3.19869211098 hi=2.97240752855 zhex -0x1.2615f1050a2cdp-2
oi 200 x=8.589594315003094e-05 z=0.0892577110875 q=0.658638658103 m=0.0679320717409 v=0.988162930512 d=0.000546059198442 lo=-4.7215 hi=4.7215 zhex 0x1.6d997e6096be4p-4
oi 201 x=-4.143795543277144e-06 z=-0.0757923818506 q=0.39911152647 m=0.0675188068085 v=0.983036587455 d=0.000543231253664 lo=-4.7215 hi=4.7215 zhex -0x1.3672129559830p-4
oi 1440 x=-0.0002836124432205301 z=-0.551200700693 q=0.229068121787 m=0.00397245754627 v=0.947642331449 d=0.000508134479823 lo=-4.7215 hi=4.7215 zhex -0x1.1a36fa6e04e18p-1
oi 1441 x=-0.0011632606738484336 z=-1.60824251698 q=0.0856859896474 m=0.00196031077925 v=0.949149664414 d=0.000508764717643 lo=-3.44937338086 hi=3.4770667399 zhex -0x1.9bb5c81674506p+0
oi 3000 x=-1.5536734723157004e-06 z=-0.00230007944432 q=0.458510134439 m=-0.000823455818717 v=0.971954462218 d=0.000502634957786 lo=-3.48199007452 hi=3.4958255471 zhex -0x1.2d79dbfbab894p-9
"""  # noqa: E501
HOURS = """
vol 1h 200 z=0.626708995321 q=0.594506392806 m=11.3062331138 v=4.52975573711 lo=-4.7215 hi=4.7215 0x1.40e0005e06265p-1
vol 1h 201 z=0.0147118590316 q=0.3331951982 m=11.3080682462 v=4.40044226058 lo=-4.7215 hi=4.7215 0x1.e21404b3b7ee7p-7
vol 1h 400 z=-0.757113346421 q=0.243493570527 m=11.1597307778 v=4.46577059104 lo=-5.49287830032 hi=5.79817397956 -0x1.83a45c4c7d8a9p-1
"""  # noqa: E501


def stream(name: str, n: int) -> list[float]:
    """The reference's pseudo-random samples; the integer recursion is exact everywhere."""
    s = 42
    xs = []
    for _ in range(n):
        s = (1103515245 * s + 12345) % 2**31
        xs.append(RAW[name](s / 2**31))
    return xs


def step(
    state: Baseline,
    x: float | None,
    i: int,
    feature: Feature = VOL,
    decay: Decay = M1,
    dq: str = "ok",
    tf_ms: int = MINUTE_MS,
) -> Normalised:
    return apply(state, x, label_ms=i * tf_ms, dq=dq, feature=feature, decay=decay, robust=ROBUST)


def run(
    feature: Feature, xs: list[float], start: int = 1, state: Baseline | None = None
) -> Baseline:
    state = fresh(ROBUST) if state is None else state
    for i, x in enumerate(xs, start=start):
        step(state, x, i, feature)
    return state


def history(
    feature: Feature, decay: Decay, tf_ms: int, n: int
) -> dict[int, tuple[float, Normalised, Baseline]]:
    """Value, result and state after each sample that a reference line names."""
    wanted = {200, 201, 400, 1440, 1441, 3000}
    state = fresh(ROBUST)
    seen = {}
    for i, x in enumerate(stream(feature.name, n), start=1):
        out = step(state, x, i, feature, decay, tf_ms=tf_ms)
        if i in wanted:
            seen[i] = (x, out, state.copy())
    return seen


def pairs(line: str) -> Iterator[tuple[str, str]]:
    for word in line.split():
        name, found, value = word.partition("=")
        if found:
            yield name, value


def assert_meets(line: str, x: float, out: Normalised, state: Baseline) -> None:
    assert out.z is not None
    assert out.q is not None
    assert out.mean == state.m
    got = {
        "x": repr(x),
        "z": format(out.z, ".12g"),
        "q": format(out.q, ".12g"),
        "m": format(state.m, ".12g"),
        "v": format(state.v, ".12g"),
        "d": format(state.d, ".12g"),
        "lo": format(out.clamp_lo, ".12g"),
        "hi": format(out.clamp_hi, ".12g"),
    }
    for name, expected in pairs(line):
        assert got[name] == expected, f"{name} of {line}"
    assert out.z.hex() == line.split()[-1]


@pytest.fixture(scope="module")
def minutes() -> dict[str, dict[int, tuple[float, Normalised, Baseline]]]:
    return {name: history(FEATURES[name], M1, MINUTE_MS, 3000) for name in FEATURES}


@pytest.fixture(scope="module")
def day_old() -> dict[str, Baseline]:
    """Each feature's state after 1700 samples, a day roll included; copy before use."""
    return {name: run(FEATURES[name], stream(name, 1700)) for name in FEATURES}


# --- the reference's streams -----------------------------------------------------------------


@pytest.mark.parametrize("line", MINUTES.strip().splitlines(), ids=lambda s: s[:13].strip())
def test_oracle_minutes(
    line: str, minutes: dict[str, dict[int, tuple[float, Normalised, Baseline]]]
) -> None:
    """Every 1m line of the reference is met, z to the last bit."""
    name, i, *_ = line.split()
    assert_meets(line, *minutes[name][int(i)])


@pytest.mark.parametrize("line", HOURS.strip().splitlines(), ids=lambda s: s[:11])
def test_oracle_hours(line: str) -> None:
    """Every 1h line of the reference is met, z to the last bit."""
    name, _, i, *_ = line.split()
    assert_meets(line, *history(FEATURES[name], H1, HOUR_MS, 400)[int(i)])


# --- warm-up ---------------------------------------------------------------------------------


def test_warm_up_lasts_200_accepted_samples() -> None:
    """z, q, mean and scale are NULL through sample 199 and there from sample 200."""
    state = fresh(ROBUST)
    outs = [step(state, x, i) for i, x in enumerate(stream("vol", 200), start=1)]
    for out in outs[:199]:
        assert (out.z, out.q, out.mean, out.scale) == (None, None, None, None)
        assert (out.confidence, out.floored) == ("none", False)
    assert None not in (outs[199].z, outs[199].q, outs[199].mean, outs[199].scale)
    assert (outs[199].n, outs[199].confidence) == (200, "low")
    assert not state.buf


def test_the_divisor_is_told_after_the_update() -> None:
    """asinh features show d from sample 200 on, also beside a NULL; the others never."""
    state = fresh(ROBUST)
    for i, x in enumerate(stream("oi", 250), start=1):
        out = step(state, x, i, OI)
        assert out.divisor == (state.d if i >= 200 else None)
    assert step(state, None, 251, OI).divisor == state.d
    assert step(state, 0.5, 252, OI, dq="stale").divisor == state.d
    for feature in (VOL, RET_ABS, SPREAD):
        assert step(run(feature, [1.0] * 250), 1.0, 251, feature).divisor is None


def test_a_quantile_that_nobody_asks_for_is_not_computed() -> None:
    """Without `ranked` q is NULL; z and every bit of the state are the same."""
    unranked = msgspec.structs.replace(OI, ranked=False)
    one, other = fresh(ROBUST), fresh(ROBUST)
    for i, x in enumerate(stream("oi", 250), start=1):
        full, lean = step(one, x, i, OI), step(other, x, i, unranked)
        assert lean == msgspec.structs.replace(full, q=None)
    assert full.q is not None
    assert dump(other) == dump(one)


def test_confidence_is_ok_from_1000_samples() -> None:
    """The quantile's confidence turns from low to ok with sample 1000."""
    state = run(VOL, stream("vol", 998))
    assert [step(state, 5e4, i).confidence for i in (999, 1000)] == ["low", "ok"]


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_order_of_the_first_200_does_not_matter(name: str) -> None:
    """Any permutation of the first 200 samples gives the same m, v and d, bit for bit."""
    xs = stream(name, 200)
    straight = run(FEATURES[name], xs)
    random.Random(1).shuffle(xs)
    shuffled = run(FEATURES[name], xs)
    assert (shuffled.m, shuffled.v, shuffled.d) == (straight.m, straight.v, straight.d)
    assert shuffled.sketch != straight.sketch


def test_clamp_is_the_default_until_the_first_day_roll_after_warm_up() -> None:
    """Bounds stay at the default through warm-up, a roll inside it, and the rest of that day."""
    state = fresh(ROBUST)
    first = DAY_BARS - 99  # 100 samples before midnight, 100 after: the roll finds n = 100
    seen = {}
    for i, x in enumerate(stream("vol", 100 + DAY_BARS + 1), start=first):
        out = step(state, x, i)
        seen[i] = (out.clamp_lo, out.clamp_hi)
    default = (-4.7215, 4.7215)
    assert all(seen[i] == default for i in range(first, 2 * DAY_BARS + 1))
    assert seen[2 * DAY_BARS + 1] != default


def test_midnight_belongs_to_the_day_it_closes(day_old: dict[str, Baseline]) -> None:
    """The bar labelled 00:00 is the last of its day; the next one rolls."""
    state = day_old["vol"].copy()
    before = (state.clamp_lo, state.clamp_hi)
    midnight = step(state, 5e4, 2 * DAY_BARS)
    assert state.day == 1
    assert (midnight.clamp_lo, midnight.clamp_hi) == before
    after = step(state, 5e4, 2 * DAY_BARS + 1)
    assert state.day == 2
    assert (after.clamp_lo, after.clamp_hi) != before


def test_day_roll_prunes_the_sketch() -> None:
    """Bins that have faded to nothing leave at the roll, not before."""
    hourly = Feature("vol", "log1p", s_min=0.05, d_min=None, x_zero=1.0)
    state = fresh(ROBUST)
    step(state, 1e9, 1, hourly, H1, tf_ms=HOUR_MS)
    sizes = []
    for i in range(2, 24 * 40):
        step(state, 5.0, i, hourly, H1, tf_ms=HOUR_MS)
        sizes.append((i, len(state.sketch.keys)))
    gone = next(i for i, size in sizes if size == 1)
    assert gone % 24 == 1
    assert gone > 24 * 20


# --- quality ---------------------------------------------------------------------------------


def test_stale_leaves_the_state_alone(day_old: dict[str, Baseline]) -> None:
    """A stale value is not scored and changes no byte; mean and scale stay readable."""
    state = day_old["vol"].copy()
    before = dump(state)
    out = step(state, 1e9, 1701, dq="stale")
    assert (out.z, out.q) == (None, None)
    assert (out.mean, out.n, out.confidence) == (state.m, 1700, "ok")
    assert dump(state) == before


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_partial_is_scored_against_the_frozen_state(
    name: str, day_old: dict[str, Baseline]
) -> None:
    """A partial value gets z and q from the state as it was, across midnight too."""
    state = day_old[name].copy()
    feature = FEATURES[name]
    before = dump(state)
    x = stream(name, 1701)[-1]
    out = step(state, x, 10 * DAY_BARS, feature, dq="partial")
    assert dump(state) == before
    assert out.q == state.sketch.rank(x, feature.x_zero)
    moved = step(state.copy(), x, 1701, feature)
    assert out.z == pytest.approx(moved.z, abs=0.01)
    assert out.z != moved.z


def test_partial_during_warm_up_is_not_scored() -> None:
    """Before 200 samples there is nothing to score against."""
    state = run(VOL, stream("vol", 199))
    out = step(state, 5e4, 200, dq="partial")
    assert (out.z, out.q, out.n) == (None, None, 199)


@pytest.mark.parametrize("dq", ["ok", "partial", "stale"])
def test_null_only_counts(dq: str, day_old: dict[str, Baseline]) -> None:
    """A NULL moves the null counter, and the time that keeps a restart from counting it twice."""
    state = day_old["vol"].copy()
    out = step(state, None, 3000, dq=dq)
    assert (out.z, out.q, out.scale) == (None, None, math.sqrt(state.v))
    untouched = state.copy()
    untouched.null_count -= 1
    untouched.last_ts_ms = 1700 * MINUTE_MS
    assert untouched == day_old["vol"]


def test_gaps_do_not_age_the_memory() -> None:
    """Memory counts accepted bars: the same values with holes of an hour give the same m, v."""
    xs = stream("oi", 700)
    dense = run(OI, xs)
    sparse = fresh(ROBUST)
    for i, x in enumerate(xs, start=1):
        step(sparse, x, 2 * i, OI)
    assert (sparse.m, sparse.v, sparse.d) == (dense.m, dense.v, dense.d)


def test_no_bar_is_applied_twice(day_old: dict[str, Baseline]) -> None:
    """The same or an earlier bar stops the program."""
    for i in (1700, 1699):
        with pytest.raises(AssertionError, match="applied twice"):
            step(day_old["vol"].copy(), 5e4, i)


def test_an_unknown_quality_is_a_bug() -> None:
    """Only ok, partial and stale exist."""
    with pytest.raises(AssertionError, match="dq must be"):
        step(fresh(ROBUST), 1.0, 1, dq="OK")


@pytest.mark.parametrize(
    ("feature", "x"),
    [(VOL, -1.0), (RET_ABS, -0.1), (SPREAD, 0.0), (OI, math.nan), (VOL, math.inf)],
)
def test_a_value_outside_the_domain_is_a_bug(feature: Feature, x: float) -> None:
    """What the transform cannot take stops the program before the state moves."""
    state = fresh(ROBUST)
    with pytest.raises(AssertionError, match="is no value of"):
        step(state, x, 1, feature)
    assert state == fresh(ROBUST)


def test_asinh_alone_has_a_divisor() -> None:
    """A feature with d_min but another transform, or the other way round, is refused."""
    with pytest.raises(AssertionError, match="asinh needs d_min"):
        Feature("oi", "asinh", s_min=0.05, d_min=None, x_zero=0.0)
    with pytest.raises(AssertionError, match="asinh needs d_min"):
        Feature("vol", "log1p", s_min=0.05, d_min=1.0, x_zero=0.0)


# --- behaviour -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_constant_input_has_z_zero_on_a_floored_scale(name: str) -> None:
    """A value that never changes has z 0 on a floored scale, until variation returns."""
    feature = FEATURES[name]
    state = fresh(ROBUST)
    for i in range(1, 2 * DAY_BARS):
        out = step(state, 1.0, i, feature)
    assert (out.z, out.scale, out.floored) == (0.0, feature.s_min, True)
    assert out.q == 0.5
    for i in range(2 * DAY_BARS, 3 * DAY_BARS):
        out = step(state, 3.0 if i % 2 else 1.0, i, feature)
    assert out.floored is False


def test_one_outlier_moves_the_location_by_at_most_the_clip(day_old: dict[str, Baseline]) -> None:
    """However far out, a single value moves m by clip_sigma scales over the total weight."""
    state = day_old["vol"].copy()
    before = state.copy()
    out = step(state, 1e15, 1701)
    limit = 2.5 * math.sqrt(before.v) / state.Wm
    assert state.m - before.m == pytest.approx(limit)
    assert out.z is not None
    assert out.z > 10.0


# --- amendments ------------------------------------------------------------------------------


def mark(
    state: Baseline,
    x: float | None,
    i: int,
    feature: Feature = VOL,
    decay: Decay = M1,
    tf_ms: int = MINUTE_MS,
) -> Checkpoint:
    """A checkpoint before a bar, as it comes back from MessagePack."""
    before = checkpoint(state, x, label_ms=i * tf_ms, feature=feature, decay=decay, robust=ROBUST)
    again = checkpoint_of(msgspec.msgpack.decode(packed(before)))
    assert again == before
    return again


def packed(before: Checkpoint) -> bytes:
    """A checkpoint as it is stored."""
    return msgspec.msgpack.encode(stored_checkpoint(before))


def bring_to_the_limit(state: Baseline) -> None:
    """Make the weights so large that the next sample shrinks them all."""
    sketch = state.sketch
    shift = math.ldexp(1.0, 39 - math.frexp(sketch.w)[1])
    sketch.w *= shift
    sketch.t *= shift
    sketch.weights = array("d", [b * shift for b in sketch.weights])
    while sketch.w * M1.growth < 2.0**40:
        sketch.w *= M1.growth


def fields(state: Baseline) -> str:
    """Every field of a state, floats to the last bit and the sign of zero."""
    return repr(state)


@pytest.mark.parametrize("bars", [0, 150, 199, 200, 201, 1440, 1700])
@pytest.mark.parametrize("name", ["oi", "vol"])
def test_amending_equals_applying_once(name: str, bars: int) -> None:
    """Apply, restore, apply the amended value: the state knows nothing of the first."""
    feature = FEATURES[name]
    xs = stream(name, bars + 1)
    state = run(feature, xs[:-1])
    once = run(feature, xs[:-1])
    before = mark(state, 0.5, bars + 1, feature)
    step(state, 0.5, bars + 1, feature)
    assert dump(state) != dump(once)
    restore(state, before)
    assert dump(state) == dump(once)
    amended = step(state, xs[-1], bars + 1, feature)
    assert amended == step(once, xs[-1], bars + 1, feature)
    assert dump(state) == dump(once)


# Bars before: none, warm-up, just before INIT, just after, a day roll next, later.
STARTS = [0, 1, 150, 198, 199, 200, 1439, 1440, 1700]
VALUES = {
    "vol": st.one_of(st.just(0.0), st.floats(0.0, 1e9), st.sampled_from(stream("vol", 50))),
    "ret_abs": st.one_of(st.just(0.0), st.floats(0.0, 0.2), st.sampled_from([1e-8, 1e-3])),
    "spread": st.one_of(st.just(1.0), st.floats(1e-9, 1e9)),
    "oi": st.one_of(st.floats(-1.0, 1.0), st.sampled_from([0.0, -0.0, *stream("oi", 50)])),
}


@st.composite
def undone_bars(draw: st.DrawFn) -> tuple[str, int, list[tuple[float | None, str, int]]]:
    """A feature, bars before, and (value, dq, bars ahead of the last one) to apply and undo."""
    name = draw(st.sampled_from(sorted(FEATURES)))
    bars = draw(st.sampled_from(STARTS))
    bar = st.tuples(
        st.one_of(st.none(), VALUES[name], VALUES[name]),
        st.sampled_from(["ok", "ok", "ok", "partial", "stale"]),
        st.sampled_from([1, 1, 1, 7, DAY_BARS]),
    )
    return name, bars, draw(st.lists(bar, min_size=1, max_size=6))


@pytest.fixture(scope="module")
def grown() -> dict[tuple[str, int], bytes]:
    """Each feature's state after each of STARTS, as bytes."""
    kept = {}
    for name, feature in FEATURES.items():
        state = fresh(ROBUST)
        for i, x in enumerate([0.0, *stream(name, STARTS[-1])]):
            if i:
                step(state, x, i, feature)
            if i in STARTS:
                kept[name, i] = dump(state)
    return kept


@settings(max_examples=200, deadline=None)
@given(case=undone_bars(), fades=st.booleans(), rescales=st.booleans())
def test_property_restore_undoes_a_bar(
    case: tuple[str, int, list[tuple[float | None, str, int]]],
    fades: bool,
    rescales: bool,
    grown: dict[tuple[str, int], bytes],
) -> None:
    """Whatever the bar and its verdict, the state after the undo is the state before it."""
    name, bars, more = case
    feature = FEATURES[name]
    state = load(grown[name, bars])
    if fades and len(state.sketch.keys) > 3:  # the next day roll drops bins at both ends
        for at in (0, 1, -1):
            state.sketch.weights[at] = 1e-12
    if rescales:
        bring_to_the_limit(state)
    i = bars
    for x, dq, ahead in more:
        i += ahead
        before, as_it_was, data = mark(state, x, i, feature), fields(state), dump(state)
        first = step(state, x, i, feature, dq=dq)
        after = fields(state)
        restore(state, before)
        assert fields(state) == as_it_was
        assert dump(state) == data
        assert step(state, x, i, feature, dq=dq) == first  # and the next bar goes on from here
        assert fields(state) == after


@pytest.mark.parametrize("dq", ["ok", "partial"])
def test_a_value_in_a_bin_that_the_day_roll_drops_is_undone(
    dq: str, day_old: dict[str, Baseline]
) -> None:
    """The bin goes, comes back with the new sample alone, and is what it was after the undo."""
    state = day_old["vol"].copy()
    x, i = stream("vol", 1)[0], 2 * DAY_BARS + 1
    k = key(x, VOL.x_zero)
    state.sketch.put_at(k, 1e-12)
    before, as_it_was = mark(state, x, i), fields(state)
    step(state, x, i, dq=dq)
    assert state.sketch.weight_at(k) == (state.sketch.w if dq == "ok" else 1e-12)
    restore(state, before)
    assert fields(state) == as_it_was


def test_undo_over_weeks_of_hours() -> None:
    """Every bar of 42 days at 1h, rolls that prune and a rescaling among them, can be undone."""
    feature, state, pruned, rescaled = VOL, fresh(ROBUST), 0, 0
    for i, x in enumerate(stream("vol", 24 * 42), start=1):
        before = mark(state, x, i, feature, H1, HOUR_MS)
        as_it_was, size, w = fields(state), len(state.sketch.keys), state.sketch.w
        step(state, x, i, feature, H1, tf_ms=HOUR_MS)
        after = fields(state)
        pruned += len(state.sketch.keys) < size
        rescaled += state.sketch.w < w
        restore(state, before)
        assert fields(state) == as_it_was
        step(state, x, i, feature, H1, tf_ms=HOUR_MS)
        assert fields(state) == after
    assert pruned > 5
    assert rescaled == 1


@pytest.mark.parametrize("rescales", [False, True])
@pytest.mark.parametrize("bars", [199, 1439, 1440])
def test_a_checkpoint_serves_more_than_once(bars: int, rescales: bool) -> None:
    """At INIT, on an ordinary bar and at a day roll, the state shares nothing with it."""
    state = run(OI, stream("oi", bars))
    if rescales:
        bring_to_the_limit(state)
    as_it_was = state.copy()
    before = checkpoint(
        state, 0.001, label_ms=(bars + 1) * MINUTE_MS, feature=OI, decay=M1, robust=ROBUST
    )
    for _ in range(3):
        step(state, 0.001, bars + 1, OI)
        restore(state, before)
        assert state == as_it_was


def test_a_checkpoint_is_small(day_old: dict[str, Baseline]) -> None:
    """It costs about a hundred bytes, at a day roll too; INIT keeps the samples it uses up."""
    state = day_old["vol"]
    for i in (1701, 2 * DAY_BARS + 1):
        assert len(packed(mark(state, 5e4, i))) < 150
    assert mark(state, None, 2 * DAY_BARS + 1).faded is None
    assert mark(run(VOL, [5.0] * 198), 5e4, 199).buf is None
    assert mark(run(VOL, [5.0] * 199), 5e4, 200).buf == array("d", [5.0] * 199)


def test_two_bars_cannot_be_undone_as_one(day_old: dict[str, Baseline]) -> None:
    """A checkpoint that is older than the last bar is a bug."""
    state = day_old["vol"].copy()
    before = mark(state, 5e4, 1701)
    step(state, 5e4, 1701)
    step(state, 5e4, 1702)
    with pytest.raises(AssertionError, match="2 bars since the checkpoint"):
        restore(state, before)


def test_a_checkpoint_refuses_what_apply_refuses() -> None:
    """A value outside the domain stops the program before the bar."""
    with pytest.raises(AssertionError, match="is no value of"):
        mark(fresh(ROBUST), math.nan, 1)


# --- bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_a_reloaded_state_continues_as_the_original(
    name: str, day_old: dict[str, Baseline]
) -> None:
    """Dump at sample 1700, reload, continue to 3000: not one byte differs."""
    feature = FEATURES[name]
    rest = stream(name, 3000)[1700:]
    straight = run(feature, rest, 1701, day_old[name].copy())
    resumed = run(feature, rest, 1701, load(dump(day_old[name])))
    assert dump(resumed) == dump(straight)


bar = st.tuples(
    st.one_of(st.none(), st.floats(1e-6, 1e9)),
    st.sampled_from(["ok", "ok", "ok", "partial", "stale"]),
)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(FEATURES)),
    st.sampled_from([0, 10, 198, 199, 1439]),
    st.lists(bar, max_size=12),
)
def test_property_every_state_survives_dump_and_load(
    name: str, bars: int, more: list[tuple[float | None, str]]
) -> None:
    """Whatever came before, a state equals its reloaded self and dumps to the same bytes."""
    feature = FEATURES[name]
    state = run(feature, stream(name, bars))
    for i, (x, dq) in enumerate(more, start=bars + 1):
        step(state, x, i, feature, dq=dq)
        again = load(dump(state))
        assert again == state
        assert dump(again) == dump(state)


def test_equal_states_give_equal_bytes(day_old: dict[str, Baseline]) -> None:
    """The sign of a zero does not show in the bytes."""
    state = day_old["oi"].copy()
    twin = state.copy()
    state.m, twin.m = 0.0, -0.0
    assert dump(twin) == dump(state)
    assert math.copysign(1.0, load(dump(twin)).m) == 1.0


def test_a_state_pickles(day_old: dict[str, Baseline]) -> None:
    """The engine's snapshots, which are pickles, lose nothing either."""
    for state in (fresh(ROBUST), run(VOL, stream("vol", 7)), day_old["oi"]):
        assert pickle.loads(pickle.dumps(state)) == state


def test_size_stays_in_the_kilobytes(day_old: dict[str, Baseline]) -> None:
    """A day of data takes no more than 6 KB: 8 bytes a bin and 8 for each run of bins."""
    for state in day_old.values():
        keys = state.sketch.keys
        runs = 1 + len([1 for a, b in pairwise(keys) if b != a + 1])
        assert len(dump(state)) == 142 + 8 * len(keys) + 8 * runs
        assert len(dump(state)) <= 6_000


def test_every_flipped_byte_is_noticed() -> None:
    """Damage at any position is reported, never loaded."""
    data = dump(run(OI, stream("oi", 20)))
    for i in range(len(data)):
        with pytest.raises(CorruptState):
            load(data[:i] + bytes([data[i] ^ 0x40]) + data[i + 1 :])


def test_every_truncation_is_noticed() -> None:
    """A file cut short at any length, or continued, is reported."""
    data = dump(run(OI, stream("oi", 20)))
    for damaged in (*(data[:i] for i in range(len(data))), data + b"\0"):
        with pytest.raises(CorruptState):
            load(damaged)


def sealed(body: bytes) -> bytes:
    """A body under a correct digest, for damage that the digest cannot see."""
    return body + blake2b(body, digest_size=16).digest()


def test_an_unknown_version_is_refused() -> None:
    """Bytes of another version are named as such, on reading and on writing."""
    data = dump(fresh(ROBUST))[:-16]
    with pytest.raises(CorruptState, match="expected version 2, found 1"):
        load(sealed(data[:4] + struct.pack("<I", 1) + data[8:]))
    state = fresh(ROBUST)
    state.version = 3
    with pytest.raises(CorruptState, match="expected version 2, found 3"):
        dump(state)


def test_a_wrong_length_under_a_correct_digest_is_refused() -> None:
    """Missing or surplus values are reported even where the digest matches."""
    data = dump(run(OI, stream("oi", 20)))[:-16]
    for body in (data[:8], data[:-8], data + b"\0" * 8):
        with pytest.raises(CorruptState, match="bytes"):
            load(sealed(body))


def test_keys_out_of_order_are_refused() -> None:
    """Bytes that no dump writes are not accepted as a state."""
    state = run(SPREAD, [1.0, 2.0])
    low, high = state.sketch.keys
    data = dump(state)[:-16]
    written = struct.pack("<iiII", low, high, 1, 1)
    assert data.count(written) == 1
    for wrong, reason in (
        ((high, low, 1, 1), "do not ascend"),
        ((low, low, 1, 1), "do not ascend"),
        ((low, low + 1, 1, 1), "do not ascend"),  # one run in two pieces
        ((low, high, 2, 0), "do not ascend"),
        ((low, high, 1, 5_000), "expected 2 keys"),
    ):
        with pytest.raises(CorruptState, match=reason):
            load(sealed(data.replace(written, struct.pack("<iiII", *wrong))))


def _set(name: str, value: object) -> Callable[[Baseline], None]:
    return lambda state: setattr(state, name, value)


IMPOSSIBLE: dict[str, Callable[[Baseline], None]] = {
    "m is nan": _set("m", math.nan),
    "v is inf": _set("v", math.inf),
    "v is negative": _set("v", -1.0),
    "clamp is nan": _set("clamp_hi", math.nan),
    "n is negative": _set("n", -1),
    "more samples kept than accepted": _set("n", 3),
    "a sample is nan": _set("buf", array("d", [math.nan] * 20)),
    "a bin is nan": lambda state: state.sketch.put_at(5, math.nan),
    "a bin is empty": lambda state: state.sketch.put_at(5, 0.0),
    "a key is missing": lambda state: state.sketch.keys.pop(),
    "a key is there twice": lambda state: state.sketch.keys.__setitem__(1, state.sketch.keys[0]),
    "a weight is zero": lambda state: setattr(state.sketch, "w", 0.0),
    "the total is inf": lambda state: setattr(state.sketch, "t", math.inf),
}


@pytest.mark.parametrize("damage", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_an_impossible_value_is_never_written(damage: Callable[[Baseline], None]) -> None:
    """nan, inf and contradictions are refused on writing."""
    state = run(OI, stream("oi", 20))
    damage(state)
    with pytest.raises(CorruptState):
        dump(state)


def test_nan_under_a_correct_digest_is_refused() -> None:
    """nan is refused on reading as well."""
    state = run(VOL, [123.456])
    data = dump(state)[:-16]
    sample = struct.pack("<d", 123.456)
    assert data.count(sample) == 1
    with pytest.raises(CorruptState, match="not a finite number"):
        load(sealed(data.replace(sample, struct.pack("<d", math.nan))))


def test_without_a_z_there_is_no_sketch() -> None:
    """Location, scale and divisor are the same; nothing is kept that nobody reads."""
    plain = Feature("dfunding", "asinh", 0.05, 1e-7, 1e-7)
    bare = msgspec.structs.replace(plain, ranked=False, scored=False)
    rng = random.Random(3)
    one, other = fresh(ROBUST), fresh(ROBUST)
    for k in range(1, 1700):
        x = rng.gauss(0.0, 1e-5)
        steps = {"label_ms": k * 3_600_000, "dq": "ok", "decay": M1, "robust": ROBUST}
        saved = checkpoint(other, x, label_ms=k * 3_600_000, feature=bare, decay=M1, robust=ROBUST)
        before = dump(other)
        found = apply(other, x, feature=bare, **steps)
        restore(other, saved)
        assert dump(other) == before
        assert apply(other, x, feature=bare, **steps) == found
        expected = apply(one, x, feature=plain, **steps)
        assert (found.z, found.divisor) == (expected.z, expected.divisor)
    assert one.sketch.keys
    assert not other.sketch.keys
    assert (other.m, other.v, other.d) == (one.m, one.v, one.d)
    assert (other.clamp_lo, other.clamp_hi) == (-ROBUST.clamp_default, ROBUST.clamp_default)
