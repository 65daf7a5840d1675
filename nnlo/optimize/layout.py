"""Which ranks of a search form which block: rank 0 coordinates, the others train."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from nnlo.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """Rank 0, and blocks of ``block_size`` ranks, numbered from 1, in the order of ranks.

    A single rank is both rank 0 and block 1. n_folds: of each trial; 1 for no cross-validation.
    Raises ConfigError for sizes that do not fit, with those that do.
    """

    n_ranks: int
    block_size: int = 1
    n_folds: int = 1

    def __post_init__(self) -> None:
        if self.block_size < 1 or self.n_folds < 1:
            raise ConfigError(
                "--block-size and --n-fold must be at least 1, got "
                f"{self.block_size} and {self.n_folds}; leave them out for 1"
            )
        n_left = max(1, self.n_ranks - 1)
        if n_left % self.block_size:
            fitting = [str(size) for size in range(1, n_left + 1) if n_left % size == 0]
            whole = n_left // self.block_size
            starts = [1 + n * self.block_size for n in (whole, whole + 1) if n]
            raise ConfigError(
                f"all ranks but rank 0 must form whole blocks, got {self.n_ranks} ranks for "
                f"--block-size {self.block_size}; block sizes that fit are "
                f"{', '.join(fitting)}; or start {' or '.join(map(str, starts))} ranks"
            )

    @property
    def n_blocks(self) -> int:
        return max(1, self.n_ranks - 1) // self.block_size

    @property
    def n_at_once(self) -> int:
        """Folds of a trial that run side by side: all where they share a block evenly, else one
        after another, each on the whole block."""
        return self.n_folds if self.block_size % self.n_folds == 0 else 1

    def block_of(self, rank: int) -> int:
        """The block of a rank that trains."""
        return max(0, rank - 1) // self.block_size + 1

    def members(self, block: int) -> range:
        """Its ranks; the first leads it."""
        if self.n_ranks == 1:
            return range(1)
        start = 1 + (block - 1) * self.block_size
        return range(start, start + self.block_size)

    def speakers(self, block: int) -> list[int]:
        """The ranks that lead a part of a trial: the first of each fold's."""
        return [part[0] for part in cut(self.members(block), self.n_at_once)]

    def describe(self) -> str:
        """In words, for the first line of a search."""
        if self.n_ranks == 1:
            return "one process, trials one after another" + self._describe_folds()
        blocks = f"{self.n_blocks} block{'s' * (self.n_blocks > 1)}"
        ranks = f"{self.block_size} rank{'s' * (self.block_size > 1)}"
        return f"rank 0 and {blocks} of {ranks}" + self._describe_folds()

    def _describe_folds(self) -> str:
        if self.n_folds == 1:
            return ""
        how = "side by side" if self.n_at_once > 1 else "one after another"
        return f", {self.n_folds} folds {how}"


def cut(items: Sequence[T], n: int) -> list[Sequence[T]]:
    """``items`` in ``n`` parts in a row, whose lengths differ by at most one."""
    length, more = divmod(len(items), n)
    ends = [i * length + min(i, more) for i in range(n + 1)]
    return [items[start:end] for start, end in itertools.pairwise(ends)]
