"""The contract of a particle method: how a matrix of weights moves, and what it leaves."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nnlo.algo.optimizers import Optimizer, make_optimizer
from nnlo.errors import CheckpointError
from nnlo.model.adapter import ModelAdapter
from nnlo.model.manifest import Manifest

if TYPE_CHECKING:
    from mpi4py import MPI

    from nnlo.bayes.posterior import Posterior

Matrix = NDArray[np.float32]
"""C-contiguous float32, one row a particle of this rank."""

Arrays = dict[str, NDArray[Any]]
"""By name; axis 0 counts the particles of this rank."""


@dataclass(frozen=True)
class Setting:
    """What a method may know of its run.

    pids: numbers of the particles of this rank, which are the rows of its matrices.
    n_samples: of the whole training set. leaders: one rank of each group, all at the same place
    in theirs, and so with all particles together; None where this rank holds them all.
    """

    manifest: Manifest
    pids: Sequence[int]
    n_particles: int
    n_samples: int
    n_epochs: int
    steps_per_epoch: int
    seed: int
    leaders: "MPI.Intracomm | None" = None


class Method(ABC):
    """A frozen dataclass of numbers. Each subclass is one way to make a posterior.

    shares_batches: all particles see the same batches, in one order.
    meets: particles move each other, so that ``Stepper.step`` is collective over the leaders.
    """

    name: ClassVar[str]
    shares_batches: ClassVar[bool] = False
    meets: ClassVar[bool] = False

    def check(self, adapter: ModelAdapter) -> None:  # noqa: B027
        """Raises ModelError where the method needs a model of another kind."""

    @abstractmethod
    def start(self, setting: Setting) -> "Stepper":
        """Raises ConfigError where the numbers do not go with the setting."""

    @abstractmethod
    def posterior(self, source: "Source") -> "Posterior":
        """What the particles mean once they are trained."""

    def numbers(self) -> dict[str, Any]:
        """Its numbers by name, for files."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]


class Stepper:
    """One run of a method on this rank's particles; ``step`` must be overridden."""

    rate: float
    """The learning rate now."""

    def step(self, weights: Matrix, gradient: Matrix) -> None:
        """Move ``weights``, (P, n_trainable), in place.

        gradient: of the mean loss of each row over its batch, same shape; may be overwritten.
        """
        raise NotImplementedError(f"{type(self).__name__} must override step")

    def end_epoch(self, epoch: int, weights: Matrix, state: Matrix) -> None:
        """After the last step of ``epoch``, from 0. state: (P, n_state), only read."""

    def arrays(self) -> Arrays:
        """All that a restart needs, by particle."""
        return {}

    def load_arrays(self, arrays: Arrays) -> None:
        """Put back what ``arrays`` gave, maybe on other ranks."""

    def scalars(self) -> dict[str, float]:
        """Numbers that all particles share and a restart needs (steps taken)."""
        return {}

    def load_scalars(self, scalars: dict[str, float]) -> None:
        """Put back what ``scalars`` gave."""

    def kept(self) -> Arrays:
        """What the posterior needs besides weights and state, by particle."""
        return {}

    def record(self) -> dict[str, float]:
        """Numbers of the last epoch for the history; collective over the leaders where it
        ``meets``."""
        return {}


@dataclass(frozen=True)
class Source:
    """Trained particles where they are: of this rank in memory.

    weights, state: (P, n_trainable) and (P, n_state) of ``pids``. kept: see ``Stepper.kept``.
    n_particles: of all ranks. holds: whether this rank answers for its particles (the first of
    its group).
    """

    manifest: Manifest
    pids: Sequence[int]
    n_particles: int
    seed: int
    weights: Matrix
    state: Matrix
    kept: Arrays
    holds: bool = True


def is_number(value: Any, *, is_whole: bool = False) -> bool:
    """Whether a user's value is a finite number, an int where ``is_whole``; True is none."""
    if isinstance(value, int):
        return not isinstance(value, bool)
    return not is_whole and isinstance(value, float) and isfinite(value)


class RowOptimizer:
    """One of ``nnlo.algo.optimizers`` on all rows at once: none of them mixes weights."""

    def __init__(
        self, spec: "str | Optimizer", rate: float | None, shape: tuple[int, int]
    ) -> None:
        numbers = {} if rate is None else {"learning_rate": rate}
        self.rule = make_optimizer(spec, **numbers)
        self._shape = shape
        self._state = self.rule.init(shape[0] * shape[1])

    def step(self, weights: Matrix, gradient: Matrix, rate: float) -> None:
        """Move ``weights`` in place against ``gradient``, both of the given shape."""
        flat = weights.reshape(-1)
        self.rule.update(self._state, flat, gradient.reshape(-1), flat, learning_rate=rate)

    def arrays(self) -> Arrays:
        return {f"slot/{k}": v.reshape(self._shape) for k, v in self._state.slots.items()}

    def load_arrays(self, arrays: Arrays) -> None:
        """Raises CheckpointError where a slot is missing or of another shape."""
        for name, slot in self._state.slots.items():
            found = arrays.get(f"slot/{name}")
            if found is None or found.shape != self._shape:
                raise CheckpointError(
                    f"a checkpoint must hold the optimizer's {name} of {self._shape}, got "
                    f"{None if found is None else found.shape}; restore with the same method"
                )
            slot[:] = found.reshape(-1)

    def scalars(self) -> dict[str, float]:
        return {"count": self._state.count, "momentum_product": self._state.momentum_product}

    def load_scalars(self, scalars: dict[str, float]) -> None:
        self._state.count = int(scalars["count"])
        self._state.momentum_product = float(scalars["momentum_product"])
