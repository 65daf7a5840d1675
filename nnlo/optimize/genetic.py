"""A genetic algorithm in steady state: any result may breed at once, so no block waits.

The parents of a trial are the winners of tournaments among the best ``population`` trials told
so far. Numbers are blended (BLX-alpha: Eshelman & Schaffer, Real-coded genetic algorithms and
interval-schemata, 1993) and categories inherited; then some are mutated, by steps that shrink
from generation to generation, each of which is ``population`` trials long.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from nnlo.errors import ConfigError
from nnlo.optimize.dimensions import Array, Categorical
from nnlo.optimize.quasi_random import Sobol
from nnlo.optimize.searcher import Told, draw, taken
from nnlo.optimize.space import Params, Space

ALPHA = 0.3  # how far beyond its parents a child may be, in units of their distance
STEP = 0.2  # of a mutation in the first generation; 1 / sqrt(generation) of it later
RESET = 0.1  # share of mutations that draw anew, so that nothing is lost for ever
TRIES = 20  # children that may be rejected or known before one is drawn at random


class Genetic:
    """population: trials that may become parents, and Sobol points that come first; at least 2."""

    name = "genetic"

    def __init__(self, space: Space, seed: int, population: int = 8) -> None:
        if population < 2:
            raise ConfigError(f"a population must be at least 2, got {population}; raise it")
        self.space = space
        self.seed = seed
        self.population = population
        self._design = Sobol(space, seed)

    def ask(
        self, trial: int, told: Sequence[Told], running: Mapping[int, Params]
    ) -> Params | None:
        known = sorted(
            (one for one in told if one.merit is not None), key=lambda one: (one.merit, one.trial)
        )
        if trial < self.population or len(known) < 2:
            return self._design.ask(trial, told, running)
        rng = np.random.default_rng([self.seed, trial])
        keys = taken(self.space, told, running)
        pool = [self.space.to_unit(one.params) for one in known[: self.population]]
        for _ in range(TRIES):
            child = self._mutated(self._child(pool, rng), 1 + trial // self.population, rng)
            params = self.space.repaired(self.space.from_unit(child))
            if params is not None and self.space.key(params) not in keys:
                return params
        return draw(self.space, rng, keys)

    def _child(self, pool: Sequence[Array], rng: np.random.Generator) -> Array:
        """Shape (n_unit,). pool: the best first."""
        first, second = (pool[rng.integers(len(pool), size=3).min()] for _ in range(2))
        child = first.copy()
        for one, columns in zip(self.space.dimensions, self.space.slices, strict=True):
            if isinstance(one, Categorical):
                child[columns] = (first, second)[rng.integers(2)][columns]
            else:
                share = rng.uniform(-ALPHA, 1 + ALPHA)
                blend = first + share * (second - first)
                child[columns] = np.clip(blend[columns], 0, 1)
        return np.asarray(child)

    def _mutated(self, child: Array, generation: int, rng: np.random.Generator) -> Array:
        """``child``, changed in place in at least one dimension."""
        n = self.space.n_dims
        chosen = rng.random(n) < 1.5 / n
        chosen[rng.integers(n)] = True
        for i in np.flatnonzero(chosen):
            one, columns = self.space.dimensions[i], self.space.slices[i]
            if isinstance(one, Categorical) or rng.random() < RESET:
                child[columns] = one.spread(rng.random(1))[0]
            else:
                step = rng.normal(scale=STEP / generation**0.5)
                child[columns] = 1 - abs(1 - abs(child[columns] + step) % 2)  # reflected
        return np.asarray(child)
