"""MultiSWAG: a Gaussian around the path of each particle's last epochs.

Maddox et al. 2019 (arXiv:1902.02476), algorithm 1, for each of several networks as Wilson &
Izmailov 2020 (arXiv:2002.08791). Theta moves at a constant rate, and every so often its
running mean and variance and its deviation from that mean are taken; a draw is

    mean + sqrt(scale) [ sqrt(variance) z1 + D z2 / sqrt(K - 1) ],    z1, z2 ~ N(0, 1),

with the last K deviations as the columns of D, so that its covariance is scale (diag(variance)
+ D D^T / (K - 1)); the paper's scale is 1/2.

We depart from the paper where the optimizer is not SGD: it goes on as it is, with its slots.
A rate that suits Adam hardly moves a network by SGD, so that a second optimizer would need a
rate of its own. ``optimizer="sgd"`` for all of the training is the paper's recipe.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nnlo.algo.optimizers import make_optimizer
from nnlo.bayes.ensemble import Alone, DeepEnsemble
from nnlo.bayes.method import Arrays, Matrix, Setting, Source, Stepper, is_number
from nnlo.bayes.posterior import Holder, InMemory, ParticlePosterior, Posterior
from nnlo.bayes.seeds import Purpose, generator
from nnlo.errors import CheckpointError, ConfigError
from nnlo.model.adapter import Vector


class Moments:
    """What is left of the paths of P weight vectors, of T weights each.

    count: (P,) points taken of each path. mean, variance: (P, T) float64, of those points (by
    1/count, that is m2 - m1^2, without its cancellation: Welford 1962). deviations: (P, K, T)
    float32, point minus mean at its time, of the last K points in a ring; ``rank`` is K.
    """

    def __init__(self, n_particles: int, n_weights: int, rank: int) -> None:
        self.count = np.zeros(n_particles, np.int64)
        self.mean = np.zeros((n_particles, n_weights))
        self._squares = np.zeros((n_particles, n_weights))
        self.deviations = np.zeros((n_particles, rank, n_weights), np.float32)

    @property
    def variance(self) -> NDArray[np.float64]:
        return self._squares / np.maximum(self.count, 1)[:, None]

    def take(self, row: int, point: NDArray[Any]) -> None:
        """Add one point, shape (T,), to the path of ``row``."""
        self.count[row] += 1
        before = point - self.mean[row]
        self.mean[row] += before / self.count[row]
        after = point - self.mean[row]
        self._squares[row] += before * after
        rank = self.deviations.shape[1]
        if rank:
            self.deviations[row, (self.count[row] - 1) % rank] = after

    def arrays(self) -> Arrays:
        """All of it, by particle; no copies."""
        return {
            "count": self.count,
            "mean": self.mean,
            "squares": self._squares,
            "deviations": self.deviations,
        }

    def load(self, arrays: Arrays) -> None:
        """Copy in what ``arrays`` gave; CheckpointError where the shapes differ."""
        for name, target in self.arrays().items():
            found = arrays.get(name)
            if found is None or found.shape != target.shape:
                raise CheckpointError(
                    f"a checkpoint must hold collected {name} of shape {target.shape}, got "
                    f"{None if found is None else found.shape}; restore with the same rank"
                )
            target[:] = found


def sample(
    mean: NDArray[Any],
    variance: NDArray[Any],
    deviations: NDArray[np.float32],
    scale: float,
    rng: np.random.Generator,
    out: Vector,
) -> None:
    """Write one draw to ``out``, (T,); see the top. deviations: (K, T), none used where K < 2."""
    spread = np.sqrt(np.maximum(variance, 0.0)) * rng.standard_normal(len(out), np.float32)
    rank = len(deviations)
    if rank > 1:
        spread += rng.standard_normal(rank, np.float32) @ deviations / math.sqrt(rank - 1)
    out[:] = mean + math.sqrt(scale) * spread


@dataclass(frozen=True)
class MultiSWAG(DeepEnsemble):
    """A SWAG for each particle, which is trained as by DeepEnsemble.

    swa_start: share of the epochs before anything is collected, in [0, 1). swa_lr: learning
    rate from there on; None for the same. every: steps between two collections; None for one at
    the end of each epoch. rank: columns of D at most, 0 for a diagonal covariance alone.
    scale: of the covariance, above 0.
    """

    name: ClassVar[str] = "multiswag"

    swa_start: float = 0.75
    swa_lr: float | None = None
    every: int | None = None
    rank: int = 20
    scale: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (is_number(self.swa_start) and 0.0 <= self.swa_start < 1.0):
            raise ConfigError(f"swa_start must be in [0, 1), got {self.swa_start!r}; try 0.75")
        if self.swa_lr is not None:
            make_optimizer(self.optimizer, learning_rate=self.swa_lr)
        if self.every is not None:
            if not is_number(self.every, is_whole=True) or self.every < 1:
                raise ConfigError(
                    f"every must be at least 1 step, got {self.every!r}; leave it out"
                )
        if not is_number(self.rank, is_whole=True) or self.rank < 0 or self.rank == 1:
            raise ConfigError(
                "rank must be at least 2, or 0 for a diagonal covariance, got "
                f"{self.rank!r}; try 20"
            )
        if not (is_number(self.scale) and self.scale > 0.0):
            raise ConfigError(f"scale must be above 0, got {self.scale!r}; the paper's is 0.5")

    def first_epoch(self, n_epochs: int) -> int:
        """The epoch, from 0, that is the first to be collected."""
        return int(self.swa_start * n_epochs)

    def start(self, setting: Setting) -> Stepper:
        n_epochs = setting.n_epochs - self.first_epoch(setting.n_epochs)
        n_steps = n_epochs * setting.steps_per_epoch
        n_points = n_epochs if self.every is None else n_steps // self.every
        if n_points < 2:
            raise ConfigError(
                "multiswag must collect 2 times or more, got "
                f"{n_points} of {setting.n_epochs} epochs of {setting.steps_per_epoch} steps with "
                f"swa_start={self.swa_start} and every={self.every or 'epoch'}; train for more "
                "epochs, or lower swa_start or every"
            )
        return Collecting(self, setting)

    def posterior(self, source: Source) -> Posterior:
        return SwagPosterior(InMemory(source), **self.numbers())


class Collecting(Alone):
    """Trains each particle alone and takes its moments once ``swa_start`` is over."""

    def __init__(self, method: MultiSWAG, setting: Setting) -> None:
        shape = len(setting.pids), setting.manifest.n_trainable
        super().__init__(method, shape)
        self.moments = Moments(*shape, method.rank)
        self.state_mean = np.zeros((shape[0], setting.manifest.n_state))
        self._method = method
        self._first = method.first_epoch(setting.n_epochs)
        self._n_epochs = 0  # done
        self._n_steps = 0  # of those that count
        self._set_rate()

    @property
    def is_collecting(self) -> bool:
        """Whether the steps of this epoch count."""
        return self._n_epochs >= self._first

    def step(self, weights: Matrix, gradient: Matrix) -> None:
        super().step(weights, gradient)
        if self.is_collecting:
            self._n_steps += 1
            if self._method.every is not None and self._n_steps % self._method.every == 0:
                self._take(weights)

    def end_epoch(self, epoch: int, weights: Matrix, state: Matrix) -> None:
        if self.is_collecting:
            if self._method.every is None:
                self._take(weights)
            self.state_mean += (state - self.state_mean) / (epoch + 1 - self._first)
        self._n_epochs = epoch + 1
        self._set_rate()

    def arrays(self) -> Arrays:
        own = self.moments.arrays() | {"state_mean": self.state_mean}
        return super().arrays() | {f"swag/{name}": array for name, array in own.items()}

    def load_arrays(self, arrays: Arrays) -> None:
        super().load_arrays(arrays)
        own = {k.removeprefix("swag/"): v for k, v in arrays.items() if k.startswith("swag/")}
        self.moments.load(own)
        self.state_mean[:] = own["state_mean"]

    def scalars(self) -> dict[str, float]:
        own = {"n_epochs": self._n_epochs, "n_steps": self._n_steps, "first": self._first}
        return super().scalars() | own

    def load_scalars(self, scalars: dict[str, float]) -> None:
        super().load_scalars(scalars)
        self._n_epochs, self._n_steps = int(scalars["n_epochs"]), int(scalars["n_steps"])
        if self._n_steps:  # once begun, collecting goes on, however many epochs there are now
            self._first = int(scalars["first"])
        self._set_rate()

    def kept(self) -> Arrays:
        return {
            "count": self.moments.count,
            "mean": self.moments.mean.astype(np.float32),
            "variance": self.moments.variance.astype(np.float32),
            "deviations": self.moments.deviations,
            "state_mean": self.state_mean.astype(np.float32),
        }

    def record(self) -> dict[str, float]:
        return {"collected": float(self.moments.count.max())}

    def _take(self, weights: Matrix) -> None:
        for row, point in enumerate(weights):
            self.moments.take(row, point)

    def _set_rate(self) -> None:
        if self.is_collecting and self._method.swa_lr is not None:
            self.rate = self._method.swa_lr


class SwagPosterior(ParticlePosterior):
    """Draw s comes from the Gaussian of particle ``s % n_particles``.

    Its state S is the mean of those at the ends of the epochs that count.
    """

    kind = "multiswag"
    needs_refresh = True

    def __init__(self, holder: Holder, scale: float = 0.5, **numbers: Any) -> None:
        super().__init__(holder, scale=scale, **numbers)
        self._scale = scale

    def n_draws(self, samples: int | None = None) -> int:
        return Posterior.n_draws(self, samples)

    def draw(self, index: int, out: Vector) -> None:
        """Raises CheckpointError where the training ended before two points were collected."""
        arrays = self.holder.particle(index % self.holder.n_particles)
        if missing := {"count", "mean", "variance", "deviations", "state_mean"} - arrays.keys():
            raise CheckpointError(
                f"a particle of multiswag must have its {min(missing)}, got none; name the "
                "folder that such a run has written"
            )
        count, n = int(arrays["count"]), arrays["mean"].size
        if count < 2:
            raise CheckpointError(
                f"a particle must have collected 2 points or more, got {count}; the training "
                "ended early: go on from its checkpoint"
            )
        sample(
            arrays["mean"],
            arrays["variance"],
            arrays["deviations"][:count],
            self._scale,
            generator(self.holder.seed, Purpose.DRAW, index),
            out[:n],
        )
        out[n:] = arrays["state_mean"]
