"""Elastic averaging: the paper's recursion, its stability, what it conserves, its options."""

import numpy as np
import pytest

from nnlo.algo import EASGD, Algo
from nnlo.errors import CheckpointError, ConfigError
from tests.algo.virtual import Run, network, quadratic, round_robin


def paper(gradient, start, order, *, n_workers, tau, eta, beta):
    """Zhang et al. 2015, algorithm 1, in float64; the elastic move after the local steps."""
    alpha, center = beta / n_workers, np.float64(start)
    x = [center.copy() for _ in range(n_workers)]
    batches, path = [0] * n_workers, []
    for step in order:
        group = step if isinstance(step, tuple) else (step,)
        moves = []
        for i in group:
            for _ in range(tau):
                x[i] = x[i] - eta * gradient(np.float32(x[i]), i, batches[i])
                batches[i] += 1
            moves.append(alpha * (x[i] - center))
        for i, move in zip(group, moves, strict=True):
            x[i] = x[i] - move
            center = center + move
        path.append(center.copy())
    return np.array(path)


@pytest.mark.parametrize("problem", ["quadratic", "network"])
@pytest.mark.parametrize("tau", [1, 4])
@pytest.mark.parametrize(
    "order", [round_robin(3, 30), [(0, 1, 2)] * 10, [0, 0, 2, 1, (0, 2), 1, 1, (1, 0, 2)]]
)
def test_the_trajectory_is_that_of_the_paper(problem, tau, order):
    gradient, start = network() if problem == "network" else (quadratic(), np.ones(5))
    algo = EASGD(sync_every=tau, elastic_force=0.9)
    path = Run(algo, gradient, start, 3, rate=0.2).run(order)
    expected = paper(gradient, start, order, n_workers=3, tau=tau, eta=0.2, beta=0.9)
    np.testing.assert_allclose(path, expected, rtol=0, atol=2e-6)
    assert np.abs(path[-1] - np.float32(start)).max() > 0.01


def growth(eta, alpha, n_workers, n_rounds=600):
    """By how much the master's and the workers' weights grew; they start apart."""
    run = Run(EASGD(1, alpha * n_workers), quadratic(), [-1e-3], n_workers, rate=eta)
    for i in range(n_workers):
        run.halves[i].load_state({"x": np.float32([1e-3 * (i + 1)])})
        run.x[i] = run.halves[i].absorb(run.weights).copy()
    with np.errstate(over="ignore", invalid="ignore"):
        run.run(round_robin(n_workers, n_rounds * n_workers))
    return np.nan_to_num(np.abs([run.weights, *run.x]).max() / 1e-3, nan=np.inf)


@pytest.mark.parametrize("n_workers", [1, 3, 5])  # with an even number the limit is higher
@pytest.mark.parametrize("eta", [0.1, 0.5, 0.9])
def test_workers_in_turn_are_stable_up_to_the_limit_and_not_above(eta, n_workers):
    limit = (4 - 2 * eta) / (4 - 3 * eta)
    assert growth(eta, 0.98 * limit, n_workers) < 0.01
    assert growth(eta, 1.02 * limit, n_workers) > 100


@pytest.mark.parametrize("n_workers", [1, 2, 3, 5])
@pytest.mark.parametrize("eta", [0.05, 0.5, 1.0, 1.5, 1.9])
def test_all_that_the_paper_calls_stable_is_stable(eta, n_workers):
    limit = (4 - 2 * eta) / (4 - eta)
    for share in (0.1, 0.5, 0.98):
        assert growth(eta, share * limit, n_workers) < 1.5


def test_a_local_step_that_diverges_alone_is_not_saved():
    assert growth(2.1, 0.01, 2) > 100


@pytest.mark.parametrize("order", [[(0, 1, 2)] * 20, round_robin(3, 30)])
def test_an_exchange_conserves_the_sum_of_all_weights(order):
    run = Run(EASGD(1), quadratic(0.0), np.zeros(4), 3)
    for i, half in enumerate(run.halves):
        half.load_state({"x": np.float32([i, -i, 0.5, 7.0])})
        run.x[i] = half.absorb(run.weights).copy()
    before = np.sum(run.x, axis=0) + run.weights
    run.run(order)
    np.testing.assert_allclose(np.sum(run.x, axis=0) + run.weights, before, atol=3e-6)
    assert np.abs(run.x - run.weights).max() < 0.5  # and they have come together


