"""From options and a model's file to what is searched and how it is judged."""

import math
from pathlib import Path

import numpy as np
import pytest

from nnlo.cli.optimize_options import OptimizeOptions
from nnlo.cli.search_plan import make_measure, make_plan, make_space
from nnlo.errors import ConfigError
from nnlo.history import History
from nnlo.model import load_builder
from nnlo.optimize.fold_race import FoldRace
from nnlo.optimize.layout import Layout
from nnlo.optimize.pruning import Asha, Median, Never
from nnlo.optimize.trials import Trial

MODEL = """
from skopt.space import Categorical, Integer, Real
def get_model(width=8, depth=2, kind="a", **others):
    return None
def get_loss():
    return "categorical_crossentropy"
"""
RANGE = 'get_model.parameter_range = [Integer(4, 64, name="width"), Integer(1, 3, name="depth")]\n'


def told(tmp_path: Path, *more: str, **options):
    """The options and the builder of a model's file with ``more`` lines."""
    file = tmp_path / "some_model.py"
    file.write_text(MODEL + RANGE + "\n".join(more))
    chosen = OptimizeOptions(model=str(file), **options)
    return chosen, load_builder(file)


def space_of(tmp_path, *more, **options):
    return make_space(*told(tmp_path, *more, **options))


def draw(space, n=50):
    rng = np.random.default_rng(0)
    return [space.sample(rng) for _ in range(n)]


# Spaces ---------------------------------------------------------------------------------------


def test_the_ranges_of_the_model_are_searched(tmp_path):
    space, tuned = space_of(tmp_path)
    assert (space.names, tuned) == (("width", "depth"), ())


def test_options_of_the_training_are_searched_too(tmp_path):
    space, tuned = space_of(tmp_path, tune=("learning_rate=1e-4:1e-1:log", "batch=32,64"))
    assert space.names == ("width", "depth", "learning_rate", "batch")
    assert tuned == ("learning_rate", "batch")


def test_a_range_of_the_command_line_comes_before_that_of_the_model(tmp_path):
    space, tuned = space_of(tmp_path, tune=("width=5:6",))
    assert space.names == ("depth", "width")
    assert {params["width"] for params in draw(space)} == {5, 6}
    assert tuned == ()


def test_a_value_of_the_command_line_is_not_searched(tmp_path):
    assert space_of(tmp_path, param=("width=5",))[0].names == ("depth",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tune": ("wdith=1:2",)}, "got 'wdith'"),
        ({"tune": ("epochs=1:2",)}, "--tune must name an option .*batch.* or an argument"),
        ({"tune": ("width=1:2",), "param": ("width=1",)}, "--param or --tune, got both"),
        ({"tune": ("batch=8,16",), "batch": 32}, "batch must be given by --batch or --tune"),
        ({"tune": ("width=1:2", "width=3:4")}, "searched once, got width twice"),
        ({"tune": ("width",)}, "must read name=low:high"),
        ({"tune": ("width=2:1",)}, "width"),
        ({"tune": ("batch=1.5:2.5",)}, "--tune batch must be of int, got 1.5"),
        ({"tune": ("learning_rate=a,b",)}, "--tune learning_rate must be of float, got 'a'"),
        ({"tune": ("synchronous=1,0",)}, "--tune synchronous must be of bool, got 1"),
        ({"tune": ("mode=easgd,magic",)}, "--tune mode must be of .*gem.*, got 'magic'"),
        ({"tune": ("batch=0:8",)}, "--batch must be at least 1"),
        ({"tune": ("quorum=0.5:0.9",)}, "--quorum must go with --synchronous"),
        ({"tune": ("gem_kappa=1.0:4.0",)}, "must go together"),
    ],
)
def test_a_range_that_makes_no_sense_is_told(tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        space_of(tmp_path, **options)


@pytest.mark.parametrize(
    ("tune", "values"),
    [
        ("worker_optimizer=none,adam", {"none", "adam"}),
        ("synchronous=true,false", {True, False}),
        ("clip_norm=none,0.5,2", {None, 0.5, 2}),
        ("learning_rate=0.1,1", {0.1, 1}),
        ("mode=downpour,easgd", {"downpour", "easgd"}),
    ],
)
def test_options_are_tuned_by_the_words_that_they_take(tmp_path, tune, values):
    space, (name,) = space_of(tmp_path, tune=(tune,))
    assert {params[name] for params in draw(space)} == values


def test_a_model_without_any_range_cannot_be_searched(tmp_path):
    with pytest.raises(ConfigError, match=r"at least one parameter.*--tune"):
        space_of(tmp_path, "del get_model.parameter_range")


def test_a_model_whose_ranges_are_all_fixed_cannot_be_searched(tmp_path):
    with pytest.raises(ConfigError, match="at least one parameter"):
        space_of(tmp_path, param=("width=4", "depth=1"))


def test_repair_knows_the_parameters_that_are_fixed(tmp_path):
    repair = """
def repair(params):
    assert params["depth"] == 2
    params["width"] = params["width"] // 2 * params["depth"]
    return params
"""
    space, _ = space_of(tmp_path, repair, param=("depth=2",))
    assert space.names == ("width",)
    assert all(params["width"] % 2 == 0 for params in draw(space))


def test_what_repair_rejects_is_not_tried(tmp_path):
    repair = "def repair(params):\n    return params if params['width'] > 30 else None"
    space, _ = space_of(tmp_path, repair)
    assert min(params["width"] for params in draw(space)) > 30


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("params['none']", "repair.* must return parameters or None, got KeyError"),
        ("{'width': 5}", "exactly width, depth"),
        ("params | {'width': 1}", "width must be in the range"),
        ("3", "repair.* must return parameters or None, got TypeError"),
        ("None", "let some parameters pass"),
    ],
)
@pytest.mark.parametrize("param", [(), ("kind=b",)])
def test_a_repair_that_makes_no_sense_is_told(tmp_path, answer, said, param):
    with pytest.raises(ConfigError, match=said):
        space_of(tmp_path, f"def repair(params):\n    return {answer}", param=param)


