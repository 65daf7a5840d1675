"""What every training algorithm must do; joining the registry is joining this file."""

from dataclasses import fields

import numpy as np
import pytest

from nnlo.algo import MODES, Algo
from nnlo.algo.base import Update
from nnlo.errors import CheckpointError
from nnlo.simulate import simulate
from tests.mpi.fakes import LinearModel, LineData

N = 1000
OPTIMIZER = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.5}
WAYS = {
    "as it comes": {},
    "every batch": {"sync_every": 1},
    "sums of gradients": {"sync_every": 3, "worker_optimizer": "none"},
    "local steps": {"sync_every": 3, "worker_optimizer": "sgd"},
}


def make(mode, **options):
    """The algorithm, with the optimizer above where it has one."""
    if "optimizer" in {entry.name for entry in fields(MODES[mode])}:
        options = {"optimizer": OPTIMIZER} | options
    return Algo(mode=mode, **options)


def variants(mode):
    """Each way of working that ``mode`` has: its name and the algorithm."""
    takes = {entry.name for entry in fields(MODES[mode])}
    locally = Algo(mode=mode).trains_locally
    for name, options in WAYS.items():
        if locally and options.get("worker_optimizer") == "none":
            continue
        if name == "local steps" and "worker_optimizer" in takes:
            options = {"optimizer": None} | options if "optimizer" in takes else options
            yield name, make(mode, **options)
        elif name != "local steps":
            used = {key: value for key, value in options.items() if key in takes}
            yield name, make(mode, **used)


EVERY = pytest.mark.parametrize("mode", MODES)
EVERY_WAY = pytest.mark.parametrize(
    "algo",
    [pytest.param(algo, id=f"{mode}, {name}") for mode in MODES for name, algo in variants(mode)],
)


def vector(seed, size=N):
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


def updates(seed, *, n=2):
    return [Update(vector(10 * seed + i), 5 + i, i, vector(seed)) for i in range(n)]


def exchange(half, algo, seed):
    """What a worker sends and goes on from, after ``seed`` decided the rest."""
    pushed = vector(seed)
    if algo.pulls:
        half.pull(vector(100 + seed))
    half.push(pushed)
    return pushed, half.absorb(None if algo.pulls else vector(200 + seed)).copy()


@EVERY_WAY
@pytest.mark.parametrize("synchronous", [False, True])
def test_every_algorithm_learns_the_line(algo, synchronous):
    run = simulate(
        algo,
        LinearModel(),
        LineData(60, 4),
        3,
        num_epochs=40,
        synchronous=synchronous and algo.has_master,  # else all ranks are always together
        validation=LineData(9, 4),
    )
    assert run.history.epochs[-1]["val_loss"] < 1e-2
    np.testing.assert_allclose(run.weights[:3], [1.0, -2.0, 0.5], atol=0.1)


@EVERY
@pytest.mark.parametrize("synchronous", [False, True])
def test_every_algorithm_uses_every_sample_once_an_epoch(mode, synchronous):
    data, algo = LineData(23, 4), make(mode)
    synchronous = synchronous and algo.has_master
    run = simulate(algo, LinearModel(), data, 3, num_epochs=2, synchronous=synchronous)
    assert sum(record["samples"] for record in run.history.epochs) == 2 * 23
    assert sorted(data.seen) == sorted((n, float(y)) for n in range(2) for y in data.y)


@EVERY_WAY
@pytest.mark.parametrize("n", [1, 3])
def test_a_master_goes_on_exactly_from_its_state(algo, n):
    masters = [algo.master(N, 4) for _ in range(2)]
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


@EVERY_WAY
def test_a_worker_goes_on_exactly_from_its_state(algo):
    halves = [algo.worker(N, 4) for _ in range(2)]
    for half, first in zip(halves, (vector(1), vector(2)), strict=True):
        half.absorb(first)
        exchange(half, algo, seed=5)
    state = halves[0].state()
    kept = {name: array.copy() for name, array in state.items()}
    # both go on from the master's weights or from their own, the restored one as at the start
    halves[1].load_state(state)
    halves[0].absorb(None if algo.pulls else vector(3))
    halves[1].absorb(vector(3))
    for one, other in zip(*(exchange(half, algo, seed=4) for half in halves), strict=True):
        np.testing.assert_array_equal(one, other)
    for name, array in state.items():
        np.testing.assert_array_equal(array, kept[name])


@EVERY_WAY
def test_the_state_has_its_size_from_the_start(algo):
    half = algo.worker(N, 4)
    before = {name: array.shape for name, array in half.state().items()}
    half.absorb(vector(1))
    exchange(half, algo, seed=5)
    assert {name: array.shape for name, array in half.state().items()} == before


@EVERY_WAY
def test_a_state_of_another_model_is_refused(algo):
    for half in (algo.worker, algo.master):
        state = half(N, 4).state()
        if any(array.ndim for array in state.values()):
            with pytest.raises(CheckpointError):
                half(N + 1, 4).load_state(state)


@EVERY_WAY
def test_a_worker_starts_from_the_masters_weights(algo):
    np.testing.assert_array_equal(algo.worker(N, 4).absorb(vector(1)), vector(1))


@EVERY_WAY
@pytest.mark.parametrize("n", [1, 3])
def test_in_place_and_elsewhere_are_the_same(algo, n):
    here, there, start = vector(0), np.full(N, np.nan, np.float32), vector(0)
    for weights, out in ((here, here), (start, there)):
        algo.master(N, 4).apply(weights, updates(1, n=n), out)
    np.testing.assert_array_equal(here, there)
    np.testing.assert_array_equal(start, vector(0))


@EVERY_WAY
def test_the_masters_rate_begins_at_the_algorithms(algo):
    assert algo.master(N, 4).learning_rate == algo.learning_rate > 0.0


@EVERY_WAY
def test_an_algorithm_is_numbers_only(algo):
    if not isinstance(algo.worker_optimizer, dict):
        assert hash(algo) == hash(eval(repr(algo), _names(algo)))
    assert eval(repr(algo), _names(algo)) == algo


def _names(algo):
    parts = (algo, getattr(algo, "optimizer", None))
    return {type(part).__name__: type(part) for part in parts}
