"""Every algorithm in every shape that virtual workers can take, on a real model of digits.
``test_shapes`` runs this file once per backend, each in a process of its own, because Keras takes
its backend from the environment for good."""

import os

import numpy as np
import pytest

from nnlo.algo import MODES, Algo
from nnlo.data import H5Data
from nnlo.data.fetch import write_dataset
from nnlo.data.lists import read_list
from nnlo.errors import ConfigError, ModelError
from nnlo.model import ModelBuilder, build_adapter
from nnlo.mpi.evaluate import evaluate
from nnlo.simulate import simulate

BACKEND = os.environ["NNLO_TEST_BACKEND"]
N_EPOCHS = 5
BATCH_SIZE = 7  # no shard is a multiple of it, none leaves one sample over
FALL = 0.95
# name: number of workers, settings. Masters that share the weights are beyond the simulator.
SHAPES = {
    "async": (3, {}),
    "sync": (3, {"synchronous": True}),
    "tree": (4, {"num_masters": 3}),
    "ring": (2, {"num_processes": 2}),
}
ALIKE = 3  # ranks of a mode without a master, which has one shape

EVERY = [
    pytest.param(mode, n, settings, id=f"{mode}-{name}")
    for mode, algo in MODES.items()
    for name, (n, settings) in (
        SHAPES.items() if algo.has_master else {"alike": (ALIKE, {})}.items()
    )
]
ALONE = [mode for mode, algo in MODES.items() if not algo.has_master]


def keras_network():
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.BatchNormalization(momentum=0.9),
            layers.Dropout(0.1),
            layers.Dense(10, activation="softmax"),
        ]
    )


def torch_body():
    from torch import nn

    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Dropout(0.1)
    )


def torch_network():
    from torch import nn

    return nn.Sequential(torch_body(), nn.Linear(16, 10))


def keras_own():
    import keras
    from keras import layers, ops

    def loss_of(model, data, training=True):
        logits = model(data[0], training=training)
        return ops.mean(ops.categorical_crossentropy(data[1], logits, from_logits=True))

    class Own(keras.Model):
        metric_names = ("head/loss",)

        def train_step(self, data):
            weights = [one for net in self.networks.values() for one in net.trainable_variables]
            if BACKEND == "tensorflow":
                import tensorflow as tf

                with tf.GradientTape() as tape:
                    loss = loss_of(self, data)
                self.descend(tape.gradient(loss, weights))
                return {"head/loss": loss}
            import torch

            loss = loss_of(self, data)
            gradients = torch.autograd.grad(loss, [one.value for one in weights])
            with torch.no_grad():
                self.descend(gradients)
            return {"head/loss": loss.detach()}

        def test_step(self, data):
            return {"head/loss": loss_of(self, data, training=False)}

        def descend(self, gradients):
            gradients = iter(gradients)
            for name, network in self.networks.items():
                pairs = [(next(gradients), one) for one in network.trainable_variables]
                self.optimizers[name].apply_gradients(pairs)

    whole = keras_network()
    body = keras.Model(whole.inputs, whole.layers[-2].output)
    head = keras.Sequential([keras.Input((16,)), layers.Dense(10)])
    model = Own(body.inputs, head(body.output))
    model.networks = {"body": body, "head": head}
    return model


def torch_own():
    from torch import nn

    class Own(nn.Module):
        metric_names = ("head/loss",)

        def __init__(self):
            super().__init__()
            self.body, self.head = torch_body(), nn.Linear(16, 10)
            self.networks = {"body": self.body, "head": self.head}

        def test_step(self, batch):
            logits = self.head(self.body(batch[0]))
            return {"head/loss": nn.functional.cross_entropy(logits, batch[1])}

        def train_step(self, batch):
            loss = self.test_step(batch)["head/loss"]
            loss.backward()
            for optimizer in self.optimizers.values():
                optimizer.step()
                optimizer.zero_grad()
            return {"head/loss": loss}

    return Own()


class Built(ModelBuilder):
    """A model that a function makes."""

    def __init__(self, make):
        self.make = make

    @property
    def name(self):
        return self.make.__name__

    def build_model(self):
        return self.make()


