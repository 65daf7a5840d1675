"""What all algorithms share: their names in options, checks of their numbers, slots."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np

from nnlo.algo.base import Merge, State, Update, Vector
from nnlo.errors import CheckpointError, ConfigError

_POSITIVE = ("learning_rate", "epsilon", "kappa", "elastic_force")
_LOCAL = {"worker_optimizer", "worker_learning_rate", "elastic_momentum"}
_SHARES = ("momentum", "rho", "beta_1", "beta_2")  # kept of the past; all other numbers: >= 0


class Recipe:
    """Base of the dataclasses of numbers. The class attributes are those of most algorithms.

    mode: the name in options. aliases: further names of options. also: what ``make`` takes
    besides the fields.
    """

    mode: ClassVar[str]
    aliases: ClassVar[Mapping[str, str]] = {}
    also: ClassVar[tuple[str, ...]] = ()
    pulls: ClassVar[bool] = False
    merge: ClassVar[Merge] = "mean"
    has_master: ClassVar[bool] = True

    @property
    def needs_base(self) -> bool:
        return False

    @property
    def elementwise(self) -> bool:
        return True

    @classmethod
    def make(cls, **options: Any) -> Self:
        """The algorithm with these options, and defaults that go together for the others."""
        return cls(**options)

    @classmethod
    def from_options(cls, given: Mapping[str, Any]) -> Self:
        """``make`` of the options that are not None, aliases resolved.

        Raises ConfigError for one that the algorithm does not use or that comes under two names.
        """
        options: dict[str, Any] = {}
        entries = fields(cls)  # type: ignore[arg-type]
        known = [*(entry.name for entry in entries if entry.compare), *cls.also]
        for name, value in given.items():
            if value is None:
                continue
            field = cls.aliases.get(name, name)
            if field not in known:
                raise ConfigError(
                    f"{cls.mode} must be given options that it uses, got {name}={value!r}; "
                    f"it uses {', '.join(sorted({*known, *cls.aliases}))}"
                )
            if field in options:
                raise ConfigError(
                    f"{field} must be given once, got {value!r} by {name} too; leave one out"
                )
            options[field] = value
        if not _LOCAL & set(options) and any(entry.name == "keeps_own" for entry in entries):
            options["keeps_own"] = True
        return cls.make(**options)


def split_numbers(algorithm: type[Recipe], options: dict[str, Any]) -> dict[str, Any]:
    """Take those of ``options`` that are no fields of ``algorithm`` out of it; return them."""
    names = {entry.name for entry in fields(algorithm)}  # type: ignore[arg-type]
    return {name: options.pop(name) for name in list(options) if name not in names}


def check_number(name: str, value: Any, is_switch: bool = False) -> None:
    """Raise ConfigError unless ``value`` is what a number called ``name`` must be."""
    if is_switch:
        wanted, holds = "true or false", isinstance(value, bool)
    elif isinstance(value, bool) or not isinstance(value, Real):
        wanted, holds = "a number", False
    elif name in _SHARES:
        wanted, holds = "in [0, 1)", 0.0 <= float(value) < 1.0
    elif name in _POSITIVE:
        wanted, holds = "above 0", 0.0 < float(value) < math.inf
    else:
        wanted, holds = "at least 0", 0.0 <= float(value) < math.inf
    if not holds:
        raise ConfigError(f"{name} must be {wanted}, got {value!r}")


def check_sync_every(value: Any) -> None:
    """Raise ConfigError unless ``value`` counts batches."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"sync_every must be at least 1 batch, got {value}; 1 exchanges each")


def check_local_optimizer(mode: str, optimizer: Any) -> None:
    """Raise ConfigError where an algorithm of local steps gets no optimizer for them."""
    if optimizer is None or optimizer == "none":
        raise ConfigError(
            f"worker_optimizer must name an optimizer with {mode}, whose workers take local "
            f"steps, got {optimizer!r}; leave it out for the default, or use downpour"
        )


def is_above_0(value: Any) -> bool:
    """Whether ``value`` is a number above 0; a text, as options may bring, is none."""
    return isinstance(value, Real) and not isinstance(value, bool) and float(value) > 0.0


def check_worker_rate(rate: float | None, optimizer: Any) -> None:
    """Raise ConfigError for a rate that is not above 0 or has no optimizer to belong to."""
    if rate is not None and optimizer is None:
        raise ConfigError(
            f"worker_learning_rate must come with a worker_optimizer, got "
            f"{rate} without one; name one or leave the rate out"
        )
    if rate is not None and not is_above_0(rate):
        raise ConfigError(
            f"worker_learning_rate must be above 0, got {rate}; leave it out for the default"
        )


def load_slots(what: str, slots: Mapping[str, np.ndarray], state: State) -> None:
    """Copy arrays of ``state`` into those of ``slots``; CheckpointError unless names and shapes
    are equal."""
    expected = {name: slot.shape for name, slot in slots.items()}
    shapes = {name: np.shape(array) for name, array in state.items()}
    if shapes != expected:
        raise CheckpointError(
            f"the state of {what} must have arrays of shapes {expected}, got {shapes}; "
            f"restore with the algorithm and the model of the checkpoint"
        )
    for name, slot in slots.items():
        slot[...] = state[name]


def samples(updates: Sequence[Update]) -> list[int]:
    return [update.n_samples for update in updates]


def vectors(updates: Sequence[Update]) -> list[Vector]:
    return [update.vector for update in updates]
