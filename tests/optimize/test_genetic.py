"""The genetic algorithm, and the searchers without a model."""

import numpy as np
import pytest
from scipy.stats import qmc

from nnlo.errors import ConfigError
from nnlo.optimize.genetic import Genetic
from nnlo.optimize.quasi_random import Sobol
from nnlo.optimize.searcher import Searcher, Told, make_searcher
from nnlo.optimize.space import Space

SPACE = Space.from_tune(["x=-1.0:1.0", "k=1:50", "c=a,b,c,d"])


def sphere(x: float, k: int, c: str) -> float:
    return (x - 0.3) ** 2 + ((k - 30) / 50) ** 2 + 0.3 * (c != "b")


def best_of(searcher: Searcher, n: int) -> float:
    told = list[Told]()
    for trial in range(n):
        params = searcher.ask(trial, told, {}) or {}
        told.append(Told(trial, params, sphere(**params)))  # type: ignore[arg-type]
    assert len({SPACE.key(one.params) for one in told}) == n
    return min(one.merit or 0 for one in told)


def test_a_population_gets_better_than_chance() -> None:
    bred = [best_of(Genetic(SPACE, seed), 60) for seed in range(9)]
    drawn = [best_of(make_searcher("random", SPACE, seed), 60) for seed in range(9)]
    assert np.median(bred) < np.median(drawn) / 3


def test_the_first_generation_fills_the_space_evenly() -> None:
    searcher = Genetic(SPACE, 4, population=16)
    first = [searcher.ask(trial, [], {}) for trial in range(16)]
    categories = [one["c"] for one in first if one is not None]
    assert sorted(categories) == sorted("abcd" * 4)


def test_children_come_from_the_best() -> None:
    good = [Told(i, {"x": 0.3, "k": 29 + i, "c": "b"}, 0.0) for i in range(4)]
    bad = [Told(9 + i, {"x": -1.0, "k": 1 + i, "c": "d"}, 1.0) for i in range(40)]
    searcher = Genetic(SPACE, 0, population=4)
    children = [searcher.ask(trial, [*bad, *good], {}) or {} for trial in range(100, 140)]
    assert sum(one["x"] == pytest.approx(0.3) for one in children) > 8  # the others are mutated


def test_a_population_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2, got 1"):
        Genetic(SPACE, 0, population=1)


def test_sobol_points_are_more_even_than_chance() -> None:
    space = Space.from_tune(["a=0.0:1.0", "b=0.0:1.0"])
    points = {}
    for name in ("sobol", "random"):
        searcher = make_searcher(name, space, 0)
        points[name] = np.array(
            [list((searcher.ask(i, [], {}) or {}).values()) for i in range(64)]
        )
    assert qmc.discrepancy(points["sobol"]) < qmc.discrepancy(points["random"]) / 4


def test_sobol_points_do_not_depend_on_how_many_are_asked() -> None:
    space = Space.from_tune(["a=0.0:1.0", "b=0.0:1.0"])
    used = Sobol(space, 0)
    used.ask(500, [], {})
    assert used.ask(7, [], {}) == Sobol(space, 0).ask(7, [], {})
