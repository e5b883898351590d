"""What is normal for one feature of one asset on one timeframe, and how far a value is from it.

Rules of this file: a value is made symmetric by a fixed transform g and compared with a location m
and a variance v that follow it, winsorised; the first samples are collected and initialise the
state robustly. Only a bar of quality ok moves the state, each bar once, in time order. Gaps do not
age it. Nothing is rounded here. Every constant comes from the feature pack. The steps of a bar are
in operators/kernel.py.  Numerics 2-5, 8, 11.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from copy import copy
from hashlib import blake2b
from typing import Literal

import msgspec

from operators import kernel
from operators.formulas.sketch import Sketch

STATE_VERSION = 2  # of the fields of Baseline, their meaning and their serialisation

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
    return Normalised(*kernel.apply(state, x, label_ms, dq, feature, decay, robust))


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
    return kernel.checkpoint(Checkpoint, state, x, label_ms, feature, decay, robust)


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
