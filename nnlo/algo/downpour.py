"""Downpour SGD (Dean et al. 2012, "Large scale distributed deep networks", section 4.1).

Workers send gradients, the master's optimizer applies them as they come. Two departures from
the paper, both for precision: with ``worker_optimizer`` None the gradients of ``sync_every``
batches are averaged at the pulled weights (the paper also moves the local weights by them),
and it is the true gradient that travels, not a difference of weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from nnlo.algo import kernels, staleness
from nnlo.algo.base import State, Update, Vector
from nnlo.algo.optimizers import NUMBERS, SGD, Adam, Optimizer, make_optimizer
from nnlo.algo.recipe import (
    Recipe,
    check_sync_every,
    check_worker_rate,
    is_above_0,
    samples,
    split_numbers,
    vectors,
)
from nnlo.errors import ConfigError


@dataclass(frozen=True)
class Downpour(Recipe):
    """The numbers of one Downpour run.

    optimizer: applied by the master to each gradient (or to the mean of a synchronous round).
    sync_every: batches between two exchanges, >= 1.
    worker_optimizer: None, or a Keras or torch optimizer, by its name or as a mapping of
        "name" and its numbers. With one a worker takes ``sync_every`` local steps by it and
        sends the weights it started from minus the weights it reached, which the master
        takes for a gradient.
    worker_learning_rate: of ``worker_optimizer``; None for its own default.
    staleness: what becomes of old updates: "none" or "inverse", and for gradients "dc",
        "dc-constant" or "gap" too (``staleness.POLICIES``).
    dc_lambda: strength of a delay compensation; None for the paper's.
    clip_norm: None, or the largest Euclidean norm of a gradient; longer ones are shortened.
    clip_value: None, or the largest absolute value of an element of a gradient.
    keeps_own: whether a model with its own ``train_step`` keeps the optimizers it brings; by
        default it does where no other is asked for.
    """

    optimizer: Optimizer = field(default_factory=Adam)
    sync_every: int = 1
    worker_optimizer: str | Mapping[str, Any] | None = None
    worker_learning_rate: float | None = None
    staleness: str = "none"
    dc_lambda: float | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    keeps_own: bool = field(default=False, compare=False, repr=False)

    mode: ClassVar[str] = "downpour"
    also: ClassVar[tuple[str, ...]] = NUMBERS

    def __post_init__(self) -> None:
        check_sync_every(self.sync_every)
        check_worker_rate(self.worker_learning_rate, self.worker_optimizer)
        check_limits(self.clip_norm, self.clip_value)
        policy = staleness.policy(self.staleness)
        if policy.needs_base and self.trains_locally:
            raise ConfigError(
                f"staleness {self.staleness} must go with gradients, got local steps by "
                f"worker_optimizer {self.worker_optimizer}; use none or inverse"
            )
        if self.dc_lambda is not None and (policy.strength is None or not self.dc_lambda > 0.0):
            raise ConfigError(
                f"dc_lambda must be above 0 and come with staleness dc or dc-constant, got "
                f"{self.dc_lambda} with {self.staleness}; leave it out for the default"
            )

    @classmethod
    def make(cls, **options: Any) -> Self:
        """Defaults that go together.

        worker_optimizer: none where every batch is exchanged, so that gradients travel, else
        adam, so that workers move between exchanges. optimizer: adam on gradients, and sgd of
        rate 1 on the way that local steps went. staleness: none on gradients, inverse on local
        steps. Options that are no fields are numbers of the master's optimizer.
        """
        numbers = split_numbers(cls, options)
        check_sync_every(options.get("sync_every", 1))
        local = options.get("worker_optimizer")
        if local is None and options.get("sync_every", 1) > 1:
            local = "adam"
        if local == "none":
            local = None
        optimizer = options.get("optimizer")
        if optimizer is None and local is not None and "learning_rate" in numbers:
            raise ConfigError(
                "learning_rate must be meant for the master's optimizer, got "
                f"{numbers['learning_rate']} with local steps by {local}; "
                "name the master's optimizer too, or give worker_learning_rate"
            )
        if optimizer is None:
            optimizer = Adam() if local is None else SGD(learning_rate=1.0)
        options = {"staleness": "none" if local is None else "inverse"} | options
        options |= {"worker_optimizer": local, "optimizer": make_optimizer(optimizer, **numbers)}
        return cls(**options)

    @property
    def learning_rate(self) -> float:
        return self.optimizer.learning_rate

    @property
    def trains_locally(self) -> bool:
        return self.worker_optimizer is not None

    @property
    def elementwise(self) -> bool:
        return self.clip_norm is None and self.staleness != "gap"

    @property
    def needs_base(self) -> bool:
        return staleness.policy(self.staleness).needs_base

    def worker(self, n_trainable: int, n_workers: int) -> "DownpourWorker":
        return DownpourWorker(n_trainable, self.trains_locally)

    def master(self, n_trainable: int, n_workers: int) -> "DownpourMaster":
        old = staleness.policy(self.staleness)(n_trainable, self.dc_lambda)
        kind = LocalStepsMaster if self.trains_locally else DownpourMaster
        return kind(self.optimizer, n_trainable, old, self.clip_norm, self.clip_value)


def check_limits(clip_norm: float | None, clip_value: float | None) -> None:
    """Raise ConfigError unless both are None or above 0."""
    for name, value in (("clip_norm", clip_norm), ("clip_value", clip_value)):
        if value is not None and not is_above_0(value):
            raise ConfigError(f"{name} must be above 0, got {value}; leave it out for none")


class DownpourWorker:
    """Sends gradients, or the way its local steps went, and goes on from the master's weights."""

    rate = 1.0  # of the master's learning rate; unused: the master applies it

    def __init__(self, n_trainable: int, trains_locally: bool) -> None:
        self._start = np.zeros(n_trainable, np.float32) if trains_locally else None

    def pull(self, weights: Vector) -> None:
        """Not called: the algorithm does not pull."""

    def push(self, vector: Vector) -> None:
        if self._start is not None:
            np.subtract(self._start, vector, out=vector)

    def absorb(self, weights: Vector | None) -> Vector:
        assert weights is not None, "every answer brings weights"
        if self._start is not None:
            self._start[:] = weights
        return weights

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> None:
        """Nothing to put back: the start of the local steps comes with the next weights."""


