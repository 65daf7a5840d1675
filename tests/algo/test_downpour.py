"""Downpour: what the master does with gradients, and numbers that cannot be."""

import numpy as np
import pytest

from nnlo.algo import Algo, Downpour
from nnlo.algo.base import Update
from nnlo.algo.optimizers import SGD, Adam
from nnlo.errors import CheckpointError, ConfigError

N = 1000
PLAIN = SGD(learning_rate=1.0)


def vector(seed=0, size=N):
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


def step(algo, *updates, weights=None):
    """How far one step of the master's takes the weights down."""
    weights = np.zeros(N, np.float32) if weights is None else weights
    out = np.empty_like(weights)
    algo.master(weights.size, 1).apply(weights, updates, out)
    return weights - out


def test_one_update_is_one_step_of_the_optimizer():
    gradient = vector()
    np.testing.assert_array_equal(step(Downpour(PLAIN), Update(gradient, 5, 3)), gradient)


def test_the_mean_of_a_round_is_weighted_by_samples():
    gradients, counts = [vector(seed) for seed in range(3)], [100, 100, 37]
    expected = np.average(np.float64(gradients), axis=0, weights=counts)
    updates = [Update(g.copy(), n, 0) for g, n in zip(gradients, counts, strict=True)]
    np.testing.assert_allclose(step(Downpour(PLAIN), *updates), expected, rtol=0, atol=1e-6)


def test_equal_updates_of_a_round_are_one_of_them():
    gradient = vector()
    moved = step(Downpour(PLAIN), *(Update(gradient.copy(), 10, 0) for _ in range(4)))
    np.testing.assert_allclose(moved, gradient, rtol=1e-6)


@pytest.mark.parametrize("limit", [0.1, 1.0, 40.0])
@pytest.mark.parametrize("counts", [(10,), (10, 30)])
def test_a_long_gradient_is_shortened_to_the_norm_and_keeps_its_direction(limit, counts):
    updates = [Update(vector(n), n, 0) for n in counts]
    mean = np.average(np.float64([u.vector for u in updates]), axis=0, weights=counts)
    expected = mean * min(1.0, limit / np.linalg.norm(mean))
    moved = step(Downpour(PLAIN, clip_norm=limit), *updates)
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("limit", [0.01, 0.5, 10.0])
@pytest.mark.parametrize("counts", [(10,), (10, 30), (30, 7)])
def test_elements_of_the_mean_are_limited_not_those_of_the_updates(limit, counts):
    updates = [Update(vector(n), n, 0) for n in counts]
    mean = np.average(np.float64([u.vector for u in updates]), axis=0, weights=counts)
    moved = step(Downpour(PLAIN, clip_value=limit), *updates)
    np.testing.assert_allclose(moved, mean.clip(-limit, limit), rtol=1e-5, atol=1e-6)


def test_both_limits_clip_by_value_first():
    gradient = vector()
    clipped = np.float64(gradient).clip(-0.5, 0.5)
    moved = step(Downpour(PLAIN, clip_norm=1.0, clip_value=0.5), Update(gradient, 1, 0))
    np.testing.assert_allclose(moved, clipped / np.linalg.norm(clipped), rtol=1e-5)


@pytest.mark.parametrize("limits", [{"clip_norm": 0.7}, {"clip_value": 0.3}])
def test_clipping_is_that_of_torch(limits):
    torch = pytest.importorskip("torch")
    weights = torch.nn.Parameter(torch.zeros(N))
    weights.grad = torch.from_numpy(vector())
    if "clip_norm" in limits:
        torch.nn.utils.clip_grad_norm_([weights], limits["clip_norm"])
    else:
        torch.nn.utils.clip_grad_value_([weights], limits["clip_value"])
    moved = step(Downpour(PLAIN, **limits), Update(vector(), 1, 0))
    np.testing.assert_allclose(moved, weights.grad.numpy(), rtol=1e-5)


@pytest.mark.parametrize("limits", [{"clip_norm": 0.7}, {"clip_value": 0.3}])
def test_no_gradient_stays_none(limits):
    moved = step(Downpour(PLAIN, **limits), Update(np.zeros(N, np.float32), 1, 0))
    np.testing.assert_array_equal(moved, 0.0)


@pytest.mark.parametrize(("staleness", "share"), [(0, 1.0), (1, 0.5), (3, 0.25)])
def test_inverse_staleness_divides_the_rate(staleness, share):
    gradient = vector()
    moved = step(Downpour(PLAIN, staleness="inverse"), Update(gradient.copy(), 1, staleness))
    np.testing.assert_allclose(moved, share * gradient, rtol=1e-6)
    moved = step(Downpour(PLAIN), Update(gradient.copy(), 1, staleness))
    np.testing.assert_array_equal(moved, gradient)


