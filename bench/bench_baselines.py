"""What one feature costs a minute: update, undo, serialisation, bytes; beside a fixed loop.

    python -m bench.bench_baselines [--bars N] [--rounds N]

Prints one JSON object. Times are µs of processor time a call on a baseline of a week of minutes,
medians of interleaved rounds; the reference is one math.log and two dictionary accesses. Ratios to
it are what to quote. Sizes: [bytes, bins] of every baseline of an asset by the feature pack.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import msgspec

from operators.baselines import (
    Baseline,
    Checkpoint,
    Decay,
    Feature,
    Robust,
    apply,
    checkpoint,
    dump,
    fresh,
    load,
    restore,
    stored_checkpoint,
)
from operators.formulas.rolling_median import DailyCounts
from operators.lattice import DAY_MS, MINUTE_MS
from operators.normalize import decay_of, robust_of
from packs import schema
from packs.loader import load_packs
from packs.schema import TIMEFRAME_MIN, TIMEFRAMES, FeaturePack, Timeframe

TF_MS = {tf: minutes * MINUTE_MS for tf, minutes in TIMEFRAME_MIN.items()}
DAYS = (7, 30)  # of data behind the sizes; the first also behind the times
CHANGE_SCALE = 3000.0  # usual size of a signed change, in its smallest divisors
KINDS = ("vol", "ret_abs", "spread", "oi_roc")  # one feature of each transform


def draw(source: random.Random, feature: Feature) -> float:
    """Return a value as markets have it, by transform."""
    if feature.transform == "log1p":  # a volume
        return math.exp(source.gauss(11.0, 1.5))
    if feature.transform == "pow_3_8":  # an absolute return
        return abs(source.gauss(0.0, 0.001))
    if feature.transform == "log":  # a spread
        return math.exp(source.gauss(-4.0, 0.6))
    assert feature.d_min is not None
    return source.gauss(0.0, CHANGE_SCALE * feature.d_min) * math.exp(source.gauss(0.0, 1.0))


class Subject:
    """A baseline that grows, with the constants it grows by."""

    def __init__(self, feature: Feature, decay: Decay, robust: Robust, tf_ms: int) -> None:
        self.feature, self.decay, self.robust, self.tf_ms = feature, decay, robust, tf_ms
        self.state: Baseline = fresh(robust)
        self.label_ms = 0
        self._source = random.Random(1)

    def values(self, bars: int) -> list[float]:
        """Return the values of the bars to come."""
        return [draw(self._source, self.feature) for _ in range(bars)]

    def grow(self, days: int) -> None:
        """Apply bars until `days` have passed in all."""
        self.apply(self.values((days * DAY_MS - self.label_ms) // self.tf_ms))

    def apply(self, values: list[float]) -> None:
        """Apply bars."""
        for x in values:
            self.label_ms += self.tf_ms
            self._apply(x)

    def checkpoint_and_apply(self, values: list[float]) -> None:
        """Apply bars that could be undone: what a minute costs."""
        for x in values:
            self.label_ms += self.tf_ms
            self._checkpoint(x)
            self._apply(x)

    def amend(self, values: list[float]) -> None:
        """Apply each bar, undo it and apply it again: what an amended minute costs."""
        for x in values:
            self.label_ms += self.tf_ms
            before = self._checkpoint(x)
            self._apply(x)
            restore(self.state, before)
            self._apply(x)

    def checkpoint_bytes(self) -> int:
        """Return the size of a checkpoint before the next bar."""
        self.label_ms += self.tf_ms
        before = self._checkpoint(self.values(1)[0])
        self.label_ms -= self.tf_ms
        return len(msgspec.msgpack.encode(stored_checkpoint(before)))

    def _apply(self, x: float) -> None:
        apply(
            self.state,
            x,
            label_ms=self.label_ms,
            dq="ok",
            feature=self.feature,
            decay=self.decay,
            robust=self.robust,
        )

    def _checkpoint(self, x: float) -> Checkpoint:
        return checkpoint(
            self.state,
            x,
            label_ms=self.label_ms,
            feature=self.feature,
            decay=self.decay,
            robust=self.robust,
        )


def subject_of(features: FeaturePack, entry: schema.Normalised, tf: Timeframe) -> Subject:
    """Return a new baseline of one entry of the pack."""
    feature = Feature(entry.feature, entry.transform, entry.s_min, entry.d_min, entry.x_zero)
    decay = decay_of(entry.decay or features.decay.of(tf))
    tf_ms = TF_MS["1h"] if entry.sampled == "hourly" else TF_MS[tf]
    return Subject(feature, decay, robust_of(features), tf_ms)


# --- time ------------------------------------------------------------------------------------


def reference(values: list[float]) -> None:
    """Take one logarithm and two dictionary accesses per value: the speed of this machine."""
    table: dict[int, float] = {}
    for i, x in enumerate(values):
        table[i & 255] = math.log(x) + table.get(i & 127, 0.0)


def us_per_call(work: Callable[[], object], calls: int) -> float:
    """Return the processor time of one call in µs."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / calls * 1e6


