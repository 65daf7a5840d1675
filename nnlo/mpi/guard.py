"""What a master does about children that are dead or silent."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from nnlo.errors import TrainingError
from nnlo.mpi import ulfm
from nnlo.mpi.ends import ParentEnd
from nnlo.mpi.fence import Registry
from nnlo.mpi.standstill import name_ranks
from nnlo.mpi.vigil import Dead, Silent
from nnlo.mpi.watch import Watch

log = logging.getLogger(__name__)

QUIET_S = 1.0
"""Seconds without a message after which it is worth saying whom this rank waits for."""


class Keeper(Protocol):
    """Who is told: a master, or a rank in the middle."""

    def suspect(self, child: int) -> None:
        """``child`` is silent: rounds close without it until it speaks again."""


class Guard:
    """Looks after the children of one ``keeper``, behind ``end``.

    ranks_of: the ranks that a child stands for, itself among them. name: of a rank, for people.
    lose: hands on the work of a child that is gone; None where the ranks must regroup. watch:
    answers rank 0, or asks, when nothing moves.
    """

    def __init__(
        self,
        keeper: Keeper,
        end: ParentEnd,
        registry: Registry,
        ranks_of: Callable[[int], Sequence[int]],
        name: Callable[[int], str],
        watch: Watch,
        lose: Callable[[int, str], None] | None = None,
    ) -> None:
        self._keeper = keeper
        self._end = end
        self._registry = registry
        self._ranks_of = ranks_of
        self._name = name
        self._watch = watch
        self._lose = lose
        self._awaited: list[int] = []
        self._quiet_since = time.perf_counter()

    def check(self, moved: bool) -> None:
        """Act on what is new; to be called in the loop, after arrivals have been taken.

        moved: whether there were any.

        Raises PeersLost where a child is gone and the ranks must regroup, and TrainingError
        where one hangs that nothing can be done about.
        """
        now = time.perf_counter()
        if moved:
            self._watch.moved()
            self._quiet_since = now
        elif now - self._quiet_since > QUIET_S and self._awaited != self._end.awaited:
            self._awaited = list(self._end.awaited)
            self._watch.doing = f"waiting for {name_ranks(self._awaited)}"
        self._watch.poll()
        for child in tuple(self._end.lost):
            self._gone(child, "has died")
        for verdict in self._end.vigil.check(now):
            if isinstance(verdict, Silent):
                self._suspect(verdict)
            else:
                self._end_for_good(verdict)

    def _gone(self, child: int, how: str) -> None:
        self._end.forget(child)
        for rank in self._ranks_of(child):
            self._watch.forget(rank)
        if self._lose is None:
            raise ulfm.PeersLost(f"rank {child} {how}")
        log.warning("%s (%s) %s", self._name(child), self._registry.name(child), how)
        self._lose(child, how)

    def _suspect(self, verdict: Silent) -> None:
        usual = "it has not spoken yet"
        if verdict.usual_s is not None:
            usual = f"usually {_seconds(verdict.usual_s)}"
        log.warning(
            "%s (%s) has been silent for %s (%s)%s: rounds close without it until it speaks",
            self._name(verdict.child),
            self._registry.name(verdict.child),
            _seconds(verdict.silence_s),
            usual,
            self._states(verdict.child),
        )
        self._keeper.suspect(verdict.child)

    def _states(self, child: int) -> str:
        """What the processes behind a child are seen to do, where that explains something."""
        stopped = [r for r in self._ranks_of(child) if self._registry.state(r) == "stopped"]
        return f", process of rank {', '.join(map(str, stopped))} stopped" if stopped else ""

    def _end_for_good(self, verdict: Dead) -> None:
        child, how = verdict.child, f"has been silent for {_seconds(verdict.silence_s)}"
        if not ulfm.is_on():
            # To end it would end the whole job, without a word.
            raise TrainingError(
                f"every worker must speak, got rank {child} ({self._registry.name(child)}), "
                f"which {how}{self._states(child)}; look for what holds it up, raise "
                "--suspect-after, or run under nnlorun --fault-tolerant to go on without it"
            )
        killed = self._registry.kill(self._ranks_of(child))
        if not killed:
            raise TrainingError(
                f"a worker that hangs must be ended, got rank {child} "
                f"({self._registry.name(child)}) out of reach; end that process by hand"
            )
        if self._lose is not None:
            self._gone(child, f"{how} and has been ended")
        else:
            log.warning("%s %s: %s ended", self._name(child), how, name_ranks(killed))


def _seconds(time_s: float) -> str:
    return f"{time_s:.0f} s" if time_s >= 10.0 else f"{time_s:.2g} s"
