"""Which rank does what: a pure function of the number of ranks."""

from dataclasses import dataclass

from nnlo.errors import ConfigError


@dataclass(frozen=True)
class Topology:
    """Rank 0 is the master, every other rank a worker; a single rank is both.

    n_ranks: ranks of the run, >= 1.
    """

    n_ranks: int

    def __post_init__(self) -> None:
        if self.n_ranks < 1:
            raise ConfigError(f"a run must have at least one rank, got {self.n_ranks}")

    @property
    def workers(self) -> tuple[int, ...]:
        """Ranks that train, in the order of their shards."""
        return tuple(range(1, self.n_ranks)) if self.n_ranks > 1 else (0,)

    @property
    def n_workers(self) -> int:
        return len(self.workers)

    def worker_index(self, rank: int) -> int:
        """Which shard of every epoch ``rank`` reads, from 0."""
        return self.workers.index(rank)
