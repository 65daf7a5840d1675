"""The networks of examples/sine_particles.py fit a noisy sine, and disagree far from it.

300 steps of Adam at 0.01, as in the notebooks of PusH (Huang et al. 2023), whose networks have as
many weights. Particles do not know of each other: the first 4 of 32 are those of an ensemble of 4.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from nnlo import bayes

pytest.importorskip("torch")

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "sine_particles.py"
SEEDS = (0, 1, 2)
SIZES = (4, 8, 32)


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("sine_particles", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ensemble(example, n, seed, epochs=300):
    data = example.Sine(batch_size=128)
    data.set_files(["sine"])
    particles = bayes.Particles(example.SineModel(), n, seed=seed)
    particles.fit(bayes.DeepEnsemble(learning_rate=0.01), data, epochs=epochs)
    return particles


@pytest.fixture(scope="module")
def draws(example):
    """By seed, what each of 32 networks says of the 128 points and of 4 pi: (129, 32)."""
    x, _ = example.measure(128, seed=0)
    asked = np.concatenate([x, np.float32([[4.0 * np.pi]])])
    found = {}
    for seed in SEEDS:
        particles = ensemble(example, max(SIZES), seed)
        found[seed] = particles.predict((asked, None), keep_draws=True)["draws"][:, :, 0]
    return found


def test_the_network_has_as_many_weights_as_that_of_push(example):
    assert sum(one.numel() for one in example.Network().parameters()) == 16993


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", SIZES)
def test_the_mean_is_as_close_to_the_measurements_as_their_noise(n, seed, draws, example):
    _, y = example.measure(128, seed=0)
    mean = draws[seed][:128, :n].mean(axis=1)
    assert 0.8 * example.SD < np.sqrt(np.mean((mean - y[:, 0]) ** 2)) <= 0.026


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", SIZES)
def test_networks_disagree_ten_times_more_where_nothing_was_measured(n, seed, draws):
    std = draws[seed][:, :n].std(axis=1)
    assert std[128] >= 10.0 * std[:128].mean()


def test_a_small_ensemble_is_the_beginning_of_a_large_one(example):
    few, many = (ensemble(example, n, seed=5, epochs=3).weights for n in (4, 9))
    np.testing.assert_allclose(few, many[:4], rtol=1e-4, atol=1e-6)
