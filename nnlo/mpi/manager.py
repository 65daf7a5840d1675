"""One training job on a communicator."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnlo.algo.base import Algorithm, Vector
from nnlo.data import Data
from nnlo.errors import CheckpointError, ConfigError
from nnlo.history import History, Record
from nnlo.model import ModelBuilder
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi import link, roles
from nnlo.mpi.master import Master
from nnlo.mpi.parts import Parts
from nnlo.mpi.plan import Listener
from nnlo.mpi.root import Root
from nnlo.mpi.settings import RunSettings, check_shape
from nnlo.mpi.setup import Job, Prepared, prepare, together
from nnlo.mpi.topology import Topology
from nnlo.spans import Span, Spans

if TYPE_CHECKING:
    from mpi4py import MPI


class MPIManager:
    """Trains one model on the ranks of ``comm``, or in this process where it is None.

    data: of the training set; ``train_list`` and ``val_list`` are its files. loss: name or
    function, None for a model with its own ``train_step``. root_algo: between the root and its
    sub-masters, which then run ``algo`` with weights of their own; None for sub-masters that
    merge and pass on. callbacks: Keras callbacks, run on rank 0. listeners: told of updates and
    epochs, on rank 0. settings: the fields of RunSettings.

    After ``train()``, on rank 0: ``history``, ``weights`` and ``best`` (vectors; best is None
    without validation), ``timeline`` (what each rank did when). ``interrupted``: the signal
    that ended the run. ``abandoned``: workers did not answer in time, ``close`` will not wait.
    ``unsaved``: the error of the last checkpoint, where the disk did not take it.
    """

    def __init__(
        self,
        comm: "MPI.Intracomm | None",
        data: Data,
        algo: Algorithm,
        model_builder: ModelBuilder,
        *,
        loss: Any = None,
        root_algo: Algorithm | None = None,
        train_list: Sequence[str] = (),
        val_list: Sequence[str] = (),
        callbacks: Sequence[Any] = (),
        listeners: Sequence[Listener] = (),
        **settings: Any,
    ) -> None:
        if not hasattr(algo, "has_master"):
            raise ConfigError(
                f"algo must be an algorithm, got {algo!r}; make one by Algo(mode='downpour')"
            )
        self.algo = algo
        self.settings = RunSettings.make(**settings)
        self.history: History | None = None
        self.weights: Vector | None = None
        self.best: Vector | None = None
        self.interrupted = ""
        self.abandoned = False
        self.unsaved: CheckpointError | None = None
        self.timeline: dict[str, list[Span]] = {}
        self.spans = Spans(enabled=self.settings.timeline)
        self._job = Job(
            data,
            algo,
            model_builder,
            loss,
            tuple(train_list),
            tuple(val_list),
            self.settings,
            root_algo,
        )
        self._comm = comm = None if comm is None or comm.size == 1 else comm
        self._rank = 0 if comm is None else comm.rank
        self._topology = Topology(
            1 if comm is None else comm.size,
            self.settings.num_masters,
            self.settings.num_processes,
            self.settings.num_shards,
            algo.has_master,
        )
        check_shape(self._topology, self.settings, algo, root_algo)
        self._callbacks, self._listeners = tuple(callbacks), tuple(listeners)
        self._prepared: Prepared | None = None

    @property
    def adapter(self) -> ModelAdapter:
        """This rank's model, there after ``prepare``."""
        if self._prepared is None:
            raise ConfigError("prepare() must come before the model is used, got no model yet")
        return self._prepared.adapter

    def prepare(self) -> None:
        """Build the model, count the data, read the checkpoint; every rank calls it.

        Bad input found on any rank raises the same NNLOError on all. ``train`` does it too.
        """
        self._prepared = prepare(self._comm, self._job, self._topology)

    def summary(self) -> str:
        """What will be trained, in one line; on rank 0, after ``prepare``."""
        manifest = self.adapter.manifest
        return (
            f"{manifest.n_trainable:,} weights, {self._job.data.n_samples:,} samples an epoch, "
            f"{self.settings.num_epochs} epochs, {type(self.algo).__name__}, "
            f"{self._topology.describe()}{self._restored()}"
        )

    def _restored(self) -> str:
        prepared = self._prepared
        if prepared is None or prepared.checkpoint is None:
            return ""
        return f", restored, going on in epoch {prepared.first_epoch + 1}"

    def remarks(self) -> list[str]:
        """Where the run is not quite what was asked for, a sentence each; after ``prepare``."""
        remarks = self._topology.remarks()
        prepared = self._prepared
        if prepared is not None and prepared.checkpoint and not prepared.ranks_restored:
            remarks.append(
                "the checkpoint was written by other ranks than these: workers begin its epoch "
                "anew, without optimizers and places in the data of their own"
            )
        return remarks

    def train(self) -> History | None:
        """Train; every rank calls it. Returns the history on rank 0, None elsewhere.

        Bad input found on any rank before the start raises the same NNLOError on all. What a
        worker raises later is raised on rank 0 as WorkerFailed; the other ranks end quietly.
        """
        if self._prepared is None:
            self.prepare()
        assert self._prepared is not None
        parts = Parts(self._comm, self._job, self._topology, self._prepared, self.spans)
        root = together(self._comm, lambda: self._make_root(parts))
        if self._comm is not None and self.spans.enabled:
            link.barrier(self._comm)
        self.spans.start()
        try:
            master = self._play(parts, root)
        finally:
            if root is not None:
                self.interrupted, self.history = root.interrupted, root.history
                self.unsaved = root.unsaved
        if root is not None and master is not None:
            self.weights = master.weights.copy()
            if parts.recalibration is not None and not root.interrupted:
                parts.recalibration(self.weights)
            self.best = root.best
        return self.history

    def _make_root(self, parts: Parts) -> Root | None:
        """The observer of rank 0; None elsewhere."""
        return parts.root(self._listeners, self._callbacks) if self._rank == 0 else None

    def _play(self, parts: Parts, root: Root | None) -> Master | None:
        """Do this rank's part; returns the master on rank 0."""
        match self._topology.role(self._rank):
            case "alone":
                assert root is not None
                return roles.train_alone(parts, root, self._gather)
            case "root":
                assert root is not None
                return roles.lead(parts, root, self._gather, self._abandon)
            case "sub-master":
                roles.stand_between(parts, self._gather)
            case "shard":
                roles.own_slice(parts, self._gather)
            case "replica":
                return roles.train_together(parts, root, self._gather)
            case "leader" | "member":
                roles.work(parts, self._gather)
        return None

    def _abandon(self) -> None:
        self.abandoned = True

    def _gather(self, history: History | None) -> dict[str, list[Record]]:
        """Bring to rank 0 what each rank did when, and the books of sub-masters; collective."""
        if self._comm is None:
            self.timeline = {"train": self.spans.entries} if self.spans.enabled else {}
            return {}
        found = self._comm.gather((self.spans.entries, history.ranks if history else {})) or []
        if self.spans.enabled:
            for rank, (entries, _) in enumerate(found):
                self.timeline[self._topology.name(rank)] = entries
        return {rank: rows for _, ranks in found for rank, rows in ranks.items()}

    def close(self) -> None:
        """Wait for all ranks and release the data; every rank calls it."""
        if self._comm is not None and not self.abandoned:
            link.barrier(self._comm)
            if self._prepared is not None and self._prepared.ring is not None:
                self._prepared.ring.Free()
        self._job.data.close()
