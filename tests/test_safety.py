"""Files that are read cannot run code or write anywhere; models in .py files are the exception."""

import base64
import json
import os
import pickle
import re
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from nnlo.checkpoint import CheckpointStore, read
from nnlo.cli.config_file import file_words, pairs
from nnlo.data import H5Data, originals
from nnlo.errors import ConfigError, NNLOError
from nnlo.model.builder import ModelFromJson, ModelFromKeras
from nnlo.model.loader import load_builder
from nnlo.mpi.frame import unpack_arrays

ROOT = Path(__file__).parents[1]


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def bomb(tmp_path):
    """Must not have gone off at the end."""
    yield Bomb(tmp_path / "exploded")
    assert not (tmp_path / "exploded").exists()


def npz_of(**arrays):
    np.savez(stream := BytesIO(), **arrays)
    return stream.getvalue()


def test_the_bomb_works(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()


def test_no_file_of_the_package_reads_pickles_or_loads_unsafely():
    unsafe = re.compile(
        r"allow_pickle=True|pickle\.load|torch\.load|yaml\.(unsafe_|full_)?load\(|safe_mode=False|"
        r"weights_only=False|marshal|shelve|dill|joblib|[^_.]eval\(|[^_.]exec\(|shell=True"
    )
    files = [*(ROOT / "nnlo").rglob("*.py"), *(ROOT / "models").rglob("*.py")]
    found = {str(file.relative_to(ROOT)) for file in files if unsafe.search(file.read_text())}
    assert len(files) > 100
    assert found == {
        "nnlo/bayes/keras_masked.py",  # a copy of a model in memory, from no file
        "nnlo/bayes/torch_masked.py",  # with weights_only=True
        "nnlo/model/torch_vector.py",  # says how users load a .pt file: the same way
    }


def test_checkpoints_do_not_unpickle(tmp_path, bomb):
    objects = np.array([bomb], dtype=object)
    for number, content in enumerate(
        (npz_of(meta=np.array(bomb)), npz_of(weights=objects, meta=np.array("{}")))
    ):
        (tmp_path / f"cp-{number}.npz").write_bytes(content)
        with pytest.raises(NNLOError):
            read(tmp_path / f"cp-{number}.npz")
    with pytest.raises(NNLOError):
        CheckpointStore(tmp_path / "cp").newest()


def test_states_of_workers_do_not_unpickle(bomb):
    with pytest.raises(ValueError, match="allow_pickle=False"):
        unpack_arrays(npz_of(position=np.array([bomb], dtype=object)))


def test_originals_do_not_unpickle(tmp_path, bomb):
    (tmp_path / "mnist.npz").write_bytes(npz_of(x_train=np.array([bomb], dtype=object)))
    with pytest.raises(NNLOError):
        originals.mnist(tmp_path / "mnist.npz")
    for k in range(1, 6):
        (tmp_path / f"data_batch_{k}").write_bytes(pickle.dumps(bomb))
    with pytest.raises(NNLOError, match=r"arrays only, got posix\.mkdir"):
        originals.cifar10(tmp_path)


def test_data_files_do_not_unpickle(tmp_path, bomb):
    for content in (pickle.dumps(bomb), npz_of(features=np.array([bomb], dtype=object))):
        (tmp_path / "a.h5").write_bytes(content)
        data = H5Data(2)
        data.set_files([tmp_path / "a.h5"])
        with pytest.raises(NNLOError, match="readable HDF5"):
            data.count()


@pytest.mark.parametrize("ending", [".pt", ".pth", ".pkl", ".h5", ".npz", ""])
def test_a_pickle_is_no_model(tmp_path, bomb, ending):
    (tmp_path / f"model{ending}").write_bytes(pickle.dumps(bomb))
    with pytest.raises(ConfigError, match=r"\.py, \.json or \.keras file"):
        load_builder(tmp_path / f"model{ending}")


@pytest.mark.parametrize("text", ["!!python/object/apply:os.mkdir [{}]", "!!python/name:os.mkdir"])
def test_options_in_yaml_make_no_objects(tmp_path, bomb, text):
    (tmp_path / "run.yaml").write_text("epochs: " + text.format(bomb.path))
    with pytest.raises(ConfigError):
        file_words(str(tmp_path / "run.yaml"), {"epochs"})
    with pytest.raises(ConfigError):
        pairs("--param", ["a=" + text.format(bomb.path)])


# Keras -------------------------------------------------------------------------------------------


def sequential(layer):
    """The JSON text of a model of one layer."""
    entry = {"module": "keras.layers", "class_name": "InputLayer", "registered_name": None}
    entry["config"] = {"batch_shape": [None, 2], "dtype": "float32", "name": "x"}
    config = {"name": "s", "layers": [entry, layer]}
    return json.dumps({"module": "keras", "class_name": "Sequential", "config": config})


def lambda_layer(path):
    """A layer whose function makes a folder as soon as a model is built with it."""
    from keras import layers, saving

    layer = layers.Lambda(eval(f"lambda x: (__import__('os').mkdir({path!r}), x)[1]"))
    return saving.serialize_keras_object(layer)


def class_of(module, name, /, **config):
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


def evil_layers(bomb):
    pickled = base64.b64encode(pickle.dumps(bomb)).decode()
    return {
        "lambda": lambda_layer(bomb.path),
        "any class": class_of("os", "mkdir", path=bomb.path),
        "any function": class_of("keras.utils", "get_file", fname="x", origin="file:///etc/fstab"),
        "torch": class_of("keras.layers", "TorchModuleWrapper", module=pickled, name="t"),
        "saved model": class_of("keras.layers", "TFSMLayer", filepath=bomb.path),
        "file": class_of("keras.layers", "StringLookup", vocabulary="/etc/passwd"),
    }


LAYERS = ("lambda", "any class", "any function", "torch", "saved model", "file")


@pytest.mark.parametrize("kind", LAYERS)
def test_an_architecture_cannot_bring_code(tmp_path, bomb, kind):
    (tmp_path / "a.json").write_text(sequential(evil_layers(bomb)[kind]))
    with pytest.raises(NNLOError, match="JSON model must be the output") as caught:
        ModelFromJson(tmp_path / "a.json").build_model()
    assert kind != "lambda" or "disallowed by default" in str(caught.value)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_keras_file_cannot_bring_code(tmp_path, bomb, kind):
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
        archive.writestr("config.json", sequential(evil_layers(bomb)[kind]))
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(NNLOError, match=r"\.keras model must be a file written by"):
        ModelFromKeras(tmp_path / "a.keras").build_model()


def keras_file(tmp_path):
    from keras import Input, Sequential, layers

    model = Sequential([Input((2,)), layers.Dense(2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns of Keras' copies
        model.save(tmp_path / "whole.keras")
    (tmp_path / "whole.json").write_text(model.to_json())
    return tmp_path / "whole.keras"


def test_weights_do_not_unpickle(tmp_path, bomb):
    whole = zipfile.ZipFile(keras_file(tmp_path))
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive, whole:
        for name in ("metadata.json", "config.json"):
            archive.writestr(name, whole.read(name))
        objects = np.array(bomb, dtype=object)
        archive.writestr("model.weights.npz", npz_of(__root__=objects))
    with pytest.raises(NNLOError):
        ModelFromKeras(tmp_path / "a.keras").build_model()
    for ending in (".weights.h5", ".h5", ".keras", ".npz", ".pkl"):
        (tmp_path / f"w{ending}").write_bytes(pickle.dumps(bomb))
        with pytest.raises(NNLOError, match="weights must fit the architecture"):
            ModelFromJson(tmp_path / "whole.json", tmp_path / f"w{ending}").build_model()


@pytest.mark.parametrize("damage", ["cut off", "flipped", "PK", "text"])
def test_a_damaged_keras_file_is_a_model_error(tmp_path, damage):
    whole = keras_file(tmp_path).read_bytes()
    half = len(whole) // 2
    flipped = whole[:half] + bytes([whole[half] ^ 8]) + whole[half + 1 :]
    contents = {"cut off": whole[:half], "flipped": flipped, "PK": b"PK\3\4", "text": b"{}"}
    (tmp_path / "a.keras").write_bytes(contents[damage])
    with pytest.raises(NNLOError, match=r"must be a file written by model\.save"):
        ModelFromKeras(tmp_path / "a.keras").build_model()


@pytest.mark.parametrize("text", [b"", b"[", b"[" * 100_000, b"null", b"\xff\xfe", b"{}", b"1"])
def test_a_text_that_is_no_architecture_is_a_model_error(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(NNLOError, match="JSON model must be the output"):
        ModelFromJson(tmp_path / "a.json").build_model()
