"""Sums, means and norms of float32 vectors, and the machine code of the optimizers' loops."""

import math

import numpy as np
import pytest

from nnlo.algo import kernels
from nnlo.algo.optimizers import make_optimizer
from nnlo.errors import ModelError


def vector(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


def test_accumulate_adds_the_multiple():
    into, added = vector(1001), vector(1001, seed=1)
    expected = into + np.float32(0.3) * added
    kernels.accumulate(into, added, 0.3)
    np.testing.assert_array_equal(into, expected)


def test_weighted_mean_is_the_mean_by_samples_in_the_first_vector():
    vectors = [vector(1001, seed) for seed in range(3)]
    kept = [each.copy() for each in vectors]
    total, scale = kernels.weighted_mean(vectors, [10, 1, 5])
    expected = np.average(np.float64(kept), axis=0, weights=[10, 1, 5])
    # three sums of numbers below 8, each rounded to half a unit in the last place of 24 bits
    np.testing.assert_allclose(scale * np.float64(total), expected, rtol=0, atol=3 * 8 * 2.0**-24)
    assert total is vectors[0]
    np.testing.assert_array_equal(vectors[1:], kept[1:])


def test_weighted_mean_of_one_vector_is_that_vector():
    alone = vector(5)
    total, scale = kernels.weighted_mean([alone], [32])
    assert total is alone
    assert scale == 1.0
    np.testing.assert_array_equal(alone, vector(5))


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 100_003])
def test_norm_equals_the_exact_sum_to_float64_rounding(size):
    numbers = vector(size)
    exact = math.sqrt(math.fsum(float(x) ** 2 for x in numbers))
    assert kernels.norm(numbers) == pytest.approx(exact, rel=1e-13, abs=0)


def test_norm_does_not_depend_on_the_address():
    padded = vector(100_003)
    expected = kernels.norm(padded[5:].copy())
    assert kernels.norm(padded[5:]) == expected


def test_norm_neither_overflows_nor_hides_what_is_not_finite():
    assert kernels.norm(np.full(4, 3e38, np.float32)) == pytest.approx(6e38, rel=1e-6)
    for bad in (np.nan, np.inf, -np.inf):
        numbers = vector(3000)
        numbers[2999] = bad
        assert not math.isfinite(kernels.norm(numbers))


def test_vectors_of_other_length_or_kind_are_refused():
    for wrong in (vector(4), np.ones(3), np.ones(6, np.float32)[::2]):
        with pytest.raises(ModelError, match="contiguous float32 of shape"):
            kernels.accumulate(vector(3), wrong, 1.0)
    with pytest.raises(ModelError, match="contiguous float32"):
        kernels.norm(np.ones(3))


@pytest.mark.parametrize("name", ["adam", "nadam", "rmsprop", "adadelta", "adagrad"])
def test_loops_of_the_optimizers_are_vectorised_in_float32(name):
    weights, rule = vector(8), make_optimizer(name)
    rule.update(rule.init(8), weights, vector(8), weights)
    code = next(iter(kernels.compiled(getattr(kernels, name)).inspect_llvm().values()))
    divisions = [line for line in code.splitlines() if " fdiv " in line]
    assert any("x float>" in line for line in divisions)
    assert not any("double" in line or "fast" in line for line in divisions)


@pytest.mark.parametrize("size", [0, 1, 1025, 100_003])
def test_distance_equals_the_exact_sum_to_float64_rounding(size):
    one, other = vector(size), vector(size, seed=1)
    pairs = zip(one, other, strict=True)
    exact = math.sqrt(math.fsum((float(x) - float(y)) ** 2 for x, y in pairs))
    assert kernels.distance(one, other) == pytest.approx(exact, rel=1e-13, abs=0)
    assert kernels.distance(one, one) == 0.0


def test_add_writes_the_sum_elsewhere_or_in_place():
    weights, added, out = vector(1001), vector(1001, seed=1), np.empty(1001, np.float32)
    kernels.add(weights, added, -0.3, out)
    np.testing.assert_array_equal(out, weights + np.float32(-0.3) * added)
    kernels.add(weights, added, -0.3, weights)
    np.testing.assert_array_equal(out, weights)
