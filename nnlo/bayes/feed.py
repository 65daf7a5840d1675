"""The batches of the particles of one rank: each in an order of its own, or one for all."""

import copy
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.bayes.seeds import Purpose, derive, generator
from nnlo.data import Data
from nnlo.data.arrays import each, taken
from nnlo.errors import ConfigError, DataError

MEMORY_BYTES = 2 << 30
"""Of a data set that each rank keeps whole: particles take rows of it in any order."""

Batch = tuple[Any, Any]


@dataclass(frozen=True)
class Wish:
    """Who reads, and how.

    pids: particles of this rank. shared: one order for all of them, everywhere. bootstrap: each
    particle draws as many samples as there are, with replacement, once for all. member,
    group_size: this rank's part of each batch is the member-th of group_size.
    """

    pids: Sequence[int]
    seed: int = 0
    shared: bool = False
    bootstrap: bool = False
    member: int = 0
    group_size: int = 1


class Feed:
    """Batches ``(x, y)`` with a first axis for the particles, or without where ``is_shared``.

    data: the training set, its files set. A set of at most ``memory_bytes`` is read once and
    kept; of a larger one each particle reads a stream of its own. What ``generate_data`` makes
    is the same for all particles.
    """

    def __init__(self, data: Data, wish: Wish, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._data, self._wish = data, wish
        data.set_shard(0, 1)
        self.n_samples = data.n_samples
        generates = data.n_batches(0) is None
        self.is_shared = wish.shared or generates
        self.steps = -(-self.n_samples // data.batch_size)
        self._whole = None if generates else self._read(memory_bytes)
        if wish.bootstrap and self._whole is None:
            raise ConfigError(
                f"bootstrap must have data of at most {memory_bytes >> 20} MiB that generate_data "
                "does not make, got others; leave it out"
            )

    def epoch(self, epoch: int, skip: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of ``epoch``, from 0, after the first ``skip``."""
        batches = self._stream(epoch) if self._whole is None else self._rows(epoch)
        axis = 0 if self.is_shared else 1
        with closing(batches):
            for x, y in islice(batches, skip, None):
                yield (
                    each(lambda a: self._part(a, axis), x),
                    each(lambda a: self._part(a, axis), y),
                )

    def _part(self, array: NDArray[Any], axis: int) -> NDArray[Any]:
        """This rank's part of a batch; empty where there are fewer samples than ranks."""
        n, wish = array.shape[axis], self._wish
        if wish.group_size == 1:
            return array
        low, high = (n * m // wish.group_size for m in (wish.member, wish.member + 1))
        return array[low:high] if axis == 0 else array[:, low:high]

    def _read(self, memory_bytes: int) -> Batch | None:
        data = copy.copy(self._data)
        data.shuffle = False
        whole: Batch | None = None
        at = 0
        with closing(data.epoch(0)) as batches:
            for x, y in batches:
                if whole is None:
                    n_bytes = _row_bytes(x) + _row_bytes(y)
                    if n_bytes * self.n_samples > memory_bytes:
                        return None
                    whole = each(self._empty, x), each(self._empty, y)
                whole = _fitting(whole[0], x), _fitting(whole[1], y)
                n = _fill(whole[0], x, at)
                _fill(whole[1], y, at)
                at += n
        if at != self.n_samples:
            raise DataError(f"data must yield the {self.n_samples} samples counted, got {at}")
        return whole

    def _empty(self, array: NDArray[Any]) -> NDArray[Any]:
        return np.empty((self.n_samples, *array.shape[1:]), array.dtype)

    def _rows(self, epoch: int) -> Generator[Batch, None, None]:
        """From memory."""
        assert self._whole is not None
        x, y = self._whole
        size = self._data.batch_size
        if self.is_shared:
            order = self._order(0, epoch)
        else:
            order = np.stack([self._order(pid + 1, epoch) for pid in self._wish.pids])
        for start in range(0, self.n_samples, size):
            rows = order[..., start : start + size]
            yield taken(x, rows), taken(y, rows)

    def _order(self, stream: int, epoch: int) -> NDArray[np.int64]:
        """The rows of one epoch; stream: 0 for all particles, else 1 + a particle's number."""
        wish, n = self._wish, self.n_samples
        order = np.arange(n)
        if self._data.shuffle:
            order = generator(wish.seed, Purpose.ORDER, stream, epoch).permutation(n)
        if not wish.bootstrap:
            return order
        drawn = generator(wish.seed, Purpose.BOOTSTRAP, stream).integers(n, size=n)
        return drawn[order]

    def _stream(self, epoch: int) -> Generator[Batch, None, None]:
        """From files, or the user's generator."""
        streams = [0] if self.is_shared else [pid + 1 for pid in self._wish.pids]
        with ExitStack() as stack:
            sources: list[Iterator[Batch]] = []
            for stream in streams:
                data = copy.copy(self._data)
                data.seed = derive(self._wish.seed, Purpose.ORDER, stream)
                sources.append(stack.enter_context(closing(data.epoch(epoch))))
            for batches in zip(*sources, strict=True):
                if self.is_shared:
                    yield batches[0]
                else:
                    yield _stacked([x for x, _ in batches]), _stacked([y for _, y in batches])


def _fitting(whole: Any, part: Any) -> Any:
    """``whole`` in a type that holds ``part`` too; DataError where that has other axes."""
    if isinstance(whole, list):
        return [_fitting(w, p) for w, p in zip(whole, part, strict=True)]
    if whole.shape[1:] != part.shape[1:]:
        raise DataError(
            f"all samples must have one shape, got {whole.shape[1:]} and {part.shape[1:]}; "
            "correct the data"
        )
    common = np.result_type(whole, part)
    return whole.astype(np.float32 if common.kind == "f" else common, copy=False)


def _fill(whole: Any, part: Any, at: int) -> int:
    """Copy ``part`` into ``whole`` from row ``at`` on; return its rows."""
    if isinstance(whole, list):
        return max(_fill(w, p, at) for w, p in zip(whole, part, strict=True))
    whole[at : at + len(part)] = part
    return len(part)


def _row_bytes(side: Any) -> int:
    arrays = side if isinstance(side, list) else [side]
    return sum(array[:1].nbytes for array in arrays)


def _stacked(sides: Sequence[Any]) -> Any:
    if isinstance(sides[0], list):
        return [np.stack(arrays) for arrays in zip(*sides, strict=True)]
    return np.stack(sides)
