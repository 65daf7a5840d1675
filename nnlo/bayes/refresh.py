"""The state S (BatchNorm statistics) of weights that nobody has trained, as draws of SWAG are."""

from contextlib import closing

import numpy as np

from nnlo.data import Data
from nnlo.errors import DataError
from nnlo.model.adapter import ModelAdapter, Vector
from nnlo.mpi.evaluate import Recalibration

BATCHES = 50
"""From which the statistics of a draw are taken where nobody says how many."""


class Refresh:
    """Writes the state S that fits T to a vector: the mean over training batches.

    As ``update_bn`` of Maddox et al. 2019 (arXiv:1902.02476), section 3.2, on the first
    ``n_batches`` batches of epoch 0, so that a draw is the same on any rank. Without effect on
    a model whose S training does not move; one batch tells.

    data: the training set, in one shard and not read by others. seed: of the dropout masks,
    whatever the adapter drew before.
    """

    def __init__(
        self, adapter: ModelAdapter, data: Data, n_batches: int = BATCHES, seed: int = 0
    ) -> None:
        self._adapter, self._data = adapter, data
        self._n_batches, self._seed = n_batches, seed
        self._moves: bool | None = None if adapter.manifest.n_state else False

    def __call__(self, vector: Vector) -> None:
        """Write S of ``vector``, shape (manifest.size,); the adapter's weights change."""
        if self._moves is False:
            return
        before = self._adapter.local_state()
        try:
            if self._moves is None:
                self._moves = self._has_moved(vector)
            if self._moves:
                self._adapter.seed(self._seed)
                Recalibration(self._adapter, self._data, self._n_batches)(vector)
        finally:
            self._adapter.load_local_state(before)

    def _has_moved(self, vector: Vector) -> bool:
        with closing(self._data.epoch(0)) as batches:
            batch = next(batches, None)
        if batch is None:
            raise DataError("training data must yield batches for BatchNorm, got none")
        moved = np.empty_like(vector)
        self._adapter.set_flat(vector)
        self._adapter.gradient(batch, moved)
        n = self._adapter.manifest.n_trainable
        return not np.array_equal(moved[n:], vector[n:])
