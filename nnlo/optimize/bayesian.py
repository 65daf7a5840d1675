"""The default searcher: a Gaussian process and the logarithm of expected improvement.

Jones, Schonlau & Welch, Efficient global optimization (1998), eq. 15, in the stable logarithm
of Ament et al., Unexpected improvements to expected improvement (NeurIPS 2023,
arXiv:2310.20708), eq. 9. A running trial counts as if it had ended at its predicted mean (the
Kriging believer of Ginsbourger et al., 2010), so that blocks don't try the same twice.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import erfcx, log_ndtr

from nnlo.errors import ConfigError
from nnlo.optimize import gaussian_process
from nnlo.optimize.dimensions import Array, Categorical
from nnlo.optimize.gaussian_process import GaussianProcess, Numbers
from nnlo.optimize.quasi_random import Sobol
from nnlo.optimize.searcher import Told, draw, imputed
from nnlo.optimize.space import Params, Space

N_BEST = N_NEWEST = 150  # trials that the model sees, of more
N_SPREAD = 512  # candidates all over the cube
N_NEAR = 25  # and as many around each of the best, for each of
STEPS = (0.01, 0.05, 0.2)  # these standard deviations
N_CENTERS = 5
N_KEPT = 200  # candidates, in case that the first are known
N_REPAIRED = 60  # of them, where parameters are repaired
N_CLIMBS = 4  # candidates from which gradients climb on, all at once, in
N_STEPS = 20  # iterations


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
        self._places = _Places(space)
        self._fitted: tuple[bytes, Numbers] | None = None  # the newest, and of which data

    def ask(
        self, trial: int, told: Sequence[Told], running: Mapping[int, Params]
    ) -> Params | None:
        n_known = sum(one.merit is not None for one in told)
        if n_known < self.n_initial:
            return self._design.ask(trial, told, running)
        rng = np.random.default_rng([self.seed, trial])
        keys = self._places.keys(told, running)
        model, best = self._model(trial, told, running)
        acquisition = _Acquisition(model, best)
        for unit in self._candidates(acquisition, rng):
            params = self.space.repaired(self.space.from_unit(unit))
            if params is not None and self.space.key(params) not in keys:
                return params
        return draw(self.space, rng, keys)

    def _model(
        self, trial: int, told: Sequence[Told], running: Mapping[int, Params]
    ) -> tuple[GaussianProcess, float]:
        """What is known, with what is believed of running trials; and the best mean known."""
        numbers = self._numbers(*self._data(trial, told[: self._mark(len(told))]))
        model = GaussianProcess(self.space, *self._data(trial, told), numbers)
        best = float(model.means.min())
        if running:
            model = model.believing(self._places.units(running.items()))
        return model, best

    def _mark(self, n_told: int) -> int:
        """How many of the told hyper-parameters are fitted on: a number that stays until there
        are 10 % more, since a fit takes longer than all else."""
        mark = self.n_initial
        while (later := mark + max(1, mark // 10)) <= n_told:
            mark = later
        return mark

    def _data(self, trial: int, told: Sequence[Told]) -> tuple[Array, Array]:
        """Units and targets of those that the model sees."""
        merits = one_merit(told, np.random.default_rng([self.seed, trial, 1]))
        seen = chosen(merits)
        units = self._places.units((told[i].trial, told[i].params) for i in seen)
        return units, standardised(merits[seen])

    def _numbers(self, units: Array, targets: Array) -> Numbers:
        data = units.tobytes() + targets.tobytes()
        if self._fitted is None or self._fitted[0] != data:
            self._fitted = data, gaussian_process.fit(self.space, units, targets)
        return self._fitted[1]

    def _candidates(self, acquisition: "_Acquisition", rng: np.random.Generator) -> Array:
        """Points where parameters stand, (n, n_unit), the most promising first."""
        space, model = self.space, acquisition.model
        centers = model.units[np.argsort(model.means, kind="stable")[:N_CENTERS]]
        near = space.snap(_around(space, rng, centers))
        points = np.concatenate([space.spread(rng.random((N_SPREAD, space.n_dims))), near])
        points, values = _first(points, acquisition(points), N_KEPT)
        more = self._climbed(acquisition, points[:N_CLIMBS])
        points, _ = _first(
            np.concatenate([more, points]), np.concatenate([acquisition(more), values])
        )
        if space.repair is None:
            return points
        # The first again, in the order of what repair makes of them.
        found = [space.repaired(space.from_unit(point)) for point in points[:N_REPAIRED]]
        units = [space.to_unit(params) for params in found if params is not None]
        if not units:
            return points[N_REPAIRED:]
        points = np.array(units)
        return _first(points, acquisition(points))[0]

    def _climbed(self, acquisition: "_Acquisition", points: Array) -> Array:
        """Better points than ``points``, both (n, n_unit), and some beside those."""
        found = []
        for _ in range(2):
            tops = self._tops(acquisition, points)
            others = [_neighbours(self.space, top) for top in tops]
            found += [tops, *others]
            if not len(others[0]):
                break
            better = [_better(acquisition, *pair) for pair in zip(tops, others, strict=True)]
            if not any(len(one) for one in better):
                break
            points = np.concatenate(better)
        return np.concatenate(found)

    def _tops(self, acquisition: "_Acquisition", points: Array) -> Array:
        """Where gradients lead from ``points``, both (n, n_unit); categories stay."""
        free = _numeric_columns(self.space)
        if not free.any():
            return points

        def negative(numbers: Array) -> tuple[float, Array]:
            units = points.copy()
            units[:, free] = numbers.reshape(len(points), -1)
            values, slopes = acquisition.slopes(units)
            return -float(values.sum()), -slopes[:, free].ravel()

        start = points[:, free]
        found = minimize(
            negative,
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, 1.0)] * start.size,
            options={"maxiter": N_STEPS},
        )
        units = points.copy()
        units[:, free] = found.x.reshape(start.shape)
        return self.space.snap(units)


class _Places:
    """Where parameters stand, kept by trial."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._known: dict[int, tuple[Params, str, Array]] = {}

    def keys(self, told: Sequence[Told], running: Mapping[int, Params]) -> set[str]:
        """As ``searcher.taken``."""
        every = itertools.chain(((one.trial, one.params) for one in told), running.items())
        return {self._of(*pair)[1] for pair in every}

    def units(self, pairs: Iterable[tuple[int, Params]]) -> Array:
        """Of numbered parameters, (n, n_unit)."""
        return np.array([self._of(*pair)[2] for pair in pairs])

    def _of(self, trial: int, params: Params) -> tuple[Params, str, Array]:
        found = self._known.get(trial)
        if found is None or found[0] is not params:
            found = params, self._space.key(params), self._space.to_unit(params)
            self._known[trial] = found
        return found


