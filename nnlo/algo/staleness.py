"""What becomes of an update that is based on old weights.

Staleness is the number of updates the master applied since it sent the weights that an update
is based on; with W equal workers it is W - 1 on average. A policy either lowers the learning
rate by it, or corrects the gradient by the way w - w_base that the weights have gone since.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from nnlo.algo import kernels
from nnlo.algo.base import State, Update, Vector
from nnlo.algo.recipe import load_slots
from nnlo.errors import ConfigError


class Policy(ABC):
    """One run's treatment of staleness.

    needs_base: it reads ``Update.base``. strength: default of the number it takes, None where
    it takes none. slots: what it remembers, arrays by name.
    """

    needs_base: ClassVar[bool] = False
    strength: ClassVar[float | None] = None

    def __init__(self, n_trainable: int, strength: float | None = None) -> None:
        self._number = self.strength if strength is None else strength
        self.slots: dict[str, np.ndarray] = {}

    @abstractmethod
    def correct(self, weights: Vector, updates: Sequence[Update]) -> float:
        """Correct the vectors of ``updates``, gradients at their bases, in place, for a step
        from ``weights``; return the factor on the learning rate of their mean."""

    def stepped(self, weights: Vector) -> None:
        """Learn the ``weights`` after the step."""
        return

    def state(self) -> State:
        return {name: slot.copy() for name, slot in self.slots.items()}

    def load_state(self, state: State) -> None:
        load_slots("the staleness policy", self.slots, state)


class Ignore(Policy):
    """Every update counts in full."""

    def correct(self, weights: Vector, updates: Sequence[Update]) -> float:
        return 1.0


class Inverse(Policy):
    """The learning rate is divided by 1 + the largest staleness.

    Zhang et al. 2016, "Staleness-aware async-SGD", arXiv:1511.05950.
    """

    def correct(self, weights: Vector, updates: Sequence[Update]) -> float:
        return 1.0 / (1.0 + max(update.staleness for update in updates))


class ConstantCompensation(Policy):
    """g + lambda g g (w - w_base), element by element, with lambda constant.

    DC-ASGD-c of Zheng et al. 2017 (arXiv:1609.08326): the first term of the Taylor series of
    the gradient, its Hessian taken as the squares of the gradient. lambda 0.04 as there.
    """

    needs_base = True
    strength = 0.04

    def correct(self, weights: Vector, updates: Sequence[Update]) -> float:
        for update in updates:
            numbers = (self._number or 0.0, 0.0, 0.0)
            _compensate(update, weights, None, numbers)
        return 1.0


class AdaptiveCompensation(Policy):
    """The same with lambda = lambda_0 / sqrt(MS + 1e-7), MS the running mean square of g.

    DC-ASGD-a of the same paper; lambda_0 2, MS keeps 0.95 a step. An update that is up to date
    enters MS too. Updates of one round enter it in their order.
    """

    needs_base = True
    strength = 2.0
    _KEPT, _EPSILON = 0.95, 1e-7

    def __init__(self, n_trainable: int, strength: float | None = None) -> None:
        super().__init__(n_trainable, strength)
        self.slots = {"mean_square": np.zeros(n_trainable, np.float32)}

    def correct(self, weights: Vector, updates: Sequence[Update]) -> float:
        numbers = (self._number or 0.0, 1.0 - self._KEPT, self._EPSILON)
        for update in updates:
            _compensate(update, weights, self.slots["mean_square"], numbers)
        return 1.0


class GapAware(Policy):
    """Each gradient is divided by its gap G = |w - w_base| / C + 1, C the mean length of a step.

    Barkai, Hakimi & Schuster 2020 (arXiv:1909.10802), the definition of the Gap with its
    Euclidean norm over all weights; their variant that takes a gap for each weight alone is not
    here. C is the running mean of the lengths of the master's own steps, momentum and rate
    included, that keeps 0.99 a step, corrected for its start at 0.
    """

    needs_base = True
    _KEPT = 0.99

    def __init__(self, n_trainable: int, strength: float | None = None) -> None:
        super().__init__(n_trainable, strength)
        self.slots = {"length": np.zeros(()), "weight": np.zeros(())}
        self._before = np.zeros(n_trainable, np.float32)

    def correct(self, weights: Vector, updates: Sequence[Update]) -> float:
        self._before[:] = weights
        length, weight = (float(self.slots[name]) for name in ("length", "weight"))
        for update in updates:
            way = kernels.distance(weights, _base(update))
            if way > 0.0 and length > 0.0:
                np.divide(
                    update.vector, np.float32(1.0 + way * weight / length), out=update.vector
                )
        return 1.0

    def stepped(self, weights: Vector) -> None:
        new = kernels.distance(weights, self._before)
        for name, value in (("length", new), ("weight", 1.0)):
            slot = self.slots[name]
            slot[...] += (1.0 - self._KEPT) * (value - slot)


POLICIES: Mapping[str, type[Policy]] = MappingProxyType(
    {
        "none": Ignore,
        "inverse": Inverse,
        "dc": AdaptiveCompensation,
        "dc-constant": ConstantCompensation,
        "gap": GapAware,
    }
)
"""Every policy by its name in options."""


def policy(name: str) -> type[Policy]:
    """The policy called ``name``; ConfigError where there is none."""
    try:
        return POLICIES[name]
    except (KeyError, TypeError):  # a list has no hash
        raise ConfigError(
            f"staleness policy must be one of {', '.join(POLICIES)}, got {name!r}"
        ) from None


def _base(update: Update) -> Vector:
    assert update.base is not None, "the loops give it where needs_base"
    return update.base


def _compensate(
    update: Update, weights: Vector, square: Vector | None, numbers: tuple[float, float, float]
) -> None:
    base = _base(update)
    kernels.check(weights.size, weights, base, update.vector)
    others = (weights, base, square)
    kernels.step(_delay_compensation, update.vector, update.vector, others, numbers)


def _delay_compensation(
    g: Vector,
    w: Vector,
    base: Vector,
    square: Vector | None,
    strength: np.float32,
    rest: np.float32,
    epsilon: np.float32,
) -> None:
    for i in range(g.size):
        gradient = g[i]
        factor = strength
        if square is not None:
            mean = square[i] + rest * (gradient * gradient - square[i])
            factor = strength / np.sqrt(mean + epsilon)
        g[i] = gradient + factor * (gradient * gradient) * (w[i] - base[i])
        if square is not None:
            square[i] = mean
