"""The contract of a searcher, which proposes what to try next, and where all of them are found.

A searcher has no memory of its own: what it proposes follows from its space, its seed, its
options and the arguments of ``ask``. So a search goes on after a crash by reading its log, and
nothing is pickled. What it keeps between calls only saves work.
"""

import importlib
import inspect
import itertools
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from nnlo.errors import ConfigError
from nnlo.optimize.dimensions import Array
from nnlo.optimize.space import PATIENCE, Params, Space

MOST_LISTED = 100_000
"""Parameters of a finite space that are listed to find what is left."""


class Told(NamedTuple):
    """What became of a trial."""

    trial: int
    params: Params
    merit: float | None  # smaller is better, finite, the first of merits; None: it failed
    merits: tuple[float, ...] = ()  # all of them, in a search for several; else empty


class Searcher(Protocol):
    """Made by ``make_searcher(name, space, seed, **options)``."""

    name: str

    def ask(
        self, trial: int, told: Sequence[Told], running: Mapping[int, Params]
    ) -> Params | None:
        """Return parameters for ``trial`` that are in the space and repaired.

        told: all finished and failed trials, in the order of their ends. running: parameters of
        the others that have been started. Equal arguments bring equal answers. The answer
        differs from all parameters told and running. None: the space has no other left.
        Raises ConfigError where the space's repair lets nothing pass.
        """


SEARCHERS: Mapping[str, str] = MappingProxyType(
    {
        "bayesian": "nnlo.optimize.bayesian:Bayesian",
        "genetic": "nnlo.optimize.genetic:Genetic",
        "random": "nnlo.optimize.quasi_random:Random",
        "sobol": "nnlo.optimize.quasi_random:Sobol",
        "skopt": "nnlo.optimize.skopt_searcher:Skopt",
        "tpe": "nnlo.optimize.optuna_searcher:TPE",
        "optuna-gp": "nnlo.optimize.optuna_searcher:OptunaGP",
        "cmaes": "nnlo.optimize.optuna_searcher:CmaEs",
        "nsga2": "nnlo.optimize.optuna_searcher:Nsga2",
    }
)
"""Where each is, by its name; a file, and the library under it, is loaded on use. The first is
the default."""


def make_searcher(name: str, space: Space, seed: int, **options: Any) -> Searcher:
    """The searcher called ``name``.

    seed: of all its random numbers, at least 0. options: what its constructor takes besides.
    Raises ConfigError for an unknown name, an option that it does not have, a bad value, or a
    library that is missing.
    """
    if name not in SEARCHERS:
        raise ConfigError(f"a searcher must be one of {', '.join(SEARCHERS)}, got {name!r}")
    if seed < 0:
        raise ConfigError(f"the seed of a search must be at least 0, got {seed}; give another")
    module, _, kind = SEARCHERS[name].partition(":")
    searcher = getattr(importlib.import_module(module), kind)
    known = set(inspect.signature(searcher).parameters) - {"space", "seed"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ConfigError(
            f"options of the searcher {name} must be among {', '.join(sorted(known)) or 'none'}, "
            f"got {', '.join(unknown)}; leave them out"
        )
    made: Searcher = searcher(space, seed, **options)
    return made


def taken(space: Space, told: Sequence[Told], running: Mapping[int, Params]) -> set[str]:
    """The keys of all parameters that have been given out."""
    every = itertools.chain((one.params for one in told), running.values())
    return {space.key(params) for params in every}


def imputed(told: Sequence[Told]) -> Array:
    """The merits, (n_told, n_merits), cut to 1e100 in size; of failed trials the worst of each,
    or 0 if all failed."""
    found = [one.merits or (one.merit,) for one in told if one.merit is not None]
    rows = np.clip(np.array(found or [(0.0,)]), -1e100, 1e100)
    worst = rows.max(axis=0)
    known = iter(rows)
    every = [worst if one.merit is None else next(known) for one in told]
    return np.array(every).reshape(len(told), len(worst))


def draw(space: Space, rng: np.random.Generator, keys: Collection[str]) -> Params | None:
    """Parameters drawn evenly from those whose key is not in ``keys``; None: there are none.

    Raises ConfigError where repair rejects whatever is drawn.
    """
    for _ in range(PATIENCE):
        params = space.sample(rng)
        if space.key(params) not in keys:
            return params
    if space.size > MOST_LISTED:
        return None  # repair makes the same of all that it lets pass
    left = {space.key(params): params for params in space.every()}
    fresh = [params for key, params in left.items() if key not in keys]
    return fresh[rng.integers(len(fresh))] if fresh else None
