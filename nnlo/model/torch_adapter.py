"""The adapter of native PyTorch modules: parameters are views of the flat vector."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nnlo.errors import ConfigError, ModelError
from nnlo.files import write_atomic
from nnlo.model.adapter import Batch, Sums, Vector
from nnlo.model.batch import as_arrays, is_empty, sums_of
from nnlo.model.fit import ONE_OF_MANY, check_classes, fit_labels
from nnlo.model.losses import Loss, plan
from nnlo.model.manifest import Manifest
from nnlo.model.torch_flat import FlatTensors, OwnRandomState
from nnlo.model.torch_network import (
    describe,
    is_lazy,
    make_optimizer,
    parameters,
    persistent_buffers,
)
from nnlo.model.torch_objective import rows


class TorchAdapter:
    """A torch module after the contract of ``ModelAdapter``.

    The module gets its inputs as positional arguments and returns a tensor or a tuple of
    tensors (then ``loss`` is a list of as many). Floats and uint8 features arrive as float32,
    other integers as int64. ``loss``, ``metrics``: see ``losses``. ``optimizer``: see
    ``torch_network.make_optimizer``; None for gradient mode. ``clip_norm``: largest norm of
    the local gradient. ``example``: a batch that materialises lazy layers. ``device``: a GPU
    by default, if there is one.
    """

    suffix = ".pt"

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
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._module = model.to(self._device)
        if example is not None and is_lazy(model):
            with torch.no_grad():
                self._forward(example[0], training=False)
        trainable = parameters(model, trainable=True)
        buffers = persistent_buffers(model)
        moving = [one for one in buffers if one.tensor.is_floating_point()]
        self._counters = [one for one in buffers if not one.tensor.is_floating_point()]
        state = parameters(model, trainable=False) | {one.name: one.tensor for one in moving}
        self.manifest = Manifest.pack(
            [(name, one.shape) for name, one in trainable.items()],
            [(name, one.shape) for name, one in state.items()],
        )
        self._flat = FlatTensors([*trainable.values()], [*state.values()])
        self._bound = [(one, one.tensor) for one in moving]
        self._random = OwnRandomState(self._device)
        self._clip_norm = clip_norm
        self._learning_rate = 0.0 if learning_rate is None else learning_rate
        self._optimizer: torch.optim.Optimizer | None = None
        if optimizer is not None:
            self._gradient = torch.zeros_like(self._flat.trainable)
            self._weights = nn.Parameter(self._flat.trainable)
            self._optimizer = make_optimizer(optimizer, self._weights, learning_rate)
        self._is_first = True

    @property
    def model(self) -> nn.Module:
        """The module with the present weights; write to it through ``set_flat`` only."""
        return self._module

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

    def get_flat(self, out: Vector) -> None:
        self.manifest.check(out)
        self._flat.read(out)

    def set_flat(self, vector: Vector) -> None:
        self.manifest.check(vector)
        self._flat.write(vector)

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

    def train_step(self, batch: Batch) -> Sums:
        if self._optimizer is None:
            raise ConfigError(
                "train_step must have a local optimizer, got none; "
                "name one, for example optimizer='sgd'"
            )
        if is_empty(batch):
            return np.zeros(1 + len(self.metric_names))
        sums = self._backward(batch)
        self._flat.take_gradients(self._gradient)
        self._weights.grad = self._gradient
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_([self._weights], self._clip_norm)
        self._optimizer.step()
        return sums

    def test_step(self, batch: Batch) -> Sums:
        if is_empty(batch):
            return np.zeros(1 + len(self.metric_names))
        with torch.no_grad(), self._random.use():
            return sums_of(self._measure(batch, training=False).cpu().numpy())

    def predict(self, x: Any) -> Any:
        with torch.no_grad(), self._random.use():
            outputs = self._forward(x, training=False)
        arrays = [one.cpu().numpy().copy() for one in outputs]
        return arrays if len(arrays) > 1 else arrays[0]

    def seed(self, seed: int) -> None:
        self._random.seed(seed)

    def local_state(self) -> dict[str, NDArray[Any]]:
        state = {f"local/{one.name}": one.tensor.cpu().numpy().copy() for one in self._counters}
        if self._optimizer is not None:
            for name, value in self._optimizer.state[self._weights].items():
                if value is not None:
                    state[f"optimizer/{name}"] = torch.as_tensor(value).cpu().numpy().copy()
            state["optimizer/learning_rate"] = np.array(self.learning_rate)
        return state | self._random.state()

    def load_local_state(self, state: dict[str, NDArray[Any]]) -> None:
        for one in self._counters:
            if f"local/{one.name}" not in state:
                raise ModelError(
                    f"a local state must hold every integer buffer of the model, got none for "
                    f"{one.name!r}; load it into an equal model"
                )
            one.tensor.copy_(torch.from_numpy(np.array(state[f"local/{one.name}"])))
        self._random.load_state(state)
        if self._optimizer is None:
            return
        prefix = "optimizer/"
        slots = {
            key.removeprefix(prefix): torch.from_numpy(np.array(value))
            for key, value in state.items()
            if key.startswith(prefix)
        }
        self.learning_rate = float(slots.pop("learning_rate", torch.tensor(self.learning_rate)))
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict(
            {"state": {0: slots} if slots else {}, "param_groups": groups}
        )

    def save(self, path: Path) -> None:
        """Write the ``state_dict``, for ``torch.load(path, weights_only=True)``; at once."""
        if path.suffix != self.suffix:
            raise ConfigError(f"a torch model must go to a .pt file, got {path}; rename it")
        # clones, because a view would take the whole buffer along into the file
        weights = {
            name: one.cpu().clone() if isinstance(one, Tensor) else one
            for name, one in self._module.state_dict().items()
        }
        write_atomic(path, lambda stream: torch.save(weights, stream))

    def summary(self) -> str:
        total = f"{self.manifest.n_trainable:,} trainable, {self.manifest.n_state:,} state"
        total += f", {4 * self.manifest.size:,} bytes"
        return "\n".join([*describe(self._module), total])

    def _backward(self, batch: Batch) -> Sums:
        with self._random.use():
            measured = self._measure(batch, training=True)
            measured[0].mean().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for buffer, tensor in self._bound:  # layers may put a new tensor in place
                buffer.bind(tensor)
        return sums_of(measured.detach().cpu().numpy())

    def _measure(self, batch: Batch, *, training: bool) -> Tensor:
        outputs = self._forward(batch[0], training=training)
        labels = [self._tensor(one, np.int64) for one in as_arrays(batch[1])]
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
        return rows(self._losses, self._metrics, labels, outputs)

    def _forward(self, x: Any, *, training: bool) -> list[Tensor]:
        if self._module.training != training:
            self._module.train(training)
        outputs = self._module(*(self._tensor(one, np.float32) for one in as_arrays(x)))
        return list(outputs) if isinstance(outputs, list | tuple) else [outputs]

    def _tensor(self, array: NDArray[Any], byte_type: type) -> Tensor:
        is_byte = array.dtype == np.uint8
        integer = byte_type if is_byte else np.int64
        wanted = integer if array.dtype.kind in "iu" else np.float32
        array = np.ascontiguousarray(array, dtype=wanted)
        if not array.flags.writeable:  # torch.from_numpy warns although we only read
            array = array.copy()
        return torch.from_numpy(array).to(self._device)
