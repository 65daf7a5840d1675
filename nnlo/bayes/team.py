"""The ranks of a run of particles: groups, those at one place in each, and all of them."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnlo.bayes.placement import Placement
from nnlo.mpi import link

if TYPE_CHECKING:
    from mpi4py import MPI


class Team:
    """comm: of all ranks, None for a single process.

    ``group``: the ranks that share this one's particles, None where it is alone with them.
    ``leaders``: one rank of each group, None where there is one group. ``holds``: whether this
    rank answers for its particles.
    """

    def __init__(self, comm: "MPI.Intracomm | None", n_particles: int, group_size: int) -> None:
        """Raises ConfigError where the ranks do not divide into groups."""
        self.comm = None if comm is None or comm.size == 1 else comm
        self.rank, n_ranks = (0, 1) if self.comm is None else (self.comm.rank, self.comm.size)
        self.placement = Placement(n_particles, n_ranks, group_size)
        self.pids = self.placement.pids(self.rank)
        self.member = self.placement.member(self.rank)
        self.holds = self.member == 0
        self.group: MPI.Intracomm | None = None
        self.leaders: MPI.Intracomm | None = None

    def open(self) -> None:
        """Make the communicators; collective, and once."""
        if self.comm is None or self.group is not None or self.leaders is not None:
            return
        placement = self.placement
        if placement.group_size > 1:
            self.group = _split(self.comm, placement.group(self.rank), self.member)
        if placement.n_groups > 1:
            self.leaders = _split(self.comm, self.member, placement.group(self.rank))

    def close(self) -> None:
        """Free the communicators; collective."""
        for comm in (self.group, self.leaders):
            if comm is not None:
                comm.Free()
        self.group = self.leaders = None

    def count(self, *flags: int) -> list[int]:
        """On how many ranks each of these is so, or the sum of numbers; collective, and waits
        politely."""
        numbers = np.array(flags, np.int64)
        if self.comm is not None:
            link.add_up(self.comm, numbers)
        return [int(n) for n in numbers]

    def add_up(self, *arrays: NDArray[Any]) -> None:
        """Put sums over the group in place; the ranks should have met just before."""
        if self.group is not None:
            for array in arrays:
                link.add_up_long(self.group, array.reshape(-1))

    def collect(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows of all particles in the order of their numbers, on every rank; collective."""
        if self.comm is None:
            return rows
        found = self.comm.allgather(rows if self.holds else rows[:0])
        return np.concatenate(found)


def _split(comm: "MPI.Intracomm", color: int, key: int) -> "MPI.Intracomm":
    part: Any = comm.Split(color, key)
    return part  # type: ignore[no-any-return]
