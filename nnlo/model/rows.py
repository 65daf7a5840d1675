"""Gradients and outputs of many weight vectors of one model: one row of a matrix each."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import ModelError
from nnlo.model.adapter import ModelAdapter
from nnlo.model.manifest import Manifest

Matrix = NDArray[np.float32]
"""2-D C-contiguous float32 array, one row for each weight vector."""

LARGE_BATCH = 4096
"""Samples that go through a model at once, those of all rows together."""

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
            batch = (x, y) if shared else (_at(x, row), _at(y, row))
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
        if _n_samples(x, shared) == 0:
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


def check_matrices(
    manifest: Manifest, weights: Matrix, state: Matrix, out: Matrix | None = None
) -> None:
    """Raise ModelError unless the matrices have the shapes that ``Rows`` asks for."""
    n_rows = len(weights)
    matrices = [("weights", weights, manifest.n_trainable), ("state", state, manifest.n_state)]
    if out is not None:
        matrices.append(("out", out, manifest.n_trainable))
    for name, matrix, width in matrices:
        if matrix.shape != (n_rows, width) or matrix.dtype != np.float32:
            raise ModelError(
                f"{name} must be float32 of shape ({n_rows}, {width}), got {matrix.dtype} of "
                f"shape {matrix.shape}; make it by np.empty(({n_rows}, {width}), np.float32)"
            )
        if not matrix.flags.c_contiguous or n_rows == 0:
            raise ModelError(
                f"{name} must be contiguous with one row or more, got shape {matrix.shape} and "
                f"strides {matrix.strides}; copy it by np.ascontiguousarray"
            )


def check_sides(
    x: Any, y: Any, seeds: Sequence[int] | NDArray[np.uint64], n_rows: int, *, shared: bool
) -> None:
    """Raise ModelError unless seeds and, where not shared, arrays have an entry for each row."""
    found = {"seeds": len(seeds)}
    if not shared:
        found |= {f"array {i} of x": len(one) for i, one in enumerate(_listed(x))}
        found |= {f"array {i} of y": len(one) for i, one in enumerate(_listed(y))}
    for name, length in found.items():
        if length != n_rows:
            raise ModelError(
                f"{name} must have an entry for each of the {n_rows} rows, got {length}; "
                "give one for each, or batches with shared=True"
            )


def _has_counters(adapter: ModelAdapter) -> bool:
    """Whether a local state has more than random states, which a seed sets."""
    states = []
    for seed in (1, 2):
        adapter.seed(seed)
        states.append(adapter.local_state())
    names = [name for name in states[0] if name.startswith("local/")]
    return any(np.array_equal(states[0][name], states[1][name]) for name in names)


def _at(side: Any, row: int) -> Any:
    """Return one row's part of a side of a batch."""
    return [one[row] for one in side] if isinstance(side, list | tuple) else side[row]


def _n_samples(x: Any, shared: bool) -> int:
    return int(np.shape(_listed(x)[0])[0 if shared else 1])


def _listed(side: Any) -> list[Any]:
    return list(side) if isinstance(side, list | tuple) else [side]


def taken(side: Sequence[Any], rows: int | slice) -> list[Any]:
    """Return what some rows have of the arrays of a side, shape (P, B, ...) each."""
    return [one[rows] for one in side]


def pieces(n_rows: int, n_samples: int) -> Iterator[slice]:
    """Yield the rows in parts that need no more memory than a large batch of one row."""
    step = max(1, LARGE_BATCH // max(1, n_samples))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def join(function: Callable[[list[Any]], Any], results: list[Any]) -> Any:
    """Join arrays at equal places of equal structures of lists and dictionaries."""
    first = results[0]
    if isinstance(first, dict):
        return {name: join(function, [one[name] for one in results]) for name in first}
    if isinstance(first, list | tuple):
        return [join(function, list(parts)) for parts in zip(*results, strict=True)]
    return function(results)