def repeat(work: Callable[[], object], times: int) -> None:
    """Call something again and again."""
    for _ in range(times):
        work()


def turn(subject: Subject, bars: int) -> dict[str, float]:
    """Return µs a call of everything that a baseline is asked for, once."""
    spent = {}
    for work in (subject.apply, subject.checkpoint_and_apply, subject.amend):
        spent[work.__name__] = us_per_call(partial(work, subject.values(bars)), bars)
    feature = subject.feature
    subject.feature = msgspec.structs.replace(feature, ranked=False)
    unranked = partial(subject.apply, subject.values(bars))
    spent["apply_unranked"] = us_per_call(unranked, bars)
    subject.feature = feature
    few = max(1, bars // 10)
    for name, what in (
        ("copy", subject.state.copy),
        ("dump", partial(dump, subject.state)),
        ("load", partial(load, dump(subject.state))),
    ):
        spent[name] = us_per_call(partial(repeat, what, few), few)
    return spent


def times(subjects: list[Subject], bars: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return µs a call by feature, medians over rounds in which everything takes its turn."""
    taken: dict[str, dict[str, list[float]]] = {}
    source = random.Random(2)
    plain = [source.random() + 1.0 for _ in range(20 * bars)]
    for _ in range(rounds):
        spent = {"reference": {"loop": us_per_call(partial(reference, plain), len(plain))}}
        spent |= {subject.feature.name: turn(subject, bars) for subject in subjects}
        for name, costs in spent.items():
            for what, us in costs.items():
                taken.setdefault(name, {}).setdefault(what, []).append(us)
    return {
        name: {what: statistics.median(all_us) for what, all_us in costs.items()}
        for name, costs in taken.items()
    }


# --- bytes -----------------------------------------------------------------------------------


def sizes(features: FeaturePack) -> dict[str, dict[str, list[int]]]:
    """Return [bytes, bins] of every feature and timeframe after each of DAYS."""
    found: dict[str, dict[str, list[int]]] = {f"{days} days": {} for days in DAYS}
    for entry in features.normalised:
        for tf in TIMEFRAMES:
            if tf not in entry.tfs:
                continue
            subject = subject_of(features, entry, tf)
            for days in DAYS:
                subject.grow(days)
                size = [len(dump(subject.state)), len(subject.state.sketch.keys)]
                found[f"{days} days"][f"{entry.feature} {tf}"] = size
    return found


def gate(days: int, rounds: int) -> dict[str, float]:
    """Return cost and size of one running median over `days` of minutes."""
    source = random.Random(3)
    counts = DailyCounts()
    minutes = DAY_MS // TF_MS["1m"]
    adding = []
    for day in range(days + 2):  # one to spare and today's
        values = [math.exp(source.gauss(11.0, 1.5)) for _ in range(minutes)]
        adding.append(us_per_call(partial(count_all, counts, values, day), minutes))
    asking = [us_per_call(partial(counts.median, days + 1, days), 1) for _ in range(rounds)]
    return {
        "add_us": statistics.median(adding),
        "median_us": statistics.median(asking),
        "bytes": len(msgspec.msgpack.encode(counts)),
    }


def count_all(counts: DailyCounts, values: list[float], day: int) -> None:
    """Count the values of a day."""
    for x in values:
        counts.add(x, day)


def main() -> None:
    """Grow one baseline of each kind, time them in turn, print the medians, ratios and sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bars", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    features = load_packs().features
    entries = {entry.feature: entry for entry in features.normalised}
    subjects = [subject_of(features, entries[name], "1m") for name in KINDS]
    checkpoints = {}
    for subject in subjects:
        subject.grow(DAYS[0])
        rolling = subject.checkpoint_bytes()
        subject.apply(subject.values(1))
        inside = subject.checkpoint_bytes()
        checkpoints[subject.feature.name] = {"inside_a_day": inside, "day_roll": rolling}
    us = times(subjects, given.bars, given.rounds)
    unit = us.pop("reference")["loop"]
    held = sizes(features)
    result = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "reference_us": unit,
        "us": us,
        "ratio_to_reference": {
            name: {what: value / unit for what, value in costs.items()}
            for name, costs in us.items()
        },
        "checkpoint_bytes": checkpoints,
        "bytes_and_bins": held,
        "bytes_of_an_asset": {
            when: sum(b for b, _ in each.values()) for when, each in held.items()
        },
        "gate": gate(features.illiquidity.median_days, given.rounds),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
