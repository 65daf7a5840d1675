"""Mean-field inference of a linear regression; ``test_variational`` runs this once per backend."""

import os

import numpy as np
import pytest

from nnlo.bayes.gaussians import find_gaussians
from nnlo.model import make_adapter

BACKEND = os.environ["NNLO_TEST_BACKEND"]
N, SD = 100, 0.5
COURSE = ((0.05, 300), (0.02, 200), (0.02, 2500))
"""Learning rates and steps; weights are averaged over the last of them."""


def regression():
    """Correlated columns, known noise, prior N(0, I): features, labels, posterior precision."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 3))
    x[:, 1] = 0.6 * x[:, 0] + 0.8 * x[:, 1]
    y = x @ [1.0, -2.0, 0.5] + SD * rng.normal(size=N)
    return x, y, np.eye(3) + x.T @ x / SD**2


def linear(estimator):
    if BACKEND == "native":
        from torch import nn

        from nnlo.bayes import torch_layers

        layer = getattr(torch_layers, f"Linear{estimator}")(3, 1, bias=False)
        return nn.Sequential(layer, torch_layers.Noise(SD))
    import keras

    from nnlo.bayes import keras_layers
    from nnlo.bayes.keras_noise import Noise

    layer = getattr(keras_layers, f"Dense{estimator}")(1, use_bias=False)
    return keras.Sequential([keras.Input((3,)), layer, Noise(SD)])


def fitted(estimator):
    """Means and standard deviations, averaged over the last steps."""
    x, y, _ = regression()
    batch = x.astype(np.float32), y.astype(np.float32)[:, None]
    adapter = make_adapter(
        linear(estimator), "gaussian_nll", [], optimizer="adam", learning_rate=0.1
    )
    adapter.seed(1)
    adapter.weigh_kl(1.0 / N)
    (one,) = find_gaussians(adapter.manifest)
    vector, found = np.empty(adapter.manifest.size, np.float32), []
    for rate, n_steps in COURSE:
        adapter.learning_rate = rate
        found.clear()
        for _ in range(n_steps):
            adapter.train_step(batch)
            adapter.get_flat(vector)
            found.append([one.means(vector).ravel().copy(), one.scales(vector).ravel()])
    return np.mean(found, axis=0)


@pytest.mark.parametrize("estimator", ["Reparameterization", "Flipout"])
def test_mean_field_inference_finds_the_best_gaussians(estimator):
    x, y, precision = regression()
    expected = np.linalg.solve(precision, x.T @ y / SD**2)
    np.testing.assert_allclose(expected, [1.0351, -2.0721, 0.4197], atol=1e-4)
    sd = 1.0 / np.sqrt(np.diag(precision))
    means, scales = fitted(estimator)
    assert (np.abs(means - expected) < 0.1 * sd).all(), (means - expected) / sd
    np.testing.assert_allclose(scales, sd, rtol=0.05)
