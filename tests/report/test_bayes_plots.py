"""Figures of predictions: what they show, and that none fails for an odd prediction."""

import numpy as np
import pytest

from nnlo.bayes import metrics
from nnlo.bayes.summary import score_classes, score_values, summarise_classes, summarise_values
from nnlo.report import bayes_plots as plots

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _matplotlib():
    pytest.importorskip("matplotlib", reason="pip install matplotlib")


def classes(n=200, n_classes=4, *, scored=True):
    log_p = np.log(RNG.dirichlet(np.ones(n_classes), size=(5, n)))
    labels = RNG.integers(0, n_classes, n)
    return summarise_classes(log_p) | (score_classes(log_p, labels) if scored else {})


def values(n=200, n_targets=1, *, scored=True, noise=0.1):
    x = np.sort(RNG.uniform(-3.0, 3.0, n))
    means = np.sin(x)[None, :, None] + 0.1 * RNG.normal(size=(5, 1, n_targets)) * x[:, None]
    sds = None if noise is None else np.full_like(means, noise)
    found = summarise_values(means, sds)
    if scored:
        found |= score_values(means, sds, means.mean(axis=0))
    return found | ({"input": x} if n_targets == 1 else {})


def bins(columns):
    table = metrics.reliability(columns["confidence"], columns["correct"])
    return {name: getattr(table, name) for name in ("edges", "counts", "confidence", "accuracy")}


def words(figure):
    from matplotlib.text import Text

    return " | ".join(text.get_text() for text in figure.findobj(Text) if text.get_text())


def test_a_prediction_of_classes_has_its_figures(tmp_path):
    found = classes()
    files = plots.write_all(found, tmp_path, outside=classes(), reliability=bins(found))
    assert {file.stem for file in files} == {"uncertainty", "reliability", "confusion"}
    assert all(file.read_bytes()[1:4] == b"PNG" for file in files)


def test_a_prediction_of_values_has_bands(tmp_path):
    files = plots.write_all(values(), tmp_path, outside=values(scored=False), kind="svg")
    assert {file.name for file in files} == {"uncertainty.svg", "bands.svg"}


def test_reliability_shows_the_calibration_error():
    found = classes()
    table = metrics.reliability(found["confidence"], found["correct"])
    assert f"calibration error {table.ece:.2%}" in words(plots.reliability_diagram(bins(found)))


def test_confusion_counts_the_pairs():
    found = classes(n=3, n_classes=2)
    found |= {"label": np.array([0, 1, 1]), "prediction": np.array([0, 0, 1])}
    (axes, _) = plots.confusion(found).axes
    np.testing.assert_allclose(axes.images[0].get_array(), [[1.0, 0.0], [0.5, 0.5]])
    assert "at most 30 classes, got 31" in words(plots.confusion(classes(n_classes=31)))


def test_bands_follow_the_input_and_hold_both_sets():
    inside, outside = values(n=50), values(n=20)
    (axes,) = plots.bands(inside, outside).axes
    line = next(one for one in axes.lines if one.get_label() == "mean")
    x = np.concatenate([inside["input"], outside["input"]])
    np.testing.assert_array_equal(line.get_xdata(), np.sort(x))
    labels = next(one for one in axes.lines if one.get_label() == "labels from elsewhere")
    np.testing.assert_array_equal(labels.get_xdata(), outside["input"])
    np.testing.assert_array_equal(labels.get_ydata(), outside["label"][:, 0])


def test_without_one_input_points_stand_in_the_order_of_their_mean():
    found = values(n_targets=2, noise=None)
    axes = plots.bands(found).axes[1]
    line = next(one for one in axes.lines if one.get_label() == "mean")
    np.testing.assert_array_equal(line.get_ydata(), np.sort(found["mean"][:, 1]))


@pytest.mark.parametrize(
    "columns", [classes(n=1, scored=False), classes(n=1), values(n=1, noise=None), values(n=0)]
)
def test_small_predictions_have_figures_too(columns, tmp_path):
    assert plots.write_all(columns, tmp_path)
