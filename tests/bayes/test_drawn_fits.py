"""MultiSWAG and MC dropout from training to prediction, on a small regression."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from nnlo import bayes  # noqa: E402
from nnlo.bayes.likelihood import Values  # noqa: E402
from nnlo.bayes.posterior import vector_of  # noqa: E402
from nnlo.bayes.predict import predict  # noqa: E402
from nnlo.bayes.refresh import Refresh  # noqa: E402
from nnlo.data import Data  # noqa: E402
from nnlo.errors import ConfigError, ModelError  # noqa: E402
from nnlo.model import ModelBuilder  # noqa: E402

METHODS = {
    "swag": bayes.MultiSWAG(learning_rate=0.02, swa_start=0.6, rank=5),
    "dropout": bayes.MCDropout(learning_rate=0.02),
}


class Net(ModelBuilder):
    def __init__(self, *parts):
        self.parts = parts

    def build_model(self):
        parts = [one() for one in self.parts]
        return nn.Sequential(nn.Linear(1, 30), nn.Tanh(), *parts, nn.Linear(30, 1))


class Sine(Data):
    def load_data(self, file):
        rng = np.random.default_rng(0)
        x = rng.uniform(-2.0, 2.0, (120, 1))
        y = np.sin(x) + 0.05 * rng.normal(size=x.shape)
        return x.astype(np.float32), y.astype(np.float32)


def sine():
    data = Sine(batch_size=20)
    data.set_files(["all"])
    return data


def trained(method, *parts, epochs=60):
    particles = bayes.Particles(Net(*parts), 2, loss="mse", seed=1)
    posterior = particles.fit(method, sine(), epochs=epochs)
    return particles, posterior


def drop():
    return nn.Dropout(0.05)


def norm():
    return nn.BatchNorm1d(30)


X = np.linspace(-2.0, 2.0, 40, dtype=np.float32)[:, None]


def draws_of(particles, posterior, refresh=None, samples=20):
    found = predict(
        posterior,
        particles.adapter,
        Values(),
        (X, None),
        samples=samples,
        refresh=refresh,
        keep_draws=True,
    )
    return found["draws"][..., 0]


@pytest.mark.parametrize("name", METHODS)
def test_mean_over_draws_follows_the_data_and_draws_differ(name):
    draws = draws_of(*trained(METHODS[name], drop))
    assert np.sqrt(np.mean((draws.mean(axis=1) - np.sin(X[:, 0])) ** 2)) < 0.12
    assert 0.005 < np.median(draws.std(axis=1)) < 0.3


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_posterior_predicts_the_same(name, tmp_path):
    particles, posterior = trained(METHODS[name], drop, epochs=10)
    particles.save(tmp_path / "posterior")
    loaded = bayes.load(tmp_path / "posterior", particles.adapter.manifest)
    assert type(loaded) is type(posterior)
    np.testing.assert_array_equal(draws_of(particles, loaded), draws_of(particles, posterior))


@pytest.mark.parametrize("name", METHODS)
def test_prediction_leaves_the_particles_as_they_were(name):
    particles, posterior = trained(METHODS[name], drop, epochs=10)
    weights = particles.weights.copy()
    first = draws_of(particles, posterior)
    np.testing.assert_array_equal(draws_of(particles, posterior), first)
    np.testing.assert_array_equal(particles.weights, weights)


def test_a_model_without_dropout_is_refused_before_it_is_trained():
    with pytest.raises(ModelError, match="must have a dropout layer"):
        trained(bayes.MCDropout())


def test_too_few_epochs_to_collect_are_refused_before_training():
    with pytest.raises(ConfigError, match="must collect 2 times or more"):
        trained(bayes.MultiSWAG(), epochs=4)


def test_batchnorm_of_draws_is_refreshed():
    particles, posterior = trained(METHODS["swag"], norm)
    refresh = Refresh(particles.adapter, sine())
    vector = vector_of(posterior, 0, particles.adapter.manifest)
    stale = vector.copy()
    refresh(vector)
    assert np.abs(vector - stale).max() > 1e-4
    draws = draws_of(particles, posterior, refresh)
    assert np.sqrt(np.mean((draws.mean(axis=1) - np.sin(X[:, 0])) ** 2)) < 0.12


def test_a_restored_training_ends_in_the_same_posterior(tmp_path):
    method = METHODS["swag"]
    _, whole = trained(method, drop, epochs=10)
    first = bayes.Particles(Net(drop), 2, loss="mse", seed=1)
    first.fit(method, sine(), epochs=10, checkpoint=tmp_path / "cp", checkpoint_interval=8)
    second = bayes.Particles(Net(drop), 2, loss="mse", seed=1)
    file = tmp_path / "cp-00008.npz"
    posterior = second.fit(method, sine(), epochs=10, restore=file)
    manifest = second.adapter.manifest
    for index in range(4):
        expected = vector_of(whole, index, manifest)
        np.testing.assert_array_equal(vector_of(posterior, index, manifest), expected)
