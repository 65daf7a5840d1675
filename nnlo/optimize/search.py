"""A search on the ranks of a communicator: rank 0 leads, blocks of the others train."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from nnlo.errors import NNLOError, RanksLost
from nnlo.mpi import link, ulfm
from nnlo.mpi.fence import Registry
from nnlo.mpi.serve import handled_signals, ignored_signals
from nnlo.mpi.setup import together
from nnlo.optimize.alone import Alone
from nnlo.optimize.block import Block, Perform, Trainer
from nnlo.optimize.conductor import Conductor, Hear
from nnlo.optimize.coordinator import Coordinator
from nnlo.optimize.desk import Desk
from nnlo.optimize.events import Limits
from nnlo.optimize.layout import Layout
from nnlo.optimize.optuna_mirror import Mirror
from nnlo.optimize.post import Post
from nnlo.optimize.pruning import Pruner
from nnlo.optimize.searcher import Searcher
from nnlo.optimize.space import Space
from nnlo.optimize.study import STUDY, Study, read
from nnlo.optimize.table import best_first
from nnlo.optimize.trials import Record, Trial, Trials
from nnlo.optimize.wire import Order, PartEnd

if TYPE_CHECKING:
    from mpi4py import MPI

MIRROR = "optuna.log"
"""A copy of the search in its folder, for optuna-dashboard."""


@dataclass(frozen=True)
class Plan:
    """What rank 0 knows of a search.

    merit_names: of the merits. header: of the log, ``study.IDENTITY`` included. restores: go on
    with the search of that log. begin: called once that is open. hear: told of each record.
    refit_epochs: of the best trial, for how long its parameters are trained on all data at the
    end; None: they are not.
    """

    space: Space
    searcher: Searcher
    limits: Limits
    pruner: Pruner
    merit_names: tuple[str, ...]
    header: Mapping[str, Any] = field(default_factory=dict)
    restores: bool = False
    begin: Callable[[], None] = lambda: None
    hear: Hear = lambda record, trials: None
    refit_epochs: Callable[[Trial], int] | None = None


class Search:
    """Each rank makes one and calls ``run``, then ``close``.

    comm: None for one process. folder: of the search, seen by all ranks. perform: trains a part
    of a trial, such as ``Attempt``. plan: on rank 0, None elsewhere.

    After ``run``, on rank 0: ``trials``, ``reason`` (why it ended), ``interrupted`` (by what
    signal), ``refit`` (the end of that training), ``hung`` (blocks that will never end).
    """

    def __init__(
        self,
        comm: "MPI.Intracomm | None",
        folder: Path,
        perform: Perform,
        plan: Plan | None,
        *,
        block_size: int = 1,
        n_folds: int = 1,
    ) -> None:
        self.trials = Trials()
        self.reason = ""
        self.interrupted = ""
        self.refit: PartEnd | None = None
        self.hung: frozenset[int] = frozenset()
        self._comm = None if comm is None or comm.size == 1 else comm
        self._folder = folder
        self._plan = plan
        self.layout = Layout(1 if self._comm is None else self._comm.size, block_size, n_folds)
        self._trainer = Trainer(self.layout, perform, folder)
        self._desk: Desk | None = None

    def run(self) -> None:
        """Search; raises the NNLOError of rank 0 there, after the blocks were sent away."""
        if self._comm is None:
            study, conductor = self._open()
            self._lead(study, conductor, Alone(conductor, self._trainer, self._is_interrupted))
            return
        comm, (own, part, registry) = ulfm.together_with_survivors(self._comm, self._divide)
        if comm.size < self.layout.n_ranks:
            raise RanksLost("no rank must die before the search begins, got that; start again")
        is_first = comm.rank == 0
        opened = ulfm.all_or_none(
            comm, lambda: together(comm, lambda: self._open() if is_first else None)
        )
        if opened is not None:
            study, conductor = opened
            assert self._plan is not None
            trial_s = self._plan.limits.trial_s
            about = self.layout, conductor, self._is_interrupted
            self._desk = Desk(own, *about, registry, trial_s)
            self._lead(study, conductor, self._desk)
            return
        post = Post(own, [0])
        try:
            with ignored_signals():  # rank 0 decides
                Block(part, post, self._trainer).run()
        finally:
            post.close()

    def _divide(
        self, comm: "MPI.Intracomm"
    ) -> "tuple[MPI.Intracomm, MPI.Intracomm, Registry | None]":
        """For messages with rank 0, for those of a block, and who is behind each rank."""
        block = self.layout.block_of(comm.rank) if comm.rank else 0
        registry = Registry.gather(comm) if ulfm.is_on() else None
        return comm.Dup(), comm.Split(block, comm.rank), registry  # type: ignore[return-value]

    def _open(self) -> tuple[Study, Conductor]:
        plan = self._plan
        assert plan is not None
        make = Study.open if plan.restores else Study.create
        study = make(self._folder, plan.header)
        mirror = Mirror(self._folder / MIRROR, self._folder.name, plan.space, plan.merit_names)
        records = study.records()
        mirror.rebuild(records)
        coordinator = Coordinator(plan.searcher, plan.limits, plan.pruner, records)
        plan.begin()
        return study, Conductor(self.layout, coordinator, study, mirror, plan.hear)

    def _lead(self, study: Study, conductor: Conductor, office: "Desk | Alone") -> None:
        with study, handled_signals(self._note):
            try:
                office.run()
                self.interrupted = self.interrupted or conductor.interrupted
                self.refit = office.finish(self._refit_order(conductor.trials))
                if self.refit is not None and self.refit.state == "interrupted":
                    self.interrupted = self.interrupted or self.refit.reason
            finally:
                self.trials, self.reason = conductor.trials, conductor.reason
                self.hung = frozenset(office.hung)
                conductor.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.interrupted = f"interruption ({signal.Signals(number).name})"

    def _is_interrupted(self) -> str:
        return self.interrupted

    def _refit_order(self, trials: Trials) -> Order | None:
        plan = self._plan
        best = best_first(trials.rows)[:1]
        if plan is None or plan.refit_epochs is None or self.interrupted:
            return None
        if not best or best[0].state != "finished":
            return None
        epochs = plan.refit_epochs(best[0])
        return Order(best[0].number, best[0].params, best[0].attempts + 1, refit_epochs=epochs)

    @property
    def is_broken(self) -> bool:
        """Whether it ended by failures, on rank 0."""
        return self._plan is not None and bool(self._plan.limits.broken_by(self.trials))

    def records(self) -> list[Record]:
        """All that its log holds."""
        return read(self._folder / STUDY)

    def close(self, error: NNLOError | None = None) -> bool:
        """Wait for all ranks; each of them calls it. Raises the ``error`` of any on all.

        False on rank 0 where some hang and will never come; the others wait then.
        """
        if self.hung:
            return False
        comm = self._comm
        if comm is not None:
            meanwhile = self._desk.answer if self._desk is not None else None
            comm = _met(comm, meanwhile)
            comm, found = ulfm.together_with_survivors(comm, lambda one: _first_of(one, error))
            error = error or found
        if self._desk is not None:
            self._desk.close()
        if error is not None:
            raise error
        return True


def _met(comm: "MPI.Intracomm", meanwhile: Callable[[], None] | None) -> "MPI.Intracomm":
    """The communicator of the living ranks, once all of them are here."""
    while True:
        is_whole = True
        try:
            with ulfm.losses(comm):
                link.barrier(comm, meanwhile)
        except ulfm.PeersLost:
            ulfm.revoke(comm)
            is_whole = False
        if ulfm.agreed(comm, is_whole, meanwhile):
            return comm
        comm = ulfm.shrink(comm)


def _first_of(comm: "MPI.Intracomm", error: NNLOError | None) -> NNLOError | None:
    """The error of the first rank that has one, on all; collective."""
    try:
        link.agree(comm, error)
    except NNLOError as found:
        return found
    return None
