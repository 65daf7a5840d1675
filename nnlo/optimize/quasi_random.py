"""Searchers that don't look at merits: random parameters, and Sobol points."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import qmc

from nnlo.optimize.dimensions import Array
from nnlo.optimize.searcher import Told, draw, taken
from nnlo.optimize.space import Params, Space


class Random:
    """Parameters drawn evenly and independently."""

    name = "random"

    def __init__(self, space: Space, seed: int) -> None:
        self.space = space
        self.seed = seed

    def ask(
        self, trial: int, told: Sequence[Told], running: Mapping[int, Params]
    ) -> Params | None:
        rng = np.random.default_rng([self.seed, trial])
        return draw(self.space, rng, taken(self.space, told, running))


class Sobol:
    """Scrambled Sobol points, trial by trial: they fill the space more evenly than chance.

    Where a point is rejected, or has been given out as integers and categories may be, a
    random one takes its place. (Owen, Randomly permuted (t,m,s)-nets, 1995.)
    """

    name = "sobol"

    def __init__(self, space: Space, seed: int) -> None:
        self.space = space
        self.seed = seed
        self._points = np.empty((0, space.n_dims))

    def ask(
        self, trial: int, told: Sequence[Told], running: Mapping[int, Params]
    ) -> Params | None:
        keys = taken(self.space, told, running)
        params = self.space.at(self._point(trial))
        if params is not None and self.space.key(params) not in keys:
            return params
        return draw(self.space, np.random.default_rng([self.seed, trial]), keys)

    def _point(self, trial: int) -> Array:
        """The point of a trial, shape (n_dims,); the first 2^k come out of one sequence."""
        if trial >= len(self._points):
            rng = np.random.default_rng(self.seed)
            sequence = qmc.Sobol(self.space.n_dims, scramble=True, rng=rng)
            self._points = sequence.random_base2(max(6, int(trial).bit_length()))
        return np.asarray(self._points[trial])
