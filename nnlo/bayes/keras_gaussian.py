"""One tensor of independent Gaussian weights inside a Keras layer, on any backend."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import log, pi, prod
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

SMALLEST_SIGMA = 1e-37
"""Whose inverse is a float32; softplus of about -85."""


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
        loc = ops.convert_to_tensor(self.loc)
        if isinstance(self.prior, ScaleMixture):
            log_prob = _mixture_log_prob(self.prior, loc + sigma * self._eps(seed))
            each = -ops.log(ops.maximum(sigma, SMALLEST_SIGMA)) - 0.5 * (1 + log(2 * pi))
            return ops.sum(self._masked(each - log_prob))
        scale = self.prior.scale if self.prior_scale is None else self.prior_scale
        center = self.prior.loc if isinstance(self.prior, Normal) else self.prior_loc
        is_shifted = self.prior_loc is not None or center != 0.0
        # flat: TensorFlow's variable would be no tensor yet, and a custom gradient demands one
        shift = ops.reshape(self._masked(loc - center if is_shifted else loc), (-1,))
        precision = ops.convert_to_tensor(1.0 / scale**2)
        size = prod(loc.shape)
        if self.mask is None:
            return _cross(shift, sigma, precision) + size * (ops.log(scale) - 0.5)
        kept = ops.sum(self.mask)
        total = _cross(shift, sigma * self.mask + (1.0 - self.mask), precision)
        return total + kept * (ops.log(scale) - 0.5) - 0.5 * precision * (size - kept)

    def _eps(self, seed: Any) -> Any:
        if seed is not None:
            return _normal(self.loc.shape, seed)
        # the same on every backend
        fixed = np.random.default_rng(0).standard_normal(self.loc.shape, dtype=np.float32)
        return ops.convert_to_tensor(fixed)

    def _masked(self, values: Any) -> Any:
        return values if self.mask is None else values * self.mask


@ops.custom_gradient  # type: ignore[untyped-decorator]
def _cross(shift: Any, sigma: Any, precision: Any) -> Any:
    """Return sum(precision (shift^2 + sigma^2) / 2 - log(sigma)), without slope of precision.

    With each operation's own gradient this would go over the weights twice as often.
    """
    bounded = ops.maximum(sigma, SMALLEST_SIGMA)
    squares = ops.sum(ops.square(shift)) + ops.sum(ops.square(sigma))

    def slopes(*given: Any, upstream: Any = None) -> tuple[Any, Any, Any]:
        if upstream is None:  # torch hands it over by name, after its arguments
            (upstream,) = given
        slope = upstream * precision
        to_sigma = slope * sigma - upstream / bounded
        return slope * shift, to_sigma, ops.zeros_like(precision)

    return 0.5 * precision * squares - ops.sum(ops.log(bounded)), slopes


def _normal(shape: tuple[int, ...], seed: Any) -> Any:
    """Draw standard normal numbers."""
    if keras.backend.backend() != "tensorflow":
        return keras.random.normal(shape, seed=seed)
    # TensorFlow's own are made one by one; by whole arrays (Box and Muller 1958) it takes half
    size = prod(shape)
    first, second = ops.unstack(keras.random.uniform((2, (size + 1) // 2), seed=seed))
    radius = ops.sqrt(-2.0 * ops.log(1.0 - first))  # uniform on [0, 1)
    angle = 2.0 * pi * second
    drawn = ops.concatenate([radius * ops.cos(angle), radius * ops.sin(angle)])
    return ops.reshape(drawn[:size], shape)


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
