"""Deep ensembles (Lakshminarayanan et al. 2017, arXiv:1612.01474)."""

from dataclasses import dataclass
from typing import ClassVar

from nnlo.algo.optimizers import make_optimizer
from nnlo.bayes.method import (
    Arrays,
    Matrix,
    Method,
    RowOptimizer,
    Setting,
    Source,
    Stepper,
    is_number,
)
from nnlo.bayes.posterior import InMemory, ParticlePosterior, Posterior
from nnlo.errors import ConfigError


@dataclass(frozen=True)
class DeepEnsemble(Method):
    """Networks trained alone from different first weights, in different orders of the samples.

    optimizer: a name of ``nnlo.algo.OPTIMIZERS``. learning_rate: None for the optimizer's own.
    weight_decay: precision of a Gaussian prior over all weights times 1/N, that is
    ``weight_decay / 2 * |theta|^2`` beside the mean loss; 0 for none.
    """

    name: ClassVar[str] = "ensemble"

    optimizer: str = "adam"
    learning_rate: float | None = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        rate = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
        make_optimizer(self.optimizer, **rate)
        if not (is_number(self.weight_decay) and self.weight_decay >= 0.0):
            raise ConfigError(
                f"weight_decay must be a number, not negative, got {self.weight_decay!r}; try 0"
            )

    def start(self, setting: Setting) -> Stepper:
        return Alone(self, (len(setting.pids), setting.manifest.n_trainable))

    def posterior(self, source: Source) -> Posterior:
        return ParticlePosterior(InMemory(source), **self.numbers())


class Alone(Stepper):
    """Each row along its own gradient; shape: (P, n_trainable)."""

    def __init__(self, method: DeepEnsemble, shape: tuple[int, int]) -> None:
        self._optimizer = RowOptimizer(method.optimizer, method.learning_rate, shape)
        self._decay = method.weight_decay
        self.rate = self._optimizer.rule.learning_rate

    def step(self, weights: Matrix, gradient: Matrix) -> None:
        if self._decay:
            gradient += self._decay * weights
        self._optimizer.step(weights, gradient, self.rate)

    def arrays(self) -> Arrays:
        return self._optimizer.arrays()

    def load_arrays(self, arrays: Arrays) -> None:
        self._optimizer.load_arrays(arrays)

    def scalars(self) -> dict[str, float]:
        return self._optimizer.scalars()

    def load_scalars(self, scalars: dict[str, float]) -> None:
        self._optimizer.load_scalars(scalars)
