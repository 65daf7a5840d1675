"""Which rows of which file make up one rank's part of one epoch: arithmetic, no files.

All ranks permute files, and blocks of rows within a file, by the same seed and epoch. That
gives one global order of all rows, which is cut into ``n_shards`` contiguous ranges. A rank
walks through its range in windows, and shuffles rows inside a window by itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int, int]
"""``(file index, start, stop)``: rows ``start`` to ``stop`` of one file."""

# First words of the seeds, so that no two kinds of permutation draw from the same generator.
_FILES, _BLOCKS, _ROWS = 1, 2, 3


class Window(NamedTuple):
    """Rows ``start`` to ``stop`` of the shard, and where they lie, in order.

    ``spans`` are found while they are used, so that files can be opened one after the other.
    """

    start: int
    stop: int
    spans: Iterator[Span]


@dataclass(frozen=True)
class Plan:
    """One shard of one epoch. Rows are numbered from 0 to ``n_rows`` within the shard.

    counts: samples of each file. shard: in [0, n_shards). Two plans that differ only in
    ``shard`` have ``n_rows`` that differ by at most 1, and share no sample.
    """

    counts: tuple[int, ...]
    batch_size: int
    seed: int = 0
    epoch: int = 0
    shard: int = 0
    n_shards: int = 1
    shuffle: bool = True

    @property
    def n_rows(self) -> int:
        """Samples of this shard."""
        return self._edge(self.shard + 1) - self._edge(self.shard)

    @property
    def n_batches(self) -> int:
        """Batches of this shard: equal for all shards that have enough samples."""
        return -(-self.n_rows // self.batch_size) + int(self._splits_last)

    def row_of(self, batch: int) -> int:
        """First row of ``batch``; ``n_rows`` when there is no such batch."""
        if self._splits_last and batch == self.n_batches - 1:
            return self.n_rows - self.batch_size // 2
        return min(batch * self.batch_size, self.n_rows)

    def batches(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Row ranges of the batches from row ``start``, where one begins, to row ``stop``."""
        edges = list(range(start, stop, self.batch_size))
        if not edges:
            return []
        if self._splits_last and stop == self.n_rows and stop - edges[-1] == self.batch_size:
            edges.append(stop - self.batch_size // 2)
        return list(zip(edges, [*edges[1:], stop], strict=True))

    def windows(
        self, window_rows: int, block_rows: Callable[[int], int], first_row: int = 0
    ) -> Iterator[Window]:
        """Windows of the shard, from the one that holds ``first_row`` on.

        window_rows: a multiple of the batch size. block_rows: rows that stay together, for a
        file index; asked for no file that the shard does not touch.
        """
        for start in range(first_row - first_row % window_rows, self.n_rows, window_rows):
            stop = min(start + window_rows, self.n_rows)
            yield Window(start, stop, self._spans(start, stop, block_rows))

    def pieces(self, start: int, stop: int) -> Iterator[Span]:
        """Files behind rows ``start`` to ``stop``, with positions in each file's own order.

        What a position means is for the caller to say: a row of ``file_rows`` or of a block.
        """
        low, high = self._edge(self.shard) + start, self._edge(self.shard) + stop
        ends = self._file_ends
        index = int(np.searchsorted(ends, low, side="right"))
        while low < high:
            file = int(self._file_order[index])
            begin = int(ends[index]) - self.counts[file]
            upto = min(high, int(ends[index]))
            if low < upto:
                yield file, low - begin, upto - begin
            low, index = upto, index + 1

    def file_rows(self, file: int) -> NDArray[np.int64]:
        """Order of the rows of one file, the same on all ranks."""
        return self._permutation(self.counts[file], _BLOCKS, file)

    def window_order(self, start: int, stop: int) -> NDArray[np.int64]:
        """Order in which the rows ``start`` to ``stop`` of a window are used, from 0."""
        return self._permutation(stop - start, _ROWS, self.shard, start)

    def _edge(self, shard: int) -> int:
        """First row of ``shard`` in the global order."""
        return sum(self.counts) * shard // self.n_shards

    @property
    def _splits_last(self) -> bool:
        """Whether a longer shard needs one batch more, so that this one's last is halved."""
        rows, largest = self.n_rows, -(-sum(self.counts) // self.n_shards)
        full = rows > 0 and rows % self.batch_size == 0
        return full and rows < largest and self.batch_size > 1

    @cached_property
    def _file_order(self) -> NDArray[np.int64]:
        return self._permutation(len(self.counts), _FILES)

    @cached_property
    def _file_ends(self) -> NDArray[np.int64]:
        return np.cumsum(np.asarray(self.counts, np.int64)[self._file_order])

    def _spans(self, start: int, stop: int, block_rows: Callable[[int], int]) -> Iterator[Span]:
        for file, low, high in self.pieces(start, stop):
            yield from _joined(self._block_spans(file, low, high, block_rows(file)))

    def _block_spans(self, file: int, low: int, high: int, block: int) -> list[Span]:
        """Rows at positions ``low`` to ``high`` of a file whose blocks are permuted."""
        starts = self._permutation(-(-self.counts[file] // block), _BLOCKS, file) * block
        sizes = np.minimum(starts + block, self.counts[file]) - starts
        ends = np.cumsum(sizes)
        first = int(np.searchsorted(ends, low, side="right"))
        last = int(np.searchsorted(ends, high, side="left"))
        spans = []
        for k in range(first, last + 1):
            begin = int(ends[k] - sizes[k])
            shift = int(starts[k]) - begin
            spans.append((file, max(low, begin) + shift, min(high, int(ends[k])) + shift))
        return spans

    def _permutation(self, size: int, kind: int, *key: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(size, dtype=np.int64)
        return np.random.default_rng([kind, self.seed, self.epoch, *key]).permutation(size)


def _joined(spans: list[Span]) -> list[Span]:
    """The same rows of one file in the same order, neighbours in one go."""
    joined: list[Span] = []
    for file, start, stop in spans:
        if joined and joined[-1][2] == start:
            joined[-1] = (file, joined[-1][1], stop)
        else:
            joined.append((file, start, stop))
    return joined
