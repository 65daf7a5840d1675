"""What training leaves: weight vectors that the data have made likely, to draw from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from nnlo.bayes import store
from nnlo.bayes.method import Arrays, Source
from nnlo.bayes.seeds import Purpose, derive
from nnlo.errors import CheckpointError, ConfigError
from nnlo.model.adapter import Vector
from nnlo.model.manifest import Manifest

if TYPE_CHECKING:
    from mpi4py import MPI

SAMPLES = 30
"""Draws where nobody says how many."""


class Posterior(ABC):
    """A distribution over the weight vectors ``[T | S]`` of one model.

    A draw is known by its number: the same vector on any rank. needs_refresh: the state S of a
    draw must be taken anew from training batches (BatchNorm under weights that nobody trained).
    """

    kind: ClassVar[str]
    needs_refresh: bool = False

    def n_draws(self, samples: int | None = None) -> int:
        """How many draws a prediction takes where the user wants ``samples``."""
        if samples is not None and samples < 1:
            raise ConfigError(f"samples must be at least 1, got {samples}; try {SAMPLES}")
        return SAMPLES if samples is None else samples

    @abstractmethod
    def mine(self, n_draws: int) -> list[int]:
        """The draws 0 .. n_draws - 1 that this rank makes; over all ranks each one once."""

    @abstractmethod
    def draw(self, index: int, out: Vector) -> None:
        """Write draw ``index`` to ``out``, shape (manifest.size,)."""

    def dropout_seed(self, index: int) -> int | None:
        """Seed of the masks under which draw ``index`` predicts; None: without any."""
        return None


def share_of(n_draws: int, rank: int, n_ranks: int) -> list[int]:
    """An even, contiguous part of the draws for each rank that can make any of them."""
    return list(range(rank * n_draws // n_ranks, (rank + 1) * n_draws // n_ranks))


class Holder(Protocol):
    """Where the particles of a posterior are."""

    n_particles: int
    seed: int

    def mine(self, n_draws: int) -> list[int]: ...
    def particle(self, pid: int) -> Arrays:
        """Its arrays: weights (n_trainable,), state (n_state,), and the method's own."""


class InMemory:
    """On the ranks that have trained them."""

    def __init__(self, source: Source) -> None:
        self.n_particles = source.n_particles
        self.seed = source.seed
        self._source = source
        self._row = {pid: row for row, pid in enumerate(source.pids)}

    def mine(self, n_draws: int) -> list[int]:
        held = self._row if self._source.holds else {}
        draws = [index for index in range(n_draws) if index % self.n_particles in held]
        return sorted(draws, key=lambda index: (index % self.n_particles, index))

    def particle(self, pid: int) -> Arrays:
        row, source = self._row[pid], self._source
        own = {name: array[row] for name, array in source.kept.items()}
        return {"weights": source.weights[row], "state": source.state[row], **own}


class InFolder:
    """In files that every rank can read. rank, n_ranks: of those that share the draws."""

    def __init__(self, folder: Path, manifest: Manifest, rank: int = 0, n_ranks: int = 1) -> None:
        about = store.read_about(folder)
        if about.get("manifest") != manifest.hash:
            raise CheckpointError(
                f"the posterior in {folder} must be of the model that is asked, got another "
                "layout of weights; build the model with the parameters of its run"
            )
        self.n_particles: int = about["n_particles"]
        self.seed: int = about["seed"]
        self._folder, self._manifest = folder, manifest
        self._rank, self._n_ranks = rank, n_ranks
        self._last: tuple[int, Arrays] | None = None  # draws come particle by particle

    def mine(self, n_draws: int) -> list[int]:
        by_particle = sorted(range(n_draws), key=lambda index: (index % self.n_particles, index))
        return [by_particle[i] for i in share_of(n_draws, self._rank, self._n_ranks)]

    def particle(self, pid: int) -> Arrays:
        if self._last is None or self._last[0] != pid:
            self._last = None
            self._last = pid, self._checked(pid, store.read_particle(self._folder, pid))
        return self._last[1]

    def _checked(self, pid: int, arrays: Arrays) -> Arrays:
        sizes = {"weights": self._manifest.n_trainable, "state": self._manifest.n_state}
        for name, size in sizes.items():
            if name not in arrays or arrays[name].shape != (size,):
                raise CheckpointError(
                    f"particle {pid} in {self._folder} must have {size} numbers of {name}, got "
                    "another file; restore the folder from a copy"
                )
        return arrays


class ParticlePosterior(Posterior):
    """Particles that all count the same, as they are: of an ensemble or of SVGD."""

    kind = "particles"

    def __init__(self, holder: Holder, **numbers: Any) -> None:
        """numbers: the method's own, by which it was trained."""
        self.holder = holder
        self.numbers = numbers

    def n_draws(self, samples: int | None = None) -> int:
        """Each particle once; raises ConfigError for another wish."""
        n = self.holder.n_particles
        if samples is not None and samples != n:
            raise ConfigError(
                f"samples must be the number of particles, {n}, got {samples}; leave it out: "
                "these particles are all there is to draw"
            )
        return n

    def mine(self, n_draws: int) -> list[int]:
        return self.holder.mine(n_draws)

    def draw(self, index: int, out: Vector) -> None:
        arrays = self.holder.particle(index % self.holder.n_particles)
        n = arrays["weights"].size
        out[:n], out[n:] = arrays["weights"], arrays["state"]

    def _seed(self, purpose: Purpose, index: int) -> int:
        return derive(self.holder.seed, purpose, index)


def save(
    comm: "MPI.Intracomm | None", folder: Path, source: Source, about: dict[str, Any]
) -> None:
    """Write the particles of all ranks to ``folder``; collective. about: kind and numbers."""
    memory = InMemory(source)
    pids: Sequence[int] = source.pids if source.holds else ()
    told = {
        "n_particles": source.n_particles,
        "seed": source.seed,
        "manifest": source.manifest.hash,
        **about,
    }
    store.save(comm, folder, {pid: memory.particle(pid) for pid in pids}, told)


def vector_of(posterior: Posterior, index: int, manifest: Manifest) -> Vector:
    """Draw ``index`` as a new vector."""
    out = np.empty(manifest.size, np.float32)
    posterior.draw(index, out)
    return out
