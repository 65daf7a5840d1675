"""Downpour SGD (Dean et al. 2012, "Large scale distributed deep networks", section 4.1).

Workers send gradients, the master's optimizer applies them as they come. Two departures from
the paper, both for precision: with ``worker_optimizer`` None the gradients of ``sync_every``
batches are averaged at the pulled weights (the paper also moves the local weights by them),
and it is the true gradient that travels, not a difference of weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nnlo.algo import kernels, staleness
from nnlo.algo.base import State, Update, Vector
from nnlo.algo.optimizers import Adam, Optimizer
from nnlo.errors import ConfigError


@dataclass(frozen=True)
class Downpour:
    """The numbers of one Downpour run.

    optimizer: applied by the master to each gradient (or to the mean of a synchronous round).
    sync_every: batches between two exchanges, >= 1.
    worker_optimizer: None, or the name of a Keras or torch optimizer. With a name a worker
        takes ``sync_every`` local steps by it and sends the weights it started from minus
        the weights it reached, which the master takes for a gradient.
    worker_learning_rate: of ``worker_optimizer``; None for its own default.
    staleness: "none", or "inverse" to divide the learning rate by 1 + staleness.
    clip_norm: None, or the largest Euclidean norm of a gradient; longer ones are shortened.
    clip_value: None, or the largest absolute value of an element of a gradient.
    """

    optimizer: Optimizer = field(default_factory=Adam)
    sync_every: int = 1
    worker_optimizer: str | None = None
    worker_learning_rate: float | None = None
    staleness: str = "none"
    clip_norm: float | None = None
    clip_value: float | None = None

    def __post_init__(self) -> None:
        if self.sync_every < 1:
            raise ConfigError(f"sync_every must be at least 1 batch, got {self.sync_every}")
        if self.worker_learning_rate is not None and self.worker_optimizer is None:
            raise ConfigError(
                f"worker_learning_rate must come with a worker_optimizer, got "
                f"{self.worker_learning_rate} without one; name one or leave the rate out"
            )
        for name in ("clip_norm", "clip_value", "worker_learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                raise ConfigError(f"{name} must be above 0, got {value}; leave it out for none")
        staleness.policy(self.staleness)

    @property
    def trains_locally(self) -> bool:
        return self.worker_optimizer is not None

    def worker(self, n_trainable: int) -> "DownpourWorker":
        return DownpourWorker(n_trainable, self.trains_locally)

    def master(self, n_trainable: int) -> "DownpourMaster":
        return DownpourMaster(self, n_trainable)


class DownpourWorker:
    """Sends gradients, or the way its local steps went, and goes on from the master's weights."""

    def __init__(self, n_trainable: int, trains_locally: bool) -> None:
        self._start = np.zeros(n_trainable, np.float32) if trains_locally else None

    def push(self, vector: Vector) -> None:
        if self._start is not None:
            np.subtract(self._start, vector, out=vector)

    def absorb(self, weights: Vector) -> Vector:
        if self._start is not None:
            self._start[:] = weights
        return weights

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> None:
        """Nothing to put back: the start of the local steps comes with the next weights."""


class DownpourMaster:
    """The master's weights move by its optimizer; ``learning_rate`` may change at any time."""

    def __init__(self, algo: Downpour, n_trainable: int) -> None:
        self._algo = algo
        self._discount = staleness.policy(algo.staleness)
        self._optimizer_state = algo.optimizer.init(n_trainable)
        self.learning_rate = algo.optimizer.learning_rate

    def apply(self, weights: Vector, updates: Sequence[Update], out: Vector) -> None:
        gradient, scale = kernels.weighted_mean(
            [update.vector for update in updates], [update.n_samples for update in updates]
        )
        oldest = max(update.staleness for update in updates)
        self._algo.optimizer.update(
            self._optimizer_state,
            weights,
            gradient,
            out,
            learning_rate=self.learning_rate * self._discount(oldest),
            scale=scale * self._clip(gradient, scale),
        )

    def _clip(self, gradient: Vector, scale: float) -> float:
        """Clip by value in place, and return the factor that clips by norm."""
        if self._algo.clip_value is not None:
            limit = np.float32(self._algo.clip_value / scale)
            np.clip(gradient, -limit, limit, out=gradient)
        if self._algo.clip_norm is None:
            return 1.0
        norm = kernels.norm(gradient) * scale
        return min(1.0, self._algo.clip_norm / norm) if norm > 0.0 else 1.0

    def state(self) -> State:
        return self._optimizer_state.arrays()

    def load_state(self, state: State) -> None:
        self._optimizer_state.load(state)
