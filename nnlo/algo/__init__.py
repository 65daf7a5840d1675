"""Training algorithms on flat vectors: one file each, found by name here."""

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from nnlo.algo.downpour import Downpour
from nnlo.algo.optimizers import OPTIMIZERS, SGD, Adam, Optimizer, make_optimizer
from nnlo.errors import ConfigError

MODES: Mapping[str, type[Downpour]] = MappingProxyType({"downpour": Downpour})
"""Every algorithm by the name that ``--mode`` takes."""


def Algo(
    optimizer: str | Mapping[str, Any] | Optimizer | None = None,
    *,
    mode: str = "downpour",
    sync_every: int = 1,
    worker_optimizer: str | None = None,
    staleness: str | None = None,
    **numbers: Any,
) -> Downpour:
    """The algorithm called ``mode``, with defaults that go together.

    sync_every: batches between two exchanges. worker_optimizer: a Keras or torch name, or
    "none"; by default none where every batch is exchanged, so that gradients travel, else adam,
    so that workers move between exchanges. optimizer: the master's, as ``make_optimizer`` takes
    it; by default adam on gradients, and sgd of rate 1 on the way that local steps went.
    staleness: by default none on gradients and inverse on local steps. numbers: more fields of
    the algorithm; ``learning_rate`` and the like are the optimizer's. Raises ConfigError for an
    unknown mode or a number that nobody has.
    """
    if mode not in MODES:
        raise ConfigError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if worker_optimizer is None and sync_every > 1:
        worker_optimizer = "adam"
    if worker_optimizer == "none":
        worker_optimizer = None
    if optimizer is None and worker_optimizer is not None and "learning_rate" in numbers:
        raise ConfigError(
            "learning_rate must be meant for the master's optimizer, got "
            f"{numbers['learning_rate']} with local steps by {worker_optimizer}; "
            "name the master's optimizer too, or give worker_learning_rate"
        )
    if optimizer is None:
        optimizer = Adam() if worker_optimizer is None else SGD(learning_rate=1.0)
    known = {entry.name for entry in fields(MODES[mode])}
    own = {name: numbers.pop(name) for name in list(numbers) if name in known}
    return MODES[mode](
        optimizer=make_optimizer(optimizer, **numbers),
        sync_every=sync_every,
        worker_optimizer=worker_optimizer,
        staleness=staleness or ("none" if worker_optimizer is None else "inverse"),
        **own,
    )


__all__ = ["MODES", "OPTIMIZERS", "Algo", "Downpour", "make_optimizer"]
