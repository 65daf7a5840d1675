"""What a society is made of: plain vectors, or particles of a model."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnlo.bayes.method import Source
from nnlo.bayes.placement import Placement
from nnlo.bayes.posterior import InMemory, ParticlePosterior, Posterior
from nnlo.bayes.seeds import Purpose, derive, generator
from nnlo.errors import ConfigError
from nnlo.model.batch import as_arrays

if TYPE_CHECKING:
    from mpi4py import MPI

    from nnlo.bayes.particles import Particles

Array = NDArray[Any]


class Crowd(Protocol):
    """Particles of all ranks, as a society sees them; ``weights`` are this rank's rows."""

    n: int
    seed: int
    comm: "MPI.Intracomm | None"
    placement: Placement
    weights: NDArray[np.float32]

    def layout(self, batch: Any) -> Hashable:
        """Equal for batches that can go through the model together; ConfigError for no batch."""

    def gradients(self, asked: Sequence[tuple[int, Any]]) -> list[tuple[Array, float]]:
        """Of pairs of a particle and its batch, all of one layout: the gradient of the mean
        loss, and that."""

    def outputs(self, pid: int, x: Any) -> Any:
        """What the model of a particle says to ``x``, in inference mode."""

    def posterior(self) -> Posterior:
        """All particles, each to count the same; see there."""


class Vectors:
    """Particles that are plain vectors, without a model, spread over the ranks of ``comm``.

    start: the first weights, a vector for all or ``start(pid, rng)`` that makes each.
    """

    def __init__(
        self, start: Any, n: int, *, comm: "MPI.Intracomm | None" = None, seed: int = 0
    ) -> None:
        self.n, self.seed, self.comm = n, seed, comm
        self.placement = Placement(n, 1 if comm is None else comm.size)
        rows = [
            start(pid, generator(seed, Purpose.INIT, pid)) if callable(start) else start
            for pid in self.placement.pids(0 if comm is None else comm.rank)
        ]
        self.weights = np.array(rows, np.float32)
        if self.weights.ndim != 2:
            raise ConfigError(
                f"a particle must start as a vector, got shape {self.weights.shape[1:]}; "
                "flatten it"
            )

    def layout(self, batch: Any) -> Hashable:
        raise _no_model("gradients")

    def gradients(self, asked: Sequence[tuple[int, Any]]) -> list[tuple[Array, float]]:
        raise _no_model("gradients")

    def outputs(self, pid: int, x: Any) -> Any:
        raise _no_model("outputs")

    def posterior(self) -> Posterior:
        raise _no_model("a posterior")


class Networks:
    """``bayes.Particles`` as a crowd; collective, since they are prepared."""

    def __init__(self, particles: "Particles") -> None:
        particles.prepare()
        self.n, self.seed, self.comm = particles.n, particles.seed, particles.team.comm
        self.placement = particles.team.placement
        self.weights = particles.weights
        self._particles = particles
        self._row = {pid: row for row, pid in enumerate(particles.pids)}
        self._clock = dict.fromkeys(particles.pids, 0)

    def layout(self, batch: Any) -> Hashable:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ConfigError(f"a batch must be a pair (x, y), got {type(batch).__name__}")
        sides = [(isinstance(side, list | tuple), as_arrays(side)) for side in batch]
        return tuple((is_list, *map(_form, arrays)) for is_list, arrays in sides)

    def gradients(self, asked: Sequence[tuple[int, Any]]) -> list[tuple[Array, float]]:
        particles = self._particles
        rows = [self._row[pid] for pid, _ in asked]
        weights, state = particles.weights[rows], particles.state[rows]
        x, y = (_stacked([batch[side] for _, batch in asked]) for side in (0, 1))
        out = np.empty_like(weights)
        seeds = [self._seed(pid) for pid, _ in asked]
        sums = particles.rows.gradients(weights, state, x, y, out, seeds, shared=False)
        particles.state[rows] = state
        return [(out[k], float(one[1] / max(one[0], 1.0))) for k, one in enumerate(sums)]

    def _seed(self, pid: int) -> int:
        self._clock[pid] += 1
        return derive(self.seed, Purpose.STEP, pid, self._clock[pid])

    def outputs(self, pid: int, x: Any) -> Any:
        particles, row = self._particles, self._row[pid]
        particles.adapter.set_flat(np.concatenate([particles.weights[row], particles.state[row]]))
        return particles.adapter.predict(x)

    def posterior(self) -> Posterior:
        particles = self._particles
        source = Source(
            manifest=particles.adapter.manifest,
            pids=particles.pids,
            n_particles=particles.n,
            seed=particles.seed,
            weights=particles.weights,
            state=particles.state,
            kept={},
            holds=particles.team.holds,
        )
        return ParticlePosterior(InMemory(source))


def as_crowd(particles: "Vectors | Particles | Crowd") -> Crowd:
    """Raises ConfigError where a particle takes more than one rank; collective."""
    crowd: Crowd = Networks(particles) if hasattr(particles, "team") else particles  # type: ignore[assignment,arg-type]
    if crowd.placement.group_size > 1:
        raise ConfigError(
            "particles with handlers must live on one rank each, got groups of "
            f"{crowd.placement.group_size}; make them with group_size=1"
        )
    return crowd


def _form(array: Any) -> tuple[Any, ...]:
    return np.shape(array), str(np.asarray(array).dtype)


def _stacked(sides: Sequence[Any]) -> Any:
    if isinstance(sides[0], list | tuple):
        return [np.stack(arrays) for arrays in zip(*sides, strict=True)]
    return np.stack(sides)


def _no_model(what: str) -> ConfigError:
    return ConfigError(
        f"particles must have a model to have {what}, got plain vectors; make the society of "
        "bayes.Particles"
    )
