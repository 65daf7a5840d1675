"""Validation on a snapshot of the weights, beside the master's loop or in line."""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.algo.base import Vector
from nnlo.data import Data
from nnlo.errors import DataError, ModelError
from nnlo.model.adapter import Batch, ModelAdapter
from nnlo.spans import Spans

TOLERANCE = 0.01
"""Largest part of a state's move that may not be that of a moving average: rounding."""
LEAST_SHARE = 1e-5
"""Of a batch in a moving average; what moves by less is a counter with rounding."""


def evaluate(
    adapter: ModelAdapter,
    data: Data,
    weights: Vector,
    is_cancelled: Callable[[], bool] = lambda: False,
    recalibrate: Callable[..., None] | None = None,
) -> dict[str, float]:
    """Mean of each metric over all samples of ``data``, as ``val_<metric>``.

    recalibrate: first brings the state S of ``weights`` up to date, in place. Raises
    CancelledError between two batches once ``is_cancelled()``.
    """
    if recalibrate is not None:
        recalibrate(weights, is_cancelled)
    adapter.set_flat(weights)
    sums = np.zeros(1 + len(adapter.metric_names))
    with closing(data.epoch(0)) as batches:
        for batch in batches:
            if is_cancelled():
                raise CancelledError
            sums += adapter.test_step(batch)
    if not sums[0]:
        raise DataError("validation data must hold samples, got none; check the list of files")
    means = sums[1:] / sums[0]
    return {f"val_{name}": float(v) for name, v in zip(adapter.metric_names, means, strict=True)}


class Recalibration:
    """Takes the state S of weights anew from training batches: BatchNorm statistics that fit T.

    The statistics of an average of weights (EASGD, DiLoCo, many stale updates) are not the
    average of the workers' statistics. A layer moves each variable of its state by every
    batch, ``S_i = m S_(i-1) + (1 - m) s_i``, so the plain mean of the batches' own ``s_i``,
    which is what S should be, follows from the moved states and the layer's ``m``:

        mean(s) = mean(S_0 ... S_(K-1)) + (S_K - S_0) / (K (1 - m)).

    ``m`` is measured: the first batch is fed twice. A variable that does not move keeps its
    value, one that moves in another way (a power iteration) has the value it moved to. Equals
    torch.optim.swa_utils.update_bn on the same batches, without a look into the layers.

    data: the training set, in one shard and not read by others; the first ``n_batches`` batches
    of epoch 0 are taken, the same ones each time. Raises ModelError for a model that cannot be
    recalibrated.
    """

    def __init__(self, adapter: ModelAdapter, data: Data, n_batches: int) -> None:
        if not adapter.has_gradient:
            raise ModelError(
                "--recalibrate must go with a model that NNLO trains by gradients, got one with a "
                "train_step of its own; leave it out"
            )
        if not adapter.manifest.n_state:
            raise ModelError(
                "--recalibrate must go with a model that has a state (BatchNorm), got none; "
                "leave it out, it has no effect"
            )
        self._adapter = adapter
        self._data = data
        self._n_batches = n_batches

    def __call__(self, weights: Vector, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Write the new S to ``weights``, shape (manifest.size,); T and all else stays.

        Raises CancelledError between two batches once ``is_cancelled()``.
        """
        local = self._adapter.local_state()  # random states: the worker here may need them
        try:
            self._write(weights, is_cancelled)
        finally:
            self._adapter.load_local_state(local)

    def _write(self, weights: Vector, is_cancelled: Callable[[], bool]) -> None:
        n, n_done = self._adapter.manifest.n_trainable, 0
        with closing(self._data.epoch(0)) as batches:
            for batch in islice(batches, self._n_batches):
                if is_cancelled():
                    raise CancelledError
                if not n_done:
                    first, shares = self._probe(weights, batch)
                    moved, total = first, np.zeros_like(first)
                total += moved
                moved = self._moved(weights, moved, batch)
                n_done += 1
        if not n_done:
            raise DataError("training data must yield batches to recalibrate, got none")
        mean = (total + (moved - first) / shares) / n_done
        weights[n:] = np.where(np.isfinite(shares), mean, moved)

    def _probe(
        self, weights: Vector, batch: Batch
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A first S, and ``1 - m`` of each element: infinite where it does not move like that.

        The first S has the statistics of ``batch``, which loses less to rounding than a
        present S far away from them.
        """
        adapter = self._adapter
        n = adapter.manifest.n_trainable
        start = weights[n:].astype(np.float64)
        local = adapter.local_state()
        once = self._moved(weights, start, batch)
        adapter.load_local_state(local)
        twice = self._moved(weights, once, batch)
        adapter.load_local_state(local)
        shares = np.full(start.size, np.inf)
        for entry in adapter.manifest.entries:
            if entry.kind == "S":
                part = slice(entry.offset - n, entry.offset - n + entry.size)
                shares[part] = _share((once - start)[part], (twice - once)[part])
        return start + (once - start) / shares, shares

    def _moved(
        self, weights: Vector, state: NDArray[np.float64], batch: Batch
    ) -> NDArray[np.float64]:
        """S after a training step on ``batch`` from ``state``."""
        n = self._adapter.manifest.n_trainable
        vector = weights.copy()
        vector[n:] = state
        self._adapter.set_flat(vector)
        self._adapter.gradient(batch, vector)
        return vector[n:].astype(np.float64)


def _share(once: NDArray[np.float64], twice: NDArray[np.float64]) -> float:
    """``1 - m`` of a variable that moved by these two; infinite if by no moving average."""
    norm = float(once @ once)
    m = float(once @ twice) / norm if norm else 1.0
    rest = twice - m * once
    if not -TOLERANCE <= m <= 1.0 - LEAST_SHARE or float(rest @ rest) > TOLERANCE**2 * norm:
        return math.inf
    return 1.0 - max(m, 0.0)


class Background:
    """One thread for what must not stall the master: validation, writing checkpoints.

    in_line: run at once in the caller instead, for a process that is master and worker.
    spans: where it notes what it did when.
    """

    def __init__(self, in_line: bool = False, spans: Spans | None = None) -> None:
        self._spans = spans or Spans()
        self.cancelled = threading.Event()  # asks a validation under way to give up
        self.deadline = math.inf  # on time.perf_counter, of one in line: nobody can ask it
        self._pool = None if in_line else ThreadPoolExecutor(1, "nnlo-background")

    def is_cancelled(self) -> bool:
        """Whether a validation under way must give up."""
        is_late = self._pool is None and time.perf_counter() > self.deadline
        return is_late or self.cancelled.is_set()

    def submit(self, task: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Start ``task(*args)``; its result or exception is in the future."""
        if self._pool is not None:
            return self._pool.submit(self._timed, task, *args)
        future: Future[Any] = Future()
        try:
            future.set_result(self._timed(task, *args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _timed(self, task: Callable[..., Any], *args: Any) -> Any:
        start = time.perf_counter()
        try:
            return task(*args)
        finally:
            name = getattr(task, "__name__", "validate")  # the validator is a partial
            self._spans.add(name, start, time.perf_counter())

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, *_error: object) -> None:
        """Forget what has not started and wait for what has."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
