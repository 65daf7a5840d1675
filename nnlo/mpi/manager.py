"""One training job on a communicator."""

import atexit
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from nnlo.algo.base import Algorithm, Vector
from nnlo.checkpoint import Checkpoint
from nnlo.data import Data
from nnlo.errors import CheckpointError, ConfigError, NNLOError, RanksLost
from nnlo.history import History, Record
from nnlo.model import ModelBuilder
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi import link, roles, ulfm
from nnlo.mpi.callbacks import KerasCallbacks
from nnlo.mpi.evaluate import Recalibration
from nnlo.mpi.master import Master
from nnlo.mpi.parts import Parts
from nnlo.mpi.plan import Listener
from nnlo.mpi.prepared import Job, Prepared
from nnlo.mpi.regroup import Ranks
from nnlo.mpi.root import Root
from nnlo.mpi.rootparts import make_root
from nnlo.mpi.serve import signals
from nnlo.mpi.settings import RunSettings, make_topology
from nnlo.mpi.setup import build, deal, together
from nnlo.mpi.topology import Topology
from nnlo.spans import Span, Spans

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger(__name__)


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
        comm = None if comm is None or comm.size == 1 else comm
        n_ranks = 1 if comm is None else comm.size
        topology = make_topology(n_ranks, self.settings, algo, root_algo)
        self._ranks = Ranks(comm, topology, self.settings.suspect_after)
        self._callbacks, self._listeners = tuple(callbacks), list(listeners)
        self._prepared: Prepared | None = None
        self._dealt: MPI.Intracomm | None = None  # for these ranks
        self._root: Root | None = None
        self._earlier: Root | None = None  # the last one that has begun
        self._master: Master | None = None
        self._book: tuple[History, Topology] | None = None  # of a sub-master
        self._recalibration: Recalibration | None = None
        self._is_over = False
        self._scope = ExitStack()  # of the root
        self._loss: BaseException | None = None

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
        self._survive(self._prepare)

    def _prepare(self) -> None:
        self._ranks.open()
        if ulfm.is_on():
            atexit.register(self._die)
        comm, topology = self._ranks.comm, self._ranks.topology
        built = build(comm, self._job, topology)
        self._prepared = deal(comm, self._job, topology, built, built.first)
        self._dealt = comm

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, or the first of those that are left where that is dead."""
        return self._ranks.rank == 0

    def listen(self, listener: Listener) -> None:
        """Have another one told how the run goes; on rank 0, before ``train``."""
        self._listeners.append(listener)

    def on_root(self, step: Callable[[], None]) -> None:
        """Do ``step`` on rank 0; its NNLOError is raised on all ranks. Every rank calls it."""
        self._survive(lambda: together(self._ranks.comm, step if self.is_first else lambda: None))

    def summary(self) -> str:
        """What will be trained, in one line; on rank 0, after ``prepare``."""
        manifest = self.adapter.manifest
        return (
            f"{manifest.n_trainable:,} weights, {self._job.data.n_samples:,} samples an epoch, "
            f"{self.settings.num_epochs} epochs, {type(self.algo).__name__}, "
            f"{self._ranks.topology.describe()}{self._restored()}"
        )

    def _restored(self) -> str:
        prepared = self._prepared
        if prepared is None or prepared.checkpoint is None:
            return ""
        return f", restored, going on in epoch {prepared.first_epoch + 1}"

    def remarks(self) -> list[str]:
        """Where the run is not quite what was asked for, a sentence each; after ``prepare``."""
        remarks = self._ranks.topology.remarks()
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
        with self._scope:
            try:
                self._survive(self._train)
                self._finish()
            finally:
                if self._root is not None:
                    self.interrupted, self.history = self._root.interrupted, self._root.history
                    self.unsaved = self._root.unsaved
        return self.history

    def _survive(self, step: Callable[[], None]) -> None:
        """Do ``step`` with all ranks, or else again with those that are left.

        Raises an NNLOError of ``step``, which comes on all ranks or on none.
        """
        while True:
            error = None
            done = True
            try:
                with ulfm.losses(self._ranks.comm):
                    step()
            except ulfm.PeersLost as lost:
                done = False
                self._loss = lost  # with it the buffers into which MPI may still write
                if self._prepared is not None:
                    self._prepared.watch.abandon()
                    ulfm.revoke(self._prepared.ring)
                    ulfm.revoke(self._prepared.beside)
            except NNLOError as raised:
                error = raised
            try:
                if self.abandoned or self._ranks.meet(done=done):
                    if error is not None:
                        raise error
                    return
            except NNLOError:
                atexit.unregister(self._die)  # all ranks have this error
                raise

    def _train(self) -> None:
        """Train until the end of the run, from where ranks were lost if some were."""
        comm = self._ranks.comm
        if comm is not self._dealt:
            if comm is not None:  # where rank 0 has nothing left to do, nobody has
                self._is_over = comm.bcast(self._is_over)
            if not self._is_over:
                self._regroup()
        if not self._is_over:
            self._play()
            self._is_over = True
        if not self.abandoned:
            self._gather()

    def _regroup(self) -> None:
        """Give the ranks that are left their parts in what is to come; collective."""
        assert self._prepared is not None
        comm, topology, built = self._ranks.comm, self._ranks.topology, self._prepared.built
        if topology.n_masters == 1 and self._job.root_algo is not None:
            raise RanksLost(
                "there must be a sub-master where it trains by an algorithm of its own, got "
                f"too few ranks after the death of {' and '.join(self._ranks.lost)}; start it "
                "again from its newest checkpoint"
            )
        self._bring_books()
        is_first = self._ranks.rank == 0
        checkpoint = together(comm, self._capture if is_first else lambda: None)
        built.adapter.reset_optimizer()  # of workers that were others
        self._prepared = deal(comm, self._job, topology, built, checkpoint)
        self._dealt = comm
        lost, self._ranks.lost = self._ranks.lost, []
        if self._ranks.rank == 0 and lost:
            log.warning(
                "%s %s lost in epoch %d: it begins anew, with %s",
                " and ".join(lost),
                "were" if len(lost) > 1 else "was",
                self._prepared.first_epoch + 1,
                topology.describe(),
            )

    def _capture(self) -> Checkpoint | None:
        """What rank 0 goes on from, where training had begun."""
        assert self._prepared is not None
        if self._root is not None and self._root.has_begun:
            self._earlier = self._root
        if self._earlier is None:
            return self._prepared.checkpoint
        return self._earlier.capture()

    def _play(self) -> None:
        """Do this rank's part."""
        assert self._prepared is not None
        comm, topology = self._ranks.comm, self._ranks.topology
        parts = Parts(comm, self._job, topology, self._prepared, self.spans)
        root = together(comm, lambda: self._make_root(parts))
        if comm is not None and self.spans.enabled:
            link.barrier(comm)
        if not self.spans.zero:
            self.spans.start()
        self._master = roles.play(parts, root, self._earlier, self._abandon, self._keep_book)

    def _make_root(self, parts: Parts) -> Root | None:
        """The observer of rank 0; None elsewhere."""
        if self._ranks.rank > 0:
            return None
        if self._root is None and self._callbacks:
            n_epochs = self.settings.num_epochs
            callbacks = KerasCallbacks(self._callbacks, parts.prepared.adapter, n_epochs)
            self._listeners.insert(0, callbacks)
        self._root = make_root(parts, self._listeners)
        self._scope.close()
        self._scope.enter_context(self._root.background)
        self._scope.enter_context(signals(self._root))
        self._scope.enter_context(self._ranks.guarded())
        self._recalibration = parts.recalibration
        return self._root

    def _abandon(self) -> None:
        self.abandoned = True

    def _keep_book(self, history: History) -> None:
        self._book = history, self._ranks.topology

    def _bring_books(self) -> None:
        """Bring the books of sub-masters to rank 0, rows by number of a rank; collective."""
        rows: dict[str, list[Record]] = {}
        if self._book is not None:
            history, topology = self._book
            rows = {str(topology.number(int(rank))): r for rank, r in history.ranks.items()}
        comm = self._ranks.comm
        found = [rows] if comm is None else comm.gather(rows) or []
        self._book = None
        if self._root is not None:
            self._root.join({rank: r for book in found for rank, r in book.items()})

    def _gather(self) -> None:
        """Bring to rank 0 what each rank did when, and the books of sub-masters; collective."""
        comm, topology = self._ranks.comm, self._ranks.topology
        if comm is not None and ulfm.is_on():
            link.barrier(comm, self._ranks.end_stopped())
        self._bring_books()
        if self.spans.enabled:
            entries = self.spans.entries
            found = [entries] if comm is None else comm.gather(entries) or []
            self.timeline = {topology.name(rank): one for rank, one in enumerate(found)}

    def _finish(self) -> None:
        """After the last message, on rank 0: the last validation and the results."""
        root, master = self._root, self._master
        if root is None or master is None:
            return
        roles.finish(root, master)
        self.weights = master.weights.copy()
        recalibration = self._recalibration
        if recalibration is not None and not root.interrupted:
            recalibration(self.weights)
        self.best = root.best

    def close(self) -> None:
        """Wait for all ranks and release the data; every rank calls it."""
        try:
            if not self.abandoned:
                self._ranks.wait_for_all()
                prepared = self._prepared
                if prepared is None:
                    self._ranks.free()
                else:
                    prepared.watch.close()
                    self._ranks.free(prepared.ring, prepared.beside)
        finally:
            atexit.unregister(self._die)
            self._job.data.close()

    def _die(self) -> None:
        """At the end of a program that ends before the others do: they must hear of it."""
        if self._ranks.comm is not None:
            ulfm.die()
