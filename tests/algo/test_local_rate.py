"""Schedules act once: on gradients at the master, on local steps at the workers."""

import numpy as np
import pytest

from nnlo.algo import MODES, Algo
from nnlo.algo.base import Update


def moved(algo, rate):
    """How far a master half goes by an update of ones after its rate was set to ``rate``."""
    half, weights = algo.master(4, 1), np.zeros(4, np.float32)
    half.learning_rate = rate * algo.learning_rate
    out = np.empty_like(weights)
    half.apply(weights, [Update(np.ones(4, np.float32), 1, 0)], out)
    return abs(float(out[0]))


@pytest.mark.parametrize("mode", [name for name, kind in MODES.items() if kind.has_master])
def test_a_master_of_local_steps_keeps_its_rate(mode):
    algo = Algo(mode=mode, worker_optimizer="sgd")
    assert moved(algo, 0.5) == moved(algo, 1.0)


def test_a_master_of_gradients_follows():
    algo = Algo("sgd", learning_rate=0.5)
    assert moved(algo, 0.5) == moved(algo, 1.0) / 2
