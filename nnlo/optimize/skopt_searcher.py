"""scikit-optimize's own optimizer: a Gaussian process and expected improvement.

It is built anew for each ask, since one that is told the same again goes on otherwise; so the
merit it takes for running trials is ours too: the mean of those told. Its own default, the
smallest (``cl_min``), draws later proposals to the running ones.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from nnlo.errors import ConfigError
from nnlo.optimize.bayesian import chosen, imputed
from nnlo.optimize.dimensions import plain
from nnlo.optimize.quasi_random import Sobol
from nnlo.optimize.searcher import Told, draw, taken
from nnlo.optimize.space import Params, Space


class Skopt:
    """n_initial: merits that must be known before the model is asked; Sobol points until then."""

    name = "skopt"

    def __init__(self, space: Space, seed: int, n_initial: int = 10) -> None:
        if n_initial < 1:
            raise ConfigError(f"n_initial must be at least 1, got {n_initial}; raise it")
        self.space = space
        self.seed = seed
        self.n_initial = n_initial
        self._design = Sobol(space, seed)
        self._dimensions = space.skopt_dimensions()

    def ask(
        self, trial: int, told: Sequence[Told], running: Mapping[int, Params]
    ) -> Params | None:
        if sum(one.merit is not None for one in told) < self.n_initial:
            return self._design.ask(trial, told, running)
        rng = np.random.default_rng([self.seed, trial])
        keys = taken(self.space, told, running)
        raw = self.space.repaired(self._proposal(told, running, int(rng.integers(2**31))))
        if raw is not None and self.space.key(raw) not in keys:
            return raw
        return draw(self.space, rng, keys)

    def _proposal(self, told: Sequence[Told], running: Mapping[int, Params], seed: int) -> Params:
        from skopt import Optimizer

        merits = imputed(told)
        seen = chosen(merits)
        points = [list(told[i].params.values()) for i in seen]
        points += [list(params.values()) for params in running.values()]
        values = [*merits[seen], *[merits[seen].mean()] * len(running)]
        optimizer = Optimizer(
            self._dimensions,
            base_estimator="GP",
            acq_func="EI",
            n_initial_points=1,
            random_state=seed,
            model_queue_size=1,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits at a bound, points evaluated before
            optimizer.tell(points, [float(value) for value in values])
            found = optimizer.ask()
        return {name: plain(value) for name, value in zip(self.space.names, found, strict=True)}
