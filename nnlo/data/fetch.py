"""Well-known data sets as HDF5 pieces and list files."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

from nnlo.data import originals
from nnlo.data.lists import read_list
from nnlo.errors import DataError

NAMES = ("digits", "mnist", "cifar10")
N_CLASSES = 10


def write_dataset(
    name: str,
    out: str | Path,
    source: str | Path | None = None,
    train_files: int = 24,
    test_files: int = 4,
) -> tuple[Path, Path]:
    """Write data set ``name`` into the folder ``out``; return its training and test list.

    Pieces hold ``features`` (n, rows, columns, channels), pixels as uint8 with the attribute
    ``full_scale`` that H5Data divides by, and ``labels`` (n, 10), one-hot float32. The lists
    name the pieces relative to themselves, so the folder can be moved. Everything is written
    under other names first and the lists are renamed last: an error leaves nothing behind,
    and processes that write the same set at once don't disturb each other.
    source: local original (mnist.npz; an archive or folder of cifar10). Raises DataError.
    """
    images = _load(name, None if source is None else Path(source))
    parts = (("train", images.train, train_files), ("test", images.test, test_files))
    for part, (_, classes), n_files in parts:
        if not 1 <= n_files <= len(classes):
            raise DataError(
                f"{part} files must be from 1 to the {len(classes)} samples of {name}, "
                f"got {n_files}; pass another --{part}-files"
            )
    out = Path(out)
    try:
        return _write(name, out, images, train_files, test_files)
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


def _load(name: str, source: Path | None) -> originals.Images:
    if source is not None and not source.exists():
        raise DataError(f"source must exist, got {source}; correct the path")
    match name:
        case "digits":
            if source is not None:
                raise DataError(
                    f"digits must be taken from scikit-learn, got source {source}; leave it out"
                )
            return originals.digits()
        case "mnist":
            return originals.mnist(source)
        case "cifar10":
            return originals.cifar10(source)
    raise DataError(f"name of a data set must be one of {', '.join(NAMES)}, got {name}")


def _write(
    name: str, out: Path, images: originals.Images, train_files: int, test_files: int
) -> tuple[Path, Path]:
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out) as draft:
            scale = images.full_scale
            written = [
                *_write_part(Path(draft), f"{name}_train", images.train, scale, train_files),
                *_write_part(Path(draft), f"{name}_test", images.test, scale, test_files),
            ]
            lists = _lists(name, Path(draft))
            pieces_of = (written[:train_files], written[train_files:])
            for path, pieces in zip(lists, pieces_of, strict=True):
                path.write_text("".join(f"{piece.name}\n" for piece in pieces))
            for path in (*written, *lists):
                path.replace(out / path.name)
    except BaseException:
        if is_new:
            with suppress(OSError):  # another process may have begun to use it
                out.rmdir()
        raise
    return _lists(name, out)


def _write_part(
    folder: Path, stem: str, part: originals.Part, full_scale: float, n_files: int
) -> list[Path]:
    paths = []
    for k, rows in enumerate(np.array_split(np.arange(len(part.classes)), n_files)):
        paths.append(folder / f"{stem}_{k:03d}.h5")
        with h5py.File(paths[-1], "w") as file:
            features = file.create_dataset("features", data=part.images[rows])
            features.attrs["full_scale"] = full_scale
            file["labels"] = np.eye(N_CLASSES, dtype=np.float32)[part.classes[rows]]
    return paths
