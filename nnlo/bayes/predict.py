"""Predictions of a posterior, spread over ranks: each computes its draws, then judges its points.

For a chunk of points every rank computes the outputs of the draws it can make; one Alltoall
gives each rank the outputs of all draws for its part of the points. So every statistic is exact,
quantiles too, and the same for any number of ranks: draws stand in the order of their numbers,
and chunks are as long whoever computes them.
"""

import copy
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnlo.bayes.dropout import predict_masked
from nnlo.bayes.likelihood import Classes, Likelihood
from nnlo.bayes.posterior import Posterior
from nnlo.bayes.seeds import Purpose, derive
from nnlo.bayes.summary import (
    QUANTILES,
    Columns,
    score_classes,
    score_values,
    summarise_classes,
    summarise_values,
)
from nnlo.bayes.transpose import Transpose
from nnlo.data import Data
from nnlo.data.arrays import each, joined
from nnlo.errors import ConfigError, DataError, ModelError
from nnlo.model.adapter import ModelAdapter, Vector
from nnlo.mpi.setup import together

if TYPE_CHECKING:
    from mpi4py import MPI

BATCH = 256
"""Samples of a batch where the data are arrays."""
CHUNK_BYTES = 64 * 2**20
"""Inputs and outputs of all draws of a chunk, about."""

Points = Data | tuple[Any, Any]
"""Data, or arrays (x, y) with samples along axis 0; y None, with data as x too, where labels
are not known or shall not be looked at."""

Refresh = Callable[[Vector], None]
"""Puts the state S of a draw ``[T | S]`` right, in place (BatchNorm of weights nobody trained)."""


