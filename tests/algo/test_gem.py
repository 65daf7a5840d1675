"""Gradient energy matching: the paper's formulas, its first step, its energy, its options."""

import numpy as np
import pytest

from nnlo.algo import GEM, Algo
from nnlo.algo.base import Update
from nnlo.errors import CheckpointError, ConfigError
from tests.algo.virtual import Run, network, quadratic, round_robin


def paper(gradient, start, order, *, n_workers, eta, mu, kappa):
    """Hermans & Louppe 2018 in float64, one gradient a commit; rounds by their mean."""
    theta = np.float64(start)
    x, stale = ([theta.copy() for _ in range(n_workers)] for _ in range(2))
    momentum = [np.zeros_like(theta) for _ in range(n_workers)]
    batches, path = [0] * n_workers, []
    for step in order:
        group, commits = step if isinstance(step, tuple) else (step,), []
        for i in group:
            delta = -eta * np.float64(gradient(np.float32(x[i]), i, batches[i]))
            batches[i] += 1
            momentum[i] = mu * momentum[i] + delta
            change, stale[i] = theta - stale[i], theta.copy()
            share = (kappa * np.abs(momentum[i]) - np.abs(change)) / (np.abs(delta) + 1e-12)
            commits.append(np.clip(share, 0.0, 5.0) * delta)
            x[i] = theta + commits[-1]
        theta = theta + np.mean(commits, axis=0)
        path.append(theta.copy())
    return np.array(path)


@pytest.mark.parametrize("problem", ["quadratic", "network"])
@pytest.mark.parametrize(
    "order", [round_robin(1, 20), round_robin(3, 30), [(0, 1, 2)] * 10, [0, 0, 2, (0, 1), 1, 2]]
)
def test_the_trajectory_is_that_of_the_paper(problem, order):
    gradient, start = network() if problem == "network" else (quadratic(), np.arange(1.0, 6.0))
    path = Run(GEM(), gradient, start, 3).run(order)
    expected = paper(gradient, start, order, n_workers=3, eta=0.05, mu=0.9, kappa=2.0)
    # a commit of 5 D carries the rounding of weights up to 5 on, for tens of steps
    np.testing.assert_allclose(path, expected, rtol=0, atol=5e-5)
    assert np.abs(path[-1] - np.float32(start)).max() > 0.05


def first_commit(algo, start, gradient):
    half, vector = algo.worker(start.size, 1), gradient.copy()
    half.absorb(start)
    half.pull(start)
    half.push(vector)
    return vector, half


def test_the_first_step_goes_at_full_length_wherever_the_weights_are():
    start, gradient = np.float32([0.0, 0.5, -100.0]), np.float32([1.0, 1.0, -2.0])
    commit, _ = first_commit(GEM(learning_rate=0.05, kappa=2.0), start, gradient)
    np.testing.assert_allclose(commit, -2.0 * 0.05 * gradient, rtol=1e-6)


def test_a_commit_is_at_most_five_steps_and_never_goes_back():
    half = GEM(learning_rate=1.0, momentum=0.9, kappa=2.0).worker(3, 2)
    theta = np.zeros(3, np.float32)
    half.absorb(theta)
    for _ in range(30):
        half.pull(theta)
        half.push(np.ones(3, np.float32))
    half.pull(np.float32([0.0, 5.0, 1000.0]))  # the others went nowhere, some way, too far
    last = np.ones(3, np.float32)
    half.push(last)
    np.testing.assert_allclose(last, [-5.0, -5.0, -0.0])


def test_no_gradient_commits_nothing():
    half = first_commit(GEM(), np.ones(2, np.float32), np.ones(2, np.float32))[1]
    half.pull(np.ones(2, np.float32))
    still = np.zeros(2, np.float32)
    half.push(still)
    np.testing.assert_array_equal(still, 0.0)


def test_one_worker_has_the_energy_of_momentum_sgd():
    """At constant gradient both move D / (1 - mu) a step: |p D| + |c| = kappa |m|, kappa 2."""
    constant = lambda weights, worker, batch: np.ones_like(weights)  # noqa: E731
    algo = GEM(learning_rate=0.01, momentum=0.75, kappa=2.0)
    path = Run(algo, constant, np.zeros(2), 1).run(round_robin(1, 400))
    speed = (path[-201] - path[-1]) / 200
    np.testing.assert_allclose(speed, 0.01 / (1 - 0.75), rtol=1e-3)