def test_a_round_is_as_stale_as_its_oldest_update():
    updates = [Update(vector(1), 1, 0), Update(vector(1), 1, 3)]
    moved = step(Downpour(PLAIN, staleness="inverse"), *updates)
    np.testing.assert_allclose(moved, vector(1) / 4, rtol=1e-6)


def test_the_learning_rate_may_change_at_any_time():
    master = Downpour(SGD(learning_rate=0.5)).master(N, 1)
    assert master.learning_rate == 0.5
    master.learning_rate = 0.25
    out = np.zeros(N, np.float32)
    master.apply(np.zeros(N, np.float32), [Update(vector(), 1, 0)], out)
    np.testing.assert_array_equal(out, -0.25 * vector())


def test_a_worker_sends_its_gradient_as_it_is():
    half, gradient = Downpour().worker(N, 1), vector()
    half.absorb(vector(1))
    half.push(gradient)
    np.testing.assert_array_equal(gradient, vector())


def test_local_steps_are_sent_as_the_way_down_from_the_last_weights():
    half = Downpour(worker_optimizer="sgd").worker(N, 1)
    for start in (vector(1), vector(2)):
        assert half.absorb(start) is start
        reached = start - 0.5
        half.push(reached)
        np.testing.assert_array_equal(reached, start - (start - 0.5))


def test_the_worker_keeps_no_reference_to_the_weights_it_was_given():
    half, weights = Downpour(worker_optimizer="sgd").worker(3, 1), np.ones(3, np.float32)
    half.absorb(weights)
    weights[:] = 9.0
    reached = np.zeros(3, np.float32)
    half.push(reached)
    np.testing.assert_array_equal(reached, 1.0)


def test_a_state_of_another_optimizer_is_refused():
    state = Downpour(SGD(momentum=0.9)).master(N, 1).state()
    for other in (Downpour(Adam()), Downpour(SGD())):
        with pytest.raises(CheckpointError, match="optimizer state must have arrays"):
            other.master(N, 1).load_state(state)
    with pytest.raises(CheckpointError, match="optimizer state must have arrays"):
        Downpour(SGD(momentum=0.9)).master(N + 1, 1).load_state(state)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"sync_every": 0}, "sync_every must be at least 1 batch, got 0"),
        ({"sync_every": -3}, "sync_every must be at least 1 batch, got -3"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0, got 0.0"),
        ({"clip_norm": float("nan")}, "clip_norm must be above 0, got nan"),
        ({"clip_value": -1.0}, "clip_value must be above 0, got -1.0"),
        (
            {"staleness": "linear"},
            "staleness policy must be one of none, inverse, .*gap, got 'linear'",
        ),
        ({"worker_learning_rate": 0.1}, "must come with a worker_optimizer, got 0.1"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0, got -1.0"),
        ({"learning_rate": "fast"}, "learning_rate must be a number, got 'fast'"),
        ({"mode": "upward"}, "mode must be one of downpour.*, got 'upward'"),
        ({"momentum": 0.9}, "adam must be given numbers it has, got momentum; it has "),
        ({"optimizer": "sdg"}, "optimizer must be one of sgd, .*, got 'sdg'"),
        ({"optimizer": {"name": "sgd", "beta": 1}}, "sgd must be given numbers it has, got beta"),
    ],
)
def test_bad_numbers_are_config_errors_that_name_them(numbers, message):
    with pytest.raises(ConfigError, match=message):
        Algo(**numbers)


def test_algo_builds_what_it_is_told():
    algo = Algo({"name": "sgd", "momentum": 0.9}, learning_rate=0.5, clip_norm=2.0)
    assert algo == Downpour(SGD(learning_rate=0.5, momentum=0.9), clip_norm=2.0)
    algo = Algo("adam", sync_every=4, worker_optimizer="none", staleness="inverse")
    assert algo == Downpour(Adam(), sync_every=4, staleness="inverse")


def test_the_defaults_of_algo_go_together():
    assert Algo() == Downpour(Adam())
    local = Downpour(SGD(learning_rate=1.0), 4, worker_optimizer="adam", staleness="inverse")
    assert Algo(sync_every=4) == local
    assert Algo(worker_optimizer="sgd").optimizer == SGD(learning_rate=1.0)
    assert Algo(sync_every=4, worker_optimizer="none") == Downpour(Adam(), sync_every=4)
    assert Algo(sync_every=4, staleness="none").staleness == "none"


def test_an_option_of_another_mode_is_an_error_that_says_what_is_used():
    with pytest.raises(ConfigError, match=r"downpour must be given .* got elastic_force=0.9; it"):
        Algo(elastic_force=0.9)
    assert Algo(elastic_force=None, sync_every=None, worker_optimizer=None) == Downpour(Adam())
