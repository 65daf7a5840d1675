"""What can happen to a master, and what it can do about it: the words of ``protocol``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Arrived:
    """A child's UP is here. leaves: it was a BYE. has_update: it carries something to apply.

    Neither: it pulls, that is asks for the weights right before it sends its update. pulls: it
    carries an update and pulls for another one (a sub-master's children). refused: what it did
    since its last message was not finite and is not here; without an update there is nothing to
    apply, but it has done its part of the round.
    """

    child: int
    has_update: bool
    leaves: bool = False
    pulls: bool = False
    refused: bool = False


@dataclass(frozen=True)
class Lost:
    """A child died: nothing more will come from it, nothing more can be sent to it."""

    child: int


@dataclass(frozen=True)
class Suspected:
    """A child has been silent too long: rounds close without it until it speaks again."""

    child: int


@dataclass(frozen=True)
class Hired:
    """A child that rests goes on, with the work of one that was lost."""

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


Event = Arrived | Lost | Suspected | Hired | StopAsked
Action = Apply | Reply | Release
