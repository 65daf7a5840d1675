import hashlib
import io
import pickle
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from nnlo.data import H5Data, originals, read_list
from nnlo.data.fetch import dataset_files, write_dataset
from nnlo.data.showers import make_showers
from nnlo.errors import DataError


def arrays_of(path):
    """x (float32, as a model sees it) and y of all files of a list, in order."""
    data = H5Data(64, shuffle=False)
    data.set_files(read_list(path))
    x, y = zip(*data.epoch(0), strict=True)
    return np.concatenate(x), np.concatenate(y)


def cifar_batches(n=12):
    """File name -> (pixels (n, 3072) uint8, classes), small but as published."""
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    return {
        name: (rng.integers(0, 256, (n, 3072), np.uint8), rng.integers(0, 10, n).tolist())
        for name in names
    }


def python_form(batches):
    return {
        f"cifar-10-batches-py/{name}": pickle.dumps({b"data": x, b"labels": y}, protocol=2)
        for name, (x, y) in batches.items()
    }


def binary_form(batches):
    return {
        f"cifar-10-batches-bin/{name}.bin": np.column_stack([np.uint8(y), x]).tobytes()
        for name, (x, y) in batches.items()
    }


def write_archive(path, contents):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_folder(path, contents):
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def test_digits_are_complete_stratified_and_the_same_each_time(tmp_path):
    lists = write_dataset("digits", tmp_path / "a")
    (x, y), (x_test, y_test) = map(arrays_of, lists)
    assert (x.shape, x_test.shape, y.shape) == ((1500, 8, 8, 1), (297, 8, 8, 1), (1500, 10))
    assert (x.min(), x.max(), x.dtype, y.dtype) == (0, 1, np.float32, np.float32)
    assert np.ptp(y_test.sum(axis=0)) <= 2
    again = arrays_of(write_dataset("digits", tmp_path / "b")[0])
    np.testing.assert_array_equal(x, again[0])


def test_mnist_pieces_hold_the_original_in_its_order(mnist_npz, tmp_path):
    train, test = write_dataset("mnist", tmp_path, mnist_npz)
    assert (len(read_list(train)), len(read_list(test))) == (24, 4)
    with np.load(mnist_npz) as original:
        for path, part in ((train, "train"), (test, "test")):
            x, y = arrays_of(path)
            expected = original[f"x_{part}"][..., None] / np.float32(255)
            np.testing.assert_array_equal(x, expected)
            np.testing.assert_array_equal(y.argmax(axis=1), original[f"y_{part}"])
            assert x.max() == 1


@pytest.mark.parametrize("form", [python_form, binary_form])
@pytest.mark.parametrize("write", [write_archive, write_folder])
def test_cifar10_is_read_from_all_its_published_forms(tmp_path, form, write):
    batches = cifar_batches()
    source = write(tmp_path / "cifar.tar.gz", form(batches))
    train, test = write_dataset("cifar10", tmp_path / "out", source, train_files=7, test_files=1)
    x, y = arrays_of(train)
    assert (x.shape, arrays_of(test)[0].shape) == ((60, 32, 32, 3), (12, 32, 32, 3))
    pixels, classes = batches["data_batch_2"]
    np.testing.assert_array_equal(y[12:24].argmax(axis=1), classes)
    green = np.float32(pixels[0, 1024:2048].reshape(32, 32)) / np.float32(255)
    np.testing.assert_array_equal(x[12, :, :, 1], green)


@pytest.mark.parametrize("n_files", [1, 3])
def test_showers_are_the_same_in_any_number_of_pieces(tmp_path, n_files):
    lists = write_dataset("calo3d", tmp_path, None, n_files, n_files, samples=20)
    data = H5Data(64, "X", "y", shuffle=False)
    data.set_files([file for path in lists for file in read_list(path)])
    x, y = map(np.concatenate, zip(*data.epoch(0), strict=True))
    expected = make_showers(20)
    np.testing.assert_array_equal(x, expected[0])
    np.testing.assert_array_equal(y, expected[1])
    assert sum(len(h5py.File(file)["y"]) for file in read_list(lists[1])) == 4


def test_lists_name_pieces_relative_so_that_the_folder_can_be_moved(tmp_path):
    train, _ = write_dataset("digits", tmp_path / "a", train_files=3, test_files=1)
    (tmp_path / "a").rename(tmp_path / "b")
    files = read_list(tmp_path / "b" / train.name)
    assert [Path(file).name for file in files] == [f"digits_train_{k:03d}.h5" for k in range(3)]
    assert len(list((tmp_path / "b").iterdir())) == 6


class Runs:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return print, ("planted",)


