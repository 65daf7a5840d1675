"""The contract of the adapters, held by each of them in a process of its own."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from nnlo.model.engines import ENGINES

FOLDER = Path(__file__).parent
# Keras' variables have an __array__ of before NumPy 2
KNOWN = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"


def run_on(backend, *files):
    """Run files of tests with all of a backend's own settings, in a process of its own."""
    package = "torch" if backend == "native" else backend
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    keras = {} if backend == "native" else {"KERAS_BACKEND": backend}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-W", KNOWN, *map(str, files)],
        env=os.environ | keras | {"NNLO_TEST_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:]
    assert " failed" not in run.stdout


@pytest.mark.parametrize("backend", ["native", *ENGINES])
def test_adapter_holds_the_contract(backend):
    run_on(backend, FOLDER / "adapter_suite.py", FOLDER / "variational_suite.py")


def test_models_with_their_own_train_step_run_on_keras_with_torch():
    run_on("torch", FOLDER.parent / "model" / "test_custom_keras.py")
