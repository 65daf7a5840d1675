"""What OptimizationDriver can be told, and what makes no sense."""

import pytest

from nnlo.cli.optimize_options import EXAMPLES, OptimizeOptions, tunable
from nnlo.cli.options import make_parser, parse
from nnlo.errors import ConfigError
from nnlo.model import zoo_names
from nnlo.optimize.searcher import SEARCHERS


def given(**changes):
    return OptimizeOptions(model="digits", **changes)


def test_a_model_alone_is_a_search():
    options = given()
    assert (options.n_trials, options.hyper_opt, options.block_size) == (10, "bayesian", 1)
    assert options.population is None


@pytest.mark.parametrize(
    ("changes", "n_trials", "population"),
    [
        ({"num_iterations": 7}, 7, None),
        ({"hyper_opt": "genetic", "num_iterations": 7}, 70, 10),
        ({"hyper_opt": "genetic", "num_iterations": 3, "ga_populations": 4}, 12, 4),
    ],
)
def test_a_genetic_search_counts_generations(changes, n_trials, population):
    options = given(**changes)
    assert (options.n_trials, options.population) == (n_trials, population)


@pytest.mark.parametrize(("name", "model"), EXAMPLES.items())
def test_an_example_is_a_model_of_the_zoo(name, model):
    assert OptimizeOptions(example=name).model == model
    assert model in {*zoo_names(), "topclass"}


def test_an_example_and_a_model_contradict_each_other():
    with pytest.raises(ConfigError, match="named once, got --model digits and --example mnist"):
        given(example="mnist")


def test_a_model_must_be_named():
    with pytest.raises(ConfigError, match="a model must be named"):
        OptimizeOptions()


COUNTS = ("num_iterations", "ga_populations", "block_size", "n_fold", "max_failures")


@pytest.mark.parametrize("name", [*COUNTS, "keep_models"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_are_at_least_one(name, value):
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}"):
        given(**{name: value})


@pytest.mark.parametrize("name", ["trial_time", "trial_memory", "search_time"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_limits_are_above_nought(name, value):
    with pytest.raises(ConfigError, match="must be above 0"):
        given(**{name: value})


def test_nothing_is_asked_a_negative_number_of_trials_ahead():
    with pytest.raises(ConfigError, match="--ask-ahead must not be negative"):
        given(ask_ahead=-1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"restore": "CP"}, "--restore must not be given here.*--opt-restore"),
        ({"timeline": True}, "--timeline .* TrainingDriver"),
        ({"spares": 1}, "--spares .* another block"),
        ({"ga_populations": 5}, "--ga-populations .* --hyper-opt genetic"),
        ({"fold_by": "files"}, "--fold-by .* --n-fold"),
        ({"merit_epoch": "last"}, "--merit-epoch .* --merit"),
        ({"validate_every": 2, "pruning": "asha"}, "--validate-every .* each epoch"),
        ({"checkpoint": "a/CP"}, "--checkpoint .* without a slash"),
        ({"checkpoint": "/CP"}, "--checkpoint .* without a slash"),
        ({"checkpoint": ""}, "--checkpoint .* without a slash"),
        ({"checkpoint_interval": 3}, "--checkpoint-interval must go with --checkpoint"),
        ({"quorum": 0.5}, "--quorum must go with --synchronous"),
    ],
)
def test_what_has_no_effect_or_no_sense_is_an_error(changes, said):
    with pytest.raises(ConfigError, match=said):
        given(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"validate_every": 2},
        {"fold_by": "files", "n_fold": 2},
        {"merit_epoch": "last", "merit": "val_loss"},
        {"checkpoint": "CP", "checkpoint_interval": 3, "pruning": "asha"},
    ],
)
def test_what_goes_together_is_taken(changes):
    options = given(**changes)
    assert all(getattr(options, name) == value for name, value in changes.items())


def test_options_of_the_training_are_tunable_but_not_its_length_or_seed():
    names = tunable()
    assert {"batch", "learning_rate", "sync_every", "mode", "optimizer"} <= set(names)
    assert {"epochs", "seed", "output", "checkpoint", "validate_every"}.isdisjoint(names)


def test_every_option_has_a_help_text_that_tells_its_default(capsys):
    text = make_parser("OptimizationDriver", OptimizeOptions, "").format_help()
    assert all(f"--{name}" in text for name in ("hyper-opt", "tune", "block-size", "opt-restore"))
    assert all(name in text for name in SEARCHERS)


def test_a_command_line_of_the_older_package_is_understood():
    line = "--model digits --block-size 3 --epochs 5 --num-iterations 10 --hyper-opt genetic"
    line += " --n-fold 2 --ga-populations 4 --target_objective 0.1 --opt-restore"
    options = parse("OptimizationDriver", OptimizeOptions, "", line.split())
    assert (options.block_size, options.n_fold, options.n_trials) == (3, 2, 40)
    assert (options.target_objective, options.opt_restore) == (0.1, True)


@pytest.mark.parametrize("line", ["--hyper-opt magic", "--example none", "--pruning hard"])
def test_unknown_choices_are_refused_with_the_known_ones(line, capsys):
    with pytest.raises(SystemExit) as end:
        parse("OptimizationDriver", OptimizeOptions, "", ["--model", "digits", *line.split()])
    assert end.value.code == 2
    assert "choose from" in capsys.readouterr().err


def test_an_example_is_said_once_in_the_config_file_of_a_search():
    options = OptimizeOptions(example="mnist")
    assert OptimizeOptions(model=options.model, example=options.example) == options


def test_ranges_may_be_spelled_like_options():
    assert given(tune=("sync-every=1:16",)).tune == ("sync_every=1:16",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"callbacks": ("csv_logger:filename=a.csv",)}, "csv_logger .* the same file"),
        ({"callbacks": ("early_stopping:patience=3",), "pruning": "asha"}, "after each pause"),
    ],
)
def test_callbacks_that_go_wrong_in_a_search_are_refused(changes, reason):
    with pytest.raises(ConfigError, match=reason):
        given(**changes)