# Merits ---------------------------------------------------------------------------------------


class Adapter:
    """As much of a model as a merit asks for."""

    class manifest:
        n_trainable = 1234


EPOCHS = [
    {"epoch": 1, "loss": 3.0, "val_loss": 2.0, "val_accuracy": 0.9, "time_s": 8.0},
    {"epoch": 2, "loss": 1.0, "val_loss": 4.0, "val_accuracy": 0.5, "time_s": 7.0},
]


def judged(tmp_path, *more, has_val=True, **options):
    """The merits of two epochs, and their names."""
    measure, names = make_measure(*told(tmp_path, *more, **options), has_val=has_val)
    return measure(History(epochs=EPOCHS), Adapter()), names


@pytest.mark.parametrize(
    ("options", "merits", "names"),
    [
        ({}, (pytest.approx(0.1),), ("1-val_accuracy",)),
        ({"has_val": False}, (1.0,), ("loss",)),
        ({"has_val": False, "n_fold": 2}, (pytest.approx(0.1),), ("1-val_accuracy",)),
        ({"loss": "mse"}, (2.0,), ("val_loss",)),
        ({"merit": "1-val_acc"}, (pytest.approx(0.1),), ("1-val_acc",)),
        ({"merit": "val_acc:max"}, (-0.9,), ("val_acc:max",)),
        ({"merit": "val_loss", "merit_epoch": "last"}, (4.0,), ("val_loss",)),
        ({"merit": "val_loss, n_weights,time_s"}, (2.0, 1234, 8.0), None),
        ({"merit": "n_weights"}, (1234,), None),
    ],
)
def test_what_a_training_is_judged_by(tmp_path, options, merits, names):
    found = judged(tmp_path, **options)
    assert found[0] == merits
    assert names is None or found[1] == names


def test_the_model_may_judge_by_itself(tmp_path):
    own = "def figure_of_merit(history):\n    return history.epochs[-1]['loss'] * 2"
    assert judged(tmp_path, own) == ((2.0,), ("figure_of_merit",))
    assert judged(tmp_path, own, merit="val_loss") == ((2.0,), ("val_loss",))


@pytest.mark.parametrize(
    "options",
    [
        {"merit": "val_auc"},
        {"merit": "val_loss,val_auc"},
        {"best_metric": "val_auc"},
        {"early_stopping": "val_auc,<,4"},
        {"target_metric": "val_auc,>,0.9"},
    ],
)
def test_a_metric_that_is_not_there_is_told_before_the_search_begins(tmp_path, options):
    known = "loss, accuracy, val_loss, val_accuracy"
    with pytest.raises(ConfigError, match=f"must be one of {known}, got 'val_auc'"):
        make_measure(*told(tmp_path, **options), has_val=True)


def test_without_validation_data_there_is_no_metric_of_it(tmp_path):
    with pytest.raises(ConfigError, match="no validation data"):
        make_measure(*told(tmp_path, merit="val_loss"), has_val=False)


@pytest.mark.parametrize(
    "options",
    [
        {"merit": "1-val_acc", "early_stopping": "val_acc,>,4"},
        {"merit": "1-val_accuracy_2", "target_metric": "accuracy_1,>,0.9"},
        {"merit": "val_top_k:max", "metrics": ("top_k",), "best_metric": "val_top_k"},
        {"merit": "time_s,n_weights,samples_per_s:max"},
        {"merit": "val_nll", "early_stopping": "val_nll,~<,4", "best_metric": "val_kl"},
    ],
)
def test_metrics_are_known_by_all_their_names(tmp_path, options):
    make_measure(*told(tmp_path, **options), has_val=True)


