"""Predictions in files: all columns as numpy arrays, and those that people read as text."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.bayes.predict import Prediction
from nnlo.files import write_atomic

ROWS = 10_000
"""Rows of text that are made at once."""


def write_npz(prediction: Prediction, path: Path) -> None:
    """Write every column by its name, atomically; raises OSError where the disk is full."""
    columns: Any = prediction.columns
    write_atomic(path, lambda stream: np.savez(stream, allow_pickle=False, **columns))


def write_csv(prediction: Prediction, path: Path) -> None:
    """Write a row a point, atomically; ``point`` counts from 0.

    Of classes what is one number a point; of values all columns but draws, with ``_0``,
    ``_1``, ... behind the names where there are several targets.
    """
    columns = dict(_flat(prediction))

    def write(stream: Any) -> None:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["point", *columns])
        for start in range(0, len(prediction), ROWS):
            parts = [_texts(one[start : start + ROWS]) for one in columns.values()]
            table.writerows(zip(range(start, start + ROWS), *parts, strict=False))
        text.detach()

    write_atomic(path, write)


def _flat(prediction: Prediction) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, column in prediction.columns.items():
        if column.ndim == 1:
            yield name, column
        elif column.ndim == 2 and prediction.kind == "values":
            for index in range(column.shape[1]):
                yield (name if column.shape[1] == 1 else f"{name}_{index}"), column[:, index]


def _texts(column: NDArray[Any]) -> list[Any]:
    if column.dtype.kind == "f":
        return [f"{value:.9g}" for value in column]
    if column.dtype.kind == "b":
        column = column.astype(int)
    texts: list[Any] = column.tolist()
    return texts
