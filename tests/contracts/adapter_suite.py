"""What every adapter must do. ``test_adapters`` runs this file once per backend, each in a
process of its own, because Keras takes its backend from the environment for good."""

import os

import numpy as np
import pytest

from nnlo.errors import ConfigError, ModelError
from nnlo.model import make_adapter

BACKEND = os.environ["NNLO_TEST_BACKEND"]
N_INPUTS, N_CLASSES = 6, 3


def keras_network(*, dropout, batchnorm, units, frozen):
    import keras
    from keras import layers

    model = keras.Sequential([keras.Input((N_INPUTS,)), layers.Dense(5, activation="tanh")])
    model.layers[0].trainable = not frozen
    if batchnorm:
        model.add(layers.BatchNormalization(momentum=0.9))
    if dropout:
        model.add(layers.Dropout(dropout))
    model.add(layers.Dense(units, activation="softmax" if units == N_CLASSES else None))
    return model


def torch_network(*, dropout, batchnorm, units, frozen):
    from torch import nn

    first = nn.Linear(N_INPUTS, 5).requires_grad_(not frozen)
    norm = [nn.BatchNorm1d(5, eps=1e-3)] if batchnorm else []
    noise = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(first, nn.Tanh(), *norm, *noise, nn.Linear(5, units))


def network(dropout=0.0, batchnorm=False, units=N_CLASSES, frozen=False):
    make = torch_network if BACKEND == "native" else keras_network
    return make(dropout=dropout, batchnorm=batchnorm, units=units, frozen=frozen)


def copy_of(model):
    if BACKEND == "native":
        import copy

        return copy.deepcopy(model)
    import keras

    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    return copied


def adapter_of(loss="categorical_crossentropy", metrics=None, optimizer="sgd", lr=0.1, **kinds):
    return make_adapter(network(**kinds), loss, metrics, optimizer=optimizer, learning_rate=lr)


def batch(n=20, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, N_INPUTS)).astype(np.float32)
    return x, np.eye(N_CLASSES, dtype=np.float32)[rng.integers(0, N_CLASSES, n)]


def flat(adapter):
    vector = np.empty(adapter.manifest.size, np.float32)
    adapter.get_flat(vector)
    return vector


def gradient(adapter, data):
    vector = np.empty(adapter.manifest.size, np.float32)
    return adapter.gradient(data, vector), vector


@pytest.mark.parametrize("offset", [0, 1, 16])
def test_get_returns_what_set_took_at_any_alignment(offset):
    adapter = adapter_of(batchnorm=True)
    size = adapter.manifest.size
    vector = np.arange(size + offset, dtype=np.float32)[offset:]
    adapter.set_flat(vector)
    np.testing.assert_array_equal(flat(adapter), vector)


def test_adapter_keeps_no_reference_to_a_vector():
    adapter = adapter_of()
    vector = np.ones(adapter.manifest.size, np.float32)
    adapter.set_flat(vector)
    vector[:] = 7
    assert (flat(adapter) == 1).all()


def test_read_only_vector_is_accepted():
    adapter = adapter_of()
    vector = np.ones(adapter.manifest.size, np.float32)
    vector.flags.writeable = False
    adapter.set_flat(vector)
    assert (flat(adapter) == 1).all()


@pytest.mark.parametrize("wrong", [np.zeros(3, np.float32), np.zeros(56, np.float64)])
def test_vector_of_wrong_size_or_type_is_refused(wrong):
    with pytest.raises(ModelError, match="the vector must be float32 of shape"):
        adapter_of().set_flat(wrong)


def test_gradient_equals_finite_differences():
    adapter, data = adapter_of(), batch()
    weights = flat(adapter)
    _, found = gradient(adapter, data)
    expected = np.empty_like(found)
    step = 1e-2  # the error of the difference falls with its square, that of float32 grows
    for i in range(len(weights)):
        moved = weights.copy()
        losses = []
        for sign in (1, -1):
            moved[i] = weights[i] + sign * step
            adapter.set_flat(moved)
            losses.append(adapter.test_step(data)[1] / len(data[0]))
        expected[i] = (losses[0] - losses[1]) / (2 * step)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_gradient_leaves_trainable_weights_and_moves_state():
    adapter = adapter_of(batchnorm=True)
    before, n = flat(adapter), adapter.manifest.n_trainable
    _, out = gradient(adapter, batch())
    after = flat(adapter)
    np.testing.assert_array_equal(after[:n], before[:n])
    assert adapter.manifest.n_state == 10
    np.testing.assert_array_equal(out[n:], after[n:])
    assert (out[n:] != before[n:]).all()


def test_gradient_after_set_flat_starts_from_the_given_state():
    adapter, data = adapter_of(batchnorm=True), batch()
    start = flat(adapter)
    _, first = gradient(adapter, data)
    adapter.set_flat(start)
    _, second = gradient(adapter, data)
    np.testing.assert_array_equal(first, second)


