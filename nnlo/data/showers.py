"""Synthetic electromagnetic showers in a sampling calorimeter: made, not measured.

Electrons hit a block of 25 x 25 x 25 cells at right angles, somewhere in the middle cell. Cells
are 0.5 Moliere radii wide and 1 radiation length deep; the material is tungsten.

In depth the mean deposit follows a Gamma distribution (Longo and Sestili, Nucl. Instrum. Methods
128 (1975) 283), across it a core and a tail, with the parameters and the fluctuations of
Grindhammer and Peters, "The parameterized simulation of electromagnetic showers in homogeneous
and sampling calorimeters", hep-ex/0001020, section 3. We depart from it in three ways: the
parameters of homogeneous media stand for the layers of a sampling calorimeter, a layer has the
radii of its middle, and instead of spots each cell draws its sampling fluctuation by itself.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import DataError

Array = NDArray[np.floating[Any]]

SIDE = 25
"""Cells along each axis."""
ENERGIES = (10.0, 500.0)
"""GeV; primary energies are uniform in between."""
SAMPLING_FRACTION = 0.025
"""Part of the energy in a cell that its active layer sees."""
RESOLUTION = 0.17
"""Relative fluctuation of the sum at 1 GeV; it falls as 1 / sqrt(energy)."""
THRESHOLD = 1e-6
"""GeV; a smaller deposit reads as 0."""

_CELL = 0.5  # Moliere radii
_LAYER = 1.0  # radiation lengths
_ATOMIC_NUMBER = 74
_CRITICAL_ENERGY = 0.008  # GeV
_STEPS = 16  # of the integral over the depth of a layer


class Profile(NamedTuple):
    """Shape of one shower in depth t (radiation lengths): t^(alpha-1) exp(-beta t)."""

    alpha: float
    beta: float

    @property
    def maximum(self) -> float:
        """Depth of the shower maximum in radiation lengths."""
        return (self.alpha - 1.0) / self.beta


def make_showers(
    n: int, seed: int = 0, first: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return deposits (n, 25, 25, 25, 1) and primary energies (n,), float32, both in GeV.

    Axes 1 and 2 of the deposits are across the shower, axis 3 is the depth. A shower depends
    on ``seed`` and its number only: these have the numbers ``first`` to ``first + n - 1``.
    Raises DataError for a negative ``n``, ``seed`` or ``first``.
    """
    if min(n, seed, first) < 0:
        raise DataError(
            f"n, seed and first must not be negative, got {n}, {seed} and {first}; count from 0"
        )
    deposits = np.empty((n, SIDE, SIDE, SIDE, 1), np.float32)
    energies = np.empty(n, np.float32)
    for k in range(n):
        rng = np.random.default_rng([seed, first + k])
        energies[k] = rng.uniform(*ENERGIES)
        deposits[k, ..., 0] = _shower(rng, float(energies[k]))
    return deposits, energies


def _shower(rng: np.random.Generator, energy: float) -> Array:
    """Deposits (25, 25, 25) of one electron in GeV."""
    profile = _profile(rng, energy)
    at = rng.uniform(-0.5 * _CELL, 0.5 * _CELL, 2)
    mean = energy * _across(profile, energy, at) * _in_depth(profile)
    # Gammas of one scale add up to a Gamma: the sum fluctuates by RESOLUTION / sqrt(energy)
    scale = RESOLUTION**2
    seen = SAMPLING_FRACTION * scale * rng.standard_gamma(mean / scale)
    return np.where(seen < THRESHOLD, 0.0, seen)


def _profile(rng: np.random.Generator, energy: float) -> Profile:
    """Draw the logarithms of maximum and alpha, which are correlated normal variables."""
    log_y = math.log(energy / _CRITICAL_ENERGY)
    first, second = rng.standard_normal(2)
    correlation = 0.705 - 0.023 * log_y
    second = correlation * first + math.sqrt(1.0 - correlation**2) * second
    maximum = (log_y - 0.812) * math.exp(first / (-1.4 + 1.26 * log_y))
    alpha = 0.81 + (0.458 + 2.26 / _ATOMIC_NUMBER) * log_y
    # stays above 1, where there is a maximum: that is 8 standard deviations away
    alpha *= math.exp(second / (-0.58 + 0.86 * log_y))
    return Profile(alpha, (alpha - 1.0) / maximum)


def _in_depth(profile: Profile) -> Array:
    """Part of the energy (25,) that each layer takes; what is left leaks out behind."""
    alpha, beta = profile
    width = _LAYER / _STEPS
    depth = beta * width * (np.arange(SIDE * _STEPS) + 0.5)
    density: Array = np.exp((alpha - 1.0) * np.log(depth) - depth - math.lgamma(alpha))
    parts: Array = (density * beta * width).reshape(SIDE, _STEPS).sum(axis=1)
    return parts


def _across(profile: Profile, energy: float, at: Array) -> Array:
    """Part of the energy of a layer (last axis) that each cell takes: (25, 25, 25).

    at: where the axis of the shower is, in Moliere radii from the middle of the block.
    """
    z, log_e = _ATOMIC_NUMBER, math.log(energy)
    depth = _LAYER * (np.arange(SIDE) + 0.5) / profile.maximum
    core = 0.0251 + 0.00319 * log_e + (0.1162 - 0.000381 * z) * depth
    growth = np.exp(-2.59 * (depth - 0.645)) + np.exp((0.3585 + 0.0421 * log_e) * (depth - 0.645))
    tail = (0.659 - 0.00309 * z) * growth
    arrived = (0.401 + 0.00187 * z - depth) / (1.313 - 0.0686 * log_e)
    weight = (2.632 - 0.00094 * z) * np.exp(arrived - np.exp(arrived))
    edges = _CELL * (np.arange(SIDE + 1) - 0.5 * SIDE)
    x, y = (edges - at[0])[:, None, None], (edges - at[1])[None, :, None]
    corners = weight * _quadrant(x, y, core) + (1.0 - weight) * _quadrant(x, y, tail)
    return np.diff(np.diff(corners, axis=0), axis=1)


def _quadrant(x: Array, y: Array, radius: Array) -> Array:
    """Integral over [0, x] x [0, y] of radius^2 / (pi (x^2 + y^2 + radius^2)^2), signed."""
    across_x, across_y = np.hypot(x, radius), np.hypot(y, radius)
    sum_of_two = x / across_x * np.arctan(y / across_x) + y / across_y * np.arctan(x / across_y)
    return sum_of_two / (2.0 * np.pi)
