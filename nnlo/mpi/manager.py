"""One training job on a communicator."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nnlo.algo.base import Vector
from nnlo.algo.downpour import Downpour
from nnlo.checkpoint import CheckpointStore
from nnlo.data import Data
from nnlo.errors import ConfigError
from nnlo.history import History
from nnlo.model import ModelBuilder
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi import link
from nnlo.mpi.callbacks import KerasCallbacks
from nnlo.mpi.evaluate import Background, evaluate
from nnlo.mpi.frame import Frame, Kind
from nnlo.mpi.loopback import Loopback, run_in_process
from nnlo.mpi.master import Link, Master, up_frame
from nnlo.mpi.protocol import MasterProtocol
from nnlo.mpi.root import Listener, Root, RootPlan
from nnlo.mpi.saving import Saver
from nnlo.mpi.serve import ignored_signals, serve, signals
from nnlo.mpi.settings import RunSettings
from nnlo.mpi.setup import Job, Prepared, identity, prepare, together
from nnlo.mpi.stopping import EarlyStopping, Target, larger_is_better, metric_name
from nnlo.mpi.topology import Topology
from nnlo.mpi.worker import Worker, WorkerPlan, load_worker_state
from nnlo.spans import Span, Spans

if TYPE_CHECKING:
    from mpi4py import MPI


class MPIManager:
    """Trains one model on the ranks of ``comm``, or in this process where it is None.

    data: of the training set; ``train_list`` and ``val_list`` are its files. loss: name or
    function. callbacks: Keras callbacks, run on rank 0. listeners: told of updates and epochs,
    on rank 0. settings: the fields of RunSettings.

    After ``train()``, on rank 0: ``history``, ``weights`` and ``best`` (vectors; best is None
    without validation), ``timeline`` (what each rank did when). ``interrupted``: the signal
    that ended the run. ``abandoned``: workers did not answer in time, ``close`` will not wait.
    """

    def __init__(
        self,
        comm: "MPI.Intracomm | None",
        data: Data,
        algo: Downpour,
        model_builder: ModelBuilder,
        *,
        loss: Any,
        train_list: Sequence[str] = (),
        val_list: Sequence[str] = (),
        callbacks: Sequence[Any] = (),
        listeners: Sequence[Listener] = (),
        **settings: Any,
    ) -> None:
        self.algo = algo
        self.settings = RunSettings.make(**settings)
        self.history: History | None = None
        self.weights: Vector | None = None
        self.best: Vector | None = None
        self.interrupted = ""
        self.abandoned = False
        self.timeline: dict[str, list[Span]] = {}
        self.spans = Spans(enabled=self.settings.timeline)
        self._job = Job(
            data, algo, model_builder, loss, tuple(train_list), tuple(val_list), self.settings
        )
        self._comm = comm = None if comm is None or comm.size == 1 else comm
        self._rank = 0 if comm is None else comm.rank
        self._topology = Topology(1 if comm is None else comm.size)
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
        self._prepared = prepare(self._comm, self._job)

    def summary(self) -> str:
        """What will be trained, in one line; on rank 0, after ``prepare``."""
        manifest, n_workers = self.adapter.manifest, self._topology.n_workers
        workers = "one process" if self._comm is None else f"a master and {n_workers} workers"
        return (
            f"{manifest.n_trainable:,} weights, {self._job.data.n_samples:,} samples an epoch, "
            f"{self.settings.num_epochs} epochs, {workers}"
        )

    def train(self) -> History | None:
        """Train; every rank calls it. Returns the history on rank 0, None elsewhere.

        Bad input found on any rank before the start raises the same NNLOError on all. What a
        worker raises later is raised on rank 0 as WorkerFailed; the other ranks end quietly.
        """
        if self._prepared is None:
            self.prepare()
        prepared = self._prepared
        assert prepared is not None
        root = together(self._comm, lambda: self._plan_root(prepared))
        if self._comm is not None and self.spans.enabled:
            link.barrier(self._comm)
        self.spans.start()
        if self._comm is None:
            assert root is not None
            self._train_alone(prepared, root)
        elif root is not None:
            self._serve(root, *together(self._comm, lambda: self._make_parent(prepared, root)))
        else:
            self._work(prepared.weights, *together(self._comm, lambda: self._make_child(prepared)))
        return self.history

    def _gather_timeline(self) -> None:
        """Bring what each rank did when to rank 0; collective."""
        if not self.spans.enabled:
            return
        if self._comm is None:
            self.timeline = {"train": self.spans.entries}
        else:
            rows = self._comm.gather(self.spans.entries) or []
            names = ["master", *(f"worker {rank}" for rank in self._topology.workers)]
            self.timeline = dict(zip(names, rows, strict=False))

    def close(self) -> None:
        """Wait for all ranks and release the data; every rank calls it."""
        if self._comm is not None and not self.abandoned:
            link.barrier(self._comm)
        self._job.data.close()

    # Rank 0 -----------------------------------------------------------------------------------

    def _plan_root(self, prepared: Prepared) -> Root | None:
        """The observer of rank 0; None elsewhere."""
        if self._rank != 0:
            return None
        settings, names = self.settings, prepared.adapter.metric_names
        background = Background(self._comm is None, self.spans)
        known = [*names, *(f"val_{name}" for name in names if prepared.validation)]
        monitor = settings.monitor
        if monitor != RunSettings.monitor:  # the default is unused without validation
            monitor = metric_name(monitor, known)
        stoppers: list[EarlyStopping | Target] = []
        if settings.early_stopping:
            stoppers.append(EarlyStopping.parse(settings.early_stopping, known))
        if settings.target_metric:
            stoppers.append(Target.parse(settings.target_metric, known))
        listeners = list(self._listeners)
        if self._callbacks:
            listeners.insert(
                0, KerasCallbacks(self._callbacks, prepared.adapter, settings.num_epochs)
            )
        plan = RootPlan(
            n_samples=self._job.data.n_samples,
            n_epochs=settings.num_epochs,
            metric_names=names,
            validate=self._validator(prepared, background),
            validate_every=settings.validate_every,
            monitor=monitor,
            larger_is_better=larger_is_better(monitor),
            checkpoint_every=settings.checkpoint_interval,
            stoppers=tuple(stoppers),
            listeners=tuple(listeners),
        )
        return Root(plan, background, self._saver(prepared, background))

    def _validator(self, prepared: Prepared, background: Background) -> Any:
        if prepared.validation is None:
            return None
        is_cancelled = background.cancelled.is_set
        return partial(evaluate, prepared.adapter, prepared.validation, is_cancelled=is_cancelled)

    def _saver(self, prepared: Prepared, background: Background) -> Saver | None:
        base = self.settings.checkpoint
        if base is None:
            return None
        about = identity(self._job, prepared.adapter)
        about["n_workers"] = self._topology.n_workers
        return Saver(CheckpointStore(base), background, about)

    def _make_master(self, prepared: Prepared, root: Root, end: Link) -> Master:
        settings, checkpoint = self.settings, prepared.checkpoint
        manifest = prepared.adapter.manifest
        half = self._job.algo.master(manifest.n_trainable)
        quorum = settings.quorum if settings.synchronous else None
        protocol = MasterProtocol(self._topology.workers, quorum)
        version = 0 if checkpoint is None else checkpoint.meta["version"]
        master = Master(manifest, half, protocol, end, root, prepared.weights, version, self.spans)
        if checkpoint is not None:
            half.load_state(checkpoint.part("algo/"))
            if checkpoint.meta["base_learning_rate"] == half.learning_rate:
                half.learning_rate = checkpoint.meta["learning_rate"]
            root.restore(checkpoint, whole_epochs=not prepared.workers_restored)
        return master

    def _make_parent(self, prepared: Prepared, root: Root) -> tuple[Master, link.ParentEnd]:
        assert self._comm is not None
        end = link.ParentEnd(self._comm, self._topology.workers, self._frames(prepared))
        master = self._make_master(prepared, root, end)
        root.begin(master)
        return master, end

    def _serve(self, root: Root, master: Master, end: link.ParentEnd) -> None:
        end.open()
        with root.background, signals(root):
            self.abandoned = not serve(master, end, root)
            if not self.abandoned:
                end.close()
                self._gather_timeline()
            self._finish(master, root)

    def _finish(self, master: Master, root: Root) -> None:
        self.interrupted = root.interrupted
        self.history = root.history
        if master.error is not None:
            raise master.error
        root.finish(master)
        self.weights = master.weights.copy()
        self.best = root.best

    def _frames(self, prepared: Prepared) -> Callable[[], Frame]:
        """A maker of frames for messages to the master."""
        n_sums = 1 + len(prepared.adapter.metric_names)
        return up_frame(prepared.adapter.manifest, n_sums, prepared.state_bytes)

    # Workers ----------------------------------------------------------------------------------

    def _make_worker(self, prepared: Prepared, up: Frame) -> Worker:
        algo, adapter = self._job.algo, prepared.adapter
        half = algo.worker(adapter.manifest.n_trainable)
        # A checkpoint may hold a rate that a callback had changed; the base is never that one.
        base_rate = adapter.learning_rate if algo.trains_locally else 1.0
        start = (prepared.first_epoch, 0)
        if prepared.worker_state:
            start = load_worker_state(prepared.worker_state, adapter, half)
        return Worker(
            self._rank,
            adapter,
            self._job.data,
            half,
            up,
            WorkerPlan(
                n_epochs=self.settings.num_epochs,
                sync_every=algo.sync_every,
                trains_locally=algo.trains_locally,
                base_rate=base_rate,
                start=start,
                version=prepared.version,
                sends_state=self.settings.checkpoint is not None,
            ),
            spans=self.spans,
        )

    def _make_child(self, prepared: Prepared) -> tuple[Worker, link.ChildEnd]:
        assert self._comm is not None
        end = link.ChildEnd(self._comm, 0, Frame(prepared.adapter.manifest.size))
        return self._make_worker(prepared, self._frames(prepared)()), end

    def _work(self, weights: Vector, worker: Worker, end: link.ChildEnd) -> None:
        with ignored_signals():
            try:
                run = worker.run(weights)
                message = next(run)
                while end.exchange(message).header.kind is not Kind.FINAL:
                    message = run.send(end.down)
            except BaseException as error:  # sys.exit in user code too: rank 0 must hear of it
                end.exchange(worker.failure(error, link.host()))
        self._gather_timeline()

    def _train_alone(self, prepared: Prepared, root: Root) -> None:
        end = Loopback()
        master = self._make_master(prepared, root, end)
        worker = self._make_worker(prepared, self._frames(prepared)())
        with root.background, signals(root):
            root.begin(master)
            run = worker.run(prepared.weights)
            run_in_process(master, end, {0: run}, poll=partial(root.poll, master))
            self._gather_timeline()
            self._finish(master, root)
