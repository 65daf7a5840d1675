"""What the Keras adapter asks of a Keras backend, and where each one is."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnlo.model.adapter import Vector

Arrays = list[NDArray[Any]]
"""One array per input or output of the model."""

Function = Callable[[list[Any], list[Any]], Any]
"""From lists of tensors, of the inputs and the outputs, to one tensor."""

ENGINES = {
    "tensorflow": "nnlo.model.keras_tensorflow",
    "torch": "nnlo.model.keras_torch",
    "jax": "nnlo.model.keras_jax",
}
"""Modules by Keras' name of the backend, with ``make_engine(network) -> Engine`` and
``forget()``, which lets go what the backend keeps of former models."""


class Engine(Protocol):
    """The part of the adapter that differs between Keras' backends.

    x, y: one array per input and per output. Rows: float32 (1 + n_metrics, n_samples).
    """

    def read(self, out: Vector) -> None: ...
    def write(self, vector: Vector) -> None: ...
    def gradient(self, x: Arrays, y: Arrays, out: Vector) -> NDArray[np.float32]: ...
    def step(self, x: Arrays, y: Arrays) -> NDArray[np.float32]: ...
    def apply(self, vector: Vector) -> None:
        """Step along ``vector``, see ``ModelAdapter.apply_gradient``."""

    def evaluate(self, x: Arrays, y: Arrays) -> NDArray[np.float32]: ...
    def run(
        self, function: Function, x: Arrays, y: Arrays, *, training: bool
    ) -> NDArray[np.float32]:
        """Call ``function(x, y)`` with lists of the backend's tensors; it returns one tensor.

        training: whether it differentiates. Compiled where the backend compiles, once per
        ``function.__name__`` and kind of batch. Not on JAX, where it would have to be pure.
        """

    def predict(self, x: Arrays, *, dropout: bool = False) -> Any: ...
    def weigh_kl(self, weight: float) -> None:
        """Set ``kl_weight`` of all variational layers."""

    def seed(self, seed: int) -> None:
        """Start random generators that are no variables of the model."""

    def random_state(self) -> dict[str, NDArray[Any]]: ...
    def load_random_state(self, state: dict[str, NDArray[Any]]) -> None: ...
    def set_local(self, variables: list[Any], values: Arrays) -> None:
        """Assign to some of the network's local variables."""

    def publish(self) -> None:
        """Make the model's and the optimizer's variables hold the engine's values."""

    def reload(self) -> None:
        """Take over values that were written to the variables."""
