"""Synchronous training without a master: all ranks reduce one gradient, and step alike.

The sum of all ranks' gradients over the samples is the gradient of one batch of all their
samples. Every rank applies it to its own copy of the weights by the same arithmetic, so the
copies stay equal bit for bit.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Self

from nnlo.algo import staleness
from nnlo.algo.downpour import DownpourMaster, DownpourWorker, check_limits
from nnlo.algo.optimizers import NUMBERS, Adam, Optimizer, make_optimizer
from nnlo.algo.recipe import Recipe, check_number, check_sync_every, split_numbers
from nnlo.errors import ConfigError

SCALINGS: Mapping[str, Callable[[int], float]] = MappingProxyType(
    {"none": lambda n_ranks: 1.0, "linear": float, "sqrt": math.sqrt}
)
"""From the number of ranks to the factor on the learning rate, by name."""

ENGINES = ("mpi", "horovod")
"""Who reduces, by name in options."""

WARMUP = 100
"""Updates of the warm-up of a scaled rate by default; Goyal et al. take 5 epochs of ImageNet."""


@dataclass(frozen=True)
class Allreduce(Recipe):
    """The numbers of one run without a master.

    optimizer: applied by every rank to the reduced gradient.
    sync_every: batches whose gradients a rank averages for one reduction, >= 1.
    scaling: what the number of ranks does to the learning rate: "none", "linear" (Goyal et al.
        2017, arXiv:1706.02677) or "sqrt" (Krizhevsky 2014, arXiv:1404.5997, for constant
        variance of the gradient; the rule for Adam). Callbacks see and set the rate of one rank.
    warmup: updates over which the rate rises from one rank's to the scaled one; None for 100.
        Without scaling there is nothing to rise to.
    clip_norm, clip_value: of the reduced gradient, as in Downpour.
    overlap: reduce parts of the gradient while the rest is computed; native torch models only.
        engine: "mpi", or "horovod" where that is installed. Both are for the loops.
    """

    optimizer: Optimizer = field(default_factory=Adam)
    sync_every: int = 1
    scaling: str = "none"
    warmup: int | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    overlap: bool = False
    engine: str = "mpi"

    mode: ClassVar[str] = "allreduce"
    also: ClassVar[tuple[str, ...]] = NUMBERS
    has_master: ClassVar[bool] = False
    worker_optimizer: ClassVar[None] = None
    worker_learning_rate: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_sync_every(self.sync_every)
        check_limits(self.clip_norm, self.clip_value)
        check_number("overlap", self.overlap, is_switch=True)
        if self.overlap and self.engine != "mpi":
            raise ConfigError(
                f"overlap must go with the engine mpi, got {self.engine}; leave one of them out"
            )
        for name, known in (("scaling", tuple(SCALINGS)), ("engine", ENGINES)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        is_count = isinstance(self.warmup, int) and self.warmup >= 0
        if self.warmup is not None and (self.scaling == "none" or not is_count):
            raise ConfigError(
                f"warmup must be at least 0 updates and come with a scaling of the learning "
                f"rate, got {self.warmup} with scaling {self.scaling}; name linear or sqrt"
            )

    @classmethod
    def make(cls, **options: Any) -> Self:
        """Options that are no fields are numbers of the optimizer, by default adam."""
        numbers = split_numbers(cls, options)
        optimizer = make_optimizer(options.pop("optimizer", "adam"), **numbers)
        return cls(optimizer, **options)

    @property
    def learning_rate(self) -> float:
        return self.optimizer.learning_rate

    @property
    def trains_locally(self) -> bool:
        return False

    def worker(self, n_trainable: int, n_workers: int) -> DownpourWorker:
        return DownpourWorker(n_trainable, trains_locally=False)

    def master(self, n_trainable: int, n_workers: int) -> "AllreduceMaster":
        """What each of ``n_workers`` ranks does to its weights."""
        return AllreduceMaster(self, n_trainable, n_workers)


class AllreduceMaster(DownpourMaster):
    """Downpour's arithmetic at the scaled rate."""

    def __init__(self, algo: Allreduce, n_trainable: int, n_ranks: int) -> None:
        old = staleness.Ignore(n_trainable)
        super().__init__(algo.optimizer, n_trainable, old, algo.clip_norm, algo.clip_value)
        self._scaled = SCALINGS[algo.scaling](n_ranks)
        self._warmup = WARMUP if algo.warmup is None else algo.warmup

    def _rate(self) -> float:
        done = self._optimizer_state.count
        risen = 1.0 if done >= self._warmup else done / self._warmup
        return self.learning_rate * (1.0 + (self._scaled - 1.0) * risen)
