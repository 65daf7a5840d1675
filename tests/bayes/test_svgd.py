"""SVGD: posteriors known in closed form, its numbers, its state."""

import numpy as np
import pytest

from nnlo.bayes import exchange
from nnlo.bayes.method import Setting
from nnlo.bayes.stein import descent
from nnlo.bayes.svgd import SVGD, Rms
from nnlo.errors import ConfigError, TrainingError
from nnlo.model.manifest import Manifest


def setting(n_particles, size, n_samples=1, n_steps=1, names=("w",)):
    manifest = Manifest.pack([(name, (size,)) for name in names], [])
    pids = range(n_particles)
    return Setting(manifest, pids, n_particles, n_samples, 1, n_steps, seed=0)


def run(method, size, gradient_of, n_steps, n=20, n_samples=1):
    """n particles after n_steps from N(0, I). gradient_of: weights -> that of the mean loss."""
    stepper = method.start(setting(n, size, n_samples, n_steps))
    weights = np.random.default_rng(1).normal(size=(n, size)).astype(np.float32)
    for _ in range(n_steps):
        stepper.step(weights, gradient_of(weights).astype(np.float32))
    return weights


def regression():
    """Bayesian linear regression: precision and mean of its posterior under N(0, I)."""
    r = np.random.default_rng(0)
    x = r.normal(size=(100, 3))
    x[:, 1] = 0.6 * x[:, 0] + 0.8 * x[:, 1]
    y = x @ [1, -2, 0.5] + 0.5 * r.normal(size=100)
    precision = x.T @ x / 0.25 + np.eye(3)
    return precision, np.linalg.solve(precision, x.T @ y / 0.25)


# Of Liu & Wang's method in float64: what the median rule leaves of the posterior's spread.
@pytest.mark.parametrize(("n", "share"), [(10, 0.74), (20, 0.83), (50, 0.905), (100, 0.935)])
def test_linear_regression_has_the_posterior_mean_and_the_spread_of_the_reference(n, share):
    precision, mean = regression()
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    method = SVGD(learning_rate=0.02, decay=True, prior=1.0)
    weights = run(
        method, 3, lambda w: ((w - mean) @ precision - w) / 100, 2000, n=n, n_samples=100
    )
    # A fixed point has its mean within about 0.001 sd, in whichever coordinate.
    np.testing.assert_allclose((weights.mean(axis=0) - mean) / sd, 0.0, atol=2e-3)
    np.testing.assert_allclose(weights.std(axis=0, ddof=1) / sd, share, atol=0.02)


def attracted(particles, scores, kernel, widths, groups, rows, out):
    """The direction with the sign of the repulsion turned."""
    driving = -(kernel[0] @ scores) / len(particles)
    descent(particles, scores, kernel, widths, groups, rows, out)
    out[:] = 2 * driving - out


@pytest.mark.parametrize(("direction", "holds"), [(descent, True), (attracted, False)])
def test_only_repulsion_keeps_the_spread_of_a_normal(direction, holds, monkeypatch):
    monkeypatch.setattr(exchange, "descent", direction)
    method = SVGD(learning_rate=0.05, kernel=1.0)
    spread = run(method, 1, np.zeros_like, 400, n=10).std(ddof=1)
    assert (0.8 < spread < 1.2) == holds, spread


@pytest.mark.parametrize(
    ("size", "variance", "off"),
    [(1, 0.918, 0.1), (10, 0.277, 0.1), (50, 0.061, 1), (200, 0.015, 1)],
)
def test_variance_collapses_in_many_dimensions_as_known(size, variance, off):
    found = run(SVGD(learning_rate=0.02, decay=True), size, np.zeros_like, 3000)
    mean = found.var(axis=0, ddof=1).mean()
    assert mean == pytest.approx(variance, rel=off)
    assert size <= 10 or mean < 0.1


def test_a_kernel_per_layer_keeps_the_variance_of_small_layers():
    names = [f"layer{i}/w" for i in range(20)]
    stepper = SVGD(learning_rate=0.05, groups="layer").start(setting(20, 1, names=names))
    weights = np.random.default_rng(1).normal(size=(20, 20)).astype(np.float32)
    for _ in range(1000):
        stepper.step(weights, np.zeros_like(weights))
    assert weights.var(axis=0, ddof=1).mean() > 0.8