def test_sums_add_over_split_batches():
    adapter, (x, y) = adapter_of(metrics=["acc", "mse", "mae", "top_k"]), batch(23)
    assert adapter.metric_names[0] == "loss"
    whole = adapter.test_step((x, y))
    parts = adapter.test_step((x[:10], y[:10])) + adapter.test_step((x[10:], y[10:]))
    assert whole[0] == 23
    np.testing.assert_allclose(parts, whole, rtol=1e-6)


def test_empty_batch_gives_zero_sums_and_zero_gradient():
    adapter, (x, y) = adapter_of(batchnorm=True), batch()
    before, n = flat(adapter), adapter.manifest.n_trainable
    sums, out = gradient(adapter, (x[:0], y[:0]))
    assert not sums.any()
    assert not out[:n].any()
    np.testing.assert_array_equal(out[n:], before[n:])
    assert not adapter.test_step((x[:0], y[:0])).any()
    assert not adapter.train_step((x[:0], y[:0])).any()


def test_step_of_sgd_is_weights_minus_rate_times_gradient():
    adapter, data = adapter_of(lr=0.25), batch()
    weights = flat(adapter)
    sums, slope = gradient(adapter, data)
    np.testing.assert_allclose(adapter.train_step(data), sums)
    np.testing.assert_allclose(flat(adapter), weights - 0.25 * slope, atol=1e-7)


@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", {"name": "sgd", "momentum": 0.9}])
def test_gradient_and_apply_gradient_are_a_train_step(optimizer, clip_norm):
    options = {"optimizer": optimizer, "learning_rate": 0.1, "clip_norm": clip_norm}
    model = network(batchnorm=True)
    one, other = (
        make_adapter(copy_of(model), "categorical_crossentropy", **options) for _ in range(2)
    )
    for seed in range(3):
        sums, vector = gradient(one, batch(seed=seed))
        vector.flags.writeable = False
        one.apply_gradient(vector)
        # Two compiled functions may round differently, which adam enlarges.
        np.testing.assert_allclose(sums, other.train_step(batch(seed=seed)), rtol=1e-5)
        np.testing.assert_allclose(flat(one), flat(other), rtol=1e-4, atol=1e-4)
    assert one.has_gradient


def test_apply_gradient_takes_the_state_over_and_keeps_the_vector():
    adapter = adapter_of(lr=0.25, batchnorm=True)
    before, n = flat(adapter), adapter.manifest.n_trainable
    vector = np.arange(adapter.manifest.size + 1, dtype=np.float32)[1:]
    adapter.apply_gradient(vector)
    np.testing.assert_allclose(flat(adapter)[:n], before[:n] - 0.25 * vector[:n], rtol=1e-6)
    np.testing.assert_array_equal(flat(adapter)[n:], vector[n:])
    np.testing.assert_array_equal(vector, np.arange(1, adapter.manifest.size + 1))


def test_learning_rate_is_read_and_set():
    adapter, data = adapter_of(lr=0.25), batch()
    assert adapter.learning_rate == pytest.approx(0.25)
    adapter.learning_rate = 0.0
    weights = flat(adapter)
    adapter.train_step(data)
    np.testing.assert_array_equal(flat(adapter), weights)
    assert adapter.learning_rate == 0.0


def test_training_lowers_the_loss():
    adapter, data = adapter_of(optimizer="adam", lr=0.05), batch()
    first = adapter.test_step(data)[1]
    for _ in range(40):
        adapter.train_step(data)
    assert adapter.test_step(data)[1] < 0.5 * first


@pytest.mark.parametrize("optimizer", ["adam", {"name": "sgd", "momentum": 0.9}])
def test_local_state_repeats_steps_bit_for_bit(optimizer):
    adapter, data = adapter_of(optimizer=optimizer, dropout=0.5, batchnorm=True), batch()
    adapter.seed(1)
    adapter.train_step(data)
    weights, state = flat(adapter), adapter.local_state()
    results = []
    for _ in range(2):
        sums = [adapter.train_step(data) for _ in range(3)]
        results.append((np.stack(sums), flat(adapter), adapter.local_state()))
        adapter.set_flat(weights)
        adapter.load_local_state(state)
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert results[0][2].keys() == results[1][2].keys()


def test_local_state_fits_a_new_adapter():
    old, data = adapter_of(optimizer="adam", dropout=0.5, batchnorm=True), batch()
    new = adapter_of(optimizer="adam", dropout=0.5, batchnorm=True)
    old.train_step(data)
    new.set_flat(flat(old))
    new.load_local_state(old.local_state())
    np.testing.assert_array_equal(old.train_step(data), new.train_step(data))
    np.testing.assert_array_equal(flat(old), flat(new))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad", "rmsprop", "nadam"])
