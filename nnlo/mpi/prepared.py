"""What a rank is handed over by its user, what it builds once, and what it starts with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from nnlo.algo.base import Algorithm, State, Vector
from nnlo.checkpoint import Checkpoint
from nnlo.data import Data
from nnlo.model import ModelBuilder
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi.fence import Registry
from nnlo.mpi.settings import RunSettings
from nnlo.mpi.watch import Watch

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass(frozen=True)
class Job:
    """What the user handed over, the same on all ranks. root_algo: between the root and its
    sub-masters, if that is another one."""

    data: Data
    algo: Algorithm
    builder: ModelBuilder
    loss: Any
    train_list: Sequence[str]
    val_list: Sequence[str]
    settings: RunSettings
    root_algo: Algorithm | None = None


class SavedMaster(NamedTuple):
    """What a checkpoint holds of the master half."""

    arrays: State
    base_learning_rate: float
    learning_rate: float


@dataclass(frozen=True)
class Built:
    """What a rank makes once, whoever is lost later.

    validation: data on rank 0, None elsewhere or without validation. first: on rank 0 the
    checkpoint that the run goes on from, None elsewhere or without one. base_rate: the local
    optimizer's rate as it was built; a schedule may change the adapter's.
    """

    adapter: ModelAdapter
    validation: Data | None
    first: Checkpoint | None
    base_rate: float


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a rank starts with, and starts again with once ranks have been lost.

    weights: the first ones, equal on all ranks. checkpoint: what rank 0 restores from.
    master_state: of it, on ranks that have a master half like the root's. own_state: what this
    rank does; ranks_restored: whether all of them do. first_epoch, version: where the run goes
    on. state_bytes: room that a rank's local state needs in a message. ring: of the ranks that
    make up this one's worker, None where it is alone. beside: the same ranks where there is no
    master, for what goes on beside the ring.
    """

    built: Built
    weights: Vector
    checkpoint: Checkpoint | None
    master_state: SavedMaster | None
    own_state: dict[str, Any] | None
    ranks_restored: bool
    first_epoch: int
    version: int
    state_bytes: int
    ring: "MPI.Intracomm | None"
    beside: "MPI.Intracomm | None"
    registry: Registry
    watch: Watch

    @property
    def adapter(self) -> ModelAdapter:
        return self.built.adapter

    @property
    def validation(self) -> Data | None:
        return self.built.validation