@dataclass(frozen=True)
class Prediction:
    """What all draws say of each point; columns by name, a row a point (see ``summary``).

    kind: "classes" or "values". n_draws: that every column comes from.
    """

    kind: str
    n_draws: int
    columns: Columns

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A column; raises ConfigError with the names there are."""
        if name not in self.columns:
            raise ConfigError(
                f"a column must be one of {', '.join(self.columns)}, got {name!r}; choose one"
            )
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["total"])

    @property
    def has_labels(self) -> bool:
        """Whether the points were scored."""
        return "label" in self.columns


def predict(
    posterior: Posterior,
    adapter: ModelAdapter,
    likelihood: Likelihood,
    points: Points,
    *,
    samples: int | None = None,
    comm: "MPI.Intracomm | None" = None,
    quantiles: Sequence[float] = QUANTILES,
    refresh: Refresh | None = None,
    keep_draws: bool = False,
) -> Prediction | None:
    """The prediction of every point in the order of the data, on rank 0; None elsewhere.

    Collective over ``comm``; all ranks give equal arguments and can read the data. The
    adapter's weights are put back. samples: wanted draws, see ``Posterior.n_draws``.
    quantiles: between 0 and 1; () for none. keep_draws: add the column draws, float32 (points,
    draws, classes or targets). What fails on any rank is raised on all.
    """
    _check_quantiles(quantiles)
    n_draws = posterior.n_draws(samples)
    drawn = _Drawn(posterior, adapter, posterior.mine(n_draws), refresh)
    exchange = Transpose(comm, drawn.numbers)
    before = np.empty(adapter.manifest.size, np.float32)
    adapter.get_flat(before)
    parts: list[Columns] = []
    try:
        with closing(_chunks(points, adapter, n_draws)) as chunks:
            while found := together(comm, lambda: drawn.outputs_of(next(chunks, None))):
                outputs, x, y = found
                raw, part = exchange.all_draws(outputs)
                rows = None if y is None else y[part]
                step = partial(_columns, likelihood, raw, rows, quantiles, keep_draws)
                columns = together(comm, step)
                if x is not None:
                    columns["input"] = x[part]
                parts += exchange.gathered(columns)
    finally:
        adapter.set_flat(before)
    if comm is not None and comm.rank > 0:
        return None
    kind = "classes" if isinstance(likelihood, Classes) else "values"
    columns = _stacked(parts)
    if len(columns.get("input", ())) != len(columns["total"]):  # several points a sample
        columns.pop("input", None)
    return Prediction(kind, n_draws, columns)


def _check_quantiles(quantiles: Sequence[float]) -> None:
    if not all(0.0 < one < 1.0 for one in quantiles):
        raise ConfigError(f"quantiles must be between 0 and 1, got {[*quantiles]}; try 0.05 0.95")


Chunk = tuple[int, list[Any], NDArray[Any] | None]
"""Number of its first batch, inputs by batch, labels of all."""


def _chunks(points: Points, adapter: ModelAdapter, n_draws: int) -> Generator[Chunk, None, None]:
    """The same whole batches on each rank, put together to chunks of bounded size."""
    with closing(_batches(points)) as batches:
        done, length = 0, 1
        while some := list(islice(batches, length)):
            if done == 0:
                x = some[0][0]
                n = _length(x)
                width = prod(_predicted(adapter, x).shape[1:])
                inputs = sum(one.nbytes for one in (x if isinstance(x, list) else [x]))
                length = max(1, CHUNK_BYTES // max(1, inputs + 4 * n * n_draws * width))
                some += list(islice(batches, length - 1))
            labels = [y for _, y in some]
            yield done, [x for x, _ in some], None if labels[0] is None else joined(labels)
            done += len(some)
        if not done:
            raise DataError("there must be points to predict, got none; check the data")


def _batches(points: Points) -> Generator[tuple[Any, Any], None, None]:
    data = points if isinstance(points, Data) else points[0]
    if isinstance(data, Data):
        ordered = copy.copy(data)
        ordered.shuffle = False
        ordered.set_shard(0, 1)
        for x, y in ordered.epoch(0):
            yield x, _plain(y) if data is points else None
        return
    assert not isinstance(points, Data)
    x, y = points
    y = None if y is None else np.asarray(_plain(y))
    for start in range(0, _length(x), BATCH):
        rows = slice(start, start + BATCH)
        yield each(partial(_part, rows), x), None if y is None else y[rows]


def _part(rows: slice, array: Any) -> NDArray[Any]:
    return np.asarray(array)[rows]


def _only_inputs(batches: list[Any]) -> NDArray[Any] | None:
    """Inputs (n,) of a model that takes one number a sample."""
    if isinstance(batches[0], list) or prod(batches[0].shape[1:]) != 1:
        return None
    return np.concatenate([one.reshape(len(one)) for one in batches])


def _length(x: Any) -> int:
    return len(x[0] if isinstance(x, list) else x)


def _plain(side: Any) -> Any:
    """The only array of labels or outputs."""
    if not isinstance(side, list | tuple):
        return side
    if len(side) == 1:
        return side[0]
    raise ModelError(
        f"a prediction must be of one output, got {len(side)}; let the model return one"
    )


def _predicted(adapter: ModelAdapter, x: Any) -> Any:
    """The outputs; ModelError where the model does not take such data."""
    try:
        return _plain(adapter.predict(x))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = [np.shape(one) for one in (x if isinstance(x, list) else [x])]
        raise ModelError(
            f"data must be as those of the model's training, got shape {str(shapes)[1:-1]}: "
            f"{str(error).strip() or type(error).__name__}"
        ) from error


class _Drawn:
    """The draws ``numbers``, which this rank can make."""

    def __init__(
        self,
        posterior: Posterior,
        adapter: ModelAdapter,
        numbers: list[int],
        refresh: Refresh | None,
    ) -> None:
        self.numbers = numbers
        self._posterior, self._adapter, self._refresh = posterior, adapter, refresh
        self._vector = np.empty(adapter.manifest.size, np.float32)
        self._states: dict[int, Vector] = {}  # refreshed ones

    def outputs_of(self, chunk: Chunk | None) -> tuple[Any, Any, Any] | None:
        """Outputs (draws, n, ...) float32, inputs that are one number each, and the labels.

        None for the last two where there are none; None at the end of the data.
        """
        if chunk is None:
            return None
        first, batches, labels = chunk
        inputs = _only_inputs(batches)
        found = []
        for number in self.numbers:
            self._load(number)
            seed = self._posterior.dropout_seed(number)
            found.append(
                np.concatenate([self._output(x, seed, first + i) for i, x in enumerate(batches)])
            )
        if found:
            return np.stack(found), inputs, labels
        # What others compute has the shape of what the weights at hand give.
        shape = _predicted(self._adapter, batches[0]).shape[1:]
        n = sum(map(_length, batches))
        return np.empty((0, n, *shape), np.float32), inputs, labels

    def _load(self, number: int) -> None:
        """Give the model the weights of a draw."""
        n_trainable = self._adapter.manifest.n_trainable
        self._posterior.draw(number, self._vector)
        if self._refresh is not None and self._posterior.needs_refresh:
            if number not in self._states:
                self._refresh(self._vector)
                self._states[number] = self._vector[n_trainable:].copy()
            self._vector[n_trainable:] = self._states[number]
        self._adapter.set_flat(self._vector)

    def _output(self, x: Any, seed: int | None, batch: int) -> NDArray[np.float32]:
        if seed is None:
            return np.asarray(_predicted(self._adapter, x), np.float32)
        output = predict_masked(self._adapter, x, derive(seed, Purpose.MASK, batch))
        return np.asarray(_plain(output), np.float32)


def _columns(
    likelihood: Likelihood,
    raw: NDArray[np.float32],
    y: NDArray[Any] | None,
    quantiles: Sequence[float],
    keep_draws: bool,
) -> Columns:
    if isinstance(likelihood, Classes):
        log_p = likelihood.read(raw)
        columns = summarise_classes(log_p, quantiles)
        if y is not None:
            columns |= score_classes(log_p, likelihood.labels(y, *log_p.shape[1:]))
        drawn = np.exp(log_p)
    else:
        drawn, sds = likelihood.read(raw)
        columns = summarise_values(drawn, sds, quantiles)
        if y is not None:
            columns |= score_values(drawn, sds, likelihood.labels(y, *drawn.shape[1:]))
    if keep_draws:
        columns["draws"] = np.moveaxis(drawn, 0, 1).astype(np.float32)
    return columns


def _stacked(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
