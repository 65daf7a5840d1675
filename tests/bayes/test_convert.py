"""Models of either family made Bayesian by one name."""

import numpy as np
import pytest

from nnlo import bayes


def test_a_torch_module_is_converted_in_place():
    nn = pytest.importorskip("torch").nn
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    assert bayes.to_bayesian(module, prior=bayes.Moped(0.2)) is module
    assert module[0].prior == bayes.Moped(0.2)


def test_a_keras_model_is_copied_and_predicts_the_same():
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    copy = bayes.to_bayesian(model, flipout=False)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert type(copy.layers[0]).__name__ == "DenseReparameterization"
    np.testing.assert_allclose(
        np.asarray(copy(x, training=False)), np.asarray(model(x)), rtol=1e-5, atol=1e-6
    )
