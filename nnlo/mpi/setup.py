"""Before the first message: every rank builds its part, and all agree that it fits.

Whatever is wrong on any rank is raised on all, as the same NNLOError.
"""

import copy
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from nnlo.algo.base import Vector
from nnlo.algo.downpour import Downpour
from nnlo.checkpoint import Checkpoint, CheckpointStore, read
from nnlo.data import Data
from nnlo.errors import CheckpointError, ConfigError, ModelError, NNLOError, WorkerFailed
from nnlo.model import ModelBuilder, build_adapter
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi import link
from nnlo.mpi.frame import pack_arrays
from nnlo.mpi.settings import RunSettings
from nnlo.mpi.topology import Topology

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """What the user handed over, the same on all ranks."""

    data: Data
    algo: Downpour
    builder: ModelBuilder
    loss: Any
    train_list: Sequence[str]
    val_list: Sequence[str]
    settings: RunSettings


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a rank starts with.

    validation: data on rank 0, None elsewhere or without validation. weights: the first ones,
    equal on all ranks. checkpoint: what rank 0 restores from. worker_state: what this rank's
    worker does; workers_restored: whether all of them do. first_epoch, version: where the run
    goes on. state_bytes: room that a
    worker's local state needs in a message.
    """

    adapter: ModelAdapter
    validation: Data | None
    weights: Vector
    checkpoint: Checkpoint | None
    worker_state: dict[str, Any] | None
    workers_restored: bool
    first_epoch: int
    version: int
    state_bytes: int


def prepare(comm: "MPI.Intracomm | None", job: Job) -> Prepared:
    """Build, count, restore and compare; collective."""
    rank = 0 if comm is None else comm.rank
    topology = Topology(1 if comm is None else comm.size)
    adapter = together(comm, lambda: _build(job))
    counted = together(comm, lambda: _count(job, topology) if rank == 0 else None)
    checkpoint = together(comm, lambda: _restore(job, adapter) if rank == 0 else None)
    counts, validation = counted or ([], None)
    if comm is not None:
        counts = comm.bcast(counts)
    job.data.set_files(job.train_list)
    job.data.set_counts(counts)
    together(comm, lambda: _compare(comm, adapter))
    weights = np.empty(adapter.manifest.size, np.float32)
    if checkpoint is None:
        adapter.get_flat(weights)
    else:
        weights[:] = checkpoint.arrays["weights"]
    state, (are_restored, epoch, version) = _hand_out(comm, topology, checkpoint)
    state_bytes = _state_bytes(job, adapter)
    if comm is not None:
        link.broadcast(comm, weights)
        state_bytes = max(comm.allgather(state_bytes))
    if rank in topology.workers:
        _place(job, topology.worker_index(rank), topology.n_workers, adapter, epoch)
    return Prepared(
        adapter=adapter,
        validation=validation,
        weights=weights,
        checkpoint=checkpoint,
        worker_state=state,
        workers_restored=are_restored,
        first_epoch=epoch,
        version=version,
        state_bytes=state_bytes,
    )


def together(comm: "MPI.Intracomm | None", step: Callable[[], T]) -> T:
    """The result of ``step`` on this rank, or the same error on all ranks."""
    error: NNLOError | None = None
    result: T | None = None
    try:
        result = step()
    except NNLOError as raised:
        error = raised
    except BaseException as raised:
        if comm is None:  # no other rank would wait for this one
            raise
        trace = "".join(traceback.format_exception(raised))
        error = WorkerFailed(comm.rank, link.host(), trace)
    link.agree(comm, error)
    return result  # type: ignore[return-value]


def _build(job: Job) -> ModelAdapter:
    adapter = build_adapter(
        job.builder,
        job.loss,
        seed=job.settings.seed,
        metrics=job.settings.metrics,
        optimizer=job.algo.worker_optimizer,
        learning_rate=job.algo.worker_learning_rate,
    )
    if not adapter.manifest.n_trainable:
        raise ModelError(
            "a model must have a weight that can be trained, got none; "
            "set trainable (Keras) or requires_grad (torch) of some layer"
        )
    return adapter


def _count(job: Job, topology: Topology) -> tuple[list[int], Data | None]:
    """Samples of each training file, and the validation set, or None without one."""
    job.data.set_files(job.train_list)
    job.data.set_shard(0, topology.n_workers)
    counts = job.data.count()
    n_samples = sum(counts)
    if topology.n_workers > n_samples:
        raise ConfigError(
            f"every worker must have a sample to train on, got {topology.n_workers} workers "
            f"for {n_samples} samples; start at most {n_samples + 1} ranks"
        )
    if not job.val_list:
        return counts, None
    validation = copy.copy(job.data)
    validation.shuffle = False
    validation.set_shard(0, 1)
    validation.set_files(job.val_list)
    validation.count()
    return counts, validation


def _restore(job: Job, adapter: ModelAdapter) -> Checkpoint | None:
    path = job.settings.restore
    if path is None:
        return None
    checkpoint = read(path) if path.is_file() else CheckpointStore(path).newest()
    meta = checkpoint.meta
    for name, value in identity(job, adapter).items():
        if name in ("manifest", "algorithm", "metrics") and meta.get(name) != value:
            raise CheckpointError(
                f"a checkpoint must be of the same {name}, got {meta.get(name)} in {path} "
                f"for {value}; restore it with the model and algorithm that wrote it"
            )
    if meta["epoch"] >= job.settings.num_epochs:
        raise ConfigError(
            f"num_epochs must be above the {meta['epoch']} epochs that {path} has behind it, "
            f"got {job.settings.num_epochs}; ask for more --epochs"
        )
    return checkpoint


def identity(job: Job, adapter: ModelAdapter) -> dict[str, Any]:
    """What a checkpoint says of the run that wrote it."""
    algo = job.algo
    return {
        "manifest": adapter.manifest.hash,
        "metrics": list(adapter.metric_names),
        "algorithm": f"{type(algo).__name__} with {type(algo.optimizer).__name__}",
        "base_learning_rate": algo.optimizer.learning_rate,
        "seed": job.settings.seed,
    }


def _compare(comm: "MPI.Intracomm | None", adapter: ModelAdapter) -> None:
    """All ranks must have built the same model."""
    if comm is None:
        return
    first = comm.bcast((adapter.manifest, adapter.metric_names) if comm.rank == 0 else None)
    if first[0].hash != adapter.manifest.hash:
        raise ModelError(
            "all ranks must build the same model, got another on this one: "
            f"{adapter.manifest.describe_difference(first[0])}; check that the model file and "
            "the libraries are the same on all nodes"
        )
    if first[1] != adapter.metric_names:
        raise ModelError(
            f"all ranks must have the same metrics, got {adapter.metric_names} and {first[1]}"
        )


def _hand_out(
    comm: "MPI.Intracomm | None", topology: Topology, checkpoint: Checkpoint | None
) -> tuple[dict[str, Any] | None, tuple[bool, int, int]]:
    """This rank's own state in a checkpoint, if as many workers wrote it; whether that is so,
    and the master's epoch and version."""
    parts: list[Any] = [None] * topology.n_ranks
    clock = (False, 0, 0)
    if checkpoint is not None:
        states = [checkpoint.part(f"worker/{rank}/") for rank in topology.workers]
        if all(states) and checkpoint.meta["n_workers"] == topology.n_workers:
            for rank, state in zip(topology.workers, states, strict=True):
                parts[rank] = state
        found = any(part is not None for part in parts)
        clock = (found, checkpoint.meta["epoch"], checkpoint.meta["version"])
    if comm is None:
        return parts[0], clock
    return comm.scatter(parts), comm.bcast(clock)


def _state_bytes(job: Job, adapter: ModelAdapter) -> int:
    if job.settings.checkpoint is None:
        return 0
    # A local optimizer may make its slots at the first step: at most three vectors each.
    slots = 3 * 4 * adapter.manifest.size if job.algo.trains_locally else 0
    return len(pack_arrays(adapter.local_state())) + slots + (1 << 16)


def _place(job: Job, index: int, n_workers: int, adapter: ModelAdapter, epoch: int) -> None:
    """Give this worker its shard and its own random numbers."""
    job.data.set_shard(index, n_workers)
    seed = np.random.SeedSequence([job.settings.seed, index, epoch]).generate_state(1)[0]
    adapter.seed(int(seed))
