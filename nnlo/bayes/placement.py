"""Which rank holds which particles; pure arithmetic."""

from dataclasses import dataclass

from nnlo.errors import ConfigError


@dataclass(frozen=True)
class Placement:
    """Particles 0 .. n_particles - 1 in even, contiguous parts on groups of ranks.

    group_size: ranks that share the batches of each of their particles. Every group holds a
    particle at least. Raises ConfigError where that cannot be.
    """

    n_particles: int
    n_ranks: int = 1
    group_size: int = 1

    def __post_init__(self) -> None:
        if self.n_particles < 1 or self.group_size < 1:
            raise ConfigError(
                "particles and ranks per particle must be at least 1, got "
                f"{self.n_particles} and {self.group_size}"
            )
        if self.n_ranks % self.group_size:
            raise ConfigError(
                f"ranks must divide into groups of {self.group_size}, got {self.n_ranks}; "
                f"start {self.n_ranks // self.group_size * self.group_size or self.group_size}"
            )
        if self.n_particles < self.n_groups:
            raise ConfigError(
                f"every group of ranks must have a particle, got {self.n_particles} particles "
                f"for {self.n_groups} groups; start at most "
                f"{self.n_particles * self.group_size} ranks or ask for more ranks per particle"
            )

    @property
    def n_groups(self) -> int:
        return self.n_ranks // self.group_size

    def group(self, rank: int) -> int:
        """The group of ``rank``."""
        return rank // self.group_size

    def member(self, rank: int) -> int:
        """The place of ``rank`` in its group; 0 leads it."""
        return rank % self.group_size

    def pids(self, rank: int) -> range:
        """The particles of the group of ``rank``."""
        group = self.group(rank)
        return range(self._start(group), self._start(group + 1))

    def owner(self, pid: int) -> int:
        """The rank that leads the group of particle ``pid``."""
        group = next(g for g in range(self.n_groups) if pid < self._start(g + 1))
        return group * self.group_size

    def describe(self) -> str:
        """The placement in words."""
        if self.n_ranks == 1:
            return f"{self.n_particles} particles in one process"
        each = -(-self.n_particles // self.n_groups)
        groups = f"groups of {self.group_size} ranks" if self.group_size > 1 else "ranks"
        most = "at most " if self.n_particles % self.n_groups else ""
        return f"{self.n_particles} particles on {self.n_groups} {groups}, {most}{each} each"

    def _start(self, group: int) -> int:
        return group * self.n_particles // self.n_groups