class Noting(H5Data):
    """Digits; copies of it share the list of the samples that they have given."""

    def __init__(self, file):
        super().__init__(BATCH_SIZE, prefetch=0)
        self.seen = []
        self.set_files([file])

    def epoch(self, epoch, skip=0):
        for x, y in super().epoch(epoch, skip):
            self.seen += [(epoch, row.tobytes()) for row in x]
            yield x, y


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One piece of digits to train on and another to validate, of some 180 samples each."""
    lists = write_dataset("digits", tmp_path_factory.mktemp("digits"), train_files=8)
    return [read_list(one)[0] for one in lists]


@pytest.fixture(scope="module")
def adapter_of():
    """The adapter of a kind of model, where it began; compiled once for equal optimizers."""
    made = {}

    def adapter(algo, make):
        spec = {"optimizer": algo.worker_optimizer, "learning_rate": algo.worker_learning_rate}
        key = repr((make, spec))
        if key not in made:
            loss = None if make in (keras_own, torch_own) else "categorical_crossentropy"
            one = build_adapter(Built(make), loss, seed=0, **spec)
            made[key] = one, flat(one), one.local_state()
        one, start, local = made[key]
        one.set_flat(start)
        one.load_local_state(local)
        return one

    return adapter


def flat(adapter):
    vector = np.empty(adapter.manifest.size, np.float32)
    adapter.get_flat(vector)
    return vector


def check(algo, adapter, files, n_workers, **settings):
    """Train and hold what every run must do."""
    data, validation = Noting(files[0]), Noting(files[1])
    start, n = flat(adapter), adapter.manifest.n_trainable
    before = evaluate(adapter, validation, start)["val_loss"]
    settings |= {"num_epochs": N_EPOCHS, "validation": validation}
    run = simulate(algo, adapter, data, n_workers, **settings)
    rows = run.history.epochs
    x, _ = data.load_data(files[0])
    expected = [(epoch, row.tobytes()) for epoch in range(N_EPOCHS) for row in x]
    assert sorted(data.seen) == sorted(expected)
    assert sum(row["samples"] for row in rows) == N_EPOCHS * len(x)
    assert np.isfinite(run.weights).all()
    assert (run.weights[n:] != start[n:]).any()  # the state S
    assert rows[-1]["loss"] < FALL * rows[0]["loss"]
    # Not the last: the mean of the workers' S need not fit weights between theirs (EASGD).
    assert run.history.best["value"] < FALL * before


def network():
    return torch_network if BACKEND == "native" else keras_network


def own_network():
    return torch_own if BACKEND == "native" else keras_own


@pytest.mark.parametrize(("mode", "n_workers", "settings"), EVERY)
def test_every_algorithm_learns_in_every_shape(adapter_of, files, mode, n_workers, settings):
    algo = Algo(mode=mode)
    check(algo, adapter_of(algo, network()), files, n_workers, **settings)


def test_a_root_runs_an_algorithm_of_its_own(adapter_of, files):
    algo = Algo(mode="downpour")
    adapter = adapter_of(algo, network())
    check(algo, adapter, files, 4, num_masters=3, root_algo=Algo(mode="easgd", sync_every=2))


@pytest.mark.parametrize("setting", ["num_masters", "num_processes"])
@pytest.mark.parametrize("mode", ALONE)
def test_other_shapes_of_a_mode_without_a_master_are_refused(adapter_of, files, mode, setting):
    algo = Algo(mode=mode)
    with pytest.raises(ConfigError, match="a mode without a master is one ring of all ranks"):
        simulate(algo, adapter_of(algo, network()), Noting(files[0]), ALIKE, **{setting: 2})


@pytest.mark.parametrize("mode", ALONE)
def test_a_mode_without_a_master_has_no_rounds(adapter_of, files, mode):
    algo = Algo(mode=mode)
    with pytest.raises(ConfigError, match="must go with a mode that has a master"):
        simulate(algo, adapter_of(algo, network()), Noting(files[0]), ALIKE, synchronous=True)


@pytest.mark.skipif(BACKEND == "jax", reason="a train_step of one's own is refused, see below")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_with_its_own_train_step_learns_in_every_shape(adapter_of, files, shape):
    n_workers, settings = SHAPES[shape]
    algo = Algo(mode="easgd", sync_every=2)
    check(algo, adapter_of(algo, own_network()), files, n_workers, **settings)


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX needs pure functions")
def test_a_model_with_its_own_train_step_is_refused_on_jax(adapter_of):
    with pytest.raises(ModelError, match="set KERAS_BACKEND=tensorflow or torch"):
        adapter_of(Algo(mode="easgd"), keras_own)
