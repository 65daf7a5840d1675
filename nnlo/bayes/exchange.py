"""How particles on several ranks meet to move each other.

Two ways that give equal results. ``Gathered``: every rank gets all particles and their scores,
2 P D floats, and computes what its own rows need. ``Transposed``: every rank gets a slice of the
columns of all particles, the inner products of the slices are added up, and the slices of the
directions go back: 3 D P / R floats a rank of R, in sent and held ones alike.

Both move large messages among ranks that are all there, none of which has failed: who calls has
made sure of that, and need not wait politely here.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np

from nnlo.bayes.stein import Kernels, Matrix, descent, gram, kernels, part_of
from nnlo.errors import ConfigError
from nnlo.mpi import link

if TYPE_CHECKING:
    from mpi4py import MPI

EXCHANGES = ("auto", "allgather", "transpose")

_GATHER_BYTES = 1 << 20
"""Of all particles and scores: from here on they are transposed. On one machine the ways take
equal times at 64 kB and the transpose half the time at 1 MB; a network with a greater latency
moves that up, as the transpose sends more and smaller messages."""


class Meeting(ABC):
    """All ranks that hold particles; each ``descend`` is collective, making one is not."""

    def __init__(
        self,
        comm: "MPI.Intracomm | None",
        counts: Sequence[int],
        groups: Sequence[slice],
        scale: float | None,
    ) -> None:
        """comm: None for a single rank. counts: particles of each rank. groups: of all columns,
        without gaps. scale: see ``kernels``."""
        self._comm = comm
        self._counts = list(counts)
        self._groups = list(groups)
        self._scale = scale
        self._rank = 0 if comm is None else comm.rank
        self._n_own, self._n_particles = self._counts[self._rank], sum(self._counts)
        self._n_columns = self._groups[-1].stop

    @abstractmethod
    def descend(self, particles: Matrix, scores: Matrix, out: Matrix) -> Kernels:
        """Write -phi of this rank's particles to ``out``, which may be ``scores``.

        All are C-contiguous, (own particles, D). Returns the kernels of all particles, (G, P, P),
        the same on all ranks.
        """


class Gathered(Meeting):
    """Every rank gets everything; also the way of a single rank."""

    def __init__(
        self,
        comm: "MPI.Intracomm | None",
        counts: Sequence[int],
        groups: Sequence[slice],
        scale: float | None,
    ) -> None:
        super().__init__(comm, counts, groups, scale)
        start = sum(self._counts[: self._rank])
        self._rows = slice(start, start + self._n_own)
        n_held = 0 if comm is None else self._n_particles
        self._particles, self._scores = np.empty((2, n_held, self._n_columns), np.float32)

    def descend(self, particles: Matrix, scores: Matrix, out: Matrix) -> Kernels:
        particles = self._gather(particles, self._particles)
        scores = self._gather(scores, self._scores)
        kernel, widths = kernels(gram(particles, self._groups), self._scale)
        descent(particles, scores, kernel, widths, self._groups, self._rows, out)
        return kernel

    def _gather(self, own: Matrix, everybodys: Matrix) -> Matrix:
        if self._comm is None:
            return own
        counts = [n * self._n_columns for n in self._counts]
        self._comm.Allgatherv(own, [everybodys, counts])
        return everybodys


class Transposed(Meeting):
    """Every rank gets a slice of the columns of all particles."""

    def __init__(
        self,
        comm: "MPI.Intracomm",
        counts: Sequence[int],
        groups: Sequence[slice],
        scale: float | None,
    ) -> None:
        super().__init__(comm, counts, groups, scale)
        ends = [self._n_columns * i // comm.size for i in range(comm.size + 1)]
        self._slices = [slice(a, b) for a, b in pairwise(ends)]
        own = self._slices[comm.rank]
        self._part = part_of(groups, own.start, own.stop)
        n_own_columns = own.stop - own.start
        self._by_slice = [self._n_own * (s.stop - s.start) for s in self._slices]
        self._by_rank = [n * n_own_columns for n in self._counts]
        self._packed = np.empty(self._n_own * self._n_columns, np.float32)
        self._particles, self._scores = np.empty((2, self._n_particles, n_own_columns), np.float32)

    def descend(self, particles: Matrix, scores: Matrix, out: Matrix) -> Kernels:
        assert self._comm is not None
        self._to_slices(particles, self._particles)
        self._to_slices(scores, self._scores)
        products = gram(self._particles, self._part)
        link.add_up_long(self._comm, products.reshape(-1))
        kernel, widths = kernels(products, self._scale)
        descent(
            self._particles,
            self._scores,
            kernel,
            widths,
            self._part,
            slice(None),
            self._scores,
        )
        self._to_rows(self._scores, out)
        return kernel

    def _to_slices(self, rows: Matrix, columns: Matrix) -> None:
        """From whole rows of own particles to own columns of all particles."""
        assert self._comm is not None
        for block, piece in zip(self._blocks(), self._slices, strict=True):
            block[:] = rows[:, piece]
        self._comm.Alltoallv([self._packed, self._by_slice], [columns, self._by_rank])

    def _to_rows(self, columns: Matrix, rows: Matrix) -> None:
        """And back."""
        assert self._comm is not None
        self._comm.Alltoallv([columns, self._by_rank], [self._packed, self._by_slice])
        for block, piece in zip(self._blocks(), self._slices, strict=True):
            rows[:, piece] = block

    def _blocks(self) -> list[Matrix]:
        """Views of the packed buffer: own particles in each rank's columns."""
        starts = [0, *accumulate(self._by_slice)]
        return [self._packed[a:b].reshape(self._n_own, -1) for a, b in pairwise(starts)]


def meet(
    comm: "MPI.Intracomm | None",
    counts: Sequence[int],
    groups: Sequence[slice],
    scale: float | None = None,
    exchange: str = "auto",
) -> Meeting:
    """The meeting of the ranks of ``comm``, each with particles of its own; sends nothing yet.

    comm: None for a single rank. counts: particles of each rank, the same list on all. groups,
    scale: see ``nnlo.bayes.stein``; the groups follow each other and make up all columns.
    exchange: "auto" gathers while all particles and scores take less than 1 MB. Raises
    ConfigError for another word than those of ``EXCHANGES``.
    """
    if exchange not in EXCHANGES:
        raise ConfigError(f"exchange must be one of {', '.join(EXCHANGES)}, got {exchange!r}")
    if comm is None or comm.size == 1:
        return Gathered(None, counts, groups, scale)
    if exchange == "auto":
        n_bytes = 8 * sum(counts) * groups[-1].stop
        exchange = "allgather" if n_bytes < _GATHER_BYTES else "transpose"
    kind = Gathered if exchange == "allgather" else Transposed
    return kind(comm, counts, groups, scale)
