"""Training algorithms on flat vectors: one file each, found by name here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from nnlo.algo.allreduce import Allreduce
from nnlo.algo.base import Algorithm
from nnlo.algo.diloco import DiLoCo
from nnlo.algo.downpour import Downpour
from nnlo.algo.easgd import EASGD
from nnlo.algo.gem import GEM
from nnlo.algo.optimizers import OPTIMIZERS, Optimizer, make_optimizer
from nnlo.errors import ConfigError

MODES: Mapping[str, type[Downpour | EASGD | GEM | DiLoCo | Allreduce]] = MappingProxyType(
    {one.mode: one for one in (Downpour, EASGD, GEM, DiLoCo, Allreduce)}
)
"""Every algorithm by the name that ``--mode`` takes."""


def Algo(
    optimizer: str | Mapping[str, Any] | Optimizer | None = None,
    *,
    mode: str = "downpour",
    **options: Any,
) -> Algorithm:
    """The algorithm called ``mode``, with its own defaults for what is not given.

    optimizer: the master's, where the algorithm has one, as ``make_optimizer`` takes it.
    options: fields of the algorithm, such as ``sync_every`` (batches between two exchanges)
    and ``worker_optimizer`` (of local steps: a Keras or torch name, a mapping of "name" and
    its numbers, or "none"), numbers of the master's optimizer, and the older package's names
    (gem_lr, gem_momentum, gem_kappa, elastic_lr, elastic_momentum). None is not given.

    Raises ConfigError for an unknown mode, an option that the mode does not use, a bad value.
    """
    if mode not in MODES:
        raise ConfigError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    return MODES[mode].from_options({"optimizer": optimizer, **options})


__all__ = [
    "EASGD",
    "GEM",
    "MODES",
    "OPTIMIZERS",
    "Algo",
    "Algorithm",
    "Allreduce",
    "DiLoCo",
    "Downpour",
    "make_optimizer",
]
