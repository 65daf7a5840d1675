"""A master and its workers in one process, one message after another: no MPI, no threads."""

from collections.abc import Callable, Generator, Mapping, Sequence

from nnlo.mpi.frame import Frame, Header, Kind
from nnlo.mpi.master import Master

Order = Callable[[Sequence[int]], int]
"""Which of the children that have a message ready (ranks, ascending) is heard next."""


class Loopback:
    """The master's link to children in the same process. An answer is read before the master
    goes on, so its frame is never in flight."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Frame]] = []
        self._final = Frame(0)
        self._final.header = Header(Kind.FINAL)

    def reply(self, child: int, frame: Frame) -> None:
        self.answers.append((child, frame))

    def release(self, child: int) -> None:
        self.answers.append((child, self._final))

    def reap(self) -> None:
        """Nothing is ever under way."""


def run_in_process(
    master: Master,
    link: Loopback,
    workers: Mapping[int, Generator[Frame, Frame, None]],
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
        while link.answers:
            answered, down = link.answers.pop(0)
            try:
                ready[answered] = workers[answered].send(down)
            except StopIteration:
                continue
        poll()
