"""Variational layers for torch: Linear and Conv1d/2d/3d with Gaussian weights.

A weight is N(loc, sigma^2), sigma = softplus(rho), independent of the others. In train mode a
layer draws its weights, in eval mode it uses their means. Two estimators: reparameterization
(one draw for the whole batch; Kingma and Welling 2014) and Flipout (draws that differ by signs
from sample to sample; Wen et al. 2018, eq. 4). A layer adds nothing to the loss: NNLO's
adapter, or a training loop of one's own, adds ``kl_weight * kl_divergence()``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnlo.bayes.priors import Moped, Normal, Prior, ScaleMixture
from nnlo.bayes.torch_priors import gaussian_kl, mixture_kl, softplus_inverse
from nnlo.errors import ConfigError

LEAST_SCALE = 1e-6
"""Of a posterior that begins at a share of its weight, which may be 0; of ``gaussian_nll``."""


class Variational(nn.Module):
    """What all variational layers share; it stands before ``nn.Linear`` or ``nn.ConvNd``.

    prior: of each Bayesian tensor; None: Normal(0, 1). ``Moped`` is centred on the means that
        the layer begins with, kept as buffers ``<name>_prior_loc``; see ``to_bayesian``.
    initializer: of the means: "normal", N(0, 0.1^2), or "he", N(0, 2 / fan_in). rho is
        N(-3, 0.1^2), sigma about 0.05. A bias begins at 0.
    bayesian_bias: whether the bias is Gaussian too.
    masked: whether weights can be pruned, see ``add_masks``.
    Other arguments: of the torch layer. The buffer ``kl_weight`` is what the divergence counts
    in the loss, in the end 1 / n_samples; 1.0 until it is set.
    """

    weight: Any  # the torch layer's, until they are Bayesian
    bias: Any
    kl_weight: Tensor
    weight_loc: Tensor
    bias_loc: Tensor | None

    def __init__(
        self,
        *args: Any,
        prior: Prior | None = None,
        initializer: str = "normal",
        bayesian_bias: bool = False,
        masked: bool = False,
        **named: Any,
    ) -> None:
        super().__init__(*args, **named)
        if initializer not in ("normal", "he"):
            raise ConfigError(
                f"the initializer must be normal or he, got {initializer!r}; choose one of them"
            )
        self.prior = Normal() if prior is None else prior
        self.masked = False
        weight, bias = self.weight, self.bias
        del self.weight, self.bias
        self.register_buffer("kl_weight", torch.ones_like(weight[(0,) * weight.ndim].detach()))
        scale = 0.1 if initializer == "normal" else (2.0 / weight[0].numel()) ** 0.5
        nn.init.normal_(weight, 0.0, scale)
        self._add_gaussian("weight", weight)
        if bias is not None:
            nn.init.zeros_(bias)
        if bias is not None and bayesian_bias:
            self._add_gaussian("bias", bias)
            bias = None
        else:
            self.register_parameter("bias_loc", None)
        self.register_parameter("bias", bias)
        if masked:
            self.add_masks()

    @property
    def gaussian_names(self) -> tuple[str, ...]:
        """Names of the Bayesian tensors: "weight", perhaps "bias"."""
        return ("weight",) if self.bias_loc is None else ("weight", "bias")

    def means(self, name: str) -> Tensor:
        """Return the means of a Bayesian tensor, 0 where it is pruned."""
        return self._masked(name, getattr(self, f"{name}_loc"))

    def scales(self, name: str) -> Tensor:
        """Return the standard deviations of a Bayesian tensor, 0 where it is pruned."""
        return self._masked(name, functional.softplus(getattr(self, f"{name}_rho")))

    def kl_divergence(self) -> Tensor:
        """Return KL(posterior || prior) of this layer in nats; pruned weights do not count.

        In closed form for Gaussian priors; of a scale mixture estimated by one sample of each
        weight, in eval mode by the same one each time.
        """
        parts = [self._masked(name, self._divergences(name)).sum() for name in self.gaussian_names]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def add_masks(self) -> None:
        """Add buffers ``<name>_mask`` of ones: a weight is then mask * (loc + sigma * eps)."""
        if not self.masked:
            for name in self.gaussian_names:
                ones = torch.ones_like(getattr(self, f"{name}_loc").detach())
                self.register_buffer(f"{name}_mask", ones)
        self.masked = True

    def begin_at(self, weight: Tensor, bias: Tensor | None) -> None:
        """Take means from weights that are there, and what ``Moped`` makes of them.

        weight, bias: shapes of the layer's own; bias None where the layer has none.
        """
        self._begin_at("weight", weight.detach())
        if bias is not None and self.bias_loc is not None:
            self._begin_at("bias", bias.detach())
        elif bias is not None:
            self.bias.data.copy_(bias.detach())

    def _begin_at(self, name: str, values: Tensor) -> None:
        getattr(self, f"{name}_loc").data.copy_(values)
        if isinstance(self.prior, Moped):
            sigma = (self.prior.delta * values.abs()).clamp(min=LEAST_SCALE)
            getattr(self, f"{name}_rho").data.copy_(softplus_inverse(sigma))
            getattr(self, f"{name}_prior_loc").copy_(values)

    def _add_gaussian(self, name: str, loc: nn.Parameter) -> None:
        rho = nn.init.normal_(torch.empty_like(loc), -3.0, 0.1)
        self.register_parameter(f"{name}_loc", loc)
        self.register_parameter(f"{name}_rho", nn.Parameter(rho))
        if isinstance(self.prior, Moped):
            self.register_buffer(f"{name}_prior_loc", loc.detach().clone())
            scale = torch.full_like(self.kl_weight, self.prior.scale)
            self.register_buffer(f"{name}_prior_scale", scale)

    def _masked(self, name: str, values: Tensor) -> Tensor:
        return values * getattr(self, f"{name}_mask") if self.masked else values

    def _divergences(self, name: str) -> Tensor:
        loc, rho = getattr(self, f"{name}_loc"), getattr(self, f"{name}_rho")
        prior = self.prior
        if isinstance(prior, ScaleMixture):
            return mixture_kl(loc, rho, self._noise(loc), prior)
        if isinstance(prior, Normal):
            centre, scale = loc.new_tensor(prior.loc), loc.new_tensor(prior.scale)
        else:
            centre = getattr(self, f"{name}_prior_loc")
            scale = getattr(self, f"{name}_prior_scale")
        return gaussian_kl(loc, rho, centre, scale)

    def _noise(self, like: Tensor) -> Tensor:
        if self.training:
            return torch.randn_like(like)
        fixed = np.random.default_rng(0).standard_normal(like.shape, dtype=np.float32)
        return torch.from_numpy(fixed).to(like.device)

    def _deviation(self, name: str) -> Tensor:
        """Draw what a weight differs by from its mean."""
        scales = self.scales(name)
        return scales * torch.randn_like(scales)

    def _mean_bias(self) -> Tensor | None:
        return self.bias if self.bias_loc is None else self.means("bias")

    def _run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer does with these weights."""
        raise NotImplementedError

    def _channels(self) -> tuple[int, int]:
        """Numbers of channels in and out."""
        raise NotImplementedError

    def _signs(self, x: Tensor, channels: int) -> Tensor:
        """Draw +-1 for each sample and channel, alike over all other axes."""
        raise NotImplementedError


