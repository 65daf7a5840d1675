"""A ring that sends one message a step: the vote, the metrics and the vector together."""

from typing import TYPE_CHECKING

import numpy as np

from nnlo.algo.base import Vector
from nnlo.mpi import link
from nnlo.mpi.frame import Frame, Kind
from nnlo.mpi.mixed import N_NUMBERS, MixedSum
from nnlo.mpi.ringend import N_VOTES, Numbers, RingEnd

if TYPE_CHECKING:
    from mpi4py import MPI

LONGEST = 1 << 19
"""Weights of a vector for which one message beats a short one and a long one, 2 MB."""


def is_short(n_weights: int, n_sums: int) -> bool:
    """Whether all of a step fits a message of ``ShortRing``."""
    return n_weights <= LONGEST and N_VOTES + n_sums <= N_NUMBERS


class ShortRing(RingEnd):
    """A ring of all ranks, without a parent, for vectors that ``is_short``.

    A member that has failed sends zeros in place of its vector. With 4 ranks on 2 cores a step
    took half of the time that a vote, the metrics and the vector took one after the other.
    """

    def __init__(self, ring: "MPI.Intracomm", down: Frame) -> None:
        super().__init__(ring, down)
        self._mixed = MixedSum(down.vector.size)

    def _meet(self, numbers: Numbers, up: Frame) -> None:
        mixed, n = self._mixed, numbers.size
        mixed.numbers[:n] = numbers
        n_samples = up.header.n_samples if up.header.kind is Kind.REDUCE else 0
        if n_samples:
            np.multiply(up.vector, np.float32(n_samples), out=mixed.vector)
        else:
            mixed.vector[:] = 0.0
        request = mixed.begin(self._ring)
        link.wait(request, self._watch.poll)
        mixed.end()
        numbers[:] = mixed.numbers[:n]

    def _average(self, vector: Vector, n_samples: int, total: int) -> None:
        np.divide(self._mixed.vector, np.float32(total), out=vector)
