"""Stein variational gradient descent (Liu & Wang 2016, arXiv:1608.04471).

Particles that attract each other to where the posterior is high and repel each other else: a set
of networks that stands for the posterior together. See ``stein`` for the direction, ``exchange``
for how the particles of several ranks meet. In many dimensions their variance falls below the
posterior's (Zhuo et al. 2018, arXiv:1711.04425): of N(0, I) in 50 dimensions, 20 particles by one
kernel keep 6 %. Kernels for each layer keep more.
"""

import logging
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nnlo.algo.kernels import Float, Vector, is_finite
from nnlo.algo.optimizers import OPTIMIZERS, Optimizer, OptimizerState, Step, make_optimizer
from nnlo.bayes.exchange import EXCHANGES, meet
from nnlo.bayes.method import Arrays, Matrix, Method, RowOptimizer, Setting, Source, Stepper
from nnlo.bayes.placement import Placement
from nnlo.bayes.posterior import InMemory, ParticlePosterior, Posterior
from nnlo.bayes.stein import layer_groups, mean_interaction
from nnlo.errors import ConfigError, TrainingError

log = logging.getLogger(__name__)

MEDIAN = "rbf-median"
GROUPS = ("global", "layer")

_ALONE = 1e-3
"""Mean k_ij of two particles that no longer feel each other."""


@dataclass(frozen=True)
class SVGD(Method):
    """Particles of the posterior p(weights | data) ~ exp(-N * mean loss) * prior.

    optimizer: "rms", the step of the authors' code, or a name of ``nnlo.algo.OPTIMIZERS``.
    learning_rate: None for the optimizer's own; with "sgd" it must be small as 1/N. decay: let
    it fall to 0 in even steps. prior: standard deviation of a normal prior around 0 over all
    weights; None for a flat one. kernel: "rbf-median", or the length scale of a fixed kernel.
    groups: one kernel, or one for each "layer". exchange: see ``meet``. Only trainable weights
    take part; BatchNorm statistics stay each particle's own.
    """

    name: ClassVar[str] = "svgd"
    shares_batches: ClassVar[bool] = True
    meets: ClassVar[bool] = True

    optimizer: str = "rms"
    learning_rate: float | None = None
    decay: bool = False
    prior: float | None = 1.0
    kernel: str | float = MEDIAN
    groups: str = "global"
    exchange: str = "auto"

    def __post_init__(self) -> None:
        self.rule()
        if self.prior is not None and not _is_length(self.prior):
            raise ConfigError(
                f"prior must be a standard deviation above 0, got {self.prior!r}; None is flat"
            )
        if self.kernel != MEDIAN and not _is_length(self.kernel):
            raise ConfigError(
                f"kernel must be {MEDIAN} or a length above 0, got {self.kernel!r}; "
                f"try {MEDIAN}, which follows the particles"
            )
        if not isinstance(self.decay, bool):
            raise ConfigError(f"decay must be true or false, got {self.decay!r}")
        for name, words in (("groups", GROUPS), ("exchange", EXCHANGES)):
            if getattr(self, name) not in words:
                raise ConfigError(
                    f"{name} must be one of {', '.join(words)}, got {getattr(self, name)!r}"
                )

    def rule(self) -> Optimizer:
        """The optimizer; raises ConfigError for a name or a rate that cannot be."""
        rate = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
        if self.optimizer == "rms":
            return Rms(**rate)
        if not isinstance(self.optimizer, str) or self.optimizer not in OPTIMIZERS:
            raise ConfigError(
                f"optimizer must be one of rms, {', '.join(OPTIMIZERS)}, got {self.optimizer!r}"
            )
        return make_optimizer(self.optimizer, **rate)

    def start(self, setting: Setting) -> "Stein":
        return Stein(self, setting)

    def posterior(self, source: Source) -> Posterior:
        return ParticlePosterior(InMemory(source), **self.numbers())