def test_what_a_model_measures_by_itself_is_not_known_before(tmp_path):
    no_loss = "def get_loss():\n    return None"
    measure, _ = make_measure(*told(tmp_path, no_loss, merit="val_g/loss"), has_val=True)
    with pytest.raises(ConfigError, match="got 'val_g/loss'"):
        measure(History(epochs=EPOCHS), Adapter())


@pytest.mark.parametrize("merit", ["val_loss,val_loss", "", ",", "1-loss:max"])
def test_merits_that_make_no_sense_are_told(tmp_path, merit):
    with pytest.raises(ConfigError, match="merit"):
        judged(tmp_path, merit=merit)


@pytest.mark.parametrize("merit", ["val_accuracy", "val_loss,val_acc"])
def test_a_merit_of_which_more_is_better_must_say_its_way(tmp_path, merit):
    with pytest.raises(ConfigError, match="smaller where it is better, got val_acc"):
        make_measure(*told(tmp_path, merit=merit), has_val=True)
    make_measure(*told(tmp_path, merit=merit + ":min"), has_val=True)


def test_a_name_of_an_option_and_of_an_argument_is_not_guessed(tmp_path):
    more = "def get_model(batch=3):\n    pass"
    with pytest.raises(ConfigError, match=r"got batch, an option .* and an argument"):
        space_of(tmp_path, more, tune=("batch=1:4",))


def test_a_search_is_another_one_with_another_training(tmp_path):
    header = planned(tmp_path, batch=7, metrics=("accuracy", "top_k")).header
    assert header["training"] == {"batch": 7, "metrics": ("accuracy", "top_k")}
    assert header["code"]


# The whole plan -------------------------------------------------------------------------------


def planned(tmp_path, n_ranks=1, block_size=1, **options):
    chosen, builder = told(tmp_path, **options)
    layout = Layout(n_ranks, block_size, chosen.n_fold)
    about = {"layout": layout, "restores": False, "begin": lambda: None}
    space, _ = make_space(chosen, builder)
    return make_plan(chosen, builder, space, ("val_loss",), hear=lambda *_: None, **about)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Never(10)),
        ({"pruning": "asha"}, Asha(10)),
        ({"pruning": "asha-stop", "epochs": 27}, Asha(27, pauses=False)),
        ({"pruning": "median"}, Median(10)),
        ({"n_fold": 3}, FoldRace(3)),
        ({"n_fold": 3, "pruning": "median"}, Median(3)),
        ({"n_fold": 2, "n_ranks": 5, "block_size": 4}, Never(10)),
        ({"n_fold": 2, "n_ranks": 5, "block_size": 4, "pruning": "asha"}, Asha(10)),
    ],
)
def test_where_folds_run_one_after_another_they_are_counted(tmp_path, options, expected):
    assert planned(tmp_path, **options).pruner == expected


def test_limits_are_those_of_the_options(tmp_path):
    limits = planned(
        tmp_path, target_objective=0.0, search_time=9.0, trial_time=4.0, max_failures=2
    ).limits
    assert (limits.n_trials, limits.target, limits.deadline) == (10, 0.0, 9.0)
    assert (limits.trial_s, limits.max_failures) == (4.0, 2)
    free = planned(tmp_path).limits
    assert free.target is free.max_failures is None
    assert free.deadline == free.trial_s == math.inf


def test_a_generation_is_as_long_as_the_searcher_takes_it(tmp_path):
    plan = planned(tmp_path, hyper_opt="genetic", num_iterations=3)
    assert plan.limits.n_trials == 3 * plan.searcher.population


def test_a_population_of_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least 2, got 1"):
        planned(tmp_path, hyper_opt="genetic", ga_populations=1)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"epochs": 3}, "epochs"),
        ({"n_fold": 2}, "folds"),
        ({"pruning": "median"}, "pruning"),
        ({"hyper_opt": "random"}, "searcher"),
        ({"tune": ("width=1:2",)}, "space"),
    ],
)
def test_the_header_tells_searches_apart(tmp_path, changes, name):
    assert planned(tmp_path, **changes).header[name] != planned(tmp_path).header[name]


@pytest.mark.parametrize(
    ("options", "epochs"),
    [({}, 2), ({"merit": "loss", "merit_epoch": "last"}, 10), ({"n_fold": 2}, 10)],
)
def test_the_best_is_trained_once_more_for_as_long_as_it_was_best(tmp_path, options, epochs):
    trial = Trial(0, {}, curve={1: 0.5, 2: 0.25, 3: 0.25, 4: 0.75})
    assert planned(tmp_path, refit=True, **options).refit_epochs(trial) == epochs
    assert planned(tmp_path, **options).refit_epochs is None


def test_plots_need_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setattr("nnlo.cli.search_plan.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"nnlo\[plots\]"):
        planned(tmp_path, plots=True)
