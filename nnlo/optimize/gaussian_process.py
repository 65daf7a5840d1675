"""A Gaussian process on the unit cube of a space: Matern 5/2, a length scale a dimension, noise.

Rasmussen & Williams, Gaussian Processes for Machine Learning (2006): eq. 2.25-2.26 for the
prediction, 4.17 for the kernel, 5.8-5.9 for the evidence and its gradient. Hyper-parameters
are those of largest evidence times prior. The prior of the length scales grows with the square
root of the number of dimensions (Hvarfner, Hellsten & Nardi, ICML 2024, arXiv:2402.02229).
"""

from copy import copy
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
        self._nugget = numbers.noise + JITTER * numbers.signal
        covariance = self._kernel(squareform(pdist(self._scaled, "sqeuclidean")))
        covariance[np.diag_indices(len(units))] += self._nugget
        # LAPACK would copy it for each use if it were not in its order
        self._root = np.asfortranarray(np.linalg.cholesky(covariance))
        self._weights = cho_solve((self._root, True), targets, check_finite=False)
        self.means = targets - self._nugget * self._weights
        """What it predicts at ``units``, (n,)."""

    def believing(self, units: Array) -> "GaussianProcess":
        """The posterior if targets at ``units``, (m, n_unit), were as it predicts them: means
        stay, deviations shrink."""
        n, m = len(self.units), len(units)
        other = copy(self)
        other.units = np.concatenate([self.units, units])
        other._scaled = other.units * self._columns
        near, part = self._near(other._scaled[n:])
        inner = self._kernel(squareform(pdist(other._scaled[n:], "sqeuclidean")))
        inner[np.diag_indices(m)] += self._nugget
        corner = np.linalg.cholesky(inner - part.T @ part)
        other._root = np.zeros((n + m, n + m), order="F")
        other._root[:n, :n] = self._root
        other._root[n:, :n] = part.T
        other._root[n:, n:] = corner
        other._weights = np.concatenate([self._weights, np.zeros(m)])
        other.means = np.concatenate([self.means, near @ self._weights])
        return other

    def predict(self, units: Array) -> tuple[Array, Array]:
        """Mean and standard deviation without the noise, both (m,), at ``units``, (m, n_unit)."""
        near, part = self._near(units * self._columns)
        variance = self.numbers.signal - np.einsum("ij,ij->j", part, part)
        return near @ self._weights, np.sqrt(np.maximum(variance, 1e-12))

    def slopes(self, units: Array) -> tuple[Array, Array, Array, Array]:
        """Mean and standard deviation, (m,), and their gradients, (m, n_unit), at ``units``."""
        differences = (units * self._columns)[:, None] - self._scaled
        squares = np.einsum("ijk,ijk->ij", differences, differences)
        near = self._kernel(squares)
        slopes = 2 * self.numbers.signal * matern_slope(squares)
        inward = cho_solve((self._root, True), near.T, check_finite=False).T
        variance = self.numbers.signal - np.einsum("ij,ij->i", near, inward)
        deviation = np.sqrt(np.maximum(variance, 1e-12))
        of_mean = np.einsum("ij,ijk->ik", slopes * self._weights, differences) * self._columns
        of_variance = np.einsum("ij,ijk->ik", slopes * inward, differences) * self._columns
        return near @ self._weights, deviation, of_mean, -of_variance / deviation[:, None]

    def _near(self, scaled: Array) -> tuple[Array, Array]:
        """Covariances with all known, (m, n), and the root's inverse times them, (n, m)."""
        near = self._kernel(cdist(scaled, self._scaled, "sqeuclidean"))
        return near, solve_triangular(self._root, near.T, lower=True, check_finite=False)

    def _kernel(self, squares: Array) -> Array:
        return self.numbers.signal * matern(squares)


def matern(squares: Array) -> Array:
    """The kernel of squared distances in length scales."""
    root = np.sqrt(5 * squares)
    found = root / 3  # in place from here: most of the time of an ask goes by here
    found += 1
    found *= root
    found += 1
    found *= np.exp(-root)
    return np.asarray(found)


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
SCALE_SPREAD = 0.6
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
