"""Validation on a snapshot of the weights, beside the master's loop or in line."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np

from nnlo.algo.base import Vector
from nnlo.data import Data
from nnlo.errors import DataError
from nnlo.model.adapter import ModelAdapter
from nnlo.spans import Spans


def evaluate(
    adapter: ModelAdapter,
    data: Data,
    weights: Vector,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Mean of each metric over all samples of ``data``, as ``val_<metric>``.

    Raises CancelledError between two batches once ``is_cancelled()``.
    """
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


class Background:
    """One thread for what must not stall the master: validation, writing checkpoints.

    in_line: run at once in the caller instead, for a process that is master and worker.
    spans: where it notes what it did when.
    """

    def __init__(self, in_line: bool = False, spans: Spans | None = None) -> None:
        self._spans = spans or Spans()
        self.cancelled = threading.Event()  # asks a validation under way to give up
        self._pool = None if in_line else ThreadPoolExecutor(1, "nnlo-background")

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
