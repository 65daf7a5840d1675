"""Gradients and outputs of many weight vectors of one model: one row of a matrix each."""

import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import ModelError
from nnlo.model.adapter import ModelAdapter
from nnlo.model.batch import is_empty
from nnlo.model.manifest import Manifest
from nnlo.model.row_arrays import Matrix, at, check_matrices, check_sides, join

BUSY = 32_000
"""Floating-point operations per sample and weight tensor of a forward pass that keep a core busy
with one row.

Beyond, on a CPU, stacked matrix products cost more than the calls they save, and stacked
convolutions up to three times as much as single ones (x86, torch 2.13 and JAX 0.10).
"""

BUSY_ALONE = "its layers are large enough to keep a core busy with one row"


class Rows(Protocol):
    """One model at P weight vectors; what a row yields does not depend on the other rows.

    Equal to the adapter's own results with that vector, up to rounding.
    """

    manifest: Manifest
    metric_names: tuple[str, ...]  # as ModelAdapter's: names of the sums after n_samples

    @property
    def is_batched(self) -> bool:
        """Whether the rows are computed at once (vmap); final after the first gradients."""

    @property
    def reason(self) -> str:
        """Why the rows are computed one after the other; "" where they are not."""

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
        """Write d(mean loss of the row's batch)/dT of each row to ``out``; return their Sums.

        weights: (P, n_trainable), only read. state: (P, n_state), moved in place by the
        training step (BatchNorm). out: (P, n_trainable), no part of ``weights``.
        x, y: as the sides of a Batch; each array (B, ...), the same for all rows, where
        ``shared``, else (P, B, ...). Without samples the gradient is 0.
        seeds: (P,), of what each row draws in this step (dropout, noise of layers).
        Returned: (P, 1 + len(metric_names)), ``n, sum of loss, ...`` of each row.
        Raise ModelError for other shapes.
        """

    def outputs(self, weights: Matrix, state: Matrix, x: Any) -> Any:
        """Return what ``ModelAdapter.predict`` does with a first axis for the rows.

        weights, state: as in ``gradients``, only read. x: each array (n, ...), the same for
        all rows. Each array of the result: (P, n, ...).
        """


class Batched(Protocol):
    """The rows of a backend at once; whoever calls has checked the shapes."""

    least: int  # rows from which this is faster than the adapter's own verbs

    def hindrance(self, weights: Matrix, state: Matrix, x: Any, y: Any, *, shared: bool) -> str:
        """Say why these rows cannot be computed at once, or should not; "" if they can.

        Arguments as of ``Rows.gradients``, only read; y: None for ``outputs``. Raise ModelError
        for a batch that does not fit the model.
        """

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

    def outputs(self, weights: Matrix, state: Matrix, x: Any) -> Any:
        """See ``Rows``."""


class LoopRows:
    """The rows of any adapter, one after the other through its own verbs.

    The adapter belongs to this object: its weights change with every call.
    ``reason``: why not at once.
    """

    is_batched = False

    def __init__(self, adapter: ModelAdapter, reason: str) -> None:
        if not adapter.has_gradient:
            raise ModelError(
                "a model of many weight vectors must be trained by a loss, got one with its own "
                "train_step; take that out, and name a loss"
            )
        self.manifest = adapter.manifest
        self.metric_names = adapter.metric_names
        self.reason = reason
        self._adapter = adapter
        self._vector = np.empty(adapter.manifest.size, np.float32)
        self._result = np.empty_like(self._vector)
        self._counts = _has_counters(adapter)

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
        check_matrices(self.manifest, weights, state, out)
        check_sides(x, y, seeds, len(weights), shared=shared)
        n = self.manifest.n_trainable
        sums = np.empty((len(weights), 1 + len(self.metric_names)))
        # counters (batches seen) are no part of the vector: each row starts from the same ones
        before = self._adapter.local_state() if self._counts else {}
        for row, seed in enumerate(seeds):
            self._take(weights[row], state[row])
            if row and before:
                self._adapter.load_local_state(before)
            self._adapter.seed(int(seed))
            batch = (x, y) if shared else (at(x, row), at(y, row))
            sums[row] = self._adapter.gradient(batch, self._result)
            out[row] = self._result[:n]
            state[row] = self._result[n:]
        return sums

    def outputs(self, weights: Matrix, state: Matrix, x: Any) -> Any:
        """See ``Rows``."""
        check_matrices(self.manifest, weights, state)
        results = []
        for row in range(len(weights)):
            self._take(weights[row], state[row])
            results.append(self._adapter.predict(x))
        return join(np.stack, results)

    def _take(self, weights: NDArray[np.float32], state: NDArray[np.float32]) -> None:
        n = self.manifest.n_trainable
        self._vector[:n] = weights
        self._vector[n:] = state
        self._adapter.set_flat(self._vector)


