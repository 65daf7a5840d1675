"""The master's optimizers: update rules and default numbers of Keras 3, on one flat vector.

An optimizer is a frozen dataclass of its numbers; what it remembers between updates is an
`OptimizerState`. The numbers that depend on the step alone are worked out in float64 and
rounded once; the arithmetic on vectors is float32.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from nnlo.algo import kernels
from nnlo.algo.base import State, Vector
from nnlo.algo.recipe import check_number
from nnlo.errors import CheckpointError, ConfigError


@dataclass(eq=False)
class OptimizerState:
    """What an optimizer remembers of its past updates.

    slots: float32 vectors by name, each of shape (n,). count: updates made.
    momentum_product: product of Nadam's momenta so far; stays 1 elsewhere.
    """

    slots: dict[str, Vector]
    count: int = 0
    momentum_product: float = 1.0

    def arrays(self) -> State:
        """Copies of everything, by name: ``load`` of them goes on exactly from here."""
        return {name: slot.copy() for name, slot in self.slots.items()} | {
            "count": np.array(self.count, np.int64),
            "momentum_product": np.array(self.momentum_product, np.float64),
        }

    def load(self, arrays: Mapping[str, Any]) -> None:
        """Copy in what ``arrays`` of an equal optimizer returned; CheckpointError if not equal."""
        expected = {name: slot.shape for name, slot in self.slots.items()}
        expected |= {"count": (), "momentum_product": ()}
        shapes = {name: np.shape(array) for name, array in arrays.items()}
        if shapes != expected:
            raise CheckpointError(
                f"optimizer state must have arrays of shapes {expected}, got {shapes}; "
                f"restore with the optimizer and the model of the checkpoint"
            )
        for name, slot in self.slots.items():
            slot[:] = arrays[name]
        self.count = int(arrays["count"])
        self.momentum_product = float(arrays["momentum_product"])


Step = tuple[kernels.Kernel, tuple[float, ...]]
"""The compiled loop of one update and the numbers it takes after the scale."""


@dataclass(frozen=True)
class Optimizer(ABC):
    """A rule that moves weights against a gradient.

    learning_rate: used by ``update`` where it is not given one; above 0.
    """

    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        for entry in fields(self):
            check_number(entry.name, getattr(self, entry.name), isinstance(entry.default, bool))

    def init(self, n: int) -> OptimizerState:
        """The state before the first update of ``n`` weights."""
        starts = {name: start for name, start in self._slots().items() if start is not None}
        return OptimizerState({name: np.full(n, starts[name], np.float32) for name in starts})

    def update(
        self,
        state: OptimizerState,
        weights: Vector,
        gradient: Vector,
        out: Vector,
        *,
        learning_rate: float | None = None,
        scale: float = 1.0,
    ) -> None:
        """Write the weights after a step by ``scale * gradient`` to ``out``; move ``state`` on.

        All are contiguous float32 of the shape (n,) that ``state`` was made for. ``out`` may be
        ``weights``; ``gradient`` is only read. ``learning_rate``, where given, takes the place
        of the optimizer's own. Raises ModelError where a vector does not fit.
        """
        rate = self.learning_rate if learning_rate is None else learning_rate
        kernels.check(weights.size, weights, gradient, out, *state.slots.values())
        state.count += 1
        kernel, numbers = self._step(state, rate)
        slots = [state.slots.get(name) for name in self._slots()]
        kernels.step(kernel, weights, out, (gradient, *slots), (scale, *numbers))

    @abstractmethod
    def _slots(self) -> dict[str, float | None]:
        """Name and first value of each slot, in the kernel's order; None: it is not used."""

    @abstractmethod
    def _step(self, state: OptimizerState, rate: float) -> Step:
        """The update number ``state.count``, from 1, at the learning rate ``rate``."""


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, with momentum (Polyak 1964) or Nesterov's.

    v = momentum v - rate g; w += v, or with nesterov w += momentum v - rate g. The velocity
    holds the learning rate, unlike torch's.
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0.0:
            raise ConfigError("momentum must be above 0 with nesterov, got 0; try 0.9")

    def _slots(self) -> dict[str, float | None]:
        return {"velocity": 0.0 if self.momentum > 0.0 else None}

    def _step(self, state: OptimizerState, rate: float) -> Step:
        return kernels.sgd, (rate, self.momentum, self.nesterov)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Kingma & Ba 2015 (arXiv:1412.6980), in the form before section 2.1.

    Epsilon is added to the root of the uncorrected second moment ("epsilon hat" of the paper),
    as in Keras; torch adds it after the correction.
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def _slots(self) -> dict[str, float | None]:
        return {"momentum": 0.0, "velocity": 0.0}

    def _step(self, state: OptimizerState, rate: float) -> Step:
        return _adam_step(self, state, rate, weight_decay=0.0)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam whose weights also shrink by the share ``learning_rate * weight_decay`` per step.

    Loshchilov & Hutter 2019 (arXiv:1711.05101), with the share of Keras and torch.
    """

    weight_decay: float = 0.004
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def _slots(self) -> dict[str, float | None]:
        return {"momentum": 0.0, "velocity": 0.0}

    def _step(self, state: OptimizerState, rate: float) -> Step:
        return _adam_step(self, state, rate, self.weight_decay)


def _adam_step(
    rule: Adam | AdamW, state: OptimizerState, rate: float, weight_decay: float
) -> Step:
    unbias = math.sqrt(1.0 - rule.beta_2**state.count) / (1.0 - rule.beta_1**state.count)
    numbers = (rate * unbias, 1.0 - rule.beta_1, 1.0 - rule.beta_2, rule.epsilon)
    return kernels.adam, (*numbers, rate * weight_decay)


@dataclass(frozen=True)
class Nadam(Optimizer):
    """Adam with Nesterov's momentum (Dozat 2016): beta_1 (1 - 0.96^t / 2) at step t."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def _slots(self) -> dict[str, float | None]:
        return {"momentum": 0.0, "velocity": 0.0}

    def _step(self, state: OptimizerState, rate: float) -> Step:
        now, ahead = (self.beta_1 * (1.0 - 0.5 * 0.96**t) for t in (state.count, state.count + 1))
        state.momentum_product *= now
        share_m = ahead / (1.0 - state.momentum_product * ahead)
        share_g = (1.0 - now) / (1.0 - state.momentum_product)
        unbias = 1.0 / (1.0 - self.beta_2**state.count)
        numbers = (rate, 1.0 - self.beta_1, 1.0 - self.beta_2, self.epsilon)
        return kernels.nadam, (*numbers, share_m, share_g, unbias)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Hinton 2012 (Coursera, lecture 6e); ``centered`` divides by the variance (Graves 2013).

    Epsilon is added under the root, as in Keras; torch adds it to the root.
    """

    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-7
    centered: bool = False

    def _slots(self) -> dict[str, float | None]:
        return {
            "velocity": 0.0,
            "mean": 0.0 if self.centered else None,
            "momentum": 0.0 if self.momentum > 0.0 else None,
        }

    def _step(self, state: OptimizerState, rate: float) -> Step:
        return kernels.rmsprop, (rate, self.rho, 1.0 - self.rho, self.epsilon, self.momentum)


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """Zeiler 2012 (arXiv:1212.5701), algorithm 1 times a learning rate, which was 1 there."""

    rho: float = 0.95
    epsilon: float = 1e-7

    def _slots(self) -> dict[str, float | None]:
        return {"squares": 0.0, "changes": 0.0}

    def _step(self, state: OptimizerState, rate: float) -> Step:
        return kernels.adadelta, (rate, self.rho, 1.0 - self.rho, self.epsilon)


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Duchi, Hazan & Singer 2011; epsilon under the root, as in Keras."""

    initial_accumulator_value: float = 0.1
    epsilon: float = 1e-7

    def _slots(self) -> dict[str, float | None]:
        return {"squares": self.initial_accumulator_value}

    def _step(self, state: OptimizerState, rate: float) -> Step:
        return kernels.adagrad, (rate, self.epsilon)


