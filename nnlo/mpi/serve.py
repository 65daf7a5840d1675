"""The master's loop over MPI, and how signals end it in order."""

import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from nnlo.mpi import ulfm
from nnlo.mpi.ends import ChildEnd, ParentEnd
from nnlo.mpi.frame import Frame
from nnlo.mpi.guard import Guard
from nnlo.mpi.link import Backoff
from nnlo.mpi.loopback import Middle
from nnlo.mpi.master import Master
from nnlo.mpi.root import LAST_VALIDATION_S, Root

log = logging.getLogger(__name__)

GRACE_S = 3.5
"""Seconds that workers have to say BYE after a signal or an error."""


def serve(master: Master, end: ParentEnd, root: Root, guard: Guard) -> bool:
    """Serve the children until all have left; False if some had to be given up.

    Raises PeersLost where ranks are gone without which the others must begin anew.
    """
    backoff = Backoff()
    deadline: float | None = None
    while not master.finished:
        arrivals = end.arrivals()
        try:
            for child, frame in arrivals:
                master.receive(child, frame)
            guard.check(bool(arrivals))
            root.poll(master)
        except ulfm.PeersLost:
            raise
        except Exception as error:
            master.fail(error)
        if arrivals:
            backoff.reset()
        else:
            backoff.sleep()
        if deadline is None and (root.interrupted or master.error):
            deadline = time.perf_counter() + GRACE_S
        if deadline is not None and time.perf_counter() > deadline:
            log.warning("ranks %s did not end in %.1f s", sorted(master.active), GRACE_S)
            return False
    return True


def relay(middle: Middle, end: ParentEnd, parent: ChildEnd, spare: Frame, guard: Guard) -> None:
    """Serve a sub-master's children and pass on what is due, until all have left.

    spare: for the message that its own code has failed. Raises RuntimeError where it has, and
    the children do not end in time; PeersLost where a child is gone.
    """
    backoff = Backoff()
    failed: Exception | None = None
    deadline = math.inf
    while not middle.finished:
        arrivals = end.arrivals()
        try:
            for child, frame in arrivals:
                middle.receive(child, frame)
            guard.check(bool(arrivals))
            up = middle.up()
        except ulfm.PeersLost:
            raise
        except Exception as error:
            up = middle.failure(error, spare)
            failed, deadline = error, time.perf_counter() + GRACE_S
        if time.perf_counter() > deadline:
            raise RuntimeError("a sub-master failed, and its children did not end") from failed
        if up is not None:
            parent.down = middle.landing() or parent.down
            middle.answer(parent.exchange(up))
        if arrivals or up is not None:
            backoff.reset()
        else:
            backoff.sleep()


@contextmanager
def signals(root: Root) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGUSR1 end the run in order."""

    def note(number: int, _frame: FrameType | None) -> None:
        root.interrupted = f"interruption ({signal.Signals(number).name})"
        root.background.deadline = time.perf_counter() + LAST_VALIDATION_S

    with handled_signals(note):
        yield


@contextmanager
def ignored_signals() -> Iterator[None]:
    """Workers go on until rank 0, which gets the same signal, tells them to stop."""
    with handled_signals(signal.SIG_IGN):
        yield


@contextmanager
def handled_signals(handler: Any) -> Iterator[None]:
    """Let ``handler`` take SIGINT, SIGTERM and SIGUSR1, where this is the main thread."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    try:
        before = {number: signal.signal(number, handler) for number in numbers}
    except ValueError:  # not the main thread: the program that embeds us handles signals
        yield
        return
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