def test_workers_that_only_decrease_never_raise_the_center():
    path = Run(EASGD(3), quadratic(), [1.0], 4).run([(0, 1, 2, 3)] * 30)
    assert np.all(np.diff(path, axis=0) <= 0)
    assert path[-1] < 0.1


def test_alpha_is_the_force_over_the_workers():
    for n_workers in (1, 4):
        half, vector = EASGD(elastic_force=0.8).worker(2, n_workers), np.float32([3.0, 1.0])
        half.absorb(np.float32([1.0, 1.0]))
        half.pull(np.float32([2.0, 2.0]))
        half.push(vector)
        np.testing.assert_allclose(vector, [0.8 / n_workers, -0.8 / n_workers], rtol=1e-6)


def test_a_restored_worker_keeps_its_own_weights():
    half, other = (EASGD().worker(3, 2) for _ in range(2))
    half.absorb(np.ones(3, np.float32))
    half.pull(np.zeros(3, np.float32))
    half.push(np.full(3, 5.0, np.float32))
    own = half.absorb(None).copy()
    other.load_state(half.state())
    np.testing.assert_array_equal(other.absorb(np.zeros(3, np.float32)), own)


def test_a_state_of_another_size_is_refused():
    with pytest.raises(CheckpointError, match="EASGD worker must have arrays of shapes"):
        EASGD().worker(3, 2).load_state(EASGD().worker(4, 2).state())
    with pytest.raises(CheckpointError, match="must have arrays"):
        EASGD().master(3, 2).load_state({"velocity": np.zeros(3)})


def test_the_learning_rate_of_the_master_is_for_the_workers_only():
    algo = Algo(mode="easgd")
    assert algo.learning_rate == algo.worker_learning_rate == 0.1
    assert EASGD(worker_optimizer="adam").learning_rate == 1.0
    slow = Run(algo, quadratic(), np.ones(3), 2)
    slow.master.learning_rate = 1e-9
    path = Run(algo, quadratic(), np.ones(3), 2).run([0, 1, 0])
    np.testing.assert_array_equal(slow.run([0, 1, 0]), path)


def test_defaults_go_together():
    nesterov = {"name": "sgd", "momentum": 0.9, "nesterov": True}
    assert Algo(mode="easgd") == EASGD(10, 0.9, nesterov, 0.1)
    assert Algo(mode="easgd", elastic_momentum=0.0) == EASGD(worker_learning_rate=0.1)
    assert Algo(mode="easgd", worker_optimizer="sgd") == EASGD(worker_learning_rate=0.1)
    assert Algo(mode="easgd", worker_optimizer="adam") == EASGD(worker_optimizer="adam")
    assert Algo(mode="easgd", elastic_lr=0.3).worker_learning_rate == 0.3
    strong = Algo(mode="easgd", elastic_momentum=0.99, worker_optimizer="sgd")
    assert strong.worker_optimizer == nesterov | {"momentum": 0.99}


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"worker_optimizer": "none"}, "worker_optimizer must name an optimizer with easgd"),
        ({"elastic_force": 0.0}, "elastic_force must be above 0, got 0.0"),
        ({"elastic_momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        (
            {"elastic_momentum": 0.9, "worker_optimizer": "adam"},
            "elastic_momentum must go with the worker_optimizer sgd, got 0.9 with adam",
        ),
        ({"optimizer": "adam"}, "easgd must be given options that it uses, got optimizer='adam'"),
        ({"gem_lr": 0.1}, "easgd must be given .* got gem_lr=0.1; it uses elastic_force, "),
        ({"elastic_lr": 0.1, "worker_learning_rate": 0.2}, "worker_learning_rate must be given"),
        ({"worker_learning_rate": -1.0}, "worker_learning_rate must be above 0, got -1.0"),
        ({"sync_every": 0}, "sync_every must be at least 1 batch, got 0"),
        ({"sync_every": 2.5}, "sync_every must be at least 1 batch, got 2.5"),
    ],
)
def test_bad_numbers_are_config_errors_that_name_them(numbers, message):
    with pytest.raises(ConfigError, match=message):
        Algo(mode="easgd", **numbers)
