"""Keras on PyTorch: the variables are views of one flat tensor."""

from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
import torch
from keras import ops
from numpy.typing import NDArray

from nnlo.model.adapter import Vector
from nnlo.model.engines import Arrays, Function
from nnlo.model.keras_dropout import forced_dropout
from nnlo.model.keras_network import KerasNetwork
from nnlo.model.keras_objective import rows
from nnlo.model.torch_flat import FlatTensors, OwnRandomState


class TorchEngine:
    """Runs the model eagerly; unseeded dropout draws from torch's own generator."""

    def __init__(self, network: KerasNetwork) -> None:
        self._net = network
        self._flat = FlatTensors(
            [one.value for one in network.trainable], [one.value for one in network.state]
        )
        self._random = OwnRandomState(self._flat.device)

    def read(self, out: Vector) -> None:
        self._flat.read(out)

    def write(self, vector: Vector) -> None:
        self._flat.write(vector)

    def gradient(self, x: Arrays, y: Arrays, out: Vector) -> NDArray[np.float32]:
        with self._random.use():
            measured = self._backward(x, y)
        self._flat.read_gradients(out)
        return measured

    def step(self, x: Arrays, y: Arrays) -> NDArray[np.float32]:
        with self._random.use():
            measured = self._backward(x, y)
            gradients = [one.value.grad for one in self._net.trainable]
            self._step_along(
                [
                    torch.zeros_like(one.value) if gradient is None else gradient
                    for one, gradient in zip(self._net.trainable, gradients, strict=True)
                ]
            )
        self._net.model.zero_grad()
        return measured

    def apply(self, vector: Vector) -> None:
        parts = self._flat.cut(vector)
        self._step_along(parts[: len(self._net.trainable)])
        self._flat.write_state(vector)

    def evaluate(self, x: Arrays, y: Arrays) -> NDArray[np.float32]:
        with torch.no_grad(), self._random.use():
            measured: NDArray[np.float32] = self._measure(x, y, training=False).cpu().numpy()
            return measured

    def run(
        self, function: Function, x: Arrays, y: Arrays, *, training: bool
    ) -> NDArray[np.float32]:
        tensors = ([ops.convert_to_tensor(one) for one in part] for part in (x, y))
        with torch.set_grad_enabled(training), self._random.use():
            result = function(*tensors)
        array: NDArray[np.float32] = result.detach().cpu().numpy()
        return array

    def predict(self, x: Arrays, *, dropout: bool = False) -> Any:
        forced = forced_dropout(self._net.model) if dropout else nullcontext()
        with torch.no_grad(), self._random.use(), forced:
            outputs = self._forward(x, training=False)
        return keras.tree.map_structure(lambda one: one.cpu().numpy().copy(), outputs)

    def weigh_kl(self, weight: float) -> None:
        for layer in self._net.variational:
            layer.kl_weight.assign(weight)

    def seed(self, seed: int) -> None:
        self._random.seed(seed)

    def random_state(self) -> dict[str, NDArray[Any]]:
        return self._random.state()

    def load_random_state(self, state: dict[str, NDArray[Any]]) -> None:
        self._random.load_state(state)

    def set_local(self, variables: list[Any], values: Arrays) -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def publish(self) -> None:
        """Nothing to do: the variables are the values."""

    def reload(self) -> None:
        """Nothing to do, see ``publish``."""

    def _step_along(self, gradients: list[torch.Tensor]) -> None:
        with torch.no_grad():
            self._net.optimizer.apply(  # type: ignore[union-attr]
                gradients, self._net.trainable
            )

    def _backward(self, x: Arrays, y: Arrays) -> NDArray[np.float32]:
        measured = self._measure(x, y, training=True)
        measured[0].mean().backward()
        array: NDArray[np.float32] = measured.detach().cpu().numpy()
        return array

    def _forward(self, x: Arrays, *, training: bool) -> Any:
        tensors = [ops.convert_to_tensor(one) for one in x]
        return self._net.model(tensors if len(tensors) > 1 else tensors[0], training=training)

    def _measure(self, x: Arrays, y: Arrays, *, training: bool) -> Any:
        outputs = keras.tree.flatten(self._forward(x, training=training))
        labels = [ops.convert_to_tensor(one) for one in y]
        net = self._net
        return rows(net.losses, net.metrics, labels, outputs, net.model.losses, net.divergence())


def forget() -> None:
    """Nothing to do: nothing is kept of former models."""


def make_engine(network: KerasNetwork) -> TorchEngine:
    """Return the engine of this backend."""
    return TorchEngine(network)
