"""One side of a batch, x or y: an array with samples along axis 0, or a list of them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import DataError


def each(function: Callable[[Any], Any], side: Any) -> Any:
    """Apply ``function`` to the array, or to each array of the list."""
    if isinstance(side, list | tuple):
        return [function(array) for array in side]
    return function(side)


def taken(side: Any, rows: NDArray[np.int64]) -> Any:
    """Copy the chosen rows."""
    return each(lambda array: array.take(rows, axis=0), side)


def joined(parts: Sequence[Any]) -> Any:
    """Put sides of equal form one behind the other along axis 0."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], list):
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    return np.concatenate(parts)


def common_length(x: Any, y: Any, where: str) -> int:
    """Return the number of samples; raises DataError where x and y don't agree on it."""
    features, labels = (
        [len(array) for array in (side if isinstance(side, list | tuple) else [side])]
        for side in (x, y)
    )
    lengths = {*features, *labels}
    if len(lengths) != 1:
        raise DataError(
            "features and labels must have equal length, got "
            f"{_words(features)} and {_words(labels)} in {where}; correct the data"
        )
    return lengths.pop()


def as_features(array: NDArray[Any]) -> NDArray[np.float32]:
    """The array as float32; no copy if it is so already."""
    return array.astype(np.float32, copy=False)


def as_labels(array: NDArray[Any]) -> NDArray[Any]:
    """The array as float32 if it holds floats, else as int32 or int64, whichever holds it."""
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    is_small = np.can_cast(array.dtype, np.int32)
    return array.astype(np.int32 if is_small else np.int64, copy=False)


def floats_as_float32(array: Any) -> NDArray[Any]:
    """An array of the user's with any other type of float made float32."""
    found: NDArray[Any] = np.asarray(array)
    return found.astype(np.float32, copy=False) if found.dtype.kind == "f" else found


def _words(lengths: list[int]) -> str:
    return str(lengths[0]) if len(lengths) == 1 else str(lengths)
