"""One tensor of independent Gaussian weights inside a Keras layer, on any backend."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import log, pi
from typing import Any, get_args

import keras
import numpy as np
from keras import ops

from nnlo.bayes.gaussians import rho_of
from nnlo.bayes.priors import Moped, Normal, Prior, ScaleMixture
from nnlo.errors import ConfigError
from nnlo.model.keras_vector import value_of

LEAST_SIGMA = 1e-6
"""Of a posterior that begins at a share of its weight, which may be 0."""

SMALLEST_RHO = -15.0
"""Below this, softplus(rho) is exp(rho) to float32, so that its logarithm is rho."""


@dataclass(frozen=True)
class GaussianTensor:
    """Weights N(loc, softplus(rho)^2) of one shape; what is None below is not there.

    loc, rho: trainable Keras variables. mask: 0 or 1 for each weight; 0 makes its mean, its
    standard deviation and its KL 0. prior_loc, prior_scale: of a Moped prior, fixed.
    """

    loc: Any
    rho: Any
    prior: Prior
    mask: Any | None
    prior_loc: Any | None
    prior_scale: Any | None

    @classmethod
    def add(
        cls,
        add_weight: Callable[..., Any],
        name: str,
        shape: tuple[int, ...],
        initializers: tuple[Any, Any],
        prior: Prior,
        *,
        masked: bool,
    ) -> "GaussianTensor":
        """Make the variables ``<name>_loc``, ``<name>_rho`` and so on by ``add_weight``.

        initializers: of loc and of rho.
        """

        def fixed(part: str, shape: tuple[int, ...], value: float) -> Any:
            initializer = keras.initializers.Constant(value)
            return add_weight(
                name=f"{name}_{part}", shape=shape, initializer=initializer, trainable=False
            )

        loc, rho = (
            add_weight(name=f"{name}_{part}", shape=shape, initializer=initializer)
            for part, initializer in zip(("loc", "rho"), initializers, strict=True)
        )
        prior_loc = prior_scale = None
        if isinstance(prior, Moped):
            prior_loc = fixed("prior_loc", shape, 0.0)
            prior_scale = fixed("prior_scale", (), prior.scale)
        mask = fixed("mask", shape, 1.0) if masked else None
        return cls(loc, rho, prior, mask, prior_loc, prior_scale)

    def begin_at(self, values: Any) -> None:
        """Set the means; with a Moped prior also sigma = delta |values| and the prior's centre."""
        self.loc.assign(values)
        if isinstance(self.prior, Moped):
            sigma = np.maximum(self.prior.delta * np.abs(value_of(self.loc)), LEAST_SIGMA)
            self.rho.assign(rho_of(sigma))
            self.prior_loc.assign(values)  # type: ignore[union-attr]

    def mean(self) -> Any:
        """Return the means, masked."""
        return self._masked(ops.convert_to_tensor(self.loc))

    def sigma(self) -> Any:
        """Return the standard deviations, not masked."""
        return ops.softplus(self.rho)

    def deviation(self, sigma: Any, seed: Any) -> Any:
        """Draw what the weights differ by from their means, masked."""
        return self._masked(sigma * self._eps(seed))

    def kl(self, sigma: Any, seed: Any) -> Any:
        """Return the KL divergence from the prior in nats, a scalar.

        Closed form for Gaussian priors; for a scale mixture, E[log prior] is estimated by one
        sample of each weight, drawn by ``seed``, or the same each time for None.
        """
        loc, log_sigma = ops.convert_to_tensor(self.loc), self._log_sigma(sigma)
        if isinstance(self.prior, ScaleMixture):
            weights = loc + sigma * self._eps(seed)
            each = -log_sigma - 0.5 * (1 + log(2 * pi)) - _mixture_log_prob(self.prior, weights)
        else:
            scale = self.prior.scale if self.prior_scale is None else self.prior_scale
            center = self.prior.loc if isinstance(self.prior, Normal) else self.prior_loc
            squares = ops.square(loc - center) + ops.square(sigma)
            each = squares / (2 * scale**2) - log_sigma + (ops.log(scale) - 0.5)
        return ops.sum(self._masked(each))

    def _eps(self, seed: Any) -> Any:
        if seed is not None:
            return keras.random.normal(self.loc.shape, seed=seed)
        # the same on every backend
        fixed = np.random.default_rng(0).standard_normal(self.loc.shape, dtype=np.float32)
        return ops.convert_to_tensor(fixed)

    def _masked(self, values: Any) -> Any:
        return values if self.mask is None else values * self.mask

    def _log_sigma(self, sigma: Any) -> Any:
        rho = ops.convert_to_tensor(self.rho)
        # the bound inside keeps the gradient of the branch not taken finite
        return ops.where(rho < SMALLEST_RHO, rho, ops.log(ops.maximum(sigma, 1e-7)))


def _mixture_log_prob(prior: ScaleMixture, weights: Any) -> Any:
    first, second = (
        log(share / scale) - 0.5 * log(2 * pi) - 0.5 * ops.square(weights / scale)
        for share, scale in ((prior.pi, prior.scale1), (1 - prior.pi, prior.scale2))
    )
    return ops.logaddexp(first, second)


def prior_from(given: Prior | Mapping[str, Any] | None) -> Prior:
    """Return a prior: the one given, or of the mapping by ``config_of``; None is N(0, 1)."""
    if given is None:
        return Normal()
    kinds = {kind.__name__: kind for kind in get_args(Prior)}
    if isinstance(given, Mapping) and given.get("kind") in kinds:
        numbers = {name: value for name, value in given.items() if name != "kind"}
        prior: Prior = kinds[given["kind"]](**numbers)
        return prior
    if isinstance(given, Prior):
        return given
    raise ConfigError(
        f"a prior must be one of {', '.join(kinds)}, got {given!r}; "
        "give for example prior=Normal(scale=0.5)"
    )


def config_of(prior: Prior) -> dict[str, Any]:
    """Return a prior as plain values that JSON can hold."""
    return {"kind": type(prior).__name__, **asdict(prior)}
