"""Whatever bytes a file has and whatever words an option: an NNLOError or success."""

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
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnlo.algo import MODES, OPTIMIZERS, Algo
from nnlo.checkpoint import Checkpoint, CheckpointStore, read
from nnlo.cli.config_file import pairs
from nnlo.cli.options import parse
from nnlo.cli.rundir import RunDirectory
from nnlo.cli.train_options import TrainOptions
from nnlo.data import H5Data, originals, read_list
from nnlo.data.patience import Patience
from nnlo.errors import CheckpointError, ConfigError, DataError
from nnlo.history import History
from nnlo.mpi.saving import check
from nnlo.mpi.stopping import EarlyStopping, Target

KNOWN = ["loss", "accuracy", "val_loss", "val_accuracy", "disc/loss", "val_disc/loss"]


def fuzz(max_examples):
    """The same examples each time, as many as fit into seconds."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    checks += [HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=checks,
    )


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


def mutated(draw, whole):
    """``whole`` with bits flipped, parts cut out, doubled, zeroed or replaced."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        size = draw(st.integers(1, 64) | st.integers(1, 5000))
        match draw(st.sampled_from(["flip", "cut", "tail", "double", "zero", "new"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + size]
            case "tail":
                del data[at:]
            case "double":
                data[at:at] = data[at : at + size]
            case "zero":
                data[at : at + size] = bytes(len(data[at : at + size]))
            case "new":
                data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=12))
    return bytes(data)


# List files --------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    ["a.h5", "./a.h5", "../a.h5", "..", "x://y", "://", "-o://", "#", "~", "/"]
)
LINES = st.lists(NAMES | st.text(max_size=20) | st.text("./\\a:-\0", max_size=9), max_size=4)


@fuzz(200)
@given(st.binary(max_size=200) | LINES.map(lambda lines: "\n".join(lines).encode()))
def test_list_files(folder, content):
    (folder / "a.h5").touch()
    (folder / "fuzz.list").write_bytes(content)
    with suppress(DataError):
        for file in read_list(folder / "fuzz.list"):
            assert "://" in file or Path(file).is_absolute()


@fuzz(100)
@given(st.text(max_size=30))
def test_names_of_list_files(folder, name):
    with suppress(DataError):
        read_list(name)
    with suppress(DataError):
        read_list(str(folder / "none") + name)


# Options -----------------------------------------------------------------------------------------

FIELDS = st.sampled_from([*TrainOptions.__dataclass_fields__, "config", "no-tensorboard", "x", ""])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
TAGS = st.sampled_from(
    ["int", "float", "bool", "null", "timestamp", "binary", "omap", "pairs", "set", "str", "seq"]
)
ODD_YAML = st.tuples(TAGS, st.text(max_size=8)).map("epochs: !!{0[0]} {0[1]}".format)


def options_of(path, *line):
    """Options or an error; 2 is the code for a command line that cannot be understood."""
    try:
        return parse("fuzz", TrainOptions, "", ["--config", str(path), "--model", "m", *line])
    except SystemExit as error:
        raise {2: ConfigError("told already")}[error.code] from None


@fuzz(150)
@given(st.binary(max_size=100) | st.text(max_size=60).map(str.encode) | ODD_YAML.map(str.encode))
def test_config_files_of_any_bytes(folder, capsys, content):
    (folder / "fuzz.yaml").write_bytes(content)
    with suppress(ConfigError):
        assert options_of(folder / "fuzz.yaml").model == "m"


@fuzz(100)
@given(st.dictionaries(FIELDS, VALUES, max_size=4), st.sampled_from([json.dumps, yaml.safe_dump]))
def test_config_files_of_nearly_right_options(folder, capsys, content, dump):
    (folder / "fuzz.yaml").write_text(dump(content), errors="replace")
    with suppress(ConfigError):
        options = options_of(folder / "fuzz.yaml")
        with suppress(ConfigError):
            pairs("--param", options.param)
            pairs("--optimizer-params", options.optimizer_params)


