"""Dropout kept on. ``test_dropout`` runs this file once per backend, each in a process of its
own, because Keras takes its backend from the environment for good."""

import os

import numpy as np
import pytest

from nnlo.bayes.dropout import predict_masked
from nnlo.errors import ModelError
from nnlo.model import make_adapter

BACKEND = os.environ["NNLO_TEST_BACKEND"]
X = np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float32) + 3.0


def keras_models():
    import keras
    from keras import layers

    class Deep(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [layers.Dense(4), [layers.Dropout(0.5)]]

        def call(self, x, training=None):
            x = self.parts[0](x)
            return self.parts[1][0](x, training=training)

    def chain(*parts):
        return keras.Sequential([keras.Input((6, 4)), *parts])

    def attention():
        x = keras.Input((6, 4))
        return keras.Model(x, layers.MultiHeadAttention(2, 3, dropout=0.5)(x, x))

    def nested():
        inner = chain(layers.Dense(3), layers.Dropout(0.5))
        x = keras.Input((6, 4))
        return keras.Model(x, layers.Dense(2)(inner(x)))

    return {
        "sequential": lambda: chain(layers.Dense(3), layers.Dropout(0.5)),
        "subclassed": Deep,
        "nested": nested,
        "wrapped": lambda: chain(layers.Dense(3), layers.TimeDistributed(layers.Dropout(0.5))),
        "spatial": lambda: chain(layers.Dense(3), layers.SpatialDropout1D(0.5)),
        "gaussian": lambda: chain(layers.Dense(3), layers.GaussianDropout(0.5)),
        "alpha": lambda: chain(layers.Dense(3), layers.AlphaDropout(0.5)),
        "lstm": lambda: chain(layers.Bidirectional(layers.LSTM(3, dropout=0.5))),
        "cell": lambda: chain(layers.RNN(layers.GRUCell(3, recurrent_dropout=0.5))),
        "attention": attention,
    }


def torch_models():
    from torch import nn

    class Last(nn.LSTM):
        def forward(self, x):
            return super().forward(x)[0]

    def chain(part):
        return lambda: nn.Sequential(nn.Linear(4, 4), nn.Sequential(part()))

    return {
        "plain": chain(lambda: nn.Dropout(0.5)),
        "1d": chain(lambda: nn.Dropout1d(0.5)),
        "2d": chain(lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Dropout2d(0.5))),
        "3d": chain(lambda: nn.Sequential(nn.Unflatten(1, (2, 3, 1)), nn.Dropout3d(0.5))),
        "alpha": chain(lambda: nn.AlphaDropout(0.5)),
        "feature alpha": chain(lambda: nn.FeatureAlphaDropout(0.5)),
        "inplace": chain(lambda: nn.Dropout(0.5, inplace=True)),
        "lstm": lambda: Last(4, 3, 2, batch_first=True, dropout=0.5),
        "transformer": chain(lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.5, batch_first=True)),
    }


MODELS = torch_models() if BACKEND == "native" else keras_models()


def adapter_of(model):
    return make_adapter(model, "mse", example=(X, X))


def flat(adapter):
    vector = np.empty(adapter.manifest.size, np.float32)
    adapter.get_flat(vector)
    return vector


@pytest.mark.parametrize("family", MODELS)
def test_masks_are_drawn_from_the_seed_alone(family):
    adapter = adapter_of(MODELS[family]())
    plain = adapter.predict(X)
    one, two = predict_masked(adapter, X, 1), predict_masked(adapter, X, 2)
    assert np.abs(one - plain).max() > 1e-3
    assert np.abs(one - two).max() > 1e-3
    np.testing.assert_array_equal(predict_masked(adapter, X, 1), one)
    np.testing.assert_array_equal(adapter.predict(X), plain)


@pytest.mark.parametrize("family", MODELS)
def test_samples_have_masks_of_their_own(family):
    adapter = adapter_of(MODELS[family]())
    out = predict_masked(adapter, np.repeat(X[:1], 8, axis=0), 1)
    assert np.abs(out - out[:1]).max() > 1e-3


def linear_network(rate):
    if BACKEND == "native":
        from torch import nn

        norm = [nn.Flatten(), nn.BatchNorm1d(24), nn.Dropout(rate), nn.Linear(24, 2)]
        return nn.Sequential(*norm)
    import keras
    from keras import layers

    parts = [layers.Flatten(), layers.BatchNormalization(), layers.Dropout(rate), layers.Dense(2)]
    return keras.Sequential([keras.Input((6, 4)), *parts])


def test_mean_over_masks_of_a_linear_network_is_its_plain_prediction():
    adapter = adapter_of(linear_network(0.2))  # with BatchNorm by the batch it would be about 0
    draws = np.array([predict_masked(adapter, X, seed) for seed in range(400)])
    error = draws.std(axis=0) / np.sqrt(len(draws))
    np.testing.assert_array_less(np.abs(draws.mean(axis=0) - adapter.predict(X)), 4.5 * error)


def test_batchnorm_statistics_and_random_states_stay():
    adapter = adapter_of(linear_network(0.5))
    adapter.seed(7)
    vector, state = flat(adapter), adapter.local_state()
    predict_masked(adapter, X, 3)
    np.testing.assert_array_equal(flat(adapter), vector)
    for name, value in adapter.local_state().items():
        np.testing.assert_array_equal(value, state[name])


def test_training_is_as_without_masked_predictions():
    one, other = adapter_of(linear_network(0.5)), adapter_of(linear_network(0.5))
    other.set_flat(flat(one))
    one.seed(3)
    other.seed(3)
    predict_masked(other, X, 5)
    found, expected = flat(one), flat(one)
    one.gradient((X, X[:, 0, :2]), expected)
    other.gradient((X, X[:, 0, :2]), found)
    np.testing.assert_array_equal(found, expected)


def test_new_weights_count_in_the_next_masked_prediction():
    adapter = adapter_of(linear_network(0.5))
    first = predict_masked(adapter, X, 3)
    vector = flat(adapter)
    vector[: adapter.manifest.n_trainable] *= 2.0
    adapter.set_flat(vector)
    assert np.abs(predict_masked(adapter, X, 3) - first).max() > 1e-2


def test_a_model_without_dropout_is_refused():
    adapter = adapter_of(linear_network(0.0))
    assert not adapter.has_dropout
    with pytest.raises(ModelError, match="must have a dropout layer with a rate above 0"):
        predict_masked(adapter, X, 3)
