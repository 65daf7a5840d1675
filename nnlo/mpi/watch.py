"""Who waits for whom: rank 0 asks all ranks when nothing has moved for long.

Questions and answers have a communicator of their own and are in no order with the messages of
the training. A rank answers from the loops in which it waits; one that computes, is inside a
blocking call of MPI, is stopped or is dead does not. There is at most one question on its way
to a rank, so that everything that was sent is received before the end (``close``).
"""

import logging
import math
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from nnlo.mpi import link, ulfm
from nnlo.mpi.fence import Registry
from nnlo.mpi.standstill import describe
from nnlo.mpi.vigil import Stall

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger(__name__)

EVERY_S = 0.05  # between two looks at messages
ANSWER_S = 1.0  # that a rank has for its answer
CLOSE_S = 10.0  # that ranks wait for each other at the end

_ASK, _END = 1, 2
_SINCE = struct.Struct("<d")
_ANSWER_BYTES = 256

Clock = Callable[[], float]


def start(comm: "MPI.Intracomm", registry: Registry, after: float) -> "Watch":
    """The watch of this rank among those of ``comm``; collective.

    registry: of the same ranks. after: as for ``Asking``.
    """
    own = comm.Dup()
    return Asking(own, registry, after) if own.rank == 0 else Answering(own).open()


def _cancel_receive(request: Any) -> None:
    """Make sure that nothing is written to the buffer of ``request`` any more."""
    with suppress(ulfm.PeersLost), ulfm.losses():
        if not request.Test():
            request.Cancel()
            link.wait(request)
    if request:  # a persistent one
        request.Free()