class DownpourMaster:
    """The master's weights move by its optimizer; ``learning_rate`` may change at any time.

    optimizer, clip_norm, clip_value: see Downpour. old: what becomes of old updates.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        n_trainable: int,
        old: staleness.Policy,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        self._optimizer = optimizer
        self._old = old
        self._clip_norm, self._clip_value = clip_norm, clip_value
        self._optimizer_state = optimizer.init(n_trainable)
        self.learning_rate = optimizer.learning_rate

    def apply(self, weights: Vector, updates: Sequence[Update], out: Vector) -> None:
        discount = self._old.correct(weights, updates)
        gradient, scale = kernels.weighted_mean(vectors(updates), samples(updates))
        self._optimizer.update(
            self._optimizer_state,
            weights,
            gradient,
            out,
            learning_rate=self._rate() * discount,
            scale=scale * self._clip(gradient, scale),
        )
        self._old.stepped(out)

    def _rate(self) -> float:
        """Of the next step."""
        return self.learning_rate

    def _clip(self, gradient: Vector, scale: float) -> float:
        """Clip by value in place, and return the factor that clips by norm."""
        if self._clip_value is not None:
            limit = np.float32(self._clip_value / scale)
            np.clip(gradient, -limit, limit, out=gradient)
        if self._clip_norm is None:
            return 1.0
        norm = kernels.norm(gradient) * scale
        return min(1.0, self._clip_norm / norm) if norm > 0.0 else 1.0

    def state(self) -> State:
        old = {f"staleness/{name}": array for name, array in self._old.state().items()}
        return self._optimizer_state.arrays() | old

    def load_state(self, state: State) -> None:
        prefix = "staleness/"
        mine = {name: array for name, array in state.items() if not name.startswith(prefix)}
        self._optimizer_state.load(mine)
        old = {name.removeprefix(prefix): state[name] for name in state if name not in mine}
        self._old.load_state(old)


class LocalStepsMaster(DownpourMaster):
    """The updates have been scaled by schedules already, at the workers: ``learning_rate`` is
    what callbacks change for those, and the master's own step keeps its rate."""

    def _rate(self) -> float:
        return self._optimizer.learning_rate
