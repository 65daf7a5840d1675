"""Validation, and the state S taken anew from training batches."""

import signal
import time
from concurrent.futures import CancelledError
from itertools import islice

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from nnlo.algo import Algo  # noqa: E402
from nnlo.data import Data  # noqa: E402
from nnlo.errors import ModelError  # noqa: E402
from nnlo.model import ModelBuilder, build_adapter  # noqa: E402
from nnlo.mpi.evaluate import Background, Recalibration, evaluate  # noqa: E402
from nnlo.mpi.manager import MPIManager  # noqa: E402
from nnlo.mpi.plan import RootPlan  # noqa: E402
from nnlo.mpi.root import Root  # noqa: E402
from nnlo.mpi.serve import signals  # noqa: E402
from tests.mpi.fakes import LinearModel, LineData  # noqa: E402


class Blobs(Data):
    """Two classes of points far away from the origin."""

    def load_data(self, file):
        y = np.arange(100) % 2
        x = np.random.default_rng(int(file)).normal(size=(100, 4)) + 3.0 * y[:, None] + 20.0
        return x.astype(np.float32), y


def blobs(files=("1", "2")):
    data = Blobs(batch_size=10)
    data.set_files(files)
    return data


def network(momentum=0.1, dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8),
        nn.BatchNorm1d(8, momentum=momentum),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8, momentum=0.01),
        nn.Linear(8, 2),
    )


class Builder(ModelBuilder):
    def __init__(self, make):
        self.make = make

    def build_model(self):
        return self.make()


def adapter_of(make, **options):
    return build_adapter(Builder(make), "categorical_crossentropy", seed=0, **options)


def weights_of(adapter, state=None):
    """The adapter's vector; its S is ``state`` where that is given."""
    vector = np.empty(adapter.manifest.size, np.float32)
    adapter.get_flat(vector)
    if state is not None:
        vector[adapter.manifest.n_trainable :] = state
    return vector


@pytest.mark.parametrize("momentum", [0.1, 0.9, 1.0])
def test_the_state_is_that_of_torchs_update_bn(momentum):
    adapter, module = adapter_of(lambda: network(momentum)), network(momentum)
    weights = weights_of(adapter)
    weights[adapter.manifest.n_trainable :] += 7.0
    Recalibration(adapter, blobs(), 12)(weights)
    data = blobs()
    batches = [torch.from_numpy(x) for x, _ in islice(data.epoch(0), 12)]
    torch.optim.swa_utils.update_bn(batches, module)
    expected = [b.numpy() for b in module.buffers() if b.is_floating_point()]
    found = weights[adapter.manifest.n_trainable :]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=2e-4, atol=2e-4)


def test_a_state_of_garbage_no_longer_spoils_the_validation():
    adapter, data = adapter_of(network, optimizer="adam", learning_rate=0.01), blobs()
    for batch in data.epoch(0):
        adapter.train_step(batch)
    weights = weights_of(adapter, state=30.0)
    spoilt = evaluate(adapter, blobs(["3"]), weights)
    again = Recalibration(adapter, data, 10)
    well = evaluate(adapter, blobs(["3"]), weights, recalibrate=again)
    assert well["val_loss"] < 0.35 < 0.5 < spoilt["val_loss"]
    assert well["val_accuracy"] > 0.9


class Pairs(Blobs):
    """Those points as their own labels."""

    def load_data(self, file):
        x, _ = super().load_data(file)
        return x, x


def test_the_state_of_a_keras_model_is_the_plain_mean_as_well():
    keras = pytest.importorskip("keras")

    def make():  # the layer's moving average would take hundreds of batches
        return keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])

    adapter = build_adapter(Builder(make), "mse", seed=0)
    weights, data = weights_of(adapter, state=30.0), Pairs(batch_size=10)
    data.set_files(["1"])
    Recalibration(adapter, data, 5)(weights)
    batches = [x for x, _ in islice(data.epoch(0), 5)]
    expected = [np.mean([f(x, 0) for x in batches], 0) for f in (np.mean, np.var)]
    np.testing.assert_allclose(weights, [1.0] * 4 + [0.0] * 4 + [*np.ravel(expected)], rtol=1e-3)


