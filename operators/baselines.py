"""What is normal for one feature of one asset on one timeframe, and how far a value is from it.

Rules of this file: a value is made symmetric by a fixed transform g and compared with a location m
and a variance v that follow it, winsorised; the first samples are collected and initialise the
state robustly. Only a bar of quality ok moves the state, each bar once, in time order. Gaps do not
age it. Nothing is rounded here. Every constant comes from the feature pack.  Numerics 2-5, 8, 11.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from copy import copy
from hashlib import blake2b
from typing import Literal

import msgspec

from operators.formulas import elementary
from operators.formulas.sketch import Sketch, key
from operators.records import DQ_OK, DQ_PARTIAL, DQ_STALE

STATE_VERSION = 2  # of the fields of Baseline, their meaning and their serialisation
DAY_MS = 86_400_000
INIT_PASSES = 3  # refinements of scale and location from the first samples, numerics 5

Transform = Literal["log1p", "pow_3_8", "log", "asinh"]
Confidence = Literal["none", "low", "ok"]


class Feature(msgspec.Struct, frozen=True):
    """How one feature is made comparable.

    s_min : floor of the scale, in transformed units.
    d_min : floor of the divisor inside asinh, in units of x; None for the other transforms.
    x_zero : |x| up to here counts as zero in the sketch, in units of x.
    ranked : whether q is asked for; it is half of the cost of a bar. Without it q is None.
    scored : whether z is asked for. Without it there is no sketch, and the clamp is the default.
    Numerics 2.
    """

    name: str
    transform: Transform
    s_min: float
    d_min: float | None
    x_zero: float
    ranked: bool = True
    scored: bool = True

    def __post_init__(self) -> None:
        assert (self.d_min is not None) == (self.transform == "asinh"), (
            f"{self.name}: asinh needs d_min and only asinh has it, got {self.d_min!r}"
        )


class Decay(msgspec.Struct, frozen=True):
    """Memory of one timeframe: rates of location and scale per bar, growth of sketch weights.

    Numerics 3.
    """

    a_m: float
    a_s: float
    growth: float


class Robust(msgspec.Struct, frozen=True):
    """Constants shared by all baselines, numerics 3, 5, 7, 8.

    min_samples : accepted samples before the first z.
    low_confidence_samples : fewer than this and quantiles are of low confidence.
    clip_sigma : surprise is limited to this many scales before it moves the state.
    kappa : E[min(|Z|, clip_sigma)^2] of a standard normal Z; undoes the limit's shrinkage of v.
    mad_consistency : standard deviation over median absolute deviation of a normal.
    d_clip : magnitudes are limited to this many divisors before they move the divisor.
    clamp_default, clamp_iqr_k, clamp_iqr_floor : bounds for scoring, in sigma.
    sketch_prune_share : bins lighter than this share are dropped once a day.
    """

    min_samples: int
    low_confidence_samples: int
    clip_sigma: float
    kappa: float
    mad_consistency: float
    d_clip: float
    clamp_default: float
    clamp_iqr_k: float
    clamp_iqr_floor: float
    sketch_prune_share: float


class Baseline(msgspec.Struct):
    """State of one (asset, timeframe, feature). Numerics 4.

    n : accepted samples; m, v : location and variance of g(x); Wm, Ws : their total weights.
    d : divisor inside asinh, units of x. buf : the first samples, empty from min_samples on.
    day : UTC day number of the last accepted bar; clamp_lo, clamp_hi : sigma.
    null_count : bars without a value. last_ts_ms : close of the last bar that changed the state.
    Bound: buf < min_samples; the sketch's bins.
    """

    clamp_lo: float
    clamp_hi: float
    version: int = STATE_VERSION
    n: int = 0
    m: float = 0.0
    v: float = 0.0
    Wm: float = 0.0
    Ws: float = 0.0
    d: float = 0.0
    buf: list[float] = []
    day: int | None = None
    null_count: int = 0
    last_ts_ms: int | None = None
    sketch: Sketch = msgspec.field(default_factory=Sketch)

    def copy(self) -> "Baseline":
        """An independent copy: what happens to one never shows in the other."""
        twin = copy(self)
        twin.buf = self.buf.copy()
        twin.sketch = self.sketch.copy()
        return twin


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """What one bar may change in a Baseline, as it was before the bar: enough to undo the bar.

    clamp_lo to t : as in Baseline and its sketch. key : bin of the bar's value, None for NULL;
    weight : what that bin held, None when it was not in use.
    buf : copy, where the bar ends the warm-up. faded : bins and weights that the bar drops if it
    starts a day. sketch : copy, where the bar rescales all weights (every 40 half-lives).
    About 100 bytes in MessagePack without copies.
    """

    clamp_lo: float
    clamp_hi: float
    n: int
    m: float
    v: float
    Wm: float
    Ws: float
    d: float
    day: int | None
    null_count: int
    last_ts_ms: int | None
    w: float
    t: float
    key: int | None
    weight: float | None
    buf: list[float] | None
    faded: list[tuple[int, float]] | None
    sketch: Sketch | None


class Normalised(msgspec.Struct, frozen=True, gc=False):
    """A value seen through its baseline. z and q are not rounded.

    z : sigma, never clamped. q : decayed mid-rank in [0, 1]. Both None when the value is NULL or
        stale, or during warm-up.
    mean, scale : location and floored scale behind z, transformed units; None during warm-up.
    divisor : d behind z of an asinh feature, units of x; None during warm-up and for the others.
    floored : the scale is its floor, as on a book that is always one tick wide.
    clamp_lo, clamp_hi : bounds of z for scoring. confidence : of q, by n accepted samples.
    """

    z: float | None
    q: float | None
    mean: float | None
    scale: float | None
    divisor: float | None
    floored: bool
    clamp_lo: float
    clamp_hi: float
    confidence: Confidence
    n: int


class CorruptState(Exception):
    """A serialised baseline is damaged, of an unknown version, or holds an impossible value."""


def fresh(robust: Robust) -> Baseline:
    """State before the first bar. Numerics 4."""
    return Baseline(clamp_lo=-robust.clamp_default, clamp_hi=robust.clamp_default)


# --- one bar ---------------------------------------------------------------------------------


def apply(
    state: Baseline,
    x: float | None,
    *,
    label_ms: int,
    dq: str,
    feature: Feature,
    decay: Decay,
    robust: Robust,
) -> Normalised:
    """Update the state with one bar, then normalise the bar's value. Numerics 5.

    x : raw value, None for NULL; must lie in the domain of the transform.
    label_ms : close of the bar; the bar labelled 00:00 belongs to the day it closes.
    dq : ok moves the state; partial is scored against the state as it is; stale is not scored.
    A NULL moves nothing but null_count, with last_ts_ms, so that a restart never counts it twice.
    """
    assert dq in (DQ_OK, DQ_PARTIAL, DQ_STALE), f"dq must be ok, partial or stale, got {dq!r}"
    if x is None:
        _advance(state, label_ms)
        state.null_count += 1
        return _normalised(state, None, None, feature, robust)
    assert _in_domain(x, feature), f"{x!r} is no value of {feature.name} at {label_ms}"
    k = key(x, feature.x_zero)
    if dq == DQ_OK:
        _advance(state, label_ms)
        y = _update(state, x, k, (label_ms - 1) // DAY_MS, feature, decay, robust)
    elif dq == DQ_PARTIAL and state.n >= robust.min_samples:
        y = _transformed(x, state.d, feature)
    else:
        y = None
    return _normalised(state, k, y, feature, robust)


# --- undo ------------------------------------------------------------------------------------


def checkpoint(
    state: Baseline,
    x: float | None,
    *,
    label_ms: int,
    feature: Feature,
    decay: Decay,
    robust: Robust,
) -> Checkpoint:
    """What `restore` needs to undo `apply` of this bar, whatever its dq. Numerics 11.7.

    Taken before the bar, with the arguments that apply gets.
    """
    k = weight = buf = faded = copied = None
    sketch = state.sketch
    if x is not None:
        assert _in_domain(x, feature), f"{x!r} is no value of {feature.name} at {label_ms}"
        k = key(x, feature.x_zero)
        weight = sketch.weight_at(k)
        if state.n + 1 == robust.min_samples:
            buf = state.buf.copy()
        if state.day is not None and state.day != (label_ms - 1) // DAY_MS:
            faded = sketch.lighter(robust.sketch_prune_share)
        if sketch.rescales(decay.growth):
            copied = sketch.copy()
    return Checkpoint(
        state.clamp_lo,
        state.clamp_hi,
        state.n,
        state.m,
        state.v,
        state.Wm,
        state.Ws,
        state.d,
        state.day,
        state.null_count,
        state.last_ts_ms,
        sketch.w,
        sketch.t,
        k,
        weight,
        buf,
        faded,
        copied,
    )


def restore(state: Baseline, before: Checkpoint) -> None:
    """Put a state back to what it was before the one bar applied since, bit for bit, in place.

    The checkpoint stays good for that bar and value: it can be applied and undone again.
    """
    assert state.n - before.n in (0, 1), f"{state.n - before.n} bars since the checkpoint, not one"
    state.clamp_lo = before.clamp_lo
    state.clamp_hi = before.clamp_hi
    state.n = before.n
    state.m = before.m
    state.v = before.v
    state.Wm = before.Wm
    state.Ws = before.Ws
    state.d = before.d
    state.day = before.day
    state.null_count = before.null_count
    state.last_ts_ms = before.last_ts_ms
    if before.buf is not None:
        state.buf = before.buf.copy()
    else:
        del state.buf[before.n :]  # during warm-up it holds all samples, later none
    if before.sketch is not None:
        state.sketch = before.sketch.copy()
        return
    sketch = state.sketch
    sketch.w = before.w
    sketch.t = before.t
    for k, weight in before.faded or ():
        sketch.put_at(k, weight)
    if before.key is not None:
        sketch.put_at(before.key, before.weight)


# --- steps of a bar --------------------------------------------------------------------------


def _advance(state: Baseline, label_ms: int) -> None:
    last = state.last_ts_ms
    assert last is None or label_ms > last, f"bar {label_ms} after bar {last}: applied twice?"
    state.last_ts_ms = label_ms


def _in_domain(x: float, feature: Feature) -> bool:
    if feature.transform == "asinh":
        return -math.inf < x < math.inf
    return 0.0 < x < math.inf if feature.transform == "log" else 0.0 <= x < math.inf


def _transformed(x: float, d: float, feature: Feature) -> float:
    """g(x), numerics 2; d is used by asinh only."""
    transform = feature.transform
    if transform == "log1p":
        return elementary.log1p(x)
    if transform == "pow_3_8":
        return elementary.pow_3_8(x)
    if transform == "log":
        return elementary.log(x)
    return elementary.asinh(x / d)


def _update(
    state: Baseline, x: float, k: int, day: int, feature: Feature, decay: Decay, robust: Robust
) -> float | None:
    """Steps 1 to 5 of numerics 5: move the state, return g(x), None before min_samples.

    k : bin of x.
    """
    if day != state.day:
        if state.day is not None and feature.scored:
            state.sketch.prune(robust.sketch_prune_share)
            if state.n >= robust.min_samples:
                state.clamp_lo, state.clamp_hi = _clamp_bounds(state, feature, robust)
        state.day = day
    state.n += 1
    if feature.scored:
        state.sketch.add_at(k, decay.growth)
    state.Wm = (1.0 - decay.a_m) * state.Wm + 1.0
    state.Ws = (1.0 - decay.a_s) * state.Ws + 1.0
    if state.n <= robust.min_samples:
        state.buf.append(x)
        if state.n < robust.min_samples:
            return None
        _initialise(state, feature, robust)
        return _transformed(x, state.d, feature)
    gm = 1.0 / state.Wm
    gs = 1.0 / state.Ws
    if feature.d_min is not None:
        u = min(abs(x), robust.d_clip * state.d)
        state.d = max(state.d + gs * (u - state.d), feature.d_min)
    y = _transformed(x, state.d, feature)
    limit = robust.clip_sigma * max(math.sqrt(state.v), feature.s_min)
    e = min(max(y - state.m, -limit), limit)
    state.m = state.m + gm * e
    state.v = (1.0 - gs) * state.v + gs * ((1.0 - gm) * (e * e) / robust.kappa)
    return y


def _initialise(state: Baseline, feature: Feature, robust: Robust) -> None:
    """Set d, m and v from the collected samples, whatever their order. Numerics 5, INIT."""
    xs = state.buf
    count = len(xs)
    if feature.d_min is not None:
        a = [abs(x) for x in xs]
        d = max(robust.mad_consistency * elementary.median(a), feature.d_min)
        for _ in range(INIT_PASSES):
            limit = robust.d_clip * d
            d = max(math.fsum([min(w, limit) for w in a]) / count, feature.d_min)
        state.d = d
    ys = [_transformed(x, state.d, feature) for x in xs]
    m = elementary.median(ys)
    spread = elementary.median([abs(y - m) for y in ys])
    s = max(robust.mad_consistency * spread, feature.s_min)
    for _ in range(INIT_PASSES):
        limit = robust.clip_sigma * s
        u = [min(max(y - m, -limit), limit) for y in ys]
        shift = math.fsum(u) / count
        var = math.fsum([w * w for w in u]) / count - shift * shift
        m += shift
        s = max(math.sqrt(max(var, 0.0) / robust.kappa), feature.s_min)
    state.m = m
    state.v = s * s
    state.buf = []


def _clamp_bounds(state: Baseline, feature: Feature, robust: Robust) -> tuple[float, float]:
    """Quartiles of x in sigma, widened by k interquartile ranges. Numerics 8."""
    q1 = state.sketch.quantile(0.25)
    q3 = state.sketch.quantile(0.75)
    assert q1 is not None
    assert q3 is not None
    s = max(math.sqrt(state.v), feature.s_min)
    z1 = (_transformed(q1, state.d, feature) - state.m) / s
    z3 = (_transformed(q3, state.d, feature) - state.m) / s
    reach = robust.clamp_iqr_k * max(z3 - z1, robust.clamp_iqr_floor)
    return z1 - reach, z3 + reach


def _normalised(
    state: Baseline, k: int | None, y: float | None, feature: Feature, robust: Robust
) -> Normalised:
    """Step 6 of numerics 5: z of y and q of bin k against the state as it is now."""
    n = state.n
    lo = state.clamp_lo
    hi = state.clamp_hi
    if n < robust.min_samples:
        return Normalised(None, None, None, None, None, False, lo, hi, "none", n)
    m = state.m
    d = None if feature.d_min is None else state.d
    s = math.sqrt(state.v)
    floored = s <= feature.s_min
    if floored:
        s = feature.s_min
    confidence: Confidence = "low" if n < robust.low_confidence_samples else "ok"
    if k is None or y is None:
        return Normalised(None, None, m, s, d, floored, lo, hi, confidence, n)
    q = state.sketch.rank_at(k) if feature.ranked else None
    return Normalised((y - m) / s, q, m, s, d, floored, lo, hi, confidence, n)


# --- bytes -----------------------------------------------------------------------------------
#
#   magic | version | scalars | len(buf) | runs | bins | buf | runs: first key | runs: length
#         | weights | digest
#
# Keys of the sketch are written as runs of neighbours, ascending: most bins in use touch. Little-
# endian, 8-byte floats, never rounded, -0.0 as 0.0: equal states give equal bytes. Numerics 11.4.

_MAGIC = b"BASE"
_HEAD = struct.Struct("<4sI")
_SCALARS = struct.Struct("<qqBqBq9dIII")
_DIGEST_SIZE = 16


def dump(state: Baseline) -> bytes:
    """Canonical bytes of a state, without loss; CorruptState if it holds an impossible value."""
    _check(state)
    starts, lengths = _runs_of(state.sketch.keys)
    n_buf, n_runs, n_bins = len(state.buf), len(starts), len(state.sketch.keys)
    body = b"".join(
        (
            _HEAD.pack(_MAGIC, state.version),
            _SCALARS.pack(
                state.n,
                state.null_count,
                state.day is not None,
                state.day or 0,
                state.last_ts_ms is not None,
                state.last_ts_ms or 0,
                *[x + 0.0 for x in _floats(state)],
                n_buf,
                n_runs,
                n_bins,
            ),
            struct.pack(f"<{n_buf}d", *[x + 0.0 for x in state.buf]),
            struct.pack(f"<{n_runs}i{n_runs}I", *starts, *lengths),
            struct.pack(f"<{n_bins}d", *state.sketch.weights),
        )
    )
    return body + _digest(body)


def load(data: bytes) -> Baseline:
    """The state that `dump` wrote; CorruptState with the reason for any other bytes."""
    if len(data) < _HEAD.size + _DIGEST_SIZE:
        raise CorruptState(f"expected at least a header and a digest, found {len(data)} bytes")
    magic, version = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise CorruptState(f"expected {_MAGIC!r} at the start, found {magic!r}")
    body = data[:-_DIGEST_SIZE]
    if _digest(body) != data[-_DIGEST_SIZE:]:
        raise CorruptState("the digest does not match the content")
    if version != STATE_VERSION:
        raise CorruptState(f"expected version {STATE_VERSION}, found {version}")
    state = _parse(body)
    _check(state)
    return state


def _parse(body: bytes) -> Baseline:
    at = _HEAD.size + _SCALARS.size
    if len(body) < at:
        raise CorruptState(f"expected at least {at} bytes, found {len(body)}")
    n, null_count, has_day, day, has_ts, ts_ms, *rest = _SCALARS.unpack_from(body, _HEAD.size)
    m, v, wm, ws, d, clamp_lo, clamp_hi, w, t, n_buf, n_runs, n_bins = rest
    lists = struct.Struct(f"<{n_buf}d{n_runs}i{n_runs}I{n_bins}d")
    if len(body) != at + lists.size:
        raise CorruptState(f"expected {at + lists.size} bytes, found {len(body)}")
    values = lists.unpack_from(body, at)
    at_lengths, at_weights = n_buf + n_runs, n_buf + 2 * n_runs
    keys = _keys_of(values[n_buf:at_lengths], values[at_lengths:at_weights], n_bins)
    return Baseline(
        n=n,
        m=m,
        v=v,
        Wm=wm,
        Ws=ws,
        d=d,
        buf=list(values[:n_buf]),
        day=day if has_day else None,
        clamp_lo=clamp_lo,
        clamp_hi=clamp_hi,
        null_count=null_count,
        last_ts_ms=ts_ms if has_ts else None,
        sketch=Sketch(w, t, keys, list(values[at_weights:])),
    )


def _runs_of(keys: list[int]) -> tuple[list[int], list[int]]:
    """First key and length of each run of neighbouring keys; CorruptState unless keys ascend."""
    if not keys:
        return [], []
    starts = [keys[0]]
    ends: list[int] = []
    end = keys[0]
    for k in keys:
        if k != end:
            ends.append(end)
            starts.append(k)
        end = k + 1
    ends.append(end)
    _check_runs(starts, ends)
    return starts, [end - start for start, end in zip(starts, ends, strict=True)]


def _keys_of(starts: Sequence[int], lengths: Sequence[int], count: int) -> list[int]:
    """The keys that `_runs_of` wrote; CorruptState unless they are `count` and ascend."""
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    _check_runs(starts, ends)
    found = 0
    for length in lengths:
        found += length
    if found != count:
        raise CorruptState(f"expected {count} keys of the sketch, found {found}")
    keys: list[int] = []
    for start, end in zip(starts, ends, strict=True):
        keys.extend(range(start, end))
    return keys


def _check_runs(starts: Sequence[int], ends: Sequence[int]) -> None:
    """Raise CorruptState unless no run is empty and there is a gap before the next one."""
    empty = any(start >= end for start, end in zip(starts, ends, strict=True))
    if empty or any(end >= start for end, start in zip(ends, starts[1:], strict=False)):
        raise CorruptState("the keys of the sketch do not ascend")


def _floats(state: Baseline) -> tuple[float, ...]:
    """The scalar floats of a state in serialised order."""
    sketch = state.sketch
    moments = (state.m, state.v, state.Wm, state.Ws, state.d)
    return (*moments, state.clamp_lo, state.clamp_hi, sketch.w, sketch.t)


def _check(state: Baseline) -> None:
    """Raise CorruptState unless every value is possible."""
    if state.version != STATE_VERSION:
        raise CorruptState(f"expected version {STATE_VERSION}, found {state.version}")
    if not (_all_finite(_floats(state)) and _all_finite(state.buf)):
        raise CorruptState("a value is not a finite number")
    if min(state.n, state.null_count) < 0:
        raise CorruptState(f"counts below zero: n={state.n}, null_count={state.null_count}")
    if state.buf and len(state.buf) != state.n:
        raise CorruptState(f"{len(state.buf)} samples are kept, {state.n} were accepted")
    if min(state.v, state.Wm, state.Ws, state.d, state.sketch.t) < 0.0 or state.sketch.w <= 0.0:
        raise CorruptState("a variance, divisor or weight is below zero")
    keys, weights = state.sketch.keys, state.sketch.weights
    if len(keys) != len(weights):
        raise CorruptState(f"the sketch has {len(keys)} keys and {len(weights)} weights")
    if not _all_finite(weights) or min(weights, default=1.0) <= 0.0:
        raise CorruptState("a weight of the sketch is not a positive number")


def _all_finite(values: Iterable[float]) -> bool:
    return all(map(math.isfinite, values))


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=_DIGEST_SIZE).digest()
