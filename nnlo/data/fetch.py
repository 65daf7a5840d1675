"""Ready-made data sets as HDF5 pieces and list files."""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from nnlo.data import originals
from nnlo.data.lists import read_list
from nnlo.data.showers import make_showers
from nnlo.errors import DataError

NAMES = ("digits", "mnist", "cifar10", "calo3d")
N_CLASSES = 10
N_SHOWERS = 1000


class _Part(NamedTuple):
    """A training or test set: ``read(start, stop)`` gives those rows of its datasets by name."""

    n_samples: int
    read: Callable[[int, int], dict[str, NDArray[Any]]]
    full_scale: float | None = None


def write_dataset(
    name: str,
    out: str | Path,
    source: str | Path | None = None,
    train_files: int = 24,
    test_files: int = 4,
    samples: int | None = None,
) -> tuple[Path, Path]:
    """Write data set ``name`` into the folder ``out``; return its training and test list.

    Pieces hold ``features`` (n, rows, columns, channels), pixels as uint8 with the attribute
    ``full_scale`` that H5Data divides by, and ``labels`` (n, 10), one-hot float32. Those of
    calo3d hold ``X`` (n, 25, 25, 25, 1) and ``y`` (n,), see ``make_showers``. The lists name
    the pieces relative to themselves, so the folder can be moved. Everything is written under
    other names first and the lists are renamed last: an error leaves nothing behind, and
    processes that write the same set at once don't disturb each other.
    source: local original (mnist.npz; an archive or folder of cifar10). samples: of calo3d,
    a fifth of them for the test set; None for 1000. Raises DataError.
    """
    train, test = _load(name, None if source is None else Path(source), samples)
    for label, part, n_files in (("train", train, train_files), ("test", test, test_files)):
        if not 1 <= n_files <= part.n_samples:
            raise DataError(
                f"{label} files must be from 1 to the {part.n_samples} samples of {name}, "
                f"got {n_files}; pass another --{label}-files"
            )
    out = Path(out)
    try:
        return _write(name, out, (train, train_files), (test, test_files))
    except OSError as error:
        raise DataError(
            f"folder must be writable and have room for {name}, got {error} for {out}; "
            "choose another one (GetData: --out, default data: environment NNLO_DATA)"
        ) from error


def dataset_files(name: str) -> tuple[list[str], list[str]]:
    """Return the training and test files of data set ``name``.

    They are those of ``train_NAME.list`` in the current directory if it is there; else of the
    folder NAME in ``$NNLO_DATA`` or the user's cache (``$XDG_CACHE_HOME/nnlo``, by default
    ``~/.cache/nnlo``), where they are written first if need be. Raises DataError.
    """
    folder = Path()
    if not (folder / f"train_{name}.list").exists():
        folder = _default_folder() / name
        if not all(path.exists() for path in _lists(name, folder)):
            write_dataset(name, folder)
    train, test = _lists(name, folder)
    return read_list(train), read_list(test)


def _default_folder() -> Path:
    if given := os.environ.get("NNLO_DATA"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nnlo"


def _lists(name: str, folder: Path) -> tuple[Path, Path]:
    return folder / f"train_{name}.list", folder / f"test_{name}.list"


def _load(name: str, source: Path | None, samples: int | None) -> tuple[_Part, _Part]:
    if source is not None and not source.exists():
        raise DataError(f"source must exist, got {source}; correct the path")
    if source is not None and name in ("digits", "calo3d"):
        origin = "taken from scikit-learn" if name == "digits" else "made by NNLO"
        raise DataError(f"{name} must be {origin}, got source {source}; leave it out")
    if samples is not None and name != "calo3d":
        raise DataError(f"samples must be of calo3d, got {samples} of {name}; leave them out")
    match name:
        case "digits":
            return _images(originals.digits())
        case "mnist":
            return _images(originals.mnist(source))
        case "cifar10":
            return _images(originals.cifar10(source))
        case "calo3d":
            return _showers(N_SHOWERS if samples is None else samples)
    raise DataError(f"name of a data set must be one of {', '.join(NAMES)}, got {name}")


def _images(images: originals.Images) -> tuple[_Part, _Part]:
    def read(part: originals.Part, start: int, stop: int) -> dict[str, NDArray[Any]]:
        one_hot = np.eye(N_CLASSES, dtype=np.float32)[part.classes[start:stop]]
        return {"features": part.images[start:stop], "labels": one_hot}

    train, test = (
        _Part(len(part.classes), partial(read, part), images.full_scale)
        for part in (images.train, images.test)
    )
    return train, test


def _showers(samples: int) -> tuple[_Part, _Part]:
    """Showers are made when they are written, so that a large set needs little memory."""
    if samples < 5:
        raise DataError(f"samples of calo3d must be at least 5, got {samples}; make more")
    n_train = samples - samples // 5

    def read(first: int, start: int, stop: int) -> dict[str, NDArray[Any]]:
        deposits, energies = make_showers(stop - start, first=first + start)
        return {"X": deposits, "y": energies}

    return _Part(n_train, partial(read, 0)), _Part(samples - n_train, partial(read, n_train))


def _write(
    name: str, out: Path, train: tuple[_Part, int], test: tuple[_Part, int]
) -> tuple[Path, Path]:
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out) as draft:
            lists = _lists(name, Path(draft))
            pieces_of = (
                _write_part(Path(draft), f"{name}_train", *train),
                _write_part(Path(draft), f"{name}_test", *test),
            )
            for path, pieces in zip(lists, pieces_of, strict=True):
                path.write_text("".join(f"{piece.name}\n" for piece in pieces))
            for path in (*pieces_of[0], *pieces_of[1], *lists):
                path.replace(out / path.name)
    except BaseException:
        if is_new:
            with suppress(OSError):  # another process may have begun to use it
                out.rmdir()
        raise
    return _lists(name, out)


def _write_part(folder: Path, stem: str, part: _Part, n_files: int) -> list[Path]:
    paths = []
    for k, rows in enumerate(np.array_split(np.arange(part.n_samples), n_files)):
        paths.append(folder / f"{stem}_{k:03d}.h5")
        with h5py.File(paths[-1], "w") as file:
            for key, array in part.read(int(rows[0]), int(rows[-1]) + 1).items():
                file[key] = array
            if part.full_scale is not None:
                file["features"].attrs["full_scale"] = part.full_scale
    return paths
