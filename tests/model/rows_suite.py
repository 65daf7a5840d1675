"""What gradients of many weight vectors must be, on the backend that NNLO_TEST_BACKEND names."""

import os

import numpy as np
import pytest

from nnlo.errors import ModelError
from nnlo.model import make_adapter
from nnlo.model.rows import LoopRows, make_rows

BACKEND = os.environ.get("NNLO_TEST_BACKEND", "native")
P, B, WIDTH = 4, 6, 5


def dense():
    """Two dense layers without anything between them but relu."""
    return _model("dense")


def normalized():
    """With BatchNorm, whose statistics are S."""
    return _model("normalized")


def dropped():
    """With dropout of one half."""
    return _model("dropped")


def _model(kind):
    if BACKEND == "native":
        from torch import nn

        middle = {"dense": nn.ReLU(), "normalized": nn.BatchNorm1d(8), "dropped": nn.Dropout(0.5)}
        return nn.Sequential(nn.Linear(WIDTH, 8), middle[kind], nn.Linear(8, 3))
    from keras import Input, Sequential, layers

    middle = {
        "dense": layers.ReLU(),
        "normalized": layers.BatchNormalization(),
        "dropped": layers.Dropout(0.5),
    }
    ends = layers.Dense(8), layers.Dense(3, activation="softmax")
    return Sequential([Input((WIDTH,)), ends[0], middle[kind], ends[1]])


def adapter_of(build):
    return make_adapter(build(), "categorical_crossentropy")


def matrices(manifest, rows=P):
    """Weights near zero and a state near one for each row, and a place for the gradients."""
    rng = np.random.default_rng(1)
    weights = rng.normal(0, 0.3, (rows, manifest.n_trainable)).astype(np.float32)
    state = rng.uniform(0.5, 1.5, (rows, manifest.n_state)).astype(np.float32)
    return weights, state, np.full_like(weights, np.nan)


def batch(*shape):
    rng = np.random.default_rng(2)
    labels = np.eye(3, dtype=np.float32)[rng.integers(0, 3, shape)]
    return rng.normal(size=(*shape, WIDTH)).astype(np.float32), labels


def one_by_one(adapter, weights, state, batches, seeds):
    """The same by the adapter alone: gradients, states, sums."""
    found = []
    for row in range(len(weights)):
        vector = np.concatenate([weights[row], state[row]])
        adapter.set_flat(vector)
        adapter.seed(seeds[row])
        sums = adapter.gradient(batches[row], vector)
        found.append((*np.split(vector, [weights.shape[1]]), sums))
    return map(np.stack, zip(*found, strict=True))


@pytest.mark.parametrize("build", [dense, normalized, dropped])
@pytest.mark.parametrize("shared", [True, False])
def test_rows_are_what_the_adapter_yields(build, shared):
    rows = make_rows(adapter_of(build))
    weights, state, out = matrices(rows.manifest)
    x, y = batch(B) if shared else batch(P, B)
    batches = [(x, y)] * P if shared else list(zip(x, y, strict=True))
    expected = one_by_one(adapter_of(build), weights, state, batches, range(P))
    sums = rows.gradients(weights, state, x, y, out, range(P), shared=shared)
    for found, right in zip((out, state, sums), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


def test_state_of_each_row_moves_by_its_own_batch():
    rows = make_rows(adapter_of(normalized))
    weights, state, out = matrices(rows.manifest)
    state[1], weights[1] = state[0], weights[0]
    before = state.copy()
    x, y = batch(P, B)
    rows.gradients(weights, state, x, y, out, range(P), shared=False)
    assert (state != before).all(axis=1).all()
    assert not np.allclose(state[0], state[1])


def test_a_row_depends_on_its_seed_and_not_on_its_neighbours():
    rows = make_rows(adapter_of(dropped))
    weights, state, out = matrices(rows.manifest)
    weights[:] = weights[0]
    x, y = batch(B)
    rows.gradients(weights, state, x, y, out, [5, 6, 5, 7], shared=True)
    few = np.empty_like(out[:2])
    rows.gradients(weights[:2], state[:2], x, y, few, [7, 5], shared=True)
    np.testing.assert_allclose(few, out[[3, 2]], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(out[0], out[2], rtol=1e-5, atol=1e-7)
    assert not np.allclose(out[0], out[1])


@pytest.mark.parametrize("build", [dense, normalized])
def test_outputs_are_predictions(build):
    rows, adapter = make_rows(adapter_of(build)), adapter_of(build)
    weights, state, _ = matrices(rows.manifest)
    x, _ = batch(B)
    found = rows.outputs(weights, state, x)
    for row, one in enumerate(found):
        adapter.set_flat(np.concatenate([weights[row], state[row]]))
        np.testing.assert_allclose(one, adapter.predict(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [1, 0])
def test_batches_may_end_ragged(n):
    rows = make_rows(adapter_of(dense))
    weights, state, out = matrices(rows.manifest)
    for size in (B, n):
        sums = rows.gradients(weights, state, *batch(size), out, range(P), shared=True)
        assert (sums[:, 0] == size).all()
    assert np.isfinite(out).all()
    assert out.any() == bool(n)


def test_many_rows_go_in_pieces(monkeypatch):
    rows = make_rows(adapter_of(dense))
    weights, state, out = matrices(rows.manifest)
    sums = rows.gradients(weights, state, *batch(B), out, range(P), shared=True)
    monkeypatch.setattr("nnlo.model.row_arrays.LARGE_BATCH", 3 * B)
    again = np.empty_like(out)
    np.testing.assert_allclose(
        rows.gradients(weights, state, *batch(B), again, range(P), shared=True), sums, rtol=1e-6
    )
    np.testing.assert_allclose(again, out, rtol=1e-5, atol=1e-7)
    assert rows.outputs(weights, state, batch(B)[0]).shape == (P, B, 3)


def test_wrong_shapes_are_told():
    rows = make_rows(adapter_of(dense))
    weights, state, out = matrices(rows.manifest)
    x, y = batch(B)
    for wrong in (
        (weights[:, 1:], state, x, y, out, range(P)),
        (weights, state[1:], x, y, out, range(P)),
        (weights, state, x, y, out.astype(np.float64), range(P)),
        (weights, state, x, y, out[:, ::-1], range(P)),
        (weights, state, x, y, out, range(P - 1)),
        (weights, state, x, y[1:], out, range(P)),
        (weights, state, x, y[:, 1:], out, range(P)),
    ):
        with pytest.raises(ModelError, match="got"):
            rows.gradients(*wrong, shared=True)
    with pytest.raises(ModelError, match="entry for each of the 4 rows"):
        rows.gradients(weights, state, x, y, out, range(P), shared=False)


def test_rows_go_at_once_where_the_backend_can():
    for build, batched in ((dense, True), (normalized, True), (dropped, BACKEND == "jax")):
        rows = make_rows(adapter_of(build))
        weights, state, out = matrices(rows.manifest)
        rows.gradients(weights, state, *batch(B), out, range(P), shared=True)
        assert rows.is_batched == (batched and BACKEND in ("native", "jax"))
        assert bool(rows.reason) != rows.is_batched


def test_a_loop_that_was_asked_for_agrees():
    weights, state, out = matrices(adapter_of(normalized).manifest)
    other, moved = np.empty_like(out), state.copy()
    loop, rows = LoopRows(adapter_of(normalized), "asked for"), make_rows(adapter_of(normalized))
    sums = loop.gradients(weights, state, *batch(B), out, range(P), shared=True)
    again = rows.gradients(weights, moved, *batch(B), other, range(P), shared=True)
    for one, two in ((out, other), (state, moved), (sums, again)):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
