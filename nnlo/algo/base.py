"""The contract of a training algorithm: a worker half and a master half on flat vectors.

An algorithm is a frozen dataclass of its numbers. ``worker()`` and ``master()`` make the two
halves, which hold the state that the numbers act on. Both see only the trainable part T of
the vector; the state S is merged by the loops, the same way for every algorithm.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""1-D contiguous float32 array."""

State = dict[str, NDArray[Any]]
"""Arrays by name: what a restart needs to go on exactly."""


class Update(NamedTuple):
    """What one worker sent up, as the master half sees it."""

    vector: Vector  # (n_trainable,), owned by the caller; apply may overwrite it
    n_samples: int  # samples it stands for, > 0
    staleness: int  # updates applied since the weights it is based on, >= 0


class WorkerHalf(Protocol):
    """What a worker does around one exchange; between two exchanges it just trains."""

    def push(self, vector: Vector) -> None:
        """Turn ``vector``, shape (n_trainable,), in place into the update to send.

        On entry it holds the model's weights where the algorithm ``trains_locally``, else the
        mean gradient of the samples seen since the last exchange.
        """

    def absorb(self, weights: Vector) -> Vector:
        """Learn the master's ``weights``; return the weights from which the model goes on."""

    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...


class MasterHalf(Protocol):
    """What the master does with the updates."""

    learning_rate: float  # read and set by callbacks and schedules; not part of state()

    def apply(self, weights: Vector, updates: Sequence[Update], out: Vector) -> None:
        """Write the weights after ``updates`` into ``out``, which may be ``weights``.

        One update: an asynchronous step. Several: one step of their mean weighted by samples.
        """

    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...