def bad_cifar(tmp_path, kind):
    contents = python_form(cifar_batches())
    path = tmp_path / "bad.tar.gz"
    match kind:
        case "code":
            contents["cifar-10-batches-py/test_batch"] = pickle.dumps(Runs(), protocol=2)
        case "damaged pickle":
            contents["cifar-10-batches-py/test_batch"] = b"\x80\x02}q"
        case "a batch less":
            del contents["cifar-10-batches-py/data_batch_5"]
        case "part of a record":
            contents = {name: c[:-1] for name, c in binary_form(cifar_batches()).items()}
        case "other md5":
            path = tmp_path / "cifar-10-python.tar.gz"
        case "class 10":
            pixels, _ = cifar_batches(1)["test_batch"]
            contents.update(python_form({"test_batch": (pixels, [10])}))
    write_archive(path, contents)
    if kind == "cut off":
        path.write_bytes(path.read_bytes()[:5000])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("code", "arrays only, got builtins.print|arrays only, got __builtin__.print"),
        ("damaged pickle", "pickle with data and labels, got .*test_batch in .*bad"),
        ("a batch less", "hold data_batch_5 or"),
        ("part of a record", "whole records of 3073 bytes"),
        ("other md5", "md5 of cifar-10-python.tar.gz must be c58f"),
        ("class 10", "from 0 to 9"),
        ("cut off", "readable .tar.gz"),
    ],
)
def test_bad_original_is_an_error_and_nothing_is_written(tmp_path, capsys, kind, message):
    source = bad_cifar(tmp_path, kind)
    with pytest.raises(DataError, match=message):
        write_dataset("cifar10", tmp_path / "out", source)
    assert not (tmp_path / "out").exists()
    assert "planted" not in capsys.readouterr().out


def test_upstream_md5_is_that_of_the_whole_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert originals._md5(tmp_path / "a") == hashlib.md5(b"abc" * 100_000).hexdigest()


def single_array():
    np.save(stream := io.BytesIO(), np.zeros(3))
    return stream.getvalue()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 broken", single_array()])
def test_file_that_is_no_mnist_is_an_error(tmp_path, content):
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"must be a mnist\.npz with x_train"):
        write_dataset("mnist", tmp_path / "out", tmp_path / "mnist.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("letters",), "one of digits, mnist, cifar10, calo3d, got letters"),
        (("digits", "mnist.npz"), "source must exist"),
        (("digits", __file__), "from scikit-learn"),
        (("calo3d", __file__), "made by NNLO"),
        (("calo3d", None, 1, 1, 4), "at least 5, got 4"),
        (("digits", None, 1, 1, 10), "must be of calo3d, got 10 of digits"),
        (("digits", None, 1501), "from 1 to the 1500 samples"),
        (("digits", None, 1, 0), "pass another --test-files"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(tmp_path, arguments, message):
    name, *rest = arguments
    with pytest.raises(DataError, match=message):
        write_dataset(name, tmp_path / "out", *rest)


def test_without_network_the_remedy_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    from keras import utils

    def fail(*_args, **_options):
        raise Exception("URL fetch failure")  # noqa: TRY002 - what Keras raises

    monkeypatch.setattr(utils, "get_file", fail)
    with pytest.raises(DataError, match=r"URL fetch failure.*--source FILE"):
        write_dataset("mnist", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_download_is_read_by_our_own_reader(tmp_path, monkeypatch):
    from keras import utils

    asked = []
    source = tmp_path / "cifar.tar.gz"
    write_archive(source, python_form(cifar_batches()))
    monkeypatch.setattr(utils, "get_file", lambda *a, **o: asked.append((a, o)) or str(source))
    images = originals.cifar10(None)
    assert len(images.train.classes) == len(originals.cifar10(source).train.classes)
    ((name,), options) = asked[0]
    assert name == "cifar-10-python.tar.gz"
    assert len(options["file_hash"]) == 64


def linked(name, kind, target):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
@pytest.mark.parametrize("target", ["/etc/hostname", "../../x", "data_batch_1", "nowhere"])
def test_links_and_devices_in_an_archive_are_no_batches(tmp_path, kind, target):
    contents = python_form(cifar_batches())
    del contents["cifar-10-batches-py/test_batch"]
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        archive.addfile(linked("cifar-10-batches-py/test_batch", kind, target))
    with pytest.raises(DataError, match="hold test_batch or"):
        originals.cifar10(path)


def test_archives_that_unpack_to_any_size_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "mnist.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            with archive.open(f"{name}.npy", "w") as stream:
                for _ in range(20):
                    stream.write(bytes(2**22))
    with pytest.raises(DataError, match="unpacks to 335544320 bytes"):
        originals.mnist(tmp_path / "mnist.npz")
    member = tarfile.TarInfo("data_batch_1")
    member.size = 2**40
    (tmp_path / "bomb.tar").write_bytes(member.tobuf() + bytes(1024))
    with pytest.raises(DataError, match="unpacks to 10995"):
        originals.cifar10(tmp_path / "bomb.tar")


def test_disk_that_fills_up_leaves_nothing(tmp_path, monkeypatch):
    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5py.Group, "__setitem__", full)
    with pytest.raises(DataError, match=r"have room for digits, got .*No space left"):
        write_dataset("digits", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="folder must be writable"):
        write_dataset("digits", tmp_path / "out")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty current directory and cache."""
    monkeypatch.delenv("NNLO_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_default_data_are_written_once_by_any_number_of_processes(elsewhere):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(dataset_files, ["digits"] * 4))
    folder = elsewhere / "cache/nnlo/digits"
    assert all(pair == found[0] for pair in found)
    assert len(list(folder.iterdir())) == 24 + 4 + 2
    before = (folder / "train_digits.list").stat().st_mtime_ns
    assert dataset_files("digits") == found[0]
    assert (folder / "train_digits.list").stat().st_mtime_ns == before


def test_lists_of_the_current_directory_come_first(elsewhere, monkeypatch):
    monkeypatch.setenv("NNLO_DATA", str(elsewhere / "other"))
    assert dataset_files("digits")[0][0].startswith(str(elsewhere / "other/digits"))
    write_dataset("digits", elsewhere / "here", train_files=2)
    assert dataset_files("digits")[0][0] == str(elsewhere / "here/digits_train_000.h5")