class Stein(Stepper):
    """This rank's particles among all; collective over the leaders."""

    def __init__(self, method: SVGD, setting: Setting) -> None:
        shape = len(setting.pids), setting.manifest.n_trainable
        whole = [slice(0, shape[1])]
        groups = layer_groups(setting.manifest) if method.groups == "layer" else whole
        scale = None if method.kernel == MEDIAN else float(method.kernel)
        rule = method.rule()
        self._method, self._n_samples = method, setting.n_samples
        self._n_steps = setting.n_epochs * setting.steps_per_epoch
        self._optimizer = RowOptimizer(rule, None, shape)
        self._base = self.rate = rule.learning_rate
        self._meeting = meet(setting.leaders, _counts(setting), groups, scale, method.exchange)
        self._is_first = setting.leaders is None or setting.leaders.rank == 0
        self._interaction = math.nan
        self._is_told = False

    def step(self, weights: Matrix, gradient: Matrix) -> None:
        """Raises TrainingError on all ranks, which keep their weights, where a number of any
        particle is not finite."""
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is told below
            gradient *= -self._n_samples
            if self._method.prior is not None:
                for score, row in zip(gradient, weights, strict=True):
                    score -= row * (1.0 / self._method.prior**2)
            kernel = self._meeting.descend(weights, gradient, gradient)
        # What is not finite in one particle is not in any direction: 0 * inf is no number.
        if not is_finite(gradient.reshape(-1)):
            raise TrainingError(
                "weights and gradients of all particles must be finite, got others; lower the "
                f"learning rate, now {self.rate}"
            )
        if self._method.decay:
            done = self._optimizer.scalars()["count"]
            self.rate = self._base * max(0.0, 1.0 - done / self._n_steps)
        self._optimizer.step(weights, gradient, self.rate)
        self._note(mean_interaction(kernel))

    def _note(self, interaction: float) -> None:
        self._interaction = interaction
        if interaction < _ALONE and self._is_first and not self._is_told:
            self._is_told = True
            log.warning(
                "the particles no longer feel each other (mean kernel %.1e): each trains alone; "
                "use the kernel %s, or a greater length",
                interaction,
                MEDIAN,
            )

    def arrays(self) -> Arrays:
        return self._optimizer.arrays()

    def load_arrays(self, arrays: Arrays) -> None:
        self._optimizer.load_arrays(arrays)

    def scalars(self) -> dict[str, float]:
        return self._optimizer.scalars()

    def load_scalars(self, scalars: dict[str, float]) -> None:
        self._optimizer.load_scalars(scalars)

    def record(self) -> dict[str, float]:
        """kernel: the mean k_ij of two particles in the last step; none of a single one."""
        return {} if math.isnan(self._interaction) else {"kernel": self._interaction}


@dataclass(frozen=True)
class Rms(Optimizer):
    """The step of the SVGD authors' code: squares that start with the first, epsilon outside.

    squares = g^2 at first, then rho squares + (1 - rho) g^2; w -= rate g / (epsilon + root).
    """

    rho: float = 0.9
    epsilon: float = 1e-6

    def _slots(self) -> dict[str, float | None]:
        return {"squares": 0.0}

    def _step(self, state: OptimizerState, rate: float) -> Step:
        rho = self.rho if state.count > 1 else 0.0
        return _rms, (rate, rho, 1.0 - rho, self.epsilon)


def _rms(
    w: Vector,
    g: Vector,
    squares: Vector,
    scale: Float,
    rate: Float,
    rho: Float,
    rest: Float,
    epsilon: Float,
) -> None:
    for i in range(w.size):
        gradient = scale * g[i]
        square = rho * squares[i] + rest * (gradient * gradient)
        w[i] -= rate * gradient / (np.sqrt(square) + epsilon)
        squares[i] = square


def _counts(setting: Setting) -> list[int]:
    """Particles of each of the leaders, without asking them: one may just fail to begin."""
    n_ranks = 1 if setting.leaders is None else setting.leaders.size
    placement = Placement(setting.n_particles, n_ranks)
    return [len(placement.pids(rank)) for rank in range(n_ranks)]


def _is_length(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and 0.0 < value < math.inf
    )
