"""The default searcher: a Gaussian process and the logarithm of expected improvement.

Jones, Schonlau & Welch, Efficient global optimization (1998), eq. 15, in the stable logarithm
of Ament et al., Unexpected improvements to expected improvement (NeurIPS 2023,
arXiv:2310.20708), eq. 9. A running trial counts as if it had ended at its predicted mean (the
Kriging believer of Ginsbourger et al., 2010), so that blocks don't try the same twice.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import erfcx, log_ndtr

from nnlo.errors import ConfigError
from nnlo.optimize import gaussian_process
from nnlo.optimize.dimensions import Array, Categorical
from nnlo.optimize.gaussian_process import GaussianProcess
from nnlo.optimize.quasi_random import Sobol
from nnlo.optimize.searcher import Told, draw, imputed, taken
from nnlo.optimize.space import Params, Space

N_BEST = N_NEWEST = 150  # trials that the model sees, of more
N_SPREAD = 1024  # candidates all over the cube
N_NEAR = 40  # and as many around each of the best, for each of
STEPS = (0.01, 0.05, 0.2)  # these standard deviations
N_CENTERS = 5
N_KEPT = 200  # candidates, in case that the first are known
N_REPAIRED = 60  # of them, where parameters are repaired
N_CLIMBS = 4  # candidates from which a gradient climbs on


class Bayesian:
    """n_initial: merits that must be known before the model is asked; Sobol points until then.
    None: 5, or a few more than there are dimensions."""

    name = "bayesian"

    def __init__(self, space: Space, seed: int, n_initial: int | None = None) -> None:
        if n_initial is not None and n_initial < 1:
            raise ConfigError(f"n_initial must be at least 1, got {n_initial}; raise it")
        self.space = space
        self.seed = seed
        self.n_initial = n_initial or min(20, max(5, space.n_dims + 1))
        self._design = Sobol(space, seed)

    def ask(
        self, trial: int, told: Sequence[Told], running: Mapping[int, Params]
    ) -> Params | None:
        n_known = sum(one.merit is not None for one in told)
        if n_known < self.n_initial:
            return self._design.ask(trial, told, running)
        rng = np.random.default_rng([self.seed, trial])
        keys = taken(self.space, told, running)
        model, best = self._model(told, running, rng)
        acquisition = _Acquisition(model, best)
        for unit in self._candidates(acquisition, rng):
            params = self.space.repaired(self.space.from_unit(unit))
            if params is not None and self.space.key(params) not in keys:
                return params
        return draw(self.space, rng, keys)

    def _model(
        self, told: Sequence[Told], running: Mapping[int, Params], rng: np.random.Generator
    ) -> tuple[GaussianProcess, float]:
        """What is known, with what is believed of running trials; and the best mean known."""
        merits = one_merit(told, rng)
        seen = chosen(merits)
        targets = standardised(merits[seen])
        units = np.array([self.space.to_unit(told[i].params) for i in seen])
        numbers = gaussian_process.fit(self.space, units, targets)
        model = GaussianProcess(self.space, units, targets, numbers)
        best = float(model.predict(units)[0].min())
        if running:
            more = np.array([self.space.to_unit(params) for params in running.values()])
            believed = np.concatenate([targets, model.predict(more)[0]])
            model = GaussianProcess(self.space, np.concatenate([units, more]), believed, numbers)
        return model, best

    def _candidates(self, acquisition: "_Acquisition", rng: np.random.Generator) -> Array:
        """Points where parameters stand, (n, n_unit), the most promising first."""
        space, model = self.space, acquisition.model
        centers = model.units[np.argsort(model.predict(model.units)[0])[:N_CENTERS]]
        near = [
            space.snap(center + _steps(space, rng, step)) for center in centers for step in STEPS
        ]
        points = np.concatenate([space.spread(rng.random((N_SPREAD, space.n_dims))), *near])
        values = acquisition(points)
        points = points[np.argsort(-values, kind="stable")[:N_KEPT]]
        climbed = np.concatenate([self._climb(acquisition, point) for point in points[:N_CLIMBS]])
        points = np.concatenate([climbed, points])
        points = points[np.argsort(-acquisition(points), kind="stable")]
        if space.repair is None:
            return points
        # The first again, in the order of what repair makes of them.
        found = [space.repaired(space.from_unit(point)) for point in points[:N_REPAIRED]]
        units = [space.to_unit(params) for params in found if params is not None]
        if not units:
            return points[N_REPAIRED:]
        points = np.array(units)
        return points[np.argsort(-acquisition(points), kind="stable")]

    def _climb(self, acquisition: "_Acquisition", point: Array) -> Array:
        """Better points than ``point``, (n, n_unit), not in order."""
        found = []
        for _ in range(2):
            top = self._snapped_climb(acquisition, point)
            others = _neighbours(self.space, top)
            found.append(top[None])
            if not len(others):
                break
            found.append(others)
            values = acquisition(others)
            if values.max() <= acquisition(top[None])[0]:
                break
            point = others[np.argmax(values)]
        return np.concatenate(found)

    def _snapped_climb(self, acquisition: "_Acquisition", point: Array) -> Array:
        free = _numeric_columns(self.space)
        if not free.any():
            return point

        def negative(numbers: Array) -> tuple[float, Array]:
            unit = point.copy()
            unit[free] = numbers
            value, slope = acquisition.slope(unit)
            return -value, -slope[free]

        found = minimize(
            negative,
            point[free],
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, 1.0)] * int(free.sum()),
            options={"maxiter": 30},
        )
        unit = point.copy()
        unit[free] = found.x
        return np.asarray(self.space.snap(unit[None])[0])


class _Acquisition:
    """The logarithm of the expected improvement on ``best``, up to a constant."""

    def __init__(self, model: GaussianProcess, best: float) -> None:
        self.model = model
        self.best = best

    def __call__(self, units: Array) -> Array:
        mean, deviation = self.model.predict(units)
        return np.asarray(np.log(deviation) + log_improvement((self.best - mean) / deviation))

    def slope(self, unit: Array) -> tuple[float, Array]:
        mean, deviation, of_mean, of_deviation = self.model.slopes(unit)
        z = (self.best - mean) / deviation
        log_h = float(log_improvement(np.array([z]))[0])
        ratio = np.exp(log_ndtr(z) - log_h)
        slope = of_deviation / deviation - ratio * (of_mean + z * of_deviation) / deviation
        return float(np.log(deviation)) + log_h, slope


def log_improvement(z: Array) -> Array:
    """log(phi(z) + z Phi(z)), for any z down to -1e6."""
    z = np.asarray(z, float)
    high = np.maximum(z, -1.0)
    normal = np.exp(-high * high / 2) / np.sqrt(2 * np.pi)
    above = np.log(normal + high * np.exp(log_ndtr(high)))
    low = np.clip(z, -1e6, -1.0)
    tail = np.where(
        low > -1e3,
        1 + low * np.sqrt(np.pi / 2) * erfcx(-low / np.sqrt(2)),
        low**-2.0,
    )
    below = -low * low / 2 - np.log(2 * np.pi) / 2 + np.log(tail)
    return np.asarray(np.where(z > -1, above, below))


def one_merit(told: Sequence[Told], rng: np.random.Generator) -> Array:
    """A merit for each trial, (n,). Of several their augmented Chebyshev norm with random
    weights, other ones for each ask, so that proposals spread over the Pareto front (ParEGO:
    Knowles, IEEE Trans. Evol. Comp. 10, 2006, eq. 2)."""
    columns = imputed(told).T
    if len(columns) == 1:
        return np.asarray(columns[0])
    weighed = rng.dirichlet(np.ones(len(columns))) * np.stack(
        [(one - one.min()) / (np.ptp(one) or 1.0) for one in map(standardised, columns)], axis=1
    )
    return np.asarray(weighed.max(axis=1) + 0.05 * weighed.sum(axis=1))


def standardised(merits: Array) -> Array:
    """Targets of mean 0 and variance 1, in the order of the merits.

    What is worse than the median counts by the logarithm of its distance, in units of that
    between quartiles: diverged trainings don't make the good ones look all alike.
    """
    low, median, high = np.quantile(merits, (0.25, 0.5, 0.75))
    unit = (high - low) or np.ptp(merits) or 1.0
    found = np.clip((merits - median) / unit, -1e100, 1e100)
    found = np.where(found > 0, np.log1p(np.maximum(found, 0)), found)
    return np.asarray((found - found.mean()) / (found.std() or 1.0))


def chosen(merits: Array) -> NDArray[np.int64]:
    """Which trials the model sees: all, or the best and the newest."""
    n = len(merits)
    if n <= N_BEST + N_NEWEST:
        return np.arange(n)
    older = np.argsort(merits[: n - N_NEWEST], kind="stable")[:N_BEST]
    return np.concatenate([np.sort(older), np.arange(n - N_NEWEST, n)])


def _steps(space: Space, rng: np.random.Generator, size: float) -> Array:
    """Random steps, (N_NEAR, n_unit), along some dimensions each."""
    moves = rng.random((N_NEAR, space.n_dims)) < max(0.3, 2 / space.n_dims)
    parts = []
    for move, one in zip(moves.T, space.dimensions, strict=True):
        scale = 0.7 if isinstance(one, Categorical) else size
        parts.append(move[:, None] * rng.normal(scale=scale, size=(N_NEAR, one.width)))
    return np.concatenate(parts, axis=1)


def _neighbours(space: Space, unit: Array) -> Array:
    """Points beside ``unit`` along one integer or category, (n, n_unit)."""
    found = []
    params = space.from_unit(unit)
    for one, columns in zip(space.dimensions, space.slices, strict=True):
        for value in one.neighbours(params[one.name]):
            other = unit.copy()
            other[columns] = one.to_unit(value)
            found.append(other)
    return np.array(found).reshape(-1, len(unit))


def _numeric_columns(space: Space) -> NDArray[np.bool_]:
    return np.concatenate(
        [np.full(one.width, not isinstance(one, Categorical)) for one in space.dimensions]
    )
