"""What the adapters of torch modules share: weights as views of one flat vector, local state."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nnlo.errors import ConfigError, ModelError
from nnlo.files import write_atomic
from nnlo.model.adapter import NO_DROPOUT, Batch, Vector
from nnlo.model.batch import as_arrays
from nnlo.model.torch_dropout import dropout_modules, forced_dropout
from nnlo.model.torch_flat import FlatTensors, OwnRandomState, tensor_of
from nnlo.model.torch_network import (
    Buffer,
    describe,
    is_lazy,
    load_optimizer_state,
    optimizer_state,
    sort_networks,
    variational_layers,
)


class TorchVector:
    """A torch module as the vector of ``ModelAdapter``, without the training.

    networks: parts of ``model`` that hold all its weights; one segment of the vector each.
    predictor: the module that ``predict`` calls. ``example``: a batch that materialises lazy
    layers. ``device``: a GPU by default, if there is one.
    """

    suffix = ".pt"

    def __init__(
        self,
        model: nn.Module,
        networks: Mapping[str, nn.Module],
        predictor: nn.Module,
        *,
        example: Batch | None,
        device: str | None,
    ) -> None:
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._module = model.to(self._device)
        self._networks = networks
        self._predictor = predictor
        if example is not None and is_lazy(model):
            with torch.no_grad():
                self._forward(example[0], training=False)
        self._variational = variational_layers(model)
        found = sort_networks(model, networks)
        self.manifest = found.manifest
        self._counters = found.counters
        self._flat = FlatTensors(found.trainable, found.state)
        self._bound = [(one, one.tensor) for one in found.moving]
        self._random = OwnRandomState(self._device)

    @property
    def model(self) -> nn.Module:
        """The module with the present weights; write to it through ``set_flat`` only."""
        return self._module

    def get_flat(self, out: Vector) -> None:
        self.manifest.check(out)
        self._flat.read(out)

    def set_flat(self, vector: Vector) -> None:
        self.manifest.check(vector)
        self._flat.write(vector)

    @property
    def has_dropout(self) -> bool:
        return bool(dropout_modules(self._predictor))

    def predict(self, x: Any, *, dropout: bool = False) -> Any:
        if dropout and not self.has_dropout:
            raise ModelError(NO_DROPOUT)
        self._set_training(False)
        forced = forced_dropout(self._predictor) if dropout else nullcontext()
        with torch.no_grad(), self._random.use(), forced:
            outputs = self._outputs(self._features(x))
        arrays = [one.cpu().numpy().copy() for one in outputs]
        return arrays if len(arrays) > 1 else arrays[0]

    @property
    def counters(self) -> list[Buffer]:
        """The integer buffers, which are in no vector."""
        return self._counters

    def tensors(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Return the sides of a batch as the module and its losses take them."""
        return self._features(batch[0]), self._labels(batch[1])

    def run(self, x: list[Tensor], *, training: bool) -> list[Tensor]:
        """Return what the module makes of its inputs, see ``tensors``."""
        self._set_training(training)
        return self._outputs(x)

    @property
    def is_variational(self) -> bool:
        return bool(self._variational)

    def weigh_kl(self, weight: float) -> None:
        for layer in self._variational:
            layer.kl_weight.fill_(weight)

    def seed(self, seed: int) -> None:
        self._random.seed(seed)

    def local_state(self) -> dict[str, NDArray[Any]]:
        state = {f"local/{one.name}": one.tensor.cpu().numpy().copy() for one in self._counters}
        for prefix, optimizer in self._optimizers().items():
            slots = optimizer_state(optimizer)
            state |= {f"{prefix}/{name}": value for name, value in slots.items()}
        return state | self._random.state()

    def reset_optimizer(self) -> None:
        for name, optimizer in self._optimizers().items():
            fresh = copy.deepcopy(self._fresh[name])  # torch may keep what it loads
            optimizer.load_state_dict(optimizer.state_dict() | {"state": fresh})

    def _keep_fresh(self) -> None:
        """Remember the optimizers as they are now, mostly empty, for ``reset_optimizer``."""
        self._fresh = {
            name: copy.deepcopy(one.state_dict()["state"])
            for name, one in self._optimizers().items()
        }

    def load_local_state(self, state: dict[str, NDArray[Any]]) -> None:
        for one in self._counters:
            if f"local/{one.name}" not in state:
                raise ModelError(
                    f"a local state must hold every integer buffer of the model, got none for "
                    f"{one.name!r}; load it into an equal model"
                )
            one.tensor.copy_(torch.from_numpy(np.array(state[f"local/{one.name}"])))
        self._random.load_state(state)
        for prefix, optimizer in self._optimizers().items():
            slots = {
                name.removeprefix(f"{prefix}/"): value
                for name, value in state.items()
                if name.startswith(f"{prefix}/")
            }
            load_optimizer_state(optimizer, slots)

    def save(self, path: Path) -> list[Path]:
        """Write each ``state_dict`` for ``torch.load(path, weights_only=True)``; at once."""
        if path.suffix != self.suffix:
            raise ConfigError(f"a torch model must go to a .pt file, got {path}; rename it")
        files = {path: self._module}
        if len(self._networks) > 1:
            for name, network in self._networks.items():
                files[path.with_stem(f"{path.stem}-{name}")] = network
        for file, module in files.items():
            write_atomic(file, partial(torch.save, _weights(module)))
        return list(files)

    def summary(self) -> str:
        total = f"{self.manifest.n_trainable:,} trainable, {self.manifest.n_state:,} state"
        total += f", {4 * self.manifest.size:,} bytes"
        return "\n".join([*describe(self._module), total])

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The local optimizers by the names they have in the local state."""
        raise NotImplementedError

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Draw from the own random state; keep the buffers that layers replaced in the vector."""
        with self._random.use():
            yield
        with torch.no_grad():
            for buffer, tensor in self._bound:
                buffer.bind(tensor)

    def _set_training(self, training: bool) -> None:
        if self._module.training != training:
            self._module.train(training)

    def _forward(self, x: Any, *, training: bool) -> list[Tensor]:
        return self.run(self._features(x), training=training)

    def _outputs(self, x: list[Tensor]) -> list[Tensor]:
        outputs = self._predictor(*x)
        return list(outputs) if isinstance(outputs, list | tuple) else [outputs]

    def _features(self, x: Any) -> list[Tensor]:
        return [self._tensor(one, np.float32) for one in as_arrays(x)]

    def _labels(self, y: Any) -> list[Tensor]:
        return [self._tensor(one, np.int64) for one in as_arrays(y)]

    def _tensor(self, array: NDArray[Any], byte_type: type) -> Tensor:
        is_byte = array.dtype == np.uint8
        integer = byte_type if is_byte else np.int64
        wanted = integer if array.dtype.kind in "iu" else np.float32
        return tensor_of(np.ascontiguousarray(array, dtype=wanted)).to(self._device)


def _weights(module: nn.Module) -> dict[str, Any]:
    # clones, because a view would take the whole buffer along into the file
    return {
        name: one.cpu().clone() if isinstance(one, Tensor) else one
        for name, one in module.state_dict().items()
    }
