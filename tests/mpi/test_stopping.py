"""When a run ends: early stopping and targets, in the words of users."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnlo.errors import ConfigError
from nnlo.mpi.stopping import EarlyStopping, Target, larger_is_better, metric_name

KNOWN = ("loss", "accuracy", "val_loss", "val_accuracy", "val_gen/accuracy", "gen/loss", "f1/acc")
TEXTS = st.text(st.sampled_from("val_os,<>~=acur0123456789.-+einf: "), max_size=24) | st.text()


def stops_at(text, values):
    """The epoch, from 1, at which a run with these values ends; None if it does not."""
    rule = EarlyStopping.parse(text, KNOWN)
    epochs = range(1, len(values) + 1)
    return next((n for n in epochs if rule.reached(values[:n])), None)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("val_loss", "val_loss"),
        (" loss ", "loss"),
        ("acc", "accuracy"),
        ("val_acc", "val_accuracy"),
        ("val_accuracy", "val_accuracy"),
        ("gen:val_acc", "val_gen/accuracy"),
        ("val_gen:accuracy", "val_gen/accuracy"),
        ("val_gen/acc", "val_gen/accuracy"),
        ("gen:loss", "gen/loss"),
        ("gen/loss", "gen/loss"),
        ("f1:acc", "f1/acc"),
    ],
)
def test_old_and_new_names_of_metrics_are_understood(name, full):
    assert metric_name(name, KNOWN) == full


@pytest.mark.parametrize("name", ["", "lose", "val_", "val_val_loss", "gen:val_loss", "VAL_LOSS"])
def test_an_unknown_metric_is_an_error_that_lists_the_known_ones(name):
    with pytest.raises(ConfigError, match=r"one of loss, accuracy, .*, got "):
        metric_name(name, KNOWN)


def test_accuracies_grow_and_losses_shrink():
    assert [larger_is_better(name) for name in KNOWN[:4]] == [False, True, False, True]
    assert not larger_is_better("f1/loss")


def test_the_old_form_compares_means_over_epochs():
    assert stops_at("val_loss,~<,4", [4, 3, 2, 1, 1, 2, 3, 3.9]) is None
    assert stops_at("val_loss,~<,4", [4, 3, 2, 1, 1, 2, 3, 4.1]) == 8
    assert stops_at("val_acc,~>,2", [0.1, 0.2, 0.3, 0.2, 0.2]) == 5
    assert stops_at("val_loss,~<,1", [1, 1, 1, 1.5]) == 4


def test_patience_counts_epochs_without_a_better_value():
    assert stops_at("val_loss,<,2", [3, 2, 1, 1.5, 0.9, 0.9, 0.95, 0.8]) == 7
    assert stops_at("val_acc,>,2", [0.1, 0.2, 0.3, 0.2, 0.1, 0.5]) == 5
    assert stops_at("val_loss,<,3", [1, 1, 1, 1]) == 4
    assert stops_at("val_loss,<,1", [5, 4, 3, 2, 1]) is None


def test_min_delta_is_the_least_change_that_counts():
    values = [1.0, 0.995, 0.99, 0.985]
    assert stops_at("val_loss,<,2", values) is None
    assert stops_at("val_loss,<,2,0.1", values) == 3
    assert stops_at("val_acc,>,2,0.1", [0.5, 0.55, 0.59]) == 3
    assert stops_at("val_acc,>,2,0.1", [0.5, 0.55, 0.61]) is None


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12), st.integers(1, 4), st.sampled_from(["<", "~<"]))
def test_a_loss_and_the_accuracy_against_it_stop_at_the_same_epoch(losses, patience, sign):
    mirrored = sign.replace("<", ">")
    down = stops_at(f"val_loss,{sign},{patience}", losses)
    assert down == stops_at(f"val_acc,{mirrored},{patience}", [-loss for loss in losses])
    assert down is None or down > patience


@pytest.mark.parametrize(
    "text",
    [
        "",
        "val_loss",
        "val_loss,<",
        "val_loss,<,",
        "val_loss,<,0",
        "val_loss,<,-1",
        "val_loss,<,1.5",
        "val_loss,=,4",
        "val_loss,<=,4",
        "val_loss,<~,4",
        "val_loss,<,4,x",
        "val_loss,<,4,-0.1",
        "val_loss,<,4,nan",
        "val_loss,~<,4,0.1",
        "val_loss,<,4,0.1,1",
        "nonsense,<,4",
    ],
)
def test_malformed_early_stopping_is_a_config_error(text):
    with pytest.raises(ConfigError):
        EarlyStopping.parse(text, KNOWN)


@settings(deadline=None)
@given(TEXTS)
def test_any_text_is_a_rule_or_a_config_error(text):
    for rule in (EarlyStopping, Target):
        with contextlib.suppress(ConfigError):
            parsed = rule.parse(text, KNOWN)
            assert parsed.metric in KNOWN
            assert parsed.reached([]) is False


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("val_acc,>,0.97", 0.97, False),
        ("val_acc,>,0.97", 0.971, True),
        ("val_acc,>=,0.97", 0.97, True),
        ("val_loss,<,1e-2", 0.009, True),
        ("val_loss,<=, .5", 0.5, True),
        ("val_loss,<,-1", 0.0, False),
    ],
)
def test_a_target_is_reached_by_the_last_value(text, value, expected):
    target = Target.parse(text, KNOWN)
    assert target.reached([0.5, value]) is expected
    assert target.reached([]) is False


def test_a_target_that_was_passed_and_lost_is_not_reached():
    assert not Target.parse("val_acc,>,0.9", KNOWN).reached([0.95, 0.8])


@pytest.mark.parametrize(
    "text", ["", "val_acc", "val_acc,>", "val_acc,~>,1", "val_acc,>,x", "val_acc,>,nan", "a,>,1"]
)
def test_malformed_targets_are_config_errors(text):
    with pytest.raises(ConfigError):
        Target.parse(text, KNOWN)


def test_reasons_read_as_sentences():
    assert str(EarlyStopping.parse("val_loss,~<,4", KNOWN)).endswith("better for 4 epochs")
    assert str(Target.parse("val_acc,>,0.97", KNOWN)) == "target reached: val_accuracy > 0.97"
