"""Which rank does what: a pure function of the number of ranks and the shape asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal, TypeVar

from nnlo.errors import ConfigError

T = TypeVar("T")

Role = Literal["alone", "root", "sub-master", "shard", "leader", "member", "replica", "spare"]
"""leader: of a worker, the one rank of it that exchanges; most workers have no other member.
replica: a rank of a run without master. spare: one that waits to take the place of a lost one."""


@dataclass(frozen=True)
class Topology:
    """Masters first, then workers, then spares; a single rank is both master and worker.

    n_ranks: of the run, >= 1. n_masters: the root and its sub-masters. n_processes: ranks that
    make up one worker. n_shards: masters that share the vector, the root one of them.
    has_master: False for one ring of all ranks. n_spares: how many of the ranks wait. numbers:
    by which users know the ranks, where some were lost; () for the ranks themselves.
    """

    n_ranks: int
    n_masters: int = 1
    n_processes: int = 1
    n_shards: int = 1
    has_master: bool = True
    n_spares: int = 0
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("n_ranks", "n_masters", "n_processes", "n_shards"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        n_masters = self.n_masters + self.n_shards - 1
        if not self.has_master and max(n_masters, self.n_processes) > 1:
            raise ConfigError(
                f"a mode without a master is one ring of all ranks, got n_masters "
                f"{self.n_masters}, n_shards {self.n_shards} and n_processes "
                f"{self.n_processes}; leave them out"
            )
        if self.n_masters > 1 and self.n_shards > 1:
            raise ConfigError(
                f"masters can be stacked or share the weights, not both, got n_masters "
                f"{self.n_masters} and n_shards {self.n_shards}; leave one of them out"
            )
        if self.n_spares and self._n_busy < 2:
            raise ConfigError(
                f"two ranks must train besides the {_some(self.n_spares, 'spare')}, got "
                f"{_some(self.n_ranks, 'rank')}; start more ranks or ask for fewer spares"
            )
        if self.has_master and n_masters > 1 and self._n_busy <= n_masters:
            besides = f" and {_some(self.n_spares, 'spare')}" if self.n_spares else ""
            raise ConfigError(
                f"there must be a worker besides the {n_masters} masters{besides}, got "
                f"{self.n_ranks} ranks; start more ranks or ask for fewer masters"
            )

    @property
    def _n_busy(self) -> int:
        return self.n_ranks - self.n_spares

    @property
    def is_star(self) -> bool:
        """Whether a root exchanges with workers of one rank each, and with nobody else."""
        one_each = all(len(worker) == 1 for worker in self.workers)
        shared = self.n_shards > 1 or self.sub_masters
        return self.has_master and self.n_ranks > 1 and one_each and not shared

    @property
    def spares(self) -> tuple[int, ...]:
        """The last ranks."""
        return tuple(range(self._n_busy, self.n_ranks))

    def reduced_to(self, left: Sequence[int]) -> "Topology":
        """That of the ranks that are ``left``, now 0, 1 ..., spares in the place of lost ones.

        With fewer sub-masters where there are no workers for them, at last with none.
        """
        n_spares = max(self.n_spares - (self.n_ranks - len(left)), 0)
        n_masters = min(self.n_masters, max(len(left) - n_spares - 1, 1))
        numbers = tuple(self.number(rank) for rank in left)
        return replace(
            self, n_ranks=len(left), n_spares=n_spares, n_masters=n_masters, numbers=numbers
        )

    @property
    def sub_masters(self) -> tuple[int, ...]:
        """Ranks between the root and the workers: no more than there are workers for."""
        if self.n_ranks == 1 or not self.has_master:
            return ()
        n = self.n_masters - 1
        while n > 0 and n > self._count_workers(n):
            n -= 1
        return tuple(range(1, n + 1))

    def _count_workers(self, n_sub_masters: int) -> int:
        return max((self._n_busy - self.n_shards - n_sub_masters) // self.n_processes, 1)

    @cached_property
    def workers(self) -> tuple[tuple[int, ...], ...]:
        """The ranks of each worker, its leader first.

        Ranks that do not fill another worker join the first ones.
        """
        if self.n_ranks == 1:
            return ((0,),)
        first = self.n_shards + len(self.sub_masters) if self.has_master else 0
        n_workers = self._count_workers(len(self.sub_masters)) if self.has_master else 1
        return split(tuple(range(first, self._n_busy)), n_workers)

    @property
    def n_workers(self) -> int:
        return len(self.workers)

    @property
    def leaders(self) -> tuple[int, ...]:
        """The rank of each worker that exchanges."""
        return tuple(worker[0] for worker in self.workers)

    @property
    def trainers(self) -> tuple[int, ...]:
        """All ranks that read a shard, in the order of their shards."""
        return tuple(rank for worker in self.workers for rank in worker)

    @cached_property
    def _groups(self) -> dict[int, tuple[int, ...]]:
        groups = split(self.leaders, max(len(self.sub_masters), 1))
        return dict(zip(self.sub_masters or (0,), groups, strict=True))

    def role(self, rank: int) -> Role:
        if self.n_ranks == 1:
            return "alone"
        if rank in self.spares:
            return "spare"
        if not self.has_master:
            return "replica"
        if rank == 0:
            return "root"
        if rank in self.sub_masters:
            return "sub-master"
        if rank < self.n_shards:
            return "shard"
        return "leader" if rank in self.leaders else "member"

    def worker_of(self, rank: int) -> tuple[int, ...]:
        """The ranks of the worker that ``rank`` belongs to; empty for a master or spare."""
        return next((worker for worker in self.workers if rank in worker), ())

    def children(self, rank: int) -> tuple[int, ...]:
        """Ranks that a master hears; spares among them where it can employ them itself."""
        if rank == 0 and self.sub_masters:
            return self.sub_masters
        return self._groups[rank] + (self.spares if self.is_star else ())

    def leaders_under(self, rank: int) -> tuple[int, ...]:
        """Leaders of the workers below ``rank``, or itself where it is one or may become one."""
        return (rank,) if rank in (*self.leaders, *self.spares) else self._groups[rank]

    def parent(self, rank: int) -> int:
        """The master that ``rank``, a sub-master, leader or spare, exchanges with."""
        if rank in self.sub_masters or rank in self.spares:
            return 0
        return next(master for master, group in self._groups.items() if rank in group)

    def number(self, rank: int) -> int:
        """By which users know ``rank``: its place when the job was started."""
        return self.numbers[rank] if self.numbers else rank

    def name(self, rank: int) -> str:
        """What ``rank`` is called in logs and timelines."""
        kinds = {"alone": "train", "root": "master"}
        role = self.role(rank)
        return kinds.get(role) or f"{'worker' if role == 'leader' else role} {self.number(rank)}"

    def describe(self) -> str:
        """In words, for people."""
        return self.shape + (f", {_some(self.n_spares, 'spare')}" if self.n_spares else "")

    @property
    def shape(self) -> str:
        """Who trains, in words, also for checkpoints: spares don't change it."""
        if self.n_ranks == 1:
            return "one process"
        sizes = sorted({len(worker) for worker in self.workers})
        ring = f" of {' or '.join(map(str, sizes))} ranks" if sizes != [1] else ""
        if not self.has_master:
            return f"{self._n_busy} ranks alike"
        n = len(self.sub_masters)
        masters = f"a master, {_some(n, 'sub-master')}" if n else "a master"
        if self.n_shards > 1:
            masters = f"{self.n_shards} masters that share the weights"
        return f"{masters} and {_some(self.n_workers, 'worker')}{ring}"

    def remarks(self) -> list[str]:
        """Where the shape is not quite what was asked for."""
        remarks = []
        asked = self.n_masters - 1
        if self.n_ranks > 1 and self.has_master and len(self.sub_masters) < asked:
            remarks.append(
                f"{asked} sub-masters were asked for, but there are workers for "
                f"{len(self.sub_masters)}; the other ranks train"
            )
        sizes = {len(worker) for worker in self.workers}
        if self.has_master and sizes != {self.n_processes}:
            remarks.append(
                f"the ranks do not divide into workers of {self.n_processes}; there are workers "
                f"of {' and '.join(map(str, sorted(sizes)))}"
            )
        return remarks


def _some(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


def split(them: tuple[T, ...], n: int) -> tuple[tuple[T, ...], ...]:
    """``n`` runs of neighbours whose lengths differ by at most one, the longer ones first."""
    least, more = divmod(len(them), n)
    ends = [index * least + min(index, more) for index in range(n + 1)]
    return tuple(them[a:b] for a, b in pairwise(ends))
