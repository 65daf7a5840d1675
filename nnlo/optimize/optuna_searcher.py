"""Samplers of Optuna, and CMA-ES: of the extra ``nnlo[optuna]``.

Trials are replayed into a study in memory, and the sampler is made anew for each ask, so what
it proposes depends on nothing else.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from nnlo.errors import ConfigError
from nnlo.optimize.dimensions import Categorical, Dimension, Integer
from nnlo.optimize.quasi_random import Sobol
from nnlo.optimize.searcher import Told, draw, imputed, taken
from nnlo.optimize.space import Params, Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

TRIES = 10  # proposals that may be rejected or known before one is drawn at random


class _Sampled:
    """What all samplers share; a child makes its sampler."""

    name: str
    needs: tuple[str, ...] = ("optuna",)

    def __init__(self, space: Space, seed: int) -> None:
        _require(self.name, self.needs)
        self.space = space
        self.seed = seed
        self._distributions = {one.name: _distribution(one) for one in space.dimensions}

    def sampler(self, seed: int) -> "BaseSampler":
        raise NotImplementedError

    def ask(
        self, trial: int, told: Sequence[Told], running: Mapping[int, Params]
    ) -> Params | None:
        rng = np.random.default_rng([self.seed, trial])
        keys = taken(self.space, told, running)
        study = self._study(told, running, int(rng.integers(2**31)))
        for _ in range(TRIES):
            found = study.ask(fixed_distributions=self._distributions).params
            params = self.space.repaired({name: found[name] for name in self.space.names})
            if params is not None and self.space.key(params) not in keys:
                return params
        return draw(self.space, rng, keys)

    def _study(self, told: Sequence[Told], running: Mapping[int, Params], seed: int) -> "Study":
        import optuna

        # Each ask makes a study, which it would announce.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        values = imputed(told)
        minimize = optuna.study.StudyDirection.MINIMIZE
        study = optuna.create_study(
            directions=[minimize] * values.shape[1], sampler=self.sampler(seed)
        )
        study.add_trials(
            [
                *(
                    self._frozen(one.params, list(row))
                    for one, row in zip(told, values, strict=True)
                ),
                *(self._frozen(params, None) for params in running.values()),
            ]
        )
        return study

    def _frozen(self, params: Params, values: list[float] | None) -> "FrozenTrial":
        from optuna.trial import TrialState, create_trial

        return create_trial(
            state=TrialState.RUNNING if values is None else TrialState.COMPLETE,
            params=params,
            distributions=self._distributions,
            values=values,
        )


class TPE(_Sampled):
    """Tree-structured Parzen estimators, all parameters together; several merits as well."""

    name = "tpe"

    def sampler(self, seed: int) -> "BaseSampler":
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed)


class OptunaGP(_Sampled):
    """Optuna's Gaussian process, on PyTorch; several merits as well."""

    name = "optuna-gp"
    needs = ("optuna", "torch")

    def sampler(self, seed: int) -> "BaseSampler":
        from optuna.samplers import GPSampler

        return GPSampler(seed=seed)


class Nsga2(_Sampled):
    """NSGA-II, for several merits, in steady state: parents are the best of all trials told.

    (Deb et al., IEEE Trans. Evol. Comp. 6, 2002.) population: parents, and random trials first.
    """

    name = "nsga2"

    def __init__(self, space: Space, seed: int, population: int = 12) -> None:
        if population < 2:
            raise ConfigError(f"a population must be at least 2, got {population}; raise it")
        super().__init__(space, seed)
        self.population = population

    def sampler(self, seed: int) -> "BaseSampler":
        from optuna.samplers import NSGAIISampler
        from optuna.trial import TrialState

        class SteadyState(NSGAIISampler):
            """Generation 0 until there is a population; then always the one after all told."""

            def get_trial_generation(self, study: "Study", trial: "FrozenTrial") -> int:
                return int(len(self.get_population(study, 0)) >= (self.population_size or 0))

            def get_population(self, study: "Study", generation: int) -> "list[FrozenTrial]":
                return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

        return SteadyState(seed=seed, population_size=self.population)


class CmaEs:
    """CMA-ES on the unit cube, categories by the largest of their columns.

    (Hansen, arXiv:1604.00772.) population: results for one step of the distribution; None: by
    the number of columns. A step takes them in the order in which they are told, whichever
    step proposed them, so no block waits.
    """

    name = "cmaes"

    def __init__(self, space: Space, seed: int, population: int | None = None) -> None:
        _require(self.name, ("cmaes",))
        if population is not None and population < 4:
            raise ConfigError(f"a population must be at least 4, got {population}; raise it")
        self.space = space
        self.seed = seed
        self.population = population
        self._design = Sobol(space, seed)

    def ask(
        self, trial: int, told: Sequence[Told], running: Mapping[int, Params]
    ) -> Params | None:
        if self.space.n_unit < 2:  # the library wants two columns
            return self._design.ask(trial, told, running)
        rng = np.random.default_rng([self.seed, trial])
        keys = taken(self.space, told, running)
        state = self._replayed(told)
        state.reseed_rng(int(rng.integers(2**31)))
        for _ in range(TRIES):
            params = self.space.repaired(self.space.from_unit(state.ask()))
            if params is not None and self.space.key(params) not in keys:
                return params
        return draw(self.space, rng, keys)

    def _replayed(self, told: Sequence[Told]) -> Any:
        from cmaes import CMA

        n = self.space.n_unit
        state = CMA(
            mean=np.full(n, 0.5),
            sigma=0.3,
            bounds=np.tile([0.0, 1.0], (n, 1)),
            population_size=self.population,
        )
        merits = imputed(told)[:, 0]
        units = [self.space.to_unit(one.params) for one in told]
        size = state.population_size
        for begin in range(0, len(told) - size + 1, size):
            step = slice(begin, begin + size)
            state.tell(list(zip(units[step], merits[step], strict=True)))
        return state


def _distribution(dimension: Dimension) -> "BaseDistribution":
    from optuna import distributions

    if isinstance(dimension, Categorical):
        return distributions.CategoricalDistribution(dimension.categories)
    if isinstance(dimension, Integer):
        return distributions.IntDistribution(dimension.low, dimension.high, dimension.log)
    return distributions.FloatDistribution(dimension.low, dimension.high, dimension.log)


def _require(name: str, libraries: Sequence[str]) -> None:
    missing = [library for library in libraries if find_spec(library) is None]
    if missing:
        extra = "torch" if missing == ["torch"] else "optuna"
        raise ConfigError(
            f"the searcher {name} must have {' and '.join(missing)} installed, got none; "
            f"run pip install 'nnlo[{extra}]', or use the searcher bayesian"
        )