class _Acquisition:
    """The logarithm of the expected improvement on ``best``, up to a constant."""

    def __init__(self, model: GaussianProcess, best: float) -> None:
        self.model = model
        self.best = best

    def __call__(self, units: Array) -> Array:
        mean, deviation = self.model.predict(units)
        return np.asarray(np.log(deviation) + log_improvement((self.best - mean) / deviation))

    def slopes(self, units: Array) -> tuple[Array, Array]:
        """Values, (n,), and their gradients, (n, n_unit)."""
        mean, deviation, of_mean, of_deviation = self.model.slopes(units)
        z = (self.best - mean) / deviation
        log_h = log_improvement(z)
        ratio = np.exp(log_ndtr(z) - log_h)[:, None]
        slopes = of_deviation - ratio * (of_mean + z[:, None] * of_deviation)
        return np.log(deviation) + log_h, slopes / deviation[:, None]


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


def _first(points: Array, values: Array, n: int | None = None) -> tuple[Array, Array]:
    """The ``n`` points of largest value, in their order, and the values."""
    order = np.argsort(-values, kind="stable")[:n]
    return points[order], values[order]


def _around(space: Space, rng: np.random.Generator, centers: Array) -> Array:
    """Points random steps away from each of ``centers``, along some dimensions each."""
    starts = np.repeat(centers, len(STEPS) * N_NEAR, axis=0)
    sizes = np.tile(np.repeat(STEPS, N_NEAR), len(centers))[:, None]
    moves = rng.random((len(starts), space.n_dims)) < max(0.3, 2 / space.n_dims)
    parts = []
    for move, one in zip(moves.T, space.dimensions, strict=True):
        scale = 0.7 if isinstance(one, Categorical) else sizes
        parts.append(move[:, None] * scale * rng.normal(size=(len(starts), one.width)))
    return np.asarray(starts + np.concatenate(parts, axis=1))


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


def _better(acquisition: _Acquisition, top: Array, others: Array) -> Array:
    """The best of ``others``, (1, n_unit), if it is better than ``top``; else none."""
    values = acquisition(np.concatenate([top[None], others]))
    best = int(np.argmax(values))
    return others[best - 1 : best] if best else others[:0]


def _numeric_columns(space: Space) -> NDArray[np.bool_]:
    return np.concatenate(
        [np.full(one.width, not isinstance(one, Categorical)) for one in space.dimensions]
    )
