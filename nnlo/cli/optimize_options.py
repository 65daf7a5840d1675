"""What ``OptimizationDriver`` can be told: a search, and the training of its trials."""

from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType

from nnlo.bayes.methods import METHODS
from nnlo.cli.options import option
from nnlo.cli.train_options import ALGO, OUT, TRAIN, TrainOptions
from nnlo.errors import ConfigError
from nnlo.optimize.merit import POLICIES
from nnlo.optimize.pruning import PRUNERS
from nnlo.optimize.searcher import SEARCHERS

SEARCH, TRIALS, END = (
    "search (docs/search.md)",
    "trials",
    "limits and results of the search",
)

EXAMPLES = MappingProxyType(
    {"mnist": "mnist", "cifar10": "cifar10", "topclass": "topclass", "gan": "gan3d"}
)
"""Zoo models by the names of --example."""

FOLDS_BY = ("samples", "files")


@dataclass(frozen=True)
class OptimizeOptions(TrainOptions):
    """What ``OptimizationDriver`` can be told; all else is of each trial's training."""

    trial_name: str = option(
        OUT, "search", "the folder of the search is OUTPUT/MODEL-NAME", metavar="NAME"
    )
    example: str | None = option(
        SEARCH,
        None,
        "a model of the zoo with its ranges, in place of --model",
        choices=[*EXAMPLES],
    )
    tune: tuple[str, ...] = option(
        SEARCH,
        (),
        "ranges of training options and of arguments of get_model: learning_rate=1e-4:1e-1:log, "
        "batch=32,64,128, sync_every=1:16 (default: get_model.parameter_range)",
        list,
        metavar="NAME=RANGE",
    )
    hyper_opt: str = option(
        SEARCH, "bayesian", "how parameters are proposed", choices=[*SEARCHERS]
    )
    num_iterations: int = option(
        SEARCH, 10, "trials; with --hyper-opt genetic generations of --ga-populations", int
    )
    ga_populations: int | None = option(
        SEARCH, None, "genetic: trials of a generation (default: 10)", int
    )
    merit: str | None = option(
        SEARCH,
        None,
        "what is minimised: METRIC, METRIC:max or 1-METRIC, several between commas for a Pareto "
        "front; also time_s of an epoch and n_weights (default: the model's figure_of_merit, "
        "else 1-val_accuracy for classes, val_loss, loss)",
        metavar="METRIC[,...]",
    )
    merit_epoch: str = option(SEARCH, "best", "which epoch's merit counts", choices=[*POLICIES])
    pruning: str = option(
        SEARCH,
        "none",
        "trials that end early. asha: paused at rungs, the best third goes on; asha-stop: without "
        "pauses; median: stopped where worse than the median",
        choices=[*PRUNERS],
    )
    ask_ahead: int | None = option(
        SEARCH,
        None,
        "proposals made before blocks are free, for trials of seconds (default: 1 from 8 blocks "
        "on, else 0)",
        int,
    )

    block_size: int = option(TRIALS, 1, "ranks that train a trial; rank 0 leads the search", int)
    n_fold: int = option(TRIALS, 1, "folds of cross-validation of each trial", int)
    fold_by: str = option(
        TRIALS,
        "samples",
        "what is dealt out to folds: samples (of each class alike) or files",
        choices=[*FOLDS_BY],
    )
    trial_time: float | None = option(
        TRIALS, None, "seconds after which a trial has failed (default: no limit)", float
    )
    trial_memory: float | None = option(
        TRIALS, None, "GiB of a rank's memory above which its trial has failed", float
    )

    target_objective: float | None = option(
        END, None, "end the search once a trial's merit is as small", float
    )
    search_time: float | None = option(
        END, None, "seconds after which nothing new is begun and trials are suspended", float
    )
    max_failures: int | None = option(
        END, None, "failed trials that end the search (3 errors or 10 failures in a row do)", int
    )
    opt_restore: bool = option(END, False, "go on with the search in the folder", bool)
    keep_models: int = option(END, 5, "best trials whose models stay on the disk", int)
    refit: bool = option(
        END, False, "train the best parameters once more, on training and validation data", bool
    )
    plots: bool = option(END, False, "draw the search (needs matplotlib: nnlo[plots])", bool)

    def __post_init__(self) -> None:
        if self.example is not None:
            if self.model:
                raise ConfigError(
                    f"a model must be named once, got --model {self.model} and --example "
                    f"{self.example}; drop one"
                )
            object.__setattr__(self, "model", EXAMPLES[self.example])
            object.__setattr__(self, "example", None)  # said: config.json names it once
        object.__setattr__(self, "tune", tuple(_spelled(text) for text in self.tune))
        super().__post_init__()
        for name in ("num_iterations", "ga_populations", "block_size", "n_fold", "max_failures"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in ("trial_time", "trial_memory", "search_time"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name.replace('_', '-')} must be above 0, got {value}")
        if (self.ask_ahead or 0) < 0 or self.keep_models < 1:
            raise ConfigError(
                "--ask-ahead must not be negative and --keep-models be at least 1, got "
                f"{self.ask_ahead} and {self.keep_models}; leave them out for the defaults"
            )
        self._refuse_what_does_not_fit()

    def _refuse_what_does_not_fit(self) -> None:
        callbacks = {text.partition(":")[0] for text in self.callbacks}
        counting = callbacks & {"early_stopping", "reduce_lr_on_plateau"}
        writing = callbacks & {"model_checkpoint", "csv_logger"}
        unused = {
            "--callbacks " + ", ".join(sorted(writing)): bool(writing)
            and "all trials would write the same file; see each trial's folder",
            "--callbacks " + ", ".join(sorted(counting)): self.pruning == "asha"
            and bool(counting)
            and "it would count anew after each pause; take --early-stopping or another --pruning",
            f"--mode {self.mode}": self.mode in METHODS
            and "a search measures one network a trial; find its parameters first",
            "--restore": self.restore is not None and "go on with a search by --opt-restore",
            "--checkpoint": self.checkpoint is not None
            and len(Path(self.checkpoint).parts) != 1
            and "each trial has its own folder for them: give a name without a slash",
            "--timeline": self.timeline and "look at the trial with TrainingDriver",
            "--posterior-every": self.posterior_every and "look at the trial with TrainingDriver",
            "--spares": self.spares > 0 and "a search gives the trial to another block",
            "--ga-populations": self.ga_populations is not None
            and self.hyper_opt != "genetic"
            and "it goes with --hyper-opt genetic",
            "--fold-by": self.fold_by != "samples"
            and self.n_fold == 1
            and "it goes with --n-fold",
            "--merit-epoch": self.merit_epoch != "best"
            and self.merit is None
            and "it goes with --merit",
            "--validate-every": self.validate_every > 1
            and self.pruning != "none"
            and "--pruning needs a validation of each epoch",
        }
        for name, reason in unused.items():
            if reason:
                raise ConfigError(f"{name} must not be given here, got it; {reason}")

    @property
    def n_trials(self) -> int:
        """How many trials are proposed."""
        return self.num_iterations * (self.population or 1)

    @property
    def population(self) -> int | None:
        """Trials of a generation, None where there are no generations."""
        return (self.ga_populations or 10) if self.hyper_opt == "genetic" else None


def _spelled(text: str) -> str:
    """``sync-every=1:16`` as ``sync_every=1:16``."""
    name, equals, rest = text.partition("=")
    return name.replace("-", "_") + equals + rest


def tunable() -> list[str]:
    """Training options that ``--tune`` takes: of the training and its algorithm."""
    skipped = ("epochs", "seed", "metrics", "loss", "mode_params", "root_params")
    chosen = [
        entry.name
        for entry in fields(TrainOptions)
        if entry.metadata["group"] in (TRAIN, ALGO) and entry.name not in skipped
    ]
    return ["batch", *(name for name in chosen if not name.endswith("_params"))]
