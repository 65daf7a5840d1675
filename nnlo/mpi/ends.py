"""The two ends of an exchange over MPI: a master's and a child's."""

from typing import TYPE_CHECKING, Any

from nnlo.mpi import link
from nnlo.mpi.frame import Frame, Header, Kind

if TYPE_CHECKING:
    from mpi4py import MPI


class ParentEnd:
    """The master's end: one persistent receive a child, tested in turn, never any-source."""

    def __init__(self, comm: "MPI.Intracomm", frames: dict[int, Frame]) -> None:
        """frames: where the messages of each child are received."""
        self._comm = comm
        self._frames = frames
        self._receives: dict[int, Any] = {}
        self._listening: list[int] = []
        self._sends: dict[int, tuple[Any, Frame]] = {}
        self._final = Frame(0)
        self._final.header = Header(Kind.FINAL)
        self._traffic = link.Backoff()

    def open(self) -> None:
        """Post a receive for every child."""
        for child, frame in self._frames.items():
            self._receives[child] = self._comm.Recv_init(frame.buffer, child, link.UP)
            self._listen(child)

    def _listen(self, child: int) -> None:
        self._receives[child].Start()
        self._listening.append(child)

    def arrivals(self) -> list[tuple[int, Frame]]:
        """Messages that have come; a child sends no other before it is answered.

        While parts of a message move, either way, it stays until one is complete.
        """
        ready = self._complete()
        while not ready and self._traffic.spins:
            ready = self._complete()
        for child in ready:
            self._listening.remove(child)
        return [(child, self._frames[child]) for child in ready]

    def _complete(self) -> list[int]:
        return [c for c in self._listening if self._traffic.test(self._receives[c])]

    def reply(self, child: int, frame: Frame) -> None:
        """Send weights; the frame stays untouched while its ``in_flight`` is above 0."""
        self._finish_send(child)
        self._listen(child)  # before the answer, so that the next UP finds its receive posted
        frame.in_flight += 1
        self._sends[child] = (self._comm.Isend(frame.message, child, link.DOWN), frame)

    def release(self, child: int) -> None:
        """Answer a BYE. The child's frame keeps its content: its update may still be pending."""
        self._finish_send(child)
        self._final.in_flight += 1
        self._sends[child] = (self._comm.Isend(self._final.message, child, link.DOWN), self._final)

    def reap(self) -> None:
        """Note which sends have ended."""
        for child, (request, _frame) in list(self._sends.items()):
            if request.Test():
                self._finish_send(child)

    def _finish_send(self, child: int) -> None:
        if child in self._sends:
            request, frame = self._sends.pop(child)
            link.wait(request)  # the child has it already: it spoke again, or Test said so
            frame.in_flight -= 1

    def close(self) -> None:
        """Complete what is under way and free the requests."""
        for child in list(self._sends):
            self._finish_send(child)
        for child in self._listening:
            self._receives[child].Cancel()
            link.wait(self._receives[child])
        self._listening.clear()
        for request in self._receives.values():
            request.Free()
        self._receives.clear()


class ChildEnd:
    """A worker's end: one message up, one message down."""

    def __init__(self, comm: "MPI.Intracomm", parent: int, down: Frame) -> None:
        self._comm = comm
        self._parent = parent
        self.down = down  # where the next answer is received; the newest one

    def exchange(self, up: Frame) -> Frame:
        """Send ``up`` and return the answer, in a buffer that the next exchange overwrites."""
        receive = self._comm.Irecv(self.down.buffer, self._parent, link.DOWN)
        send = self._comm.Isend(up.message, self._parent, link.UP)
        link.wait(receive)
        link.wait(send)
        return self.down
