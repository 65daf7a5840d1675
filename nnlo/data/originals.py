"""The published forms of the data sets that NNLO can fetch: read and checked, all in memory."""

import hashlib
import io
import pickle
import tarfile
import zipfile
import zlib
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
# What numpy raises for a file that is damaged, another archive, or a single array.
_NO_NPZ = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
_CIFAR_PIXELS = 3 * 32 * 32


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
    if source is None:
        return _from_keras("mnist")
    try:
        with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = [arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")]
    except _NO_NPZ as error:
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
    if source is None:
        return _from_keras("cifar10")
    try:
        read = _folder(source) if source.is_dir() else _archive(source)
        train = [_cifar_batch(read, f"data_batch_{k}", source) for k in range(1, 6)]
        test = _cifar_batch(read, "test_batch", source)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(
            f"source of cifar10 must be a readable .tar.gz or folder of batches, got {source} "
            f"({error}); fetch it again"
        ) from error
    joined = [np.concatenate(arrays) for arrays in zip(*train, strict=True)]
    return _images(joined, list(test), (32, 32, 3), str(source))


def _from_keras(name: str) -> Images:
    from keras import datasets

    try:
        train, test = getattr(datasets, name).load_data()
    except Exception as error:  # Keras raises nothing narrower when a download fails
        raise DataError(
            f"{name} must be downloaded or given, got no download ({error}); "
            "without network pass a local copy: --source FILE"
        ) from error
    shape = (28, 28, 1) if name == "mnist" else (32, 32, 3)
    return _images(train, test, shape, name)


def _images(train: Any, test: Any, shape: tuple[int, ...], where: str) -> Images:
    parts = []
    for x, y in (train, test):
        classes = np.asarray(y).reshape(-1)
        if len(classes) == 0 or classes.min() < 0 or classes.max() > 9:
            raise DataError(
                f"classes must be from 0 to 9 and at least one, got {np.unique(classes)[:20]} "
                f"in {where}; fetch it again"
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
        for member in archive:
            name = Path(member.name).name
            stream = archive.extractfile(member) if "_batch" in name else None
            if stream is not None:
                contents[name] = stream.read()
    return contents.get


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
