"""Virtual workers: any algorithm on any model, any order of arrival, one process, no MPI.

The loops are those of a real run; only who is heard next is decided here. A run is therefore
an exact function of the model, the data, the algorithm and the order: asynchrony that can be
repeated, for tests and for papers.
"""

import copy
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from nnlo.algo.base import Algorithm, Vector
from nnlo.data import Data
from nnlo.errors import ConfigError
from nnlo.history import History
from nnlo.model.adapter import ModelAdapter
from nnlo.model.kl_schedule import plan_kl
from nnlo.mpi.branch import Branch, BranchPlan
from nnlo.mpi.evaluate import Background, evaluate
from nnlo.mpi.frame import Frame, up_frame
from nnlo.mpi.loopback import Loopback, Order, branch_in_process, run_in_process
from nnlo.mpi.master import Master
from nnlo.mpi.plan import RootPlan
from nnlo.mpi.ring import Member, ring_in_process
from nnlo.mpi.root import Root
from nnlo.mpi.settings import RunSettings, check_shape, make_protocol
from nnlo.mpi.stopping import larger_is_better
from nnlo.mpi.submaster import SubMaster
from nnlo.mpi.topology import Topology, split
from nnlo.mpi.worker import Worker
from nnlo.mpi.workerplan import WorkerPlan

_SETTINGS = (
    *("num_epochs", "synchronous", "quorum"),
    "max_staleness",
    "num_masters",
    "num_processes",
    "seed",
    "validate_every",
    "monitor",
    "kl_schedule",
)


@dataclass(frozen=True)
class Simulated:
    """weights: shape (manifest.size,), at the end. arrivals: the root's child of each message,
    from 0, in the order in which the root heard them."""

    weights: Vector
    history: History
    arrivals: tuple[int, ...]


def simulate(
    algo: Algorithm,
    adapter: ModelAdapter,
    data: Data,
    n_workers: int,
    *,
    root_algo: Algorithm | None = None,
    order: Iterable[int] | None = None,
    validation: Data | None = None,
    **settings: Any,
) -> Simulated:
    """Train ``adapter``'s model by ``n_workers`` virtual workers that share ``data``.

    order: numbers from 0 of who the root hears next, workers or sub-masters; one that has
    nothing ready is passed over, and when the numbers end the others follow in turn. None:
    drawn at random from the seed. root_algo: as of ``MPIManager``. settings: num_epochs,
    synchronous, quorum, max_staleness, num_masters, num_processes (members of each worker),
    seed, validate_every, monitor and kl_schedule of ``RunSettings``. Without a master,
    n_workers is the number of ranks. The model holds the final weights afterwards. Raises
    ConfigError where ``MPIManager`` would for the same shape.
    """
    if unused := sorted(set(settings) - set(_SETTINGS)):
        raise ConfigError(
            f"a simulation must be given settings that it uses, got {', '.join(unused)}; "
            f"it uses {', '.join(_SETTINGS)}"
        )
    if n_workers < 1:
        raise ConfigError(f"a simulation must have at least one worker, got {n_workers}")
    run = RunSettings.make(**settings)
    n_ranks = run.num_masters + n_workers * run.num_processes if algo.has_master else n_workers
    topology = Topology(n_ranks, run.num_masters, run.num_processes, has_master=algo.has_master)
    check_shape(topology, run, algo, root_algo)
    crew = _Crew(_Desk(adapter), algo, data, run, n_workers, root_algo)
    weights = np.empty(adapter.manifest.size, np.float32)
    kl = plan_kl(run.kl_schedule, adapter, data.n_samples)
    if kl is not None:
        adapter.weigh_kl(kl[0].at(0.0) / kl[1])
    adapter.get_flat(weights)
    root = _make_root(crew.desk, data, validation, run)
    link = Loopback()
    children = crew.children(weights)
    above = root_algo or algo
    half = above.master(adapter.manifest.n_trainable, crew.n_heard)
    protocol = make_protocol(run, range(len(children)), above)
    keeps = above.needs_base
    master = Master(adapter.manifest, half, protocol, link, root, weights, keeps_bases=keeps)
    arrivals: list[int] = []
    root.begin(master)
    chosen = _recorded(_order(order, len(children), run.seed), arrivals)
    run_in_process(master, link, children, chosen)
    if master.error is not None:
        raise master.error
    root.finish(master)
    adapter.set_flat(master.weights)
    return Simulated(master.weights.copy(), root.history, tuple(arrivals))


def _make_root(desk: "_Desk", data: Data, validation: Data | None, run: RunSettings) -> Root:
    validate = None
    if validation is not None:
        validate = partial(evaluate, _VirtualAdapter(desk, desk.adapter), validation)
    plan = RootPlan(
        data.n_samples,
        run.num_epochs,
        desk.adapter.metric_names,
        validate,
        run.validate_every,
        run.monitor,
        larger_is_better(run.monitor),
        kl=plan_kl(run.kl_schedule, desk.adapter, data.n_samples),
    )
    return Root(plan, Background(in_line=True))


