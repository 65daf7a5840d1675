"""The data contract of the training loops, and the two hooks that users override."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any, ClassVar

from nnlo.data.arrays import common_length, each, floats_as_float32, joined, taken
from nnlo.data.patience import Patience
from nnlo.data.shards import Plan
from nnlo.errors import ConfigError, DataError

Batch = tuple[Any, Any]
"""``(x, y)``: each an array with samples along axis 0, or a list of such arrays."""


class Data:
    """A data set that any number of ranks share: each sample is used once per epoch.

    A subclass overrides one of two hooks. ``load_data(file)`` returns the arrays of one file;
    order, parts and batches are made here. ``generate_data()`` yields the batches of one
    epoch by itself, the same ones on each rank; they are dealt out in turn. A subclass whose
    generator yields only this rank's part sets ``shards_itself = True``.

    batch_size: samples of a batch, >= 1; the last one of an epoch may be smaller.
    shuffle: new order of files and samples in each epoch. seed: >= 0, the same on all ranks.
    """

    shards_itself: ClassVar[bool] = False
    patience: Patience = Patience()
    """With files that cannot be read for a moment."""
    watch: Callable[[], object] | None = None
    """Called before each batch of an epoch; what it raises ends the training."""

    def __init__(self, batch_size: int, *, shuffle: bool = True, seed: int = 0) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}; try 100")
        if seed < 0:
            raise ConfigError(f"seed must not be negative, got {seed}; try 0")
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.files: tuple[str, ...] = ()
        self.shard_index = 0
        self.n_shards = 1
        self.current_epoch = 0
        self._counts: list[int] | None = None
        self._file_counts: list[int] | None = None  # where _counts are those of a generator
        self._loaded: tuple[int, Batch] | None = None

    def set_files(self, files: Sequence[str]) -> None:
        """Take the data files, in the same order on all ranks; their counts are forgotten."""
        if isinstance(files, str):
            raise ConfigError(
                f"files must be a list of names, got the text {files!r}; use read_list(path) "
                "for a list file or [path] for one data file"
            )
        self.files = tuple(str(file) for file in files)
        self._counts = None
        self._file_counts = None
        self._loaded = None

    def set_shard(self, index: int, n_shards: int) -> None:
        """Read part ``index`` of ``n_shards`` in each epoch."""
        if not 0 <= index < n_shards:
            raise ConfigError(
                f"shard index must be in [0, n_shards), got {index} of {n_shards}; "
                "number the workers from 0"
            )
        self.shard_index = index
        self.n_shards = n_shards

    def count(self) -> list[int]:
        """Open the files and return the samples of each; one entry for a ``generate_data``.

        Raises DataError where a file or the data set as a whole cannot be used. Other ranks
        learn the result through ``set_counts``.
        """
        counts = [self._count_batches()] if self._generates else self._count_files()
        if sum(counts) == 0:
            raise DataError(
                "data must hold at least one sample, got 0 in "
                f"{', '.join(self.files[:3]) or type(self).__name__}; check the list of files"
            )
        self._counts = counts
        return counts

    def set_counts(self, counts: list[int]) -> None:
        """Take what ``count`` returned on another rank, so that no file is opened for it."""
        if not self._generates and len(counts) != len(self.files):
            raise DataError(
                f"counts must be one a file, got {len(counts)} for {len(self.files)} files; "
                "give all ranks the same list of files"
            )
        self._counts = list(counts)

    @property
    def n_samples(self) -> int:
        """Samples of all files; counts them if nobody has."""
        return sum(self._known_counts())

    def n_batches(self, shard: int) -> int | None:
        """Batches of part ``shard`` in an epoch; None where only ``generate_data`` knows."""
        if self._generates:
            return None
        return Plan(
            tuple(self._known_counts()), self.batch_size, shard=shard, n_shards=self.n_shards
        ).n_batches

    def epoch(self, epoch: int, skip: int = 0) -> Generator[Batch, None, None]:
        """Yield this rank's batches of ``epoch``, from its batch ``skip`` on.

        What the batches need (files, a thread) is released at the end or by ``close()`` of
        the iterator. Raises DataError where x and y of a batch differ in length.
        """
        self.current_epoch = epoch
        with closing(self._batches(skip)) as batches:
            for batch in batches:
                if self.watch is not None:
                    self.watch()
                yield batch

    def _batches(self, skip: int) -> Generator[Batch, None, None]:
        if not self._generates:
            yield from self._stream(skip)
            return
        first, step = (0, 1) if self.shards_itself else (self.shard_index, self.n_shards)
        with _closing(self.generate_data()) as batches:
            for number, batch in enumerate(islice(batches, first, None, step)):
                if number >= skip:
                    self._check(batch, number)
                    yield batch

    def generate_data(self) -> Iterator[Batch]:
        """Hook 1: yield the batches of one epoch, then return.

        An override may read ``current_epoch``, ``files``, ``shard_index`` and ``n_shards``,
        and may change the batches of ``super().generate_data()``.
        """
        yield from self._stream(0)

    def load_data(self, file: str) -> Batch:
        """Hook 2: return all samples of one file."""
        raise NotImplementedError(
            f"{type(self).__name__} must override load_data(file) or generate_data()"
        )

    def close(self) -> None:
        """Release what is held between epochs; the data can be used again."""
        self._loaded = None

    @property
    def _generates(self) -> bool:
        return type(self).generate_data is not Data.generate_data

    def _known_counts(self) -> list[int]:
        if self._counts is None:
            self._counts = list(self.count())
        return self._counts

    def _plan(self) -> Plan:
        # Batches of an override that doesn't shard itself are dealt out in turn afterwards:
        # what it gets from super().generate_data() has to be all of them.
        whole = self._generates and not self.shards_itself
        shard, n_shards = (0, 1) if whole else (self.shard_index, self.n_shards)
        return Plan(
            counts=tuple(self._counts_per_file()),
            batch_size=self.batch_size,
            seed=self.seed,
            epoch=self.current_epoch,
            shard=shard,
            n_shards=n_shards,
            shuffle=self.shuffle,
        )

    def _counts_per_file(self) -> list[int]:
        if not self._generates:
            return self._known_counts()
        if self._file_counts is None:
            self._file_counts = self._count_files()
        return self._file_counts

    def _count_batches(self) -> int:
        shard = self.shard_index, self.n_shards
        n_parts = self.n_shards if self.shards_itself else 1
        try:
            return sum(self._count_part(index, n_parts) for index in range(n_parts))
        finally:
            self.set_shard(*shard)

    def _count_part(self, index: int, n_parts: int) -> int:
        self.set_shard(index, n_parts)
        with _closing(self.generate_data()) as batches:
            return sum(self._check(batch, number) for number, batch in enumerate(batches))

    def _count_files(self) -> list[int]:
        return [len_of(self._load(file, was_there=False), file) for file in self.files]

    def _check(self, batch: Batch, number: int) -> int:
        """Return the samples of a batch that the user made."""
        where = f"batch {number} of epoch {self.current_epoch} of {type(self).__name__}"
        return len_of(batch, where)

    def _stream(self, skip: int) -> Iterator[Batch]:
        """Batches of this rank's part, from whole files, one in memory at a time."""
        plan = self._plan()
        orders: dict[int, Any] = {}
        for start, stop in plan.batches(plan.row_of(skip), plan.n_rows):
            parts = []
            for file, low, high in plan.pieces(start, stop):
                if file not in orders:
                    orders = {file: plan.file_rows(file)}
                x, y = self._whole(file, plan.counts[file])
                rows = orders[file][low:high]
                parts.append((taken(x, rows), taken(y, rows)))
            yield joined([x for x, _ in parts]), joined([y for _, y in parts])

    def _whole(self, file: int, count: int) -> Batch:
        """All samples of one file, which stay until another one is needed."""
        if self._loaded is None or self._loaded[0] != file:
            self._loaded = None  # frees the last file before the next one is loaded
            name = self.files[file]
            batch = self._load(name)
            if (n := len_of(batch, name)) != count:
                raise DataError(
                    f"load_data must return the {count} samples that were counted, "
                    f"got {n} in {name}; let it return the same samples each time"
                )
            self._loaded = (file, batch)
        return self._loaded[1]

    def _load(self, file: str, *, was_there: bool = True) -> Batch:
        def load() -> Batch:
            return self.load_data(self._local(file))

        x, y = self.patience.run(load, file, was_there=was_there)
        return each(floats_as_float32, x), each(floats_as_float32, y)

    def _local(self, file: str) -> str:
        """Where to read ``file``."""
        return file


def len_of(batch: Batch, where: str) -> int:
    """Return the samples of ``batch``; raises DataError if it is not an even pair."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(
            f"a batch must be a pair (x, y), got {type(batch).__name__} as {where}; "
            "put several inputs into a list, as in ([a, b], y)"
        )
    return common_length(*batch, where)


@contextmanager
def _closing(batches: Iterable[Batch]) -> Iterator[Iterator[Batch]]:
    """Close what the user's hook returned, where that can be closed."""
    try:
        yield iter(batches)
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
