"""Before the first message: every rank builds its part, and all agree that it fits.

Whatever is wrong on any rank is raised on all, as the same NNLOError.
"""

import copy
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from nnlo.algo.base import Algorithm
from nnlo.checkpoint import Checkpoint, CheckpointStore, read
from nnlo.data import Data
from nnlo.errors import CheckpointError, ConfigError, ModelError, NNLOError, WorkerFailed
from nnlo.model import build_adapter
from nnlo.model.adapter import ModelAdapter
from nnlo.model.kl_schedule import plan_kl
from nnlo.model.own_training import NO_GRADIENT, NO_TEST_STEP
from nnlo.mpi import link, ulfm
from nnlo.mpi.fence import Process, Registry
from nnlo.mpi.frame import pack_arrays
from nnlo.mpi.prepared import Built, Job, Prepared, SavedMaster
from nnlo.mpi.saving import check
from nnlo.mpi.topology import Topology
from nnlo.mpi.watch import Watch, start

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")


def build(comm: "MPI.Intracomm | None", job: Job, topology: Topology) -> Built:
    """Build the model, count the data, read the checkpoint, compare; collective."""
    rank = 0 if comm is None else comm.rank
    adapter = together(comm, lambda: _build(job))
    counted = together(comm, lambda: _count(job, topology) if rank == 0 else None)
    checkpoint = together(comm, lambda: _restore(job, adapter) if rank == 0 else None)
    counts, validation = counted or ([], None)
    if comm is not None:
        counts = comm.bcast(counts)
    job.data.set_files(job.train_list)
    job.data.set_counts(counts)
    together(comm, lambda: _compare(comm, adapter))
    kl = together(comm, lambda: plan_kl(job.settings.kl_schedule, adapter, job.data.n_samples))
    if kl is not None:  # in the first weights, which are validated and merged before all have it
        adapter.weigh_kl(kl[0].at(0.0) / kl[1])
    base_rate = adapter.learning_rate if job.algo.trains_locally else 1.0
    return Built(adapter, validation, checkpoint, base_rate)


def deal(
    comm: "MPI.Intracomm | None",
    job: Job,
    topology: Topology,
    built: Built,
    checkpoint: Checkpoint | None,
) -> Prepared:
    """Hand out shards, weights and states; collective. checkpoint: on rank 0, or None."""
    rank = 0 if comm is None else comm.rank
    adapter = built.adapter
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
    n_trainers = len(topology.trainers)
    if rank in topology.trainers:
        _place(job, topology.trainers.index(rank), n_trainers, adapter, epoch)
    else:  # it may be given parts of others' shards, or divide them
        job.data.set_shard(0, n_trainers)
    ring = _split(comm, topology)
    registry = Registry([Process.own()]) if comm is None else Registry.gather(comm)
    return Prepared(
        built=built,
        weights=weights,
        checkpoint=checkpoint,
        master_state=_hand_out_master(comm, topology, checkpoint),
        own_state=state,
        ranks_restored=are_restored,
        first_epoch=epoch,
        version=version,
        state_bytes=state_bytes,
        ring=ring,
        beside=None if ring is None or topology.has_master else ring.Dup(),
        registry=registry,
        watch=Watch() if comm is None else start(comm, registry, job.settings.suspect_after),
    )


def together(comm: "MPI.Intracomm | None", step: Callable[[], T]) -> T:
    """The result of ``step`` on this rank, or the same error on all ranks."""
    error: NNLOError | None = None
    result: T | None = None
    try:
        with ulfm.losses(comm):
            result = step()
    except ulfm.PeersLost:
        raise
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
        keep_own=getattr(job.algo, "keeps_own", False),
    )
    if not adapter.manifest.n_trainable:
        raise ModelError(
            "a model must have a weight that can be trained, got none; "
            "set trainable (Keras) or requires_grad (torch) of some layer"
        )
    if not (adapter.has_gradient or job.algo.trains_locally):
        raise ModelError(NO_GRADIENT)
    if job.val_list and not adapter.has_test_step:
        raise ModelError(NO_TEST_STEP)
    return adapter


