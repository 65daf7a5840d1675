"""Part of a data set: the samples that a fold trains on, or those that validate it."""

import copy
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnlo.data.arrays import taken
from nnlo.data.base import Batch, Data
from nnlo.data.hdf5 import H5Data
from nnlo.data.source import Columns, Side, Source
from nnlo.errors import ConfigError, DataError


class FoldData(H5Data):
    """The samples of ``data`` that train a fold, or those that are held out to validate it.

    It stands in for ``data`` in a training whose lists are ``train_list`` and ``val_list``:
    ``set_files`` chooses the part. Order, shards, windows and patience are those of any data
    set over the samples of that part; what lies between them in a file is read and let go, in
    pieces of a bounded size. A ``load_data`` of the user's is called for whole files.

    data: H5Data or a subclass with ``load_data``; it is copied, not changed. files: the
    names, each once. counts: samples of each. held_out: shape (sum(counts),), which samples
    validate, counted through the files in order; kept, not copied.
    """

    train_list = ("the training part of a fold",)
    val_list = ("the validation part of a fold",)

    def __init__(
        self,
        data: Data,
        files: Sequence[str],
        counts: Sequence[int],
        held_out: NDArray[np.bool_],
    ) -> None:
        settings: dict[str, Any] = {}
        if isinstance(data, H5Data):
            settings = {"prefetch": data.prefetch, "window_bytes": data.window_bytes}
        super().__init__(data.batch_size, shuffle=data.shuffle, seed=data.seed, **settings)
        if isinstance(data, H5Data):
            self.names, self._adapt_x, self._adapt_y = data.names, data._adapt_x, data._adapt_y
        if held_out.shape != (sum(counts),) or held_out.dtype != np.bool_:
            raise ConfigError(
                f"held_out must be a truth value for each of {sum(counts)} samples, "
                f"got {held_out.shape} {held_out.dtype}; make folds from the same counts"
            )
        self.patience = data.patience
        self._whole_data = whole_data(data, files)
        self._whole_data.set_counts(list(counts))
        self._whole_counts = tuple(counts)
        self._ends = np.cumsum(self._whole_counts)
        self._held_out = held_out
        self.set_files(self.train_list)

    def set_files(self, files: Sequence[str]) -> None:
        """Choose a part: ``train_list`` or ``val_list``; raises ConfigError for others."""
        if tuple(files) not in (self.train_list, self.val_list):
            raise ConfigError(
                f"data of a fold must be given its train_list or val_list, got {files!r}; "
                "make it from the files themselves"
            )
        self._validates = tuple(files) == self.val_list
        super().set_files(self._whole_data.files)

    def close(self) -> None:
        super().close()
        self._whole_data.close()

    @property
    def _streams(self) -> bool:
        return isinstance(self._whole_data, H5Data) and self._whole_data._streams

    def _count_files(self) -> list[int]:
        found = copy.copy(self._whole_data)._count_files()
        for name, count, now in zip(self.files, self._whole_counts, found, strict=True):
            if now != count:
                raise DataError(
                    f"a file must keep the {count} samples that its folds were made of, got "
                    f"{now} in {name}; leave the data alone, or start a new search"
                )
        return [len(self._rows(file)) for file in range(len(self.files))]

    def _rows(self, file: int) -> NDArray[np.int64]:
        """Rows of a file that are in the part, upwards."""
        stop = int(self._ends[file])
        held_out = self._held_out[stop - self._whole_counts[file] : stop]
        return np.flatnonzero(held_out == self._validates)

    def _whole(self, file: int, count: int) -> Batch:
        if self._loaded is None or self._loaded[0] != file:
            self._loaded = None
            rows = self._rows(file)
            # A copy, since the other part may be read by another thread.
            x, y = copy.copy(self._whole_data)._whole(file, self._whole_counts[file])
            self._loaded = (file, (taken(x, rows), taken(y, rows)))
        return self._loaded[1]

    @contextmanager
    def _known(self, file: int) -> Iterator[Source]:
        data = self._whole_data
        assert isinstance(data, H5Data)  # else nothing is streamed
        with data._known(file) as whole:
            yield _Chosen(whole.name, whole.x, whole.y, self._rows(file))


