"""Losing ranks without losing the job: Open MPI's user-level failure mitigation (ULFM).

A job survives the death of a rank where it was started with ``mpirun --with-ft ulfm``; else MPI
ends all ranks, and everything here is right and trivial. The second file that imports mpi4py.

What MPI reports of a death depends on the call. A call that names the dead rank fails; so does
a collective, but not on every rank: who has its result already goes on, and one that waits for a
live rank waits for ever. So whoever fails in a collective revokes the communicator, which makes
every call on it fail for all.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TypeVar

from nnlo.errors import NNLOError
from nnlo.mpi import link

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")


class PeersLost(Exception):
    """A rank that this one needs is dead, or another one has found that and revoked the
    communicator. Never reaches the user."""


def is_on() -> bool:
    """Whether this job goes on when a rank dies."""
    return link.is_fault_tolerant()


@contextmanager
def losses(*comms: "MPI.Intracomm | None") -> Iterator[None]:
    """Turn the errors of MPI that tell of a death into PeersLost; others pass.

    comms: where a collective is under way, whose error may be any once a rank of it is dead.
    """
    try:
        yield
    except Exception as error:
        if tells_of_loss(error, *comms):
            raise PeersLost(str(error)) from error
        raise


def tells_of_loss(error: Exception, *comms: "MPI.Intracomm | None") -> bool:
    """Whether ``error`` is MPI's way to say that a rank is dead; ``comms`` as in ``losses``."""
    if not is_on():
        return False
    from mpi4py import MPI

    if not isinstance(error, MPI.Exception):
        return False
    kinds = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED)
    return error.Get_error_class() in kinds or any(_is_hurt(comm) for comm in comms)


def _is_hurt(comm: "MPI.Intracomm | None") -> bool:
    return comm is not None and (comm.Is_revoked() or comm.Get_failed().size > 0)


def revoke(comm: "MPI.Intracomm | None") -> None:
    """Make every call on ``comm`` fail, on all its ranks, but those of this file."""
    if comm is not None and is_on():
        comm.Revoke()


def failed_ranks(comm: "MPI.Intracomm") -> frozenset[int]:
    """Ranks of ``comm`` that this one knows to be dead."""
    if not is_on():
        return frozenset()
    failed = comm.Get_failed()
    return frozenset(failed.Translate_ranks(range(failed.size), comm.Get_group()))


def agreed(comm: "MPI.Intracomm", flag: bool, meanwhile: Callable[[], None] | None = None) -> bool:
    """Whether all living ranks say ``flag`` and nobody has died meanwhile; the same on all.

    Collective, also on a revoked communicator. meanwhile: called again and again.
    """
    if not is_on():
        return all(comm.allgather(flag))
    import numpy as np

    comm.Ack_failed()
    answer = np.array([flag], np.int32)
    try:
        with losses(comm):
            link.wait(comm.Iagree(answer), meanwhile)
    except PeersLost:  # raised on all ranks or none
        return False
    return bool(answer[0])


def shrink(comm: "MPI.Intracomm") -> "MPI.Intracomm":
    """A new communicator of the living ranks of ``comm``, in their order; collective.

    To be called after ``agreed``, in which all meet: a Shrink that waits takes a whole core, and
    Ishrink fails on a revoked communicator (Open MPI 5.0.11: ERR_INTERN). ``comm`` is left as it
    is, since to free it would need its dead ranks.
    """
    return comm.Shrink()  # type: ignore[return-value]


def places(part: "MPI.Intracomm", whole: "MPI.Intracomm") -> list[int]:
    """Where the ranks of ``part`` are in ``whole``."""
    group = part.Get_group()
    return list(group.Translate_ranks(range(group.size), whole.Get_group()))


def die() -> NoReturn:
    """End this rank so that the others hear of it: of an exit code MPI would tell nobody."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a killed process goes on")


def survivors(comm: "MPI.Intracomm | None") -> "MPI.Intracomm | None":
    """The communicator of the living ranks, once all of them are here."""
    return None if comm is None else together_with_survivors(comm, link.barrier)[0]


def together_with_survivors(
    comm: "MPI.Intracomm", step: Callable[["MPI.Intracomm"], T]
) -> tuple["MPI.Intracomm", T]:
    """The communicator of the living ranks, and the result of ``step`` on it.

    ``step`` is collective and is repeated on ever smaller communicators until it has succeeded
    on all their ranks.
    """
    while True:
        result: list[T] = []
        try:
            with losses(comm):
                result.append(step(comm))
        except PeersLost:
            revoke(comm)  # others may wait in it for ranks that live
        if not is_on() or agreed(comm, bool(result)):
            return comm, result[0]
        comm = shrink(comm)


def all_or_none(comm: "MPI.Intracomm", step: Callable[[], T]) -> T:
    """The result of ``step``, which is collective on ``comm``; an NNLOError of it passes.

    Raises PeersLost on all living ranks of ``comm`` where any of them has lost another in it.
    """
    result: list[T] = []
    error: NNLOError | None = None
    try:
        with losses(comm):
            result.append(step())
    except PeersLost:
        revoke(comm)
    except NNLOError as raised:
        error = raised
    if is_on() and not agreed(comm, bool(result or error)):
        raise PeersLost("ranks were lost while others wait for them")
    if error is not None:
        raise error
    return result[0]
