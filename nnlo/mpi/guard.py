"""What a master does about children that are dead or silent."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from nnlo.errors import TrainingError
from nnlo.mpi import ulfm
from nnlo.mpi.ends import ParentEnd
from nnlo.mpi.fence import Registry
from nnlo.mpi.vigil import Dead, Silent

log = logging.getLogger(__name__)


class Keeper(Protocol):
    """Who is told: a master, or a rank in the middle."""

    def suspect(self, child: int) -> None:
        """``child`` is silent: rounds close without it until it speaks again."""


class Guard:
    """Looks after the children of one ``keeper``, behind ``end``.

    ranks_of: the ranks that a child stands for, itself among them. name: of a rank, for people.
    lose: hands on the work of a child that is gone; None where the ranks must regroup.
    """

    def __init__(
        self,
        keeper: Keeper,
        end: ParentEnd,
        registry: Registry,
        ranks_of: Callable[[int], Sequence[int]],
        name: Callable[[int], str],
        lose: Callable[[int, str], None] | None = None,
    ) -> None:
        self._keeper = keeper
        self._end = end
        self._registry = registry
        self._ranks_of = ranks_of
        self._name = name
        self._lose = lose

    def check(self) -> None:
        """Act on what is new; to be called in the loop, after arrivals have been taken.

        Raises PeersLost where a child is gone and the ranks must regroup, and TrainingError
        where one hangs that nothing can be done about.
        """
        for child in tuple(self._end.lost):
            self._gone(child, "has died")
        for verdict in self._end.vigil.check(time.perf_counter()):
            if isinstance(verdict, Silent):
                self._suspect(verdict)
            else:
                self._end_for_good(verdict)

    def _gone(self, child: int, how: str) -> None:
        self._end.forget(child)
        if self._lose is None:
            raise ulfm.PeersLost(f"rank {child} {how}")
        log.warning("%s (%s) %s", self._name(child), self._registry.name(child), how)
        self._lose(child, how)

    def _suspect(self, verdict: Silent) -> None:
        usual = "it has not spoken yet"
        if verdict.usual_s is not None:
            usual = f"usually {verdict.usual_s:.1f} s"
        log.warning(
            "%s (%s) has been silent for %.0f s (%s)%s: rounds close without it until it speaks",
            self._name(verdict.child),
            self._registry.name(verdict.child),
            verdict.silence_s,
            usual,
            self._states(verdict.child),
        )
        self._keeper.suspect(verdict.child)

    def _states(self, child: int) -> str:
        """What the processes behind a child are seen to do, where that explains something."""
        stopped = [r for r in self._ranks_of(child) if self._registry.state(r) == "stopped"]
        return f", process of rank {', '.join(map(str, stopped))} stopped" if stopped else ""

    def _end_for_good(self, verdict: Dead) -> None:
        child, how = verdict.child, f"has been silent for {verdict.silence_s:.0f} s"
        if not ulfm.is_on():
            # To end it would end the whole job, without a word.
            raise TrainingError(
                f"every worker must speak, got rank {child} ({self._registry.name(child)}), "
                f"which {how}{self._states(child)}; look for what holds it up, raise "
                "--suspect-after, or run under nnlorun --fault-tolerant to go on without it"
            )
        killed = self._registry.kill(self._ranks_of(child))
        log.warning("%s %s: ended rank %s", self._name(child), how, sorted(killed))
        if not killed:
            raise TrainingError(
                f"a worker that hangs must be ended, got rank {child} "
                f"({self._registry.name(child)}) out of reach; end that process by hand"
            )
        if self._lose is not None:
            self._gone(child, f"{how} and was ended")
