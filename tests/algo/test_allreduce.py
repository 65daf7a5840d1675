"""Training without a master: the common step, the scaled rate, the options."""

import numpy as np
import pytest

from nnlo.algo import Algo, Allreduce, Downpour
from nnlo.algo.base import Update
from nnlo.algo.optimizers import SGD, Adam
from nnlo.errors import ConfigError

N = 100
PLAIN = SGD(learning_rate=0.5)


def steps(algo, n_ranks, n_steps):
    """How far each of some steps along a gradient of ones goes down."""
    master, weights, path = algo.master(1, n_ranks), np.zeros(1), []
    weights = weights.astype(np.float32)
    for _ in range(n_steps):
        before = weights.copy()
        master.apply(weights, [Update(np.ones(1, np.float32), 10, 0)], weights)
        path.append(float((before - weights)[0]))
    return path


def test_the_step_is_downpours():
    gradient = np.random.default_rng(0).standard_normal(N, dtype=np.float32)
    ours, theirs = np.ones((2, N), np.float32)
    limits = {"clip_norm": 2.0, "clip_value": 0.7}
    for algo, weights in ((Allreduce(**limits), ours), (Downpour(**limits), theirs)):
        master = algo.master(N, 4)
        for _ in range(3):
            master.apply(weights, [Update(gradient.copy(), 10, 0)], weights)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1.0), ("linear", 9.0), ("sqrt", 3.0)])
def test_the_rate_is_scaled_by_the_number_of_ranks(scaling, factor):
    warmup = None if scaling == "none" else 0
    algo = Allreduce(PLAIN, scaling=scaling, warmup=warmup)
    np.testing.assert_allclose(steps(algo, 9, 2), 0.5 * factor, rtol=1e-6)
    assert algo.learning_rate == algo.master(1, 9).learning_rate == 0.5
    np.testing.assert_allclose(steps(algo, 1, 1), 0.5)


def test_the_warm_up_rises_from_the_rate_of_one_rank():
    path = steps(Allreduce(PLAIN, scaling="linear", warmup=4), 3, 6)
    np.testing.assert_allclose(path, [0.5, 0.75, 1.0, 1.25, 1.5, 1.5], rtol=1e-6)
    slow = steps(Allreduce(PLAIN, scaling="linear"), 3, 101)
    np.testing.assert_allclose([slow[0], slow[50], slow[100]], [0.5, 1.0, 1.5], rtol=1e-5)


def test_a_restored_master_is_where_it_was_in_the_warm_up():
    algo = Allreduce(PLAIN, scaling="linear", warmup=4)
    first, other = algo.master(1, 3), algo.master(1, 3)
    weights = np.zeros(1, np.float32)
    for _ in range(3):
        first.apply(weights, [Update(np.ones(1, np.float32), 10, 0)], weights)
    other.load_state(first.state())
    other.apply(
        weights := np.zeros(1, np.float32), [Update(np.ones(1, np.float32), 1, 0)], weights
    )
    np.testing.assert_allclose(weights, -1.25)


def test_callbacks_set_the_rate_of_one_rank():
    master, weights = Allreduce(PLAIN, scaling="linear", warmup=0).master(1, 4), np.zeros(1, "f4")
    master.learning_rate = 0.25
    master.apply(weights, [Update(np.ones(1, np.float32), 10, 0)], weights)
    np.testing.assert_allclose(weights, -1.0)


def test_there_is_no_master_and_no_local_optimizer():
    algo = Allreduce()
    assert not algo.has_master
    assert not algo.trains_locally
    assert algo.worker_optimizer is None
    assert algo.worker_learning_rate is None
    gradient = np.ones(3, np.float32)
    algo.worker(3, 4).push(gradient)
    np.testing.assert_array_equal(gradient, 1.0)


def test_defaults_and_numbers_of_the_optimizer():
    assert Algo(mode="allreduce") == Allreduce(Adam())
    algo = Algo("sgd", mode="allreduce", learning_rate=0.1, momentum=0.9, engine="horovod")
    assert algo == Allreduce(SGD(learning_rate=0.1, momentum=0.9), engine="horovod")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"scaling": "cubic"}, "scaling must be one of none, linear, sqrt, got 'cubic'"),
        ({"engine": "nccl"}, "engine must be one of mpi, horovod, got 'nccl'"),
        ({"warmup": 5}, "warmup must be at least 0 .* got 5 with scaling none"),
        ({"warmup": -1, "scaling": "sqrt"}, "warmup must be at least 0 .* got -1"),
        ({"worker_optimizer": "sgd"}, "allreduce must be given .* got worker_optimizer='sgd'"),
        ({"staleness": "dc"}, "allreduce must be given options that it uses, got staleness"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0, got 0.0"),
        ({"sync_every": 0}, "sync_every must be at least 1 batch, got 0"),
        ({"elastic_force": 1.0}, "allreduce must be given .* got elastic_force=1.0"),
    ],
)
def test_bad_numbers_are_config_errors_that_name_them(numbers, message):
    with pytest.raises(ConfigError, match=message):
        Algo(mode="allreduce", **numbers)