def test_the_same_state_comes_whatever_it_was_before():
    adapter = adapter_of(network)
    states = []
    for before in (0.0, 1.0, 30.0):
        weights = weights_of(adapter, state=before)
        Recalibration(adapter, blobs(), 6)(weights)
        states.append(weights[adapter.manifest.n_trainable :])
    np.testing.assert_allclose(states[0], states[1], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(states[0], states[2], rtol=1e-3, atol=1e-3)


def test_a_state_that_is_no_moving_average_is_left_or_moved():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)
            self.register_buffer("fixed", torch.full((3,), 5.0))
            self.register_buffer("steps", torch.zeros(1))
            self.register_buffer("scale", torch.ones(2))

        def forward(self, x):
            if self.training:
                self.steps += 1.0
                self.scale *= -2.0
            return self.layer(x)

    adapter = adapter_of(Odd)
    weights = weights_of(adapter)
    Recalibration(adapter, blobs(), 3)(weights)
    assert weights[adapter.manifest.n_trainable :].tolist() == [5.0] * 3 + [3.0] + [-8.0] * 2


def test_only_the_state_of_the_weights_changes():
    adapter = adapter_of(lambda: network(dropout=0.5), optimizer="adam")
    adapter.train_step(next(blobs().epoch(0)))
    weights, before = weights_of(adapter), adapter.local_state()
    trainable = weights[: adapter.manifest.n_trainable].copy()
    Recalibration(adapter, blobs(), 4)(weights)
    np.testing.assert_array_equal(weights[: adapter.manifest.n_trainable], trainable)
    after = adapter.local_state()
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_more_batches_than_there_are_means_all():
    model, data = LinearModel(), LineData(12, 4, shuffle=False)
    weights = np.float32([1.0, 2.0, 3.0, 9.0])
    Recalibration(model, data, 1000)(weights)
    expected = np.mean([x.mean() for x, _ in data.epoch(0)])
    np.testing.assert_allclose(weights, [1.0, 2.0, 3.0, expected], rtol=1e-4)


def test_a_model_without_a_state_or_a_gradient_is_refused():
    with pytest.raises(ModelError, match="got none; leave it out, it has no effect"):
        Recalibration(LinearModel(with_state=False), LineData(9, 3), 5)
    own = LinearModel()
    own.has_gradient = False
    with pytest.raises(ModelError, match="train_step of its own"):
        Recalibration(own, LineData(9, 3), 5)


def test_it_gives_up_when_the_run_does():
    weights = np.ones(4, np.float32)
    with pytest.raises(CancelledError):
        evaluate(
            LinearModel(),
            LineData(9, 3),
            weights,
            is_cancelled=lambda: True,
            recalibrate=Recalibration(LinearModel(), LineData(9, 3), 5),
        )


# Whole runs ----------------------------------------------------------------------------------


def trained(**settings):
    manager = MPIManager(
        None,
        blobs(),
        Algo("sgd", learning_rate=0.05),
        Builder(lambda: network(momentum=0.001, dropout=0.3)),
        loss="categorical_crossentropy",
        train_list=["1", "2"],
        val_list=["3"],
        num_epochs=3,
        **settings,
    )
    manager.train()
    return manager


def test_training_goes_on_as_without_but_is_validated_with_a_fitting_state():
    plain, again = trained(), trained(recalibrate=20)
    n = plain.adapter.manifest.n_trainable
    np.testing.assert_array_equal(plain.weights[:n], again.weights[:n])
    assert plain.history.values("loss") == again.history.values("loss")
    assert max(again.history.values("val_loss")) < min(plain.history.values("val_loss"))


def test_the_best_and_the_last_weights_have_the_state_they_were_validated_with():
    manager = trained(recalibrate=20)
    best, last = manager.history.best["value"], manager.history.values("val_loss")[-1]
    assert evaluate(manager.adapter, blobs(["3"]), manager.best)["val_loss"] == best
    assert evaluate(manager.adapter, blobs(["3"]), manager.weights)["val_loss"] == last


def test_a_run_refuses_what_has_no_effect():
    manager = MPIManager(
        None,
        blobs(),
        Algo(),
        Builder(lambda: nn.Linear(4, 2)),
        loss="categorical_crossentropy",
        train_list=["1"],
        recalibrate=5,
    )
    with pytest.raises(ModelError, match="it has no effect"):
        manager.train()


@pytest.mark.parametrize("in_line", [True, False])
def test_a_validation_in_line_gives_up_after_a_signal_as_nobody_can_ask_it(in_line):
    root = Root(RootPlan(1, 1, ()), Background(in_line))
    with root.background, signals(root):
        assert not root.background.is_cancelled()
        signal.raise_signal(signal.SIGUSR1)
        assert not root.background.is_cancelled()  # it may soon be through
        assert root.background.deadline < time.perf_counter() + 2.0
        root.background.deadline = 0.0
        assert root.background.is_cancelled() == in_line
