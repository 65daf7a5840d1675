import numpy as np
import pytest

from nnlo.errors import ConfigError, ModelError
from nnlo.model.fit import check_classes, fit_labels
from nnlo.model.losses import LOSSES, METRICS, canonical_loss, metric_names, plan

CATEGORICAL, SPARSE, BINARY = LOSSES[:3]


@pytest.mark.parametrize(
    ("loss", "labels", "output", "fit"),
    [
        (CATEGORICAL, (9, 3), (9, 3), "keep"),
        (SPARSE, (9,), (9, 3), "keep"),
        (SPARSE, (9, 1), (9, 3), "squeeze"),
        (SPARSE, (9, 5, 5), (9, 5, 5, 3), "keep"),
        (SPARSE, (None, None), (None, None, 3), "keep"),
        (BINARY, (9,), (9, 1), "expand"),
        (BINARY, (9, 4), (9, 4), "keep"),
        ("mean_squared_error", (9, 1), (9,), "squeeze"),
        ("mean_squared_error", (9, 2, 2), (9, 2, 2), "keep"),
        ("gaussian_nll", (9,), (9, 2), "expand"),
        ("gaussian_nll", (9, 3), (9, 6), "keep"),
        ("gaussian_nll", (None, 3), (None, None), "keep"),
        (abs, (9,), (9, 1), "expand"),
        (abs, (9, 7), (9, 3), "keep"),
    ],
)
def test_labels_are_reshaped_to_the_output(loss, labels, output, fit):
    assert fit_labels(loss, labels, output) == fit


@pytest.mark.parametrize(
    ("loss", "labels", "output", "fit"),
    [
        (SPARSE, (9, 3), (9, 3), "keep"),
        (CATEGORICAL, (9,), (9, 3), "keep"),
        (CATEGORICAL, (9, 5, 5), (9, 3, 5, 5), "keep"),
        (CATEGORICAL, (9, 1, 5, 5), (9, 3, 5, 5), "squeeze"),
        (BINARY, (9, 5, 5), (9, 1, 5, 5), "expand"),
    ],
)
def test_torch_takes_either_kind_of_labels_with_the_class_axis_second(loss, labels, output, fit):
    assert fit_labels(loss, labels, output, class_axis=1, either=True) == fit


@pytest.mark.parametrize(
    ("loss", "labels", "output", "says"),
    [
        (CATEGORICAL, (9, 3), (9, 10), "give the last layer 3 units"),
        (CATEGORICAL, (9,), (9, 10), "use sparse_categorical_crossentropy"),
        (CATEGORICAL, (9, 1), (9, 10), "use sparse_categorical_crossentropy"),
        (CATEGORICAL, (9, 1), (9, 1), "use binary_crossentropy"),
        (SPARSE, (9,), (9, 1), "use binary_crossentropy"),
        (SPARSE, (9, 10), (9, 10), "use categorical_crossentropy"),
        (SPARSE, (9, 4), (9, 10), "give one class number per sample"),
        (BINARY, (9, 2), (9, 1), "give the last layer 2 units"),
        ("mean_squared_error", (9,), (9, 2), "give the last layer 1 units"),
        ("gaussian_nll", (9, 2), (9, 2), "give the last layer 4 units"),
        ("gaussian_nll", (9,), (9, 1), "a raw scale for each label.* 2 units"),
    ],
)
def test_labels_that_cannot_fit_say_what_would(loss, labels, output, says):
    with pytest.raises(ModelError, match=says):
        fit_labels(loss, labels, output)


@pytest.mark.parametrize("labels", [[0, 10], [-1, 3]])
def test_class_numbers_out_of_range_are_refused(labels):
    with pytest.raises(ModelError, match=r"in 0..9 for an output 10 wide"):
        check_classes(np.array(labels), 10)


def test_short_names_are_accepted():
    assert canonical_loss("mse") == "mean_squared_error"
    assert plan("mae", ["acc", "mse"], 1)[2] == ("loss", "accuracy", "mean_squared_error")


def test_accuracy_is_the_metric_of_classification_only():
    assert plan(CATEGORICAL, None, 1)[2] == ("loss", "accuracy")
    assert plan("mse", None, 1)[2] == ("loss",)
    assert plan(CATEGORICAL, (), 1)[2] == ("loss",)


def test_names_of_the_metrics_are_known_before_the_model():
    assert metric_names(SPARSE) == ("loss", "accuracy")
    assert metric_names("mae", ["mse"]) == ("loss", "mean_squared_error")
    assert metric_names([BINARY, "mse"]) == ("loss", "accuracy_1")
    with pytest.raises(ConfigError, match="got 'mes'"):
        metric_names("mes")


def test_metrics_of_several_outputs_are_numbered():
    losses, pairs, names = plan([CATEGORICAL, "mse"], None, 2)
    assert losses == (CATEGORICAL, "mean_squared_error")
    assert pairs == ((0, "accuracy"),)
    assert names == ("loss", "accuracy_1")
    assert plan("mse", ["mae"], 2)[2] == ("loss", "mean_absolute_error_1", "mean_absolute_error_2")


def test_number_of_losses_must_be_that_of_the_outputs():
    with pytest.raises(ConfigError, match="each of the 2 outputs of the model, got 3"):
        plan(["mse"] * 3, None, 2)


def test_every_documented_name_is_known_to_both_families():
    keras = pytest.importorskip("keras")
    objective = pytest.importorskip("nnlo.model.torch_objective")
    assert set(objective.LOSSES) == set(LOSSES)
    ours = {"gaussian_nll"}
    assert all(hasattr(keras.losses, name) for name in {*LOSSES} - ours)
    assert len(METRICS) == len(set(METRICS))
