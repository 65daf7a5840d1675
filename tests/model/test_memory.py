"""One process trains many models."""

import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from nnlo.model import build_adapter, load_builder, release

MEGABYTE = 2**20
WIDE = """
import json, os, sys
from pathlib import Path
import numpy as np
from nnlo.model import build_adapter, load_builder, release

def adapter(name):
    return build_adapter(load_builder(name), "mse", optimizer="adam", seed=0)

def train():
    wide = adapter("wide.py")
    wide.train_step((np.ones((2, 1000), np.float32), np.ones((2, 4000), np.float32)))
    return wide.manifest.hash

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

hashes, sizes = [train()], []
adapter("other.py")
hashes.append(train())  # without a release
for _ in range(4):
    release()
    sizes.append(resident())
    adapter("other.py")
    hashes.append(train())
json.dump({"hashes": hashes, "grown": sizes[-1] - sizes[1]}, sys.stdout)
"""
KERAS = """
import keras
from keras import layers
class Block_1(layers.Dense):
    pass
def get_model():
    hidden = [layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.1), Block_1(4)]
    return keras.Sequential([keras.Input((1000,)), *hidden, layers.Dense(1000), layers.Dense(%d)])
"""
TORCH = """
from torch import nn
def get_model():
    hidden = [nn.Linear(1000, 4), nn.BatchNorm1d(4), nn.Linear(4, 1000)]
    return nn.Sequential(*hidden, nn.Linear(1000, %d))
"""


@pytest.fixture(scope="module", params=["tensorflow", "torch", "jax", "no keras"])
def lives(request, tmp_path_factory):
    """What a process of that backend tells that trained six models of 4 million weights."""
    backend = request.param
    pytest.importorskip("torch" if backend == "no keras" else backend)
    folder = tmp_path_factory.mktemp("models")
    text = TORCH if backend == "no keras" else KERAS
    (folder / "wide.py").write_text(text % 4000)
    (folder / "other.py").write_text(text % 3)
    done = subprocess.run(
        [sys.executable, "-c", WIDE],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    return json.loads(done.stdout)


def test_equal_models_have_equal_manifests_whatever_was_built_before(lives):
    assert len(lives["hashes"]) == 6
    assert len(set(lives["hashes"])) == 1


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc to read memory from")
def test_memory_of_released_models_comes_back(lives):
    # each took at least 48 MB for its weights and the two slots of Adam
    assert lives["grown"] < 40 * MEGABYTE


def test_model_in_use_survives_a_release():
    pytest.importorskip("keras")
    adapter = build_adapter(load_builder("digits"), optimizer="sgd", seed=0)
    batch = np.ones((4, 8, 8, 1), np.float32), np.eye(10, dtype=np.float32)[:4]
    adapter.train_step(batch)
    before = adapter.test_step(batch)
    release()
    np.testing.assert_array_equal(adapter.test_step(batch), before)
    assert adapter.train_step(batch)[0] == 4


def test_layers_are_numbered_anew_and_the_policy_stays():
    keras = pytest.importorskip("keras")
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        keras.layers.Dense(2)
        release()
        assert keras.layers.Dense(2).name == "dense"
        assert keras.config.dtype_policy().name == "mixed_float16"
    finally:
        keras.config.set_dtype_policy(usual)


def test_release_needs_no_backend_and_no_glibc(monkeypatch):
    bare = types.SimpleNamespace
    monkeypatch.setattr("nnlo.model.memory.sys", bare(modules={}))
    monkeypatch.setattr("nnlo.model.memory.ctypes", bare(CDLL=lambda name: bare()))
    release()