@pytest.mark.parametrize("n_workers", [2, 5, 10])
def test_workers_together_move_no_faster_than_kappa_times_momentum_sgd(n_workers):
    constant = lambda weights, worker, batch: np.ones_like(weights)  # noqa: E731
    algo = GEM(learning_rate=0.01, momentum=0.75, kappa=2.0)
    n_steps = 200 * n_workers
    path = Run(algo, constant, np.zeros(2), n_workers).run(round_robin(n_workers, n_steps))
    per_cycle = (path[n_steps // 2] - path[-1]) / (n_steps // 2 - 1) * n_workers
    assert np.all(per_cycle <= 2.0 * 0.01 / (1 - 0.75) * 1.01)


@pytest.mark.parametrize("n_workers", [2, 8])
def test_a_round_of_equal_workers_is_one_worker(n_workers):
    alone = Run(GEM(), quadratic(), np.ones(3), 1).run([(0,)] * 20)
    workers = tuple(range(n_workers))
    together = Run(GEM(), quadratic(), np.ones(3), n_workers).run([workers] * 20)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_local_steps_commit_the_way_that_they_went():
    """With c = 0 and the first step, p is kappa: the commit is kappa times the way."""
    algo = GEM(worker_optimizer="sgd", sync_every=3, kappa=1.0)
    run = Run(algo, quadratic(), np.ones(2), 1, rate=0.1)
    run.exchange(0)
    np.testing.assert_allclose(run.weights, 0.9**3, rtol=1e-6)
    np.testing.assert_array_equal(run.x[0], run.weights)


def test_gradients_follow_the_rate_and_local_steps_do_not():
    gradient, start = np.ones(2, np.float32), np.zeros(2, np.float32)
    for algo, expected in ((GEM(kappa=1.0), -0.025), (GEM(worker_optimizer="sgd"), 2.0)):
        half = algo.worker(2, 1)
        half.absorb(start)
        half.rate = 0.5
        half.pull(start)
        vector = gradient.copy()
        half.push(vector)
        np.testing.assert_allclose(vector, expected, rtol=1e-6)


def test_the_mean_of_commits_is_weighted_by_samples():
    master, out = GEM().master(1, 2), np.zeros(1, np.float32)
    updates = [Update(np.float32([1.0]), 30, 0), Update(np.float32([5.0]), 10, 0)]
    master.learning_rate = 1e-9
    master.apply(np.float32([10.0]), updates, out)
    assert out == 12.0


def test_a_restored_run_goes_on_exactly():
    gradient, start = network()
    run, other = (Run(GEM(), gradient, start, 2) for _ in range(2))
    run.run(round_robin(2, 7))
    other.weights[:], other.batches = run.weights, list(run.batches)
    for i in range(2):
        other.halves[i].load_state(run.halves[i].state())
        other.x[i] = other.halves[i].absorb(run.weights).copy()
    order = round_robin(2, 6)
    np.testing.assert_array_equal(other.run(order), run.run(order))


def test_a_state_of_another_size_is_refused():
    with pytest.raises(CheckpointError, match="GEM worker must have arrays of shapes"):
        GEM().worker(3, 2).load_state(GEM().worker(4, 2).state())


def test_older_names_and_defaults():
    assert Algo(mode="gem") == GEM(0.05, 0.9, 2.0, 1, None)
    assert Algo(mode="gem", worker_optimizer="none", sync_every=3) == GEM(sync_every=3)
    assert Algo(mode="gem", gem_lr=0.1, gem_momentum=0.5, gem_kappa=1.0) == GEM(0.1, 0.5, 1.0)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"gem_kappa": -1.0}, "kappa must be above 0, got -1.0"),
        ({"gem_kappa": 1.0, "kappa": 2.0}, "kappa must be given once, got 2.0 by kappa too"),
        ({"optimizer": "sgd"}, "gem must be given options that it uses, got optimizer='sgd'"),
        ({"elastic_force": 0.9}, "gem must be given .* got elastic_force=0.9; it uses gem_kappa"),
        ({"learning_rate": 0.1, "worker_optimizer": "sgd"}, "learning_rate must be meant for"),
        ({"worker_learning_rate": 0.1}, "must come with a worker_optimizer, got 0.1"),
    ],
)
def test_bad_numbers_are_config_errors_that_name_them(numbers, message):
    with pytest.raises(ConfigError, match=message):
        Algo(mode="gem", **numbers)
