"""Dropout kept on in inference mode, on every backend."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from nnlo.model.engines import ENGINES

SUITE = Path(__file__).with_name("dropout_suite.py")


@pytest.mark.parametrize("backend", ["native", *ENGINES])
def test_dropout_stays_on(backend):
    package = "torch" if backend == "native" else backend
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    keras = {} if backend == "native" else {"KERAS_BACKEND": backend}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(SUITE)],
        env=os.environ | keras | {"NNLO_TEST_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:]
