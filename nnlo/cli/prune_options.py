"""What ``PruneDriver`` can be told."""

import math
from dataclasses import dataclass

from nnlo.cli.options import option
from nnlo.cli.past_run import WEIGHTS
from nnlo.errors import ConfigError

RUN, OUT = "the run and the data", "output"
FRACTIONS = ("0", "0.5", "0.75", "0.9", "0.95")


@dataclass(frozen=True)
class PruneOptions:
    """What ``PruneDriver`` can be told."""

    run: str = option(
        RUN,
        "",
        "folder of a run of TrainingDriver with a variational model",
        metavar="RUN",
        is_place=True,
    )
    fractions: tuple[str, ...] = option(
        RUN,
        (),
        f"shares of the Gaussian weights to prune, each measured (default: {' '.join(FRACTIONS)})",
        list,
        metavar="X",
    )
    per_layer: bool = option(
        RUN, False, "prune that share of each layer (default: of all layers together)", bool
    )
    data: str | None = option(
        RUN,
        None,
        "list of HDF5 files with labels to measure on (default: the run's validation)",
        metavar="LIST",
    )
    samples: int | None = option(RUN, None, "draws of the posterior (default: 30)", int)
    weights: str | None = option(
        RUN, None, "of the run (default: the best, where it had validation)", choices=[*WEIGHTS]
    )
    noise: float | None = option(
        RUN,
        None,
        "standard deviation of the labels, for values learned by mse, mae or huber (default: "
        "not known)",
        float,
    )
    batch: int | None = option(RUN, None, "samples of a batch (default: the run's)", int)
    seed: int = option(RUN, 0, "seed of the draws", int)
    keep: float | None = option(
        OUT,
        None,
        "write the model with this share pruned, to use and to train on",
        float,
        metavar="X",
    )
    output: str | None = option(
        OUT, None, "folder of the results (default: RUN/pruning)", metavar="DIR"
    )
    plots: bool = option(OUT, False, "write figures", bool)

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be."""
        if not self.run:
            raise ConfigError("a run must be named, got none; give its folder: runs/my-train")
        for name, value in (("--samples", self.samples), ("--batch", self.batch)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}; leave it out")
        if self.seed < 0:
            raise ConfigError(f"--seed must not be negative, got {self.seed}; try 0")
        for text in self.fractions:
            _share("--fractions", text)
        if self.keep is not None:
            _share("--keep", self.keep)

    @property
    def shares(self) -> list[float]:
        """The fractions as numbers, in ascending order, each once."""
        return sorted({float(text) for text in self.fractions or FRACTIONS})


def _share(name: str, value: str | float) -> None:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0.0 <= number <= 1.0:
        raise ConfigError(f"{name} must be from 0 to 1, got {value}; try 0.75")
