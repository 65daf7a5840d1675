"""The processes behind the ranks: what state they are in, and the end of those that hang.

Known of processes on this machine only, from Linux's /proc (man 5 proc); elsewhere nothing is
known and nothing can be ended.
"""

import os
import signal
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from nnlo.mpi import link

if TYPE_CHECKING:
    from mpi4py import MPI

State = Literal["stopped", "running", "gone"]

KILL_S = 2.0
"""How long the kernel may take to end processes."""

_PROC = Path("/proc")
_AFTER_NAME = 3  # number of the first field behind the name in /proc/<pid>/stat, from 1
_START_TIME = 22


class Process(NamedTuple):
    """A process and where it lives.

    machine: equal for processes that see each other in /proc. started: when, in clock ticks
    since the boot of the machine, so that another process with a reused number is told apart;
    0 where there is no /proc.
    """

    host: str
    machine: str
    pid: int
    started: int

    @classmethod
    def own(cls) -> Self:
        """This process."""
        pid = os.getpid()
        found = _look_up(pid)
        return cls(link.host(), _machine(), pid, found[1] if found else 0)

    def state(self) -> State:
        """For a process on this machine; it may have changed when this returns."""
        found = _look_up(self.pid)
        if found is None or found[1] != self.started or found[0] in "ZX":
            return "gone"  # a zombie runs no more, whoever is to collect it
        return "stopped" if found[0] in "Tt" else "running"


class Registry:
    """Which process each rank is.

    processes: that of rank i at place i.
    """

    def __init__(self, processes: Sequence[Process]) -> None:
        self._processes = tuple(processes)
        self._own = Process.own()

    @classmethod
    def gather(cls, comm: "MPI.Intracomm") -> Self:
        """Of the ranks of ``comm``; collective."""
        return cls(comm.allgather(Process.own()))

    def restricted(self, ranks: Sequence[int]) -> "Registry":
        """Of some ranks with new numbers: new rank i is the old ``ranks[i]``."""
        return Registry([self._processes[rank] for rank in ranks])

    def name(self, rank: int) -> str:
        """How a user finds the process of ``rank``."""
        process = self._processes[rank]
        return f"pid {process.pid} on {process.host}"

    def state(self, rank: int) -> State | None:
        """What the process of ``rank`` does; None where that cannot be seen from here."""
        process = self._processes[rank]
        if process.machine != self._own.machine or not process.started:
            return None
        return process.state()

    def kill(self, ranks: Collection[int]) -> set[int]:
        """End what keeps ``ranks``, all of one worker, from going on; return who is dead now.

        Those that are stopped or gone are to blame, and the others just wait for them; where
        there are none of these, all are ended. Never this process itself. Ranks that live on,
        on other machines for example, are not returned. Takes KILL_S at most.
        """
        states = {rank: self.state(rank) for rank in ranks if self._processes[rank] != self._own}
        known = {rank for rank, state in states.items() if state is not None}
        to_blame = {rank for rank in known if states[rank] != "running"} or known
        for rank in to_blame:
            self._kill(rank)
        deadline = time.monotonic() + KILL_S
        while True:
            dead = {rank for rank in to_blame if self.state(rank) == "gone"}
            if dead == to_blame or time.monotonic() > deadline:
                return dead
            time.sleep(1e-3)

    def _kill(self, rank: int) -> None:
        if self.state(rank) != "gone":  # its number may belong to another process by now
            # It may just have ended, or belong to another user now: state() will tell.
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self._processes[rank].pid, signal.SIGKILL)


def _look_up(pid: int) -> tuple[str, int] | None:
    """The state letter and start time of a process, None where there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold spaces and brackets
    return fields[0], int(fields[_START_TIME - _AFTER_NAME])


def _machine() -> str:
    """One name for all processes whose numbers are of one kind: a host's, or a container's."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:
        return link.host()
