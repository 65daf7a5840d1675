"""scikit-optimize's own optimizer: a Gaussian process and expected improvement.

It is built anew for each ask, since one that is told the same again goes on otherwise; so the
merit it takes for running trials is ours too: the mean of those told. Its own default, the
smallest (``cl_min``), draws later proposals to the running ones.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnlo.errors import ConfigError
from nnlo.optimize.bayesian import chosen, standardised
from nnlo.optimize.dimensions import Categorical, Dimension, Value, plain
from nnlo.optimize.forms import to_skopt
from nnlo.optimize.quasi_random import Sobol
from nnlo.optimize.searcher import Told, draw, imputed, taken
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
        self._dimensions = [_numbered(one) for one in space.dimensions]

    def ask(
        self, trial: int, told: Sequence[Told], running: Mapping[int, Params]
    ) -> Params | None:
        if sum(one.merit is not None for one in told) < self.n_initial:
            return self._design.ask(trial, told, running)
        rng = np.random.default_rng([self.seed, trial])
        keys = taken(self.space, told, running)
        params = self.space.repaired(self._proposal(told, running, int(rng.integers(2**31))))
        if params is not None and self.space.key(params) not in keys:
            return params
        return draw(self.space, rng, keys)

    def _proposal(self, told: Sequence[Told], running: Mapping[int, Params], seed: int) -> Params:
        from skopt import Optimizer

        merits = imputed(told)[:, 0]
        seen = chosen(merits)
        targets = standardised(merits[seen])
        points = [
            self._point(params) for params in (*(told[i].params for i in seen), *running.values())
        ]
        values = [*targets, *[0.0] * len(running)]
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
        return self._params(found)

    def _point(self, params: Params) -> list[Value]:
        """As skopt takes it, a category by its number: it mistakes some for each other."""
        return [
            str(one.categories.index(params[one.name]))
            if isinstance(one, Categorical)
            else params[one.name]
            for one in self.space.dimensions
        ]

    def _params(self, point: Sequence[Any]) -> Params:
        return {
            one.name: one.categories[int(value)] if isinstance(one, Categorical) else plain(value)
            for one, value in zip(self.space.dimensions, point, strict=True)
        }


def _numbered(dimension: Dimension) -> Any:
    if isinstance(dimension, Categorical):
        dimension = Categorical(dimension.name, tuple(map(str, range(dimension.width))))
    return to_skopt(dimension)
