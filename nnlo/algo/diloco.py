"""DiLoCo (Douillard et al. 2023, arXiv:2311.08105) and its asynchronous form.

Workers take H local steps by an inner optimizer and push the way from where they started; the
master takes the mean of all workers' ways for a gradient and makes one step of Nesterov
momentum (algorithm 1 of the paper). Asynchronous updates come one by one, and momentum
of each of them would count old ways several times. So it is delayed (Liu et al. 2024,
arXiv:2401.09135, "Delayed Nesterov", with c = 0): each update g of N workers moves the weights
by a plain step of g / N, and after N of them their mean enters the momentum, whose step is
made then. N updates at the same weights sum to one step of the synchronous form.

Departure: N is counted in workers' updates, whether they come alone, in a round or merged by
a sub-master. A full synchronous round is N at once, which makes it Nesterov's step exactly; a
round of a smaller quorum is in between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from nnlo.algo import kernels
from nnlo.algo.base import State, Update, Vector
from nnlo.algo.downpour import DownpourWorker
from nnlo.algo.recipe import (
    Recipe,
    check_local_optimizer,
    check_number,
    check_sync_every,
    check_worker_rate,
    load_slots,
    samples,
    vectors,
)

ADAMW_RATE = 0.01
"""Of the inner optimizer by default. On 10,000 MNIST images, 10 epochs, 6 asynchronous workers,
test accuracy with it is 0.953; with 0.001 and the paper's momentum, 0.876."""


@dataclass(frozen=True)
class DiLoCo(Recipe):
    """The numbers of one run of DiLoCo.

    sync_every: H, local steps between two exchanges. The default suits runs of hundreds of
        local steps; for many thousands of them the paper has 500.
    worker_optimizer: the inner one, by its Keras or torch name or as a mapping of "name" and
        its numbers.
    worker_learning_rate: of ``worker_optimizer``; None for its own default.
    learning_rate: of the outer step, above 0. Schedules and callbacks see and change this
        number, but act on the workers' rate, in proportion; the outer step keeps it, as in
        the paper.
    momentum: of the outer step, in [0, 1). The paper's 0.9 is for hundreds of rounds: it takes
        tens of them to build up, and is late for old updates.
    keeps_own: whether a model with its own ``train_step`` keeps the optimizers it brings; by
        default it does where no other is asked for.
    """

    sync_every: int = 10
    worker_optimizer: str | Mapping[str, Any] = "adamw"
    worker_learning_rate: float | None = None
    learning_rate: float = 0.7
    momentum: float = 0.5
    keeps_own: bool = field(default=False, compare=False, repr=False)

    mode: ClassVar[str] = "diloco"

    def __post_init__(self) -> None:
        check_sync_every(self.sync_every)
        check_local_optimizer(self.mode, self.worker_optimizer)
        check_worker_rate(self.worker_learning_rate, self.worker_optimizer)
        check_number("learning_rate", self.learning_rate)
        check_number("momentum", self.momentum)

    @classmethod
    def make(cls, **options: Any) -> Self:
        """Without a worker_optimizer it is adamw, of rate 0.01 unless another is given."""
        if "worker_optimizer" not in options:
            options = {"worker_learning_rate": ADAMW_RATE} | options
        return cls(**options)

    @property
    def trains_locally(self) -> bool:
        return True

    def worker(self, n_trainable: int, n_workers: int) -> DownpourWorker:
        return DownpourWorker(n_trainable, trains_locally=True)

    def master(self, n_trainable: int, n_workers: int) -> "DiLoCoMaster":
        return DiLoCoMaster(self, n_trainable, n_workers)


class DiLoCoMaster:
    """Delayed Nesterov. The velocity holds the learning rate, as in ``optimizers.SGD``."""

    def __init__(self, algo: DiLoCo, n_trainable: int, n_workers: int) -> None:
        self._algo = algo
        self._n_workers = n_workers
        self.learning_rate = algo.learning_rate
        # waiting: the ways that wait for the momentum, each by its share of the mean
        names = ("velocity", "waiting")
        self._vectors = {name: np.zeros(n_trainable, np.float32) for name in names}
        self._n_waiting = np.zeros((), np.int64)

    def apply(self, weights: Vector, updates: Sequence[Update], out: Vector) -> None:
        n_merged = sum(update.n_merged for update in updates)
        way, scale = kernels.weighted_mean(vectors(updates), samples(updates))
        n_waiting = int(self._n_waiting) + n_merged
        numbers = (
            scale,
            n_merged / self._n_workers,
            self._algo.learning_rate,
            self._algo.momentum,
            n_waiting >= self._n_workers,
        )
        kernels.check(weights.size, weights, way, out, *self._vectors.values())
        kernels.step(_delayed_nesterov, weights, out, (way, *self._vectors.values()), numbers)
        self._n_waiting[...] = n_waiting % self._n_workers

    def state(self) -> State:
        return {name: slot.copy() for name, slot in self._slots().items()}

    def load_state(self, state: State) -> None:
        load_slots("the DiLoCo master", self._slots(), state)

    def _slots(self) -> dict[str, np.ndarray]:
        return {**self._vectors, "n_waiting": self._n_waiting}


def _delayed_nesterov(
    w: Vector,
    g: Vector,
    velocity: Vector,
    waiting: Vector,
    scale: np.float32,
    share: np.float32,
    rate: np.float32,
    momentum: np.float32,
    refreshes: np.float32,
) -> None:
    for i in range(w.size):
        part = share * (scale * g[i])
        mean = waiting[i] + part
        move = -(rate * part)
        v = velocity[i]
        if refreshes:
            v = momentum * v - rate * mean
            move = momentum * v + move
            mean = np.float32(0.0)
        w[i] += move
        velocity[i] = v
        waiting[i] = mean
