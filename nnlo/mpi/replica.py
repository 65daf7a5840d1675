"""A rank of a run without master: it applies what the ring has reduced to its own weights."""

import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from typing import TYPE_CHECKING, NoReturn

from nnlo.algo.base import Vector
from nnlo.errors import TrainingError, WorkerFailed
from nnlo.mpi import link
from nnlo.mpi.failure import describe
from nnlo.mpi.frame import Flag, Frame, Kind
from nnlo.mpi.loopback import Loopback
from nnlo.mpi.master import Master
from nnlo.mpi.ringend import RingEnd
from nnlo.mpi.root import Root
from nnlo.mpi.ulfm import PeersLost, losses
from nnlo.mpi.worker import Worker

if TYPE_CHECKING:
    from mpi4py import MPI


class Replica:
    """Its own ``master`` behind ``end``; reductions go to ``ring``.

    root: on rank 0 only. What it decides, to stop or another learning rate, rides in the next
    reduction, so that all ranks follow at the same update. die: what this rank does where its
    own code has raised; None to end the run.
    """

    def __init__(
        self,
        comm: "MPI.Intracomm",
        master: Master,
        end: Loopback,
        ring: RingEnd,
        root: Root | None,
        die: Callable[[BaseException], NoReturn] | None = None,
    ) -> None:
        self.master = master
        self._comm = comm
        self._end = end
        self._ring = ring
        self._root = root
        self._die = die
        self._has_left = False

    def run(self, worker: Worker, weights: Vector) -> None:
        """Train until all ranks leave together, at the end or where any rank has failed.

        What has failed is the ``error`` of rank 0's master then.
        """
        with suppress(_Failed):
            try:
                self._check()
                self._train(worker, weights)
            except (_Failed, PeersLost):
                raise
            except BaseException as error:  # sys.exit in user code too: the others must hear
                if self._die is not None:
                    self._die(error)
                if self._has_left:  # so have the others
                    self._fail(WorkerFailed(self._comm.rank, link.host(), describe(error)))
                self._meet(worker.failure(error, link.host()))

    def _fail(self, error: Exception) -> NoReturn:
        self.master.fail(error)
        raise _Failed from error

    def _train(self, worker: Worker, weights: Vector) -> None:
        with closing(worker.run(weights)) as run:
            message = next(run)
            while True:
                if message.header.kind is Kind.REDUCE:
                    down = self._reduce(message)
                else:
                    if message.header.kind is Kind.BYE:
                        self._meet(message)
                        self._has_left = True
                    down = self._apply(message)
                    if down.header.kind is Kind.FINAL:
                        return
                message = run.send(down)

    def _reduce(self, message: Frame) -> Frame:
        stop = Flag.STOP if self.master.stopping else Flag(0)
        half = self.master.half
        header = message.header
        message.header = header._replace(flags=header.flags | stop, rate=half.learning_rate)
        down = self._meet(message)
        half.learning_rate = down.header.rate
        if not down.header.n_samples and not down.header.flags & (Flag.STOP | Flag.REFUSED):
            self._check()  # all are through with this epoch
        return down

    def _meet(self, message: Frame) -> Frame:
        """Exchange with the other ranks; raises _Failed where any of them has failed."""
        try:
            down = self._ring.exchange(message)
        except WorkerFailed as error:  # on rank 0
            self._fail(error)
        if down.header.kind is Kind.FINAL:
            raise _Failed
        return down

    def _apply(self, message: Frame) -> Frame:
        self.master.receive(message.header.sender, message)
        if self._root is not None:
            self._root.poll(self.master)
        if self.master.error is not None:
            raise self.master.error
        down = self._end.answers.pop(0)[1]
        down.in_flight -= 1
        header = down.header
        if header.kind is not Kind.FINAL:
            # Not yet: the others hear of it in the next reduction, and all leave together.
            down.header = header._replace(flags=header.flags & ~Flag.STOP)
        return down

    def _check(self) -> None:
        """All ranks end with the same TrainingError where their weights differ."""
        with losses(self._comm):
            sums = self._comm.allgather(zlib.crc32(self.master.weights.data))
        others = [str(rank) for rank, one in enumerate(sums) if one != sums[0]]
        if others:
            self._fail(
                TrainingError(
                    f"all ranks must hold the same weights, got others on rank "
                    f"{', '.join(others)} than on rank 0; look for a layer that depends on the "
                    "rank, or for faulty memory"
                )
            )


class _Failed(Exception):
    """The run has failed, here or elsewhere, and all ranks know of it."""