def test_a_reset_optimizer_has_forgotten_what_was_not_finite(optimizer):
    adapter, data = adapter_of(optimizer=optimizer, lr=0.5), batch()
    start = flat(adapter)
    adapter.learning_rate = 0.25
    adapter.train_step(data)
    expected = flat(adapter)
    for _ in range(2):  # what it keeps for the next reset is not what it has put back
        adapter.train_step((np.full_like(data[0], np.nan), data[1]))
        adapter.set_flat(start)
        adapter.reset_optimizer()
        assert adapter.learning_rate == 0.25
        adapter.train_step(data)
        np.testing.assert_array_equal(flat(adapter), expected)


def test_without_an_optimizer_there_is_nothing_to_reset():
    adapter = adapter_of(optimizer=None)
    adapter.reset_optimizer()
    assert gradient(adapter, batch())[0][0] == 20


def test_local_state_of_another_model_is_refused():
    with pytest.raises(ModelError, match="equal model"):
        adapter_of(optimizer="adam", batchnorm=True).load_local_state({})


def test_seed_repeats_the_dropout_and_another_seed_does_not():
    adapter, data = adapter_of(dropout=0.5), batch()
    found = []
    for seed in (5, 5, 6):
        adapter.seed(seed)
        found.append(gradient(adapter, data)[1])
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


def test_two_adapters_do_not_disturb_each_other():
    one, data = adapter_of(dropout=0.5), batch()
    one.seed(5)
    alone = [gradient(one, data)[1] for _ in range(2)]
    other = adapter_of(dropout=0.5)
    one.seed(5)
    other.seed(5)
    mixed = [(gradient(one, data)[1], gradient(other, data))[0] for _ in range(2)]
    np.testing.assert_array_equal(alone, mixed)


def test_partial_batches_need_no_other_treatment():
    adapter = adapter_of(batchnorm=True)
    for n in (20, 7, 20, 3):
        sums, out = gradient(adapter, batch(n))
        assert sums[0] == n
        assert np.isfinite(out).all()


def test_saved_model_predicts_the_same_without_nnlo(tmp_path):
    adapter, (x, y) = adapter_of(batchnorm=True, dropout=0.5), batch()
    adapter.train_step((x, y))
    path = tmp_path / f"model{adapter.suffix}"
    assert adapter.save(path) == [path]
    if BACKEND == "native":
        import torch

        model = network(batchnorm=True, dropout=0.5)
        model.load_state_dict(torch.load(path, weights_only=True))
        found = model.eval()(torch.from_numpy(x)).detach().numpy()
    else:
        import keras

        found = keras.models.load_model(path).predict(x, verbose=0)
    np.testing.assert_allclose(found, adapter.predict(x), atol=1e-6)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_save_under_a_wrong_ending_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="rename it"):
        adapter_of().save(tmp_path / "model.txt")


def test_predictions_are_those_of_the_given_weights():
    adapter, (x, _) = adapter_of(), batch()
    adapter.set_flat(np.zeros(adapter.manifest.size, np.float32))
    predicted = adapter.predict(x)
    assert predicted.shape == (20, N_CLASSES)
    np.testing.assert_allclose(predicted - predicted[:1], 0, atol=1e-7)


def test_regression_is_regression():
    x, _ = batch(64)
    y = (x @ np.float32([1, -2, 0.5, 0, 3, 1]))[:, None] * 0.3
    adapter = adapter_of("mse", ["mae"], "adam", 0.02, units=1)
    for _ in range(400):
        adapter.train_step((x, y))
    n, loss, mae = adapter.test_step((x, y))
    assert loss / n < 0.02
    error = np.abs(adapter.predict(x) - y)
    assert mae / n == pytest.approx(error.mean(), rel=1e-5)


def test_labels_without_the_axis_of_one_output_do_not_broadcast():
    adapter, (x, _) = adapter_of("mse", units=1), batch()
    y = np.arange(20, dtype=np.float32)
    expected = ((adapter.predict(x)[:, 0] - y) ** 2).sum()
    assert adapter.test_step((x, y))[1] == pytest.approx(expected, rel=1e-5)
    assert adapter.test_step((x, y[:, None]))[1] == pytest.approx(expected, rel=1e-5)


