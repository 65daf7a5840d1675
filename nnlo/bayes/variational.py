"""Posteriors of one trained vector: of variational layers, or a point."""

from typing import ClassVar

import numpy as np

from nnlo.bayes.gaussians import draw, find_gaussians
from nnlo.bayes.posterior import Posterior, share_of
from nnlo.bayes.seeds import Purpose, generator
from nnlo.errors import ModelError
from nnlo.model.adapter import Vector
from nnlo.model.manifest import Manifest


class Variational(Posterior):
    """Independent Gaussians of the Bayesian tensors that the manifest tells; the rest is fixed.

    vector: trained ``[T | S]``, kept, not copied. seed: of the draws. rank, n_ranks: of those
    that share them, each of which has the same vector.
    """

    kind: ClassVar[str] = "variational"

    def __init__(
        self, manifest: Manifest, vector: Vector, seed: int = 0, rank: int = 0, n_ranks: int = 1
    ) -> None:
        """Raise ModelError for a vector of another size, or without Bayesian tensors."""
        manifest.check(vector)
        self.gaussians = find_gaussians(manifest)
        if not self.gaussians:
            raise ModelError(
                "a variational posterior must have Bayesian layers, got a model without; "
                "take Point, or use such layers"
            )
        self.vector, self.seed = vector, seed
        self._rank, self._n_ranks = rank, n_ranks

    def mine(self, n_draws: int) -> list[int]:
        return share_of(n_draws, self._rank, self._n_ranks)

    def draw(self, index: int, out: Vector) -> None:
        draw(self.gaussians, self.vector, generator(self.seed, Purpose.DRAW, index), out)


class Point(Posterior):
    """One vector that is sure of itself: a plain network. The first rank predicts."""

    kind: ClassVar[str] = "point"

    def __init__(self, manifest: Manifest, vector: Vector, rank: int = 0) -> None:
        """vector: trained ``[T | S]``, kept, not copied. Raise ModelError for another size."""
        manifest.check(vector)
        self.vector = vector
        self._rank = rank

    def n_draws(self, samples: int | None = None) -> int:
        """One: any number of draws would be the same."""
        super().n_draws(samples)
        return 1

    def mine(self, n_draws: int) -> list[int]:
        return [0] if self._rank == 0 else []

    def draw(self, index: int, out: Vector) -> None:
        np.copyto(out, self.vector)
