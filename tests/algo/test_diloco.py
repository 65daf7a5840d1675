"""DiLoCo: averaged local steps, Nesterov's outer step, its delayed form, its options."""

import numpy as np
import pytest

from nnlo.algo import Algo, DiLoCo
from nnlo.algo.base import Update
from nnlo.algo.optimizers import SGD
from nnlo.errors import CheckpointError, ConfigError
from tests.algo.virtual import Run, network, quadratic, round_robin

N = 50


def way(seed):
    return np.random.default_rng(seed).standard_normal(N, dtype=np.float32)


def paper(gradient, start, order, *, n_workers, inner, outer, mu, tau):
    """Liu et al. 2024, delayed Nesterov with c = 0, in float64; a full round is one of N."""
    theta, momentum, buffer = np.float64(start), 0.0, 0.0
    started = [theta.copy() for _ in range(n_workers)]
    batches, n_seen, path = [0] * n_workers, 0, []
    for step in order:
        group, ways = step if isinstance(step, tuple) else (step,), []
        for i in group:
            x = started[i].copy()
            for _ in range(tau):
                x -= inner * gradient(np.float32(x), i, batches[i])
                batches[i] += 1
            ways.append(started[i] - x)
        move = sum(ways) / n_workers
        buffer, n_seen = buffer + move, n_seen + len(group)
        if n_seen % n_workers == 0:
            momentum, buffer = mu * momentum + buffer, 0.0
            move = move + mu * momentum
        theta = theta - outer * move
        for i in group:
            started[i] = theta.copy()
        path.append(theta.copy())
    return np.array(path)


@pytest.mark.parametrize("problem", ["quadratic", "network"])
@pytest.mark.parametrize(
    "order", [[(0, 1, 2)] * 15, round_robin(3, 40), [0, 0, 2, (0, 1, 2), (0, 1), 1, 2, 2, 1]]
)
def test_the_trajectory_is_that_of_the_papers(problem, order):
    gradient, start = network() if problem == "network" else (quadratic(), np.ones(5))
    path = Run(DiLoCo(4, momentum=0.9), gradient, start, 3, rate=0.05).run(order)
    numbers = {"inner": 0.05, "outer": 0.7, "mu": 0.9, "tau": 4}
    expected = paper(gradient, start, order, n_workers=3, **numbers)
    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-5)
    assert np.abs(path[-1] - np.float32(start)).max() > 0.05


def test_one_local_sgd_step_and_a_plain_outer_step_are_averaged_sgd():
    gradient, start = network()
    algo = DiLoCo(1, learning_rate=1.0, momentum=0.0)
    path = Run(algo, gradient, start, 4, rate=0.1).run([(0, 1, 2, 3)] * 10)
    weights = np.float64(start)
    for step in range(10):
        weights -= 0.1 * np.mean([gradient(np.float32(weights), i, step) for i in range(4)], 0)
        np.testing.assert_allclose(path[step], weights, rtol=0, atol=2e-6)


@pytest.mark.parametrize("n_workers", [1, 3, 4])
def test_full_rounds_are_nesterov_sgd_bit_for_bit(n_workers):
    rule = SGD(learning_rate=0.7, momentum=0.9, nesterov=True)
    master, state = DiLoCo(momentum=0.9).master(N, n_workers), rule.init(N)
    ours, theirs = way(0), way(0)
    for seed in range(1, 6):
        updates = [Update(way(seed), 10, 0) for _ in range(n_workers)]
        single = Update(way(seed), 10, 0, n_merged=n_workers)
        master.apply(ours, updates if seed % 2 else [single], ours)
        total = sum((way(seed) for _ in range(1, n_workers if seed % 2 else 1)), way(seed))
        scale = 1 / n_workers if seed % 2 else 1.0
        rule.update(state, theirs, total, theirs, scale=scale)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("n_workers", [2, 5])
def test_single_updates_sum_to_the_round_of_them(n_workers):
    alone, together = (DiLoCo().master(N, n_workers) for _ in range(2))
    one, other = way(0), way(0)
    for cycle in range(4):
        seeds = range(10 * cycle, 10 * cycle + n_workers)
        for seed in seeds:
            alone.apply(one, [Update(way(seed), 10, 0)], one)
        together.apply(other, [Update(way(seed), 10, 0) for seed in seeds], other)
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)


def test_between_two_refreshes_an_update_is_a_plain_share():
    master, weights = DiLoCo().master(N, 4), np.zeros(N, np.float32)
    for seed in range(3):
        before = weights.copy()
        master.apply(weights, [Update(way(seed), 10, 0)], weights)
        np.testing.assert_allclose(weights - before, -0.7 / 4 * way(seed), rtol=0, atol=1e-6)


def test_a_round_is_weighted_by_samples():
    master, weights = DiLoCo(momentum=0.0, learning_rate=1.0).master(N, 2), np.zeros(N, np.float32)
    master.apply(weights, [Update(way(1), 30, 0), Update(way(2), 10, 0)], weights)
    expected = -(0.75 * way(1) + 0.25 * way(2))
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-6)


def test_updates_that_pass_the_number_of_workers_count_for_the_next_refresh():
    master, weights = DiLoCo().master(1, 4), np.zeros(1, np.float32)
    for n_merged, left in ((3, 3), (3, 2), (2, 0), (9, 1)):
        master.apply(weights, [Update(np.ones(1, np.float32), 10, 0, n_merged=n_merged)], weights)
        assert master.state()["n_waiting"] == left


def test_schedules_leave_the_outer_step_alone():
    moved = []
    for rate in (0.7, 1e-9):
        master, weights = DiLoCo().master(N, 1), np.zeros(N, np.float32)
        assert master.learning_rate == DiLoCo().learning_rate == 0.7
        master.learning_rate = rate
        master.apply(weights, [Update(way(1), 10, 0)], weights)
        moved.append(weights)
    np.testing.assert_array_equal(*moved)


def test_a_state_of_another_size_is_refused():
    with pytest.raises(CheckpointError, match="DiLoCo master must have arrays of shapes"):
        DiLoCo().master(3, 2).load_state(DiLoCo().master(4, 2).state())


def test_defaults_go_together():
    assert Algo(mode="diloco") == DiLoCo(10, "adamw", 0.01, 0.7, 0.5)
    assert Algo(mode="diloco", worker_optimizer="adamw").worker_learning_rate is None
    assert Algo(mode="diloco", worker_learning_rate=0.1).worker_learning_rate == 0.1
    expected = DiLoCo(50, "sgd", 0.1, learning_rate=1.0)
    numbers = {"sync_every": 50, "worker_optimizer": "sgd", "worker_learning_rate": 0.1}
    assert Algo(mode="diloco", learning_rate=1.0, **numbers) == expected


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"worker_optimizer": "none"}, "worker_optimizer must name an optimizer with diloco"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"momentum": 1.5}, r"momentum must be in \[0, 1\), got 1.5"),
        ({"optimizer": "sgd"}, "diloco must be given options that it uses, got optimizer='sgd'"),
        ({"staleness": "dc"}, "diloco must be given .* got staleness='dc'; it uses learning_rate"),
        ({"sync_every": 0}, "sync_every must be at least 1 batch, got 0"),
    ],
)
def test_bad_numbers_are_config_errors_that_name_them(numbers, message):
    with pytest.raises(ConfigError, match=message):
        Algo(mode="diloco", **numbers)
