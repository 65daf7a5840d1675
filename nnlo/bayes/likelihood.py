"""What a model's raw outputs say of the labels; numpy, float64.

The loss a model was trained by is a likelihood: cross-entropies make its outputs probabilities
of classes, ``gaussian_nll`` means and standard deviations, squared and absolute errors values
without any noise, unless the user knows it. Draws of a posterior stand along the first axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, logsumexp

from nnlo.errors import ConfigError, DataError, ModelError
from nnlo.model.losses import CLASSIFICATION, MIN_SD, Loss, canonical_loss

Floats = NDArray[np.float64]

LEAST = 1e-7
"""Probabilities of Keras models are at least this far from 0, as in the losses of Keras."""

POINTS = ("mean_squared_error", "mean_absolute_error", "huber")


@dataclass(frozen=True)
class Classes:
    """Outputs are probabilities of classes, or logits where ``from_logits`` (torch).

    is_binary: each output is one question of two classes, no (0) and yes (1). A sample with
    several outputs of that kind, or several places (an image of classes), is several points,
    one after the other.
    """

    from_logits: bool
    is_binary: bool = False

    def read(self, raw: NDArray[Any]) -> Floats:
        """Return log-probabilities (draws, points, classes) of outputs (draws, n, ...).

        Outputs have the classes on the last axis in Keras models, on axis 1 (after the draws:
        2) in torch modules, where a vector (draws, n) is as good as (draws, n, 1).
        """
        values = _finite(raw)
        if self.is_binary:
            flat = values.reshape(len(values), prod(values.shape[1:]))
            return self._two(flat)
        if values.ndim < 3:
            raise ModelError(
                f"a model of classes must have an output per class, got {values.shape[1:]}; "
                "give its last layer one unit per class"
            )
        if self.from_logits:
            values = np.moveaxis(values, 2, -1)
        n = prod(values.shape[1:-1])  # maybe 0, where -1 would not do
        values = values.reshape(len(values), n, values.shape[-1])
        if self.from_logits:  # what log_softmax has made stays as it is
            return np.asarray(values - logsumexp(values, axis=-1, keepdims=True))
        values = values / values.sum(axis=-1, keepdims=True)
        return np.asarray(np.log(np.clip(values, LEAST, 1.0)))

    def _two(self, flat: Floats) -> Floats:
        if self.from_logits:
            return np.stack([log_expit(-flat), log_expit(flat)], axis=-1)
        yes = np.clip(flat, LEAST, 1.0 - LEAST)
        return np.stack([np.log1p(-yes), np.log(yes)], axis=-1)

    def labels(self, y: NDArray[Any], n_points: int, n_classes: int) -> NDArray[np.int64]:
        """Return the class number of each point; DataError where ``y`` has another form.

        y: class numbers, or one-hot on the axis of the outputs' classes.
        """
        y = np.asarray(y)
        if y.size == n_points:
            values = y.reshape(-1)
            if (bad := np.rint(values) != values).any():
                raise DataError(
                    f"classes must be whole numbers, got {values[bad][0]}; a prediction is judged "
                    "by labels that are sure"
                )
            numbers = values.astype(np.int64)
        elif y.size == n_points * n_classes and not self.is_binary:
            numbers = y.argmax(axis=1 if self.from_logits else -1).reshape(-1)
        else:
            raise DataError(
                f"labels must be one class for each of {n_points} points, or one-hot of "
                f"{n_classes} classes, got shape {y.shape}; see --labels-name"
            )
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < n_classes:
            raise DataError(
                f"classes must be in 0..{n_classes - 1}, got {numbers.min()}..{numbers.max()}; "
                "start counting at 0"
            )
        return np.asarray(numbers)


@dataclass(frozen=True)
class Values:
    """Outputs are values of k targets; with ``has_scales`` k means and k raw scales.

    noise: standard deviation of the labels around the outputs, where that is known; without it
    and without scales a prediction has no noise, and its uncertainty is that of the weights.
    """

    has_scales: bool = False
    noise: float | None = None
    class_axis: int = -1  # of raw scales: 1 in torch modules

    def __post_init__(self) -> None:
        """Raise ConfigError for a noise that cannot be or is given twice."""
        if self.noise is not None and not 0.0 < self.noise < np.inf:
            raise ConfigError(
                f"the noise must be a standard deviation above 0, got {self.noise}; leave it out "
                "where it is not known"
            )
        if self.noise is not None and self.has_scales:
            raise ConfigError(
                f"the noise must be given once, got {self.noise} for a model that tells it "
                "itself; leave it out"
            )

    def read(self, raw: NDArray[Any]) -> tuple[Floats, Floats | None]:
        """Return means and standard deviations (draws, n, k) of outputs (draws, n, ...).

        Standard deviations are None where no noise is known.
        """
        values = _finite(raw)
        n_draws, n = values.shape[:2]
        if not self.has_scales:
            means = values.reshape(n_draws, n, prod(values.shape[2:]))
            return means, None if self.noise is None else np.full_like(means, self.noise)
        axis = -1 if self.class_axis == -1 else self.class_axis + 1
        if values.ndim < 3 or values.shape[axis] % 2:
            raise ModelError(
                "gaussian_nll must have a mean and a raw scale for each label, got outputs of "
                f"shape {values.shape[1:]}; give the last layer twice as many units"
            )
        halves = np.split(values, 2, axis)
        means, raws = (one.reshape(n_draws, n, prod(one.shape[2:])) for one in halves)
        return means, np.logaddexp(raws, 0.0) + MIN_SD

    def labels(self, y: NDArray[Any], n: int, k: int) -> Floats:
        """Return labels as (n, k); DataError where they do not fit."""
        y = np.asarray(y, np.float64)
        if y.size != n * k:
            raise DataError(
                f"labels must be {k} values for each of {n} samples, got shape {y.shape}; "
                "see --labels-name"
            )
        return y.reshape(n, k)


Likelihood = Classes | Values


def likelihood_of(
    loss: Loss | Sequence[Loss] | None, *, is_torch: bool, noise: float | None = None
) -> Likelihood:
    """Return what the outputs of a model mean that was trained by ``loss``.

    is_torch: a torch module, whose classes are logits; else a Keras model.
    noise: of values whose loss knows none; ConfigError with classes, or for a loss whose
    outputs are no prediction of the labels.
    """
    if not isinstance(loss, str):
        raise ConfigError(
            "a prediction must know what the outputs mean by the name of one loss, got "
            f"{loss!r}; train by one of {', '.join((*CLASSIFICATION, *POINTS, 'gaussian_nll'))}"
        )
    name = canonical_loss(loss)
    if name in CLASSIFICATION:
        if noise is not None:
            raise ConfigError(f"classes must have no noise, got {noise}; leave it out")
        return Classes(is_torch, is_binary=name == "binary_crossentropy")
    if name == "gaussian_nll":
        return Values(True, noise, 1 if is_torch else -1)
    if name in POINTS:
        return Values(False, noise)
    raise ConfigError(
        f"outputs must be classes or values to be judged, got the loss {name}; train by one of "
        f"{', '.join((*CLASSIFICATION, *POINTS, 'gaussian_nll'))}"
    )


def _finite(raw: NDArray[Any]) -> Floats:
    values = np.asarray(raw, np.float64)
    if not np.isfinite(values).all():
        bad = np.unique(np.argwhere(~np.isfinite(values))[:, 0])
        raise ModelError(
            f"outputs must be finite, got nan or inf in {bad.size} of {len(values)} draws; the "
            "training may have diverged: lower its learning rate"
        )
    return values