class _Crew:
    """Everybody below the root: workers of one or more members, sub-masters over them."""

    def __init__(
        self,
        desk: "_Desk",
        algo: Algorithm,
        data: Data,
        run: RunSettings,
        n_workers: int,
        root_algo: Algorithm | None,
    ) -> None:
        self.desk = desk
        self._algo = algo
        self._data = data
        self._run = run
        self._root_algo = root_algo
        n_members = run.num_processes if algo.has_master else n_workers
        n_rings = n_workers if algo.has_master else 1
        self._n_trainers = n_rings * n_members
        members = split(tuple(range(self._n_trainers)), n_rings)
        n_groups = min(run.num_masters - 1, n_rings)
        self._groups = split(members, max(n_groups, 1))
        self._is_tree = bool(n_groups)
        # For the algorithm: who exchanges with the root, or all ranks where there is none.
        self.n_heard = n_rings if algo.has_master else n_members
        if root_algo is not None:
            self.n_heard = n_groups

    def children(self, weights: Vector) -> dict[int, Generator[Frame, Frame, None]]:
        """What the root hears, from 0."""
        if not self._is_tree:
            ring = (self._worker(members, self.n_heard, weights) for members in self._groups[0])
            return dict(enumerate(ring))
        return {i: self._branch(i, group, weights) for i, group in enumerate(self._groups)}

    def _worker(
        self, members: Sequence[int], n_workers: int, weights: Vector
    ) -> Generator[Frame, Frame, None]:
        parts = [self._member(index, n_workers, len(members)).run(weights) for index in members]
        return parts[0] if len(parts) == 1 else ring_in_process(parts)

    def _member(self, index: int, n_workers: int, n_members: int) -> Worker:
        own = copy.copy(self._data)
        own.set_shard(index, self._n_trainers)
        algo, adapter = self._algo, _VirtualAdapter(self.desk, self.desk.adapter)
        seed = np.random.SeedSequence([self._run.seed, index, 0]).generate_state(1)[0]
        adapter.seed(int(seed))
        manifest = adapter.manifest
        return (Worker if n_members == 1 else Member)(
            index,
            adapter,
            own,
            algo.worker(manifest.n_trainable, n_workers),
            self._frame(),
            WorkerPlan(
                n_epochs=self._run.num_epochs,
                sync_every=algo.sync_every,
                trains_locally=algo.trains_locally,
                pulls=algo.pulls,
                base_rate=adapter.learning_rate if algo.trains_locally else 1.0,
                seed=int(seed),
                kl=plan_kl(self._run.kl_schedule, adapter, self._data.n_samples),
            ),
        )

    def _frame(self) -> Frame:
        adapter = self.desk.adapter
        return up_frame(adapter.manifest, 1 + len(adapter.metric_names))()

    def _branch(
        self, index: int, group: Sequence[Sequence[int]], weights: Vector
    ) -> Generator[Frame, Frame, None]:
        manifest, link = self.desk.adapter.manifest, Loopback()
        names = self.desk.adapter.metric_names
        n_workers = self.n_heard if self._root_algo is None else len(group)
        below = {members[0]: self._worker(members, n_workers, weights) for members in group}
        protocol = make_protocol(self._run, sorted(below), self._algo)
        middle: SubMaster | Branch
        if self._root_algo is None:
            merge = self._algo.merge
            middle = SubMaster(index, manifest, merge, protocol, link, self._frame(), names)
        else:
            above, n = self._root_algo, manifest.n_trainable
            plan = BranchPlan(index, names, n, above.sync_every, above.pulls)
            middle = Branch(plan, above.worker(n, self.n_heard), self._frame())
            half, keeps = self._algo.master(n, len(group)), self._algo.needs_base
            middle.begin(
                Master(manifest, half, protocol, link, middle, weights, keeps_bases=keeps),
                weights,
                version=0,
            )
        generator = np.random.default_rng([self._run.seed, index])
        order = min if self._run.synchronous else lambda ready: int(generator.choice(ready))
        return branch_in_process(middle, link, below, order)


def _order(order: Iterable[int] | None, n_workers: int, seed: int) -> Order:
    if order is None:
        generator = np.random.default_rng(seed)
        return lambda ready: int(generator.choice(np.asarray(ready)))
    numbers = iter(order)
    turn = [-1]

    def follow(ready: Sequence[int]) -> int:
        for misses, number in enumerate(numbers):
            if not 0 <= number < n_workers:
                raise ConfigError(
                    f"an order must name workers from 0 to {n_workers - 1}, got {number}"
                )
            if number in ready:
                return number
            if misses > 100 * n_workers:  # an endless order may never name who is ready
                break
        later = [rank for rank in ready if rank > turn[0]]
        turn[0] = later[0] if later else ready[0]
        return turn[0]

    return follow


def _recorded(order: Order, arrivals: list[int]) -> Order:
    def choose(ready: Sequence[int]) -> int:
        arrivals.append(order(ready))
        return arrivals[-1]

    return choose


class _Desk:
    """The one real model, and whose weights lie on it."""

    def __init__(self, adapter: ModelAdapter) -> None:
        self.adapter = adapter
        self.user: _VirtualAdapter | None = None

    def give_to(self, user: "_VirtualAdapter") -> ModelAdapter:
        if self.user is not user:
            if self.user is not None:
                self.user.leave()
            self.user = user
            user.sit_down()
        return self.adapter


class _VirtualAdapter:
    """One of several models that share a real one by taking turns."""

    def __init__(self, desk: _Desk, adapter: ModelAdapter) -> None:
        self.manifest = adapter.manifest
        self.metric_names = adapter.metric_names
        self.suffix = adapter.suffix
        self._desk = desk
        self._weights = np.empty(self.manifest.size, np.float32)
        adapter.get_flat(self._weights)
        self._local = adapter.local_state()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._desk.give_to(self), name)

    @property
    def learning_rate(self) -> float:
        return self._desk.give_to(self).learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._desk.give_to(self).learning_rate = value

    def sit_down(self) -> None:
        self._desk.adapter.set_flat(self._weights)
        self._desk.adapter.load_local_state(self._local)

    def leave(self) -> None:
        self._desk.adapter.get_flat(self._weights)
        self._local = self._desk.adapter.local_state()