@pytest.mark.parametrize(
    "text",
    [
        "&a [*a]",
        "epochs: &a [*a]",
        "param: &a {a: *a}",
        "[" * 100_000,
        "[" * 2000 + "!",
        '"\\ud800"',
        'model: "\\ud800"',
        '{"param": {"\\udc00": 1}}',
        "epochs: 2001-99-99",
        "epochs: !!timestamp x",
        "epochs: !!bool x",
        "epochs: !!int ''",
        "epochs: 0x" + "f" * 9000,
        "epochs: " + "9" * 9000,
        "a: &a [1]\nb: &b [*a, *a]\nepochs: [[[[*b]]]]",
        "? [1]\n: 2",
        "? {1: 2}\n: 2",
        "--- 1\n--- 2",
        "\0",
    ],
)
def test_config_files_that_have_been_trouble(folder, capsys, text):
    (folder / "fuzz.yaml").write_text(text)
    with pytest.raises(ConfigError):
        options_of(folder / "fuzz.yaml")
    with suppress(ConfigError):
        pairs("--param", [f"a={text}"])


@fuzz(150)
@given(st.lists(st.text(max_size=15) | st.text("a=[]{}&*!:,1e-", max_size=12), max_size=3))
def test_pairs(words):
    with suppress(ConfigError):
        pairs("--param", words)
    with suppress(ConfigError):
        pairs("--param", [f"a={word}" for word in words])


WORDS = ["1", "0", "-1", "0.5", "nan", "inf", "x", "[1]", "{a: 1}", "null", "true", "", "1e400"]
NUMBERS_OF = st.sampled_from(
    [
        *("learning_rate", "momentum", "beta_1", "epsilon", "nesterov", "sync_every", "staleness"),
        *("worker_optimizer", "worker_learning_rate", "clip_norm", "clip_value", "dc_lambda"),
        *("elastic_force", "elastic_momentum", "kappa", "gem_kappa", "scaling", "warmup", "x"),
    ]
)


@fuzz(400)
@given(
    st.sampled_from([*MODES]),
    st.none() | st.sampled_from([*OPTIMIZERS]),
    st.lists(st.tuples(NUMBERS_OF, st.sampled_from(WORDS)).map("=".join), max_size=3),
)
def test_numbers_of_algorithms(mode, optimizer, words):
    with suppress(ConfigError):
        algo = Algo(optimizer, mode=mode, **pairs("--mode-params", words))
        assert algo.worker(3, 2) is not None


@fuzz(100)
@given(st.text(max_size=12) | st.text("./a\0\n", max_size=5))
def test_names_of_runs_and_checkpoints_stay_in_the_output(folder, name):
    output = folder / "runs"
    with suppress(ConfigError):
        run = RunDirectory(str(output), "model", name)
        assert run.path.parent == output
        run.create(patience=0.0)
        run.close()
    with suppress(ConfigError, CheckpointError):
        base = RunDirectory(str(output), "model", "x").checkpoint(name)
        if base is not None and "/" not in name:
            assert base.parent.parent.parent == output
        CheckpointStore(base).newest()


# Early stopping, targets, callbacks --------------------------------------------------------------

NUMBERS = st.sampled_from(
    ["4", "0", "-1", "1e9", "nan", "inf", "1_0", "", " 2 ", "0.5", "9" * 5000]
)
PARTS = [
    st.sampled_from([*KNOWN, "val_acc", "disc:val_loss", "", "val_", "/", ":"])
    | st.text(max_size=6),
    st.sampled_from(["<", ">", "~<", "~>", "<=", ">=", "~", ""]) | st.text(max_size=2),
    NUMBERS | st.text(max_size=4),
    NUMBERS,
]
RULES = st.integers(0, 4).flatmap(lambda n: st.tuples(*PARTS[:n])).map(",".join) | st.text()
COSTS = st.lists(st.floats(width=32), max_size=12)


@fuzz(300)
@given(RULES, COSTS)
def test_early_stopping_and_targets(text, values):
    for kind in (EarlyStopping, Target):
        with suppress(ConfigError):
            rule = kind.parse(text, KNOWN)
            assert rule.reached(values) in (True, False)
            assert rule.metric in str(rule)


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
    path.write_bytes(data.draw(st.composite(mutated)(whole)))
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
        | st.composite(mutated)(HISTORY.encode()).map(lambda b: b.decode(errors="replace"))
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
    changed = data.draw(st.composite(mutated)(hdf5[part]))[: chunk.size]
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
    path.write_bytes(data.draw(st.composite(mutated)(whole)))
    with suppress(DataError):
        read_it(path)


@fuzz(150)
@given(st.data())
def test_batches_in_archives(folder, data):
    contents = batches()
    name = data.draw(st.sampled_from([*contents]))
    contents[name] = data.draw(st.composite(mutated)(contents[name]) | st.binary())
    (folder / "archive").write_bytes(tar_of(contents))
    with suppress(DataError):
        originals.cifar10(folder / "archive")
