"""Every algorithm in every shape learns digits, on each backend in a process of its own."""

from pathlib import Path

import pytest

from nnlo.model.engines import ENGINES
from tests.contracts.test_adapters import run_on


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["native", *ENGINES])
def test_every_algorithm_learns_in_every_shape(backend):
    run_on(backend, Path(__file__).parent / "shapes_suite.py")
