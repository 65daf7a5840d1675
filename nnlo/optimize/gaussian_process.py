"""A Gaussian process on the unit cube of a space: Matern 5/2, a length scale a dimension, noise.

Rasmussen & Williams, Gaussian Processes for Machine Learning (2006): eq. 2.25-2.26 for the
prediction, 4.17 for the kernel, 5.8-5.9 for the evidence and its gradient. Hyper-parameters
are those of largest evidence times prior. The prior of the length scales grows with the square
root of the number of dimensions (Hvarfner, Hellsten & Nardi, ICML 2024, arXiv:2402.02229).
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.optimize import minimize
from scipy.spatial.distance import cdist, pdist, squareform

from nnlo.optimize.dimensions import Array
from nnlo.optimize.space import Space

JITTER = 1e-9  # on the diagonal, of the signal's variance: keeps equal points apart


class Numbers(NamedTuple):
    """Hyper-parameters, for targets of mean 0 and variance 1."""

    scales: Array  # (n_dims,), in units of the cube; a change of category counts as 1
    signal: float  # variance
    noise: float  # variance


class GaussianProcess:
    """The posterior of one set of targets. Immutable.

    units: (n, n_unit). targets: (n,), of mean about 0 and variance about 1.
    """

    def __init__(self, space: Space, units: Array, targets: Array, numbers: Numbers) -> None:
        self.space = space
        self.units = units
        self.numbers = numbers
        self._columns = _column_weights(space, numbers.scales)
        self._scaled = units * self._columns
        covariance = numbers.signal * matern(squareform(pdist(self._scaled, "sqeuclidean")))
        covariance[np.diag_indices(len(units))] += numbers.noise + JITTER * numbers.signal
        self._root = np.linalg.cholesky(covariance)
        self._weights = cho_solve((self._root, True), targets)

    def predict(self, units: Array) -> tuple[Array, Array]:
        """Mean and standard deviation without the noise, both (m,), at ``units``, (m, n_unit)."""
        near = self.numbers.signal * matern(
            cdist(units * self._columns, self._scaled, "sqeuclidean")
        )
        part = solve_triangular(self._root, near.T, lower=True, check_finite=False)
        variance = self.numbers.signal - np.einsum("ij,ij->j", part, part)
        return near @ self._weights, np.sqrt(np.maximum(variance, 1e-12))

    def slopes(self, unit: Array) -> tuple[float, float, Array, Array]:
        """Mean, standard deviation and their gradients, each (n_unit,), at one point."""
        differences = unit * self._columns - self._scaled
        squares = np.einsum("ij,ij->i", differences, differences)
        near = self.numbers.signal * matern(squares)
        slopes = 2 * self.numbers.signal * matern_slope(squares)
        inward = cho_solve((self._root, True), near, check_finite=False)
        variance = max(self.numbers.signal - float(near @ inward), 1e-12)
        deviation = variance**0.5
        of_mean = ((slopes * self._weights) @ differences) * self._columns
        of_deviation = -((slopes * inward) @ differences) * self._columns / deviation
        return float(near @ self._weights), deviation, of_mean, of_deviation


def matern(squares: Array) -> Array:
    """The kernel of squared distances in length scales."""
    root = np.sqrt(5 * squares)
    return np.asarray((1 + root + root * root / 3) * np.exp(-root))


def matern_slope(squares: Array) -> Array:
    """Its derivative by the squared distance."""
    root = np.sqrt(5 * squares)
    return np.asarray(-5 / 6 * (1 + root) * np.exp(-root))


def fit(space: Space, units: Array, targets: Array) -> Numbers:
    """The hyper-parameters for targets (n,) of mean 0 and variance 1 at ``units``."""
    evidence = Evidence(space, units, targets)
    best = None
    for start in evidence.starts():
        found = minimize(
            evidence,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=evidence.bounds,
            options={"maxiter": 40},
        )
        if best is None or found.fun < best.fun:
            best = found
    assert best is not None
    return evidence.numbers(best.x)


class Evidence:
    """Minus the log of evidence times prior, and its gradient, by the logs of Numbers."""

    def __init__(self, space: Space, units: Array, targets: Array) -> None:
        self.n_dims = space.n_dims
        self.targets = targets
        # One row a dimension: squared differences of all pairs.
        self.squares = np.stack(
            [pdist(units[:, columns], "sqeuclidean") for columns in space.slices]
        )
        for row, one in zip(self.squares, space.dimensions, strict=True):
            if one.width > 1:
                row /= 2
        self.upper = np.triu_indices(len(targets), 1)
        # log-normal priors: centers and standard deviations
        self.centers = np.array(
            [
                *[np.log(SCALE_CENTER) + 0.5 * np.log(space.n_dims)] * space.n_dims,
                0.0,
                np.log(NOISE_CENTER),
            ]
        )
        self.spreads = np.array([*[SCALE_SPREAD] * space.n_dims, 1.0, NOISE_SPREAD])
        self.bounds = [
            *[(np.log(0.01), np.log(100.0))] * space.n_dims,
            (-4.0, 4.0),
            (np.log(NOISE_MIN), 0.0),
        ]

    def starts(self) -> list[Array]:
        return [self.centers.clip(*np.array(self.bounds).T)]

    def numbers(self, logs: Array) -> Numbers:
        scales, (signal, noise) = np.exp(logs[: self.n_dims]), np.exp(logs[self.n_dims :])
        return Numbers(scales, float(signal), float(noise))

    def __call__(self, logs: Array) -> tuple[float, Array]:
        scales, signal, noise = self.numbers(logs)
        n = len(self.targets)
        squares = scales**-2 @ self.squares
        root = np.sqrt(5 * squares)
        decay = np.exp(-root)
        kernel = squareform((1 + root + root * root / 3) * decay)
        kernel[np.diag_indices(n)] = 1.0
        covariance = signal * kernel
        covariance[np.diag_indices(n)] += noise + JITTER * signal
        factor, failed = dpotrf(covariance, lower=1, overwrite_a=0)
        if failed:
            return 1e25, np.zeros_like(logs)
        weights = cho_solve((factor, True), self.targets, check_finite=False)
        inverse = dpotri(factor, lower=1)[0].T  # the upper half holds it
        pairs = weights[self.upper[0]] * weights[self.upper[1]] - inverse[self.upper]
        ours = weights @ weights - np.trace(inverse)
        by_square = signal * pairs * (-5 / 6) * (1 + root) * decay
        gradient = np.empty_like(logs)
        # each pair stands twice in the matrix, hence without the half
        gradient[: self.n_dims] = 2 * scales**-2 * (self.squares @ by_square)
        of_signal = self.targets @ weights - n - noise * ours
        gradient[self.n_dims] = -0.5 * of_signal
        gradient[self.n_dims + 1] = -0.5 * noise * ours
        value = 0.5 * self.targets @ weights + np.log(np.diag(factor)).sum()
        away = (logs - self.centers) / self.spreads**2
        return float(value) + self.penalty(logs), gradient + away

    def penalty(self, logs: Array) -> float:
        """Minus the log of the prior, up to a constant."""
        return float((((logs - self.centers) / self.spreads) ** 2).sum() / 2)


SCALE_CENTER = 0.5
SCALE_SPREAD = 1.0
NOISE_CENTER = 1e-4
NOISE_SPREAD = 2.0
NOISE_MIN = 1e-8


def _column_weights(space: Space, scales: Array) -> Array:
    """What a column is multiplied by before distances are taken, (n_unit,)."""
    return np.concatenate(
        [
            np.full(one.width, (0.5 if one.width > 1 else 1.0) ** 0.5 / scale)
            for one, scale in zip(space.dimensions, scales, strict=True)
        ]
    )
