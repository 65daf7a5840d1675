"""Outputs of all draws for the points of each rank."""

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nnlo.bayes.summary import Columns

if TYPE_CHECKING:
    from mpi4py import MPI


class Transpose:
    """From all points of some draws to some points of all draws."""

    def __init__(self, comm: "MPI.Intracomm | None", numbers: list[int]) -> None:
        self._comm = comm
        held = [numbers] if comm is None else comm.allgather(numbers)
        self._held = [len(one) for one in held]
        self._order = np.argsort([number for one in held for number in one])

    def all_draws(self, outputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], slice]:
        """Outputs of all draws in order, (draws, my points, ...), and which points these are."""
        comm, n = self._comm, outputs.shape[1]
        if comm is None:
            return outputs[self._order], slice(0, n)
        bounds = [n * rank // comm.size for rank in range(comm.size + 1)]
        mine = slice(bounds[comm.rank], bounds[comm.rank + 1])
        width = prod(outputs.shape[2:])
        pieces = [outputs[:, start:stop].reshape(-1) for start, stop in pairwise(bounds)]
        n_mine = mine.stop - mine.start
        counts = [n_draws * n_mine * width for n_draws in self._held]
        received = np.empty(sum(counts), np.float32)
        # Blocking: all are here, since they have just agreed that nothing failed.
        comm.Alltoallv([np.concatenate(pieces), [one.size for one in pieces]], [received, counts])
        parts = np.split(received, np.cumsum(counts)[:-1])
        found = [part.reshape(-1, n_mine, *outputs.shape[2:]) for part in parts if n_mine]
        if not found:
            return np.empty((len(self._order), 0, *outputs.shape[2:]), np.float32), mine
        return np.concatenate(found)[self._order], mine

    def gathered(self, columns: Columns) -> list[Columns]:
        """The columns of all ranks in order, on rank 0; [] elsewhere."""
        if self._comm is None:
            return [columns]
        return self._comm.gather(columns) or []
