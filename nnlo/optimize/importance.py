"""What a search has learnt about its parameters, by a Gaussian process on its merits."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import qmc

from nnlo.optimize import gaussian_process
from nnlo.optimize.bayesian import chosen
from nnlo.optimize.dimensions import Array, Categorical, Dimension
from nnlo.optimize.gaussian_process import GaussianProcess, Numbers
from nnlo.optimize.searcher import Told
from nnlo.optimize.space import Space

MOST_MERITS = 1e100
N_POINTS = 512  # all over the space, a power of 2
N_SHUFFLES = 4
N_FOLDS = 5


@dataclass(frozen=True)
class Surrogate:
    """Merits as a function of the parameters, and what the noise leaves unknown of it.

    units: (n, n_unit). merits: (n,), not all equal.
    """

    space: Space
    units: Array
    merits: Array

    @classmethod
    def of(cls, space: Space, told: Sequence[Told]) -> "Surrogate | None":
        """Of trials with a merit, the first of several, tamed; up to 300, as the searcher
        ``bayesian`` chooses them. None where less than 3, or only equal ones, are known."""
        known = [one for one in told if one.merit is not None]
        merits = tamed([one.merit for one in known if one.merit is not None])
        if len(known) < 3 or not np.ptp(merits):
            return None
        seen = chosen(merits)
        if not np.ptp(merits[seen]):
            return None
        units = np.array([space.to_unit(known[i].params) for i in seen])
        return cls(space, units, merits[seen])

    def predict(self, units: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the merit without its noise, both (m,)."""
        mean, deviation = self._model.predict(units)
        return self._center + self._unit * mean, self._unit * deviation

    @cached_property
    def explained(self) -> float:
        """The share of the merits' variance that the model foretells, at most 1.

        By cross-validation: of each fifth of the trials, from the others. What is below 0 is
        worse than to foretell the mean; importances are not to be believed then.
        """
        targets, n = self._targets, len(self.merits)
        folds = np.random.default_rng(0).permutation(n) % min(N_FOLDS, n)
        errors = np.empty(n)
        for fold in range(min(N_FOLDS, n)):
            out = folds == fold
            numbers = self._numbers
            model = GaussianProcess(self.space, self.units[~out], targets[~out], numbers)
            errors[out] = model.predict(self.units[out])[0] - targets[out]
        return float(1 - (errors**2).mean())

    def importance(self) -> dict[str, float]:
        """By parameter: how much the merit depends on it, alone and together with others.

        The mean squared change of the model's mean when the parameter is shuffled over points
        all over the space, by twice its variance: the total Sobol index (Jansen, Comp. Phys.
        Comm. 117, 1999; Saltelli et al., Comp. Phys. Comm. 181, 2010, table 2 f). 0: none; 1:
        all. Parameters that act together count each in full, so the sum may exceed 1.
        """
        rng = np.random.default_rng(0)
        points = self._points
        base = self._model.predict(points)[0]
        variance = float(base.var())
        found = {}
        for one, columns in zip(self.space.dimensions, self.space.slices, strict=True):
            changes = []
            for _ in range(N_SHUFFLES):
                others = points.copy()
                others[:, columns] = points[rng.permutation(N_POINTS)][:, columns]
                changes.append(((self._model.predict(others)[0] - base) ** 2).mean())
            found[one.name] = float(np.mean(changes)) / (2 * variance) if variance else 0.0
        return found

    def dependence(self, dimension: Dimension, n: int = 41) -> tuple[Array, Array, Array]:
        """The merit by one parameter, averaged over all the others, and its uncertainty.

        Returns places along the unit interval, those of the ``n`` values at most or one a
        category, (k, width); the means, (k,); standard deviations, (k,): the root of the mean
        variance, an upper bound (Moosbauer et al., NeurIPS 2021, arXiv:2111.04820, eq. 5).
        """
        at = self.space.names.index(dimension.name)
        columns = self.space.slices[at]
        places = places_along(dimension, n)
        points = self._points[:: N_POINTS // 128]
        means, deviations = np.empty(len(places)), np.empty(len(places))
        for row, place in enumerate(places):
            there = points.copy()
            there[:, columns] = place
            mean, deviation = self.predict(there)
            means[row], deviations[row] = mean.mean(), np.sqrt((deviation**2).mean())
        return places, means, deviations

    @cached_property
    def _center(self) -> float:
        return float(self.merits.mean())

    @cached_property
    def _unit(self) -> float:
        return float(self.merits.std())

    @cached_property
    def _targets(self) -> Array:
        return np.asarray((self.merits - self._center) / self._unit)

    @cached_property
    def _numbers(self) -> Numbers:
        return gaussian_process.fit(self.space, self.units, self._targets)

    @cached_property
    def _model(self) -> GaussianProcess:
        return GaussianProcess(self.space, self.units, self._targets, self._numbers)

    @cached_property
    def _points(self) -> Array:
        engine = qmc.Sobol(self.space.n_dims, rng=np.random.default_rng(0))
        return self.space.spread(engine.random(N_POINTS))


def tamed(merits: Sequence[float]) -> Array:
    """Merits, (n,), of which the worst are cut: at 3 quartile distances above the third quartile.

    Else one training that diverged would make all the others look alike.
    """
    found = np.clip(np.asarray(merits, np.float64), -MOST_MERITS, MOST_MERITS)
    if not len(found):
        return found
    low, high = np.quantile(found, (0.25, 0.75))
    return np.minimum(found, high + 3 * (high - low)) if high > low else found


def places_along(dimension: Dimension, n: int) -> Array:
    """At most ``n`` places of values in rising order, or all categories, (k, width)."""
    if isinstance(dimension, Categorical):
        return np.eye(dimension.width)
    return np.unique(dimension.snap(np.linspace(0.0, 1.0, n)[:, None]), axis=0)
