"""What ``TrainingDriver`` can be told."""

from dataclasses import dataclass, fields

from nnlo.algo import MODES, OPTIMIZERS
from nnlo.algo.staleness import POLICIES
from nnlo.bayes.methods import METHODS
from nnlo.cli.options import option
from nnlo.errors import ConfigError
from nnlo.log import LEVELS
from nnlo.mpi.settings import WORKER_ERROR

MODEL, TRAIN, ALGO, PARTICLES, STOP, OUT, FAULTS = (
    "model and data",
    "training",
    "algorithm",
    "particles: modes ensemble, multiswag, svgd, mcdropout (docs/bayes.md)",
    "validation and stopping",
    "output and checkpoints",
    "faults (docs/faults.md)",
)


@dataclass(frozen=True)
class TrainOptions:
    """What ``TrainingDriver`` can be told."""

    model: str = option(MODEL, "", "zoo name, or a .py, .json or .keras file", metavar="MODEL")
    param: tuple[str, ...] = option(
        MODEL, (), "hyper-parameters: arguments of get_model", list, metavar="NAME=VALUE"
    )
    train_data: str | None = option(
        MODEL, None, "list of HDF5 files to train on (default: the model's own)", metavar="LIST"
    )
    val_data: str | None = option(
        MODEL, None, "list of HDF5 files to validate on (default: the model's own)", metavar="LIST"
    )
    features_name: str | None = option(
        MODEL, None, "HDF5 dataset or group of the inputs (default: the model's, or features)"
    )
    labels_name: str | None = option(
        MODEL, None, "HDF5 dataset or group of the labels (default: the model's, or labels)"
    )
    batch: int = option(MODEL, 100, "samples of the batch of each rank that trains", int)
    preload_data: int = option(MODEL, 2, "windows of 32 MiB read ahead by a thread", int)
    cache_data: str | None = option(
        MODEL, None, "folder for local copies of the data files", metavar="DIR"
    )
    copy_command: str | None = option(
        MODEL, None, 'command that makes the copies (default: "cp {} {}")', metavar="COMMAND"
    )

    epochs: int = option(TRAIN, 10, "passes over the training data", int)
    loss: str | None = option(
        TRAIN, None, "loss function, such as categorical_crossentropy (default: the model's)"
    )
    metrics: tuple[str, ...] = option(
        TRAIN,
        (),
        "measured beside the loss (default: accuracy for classes)",
        list,
        metavar="METRIC",
    )
    synchronous: bool = option(
        TRAIN,
        False,
        "wait for all workers and apply their mean (default: apply each update as it comes)",
        bool,
    )
    quorum: float = option(
        TRAIN, 1.0, "share of the workers that closes a synchronous round", float
    )
    max_staleness: int | None = option(
        TRAIN,
        None,
        "updates by which an asynchronous worker may be ahead of the slowest (default: no limit)",
        int,
    )
    n_masters: int = option(
        TRAIN, 1, "root and sub-masters; 3: two sub-masters between it and the workers", int
    )
    n_shards: int = option(
        TRAIN, 1, "masters that own a slice of the weights each; for large models", int
    )
    n_processes: int = option(
        TRAIN, 1, "ranks that make up one worker, by reducing their gradients", int
    )
    seed: int = option(
        TRAIN, 0, "seed of initial weights, order of samples and random layers", int
    )
    kl_schedule: str | None = option(
        TRAIN,
        None,
        "variational layers: what their KL divergence counts, times 1/samples: constant, "
        "linear:epochs=5, cyclical:epochs=10,ramp=0.5; each with beta=1 (default: constant)",
        metavar="KIND[:KEY=VALUE,...]",
    )

    mode: str = option(
        ALGO,
        "downpour",
        "how workers cooperate; each has defaults of its own (docs/algorithms.md). Or what "
        "particles are to be: " + ", ".join(METHODS),
        choices=[*MODES, *METHODS],
    )
    optimizer: str | None = option(
        ALGO,
        None,
        "downpour, allreduce: the one that moves the weights (default: adam; for local steps of "
        "downpour sgd of learning rate 1)",
        choices=[*OPTIMIZERS],
    )
    learning_rate: float | None = option(
        ALGO,
        None,
        "of --optimizer (default: its own), of gem's steps (0.05), of diloco's outer step (0.7)",
        float,
    )
    optimizer_params: tuple[str, ...] = option(
        ALGO,
        (),
        "more numbers of --optimizer, e.g. momentum=0.9",
        list,
        metavar="NAME=VALUE",
    )
    sync_every: int | None = option(
        ALGO, None, "batches between two exchanges (default: 1; easgd and diloco: 10)", int
    )
    worker_optimizer: str | None = option(
        ALGO,
        None,
        "Keras or torch optimizer of local steps, or none to send gradients (default: downpour "
        "none, above --sync-every 1 adam; easgd sgd; gem none; diloco adamw)",
    )
    worker_learning_rate: float | None = option(
        ALGO,
        None,
        "of the worker optimizer (default: its own; easgd's sgd 0.1; diloco's adamw 0.01)",
        float,
    )
    staleness: str | None = option(
        ALGO,
        None,
        "downpour: what becomes of old updates. none: they count in full; inverse: divided by "
        "1 + staleness; dc, dc-constant: gradients corrected for the way that the weights have "
        "gone; gap: divided by its length (default: none; inverse for local steps)",
        choices=[*POLICIES],
    )
    clip_norm: float | None = option(
        ALGO,
        None,
        "downpour, allreduce: largest Euclidean norm of a gradient (default: no limit)",
        float,
    )
    clip_value: float | None = option(
        ALGO, None, "downpour, allreduce: largest element of a gradient (default: no limit)", float
    )

    particles: int = option(
        PARTICLES, 8, "networks that stand for the posterior, in even parts on the ranks", int
    )
    ranks_per_particle: int = option(
        PARTICLES, 1, "ranks that share each batch of the particles they train", int
    )
    bootstrap: bool = option(
        PARTICLES,
        False,
        "each particle trains on as many samples as there are, drawn with replacement",
        bool,
    )

    elastic_force: float | None = option(
        ALGO, None, "easgd: pull of all workers together on the master (default: 0.9)", float
    )
    elastic_lr: float | None = option(
        ALGO, None, "easgd: --worker-learning-rate by another name", float
    )
    elastic_momentum: float | None = option(
        ALGO,
        None,
        "easgd: Nesterov momentum of the workers' sgd (default: 0.9; 0 is plain EASGD)",
        float,
    )
    gem_lr: float | None = option(
        ALGO, None, "gem: --learning-rate by another name (default: 0.05)", float
    )
    gem_momentum: float | None = option(ALGO, None, "gem: momentum (default: 0.9)", float)
    gem_kappa: float | None = option(
        ALGO, None, "gem: steps of momentum that workers may take together (default: 2)", float
    )
    mode_params: tuple[str, ...] = option(
        ALGO,
        (),
        "more numbers of the mode, e.g. momentum=0.9 of diloco, scaling=linear of allreduce",
        list,
        metavar="NAME=VALUE",
    )
    root_mode: str | None = option(
        ALGO,
        None,
        "mode between the root and its sub-masters, which then train weights of their own "
        "(default: sub-masters merge and pass on)",
        choices=[name for name, kind in MODES.items() if kind.has_master],
    )
    root_params: tuple[str, ...] = option(
        ALGO,
        (),
        "numbers of the root mode, e.g. sync_every=20: updates of a sub-master between exchanges",
        list,
        metavar="NAME=VALUE",
    )

    validate_every: int = option(STOP, 1, "epochs between validations", int)
    early_stopping: str | None = option(
        STOP,
        None,
        'e.g. "val_loss,<,4": nothing better for 4 epochs; "val_loss,~<,4": mean of 4 epochs '
        "worse than of the 4 before (default: never)",
        metavar="METRIC,[~]OP,EPOCHS",
    )
    target_metric: str | None = option(
        STOP,
        None,
        'e.g. "val_accuracy,>,0.97": stop there (default: none)',
        metavar="METRIC,OP,VALUE",
    )
    recalibrate: int = option(
        STOP,
        0,
        "training batches from which BatchNorm statistics of validated and final weights are "
        "taken anew (default: 0, those that training has left)",
        int,
    )
    best_metric: str = option(
        STOP,
        "val_loss",
        "metric whose best weights are kept; left out, val_nll of a variational model "
        "(default: val_loss)",
    )

    callbacks: tuple[str, ...] = option(
        STOP,
        (),
        "e.g. early_stopping:patience=5 warmup:batches=500: Keras' callbacks, and warmup, cosine, "
        "step (docs/callbacks.md)",
        list,
        metavar="NAME[:KEY=VALUE,...]",
    )

    output: str = option(OUT, "runs", "folder of all runs", metavar="DIR")
    trial_name: str = option(OUT, "train", "the run's folder is OUTPUT/MODEL-NAME", metavar="NAME")
    checkpoint: str | None = option(
        OUT, None, "base name of the checkpoints (default: none are written)", metavar="NAME"
    )
    checkpoint_interval: int = option(OUT, 5, "epochs between checkpoints", int)
    restore: str | None = option(
        OUT,
        None,
        "go on from this checkpoint, a base name or a file (default: start anew)",
        metavar="NAME",
    )
    posterior_every: int | None = option(
        OUT,
        None,
        "variational layers: updates between records of means and scales in posterior_trace.json "
        "(default: one record an epoch)",
        int,
    )
    tensorboard: bool = option(OUT, False, "write TensorBoard event files", bool)
    timeline: bool = option(OUT, False, "write a Chrome trace of what each rank did when", bool)
    verbose: bool = option(OUT, False, "show every update and all log lines", bool)
    log_level: str = option(OUT, "info", "lowest level that is logged", choices=[*LEVELS])

    on_worker_error: str = option(
        FAULTS,
        "abort",
        "when a worker's code raises: end the run, or go on without it",
        choices=[*WORKER_ERROR],
    )
    suspect_after: float = option(
        FAULTS,
        60.0,
        "seconds of silence (or 10 times a worker's rhythm) after which rounds close without it; "
        "10 times as long ends it; 0: never",
        float,
    )
    spares: int = option(
        FAULTS, 0, "ranks that wait to take a lost one's place (nnlorun --fault-tolerant)", int
    )
    max_refused: int = option(
        FAULTS, 10, "updates in a row that are not finite after which the run ends", int
    )

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("a model must be named, got none; give --model, for example digits")
        for name in (
            "batch",
            "epochs",
            "particles",
            "ranks_per_particle",
            "sync_every",
            "n_masters",
            "n_processes",
            "n_shards",
            "validate_every",
            "checkpoint_interval",
            "posterior_every",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        self._refuse_unused()

    def _refuse_unused(self) -> None:
        """An option that would have no effect is an error."""
        if self.mode in METHODS:
            self._refuse_what_particles_lack()
        elif alone := [name for name in OF_PARTICLES if self._is_given(name)]:
            raise ConfigError(
                f"--{alone[0].replace('_', '-')} must go with --mode {' or '.join(METHODS)}, got "
                f"{self.mode}; it has no effect there"
            )
        unused = {
            "--quorum": self.quorum != 1.0 and not self.synchronous and "--synchronous",
            "--checkpoint-interval": self.checkpoint_interval != 5
            and self.checkpoint is None
            and "--checkpoint",
            "--root-mode": self.root_mode is not None and self.n_masters == 1 and "--n-masters",
            "--root-params": self.root_params != () and self.root_mode is None and "--root-mode",
            "--copy-command": self.copy_command is not None
            and self.cache_data is None
            and "--cache-data",
        }
        for name, needed in unused.items():
            if needed:
                raise ConfigError(f"{name} must go with {needed}, got it alone; it has no effect")
        stale = self.staleness not in (None, "none")
        if stale and self.synchronous and self.quorum == 1.0:
            raise ConfigError(
                f"--staleness must go with asynchronous updates, got {self.staleness} with "
                "--synchronous, where no update is stale; leave one of them out"
            )

    def _refuse_what_particles_lack(self) -> None:
        unused = [
            entry.name
            for entry in fields(self)
            if entry.name in _NAMES - FOR_PARTICLES and self._is_given(entry.name)
        ]
        if unused:
            raise ConfigError(
                f"--{unused[0].replace('_', '-')} must go with a mode of masters and workers or "
                f"allreduce, got {self.mode}; leave it out, particles have none of it"
            )

    def _is_given(self, name: str) -> bool:
        default = next(entry.default for entry in fields(TrainOptions) if entry.name == name)
        return bool(getattr(self, name) != default)


OF_PARTICLES = ("particles", "ranks_per_particle", "bootstrap")
"""Options that only particles have."""

_NAMES = frozenset(entry.name for entry in fields(TrainOptions))

FOR_PARTICLES = frozenset(
    [
        *OF_PARTICLES,
        *(entry.name for entry in fields(TrainOptions) if entry.metadata["group"] == MODEL),
        *("epochs", "loss", "metrics", "seed", "mode", "optimizer", "learning_rate"),
        *("mode_params", "validate_every", "output", "trial_name", "checkpoint"),
        *("checkpoint_interval", "restore", "verbose", "log_level"),
    ]
)
"""Options that particles have too."""