OPTIMIZERS: Mapping[str, type[Optimizer]] = MappingProxyType(
    {rule.__name__.lower(): rule for rule in (SGD, Adam, RMSprop, Adadelta, Nadam, Adagrad, AdamW)}
)
"""Every optimizer by its name in options and files."""


NUMBERS = tuple(
    sorted({entry.name for optimizer in OPTIMIZERS.values() for entry in fields(optimizer)})
)
"""Every number that some optimizer takes."""


def make_optimizer(spec: str | Mapping[str, Any] | Optimizer, **numbers: Any) -> Optimizer:
    """The optimizer that ``spec`` says, with ``numbers`` in place of its own.

    spec: a name of ``OPTIMIZERS``, a mapping ``{"name": ..., number: value...}`` or an
    instance. Raises ConfigError for an unknown name, an unknown number or a value out of range.
    """
    if isinstance(spec, Mapping):
        numbers = {str(key): value for key, value in spec.items() if key != "name"} | numbers
        spec = str(spec.get("name"))
    if isinstance(spec, str) and spec.lower() in OPTIMIZERS:
        spec = OPTIMIZERS[spec.lower()]()
    if not isinstance(spec, Optimizer):
        raise ConfigError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {spec!r}")
    known = [entry.name for entry in fields(spec)]
    unknown = [name for name in numbers if name not in known]
    if unknown:
        raise ConfigError(
            f"{type(spec).__name__.lower()} must be given numbers it has, got "
            f"{', '.join(unknown)}; it has {', '.join(known)}"
        )
    return replace(spec, **numbers)
