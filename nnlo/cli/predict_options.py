"""What ``PredictDriver`` can be told."""

from dataclasses import dataclass

from nnlo.cli.options import option
from nnlo.cli.past_run import WEIGHTS
from nnlo.errors import ConfigError

RUN, OUT = "the run and the data", "output"


@dataclass(frozen=True)
class PredictOptions:
    """What ``PredictDriver`` can be told."""

    run: str = option(RUN, "", "folder of a run of TrainingDriver", metavar="RUN", is_place=True)
    data: str | None = option(
        RUN,
        None,
        "list of HDF5 files to predict, with labels or without (default: the run's validation)",
        metavar="LIST",
    )
    ood: str | None = option(
        RUN,
        None,
        "list of HDF5 files from elsewhere, which uncertainty should tell from the data",
        metavar="LIST",
    )
    samples: int | None = option(
        RUN, None, "draws of the posterior (default: 30; ensembles and svgd: all particles)", int
    )
    weights: str | None = option(
        RUN,
        None,
        "of a run without particles (default: the best, where it had validation)",
        choices=[*WEIGHTS],
    )
    noise: float | None = option(
        RUN,
        None,
        "standard deviation of the labels, for values learned by mse, mae or huber (default: "
        "not known)",
        float,
    )
    batch: int | None = option(RUN, None, "samples of a batch (default: the run's)", int)
    seed: int = option(RUN, 0, "seed of the draws from variational layers", int)
    output: str | None = option(
        OUT, None, "folder of the results (default: RUN/predictions)", metavar="DIR"
    )
    keep_draws: bool = option(OUT, False, "write what each draw says of each point as well", bool)
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
