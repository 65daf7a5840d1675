"""Streaming from HDF5 files: bounded windows of rows, read ahead by a thread."""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nnlo.data.base import Batch, Data
from nnlo.data.cache import FileCache
from nnlo.data.patience import Patience
from nnlo.data.prefetch import prefetch
from nnlo.data.shards import Plan, Window
from nnlo.data.source import Side, Source, check_alike, opened
from nnlo.errors import ConfigError, DataError

Name = str | tuple[str, Callable[[Any], Any]]
"""Name of a dataset or group, alone or with the function that its batches go through."""

# A window is put together from this many runs of rows or more, unless the file's chunks are
# larger: with fewer, samples that lie together stay together; with many more, a disk is slow.
_BLOCKS_PER_WINDOW = 16


class _Rows(NamedTuple):
    """Rows ``start`` to ``stop`` of the shard, in the order of the files."""

    start: int
    stop: int
    x: Side
    y: Side


class H5Data(Data):
    """Samples in HDF5 files: one dataset of features and one of labels, samples along axis 0.

    features_name, labels_name: a dataset; or a group, whose datasets become a list in sorted
    order of their names; or ``(name, function)``, whose function gets the arrays of each batch
    and returns what the model sees. Features come as float32, labels as float32 or integers.
    Features with an attribute ``full_scale`` are divided by it (255 for pixels).
    cache_dir: folder for local copies made by ``copy_command`` (default ``cp {} {}``), which
    ``close()`` removes; the environment's DATA_CACHE and DATA_COPY_COMMAND stand in for both.
    prefetch: windows read ahead by a thread, 0 for none. window_bytes: size of one window;
    ``prefetch`` + 1 of them are in memory, each of one batch at least.
    """

    def __init__(
        self,
        batch_size: int,
        features_name: Name = "features",
        labels_name: Name = "labels",
        *,
        shuffle: bool = True,
        seed: int = 0,
        cache_dir: str | Path | None = None,
        copy_command: str | None = None,
        prefetch: int = 2,
        window_bytes: int = 32 * 2**20,
    ) -> None:
        super().__init__(batch_size, shuffle=shuffle, seed=seed)
        if prefetch < 0 or window_bytes < 1:
            raise ConfigError(
                "prefetch must not be negative and window_bytes be at least 1, "
                f"got {prefetch} and {window_bytes}; leave them out for the defaults"
            )
        features, self._adapt_x = _name_and_function(features_name)
        labels, self._adapt_y = _name_and_function(labels_name)
        self.names = (features, labels)
        self.prefetch = prefetch
        self.window_bytes = window_bytes
        self._cache = _cache(cache_dir, copy_command)

    def load_data(self, file: str) -> Batch:
        """Return all samples of one file, in its order, as the batches give them."""
        with opened(file, file, self.names, self.window_bytes) as source:
            x, y = source.x.empty(source.n_rows), source.y.empty(source.n_rows)
            source.read(0, source.n_rows, x, y, 0)
        return self._adapt_x(x.features(slice(None))), self._adapt_y(y.labels(slice(None)))

    def close(self) -> None:
        """Remove the local copies that this process made."""
        super().close()
        if self._cache is not None:
            self._cache.close()

    @property
    def _streams(self) -> bool:
        return type(self).load_data is H5Data.load_data

    def _count_files(self) -> list[int]:
        if not self._streams:
            return super()._count_files()
        counts: list[int] = []
        first: Source | None = None
        for name in self.files:
            with ExitStack() as stack:
                look = partial(self._look, stack, name)
                source = self.patience.run(look, name, was_there=False)
                first = first or source
                check_alike(first, source)
                counts.append(source.n_rows)
        return counts

    def _stream(self, skip: int) -> Iterator[Batch]:
        if not self._streams:
            yield from super()._stream(skip)
            return
        plan = self._plan()
        first = plan.row_of(skip)
        with closing(prefetch(self._windows(plan, first), self.prefetch)) as windows:
            for start, stop, x, y in windows:
                order = plan.window_order(start, stop)
                for low, high in plan.batches(max(first, start), stop):
                    part = slice(low - start, high - start)
                    rows = order[part] if self.shuffle else part
                    yield self._adapt_x(x.features(rows)), self._adapt_y(y.labels(rows))

    def _windows(self, plan: Plan, first_row: int) -> Generator[_Rows, None, None]:
        """Read the windows of a shard, from the one with ``first_row`` on."""
        with closing(_Reader(self._known, self.files, self.patience)) as reader:
            for file, _, _ in plan.pieces(first_row, min(first_row + 1, plan.n_rows)):
                first = reader.source(file)
                batches = self.window_bytes // (first.row_bytes * self.batch_size)
                window_rows = max(1, batches) * self.batch_size
                block_rows = partial(self._block_rows, reader)
                for window in plan.windows(window_rows, block_rows, first_row):
                    yield reader.read(window, first)

    def _block_rows(self, reader: "_Reader", file: int) -> int:
        """Rows of a file that stay together: whole chunks, a small part of a window."""
        source = reader.source(file)
        wanted = max(1, self.window_bytes // (_BLOCKS_PER_WINDOW * source.row_bytes))
        return -(-wanted // source.chunk_rows) * source.chunk_rows

    def _look(self, stack: ExitStack, name: str) -> Source:
        return stack.enter_context(self._opened(name))

    @contextmanager
    def _known(self, file: int) -> Iterator[Source]:
        """Open a file that has been counted."""
        name, count = self.files[file], self._counts_per_file()[file]
        with self._opened(name) as source:
            if source.n_rows != count:
                raise DataError(
                    f"a file must keep the {count} rows that were counted, got {source.n_rows} "
                    f"in {name}; leave the data alone while a run reads it"
                )
            yield source

    def _opened(self, name: str) -> AbstractContextManager[Source]:
        return opened(self._local(name), name, self.names, self.window_bytes)

    def _local(self, file: str) -> str:
        return file if self._cache is None else self._cache.fetch(file)


class _Reader:
    """Reads windows from files that are open one at a time, since a shard needs them in turn.

    A file that fails for a moment is closed and opened again: a handle of NFS may be stale.
    """

    def __init__(
        self,
        open_file: Callable[[int], AbstractContextManager[Source]],
        names: Sequence[str],
        patience: Patience,
    ) -> None:
        self._open_file = open_file
        self._names = names
        self._patience = patience
        self._stack = ExitStack()
        self._current: tuple[int, Source] | None = None

    def source(self, file: int) -> Source:
        """The file, open."""
        return self._patience.run(partial(self._source, file), self._names[file])

    def read(self, window: Window, like: Source) -> _Rows:
        """The rows of a window, which are of the form of ``like``."""
        n_rows = window.stop - window.start
        x, y = like.x.empty(n_rows), like.y.empty(n_rows)
        at = 0
        for file, start, stop in window.spans:
            span = partial(self._read, file, like, start, stop, x, y, at)
            self._patience.run(span, self._names[file])
            at += stop - start
        return _Rows(window.start, window.stop, x, y)

    def close(self) -> None:
        self._current = None
        self._stack.close()

    def _source(self, file: int) -> Source:
        if self._current is None or self._current[0] != file:
            self.close()
            self._current = file, self._stack.enter_context(self._open_file(file))
        return self._current[1]

    def _read(self, file: int, like: Source, *span: Any) -> None:
        try:
            source = self._source(file)
            check_alike(like, source)
            source.read(*span)
        except BaseException:
            self.close()
            raise


def _cache(folder: str | Path | None, command: str | None) -> FileCache | None:
    folder = folder or os.environ.get("DATA_CACHE")
    if folder:
        return FileCache(folder, command or os.environ.get("DATA_COPY_COMMAND") or "cp {} {}")
    if command:
        raise ConfigError(
            f"copy_command must come with a cache folder, got only {command!r}; set cache_dir"
        )
    return None


def _name_and_function(name: Name) -> tuple[str, Callable[[Any], Any]]:
    if isinstance(name, str):
        return name, _unchanged
    key, function = name
    if not callable(function):
        raise ConfigError(
            f"adaptor must be a function, got {function!r} for {key!r}; give (name, function)"
        )
    return key, function


def _unchanged(arrays: Any) -> Any:
    return arrays
