"""One open HDF5 file, seen as rows of features and labels."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from nnlo.data.arrays import as_features, as_labels, common_length
from nnlo.errors import DataError


class Form(NamedTuple):
    """What the rows of one dataset are: shape and type in memory, value that becomes 1.0."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    full_scale: float | None


class Side(NamedTuple):
    """Rows of x or of y in memory; a group has several arrays, a dataset one."""

    arrays: list[NDArray[Any]]
    forms: tuple[Form, ...]
    is_group: bool

    def features(self, rows: NDArray[np.int64] | slice) -> Any:
        """The chosen rows as float32."""
        parts = [
            _unscaled(as_features(_chosen(array, rows)), form.full_scale)
            for array, form in zip(self.arrays, self.forms, strict=True)
        ]
        return parts if self.is_group else parts[0]

    def labels(self, rows: NDArray[np.int64] | slice) -> Any:
        """The chosen rows as float32, int32 or int64."""
        parts = [as_labels(_chosen(array, rows)) for array in self.arrays]
        return parts if self.is_group else parts[0]


class Columns(NamedTuple):
    """The datasets of x or of y in one file."""

    datasets: list[Any]
    forms: tuple[Form, ...]
    is_group: bool

    def empty(self, n_rows: int) -> Side:
        """Room for ``n_rows`` rows, to be read into; raises DataError where there is none."""
        try:
            arrays = [np.empty((n_rows, *form.shape), form.dtype) for form in self.forms]
        except (MemoryError, ValueError) as error:  # ValueError: beyond all addresses
            raise DataError(
                f"a window of {n_rows} rows must fit into memory, got {error}; "
                "take smaller batches, or write the file again if its shape is wrong"
            ) from error
        return Side(arrays, self.forms, self.is_group)


@dataclass(frozen=True)
class Source:
    """An open file; ``name`` is what the user calls it."""

    name: str
    x: Columns
    y: Columns

    @property
    def n_rows(self) -> int:
        return len(self.x.datasets[0])

    @property
    def row_bytes(self) -> int:
        """Memory that one row of x and y takes in a window, at least 1."""
        forms = (*self.x.forms, *self.y.forms)
        sizes = (int(np.prod(form.shape)) * form.dtype.itemsize for form in forms)
        return max(1, sum(sizes))

    @property
    def chunk_rows(self) -> int:
        """Rows that lie together in the file: of its largest chunk, 1 without chunks."""
        chunks = (data.chunks for data in (*self.x.datasets, *self.y.datasets))
        return max((chunk[0] for chunk in chunks if chunk), default=1)

    def read(self, start: int, stop: int, x: Side, y: Side, at: int) -> None:
        """Put rows ``start`` to ``stop`` into ``x`` and ``y`` from their row ``at`` on."""
        if start == stop:
            return
        target = np.s_[at : at + stop - start]
        try:
            for columns, side in ((self.x, x), (self.y, y)):
                for data, array in zip(columns.datasets, side.arrays, strict=True):
                    data.read_direct(array, np.s_[start:stop], target)
        except Exception as error:  # damaged bytes look like anything to HDF5
            raise DataError(
                f"rows {start} to {stop} must be readable, got {_line(error)} in {self.name}; "
                "the file may be damaged: copy or write it again"
            ) from error


@contextmanager
def opened(path: str, name: str, columns: tuple[str, str], cache_bytes: int) -> Iterator[Source]:
    """Open the HDF5 file at ``path``, which the user calls ``name``.

    columns: names of features and labels. cache_bytes: chunks that are used in two windows
    stay up to this size. Raises DataError where the file does not hold what it should.
    """
    file = None
    try:
        with _words_of(name):
            file = h5py.File(path, "r", rdcc_nbytes=cache_bytes)
            x = _columns(file, columns[0], name, "--features-name", True)
            y = _columns(file, columns[1], name, "--labels-name", False)
            common_length(x.datasets, y.datasets, name)
        yield Source(name, x, y)
    finally:
        if file is not None:
            with suppress(OSError, RuntimeError):  # a stale handle; it has only been read
                file.close()


