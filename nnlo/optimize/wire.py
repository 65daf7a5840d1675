"""What rank 0 and the blocks of a search say to each other.

Rank 0 sends ``Order`` to the leader of a block, ``Word`` to all who lead a part of its trial
(the folds that run side by side), ``Goodbye`` to the leader. They send ``Report``, or ``Halt``
when their fold has failed; the leader sends an ``Outcome`` after each order, and one of no trial
when it is ready for the first.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from nnlo.optimize.space import Params

PartState = Literal["done", "left", "interrupted", "failed"]


@dataclass(frozen=True)
class Order:
    """Train ``params``. from_epoch: of the newest checkpoint that rank 0 knows of, 0 to train
    anew. refit_epochs: above 0, train them for so long on all data, once the search is over."""

    trial: int
    params: Params
    attempt: int = 1
    from_epoch: int = 0
    refit_epochs: int = 0


@dataclass(frozen=True)
class Report:
    """A part of a trial has these merits after ``epoch`` epochs (or folds, where they run one
    after another). saved: it can go on from there. is_last: no more will come of this part."""

    trial: int
    attempt: int
    fold: int
    epoch: int
    merits: tuple[float, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    saved: bool = False
    is_last: bool = False


@dataclass(frozen=True)
class PartEnd:
    """What became of a trial, or of one fold of it.

    left: upon a word of rank 0. interrupted: by a signal, which it names in ``reason``. kind: of
    a failure, as in ``events.Failed``. hangs: ranks of it have not ended and never will.
    """

    state: PartState
    fold: int = 0
    merits: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    epochs: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    kind: str = "error"
    hangs: bool = False


@dataclass(frozen=True)
class Halt:
    """A part has failed: the others of its trial need not go on."""

    trial: int
    attempt: int


@dataclass(frozen=True)
class Outcome:
    """The end of an order: of each part, in the order of folds. trial: -1 for none yet. leaves:
    the block cannot train any more."""

    trial: int = -1
    attempt: int = 0
    parts: tuple[PartEnd, ...] = ()
    leaves: bool = False


@dataclass(frozen=True)
class Word:
    """Leave the trial: ``verdict`` says why, as in ``events.Verdict``."""

    trial: int
    attempt: int
    verdict: str


@dataclass(frozen=True)
class Goodbye:
    """Nothing more will come. reason: why not, where that is an error."""

    reason: str = ""


Message = Order | Report | Halt | Outcome | Word | Goodbye
_KINDS: Mapping[str, Any] = MappingProxyType(
    {kind.__name__: kind for kind in (Order, Report, Halt, Outcome, Word, Goodbye)}
)


def pack(message: Message) -> bytes:
    return json.dumps({"message": type(message).__name__, **asdict(message)}).encode()


def unpack(data: bytes) -> Message:
    """The message of which ``pack`` made ``data``."""
    fields = json.loads(data)
    kind = _KINDS[fields.pop("message")]
    if kind is Outcome:
        fields["parts"] = tuple(part_from_json(one) for one in fields["parts"])
    elif kind is Report:
        fields["merits"] = tuple(fields["merits"])
    message: Message = kind(**fields)
    return message


def part_from_json(fields: Mapping[str, Any]) -> PartEnd:
    """The part of which ``asdict`` gave ``fields``; raises KeyError, TypeError for others."""
    return PartEnd(**{**fields, "merits": tuple(fields["merits"])})
