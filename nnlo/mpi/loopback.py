"""A master and its workers in one process, one message after another: no MPI, no threads."""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Protocol

from nnlo.history import History
from nnlo.mpi.frame import Frame, Header, Kind
from nnlo.mpi.master import Master

Order = Callable[[Sequence[int]], int]
"""Which of the children that have a message ready (ranks, ascending) is heard next."""


class Loopback:
    """The master's link to children in the same process. An answer is in flight until its
    child has taken it."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Frame]] = []
        self._final = Frame(0)
        self._final.header = Header(Kind.FINAL)

    def reply(self, child: int, frame: Frame) -> None:
        frame.in_flight += 1
        self.answers.append((child, frame))

    def release(self, child: int) -> None:
        self._final.in_flight += 1
        self.answers.append((child, self._final))

    def reap(self) -> None:
        """An answer is taken by its child, not in the background."""


Worker = Generator[Frame, Frame, None]
"""Yields its messages, is sent the answers."""


class Middle(Protocol):
    """A rank between workers and a parent: ``SubMaster`` or ``Branch``."""

    history: History

    @property
    def finished(self) -> bool:
        """True once the parent has answered the last message."""

    def receive(self, child: int, frame: Frame) -> None: ...

    def up(self) -> Frame | None: ...

    def answer(self, down: Frame) -> None: ...

    def landing(self) -> Frame | None:
        """Where the parent's next answer is best received, if that matters."""

    def failure(self, error: Exception, frame: Frame) -> Frame | None:
        """Its code has raised: end what is below; the message that is due, maybe ``frame``."""

    def suspect(self, child: int) -> None:
        """``child`` is silent: rounds close without it until it speaks again."""


def run_in_process(
    master: Master,
    link: Loopback,
    workers: Mapping[int, Worker],
    order: Order = min,
    poll: Callable[[], None] = lambda: None,
) -> None:
    """Let the workers train until all have left; ``poll`` is called after each message.

    What a worker raises goes to the caller.
    """
    ready = {rank: next(worker) for rank, worker in workers.items()}
    while not master.finished:
        child = order(sorted(ready))
        master.receive(child, ready.pop(child))
        _deliver(link, workers, ready)
        poll()


def branch_in_process(
    middle: Middle, link: Loopback, workers: Mapping[int, Worker], order: Order = min
) -> Worker:
    """One worker made of a rank in the middle and the workers under it, in this process."""
    ready = {rank: next(worker) for rank, worker in workers.items()}
    while True:
        while (up := middle.up()) is not None:
            middle.answer((yield up))
            _deliver(link, workers, ready)
            if middle.finished:
                return
        _deliver(link, workers, ready)
        child = order(sorted(ready))
        middle.receive(child, ready.pop(child))
        _deliver(link, workers, ready)


def _deliver(link: Loopback, workers: Mapping[int, Worker], ready: dict[int, Frame]) -> None:
    """Hand all answers to the workers and take their next messages."""
    while link.answers:
        answered, down = link.answers.pop(0)
        try:
            ready[answered] = workers[answered].send(down)
        except StopIteration:
            continue
        finally:
            down.in_flight -= 1