@contextmanager
def _words_of(name: str) -> Iterator[None]:
    """What h5py raises for the file ``name`` as DataError."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"data file must exist, got {name}; correct the list of files") from error
    except Exception as error:  # damaged bytes look like anything to HDF5
        raise DataError(
            f"data file must be readable HDF5, got {name} ({_line(error)}); "
            "check it with h5ls, copy or write it again"
        ) from error


def _line(error: Exception) -> str:
    """The message of h5py, which may have line breaks, as one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _columns(file: Any, key: str, name: str, option: str, is_x: bool) -> Columns:
    if key not in file:
        raise DataError(
            f"dataset {key!r} must be in the file, got only {', '.join(file) or 'none'} "
            f"in {name}; choose one with {option}"
        )
    found = file[key]
    is_group = isinstance(found, h5py.Group)
    datasets = [found[k] for k in sorted(found)] if is_group else [found]
    if not datasets:
        raise DataError(f"group {key!r} must hold datasets, got none in {name}; choose another")
    forms = tuple(_form(data, name, is_x) for data in datasets)
    return Columns(datasets, forms, is_group)


def _form(data: Any, name: str, is_x: bool) -> Form:
    is_array = isinstance(data, h5py.Dataset) and data.dtype.kind in "biuf" and data.ndim > 0
    if not is_array:
        raise DataError(
            "dataset must hold an array of numbers with samples along axis 0, got "
            f"{getattr(data, 'shape', 'a group')} {getattr(data, 'dtype', '')} as "
            f"{data.name} in {name}; choose another dataset"
        )
    # Floats are made float32 on reading; integers stay small until their batch is made.
    dtype = np.dtype(np.float32) if data.dtype.kind == "f" else data.dtype.newbyteorder("=")
    if data.is_virtual:
        _check_parts(data, name)
    return Form(data.shape[1:], dtype, _full_scale(data, name) if is_x else None)


def _full_scale(data: Any, name: str) -> float | None:
    given = data.attrs.get("full_scale")
    if given is None:
        return None
    scale = np.asarray(given)
    if scale.size != 1 or scale.dtype.kind not in "biuf" or not 0 < scale.item() < math.inf:
        raise DataError(
            f"attribute full_scale must be a number above 0, got {given} of {data.name} in "
            f"{name}; it is what the features are divided by"
        )
    return float(scale.item())


def _check_parts(data: Any, name: str) -> None:
    """HDF5 reads zeros where a file that a virtual dataset is made of is missing."""
    folder = Path(data.file.filename).parent
    for part in {source.file_name for source in data.virtual_sources()}:
        is_known = part == "." or "%" in part or "HDF5_VDS_PREFIX" in os.environ
        if not is_known and not (folder / part).exists() and not Path(part).exists():
            raise DataError(
                f"files of a virtual dataset must exist, got none called {part} for "
                f"{data.name} in {name}; put it beside that file"
            )


def _chosen(array: NDArray[Any], rows: NDArray[np.int64] | slice) -> NDArray[Any]:
    return array[rows] if isinstance(rows, slice) else array.take(rows, axis=0)


def _unscaled(array: NDArray[np.float32], full_scale: float | None) -> NDArray[np.float32]:
    return array if full_scale is None else array / np.float32(full_scale)


def check_alike(first: Source, other: Source) -> None:
    """Raise DataError unless the rows of two files are alike."""
    for ours, theirs in ((first.x, other.x), (first.y, other.y)):
        if ours.forms != theirs.forms:
            raise DataError(
                "files of one data set must hold rows of one shape and type, got "
                f"{_words(ours.forms)} in {first.name} and {_words(theirs.forms)} in "
                f"{other.name}; write them alike or give another list"
            )


def _words(forms: Sequence[Form]) -> str:
    return ", ".join(f"{form.shape} {form.dtype}" for form in forms)
