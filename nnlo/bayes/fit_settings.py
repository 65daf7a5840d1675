"""What a training of particles is told besides its particles, method and data."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from nnlo.data import Data
from nnlo.errors import ConfigError
from nnlo.history import Record


class EpochListener(Protocol):
    """Told on rank 0 of each epoch."""

    def epoch_ended(self, epoch: int, record: Record) -> None: ...


@dataclass(frozen=True)
class FitSettings:
    """epochs: passes over the training data. bootstrap: each particle trains on as many samples
    as there are, drawn with replacement. validation: data on which each particle is measured,
    every ``validate_every`` epochs. checkpoint: path without "-<epoch>.npz", None for none,
    every ``checkpoint_interval`` epochs. restore: such a path or file to go on from."""

    epochs: int = 1
    bootstrap: bool = False
    validation: Data | None = None
    validate_every: int = 1
    checkpoint: Path | None = None
    checkpoint_interval: int = 5
    restore: Path | None = None
    listeners: Sequence[EpochListener] = ()

    def __post_init__(self) -> None:
        for name in ("epochs", "validate_every", "checkpoint_interval"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a whole number, at least 1, got {value!r}")
        for name in ("checkpoint", "restore"):
            if getattr(self, name) is not None:  # users write paths as texts
                object.__setattr__(self, name, Path(getattr(self, name)))

    @classmethod
    def make(cls, **settings: Any) -> "FitSettings":
        """Raises ConfigError for a setting that does not exist."""
        known = [entry.name for entry in fields(cls)]
        if unknown := sorted(set(settings) - set(known)):
            raise ConfigError(
                f"settings must be among {', '.join(known)}, got {', '.join(unknown)}"
            )
        return cls(**settings)
