"""The adapter of native PyTorch modules that are trained by a loss."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnlo.errors import ConfigError, ModelError
from nnlo.model.adapter import Batch, OnReady, Sums, Vector
from nnlo.model.batch import is_empty, sums_of
from nnlo.model.fit import ONE_OF_MANY, check_classes, fit_labels
from nnlo.model.losses import Loss, plan, variational_names
from nnlo.model.torch_flat import tensor_of
from nnlo.model.torch_network import make_optimizer
from nnlo.model.torch_objective import rows
from nnlo.model.torch_vector import TorchVector


class TorchAdapter(TorchVector):
    """A torch module after the contract of ``ModelAdapter``.

    The module gets its inputs as positional arguments and returns a tensor or a tuple of
    tensors (then ``loss`` is a list of as many). Floats and uint8 features arrive as float32,
    other integers as int64. ``loss``, ``metrics``: see ``losses``. ``optimizer``: see
    ``torch_network.make_optimizer``; None for gradient mode. ``clip_norm``: largest norm of
    the local gradient. ``example``, ``device``: see ``TorchVector``.
    """

    has_gradient = True
    has_test_step = True

    def __init__(
        self,
        model: nn.Module,
        loss: Loss | Sequence[Loss],
        metrics: Sequence[str] | None = None,
        *,
        optimizer: str | Mapping[str, Any] | None = None,
        learning_rate: float | None = None,
        clip_norm: float | None = None,
        example: Batch | None = None,
        device: str | None = None,
    ) -> None:
        self._losses, self._metrics, self.metric_names = plan(loss, metrics, None)
        super().__init__(model, {"model": model}, model, example=example, device=device)
        if self.is_variational:
            self.metric_names = variational_names(self.metric_names)
        self._clip_norm = clip_norm
        self._learning_rate = 0.0 if learning_rate is None else learning_rate
        self._optimizer: torch.optim.Optimizer | None = None
        if optimizer is not None:
            self._gradient = torch.zeros_like(self._flat.trainable)
            self._weights = nn.Parameter(self._flat.trainable)
            self._optimizer = make_optimizer(optimizer, [self._weights], learning_rate)
        self._keep_fresh()
        self._is_first = True

    @property
    def learning_rate(self) -> float:
        """Of the local optimizer; a plain number without effect where there is none."""
        if self._optimizer is None:
            return self._learning_rate
        return float(self._optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = value
        if self._optimizer is not None:
            self._optimizer.param_groups[0]["lr"] = value

    def gradient(self, batch: Batch, out: Vector) -> Sums:
        """See the contract; the model's own S moves as well."""
        self.manifest.check(out)
        if is_empty(batch):
            self._flat.read(out)
            out[: self.manifest.n_trainable] = 0.0
            return np.zeros(1 + len(self.metric_names))
        sums = self._backward(batch)
        self._flat.read_gradients(out)
        return sums

    def gradient_sum(
        self, batch: Batch, out: Vector, on_ready: OnReady | None, *, adds: bool
    ) -> Sums:
        """See ``EarlyGradient``; the model's own S moves as well."""
        self.manifest.check(out)
        if is_empty(batch):
            self._flat.read_state(out)
            if not adds:
                out[: self.manifest.n_trainable] = 0.0
            return np.zeros(1 + len(self.metric_names))
        with self._flat.gradients_to(out, on_ready or _nobody, adds=adds):
            sums = self._backward(batch, torch.sum)
        self._flat.read_state(out)
        return sums

    def apply_gradient(self, vector: Vector) -> None:
        self.manifest.check(vector)
        optimizer = self._local_optimizer("apply_gradient")
        self._gradient.copy_(tensor_of(vector[: self.manifest.n_trainable]))
        self._step(optimizer)
        self._flat.write_state(vector)

    def train_step(self, batch: Batch) -> Sums:
        optimizer = self._local_optimizer("train_step")
        if is_empty(batch):
            return np.zeros(1 + len(self.metric_names))
        sums = self._backward(batch)
        self._flat.take_gradients(self._gradient)
        self._step(optimizer)
        return sums

    def test_step(self, batch: Batch) -> Sums:
        if is_empty(batch):
            return np.zeros(1 + len(self.metric_names))
        with torch.no_grad(), self._random.use():
            return sums_of(self.measure(*self.tensors(batch), training=False).cpu().numpy())

    def measure(self, x: list[Tensor], labels: list[Tensor], *, training: bool) -> Tensor:
        """Return float32 rows (1 + n_metrics, n_samples), row 0 the loss; see ``tensors``."""
        outputs = self.run(x, training=training)
        n_losses = len(self._losses)
        if not len(outputs) == len(labels) == n_losses:
            raise ModelError(
                f"outputs and labels must be as many as the losses, {n_losses}, got "
                f"{len(outputs)} outputs and {len(labels)} arrays of labels; "
                "give a list with one loss per output"
            )
        if self._is_first:
            for loss, one, output in zip(self._losses, labels, outputs, strict=True):
                if loss in ONE_OF_MANY and one.shape != output.shape and output.ndim > 1:
                    fit_labels(loss, one.shape, output.shape, class_axis=1, either=True)
                    check_classes(one.cpu().numpy(), output.shape[1])
            self._is_first = False
        return rows(self._losses, self._metrics, labels, outputs, self._variational)

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {} if self._optimizer is None else {"optimizer": self._optimizer}

    def _local_optimizer(self, verb: str) -> torch.optim.Optimizer:
        if self._optimizer is None:
            raise ConfigError(
                f"{verb} must have a local optimizer, got none; "
                "name one, for example optimizer='sgd'"
            )
        return self._optimizer

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step along the gradient in the buffer, clipped."""
        self._weights.grad = self._gradient
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_([self._weights], self._clip_norm)
        optimizer.step()

    def _backward(self, batch: Batch, join: Callable[[Tensor], Tensor] = torch.mean) -> Sums:
        with self._training():
            measured = self.measure(*self.tensors(batch), training=True)
            join(measured[0]).backward()  # type: ignore[no-untyped-call]
        return sums_of(measured.detach().cpu().numpy())


def _nobody(start: int, stop: int) -> None:
    """Hears that a part is ready where nobody waits for it."""