@dataclass(frozen=True)
class _Chosen(Source):
    """An open file of which only ``rows``, in rising order, are there."""

    rows: NDArray[np.int64]

    @property
    def n_rows(self) -> int:
        return len(self.rows)

    @property
    def chunk_rows(self) -> int:
        """Rows of the part that lie together in the file, on average."""
        share = len(self.rows) / max(1, self._file.n_rows)
        return max(1, round(self._file.chunk_rows * share))

    @cached_property
    def _file(self) -> Source:
        return Source(self.name, self.x, self.y)

    def read(self, start: int, stop: int, x: Side, y: Side, at: int) -> None:
        """As of a whole file; it takes room for as many rows as it gives, or for a chunk."""
        most = max(stop - start, self._file.chunk_rows)
        while start < stop:
            first = int(self.rows[start])
            upto = min(stop, int(np.searchsorted(self.rows, first + most)))
            n_rows = int(self.rows[upto - 1]) + 1 - first
            if n_rows == upto - start:
                self._file.read(first, first + n_rows, x, y, at)
            else:
                piece = self.x.empty(n_rows), self.y.empty(n_rows)
                self._file.read(first, first + n_rows, *piece, 0)
                rows = self.rows[start:upto] - first
                for source, target in zip(piece, (x, y), strict=True):
                    for array, room in zip(source.arrays, target.arrays, strict=True):
                        room[at : at + len(rows)] = array[rows]
            start, at = upto, at + upto - start


def whole_data(data: Data, files: Sequence[str]) -> Data:
    """A copy of ``data`` with these files, of which folds can be made.

    Raises ConfigError where samples have no fixed place, or where one file is there twice.
    """
    if data._generates:
        raise ConfigError(
            "data must come from files by load_data to be cut into folds, got "
            f"{type(data).__name__} with a generate_data; override load_data(file) instead"
        )
    names = [name if "://" in name else os.path.realpath(name) for name in map(str, files)]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ConfigError(
            f"files of folds must each be there once, got {twice[0]} twice: a sample would "
            "train and validate the same fold; correct the lists"
        )
    whole = copy.copy(data)
    whole.set_files(files)
    return whole


def read_classes(data: Data) -> NDArray[np.int64] | None:
    """The class of each sample of all files, shape (n_samples,), or None if there are none.

    Classes are labels of whole numbers, (n,) or (n, 1), or one-hot rows (n, n_classes), as
    the model sees them. Of HDF5 files only labels are read, a window at a time; of others,
    one file at a time. Raises DataError as ``count`` does.
    """
    found: list[NDArray[np.int64]] = []
    for name in data.files:
        if isinstance(data, H5Data) and data._streams:
            classes = data.patience.run(partial(_file_classes, data, name), name)
        else:
            classes = _classes(data._load(name)[1])
        if classes is None:
            return None
        found.append(classes)
    return np.concatenate(found) if found else None


def _file_classes(data: H5Data, name: str) -> NDArray[np.int64] | None:
    found = [np.empty(0, np.int64)]
    with data._opened(name) as source:
        labels = replace(source, x=Columns([], (), True))
        step = max(1, data.window_bytes // labels.row_bytes)
        for start in range(0, source.n_rows, step):
            stop = min(start + step, source.n_rows)
            y = source.y.empty(stop - start)
            labels.read(start, stop, Side([], (), True), y, 0)
            classes = _classes(data._adapt_y(y.labels(slice(None))))
            if classes is None:
                return None
            found.append(classes)
    return np.concatenate(found)


def _classes(y: Any) -> NDArray[np.int64] | None:
    """The classes in a batch of labels, or None where they are something else."""
    if isinstance(y, list | tuple):
        return _classes(y[0]) if len(y) == 1 else None
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] > 1:
        is_one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()
        return labels.argmax(axis=1) if is_one_hot else None
    if labels.ndim > 2 or labels.dtype.kind not in "biuf":
        return None
    labels = labels.reshape(-1)
    is_whole = bool(np.isfinite(labels).all() and (labels == np.floor(labels)).all())
    return labels.astype(np.int64) if is_whole else None
