"""Losses and metrics of torch modules, one number per sample.

The losses of classification take logits, as torch users expect; outputs that went through
``log_softmax`` are right as well, since it changes nothing the second time. The class axis is
axis 1. The losses of regression equal those of Keras.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nnlo.model.fit import fit_labels
from nnlo.model.losses import MIN_SD, TOP_K, Loss


def rows(
    losses: Sequence[Loss],
    metrics: Sequence[tuple[int, str]],
    labels: Sequence[Tensor],
    outputs: Sequence[Tensor],
    variational: Sequence[Any] = (),
) -> Tensor:
    """Return a float32 tensor (1 + n_metrics, n_samples); row 0 is the loss.

    labels, outputs: one tensor per output of the module; the loss over several is their sum.
    variational: layers of a variational model. Rows 1 and 2 are then the loss without them and
    their divergence in nats, which counts ``kl_weight`` in the loss of each sample. Raise
    ModelError where labels do not fit.
    """
    pairs = [_fitted(*each) for each in zip(losses, labels, outputs, strict=True)]
    total = sum(
        (_loss_row(loss, *pair) for loss, pair in zip(losses, pairs, strict=True)),
        start=outputs[0].new_zeros((), dtype=torch.float32),
    )
    with torch.no_grad():
        measured = [_metric_row(name, losses[i], *pairs[i]) for i, name in metrics]
    if not variational:
        return torch.stack([total, *measured])
    parts = [one.kl_divergence() for one in variational]
    penalty = sum(one.kl_weight * part for one, part in zip(variational, parts, strict=True))
    divergence = torch.stack(parts).sum().detach().expand_as(total)
    return torch.stack([total + penalty, total.detach(), divergence, *measured])


def _fitted(loss: Loss, labels: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    fit = fit_labels(loss, labels.shape, output.shape, class_axis=1, either=True)
    axis = 1 if output.ndim > 1 else -1
    if fit == "expand":
        labels = labels.unsqueeze(axis)
    elif fit == "squeeze":
        labels = labels.squeeze(axis)
    return labels, output if callable(loss) else output.float()


def _loss_row(loss: Loss, labels: Tensor, output: Tensor) -> Tensor:
    value = loss(output, labels) if callable(loss) else LOSSES[loss](output, labels)
    return _per_sample(value, output)


def _cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    target = labels.float() if labels.shape == output.shape else labels.long()
    return functional.cross_entropy(output, target, reduction="none")


def _binary(output: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(output, labels.float(), reduction="none")


def _kl_divergence(output: Tensor, labels: Tensor) -> Tensor:
    log_output = functional.log_softmax(output, dim=1)
    return functional.kl_div(log_output, labels.float(), reduction="none").sum(dim=1)


def _poisson(output: Tensor, labels: Tensor) -> Tensor:
    return output - labels * torch.log(output + 1e-7)


def _hinge(output: Tensor, labels: Tensor) -> Tensor:
    signs = torch.where(labels == 0, -1.0, labels.float())  # labels 0, 1 or -1, 1
    return functional.relu(1.0 - signs * output)


def _cosine(output: Tensor, labels: Tensor) -> Tensor:
    return -functional.cosine_similarity(output, labels.float(), dim=-1, eps=1e-6)


def _gaussian(output: Tensor, labels: Tensor) -> Tensor:
    mean, raw = output.chunk(2, dim=1)
    sd = functional.softplus(raw) + MIN_SD
    return 0.5 * ((labels - mean) / sd).square() + sd.log() + 0.5 * math.log(2 * math.pi)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "categorical_crossentropy": _cross_entropy,
    "sparse_categorical_crossentropy": _cross_entropy,
    "binary_crossentropy": _binary,
    "mean_squared_error": lambda output, labels: (output - labels).square(),
    "mean_absolute_error": lambda output, labels: (output - labels).abs(),
    "huber": lambda output, labels: functional.huber_loss(
        output, labels.float(), reduction="none"
    ),
    "kl_divergence": _kl_divergence,
    "poisson": _poisson,
    "hinge": _hinge,
    "cosine_similarity": _cosine,
    "gaussian_nll": _gaussian,
}
"""``f(output, labels)``, both already of fitting shapes; per sample or per element."""


def _metric_row(name: str, loss: Loss, labels: Tensor, output: Tensor) -> Tensor:
    if loss == "gaussian_nll":
        output = output.chunk(2, dim=1)[0]
    if name in ("mean_squared_error", "mean_absolute_error"):
        return _per_sample(LOSSES[name](output, labels), output)
    width = output.shape[1] if output.ndim > 1 else 1
    if name == "binary_accuracy" or (name == "accuracy" and width == 1):
        threshold = 0.0 if loss == "binary_crossentropy" else 0.5  # logits or not
        return _per_sample((output > threshold) == (labels.reshape(output.shape) > 0.5), output)
    classes = labels.argmax(dim=1) if labels.shape == output.shape else labels.long()
    if classes.ndim == output.ndim:
        classes = classes.squeeze(1)
    if name == "top_k":
        best = output.topk(min(TOP_K, width), dim=1).indices
        return _per_sample((best == classes.unsqueeze(1)).any(dim=1), output)
    return _per_sample(output.argmax(dim=1) == classes, output)


def _per_sample(value: Tensor, output: Tensor) -> Tensor:
    """Average over all axes but the batch's; a value for the whole batch goes to each sample."""
    value = value.float()
    if value.ndim == 0:
        return value.expand(output.shape[0])
    return value.reshape(value.shape[0], -1).mean(dim=1)
