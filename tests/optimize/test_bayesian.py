"""What the default searcher finds, and how it chooses."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from nnlo.errors import ConfigError
from nnlo.optimize import gaussian_process
from nnlo.optimize.bayesian import Bayesian, chosen, log_improvement, one_merit, standardised
from nnlo.optimize.dimensions import Array
from nnlo.optimize.searcher import Told
from nnlo.optimize.space import Params, Space

PLANE = Space.from_tune(["x=-5.0:10.0", "y=0.0:15.0"])


def branin(x: float, y: float) -> float:
    curve = y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6
    return curve * curve + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def search(space: Space, n: int, merit: object, seed: int = 0) -> list[Told]:
    """``n`` trials, one after the other."""
    searcher, told = Bayesian(space, seed), list[Told]()
    assert callable(merit)
    for trial in range(n):
        params = searcher.ask(trial, told, {})
        assert params is not None
        told.append(Told(trial, params, merit(**params)))
    return told


def test_thirty_trials_find_a_minimum_of_branin() -> None:
    best = min(one.merit or math.inf for one in search(PLANE, 30, branin))
    assert best < 0.3979 + 0.05


def test_a_category_and_an_integer_are_found() -> None:
    space = Space.from_tune(["lr=1e-5:1.0:log", "k=1:30", "opt=a,b,c,d,e"])

    def merit(lr: float, k: int, opt: str) -> float:
        return abs(math.log10(lr) + 2) + abs(k - 17) / 10 + (opt != "d")

    best = min(search(space, 40, merit), key=lambda one: one.merit or 0)
    assert (best.params["opt"], best.params["k"]) == ("d", 17)


def test_a_region_where_trials_fail_is_left() -> None:
    found = search(PLANE, 30, lambda x, y: None if x > 2.5 else branin(x, y))
    failed = [one.merit is None for one in found]
    assert sum(failed[:6]) > 1
    assert sum(failed[15:]) <= 3


def test_blocks_do_not_try_the_same_at_the_same_time() -> None:
    told, running = search(PLANE, 15, branin), dict[int, Params]()
    for trial in range(20, 26):
        params = Bayesian(PLANE, 0).ask(trial, told, running)
        assert params is not None
        running[trial] = params
    units = np.array([PLANE.to_unit(params) for params in running.values()])
    apart = np.linalg.norm(units[:, None] - units[None], axis=2)[np.triu_indices(6, 1)]
    assert apart.min() > 0.01


def test_parameters_tied_by_repair_are_searched() -> None:
    space = Space.from_tune(
        ["n=1:3", "a=0.0:1.0", "b=0.0:1.0"],
        lambda params: params if params["n"] != 1 else {**params, "b": 0.0},
    )
    found = search(space, 25, lambda n, a, b: (a - 0.3) ** 2 + (b - 0.8) ** 2 + 0.1 * n)
    assert min(one.merit or 1 for one in found) < 0.25


@pytest.mark.parametrize("z", [-35.0, -8.0, -1.5, -1.0, -0.99, 0.0, 2.0, 30.0])
def test_the_logarithm_of_improvement_is_right(z: float) -> None:
    # By the integral of Phi up to z, which no cancellation spoils.
    x = np.linspace(z - 12 / max(1, abs(z)), z, 200_001) if z < 0 else np.linspace(-12, z, 400_001)
    exact = np.log(np.trapezoid(norm.cdf(x), x))
    assert log_improvement(np.array([z]))[0] == pytest.approx(exact, rel=1e-4)


def test_the_logarithm_of_improvement_rises_without_a_step() -> None:
    z = np.concatenate([-np.geomspace(1e5, 1e-3, 4000), np.linspace(0, 40, 2000)])
    values = log_improvement(z)
    assert np.all(np.isfinite(values))
    assert np.all(np.diff(values) > 0)


@pytest.mark.parametrize("merits", [[3.0] * 5, [0, 1e-300], [1, 1, 1, 1, 1e99], [-1e99, 0, 0, 0]])
def test_targets_keep_the_order_and_are_of_variance_one(merits: list[float]) -> None:
    targets = standardised(np.array(merits, float))
    assert np.array_equal(np.argsort(targets, kind="stable"), np.argsort(merits, kind="stable"))
    assert targets.mean() == pytest.approx(0, abs=1e-9)
    assert targets.std() == pytest.approx(float(len(set(merits)) > 1))


def test_of_many_trials_the_best_and_the_newest_are_seen() -> None:
    merits = np.random.default_rng(0).permutation(1000.0 * np.arange(1000))
    seen = chosen(merits)
    assert len(set(seen)) == 300
    assert set(range(850, 1000)) <= set(seen)
    assert set(np.argsort(merits[:850])[:150]) <= set(seen)


def test_several_merits_are_weighed_anew_for_each_trial() -> None:
    told = [Told(i, {}, float(i), (float(i), float(9 - i))) for i in range(10)]
    best = {int(np.argmin(one_merit(told, np.random.default_rng(i)))) for i in range(30)}
    assert len(best) > 4


def test_the_pareto_front_of_two_merits_is_covered() -> None:
    space, told = Space.from_tune(["x=0.0:1.0", "y=0.0:1.0"]), list[Told]()
    searcher = Bayesian(space, 0)
    for trial in range(30):
        params = searcher.ask(trial, told, {}) or {}
        x, y = float(str(params["x"])), float(str(params["y"]))
        merits = (x * x + y, (x - 1) ** 2 + y)
        told.append(Told(trial, params, merits[0], merits))
    on_front = [float(str(one.params["x"])) for one in told if float(str(one.params["y"])) < 0.02]
    assert set(np.floor(np.array(on_front) * 4).clip(0, 3)) == {0, 1, 2, 3}


def test_hyper_parameters_are_fitted_again_for_each_ten_percent_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    fit = gaussian_process.fit

    def counted(space: Space, units: Array, targets: Array) -> gaussian_process.Numbers:
        sizes.append(len(targets))
        return fit(space, units, targets)

    monkeypatch.setattr(gaussian_process, "fit", counted)
    told = search(PLANE, 60, branin)
    searcher = Bayesian(PLANE, 0)
    sizes.clear()
    for n in range(40, 60):
        searcher.ask(99, told[:n], {})
    assert sizes == [39, 42, 46, 50, 55]


def test_no_initial_trial_is_too_few() -> None:
    with pytest.raises(ConfigError, match="n_initial must be at least 1, got 0"):
        Bayesian(PLANE, 0, n_initial=0)
