"""What a search minimises."""

import math

import pytest

from nnlo.errors import ConfigError
from nnlo.optimize.merit import Merit, default_merit, own_merit

EPOCHS = [
    {"epoch": 1, "loss": 0.9, "val_loss": 0.8, "val_acc": 0.5},
    {"epoch": 2, "loss": 0.5, "val_loss": 0.3, "val_acc": 0.7},
    {"epoch": 3, "loss": 0.4, "val_loss": 0.6, "val_acc": 0.9},
]


@pytest.mark.parametrize(
    ("text", "best", "last"),
    [
        ("val_loss", 0.3, 0.6),
        ("val_loss:min", 0.3, 0.6),
        ("1-val_acc", 0.1, 0.1),
        ("val_acc:max", -0.9, -0.9),
        ("1-val_acc:min", 0.1, 0.1),
    ],
)
def test_the_best_or_the_last_epoch_counts(text, best, last):
    assert Merit.from_text(text).of(EPOCHS) == pytest.approx((best,))
    assert Merit.from_text(text, "last").of(EPOCHS) == pytest.approx((last,))


def test_several_merits_are_of_one_epoch_that_of_the_best_first():
    assert Merit.from_text("val_loss,1-val_acc").of(EPOCHS) == pytest.approx((0.3, 0.3))


def test_epochs_without_validation_are_passed_over():
    epochs = [{"loss": 1.0, "val_loss": 0.7}, {"loss": 0.5}]
    assert Merit.from_text("val_loss", "last").of(epochs) == (0.7,)


def test_a_merit_of_zero_is_a_value():
    assert Merit.from_text("1-val_acc").of([{"val_acc": 1.0}]) == (0.0,)


def test_a_diverged_last_epoch_is_nan_and_the_best_one_still_counts():
    epochs = [*EPOCHS, {"val_loss": math.nan, "val_acc": 0.1}]
    assert math.isnan(Merit.from_text("val_loss", "last").of(epochs)[0])
    assert Merit.from_text("val_loss").of(epochs) == (0.3,)


@pytest.mark.parametrize("epochs", [[], [{"val_loss": math.nan}], [{"val_loss": None}]])
def test_nothing_to_go_by_is_nan(epochs):
    assert math.isnan(Merit.from_text("val_loss").of(epochs)[0])


def test_an_unknown_metric_is_told_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"loss, val_loss, val_acc, got 'auc'"):
        Merit.from_text("auc").of(EPOCHS)


@pytest.mark.parametrize("text", ["", "a b", "2-acc", "acc:up", "1-acc:max", "a,,b", "a,a"])
def test_a_text_that_is_no_merit_is_refused(text):
    with pytest.raises(ConfigError, match=r"merit|metric"):
        Merit.from_text(text).of(EPOCHS)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (["loss", "val_loss", "val_acc"], "1-val_acc"),
        (["val_accuracy"], "1-val_accuracy"),
        (["loss", "val_loss"], "val_loss"),
        (["loss"], "loss"),
    ],
)
def test_classifiers_are_judged_by_their_errors(metrics, expected):
    assert default_merit(metrics) == expected


@pytest.mark.parametrize(("answer", "expected"), [(1, (1.0,)), ((1, 2), (1.0, 2.0))])
def test_a_function_of_the_user_gives_one_or_several(answer, expected):
    assert own_merit(lambda history: answer, None) == expected


@pytest.mark.parametrize("answer", [None, "0.3", (), ["a"]])
def test_another_answer_of_that_function_is_refused(answer):
    with pytest.raises(ConfigError, match="figure_of_merit"):
        own_merit(lambda history: answer, None)
