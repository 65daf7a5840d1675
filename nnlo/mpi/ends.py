"""The two ends of an exchange over MPI: a master's and a child's."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nnlo.mpi import link, ulfm
from nnlo.mpi.frame import Flag, Frame, Header, Kind
from nnlo.mpi.vigil import Vigil
from nnlo.mpi.watch import Watch

if TYPE_CHECKING:
    from mpi4py import MPI


class ParentEnd:
    """The master's end: one persistent receive a child, tested in turn, never any-source.

    ``lost`` are the children that MPI has found dead, until somebody takes note. vigil: is told
    who owes a message since when.
    """

    def __init__(self, comm: "MPI.Intracomm", frames: dict[int, Frame], vigil: Vigil) -> None:
        """frames: where the messages of each child are received."""
        self.vigil = vigil
        self._comm = comm
        self._frames = frames
        self._receives: dict[int, Any] = {}
        self._listening: list[int] = []
        self._sends: dict[int, tuple[Any, Frame]] = {}
        self._final = Frame(0)
        self._final.header = Header(Kind.FINAL)
        self._traffic = link.Backoff()
        self.lost: set[int] = set()
        self._forgotten: set[int] = set()

    def open(self) -> None:
        """Post a receive for every child."""
        for child, frame in self._frames.items():
            self._receives[child] = self._comm.Recv_init(frame.buffer, child, link.UP)
            self._listen(child)

    def _listen(self, child: int) -> None:
        with self._noting_losses(child):
            self._receives[child].Start()
            self._listening.append(child)
            self.vigil.answered(child, time.perf_counter())

    @property
    def awaited(self) -> list[int]:
        """Children whose turn it is to speak."""
        return self._listening

    def forget(self, child: int) -> None:
        """Nothing is expected from ``child`` any more, nor sent to it."""
        self.lost.discard(child)
        self.vigil.forget(child)
        self._forgotten.add(child)
        if child in self._listening:
            self._listening.remove(child)
        if child in self._sends:
            # What is left of both transfers stays with MPI, which can neither end them nor
            # always cancel them.
            self._sends.pop(child)[1].in_flight -= 1

    @contextmanager
    def _noting_losses(self, child: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._note(child, error)

    def _note(self, child: int, error: Exception) -> None:
        """``child`` is dead where ``error`` tells so; else it is raised again."""
        if not ulfm.tells_of_loss(error):
            raise error
        self.lost.add(child)
        if child in self._listening:
            self._listening.remove(child)

    def arrivals(self) -> list[tuple[int, Frame]]:
        """Messages that have come; a child sends no other before it is answered.

        While parts of a message move, either way, it stays until one is complete.
        """
        ready = self._complete()
        while not ready and self._traffic.spins:
            ready = self._complete()
        for child in ready:
            self._listening.remove(child)
            self.vigil.heard(child, time.perf_counter())
        return [(child, self._frames[child]) for child in ready]

    def _complete(self) -> list[int]:
        ready = []
        for child in tuple(self._listening):
            try:
                if self._traffic.test(self._receives[child]):
                    ready.append(child)
            except Exception as error:
                self._note(child, error)
        return ready

    def reply(self, child: int, frame: Frame) -> None:
        """Send weights; the frame stays untouched while its ``in_flight`` is above 0."""
        self._finish_send(child)
        self._listen(child)  # before the answer, so that the next UP finds its receive posted
        self._send(child, frame)
        if frame.attached:
            with self._noting_losses(child):
                link.send_bytes(self._comm, frame.attached, child)

    def _send(self, child: int, frame: Frame) -> None:
        if child in self._forgotten:
            return
        with self._noting_losses(child):
            request = self._comm.Isend(frame.message, child, link.DOWN)
            frame.in_flight += 1
            self._sends[child] = (request, frame)

    def release(self, child: int) -> None:
        """Answer a BYE. The child's frame keeps its content: its update may still be pending."""
        self._finish_send(child)
        self._send(child, self._final)

    def reap(self) -> None:
        """Note which sends have ended."""
        for child, (request, _frame) in list(self._sends.items()):
            is_done = True  # where it has failed, too
            with self._noting_losses(child):
                is_done = request.Test()
            if is_done:
                self._finish_send(child)

    def _finish_send(self, child: int) -> None:
        if child in self._sends:
            request, frame = self._sends.pop(child)
            frame.in_flight -= 1
            with self._noting_losses(child):
                link.wait(request)  # the child has it already: it spoke again, or Test said so

    def close(self) -> None:
        """Complete what is under way and free the requests."""
        for child in list(self._sends):
            self._finish_send(child)
        for child in tuple(self._listening):
            with self._noting_losses(child):
                self._receives[child].Cancel()
                link.wait(self._receives[child])
        self._listening.clear()
        for child, request in self._receives.items():
            if child not in self._forgotten:
                request.Free()
        self._receives.clear()


class ChildEnd:
    """A worker's end: one message up, one message down. watch: is told of the waiting."""

    def __init__(
        self, comm: "MPI.Intracomm", parent: int, down: Frame, watch: Watch | None = None
    ) -> None:
        self._comm = comm
        self._watch = watch or Watch()
        self._parent = parent
        self.down = down  # where the next answer is received; the newest one

    def exchange(self, up: Frame) -> Frame:
        """Send ``up`` and return the answer, in a buffer that the next exchange overwrites.

        Raises PeersLost where the parent is gone, or the ranks regroup.
        """
        poll = self._watch.poll
        with ulfm.losses(), self._watch.waiting(f"rank {self._parent}"):
            receive = self._comm.Irecv(self.down.buffer, self._parent, link.DOWN)
            send = self._comm.Isend(up.message, self._parent, link.UP)
            link.wait(receive, poll)
            link.wait(send, poll)
            self.down.attached = b""
            if self.down.header.flags & Flag.GIFT:
                self.down.attached = link.receive_bytes(self._comm, self._parent)
        return self.down
