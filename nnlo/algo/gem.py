"""Gradient energy matching (Hermans & Louppe 2018, arXiv:1805.08469).

Each worker scales its steps, weight by weight, so that all workers together move the master's
weights with no more energy than one process of momentum SGD would:

    m <- mu m + D                  with D = -eta gradient
    c = theta - stale, stale <- theta    how far theta has gone since the worker's last pull
    p = (kappa |m| - |c|) / (|D| + 1e-12), limited to [0, 5]
    commit p D to the master, go on from theta + p D

The paper does not limit p; its authors' code does. ``stale`` begins at the first weights, so
that the first step has c = 0 and goes at full length.

Several commits of one synchronous round, or merged by a sub-master, are averaged by samples.
Each worker has sized its commit as if it alone went on from theta: it sees the others' in c
only afterwards. The mean moves at most kappa |m|, as the energy demands; the sum of W of them
would move W times as much, find c too large in the next round, stop, and start again. So a
synchronous round is one worker's step with a W times larger batch, and the speed-up of many
steps is for asynchronous workers, whose commits are applied one by one, in full.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from nnlo.algo import kernels
from nnlo.algo.adding import AddingMaster
from nnlo.algo.base import State, Vector
from nnlo.algo.recipe import (
    Recipe,
    check_number,
    check_sync_every,
    check_worker_rate,
    load_slots,
)
from nnlo.errors import ConfigError


@dataclass(frozen=True)
class GEM(Recipe):
    """The numbers of one run of gradient energy matching.

    learning_rate: eta of the steps D; unused with local steps.
    momentum: mu of the process whose energy is matched, in [0, 1).
    kappa: its energy's factor, above 0. The paper has 1; its authors' code calls 2 good.
    sync_every: batches between two exchanges, whose gradients are averaged.
    worker_optimizer: None, or a Keras or torch optimizer, by its name or as a mapping of "name"
        and its numbers. With one a worker takes ``sync_every`` local steps by it, and D is the
        way that they went.
    worker_learning_rate: of ``worker_optimizer``; None for its own default.
    """

    learning_rate: float = 0.05
    momentum: float = 0.9
    kappa: float = 2.0
    sync_every: int = 1
    worker_optimizer: str | Mapping[str, Any] | None = None
    worker_learning_rate: float | None = None

    mode: ClassVar[str] = "gem"
    aliases: ClassVar[Mapping[str, str]] = {
        "gem_lr": "learning_rate",
        "gem_momentum": "momentum",
        "gem_kappa": "kappa",
    }
    pulls: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("learning_rate", "momentum", "kappa"):
            check_number(name, getattr(self, name))
        check_sync_every(self.sync_every)
        check_worker_rate(self.worker_learning_rate, self.worker_optimizer)

    @classmethod
    def make(cls, **options: Any) -> Self:
        """worker_optimizer: "none" is None. A learning_rate beside one is an error."""
        if options.get("worker_optimizer") == "none":
            del options["worker_optimizer"]
        if "worker_optimizer" in options and "learning_rate" in options:
            raise ConfigError(
                f"learning_rate must be meant for gradients, got {options['learning_rate']} with "
                f"local steps by {options['worker_optimizer']}; give worker_learning_rate"
            )
        return cls(**options)

    @property
    def trains_locally(self) -> bool:
        return self.worker_optimizer is not None

    def worker(self, n_trainable: int, n_workers: int) -> "GEMWorker":
        return GEMWorker(self, n_trainable)

    def master(self, n_trainable: int, n_workers: int) -> AddingMaster:
        return AddingMaster(self.learning_rate, self.merge)


class GEMWorker:
    """Holds the momentum, the weights of the last pull and those it goes on from.

    rate: factor on the learning rate of gradients, set by the loops to what the master's has
    become of its first; not part of the state. Local steps follow it by their optimizer.
    """

    def __init__(self, algo: GEM, n_trainable: int) -> None:
        self._algo = algo
        names = ("momentum", "stale", "x")
        self._slots = {name: np.zeros(n_trainable, np.float32) for name in names}
        self._theta: Vector | None = None
        self._restored = False
        self.rate = 1.0

    def pull(self, weights: Vector) -> None:
        """``weights`` must stay as they are until the push."""
        self._theta = weights

    def push(self, vector: Vector) -> None:
        assert self._theta is not None, "pull comes before push"
        kernels.check(vector.size, vector, self._theta)
        slots, locally = self._slots, self._algo.trains_locally
        factor = -self._algo.learning_rate * self.rate
        numbers = (locally, factor, self._algo.momentum, self._algo.kappa)
        arrays = (self._theta, slots["momentum"], slots["stale"], slots["x"])
        kernels.step(_commit, vector, vector, arrays, numbers)
        self._theta = None

    def absorb(self, weights: Vector | None) -> Vector:
        """x; at the start it is, as ``stale``, the master's weights, unless restored."""
        if weights is not None and not self._restored:
            self._slots["stale"][:] = weights
            self._slots["x"][:] = weights
        self._restored = False
        return self._slots["x"]

    def state(self) -> State:
        return {name: slot.copy() for name, slot in self._slots.items()}

    def load_state(self, state: State) -> None:
        load_slots("a GEM worker", self._slots, state)
        self._restored = True


def _commit(
    vector: Vector,
    theta: Vector,
    momentum: Vector,
    stale: Vector,
    x: Vector,
    locally: np.float32,
    factor: np.float32,
    mu: np.float32,
    kappa: np.float32,
) -> None:
    """``vector`` becomes the commit. On entry it is a gradient, which ``factor`` makes a step,
    or the weights that local steps from ``x`` have reached."""
    zero, most, epsilon = np.float32(0.0), np.float32(5.0), np.float32(1e-12)
    for i in range(vector.size):
        present = theta[i]
        delta = vector[i] - x[i] if locally else factor * vector[i]
        m = mu * momentum[i] + delta
        change = present - stale[i]
        share = (kappa * abs(m) - abs(change)) / (abs(delta) + epsilon)
        commit = min(max(share, zero), most) * delta
        vector[i] = commit
        momentum[i] = m
        stale[i] = present
        x[i] = present + commit
