"""What a master does when something happens: a pure function from events to actions.

No message is sent here and no number is computed; the loop in ``master.py`` carries the
actions out. That is why every order of arrival, departure, silence and stop can be tested.
"""

import math
from collections.abc import Collection, Sequence

from nnlo.errors import ConfigError, ProtocolError
from nnlo.mpi.events import (
    Action,
    Apply,
    Arrived,
    Event,
    Hired,
    Lost,
    Release,
    Reply,
    StopAsked,
    Suspected,
)


class MasterProtocol:
    """The children of one master and the round they are in.

    children: ranks. quorum: None for asynchronous updates, each applied as it arrives; else
    the share in (0, 1] of the active children that closes a synchronous round; an update that
    comes later joins the next one, and a pull is held for the round as an update is.
    max_staleness: None, or how many updates a child may be ahead of the slowest that is active
    and unsuspected, >= 0; asynchronous only. Who is further ahead gets no answer to its update
    until the slowest catches up, leaves, dies or is suspected (stale synchronous parallel, Ho
    et al. 2013, "More effective distributed ML via a stale synchronous parallel parameter
    server"). A pull never waits for that. Unlike there, a suspect that speaks again goes on at
    the clock of the slowest: the others would else wait for all that it has missed.
    one_at_a_time: whether a pull and the update that follows it are one transaction: others
    that pull wait for their turn, in order of arrival. Asynchronous only.
    observers: further ranks that only pull and are answered at once in every mode; a run is
    not finished before they have left.
    keeps_children: whether who has said BYE rests unanswered, and may be hired again, until no
    child is active or the run stops.
    """

    def __init__(
        self,
        children: Sequence[int],
        quorum: float | None = None,
        max_staleness: int | None = None,
        observers: Collection[int] = (),
        *,
        one_at_a_time: bool = False,
        keeps_children: bool = False,
    ) -> None:
        _check(children, quorum, max_staleness, observers)
        self.quorum = quorum
        self.max_staleness = max_staleness
        self.active = set(children)
        self.observers = set(observers)  # those that have not left
        self.resting: set[int] = set()  # those that have said BYE and wait
        self.stopping = False
        self._keeps_children = keeps_children
        self._at_once = False
        self._suspects: set[int] = set()
        self._held: set[int] = set()  # active children that wait for a reply
        self._pending: set[int] = set()  # children whose update has not been applied
        # Updates of each active child that have come; an asynchronous one is applied at once.
        self._clocks = dict.fromkeys(children, 0)
        self._takes_turns = one_at_a_time and quorum is None
        self._served: int | None = None  # who was answered a pull, until its update comes
        self._queue: list[int] = []  # children whose pull waits for its turn

    @property
    def finished(self) -> bool:
        """True when every child has left or died and every update has been applied."""
        return not (self.active or self.observers or self.resting or self._pending)

    @property
    def suspects(self) -> frozenset[int]:
        return frozenset(self._suspects)

    def on(self, event: Event) -> list[Action]:
        """The actions that ``event`` calls for, in order."""
        actions: list[Action] = []
        match event:
            case Arrived(child) if child in self.observers:
                return self._observed(event)
            case Arrived():
                actions = self._arrived(event)
            case Lost(child):
                self._drop(child)
            case Suspected(child):
                if child in self.active and not self._waits(child):
                    self._suspects.add(child)
                    self._end_turn(child)
            case Hired(child):
                actions = self._hired(child)
            case StopAsked(at_once):
                self.stopping = True
                self._at_once = self._at_once or at_once
        return self._close_round() + actions + self._next_turns() + self._dismiss()

    def _waits(self, child: int) -> bool:
        return child in self._held or child in self._queue

    def _observed(self, event: Arrived) -> list[Action]:
        if event.has_update:
            raise ProtocolError(
                f"an observer must only pull, got an update from rank {event.child}; "
                "check that all ranks run the same version of NNLO"
            )
        if not event.leaves:
            return [Reply(event.child)]
        self.observers.discard(event.child)
        return [Release(event.child)]

    def _arrived(self, event: Arrived) -> list[Action]:
        child = event.child
        if child not in self.active or self._waits(child):
            raise ProtocolError(
                f"a child must wait for its answer before it sends again, got a second message "
                f"from rank {child}; check that all ranks run the same version of NNLO"
            )
        if child in self._suspects:
            self._clocks[child] = max(self._clocks[child], self._slowest())
            self._suspects.discard(child)
        self._end_turn(child)
        if event.has_update:
            self._pending.add(child)
        has_worked = event.has_update or event.refused
        if has_worked:
            self._clocks[child] += 1
        if event.leaves:
            self._drop(child)
            if not self._keeps_children:
                return [Release(child)]
            self.resting.add(child)
            return []
        if self._takes_turns and (event.pulls or not has_worked):
            self._queue.append(child)
            return []
        if not has_worked and self.quorum is None:
            return [Reply(child)]
        self._held.add(child)
        return []

    def _hired(self, child: int) -> list[Action]:
        if child not in self.resting:
            raise ProtocolError(
                f"only a child that rests can be hired, got rank {child}; report this"
            )
        self.resting.discard(child)
        self._clocks[child] = self._slowest()
        self.active.add(child)
        if child not in self._pending:
            return [Reply(child)]
        self._held.add(child)  # its next message must not replace one that is to be applied
        return []

    def _dismiss(self) -> list[Action]:
        """Release who rests once nobody can leave work to be done."""
        if self.active and not self.stopping:
            return []
        gone = [Release(child) for child in sorted(self.resting)]
        self.resting.clear()
        return [*gone]

    def _end_turn(self, child: int) -> None:
        if self._served == child:
            self._served = None

    def _next_turns(self) -> list[Action]:
        """Answer the pull whose turn it is; all of them where nothing will be applied."""
        answered = []
        while self._queue and (self._served is None or self._at_once):
            self._served = self._queue.pop(0)
            answered.append(Reply(self._served))
        return [*answered]

    def _drop(self, child: int) -> None:
        """The child is no longer there; an update that has come stays."""
        for members in (self.active, self.observers, self.resting, self._held, self._suspects):
            members.discard(child)
        if child in self._queue:
            self._queue.remove(child)
        self._end_turn(child)
        self._clocks.pop(child, None)

    def _close_round(self) -> list[Action]:
        if len(self._held) < self._needed():
            return []
        # Sorted: the sum of a synchronous round must not depend on the order of arrival.
        actions: list[Action] = [Apply(tuple(sorted(self._pending)))] if self._pending else []
        free = {child for child in self._held if self._may_go_on(child)}
        actions += [Reply(child) for child in sorted(free)]
        self._pending.clear()
        self._held -= free
        return actions

    def _needed(self) -> int:
        """How many waiting children close the round."""
        if self.quorum is None or self._at_once:
            return 0
        expected = len(self.active - self._suspects)
        return max(math.ceil(self.quorum * expected - 1e-9), 1 if self.active else 0)

    def _may_go_on(self, child: int) -> bool:
        if self.max_staleness is None or self.stopping:
            return True
        return self._clocks[child] <= self._slowest() + self.max_staleness

    def _slowest(self) -> int:
        """The least clock of the children that are waited for, 0 without any."""
        return min((self._clocks[child] for child in self.active - self._suspects), default=0)


def _check(
    children: Collection[int],
    quorum: float | None,
    max_staleness: int | None,
    observers: Collection[int],
) -> None:
    if not children:
        raise ConfigError("a master must have at least one child, got none; start more ranks")
    if quorum is not None and not 0.0 < quorum <= 1.0:
        raise ConfigError(
            f"quorum must be in (0, 1], got {quorum}; 1 waits for all workers, 0.95 for 95 %"
        )
    if max_staleness is not None and max_staleness < 0:
        raise ConfigError(
            f"max_staleness must not be negative, got {max_staleness}; 0 keeps all workers at "
            "the same number of updates"
        )
    if max_staleness is not None and quorum is not None:
        raise ConfigError(
            f"max_staleness must go with asynchronous updates, got {max_staleness} with rounds "
            f"of quorum {quorum}; leave one of them out"
        )
    if both := sorted(set(children) & set(observers)):
        raise ConfigError(
            f"a rank must be a child or an observer, got {both} as both; name them once"
        )
