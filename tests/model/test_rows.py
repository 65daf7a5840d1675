"""Gradients of many weight vectors: the suite on each backend, and what only torch has."""

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from nnlo.errors import ModelError
from nnlo.model import make_adapter
from nnlo.model.engines import ENGINES
from nnlo.model.rows import LoopRows, make_rows

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

# Keras' variables have an __array__ of before NumPy 2
KNOWN = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"


@pytest.mark.parametrize("backend", ["native", *ENGINES])
def test_rows_hold_on(backend):
    if find_spec("torch" if backend == "native" else backend) is None:
        pytest.skip(f"{backend} is not installed")
    keras = {} if backend == "native" else {"KERAS_BACKEND": backend}
    suite = Path(__file__).with_name("rows_suite.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-W", KNOWN, str(suite)],
        env=os.environ | keras | {"NNLO_TEST_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:]


def first_step(model, x, y, n_rows=2, loss="mse"):
    """The rows after a step, with its arrays."""
    rows = make_rows(make_adapter(model, loss))
    weights = np.full((n_rows, rows.manifest.n_trainable), 0.1, np.float32)
    weights += np.arange(n_rows, dtype=np.float32)[:, None]
    state, out = np.zeros((n_rows, rows.manifest.n_state), np.float32), np.empty_like(weights)
    rows.gradients(weights, state, x, y, out, range(n_rows), shared=True)
    return rows, weights, state, out


class Branching(nn.Module):
    """Decides by its data."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        y = self.layer(x)
        return y if y.sum() > 0 else -y


class Counting(nn.Module):
    """Replaces a buffer instead of writing to it, and has a frozen and a tied weight."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.again = self.layer
        self.fixed = nn.Parameter(torch.ones(1), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x):
        y = self.again(self.layer(x)) * self.fixed
        if self.training:
            self.mean = self.mean * 0.5 + y.detach().mean(dim=0)
        return y


X, Y1, Y2 = np.ones((3, 2), np.float32), np.ones((3, 1), np.float32), np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    ("model", "x", "y", "reason"),
    [
        (Branching(), X, Y1, "data-dependent"),
        (nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1)), X, Y1, "random"),
        (nn.Linear(20_000, 2), np.ones((3, 20_000), np.float32), Y2, "large enough"),
    ],
)
def test_torch_loops_with_a_reason(model, x, y, reason):
    rows, *_ = first_step(model, x, y)
    assert not rows.is_batched
    assert reason in rows.reason


def test_replaced_buffers_frozen_tied_and_unused_weights_are_right():
    rows, weights, moved, gradients = first_step(Counting(), X, Y2)
    assert rows.is_batched
    adapter = make_adapter(Counting(), "mse")
    for row, weight in enumerate(weights):
        vector = np.concatenate([weight, np.zeros(rows.manifest.n_state, np.float32)])
        adapter.set_flat(vector)
        adapter.gradient((X, Y2), vector)
        expected = np.concatenate([gradients[row], moved[row]])
        np.testing.assert_allclose(vector, expected, rtol=1e-5)


def test_counters_move_once_a_step():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    rows, weights, state, out = first_step(model, X, Y2)
    for _ in range(2):
        rows.gradients(weights, state, X, Y2, out, range(2), shared=True)
    assert rows.is_batched
    assert int(model[1].num_batches_tracked) == 3


def test_a_model_with_its_own_train_step_has_no_rows():
    class Own(nn.Linear):
        metric_names = ("loss",)

        def train_step(self, batch):
            return {"loss": self(batch[0]).mean()}

    with pytest.raises(ModelError, match="own train_step"):
        make_rows(make_adapter(Own(2, 1), None))


def test_labels_that_do_not_fit_are_told_and_not_looped_over():
    with pytest.raises(ModelError, match="labels must fit"):
        first_step(nn.Linear(2, 3), X, Y2)


def processor_time(rows, n_rows):
    """The least of some steps, in seconds."""
    weights = np.full((n_rows, rows.manifest.n_trainable), 0.1, np.float32)
    state, out = np.zeros((n_rows, 0), np.float32), np.empty_like(weights)
    x = np.ones((32, 1), np.float32)
    times = []
    for _ in range(7):
        start = time.process_time()
        rows.gradients(weights, state, x, x, out, range(n_rows), shared=True)
        times.append(time.process_time() - start)
    return min(times)


def test_small_networks_at_once_take_half_the_time():
    def network():
        layers = [layer for _ in range(8) for layer in (nn.Linear(16, 16), nn.ReLU())]
        return make_adapter(nn.Sequential(nn.Linear(1, 16), *layers, nn.Linear(16, 1)), "mse")

    batched, loop = make_rows(network()), LoopRows(network(), "to compare")
    assert processor_time(batched, 16) < processor_time(loop, 16) / 2
