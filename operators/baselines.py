"""What is normal for one feature of one asset on one timeframe, and how far a value is from it.

Rules of this file: a value is made symmetric by a fixed transform g and compared with a location m
and a variance v that follow it, winsorised; the first samples are collected and initialise the
state robustly. Only a bar of quality ok moves the state, each bar once, in time order. Gaps do not
age it. Nothing is rounded here. Every constant comes from the feature pack. The steps of a bar are
in operators/kernel.py.  Numerics 2-5, 8, 11.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Literal

import msgspec

from operators import kernel
from operators.kernel import (
    DIGEST_BYTES,
    MAGIC,
    SCALARS,
    STATE_VERSION,
    Baseline,
    Checkpoint,
    CorruptState,
    Plan,
    Sketch,
    body_of,
    dump,
    restore,
)

__all__ = [
    "STATE_VERSION",
    "Baseline",
    "Checkpoint",
    "CorruptState",
    "Decay",
    "Feature",
    "Normalised",
    "Plan",
    "Robust",
    "Sketch",
    "apply",
    "body_of",
    "checkpoint",
    "checkpoint_of",
    "dump",
    "fresh",
    "load",
    "load_body",
    "restore",
    "stored_checkpoint",
]

assert sys.byteorder == "little", "baselines are stored as this machine holds them"
_HEAD = struct.Struct("<4sI")

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
    seen, plan = kernel.Seen(), Plan(feature, decay, robust)
    kernel.apply(state, seen, x, label_ms, dq, plan)
    return Normalised(
        z=seen.z if seen.has_z else None,
        q=seen.q if seen.has_q else None,
        mean=seen.m if seen.warm else None,
        scale=seen.s if seen.warm else None,
        divisor=state.d if seen.warm and feature.d_min is not None else None,
        floored=seen.floored,
        clamp_lo=state.clamp_lo,
        clamp_hi=state.clamp_hi,
        confidence=kernel.confidence(state.n, plan),
        n=state.n,
    )


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
    return kernel.checkpoint(state, x, label_ms, Plan(feature, decay, robust))


class _StoredCheckpoint(msgspec.Struct, array_like=True):
    """A Checkpoint as it is stored; about 100 bytes without copies."""

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
    weight: float
    buf: list[float] | None
    faded: list[tuple[int, float]] | None
    sketch: tuple[float, float, list[int], list[float]] | None


def stored_checkpoint(checkpoint: Checkpoint) -> tuple[Any, ...]:
    """Return a checkpoint as MessagePack takes it."""
    *scalars, buf, faded, sketch = checkpoint.fields()
    return (
        *scalars,
        None if buf is None else list(buf),
        faded,
        None if sketch is None else (sketch.w, sketch.t, list(sketch.keys), list(sketch.weights)),
    )


def checkpoint_of(stored: object) -> Checkpoint:
    """Return the checkpoint that `stored_checkpoint` made; msgspec.ValidationError for others."""
    *scalars, buf, faded, sketch = msgspec.structs.astuple(
        msgspec.convert(stored, _StoredCheckpoint)
    )
    return Checkpoint(
        *scalars,
        None if buf is None else array("d", buf),
        faded,
        None if sketch is None else Sketch(*sketch),
    )


# --- bytes (written by kernel.dump) ----------------------------------------------------------


def load(data: bytes) -> Baseline:
    """The state that `dump` wrote; CorruptState with the reason for any other bytes."""
    if len(data) < _HEAD.size + DIGEST_BYTES:
        raise CorruptState(f"expected at least a header and a digest, found {len(data)} bytes")
    _assert_magic(data)
    body = data[:-DIGEST_BYTES]
    if blake2b(body, digest_size=DIGEST_BYTES).digest() != data[-DIGEST_BYTES:]:
        raise CorruptState("the digest does not match the content")
    return load_body(body)


def load_body(body: bytes) -> Baseline:
    """The state that `body_of` wrote; CorruptState with the reason if it cannot be one."""
    if len(body) < _HEAD.size:
        raise CorruptState(f"expected at least a header, found {len(body)} bytes")
    _assert_magic(body)
    version = _HEAD.unpack_from(body)[1]
    if version != STATE_VERSION:
        raise CorruptState(f"expected version {STATE_VERSION}, found {version}")
    state = _parse(body)
    kernel.check(state)
    return state


def _assert_magic(data: bytes) -> None:
    magic = _HEAD.unpack_from(data)[0]
    if magic != MAGIC:
        raise CorruptState(f"expected {MAGIC!r} at the start, found {magic!r}")


def _parse(body: bytes) -> Baseline:
    at = SCALARS.size
    if len(body) < at:
        raise CorruptState(f"expected at least {at} bytes, found {len(body)}")
    _, _, n, null_count, has_day, day, has_ts, ts_ms, *rest = SCALARS.unpack_from(body)
    m, v, wm, ws, d, clamp_lo, clamp_hi, w, t, n_buf, n_runs, n_bins = rest
    size = at + 8 * (n_buf + n_runs + n_bins)
    if len(body) != size:
        raise CorruptState(f"expected {size} bytes, found {len(body)}")
    at_runs = at + 8 * n_buf
    at_lengths, at_weights = at_runs + 4 * n_runs, at_runs + 8 * n_runs
    starts, lengths = array("i", body[at_runs:at_lengths]), array("I", body[at_lengths:at_weights])
    return Baseline(
        n=n,
        m=m,
        v=v,
        Wm=wm,
        Ws=ws,
        d=d,
        buf=array("d", body[at:at_runs]),
        day=day if has_day else None,
        clamp_lo=clamp_lo,
        clamp_hi=clamp_hi,
        null_count=null_count,
        last_ts_ms=ts_ms if has_ts else None,
        sketch=Sketch(w, t, _keys_of(starts, lengths, n_bins), array("d", body[at_weights:])),
    )


def _keys_of(starts: Sequence[int], lengths: Sequence[int], count: int) -> array[int]:
    """The keys of runs; CorruptState unless they are `count`, and ascend with gaps between runs."""
    found, last = 0, None
    for start, length in zip(starts, lengths, strict=True):
        if not length or (last is not None and start <= last + 1):
            raise CorruptState("the keys of the sketch do not ascend")
        found += length
        last = start + length - 1
    if found != count:
        raise CorruptState(f"expected {count} keys of the sketch, found {found}")
    keys = array("i")
    for start, length in zip(starts, lengths, strict=True):
        keys.extend(range(start, start + length))
    return keys
