"""The decayed histogram: keys, ranks against exact ones, quantiles, pruning."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.formulas.sketch import Sketch, edges, key

GROWTH_1M = 1.00048146807729
GROWTH_1H = 1.02930223664349

# value, key, edges; numerics 12
KEYS = """
key 1.0 35233 edges 1.0 1.03125
key 1.5 35249 edges 1.5 1.53125
key 1000.0 35551 edges 992.0 1008.0
key 123456.789 35773 edges 122880.0 124928.0
key -0.002 -34945 edges -0.00201416015625 -0.001953125
key 0.001 34913 edges 0.0009765625 0.001007080078125
"""

finite = st.floats(-1e12, 1e12, allow_subnormal=False)


def filled(values: list[float], growth: float = GROWTH_1M, x_zero: float = 0.0) -> Sketch:
    sketch = Sketch()
    for x in values:
        sketch.add(x, growth, x_zero)
    return sketch


def exact_rank(values: list[float], x: float, growth: float) -> Fraction:
    """Decayed mid-rank without bins and without rounding."""
    g = Fraction(growth)
    weights = [g**i for i in range(1, len(values) + 1)]
    below = sum((w for v, w in zip(values, weights, strict=True) if v < x), Fraction(0))
    equal = sum((w for v, w in zip(values, weights, strict=True) if v == x), Fraction(0))
    return (below + equal / 2) / sum(weights, Fraction(0))


def uniform(n: int) -> list[float]:
    source = random.Random(7)
    return [source.random() for _ in range(n)]


@pytest.mark.parametrize("line", KEYS.strip().splitlines())
def test_oracle_key_and_edges(line: str) -> None:
    """Every key and edge of the reference is met exactly."""
    _, x, k, _, lo, hi = line.split()
    assert key(float(x), 0.0) == int(k)
    assert edges(int(k)) == (float(lo), float(hi))


@given(st.floats(-1e300, 1e300), st.sampled_from([0.0, 1e-7, 1.0]))
def test_property_a_value_lies_in_its_bin(x: float, x_zero: float) -> None:
    """Bins are closed at the edge nearer to zero, open at the other; key 0 holds all near zero."""
    k = key(x, x_zero)
    lo, hi = edges(k)
    if abs(x) <= x_zero:
        assert k == 0
    elif abs(x) >= 1e-300:  # below, edges run out of precision
        assert lo <= x < hi if x > 0.0 else lo < x <= hi


@given(finite, finite)
def test_property_keys_sort_as_values(a: float, b: float) -> None:
    """A smaller value never has a larger key."""
    low, high = sorted((a, b))
    assert key(low, 1e-6) <= key(high, 1e-6)


@given(st.floats(1e-200, 1e200))
def test_property_neighbouring_bins_touch(x: float) -> None:
    """There is no gap and no overlap between a bin and the next."""
    k = key(x, 0.0)
    assert edges(k)[1] == edges(k + 1)[0]


@settings(max_examples=60)
@given(st.lists(finite, min_size=1, max_size=60), st.sampled_from([GROWTH_1M, GROWTH_1H, 1.5]))
def test_property_rank_is_exact_up_to_half_a_bin(values: list[float], growth: float) -> None:
    """The rank is off by at most half the share of the bin that the value falls into."""
    sketch = filled(values, growth)
    for x in (*values[-5:], 0.0, 3.5):
        own = (sketch.weight_at(key(x, 0.0)) or 0.0) / sketch.t
        got = sketch.rank(x, 0.0)
        assert got is not None
        assert abs(got - float(exact_rank(values, x, growth))) <= 0.5 * own + 1e-12


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([-4.0, -1.0, 0.0, 0.25, 1.0, 2.0, 8.0]), min_size=1, max_size=60),
    st.sampled_from([GROWTH_1M, GROWTH_1H, 1.5]),
)
def test_property_rank_of_ties_is_the_exact_mid_rank(values: list[float], growth: float) -> None:
    """With one value per bin the rank is the exact decayed mid-rank."""
    sketch = filled(values, growth)
    for x in set(values):
        assert sketch.rank(x, 0.0) == pytest.approx(float(exact_rank(values, x, growth)), rel=1e-12)


class Plain:
    """The sketch as the reference writes it: weights by key in a dictionary. Numerics 7."""

    def __init__(self) -> None:
        self.w, self.t, self.bins = 1.0, 0.0, dict[int, float]()

    def add(self, x: float, growth: float, x_zero: float) -> None:
        self.w *= growth
        if self.w >= 2.0**40:
            self.w *= 2.0**-40
            self.t *= 2.0**-40
            self.bins = {k: b * 2.0**-40 for k, b in self.bins.items()}
        k = key(x, x_zero)
        self.bins[k] = self.bins.get(k, 0.0) + self.w
        self.t += self.w

    def rank(self, x: float, x_zero: float) -> float:
        k = key(x, x_zero)
        below = math.fsum([b for other, b in self.bins.items() if other < k])
        return (below + 0.5 * self.bins.get(k, 0.0)) / self.t

    def quantile(self, p: float) -> float:
        c, hi = 0.0, 0.0
        for k in sorted(self.bins):
            lo, hi = edges(k)
            if c + self.bins[k] >= p * self.t:
                return lo + (hi - lo) * ((p * self.t - c) / self.bins[k])
            c += self.bins[k]
        return hi

    def prune(self, share: float) -> None:
        self.bins = {k: b for k, b in self.bins.items() if b >= share * self.t}
        self.t = math.fsum(self.bins.values())


@given(
    st.lists(finite, min_size=1, max_size=80),
    st.sampled_from([GROWTH_1M, GROWTH_1H, 1.5]),
    st.sampled_from([0.0, 1.0]),
)
def test_oracle_every_bit_is_that_of_the_reference(
    values: list[float], growth: float, x_zero: float
) -> None:
    """Ranks, quantiles and pruned totals equal those of the plain dictionary, to the last bit."""
    sketch, plain = Sketch(), Plain()
    for x in values:
        sketch.add(x, growth, x_zero)
        plain.add(x, growth, x_zero)
        assert sketch.rank(x, x_zero) == plain.rank(x, x_zero)
    for _ in range(2):
        for x in (*values[:10], 0.0, 3.5):
            assert sketch.rank(x, x_zero) == plain.rank(x, x_zero)
        for p in (0.0, 0.25, 0.5, 0.75, 1.0):
            assert sketch.quantile(p) == plain.quantile(p)
        assert dict(zip(sketch.keys, sketch.weights, strict=True)) == plain.bins
        assert (sketch.w, sketch.t) == (plain.w, plain.t)
        assert list(sketch.keys) == sorted(plain.bins)
        sketch.prune(0.01)
        plain.prune(0.01)


@given(st.lists(finite, max_size=40), finite, finite)
def test_property_a_bin_can_be_put_back(values: list[float], x: float, other: float) -> None:
    """With the weight a bin had, and the two totals, an added sample leaves no trace."""
    sketch = filled(values, 1.5)
    kept = sketch.copy()
    k = key(x, 0.0)
    weight = sketch.weight_at(k)
    assert weight == dict(zip(kept.keys, kept.weights, strict=True)).get(k)
    if sketch.w * 1.5 < 2.0**40:  # else all weights shrink
        sketch.add(x, 1.5, 0.0)
        assert sketch != kept
        sketch.put_at(k, weight)
        sketch.w, sketch.t = kept.w, kept.t
        assert sketch == kept
    sketch.put_at(key(other, 0.0), sketch.weight_at(key(other, 0.0)))
    assert sketch == kept


def test_oracle_rank_of_continuous_data() -> None:
    """On smooth data the error is 0.002 on average and never above 0.01."""
    values = [1000.0 + 1e6 * u * u * u for u in uniform(3000)]
    sketch = filled(values)
    weights = [GROWTH_1M]
    for _ in values[1:]:
        weights.append(weights[-1] * GROWTH_1M)
    total = math.fsum(weights)
    errors = []
    for x in values[::50]:
        below = math.fsum([w for v, w in zip(values, weights, strict=True) if v < x])
        equal = math.fsum([w for v, w in zip(values, weights, strict=True) if v == x])
        got = sketch.rank(x, 0.0)
        assert got is not None
        errors.append(abs(got - (below + 0.5 * equal) / total))
    assert math.fsum(errors) / len(errors) <= 0.003
    assert max(errors) <= 0.01


def test_old_samples_fade() -> None:
    """After one half-life of 24 bars the past and the present weigh the same."""
    sketch = filled([1.0] * 2000 + [5.0] * 24, GROWTH_1H)
    assert sketch.rank(3.0, 0.0) == pytest.approx(0.5, abs=1e-12)


def test_weights_are_rescaled_without_a_trace() -> None:
    """Beyond 2^40 all weights shrink by an exact power of two: ranks stay, nothing overflows."""
    values = [1.0, 2.0, 1.0, 4.0] * 20
    sketch = Sketch()
    big = Fraction(0)
    for i, x in enumerate(values, start=1):
        sketch.add(x, 2.0, 0.0)
        big += Fraction(2) ** i
        assert sketch.w < 2.0**40
    assert sketch.t == float(big / 2**80)
    for x in (1.0, 2.0, 4.0):
        exact = float(exact_rank(values, x, 2.0))
        assert sketch.rank(x, 0.0) == pytest.approx(exact, rel=1e-15, abs=0.0)


def test_an_empty_sketch_knows_nothing() -> None:
    """Without samples rank and quantile are NULL."""
    assert Sketch().rank(1.0, 0.0) is None
    assert Sketch().quantile(0.5) is None


def test_quantile_of_constant_data_stays_in_the_bin() -> None:
    """One value gives quantiles that run from one edge of its bin to the other."""
    sketch = filled([1.5] * 10)
    assert sketch.quantile(0.0) == 1.5
    assert sketch.quantile(0.5) == pytest.approx(1.515625)
    assert sketch.quantile(1.0) == 1.53125


def test_a_quantile_between_two_bins_is_the_end_of_the_lower() -> None:
    """Where exactly the share asked for lies in the bins so far, the walk stops."""
    assert filled([1.0, 100.0], 1.0).quantile(0.5) == 1.03125


def test_quantile_of_zeros_is_zero() -> None:
    """Everything within x_zero is zero, whatever its sign."""
    sketch = filled([0.0, -1e-9, 1e-9], x_zero=1e-7)
    assert list(sketch.keys) == [0]
    assert sketch.quantile(0.25) == 0.0


def test_quantile_is_close_to_the_sorted_values() -> None:
    """Quartiles of smooth data are right within one bin."""
    sketch = filled([x - 0.5 for x in uniform(4000)], 1.0)
    for p in (0.25, 0.5, 0.75):
        assert sketch.quantile(p) == pytest.approx(p - 0.5, abs=0.02)


@given(st.lists(finite, min_size=1, max_size=60))
def test_property_quantiles_ascend(values: list[float]) -> None:
    """A larger share never gives a smaller value, and all lie between the outer edges."""
    sketch = filled(values, GROWTH_1H)
    got = [sketch.quantile(i / 16) for i in range(17)]
    numbers = [x for x in got if x is not None]
    assert len(numbers) == 17
    assert numbers == sorted(numbers)
    assert edges(sketch.keys[0])[0] <= numbers[0]
    assert numbers[-1] <= edges(sketch.keys[-1])[1]


def test_prune_drops_only_the_negligible() -> None:
    """Bins under the share go, the total becomes the sum of what is left."""
    sketch = filled([1.0] + [2.0] * 60, 1.5)
    light, heavy = sketch.weights
    assert sketch.lighter(1e-9) == [(key(1.0, 0.0), light)]
    sketch.prune(1e-9)
    assert sketch.lighter(1e-9) == []
    assert (list(sketch.keys), list(sketch.weights)) == ([key(2.0, 0.0)], [heavy])
    assert sketch.t == heavy


def test_a_copy_is_independent() -> None:
    """Adding to a copy leaves the original as it was, and the other way round."""
    one = filled([1.0, 2.0])
    other = one.copy()
    assert other == one
    other.add(3.0, GROWTH_1M, 0.0)
    assert one == filled([1.0, 2.0])
    one.add(9.0, GROWTH_1M, 0.0)
    assert other == filled([1.0, 2.0, 3.0])
