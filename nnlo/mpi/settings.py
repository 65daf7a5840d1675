"""What a training run is told besides its model, data and algorithm."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nnlo.algo.base import Algorithm
from nnlo.errors import ConfigError
from nnlo.model.kl_schedule import KlSchedule
from nnlo.mpi import ulfm
from nnlo.mpi.protocol import MasterProtocol
from nnlo.mpi.topology import Topology

WORKER_ERROR = ("abort", "continue")
"""What may become of a run when the code of a worker raises."""


@dataclass(frozen=True)
class RunSettings:
    """The numbers and names of a run.

    num_epochs: passes over the training data, >= 1.
    synchronous: rounds of updates instead of single ones; quorum: the share of the workers in
        (0, 1] that closes a round. max_staleness: updates by which a worker may be ahead of the
        slowest one, None for any number.
    num_masters: the root and its sub-masters. num_processes: ranks that make up one worker.
    num_shards: masters that share the weights.
    seed: >= 0; of initial weights, order of samples and random layers.
    metrics: names beside the loss; None for what fits the loss.
    validate_every, checkpoint_interval: epochs.
    monitor: the validation metric whose best weights are kept; for "val_loss" a variational
        model takes "val_nll".
    recalibrate: training batches from which the state S (BatchNorm statistics) of validated and
        final weights is taken anew; 0 keeps the one that training has left.
    early_stopping: "metric,[~]<|>,patience". target_metric: "metric,<|>,value".
    checkpoint: path of the checkpoints without "-<epoch>.npz", or None for none.
    restore: a checkpoint file, or such a path, of which the newest whole file is taken.
    timeline: note what each rank does when.
    spares: ranks that wait to take the place of a lost one; needs an MPI that survives losses.
    suspect_after: seconds of silence, or ten times a worker's own rhythm where that is longer,
        after which rounds close without it; ten times as much ends it. 0 waits for ever.
    on_worker_error: "abort" ends the run when a worker's code raises, "continue" goes on
        without that worker.
    max_refused: non-finite updates in a row after which the run ends.
    kl_schedule: of a variational model, see ``KlSchedule.parse``; None: constant.
    """

    num_epochs: int = 1
    synchronous: bool = False
    quorum: float = 1.0
    max_staleness: int | None = None
    num_masters: int = 1
    num_processes: int = 1
    num_shards: int = 1
    seed: int = 0
    metrics: tuple[str, ...] | None = None
    validate_every: int = 1
    monitor: str = "val_loss"
    recalibrate: int = 0
    early_stopping: str | None = None
    target_metric: str | None = None
    checkpoint: Path | None = None
    checkpoint_interval: int = 5
    restore: Path | None = None
    timeline: bool = False
    spares: int = 0
    suspect_after: float = 60.0
    on_worker_error: str = "abort"
    max_refused: int = 10
    kl_schedule: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_epochs", "validate_every", "checkpoint_interval"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"{name} must be a whole number of epochs, at least 1, got {value!r}"
                )
        if self.on_worker_error not in WORKER_ERROR:
            raise ConfigError(
                f"on_worker_error must be one of {', '.join(WORKER_ERROR)}, "
                f"got {self.on_worker_error!r}"
            )
        if not self.suspect_after >= 0.0:
            raise ConfigError(
                f"suspect_after must be seconds, not negative, got {self.suspect_after}; "
                "0 waits for ever"
            )
        if self.kl_schedule is not None:
            KlSchedule.parse(self.kl_schedule)
        if self.spares < 0 or self.max_refused < 1:
            raise ConfigError(
                "spares must not be negative and max_refused be at least 1, "
                f"got {self.spares} and {self.max_refused}; leave them out for the defaults"
            )
        if not isinstance(self.recalibrate, int) or self.recalibrate < 0:
            raise ConfigError(
                f"recalibrate must be a whole number of batches, not negative, "
                f"got {self.recalibrate!r}"
            )
        for name in ("checkpoint", "restore"):
            if getattr(self, name) is not None:  # users write paths as texts
                object.__setattr__(self, name, Path(getattr(self, name)))
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ConfigError(f"seed must be a whole number, not negative, got {self.seed!r}")
        if not 0.0 < self.quorum <= 1.0:
            raise ConfigError(f"quorum must be in (0, 1], got {self.quorum}; 1 waits for all")
        if self.quorum != 1.0 and not self.synchronous:
            raise ConfigError(
                f"quorum must go with synchronous mode, got {self.quorum} without it; "
                "add --synchronous or leave the quorum out"
            )
        if self.max_staleness is not None and self.synchronous:
            raise ConfigError(
                f"max_staleness must go with asynchronous updates, got {self.max_staleness} with "
                "synchronous ones, which are never stale; leave one of them out"
            )

    @classmethod
    def make(cls, **settings: Any) -> "RunSettings":
        """Raises ConfigError for a setting that does not exist."""
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(settings) - known):
            raise ConfigError(
                f"settings must be among {', '.join(sorted(known))}, got {', '.join(unknown)}"
            )
        return cls(**settings)


def make_protocol(
    settings: RunSettings,
    children: Sequence[int],
    algo: Algorithm,
    observers: Sequence[int] = (),
    *,
    keeps_children: bool = False,
) -> MasterProtocol:
    """The rules by which a master of such a run answers its children, who run ``algo``.

    keeps_children: so that they can take over what others leave undone. A pull and its update
    are one transaction, except where masters share the weights: turns at several masters could
    wait for each other.
    """
    if settings.synchronous:
        quorum = settings.quorum
        return MasterProtocol(children, quorum, observers=observers, keeps_children=keeps_children)
    return MasterProtocol(
        children,
        None,
        settings.max_staleness,
        observers,
        one_at_a_time=algo.pulls and settings.num_shards == 1,
        keeps_children=keeps_children,
    )


def make_topology(
    n_ranks: int, settings: RunSettings, algo: Algorithm, root_algo: Algorithm | None
) -> Topology:
    """Who does what. Raises ConfigError where ranks and settings do not go together."""
    topology = Topology(
        n_ranks,
        settings.num_masters,
        settings.num_processes,
        settings.num_shards,
        algo.has_master,
        settings.spares,
    )
    check_shape(topology, settings, algo, root_algo)
    return topology


def check_shape(
    topology: Topology, settings: RunSettings, algo: Algorithm, root_algo: Algorithm | None
) -> None:
    """Raises ConfigError for a setting that this shape does not use."""
    if root_algo is not None and settings.num_masters < 2:
        raise ConfigError(
            "a root mode must go with sub-masters, got --root-mode without them; "
            "add --n-masters 3 or leave it out"
        )
    if root_algo is not None and not (root_algo.trains_locally and root_algo.has_master):
        raise ConfigError(
            f"a root mode must merge weights, got {type(root_algo).__name__} of gradients; "
            "take easgd, diloco or downpour with local steps"
        )
    if settings.num_shards > 1 and settings.quorum < 1.0:
        raise ConfigError(
            f"a quorum must be 1 where masters share the weights, got {settings.quorum}: each "
            "would leave out other workers; leave one of them out"
        )
    if settings.num_shards > 1 and not algo.elementwise:
        raise ConfigError(
            "masters that share the weights must do without norms of the whole vector, got "
            f"{algo}; leave out --clip-norm and --staleness gap, or --n-shards"
        )
    if settings.spares and not ulfm.is_on():
        raise ConfigError(
            f"spares must go with an MPI that survives losses, got {settings.spares} of them "
            "without; start the run by nnlorun --fault-tolerant"
        )
    goes_on = settings.on_worker_error == "continue" and topology.n_ranks > 1
    if goes_on and settings.num_shards > 1:
        raise ConfigError(
            "--on-worker-error continue must go with a single root, got masters that share the "
            "weights, which need every worker; leave one of them out"
        )
    if goes_on and not topology.is_star and not ulfm.is_on():
        raise ConfigError(
            f"--on-worker-error continue must go with workers of one rank each, got "
            f"{topology.describe()}, who need each other; start the run by "
            "nnlorun --fault-tolerant"
        )
    if not topology.has_master and (settings.synchronous or settings.max_staleness is not None):
        raise ConfigError(
            "--synchronous, --quorum and --max-staleness must go with a mode that has a master, "
            "got them with one where all ranks move together; leave them out"
        )
