"""What every training algorithm must do; joining the registry is joining this file."""

import numpy as np
import pytest

from nnlo.algo import MODES, Algo
from nnlo.algo.base import Update
from nnlo.simulate import simulate
from tests.mpi.fakes import LinearModel, LineData

N = 1000
EVERY = pytest.mark.parametrize("mode", MODES)
OPTIMIZER = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.5}


def vector(seed, size=N):
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


def make(mode, **numbers):
    return Algo(OPTIMIZER, mode=mode, **numbers)


def updates(seed, *, n=2):
    return [Update(vector(10 * seed + i), 5 + i, i) for i in range(n)]


@EVERY
@pytest.mark.parametrize("synchronous", [False, True])
@pytest.mark.parametrize(
    "numbers",
    [
        {"optimizer": OPTIMIZER},
        {"optimizer": OPTIMIZER, "sync_every": 3, "worker_optimizer": "none"},
        {"sync_every": 3},
    ],
    ids=["every batch", "sums of gradients", "local steps"],
)
def test_every_algorithm_learns_the_line(mode, synchronous, numbers):
    run = simulate(
        Algo(mode=mode, **numbers),
        LinearModel(),
        LineData(60, 4),
        3,
        num_epochs=40,
        synchronous=synchronous,
        validation=LineData(9, 4),
    )
    assert run.history.epochs[-1]["val_loss"] < 1e-3
    np.testing.assert_allclose(run.weights[:3], [1.0, -2.0, 0.5], atol=0.05)


@EVERY
@pytest.mark.parametrize("synchronous", [False, True])
def test_every_algorithm_uses_every_sample_once_an_epoch(mode, synchronous):
    data = LineData(23, 4)
    run = simulate(make(mode), LinearModel(), data, 3, num_epochs=2, synchronous=synchronous)
    assert sum(record["samples"] for record in run.history.epochs) == 2 * 23
    assert sorted(data.seen) == sorted((n, float(y)) for n in range(2) for y in data.y)


@EVERY
@pytest.mark.parametrize("n", [1, 3])
def test_a_master_goes_on_exactly_from_its_state(mode, n):
    masters = [make(mode).master(N) for _ in range(2)]
    weights = [vector(0), vector(0)]
    for seed in range(3):
        masters[0].apply(weights[0], updates(seed, n=n), weights[0])
    state = masters[0].state()
    kept = {name: array.copy() for name, array in state.items()}
    weights[1][:] = weights[0]
    masters[1].load_state(state)
    for master, vectors in zip(masters, weights, strict=True):
        master.apply(vectors, updates(9, n=n), vectors)
    np.testing.assert_array_equal(*weights)
    for name, array in state.items():  # copies: the step of the first left them alone
        np.testing.assert_array_equal(array, kept[name])


@EVERY
@pytest.mark.parametrize("numbers", [{}, {"worker_optimizer": "sgd"}])
def test_a_worker_goes_on_exactly_from_its_state(mode, numbers):
    halves = [make(mode, **numbers).worker(N) for _ in range(2)]
    for half, earlier in zip(halves, (vector(1), vector(2)), strict=True):
        half.absorb(earlier)
    halves[1].load_state(halves[0].state())
    sent = []
    for half in halves:
        going_on = half.absorb(vector(3)).copy()
        pushed = vector(4)
        half.push(pushed)
        sent.append((going_on, pushed))
    np.testing.assert_array_equal(sent[0], sent[1])


@EVERY
@pytest.mark.parametrize("n", [1, 3])
def test_in_place_and_elsewhere_are_the_same(mode, n):
    here, there, start = vector(0), np.full(N, np.nan, np.float32), vector(0)
    for weights, out in ((here, here), (start, there)):
        make(mode).master(N).apply(weights, updates(1, n=n), out)
    np.testing.assert_array_equal(here, there)
    np.testing.assert_array_equal(start, vector(0))


@EVERY
def test_an_algorithm_is_numbers_only(mode):
    algo = make(mode)
    assert algo == make(mode)
    assert hash(algo) == hash(make(mode))
    assert eval(repr(algo), _names(algo)) == algo


def _names(algo):
    return {type(part).__name__: type(part) for part in (algo, algo.optimizer)}
