"""What the root of a run is told, and who is told by it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from nnlo.algo.base import Vector
from nnlo.history import Record
from nnlo.model.kl_schedule import KlSchedule
from nnlo.mpi.master import Master
from nnlo.mpi.stopping import EarlyStopping, Target

if TYPE_CHECKING:
    from nnlo.mpi.root import Root


class Listener(Protocol):
    """Who is told how the run goes: Keras callbacks, a progress bar."""

    def begin(self, root: "Root", master: Master) -> None: ...

    def goes_on(self, root: "Root", master: Master) -> None:
        """Ranks were lost: from now on it is these, and an epoch may begin once more."""

    def epoch_began(self, epoch: int) -> None:
        """epoch: from 0."""

    def updated(self, version: int, n_samples: int, logs: Record) -> None:
        """Weights ``version`` are there after ``n_samples`` of this epoch; ``logs`` are its
        means so far."""

    def epoch_ended(self, epoch: int, record: Record) -> None:
        """The record of an epoch is complete, with its validation."""

    def end(self) -> None: ...


@dataclass(frozen=True)
class RootPlan:
    """n_samples: in the training data, which makes an epoch. validate: weights -> metrics; it
    may bring the state S of the weights, a snapshot that is its own, up to date.
    validate_every: epochs. monitor: the metric whose best weights are kept; larger_is_better:
    of it. checkpoint_every: epochs. stoppers: end the run when reached. max_refused: messages
    in a row that bring refusals alone, which end the run. number: by which users know a rank.
    kl: of a variational model: what the KL divergence counts, and the samples of all data."""

    n_samples: int
    n_epochs: int
    metric_names: tuple[str, ...]
    validate: Callable[[Vector], dict[str, float]] | None = None
    validate_every: int = 1
    monitor: str = "val_loss"
    larger_is_better: bool = False
    checkpoint_every: int = 1
    stoppers: tuple[EarlyStopping | Target, ...] = ()
    listeners: tuple[Listener, ...] = ()
    max_refused: int = 10
    number: Callable[[int], int] = int
    kl: tuple[KlSchedule, int] | None = None