def _count(job: Job, topology: Topology) -> tuple[list[int], Data | None]:
    """Samples of each training file, and the validation set, or None without one."""
    n_trainers = len(topology.trainers)
    job.data.set_files(job.train_list)
    job.data.set_shard(0, n_trainers)
    counts = job.data.count()
    n_samples = sum(counts)
    if n_trainers > n_samples:
        raise ConfigError(
            f"every rank that trains must have a sample, got {n_trainers} of them for "
            f"{n_samples} samples; start at most {topology.n_ranks - n_trainers + n_samples} ranks"
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
    check(checkpoint, str(path))
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
    return {
        "manifest": adapter.manifest.hash,
        "metrics": list(adapter.metric_names),
        "algorithm": " under ".join(_name(one) for one in (job.algo, job.root_algo) if one),
        "base_learning_rate": (job.root_algo or job.algo).learning_rate,
        "seed": job.settings.seed,
    }


def _name(algo: Algorithm) -> str:
    optimizer = getattr(algo, "optimizer", None)
    return type(algo).__name__ + (f" with {type(optimizer).__name__}" if optimizer else "")


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
    """This rank's own state in a checkpoint, if ranks of the same shape wrote it; whether that
    is so, and the master's epoch and version."""
    parts: list[Any] = [None] * topology.n_ranks
    clock = (False, 0, 0)
    if checkpoint is not None:
        states = [checkpoint.part(f"worker/{leader}/") for leader in topology.leaders]
        found = all(states) and checkpoint.meta["topology"] == topology.shape
        if found:
            for worker, state in zip(topology.workers, states, strict=True):
                for rank in worker:
                    parts[rank] = state
            for rank in topology.sub_masters:
                parts[rank] = checkpoint.part(f"worker/{rank}/")
        meta = checkpoint.meta
        clock = (found, meta["epoch" if found else "least_epoch"], meta["version"])
    if comm is None:
        return parts[0], clock
    return comm.scatter(parts), comm.bcast(clock)


def _hand_out_master(
    comm: "MPI.Intracomm | None", topology: Topology, checkpoint: Checkpoint | None
) -> SavedMaster | None:
    saved = None
    if checkpoint is not None:
        meta = checkpoint.meta
        rates = meta["base_learning_rate"], meta["learning_rate"]
        saved = SavedMaster(checkpoint.part("algo/"), *rates)
    if comm is None or (topology.has_master and topology.n_shards == 1):
        return saved
    shared: SavedMaster | None = comm.bcast(saved)
    return shared


def _split(comm: "MPI.Intracomm | None", topology: Topology) -> "MPI.Intracomm | None":
    """A communicator for every worker of several ranks; collective."""
    if comm is None or max(len(worker) for worker in topology.workers) == 1:
        return None
    worker = topology.worker_of(comm.rank)  # of nobody for a master or spare
    ring: Any = comm.Split(worker[0] if worker else topology.n_ranks, comm.rank)
    if len(worker) > 1:
        return ring  # type: ignore[no-any-return]
    ring.Free()
    return None


def _state_bytes(job: Job, adapter: ModelAdapter) -> int:
    if job.settings.checkpoint is None:
        return 0
    # A local optimizer may make its slots at the first step, at most three vectors each; the
    # algorithm's worker half may hold three, and the master half of a sub-master three.
    n_vectors = 3 * job.algo.trains_locally + 3 + 3 * (job.root_algo is not None)
    slots = n_vectors * 4 * adapter.manifest.size
    return len(pack_arrays(adapter.local_state())) + slots + (1 << 16)


def _place(job: Job, index: int, n_workers: int, adapter: ModelAdapter, epoch: int) -> None:
    """Give this worker its shard and its own random numbers."""
    job.data.set_shard(index, n_workers)
    seed = np.random.SeedSequence([job.settings.seed, index, epoch]).generate_state(1)[0]
    adapter.seed(int(seed))
