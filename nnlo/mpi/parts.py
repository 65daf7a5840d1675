"""The parts that a rank needs for its role, made of what ``prepare`` has found."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from nnlo.algo.base import Algorithm
from nnlo.model.kl_schedule import plan_kl
from nnlo.mpi import ulfm
from nnlo.mpi.agenda import Position, Share, own_share
from nnlo.mpi.branch import Branch, BranchPlan, load_branch_state
from nnlo.mpi.crew import Crew
from nnlo.mpi.ends import ParentEnd
from nnlo.mpi.evaluate import Recalibration
from nnlo.mpi.frame import Frame, Layout, up_frame
from nnlo.mpi.guard import Guard, Keeper
from nnlo.mpi.master import Master
from nnlo.mpi.observer import Nobody, Observer
from nnlo.mpi.outbox import Link
from nnlo.mpi.overlap import EarlyMember, EarlyRing
from nnlo.mpi.prepared import Job, Prepared
from nnlo.mpi.reducer import make_reducer
from nnlo.mpi.ring import Member
from nnlo.mpi.ringend import RingEnd
from nnlo.mpi.settings import make_protocol
from nnlo.mpi.slices import Slice, cut, cut_state
from nnlo.mpi.submaster import SubMaster
from nnlo.mpi.topology import Topology
from nnlo.mpi.vigil import Vigil
from nnlo.mpi.worker import Worker
from nnlo.mpi.workerplan import WorkerPlan, load_worker_state
from nnlo.spans import Spans

if TYPE_CHECKING:
    from mpi4py import MPI

M = TypeVar("M", bound=Master)


@dataclass(frozen=True)
class Parts:
    """Makes them for one rank; what concerns messages only is the business of ``roles``."""

    comm: "MPI.Intracomm | None"
    job: Job
    topology: Topology
    prepared: Prepared
    spans: Spans

    @property
    def rank(self) -> int:
        return 0 if self.comm is None else self.comm.rank

    @property
    def dies_alone(self) -> bool:
        """Whether the others regroup without this rank once its code has raised."""
        goes_on = self.job.settings.on_worker_error == "continue" and ulfm.is_on()
        return goes_on and self.rank > 0 and not self.topology.is_star

    @property
    def root_algo(self) -> Algorithm:
        """What the root runs."""
        return self.job.root_algo or self.job.algo

    @property
    def n_workers(self) -> int:
        """For the algorithm: who exchanges with the root, or all ranks where there is none."""
        topology = self.topology
        if not topology.has_master:
            return len(topology.trainers)
        return len(topology.sub_masters) if self.job.root_algo else topology.n_workers

    def frame(self, rank: int, layout: Layout | None = None) -> Frame:
        """A frame for messages from ``rank`` to its parent, or to a master of ``layout`` only."""
        topology, prepared = self.topology, self.prepared
        # Below a sub-master the states of all its workers come together.
        n_states = len(topology.leaders_under(rank)) + (rank in topology.sub_masters)
        n_sums = 1 + len(prepared.adapter.metric_names)
        capacity = n_states * prepared.state_bytes
        return up_frame(layout or prepared.adapter.manifest, n_sums, capacity)()

    @cached_property
    def slices(self) -> tuple[Slice, ...]:
        """What each of several masters owns; one slice where there is one master."""
        return cut(self.prepared.adapter.manifest, self.topology.n_shards)

    @cached_property
    def recalibration(self) -> Recalibration | None:
        """What brings the state of weights up to date, where that is asked for."""
        n_batches = self.job.settings.recalibrate
        if not n_batches:
            return None
        data = copy.copy(self.job.data)
        data.set_shard(0, 1)
        return Recalibration(self.prepared.adapter, data, n_batches)

    # Masters ----------------------------------------------------------------------------------

    def master(
        self,
        observer: Observer,
        link: Link,
        children: Sequence[int],
        kind: type[M],
        observers: Sequence[int] = (),
    ) -> M:
        """The root's master, or a rank's own where there is none above it."""
        algo, prepared = self.root_algo, self.prepared
        manifest, saved = prepared.adapter.manifest, prepared.master_state
        layout: Layout = manifest
        weights = prepared.weights
        if self.topology.n_shards > 1:
            layout = own = self.slices[self.rank]
            weights = weights[own.start : own.stop]
        half = algo.master(layout.n_trainable, self.n_workers)
        master = kind(
            layout,
            half,
            make_protocol(
                self.job.settings, children, algo, observers, keeps_children=self._hires
            ),
            link,
            observer,
            weights,
            prepared.version,
            keeps_bases=algo.needs_base,
            spans=self.spans,
        )
        if saved is not None:
            arrays = saved.arrays
            if self.topology.n_shards > 1:
                arrays = cut_state(arrays, self.slices[self.rank], manifest.n_trainable)
            half.load_state(arrays)
            if saved.base_learning_rate == half.learning_rate:
                half.learning_rate = saved.learning_rate
        return master

    @property
    def _hires(self) -> bool:
        """Whether workers take over from one that is lost."""
        survives = ulfm.is_on() or self.job.settings.on_worker_error == "continue"
        return survives and self.topology.is_star

    def crew(self) -> Crew | None:
        """Who trains on what, where the run goes on without a worker that is lost; else None."""
        if not self._hires:
            return None
        shares: dict[int, list[Share]] = {rank: [] for rank in self.topology.spares}
        for shard, rank in enumerate(self.topology.leaders):
            shares[rank] = own_share(shard, self._start(rank), self.job.settings.num_epochs)
        return Crew(shares, self.job.data.n_batches)

    def _start(self, rank: int) -> Position:
        """Where a worker begins; on rank 0."""
        prepared = self.prepared
        if prepared.checkpoint is None or not prepared.ranks_restored:
            return prepared.first_epoch, 0
        epoch, batch = prepared.checkpoint.arrays[f"worker/{rank}/position"]
        return int(epoch), int(batch)

    def vigil(self) -> Vigil:
        """The clock of this rank's children."""
        after = self.job.settings.suspect_after
        if self.topology.sub_masters and self.rank == 0:
            after *= 2  # what a worker is silent of must not be blamed on its sub-master
        return Vigil((), after, time.perf_counter())

    def guard(
        self, keeper: Keeper, end: ParentEnd, lose: Callable[[int, str], None] | None = None
    ) -> Guard:
        """Who looks after this rank's children."""
        topology = self.topology
        return Guard(
            keeper,
            end,
            self.prepared.registry,
            lambda child: topology.worker_of(child) or (child,),
            topology.name,
            self.prepared.watch,
            lose,
        )

    def own_slice(self, link: Link, children: Sequence[int]) -> Master:
        """The master of one slice that is not the root's, which reads it as an observer."""
        return self.master(Nobody(), link, children, Master, observers=[0])

    def sub_master(self, link: Link) -> SubMaster:
        """One that passes on what comes from below."""
        manifest = self.prepared.adapter.manifest
        return SubMaster(
            self.rank,
            manifest,
            self.job.algo.merge,
            make_protocol(self.job.settings, self.topology.children(self.rank), self.job.algo),
            link,
            self.frame(self.rank),
            self.prepared.adapter.metric_names,
        )

    def branch(self, link: Link) -> Branch:
        """One with an algorithm of its own."""
        above, own, prepared = self.root_algo, self.job.algo, self.prepared
        manifest = prepared.adapter.manifest
        half = above.worker(manifest.n_trainable, self.n_workers)
        plan = BranchPlan(
            self.rank,
            prepared.adapter.metric_names,
            manifest.n_trainable,
            above.sync_every,
            above.pulls,
            sends_state=self.job.settings.checkpoint is not None,
        )
        branch = Branch(plan, half, self.frame(self.rank))
        children = self.topology.children(self.rank)
        below = own.master(manifest.n_trainable, len(children))
        if prepared.own_state:
            load_branch_state(prepared.own_state, below, half)
        master = Master(
            manifest,
            below,
            make_protocol(self.job.settings, children, own),
            link,
            branch,
            prepared.weights,
            keeps_bases=own.needs_base,
            spans=self.spans,
        )
        branch.begin(master, prepared.weights, prepared.version)
        return branch

    # Workers ----------------------------------------------------------------------------------

    @cached_property
    def reducer(self) -> RingEnd | None:
        """Where the ranks of a run without master reduce; None if there is nothing to reduce.

        Raises ConfigError for a way to reduce that this model or machine does not allow.
        """
        if self.topology.has_master:
            return None
        prepared = self.prepared
        ring = make_reducer(self.job.algo, prepared.adapter, prepared.ring, prepared.beside)
        return ring and ring.watched_by(prepared.watch, self.topology.trainers)

    def worker(self) -> Worker:
        """This rank's worker, or its part of one."""
        algo, prepared, topology = self.job.algo, self.prepared, self.topology
        adapter = prepared.adapter
        under = topology.n_workers if topology.has_master else len(topology.trainers)
        if self.job.root_algo is not None:
            under = len(topology.leaders_under(topology.parent(topology.worker_of(self.rank)[0])))
        half = algo.worker(adapter.manifest.n_trainable, under)
        start = (prepared.first_epoch, 0)
        if prepared.own_state:
            start = load_worker_state(prepared.own_state, adapter, half, prepared.weights)
        if self.rank in topology.spares:
            index, place = self.rank, None
        else:
            index, place = topology.trainers.index(self.rank), start
        seed = np.random.SeedSequence([self.job.settings.seed, index]).generate_state(1)[0]
        make: Callable[..., Worker] = Worker if prepared.ring is None else Member
        if isinstance(self.reducer, EarlyRing):
            make = partial(EarlyMember, self.reducer.ready)
        return make(
            self.rank,
            adapter,
            self.job.data,
            half,
            self.frame((topology.worker_of(self.rank) or (self.rank,))[0]),
            WorkerPlan(
                n_epochs=self.job.settings.num_epochs,
                sync_every=algo.sync_every,
                trains_locally=algo.trains_locally,
                # A checkpoint may hold a rate that a callback had changed: never that one.
                base_rate=prepared.built.base_rate,
                pulls=algo.pulls,
                start=place,
                version=prepared.version,
                sends_state=self.job.settings.checkpoint is not None,
                seed=int(seed),
                kl=plan_kl(self.job.settings.kl_schedule, adapter, self.job.data.n_samples),
            ),
            spans=self.spans,
        )
