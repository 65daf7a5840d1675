"""Keras models made Bayesian, kept in files, trained by plain fit; the noise of labels."""

import subprocess
import sys

import numpy as np
import pytest

keras = pytest.importorskip("keras")
from keras import layers  # noqa: E402

from nnlo.bayes.keras_convert import KLWeight, set_kl_weight, to_bayesian  # noqa: E402
from nnlo.bayes.keras_layers import DenseFlipout, DenseReparameterization  # noqa: E402
from nnlo.bayes.keras_noise import Noise  # noqa: E402
from nnlo.bayes.priors import Moped, Normal, ScaleMixture  # noqa: E402
from nnlo.errors import ConfigError, ModelError  # noqa: E402
from nnlo.model.keras_vector import value_of  # noqa: E402

# Keras' variables have an __array__ of before NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
X = np.random.default_rng(0).normal(size=(5, 6, 5, 4)).astype(np.float32)


def outputs(model, x=X):
    result = model(x)
    return result.detach().numpy() if hasattr(result, "detach") else np.asarray(result)


def branching():
    """A functional model with a shared layer, a nested model and kernels of all forms."""
    inputs = keras.Input(X.shape[1:])
    x = layers.Conv2D(6, (3, 2), groups=2, padding="same", kernel_regularizer="l2")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv2D((2, 3), depth_multiplier=2, depthwise_constraint="max_norm")(x)
    x = layers.Flatten()(x)
    nested = keras.Sequential([keras.Input((8,)), layers.Dense(8, "relu", name="shared")])
    x = nested(nested(layers.Dense(8, use_bias=False)(x)))
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


@pytest.mark.parametrize("flipout", [True, False])
@pytest.mark.parametrize("prior", [None, Moped(0.2), ScaleMixture()])
def test_converted_model_predicts_the_same(flipout, prior):
    model = branching()
    copy = to_bayesian(model, flipout=flipout, prior=prior, bayesian_bias=True)
    np.testing.assert_allclose(outputs(copy), outputs(model), rtol=1e-5, atol=1e-6)
    kinds = [one.name for one in copy.trainable_variables if one.name == "kernel_rho"]
    assert len(kinds) == 5
    assert [one.name for one in model.weights if "rho" in one.name] == []


@pytest.mark.parametrize("bayesian_bias", [True, False])
def test_moped_puts_posterior_and_prior_around_the_weights(bayesian_bias):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, bias_initializer="ones")])
    model.layers[0].kernel.assign(np.arange(12.0).reshape(4, 3) - 5)
    copy = to_bayesian(model, prior=Moped(0.2, scale=2.0), bayesian_bias=bayesian_bias)
    tensor = copy.layers[0].tensors["kernel"]
    weights = value_of(model.layers[0].kernel)
    sigma = np.log1p(np.exp(value_of(tensor.rho).astype(np.float64)))
    np.testing.assert_allclose(sigma, np.maximum(0.2 * np.abs(weights), 1e-6), rtol=1e-4)
    np.testing.assert_array_equal(value_of(tensor.prior_loc), weights)
    each = sigma**2 / 8 - np.log(sigma / 2) - 0.5
    if bayesian_bias:
        each = np.append(each, 3 * [0.2**2 / 8 - np.log(0.1) - 0.5])
    assert float(copy.layers[0].kl_divergence()) == pytest.approx(each.sum(), rel=1e-5)


def test_only_the_layers_that_are_named_or_trained_are_converted():
    model = branching()
    named = to_bayesian(model, layers=["head"])
    assert [type(one) for one in named.layers if "Flipout" in type(one).__name__] == [DenseFlipout]
    model.get_layer("head").trainable = False
    assert type(to_bayesian(model).get_layer("head")) is layers.Dense


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def test_what_cannot_be_converted_is_refused():
    model = Subclassed()
    with pytest.raises(ModelError, match="must be built"):
        to_bayesian(model)
    model(np.zeros((1, 3), np.float32))
    with pytest.raises(ModelError, match="Sequential or functional"):
        to_bayesian(model)
    with pytest.raises(ModelError, match="got nowhere in"):
        to_bayesian(branching(), layers=["nowhere", "head"])
    with pytest.raises(ModelError, match="Dense, Conv1D"):
        to_bayesian(keras.Sequential([keras.Input((3,)), layers.Flatten()]))


