"""The ranks of a job that are left: how they find together once some have died."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING

from nnlo.errors import RanksLost
from nnlo.mpi import link, ulfm
from nnlo.mpi.fence import Registry
from nnlo.mpi.topology import Topology
from nnlo.mpi.vigil import DEAD

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger(__name__)

_EVERY_S = 0.5  # between two looks at the processes

_AGAIN = (
    "start it again from its newest checkpoint (--restore), or let "
    "nnlorun --max-restarts 3 do that by itself"
)


class Ranks:
    """Which ranks take part, and who of them does what.

    comm: a communicator of the job's own, None where there is a single rank. topology: of the
    ranks in ``comm``; it knows them by the numbers that they had at the start. lost: the names
    of those that have died since somebody has taken note.
    """

    def __init__(
        self, given: "MPI.Intracomm | None", topology: Topology, suspect_after: float
    ) -> None:
        """given: stays the caller's; ``open`` makes another of the same ranks."""
        self.comm: MPI.Intracomm | None = None
        self.topology = topology
        self.lost: list[str] = []
        self._given = given
        self._suspect_after = suspect_after
        self._registry: Registry | None = None
        self._is_whole = True

    @property
    def rank(self) -> int:
        """This one's place in ``comm``."""
        comm = self.comm or self._given
        return 0 if comm is None else comm.rank

    def open(self) -> None:
        """Collective, and before all else."""
        if self._given is None or self.comm is not None:
            return
        given, comm = ulfm.together_with_survivors(self._given, lambda one: one.Dup())
        if comm.size < self.topology.n_ranks:
            self.topology = self.topology.reduced_to(ulfm.places(given, self._given))
        self.comm = comm
        self._registry = Registry.gather(comm) if ulfm.is_on() else None

    def meet(self, *, done: bool, over: bool = False) -> bool:
        """Whether all ranks are ``done``, and none has died; the same on all of them.

        Else ``comm`` and ``topology`` are those of the ranks that are left. All of them raise
        RanksLost where they can't go on; over: where the training lies behind them, they need
        rank 0 only. Waits for all; rank 0 ends processes that are stopped.
        """
        if self.comm is None or not ulfm.is_on():
            return done
        if not done:
            ulfm.revoke(self.comm)
        if ulfm.agreed(self.comm, done, self.end_stopped()):
            return True
        self._shrink(self.comm, over)
        return False

    def end_stopped(self) -> Callable[[], None] | None:
        """To be called on rank 0 while it waits for all; None on others."""
        if self.rank > 0 or self._registry is None:
            return None
        return end_stopped(self._registry, self.topology.n_ranks, self._suspect_after)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Let rank 0 end processes that stay stopped ten times as long as makes one suspect.

        In a thread: others may wait for such a rank within MPI.
        """
        if self.rank > 0 or self._registry is None:
            yield
            return
        after = DEAD * self._suspect_after
        look, is_over = end_stopped(self._registry, self.topology.n_ranks, after), Event()

        def keep_looking() -> None:
            while not is_over.wait(_EVERY_S):
                look()

        thread = Thread(target=keep_looking, name="nnlo-guard", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def _shrink(self, old: "MPI.Intracomm", over: bool) -> None:
        new, before = ulfm.shrink(old), self.topology
        left = ulfm.places(new, old)
        gone = sorted(set(range(before.n_ranks)) - set(left))
        self._is_whole = False
        self.comm = new
        self.topology = before.reduced_to(left)
        for rank in gone:
            role = before.name(rank).removesuffix(f" {before.number(rank)}")
            self.lost.append(f"rank {before.number(rank)} ({role})")
        if self._registry is not None:
            self._registry = self._registry.restricted(left)
        if 0 in gone:
            raise RanksLost(f"rank 0 must live until the run has ended, got its death; {_AGAIN}")
        if gone and before.n_shards > 1 and not over:
            raise RanksLost(
                "no rank must be lost where masters share the weights, got the death of "
                f"{' and '.join(self.lost)}; {_AGAIN}"
            )
        if new.size == 1:
            self.comm = None

    def wait_for_all(self) -> None:
        """The last meeting; collective. Raises RanksLost where rank 0 has died."""
        while self.comm is not None:
            try:
                with ulfm.losses(self.comm):
                    link.barrier(self.comm, self.end_stopped())
                done = True
            except ulfm.PeersLost:
                done = False
            if self.meet(done=done, over=True):
                return

    def free(self, *parts: "MPI.Intracomm | None") -> None:
        """Free ``comm`` and its ``parts``; collective.

        After a death nothing is freed: that would need the dead.
        """
        if self.comm is not None and self._is_whole:
            # Others may have ended already, after all have met for the last time.
            with suppress(ulfm.PeersLost), ulfm.losses(self.comm):
                for comm in (*parts, self.comm):
                    if comm is not None:
                        comm.Free()
        self.comm = None


def end_stopped(registry: Registry, n_ranks: int, after: float) -> Callable[[], None]:
    """What ends processes that have been stopped (SIGSTOP) for ``after`` seconds of its calls.

    To be called again and again by a rank that waits. after: 0 ends none.
    """
    stopped_s: dict[int, float] = {}
    last = time.monotonic()

    def look() -> None:
        nonlocal last
        now = time.monotonic()
        if not after or now - last < _EVERY_S:
            return
        passed, last = min(now - last, 2 * _EVERY_S), now  # less where this process was stopped
        for rank in range(n_ranks):
            if registry.state(rank) != "stopped":
                stopped_s.pop(rank, None)
                continue
            stopped_s[rank] = stopped_s.get(rank, 0.0) + passed
            if stopped_s[rank] > after:
                log.warning("%s has been stopped for %.0f s: ended", registry.name(rank), after)
                registry.kill({rank})

    return look
