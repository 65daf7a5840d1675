import random

import numpy as np
import pytest

keras = pytest.importorskip("keras")
from keras import layers  # noqa: E402

from nnlo.errors import ConfigError, ModelError  # noqa: E402
from nnlo.model import build_adapter, load_builder  # noqa: E402
from nnlo.model.keras_adapter import KerasAdapter  # noqa: E402

X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
Y = X[:, :2].copy()


def flat(adapter):
    vector = np.empty(adapter.manifest.size, np.float32)
    adapter.get_flat(vector)
    return vector


def two_by_two():
    shared = layers.Dense(2)
    one, other = keras.Input((4,)), keras.Input((4,))
    return keras.Model([one, other], [shared(one), shared(other)])


def test_several_inputs_and_outputs_share_a_layer():
    adapter = KerasAdapter(two_by_two(), ["mse", "mae"], ["mse"])
    assert adapter.manifest.size == 10
    assert adapter.metric_names == ("loss", "mean_squared_error_1", "mean_squared_error_2")
    sums = adapter.gradient(([X, X + 1], [Y, Y]), flat(adapter))
    first, second = adapter.predict([X, X + 1])
    expected = ((first - Y) ** 2).mean(axis=1) + np.abs(second - Y).mean(axis=1)
    assert sums[1] == pytest.approx(expected.sum(), rel=1e-5)


def test_one_loss_serves_all_outputs_and_three_do_not():
    assert len(KerasAdapter(two_by_two(), "mse", ["mse"]).metric_names) == 3
    with pytest.raises(ConfigError, match="2 outputs of the model, got 3"):
        KerasAdapter(two_by_two(), ["mse"] * 3)
    with pytest.raises(ModelError, match="each of the 2 losses, got 1"):
        KerasAdapter(two_by_two(), "mse").test_step(([X, X], Y))


def test_regularisation_is_in_the_loss_and_its_gradient():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, kernel_regularizer="l2")])
    adapter = KerasAdapter(model, "mse")
    weights, out = flat(adapter), flat(adapter)
    x = np.zeros((8, 4), np.float32)
    sums = adapter.gradient((x, np.zeros_like(Y)), out)
    np.testing.assert_allclose(out[:8], 0.02 * weights[:8], rtol=1e-4)
    assert sums[1] == pytest.approx(8 * 0.01 * (weights[:8] ** 2).sum(), rel=1e-4)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.layer = layers.Dense(2)

    def call(self, x):
        return self.layer(x)


def test_model_without_an_input_shape_says_how_to_give_one():
    with pytest.raises(ModelError, match="must know its input shape"):
        KerasAdapter(Subclassed(), "mse")
    adapter = KerasAdapter(Subclassed(), "mse", example=(X, Y))
    assert adapter.manifest.size == 10


def test_compiled_model_is_accepted_and_its_compilation_ignored():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    model.compile("adam", "mae", metrics=["mse"])
    adapter = KerasAdapter(model, "mse")
    expected = ((adapter.predict(X) - Y) ** 2).mean(axis=1).sum()
    assert adapter.test_step((X, Y))[1] == pytest.approx(expected, rel=1e-5)


def test_features_that_do_not_fit_are_an_error_with_their_shape():
    adapter = KerasAdapter(keras.Sequential([keras.Input((4,)), layers.Dense(2)]), "mse")
    with pytest.raises(ModelError, match=r"features must fit the model .* got shapes \(8, 3\)"):
        adapter.test_step((X[:, :3], Y))


def test_embedding_gradients_are_dense():
    model = keras.Sequential([keras.Input((1,)), layers.Embedding(5, 2), layers.Flatten()])
    adapter = KerasAdapter(model, "mse")
    out = np.ones(10, np.float32)
    adapter.gradient((np.array([[1], [3]]), Y[:2]), out)
    assert not out.reshape(5, 2)[[0, 2, 4]].any()


def test_model_of_one_variable_keeps_no_memory_of_the_caller():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, use_bias=False)])
    adapter = KerasAdapter(model, "mse")
    raw = np.zeros(8 * 4 + 64, np.uint8)
    aligned = raw[-raw.ctypes.data % 64 :][:32].view(np.float32)
    adapter.set_flat(aligned)
    aligned[:] = 5
    assert not flat(adapter).any()


def test_integers_and_doubles_are_accepted_as_features():
    adapter = KerasAdapter(keras.Sequential([keras.Input((4,)), layers.Dense(2)]), "mse")
    for dtype in (np.uint8, np.int64, np.float64):
        assert adapter.test_step((np.ones((8, 4), dtype), Y))[0] == 8


def test_equal_seeds_give_equal_first_weights_and_leave_the_global_seed_alone():
    random.seed(7)
    expected = random.random()
    random.seed(7)
    vectors = [flat(build_adapter(load_builder("digits"), seed=seed)) for seed in (3, 3, 4)]
    assert random.random() == expected
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert (vectors[0] != vectors[2]).any()
