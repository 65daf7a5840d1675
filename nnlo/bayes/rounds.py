"""Exchanges between the ranks that hold particles: all of them meet once a round.

In a round every rank gives each other rank some bytes and some numbers. The numbers and the
lengths go as one small collective; the bytes follow between the pairs that have any.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import RanksLost
from nnlo.mpi import link, ulfm

if TYPE_CHECKING:
    from mpi4py import MPI

Bytes = NDArray[np.uint8]

_TAG = 21
_PIECE = 1 << 30  # bytes of one MPI message, whose count must fit an int


class Heard(NamedTuple):
    """words: what each rank has said, by rank. letters: bytes by the rank they are of."""

    words: list[list[int]]
    letters: dict[int, Bytes]


class Rounds:
    """comm: of the ranks, duplicated here (collective); None where there is one."""

    def __init__(self, comm: "MPI.Intracomm | None") -> None:
        self._comm = comm.Dup() if comm is not None and comm.size > 1 else None

    @property
    def rank(self) -> int:
        return 0 if self._comm is None else self._comm.rank

    @property
    def size(self) -> int:
        return 1 if self._comm is None else self._comm.size

    def exchange(
        self,
        letters: Mapping[int, bytes],
        words: Sequence[int],
        check: Callable[[], None] | None = None,
    ) -> Heard:
        """Meet all other ranks; collective, with as many ``words`` on each.

        letters: bytes for other ranks. check: called again and again while others are awaited;
        what it raises passes, and no exchange is possible after that. Raises RanksLost where a
        rank has died.
        """
        if self._comm is None:
            return Heard([list(words)], {})
        try:
            with ulfm.losses(self._comm):
                return self._meet(self._comm, letters, words, check)
        except ulfm.PeersLost as error:
            ulfm.revoke(self._comm)
            raise RanksLost(
                f"all {self.size} ranks must live while they hold particles, got a dead one; "
                "start the run again"
            ) from error

    def _meet(
        self,
        comm: "MPI.Intracomm",
        letters: Mapping[int, bytes],
        words: Sequence[int],
        check: Callable[[], None] | None,
    ) -> Heard:
        said = np.empty((comm.size, 1 + len(words)), np.int64)
        said[:, 1:] = words
        said[:, 0] = [len(letters.get(rank, b"")) for rank in range(comm.size)]
        heard = np.empty_like(said)
        link.wait(comm.Ialltoall(said, heard), check)
        found = {int(k): np.empty(heard[k, 0], np.uint8) for k in np.flatnonzero(heard[:, 0])}
        under_way: list[Any] = []
        for rank, buffer in found.items():
            under_way += [comm.Irecv(part, rank, _TAG) for part in _pieces(buffer)]
        for rank, data in letters.items():
            buffer = np.frombuffer(data, np.uint8)
            under_way += [comm.Isend(part, rank, _TAG) for part in _pieces(buffer)]
        for request in under_way:
            link.wait(request, check)
        return Heard(heard[:, 1:].tolist(), found)

    def close(self) -> None:
        """Free the communicator; collective."""
        if self._comm is not None:
            self._comm.Free()
            self._comm = None


def _pieces(buffer: Bytes) -> list[Bytes]:
    return [buffer[start : start + _PIECE] for start in range(0, buffer.size, _PIECE)]
