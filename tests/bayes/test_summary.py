"""What is certain, what is noise and what is ignorance (T11)."""

import numpy as np
import pytest
from scipy.stats import norm

from nnlo.bayes.summary import (
    score_classes,
    score_values,
    summarise_classes,
    summarise_values,
)

RNG = np.random.default_rng(0)


def test_two_sure_classifiers_that_disagree_know_nothing_and_see_no_noise():
    sure = np.log(np.clip(np.array([[[1.0, 0.0]], [[0.0, 1.0]]]), 1e-300, 1.0))
    columns = summarise_classes(sure)
    assert columns["epistemic"][0] == pytest.approx(np.log(2.0), abs=1e-12)
    assert columns["aleatoric"][0] == pytest.approx(0.0, abs=1e-12)
    assert columns["std"][0] == pytest.approx([0.5, 0.5])


def test_unsure_classifiers_that_agree_see_noise_only():
    columns = summarise_classes(np.log(np.full((5, 1, 4), 0.25)))
    assert columns["aleatoric"][0] == pytest.approx(np.log(4.0), abs=1e-12)
    assert columns["epistemic"][0] == pytest.approx(0.0, abs=1e-12)


def test_two_normals_split_their_variance():
    means, sds = np.array([[[1.0]], [[3.0]]]), np.array([[[0.5]], [[0.7]]])
    columns = summarise_values(means, sds)
    assert columns["aleatoric"][0, 0] == pytest.approx((0.25 + 0.49) / 2, abs=1e-12)
    assert columns["epistemic"][0, 0] == pytest.approx(1.0, abs=1e-12)
    drawn = RNG.normal(*(RNG.permuted(np.repeat(a.ravel(), 200_000)) for a in (means, 0 * sds)))
    assert drawn.var() == pytest.approx(columns["epistemic"][0, 0], rel=1e-9)
    assert columns["total"][0, 0] == pytest.approx(1.37, abs=1e-12)


def test_parts_of_the_uncertainty_add_up_and_are_never_negative():
    log_p = np.log(RNG.dirichlet(np.full(5, 0.1), size=(8, 1000)).clip(1e-12))
    columns = summarise_classes(log_p)
    assert columns["epistemic"].min() >= 0.0
    np.testing.assert_allclose(
        columns["total"], columns["aleatoric"] + columns["epistemic"], atol=1e-12
    )


def test_statistics_of_classes_are_those_of_numpy():
    p = RNG.dirichlet(np.ones(3), size=(9, 20))
    columns = summarise_classes(np.log(p), quantiles=(0.1,))
    for name, expected in (
        ("probability", p.mean(axis=0)),
        ("median", np.median(p, axis=0)),
        ("min", p.min(axis=0)),
        ("max", p.max(axis=0)),
        ("std", p.std(axis=0)),
        ("quantile_0.1", np.quantile(p, 0.1, axis=0)),
        ("confidence", p.mean(axis=0).max(axis=1)),
    ):
        np.testing.assert_allclose(columns[name], expected, atol=1e-12, err_msg=name)


def test_scores_of_classes_are_those_of_the_mean_and_of_one():
    p, labels = RNG.dirichlet(np.ones(3), size=(9, 20)), RNG.integers(0, 3, 20)
    columns = score_classes(np.log(p), labels)
    own = p[:, np.arange(20), labels]
    np.testing.assert_allclose(columns["nll"], -np.log(own.mean(axis=0)), atol=1e-12)
    np.testing.assert_allclose(columns["nll_of_one"], -np.log(own).mean(axis=0), atol=1e-12)
    assert columns["nll"].mean() < columns["nll_of_one"].mean()  # Jensen
    np.testing.assert_array_equal(columns["correct"], p.mean(axis=0).argmax(axis=1) == labels)


def test_intervals_of_a_true_prediction_hold_what_they_promise():
    means = np.zeros((1, 50_000, 1))
    columns = score_values(means, np.ones_like(means), RNG.normal(size=(50_000, 1)))
    for percent in (50, 90, 95):
        assert columns[f"inside_{percent}"].mean() == pytest.approx(percent / 100, abs=0.01)
        width = 2.0 * norm.ppf(0.5 + percent / 200)
        np.testing.assert_allclose(columns[f"width_{percent}"], width, rtol=1e-9)
    np.testing.assert_allclose(columns["nll"], columns["nll_matched"], rtol=1e-12)


def test_values_without_a_known_noise_have_no_density_but_a_spread():
    means = RNG.normal(size=(9, 20, 2))
    labels = RNG.normal(size=(20, 2))
    columns = summarise_values(means, None)
    np.testing.assert_array_equal(columns["aleatoric"], 0.0)
    np.testing.assert_allclose(columns["quantile_0.25"], np.quantile(means, 0.25, axis=0))
    scores = score_values(means, None, labels)
    assert "nll" not in scores
    squares = np.square(labels - means.mean(axis=0)).mean(axis=1)
    np.testing.assert_allclose(scores["squared_error"], squares)
