"""The arithmetic of priors on torch: divergences of Gaussian weights, in nats."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from nnlo.bayes.priors import ScaleMixture

LOG_2_PI = math.log(2.0 * math.pi)


def softplus_inverse(sigma: Tensor) -> Tensor:
    """Return the rho whose softplus is ``sigma`` > 0."""
    return sigma + torch.log(-torch.expm1(-sigma))


def gaussian_kl(loc: Tensor, rho: Tensor, prior_loc: Tensor, prior_scale: Tensor) -> Tensor:
    """Return KL(N(loc, softplus(rho)^2) || N(prior_loc, prior_scale^2), one number a weight.

    log(s_p / s) + (s^2 + (m - m_p)^2) / (2 s_p^2) - 1/2.
    """
    scale = functional.softplus(rho)
    ratio = scale / prior_scale
    shift = (loc - prior_loc) / prior_scale
    return 0.5 * (ratio.square() + shift.square() - 1.0) - log_softplus(rho) + prior_scale.log()


def mixture_kl(loc: Tensor, rho: Tensor, noise: Tensor, prior: ScaleMixture) -> Tensor:
    """Return one sample's estimate of the divergence from a scale mixture, one number a weight.

    The entropy of the Gaussian is exact; noise: standard normal, in the shape of ``loc``.
    """
    weights = loc + functional.softplus(rho) * noise
    parts = [
        math.log(share) - math.log(scale) - 0.5 * (weights / scale).square()
        for share, scale in ((prior.pi, prior.scale1), (1.0 - prior.pi, prior.scale2))
    ]
    cross = torch.logaddexp(*parts) - 0.5 * LOG_2_PI
    return -(0.5 * (LOG_2_PI + 1.0) + log_softplus(rho)) - cross


def log_softplus(rho: Tensor) -> Tensor:
    """Return log(softplus(rho)), finite where softplus underflows: there it is ``rho``."""
    small = rho < -20.0
    return torch.where(small, rho, functional.softplus(rho.clamp(min=-20.0)).log())
