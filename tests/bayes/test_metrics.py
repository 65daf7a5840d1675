"""Scores against closed forms, scikit-learn and brute force (T12)."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score, roc_curve

from nnlo.bayes import metrics

RNG = np.random.default_rng(0)


def tied_scores():
    """Scores of 300 negatives and 200 positives, many of them equal."""
    return RNG.normal(size=300).round(1), RNG.normal(0.7, 1.0, 200).round(1)


def test_ranks_give_what_scikit_learn_gives_with_ties():
    negatives, positives = tied_scores()
    truth, scores = np.repeat([0, 1], [300, 200]), np.concatenate([negatives, positives])
    assert metrics.auroc(negatives, positives) == pytest.approx(
        roc_auc_score(truth, scores), abs=1e-12
    )
    assert metrics.aupr(negatives, positives) == pytest.approx(
        average_precision_score(truth, scores), abs=1e-12
    )
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert metrics.fpr_at(negatives, positives) == pytest.approx(fpr[tpr >= 0.95][0], abs=1e-12)


@pytest.mark.parametrize("delta", [0.0, 1.0, 2.5])
def test_auroc_of_two_normals_is_phi_of_their_distance(delta):
    grid = norm.ppf((np.arange(20000) + 0.5) / 20000)
    found = metrics.auroc(grid, grid + delta)
    assert found == pytest.approx(norm.cdf(delta / np.sqrt(2.0)), abs=1e-4)


def test_scores_that_are_all_equal_say_nothing():
    same = np.ones(10)
    assert metrics.auroc(same, same) == 0.5
    assert metrics.fpr_at(same, same) == 1.0
    assert np.isnan(metrics.auroc(same, np.empty(0)))


def test_calibrated_labels_have_no_calibration_error():
    confidence = RNG.uniform(0.2, 1.0, 200_000)
    correct = RNG.uniform(size=confidence.size) < confidence
    for equal_mass in (False, True):
        table = metrics.reliability(confidence, correct, equal_mass=equal_mass)
        assert table.counts.sum() == confidence.size
        assert table.ece < 0.01


@pytest.mark.parametrize("equal_mass", [False, True])
def test_shifted_confidence_is_off_by_the_shift(equal_mass):
    true = RNG.uniform(0.2, 0.9, 200_000)
    correct = RNG.uniform(size=true.size) < true
    found = metrics.reliability(true + 0.1, correct, equal_mass=equal_mass).ece
    assert found == pytest.approx(0.1, abs=0.01)


def test_reliability_of_four_points_by_hand():
    confidence = np.array([0.55, 0.6, 0.95, 1.0])
    table = metrics.reliability(confidence, np.array([True, False, True, True]), 2)
    assert table.counts.tolist() == [0, 4]
    assert table.ece == pytest.approx(abs(0.75 - 0.775), abs=1e-12)
    ten = metrics.reliability(confidence, np.array([True, False, True, True]), 10)
    assert ten.ece == pytest.approx((2 * abs(0.5 - 0.575) + 2 * abs(1 - 0.975)) / 4, abs=1e-12)
    assert ten.counts[5] == 2  # 0.6 is the upper end of its bin
    assert np.isnan(ten.accuracy[0])


def test_equal_masses_hold_equally_many_points():
    confidence = RNG.beta(5.0, 1.0, 1500)
    table = metrics.reliability(confidence, confidence > 0.5, equal_mass=True)
    assert table.counts.tolist() == [100] * 15


def test_nll_and_brier_are_those_of_scikit_learn():
    p = RNG.dirichlet(np.ones(4), 50)
    labels = RNG.integers(0, 4, 50)
    own = np.log(p[np.arange(50), labels])[None]
    expected = log_loss(labels, p, labels=range(4))
    assert metrics.mixture_nll(own).mean() == pytest.approx(expected, abs=1e-12)
    squares = np.square(p - np.eye(4)[labels]).sum(axis=1)
    np.testing.assert_allclose(metrics.brier(p, labels), squares, atol=1e-12)


def test_nll_of_a_mixture_survives_likelihoods_beyond_the_floats():
    found = metrics.mixture_nll(np.array([[-2000.0], [-2001.0]]))
    assert found[0] == pytest.approx(2000.0 + np.log(2) - np.log1p(np.exp(-1.0)), rel=1e-12)


def test_crps_of_one_normal_is_the_closed_form():
    y, z = np.array([0.7]), np.array([(0.7 - 0.2) / 1.5])
    closed = 1.5 * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    found = metrics.crps_of_mixture(y, np.array([[0.2]]), np.array([[1.5]]))
    np.testing.assert_allclose(found, closed, rtol=1e-12)


def test_crps_of_a_mixture_is_the_integral_of_its_definition():
    means, sds, y = np.array([[0.0], [1.5], [3.0]]), np.array([[1.0], [0.2], [0.5]]), 0.8
    below, above = np.linspace(-12.0, y, 200_001), np.linspace(y, 15.0, 200_001)
    expected = np.trapezoid(np.square(norm.cdf((below - means) / sds).mean(axis=0)), below)
    expected += np.trapezoid(np.square(norm.sf((above - means) / sds).mean(axis=0)), above)
    found = metrics.crps_of_mixture(np.array([y]), means, sds)[0]
    assert found == pytest.approx(expected, abs=1e-8)


def test_crps_of_samples_is_its_double_sum():
    samples, y = RNG.normal(size=(9, 5)), RNG.normal(size=5)
    apart = np.abs(samples[:, None] - samples[None]).mean(axis=(0, 1))
    expected = np.abs(samples - y).mean(axis=0) - 0.5 * apart
    np.testing.assert_allclose(metrics.crps_of_samples(y, samples), expected, rtol=1e-12)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.975])
def test_quantile_of_a_mixture_is_where_its_distribution_reaches_the_share(share):
    means = RNG.normal(0.0, 30.0, size=(7, 200, 2))
    sds = RNG.uniform(1e-3, 5.0, size=means.shape)
    at = metrics.mixture_quantile(share, means, sds)
    np.testing.assert_allclose(norm.cdf((at - means) / sds).mean(axis=0), share, atol=1e-9)
    one = metrics.mixture_quantile(share, means[:1], sds[:1])
    np.testing.assert_allclose(one, means[0] + norm.ppf(share) * sds[0], rtol=1e-9)