class Watch:
    """What this rank does and since when. This class alone tells nobody.

    doing: what fills the gap in "rank 3 is <doing>".
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._doing = "working"
        self._since = clock()

    @property
    def doing(self) -> str:
        return self._doing

    @doing.setter
    def doing(self, what: str) -> None:
        self._doing, self._since = what, self._clock()

    @contextmanager
    def waiting(self, whom: str) -> Iterator[None]:
        """Note that this rank waits for ``whom`` meanwhile, for example "rank 0"."""
        before = self._doing
        self.doing = f"waiting for {whom}"
        try:
            yield
        finally:
            self.doing = before

    def moved(self) -> None:
        """Something has happened that brings the run forward; counts on rank 0."""

    def poll(self) -> None:
        """Answer, or ask; for loops that wait, however often. Never waits or raises."""

    def forget(self, rank: int) -> None:
        """``rank`` is dead."""

    def close(self, limit_s: float = CLOSE_S) -> None:
        """End in order; all living ranks call it at about the same time, others are not waited
        for longer than ``limit_s``."""

    def abandon(self) -> None:
        """Leave at once, where other ranks cannot end in order."""


class Answering(Watch):
    """Of the other ranks: they answer rank 0.

    comm: for questions and answers alone; the watch frees it. ``open`` it first.
    """

    def __init__(self, comm: "MPI.Intracomm", clock: Clock = time.monotonic) -> None:
        super().__init__(clock)
        self._comm = comm
        self._question = np.zeros(1, np.uint8)
        self._answer = np.zeros(_ANSWER_BYTES, np.uint8)
        self._receive: Any = None
        self._send: Any = None
        self._is_over = False  # rank 0 has said so
        self._next_look = 0.0

    def open(self) -> "Answering":
        """Be ready for questions; returns itself."""
        self._receive = self._comm.Recv_init(self._question, 0, link.DOWN)
        self._receive.Start()
        return self

    def poll(self) -> None:
        """Answer if rank 0 has asked."""
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + EVERY_S
            self._look(now)

    def _look(self, now: float) -> None:
        try:
            with ulfm.losses():
                if not self._is_over and self._receive is not None and self._receive.Test():
                    self._react(now)
        except ulfm.PeersLost:  # whoever exchanges with rank 0 hears of it as well
            self.abandon()

    def _react(self, now: float) -> None:
        if self._send is not None:
            link.wait(self._send)  # rank 0 has it already: it has asked again
            self._send = None
        if self._question[0] == _END:
            self._is_over = True
            return
        self._receive.Start()
        text = self._doing.encode()[: _ANSWER_BYTES - _SINCE.size]
        self._answer[:] = 0
        message = _SINCE.pack(now - self._since) + text
        self._answer[: len(message)] = np.frombuffer(message, np.uint8)
        self._send = self._comm.Isend(self._answer, 0, link.UP)

    def close(self, limit_s: float = CLOSE_S) -> None:
        deadline = time.monotonic() + limit_s
        backoff = link.Backoff()
        while self._receive is not None and not self._is_over and time.monotonic() < deadline:
            self._look(self._clock())
            backoff.sleep()
        self.abandon()
        if self._is_over:
            self._comm.Free()
            self._is_over = False

    def abandon(self) -> None:
        self._next_look = math.inf
        if self._receive is not None:
            _cancel_receive(self._receive)
        self._receive = None


class Asking(Watch):
    """Of rank 0: asks all others.

    comm: as theirs. registry: of the same ranks. after: seconds without movement (see
    ``Stall``) after which ``poll`` by itself asks; 0 for never. tell: given each line of a
    report.
    """

    def __init__(
        self,
        comm: "MPI.Intracomm",
        registry: Registry,
        after: float,
        clock: Clock = time.monotonic,
        tell: Callable[[str], object] = log.warning,
    ) -> None:
        super().__init__(clock)
        self._comm = comm
        self._registry = registry
        self._tell = tell
        self._stall = Stall(after, clock())
        self._alive = set(range(1, comm.size))
        self._asked: dict[int, tuple[Any, Any]] = {}  # send and receive of each question
        self._questions = {kind: np.array([kind], np.uint8) for kind in (_ASK, _END)}
        self._buffers = {rank: np.zeros(_ANSWER_BYTES, np.uint8) for rank in self._alive}
        self._answers: dict[int, tuple[str, float]] = {}
        self._deadline: float | None = None  # of the answers to be collected
        self._next_look = 0.0

    def moved(self) -> None:
        self._stall.moved(self._clock())

    def poll(self) -> None:
        """Ask when nothing has moved for long, take answers, tell the report."""
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + EVERY_S
        if self._stall.is_due(now):
            self.ask()
        if self._asked:
            self._take_answers()
        self._report(now)

    def ask(self) -> None:
        """Begin a report, which ``poll`` tells when all have answered or have had ANSWER_S."""
        self._answers.clear()
        self._deadline = self._clock() + ANSWER_S
        for rank in sorted(self._alive - self._asked.keys()):  # the others have a question still
            with self._noting_loss(rank):
                send = self._comm.Isend(self._questions[_ASK], rank, link.DOWN)
                receive = self._comm.Irecv(self._buffers[rank], rank, link.UP)
                self._asked[rank] = (send, receive)

    def _report(self, now: float) -> None:
        if self._deadline is None:
            return
        missing = self._alive - self._answers.keys()
        if missing and now < self._deadline:
            return
        self._deadline = None
        stalled_s = self._stall.stalled_s(now)
        head = f"nothing has moved for {stalled_s:.0f} s: rank 0 is {self._doing}"
        lost = set(range(1, self._comm.size)) - self._alive
        for line in describe(head, lost, missing, self._answers, self._registry):
            self._tell(line)

    def _take_answers(self) -> None:
        for rank, (send, receive) in list(self._asked.items()):
            with self._noting_loss(rank):
                if not receive.Test():
                    continue
                link.wait(send)  # it is answered
                del self._asked[rank]
                message = self._buffers[rank].tobytes()
                doing = message[_SINCE.size :].rstrip(b"\0").decode(errors="ignore")
                self._answers[rank] = (doing, *_SINCE.unpack_from(message))

    @contextmanager
    def _noting_loss(self, rank: int) -> Iterator[None]:
        try:
            with ulfm.losses():
                yield
        except ulfm.PeersLost:
            self.forget(rank)

    def forget(self, rank: int) -> None:
        self._alive.discard(rank)
        self._answers.pop(rank, None)
        if rank in self._asked:
            _, receive = self._asked.pop(rank)  # the question, of one byte, is on its way
            _cancel_receive(receive)

    def close(self, limit_s: float = CLOSE_S) -> None:
        deadline = time.monotonic() + limit_s
        ends = {}
        for rank in sorted(self._alive):
            with self._noting_loss(rank):
                ends[rank] = self._comm.Isend(self._questions[_END], rank, link.DOWN)
        backoff = link.Backoff()
        while (self._asked or ends) and time.monotonic() < deadline:
            self._take_answers()
            for rank, send in list(ends.items()):
                with self._noting_loss(rank):
                    if send.Test():
                        del ends[rank]
            for rank in ends.keys() - self._alive:
                del ends[rank]
            backoff.sleep()
        is_whole = len(self._alive) == self._comm.size - 1
        if is_whole and not self._asked and not ends:
            self._comm.Free()
        self.abandon()

    def abandon(self) -> None:
        self._next_look = math.inf
        for rank in list(self._asked):
            self.forget(rank)
        self._alive.clear()