class TriedRows:
    """The rows at once where that can be done and pays, else one after the other.

    Which of them is decided at the first gradients of several rows, and at the first outputs,
    from the model and the shapes: all ranks and runs decide alike. ``reason``: of ``gradients``.
    """

    def __init__(self, batched: Batched, loop: LoopRows) -> None:
        self.manifest = loop.manifest
        self.metric_names = loop.metric_names
        self._batched = batched
        self._loop = loop
        self._reasons: dict[str, str] = {}

    @property
    def is_batched(self) -> bool:
        """See ``Rows``; True before the first gradients."""
        return not self.reason

    @property
    def reason(self) -> str:
        """See ``Rows``."""
        return self._reasons.get("gradients", "")

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
        check_matrices(self.manifest, weights, state, out)
        check_sides(x, y, seeds, len(weights), shared=shared)
        if is_empty((x, y) if shared else (at(x, 0), at(y, 0))):
            out[:] = 0.0
            return np.zeros((len(weights), 1 + len(self.metric_names)))
        chosen = self._choose("gradients", weights, state, x, y, shared=shared)
        return chosen.gradients(weights, state, x, y, out, seeds, shared=shared)

    def outputs(self, weights: Matrix, state: Matrix, x: Any) -> Any:
        """See ``Rows``."""
        check_matrices(self.manifest, weights, state)
        chosen = self._choose("outputs", weights, state, x, None, shared=True)
        return chosen.outputs(weights, state, x)

    def _choose(
        self, verb: str, weights: Matrix, state: Matrix, x: Any, y: Any, *, shared: bool
    ) -> "Batched | LoopRows":
        if len(weights) < self._batched.least:
            return self._loop
        if verb not in self._reasons:
            self._reasons[verb] = self._batched.hindrance(weights, state, x, y, shared=shared)
        return self._loop if self._reasons[verb] else self._batched


def make_rows(adapter: ModelAdapter) -> Rows:
    """Return the rows of the adapter's model, which belongs to them from now on.

    Raise ModelError for a model with its own ``train_step``.
    """
    batched = _batched(adapter)
    if batched is None:
        return LoopRows(adapter, "only torch modules and Keras on JAX have another way")
    return TriedRows(batched, LoopRows(adapter, ""))


def _batched(adapter: ModelAdapter) -> Batched | None:
    # an adapter of a backend can only exist where its file is imported
    torch_adapter = sys.modules.get("nnlo.model.torch_adapter")
    if torch_adapter is not None and isinstance(adapter, torch_adapter.TorchAdapter):
        from nnlo.model.torch_rows import TorchRows

        return TorchRows(adapter)
    keras_adapter = sys.modules.get("nnlo.model.keras_adapter")
    keras_jax = sys.modules.get("nnlo.model.keras_jax")
    if keras_adapter is not None and isinstance(adapter, keras_adapter.KerasAdapter):
        if keras_jax is not None and isinstance(adapter.engine, keras_jax.JaxEngine):
            from nnlo.model.keras_jax_rows import KerasJaxRows

            return KerasJaxRows(adapter)
    return None


def _has_counters(adapter: ModelAdapter) -> bool:
    """Whether a local state has more than random states, which a seed sets."""
    states = []
    for seed in (1, 2):
        adapter.seed(seed)
        states.append(adapter.local_state())
    names = [name for name in states[0] if name.startswith("local/")]
    return any(np.array_equal(states[0][name], states[1][name]) for name in names)
