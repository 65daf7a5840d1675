"""The adapter of Keras 3 models that are trained by a loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnlo.errors import ConfigError, ModelError
from nnlo.model.adapter import Batch, Sums, Vector
from nnlo.model.batch import as_arrays, is_empty, sums_of
from nnlo.model.engines import Arrays, Engine
from nnlo.model.fit import check_classes, fit_labels
from nnlo.model.keras_network import (
    KerasNetwork,
    make_optimizer,
    sort_networks,
    variational_layers,
)
from nnlo.model.keras_vector import KerasVector, value_of
from nnlo.model.losses import Loss, plan, variational_names


class KerasAdapter(KerasVector):
    """A Keras model on TensorFlow, PyTorch or JAX, after the contract of ``ModelAdapter``.

    What a compiled model was compiled with is ignored. ``loss``, ``metrics``: see ``losses``.
    ``optimizer``, ``clip_norm``: see ``make_optimizer``; None for gradient mode.
    ``example``: a batch that builds a model which does not know its input shape yet.
    """

    has_gradient = True
    has_test_step = True

    def __init__(
        self,
        model: Any,
        loss: Loss | Sequence[Loss],
        metrics: Sequence[str] | None = None,
        *,
        optimizer: str | Mapping[str, Any] | None = None,
        learning_rate: float | None = None,
        clip_norm: float | None = None,
        example: Batch | None = None,
    ) -> None:
        if example is not None and not model.built:
            x = as_arrays(example[0])
            model(x if len(x) > 1 else x[0])
        if not model.built:
            raise ModelError(
                f"a model must know its input shape, got the unbuilt model {model.name!r}; start "
                "it with keras.Input(shape) or call model.build((None, ...)) in get_model"
            )
        outputs = getattr(model, "outputs", None)
        losses, pairs, self.metric_names = plan(loss, metrics, len(outputs) if outputs else None)
        manifest, trainable, state, local = sort_networks({"model": model})
        made = None
        if optimizer is not None:
            made = make_optimizer(optimizer, trainable, learning_rate, clip_norm)
        self._learning_rate = 0.0 if learning_rate is None else learning_rate
        variational = variational_layers([model])
        if variational:
            self.metric_names = variational_names(self.metric_names)
        super().__init__(
            model,
            KerasNetwork(
                model, manifest, trainable, state, local, losses, pairs, made, variational
            ),
        )
        self._keep_fresh()
        self._is_first = True

    @property
    def network(self) -> KerasNetwork:
        """The model, sorted."""
        return self._network

    @property
    def engine(self) -> Engine:
        """What runs the network on this backend."""
        return self._engine

    @property
    def learning_rate(self) -> float:
        """Of the local optimizer; a plain number without effect where there is none."""
        if self._network.optimizer is None:
            return self._learning_rate
        return float(value_of(self._network.optimizer.learning_rate))

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = value
        if self._network.optimizer is not None:
            self._engine.publish()
            self._network.optimizer.learning_rate = value
            self._engine.reload()

    def gradient(self, batch: Batch, out: Vector) -> Sums:
        """See the contract; the model's own S moves as well."""
        self.manifest.check(out)
        if is_empty(batch):
            self._engine.read(out)
            out[: self.manifest.n_trainable] = 0.0
            return np.zeros(1 + len(self.metric_names))
        return sums_of(self._engine.gradient(*self.prepared(batch), out))

    def apply_gradient(self, vector: Vector) -> None:
        self.manifest.check(vector)
        self._check_optimizer("apply_gradient")
        self._engine.apply(vector)

    def train_step(self, batch: Batch) -> Sums:
        self._check_optimizer("train_step")
        if is_empty(batch):
            return np.zeros(1 + len(self.metric_names))
        return sums_of(self._engine.step(*self.prepared(batch)))

    def test_step(self, batch: Batch) -> Sums:
        if is_empty(batch):
            return np.zeros(1 + len(self.metric_names))
        return sums_of(self._engine.evaluate(*self.prepared(batch)))

    def prepared(self, batch: Batch) -> tuple[Arrays, Arrays]:
        """Return the sides of a batch as engines take them; ModelError where they don't fit."""
        x, y = as_arrays(batch[0]), as_arrays(batch[1])
        losses = self._network.losses
        if len(y) != len(losses):
            raise ModelError(
                f"labels must be one array for each of the {len(losses)} losses, got {len(y)} "
                "arrays; let generate_data yield a list, or name one loss per output"
            )
        if self._is_first:
            outputs = getattr(self._network.model, "outputs", None) or []
            for loss, labels, output in zip(losses, y, outputs, strict=False):
                fit_labels(loss, labels.shape, output.shape)
                if loss == "sparse_categorical_crossentropy" and output.shape[-1]:
                    check_classes(labels, output.shape[-1])
            self._is_first = False
        return x, y

    def _optimizers(self) -> dict[str, Any]:
        one = self._network.optimizer
        return {} if one is None else {"optimizer": one}

    def _check_optimizer(self, verb: str) -> None:
        if self._network.optimizer is None:
            raise ConfigError(
                f"{verb} must have a local optimizer, got none; "
                "name one, for example optimizer='sgd'"
            )
