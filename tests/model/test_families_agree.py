"""Keras and torch give the same numbers for the same outputs and labels."""

import numpy as np
import pytest
from scipy.stats import norm

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")

from nnlo.model.keras_objective import rows as keras_rows  # noqa: E402
from nnlo.model.losses import LOSSES  # noqa: E402
from nnlo.model.torch_objective import rows as torch_rows  # noqa: E402

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(7, 6)).astype(np.float32)
ONE_HOT = np.eye(6, dtype=np.float32)[RNG.integers(0, 6, 7)]
METRICS = tuple((0, name) for name in ("accuracy", "top_k"))


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def both(loss, labels, output, keras_output=None, metrics=()):
    given = output if keras_output is None else keras_output
    to_keras, to_torch = keras.ops.convert_to_tensor, torch.from_numpy
    first = keras_rows([loss], metrics, [to_keras(labels)], [to_keras(given)], [])
    second = torch_rows([loss], metrics, [to_torch(labels)], [to_torch(output)])
    return np.asarray(keras.ops.convert_to_numpy(first)), second.numpy()


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "kl_divergence"])
def test_losses_of_probabilities_agree_with_those_of_logits(loss):
    labels = ONE_HOT if loss.startswith("cat") else softmax(LOGITS[::-1])
    one, other = both(loss, labels, LOGITS, softmax(LOGITS), METRICS)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_class_numbers_agree():
    numbers = ONE_HOT.argmax(axis=1)
    one, other = both("sparse_categorical_crossentropy", numbers, LOGITS, softmax(LOGITS), METRICS)
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("labels", [ONE_HOT, ONE_HOT[:, :1], ONE_HOT[:, 0]])
def test_binary_crossentropy_agrees(labels):
    logits = LOGITS if labels.ndim == 2 and labels.shape[1] > 1 else LOGITS[:, :1]
    metrics = ((0, "binary_accuracy"), (0, "accuracy"))
    one, other = both("binary_crossentropy", labels, logits, 1 / (1 + np.exp(-logits)), metrics)
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("loss", [*LOSSES[3:6], *LOSSES[7:10]])
def test_losses_of_regression_agree(loss):
    output = np.abs(LOGITS) if loss == "poisson" else LOGITS
    labels = ONE_HOT if loss == "hinge" else np.abs(LOGITS[::-1]).copy()
    metrics = ((0, "mean_squared_error"), (0, "mean_absolute_error"))
    one, other = both(loss, labels, output, metrics=metrics)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("labels", [ONE_HOT[:, :3], ONE_HOT[:, 0]])
def test_gaussian_nll_is_the_density_of_scipy_in_both(labels):
    k = 1 if labels.ndim == 1 else 3
    output = np.ascontiguousarray(LOGITS[:, : 2 * k])
    one, other = both("gaussian_nll", labels, output, metrics=((0, "mean_squared_error"),))
    y, mean, sd = labels.reshape(7, k), output[:, :k], np.log1p(np.exp(output[:, k:])) + 1e-6
    expected = [-norm.logpdf(y, mean, sd).mean(axis=1), np.square(y - mean).mean(axis=1)]
    np.testing.assert_allclose(one, expected, rtol=1e-5)
    np.testing.assert_allclose(other, expected, rtol=1e-5)


def test_log_softmax_outputs_give_the_loss_of_their_logits():
    logits, labels = torch.from_numpy(LOGITS), torch.from_numpy(ONE_HOT)
    raw = torch_rows(["categorical_crossentropy"], (), [labels], [logits])
    logged = torch_rows(["categorical_crossentropy"], (), [labels], [logits.log_softmax(1)])
    torch.testing.assert_close(raw, logged)


def test_keras_row_is_what_compiled_keras_reports():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6, activation="softmax")])
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    expected = model.evaluate(LOGITS, ONE_HOT, verbose=0)
    labels = keras.ops.convert_to_tensor(ONE_HOT)
    found = keras_rows(["categorical_crossentropy"], METRICS[:1], [labels], [model(LOGITS)], [])
    np.testing.assert_allclose(np.mean(found, axis=1), expected, rtol=1e-5)
