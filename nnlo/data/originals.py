"""The published forms of the data sets that NNLO can fetch: read and checked, all in memory."""

import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnlo.errors import DataError

Pixels = NDArray[np.uint8]

# Sums that https://www.cs.toronto.edu/~kriz/cifar.html gives.
_CIFAR_MD5 = (
    ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    ("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
)
# Address and SHA-256, as in keras.datasets.
_ORIGINS = {
    "mnist": (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
    ),
    "cifar10": (
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
}
_CIFAR_PIXELS = 3 * 32 * 32
_LARGEST = 2**28
"""Bytes of all that is in an archive: MNIST has 55 MB, CIFAR-10 186 MB."""


class Part(NamedTuple):
    """Images (n, rows, columns, channels) and classes (n,) of a training or test set."""

    images: Pixels
    classes: NDArray[np.int64]


class Images(NamedTuple):
    """A whole data set; ``full_scale`` is the pixel value that means 1.0."""

    train: Part
    test: Part
    full_scale: float


def digits() -> Images:
    """8 x 8 images of the UCI handwritten digits, as scikit-learn brings them: 1500 + 297."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., np.newaxis]
    split = train_test_split(
        images, bunch.target, test_size=297, stratify=bunch.target, random_state=0
    )
    train, test = _part(split[0], split[2]), _part(split[1], split[3])
    return Images(train, test, full_scale=16.0)


def mnist(source: Path | None) -> Images:
    """28 x 28 images, from ``source`` (mnist.npz as Keras has it) or through Keras."""
    source = source or _fetched("mnist")
    try:
        found = _mnist_arrays(source)
    except Exception as error:  # a damaged archive can raise anything
        raise DataError(
            "source of mnist must be a mnist.npz with x_train, y_train, x_test and y_test, "
            f"got {source} ({error}); give the file that Keras uses"
        ) from error
    for x, y in (found[:2], found[2:]):
        if x.shape[1:] != (28, 28) or x.dtype != np.uint8 or y.shape != x.shape[:1]:
            raise DataError(
                "images of mnist must be (n, 28, 28) uint8 with n classes, got "
                f"{x.shape} {x.dtype} with {y.shape} in {source}; give the file that Keras uses"
            )
    return _images(found[:2], found[2:], (28, 28, 1), str(source))


def cifar10(source: Path | None) -> Images:
    """32 x 32 colour images, from ``source`` or through Keras.

    source: one of the published archives, python or binary, or a folder of its batches.
    """
    source = source or _fetched("cifar10")
    try:
        read = _folder(source) if source.is_dir() else _archive(source)
        train = [_cifar_batch(read, f"data_batch_{k}", source) for k in range(1, 6)]
        test = _cifar_batch(read, "test_batch", source)
    except DataError:
        raise
    except Exception as error:  # a damaged archive can raise anything
        raise DataError(
            f"source of cifar10 must be a readable .tar.gz or folder of batches, got {source} "
            f"({error}); fetch it again"
        ) from error
    joined = [np.concatenate(arrays) for arrays in zip(*train, strict=True)]
    return _images(joined, list(test), (32, 32, 3), str(source))


def _fetched(name: str) -> Path:
    """Download the original, or take the one that Keras has; its SHA-256 is checked."""
    from keras.utils import get_file

    origin, digest = _ORIGINS[name]
    try:
        return Path(get_file(origin.rpartition("/")[2], origin=origin, file_hash=digest))
    except Exception as error:  # Keras raises nothing narrower when a download fails
        raise DataError(
            f"{name} must be downloaded or given, got no download ({error}); "
            "without network pass a local copy: --source FILE"
        ) from error


def _mnist_arrays(source: Path) -> list[NDArray[Any]]:
    with zipfile.ZipFile(source) as archive:
        _check_size(sum(member.file_size for member in archive.infolist()))
    with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return [arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")]


def _images(train: Any, test: Any, shape: tuple[int, ...], where: str) -> Images:
    parts = []
    for x, y in (train, test):
        classes = np.asarray(y).reshape(-1)
        is_whole = classes.dtype.kind in "iu"
        if not is_whole or len(classes) == 0 or classes.min() < 0 or classes.max() > 9:
            raise DataError(
                f"classes must be from 0 to 9 and at least one, got {classes[:20]} in {where}; "
                "fetch it again"
            )
        parts.append(_part(np.asarray(x).reshape(-1, *shape), classes))
    return Images(parts[0], parts[1], full_scale=255.0)


def _part(images: Any, classes: Any) -> Part:
    return Part(images, np.asarray(classes).astype(np.int64))


def _folder(folder: Path) -> Callable[[str], bytes | None]:
    """How to read a file of ``folder`` by its name; None if it is not there."""
    files = {path.name: path for path in folder.rglob("*_batch*") if path.is_file()}
    return lambda name: files[name].read_bytes() if name in files else None


def _archive(path: Path) -> Callable[[str], bytes | None]:
    """The same for an archive; it is never unpacked to disk."""
    for name, md5 in _CIFAR_MD5:
        if path.name == name and (found := _md5(path)) != md5:
            raise DataError(f"md5 of {name} must be {md5}, got {found} of {path}; fetch it again")
    contents = {}
    with tarfile.open(path) as archive:
        n_bytes = 0
        for member in archive:
            name = Path(member.name).name
            n_bytes += tarfile.BLOCKSIZE + member.size
            _check_size(n_bytes)
            # Links and devices are no batches: the archive holds what it holds, or nothing.
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is not None and "_batch" in name:
                contents[name] = stream.read()
    return contents.get


def _check_size(n_bytes: int) -> None:
    """A small archive may unpack to any size."""
    if n_bytes > _LARGEST:
        raise ValueError(f"it unpacks to {n_bytes} bytes or more")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _cifar_batch(
    read: Callable[[str], bytes | None], name: str, source: Path
) -> tuple[Pixels, NDArray[Any]]:
    """Images (n, 32, 32, 3) and classes of one batch, in whichever of its two forms."""
    if (pickled := read(name)) is not None:
        pixels, classes = _unpickled(pickled, f"{name} in {source}")
    elif (binary := read(f"{name}.bin")) is not None:
        pixels, classes = _records(binary, f"{name}.bin in {source}")
    else:
        raise DataError(
            f"source of cifar10 must hold {name} or {name}.bin, got neither in {source}; "
            "give the python or binary archive, or the folder of its batches"
        )
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), classes


def _records(binary: bytes, where: str) -> tuple[Pixels, NDArray[Any]]:
    if len(binary) % (1 + _CIFAR_PIXELS):
        raise DataError(
            f"batch must be whole records of {1 + _CIFAR_PIXELS} bytes, got {len(binary)} bytes "
            f"as {where}; fetch it again"
        )
    records = np.frombuffer(binary, np.uint8).reshape(-1, 1 + _CIFAR_PIXELS)
    return records[:, 1:], records[:, 0]


def _unpickled(pickled: bytes, where: str) -> tuple[Pixels, NDArray[Any]]:
    try:
        batch = _ArraysOnly(io.BytesIO(pickled), encoding="bytes").load()
        pixels, classes = batch[b"data"], np.asarray(batch[b"labels"])
        is_good = pixels.dtype == np.uint8 and pixels.shape == (len(classes), _CIFAR_PIXELS)
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(
            f"batch must be a pickle with data and labels, got {error!r} from {where}; "
            "fetch it again"
        ) from error
    if not is_good:
        raise DataError(
            f"batch must hold (n, {_CIFAR_PIXELS}) uint8 and n labels, got {pixels.shape} "
            f"{pixels.dtype} and {len(classes)} in {where}; fetch it again"
        )
    return pixels, classes


class _ArraysOnly(pickle.Unpickler):
    """Makes arrays, bytes and built-in containers; a pickle can name no other code to run."""

    def find_class(self, module: str, name: str) -> Any:
        rebuild = np.empty(0).__reduce__()[0]
        match module.replace("numpy._core", "numpy.core"), name:
            case "numpy.core.multiarray", "_reconstruct":
                return rebuild
            case "numpy", "ndarray":
                return np.ndarray
            case "numpy", "dtype":
                return np.dtype
            case "_codecs", "encode":  # how Python 3 writes bytes for Python 2
                return lambda text, _: text.encode("latin1")
        raise DataError(
            f"pickle must hold arrays only, got {module}.{name}; don't trust this file"
        )
