"""Virtual workers: exact functions of model, data, algorithm and order of arrival."""

from itertools import chain, cycle, islice

import numpy as np
import pytest

from nnlo.algo import Algo, Downpour
from nnlo.algo.optimizers import SGD
from nnlo.data import Data
from nnlo.errors import ConfigError, TrainingError
from nnlo.simulate import simulate
from tests.mpi.fakes import LinearModel, LineData

ALGO = Downpour(SGD(learning_rate=0.02, momentum=0.9))


def run(n_workers=3, *, algo=ALGO, n=60, batch=4, **options):
    return simulate(algo, LinearModel(), LineData(n, batch), n_workers, **options)


def serial(data, model, optimizer, n_epochs):
    """Weights after plain training, one batch after the other."""
    vector, weights = np.empty(model.manifest.size, np.float32), np.empty(0, np.float32)
    n, state = model.manifest.n_trainable, optimizer.init(model.manifest.n_trainable)
    weights = np.empty(model.manifest.size, np.float32)
    model.get_flat(weights)
    for epoch in range(n_epochs):
        for batch in data.epoch(epoch):
            model.gradient(batch, vector)
            optimizer.update(state, weights[:n], vector[:n], weights[:n])
            weights[n:] = vector[n:]
            model.set_flat(weights)
    return weights


def assert_same(one, other):
    assert one.arrivals == other.arrivals
    np.testing.assert_array_equal(one.weights, other.weights)


def test_a_given_order_is_followed_and_reproduces():
    order = [0, 0, 1, 2, 0, 1, 1, 1]
    runs = [run(order=order) for _ in range(2)]
    assert list(runs[0].arrivals[:8]) == order
    assert_same(*runs)


def test_the_arrivals_of_a_random_run_give_the_same_run_again():
    first = run(seed=3, num_epochs=2)
    assert_same(run(order=first.arrivals, seed=3, num_epochs=2), first)


def test_the_order_is_drawn_from_the_seed():
    runs = [run(seed=seed) for seed in (1, 1, 2)]
    assert_same(runs[0], runs[1])
    assert runs[0].arrivals != runs[2].arrivals
    assert not np.array_equal(runs[0].weights, runs[2].weights)


def test_every_worker_arrives_for_each_batch_and_to_leave():
    simulated = run(n=60, batch=4, num_epochs=2)
    assert [simulated.arrivals.count(index) for index in range(3)] == [2 * 5 + 1] * 3
    assert [record["epoch"] for record in simulated.history.epochs] == [1, 2]


def test_a_worker_that_is_gone_is_passed_over():
    simulated = run(2, n=16, order=chain([0] * 5, cycle([0, 1])))
    assert simulated.arrivals == (0, 0, 0, 1, 1, 1)


def test_when_the_numbers_end_the_workers_follow_in_turn():
    assert run(3, n=24, order=[]).arrivals == (0, 1, 2) * 3
    assert run(3, n=24, order=[2, 2]).arrivals == (2, 2, 0, 1, 2, 0, 1, 0, 1)


@pytest.mark.parametrize("synchronous", [False, True])
def test_one_worker_equals_serial_training_bit_for_bit(synchronous):
    simulated = run(1, n=23, num_epochs=4, synchronous=synchronous)
    expected = serial(LineData(23, 4), LinearModel(), ALGO.optimizer, 4)
    np.testing.assert_array_equal(simulated.weights, expected)


def joint(data, n_workers):
    """Batches that hold what the workers would see in one round."""
    shards = [LineData(60, 4) for _ in range(n_workers)]
    for index, shard in enumerate(shards):
        shard.set_shard(index, n_workers)

    class Joint:
        def epoch(self, epoch):
            for batches in zip(*(shard.epoch(epoch) for shard in shards), strict=True):
                yield tuple(np.concatenate(side) for side in zip(*batches, strict=True))

    return Joint()


@pytest.mark.parametrize("n_workers", [2, 3, 5])
def test_synchronous_workers_equal_joint_batches(n_workers):
    simulated = run(n_workers, synchronous=True, num_epochs=4)
    expected = serial(joint(LineData(60, 4), n_workers), LinearModel(), ALGO.optimizer, 4)
    np.testing.assert_allclose(simulated.weights[:3], expected[:3], rtol=1e-5)


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_workers_in_turn_are_stale_by_all_the_others(n_workers):
    simulated = run(n_workers, n=240, batch=2, num_epochs=3, order=cycle(range(n_workers)))
    steady = [record["staleness"] for record in simulated.history.epochs[1:]]
    assert steady == [n_workers - 1] * 2


