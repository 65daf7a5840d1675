"""What a master does when something happens: a pure function from events to actions.

No message is sent here and no number is computed; the loop in ``master.py`` carries the
actions out. That is why every order of arrival, departure, silence and stop can be tested.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnlo.errors import ConfigError, ProtocolError


@dataclass(frozen=True)
class Arrived:
    """A child's UP is here. leaves: it was a BYE. has_update: it carries something to apply."""

    child: int
    has_update: bool
    leaves: bool = False


@dataclass(frozen=True)
class Lost:
    """A child died: nothing more will come from it, nothing more can be sent to it."""

    child: int


@dataclass(frozen=True)
class Suspected:
    """A child has been silent too long: rounds close without it until it speaks again."""

    child: int


@dataclass(frozen=True)
class StopAsked:
    """The run ends: from now on every answer says so.

    A round under way is completed first, so that the weights are those of whole rounds and a
    run that goes on from them equals one that was never stopped. at_once: nothing will be
    applied any more; whoever waits is released, and whoever comes.
    """

    at_once: bool = False


@dataclass(frozen=True)
class Apply:
    """Apply the updates of these children, in this order, as one step."""

    children: tuple[int, ...]


@dataclass(frozen=True)
class Reply:
    """Send the weights to a child that goes on."""

    child: int


@dataclass(frozen=True)
class Release:
    """Answer a child that has said BYE."""

    child: int


Event = Arrived | Lost | Suspected | StopAsked
Action = Apply | Reply | Release


class MasterProtocol:
    """The children of one master and the round they are in.

    children: ranks. quorum: None for asynchronous updates, each applied as it arrives; else
    the share in (0, 1] of the active children that closes a synchronous round.
    """

    def __init__(self, children: Sequence[int], quorum: float | None = None) -> None:
        if not children:
            raise ConfigError("a master must have at least one child, got none; start more ranks")
        if quorum is not None and not 0.0 < quorum <= 1.0:
            raise ConfigError(
                f"quorum must be in (0, 1], got {quorum}; 1 waits for all workers, 0.95 for 95 %"
            )
        self.quorum = quorum
        self.active = set(children)
        self.stopping = False
        self._at_once = False
        self._suspects: set[int] = set()
        self._held: set[int] = set()  # active children that wait for a reply
        self._pending: set[int] = set()  # children whose update has not been applied

    @property
    def finished(self) -> bool:
        """True when every child has left or died and every update has been applied."""
        return not self.active and not self._pending

    @property
    def suspects(self) -> frozenset[int]:
        return frozenset(self._suspects)

    def on(self, event: Event) -> list[Action]:
        """The actions that ``event`` calls for, in order."""
        actions: list[Action] = []
        match event:
            case Arrived(child, has_update, leaves):
                actions = self._arrived(child, has_update, leaves)
            case Lost(child):
                self.active.discard(child)
                self._held.discard(child)
                self._suspects.discard(child)
            case Suspected(child):
                if child in self.active and child not in self._held:
                    self._suspects.add(child)
            case StopAsked(at_once):
                self.stopping = True
                self._at_once = self._at_once or at_once
        return self._close_round() + actions

    def _arrived(self, child: int, has_update: bool, leaves: bool) -> list[Action]:
        if child not in self.active or child in self._held:
            raise ProtocolError(
                f"a child must wait for its answer before it sends again, got a second message "
                f"from rank {child}; check that all ranks run the same version of NNLO"
            )
        self._suspects.discard(child)
        if has_update:
            self._pending.add(child)
        if not leaves:
            self._held.add(child)
            return []
        self.active.discard(child)
        return [Release(child)]

    def _close_round(self) -> list[Action]:
        if len(self._held) < self._needed() or not (self._held or self._pending):
            return []
        # Sorted: the sum of a synchronous round must not depend on the order of arrival.
        actions: list[Action] = [Apply(tuple(sorted(self._pending)))] if self._pending else []
        actions += [Reply(child) for child in sorted(self._held)]
        self._pending.clear()
        self._held.clear()
        return actions

    def _needed(self) -> int:
        """How many waiting children close the round."""
        if self.quorum is None or self._at_once:
            return 0
        expected = len(self.active - self._suspects)
        return max(math.ceil(self.quorum * expected - 1e-9), 1 if self.active else 0)
