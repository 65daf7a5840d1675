"""Keras on JAX: pure functions of the flat vector, compiled per shape of batch.

The values live here as JAX arrays; the variables of the model follow on ``publish``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from numpy.typing import NDArray

from nnlo.model.adapter import Vector
from nnlo.model.engines import Arrays
from nnlo.model.keras_dropout import forced_dropout
from nnlo.model.keras_network import KerasNetwork
from nnlo.model.keras_objective import rows


class JaxEngine:
    """Holds T and S as two flat arrays, the local variables and optimizer slots as lists."""

    def __init__(self, network: KerasNetwork) -> None:
        self._net = network
        entries = network.manifest.entries
        self._shapes_t = [entry.shape for entry in entries if entry.kind == "T"]
        self._shapes_s = [entry.shape for entry in entries if entry.kind == "S"]
        self._gradient = jax.jit(self.pure_gradient)
        self._step = jax.jit(self._pure_step)
        self._apply = jax.jit(self._pure_apply)
        self._evaluate = jax.jit(self._pure_evaluate)
        self._forward = jax.jit(self.pure_forward)
        self._forward_dropped = jax.jit(self._pure_dropped)
        self._weights_of_kl = _positions(network)
        self._local: list[Any]
        self._slots: list[Any]
        self.reload()

    @property
    def local(self) -> list[Any]:
        """The present values of the network's local variables."""
        return self._local

    def read(self, out: Vector) -> None:
        n = self._net.manifest.n_trainable
        out[:n] = self._t
        out[n:] = self._s

    def write(self, vector: Vector) -> None:
        n = self._net.manifest.n_trainable
        # jnp.asarray might keep the caller's memory
        self._t = jnp.array(vector[:n], copy=True)
        self._s = jnp.array(vector[n:], copy=True)

    def gradient(self, x: Arrays, y: Arrays, out: Vector) -> NDArray[np.float32]:
        n = self._net.manifest.n_trainable
        gradient, measured, self._s, self._local = self._gradient(
            self._t, self._s, self._local, x, y
        )
        out[:n] = gradient
        out[n:] = self._s
        return np.asarray(measured)

    def step(self, x: Arrays, y: Arrays) -> NDArray[np.float32]:
        self._t, self._slots, measured, self._s, self._local = self._step(
            self._t, self._slots, self._s, self._local, x, y
        )
        return np.asarray(measured)

    def apply(self, vector: Vector) -> None:
        n = self._net.manifest.n_trainable
        gradient = jnp.array(vector[:n], copy=True)  # the call may still run when we return
        self._t, self._slots = self._apply(self._t, self._slots, gradient)
        self._s = jnp.array(vector[n:], copy=True)

    def evaluate(self, x: Arrays, y: Arrays) -> NDArray[np.float32]:
        return np.asarray(self._evaluate(self._t, self._s, self._local, x, y))

    def predict(self, x: Arrays, *, dropout: bool = False) -> Any:
        forward = self._forward_dropped if dropout else self._forward
        return jax.tree.map(np.array, forward(self._t, self._s, self._local, x))

    def weigh_kl(self, weight: float) -> None:
        # not through the variables: writing all of them costs more than a step
        for position in self._weights_of_kl:
            self._s = self._s.at[position].set(weight)

    def seed(self, seed: int) -> None:
        """Nothing to do: Keras keeps its random states in variables."""

    def random_state(self) -> dict[str, NDArray[Any]]:
        return {}

    def load_random_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Nothing to do, see ``seed``."""

    def set_local(self, variables: list[Any], values: Arrays) -> None:
        places = {id(one): index for index, one in enumerate(self._net.local)}
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
            self._local[places[id(variable)]] = variable.value

    def publish(self) -> None:
        pairs = [
            *zip(self._net.trainable, _cut(self._t, self._shapes_t), strict=True),
            *zip(self._net.state, _cut(self._s, self._shapes_s), strict=True),
            *zip(self._net.local, self._local, strict=True),
            *zip(self._slot_variables(), self._slots, strict=True),
        ]
        for variable, value in pairs:
            variable.assign(value)

    def reload(self) -> None:
        self._t = _join([one.value for one in self._net.trainable])
        self._s = _join([one.value for one in self._net.state])
        self._local = [one.value for one in self._net.local]
        self._slots = [one.value for one in self._slot_variables()]

    def _slot_variables(self) -> list[Any]:
        return [] if self._net.optimizer is None else self._net.optimizer.variables

    def _call(
        self, t: list[Any], s: Any, local: list[Any], x: list[Any], *, training: bool
    ) -> tuple[Any, Any, list[Any], list[Any]]:
        """Return (outputs, new S, new local values, regularisation losses)."""
        model = self._net.model
        given = {id(one): value for one, value in self._pairs(t, s, local)}
        outputs, moved, losses = model.stateless_call(
            [given[id(one)] for one in model.trainable_variables],
            [given[id(one)] for one in model.non_trainable_variables],
            x if len(x) > 1 else x[0],
            training=training,
            return_losses=True,
        )
        after = dict(zip(map(id, model.non_trainable_variables), moved, strict=True))
        new_s = _join([after[id(one)] for one in self._net.state])
        return outputs, new_s, [after[id(one)] for one in self._net.local], losses

    def _pairs(self, t: list[Any], s: Any, local: list[Any]) -> list[tuple[Any, Any]]:
        variables = [*self._net.trainable, *self._net.state, *self._net.local]
        return list(zip(variables, [*t, *_cut(s, self._shapes_s), *local], strict=True))

    def _divergence(self, t: list[Any], s: Any, local: list[Any]) -> Any:
        if not self._net.variational:
            return None
        with keras.StatelessScope(state_mapping=self._pairs(t, s, local)):
            return self._net.divergence()

    def _measure(
        self, t: Any, s: Any, local: Any, x: Any, y: Any, *, training: bool
    ) -> tuple[Any, Any]:
        parts = _cut(t, self._shapes_t)
        outputs, s, local, losses = self._call(parts, s, local, x, training=training)
        leaves = jax.tree.leaves(outputs)
        divergence = self._divergence(parts, s, local)
        measured = rows(self._net.losses, self._net.metrics, y, leaves, losses, divergence)
        return jnp.mean(measured[0]), (measured, s, local)

    def pure_gradient(self, t: Any, s: Any, local: Any, x: Any, y: Any) -> Any:
        """Return (d(mean loss)/dT, rows, new S, new local values) as JAX functions do."""

        def loss(t: Any) -> Any:
            return self._measure(t, s, local, x, y, training=True)

        (_, (measured, s, local)), gradient = jax.value_and_grad(loss, has_aux=True)(t)
        return gradient, measured, s, local

    def _pure_step(self, t: Any, slots: Any, s: Any, local: Any, x: Any, y: Any) -> Any:
        gradient, measured, s, local = self.pure_gradient(t, s, local, x, y)
        return *self._pure_apply(t, slots, gradient), measured, s, local

    def _pure_apply(self, t: Any, slots: Any, gradient: Any) -> tuple[Any, Any]:
        parts, slots = self._net.optimizer.stateless_apply(  # type: ignore[union-attr]
            slots, _cut(gradient, self._shapes_t), _cut(t, self._shapes_t)
        )
        return _join(parts), slots

    def _pure_evaluate(self, t: Any, s: Any, local: Any, x: Any, y: Any) -> Any:
        return self._measure(t, s, local, x, y, training=False)[1][0]

    def pure_forward(self, t: Any, s: Any, local: Any, x: Any) -> Any:
        """Return the outputs in inference mode."""
        return self._call(_cut(t, self._shapes_t), s, local, x, training=False)[0]

    def _pure_dropped(self, t: Any, s: Any, local: Any, x: Any) -> Any:
        with forced_dropout(self._net.model):
            return self.pure_forward(t, s, local, x)


def _positions(network: KerasNetwork) -> list[int]:
    """Where in S the variational layers' kl_weight are."""
    weights = {id(layer.kl_weight) for layer in network.variational}
    state = [one for one in network.manifest.entries if one.kind == "S"]
    return [
        entry.offset - network.manifest.n_trainable
        for entry, variable in zip(state, network.state, strict=True)
        if id(variable) in weights
    ]


def _cut(flat: Any, shapes: list[tuple[int, ...]]) -> list[Any]:
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])
    parts = jnp.split(flat, ends[:-1]) if shapes else []
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _join(values: list[Any]) -> Any:
    return jnp.concatenate([one.ravel() for one in values]) if values else jnp.zeros(0)


def forget() -> None:
    """Nothing to do: nothing is kept of former models."""


def make_engine(network: KerasNetwork) -> JaxEngine:
    """Return the engine of this backend."""
    return JaxEngine(network)
