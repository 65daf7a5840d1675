"""The contract of a training algorithm: a worker half and a master half on flat vectors.

An algorithm is a frozen dataclass of its numbers. ``worker()`` and ``master()`` make the two
halves, which hold the state that the numbers act on. Both see only the trainable part T of
the vector; the state S is merged by the loops, the same way for every algorithm.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""1-D contiguous float32 array."""

State = dict[str, NDArray[Any]]
"""Arrays by name: what a restart needs to go on exactly."""


Merge = Literal["mean", "sum"]
"""How several updates become one: a mean weighted by samples, or a plain sum."""


class Update(NamedTuple):
    """What one child sent up, as the master half sees it."""

    vector: Vector  # (n_trainable,), owned by the caller; apply may overwrite it
    n_samples: int  # samples it stands for, > 0
    staleness: int  # updates applied since the weights it is based on, >= 0
    base: Vector | None = None  # those weights, read only; where the algorithm ``needs_base``
    n_merged: int = 1  # workers' updates that a sub-master has merged into it


class WorkerHalf(Protocol):
    """What a worker does around one exchange; between two exchanges it just trains."""

    rate: float  # factor on its own learning rate if it has one, set from the master's answers

    def pull(self, weights: Vector) -> None:
        """Learn the master's present ``weights`` right before a push; where the algorithm
        ``pulls``, else never called. They stay as they are until then."""

    def push(self, vector: Vector) -> None:
        """Turn ``vector``, shape (n_trainable,), in place into the update to send.

        On entry it holds the model's weights where the algorithm ``trains_locally``, else the
        mean gradient of the samples seen since the last exchange.
        """

    def absorb(self, weights: Vector | None) -> Vector:
        """Return the weights from which the model goes on.

        weights: the master's, first at the start of the run, then after each push; None after a
        push where the algorithm ``pulls``, since that answer brings none.
        """

    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...


class MasterHalf(Protocol):
    """What the master does with the updates."""

    learning_rate: float  # read and set by callbacks and schedules; not part of state()

    def apply(self, weights: Vector, updates: Sequence[Update], out: Vector) -> None:
        """Write the weights after ``updates`` into ``out``, which may be ``weights``.

        One update: an asynchronous step. Several: one step of their combination, by the
        algorithm's ``merge``.
        """

    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...


class Algorithm(Protocol):
    """The numbers of one algorithm, and what the loops must know of it."""

    pulls: ClassVar[bool]
    """Whether a worker asks for the master's present weights right before it pushes."""

    merge: ClassVar[Merge]
    """How several updates become one, at the master and at sub-masters."""

    has_master: ClassVar[bool]
    """False where every rank applies the same reduced gradient to its own copy."""

    @property
    def needs_base(self) -> bool:
        """Whether ``Update.base`` must be given."""

    @property
    def elementwise(self) -> bool:
        """Whether the master half may see a slice of the vector instead of the whole."""

    @property
    def sync_every(self) -> int:
        """Batches between two exchanges."""

    @property
    def worker_optimizer(self) -> str | Mapping[str, Any] | None:
        """Of local steps, by its Keras or torch name; None where workers send gradients."""

    @property
    def worker_learning_rate(self) -> float | None:
        """Of ``worker_optimizer``; None for its own default."""

    @property
    def learning_rate(self) -> float:
        """Where the master half's begins."""

    @property
    def trains_locally(self) -> bool: ...

    def worker(self, n_trainable: int, n_workers: int) -> WorkerHalf:
        """n_workers: of the whole run."""

    def master(self, n_trainable: int, n_workers: int) -> MasterHalf: ...
