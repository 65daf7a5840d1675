"""Variational training: its posterior, its gradient over ranks, its schedule in every mode."""

from pathlib import Path

import numpy as np
import pytest

from nnlo.algo import Algo
from nnlo.data import Data
from nnlo.errors import ConfigError
from nnlo.model import make_adapter
from nnlo.mpi.frame import N_TIMES, Header, Kind, up_frame
from nnlo.mpi.ring import reduce_in_process
from nnlo.simulate import simulate
from tests.contracts.test_adapters import run_on

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from nnlo.bayes.torch_layers import LinearFlipout, LinearReparameterization  # noqa: E402

N_SAMPLES, BATCH = 60, 5


@pytest.mark.parametrize("backend", ["native", "tensorflow", "jax"])
def test_mean_field_inference_is_right_on_every_backend(backend):
    run_on(backend, Path(__file__).parent / "mfvi_suite.py")


def network(kind=LinearFlipout):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(kind(6, 5), nn.Tanh(), kind(5, 3, bayesian_bias=True))


def samples(n=N_SAMPLES):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    return x, np.eye(3, dtype=np.float32)[rng.integers(0, 3, n)]


class Samples(Data):
    def load_data(self, file):
        return samples()


@pytest.fixture
def fixed_noise(monkeypatch):
    noise = torch.Generator().manual_seed(7)
    drawn: dict[tuple[int, ...], torch.Tensor] = {}

    def draw(like):
        shape = tuple(like.shape)
        if shape not in drawn:
            drawn[shape] = torch.randn(shape, generator=noise)
        return drawn[shape]

    monkeypatch.setattr(torch, "randn_like", draw)


@pytest.mark.parametrize("sizes", [(23,), (10, 10), (9, 5, 9), (17, 0, 6)])
def test_with_fixed_noise_ranks_have_the_gradient_of_the_joined_batch(fixed_noise, sizes):
    x, y = samples(sum(sizes))
    adapter = make_adapter(network(LinearReparameterization), "categorical_crossentropy")
    adapter.weigh_kl(0.01)
    whole, frames, start = np.empty(adapter.manifest.size, np.float32), [], 0
    sums = adapter.gradient((x, y), whole)
    for rank, size in enumerate(sizes):
        frame = up_frame(adapter.manifest, 1 + len(adapter.metric_names))()
        part = slice(start, start + size)
        frame.tail[N_TIMES:] = adapter.gradient((x[part], y[part]), frame.vector)
        frame.header = Header(Kind.REDUCE, sender=rank, n_samples=size)
        frames.append(frame)
        start += size
    reduce_in_process(frames)
    np.testing.assert_allclose(frames[-1].vector, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(frames[-1].tail[N_TIMES:], sums, rtol=1e-5)


class Noting:
    """An adapter that notes what the divergence counts at each training step."""

    def __init__(self, adapter, given):
        self._adapter, self._given = adapter, given

    def __getattr__(self, name):
        if name in ("gradient", "train_step", "gradient_sum"):
            weights = [
                one.kl_weight.item() for one in self._adapter.model if hasattr(one, "kl_weight")
            ]
            self._given.append(weights)
        return getattr(self._adapter, name)


MODES = {
    "downpour": {"optimizer": "adam"},
    "local": {"optimizer": "sgd", "mode": "downpour", "worker_optimizer": "sgd", "sync_every": 3},
    "easgd": {"mode": "easgd", "sync_every": 3},
    "gem": {"mode": "gem"},
    "diloco": {"mode": "diloco", "sync_every": 4},
    "allreduce": {"mode": "allreduce"},
}
SHAPES = [{}, {"num_processes": 2}, {"num_masters": 3}]
CASES = [(mode, shape) for mode in MODES for shape in SHAPES if mode != "allreduce" or not shape]


@pytest.mark.parametrize(("mode", "shape"), CASES)
def test_the_divergence_counts_beta_over_n_in_every_mode_and_shape(mode, shape):
    algo = Algo(**MODES[mode])
    adapter = make_adapter(
        network(),
        "categorical_crossentropy",
        optimizer=algo.worker_optimizer,
        learning_rate=algo.worker_learning_rate,
    )
    given: list[list[float]] = []
    data = Samples(BATCH)
    data.set_files(["all"])
    run = simulate(
        algo,
        Noting(adapter, given),
        data,
        2,
        num_epochs=3,
        kl_schedule="linear:epochs=2",
        synchronous=algo.has_master,
        **shape,
    )
    n_shards = 2 * shape.get("num_processes", 1)
    n_steps = N_SAMPLES // n_shards // BATCH  # of a shard in an epoch
    ramp = [min(1.0, step / n_steps / 2) / N_SAMPLES for step in range(3 * n_steps)]
    found = np.array(given)
    np.testing.assert_allclose(found[:, 0], found[:, 1])
    np.testing.assert_allclose(np.sort(found[:, 0]), np.repeat(ramp, n_shards), rtol=1e-5)
    told = [record["kl_weight"] for record in run.history.epochs[:3]]
    np.testing.assert_allclose(told, [0.5 / N_SAMPLES, 1 / N_SAMPLES, 1 / N_SAMPLES], rtol=1e-5)


def test_a_schedule_without_variational_layers_is_refused():
    adapter = make_adapter(nn.Linear(6, 3), "categorical_crossentropy")
    data = Samples(BATCH)
    data.set_files(["all"])
    with pytest.raises(ConfigError, match="must go with a model that has variational layers"):
        simulate(Algo("sgd"), adapter, data, 2, kl_schedule="linear:epochs=2")


def test_without_a_schedule_beta_is_one():
    adapter = make_adapter(network(), "categorical_crossentropy")
    data = Samples(BATCH)
    data.set_files(["all"])
    run = simulate(Algo("sgd"), adapter, data, 2, num_epochs=2)
    assert [record["kl_weight"] for record in run.history.epochs] == [1 / N_SAMPLES] * 2
    np.testing.assert_allclose(
        run.weights[adapter.manifest.n_trainable :], 1 / N_SAMPLES, rtol=1e-5
    )
    record = run.history.epochs[-1]
    expected = record["nll"] + record["kl"] / N_SAMPLES
    assert record["loss"] == pytest.approx(expected, rel=1e-5)
