"""Virtual workers: any algorithm on any model, any order of arrival, one process, no MPI.

The loops are those of a real run; only who is heard next is decided here. A run is therefore
an exact function of the model, the data, the algorithm and the order: asynchrony that can be
repeated, for tests and for papers.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from nnlo.algo.base import Vector
from nnlo.algo.downpour import Downpour
from nnlo.data import Data
from nnlo.errors import ConfigError
from nnlo.history import History
from nnlo.model.adapter import ModelAdapter
from nnlo.mpi.evaluate import Background, evaluate
from nnlo.mpi.loopback import Loopback, Order, run_in_process
from nnlo.mpi.master import Master, up_frame
from nnlo.mpi.protocol import MasterProtocol
from nnlo.mpi.root import Root, RootPlan
from nnlo.mpi.settings import RunSettings
from nnlo.mpi.stopping import larger_is_better
from nnlo.mpi.worker import Worker, WorkerPlan

_SETTINGS = ("num_epochs", "synchronous", "quorum", "seed", "validate_every", "monitor")


@dataclass(frozen=True)
class Simulated:
    """weights: shape (manifest.size,), at the end. arrivals: worker of each update, from 0, in
    the order in which the master heard them."""

    weights: Vector
    history: History
    arrivals: tuple[int, ...]


def simulate(
    algo: Downpour,
    adapter: ModelAdapter,
    data: Data,
    n_workers: int,
    *,
    order: Iterable[int] | None = None,
    validation: Data | None = None,
    **settings: Any,
) -> Simulated:
    """Train ``adapter``'s model by ``n_workers`` virtual workers that share ``data``.

    order: worker numbers from 0, one an arrival; a worker that has nothing ready is passed
    over, and when the numbers end the others follow in turn. None: drawn at random from the
    seed. settings: num_epochs, synchronous, quorum, seed, validate_every and monitor of
    ``RunSettings``. The model holds the final weights afterwards.
    """
    if unused := sorted(set(settings) - set(_SETTINGS)):
        raise ConfigError(
            f"a simulation must be given settings that it uses, got {', '.join(unused)}; "
            f"it uses {', '.join(_SETTINGS)}"
        )
    if n_workers < 1:
        raise ConfigError(f"a simulation must have at least one worker, got {n_workers}")
    run = RunSettings.make(**settings)
    manifest = adapter.manifest
    weights = np.empty(manifest.size, np.float32)
    adapter.get_flat(weights)
    desk = _Desk(adapter)
    root = _make_root(desk, data, validation, run)
    link = Loopback()
    protocol = MasterProtocol(range(n_workers), run.quorum if run.synchronous else None)
    half = algo.master(manifest.n_trainable)
    master = Master(manifest, half, protocol, link, root, weights)
    workers = {
        index: _make_worker(index, n_workers, algo, desk, data, run).run(weights)
        for index in range(n_workers)
    }
    arrivals: list[int] = []
    root.begin(master)
    run_in_process(master, link, workers, _recorded(_order(order, n_workers, run.seed), arrivals))
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
    )
    return Root(plan, Background(in_line=True))


def _make_worker(
    index: int, n_workers: int, algo: Downpour, desk: "_Desk", data: Data, run: RunSettings
) -> Worker:
    own = copy.copy(data)
    own.set_shard(index, n_workers)
    adapter = _VirtualAdapter(desk, desk.adapter)
    seed = np.random.SeedSequence([run.seed, index, 0]).generate_state(1)[0]
    adapter.seed(int(seed))
    manifest = adapter.manifest
    return Worker(
        index,
        adapter,
        own,
        algo.worker(manifest.n_trainable),
        up_frame(manifest, 1 + len(adapter.metric_names))(),
        WorkerPlan(
            n_epochs=run.num_epochs,
            sync_every=algo.sync_every,
            trains_locally=algo.trains_locally,
            base_rate=adapter.learning_rate if algo.trains_locally else 1.0,
        ),
    )


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

    def sit_down(self) -> None:
        self._desk.adapter.set_flat(self._weights)
        self._desk.adapter.load_local_state(self._local)

    def leave(self) -> None:
        self._desk.adapter.get_flat(self._weights)
        self._local = self._desk.adapter.local_state()
