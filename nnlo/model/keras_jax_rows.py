"""Many weight vectors of one Keras model on JAX at once: vmap over the rows of their matrix.

What a row draws (dropout, noise of layers) is a function of its seed alone: each row has its own
states of Keras' seed generators, the same as ``ModelAdapter.seed`` sets.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from nnlo.model.batch import as_arrays
from nnlo.model.engines import Arrays
from nnlo.model.keras_adapter import KerasAdapter
from nnlo.model.keras_jax import JaxEngine
from nnlo.model.keras_network import seed_variables
from nnlo.model.keras_vector import seed_states
from nnlo.model.row_arrays import Matrix, join, pieces, taken
from nnlo.model.rows import BUSY, BUSY_ALONE

FAILURES = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)
"""What JAX raises where vmap cannot go."""


class KerasJaxRows:
    """See ``Batched``."""

    least = 1

    def __init__(self, adapter: KerasAdapter) -> None:
        engine = adapter.engine
        assert isinstance(engine, JaxEngine)  # make_rows has looked
        self._adapter = adapter
        self._engine = engine
        self._seeds = seed_variables(adapter.network.model)
        axes = {True: (0, 0, 0, None, None), False: (0, 0, 0, 0, 0)}
        self._gradients = {
            shared: jax.jit(jax.vmap(engine.pure_gradient, in_axes=axes[shared]))
            for shared in axes
        }
        self._outputs = jax.jit(jax.vmap(engine.pure_forward, in_axes=(0, 0, None, None)))
        self._forward = jax.jit(engine.pure_forward)

    def hindrance(self, weights: Matrix, state: Matrix, x: Any, y: Any, *, shared: bool) -> str:
        """See ``Batched``."""
        side, labels = as_arrays(x), None if y is None else as_arrays(y)
        one = side if shared else taken(side, 0)
        if labels is not None:  # what does not fit is told here
            self._adapter.prepared((one, labels if shared else taken(labels, 0)))
        if jax.default_backend() == "cpu" and self._work(weights[0], state[0], one) > BUSY:
            return BUSY_ALONE
        two = slice(0, 2)
        try:
            if labels is None:
                local = self._engine.local
                jax.eval_shape(self._outputs, weights[two], state[two], local, side)
            else:
                local = self._local(range(len(weights[two])))
                own = (side, labels) if shared else (taken(side, two), taken(labels, two))
                gradients = self._gradients[shared]
                jax.eval_shape(gradients, weights[two], state[two], local, *own)
        except FAILURES as error:
            return f"jax.vmap refuses an operation of its model: {str(error).splitlines()[0]}"
        return ""

    def gradients(
        self,
        weights: Matrix,
        state: Matrix,
        x: Any,
        y: Any,
        out: Matrix,
        seeds: Sequence[int] | NDArray[np.uint64],
        *,
        shared: bool,
    ) -> NDArray[np.float64]:
        """See ``Rows``."""
        sides = as_arrays(x), as_arrays(y)
        n_samples = sides[0][0].shape[0 if shared else 1]
        sums = np.empty((len(weights), 1 + len(self._adapter.metric_names)))
        sums[:, 0] = n_samples
        local: list[Any] = []
        for part in pieces(len(weights), n_samples):
            own = sides if shared else (taken(sides[0], part), taken(sides[1], part))
            gradient, measured, moved, local = self._gradients[shared](
                weights[part], state[part], self._local(seeds[part]), *own
            )
            out[part] = gradient
            state[part] = moved
            sums[part, 1:] = np.asarray(measured).sum(axis=2, dtype=np.float64)
        self._engine.set_local(self._adapter.network.local, [np.asarray(one[0]) for one in local])
        return sums

    def outputs(self, weights: Matrix, state: Matrix, x: Any) -> Any:
        """See ``Rows``."""
        side = as_arrays(x)
        found = [
            jax.tree.map(
                np.array, self._outputs(weights[part], state[part], self._engine.local, side)
            )
            for part in pieces(len(weights), len(side[0]))
        ]
        return join(np.concatenate, found)

    def _local(self, seeds: Sequence[int] | NDArray[np.uint64]) -> list[Any]:
        """Return the local variables with a first axis for the rows."""
        states = [seed_states(int(one), len(self._seeds))[0] for one in seeds]
        own = {
            id(one): np.stack(each)
            for one, each in zip(self._seeds, zip(*states, strict=True), strict=True)
        }
        pairs = zip(self._adapter.network.local, self._engine.local, strict=True)
        return [
            own[id(variable)]
            if id(variable) in own
            else np.broadcast_to(np.asarray(value), (len(seeds), *np.shape(value)))
            for variable, value in pairs
        ]

    def _work(self, weights: NDArray[np.float32], state: NDArray[np.float32], x: Arrays) -> float:
        """Operations of a forward pass of one row, per sample and weight tensor."""
        cost = self._forward.lower(weights, state, self._engine.local, x).cost_analysis() or {}
        return float(cost.get("flops", 0.0) / (len(x[0]) * len(self._adapter.network.trainable)))