class _Reparameterization(Variational):
    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.means("weight"), self._mean_bias()
        if self.training:
            weight = weight + self._deviation("weight")
            if bias is not None and self.bias_loc is not None:
                bias = bias + self._deviation("bias")
        return self._run(x, weight, bias)


class _Flipout(Variational):
    def forward(self, x: Tensor) -> Tensor:
        mean = self._run(x, self.means("weight"), self._mean_bias())
        if not self.training:
            return mean
        n_in, n_out = self._channels()
        bias = None if self.bias_loc is None else self._deviation("bias")
        moved = self._run(x * self._signs(x, n_in), self._deviation("weight"), bias)
        return torch.addcmul(mean, moved, self._signs(x, n_out))


class _Linear(Variational, nn.Linear):
    def _run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, weight, bias)

    def _channels(self) -> tuple[int, int]:
        return self.in_features, self.out_features

    def _signs(self, x: Tensor, channels: int) -> Tensor:
        return _signs(x, (*x.shape[:1][: x.ndim - 1], *(1,) * (x.ndim - 2), channels))


class _Conv(Variational):
    """Before ``nn.Conv1d`` and so on; depthwise by ``groups``."""

    kernel_size: tuple[int, ...]
    in_channels: int
    out_channels: int

    def _run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve: Any = self._conv_forward
        result: Tensor = convolve(x, weight, bias)
        return result

    def _channels(self) -> tuple[int, int]:
        return self.in_channels, self.out_channels

    def _signs(self, x: Tensor, channels: int) -> Tensor:
        n_axes = len(self.kernel_size)
        return _signs(x, (*x.shape[: -n_axes - 1], channels, *(1,) * n_axes))


def _signs(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(0, 2, shape, device=x.device).to(x.dtype) * 2.0 - 1.0


class LinearReparameterization(_Reparameterization, _Linear):
    """``nn.Linear`` with Gaussian weights, one draw a batch."""


class LinearFlipout(_Flipout, _Linear):
    """``nn.Linear`` with Gaussian weights by Flipout."""


class Conv1dReparameterization(_Reparameterization, _Conv, nn.Conv1d):
    """``nn.Conv1d`` with Gaussian weights, one draw a batch."""


class Conv1dFlipout(_Flipout, _Conv, nn.Conv1d):
    """``nn.Conv1d`` with Gaussian weights by Flipout."""


class Conv2dReparameterization(_Reparameterization, _Conv, nn.Conv2d):
    """``nn.Conv2d`` with Gaussian weights, one draw a batch."""


class Conv2dFlipout(_Flipout, _Conv, nn.Conv2d):
    """``nn.Conv2d`` with Gaussian weights by Flipout."""


class Conv3dReparameterization(_Reparameterization, _Conv, nn.Conv3d):
    """``nn.Conv3d`` with Gaussian weights, one draw a batch."""


class Conv3dFlipout(_Flipout, _Conv, nn.Conv3d):
    """``nn.Conv3d`` with Gaussian weights by Flipout."""


class Noise(nn.Module):
    """Appends columns of raw scales to the k means of a regression, for the loss gaussian_nll.

    From (..., k) to (..., 2k): each sample has the noise ``sd`` > 0, one number or one for each
    of the k. trainable: whether it is learnt.
    """

    raw_scale: Tensor

    def __init__(self, sd: float | Sequence[float], *, trainable: bool = False) -> None:
        super().__init__()
        scales = torch.as_tensor(sd, dtype=torch.float32)
        if not bool((scales > LEAST_SCALE).all() and scales.isfinite().all()):
            raise ConfigError(
                f"the noise must be above {LEAST_SCALE} and finite, got {sd}; "
                "give the standard deviation of the labels"
            )
        raw = softplus_inverse(scales - LEAST_SCALE)
        if trainable:
            self.raw_scale = nn.Parameter(raw)
        else:
            self.register_buffer("raw_scale", raw)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.raw_scale.expand_as(x)], dim=-1)
