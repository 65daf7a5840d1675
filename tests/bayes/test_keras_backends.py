"""The variational Keras layers on the backends that this process does not use."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

keras = pytest.importorskip("keras")

from nnlo.model.engines import ENGINES  # noqa: E402

FILE = Path(__file__).with_name("test_keras_layers.py")
CHOSEN = "Flipout and (seed_alone or mean_gradient) or weighted_divergence or equal_parts"
"""The rest takes minutes on JAX, or makes no difference between backends."""


@pytest.mark.parametrize("backend", ENGINES)
def test_layers_are_the_same_on_every_backend(backend):
    if backend == keras.backend.backend():
        pytest.skip("tested in this process")
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", CHOSEN, str(FILE)],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:]
