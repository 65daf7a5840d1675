"""The Gaussian process against scikit-learn's, and its gradients against differences."""

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from nnlo.optimize.dimensions import Array
from nnlo.optimize.gaussian_process import Evidence, GaussianProcess, Numbers, fit
from nnlo.optimize.space import Space

REALS = Space.from_tune(["a=0.0:1.0", "b=1e-4:1.0:log"])
MIXED = Space.from_tune(["a=0.0:1.0", "c=x,y,z", "k=1:9"])
NUMBERS = Numbers(np.array([0.3, 0.8]), 1.7, 0.01)


def data(space: Space, n: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    units = space.spread(rng.random((n, space.n_dims)))
    targets = np.sin(5 * units[:, 0]) + units[:, -1] ** 2 + 0.1 * rng.normal(size=n)
    return units, (targets - targets.mean()) / targets.std()


def reference(numbers: Numbers) -> GaussianProcessRegressor:
    kernel = ConstantKernel(numbers.signal) * Matern(numbers.scales, nu=2.5)
    kernel += WhiteKernel(numbers.noise)
    return GaussianProcessRegressor(kernel, alpha=1e-9 * numbers.signal, optimizer=None)


def differences(function: object, at: Array, step: float = 1e-6) -> Array:
    assert callable(function)
    sides = [(function(at + step * e), function(at - step * e)) for e in np.eye(len(at))]
    return np.array([(up - down) / (2 * step) for up, down in sides])


def test_predictions_are_those_of_scikit_learn() -> None:
    units, targets = data(REALS, 30)
    at = np.random.default_rng(1).random((7, 2))
    mean, deviation = GaussianProcess(REALS, units, targets, NUMBERS).predict(at)
    theirs = reference(NUMBERS).fit(units, targets).predict(at, return_std=True)
    np.testing.assert_allclose(mean, theirs[0], rtol=1e-7)
    np.testing.assert_allclose(deviation**2 + NUMBERS.noise, theirs[1] ** 2, rtol=1e-7)


def test_the_evidence_is_that_of_scikit_learn() -> None:
    units, targets = data(REALS, 30)
    evidence = Evidence(REALS, units, targets)
    logs = np.log([*NUMBERS.scales, NUMBERS.signal, NUMBERS.noise])
    theirs = reference(NUMBERS).fit(units, targets).log_marginal_likelihood_value_
    ours = -evidence(logs)[0] + evidence.penalty(logs) - 15 * np.log(2 * np.pi)
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_the_gradient_of_the_evidence_is_right() -> None:
    evidence = Evidence(MIXED, *data(MIXED, 25))
    logs = np.array([-1.0, 0.3, -0.5, 0.2, -3.0])
    found = differences(lambda at: evidence(at)[0], logs)
    np.testing.assert_allclose(evidence(logs)[1], found, rtol=1e-5)


def test_slopes_are_those_of_predictions() -> None:
    units, targets = data(MIXED, 25)
    model = GaussianProcess(MIXED, units, targets, fit(MIXED, units, targets))
    at = np.random.default_rng(2).random((3, MIXED.n_unit))
    *values, of_mean, of_deviation = model.slopes(at)
    np.testing.assert_allclose(values, model.predict(at), rtol=1e-9)
    for i, unit in enumerate(at):
        found = differences(lambda u: np.ravel(model.predict(u[None])), unit)
        np.testing.assert_allclose([of_mean[i], of_deviation[i]], found.T, atol=1e-6)


def test_what_is_believed_changes_deviations_as_if_it_were_known() -> None:
    units, targets = data(MIXED, 25)
    more, at = np.random.default_rng(2).random((2, 6, MIXED.n_unit))
    model = GaussianProcess(MIXED, units, targets, fit(MIXED, units, targets))
    every = np.concatenate([targets, model.predict(more)[0]])
    whole = GaussianProcess(MIXED, np.concatenate([units, more]), every, model.numbers)
    found = model.believing(more)
    np.testing.assert_allclose(found.predict(at), whole.predict(at), rtol=1e-6)
    np.testing.assert_allclose(found.means, whole.predict(whole.units)[0], atol=1e-6)
    np.testing.assert_allclose(found.slopes(at)[3], whole.slopes(at)[3], rtol=1e-5)


def test_a_category_changes_the_covariance_by_one_scale_whichever_it_becomes() -> None:
    units = np.array([[0.5, 1, 0, 0, 0.5]])
    model = GaussianProcess(
        MIXED, units, np.ones(1), Numbers(np.array([1.0, 0.5, 1.0]), 1.0, 1e-6)
    )
    means = model.predict(np.array([[0.5, 0, 1, 0, 0.5], [0.5, 0, 0, 1, 0.5]]))[0]
    root = 5**0.5 / 0.5
    assert means == pytest.approx((1 + root + root**2 / 3) * np.exp(-root), rel=1e-4)


def test_a_dimension_without_influence_gets_the_longest_scale() -> None:
    units, _ = data(MIXED, 60)
    targets = np.sin(8 * units[:, 0])
    scales = fit(MIXED, units, (targets - targets.mean()) / targets.std()).scales
    assert min(scales[1:]) > 5 * scales[0]


def test_noise_is_found() -> None:
    rng = np.random.default_rng(3)
    units = REALS.spread(rng.random((150, 2)))
    targets = np.sin(3 * units[:, 0]) + 0.3 * rng.normal(size=150)
    scale = targets.std()
    assert fit(REALS, units, (targets - targets.mean()) / scale).noise * scale**2 == pytest.approx(
        0.09, rel=0.3
    )


def test_equal_points_with_unequal_targets_are_noise() -> None:
    units = np.repeat(REALS.spread(np.random.default_rng(0).random((1, 2))), 6, axis=0)
    targets = np.array([-1.0, 1.0] * 3)
    model = GaussianProcess(REALS, units, targets, fit(REALS, units, targets))
    assert model.predict(units[:1])[0] == pytest.approx(0, abs=0.1)