def test_one_particle_finds_the_most_likely_weights():
    found = run(
        SVGD(learning_rate=0.02, decay=True, prior=2.0),
        3,
        lambda w: w - 1.0,
        500,
        n=1,
        n_samples=4,
    )
    np.testing.assert_allclose(found, 4.0 / (4.0 + 1.0 / 4.0), atol=1e-4)


def test_a_flat_prior_leaves_the_likelihood_alone():
    found = run(SVGD(learning_rate=0.02, decay=True, prior=None), 3, lambda w: w - 1.0, 500, n=1)
    np.testing.assert_allclose(found, 1.0, atol=1e-4)


def test_its_optimizer_begins_with_the_first_square():
    rule, weights = Rms(learning_rate=0.1), np.zeros(1, np.float32)
    state = rule.init(1)
    rule.update(state, weights, np.full(1, 4.0, np.float32), weights)
    assert weights[0] == pytest.approx(-0.1)
    rule.update(state, weights, np.full(1, 2.0, np.float32), weights)
    assert weights[0] == pytest.approx(-0.1 - 0.1 * 2 / np.sqrt(0.9 * 16 + 0.1 * 4))


@pytest.mark.parametrize("optimizer", ["rms", "adam", "sgd"])
def test_a_run_that_stops_goes_on_as_if_it_had_not(optimizer):
    method = SVGD(optimizer=optimizer, learning_rate=0.01, decay=True)
    steppers = [method.start(setting(4, 3, n_steps=20)) for _ in range(2)]
    weights = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    for _ in range(10):
        steppers[0].step(weights, weights * 0.5)
    steppers[1].load_arrays({k: v.copy() for k, v in steppers[0].arrays().items()})
    steppers[1].load_scalars(steppers[0].scalars())
    ends = [weights.copy(), weights.copy()]
    for stepper, end in zip(steppers, ends, strict=True):
        stepper.step(end, end * 0.5)
    np.testing.assert_array_equal(*ends)
    assert steppers[0].rate == steppers[1].rate == pytest.approx(0.005)


def test_a_fixed_kernel_that_is_too_short_is_told_once(caplog):
    stepper = SVGD(kernel=0.01).start(setting(4, 3))
    weights = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    for _ in range(3):
        stepper.step(weights, np.zeros_like(weights))
    assert [r.message[:40] for r in caplog.records] == ["the particles no longer feel each other "]
    assert stepper.record()["kernel"] < 1e-3


def test_a_single_particle_has_no_interaction_to_record():
    stepper = SVGD().start(setting(1, 3))
    stepper.step(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))
    assert stepper.record() == {}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kernel", ["rbf-median", 1e-3])
def test_a_gradient_that_is_not_finite_ends_the_run_before_it_spreads(bad, kernel):
    stepper = SVGD(kernel=kernel).start(setting(4, 3))
    weights = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    before, gradient = weights.copy(), np.zeros_like(weights)
    gradient[1, 2] = bad
    with pytest.raises(TrainingError, match="finite"):
        stepper.step(weights, gradient)
    np.testing.assert_array_equal(weights, before)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"kernel": "linear"}, "kernel must be rbf-median"),
        ({"kernel": -1.0}, "kernel must be rbf-median or a length above 0"),
        ({"kernel": True}, "kernel must be"),
        ({"kernel": float("nan")}, "kernel must be"),
        ({"prior": 0.0}, "prior must be a standard deviation above 0"),
        ({"prior": -2}, "prior must be"),
        ({"groups": "tensor"}, "groups must be one of global, layer"),
        ({"exchange": "gossip"}, "exchange must be one of auto, allgather, transpose"),
        ({"optimizer": "newton"}, "optimizer must be one of rms, sgd"),
        ({"optimizer": ["rms"]}, "optimizer must be one of rms, sgd"),
        ({"learning_rate": -0.1}, "learning_rate must be above 0"),
        ({"decay": "linear"}, "decay must be true or false"),
    ],
)
def test_numbers_that_cannot_be_are_refused(numbers, message):
    with pytest.raises(ConfigError, match=message):
        SVGD(**numbers)
