"""Batches as lists of arrays that every backend takes, and sums over them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import ModelError
from nnlo.model.adapter import Batch, Sums


def as_arrays(value: Any) -> list[NDArray[Any]]:
    """Return one array per input or output; double precision becomes float32."""
    arrays = [np.asarray(one) for one in (value if isinstance(value, list | tuple) else [value])]
    return [one.astype(np.float32) if one.dtype == np.float64 else one for one in arrays]


def is_empty(batch: Batch) -> bool:
    """Tell whether the batch has no samples; raise ModelError where its arrays differ."""
    lengths = {
        len(one)
        for value in batch
        for one in (value if isinstance(value, list | tuple) else [value])
    }
    if len(lengths) != 1:
        raise ModelError(
            f"features and labels of a batch must have equal length, got {sorted(lengths)}; "
            "let generate_data yield as many labels as features"
        )
    return lengths == {0}


def sums_of(rows: NDArray[np.float32]) -> Sums:
    """Return ``[n, sum of each row]`` for rows of shape (1 + n_metrics, n_samples)."""
    return np.array([rows.shape[1], *rows.sum(axis=1, dtype=np.float64)])
