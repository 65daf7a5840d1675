"""Losses and metrics of Keras models, one number per sample, on any Keras backend."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from nnlo.model.fit import fit_labels
from nnlo.model.losses import MIN_SD, TOP_K, Loss


def rows(
    losses: Sequence[Loss],
    metrics: Sequence[tuple[int, str]],
    labels: Sequence[Any],
    outputs: Sequence[Any],
    penalties: Sequence[Any],
    divergence: Any = None,
) -> Any:
    """Return a float32 tensor (1 + n_metrics, n_samples); row 0 is the loss.

    labels, outputs: one tensor per output of the model. penalties: the model's regularisation
    losses, added to every sample. The loss over several outputs is their sum. The mean of row
    0 is what Keras would minimise. divergence: of a variational model in nats: rows 1 and 2 are
    then the loss without penalties, and it. Raise ModelError where labels do not fit.
    """
    pairs = [_fitted(*each) for each in zip(losses, labels, outputs, strict=True)]
    penalty = sum(ops.cast(one, "float32") for one in penalties)
    total = sum(_loss_row(loss, *pair) for loss, pair in zip(losses, pairs, strict=True))
    measured = [
        _metric_row(name, pairs[i][0], _point(losses[i], pairs[i][1])) for i, name in metrics
    ]
    if divergence is not None:
        measured = [total, ops.zeros_like(total) + divergence, *measured]
    return ops.stack([total + penalty, *measured])


def _fitted(loss: Loss, labels: Any, output: Any) -> tuple[Any, Any]:
    if not callable(loss):
        output = ops.cast(output, "float32")
    fit = fit_labels(loss, tuple(labels.shape), tuple(output.shape))
    if fit == "expand":
        labels = ops.expand_dims(labels, -1)
    elif fit == "squeeze":
        labels = ops.squeeze(labels, -1)
    return labels, output


def _loss_row(loss: Loss, labels: Any, output: Any) -> Any:
    if callable(loss):
        return _per_sample(loss(labels, output), output)
    if loss != "sparse_categorical_crossentropy":
        labels = ops.cast(labels, "float32")
    if loss == "gaussian_nll":
        return _per_sample(_gaussian(labels, output), output)
    return _per_sample(getattr(keras.losses, loss)(labels, output), output)


def _gaussian(labels: Any, output: Any) -> Any:
    mean, raw = ops.split(output, 2, axis=-1)
    sd = ops.softplus(raw) + MIN_SD
    return 0.5 * ops.square((labels - mean) / sd) + ops.log(sd) + 0.5 * math.log(2 * math.pi)


def _point(loss: Loss, output: Any) -> Any:
    """What metrics compare with the labels."""
    return ops.split(output, 2, axis=-1)[0] if loss == "gaussian_nll" else output


def _metric_row(name: str, labels: Any, output: Any) -> Any:
    sparse = len(labels.shape) < len(output.shape)
    if name == "accuracy":
        # Keras' own rule: the shapes alone decide
        width = output.shape[-1] if len(output.shape) > 1 else 1
        name = "binary_accuracy" if width == 1 else "categorical_accuracy"
    if name == "categorical_accuracy" and sparse:
        name = "sparse_categorical_accuracy"
    if name == "top_k":
        name = ("sparse_" if sparse else "") + "top_k_categorical_accuracy"
        value = getattr(keras.metrics, name)(labels, output, k=min(TOP_K, output.shape[-1]))
    else:
        value = getattr(keras.metrics, name)(labels, output)
    return _per_sample(value, output)


def _per_sample(value: Any, output: Any) -> Any:
    """Average over all axes but the batch's; a value for the whole batch goes to each sample."""
    value = ops.cast(value, "float32")
    if len(value.shape) == 0:
        return ops.broadcast_to(value, (ops.shape(output)[0],))
    return ops.mean(ops.reshape(value, (ops.shape(value)[0], -1)), axis=1)