def test_class_numbers_and_one_hot_labels_give_the_same_loss():
    adapter, (x, y) = adapter_of(), batch()
    sparse = make_adapter(adapter.model, "sparse_categorical_crossentropy")
    expected = adapter.test_step((x, y))
    numbers = y.argmax(axis=1)
    for labels in (numbers, numbers[:, None], numbers.astype(np.uint8)):
        np.testing.assert_allclose(sparse.test_step((x, labels)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "labels", "says"),
    [
        ("categorical_crossentropy", np.zeros((20, 4), np.float32), r"\(batch, 3\).*\(batch, 4\)"),
        ("mse", np.zeros((20, 2), np.float32), r"\(batch, 3\).*\(batch, 2\)"),
        ("mse", np.zeros(20, np.float32), r"\(batch, 3\).*\(batch\).*change the labels"),
        ("sparse_categorical_crossentropy", np.full(20, 3), r"in 0..2 .* got 3..3"),
    ],
)
def test_labels_that_do_not_fit_are_an_error_that_names_the_shapes(loss, labels, says):
    with pytest.raises(ModelError, match=says):
        gradient(adapter_of(loss), (batch()[0], labels))


@pytest.mark.skipif(BACKEND == "native", reason="both kinds of labels are right in torch")
def test_label_kind_of_the_other_crossentropy_names_it():
    x, y = batch()
    with pytest.raises(ModelError, match="use categorical_crossentropy"):
        adapter_of("sparse_categorical_crossentropy").test_step((x, y))
    with pytest.raises(ModelError, match="use sparse_categorical_crossentropy"):
        adapter_of("categorical_crossentropy").test_step((x, y.argmax(axis=1)))


def test_features_and_labels_of_different_length_are_refused():
    x, y = batch()
    with pytest.raises(ModelError, match=r"equal length, got \[19, 20\]"):
        adapter_of().test_step((x, y[:19]))


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ConfigError, match="must be one of categorical_crossentropy, "):
        adapter_of("crossentropy")
    with pytest.raises(ConfigError, match="must be one of accuracy, "):
        adapter_of(metrics=["accurate"])
    with pytest.raises(ConfigError, match="worker optimizer must be one of"):
        adapter_of(optimizer="newton")
    with pytest.raises(ConfigError, match="parameters"):
        adapter_of(optimizer={"name": "sgd", "speed": 3})


def test_step_without_optimizer_says_so():
    adapter = adapter_of(optimizer=None, lr=None)
    with pytest.raises(ConfigError, match="train_step must have a local optimizer"):
        adapter.train_step(batch())
    with pytest.raises(ConfigError, match="apply_gradient must have a local optimizer"):
        adapter.apply_gradient(flat(adapter))


def test_frozen_weights_travel_as_state_and_stay():
    adapter, data = adapter_of(frozen=True), batch()
    assert adapter.manifest.n_state == (N_INPUTS + 1) * 5
    before, n = flat(adapter), adapter.manifest.n_trainable
    adapter.train_step(data)
    np.testing.assert_array_equal(flat(adapter)[n:], before[n:])


def test_manifest_is_equal_for_models_built_later():
    first, second = adapter_of(batchnorm=True), adapter_of(batchnorm=True)
    assert first.manifest.hash == second.manifest.hash
    assert first.manifest.hash != adapter_of().manifest.hash


def test_float64_weights_are_refused_with_the_remedy():
    if BACKEND == "native":
        model = network().double()
    else:
        import keras

        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, dtype="float16")])
    with pytest.raises(ModelError, match=r"weights must be float32, got .*float"):
        make_adapter(model, "mse")


def test_function_as_loss():
    if BACKEND == "native":
        import torch

        loss = torch.nn.CrossEntropyLoss()
    else:
        import keras

        loss = keras.losses.CategoricalCrossentropy()
    adapter, data = adapter_of(), batch()
    custom = make_adapter(adapter.model, loss, ["acc"])
    np.testing.assert_allclose(custom.test_step(data), adapter.test_step(data), rtol=1e-5)


def own_network():
    if BACKEND == "native":
        from torch import nn

        class Own(nn.Linear):
            def train_step(self, batch): ...

        return Own(2, 1)
    import keras

    class OwnKeras(keras.Sequential):
        def train_step(self, data): ...

    return OwnKeras([keras.Input((2,)), keras.layers.Dense(1)])


@pytest.mark.skipif(BACKEND == "jax", reason="refused, see the next test")
def test_model_with_its_own_train_step_is_recognised_and_has_no_gradient():
    adapter = make_adapter(own_network(), None, optimizer="sgd", learning_rate=0.5)
    assert (adapter.has_gradient, adapter.has_test_step) == (False, False)
    assert adapter.metric_names == ("loss",)
    assert adapter.learning_rate == 0.5
    assert (adapter_of().has_gradient, adapter_of().has_test_step) == (True, True)


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX needs pure functions")
def test_model_with_its_own_train_step_is_refused_on_jax():
    with pytest.raises(ModelError, match="set KERAS_BACKEND=tensorflow or torch"):
        make_adapter(own_network(), None)


def test_summary_names_the_layers():
    summary = adapter_of().summary()
    assert ("Linear" if BACKEND == "native" else "dense") in summary
    assert "53" in summary or BACKEND == "native"
