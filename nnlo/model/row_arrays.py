"""Matrices of weight vectors, and batches for all of their rows or for each; pure numpy."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import ModelError
from nnlo.model.manifest import Manifest

Matrix = NDArray[np.float32]
"""2-D C-contiguous float32 array, one row for each weight vector."""

LARGE_BATCH = 4096
"""Samples that go through a model at once, those of all rows together."""


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


def at(side: Any, row: int) -> Any:
    """Return one row's part of a side of a batch."""
    return [one[row] for one in side] if isinstance(side, list | tuple) else side[row]


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
