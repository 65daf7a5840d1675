"""Keras on TensorFlow: compiled functions between the flat vector and the model.

XLA stays off: it made small convolutional networks three times slower on CPUs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework import ops

from nnlo.errors import ModelError
from nnlo.model.adapter import Vector
from nnlo.model.engines import Arrays, Function
from nnlo.model.keras_dropout import forced_dropout
from nnlo.model.keras_network import KerasNetwork
from nnlo.model.keras_objective import rows

ALIGNMENT = 64
"""Bytes; of the memory that TensorFlow may read without a copy."""


class TensorFlowEngine:
    """One traced function per kind of batch, with the batch axis left open."""

    def __init__(self, network: KerasNetwork) -> None:
        self._net = network
        self._traced: dict[Any, Any] = {}
        self._aligned: Vector | None = None
        self._applied: Any = None
        sizes = [entry.size for entry in network.manifest.entries]
        variables = [*network.trainable, *network.state]

        def cut(flat: Any) -> list[Any]:
            # a split into one part would hand the caller's own memory to the variable
            parts = tf.split(flat, sizes) if len(sizes) > 1 else [tf.raw_ops.DeepCopy(x=flat)]
            pairs = zip(variables, parts, strict=True)
            return [tf.reshape(part, variable.shape) for variable, part in pairs]

        def assign(flat: Any) -> None:
            for variable, part in zip(variables, cut(flat), strict=True):
                variable.assign(part)

        self._cut = cut
        self._flat = tf.TensorSpec([network.manifest.size], tf.float32)
        self._assign = _compile(assign, [self._flat])
        self._values = _compile(lambda: [one.value for one in variables], [])

    def read(self, out: Vector) -> None:
        self._copy(self._values(), self._net.manifest.split(out))

    def write(self, vector: Vector) -> None:
        self._assign(self._shared(vector))

    def apply(self, vector: Vector) -> None:
        if self._applied is None:
            self._applied = _compile(self._apply, [self._flat])
        self._applied(self._shared(vector))

    def _shared(self, vector: Vector) -> Any:
        """Return a tensor on the memory of ``vector``, or of a copy where that cannot be."""
        # TensorFlow aborts the process on unaligned memory; tf.constant would touch new pages
        # every time, three times slower for 100 MB
        if vector.ctypes.data % ALIGNMENT or not vector.flags.writeable:
            if self._aligned is None:
                self._aligned = _empty_aligned(vector.size)
            np.copyto(self._aligned, vector)
            vector = self._aligned
        return tf.experimental.dlpack.from_dlpack(vector.__dlpack__())

    def gradient(self, x: Arrays, y: Arrays, out: Vector) -> NDArray[np.float32]:
        measured, *values = self._call(self._gradient, x, y)
        self._copy(values, self._net.manifest.split(out))
        return np.asarray(measured)

    def step(self, x: Arrays, y: Arrays) -> NDArray[np.float32]:
        return np.asarray(self._call(self._step, x, y))

    def evaluate(self, x: Arrays, y: Arrays) -> NDArray[np.float32]:
        return np.asarray(self._call(self._evaluate, x, y))

    def run(
        self, function: Function, x: Arrays, y: Arrays, *, training: bool
    ) -> NDArray[np.float32]:
        return np.asarray(self._trace(function, x, y)(*map(tf.constant, [*x, *y])))

    def predict(self, x: Arrays, *, dropout: bool = False) -> Any:
        function = self._predict_dropped if dropout else self._predict
        return tf.nest.map_structure(np.array, self._call(function, x, []))

    def weigh_kl(self, weight: float) -> None:
        for layer in self._net.variational:
            layer.kl_weight.assign(weight)

    def seed(self, seed: int) -> None:
        """Nothing to do: Keras keeps its random states in variables."""

    def random_state(self) -> dict[str, NDArray[Any]]:
        return {}

    def load_random_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Nothing to do, see ``seed``."""

    def set_local(self, variables: list[Any], values: Arrays) -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def publish(self) -> None:
        """Nothing to do: the variables are the values."""

    def reload(self) -> None:
        """Nothing to do, see ``publish``."""

    def _gradient(self, x: list[Any], y: list[Any]) -> list[Any]:
        measured, gradients = self._backward(x, y)
        return [measured, *gradients, *(one.value for one in self._net.state)]

    def _step(self, x: list[Any], y: list[Any]) -> Any:
        measured, gradients = self._backward(x, y)
        self._net.optimizer.apply(gradients, self._net.trainable)  # type: ignore[union-attr]
        return measured

    def _apply(self, flat: Any) -> None:
        parts, n = self._cut(flat), len(self._net.trainable)
        self._net.optimizer.apply(parts[:n], self._net.trainable)  # type: ignore[union-attr]
        for variable, part in zip(self._net.state, parts[n:], strict=True):
            variable.assign(part)

    def _backward(self, x: list[Any], y: list[Any]) -> tuple[Any, list[Any]]:
        sources = [one.value for one in self._net.trainable]
        with tf.GradientTape() as tape:
            measured = self._measure(x, y, training=True)
            loss = tf.reduce_mean(measured[0])
        gradients = tape.gradient(loss, sources, unconnected_gradients="zero")
        return measured, [tf.convert_to_tensor(one) for one in gradients]

    def _evaluate(self, x: list[Any], y: list[Any]) -> Any:
        return self._measure(x, y, training=False)

    def _predict(self, x: list[Any], y: list[Any]) -> Any:
        return self._forward(x, training=False)

    def _predict_dropped(self, x: list[Any], y: list[Any]) -> Any:
        with forced_dropout(self._net.model):
            return self._forward(x, training=False)

    def _forward(self, x: list[Any], *, training: bool) -> Any:
        return self._net.model(x if len(x) > 1 else x[0], training=training)

    def _measure(self, x: list[Any], y: list[Any], *, training: bool) -> Any:
        outputs = tf.nest.flatten(self._forward(x, training=training))
        net = self._net
        return rows(net.losses, net.metrics, y, outputs, net.model.losses, net.divergence())

    def _call(self, function: Function, x: Arrays, y: Arrays) -> Any:
        try:
            traced = self._trace(function, x, y)
        except ValueError as error:
            shapes = ", ".join(str(one.shape) for one in x)
            raise ModelError(
                f"features must fit the model {self._net.model.name!r}, got shapes {shapes}; "
                f"reshape the data or change its first layer ({error})"
            ) from error
        return traced(*map(tf.constant, [*x, *y]))

    def _trace(self, function: Function, x: Arrays, y: Arrays) -> Any:
        arrays = [*x, *y]
        kind = (function.__name__, *((one.shape[1:], one.dtype) for one in arrays))
        traced = self._traced.get(kind)
        if traced is None:
            specifications = [tf.TensorSpec((None, *one.shape[1:]), one.dtype) for one in arrays]

            def flat(*tensors: Any) -> Any:
                return function(list(tensors[: len(x)]), list(tensors[len(x) :]))

            traced = self._traced[kind] = _compile(flat, specifications)
        return traced

    @staticmethod
    def _copy(values: list[Any], views: list[NDArray[np.float32]]) -> None:
        for view, value in zip(views, values, strict=True):
            np.copyto(view, np.asarray(value))


def _empty_aligned(size: int) -> Vector:
    raw = np.empty(4 * size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + 4 * size].view(np.float32)


def _compile(function: Callable[..., Any], specifications: list[Any]) -> Any:
    compiled = tf.function(function, autograph=False, jit_compile=False)
    return compiled.get_concrete_function(*specifications)


def forget() -> None:
    """Let the graphs of former training steps go.

    The all-reduce in ``optimizer.apply``, of one replica here, registers a gradient function in
    every graph, and TensorFlow keeps these, with graph and weights, for ever.
    """
    # no public way to remove one; a graph that exists has been differentiated already
    registered = getattr(getattr(ops, "gradient_registry", None), "_registry", {})
    for name in [one for one in registered if one.startswith("CustomGradient-")]:
        del registered[name]


def make_engine(network: KerasNetwork) -> TensorFlowEngine:
    """Return the engine of this backend."""
    return TensorFlowEngine(network)
