"""Whatever bytes a checkpoint, history, data file or archive has: an NNLOError or success."""

import io
import json
import logging
import pickle
import tarfile
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnlo.bayes import methods, store
from nnlo.checkpoint import Checkpoint, CheckpointStore, read
from nnlo.data import H5Data, originals
from nnlo.data.patience import Patience
from nnlo.errors import CheckpointError, DataError
from nnlo.history import History
from nnlo.model.manifest import Entry, Manifest
from nnlo.mpi.saving import check
from tests.fuzzing import VALUES, fuzz, mutated


@pytest.fixture(autouse=True)
def quiet():
    """Thousands of damaged files need no warnings."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# Checkpoints -------------------------------------------------------------------------------------

HISTORY = History(
    [{"epoch": 1, "loss": 0.5}],
    {"1": [{"epoch": 1, "samples": 3, "steps": 1, "busy_s": 1.0, "wait_s": 0.0}]},
    {"metric": "val_loss", "value": 0.5, "epoch": 1},
    "epochs",
    1.5,
).to_json()
META = {"version": 1, "epoch": 1, "samples": 9, "sums": [9, 1.0], "staleness": [1, 0]}
META |= {"learning_rate": 0.1, "base_learning_rate": 0.1, "history": HISTORY}
META |= {"manifest": "a", "algorithm": "b", "topology": "c", "metrics": ["loss"]}
ARRAYS = {
    "weights": np.arange(1500, dtype=np.float32),
    "worker/1/position": np.array([3, 4]),
    "algo/count": np.array(7),
}


@pytest.fixture(scope="module")
def whole(folder):
    path = CheckpointStore(folder / "whole").save(Checkpoint(ARRAYS, META), 1)
    return path.read_bytes()


@fuzz(400)
@given(st.data())
def test_damaged_checkpoints_are_found_or_harmless(folder, whole, data):
    path = folder / "damaged.npz"
    path.write_bytes(data.draw(mutated(whole)))
    with suppress(CheckpointError):
        again = read(path)
        assert again.meta == META
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(again.arrays[name], array, strict=True)


@fuzz(100)
@given(st.binary(max_size=100), st.sampled_from(["meta.npy", "weights.npy", "x", "."]))
def test_archives_of_anything_are_no_checkpoints(folder, content, name):
    for pack in (content, npy_of(content)):
        with zipfile.ZipFile(folder / "any.npz", "w") as archive:
            archive.writestr(name, pack)
        with pytest.raises(CheckpointError):
            check(read(folder / "any.npz"), "cp")


def npy_of(content):
    np.save(stream := io.BytesIO(), np.array(content))
    return stream.getvalue()


@fuzz(150)
@given(st.dictionaries(st.sampled_from([*META, "arrays"]), VALUES, max_size=3))
def test_checkpoints_of_other_content_are_found_before_they_are_used(folder, changed):
    store = CheckpointStore(folder / "other", keep=1)
    try:
        path = store.save(Checkpoint(ARRAYS, META | changed), 1)
    except UnicodeEncodeError:
        return
    with suppress(CheckpointError):
        check(read(path), "cp")


@fuzz(200)
@given(st.data())
def test_histories(data):
    keys = st.sampled_from(["schema", "epochs", "ranks", "best", "stopped", "train_time_s", "x"])
    odd = st.dictionaries(keys, VALUES, max_size=3).map(lambda d: json.loads(HISTORY) | d)
    text = data.draw(
        st.text(max_size=20)
        | VALUES.map(json.dumps)
        | odd.map(json.dumps)
        | mutated(HISTORY.encode()).map(lambda b: b.decode(errors="replace"))
    )
    with suppress(CheckpointError):
        history = History.from_json(text)
        history.values("loss")
        assert History.from_json(history.to_json()).to_json() == history.to_json()


# Data --------------------------------------------------------------------------------------------

KINDS = ["f2", "f4", "f8", ">f4", "i1", "u1", "i8", "u8", "?", "c8", "S3", "V4", "i4,f4", "(2,)f4"]
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple) | st.just((3,)) | st.just((3, 2))


def write_dataset(draw, group, key):
    """Anything that HDF5 can hold under a name."""
    shape = draw(SHAPES)
    match draw(
        st.sampled_from(["plain"] * 4 + ["odd", "text", "ref", "vlen", "null", "link", "group"])
    ):
        case "plain":
            group[key] = np.ones(shape, draw(st.sampled_from(["f4", "i8", "u1"])))
        case "odd":
            group[key] = np.ones(shape, draw(st.sampled_from(KINDS)))
        case "text":
            group[key] = draw(st.sampled_from(["text", ["a", "b", "c"], b"x"]))
        case "ref":
            group.create_dataset(key, shape, h5py.ref_dtype)
        case "vlen":
            group.create_dataset(key, shape, h5py.vlen_dtype("f4"))
        case "null":
            group[key] = h5py.Empty("f4")
        case "link":
            group[key] = draw(
                st.sampled_from(
                    [
                        h5py.SoftLink("/nowhere"),
                        h5py.SoftLink(f"/{key}"),
                        h5py.SoftLink("/features"),
                        h5py.ExternalLink("/no/such.h5", "/x"),
                        np.dtype("f4"),
                    ]
                )
            )
        case "group":
            for name in draw(st.lists(st.sampled_from("abc"), unique=True, max_size=3)):
                write_dataset(draw, group.require_group(key), name)
    with suppress(Exception):  # what has attributes
        group[key].attrs["full_scale"] = draw(st.sampled_from([2, 0, "x", [1, 2], 1.5]))


@fuzz(250)
@given(st.data())
def test_layouts_of_hdf5_files(folder, data):
    paths = [folder / f"fuzz{k}.h5" for k in range(data.draw(st.integers(1, 2)))]
    for path in paths:
        with h5py.File(path, "w") as file:
            for key in ("features", "labels"):
                write_dataset(data.draw, file, key)
    use(paths, data.draw(st.sampled_from(["features", "features/a", "x", "", "/", ".", "\0"])))


def use(paths, features="features"):
    """Count and read."""
    h5data = H5Data(2, features, prefetch=0)
    h5data.patience = Patience((0.0,))
    h5data.set_files(paths)
    try:
        n_samples = sum(h5data.count())
        assert sum(1 for _ in h5data.epoch(0)) == -(-n_samples // 2)
    except DataError:
        return


@pytest.fixture(scope="module")
def hdf5(folder):
    path = folder / "whole.h5"
    with h5py.File(path, "w") as file:
        how = {"chunks": (4, 8), "compression": "gzip", "fletcher32": True}
        file.create_dataset("features", data=np.ones((16, 8), "f4"), **how)
        file["labels"] = np.arange(16)
    return path.read_bytes()


@fuzz(200)
@given(st.data())
def test_chunks_of_hdf5_files(folder, hdf5, data):
    """Only the data: HDF5 itself does not survive all that one can do to its structures."""
    path = folder / "chunks.h5"
    path.write_bytes(hdf5)
    with h5py.File(path) as file:
        chunk = file["features"].id.get_chunk_info(data.draw(st.integers(0, 3)))
    damaged = bytearray(hdf5)
    part = slice(chunk.byte_offset, chunk.byte_offset + chunk.size)
    changed = data.draw(mutated(hdf5[part]))[: chunk.size]
    damaged[part] = changed.ljust(chunk.size, b"\0")
    size = data.draw(st.just(len(damaged)) | st.integers(0, len(damaged)))
    path.write_bytes(damaged[:size])
    use([path])


def tar_of(contents):
    with tarfile.open(fileobj=(stream := io.BytesIO()), mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def batches():
    batch = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}, protocol=2)
    return {name: batch for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")}


def mnist():
    arrays = {f"x_{part}": np.zeros((2, 28, 28), np.uint8) for part in ("train", "test")}
    arrays |= {f"y_{part}": np.array([1, 2]) for part in ("train", "test")}
    np.savez(stream := io.BytesIO(), **arrays)
    return stream.getvalue()


@fuzz(150)
@given(st.data())
def test_archives_of_images(folder, data):
    read_it, whole = data.draw(
        st.sampled_from([(originals.cifar10, tar_of(batches())), (originals.mnist, mnist())])
    )
    path = folder / "archive"
    path.write_bytes(data.draw(mutated(whole)))
    with suppress(DataError):
        read_it(path)


@fuzz(150)
@given(st.data())
def test_batches_in_archives(folder, data):
    contents = batches()
    name = data.draw(st.sampled_from([*contents]))
    contents[name] = data.draw(mutated(contents[name]) | st.binary())
    (folder / "archive").write_bytes(tar_of(contents))
    with suppress(DataError):
        originals.cifar10(folder / "archive")


# Particles ---------------------------------------------------------------------------------------

MANIFEST = Manifest([Entry("model", "weight", (3,), "T", 0), Entry("model", "mean", (2,), "S", 3)])
ABOUT = {"kind": "multiswag", "n_particles": 2, "seed": 0, "manifest": MANIFEST.hash}
ABOUT |= {"numbers": {"scale": 0.5, "rank": 3, "optimizer": "adam"}}
PARTICLE = {
    "weights": np.zeros(3, np.float32),
    "state": np.zeros(2, np.float32),
    "count": np.array(3),
    "mean": np.ones(3, np.float32),
    "variance": np.ones(3, np.float32),
    "deviations": np.ones((3, 3), np.float32),
    "state_mean": np.zeros(2, np.float32),
}


def ask(path):
    """Draw from the particles in a folder, whatever is there."""
    posterior = methods.load(path, MANIFEST)
    vector = np.empty(MANIFEST.size, np.float32)
    for index in range(2):
        posterior.draw(index, vector)
        posterior.dropout_seed(index)
    return vector


@pytest.fixture(scope="module")
def particles(folder):
    path = folder / "posterior"
    store.save(None, path, {0: PARTICLE, 1: PARTICLE}, ABOUT)
    assert np.isfinite(ask(path)).all()
    return path


@fuzz(300)
@given(st.data())
def test_damaged_posteriors_are_found_or_harmless(particles, data):
    whole = json.dumps(ABOUT).encode()
    (particles / store.ABOUT).write_bytes(data.draw(mutated(whole)))
    with suppress(CheckpointError):
        ask(particles)
    (particles / store.ABOUT).write_bytes(whole)


@fuzz(300)
@given(st.sampled_from([*ABOUT, "numbers.scale", "numbers.rank", "new"]), VALUES)
def test_posteriors_of_any_values_are_refused_or_harmless(particles, name, value):
    about = json.loads(json.dumps(ABOUT))
    target, _, key = name.rpartition(".")
    (about[target] if target else about)[key] = value
    (particles / store.ABOUT).write_text(json.dumps(about))
    with suppress(CheckpointError):
        ask(particles)


@fuzz(200)
@given(st.data())
def test_damaged_particles_are_found_or_harmless(particles, data):
    (particles / store.ABOUT).write_text(json.dumps(ABOUT))
    path = particles / "particle-00001.npz"
    whole = path.read_bytes()
    path.write_bytes(data.draw(mutated(whole)))
    try:
        assert np.isfinite(ask(particles)).all()
    except CheckpointError:
        pass
    finally:
        path.write_bytes(whole)