def test_a_worker_twice_as_fast_is_less_stale():
    order = islice(cycle([0, 0, 1]), 60)
    simulated = run(2, n=120, batch=2, order=order)
    assert 0.0 < simulated.history.epochs[0]["staleness"] < 1.0


def test_synchronous_rounds_are_never_stale():
    simulated = run(3, synchronous=True, num_epochs=2)
    assert [record["staleness"] for record in simulated.history.epochs] == [0.0, 0.0]


def test_the_data_that_was_given_stays_as_it_was():
    data = LineData(60, 4)
    simulate(ALGO, LinearModel(), data, 3)
    assert (data.shard_index, data.n_shards) == (0, 1)


def test_the_model_holds_the_final_weights():
    model = LinearModel()
    simulated = simulate(ALGO, model, LineData(60, 4), 3)
    np.testing.assert_array_equal(model.flat, simulated.weights)


def test_virtual_workers_keep_their_local_state_apart():
    class Noisy(LinearModel):
        def gradient(self, batch, out):
            sums = super().gradient(batch, out)
            out[:3] += np.float32(1e-3 * np.random.default_rng(self.rng).normal(size=3))
            return sums

    shared = simulate(ALGO, Noisy(), LineData(60, 4), 2, synchronous=True, order=cycle([0, 1]))
    other = simulate(ALGO, Noisy(), LineData(60, 4), 2, synchronous=True, order=cycle([1, 0]))
    np.testing.assert_array_equal(shared.weights, other.weights)


def test_bad_numbers_are_config_errors():
    with pytest.raises(ConfigError, match="at least one worker, got 0"):
        run(0)
    with pytest.raises(ConfigError, match="got epochs"):
        run(epochs=3)
    with pytest.raises(ConfigError, match="quorum"):
        run(quorum=0.5)


def test_losses_that_are_not_finite_end_the_simulation():
    data = LineData(60, 4)
    data.y[:] = np.inf
    with pytest.raises(TrainingError, match="updates must be finite"), np.errstate(all="ignore"):
        simulate(ALGO, LinearModel(), data, 2)


# A real model ------------------------------------------------------------------------------------


def network(optimizer=None):
    """A small network with dropout and BatchNorm, always with the same first weights."""
    torch = pytest.importorskip("torch")
    from nnlo.model.torch_adapter import TorchAdapter

    torch.manual_seed(0)
    layers = torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh()
    model = torch.nn.Sequential(*layers, torch.nn.Dropout(0.1), torch.nn.Linear(8, 1))
    rate = None if optimizer is None else 0.02
    return TorchAdapter(model, "mse", optimizer=optimizer, learning_rate=rate)


class Columns(Data):
    """The same line, with labels of shape (n, 1)."""

    def __init__(self, n, batch_size):
        super().__init__(batch_size)
        self.line = LineData(n, batch_size)
        self.set_files(self.line.files)

    def load_data(self, file):
        x, y = self.line.load_data(file)
        return x, y[:, None]


@pytest.mark.parametrize("synchronous", [False, True])
def test_a_torch_network_on_one_worker_equals_serial_training_bit_for_bit(synchronous):
    simulated = simulate(ALGO, network(), Columns(60, 4), 1, num_epochs=2, synchronous=synchronous)
    model = network()
    model.seed(int(np.random.SeedSequence([0, 0, 0]).generate_state(1)[0]))
    expected = serial(Columns(60, 4), model, ALGO.optimizer, 2)
    np.testing.assert_array_equal(simulated.weights, expected)


@pytest.mark.parametrize("numbers", [{"optimizer": SGD(learning_rate=0.02)}, {"sync_every": 3}])
def test_a_torch_network_learns_and_reproduces_with_three_workers(numbers):
    algo = Algo(**numbers)

    def once():
        return simulate(
            algo,
            network(algo.worker_optimizer),
            Columns(60, 4),
            3,
            num_epochs=8,
            seed=5,
            validation=Columns(9, 4),
        )

    first = once()
    losses = first.history.values("val_loss")
    assert losses[-1] < 0.6 * losses[0]
    assert_same(once(), first)
