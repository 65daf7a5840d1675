"""Priors of Bayesian weights, as numbers; the layers of each backend do the arithmetic."""

from dataclasses import dataclass
from math import exp, isfinite

from nnlo.errors import ConfigError


@dataclass(frozen=True)
class Normal:
    """Each weight N(loc, scale^2), independent of the others."""

    loc: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_scale("scale", self.scale)
        if not isfinite(self.loc):
            raise ConfigError(f"a prior's loc must be finite, got {self.loc}; 0 is the usual one")


@dataclass(frozen=True)
class ScaleMixture:
    """Each weight pi N(0, scale1^2) + (1 - pi) N(0, scale2^2) (Blundell et al. 2015, eq. 7).

    The KL divergence has no closed form: one sample of each weight estimates it.
    """

    pi: float = 0.5
    scale1: float = 1.0
    scale2: float = exp(-6.0)

    def __post_init__(self) -> None:
        _check_scale("scale1", self.scale1)
        _check_scale("scale2", self.scale2)
        if not 0.0 < self.pi < 1.0:
            raise ConfigError(
                f"pi must be in (0, 1), got {self.pi}; with one part alone take Normal"
            )


@dataclass(frozen=True)
class Moped:
    """Prior and first posterior from weights that are there (Krishnan et al. 2020, MOPED).

    Prior N(weight, scale^2); posterior begins at loc = weight, sigma = delta |weight|.
    """

    delta: float = 0.1
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_scale("delta", self.delta)
        _check_scale("scale", self.scale)


Prior = Normal | ScaleMixture | Moped


def _check_scale(name: str, value: float) -> None:
    if not (isfinite(value) and value > 0.0):
        raise ConfigError(f"a prior's {name} must be above 0 and finite, got {value}")
