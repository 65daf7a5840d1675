"""The members' end of a ring over MPI: they reduce among themselves, their leader exchanges."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from nnlo.algo.base import Vector
from nnlo.errors import WorkerFailed
from nnlo.mpi import link, ulfm
from nnlo.mpi.failure import read_failure
from nnlo.mpi.frame import HEADER_BYTES, N_TIMES, Flag, Frame, Header, Kind
from nnlo.mpi.refusal import pack_refusals, read_extra
from nnlo.mpi.standstill import name_ranks
from nnlo.mpi.watch import Watch

if TYPE_CHECKING:
    from mpi4py import MPI

LEADER = 0

Numbers = NDArray[np.float64]


class ParentLink(Protocol):
    """The leader's way up."""

    def exchange(self, up: Frame) -> Frame: ...


N_VOTES = 5
_SAMPLES, _STOP, _FAILED, _REFUSED, _RATE = range(N_VOTES)


class RingEnd:
    """Where a member's messages go.

    Every step begins with a short vote that all members take part in, so that one whose code
    has raised is heard whatever the others are about to do; the sums of the metrics ride in it.
    parent: on the leader of a worker; down: where answers are received.
    """

    def __init__(
        self, ring: "MPI.Intracomm", down: Frame, parent: ParentLink | None = None
    ) -> None:
        self._ring = ring
        self._down = down
        self._parent = parent
        self._watch, self._others = Watch(), ""

    def watched_by(self, watch: Watch, members: Collection[int]) -> "RingEnd":
        """Tell ``watch`` when this rank waits for ``members``, as users number them; returns
        itself."""
        self._watch, self._others = watch, f"a reduction with {name_ranks(members)}"
        return self

    def exchange(self, up: Frame) -> Frame:
        """Reduce ``up`` in place, or have it answered; its kind says which.

        A FINAL answer to another message than BYE says that a member has failed. Raises
        WorkerFailed then on a leader without parent. Where nobody is above, ``up`` is its own
        answer. Raises PeersLost where a member is gone, or the ranks regroup.
        """
        with ulfm.losses(self._ring):
            return self._exchange(up)

    def _exchange(self, up: Frame) -> Frame:
        header = up.header
        votes, sums = self._vote(up, header)
        if votes[_FAILED]:
            return self._give_up(up)
        if header.kind is Kind.REDUCE:
            return self._reduce(up, header, votes, sums)
        if self._parent is not None:
            self._down = self._parent.exchange(up)
        elif self._ring.rank == LEADER:
            self._down = up
        return self._share_answer()

    def _vote(self, up: Frame, header: Header) -> tuple[Numbers, Numbers]:
        """What all members say together, and the sums of their metrics."""
        numbers = np.zeros(N_VOTES + up.tail.size - N_TIMES)
        votes, sums = numbers[:N_VOTES], numbers[N_VOTES:]
        votes[_SAMPLES] = header.n_samples
        votes[_STOP] = bool(header.flags & Flag.STOP)
        votes[_FAILED] = header.kind is Kind.ERROR
        votes[_REFUSED] = bool(header.flags & Flag.REFUSED)
        votes[_RATE] = header.rate if self._ring.rank == LEADER else 0.0
        if header.kind is Kind.REDUCE:
            sums[:] = up.tail[N_TIMES:]
        with self._watch.waiting(self._others):
            self._meet(numbers, up)
        self._watch.moved()
        return votes, sums

    def _meet(self, numbers: Numbers, up: Frame) -> None:
        """Put the sums over all members in place of ``numbers``, once all are there."""
        link.add_up(self._ring, numbers, self._watch.poll)

    def _reduce(self, up: Frame, header: Header, votes: Numbers, sums: Numbers) -> Frame:
        total = int(votes[_SAMPLES])
        if not header.n_samples:
            up.vector[:] = 0.0
        if total:
            up.tail[N_TIMES:] = sums
            self._average(up.vector, header.n_samples, total)
        flags = Flag.STOP if votes[_STOP] else Flag(0)
        n_extra = 0
        if votes[_REFUSED]:
            flags |= Flag.REFUSED
            n_extra = up.set_extra(self._share_refusals(up))
        up.header = header._replace(
            n_samples=total,
            flags=flags,
            rate=float(votes[_RATE]),
            n_extra=n_extra,
        )
        return up

    def _share_refusals(self, up: Frame) -> bytes:
        """What any member has refused, for all of them."""
        found = self._ring.allgather(read_extra(up)[0])
        return pack_refusals([one for refusals in found for one in refusals])

    def _average(self, vector: Vector, n_samples: int, total: int) -> None:
        """Put the mean of all members over ``total`` samples in place of that over one's own."""
        vector *= np.float32(n_samples)
        self._add_up(vector)
        vector /= np.float32(total)

    def _add_up(self, vector: Vector) -> None:
        """Put the sum over all members, who are there already, in place of ``vector``."""
        link.add_up_long(self._ring, vector)

    def _share_answer(self) -> Frame:
        """Bring what the leader has been answered to all members."""
        down = self._down
        with self._watch.waiting(f"an answer, which comes by {self._others}"):
            link.broadcast(self._ring, down.buffer[:HEADER_BYTES], self._watch.poll)
        if down.header.kind is Kind.WEIGHTS:
            link.broadcast_long(self._ring, down.vector)
        return down

    def _give_up(self, up: Frame) -> Frame:
        """Let the parent know what has failed; all members end."""
        failed = up.header.kind is Kind.ERROR
        found = self._ring.gather(up.message.tobytes() if failed else None, LEADER)
        final = Frame(0)
        final.header = Header(Kind.FINAL)
        if found is None:
            return final
        message = next(one for one in found if one is not None)
        up.buffer[: len(message)] = np.frombuffer(message, np.uint8)
        if self._parent is None:
            raise WorkerFailed(*read_failure(up))
        self._parent.exchange(up)
        return final
