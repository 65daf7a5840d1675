"""SVGD over real ranks."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SCRIPT = Path(__file__).parent / "meeting.py"


def test_a_network_has_one_posterior_on_1_2_4_and_8_ranks_both_ways(launch, tmp_path):
    file = tmp_path / "weights.npz"
    words = [sys.executable, "-m", "nnlo.cli.launch", "-n", 8, "--threads", 1, SCRIPT, file]
    ended = launch(words).ended(280)
    assert ended.code == 0, ended.output
    with np.load(file) as found:
        assert len(found.files) == 10
        alone = found["1-allgather"]
        assert alone.std(axis=0).min() > 0.01  # no two particles are alike
        for name in found.files:
            np.testing.assert_allclose(found[name], alone, rtol=1e-5, atol=1e-6, err_msg=name)