def kept(prior):
    """A model with something in every weight."""
    parts = [
        DenseFlipout(3, prior=prior, masked=True, bayesian_bias=True),
        DenseReparameterization(3, kernel_initializer="he_normal", kl_weight=0.1),
        Noise([0.1, 1.0, 2.0], trainable=True),
    ]
    model = keras.Sequential([keras.Input((4,)), *parts])
    rng = np.random.default_rng(1)
    for one in model.weights:
        values = rng.normal(size=one.shape) ** 2
        one.assign(values > 0.5 if "mask" in one.name else values)
    return model


@pytest.mark.parametrize("prior", [Normal(0.5, 2.0), Moped(), ScaleMixture(0.25, 2.0, 0.1)])
def test_saved_model_is_the_same(prior, tmp_path):
    model = kept(prior)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    for mine, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(value_of(mine), value_of(theirs))
    first, second = model.layers[0], again.layers[0]
    assert (second.prior, second.masked, second.bayesian_bias) == (prior, True, True)
    assert float(first.kl_divergence()) == float(second.kl_divergence())


def test_saved_model_is_built_in_a_process_that_knows_no_layer(tmp_path):
    model = kept(None)
    model.save(tmp_path / "model.keras")
    code = (
        "import sys, numpy as np; from nnlo.model import ModelFromKeras\n"
        "model = ModelFromKeras(sys.argv[1]).build_model()\n"
        "print(*np.asarray(model.predict(np.ones((1, 4)), verbose=0)).ravel())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.keras")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    expected = outputs(model, np.ones((1, 4), np.float32)).ravel()
    np.testing.assert_allclose(list(map(float, done.stdout.split())), expected, rtol=1e-5)


def test_fit_follows_the_schedule_of_the_divergence():
    model = to_bayesian(keras.Sequential([keras.Input((4,)), layers.Dense(1)]))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x, y = np.zeros((10, 4), np.float32), np.zeros((10, 1), np.float32)
    run = model.fit(x, y, epochs=3, verbose=0, callbacks=[KLWeight(10, lambda epoch: epoch)])
    kl = float(model.layers[0].kl_divergence())
    assert run.history["loss"] == pytest.approx([0.0, kl / 10, 2 * kl / 10], rel=1e-4)


def test_models_without_variational_layers_have_nothing_to_weigh():
    with pytest.raises(ModelError, match="variational layers"):
        set_kl_weight(keras.Sequential([keras.Input((4,)), layers.Dense(1)]), 1.0)
    with pytest.raises(ConfigError, match="n_samples must be 1 or more"):
        KLWeight(0)


@pytest.mark.parametrize("sd", [0.3, [1e-3, 40.0]])
def test_noise_appends_raw_scales_of_its_standard_deviation(sd):
    layer = Noise(sd)
    out = outputs(layer, np.ones((3, 2), np.float32))
    np.testing.assert_array_equal(out[:, :2], 1.0)
    scales = np.logaddexp(0.0, out[:, 2:].astype(np.float64)) + 1e-6
    np.testing.assert_allclose(scales, np.broadcast_to(sd, (3, 2)), rtol=1e-4)
    assert layer.compute_output_shape((None, 2)) == (None, 4)
    assert not layer.trainable_variables


@pytest.mark.parametrize("sd", [0.0, -1.0, float("nan"), [1.0, 0.0]])
def test_noise_must_be_positive(sd):
    with pytest.raises(ConfigError, match="the noise must be above"):
        Noise(sd)
